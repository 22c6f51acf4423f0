"""Reads: described once, compiled once to one statement, and run often."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast, overload

from sqlalchemy import inspect
from typing_extensions import ParamSpec

from tatame_db.queries import clauses
from tatame_db.queries.description import RelationRead, read_relation
from tatame_db.queries.engine.deadline import deadline_after
from tatame_db.queries.engine.plan import Statement
from tatame_db.queries.errors import NotOneRow, ParametersDiffer, ReadHasNoMethod, ReadInvalid, ReadNotRun
from tatame_db.queries.functions import NO_NULLS, QueryFunction, named
from tatame_db.queries.learn import Prepare, fetch_as_it_can, fetch_as_it_can_async
from tatame_db.queries.parameters import parameter_name
from tatame_db.queries.run import (
    AsyncTarget,
    SyncTarget,
    fetch,
    fetch_async,
    has_citus,
    is_sync,
    meet,
    meet_async,
    stream,
    stream_async,
)
from tatame_db.queries.statements import Purpose, Statements
from tatame_db.schema import Base

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Sequence

    from sqlalchemy.orm import InstrumentedAttribute

    from tatame_db.queries.engine.streams import AsyncStream

T = TypeVar("T")
Model = TypeVar("Model", bound=Base)
P = ParamSpec("P", default=...)
Q = ParamSpec("Q")

NO_DEFAULTS: dict[str, Any] = {}

METHODS = {
    "filter": ".where(User.role == role)",
    "filter_by": ".where(User.role == role)",
    "get": ".where(User.id == id).first(db)",
    "group_by": "select(…).group_by(…)` in a session, or `.count(db)",
    "having": "select(…).having(…)` in a session",
    "join": ".where(User.gym.has(Gym.name == name))",
    "offset": ".limit(20, skip=40)` or `.page(3, size=20)",
    "one_or_none": ".first(db)",
    "options": ".load(User.gym)",
    "outerjoin": ".where(User.gym.has(Gym.name == name))",
    "scalar": ".one(db)",
    "scalars": ".all(db)",
    "with_for_update": "select(…).with_for_update()` in a session",
}
"""Methods of SQLAlchemy's queries, and what a read has in their place."""

MAX_COMBINATIONS = 64
"""For how many combinations of parameters that are None the statements of one read are cached."""


@dataclass(frozen=True, eq=False, repr=False)
class Read(RelationRead, Generic[T, P]):
    """What to read in one statement; made by `read` and `query`.

    Each method that runs it takes a target and then the parameters. A `Database` lends a connection in autocommit; a
    session or connection lends its transaction, and a session is flushed first if it has autoflush. On `Database`,
    `Session` and `Connection` the result is returned, on their async counterparts it is awaited.

    Every method raises `ReadInvalid` if the description cannot be one statement, `ParametersDiffer` for missing or
    unknown parameters, `ParameterInvalid` for a value of another type, `ValueNotReadable` for a timestamp outside
    Python's range, and what a session would raise for an error of the server.
    """

    name: str = ""
    """The name in the log and in errors; that of the function if `query` made the read."""
    function: QueryFunction | None = None
    """The function of a `@query`."""
    variant: Callable[[frozenset[str]], Read[T]] | None = None
    """Returns the description for parameters of the function that are None."""
    deadline_ms: int | None = None
    """How long each call may take."""

    def __repr__(self) -> str:
        return f"<query {self.name}>" if self.name else super().__repr__()

    def within(self, *, deadline_ms: int) -> Self:
        """Return the read with a deadline for each call, which includes the wait for a connection.

            find_user.within(deadline_ms=200).first(db, clerk_user_id="user_123")

        At the deadline the server ends the statement, and the call raises `DeadlineExceeded`. This costs no more than
        the call itself: both reads share their statements. `stream` has no deadline. Raises `ValueError` unless the
        number is an `int` from 1 to 2,147,483,647.
        """
        parameter = parameter_name(deadline_ms)
        if parameter is not None:
            raise ReadInvalid(
                problem=f"`within` received the parameter `{parameter}`",
                advice="set the deadline of a call where you call: `.within(deadline_ms=200).all(db, …)`",
            )
        deadline_after(deadline_ms)
        # Reading it makes the dictionary that the copy then shares.
        _ = self._statements
        limited = copy(self)
        object.__setattr__(limited, "deadline_ms", deadline_ms)
        return limited

    def page(self, number: int, *, size: int) -> Self:
        """Return the rows of a page, counted from 1, of `size` rows; either may be a parameter of a `@query`.

            read(User).order_by(User.first_name).page(2, size=20).all(db)

        The primary key follows in the order, so that each row is on one page. A page after the last is empty. The
        server counts through the rows of all pages before: for deep pages use `after`. Raises `ReadInvalid` for a
        number that is not an `int` of 1 or more, of a parameter when the read runs, and beside `limit` or `after`.
        """
        clauses.count(number, "page", least=1)
        clauses.count(size, "size")
        if self.size is not None and self.page_number is None:
            raise clauses.page_and_limit(self._log_name)
        self._check_one_way_to_page(self.last_row)
        return self._apply(lambda read: replace(read, size=size, skip=None, page_number=number, is_paged=True))

    def after(self, row: T | None) -> Self:
        """Return the rows after a row of the same read, in its order; from the start if it is None.

            @query
            def newest_checkins(last: Checkin | None) -> Read[Checkin]:
                return read(Checkin).order_by(Checkin.created_at.desc()).after(last).limit(50)

            page = newest_checkins.all(db, None)
            next_page = newest_checkins.all(db, page[-1])

        The primary key follows in the order, in the direction of its last column, so that each row has one place. The
        cost of a page does not depend on how many come before it. A row that has been deleted or changed still marks
        the place that it had. When the read runs, `ReadInvalid` is raised if the order has an expression, such as
        `func.lower(…)`, whose value is not part of a row, or a column that `columns` leaves out.
        """
        if row is not None and parameter_name(row) is None and not isinstance(row, self.model):
            raise ReadInvalid(
                problem=f"`after` received a value of type `{type(row).__name__}` in place of a row of {self.title}",
                advice="pass the last row of the page before, or None for the first page",
            )
        self._check_one_way_to_page(self.page_number)
        return self._apply(lambda read: replace(read, last_row=row, is_paged=True))

    def _check_one_way_to_page(self, other: Any) -> None:
        if other is not None:
            raise ReadInvalid(
                problem=f"{self._log_name} has `page` and `after`, which both choose where its rows start",
                advice="keep one of them: `.after(row).limit(20)` or `.page(page, size=20)`",
            )

    @overload
    def first(self, target: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> T | None: ...
    @overload
    def first(self, target: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T | None]: ...
    def first(self, target: SyncTarget | AsyncTarget, /, *args: Any, **kwargs: Any) -> Any:
        """Return the first row, or `None` if there is none.

        user = find_user.first(db, clerk_user_id="user_123")
        user = await find_user.first(async_db, clerk_user_id="user_123")
        """
        return self._fetch(target, _first_row, "first", args, kwargs)

    @overload
    def one(self, target: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def one(self, target: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]: ...
    def one(self, target: SyncTarget | AsyncTarget, /, *args: Any, **kwargs: Any) -> Any:
        """Return the only row; raises `NotOneRow` if there is none, or more than one.

        gym = read(Gym).where(Gym.id == 1).one(db)
        gym = await read(Gym).where(Gym.id == 1).one(async_session)
        """
        return self._fetch(target, self._only_row, "one", args, kwargs)

    @overload
    def all(self, target: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> list[T]: ...
    @overload
    def all(self, target: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, list[T]]: ...
    def all(self, target: SyncTarget | AsyncTarget, /, *args: Any, **kwargs: Any) -> Any:
        """Return all rows.

        gyms = read(Gym).order_by(Gym.name).all(db)
        gyms = await read(Gym).order_by(Gym.name).all(async_db)
        """
        statement, values = self._prepare("all", args, kwargs, target)
        again = partial(self._prepare, "all", args, kwargs, target)
        if is_sync(target):
            return self._rows(target, statement, values, again)
        return self._rows_async(target, statement, values, again)

    @overload
    def stream(self, target: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> Generator[T]: ...
    @overload
    def stream(self, target: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> AsyncStream[T]: ...
    def stream(self, target: SyncTarget | AsyncTarget, /, *args: Any, **kwargs: Any) -> Any:
        """Yield the rows, with 1,000 at a time in memory. The connection is in use until the iterator is closed.

        It is closed at its end, by `close` or, with asyncio, `aclose`, and when its caller keeps no reference to it.

        for checkin in read(Checkin).stream(db): ...
        async for checkin in read(Checkin).stream(async_db): ...
        """
        statement, values = self._prepare("stream", args, kwargs, target)
        if is_sync(target):
            return stream(target, statement, values)
        return stream_async(target, statement, values, partial(self._prepare, "stream", args, kwargs, target))

    @overload
    def count(self, target: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> int: ...
    @overload
    def count(self, target: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, int]: ...
    def count(self, target: SyncTarget | AsyncTarget, /, *args: Any, **kwargs: Any) -> Any:
        """Return how many rows meet the conditions, on all pages: `limit`, `page` and `after` do not matter.

        students_of.count(db, gym_id=1)
        await read(User).where(User.gym_id == 1).count(async_db)
        """
        return self._fetch(target, _first_row, "count", args, kwargs)

    @overload
    def exists(self, target: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> bool: ...
    @overload
    def exists(self, target: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, bool]: ...
    def exists(self, target: SyncTarget | AsyncTarget, /, *args: Any, **kwargs: Any) -> Any:
        """Return whether any row meets the conditions: `limit`, `page` and `after` do not matter.

        if read(User).where(User.email == email).exists(db): ...
        if await read(User).where(User.email == email).exists(async_db): ...
        """
        return self._fetch(target, _first_row, "exists", args, kwargs)

    @overload
    def explain(self, target: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> str: ...
    @overload
    def explain(self, target: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, str]: ...
    def explain(self, target: SyncTarget | AsyncTarget, /, *args: Any, **kwargs: Any) -> Any:
        """Run the read with EXPLAIN ANALYZE, and return the server's plan as text, with times and row counts.

        print(find_user.explain(db, clerk_user_id="user_123"))
        print(await find_user.explain(async_db, clerk_user_id="user_123"))
        """
        return self._fetch(target, "\n".join, "explain", args, kwargs)

    # For checkers, it has none of these, so that they find the mistakes themselves.
    if not TYPE_CHECKING:

        def __call__(self, *_: Any, **__: Any) -> Any:
            """Refuse to be a function."""
            raise self._not_run("was called like a function")

        def __iter__(self) -> Any:
            raise self._not_run("was iterated like its rows")

        __aiter__ = __iter__

        def __getattr__(self, name: str) -> Any:
            if name in METHODS:
                raise ReadHasNoMethod(method=name, form=METHODS[name])
            message = f"a read has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=self)

    def _not_run(self, use: str) -> ReadNotRun:
        parameters = ", ".join(["db", *(f"{name}=…" for name in sorted(self._names))])
        return ReadNotRun(name=self._log_name, use=use, form=f"{self.name or '…'}.all({parameters})")

    def _fetch(
        self,
        target: Any,
        finish: Callable[[list[Any]], Any],
        purpose: Purpose,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        statement, values = self._prepare(purpose, args, kwargs, target)
        again = partial(self._prepare, purpose, args, kwargs, target)
        if is_sync(target):
            return finish(self._rows(target, statement, values, again))
        return _finished(finish, self._rows_async(target, statement, values, again))

    def _rows(self, target: Any, statement: Statement[Any], values: dict[str, Any], prepare: Prepare) -> list[Any]:
        if statement.differs:
            return fetch_as_it_can(target, statement, values, prepare, deadline_ms=self.deadline_ms)
        return fetch(target, statement, values, deadline_ms=self.deadline_ms)

    def _rows_async(
        self,
        target: Any,
        statement: Statement[Any],
        values: dict[str, Any],
        prepare: Prepare,
    ) -> Coroutine[Any, Any, list[Any]]:
        if statement.differs and has_citus(target) is None:
            return self._first_rows_async(target, statement, prepare)
        if statement.differs:
            return fetch_as_it_can_async(target, statement, values, prepare, deadline_ms=self.deadline_ms)
        return fetch_async(target, statement, values, deadline_ms=self.deadline_ms)

    async def _first_rows_async(
        self,
        target: Any,
        statement: Statement[Any],
        prepare: Prepare,
    ) -> list[Any]:
        """Connect, so that the database is known, and then read as it can."""
        await meet_async(target, statement, self.deadline_ms)
        return await fetch_async(target, *prepare(), deadline_ms=self.deadline_ms)

    def _only_row(self, rows: list[Any]) -> Any:
        if len(rows) != 1:
            raise NotOneRow(name=self._log_name, several=bool(rows))
        return rows[0]

    @property
    def _log_name(self) -> str:
        return self.name or f"read {self.model.__name__}"

    def _prepare(
        self, purpose: Purpose, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any = None
    ) -> tuple[Statement[Any], dict[str, Any]]:
        """Return the statement for a purpose, and the values to send with it; `target` is named if it is none."""
        try:
            values = self._values(args, kwargs)
        except ParametersDiffer:
            # A call without the database shifts its parameters, which would be reported as missing.
            if target is not None:
                is_sync(target)
            raise
        nulls = frozenset([name for name, value in values.items() if value is None]) if values else NO_NULLS
        statements = self._statements.get(nulls) or self._statements_of(nulls)
        if statements.differs and target is not None and self._is_on_citus(target, statements, values):
            statements = statements.on_citus
        if purpose == "explain":
            statement, values = statements.prepare("all", values)
            sql = f"EXPLAIN (ANALYZE, BUFFERS) {statement.sql}"
            return Statement(f"EXPLAIN {statement.name}", sql, _only_value, differs=statement.differs), values
        return statements.prepare(purpose, values)

    def _is_on_citus(self, target: Any, statements: Statements, values: dict[str, Any]) -> bool:
        known = has_citus(target)
        if known is None and is_sync(target):
            meet(target, statements.prepare("all", values)[0], self.deadline_ms)
            known = has_citus(target)
        return bool(known)

    def _values(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the values of a call by the names of their parameters."""
        function = self.function
        positional = function.positional if function else ()
        defaults = function.defaults if function else NO_DEFAULTS
        values = {**defaults, **dict(zip(positional, args, strict=False)), **kwargs}
        surplus = len(args) > len(positional)
        repeated = kwargs.keys() & positional[: len(args)] if args and kwargs else ()
        if surplus or repeated or values.keys() != self._names:
            unknown = values.keys() - self._names
            unknown |= {f"number {len(positional) + 1}"} if surplus else set()
            own = function.names if function else ()
            raise ParametersDiffer(
                name=self._log_name,
                missing=set(self._names - values.keys()),
                unknown=set(unknown),
                repeated=set(repeated),
                known=(*own, *sorted(self._names.difference(own))),
            )
        return values

    @cached_property
    def _names(self) -> frozenset[str]:
        """The names of all parameters: those of the function, and those of `bindparam`."""
        return frozenset(self.used_parameters).union(self.function.names if self.function else ())

    @cached_property
    def _statements(self) -> dict[frozenset[str], Statements]:
        """The statements for each combination of parameters that are None."""
        return {}

    def _statements_of(self, nulls: frozenset[str]) -> Statements:
        statements = Statements(self._described(nulls), self._log_name)
        if len(self._statements) < MAX_COMBINATIONS:
            self._statements[nulls] = statements
        return statements

    def _described(self, nulls: frozenset[str]) -> Read[T]:
        """Return the description for parameters that are None."""
        if not nulls:
            return self
        described = self if self.variant is None else self.variant(nulls)
        try:
            return described.without_nulls(nulls)
        except ReadInvalid as error:
            raise named(error, self._log_name) from None

    def _apply(self, step: Callable[[Any], Any]) -> Self:
        changed = cast("Self", step(self))
        variant = self.variant
        if variant is None:
            return changed

        def changed_variant(nulls: frozenset[str]) -> Read[T]:
            return cast("Read[T]", step(variant(nulls)))

        return replace(changed, variant=changed_variant)


def _first_row(rows: list[Any]) -> Any:
    return rows[0] if rows else None


def _only_value(values: Sequence[Any]) -> str:
    return str(values[0])


async def _finished(finish: Callable[[list[Any]], Any], rows: Coroutine[Any, Any, list[Any]]) -> Any:
    return finish(await rows)


@overload
def read(source: type[Model]) -> Read[Model]: ...
@overload
def read(source: InstrumentedAttribute[Any]) -> RelationRead: ...
def read(source: Any) -> Any:
    """Describe a read of a model, or of a relation for `load`.

        read(User).where(User.gym_id == 1).all(db)
        read(User).load(read(User.graduations).limit(5)).all(db)

    A parameter is `bindparam("gym_id")` in a condition, and is passed by name; `query` makes typed ones. Raises
    `ReadInvalid` for a column.
    """
    is_model = isinstance(source, type) and inspect(source, raiseerr=False) is not None
    return Read[Any](source) if is_model else read_relation(source)


def query(function: Callable[Q, Read[T]]) -> Read[T, Q]:
    """Make the parameters of a function those of the read that it returns.

        @query
        def students(gym_id: int, role: str | None = None) -> Read[User]:
            students = read(User).where(User.gym_id == gym_id)
            return students if role is None else students.where(User.role == role)

        students.all(db, gym_id=1)

    The function describes the read for each combination of parameters that are None, which it receives as they are.
    In place of other values it receives placeholders, which become parameters of the SQL: it cannot decide or compute
    by them in Python. Only `is True` and `type(…)` answer for the placeholder unnoticed. It runs here, and again at the
    first call with another combination.

    Raises `ParameterHasNoValue` where Python needs the value of a placeholder, `ReadInvalid` for a parameter that
    no combination uses, and what the function itself raises.
    """
    called = QueryFunction(function)
    reads = {nulls: _described(called, nulls, described) for nulls, described in called.definitions()}
    described = reads[NO_NULLS]
    called.check_used(read.used_parameters for read in reads.values())

    def variant(nulls: frozenset[str]) -> Read[T]:
        return reads.get(nulls) or _described(called, nulls, called.call(nulls))

    named = replace(described, name=function.__name__, function=called, variant=variant)
    return cast("Read[T, Q]", named)


def _described(function: QueryFunction, nulls: frozenset[str], described: Any) -> Read[Any]:
    """Return the description that the function of a `@query` returned for parameters that are None."""
    if not isinstance(described, Read):
        raise ReadInvalid(
            problem=f"`{function.name}` returned a value of type `{type(described).__name__}`",
            advice="return the description of a read of a model, `return read(User).where(…)`, and run it where you "
            f"need its rows: `{function.name}.all(db, …)`",
        )
    found = cast("Read[Any]", described)
    # The function may return what another one has described, which has its own combinations.
    if found.function is not None:
        function.add_defaults(found.function.defaults)
    if found.variant is not None:
        found = replace(found.variant(nulls) if nulls else found, function=None, variant=None)
    return found
