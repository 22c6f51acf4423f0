"""What followers and switches are doing, as a process sees it that reads the record of the target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tatame_db.move.progress import FOLLOWER_NAMES, HOURS_KEPT, SWITCH_NAME
from tatame_db.move.record import SCHEMA
from tatame_db.move.switch.homes import Home
from tatame_db.move.switch.steps import Step

if TYPE_CHECKING:
    from datetime import datetime

    from tatame_db.move.connection import MoveConnection

_MOST_POINTS = 240
_SWITCHES = 5
# Of a switch that ended here, the old home may be closed while the new one is not open.
_BETWEEN_COMMITS = {Step.COMMIT.name, Step.OPEN.name}
_BETWEEN_COMMITS_ERRORS = {"NotOpened", "OutcomeNotKnown"}


@dataclass(frozen=True)
class LagPoint:
    """The lag in an interval of time: the highest of the interval, and the last."""

    at: float
    """The begin of the interval, in seconds since 1970 by the clock of the target, as all times here."""
    follower: str
    """The process. Between two points of the same, the lag was the last one of the first point."""
    seconds: float
    last_seconds: float
    wal_bytes: int | None
    last_wal_bytes: int | None


@dataclass(frozen=True)
class FollowerStatus:
    """What follows a home now, or did within the last hour, and how far it was behind after its last batch."""

    home: Home
    runs: bool
    rows: int | None
    seconds: float
    wal_bytes: int | None
    reason: str | None
    """Why there is no slot."""
    at: datetime | None
    """The time of the last batch that did something; `None` before the first one."""


@dataclass(frozen=True)
class Follower(FollowerStatus):
    """The same with its lag over time."""

    interval_seconds: int
    until: float
    """The end of the last interval: now, if it runs."""
    points: list[LagPoint]

    @property
    def status(self) -> FollowerStatus:
        """What it is now, without its lag over time."""
        return FollowerStatus(self.home, self.runs, self.rows, self.seconds, self.wal_bytes, self.reason, self.at)


@dataclass(frozen=True)
class SwitchStep:
    """A step of a switch; `seconds` after its begin, `None` if it has not come to it."""

    name: str
    text: str
    stops_writers: bool
    seconds: float | None


@dataclass(frozen=True)
class RecordedSwitch:
    """A switch or a way back: with a `report` if it is done, with a `problem` if it failed, with neither if killed."""

    id: str
    began_at: datetime
    home: Home
    """The new one."""
    tables: list[str]
    """As the command named them; none for all."""
    runs: bool
    ended_at: datetime | None
    steps: list[SwitchStep]
    report: dict[str, Any] | None
    problem: dict[str, str] | None

    @property
    def may_be_half_done(self) -> bool:
        """Whether it may have closed the old home without opening the new one."""
        if self.runs or self.report:
            return False
        if self.problem:
            return self.problem.get("type") in _BETWEEN_COMMITS_ERRORS
        begun = [step.name for step in self.steps if step.seconds is not None]
        return bool(begun) and begun[-1] in _BETWEEN_COMMITS


def followers(target: MoveConnection) -> list[Follower]:
    """Return what follows now, or did within the last hour. Any role sees whether it runs."""
    running = _running(target)
    [now] = target.row("SELECT extract(epoch FROM clock_timestamp())::float8")
    last: dict[str, list[Any]] = {}
    points: dict[str, list[LagPoint]] = {}
    interval = 1
    if _exists(target, "lag"):
        last = {home: values for home, *values in target.rows(_LAST)}
        [oldest] = target.row(f"SELECT extract(epoch FROM min(at))::float8 FROM {SCHEMA}.lag WHERE {_RECENT}")
        interval = max(1, math.ceil((now - (oldest or now)) / _MOST_POINTS))
        for home, *values in target.rows(_POINTS, {"interval": interval}):
            points.setdefault(home, []).append(LagPoint(*values))
    found: list[Follower] = []
    for home, name in FOLLOWER_NAMES.items():
        runs, its_points = name in running, points.get(home, [])
        if runs or its_points:
            rows, seconds, wal_bytes, reason, at = last.get(home, [None, 0.0, None, None, None])
            end = now if runs else its_points[-1].at
            until = (end // interval + 1) * interval
            found.append(Follower(home, runs, rows, seconds, wal_bytes, reason, at, interval, until, its_points))
    return found


def last_switches(target: MoveConnection) -> list[RecordedSwitch]:
    """Return the last switches and ways back, the newest first."""
    if not _exists(target, "switches"):
        return []
    running = _running(target)
    found: list[RecordedSwitch] = []
    for number, began_at, home, tables, ended_at, steps, report, problem in target.rows(_LAST_SWITCHES):
        runs = ended_at is None and f"{SWITCH_NAME}{number}" in running
        found.append(
            RecordedSwitch(number, began_at, Home(home), tables, runs, ended_at, _steps(steps), report, problem)
        )
    return found


def _steps(recorded: list[dict[str, Any]]) -> list[SwitchStep]:
    """Return all steps, with those of another version that this one does not know."""
    seconds = {step["name"]: step["seconds"] for step in recorded}
    known = [SwitchStep(step.name, step.value, step.stops_writers, seconds.get(step.name)) for step in Step]
    unknown = [name for name in seconds if name not in Step.__members__]
    return known + [SwitchStep(name, name.lower(), stops_writers=False, seconds=seconds[name]) for name in unknown]


def _exists(target: MoveConnection, table: str) -> bool:
    [exists] = target.row(f"SELECT to_regclass('{SCHEMA}.{table}') IS NOT NULL")
    return bool(exists)


def _running(target: MoveConnection) -> set[str]:
    query = "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
    return {name for (name,) in target.rows(query)}


_RECENT = f"at >= clock_timestamp() - interval '{HOURS_KEPT} hours'"
_LAST = f"""
SELECT DISTINCT ON (home) home, rows, seconds, wal_bytes, reason, at FROM {SCHEMA}.lag ORDER BY home, at DESC
"""
_POINTS = f"""
SELECT home, extract(epoch FROM date_bin(make_interval(secs => %(interval)s), at, 'epoch'))::float8, follower,
    max(seconds), (array_agg(seconds ORDER BY at DESC))[1],
    max(wal_bytes), (array_agg(wal_bytes ORDER BY at DESC))[1]
FROM {SCHEMA}.lag WHERE {_RECENT} GROUP BY 1, 2, 3 ORDER BY 2, max(at)
"""
_LAST_SWITCHES = f"""
SELECT id, began_at, home, tables, ended_at, steps, report - 'tables', problem
FROM {SCHEMA}.switches ORDER BY began_at DESC LIMIT {_SWITCHES}
"""
