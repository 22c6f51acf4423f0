"""What PgBouncer refuses, and what a time-out of statements means behind it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import ExitStack, suppress

import psycopg
import pytest
from sqlalchemy import URL, text
from sqlalchemy.exc import OperationalError

from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.database.errors import (
    DatabaseMissing,
    DatabaseUnavailable,
    PoolerBusy,
    PoolerModeUnsupported,
    PoolerWithoutServer,
    ServerNotRunning,
    TooManyConnections,
)
from tatame_db.database.health import Health
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries.read import read
from tatame_db.queries.write import insert_many
from tatame_db.schema import User
from tatame_db.server.embedded import EmbeddedServer

Pooler = Callable[..., URL]


def failures(address: URL, *, connected: bool = False, break_it: Callable[[], object] = lambda: None) -> set[type]:
    """Return the classes of what sessions, reads and writes of both faces raise.

    With `connected`, a connection is open before it breaks.
    """
    kinds: set[type] = set()

    async def main() -> None:
        async with AsyncDatabase(address, pool_size=1) as database:
            for use in (
                database.ping,
                lambda: read(User).all(database),
                lambda: insert_many(User, [{"clerk_user_id": "ana"}]).run(database),
            ):
                with pytest.raises(Exception) as caught:  # noqa: PT011, its class is what is tested
                    await use()
                kinds.add(caught.type)

    with Database(address, pool_size=1) as database:
        if connected:
            database.ping()
        break_it()
        for use in (
            database.ping,
            lambda: read(User).all(database),
            lambda: insert_many(User, [{"clerk_user_id": "ana"}]).run(database),
        ):
            with pytest.raises(Exception) as caught:  # noqa: PT011, as above
                use()
            kinds.add(caught.type)
    asyncio.run(main())
    return kinds


def test_a_pooler_that_is_full_says_so(address: URL, pooler: Pooler) -> None:
    pooled = pooler(address, max_client_conn=2)
    with ExitStack() as held:
        with suppress(psycopg.OperationalError):
            while True:
                held.enter_context(psycopg.connect(readable(pooled)))
        assert failures(pooled) == {TooManyConnections}


@pytest.mark.parametrize("connected", [False, True])
def test_a_pooler_without_a_free_connection_says_so(address: URL, pooler: Pooler, *, connected: bool) -> None:
    pooled = pooler(address, default_pool_size=1, query_wait_timeout=1)
    held: list[psycopg.Connection] = []

    def hold() -> None:
        held.append(psycopg.connect(readable(pooled), prepare_threshold=None))
        held[0].execute("SELECT 1")

    assert failures(pooled, connected=connected, break_it=hold) == {PoolerBusy}
    held[0].close()


def test_a_server_that_is_missing_behind_its_pooler_is_told_from_a_missing_pooler(
    fresh_server: EmbeddedServer, pooler: Pooler
) -> None:
    fresh_server.start()
    create_missing_database(fresh_server.address)
    pooled = pooler(fresh_server.address, server_login_retry=1, query_wait_timeout=2)
    kinds = failures(pooled, connected=True, break_it=fresh_server.stop)
    # The first caller waits for a server as if all were busy; PgBouncer tells the others why at once.
    assert kinds <= {PoolerBusy, PoolerWithoutServer}
    assert PoolerWithoutServer in kinds
    # A pooler that has never reached its server keeps new clients waiting, longer than a connection may take.
    assert failures(pooled) <= {PoolerBusy, PoolerWithoutServer, ServerNotRunning}
    fresh_server.start()


def test_a_pooler_in_statement_mode_is_refused_by_calls_and_checks(address: URL, pooler: Pooler) -> None:
    pooled = pooler(address, pool_mode="statement")
    assert failures(pooled) == {PoolerModeUnsupported}

    async def check() -> Health:
        async with AsyncDatabase(pooled) as database:
            return await database.check(20)

    with Database(pooled) as database:
        for health in (database.check(20), asyncio.run(check())):
            assert not health.healthy
            assert health.reason is not None
            assert "is in statement mode" in health.reason


def test_a_pool_that_is_larger_than_that_of_a_pooler_in_session_mode_says_so(address: URL, pooler: Pooler) -> None:
    pooled = pooler(address, pool_mode="session", default_pool_size=1)

    async def main() -> None:
        async with AsyncDatabase(pooled, pool_timeout_seconds=1) as database, database.engine.connect():
            with pytest.raises(PoolerBusy, match="pool_size"):
                await database.ping()

    with Database(pooled, pool_timeout_seconds=1) as database:
        with database.engine.connect(), pytest.raises(PoolerBusy, match="pool_size"):
            database.ping()
        database.ping()
    asyncio.run(main())


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_check_behind_a_pooler_leaves_no_transaction_open(address: URL, pooler: Pooler, mode: str) -> None:
    with Database(pooler(address, pool_mode=mode, default_pool_size=1)) as database:
        for _ in range(3):
            health = database.check(20)
            assert (health.healthy, health.reason) == (True, None)
        database.ping()


def test_every_refusal_of_a_pooler_is_an_unavailable_database() -> None:
    for kind in (DatabaseMissing, PoolerBusy, PoolerModeUnsupported, PoolerWithoutServer, TooManyConnections):
        assert issubclass(kind, DatabaseUnavailable)


# Time-outs


def test_the_time_out_of_statements_holds_for_each_transaction(
    address: URL, pooler: Pooler, caplog: pytest.LogCaptureFixture
) -> None:
    pooled = pooler(address)
    shown = text("SHOW statement_timeout")

    async def main() -> None:
        async with AsyncDatabase(pooled, statement_timeout_ms=200) as database, database.session() as session:
            assert await session.scalar(shown) == "200ms"
            with pytest.raises(OperationalError, match="statement timeout"):
                await session.execute(text("SELECT pg_sleep(20)"))

    with Database(pooled, statement_timeout_ms=200) as database:
        for _ in range(2):
            with database.session() as session:
                assert session.scalar(shown) == "200ms"
                session.commit()
                assert session.scalar(shown) == "200ms"
            with database.session() as session, pytest.raises(OperationalError, match="statement timeout"):
                session.execute(text("SELECT pg_sleep(20)"))
        with database.session() as first, database.session() as second:
            assert {first.scalar(shown), second.scalar(shown)} == {"200ms"}
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        assert [record.name for record in warnings] == ["tatame_db.database"]
        assert "statement_timeout_ms" in warnings[0].message
    asyncio.run(main())
    # The sessions of the pooler, which others use, know nothing of it.
    for _ in range(5):
        with psycopg.connect(readable(pooled), prepare_threshold=None) as other:
            assert other.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_a_server_that_is_lost_as_a_limited_transaction_begins_leaves_no_bare_error_of_psycopg(
    fresh_server: EmbeddedServer, pooler: Pooler
) -> None:
    fresh_server.start()
    create_missing_database(fresh_server.address)
    pooled = pooler(fresh_server.address, server_login_retry=1, query_wait_timeout=2)
    with Database(pooled, statement_timeout_ms=1_000) as database:
        database.ping()
        fresh_server.stop()
        with pytest.raises((OperationalError, DatabaseUnavailable)), database.session() as session:
            session.execute(text("SELECT 1"))
        fresh_server.start()
