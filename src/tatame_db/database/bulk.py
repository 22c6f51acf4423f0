"""What is done to whole tables: emptied, and their sequences set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tatame_db.database.dialect import literal, public, quoted, quoted_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Table


def truncate(connection: Connection, tables: Sequence[Table]) -> None:
    """Delete the rows of all these tables and restart their ids at 1.

    It fails if another table refers to one of them, rather than delete the rows of that table.
    """
    names = ", ".join(map(quoted_table, tables))
    connection.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY", execution_options={"no_parameters": True})


def advance_sequence(connection: Connection, table: Table) -> None:
    """Set the sequence of a table, if it has one, past its highest id.

    PostgreSQL does not roll `setval` back.
    """
    column = table.autoincrement_column
    if column is None:
        return
    name, highest = public(table.name), f"max({quoted(column.name)})"
    # In an empty table the next id is 1. A sequence cannot state that its last id was 0. The row is read by a statement
    # of its own, because Citus may run `setval` in the session that reads it, which waits for this one.
    [(last,)] = _run(connection, f"SELECT {highest} FROM {name}")  # noqa: S608, quoted
    sequence = f"pg_get_serial_sequence({literal(name)}, {literal(column.name)})"
    _run(connection, f"SELECT setval({sequence}, {max(last or 0, 1)}, {str(last is not None).lower()})")


def _run(connection: Connection, statement: str) -> Sequence[Any]:
    return connection.exec_driver_sql(statement, execution_options={"no_parameters": True}).all()
