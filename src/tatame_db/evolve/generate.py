"""Create the next migration from the difference between the migrations and the models."""

from __future__ import annotations

import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from tatame_db.errors import TatameError, fact, listed
from tatame_db.evolve import catalogue, models
from tatame_db.evolve.difference import Answers, Change, find_change
from tatame_db.evolve.failure import indented, postgres_message
from tatame_db.evolve.history import History, is_project
from tatame_db.evolve.migrate import migrate, rollback
from tatame_db.evolve.migration_errors import on_scratch
from tatame_db.evolve.migration_file import NO_FILE, STEPS, STEPS_BACK, Generated, file_name, one_at_a_time, write
from tatame_db.evolve.plan import Plan, plan
from tatame_db.schema import moved_tables
from tatame_db.server.scratch import Scratch, scratch

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from tatame_db.evolve.catalogue import Catalogue
    from tatame_db.evolve.history import Branch


@fact
class PackageInstalled(TatameError):
    """The migrations belong to an installed package, where a new one would be lost with the next installation."""

    folder: Path
    what = "the migrations in {folder} belong to an installed package"
    means = NO_FILE
    fix = (
        "for tables of your app, name its models in `TATAME_MODELS` or in `[tool.tatame-db]` of its `pyproject.toml`;"
        " to change a package, work in a checkout of it"
    )


@fact
class PackageTablesChanged(TatameError):
    """The models of the app change tables of the package, whose migrations are not the app's to write."""

    app: str
    tables: list[str]
    what = "the models change tables of the package: {tables}"
    means = f"{NO_FILE} For {{app}}, `generate` writes only changes of its own tables."
    fix = (
        "change these models in the package and generate the migration there; for an index that only {app} needs, write"
        ' the step by hand: `tatame-db generate "…" --empty`'
    )


@fact
class NothingToMerge(TatameError):
    """The migrations have one head."""

    head: str
    what = "nothing to merge: {head} is the only head"
    means = NO_FILE
    fix = "run `tatame-db generate` without `--merge` for an ordinary migration"


_BY_HAND = 'write the steps by hand in a new file: `tatame-db generate "the change" --empty`'


@fact
class ChangeRefused(TatameError):
    """The models differ in objects of which PostgreSQL has no statement, or `generate` none."""

    objects: list[str]
    what = "the change cannot be generated:\n{lines}"
    means = NO_FILE
    fix = _BY_HAND

    @property
    def lines(self) -> str:
        """The objects, one a line."""
        return listed(self.objects)


@fact
class ChangeRejected(TatameError):
    """PostgreSQL rejects a statement of the change, even with empty tables."""

    statement: str
    message: str
    direction: str
    what = "the change cannot be generated: in the {direction}, PostgreSQL rejects\n\n{sql}\n\nwith: {message}"
    means = NO_FILE
    fix = _BY_HAND

    @property
    def sql(self) -> str:
        """The rejected statement, indented."""
        return indented(self.statement)


@fact
class UpgradeDiffers(TatameError):
    """The models have a change that cannot be generated."""

    path: Path | None
    differences: list[catalogue.SchemaDifference]
    what = "the migrations do not build the models yet:\n{lines}"
    means = "{written}"
    fix = "{edit}, then run `tatame-db check`"

    @property
    def lines(self) -> str:
        """The differences, one a line."""
        return listed(self.differences)

    @property
    def written(self) -> str:
        """The file with the generated part, if there is one."""
        return f"The generated part was written to {self.path}." if self.path else NO_FILE

    @property
    def edit(self) -> str:
        """The place for the missing steps."""
        if self.path:
            return f"add the missing steps to {self.path.name} by hand"
        return _BY_HAND


@fact
class DowngradeDiffers(TatameError):
    """The generated downgrade does not restore the schema."""

    path: Path
    differences: list[catalogue.SchemaDifference]
    what = "the downgrade in {path} does not restore the schema:\n{lines}"
    means = "The file was written; no database was changed."
    fix = "edit `downgrade` in the file by hand"

    @property
    def lines(self) -> str:
        """The differences, one a line."""
        return listed(self.differences)


def generate(sentence: str, answers: Answers | None = None) -> Generated | None:
    """Create the next migration and test it on a scratch server; return `None` if migrations and models agree.

    The file is run up, down and up again, and the schema compared with the models; no other database is touched. The
    sentence becomes the docstring and the file name.

        >>> evolve.generate("add a tier to users").path.name
        '20261124090000123_add_a_tier_to_users.py'

    With an app, the migration has the changes of its tables and is written to its folder.

    Raises `TwoHeads`, `MigrationUnreadable`, `ModelsInvalid`, `RenameUndecided`, `AnswerInvalid`, `SentenceInvalid`,
    `FolderReadOnly`, `PackageInstalled`, `PackageTablesChanged`, `ToolMissing`, `ChangeRefused`, `ChangeRejected`,
    `UpgradeDiffers`, `DowngradeDiffers`.
    """
    file_name(sentence)
    with one_at_a_time(), on_scratch(), scratch() as server, server.database("before") as before:
        history = _writable_history()
        migrate(before)
        before.dispose()
        found = _find_both_ways(server, models.build(server), answers or Answers(), history)
        if found is None:
            return None
        change, back = found
        written = write(history, history.own, sentence, _code(change.statements), _code(_down(change, back)))
        try:
            _prove(before, written.path, change.target)
        except (UpgradeDiffers, DowngradeDiffers):
            raise
        except BaseException:
            # A file that does not run would block every later command.
            written.path.unlink()
            raise
    losses = [str(loss) for step in change.plan.steps for loss in step.losses]
    advice = losses + change.plan.advice + [f"in the rollback, {sentence}" for sentence in back.advice]
    return replace(written, advice=advice, left_alone=change.undeclared)


def generate_empty(sentence: str) -> Generated:
    """Create a migration without steps, to write by hand. Raises `TwoHeads`, `SentenceInvalid`, `PackageInstalled`."""
    with one_at_a_time():
        history = _writable_history()
        return write(history, history.own, sentence, STEPS, STEPS_BACK)


def generate_merge(sentence: str) -> Generated:
    """Create a migration that joins all heads, and run all of them on a scratch server.

    Raises `NothingToMerge`, `SentenceInvalid`, `PackageInstalled`, `MigrationFailed` for heads that cannot be joined.
    """
    with one_at_a_time():
        history = History()
        forked = next((branch for branch in history.branches if len(branch.heads) > 1), None)
        if forked is None:
            raise NothingToMerge(head=", ".join(history.newest))
        _refuse_installed(forked)
        written = write(history, forked, sentence)
        try:
            with on_scratch(), scratch() as server, server.database("merged") as merged:
                migrate(merged)
        except BaseException:
            # It would block every later command.
            written.path.unlink()
            raise
        return written


def _writable_history() -> History:
    """Return the migrations if the next one can be written. Raises `PackageInstalled`, `TwoHeads`."""
    history = History()
    _refuse_installed(history.own)
    history.refuse_forked()
    return history


def _refuse_installed(branch: Branch) -> None:
    libraries = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    installed = any(branch.folder.is_relative_to(library) for library in libraries)
    if installed or not (branch.app or is_project()):
        raise PackageInstalled(folder=branch.folder)


def _changed_package_tables(change: Change) -> list[str]:
    """Return the tables of the package that a change alters, renames or drops."""
    return sorted(table.name for table in moved_tables() if table.name in change.tables)


def _find_both_ways(
    server: Scratch, wanted: Catalogue, answers: Answers, history: History
) -> tuple[Change, Plan] | None:
    """Return the change and the plan back, after running the change on a copy; `None` without a change."""
    with server.database("work", template="before") as engine, engine.connect() as connection:
        change = find_change(connection, wanted, answers)
        if history.own.app and (changed := _changed_package_tables(change)):
            raise PackageTablesChanged(app=history.own.app.name, tables=changed)
        if change.is_empty:
            return None
        if change.plan.refused:
            raise ChangeRefused(objects=change.plan.refused)
        _try(connection, change.plan, "upgrade")
        reached = catalogue.read(connection)
        if rest := catalogue.differences(change.target, reached):
            raise UpgradeDiffers(path=None, differences=rest)
        back = plan(connection, reached, change.renamed)
        if back.refused:
            raise ChangeRefused(objects=[f"in the rollback, {sentence}" for sentence in back.refused])
        # A label of an enum can be used once it is committed.
        connection.commit()
        catalogue.pin_search_path(connection)
        _try(connection, back, "rollback")
    return change, back


def _try(connection: Connection, steps: Plan, direction: str) -> None:
    """Run steps on a copy without rows. Raises `ChangeRejected`."""
    for step in steps.steps:
        try:
            catalogue.run_verbatim(connection, step.sql)
        except DBAPIError as error:
            connection.rollback()
            message = postgres_message(connection, error)
            raise ChangeRejected(statement=step.sql, message=message, direction=direction) from error


def _down(change: Change, back: Plan) -> list[str]:
    return [step.sql for step in back.steps] + [renaming.down for renaming in reversed(change.renamings)]


def _code(statements: list[str]) -> str:
    """Write each statement as a call that hands it to PostgreSQL as it is, one literal a line."""
    return "\n    ".join(
        f"op.execute({' '.join(repr(line) for line in statement.splitlines(keepends=True))})"
        for statement in statements
    )


def _prove(before: Engine, path: Path, wanted: Catalogue) -> None:
    def snapshot() -> Catalogue:
        with before.connect() as connection:
            return catalogue.read(connection)

    start = snapshot()
    migrate(before)
    rest = catalogue.differences(wanted, snapshot())
    rollback(before)
    back = catalogue.differences(start, snapshot())
    migrate(before)
    if rest:
        raise UpgradeDiffers(path=path, differences=rest)
    if back:
        raise DowngradeDiffers(path=path, differences=back)
