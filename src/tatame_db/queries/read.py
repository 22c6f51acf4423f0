"""Reads: described once, compiled once to one statement, and run often."""

from __future__ import annotations

import inspect as python
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from sqlalchemy import BindParameter, bindparam
from typing_extensions import ParamSpec

from tatame_db.queries.compile import CompiledRead, compile_read
from tatame_db.queries.description import RelationRead, read_relation, row_count
from tatame_db.queries.engine.plan import Statement
from tatame_db.queries.errors import NotOneRow, ParametersDiffer
from tatame_db.queries.run import (
    AsyncTarget,
    SyncTarget,
    fetch,
    fetch_async,
    is_sync,
    stream,
    stream_async,
)
from tatame_db.schema import Base

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence

    from sqlalchemy.orm import InstrumentedAttribute

T = TypeVar("T")
Model = TypeVar("Model", bound=Base)
P = ParamSpec("P", default=...)
Q = ParamSpec("Q")

MAX_STATEMENTS = 256
"""How many pairs of limit and offset of one read are cached as statements."""


@dataclass(frozen=True, eq=False)
class Read(RelationRead, Generic[T, P]):
    """What to read in one statement; made by `read` and `query`.

    Each method that runs it takes a target and then the parameters. A `Database` lends a connection in autocommit; a
    session or connection lends its transaction, and a session is flushed first if it has autoflush. On `Database`,
    `Session` and `Connection` the result is returned, on their async counterparts it is awaited.

    Every method raises `ReadInvalid` if the description cannot be one statement, `ParametersDiffer` for missing or
    unknown parameters, `ValueNotReadable` for a timestamp outside Python's range, and what a session would raise for
    an error of the server.
    """

    name: str = ""
    """The name in the log and in errors; that of the function if `query` made the read."""
    parameters: tuple[str, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict[str, Any])

    @overload
    def first(self, target: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> T | None: ...
    @overload
    def first(self, target: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T | None]: ...
    def first(self, target: SyncTarget | AsyncTarget, /, *args: Any, **kwargs: Any) -> Any:
        """Return the first row, or `None` if there is none.

        user = find_user.first(db, clerk_user_id="user_123")
        user = await find_user.first(async_db, clerk_user_id="user_123")
        """
        return self._fetch(target, lambda rows: rows[0] if rows else None, *self._prepare(args, kwargs, at_most=1))

    @overload
    def one(self, target: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def one(self, target: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]: ...
    def one(self, target: SyncTarget | AsyncTarget, /, *args: Any, **kwargs: Any) -> Any:
        """Return the only row; raises `NotOneRow` if there is none, or more than one.

        gym = read(Gym).where(Gym.id == 1).one(db)
        gym = await read(Gym).where(Gym.id == 1).one(async_session)
        """
        return self._fetch(target, self._only_row, *self._prepare(args, kwargs, at_most=2))

    @overload
    def all(self, target: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> list[T]: ...
    @overload
    def all(self, target: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, list[T]]: ...
    def all(self, target: SyncTarget | AsyncTarget, /, *args: Any, **kwargs: Any) -> Any:
        """Return all rows.

        gyms = read(Gym).order_by(Gym.name).all(db)
        gyms = await read(Gym).order_by(Gym.name).all(async_db)
        """
        statement, values = self._prepare(args, kwargs)
        return fetch(target, statement, values) if is_sync(target) else fetch_async(target, statement, values)

    @overload
    def stream(self, target: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]: ...
    @overload
    def stream(self, target: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]: ...
    def stream(self, target: SyncTarget | AsyncTarget, /, *args: Any, **kwargs: Any) -> Any:
        """Yield the rows, with 1,000 at a time in memory. The connection is in use until the iterator is closed.

        for checkin in read(Checkin).stream(db): ...
        async for checkin in read(Checkin).stream(async_db): ...
        """
        statement, values = self._prepare(args, kwargs)
        return stream(target, statement, values) if is_sync(target) else stream_async(target, statement, values)

    @overload
    def explain(self, target: SyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> str: ...
    @overload
    def explain(self, target: AsyncTarget, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, str]: ...
    def explain(self, target: SyncTarget | AsyncTarget, /, *args: Any, **kwargs: Any) -> Any:
        """Run the read with EXPLAIN ANALYZE, and return the server's plan as text, with times and row counts.

        print(find_user.explain(db, clerk_user_id="user_123"))
        print(await find_user.explain(async_db, clerk_user_id="user_123"))
        """
        statement, values = self._prepare(args, kwargs)
        sql = f"EXPLAIN (ANALYZE, BUFFERS) {statement.sql}"
        return self._fetch(target, "\n".join, Statement(f"EXPLAIN {statement.name}", sql, _only_value), values)

    def _fetch(
        self, target: Any, finish: Callable[[list[Any]], Any], statement: Statement[Any], values: dict[str, Any]
    ) -> Any:
        if is_sync(target):
            return finish(fetch(target, statement, values))
        return _finished(finish, fetch_async(target, statement, values))

    def _only_row(self, rows: list[Any]) -> Any:
        if len(rows) != 1:
            raise NotOneRow(name=self._log_name, several=bool(rows))
        return rows[0]

    @property
    def _log_name(self) -> str:
        return self.name or f"read {self.model.__name__}"

    def _prepare(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], at_most: int | None = None
    ) -> tuple[Statement[Any], dict[str, Any]]:
        """Return the statement with its limits written out, and the values to send with it."""
        is_limited = at_most is not None or self.count is not None
        compiled = self._compiled_limited if is_limited else self._compiled
        values = self._values(compiled, args, kwargs)
        count, skip = self._limits(values, at_most)
        return self._statement(compiled, count, skip), compiled.bind(values)

    def _values(self, compiled: CompiledRead, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the values of a call by the names of their parameters."""
        values = {**self.defaults, **dict(zip(self.parameters, args, strict=False)), **kwargs}
        surplus = len(args) > len(self.parameters)
        if surplus or values.keys() != compiled.parameters:
            missing, unknown = compiled.parameters - values.keys(), values.keys() - compiled.parameters
            unknown |= {f"number {len(self.parameters) + 1}"} if surplus else set()
            raise ParametersDiffer(name=self._log_name, missing=set(missing), unknown=unknown)
        return values

    def _limits(self, values: dict[str, Any], at_most: int | None) -> tuple[Any, Any]:
        """Return LIMIT and OFFSET; where they are parameters, take them out of the values, for they become SQL."""
        count = row_count(values.pop(self.count.key)) if isinstance(self.count, BindParameter) else self.count
        skip = row_count(values.pop(self.skip.key)) if isinstance(self.skip, BindParameter) else self.skip
        if at_most is not None:
            count = at_most if count is None else min(row_count(count), at_most)
        return count, skip

    def _statement(self, compiled: CompiledRead, count: Any, skip: Any) -> Statement[Any]:
        statement = self._statements.get((count, skip))
        if statement is None:
            limits = "" if count is None else f"\nLIMIT {row_count(count)}"
            limits += f"\nOFFSET {row_count(skip)}" if skip else ""
            statement = Statement(self._log_name, compiled.sql + limits, compiled.make_row)
            if len(self._statements) < MAX_STATEMENTS:
                self._statements[count, skip] = statement
        return statement

    @cached_property
    def _statements(self) -> dict[tuple[Any, Any], Statement[Any]]:
        """The statements that were made, by LIMIT and OFFSET."""
        return {}

    @cached_property
    def _compiled(self) -> CompiledRead:
        return compile_read(self, self._log_name, joined=True)

    @cached_property
    def _compiled_limited(self) -> CompiledRead:
        return compile_read(self, self._log_name, joined=False) if self.order else self._compiled


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
    return Read[Any](source) if isinstance(source, type) else read_relation(source)


def query(function: Callable[Q, Read[T]]) -> Read[T, Q]:
    """Make the parameters of a function those of the read that it returns.

        @query
        def students(gym_id: int) -> Read[User]:
            return read(User).where(User.gym_id == gym_id, User.role == "STUDENT")

        students.all(db, gym_id=1)

    The function is called once, here, with placeholders as arguments, so it cannot decide by their values.
    """
    parameters = python.signature(function).parameters
    placeholders: dict[str, Any] = {name: bindparam(name) for name in parameters}
    description = cast("Callable[..., Read[T]]", function)(**placeholders)
    defaults = {
        name: parameter.default for name, parameter in parameters.items() if parameter.default is not parameter.empty
    }
    named = replace(description, name=function.__name__, parameters=tuple(parameters), defaults=defaults)
    return cast("Read[T, Q]", named)
