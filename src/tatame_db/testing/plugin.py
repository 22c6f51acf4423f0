"""Fixtures for us and for the apps: databases, sessions that are undone, and databases to commit in.

What is heavy is imported inside the fixtures: pytest loads plugins before coverage starts, and in runs that need no
database.
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

    from tatame_db.database.pool import Database
    from tatame_db.testing.runs import LoopFreeDatabase, Run

_DIRECTORY = pytest.StashKey[Path]()
_RUN = pytest.StashKey["Run"]()


def pytest_configure(config: pytest.Config) -> None:
    """Choose the run's directory, or take the one that the controller chose for its workers; nothing is made yet."""
    chosen = _worker_input(config).get("tatame_run_directory")
    config.stash[_DIRECTORY] = Path(chosen) if chosen else new_run_directory()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist which run it belongs to."""
    node.workerinput["tatame_run_directory"] = str(node.config.stash[_DIRECTORY])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Delete what the run made; a worker leaves that to its controller, which outlives the crash of any worker."""
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
    """Give a migrated, empty database: one for each worker of pytest-xdist, deleted after the run.

    What is committed in it stays for the tests that follow; see `committed_database`.
    """
    from tatame_db.database.pool import Database  # noqa: PLC0415, see above

    database = Database(_tatame_run.clone())
    yield database
    database.engine.dispose()


@pytest.fixture
def session(tatame_database: Database) -> Generator[Session]:
    """Give a session in a transaction that is rolled back after the test; a commit in it ends a savepoint only."""
    from tatame_db.testing.runs import undone_session  # noqa: PLC0415, see above

    session = undone_session(tatame_database)
    yield session
    session.undo()


@pytest.fixture(scope="session")
def _tatame_loop() -> Generator[asyncio.Runner]:
    # The loops of the tests are gone when their sessions end. With a factory, the runner leaves the current loop alone.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as loop:
        yield loop


@pytest.fixture(scope="session")
def _tatame_async_database(tatame_database: Database, _tatame_loop: asyncio.Runner) -> Generator[LoopFreeDatabase]:
    from tatame_db.testing.runs import LoopFreeDatabase  # noqa: PLC0415, see above

    database = LoopFreeDatabase(tatame_database.address)
    yield database
    _tatame_loop.run(database.engine.dispose())


@pytest.fixture
def async_session(_tatame_async_database: LoopFreeDatabase, _tatame_loop: asyncio.Runner) -> Generator[AsyncSession]:
    """Give the same for asyncio, in whichever loop the test runs: pytest-asyncio's, anyio's or its own."""
    session = _tatame_async_database.undone_session()
    yield session
    _tatame_loop.run(_tatame_async_database.undo(session))


@pytest.fixture
def committed_database(_tatame_run: Run) -> Generator[Database]:
    """Give a migrated, empty database for this test alone, to commit in and to open several connections to."""
    from tatame_db.database.pool import Database  # noqa: PLC0415, see above

    database = Database(_tatame_run.clone())
    yield database
    database.engine.dispose()
    _tatame_run.sandbox.drop(str(database.address.database))
