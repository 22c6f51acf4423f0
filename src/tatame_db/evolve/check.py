"""Three questions about a schema: do migrations, models and database say the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.evolve import catalogue
from tatame_db.evolve.history import History, MigrationEdited, current_revisions
from tatame_db.evolve.migrate import migrate
from tatame_db.schema import Base
from tatame_db.server.scratch import scratch

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


class CheckFailed(TatameError):
    """Something is not as it should be: the answer of `check`."""

    exit_code = 3

    def __init__(self, questions: list[str]) -> None:
        self.questions = questions
        super().__init__(
            f"not as it should be: {', '.join(questions)}",
            means=NOTHING_CHANGED,
            fix="`tatame-db generate` writes what the migrations lack; what was changed beside them in the database, "
            "undo there or write as a migration",
        )


@dataclass(frozen=True)
class SchemaCheck:
    """The three answers; an empty list is a yes."""

    heads: list[str]
    """The heads, where there is more than one."""
    migrations: list[str]
    """Where the migrations do not build what the models say."""
    database: list[str]
    """Where the database is not what its revision says."""
    revision: str | None
    """The revision that the database was compared with."""

    @property
    def failed(self) -> list[str]:
        """The questions whose answer is no."""
        answers = {"one head": self.heads, "migrations and models": self.migrations, "the database": self.database}
        return [question for question, problems in answers.items() if problems]


def check(engine: Engine) -> SchemaCheck:
    """Answer the three questions; changes nothing, and builds what it compares with on a scratch server.

    Raises `MigrationUnreadable`, `DatabaseAhead`.
    """
    history = History()
    with engine.connect() as connection:
        applied = history.applied(connection)
        revision = ", ".join(current_revisions(connection)) or None
        edited = _edited(history, connection)
        found = catalogue.read(connection)
    if len(history.heads) > 1:
        names = [Path(history.script(head).path).name for head in history.heads]
        return SchemaCheck(names, [], edited, revision)
    with scratch() as server:
        with server.database("models") as models, models.begin() as connection:
            Base.metadata.create_all(connection)
            wanted = catalogue.read(connection)
        with server.database("migrations") as migrations:
            reached: dict[str, str] = {}
            if applied:
                migrate(migrations, applied[0].revision)
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
