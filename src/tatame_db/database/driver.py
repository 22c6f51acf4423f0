"""psycopg's own connection, below SQLAlchemy's."""

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg.types.datetime import IntervalBinaryLoader, IntervalLoader
from sqlalchemy import Connection

if TYPE_CHECKING:
    from datetime import timedelta

    from psycopg.abc import Buffer
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ManagesConnection


def driver_connection(connection: Connection | ManagesConnection) -> psycopg.Connection[tuple[Any, ...]]:
    """Return the connection of psycopg on which a synchronous connection of SQLAlchemy works."""
    managed = connection.connection if isinstance(connection, Connection) else connection
    return cast("psycopg.Connection[tuple[Any, ...]]", managed.driver_connection)


def async_driver_connection(connection: ManagesConnection) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    """Return the connection of psycopg below an async one: `await connection.get_raw_connection()` is the argument."""
    return cast("psycopg.AsyncConnection[tuple[Any, ...]]", connection.driver_connection)


class CheckedIntervalLoader(IntervalLoader):
    """psycopg's loader in Python, because the one in C turns 10 million years into minus 1.7 million.

    Both turn `infinity` into 0.
    """

    def load(self, data: Buffer) -> timedelta:
        """Return the interval; raises `psycopg.DataError` if it is infinite or too long."""
        if b"infinity" in bytes(data):
            raise psycopg.DataError("an infinite interval has no value in Python")
        return super().load(data)


class CheckedIntervalBinaryLoader(IntervalBinaryLoader):
    """The same for the binary form."""


def close_async(connection: DBAPIConnection) -> None:
    """Close the async connection below one of SQLAlchemy's at once, in a greenlet or not."""
    closing = connection._connection.close()
    # psycopg declares it async, but waits for nothing.
    with suppress(StopIteration):
        closing.send(None)


def check_intervals(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Let a connection refuse intervals that Python cannot represent, with `psycopg.DataError`."""
    connection.adapters.register_loader("interval", CheckedIntervalLoader)
    connection.adapters.register_loader("interval", CheckedIntervalBinaryLoader)


def is_gone(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Return whether the server ended an idle connection.

    It takes no round trip: on an idle connection only the server's farewell can be waiting to be read.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def leave_to_parent(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], nowhere: int) -> None:
    """Close a connection of the parent process in its child; `nowhere` is a descriptor of the null device.

    libpq would say goodbye to the server, on the socket that the parent still uses. So its descriptor leads to the null
    device first.
    """
    os.dup2(nowhere, connection.fileno(), inheritable=False)
    connection.pgconn.finish()
