"""Connections that lie idle in a pool are closed after a while.

The pool does this itself, although PostgreSQL has `idle_session_timeout`: the server cannot tell a connection in the
pool from one that a program holds for LISTEN or for an advisory lock, and would end that one too. To switch the setting
at each checkout and return would take two round trips.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakSet

from sqlalchemy.exc import DisconnectionError

from tatame_db.database.driver import driver_connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.pool import ConnectionPoolEntry

IDLE_TIMEOUT_SECONDS = 30

_MARK = "was_idle"


class IdleConnections:
    """The idle connections of a pool, the longest idle first.

    A thread closes them, which lives only while there are some. A connection leaves the dictionary in one step, for its
    next user or for the thread, so that they never both have it.
    """

    def __init__(self) -> None:
        self._since: dict[ConnectionPoolEntry, float] = {}
        self.close_kept: Callable[[float], float | None] = lambda _: None
        """Closes the connections that queries keep, which are idle too, as `close_expired` does."""
        self.is_asleep = True
        """Whether nothing closes connections yet, so that `start` is needed."""
        self._closer: threading.Thread | None = None
        self._ended = threading.Event()
        _all.add(self)

    def __len__(self) -> int:
        return len(self._since)

    def add(self, entry: ConnectionPoolEntry) -> None:
        """Note that a connection went back to the pool."""
        entry.info[_MARK] = True
        self._since[entry] = time.monotonic()
        if self.is_asleep:
            self.start()

    def take(self, entry: ConnectionPoolEntry) -> None:
        """Note that a connection leaves the pool.

        Raises `DisconnectionError`, after which the pool reconnects, if the connection was closed.
        """
        # A new connection was not idle before.
        if entry.info.pop(_MARK, False) and self._since.pop(entry, None) is None:
            raise DisconnectionError("the connection was idle for too long")

    def forget(self) -> None:
        """Note that the pool was emptied."""
        self._since.clear()
        self._ended.set()
        # The thread may be one of the parent process.
        self.is_asleep = True

    def close_expired(self) -> float | None:
        """Close the connections that were idle for too long; return after how many seconds to look again."""
        pauses = (self._close_pooled(), self.close_kept(IDLE_TIMEOUT_SECONDS))
        return min((pause for pause in pauses if pause is not None), default=None)

    def _close_pooled(self) -> float | None:
        for entry, since in list(self._since.items()):
            pause = since + IDLE_TIMEOUT_SECONDS - time.monotonic()
            if pause > 0:
                return pause
            if self._since.pop(entry, None) is not None:
                # The pool still holds it, and finds out in `take`. To close it through the pool would race with a
                # checkout that has just looked whether it is open.
                driver_connection(entry).pgconn.finish()
        return None

    def stop(self) -> None:
        """End the thread, until the next connection comes back."""
        closer = self._closer
        if closer is not None and closer is not threading.current_thread():
            self._ended.set()
            # While Python ends, other threads no longer run, and it would be waited for without end.
            if not sys.is_finalizing():
                # Another thread may just be starting it. Then it ends by itself.
                with suppress(RuntimeError):
                    closer.join()

    def start(self) -> None:
        """Look after the connections until none is idle."""
        # While Python ends, a new thread never runs, and its start is waited for without end.
        if sys.is_finalizing():
            return
        self.is_asleep = False
        self._ended = threading.Event()
        self._closer = closer = threading.Thread(
            target=self._run, args=(self._ended,), name="tatame-db idle connections", daemon=True
        )
        try:
            closer.start()
        except RuntimeError:
            # The system allows no further thread, or Python ends. The connection is fine: the next one tries again.
            self._closer, self.is_asleep = None, True

    def _run(self, ended: threading.Event) -> None:
        while (pause := self.close_expired()) is not None and not ended.wait(pause):
            pass
        # A connection that comes back now is either seen here, or starts a thread itself.
        self.is_asleep = True
        if self.close_expired() is not None and not ended.is_set():
            self.start()


class AsyncIdleConnections(IdleConnections):
    """The same for asyncio, with a timer of the event loop instead of a thread."""

    _loop: asyncio.AbstractEventLoop | None = None

    def add(self, entry: ConnectionPoolEntry) -> None:
        """Note that a connection went back to the pool."""
        super().add(entry)
        if self._loop is not None and self._loop.is_closed():
            self.start()

    def start(self) -> None:
        """Look after the connections until none is idle, or the event loop ends."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # The garbage collector returned the connection, outside a loop.
            return
        self._loop, self.is_asleep = loop, False
        loop.call_later(IDLE_TIMEOUT_SECONDS, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            return
        pause = self.close_expired()
        if pause is None:
            self.stop()
        else:
            loop.call_later(pause, self._look, loop)

    def stop(self) -> None:
        """Forget the timer."""
        self._loop, self.is_asleep = None, True


_all: WeakSet[IdleConnections] = WeakSet()


def _stop_all() -> None:
    for connections in list(_all):
        connections.stop()


# Python 3.12 and newer warn of a fork while there are threads, because a child may inherit the locks that they hold.
os.register_at_fork(before=_stop_all)
