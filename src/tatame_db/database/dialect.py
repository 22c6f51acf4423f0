"""PostgreSQL as SQLAlchemy writes it: the dialect, quoted names and constants, and the oldest supported server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

if TYPE_CHECKING:
    from sqlalchemy import Dialect, Table

OLDEST_SERVER = 14
"""The oldest supported major version of PostgreSQL."""

DIALECT: Dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped
"""The dialect that compiles statements and types without a connection."""


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
    return f"public.{quoted(name)}"


def literal(text: str) -> str:
    """Return a text as an SQL constant without a `%`, which would count as a placeholder beside parameters."""
    escaped = text.replace("\\", r"\\").replace("'", "''").replace("%", r"\x25")
    return f"E'{escaped}'"


def quoted_table(table: Table) -> str:
    """Write the name of a table for SQL, with its schema if it has one."""
    return ".".join(quoted(part) for part in (table.schema, table.name) if part)
