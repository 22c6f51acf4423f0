"""What can go wrong in a migration, and what stays of it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tatame_db.database.errors import OutcomeUnknown
from tatame_db.errors import TatameError, fact
from tatame_db.evolve.failure import DUPLICATE_TABLE, fix_for, indented

if TYPE_CHECKING:
    from collections.abc import Generator

    from tatame_db.roles import RightsMissing


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
    """PostgreSQL rejected a migration; the migrations before it stay applied."""

    revision: str
    statement: str
    message: str
    sqlstate: str | None
    applied: list[str]
    stayed: list[str]
    """Statements of it that ran outside a transaction."""
    invalid: list[str]
    """Invalid indexes that it left, or that an earlier attempt did."""
    rights: RightsMissing | None
    """The rights that the role lacks."""
    on_citus: bool
    """Whether Citus does not support the statement."""
    lost: bool = False
    """Whether the connection was lost during the statement."""
    unanswered: bool = False
    """Whether it was lost during a statement outside a transaction."""
    what = "migration {revision} failed at\n\n{sql}\n\n{reporter} reports: {message}{lacks}"
    means = "{rest}"
    fix = "{advice}, then run the command again"

    @property
    def sql(self) -> str:
        """The rejected statement, indented."""
        return indented(self.statement)

    @property
    def reporter(self) -> str:
        """PostgreSQL, or SQLAlchemy for a statement that was never sent."""
        return "PostgreSQL" if self.sqlstate else "SQLAlchemy"

    @property
    def rest(self) -> str:
        """What of this migration and of those before it stays in the database."""
        parts = ["The migration was rolled back."]
        if self.stayed:
            steps = "\n\n".join(map(indented, self.stayed))
            parts = [f"These steps of it ran outside a transaction and stay:\n\n{steps}\n\n"]
        if self.unanswered:
            parts = ["The statement ran outside a transaction, so it may be done, or not.", *parts[: len(self.stayed)]]
        if self.invalid:
            parts.append(f"There is an invalid index: {', '.join(self.invalid)}.")
        return " ".join([*parts, _before(self.applied)])

    @property
    def advice(self) -> str:
        """The fix for the cause."""
        if self.lost:
            return "see with `tatame-db status` which database answers now"
        if self.invalid:
            dropped = "run `{}`".format("; ".join(f"DROP INDEX CONCURRENTLY {index}" for index in self.invalid))
            # What exists already is the invalid index itself.
            exists = self.sqlstate == DUPLICATE_TABLE
            return dropped if exists else f"{self.cause}, {dropped}"
        return self.rights.fix if self.rights else self.cause

    @property
    def cause(self) -> str:
        """The fix by the SQLSTATE."""
        return fix_for(self.sqlstate, "migration", on_citus=self.on_citus)

    @property
    def lacks(self) -> str:
        """The rights that the role lacks."""
        return f"; {self.rights.what}" if self.rights else ""


@fact
class MigrationOutcomeUnknown(OutcomeUnknown):
    """The connection was lost while a migration was committed; the migrations before it stay applied."""

    applied: list[str]
    means = "Either all of it was committed, or nothing; the answer of the server is lost. {before}"
    fix = "see with `tatame-db status` which migrations are applied before you run the command again"

    @property
    def before(self) -> str:
        """The migrations of the same run that stay applied."""
        return _before(self.applied)


@fact
class TransactionEnded(TatameError):
    """A migration contains a COMMIT or another end of its transaction."""

    revision: str
    statement: str
    applied: list[str]
    what = "migration {revision} begins or ends a transaction:\n\n{sql}"
    means = "The statement was not run, and the migration was rolled back. {before}"
    fix = (
        "remove the statement: `migrate` runs each migration in a transaction. A step that cannot run in one belongs"
        " alone into a migration with an `autocommit_block`"
    )

    @property
    def sql(self) -> str:
        """The statement, indented."""
        return indented(self.statement)

    @property
    def before(self) -> str:
        """The migrations of the same run that stay applied."""
        return _before(self.applied)


def _before(applied: list[str]) -> str:
    return f"Applied before it: {', '.join(applied)}." if applied else "Nothing else was changed."


@fact
class NeedsDatabase(TatameError):
    """A migration reads the database, so its SQL is not known without one."""

    revision: str
    reason: str
    what = "the SQL of migration {revision} is not known without a database ({reason})"
    fix = "write the migration without reading, for example as `UPDATE … FROM` instead of a loop"


@fact
class MigrationRaised(TatameError):
    """The code of a migration raised an error, or ended the process."""

    revision: str
    problem: str
    place: str
    applied: list[str]
    what = "migration {revision} raised {problem}, at {place}"
    means = "The migration was rolled back. {before}"
    fix = "fix the migration, then run the command again"

    @property
    def before(self) -> str:
        """The migrations of the same run that stay applied."""
        return _before(self.applied)


@contextlib.contextmanager
def on_scratch() -> Generator[None]:
    """Let a failed migration state that the database of the caller was not touched."""
    try:
        yield
    except MigrationFailed as error:
        error.means = "It failed in an empty database that was built to compare; yours was not changed."
        raise
