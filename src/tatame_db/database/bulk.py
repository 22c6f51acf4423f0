"""What is done to whole tables: emptied, and their sequences set."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def sequence_query(table: Table) -> str | None:
    """Return the query that sets the sequence of a table past its highest id, or `None` if it has no sequence.

    PostgreSQL does not roll `setval` back.
    """
    column = table.autoincrement_column
    if column is None:
        return None
    name, highest = public(table.name), f"max({quoted(column.name)})"
    # In an empty table the next id is 1. A sequence cannot state that its last id was 0.
    sequence = f"pg_get_serial_sequence({literal(name)}, {literal(column.name)})"
    return f"SELECT setval({sequence}, greatest({highest}, 1), {highest} IS NOT NULL) FROM {name}"  # noqa: S608, quoted
