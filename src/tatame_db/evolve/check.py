"""Check that migrations, models and database agree: one head, no difference, no edited migration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.database.dialect import SCHEMA
from tatame_db.errors import TatameError, fact
from tatame_db.evolve import catalogue, models
from tatame_db.evolve.difference import LeftAlone
from tatame_db.evolve.history import History, MigrationEdited, current_revisions
from tatame_db.evolve.made import made_by_migrations
from tatame_db.evolve.migrate import migrate
from tatame_db.evolve.migration_errors import on_scratch
from tatame_db.evolve.placement import misplaced
from tatame_db.evolve.worker import refuse_worker
from tatame_db.roles import explained
from tatame_db.roles.missing import refuse_missing
from tatame_db.roles.owners import strangers
from tatame_db.roles.rights import rows_of
from tatame_db.server.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Set

    from sqlalchemy import Connection, Engine

    from tatame_db.evolve.catalogue import Catalogue


@dataclass(frozen=True)
class SchemaCheck:
    """The problems that a check found; an empty list means that the part is in order."""

    heads: list[str]
    """The files of the heads, if there is more than one."""
    migrations: list[str] | None
    """The differences between the models and a database that the migrations build; `None` if not compared."""
    database: list[str] | None
    """The differences between the database and its revision; `None` if not compared."""
    edited: list[str]
    """The applied migrations whose files were edited since."""
    revision: str | None
    """The revision that the database was compared with; `None` before the first migration."""
    pending: list[str]
    """The migrations that are not applied to the database. No problem: it is compared with its own revision."""
    unrecorded: list[str]
    """The applied migrations whose checksum is not on record, so that an edit is not seen. No problem by itself."""
    undeclared: list[str]
    """What migrations made and no model can describe, such as a view. No problem: it is compared with the database."""
    foreign: list[str]
    """What no migration made, such as the table of another program. No problem: no command touches it."""
    placement: list[str]
    """The tables that are not placed on the nodes of Citus as the models state, once others are, and the nodes that
    lack a copy."""
    not_compared: list[str]
    """What exists in the database and in its revision, and is of a kind whose definition is not read."""

    @property
    def failed(self) -> list[str]:
        """The names of the fields that list problems."""
        return [part for part in _PROBLEMS if getattr(self, part)]

    @property
    def without_placement(self) -> SchemaCheck:
        """The check of the schema alone, wherever Citus stores the rows."""
        return replace(self, placement=[])


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
        "undo in the database what was changed by hand or with `tatame-db push`; or write it as a migration with"
        " `tatame-db generate`, with `IF NOT EXISTS` for what is already there",
    ),
    "placement": (
        "the tables on the nodes of Citus are not as the models state",
        "place tables and copies with `tatame-db distribute`; start the nodes that do not answer; drop and create on"
        " the coordinator what one shard lacks",
    ),
    "edited": (
        "migrations were edited after they were applied",
        "restore their files with `git checkout`, and write the change as a new migration",
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
    migrations are reported, because there is no single schema to compare with. Pending migrations are listed, and are
    no problem: `status` tells whether a database is migrated.

        >>> evolve.check(engine).failed
        []

    Raises `MigrationUnreadable`, `ModelsInvalid`, `DatabaseAhead`, `RightsMissing`, `NotCoordinator`.
    """
    history = History()
    with explained(engine.url, "check"), engine.connect() as connection:
        refuse_worker(connection)
        if not connection.scalar(text(f"SELECT has_schema_privilege('{SCHEMA}', 'USAGE')")):
            # It would read definitions with other names, which look like differences.
            refuse_missing(rows_of(connection), "check")
        revision = history.reached(connection)
        current = current_revisions(connection)
        edited, unrecorded = _edited(history, connection), history.unrecorded(connection)
        found = catalogue.read(connection)
        placement = misplaced(connection)
        others = strangers(connection)
        pending = [] if history.forked else [script.revision for script in history.pending(connection)]
    if history.forked:
        return SchemaCheck(history.forked, None, None, edited, revision, pending, unrecorded, [], [], placement, [])
    with scratch() as server, on_scratch():
        wanted = models.build(server)
        with server.database("migrations") as migrations:
            reached: Catalogue = {}
            for head in current:
                migrate(migrations, head)
                reached = _read(migrations)
            migrate(migrations)
            built = _read(migrations)
        extra = LeftAlone(found, reached, lambda: built.keys() | made_by_migrations(server))
    undeclared = LeftAlone(built, wanted, None)
    made = {found.name for found in reached.values()}
    return SchemaCheck(
        heads=[],
        migrations=_differences(wanted, built, undeclared.keys),
        database=[
            *_differences(reached, found, extra.children | extra.foreign),
            *(stranger.sentence for stranger in others if stranger.table in made),
        ],
        edited=edited,
        revision=revision,
        pending=pending,
        unrecorded=unrecorded,
        undeclared=undeclared.names(undeclared.undeclared),
        foreign=extra.names(extra.foreign),
        placement=placement,
        not_compared=sorted(key for key in found.keys() & reached.keys() if not found[key].comparable),
    )


def _differences(expected: Catalogue, found: Catalogue, left_alone: Set[str]) -> list[str]:
    compared = {key: found[key] for key in found.keys() - left_alone}
    return [str(difference) for difference in catalogue.differences(expected, compared)]


def _read(engine: Engine) -> Catalogue:
    with engine.connect() as connection:
        return catalogue.read(connection)


def _edited(history: History, connection: Connection) -> list[str]:
    try:
        history.refuse_edited(connection)
    except MigrationEdited as error:
        return error.files
    return []
