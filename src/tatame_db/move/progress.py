"""What a follower and a switch are doing now, in the record of the target, where other processes can look.

A thread with a session of its own writes it, so that a server that is slow, a lock, or a missing right neither stops
nor delays the move, whose writers may be waiting: what cannot be written is dropped. That a follower or a switch is
alive is never written at all. The name of the session says it, which every role can see, and which makes no WAL: a
follower of the target would be woken by what it writes, forever.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from dataclasses import asdict, dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from tatame_db.database.dialect import literal
from tatame_db.errors import TatameError
from tatame_db.move.open import open_target_for_slots
from tatame_db.move.record import SCHEMA
from tatame_db.move.switch.homes import Home

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from sqlalchemy import Engine

    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.follow.loop import Lag
    from tatame_db.move.switch.steps import Step, SwitchReport

PROGRESS_TABLES = ["lag", "switches"]
FOLLOWER_NAMES = {Home.SOURCE: "tatame-db move follow", Home.TARGET: "tatame-db move follow --back"}
"""The name of the session of a follower on the target, by the home that it follows."""
SWITCH_NAME = "tatame-db move switch "
"""The beginning of the name of the session of a switch; its number in `switches` is the rest."""

HOURS_KEPT = 1
SWITCHES_KEPT = 20
# By how much the WAL that a slot holds has to change before a batch that does nothing is recorded.
_WAL_STEP_BYTES = 1 << 20
# The schema exists: the token of the move is in it. Two processes that create it at the same time would fail.
_TABLES = f"""
CREATE TABLE IF NOT EXISTS {SCHEMA}.lag (
    home text NOT NULL,
    -- To the second, in which the last batch counts.
    at timestamptz NOT NULL,
    -- Of one process. Between two rows of the same, the lag stays as the first one states.
    follower text NOT NULL,
    rows bigint,
    seconds double precision NOT NULL,
    wal_bytes bigint,
    -- Why there is no slot.
    reason text,
    PRIMARY KEY (home, at)
);
CREATE TABLE IF NOT EXISTS {SCHEMA}.switches (
    id text PRIMARY KEY,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The new one.
    home text NOT NULL,
    -- As the command names them; none stands for all.
    tables text[] NOT NULL,
    -- Objects: the name of the step, and the seconds from the begin of the switch to that of the step.
    steps jsonb NOT NULL DEFAULT '[]',
    -- NULL for a switch that is running or was killed.
    ended_at timestamptz,
    report jsonb,
    -- The class of the error, and its sentences.
    problem jsonb
);
"""
_SAVE_LAG = f"""
WITH old AS (
    DELETE FROM {SCHEMA}.lag WHERE home = %(home)s AND at < clock_timestamp() - interval '{HOURS_KEPT} hours'
)
INSERT INTO {SCHEMA}.lag (home, at, follower, rows, seconds, wal_bytes, reason) VALUES (%(home)s,
    date_trunc('second', clock_timestamp()), %(follower)s, %(rows)s, %(seconds)s, %(wal_bytes)s, %(reason)s)
ON CONFLICT (home, at) DO UPDATE SET follower = excluded.follower, rows = excluded.rows, seconds = excluded.seconds,
    wal_bytes = excluded.wal_bytes, reason = excluded.reason
"""
_BEGIN_SWITCH = f"""
WITH old AS (
    DELETE FROM {SCHEMA}.switches WHERE id IN (
        SELECT id FROM {SCHEMA}.switches ORDER BY began_at DESC OFFSET {SWITCHES_KEPT - 1}
    )
)
INSERT INTO {SCHEMA}.switches (id, home, tables) VALUES (%(id)s, %(home)s, %(tables)s)
"""
_SAVE_STEP = f"UPDATE {SCHEMA}.switches SET steps = steps || %(step)s::jsonb WHERE id = %(id)s"
_END_SWITCH = f"""
UPDATE {SCHEMA}.switches SET ended_at = clock_timestamp(), report = %(report)s, problem = %(problem)s WHERE id = %(id)s
"""
# The session waits for no disk, no standby and no lock that matters, and its server notices within a minute that the
# machine of this process is gone.
_SETTINGS = """
SET synchronous_commit = off; SET lock_timeout = '1s'; SET statement_timeout = '2s'; SET idle_session_timeout = 0;
SET default_transaction_read_only = off; SET tcp_keepalives_idle = 20; SET tcp_keepalives_interval = 10;
SET tcp_keepalives_count = 3
"""
_MOST_WAITING = 100
_RETRY_SECONDS = 10.0
_END_SECONDS = 5.0
_FAILURES = (psycopg.Error, SQLAlchemyError, TatameError)

Write = tuple[str, dict[str, Any]]


@contextlib.contextmanager
def recording_lag(target: Engine, home: Home) -> Generator[Callable[[Lag], None]]:
    """Yield the function that records how far the follower of this home is behind."""
    with _writing(target, FOLLOWER_NAMES[home]) as write:
        yield _LagRecord(write, home).save


@contextlib.contextmanager
def recording_switch(target: Engine, home: Home, tables: Sequence[str]) -> Generator[SwitchRecord]:
    """Record a switch to this home, and its error if it fails."""
    number = secrets.token_hex(8)
    with _writing(target, f"{SWITCH_NAME}{number}") as write:
        record = SwitchRecord(write, number)
        write((_BEGIN_SWITCH, {"id": number, "home": home, "tables": list(tables)}))
        try:
            yield record
        except BaseException as error:
            record.end(problem=_problem(error))
            raise


@dataclass
class _LagRecord:
    write: Callable[[Write], None]
    home: Home
    follower: str = field(default_factory=lambda: secrets.token_hex(4))
    saved: tuple[object, ...] = ()

    def save(self, lag: Lag) -> None:
        """Record a batch, unless it did nothing and found what the last one found.

        The record of a batch is WAL of the target, which the next batch of its follower reads: that one must be quiet.
        """
        found = (lag.rows, round(lag.seconds), (lag.wal_bytes or 0) // _WAL_STEP_BYTES, lag.reason)
        if found == self.saved and not lag.applied:
            return
        self.saved = found
        values = {"rows": lag.rows, "seconds": lag.seconds, "wal_bytes": lag.wal_bytes, "reason": lag.reason}
        self.write((_SAVE_LAG, {"home": self.home, "follower": self.follower, **values}))


@dataclass
class SwitchRecord:
    """Records the steps of one switch."""

    write: Callable[[Write], None]
    number: str
    began: float = field(default_factory=time.monotonic)

    def begin_step(self, step: Step) -> None:
        """Record that a step begins."""
        found = {"name": step.name, "seconds": round(time.monotonic() - self.began, 3)}
        self.write((_SAVE_STEP, {"id": self.number, "step": json.dumps(found)}))

    def end(self, report: SwitchReport | None = None, problem: dict[str, str] | None = None) -> None:
        """Record the end, with the report or the error."""
        values = {"report": report and json.dumps(asdict(report)), "problem": problem and json.dumps(problem)}
        self.write((_END_SWITCH, {"id": self.number, **values}))


def _problem(error: BaseException) -> dict[str, str]:
    if isinstance(error, TatameError):
        return {"type": type(error).__name__, "what": error.what, "means": error.means, "fix": error.fix}
    # Its message may quote a value.
    what = "it was interrupted" if isinstance(error, KeyboardInterrupt) else f"it failed ({type(error).__name__})"
    return {
        "type": type(error).__name__,
        "what": what,
        "means": "Whether the home of a table has changed is not recorded here.",
        "fix": "see the terminal of the command; `tatame-db move status` shows the home of each table",
    }


# --- The thread that writes -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _writing(target: Engine, name: str) -> Generator[Callable[[Write], None]]:
    """Yield a function that hands a statement over to a thread and returns at once; waits for the last one at the end.

    The session of the thread has this name from the begin on.
    """
    waiting: SimpleQueue[Write | None] = SimpleQueue()

    def hand_over(statement: Write) -> None:
        if waiting.qsize() < _MOST_WAITING:
            waiting.put(statement)

    thread = Thread(target=_write_all, args=(target, name, waiting), name=name, daemon=True)
    thread.start()
    try:
        yield hand_over
    finally:
        waiting.put(None)
        thread.join(_END_SECONDS)


def _write_all(target: Engine, name: str, waiting: SimpleQueue[Write | None]) -> None:
    while True:
        with contextlib.suppress(*_FAILURES), open_target_for_slots(target) as session:
            session.driver.autocommit = True
            session.execute(f"{_SETTINGS}; SET application_name = {literal(name)}")
            _write_in_session(session, waiting)
            return
        retry_at = time.monotonic() + _RETRY_SECONDS
        while time.monotonic() < retry_at:
            if waiting.get() is None:
                return


def _write_in_session(session: MoveConnection, waiting: SimpleQueue[Write | None]) -> None:
    has_tables = False
    while write := waiting.get():
        try:
            if not has_tables:
                session.execute(_TABLES)
                has_tables = True
            session.execute(*write)
        except _FAILURES:
            if session.driver.closed:
                raise
