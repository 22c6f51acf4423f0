"""Every second can be restored: the log is archived as it comes, and what is missing is never skipped."""

from __future__ import annotations

import errno
import os
import queue
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL
from tests.conftest import free_port, new_directory, run_sql
from tests.database.relays import relay
from tests.database.standbys import Pair, standby_pair
from tests.forks import Zygote
from tests.servers import create_data

from tatame_db import backup, roles
from tatame_db.backup import follow, point_in_time, programs, receiver, silence
from tatame_db.backup import slot as slots
from tatame_db.backup.archive import read_archive
from tatame_db.backup.manifest import read_manifest
from tatame_db.backup.marks import WAL, State, read_state
from tatame_db.backup.removal import remove_old
from tatame_db.backup.waldump import last_transaction, lsn_of
from tatame_db.cli.archive import show_replayed
from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.database.pool import Database
from tatame_db.errors import TatameError
from tatame_db.roles import Names
from tatame_db.server import run_directory
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.server.run_directory import new_run_directory

MARKS = 0.1
HOSTILE = 'o\'d "b" $(touch x) %p %f'
NEXT = ("INSERT INTO notes VALUES (0)", "SELECT pg_switch_wal()", "CHECKPOINT")


@pytest.fixture(scope="module", autouse=True)
def disk() -> Generator[None]:
    """Start scratch servers in memory, and refuse a second follower at once."""
    with pytest.MonkeyPatch.context() as patch:
        directory = new_directory()
        patch.delenv("TMPDIR", raising=False)
        patch.setattr(run_directory, "_DISK", directory)
        patch.setattr(follow, "_PAUSE_SECONDS", 0.05)
        yield
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def home() -> Generator[Path]:
    path = new_directory()
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def origin(home: Path) -> Generator[EmbeddedServer]:
    """A server with a table of notes and the four roles."""
    server = EmbeddedServer(home / "origin", durable=False)
    server.start()
    create_missing_database(server.address)
    run_sql(server.address, "CREATE TABLE notes (id int); CREATE EXTENSION IF NOT EXISTS plpgsql")
    with Database(server.address) as database, database.engine.connect() as connection:
        roles.apply(connection, Names())
    yield server
    server.delete()


@pytest.fixture(scope="module")
def made(origin: EmbeddedServer, home: Path) -> backup.Made:
    with Database(origin.address) as database:
        made = backup.make(database, home / "backups")
    run_sql(origin.address, "SELECT pg_create_physical_replication_slot('since_backup', true)")
    return made


@pytest.fixture
def folder(made: backup.Made, directory: Path, origin: EmbeddedServer) -> Generator[Path]:
    """A folder with the base backup, which tests only read, for an archive of its own."""
    folder = directory / HOSTILE
    folder.mkdir()
    (folder / made.backup.path.name).symlink_to(made.backup.path)
    (folder / WAL).mkdir()
    # As if it had been followed since the backup.
    slot = f"tatame_backup_{secrets.token_hex(4)}"
    State(made.backup.manifest.system_identifier, slot, 16 << 20).write(folder)
    run_sql(origin.address, f"SELECT pg_copy_physical_replication_slot('since_backup', '{slot}')")
    yield folder
    with Database(origin.address) as database:
        backup.stop_following(database, folder)


class Following:
    """A follower in a thread."""

    def __init__(self, address: URL, folder: Path, **choices: Any) -> None:
        self.reports: queue.Queue[backup.Received | TatameError | None] = queue.Queue()
        self.words: list[str] = []
        self.stop = threading.Event()
        arguments = (address, folder, backup.FollowChoices(mark_seconds=MARKS, **choices))
        self.thread = threading.Thread(target=self._run, args=arguments)
        self.thread.start()

    def _run(self, address: URL, folder: Path, choices: backup.FollowChoices) -> None:
        end: TatameError | None = None
        try:
            with Database(address) as database:
                backup.follow_wal(
                    database,
                    folder,
                    choices,
                    stop=self.stop,
                    on_received=self.reports.put,
                    on_words=self.words.append,
                )
        except TatameError as error:
            end = error
        finally:
            self.reports.put(end)

    def wait(self, moment: datetime) -> backup.Received:
        """Wait until everything before a moment is archived."""
        while True:
            report = self.reports.get(timeout=60)
            if not isinstance(report, backup.Received):
                raise report or AssertionError("it has ended")
            if report.until and report.until > moment:
                return report

    def wait_for_end(self) -> TatameError:
        """Return the error with which it ends."""
        while isinstance(report := self.reports.get(timeout=60), backup.Received):
            pass
        assert report
        return report

    def end(self) -> None:
        self.stop.set()
        self.thread.join()


@contextmanager
def following(address: URL, folder: Path, **choices: Any) -> Generator[Following]:
    follower = Following(address, folder, **choices)
    try:
        # Its slot keeps from now on what is written.
        follower.wait(datetime.min.replace(tzinfo=UTC))
        yield follower
    finally:
        follower.end()


def end_of(address: URL, folder: Path) -> TatameError:
    """Return the error with which a follower ends."""
    follower = Following(address, folder)
    try:
        return follower.wait_for_end()
    finally:
        follower.end()


def slot_of(folder: Path) -> str:
    state = read_state(folder)
    assert state
    return state.slot


def switch(address: URL) -> None:
    """Begin the next segment, and let the server remove what it needs no more."""
    for statement in NEXT:
        run_sql(address, statement)


def ask(address: URL, query: str) -> Any:
    with psycopg.connect(readable(address), autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row and row[0]


def write(address: URL, number: int) -> datetime:
    """Commit a note, and return a moment after it by the clock of the server."""
    run_sql(address, f"INSERT INTO notes VALUES ({number})")
    moment = ask(address, "SELECT clock_timestamp()")
    assert isinstance(moment, datetime)
    return moment


def write_beyond(address: URL, lsn: str) -> list[int]:
    """Commit notes from 100 on until the log is longer than it was, and return them."""
    numbers: list[int] = []
    while ask(address, f"SELECT pg_current_wal_lsn() <= '{lsn}'"):
        numbers.append(100 + len(numbers))
        write(address, numbers[-1])
    return numbers


def restored(folder: Path, place: Path, at: backup.Moment) -> tuple[list[int], backup.Restored]:
    done = backup.restore(folder, place, at=at)
    with psycopg.connect(readable(done.server.address)) as connection:
        notes = [number for (number,) in connection.execute("SELECT id FROM notes WHERE id > 0 ORDER BY id")]
    return notes, done


def segments(folder: Path, *, part: bool = False) -> list[Path]:
    return sorted((folder / WAL).glob("0" * 7 + "?" * 17 + (".partial" if part else "")))


def reach(folder: Path) -> tuple[datetime, str | None]:
    """Return up to when the backup of a folder can be restored, and which gap ends its archive."""
    [listed] = backup.list_backups(folder)
    assert listed.manifest
    return backup.restorable_until(backup.Backup(listed.path, listed.manifest))


# --- Restore ----------------------------------------------------------------------------------------------------------


def test_every_moment_since_the_backup_is_restored(origin: EmbeddedServer, folder: Path, directory: Path) -> None:
    run_sql(origin.address, "DELETE FROM notes")
    with following(origin.address.set(username=Names().backup), folder) as follower:
        first = write(origin.address, 1)
        switch(origin.address)
        second = write(origin.address, 2)
        report = follower.wait(second)
        state = read_state(folder)
        assert state
        assert report.slot == state.slot
        assert report.lag_seconds is not None
        # Another follower waits for a process that was killed, and is then refused.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(slots, "_LEAVING_SECONDS", 0)
            with Database(origin.address) as database:
                with pytest.raises(backup.ArchiveFollowed):
                    backup.follow_wal(database, folder)
                with pytest.raises(backup.ArchiveFollowed):
                    backup.stop_following(database, folder)
        notes, done = restored(folder, directory / "one", first)
        assert notes == [1]
        done.server.delete()
    assert any("--stop-following` drops it" in words for words in follower.words)
    # As if the clock had been set back since: later commits look earlier.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(point_in_time, "_DISORDER", timedelta(hours=-1))
        with pytest.raises(backup.ClockSetBack, match="and was set back"):
            backup.restore(folder, directory / "three", at=first)
    third = write(origin.address, 3)

    notes, done = restored(folder, directory / "two", "latest")
    assert notes == [1, 2]
    server = done.server
    try:
        assert done.replayed
        assert done.replayed.last_transaction
        assert second - timedelta(minutes=1) < done.replayed.last_transaction < third
        # It starts again as any server, and takes writes.
        server.stop()
        server.start()
        assert ask(server.address, "SELECT pg_is_in_recovery()") is False
        assert ask(server.address, "SHOW hot_standby") == "on"
        run_sql(server.address, "INSERT INTO notes VALUES (9)")
    finally:
        server.delete()

    path = done.backup.path
    until, problem = backup.restorable_until(done.backup)
    assert (second < until < third, problem) == (True, None)
    for place, moment in ((folder, third), (path, third), (path, done.backup.manifest.ended), (folder, datetime.min)):
        with pytest.raises(backup.TimeOutOfReach, match="restores the times from"):
            backup.restore(place, directory / "three", at=moment.replace(tzinfo=UTC))
    with pytest.raises(backup.NoArchive, match="a dump has the rows of one moment"):
        point_in_time.replay_of(
            replace(done.backup, manifest=replace(done.backup.manifest, method="logical")), "latest"
        )
    assert sorted(path.name for path in directory.iterdir()) == [HOSTILE]
    assert not Path("x").exists()


def test_a_drill_replays_the_archive_and_reads_it(origin: EmbeddedServer, folder: Path) -> None:
    with following(origin.address, folder) as follower:
        follower.wait(write(origin.address, 1))
    drilled = backup.drill(folder, at="latest").replayed
    assert drilled
    assert (drilled.error, drilled.schema_problems) == (None, None)
    assert drilled.contents["tatame"].tables["public.notes"].rows > 0
    assert list(new_run_directory(on_disk=True).parent.iterdir()) == []
    assert [drill.equal for drill in backup.read_drills(folder)] == [True]

    def interrupt(stage: str) -> None:
        if "replaying" in stage:
            raise KeyboardInterrupt

    # What was interrupted, or names another time, has no result.
    with pytest.raises(KeyboardInterrupt):
        backup.drill(folder, at="latest", on_stage=interrupt)
    with pytest.raises(backup.TimeOutOfReach):
        backup.drill(folder, at=datetime.max.replace(tzinfo=UTC))
    assert len(backup.read_drills(folder)) == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys.modules["tatame_db.backup.drill_replay"], "schema_problems", lambda *_: ["a table is missing"]
        )
        error = backup.drill(folder, at="latest").error
    assert isinstance(error, backup.DrillFailed)
    assert [drill.equal for drill in backup.read_drills(folder)] == [True, False]


def test_what_is_missing_or_damaged_is_not_skipped(origin: EmbeddedServer, folder: Path, directory: Path) -> None:
    with following(origin.address, folder) as follower:
        follower.wait(write(origin.address, 1))
        for _ in range(3):
            switch(origin.address)
            moment = write(origin.address, 2)
            follower.wait(moment)
    at: backup.Moment
    until, problem = reach(folder)
    assert (until > moment, problem) == (True, None)
    [part] = segments(folder, part=True)
    received = part.read_bytes()
    for left in (received[:99], received[:99].ljust(len(received), b"\0"), b"", None):
        # The marks state that there was more.
        part.write_bytes(left) if left is not None else part.unlink()
        until, problem = reach(folder)
        assert problem == f"gap in the archive: the segment {part.stem} is missing or incomplete"
        for at in (until, "latest"):
            with pytest.raises(backup.GapInArchive, match=f"the segment {part.stem} is missing"):
                backup.restore(folder, directory / "place", at=at)
    part.write_bytes(received)
    state = (folder / WAL / "archive.json").rename(folder / "state")
    assert "archive.json cannot be read: it is missing, and there are segments" in str(reach(folder)[1])
    state.rename(folder / WAL / "archive.json")
    # Marks that a clock left which was an hour ahead, and was set back.
    newest = read_archive(folder).marks[-1]  # type: ignore[union-attr]  # it has one
    with (folder / WAL / "marks").open("ab") as file:
        ahead = replace(newest, time=newest.time + timedelta(hours=1))
        file.write(f"{ahead}\n{replace(newest, time=moment)}\n".encode() + b"\xff\xfe 1\n")
    assert "the clock of the server was set back" in str(reach(folder)[1])
    with pytest.raises(backup.ClockSetBack, match="restore a time before"):
        backup.restore(folder, directory / "place", at=moment)
    (folder / WAL / "marks").unlink()

    [*_, victim, last] = segments(folder)
    whole = victim.read_bytes()
    victim.write_bytes(bytes(len(whole)))
    for at in (moment, "latest"):
        with pytest.raises(backup.ReplayEndedEarly, match=r"its last transaction is of .*PostgreSQL reports: "):
            backup.restore(folder, directory / "place", at=at)
    with pytest.raises(backup.ReplayEndedEarly) as caught:
        backup.drill(folder, at=moment)
    assert caught.value.exit_code == 3
    assert [drill.equal for drill in backup.read_drills(folder)] == [False]
    victim.unlink()
    until, problem = reach(folder)
    assert problem == f"gap in the archive: the segment {victim.name} is missing or incomplete"
    assert until < moment
    for at in (moment, "latest"):
        with pytest.raises(backup.GapInArchive, match=f"the segment {victim.name} is missing"):
            backup.restore(folder, directory / "place", at=at)
    with pytest.raises(backup.GapInArchive):
        backup.drill(folder, at="latest")
    assert [drill.equal for drill in backup.read_drills(folder)] == [False, False]
    assert last.exists()
    assert sorted(path.name for path in directory.iterdir()) == [HOSTILE]


def test_a_server_with_large_segments_is_archived_and_restored(
    fresh_server: EmbeddedServer, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_large(server: EmbeddedServer, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(server, name, *arguments, *(["--wal-segsize=64"] if name == "initdb" else []))

    run = EmbeddedServer._run
    monkeypatch.setattr(EmbeddedServer, "_run", run_large)
    monkeypatch.setattr(EmbeddedServer, "_create_data", create_data)
    fresh_server.start()
    monkeypatch.undo()
    address, folder = fresh_server.address, directory / "backups"
    create_missing_database(address)
    run_sql(address, "CREATE TABLE notes (id int)")
    with Database(address) as database:
        backup.make(database, folder)
    with following(address, folder) as follower:
        follower.wait(write(address, 1))
    notes, done = restored(folder, directory / "place", "latest")
    try:
        assert (notes, ask(done.server.address, "SHOW wal_segment_size")) == ([1], "64MB")
    finally:
        done.server.delete()
    # An archive that is no archive, or of another server.
    state = read_state(folder)
    assert state
    replace(state, system_identifier="7").write(folder)
    assert reach(folder)[1] == "the archive in wal is of another server"
    shutil.rmtree(folder / WAL)
    (folder / WAL).touch()
    assert reach(folder)[1] == "wal is not the folder of an archive"


def interrupt_drop(address: URL, name: str) -> None:
    """Cancel a DROP DATABASE when it waits for another session: what it has begun, no rollback undoes."""
    invalid = f"SELECT count(*) FROM pg_database WHERE datname = '{name}' AND datconnlimit = -2"
    with psycopg.connect(readable(address)) as other:
        os.kill(other.info.backend_pid, signal.SIGSTOP)
        try:
            while not ask(address, invalid):
                with psycopg.connect(readable(address), autocommit=True) as connection:
                    connection.execute("SET statement_timeout = '200ms'")
                    with suppress(psycopg.errors.QueryCanceled):
                        connection.execute(f"DROP DATABASE {name}".encode())
        finally:
            os.kill(other.info.backend_pid, signal.SIGCONT)


def test_a_database_that_was_dropped_later_is_there_and_one_whose_drop_was_interrupted_is_named(
    origin: EmbeddedServer, folder: Path, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_sql(origin.address, "DELETE FROM notes")
    shop, number = origin.address.set(database="shop"), "SELECT oid::int FROM pg_database WHERE datname = 'shop'"
    run_sql(origin.address, "CREATE DATABASE shop STRATEGY file_copy")
    run_sql(shop, "CREATE TABLE goods AS SELECT generate_series(1, 100) AS id")
    with following(origin.address, folder) as follower:
        follower.wait(write(origin.address, 1))
    # No commit is between this moment and the removal of its files.
    moment, dropped = ask(origin.address, "SELECT clock_timestamp()"), ask(origin.address, number)
    run_sql(origin.address, "DROP DATABASE shop")
    end = ask(origin.address, "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
    run_sql(origin.address, "CREATE DATABASE shop")
    write(origin.address, 2)
    interrupt_drop(origin.address, "shop")
    with following(origin.address, folder) as follower:
        interrupted = write(origin.address, 3)
        follower.wait(write(origin.address, 4))
    notes, done = restored(folder, directory / "place", moment)
    goods = ask(done.server.address.set(database="shop"), "SELECT count(*) FROM goods")
    done.server.delete()
    assert (notes, goods) == ([1], 100)
    assert backup.drill_replay(folder, moment).contents["shop"].tables["public.goods"].rows == 100

    notes, done = restored(folder, directory / "place", interrupted)
    has_files = (done.server.data / "base" / str(ask(done.server.address, number))).exists()
    done.server.delete()
    assert done.replayed
    assert (notes, has_files, done.replayed.dropping) == ([1, 2, 3], True, ("shop",))
    show_replayed(done.replayed)
    assert "a DROP DATABASE of shop was interrupted" in capsys.readouterr().out
    run_sql(origin.address, "DROP DATABASE shop")

    # Between the removal of the files and the commit, which nothing separates but a moment.
    replay = point_in_time.replay_of(done.backup, interrupted)
    begin = lsn_of(done.backup.manifest.stop_lsn)
    numbered = [(number, path) for number, _, path in replay.reach.segments]
    commit = last_transaction(numbered, replay.segment_bytes, begin, end)
    assert commit
    with pytest.raises(backup.DatabaseBeingRemoved, match="was removing the files of shop"):
        replay.refuse_removed({"shop": dropped}, commit)
    replay.refuse_removed({"shop": dropped}, end)
    assert sorted(path.name for path in directory.iterdir()) == [HOSTILE]


def test_the_backup_of_a_restored_server_is_neither_taken_nor_removed_for_one_of_the_original(
    made: backup.Made, origin: EmbeddedServer, folder: Path, directory: Path
) -> None:
    run_sql(origin.address, "DELETE FROM notes")
    with following(origin.address, folder) as follower:
        follower.wait(write(origin.address, 1))
        _, done = restored(folder, directory / "place", "latest")
        run_sql(done.server.address, "INSERT INTO notes VALUES (9)")
        with Database(done.server.address) as database:
            other = backup.make(database, folder, keep=1)
        done.server.delete()
        moment = write(origin.address, 2)
        follower.wait(moment)
    assert other.removed == []
    assert "the log of the archive differs" in str(backup.restorable_until(other.backup)[1])
    at: backup.Moment
    for at in (moment, "latest"):
        assert backup.choose_before(folder, at) == folder / made.backup.path.name
        with pytest.raises(backup.NoArchive, match="the log of the archive differs"):
            backup.drill_replay(other.backup.path, at)
    drilled = backup.drill_replay(folder, "latest")
    assert drilled.contents["tatame"].tables["public.notes"].rows == 2
    assert remove_old(backup.Backup(folder / made.backup.path.name, made.backup.manifest), 1) == []


# --- Gaps -------------------------------------------------------------------------------------------------------------


def test_a_gap_is_named_and_left_only_where_that_is_chosen(fresh_server: EmbeddedServer, directory: Path) -> None:
    fresh_server.start()
    create_missing_database(fresh_server.address)
    address, folder = fresh_server.address, directory / "backups"
    run_sql(address, "CREATE TABLE notes (id int)")
    with Database(address) as database:
        backup.make(database, folder)
    with following(address, folder) as follower:
        before = write(address, 1)
        follower.wait(before)
    # Another drops the slot; the log that follows is still on the server.
    with Database(address) as database:
        slot = backup.stop_following(database, folder)
        assert slot
        assert backup.stop_following(database, folder) is None
    with following(address, folder) as follower:
        moment = write(address, 2)
        follower.wait(moment)
    assert any("has been dropped on the server" in words for words in follower.words)

    def lose() -> None:
        run_sql(address, "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
        run_sql(address, "SELECT pg_reload_conf()")
        try:
            while ask(address, f"SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{slot}'") != "lost":
                switch(address)
        finally:
            run_sql(address, "ALTER SYSTEM RESET max_slot_wal_keep_size")
            run_sql(address, "SELECT pg_reload_conf()")

    lose()
    assert "because it held too much" in end_of(address, folder).what
    with Database(address) as database:
        backup.stop_following(database, folder)
    assert "log that is not archived" in end_of(address, folder).what
    with following(address, folder, after_gap=True) as follower:
        after = write(address, 3)
        follower.wait(after)
    assert any("make a new base backup now" in words for words in follower.words)
    until, problem = reach(folder)
    assert moment < until < after
    assert str(problem).startswith("gap in the archive: ")
    notes, done = restored(folder, directory / "place", moment)
    done.server.delete()
    assert notes == [1, 2]
    refuse_to_skip(folder, done.backup.path, directory / "place", moment)
    archive = read_archive(folder)
    assert archive
    assert archive.marks[-1].time > after


def refuse_to_skip(folder: Path, path: Path, place: Path, moment: datetime) -> None:
    """Restore up to a gap only for the path of the backup before it, also what no mark has followed."""
    (folder / WAL / "earlier" / "1" / "marks").unlink()
    at: backup.Moment
    for named, at in ((folder, "latest"), (path, moment)):
        with pytest.raises(backup.GapInArchive, match="has a gap") as caught:
            backup.restore(named, place, at=at)
        assert f"`--at latest` and the path {path}" in caught.value.fix
    notes, done = restored(path, place, "latest")
    done.server.delete()
    assert notes == [1, 2]
    assert done.replayed
    assert done.replayed.before_gap


def set_back(server: EmbeddedServer, copy: Path) -> None:
    """Give a server the data that it had when it was copied, as a snapshot of its disk does."""
    server._stop("immediate")
    shutil.rmtree(server.data)
    subprocess.run(["cp", "-Rp", copy, server.data], check=True)
    server.start()


def test_no_other_history_of_the_server_is_archived_over_the_archive(
    fresh_server: EmbeddedServer, directory: Path
) -> None:
    fresh_server.start()
    create_missing_database(fresh_server.address)
    address, folder, copy = fresh_server.address, directory / "backups", directory / "copy"
    run_sql(address, "CREATE TABLE notes (id int)")
    with Database(address) as database:
        backup.make(database, folder)
    with following(address, folder) as follower:
        follower.wait(write(address, 1))
        # The archive ends at the beginning of a segment, and the server removes the one before.
        run_sql(address, "SELECT pg_switch_wal()")
        follower.wait(ask(address, "SELECT clock_timestamp()"))
        run_sql(address, "CHECKPOINT")
    fresh_server.stop()
    subprocess.run(["cp", "-Rp", fresh_server.data, copy], check=True)
    fresh_server.start()
    with following(address, folder) as follower:
        moment = write(address, 2)
        follower.wait(moment)
    archived, whole = ask(address, "SELECT pg_current_wal_lsn()"), directory / "whole"
    shutil.copytree(folder / WAL, whole)

    # As long as it has less log, and when it has more, within the same segment or behind it.
    set_back(fresh_server, copy)
    assert "log that the server lacks" in str(end_of(address, folder))
    written = write_beyond(address, archived)
    other = "the log of the server is not the one that is archived"
    assert other in str(end_of(address, folder))
    for _ in range(2):
        switch(address)
    for _ in range(2):
        assert other in str(end_of(address, folder))
    for path in segments(folder) + segments(folder, part=True):
        assert path.read_bytes() == (whole / path.name).read_bytes()
    assert other in str(reach(folder)[1])
    notes, done = restored(folder, directory / "place", "latest")
    assert notes == [1, 2]

    # A restored server is on a timeline of its own.
    done.server.delete()
    done = backup.restore(folder, directory / "place")
    run_sql(done.server.address, "INSERT INTO notes VALUES (1)")
    assert "without the log after it" in str(end_of(done.server.address, folder))
    done.server.delete()

    with following(address, folder, after_gap=True) as follower:
        follower.wait(write(address, 200))
        assert not any("dropped" in words for words in follower.words)
        with Database(address) as database:
            made = backup.make(database, folder)
        follower.wait(write(address, 201))
    older = next(one for one in backup.list_backups(folder) if one.path != made.backup.path)
    assert other in str(backup.restorable_until(backup.Backup(older.path, read_manifest(older.path)))[1])
    notes, done = restored(older.path, directory / "place", moment)
    done.server.delete()
    assert notes == [1, 2]
    assert backup.restorable_until(made.backup)[1] is None
    notes, done = restored(folder, directory / "place", "latest")
    done.server.delete()
    assert notes == [1, *written, 200, 201]


def test_what_cannot_be_followed_is_refused(origin: EmbeddedServer, folder: Path, directory: Path) -> None:
    def refused(address: URL, error: type[TatameError], words: str) -> None:
        with Database(address) as database, pytest.raises(error, match=words):
            backup.follow_wal(database, folder)

    refused(origin.address.set(username=Names().read_only), backup.FollowRefused, "lacks the right REPLICATION")
    with psycopg.connect(readable(origin.address), autocommit=True) as connection:
        free = int(ask(origin.address, "SHOW max_replication_slots"))
        for number in range(free):
            with suppress(psycopg.errors.ConfigurationLimitExceeded):
                connection.execute("SELECT pg_create_physical_replication_slot(%s)", [f"full_{number}"])
        run_sql(origin.address, f"SELECT pg_drop_replication_slot('{slot_of(folder)}')")
        connection.execute("SELECT pg_create_physical_replication_slot('full')")
        try:
            refused(origin.address, backup.SlotsTaken, "are in use")
        finally:
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name ~ 'full'"
            )

    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        # Also while the receiver has room left.
        patch.setattr(os, "fsync", fill)
        refused(origin.address, backup.ArchiveFull, "is full")
    assert not list((folder / WAL).glob("*.new"))
    with following(origin.address, folder) as follower:
        follower.wait(write(origin.address, 1))
    state = read_state(folder)
    assert state
    replace(state, system_identifier="7").write(folder)
    refused(origin.address, backup.ArchiveOfOther, "of another server")
    (directory / "file").touch()
    with Database(origin.address) as database, pytest.raises(backup.FolderUnusable):
        backup.follow_wal(database, directory / "file")


# --- Killed, cut, full ------------------------------------------------------------------------------------------------

KILLED = """
import os
from pathlib import Path
from tatame_db import backup
from tatame_db.database.pool import Database

with Database({address!r}) as database:
    backup.follow_wal(
        database,
        Path({folder!r}),
        backup.FollowChoices(mark_seconds=0.1),
        on_received=lambda _: os.kill(os.getpid(), 9),
    )
"""


def test_a_killed_follower_and_a_server_that_crashes_leave_no_gap(
    origin: EmbeddedServer, folder: Path, directory: Path, zygote: Zygote, tmp_path: Path
) -> None:
    run_sql(origin.address, "DELETE FROM notes")
    code = KILLED.format(address=readable(origin.address), folder=str(folder))
    for number in (1, 2):
        write(origin.address, number)
        assert zygote.run(cwd=tmp_path, environment=dict(os.environ), code=code).returncode == -9
        # As a full disk leaves it; pg_receivewal may still write there.
        with slots.alone(folder):
            [part] = segments(folder, part=True)
            os.truncate(part, 4_190_208)
    switch(origin.address)
    with following(origin.address, folder) as follower:
        follower.wait(write(origin.address, 3))
        origin._stop("immediate")
        origin.start()
        follower.wait(write(origin.address, 4))
        run_sql(origin.address, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
        follower.wait(write(origin.address, 5))
    assert any("lost" in words or "started again" in words for words in follower.words)
    notes, done = restored(folder, directory / "place", "latest")
    assert notes == [1, 2, 3, 4, 5]
    done.server.delete()


def test_a_link_that_stalls_is_named_and_given_up_and_holds_no_follower(
    fresh_server: EmbeddedServer, directory: Path
) -> None:
    port, folder = free_port(), directory / "backups"
    fresh_server.start(port)
    create_missing_database(fresh_server.address)
    here = fresh_server.address
    run_sql(here, "CREATE TABLE notes (id int)")
    with relay(port) as (through, flows):
        password = fresh_server.password_file.read_text()
        address = URL.create("postgresql+psycopg", "postgres", password, "127.0.0.1", through, "tatame")
        with following(address, folder) as follower, pytest.MonkeyPatch.context() as patch:
            flows.clear()
            patch.setattr(silence, "_WORDS_SECONDS", 0.2)
            patch.setattr(silence, "_LIMIT_SECONDS", 0.5)
            patch.setattr(receiver, "_END_SECONDS", 0.1)
            moment = write(here, 1)
            for words in ("the server has not answered for", "the connection is lost"):
                while not any(words in line for line in follower.words):
                    ask(here, "SELECT 1")
            patch.setattr(silence, "_LIMIT_SECONDS", 60)
            flows.set()
            follower.wait(moment)
            flows.clear()
            follower.end()
        flows.set()
        report_standstill(address, flows, directory)
        # A command ends at its second signal at once.
        environment = dict(os.environ) | {"DATABASE_URL": address.render_as_string(hide_password=False)}
        command = [sys.executable, "-m", "tatame_db", "backup", str(folder), "--follow", "--json"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout
            assert process.stdout.readline()
            flows.clear()
            while process.poll() is None:
                process.send_signal(signal.SIGTERM)
                ask(here, "SELECT 1")
        assert process.returncode == 130


class Stopped(Exception):
    """Ends a backup."""


def report_standstill(address: URL, flows: threading.Event, directory: Path) -> None:
    """Hold what the server sends to a backup in each of its stages."""
    words: list[str] = []

    def hold(stage: str) -> None:
        if stage in ("copying the server's files", "reading public.notes", "dumping the database"):
            flows.clear()

    def go_on(text: str) -> None:
        words.append(text)
        flows.set()
        if text.startswith("the copy has not grown for"):
            raise Stopped

    with Database(address) as database, pytest.MonkeyPatch.context() as patch:
        patch.setattr(silence, "_COPY_SECONDS", 0.2)
        patch.setattr(programs, "_LOOK_MS", 50)
        with pytest.raises(Stopped):
            backup.make(database, directory / "base", on_stage=hold, on_words=go_on)
        with pytest.raises(Stopped):
            backup.make_dump(database, directory / "dumps", on_stage=hold, on_words=go_on)
    assert any(text.endswith("s, reading public.notes") for text in words)


FULL = """
import sys
from pathlib import Path
from tatame_db import backup
from tatame_db.database.pool import Database

with Database(sys.argv[1]) as database:
    try:
        backup.follow_wal(database, Path(sys.argv[2]), backup.FollowChoices(mark_seconds=0.1))
    except backup.ArchiveFull as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone mounts file systems")
def test_a_full_disk_is_named_and_loses_nothing(origin: EmbeddedServer, directory: Path) -> None:
    script = 'mount -t tmpfs -o size=20m none "$2" && exec "$0" -c "$3" "$1" "$2"'
    arguments = [sys.executable, readable(origin.address), str(directory), FULL]
    with psycopg.connect(readable(origin.address), autocommit=True) as connection:
        try:
            process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-ec", script, *arguments], stdout=subprocess.PIPE, text=True
            )
            while process.poll() is None:
                connection.execute("SELECT pg_logical_emit_message(true, 'test', repeat('x', 1000000), true)")
            output = process.communicate()[0]
            assert "is full" in output
            assert "holds the rest on the server" in output
            lost = "SELECT FROM pg_replication_slots WHERE wal_status NOT IN ('reserved', 'extended')"
            assert connection.execute(lost).fetchall() == []
        finally:
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name <> 'since_backup'"
            )


# --- Failover ---------------------------------------------------------------------------------------------------------


def fail_back(pair: Pair, folder: Path, place: Path, moment: datetime) -> None:
    """Give up the standby, whose log an archive has up to a moment, for the old primary."""
    pair.pg_ctl("stop", "--mode=immediate")
    pair.primary.start()
    assert "was never on timeline 2" in str(end_of(pair.both, folder))
    with following(pair.both, folder, after_gap=True) as follower:
        follower.wait(write(pair.primary.address, 5))
    notes, done = restored(folder, place, moment)
    done.server.delete()
    assert notes == [1, 3]
    assert "was never on timeline 2" in str(reach(folder)[1])


@pytest.mark.long
def test_a_promoted_standby_is_followed_unless_it_lacks_what_is_archived(directory: Path) -> None:
    server = EmbeddedServer(directory / "primary", durable=False)
    try:
        with standby_pair(server, directory / "standby") as pair:
            run_sql(server.address, "CREATE TABLE notes (id int)")
            folder = directory / "backups"
            with Database(server.address) as database:
                backup.make(database, folder)
            with Database(pair.standby) as database, pytest.raises(backup.FollowRefused, match="it is a standby"):
                backup.follow_wal(database, folder)
            with following(pair.both, folder) as follower:
                follower.wait(write(server.address, 1))
            equal = directory / "equal"
            shutil.copytree(folder, equal, symlinks=True)
            run_sql(server.address, "SELECT pg_switch_wal()")
            lsn = ask(server.address, "SELECT pg_current_wal_lsn()")
            while not ask(pair.standby, f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'"):
                pass
            run_sql(pair.standby, "ALTER SYSTEM SET primary_conninfo = ''")
            run_sql(pair.standby, "SELECT pg_reload_conf()")
            while ask(server.address, "SELECT count(*) FROM pg_stat_replication"):
                pass
            with following(pair.both, folder) as follower:
                moment = write(server.address, 2)
                follower.wait(moment)
                pair.kill_primary()
                pair.promote()
                assert "without the log after it, which is archived" in str(follower.wait_for_end())
            # Another archive has all up to where the standby was promoted, the end of a segment, and no more.
            for path in segments(equal, part=True):
                path.unlink()
            for path in segments(folder):
                shutil.copy(path, equal / WAL)
            with following(pair.both, equal) as follower:
                third = write(pair.standby, 3)
                follower.wait(third)
            assert any("is not on the new primary yet" in words for words in follower.words)
            notes, done = restored(equal, directory / "place", "latest")
            done.server.delete()
            assert notes == [1, 3]
            assert reach(equal)[1] is None

            with following(pair.both, folder, after_gap=True) as follower:
                follower.wait(write(pair.standby, 4))
            with pytest.raises(backup.GapInArchive, match="without the log after it"):
                backup.restore(folder, directory / "place", at="latest")
            notes, done = restored(folder, directory / "place", moment)
            done.server.delete()
            assert notes == [1, 2]
            assert reach(folder)[0] > moment

            fail_back(pair, equal, directory / "place", third)
    finally:
        server.delete()
