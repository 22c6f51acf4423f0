"""What the first direction excluded, as the record on the target has it, and whether that still holds.

A rejected row is no part of a comparison. A value that became NULL counts as NULL as long as it was not changed: the
target's value is still NULL, and the source's is still the one that was recorded.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from tatame_db.database.dialect import literal, quoted
from tatame_db.move.choices import NULLED, REJECTED
from tatame_db.move.conversion import TEXT
from tatame_db.move.mapping import ExcludedRows
from tatame_db.move.record import SCHEMA, Record, identity_of
from tatame_db.move.sql import array, array_items

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from tatame_db.move.connection import Connections
    from tatame_db.move.mapping import TableMap


def without_excluded(connections: Connections, tables: Iterable[TableMap]) -> list[TableMap]:
    """Return the tables without the rows and values that the record excludes."""
    identity = identity_of(connections.source)
    named = {found.table for found in Record(connections.target).exclusions(identity)}
    return [
        _Recorded(connections, identity, table).excluded() if table.name in named else table.with_all_rows
        for table in tables
    ]


class _Recorded:
    """Reads the record of one table of the connected source."""

    def __init__(self, connections: Connections, identity: str, table: TableMap) -> None:
        self.source, self.target, self.table = connections.source, connections.target, table
        self.rows = (
            f"FROM {SCHEMA}.rejects AS k WHERE k.source_identity = {literal(identity)}"
            f" AND k.table_name = {literal(table.name)}"
        )

    def excluded(self) -> TableMap:
        """Return the table without them."""
        rejected = self.rejected()
        excluded = ExcludedRows(without_id=None in rejected)
        if ids := [key for key in rejected if key is not None]:
            excluded = excluded.with_rejected(array_items(ids))
        for column, nulled in self.nulled().items():
            if still := self.unchanged(column, nulled):
                excluded = excluded.with_nulled(column, array_items(still))
        return replace(self.table, excluded=excluded)

    def rejected(self) -> set[str | None]:
        """Return the ids of the rows that were not copied."""
        rows = self.target.rows(f"SELECT k.id {self.rows} AND k.action = {literal(REJECTED)}")
        return {key for (key,) in rows}

    def nulled(self) -> dict[str, dict[str, str | None]]:
        """Return a digest of each value that became NULL, by column of the source and id.

        It is `None` where JSON cannot hold the row.
        """
        found: dict[str, dict[str, str | None]] = defaultdict(dict)
        names = {column.source.name: column.name for column in self.table.columns if column.source}
        for column, key, digest in self.target.rows(
            f"""SELECT k.column_name, k.id, md5((k."row" -> k.column_name)::text) {self.rows}"""
            f" AND k.action = {literal(NULLED)}"
        ):
            if column in names:
                found[column][key] = digest
        for column, values in found.items():
            for key in self._filled(names[column], values):
                del values[key]
        return found

    def _filled(self, column: str, ids: Collection[str]) -> list[str]:
        """Return those of these rows in which the target has a value by now."""
        rows = self.target.rows(
            f"SELECT {self.table.target_id} FROM {self.table.target_sql} WHERE t.{quoted(column)} IS NOT NULL"
            f" AND {self.table.target_id} = ANY({array(array_items(ids), TEXT)})"
        )
        return [key for (key,) in rows]

    def unchanged(self, column: str, values: dict[str, str | None]) -> list[str]:
        """Return the ids of the rows in which the source still has the recorded value."""
        known = {key: digest for key, digest in values.items() if digest is not None}
        rows = self.source.rows(
            f"SELECT {self.table.source_id}, md5(to_jsonb(s.{quoted(column)})::text)"
            f" FROM {self.table.with_all_rows.source_sql} WHERE {self.table.among(array_items(known))}"
        )
        return [*(values.keys() - known.keys()), *(key for key, digest in rows if known[key] == digest)]
