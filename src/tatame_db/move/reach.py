"""Rows of the target that did not come from the source, and refer to rows that a copy would delete.

A foreign key of the team's own tables deletes them too, empties their references, or makes the copy fail. So a copy
refuses: once before it writes anything, and once more with the rows locked, because the app may have added some.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from tatame_db.database.dialect import literal, quoted
from tatame_db.errors import TatameError, counted, fact
from tatame_db.move.changes import BATCH_ROWS
from tatame_db.move.sql import array, array_items

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tatame_db.move.connection import Connections, MoveConnection
    from tatame_db.move.mapping import TableMap
    from tatame_db.move.target import OwnKey

# The ids that are named of each foreign key.
IDS = 3


@fact
class RowsStillReferenced(TatameError):
    """Rows are gone at the source, and rows of the target that did not come from there refer to them.

    `references` has a sentence for each foreign key, with the ids of some of the rows that are gone.
    """

    references: list[str]
    what = "rows that the source no longer has are still referred to on the target: {references}"
    means = "The rows at both ends of these foreign keys are unchanged."
    fix = "on the target, delete the rows that refer to them or let them refer to others, then run the command again"


@fact
class ReferencesUnreadable(TatameError):
    """The role may not read a table of the target that refers to a table of the models."""

    table: str
    key: str
    reason: str
    what = "the rows of {table}, which the foreign key {key} protects, cannot be read: {reason}"
    means = "Nothing was written, because deleting a row that they refer to could delete them too."
    fix = "grant SELECT on the table to the role of `DATABASE_URL`, or use the role that owns it"


def refuse_references(connections: Connections, tables: Iterable[TableMap], own_keys: Sequence[OwnKey]) -> None:
    """Compare the rows to which the target's own rows refer with the source.

    Raises `RowsStillReferenced`, `ReferencesUnreadable`.
    """
    _refuse(
        [_find_references(connections, table, key) for table in tables for key in own_keys if key.parent == table.name]
    )


def refuse_reaching_changes(
    target: MoveConnection, table: TableMap, own_keys: Sequence[OwnKey], gone: Sequence[str], differing: str
) -> None:
    """Count the target's own rows that refer to rows about to change; no more can be added until the transaction ends.

    `gone` are conditions of rows to delete; `differing` is the rest of a FROM clause with the rows to update.
    Raises `RowsStillReferenced`.
    """
    found: list[_References] = []
    for key in own_keys:
        if key.parent != table.name:
            continue
        changing = [f"{table.target_sql} WHERE {condition}" for condition in gone]
        if names := _values_beside_key(table, key):
            # Ids never change, but another column may be referred to.
            old, new = (f"ROW({', '.join(f'{alias}.{quoted(name)}' for name in names)})::record" for alias in "tr")
            changing.append(f"{table.target_sql}, {differing} AND {old} *<> {new}")
        rows, ids = 0, list[str]()
        for clause in changing:
            # A new reference has to lock the row that it refers to.
            target.row(
                f"WITH locked AS MATERIALIZED (SELECT FROM {clause} FOR UPDATE OF t) SELECT count(*) FROM locked"
            )
            # In a statement of its own, which sees what was committed until the rows were locked.
            rows += target.row(
                f"SELECT count(*) FROM {key.sql} AS c WHERE EXISTS (SELECT FROM {clause} AND {key.matches})"
            )[0]
            refers = f"EXISTS (SELECT FROM {key.sql} AS c WHERE {key.matches})"
            named = f"SELECT {table.target_id} FROM {clause} AND {refers} ORDER BY {table.key.target_value} LIMIT {IDS}"
            ids += [name for (name,) in target.rows(named)]
        found.append(_References(key, rows, ids))
    _refuse(found)


@dataclass(frozen=True)
class _References:
    """The number of rows that refer by this key to rows about to change, and the ids of some of those."""

    key: OwnKey
    rows: int
    ids: list[str]

    def __str__(self) -> str:
        key, ids = self.key, ", ".join(self.ids[:IDS])
        return (
            f"{counted(self.rows, 'row')} of {key.place} to {key.parent}, for example to the id {ids}, by {key.name}"
            f" (ON DELETE {key.on_delete})"
        )


def _refuse(found: Iterable[_References]) -> None:
    if references := [str(reference) for reference in found if reference.rows]:
        raise RowsStillReferenced(references=references)


def _find_references(connections: Connections, table: TableMap, key: OwnKey) -> _References:
    """Find the rows that refer by this key to rows that the source does not have, or has with other values."""
    target, kind = connections.target, table.key.type
    columns = [table.column(name) for name in _values_beside_key(table, key)]
    source_values = f"ROW({', '.join(column.source_text for column in columns)})::text"
    target_values = f"ROW({', '.join(column.target_text for column in columns)})::text"
    rows, ids, after = 0, list[str](), ""
    while True:
        try:
            # A savepoint, because the transaction goes on after an error.
            with target.driver.transaction():
                referenced: dict[str, str] = dict(
                    target.rows(
                        f"SELECT {table.target_id}, {target_values} FROM {table.target_sql}"
                        f" WHERE EXISTS (SELECT FROM {key.sql} AS c WHERE {key.matches}){after}"
                        f" ORDER BY {table.key.target_value} LIMIT {BATCH_ROWS}"
                    )
                )
        except psycopg.errors.InsufficientPrivilege as error:
            raise ReferencesUnreadable(table=key.place, key=key.name, reason=str(error.diag.message_primary)) from error
        in_source = dict(
            connections.source.rows(
                f"SELECT {table.source_id}, {source_values} FROM {table.source_sql}"
                f" WHERE {_among(table, list(referenced))}"
            )
        )
        gone = [name for name, values in referenced.items() if in_source.get(name) != values]
        if gone:
            ids += gone[: IDS - len(ids)]
            [count] = target.row(
                f"SELECT count(*) FROM {key.sql} AS c WHERE EXISTS (SELECT FROM {table.target_sql}"
                f" WHERE {key.matches} AND {table.key.target_value} = ANY({array(array_items(gone), kind)}))"
            )
            rows += count
        if len(referenced) < BATCH_ROWS:
            return _References(key, rows, ids)
        after = f" AND {table.key.target_value} > {literal(list(referenced)[-1])}::{kind}"


def _values_beside_key(table: TableMap, key: OwnKey) -> list[str]:
    """Name the columns that are referred to and that a copy may change."""
    changeable = {column.name for column in table.columns} - {table.key.name}
    return [name for name in key.parent_columns if name in changeable]


def _among(table: TableMap, ids: list[str]) -> str:
    """Return the condition that a row of the source has one of these ids of the target."""
    if table.counted_key:
        # Of the widest type, because the source's may be narrower than an id of the target.
        return f"{table.key.source_value} = ANY({array(array_items(ids), 'bigint')})"
    return f"{table.source_id} = ANY({array(array_items(ids), 'text')})"
