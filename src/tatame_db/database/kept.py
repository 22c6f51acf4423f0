"""Connections that queries keep between calls: lending one again costs more than a short statement.

They count within the size of the pool, and go back to it as soon as a caller waits for a connection.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy.pool import QueuePool
from sqlalchemy.util.queue import Empty, Queue

if TYPE_CHECKING:
    from collections.abc import Collection

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
    queues before it looks here, and a connection is put here before its thread looks for callers.
    """

    def __init__(self, waiting: Collection[object]) -> None:
        self._idle: list[tuple[float, Kept]] = []
        """Each with the `time.monotonic()` of its last use, the longest idle first."""
        self._waiting = waiting
        """The callers in the queue of the pool."""
        self._is_closed = False
        self.closer: IdleConnections | None = None
        """Closes those that nothing uses for a while."""

    def __len__(self) -> int:
        return len(self._idle)

    def take(self) -> Any:
        """Return the connection that was used last; `None` without one, and while others wait, who come first."""
        return None if self._waiting else self._pop()

    def _pop(self) -> Any:
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
        if self._is_closed and (late := self._pop()):
            # No caller looks into the pool any more.
            late.discard()

    def release_one(self) -> None:
        """Return a connection to the pool, if there is one."""
        if connection := self._pop():
            connection.release()

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


class _Caller:
    """A caller that waits for a connection."""

    __slots__ = ("entry", "is_served")

    def __init__(self) -> None:
        self.entry: ConnectionPoolEntry | None = None
        self.is_served = threading.Lock()
        """Held until the caller has an entry."""
        self.is_served.acquire()


class _Queue(Queue["ConnectionPoolEntry"]):
    """The queue of a pool. Threads that wait for a connection are served in the order of their arrival.

    SQLAlchemy's own wakes the thread that waits longest, but another one that comes just then is faster. With more busy
    threads than connections, some of them would wait until their time is over.
    """

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        super().__init__(maxsize, use_lifo)
        self.callers: deque[_Caller] = deque()
        self.kept = KeptConnections(self.callers)

    def put(self, item: ConnectionPoolEntry, block: bool = True, timeout: float | None = None) -> None:
        with self.mutex:
            if not self.callers:
                super().put(item, block, timeout)
                return
            caller = self.callers.popleft()
            caller.entry = item
            caller.is_served.release()

    def get(self, block: bool = True, timeout: float | None = None) -> ConnectionPoolEntry:
        with self.mutex:
            # An entry is here only while no caller waits.
            if self.queue:
                return self._get()
            if not block:
                raise Empty
            caller = _Caller()
            self.callers.append(caller)
        try:
            self.kept.release_one()
            caller.is_served.acquire(timeout=-1 if timeout is None else max(timeout, 0))
        except BaseException:
            self._leave(caller)
            if caller.entry is not None:
                self.put(caller.entry, block=False)
            raise
        self._leave(caller)
        if caller.entry is None:
            raise Empty
        return caller.entry

    def _leave(self, caller: _Caller) -> None:
        with self.mutex, suppress(ValueError):
            self.callers.remove(caller)


class KeepingPool(QueuePool):
    """A pool that gets back what queries keep, before anybody waits."""

    _queue_class = _Queue

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # In asyncio queries borrow connections instead.
        self.kept = self._pool.kept if isinstance(self._pool, _Queue) else KeptConnections(())

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
