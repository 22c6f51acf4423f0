"""Changes of rows as the browser sends them, with their tables, columns and values resolved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import ARRAY, ColumnElement, Text, bindparam, cast

from tatame_db.database.dialect import DIALECT
from tatame_db.studio.errors import BadInput, TableReadOnly
from tatame_db.studio.kinds import kind_of
from tatame_db.studio.tables import column_facts, column_named, facts_of, key_columns, table_named, typed_value

if TYPE_CHECKING:
    from sqlalchemy import Column, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

Value = str | list[str | None] | None


# --- Changes as the browser sends them --------------------------------------------------------------------------------


class Update(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="update"):
    """New values for some columns of a row, and the values that they replace."""

    table: str
    key: str
    values: dict[str, Value]
    was: dict[str, Value]


class Insert(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="insert"):
    """A new row; a column without a value gets its default."""

    table: str
    values: dict[str, Value]


class Delete(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="delete"):
    """A row to delete, and the values that it had."""

    table: str
    key: str
    was: dict[str, Value]


Change = Update | Insert | Delete


class Changes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `/api/changes`; a preview returns the statements and runs none, and a check saves nothing."""

    changes: list[Change]
    preview: bool = False
    check: bool = False


# --- Changes bound to the models --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BoundValue:
    """A value of a column, as the browser sent it and as an expression."""

    column: Column[Any]
    value: Value
    expression: ColumnElement[Any]


@dataclass(frozen=True)
class BoundChange:
    """A change with its table, columns and values resolved: no name is looked up after this."""

    change: Change
    table: Table
    values: tuple[BoundValue, ...]
    """The values to write."""
    seen: tuple[BoundValue, ...]
    """The values that the browser has seen."""

    @property
    def key(self) -> str | None:
        """The primary key of the row; a new row has none yet."""
        return None if isinstance(self.change, Insert) else self.change.key


async def bind_all(connection: AsyncConnection, changes: list[Change]) -> list[BoundChange]:
    """Resolve the tables, the columns and the values of changes.

    Raises `TableNotFound`, `TableReadOnly`, `ColumnNotFound` and `BadInput`.
    """
    _refuse_contradictions(changes)
    names = dict.fromkeys(change.table for change in changes)
    tables = {name: await table_named(connection, name, referrers=True) for name in names}
    return [_bind(change, tables[change.table]) for change in changes]


def _refuse_contradictions(changes: list[Change]) -> None:
    rows = [(change.table, change.key) for change in changes if not isinstance(change, Insert)]
    for change in changes:
        if isinstance(change, Delete) and rows.count((change.table, change.key)) > 1:
            problem = f"the row {change.key} of {change.table} is deleted and changed in one request"
            raise BadInput(problem=problem, advice="discard one of the two changes")


def _bind(change: Change, table: Table) -> BoundChange:
    if not key_columns(table):
        raise TableReadOnly(table=change.table, obstacle=facts_of(table).obstacle or "It has no key.")
    values = {} if isinstance(change, Delete) else change.values
    was = {} if isinstance(change, Insert) else change.was
    columns = {name: column_named(table, name) for name in values | was}
    if isinstance(change, Update):
        if not values:
            raise BadInput(problem="an update sets no columns")
        if not values.keys() <= was.keys():
            raise BadInput(problem="an update lacks the previous value of a column")
    for name in values:
        if column_facts(columns[name]).generated in {"s", "v", "a"}:
            raise BadInput(problem=f'PostgreSQL itself writes the column "{name}" of {change.table}')
    return BoundChange(change, table, _bind_values(columns, values), _bind_values(columns, was))


def _bind_values(columns: dict[str, Column[Any]], values: dict[str, Value]) -> tuple[BoundValue, ...]:
    return tuple(BoundValue(columns[name], value, _expression(columns[name], value)) for name, value in values.items())


def _expression(column: Column[Any], value: Value) -> ColumnElement[Any]:
    if kind_of(column) == "array":
        # An array of several dimensions, or one that does not start at 1, is written as PostgreSQL writes it.
        if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
            return typed_value(column, value)
        if isinstance(value, str):
            raise BadInput(problem=f'the value for "{column.name}" is not a list')
        elements = bindparam(None, value, ARRAY(Text))
        return elements if column.type.compile(DIALECT) == "TEXT[]" else cast(elements, column.type)
    if isinstance(value, list):
        raise BadInput(problem=f'the value for "{column.name}" is a list')
    return typed_value(column, value)
