"""Changed rows of a table, written in place: a row whose id is in both databases is updated.

So rows of other tables that refer to it stay, and so do its values in columns that the models do not have.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import psycopg

from tatame_db.database.dialect import public, quoted
from tatame_db.database.keys import unique_key_or_index
from tatame_db.move.reach import refuse_reaching_changes
from tatame_db.move.stream import stream_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tatame_db.database.keys import KeyOrIndex
    from tatame_db.move.changes import Changes
    from tatame_db.move.connection import Connections, MoveConnection
    from tatame_db.move.mapping import TableMap
    from tatame_db.move.target import OwnKey

_NAME = "tatame_move_rows"
RECEIVED = f"pg_temp.{_NAME}"


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
    names = ", ".join(quoted(column.name) for column in table.columns)
    target.execute(
        f"CREATE TEMPORARY TABLE {_NAME} ON COMMIT DROP AS SELECT {names} FROM {table.target_sql} WITH NO DATA"
    )
    received = 0
    for where in changes.writes:
        received += stream_table(
            connections, table, where, into=RECEIVED, on_rows=partial(on_rows, received), on_block=None
        )
    # Otherwise the planner takes it for a table of a few pages.
    target.execute(f"ANALYZE {RECEIVED}")
    gone = [_gone(table, where) for where in changes.deletes]
    refuse_reaching_changes(target, table, own_keys, gone, _differing(table))
    # In this order, because a unique value may have moved from one row to another.
    deleted = sum(target.execute(f"DELETE FROM {table.target_sql} WHERE {condition}") for condition in gone)
    updated, dropped = _update(target, table)
    inserted = target.execute(
        f"INSERT INTO {public(table.name)} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM {RECEIVED} AS r"
        f" WHERE NOT EXISTS (SELECT FROM {table.target_sql} WHERE {_same_row(table)})"
    )
    for found in dropped:
        for statement in found.create_statements:
            target.execute(statement)
    target.execute(f"DROP TABLE {RECEIVED}")
    return deleted, updated + inserted


def _same_row(table: TableMap) -> str:
    key = quoted(table.key.name)
    return f"r.{key} = t.{key}"


def _gone(table: TableMap, where: str) -> str:
    """Return the condition of those rows of the target that were not received, among those that match a clause."""
    among = f"({where.removeprefix(' WHERE ')}) AND " if where else ""
    return f"{among}NOT EXISTS (SELECT FROM {RECEIVED} AS r WHERE {_same_row(table)})"


def _differing(table: TableMap) -> str:
    """Return the FROM clause, without the table of the target, of the rows to update."""
    columns = [quoted(column.name) for column in table.columns if column is not table.key]
    # Byte by byte, because to PostgreSQL 1.0 equals 1.00, and JSON values cannot be compared at all. The cast keeps
    # PostgreSQL from comparing column by column, for which there is no such operator.
    rows = [f"ROW({', '.join(f'{alias}.{column}' for column in columns)})::record" for alias in ("t", "r")]
    return f"{RECEIVED} AS r WHERE {_same_row(table)} AND {' *<> '.join(rows)}"


def _update(target: MoveConnection, table: TableMap) -> tuple[int, list[KeyOrIndex]]:
    """Update the rows that differ; return their number, and the unique keys and indexes to create again.

    PostgreSQL checks unique values row by row, so a swap of two values fails although the result is unique. Then the
    index is dropped until all rows are written, in the same transaction. Placeholders for the values would need one
    for each type, and a check constraint or a foreign key might reject it.
    """
    names = [quoted(column.name) for column in table.columns if column is not table.key]
    if not names:
        return 0, []
    assignments = ", ".join(f"{name} = r.{name}" for name in names)
    dropped: list[KeyOrIndex] = []
    while True:
        try:
            with target.driver.transaction():
                return target.execute(f"UPDATE {table.target_sql} SET {assignments} FROM {_differing(table)}"), dropped
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
