"""Queries and moves behind a real PgBouncer in transaction mode: each transaction may run in another session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Engine, func, select, text
from sqlalchemy.exc import DBAPIError
from tests.conftest import run_sql
from tests.database.moves import ask

from tatame_db import evolve, move
from tatame_db.database.address import readable
from tatame_db.database.driver import driver_connection
from tatame_db.database.errors import ConnectionRefused, DatabaseUnavailable, OutcomeUnknown, PoolerModeUnsupported
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries import write as writes
from tatame_db.queries.engine import lease
from tatame_db.queries.engine.plan import Statement
from tatame_db.queries.errors import DeadlineExceeded
from tatame_db.queries.read import Read, query, read
from tatame_db.queries.run import fetch, fetch_async
from tatame_db.queries.write import insert_many, update_many, upsert
from tatame_db.schema import Graduation, User, Version
from tatame_db.server.embedded import EmbeddedServer


@query
def find_user(clerk_user_id: str) -> Read[User]:
    return read(User).where(User.clerk_user_id == clerk_user_id).load(User.gym, User.graduations)


@pytest.fixture
def pooled(address: URL, pooler: Callable[[URL], URL]) -> URL:
    """Return the address of the same database through PgBouncer."""
    return pooler(address)


def test_reads_and_writes_work_at_every_repetition(pooled: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with AsyncDatabase(pooled) as database:

            async def use(number: int) -> None:
                for turn in range(10):
                    name = f"user_{number}_{turn}"
                    user = {"clerk_user_id": name}
                    [id_] = await insert_many(User, [user], returning=User.id).run(database)
                    await insert_many(Graduation, [{"user_id": id_, "belt": "BLUE"}]).run(database)
                    await upsert(User, [{**user, "email": ""}], by=[User.clerk_user_id]).run(database)
                    two_sets: list[dict[str, object]] = [{"id": id_, "phone": name}, {"id": -id_, "email": None}]
                    assert await update_many(User, two_sets, by=[User.id]).run(database) == 1
                    found = await find_user.one(database, clerk_user_id=name)
                    assert found.phone == name
                    assert (found.email, [one.belt for one in found.graduations]) == ("", ["BLUE"])
                    async with database.session.begin() as session:
                        session.add(Version())
                        await session.flush()
                        assert (await find_user.one(session, name)).id == id_
                        assert await session.scalar(select(User.id).where(User.clerk_user_id == name)) == id_

            await asyncio.gather(*(use(number) for number in range(12)))
            assert len([one async for one in read(User).stream(database)]) == 120

    asyncio.run(main())
    monkeypatch.setattr(writes, "COPY_MIN_ROWS", 1)
    with Database(pooled) as database:
        assert insert_many(Version, [{"app_version": "1"}] * 10).run(database) == 10
        assert len(list(read(Version).stream(database))) == 130
        with database.engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM pg_prepared_statements")) == 0


def test_an_unnamed_statement_follows_the_columns_of_its_table(pooled: URL, address: URL) -> None:
    everything = Statement("all", "SELECT * FROM beaches", tuple, may_repeat=True)
    returning: Statement[Any] = Statement("add", "INSERT INTO beaches VALUES ('BLUE', 2) RETURNING *", tuple)
    run_sql(address, "CREATE TABLE beaches (name text, id integer); INSERT INTO beaches VALUES ('BLUE', 1)")
    with Database(pooled) as database:
        for _ in range(3):
            assert fetch(database, everything, {}) == [("BLUE", 1)]
            assert fetch(database, returning, {}) == [("BLUE", 2)]
            run_sql(address, "DELETE FROM beaches WHERE id = 2")
        # An enum has no binary form here.
        run_sql(address, "CREATE TYPE belt AS ENUM ('BLUE'); ALTER TABLE beaches ALTER name TYPE belt USING name::belt")
        for _ in range(3):
            assert fetch(database, everything, {}) == [("BLUE", 1)]
            assert fetch(database, returning, {}) == [("BLUE", 2)]
            run_sql(address, "DELETE FROM beaches WHERE id = 2")
        run_sql(address, "ALTER TABLE beaches ALTER name TYPE text")
        for _ in range(3):
            assert fetch(database, everything, {}) == [("BLUE", 1)]


def test_threads_get_their_own_answers_with_errors_among_them(pooled: URL) -> None:
    number: Statement[Any] = Statement("number", "SELECT %(n)s::INTEGER, repeat('x', %(n)s)", tuple, may_repeat=True)
    wrong: Statement[Any] = Statement("wrong", "SELECT 1 / (%(n)s::INTEGER - %(n)s::INTEGER)", tuple)

    def use(database: Database, start: int) -> int:
        right = 0
        for n in range(start, start + 200):
            if n % 10 == 0:
                with pytest.raises(DBAPIError, match="division by zero"):
                    fetch(database, wrong, {"n": n})
            right += fetch(database, number, {"n": n % 50}) == [(n % 50, "x" * (n % 50))]
        return right

    with Database(pooled) as database, ThreadPoolExecutor(12) as pool:
        assert list(pool.map(use, [database] * 12, range(12))) == [200] * 12


def test_a_deadline_ends_a_statement_behind_the_pooler(pooled: URL) -> None:
    slow: Statement[Any] = Statement("slow", "SELECT pg_sleep(60)", tuple, may_repeat=True)
    one: Statement[int] = Statement("one", "SELECT 1", lambda row: row[0])
    with Database(pooled) as database:
        for _ in range(4):
            with pytest.raises(DeadlineExceeded):
                fetch(database, slow, {}, deadline_ms=100)
            assert fetch(database, one, {}) == [1]


def test_a_server_that_is_down_behind_its_pooler_is_unavailable(
    fresh_server: EmbeddedServer, pooler: Callable[..., URL]
) -> None:
    fresh_server.start()
    run_sql(fresh_server.address.set(database="postgres"), f'CREATE DATABASE "{fresh_server.address.database}"')
    one: Statement[int] = Statement("one", "SELECT 1", lambda row: row[0], may_repeat=True)
    add: Statement[Any] = Statement("add", "SELECT 1", tuple)
    # A client that PgBouncer let in before the server went down waits this long, by default 120 seconds.
    with Database(pooler(fresh_server.address, query_wait_timeout=5)) as database:
        assert fetch(database, one, {}) == [1]
        fresh_server.stop()
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable):
                fetch(database, one, {})
            with pytest.raises((DatabaseUnavailable, OutcomeUnknown)):
                fetch(database, add, {})
        fresh_server.start()
        deadline = time.monotonic() + 30
        while True:
            # PgBouncer waits before it tries to connect again.
            try:
                assert fetch(database, one, {}) == [1]
            except DatabaseUnavailable:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            else:
                break


def test_queries_prepare_no_statement_behind_the_pooler(pooled: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(pooled) as database:
            for _ in range(5):
                await asyncio.gather(*(read(Version).all(database) for _ in range(12)))
            # All three sessions of the server, because each is lent to one of these.
            async with AsyncExitStack() as stack:
                for _ in range(3):
                    connection = await stack.enter_async_context(database.engine.connect())
                    assert await connection.scalar(text("SELECT count(*) FROM pg_prepared_statements")) == 0

    asyncio.run(main())


def test_queries_of_asyncio_do_not_hang_while_the_pooler_is_exhausted(pooled: URL) -> None:
    async def main() -> None:
        async with (
            asyncio.timeout(60),
            AsyncDatabase(pooled, pool_timeout_seconds=0.5) as database,
            AsyncDatabase(pooled) as other,
        ):
            async with AsyncExitStack() as stack:
                for _ in range(3):
                    connection = await stack.enter_async_context(other.engine.begin())
                    await connection.execute(text("SELECT 1"))
                answers = await asyncio.gather(*(read(Version).all(database) for _ in range(8)), return_exceptions=True)
                assert all(isinstance(answer, ConnectionRefused) for answer in answers)
            await asyncio.sleep(lease.PAUSE_SECONDS)
            assert await asyncio.gather(*(read(Version).all(database) for _ in range(8))) == [[]] * 8

    asyncio.run(main())


def test_tasks_get_their_own_answers_with_errors_and_cancels_among_them(pooled: URL) -> None:
    number: Statement[Any] = Statement("number", "SELECT %(n)s::INTEGER, repeat('x', %(n)s)", tuple, may_repeat=True)
    wrong: Statement[Any] = Statement("wrong", "SELECT 1 / (%(n)s::INTEGER - %(n)s::INTEGER)", tuple)
    nap: Statement[Any] = Statement("nap", "SELECT pg_sleep(0.2)", tuple)

    async def use(database: AsyncDatabase, start: int) -> int:
        right = 0
        for n in range(start, start + 150):
            if n % 10 == 0:
                with pytest.raises(DBAPIError, match="division by zero"):
                    await fetch_async(database, wrong, {"n": n})
            if n % 30 == 0:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(fetch_async(database, nap, {}), 0.01)
            right += await fetch_async(database, number, {"n": n % 50}) == [(n % 50, "x" * (n % 50))]
        return right

    async def main() -> None:
        async with asyncio.timeout(100), AsyncDatabase(pooled) as database, AsyncDatabase(pooled) as other:
            users = [use(target, start) for target in (database, other) for start in range(12)]
            assert await asyncio.gather(*users) == [150] * 24

    asyncio.run(main())


def test_a_pooler_is_detected_and_its_sessions_are_left_unchanged(pooled: URL, address: URL) -> None:
    asked = select(func.current_setting("statement_timeout"), func.current_setting("TimeZone"))
    for where, threshold, timeout in ((pooled, None, "0"), (address, 5, "30s")):
        with (
            Database(where, statement_timeout_ms=30_000) as database,
            database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        ):
            driver = driver_connection(connection)
            assert driver.prepare_threshold == threshold
            assert tuple(connection.execute(asked).one()) == (timeout, "UTC")


def test_a_project_moves_through_its_transaction_pooler_and_leaves_its_sessions_unchanged(
    supabase: URL, pooler: Callable[[URL], URL], engine: Engine
) -> None:
    pooled = pooler(supabase)
    settings = "SELECT name, setting FROM pg_settings WHERE source = 'session'"
    with psycopg.connect(readable(pooled), prepare_threshold=None) as other:
        before = other.execute(settings).fetchall()
        other.rollback()
        with move.open_for_reading(pooled, engine) as connections:
            assert move.plan(connections).complete
        with move.open_for_writing(pooled, engine, lambda: None) as connections:
            assert {table.written > 0 for table in move.copy(connections).tables} == {True}
        with move.open_for_reading(pooled, engine) as connections:
            assert [count for count in move.counts(connections) if not count.agrees] == []
            assert move.verify(connections).unequal == []
        # All three sessions are lent at once, so one of them is the one that was used.
        others = [psycopg.connect(readable(pooled), prepare_threshold=None) for _ in range(2)]
        for connection in (other, *others):
            assert connection.execute(settings).fetchall() == before
            assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
        for connection in others:
            connection.close()


@pytest.mark.parametrize("mode", ["transaction", "session", "statement"])
def test_a_pooler_before_the_target_is_refused_and_its_sessions_are_left_unchanged(
    supabase: URL, address: URL, pooler: Callable[..., URL], mode: str
) -> None:
    # The client and the commands share one session, unless each has its own.
    pooled = pooler(address, pool_mode=mode, default_pool_size=2 if mode == "session" else 1)

    def copy(engine: Engine) -> None:
        with move.open_for_writing(supabase, engine, lambda: None) as connections:
            move.copy(connections)

    settings = (
        "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),"
        " array_agg(name || '=' || setting ORDER BY name) FROM pg_settings"
        " WHERE name NOT IN ('application_name', 'TimeZone', 'DateStyle')"
    )
    with psycopg.connect(readable(pooled), prepare_threshold=None, autocommit=True) as client:
        before = client.execute(settings).fetchone()
        for use in (evolve.migrate, evolve.rollback, lambda engine: evolve.push(engine, agree=lambda _: True), copy):
            with (
                Database(pooled) as database,
                pytest.raises((evolve.DirectAddressNeeded, PoolerModeUnsupported)) as error,
            ):
                use(database.engine)
            assert (error.type is PoolerModeUnsupported) == (mode == "statement")
            assert "address" in error.value.fix or mode == "statement"
            assert client.execute(settings).fetchone() == before
    assert ask(address, "SELECT to_regclass('tatame_move.runs')") == [(None,)]


def test_a_pooled_target_can_be_compared(supabase: URL, engine: Engine, pooler: Callable[..., URL]) -> None:
    with move.open_for_writing(supabase, engine, lambda: None) as connections:
        move.copy(connections)
    pooled = pooler(engine.url, default_pool_size=1)
    query = "SELECT array_agg(name || '=' || setting ORDER BY name) FROM pg_settings WHERE source = 'session'"
    with psycopg.connect(readable(pooled), prepare_threshold=None, autocommit=True) as client:
        before = client.execute(query).fetchone()
        with Database(pooled) as database, move.open_for_reading(supabase, database.engine) as connections:
            assert move.verify(connections).equal
        assert client.execute(query).fetchone() == before


@pytest.mark.parametrize("command", ["plan", "copy"])
def test_a_project_behind_a_pooler_in_statement_mode_is_refused(
    supabase: URL, engine: Engine, pooler: Callable[..., URL], command: str
) -> None:
    opened = move.open_for_reading if command == "plan" else partial(move.open_for_writing, on_wait=lambda: None)
    with pytest.raises(PoolerModeUnsupported), opened(pooler(supabase, pool_mode="statement"), engine):
        pass


def test_a_pooled_project_is_not_accepted_as_its_own_target(pooled: URL, engine: Engine) -> None:
    with pytest.raises(move.SameDatabase), move.open_for_reading(pooled, engine):
        pass


def test_a_project_killed_behind_its_pooler_is_a_lost_connection(
    supabase: URL, pooler: Callable[[URL], URL], engine: Engine
) -> None:
    pooled = pooler(supabase)

    def killed() -> None:
        with move.open_for_reading(pooled, engine) as connections:
            [process] = connections.source.row("SELECT pg_backend_pid()")
            with psycopg.connect(readable(supabase)) as other:
                other.execute("SELECT pg_terminate_backend(%s)", [process])
            move.plan(connections)

    with pytest.raises(move.ConnectionLost):
        killed()
