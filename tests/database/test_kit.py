"""The databases, sessions and factories that tests are made of, on a real server."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from inspect import signature
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy import inspect as mapper_of
from sqlalchemy.exc import NotSupportedError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tatame_db.database.address import readable
from tatame_db.database.errors import DatabaseNotCreated, ServerNotRunning
from tatame_db.database.pool import Database
from tatame_db.schema import Base, Checkin, Graduation, Gym, User
from tatame_db.server import run_directory
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.testing import clear_test_data, factories, runs, setup_test_database, teardown_test_database
from tatame_db.testing.factories import a_checkin, a_graduation, a_gym, a_user
from tatame_db.testing.runs import NotATestDatabase, NoTestDatabase, Run
from tatame_db.testing.sandbox import NotCreatedByTests, Sandbox
from tatame_db.testing.sessions import LoopFreeDatabase, rollback_session

FACTORIES: dict[str, Callable[..., Base]] = {
    name: factory for name, factory in vars(factories).items() if name.startswith(("a_", "an_"))
}


def users(database: Database) -> int:
    with database.session() as session:
        return session.scalars(select(func.count()).select_from(User)).one()


# --- Sessions that are undone ----------------------------------------------------------------------------------------


def test_what_a_session_commits_is_seen_by_nobody_else_and_gone_when_it_is_undone(
    committed_database: Database,
) -> None:
    session = rollback_session(committed_database)
    session.add(a_user())
    session.commit()
    assert users(committed_database) == 0
    assert session.scalar(select(func.count()).select_from(User)) == 1

    session.discard()
    assert users(committed_database) == 0


def test_a_rollback_in_a_test_undoes_what_came_after_the_last_commit(committed_database: Database) -> None:
    session = rollback_session(committed_database)
    with session.begin():
        session.add(a_user(first_name="Ana"))
    session.add(a_user(first_name="Rui"))
    session.flush()
    session.rollback()
    assert session.scalars(select(User.first_name)).all() == ["Ana"]
    session.discard()


def test_an_rollback_session_has_the_options_of_the_databases_own(committed_database: Database) -> None:
    session = rollback_session(committed_database)
    user = a_user(first_name="Ana")
    session.add(user)
    session.commit()
    # With `expire_on_commit`, this would query again.
    assert "first_name" in vars(user)
    session.discard()


def test_a_session_that_was_closed_in_the_test_goes_on_and_is_undone(committed_database: Database) -> None:
    session = rollback_session(committed_database)
    with session:
        session.add(a_user())
        session.commit()
    assert session.scalar(select(func.count()).select_from(User)) == 1
    session.discard()
    assert users(committed_database) == 0


def test_a_session_that_nobody_used_opens_no_connection(committed_database: Database) -> None:
    opened: list[object] = []
    event.listen(committed_database.engine, "checkout", lambda *connection: opened.append(connection))
    rollback_session(committed_database).discard()
    assert opened == []


@pytest.fixture
def loop_free(committed_database: Database) -> Generator[LoopFreeDatabase]:
    database = LoopFreeDatabase(committed_database.address)
    yield database
    asyncio.run(database.engine.dispose())


async def add_a_user(session: AsyncSession) -> None:
    session.add(a_user())
    await session.commit()


def test_an_async_session_is_undone_in_another_loop_than_the_tests(
    loop_free: LoopFreeDatabase, committed_database: Database
) -> None:
    session = loop_free.rollback_session()
    asyncio.run(add_a_user(session))
    assert asyncio.run(session.scalar(select(func.count()).select_from(User))) == 1
    assert users(committed_database) == 0

    asyncio.run(loop_free.discard(session))
    assert users(committed_database) == 0


def test_a_connection_that_was_waited_for_in_one_loop_can_be_waited_for_in_the_next(
    loop_free: LoopFreeDatabase,
) -> None:
    async def wait_for_each_other(session: AsyncSession) -> int:
        process = (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        await asyncio.gather(*(session.execute(text("SELECT pg_sleep(0.01)")) for _ in range(3)))
        return int(process)

    processes = set()
    for _ in range(2):
        session = loop_free.rollback_session()
        processes.add(asyncio.run(wait_for_each_other(session)))
        asyncio.run(loop_free.discard(session))
    assert len(processes) == 1


def test_a_session_whose_loop_was_closed_within_a_statement_is_undone_at_once(loop_free: LoopFreeDatabase) -> None:
    session = loop_free.rollback_session()
    loop = asyncio.new_event_loop()
    task = loop.create_task(session.execute(text("SELECT pg_sleep(30)")))
    loop.run_until_complete(asyncio.sleep(0.1))
    assert not task.done()
    loop.close()

    asyncio.run(asyncio.wait_for(loop_free.discard(session), timeout=5))


# --- The fixtures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [1, 2])
def test_a_session_begins_with_an_empty_database(session: Session, turn: int) -> None:
    session.add(a_user(id=turn))
    session.commit()
    assert session.scalars(select(User.id)).all() == [turn]


@pytest.mark.parametrize("turn", [1, 2])
def test_an_async_session_begins_with_an_empty_database(async_session: AsyncSession, turn: int) -> None:
    async def work() -> list[int]:
        await add_a_user(async_session)
        return list(await async_session.scalars(select(User.id)))

    assert len(asyncio.run(work())) == 1, turn


@pytest.mark.parametrize("turn", [1, 2])
def test_a_committed_database_is_empty_and_its_numbers_begin_at_1(committed_database: Database, turn: int) -> None:
    with committed_database.session.begin() as session:
        user = a_user()
        session.add(user)
    assert (user.id, users(committed_database)) == (1, 1), turn


# --- Databases that come and go --------------------------------------------------------------------------------------


LIVING, DEAD, OURS = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"


@pytest.fixture(scope="module")
def shared_server() -> Generator[EmbeddedServer]:
    """Start a server that is not the run's own, as one in `TEST_DATABASE_URL` is not."""
    place = Path(tempfile.mkdtemp(prefix="tatame-test-", dir=run_directory.new_run_directory().parent))
    place.chmod(0o755)
    server = EmbeddedServer(place / "server", durable=False)
    server.start()
    yield server
    server.delete()
    place.rmdir()


@pytest.fixture
def postgres(shared_server: EmbeddedServer) -> Generator[psycopg.Connection]:
    """Look at the server from beside, and leave it as it was."""
    with psycopg.connect(host=str(shared_server.directory), user="postgres", autocommit=True) as connection:
        before = names(connection)
        yield connection
        for name in names(connection) - before:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def given(shared_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the server in the settings."""
    address = shared_server.address.set(database="tatame_test")
    monkeypatch.setenv("TEST_DATABASE_URL", readable(address))


def names(postgres: psycopg.Connection) -> set[str]:
    return {name for (name,) in postgres.execute("SELECT datname FROM pg_database")}


def test_a_database_that_no_run_made_is_not_dropped(
    shared_server: EmbeddedServer, postgres: psycopg.Connection
) -> None:
    postgres.execute("CREATE DATABASE shop_test")
    postgres.execute("CREATE DATABASE tatame_0123456789ab_test")
    postgres.execute("CREATE DATABASE other_test")
    postgres.execute("COMMENT ON DATABASE other_test IS 'made for the tests of another package: run cccccccccccc, 1'")
    with closing(Sandbox(shared_server.address, OURS)) as sandbox:
        for name in ("postgres", "shop_test", "tatame_0123456789ab_test", "other_test"):
            with pytest.raises(NotCreatedByTests) as caught:
                sandbox.drop(name)
            assert caught.value.name == name
        sandbox.drop_all()
        sandbox.drop_leftovers()
    assert names(postgres) >= {"shop_test", "tatame_0123456789ab_test", "other_test"}


def test_a_database_with_our_mark_is_not_dropped_if_its_name_is_not_for_tests(
    shared_server: EmbeddedServer, postgres: psycopg.Connection
) -> None:
    with closing(Sandbox(shared_server.address, OURS)) as sandbox:
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
        closing(Sandbox(shared_server.address, LIVING)) as other,
        closing(Sandbox(shared_server.address, OURS)) as ours,
    ):
        living = {str(other.create().database), str(ours.create().database)}
        assert dead | living <= names(postgres)
        ours.drop_leftovers()
        assert not dead & names(postgres)
        assert living <= names(postgres)


def test_a_run_lives_as_long_as_one_of_its_processes(
    shared_server: EmbeddedServer, postgres: psycopg.Connection
) -> None:
    with closing(Sandbox(shared_server.address, LIVING)), closing(Sandbox(shared_server.address, OURS)) as ours:
        with closing(Sandbox(shared_server.address, LIVING)) as gone:
            name = gone.create().database
        ours.drop_leftovers()
        assert name in names(postgres)


def test_a_run_drops_all_that_it_made_and_no_more_though_somebody_is_connected(
    shared_server: EmbeddedServer, postgres: psycopg.Connection
) -> None:
    with (
        closing(Sandbox(shared_server.address, LIVING)) as other,
        closing(Sandbox(shared_server.address, OURS)) as ours,
    ):
        kept, mine = other.create(), ours.create()
        with psycopg.connect(host=str(shared_server.directory), user="postgres", dbname=mine.database):
            ours.drop_all()
        assert names(postgres) & {kept.database, mine.database} == {kept.database}


def test_a_database_says_who_made_it_and_when(shared_server: EmbeddedServer, postgres: psycopg.Connection) -> None:
    with closing(Sandbox(shared_server.address, OURS)) as sandbox:
        name = sandbox.create().database
    query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
    (mark,) = postgres.execute(query, [name]).fetchone() or ("",)
    process = f"run {OURS}, process {os.getpid()} on {socket.gethostname()}, "
    made_at = datetime.fromisoformat(mark.partition(process)[2])
    assert abs((datetime.now(UTC) - made_at).total_seconds()) < 60


def test_a_database_is_in_utc_for_everyone(shared_server: EmbeddedServer, postgres: psycopg.Connection) -> None:
    postgres.execute("ALTER ROLE postgres SET timezone TO 'America/Sao_Paulo'")
    try:
        with closing(Sandbox(shared_server.address, OURS)) as sandbox:
            address = sandbox.create()
        settings = (
            "SELECT setconfig FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase WHERE datname = %s"
        )
        assert postgres.execute(settings, [address.database]).fetchone() == (["TimeZone=UTC"],)
    finally:
        postgres.execute("ALTER ROLE postgres RESET timezone")


def test_a_role_that_may_not_create_databases_is_told_so(
    shared_server: EmbeddedServer, postgres: psycopg.Connection
) -> None:
    postgres.execute("CREATE ROLE guest LOGIN")
    try:
        guest = shared_server.address.set(username="guest")
        with closing(Sandbox(guest, OURS)) as sandbox, pytest.raises(DatabaseNotCreated):
            sandbox.create()
    finally:
        postgres.execute("DROP ROLE guest")


def test_what_another_role_left_is_not_touched(shared_server: EmbeddedServer, postgres: psycopg.Connection) -> None:
    postgres.execute("CREATE ROLE guest LOGIN")
    try:
        with closing(Sandbox(shared_server.address, DEAD)) as sandbox:
            name = sandbox.create().database
        with closing(Sandbox(shared_server.address.set(username="guest"), OURS)) as sandbox:
            sandbox.drop_leftovers()
        assert name in names(postgres)
    finally:
        postgres.execute("DROP ROLE guest")


# --- Runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/tatame", "/tatame_test_2", "/test", "?dbname=tatame"])
def test_an_address_whose_database_is_not_for_tests_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_DATABASE_URL", f"postgresql://ana:secret@nowhere.example{name}")
    run = Run(tmp_path / "tatame-tests-cccccccccccc")
    with pytest.raises(NotATestDatabase, match="`_test`") as caught:
        run.start()
    assert "secret" not in str(caught.value)
    assert not run.directory.exists()


def test_an_option_does_not_lead_the_tests_to_another_database(
    shared_server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # libpq lets it win over the path, and so over the names of the databases that a run makes.
    address = f"postgresql://postgres@/tatame_test?host={shared_server.directory}&dbname=tatame"
    monkeypatch.setenv("TEST_DATABASE_URL", address)
    run = Run(tmp_path / "tatame-tests-cccccccccccc")
    run.start()
    address_of_clone = run.clone()
    with Database(address_of_clone) as database, database.engine.connect() as connection:
        assert connection.scalar(text("SELECT current_database()")) == address_of_clone.database
    run.leave()
    run.end()


def test_a_server_that_does_not_answer_is_said_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_DATABASE_URL", f"postgresql:///tatame_test?host={tmp_path}")
    run = Run(tmp_path / "tatame-tests-cccccccccccc")
    with pytest.raises(ServerNotRunning):
        run.start()
    assert not run.directory.exists()


@pytest.mark.usefixtures("given")
def test_a_run_on_a_given_server_migrates_once_and_leaves_nothing(postgres: psycopg.Connection, tmp_path: Path) -> None:
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


@pytest.mark.usefixtures("given")
def test_a_template_that_is_gone_is_made_again(postgres: psycopg.Connection, tmp_path: Path) -> None:
    run = Run(tmp_path / "tatame-tests-cccccccccccc")
    run.start()
    run.leave()
    # As by a run that found this one dead, between two of its processes.
    postgres.execute(f"DROP DATABASE {run.template}")
    run.start()
    with Database(run.clone()) as database:
        assert users(database) == 0
    run.leave()
    run.end()


def test_the_directory_of_a_dead_run_is_deleted_and_a_living_ones_is_not(tmp_path: Path) -> None:
    ours, living, dead = (tmp_path / f"tatame-tests-{run}" for run in (OURS, LIVING, DEAD))
    (tmp_path / "tatame-tests").mkdir()
    with run_directory.join(ours), run_directory.join(living):
        run_directory.join(dead).close()
        assert list(run_directory.dead_runs(ours)) == [dead]
    assert {path.name for path in tmp_path.iterdir()} == {ours.name, living.name, "tatame-tests"}


def test_who_joins_a_run_while_it_is_deleted_begins_it_anew(tmp_path: Path) -> None:
    ours, dead = tmp_path / f"tatame-tests-{OURS}", tmp_path / f"tatame-tests-{DEAD}"
    run_directory.join(dead).close()
    with ThreadPoolExecutor() as pool:
        for found in run_directory.dead_runs(ours):
            joining = pool.submit(run_directory.join, found)
            # Long enough for the other one to wait at the lock.
            time.sleep(0.1)
            assert not joining.done()
        with joining.result(timeout=5):
            assert list(run_directory.dead_runs(ours)) == []
            assert (dead / "alive").exists()


def test_a_run_is_in_memory_only_where_there_is_enough_and_nobody_says_otherwise(
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
def set_up(given: None) -> Generator[Database]:  # noqa: ARG001, it is there before
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


def test_clearing_empties_every_table_and_begins_its_numbers_again(set_up: Database) -> None:
    for _ in range(2):
        with set_up.session.begin() as session:
            gym = a_gym()
            gym.manager = a_user(gym=gym)
            session.add_all([gym, *one_of_each()])
        assert 0 not in rows(set_up).values()
        assert gym.id in (1, 2)
        clear_test_data()
        assert set(rows(set_up).values()) == {0}


def test_clearing_leaves_alone_what_refers_to_our_tables(set_up: Database) -> None:
    with set_up.engine.begin() as connection:
        connection.execute(text("CREATE TABLE lockers (user_id integer REFERENCES users)"))
    with set_up.session.begin() as session:
        session.add(a_user())
    with pytest.raises(NotSupportedError, match="lockers"):
        clear_test_data()
    assert users(set_up) == 1


def test_clearing_gives_up_on_a_session_that_a_test_left_open(
    set_up: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_LOCK_TIMEOUT_SECONDS", 0.1)
    with set_up.session() as session:
        session.add(a_user())
        session.flush()
        with pytest.raises(OperationalError, match="lock timeout"):
            clear_test_data()


@pytest.mark.usefixtures("given")
def test_a_database_that_was_set_up_is_given_again_and_torn_down_once(postgres: psycopg.Connection) -> None:
    before = names(postgres)
    database = setup_test_database()
    assert setup_test_database() is database
    assert str(database.address.database) in names(postgres)
    for _ in range(2):
        teardown_test_database()
        assert names(postgres) == before


def test_without_a_test_database_nothing_is_cleared() -> None:
    with pytest.raises(NoTestDatabase):
        clear_test_data()


# --- Factories -------------------------------------------------------------------------------------------------------


def test_every_model_has_a_factory() -> None:
    assert {type(row) for row in one_of_each()} == {mapper.class_ for mapper in Base.registry.mappers}
    assert len(FACTORIES) == len(Base.metadata.tables)


@pytest.mark.parametrize("name", FACTORIES)
def test_what_a_factory_gives_can_be_committed_as_it_is_again_and_again(session: Session, name: str) -> None:
    session.add_all([FACTORIES[name](), FACTORIES[name]()])
    session.commit()


@pytest.mark.parametrize("name", FACTORIES)
def test_a_factory_takes_what_its_model_takes_and_refuses_the_rest(name: str) -> None:
    factory = FACTORIES[name]
    model = type(factory())
    relations = mapper_of(model).relationships
    for keyword in signature(model).parameters:
        several = keyword in relations and relations[keyword].uselist
        assert getattr(factory(**{keyword: [] if several else None}), keyword) == ([] if several else None)
    with pytest.raises(TypeError, match="nmae"):
        factory(nmae="Ana")


def test_what_is_named_is_as_it_says_and_the_rest_is_left_to_the_server(session: Session) -> None:
    gym = a_gym(name="Academia da Praia")
    user = a_user(gym=gym, email=None)
    session.add(user)
    session.commit()
    assert (user.email, user.gym_id, gym.name) == (None, gym.id, "Academia da Praia")
    assert user.id is not None
    assert user.created_at is not None


def test_a_key_is_as_good_as_the_object_that_it_names(session: Session) -> None:
    user = a_user()
    session.add(user)
    session.flush()
    session.add_all([a_graduation(user_id=user.id), a_checkin(user_id=user.id, class_=None)])
    session.commit()
    assert session.scalars(select(Graduation.user_id)).all() == [user.id]
    assert session.execute(select(Checkin.user_id, Checkin.class_id)).all() == [(user.id, None)]
    assert session.scalar(select(func.count()).select_from(User)) == 1
    assert session.scalar(select(func.count()).select_from(Gym)) == 0
