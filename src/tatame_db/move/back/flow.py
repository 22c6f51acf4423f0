"""The flow from the target to the source: changed rows, or whole tables, in one transaction of the source."""

from __future__ import annotations

from collections import defaultdict
from copy import deepcopy
from typing import TYPE_CHECKING

import psycopg

from tatame_db.move.back import requirements
from tatame_db.move.back.errors import SourceNotWritable, writing_in_words
from tatame_db.move.back.excluded import without_excluded
from tatame_db.move.back.found import FoundObstacles
from tatame_db.move.back.left import NOT_DELETED, LeftRows, Why
from tatame_db.move.back.proof import prove
from tatame_db.move.back.staging import StagedTable, able_to_read, pending_ids, stage
from tatame_db.move.back.stored import Places, StoredRows
from tatame_db.move.back.target_only import is_writable, note_values_without_source, obstacles_of, own_values
from tatame_db.move.back.write import Loosened, MustLoosen, RowsNotTaken, write
from tatame_db.move.choices import LEFT, NULLED, Choices
from tatame_db.move.connection import Connections
from tatame_db.move.digest import FEW_BITS, Hash, TableDigests, common_hash
from tatame_db.move.mapping import Mapping as TableMapping
from tatame_db.move.mapping import TableMap, read_mapping
from tatame_db.move.record import identity_of
from tatame_db.move.sequences import advance_source
from tatame_db.move.snapshot import fix_moment
from tatame_db.move.switch.homes import Home, homes
from tatame_db.move.switch.token import admit, token_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from tatame_db.move.choices import Obstacle
    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.digest import Digest
    from tatame_db.move.fingerprint import Fingerprint
    from tatame_db.move.flow import Applied
    from tatame_db.move.obstacles import Requirement

LOCK_TIMEOUT_MS = 5_000


class BackFlow:
    """Makes rows of the source equal to those of the target.

    `home` is opened for reading, `follower` is from `open_source_for_writing`. Each transaction there passes the
    fences by `token`; without it, by that of the record. Rows and values that the first direction excluded stay at the
    source as they are. A row that the source cannot hold stays on the target by choice, and is in `left` then; without
    a choice, nothing is written. `left` is that of an earlier flow, if this one continues it.

    The source's own triggers run, as for any other writer.
    """

    def __init__(
        self,
        home: MoveConnection,
        follower: MoveConnection,
        *,
        token: str | None = None,
        choices: Choices | None = None,
        tables: Sequence[str] = (),
        left: dict[str, LeftRows] | None = None,
    ) -> None:
        self.home, self.follower = home, follower
        self.connections = Connections(source=follower, target=home)
        self.token, self.choices, self.names = token, choices or Choices(), tables
        self.maps: dict[str, TableMap] = {}
        """All tables that the source has, without what the record excludes."""
        self.chosen: list[TableMap] = []
        self.left: dict[str, LeftRows] = {} if left is None else left
        self.tried: dict[str, LeftRows] = {}
        """What a trial would have left."""
        self.returned: Places = defaultdict(set)
        """What was stored as not returned, and is written to the source in the transaction there."""
        self._stored: Places = {}
        self._hash: Hash | None = None
        follower.driver.rollback()
        # Whatever the role or the database prefers.
        follower.driver.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        follower.driver.read_only = False

    @property
    def tables(self) -> list[str]:
        """The tables that are written back, in the order of the move: those to which the source refuses writers."""
        return [table.name for table in self.chosen if table.name in self.maps]

    @property
    def home_keys(self) -> dict[str, str]:
        """The column of the target by whose text `apply` finds the rows of a table."""
        return {name: self.maps[name].key.name for name in self.tables}

    @property
    def hash_function(self) -> Hash:
        """The hash that both servers compute alike."""
        if self._hash is None:
            self._hash = common_hash(self.connections)
        return self._hash

    def begin(self) -> None:
        """Take a new moment of the target and read both catalogues again.

        Raises `TablesLocked`, `TablesChanging`, `SourceUnreadable`, `ConnectionLost`, and what `homes` raises.
        """
        fix_moment(self.home)
        self.token = self.token or token_of(self.home)
        self._enter()
        mapping: TableMapping = read_mapping(self.connections)
        found = homes(self.connections)
        # A source that other programs write to is never written to, not even for a trial.
        self.chosen = [table for table in mapping.chosen(self.names) if found[table.name] is not Home.SOURCE]
        leaves = self.choices.unknown
        writable = [table.with_own_columns if leaves else table for table in mapping.tables if is_writable(table)]
        self.maps = {table.name: table for table in without_excluded(self.connections, writable)}
        self._stored = StoredRows(self.home, identity_of(self.follower)).places()
        self.follower.driver.rollback()

    def _enter(self) -> None:
        """Let the transaction of the source depend on no setting, whoever began it, and pass the fences."""
        self.follower.pin_settings(for_transaction=True)
        # What is reported as written must be on the disk of the source.
        self.follower.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; SET LOCAL synchronous_commit = 'on'")
        if self.token is not None:
            admit(self.follower, self.token)

    def apply(self, keys: Mapping[str, Collection[str]]) -> list[Applied]:
        """Make the rows with these ids equal at the source; the caller commits there.

        Raises `RowsNotReturnable`, `SourceNotWritable`, `ConnectionLost`; the transaction is rolled back then.
        """
        applied, _ = self._apply(keys)
        return applied

    def compare_whole(self, tables: Collection[str]) -> list[Applied]:
        """Find the rows of these tables that differ, make them equal at the source, and commit."""
        applied = self.apply(self.differing(tables))
        self.follower.commit()
        self._count_own_values(tables)
        return applied

    def _count_own_values(self, tables: Collection[str]) -> None:
        for table in self._in_order(tables):
            if table.own:
                self.left.setdefault(table.name, LeftRows()).own = own_values(self.home, table)

    def differing(self, tables: Collection[str]) -> dict[str, set[str]]:
        """Return the ids of the rows in which the databases differ; those are all that is in memory."""
        self._enter()
        found = {table.name: self._differing(table) for table in self._in_order(tables)}
        return {name: ids for name, ids in found.items() if ids}

    def _differing(self, table: TableMap) -> set[str]:
        digests = TableDigests(self.connections, table, self.hash_function)
        source, target = digests.whole()
        ids: set[str] = set()
        for part in digests.differing_parts(FEW_BITS) if source != target else ():
            rows, others = map(set[tuple[str, int]], digests.row_hashes(part))
            ids.update(key for key, _ in rows ^ others)
        return ids

    def prove(self, tables: Collection[str]) -> dict[str, tuple[Digest, Digest, Fingerprint]]:
        """Return the digests of these tables in the source and in the target, and the fingerprint of the same rows.

        Without what the record excludes, and what stays on the target by choice; the fingerprint is of all rows.
        """
        self._enter()
        hidden = [self.left.get(table.name, LeftRows()).hidden(table) for table in self._in_order(tables)]
        return prove(self.connections, hidden, self.hash_function)

    def mark_returned(self, target: MoveConnection) -> None:
        """Store that what was not returned earlier was written meanwhile; the caller commits, after the source."""
        StoredRows(target, identity_of(self.follower)).mark_returned(self._in_order(self.tables), self.returned)
        self.returned.clear()

    def store_left(self, target: MoveConnection, run: int, tables: Collection[str]) -> None:
        """Store what of these tables stays on the target, which has to be closed to writers; the caller commits."""
        stored = StoredRows(target, identity_of(self.follower))
        for table in self._in_order(tables):
            stored.store(run, table, self.left.get(table.name, LeftRows()))

    def advance_sequences(self) -> None:
        """Let the source hand out only ids that the target has not; sequences are never set back."""
        self._enter()
        for name in self.tables:
            with writing_in_words():
                advance_source(self.follower, self.home, self.maps[name])

    def try_out(self, keys: Mapping[str, Collection[str]], most: int) -> tuple[dict[str, list[Obstacle]], bool]:
        """Return the obstacles to writing these rows, and whether writing was tried; leaves nothing at the source.

        More than `most` rows are only compared with the requirements that the source states.
        """
        tried, left = sum(map(len, keys.values())) <= most, deepcopy(self.left)
        try:
            _, found = self._apply(keys, only_try=True, writes=tried)
            self.tried = self.left
            self._count_own_values(self.tables)
            return found.obstacles, tried and found.complete
        finally:
            self.left = left
            self.returned.clear()
            self.follower.driver.rollback()

    def _in_order(self, names: Iterable[str]) -> list[TableMap]:
        wanted = set(names)
        return [self.maps[name] for name in self.tables if name in wanted]

    def _apply(
        self, keys: Mapping[str, Collection[str]], *, only_try: bool = False, writes: bool = True
    ) -> tuple[list[Applied], FoundObstacles]:
        found, left = FoundObstacles(self.choices), deepcopy(self.left)
        try:
            with writing_in_words():
                return self._write(keys, found, only_try=only_try, writes=writes), found
        except BaseException:
            self.left = left
            if not self.follower.driver.closed:
                self.follower.driver.rollback()
            raise

    def _write(
        self, keys: Mapping[str, Collection[str]], found: FoundObstacles, *, only_try: bool, writes: bool
    ) -> list[Applied]:
        self._enter()
        staged = self._stage(keys, found, only_try=only_try)
        for table in staged:
            self._exclude_in_rows(table, found)
        self._exclude_orphans(staged, found)
        loosened, tight, skipped = list[Loosened](), list[Loosened](), set[str]()
        while writes:
            if not only_try:
                found.refuse_unresolved()
            pending = self._pending(staged)
            try:
                with self.follower.driver.transaction():
                    applied = write(self.follower, staged, loosened, tight, skipped)
            except MustLoosen as needed:
                # A trial must not lock a table of the source against its readers.
                if only_try:
                    found.complete = False
                    skipped.add(needed.table)
                else:
                    loosened.append(needed.loosened)
            except RowsNotTaken as refusal:
                if skipped and (not refusal.ids or refusal.kind == requirements.REFERENCED):
                    # The rows that were not written may be the reason.
                    break
                if loosened and not refusal.ids:
                    # A constraint that holds after each statement names the rows that violate it.
                    tight, loosened = tight + loosened, []
                    continue
                self._exclude_refused(staged, refusal, found)
                self._exclude_orphans(staged, found)
            else:
                self._drop(staged)
                for place, ids in pending.items():
                    self.returned[place] |= ids
                return [table for table in applied if table.deleted or table.written]
        return []

    def _pending(self, staged: list[StagedTable]) -> Places:
        """Return what was not returned earlier, and is in rows that are about to be written."""
        pending: Places = {}
        for table in staged:
            name = table.table.name
            places = {column: ids for (its, column), ids in self._stored.items() if its == name}
            written = pending_ids(self.follower, table, set[str]().union(*places.values())) if places else set[str]()
            for column, ids in places.items():
                nulled = self.left[name].nulled[column].keys() if column else set[str]()
                pending[name, column] = (written & ids) - nulled
        return pending

    def _stage(
        self, keys: Mapping[str, Collection[str]], found: FoundObstacles, *, only_try: bool
    ) -> list[StagedTable]:
        staged: list[StagedTable] = []
        for position, table in enumerate(self._in_order(keys)):
            ids = set(keys[table.name])
            self.left.setdefault(table.name, LeftRows()).forget(ids)
            staged.append(stage(self.connections, table, ids, position))
            if not only_try:
                note_values_without_source(self.home, table, ids, found)
        return staged

    def _drop(self, staged: list[StagedTable]) -> None:
        # Another batch may follow in the same transaction.
        for table in staged:
            self.follower.execute(f"DROP TABLE {table.rows}, {table.gone}")

    # Rows that the source cannot hold

    def _exclude_in_rows(self, staged: StagedTable, found: FoundObstacles) -> None:
        if not staged.writes:
            return
        if self._reads_all(staged):
            self._exclude(staged, requirements.of_the_row(staged, carefully=False), found)
        else:
            with able_to_read(self.follower):
                self._exclude(staged, requirements.of_the_row(staged, carefully=True), found)
        self._exclude(staged, requirements.unique(self.follower, staged), found)

    def _reads_all(self, staged: StagedTable) -> bool:
        """Return whether the types of the source can read all texts: faster than to try each of them."""
        reads = ", ".join(f"count(*) FILTER (WHERE {cell.is_exact(carefully=False)})" for cell in staged.cells)
        try:
            with self.follower.driver.transaction():
                self.follower.rows(f"SELECT {reads} FROM {staged.rows} AS r")
        except psycopg.OperationalError:
            raise
        except psycopg.Error:
            return False
        return True

    def _exclude_orphans(self, staged: list[StagedTable], found: FoundObstacles) -> None:
        """Exclude references to rows that the source does not get, until there are none."""
        by_name = {table.table.name: table for table in staged}
        checks = [
            (
                table,
                [
                    requirement
                    for reference in requirements.references(self.follower, table, self.maps)
                    if (requirement := requirements.orphans(table, reference, self.maps, by_name))
                ],
            )
            for table in staged
            if table.writes
        ]
        while any(self._exclude(table, its, found) for table, its in checks):
            pass

    def _exclude(self, staged: StagedTable, needed: Iterable[Requirement], found: FoundObstacles) -> bool:
        """Exclude the rows that violate requirements; return whether there were any."""
        all_needed = list(needed)
        if not all_needed:
            return False
        # All of them before any row is excluded, so that each obstacle of a row is named; in one query, because each
        # query takes the time of a journey to the source.
        conditions = ", ".join(f"({requirement.violation}) IS TRUE" for requirement in all_needed)
        rows = self.follower.rows(
            f"SELECT id, violated FROM (SELECT r.id, ARRAY[{conditions}] AS violated FROM {staged.rows} AS r OFFSET 0)"
            " AS found WHERE true = ANY(violated)"
        )
        violating = [
            (requirement, {key for key, violated in rows if violated[position]})
            for position, requirement in enumerate(all_needed)
        ]
        for requirement, ids in violating:
            if ids:
                self._exclude_ids(staged, requirement, ids, found)
        return bool(rows)

    def _exclude_refused(self, staged: list[StagedTable], refusal: RowsNotTaken, found: FoundObstacles) -> None:
        [table] = [table for table in staged if table.table.name == refusal.table]
        query = f"SELECT id FROM {table.rows} UNION SELECT id FROM {table.gone}"
        ids = set(refusal.ids) or {key for (key,) in self.follower.rows(query)}
        if not ids:
            raise SourceNotWritable(reason=refusal.reason, advice="disable the trigger or the constraint there")
        self._exclude_ids(table, requirements.refused(refusal.kind, refusal.reason), ids, found)

    def _exclude_ids(self, staged: StagedTable, requirement: Requirement, ids: set[str], found: FoundObstacles) -> None:
        name, left = staged.table.name, self.left.setdefault(staged.table.name, LeftRows())
        becomes_null = found.note(name, requirement, ids)
        for cell in staged.cells:
            if becomes_null and cell.column.name == requirement.column:
                staged.empty(self.follower, cell, ids)
                _note(left.nulled[cell.map.name], ids, requirement, NULLED)
        if not becomes_null:
            query = f"SELECT id FROM {staged.gone}"
            gone = {key for (key,) in self.follower.rows(query)} & ids if staged.deletes else set[str]()
            staged.remove(self.follower, ids)
            _note(left.ids, gone, requirement, NOT_DELETED)
            _note(left.ids, ids - gone, requirement, LEFT)


def _note(left: dict[str, Why], ids: Collection[str], requirement: Requirement, action: str) -> None:
    why = Why(requirement.kind, requirement.reason, action)
    for key in ids:
        left.setdefault(key, why)


def back_obstacles(flow: BackFlow, most_tried: int = 50_000) -> tuple[dict[str, list[Obstacle]], bool]:
    """Return the obstacles of the way back by table, with what the choices do about them; nothing stays written.

    Only rows in which the databases differ are examined: all others are at the source already. Constraints and
    triggers of the source are found by writing in a transaction that is rolled back, if its fences let only this
    session write; the second value is whether that was tried. Raises what `BackFlow.begin` raises.
    """
    flow.begin()
    found, tried = flow.try_out(flow.differing(flow.tables), most_tried)
    for table in flow.chosen:
        if its := obstacles_of(flow.home, table, flow.choices):
            found[table.name] = its + found.get(table.name, [])
    return found, tried
