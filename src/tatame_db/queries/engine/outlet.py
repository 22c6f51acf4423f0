"""The sending end of a connection: what is queued in one turn of the event loop leaves in one go."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from psycopg.pq.abc import PGconn


class Outlet:
    """Flushes what libpq has queued, and waits while the server reads more slowly than we send."""

    def __init__(self, pgconn: PGconn, loop: asyncio.AbstractEventLoop, read: Callable[[], None]) -> None:
        self._pgconn = pgconn
        self._loop = loop
        self._read = read
        # libpq closes the socket when it sees the end of the connection, and then no longer tells its number.
        self.fd = pgconn.socket
        self.is_closed = False
        self._is_scheduled = False
        self._is_blocked = False

    def flush_now(self) -> None:
        """Flush at once: nothing else is in flight that could leave with it, and a turn of the event loop is saved."""
        if not self._is_scheduled:
            try:
                blocked = self._pgconn.flush()
            except psycopg.Error:
                blocked = 1
            if blocked:
                self.flush_soon()

    def flush_soon(self) -> None:
        """Flush at the end of this turn of the event loop."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_scheduled = False
        if self.is_closed:
            return
        try:
            blocked = bool(self._pgconn.flush())
        except psycopg.Error:
            # The reason is what the server sent before it closed the connection.
            self._read()
            return
        if blocked != self._is_blocked:
            self._is_blocked = blocked
            if blocked:
                self._loop.add_writer(self.fd, self._flush)
            else:
                self._loop.remove_writer(self.fd)

    def close(self) -> None:
        """Stop watching the socket: its number may soon be that of another one."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._loop.is_closed():
            return
        self._loop.remove_reader(self.fd)
        if self._is_blocked:
            self._loop.remove_writer(self.fd)
