"""Reports connections on which nothing arrives."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_CHECK_SECONDS = 0.5


class Watch:
    """Calls a function, in a thread of its own and once, if nothing is heard for some seconds in its `with` block."""

    def __init__(self, seconds: float, on_silence: Callable[[], None]) -> None:
        self.ended = threading.Event()
        self._seconds = seconds
        self._on_silence = on_silence
        self._calling: threading.Thread | None = None
        self.hear()

    def hear(self) -> None:
        """Start counting again."""
        self._heard = time.monotonic()

    def check(self) -> None:
        """Call the function if it is time."""
        if self._calling is None and time.monotonic() - self._heard >= self._seconds:
            # The function may take long, and other connections are silent too.
            self._calling = threading.Thread(target=self._on_silence, daemon=True)
            self._calling.start()

    def __enter__(self) -> Self:
        _watching.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        _watching.remove(self)
        # Otherwise it could abort what is done next.
        if self._calling:
            self._calling.join()


class _Watching:
    """The thread that checks all watches, while there are some: starting one costs more than a short statement."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: set[Watch] = set()
        self._thread: threading.Thread | None = None

    def add(self, watch: Watch) -> None:
        with self._lock:
            self._watches.add(watch)
            # A fork inherits the object, but not the thread.
            if not (self._thread and self._thread.is_alive()):
                self._thread = threading.Thread(target=self._check, daemon=True)
                self._thread.start()

    def remove(self, watch: Watch) -> None:
        with self._lock:
            self._watches.discard(watch)

    def _check(self) -> None:
        while True:
            time.sleep(_CHECK_SECONDS)
            with self._lock:
                if not self._watches:
                    self._thread = None
                    return
                for watch in self._watches:
                    watch.check()


_watching = _Watching()
