"""Streams that hold a connection of a pool while their caller works on the rows, and what ends them."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from tatame_db.database.errors import DatabaseClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL


class OpenStream:
    """A stream that holds a connection, between its start and its end.

    It is entered while it uses the connection, so that no other thread closes that then. Entering raises
    `DatabaseClosed` if the database was closed meanwhile.
    """

    def __init__(self, streams: OpenStreams | None, drop_connection: Callable[[], object]) -> None:
        self._streams = streams
        self._drop_connection = drop_connection
        self._caller: object = None
        """The thread or task that used it last."""
        self._in_use = threading.Lock()
        self._is_dropped = False

    def __enter__(self) -> None:
        self._in_use.acquire()
        if self._is_dropped and self._streams is not None:
            self._in_use.release()
            raise DatabaseClosed(address=self._streams.address)

    def __exit__(self, *_: object) -> None:
        self._caller = _caller()
        self._in_use.release()

    def close(self) -> None:
        """Note that the stream ends itself: nothing else may close its connection from now on."""
        if self._streams is not None:
            self._streams.discard(self)
        self._in_use.acquire()

    def drop(self) -> None:
        """Close the connection of a stream that its caller has left."""
        if self._streams is not None and not self._is_dropped:
            self._streams.discard(self)
            self._is_dropped = True
            self._drop_connection()

    def drop_if_left(self) -> None:
        """Close the connection if the caller is the last that used the stream, and so cannot be using it."""
        if self._caller == _caller() and self._in_use.acquire(blocking=False):
            self.drop()
            self._in_use.release()


class OpenStreams:
    """The streams of a database that hold a connection; threads share it."""

    def __init__(self, address: URL) -> None:
        self.address = address
        self._open: set[OpenStream] = set()

    def add(self, drop_connection: Callable[[], object]) -> OpenStream:
        """Note a stream, with what closes its connection."""
        stream = OpenStream(self, drop_connection)
        self._open.add(stream)
        return stream

    def discard(self, stream: OpenStream) -> None:
        """Forget a stream."""
        self._open.discard(stream)

    def drop_left(self) -> None:
        """Close the connections of streams that the caller has left before their last row.

        Whoever waits until no connection is in use cannot go on with a stream of the same thread or task.
        """
        for stream in self._open.copy():
            stream.drop_if_left()


def _caller() -> object:
    """Return the task that is running or, outside asyncio, the thread."""
    try:
        return asyncio.current_task() or threading.get_ident()
    except RuntimeError:
        return threading.get_ident()
