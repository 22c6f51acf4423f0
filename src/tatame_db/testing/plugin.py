"""The pytest fixtures: databases and sessions that are rolled back, and databases to commit in.

Heavy modules are imported inside the fixtures: pytest loads plugins before coverage starts, and in every run, with a
database or without.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tatame_db.server.run_directory import new_run_directory

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from tatame_db.database.pool import AsyncDatabase, Database
    from tatame_db.testing.databases import RolledBackDatabases
    from tatame_db.testing.runs import Run

_DIRECTORY = pytest.StashKey[Path]()
_RUN = pytest.StashKey["Run"]()


def pytest_configure(config: pytest.Config) -> None:
    """Choose the directory of the run, or use the one that the controller chose; nothing is created yet."""
    chosen = _worker_input(config).get("tatame_run_directory")
    config.stash[_DIRECTORY] = Path(chosen) if chosen else new_run_directory()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass the directory of the run to a worker of pytest-xdist."""
    node.workerinput["tatame_run_directory"] = str(node.config.stash[_DIRECTORY])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Delete everything that the run created; the controller does it, because a worker may crash."""
    directory = config.stash[_DIRECTORY]
    if _worker_input(config) or not directory.exists():
        return
    from tatame_db.testing.runs import Run  # noqa: PLC0415, see above

    (config.stash.get(_RUN, None) or Run(directory)).end()


def _worker_input(config: pytest.Config) -> dict[str, Any]:
    return getattr(config, "workerinput", {})


@pytest.fixture(scope="session")
def _tatame_run(pytestconfig: pytest.Config) -> Generator[Run]:
    from tatame_db.errors import TatameError  # noqa: PLC0415, see above
    from tatame_db.testing.runs import Run  # noqa: PLC0415, see above

    try:
        run = Run(pytestconfig.stash[_DIRECTORY])
        pytestconfig.stash[_RUN] = run
        run.start()
    except TatameError as error:
        pytest.fail(str(error), pytrace=False)
    yield run
    run.leave()


@pytest.fixture(scope="session")
def tatame_database(_tatame_run: Run) -> Generator[Database]:
    """Return a migrated, empty database for this worker; rows that are committed in it stay until the end of the run.

    For tests that commit there is `committed_database`.
    """
    from tatame_db.database.pool import Database  # noqa: PLC0415, see above

    database = Database(_tatame_run.clone())
    yield database
    database.engine.dispose()


@pytest.fixture(scope="session")
def _tatame_reused_databases(tatame_database: Database) -> Generator[RolledBackDatabases]:
    from tatame_db.testing.databases import RolledBackDatabases  # noqa: PLC0415, see above

    databases = RolledBackDatabases(tatame_database)
    yield databases
    databases.close()


@pytest.fixture
def _tatame_databases(_tatame_reused_databases: RolledBackDatabases) -> Generator[RolledBackDatabases]:
    yield _tatame_reused_databases
    _tatame_reused_databases.end()


@pytest.fixture
def database(_tatame_databases: RolledBackDatabases) -> Database:
    """Return a database whose sessions and queries run in one transaction that is rolled back after the test.

    `async_database`, `session` and `async_session` share this transaction: each sees what the others have committed.
    """
    return _tatame_databases.database


@pytest.fixture
def async_database(_tatame_databases: RolledBackDatabases) -> AsyncDatabase:
    """Return the asyncio version of `database`; it works in any event loop."""
    return _tatame_databases.async_database


@pytest.fixture
def session(database: Database) -> Generator[Session]:
    """Return a session that is rolled back after the test; `commit()` shows its rows to the rest of the test."""
    with database.session() as session:
        yield session


@pytest.fixture(scope="session")
def _tatame_loop() -> Generator[asyncio.Runner]:
    # The loop of a test is closed before its session ends. With a factory, the runner keeps the current loop set.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as loop:
        yield loop


@pytest.fixture
def async_session(async_database: AsyncDatabase, _tatame_loop: asyncio.Runner) -> Generator[AsyncSession]:
    """Return a session for asyncio that is rolled back after the test; it works in any event loop."""
    session = async_database.session()
    yield session
    _tatame_loop.run(session.close())


@pytest.fixture
def committed_database(_tatame_run: Run) -> Generator[Database]:
    """Return a migrated, empty database for this test alone: for commits, and for several connections."""
    from tatame_db.database.pool import Database  # noqa: PLC0415, see above

    database = Database(_tatame_run.clone())
    yield database
    database.engine.dispose()
    _tatame_run.sandbox.drop(str(database.address.database))
