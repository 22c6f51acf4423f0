"""Calls of asyncio, and the pipes they are sent on.

Short reads share a few pipes. Writes, and reads that proved slow, each have a pipe to themselves: commits on one
connection cannot share a flush to the disk, and whatever waits behind a slow statement is as slow. All other calls wait
here, not in libpq, where they could not be taken back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

from tatame_db.database.errors import ConnectionsExhausted, DatabaseClosed
from tatame_db.database.lending import LendingPool
from tatame_db.queries.engine.call import Call
from tatame_db.queries.engine.lease import Leases, fresh, give_back
from tatame_db.queries.engine.policy import Policy
from tatame_db.queries.engine.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tatame_db.database.pool import AsyncDatabase
    from tatame_db.queries.engine.call import Future
    from tatame_db.queries.engine.pipe import Pipe
    from tatame_db.queries.engine.plan import Parameters, Plan


class Dispatcher:
    """The calls of one `AsyncDatabase` on one event loop."""

    def __init__(self, database: AsyncDatabase, pool: LendingPool, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.policy = Policy(pool.size())
        self.pipes: list[Pipe] = []
        self._address = database.address
        self._pool = pool
        self._leases = Leases(database, self, loop)
        self._watch = Watch(self)
        # The calls that wait for a pipe.
        self._short: deque[Call] = deque()
        self._alone: deque[Call] = deque()
        self._short_go_next = False
        """Whether short calls are next, where both kinds take turns on the only pipe."""
        self._is_closed = False

    # Calls

    def start(self, statements: Sequence[tuple[Plan[Any], Parameters]]) -> Call:
        """Send a call, or let it wait for a connection. Its future has an `Answer`, or an error of psycopg or ours.

        A future that is cancelled takes the call back, or ends it on the server if it runs for long.

        Raises `DatabaseClosed`.
        """
        if self._is_closed:
            raise DatabaseClosed(address=self._address)
        future: Future = self.loop.create_future()
        call = Call(future, statements)
        call.waiting_since = perf_counter()
        if self.policy.runs_alone(call):
            self._alone.append(call)
            self._send_alone()
        else:
            pipe = None if self._short or self._alone_go_next else self._pipe_for_short()
            if pipe is None:
                self._short.append(call)
            else:
                pipe.send(call)
        self._refuse_if_hopeless()
        self._watch.start()
        return call

    def send_again(self, call: Call, *, at_once: bool) -> None:
        """Send a call that had no effect, before those that wait; at once, or in a moment."""
        call.is_sent, call.waiting_since = False, perf_counter()
        if call.expired is not None:
            call.fail(call.expired)
            return
        runs_alone = call.was_hit or self.policy.runs_alone(call)
        (self._alone if runs_alone else self._short).appendleft(call)
        if at_once:
            self.loop.call_soon(self.send_waiting)

    def send_copy(self, call: Call) -> None:
        """Send a read a second time, because it waits behind a slow call."""
        self._short.append(call.copy())

    @property
    def has_waiting(self) -> bool:
        """Whether calls wait for a pipe."""
        return bool(self._short or self._alone)

    @property
    def idle(self) -> int:
        """The number of pipes without calls."""
        return sum(pipe.is_idle for pipe in self.pipes)

    @property
    def session_waits(self) -> bool:
        """Whether a session waits for a connection of the pool."""
        return self._pool.sessions_waiting > 0

    def send_waiting(self) -> None:
        """Send the calls that wait, as far as there are pipes."""
        self._send_short()
        self._send_alone()
        self._refuse_if_hopeless()

    @property
    def _alone_go_next(self) -> bool:
        # Short calls could keep the only pipe busy forever, and so could calls that run alone.
        return bool(self._alone) and len(self.pipes) <= 1 and not self._short_go_next

    def _send_short(self) -> None:
        if self._alone_go_next:
            return
        queue = self._short
        while queue:
            if queue[0].ended:
                queue.popleft()
                continue
            pipe = self._pipe_for_short()
            if pipe is None:
                return
            self._short_go_next = False
            pipe.send(queue.popleft())

    def _send_alone(self) -> None:
        queue = self._alone
        while queue:
            if queue[0].ended:
                queue.popleft()
                continue
            pipe = self._pipe_for_alone()
            if pipe is None:
                return
            if pipe.identified is not None and pipe.identified.is_old and not pipe.is_new:
                # The pool identifies the server behind the pooler again as it lends the connection.
                self.return_to_pool(pipe)
                continue
            # Had the server ended this session while it was idle, the outcome of a write would be unknown.
            pipe.read()
            if pipe.accepts:
                pipe.send(queue.popleft(), alone=True)

    def _pipe_for_short(self) -> Pipe | None:
        while True:
            position, wants_another = self.policy.for_short(self.pipes, perf_counter(), leave_one=bool(self._alone))
            if wants_another:
                self._open_another()
            if position is None:
                return None
            pipe = self.pipes[position]
            if pipe.is_idle:
                # The server may have ended all sessions that were idle, and a call has few tries.
                pipe.read()
            if pipe.accepts:
                return pipe

    def _pipe_for_alone(self) -> Pipe | None:
        position, wants_another = self.policy.for_alone(self.pipes)
        if wants_another:
            self._open_another()
        return None if position is None else self.pipes[position]

    def _open_another(self) -> None:
        if len(self.pipes) + self._leases.opening < self.policy.limit:
            self._leases.open_soon()

    def _refuse_if_hopeless(self) -> None:
        """Raise the reason of a failed attempt in all who waited for it, while there is no connection.

        A call that came later waits for the next attempt: the reason may be gone by then.
        """
        if self.pipes or self._leases.may_succeed or not self.has_waiting:
            return
        error, failed_at = self._leases.failure
        for queue in (self._short, self._alone):
            while queue and error is not None and (queue[0].ended or queue[0].waiting_since < failed_at):
                queue.popleft().fail(fresh(error))
        if self.has_waiting:
            self._leases.open_soon()

    def refuse_late(self, now: float) -> None:
        """Raise `ConnectionsExhausted` in those who have waited for a connection for longer than the pool allows."""
        if not self.pipes and self._leases.opening:
            # The attempt ends in time, and its error says more.
            return
        seconds = self._pool.timeout()
        for queue in (self._short, self._alone):
            while queue and (queue[0].ended or now - queue[0].waiting_since > seconds):
                error = ConnectionsExhausted(address=self._address, size=self._pool.size(), seconds=seconds)
                queue.popleft().fail(error)

    # Pipes

    def arrived(self, pipe: Pipe) -> None:
        """Use a pipe from now on."""
        if pipe.is_open:
            self.pipes.append(pipe)
            if not pipe.is_direct and self.policy.shares:
                self.policy.share_nothing()
                self._alone.extendleft(reversed(self._short))
                self._short.clear()
        self.send_waiting()
        pipe.is_new = False
        self.return_if_wanted(pipe)
        self._watch.start()

    def refused(self) -> None:
        """Give up the calls that wait for a connection, unless there is one."""
        self._refuse_if_hopeless()

    def answered(self, pipe: Pipe, call: Call, seconds: float) -> None:
        """Learn from an answered call, and send those that wait."""
        if not call.statements and pipe not in self.pipes:
            # The first answer of a pipe, which arrives next.
            return
        self.policy.saw_run(call, seconds)
        if call.alone:
            self._short_go_next = True
        if pipe.calls:
            if self._short:
                self._send_short()
        elif not self.return_if_wanted(pipe) and self.has_waiting:
            self.send_waiting()

    def lost(self, pipe: Pipe) -> None:
        """Go on without a pipe."""
        if pipe in self.pipes:
            self.pipes.remove(pipe)
        pipe.connection.invalidate()
        # Whoever ended this session may be ending the others: a moment shows which of them are left.
        self._watch.start()

    # Giving back

    def give_back(self) -> None:
        """Return an idle connection to the pool, if there is one."""
        pipe = next((pipe for pipe in reversed(self.pipes) if pipe.is_idle), None)
        if pipe is not None:
            self.return_to_pool(pipe)

    def close(self) -> None:
        """Accept no more calls, and return each connection as soon as its calls are answered."""
        self._is_closed = True
        for pipe in list(self.pipes):
            self.return_if_wanted(pipe)

    def abandon(self) -> None:
        """Drop the connections of a loop that has stopped; no caller waits for them."""
        for pipe in self.pipes:
            pipe.abandon()
            pipe.connection.invalidate()
        self.pipes.clear()

    def return_if_wanted(self, pipe: Pipe) -> bool:
        """Return an idle pipe to the pool if a session waits for it, or if no call will come; return whether it was."""
        is_last = self._is_closed and not self.has_waiting
        if not pipe.is_idle or not (pipe.is_retiring or is_last or self.session_waits):
            return False
        self.return_to_pool(pipe)
        if self.has_waiting:
            self.send_waiting()
        return True

    def return_to_pool(self, pipe: Pipe) -> None:
        """Return an idle pipe to the pool."""
        self.pipes.remove(pipe)
        give_back(pipe)


_IS_SUPPORTED = pq.__impl__ != "python" and psycopg.capabilities.has_cancel_safe()
"""Cancel requests that block no event loop came with libpq 17, and psycopg in Python gains nothing from pipes."""


def dispatcher_of(database: AsyncDatabase) -> Dispatcher | None:
    """Return the dispatcher of a database on the running loop; `None` where calls have to use psycopg's cursors.

    Raises `EventLoopDiffers`.
    """
    pool = database.engine.sync_engine.pool
    if not _IS_SUPPORTED or not isinstance(pool, LendingPool) or database.shares_transaction:
        return None
    loop = asyncio.get_running_loop()
    borrower = pool.borrower
    if not isinstance(borrower, Dispatcher) or borrower.loop is not loop:
        pool.enter()
        borrower = pool.borrower = Dispatcher(database, pool, loop)
    return borrower
