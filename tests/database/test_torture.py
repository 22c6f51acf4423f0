"""Thousands of mixed calls of asyncio under faults. Each answer is checked: it carries the arguments of its own call.

    TORTURE_CALLS=1000000 .venv/bin/pytest tests/database/test_torture.py

runs a million calls; `TORTURE_SEED` selects others.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError, OperationalError
from tests.conftest import run_sql

from tatame_db.database.address import readable
from tatame_db.database.errors import DatabaseUnavailable, OutcomeUnknown
from tatame_db.database.pool import AsyncDatabase
from tatame_db.queries.engine.plan import Statement
from tatame_db.queries.errors import DeadlineExceeded
from tatame_db.queries.run import fetch_all_async, fetch_async
from tatame_db.server.embedded import EmbeddedServer

CALLS = int(os.environ.get("TORTURE_CALLS", "20000"))
SEED = int(os.environ.get("TORTURE_SEED", "1"))
CALLS_IN_FLIGHT = 60

SCHEMA = """
CREATE TABLE written (id int PRIMARY KEY, note text);
CREATE TABLE wide (id int PRIMARY KEY, first text);
INSERT INTO wide VALUES (1, 'first');
INSERT INTO written VALUES (-1, 'taken');
CREATE FUNCTION boom(id int) RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'boom %', id USING ERRCODE = 'P0042'; END $$;
"""


def read(name: str, sql: str) -> Statement[Any]:
    return Statement(name, sql, tuple, may_repeat=True)


def write(name: str, sql: str) -> Statement[Any]:
    return Statement(name, sql, tuple)


ECHO = read("echo", "SELECT %(id)s::int, repeat('x', %(size)s::int)")
# Nothing ties the next call of it to the same type of parameter, so one plan has several prepared statements.
ECHO_ANY = read("echo any", "SELECT %(id)s::int, to_jsonb(%(value)s)")
MANY = read("many", "SELECT %(id)s::int, number FROM generate_series(1, %(rows)s::int) AS number")
WIDE = read("wide", "SELECT *, %(id)s::int AS own FROM wide")
NAP = read("nap", "SELECT %(id)s::int, pg_sleep(%(seconds)s)")
INSERT = write("insert", "INSERT INTO written VALUES (%(id)s::int, %(note)s) RETURNING id, note")
SLOW_INSERT = write(
    "slow insert", "INSERT INTO written SELECT %(id)s::int, 'slow' FROM pg_sleep(%(seconds)s) RETURNING id"
)

# psycopg would not notice that its own are gone.
DEALLOCATE = """
DO $$
DECLARE prepared record;
BEGIN
    FOR prepared IN SELECT name FROM pg_prepared_statements WHERE name LIKE 'tatame%' LOOP
        EXECUTE 'DEALLOCATE ' || prepared.name;
    END LOOP;
END $$
"""

FAILING: dict[str, tuple[Statement[Any], dict[str, Any]]] = {
    "22012": (read("divide", "SELECT 10 / (5 - g) FROM generate_series(1, %(id)s::int * 0 + 10) AS g"), {}),
    "42601": (read("syntax", "SELEC %(id)s::int"), {}),
    "42P01": (read("missing", "SELECT * FROM nowhere WHERE id = %(id)s::int"), {}),
    "22P02": (read("cast", "SELECT %(id)s::int, %(word)s::text::int"), {"word": "two"}),
    "P0042": (read("boom", "SELECT boom(%(id)s::int)"), {}),
    "23505": (write("duplicate", "INSERT INTO written VALUES (-1, %(id)s::int::text)"), {}),
}


def message(error: DBAPIError) -> str:
    """Return the server's message; the error itself quotes none that a function of the database raised."""
    return error.orig.diag.message_primary or "" if isinstance(error.orig, psycopg.Error) else ""


@dataclass
class Torture:
    """The calls of a run, and what was observed."""

    database: AsyncDatabase
    seed: int
    cancels: bool = True
    observed: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])
    confirmed: set[int] = field(default_factory=set[int])
    """Writes whose rows must be in the table."""
    open: set[int] = field(default_factory=set[int])
    """Writes that may or may not have been committed."""

    def expect(self, id_: int, rows: object, expected: object) -> None:
        if rows == expected:
            self.observed["right"] += 1
        else:
            self.wrong.append(f"call {id_} received {str(rows)[:100]}, expected {str(expected)[:100]}")

    async def read(self, id_: int, chance: random.Random) -> None:
        kind = chance.random()
        if kind < 0.7:
            size = chance.choice((0, 1, 50, 9_000))
            self.expect(id_, await fetch_async(self.database, ECHO, {"id": id_, "size": size}), [(id_, "x" * size)])
        elif kind < 0.8:
            value = chance.choice((True, id_, 2.5, [id_]))
            answer = [(id_, value)]
            self.expect(id_, await fetch_async(self.database, ECHO_ANY, {"id": id_, "value": value}), answer)
        elif kind < 0.9:
            count = chance.choice((2, 500))
            rows = await fetch_async(self.database, MANY, {"id": id_, "rows": count})
            self.expect(id_, rows, [(id_, number + 1) for number in range(count)])
        else:
            # Its columns change during the run.
            rows = await fetch_async(self.database, WIDE, {"id": id_})
            self.expect(id_, [(row[0], row[1], row[-1]) for row in rows], [(1, "first", id_)])

    async def nap(self, id_: int, chance: random.Random) -> None:
        seconds = chance.choice((0.001, 0.005, 0.03, 0.1))
        rows = await fetch_async(self.database, NAP, {"id": id_, "seconds": seconds})
        self.expect(id_, [row[0] for row in rows], [id_])

    async def write(self, id_: int, chance: random.Random) -> None:
        self.open.add(id_)
        try:
            kind = chance.random()
            if kind < 0.8:
                values = {"id": id_, "note": f"note {id_}"}
                self.expect(id_, await fetch_async(self.database, INSERT, values), [(id_, f"note {id_}")])
            elif kind < 0.9:
                # Two statements are one transaction.
                calls: list[tuple[Statement[Any], dict[str, Any]]] = [
                    (INSERT, {"id": id_, "note": "pair"}),
                    (ECHO, {"id": id_, "size": 3}),
                ]
                rows = await fetch_all_async(self.database, calls)
                self.expect(id_, rows, [[(id_, "pair")], [(id_, "xxx")]])
            else:
                values = {"id": id_, "seconds": chance.choice((0.001, 0.02, 0.1))}
                self.expect(id_, await fetch_async(self.database, SLOW_INSERT, values), [(id_,)])
        except DatabaseUnavailable:
            # No connection could be made, so it was not sent.
            self.open.discard(id_)
            raise
        self.confirmed.add(id_)

    async def fail(self, id_: int, chance: random.Random) -> None:
        state = chance.choice(sorted(FAILING))
        statement, values = FAILING[state]
        try:
            await fetch_async(self.database, statement, {"id": id_, **values})
        except DBAPIError as error:
            found = getattr(error.orig, "sqlstate", None)
            if found is None:
                raise
            self.expect(id_, (found, f"boom {id_}" in message(error)), (state, state == "P0042"))
        else:
            self.wrong.append(f"call {id_} ({statement.name}) raised no error")

    async def half_fail(self, id_: int, _: random.Random) -> None:
        """The second statement fails, so the first must leave nothing."""
        calls: list[tuple[Statement[Any], dict[str, Any]]] = [
            (INSERT, {"id": id_, "note": "undone"}),
            (FAILING["P0042"][0], {"id": id_}),
        ]
        with pytest.raises(DBAPIError) as caught:
            await fetch_all_async(self.database, calls)
        if getattr(caught.value.orig, "sqlstate", None) is None:
            raise caught.value
        self.expect(id_, f"boom {id_}" in message(caught.value), expected=True)

    async def session(self, id_: int, chance: random.Random) -> None:
        async with self.database.session.begin() as session:
            if chance.random() < 0.3:
                # A later call on this connection finds its prepared statements gone.
                await session.execute(text(DEALLOCATE))
            echo = text("SELECT CAST(:id AS int), pg_sleep(0.002)")
            self.expect(id_, (await session.execute(echo, {"id": id_})).scalar(), id_)
            rows = await fetch_async(session, ECHO, {"id": id_, "size": 5})
            self.expect(id_, rows, [(id_, "xxxxx")])

    async def call(self, id_: int) -> None:
        chance = random.Random(id_ * 31 + self.seed)  # noqa: S311, the same calls each time
        kinds: list[Callable[[int, random.Random], Awaitable[None]]] = [
            *(self.read,) * 60, *(self.write,) * 25, *(self.fail,) * 9, self.nap, self.nap, self.half_fail, self.session
        ]  # fmt: skip
        kind = chance.choice(kinds)
        try:
            if self.cancels and chance.random() < 0.2:
                await self.leave(kind(id_, chance), chance)
            else:
                await kind(id_, chance)
        except TimeoutError:
            self.observed["left"] += 1
        except asyncio.CancelledError:
            self.observed["cancelled"] += 1
        except (DatabaseUnavailable, OutcomeUnknown, DeadlineExceeded) as error:
            self.observed[type(error).__name__] += 1
        except OperationalError as error:
            # A session's statement, or a read that lost several connections.
            if getattr(error.orig, "sqlstate", None) not in {None, "57P01", "57P03"}:
                raise
            self.observed["lost"] += 1
            await asyncio.sleep(0.01)

    async def leave(self, call: Awaitable[None], chance: random.Random) -> None:
        """Cancel a call at any moment: before it began, before it was flushed, in flight, or when it runs for long."""
        task = asyncio.ensure_future(call)
        moment = chance.randrange(4)
        if moment:
            await asyncio.sleep((0, 0, chance.random() * 0.003, chance.random() * 0.08)[moment])
        task.cancel()
        await task

    async def run(self, calls: int) -> None:
        ids = iter(range(calls))

        async def work() -> None:
            for id_ in ids:
                await self.call(id_)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(CALLS_IN_FLIGHT):
                tasks.create_task(work())

    def check(self, address: URL) -> None:
        """Compare the table with what the callers received."""
        with psycopg.connect(readable(address)) as connection:
            rows = [row[0] for row in connection.execute("SELECT id FROM written WHERE id >= 0")]
        found = set(rows)
        assert self.wrong == []
        assert self.confirmed - found == set(), "confirmed, and not there"
        assert found - self.confirmed - self.open == set(), "there, though reported as not executed"


@asynccontextmanager
async def harmed(harm: Callable[[], Coroutine[Any, Any, None]] | None) -> AsyncGenerator[None]:
    """Do harm again and again meanwhile."""
    if harm is None:
        yield
        return

    over = asyncio.Event()

    async def again_and_again() -> None:
        while not over.is_set():
            await asyncio.sleep(0.3)
            await harm()

    task = asyncio.create_task(again_and_again())
    try:
        yield
    finally:
        over.set()
        await task


async def torture(
    address: URL, calls: int, harm: Callable[[], Coroutine[Any, Any, None]] | None = None, *, cancels: bool = True
) -> Torture:
    """Run calls under harm; fail if one of them hangs."""
    database = AsyncDatabase(address)
    run = Torture(database, SEED, cancels)
    started = time.monotonic()
    async with asyncio.timeout(60 + calls / 100), harmed(harm):
        await run.run(calls)
    await database.close()
    print(f"{calls} calls, {calls / (time.monotonic() - started):.0f} a second, {dict(run.observed)}")  # noqa: T201
    return run


@pytest.fixture
def tortured(bare_address: URL) -> URL:
    run_sql(bare_address, SCHEMA)
    return bare_address


def test_each_call_receives_its_own_rows_or_its_own_error(tortured: URL) -> None:
    run = asyncio.run(torture(tortured, CALLS // 4, cancels=False))
    run.check(tortured)
    # Nothing was lost, so nothing may remain open.
    assert run.open == run.confirmed
    assert run.observed.keys() == {"right"}


@pytest.mark.long
def test_callers_that_leave_at_any_moment_change_nothing_for_the_others(tortured: URL) -> None:
    run = asyncio.run(torture(tortured, CALLS // 4))
    run.check(tortured)
    assert run.observed.keys() == {"right", "cancelled"}


@pytest.mark.long
def test_sessions_that_the_server_ends_lose_no_write_and_repeat_none(tortured: URL) -> None:
    added = iter(range(1_000_000))

    async def harm() -> None:
        async with await psycopg.AsyncConnection.connect(readable(tortured), autocommit=True) as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.7"
            )
            await connection.execute(f"ALTER TABLE wide ADD COLUMN added_{next(added) % 500} int".encode())

    run = asyncio.run(torture(tortured, CALLS // 4, harm))
    run.check(tortured)


@pytest.mark.long
def test_restarts_of_the_server_lose_no_write_and_repeat_none(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    address = fresh_server.address.set(database="postgres")
    run_sql(address, SCHEMA)

    async def harm() -> None:
        await asyncio.sleep(0.7)
        await asyncio.to_thread(fresh_server.stop)
        await asyncio.to_thread(fresh_server.start)

    run = asyncio.run(torture(address, CALLS // 4, harm))
    run.check(address)
    assert run.observed["right"] > 0
