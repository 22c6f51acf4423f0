"""Changed rows about which the rows alone decide nothing: obstacles, exclusions, and references to either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.database.dialect import literal
from tatame_db.move.choices import KEPT
from tatame_db.move.conversion import TEXT
from tatame_db.move.flow import WholeComparisonNeeded
from tatame_db.move.obstacles import of_a_row
from tatame_db.move.record import REJECT_ID_HASH, SCHEMA, Record
from tatame_db.move.sql import array, array_items

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tatame_db.move.choices import Choices
    from tatame_db.move.connection import Connections
    from tatame_db.move.mapping import TableMap
    from tatame_db.move.obstacles import Requirement


@dataclass(frozen=True)
class Doubts:
    """What a copy with these choices knows about rows beside their values; `identity` is that of the source."""

    connections: Connections
    maps: Mapping[str, TableMap]
    identity: str
    choices: Choices

    def refuse_rows(self, table: TableMap, keys: Collection[str]) -> None:
        """Raise `WholeComparisonNeeded` if one of these rows is, was or decides about an obstacle.

        Unique values and references that rows share with others are left to the constraints of the target.
        """
        found = self._requirements(table)
        if self._is_violated(table, found, table.among(array_items(keys))):
            raise WholeComparisonNeeded([table.name], "a changed row cannot be stored unchanged")
        if Record(self.connections.target).exists():
            self._refuse_excluded(table, keys)
            self._refuse_parents(table, keys)

    def refuse_unknown_values(self, table: TableMap) -> None:
        """Raise `WholeComparisonNeeded` if a column that the target lacks has values, which its rows do not show."""
        unknown = [found for found in self._requirements(table) if found.kind == "unknown-column"]
        if self._is_violated(table, unknown, "true"):
            raise WholeComparisonNeeded([table.name], "a column that the target lacks has values")

    def _requirements(self, table: TableMap) -> list[Requirement]:
        # A value that is not copied at all leaves no trace.
        leaves_unknown = self.choices.unknown == "leave"
        return [found for found in of_a_row(table) if not (found.kind == "unknown-column" and leaves_unknown)]

    def _is_violated(self, table: TableMap, requirements: list[Requirement], among: str) -> bool:
        violations = " OR ".join(f"({found.violation})" for found in requirements)
        if not violations:
            return False
        query = f"SELECT EXISTS (SELECT FROM {table.source_sql} WHERE {among} AND ({violations}))"
        [is_violated] = self.connections.source.row(query)
        return bool(is_violated)

    def _refuse_excluded(self, table: TableMap, keys: Collection[str]) -> None:
        ids = array(array_items(keys), TEXT)
        hashed = f"{REJECT_ID_HASH.format('k.id')} = {REJECT_ID_HASH.format('wanted')}"
        if self._keeps(table, f"AND {hashed} AND k.id = wanted", f"unnest({ids}) AS wanted"):
            raise WholeComparisonNeeded([table.name], "a changed row is excluded by a choice")
        if self._keeps(table, "AND k.kind = 'duplicate'"):
            raise WholeComparisonNeeded([table.name], "of duplicates, another row may be the one to copy now")

    def _refuse_parents(self, table: TableMap, keys: Collection[str]) -> None:
        """Refuse if an excluded orphan refers to one of these rows, which may be its parent now."""
        ids = array(array_items(keys), TEXT)
        for child in self.maps.values():
            for key in child.table.foreign_keys:
                column = child.column(key.parent.name)
                if key.column.table.name != table.name or column.source is None:
                    continue
                value = f'(k."row" ->> {literal(column.source.name)})'
                # A text may name an id in other characters.
                refers = f"AND ({value} IS NULL OR {value} = ANY({ids}))" if column.alike else ""
                if self._keeps(child, f"AND k.kind = 'orphan' AND k.action <> '{KEPT}' {refers}"):
                    raise WholeComparisonNeeded([table.name, child.name], f"excluded rows of {child.name} refer to it")

    def _keeps(self, table: TableMap, condition: str, wanted: str = "(SELECT) AS none") -> bool:
        """Return whether the target keeps excluded rows of a table, `k`, that match a condition."""
        # Each wanted id is looked up in the index: OFFSET keeps the planner from any other join.
        [keeps] = self.connections.target.row(
            f"SELECT EXISTS (SELECT FROM {wanted} CROSS JOIN LATERAL (SELECT FROM {SCHEMA}.rejects AS k"
            f" WHERE k.source_identity = {literal(self.identity)} AND k.table_name = {literal(table.name)}"
            f" {condition} OFFSET 0) AS found)"
        )
        return bool(keeps)
