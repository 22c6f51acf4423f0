"""The databases and factories of the test kit, on a real server."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from inspect import signature
from pathlib import Path
from typing import IO

import psycopg
import pytest
from sqlalchemy import URL, func, select, text
from sqlalchemy import inspect as mapper_of
from sqlalchemy.exc import NotSupportedError
from sqlalchemy.orm import Session
from tests.conftest import free_port, new_directory

from tatame_db.database.address import readable
from tatame_db.database.errors import DatabaseNotCreated, PasswordRejected, ServerNotRunning
from tatame_db.database.pool import Database
from tatame_db.evolve import DirectAddressNeeded
from tatame_db.schema import Base, Checkin, Graduation, Gym, User
from tatame_db.server import run_directory
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.testing import clear_test_data, factories, runs, setup_test_database, teardown_test_database
from tatame_db.testing.factories import a_checkin, a_graduation, a_gym, a_user
from tatame_db.testing.runs import NotATestDatabase, NoTestDatabase, Run
from tatame_db.testing.sandbox import NotCreatedByTests, Sandbox

FACTORIES: dict[str, Callable[..., Base]] = {
    name: factory for name, factory in vars(factories).items() if name.startswith(("a_", "an_"))
}


def users(database: Database) -> int:
    with database.session() as session:
        return session.scalars(select(func.count()).select_from(User)).one()


# --- The fixtures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [1, 2])
def test_a_committed_database_is_empty_and_its_ids_start_at_1(committed_database: Database, turn: int) -> None:
    with committed_database.session.begin() as session:
        user = a_user()
        session.add(user)
    assert (user.id, users(committed_database)) == (1, 1), turn


# --- Databases that come and go --------------------------------------------------------------------------------------


ALIVE, DEAD, CURRENT = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"


@pytest.fixture(scope="module")
def shared_server() -> Generator[EmbeddedServer]:
    """Start a server that does not belong to the run, as the one in `TEST_DATABASE_URL`."""
    place = new_directory()
    server = EmbeddedServer(place / "server", durable=False)
    server.start()
    yield server
    server.delete()
    place.rmdir()


@pytest.fixture
def postgres(shared_server: EmbeddedServer) -> Generator[psycopg.Connection]:
    """Connect to the server, and drop afterwards the databases that the test left."""
    with psycopg.connect(host=str(shared_server.directory), user="postgres", autocommit=True) as connection:
        before = names(connection)
        yield connection
        for name in names(connection) - before:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def shared_url(shared_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set `TEST_DATABASE_URL` to the server."""
    address = shared_server.address.set(database="tatame_test")
    monkeypatch.setenv("TEST_DATABASE_URL", readable(address))


def names(postgres: psycopg.Connection) -> set[str]:
    return {name for (name,) in postgres.execute("SELECT datname FROM pg_database")}


def test_a_database_that_no_run_created_is_not_dropped(
    shared_server: EmbeddedServer, postgres: psycopg.Connection
) -> None:
    postgres.execute("CREATE DATABASE shop_test")
    postgres.execute("CREATE DATABASE tatame_0123456789ab_test")
    postgres.execute("CREATE DATABASE other_test")
    postgres.execute("COMMENT ON DATABASE other_test IS 'made for the tests of another package: run cccccccccccc, 1'")
    with closing(Sandbox(shared_server.address, CURRENT)) as sandbox:
        for name in ("postgres", "shop_test", "tatame_0123456789ab_test", "other_test"):
            with pytest.raises(NotCreatedByTests) as caught:
                sandbox.drop(name)
            assert caught.value.name == name
        sandbox.drop_all()
        sandbox.drop_leftovers()
    assert names(postgres) >= {"shop_test", "tatame_0123456789ab_test", "other_test"}


def test_a_database_with_a_name_not_for_tests_is_not_dropped_despite_its_comment(
    shared_server: EmbeddedServer, postgres: psycopg.Connection
) -> None:
    with closing(Sandbox(shared_server.address, CURRENT)) as sandbox:
        postgres.execute(f'ALTER DATABASE "{sandbox.create().database}" RENAME TO precious')
        with pytest.raises(NotCreatedByTests):
            sandbox.drop("precious")
        sandbox.drop_all()
    assert "precious" in names(postgres)


def test_only_the_databases_of_dead_runs_are_leftovers(
    shared_server: EmbeddedServer, postgres: psycopg.Connection
) -> None:
    with closing(Sandbox(shared_server.address, DEAD)) as sandbox:
        dead = {str(sandbox.create().database) for _ in range(2)}
    with (
        closing(Sandbox(shared_server.address, ALIVE)) as other,
        closing(Sandbox(shared_server.address, CURRENT)) as current,
    ):
        alive = {str(other.create().database), str(current.create().database)}
        assert dead | alive <= names(postgres)
        current.drop_leftovers()
        assert not dead & names(postgres)
        assert alive <= names(postgres)


def test_a_run_is_alive_while_one_of_its_processes_is(
    shared_server: EmbeddedServer, postgres: psycopg.Connection
) -> None:
    with closing(Sandbox(shared_server.address, ALIVE)), closing(Sandbox(shared_server.address, CURRENT)) as current:
        with closing(Sandbox(shared_server.address, ALIVE)) as gone:
            name = gone.create().database
        current.drop_leftovers()
        assert name in names(postgres)


def test_a_run_drops_its_own_databases_alone_even_with_open_connections(
    shared_server: EmbeddedServer, postgres: psycopg.Connection
) -> None:
    with (
        closing(Sandbox(shared_server.address, ALIVE)) as other,
        closing(Sandbox(shared_server.address, CURRENT)) as current,
    ):
        foreign, own = other.create(), current.create()
        with psycopg.connect(host=str(shared_server.directory), user="postgres", dbname=own.database):
            current.drop_all()
        assert names(postgres) & {foreign.database, own.database} == {foreign.database}


def test_the_comment_of_a_database_names_its_run_process_machine_and_time(
    shared_server: EmbeddedServer, postgres: psycopg.Connection
) -> None:
    with closing(Sandbox(shared_server.address, CURRENT)) as sandbox:
        name = sandbox.create().database
    query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
    (mark,) = postgres.execute(query, [name]).fetchone() or ("",)
    process = f"run {CURRENT}, process {os.getpid()} on {socket.gethostname()}, "
    made_at = datetime.fromisoformat(mark.partition(process)[2])
    assert abs((datetime.now(UTC) - made_at).total_seconds()) < 60


def test_a_database_is_in_utc_for_every_role(shared_server: EmbeddedServer, postgres: psycopg.Connection) -> None:
    postgres.execute("ALTER ROLE postgres SET timezone TO 'America/Sao_Paulo'")
    try:
        with closing(Sandbox(shared_server.address, CURRENT)) as sandbox:
            address = sandbox.create()
        settings = (
            "SELECT setconfig FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase WHERE datname = %s"
        )
        assert postgres.execute(settings, [address.database]).fetchone() == (["TimeZone=UTC"],)
    finally:
        postgres.execute("ALTER ROLE postgres RESET timezone")


def test_a_role_without_the_right_to_create_databases_gets_an_error_that_states_it(
    shared_server: EmbeddedServer, postgres: psycopg.Connection
) -> None:
    postgres.execute("CREATE ROLE guest LOGIN")
    try:
        guest = shared_server.address.set(username="guest")
        with closing(Sandbox(guest, CURRENT)) as sandbox, pytest.raises(DatabaseNotCreated):
            sandbox.create()
    finally:
        postgres.execute("DROP ROLE guest")


def test_databases_of_another_role_are_never_dropped(
    shared_server: EmbeddedServer, postgres: psycopg.Connection
) -> None:
    postgres.execute("CREATE ROLE guest LOGIN")
    try:
        with closing(Sandbox(shared_server.address, DEAD)) as sandbox:
            name = sandbox.create().database
        with closing(Sandbox(shared_server.address.set(username="guest"), CURRENT)) as sandbox:
            sandbox.drop_leftovers()
        assert name in names(postgres)
    finally:
        postgres.execute("DROP ROLE guest")


# --- Runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/tatame", "/tatame_test_2", "/test", "?dbname=tatame"])
def test_an_address_of_a_database_not_for_tests_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_DATABASE_URL", f"postgresql://ana:secret@nowhere.example{name}")
    run = Run(tmp_path / "tatame-tests-cccccccccccc")
    with pytest.raises(NotATestDatabase, match="`_test`") as caught:
        run.start()
    assert "secret" not in str(caught.value)
    assert not run.directory.exists()


def test_a_dbname_option_does_not_override_the_test_database(
    shared_server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # libpq prefers this option to the path, and so to the names of the databases that a run creates.
    address = f"postgresql://postgres@/tatame_test?host={shared_server.directory}&dbname=tatame"
    monkeypatch.setenv("TEST_DATABASE_URL", address)
    run = Run(tmp_path / "tatame-tests-cccccccccccc")
    run.start()
    address_of_clone = run.clone()
    with Database(address_of_clone) as database, database.engine.connect() as connection:
        assert connection.scalar(text("SELECT current_database()")) == address_of_clone.database
    run.leave()
    run.end()


def test_a_server_that_does_not_answer_is_an_error_and_nothing_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_DATABASE_URL", f"postgresql:///tatame_test?host={tmp_path}")
    run = Run(tmp_path / "tatame-tests-cccccccccccc")
    with pytest.raises(ServerNotRunning):
        run.start()
    assert not run.directory.exists()


@pytest.mark.usefixtures("shared_url")
def test_a_run_on_a_shared_server_migrates_once_and_leaves_nothing(
    postgres: psycopg.Connection, tmp_path: Path
) -> None:
    before = names(postgres)
    first, second = (Run(tmp_path / "tatame-tests-cccccccccccc") for _ in range(2))
    first.start()
    second.start()
    assert first.template == second.template
    assert names(postgres) - before == {first.template}
    with Database(second.clone()) as database:
        assert users(database) == 0
    assert not (first.directory / "server").exists()

    first.leave()
    second.leave()
    first.end()
    assert names(postgres) == before
    assert not first.directory.exists()


@pytest.mark.usefixtures("shared_url")
def test_a_dropped_template_is_created_again(postgres: psycopg.Connection, tmp_path: Path) -> None:
    run = Run(tmp_path / "tatame-tests-cccccccccccc")
    run.start()
    run.leave()
    # As by another run that took this one for dead between two of its processes.
    postgres.execute(f"DROP DATABASE {run.template}")
    run.start()
    with Database(run.clone()) as database:
        assert users(database) == 0
    run.leave()
    run.end()


def test_two_runs_that_delete_the_same_dead_run_both_go_on(tmp_path: Path) -> None:
    current, other, dead = (tmp_path / f"tatame-tests-{run}" for run in (CURRENT, ALIVE, DEAD))
    run_directory.join(dead).close()
    (dead / "server").mkdir()
    for found in run_directory.dead_runs(current):
        # The other run comes when the first has deleted a part of it.
        (found / "alive").unlink()
        assert list(run_directory.dead_runs(other)) == []
        assert not (found / "alive").exists()
        (found / "server").rmdir()
        found.rmdir()
    assert not dead.exists()


def test_the_variable_with_the_address_of_a_pooler_is_named(
    shared_server: EmbeddedServer,
    postgres: psycopg.Connection,  # noqa: ARG001, drops what is left
    pooler: Callable[..., URL],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = pooler(shared_server.address.set(database="*"))
    monkeypatch.setenv("TEST_DATABASE_URL", readable(address.set(database="tatame_test")))
    with pytest.raises(DirectAddressNeeded) as caught:
        Run(run_directory.new_run_directory()).start()
    assert caught.value.fix.startswith("set `TEST_DATABASE_URL` to the server's own address")


def test_the_variable_with_a_rejected_password_is_named(
    fresh_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh_server.start(port=(port := free_port()))
    monkeypatch.setenv("TEST_DATABASE_URL", f"postgresql://postgres:wrong@127.0.0.1:{port}/tatame_test")
    with pytest.raises(PasswordRejected) as caught:
        Run(run_directory.new_run_directory()).start()
    assert caught.value.fix == "check the user and the password in `TEST_DATABASE_URL`"
    assert "wrong" not in str(caught.value)


def test_only_the_directory_of_a_dead_run_is_deleted(tmp_path: Path) -> None:
    current, alive, dead = (tmp_path / f"tatame-tests-{run}" for run in (CURRENT, ALIVE, DEAD))
    (tmp_path / "tatame-tests").mkdir()
    with run_directory.join(current), run_directory.join(alive):
        run_directory.join(dead).close()
        assert list(run_directory.dead_runs(current)) == [dead]
    assert {path.name for path in tmp_path.iterdir()} == {current.name, alive.name, "tatame-tests"}


def test_a_process_that_joins_a_run_during_its_deletion_starts_it_again(tmp_path: Path) -> None:
    current, dead = tmp_path / f"tatame-tests-{CURRENT}", tmp_path / f"tatame-tests-{DEAD}"
    run_directory.join(dead).close()
    with ThreadPoolExecutor() as pool:
        for found in run_directory.dead_runs(current):
            joining = pool.submit(run_directory.join, found)
            # Long enough for the other process to wait for the lock.
            time.sleep(0.1)
            assert not joining.done()
        with joining.result(timeout=5):
            assert list(run_directory.dead_runs(current)) == []
            assert (dead / "alive").exists()


def test_a_run_that_joined_again_while_another_looked_for_dead_ones_is_not_deleted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours, rejoined = tmp_path / f"tatame-tests-{CURRENT}", tmp_path / f"tatame-tests-{ALIVE}"
    run_directory.join(rejoined).close()
    lock, living = fcntl.flock, list[IO[str]]()

    def rejoin_first(file: IO[str], operation: int) -> None:
        if operation & fcntl.LOCK_EX and not living:
            # What a third run and the owner of the directory do after our `open` and before our lock.
            shutil.rmtree(rejoined)
            living.append(run_directory.join(rejoined))
        lock(file, operation)

    monkeypatch.setattr("fcntl.flock", rejoin_first)
    assert list(run_directory.dead_runs(ours)) == []
    assert (rejoined / "alive").exists()
    living[0].close()


def test_a_run_whose_directory_another_run_deleted_still_ends(tmp_path: Path) -> None:
    run = Run(tmp_path / f"tatame-tests-{ALIVE}")
    run.directory.mkdir()
    shutil.rmtree(run.directory)
    run.end()
    assert not run.directory.exists()


def test_a_run_is_in_memory_if_there_is_enough_and_tmpdir_is_not_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run_directory, "_MEMORY", tmp_path)
    monkeypatch.setattr(run_directory, "_MEMORY_NEEDED_BYTES", 1)
    monkeypatch.delenv("TMPDIR", raising=False)
    assert run_directory.new_run_directory().parent == tmp_path

    monkeypatch.setattr(run_directory, "_MEMORY_NEEDED_BYTES", 2**62)
    assert run_directory.new_run_directory().parent == Path(tempfile.gettempdir())

    monkeypatch.setattr(run_directory, "_MEMORY_NEEDED_BYTES", 1)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    assert run_directory.new_run_directory().parent == Path(tempfile.gettempdir())
    assert not list(tmp_path.iterdir())


# --- Without pytest --------------------------------------------------------------------------------------------------


@pytest.fixture
def set_up(shared_url: None) -> Generator[Database]:  # noqa: ARG001, set before
    yield setup_test_database()
    teardown_test_database()


def one_of_each() -> list[Base]:
    return [factory() for factory in FACTORIES.values()]


def rows(database: Database) -> dict[str, int]:
    with database.engine.connect() as connection:
        return {
            name: connection.scalar(select(func.count()).select_from(table)) or 0
            for name, table in Base.metadata.tables.items()
        }


def test_clearing_empties_every_table_and_restarts_its_ids(set_up: Database) -> None:
    for _ in range(2):
        with set_up.session.begin() as session:
            gym = a_gym()
            gym.manager = a_user(gym=gym)
            session.add_all([gym, *one_of_each()])
        assert 0 not in rows(set_up).values()
        assert gym.id in (1, 2)
        clear_test_data()
        assert set(rows(set_up).values()) == {0}


def test_clearing_does_not_delete_rows_of_other_tables_that_refer_to_the_models(set_up: Database) -> None:
    with set_up.engine.begin() as connection:
        connection.execute(text("CREATE TABLE lockers (user_id integer REFERENCES users)"))
    with set_up.session.begin() as session:
        session.add(a_user())
    with pytest.raises(NotSupportedError, match="lockers"):
        clear_test_data()
    assert users(set_up) == 1


def test_clearing_fails_in_time_if_a_test_left_a_session_open(
    set_up: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_LOCK_TIMEOUT_SECONDS", 2)
    with set_up.session() as session:
        session.add(a_user())
        session.flush()
        pid = session.scalar(text("SELECT pg_backend_pid()"))
        with pytest.raises(runs.TestDataLocked, match=rf"pid {pid} \(.*idle in transaction"):
            clear_test_data()
    clear_test_data()


@pytest.mark.usefixtures("shared_url")
def test_setup_returns_the_same_database_until_teardown_deletes_it(postgres: psycopg.Connection) -> None:
    before = names(postgres)
    database = setup_test_database()
    assert setup_test_database() is database
    assert str(database.address.database) in names(postgres)
    for _ in range(2):
        teardown_test_database()
        assert names(postgres) == before


def test_clearing_without_a_test_database_is_refused() -> None:
    with pytest.raises(NoTestDatabase):
        clear_test_data()


# --- Factories -------------------------------------------------------------------------------------------------------


def test_every_model_has_a_factory() -> None:
    assert {type(row) for row in one_of_each()} == {mapper.class_ for mapper in Base.registry.mappers}
    assert len(FACTORIES) == len(Base.metadata.tables)


@pytest.mark.parametrize("name", FACTORIES)
def test_the_rows_of_a_factory_can_be_committed_unchanged(session: Session, name: str) -> None:
    session.add_all([FACTORIES[name](), FACTORIES[name]()])
    session.commit()


@pytest.mark.parametrize("name", FACTORIES)
def test_a_factory_accepts_the_keywords_of_its_model_and_no_others(name: str) -> None:
    factory = FACTORIES[name]
    model = type(factory())
    relations = mapper_of(model).relationships
    for keyword in signature(model).parameters:
        several = keyword in relations and relations[keyword].uselist
        assert getattr(factory(**{keyword: [] if several else None}), keyword) == ([] if several else None)
    with pytest.raises(TypeError, match="nmae"):
        factory(nmae="Ana")


def test_named_values_win_and_the_server_fills_in_its_defaults(session: Session) -> None:
    gym = a_gym(name="Academia da Praia")
    user = a_user(gym=gym, email=None)
    session.add(user)
    session.commit()
    assert (user.email, user.gym_id, gym.name) == (None, gym.id, "Academia da Praia")
    assert user.id is not None
    assert user.created_at is not None


def test_a_key_replaces_the_object_that_it_refers_to(session: Session) -> None:
    user = a_user()
    session.add(user)
    session.flush()
    session.add_all([a_graduation(user_id=user.id), a_checkin(user_id=user.id, class_=None)])
    session.commit()
    assert session.scalars(select(Graduation.user_id)).all() == [user.id]
    assert session.execute(select(Checkin.user_id, Checkin.class_id)).all() == [(user.id, None)]
    assert session.scalar(select(func.count()).select_from(User)) == 1
    assert session.scalar(select(func.count()).select_from(Gym)) == 0
