"""Rows from the source into the target: only what differs, each table in one transaction, proven before it commits."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections import Counter
from copy import copy as shallow
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import psycopg
from psycopg.pq import TransactionStatus

from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.move import record
from tatame_db.move.changes import Changes, bulk_changes, find_changes
from tatame_db.move.choices import LEFT, NULLED, REJECTED, UNKNOWN_TABLE, Choices, Exclusion, ExclusionQuery, resolve
from tatame_db.move.connection import Connections, watchdog
from tatame_db.move.conversion import TEXT, TEXTS, about
from tatame_db.move.digest import HASHES, Digest, TableDigests, common_hash
from tatame_db.move.jobs import each
from tatame_db.move.mapping import TableMap, literal, quoted, read_mapping
from tatame_db.move.plan import Plan, planned
from tatame_db.move.ready import make_ready, prove_ready
from tatame_db.move.rejects import Rejects, rejects_digest, source_digest
from tatame_db.move.rest_errors import RestError
from tatame_db.schema import phase, phases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from psycopg.abc import Buffer

    from tatame_db.move.choices import Resolution
    from tatame_db.move.mapping import ColumnMap
    from tatame_db.move.rest import RestReading

    Hearing = Callable[[bytes], None]

_BLOCK_BYTES = 1 << 16
# Up to so many changed rows, single rows are written and the indexes stay. Of 1.2 million rows, 118,000 that lay
# scattered took half the time that rewriting all their ranges took, which is what more of them come to.
FEW_ROWS, FEW_OF_ALL = 10_000, 0.1


class ObstaclesUnresolved(TatameError):
    """The plan is not whole, so nothing is copied."""

    def __init__(self, planned: Plan) -> None:
        self.planned = planned
        kinds = sorted({obstacle.kind for obstacle in planned.unresolved})
        super().__init__(
            f"not every row can be stored as it is: {', '.join(kinds)}",
            means="Nothing was copied.",
            fix="`tatame-db move plan` names the rows and what can be done",
        )


class OtherRowsInTarget(TatameError):
    """Tables hold rows that this move did not bring, or that were changed since."""

    def __init__(self, rows: dict[str, int]) -> None:
        self.rows = rows
        super().__init__(
            "these tables hold what did not come from this source, or was changed since: "
            + ", ".join(f"{table} with {count:,} rows" for table, count in rows.items()),
            means="Nothing was copied.",
            fix="if these tables may become what the source has, say `--replace`",
        )


class ParentsNotCopied(TatameError):
    """Rows name others in tables that are neither part of this copy nor complete."""

    def __init__(self, parents: list[str]) -> None:
        self.parents = parents
        super().__init__(
            f"the rows refer to {', '.join(parents)}, which are not as in the source yet",
            means=NOTHING_CHANGED,
            fix="copy the earlier phases first, or all with `tatame-db move copy`",
        )


class CopyDiffers(TatameError):
    """What was written is not what the source has; the table is left as it was."""

    exit_code = 3

    def __init__(self, table: str) -> None:
        self.table = table
        super().__init__(
            f"{table} was copied, and the proof found it not equal",
            means=f"{table} is as it was before; tables that were proven before it stay.",
            fix="see whether something on the target changes rows as they are written, as a trigger does",
        )


class NotProven(TatameError):
    """What was copied is what the source gave once, and not what it gave when it was asked again."""

    exit_code = 3

    def __init__(self, tables: list[str], words: str) -> None:
        self.tables = tables
        super().__init__(
            f"copied, but not proven by a second reading of the source: {', '.join(tables)}: {words}",
            means="These tables hold what was read first. The others are proven.",
            fix="stop writing to the source, then run the command again",
        )


class RowsRefused(TatameError):
    """The target has a rule of its own that rows of the source break."""

    def __init__(self, table: str, words: str) -> None:
        self.table = table
        super().__init__(
            f"the target refuses rows of {table}: {words}",
            means=f"{table} is as it was before; tables that were proven before it stay.",
            fix="`tatame-db check` shows what differs from our schema; put that right, then run the command again",
        )


class ForeignKeyViolated(TatameError):
    """A foreign key does not hold over the rows that are there."""

    def __init__(self, table: str, key: str, words: str) -> None:
        self.table, self.key = table, key
        super().__init__(
            f"the foreign key {key} of {table} does not hold: {words}",
            means="The rows are there; the key guards new ones, and is not valid for the old ones.",
            fix="run `tatame-db move copy` for all tables",
        )


class TargetBusy(TatameError):
    """Others hold locks on a table for longer than we wait."""

    def __init__(self, words: str) -> None:
        super().__init__(
            f"the target is in use: {words}",
            means="What was not finished is undone; tables that were proven before stay.",
            fix="end what works on the target, then run the command again",
        )


class TargetFull(TatameError):
    """The target has no room for the rows."""

    def __init__(self, words: str) -> None:
        super().__init__(
            f"the disk of the target is full: {words}",
            means="What was not finished is undone; tables that were proven before stay.",
            fix="make room there, then run the command again",
        )


@dataclass(frozen=True)
class TableCopy:
    """One table that is now proven equal: its rows, and how many were deleted and written for that in this run.

    The digests are those of the proof: of the source without what is set aside, and of what the target holds.
    """

    table: str
    rows: int
    source_digest: str
    target_digest: str
    deleted: int
    written: int
    seconds: float
    waiting: list[str]
    """Columns that stay NULL, where they do, until a later phase brings the rows that they name."""
    rejected: int
    """Rows that stayed behind by choice."""
    nulled: int
    """Values that became NULL by choice."""
    sha256: str | None
    """Of all bytes that went into an empty table, and were read back from it, where that was asked for."""


@dataclass(frozen=True)
class Report:
    """What a run did; every table in it was proven with the hash that is named.

    `moment` is when the source was read, by its own clock: what was written there later is not part of this.
    """

    run: int
    moment: str | None
    source: str
    source_version: str
    target: str
    target_version: str
    hash: str
    tables: list[TableCopy]
    exclusions: list[Exclusion]
    """What was set aside by choice, of these tables and of those that have no place with us."""
    keys: int
    """Foreign keys of our tables, all of which hold over the rows that are there."""
    tried: list[str]
    """Tables to which a new row was added, and taken back, to see that they take one."""
    seconds: float
    rest: RestReading | None
    """How the source was read for the last proof, where that was over REST."""
    uncopied: list[str]
    """Tables that were never copied from this source."""


def _silent(*_: object) -> None:
    """Tell nobody."""


def copy(
    connections: Connections,
    tables: Sequence[str] = (),
    *,
    choices: Choices | None = None,
    replace_rows: bool = False,
    jobs: int = 1,
    sha256: bool = False,
    on_table: Callable[[TableCopy], None] = _silent,
    on_rows: Callable[[str, int, int], None] = _silent,
) -> Report:
    """Make these tables, or all, equal to the source: each in one transaction that commits only what is proven.

    Foreign keys that are in the way are away while tables are written, with the secondary indexes of tables that get
    many rows, and back at the end, also those that a killed run left away. Takes what `opened_for_writing` gives.
    With `sha256`, what went into tables that were empty is read back, and has to be the same bytes.
    `on_rows` hears of a table how many rows are on their way, and of how many at most, now and then.
    Raises `ObstaclesInTheWay`, `RowsOfOthers`, `ParentsMissing`, `TargetBusy`, `TargetFull`, `CopyNotEqual`,
    `KeysBroken`, `RowsRefused`, `NotReady`, `NotProven`, `TooManyAside`.
    """
    copying = _Copy(
        connections,
        tables,
        choices or Choices(),
        replace_rows=replace_rows,
        jobs=jobs,
        sha256=sha256,
        on_table=on_table,
        on_rows=on_rows,
    )
    try:
        return copying.run()
    except psycopg.errors.LockNotAvailable as error:
        raise TargetBusy(str(error.diag.message_primary)) from error
    except psycopg.errors.DiskFull as error:
        raise TargetFull(str(error.diag.message_primary)) from error


class _Copy:
    def __init__(
        self,
        connections: Connections,
        tables: Sequence[str],
        choices: Choices,
        *,
        replace_rows: bool,
        jobs: int,
        sha256: bool,
        on_table: Callable[[TableCopy], None],
        on_rows: Callable[[str, int, int], None],
    ) -> None:
        self._use(connections)
        self.choices, self.replace_rows, self.jobs, self.sha256 = choices, replace_rows, jobs, sha256
        self.on_table, self.on_rows = on_table, on_rows
        mapping = read_mapping(self.source)
        chosen = {table.name for table in mapping.chosen(tables)}
        # Who brings the users also fills in what waited for them.
        self.filled = {name for name in phases() if _later_parents(mapping[name]) & chosen} - chosen
        self.chosen = [name for name in phases() if name in chosen | self.filled]
        self.mapping, self.tables, self.queries = mapping, mapping.chosen(self.chosen), list[ExclusionQuery]()
        self.identity = record.identity_of(self.source)
        self.fingerprints: dict[str, str] = {}
        self.digests: dict[str, tuple[Digest, Digest]] = {}
        self.rows: dict[str, int] = {}
        self.hashed = ""
        self.run_id: int | None = None

    def _use(self, connections: Connections) -> None:
        self.connections, self.source, self.target = connections, connections.source, connections.target

    def _on(self, connections: Connections) -> _Copy:
        """Return the same copy on other connections."""
        other = shallow(self)
        other._use(connections)
        return other

    def run(self) -> Report:
        try:
            return self._run()
        except BaseException as error:
            self._record(error)
            raise
        finally:
            connection = self.target.driver
            if connection.info.transaction_status == TransactionStatus.ACTIVE:
                # Ctrl-C came as a stream began, which nobody can end any more: the server undoes it.
                connection.close()
            # Also after a failure or a refusal, so that new rows are guarded; after a kill, the next run does it.
            if not connection.closed:
                connection.rollback()
                self._restore()

    def _record(self, error: BaseException) -> None:
        if self.run_id is None or self.target.driver.closed:
            return
        outcome = "not equal" if isinstance(error, CopyDiffers | NotProven) else "failed"
        # What went wrong is worth more than that it could not be written down.
        with contextlib.suppress(psycopg.Error):
            self.target.driver.rollback()
            record.ended(self.target, self.run_id, outcome, error=_in_words(error))
            self.target.driver.commit()

    def _restore(self) -> None:
        if record.exists(self.target):
            record.restore(self.target)
        self.target.driver.commit()

    def _run(self) -> Report:
        started = time.perf_counter()
        resolution = resolve(self.source, self.mapping, self.choices)
        plan = planned(self.connections, resolution)
        if not plan.complete:
            raise ObstaclesUnresolved(plan)
        # From here on a query of the source does not see what is set aside.
        self.mapping, self.tables, self.queries = (
            resolution.mapping,
            resolution.mapping.chosen(self.chosen),
            resolution.queries,
        )
        self.rows = resolution.rows
        name = common_hash(self.connections)
        self.hashed = HASHES[name]
        self._refuse_missing_parents()
        # Before the digests: what is written here in between then shows as a row of others, and never as proven.
        self.fingerprints = {table.name: record.fingerprint(self.target, table.name) for table in self.tables}
        differing = {table.name for table in self.tables if self._differs(table)}
        self._refuse_rows_of_others(differing)
        record.prepare(self.target)
        self.run_id = run = self._begin(plan)
        # So that it is on record however it ends.
        self.target.driver.commit()
        changes = {table.name: self._changes(table) for table in self.tables if table.name in differing}
        self._park(changes)
        self.target.driver.commit()
        done = each(
            self.connections,
            self.jobs,
            self.tables,
            lambda connections, table: self._on(connections)._made_equal(run, table, changes.get(table.name)),
            self.on_table,
        )
        self._keep_unknown_tables(run)
        self._restore()
        self._validate()
        tried = [table for table in self.tables if table.table.autoincrement_column is not None]
        for table in tried:
            prove_ready(self.target, table.table)
        moment = self._moment()
        rest = self._prove_again(done)
        report = Report(
            run=run,
            moment=moment,
            source=plan.source,
            source_version=plan.source_version,
            target=plan.target,
            target_version=plan.target_version,
            hash=name,
            tables=done,
            exclusions=[what for what in plan.exclusions if what.table in self.chosen or what.kind == UNKNOWN_TABLE],
            keys=record.keys(self.target),
            tried=[table.name for table in tried],
            seconds=time.perf_counter() - started,
            rest=rest,
            uncopied=self._uncopied(),
        )
        record.ended(self.target, run, "proven", report=json.dumps(asdict(report)))
        self.target.driver.commit()
        return report

    def _uncopied(self) -> list[str]:
        copied = {name for name, last in self._remembered().items() if last.source_identity == self.identity}
        return [name for name in phases() if name not in copied]

    def _moment(self) -> str | None:
        if self.source.rest:
            return None
        [moment] = self.source.row("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC')")
        return str(moment)

    def _begin(self, plan: Plan) -> int:
        [[run]] = self.target.rows(
            f"INSERT INTO {record.SCHEMA}.runs (source, source_identity, source_version, target_version, options)"
            " VALUES (%(source)s, %(identity)s, %(source_version)s, %(target_version)s, %(options)s) RETURNING id",
            {
                "source": plan.source,
                "identity": self.identity,
                "source_version": plan.source_version,
                "target_version": plan.target_version,
                "options": json.dumps(
                    {
                        "tables": self.chosen,
                        "replace": self.replace_rows,
                        "jobs": self.jobs,
                        "sha256": self.sha256,
                        **asdict(self.choices),
                    }
                ),
            },
        )
        return int(run)

    def _table_digests(self, table: TableMap) -> TableDigests:
        return TableDigests(self.connections, table, self.hashed)

    def _differs(self, table: TableMap) -> bool:
        source, target = self.digests[table.name] = self._table_digests(table).whole()
        return source != target

    def _refuse_missing_parents(self) -> None:
        chosen = {table.name for table in self.tables}
        parents = {key.column.table.name for table in self.tables for key in table.table.foreign_keys}
        later = {parent for table in self.tables for parent in _later_parents(table)}
        known = self._remembered()
        copied = {name for name in self.filled if name in known and known[name].source_identity == self.identity}
        wanted = (parents - chosen - later) | (self.filled - copied)
        missing = [name for name in phases() if name in wanted and self._differs(self.mapping[name])]
        if missing:
            raise ParentsNotCopied(missing)

    def _remembered(self) -> dict[str, record.Remembered]:
        return record.remembered(self.target) if record.exists(self.target) else {}

    def _refuse_rows_of_others(self, differing: set[str]) -> None:
        known = self._remembered()
        others: dict[str, int] = {}
        for table in self.tables:
            found = self.fingerprints[table.name]
            rows = _rows(found)
            last = known.get(table.name)
            from_here = last and (last.source_identity, last.fingerprint) == (self.identity, found)
            if rows and table.name in differing and not from_here:
                others[table.name] = rows
        if others and not self.replace_rows:
            raise OtherRowsInTarget(others)

    def _changes(self, table: TableMap) -> Changes:
        rows = _rows(self.fingerprints[table.name])
        if not rows:
            return Changes([], [""], bulk=True)
        digests = self._table_digests(table)
        if rows > FEW_ROWS and not table.counted_key:
            # All rows would have to be held at once.
            return bulk_changes(digests)
        return find_changes(digests, max(FEW_ROWS, int(rows * FEW_OF_ALL)))

    def _park(self, changes: dict[str, Changes]) -> None:
        """Take away what is in the way: some keys always, the rest where many rows are written."""
        waits = {(name, parent) for name in changes for parent in _later_parents(self.mapping[name])}

        def pays(table: str, parent: str | None) -> bool:
            # Rows that others name cannot be deleted, nor can a row name what a later table brings, while a key looks.
            in_the_way = parent in changes or (table, parent) in waits
            return in_the_way or (table in changes and changes[table].bulk)

        record.park(self.target, pays)

    def _made_equal(self, run: int, table: TableMap, changes: Changes | None) -> TableCopy:
        started = time.perf_counter()
        deleted, written, waiting = 0, 0, []
        now = self.fingerprints[table.name]
        sent = hashlib.sha256() if changes and self.sha256 and _rows(now) == 0 else None
        if changes:
            self._refuse_late_writers(table)
            try:
                deleted, written = self._write(table, changes, sent.update if sent else None)
            except (psycopg.IntegrityError, psycopg.errors.RaiseException) as error:
                raise RowsRefused(table.name, str(error.diag.message_primary)) from error
            if sent and sent.digest() != self._read_back(table):
                raise CopyDiffers(table.name)
            waiting = self._prove(table)
            now = record.fingerprint(self.target, table.name)
        rows = _rows(now)
        exclusions = self._keep(run, table.name)
        record.remember(
            self.target,
            table.name,
            run=run,
            identity=self.identity,
            rows=rows,
            fingerprint=now,
            copied=changes is not None,
        )
        if self.source.reread is None:
            record.prove(self.target, table.name)
        self.target.driver.commit()
        make_ready(self.target, table.table)
        (_, source_digest), (_, target_digest) = self.digests[table.name]
        return TableCopy(
            table.name,
            rows,
            source_digest,
            target_digest,
            deleted,
            written,
            time.perf_counter() - started,
            waiting,
            rejected=exclusions[REJECTED],
            nulled=exclusions[NULLED],
            sha256=sent.hexdigest() if sent else None,
        )

    def _refuse_late_writers(self, table: TableMap) -> None:
        self.target.execute(f"LOCK TABLE public.{quoted(table.name)} IN SHARE ROW EXCLUSIVE MODE")
        now = record.fingerprint(self.target, table.name)
        if now != self.fingerprints[table.name]:
            raise OtherRowsInTarget({table.name: _rows(now)})

    def _write(self, table: TableMap, changes: Changes, on_block: Hearing | None) -> tuple[int, int]:
        # All deletes come first, for a unique value may have gone from one row to another.
        deleted = sum(self.target.execute(f"DELETE FROM {table.target_sql}{which}") for which in changes.deletes)
        written, wanted = 0, self.rows[table.name] if changes.rows is None else changes.rows
        for which in changes.inserts:
            written += self._pipe(table, which, written, wanted, on_block)
        return deleted, written

    def _pipe(self, table: TableMap, which: str, before: int, wanted: int, on_block: Hearing | None) -> int:
        def tell(rows: int) -> None:
            self.on_rows(table.name, before + rows, wanted)

        # In binary, PostgreSQL checks lengths and not types, so each value is cast to exactly ours.
        values = ", ".join(
            f"({about(column.conversion.convert, column.source_value)})::{_exactly(column, plain=on_block is not None)}"
            for column in table.columns
        )
        rows = f"SELECT {values} FROM {table.source_sql}{which}"
        if on_block:
            # Which an index serves where both sides count in numbers.
            key = (
                table.key.source_value
                if table.counted_key
                else f"({about(table.key.conversion.convert, table.key.source_value)})::{table.key.type}"
            )
            rows += _ordered(table, key)
        out = f"COPY ({rows}) TO STDOUT (FORMAT binary)"
        return self._stream(out, f"COPY {_whole(table)} FROM STDIN (FORMAT binary)", tell, on_block)

    def _read_back(self, table: TableMap) -> bytes:
        found = hashlib.sha256()
        names = ", ".join(column.target_value for column in table.columns)
        rows = f"SELECT {names} FROM {table.target_sql}{_ordered(table, table.key.target_value)}"
        out = f"COPY ({rows}) TO STDOUT (FORMAT binary)"
        with (
            watchdog(self.target) as heartbeat,
            self.target.driver.cursor() as reading,
            reading.copy(out.encode()) as read,
        ):
            for block in _blocks(read):
                found.update(block)
                heartbeat()
        return found.digest()

    def _keep(self, run: int, table: str) -> Counter[str]:
        """Replace what is kept of a table; return how many rows there are of each action."""
        record.delete_rejects(self.target, self.identity, table)
        queries = [query for query in self.queries if query.exclusion.table == table]
        kept = [query for query in queries if query.exclusion.action != LEFT]
        for query in kept:
            self._keep_rows(run, query)
        if kept and source_digest(self.source, self.hashed, kept) != rejects_digest(
            self.target, self.hashed, self.identity, table
        ):
            raise CopyDiffers(table)
        summary: Counter[str] = Counter()
        for query in queries:
            summary[query.exclusion.action] += query.exclusion.rows
        return summary

    def _keep_rows(self, run: int, query: ExclusionQuery) -> None:
        what = query.exclusion
        facts = (self.identity, what.table, what.column, what.kind, what.reason, what.action)
        texts = ", ".join("NULL::text" if fact is None else f"{literal(fact)}::text" for fact in facts)
        self._stream(
            f"COPY (SELECT {run}::integer, {texts}, {query.key}, {query.row} {query.rows}) TO STDOUT (FORMAT binary)",
            f"COPY {record.SCHEMA}.rejects (run, source_identity, table_name, column_name, kind, reason, action, id,"
            ' "row") FROM STDIN (FORMAT binary)',
        )

    def _keep_unknown_tables(self, run: int) -> None:
        record.delete_rejects_of_unknown_tables(self.target, self.identity)
        for table in {query.exclusion.table for query in self.queries if query.exclusion.kind == UNKNOWN_TABLE}:
            self._keep(run, table)
        self.target.driver.commit()

    def _stream(
        self, out: str, into: str, on_rows: Callable[[int], None] = _silent, on_block: Hearing | None = None
    ) -> int:
        with (
            watchdog(self.source, self.target) as heartbeat,
            self.source.driver.cursor() as reading,
            self.target.driver.cursor() as writing,
            reading.copy(out.encode()) as read,
        ):
            try:
                with writing.copy(into.encode()) as write:
                    for block in _blocks(read, on_rows):
                        write.write(block)
                        heartbeat()
                        if on_block:
                            on_block(block)
            except BaseException:
                # Else the rest of what is read would be waited for, also by Ctrl-C, and also where it never comes.
                self.source.abort()
                self.source.driver.close()
                raise
            return writing.rowcount

    def _prove(self, table: TableMap) -> list[str]:
        """Compare what was written; return the columns that have to wait for rows of a later phase."""
        chosen = {mapped.name for mapped in self.tables}
        later = [key for key in table.table.foreign_keys if key.column.table.name in _later_parents(table) - chosen]
        cleared: list[str] = []
        for key in later:
            column, parent = quoted(key.parent.name), key.column.table.name
            if self.target.execute(
                f"UPDATE {table.target_sql} SET {column} = NULL WHERE t.{column} IS NOT NULL AND NOT EXISTS ("
                f"SELECT FROM public.{quoted(parent)} AS p WHERE p.{quoted(key.column.name)} = t.{column})"
            ):
                cleared.append(key.parent.name)
        compared = [column for column in table.columns if column.name not in cleared]
        if self._differs(replace(table, columns=compared)):
            raise CopyDiffers(table.name)
        return cleared

    def _prove_again(self, done: list[TableCopy]) -> RestReading | None:
        """Compare with the source read anew, where what was copied from is no more than an earlier reading of it."""
        if self.source.reread is None:
            return None
        try:
            with self.source.reread() as source:
                connections = Connections(source, self.target)
                # What was chosen holds for the rows of today.
                resolution = resolve(source, read_mapping(source), self.choices)
                differing = [copied.table for copied in done if self._differs_now(connections, resolution, copied)]
                kept = Rejects(connections, self.hashed).changed(resolution.mapping, [])
                differing += [what.table for what in kept if what.kind == UNKNOWN_TABLE]
                rest = source.rest
        except RestError as error:
            raise NotProven([copied.table for copied in done], error.what) from error
        for copied in done:
            if copied.table not in differing:
                record.prove(self.target, copied.table)
        self.target.driver.commit()
        if differing:
            raise NotProven(differing, "they changed while they were read")
        return rest

    def _differs_now(self, connections: Connections, resolution: Resolution, copied: TableCopy) -> bool:
        table = resolution.mapping[copied.table]
        compared = [column for column in table.columns if column.name not in copied.waiting]
        source, target = TableDigests(connections, replace(table, columns=compared), self.hashed).whole()
        kept = [
            query
            for query in resolution.queries
            if query.exclusion.table == table.name and query.exclusion.action != LEFT
        ]
        return (
            source != target
            or not table.comparable
            or source_digest(connections.source, self.hashed, kept)
            != rejects_digest(self.target, self.hashed, self.identity, table.name)
        )

    def _validate(self) -> None:
        for table, key in record.unproven_keys(self.target):
            try:
                self.target.execute(f"ALTER TABLE public.{quoted(table)} VALIDATE CONSTRAINT {quoted(key)}")
            except psycopg.errors.ForeignKeyViolation as error:
                self.target.driver.rollback()
                raise ForeignKeyViolated(table, key, str(error.diag.message_detail)) from error
            self.target.driver.commit()


def _in_words(error: BaseException) -> str:
    """Say what happened in words that hold no value of a row and no password."""
    if isinstance(error, TatameError):
        return error.what
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return f"{type(error).__name__}: {primary}" if primary else type(error).__name__


def _blocks(read: Iterable[Buffer], on_rows: Callable[[int], None] = _silent) -> Iterator[bytes]:
    """Put together what the server sends, which is each row by itself."""
    block = bytearray()
    for rows, data in enumerate(read):
        block += data
        if len(block) >= _BLOCK_BYTES:
            yield bytes(block)
            block.clear()
            on_rows(rows)
    yield bytes(block)


def _whole(table: TableMap) -> str:
    return f"public.{quoted(table.name)} ({', '.join(quoted(column.name) for column in table.columns)})"


def _ordered(table: TableMap, key: str) -> str:
    # Where rows come to lie is not promised, and each server sorts text in its own way.
    return f" ORDER BY ({key})" + (' COLLATE "C"' if table.key.type == TEXT else "")


def _exactly(column: ColumnMap, *, plain: bool) -> str:
    # An array out of which a NULL went may still say that it has one, which it no longer does once it was read as text.
    return f"text::{column.type}" if plain and column.type == TEXTS else column.type


def _rows(fingerprint: str) -> int:
    return int(fingerprint.partition(":")[0])


def _later_parents(table: TableMap) -> set[str]:
    """Name the tables that this one refers to, and that a later phase brings."""
    parents = {key.column.table for key in table.table.foreign_keys}
    return {parent.name for parent in parents if phase(parent) > phase(table.table)}
