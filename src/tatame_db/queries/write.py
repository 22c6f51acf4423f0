"""Writes of many rows: one statement for all rows with the same columns, or COPY for very many of them."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

import msgspec
from sqlalchemy import ForeignKeyConstraint, PrimaryKeyConstraint, Table, UniqueConstraint, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import InstrumentedAttribute

from tatame_db.database.dialect import DIALECT
from tatame_db.queries.errors import NotAKey, RowRejected
from tatame_db.queries.run import (
    AsyncTarget,
    SyncTarget,
    copy,
    copy_async,
    fetch_all,
    fetch_all_async,
    is_sync,
)
from tatame_db.queries.validate import Batch, insert_batch, update_batches
from tatame_db.queries.write_sql import copy_statement, insert_statement, update_statement
from tatame_db.schema import Base

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence

    import psycopg

    from tatame_db.queries.engine.plan import Statement

T = TypeVar("T")
R = TypeVar("R")
Model = TypeVar("Model", bound=Base)

COPY_MIN_ROWS = 20_000
"""From this many rows on, an insert uses COPY: it is no faster, but the server does not hold all rows at once."""

# The problem and the advice for a row that a constraint rejected, by SQLSTATE.
REJECTIONS = {
    "23503": ("refers to a row that does not exist", "write the row that it refers to first, or correct this one"),
    "23505": ("already exists", "correct this row, or remove it"),
}


@dataclass(frozen=True)
class Write(Generic[R]):
    """Rows that are ready to be written; made by `insert_many`, `upsert` and `update_many`."""

    model: type[Base]
    key: tuple[str, ...]
    batches: tuple[Batch, ...]
    statements: tuple[Statement[Any], ...]
    """The statement of each batch."""
    result: Callable[[list[list[Any]]], R]
    """Makes the result of the rows that each statement returned; of none if nothing was sent, or by COPY."""
    copying: Statement[Any] | None = None
    """The COPY that takes the place of the statement for many rows."""

    @overload
    def run(self, target: SyncTarget, /) -> R: ...
    @overload
    def run(self, target: AsyncTarget, /) -> Coroutine[Any, Any, R]: ...
    def run(self, target: SyncTarget | AsyncTarget, /) -> Any:
        """Write all rows, or none.

            insert_many(Checkin, rows).run(db)
            await insert_many(Checkin, rows).run(async_session)

        On a database they are committed at once; a session or connection lends its transaction. Raises `RowRejected`
        for a foreign or unique key, and what a session would raise for other errors of the server.
        """
        return self._run(target) if is_sync(target) else self._run_async(target)

    def _run(self, target: SyncTarget) -> R:
        with self._explained():
            if self.copying and self._is_large:
                copy(target, self.copying, self._copied_rows)
                return self.result([])
            return self.result(fetch_all(target, self._calls) if self.batches else [])

    async def _run_async(self, target: AsyncTarget) -> R:
        with self._explained():
            if self.copying and self._is_large:
                await copy_async(target, self.copying, self._copied_rows)
                return self.result([])
            return self.result(await fetch_all_async(target, self._calls) if self.batches else [])

    @property
    def _is_large(self) -> bool:
        return sum(len(batch.rows) for batch in self.batches) >= COPY_MIN_ROWS

    @property
    def _copied_rows(self) -> Iterable[Sequence[Any]]:
        return (msgspec.structs.astuple(row) for batch in self.batches for row in batch.rows)

    @property
    def _calls(self) -> list[tuple[Statement[Any], dict[str, Any]]]:
        return [
            (statement, {"rows": batch.encoded}) for statement, batch in zip(self.statements, self.batches, strict=True)
        ]

    @contextmanager
    def _explained(self) -> Generator[None]:
        """Name the row that the server rejected."""
        try:
            yield
        except DBAPIError as error:
            rejection = self._rejection(cast("psycopg.Error", error.orig))
            if rejection is None:
                raise
            # The server's message has the values of the row, which may be personal.
            raise rejection from None

    def _rejection(self, error: psycopg.Error) -> RowRejected | None:
        if error.sqlstate == "21000":
            return self._repeated_key()
        constraint = _constraints(self.model).get(error.diag.constraint_name or "")
        if constraint is None or error.sqlstate not in REJECTIONS:
            return None
        problem, advice = REJECTIONS[error.sqlstate]
        if error.sqlstate == "23505" and not self.key:
            advice += "; `upsert` updates a row that exists"
        columns = tuple(column.name for column in constraint.columns)
        positions = self._positions(columns, error.diag.message_detail or "")
        if error.sqlstate == "23505" and len(positions) > 1:
            # The key may be new in the database, and the second row repeats it.
            problem, advice = "has the same value in an earlier row", "keep one row for each value"
            del positions[0]
        position = positions[0] if positions else None
        return RowRejected(
            model=self.model.__name__, position=position, columns=columns, problem=problem, advice=advice
        )

    def _repeated_key(self) -> RowRejected:
        # Only `upsert` meets this; it has one batch.
        [batch] = self.batches
        keys = [_values(row, self.key) for row in batch.rows]
        times = Counter(map(repr, keys))
        position = max(position for position, key in enumerate(keys) if times[repr(key)] > 1)
        return RowRejected(
            model=self.model.__name__,
            position=position,
            columns=self.key,
            problem="is the key of an earlier row too",
            advice="keep one row for each key",
        )

    def _positions(self, columns: tuple[str, ...], detail: str) -> list[int]:
        """Find the rows with the values in the server's message, such as `Key (user_id)=(99) is not present`."""
        return [
            position
            for batch in self.batches
            if set(columns) <= set(batch.columns)
            for position, row in zip(batch.positions, batch.rows, strict=True)
            if f"({', '.join(columns)})=({', '.join(map(str, _values(row, columns)))})" in detail
        ]


@overload
def insert_many(model: type[Model], rows: Iterable[Model | Mapping[str, object]]) -> Write[int]: ...
@overload
def insert_many(
    model: type[Model], rows: Iterable[Model | Mapping[str, object]], *, returning: type[Model]
) -> Write[list[Model]]: ...
@overload
def insert_many(
    model: type[Model], rows: Iterable[Model | Mapping[str, object]], *, returning: InstrumentedAttribute[T]
) -> Write[list[T]]: ...
def insert_many(model: type[Base], rows: Iterable[Any], *, returning: Any = None) -> Write[Any]:
    """Check objects or mappings to insert; `run` inserts them.

        insert_many(Checkin, [{"user_id": 1}, Checkin(user_id=2)]).run(db)
        ids = insert_many(Checkin, [{"user_id": 1}], returning=Checkin.id).run(db)

    `run` returns the number of rows or, in their order, the rows or values that `returning` names. A column that no
    row names gets its default. Raises `RowInvalid`.
    """
    return _one_statement(model, (), insert_batch(model, rows), returning)


@overload
def upsert(
    model: type[Model], rows: Iterable[Model | Mapping[str, object]], *, by: Sequence[InstrumentedAttribute[Any]]
) -> Write[int]: ...
@overload
def upsert(
    model: type[Model],
    rows: Iterable[Model | Mapping[str, object]],
    *,
    by: Sequence[InstrumentedAttribute[Any]],
    returning: type[Model],
) -> Write[list[Model]]: ...
@overload
def upsert(
    model: type[Model],
    rows: Iterable[Model | Mapping[str, object]],
    *,
    by: Sequence[InstrumentedAttribute[Any]],
    returning: InstrumentedAttribute[T],
) -> Write[list[T]]: ...
def upsert(
    model: type[Base], rows: Iterable[Any], *, by: Sequence[InstrumentedAttribute[Any]], returning: Any = None
) -> Write[Any]:
    """Check rows to insert, or to update where a row with the same primary or unique key exists.

        upsert(User, [{"clerk_user_id": "user_ana", "first_name": "Ana"}], by=[User.clerk_user_id]).run(db)
        users = upsert(User, rows, by=[User.clerk_user_id], returning=User).run(db)

    `run` returns the same as for `insert_many`. In a row that exists, all columns that any row names are set.
    Raises `RowInvalid`, and `NotAKey` if `by` is not a primary or unique key.
    """
    key = _key(model, by)
    if set(key) not in _unique_keys(model):
        raise NotAKey(
            model=model.__name__,
            problem=f"no primary key or unique constraint consists of {', '.join(key)}",
            advice="name the columns of one, such as `by=[User.clerk_user_id]`",
        )
    return _one_statement(model, key, insert_batch(model, rows), returning)


@overload
def update_many(
    model: type[Model], rows: Iterable[Model | Mapping[str, object]], *, by: Sequence[InstrumentedAttribute[Any]]
) -> Write[int]: ...
@overload
def update_many(
    model: type[Model],
    rows: Iterable[Model | Mapping[str, object]],
    *,
    by: Sequence[InstrumentedAttribute[Any]],
    returning: type[Model],
) -> Write[list[Model]]: ...
@overload
def update_many(
    model: type[Model],
    rows: Iterable[Model | Mapping[str, object]],
    *,
    by: Sequence[InstrumentedAttribute[Any]],
    returning: InstrumentedAttribute[T],
) -> Write[list[T]]: ...
def update_many(
    model: type[Base], rows: Iterable[Any], *, by: Sequence[InstrumentedAttribute[Any]], returning: Any = None
) -> Write[Any]:
    """Check rows to update; each sets the columns that it names, on the rows with the same values in the columns `by`.

        update_many(User, [{"id": 1, "phone": None}, {"id": 2, "email": "bia@gym.example"}], by=[User.id]).run(db)
        users = update_many(User, rows, by=[User.id], returning=User).run(db)

    Columns that a row does not name are left as they are. `run` returns the number of rows that were updated or, in
    the order of `rows`, the updated rows or values that `returning` names. A row that matches nothing is not an error.
    There is one statement for each set of columns, and one transaction for all. Raises `RowInvalid`, also for two rows
    with the same key, and `NotAKey` if `by` is empty or names something else than columns of the model.
    """
    key = _key(model, by)
    batches = tuple(update_batches(model, rows, key))
    returned = _returned(model, returning)
    statements = tuple(update_statement(model, batch.columns, key, returned) for batch in batches)

    def result(rows_of_batches: list[list[Any]]) -> Any:
        if returning is None:
            return sum(number for [number] in rows_of_batches)
        numbered: list[tuple[int, Any]] = [
            (batch.positions[number], row)
            for batch, rows in zip(batches, rows_of_batches, strict=True)
            for number, row in rows
        ]
        numbered.sort(key=lambda pair: pair[0])
        return _results(model, returning, [row for _, row in numbered])

    return Write(model, key, batches, statements, result)


def _one_statement(model: type[Base], key: tuple[str, ...], batch: Batch, returning: Any) -> Write[Any]:
    """Return the write of an insert or upsert."""

    def result(rows_of_batches: list[list[Any]]) -> Any:
        if returning is None:
            return len(batch.rows)
        return _results(model, returning, [row for rows in rows_of_batches for row in rows])

    batches = (batch,) if batch.rows else ()
    statements = tuple(insert_statement(model, batch.columns, key, _returned(model, returning)) for batch in batches)
    can_copy = batches and not key and returning is None
    return Write(model, key, batches, statements, result, copy_statement(model, batch.columns) if can_copy else None)


def _returned(model: type[Base], returning: Any) -> tuple[str, ...]:
    """Return the columns that the statement returns for `returning`: none, all, or one."""
    if returning is None:
        return ()
    return tuple(inspect(model).columns.keys()) if returning is model else (str(returning.key),)


def _results(model: type[Base], returning: Any, rows: list[Any]) -> list[Any]:
    return rows if returning is model else [getattr(row, returning.key) for row in rows]


def _values(row: Any, columns: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in columns)


# --- Keys and constraints --------------------------------------------------------------------------------------------


def _key(model: type[Base], by: Sequence[Any]) -> tuple[str, ...]:
    """Return the names of the columns in `by`; raises `NotAKey` unless there are some, all of the model."""
    advice = f"name columns of {model.__name__}, such as `by=[{model.__name__}.{inspect(model).primary_key[0].key}]`"
    if isinstance(by, InstrumentedAttribute):
        raise NotAKey(model=model.__name__, problem="it is a column, not a list of columns", advice=advice)
    if not by:
        raise NotAKey(model=model.__name__, problem="it is empty", advice=advice)
    for column in by:
        is_column = isinstance(column, InstrumentedAttribute) and column.key in inspect(model).columns
        if not is_column or cast("Any", column).class_ is not model:
            raise NotAKey(model=model.__name__, problem=f"{column} is not a column of {model.__name__}", advice=advice)
    return tuple(dict.fromkeys(str(column.key) for column in by))


@cache
def _constraints(model: type[Base]) -> dict[str, Any]:
    """Return the keys and foreign keys of a model, by the name that the server reports."""
    kinds = ForeignKeyConstraint | PrimaryKeyConstraint | UniqueConstraint
    return {
        str(DIALECT.identifier_preparer.format_constraint(constraint)): constraint
        for constraint in cast("Table", model.__table__).constraints
        if isinstance(constraint, kinds)
    }


def _unique_keys(model: type[Base]) -> list[set[str]]:
    keys = PrimaryKeyConstraint | UniqueConstraint
    return [
        {column.name for column in constraint.columns}
        for constraint in _constraints(model).values()
        if isinstance(constraint, keys)
    ]
