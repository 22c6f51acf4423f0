"""The SQL that pending migrations run, as a script: recorded while they run on a scratch server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import event
from sqlalchemy.exc import StatementError

from tatame_db.database.connections import SEARCH_PATH, SESSION_SETTINGS
from tatame_db.database.dialect import VERSION_SCHEMA, literal
from tatame_db.database.driver import driver_connection
from tatame_db.errors import TatameError, fact
from tatame_db.evolve import stored
from tatame_db.evolve.effects import Observation
from tatame_db.evolve.history import History, configuration, current_revisions
from tatame_db.evolve.lock import LOCK_KEY, MIGRATION_LOCK_TIMEOUT_MS, STATEMENT_TIMEOUT_MS
from tatame_db.evolve.losses import losses_of
from tatame_db.evolve.migrate import migrate, run_steps, upgrades
from tatame_db.evolve.record import Record
from tatame_db.roles import explained
from tatame_db.server.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from alembic.script import Script
    from sqlalchemy import Connection, Engine

_VERSIONS = f"{VERSION_SCHEMA}.alembic_version"
# Asked before and after a step outside a transaction.
_ISOLATION = "show transaction isolation level"
# What a database that has a revision has too.
_PREPARING = (f"CREATE SCHEMA IF NOT EXISTS {VERSION_SCHEMA}", f"CREATE TABLE IF NOT EXISTS {VERSION_SCHEMA}.applied")
_SETTINGS = {
    **SESSION_SETTINGS,
    "lock_timeout": f"{MIGRATION_LOCK_TIMEOUT_MS}ms",
    "statement_timeout": f"{STATEMENT_TIMEOUT_MS}ms",
}
_TITLE = """\
-- The pending migrations, for `psql -v ON_ERROR_STOP=1 -f`. Each transaction fails if the database is not at the
-- revision from which it continues.
"""
_GUARD = """\
DO $guard$
DECLARE
    found text[] := '{{}}';
BEGIN
    IF to_regclass('{versions}') IS NOT NULL THEN
        EXECUTE 'SELECT array(SELECT version_num::text FROM {versions} ORDER BY 1)' INTO found;
    END IF;
    IF found <> {expected} THEN
        RAISE EXCEPTION 'the database is at revision %, and this script continues from %', found, {expected};
    END IF;
END
$guard$;
"""


@fact
class NoScript(TatameError):
    """What a migration runs depends on the database, so no script can stand for it."""

    revision: str
    reason: str
    what = "migration {revision} cannot be written as SQL: {reason}"
    fix = "run `tatame-db migrate`, without `--sql`"


def migration_sql(engine: Engine, revision: str = "head") -> str:
    """Return the SQL that `migrate` would run, and run nothing; an empty string if nothing is pending.

    The script is recorded while a scratch server runs the migrations, so it contains what PostgreSQL receives. It
    has the same settings, the lock on schema changes, and the checksums. It can be run once: each transaction checks
    the revision first.

    Raises `NoScript`, `RightsMissing`, and what `migrate` raises for the files.
    """
    history = History()
    with explained(engine.url, "migrate --sql"), engine.connect() as connection:
        pending = history.pending(connection, revision)
        current = current_revisions(connection)
    if not pending:
        return ""
    with scratch() as server, server.database("script") as copy:
        for applied in current:
            migrate(copy, applied)
        observation = Observation(copy)
        with copy.connect() as connection:
            lines = _Recording(connection, history, sorted(current), observation).of(pending)
        effects = observation.effects()
    with explained(engine.url, "migrate --sql"), engine.connect() as connection:
        losses = losses_of(connection, stored.read(connection), effects, lines)
    title = "".join([_TITLE, *(f"-- Loses data: {loss}.\n" for loss in losses)])
    return "\n".join([title, *lines])


@dataclass
class _Recording:
    """The SQL that a connection sends to the server, in the transactions that it commits."""

    connection: Connection
    history: History
    revisions: list[str]
    """The revisions of the database at this point of the script."""
    observation: Observation
    script: list[str] = field(default_factory=list[str])
    transaction: list[str] = field(default_factory=list[str])
    is_migrating: bool = False
    """Whether a migration runs, and not Alembic itself, which reads the revision."""
    has_read: bool = False
    last: str = ""
    """The last statement that was sent."""

    def of(self, scripts: list[Script]) -> list[str]:
        """Run these migrations, and return the lines of their script. Raises `NoScript`."""
        driver_connection(self.connection).cursor_factory = _cursor_class(self)
        event.listen(self.connection, "commit", self._commit)
        event.listen(self.connection, "rollback", self._roll_back)
        for script in scripts:
            try:
                self._run(script)
            except StatementError as error:
                reason = f"in a database without rows, it fails: {str(error.orig).splitlines()[0]}"
                raise NoScript(revision=script.revision, reason=reason) from error
            except Exception:
                if not self.has_read:
                    raise
            if self.has_read:
                reason = "it reads from the database, and what it runs may depend on what it finds"
                raise NoScript(revision=script.revision, reason=reason)
            self.observation.look()
        return self.script

    def _run(self, script: Script) -> None:
        config = configuration()
        config.attributes |= {
            "connection": self.connection,
            "on_version_apply": (Record(self.connection), self._after_step),
        }
        run_steps(config, self.history, upgrades(self.history, [script]), on_begin=self._before_step)
        self.connection.rollback()

    def _before_step(self) -> None:
        self.is_migrating = True

    def _after_step(self, *, heads: Iterable[str], **_: Any) -> None:
        self.is_migrating = False
        self.revisions = sorted(heads)

    def add(self, statement: str, *, in_transaction: bool) -> None:
        """Add a statement that was sent."""
        self.last = statement = statement.strip()
        if statement.startswith(_ISOLATION) or (self.revisions and statement.startswith(_PREPARING)):
            return
        # It exists, and is empty, once every migration was undone.
        table = f"CREATE TABLE {_VERSIONS}"
        statement = statement.replace(table, table.replace("TABLE", "TABLE IF NOT EXISTS"))
        end = "\n;" if "--" in statement.splitlines()[-1] else ";"
        if in_transaction:
            if not self.transaction:
                self.transaction += self._header()
            self.transaction.append(statement + end)
        else:
            # Not in a transaction with the check of the revision, which is done before it.
            self.script += [*self._header(), "COMMIT;", "", statement + end, ""]

    def read(self) -> None:
        """Note that the result of the last statement is read. What Alembic itself asks is no part of the script."""
        if self.last.startswith((f"INSERT INTO {_VERSIONS}", _ISOLATION)):
            return
        if self.is_migrating:
            self.has_read = True
        elif self.transaction:
            self.transaction.pop()
            if len(self.transaction) == len(self._header()):
                self.transaction.clear()

    def _commit(self, *_: object) -> None:
        if self.transaction:
            self.script += [*self.transaction, "COMMIT;", ""]
            self.transaction.clear()

    def _roll_back(self, *_: object) -> None:
        self.transaction.clear()

    def _header(self) -> list[str]:
        expected = f"ARRAY[{', '.join(map(literal, self.revisions))}]::text[]"
        return [
            "BEGIN;",
            "RESET ALL;",
            *(f"SET LOCAL {name} TO '{value}';" for name, value in _SETTINGS.items()),
            f"DO $path$ BEGIN PERFORM set_config('search_path', {SEARCH_PATH}, true); END $path$;",
            f"DO $lock$ BEGIN PERFORM pg_advisory_xact_lock({LOCK_KEY}); END $lock$;",
            _GUARD.format(versions=_VERSIONS, expected=expected),
        ]


def _cursor_class(recording: _Recording) -> type[psycopg.Cursor[Any]]:
    """Return a class of cursors that add to a recording what they send, as the server would receive it."""

    class RecordingCursor(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
            self._add(query, params)
            return super().execute(query, params, **options)

        def executemany(self, query: Any, params_seq: Iterable[Any], **options: Any) -> None:
            rows = list(params_seq)
            for params in rows:
                self._add(query, params)
            super().executemany(query, rows, **options)

        def copy(self, *arguments: Any, **options: Any) -> Any:
            recording.has_read = True
            return super().copy(*arguments, **options)

        def fetchone(self) -> Any:
            recording.read()
            return super().fetchone()

        def fetchmany(self, size: int = 0) -> Any:
            recording.read()
            return super().fetchmany(size)

        def fetchall(self) -> Any:
            recording.read()
            return super().fetchall()

        def _add(self, query: Any, params: Any) -> None:
            statement = psycopg.ClientCursor(self.connection).mogrify(query, params)
            recording.add(statement, in_transaction=not self.connection.autocommit)

    return RecordingCursor
