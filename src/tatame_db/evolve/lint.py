"""Check migrations with squawk for steps that would block or break a running app."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tatame_db.database.dialect import OLDEST_SERVER
from tatame_db.errors import TatameError, fact
from tatame_db.evolve.history import History, in_folder
from tatame_db.evolve.migrate import offline_sql, upgrades
from tatame_db.evolve.migration_file import ToolMissing

SWITCHED_OFF = {
    "prefer-bigint-over-int": "the keys are integers, as in the database of Supabase",
    "prefer-identity": "the keys are serial, as in the database of Supabase",
    "prefer-text-field": "the only varchar is in Alembic's own table",
    "prefer-timestamp-tz": "timestamps have no time zone and are UTC",
    "require-lock-timeout": "`migrate` sets it for every step",
    "require-statement-timeout": "`migrate` sets it for every step",
}
"""The rules that do not fit this project, and the reasons."""


@fact
class LintFailed(TatameError):
    """squawk warns about a migration: the negative answer of `lint`."""

    exit_code = 3
    files: list[str]
    what = "squawk warns about {files}"
    fix = (
        "change the step as the page of the rule explains, https://squawkhq.com/docs/rules; to overrule a warning,"
        ' begin the statement itself with a comment: op.execute("-- squawk-ignore rule-name\\n" "ALTER TABLE …")'
    )


@fact
class NotAMigration(TatameError):
    """A file is not one of the migrations."""

    file: Path
    folder: Path
    what = "{file} is not a migration in {folder}"
    fix = "name files of that folder, or no file to check all unreleased migrations"


@dataclass(frozen=True)
class Linted:
    """squawk's warnings about the SQL of one migration, one a line; empty if there are none."""

    file: str
    warnings: str


def lint(files: list[Path] | None = None) -> list[Linted]:
    """Check the SQL of these migrations, by default of all unreleased ones; needs no database.

    A migration is released if the newest tag of the git repository contains it. With an app, its migrations are checked
    and not those of the package.

        >>> [linted.file for linted in evolve.lint() if linted.warnings]
        []

    Raises `NotAMigration`, `ToolMissing`, `MigrationUnreadable`, `NeedsDatabase`.
    """
    migrations = History()
    folder = migrations.own.folder
    known = {Path(script.path).name: script for script in in_folder(migrations.scripts.walk_revisions(), folder)}
    for file in files or []:
        if file.name not in known:
            raise NotAMigration(file=file, folder=folder)
    names = sorted(file.name for file in files) if files else sorted(known.keys() - _released(folder))
    found: list[Linted] = []
    for name in names:
        script = known[name]
        [step] = upgrades(migrations, [script])
        found.append(Linted(name, _squawk(name, offline_sql(migrations, step))))
    return found


def has_released() -> bool:
    """Return whether the repository of the migrations has a tag."""
    return bool(_newest_tag(History().own.folder))


def _newest_tag(folder: Path) -> str:
    return _git(folder, "describe", "--tags", "--abbrev=0").strip()


def _released(folder: Path) -> set[str]:
    """Return the migrations in the newest tag of the repository that a folder is in; none if there is no tag."""
    tag = _newest_tag(folder)
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
        raise ToolMissing(tool="squawk")
    rules = [part for rule in SWITCHED_OFF for part in ("--exclude", rule)]
    options = [
        "--reporter=gcc",
        f"--pg-version={OLDEST_SERVER}.0",
        f"--stdin-filepath={Path(name).with_suffix('.sql')}",
    ]
    done = subprocess.run([program, *options, *rules], check=False, input=sql, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode else ""
