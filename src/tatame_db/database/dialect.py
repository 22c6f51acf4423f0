"""PostgreSQL as SQLAlchemy writes it: the dialect, quoted names and constants, and the oldest supported server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Sequence, Table
from sqlalchemy.dialects.postgresql.named_types import NamedType
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg, PGIdentifierPreparer_psycopg

if TYPE_CHECKING:
    from typing import Any

    from sqlalchemy import Connection, Dialect

OLDEST_SERVER = 14
"""The oldest supported major version of PostgreSQL."""

SCHEMA = "public"
"""The schema of all tables that name no other, whatever the `search_path` of a session is."""
VERSION_SCHEMA = "tatame_migrations"
"""The schema of the record of migrations. Tools that compare `public` with their own schema file find only tables of
the app there."""
MOVE_SCHEMA = "tatame_move"
"""The schema of everything that a move creates beside the tables: its record, and the function of its triggers."""
CHECK_DEFERRED = "SET CONSTRAINTS ALL IMMEDIATE"
"""Checks before the COMMIT what is deferred to it, so that a command can put a failure into words."""


def _schema_of(named: Any) -> Any:
    own, prefixes = getattr(named, "schema", None), getattr(named, "_prefixes", ())
    is_qualified = isinstance(named, Table | Sequence | NamedType) and "TEMPORARY" not in prefixes
    return own or (SCHEMA if is_qualified else None)


class _Qualifying(PGIdentifierPreparer_psycopg):
    """Writes the schema of tables, sequences and types that name none.

    A pooler lends one session after another, so no path can be set there, and a path would take a round trip.
    """

    schema_for_object = staticmethod(_schema_of)


def _default_schema(connection: Connection) -> str:  # noqa: ARG001, the argument is SQLAlchemy's
    return SCHEMA


def qualify(dialect: Any) -> None:
    """Let a dialect write `SCHEMA` before the names of tables, sequences and types that name no schema."""
    dialect.identifier_preparer = _Qualifying(dialect)
    # SQLAlchemy would ask the server for it, before a path is set.
    dialect._get_default_schema_name = _default_schema


DIALECT: Dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped
"""The dialect that compiles statements and types without a connection."""
qualify(DIALECT)


# Reserved in PostgreSQL 18, and not quoted by SQLAlchemy.
_RESERVED = {"collation", "concurrently", "lateral", "system_user", "tablesample"}


def quoted(name: str) -> str:
    """Write a name for SQL, in quotes if PostgreSQL requires them: `users`, `"Users"`, `"user"`.

    A `%` is not doubled: `text()` does that itself, and psycopg expects it only in a statement with parameters.
    """
    if DIALECT.identifier_preparer.quote(name) == name and name not in _RESERVED:
        return name
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def public(name: str) -> str:
    """Return the qualified name of a table or index of the schema `public`."""
    return f"{SCHEMA}.{quoted(name)}"


def literal(text: str) -> str:
    """Return a text as an SQL constant without a `%`, which would count as a placeholder beside parameters."""
    escaped = text.replace("\\", r"\\").replace("'", "''").replace("%", r"\x25")
    return f"E'{escaped}'"


def quoted_table(table: Table) -> str:
    """Write the qualified name of a table for SQL."""
    return f"{quoted(table.schema or SCHEMA)}.{quoted(table.name)}"
