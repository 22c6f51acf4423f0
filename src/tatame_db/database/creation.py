"""Databases that are created on a server, outside any transaction."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from tatame_db.database.driver import driver_connection
from tatame_db.database.errors import ConnectionRefused, DatabaseMissing, DatabaseNotCreated
from tatame_db.database.pool import Database

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from sqlalchemy import URL


def create_missing_database(address: URL) -> bool:
    """Create the database of an address unless it exists; return whether it was created.

    Its time zone is UTC for every client. Committed at once. Raises `DatabaseNotCreated` and `DatabaseUnavailable`.
    """
    try:
        with Database(address) as database:
            database.ping()
    except (DatabaseMissing, ConnectionRefused):
        with maintenance(address) as connection:
            # A server may report a missing database in any language, so its catalogue decides.
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [address.database]).fetchone():
                # Another `up` may create it between the question and the statement.
                with contextlib.suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                    create_database(connection, address)
                return True
        # Or it did so before the question.
        with Database(address) as database:
            database.ping()
    return False


@contextlib.contextmanager
def maintenance(address: URL) -> Generator[psycopg.Connection[tuple[Any, ...]]]:
    """Connect to the `postgres` database of a server in autocommit, as CREATE and DROP DATABASE require it."""
    with (
        Database(address.set(database="postgres")) as database,
        database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
    ):
        yield driver_connection(connection)


def create_database(
    connection: psycopg.Connection[tuple[Any, ...]],
    address: URL,
    *,
    template: str = "template1",
    file_copy: bool = False,
) -> None:
    """Create the database of an address as a copy of a template, with UTC as the time zone of every client.

    The connection must be in autocommit, as that of `maintenance` is, and no session may be connected to the template.
    `file_copy` copies the template's files: faster in memory, slower on a disk, where it waits for two checkpoints of
    the whole server.

    Raises `DatabaseNotCreated` if the user lacks the right, and psycopg's errors otherwise.
    """
    name = sql.Identifier(str(address.database))
    strategy = sql.SQL(" STRATEGY FILE_COPY" if file_copy else "")
    try:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}{}").format(name, sql.Identifier(template), strategy))
    except psycopg.errors.InsufficientPrivilege as error:
        raise DatabaseNotCreated(address=address, reason=str(error.diag.message_primary)) from error
    connection.execute(sql.SQL("ALTER DATABASE {} SET timezone TO 'UTC'").format(name))
