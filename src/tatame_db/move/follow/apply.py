"""The way of rows from the source into the target, by their keys or by whole comparisons."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import psycopg

from tatame_db.database.dialect import quoted
from tatame_db.evolve.lock import ignore
from tatame_db.move.back.excluded import without_excluded
from tatame_db.move.back.proof import prove
from tatame_db.move.choices import Choices
from tatame_db.move.copy import copy
from tatame_db.move.copy_errors import in_words
from tatame_db.move.copy_table import refusals_in_words
from tatame_db.move.digest import FEW_BITS, Part, TableDigests, common_hash
from tatame_db.move.fingerprint import Fingerprint, fingerprint_digest
from tatame_db.move.flow import Applied, WholeComparisonNeeded
from tatame_db.move.follow.changed import MOST_KEYS
from tatame_db.move.follow.doubts import Doubts
from tatame_db.move.in_place import (
    TEMPORARY,
    differing_rows,
    gone_rows,
    insert_statement,
    receive,
    update_statement,
)
from tatame_db.move.keys import refuse_disabled_keys
from tatame_db.move.mapping import Mapping
from tatame_db.move.own_columns import read_mapping_to_target
from tatame_db.move.plan import plan_of
from tatame_db.move.prepare import refuse_unresolved
from tatame_db.move.reach import refuse_reaching_changes
from tatame_db.move.record import Record, identity_of
from tatame_db.move.resolve import resolve
from tatame_db.move.sequences import LARGEST_IDS, advance_sequence
from tatame_db.move.snapshot import fix_moment
from tatame_db.move.sql import array, array_items
from tatame_db.move.switch.fence import closed_tables, closing
from tatame_db.move.switch.homes import Home, homes, refuse_moved
from tatame_db.move.switch.token import make_token, token_hash
from tatame_db.move.target import own_keys
from tatame_db.schema import phases

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Sequence
    from collections.abc import Mapping as Keys

    from tatame_db.move.connection import Connections
    from tatame_db.move.digest import Digest, Hash
    from tatame_db.move.mapping import TableMap
    from tatame_db.move.snapshot import LockWait

# Of one attempt to create the triggers of all tables, which takes some milliseconds.
_CLOSING_SECONDS = 30


@dataclass(frozen=True)
class _Rows:
    """Some rows of a table, as the two databases name them, and the temporary table with those of the source."""

    table: TableMap
    received: str
    items: str
    """Their ids as the source has them, in the form of `array_items`."""
    on_target: str
    """The condition that a row of the target is one of them."""

    @property
    def gone(self) -> str:
        """The condition that a row of the target is one of them, and the source no longer has it."""
        return gone_rows(self.table, f" WHERE {self.on_target}", self.received)


class ForwardFlow:
    """Rows from the source, which is their home, to the target: a `Flow`.

    `connections` are from `open_for_writing`. Whole comparisons use the choices of the last copy. With `resumes`, also
    tables of an interrupted switch take this way. Without `closes_target`, other writers of the target go on.
    """

    def __init__(
        self,
        connections: Connections,
        tables: Sequence[str] = (),
        *,
        on_locked: Callable[[LockWait], None] = ignore,
        resumes: bool = False,
        closes_target: bool = True,
    ) -> None:
        self.connections, self.home, self.follower = connections, connections.source, connections.target
        self._names, self._on_locked = list(tables) or list(phases()), on_locked
        self._tables: list[str] = []
        self._identity = identity_of(self.home)
        self.maps: dict[str, TableMap] = {}
        """All tables, without anything excluded."""
        self.mapping = Mapping([], [])
        self._resumes, self._closes_target = resumes, closes_target
        self._hash: Hash | None = None

    @property
    def tables(self) -> list[str]:
        """The tables whose home is the source, in the order of the move; `begin` finds out."""
        return self._tables

    @property
    def home_keys(self) -> dict[str, str]:
        """The column of each table that holds ids as the target stores them too."""
        keys = {name: self.maps[name].key for name in self._tables}
        return {name: key.source.name for name, key in keys.items() if key.source and key.alike}

    @property
    def hash_function(self) -> Hash:
        """The hash that both servers compute alike."""
        self._hash = self._hash or common_hash(self.connections)
        return self._hash

    def prove(self, tables: Collection[str]) -> dict[str, tuple[Digest, Digest, Fingerprint]]:
        """Return the digests of these tables without what the record excludes, and fingerprints of the target."""
        chosen = [table for name, table in self.maps.items() if name in tables]
        return prove(self.connections, without_excluded(self.connections, chosen), self.hash_function)

    def refuse_obstacles(self) -> None:
        """Read all rows of the source, and raise `ObstaclesUnresolved` if the choices of the last copy do not do."""
        refuse_unresolved(plan_of(self.connections, resolve(self.home, self.mapping, self._choices())))

    def begin(self) -> None:
        """Close the target to other writers and take a new moment of the source.

        A source over REST is at the moment of its reading until it is reopened. Raises `SwitchUnfinished`, what `homes`
        and `closing` raise, `TablesLocked`, `TablesChanging`, `SourceUnreadable`, `KeysDisabled`, `ConnectionLost`.
        """
        self.follower.driver.rollback()
        if self.home.rest is None:
            fix_moment(self.home, on_locked=self._on_locked)
        found = homes(self.connections)
        if not self._resumes:
            refuse_moved(found, [name for name in self._names if found[name] is Home.NEITHER])
        self._tables = [name for name in phases() if name in self._names and found[name] is not Home.TARGET]
        if self._closes_target:
            self._close_target()
        self.mapping = read_mapping_to_target(self.connections)
        self.maps = {table.name: table for table in self.mapping.tables}
        refuse_disabled_keys(self.follower, Record(self.follower).parked())
        self.follower.commit()

    def _close_target(self) -> None:
        closed = closed_tables(self.follower)
        if still_open := [name for name in self._tables if name not in closed]:
            token = make_token(self.follower)
            closing(self.follower, still_open, token_hash(token), pause_at_most_seconds=_CLOSING_SECONDS)
            self.follower.commit()

    def apply(self, keys: Keys[str, Collection[str]]) -> list[Applied]:
        """Make the rows with these ids equal, prove it and record it; the caller commits.

        Raises `WholeComparisonNeeded`, `RowsStillReferenced`, `RowsRefused`, `TargetBusy`, `TargetRefused`,
        `SchemaChanged`, `ConnectionLost`.
        """
        try:
            with in_words(self.follower):
                return self._apply({name: found for name, found in keys.items() if found})
        except BaseException:
            with contextlib.suppress(psycopg.Error):
                self.follower.driver.rollback()
            raise

    def compare_whole(self, tables: Collection[str]) -> list[Applied]:
        """Make the rows that differ equal, one by one if they are few and need no choice, otherwise by a copy.

        Raises what `copy` raises.
        """
        chosen = [name for name in self.tables if name in tables]
        try:
            keys = self._differing(chosen)
            applied = self.apply(keys) if keys else []
            self.follower.commit()
        except WholeComparisonNeeded:
            self.follower.driver.rollback()
            # The source is the home, so that its tables are empty is a change like any other.
            report = copy(self.connections, chosen, choices=self._choices(), accept_emptied=True)
            return [
                Applied(table.table, table.deleted, table.written)
                for table in report.tables
                if table.deleted or table.written
            ]
        return applied

    # Some rows

    def _apply(self, keys: Keys[str, Collection[str]]) -> list[Applied]:
        maps = [table for name, table in self.maps.items() if name in keys and name in self._tables]
        self._refuse_incomplete(maps)
        doubts = Doubts(self.connections, self.maps, self._identity, self._choices())
        for table in maps:
            doubts.refuse_rows(table, keys[table.name])
        every = [
            self._receive(table, keys[table.name], f"{TEMPORARY}tatame_move_{position}")
            for position, table in enumerate(maps)
        ]
        before = {rows.table.name: self._fingerprint(rows) for rows in every}
        applied = self._write(every)
        for rows in every:
            self._prove(rows)
            name = rows.table.name
            Record(self.follower).save_changes(name, before[name], self._fingerprint(rows))
            self.follower.execute(f"DROP TABLE {rows.received}")
            if rows.table.table.autoincrement_column is not None:
                advance_sequence(self.follower, rows.table.table, 0)
        return applied

    def _refuse_incomplete(self, maps: Sequence[TableMap]) -> None:
        record, identity = Record(self.follower), identity_of(self.home)
        known = record.tables()
        if missing := [
            table.name for table in maps if table.name not in known or known[table.name].source_identity != identity
        ]:
            raise WholeComparisonNeeded(missing, "they were not copied from this source yet")
        if parked := record.parked():
            raise WholeComparisonNeeded([table.name for table in maps], f"{', '.join(parked)} are not restored")
        for table in maps:
            if later := table.later_parents - set(self._tables):
                raise WholeComparisonNeeded([table.name], f"references to {', '.join(sorted(later))} have to wait")

    def _receive(self, table: TableMap, keys: Collection[str], received: str) -> _Rows:
        """Read the rows of the source into a temporary table of the target."""
        ids = [key for key in keys if _fits(key, table.key.source.kind if table.key.source else "")]
        items = array_items(ids)
        # An id that does not fit into the target's column is that of no row there.
        on_target = array_items([key for key in keys if _fits(key, table.key.type)])
        receive(self.connections, table, [f" WHERE {table.among(items)}"] if ids else [], received)
        return _Rows(table, received, items, f"{table.key.target_value} = ANY({array(on_target, table.key.type)})")

    def _write(self, every: list[_Rows]) -> list[Applied]:
        # A unique value may move from a deleted row to a new one, so the second order may do what the first cannot.
        failure: psycopg.Error | None = None
        for deletes_first in (False, True):
            try:
                with self.follower.driver.transaction():
                    return self._write_in_order(every, deletes_first=deletes_first)
            except (psycopg.errors.UniqueViolation, psycopg.errors.ForeignKeyViolation) as error:
                failure = error
        constraint = failure.diag.constraint_name if failure else None
        tables = [rows.table.name for rows in every]
        raise WholeComparisonNeeded(tables, f"the rows violate {constraint} in any order") from failure

    def _write_in_order(self, every: list[_Rows], *, deletes_first: bool) -> list[Applied]:
        target = self.follower
        target.execute("SET CONSTRAINTS ALL DEFERRED")
        found_keys = own_keys(target, phases().keys() - self._tables)
        written: dict[str, int] = {}
        deleted: dict[str, int] = {}
        if deletes_first:
            deleted = self._delete(every)
        for rows in every:
            with _unless_in_another_order(rows.table.name):
                differing = differing_rows(rows.table, rows.received)
                refuse_reaching_changes(target, rows.table, found_keys, [rows.gone], differing)
                update = update_statement(rows.table, rows.received)
                written[rows.table.name] = (target.execute(update) if update else 0) + target.execute(
                    insert_statement(rows.table, rows.received)
                )
        if not deletes_first:
            deleted = self._delete(every)
        target.execute("SET CONSTRAINTS ALL IMMEDIATE")
        applied = [Applied(name, deleted[name], written[name]) for name in written]
        return [found for found in applied if found.deleted or found.written]

    def _delete(self, every: list[_Rows]) -> dict[str, int]:
        """Delete the rows that are gone, children first."""
        # As constants, because the planner expects a single row of such a condition, and would look for it again and
        # again.
        gone = {rows.table.name: self._among_gone(rows) for rows in every}
        for rows in every:
            self._refuse_reaching(rows.table, gone)
        deleted = dict.fromkeys(gone, 0)
        for rows in reversed(every):
            name = rows.table.name
            if among := gone[name]:
                with _unless_in_another_order(name):
                    statement = f"DELETE FROM {rows.table.target_sql} WHERE {rows.table.key.target_value} = {among}"
                    deleted[name] = self.follower.execute(statement)
        return deleted

    def _among_gone(self, rows: _Rows) -> str:
        """Return `ANY` of the ids that are gone; empty if there are none."""
        found = self.follower.rows(f"SELECT {rows.table.target_id} FROM {rows.table.target_sql} WHERE {rows.gone}")
        ids = array(array_items([key for (key,) in found]), rows.table.key.type)
        return f"ANY({ids})" if found else ""

    def _refuse_reaching(self, parent: TableMap, gone: Keys[str, str]) -> None:
        """Refuse deletes that would reach rows of other tables: at the source, which may lack the key, they stay."""
        if not gone[parent.name]:
            return
        for child in self.maps.values():
            among = gone.get(child.name)
            others = f"t.{quoted(child.key.name)} <> ALL{among.removeprefix('ANY')}" if among else "true"
            for key in child.table.foreign_keys:
                if key.column.table.name != parent.name:
                    continue
                parents = f"SELECT t.{quoted(key.column.name)} FROM {parent.target_sql}"
                [reached] = self.follower.row(
                    f"SELECT EXISTS (SELECT FROM {child.target_sql} WHERE t.{quoted(key.parent.name)} = ANY(ARRAY("
                    f"{parents} WHERE {parent.key.target_value} = {gone[parent.name]})) AND {others})"
                )
                if reached:
                    reason = f"rows of {child.name} still refer to rows of {parent.name} that are gone"
                    raise WholeComparisonNeeded([parent.name, child.name], reason)

    # The proof

    def _prove(self, rows: _Rows) -> None:
        """Compare the rows with the source, the transaction still being open."""
        part = Part(f" WHERE {rows.table.among(rows.items)}", f" WHERE {rows.on_target}")
        source, target = self._digests(rows.table).of_part(part)
        if source != target:
            raise WholeComparisonNeeded([rows.table.name], "the target changes rows as they are written")

    def _fingerprint(self, rows: _Rows) -> Fingerprint:
        digest = fingerprint_digest(self.follower, rows.table.name)
        count, found = self.follower.row(
            f"SELECT count(*), {digest} FROM {rows.table.target_sql} WHERE {rows.on_target}"
        )
        return Fingerprint(count, int(found))

    def _digests(self, table: TableMap) -> TableDigests:
        return TableDigests(self.connections, table, self.hash_function)

    # Whole tables

    def _differing(self, names: Sequence[str]) -> dict[str, set[str]]:
        """Return the ids of rows that differ. Raises `WholeComparisonNeeded` if only a copy can decide about them."""
        record, identity = Record(self.follower), self._identity
        if self.home.rest:
            raise WholeComparisonNeeded(names, "a source over REST is proven by a second reading")
        known = record.tables()
        excluded = {exclusion.table for exclusion in record.exclusions(identity)}
        doubts = Doubts(self.connections, self.maps, identity, self._choices())
        keys: dict[str, set[str]] = {}
        for name in names:
            table, last = self.maps[name], known.get(name)
            key = table.key.source
            if name in excluded or key is None or not (table.key.alike and key.not_null and key.unique):
                raise WholeComparisonNeeded([name], "rows are excluded, or have no ids that both databases share")
            doubts.refuse_unknown_values(table)
            digests = self._digests(table)
            source, target, found = digests.whole_with_fingerprint()
            if last is None or (last.source_identity, last.fingerprint) != (identity, found):
                raise WholeComparisonNeeded([name], "it was not copied yet, or was changed since")
            if source == target:
                continue
            if max(source[0], target[0]) > MOST_KEYS and not table.counted_key:
                raise WholeComparisonNeeded([name], "its rows cannot be narrowed down")
            ids = keys.setdefault(name, set())
            for part in digests.differing_parts(FEW_BITS):
                here, there = map(set[Any], digests.row_hashes(part))
                ids.update(key for key, _ in here ^ there)
                if len(ids) > MOST_KEYS:
                    raise WholeComparisonNeeded([name], f"more than {MOST_KEYS:,} rows differ")
        return keys

    def _choices(self) -> Choices:
        options = Record(self.follower).last_options() or {}
        return Choices(**{choice.name: options.get(choice.name) for choice in fields(Choices)})


@contextlib.contextmanager
def _unless_in_another_order(table: str) -> Generator[None]:
    """Put what the target refuses into words, except for what another order of the statements may avoid."""
    try:
        with refusals_in_words(table):
            yield
    except Exception as error:
        if isinstance(error.__cause__, psycopg.errors.UniqueViolation | psycopg.errors.ForeignKeyViolation):
            raise error.__cause__ from None
        raise


def _fits(key: str, kind: str) -> bool:
    """Return whether a value of this type can have this text."""
    return kind not in LARGEST_IDS or -LARGEST_IDS[kind] - 1 <= int(key) <= LARGEST_IDS[kind]
