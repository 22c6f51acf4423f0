"""What the target has and the source has no place for: tables, and columns with values.

With the choice to leave them, such columns are a table's `own`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.move.back.found import UNKNOWN_COLUMN, FoundObstacles
from tatame_db.move.back.left import Why
from tatame_db.move.choices import LEFT
from tatame_db.move.obstacles import Requirement
from tatame_db.move.sql import array, array_items

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tatame_db.move.choices import Choices, Obstacle
    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.mapping import ColumnMap, TableMap

_WRITABLE = ("table", "partitioned table")


def is_writable(table: TableMap) -> bool:
    """Return whether rows can be written back at all; nothing else can have a fence."""
    return table.source is not None and table.source.kind in _WRITABLE and table.key.source is not None


def obstacles_of(target: MoveConnection, table: TableMap, choices: Choices) -> list[Obstacle]:
    """Return the obstacles of a table that the source lacks, or cannot be written to, or of its columns."""
    found = FoundObstacles(choices)
    for requirement, ids in _values_without_source(target, table):
        found.note(table.name, requirement, ids)
    return found.obstacles.get(table.name, [])


def note_values_without_source(
    target: MoveConnection, table: TableMap, ids: Collection[str], found: FoundObstacles
) -> None:
    """Note the rows with these ids that have values for which the source has no column."""
    among = f" AND {table.key.target_value} = ANY({array(array_items(ids), table.key.type)})"
    for requirement, its in _values_without_source(target, table, among):
        found.note(table.name, requirement, its)


def own_values(target: MoveConnection, table: TableMap) -> dict[str, tuple[Why, int]]:
    """Count the values in each of the table's own columns."""
    found: dict[str, tuple[Why, int]] = {}
    for name, (why, condition) in own_columns(table).items():
        [count] = target.row(f"SELECT count(*) FROM {table.target_sql} WHERE {condition}")
        found[name] = why, count
    return found


def own_columns(table: TableMap) -> dict[str, tuple[Why, str]]:
    """Return the table's own columns, each with the condition of the rows that have a value in it."""
    values = {column.name: _without_source(column) for column in table.own}
    return {name: (Why(found.kind, found.reason, LEFT), found.violation) for name, found in values.items()}


def _values_without_source(
    target: MoveConnection, table: TableMap, among: str = ""
) -> Iterator[tuple[Requirement, list[str]]]:
    for requirement in _requirements(table):
        query = f"SELECT {table.target_id} FROM {table.target_sql} WHERE {requirement.violation}{among}"
        yield requirement, [key for (key,) in target.rows(query)]


def _requirements(table: TableMap) -> Iterator[Requirement]:
    if table.source is None:
        reason = f"the source has no table {table.name}"
        yield Requirement(UNKNOWN_COLUMN, reason, "true", ("create the table at the source",))
    else:
        yield from (_without_source(column) for column in table.columns if column.source is None)


def _without_source(column: ColumnMap) -> Requirement:
    return Requirement(
        UNKNOWN_COLUMN,
        f"{column.name} has values, and the source has no such column",
        f"({column.target_text}) IS DISTINCT FROM ({column.source_text})",
        ("add the column at the source",),
        column.name,
    )
