"""Slots and publications: what refuses them, what others do to them, and what they cost the source."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from threading import Thread

import psycopg
import pytest
from sqlalchemy import URL, Engine
from tests.conftest import OLDER_PROGRAMS, foreign_server
from tests.database.days import Day, assert_equal, day
from tests.database.moves import Row, ask, change

from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.evolve.lock import LOCK_KEY
from tatame_db.move.connection import ConnectionLost
from tatame_db.move.follow import loop, slot
from tatame_db.move.follow.apply import ForwardFlow
from tatame_db.move.follow.errors import SlotBlocked, SlotForeign, SlotInUse, SlotMissing, WalLevelTooLow
from tatame_db.move.follow.publication import PublicationChanged
from tatame_db.move.follow.slot import Slot, forgotten_slots
from tatame_db.move.open import open_source_for_writing

__all__ = ["day"]

older = pytest.mark.parametrize("supabase", ["older"], indirect=True)
SLOTS = "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()"
PUBLICATIONS = "SELECT pubname::text FROM pg_publication"


def objects(address: URL) -> list[Row]:
    return ask(address, f"{SLOTS} UNION ALL {PUBLICATIONS}")


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.contextmanager
def setting(address: URL, name: str, value: str, reset: str) -> Generator[None]:
    """Change a setting of the server for a while, and wait until sessions see it."""
    for statement in (f"ALTER SYSTEM SET {name} = {value}", "SELECT pg_reload_conf()"):
        change(address, statement)
    wait_for(lambda: ask(address, f"SHOW {name}") != [(reset,)])
    try:
        yield
    finally:
        for statement in (f"ALTER SYSTEM RESET {name}", "SELECT pg_reload_conf()"):
            with psycopg.connect(readable(address), autocommit=True) as connection:
                connection.execute("SET synchronous_commit = local")
                connection.execute(statement.encode())


# --- What others do to slot and publication --------------------------------------------------------------------------


def test_a_changed_publication_and_a_dropped_slot_are_named_and_the_next_run_heals_them(day: Day) -> None:
    for statement, error in (
        (f"ALTER PUBLICATION {day.name} DROP TABLE users", PublicationChanged),
        (f"ALTER PUBLICATION {day.name} SET (publish = 'insert')", PublicationChanged),
        (f"DROP PUBLICATION {day.name}", PublicationChanged),
        (f"SELECT pg_drop_replication_slot('{day.name}')", SlotMissing),
    ):
        with day.following() as steps:
            change(day.source, statement, "UPDATE users SET phone = coalesce(phone, '') || 'x'")
            with pytest.raises(error):
                steps.run()
    day.follow(once=True)
    assert_equal(day.source, day.engine.url)
    assert objects(day.source) == []


@older
def test_a_slot_that_another_process_reads_or_another_program_made_is_named(
    day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot, "_RELEASE_SECONDS", 0.1)
    with day.following() as steps:
        change(day.source, "UPDATE users SET phone = 'x'")
        options = [f"--slot={day.name}", "-o", "proto_version=1", "-o", f"publication_names={day.name}"]
        reader = subprocess.Popen(
            [OLDER_PROGRAMS / "pg_recvlogical", "--start", "--file=-", f"--dbname={readable(day.source)}", *options],
            stdout=subprocess.DEVNULL,
        )
        try:
            wait_for(lambda: ask(day.source, f"{SLOTS} AND active"))
            with pytest.raises(SlotInUse, match=r"by the process [0-9]+ of the server"):
                steps.run()
        finally:
            reader.terminate()
            reader.wait()
        monkeypatch.undo()
        steps.until_applied()
        assert_equal(day.source, day.engine.url)
    change(
        day.source,
        f"SELECT pg_drop_replication_slot('{day.name}')",
        f"SELECT pg_create_logical_replication_slot('{day.name}', 'test_decoding')",
    )
    with pytest.raises(SlotForeign, match="the plug-in test_decoding"):
        day.follow(once=True)


def test_a_forgotten_slot_is_one_that_no_process_reads_now_and_then(day: Day) -> None:
    with day.following(), open_source_for_writing(day.source) as connection, day.open_home() as home:
        home.execute(f"SET application_name = '{day.name}'")
        assert forgotten_slots(connection) == []
    with open_source_for_writing(day.source) as connection:
        [found] = [found for found in forgotten_slots(connection) if found.database == day.source.database]
        assert (found.name, found.wal_status) == (day.name, "reserved")


# --- What keeps a slot away ------------------------------------------------------------------------------------------


def test_a_running_transaction_is_waited_for_and_named(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot, "CREATE_SECONDS", 0.3)
    with psycopg.connect(readable(day.source), application_name="forgotten") as other:
        other.execute("UPDATE users SET phone = 'x'")
        with pytest.raises(
            SlotBlocked, match=rf"the process {other.info.backend_pid} \(forgotten, user postgres, idle"
        ):
            day.follow(once=True)
    assert ask(day.source, SLOTS) == []


@older
def test_without_a_slot_tables_are_compared_whole_again_and_again_with_the_reason(day: Day) -> None:
    role = f"follower_{day.source.database}"
    change(
        day.source,
        f"CREATE ROLE {role} LOGIN BYPASSRLS; ALTER DATABASE {day.source.database} OWNER TO {role};"
        f" GRANT pg_read_all_data TO {role}",
    )
    day.through = day.source.set(username=role)
    change(day.source, "UPDATE users SET phone = 'x'")

    def reason(**options: object) -> str:
        change(day.source, "UPDATE users SET phone = phone || 'x'")
        day.follow(once=True, **options)
        assert_equal(day.source, day.engine.url)
        assert objects(day.source) == []
        lag = day.lags[-1]
        assert (lag.rows, lag.wal_bytes, bool(lag.applied), lag.seconds > 0) == (None, None, True, True)
        return str(lag.reason)

    assert "cannot publish the tables to follow: must be owner of table" in reason()
    change(day.source, *(f'ALTER TABLE "{table}" OWNER TO {role}' for table in day.lags[-1].compared))
    assert reason() == f"the role {role} may not create a replication slot on the source"
    change(day.source, f"ALTER ROLE {role} REPLICATION")
    fillers = [f"filler_{number}" for number in range(10)]
    change(day.source, *(f"SELECT pg_create_physical_replication_slot('{name}')" for name in fillers))
    assert "the source has no free replication slot: all replication slots are in use" in reason()
    change(day.source, *(f"SELECT pg_drop_replication_slot('{name}')" for name in fillers))

    # Now the role has all that it needs, as Supabase's own has, and is no superuser.
    with day.following() as steps:
        change(day.source, "UPDATE users SET phone = 'role'")
        assert [found.table for found in steps.until_applied()] == ["users"]
        assert_equal(day.source, day.engine.url)
    day.through = None
    day.follow(once=True)
    change(day.source, f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}")

    # A home that has no server of its own, such as a source over REST.
    change(day.source, "UPDATE users SET phone = 'rest'")
    loop.follow(day.open_flow, None, day.name, loop.FollowOptions(until_equal=True), day.lags.append)
    assert_equal(day.source, day.engine.url)


def test_a_server_without_logical_wal_is_named(directory: Path) -> None:
    with foreign_server(OLDER_PROGRAMS, directory / "server", wal_level="replica") as address:
        create_missing_database(address)
        with open_source_for_writing(address) as connection:
            connection.driver.autocommit = True
            with pytest.raises(WalLevelTooLow, match="`wal_level` of the source is replica"):
                Slot(connection, "tatame_move_00000000").create()


# --- The WAL that a slot holds ---------------------------------------------------------------------------------------


def fill_wal(address: URL) -> None:
    """Fill some segments of the WAL."""
    for _ in range(3):
        change(address, "CREATE TABLE filler (id int)", "DROP TABLE filler", "SELECT pg_switch_wal()")
    change(address, "CHECKPOINT")


@older
def test_a_slot_that_holds_too_much_or_is_lost_is_dropped_and_comparisons_go_on(day: Day) -> None:
    for allowed, reason in ((1 << 20, "1,048,576 are allowed, so it was dropped"), (2 << 30, "is lost: it held more")):
        day.follow(once=True, keep_slot=True)
        with psycopg.connect(readable(day.source)) as other, contextlib.ExitStack() as settings:
            if allowed > 1 << 20:
                settings.enter_context(setting(day.source, "max_slot_wal_keep_size", "'1MB'", "-1"))
            # Of an open transaction, the slot needs all WAL.
            other.execute("UPDATE versions SET id = id")
            change(day.source, "UPDATE users SET phone = coalesce(phone, '') || 'x'")
            fill_wal(day.source)
            day.follow(once=True, wal_bytes_at_most=allowed)
            assert reason in str(day.lags[-1].reason)
        assert_equal(day.source, day.engine.url)
        assert objects(day.source) == []


# --- Interruptions ---------------------------------------------------------------------------------------------------


def test_a_kill_between_commit_and_advance_is_harmless(day: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(BaseException):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    with day.following() as steps:
        change(day.source, "UPDATE users SET phone = 'x'; DELETE FROM checkins")
        monkeypatch.setattr(Slot, "advance", killed)
        with pytest.raises(KilledError):
            steps.run()
        assert_equal(day.source, day.engine.url)
        monkeypatch.undo()
        # What the slot delivers again changes nothing.
        assert steps.until_applied() == []
        change(day.source, "UPDATE users SET phone = 'y'")
        assert [found.table for found in steps.until_applied()] == ["users"]


@pytest.mark.parametrize("lost", ["source", "target"])
def test_a_lost_connection_ends_the_run_and_the_slot_stays(
    day: Day, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = ForwardFlow.apply

    def lose(flow: ForwardFlow, keys: dict[str, set[str]]) -> object:
        connection = {"source": flow.home, "target": flow.follower}[lost]
        pid = connection.driver.info.backend_pid
        change(day.engine.url, f"SELECT pg_terminate_backend({pid})")
        return apply(flow, keys)

    with day.following() as steps:
        change(day.source, "UPDATE users SET phone = 'x'; DELETE FROM checkins")
        monkeypatch.setattr(ForwardFlow, "apply", lose)
        with pytest.raises(ConnectionLost, match=f"the connection to the {lost} was lost"):
            steps.run()
        monkeypatch.undo()
        assert objects(day.source) == [(day.name,), (day.name,)]
    day.follow(until_equal=True)
    assert_equal(day.source, day.engine.url)
    assert objects(day.source) == []


@older
def test_a_commit_that_waits_for_a_standby_is_in_the_wal_and_not_applied_yet(day: Day) -> None:
    """The order of commit records says nothing about visibility: a later one can be visible first."""
    local = "SET synchronous_commit = local"
    with day.following() as steps, psycopg.connect(readable(day.source), autocommit=True) as waiting:
        waiting.execute("SET synchronous_commit = on")
        with setting(day.source, "synchronous_standby_names", "'nowhere'", ""):
            insert = "INSERT INTO gyms VALUES (100, now(), 'x', 'y', 1, NULL, '2020-01-01')"
            writer = Thread(target=lambda: waiting.execute(insert.encode()))
            writer.start()
            pid = waiting.info.backend_pid
            wait_for(
                lambda: ask(day.source, f"SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'SyncRep'")
            )
            change(day.source, local, "UPDATE users SET phone = 'after' WHERE id = 1")
            lag = steps.run()
            assert [(found.table, found.written) for found in lag.applied] == [("users", 1)]
            assert (lag.rows, lag.seconds > 0, ask(day.engine.url, "SELECT FROM gyms WHERE id = 100")) == (1, True, [])
            assert steps.run().rows == 1
        writer.join()
        lag = steps.run()
        assert ([found.table for found in lag.applied], lag.rows, lag.seconds) == (["gyms"], 0, 0)
        assert_equal(day.source, day.engine.url)


def test_following_works_through_pgbouncer_and_leaves_the_lock_free_in_between(
    day: Day, pooler: Callable[..., URL], engine: Engine
) -> None:
    day.through = pooler(day.source, pool_mode="session")
    options = loop.FollowOptions()
    thread = Thread(
        target=loop.follow, args=(day.open_flow, day.open_home, day.name, options, day.lags.append), daemon=True
    )
    thread.start()
    try:
        wait_for(lambda: day.lags)
        for turn in range(5):
            change(day.source, f"UPDATE users SET phone = 'turn {turn}'")
            arrived = f"SELECT FROM users WHERE phone = 'turn {turn}'"
            wait_for(partial(ask, engine.url, arrived))
            wait_for(partial(ask, engine.url, f"SELECT FROM pg_try_advisory_lock({LOCK_KEY}) AS got WHERE got"))
    finally:
        options.stop.set()
        thread.join()
    assert_equal(day.source, day.engine.url)
    assert objects(day.source) == []
