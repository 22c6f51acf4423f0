"""The partitions of the target's tables: a row of the source that is in none of them cannot be copied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tatame_db.move.connection import MoveConnection


@dataclass(frozen=True)
class Partitions:
    """The condition that a row is in a partition, and the columns that it names."""

    columns: list[str]
    condition: str


def read_partitions(target: MoveConnection) -> dict[str, Partitions | None]:
    """Return the partitioned tables of the target; `None` if only the target itself can tell whether a row fits.

    Partitions by a hash, by an expression or by a list of values of a type of the target are such.
    """
    return {
        name: Partitions(columns, condition) if by_range else None
        for name, by_range, columns, condition in target.rows(_PARTITIONS)
    }


_PARTITIONS = """
SELECT c.relname::text, bool_and(k.partstrat = 'r' AND k.partexprs IS NULL),
    array_agg(DISTINCT a.attname::text) FILTER (WHERE a.attname IS NOT NULL),
    coalesce((SELECT string_agg(coalesce(pg_get_partition_constraintdef(t.relid), 'true'), ' OR ')
        FROM pg_partition_tree(c.oid) t WHERE t.isleaf), 'false')
FROM pg_class c
CROSS JOIN LATERAL pg_partition_tree(c.oid) part
JOIN pg_partitioned_table k ON k.partrelid = part.relid
LEFT JOIN pg_attribute a ON a.attrelid = part.relid AND a.attnum = ANY(k.partattrs)
WHERE c.relkind = 'p' AND c.relnamespace = to_regnamespace('public') GROUP BY c.oid, c.relname
"""
