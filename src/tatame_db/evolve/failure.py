"""A statement that PostgreSQL rejected: its message, the number of NULLs in a NOT NULL column, and a hint."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy import inspect, text

from tatame_db.database.dialect import quoted
from tatame_db.errors import counted
from tatame_db.evolve.placement import has_citus, rows_on
from tatame_db.roles.missing import is_refusal, refusal
from tatame_db.roles.rights import rows_of

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.exc import StatementError

    from tatame_db.roles import RightsMissing


# As in `invalid input syntax for type integer: "x"` and `Key (name)=(x) is duplicated`. A value may contain quotes.
_QUOTED, _OF_KEY = re.compile(r'".*"', re.DOTALL), re.compile(r"=\(.*\)", re.DOTALL)


def postgres_message(connection: Connection, error: StatementError) -> str:
    """Join PostgreSQL's message, detail and hint, without values of rows.

    Reads the table for a NOT NULL violation, so roll back first.
    """
    if not isinstance(error.orig, psycopg.Error):
        return str(error.orig)
    diagnostics = error.orig.diag
    parts = [diagnostics.message_primary, diagnostics.message_detail, diagnostics.message_hint]
    if isinstance(error.orig, psycopg.DataError):
        parts = [_QUOTED.sub('"…"', part or "") for part in parts]
    elif isinstance(error.orig, psycopg.errors.NotNullViolation | psycopg.errors.CheckViolation):
        # The detail is the row.
        parts = [diagnostics.message_primary]
    elif isinstance(error.orig, psycopg.IntegrityError):
        parts = [_OF_KEY.sub("=(…)", part or "") for part in parts]
    if isinstance(error.orig, psycopg.errors.NotNullViolation) and diagnostics.table_name and diagnostics.column_name:
        parts.append(_nulls(connection, diagnostics.table_name, diagnostics.column_name))
    return "; ".join(part for part in parts if part) or str(error.orig)


def _nulls(connection: Connection, table: str, column: str) -> str:
    is_column = "SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass(:table) AND attname = :column"
    if not connection.execute(text(is_column), {"table": quoted(table), "column": column}).first():
        # The rejected statement added the column, and it is gone again.
        rows = connection.scalar(text(f"SELECT count(*) FROM {quoted(table)}"))
        return f"the new column would be NULL in the {counted(rows or 0, 'existing row')}"
    # Only the key is shown: the rest of the row may be personal data.
    key = inspect(connection).get_pk_constraint(table)["constrained_columns"]
    example = " || ', ' || ".join(f"'{name} = ' || {quoted(name)}::text" for name in key) or "NULL"
    query = f"SELECT count(*), min({example}) FROM {quoted(table)} WHERE {quoted(column)} IS NULL"
    rows, first = connection.execute(text(query)).one()
    if not rows:
        # The statement wrote the row itself.
        return ""
    return f"{counted(rows, 'row')} with NULL, for example {first or 'a row without a key'}"


def sqlstate(error: StatementError) -> str | None:
    """Return PostgreSQL's five-character code of an error; `None` if the server did not send one."""
    return error.orig.sqlstate if isinstance(error.orig, psycopg.Error) else None


DUPLICATE_TABLE = "42P07"
_FIXES = {
    "55P03": "end the transaction that holds the lock (see `pg_stat_activity`), or allow more `--lock-timeout`",
    "57014": "if it took too long, allow more `--statement-timeout`, or split the {source} into smaller steps;"
    " otherwise find out who or what canceled it",
    **dict.fromkeys(("57P02", "57P03"), "wait until the server or node that PostgreSQL names is up"),
    "57P01": "an administrator or a shutdown of the server ended the connection: wait until the server is up",
    "40P01": "the tables were in use: run it when fewer sessions use them",
    "53100": "free some disk space on the server",
    "42501": "run the command as a superuser, or as the owner of the object that PostgreSQL names",
    # An object exists that depends on one that is dropped or changed.
    **dict.fromkeys(("2BP01", "0A000"), "drop what depends on it, or change the {source} so that it stays"),
    # A column, table or other object exists already.
    **dict.fromkeys(
        ("42701", DUPLICATE_TABLE, "42710"),
        "find out what made the object that exists: another migration, a person, or `tatame-db push`, after which the"
        " database has to be created again. Change the {source}, or drop or rename the object if nothing needs it",
    ),
}


_NOT_SUPPORTED = "0A000"


def is_limit_of_citus(connection: Connection, error: StatementError) -> bool:
    """Return whether a statement was refused as not supported in a database with Citus; roll back first."""
    return sqlstate(error) == _NOT_SUPPORTED and has_citus(rows_on(connection))


def fix_for(code: str | None, source: str, *, on_citus: bool = False) -> str:
    """Return the fix for a rejected statement of a migration or of the models, by its SQLSTATE."""
    if on_citus:
        return (
            f"change the {source} to what Citus supports for a table that is distributed or copied to every node: see"
            ' the page "Citus"'
        )
    if code and code.startswith("08"):
        return "start the node that PostgreSQL names; the line `citus` of `tatame-db doctor` shows which do not answer"
    data = "fix the data or the {source}" if code and code.startswith(("22", "23")) else "fix the {source}"
    return _FIXES.get(code or "", data).format(source=source)


def missing_rights_of(connection: Connection, error: StatementError, command: str) -> RightsMissing | None:
    """Return the rights that the role lacks for a command, if PostgreSQL refused a statement; roll back first."""
    return refusal(rows_of(connection), command) if is_refusal(error) else None


def indented(statement: str) -> str:
    """Set a statement off from the sentences around it."""
    return textwrap.indent(statement.strip(), "    ")
