"""Connections that queries keep between calls: lending one anew costs more than a short statement.

They count within the size of the pool, and go back to it as soon as somebody waits for a connection.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy.pool import QueuePool
from sqlalchemy.util.queue import Empty, Queue

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

    from tatame_db.database.idle import IdleConnections


class Kept(Protocol):
    """An idle connection that the pool has lent."""

    def release(self) -> None:
        """Return it to the pool."""
        ...

    def discard(self) -> None:
        """Close it."""
        ...


class KeptConnections:
    """The idle connections that queries of one pool keep; threads share it without a lock.

    Each step is atomic, and their order makes sure that no connection stays here while a caller waits: a caller
    announces itself before it looks here, and a connection is put here before its thread looks for callers.
    """

    def __init__(self) -> None:
        self._idle: list[tuple[float, Kept]] = []
        """Each with the `time.monotonic()` of its last use, the longest idle first."""
        self._waiting: list[None] = []
        self._is_closed = False
        self.closer: IdleConnections | None = None
        """Closes those that nothing uses for a while."""

    def __len__(self) -> int:
        return len(self._idle)

    def take(self) -> Any:
        """Return the connection that was used last, or `None`."""
        try:
            return self._idle.pop()[1]
        except IndexError:
            return None

    def keep(self, connection: Kept) -> None:
        """Keep a connection that is idle, unless a caller waits for one."""
        self._idle.append((time.monotonic(), connection))
        if self.closer is not None and self.closer.is_asleep:
            self.closer.start()
        if self._waiting:
            self.release_one()
        if self._is_closed and (late := self.take()):
            # Nobody looks into the pool any more.
            late.discard()

    def release_one(self) -> None:
        """Return a connection to the pool, if there is one."""
        if connection := self.take():
            connection.release()

    def announce(self) -> None:
        """Let the next connection go to a caller that is about to wait."""
        self._waiting.append(None)
        self.release_one()

    def withdraw(self) -> None:
        """Note that the caller waits no more."""
        self._waiting.pop()

    def release_all(self) -> None:
        """Return all idle connections to the pool."""
        while self._idle:
            self.release_one()

    def close_expired(self, seconds: float) -> float | None:
        """Close the connections that were idle for so long; return after how many seconds to look again."""
        for kept in list(self._idle):
            pause = kept[0] + seconds - time.monotonic()
            if pause > 0:
                return pause
            # A call may have taken it meanwhile.
            with suppress(ValueError):
                self._idle.remove(kept)
                kept[1].discard()
        return None

    def close(self) -> None:
        """Return all idle connections to the pool, and close those that come later."""
        self._is_closed = True
        self.release_all()


class _Queue(Queue["ConnectionPoolEntry"]):
    """The queue of a pool, in which threads wait for a connection."""

    kept: KeptConnections

    def get(self, block: bool = True, timeout: float | None = None) -> ConnectionPoolEntry:
        try:
            return super().get(block=False)
        except Empty:
            if not block:
                raise
        self.kept.announce()
        try:
            return super().get(block, timeout)
        finally:
            self.kept.withdraw()


class KeepingPool(QueuePool):
    """A pool that gets back what queries keep, before anybody waits."""

    _queue_class = _Queue

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.kept = KeptConnections()
        self._pool.kept = self.kept  # type: ignore[attr-defined]  # it is a `_Queue`, or one of asyncio, which ignores it

    def checkedout(self) -> int:
        """Return the number of connections in use; those that are kept are idle."""
        return super().checkedout() - len(self.kept)

    def checkedin(self) -> int:
        """Return the number of idle connections."""
        return super().checkedin() + len(self.kept)

    def dispose(self) -> None:
        """Close all idle connections. The engine goes on with another pool."""
        self.kept.close()
        super().dispose()
