"""Write the next migration from the difference between the migrations and the models."""

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

from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.evolve import catalogue, history
from tatame_db.evolve.difference import Answers, Change, find_change
from tatame_db.evolve.history import History
from tatame_db.evolve.migrate import migrate, offline_sql, rollback
from tatame_db.schema import Base
from tatame_db.server.scratch import Scratch, scratch

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Engine

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


class SentenceUseless(TatameError):
    """A migration needs a name that says what it does."""

    def __init__(self, sentence: str) -> None:
        super().__init__(
            f"{sentence!r} makes no name for a migration",
            means="No file was written.",
            fix='say what changes: `tatame-db generate "add belt to graduations"`',
        )


class FolderReadOnly(TatameError):
    """Migrations are written where the models are, and not into an installed package."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(
            f"a migration cannot be written to {folder}: {reason}",
            means="No file was written.",
            fix="work in a checkout of tatame-db, where the models are edited too",
        )


class ToolMissing(TatameError):
    """A program of the development environment is not there."""

    def __init__(self, tool: str) -> None:
        super().__init__(
            f"`{tool}` is not installed",
            means=NOTHING_CHANGED,
            fix="`pip install 'tatame-db[develop]'`, or work in the environment that `make` creates",
        )


class NothingToMerge(TatameError):
    """There is one head only."""

    def __init__(self, head: str) -> None:
        super().__init__(
            f"there is nothing to merge: the one head is {head}", means="No file was written.", fix="`tatame-db status`"
        )


class NotAllGenerated(TatameError):
    """The models say something that cannot be generated, and must be written by hand."""

    def __init__(self, path: Path | None, differences: list[catalogue.SchemaDifference]) -> None:
        self.path, self.differences = path, differences
        listed = "\n".join(f"  {difference}" for difference in differences)
        super().__init__(
            f"the migrations do not yet build what the models say:\n{listed}",
            means=f"The rest was written to {path}." if path else "No file was written.",
            fix=(f"add it to {path.name} by hand" if path else 'write it by hand: `tatame-db generate "…" --empty`')
            + ", then `tatame-db check`",
        )


class DowngradeDiffers(TatameError):
    """The generated way back does not lead back."""

    def __init__(self, path: Path, differences: list[catalogue.SchemaDifference]) -> None:
        self.path, self.differences = path, differences
        listed = "\n".join(f"  {difference}" for difference in differences)
        super().__init__(
            f"the downgrade in {path} does not lead back:\n{listed}",
            means="The file was written; no database was changed.",
            fix="mend `downgrade` in the file by hand",
        )


@dataclass(frozen=True)
class Generated:
    """A new migration file, and the SQL that it will run."""

    path: Path
    revision: str
    sql: str


def generate(sentence: str, answers: Answers | None = None) -> Generated | None:
    """Write the next migration, prove it on a scratch database up, down and up, and return it.

    Returns `None` where migrations and models agree. Touches no database but its own. Raises `TwoHeads`,
    `MigrationUnreadable`, `RenameUndecided`, `AnswerUseless`, `SentenceUseless`, `NotAllGenerated`,
    `DowngradeDiffers`, and what `migrate` raises where the new step fails.
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
                raise NotAllGenerated(None, rest)
            return None
        written = _write(name, sentence, head, upgrade, downgrade)
        try:
            _prove(before, written.path, wanted)
        except (NotAllGenerated, DowngradeDiffers):
            raise
        except BaseException:
            # A step that does not even run is not left in the way of the next try.
            written.path.unlink()
            raise
    return written


def generate_empty(sentence: str) -> Generated:
    """Write a migration without steps, to be filled by hand. Raises `TwoHeads`, `SentenceUseless`."""
    return _write(_file_name(sentence), sentence, History().head, "", "")


def generate_merge(sentence: str) -> Generated:
    """Write a migration that joins all heads. Raises `NothingToMerge`, `SentenceUseless`."""
    heads = History().heads
    if len(heads) == 1:
        raise NothingToMerge(heads[0])
    return _write(_file_name(sentence), sentence, tuple(heads), "", "")


def _compare(server: Scratch, answers: Answers) -> tuple[Change, str, str]:
    """The change, and the code of both ways, found on a copy that takes the renames."""
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
        raise NotAllGenerated(path, rest)
    if back:
        raise DowngradeDiffers(path, back)


def _file_name(sentence: str) -> str:
    plain = unicodedata.normalize("NFKD", sentence).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:60].rstrip("_")
    if not name:
        raise SentenceUseless(sentence)
    return name


def _write(name: str, sentence: str, down_revision: str | tuple[str, ...], upgrade: str, downgrade: str) -> Generated:
    # A second generate within the same second still gets a number of its own, and the later one.
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
        raise FolderReadOnly(path.parent, error.strerror or str(error)) from error
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
            raise ToolMissing("ruff")
        code = done.stdout or code
    return code
