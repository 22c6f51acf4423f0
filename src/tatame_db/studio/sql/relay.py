"""A relay between libpq and the server, which ends the connection before a value fills the memory of the studio.

libpq keeps each message of the server in memory as a whole, and one value can have a gigabyte. Nothing in libpq limits
that, so the relay counts the bytes that libpq got since it returned the last row, notice or notification. It takes the
place of the socket after the login, and does not read what passes: it works alike for sockets, TCP and TLS.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import psycopg

    from tatame_db.studio.memory import Budget

MAX_MESSAGE_BYTES = 8_000_000
_SMALL_BYTES = 500_000
"""A message of this size is not counted in the budget."""
_COPIES = 2
"""libpq never gives its buffer back, and a row or an error in it is copied at least once."""
_CHUNK_BYTES = 64 * 1024
_UNDERWAY_BYTES = 256 * 1024
"""What the pair of sockets holds: it was counted, and may belong to the next messages."""
_FAREWELL_SECONDS = 1


class Relay:
    """The relay of one connection. It ends with the connection."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], budget: Budget) -> None:
        self.ended_at_bytes: int | None = None
        """The size that a message was not to have, if one was too large."""
        self._budget = budget
        self._largest_bytes = min(_SMALL_BYTES, MAX_MESSAGE_BYTES)
        self._taken_bytes = self._pending_bytes = 0
        self._server = socket.socket(fileno=os.dup(connection.fileno()))
        libpq, self._client = socket.socketpair()
        # Linux doubles the number.
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNDERWAY_BYTES // 4)
        for end in (self._server, self._client, libpq):
            end.settimeout(0)
        with libpq:
            os.dup2(libpq.fileno(), connection.fileno(), inheritable=False)
        self._tasks = [asyncio.ensure_future(self._until_end(way)) for way in (self._to_libpq(), self._to_server())]

    def message_complete(self) -> None:
        """Count from zero: libpq has returned a row, a notice, a notification or a result."""
        self._pending_bytes = 0

    async def closed(self) -> None:
        """Wait until both directions have ended, after the connection was closed, but not for a server that hangs."""
        await asyncio.wait(self._tasks, timeout=_FAREWELL_SECONDS)
        for task in self._tasks:
            task.cancel()

    async def _to_libpq(self) -> None:
        loop = asyncio.get_running_loop()
        while chunk := await loop.sock_recv(self._server, _CHUNK_BYTES):
            # Waits until libpq reads, however many messages there are.
            await loop.sock_sendall(self._client, chunk)
            self._pending_bytes += len(chunk)
            while self._pending_bytes > self._largest_bytes + _UNDERWAY_BYTES:
                if not self._admit_larger():
                    self.ended_at_bytes = self._largest_bytes
                    return

    def _admit_larger(self) -> bool:
        """Admit messages of twice the size, if there is memory for one."""
        larger = min(2 * self._largest_bytes, MAX_MESSAGE_BYTES)
        more = (larger - self._largest_bytes) * _COPIES
        if not more or not self._budget.take(more):
            return False
        self._largest_bytes = larger
        self._taken_bytes += more
        return True

    async def _to_server(self) -> None:
        loop = asyncio.get_running_loop()
        while chunk := await loop.sock_recv(self._client, _CHUNK_BYTES):
            await loop.sock_sendall(self._server, chunk)

    async def _until_end(self, direction: Coroutine[Any, Any, None]) -> None:
        try:
            with suppress(OSError):
                await direction
        finally:
            for task in self._tasks:
                if task is not asyncio.current_task():
                    task.cancel()
            self._server.close()
            self._client.close()
            self._budget.give_back(self._taken_bytes)
            self._taken_bytes = 0
