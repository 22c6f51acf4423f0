"""What a copy leaves if a connection is cut or silent, a server is killed, a disk is full, or Ctrl-C is pressed."""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL
from tests.database.moves import ask, change, contents
from tests.forks import Zygote

from tatame_db import evolve, move
from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.database.pool import Database
from tatame_db.errors import TatameError
from tatame_db.evolve import catalogue
from tatame_db.move.rehearsal.project import SUPABASE_SCHEMA
from tatame_db.schema import phases
from tatame_db.server.embedded import EmbeddedServer

COMMAND = Path(sys.executable).with_name("tatame-db")
HERE = Path(__file__).parent.parent
ROWS = 5_000
KEPT = move.Choices(rejects="keep")
connecting = importlib.import_module("tatame_db.move.connection")


class Wire:
    """A proxy that carries bytes between a client and a server, until it is cut or held."""

    def __init__(self, server: URL) -> None:
        self.path = f"{server.query['host']}/.s.PGSQL.5432"
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = server.set(host="127.0.0.1", port=self.listener.getsockname()[1], query={"sslmode": "disable"})
        self.carried, self.cut_at, self.hold_at = 0, sys.maxsize, sys.maxsize
        self.held, self.free = threading.Event(), threading.Event()
        self.ends: list[socket.socket] = []
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.socket(socket.AF_UNIX)
                self.ends += [client, server]
                server.connect(self.path)
                for pair in ((client, server), (server, client)):
                    thread = threading.Thread(target=self._carry, args=pair)
                    self.threads.append(thread)
                    thread.start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                self.carried += len(data)
                if self.carried > self.hold_at:
                    self.held.set()
                    self.free.wait()
                if self.carried > self.cut_at:
                    # By then, half of a message has passed.
                    sink.sendall(data[: len(data) // 2])
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.free.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        # Otherwise a connection that has just been accepted would stay open, and its threads with it.
        self.threads[0].join()
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
        for end in self.ends:
            end.close()


@pytest.fixture
def wire() -> Generator[Callable[[URL], Wire]]:
    wires: list[Wire] = []

    def between(server: URL) -> Wire:
        wires.append(Wire(server))
        return wires[-1]

    yield between
    for each in wires:
        each.close()


def forget(address: URL) -> None:
    """Empty the target and delete the record of the copy."""
    change(address, f"TRUNCATE {', '.join(phases())} RESTART IDENTITY; DROP SCHEMA tatame_move CASCADE")


def copy(source: URL, target: URL, **options: Any) -> move.Report:
    with Database(target) as database, move.open_for_writing(source, database.engine, lambda: None) as both:
        return move.copy(both, **options)


def is_whole(source: URL, target: URL) -> bool:
    """Copy once more, and return whether the target is then equal, with all keys and indexes."""
    copy(source, target)
    with Database(target) as database, move.open_for_reading(source, database.engine) as both:
        status = move.status(both.target)
        assert (status.parked, status.unvalidated_keys) == ([], [])
        return move.verify(both).unequal == []


def schema(address: URL) -> catalogue.Catalogue:
    with Database(address) as database, database.engine.connect() as connection:
        return catalogue.read(connection)


@pytest.fixture
def filled(supabase: URL) -> URL:
    change(supabase, f"INSERT INTO checkins (id) SELECT n FROM generate_series(100000, {99_999 + ROWS}) AS n")
    return supabase


@pytest.mark.parametrize("database", ["source", "target"])
def test_a_connection_cut_anywhere_leaves_each_table_unchanged_or_complete(
    filled: URL, address: URL, wire: Callable[[URL], Wire], database: str
) -> None:
    before = schema(address)
    between = wire(filled if database == "source" else address)
    source, target = (between.address, address) if database == "source" else (filled, between.address)
    copy(source, target)
    carried, complete = between.carried, contents(address)
    empty: dict[str, list[tuple[Any, ...]]] = {table: [] for table in phases()}
    chance = random.Random(database)  # noqa: S311, moments and no secrets
    cuts = 0
    for share in (0.0, 0.001, 0.03, *(chance.random() for _ in range(3))):
        forget(address)
        between.cut_at = between.carried + int(share * carried)
        with contextlib.suppress(TatameError):
            copy(source, target)
            cuts -= 1
        cuts += 1
        for table, rows in contents(address).items():
            assert rows in (empty[table], complete[table])
        between.cut_at = sys.maxsize
        assert is_whole(filled, address)
        assert contents(address) == complete
        assert schema(address) == before
    assert cuts >= 4


def test_a_silent_source_is_aborted(
    filled: URL, address: URL, wire: Callable[[URL], Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    between = wire(filled)
    copy(between.address, address)
    carried, complete = between.carried, contents(address)
    monkeypatch.setattr(connecting, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(connecting, "_CANCEL_SECONDS", 0.2)
    # During the queries before the copy, and during the stream of rows.
    for share in (0.02, 0.6):
        forget(address)
        held = wire(filled)
        held.hold_at = int(share * carried)
        with pytest.raises(move.ConnectionLost, match="no data arrived"):
            copy(held.address, address)
        assert held.held.is_set()
        assert is_whole(filled, address)
        assert contents(address) == complete


@pytest.mark.parametrize("share", [0.02, 0.6])
def test_ctrl_c_ends_a_copy_even_if_the_source_is_silent(
    filled: URL, address: URL, wire: Callable[[URL], Wire], share: float
) -> None:
    between = wire(filled)
    copy(between.address, address)
    complete = contents(address)
    forget(address)
    between.hold_at = between.carried + int(share * between.carried)
    variables = {"SUPABASE_DB_URL": readable(between.address), "DATABASE_URL": readable(address)}
    copying = subprocess.Popen(
        [COMMAND, "move", "copy"],
        env={"PATH": os.environ["PATH"]} | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert between.held.wait(60)
        copying.send_signal(signal.SIGINT)
        _, output = copying.communicate(timeout=60)
    finally:
        copying.kill()
    assert copying.returncode == 130, output
    assert "interrupted: unfinished changes to the database were rolled back" in output
    assert "Traceback" not in output
    assert is_whole(filled, address)
    assert contents(address) == complete


def _kill(server: EmbeddedServer) -> None:
    """Kill all processes of a server, as a power failure does."""
    postmaster = int((server.data / "postmaster.pid").read_text().splitlines()[0])
    # Stopped first; otherwise it would replace the first processes that die.
    os.kill(postmaster, signal.SIGSTOP)
    for process in Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split():
        os.kill(int(process), signal.SIGKILL)
    os.kill(postmaster, signal.SIGKILL)
    # On a busy machine it ends later, and a start would take it for a server that runs.
    while server._live_postmaster():
        time.sleep(0.01)


def _durable(directory: Path) -> EmbeddedServer:
    """Start a server that flushes what it commits to the disk."""
    server = EmbeddedServer(directory / "server")
    server.start()
    create_missing_database(server.address)
    return server


@pytest.fixture
def source(directory: Path) -> Generator[EmbeddedServer]:
    server = _durable(directory)
    for file in (SUPABASE_SCHEMA, HERE / "supabase_rows.sql"):
        change(server.address, file.read_text())
    yield server
    server.delete()


@pytest.fixture
def target(directory: Path) -> Generator[EmbeddedServer]:
    server = _durable(directory)
    with Database(server.address) as empty:
        evolve.migrate(empty.engine)
    yield server
    server.delete()


# A source over REST alone is read a second time.
STAGES = [stage for stage in move.Stage if stage is not move.Stage.REREAD]


def killed_at_each_stage(source: URL, target: URL, kill: Callable[[move.Stage], None]) -> list[move.Stage]:
    """Let a function kill a part of the copy as each stage begins; return the stages after which the copy succeeded.

    Each time the copy starts with an empty target. A table is unchanged or complete afterwards, the record says that
    the copy is not proven unless it succeeded, and the next copy makes both equal.
    """
    before = schema(target)
    change(source, "INSERT INTO checkins (id, date) VALUES (500000, 'infinity')")
    copy(source, target, choices=KEPT)
    complete = contents(target)
    empty: dict[str, list[tuple[Any, ...]]] = {table: [] for table in phases()}
    succeeded: list[move.Stage] = []
    for stage in STAGES:
        forget(target)
        try:
            kill(stage)
            succeeded.append(stage)
        except move.ConnectionLost:
            pass
        proven = ask(target, "SELECT to_regclass('tatame_move.runs') IS NOT NULL") == [(True,)] and ask(
            target, "SELECT count(*) FROM tatame_move.runs WHERE outcome = 'proven'"
        ) == [(1,)]
        assert proven == (stage in succeeded), stage
        for table, rows in contents(target).items():
            assert rows in (empty[table], complete[table]), (stage, table)
        copy(source, target, choices=KEPT)
        with Database(target) as database, move.open_for_reading(source, database.engine) as both:
            assert move.verify(both).equal_but_for_choices, stage
            status = move.status(both.target)
        assert (status.parked, status.unvalidated_keys) == ([], []), stage
        assert contents(target) == complete, stage
        assert schema(target) == before, stage
    return succeeded


def once(stage: move.Stage, act: Callable[[], object]) -> Callable[[move.Stage, str | None], None]:
    """Return a function that acts when this stage begins for the first time."""
    remaining = [stage]

    def on_stage(begun: move.Stage, _: str | None) -> None:
        if begun in remaining:
            remaining.clear()
            act()

    return on_stage


def killing(server: EmbeddedServer, source: URL, target: URL) -> Callable[[move.Stage], None]:
    """Return a function that copies, kills this server as a stage begins, and starts it again."""

    def kill(stage: move.Stage) -> None:
        try:
            copy(source, target, choices=KEPT, on_stage=once(stage, lambda: _kill(server)))
        finally:
            server.start()

    return kill


@pytest.mark.long
def test_a_source_killed_at_any_stage_leaves_each_table_unchanged_or_complete(
    source: EmbeddedServer, address: URL
) -> None:
    kill = killing(source, source.address, address)
    # The proof of the rows is over by then, so the source is no longer needed.
    assert killed_at_each_stage(source.address, address, kill) == [move.Stage.CONFIRM, move.Stage.RECORD]


@pytest.mark.long
def test_a_target_killed_at_any_stage_leaves_each_table_unchanged_or_complete(
    supabase: URL, target: EmbeddedServer
) -> None:
    kill = killing(target, supabase, target.address)
    assert killed_at_each_stage(supabase, target.address, kill) == []


CLIENT = """
import os, signal, sys
from sqlalchemy import make_url
from tatame_db import move
from tatame_db.database.pool import Database

def kill(stage, table):
    if stage.name == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)

with Database(sys.argv[2]) as database:
    with move.open_for_writing(make_url(sys.argv[1]), database.engine, lambda: None) as both:
        move.copy(both, choices=move.Choices(rejects="keep"), on_stage=kill)
"""


@pytest.mark.long
def test_a_client_killed_at_any_stage_leaves_each_table_unchanged_or_complete(
    supabase: URL, address: URL, zygote: Zygote, tmp_path: Path
) -> None:
    def kill(stage: move.Stage) -> None:
        addresses = [each.render_as_string(hide_password=False) for each in (supabase, address)]
        done = zygote.run(*addresses, stage.name, cwd=tmp_path, environment=dict(os.environ), code=CLIENT)
        assert done.returncode == -signal.SIGKILL
        raise move.ConnectionLost(database="client", reason="killed")

    assert killed_at_each_stage(supabase, address, kill) == []


def test_a_full_disk_of_the_target_is_reported_and_rolled_back(filled: URL, address: URL) -> None:
    with psycopg.connect(readable(address), autocommit=True) as connection:
        [(place,)] = connection.execute(
            "SELECT current_setting('data_directory') || '/' || pg_relation_filepath('checkins')"
        )
    table, hidden = Path(place), Path(f"{place}.hidden")
    table.rename(hidden)
    table.symlink_to("/dev/full")
    try:
        with pytest.raises(move.ResourceExhausted, match="No space left on device") as caught:
            copy(filled, address)
        assert (caught.value.database, caught.value.resource) == ("target", "disk")
    finally:
        table.unlink()
        hidden.rename(table)
    assert len(contents(address)["checkins"]) == 0
    assert is_whole(filled, address)
