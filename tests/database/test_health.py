"""`check()` and `statistics()`: with a full pool, a silent server, a missing one, and a caller that gives up."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import URL, text
from tests.conftest import free_port, postmaster_pid

from tatame_db.database.address import readable
from tatame_db.database.connecting import PoolStatistics
from tatame_db.database.creation import create_missing_database
from tatame_db.database.health import Health
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.server.embedded import EmbeddedServer


def both(address: URL, timeout_seconds: float = 1) -> Health:
    """Return the health of a database, after checking that sync and async agree."""

    async def check() -> Health:
        async with AsyncDatabase(address) as database:
            return await database.check(timeout_seconds)

    with Database(address) as database:
        health = database.check(timeout_seconds)
    other = asyncio.run(check())
    assert (health.healthy, health.reason, health.busy) == (other.healthy, other.reason, other.busy)
    return health


def sessions(address: URL) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with psycopg.connect(readable(address)) as connection:
        return int((connection.execute(query).fetchone() or [0])[0])


def wait_for_sessions(address: URL, expected: int) -> None:
    deadline = time.monotonic() + 20
    while sessions(address) != expected:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# A time limit that a loaded machine keeps, and that the 30 seconds of a full pool do not.
SOON_SECONDS = 10


def test_a_full_pool_is_busy_and_healthy(address: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(address) as database:
            held = [await database.engine.connect() for _ in range(20)]
            started = time.monotonic()
            health = await database.check()
            assert time.monotonic() - started < SOON_SECONDS
            assert (health.healthy, health.busy, health.reason) == (True, True, None)
            assert health.latency_ms
            for connection in held:
                await connection.close()
            assert (await database.check()).busy is False

    asyncio.run(main())
    with Database(address) as database:
        held = [database.engine.connect() for _ in range(20)]
        started = time.monotonic()
        health = database.check()
        assert time.monotonic() - started < SOON_SECONDS
        assert (health.healthy, health.busy, health.reason) == (True, True, None)
        assert health.latency_ms
        for connection in held:
            connection.close()
        assert database.check().busy is False


def test_a_check_leaves_no_session(address: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(address) as database:
            for number in range(20):
                task = asyncio.create_task(database.check())
                await asyncio.sleep(number * 0.0005)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await database.check()

    asyncio.run(main())
    with Database(address) as database:
        for _ in range(5):
            assert database.check().healthy
        wait_for_sessions(address, 0)
        assert database.statistics() == PoolStatistics(size=20, in_use=0, idle=0, waiting=0)
    assert not any(thread.name == "tatame-db check" for thread in threading.enumerate())


@contextmanager
def silent_server() -> Generator[int]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        yield listener.getsockname()[1]


def test_a_server_that_does_not_answer_is_unhealthy_in_time() -> None:
    with silent_server() as port:
        started = time.monotonic()
        health = both(URL.create("postgresql+psycopg", "ana", "secret", "127.0.0.1", port, "tatame"), 0.3)
        assert 0.6 <= time.monotonic() - started < SOON_SECONDS
    assert not health.healthy
    assert health.reason == "no answer within 0.3 seconds (timeout)"


def test_a_server_that_stops_answering_is_unhealthy_in_time(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    create_missing_database(fresh_server.address)
    with Database(fresh_server.address) as database:
        assert database.check().healthy
        process = postmaster_pid(fresh_server)
        os.kill(process, signal.SIGSTOP)
        try:
            assert not both(fresh_server.address, 0.3).healthy
        finally:
            os.kill(process, signal.SIGCONT)
        assert database.check(SOON_SECONDS).healthy


def test_a_missing_server_and_a_missing_database_have_their_reasons(address: URL) -> None:
    nowhere = both(URL.create("postgresql+psycopg", "ana", "secret", "127.0.0.1", free_port(), "tatame"))
    assert not nowhere.healthy
    assert "refused" in (nowhere.reason or "")
    assert "secret" not in (nowhere.reason or "")
    missing = both(address.set(database="elsewhere"))
    assert not missing.healthy
    assert "elsewhere" in (missing.reason or "")


def test_an_unknown_host_is_unhealthy(address: URL) -> None:
    health = both(address.set(host="nowhere.invalid", query={}), SOON_SECONDS)
    assert not health.healthy
    assert "nowhere.invalid" in (health.reason or "")


def test_an_event_loop_goes_on_while_a_check_waits() -> None:
    async def main() -> int:
        turns = 0
        with silent_server() as port:
            nowhere = URL.create("postgresql+psycopg", "ana", "secret", "127.0.0.1", port, "tatame")
            async with AsyncDatabase(nowhere) as database:
                task = asyncio.create_task(database.check(0.5))
                while not task.done():
                    await asyncio.sleep(0.01)
                    turns += 1
        return turns

    assert asyncio.run(main()) >= 5


def test_a_server_without_a_connection_left_is_healthy_while_the_pool_works(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    create_missing_database(fresh_server.address)
    with Database(fresh_server.address) as database, database.engine.begin() as connection:
        connection.execute(text("CREATE ROLE ana LOGIN CONNECTION LIMIT 2"))
    limited = fresh_server.address.set(username="ana")
    with Database(limited, pool_size=2) as database:
        held = [database.engine.connect() for _ in range(2)]
        health = database.check()
        assert (health.healthy, health.busy, health.latency_ms) == (True, True, None)
        assert "too many connections for role" in (health.reason or "")
        other = both(limited)
        assert (other.healthy, other.busy) == (False, False)
        for connection in held:
            connection.close()


# Statistics


def test_statistics_count_connections_and_waiting_callers(address: URL) -> None:
    with Database(address, pool_size=2) as database:
        assert database.statistics() == PoolStatistics(size=2, in_use=0, idle=0, waiting=0)
        first = database.engine.connect()
        second = database.engine.connect()
        second.close()
        assert database.statistics() == PoolStatistics(size=2, in_use=1, idle=1, waiting=0)
        second = database.engine.connect()
        threads = [threading.Thread(target=database.ping) for _ in range(3)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while database.statistics().waiting != 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        first.close()
        second.close()
        for thread in threads:
            thread.join()
        assert database.statistics() == PoolStatistics(size=2, in_use=0, idle=2, waiting=0)


def test_statistics_of_the_async_pool(address: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(address, pool_size=2) as database:
            held = [await database.engine.connect() for _ in range(2)]
            waiting = [asyncio.create_task(database.ping()) for _ in range(3)]
            await asyncio.sleep(0.1)
            assert database.statistics() == PoolStatistics(size=2, in_use=2, idle=0, waiting=3)
            waiting.pop().cancel()
            await asyncio.sleep(0.1)
            assert database.statistics().waiting == 2
            for connection in held:
                await connection.close()
            await asyncio.gather(*waiting)
            assert database.statistics() == PoolStatistics(size=2, in_use=0, idle=2, waiting=0)

    asyncio.run(main())
