"""The sessions of a switch in one direction, and the few things that differ between the two."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.move.back.flow import BackFlow
from tatame_db.move.back.left import summary
from tatame_db.move.back.references import refuse_references
from tatame_db.move.connection import Connections, MoveConnection
from tatame_db.move.follow.apply import ForwardFlow
from tatame_db.move.follow.slot import Slot, slot_name
from tatame_db.move.mapping import refuse_unknown
from tatame_db.move.open import (
    open_both_for_writing,
    open_for_writing,
    open_second_session,
    open_source_for_writing,
    open_target,
)
from tatame_db.move.ready import prove_ready
from tatame_db.move.record import Record, identity_of
from tatame_db.move.sequences import advance_sequence, highest_ids, highest_of_target
from tatame_db.move.switch.homes import Home
from tatame_db.move.switch.token import make_token, token_hash, token_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Sequence

    from sqlalchemy import URL, Engine

    from tatame_db.move.choices import Choices, Exclusion


@dataclass(frozen=True)
class Way:
    """A direction. Rows take it by `flow`, from the old home to the new one.

    The transaction of `closing` keeps the writers of the old home out, that of `opening` lets those of the new one in.
    The sessions of the slots are in autocommit mode.
    """

    new_home: Home
    names: Sequence[str]
    """The tables that were named; none for all."""
    flow: ForwardFlow | BackFlow
    closing: MoveConnection
    opening: MoveConnection
    target: MoveConnection
    token: str
    old_slot: Slot
    new_slot: Slot
    is_dry_run: bool

    @property
    def both(self) -> Connections:
        """The sessions that write, by database."""
        pair = {self.closing.name: self.closing, self.opening.name: self.opening}
        return Connections(pair["source"], pair["target"])

    @property
    def token_hash(self) -> str:
        """The hash in the triggers."""
        return token_hash(self.token)

    def keys_of_new_home(self) -> dict[str, str]:
        """Return the column of the new home by which rows of each table are found; without tables that have none."""
        keys = {name: table.key for name, table in self.flow.maps.items()}
        if self.new_home is Home.TARGET:
            return {name: key.name for name, key in keys.items() if key.alike}
        return {name: key.source.name for name, key in keys.items() if key.source and key.alike}

    def refuse_exhausted(self, tables: Sequence[str]) -> None:
        """Raise `IdsExhausted` if the new home could hand out no id that the old one has not."""
        if isinstance(self.flow, BackFlow):
            for name in tables:
                highest_of_target(self.flow.home, self.flow.maps[name])
        else:
            highest_ids(self.flow.home, self.flow.mapping)

    def create_record(self) -> None:
        """Create what an older version's record lacks; a switch to the target writes nothing new there."""
        if isinstance(self.flow, BackFlow):
            # Its transaction may have locked what this changes.
            self.flow.home.driver.rollback()
            Record(self.target).create()
            self.target.commit()

    def mark_returned(self) -> None:
        """Store that what was not returned earlier was written meanwhile; the caller commits."""
        if isinstance(self.flow, BackFlow):
            self.flow.mark_returned(self.target)

    def refuse_references(self, tables: Collection[str], staying: Collection[str]) -> None:
        """Raise `LeftRowsReferenced` if a row that the new home does not get is needed at the old one."""
        if isinstance(self.flow, BackFlow):
            refuse_references(self.flow, tables, staying)

    def not_returned(self, tables: Collection[str]) -> list[Exclusion]:
        """Count what of these tables stays on the target by choice."""
        left = summary(self.flow.left) if isinstance(self.flow, BackFlow) else []
        return [found for found in left if found.table in tables]

    def set_sequences(self, tables: Sequence[str]) -> None:
        """Let the new home hand out only ids that the old one has not. Raises `IdsExhausted`."""
        if isinstance(self.flow, BackFlow):
            self.flow.advance_sequences()
            self.flow.follower.commit()
            return
        highest = highest_ids(self.flow.home, self.flow.mapping)
        for name in tables:
            advance_sequence(self.target, self.flow.maps[name].table, highest[name])
        self.target.commit()

    def try_inserts(self, tables: Sequence[str]) -> None:
        """Insert a row into each table of the target and roll it back; a source has no models that say what to insert.

        Raises `TrialInsertFailed`.
        """
        if isinstance(self.flow, BackFlow):
            return
        for name in tables:
            table = self.flow.maps[name].table
            if table.autoincrement_column is not None:
                prove_ready(self.target, table)


@contextlib.contextmanager
def open_way(
    source: URL,
    target: Engine,
    new_home: Home,
    tables: Sequence[str],
    *,
    choices: Choices | None,
    on_wait: Callable[[], None],
    dry_run: bool = False,
) -> Generator[Way]:
    """Open all sessions of a switch; the lock on schema changes of the target is held until the end.

    Raises `TableUnknown`, and what `open_for_writing` raises.
    """
    refuse_unknown(tables)
    with contextlib.ExitStack() as opened:
        enter = opened.enter_context

        def token_for(connection: MoveConnection) -> str:
            return token_of(connection) or "" if dry_run else make_token(connection)

        if new_home is Home.TARGET:
            connections = enter(open_for_writing(source, target, on_wait))
            token = token_for(connections.target)
            closing, opening = enter(open_source_for_writing(source)), connections.target
            flow: ForwardFlow | BackFlow = ForwardFlow(connections, tables, resumes=True, closes_target=not dry_run)
        else:
            connections = enter(open_both_for_writing(source, target, on_wait))
            token = token_for(connections.target)
            closing, opening = connections.target, connections.source
            flow = BackFlow(enter(open_target(target)), connections.source, token=token, choices=choices, tables=tables)
        identity = identity_of(connections.target)
        connections.target.driver.rollback()
        slots: dict[str, Slot] = {}
        for session in (enter(open_source_for_writing(source)), enter(open_second_session(connections.target))):
            session.driver.autocommit = True
            slots[session.name] = Slot(session, slot_name(identity, session.name))
        yield Way(
            new_home=new_home,
            names=tables,
            flow=flow,
            closing=closing,
            opening=opening,
            target=connections.target,
            token=token,
            old_slot=slots[closing.name],
            new_slot=slots[opening.name],
            is_dry_run=dry_run,
        )
