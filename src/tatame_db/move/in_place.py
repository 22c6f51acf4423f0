"""Changed rows of a table, written in place: a row whose id is in both databases is updated.

So rows of other tables that refer to it stay, and so do its values in columns that the models do not have.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import psycopg

from tatame_db.database.dialect import public, quoted
from tatame_db.database.keys import unique_key_or_index
from tatame_db.errors import TatameError, fact
from tatame_db.evolve.lock import ignore
from tatame_db.move.catalogue import placed_tables
from tatame_db.move.reach import refuse_reaching_changes
from tatame_db.move.stream import stream_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tatame_db.database.keys import KeyOrIndex
    from tatame_db.move.changes import Changes
    from tatame_db.move.connection import Connections, MoveConnection
    from tatame_db.move.mapping import TableMap
    from tatame_db.move.target import OwnKey


@fact
class RowsNotUpdated(TatameError):
    """Rows of the target differ from the source, and Citus has placed their table on its nodes."""

    table: str
    what = (
        "rows of {table} differ from those of the source, and Citus has placed the table: it is only copied as a whole"
    )
    means = "No row of {table} was changed; tables that were proven before stay committed."
    fix = "empty the tables that differ, which `tatame-db move counts` and `tatame-db move verify` name, and copy again"


TEMPORARY = "pg_temp."
RECEIVED = f"{TEMPORARY}tatame_move_rows"


def write_in_place(
    connections: Connections,
    table: TableMap,
    changes: Changes,
    own_keys: Sequence[OwnKey],
    on_rows: Callable[[int, int], None],
) -> tuple[int, int]:
    """Delete the rows that are gone at the source, update those that differ, and insert the new ones.

    Returns the number of rows that were deleted, and that were updated or inserted. `on_rows` is called with the
    number of rows of earlier streams and of the current one. Raises `ChangesReachOtherRows`.
    """
    target = connections.target
    if placed_tables(target, [table.name]):
        # A node has no temporary table.
        raise RowsNotUpdated(table=table.name)
    receive(connections, table, changes.writes, RECEIVED, on_rows)
    gone = [gone_rows(table, where, RECEIVED) for where in changes.deletes]
    refuse_reaching_changes(target, table, own_keys, gone, differing_rows(table, RECEIVED))
    # In this order, because a unique value may have moved from one row to another.
    deleted = sum(target.execute(f"DELETE FROM {table.target_sql} WHERE {condition}") for condition in gone)
    updated, dropped = _update(target, table)
    inserted = target.execute(insert_statement(table, RECEIVED))
    for found in dropped:
        for statement in found.create_statements:
            target.execute(statement)
    target.execute(f"DROP TABLE {RECEIVED}")
    return deleted, updated + inserted


def receive(
    connections: Connections,
    table: TableMap,
    writes: Sequence[str],
    received: str,
    on_rows: Callable[[int, int], None] = ignore,
) -> None:
    """Create a temporary table of this name with the rows of the source that match any of these WHERE clauses."""
    target = connections.target
    target.execute(
        f"CREATE TEMPORARY TABLE {received.removeprefix(TEMPORARY)} ON COMMIT DROP AS"
        f" SELECT {_names(table)} FROM {table.target_sql} WITH NO DATA"
    )
    rows = 0
    for where in writes:
        rows += stream_table(connections, table, where, into=received, on_rows=partial(on_rows, rows), on_block=None)
    # Otherwise the planner takes it for a table of a few pages.
    target.execute(f"ANALYZE {received}")


def update_statement(table: TableMap, received: str) -> str | None:
    """Return the statement that updates the rows that differ; `None` if rows consist of nothing but an id."""
    names = [quoted(column.name) for column in table.columns if column is not table.key]
    assignments = ", ".join(f"{name} = r.{name}" for name in names)
    return f"UPDATE {table.target_sql} SET {assignments} FROM {differing_rows(table, received)}" if names else None


def insert_statement(table: TableMap, received: str) -> str:
    """Return the statement that inserts the rows whose ids the target lacks."""
    names = _names(table)
    return (
        f"INSERT INTO {public(table.name)} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM {received} AS r"
        f" WHERE NOT EXISTS (SELECT FROM {table.target_sql} WHERE {_same_row(table)})"
    )


def gone_rows(table: TableMap, where: str, received: str) -> str:
    """Return the condition of those rows of the target that were not received, among those that match a clause."""
    among = f"({where.removeprefix(' WHERE ')}) AND " if where else ""
    return f"{among}NOT EXISTS (SELECT FROM {received} AS r WHERE {_same_row(table)})"


def differing_rows(table: TableMap, received: str) -> str:
    """Return the FROM clause, without the table of the target, of the rows to update."""
    columns = [quoted(column.name) for column in table.columns if column is not table.key]
    # Byte by byte, because to PostgreSQL 1.0 equals 1.00, and JSON values cannot be compared at all. The cast keeps
    # PostgreSQL from comparing column by column, for which there is no such operator.
    rows = [f"ROW({', '.join(f'{alias}.{column}' for column in columns)})::record" for alias in ("t", "r")]
    return f"{received} AS r WHERE {_same_row(table)} AND {' *<> '.join(rows)}"


def _names(table: TableMap) -> str:
    return ", ".join(quoted(column.name) for column in table.columns)


def _same_row(table: TableMap) -> str:
    key = quoted(table.key.name)
    return f"r.{key} = t.{key}"


def _update(target: MoveConnection, table: TableMap) -> tuple[int, list[KeyOrIndex]]:
    """Update the rows that differ; return their number, and the unique keys and indexes to create again.

    PostgreSQL checks unique values row by row, so a swap of two values fails although the result is unique. Then the
    index is dropped until all rows are written, in the same transaction. Placeholders for the values would need one
    for each type, and a check constraint or a foreign key might reject it.
    """
    statement = update_statement(table, RECEIVED)
    if statement is None:
        return 0, []
    dropped: list[KeyOrIndex] = []
    while True:
        try:
            with target.driver.transaction():
                return target.execute(statement), dropped
        except psycopg.errors.UniqueViolation as error:
            # A trigger may have violated an index of another table.
            in_table = (error.diag.schema_name, error.diag.table_name) == ("public", table.name)
            found = unique_key_or_index(target.rows, table.name, str(error.diag.constraint_name))
            if found is None or not in_table:
                raise
        # No key of a table can be dropped as long as deferred triggers wait for its rows.
        target.execute("SET CONSTRAINTS ALL IMMEDIATE")
        target.execute(found.drop_statement)
        dropped.append(found)
