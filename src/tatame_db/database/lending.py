"""A pool for asyncio that lends connections for longer than a call, and takes them back when a session waits."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.util import await_only as await_
from sqlalchemy.util.queue import Empty

from tatame_db.database.connecting import AsyncDatabasePool
from tatame_db.database.errors import EventLoopDiffers

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry

borrowing: ContextVar[bool] = ContextVar("borrowing", default=False)
"""True while the borrower checks out a connection, for which it need not give back another one."""


class Borrower(Protocol):
    """Keeps connections of a pool between calls, because a checkout costs more than a short call."""

    loop: asyncio.AbstractEventLoop

    @property
    def idle(self) -> int:
        """The number of its connections that no call uses."""
        ...

    def give_back(self) -> None:
        """Return an idle connection to the pool, if there is one. It waits for nothing."""
        ...

    def close(self) -> None:
        """Accept no more calls, and return each connection as soon as its calls are answered."""
        ...

    def abandon(self) -> None:
        """Drop the connections of a loop that has stopped; no call waits for them."""
        ...


class LendingPool(AsyncDatabasePool):
    """The pool of an `AsyncDatabase`. It serves one event loop, and another one when that has ended."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.borrower: Borrower | None = None
        self.sessions_waiting = 0
        """The number of sessions and streams that wait for a connection."""
        self._line: deque[asyncio.Future[None]] = deque()
        self._called: set[asyncio.Future[None]] = set()
        """Those who wait, and those whose turn it is."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._generation = object()
        """Marks the connections that are counted."""

    @property
    def lent_and_idle(self) -> int:
        """The number of connections that the borrower holds, and that no call uses."""
        return 0 if self.borrower is None else self.borrower.idle

    def checkedout(self) -> int:
        """Return the number of connections in use."""
        return super().checkedout() - self.lent_and_idle

    def checkedin(self) -> int:
        """Return the number of idle connections."""
        return super().checkedin() + self.lent_and_idle

    def end_loans(self) -> None:
        """Let the borrower return its connections, those in use at the end of their calls.

        Raises `EventLoopDiffers`.
        """
        # What was in flight on a loop that has ended is never answered.
        self.enter()
        if self.borrower is not None:
            self.borrower.close()

    def enter(self) -> None:
        """Serve the running event loop.

        Raises `EventLoopDiffers` while another one is served that has not ended.
        """
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self._loop is not None:
            # A loop of this same thread cannot be running beside the one that calls.
            if not self._loop.is_closed() and self._thread != threading.get_ident():
                raise EventLoopDiffers
            if self.borrower is not None:
                self.borrower.abandon()
            self._start_afresh()
        self._loop, self._thread = loop, threading.get_ident()

    def _start_afresh(self) -> None:
        """Count again: what a task of the other loop had taken out may never come back."""
        idle: list[ConnectionPoolEntry] = []
        with suppress(Empty):
            while True:
                idle.append(self._pool.get(block=False))
        self.borrower, self.waiting, self.sessions_waiting = None, 0, 0
        self._line.clear()
        self._called.clear()
        self._generation = object()
        self._overflow = 0 - self.size()
        # A queue belongs to the loop in which a task first waited for it.
        self._pool = self._queue_class(self.size(), use_lifo=self._pool.use_lifo)
        for entry in idle:
            self._do_return_conn(entry)

    def _do_get(self) -> ConnectionPoolEntry:
        self.enter()
        is_session = self.borrower is not None and not borrowing.get()
        if is_session and self.borrower and not self._pool.qsize():
            self.borrower.give_back()
        if self._line or self._free <= 0:
            self._wait_in_line(is_session=is_session)
        return super()._do_get()

    @property
    def _free(self) -> int:
        """The number of connections that are idle or may be opened, and that no caller has been promised."""
        return self._pool.qsize() + self._max_overflow - self.overflow() - len(self._called)

    def _wait_in_line(self, *, is_session: bool) -> None:
        """Wait until it is the caller's turn.

        With the queue of asyncio alone, a newcomer takes the connection that has just woken another caller, which waits
        again, behind all others: under constant load it never gets one.
        """
        ticket = asyncio.get_running_loop().create_future()
        self._line.append(ticket)
        self.waiting += 1
        self.sessions_waiting += is_session
        try:
            await_(asyncio.wait_for(ticket, self._timeout))
        except TimeoutError:
            raise PoolTimeoutError from None
        finally:
            self.waiting -= 1
            self.sessions_waiting -= is_session
            self._called.discard(ticket)
            with suppress(ValueError):
                self._line.remove(ticket)
            if not ticket.done() or ticket.cancelled():
                self._call_next()

    def _call_next(self) -> None:
        while self._line and self._free > 0:
            ticket = self._line.popleft()
            if not ticket.done():
                self._called.add(ticket)
                ticket.set_result(None)

    def _dec_overflow(self) -> Literal[True]:
        super()._dec_overflow()
        self._call_next()
        return True

    def _create_connection(self) -> ConnectionPoolEntry:
        entry = super()._create_connection()
        _info(entry)["generation"] = self._generation
        return entry

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if _info(record)["generation"] is not self._generation:
            if not self._inc_overflow():
                record.close()
                return
            _info(record)["generation"] = self._generation
            _renew_locks(record.dbapi_connection)
        super()._do_return_conn(record)
        self._call_next()


def _info(entry: ConnectionPoolEntry) -> dict[Any, Any]:
    return entry.record_info if entry.record_info is not None else {}


def _renew_locks(connection: Any) -> None:
    # These two belong to the loop in which a task first waited for them; nothing else in a connection does.
    if connection is not None:
        connection._execute_mutex = asyncio.Lock()
        connection.driver_connection.lock = asyncio.Lock()
