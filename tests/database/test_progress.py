"""What a follower and a switch do can be seen from another session, and recording it neither stops nor delays them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Generator
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL
from tests.conftest import on_both_versions, until
from tests.database.days import Day, assert_equal, day, drop_slots
from tests.database.moves import Row, ask, change

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.move import progress
from tatame_db.move.flow import Applied
from tatame_db.move.follow.loop import FollowOptions, Lag
from tatame_db.move.follow.run import follow_source, follow_target
from tatame_db.move.switch.finish import finish
from tatame_db.move.switch.homes import Home
from tatame_db.move.switch.steps import Step
from tatame_db.move.switch.switch import switch

__all__ = ["day"]

LAGS = "SELECT home, rows, seconds, wal_bytes, reason FROM tatame_move.lag ORDER BY at"
SWITCHES = "SELECT home, tables, steps, ended_at IS NULL, report, problem FROM tatame_move.switches ORDER BY began_at"
QUIET = Lag(0, 0, 1_000, [], {})


def sessions(address: URL) -> list[Row]:
    """Return the names of the sessions that record, as any role sees them."""
    query = "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE"
    with psycopg.connect(readable(address), autocommit=True) as connection:
        # One that has no rights of its own.
        connection.execute("SET ROLE pg_signal_backend")
        return connection.execute(f"{query} 'tatame-db move %' ORDER BY 1").fetchall()


@contextlib.contextmanager
def followed(day: Day, home: Home) -> Generator[list[Lag]]:
    """Follow in a thread; the lags of all batches until now."""
    lags: list[Lag] = []
    options = FollowOptions()
    follow: Any = follow_source if home is Home.SOURCE else follow_target
    failures: list[BaseException] = []

    def run() -> None:
        try:
            follow(day.source, day.engine, options, lags.append)
        except BaseException as error:  # noqa: BLE001, the test raises it
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield lags
    finally:
        options.stop.set()
        thread.join()
    assert failures == []


@on_both_versions
def test_the_lag_of_a_follower_is_recorded_in_the_target_for_both_homes(day: Day) -> None:
    with followed(day, Home.SOURCE):
        until(lambda: sessions(day.engine.url) == [("tatame-db move follow",)])
        until(lambda: ask(day.engine.url, "SELECT to_regclass('tatame_move.lag')") != [(None,)])
        until(lambda: bool(ask(day.engine.url, LAGS)))
    assert sessions(day.engine.url) == []
    [home, rows, seconds, wal_bytes, reason] = ask(day.engine.url, LAGS)[-1]
    assert (home, rows, seconds, reason) == ("source", 0, 0, None)
    assert wal_bytes >= 0
    switch(day.source, day.engine)
    with followed(day, Home.TARGET):
        until(lambda: sessions(day.engine.url) == [("tatame-db move follow --back",)])
        until(lambda: ("target",) in ask(day.engine.url, "SELECT home FROM tatame_move.lag"))
    drop_slots(day.engine.url)


def test_a_follower_that_has_nothing_to_do_writes_nothing_that_would_wake_it(day: Day) -> None:
    switch(day.source, day.engine)
    versions = "SELECT xmin, ctid FROM tatame_move.lag WHERE home = 'target'"
    with followed(day, Home.TARGET) as lags:
        until(lambda: bool(ask(day.engine.url, versions)))
        first = ask(day.engine.url, versions)
        # Each of these writes WAL and wakes it, and none is about its tables.
        before = len(lags)
        while len(lags) < before + 5:
            change(day.engine.url, "SELECT pg_current_xact_id(), pg_logical_emit_message(true, 'test', 'x')")
        assert ask(day.engine.url, versions) == first
        change(day.engine.url, "UPDATE users SET phone = 'here' WHERE id = 1")
        until(lambda: ask(day.engine.url, versions) != first)
        assert_equal(day.source, day.engine.url)
    drop_slots(day.engine.url)


def saved(day: Day, *lags: Lag) -> list[Row]:
    with progress.recording_lag(day.engine, Home.SOURCE) as save:
        for lag in lags:
            save(lag)
    return ask(day.engine.url, LAGS)


def test_the_record_of_lag_is_bounded_in_time_and_in_rows(day: Day) -> None:
    applied = [Applied("users", 0, 1)]
    # Several within a second, of which the last one counts.
    found = saved(day, *(Lag(number, 1.5, 5, applied, {}) for number in range(30)))
    assert found[-1] == ("source", 29, 1.5, 5, None)
    assert len(found) < 30
    change(
        day.engine.url,
        "INSERT INTO tatame_move.lag SELECT 'source', date_trunc('second', now()) - '1 hour'::interval - n * '1 s'"
        "::interval, 'x', 0, 0, 0, NULL FROM generate_series(1, 500) AS n",
    )
    assert len(saved(day, QUIET)) < 40


def test_a_batch_that_did_nothing_is_recorded_if_it_found_another_lag() -> None:
    written: list[Any] = []
    record = progress._LagRecord(written.append, Home.SOURCE)
    pending, no_slot = Lag(3, 2.0, 5, [], {}), Lag(None, 2.0, None, [], {}, reason="no slot")
    held, applied = Lag(0, 0, 9 << 20, [], {}), Lag(0, 0, 9 << 20, [Applied("users", 0, 1)], {})
    for lag in (QUIET, QUIET, pending, pending, QUIET, QUIET, no_slot, no_slot, held, held, applied, applied, held):
        record.save(lag)
    assert [values["rows"] for _, values in written] == [0, 3, 0, None, 0, 0, 0]


UNWRITABLE = {
    "another table has its name": "CREATE TABLE tatame_move.lag (x int)",
    "it is locked": progress._TABLES,
    "a constraint rejects each row": progress._TABLES + "ALTER TABLE tatame_move.lag ADD CHECK (false)",
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_a_lag_that_cannot_be_recorded_does_not_stop_a_follower(day: Day, name: str) -> None:
    with psycopg.connect(readable(day.engine.url)) as other:
        other.execute(UNWRITABLE[name].encode())
        other.commit()
        if name == "it is locked":
            # Not more than needed: for a transaction that has a number, the creation of a slot waits.
            other.execute("LOCK tatame_move.lag IN EXCLUSIVE MODE")
        with followed(day, Home.SOURCE) as lags:
            until(lambda: bool(lags))
            change(day.source, "UPDATE users SET phone = 'there' WHERE id = 1")
            until(lambda: ask(day.engine.url, "SELECT phone FROM users WHERE id = 1") == [("there",)])
            assert sessions(day.engine.url) == [("tatame-db move follow",)]
            assert_equal(day.source, day.engine.url)


def test_a_follower_goes_on_without_its_session_for_recording(day: Day) -> None:
    with followed(day, Home.SOURCE) as lags:
        until(lambda: bool(lags) and bool(sessions(day.engine.url)))
        change(
            day.engine.url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tatame-db move follow'"
            " AND datname = current_database()",
        )
        change(day.source, "UPDATE users SET phone = 'there' WHERE id = 1")
        until(lambda: ask(day.engine.url, "SELECT phone FROM users WHERE id = 1") == [("there",)])


@on_both_versions
def test_the_steps_of_a_switch_are_seen_while_it_runs(day: Day) -> None:
    seen: list[list[str]] = []

    def look(step: Step) -> None:
        if step in (Step.PROVE, Step.OPEN, Step.CLEAN):
            until(lambda: names()[-1:] == [step.name])
            seen.append(names())
            assert ask(day.engine.url, SWITCHES)[-1][3:] == (True, None, None)
            assert len(sessions(day.engine.url)) == 1

    def names() -> list[str]:
        found = ask(day.engine.url, SWITCHES)
        return [step["name"] for step in found[-1][2]] if found else []

    for home in (Home.TARGET, Home.SOURCE):
        seen.clear()
        report = switch(day.source, day.engine, to=home, on_step=look)
        order = [step.name for step in Step]
        assert seen == [order[: order.index(name) + 1] for name in ("PROVE", "OPEN", "CLEAN")]
        [new_home, tables, steps, is_open, recorded, problem] = ask(day.engine.url, SWITCHES)[-1]
        assert (new_home, tables, is_open, problem) == (home, [], False, None)
        assert [step["name"] for step in steps] == order
        assert sorted(steps, key=lambda step: step["seconds"]) == steps
        assert recorded["pause_seconds"] == report.pause_seconds
        assert len(recorded["tables"]) == len(report.tables)
    assert sessions(day.engine.url) == []
    drop_slots(day.engine.url)


def test_a_switch_that_fails_is_recorded_with_its_error_and_one_that_is_killed_with_its_last_step(day: Day) -> None:
    def fail(step: Step) -> None:
        if step is Step.PROVE:
            raise ValueError("a value of a person")

    with pytest.raises(ValueError, match="person"):
        switch(day.source, day.engine, ["users"], on_step=fail)
    with pytest.raises(move.NothingToSwitch):
        switch(day.source, day.engine, to=Home.SOURCE)
    [(_, tables, steps, is_open, report, unknown), (*_, known)] = ask(day.engine.url, SWITCHES)
    assert (tables, steps[-1]["name"], is_open, report) == (["users"], "PROVE", False, None)
    assert unknown["what"] == "it failed (ValueError)"
    assert known["what"].startswith("the home of ")
    assert known["fix"] == "`tatame-db move status` shows the home of each table"

    def kill(step: Step) -> None:
        if step is Step.PROVE:
            until(lambda: ask(day.engine.url, SWITCHES)[-1][2][-1:][0]["name"] == "PROVE")
            os.kill(os.getpid(), signal.SIGKILL)

    if (process := os.fork()) == 0:
        try:
            switch(day.source, day.engine, on_step=kill)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL
    until(lambda: sessions(day.engine.url) == [])
    assert ask(day.engine.url, SWITCHES)[-1][3:] == (True, None, None)


def test_switches_are_bounded_and_a_dry_run_records_nothing(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SWITCHES_KEPT", 3)
    for number in range(progress.SWITCHES_KEPT + 25):
        with progress.recording_switch(day.engine, Home.TARGET, [str(number)]) as record:
            record.begin_step(Step.CHECK)
    found = ask(day.engine.url, SWITCHES)
    assert len(found) == 20
    assert found[-1][1] == ["27"]
    switch(day.source, day.engine, dry_run=True)
    assert ask(day.engine.url, SWITCHES) == found


@on_both_versions
def test_a_switch_does_not_wait_for_a_lock_on_its_record(day: Day) -> None:
    change(day.engine.url, progress._TABLES)
    with psycopg.connect(readable(day.engine.url)) as other:
        other.execute("LOCK tatame_move.switches IN EXCLUSIVE MODE")
        assert switch(day.source, day.engine).home is Home.TARGET
        assert ask(day.engine.url, SWITCHES) == []
    switch(day.source, day.engine, to=Home.SOURCE)
    assert len(ask(day.engine.url, SWITCHES)) == 1
    with move.open_both_for_writing(day.source, day.engine) as connections:
        [removed] = [found.name for found in finish(connections).removed if found.kind == "record"]
    assert {"tatame_move.lag", "tatame_move.switches"} < set(removed.split(", "))
