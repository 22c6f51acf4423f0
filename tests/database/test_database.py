from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import URL, Engine, Row, func, insert, select, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from tests.conftest import free_port, postmaster_pid

import tatame_db.database.idle
from tatame_db.database import creation
from tatame_db.database.address import readable
from tatame_db.database.creation import create_database, create_missing_database, maintenance
from tatame_db.database.dialect import OLDEST_SERVER, quoted
from tatame_db.database.errors import (
    ConnectionRefused,
    ConnectionsBusy,
    DatabaseClosed,
    DatabaseMissing,
    DatabaseNotCreated,
    PasswordRejected,
    ServerNotRunning,
    ServerTooOld,
    TransactionAborted,
)
from tatame_db.database.options import POOL_SIZE
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.errors import TatameError
from tatame_db.queries.errors import DeadlineExceeded, RowRejected
from tatame_db.queries.read import read
from tatame_db.queries.write import insert_many
from tatame_db.schema import Base, User
from tatame_db.server.embedded import EmbeddedServer

PASSWORD = "p%@:/#[w"


@pytest.fixture
def observer(server: EmbeddedServer) -> Generator[Engine]:
    """An engine for looking at the sessions of the server."""
    with Database(server.address.set(database="postgres")) as database:
        yield database.engine


def _sessions(observer: Engine, address: URL) -> list[Row[tuple[str, str]]]:
    query = text("SELECT application_name, state FROM pg_stat_activity WHERE datname = :name")
    with observer.connect() as connection:
        return list(connection.execute(query, {"name": address.database}))


def _wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


# The pool


def test_at_most_20_connections_are_open(address: URL, observer: Engine) -> None:
    with Database(address) as database:
        held = [database.engine.connect() for _ in range(POOL_SIZE)]
        waiting = threading.Thread(target=database.ping)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        assert len(_sessions(observer, address)) == POOL_SIZE == 20
        for connection in held:
            connection.close()
        waiting.join()


def test_sessions_have_an_application_name(address: URL, observer: Engine) -> None:
    with Database(address) as database, database.engine.connect():
        assert {session.application_name for session in _sessions(observer, address)} == {"tatame-db"}
    named = address.update_query_dict({"application_name": "checkin api"})
    with Database(named) as database, database.engine.connect():
        assert {session.application_name for session in _sessions(observer, address)} == {"checkin api"}


def test_idle_connections_are_closed_and_replaced(
    address: URL, observer: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tatame_db.database.idle.IDLE_TIMEOUT_SECONDS == 30
    monkeypatch.setattr(tatame_db.database.idle, "IDLE_TIMEOUT_SECONDS", 1)
    with Database(address) as database:
        held = [database.engine.connect() for _ in range(5)]
        for connection in held:
            connection.close()
        assert len(_sessions(observer, address)) == 5
        _wait_until(lambda: not _sessions(observer, address))
        database.ping()
        assert len(_sessions(observer, address)) == 1


def test_a_connection_that_works_is_not_closed_as_idle(address: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tatame_db.database.idle, "IDLE_TIMEOUT_SECONDS", 1)
    with Database(address) as database, database.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        time.sleep(1.5)
        assert connection.scalar(text("SELECT pg_sleep(1.5) IS NOT NULL"))


def test_the_next_checkout_survives_a_restart_of_the_server(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    create_missing_database(fresh_server.address)

    async def ping_before_and_after() -> None:
        async with AsyncDatabase(fresh_server.address) as database:
            await asyncio.gather(*(database.ping() for _ in range(3)))
            fresh_server.stop()
            fresh_server.start()
            await asyncio.gather(*(database.ping() for _ in range(3)))

    asyncio.run(ping_before_and_after())
    with Database(fresh_server.address) as database:
        database.ping()
        os.kill(postmaster_pid(fresh_server), signal.SIGKILL)
        fresh_server.start()
        database.ping()


def test_close_waits_for_sessions_in_use_and_refuses_new_ones(address: URL, observer: Engine) -> None:
    database = Database(address)
    connection = database.engine.connect()
    closing = threading.Thread(target=database.close)
    closing.start()
    closing.join(0.3)
    assert closing.is_alive()
    with pytest.raises(DatabaseClosed):
        database.ping()
    assert connection.scalar(text("SELECT 1")) == 1
    connection.close()
    closing.join(5)
    assert not closing.is_alive()
    _wait_until(lambda: not _sessions(observer, address))
    database.close()
    assert database.check().reason == DatabaseClosed(address=address).what


def test_close_gives_up_on_a_session_that_takes_too_long(address: URL, observer: Engine) -> None:
    database = Database(address)
    with database.engine.connect() as connection:
        with pytest.raises(ConnectionsBusy) as caught:
            database.close(timeout_seconds=0.1)
        assert caught.value.busy == 1
        assert connection.scalar(text("SELECT 1")) == 1
    _wait_until(lambda: not _sessions(observer, address))


def test_close_of_the_async_database_waits_too(address: URL, observer: Engine) -> None:
    async def close_while_busy() -> None:
        database = AsyncDatabase(address)
        async with database.session() as session:
            await session.execute(text("SELECT 1"))
            closing = asyncio.create_task(database.close())
            await asyncio.sleep(0.2)
            assert not closing.done()
            with pytest.raises(DatabaseClosed):
                await database.ping()
        await closing
        await database.close()

    asyncio.run(close_while_busy())
    _wait_until(lambda: not _sessions(observer, address))


# Sessions


def test_a_session_commits_at_the_end_of_begin_and_rolls_back_after_an_error(address: URL) -> None:
    with Database(address) as database:
        with database.session.begin() as session:
            session.add(User(clerk_user_id="committed"))
        session = database.session()
        session.add(User(clerk_user_id="rolled back"))
        session.flush()
        session.add(User(clerk_user_id="committed"))
        with session, pytest.raises(IntegrityError):
            session.commit()
        with database.session() as session:
            assert session.scalars(select(User.clerk_user_id)).all() == ["committed"]


def fail_by_sql(session: Session) -> None:
    session.execute(text("SELECT 1 / 0"))


def fail_by_rejected_row(session: Session) -> None:
    insert_many(User, [{"clerk_user_id": "rejected", "gym_id": 10**6}]).run(session)


def fail_by_deadline(session: Session) -> None:
    read(User).where(func.pg_sleep(300).is_not(None)).within(deadline_ms=10).all(session)


def fail_by_flush(session: Session) -> None:
    session.add(User(clerk_user_id="rejected", gym_id=10**6))
    session.flush()


FAILURES: list[Callable[[Session], None]] = [fail_by_sql, fail_by_rejected_row, fail_by_deadline, fail_by_flush]


@pytest.mark.parametrize("fail", FAILURES)
def test_a_commit_after_a_failed_statement_is_an_error(address: URL, fail: Callable[[Session], None]) -> None:
    # PostgreSQL answers COMMIT with ROLLBACK then, without an error, and an app would go on as if its rows were there.
    def work(session: Session) -> str:
        session.add(User(clerk_user_id="lost"))
        session.flush()
        with suppress(DBAPIError, RowRejected, DeadlineExceeded):
            fail(session)
        return "done"

    with Database(address) as database:
        with pytest.raises(TransactionAborted), database.session.begin() as session:
            work(session)
        with pytest.raises(TransactionAborted):
            database.run_in_transaction(work)
        with database.session() as session:
            work(session)
            # SQLAlchemy's own error for a flush, which has rolled back.
            with pytest.raises((TransactionAborted, PendingRollbackError)):
                session.commit()
            session.rollback()
            session.add(User(clerk_user_id="stored"))
            session.commit()
        assert [user.clerk_user_id for user in read(User).all(database)] == ["stored"]
        assert database.statistics().in_use == 0


@pytest.mark.parametrize("fail", FAILURES)
def test_a_commit_after_a_failed_statement_is_an_error_for_asyncio(
    address: URL, fail: Callable[[Session], None]
) -> None:
    async def work(session: AsyncSession) -> None:
        session.add(User(clerk_user_id="lost"))
        await session.flush()
        with suppress(DBAPIError, RowRejected, DeadlineExceeded):
            await session.run_sync(fail)

    async def main() -> None:
        async with AsyncDatabase(address) as database:
            with pytest.raises(TransactionAborted):
                async with database.session.begin() as session:
                    await work(session)
            with pytest.raises(TransactionAborted):
                await database.run_in_transaction(work)
            assert await read(User).all(database) == []

    asyncio.run(main())


def test_a_commit_of_a_connection_after_a_failed_statement_is_an_error(address: URL) -> None:
    def work(database: Database) -> None:
        with database.engine.begin() as connection:
            connection.execute(insert(User).values(clerk_user_id="lost"))
            with suppress(DBAPIError):
                connection.execute(text("SELECT 1 / 0"))

    with Database(address) as database:
        with pytest.raises(TransactionAborted):
            work(database)
        assert read(User).all(database) == []


def test_what_failed_in_a_savepoint_does_not_keep_the_rest_from_being_committed(address: URL) -> None:
    with Database(address) as database:
        with database.session.begin() as session:
            session.add(User(clerk_user_id="stored"))
            with suppress(DBAPIError), session.begin_nested():
                fail_by_sql(session)
        assert read(User).count(database) == 1


def test_async_and_sync_sessions_see_the_same_rows(address: URL) -> None:
    async def add() -> None:
        async with AsyncDatabase(address) as database, database.session.begin() as session:
            session.add(User(clerk_user_id="from asyncio"))

    asyncio.run(add())
    with Database(address) as database, database.session() as session:
        assert session.scalar(select(User.clerk_user_id)) == "from asyncio"


# Time


@pytest.fixture
def brazilian_address(address: URL, observer: Engine) -> URL:
    """The address of a database in the time zone of São Paulo."""
    with observer.begin() as connection:
        connection.execute(text(f"ALTER DATABASE {address.database} SET timezone TO 'America/Sao_Paulo'"))
    return address


def test_timestamps_mean_utc_whatever_the_zone_of_the_server(brazilian_address: URL) -> None:
    with psycopg.connect(readable(brazilian_address)) as plain:
        zone = plain.execute("SHOW timezone").fetchone()
        assert zone == ("America/Sao_Paulo",)
    before = datetime.now(UTC).replace(tzinfo=None)
    with Database(brazilian_address) as database, database.session.begin() as session:
        user = User(clerk_user_id="a", approved_at=datetime(2026, 3, 1, 21, 30, tzinfo=timezone(timedelta(hours=-3))))
        session.add(user)
        session.flush()
        session.refresh(user)
        assert user.approved_at == datetime(2026, 3, 2, 0, 30)
        assert before <= user.created_at <= datetime.now(UTC).replace(tzinfo=None)


def test_the_zone_survives_a_rollback_and_a_return_to_the_pool(brazilian_address: URL) -> None:
    async def zones() -> list[str]:
        found = []
        async with AsyncDatabase(brazilian_address) as database:
            for _ in range(2):
                async with database.engine.connect() as connection:
                    await connection.rollback()
                    found.append(await connection.scalar(text("SHOW timezone")))
        return found

    assert asyncio.run(zones()) == ["UTC", "UTC"]


def test_a_created_database_is_in_utc_for_every_client(server: EmbeddedServer, observer: Engine) -> None:
    address = server.address.set(database='we "made" 100% this')
    assert create_missing_database(address)
    assert not create_missing_database(address)
    with observer.connect() as connection:
        query = (
            "SELECT setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = setdatabase WHERE datname = :n"
        )
        assert connection.scalar(text(query), {"n": address.database}) == ["TimeZone=UTC"]
    with psycopg.connect(readable(server.address.set(database="postgres")), autocommit=True) as plain:
        plain.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(str(address.database))))


# Logged statements


def test_a_database_that_another_process_creates_first_is_no_error(
    server: EmbeddedServer, observer: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = server.address.set(database="twice")

    @contextmanager
    def late(address: URL) -> Generator[psycopg.Connection[Any]]:
        with maintenance(address) as connection:
            create_database(connection, address)
            yield connection

    monkeypatch.setattr(creation, "maintenance", late)
    assert create_missing_database(address) is False
    with observer.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("DROP DATABASE twice"))


def test_statements_are_logged_with_their_time_and_without_values(
    address: URL, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tatame_db.sql")
    with Database(address, log_statements=True) as database, database.session.begin() as session:
        session.add(User(clerk_user_id="c", email="ana@gym.example"))
        session.flush()
        session.execute(select(User).where(User.email == "ana@gym.example"))
    assert "INSERT INTO public.users" in caplog.text
    assert " ms]" in caplog.text
    assert "ana@gym.example" not in caplog.text


@pytest.mark.parametrize(("environment", "logged"), [("development", True), ("production", False), ("test", False)])
def test_statements_are_logged_in_development_only(
    environment: str, address: URL, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, logged: bool
) -> None:
    monkeypatch.setenv("TATAME_ENV", environment)
    monkeypatch.setenv("DATABASE_URL", readable(address))
    caplog.set_level(logging.INFO, "tatame_db.sql")
    with Database.from_env() as database:
        database.ping()
    assert ("SELECT 1" in caplog.text) is logged


def test_a_failing_statement_does_not_show_its_values(address: URL) -> None:
    with (
        Database(address) as database,
        pytest.raises(IntegrityError) as caught,
        database.session.begin() as session,
    ):
        session.add(User(clerk_user_id="c", email="ana@gym.example", gym_id=7))
    assert "ana@gym.example" not in str(caught.value)


# Health


def test_check_returns_the_duration_of_a_round_trip(address: URL) -> None:
    async def check() -> None:
        async with AsyncDatabase(address) as database:
            health = await database.check()
            assert health.healthy
            assert health.latency_ms
            assert health.latency_ms > 0

    asyncio.run(check())
    with Database(address) as database:
        assert database.check().healthy


def test_a_check_refuses_a_time_out_that_is_none(address: URL) -> None:
    with Database(address) as database, pytest.raises(ValueError, match="timeout_seconds"):
        database.check(timeout_seconds=-1)

    async def main() -> None:
        async with AsyncDatabase(address) as database:
            await database.check(timeout_seconds=-1)

    with pytest.raises(ValueError, match="timeout_seconds"):
        asyncio.run(main())


def test_check_returns_the_reason_of_a_failure_and_does_not_raise() -> None:
    async def check(address: str) -> str | None:
        async with AsyncDatabase(address) as database:
            health = await database.check()
            assert not health.healthy
            assert health.latency_ms is None
            return health.reason

    nowhere = f"postgresql://ana:{PASSWORD}@127.0.0.1:1/tatame"
    with Database(nowhere) as database:
        reason = database.check().reason
    assert reason == asyncio.run(check(nowhere))
    assert reason
    assert "127.0.0.1:1" in reason
    assert PASSWORD not in reason


# Connections that fail


@pytest.fixture
def guarded(fresh_server: EmbeddedServer) -> URL:
    """The address of a role on a port, with a password of special characters."""
    port = free_port()
    fresh_server.start(port=port)
    create_missing_database(fresh_server.address)
    with Database(fresh_server.address) as database, database.engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE ana LOGIN PASSWORD '{PASSWORD}' CONNECTION LIMIT 2"))
    return URL.create("postgresql+psycopg", "ana", PASSWORD, "127.0.0.1", port, "tatame")


def test_a_password_of_special_characters_is_accepted(guarded: URL) -> None:
    with Database(f"postgres://ana:{PASSWORD}@127.0.0.1:{guarded.port}/tatame") as database:
        database.ping()
        shown = f"{database} {database.address} {database.engine} {database.engine.url}"
    assert PASSWORD not in shown


def _refusal(address: URL) -> TatameError:
    with Database(address) as database, pytest.raises(TatameError) as caught:
        database.ping()
    assert PASSWORD not in f"{caught.value} {caught.value!r} {caught.value.__cause__}"
    return caught.value


def test_a_wrong_password_is_reported(guarded: URL) -> None:
    error = _refusal(guarded.set(password=PASSWORD + "!"))
    assert isinstance(error, PasswordRejected)
    assert "ana" in error.what


def test_a_missing_database_is_reported(guarded: URL) -> None:
    error = _refusal(guarded.set(database="elsewhere"))
    assert isinstance(error, DatabaseMissing)
    assert "'elsewhere'" in error.what


def test_a_role_without_the_right_to_create_a_database_is_reported(guarded: URL) -> None:
    with pytest.raises(DatabaseNotCreated, match="permission denied"):
        create_missing_database(guarded.set(database="elsewhere"))


def test_the_reason_of_any_other_refusal_is_reported(guarded: URL) -> None:
    with Database(guarded) as first, first.engine.connect(), first.engine.connect():
        error = _refusal(guarded)
    assert isinstance(error, ConnectionRefused)
    assert "too many connections for role" in error.reason


def test_an_unreachable_server_is_reported_within_the_timeout(guarded: URL) -> None:
    assert isinstance(_refusal(guarded.set(port=1)), ServerNotRunning)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        error = _refusal(guarded.set(port=silent.getsockname()[1]))
    assert isinstance(error, ServerNotRunning)
    assert "timeout" in error.what
    # The timeout is two seconds. The bound is wide, because it only tells a timeout from none.
    assert time.monotonic() - started < 30


def test_the_tls_options_of_an_address_are_respected(guarded: URL) -> None:
    error = _refusal(guarded.update_query_dict({"sslmode": "require"}))
    assert "SSL" in error.what


def test_a_server_older_than_14_is_refused(
    other_postgres: Callable[..., URL], postgres_programs: Callable[[int], object]
) -> None:
    old = other_postgres(postgres_programs(13))
    error = _refusal(old.set(database="postgres"))
    assert isinstance(error, ServerTooOld)
    assert error.version.startswith("13.")
    assert str(OLDEST_SERVER) in error.what


def test_the_oldest_server_is_migrated_seeded_and_checked_like_the_newest(
    other_postgres: Callable[..., URL], postgres_programs: Callable[[int], object]
) -> None:
    from tatame_db import evolve, seed

    oldest = other_postgres(postgres_programs(OLDEST_SERVER))
    create_missing_database(oldest)
    with Database(oldest) as database:
        evolve.migrate(database.engine)
        with database.engine.begin() as connection:
            seed.seed(connection, seed.SeedPlan(gyms=1, members=10, days=14))
        report = evolve.status(database.engine)
        assert evolve.check(database.engine).failed == []
    assert report.server_version.startswith("14.")
    assert report.tables.keys() == Base.metadata.tables.keys()
    assert all(report.tables.values())


def test_a_database_that_quotes_all_names_is_checked_like_any_other(address: URL) -> None:
    from tatame_db import evolve

    with psycopg.connect(readable(address), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {address.database} SET quote_all_identifiers = on".encode())
    with Database(address) as database:
        assert evolve.check(database.engine).failed == []


# Names in SQL


@pytest.mark.parametrize("name", ["users", "Users", "class", 'a "b"', "100% of", "1st", "são", "a b", "x.y"])
def test_a_quoted_name_means_itself(engine: Engine, name: str) -> None:
    with engine.connect() as connection:
        connection.execute(text(f"CREATE TEMP TABLE {quoted(name)} ({quoted(name)} integer)"))
        found = connection.execute(text(f"SELECT * FROM pg_temp.{quoted(name)}"))
        assert list(found.keys()) == [name]


def test_every_reserved_word_is_quoted_and_a_plain_name_is_not(engine: Engine) -> None:
    with engine.connect() as connection:
        reserved = connection.scalars(text("SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'T')")).all()
    assert [word for word in reserved if quoted(word) != f'"{word}"'] == []
    assert quoted("checkins_2026") == "checkins_2026"


@pytest.mark.parametrize("value", ["infinity", "-infinity", "10000000 years"])
def test_an_interval_that_python_cannot_represent_is_refused_and_not_misread(engine: Engine, value: str) -> None:
    with engine.connect() as connection:
        with pytest.raises(DataError, match="interval"):
            connection.scalar(text(f"SELECT '{value}'::interval"))
        assert connection.scalar(text("SELECT '1 year 2 mons -3 days'::interval")) == timedelta(days=365 + 60 - 3)
