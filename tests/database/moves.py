"""What the tests of the move share: reading and changing databases beside it, and a copy as a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from sqlalchemy import URL, Engine

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.evolve import catalogue
from tatame_db.move.connection import MoveConnection
from tatame_db.move.open import open_source_for_writing
from tatame_db.move.switch import fence
from tatame_db.move.switch.token import make_token, token_hash
from tatame_db.schema import phases

Row = tuple[Any, ...]
Copy = Callable[..., move.Report]


class Killed(BaseException):
    """A failure at a moment that the test chooses."""


def change(address: URL, *statements: str) -> None:
    """Run statements, and commit each."""
    with psycopg.connect(readable(address), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def ask(address: URL, query: str) -> list[Row]:
    """Return the rows of a query."""
    with psycopg.connect(readable(address), autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


def contents(address: URL) -> dict[str, list[Row]]:
    """Return all rows of each table as text, sorted."""
    return {table: sorted(ask(address, f'SELECT t::text FROM public."{table}" AS t')) for table in phases()}


def schema(engine: Engine) -> catalogue.Catalogue:
    """Describe everything in the schema of a database."""
    with engine.connect() as connection:
        return catalogue.read(connection)


def copy_into(source: URL, engine: Engine, **always: Any) -> Copy:
    """Return a function that copies these tables, or all, with these options and those that are always passed."""

    def copy(*tables: str, **options: Any) -> move.Report:
        with move.open_for_writing(source, engine, lambda: None) as connections:
            return move.copy(connections, tables, **always, **options)

    return copy


def close_source(source: URL, engine: Engine) -> str:
    """Make the target the home of all tables: the source refuses other writers. Return the token."""
    with psycopg.connect(readable(engine.url)) as driver:
        token = make_token(MoveConnection("target", engine.url, driver))
    with open_source_for_writing(source) as opened:
        opened.pin_settings(for_transaction=True)
        fence.close(opened, list(phases()), token_hash(token))
        opened.driver.commit()
    return token


def set_fences(connections: move.Connections, table: str, *, source: str, target: str) -> None:
    """Leave the fences of a table as a switch or a way back does."""
    hashed = token_hash(make_token(connections.target))
    changes = {"closed": fence.close, "opened": fence.open_}
    for connection, state in ((connections.source, source), (connections.target, target)):
        if state in changes:
            connection.driver.rollback()
            connection.pin_settings(for_transaction=True)
            changes[state](connection, [table], hashed)
            connection.driver.commit()
