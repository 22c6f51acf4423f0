"""Check that migrations, models and database agree: one head, no difference, no edited migration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.errors import TatameError, fact
from tatame_db.evolve import catalogue
from tatame_db.evolve.history import History, MigrationEdited, current_revisions
from tatame_db.evolve.migrate import migrate
from tatame_db.schema import Base
from tatame_db.server.scratch import scratch

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


@dataclass(frozen=True)
class SchemaCheck:
    """The problems that a check found; an empty list means that the part is in order."""

    heads: list[str]
    """The files of the heads, if there is more than one."""
    migrations: list[str]
    """The differences between the models and a database that the migrations build."""
    database: list[str]
    """The differences between the database and its revision, and the applied migrations that were edited."""
    revision: str | None
    """The revision that the database was compared with; `None` before the first migration."""

    @property
    def failed(self) -> list[str]:
        """The names of the fields that list problems."""
        return [part for part in ("heads", "migrations", "database") if getattr(self, part)]


# The problem and its fix, for each field of `SchemaCheck` that lists problems.
_PROBLEMS = {
    "heads": (
        "the migrations have more than one head",
        'join the heads with `tatame-db generate --merge "merge the branches"`',
    ),
    "migrations": (
        "the migrations do not build the models",
        "write the missing migration with `tatame-db generate`",
    ),
    "database": (
        "the database does not match its migrations",
        "undo manual changes of the database, or write them as a migration",
    ),
}


@fact
class CheckFailed(TatameError):
    """Migrations, models and database do not agree: the negative answer of `check`."""

    exit_code = 3
    check: SchemaCheck
    what = "{problems}"
    fix = "{fixes}"

    @property
    def problems(self) -> str:
        """The parts that failed."""
        return "; ".join(_PROBLEMS[part][0] for part in self.check.failed)

    @property
    def fixes(self) -> str:
        """The fix of each of them."""
        return "; ".join(_PROBLEMS[part][1] for part in self.check.failed)


def check(engine: Engine) -> SchemaCheck:
    """Check that migrations, models and database agree; changes nothing and takes seconds.

    The models and the migrations are built on a scratch server. With more than one head, only the heads and edited
    migrations are reported, because there is no single schema to compare with.

        >>> evolve.check(engine).failed
        []

    Raises `MigrationUnreadable`, `DatabaseAhead`.
    """
    history = History()
    with engine.connect() as connection:
        revision = history.reached(connection)
        current = current_revisions(connection)
        edited = _edited(history, connection)
        found = catalogue.read(connection)
    if history.forked:
        return SchemaCheck(history.forked, [], edited, revision)
    with scratch() as server:
        with server.database("models") as models, models.begin() as connection:
            Base.metadata.create_all(connection)
            wanted = catalogue.read(connection)
        with server.database("migrations") as migrations:
            reached: dict[str, str] = {}
            for head in current:
                migrate(migrations, head)
                reached = _read(migrations)
            migrate(migrations)
            built = _read(migrations)
    return SchemaCheck(
        heads=[],
        migrations=[str(difference) for difference in catalogue.differences(wanted, built)],
        database=edited + [str(difference) for difference in catalogue.differences(reached, found)],
        revision=revision,
    )


def _read(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        return catalogue.read(connection)


def _edited(history: History, connection: Connection) -> list[str]:
    try:
        history.refuse_edited(connection)
    except MigrationEdited as error:
        return [error.what]
    return []
