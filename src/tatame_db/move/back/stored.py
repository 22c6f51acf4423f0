"""What a way back left on the target, stored in `tatame_move.not_returned`: the next copy may overwrite it there."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.database.dialect import literal, quoted
from tatame_db.move.back.found import UNKNOWN_COLUMN
from tatame_db.move.back.target_only import own_columns
from tatame_db.move.choices import Exclusion
from tatame_db.move.conversion import TEXT
from tatame_db.move.record import OF_LAST_SOURCE, SCHEMA, Record
from tatame_db.move.rejects import declared_types
from tatame_db.move.row_json import jsonb_of, target_row_as_jsonb
from tatame_db.move.sql import TARGET_ROW, array, array_items

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from tatame_db.move.back.left import LeftRows
    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.mapping import TableMap

NOT_RETURNED = f"{SCHEMA}.not_returned"
Places = dict[tuple[str, str | None], set[str]]
"""Ids by table and column of the target; without a column, of whole rows."""


def stores_any(target: MoveConnection) -> bool:
    """Return whether the record has the table, which older versions did not create."""
    [exists] = target.row(f"SELECT to_regclass('{NOT_RETURNED}') IS NOT NULL")
    return exists is True


def not_returned(target: MoveConnection) -> list[Exclusion]:
    """Count what is not at the source, by table, column and reason; of each table's last source."""
    if not stores_any(target):
        return []
    rows = target.rows(
        f"SELECT table_name, column_name, kind, reason, action, count(*) FROM {NOT_RETURNED}"
        f" WHERE {OF_LAST_SOURCE} AND returned_at IS NULL GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2 NULLS FIRST, 3, 4, 5"
    )
    return [Exclusion(*row) for row in rows]


@dataclass(frozen=True)
class StoredRows:
    """Reads and writes what is stored about one source; the caller commits."""

    target: MoveConnection
    identity: str

    def places(self) -> Places:
        """Return the rows, and the values that became NULL, that are not at the source."""
        found: Places = defaultdict(set)
        if stores_any(self.target):
            for table, column, key in self.target.rows(
                f"SELECT table_name, column_name, id FROM {NOT_RETURNED} WHERE source_identity = %(identity)s"
                " AND returned_at IS NULL AND kind <> %(unknown)s",
                {"identity": self.identity, "unknown": UNKNOWN_COLUMN},
            ):
                found[table, column].add(key)
        return found

    def mark_returned(self, tables: Collection[TableMap], written: Places) -> None:
        """Store that rows were written back, and all values of columns that the source has by now."""
        if not stores_any(self.target):
            return
        mapped = [(table.name, column.name) for table in tables for column in table.columns if column.source]
        names = array(array_items(name for name, _ in mapped), TEXT)
        columns = array(array_items(column for _, column in mapped), TEXT)
        among = f"(k.table_name, k.column_name) IN (SELECT * FROM unnest({names}, {columns}))"
        self._mark(f"k.kind = {literal(UNKNOWN_COLUMN)} AND {among}")
        for table in tables:
            for (name, column), ids in written.items():
                if name == table.name and ids:
                    among = f"k.id = ANY({array(array_items(ids), TEXT)})"
                    self._mark(f"k.table_name = {literal(name)} AND {among} AND {_is_at_source(table, column)}")

    def _mark(self, condition: str) -> None:
        self.target.execute(
            f"UPDATE {NOT_RETURNED} AS k SET returned_at = clock_timestamp() WHERE {self._missing} AND {condition}"
        )

    @property
    def _missing(self) -> str:
        return f"k.source_identity = {literal(self.identity)} AND k.returned_at IS NULL"

    def store(self, run: int, table: TableMap, left: LeftRows) -> None:
        """Store the rows and values of a table that a way back leaves, as the target has them now."""
        types = declared_types(self.target, table.name)
        row, key = target_row_as_jsonb(types.values()), table.key
        for column, why, ids in left.groups():
            rows = (
                f"FROM unnest({array(array_items(ids), key.type)}) AS w (id)"
                f" LEFT JOIN {table.target_sql} ON {key.target_value} = w.id"
            )
            # A newer value takes the place of an older one; of a row, only the same one does.
            same = "" if column else f" AND k.row_text IS NOT DISTINCT FROM ({TARGET_ROW})::text"
            self._delete(table.name, column, f"EXISTS (SELECT {rows} WHERE w.id::text = k.id{same})")
            facts = (self.identity, table.name, column, *why)
            self._insert(run, facts, types, f"w.id::text, {row}, ({TARGET_ROW})::text {rows}")
        own = own_columns(table)
        for name in [column.name for column in (*table.columns, *table.own) if column.source is None]:
            self._delete(table.name, name, f"k.kind = {literal(UNKNOWN_COLUMN)}")
            if name not in own:
                continue
            why, condition = own[name]
            shape = {place: types[place] for place in (key.name, name)}
            value = f"ROW({', '.join(f't.{quoted(place)}' for place in shape)})"
            pairs = ", ".join(f"{literal(place)}::text, t.{quoted(place)}" for place in shape)
            shown = jsonb_of(value, f"json_build_object({pairs})", f"jsonb_build_object({pairs})", [types[name]])
            facts = (self.identity, table.name, name, *why)
            rows = f"FROM {table.target_sql} WHERE {condition}"
            self._insert(run, facts, shape, f"{table.target_id}, {shown}, ({value})::text {rows}")

    def _delete(self, table: str, column: str | None, condition: str) -> None:
        place = "NULL" if column is None else literal(column)
        self.target.execute(
            f"DELETE FROM {NOT_RETURNED} AS k WHERE {self._missing} AND k.table_name = {literal(table)}"
            f" AND k.column_name IS NOT DISTINCT FROM {place} AND {condition}"
        )

    def _insert(self, run: int, facts: Iterable[str | None], shape: Mapping[str, str], rows: str) -> None:
        number = Record(self.target).shape([*shape], [*shape.values()])
        texts = ", ".join("NULL::text" if fact is None else f"{literal(fact)}::text" for fact in facts)
        self.target.execute(
            f"INSERT INTO {NOT_RETURNED} (run, shape, source_identity, table_name, column_name, kind, reason, action,"
            f' id, "row", row_text) SELECT {run}, {number}, {texts}, {rows}'
        )


def _is_at_source(table: TableMap, column: str | None) -> str:
    """Return the condition that a row that was written back has no stored value that is missing there still."""
    if column is None:
        return "k.column_name IS NULL"
    if column not in {found.name for found in table.columns}:
        return "false"
    key = table.key
    return (
        f"k.column_name = {literal(column)} AND NOT EXISTS (SELECT FROM {table.target_sql}"
        f" WHERE {key.target_value} = k.id::{key.type} AND t.{quoted(column)} IS NULL)"
    )
