"""A server that does not answer, as behind a link that stalls: it is named, and given up at last."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from tatame_db.backup.folder import size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    import psycopg

_WORDS_SECONDS = 10.0
_LIMIT_SECONDS = 60.0
_LEAVING_SECONDS = 2.0
_LOOK_SECONDS = 0.1


# A slow copy has no limit.
_COPY_SECONDS = 60.0


class Silence:
    """Reports from a thread how long a server has not answered, and ends a connection from which no answer comes.

    Neither psycopg nor libpq limits the wait for an answer, and no signal interrupts it. A connection is ended after a
    minute, or 2 seconds after `stop` is set.
    """

    def __init__(
        self,
        stop: threading.Event,
        on_words: Callable[[str], None],
        *,
        words_seconds: float | None = None,
        limit_seconds: float | None = None,
    ) -> None:
        self._stop, self._on_words = stop, on_words
        self._words_seconds, self._limit_seconds = words_seconds, limit_seconds
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._socket: socket.socket | None = None
        self._asked = 0.0
        self._since: float | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def begin(self) -> None:
        """Wait for an answer from now on, if it is not waited for already."""
        with self._lock:
            self._since = self._since or time.monotonic()

    def heard(self) -> None:
        """Note that the server has answered."""
        with self._lock:
            self._asked = time.monotonic()
            self._since = self._asked if self._socket else None

    @contextmanager
    def asking(self, connection: psycopg.Connection[Any]) -> Generator[None]:
        """Ask something on a connection; at its end, all is answered."""
        self.begin()
        # With a descriptor of its own: once the connection is closed, another socket may have its number.
        with socket.socket(fileno=os.dup(connection.fileno())) as own:
            with self._lock:
                self._socket, self._asked = own, time.monotonic()
            try:
                yield
            finally:
                with self._lock:
                    self._socket = None
        self.heard()

    def _watch(self) -> None:
        reported, leaving = 0.0, None
        while not self._ended.wait(_LOOK_SECONDS):
            now = time.monotonic()
            with self._lock:
                silent = now - self._since if self._since else 0.0
                if self._stop.is_set():
                    leaving = leaving or now
                if self._socket and (
                    now - self._asked > (self._limit_seconds or _LIMIT_SECONDS)
                    or now - (leaving or now) > _LEAVING_SECONDS
                ):
                    with suppress(OSError):
                        self._socket.shutdown(socket.SHUT_RDWR)
            reported = min(reported, silent)
            if silent - reported >= (self._words_seconds or _WORDS_SECONDS):
                reported = silent
                # Without a terminal any more, it goes on.
                with suppress(OSError):
                    self._on_words(f"the server has not answered for {silent:.0f} s")


@contextmanager
def waiting(on_words: Callable[[str], None]) -> Generator[Silence]:
    """Report each minute that the server of a backup has not answered, and wait on: a large table takes as long."""
    silence = Silence(threading.Event(), on_words, words_seconds=_COPY_SECONDS, limit_seconds=math.inf)
    with silence:
        silence.begin()
        yield silence


class Standstill:
    """Reports each minute that a copy does not grow."""

    def __init__(self, place: Path, on_words: Callable[[str], None]) -> None:
        self._place, self._on_words = place, on_words
        self._size, self._since, self._reported = -1, time.monotonic(), 0.0

    def look(self) -> None:
        """Compare the size with that of the last look."""
        now = time.monotonic()
        try:
            size = size_of(self._place)
        except OSError:
            # A file got its final name meanwhile.
            return
        if size != self._size:
            self._size, self._since, self._reported = size, now, 0.0
        elif (still := now - self._since) - self._reported >= _COPY_SECONDS:
            self._reported = still
            reason = "the server sends nothing, or this disk is slow; Ctrl-C ends it"
            self._on_words(f"the copy has not grown for {still:.0f} s: {reason}")
