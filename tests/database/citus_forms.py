"""Statements in the form for Citus, on a server without it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from tatame_db.database.citus import know, knows_citus
from tatame_db.database.pool import Database


@contextmanager
def as_on_citus(database: Database) -> Generator[None]:
    """Send a database the form of each statement that Citus gets; PostgreSQL returns the same rows."""
    database.ping()
    know(database.engine, has_citus=True)
    try:
        yield
    finally:
        assert knows_citus(database.engine.dialect), "a new connection has found out"
        know(database.engine, has_citus=False)
