"""Following between two databases, in one direction: which tables take it is asked again for each batch."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import URL

from tatame_db.evolve.lock import ignore
from tatame_db.move.back.flow import BackFlow
from tatame_db.move.back.left import LeftRows, summary
from tatame_db.move.follow.apply import ForwardFlow
from tatame_db.move.follow.errors import FollowRuns
from tatame_db.move.follow.loop import FollowOptions, follow
from tatame_db.move.follow.slot import slot_name
from tatame_db.move.open import (
    open_both_for_writing,
    open_for_writing,
    open_source_for_writing,
    open_target,
    open_target_for_slots,
)
from tatame_db.move.progress import recording_lag
from tatame_db.move.record import identity_of
from tatame_db.move.switch.errors import NothingToFollow
from tatame_db.move.switch.fence import refuse_placed
from tatame_db.move.switch.homes import Home, homes
from tatame_db.move.switch.token import make_token

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from sqlalchemy import Engine

    from tatame_db.move.choices import Choices
    from tatame_db.move.connection import Connections
    from tatame_db.move.follow.loop import Lag
    from tatame_db.move.open import Source


def follow_source(
    source: URL | Source,
    target: Engine,
    options: FollowOptions | None = None,
    on_lag: Callable[[Lag], None] = ignore,
    on_wait: Callable[[], None] = ignore,
) -> None:
    """Carry the changes of all tables whose home is the source over to the target, until the end that options state.

    The target refuses other writers of these tables from the first batch on. Each batch is committed by itself. Raises
    `NothingToFollow`, `FollowRuns`, and what `follow`, `open_for_writing` and `closing` raise.
    """
    with open_for_writing(source, target, on_wait) as connections:
        refuse_placed(connections.target)
        _refuse_nothing(Home.SOURCE, connections)
        name = _name(connections, Home.SOURCE)

    @contextlib.contextmanager
    def open_flow() -> Generator[ForwardFlow]:
        with open_for_writing(source, target, on_wait) as connections:
            yield ForwardFlow(connections)

    open_home = partial(open_source_for_writing, source) if isinstance(source, URL) else None
    with _alone(target, Home.SOURCE), _recording(target, Home.SOURCE, on_lag) as on_each_lag:
        follow(open_flow, open_home, name, options, on_each_lag)


def follow_target(
    source: URL,
    target: Engine,
    options: FollowOptions | None = None,
    on_lag: Callable[[Lag], None] = ignore,
    on_wait: Callable[[], None] = ignore,
    *,
    choices: Choices | None = None,
) -> None:
    """Carry the changes of all tables whose home is the target back to the source, as `follow_source` does.

    `choices` are those of `switch`. Raises what `follow_source` raises, and `RowsNotReturnable`.
    """
    with open_both_for_writing(source, target, on_wait) as connections:
        connections.source.pin_settings(for_transaction=True)
        refuse_placed(connections.target)
        _refuse_nothing(Home.TARGET, connections)
        name, token = _name(connections, Home.TARGET), make_token(connections.target)
    # Of all batches: what one leaves, another may write.
    left: dict[str, LeftRows] = {}

    @contextlib.contextmanager
    def open_flow() -> Generator[BackFlow]:
        with (
            open_both_for_writing(source, target, on_wait) as connections,
            open_target(target) as reading,
        ):
            connections.source.pin_settings(for_transaction=True)
            tables = [name for name, home in homes(connections).items() if home is Home.TARGET]
            flow = BackFlow(reading, connections.source, token=token, choices=choices, tables=tables, left=left)
            yield flow
            for moved in left.keys() - {*flow.tables}:
                del left[moved]
            flow.mark_returned(connections.target)
            connections.target.commit()

    def report(lag: Lag) -> None:
        on_lag(replace(lag, not_returned=summary(left)))

    with _alone(target, Home.TARGET), _recording(target, Home.TARGET, report) as on_each_lag:
        follow(open_flow, lambda: open_target_for_slots(target), name, options, on_each_lag)


@contextlib.contextmanager
def _recording(target: Engine, home: Home, on_lag: Callable[[Lag], None]) -> Generator[Callable[[Lag], None]]:
    """Yield a function that records each lag, and calls `on_lag` with it."""
    with recording_lag(target, home) as record:

        def on_each_lag(lag: Lag) -> None:
            record(lag)
            on_lag(lag)

        yield on_each_lag


@contextlib.contextmanager
def _alone(target: Engine, home: Home) -> Generator[None]:
    """Raise `FollowRuns` if another process follows this home; others find this one until the end.

    Two would take publication and slot from each other.
    """
    lock = f"hashtext('tatame_move.follow.{home}')"
    with open_target_for_slots(target) as connection:
        connection.driver.autocommit = True
        [is_alone] = connection.row(f"SELECT pg_try_advisory_lock({lock})")
        if not is_alone:
            rows = connection.rows(
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND database ="
                f" (SELECT oid FROM pg_database WHERE datname = current_database()) AND objid = {lock}::oid"
            )
            direction = " --back" if home is Home.TARGET else ""
            raise FollowRuns(direction=direction, process=rows[0][0] if rows else None)
        yield


def _refuse_nothing(home: Home, connections: Connections) -> None:
    """Raise `NothingToFollow` if no table has this home."""
    if home not in homes(connections).values():
        raise NothingToFollow(home=home)


def _name(connections: Connections, home: Home) -> str:
    return slot_name(identity_of(connections.target), home)
