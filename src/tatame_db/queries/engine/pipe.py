"""A connection in libpq's pipeline mode: calls leave in order, and each is answered at its own Sync.

A Sync ends a transaction, so calls share a connection and nothing else. Rows arrive before the commit, so a call counts
as answered only when its Sync has arrived. Functions of libpq and of the event loop are called from one thread.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, ExecStatus

from tatame_db.database.driver import async_driver_connection
from tatame_db.database.identity import IDENTIFIED
from tatame_db.queries.engine.call import MAX_TRIES, Call, Step
from tatame_db.queries.engine.failures import is_stale
from tatame_db.queries.engine.loss import Loss, ends_session, error_after_loss, is_cancelled, loss_of
from tatame_db.queries.engine.outlet import Outlet
from tatame_db.queries.engine.prepared import PreparedStatements

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from psycopg.pq.abc import PGresult
    from sqlalchemy import PoolProxiedConnection

    from tatame_db.database.identity import Identified
    from tatame_db.queries.engine.plan import Parameters, Plan

# Numbers, because they are compared several times for each call.
SYNC, FATAL_ERROR = int(ExecStatus.PIPELINE_SYNC), int(ExecStatus.FATAL_ERROR)


class Owner(Protocol):
    """Receives what happens in a pipe."""

    def answered(self, pipe: Pipe, call: Call, seconds: float) -> None:
        """A call has been answered, after it was the first for so long."""
        ...

    def send_again(self, call: Call, *, at_once: bool) -> None:
        """A call had no effect, through no fault of its own."""
        ...

    def lost(self, pipe: Pipe) -> None:
        """The connection is gone, and its calls have been removed from the pipe."""
        ...


class Pipe:
    """One connection, and the calls that are in flight on it."""

    def __init__(self, connection: PoolProxiedConnection, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self.connection = connection
        self.driver = async_driver_connection(connection)
        self.calls: deque[Call] = deque()
        self.accepts = True
        """False while it takes no more calls."""
        self.first_since = perf_counter()
        """When the first call became the first, or when the last one was answered."""
        self.runs_alone = False
        """Whether its only call must not be joined by others."""
        self.is_cancelling = False
        """True while a cancel request is on its way."""
        self.is_retiring = False
        """True if its connection goes back to the pool once its calls are answered."""
        self._suspects: frozenset[Call] = frozenset()
        """The calls that a cancel request may hit by accident."""
        self._owner = owner
        self._loop = loop
        self._pgconn = self.driver.pgconn
        self._results: list[PGresult] = []
        self._farewell: Loss | None = None
        # Behind a pooler each transaction may run in another session, which knows none of our names.
        self.is_direct = not connection.info.get("pooled")
        self.identified: Identified | None = connection.info.get(IDENTIFIED)
        self.is_new = True
        """Whether it has just arrived, with the first call."""
        self._prepared = _prepared_statements(connection, self.driver) if self.is_direct else None
        self._pgconn.enter_pipeline_mode()
        self.driver.add_notice_handler(self._noticed)
        self._outlet = Outlet(self._pgconn, loop, self.read)
        # Registered once: to add and remove a reader for each call costs more than the call.
        loop.add_reader(self._outlet.fd, self.read)

    @property
    def is_open(self) -> bool:
        """False after the connection was lost or given back."""
        return not self._outlet.is_closed

    @property
    def is_idle(self) -> bool:
        """Whether its connection can be given back."""
        return not self.calls and not self.is_cancelling and self.is_open

    # Sending

    def send(self, call: Call, *, alone: bool = False) -> None:
        """Put a call in the pipe. It leaves with the others of this turn of the event loop."""
        call.sent_on_idle = not self.calls
        if not self.calls:
            self.first_since = perf_counter()
        call.alone = self.runs_alone = alone
        call.is_sent = True
        call.server = self._pgconn
        call.tries += 1
        plans = self._prepared if call.has_names else None
        try:
            call.steps = [self._send_step(plan, parameters, plans) for plan, parameters in call.statements]
        except psycopg.Error as error:
            self._not_sent(call, error, is_lost=self._pgconn.status == ConnStatus.BAD)
            return
        try:
            self._pgconn.pipeline_sync()
        except psycopg.Error as error:
            # It depends on nothing that the call contains, and libpq may not know yet that the connection is lost.
            self._not_sent(call, error, is_lost=True)
            return
        self.calls.append(call)
        if call.sent_on_idle:
            self._outlet.flush_now()
        else:
            self._outlet.flush_soon()

    def _not_sent(self, call: Call, error: psycopg.Error, *, is_lost: bool) -> None:
        # A part of the call may be queued. Without its Sync, the server does not commit it.
        self.drop(loss_of((), str(error).encode()))
        if is_lost and call.tries < MAX_TRIES:
            self._owner.send_again(call, at_once=False)
        else:
            call.fail(error)

    def _send_step(self, plan: Plan[Any], parameters: Parameters, plans: PreparedStatements | None) -> Step:
        pgconn = self._pgconn
        prepared = plans.find(plan, parameters) if plans else None
        step = Step(plan, parameters, prepared)
        if prepared is None and plans is not None:
            step.prepared = prepared = plans.new(plan, parameters)
            step.prepares = prepared is not None
        values, types, formats = parameters
        if prepared is None:
            pgconn.send_query_params(plan.sql, values, types, formats)
            return step
        if step.prepares:
            pgconn.send_prepare(prepared.name, plan.sql, types)
        pgconn.send_query_prepared(prepared.name, values, formats, prepared.result_format)
        return step

    def _close_surplus(self, names: list[bytes]) -> None:
        """Let the server forget statements that are no longer used."""
        call = Call(self._loop.create_future(), ())
        # No caller waits for the answer, or sends it again.
        call.future.cancel()
        call.tries = MAX_TRIES
        try:
            while names:
                self._pgconn.send_close_prepared(names.pop())
            self._pgconn.pipeline_sync()
        except psycopg.Error as error:
            self._not_sent(call, error, is_lost=True)
            return
        if not self.calls:
            self.first_since = perf_counter()
        self.calls.append(call)
        self._outlet.flush_soon()

    # Receiving

    def read(self) -> None:
        """Read what has arrived, and answer the calls whose Sync is among it."""
        if self._outlet.is_closed:
            return
        intact = self._consume()
        try:
            intact = self._take_results() and intact
        except psycopg.Error:
            intact = False
        if not intact or self._pgconn.status == ConnStatus.BAD:
            self.drop(self._farewell or loss_of(self._results, self._pgconn.error_message))

    def _consume(self) -> bool:
        try:
            self._pgconn.consume_input()
        except psycopg.Error:
            # What the server sent before it closed the connection has been read all the same.
            return False
        return True

    def _take_results(self) -> bool:
        """Take the results that are complete; return whether the session goes on."""
        pgconn, results = self._pgconn, self._results
        nothing = False
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                # It ends the results of one statement. Twice in a row, libpq expects nothing more.
                if nothing:
                    return not self.calls
                nothing = True
                continue
            nothing = False
            if result.status == SYNC:
                self._results = []
                self._answer(results)
                results = self._results
                if not self.calls:
                    break
            else:
                results.append(result)
                if result.status == FATAL_ERROR and ends_session(result):
                    return False
        return True

    def _answer(self, results: list[PGresult]) -> None:
        call = self.calls.popleft()
        now = perf_counter()
        seconds, self.first_since = now - self.first_since, now
        answers, error = self._sorted(call, results)
        if error is None:
            call.answer(self.driver, answers)
        else:
            self._fail(call, error)
        if not self.calls:
            self.runs_alone = False
            if not self.accepts:
                self._accept_again()
        if self._prepared is not None and self._prepared.surplus and self.accepts:
            self._close_surplus(self._prepared.surplus)
        self._owner.answered(self, call, seconds)

    def _sorted(self, call: Call, results: list[PGresult]) -> tuple[Sequence[PGresult], PGresult | None]:
        """Return the result of each statement, without the answers to Parse, and the first error."""
        answers: list[PGresult] = []
        remaining = iter(results)
        for position, step in enumerate(call.steps):
            if step.prepares:
                parsed = next(remaining)
                if parsed.status == FATAL_ERROR:
                    call.failed_step = position
                    return answers, parsed
                self._confirm(step)
            result = next(remaining)
            if result.status == FATAL_ERROR:
                call.failed_step = position
                return answers, result
            answers.append(result)
        return answers, None

    def _confirm(self, step: Step) -> None:
        if self._prepared and step.prepared:
            self._prepared.confirm(step.prepared, step.plan, step.parameters)

    def _fail(self, call: Call, error: PGresult) -> None:
        """Raise the error of a statement in its caller, unless it is the fault of another."""
        step = call.steps[call.failed_step]
        if step.prepared is not None and not step.prepares and is_stale(error):
            if self._prepared is not None:
                self._prepared.forget(step.prepared, step.plan, step.parameters)
            # Another connection may have lost its names too, so the call now does without.
            call.has_names = False
            again = True
        else:
            again = call.was_hit = call in self._suspects and is_cancelled(error) and not call.alone
            if again and call.is_copied:
                # The copy answers.
                return
        if again and not call.ended and call.expired is None:
            self._owner.send_again(call, at_once=True)
        elif call.expired is not None and is_cancelled(error):
            call.fail(call.expired)
        else:
            call.fail(error_from_result(error))

    # Pauses

    def stop_for_cancel(self) -> None:
        """Take no more calls until a cancel request is done, and know which calls it may hit."""
        self.accepts = False
        self.is_cancelling = True
        self._suspects = frozenset(self.calls)

    def cancel_ended(self) -> None:
        """Take calls again, once those in the pipe are answered."""
        self.is_cancelling = False
        if not self.calls:
            self._accept_again()

    def retire(self) -> None:
        """Take no more calls."""
        self.accepts = False
        self.is_retiring = True

    def _accept_again(self) -> None:
        if not self.is_cancelling:
            self._suspects = frozenset()
            self.accepts = self.is_open and not self.is_retiring and self._farewell is None

    # The end

    def _noticed(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        # libpq makes a notice of a FATAL that arrives while no statement is running. The fields are read here, because
        # they are empty after this call.
        if diagnostic.severity_nonlocalized in {"FATAL", "PANIC"}:
            state = (diagnostic.sqlstate or "").encode()
            self._farewell = Loss(diagnostic.message_primary or "", state, while_idle=True)
            self.accepts = False

    def drop(self, loss: Loss) -> None:
        """End the connection, and sort its calls by what the server may have done of them."""
        if self._outlet.is_closed:
            return
        self._outlet.close()
        self.accepts = False
        calls, self.calls = self.calls, deque()
        self._results.clear()
        self._pgconn.finish()
        address = self.connection.info["address"]
        # The last is sent again first, so that each comes to stand before its successor.
        for position, call in reversed(list(enumerate(calls))):
            if call.ended or call.is_copied:
                continue
            error = error_after_loss(call, position, loss, address)
            if error is None:
                self._owner.send_again(call, at_once=False)
            else:
                call.fail(error)
        self._owner.lost(self)

    def leave(self) -> bool:
        """Make an idle connection an ordinary one again; return whether it is usable."""
        self._outlet.close()
        self.accepts = False
        self.driver.remove_notice_handler(self._noticed)
        try:
            self._pgconn.exit_pipeline_mode()
        except psycopg.Error:
            return False
        return self._pgconn.status == ConnStatus.OK

    def abandon(self) -> None:
        """Close the connection; its loop has stopped, and nothing waits for its calls."""
        self._outlet.close()
        self.accepts = False
        self.calls.clear()
        self._pgconn.finish()


def _prepared_statements(connection: PoolProxiedConnection, driver: psycopg.AsyncConnection[Any]) -> PreparedStatements:
    """Return the prepared statements of a connection. They outlive the pipe, as the names do on the server."""
    plans: PreparedStatements | None = connection.info.get("prepared_statements")
    if plans is None:
        plans = connection.info["prepared_statements"] = PreparedStatements(driver)
    return plans
