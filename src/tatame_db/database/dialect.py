"""PostgreSQL as SQLAlchemy writes it: the dialect, quoted names, and the oldest supported server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

if TYPE_CHECKING:
    from sqlalchemy import Dialect, Table

OLDEST_SERVER = 14
"""The oldest supported major version of PostgreSQL."""

DIALECT: Dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped
"""The dialect to compile statements and types with where no connection exists."""


def quoted(name: str) -> str:
    """Write a name for SQL, in quotes if PostgreSQL requires them: `users`, `"Users"`, `"user"`."""
    return DIALECT.identifier_preparer.quote(name)


def quoted_table(table: Table) -> str:
    """Write the name of a table for SQL, with its schema if it has one."""
    return DIALECT.identifier_preparer.format_table(table)
