"""Rows from the source into the target: only what differs, each table in one transaction, proven before it commits."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import psycopg

from tatame_db.errors import TatameError
from tatame_db.evolve.lock import ignore
from tatame_db.move.choices import LEFT, UNKNOWN_TABLE, Choices
from tatame_db.move.connection import Connections, reason_without_values
from tatame_db.move.copy_errors import NotProven, NotReplicated, in_words
from tatame_db.move.copy_table import CopyDiffers, TableCopy, TableTask, copy_rejects, copy_table, kept_digest
from tatame_db.move.digest import TableDigests
from tatame_db.move.final_proof import ChangedAfterProof, lock_and_find_changed
from tatame_db.move.jobs import run_tasks
from tatame_db.move.keys import count_keys, refuse_disabled_keys, validate_keys
from tatame_db.move.own_columns import read_mapping_to_target
from tatame_db.move.parked import clean_up, restore_with_missing, restoring
from tatame_db.move.plan import plan_of
from tatame_db.move.prepare import CopyOptions, changes_of, prepare
from tatame_db.move.ready import prove_ready
from tatame_db.move.record import SCHEMA, Record
from tatame_db.move.rejects import Rejects, rejects_digest, source_digest
from tatame_db.move.resolve import resolve
from tatame_db.move.rest_errors import RestError
from tatame_db.move.stages import Follower, Stage
from tatame_db.schema import phases

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from tatame_db.database.keys import KeyOrIndex
    from tatame_db.move.changes import Changes
    from tatame_db.move.choices import Exclusion, Resolution
    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.prepare import Preparation
    from tatame_db.move.record import Outcome
    from tatame_db.move.rest import RestReading


@dataclass(frozen=True)
class Report:
    """What a run did. Every table in it was proven, with the named hash, and did not change until the run ended."""

    run: int
    moment: str | None
    """When the source was read, by its own clock; later changes there are not copied. `None` over REST."""
    source: str
    source_version: str
    target: str
    target_version: str
    hash: str
    tables: list[TableCopy]
    exclusions: list[Exclusion]
    """What was excluded by choice, of these tables and of tables that the models lack."""
    more_excluded: list[Exclusion]
    """What this copy excludes in addition to the one before, of the same source; empty at the first copy."""
    foreign_keys: int
    """The number of foreign keys of the models; each holds over all rows."""
    insert_tested: list[str]
    """Tables that accepted a new row, which was rolled back."""
    seconds: float
    rest: RestReading | None
    """How the source was read for the last proof, if over REST."""
    not_copied: list[str]
    """Tables that were never copied from this source."""
    outdated: list[str]
    """Tables that this run did not copy, and that were written to since an earlier one did."""
    views: list[str]
    """Tables that are filled from views: their proof is about the rows that the view shows."""


def copy(
    connections: Connections,
    tables: Sequence[str] = (),
    *,
    choices: Choices | None = None,
    replace_rows: bool = False,
    jobs: int = 1,
    sha256: bool = False,
    accept_emptied: bool = False,
    on_table: Callable[[TableCopy], None] = ignore,
    on_rows: Callable[[str, int, int], None] = ignore,
    on_stage: Callable[[Stage, str | None], None] = ignore,
) -> Report:
    """Make these tables, or all, equal to the source: each in one transaction that commits only after its proof.

        >>> with move.open_for_writing(source, engine, on_wait) as connections:
        ...     report = move.copy(connections, choices=move.Choices(orphans="null"))

    Foreign keys of the models that would reject rows on the way are dropped while tables are written, and so are the
    indexes of the models on tables that receive many rows. All are restored at the end, also those that a killed run
    left dropped, and those of the models that the target lacks for any other reason.

    A table that is empty in the source, and had rows at the last copy, is refused without `accept_emptied`.

    With `sha256`, rows that were written into an empty table are read back and must be the same bytes. `on_table` is
    called with each table that is committed; `on_rows` now and then with a table, the rows sent so far, and the rows
    to send at most; `on_stage` with each stage as it begins, and the table if it is about one.

    Raises `RightsMissing`, `ObstaclesUnresolved`, `TablesEmptied`, `OtherRowsInTarget`, `RowsStillReferenced`,
    `ReferencesUnreadable`, `ParentsNotCopied`, `TablesLocked`, `TargetBusy`, `ResourceExhausted`, `CopyDiffers`,
    `ForeignKeyViolated`, `RowsRefused`, `KeysNotRestored`, `TrialInsertFailed`, `NotProven`, `ChangedAfterProof`,
    `TooManyExcluded`, `JobNotConnected`, `ConnectionLost`, `ServerFailed`, `StatementCanceled`,
    `TargetRefused`, `TargetTablesReplaced`, `KeysDisabled`, `SchemaChanged`, `NotReplicated`, `TablesMoved`,
    `SwitchUnfinished`, `BothHomesOpen`, `MovedElsewhere`, `FenceDamaged`.
    """
    options = CopyOptions(tables, choices or Choices(), replace_rows, jobs, sha256, accept_emptied)
    with restoring(connections.target), in_words(connections.target):
        return _copy(connections, options, on_table, Follower(on_rows, on_stage))


def _copy(
    connections: Connections,
    options: CopyOptions,
    on_table: Callable[[TableCopy], None],
    follower: Follower,
) -> Report:
    started, on_stage = time.perf_counter(), follower.on_stage
    target, record = connections.target, Record(connections.target)
    preparation = prepare(connections, options, on_stage)
    excluded, before = _exclusions(preparation), record.exclusions(preparation.identity)
    was_copied = any(last.source_identity == preparation.identity for last in record.tables().values())
    record.create()
    run = _begin(record, preparation)
    with _recording_failure(record, run):
        # Committed before any work, so that the run is on record however it ends.
        target.commit()
        copied, kept = _copy_tables(preparation, connections, run, on_table, follower)
        on_stage(Stage.RESTORE, None)
        restore_with_missing(target)
        on_stage(Stage.VALIDATE, None)
        validate_keys(target)
        numbered = [table.table for table in preparation.tables if table.table.autoincrement_column is not None]
        for table in numbered:
            on_stage(Stage.TRY, table.name)
            prove_ready(target, table)
        moment = _moment(connections.source)
        if connections.source.reread:
            on_stage(Stage.REREAD, None)
        differing, rest = _read_again(preparation, connections, copied)
        on_stage(Stage.CONFIRM, None)
        refuse_disabled_keys(target)
        _prove_unchanged(preparation, target, copied, differing, kept)
        report = Report(
            run=run,
            moment=moment,
            source=preparation.plan.source,
            source_version=preparation.plan.source_version,
            target=preparation.plan.target,
            target_version=preparation.plan.target_version,
            hash=preparation.hash_function.name,
            tables=copied,
            exclusions=excluded,
            more_excluded=_more(excluded, before) if was_copied else [],
            foreign_keys=count_keys(target),
            insert_tested=[table.name for table in numbered],
            seconds=time.perf_counter() - started,
            rest=rest,
            not_copied=_not_copied(record, preparation.identity),
            outdated=preparation.outdated,
            views=preparation.plan.views,
        )
        on_stage(Stage.RECORD, None)
        record.end_run(run, "proven", report=asdict(report))
        target.commit()
    if target.not_replicated:
        raise NotReplicated(reason=target.not_replicated[0])
    return report


# The outcome


@contextlib.contextmanager
def _recording_failure(record: Record, run: int) -> Generator[None]:
    """Store the outcome of a run that fails."""
    driver = record.target.driver
    try:
        yield
    except BaseException as error:
        if not driver.closed:
            outcome: Outcome = (
                "not equal" if isinstance(error, CopyDiffers | NotProven | ChangedAfterProof) else "failed"
            )
            # The failure itself matters more than that it could not be stored.
            with contextlib.suppress(psycopg.Error, TatameError):
                clean_up(record.target)
                record.end_run(run, outcome, error=_summary(error))
                record.target.commit()
        raise


def _summary(error: BaseException) -> str:
    """Describe an error without a value of a row or a password."""
    if isinstance(error, TatameError):
        return error.what
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    reason = reason_without_values(error) if isinstance(error, psycopg.Error) else ""
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__


# The parts of a copy


def _begin(record: Record, preparation: Preparation) -> int:
    options, plan = preparation.options, preparation.plan
    return record.begin_run(
        source=plan.source,
        identity=preparation.identity,
        source_version=plan.source_version,
        target_version=plan.target_version,
        options={
            "tables": preparation.names,
            "replace": options.replace_rows,
            "jobs": options.jobs,
            "sha256": options.sha256,
            "emptied": options.accept_emptied,
            **asdict(options.choices),
        },
    )


def _copy_tables(
    preparation: Preparation,
    connections: Connections,
    run: int,
    on_table: Callable[[TableCopy], None],
    follower: Follower,
) -> tuple[list[TableCopy], dict[str, tuple[int, str]]]:
    """Return the copies, and the number and digest of what each table, also an unknown one, has in the rejects."""
    follower.on_stage(Stage.FIND, None)
    changes = {table.name: changes_of(preparation, connections, table) for table in preparation.differing}
    record = Record(connections.target)
    follower.on_stage(Stage.DROP, None)
    record.park(partial(_is_parked, preparation, changes))
    connections.target.commit()
    tasks = [TableTask(run, table, changes.get(table.name)) for table in preparation.tables]
    work = partial(copy_table, preparation, follower=follower)
    copied = run_tasks(connections, preparation.options.jobs, tasks, work, on_table)
    record.delete_rejects_of_unknown_tables(preparation.identity)
    kept = {table.table: table.kept for table in copied}
    for table in preparation.mapping.unknown:
        follower.on_stage(Stage.KEEP, table.name)
        kept[table.name] = copy_rejects(preparation, connections, run, table.name).digest
    connections.target.commit()
    return copied, kept


def _is_parked(preparation: Preparation, changes: dict[str, Changes], found: KeyOrIndex) -> bool:
    """Return whether a key or an index has to be dropped while these changes are written, or slows them down."""
    parent, child = changes.get(str(found.parent)), changes.get(found.table)
    # A row that others refer to cannot be deleted, nor can one be written before the row that it refers to.
    written_first = child and found.parent in {found.table, *preparation.mapping[found.table].later_parents}
    rejects_rows = written_first or (parent and (parent.deletes or preparation.options.jobs > 1))
    return bool(rejects_rows or (child and child.bulk))


def _moment(source: MoveConnection) -> str | None:
    if source.rest:
        return None
    [moment] = source.row("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC')")
    return str(moment)


def _exclusions(preparation: Preparation) -> list[Exclusion]:
    names = set(preparation.names)
    return [found for found in preparation.plan.exclusions if found.table in names or found.kind == UNKNOWN_TABLE]


def _more(exclusions: list[Exclusion], before: list[Exclusion]) -> list[Exclusion]:
    known = {replace(found, rows=0): found.rows for found in before}
    more = {found: found.rows - known.get(replace(found, rows=0), 0) for found in exclusions}
    # What stays at the source is recorded nowhere.
    return [replace(found, rows=rows) for found, rows in more.items() if rows > 0 and found.action != LEFT]


def _not_copied(record: Record, identity: str) -> list[str]:
    copied = {name for name, last in record.tables().items() if last.source_identity == identity}
    return [name for name in phases() if name not in copied]


# The last proof


def _prove_unchanged(
    preparation: Preparation,
    target: MoveConnection,
    copied: list[TableCopy],
    differing: list[str],
    kept: dict[str, tuple[int, str]],
) -> None:
    """Compare the target with what was proven. The caller stores the success and commits, which unlocks the tables.

    Raises `ChangedAfterProof`, `NotProven`.
    """
    changed = lock_and_find_changed(target, [*preparation.outdated, *preparation.moved])
    target.execute(f"LOCK TABLE {SCHEMA}.rejects IN SHARE MODE")
    if any(kept_digest(preparation, target, name) != found for name, found in kept.items()):
        changed.append(f"{SCHEMA}.rejects")
    for table in copied:
        if table.table not in [*changed, *differing]:
            Record(target).mark_proven(table.table)
    # What was changed on the target differs from the source because of that.
    not_proven = [name for name in differing if name not in changed]
    if changed or not_proven:
        target.commit()
    if changed:
        raise ChangedAfterProof(tables=changed, not_proven=not_proven)
    if not_proven:
        raise NotProven(tables=not_proven, reason="they changed while they were read")


def _read_again(
    preparation: Preparation, connections: Connections, copied: list[TableCopy]
) -> tuple[list[str], RestReading | None]:
    """Read a source over REST a second time, and return the tables that differ. Raises `NotProven`."""
    reread, target = connections.source.reread, connections.target
    if reread is None:
        return [], None
    try:
        with reread() as source:
            return _find_differing(preparation, Connections(source, target), copied), source.rest
    except RestError as error:
        raise NotProven(tables=[table.table for table in copied], reason=error.what) from error


def _find_differing(preparation: Preparation, connections: Connections, copied: list[TableCopy]) -> list[str]:
    """Return the copied tables, and the tables that the models lack, that differ from a new reading of the source."""
    # The choices apply to the rows as they are now.
    resolution = resolve(connections.source, read_mapping_to_target(connections), preparation.options.choices)
    if not plan_of(connections, resolution).complete:
        reason = "the source has obstacles now that it did not have before"
        raise NotProven(tables=[table.table for table in copied], reason=reason)
    differing = [table.table for table in copied if _differs(preparation, connections, resolution, table)]
    changed = Rejects(connections, preparation.hash_function).changed(resolution.mapping, [])
    return differing + [found.table for found in changed if found.kind == UNKNOWN_TABLE]


def _differs(preparation: Preparation, connections: Connections, resolution: Resolution, copied: TableCopy) -> bool:
    table, hashed = resolution.mapping[copied.table], preparation.hash_function
    columns = [column for column in table.columns if column.name not in copied.waiting]
    source, target = TableDigests(connections, replace(table, columns=columns), hashed).whole()
    in_source = source_digest(connections.source, hashed, resolution.rejects_of(table.name))
    in_target = rejects_digest(connections.target, hashed, preparation.identity, table.name)
    return source != target or not table.comparable or in_source != in_target
