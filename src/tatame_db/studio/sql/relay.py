"""A relay between libpq and the server, which ends the connection before a value fills the memory of the studio.

libpq keeps each message of the server in memory as a whole, and one value can have a gigabyte. Nothing in libpq limits
that, so the relay counts the bytes that arrived since the last row or notice was complete. It takes the place of the
socket after the login, and does not read what passes: it works alike for sockets, TCP and TLS.
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

MAX_MESSAGE_BYTES = 8_000_000
_CHUNK_BYTES = 128 * 1024
_FAREWELL_SECONDS = 1


class Relay:
    """The relay of one connection. It ends with the connection."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.has_ended_connection = False
        """Whether a message was too large."""
        self._pending_bytes = 0
        self._server = socket.socket(fileno=os.dup(connection.fileno()))
        libpq, self._client = socket.socketpair()
        for end in (self._server, self._client, libpq):
            end.settimeout(0)
        with libpq:
            os.dup2(libpq.fileno(), connection.fileno(), inheritable=False)
        self._tasks = [asyncio.ensure_future(self._until_end(way)) for way in (self._to_libpq(), self._to_server())]

    def message_complete(self) -> None:
        """Count from zero: libpq has returned a row, a notice or a result."""
        self._pending_bytes = 0

    async def closed(self) -> None:
        """Wait until both directions have ended, after the connection was closed, but not for a server that hangs."""
        await asyncio.wait(self._tasks, timeout=_FAREWELL_SECONDS)
        for task in self._tasks:
            task.cancel()

    async def _to_libpq(self) -> None:
        loop = asyncio.get_running_loop()
        while chunk := await loop.sock_recv(self._server, _CHUNK_BYTES):
            self._pending_bytes += len(chunk)
            if self._pending_bytes > MAX_MESSAGE_BYTES:
                self.has_ended_connection = True
                return
            await loop.sock_sendall(self._client, chunk)

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
