"""One table made equal to the source, in one transaction that commits only if the proof holds.

Every function here takes connections of its own and changes nothing that another job sees.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import psycopg

from tatame_db.database.dialect import literal, quoted
from tatame_db.errors import TatameError, fact
from tatame_db.move.changes import count_overwritten
from tatame_db.move.choices import NULLED, REJECTED
from tatame_db.move.connection import is_refusal, reason_without_values
from tatame_db.move.digest import TableDigests
from tatame_db.move.fingerprint import fingerprint
from tatame_db.move.in_place import write_in_place
from tatame_db.move.ready import make_ready
from tatame_db.move.record import SCHEMA, Record
from tatame_db.move.refusals import OtherRows, OtherRowsInTarget
from tatame_db.move.rejects import declared_types, rejects_digest, source_digest
from tatame_db.move.stages import Stage
from tatame_db.move.stream import read_back, stream, stream_table

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tatame_db.move.changes import Changes
    from tatame_db.move.choices import ExclusionQuery
    from tatame_db.move.connection import Connections, MoveConnection
    from tatame_db.move.digest import Digest
    from tatame_db.move.fingerprint import Fingerprint
    from tatame_db.move.mapping import TableMap
    from tatame_db.move.prepare import Preparation
    from tatame_db.move.stages import Follower

# Of these, the message names no value of a row.
_REFUSALS = (
    psycopg.IntegrityError,
    psycopg.errors.StringDataRightTruncation,
    psycopg.errors.InvalidBinaryRepresentation,
    # A foreign key of the team's own needs a unique key that has to be dropped for a moment.
    psycopg.errors.DependentObjectsStillExist,
)
_TABLE_UNCHANGED = "The table {table} is unchanged; tables that were proven before it stay committed."


@fact
class CopyDiffers(TatameError):
    """What was written is not equal to the source; the table was rolled back."""

    exit_code = 3
    table: str
    what = "{table} was copied, but the proof found that it differs from the source"
    means = _TABLE_UNCHANGED
    fix = (
        "disable what changes rows of the target as they are written; `tatame-db move plan` names triggers and rules."
        " If the table is partitioned, delete the rows whose id is in two partitions of the target, which have no key"
        " against it: `SELECT id FROM {table} GROUP BY id HAVING count(*) > 1` there finds them"
    )


@fact
class RowsRefused(TatameError):
    """Rows of the source violate a rule of the target that the models do not have, or a trigger of it fails."""

    table: str
    reason: str
    what = "the target rejected rows of {table}: {reason}"
    means = _TABLE_UNCHANGED
    fix = (
        "disable the trigger, create the partition that a row lacks, or fix what `tatame-db check` finds, then run the"
        " command again; the log of the target's server has the whole message"
    )


@fact
class RowTooLarge(TatameError):
    """An excluded row is longer than a text can be, which is about 1 GB, so it cannot be kept."""

    table: str
    reason: str
    what = "an excluded row of {table} is too large to be kept: {reason}"
    means = _TABLE_UNCHANGED
    fix = "shorten its values at the source or delete the row there, then run the command again"


@dataclass(frozen=True)
class TableCopy:
    """A table that is proven equal, with the number of rows that this run deleted and wrote for that.

    The digests are those of the proof: of the source without excluded rows and values, and of the target.
    """

    table: str
    rows: int
    source_digest: str
    target_digest: str
    deleted: int
    written: int
    seconds: float
    waiting: list[str]
    """Columns that are NULL in some rows until a later phase copies the rows that they refer to."""
    rejected: int
    """Rows that were not copied, by choice."""
    nulled: int
    """Values that became NULL, by choice."""
    sha256: str | None
    """Of all bytes that were written into an empty table, and read back from it; only if requested."""
    kept: tuple[int, str]
    """The number and the digest of its rows in `tatame_move.rejects`."""


@dataclass(frozen=True)
class TableTask:
    """A table of a run, and the changes that make it equal; `None` if it is equal already."""

    run: int
    table: TableMap
    changes: Changes | None


@dataclass(frozen=True)
class _Contents:
    """The contents of a table after a copy, and the changes that led to them."""

    fingerprint: Fingerprint
    digests: tuple[Digest, Digest]
    deleted: int = 0
    written: int = 0
    waiting: tuple[str, ...] = ()
    sha256: str | None = None


def copy_table(preparation: Preparation, connections: Connections, task: TableTask, *, follower: Follower) -> TableCopy:
    """Make a table equal to the source, prove that it is, record it, and commit all of that together.

    Raises `OtherRowsInTarget`, `RowsRefused`, `CopyDiffers`, `RowTooLarge`, `ConnectionLost`.
    """
    started, table, target = time.perf_counter(), task.table, connections.target
    contents = _Contents(preparation.fingerprints[table.name], preparation.digests[table.name])
    if task.changes:
        contents = _make_equal(preparation, connections, table, task.changes, follower)
    follower.on_stage(Stage.KEEP, table.name)
    kept = copy_rejects(preparation, connections, task.run, table.name)
    Record(target).save_table(
        table.name,
        run=task.run,
        identity=preparation.identity,
        fingerprint=contents.fingerprint,
        copied=task.changes is not None,
        # A source over REST was not read at one moment, so only a second reading proves it.
        proven=connections.source.reread is None,
    )
    target.commit()
    follower.on_stage(Stage.NUMBER, table.name)
    make_ready(target, table.table, preparation.highest_ids[table.name], changed=task.changes is not None)
    (_, source_digest), (_, target_digest) = contents.digests
    return TableCopy(
        table=table.name,
        rows=contents.fingerprint.rows,
        source_digest=source_digest,
        target_digest=target_digest,
        deleted=contents.deleted,
        written=contents.written,
        seconds=time.perf_counter() - started,
        waiting=list(contents.waiting),
        rejected=kept.rows[REJECTED],
        nulled=kept.rows[NULLED],
        sha256=contents.sha256,
        kept=kept.digest,
    )


def _make_equal(
    preparation: Preparation,
    connections: Connections,
    table: TableMap,
    changes: Changes,
    follower: Follower,
) -> _Contents:
    follower.on_stage(Stage.WRITE, table.name)
    before = preparation.fingerprints[table.name]
    _lock(TableDigests(connections, table, preparation.hash_function), before)
    hasher = hashlib.sha256() if preparation.options.sha256 and before.rows == 0 else None
    on_block = hasher.update if hasher else None
    with refusals_in_words(table.name):
        deleted, written = _write(preparation, connections, table, changes, on_rows=follower.on_rows, on_block=on_block)
        # Deferred constraints and triggers would otherwise run at COMMIT, when the proof is over.
        connections.target.execute("SET CONSTRAINTS ALL IMMEDIATE")
    follower.on_stage(Stage.PROVE, table.name)
    if hasher and hasher.digest() != read_back(connections.target, table):
        raise CopyDiffers(table=table.name)
    waiting = _clear_waiting(preparation, connections.target, table)
    digests, after = _prove(preparation, connections, table, waiting)
    return _Contents(after, digests, deleted, written, waiting, hasher.hexdigest() if hasher else None)


@contextlib.contextmanager
def refusals_in_words(table: str) -> Generator[None]:
    """Raise `RowsRefused` for an error by which the target rejects rows of a table."""
    try:
        yield
    except psycopg.Error as error:
        if isinstance(error, _REFUSALS):
            reason = error.diag.message_primary
        elif is_refusal(error):
            reason = reason_without_values(error)
        else:
            raise
        raise RowsRefused(table=table, reason=str(reason)) from error


def _lock(digests: TableDigests, expected: Fingerprint) -> None:
    """Lock a table against other writers. Raises `OtherRowsInTarget` if one of them was faster."""
    target, table = digests.connections.target, digests.table
    target.execute(f"LOCK TABLE {table.target_name} IN SHARE ROW EXCLUSIVE MODE")
    found = fingerprint(target, table.name)
    if found != expected:
        raise OtherRowsInTarget(rows={table.name: OtherRows(count_overwritten(digests, found.rows), found.rows)})


def _write(
    preparation: Preparation,
    connections: Connections,
    table: TableMap,
    changes: Changes,
    *,
    on_rows: Callable[[str, int, int], None],
    on_block: Callable[[bytes], None] | None,
) -> tuple[int, int]:
    """Write the changes; return the number of rows that were deleted, and that were written."""
    to_write = preparation.resolution.rows[table.name] if changes.rows is None else changes.rows
    progress = partial(_report, on_rows, table.name, to_write)
    if preparation.fingerprints[table.name].rows:
        return write_in_place(connections, table, changes, preparation.own_keys, progress)
    return 0, stream_table(connections, table, "", on_rows=partial(progress, 0), on_block=on_block)


def _report(on_rows: Callable[[str, int, int], None], table: str, to_write: int, before: int, rows: int) -> None:
    on_rows(table, before + rows, to_write)


def _clear_waiting(preparation: Preparation, target: MoveConnection, table: TableMap) -> tuple[str, ...]:
    """Set references to NULL that a later phase will fill; return the columns in which any were."""
    later = table.later_parents - set(preparation.names)
    cleared: list[str] = []
    for key in table.table.foreign_keys:
        if key.column.table.name not in later:
            continue
        column, parent = quoted(key.parent.name), preparation.mapping[key.column.table.name].target_name
        if target.execute(
            f"UPDATE {table.target_sql} SET {column} = NULL WHERE t.{column} IS NOT NULL AND NOT EXISTS ("
            f"SELECT FROM {parent} AS p WHERE p.{quoted(key.column.name)} = t.{column})"
        ):
            cleared.append(key.parent.name)
    return tuple(cleared)


def _prove(
    preparation: Preparation, connections: Connections, table: TableMap, waiting: tuple[str, ...]
) -> tuple[tuple[Digest, Digest], Fingerprint]:
    """Compare the written rows with the source, except for columns that wait. Raises `CopyDiffers`."""
    columns = [column for column in table.columns if column.name not in waiting]
    digests = TableDigests(connections, replace(table, columns=columns), preparation.hash_function)
    if waiting:
        source, target, after = digests.whole_with_fingerprint()
    else:
        # The snapshot is still the one of which the digest was computed before.
        source = preparation.digests[table.name][0]
        target, after = digests.of_target()
    if source != target:
        raise CopyDiffers(table=table.name)
    return (source, target), after


@dataclass(frozen=True)
class KeptRows:
    """The rows of a table in `tatame_move.rejects`: their number by action, and in all with their digest."""

    rows: Counter[str]
    digest: tuple[int, str]


def copy_rejects(preparation: Preparation, connections: Connections, run: int, table: str) -> KeptRows:
    """Replace the rows of a table in `tatame_move.rejects`, and prove them.

    The caller commits. Raises `CopyDiffers`, `RowTooLarge`.
    """
    try:
        return _copy_rejects(preparation, connections, run, table)
    except psycopg.errors.ProgramLimitExceeded as error:
        raise RowTooLarge(table=table, reason=str(error.diag.message_primary)) from error


def _copy_rejects(preparation: Preparation, connections: Connections, run: int, table: str) -> KeptRows:
    record = Record(connections.target)
    record.delete_rejects(preparation.identity, table)
    queries = preparation.resolution.rejects_of(table)
    types = declared_types(connections.source, table) if queries else {}
    for query in queries:
        shape = record.shape(query.columns, [types[name] for name in query.columns])
        _copy_reject(preparation, connections, run, shape, query)
    digest = 0, "0"
    if queries:
        rows, wanted = source_digest(connections.source, preparation.hash_function, queries)
        digest = kept_digest(preparation, connections.target, table)
        if digest != (rows, str(wanted)):
            raise CopyDiffers(table=table)
    excluded: Counter[str] = Counter()
    for query in queries:
        excluded[query.exclusion.action] += query.exclusion.rows
    return KeptRows(excluded, digest)


def kept_digest(preparation: Preparation, target: MoveConnection, table: str) -> tuple[int, str]:
    """Return the number and the digest of the rows of a table in `tatame_move.rejects`."""
    rows, digest = rejects_digest(target, preparation.hash_function, preparation.identity, table)
    return rows, str(digest)


def _copy_reject(
    preparation: Preparation, connections: Connections, run: int, shape: int, query: ExclusionQuery
) -> None:
    found = query.exclusion
    facts = (preparation.identity, found.table, found.column, found.kind, found.reason, found.action)
    texts = ", ".join("NULL::text" if fact is None else f"{literal(fact)}::text" for fact in facts)
    stream(
        connections,
        f"SELECT {run}::integer, {shape}::integer, {texts}, {query.key}, {query.row}, {query.text} {query.rows}",
        f"{SCHEMA}.rejects"
        ' (run, shape, source_identity, table_name, column_name, kind, reason, action, id, "row", row_text)',
    )
