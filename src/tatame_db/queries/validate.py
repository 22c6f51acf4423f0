"""Check the rows of a write against the columns of its model, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from difflib import get_close_matches
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

import msgspec
from sqlalchemy import ClauseElement, Float, Numeric, String, inspect

from tatame_db.errors import counted
from tatame_db.queries.arguments import described
from tatame_db.queries.columns import (
    MAX_COLUMN_SETS,
    column_keys,
    computed_columns,
    has_server_default,
    in_order,
    only_a_session_sets,
    only_a_session_updates,
    python_defaults,
)
from tatame_db.queries.errors import RowInvalid, WriteInvalid
from tatame_db.queries.value_type import Refused, ValueType
from tatame_db.queries.values import value_type

if TYPE_CHECKING:
    from tatame_db.schema import Base

MAX_BATCH_CHARACTERS = 64 * 1024 * 1024
"""How long the JSON of a batch of several rows may be."""

MAX_ROW_BYTES = 1_000_000_000
"""How long the JSON of one row may be: PostgreSQL ends a connection that sends it 1 GB at once."""

_NOTHING: frozenset[str] = frozenset()

CORRECT = "correct this row, or remove it"
MISSING = "is missing"
NEW_ROW = "is missing, and a row that does not exist yet needs it; `update_many` updates rows that exist"


class Batch(msgspec.Struct, frozen=True):
    """Valid rows with the same columns, which one statement writes."""

    columns: tuple[str, ...]
    named: tuple[str, ...]
    """The columns that the rows name; the model has defaults for the others."""
    positions: Sequence[int]
    """Where each row is among the rows of the caller, counted from 0."""
    rows: list[Any]
    """A struct for each row, with one field for each column."""
    encoded: str
    """The rows as a JSON array of objects."""

    def __repr__(self) -> str:
        """Show the columns and how many rows, without their values."""
        return f"<Batch: {counted(len(self.rows), 'row')} of {', '.join(self.columns)}>"

    @property
    def values(self) -> dict[str, str | None] | None:
        """The texts of the values of a single row, by position; `None` for several rows and for other types."""
        if len(self.rows) != 1:
            return None
        values: dict[str, str | None] = {}
        for position, value in enumerate(msgspec.structs.astuple(self.rows[0])):
            write = _WRITERS.get(type(cast("object", value)))
            if write is None:
                return None
            values[str(position)] = write(value)
        return values


# How JSON writes them too.
_WRITERS: dict[type, Callable[[Any], str | None]] = {
    str: str,
    int: str,
    bool: lambda value: "true" if value else "false",
    type(None): lambda value: value,
}


def insert_batches(model: type[Base], rows: Iterable[Any]) -> list[Batch]:
    """Return rows to insert: with the columns that any row names, and those that every row has to name.

    Raises `WriteInvalid` for what is no list of rows, and `RowInvalid`.
    """
    values = _values_of_rows(model, rows, ())
    named: frozenset[str] = _NOTHING.union(*values)
    if not named:
        if not values:
            return []
        raise _invalid(model, 0, None, "neither this row nor another one names a column")
    try:
        layout = _insert_layout(model, named, (), MISSING)
    except _NotWritable as wrong:
        position = next(number for number, row in enumerate(values) if wrong.name in row)
        raise _not_writable(model, position, wrong.name) from None
    return _batches(layout, range(len(values)), _with_defaults(model, values))


def upsert_batches(model: type[Base], rows: Iterable[Any], key: tuple[str, ...]) -> list[Batch]:
    """Return rows to insert or update: a batch for each set of columns that rows name.

    Raises `WriteInvalid` for what is no list of rows, and `RowInvalid`, also for two rows with the same key.
    """
    batches: list[Batch] = []
    for names, positions, values in _grouped(model, rows, key):
        _check_names(model, names, positions[0], key, written=names)
        layout = _insert_layout(model, names, key, NEW_ROW)
        batches += _batches(layout, positions, _with_defaults(model, values))
    _check_keys(model, batches, key)
    return batches


def update_batches(model: type[Base], rows: Iterable[Any], key: tuple[str, ...]) -> list[Batch]:
    """Return rows to update: a batch for each set of columns that rows name, in the order of their first rows.

    Raises `WriteInvalid` for what is no list of rows, and `RowInvalid`, also for two rows with the same key.
    """
    batches: list[Batch] = []
    for names, positions, values in _grouped(model, rows, key):
        _check_names(model, names, positions[0], key, written=names - set(key))
        if names <= set(key):
            raise _invalid(model, positions[0], None, f"names no column to set besides {', '.join(key)}")
        batches += _batches(_update_layout(model, names, key), positions, values)
    _check_keys(model, batches, key)
    return batches


# --- Rows of the caller ----------------------------------------------------------------------------------------------


def _values_of_rows(model: type[Base], rows: Iterable[Any], key: tuple[str, ...]) -> list[Mapping[str, Any]]:
    # Text, a mapping and an object are iterable, but never rows.
    if isinstance(rows, str | bytes | Mapping | model) or not hasattr(rows, "__iter__"):
        raise WriteInvalid(
            problem=f"the rows for {model.__name__} are {described(rows)}, not a list of rows",
            advice="pass a list of objects or mappings: `[row]`, not `row`",
        )
    return [
        row if type(row) is dict else _values_of_row(model, position, row, key) for position, row in enumerate(rows)
    ]


def _values_of_row(model: type[Base], position: int, row: Any, key: tuple[str, ...]) -> Mapping[str, Any]:
    """Return the values that a row names, by column."""
    if isinstance(row, Mapping):
        return cast("Mapping[str, Any]", row)
    if not isinstance(row, model):
        problem = f"expected {model.__name__} or a mapping, got {type(row).__name__}"
        raise _invalid(model, position, None, problem)
    mapper = inspect(model)
    # An attribute that was not set or loaded is not in `__dict__`.
    values = row.__dict__
    related = [relation.key for relation in mapper.relationships if values.get(relation.key)]
    if related:
        raise _invalid(model, position, related[0], "is a relation; set its foreign key, or use `session.add`")
    # An object that was loaded has the columns that the server computes, which a session does not write either.
    skipped = computed_columns(model) - set(key)
    return {name: value for name, value in values.items() if name in mapper.columns and name not in skipped}


def _grouped(
    model: type[Base], rows: Iterable[Any], key: tuple[str, ...]
) -> list[tuple[frozenset[str], list[int], list[Mapping[str, Any]]]]:
    """Return the sets of columns that rows name, with the positions and the values of those rows."""
    values = _values_of_rows(model, rows, key)
    positions_of: dict[frozenset[str], list[int]] = {}
    for position, row in enumerate(values):
        positions_of.setdefault(frozenset(row), []).append(position)
    return [
        (names, positions, [values[position] for position in positions]) for names, positions in positions_of.items()
    ]


def _with_defaults(model: type[Base], values: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows with the defaults that the model computes in Python, as a session would insert them."""
    defaults = python_defaults(model)
    if not defaults:
        return values
    return [{**row, **{name: default() for name, default in defaults.items() if name not in row}} for row in values]


# --- Columns ---------------------------------------------------------------------------------------------------------


def _unknown(model: type[Base], named: frozenset[str]) -> list[object]:
    """Return the names that are not columns. They may be empty or not text, as in a row of a CSV file."""
    return sorted(named.difference(column_keys(model)), key=repr)


class _NotWritable(Exception):
    """A name in a row that is not a column, or is computed by the database."""

    def __init__(self, name: object) -> None:
        super().__init__()
        self.name = name


def _computed(model: type[Base], written: frozenset[str]) -> list[object]:
    return [*sorted(written & computed_columns(model))]


def _not_writable(model: type[Base], position: int, name: object) -> RowInvalid:
    if not isinstance(name, str):
        return _invalid(model, position, None, f"names a column by {type(name).__name__}, not by text")
    if name in inspect(model).columns:
        return _invalid(model, position, name, "is computed by the database, which accepts no value for it")
    return _invalid(model, position, name, f"is not a column of {model.__name__}", _right_name(model, name))


def _right_name(model: type[Base], name: str) -> str:
    """Return the advice for a name that is not a column: the foreign key of a relation, or a name like it."""
    relation = inspect(model).relationships.get(name)
    if relation is not None:
        keys = [inspect(model).get_property_by_column(column).key for column in relation.local_columns]
        return f"it is a relation; name its foreign key, `{', '.join(keys)}`, or use `session.add`"
    similar = get_close_matches(name, column_keys(model), n=1)
    return (
        f"did you mean `{similar[0]}`?" if similar else f"name columns of {model.__name__}, as its class declares them"
    )


def _check_names(
    model: type[Base], names: frozenset[str], position: int, key: tuple[str, ...], written: frozenset[str]
) -> None:
    """Check the columns that a row with a key names."""
    if wrong := _unknown(model, names) or _computed(model, written):
        raise _not_writable(model, position, wrong[0])
    missing = [name for name in key if name not in names]
    if missing:
        raise _invalid(model, position, missing[0], "is missing, and rows are matched by it")
    missing = sorted(only_a_session_updates(model) - names)
    if missing:
        raise _invalid(model, position, missing[0], "is missing, and only a session applies its `onupdate`")


def _check_keys(model: type[Base], batches: list[Batch], key: tuple[str, ...]) -> None:
    """Check that no two rows have the same key: the order of the two would decide."""
    # PostgreSQL compares numbers by value, and 1.0 and 1.00 are one key.
    is_number = [isinstance(inspect(model).columns[name].type, Float | Numeric) for name in key]
    keys = [
        (position, _comparable(row, key, is_number))
        for batch in batches
        for position, row in zip(batch.positions, batch.rows, strict=True)
    ]
    keys.sort(key=lambda pair: pair[0])
    first: dict[Any, int] = {}
    for position, values in keys:
        if values in first:
            raise _invalid(model, position, None, f"has the same {', '.join(key)} as row {first[values]}")
        first[values] = position


def _comparable(row: Any, key: tuple[str, ...], is_number: list[bool]) -> tuple[Any, ...]:
    values = [getattr(row, name) for name in key]
    return tuple(
        Decimal(value) if number else repr(cast("object", value)) if isinstance(value, list) else value
        for value, number in zip(values, is_number, strict=True)
    )


# --- Values ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Layout:
    """The columns of a batch, and how its rows are checked."""

    model: type[Base]
    columns: tuple[str, ...]
    named: tuple[str, ...]
    """The columns that rows name; the model has defaults for the others."""
    key: tuple[str, ...] = ()
    missing: str = MISSING
    """The problem of a row that lacks a column."""

    @cached_property
    def structs(self) -> Any:
        """The type that rows are converted to: a list of structs, which check them, and are then encoded."""
        fields = [_field(self, name) for name in self.columns]
        struct = msgspec.defstruct(self.model.__name__, fields, module=__name__, kw_only=True, gc=False)
        return list[struct]  # type: ignore[valid-type]  # made at run time

    @cached_property
    def checked_here(self) -> dict[str, ValueType]:
        """The columns whose values msgspec does not check."""
        kinds = {name: _value_type(self.model, name) for name in self.columns}
        return {name: kind for name, kind in kinds.items() if kind.checked_by is None}

    @cached_property
    def texts(self) -> list[Callable[[Any], Any]]:
        """Functions that return the texts of a row, not those in arrays: their items are checked one by one."""
        names = [name for name in self.columns if isinstance(inspect(self.model).columns[name].type, String)]
        return [attrgetter(name) for name in names]


# Callers choose the columns, so there may be any number of sets.
@lru_cache(maxsize=MAX_COLUMN_SETS)
def _insert_layout(model: type[Base], names: frozenset[str], key: tuple[str, ...], missing: str) -> _Layout:
    """Return the layout of an INSERT for the columns that rows name; raises `_NotWritable`."""
    if wrong := _unknown(model, names) or _computed(model, names):
        raise _NotWritable(wrong[0])
    required = {
        name
        for name, column in inspect(model).columns.items()
        if not column.nullable and not has_server_default(column)
    }
    columns = names.union(required, only_a_session_sets(model), python_defaults(model))
    return _Layout(model, in_order(model, columns), in_order(model, names), key, missing)


@lru_cache(maxsize=MAX_COLUMN_SETS)
def _update_layout(model: type[Base], names: frozenset[str], key: tuple[str, ...]) -> _Layout:
    """Return the layout of an UPDATE for the columns that rows name."""
    columns = in_order(model, names)
    return _Layout(model, columns, columns, key)


def _batches(layout: _Layout, positions: Sequence[int], values: list[Mapping[str, Any]]) -> list[Batch]:
    """Return the rows as one batch, or as several if they are too big for one parameter; raises `RowInvalid`."""
    try:
        rows, encoded = _converted(layout, values)
    except (msgspec.ValidationError, Refused, UnicodeEncodeError):
        # The invalid row is named, or all are valid after all, such as a text of a subclass of `str`.
        plain = [_plain_values(layout, position, row) for position, row in zip(positions, values, strict=True)]
        rows, encoded = _converted(layout, plain)
    # A character has at most four bytes.
    if len(rows) == 1 and len(encoded) * 4 > MAX_ROW_BYTES and len(encoded.encode()) > MAX_ROW_BYTES:
        raise _invalid(layout.model, positions[0], None, "is longer than 1 GB, the most that PostgreSQL accepts")
    if len(encoded) <= MAX_BATCH_CHARACTERS or len(rows) == 1:
        return [Batch(layout.columns, layout.named, positions, rows, encoded)]
    middle = len(rows) // 2
    return _batches(layout, positions[:middle], values[:middle]) + _batches(layout, positions[middle:], values[middle:])


def _converted(layout: _Layout, values: list[Mapping[str, Any]]) -> tuple[list[Any], str]:
    """Return a struct for each row, and all of them as JSON.

    Raises `msgspec.ValidationError`, `Refused` or `UnicodeEncodeError` if a row may be invalid.
    """
    # Otherwise msgspec would take text for a moment.
    rows: list[Any] = msgspec.convert(values, layout.structs, builtin_types=(datetime,))
    for name, kind in layout.checked_here.items():
        null = _takes_null(layout, name) and not kind.takes_none
        for row, source in zip(rows, values, strict=True):
            if name in source and not (null and source[name] is None):
                setattr(row, name, kind.written(source[name]))
    # msgspec accepts subclasses of `str`, such as an `Enum`, but does not always write what a session would.
    if not all(_PLAIN_TEXT.issuperset(map(type, map(text, rows))) for text in layout.texts):
        raise Refused("is of a subclass of `str`")
    encoded = msgspec.json.encode(rows).decode()
    # PostgreSQL's text holds no NUL. A backslash before `u0000` is a false alarm, which costs a look at all values.
    if "\\u0000" in encoded and any("\0" in (text(row) or "") for row in rows for text in layout.texts):
        raise Refused("contains NUL")
    return rows, encoded


_PLAIN_TEXT = frozenset((str, type(None)))


def _plain_values(layout: _Layout, position: int, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values of a row as plain types; raises `RowInvalid`."""
    plain: dict[str, Any] = {}
    for name in layout.columns:
        kind = _value_type(layout.model, name)
        if name not in row:
            if _is_required(layout, name):
                raise _invalid(layout.model, position, name, _why_missing(layout, name))
        elif row[name] is None and _takes_null(layout, name) and not kind.takes_none:
            plain[name] = None
        else:
            try:
                plain[name] = kind.accept(row[name])
            except Refused as refused:
                advice = _advice(layout, name, row[name], refused)
                raise _invalid(layout.model, position, name, refused.problem, advice) from None
    return plain


def _advice(layout: _Layout, name: str, value: object, refused: Refused) -> str:
    """Return how to correct a value that its column does not take."""
    if value is None:
        matched = "rows are matched by this column, and no row by NULL"
        return matched if name in layout.key else "this column may not be NULL: set it, or leave it to its default"
    if isinstance(value, ClauseElement):
        return "bulk writes send values, not expressions of SQL: use a session, or leave the column to its default"
    return f"write `{refused.form.format(name)}`" if refused.form else CORRECT


def _why_missing(layout: _Layout, name: str) -> str:
    if name in only_a_session_sets(layout.model):
        return "is missing, and only a session applies its default"
    if name in layout.named and layout.missing == MISSING and has_server_default(inspect(layout.model).columns[name]):
        return f"{MISSING}, and another row names it: all rows or none name a column with a default of the server"
    return layout.missing


def _field(layout: _Layout, name: str) -> Any:
    checked_by: Any = _value_type(layout.model, name).checked_by
    if checked_by is None:
        checked_by = Any
    elif _takes_null(layout, name):
        checked_by = checked_by | None
    return (name, checked_by) if _is_required(layout, name) else (name, checked_by, None)


def _takes_null(layout: _Layout, name: str) -> bool:
    # NULL is equal to nothing, so a key with NULL would match no row.
    return bool(inspect(layout.model).columns[name].nullable) and name not in layout.key


def _is_required(layout: _Layout, name: str) -> bool:
    """Return whether each row has to name a column that one of them names.

    A column that only some rows name is NULL in the others, unless it has a default.
    """
    has_default = has_server_default(inspect(layout.model).columns[name]) or name in only_a_session_sets(layout.model)
    return has_default or not _takes_null(layout, name)


@lru_cache(maxsize=MAX_COLUMN_SETS)
def _value_type(model: type[Base], name: str) -> ValueType:
    """Return the values of a column; for a type that only a session writes, none."""
    kind = inspect(model).columns[name].type

    def refuse(_: Any) -> Any:
        raise Refused(f"has the type {kind!r}, which only a session writes")

    return value_type(kind) or ValueType(refuse)


def _invalid(model: type[Base], position: int, column: str | None, problem: str, advice: str = CORRECT) -> RowInvalid:
    return RowInvalid(model=model.__name__, position=position, column=column, problem=problem, advice=advice)
