"""A new connection has to be ready within a time limit.

libpq limits the login. Then SQLAlchemy and this package run a few statements, and a server or pooler that is silent
from then on would hold up a caller forever: neither psycopg nor asyncio limits the wait for an answer.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tatame_db.database.errors import ConnectionRefused, DatabaseUnavailable, PoolerBusy

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import URL

    AnyConnection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


class Watch:
    """Ends a connection from which an answer takes too long, from a thread.

    It serves both faces: whoever waits for the socket sees its end.
    """

    def __init__(self, connection: AnyConnection, seconds: float) -> None:
        self.seconds = seconds
        """0 means without a limit."""
        self.has_expired = False
        self._is_pooled = False
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._until = time.monotonic() + seconds
        self._timer = threading.Timer(seconds, self._expire)
        # While Python ends, a new thread never runs, and its start is waited for without end.
        if seconds and not sys.is_finalizing():
            # With a descriptor of its own: once the connection is closed, another socket may have its number.
            self._socket = socket.socket(fileno=os.dup(connection.fileno()))
            self._timer.daemon = True
            self._timer.start()

    def _expire(self) -> None:
        with self._lock:
            if self._socket is None:
                return
            left = self._until - time.monotonic()
            if left > 0:
                self._timer = threading.Timer(left, self._expire)
                self._timer.daemon = True
                self._timer.start()
                return
            self.has_expired = True
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Stop watching: the answer is there, or given up."""
        with self._lock:
            self._timer.cancel()
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def error(self, address: URL, variable: str) -> DatabaseUnavailable | None:
        """Return the error of a connection that took too long."""
        if not self.has_expired:
            return None
        reason = f"it accepts connections, and answered nothing within {self.seconds:.3g} seconds"
        return (PoolerBusy if self._is_pooled else ConnectionRefused)(address=address, variable=variable, reason=reason)


class Setup(Watch):
    """The time for each answer from the login on a new connection until it is ready; a caller may limit it as a whole.

    A far server needs several seconds for about 15 round trips, and is not silent.
    """

    def __init__(self, connection: AnyConnection, pool_timeout_seconds: float, *, is_pooled: bool) -> None:
        parameters = connection.info.get_parameters()
        # Each PostgreSQL of a supported version reports it, and PgBouncer once it has reached one. A pooler accepts
        # clients for which it has no session of the server, and lets their first statement wait, as a pool does.
        is_pooled = is_pooled or not connection.info.parameter_status("in_hot_standby")
        # 0 means without a limit.
        limit = float(parameters.get("connect_timeout") or 0)
        limit = max(limit, pool_timeout_seconds) if is_pooled else limit
        self._end = math.inf
        if (caller := patience.get()) is not None:
            limit = min(limit or caller.left, caller.left)
            self._end = caller.until
        super().__init__(connection, limit)
        self._is_pooled = is_pooled

    def heard(self) -> None:
        """Note that the server has answered."""
        self._until = min(time.monotonic() + self.seconds, self._end)


@dataclass(frozen=True)
class Patience:
    """How long a caller waits at most for a server that may be silent: for a connection and for an answer."""

    seconds: float
    hosts: int
    """Each host of an address has its share of the time for a connection."""
    until: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "until", time.monotonic() + self.seconds)

    @property
    def left(self) -> float:
        """The seconds that are left; never 0, which is no limit."""
        return max(self.until - time.monotonic(), 0.001)

    @property
    def of_host(self) -> float:
        """The seconds for the next host."""
        return min(self.seconds / self.hosts, self.left)


patience: ContextVar[Patience | None] = ContextVar("patience", default=None)
"""That of the running call, if it is limited."""

_setup: ContextVar[Setup | None] = ContextVar("setup", default=None)
"""The connection that the running call has opened and that is not ready yet."""


def begin_setup(connection: AnyConnection, pool_timeout_seconds: float, *, is_pooled: bool) -> None:
    """Watch a connection that this call has opened, in place of the one before: that would be shut down while used."""
    end_setup()
    _setup.set(Setup(connection, pool_timeout_seconds, is_pooled=is_pooled))


def heard_in_setup() -> None:
    """Note that the server has answered on the connection that this call opened, if it is not ready yet."""
    if (watch := _setup.get()) is not None:
        watch.heard()


def end_setup() -> Setup | None:
    """Stop watching the connection that this call opened, and return what watched it."""
    ended = _setup.get()
    if ended is not None:
        ended.end()
        _setup.set(None)
    return ended


def setup_has_expired() -> bool:
    """Return whether the connection that this call opened took too long."""
    watch = _setup.get()
    return watch is not None and watch.has_expired
