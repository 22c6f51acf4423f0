"""The server and the databases of a test run, from its first process to its last."""

from __future__ import annotations

import atexit
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from tatame_db import evolve
from tatame_db.database.address import parse_address
from tatame_db.database.bulk import truncate
from tatame_db.database.driver import driver_connection
from tatame_db.database.pool import Database
from tatame_db.errors import TatameError, fact
from tatame_db.evolve.blockers import blockers
from tatame_db.schema import tables_in_order
from tatame_db.server import run_directory
from tatame_db.server.scratch import delete_dead_runs, run_server
from tatame_db.settings import Settings
from tatame_db.testing.sandbox import SUFFIX, Sandbox

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path
    from typing import IO

    from sqlalchemy import URL

_LOCK_TIMEOUT_SECONDS = 5


@fact
class NotATestDatabase(TatameError):
    """`TEST_DATABASE_URL` names a database that may hold more than test data."""

    name: str
    suffix = SUFFIX
    what = "`TEST_DATABASE_URL` names the database {name!r}, and only a name that ends in `{suffix}` is safe"
    fix = "use a name such as `tatame{suffix}`; the database need not exist, because tests create their own"


@fact
class TestDataLocked(TatameError):
    """A session that a test left open holds a lock on a table."""

    __test__ = False
    seconds: int
    blockers: list[str]
    what = "the test data could not be cleared within {seconds} seconds, because another session holds a lock{holders}"
    means = "The rows of every table are unchanged."
    fix = "end the transaction or close the session in the test that leaves it open"

    @property
    def holders(self) -> str:
        """The sessions, if the role may see them."""
        return f": {', '.join(self.blockers)}" if self.blockers else ""


@fact
class NoTestDatabase(TatameError):
    """No test database was set up in this process."""

    what = "there is no test database to clear"
    fix = "call `setup_test_database()` first, and `teardown_test_database()` at the end"


class Run:
    """The databases of one test run, shared by all its processes: a server, a migrated template and its clones.

    The server is the one in `TEST_DATABASE_URL`, or otherwise an embedded one in the directory of the run.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server = run_server(directory)

    @cached_property
    def shared_server(self) -> URL | None:
        """The address in `TEST_DATABASE_URL`. Raises `NotATestDatabase`, and the errors of `Settings`."""
        secret = Settings.from_env().test_database_url
        address = parse_address(secret.get_secret_value()) if secret else None
        if address and not str(address.database).endswith(SUFFIX):
            raise NotATestDatabase(name=str(address.database))
        return address

    def start(self) -> None:
        """Join the run. Its first process starts the server, deletes dead runs and migrates the template.

        Nothing is created if `shared_server` raises an error or that server does not answer, or if the app that the
        settings name cannot be loaded.
        """
        if app := Settings.from_env().app:
            evolve.load_app(app.models, app.migrations, root=app.root)
        if self.shared_server:
            self.sandbox = self._open_sandbox()
        self._alive: IO[str] = run_directory.join(self.directory)
        try:
            self._prepare()
        except BaseException:
            self._alive.close()
            raise

    def _prepare(self) -> None:
        with run_directory.one_at_a_time(self.directory):
            delete_dead_runs(self.directory)
            if not self.shared_server:
                self.server.start()
                self.sandbox = self._open_sandbox()
            with self._naming_its_setting():
                self.sandbox.drop_leftovers()
                self.template = self._migrated_template()

    def clone(self) -> URL:
        """Create a migrated, empty database."""
        return self.sandbox.create(self.template)

    def leave(self) -> None:
        """End the part of this process; the databases stay for the others."""
        self.sandbox.close()
        self._alive.close()

    def end(self) -> None:
        """Delete everything that the run created, also after all its processes have died."""
        # Joined once more, so that no other run takes this one for dead and deletes it at the same time.
        alive = run_directory.join(self.directory)
        # The run's own server is found without settings, and its databases are deleted with it.
        if not self.server.delete() and self.shared_server:
            sandbox = self._open_sandbox()
            sandbox.drop_all()
            sandbox.close()
        run_directory.delete(self.directory)
        alive.close()

    def _open_sandbox(self) -> Sandbox:
        name = run_directory.run_name(self.directory)
        if self.shared_server:
            with self._naming_its_setting():
                return Sandbox(self.shared_server, name)
        in_memory = run_directory.in_memory(self.directory)
        return Sandbox(self.server.address, name, own_server=True, in_memory=in_memory)

    @contextmanager
    def _naming_its_setting(self) -> Generator[None]:
        """Let the hint of an error name the variable from which the address comes."""
        try:
            yield
        except TatameError as error:
            if self.shared_server:
                error.fix = error.fix.replace("`DATABASE_URL`", "`TEST_DATABASE_URL`")
            raise

    def _migrated_template(self) -> str:
        """Return the name of the template, which the file `template` keeps for the other processes."""
        file = self.directory / "template"
        if file.exists() and self.sandbox.has(file.read_text()):
            return file.read_text()
        address = self.sandbox.create()
        with Database(address) as database:
            evolve.migrate(database.engine)
        file.write_text(str(address.database))
        return str(address.database)


# --- Without pytest --------------------------------------------------------------------------------------------------

_set_up: list[tuple[Run, Database]] = []


def setup_test_database() -> Database:
    """Create a migrated, empty database for the tests of this process; a second call returns the same one.

    It is on the server in `TEST_DATABASE_URL`, or otherwise on an embedded server of its own. It is deleted by
    `teardown_test_database()`, or at the end of the process.

    >>> database = setup_test_database()
    >>> with database.session.begin() as session:
    ...     session.add(a_user())
    """
    if not _set_up:
        run = Run(run_directory.new_run_directory())
        try:
            run.start()
            _set_up.append((run, Database(run.clone())))
        except BaseException:
            if run.directory.exists():
                run.end()
            raise
        atexit.register(teardown_test_database)
    return _set_up[0][1]


def clear_test_data() -> None:
    """Delete the rows of every table and restart the ids at 1; committed at once.

    Raises `NoTestDatabase`, and after a few seconds `TestDataLocked` if a session that a test left open holds a lock.
    """
    if not _set_up:
        raise NoTestDatabase
    database = _set_up[0][1]
    with database.engine.begin() as connection:
        connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_SECONDS}s'"))
        pid = driver_connection(connection).info.backend_pid
        with blockers(database.address, pid, _LOCK_TIMEOUT_SECONDS / 2) as found:
            try:
                truncate(connection, tables_in_order())
            except OperationalError as error:
                if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                    raise
                raise TestDataLocked(seconds=_LOCK_TIMEOUT_SECONDS, blockers=found) from error


def teardown_test_database() -> None:
    """Delete the test database, with its server if that was started for it; do nothing without one."""
    while _set_up:
        run, database = _set_up.pop()
        database.engine.dispose()
        run.leave()
        run.end()
    atexit.unregister(teardown_test_database)
