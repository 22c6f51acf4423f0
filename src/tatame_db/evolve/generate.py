"""Create the next migration from the difference between the migrations and the models."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import unicodedata
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from tatame_db.errors import TatameError, fact
from tatame_db.evolve import catalogue, models
from tatame_db.evolve.difference import Answers, Change, find_change
from tatame_db.evolve.failure import indented, listed, postgres_message
from tatame_db.evolve.history import History, in_folder, is_project
from tatame_db.evolve.migrate import migrate, offline_sql, rollback, upgrades
from tatame_db.evolve.plan import Plan, plan
from tatame_db.schema import moved_tables
from tatame_db.server.scratch import Scratch, scratch

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tatame_db.evolve.catalogue import Catalogue
    from tatame_db.evolve.history import Branch

NO_FILE = "No file was written."
_TEMPLATE = '''"""{sentence}"""

from alembic import op

revision = "{revision}"
down_revision = {down_revision}
{depends_on}

def upgrade() -> None:
    {upgrade}


def downgrade() -> None:
    {downgrade}
'''


@fact
class SentenceInvalid(TatameError):
    """The sentence has no letter or digit to name the file of a migration."""

    sentence: str
    what = "{sentence!r} cannot name a migration: it has no letter or digit"
    means = NO_FILE
    fix = 'describe the change: `tatame-db generate "add belt to graduations"`'


@fact
class FolderReadOnly(TatameError):
    """The folder of the migrations cannot be written to."""

    folder: Path
    reason: str
    what = "a migration cannot be written to {folder}: {reason}"
    means = NO_FILE
    fix = "make it a folder that you can write to"


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
class ToolMissing(TatameError):
    """A program of the development environment is not installed."""

    tool: str
    what = "`{tool}` is not installed"
    fix = "`pip install 'tatame-db[develop]'`, or use the environment that `make` creates"


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
    what = "the change cannot be generated: PostgreSQL rejects\n\n{sql}\n\nwith: {message}"
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


@dataclass(frozen=True)
class Generated:
    """A new migration file, and the SQL that it runs."""

    path: Path
    revision: str
    sql: str
    advice: list[str] = field(default_factory=list[str])
    """The steps that fail on a table with rows, and the safe way, one sentence each."""
    left_alone: list[str] = field(default_factory=list[str])
    """The objects that earlier migrations made and no model describes."""


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
    history = _writable_history()
    _file_name(sentence)
    with scratch() as server, server.database("before") as before:
        migrate(before)
        before.dispose()
        found = _find_both_ways(server, models.build(server), answers or Answers(), history)
        if found is None:
            return None
        change, back = found
        written = _write(history, history.own, sentence, _code(change.statements), _code(_down(change, back)))
        try:
            _prove(before, written.path, change.target)
        except (UpgradeDiffers, DowngradeDiffers):
            raise
        except BaseException:
            # A file that does not run would block every later command.
            written.path.unlink()
            raise
    advice = change.plan.advice + [f"in the rollback, {sentence}" for sentence in back.advice]
    return replace(written, advice=advice, left_alone=change.undeclared)


def generate_empty(sentence: str) -> Generated:
    """Create a migration without steps, to write by hand. Raises `TwoHeads`, `SentenceInvalid`, `PackageInstalled`."""
    history = _writable_history()
    return _write(history, history.own, sentence)


def generate_merge(sentence: str) -> Generated:
    """Create a migration that joins all heads. Raises `NothingToMerge`, `SentenceInvalid`, `PackageInstalled`."""
    history = History()
    forked = next((branch for branch in history.branches if len(branch.heads) > 1), None)
    if forked is None:
        raise NothingToMerge(head=", ".join(history.newest))
    _refuse_installed(forked)
    return _write(history, forked, sentence)


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
        for step in change.plan.steps:
            try:
                catalogue.run_verbatim(connection, step.sql)
            except DBAPIError as error:
                connection.rollback()
                raise ChangeRejected(statement=step.sql, message=postgres_message(connection, error)) from error
        reached = catalogue.read(connection)
        if rest := catalogue.differences(change.target, reached):
            raise UpgradeDiffers(path=None, differences=rest)
        back = plan(connection, reached, change.renamed)
        if back.refused:
            raise ChangeRefused(objects=back.refused)
        connection.commit()
    return change, back


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


def _file_name(sentence: str) -> str:
    plain = unicodedata.normalize("NFKD", sentence).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:60].rstrip("_")
    if not name:
        raise SentenceInvalid(sentence=sentence)
    return name


def _write(history: History, branch: Branch, sentence: str, upgrade: str = "", downgrade: str = "") -> Generated:
    """Write the migration that follows the heads of a branch."""
    revision = _new_revision(history, branch)
    path = branch.folder / f"{revision}_{_file_name(sentence)}.py"
    down_revision = branch.heads[0] if len(branch.heads) == 1 else tuple(branch.heads) or None
    needed = _needed_of_package(history, branch)
    text = _TEMPLATE.format(
        sentence=_docstring(sentence),
        revision=revision,
        down_revision=repr(down_revision),
        depends_on=f"depends_on = {needed!r}\n" if needed else "",
        upgrade=upgrade or "pass",
        downgrade=downgrade or "pass",
    )
    text = _formatted(text, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise FolderReadOnly(folder=path.parent, reason=error.strerror or str(error)) from error
    written = History()
    [step] = upgrades(written, [written.script(revision)])
    return Generated(path, revision, offline_sql(written, step))


def _new_revision(history: History, branch: Branch) -> str:
    # Milliseconds, because two branches of the code may each get a file in one second; the later file must sort last.
    number = datetime.now(UTC).strftime("%Y%m%d%H%M%S%f")[:17]
    scripts = in_folder(history.scripts.walk_revisions(), branch.folder)
    last = max((script.revision.rpartition("_")[2] for script in scripts), default="")
    if last.isdigit() and last >= number:
        number = str(int(last) + 1)
    return branch.app.revision(number) if branch.app else number


def _needed_of_package(history: History, branch: Branch) -> str | None:
    """Return the newest migration of the package, if the app's migrations do not follow it yet."""
    newest = history.branches[0].heads[0]
    if branch.app is None:
        return None
    followed = {script.revision for script in history.scripts.iterate_revisions(tuple(branch.heads) or "base", "base")}
    return None if newest in followed else newest


def _docstring(sentence: str) -> str:
    words = " ".join(sentence.split()).replace("\\", "\\\\").replace('"', '\\"')
    return words[0].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


def _formatted(code: str, path: Path) -> str:
    for arguments in (["check", "--fix", "--select", "F401,I,Q", "--quiet"], ["format", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", str(path), "-"]
        done = subprocess.run(command, check=False, input=code, capture_output=True, text=True)
        if "No module named ruff" in done.stderr:
            raise ToolMissing(tool="ruff")
        code = done.stdout or code
    return code
