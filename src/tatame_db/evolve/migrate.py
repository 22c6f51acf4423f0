"""Apply and undo migrations: one run at a time, one transaction each, and no long wait for a lock."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationStep as AlembicStep
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db.errors import TatameError, fact
from tatame_db.evolve.failure import fix_for, indented, postgres_message, sqlstate
from tatame_db.evolve.history import VERSION_SCHEMA, History, checksum, configuration, current_revisions
from tatame_db.evolve.lock import Retry, Timeouts, exclusive, ignore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from alembic.config import Config
    from alembic.script import Script
    from sqlalchemy import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

RETRY_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0)


@fact
class TooFewMigrations(TatameError):
    """A rollback asks for more steps than the database has applied migrations."""

    steps: int
    possible: int
    what = "cannot undo {steps:migration}: the database has {possible:applied migration}"
    fix = "{command}"

    @property
    def command(self) -> str:
        """The longest possible rollback."""
        return f"`tatame-db rollback --steps {self.possible}`" if self.possible else "there is nothing to roll back"


@fact
class MigrationFailed(TatameError):
    """PostgreSQL rejected a migration, which was rolled back; the migrations before it stay applied."""

    revision: str
    statement: str
    message: str
    sqlstate: str | None
    applied: list[str]
    what = "migration {revision} failed at\n\n{sql}\n\nPostgreSQL reports: {message}"
    means = "The migration was rolled back, except for steps that it runs outside a transaction. {before}"
    fix = "{advice}, then run the command again"

    @property
    def sql(self) -> str:
        """The rejected statement, indented."""
        return indented(self.statement)

    @property
    def before(self) -> str:
        """The migrations of the same run that stay applied."""
        return f"Applied before it: {', '.join(self.applied)}." if self.applied else "Nothing else was changed."

    @property
    def advice(self) -> str:
        """The fix for the cause."""
        return fix_for(self.sqlstate, "migration")


@dataclass(frozen=True)
class MigrationStep:
    """A migration that was applied or undone, the first line of its docstring, and the time it took."""

    revision: str
    sentence: str
    seconds: float


@dataclass
class _Record:
    """Records each step in the step's own transaction: Alembic calls it after the step and before the commit."""

    connection: Connection
    on_step: Callable[[MigrationStep], None]
    steps: list[MigrationStep] = field(default_factory=list[MigrationStep])
    started: float = field(default_factory=time.perf_counter)

    def __call__(self, *, step: Any, **_: Any) -> None:
        scripts = step.up_revisions if step.is_upgrade else (step.up_revision,)
        for script in scripts:
            self._insert(script) if step.is_upgrade else self._delete(script)
        script = step.up_revision
        done = MigrationStep(script.revision, script.doc, time.perf_counter() - self.started)
        self.started = time.perf_counter()
        self.steps.append(done)
        self.on_step(done)

    def _insert(self, script: Script) -> None:
        self.connection.execute(
            text(
                f"INSERT INTO {VERSION_SCHEMA}.applied (revision, checksum) VALUES (:revision, :checksum)"
                " ON CONFLICT (revision) DO UPDATE SET checksum = excluded.checksum, applied_at = excluded.applied_at"
            ),
            {"revision": script.revision, "checksum": checksum(script)},
        )

    def _delete(self, script: Script) -> None:
        self.connection.execute(
            text(f"DELETE FROM {VERSION_SCHEMA}.applied WHERE revision = :revision"), {"revision": script.revision}
        )


def migrate(
    engine: Engine | AsyncEngine,
    revision: str = "head",
    *,
    on_step: Callable[[MigrationStep], None] = ignore,
    timeouts: Timeouts | None = None,
) -> list[MigrationStep]:
    """Apply the pending migrations up to `revision`, oldest first; return those that ran.

    Each migration is one transaction and is committed before the next begins; `on_step` is called before that commit.
    The engine may be sync or async: the run opens a connection of its own to the same address, and a coroutine calls
    `await asyncio.to_thread(evolve.migrate, engine)`. A second run on the same database waits for the first and finds
    nothing to do. A migration that does not get a lock in time is rolled back and retried, so that it does not block
    the queries behind it.

        >>> [step.revision for step in evolve.migrate(engine)]
        ['20261123120000']
        >>> evolve.migrate(engine)
        []

    Raises `MigrationFailed`, `MigrationEdited`, `MigrationUnreadable`, `TwoHeads`, `RevisionUnknown`, `DatabaseAhead`,
    `DirectAddressNeeded`.
    """
    history = History()
    with exclusive(engine, timeouts := timeouts or Timeouts()) as connection:
        history.refuse_edited(connection)
        return _run(
            _Record(connection, on_step),
            history,
            lambda: history.pending(connection, revision),
            AlembicStep.upgrade_from_script,
            timeouts,
        )


def rollback(
    engine: Engine | AsyncEngine,
    steps: int = 1,
    *,
    on_step: Callable[[MigrationStep], None] = ignore,
    timeouts: Timeouts | None = None,
) -> list[MigrationStep]:
    """Undo the last `steps` migrations, newest first; return those that were undone.

    Each is one transaction, as in `migrate`. The data in the tables and columns that they created is lost.

        >>> [step.revision for step in evolve.rollback(engine)]
        ['20261123120000']

    Raises `TooFewMigrations`, and the errors of `migrate`.
    """
    history = History()
    with exclusive(engine, timeouts := timeouts or Timeouts()) as connection:
        history.refuse_edited(connection)
        applied = history.applied(connection)
        if steps > len(applied):
            raise TooFewMigrations(steps=steps, possible=len(applied))
        remaining = len(applied) - steps
        return _run(
            _Record(connection, on_step),
            history,
            lambda: (now := history.applied(connection))[: len(now) - remaining],
            AlembicStep.downgrade_from_script,
            timeouts,
        )


def migration_sql(engine: Engine, revision: str = "head") -> str:
    """Return the SQL that `migrate` would run, and run nothing; an empty string if nothing is pending."""
    history = History()
    with engine.connect() as connection:
        pending = history.pending(connection, revision)
        current = current_revisions(connection)
    return offline_sql(history, current, pending) if pending else ""


def offline_sql(history: History, start: tuple[str, ...], scripts: list[Script]) -> str:
    """Return the SQL of these migrations for a database at the revisions `start`, without a connection."""
    config = configuration()
    config.output_buffer = io.StringIO()
    steps = [AlembicStep.upgrade_from_script(history.scripts.revision_map, script) for script in scripts]
    _run_steps(config, history, steps, as_sql=True, starting_rev=start or "base")
    # The table exists and is empty once every migration was rolled back.
    table = f"CREATE TABLE {VERSION_SCHEMA}.alembic_version"
    return config.output_buffer.getvalue().replace(table, table.replace("TABLE", "TABLE IF NOT EXISTS"))


def _run(
    record: _Record,
    history: History,
    remaining: Callable[[], list[Script]],
    direction: Callable[[Any, Script], AlembicStep],
    timeouts: Timeouts,
) -> list[MigrationStep]:
    """Run steps until none remains, again after a lock timeout; what remains is read from the database each time."""
    connection = record.connection
    pauses = iter(RETRY_PAUSES_SECONDS)
    while scripts := remaining():
        # Alembic commits after each migration only if no transaction was open before.
        connection.rollback()
        config = configuration()
        config.attributes |= {"connection": connection, "on_version_apply": record}
        done = len(record.steps)
        try:
            _run_steps(config, history, [direction(history.scripts.revision_map, script) for script in scripts])
        except DBAPIError as error:
            connection.rollback()
            failed = scripts[len(record.steps) - done].revision
            pause = next(pauses, None)
            if pause is None or not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise MigrationFailed(
                    revision=failed,
                    statement=error.statement or "",
                    message=postgres_message(connection, error),
                    sqlstate=sqlstate(error),
                    applied=[step.revision for step in record.steps],
                ) from error
            timeouts.on_retry(Retry(failed, pause))
            time.sleep(pause)
    return record.steps


def _run_steps(config: Config, history: History, steps: Sequence[AlembicStep], **options: Any) -> None:
    # Alembic's own commands choose the steps themselves, but cannot go back through a merge.
    def chosen(_revision: Any, _context: Any) -> Sequence[AlembicStep]:
        return steps

    with EnvironmentContext(config, history.scripts, fn=chosen, **options):
        history.scripts.run_env()
