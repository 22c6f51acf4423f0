"""Following: changes of the home are carried over batch by batch, until a person or a condition ends it.

A batch takes a moment of the home and reads which rows the slot names. Those of transactions that this moment sees are
read afresh at this moment and written to the follower, which commits; only then is the slot moved. So the follower
equals the home at that moment for every row, and a process that is killed at any time has lost nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

from tatame_db.database.dialect import literal
from tatame_db.errors import TatameError, fact
from tatame_db.evolve.lock import ignore
from tatame_db.move.flow import WholeComparisonNeeded
from tatame_db.move.follow.changed import Changed, Collector, Moment
from tatame_db.move.follow.errors import SlotLost, SlotRefused
from tatame_db.move.follow.publication import (
    Coverage,
    PublicationChanged,
    coverage,
    is_intact,
    lists,
    publish,
    table_states,
    unpublish,
)
from tatame_db.move.follow.slot import Slot

if TYPE_CHECKING:
    from collections.abc import Collection

    from tatame_db.move.choices import Exclusion
    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.flow import Applied, Flow
    from tatame_db.move.follow.publication import TableState
    from tatame_db.move.follow.slot import SlotState

OpenFlow = Callable[[], AbstractContextManager["Flow"]]
OpenHome = Callable[[], AbstractContextManager["MoveConnection"]]

PAUSE_SECONDS = 0.2
# Whole comparisons take a third of the time at most.
_PAUSE_FACTOR, _LEAST_PAUSE_SECONDS = 2, 1.0
WAL_BYTES_AT_MOST = 2 << 30


@fact
class SlotTooLarge(TatameError):
    """The server kept more WAL for the slot than was allowed."""

    name: str
    held: int
    allowed: int
    what = "the slot {name} held {held:,} bytes of WAL, and {allowed:,} are allowed, so it was dropped"
    means = "The server can remove that WAL now. The tables are compared whole instead, again and again."
    fix = "end the transaction that holds the WAL (`pg_stat_activity`), then run the command again"


@dataclass(frozen=True)
class Lag:
    """How far the follower is behind its home after a batch."""

    rows: int | None
    """Changes of rows that are committed and not applied; `None` without a slot."""
    seconds: float
    """The age of the oldest commit that is not applied, 0 if none; without a slot, of the last comparison's moment."""
    wal_bytes: int | None
    """The WAL that the server of the home keeps for the slot; `None` without one."""
    applied: list[Applied]
    """What this batch wrote."""
    compared: dict[str, str]
    """Tables that are only compared whole now and then, each with the reason."""
    compared_seconds: float | None = None
    """The time since their last comparison began."""
    reason: str | None = None
    """Why there is no slot."""
    not_returned: list[Exclusion] = field(default_factory=list["Exclusion"])
    """On the way back, what stays on the target by choice so far."""


@dataclass(frozen=True)
class FollowOptions:
    """When to end, and what to keep. `once` ends with what was committed at its begin.

    `until_equal` ends when all digests are equal; without either, only `stop` ends it.
    """

    once: bool = False
    until_equal: bool = False
    keep_slot: bool = False
    wal_bytes_at_most: int = WAL_BYTES_AT_MOST
    stop: Event = field(default_factory=Event)


def follow(
    open_flow: OpenFlow,
    open_home: OpenHome | None,
    name: str,
    options: FollowOptions | None = None,
    on_lag: Callable[[Lag], None] = ignore,
) -> None:
    """Carry changes of a home over to its follower; `name` is that of slot and publication, from `slot_name`.

    The flow is opened for each batch, so that its lock on schema changes is free in between. `open_home` opens the
    home outside of a transaction, for the slot; `None` if a home has none, such as a source over REST. At the end, also
    by Ctrl-C, slot and publication are dropped unless they are to be kept; after an error they stay, and the next run
    continues. Each run begins with a whole comparison.

    Raises `SlotInUse`, `SlotMissing`, `SlotBlocked`, `SlotForeign`, `PublicationChanged`, `PublicationBlocked`,
    `MessageUnknown`, `ConnectionLost`, and what the flow raises.
    """
    options = options or FollowOptions()
    if open_home is None:
        _compare_repeatedly(open_flow, options, on_lag, "the home is read without a connection to its server")
        return
    try:
        with open_home() as home:
            home.driver.autocommit = True
            reason = Following(open_flow, Slot(home, name), options, on_lag).run()
        if reason:
            _compare_repeatedly(open_flow, options, on_lag, reason)
    except KeyboardInterrupt:
        # The connection may be in the middle of an answer.
        if not options.keep_slot:
            with open_home() as home:
                home.driver.autocommit = True
                _remove(Slot(home, name))
        raise


def _remove(slot: Slot) -> None:
    slot.drop()
    unpublish(slot.connection, slot.name)


class Following:
    """A run with a slot."""

    def __init__(self, open_flow: OpenFlow, slot: Slot, options: FollowOptions, on_lag: Callable[[Lag], None]) -> None:
        self.open_flow, self.slot, self.options, self.on_lag = open_flow, slot, options, on_lag
        self.coverage: Coverage | None = None
        self.states: dict[str, TableState] = {}
        # The position up to which the follower has everything, and when the last whole comparison began and ended.
        self.position = 0
        self.compared_at = self.compared_until = 0.0
        # Whether the home was written to since.
        self.owes_comparison = False

    def run(self) -> str | None:
        """Follow until the end; return why it cannot go on with a slot, if it cannot."""
        slot, options = self.slot, self.options
        slot.connection.execute(f"SET application_name = {literal(slot.name)}")
        try:
            goal = slot.position() if options.once else None
            while True:
                if not self._batch_if_due(goal):
                    break
                options.stop.wait(PAUSE_SECONDS)
        except (SlotRefused, SlotLost, SlotTooLarge) as error:
            _remove(slot)
            return error.what
        if not options.keep_slot:
            _remove(slot)
        return None

    def _batch_if_due(self, goal: int | None) -> bool:
        """Run a batch if anything may have changed; return whether to go on."""
        if self.options.stop.is_set():
            return False
        is_idle = self.coverage and self.slot.position() == self.position
        if is_idle and not (self.options.until_equal or (self.owes_comparison and self._comparison_is_due())):
            return True
        self._refuse_too_much_wal()
        with self.open_flow() as flow:
            flow.begin()
            if not flow.tables:
                # A switch has moved the last of them meanwhile.
                return False
            lag, is_complete = self.batch(flow)
            self.on_lag(lag)
            if self.options.until_equal and is_complete:
                # At the same moment, so that changes since do not matter.
                return bool(flow.compare_whole(flow.tables))
        return goal is None or self.position < goal

    def _refuse_too_much_wal(self) -> SlotState | None:
        state, allowed = self.slot.state(), self.options.wal_bytes_at_most
        if state and state.wal_status == "lost":
            raise SlotLost(name=self.slot.name)
        if state and state.wal_bytes > allowed:
            raise SlotTooLarge(name=self.slot.name, held=state.wal_bytes, allowed=allowed)
        return state

    def batch(self, flow: Flow) -> tuple[Lag, bool]:
        """Make the follower equal to the home at the moment of the flow; return whether that sees every commit."""
        states = table_states(flow.home, flow.tables)
        version = flow.home.driver.info.server_version
        found = coverage(flow.tables, states, flow.home_keys, version)
        applied: list[Applied] = []
        # A table that is dropped leaves the publication, and another one of its name is not in it.
        replaced = any(name in self.states and state.oid != self.states[name].oid for name, state in states.items())
        if found != self.coverage or replaced:
            self._prepare(flow, found)
            states = table_states(flow.home, flow.tables)
        elif not is_intact(flow.home, self.slot.name):
            raise PublicationChanged(name=self.slot.name)
        elif not lists(flow.home, self.slot.name, found.published):
            # A switch of some tables that failed has left its own.
            self._prepare(flow, found)
            states = table_states(flow.home, flow.tables)
        reshaped = {name for name, state in states.items() if state != self.states.get(name)}
        moment, position = Moment.of(flow.home), self.slot.flushed()
        keys = {name: key for name, key in flow.home_keys.items() if name in found.published}
        changed = Collector(keys, moment).collect(self.slot.peek(self.slot.name))
        applied += self._apply(flow, changed, reshaped)
        self.states = states
        end = position if changed.is_complete else changed.end
        if end is not None:
            self.slot.advance(end, self.slot.name)
        self.position = position if changed.is_complete else end or self.position
        return self._lag(changed, applied), changed.is_complete

    def _prepare(self, flow: Flow, found: Coverage) -> None:
        """Create publication and slot where they are not what this run needs; take a moment after both.

        A transaction that runs while a publication changes may be delivered with some of its changes missing, and only
        a new slot waits for the end of all transactions.
        """
        slot = self.slot
        exists = slot.exists()
        is_kept = publish(slot.connection, slot.name, found.published)
        if exists and not is_kept:
            slot.drop()
        if not (exists and is_kept):
            slot.create()
        self.coverage, self.states = found, {}
        flow.begin()

    def _apply(self, flow: Flow, changed: Changed, reshaped: Collection[str]) -> list[Applied]:
        # A table of which any row may have changed is compared with the others, whose rows may refer to it.
        if changed.whole or reshaped:
            return self._compare(flow, flow.tables)
        applied: list[Applied] = []
        if changed.keys:
            try:
                applied = flow.apply(changed.keys)
                flow.follower.commit()
            except WholeComparisonNeeded:
                return self._compare(flow, flow.tables)
        compared = self.coverage.compared if self.coverage else {}
        self.owes_comparison = bool(compared)
        if compared and (self._comparison_is_due() or self.options.once):
            applied += self._compare(flow, compared)
        return applied

    def _comparison_is_due(self) -> bool:
        pause = max(_LEAST_PAUSE_SECONDS, _PAUSE_FACTOR * (self.compared_until - self.compared_at))
        return time.monotonic() > self.compared_until + pause

    def _compare(self, flow: Flow, tables: Collection[str]) -> list[Applied]:
        self.compared_at = time.monotonic()
        applied = flow.compare_whole(list(tables))
        self.compared_until, self.owes_comparison = time.monotonic(), False
        return applied

    def _lag(self, changed: Changed, applied: list[Applied]) -> Lag:
        state = self.slot.state()
        compared = self.coverage.compared if self.coverage else {}
        return Lag(
            rows=changed.pending_rows,
            seconds=self.slot.age(changed.pending_since) if changed.pending_since else 0,
            wal_bytes=state.wal_bytes if state else None,
            applied=applied,
            compared=compared,
            compared_seconds=time.monotonic() - self.compared_at if compared else None,
        )


def _compare_repeatedly(
    open_flow: OpenFlow, options: FollowOptions, on_lag: Callable[[Lag], None], reason: str
) -> None:
    """Follow without a slot, by one whole comparison after the other."""
    while not options.stop.is_set():
        started = time.monotonic()
        with open_flow() as flow:
            moment = time.monotonic()
            flow.begin()
            if not flow.tables:
                return
            applied = flow.compare_whole(flow.tables)
            seconds = time.monotonic() - moment
            compared = dict.fromkeys(flow.tables, "there is no slot")
        on_lag(Lag(None, seconds, None, applied, compared, seconds, reason))
        if options.once or (options.until_equal and not applied):
            return
        options.stop.wait(max(_LEAST_PAUSE_SECONDS, _PAUSE_FACTOR * (time.monotonic() - started)))
