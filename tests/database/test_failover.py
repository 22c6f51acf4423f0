"""The primary is killed and its standby promoted: writers go on, and commands leave nothing half done."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError
from tests.conftest import run_sql, until
from tests.database.standbys import Pair, standby_pair
from typer.testing import CliRunner, Result

from tatame_db.cli import commands
from tatame_db.database.address import readable
from tatame_db.database.errors import DatabaseUnavailable, OutcomeUnknown, PrimaryMissing
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.move.rehearsal.project import SUPABASE_SCHEMA
from tatame_db.queries.read import read
from tatame_db.queries.write import insert_many
from tatame_db.schema import User
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.testing.runs import Run

SECONDS = 60
TASKS = 3
FORESEEN = (DatabaseUnavailable, OutcomeUnknown, DBAPIError)


@pytest.fixture
def pair(fresh_server: EmbeddedServer, directory: Path) -> Generator[Pair]:
    with standby_pair(fresh_server, directory / "standby") as pair:
        yield pair


def rows(address: URL, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(readable(address)) as connection:
        return connection.execute(query.encode()).fetchall()


class Writers:
    """Writers of both faces, with queries and with sessions, each of which notes what was acknowledged."""

    def __init__(self, address: URL) -> None:
        self.address = address
        self.acknowledged: dict[str, list[str]] = {}
        self.failures: list[BaseException] = []
        self.ended = threading.Event()
        self._numbers = count()

    def _next(self, writer: str) -> dict[str, str]:
        return {"clerk_user_id": f"{writer} {next(self._numbers)}"}

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, DBAPIError):
            assert error.connection_invalidated, error
        self.failures.append(error)

    def sync(self, writer: str, write: Callable[[Database, dict[str, str]], object], database: Database) -> None:
        done = self.acknowledged.setdefault(writer, [])
        while not self.ended.is_set():
            row = self._next(writer)
            try:
                write(database, row)
            except FORESEEN as error:
                self._failed(error)
                time.sleep(0.02)
            else:
                done.append(row["clerk_user_id"])

    async def tasks(self) -> None:
        async with AsyncDatabase(self.address) as database, asyncio.TaskGroup() as group:
            for number in range(TASKS):
                group.create_task(self._task(f"async query {number}", database, _insert_async))
                group.create_task(self._task(f"async session {number}", database, _add_async))

    async def _task(self, writer: str, database: AsyncDatabase, write: Callable[[AsyncDatabase, Any], Any]) -> None:
        done = self.acknowledged.setdefault(writer, [])
        while not self.ended.is_set():
            row = self._next(writer)
            try:
                await write(database, row)
            except FORESEEN as error:
                self._failed(error)
                await asyncio.sleep(0.02)
            else:
                done.append(row["clerk_user_id"])

    def numbers(self) -> dict[str, int]:
        return {writer: len(done) for writer, done in self.acknowledged.items()}


def _insert(database: Database, row: dict[str, str]) -> None:
    insert_many(User, [row]).run(database)


def _add(database: Database, row: dict[str, str]) -> None:
    with database.session.begin() as session:
        session.add(User(clerk_user_id=row["clerk_user_id"]))


async def _insert_async(database: AsyncDatabase, row: dict[str, str]) -> None:
    await insert_many(User, [row]).run(database)


async def _add_async(database: AsyncDatabase, row: dict[str, str]) -> None:
    async with database.session.begin() as session:
        session.add(User(clerk_user_id=row["clerk_user_id"]))


def test_writers_of_both_faces_go_on_at_the_new_primary_and_lose_nothing_acknowledged(pair: Pair) -> None:
    # Each commit waits until the standby has it.
    run_sql(pair.primary.address, "ALTER SYSTEM SET synchronous_standby_names = '*'")
    # Servers of tests do not wait for the disk, and so not for a standby either.
    run_sql(pair.primary.address, "ALTER DATABASE tatame SET synchronous_commit = on")
    run_sql(pair.primary.address, "SELECT pg_reload_conf()")
    until(lambda: rows(pair.primary.address, "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'"))
    writers = Writers(pair.both)
    with Database(pair.both) as database:
        threads = [
            threading.Thread(target=writers.sync, args=("sync query", _insert, database)),
            threading.Thread(target=writers.sync, args=("sync session", _add, database)),
            threading.Thread(target=lambda: asyncio.run(writers.tasks())),
        ]
        for thread in threads:
            thread.start()
        try:
            until(lambda: len(writers.numbers()) == 2 + 2 * TASKS and min(writers.numbers().values()) > 4)
            pair.kill_primary()
            until(lambda: any(isinstance(error, PrimaryMissing) for error in writers.failures))
            health = database.check()
            assert (health.healthy, health.latency_ms) == (False, None)
            pair.promote()
            before = writers.numbers()
            until(lambda: all(number > before[writer] + 4 for writer, number in writers.numbers().items()))
        finally:
            writers.ended.set()
            for thread in threads:
                thread.join()
        assert database.check().healthy
        stored = {user.clerk_user_id for user in read(User).all(database)}
    assert {row for done in writers.acknowledged.values() for row in done} <= stored


# --- Commands in the middle of their work ----------------------------------------------------------------------------

_LOCK_USERS = "LOCK TABLE users IN SHARE MODE"
_CHOICES = "--orphans null --misfits null --duplicates first --unknown keep --rejects keep"
INTERRUPTED = {
    "migrate": _LOCK_USERS,
    "seed --yes --gyms 1 --members 5 --days 5": _LOCK_USERS,
    "push --yes": "LOCK TABLE checkins IN ROW EXCLUSIVE MODE",
    "rollback --yes --accept-data-loss": _LOCK_USERS,
    "roles --apply --yes": "CREATE ROLE tatame_read",
    f"move copy {_CHOICES}": _LOCK_USERS,
}
"""What holds each command up after its first statements that write."""

_STATE = """
SELECT (SELECT array_agg(relname::text ORDER BY relname) FROM pg_class WHERE relnamespace = 'public'::regnamespace),
    (SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute WHERE attrelid = to_regclass('public.users')),
    (SELECT array_agg(conname::text ORDER BY conname) FROM pg_constraint WHERE connamespace = 'public'::regnamespace),
    (SELECT array_agg(rolname::text ORDER BY rolname) FROM pg_roles), (SELECT count(*) FROM gyms),
    (SELECT array_agg(version_num::text) FROM tatame_migrations.alembic_version)
"""


@pytest.fixture(scope="module")
def source(_tatame_run: Run) -> Generator[URL]:
    address = _tatame_run.sandbox.create()
    run_sql(address, SUPABASE_SCHEMA.read_text())
    yield address
    _tatame_run.sandbox.drop(str(address.database))


@pytest.mark.parametrize("arguments", INTERRUPTED)
def test_a_command_whose_primary_is_lost_says_so_and_leaves_nothing_half_done(
    pair: Pair, source: URL, arguments: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if arguments == "migrate":
        add = request.getfixturevalue("add")
        add(upgrade="op.execute('CREATE TABLE half_done ()'); op.execute('ALTER TABLE users ADD COLUMN half_done int')")
    if arguments.startswith("push"):
        run_sql(pair.primary.address, "ALTER TABLE users DROP COLUMN phone; DROP INDEX checkins_user_id_date_index")
    before = rows(pair.primary.address, _STATE)
    # Not by the runner in its thread: others read the environment at that moment.
    monkeypatch.setenv("DATABASE_URL", readable(pair.both))
    monkeypatch.setenv("SUPABASE_DB_URL", readable(source))
    results: list[Result] = []

    def run() -> None:
        results.append(CliRunner().invoke(commands.app, arguments.split()))

    running = threading.Thread(target=run)
    with closing(psycopg.connect(readable(pair.primary.address))) as holder:
        holder.execute(INTERRUPTED[arguments].encode())
        running.start()
        until(lambda: results or rows(pair.primary.address, "SELECT FROM pg_locks WHERE NOT granted"))
        assert not results, results[0].output
        until(lambda: rows(pair.standby, "SELECT WHERE pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()"))
        pair.kill_primary()
        pair.promote()
        running.join(SECONDS)

    [done] = results
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code == 1, done.output
    assert "error: " in done.output
    assert "\nhint: " in done.output
    # PostgreSQL rejected nothing.
    assert "fix the m" not in done.output
    if arguments.startswith("move copy"):
        # It drops keys for a while, and the next run restores them.
        assert CliRunner().invoke(commands.app, arguments.split()).exit_code == 0
    assert rows(pair.standby, _STATE) == before
