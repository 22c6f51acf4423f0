"""Streams that their caller does not read to the end, and what the end of a database, a loop or Python does to them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from contextlib import aclosing
from typing import Any

import pytest
from sqlalchemy import URL, text

from tatame_db.database.errors import ConnectionsBusy, DatabaseClosed
from tatame_db.database.observer import StatementEvent
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries.engine.plan import Statement
from tatame_db.queries.run import fetch, fetch_async, stream, stream_async

NUMBERS: Statement[int] = Statement("numbers", "SELECT generate_series(1, 5000)", lambda row: int(row[0]))
ONE: Statement[int] = Statement("one", "SELECT 1", lambda row: int(row[0]), may_repeat=True)

# --- The end of Python -----------------------------------------------------------------------------------------------

IMPORTS = """
import asyncio, sys, threading
from sqlalchemy import text
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries.engine.plan import Statement
from tatame_db.queries.run import fetch, fetch_async, stream, stream_async
NUMBERS = Statement("numbers", "SELECT generate_series(1, 5000)", lambda row: row[0])
"""

LEFT_AT_THE_END = {
    "a stream": "db = Database(sys.argv[1]); rows = stream(db, NUMBERS, {}); next(rows)",
    "a stream in a cycle": """
db = Database(sys.argv[1])
class Holder: ...
holder = Holder()
holder.self, holder.rows = holder, stream(db, NUMBERS, {})
next(holder.rows)
""",
    "a session": "db = Database(sys.argv[1]); session = db.session(); session.execute(text('SELECT 1'))",
    "a connection": "db = Database(sys.argv[1]); connection = db.engine.connect()",
    "a database in a block": """
def work():
    with Database(sys.argv[1]) as db:
        fetch(db, NUMBERS, {})
        yield
working = work()
next(working)
""",
    "a stream of asyncio": """
async def main():
    global db, rows
    db = AsyncDatabase(sys.argv[1]); rows = stream_async(db, NUMBERS, {})
    await anext(rows)
asyncio.run(main())
""",
}


@pytest.mark.parametrize("left", LEFT_AT_THE_END)
def test_a_process_ends_whatever_is_left_open(left: str, address: URL) -> None:
    command = [sys.executable, "-c", IMPORTS + LEFT_AT_THE_END[left], address.render_as_string(hide_password=False)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


LEFT_AT_THE_END_OF_A_LOOP = {
    "in a loop": "async for _ in stream_async(db, NUMBERS, {}): break",
    "with a reference": "rows = stream_async(db, NUMBERS, {}); await anext(rows)",
    "in a session": """async with db.session() as session:
        async for _ in stream_async(session, NUMBERS, {}): break
        assert (await session.execute(text("SELECT 1"))).scalar() == 1""",
    "by a task that is cancelled": """async def read_slowly():
        async for _ in stream_async(db, NUMBERS, {}): await asyncio.sleep(60)
    reading = asyncio.create_task(read_slowly())
    while not db.statistics().in_use: await asyncio.sleep(0.01)""",
}


@pytest.mark.parametrize(
    ("left", "closes"),
    # A database would wait for the other task.
    [
        (left, closes)
        for left in LEFT_AT_THE_END_OF_A_LOOP
        for closes in (True, False)
        if not (closes and "task" in left)
    ],
)
def test_asyncio_run_ends_in_silence_whatever_stream_is_left(left: str, address: URL, *, closes: bool) -> None:
    """The standard error has the warnings and errors of the interpreter, of asyncio and of psycopg's log."""
    code = f"""{IMPORTS}
async def main():
    global db, rows, reading; db = AsyncDatabase(sys.argv[1])
    {LEFT_AT_THE_END_OF_A_LOOP[left]}
    {"await db.close()" if closes else ""}
asyncio.run(main())
"""
    command = [sys.executable, "-c", code, address.render_as_string(hide_password=False)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- The end of a database -------------------------------------------------------------------------------------------


def test_a_database_does_not_wait_for_a_stream_of_the_same_thread(address: URL) -> None:
    with Database(address) as database:
        unread, rows = stream(database, NUMBERS, {}), stream(database, NUMBERS, {})
        assert next(rows) == 1
    assert database.statistics().in_use == 0
    # The rows that it has are right, and it never ends as if there were no others.
    found: list[int] = []
    with pytest.raises(DatabaseClosed):
        found += rows
    with pytest.raises(DatabaseClosed):
        next(unread)


def test_a_database_does_not_wait_for_a_stream_of_the_same_task(address: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(address) as database:
            unread, rows = stream_async(database, NUMBERS, {}), stream_async(database, NUMBERS, {})
            assert await anext(rows) == 1
        assert database.statistics().in_use == 0
        with pytest.raises(DatabaseClosed):
            _ = [number async for number in rows]
        with pytest.raises(DatabaseClosed):
            await anext(unread)

    asyncio.run(main())


def test_a_database_waits_for_the_streams_of_others(address: URL) -> None:
    database, goes_on, found = Database(address), threading.Event(), list[int]()
    started = threading.Event()

    def work() -> None:
        for number in stream(database, NUMBERS, {}):
            found.append(number)
            started.set()
            goes_on.wait()

    reading = threading.Thread(target=work)
    reading.start()
    started.wait()
    with pytest.raises(ConnectionsBusy):
        database.close(timeout_seconds=0.05)
    goes_on.set()
    reading.join()
    assert found == list(range(1, 5001))


def test_an_async_database_waits_for_the_streams_of_other_tasks(address: URL) -> None:
    async def main() -> None:
        database, goes_on, started = AsyncDatabase(address), asyncio.Event(), asyncio.Event()

        async def work() -> list[int]:
            found: list[int] = []
            async for number in stream_async(database, NUMBERS, {}):
                found.append(number)
                started.set()
                await goes_on.wait()
            return found

        reading = asyncio.create_task(work())
        await started.wait()
        with pytest.raises(ConnectionsBusy):
            await database.close(timeout_seconds=0.05)
        goes_on.set()
        assert await reading == list(range(1, 5001))

    asyncio.run(main())


class OwnError(Exception):
    """An error of the app."""


def test_an_error_of_a_block_is_not_replaced_by_that_of_its_end(address: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (Database, AsyncDatabase):
        monkeypatch.setattr(kind.close, "__defaults__", (0.05,))

    async def main() -> None:
        database = AsyncDatabase(address)
        async with database.session() as session:
            await session.execute(text("SELECT 1"))
            async with database:
                raise OwnError

    def work() -> None:
        database = Database(address)
        with database.session() as session:
            session.execute(text("SELECT 1"))
            with database:
                raise OwnError

    for fails in (work, lambda: asyncio.run(main())):
        with pytest.raises(OwnError) as caught:
            fails()
        [note] = caught.value.__notes__
        assert note.startswith("1 connection still in use after 0.05 seconds")


def test_a_block_without_an_error_raises_that_of_its_end(address: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Database.close, "__defaults__", (0.05,))
    database = Database(address)
    connection = database.engine.connect()
    with pytest.raises(ConnectionsBusy), database:
        pass
    connection.close()


# --- The rest of a stream --------------------------------------------------------------------------------------------


def test_a_stream_of_asyncio_returns_its_connection_when_it_is_closed(address: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(address, pool_size=1) as database:
            pids: set[Any] = set()
            for _ in range(3):
                async with aclosing(stream_async(database, NUMBERS, {})) as rows:
                    assert await anext(rows) == 1
                assert [number async for number in rows] == []
                await rows.aclose()
                async with database.session() as session:
                    pids.add(await session.scalar(text("SELECT pg_backend_pid()")))
            assert len(pids) == 1

    asyncio.run(main())


def test_a_stream_that_is_left_after_its_connection_was_lost_raises_nothing(address: URL) -> None:
    events: list[StatementEvent] = []
    with Database(address) as database:
        database.on_statement(events.append)
        rows = stream(database, NUMBERS, {})
        next(rows)
        with Database(address) as other, other.engine.connect() as connection:
            end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database()"
            connection.execute(text(f"{end} AND pid <> pg_backend_pid() AND state = 'idle in transaction'"))
        rows.close()
        assert fetch(database, ONE, {}) == [1]
    assert {event.error for event in events} == {None}


def test_a_stream_that_is_left_frees_its_place_in_the_pool(address: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(address, pool_size=1) as database:
            for _ in range(3):
                async for _ in stream_async(database, NUMBERS, {}):
                    break
                assert await fetch_async(database, ONE, {}) == [1]

    asyncio.run(main())
    with Database(address, pool_size=1) as database:
        for _ in range(3):
            for _ in stream(database, NUMBERS, {}):
                break
            assert fetch(database, ONE, {}) == [1]


def test_two_tasks_cannot_wait_for_one_stream(address: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(address) as database:
            rows = stream_async(database, NUMBERS, {})
            first, second = (asyncio.ensure_future(anext(rows)) for _ in range(2))
            with pytest.raises(RuntimeError, match="another task"):
                await second
            assert await first == 1
            assert [number async for number in rows] == list(range(2, 5001))

    asyncio.run(main())


def test_the_time_of_a_stream_is_the_time_that_its_rows_took(address: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of the test counts 1,000 seconds for each row that the caller has."""
    events: list[StatementEvent] = []
    worked = 0.0
    clock = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + worked)

    async def main() -> None:
        nonlocal worked
        async with AsyncDatabase(address) as database:
            database.on_statement(events.append)
            async for _ in stream_async(database, NUMBERS, {}):
                worked += 1_000
            async with aclosing(stream_async(database, NUMBERS, {})) as rows:
                async for _ in rows:
                    worked += 1_000
                    break
            async for _ in stream_async(database, NUMBERS, {}):
                worked += 1_000
                break

    asyncio.run(main())
    with Database(address) as database:
        database.on_statement(events.append)
        for _ in stream(database, NUMBERS, {}):
            worked += 1_000
        for _ in stream(database, NUMBERS, {}):
            worked += 1_000
            break
    assert [event.rows for event in events] == [5_000, 1_000, 1_000, 5_000, 1_000]
    assert all(0 < event.seconds < 1_000 for event in events)
