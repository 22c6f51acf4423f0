"""Apply migrations and undo them: one run at a time, one transaction a step, never a long wait for a lock."""

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

from tatame_db.errors import NOTHING_CHANGED, TatameError, counted
from tatame_db.evolve.failure import indented, postgres_message
from tatame_db.evolve.history import VERSION_SCHEMA, History, checksum, configuration, current_revisions
from tatame_db.evolve.lock import Retry, Timeouts, exclusive, ignore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from alembic.config import Config
    from alembic.script import Script
    from sqlalchemy import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

RETRY_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0)


class NotADowngrade(TatameError):
    """More steps back were asked for than there are."""

    def __init__(self, steps: int, possible: int) -> None:
        self.steps, self.possible = steps, possible
        super().__init__(
            f"{counted(steps, 'step')} back asked for, and the database has {counted(possible, 'applied migration')}",
            means=NOTHING_CHANGED,
            fix=f"`tatame-db rollback --steps {possible}`" if possible else "there is nothing to roll back",
        )


class MigrationFailed(TatameError):
    """A migration was refused by PostgreSQL and undone as a whole; the ones before it stay."""

    def __init__(self, revision: str, statement: str, message: str, applied: list[str]) -> None:
        self.revision, self.statement, self.message, self.applied = revision, statement, message, applied
        before = f"Applied before it and kept: {', '.join(applied)}." if applied else "Nothing else was changed."
        super().__init__(
            f"migration {revision} failed at\n\n{indented(statement)}\n\nPostgreSQL says: {message}",
            means=f"The whole migration was undone, but for steps that it runs outside a transaction. {before}",
            fix="mend the data or the migration, or wait until nobody holds the lock, then run the command again",
        )


@dataclass(frozen=True)
class MigrationStep:
    """One applied migration, up or down, and how long it took."""

    revision: str
    sentence: str
    seconds: float


@dataclass
class _Run:
    """What happens while migrations run: Alembic calls it after each step, inside the step's transaction."""

    connection: Connection
    on_step: Callable[[MigrationStep], None]
    steps: list[MigrationStep] = field(default_factory=list[MigrationStep])
    started: float = field(default_factory=time.perf_counter)

    def __call__(self, *, step: Any, **_: Any) -> None:
        scripts = step.up_revisions if step.is_upgrade else (step.up_revision,)
        for script in scripts:
            self._remember(script) if step.is_upgrade else self._forget(script)
        script = step.up_revision
        applied = MigrationStep(script.revision, script.doc, time.perf_counter() - self.started)
        self.started = time.perf_counter()
        self.steps.append(applied)
        self.on_step(applied)

    def _remember(self, script: Script) -> None:
        self.connection.execute(
            text(
                f"INSERT INTO {VERSION_SCHEMA}.applied (revision, checksum) VALUES (:revision, :checksum)"
                " ON CONFLICT (revision) DO UPDATE SET checksum = excluded.checksum, applied_at = excluded.applied_at"
            ),
            {"revision": script.revision, "checksum": checksum(script)},
        )

    def _forget(self, script: Script) -> None:
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
    """Apply the pending migrations up to `revision`, each committed by itself; return those that ran.

    Takes the engine of a sync or an async application, and works on a connection of its own; from a coroutine, call
    it with `asyncio.to_thread`. Only one run works on a database at a time: a second one waits, and finds nothing to
    do. A step that does not get its locks in time is undone and tried again a few times, so that it never blocks the
    running app for long. Raises `MigrationFailed`, `MigrationEdited`, `MigrationUnreadable`, `TwoHeads`,
    `RevisionUnknown`, `DatabaseAhead`.
    """
    history = History()
    with exclusive(engine, timeouts := timeouts or Timeouts()) as connection:
        history.refuse_edited(connection)
        return _run(
            _Run(connection, on_step),
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
    """Undo the last `steps` migrations, each committed by itself; return those that were undone.

    Raises `NotADowngrade`, and what `migrate` raises.
    """
    history = History()
    with exclusive(engine, timeouts := timeouts or Timeouts()) as connection:
        history.refuse_edited(connection)
        applied = history.applied(connection)
        if steps > len(applied):
            raise NotADowngrade(steps, len(applied))
        kept = len(applied) - steps
        return _run(
            _Run(connection, on_step),
            history,
            lambda: (now := history.applied(connection))[: len(now) - kept],
            AlembicStep.downgrade_from_script,
            timeouts,
        )


def migration_sql(engine: Engine, revision: str = "head") -> str:
    """Write the SQL that `migrate` would run, and run nothing; empty where nothing is pending."""
    history = History()
    with engine.connect() as connection:
        waiting = history.pending(connection, revision)
        current = current_revisions(connection)
    return offline_sql(history, current, waiting) if waiting else ""


def offline_sql(history: History, start: tuple[str, ...], scripts: list[Script]) -> str:
    """Write the SQL of these migrations for a database at `start`, without any database."""
    config = configuration()
    config.output_buffer = io.StringIO()
    steps = [AlembicStep.upgrade_from_script(history.scripts.revision_map, script) for script in scripts]
    _run_steps(config, history, steps, as_sql=True, starting_rev=start or "base")
    # The table is there without a row after everything was rolled back.
    table = f"CREATE TABLE {VERSION_SCHEMA}.alembic_version"
    return config.output_buffer.getvalue().replace(table, table.replace("TABLE", "TABLE IF NOT EXISTS"))


def _run(
    run: _Run,
    history: History,
    waiting: Callable[[], list[Script]],
    direction: Callable[[Any, Script], AlembicStep],
    timeouts: Timeouts,
) -> list[MigrationStep]:
    connection = run.connection
    pauses = iter(RETRY_PAUSES_SECONDS)
    while scripts := waiting():
        # Alembic commits each migration only where no transaction is open already.
        connection.rollback()
        config = configuration()
        config.attributes |= {"connection": connection, "on_version_apply": run}
        done = len(run.steps)
        try:
            _run_steps(config, history, [direction(history.scripts.revision_map, script) for script in scripts])
        except DBAPIError as error:
            connection.rollback()
            failed = scripts[len(run.steps) - done].revision
            pause = next(pauses, None)
            if pause is None or not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                applied = [step.revision for step in run.steps]
                raise MigrationFailed(
                    failed, error.statement or "", postgres_message(connection, error), applied
                ) from error
            timeouts.on_retry(Retry(failed, pause))
            time.sleep(pause)
    return run.steps


def _run_steps(config: Config, history: History, steps: Sequence[AlembicStep], **options: Any) -> None:
    # Alembic's own commands find the way themselves, but know none back through a merge.
    def chosen(_revision: Any, _context: Any) -> Sequence[AlembicStep]:
        return steps

    with EnvironmentContext(config, history.scripts, fn=chosen, **options):
        history.scripts.run_env()
