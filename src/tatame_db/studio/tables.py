"""The tables and columns as the models declare them: found by name, and described for the browser."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, Computed, DefaultClause, Integer, Text, bindparam, cast
from sqlalchemy.types import TIMESTAMP

from tatame_db.database.dialect import DIALECT
from tatame_db.schema import Base, is_of_package, phase
from tatame_db.studio.errors import ColumnNotFound, TableNotFound

if TYPE_CHECKING:
    from sqlalchemy import Column, ColumnElement, Table

_KINDS: dict[type[Any], str] = {ARRAY: "array", Integer: "integer", TIMESTAMP: "timestamp", Text: "text"}


# --- Found by name ----------------------------------------------------------------------------------------------------


def shown_tables() -> dict[str, Table]:
    """Return the tables of the models by name, without those of an app whose key is not one column."""
    return {name: table for name, table in Base.metadata.tables.items() if len(table.primary_key.columns) == 1}


def table_named(name: str) -> Table:
    """Find a table. Raises `TableNotFound`."""
    tables = shown_tables()
    if name not in tables:
        raise TableNotFound(table=name, tables=list(tables))
    return tables[name]


def column_named(table: Table, name: str) -> Column[Any]:
    """Find a column. Raises `ColumnNotFound`."""
    if name not in table.columns:
        raise ColumnNotFound(table=table.name, column=name, columns=table.columns.keys())
    return table.columns[name]


def key_of(table: Table) -> Column[Any]:
    """Return the primary key, which is one column in each table that is shown."""
    [key] = table.primary_key.columns
    return key


def has_key(table: Table, key: str) -> ColumnElement[bool]:
    """Write the condition that selects the row with this primary key."""
    return key_of(table) == typed_value(key_of(table), key)


def typed_value(column: Column[Any], value: str | None) -> ColumnElement[Any]:
    """Bind a value as text and let PostgreSQL cast it to the column's type, so that no digit is lost on the way."""
    return cast(bindparam(None, value, Text), column.type)


def kind_of(column: ColumnElement[Any]) -> str:
    """Return the kind of a column, by which the browser shows, filters and edits it."""
    return next((kind for known, kind in _KINDS.items() if isinstance(column.type, known)), "other")


def references_to(table: Table) -> list[Column[Any]]:
    """Return the columns of all tables that refer to this one."""
    keys = (key for other in shown_tables().values() for key in other.foreign_keys)
    return sorted((key.parent for key in keys if key.column.table is table), key=str)


# --- Described --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColumnName:
    """A column of a table, by name."""

    table: str
    column: str


@dataclass(frozen=True)
class ColumnDescription:
    """A column; `default` is what PostgreSQL fills in."""

    name: str
    type: str
    kind: str
    nullable: bool
    default: str | None
    unique: bool
    primary: bool
    references: ColumnName | None


@dataclass(frozen=True)
class TableDescription:
    """A table; `phase` is the phase of the move in which it is copied, `None` for an app's."""

    name: str
    columns: list[ColumnDescription]
    primary_key: str
    referenced_by: list[ColumnName]
    phase: int | None


@cache
def describe_tables() -> list[TableDescription]:
    """Describe all tables, in the order of the models."""
    return [
        TableDescription(
            name=table.name,
            columns=[_describe(column) for column in table.columns],
            primary_key=key_of(table).name,
            referenced_by=[ColumnName(column.table.name, column.name) for column in references_to(table)],
            phase=phase(table) if is_of_package(table) else None,
        )
        for table in shown_tables().values()
    ]


def _describe(column: Column[Any]) -> ColumnDescription:
    default: str | None = None
    if isinstance(column.server_default, DefaultClause):
        default = str(column.server_default.arg)
    elif isinstance(column.server_default, Computed):
        default = str(column.server_default.sqltext)
    elif column.identity is not None or column is column.table.autoincrement_column:
        default = "the next number"
    target = next((key.column for key in column.foreign_keys), None)
    return ColumnDescription(
        name=column.name,
        type=column.type.compile(DIALECT).lower(),
        kind=kind_of(column),
        nullable=bool(column.nullable),
        default=default,
        unique=bool(column.unique) or column.primary_key,
        primary=column.primary_key,
        references=None if target is None else ColumnName(target.table.name, target.name),
    )
