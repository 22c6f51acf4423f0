"""Connections and `fork`: a child process leaves those of its parent alone, and opens its own.

Both would read the same socket, and each could receive the answers of the other: `gunicorn --preload` forks so.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import psycopg
from sqlalchemy import event

from tatame_db.database.driver import driver_connection, leave_to_parent

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.pool import ConnectionPoolEntry

_engines: WeakSet[Engine] = WeakSet()
_connections: WeakSet[psycopg.Connection[Any] | psycopg.AsyncConnection[Any]] = WeakSet()


def survive_fork(engine: Engine) -> None:
    """In a child process, replace the pool of an engine, and detach all its connections from their sockets.

    A session that is open while the process forks fails in the child, and goes on in the parent.
    """
    _engines.add(engine)
    event.listen(engine, "connect", _remember)


def _remember(_: object, entry: ConnectionPoolEntry) -> None:
    _connections.add(driver_connection(entry))


def _leave_all_to_parent() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for connection in list(_connections):
        with suppress(psycopg.Error, OSError):
            leave_to_parent(connection, nowhere)
    _connections.clear()
    os.close(nowhere)
    for engine in list(_engines):
        # A new pool has new locks too: a thread of the parent may have held one.
        engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)
