"""Whether the target is as the models describe it and the role may write it, before anything is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tatame_db.database.dialect import DIALECT
from tatame_db.errors import TatameError, fact
from tatame_db.schema import Base, phases

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Column, Table

    from tatame_db.move.connection import MoveConnection


@fact
class TargetColumnsMissing(TatameError):
    """The target lacks columns of the models, so its tables cannot be compared."""

    columns: list[str]
    what = "the target has no column {columns}"
    means = "Nothing was compared."
    fix = "run `tatame-db check`, fix what differs from the models, then run the command again"


@fact
class TargetTablesReplaced(TatameError):
    """Something else has the name of a table of the models, such as a view or a foreign table."""

    names: list[str]
    what = "these are no tables on the target: {names}"
    means = "Nothing was read or written."
    fix = "run `tatame-db check`, create the tables that it misses, then run the command again"


def refuse_replaced_tables(target: MoveConnection) -> None:
    """Raise `TargetTablesReplaced` if a table of the models is a view, a foreign table or a sequence."""
    rows = target.rows(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " AND relname = ANY(%(names)s) AND relkind NOT IN ('r', 'p') ORDER BY 1",
        {"names": list(phases())},
    )
    if rows:
        raise TargetTablesReplaced(names=[name for (name,) in rows])


def refuse_missing_columns(target: MoveConnection, tables: Sequence[Table]) -> None:
    """Raise `TargetColumnsMissing` if the target lacks a column of these models."""
    rows = target.rows(
        "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped"
    )
    existing = set(rows)
    columns = [column for table in tables for column in table.columns]
    if missing := [str(column) for column in columns if (column.table.name, column.name) not in existing]:
        raise TargetColumnsMissing(columns=missing)


def types_of_models(target: MoveConnection) -> dict[tuple[str, str], tuple[str, int, int]]:
    """Return the name that the models give to the type of each column, and PostgreSQL's number and modifier of it.

    By table and column; without columns of a type that PostgreSQL does not know by that name.
    """
    columns = [column for table in phases() for column in Base.metadata.tables[table].columns]
    names = sorted({_type_of(column) for column in columns})
    rows = target.rows(
        "SELECT name FROM unnest(%(names)s::text[]) AS name WHERE to_regtype(name) IS NOT NULL", {"names": names}
    )
    known = [name for (name,) in rows]
    # The server describes the types of a result, so that no list of their names is needed.
    result = target.driver.execute(f"SELECT {', '.join(f'NULL::{name}' for name in known)}".encode()).pgresult
    found = {name: (name, result.ftype(at), result.fmod(at)) for at, name in enumerate(known)} if result else {}
    return {
        (column.table.name, column.name): found[_type_of(column)] for column in columns if _type_of(column) in found
    }


def _type_of(column: Column[Any]) -> str:
    return str(column.type.compile(DIALECT)).lower()
