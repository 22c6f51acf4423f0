"""Calls of asyncio: what each failure means for its caller, for its neighbours and for the server."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, TypeVar

import psycopg
import pytest
from sqlalchemy import URL, text
from sqlalchemy.exc import DataError, ProgrammingError
from tests.conftest import run_sql

import tatame_db.database.idle
from tatame_db.database.address import readable
from tatame_db.database.errors import (
    ConnectionsExhausted,
    DatabaseClosed,
    DatabaseUnavailable,
    EventLoopDiffers,
    OutcomeUnknown,
    ServerNotRunning,
)
from tatame_db.database.observer import StatementEvent
from tatame_db.database.pool import AsyncDatabase
from tatame_db.queries.engine import lease, policy, prepared
from tatame_db.queries.engine.call import MAX_TRIES
from tatame_db.queries.engine.dispatch import Dispatcher, dispatcher_of
from tatame_db.queries.engine.plan import Statement
from tatame_db.queries.errors import DeadlineExceeded
from tatame_db.queries.run import fetch_all_async, fetch_async, stream_async
from tatame_db.server.embedded import EmbeddedServer

T = TypeVar("T")

ECHO: Statement[Any] = Statement("echo", "SELECT %(id)s::int", lambda row: row[0], may_repeat=True)
NAP: Statement[Any] = Statement("nap", "SELECT %(id)s::int, pg_sleep(%(seconds)s)", lambda row: row[0], may_repeat=True)
DIVIDE: Statement[Any] = Statement("divide", "SELECT 1 / (%(id)s::int * 0)", tuple, may_repeat=True)
INSERT: Statement[Any] = Statement(
    "insert", "INSERT INTO written VALUES (%(id)s::int) RETURNING id", lambda row: row[0]
)
CANCEL_NAPS = (
    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND strpos(query, 'pg_sleep') > 0"
)
SLOW_INSERT: Statement[Any] = Statement(
    "slow insert",
    "INSERT INTO written SELECT %(id)s::int FROM pg_sleep(%(seconds)s) RETURNING id",
    lambda row: row[0],
)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a test; one that hangs fails."""

    async def guarded() -> T:
        async with asyncio.timeout(60):
            return await main

    return asyncio.run(guarded())


@pytest.fixture
def written(bare_address: URL) -> URL:
    run_sql(bare_address, "CREATE TABLE written (id int)")
    return bare_address


def ids(address: URL) -> list[int]:
    with psycopg.connect(readable(address)) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM written ORDER BY id")]


def sessions(address: URL, condition: str = "true") -> int:
    """Count the sessions of a database, as another session sees them."""
    query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid() AND {condition}"
    with psycopg.connect(readable(address.set(database="postgres"))) as connection:
        [(count,)] = connection.execute(query.encode(), [address.database]).fetchall()
    return int(count)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.02)


async def runs(address: URL, statement: str) -> bool:
    return await asyncio.to_thread(sessions, address, f"state = 'active' AND strpos(query, '{statement}') > 0") > 0


def end_sessions(address: URL, wait_ms: int = 0) -> None:
    """End all sessions of a database, one by one if each is waited for."""
    query = f"SELECT pg_terminate_backend(pid, {wait_ms}) FROM pg_stat_activity WHERE datname = '{address.database}'"
    run_sql(address.set(database="postgres"), query)


def dispatcher(database: AsyncDatabase) -> Dispatcher:
    found = dispatcher_of(database)
    assert found is not None
    return found


async def echo(database: AsyncDatabase, id_: int) -> Any:
    return await fetch_async(database, ECHO, {"id": id_})


# One call fails


def test_an_error_reaches_its_own_caller_alone(bare_address: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(bare_address) as database:
            for _ in range(5):
                calls = [fetch_async(database, DIVIDE if id_ % 7 == 3 else ECHO, {"id": id_}) for id_ in range(60)]
                for id_, answer in enumerate(await asyncio.gather(*calls, return_exceptions=True)):
                    if id_ % 7 == 3:
                        assert isinstance(answer, DataError)
                    else:
                        assert answer == [id_]

    run(main())


def test_statements_of_one_call_are_committed_together_or_not_at_all(written: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(written) as database:
            assert await fetch_all_async(database, [(INSERT, {"id": 1}), (ECHO, {"id": 2}), (INSERT, {"id": 3})]) == [
                [1],
                [2],
                [3],
            ]
            with pytest.raises(DataError):
                await fetch_all_async(database, [(INSERT, {"id": 4}), (DIVIDE, {"id": 5}), (INSERT, {"id": 6})])

    run(main())
    assert ids(written) == [1, 3]


def test_a_prepared_statement_that_is_gone_or_outdated_is_prepared_again(written: URL) -> None:
    everything: Statement[Any] = Statement("everything", "SELECT * FROM written", tuple, may_repeat=True)

    async def main() -> None:
        async with AsyncDatabase(written) as database:
            await fetch_async(database, INSERT, {"id": 1})
            for column in ("added_first", "added_next", "added_last"):
                before = [await fetch_async(database, everything, {}) for _ in range(4)][-1]
                run_sql(written, f"ALTER TABLE written ADD COLUMN {column} text DEFAULT 'new'")
                assert await fetch_async(database, everything, {}) == [(*before[0], "new")]
            assert [await fetch_async(database, INSERT, {"id": id_}) for id_ in (2, 3)] == [[2], [3]]
            async with AsyncExitStack() as stack:
                # All connections, so those of the queries are among them.
                for _ in range(20):
                    connection = await stack.enter_async_context(database.engine.connect())
                    await connection.execute(text("DEALLOCATE ALL"))
            assert await asyncio.gather(*(echo(database, id_) for id_ in range(50))) == [[id_] for id_ in range(50)]
            assert [await fetch_async(database, INSERT, {"id": id_}) for id_ in (4, 5, 6)] == [[4], [5], [6]]

    run(main())
    assert ids(written) == [1, 2, 3, 4, 5, 6]


def test_a_session_that_changed_the_encoding_does_not_change_that_of_queries(bare_address: URL) -> None:
    words: Statement[Any] = Statement("words", "SELECT %(words)s::text", lambda row: row[0], may_repeat=True)

    async def main() -> None:
        async with AsyncDatabase(bare_address, pool_size=1) as database:
            for encoding in ("LATIN1", "UTF8"):
                async with database.engine.begin() as connection:
                    await connection.execute(text(f"SET client_encoding TO '{encoding}'"))
                for _ in range(4):
                    assert await fetch_async(database, words, {"words": "João, 日本"}) == ["João, 日本"]

    run(main())


def test_notices_change_nothing(bare_address: URL) -> None:
    run_sql(
        bare_address,
        "CREATE FUNCTION chat(id int) RETURNS int LANGUAGE plpgsql AS"
        " $$ BEGIN FOR i IN 1..500 LOOP RAISE NOTICE 'still %', i; END LOOP; RETURN id; END $$",
    )
    chat: Statement[Any] = Statement("chat", "SELECT chat(%(id)s::int)", lambda row: row[0], may_repeat=True)

    async def main() -> None:
        async with AsyncDatabase(bare_address) as database:
            calls = [fetch_async(database, chat if id_ % 5 == 0 else ECHO, {"id": id_}) for id_ in range(50)]
            assert await asyncio.gather(*calls) == [[id_] for id_ in range(50)]

    run(main())


# The connection is lost


def test_sessions_that_end_while_they_are_idle_are_replaced_unnoticed(written: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(written) as database:
            for turn in range(10):
                await asyncio.gather(*(echo(database, id_) for id_ in range(10)))
                await asyncio.to_thread(end_sessions, written, 5_000)
                # Not even the event loop has seen the end.
                if turn % 2:
                    time.sleep(0.01)
                assert await fetch_async(database, INSERT, {"id": turn}) == [turn]
                await asyncio.to_thread(end_sessions, written, 5_000)
                assert await echo(database, turn) == [turn]

    run(main())
    assert ids(written) == list(range(10))


def test_a_lost_read_is_sent_again_and_a_lost_write_says_that_its_outcome_is_unknown(written: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(written) as database:
            reads = [asyncio.create_task(fetch_async(database, NAP, {"id": id_, "seconds": 0.5})) for id_ in range(3)]
            write = asyncio.create_task(fetch_async(database, SLOW_INSERT, {"id": 1, "seconds": 0.5}))
            await until(lambda: runs(written, "INSERT"))
            await asyncio.to_thread(end_sessions, written)
            assert await asyncio.gather(*reads) == [[0], [1], [2]]
            with pytest.raises(OutcomeUnknown, match=r"slow insert.*administrator command"):
                await write
            assert await fetch_async(database, INSERT, {"id": 2}) == [2]

    run(main())
    assert ids(written) == [2]


def test_a_killed_server_process_says_the_same(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    address = fresh_server.address.set(database="postgres")
    run_sql(address, "CREATE TABLE written (id int)")
    # This server confirms commits before they are on the disk, so the recovery would not find the table.
    run_sql(address, "CHECKPOINT")

    async def main() -> None:
        async with AsyncDatabase(address) as database:
            [pid] = await fetch_async(
                database, Statement("pid", "SELECT pg_backend_pid()", lambda row: row[0], may_repeat=True), {}
            )
            read = asyncio.create_task(fetch_async(database, NAP, {"id": 7, "seconds": 0.5}))
            write = asyncio.create_task(fetch_async(database, SLOW_INSERT, {"id": 1, "seconds": 5}))
            await until(lambda: runs(address, "INSERT"))
            # The server ends all other sessions too, and recovers.
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(OutcomeUnknown):
                await write
            # It refuses connections meanwhile.
            answer = (await asyncio.gather(read, return_exceptions=True))[0]
            assert answer == [7] or isinstance(answer, DatabaseUnavailable)
            while True:
                try:
                    assert await echo(database, 1) == [1]
                except DatabaseUnavailable:
                    await asyncio.sleep(0.05)
                else:
                    break

    run(main())
    assert ids(address) == []


def test_all_callers_learn_at_once_that_no_connection_can_be_made(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    address = fresh_server.address.set(database="postgres")
    attempts = 0

    async def main() -> None:
        nonlocal attempts
        async with AsyncDatabase(address) as database:
            assert await echo(database, 1) == [1]
            await asyncio.to_thread(fresh_server.stop)
            original = lease.checkout_async

            async def counted(database: AsyncDatabase) -> Any:
                nonlocal attempts
                attempts += 1
                return await original(database)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(lease, "checkout_async", counted)
                for _ in range(3):
                    answers = await asyncio.gather(*(echo(database, 1) for _ in range(100)), return_exceptions=True)
                    assert all(isinstance(answer, DatabaseUnavailable) for answer in answers)
            # Few attempts serve all 300, because each tells all who wait.
            assert attempts <= 30
            await asyncio.to_thread(fresh_server.start)
            await asyncio.sleep(lease.PAUSE_SECONDS)
            assert await echo(database, 2) == [2]

    run(main())


def test_an_unexpected_error_while_connecting_reaches_those_who_wait(bare_address: URL) -> None:
    async def fails(_: AsyncDatabase) -> Any:
        raise ZeroDivisionError("of the app")

    async def main() -> None:
        async with AsyncDatabase(bare_address) as database:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(lease, "checkout_async", fails)
                answers = await asyncio.gather(*(echo(database, 1) for _ in range(5)), return_exceptions=True)
                assert {type(answer) for answer in answers} == {ZeroDivisionError}
                assert len({id(answer) for answer in answers}) == 5
            await asyncio.sleep(lease.PAUSE_SECONDS)
            assert await echo(database, 1) == [1]

    run(main())


def test_each_caller_receives_an_error_of_its_own(bare_address: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(bare_address.update_query_dict({"host": "/nowhere"})) as database:
            answers = await asyncio.gather(*(echo(database, 1) for _ in range(5)), return_exceptions=True)
            assert len({id(answer) for answer in answers}) == 5
            assert {type(answer) for answer in answers} == {ServerNotRunning}

    run(main())


# The caller leaves


def test_a_call_that_is_cancelled_before_it_is_sent_never_runs(written: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(written, pool_size=1) as database:
            first = asyncio.create_task(fetch_async(database, SLOW_INSERT, {"id": 1, "seconds": 0.5}))
            await until(lambda: runs(written, "INSERT"))
            second = asyncio.create_task(fetch_async(database, INSERT, {"id": 2}))
            await asyncio.sleep(0.05)
            second.cancel()
            assert await first == [1]
            assert await fetch_async(database, INSERT, {"id": 3}) == [3]

    run(main())
    assert ids(written) == [1, 3]


@pytest.mark.parametrize("is_copied", [True, False])
def test_a_read_that_a_cancel_request_for_another_call_hits_is_answered(
    bare_address: URL, monkeypatch: pytest.MonkeyPatch, *, is_copied: bool
) -> None:
    if not is_copied:
        monkeypatch.setattr(policy, "PATIENCE_SECONDS", 1_000)

    async def main() -> None:
        async with AsyncDatabase(bare_address, pool_size=1) as database:
            first = asyncio.create_task(fetch_async(database, NAP, {"id": 1, "seconds": 300}))
            await until(lambda: runs(bare_address, "pg_sleep"))
            calls = dispatcher(database).pipes[0].calls
            second = dispatcher(database).start([(NAP.plan, NAP.plan.parameters({"id": 2, "seconds": 300}))])
            assert list(calls)[1:] == [second]
            # As if it had been on two connections that were lost.
            second.tries = MAX_TRIES
            await until(lambda: asyncio.sleep(0.01, second.is_copied == is_copied))
            first.cancel()
            await until(lambda: asyncio.sleep(0.01, calls[0] is second))
            # A cancel request that arrives late ends the statement after the one it was for.
            await asyncio.to_thread(run_sql, bare_address, CANCEL_NAPS)
            await until(lambda: asyncio.sleep(0.01, (bool(calls) and calls[0] is not second) or second.was_hit))
            await until(lambda: runs(bare_address, "pg_sleep"))
            assert not second.ended
            # Now no request is on its way, so this one is an administrator's.
            await asyncio.to_thread(run_sql, bare_address, CANCEL_NAPS)
            with pytest.raises(psycopg.errors.QueryCanceled):
                await second.future

    run(main())


@pytest.mark.parametrize("statement", [NAP, SLOW_INSERT], ids=["read", "write"])
def test_a_statement_whose_caller_left_ends_on_the_server(written: URL, statement: Statement[Any]) -> None:
    async def main() -> None:
        async with AsyncDatabase(written) as database:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await fetch_async(database, statement, {"id": 1, "seconds": 300})
            assert await echo(database, 2) == [2]

            async def ended() -> bool:
                return not await runs(written, "pg_sleep")

            await until(ended)
            assert await fetch_async(database, INSERT, {"id": 3}) == [3]

    run(main())
    assert ids(written) == [3]


@pytest.mark.parametrize("statement", [NAP, SLOW_INSERT], ids=["read", "write"])
def test_a_deadline_ends_the_statement_on_the_server(written: URL, statement: Statement[Any]) -> None:
    async def main() -> None:
        async with AsyncDatabase(written) as database:
            await database.ping()
            with pytest.raises(DeadlineExceeded, match="was still running"):
                await fetch_async(database, statement, {"id": 1, "seconds": 300}, deadline_ms=1_000)

            async def ended() -> bool:
                return not await runs(written, "pg_sleep")

            await until(ended)
            async with database.session.begin() as session:
                with pytest.raises(DeadlineExceeded):
                    await fetch_async(session, statement, {"id": 1, "seconds": 300}, deadline_ms=300)
                await session.rollback()
            await until(ended)
            assert await fetch_async(database, ECHO, {"id": 2}, deadline_ms=30_000) == [2]

    run(main())
    assert ids(written) == []


def test_a_deadline_covers_the_wait_for_a_connection(bare_address: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(bare_address, pool_size=1) as database, database.engine.connect():
            with pytest.raises(DeadlineExceeded, match="still had no connection"):
                await fetch_async(database, ECHO, {"id": 1}, deadline_ms=100)

    run(main())


def test_reads_that_wait_behind_a_slow_statement_are_answered_before_it_ends(bare_address: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(bare_address) as database:
            await asyncio.gather(*(echo(database, id_) for id_ in range(50)))
            # More than there are shared connections, and not known to be slow.
            slow = [asyncio.create_task(fetch_async(database, NAP, {"id": id_, "seconds": 3})) for id_ in range(4)]
            for turn in range(100):
                assert await asyncio.gather(*(echo(database, id_) for id_ in range(10))) == [[n] for n in range(10)]
                assert turn or not any(task.done() for task in slow)
            assert not any(task.done() for task in slow)
            assert await asyncio.gather(*slow) == [[0], [1], [2], [3]]

    run(main())


# The pool


def test_a_session_gets_its_connection_from_queries_that_never_pause(bare_address: URL) -> None:
    async def main(pool_size: int) -> None:
        async with AsyncDatabase(bare_address, pool_size=pool_size) as database:
            done = False

            async def read_without_pause(id_: int) -> None:
                while not done:
                    assert await echo(database, id_) == [id_]

            async with asyncio.TaskGroup() as tasks:
                for id_ in range(10):
                    tasks.create_task(read_without_pause(id_))
                await asyncio.sleep(0.2)
                for _ in range(5):
                    async with AsyncExitStack() as stack:
                        for _ in range(pool_size):
                            await stack.enter_async_context(database.engine.connect())
                        assert database.engine.sync_engine.pool.checkedout() == pool_size  # type: ignore[attr-defined]
                done = True

    for pool_size in (1, 2, 4):
        run(main(pool_size))


@pytest.mark.parametrize("pool_size", [1, 2, 3])
def test_all_kinds_of_use_get_their_turn_on_few_connections(written: URL, pool_size: int) -> None:
    numbers: Statement[Any] = Statement("numbers", "SELECT generate_series(1, 3)", lambda row: row[0])

    async def main() -> None:
        async with AsyncDatabase(written, pool_size=pool_size) as database:
            turns = {"read": 0, "write": 0, "slow": 0, "session": 0, "stream": 0}

            async def session() -> None:
                async with database.session.begin() as session:
                    assert await session.scalar(text("SELECT 1")) == 1

            async def stream() -> None:
                assert [number async for number in stream_async(database, numbers, {})] == [1, 2, 3]

            uses: dict[str, Callable[[], Awaitable[Any]]] = {
                "read": lambda: echo(database, 1),
                "write": lambda: fetch_async(database, INSERT, {"id": 1}),
                "slow": lambda: fetch_async(database, NAP, {"id": 1, "seconds": 0.05}),
                "session": session,
                "stream": stream,
            }

            async def without_pause(kind: str) -> None:
                while min(turns.values()) < 5:
                    await uses[kind]()
                    turns[kind] += 1

            async with asyncio.TaskGroup() as tasks:
                for kind in uses:
                    for _ in range(4):
                        tasks.create_task(without_pause(kind))

    run(main())


def test_calls_wait_while_sessions_have_all_connections(bare_address: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(bare_address, pool_size=2, pool_timeout_seconds=0.3) as database:
            async with database.engine.connect(), database.engine.connect():
                answers = await asyncio.gather(*(echo(database, id_) for id_ in range(5)), return_exceptions=True)
                assert {type(answer) for answer in answers} == {ConnectionsExhausted}
            # The pool was busy, and no server refused a connection: there is no pause.
            async with database.engine.connect():
                assert await asyncio.gather(*(echo(database, id_) for id_ in range(5))) == [[n] for n in range(5)]

    run(main())


def test_calls_do_not_wait_for_a_connection_longer_than_the_pool_allows(written: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(written, pool_size=1, pool_timeout_seconds=0.3) as database:
            first = asyncio.create_task(fetch_async(database, SLOW_INSERT, {"id": 1, "seconds": 3}))
            await until(lambda: runs(written, "INSERT"))
            for call in (echo(database, 2), fetch_async(database, INSERT, {"id": 3})):
                with pytest.raises(ConnectionsExhausted):
                    await call
            assert not first.done()
            assert await first == [1]

    run(main())
    assert ids(written) == [1]


def test_a_session_of_the_server_keeps_few_prepared_statements(
    bare_address: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "MAX_PREPARED", 5)
    count: Statement[int] = Statement("count", "SELECT count(*) FROM pg_prepared_statements", lambda row: row[0])

    async def main() -> None:
        async with AsyncDatabase(bare_address, pool_size=1) as database:
            for number in range(30):
                statement: Statement[int] = Statement("number", f"SELECT {number}", lambda row: row[0], may_repeat=True)
                for _ in range(3):
                    assert await fetch_async(database, statement, {}) == [number]
            [kept] = await fetch_async(database, count, {})
            assert 4 <= kept <= 6

    run(main())


def test_idle_connections_go_back_to_the_pool(bare_address: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tatame_db.database.idle, "IDLE_TIMEOUT_SECONDS", 0.3)

    async def main() -> None:
        async with AsyncDatabase(bare_address) as database:
            await asyncio.gather(*(fetch_async(database, NAP, {"id": 1, "seconds": 0.05}) for _ in range(30)))
            assert dispatcher(database).pipes

            async def gone() -> bool:
                return not dispatcher(database).pipes and await asyncio.to_thread(sessions, bare_address) == 0

            await until(gone)
            assert await echo(database, 1) == [1]

    run(main())


def test_close_answers_the_calls_in_flight_and_refuses_others(written: URL) -> None:
    async def main() -> None:
        database = AsyncDatabase(written, pool_size=3)
        await echo(database, 0)
        reads = [asyncio.create_task(fetch_async(database, NAP, {"id": id_, "seconds": 0.1})) for id_ in range(5)]
        writes = [asyncio.create_task(fetch_async(database, INSERT, {"id": id_})) for id_ in range(5)]
        await asyncio.sleep(0.02)
        closing = asyncio.create_task(database.close())
        await asyncio.sleep(0)
        with pytest.raises(DatabaseClosed):
            await echo(database, 1)
        assert await asyncio.gather(*reads, *writes) == [[n] for n in range(5)] * 2
        await closing
        with pytest.raises(DatabaseClosed):
            await echo(database, 1)

        async def gone() -> bool:
            return await asyncio.to_thread(sessions, written) == 0

        await until(gone)

    run(main())
    assert ids(written) == list(range(5))


def test_each_statement_is_reported_once(written: URL) -> None:
    events: list[StatementEvent] = []

    async def main() -> None:
        async with AsyncDatabase(written) as database:
            database.on_statement(events.append)
            await echo(database, 1)
            await fetch_async(database, INSERT, {"id": 1})
            await fetch_all_async(database, [(INSERT, {"id": 2}), (ECHO, {"id": 3})])
            with pytest.raises(DataError):
                await fetch_async(database, DIVIDE, {"id": 1})
            with pytest.raises(ProgrammingError):
                await fetch_async(database, Statement("wrong", "SELEC", tuple), {})

    run(main())
    assert [(event.name, event.rows, type(event.error).__name__) for event in events] == [
        ("echo", 1, "NoneType"),
        ("insert", 1, "NoneType"),
        ("insert", 1, "NoneType"),
        ("echo", 1, "NoneType"),
        ("divide", None, "DataError"),
        ("wrong", None, "ProgrammingError"),
    ]


# Event loops and drivers


def test_a_database_may_be_used_on_one_event_loop_after_the_other(written: URL) -> None:
    database = AsyncDatabase(written)

    async def main(id_: int) -> None:
        await asyncio.gather(*(echo(database, id_) for id_ in range(30)))
        assert await fetch_async(database, INSERT, {"id": id_}) == [id_]
        async with database.session.begin() as session:
            await session.execute(text("SELECT 1"))

    async def leave_calls_in_flight() -> None:
        calls = [fetch_async(database, NAP, {"id": 1, "seconds": 0.2}) for _ in range(5)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*calls), 0.1)

    for id_ in range(5):
        run(main(id_))
        run(leave_calls_in_flight())
    run(database.close())
    assert ids(written) == list(range(5))


def test_a_loop_that_ends_at_any_moment_leaves_no_connection_behind(bare_address: URL) -> None:
    async def read_in_session(database: AsyncDatabase) -> None:
        async with database.session() as session:
            await session.execute(text("SELECT 1"))

    async def main(database: AsyncDatabase, moment: Callable[[], Awaitable[None]], *, is_idle: bool) -> None:
        if is_idle:
            await asyncio.gather(echo(database, 1), read_in_session(database))
        tasks = [asyncio.create_task(echo(database, 1)) for _ in range(3)]
        await moment()
        # `asyncio.run` cancels what is left.
        del tasks

    # The turns of the loop one by one while a connection is idle, and moments while the server opens a session.
    cases = [(partial(turns, number), True) for number in range(12)]
    cases += [(partial(asyncio.sleep, number / 1000), False) for number in range(10)]
    for moment, is_idle in cases:
        database = AsyncDatabase(bare_address)
        run(main(database, moment, is_idle=is_idle))
        run(database.close())
        del database
        # SQLAlchemy warns of a connection that was neither returned nor closed, and a warning fails a test.
        gc.collect()


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_a_database_is_refused_on_two_event_loops_at_once(bare_address: URL) -> None:
    database = AsyncDatabase(bare_address)
    entered, done = threading.Event(), threading.Event()

    async def first() -> None:
        await echo(database, 1)
        entered.set()
        await asyncio.to_thread(done.wait)
        assert await echo(database, 2) == [2]
        await database.close()

    thread = threading.Thread(target=run, args=(first(),))
    thread.start()
    entered.wait()
    try:
        with pytest.raises(EventLoopDiffers):
            run(echo(database, 1))
        with pytest.raises(EventLoopDiffers):
            run(database.ping())
    finally:
        done.set()
        thread.join()


PYTHON_DRIVER = """
import asyncio, sys
from psycopg import pq
from tatame_db.database.pool import AsyncDatabase
from tatame_db.queries.engine.plan import Statement
from tatame_db.queries.errors import DeadlineExceeded
from tatame_db.queries.run import fetch_all_async, fetch_async

async def main():
    echo = Statement("echo", "SELECT %(id)s::int", lambda row: row[0], may_repeat=True)
    insert = Statement("insert", "INSERT INTO written VALUES (%(id)s::int) RETURNING id", lambda row: row[0])
    nap = Statement("nap", "SELECT pg_sleep(300)", tuple, may_repeat=True)
    async with AsyncDatabase(sys.argv[1]) as database:
        for _ in range(3):
            calls = [fetch_async(database, echo, {"id": id_}) for id_ in range(50)]
            assert await asyncio.gather(*calls) == [[id_] for id_ in range(50)]
        assert await fetch_all_async(database, [(insert, {"id": 1}), (insert, {"id": 2})]) == [[1], [2]]
        try:
            await fetch_async(database, nap, {}, deadline_ms=200)
        except DeadlineExceeded:
            print(pq.__impl__)

asyncio.run(main())
"""


def test_the_driver_in_python_does_the_same(written: URL) -> None:
    command = [sys.executable, "-W", "error", "-c", PYTHON_DRIVER, written.render_as_string(hide_password=False)]
    environment = {**os.environ, "PSYCOPG_IMPL": "python"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    if "libpq" in done.stderr and "ImportError" in done.stderr:
        # The machine has no libpq of its own, so the driver cannot be loaded at all.
        return
    assert (done.stdout, done.stderr) == ("python\n", "")
    assert ids(written) == [1, 2]
