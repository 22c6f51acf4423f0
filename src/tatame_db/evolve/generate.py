"""Create the next migration from the difference between the migrations and the models."""

from __future__ import annotations

import re
import subprocess
import sys
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from alembic.autogenerate import render_python_code
from alembic.migration import MigrationContext

from tatame_db.errors import TatameError, fact
from tatame_db.evolve import catalogue, history
from tatame_db.evolve.difference import Answers, Change, find_change
from tatame_db.evolve.history import History
from tatame_db.evolve.migrate import migrate, offline_sql, rollback
from tatame_db.schema import Base
from tatame_db.server.scratch import Scratch, scratch

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

NO_FILE = "No file was written."
_TEMPLATE = '''"""{sentence}"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "{revision}"
down_revision = {down_revision}


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
    """The folder of the migrations cannot be written to, as in an installed package."""

    folder: Path
    reason: str
    what = "a migration cannot be written to {folder}: {reason}"
    means = NO_FILE
    fix = "run the command in a checkout of tatame-db, with the models that you edit"


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

    Raises `TwoHeads`, `MigrationUnreadable`, `RenameUndecided`, `AnswerInvalid`, `SentenceInvalid`, `FolderReadOnly`,
    `ToolMissing`, `UpgradeDiffers`, `DowngradeDiffers`, and `MigrationFailed` if PostgreSQL rejects the new step.
    """
    head = History().head
    name = _file_name(sentence)
    with scratch() as server, server.database("before") as before:
        migrate(before)
        before.dispose()
        with server.database("models") as models, models.connect() as connection:
            Base.metadata.create_all(connection)
            wanted = catalogue.read(connection)
        change, upgrade, downgrade = _compare(server, answers or Answers())
        if change.is_empty:
            with before.connect() as connection:
                rest = catalogue.differences(wanted, catalogue.read(connection))
            if rest:
                raise UpgradeDiffers(path=None, differences=rest)
            return None
        written = _write(name, sentence, head, upgrade, downgrade)
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
    """Create a migration without steps, to write by hand. Raises `TwoHeads`, `SentenceInvalid`."""
    return _write(_file_name(sentence), sentence, History().head, "", "")


def generate_merge(sentence: str) -> Generated:
    """Create a migration that joins all heads. Raises `NothingToMerge`, `SentenceInvalid`."""
    heads = History().heads
    if len(heads) == 1:
        raise NothingToMerge(head=heads[0])
    return _write(_file_name(sentence), sentence, tuple(heads), "", "")


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


def _write(name: str, sentence: str, down_revision: str | tuple[str, ...], upgrade: str, downgrade: str) -> Generated:
    # Two files within one second must not share a number, and the later one must sort last.
    last = max(script.revision for script in History().scripts.walk_revisions())
    revision = str(max(int(datetime.now(UTC).strftime("%Y%m%d%H%M%S")), int(last) + 1 if last.isdigit() else 0))
    path = history.MIGRATIONS / "versions" / f"{revision}_{name}.py"
    text = _TEMPLATE.format(
        sentence=_docstring(sentence),
        revision=revision,
        down_revision=repr(down_revision),
        upgrade=upgrade or "pass",
        downgrade=downgrade or "pass",
    )
    text = _formatted(text, path)
    try:
        path.write_text(text)
    except OSError as error:
        raise FolderReadOnly(folder=path.parent, reason=error.strerror or str(error)) from error
    written = History()
    start = (down_revision,) if isinstance(down_revision, str) else down_revision
    return Generated(path, revision, offline_sql(written, start, [written.script(revision)]))


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
