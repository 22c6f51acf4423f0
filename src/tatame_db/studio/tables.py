"""What the tables look like, as the browser has to know them: all of it read from the models."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, Integer, Text
from sqlalchemy.types import TIMESTAMP

from tatame_db.database.dialect import DIALECT
from tatame_db.schema import Base, phase
from tatame_db.studio.answers import BadInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Column, ColumnElement, Table

_KINDS: dict[type[Any], str] = {ARRAY: "array", Integer: "integer", TIMESTAMP: "timestamp", Text: "text"}
_LABELS = ("name", "title", "first_name", "email", "file_name", "modality", "belt", "app_version", "store", "date")


def table_named(name: str) -> Table:
    """Find a table of ours. Raises `NotFound`."""
    if name not in Base.metadata.tables:
        raise NotFound(f"there is no table {name!r}", fix=f"the tables are {', '.join(Base.metadata.tables)}")
    return Base.metadata.tables[name]


def column_named(table: Table, name: object) -> Column[Any]:
    """Find a column. Raises `BadInput`."""
    if not isinstance(name, str) or name not in table.columns:
        raise BadInput(f"{table.name} has no column {name!r}", fix=f"its columns are {', '.join(table.columns.keys())}")
    return table.columns[name]


def key_of(table: Table) -> Column[Any]:
    """Return the column that tells the rows apart; each of our tables has one."""
    [key] = table.primary_key.columns
    return key


def kind_of(column: ColumnElement[Any]) -> str:
    """Say what the browser shows and edits a column as."""
    return next(kind for known, kind in _KINDS.items() if isinstance(column.type, known))


def kinds_of(columns: Iterable[ColumnElement[Any]]) -> list[str]:
    """Say it of several columns."""
    return [kind_of(column) for column in columns]


def type_of(column: Column[Any]) -> str:
    """Write a column's type as PostgreSQL does."""
    return column.type.compile(DIALECT).lower()


def labels_of(table: Table) -> list[Column[Any]]:
    """Return the columns by which a person knows a row; may be none."""
    found = [table.columns[name] for name in _LABELS if name in table.columns][:1]
    if found and found[0].name == "first_name":
        found.append(table.columns["last_name"])
    return found


def pointing_at(table: Table) -> list[Column[Any]]:
    """Return the columns of all tables that refer to this one."""
    keys = (key for other in Base.metadata.tables.values() for key in other.foreign_keys)
    return sorted((key.parent for key in keys if key.column.table is table), key=str)


@cache
def described() -> list[dict[str, Any]]:
    """Describe all tables, in the order of the models."""
    return [_table(table) for table in Base.metadata.tables.values()]


def _table(table: Table) -> dict[str, Any]:
    return {
        "name": table.name,
        "columns": [_column(column) for column in table.columns],
        "primary_key": key_of(table).name,
        "referenced_by": [{"table": column.table.name, "column": column.name} for column in pointing_at(table)],
        "labels": [column.name for column in labels_of(table)],
        "phase": phase(table),
    }


def _column(column: Column[Any]) -> dict[str, Any]:
    kind = kind_of(column)
    target = next((key.column for key in column.foreign_keys), None)
    default: str | None = None
    if column.server_default is not None:
        default = str(column.server_default.arg)  # type: ignore[attr-defined]  # a DefaultClause's
    elif column is column.table.autoincrement_column:
        default = "the next number"
    return {
        "name": column.name,
        "type": type_of(column),
        "kind": kind,
        "nullable": column.nullable,
        "default": default,
        "unique": bool(column.unique) or column.primary_key,
        "primary": column.primary_key,
        "references": {"table": target.table.name, "column": target.name} if target is not None else None,
    }
