"""Writes of many rows: one statement for all of them, or COPY for very many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Generic, NoReturn, TypeVar, cast, overload

import msgspec
from sqlalchemy import ForeignKeyConstraint, PrimaryKeyConstraint, Table, UniqueConstraint, inspect
from sqlalchemy.exc import DBAPIError

from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.queries.row import python_type, row_type
from tatame_db.queries.run import (
    DIALECT,
    AsyncTarget,
    Statement,
    SyncTarget,
    copy,
    copy_async,
    fetch,
    fetch_async,
    is_sync,
)
from tatame_db.schema import Base

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    import psycopg
    from sqlalchemy import Column
    from sqlalchemy.orm import InstrumentedAttribute

T = TypeVar("T")
R = TypeVar("R")
Model = TypeVar("Model", bound=Base)

COPY_FROM = 20_000
"""The number of rows from which on they go by COPY: it is no faster, but the server does not hold them all at once."""


class RowInvalid(TatameError):
    """A row cannot be sent: a column is unknown, missing or of another type."""

    def __init__(self, model: str, position: int, column: str, problem: str) -> None:
        self.model, self.position, self.column = model, position, column
        super().__init__(
            f"row {position} for {model}: `{column}` {problem}",
            means="Nothing was written. Rows are counted from 0.",
            fix="correct this row, or leave it out",
        )


class RowRefused(TatameError):
    """The database refused a row; the values are in no message, because they may be personal."""

    def __init__(self, model: str, position: int | None, columns: Sequence[str], problem: str) -> None:
        self.model, self.position, self.columns = model, position, tuple(columns)
        which = "a row" if position is None else f"row {position}"
        super().__init__(
            f"{which} for {model}: `{', '.join(columns)}` {problem}",
            means="Nothing was written; a transaction that this was part of has to be rolled back. "
            "Rows are counted from 0.",
            fix="correct this row or leave it out; `upsert` changes the rows that are there",
        )


class NotAKey(TatameError):
    """An upsert was asked for by columns that do not make a row unique."""

    def __init__(self, model: str, columns: Sequence[str]) -> None:
        super().__init__(
            f"{model} has no unique key of {', '.join(columns)}",
            means=NOTHING_CHANGED,
            fix="name the columns of its primary key or of a unique constraint, such as `by=[User.clerk_user_id]`",
        )


@dataclass(frozen=True)
class Write(Generic[R]):
    """Rows to be written; `run` writes them, all or none."""

    model: type[Base]
    rows: list[Any]
    encoded: str
    names: tuple[str, ...]
    key: tuple[str, ...]
    returning: tuple[str, ...]
    finish: Callable[[list[Any]], R]

    @overload
    def run(self, on: SyncTarget, /) -> R: ...
    @overload
    def run(self, on: AsyncTarget, /) -> Coroutine[Any, Any, R]: ...
    def run(self, on: SyncTarget | AsyncTarget, /) -> Any:
        """Write the rows on a database, committed at once, or within the transaction of a session or connection.

        Raises `RowRefused` where the database says no.
        """
        if is_sync(on):
            return self._run(on)
        return self._run_async(on)

    def _run(self, on: SyncTarget) -> R:
        if not self.rows:
            return self.finish([])
        try:
            if self._copies:
                copy(on, self._copy_statement, map(msgspec.structs.astuple, self.rows))
                return self.finish([])
            return self.finish(fetch(on, self._statement, {"rows": self.encoded}))
        except DBAPIError as error:
            self._explain(error)

    async def _run_async(self, on: AsyncTarget) -> R:
        if not self.rows:
            return self.finish([])
        try:
            if self._copies:
                await copy_async(on, self._copy_statement, map(msgspec.structs.astuple, self.rows))
                return self.finish([])
            return self.finish(await fetch_async(on, self._statement, {"rows": self.encoded}))
        except DBAPIError as error:
            self._explain(error)

    @property
    def _copies(self) -> bool:
        return len(self.rows) >= COPY_FROM and not self.key and not self.returning

    @property
    def _statement(self) -> Statement[Any]:
        return _insert(self.model, self.names, self.key, self.returning)

    @property
    def _copy_statement(self) -> Statement[Any]:
        return _copy(self.model, self.names)

    def _explain(self, error: DBAPIError) -> NoReturn:
        refused = cast("psycopg.Error", error.orig)
        name = self.model.__name__
        if refused.sqlstate == "21000":
            counted = Counter(self._key_of(row, self.key) for row in self.rows)
            twice = (number for number, row in enumerate(self.rows) if counted[self._key_of(row, self.key)] > 1)
            raise RowRefused(name, list(twice)[-1], self.key, "has the key of another row of the same call") from error
        problems = {"23503": "leads to a row that is not there", "23505": "is there already"}
        constraint = _constraints(self.model).get(refused.diag.constraint_name or "")
        if constraint is None or refused.sqlstate not in problems:
            raise error
        columns = tuple(column.name for column in constraint.columns)
        raise RowRefused(name, self._position(columns, refused), columns, problems[refused.sqlstate]) from None

    def _position(self, columns: tuple[str, ...], refused: psycopg.Error) -> int | None:
        # The server names the values alone: "(user_id)=(99)".
        detail = refused.diag.message_detail or ""
        for position, row in enumerate(self.rows):
            values = self._key_of(row, columns) if set(columns) <= set(self.names) else ()
            if values and f"({', '.join(columns)})=({', '.join(map(str, values))})" in detail:
                return position
        return None

    def _key_of(self, row: Any, columns: tuple[str, ...]) -> tuple[Any, ...]:
        return tuple(getattr(row, name) for name in columns)


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
    """Prepare to insert objects or dictionaries; `run` gives their number, or in their order what `returning` asks for.

    What no row gives is left to the database. Raises `RowInvalid`.
    """
    return _write(model, rows, (), returning)


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
    """Prepare to insert rows, or where one with the same unique key is there, to set the columns that are given.

    Raises `RowInvalid`, `NotAKey`.
    """
    key = tuple(column.key for column in by)
    if set(key) not in [
        {column.name for column in one.columns} for one in _constraints(model).values() if _is_key(one)
    ]:
        raise NotAKey(model.__name__, key)
    return _write(model, rows, key, returning)


def _is_key(constraint: Any) -> bool:
    return isinstance(constraint, PrimaryKeyConstraint | UniqueConstraint)


def _write(model: type[Base], rows: Iterable[Any], key: tuple[str, ...], returning: Any) -> Write[Any]:
    given = [_columns_of(model, position, row) for position, row in enumerate(rows)]
    names = _names(model, given)
    checked = _checked(model, given, names)
    encoded = _encoded(model, checked, names)
    if returning is None:
        return Write(model, checked, encoded, names, key, (), lambda _: len(checked))
    if returning is model:
        return Write(model, checked, encoded, names, key, tuple(inspect(model).columns.keys()), lambda found: found)
    column = str(returning.key)
    return Write(model, checked, encoded, names, key, (column,), lambda found: [getattr(row, column) for row in found])


def _columns_of(model: type[Base], position: int, row: Any) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return cast("Mapping[str, Any]", row)
    if not isinstance(row, model):
        raise RowInvalid(
            model.__name__,
            position,
            "*",
            f"would come from a {type(row).__name__}, which is neither {model.__name__} nor a mapping",
        )
    mapper = inspect(model)
    related = [name for name in mapper.relationships.keys() if row.__dict__.get(name)]  # noqa: SIM118, no dictionary
    if related:
        raise RowInvalid(model.__name__, position, related[0], "is a relation; set its column, or use `session.add`")
    return {name: value for name, value in row.__dict__.items() if name in mapper.columns}


def _names(model: type[Base], given: list[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the columns that some row gives, and those that every row has to."""
    found = frozenset[str]().union(*given)
    names, unknown = _known(model, found)
    if unknown:
        position = next(number for number, row in enumerate(given) if unknown in row)
        raise RowInvalid(model.__name__, position, unknown, "is no column")
    if given and not found:
        raise RowInvalid(model.__name__, 0, "*", "is not given, nor any other in the other rows")
    return names


@lru_cache(maxsize=1_000)
def _known(model: type[Base], found: frozenset[str]) -> tuple[tuple[str, ...], str | None]:
    columns = inspect(model).columns
    known = tuple(name for name in columns.keys() if name in found or not _may_be_left_out(columns[name]))  # noqa: SIM118
    return known, min(found - set(known), default=None)


def _may_be_left_out(column: Column[Any]) -> bool:
    return bool(column.nullable or _has_default(column))


def _has_default(column: Column[Any]) -> bool:
    return column.server_default is not None or column is column.table.autoincrement_column


def _checked(model: type[Base], given: list[Mapping[str, Any]], names: tuple[str, ...]) -> list[Any]:
    kind = _incoming(model, names)
    try:
        return msgspec.convert(given, list[kind])  # type: ignore[valid-type]
    except msgspec.ValidationError:
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        for position, row in enumerate(given):
            for name, field in fields.items():
                if name not in row and field.required:
                    raise RowInvalid(model.__name__, position, name, "is missing") from None
                try:
                    msgspec.convert(row.get(name), field.type)
                except msgspec.ValidationError as error:
                    # Its words name types and limits, never the value.
                    problem = f"does not fit: {str(error)[0].lower()}{str(error)[1:]}"
                    raise RowInvalid(model.__name__, position, name, problem) from None
        raise


def _encoded(model: type[Base], rows: list[Any], names: tuple[str, ...]) -> str:
    try:
        text = msgspec.json.encode(rows).decode()
    except UnicodeEncodeError:
        text = ""
    # What no text of PostgreSQL holds; a backslash before `u0000` is a false alarm, which costs a look.
    if not text or "\\u0000" in text:
        for position, row in enumerate(rows):
            for name in names:
                value = str(getattr(row, name))
                if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
                    raise RowInvalid(model.__name__, position, name, "holds NUL or half of a surrogate pair")
    return text


@cache
def _incoming(model: type[Base], names: tuple[str, ...]) -> type[msgspec.Struct]:
    """Make the struct that rows are checked against, and encoded from."""
    columns = inspect(model).columns
    fields = [_field(columns[name]) for name in names]
    return msgspec.defstruct(model.__name__, fields, module=__name__, kw_only=True, gc=False)


def _field(column: Column[Any]) -> Any:
    limits: dict[Any, msgspec.Meta] = {
        int: msgspec.Meta(ge=-(2**31), le=2**31 - 1),
        # The database would drop the zone, and keep the wrong moment.
        datetime: msgspec.Meta(tz=False),
    }
    kind: Any = python_type(column.type)
    kind = Annotated[kind, limits[kind]] if kind in limits else kind
    if not column.nullable:
        return column.name, kind
    # Left out in some rows is NULL there, unless the database has something else in mind.
    return (column.name, kind | None) if _has_default(column) else (column.name, kind | None, None)


@cache
def _constraints(model: type[Base]) -> dict[str, Any]:
    kinds = ForeignKeyConstraint | PrimaryKeyConstraint | UniqueConstraint
    table = cast("Table", model.__table__)
    return {
        str(DIALECT.identifier_preparer.format_constraint(one)): one
        for one in table.constraints
        if isinstance(one, kinds)
    }


@cache
def _insert(
    model: type[Base], names: tuple[str, ...], key: tuple[str, ...], returning: tuple[str, ...]
) -> Statement[Any]:
    table, columns = _table(model), inspect(model).columns
    listed = ", ".join(map(_quoted, names))
    typed = ", ".join(f"{_quoted(name)} {columns[name].type.compile(DIALECT)}" for name in names)
    text = f"INSERT INTO {table} ({listed}) SELECT {listed} FROM json_to_recordset(%(rows)s::json) AS r ({typed})"  # noqa: S608, names of ours
    if key:
        # Without anything to set, the key sets itself: only changed rows are returned.
        changes = [name for name in names if name not in key] or list(key)
        settings = ", ".join(f"{_quoted(name)} = EXCLUDED.{_quoted(name)}" for name in changes)
        text += f" ON CONFLICT ({', '.join(map(_quoted, key))}) DO UPDATE SET {settings}"
    if returning:
        text += f" RETURNING {', '.join(map(_quoted, returning))}"
    name = f"{'upsert' if key else 'insert'} {model.__name__}"
    row = row_type(model, returning)
    return Statement(name, text, lambda values: row(*values), has_rows=bool(returning))


@cache
def _copy(model: type[Base], names: tuple[str, ...]) -> Statement[Any]:
    text = f"COPY {_table(model)} ({', '.join(map(_quoted, names))}) FROM STDIN"
    return Statement(f"copy {model.__name__}", text, tuple, has_rows=False)


def _table(model: type[Base]) -> str:
    return DIALECT.identifier_preparer.format_table(cast("Table", model.__table__))


def _quoted(name: str) -> str:
    return DIALECT.identifier_preparer.quote(name)
