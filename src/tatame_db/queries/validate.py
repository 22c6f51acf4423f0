"""Check the rows of a write against the columns of its model, before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import msgspec
from sqlalchemy import ARRAY, BigInteger, Integer, SmallInteger, inspect

from tatame_db.queries.errors import RowInvalid
from tatame_db.queries.row import json_type

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import Column

    from tatame_db.schema import Base

INTEGER_BITS: dict[type[Integer], int] = {BigInteger: 64, SmallInteger: 16}


@dataclass(frozen=True)
class Batch:
    """Valid rows with the same columns, which one statement writes."""

    columns: tuple[str, ...]
    positions: Sequence[int]
    """Where each row is among the rows of the caller, counted from 0."""
    rows: list[Any]
    """A struct for each row, with one field for each column."""
    encoded: str
    """The rows as a JSON array of objects."""


def insert_batch(model: type[Base], rows: Iterable[Any]) -> Batch:
    """Return rows to insert: with the columns that any row names, and those that every row has to name.

    Raises `RowInvalid`.
    """
    values = _values_of_rows(model, rows)
    named = frozenset[str]().union(*values)
    if unknown := _unknown(model, named):
        position = next(number for number, row in enumerate(values) if unknown[0] in row)
        raise _not_a_column(model, position, unknown[0])
    columns = _insert_columns(model, named)
    if values and not any(values):
        raise _invalid(model, 0, None, "neither this row nor another one names a column")
    return _batch(model, columns, range(len(values)), values)


def update_batches(model: type[Base], rows: Iterable[Any], key: tuple[str, ...]) -> list[Batch]:
    """Return rows to update: a batch for each set of columns that rows name, in the order of their first rows.

    Raises `RowInvalid`.
    """
    values = _values_of_rows(model, rows)
    positions_of: dict[frozenset[str], list[int]] = {}
    for position, row in enumerate(values):
        positions_of.setdefault(frozenset(row), []).append(position)
    for names, positions in positions_of.items():
        _check_update(model, names, positions[0], key)
    batches = [
        _batch(model, _in_order(model, names), positions, [values[position] for position in positions], key)
        for names, positions in positions_of.items()
    ]
    _check_keys(model, batches, key)
    return batches


def _values_of_rows(model: type[Base], rows: Iterable[Any]) -> list[Mapping[str, Any]]:
    return [_values_of_row(model, position, row) for position, row in enumerate(rows)]


def _values_of_row(model: type[Base], position: int, row: Any) -> Mapping[str, Any]:
    """Return the values that a row names, by column."""
    if isinstance(row, Mapping):
        return cast("Mapping[str, Any]", row)
    if not isinstance(row, model):
        problem = f"expected {model.__name__} or a mapping, got {type(row).__name__}"
        raise _invalid(model, position, None, problem)
    mapper = inspect(model)
    related = [relation.key for relation in mapper.relationships if row.__dict__.get(relation.key)]
    if related:
        raise _invalid(model, position, related[0], "is a relation; set its foreign key, or use `session.add`")
    # An attribute that was not set is not in `__dict__`.
    return {name: value for name, value in row.__dict__.items() if name in mapper.columns}


# Callers choose the columns, so there may be any number of sets.
@lru_cache(maxsize=1_000)
def _insert_columns(model: type[Base], named: frozenset[str]) -> tuple[str, ...]:
    """Return the columns of an INSERT for those that rows name."""
    columns = inspect(model).columns.items()
    return _in_order(
        model, named | {name for name, column in columns if not column.nullable and not _has_default(column)}
    )


def _unknown(model: type[Base], named: frozenset[str]) -> list[object]:
    """Return the names that are not columns. They may be empty or not text, as in a row of a CSV file."""
    return sorted(named - set(inspect(model).columns.keys()), key=repr)


def _not_a_column(model: type[Base], position: int, name: object) -> RowInvalid:
    if not isinstance(name, str):
        return _invalid(model, position, None, f"names a column by {type(name).__name__}, not by text")
    return _invalid(model, position, name, f"is not a column of {model.__name__}")


def _in_order(model: type[Base], names: frozenset[str]) -> tuple[str, ...]:
    """Return columns in the order of the table, so that the same columns make the same statement."""
    return tuple(name for name, _ in inspect(model).columns.items() if name in names)


def _has_default(column: Column[Any]) -> bool:
    return column.server_default is not None or column is column.table.autoincrement_column


def _check_update(model: type[Base], names: frozenset[str], position: int, key: tuple[str, ...]) -> None:
    """Check the columns that a row to update names."""
    if unknown := _unknown(model, names):
        raise _not_a_column(model, position, unknown[0])
    missing = [name for name in key if name not in names]
    if missing:
        raise _invalid(model, position, missing[0], "is missing, and rows are matched by it")
    if names <= set(key):
        raise _invalid(model, position, None, f"names no column to set besides {', '.join(key)}")


def _check_keys(model: type[Base], batches: list[Batch], key: tuple[str, ...]) -> None:
    """Check that no two rows to update have the same key: the order of the two would decide."""
    keys = [
        (position, msgspec.json.encode([getattr(row, name) for name in key]))
        for batch in batches
        for position, row in zip(batch.positions, batch.rows, strict=True)
    ]
    first: dict[bytes, int] = {}
    for position, encoded in sorted(keys):
        if encoded in first:
            raise _invalid(model, position, None, f"has the same {', '.join(key)} as row {first[encoded]}")
        first[encoded] = position


def _batch(
    model: type[Base],
    columns: tuple[str, ...],
    positions: Sequence[int],
    values: list[Mapping[str, Any]],
    key: tuple[str, ...] = (),
) -> Batch:
    for name in _unsupported(model, columns):
        for position, row in zip(positions, values, strict=True):
            if name in row:
                kind = inspect(model).columns[name].type
                raise _invalid(model, position, name, f"has the type {kind!r}, which only a session writes")
    struct = _struct(model, columns, key)
    try:
        rows = msgspec.convert(values, list[struct])  # type: ignore[valid-type]  # made at run time
    except msgspec.ValidationError as error:
        _raise_first_invalid(model, struct, positions, values, error)
    _check_arrays(model, columns, positions, rows)
    return Batch(columns, positions, rows, _encoded(model, columns, positions, rows))


def _check_arrays(model: type[Base], columns: tuple[str, ...], positions: Sequence[int], rows: list[Any]) -> None:
    """Check what an array holds: items of its type, NULL, or arrays of one shape, which no type of msgspec states."""
    for name, item in _array_items(model, columns).items():
        for position, row in zip(positions, rows, strict=True):
            value = getattr(row, name)
            if value is not None and _shape(value, item) is None:
                raise _invalid(model, position, name, f"is not an array of `{item.__name__}` and NULL")


# The columns of a model do not change, and writes repeat their sets of columns.
@lru_cache(maxsize=1_000)
def _unsupported(model: type[Base], columns: tuple[str, ...]) -> list[str]:
    """Return the columns whose type JSON does not carry without loss."""
    return [name for name in columns if json_type(inspect(model).columns[name].type) is None]


@lru_cache(maxsize=1_000)
def _array_items(model: type[Base], columns: tuple[str, ...]) -> dict[str, type]:
    """Return the type of the items of each array column."""
    kinds = {name: inspect(model).columns[name].type for name in columns}
    return {name: json_type(cast("Any", kind).item_type) for name, kind in kinds.items() if isinstance(kind, ARRAY)}


def _shape(value: Any, item: type) -> tuple[int, ...] | None:
    """Return the lengths of a nested list by dimension; `None` unless it is rectangular, of such items or NULL."""
    if not isinstance(value, list):
        return () if value is None or _is_item(value, item) else None
    shapes = {_shape(part, item) for part in cast("list[object]", value)}
    shape = shapes.pop() if shapes else ()
    return None if shapes or shape is None else (len(cast("list[object]", value)), *shape)


def _is_item(value: object, item: type) -> bool:
    if item is int:
        return isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31
    return isinstance(value, item)


def _raise_first_invalid(
    model: type[Base],
    struct: Any,
    positions: Sequence[int],
    values: list[Mapping[str, Any]],
    reason: msgspec.ValidationError,
) -> NoReturn:
    for position, row in zip(positions, values, strict=True):
        for field in msgspec.structs.fields(struct):
            if field.name not in row and field.required:
                raise _invalid(model, position, field.name, "is missing") from None
            try:
                msgspec.convert(row.get(field.name), field.type)
            except msgspec.ValidationError as error:
                # msgspec's message names types and limits, never the value.
                problem = f"has an invalid value: {str(error)[0].lower()}{str(error)[1:]}"
                raise _invalid(model, position, field.name, problem) from None
    raise reason


def _encoded(model: type[Base], columns: tuple[str, ...], positions: Sequence[int], rows: list[Any]) -> str:
    try:
        text = msgspec.json.encode(rows, enc_hook=_as_text).decode()
    except UnicodeEncodeError:
        text = ""
    # PostgreSQL's text holds no NUL. A backslash before `u0000` is a false alarm, which costs a look at all values.
    if not text or "\\u0000" in text:
        for position, row in zip(positions, rows, strict=True):
            for name in columns:
                if any(map(_is_unstorable, _texts(getattr(row, name)))):
                    raise _invalid(model, position, name, "contains NUL or half of a surrogate pair")
    return text


def _as_text(value: Any) -> str:
    """Return a text of a subclass of `str`, such as escaped markup, as a plain one."""
    return str.__str__(value)


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts of a value, those in an array included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            yield from _texts(item)


def _is_unstorable(text: str) -> bool:
    return "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text)


# Callers choose the columns, so there may be any number of sets.
@lru_cache(maxsize=1_000)
def _struct(model: type[Base], columns: tuple[str, ...], key: tuple[str, ...]) -> type[msgspec.Struct]:
    """Return the struct that rows are converted to, which checks them, and from which they are encoded."""
    fields = [_field(inspect(model).columns[name], is_key=name in key) for name in columns]
    return msgspec.defstruct(model.__name__, fields, module=__name__, kw_only=True, gc=False)


def _field(column: Column[Any], *, is_key: bool) -> Any:
    kind: Any = json_type(column.type)
    if kind is int:
        bits = next((bits for integer, bits in INTEGER_BITS.items() if isinstance(column.type, integer)), 32)
        kind = Annotated[int, msgspec.Meta(ge=-(2 ** (bits - 1)), le=2 ** (bits - 1) - 1)]
    elif kind is datetime:
        # PostgreSQL would drop the zone, and store another moment.
        kind = Annotated[datetime, msgspec.Meta(tz=False)]
    # NULL is equal to nothing, so a key with NULL would match no row.
    if is_key or not column.nullable:
        return column.name, kind
    # A column that only some rows name is NULL in the others, unless it has a default of the server.
    return (column.name, kind | None) if _has_default(column) else (column.name, kind | None, None)


def _invalid(model: type[Base], position: int, column: str | None, problem: str) -> RowInvalid:
    return RowInvalid(model=model.__name__, position=position, column=column, problem=problem)
