"""The file of a new migration: its name, its revision and its text."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import unicodedata
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tatame_db.errors import TatameError, fact
from tatame_db.evolve.history import History, in_folder
from tatame_db.evolve.migrate import offline_sql, upgrades

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from tatame_db.evolve.history import Branch

NO_FILE = "No file was written."
STEPS = 'op.execute("SELECT 1")  # the change, one statement a call'
STEPS_BACK = 'op.execute("SELECT 1")  # the way back: what is left out here stays after a rollback'
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
class ToolMissing(TatameError):
    """A program of the development environment is not installed."""

    tool: str
    what = "`{tool}` is not installed"
    fix = "`pip install 'tatame-db[develop]'`, or use the environment that `make` creates"


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


@contextlib.contextmanager
def one_at_a_time() -> Generator[None]:
    """Let other processes wait that write a migration to the same folder: both would follow the same one."""
    folder = History().own.folder
    # The folder of a new app does not exist yet.
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    directory = os.open(existing, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def file_name(sentence: str) -> str:
    """Return the name that a sentence gives to a file. Raises `SentenceInvalid`."""
    plain = unicodedata.normalize("NFKD", sentence).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9]+", "_", plain).strip("_")[:60].rstrip("_")
    if not name:
        raise SentenceInvalid(sentence=sentence)
    return name


def write(history: History, branch: Branch, sentence: str, upgrade: str = "", downgrade: str = "") -> Generated:
    """Write the migration that follows the heads of a branch."""
    revision = _new_revision(history, branch)
    path = branch.folder / f"{revision}_{file_name(sentence)}.py"
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
