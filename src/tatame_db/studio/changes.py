"""What was mended in the browser: written in one transaction, and only over what the browser had seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Text,
    bindparam,
    cast,
    delete,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import ColumnCollectionConstraint

from tatame_db.studio.answers import BadInput, Refused, words_of
from tatame_db.studio.filters import read_as
from tatame_db.studio.rows import WHOLE_CHARACTERS, cell_columns, cells_of
from tatame_db.studio.tables import column_named, key_of, kinds_of, table_named

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncConnection

MAX_CHANGES = 1000
Value = str | list[str | None] | None


class Update(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="update"):
    """New values for some columns of a row, and what stood there."""

    table: str
    key: str
    values: dict[str, Value]
    was: dict[str, Value]


class Insert(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="insert"):
    """A new row; what is not named gets its default."""

    table: str
    values: dict[str, Value]


class Delete(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="delete"):
    """A row that goes, and what stood there."""

    table: str
    key: str
    was: dict[str, Value]


Change = Update | Insert | Delete


class Changes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `/api/changes` is asked for; a preview says what would be run, and runs nothing."""

    changes: list[Change]
    preview: bool = False


class Conflict(Refused):
    """Somebody else wrote to the same rows since the browser read them."""

    status = 409

    def __init__(self, conflicts: list[dict[str, Any]]) -> None:
        super().__init__(
            "somebody else changed these rows meanwhile",
            means="Nothing was saved.",
            fix="look at both values, and keep yours or theirs",
            conflicts=conflicts,
        )


class NotSaved(Refused):
    """The database refuses some of the changes."""

    status = 422

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        super().__init__(
            "the database refuses some of the changes",
            means="Nothing was saved.",
            fix="mend the marked cells",
            errors=errors,
        )


def preview(changes: list[Change]) -> list[dict[str, Any]]:
    """Write the statements that saving would run. Raises `BadInput`, `NotFound`."""
    written: list[dict[str, Any]] = []
    for change in changes:
        compiled = _statement(change).compile(dialect=_NUMBERED)
        parameters = compiled.params
        written.append(
            {"statement": str(compiled), "parameters": [parameters[name] for name in compiled.positiontup or ()]}
        )
    return written


# What is run, with numbers for its parameters.
_NUMBERED = PGDialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]


async def save(connection: AsyncConnection, changes: list[Change]) -> list[dict[str, Any]]:
    """Write all changes, and return the new state of each row; the transaction is the caller's.

    Raises `Conflict` and `NotSaved`, each with all there are, `BadInput`, `NotFound`.
    """
    if not 1 <= len(changes) <= MAX_CHANGES:
        raise BadInput(f"1 to {MAX_CHANGES} changes are saved at once, not {len(changes)}")
    statements = [_statement(change) for change in changes]
    await _refuse_conflicts(connection, changes)
    saved: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    for index, (change, statement) in enumerate(zip(changes, statements, strict=True)):
        table = table_named(change.table)
        shown = [part for column in table.columns for part in cell_columns(column, WHOLE_CHARACTERS)]
        try:
            async with connection.begin_nested():
                result = await connection.execute(statement.returning(cast(key_of(table), Text), *shown))
                [[key, *values]] = result.all()
        except DBAPIError as error:
            if not isinstance(error.orig, psycopg.IntegrityError | psycopg.DataError):
                raise
            errors.append({"index": index} | await _told(connection, change, error.orig))
            continue
        row = dict(zip(table.columns.keys(), cells_of(kinds_of(table.columns), values)[0], strict=True))
        saved.append({"table": change.table, "key": key, "row": None if isinstance(change, Delete) else row})
    if errors:
        raise NotSaved(errors)
    return saved


def _statement(change: Change) -> Any:
    table = table_named(change.table)
    if isinstance(change, Delete):
        return delete(table).where(_is(table, change.key))
    values = {column_named(table, name): _bound(table, name, value) for name, value in change.values.items()}
    if isinstance(change, Insert):
        # Without `RETURNING` of its own, for a preview shows no more than is meant.
        return (insert(table).values(values) if values else insert(table)).inline()
    if not values or not change.values.keys() <= change.was.keys():
        raise BadInput("an update names no columns, or does not say what stood in them")
    return update(table).where(_is(table, change.key)).values(values)


def _is(table: Table, key: str) -> ColumnElement[bool]:
    return key_of(table) == read_as(key_of(table), key)


def _bound(table: Table, name: str, value: Value) -> ColumnElement[Any]:
    column = column_named(table, name)
    if isinstance(column.type, ARRAY):
        if isinstance(value, str):
            raise BadInput(f"the value for {name} is not a list")
        return bindparam(None, value, ARRAY(Text))
    if isinstance(value, list):
        raise BadInput(f"the value for {name} is a list")
    return read_as(column, value)


# --- Conflicts --------------------------------------------------------------------------------------------------------


async def _refuse_conflicts(connection: AsyncConnection, changes: list[Change]) -> None:
    seen = [(index, change) for index, change in enumerate(changes) if not isinstance(change, Insert)]
    conflicts: list[dict[str, Any]] = []
    # In one order, so that two who save at once wait for each other once, and not both.
    for index, change in sorted(seen, key=lambda found: (found[1].table, found[1].key)):
        conflicts += [{"index": index, "key": change.key} | found for found in await _conflicts(connection, change)]
    if conflicts:
        raise Conflict(sorted(conflicts, key=lambda conflict: conflict["index"]))


async def _conflicts(connection: AsyncConnection, change: Update | Delete) -> list[dict[str, Any]]:
    """Lock the row and compare it, in PostgreSQL's own words, with what the browser saw."""
    table = table_named(change.table)
    columns = [column_named(table, name) for name in change.was]
    same = [
        column.is_not_distinct_from(_bound(table, column.name, was))
        for column, was in zip(columns, change.was.values(), strict=True)
    ]
    shown = [part for column in columns for part in cell_columns(column, WHOLE_CHARACTERS)]
    query = select(literal(value=True), *same, *shown).where(_is(table, change.key)).with_for_update()
    found = (await connection.execute(query)).first()
    if found is None:
        return [{"deleted": True, "column": None, "was": None, "now": None, "wanted": None}]
    equal, values = found[1 : len(columns) + 1], found[len(columns) + 1 :]
    wanted = change.values if isinstance(change, Update) else {}
    return [
        {
            "deleted": False,
            "column": column.name,
            "was": change.was[column.name],
            "now": now,
            "wanted": wanted.get(column.name),
        }
        for column, agrees, now in zip(columns, equal, cells_of(kinds_of(columns), values)[0], strict=True)
        if not agrees
    ]


# --- Errors in words --------------------------------------------------------------------------------------------------


async def _told(connection: AsyncConnection, change: Change, error: psycopg.Error) -> dict[str, Any]:
    name, detail = error.diag.constraint_name, error.diag.message_detail or ""
    columns = _columns_of(table_named(error.diag.table_name or change.table), name)
    column = error.diag.column_name or next(iter(columns), None)
    match error:
        case psycopg.errors.UniqueViolation():
            what = f"another row has this {' and '.join(columns) or 'value'} already. {detail}"
        case psycopg.errors.ForeignKeyViolation() if "is still referenced" in detail or isinstance(change, Delete):
            what = f"rows of {error.diag.table_name} still point to this row with {' and '.join(columns)}. {detail}"
            column = None
        case psycopg.errors.ForeignKeyViolation():
            what = f"{' and '.join(columns)} points to a row that is not there. {detail}"
        case psycopg.errors.NotNullViolation():
            what = f"{column} must have a value"
        case psycopg.DataError():
            what, column = words_of(error), await _unreadable(connection, change)
        case _:
            what = words_of(error)
    return {"column": column, "constraint": name, "what": what.strip()}


def _columns_of(table: Table, constraint: str | None) -> list[str]:
    found = (known for known in table.constraints if constraint and known.name == constraint)
    return [column.name for known in found if isinstance(known, ColumnCollectionConstraint) for column in known.columns]


async def _unreadable(connection: AsyncConnection, change: Change) -> str | None:
    """Find the column whose value its type cannot read, for the server does not say it."""
    values = {} if isinstance(change, Delete) else change.values
    for name, value in values.items():
        try:
            async with connection.begin_nested():
                await connection.execute(select(_bound(table_named(change.table), name, value)))
        except DBAPIError:
            return name
    return None
