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


@fact
class TargetNotOwned(TatameError):
    """The role of the target may not read the migrations, drop and restore keys and indexes, or record the move."""

    role: str
    reasons: list[str]
    what = "the role {role} may not use the target as a move does: {reasons}"
    fix = "set `DATABASE_URL` to the role that owns the tables, the one that migrates them"


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


def refuse_hidden_rows(target: MoveConnection) -> None:
    """Raise `TargetNotOwned` if row-level security hides rows of the tables of the models from the role."""
    if hidden := _hidden(target):
        [role] = target.row("SELECT current_user")
        raise TargetNotOwned(role=role, reasons=[_hides(hidden)])


def _hidden(target: MoveConnection) -> list[str]:
    rows = target.rows(
        "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace"
        " AND c.relname = ANY(%(tables)s) AND row_security_active(c.oid)"
        " ORDER BY array_position(%(tables)s::text[], c.relname::text)",
        {"tables": list(phases())},
    )
    return [name for (name,) in rows]


def _hides(tables: list[str]) -> str:
    return f"row-level security may hide rows of {', '.join(tables)}"


def refuse_missing_rights(target: MoveConnection) -> None:
    """Raise `TargetNotOwned` if the role may not drop and restore keys and indexes, or store the record of the move."""
    [(role, others, creates_indexes, creates_temporary, records)] = target.rows(_RIGHTS, {"tables": list(phases())})
    reasons = [f"it does not own {', '.join(others)}"] if others else []
    reasons += [_hides(hidden)] if (hidden := _hidden(target)) else []
    reasons += [] if creates_indexes else ["it may not create indexes in the schema public"]
    reasons += [] if creates_temporary else ["it may not create temporary tables"]
    reasons += [] if records else ["it may not create the schema tatame_move, or does not own it"]
    if reasons:
        raise TargetNotOwned(role=role, reasons=reasons)


_RIGHTS = """
SELECT current_user,
    ARRAY(
        SELECT c.relname::text FROM pg_class c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY(%(tables)s)
            AND NOT pg_has_role(c.relowner, 'USAGE')
        ORDER BY array_position(%(tables)s::text[], c.relname::text)
    ),
    has_schema_privilege('public', 'CREATE'),
    has_database_privilege(current_database(), 'TEMPORARY'),
    coalesce(
        (SELECT pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE nspname = 'tatame_move'),
        has_database_privilege(current_database(), 'CREATE')
    )
"""
