"""Create the next migration from the difference between the migrations and the models."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from alembic.autogenerate import render_python_code
from alembic.migration import MigrationContext

from tatame_db.errors import TatameError, fact
from tatame_db.evolve import catalogue
from tatame_db.evolve.difference import Answers, Change, find_change, flattened
from tatame_db.evolve.history import History, in_folder, is_project
from tatame_db.evolve.migrate import migrate, offline_sql, rollback, upgrades
from tatame_db.schema import Base, moved_tables
from tatame_db.server.scratch import Scratch, scratch

if TYPE_CHECKING:
    from alembic.operations import ops
    from sqlalchemy import Engine

    from tatame_db.evolve.history import Branch

NO_FILE = "No file was written."
_TEMPLATE = '''"""{sentence}"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

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
        return _lines(self.differences)

    @property
    def written(self) -> str:
        """The file with the generated part, if there is one."""
        return f"The generated part was written to {self.path}." if self.path else NO_FILE

    @property
    def edit(self) -> str:
        """The place for the missing steps."""
        if self.path:
            return f"add the missing steps to {self.path.name} by hand"
        return 'write the steps by hand in a new file: `tatame-db generate "the change" --empty`'


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
        return _lines(self.differences)


def _lines(differences: list[catalogue.SchemaDifference]) -> str:
    return "\n".join(f"  {difference}" for difference in differences)


@dataclass(frozen=True)
class Generated:
    """A new migration file, and the SQL that it runs."""

    path: Path
    revision: str
    sql: str


def generate(sentence: str, answers: Answers | None = None) -> Generated | None:
    """Create the next migration and test it on a scratch server; return `None` if migrations and models agree.

    The file is run up, down and up again, and the schema compared with the models; no other database is touched. The
    sentence becomes the docstring and the file name.

        >>> evolve.generate("add a tier to users").path.name
        '20261124090000_add_a_tier_to_users.py'

    With an app, the migration has the changes of its tables and is written to its folder.

    Raises `TwoHeads`, `MigrationUnreadable`, `RenameUndecided`, `AnswerInvalid`, `SentenceInvalid`, `FolderReadOnly`,
    `PackageInstalled`, `PackageTablesChanged`, `ToolMissing`, `UpgradeDiffers`, `DowngradeDiffers`, and
    `MigrationFailed` if PostgreSQL rejects the new step.
    """
    history = _writable_history()
    _file_name(sentence)
    with scratch() as server, server.database("before") as before:
        migrate(before)
        before.dispose()
        with server.database("models") as models, models.connect() as connection:
            Base.metadata.create_all(connection)
            wanted = catalogue.read(connection)
        change, upgrade, downgrade = _compare(server, answers or Answers())
        if history.own.app and (changed := _changed_package_tables(change)):
            raise PackageTablesChanged(app=history.own.app.name, tables=changed)
        if change.is_empty:
            with before.connect() as connection:
                rest = catalogue.differences(wanted, catalogue.read(connection))
            if rest:
                raise UpgradeDiffers(path=None, differences=rest)
            return None
        written = _write(history, history.own, sentence, upgrade, downgrade)
        try:
            _prove(before, written.path, wanted)
        except (UpgradeDiffers, DowngradeDiffers):
            raise
        except BaseException:
            # A file that does not run would block every later command.
            written.path.unlink()
            raise
    return written


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
    altered = {_table_of(operation) for operation in flattened(change.upgrade)}
    altered |= {table for renaming in change.renamings for table in renaming.tables}
    return sorted(table.name for table in moved_tables() if table.name in altered)


def _table_of(operation: ops.MigrateOperation) -> str | None:
    return getattr(operation, "table_name", getattr(operation, "source_table", None))


def _compare(server: Scratch, answers: Answers) -> tuple[Change, str, str]:
    """Return the change and the code of `upgrade` and `downgrade`, from a copy that the renames may change."""
    with server.database("work", template="before") as engine, engine.connect() as connection:
        change = find_change(connection, answers)
        context = MigrationContext.configure(connection, opts={"target_metadata": Base.metadata})
        ways = [
            _code(render_python_code(operations, migration_context=context))
            for operations in (change.upgrade, change.upgrade.reverse())
        ]
        connection.commit()
    upgrade = [f"op.execute({renaming.up!r})" for renaming in change.renamings] + ways[:1]
    downgrade = ways[1:] + [f"op.execute({renaming.down!r})" for renaming in reversed(change.renamings)]
    return change, "\n    ".join(filter(None, upgrade)), "\n    ".join(filter(None, downgrade))


def _code(rendered: str) -> str:
    lines = [line for line in rendered.splitlines() if "### " not in line]
    return "\n".join(lines).strip().removeprefix("pass")


def _prove(before: Engine, path: Path, wanted: dict[str, str]) -> None:
    def snapshot() -> dict[str, str]:
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
    # Two files within one second must not share a number, and the later one must sort last.
    taken = [
        re.sub(r"\D", "", script.revision) for script in in_folder(history.scripts.walk_revisions(), branch.folder)
    ]
    last = max((int(number) for number in taken if len(number) == 14), default=0)
    number = str(max(int(datetime.now(UTC).strftime("%Y%m%d%H%M%S")), last + 1))
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
