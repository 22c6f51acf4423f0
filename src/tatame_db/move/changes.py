"""Which rows of a table a copy deletes and writes to make the target equal to the source."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.move.digest import FEW_BITS, NARROW_BITS, number_first
from tatame_db.move.sql import array, array_items

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tatame_db.move.digest import TableDigests

BATCH_ROWS = 10_000
MOST_COUNTED = 10_000


@dataclass(frozen=True)
class Changes:
    """What makes a table equal: rows to read from the source, and rows of the target to delete unless they were read.

    Both are lists of WHERE clauses; an empty clause stands for all rows. With `bulk` these are ranges of ids, which
    may hold equal rows too; otherwise single rows, and `rows` is the number of those to read.
    """

    deletes: list[str]
    writes: list[str]
    bulk: bool
    rows: int | None = None


def find_changes(digests: TableDigests, max_rows: int) -> Changes:
    """Return the changes row by row if at most `max_rows` rows are deleted or written, otherwise by ranges."""
    table = digests.table
    deletes: list[str] = []
    writes: list[str] = []
    buckets = deleted = written = 0
    for part in digests.differing_parts(FEW_BITS):
        buckets += part.buckets
        # Each bucket has at least one differing row, so that too many show before a single row is read.
        if buckets > max_rows:
            return bulk_changes(digests)
        source, target = map(set[tuple[str, int]], digests.row_hashes(part))
        to_write = {key for key, _ in source - target}
        to_delete = {key for key, _ in target - source} - to_write
        deleted, written = deleted + len(to_delete), written + len(to_write)
        if max(deleted, written) > max_rows:
            return bulk_changes(digests)
        # Clauses, because sets of ids would take ten times as much memory.
        key = table.key
        deletes += [f" WHERE {key.target_value} = ANY({array(ids, key.type)})" for ids in batches(to_delete)]
        writes += [f" WHERE {table.among(ids)}" for ids in batches(to_write)]
    return Changes(deletes, writes, bulk=False, rows=written)


def count_overwritten(digests: TableDigests, rows: int) -> int | None:
    """Count the rows of the target, of which there are `rows`, that the source lacks or has with other values.

    Stops after `MOST_COUNTED`; `None` if they cannot be counted part by part.
    """
    if rows > MOST_COUNTED and not digests.table.counted_key:
        return None
    overwritten = 0
    for part in digests.differing_parts(NARROW_BITS):
        source, target = map(Counter, digests.row_hashes(part))
        overwritten += (target - source).total()
        if overwritten > MOST_COUNTED:
            break
    return overwritten


def bulk_changes(digests: TableDigests) -> Changes:
    """Return the changes by ranges of ids."""
    parts = list(digests.differing_parts(NARROW_BITS))
    return Changes([part.target for part in parts], [part.source for part in parts], bulk=True)


def batches(keys: Iterable[str]) -> Iterator[str]:
    """Yield the ids in order, some at a time, in the form of `array_items`."""
    ordered = sorted(keys, key=number_first)
    for start in range(0, len(ordered), BATCH_ROWS):
        yield array_items(ordered[start : start + BATCH_ROWS])
