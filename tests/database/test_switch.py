"""The home of tables changes with proof, all of them or none, and comes back without loss."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError
from tests.conftest import on_both_versions
from tests.database.days import Day, assert_equal, day, drop_slots
from tests.database.moves import change

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.errors import TatameError
from tatame_db.move.follow.slot import slot_name
from tatame_db.move.open import open_both_for_writing
from tatame_db.move.record import identity_of
from tatame_db.move.switch import fence
from tatame_db.move.switch.homes import Home, homes
from tatame_db.move.switch.steps import Step
from tatame_db.move.switch.switch import switch

__all__ = ["day"]


def homes_of(day: Day) -> set[Home]:
    with open_both_for_writing(day.source, day.engine) as connections:
        connections.source.pin_settings(for_transaction=True)
        return set(homes(connections).values())


def takes_writes(address: URL) -> bool:
    with psycopg.connect(readable(address)) as connection:
        try:
            connection.execute("UPDATE users SET phone = phone")
        except psycopg.errors.ObjectNotInPrerequisiteState:
            return False
        finally:
            connection.rollback()
    return True


@on_both_versions
def test_a_switch_moves_every_table_and_the_way_back_brings_what_was_written_since(day: Day) -> None:
    change(day.source, "UPDATE users SET phone = 'before' WHERE id = 1")
    steps: list[Step] = []
    try:
        report = switch(day.source, day.engine, on_step=steps.append)
        assert steps == list(Step)
        assert {table.table for table in report.tables} >= {"users", "gyms", "checkins"}
        assert all(table.source_digest == table.target_digest for table in report.tables)
        assert_equal(day.source, day.engine.url)
        assert (takes_writes(day.source), takes_writes(day.engine.url)) == (False, True)
        assert homes_of(day) == {Home.TARGET}
        change(
            day.engine.url,
            "UPDATE users SET phone = 'after' WHERE id = 1",
            "INSERT INTO users (clerk_user_id, phone) VALUES ('user_new', 'new')",
            "DELETE FROM checkins WHERE id = (SELECT max(id) FROM checkins)",
        )
        back = switch(day.source, day.engine, to=Home.SOURCE)
        assert back.home is Home.SOURCE
        assert_equal(day.source, day.engine.url)
        assert (takes_writes(day.source), takes_writes(day.engine.url)) == (True, False)
        assert homes_of(day) == {Home.SOURCE}
    finally:
        drop_slots(day.engine.url)


def kill_at(wanted: Step) -> Callable[[Step], None]:
    def kill(step: Step) -> None:
        if step is wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


def disconnect_at(wanted: Step, addresses: list[URL]) -> Callable[[Step], None]:
    """End all other sessions of these databases."""

    def disconnect(step: Step) -> None:
        for address in addresses if step is wanted else ():
            with psycopg.connect(readable(address), autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )

    return disconnect


def killed(day: Day, home: Home, step: Step) -> None:
    """Run a switch in a process that kills itself as a step begins."""
    if (process := os.fork()) == 0:
        try:
            switch(day.source, day.engine, to=home, on_step=kill_at(step))
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL


def wait_for_rollback(day: Day) -> None:
    """Wait until the servers have noticed that the client of a switch is dead."""
    for address in (day.source, day.engine.url):
        with psycopg.connect(readable(address), autocommit=True) as connection:
            for _ in range(200):
                left = connection.execute(
                    "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relname = 'users'"
                    " AND l.mode = 'ShareRowExclusiveLock' AND l.granted"
                ).fetchone()
                if left == (0,):
                    break
                time.sleep(0.05)
            else:
                pytest.fail("a dead switch still holds locks")


IN_PAUSE = [step for step in Step if list(Step).index(Step.CLOSE) < list(Step).index(step)]


@pytest.mark.long
@pytest.mark.parametrize("way", ["kill -9", "lost connections"])
def test_whatever_ends_a_switch_at_any_step_one_home_or_none_takes_writes_and_nothing_is_lost(
    day: Day, way: str
) -> None:
    addresses = [day.source, day.engine.url]
    other = {Home.SOURCE: Home.TARGET, Home.TARGET: Home.SOURCE}
    home, turn = Home.SOURCE, 0
    try:
        for step in [step for step in Step if way == "kill -9" or step in IN_PAUSE]:
            turn += 1
            change(addresses[home is Home.TARGET], f"UPDATE users SET phone = 'turn {turn}' WHERE id = 1")
            to = other[home]
            if way == "kill -9":
                killed(day, to, step)
            else:
                with contextlib.suppress(TatameError, psycopg.Error, SQLAlchemyError):
                    switch(day.source, day.engine, to=to, on_step=disconnect_at(step, addresses))
                day.engine.dispose()
            wait_for_rollback(day)
            [found] = homes_of(day)
            done = {Step.OPEN: Home.NEITHER, Step.CLEAN: to}.get(step, home)
            if way != "lost connections":
                assert found is done, step
            source, target = map(takes_writes, addresses)
            # The target takes writes until it follows for the first time.
            assert source is (found is Home.SOURCE), step
            assert target is (found is Home.TARGET) or (target and turn == 1), step
            if found is not to:
                switch(day.source, day.engine, to=to)
            assert_equal(day.source, day.engine.url)
            assert homes_of(day) == {to}
            home = to
    finally:
        drop_slots(day.engine.url)


@on_both_versions
def test_no_acknowledged_write_is_lost_by_writers_that_go_on_throughout(day: Day) -> None:
    acknowledged: list[int] = []
    refused = threading.Event()

    def write(address: URL, first: int) -> None:
        with psycopg.connect(readable(address), autocommit=True) as connection:
            for number in itertools.count(first, 2):
                try:
                    connection.execute("INSERT INTO notifications (id, title) VALUES (%s, 'x')", [number])
                except psycopg.errors.ObjectNotInPrerequisiteState:
                    refused.set()
                    return
                acknowledged.append(number)

    def switched(home: Home, address: URL, start: int) -> None:
        refused.clear()
        before = len(acknowledged)
        with ThreadPoolExecutor(2) as pool:
            writing = [pool.submit(write, address, start + offset) for offset in range(2)]
            while len(acknowledged) < before + 50:
                time.sleep(0.01)
            switch(day.source, day.engine, to=home)
            for future in writing:
                future.result(30)
        assert refused.is_set()
        for database in (day.source, day.engine.url):
            with psycopg.connect(readable(database)) as connection:
                found = {row[0] for row in connection.execute("SELECT id FROM notifications")}
            assert set(acknowledged) <= found
        assert_equal(day.source, day.engine.url)

    try:
        switched(Home.TARGET, day.source, 1_000)
        switched(Home.SOURCE, day.engine.url, 1_000_000)
    finally:
        drop_slots(day.engine.url)


def raise_at(wanted: Step, error: BaseException) -> Callable[[Step], None]:
    def stop(step: Step) -> None:
        if step is wanted:
            raise error

    return stop


def slots_and_open_runs(day: Day) -> tuple[int, int]:
    with psycopg.connect(readable(day.engine.url)) as target:
        slots = target.execute("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'tatame_move_%'")
        [found] = slots.fetchall()
        [runs] = target.execute("SELECT count(*) FROM tatame_move.runs WHERE outcome IS NULL").fetchall()
        return found[0], runs[0]


def test_ctrl_c_before_the_commit_undoes_a_switch_and_after_it_ends_it(day: Day) -> None:
    for step in (Step.CATCH_UP, Step.PROVE, Step.COMMIT):
        with pytest.raises(KeyboardInterrupt):
            switch(day.source, day.engine, on_step=raise_at(step, KeyboardInterrupt()))
        assert homes_of(day) == {Home.SOURCE}
        assert takes_writes(day.source)
        # A slot that nothing reads would fill the disk.
        assert slots_and_open_runs(day) == (0, 0)
    try:
        assert switch(day.source, day.engine, on_step=raise_at(Step.OPEN, KeyboardInterrupt())).is_interrupted
        assert homes_of(day) == {Home.TARGET}
        assert slots_and_open_runs(day) == (1, 0)
    finally:
        drop_slots(day.engine.url)


def test_a_switch_that_takes_too_long_is_undone(day: Day) -> None:
    def wait(step: Step) -> None:
        if step is Step.PROVE:
            time.sleep(1.2)

    for home in (Home.TARGET, Home.SOURCE):
        with pytest.raises(move.PauseTooLong, match="within 1 seconds"):
            switch(day.source, day.engine, to=home, pause_at_most_seconds=1.0, on_step=wait)
        assert slots_and_open_runs(day)[1] == 0
        switch(day.source, day.engine, to=home)
        assert homes_of(day) == {home}
    drop_slots(day.engine.url)


def test_rows_that_something_changes_as_they_are_written_are_never_called_equal(day: Day) -> None:
    change(
        day.engine.url,
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.phone := 'spoiled'; RETURN NEW; END $$",
        "CREATE TRIGGER spoil BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION spoil()",
    )
    change(day.source, "UPDATE users SET phone = 'true' WHERE id = 1")
    with pytest.raises(TatameError) as caught:
        switch(day.source, day.engine)
    assert "users" in caught.value.what
    assert takes_writes(day.source)
    assert slots_and_open_runs(day) == (0, 0)


def test_a_writer_that_does_not_end_is_named_and_nothing_waits_behind_the_switch_for_long(
    day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "RETRY_PAUSES_SECONDS", (0.1, 0.1))
    retries: list[list[str]] = []
    with psycopg.connect(readable(day.source), application_name="a long import") as writer:

        def begin(step: Step) -> None:
            if step is Step.CLOSE:
                writer.execute("UPDATE users SET phone = 'x' WHERE id = 1")

        with pytest.raises(move.WritersNotStopped, match="a long import"):
            switch(day.source, day.engine, on_step=begin, on_retry=lambda _, blocking: retries.append(blocking))
        writer.execute("UPDATE users SET phone = 'y' WHERE id = 1")
        writer.commit()
    assert len(retries) == 2
    assert homes_of(day) == {Home.SOURCE}
    assert slots_and_open_runs(day) == (0, 0)


def test_a_follower_goes_on_with_all_tables_after_a_switch_of_some(day: Day) -> None:
    day.name = slot_name_of(day)
    with day.following() as steps:
        with pytest.raises(KeyboardInterrupt):
            switch(day.source, day.engine, ["users"], on_step=raise_at(Step.PROVE, KeyboardInterrupt()))
        change(day.source, "UPDATE gyms SET name = 'renamed'")
        assert [found.table for found in steps.until_applied()] == ["gyms"]
        try:
            switch(day.source, day.engine, ["users", "graduations"])
            change(day.source, "UPDATE checkins SET date = '2026-02-03'")
            assert [found.table for found in steps.until_applied()] == ["checkins"]
            assert_equal(day.source, day.engine.url)
            # Neither the other way nor a copy may touch what has moved.
            change(day.engine.url, "UPDATE users SET phone = 'here' WHERE id = 1")
            assert steps.until_applied() == []
            switch(day.source, day.engine, ["users"], to=Home.SOURCE)
            assert_equal(day.source, day.engine.url)
        finally:
            drop_slots(day.engine.url)


def slot_name_of(day: Day) -> str:
    with open_both_for_writing(day.source, day.engine) as connections:
        return slot_name(identity_of(connections.target), "source")
