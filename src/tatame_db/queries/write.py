"""Writes of many rows: one statement for all rows with the same columns, or COPY for very many of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeAlias, TypeVar, cast, overload

import msgspec
from sqlalchemy.exc import DBAPIError

from tatame_db.database.errors import NotOnCitus
from tatame_db.errors import counted
from tatame_db.queries.arguments import (
    PARTITIONED,
    WITHOUT_KEY,
    check_model,
    check_unique,
    is_partitioned,
    key_columns,
    returned_columns,
    uncountable,
)
from tatame_db.queries.errors import AnswerNotReadable, NotAKey, RowsSkipped, ValueNotReadable
from tatame_db.queries.learn import learns, learns_async
from tatame_db.queries.rejections import rejection
from tatame_db.queries.run import (
    AsyncTarget,
    SyncTarget,
    commits_at_once,
    copy,
    copy_async,
    fetch_all,
    fetch_all_async,
    has_citus,
    is_sync,
    meet,
    meet_async,
    outcome_of_unread,
)
from tatame_db.queries.validate import Batch, insert_batches, update_batches, upsert_batches
from tatame_db.queries.write_sql import (
    copy_statement,
    insert_statement,
    placed_insert_statement,
    placed_upsert_statement,
    update_statement,
    upsert_statement,
)
from tatame_db.schema import Base

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence

    import psycopg
    from sqlalchemy.orm import InstrumentedAttribute

    from tatame_db.queries.engine.plan import Statement

T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Model = TypeVar("Model", bound=Base)
Calls: TypeAlias = "list[tuple[Statement[Any], dict[str, Any]]]"
"""Statements, each with its parameters."""

COPY_MIN_ROWS = 20_000
"""From this many rows on, and for big ones, an insert uses COPY: the server does not hold all rows at once."""


@dataclass(frozen=True)
class Upserted:
    """How many rows an upsert inserted, and how many it found and updated.

    A row that a trigger skips is in neither number.
    """

    inserted: int
    updated: int


class Write(msgspec.Struct, Generic[R_co], frozen=True):
    """Rows that are ready to be written; made by `insert_many`, `upsert` and `update_many`."""

    model: type[Base]
    key: tuple[str, ...]
    batches: tuple[Batch, ...]
    calls: Calls
    """The statement of each batch, with its parameters."""
    result: Callable[[list[list[Any]]], R_co]
    """Makes the result of the answer of each statement; of none if nothing was sent."""
    copying: Statement[Any] | None = None
    """The COPY that takes the place of the statement for many rows."""
    counts_new_rows: bool = False
    """Whether the statements tell inserted rows from updated ones."""
    calls_on_citus: Callable[[], Calls] | None = None
    """Makes those for a database with Citus, where they differ."""
    returns_each: bool = False
    """Whether each row that is written is returned, in the order of the batch."""

    def __repr__(self) -> str:
        """Show what is written and how many rows, without their values."""
        statement = self.calls[0][0].name if self.calls else self.model.__name__
        return f"<Write: {statement}, {counted(self._number_of_rows, 'row')}>"

    @overload
    def run(self, target: SyncTarget, /) -> R_co: ...
    @overload
    def run(self, target: AsyncTarget, /) -> Coroutine[Any, Any, R_co]: ...
    def run(self, target: SyncTarget | AsyncTarget, /) -> Any:
        """Write all rows, or none.

            insert_many(Checkin, rows).run(db)
            await insert_many(Checkin, rows).run(async_session)

        On a database they are committed at once; a session or connection lends its transaction. Raises `RowRejected`
        for a row that violates a constraint or has a value that its column does not accept, `AnswerNotReadable` for a
        returned value that Python cannot represent, and what a session would raise for other errors of the server.
        """
        return self._run(target) if is_sync(target) else self._run_async(target)

    def _run(self, target: SyncTarget) -> R_co:
        try:
            if self.copying and self._is_large:
                return self.result([[copy(target, self.copying, self._copied_rows)]])
            if self.calls_on_citus and has_citus(target) is None:
                meet(target, self.calls[0][0])
            calls = self._calls_for(target)
            answers = fetch_all(target, calls) if calls else []
            if self._is_unwritten(calls, answers) and learns(target):
                answers = fetch_all(target, self._calls_for(target))
        except (ValueNotReadable, NotOnCitus, DBAPIError) as error:
            self._fail(target, error)
        return self._checked(target, answers)

    async def _run_async(self, target: AsyncTarget) -> R_co:
        try:
            if self.copying and self._is_large:
                return self.result([[await copy_async(target, self.copying, self._copied_rows)]])
            if self.calls_on_citus and has_citus(target) is None:
                await meet_async(target, self.calls[0][0])
            calls = self._calls_for(target)
            answers = await fetch_all_async(target, calls) if calls else []
            if self._is_unwritten(calls, answers) and await learns_async(target):
                answers = await fetch_all_async(target, self._calls_for(target))
        except (ValueNotReadable, NotOnCitus, DBAPIError) as error:
            self._fail(target, error)
        return self._checked(target, answers)

    def _calls_for(self, target: SyncTarget | AsyncTarget) -> Calls:
        return self.calls_on_citus() if self.calls_on_citus and has_citus(target) else self.calls

    def _is_unwritten(self, calls: Calls, answers: list[list[Any]]) -> bool:
        """Return whether nothing was written, which the database does if it has Citus since the calls were chosen."""
        return calls is self.calls and bool(self.calls_on_citus) and self.returns_each and not any(answers)

    def _checked(self, target: SyncTarget | AsyncTarget, answers: list[list[Any]]) -> R_co:
        """Return the result, unless rows are missing: nothing tells which, so that the others would move up."""
        result = self.result(answers)
        if not self.returns_each:
            return result
        rows, written = self._number_of_rows, sum(map(len, answers))
        if written < rows:
            raise RowsSkipped(
                model=self.model.__name__,
                rows=rows,
                written=written,
                is_committed=commits_at_once(target),
                returned=cast("list[Any]", result),
            )
        return result

    @property
    def _is_large(self) -> bool:
        return len(self.batches) > 1 or self._number_of_rows >= COPY_MIN_ROWS

    @property
    def _number_of_rows(self) -> int:
        return sum(len(batch.rows) for batch in self.batches)

    @property
    def _copied_rows(self) -> Iterable[Sequence[Any]]:
        return (msgspec.structs.astuple(row) for batch in self.batches for row in batch.rows)

    def _fail(self, target: SyncTarget | AsyncTarget, error: ValueNotReadable | NotOnCitus | DBAPIError) -> NoReturn:
        """Name the row that the server rejected, or say what became of rows whose answer cannot be read."""
        if isinstance(error, ValueNotReadable):
            outcome = outcome_of_unread(target, len(self.batches))
            raise AnswerNotReadable(name=error.name, outcome=outcome) from None
        if isinstance(error, NotOnCitus):
            if self.counts_new_rows and is_partitioned(self.model):
                raise uncountable(self.model) from error
            raise error
        reason = cast("psycopg.Error", error.orig)
        if reason.sqlstate == "0A000" and self.counts_new_rows:
            raise uncountable(self.model) from error
        if reason.sqlstate == "42P10":
            raise NotAKey(
                model=self.model.__name__,
                problem=f"the table has no unique key of {', '.join(self.key)} in the database; {PARTITIONED}",
                advice=f"compare the models with the database by `tatame-db check`; {WITHOUT_KEY}",
            ) from error
        rejected = rejection(self.model, self.batches, self.key, reason)
        if rejected is None:
            raise error
        # The server's message has the values of the row, which may be personal.
        raise rejected from None


class _ModelClass(Protocol[Model]):
    """The class of a model, to a type checker.

    With `type[Model]`, rows of another model would make `Model` the base of both, and be no error.
    """

    def _alike(self, row: Model) -> Model: ...


class _KeyedWrite(Protocol[R_co]):
    """The types of `upsert` and `update_many`, which differ in what `run` returns without `returning`."""

    @overload
    def __call__(
        self,
        model: _ModelClass[Model],
        rows: Iterable[Model | Mapping[str, object]],
        *,
        by: Sequence[InstrumentedAttribute[Any]],
    ) -> Write[R_co]: ...
    @overload
    def __call__(
        self,
        model: _ModelClass[Model],
        rows: Iterable[Model | Mapping[str, object]],
        *,
        by: Sequence[InstrumentedAttribute[Any]],
        returning: type[Model],
    ) -> Write[list[Model]]: ...
    @overload
    def __call__(
        self,
        model: _ModelClass[Model],
        rows: Iterable[Model | Mapping[str, object]],
        *,
        by: Sequence[InstrumentedAttribute[Any]],
        returning: InstrumentedAttribute[T],
    ) -> Write[list[T]]: ...


def _keyed(_: type[R]) -> Callable[[Callable[..., Write[Any]]], _KeyedWrite[R]]:
    """Give a function the types of a keyed write."""
    return lambda function: cast("_KeyedWrite[R]", function)


@overload
def insert_many(model: _ModelClass[Model], rows: Iterable[Model | Mapping[str, object]]) -> Write[int]: ...
@overload
def insert_many(
    model: _ModelClass[Model], rows: Iterable[Model | Mapping[str, object]], *, returning: type[Model]
) -> Write[list[Model]]: ...
@overload
def insert_many(
    model: _ModelClass[Model], rows: Iterable[Model | Mapping[str, object]], *, returning: InstrumentedAttribute[T]
) -> Write[list[T]]: ...
def insert_many(model: Any, rows: Iterable[Any], *, returning: Any = None) -> Write[Any]:
    """Check objects or mappings to insert; `run` inserts them.

        insert_many(Checkin, [{"user_id": 1}, Checkin(user_id=2)]).run(db)
        ids = insert_many(Checkin, [{"user_id": 1}], returning=Checkin.id).run(db)

    `run` returns the number of rows that the server wrote or, in their order, the rows or values that `returning`
    names. Then it raises `RowsSkipped`, after the write, if a trigger or rule of the database skipped some of them. A
    column that no row names gets its default. Raises `RowInvalid`, and `WriteInvalid` for wrong arguments.
    """
    check_model(model)
    returned = returned_columns(model, returning)
    batches = tuple(insert_batches(model, rows))

    def result(rows_of_batches: list[list[Any]]) -> Any:
        if returning is None:
            return sum(number for [number] in rows_of_batches)
        return _results(model, returning, [row for rows in rows_of_batches for row in rows])

    calls = [
        (insert_statement(model, batch.columns, returned, is_single=is_single), values)
        for batch, is_single, values in _with_parameters(batches)
    ]
    copying = copy_statement(model, batches[0].columns) if batches and not returned else None
    placed = _placed_calls(batches, calls, lambda batch: placed_insert_statement(model, batch.columns, returned))
    return Write(model, (), batches, calls, result, copying, calls_on_citus=placed, returns_each=bool(returned))


@_keyed(Upserted)
def upsert(model: type[Base], rows: Iterable[Any], *, by: Any, returning: Any = None) -> Write[Any]:
    """Check rows to insert, or to update where a row with the same primary or unique key exists.

        upsert(User, [{"clerk_user_id": "user_ana", "first_name": "Ana"}], by=[User.clerk_user_id]).run(db)
        users = upsert(User, rows, by=[User.clerk_user_id], returning=User).run(db)

    In a row that exists, exactly the columns that its own row names are set; a new row has its defaults in the others.
    So each row names the columns that have neither a default nor NULL. `run` returns an `Upserted` with the numbers of
    inserted and updated rows or, in the order of `rows`, the rows or values that `returning` names.

    There is one statement for each set of columns, and one transaction for all. With `returning`, `run` raises
    `RowsSkipped`, after the write, if a trigger skipped rows. Raises `RowInvalid`, also for two rows
    with the same key, `NotAKey` if `by` is not a primary or unique key, and `WriteInvalid` for other wrong arguments.
    """
    check_model(model)
    key = key_columns(model, by)
    check_unique(model, key)
    returned = returned_columns(model, returning)
    batches = tuple(upsert_batches(model, rows, key))
    calls = [
        (
            upsert_statement(
                model,
                batch.columns,
                key,
                tuple(name for name in batch.named if name not in key),
                returned,
                is_single=is_single,
            ),
            values,
        )
        for batch, is_single, values in _with_parameters(batches)
    ]

    def result(rows_of_batches: list[list[Any]]) -> Any:
        if returning is None:
            counts = [counts for [counts] in rows_of_batches]
            return Upserted(sum(inserted for inserted, _ in counts), sum(updated for _, updated in counts))
        return _in_order(
            model,
            returning,
            [
                (position, row)
                for batch, rows in zip(batches, rows_of_batches, strict=False)
                for position, row in zip(batch.positions, rows, strict=False)
            ],
        )

    def placed_statement(batch: Batch) -> Statement[Any]:
        changed = tuple(name for name in batch.named if name not in key)
        return placed_upsert_statement(model, batch.columns, key, changed, returned)

    return Write(
        model,
        key,
        batches,
        calls,
        result,
        counts_new_rows=not returned,
        calls_on_citus=_placed_calls(batches, calls, placed_statement),
        returns_each=bool(returned),
    )


@_keyed(int)
def update_many(model: type[Base], rows: Iterable[Any], *, by: Any, returning: Any = None) -> Write[Any]:
    """Check rows to update; each sets the columns that it names, on the rows with the same values in the columns `by`.

        update_many(User, [{"id": 1, "phone": None}, {"id": 2, "email": "bia@gym.example"}], by=[User.id]).run(db)
        users = update_many(User, rows, by=[User.id], returning=User).run(db)

    Columns that a row does not name are left as they are. `run` returns the number of rows of the table that matched
    or, in the order of `rows`, the updated rows or values that `returning` names. A row that matches nothing, or
    that a trigger skips, is not an error, and not among them.

    There is one statement for each set of columns, and one transaction for all. Raises `RowInvalid`, also for two rows
    with the same key, `NotAKey` if `by` is not a list of columns, and `WriteInvalid` for other wrong arguments.
    """
    check_model(model)
    key = key_columns(model, by)
    returned = returned_columns(model, returning)
    batches = tuple(update_batches(model, rows, key))
    calls = [(update_statement(model, batch.columns, key, returned), {"rows": batch.encoded}) for batch in batches]

    def result(rows_of_batches: list[list[Any]]) -> Any:
        if returning is None:
            return sum(number for [number] in rows_of_batches)
        numbered: list[tuple[int, Any]] = [
            (batch.positions[number], row)
            for batch, rows in zip(batches, rows_of_batches, strict=False)
            for number, row in rows
        ]
        return _in_order(model, returning, numbered)

    return Write(model, key, batches, calls, result)


def _placed_calls(
    batches: Sequence[Batch], calls: Calls, placed: Callable[[Batch], Statement[Any] | None]
) -> Callable[[], Calls] | None:
    """Return what makes the calls for Citus; a single row needs no other form."""

    def make() -> Calls:
        return [
            call if (statement := placed(batch)) is None else (statement, call[1])
            for batch, call in zip(batches, calls, strict=True)
        ]

    return make if any("rows" in values for _, values in calls) else None


def _with_parameters(batches: Sequence[Batch]) -> Iterator[tuple[Batch, bool, dict[str, Any]]]:
    """Yield each batch, whether its statement is that of a single row, and the parameters.

    One of several batches is none: all of them have the guard of Citus, or none has it.
    """
    for batch in batches:
        values = batch.values if len(batches) == 1 else None
        yield (batch, False, {"rows": batch.encoded}) if values is None else (batch, True, values)


def _in_order(model: type[Base], returning: Any, numbered: list[tuple[int, Any]]) -> list[Any]:
    """Return the results in the order of the caller's rows, for rows with their positions."""
    return _results(model, returning, [row for _, row in sorted(numbered, key=lambda pair: pair[0])])


def _results(model: type[Base], returning: Any, rows: list[Any]) -> list[Any]:
    return rows if returning is model else [getattr(row, returning.key) for row in rows]
