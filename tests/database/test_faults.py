"""What goes wrong between a program and its server, and what the program and the server are left with."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Engine, text
from sqlalchemy.exc import InternalError, OperationalError
from tests.conftest import free_port

from tatame_db import evolve
from tatame_db.database import idle
from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.database.driver import async_driver_connection, driver_connection
from tatame_db.database.errors import HostUnknown, ServerReadOnly, TlsFailed
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.errors import TatameError
from tatame_db.queries.read import read
from tatame_db.queries.write import insert_many
from tatame_db.schema import User
from tatame_db.server.embedded import EmbeddedServer


def sessions(address: URL) -> int:
    """Return the number of sessions of a database, beside the one that counts."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with psycopg.connect(readable(address)) as connection:
        [count] = connection.execute(query).fetchone() or [0]
    return int(count)


def wait_for_sessions(address: URL, expected: int) -> None:
    deadline = time.monotonic() + 20
    while sessions(address) != expected:
        assert time.monotonic() < deadline, f"{sessions(address)} sessions instead of {expected}"
        time.sleep(0.05)


# Cancelled


@pytest.mark.parametrize("through", ["session", "query"])
def test_a_task_cancelled_while_connecting_leaves_no_session(bare_address: URL, through: str) -> None:
    async def use(database: AsyncDatabase) -> None:
        if through == "query":
            await read(User).all(database)
        else:
            async with database.session() as session:
                await session.execute(text("SELECT 1"))

    async def main() -> None:
        databases = [AsyncDatabase(bare_address) for _ in range(30)]
        for number, database in enumerate(databases):
            task = asyncio.create_task(use(database))
            await asyncio.sleep(number * 0.0004)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await asyncio.gather(*(database.close() for database in databases))
        # Those still connecting close themselves as soon as they are connected.
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.01)
        wait_for_sessions(bare_address, 0)

    # The garbage collector must not be what ends them.
    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


# Idle connections


@pytest.fixture
def quickly_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close connections after a second in the pool."""
    monkeypatch.setattr(idle, "IDLE_TIMEOUT_SECONDS", 1)


@pytest.mark.usefixtures("quickly_idle")
def test_a_connection_that_is_held_for_notifications_is_not_idle(address: URL) -> None:
    def notify() -> None:
        with psycopg.connect(readable(address), autocommit=True) as connection:
            connection.execute("NOTIFY doors, 'open'")

    async def main() -> None:
        async with AsyncDatabase(address) as database, database.engine.connect() as connection:
            driver = async_driver_connection(await connection.get_raw_connection())
            await driver.set_autocommit(True)
            await driver.execute("LISTEN doors")
            await asyncio.sleep(2.5)
            notify()
            assert [notice.payload async for notice in driver.notifies(timeout=20, stop_after=1)] == ["open"]

    asyncio.run(main())
    with Database(address) as database, database.engine.connect() as connection:
        connection.execute(text("LISTEN doors"))
        connection.commit()
        time.sleep(2.5)
        notify()
        payloads = [notice.payload for notice in driver_connection(connection).notifies(timeout=20, stop_after=1)]
    assert payloads == ["open"]


@pytest.mark.usefixtures("quickly_idle")
def test_a_connection_that_is_held_for_an_advisory_lock_keeps_it(address: URL) -> None:
    free = text("SELECT pg_try_advisory_lock(1)")
    with Database(address) as database, database.engine.connect() as leader, database.engine.connect() as other:
        assert leader.scalar(free)
        leader.commit()
        time.sleep(2.5)
        assert not other.scalar(free)


@pytest.mark.usefixtures("quickly_idle")
def test_idle_connections_of_the_async_pool_are_closed_and_replaced(address: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(address) as database:
            for _ in range(2):
                held = [await database.engine.connect() for _ in range(3)]
                for connection in held:
                    await connection.close()
                await read(User).all(database)
                found = database.statistics()
                # The one that is being looked at, whether it was idle for too long, counts as in use.
                assert found.idle + found.in_use == sessions(address) == 3
                while database.statistics().idle:
                    await asyncio.sleep(0.05)
                wait_for_sessions(address, 0)

    asyncio.run(main())


@pytest.mark.usefixtures("quickly_idle")
def test_only_the_idle_connections_of_a_busy_pool_are_closed(address: URL) -> None:
    with Database(address) as database:
        held = [database.engine.connect() for _ in range(3)]
        for connection in held:
            connection.close()
        deadline = time.monotonic() + 20
        while database.statistics().idle > 1:
            read(User).all(database)
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert sessions(address) == 1


def test_connections_that_are_closed_as_they_are_taken_are_replaced(
    address: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "IDLE_TIMEOUT_SECONDS", 0.002)

    async def main() -> None:
        async with AsyncDatabase(address) as database:

            async def use(number: int) -> None:
                for turn in range(15):
                    assert await read(User).all(database) == []
                    async with database.session() as session:
                        assert await session.scalar(text("SELECT 1")) == 1
                    await asyncio.sleep((number + turn) % 7 * 0.0007)

            await asyncio.gather(*(use(number) for number in range(6)))

    asyncio.run(main())
    with Database(address) as database, ThreadPoolExecutor(6) as pool:

        def use(number: int) -> None:
            for turn in range(15):
                assert read(User).all(database) == []
                with database.session() as session:
                    assert session.scalar(text("SELECT 1")) == 1
                time.sleep((number + turn) % 7 * 0.0007)

        for done in [pool.submit(use, number) for number in range(6)]:
            done.result()
    wait_for_sessions(address, 0)


@pytest.mark.parametrize("use", [Database.ping, lambda database: read(User).all(database)], ids=["session", "query"])
@pytest.mark.usefixtures("quickly_idle")
def test_the_thread_that_closes_idle_connections_lives_only_while_there_are_some(
    address: URL, use: Callable[[Database], object]
) -> None:
    def closers() -> int:
        return sum(thread.name == "tatame-db idle connections" for thread in threading.enumerate())

    before = closers()
    with Database(address) as database, Database(address) as closed:
        use(database)
        use(closed)
        closed.close()
        assert closers() == before + 1
        wait_for_sessions(address, 0)
        deadline = time.monotonic() + 20
        while closers() > before:
            assert time.monotonic() < deadline
            time.sleep(0.01)


# Restarts


def test_a_restart_logs_nothing_about_async_sessions_in_use(
    fresh_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    fresh_server.start()
    create_missing_database(fresh_server.address)
    with Database(fresh_server.address) as migrating:
        evolve.migrate(migrating.engine)

    restarted = asyncio.Event()

    async def use(database: AsyncDatabase, started: asyncio.Event, kind: str) -> None:
        if kind == "query":
            started.set()
            await read(User).all(database)
            return
        async with database.session() as session:
            await session.execute(text("SELECT 1"))
            started.set()
            if kind == "waiting":
                await session.execute(text("SELECT pg_sleep(60)"))
            else:
                await restarted.wait()
                await session.execute(text("SELECT 1"))

    async def main() -> list[BaseException | None]:
        async with AsyncDatabase(fresh_server.address) as database:
            started = [asyncio.Event() for _ in range(9)]
            kinds = ("waiting", "idle", "query") * 3
            tasks = [asyncio.create_task(use(database, *pair)) for pair in zip(started, kinds, strict=True)]
            await asyncio.gather(*(event.wait() for event in started))
            # These lie in the pool meanwhile, which drops them all once a session finds its own lost.
            for connection in [await database.engine.connect() for _ in range(3)]:
                await connection.close()
            await asyncio.to_thread(fresh_server.stop)
            await asyncio.to_thread(fresh_server.start)
            restarted.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(read(User).all(database) for _ in range(20)))
            await database.ping()
            return results

    results = asyncio.run(main())
    gc.collect()
    assert [type(result) for result in results[:2]] == [OperationalError, OperationalError]
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


# Read-only servers


@pytest.fixture
def read_only(address: URL) -> URL:
    """The address of a migrated database that accepts no writes."""
    with psycopg.connect(readable(address), autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{address.database}" SET default_transaction_read_only = on')
    return address


def test_a_write_on_a_read_only_server_says_so(read_only: URL) -> None:
    user = {"clerk_user_id": "ana"}

    async def main() -> None:
        async with AsyncDatabase(read_only) as database:
            with pytest.raises(ServerReadOnly, match="read-only transaction"):
                await insert_many(User, [user]).run(database)
            async with database.session() as session:
                session.add(User(clerk_user_id="ana"))
                with pytest.raises(ServerReadOnly):
                    await session.flush()

    asyncio.run(main())
    with Database(read_only) as database:
        assert read(User).all(database) == []
        with pytest.raises(ServerReadOnly):
            insert_many(User, [user]).run(database)
        with database.session() as session:
            session.add(User(clerk_user_id="ana"))
            with pytest.raises(ServerReadOnly):
                session.flush()
            session.rollback()
            assert session.execute(text("SELECT 1")).scalar() == 1


def test_a_transaction_that_its_caller_made_read_only_is_not_blamed_on_the_server(address: URL) -> None:
    with Database(address) as database, database.session() as session:
        session.execute(text("SET TRANSACTION READ ONLY"))
        session.add(User(clerk_user_id="ana"))
        with pytest.raises(InternalError, match="read-only transaction"):
            session.flush()


# Connections that cannot be made


def failure(address: URL) -> TatameError:
    """Return the error of connecting, after checking that all four ways raise the same."""

    async def main() -> list[BaseException]:
        async with AsyncDatabase(address) as database:
            with pytest.raises(TatameError) as of_ping:
                await database.ping()
            with pytest.raises(TatameError) as of_query:
                await read(User).all(database)
        return [of_ping.value, of_query.value]

    with Database(address) as database:
        with pytest.raises(TatameError) as of_ping:
            database.ping()
        with pytest.raises(TatameError) as of_query:
            read(User).all(database)
    errors = [of_ping.value, of_query.value, *asyncio.run(main())]
    assert len({type(error) for error in errors}) == 1
    return of_ping.value


def test_an_unknown_host_is_reported() -> None:
    error = failure(URL.create("postgresql+psycopg", "ana", "secret", "nowhere.invalid", 5432, "tatame"))
    assert isinstance(error, HostUnknown)
    assert "nowhere.invalid" in error.what


@pytest.fixture
def on_a_port(fresh_server: EmbeddedServer) -> URL:
    """The address of a server that listens on a port."""
    port = free_port()
    fresh_server.start(port=port)
    create_missing_database(fresh_server.address)
    with Database(fresh_server.address) as database, database.engine.begin() as connection:
        connection.execute(text("CREATE ROLE ana LOGIN PASSWORD 'secret'"))
    return URL.create("postgresql+psycopg", "ana", "secret", "127.0.0.1", port, "tatame")


def test_a_tls_failure_is_reported(on_a_port: URL) -> None:
    error = failure(on_a_port.update_query_dict({"sslmode": "require"}))
    assert isinstance(error, TlsFailed)


def test_a_connection_that_is_lost_below_sqlalchemy_goes_back_without_a_traceback(
    address: URL, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sqlalchemy.pool")

    def terminate(driver: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
        with engine.connect() as other:
            assert other.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": driver.info.backend_pid})

    async def lose_one() -> None:
        async with AsyncDatabase(address) as database:
            async with database.engine.connect() as connection:
                driver = async_driver_connection(await connection.get_raw_connection())
                await driver.execute("SELECT 1")
                terminate(driver)
            assert database.statistics().idle == 0
            await database.ping()

    with Database(address) as database:
        with database.engine.connect() as connection:
            below = driver_connection(connection)
            below.execute("SELECT 1")
            terminate(below)
        assert database.statistics().idle == 0
        database.ping()
    asyncio.run(lose_one())
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    reasons = [record.getMessage() for record in caplog.records if "Invalidate connection" in record.getMessage()]
    assert len(reasons) == 2
    assert all("terminating connection due to administrator command" in reason for reason in reasons), reasons


def test_a_connection_that_is_closed_already_goes_back_without_an_error(address: URL) -> None:
    with Database(address) as database:
        # In autocommit there is no rollback that would find out first, and the test kit has none either.
        connection = database.engine.raw_connection()
        driver = driver_connection(connection)
        driver.autocommit = True
        driver.close()
        connection.close()
        assert database.statistics().idle == 0
        database.ping()
