"""A call: the statements of one caller that form one transaction, and the future that the caller awaits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from tatame_db.queries.engine.plan import load_rows

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from psycopg import AsyncConnection
    from psycopg.pq.abc import PGconn, PGresult

    from tatame_db.queries.engine.plan import Parameters, Plan, Prepared

MAX_TRIES = 3
"""How often a call is sent before a lost connection is its end. Those that a cancel request hits by accident do not
count."""


class Step:
    """One statement of a call, as it was sent."""

    __slots__ = ("parameters", "plan", "prepared", "prepares")

    def __init__(self, plan: Plan[Any], parameters: Parameters, prepared: Prepared | None) -> None:
        self.plan = plan
        self.parameters = parameters
        self.prepared = prepared
        """The prepared statement that it runs; `None` for a statement without a name."""
        self.prepares = False
        """Whether the answer starts with that to the Parse of the prepared statement."""


class Answer:
    """The results of a call, in the order of its statements. The rows are made in the caller's task."""

    __slots__ = ("_connection", "_results", "_steps")

    def __init__(self, connection: AsyncConnection[Any], steps: Sequence[Step], results: Sequence[PGresult]) -> None:
        self._connection = connection
        self._steps = steps
        self._results = results

    def rows(self) -> list[list[Any]]:
        """Return the rows of each statement."""
        return [self._rows(step, result) for step, result in zip(self._steps, self._results, strict=True)]

    def _rows(self, step: Step, result: PGresult) -> list[Any]:
        if step.prepared is None:
            return load_rows(step.plan, self._connection, result)
        return step.prepared.rows(step.plan, result)


Future: TypeAlias = "asyncio.Future[Answer]"


class Call:
    """A call, from its start to its answer."""

    __slots__ = (
        *("alone", "cancelled_at", "expired", "failed_step", "future", "has_names", "is_copied", "is_sent"),
        *("may_repeat", "sent_on_idle", "server", "statements", "steps", "tries", "waiting_since", "was_hit"),
    )

    def __init__(self, future: Future, statements: Sequence[tuple[Plan[Any], Parameters]]) -> None:
        self.future = future
        self.statements = statements
        self.may_repeat = all(plan.may_repeat for plan, _ in statements)
        self.steps: list[Step] = []
        """The statements as they were sent the last time."""
        self.waiting_since = 0.0
        """The `time.perf_counter()` since which it may wait for a pipe."""
        self.tries = 0
        self.is_sent = False
        """Whether it is in a pipe."""
        self.server: PGconn | None = None
        """The connection on which it was sent the last time."""
        self.alone = False
        """Whether it is the only call of its pipe."""
        self.sent_on_idle = False
        """Whether no other call was in its pipe, so that its time contains a round trip."""
        self.has_names = True
        """False once the server did not know the name of a prepared statement."""
        self.is_copied = False
        """Whether it was sent on another pipe too."""
        self.was_hit = False
        """Whether a cancel request for another call ended it. It runs alone from then on, where none can."""
        self.cancelled_at: float | None = None
        """When the server was asked to end it."""
        self.expired: Exception | None = None
        """What the caller receives if the server ends it: its time is over."""
        self.failed_step = 0
        """The position of the statement whose error the caller receives."""

    @property
    def name(self) -> str:
        """The name of its statement, or of the first one."""
        return self.statements[0][0].name if self.statements else "hello"

    @property
    def ended(self) -> bool:
        """Whether the caller has its answer, or has left."""
        return self.future.done()

    def copy(self) -> Call:
        """Return a call whose answer is as good as that of this one: the first that comes is taken."""
        copy = Call(self.future, self.statements)
        copy.tries, copy.waiting_since = self.tries, self.waiting_since
        return copy

    def answer(self, connection: AsyncConnection[Any], results: Sequence[PGresult]) -> None:
        """Hand the results to the caller."""
        if not self.future.done():
            self.future.set_result(Answer(connection, self.steps, results))

    def fail(self, error: BaseException) -> None:
        """Raise an error in the caller."""
        if not self.future.done():
            self.future.set_exception(error)
