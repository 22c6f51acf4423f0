"""The switch of homes: writers are stopped, the last changes carried over, everything compared, and the home changed.

The order of gh-ost and Vitess, with a proof in the middle: the old home refuses writers from its commit on, and the new
one lets them in with the next commit. Until the first of these, a rollback leaves everything as it was, and the server
makes it if this process is killed. Between the two, neither takes writes: the same command ends what it began.
"""

from __future__ import annotations

import contextlib
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import psycopg

from tatame_db.errors import TatameError
from tatame_db.evolve.lock import ignore
from tatame_db.move.back.errors import RowsNotReturnable
from tatame_db.move.back.flow import BackFlow, back_obstacles
from tatame_db.move.connection import ConnectionLost, StatementCanceled
from tatame_db.move.follow.errors import SlotLost, SlotRefused
from tatame_db.move.follow.loop import Following, FollowOptions
from tatame_db.move.follow.publication import coverage, publish, table_states, unpublish
from tatame_db.move.keys import refuse_disabled_keys, unvalidated_keys
from tatame_db.move.missing import missing_keys_and_indexes
from tatame_db.move.open import open_second_session, open_source_for_writing
from tatame_db.move.progress import recording_switch
from tatame_db.move.record import Record, identity_of
from tatame_db.move.switch.errors import (
    ChangesPending,
    KeysMissing,
    NothingToSwitch,
    NotOpened,
    OutcomeNotKnown,
    PauseTooLong,
    SwitchDiffers,
)
from tatame_db.move.switch.fence import closed_tables, closing, open_, refuse_placed, refuse_unfenceable
from tatame_db.move.switch.homes import BothHomesOpen, Home, homes
from tatame_db.move.switch.steps import Step, SwitchedTable, SwitchReport
from tatame_db.move.switch.way import Way, open_way
from tatame_db.schema import phases

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import URL, Engine

    from tatame_db.move.choices import Choices
    from tatame_db.move.digest import Digest
    from tatame_db.move.fingerprint import Fingerprint
    from tatame_db.move.follow.slot import Slot

PAUSE_AT_MOST_SECONDS = 30.0
# With a follower that is up to date, each takes moments.
_DRAINS, _DRAIN_PAUSE_SECONDS = 50, 0.1


def switch(
    source: URL,
    target: Engine,
    tables: Sequence[str] = (),
    *,
    to: Home = Home.TARGET,
    choices: Choices | None = None,
    pause_at_most_seconds: float = PAUSE_AT_MOST_SECONDS,
    on_step: Callable[[Step], None] = ignore,
    on_retry: Callable[[float, list[str]], None] = ignore,
    on_wait: Callable[[], None] = ignore,
    dry_run: bool = False,
) -> SwitchReport:
    """Move the home of these tables, or of all, to the target or back to the source: all of them or none.

        >>> move.switch(source, engine, ["users"]).pause_seconds
        1.4

    Writers of the old home wait for the pause, and are refused afterwards. `choices` are those of the way back: what
    to do with values that the source cannot hold. Commits in both databases: the follower is brought up to date and
    stays closed to others; slot and publication of the way back are created. `on_step` is called with each step as it
    begins, `on_retry` as `closing` calls it, `on_wait` once if another process holds the lock on schema changes. With
    `dry_run`, nothing is written, no writer waits, and the digests in the report may differ.

    Tables that have moved and whose triggers on the source are gone or disabled get them again.

    Raises `TableUnknown`, `NothingToSwitch`, `BothHomesOpen`, `ObjectsRefused`, `KeysMissing`, `WritersNotStopped`,
    `TablesNotFenceable`, `FenceForbidden`, `ChangesPending`, `SwitchDiffers`, `PauseTooLong`, `TrialInsertFailed`,
    `RowsNotReturnable`, `LeftRowsReferenced`, `OutcomeNotKnown`, `NotOpened`, `IdsExhausted`, `ConnectionLost`, and
    what `copy` and `homes` raise.
    """
    with open_way(source, target, to, tables, choices=choices, on_wait=on_wait, dry_run=dry_run) as way:
        if dry_run:
            return _Switch(way, source, pause_at_most_seconds, on_step, on_retry).estimate()
        with recording_switch(target, to, tables) as record:

            def on_each_step(step: Step) -> None:
                record.begin_step(step)
                on_step(step)

            report = _Switch(way, source, pause_at_most_seconds, on_each_step, on_retry).run()
            record.end(report)
            return report


@dataclass
class _Switch:
    """One run, and what it has to undo if it fails."""

    way: Way
    source: URL
    allowed: float
    on_step: Callable[[Step], None]
    on_retry: Callable[[float, list[str]], None]
    step: Step = Step.CHECK
    paused_at: float = 0.0
    recorded: int = 0
    """The number of the run in the record of the target."""
    has_new_slot: bool = False
    """Whether this run has created the slot of the way back, and none was there before."""
    had_old_slot: bool = True
    no_slot_because: str | None = None
    following: Following | None = None
    tables: list[str] = field(default_factory=list[str])
    moved_before: list[str] = field(default_factory=list[str])
    """The tables whose home was the new one already."""
    closed_again: list[str] = field(default_factory=list[str])
    """Tables that had moved, and that the source took writes to until this run."""
    is_interrupted: bool = False
    """Whether Ctrl-C came too late to undo it."""

    def run(self) -> SwitchReport:
        way = self.way
        self._begin(Step.CHECK)
        self._check()
        if not self.tables:
            return self._report({}, 0.0)
        try:
            self._begin(Step.CATCH_UP)
            self._catch_up()
            self._begin(Step.RETURN)
            self._prepare_return()
            self._begin(Step.CLOSE)
            self._close()
            self._begin(Step.DRAIN)
            self._drain()
            self._begin(Step.PROVE)
            proof = self._prove()
            self._begin(Step.NUMBER)
            way.set_sequences(self.tables)
            self._begin(Step.TRY)
            way.try_inserts(self.tables)
            self._begin(Step.RECORD)
            self._record(proof)
            self._begin(Step.COMMIT)
            self._open_and_close()
        except (OutcomeNotKnown, NotOpened):
            raise
        except BaseException as error:
            self._undo(error)
            if isinstance(error, ConnectionLost | StatementCanceled | psycopg.OperationalError) and self._is_late:
                raise PauseTooLong(allowed=self.allowed, step=self.step.value) from error
            raise
        pause, self.paused_at = time.monotonic() - self.paused_at, 0.0
        try:
            self._begin(Step.CLEAN)
            left = self._clean()
        except KeyboardInterrupt:
            # The homes are changed, and whoever reads that everything was undone would leave the app where it is.
            self.is_interrupted = True
            left = [f"the slot {way.old_slot.name}, because of an interrupt"]
        report = self._report(proof, pause, left)
        # The homes are changed, whether this can be stored or not.
        with contextlib.suppress(psycopg.Error, TatameError):
            Record(way.target).end_run(self.recorded, "proven", report=asdict(report))
            way.target.commit()
        return report

    def _report(
        self, proof: dict[str, tuple[Digest, Digest, Fingerprint]], pause: float, left: Sequence[str] = ()
    ) -> SwitchReport:
        way = self.way
        return SwitchReport(
            home=way.new_home,
            tables=[SwitchedTable(name, *_facts(proof[name])) for name in self.tables],
            pause_seconds=pause,
            hash=way.flow.hash_function.name,
            slot=None if self.no_slot_because else way.new_slot.name,
            no_slot_because=self.no_slot_because,
            left=list(left),
            not_returned=way.not_returned(self.tables),
            closed_again=self.closed_again,
            is_interrupted=self.is_interrupted,
        )

    def estimate(self) -> SwitchReport:
        """Check what can be checked while writers go on, and measure how long all rows take to compare."""
        way, flow = self.way, self.way.flow
        self._begin(Step.CHECK)
        self._check()
        refuse_unfenceable(way.closing, self.tables)
        flow.begin()
        if isinstance(flow, BackFlow):
            obstacles, _ = back_obstacles(flow)
            unresolved = {
                name: rest for name, its in obstacles.items() if (rest := [one for one in its if one.chosen is None])
            }
            if unresolved:
                raise RowsNotReturnable(obstacles=unresolved)
            # A comparison leaves out what a switch would leave.
            flow.left = flow.tried
            way.refuse_references(self.tables, self._staying)
        else:
            flow.refuse_obstacles()
        self._begin(Step.PROVE)
        started = time.monotonic()
        proof = flow.prove(self.tables)
        seconds = time.monotonic() - started
        for connection in (way.closing, way.opening):
            connection.driver.rollback()
        tables = [SwitchedTable(name, *_facts(proof[name])) for name in self.tables]
        return SwitchReport(
            way.new_home,
            tables,
            seconds,
            flow.hash_function.name,
            None,
            None,
            [],
            way.not_returned(self.tables),
            is_dry_run=True,
        )

    def _begin(self, step: Step) -> None:
        self.step = step
        self.on_step(step)
        if self.paused_at and self._is_late:
            raise PauseTooLong(allowed=self.allowed, step=step.value)

    @property
    def _is_late(self) -> bool:
        return bool(self.paused_at) and time.monotonic() - self.paused_at > self.allowed

    # Before the pause

    def _check(self) -> None:
        way = self.way
        both = way.both
        refuse_placed(both.target)
        both.source.driver.rollback()
        both.source.pin_settings(for_transaction=True)
        found = self._homes()
        both.source.driver.rollback()
        way.flow.begin()
        self.tables = [name for name in way.flow.tables if found[name] is not way.new_home]
        self.moved_before = [name for name, home in found.items() if home is way.new_home]
        if not self.tables and not self.closed_again:
            named = [name for name in self.moved_before if name in way.names or not way.names]
            raise NothingToSwitch(tables=named, home=way.new_home)
        way.refuse_exhausted(self.tables)
        if way.new_home is Home.TARGET:
            self._refuse_incomplete_target()

    def _refuse_incomplete_target(self) -> None:
        target = self.way.target
        refuse_disabled_keys(target, parked := Record(target).parked())
        missing = [f"{key.table}.{key.name} is missing" for key in missing_keys_and_indexes(target)]
        missing += [f"{table}.{key} is not validated" for table, key in unvalidated_keys(target)]
        if parked or missing:
            names = [*(f"{name} is dropped for a copy" for name in parked), *missing]
            raise KeysMissing(names=names, moved=self.moved_before)
        target.driver.rollback()

    def _homes(self) -> dict[str, Home]:
        """Return the homes; close the source again for tables that have moved and that it takes writes to."""
        way = self.way
        try:
            return homes(way.both)
        except BothHomesOpen as error:
            if way.new_home is not Home.TARGET or way.is_dry_run:
                raise
            self.closed_again = error.tables
        for connection in (way.both.source, way.both.target):
            connection.driver.rollback()
        closing(way.closing, self.closed_again, way.token_hash, pause_at_most_seconds=self.allowed)
        way.closing.commit()
        way.both.source.pin_settings(for_transaction=True)
        return homes(way.both)

    def _catch_up(self) -> None:
        way = self.way
        way.create_record()
        self.had_old_slot = way.old_slot.exists()
        following = Following(lambda: nullcontext(way.flow), way.old_slot, FollowOptions(), ignore)
        try:
            way.flow.begin()
            following.batch(way.flow)
            self.following = following
            # The first one compares everything, and changes pile up meanwhile.
            way.flow.begin()
            following.batch(way.flow)
        except (SlotRefused, SlotLost):
            way.flow.begin()
            way.flow.compare_whole(self.tables)
        way.mark_returned()
        way.target.commit()
        way.refuse_references(self.tables, self._staying)

    @property
    def _staying(self) -> set[str]:
        """The tables that stay at the old home."""
        return set(phases()) - set(self.tables) - set(self.moved_before)

    def _prepare_return(self) -> None:
        """Create publication and slot on the new home, so that they hold whatever is written there."""
        way, slot = self.way, self.way.new_slot
        moved = [name for name in phases() if name in self.tables or name in self.moved_before]
        states = table_states(slot.connection, moved)
        version = slot.connection.driver.info.server_version
        found = coverage(moved, states, way.keys_of_new_home(), version)
        try:
            is_kept = publish(slot.connection, slot.name, found.published)
            exists = slot.exists()
            if exists and not is_kept:
                slot.drop()
            if not (exists and is_kept):
                slot.create()
                # One that was there before stays if this fails: a process may follow by it, and notices the new one.
                self.has_new_slot = not exists
        except TatameError as error:
            self.no_slot_because = error.what

    # The pause

    def _close(self) -> None:
        way = self.way
        self.paused_at = time.monotonic()

        def retry(pause: float, blocking: list[str]) -> None:
            self.on_retry(pause, blocking)
            # Writers go on until the next attempt.
            self.paused_at = time.monotonic() + pause

        closing(way.closing, self.tables, way.token_hash, pause_at_most_seconds=self.allowed, on_retry=retry)

    def _drain(self) -> None:
        flow = self.way.flow
        for _ in range(_DRAINS):
            flow.begin()
            if self.following is None:
                flow.compare_whole(self.tables)
                return
            _, is_complete = self.following.batch(flow)
            if is_complete:
                return
            time.sleep(_DRAIN_PAUSE_SECONDS)
        raise ChangesPending(attempts=_DRAINS)

    def _prove(self) -> dict[str, tuple[Digest, Digest, Fingerprint]]:
        proof = self.way.flow.prove(self.tables)
        if differing := [name for name, (source, target, _) in proof.items() if source != target]:
            raise SwitchDiffers(tables=differing)
        return proof

    def _record(self, proof: dict[str, tuple[Digest, Digest, Fingerprint]]) -> None:
        """Store the proof; on the way back with what stays on the target, in the transaction that closes it."""
        way = self.way
        record, both = Record(way.target), way.flow.connections
        last = record.last_options() or {}
        self.recorded = record.begin_run(
            source=both.source.readable,
            identity=identity_of(both.source),
            source_version=both.source.version,
            target_version=both.target.version,
            options={**last, "tables": last.get("tables", list(phases())), "home": way.new_home, "moved": self.tables},
        )
        for name, (_, _, fingerprint) in proof.items():
            record.save_table(
                name,
                run=self.recorded,
                identity=identity_of(both.source),
                fingerprint=fingerprint,
                copied=False,
                proven=True,
            )
        if isinstance(way.flow, BackFlow):
            way.refuse_references(self.tables, self._staying)
            way.mark_returned()
            way.flow.store_left(way.target, self.recorded, self.tables)
        else:
            way.target.commit()

    def _open_and_close(self) -> None:
        way = self.way
        if way.opening.name == "source":
            way.opening.driver.rollback()
            way.opening.pin_settings(for_transaction=True)
        open_(way.opening, self.tables, way.token_hash)
        if self._is_late:
            raise PauseTooLong(allowed=self.allowed, step=self.step.value)
        is_closed = False
        try:
            self._commit_old_home()
            is_closed = True
            # From here on there is no way back: a late end is no failure.
            self.step = Step.OPEN
            self.on_step(Step.OPEN)
            way.opening.commit()
        except psycopg.OperationalError as error:
            if not is_closed:
                raise
            raise NotOpened(tables=self.tables, home=way.new_home, reason=str(error).splitlines()[0]) from error
        except KeyboardInterrupt:
            if not is_closed:
                raise
            # Too late to go back.
            self.is_interrupted = True
            way.opening.commit()

    def _commit_old_home(self) -> None:
        closing_session = self.way.closing
        try:
            closing_session.commit()
        except (psycopg.OperationalError, KeyboardInterrupt) as error:
            # The server may have done it before its answer was lost, or not waited for.
            try:
                is_closed = self._is_old_home_closed()
            except (psycopg.Error, TatameError) as unreachable:
                raise OutcomeNotKnown(
                    home=Home(closing_session.name), tables=self.tables, reason=str(unreachable).splitlines()[0]
                ) from error
            if not is_closed:
                raise
            self.is_interrupted = isinstance(error, KeyboardInterrupt)

    def _is_old_home_closed(self) -> bool:
        old = self.way.closing
        opened = open_source_for_writing(self.source) if old.name == "source" else open_second_session(old)
        with opened as again:
            return set(self.tables) <= closed_tables(again)

    # Afterwards

    def _undo(self, error: BaseException) -> None:
        """Let the writers of the old home go on, and remove what this run has created."""
        way = self.way
        for connection in (way.closing, way.opening):
            if not connection.driver.closed:
                with contextlib.suppress(psycopg.Error):
                    connection.driver.rollback()
        if self.has_new_slot:
            _remove(way.new_slot)
        if not self.had_old_slot:
            # It would hold WAL that nothing reads.
            _remove(way.old_slot)
        if self.recorded and way.new_home is Home.TARGET:
            summary = error.what if isinstance(error, TatameError) else type(error).__name__
            with contextlib.suppress(psycopg.Error, TatameError):
                Record(way.target).end_run(self.recorded, "failed", error=summary)
                way.target.commit()

    def _clean(self) -> list[str]:
        """Drop the slot of the old home, unless it was there before for tables that stay."""
        way = self.way
        if self.following is None or (self.had_old_slot and self._staying):
            return []
        return _remove(way.old_slot)


def _remove(slot: Slot) -> list[str]:
    """Drop a slot and its publication; return what could not be removed."""
    try:
        slot.drop()
        unpublish(slot.connection, slot.name)
    except (psycopg.Error, TatameError) as error:
        return [f"the slot {slot.name}: {str(error).splitlines()[0]}"]
    return []


def _facts(proof: tuple[Digest, Digest, Fingerprint]) -> tuple[int, str, str]:
    (rows, source), (_, target), _ = proof
    return rows, source, target
