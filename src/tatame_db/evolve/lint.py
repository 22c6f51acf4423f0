"""Look for steps that would hurt a running app, with squawk."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.evolve import history
from tatame_db.evolve.generate import ToolMissing
from tatame_db.evolve.history import History
from tatame_db.evolve.migrate import offline_sql

OLDEST_SERVER = "14.0"
SWITCHED_OFF = {
    "prefer-bigint-over-int": "the plan's keys are integers, and its tools compare them",
    "prefer-identity": "the plan's keys are serial",
    "prefer-text-field": "the one varchar is in Alembic's own table",
    "prefer-timestamp-tz": "the plan's timestamps have no zone and mean UTC",
    "require-lock-timeout": "`migrate` sets it for every step",
    "require-statement-timeout": "`migrate` sets it for every step",
}
"""The rules that do not fit this project, and why."""


class LintFailed(TatameError):
    """squawk warns about a migration: the answer of `lint`."""

    exit_code = 3

    def __init__(self, files: list[str]) -> None:
        self.files = files
        super().__init__(
            f"squawk warns about {', '.join(files)}",
            means=NOTHING_CHANGED,
            fix="split the step as the warning says; where it is wrong, say why in a comment above the statement: "
            'op.execute("-- squawk-ignore rule-name")',
        )


class NotAMigration(TatameError):
    """A file was named that is none of the migrations."""

    def __init__(self, file: Path) -> None:
        super().__init__(
            f"{file} is not a migration. Checked: {history.MIGRATIONS / 'versions'}",
            means=NOTHING_CHANGED,
            fix="name files of that folder, or none for all that are not shipped yet",
        )


@dataclass(frozen=True)
class Linted:
    """What squawk says about the SQL of one migration; empty where it has nothing to say."""

    file: str
    warnings: str


def lint(files: list[Path] | None = None) -> list[Linted]:
    """Ask squawk about the SQL of these migrations, or of all that no release has.

    Raises `NotAMigration`, `ToolMissing`, `MigrationUnreadable`.
    """
    migrations = History()
    known = {Path(script.path).name: script for script in migrations.scripts.walk_revisions()}
    for file in files or []:
        if file.name not in known:
            raise NotAMigration(file)
    names = sorted(file.name for file in files) if files else sorted(known.keys() - _shipped())
    found: list[Linted] = []
    for name in names:
        script = known[name]
        down = script.down_revision or ()
        start = (down,) if isinstance(down, str) else tuple(down)
        found.append(Linted(name, _squawk(name, offline_sql(migrations, start, [script]))))
    return found


def _shipped() -> set[str]:
    """The migrations that the newest release had: what its tag contains; nothing where there is no tag."""
    folder = history.MIGRATIONS / "versions"
    tag = _git(folder, "describe", "--tags", "--abbrev=0").strip()
    return set(_git(folder, "ls-tree", "--name-only", tag, ".").split()) if tag else set()


def _git(folder: Path, *arguments: str) -> str:
    try:
        return subprocess.run(
            ["git", *arguments], check=False, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ).stdout
    except FileNotFoundError:
        return ""


def _squawk(name: str, sql: str) -> str:
    program = shutil.which("squawk", path=str(Path(sys.executable).parent)) or shutil.which("squawk")
    if program is None:
        raise ToolMissing("squawk")
    rules = [part for rule in SWITCHED_OFF for part in ("--exclude", rule)]
    options = ["--reporter=gcc", f"--pg-version={OLDEST_SERVER}", f"--stdin-filepath={Path(name).with_suffix('.sql')}"]
    done = subprocess.run([program, *options, *rules], check=False, input=sql, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode else ""
