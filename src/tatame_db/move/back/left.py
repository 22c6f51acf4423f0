"""Rows of the target that stay there by choice, so that the source differs in them, and a proof leaves them out."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from tatame_db.database.dialect import quoted
from tatame_db.move.choices import Exclusion
from tatame_db.move.sequences import LARGEST_IDS
from tatame_db.move.sql import array, array_items

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from tatame_db.move.mapping import TableMap

NOT_DELETED = "not deleted"
"""The action for a row that the target has deleted, and that stays at the source."""


class Why(NamedTuple):
    """The kind of an obstacle, its reason, and what the choice does: `left`, `nulled` or `not deleted`."""

    kind: str
    reason: str
    action: str


@dataclass
class LeftRows:
    """The ids of rows of one table that are not written back, and of those in which a value becomes NULL there."""

    ids: dict[str, Why] = field(default_factory=dict[str, Why])
    nulled: dict[str, dict[str, Why]] = field(default_factory=lambda: defaultdict[str, dict[str, Why]](dict))
    """By column of the target."""
    own: dict[str, tuple[Why, int]] = field(default_factory=dict[str, tuple[Why, int]])
    """The number of values in each column that the source lacks, when the whole table was last compared."""

    def forget(self, ids: Collection[str]) -> None:
        """Forget rows that are tried again."""
        for known in (self.ids, *self.nulled.values()):
            for key in known.keys() & ids:
                del known[key]

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
        there = array_items(fitting_ids(table, self.ids))
        excluded = table.excluded.with_rejected(there) if there else table.excluded
        rows = f"(SELECT {values} FROM {table.target_sql} WHERE NOT ({condition}))"
        return replace(table, target_name=rows, hides_rows=True, excluded=excluded)

    def groups(self) -> Iterator[tuple[str | None, Why, set[str]]]:
        """Yield the ids of rows with the same reason, and the column of the target if only its value is left."""
        for column, reasons in ((None, self.ids), *self.nulled.items()):
            found: dict[Why, set[str]] = defaultdict(set)
            for key, why in reasons.items():
                # A row of which nothing is written back has lost no single value.
                if column is None or key not in self.ids:
                    found[why].add(key)
            for why, ids in found.items():
                yield column, why, ids


def summary(left: Mapping[str, LeftRows]) -> list[Exclusion]:
    """Count what stays on the target, by table, column and reason."""
    counts: Counter[Exclusion] = Counter()
    for name, rows in left.items():
        for column, why, ids in rows.groups():
            counts[Exclusion(name, column, *why, rows=0)] += len(ids)
        for own, (why, values) in rows.own.items():
            counts[Exclusion(name, own, *why, rows=0)] += values
    return [replace(found, rows=rows) for found, rows in counts.items() if rows]


def fitting_ids(table: TableMap, ids: Iterable[str]) -> list[str]:
    """Return those of the ids that a row of the source can have; its type may be narrower than the target's."""
    largest = LARGEST_IDS.get(table.id_kind)
    return [key for key in ids if largest is None or -largest - 1 <= int(key) <= largest]
