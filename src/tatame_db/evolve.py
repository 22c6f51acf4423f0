"""How a database gets to today's schema: migrate, rollback, status."""

from __future__ import annotations

import contextlib
import io
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db.database import readable
from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.schema import Base

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from alembic.script import Script
    from sqlalchemy import Connection, Engine

MIGRATIONS = Path(__file__).parent / "migrations"
# Beside the tables, not among them: tools that compare `public` with a schema of theirs see only what is ours.
VERSION_SCHEMA = "tatame_migrations"
LOCK_TIMEOUT_MS = 5_000
STATEMENT_TIMEOUT_MS = 600_000
# Any number will do, as long as nobody else takes it for an advisory lock of theirs.
_LOCK_KEY = 0x7461_7461_6D65


class RevisionUnknown(TatameError):
    """A revision was asked for that is not among the migrations."""

    def __init__(self, revision: str, known: list[str]) -> None:
        self.revision = revision
        super().__init__(
            f"there is no revision {revision!r}. Checked: {', '.join(known)}",
            means=NOTHING_CHANGED,
            fix="`tatame-db status` shows where the database is; `head` is the newest revision",
        )


class DatabaseAhead(TatameError):
    """The database is at a revision that this version of the package does not know."""

    def __init__(self, revision: str) -> None:
        self.revision = revision
        super().__init__(
            f"the database is at revision {revision}, which this version of tatame-db does not have",
            means=NOTHING_CHANGED,
            fix="install the version of tatame-db that migrated it, or a newer one",
        )


class NotADowngrade(TatameError):
    """More steps back were asked for than there are."""

    def __init__(self, steps: int, possible: int) -> None:
        self.steps, self.possible = steps, possible
        super().__init__(
            f"{steps} steps back were asked for, and the database has {possible} applied migrations",
            means=NOTHING_CHANGED,
            fix=f"`tatame-db rollback --steps {possible}`" if possible else "there is nothing to roll back",
        )


class MigrationFailed(TatameError):
    """A migration was refused by PostgreSQL and undone as a whole; the ones before it stay."""

    def __init__(self, revision: str, statement: str, message: str, applied: list[str]) -> None:
        self.revision, self.statement, self.message, self.applied = revision, statement, message, applied
        before = f"Applied before it and kept: {', '.join(applied)}." if applied else "Nothing else was changed."
        super().__init__(
            f"migration {revision} failed at\n\n{_indented(statement)}\n\nPostgreSQL says: {message}",
            means=f"The whole migration was undone. {before}",
            fix="mend the data or the migration, then run the command again",
        )


class SchemaBehind(TatameError):
    """Migrations are waiting, and what was asked for needs them."""

    def __init__(self, pending: list[str]) -> None:
        self.pending = pending
        super().__init__(
            f"{len(pending)} migrations are pending: {', '.join(pending)}",
            means=NOTHING_CHANGED,
            fix="apply them with `tatame-db migrate`",
        )


class CheckedBehind(SchemaBehind):
    """Migrations are waiting: the answer of `status --check`."""

    exit_code = 3


@dataclass(frozen=True)
class Step:
    """One applied migration, up or down, and how long it took."""

    revision: str
    sentence: str
    seconds: float


@dataclass(frozen=True)
class Status:
    """Where a database stands. `tables` holds the server's estimates of the row counts."""

    database: str
    server_version: str
    embedded: bool
    revision: str | None
    head: str
    pending: list[str]
    tables: dict[str, int]


@dataclass
class _Run:
    """What happens while migrations run: Alembic calls it after each step, inside the step's transaction."""

    on_step: Callable[[Step], None]
    steps: list[Step] = field(default_factory=list[Step])
    started: float = field(default_factory=time.perf_counter)

    def __call__(self, *, step: Any, **_: Any) -> None:
        script = step.up_revision
        applied = Step(script.revision, script.doc, time.perf_counter() - self.started)
        self.started = time.perf_counter()
        self.steps.append(applied)
        self.on_step(applied)


def _silent(*_: object) -> None:
    """Tell nobody."""


def migrate(
    engine: Engine,
    revision: str = "head",
    *,
    on_step: Callable[[Step], None] = _silent,
    on_wait: Callable[[], None] = _silent,
) -> list[Step]:
    """Apply the pending migrations up to `revision`, each committed by itself; return those that ran.

    Only one run works on a database at a time: a second one calls `on_wait`, waits, and finds nothing to do.
    A step that waits `LOCK_TIMEOUT_MS` for a lock is given up, so that it does not block the running app.
    Raises `MigrationFailed`, `RevisionUnknown`, `DatabaseAhead`.
    """
    with _exclusive(engine, on_wait) as connection:
        return _run(
            connection, lambda config: command.upgrade(config, revision), pending(connection, revision), on_step
        )


def rollback(
    engine: Engine,
    steps: int = 1,
    *,
    on_step: Callable[[Step], None] = _silent,
    on_wait: Callable[[], None] = _silent,
) -> list[Step]:
    """Undo the last `steps` migrations, each committed by itself; return those that were undone.

    Raises `MigrationFailed`, `NotADowngrade`, `DatabaseAhead`.
    """
    with _exclusive(engine, on_wait) as connection:
        applied = _applied(connection)
        if steps > len(applied):
            raise NotADowngrade(steps, len(applied))
        return _run(connection, lambda config: command.downgrade(config, f"-{steps}"), applied[:steps], on_step)


def migration_sql(engine: Engine, revision: str = "head") -> str:
    """Write the SQL that `migrate` would run, and run nothing; empty where nothing is pending."""
    with engine.connect() as connection:
        waiting = pending(connection, revision)
        current = current_revision(connection) or "base"
    if not waiting:
        return ""
    config = _config()
    config.output_buffer = io.StringIO()
    command.upgrade(config, f"{current}:{waiting[-1].revision}", sql=True)
    return config.output_buffer.getvalue()


def status(engine: Engine, *, embedded: bool) -> Status:
    """Read where a database stands; changes nothing. Raises `DatabaseAhead`."""
    with engine.connect() as connection:
        return Status(
            database=readable(engine.url),
            server_version=str(connection.scalar(text("SELECT current_setting('server_version')"))).split()[0],
            embedded=embedded,
            revision=current_revision(connection),
            head=str(_scripts().get_current_head()),
            pending=[script.revision for script in pending(connection)],
            tables=_estimated_rows(connection),
        )


def current_revision(connection: Connection) -> str | None:
    """Return the revision a database is at, or `None` where no migration was ever applied."""
    options = {"version_table_schema": VERSION_SCHEMA}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def pending(connection: Connection, revision: str = "head") -> list[Script]:
    """Return the migrations that are missing up to `revision`, oldest first.

    Raises `RevisionUnknown`, `DatabaseAhead`.
    """
    scripts = _scripts()
    target = _known(scripts, revision)
    applied = {script.revision for script in _applied(connection)}
    wanted = reversed(list(scripts.iterate_revisions(target, "base")))
    return [script for script in wanted if script.revision not in applied]


def _applied(connection: Connection) -> list[Script]:
    """The migrations that a database has, newest first."""
    revision = current_revision(connection)
    if revision is None:
        return []
    try:
        return list(_scripts().iterate_revisions(revision, "base"))
    except ResolutionError as error:
        raise DatabaseAhead(revision) from error


def _known(scripts: ScriptDirectory, revision: str) -> str:
    try:
        found = scripts.revision_map.get_revision(revision)
    except ResolutionError:
        found = None
    if found is None:
        raise RevisionUnknown(revision, [script.revision for script in scripts.walk_revisions()])
    return str(found.revision)


def _run(
    connection: Connection,
    work: Callable[[Config], None],
    scripts: list[Script],
    on_step: Callable[[Step], None],
) -> list[Step]:
    if not scripts:
        return []
    run = _Run(on_step)
    # Alembic commits each migration only where no transaction is open already.
    connection.rollback()
    config = _config()
    config.attributes |= {"connection": connection, "on_version_apply": run}
    try:
        work(config)
    except DBAPIError as error:
        raise _failure(scripts, run.steps, error) from error
    return run.steps


def _failure(scripts: list[Script], done: list[Step], error: DBAPIError) -> MigrationFailed:
    diagnosis: Any = getattr(error.orig, "diag", None)
    words = [getattr(diagnosis, name, None) for name in ("message_primary", "message_detail", "message_hint")]
    message = "; ".join(word for word in words if word) or str(error.orig)
    failed = scripts[len(done)].revision if len(done) < len(scripts) else "?"
    return MigrationFailed(failed, error.statement or "", message, [step.revision for step in done])


@contextlib.contextmanager
def _exclusive(engine: Engine, on_wait: Callable[[], None]) -> Generator[Connection]:
    """Give a connection of its own that holds the lock on migrations until it is closed, or killed."""
    with engine.connect() as connection:
        # Not the pool's any more: its timeouts and its lock end with it.
        connection.detach()
        if not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK_KEY}):
            on_wait()
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
        connection.execute(text(f"SET lock_timeout = {LOCK_TIMEOUT_MS}"))
        connection.execute(text("SET idle_session_timeout = 0"))
        connection.execute(text(f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}"))
        connection.commit()
        yield connection


def _config() -> Config:
    config = Config()
    config.attributes["version_schema"] = VERSION_SCHEMA
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _estimated_rows(connection: Connection) -> dict[str, int]:
    # A table that was never analysed has no estimate yet; then the running statistics know best.
    query = text(
        "SELECT relname, CASE WHEN reltuples < 0 THEN pg_stat_get_live_tuples(oid) ELSE reltuples END::bigint AS rows"
        " FROM pg_class"
        " WHERE oid = ANY(SELECT to_regclass(quote_ident(name)) FROM unnest(CAST(:names AS text[])) AS name)"
        " ORDER BY relname"
    )
    found = connection.execute(query, {"names": list(Base.metadata.tables)})
    return {row.relname: row.rows for row in found}


def _indented(statement: str) -> str:
    return "\n".join(f"    {line}" for line in statement.strip().splitlines())
