"""Calls of asyncio's tasks: what their callers receive, and when their time is over."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from tatame_db.database.errors import OutcomeUnknown
from tatame_db.queries.engine.failures import FAILURES, failure
from tatame_db.queries.engine.lean import DEADLINE_CANCEL_TIMEOUT_SECONDS
from tatame_db.queries.errors import ValueNotReadable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from tatame_db.database.pool import AsyncDatabase
    from tatame_db.queries.engine.call import Call
    from tatame_db.queries.engine.deadline import Deadline
    from tatame_db.queries.engine.dispatch import Dispatcher
    from tatame_db.queries.engine.plan import Statement
    from tatame_db.queries.errors import DeadlineExceeded

T = TypeVar("T")


async def fetch_all_committed_async(
    database: AsyncDatabase,
    dispatcher: Dispatcher,
    calls: Sequence[tuple[Statement[T], dict[str, Any]]],
    deadline: Deadline | None,
) -> list[list[T]]:
    """Run statements, all or none, on the connections of a dispatcher; return the rows of each.

    They form one implicit transaction, which is committed when all have succeeded.
    """
    started = time.perf_counter()
    call = dispatcher.start([(statement.plan, statement.plan.parameters(values)) for statement, values in calls])
    timer = None
    if deadline is not None:
        first: Statement[Any] = calls[0][0]
        end = partial(_end, call, partial(deadline.exceeded, first))
        timer = dispatcher.loop.call_later(max(deadline.remaining_ms, 0) / 1000, end)
    try:
        answer = await call.future
        rows = answer.rows()
    except BaseException as raised:
        statement = calls[call.failed_step][0]
        error: BaseException = raised
        if isinstance(raised, FAILURES):
            error = failure(statement, raised, database.address, call.server)
        database.observer.record(statement.name, started, None, error)
        if error is raised:
            raise
        raise error from (None if isinstance(error, ValueNotReadable) else raised)
    finally:
        if timer is not None:
            timer.cancel()
    if database.observer.listening:
        for (statement, _), returned in zip(calls, rows, strict=True):
            database.observer.record(statement.name, started, statement.number_of_rows(returned), None)
    return rows


@asynccontextmanager
async def ends_at(deadline: Deadline | None, statement: Statement[Any]) -> AsyncGenerator[Callable[[bool], None]]:
    """End a call on a connection of its own at a deadline; psycopg ends its statement on the server.

    The caller calls what is yielded once it has the connection, with whether its writes are committed at once.
    """
    if deadline is None:
        yield lambda _: None
        return
    commits: list[bool] = []
    cancelled_again: list[bool] = []
    seconds = max(deadline.remaining_ms, 0) / 1000
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout, _cancelled_again_after(seconds + DEADLINE_CANCEL_TIMEOUT_SECONDS, cancelled_again):
            yield commits.append
    except TimeoutError:
        if not timeout.expired():
            raise
        if cancelled_again and any(commits) and not statement.may_repeat:
            raise _unknown(statement.name) from None
        raise deadline.exceeded(statement, sent=bool(commits)) from None


@asynccontextmanager
async def _cancelled_again_after(seconds: float, cancelled: list[bool]) -> AsyncGenerator[None]:
    """Cancel the task a second time, while it still ends; the list is not empty then.

    Cancelled once, psycopg waits for the server, which may be silent; cancelled twice, it closes the connection.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101, for the type checker

    def cancel() -> None:
        cancelled.append(task.cancel())

    timer = asyncio.get_running_loop().call_later(seconds, cancel)
    try:
        yield
    finally:
        timer.cancel()
        if cancelled:
            task.uncancel()


def _unknown(name: str) -> OutcomeUnknown:
    return OutcomeUnknown(name=name, reason="the server did not answer a cancel request at its deadline")


def _end(call: Call, exceeded: Callable[..., DeadlineExceeded]) -> None:
    """End a call whose time is over. Of a write that is running, the server has to tell whether it was in time."""
    error = exceeded(sent=call.is_sent)
    if call.is_sent and not call.may_repeat:
        call.expired = error
        call.future.get_loop().call_later(DEADLINE_CANCEL_TIMEOUT_SECONDS, call.fail, _unknown(call.name))
    else:
        call.fail(error)
