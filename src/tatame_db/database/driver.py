"""psycopg's own connection, below SQLAlchemy's."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Connection

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy.pool import ManagesConnection


def driver_connection(connection: Connection | ManagesConnection) -> psycopg.Connection[tuple[Any, ...]]:
    """Return the connection of psycopg on which a synchronous connection of SQLAlchemy works."""
    managed = connection.connection if isinstance(connection, Connection) else connection
    return cast("psycopg.Connection[tuple[Any, ...]]", managed.driver_connection)


def async_driver_connection(connection: ManagesConnection) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    """Return the connection of psycopg below an async one: `await connection.get_raw_connection()` is the argument."""
    return cast("psycopg.AsyncConnection[tuple[Any, ...]]", connection.driver_connection)


def is_gone(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Return whether the server ended an idle connection.

    It takes no round trip: on an idle connection only the server's farewell can be waiting to be read.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
