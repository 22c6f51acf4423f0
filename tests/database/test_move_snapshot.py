"""The moment at which both databases are read: no table is emptied or rewritten unnoticed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL, Engine
from tests.conftest import HERE, foreign_server, on_both_versions
from tests.database.moves import Copy, ask, change, contents, copy_into

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.move import jobs, snapshot
from tatame_db.move.connection import MoveConnection
from tatame_db.move.open import reopen
from tatame_db.move.rehearsal.project import SUPABASE_SCHEMA
from tatame_db.move.snapshot import LockWait
from tatame_db.schema import phases
from tatame_db.server.embedded import EmbeddedServer

# The statements after which an older snapshot sees no rows.
REWRITES = {
    "truncate": "BEGIN; CREATE TEMPORARY TABLE kept ON COMMIT DROP AS TABLE public.{table}; TRUNCATE public.{table};"
    " INSERT INTO public.{table} TABLE kept; COMMIT",
    "add a column": "ALTER TABLE public.{table} ADD COLUMN token uuid DEFAULT gen_random_uuid()",
    "change a type": "ALTER TABLE public.{table} ALTER created_at TYPE timestamptz USING created_at + interval '0'",
    "vacuum": "VACUUM FULL public.{table}",
    "cluster": "CLUSTER public.{table} USING {table}_pkey",
}
ROWS = HERE / "supabase_rows.sql"
LEAVE = move.Choices(unknown="leave")


@pytest.fixture
def copy(supabase: URL, engine: Engine) -> Copy:
    return copy_into(supabase, engine, choices=LEAVE)


@contextlib.contextmanager
def locked(address: URL, table: str) -> Generator[Callable[[], None]]:
    """Hold a lock on a table against readers; yields a function that waits until one waits for it."""
    with psycopg.connect(readable(address)) as holder:
        holder.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())

        def wait() -> None:
            query = f"SELECT FROM pg_locks WHERE relation = 'public.{table}'::regclass AND NOT granted"
            while not ask(address, query):
                time.sleep(0.01)

        yield wait


@pytest.fixture
def before_lock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[MoveConnection], None]], None]:
    """Do something each time between the reading of the tables' names and their lock."""
    lock = snapshot._lock

    def set_up(work: Callable[[MoveConnection], None]) -> None:
        def work_first(connection: MoveConnection, names: list[str]) -> None:
            work(connection)
            lock(connection, names)

        monkeypatch.setattr(snapshot, "_lock", work_first)

    return set_up


# --- Tables that are emptied or rewritten while a command begins ------------------------------------------------------


@pytest.mark.parametrize("rewrite", REWRITES)
def test_a_source_that_is_rewritten_while_a_copy_begins_arrives_whole(
    copy: Copy, supabase: URL, engine: Engine, expected_target: URL, rewrite: str
) -> None:
    copy()
    with ThreadPoolExecutor(1) as pool:
        with locked(supabase, "roles") as wait:
            copying = pool.submit(copy)
            wait()
            change(supabase, *REWRITES[rewrite].format(table="checkins").split("; "))
        [checkins] = [table for table in copying.result().tables if table.table == "checkins"]
    assert checkins.rows == 2
    assert contents(engine.url) == contents(expected_target)


@pytest.mark.parametrize("database", ["source", "target"])
@pytest.mark.parametrize("command", ["verify", "counts", "plan"])
def test_tables_that_are_rewritten_while_a_comparison_begins_are_read_whole(
    copy: Copy, supabase: URL, engine: Engine, database: str, command: str
) -> None:
    copy()
    address = supabase if database == "source" else engine.url

    def compare() -> object:
        with move.open_for_reading(supabase, engine) as connections:
            if command == "verify":
                return {table.table: table.source_rows for table in move.verify(connections).tables if table.equal}
            if command == "counts":
                return {count.table: count.source for count in move.counts(connections) if count.agrees}
            return {table.table: table.rows for table in move.plan(connections).tables}

    whole = compare()
    with ThreadPoolExecutor(1) as pool:
        with locked(address, "roles") as wait:
            comparing = pool.submit(compare)
            wait()
            for table in ("users", "checkins"):
                change(address, f"VACUUM FULL {table}")
            change(address, *REWRITES["truncate"].format(table="graduations").split("; "))
        assert comparing.result() == whole


@on_both_versions
@pytest.mark.parametrize("rewrite", REWRITES)
def test_a_table_that_is_rewritten_after_the_snapshot_is_noticed(
    copy: Copy, supabase: URL, monkeypatch: pytest.MonkeyPatch, rewrite: str
) -> None:
    lock, attempts = snapshot._lock, []

    def lock_late(connection: MoveConnection, names: list[str]) -> None:
        attempts.append(connection.name)
        if attempts == ["source"]:
            connection.rows("SELECT")
            change(supabase, *REWRITES[rewrite].format(table="checkins").split("; "))
        lock(connection, names)

    monkeypatch.setattr(snapshot, "_lock", lock_late)
    assert next(table.rows for table in copy().tables if table.table == "checkins") == 2
    assert attempts == ["source", "source"]


def test_a_table_that_is_replaced_before_its_lock_is_locked_too(
    supabase: URL, engine: Engine, before_lock: Callable[[Callable[[MoveConnection], None]], None]
) -> None:
    statements = [
        "ALTER TABLE versions RENAME TO older",
        "CREATE TABLE versions (LIKE older INCLUDING ALL)",
        "CREATE TABLE newest (id bigint)",
        "DROP TABLE older",
    ]

    def replace(connection: MoveConnection) -> None:
        if connection.name == "source" and statements:
            change(supabase, statements.pop(0))

    before_lock(replace)
    with move.open_for_reading(supabase, engine) as connections:
        locks = "SELECT relation::regclass::text FROM pg_locks WHERE pid = pg_backend_pid() AND relation > 16383"
        names = {name for (name,) in connections.source.rows(locks)}
        assert {f"public.{table}" for table in phases()} <= names
        assert not connections.source.rows("SELECT FROM pg_tables WHERE tablename = 'newest'") or (
            "public.newest" in names
        )


def test_every_table_stays_locked_until_the_end(supabase: URL, engine: Engine) -> None:
    change(
        supabase,
        "CREATE TABLE events (id bigint, day date) PARTITION BY RANGE (day)",
        "CREATE TABLE events_2024 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')",
        'CREATE TABLE "Strange 100%s" (id bigint)',
        "CREATE SCHEMA more",
        "CREATE TABLE more.users (nickname text) INHERITS (public.users)",
        "ALTER TABLE attachments RENAME TO files; CREATE VIEW attachments AS SELECT * FROM files",
    )
    tables = [*phases(), "files", "events", "events_2024", '"Strange 100%s"', "more.users"]
    with move.open_for_reading(supabase, engine), psycopg.connect(readable(supabase), autocommit=True) as other:
        other.execute("SET lock_timeout = '1ms'")
        for table in tables:
            kind = "VIEW" if table == "attachments" else "TABLE"
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute(f"ALTER {kind} {table} RENAME TO gone".encode())
    with move.open_for_reading(supabase, engine), psycopg.connect(readable(engine.url), autocommit=True) as other:
        other.execute("SET lock_timeout = '1ms'")
        for table in phases():
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute(f'TRUNCATE "{table}" CASCADE'.encode())


def test_a_materialized_view_that_is_refreshed_meanwhile_is_read_as_of_one_moment(
    copy: Copy, supabase: URL, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(
        supabase,
        "ALTER TABLE attachments RENAME TO files",
        "CREATE MATERIALIZED VIEW attachments AS SELECT * FROM files",
        "DELETE FROM files",
    )
    take, attempts = snapshot._take_snapshot, []

    def refresh_meanwhile(connection: MoveConnection, exported: str | None) -> None:
        if connection.name == "source":
            attempts.append(connection.rows("SELECT"))
            if len(attempts) == 1:
                change(supabase, "REFRESH MATERIALIZED VIEW attachments")
        take(connection, exported)

    monkeypatch.setattr(snapshot, "_take_snapshot", refresh_meanwhile)
    copy()
    assert ask(engine.url, "SELECT count(*) FROM attachments") == [(0,)]
    assert len(attempts) == 2


# --- A standby --------------------------------------------------------------------------------------------------------


@pytest.fixture
def standby(directory: Path) -> Generator[tuple[URL, URL]]:
    """Return the addresses of a project on a primary server, and of its copy on a standby that never waits."""
    owner = EmbeddedServer(directory / "owner")
    programs = owner._server_programs

    def run(name: str, *arguments: str | Path) -> None:
        environment = {"LC_ALL": "C", "PATH": os.environ["PATH"]}
        null = subprocess.DEVNULL
        subprocess.run(
            [programs / name, *arguments],
            check=True,
            cwd=directory,
            stdin=null,
            stdout=null,
            stderr=null,
            env=environment,
            **owner._as_owner,
        )

    with foreign_server(programs, home := directory / "primary") as primary:
        create_missing_database(primary)
        for file in (SUPABASE_SCHEMA, ROWS):
            change(primary, file.read_text())
        copied = home / "standby"
        run("pg_basebackup", f"--host={home}", "--username=postgres", f"--pgdata={copied}", "-R", "--checkpoint=fast")
        options = f"-c listen_addresses='' -c unix_socket_directories={home} -c port=6543 -c fsync=off"
        options += " -c max_standby_streaming_delay=0"
        run("pg_ctl", "start", "-w", f"--pgdata={copied}", f"--log={home}/standby.log", f"--options={options}")
        try:
            yield primary, primary.set(query={"host": str(home), "port": "6543"})
        finally:
            run("pg_ctl", "stop", "-w", f"--pgdata={copied}", "--mode=immediate")


def test_a_standby_is_moved_and_proven_although_its_primary_goes_on(standby: tuple[URL, URL], engine: Engine) -> None:
    primary, source = standby
    for number in (1, 2):
        copy_into(source, engine, jobs=number)()
    with move.open_for_reading(source, engine) as connections:
        assert move.plan(connections).complete
        assert move.verify(connections).equal
        assert all(count.agrees for count in move.counts(connections))
        # The standby ends the session rather than delay the TRUNCATE.
        change(primary, "TRUNCATE checkins")
        while ask(source, "SELECT FROM pg_stat_activity WHERE application_name = 'tatame-db move'"):
            time.sleep(0.01)
        with pytest.raises(move.StandbyConflict) as caught:
            move.verify(connections)
        assert caught.value.database == "source"
    with pytest.raises(move.TablesEmptied):
        copy_into(source, engine)()


# --- What cannot be locked --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", ["source", "target"])
def test_a_table_that_stays_locked_is_named_with_the_process(
    supabase: URL, engine: Engine, monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    monkeypatch.setattr(snapshot, "WAIT_SECONDS", 0)
    monkeypatch.setattr(snapshot, "_LOCK_TIMEOUT_MS", 10)
    address = supabase if database == "source" else engine.url
    with psycopg.connect(readable(address)) as holder:
        holder.execute("LOCK TABLE class IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(move.TablesLocked) as caught, move.open_for_reading(supabase, engine):
            pass
        assert (caught.value.database, caught.value.tables) == (database, ["class"])
        assert caught.value.processes == [holder.info.backend_pid]


@pytest.mark.parametrize("database", ["source", "target"])
def test_a_wait_for_a_lock_is_reported_once_while_it_lasts(
    supabase: URL, engine: Engine, monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    monkeypatch.setattr(snapshot, "_SAY_AFTER_SECONDS", 0)
    monkeypatch.setattr(snapshot, "_LOCK_TIMEOUT_MS", 10)
    waits: list[LockWait] = []
    address = supabase if database == "source" else engine.url
    with psycopg.connect(readable(address)) as holder:
        process = holder.info.backend_pid
        holder.execute("LOCK TABLE class IN ACCESS EXCLUSIVE MODE")

        def release(wait: LockWait) -> None:
            waits.append(wait)
            holder.rollback()

        with move.open_for_reading(supabase, engine, release):
            pass
    assert waits == [LockWait(database, ["class"], [process])]
    assert str(waits[0]) == f"tables of the {database} are locked: class, by the process {process}"


def test_tables_that_never_stay_the_same_are_refused(
    supabase: URL,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    before_lock: Callable[[Callable[[MoveConnection], None]], None],
) -> None:
    monkeypatch.setattr(snapshot, "WAIT_SECONDS", 0)

    def create(connection: MoveConnection) -> None:
        if connection.name == "source":
            change(supabase, "DROP TABLE IF EXISTS restless", "CREATE TABLE restless (id bigint)")

    before_lock(create)
    with pytest.raises(move.TablesChanging) as caught, move.open_for_reading(supabase, engine):
        pass
    assert (caught.value.database, caught.value.tables) == ("source", ["restless"])


def test_a_schema_change_that_waits_for_the_copy_does_not_block_its_jobs(
    supabase: URL, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadPoolExecutor(1) as pool:
        altering: list[Future[None]] = []

        def alter_first(connections: move.Connections, exported: str) -> AbstractContextManager[move.Connections]:
            if not altering:
                altering.append(pool.submit(change, supabase, "ALTER TABLE checkins ADD COLUMN later text"))
                waits = "SELECT FROM pg_locks WHERE relation = 'public.checkins'::regclass AND NOT granted"
                while not ask(supabase, waits):
                    time.sleep(0.01)
                monkeypatch.setattr(snapshot, "WAIT_SECONDS", 0)
            return reopen(connections, exported)

        monkeypatch.setattr(jobs, "reopen", alter_first)
        with pytest.raises(move.TablesLocked) as caught:
            copy_into(supabase, engine, jobs=2)()
        altering[0].result()
    assert caught.value.tables == ["checkins"]
    assert ask(engine.url, "SELECT count(*) FROM users") == [(0,)]
    monkeypatch.undo()
    copy_into(supabase, engine, jobs=2)()


def test_a_role_without_usage_on_the_schema_is_refused(supabase: URL, engine: Engine) -> None:
    role = f"reader_{supabase.database}"
    change(supabase, f"CREATE ROLE {role} LOGIN BYPASSRLS; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    change(supabase, "REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    try:
        with (
            pytest.raises(move.SourceUnreadable, match="no USAGE on the schema public"),
            move.open_for_reading(supabase.set(username=role), engine),
        ):
            pass
    finally:
        change(supabase, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_view_that_the_role_cannot_read_is_refused(supabase: URL, engine: Engine) -> None:
    role = f"reader_{supabase.database}"
    change(
        supabase,
        "ALTER TABLE attachments RENAME TO files",
        "CREATE SCHEMA private",
        "ALTER TABLE files SET SCHEMA private",
        "CREATE VIEW attachments WITH (security_invoker) AS SELECT * FROM private.files",
        f"CREATE ROLE {role} LOGIN BYPASSRLS; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
    )
    try:
        with (
            pytest.raises(move.SourceUnreadable, match="permission denied"),
            move.open_for_reading(supabase.set(username=role), engine),
        ):
            pass
    finally:
        change(supabase, f"DROP OWNED BY {role}; DROP ROLE {role}")


# --- Tables that are empty now ----------------------------------------------------------------------------------------


def test_a_table_that_is_empty_now_is_refused_until_it_is_accepted(copy: Copy, supabase: URL, engine: Engine) -> None:
    copy()
    before = contents(engine.url)
    change(supabase, "TRUNCATE checkins, notifications")
    for options in ({}, {"replace_rows": True}, {"jobs": 2}):
        with pytest.raises(move.TablesEmptied) as caught:
            copy(**options)
        assert caught.value.rows == {"checkins": 2, "notifications": len(before["notifications"])}
        assert contents(engine.url) == before
    # Tables that are not part of a copy do not matter to it.
    copy("users")
    with pytest.raises(move.TablesEmptied):
        copy("checkins")
    copy(accept_emptied=True)
    assert ask(engine.url, "SELECT count(*) FROM checkins") == [(0,)]
    copy()


def test_a_table_that_is_gone_counts_as_empty(copy: Copy, supabase: URL, engine: Engine) -> None:
    copy()
    change(supabase, "ALTER TABLE attachments RENAME TO files")
    with pytest.raises(move.TablesEmptied) as caught:
        copy()
    assert list(caught.value.rows) == ["attachments"]
    assert ask(engine.url, "SELECT count(*) > 0 FROM attachments") == [(True,)]


def test_kept_rows_are_not_lost_because_their_table_is_empty_now(supabase: URL, engine: Engine) -> None:
    change(
        supabase,
        "CREATE TABLE payments (id bigint PRIMARY KEY); INSERT INTO payments VALUES (1), (2)",
        'ALTER TABLE checkins DROP CONSTRAINT "checkins_userId_fkey"; UPDATE checkins SET "userId" = 999',
    )
    copy = copy_into(supabase, engine, choices=move.Choices(orphans="reject", unknown="keep"))
    copy()
    kept = ask(engine.url, "SELECT table_name, count(*) FROM tatame_move.rejects GROUP BY 1 ORDER BY 1")
    assert kept == [("checkins", 2), ("payments", 2)]
    change(supabase, "TRUNCATE checkins, payments")
    with pytest.raises(move.TablesEmptied) as caught:
        copy()
    assert caught.value.rows == {"checkins": 2, "payments": 2}
    assert ask(engine.url, "SELECT table_name, count(*) FROM tatame_move.rejects GROUP BY 1 ORDER BY 1") == kept
    change(supabase, "DROP TABLE payments")
    with pytest.raises(move.TablesEmptied):
        copy()
    copy(accept_emptied=True)
    assert ask(engine.url, "SELECT count(*) FROM tatame_move.rejects") == [(0,)]
