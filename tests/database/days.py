"""What the tests of the day of a move share: following step by step, and a comparison that shares no code with it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Generator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Engine

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.move.connection import MoveConnection
from tatame_db.move.flow import Applied
from tatame_db.move.follow import loop
from tatame_db.move.follow.apply import ForwardFlow
from tatame_db.move.follow.slot import Slot
from tatame_db.move.open import open_for_writing, open_source_for_writing
from tatame_db.move.rehearsal.comparer import compare_values
from tatame_db.schema import phases


def assert_equal(source: URL, target: URL) -> None:
    """Compare all rows of both databases value by value, by code that shares nothing with the proof."""
    compared = compare_values(source, target)
    assert set(phases()) <= set(compared.tables)
    assert (compared.not_compared, compared.discrepancies) == ([], [])


@dataclass
class Day:
    """A source and a target of which the target follows, batch by batch."""

    source: URL
    engine: Engine
    name: str = "tatame_move_00000000"
    options: loop.FollowOptions = field(default_factory=loop.FollowOptions)
    through: URL | None = None
    """The address of the source as a client knows it, such as that of a pooler."""
    wholes: list[list[str]] = field(default_factory=list[list[str]])
    """The tables of each whole comparison."""
    lags: list[loop.Lag] = field(default_factory=list[loop.Lag])

    @contextlib.contextmanager
    def open_flow(self) -> Generator[ForwardFlow]:
        with open_for_writing(self.through or self.source, self.engine) as connections:
            yield _Noting(connections, self.wholes)

    def open_home(self) -> contextlib.AbstractContextManager[MoveConnection]:
        return open_source_for_writing(self.through or self.source)

    def follow(self, **options: Any) -> None:
        """Follow until an end that the options state."""
        loop.follow(self.open_flow, self.open_home, self.name, loop.FollowOptions(**options), self.lags.append)

    @contextlib.contextmanager
    def following(self) -> Generator[Steps]:
        """Follow batch by batch; the first one, a whole comparison, is done."""
        with self.open_home() as home:
            home.driver.autocommit = True
            steps = Steps(self, loop.Following(self.open_flow, Slot(home, self.name), self.options, self.lags.append))
            steps.run()
            self.wholes.clear()
            yield steps

    def copy(self, **options: Any) -> None:
        with open_for_writing(self.source, self.engine) as connections:
            move.copy(connections, **options)


@dataclass
class Steps:
    day: Day
    following: loop.Following

    def run(self) -> loop.Lag:
        """Run a batch, and return what it reports."""
        before = len(self.day.lags)
        self.following.position = 0
        assert self.following._batch_if_due(None)
        [lag] = self.day.lags[before:]
        return lag

    def until_applied(self) -> list[Applied]:
        """Run batches until none is pending; another session may have committed while one was read."""
        applied = (lag := self.run()).applied
        while lag.rows:
            applied += (lag := self.run()).applied
        return applied


class _Noting(ForwardFlow):
    def __init__(self, connections: move.Connections, wholes: list[list[str]]) -> None:
        super().__init__(connections)
        self._wholes = wholes

    def compare_whole(self, tables: Collection[str]) -> list[Applied]:
        self._wholes.append(list(tables))
        return super().compare_whole(tables)


@pytest.fixture
def day(supabase: URL, engine: Engine) -> Generator[Day]:
    """A copied source, followed from now on; its slot is dropped at the end."""
    found = Day(supabase, engine)
    found.copy()
    yield found
    drop_slots(supabase)


def drop_slots(source: URL) -> None:
    with psycopg.connect(readable(source), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
            " WHERE database = current_database() AND active"
        )
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
        )
