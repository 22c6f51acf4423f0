"""The databases that test runs create on a server, and how those of a dead run are recognized."""

from __future__ import annotations

import os
import re
import secrets
import socket
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from psycopg import sql

from tatame_db.database.creation import create_database, maintenance
from tatame_db.errors import TatameError, fact

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import URL

SUFFIX = "_test"
"""How the names of all test databases end."""
_MARK = "made for tests by tatame-db: run"


@fact
class NotCreatedByTests(TatameError):
    """The database does not carry the comment of a test run."""

    name: str
    what = "the database {name!r} was not created by a test run"
    fix = 'to delete it anyway, run `DROP DATABASE "{name}"`'


class Sandbox:
    """The databases of one test run on a server: it creates databases, and drops these and no others.

    Each database carries a comment that names its run. On a shared server, a run is alive while any session holds an
    advisory lock on its name, so every machine can recognize the databases of a dead run.
    """

    def __init__(self, address: URL, run: str, *, own_server: bool = False, in_memory: bool = False) -> None:
        self.address, self.run = address, run
        self._in_memory = in_memory
        self._connections = ExitStack()
        self._connection = self._connections.enter_context(maintenance(address))
        self._execute("SET idle_session_timeout = 0")
        if not own_server:
            self._execute("SELECT pg_advisory_lock_shared(%s)", _lock_key(run))

    def close(self) -> None:
        """Disconnect; the databases stay until `drop_all`, or until a later run recognizes this one as dead."""
        self._connections.close()

    def create(self, template: str = "template0") -> URL:
        """Create a database as a copy of one to which nobody is connected. Raises `DatabaseNotCreated`."""
        address = self.address.set(database=f"tatame_{secrets.token_hex(6)}{SUFFIX}")
        create_database(self._connection, address, template=template, file_copy=self._in_memory)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        comment = f"{_MARK} {self.run}, process {os.getpid()} on {socket.gethostname()}, {now}"
        self._execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(str(address.database)), comment))
        return address

    def has(self, name: str) -> bool:
        """Return whether a database exists and was created by this run."""
        return self._run_by_database().get(name) == self.run

    def drop(self, name: str) -> None:
        """Drop a database and end the sessions on it. Raises `NotCreatedByTests` unless a run created it."""
        if name not in self._run_by_database():
            raise NotCreatedByTests(name=name)
        self._execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def drop_all(self) -> None:
        """Drop every database of this run."""
        self._drop_databases_of(self.run)

    def drop_leftovers(self) -> None:
        """Drop every database of dead runs."""
        for run in set(self._run_by_database().values()) - {self.run}:
            if self._execute("SELECT pg_try_advisory_lock(%s)", _lock_key(run)).fetchone() == (True,):
                # The databases are read again: the last process of the run may have dropped them just now.
                self._drop_databases_of(run)
                self._execute("SELECT pg_advisory_unlock(%s)", _lock_key(run))

    def _drop_databases_of(self, run: str) -> None:
        for name, owner in self._run_by_database().items():
            if owner == run:
                self.drop(name)

    def _run_by_database(self) -> dict[str, str]:
        """Read which databases of this user carry the comment of a run."""
        rows = self._execute(
            "SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database"
            " WHERE right(datname, %s) = %s AND pg_get_userbyid(datdba) = current_user",
            len(SUFFIX),
            SUFFIX,
        )
        marks = ((name, re.match(rf"{_MARK} ([0-9a-f]{{12}}),", comment or "")) for name, comment in rows)
        return {name: mark[1] for name, mark in marks if mark}

    def _execute(self, statement: str | sql.Composable, *parameters: Any) -> psycopg.Cursor[tuple[Any, ...]]:
        return self._connection.execute(statement, parameters or None)  # type: ignore[arg-type]  # written here


def _lock_key(run: str) -> int:
    return int(run, 16)
