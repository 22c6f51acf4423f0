"""Rows of the target that stay there by choice, so that the source differs in them, and a proof leaves them out."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tatame_db.database.dialect import quoted
from tatame_db.move.sequences import LARGEST_IDS
from tatame_db.move.sql import array, array_items

if TYPE_CHECKING:
    from collections.abc import Collection

    from tatame_db.move.mapping import TableMap


@dataclass
class LeftRows:
    """The ids of rows of one table that are not written back, and of those in which a value becomes NULL there."""

    ids: set[str] = field(default_factory=set[str])
    nulled: dict[str, set[str]] = field(default_factory=lambda: defaultdict[str, set[str]](set))
    """By column of the target."""

    def forget(self, ids: Collection[str]) -> None:
        """Forget rows that are tried again."""
        self.ids.difference_update(ids)
        for nulled in self.nulled.values():
            nulled.difference_update(ids)

    def hidden(self, table: TableMap) -> TableMap:
        """Return the table as a proof compares it."""
        key, nulled = table.key, {name: ids for name, ids in self.nulled.items() if ids}
        if not self.ids and not nulled:
            return table
        values = ", ".join(
            f"CASE WHEN {key.target_value} = ANY({array(array_items(nulled[column.name]), key.type)}) THEN NULL"
            f" ELSE {column.target_value} END AS {quoted(column.name)}"
            if column.name in nulled
            else column.target_value
            for column in table.columns
        )
        ids = array_items(self.ids)
        condition = f"{key.target_value} = ANY({array(ids, key.type)})" if ids else "false"
        there = array_items(key for key in self.ids if _fits(key, table.id_kind))
        excluded = table.excluded.with_rejected(there) if there else table.excluded
        rows = f"(SELECT {values} FROM {table.target_sql} WHERE NOT ({condition}))"
        return replace(table, target_name=rows, excluded=excluded)


def _fits(key: str, kind: str) -> bool:
    """Return whether the source can have a row with this id; its type may be narrower than the target's."""
    largest = LARGEST_IDS.get(kind)
    return largest is None or -largest - 1 <= int(key) <= largest
