"""The tables and columns that a page names: found by address, and described for the browser."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import (
    Computed,
    DefaultClause,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    and_,
    bindparam,
    cast,
    func,
)

from tatame_db.database.dialect import DIALECT, SCHEMA
from tatame_db.schema import Base, is_of_package, phase
from tatame_db.studio.addresses import address
from tatame_db.studio.catalogue import ColumnFacts, TableFacts, read_table
from tatame_db.studio.errors import BadInput, ColumnNotFound, TableNotFound, TableNotReadable
from tatame_db.studio.kinds import kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Column, ColumnElement, ForeignKey, Table
    from sqlalchemy.ext.asyncio import AsyncConnection


# --- Found by name ----------------------------------------------------------------------------------------------------


def shown_tables() -> dict[str, Table]:
    """Return the tables of the models by name, whether the database has them or not."""
    return dict(Base.metadata.tables)


async def table_named(connection: AsyncConnection, written: str, *, referrers: bool = False) -> Table:
    """Find a table by its address, with those that refer to it if asked. Raises `TableNotFound`, `TableNotReadable`."""
    try:
        return await read_table(connection, written, referrers=referrers)
    except (TableNotFound, TableNotReadable):
        # The statement on a table of the models fails with advice on migrations or on the rights of the whole schema.
        if written not in Base.metadata.tables:
            raise
        return Base.metadata.tables[written]


def address_of(table: Table) -> str:
    """Return the address of a table."""
    return address(table.schema, table.name)


def column_named(table: Table, name: str) -> Column[Any]:
    """Find a column. Raises `ColumnNotFound`."""
    if name not in table.columns:
        raise ColumnNotFound(table=address_of(table), column=name, columns=table.columns.keys())
    return table.columns[name]


def facts_of(table: Table) -> TableFacts:
    """Return what the catalogue says of a table beside its columns."""
    found: TableFacts = table.info.get("facts", TableFacts())
    return found


def column_facts(column: Column[Any]) -> ColumnFacts:
    """Return what the catalogue says of a column beside its type."""
    found: ColumnFacts | None = column.info.get("facts")
    return found or ColumnFacts(column.type.compile(DIALECT).lower(), _default_of_model(column))


# --- Keys -------------------------------------------------------------------------------------------------------------


def key_columns(table: Table) -> list[Column[Any]]:
    """Return the columns that identify a row, in the order of the key; none if nothing does."""
    return list(table.primary_key.columns)


def key_expression(columns: Sequence[ColumnElement[Any]]) -> ColumnElement[Any]:
    """Write the key of a row as one text: the value of the only column, or a JSON array such as `["7", "BLUE"]`."""
    if len(columns) == 1:
        return cast(columns[0], Text)
    return cast(func.json_build_array(*(cast(column, Text) for column in columns)), Text)


def has_key(table: Table, key: str) -> ColumnElement[bool]:
    """Write the condition that selects the row with this key. Raises `BadInput`."""
    columns = key_columns(table)
    if not columns:
        raise BadInput(
            problem=f"{address_of(table)} has no key, so no row of it has an address",
            advice="show it in the list of rows",
        )
    values = [key] if len(columns) == 1 else _parts_of(key, len(columns))
    return and_(*(column == typed_value(column, value) for column, value in zip(columns, values, strict=True)))


def _parts_of(key: str, number: int) -> list[str]:
    try:
        parts = msgspec.json.decode(key, type=list[str])
    except (msgspec.DecodeError, RecursionError):
        parts = []
    if len(parts) != number:
        raise BadInput(problem=f'the key "{key}" is not a list of {number} texts', advice='write ["7", "BLUE"]')
    return parts


def typed_value(column: Column[Any], value: str | None) -> ColumnElement[Any]:
    """Bind a value as text and let PostgreSQL cast it to the column's type, so that no digit is lost on the way."""
    return cast(bindparam(None, value, Text), column.type)


def references_to(table: Table) -> list[Column[Any]]:
    """Return the columns of all tables that refer to this one, each alone."""
    keys = (key for other in table.metadata.tables.values() for key in _single_references(other))
    return sorted((key.parent for key in keys if key.column.table is table), key=str)


def _single_references(table: Table) -> list[ForeignKey]:
    return [constraint.elements[0] for constraint in table.foreign_key_constraints if len(constraint.elements) == 1]


def reference_of(column: Column[Any]) -> Column[Any] | None:
    """Return the column that a column refers to by itself, not as one of several."""
    own = (key for key in column.foreign_keys if key.constraint is None or len(key.constraint.elements) == 1)
    return next((key.column for key in own), None)


# --- Described --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColumnName:
    """A column of a table, by the address of the table and its name."""

    table: str
    column: str


@dataclass(frozen=True)
class ReferenceTarget(ColumnName):
    """The column that a column refers to, and whether it is the key of its table."""

    is_key: bool


@dataclass(frozen=True)
class ColumnDescription:
    """A column; `default` is what PostgreSQL fills in, and `values` are those of an enum."""

    name: str
    type: str
    kind: str
    nullable: bool
    default: str | None
    unique: bool
    primary: bool
    references: ReferenceTarget | None
    values: list[str] | None
    sortable: bool
    editable: bool
    insertable: bool


@dataclass(frozen=True)
class TableDescription:
    """A table; `name` is its address, and `phase` that of the move in which it is copied, `None` for an app's.

    `hidden` are the columns that the role may not read, and `obstacle` says why no row can be changed.
    """

    name: str
    schema: str
    title: str
    kind: str
    comment: str | None
    columns: list[ColumnDescription]
    key: list[str]
    hidden: tuple[str, ...]
    obstacle: str | None
    may_insert: bool
    may_update: bool
    may_delete: bool
    referenced_by: list[ColumnName]
    phase: int | None


@cache
def describe_models() -> list[TableDescription]:
    """Describe the tables of the models, in their order, without asking the database."""
    return [describe(table) for table in shown_tables().values()]


def describe(table: Table) -> TableDescription:
    """Describe a table for the browser."""
    facts, model = facts_of(table), Base.metadata.tables.get(address_of(table))
    return TableDescription(
        name=address_of(table),
        schema=table.schema or SCHEMA,
        title=str(table.name),
        kind=facts.kind,
        comment=facts.comment,
        columns=[_describe(column) for column in table.columns],
        key=[column.name for column in key_columns(table)],
        hidden=facts.hidden,
        obstacle=facts.obstacle,
        may_insert=facts.may_insert,
        may_update=facts.may_update,
        may_delete=facts.may_delete,
        referenced_by=[ColumnName(address_of(column.table), column.name) for column in references_to(table)],
        phase=phase(model) if model is not None and is_of_package(model) else None,
    )


def _describe(column: Column[Any]) -> ColumnDescription:
    facts, target = column_facts(column), reference_of(column)
    return ColumnDescription(
        name=column.name,
        type=facts.type,
        kind=kind_of(column),
        nullable=bool(column.nullable),
        default=facts.default,
        unique=_is_unique(column),
        primary=column.primary_key,
        references=None if target is None else _described_target(target),
        values=facts.values,
        sortable=facts.sortable,
        editable=facts.editable,
        insertable=facts.insertable,
    )


def _described_target(target: Column[Any]) -> ReferenceTarget:
    return ReferenceTarget(address_of(target.table), target.name, is_key=key_columns(target.table) == [target])


def _is_unique(column: Column[Any]) -> bool:
    unique = (known for known in column.table.constraints if isinstance(known, UniqueConstraint | PrimaryKeyConstraint))
    return any(list(known.columns) == [column] for known in unique)


def _default_of_model(column: Column[Any]) -> str | None:
    if isinstance(column.server_default, DefaultClause):
        return str(column.server_default.arg)
    if isinstance(column.server_default, Computed):
        return str(column.server_default.sqltext)
    is_numbered = column.identity is not None or column is column.table.autoincrement_column
    return "the next number" if is_numbered else None
