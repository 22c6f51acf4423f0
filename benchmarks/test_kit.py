"""The cost of a database for each test, in several ways that alternate, so that a busy machine slows down all of them.

Run it by hand: `python benchmarks/test_kit.py`. The results are in `README.md`.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from sqlalchemy import URL, delete, func, select, text

from tatame_db import evolve
from tatame_db.database.pool import Database
from tatame_db.queries.read import read
from tatame_db.queries.write import insert_many
from tatame_db.schema import Base, User
from tatame_db.server.run_directory import new_run_directory
from tatame_db.testing.databases import RolledBackDatabases
from tatame_db.testing.factories import a_gym, a_user
from tatame_db.testing.runs import Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 40

START = """
import time
started = time.perf_counter()
from tatame_db.database.pool import Database
from tatame_db.server.run_directory import new_run_directory
from tatame_db.testing.runs import Run
run = Run(new_run_directory())
run.start()
Database(run.clone()).ping()
print(time.perf_counter() - started)
run.leave()
run.end()
"""


def the_test(session: Session) -> None:
    """Write two rows and read one number, as each test does."""
    session.add(a_user(gym=a_gym()))
    session.commit()
    if session.scalar(select(func.count()).select_from(User)) != 1:
        raise SystemExit("a test found rows of another one")


class Ways:
    """The ways to provide a database for a test, on one server; each method is one test."""

    def __init__(self, run: Run) -> None:
        self.run, self.sandbox = run, run.sandbox
        self.database = Database(run.clone())
        self.cleared = Database(run.clone())
        self.rolled_back_databases = RolledBackDatabases(self.database)
        self.runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.tables = list(Base.metadata.tables.values())

    def close(self) -> None:
        """Close the connections; the databases go with the run."""
        self.runner.close()
        self.rolled_back_databases.close()
        self.database.close()
        self.cleared.close()

    def empty_session(self) -> None:
        """`session`, in a test that only begins the transaction."""
        with self.rolled_back_databases.database.session() as session:
            session.execute(text("SELECT 1"))
        self.rolled_back_databases.end()

    def empty_async_session(self) -> None:
        """`async_session`, likewise, without the loop of the test."""
        session = self.rolled_back_databases.async_database.session()
        asyncio.run(_connect(session))
        self.runner.run(session.close())
        self.rolled_back_databases.end()

    def empty_loop(self) -> None:
        """The loop of an asyncio test that does nothing."""
        asyncio.run(_nothing())

    def rolled_back(self) -> None:
        """`session`."""
        with self.rolled_back_databases.database.session() as session:
            the_test(session)
        self.rolled_back_databases.end()

    def rolled_back_queries(self) -> None:
        """`database`, in a test that writes and reads with queries."""
        database = self.rolled_back_databases.database
        insert_many(User, [{"clerk_user_id": "a"}, {"clerk_user_id": "b"}]).run(database)
        if len(read(User).all(database)) != 2:
            raise SystemExit("a test found rows of another one")
        self.rolled_back_databases.end()

    def one_delete_for_each_table(self) -> None:
        """Commit, and empty table by table afterwards: the plan's way."""
        with self.cleared.session() as session:
            the_test(session)
        with self.cleared.engine.begin() as connection:
            connection.execute(text("SET CONSTRAINTS ALL DEFERRED"))
            for table in reversed(self.tables):
                connection.execute(delete(table))

    def truncated(self) -> None:
        """Commit, and empty all tables with one TRUNCATE afterwards, as `clear_test_data()` does."""
        with self.cleared.session() as session:
            the_test(session)
        names = ", ".join(map(self.cleared.engine.dialect.identifier_preparer.format_table, self.tables))
        with self.cleared.engine.begin() as connection:
            connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY"))

    def cloned(self) -> None:
        """`committed_database`."""
        self._in(self.run.clone(), migrate=False)

    def migrated(self) -> None:
        """Migrate a new database."""
        self._in(self.sandbox.create(), migrate=True)

    def _in(self, address: URL, *, migrate: bool) -> None:
        database = Database(address)
        if migrate:
            evolve.migrate(database.engine)
        with database.session() as session:
            the_test(session)
        database.engine.dispose()
        self.sandbox.drop(str(address.database))

    def make_clone(self) -> None:
        """Only make the copy."""
        self._made = self.run.clone()

    def drop_clone(self) -> None:
        """Only drop it."""
        self.sandbox.drop(str(self._made.database))

    def make_migrated(self) -> None:
        """Only make a database and migrate it."""
        self._made = self.sandbox.create()
        with Database(self._made) as database:
            evolve.migrate(database.engine)

    def drop_migrated(self) -> None:
        """Only drop it."""
        self.drop_clone()


async def _connect(session: AsyncSession) -> None:
    await session.execute(text("SELECT 1"))


async def _nothing() -> None:
    pass


def in_turns(ways: list[Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return the median of each in milliseconds."""
    times: dict[str, list[float]] = {way.__name__: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            started = time.perf_counter()
            way()
            times[way.__name__].append((time.perf_counter() - started) * 1000)
    return {name: median(values) for name, values in times.items()}


def measure(place: Path, strategy: str) -> None:
    """Print the medians and the ratios for one place and one way to copy a database."""
    run = Run(place / new_run_directory().name)
    run.start()
    run.sandbox._in_memory = strategy == "FILE_COPY"
    ways = Ways(run)
    try:
        quick = [
            ways.empty_session,
            ways.empty_async_session,
            ways.empty_loop,
            ways.rolled_back,
            ways.rolled_back_queries,
        ]
        ms = in_turns([*quick, ways.one_delete_for_each_table, ways.truncated], ROUNDS * 5)
        slow = [ways.make_clone, ways.drop_clone, ways.make_migrated, ways.drop_migrated, ways.cloned, ways.migrated]
        ms |= in_turns(slow, ROUNDS)
    finally:
        ways.close()
        run.leave()
        run.end()
    ms["empty_async_session"] -= ms["empty_loop"]
    print(f"\n{place}, STRATEGY {strategy}: medians of {ROUNDS * 5} and of {ROUNDS} turns, in ms")
    for name, value in ms.items():
        print(f"  {name:28}{value:8.2f}")
    print(f"  rolled_back / one_delete     {ms['rolled_back'] / ms['one_delete_for_each_table']:8.2f}")
    print(f"  rolled_back / migrated       {ms['rolled_back'] / ms['migrated']:8.4f}")
    print(f"  make_clone / make_migrated   {ms['make_clone'] / ms['make_migrated']:8.2f}")
    print(f"  cloned / migrated            {ms['cloned'] / ms['migrated']:8.2f}")


def starts(place: Path) -> float:
    """Return the median of some starts of a whole run, imports included, in seconds."""
    seconds = []
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", START],
            env=os.environ | {"TMPDIR": str(place)},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        seconds.append(float(done.stdout))
    return median(seconds)


def main() -> None:
    """Measure in memory, if there is enough, and in the temporary directory."""
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()}")
    for parent in dict.fromkeys([new_run_directory().parent, Path(tempfile.gettempdir())]):
        place = Path(tempfile.mkdtemp(prefix="tatame-bench-", dir=parent))
        place.chmod(0o755)
        try:
            print(f"\na run starts in {starts(place):.2f} s, in {parent}")
            for strategy in ("FILE_COPY", "WAL_LOG"):
                measure(place, strategy)
        finally:
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
