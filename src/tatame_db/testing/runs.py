"""Databases for tests: made for a run, cloned from a migrated template, and gone after it.

The fixtures of `tatame_db.testing.plugin` are made of this; the three functions at the end are for other test runners.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import re
import secrets
import shutil
import socket
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from tatame_db import evolve
from tatame_db.database.address import parse_address
from tatame_db.database.creation import create_database
from tatame_db.database.driver import driver_connection
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.schema import Base
from tatame_db.server import run_directory
from tatame_db.server.scratch import delete_dead_runs, run_server
from tatame_db.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path
    from typing import IO

    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncSession

_SUFFIX = "_test"
_MARK = "made for tests by tatame-db: run"
_LOCK_TIMEOUT_SECONDS = 5


class NotForTests(TatameError):
    """`TEST_DATABASE_URL` names a database that may hold more than test data."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"`TEST_DATABASE_URL` names the database {name!r}, and only a name that ends in `{_SUFFIX}` is safe",
            means=NOTHING_CHANGED,
            fix=f"name one such as `tatame{_SUFFIX}`; it need not exist, for tests make databases of their own",
        )


class NotOurs(TatameError):
    """A database was to be dropped that no test run of ours made."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"the database {name!r} was not made by a test run, so it is not dropped",
            means=NOTHING_CHANGED,
            fix=f'if it may go, `DROP DATABASE "{name}"`',
        )


class NotSetUp(TatameError):
    """Test data was to be cleared, and there is no test database."""

    def __init__(self) -> None:
        super().__init__(
            "there is no test database to clear",
            means=NOTHING_CHANGED,
            fix="call `setup_test_database()` first, and `teardown_test_database()` last",
        )


# --- Databases that come and go --------------------------------------------------------------------------------------


class Sandbox:
    """The corner of a server in which a run makes databases, and drops those and no others.

    What it makes carries a comment that names the run. On a server that others use too, a run counts as living as
    long as a session holds an advisory lock on its name: so any machine can tell the databases of a dead run.
    """

    def __init__(self, address: URL, run: str, *, own_server: bool = False, in_memory: bool = False) -> None:
        self.address, self.run = address, run
        self._in_memory = in_memory
        self._maintenance = Database(address.set(database="postgres"))
        # CREATE DATABASE cannot run inside a transaction.
        self._connection = self._maintenance.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._execute("SET idle_session_timeout = 0")
        if not own_server:
            self._execute("SELECT pg_advisory_lock_shared(%s)", _key(run))

    def close(self) -> None:
        """Leave; the databases stay until `drop_all`, or until a later run finds this one dead."""
        self._connection.close()
        self._maintenance.close()

    def create(self, template: str = "template0") -> URL:
        """Create a database as a copy of another one, to which nobody may be connected."""
        address = self.address.set(database=f"tatame_{secrets.token_hex(6)}{_SUFFIX}")
        create_database(driver_connection(self._connection), address, template=template, file_copy=self._in_memory)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        mark = f"{_MARK} {self.run}, process {os.getpid()} on {socket.gethostname()}, {now}"
        self._execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(str(address.database)), mark))
        return address

    def has(self, name: str) -> bool:
        """Say whether a database is there and was made by this run."""
        return self._runs().get(name) == self.run

    def drop(self, name: str) -> None:
        """Drop a database with the sessions on it; raises `NotOurs` for one that no run made."""
        if name not in self._runs():
            raise NotOurs(name)
        self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def drop_all(self) -> None:
        """Drop what this run made."""
        for name, run in self._runs().items():
            if run == self.run:
                self.drop(name)

    def drop_leftovers(self) -> None:
        """Drop what runs made that are dead now."""
        runs = self._runs()
        for run in set(runs.values()) - {self.run}:
            if self._execute("SELECT pg_try_advisory_lock(%s)", _key(run)).fetchone() == (True,):
                # Asked again: its last process may have dropped them before it let go of the lock.
                for name in [name for name, owner in self._runs().items() if owner == run]:
                    self.drop(name)
                self._execute("SELECT pg_advisory_unlock(%s)", _key(run))

    def _runs(self) -> dict[str, str]:
        """The databases of this user that carry our mark, and the run of each."""
        found = self._execute(
            "SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database"
            " WHERE right(datname, %s) = %s AND pg_get_userbyid(datdba) = current_user",
            len(_SUFFIX),
            _SUFFIX,
        )
        marks = ((name, re.match(rf"{_MARK} ([0-9a-f]{{12}}),", mark or "")) for name, mark in found)
        return {name: mark[1] for name, mark in marks if mark}

    def _execute(self, statement: str | sql.Composable, *parameters: Any) -> psycopg.Cursor[tuple[Any, ...]]:
        return driver_connection(self._connection).execute(statement, parameters or None)  # type: ignore[arg-type]  # our own words


def _key(run: str) -> int:
    return int(run, 16)


class Run:
    """The databases of one test run, shared by all its processes: a server, a migrated template, and its clones.

    The server is an embedded one in the run's directory, or the one in `TEST_DATABASE_URL`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server = run_server(directory)

    @cached_property
    def given(self) -> URL | None:
        """The address in `TEST_DATABASE_URL`; raises `NotForTests`, and what `Settings` raises."""
        secret = Settings.from_env().test_database_url
        address = parse_address(secret.get_secret_value()) if secret else None
        if address and not str(address.database).endswith(_SUFFIX):
            raise NotForTests(str(address.database))
        return address

    def start(self) -> None:
        """Join the run: the first process starts the server, drops what dead runs left, and migrates the template.

        Nothing is made where `given` raises, or its server does not answer.
        """
        if self.given:
            self.sandbox = self._sandbox()
        self._alive: IO[str] = run_directory.join(self.directory)
        with run_directory.one_at_a_time(self.directory):
            delete_dead_runs(self.directory)
            if not self.given:
                self.server.start()
                self.sandbox = self._sandbox()
            self.sandbox.drop_leftovers()
            self.template = self._template()

    def clone(self) -> URL:
        """Create a migrated, empty database."""
        return self.sandbox.create(self.template)

    def leave(self) -> None:
        """End this process's part; the databases stay for the others."""
        self.sandbox.close()
        self._alive.close()

    def end(self) -> None:
        """Delete all that the run made, also when none of its processes is there to be asked."""
        # A server of the run's own needs no settings to be found, and goes with all its databases.
        if not self.server.delete() and self.given:
            sandbox = self._sandbox()
            sandbox.drop_all()
            sandbox.close()
        shutil.rmtree(self.directory)

    def _sandbox(self) -> Sandbox:
        name = run_directory.run_name(self.directory)
        if self.given:
            return Sandbox(self.given, name)
        in_memory = run_directory.in_memory(self.directory)
        return Sandbox(self.server.address, name, own_server=True, in_memory=in_memory)

    def _template(self) -> str:
        note = self.directory / "template"
        if note.exists() and self.sandbox.has(note.read_text()):
            return note.read_text()
        address = self.sandbox.create()
        with Database(address) as database:
            evolve.migrate(database.engine)
        note.write_text(str(address.database))
        return str(address.database)


# --- Sessions that are undone ----------------------------------------------------------------------------------------


class UndoneSession(Session):
    """A session whose commits end a savepoint only: the transaction around them is rolled back by `undo`.

    That transaction begins with the first statement, and so, under asyncio, in the loop of the test.
    """

    _around: Connection | None = None

    def get_bind(self, *arguments: Any, **options: Any) -> Connection:
        """Give the connection with the transaction."""
        if self._around is None:
            self._around = cast("Engine", super().get_bind(*arguments, **options)).connect()
            self._around.begin()
        return self._around

    def undo(self) -> None:
        """Close the session and roll back what it did."""
        if self._around is None:
            return
        if _is_abandoned(self._around):
            self._around.invalidate()
        try:
            self.close()
        finally:
            self._around.close()


def _is_abandoned(connection: Connection) -> bool:
    """Whether a test went away in the middle of a statement, as a loop does that is closed with tasks in it."""
    if connection.invalidated:
        return False
    return driver_connection(connection).info.transaction_status == TransactionStatus.ACTIVE


def undone_session(database: Database) -> UndoneSession:
    """Make a session with the options of the database's own, to be ended with `undo`."""
    return UndoneSession(**_session_options(database))


class LoopFreeDatabase(AsyncDatabase):
    """A database for asyncio whose connections are not bound to an event loop, for each test may have its own."""

    def __init__(self, address: URL) -> None:
        super().__init__(address)
        event.listen(self.engine.sync_engine, "checkout", _renew_locks)

    def undone_session(self) -> AsyncSession:
        """Make a session with the options of the database's own, to be ended with `undo`."""
        from sqlalchemy.ext.asyncio import AsyncSession  # noqa: PLC0415, as `AsyncDatabase` does it

        return AsyncSession(**_session_options(self), sync_session_class=UndoneSession)

    async def undo(self, session: AsyncSession) -> None:
        """Close the session and roll back what it did, in any loop."""
        await session.run_sync(lambda undone: cast("UndoneSession", undone).undo())


def _renew_locks(connection: Any, *_: object) -> None:
    # All in a connection that remembers a loop: the one in which somebody first waited for it.
    connection._execute_mutex = asyncio.Lock()
    connection.driver_connection.lock = asyncio.Lock()


def _session_options(database: Database | AsyncDatabase) -> dict[str, Any]:
    return database.session.kw | {"join_transaction_mode": "create_savepoint"}


# --- Without pytest --------------------------------------------------------------------------------------------------

_set_up: list[tuple[Run, Database]] = []


def setup_test_database() -> Database:
    """Make a migrated, empty database for the tests of this process; a second call gives the same one.

    It is on an embedded server of its own, or on the server in `TEST_DATABASE_URL`. It ends with
    `teardown_test_database()`, at the latest with the process.
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
    """Empty every table of the schema, and let its numbers begin at 1 again; committed at once.

    Raises `NotSetUp`. A session that a test left open makes it fail after some seconds, for it holds locks.
    """
    if not _set_up:
        raise NotSetUp
    engine = _set_up[0][1].engine
    tables = ", ".join(map(engine.dialect.identifier_preparer.format_table, Base.metadata.tables.values()))
    with engine.begin() as connection:
        connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_SECONDS}s'"))
        connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY"))


def teardown_test_database() -> None:
    """Delete the database, and the server if it was made for it; without a database, do nothing."""
    while _set_up:
        run, database = _set_up.pop()
        database.engine.dispose()
        run.leave()
        run.end()
    atexit.unregister(teardown_test_database)
