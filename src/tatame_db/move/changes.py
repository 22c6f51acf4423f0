"""Which rows of a table a copy deletes and inserts to make the target equal to the source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.move.digest import FEW_BITS, NARROW_BITS, number_first
from tatame_db.move.sql import array, array_items

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tatame_db.move.digest import TableDigests

BATCH_ROWS = 10_000


@dataclass(frozen=True)
class Changes:
    """What makes a table equal: rows to delete from the target, and rows to insert from the source.

    Both are lists of WHERE clauses; an empty clause stands for all rows. With `bulk` these are ranges of ids, which
    may hold equal rows too; otherwise single rows, and `rows` is the number of those to insert.
    """

    deletes: list[str]
    inserts: list[str]
    bulk: bool
    rows: int | None = None


def find_changes(digests: TableDigests, max_rows: int) -> Changes:
    """Return the changes row by row if at most `max_rows` rows are deleted and inserted, otherwise by ranges."""
    table = digests.table
    deletes: list[str] = []
    inserts: list[str] = []
    buckets = deleted = inserted = 0
    for part in digests.differing_parts(FEW_BITS):
        buckets += part.buckets
        # Each bucket has at least one differing row, so that too many show before a single row is read.
        if buckets > max_rows:
            return bulk_changes(digests)
        source, target = map(set[tuple[str, int]], digests.row_hashes(part))
        to_delete, to_insert = {key for key, _ in target - source}, {key for key, _ in source - target}
        deleted, inserted = deleted + len(to_delete), inserted + len(to_insert)
        if max(deleted, inserted) > max_rows:
            return bulk_changes(digests)
        # Clauses, because sets of ids would take ten times as much memory.
        key = table.key
        deletes += [f" WHERE {key.target_value} = ANY({array(ids, key.type)})" for ids in _batches(to_delete)]
        inserts += [f" WHERE {table.among(ids)}" for ids in _batches(to_insert)]
    return Changes(deletes, inserts, bulk=False, rows=inserted)


def bulk_changes(digests: TableDigests) -> Changes:
    """Return the changes by ranges of ids."""
    parts = list(digests.differing_parts(NARROW_BITS))
    return Changes([part.target for part in parts], [part.source for part in parts], bulk=True)


def _batches(keys: Iterable[str]) -> Iterator[str]:
    ordered = sorted(keys, key=number_first)
    for start in range(0, len(ordered), BATCH_ROWS):
        yield array_items(ordered[start : start + BATCH_ROWS])
