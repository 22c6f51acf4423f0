"""Apply and undo migrations: one run at a time, one transaction each, and no long wait for a lock."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import RevisionStep
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError, StatementError

from tatame_db.database.dialect import VERSION_SCHEMA
from tatame_db.database.driver import driver_connection
from tatame_db.database.errors import DatabaseUnavailable
from tatame_db.database.failures import loss_in_words
from tatame_db.errors import TatameError
from tatame_db.evolve import stored
from tatame_db.evolve.autocommit import invalid_indexes, refuse_mixed
from tatame_db.evolve.blockers import blockers
from tatame_db.evolve.effects import effects_of
from tatame_db.evolve.failure import is_limit_of_citus, missing_rights_of, postgres_message, sqlstate
from tatame_db.evolve.history import History, configuration, steps_before
from tatame_db.evolve.lock import MIGRATION_LOCK_TIMEOUT_MS, Retry, Timeouts, exclusive, ignore
from tatame_db.evolve.losses import losses_of
from tatame_db.evolve.migration_errors import (
    MigrationFailed,
    MigrationOutcomeUnknown,
    MigrationRaised,
    NeedsDatabase,
    TooFewMigrations,
    TransactionEnded,
)
from tatame_db.evolve.record import EndsTransaction, MigrationStep, Record
from tatame_db.evolve.user_code import line_in, problem_of
from tatame_db.evolve.worker import refuse_worker
from tatame_db.roles import explained
from tatame_db.roles.missing import refuse_missing
from tatame_db.roles.rights import rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from alembic.config import Config
    from alembic.script import Script
    from sqlalchemy import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

# For half a minute in all; waiting for the lock itself is a sixth of it.
RETRY_PAUSES_SECONDS = (0.5, 1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 4.0, 4.0)


def migrate(
    engine: Engine | AsyncEngine,
    revision: str = "head",
    *,
    agree: Callable[[list[str]], None] | None = None,
    on_step: Callable[[MigrationStep], None] = ignore,
    timeouts: Timeouts | None = None,
) -> list[MigrationStep]:
    """Apply the pending migrations up to `revision`, oldest first; return those that ran.

    Each migration is one transaction and is committed before the next begins; `on_step` is called after that commit.
    The engine may be sync or async: the run opens a connection of its own to the same address, and a coroutine calls
    `await asyncio.to_thread(evolve.migrate, engine)`. A second run on the same database waits for the first and finds
    nothing to do. A migration that does not get a lock in time is rolled back and retried, so that it does not block
    the queries behind it.

    `agree` is called before the first step if these migrations drop tables or columns with values, with a sentence for
    each; it raises to refuse. Without it, the migrations run unasked.

        >>> [step.revision for step in evolve.migrate(engine)]
        ['20261123120000']
        >>> evolve.migrate(engine)
        []

    Raises `MigrationFailed`, `MigrationOutcomeUnknown`, `MigrationEdited`, `MigrationUnreadable`, `TwoHeads`,
    `RevisionUnknown`, `DatabaseAhead`, `DirectAddressNeeded`, `AutocommitMixed`, `TransactionEnded`, `IndexInvalid`,
    `RightsMissing`, `NotCoordinator`.
    """
    history, timeouts = History(), timeouts or Timeouts()
    with (
        explained(engine.url, "migrate"),
        exclusive(engine, timeouts, MIGRATION_LOCK_TIMEOUT_MS) as connection,
    ):
        refuse_worker(connection)
        history.refuse_edited(connection)
        return _run(
            Record(connection, on_step),
            history,
            lambda: upgrades(history, history.pending(connection, revision)),
            agree,
            timeouts,
        )


def rollback(
    engine: Engine | AsyncEngine,
    steps: int = 1,
    *,
    agree: Callable[[list[str]], None] | None = None,
    on_step: Callable[[MigrationStep], None] = ignore,
    timeouts: Timeouts | None = None,
) -> list[MigrationStep]:
    """Undo the last `steps` migrations, newest first; return those that were undone.

    Each is one transaction, as in `migrate`. The data in the tables and columns that they created is lost; `agree` is
    called as in `migrate`.

        >>> [step.revision for step in evolve.rollback(engine)]
        ['20261123120000']

    Raises `TooFewMigrations`, and the errors of `migrate`.
    """
    history, timeouts = History(), timeouts or Timeouts()
    with (
        explained(engine.url, "rollback"),
        exclusive(engine, timeouts, MIGRATION_LOCK_TIMEOUT_MS) as connection,
    ):
        refuse_worker(connection)
        history.refuse_edited(connection)
        applied = history.applied(connection)
        if steps > len(applied):
            raise TooFewMigrations(steps=steps, possible=len(applied))
        remaining = len(applied) - steps
        return _run(
            Record(connection, on_step),
            history,
            lambda: downgrades(history, (now := history.applied(connection))[: len(now) - remaining]),
            agree,
            timeouts,
        )


def upgrades(history: History, scripts: Sequence[Script]) -> list[RevisionStep]:
    """Return the steps that apply these migrations, in this order."""
    return [RevisionStep(history.scripts.revision_map, script, is_upgrade=True) for script in scripts]


def downgrades(history: History, scripts: Sequence[Script]) -> list[RevisionStep]:
    """Return the steps that undo these migrations, in this order."""
    return [RevisionStep(history.scripts.revision_map, script, is_upgrade=False) for script in scripts]


def offline_sql(history: History, step: RevisionStep) -> str:
    """Return the SQL of a step, as Alembic writes it without a connection. Raises `NeedsDatabase`."""
    script, config = step.revision, configuration()
    config.output_buffer = io.StringIO()
    start = steps_before(script) if step.is_upgrade else (script.revision,)
    try:
        run_steps(config, history, [step], as_sql=True, starting_rev=start or "base")
    except Exception as error:
        raise NeedsDatabase(revision=script.revision, reason=type(error).__name__) from error
    return config.output_buffer.getvalue()


def _run(
    record: Record,
    history: History,
    remaining: Callable[[], list[RevisionStep]],
    agree: Callable[[list[str]], None] | None,
    timeouts: Timeouts,
) -> list[MigrationStep]:
    """Run one step after the other, again after a lock timeout; what remains is read from the database each time."""
    connection = record.connection
    pauses = iter(RETRY_PAUSES_SECONDS)
    steps = remaining()
    refuse_mixed(step.revision for step in steps)
    is_agreed = agree is None
    record.watch()
    while steps:
        # Alembic commits after a migration only if no transaction was open before.
        connection.rollback()
        record.reset_settings()
        config = configuration()
        config.attributes |= {"connection": connection, "on_version_apply": record}
        failed, blocking = steps[0].revision, list[str]()
        limit_ms = timeouts.lock_timeout_ms or MIGRATION_LOCK_TIMEOUT_MS
        try:
            with (
                record.noting_interrupt(),
                blockers(connection.engine.url, _backend_pid(connection), limit_ms / 2_000) as blocking,
            ):
                # Counting the rows waits for locks too.
                if agree and not is_agreed and (losses := losses_of_steps(connection, history, steps)):
                    # Otherwise consent to a loss would be asked of a role that can cause none.
                    refuse_missing(rows_of(connection), "migrate")
                    agree(losses)
                is_agreed = True
                run_steps(config, history, steps[:1], on_begin=record.begin)
        except EndsTransaction as error:
            connection.rollback()
            applied = [step.revision for step in record.steps]
            raise TransactionEnded(revision=failed.revision, statement=error.statement, applied=applied) from None
        except StatementError as error:
            connection.rollback()
            pause = next(pauses, None)
            # What ran outside a transaction would not be undone before the next attempt.
            is_undone = isinstance(error.orig, psycopg.errors.LockNotAvailable) and not record.stayed
            if pause is None or not is_undone:
                raise _failure(record, failed, error, blocking) from error
            timeouts.on_retry(Retry(failed.revision, pause, blocking))
            time.sleep(pause)
        except CommandError as error:
            connection.rollback()
            # It counts the rows of its own table.
            raise MigrationRaised(
                revision=failed.revision,
                problem=str(error),
                place=f"the table {VERSION_SCHEMA}.alembic_version, which a migration must not change",
                applied=[step.revision for step in record.steps],
            ) from error
        except (TatameError, KeyboardInterrupt):
            raise
        except BaseException as error:
            connection.rollback()
            file = Path(failed.path)
            line = line_in(file, error)
            if line is None:
                raise
            raise MigrationRaised(
                revision=failed.revision,
                problem=problem_of(error),
                place=f"{file.name}, line {line}",
                applied=[step.revision for step in record.steps],
            ) from error
        else:
            record.report()
        steps = remaining()
    return record.steps


def _backend_pid(connection: Connection) -> int:
    return driver_connection(connection).info.backend_pid


def _failure(record: Record, failed: Script, error: StatementError, blocking: list[str]) -> TatameError:
    lost, applied = loss_in_words(error), [step.revision for step in record.steps]
    # SQLAlchemy runs COMMIT without a statement's text.
    if lost and record.done and error.statement is None:
        return MigrationOutcomeUnknown(name=f"migration {failed.revision}", reason=lost.reason, applied=applied)
    message = postgres_message(record.connection, error)
    if blocking and isinstance(error.orig, psycopg.errors.LockNotAvailable):
        message += f"; held by {', '.join(blocking)}"
    return MigrationFailed(
        revision=failed.revision,
        statement=error.statement or "COMMIT",
        message=message,
        sqlstate=sqlstate(error),
        applied=applied,
        stayed=record.stayed,
        invalid=_invalid_after(record, error),
        rights=missing_rights_of(record.connection, error, "migrate"),
        on_citus=is_limit_of_citus(record.connection, error),
        lost=sqlstate(error) is None and lost is not None,
        unanswered=lost is not None and bool(record.outside),
    )


def _invalid_after(record: Record, error: StatementError) -> list[str]:
    if not (_is_concurrent(error) or record.stayed):
        return []
    try:
        return invalid_indexes(record.connection)
    except (DatabaseUnavailable, DBAPIError):
        # The server is away; the next run finds them.
        return []


def _is_concurrent(error: StatementError) -> bool:
    return " CONCURRENTLY " in (error.statement or "").upper()


def losses_of_steps(connection: Connection, history: History, steps: list[RevisionStep]) -> list[str]:
    """Describe the data that steps drop, empty or rewrite, with counts; rolls back.

    They run on a scratch server first, unless the database has no tables: then there is nothing to lose.
    """

    def run(scratch: Connection, chosen: list[RevisionStep]) -> None:
        config = configuration()
        config.attributes |= {"connection": scratch, "on_version_apply": Record(scratch)}
        run_steps(config, history, chosen)

    storage = stored.read(connection)
    losses: list[str] = []
    if steps and storage.tables:
        effects = effects_of(upgrades(history, history.applied(connection)[::-1]), steps, run)
        texts = {step.revision.revision: _text(history, step) for step in steps}
        losses = losses_of(connection, storage, effects, filter(None, texts.values()))
        losses += [
            f"migration {revision} reads the database, so what it drops is not known"
            for revision, sql in texts.items()
            if sql is None and revision != effects.failed
        ]
    connection.rollback()
    return losses


def _text(history: History, step: RevisionStep) -> str | None:
    try:
        return offline_sql(history, step)
    except (NeedsDatabase, SystemExit):
        return None


def run_steps(
    config: Config,
    history: History,
    steps: Sequence[RevisionStep],
    *,
    on_begin: Callable[[], None] = ignore,
    **options: Any,
) -> None:
    """Run steps in Alembic's environment; `on_begin` is called before the first of them."""

    # Alembic's own commands choose the steps themselves, but cannot go back through a merge.
    def chosen(_revision: Any, _context: Any) -> Sequence[RevisionStep]:
        on_begin()
        return steps

    with EnvironmentContext(config, history.scripts, fn=chosen, **options):
        history.scripts.run_env()
