"""The migrations in the folder, those applied to a database, and whether an applied file was edited."""

from __future__ import annotations

import hashlib
import re
import tomllib
import traceback
import warnings
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, cast

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError, RevisionError
from alembic.util import CommandError, to_tuple
from sqlalchemy import text

from tatame_db.database.dialect import VERSION_SCHEMA
from tatame_db.errors import NOTHING_CHANGED, TatameError, fact
from tatame_db.evolve.app import App, app_of, loaded_app
from tatame_db.evolve.user_code import problem_of
from tatame_db.roles.script import shared_like_public

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from alembic.script import Script
    from sqlalchemy import Connection

MIGRATIONS = Path(__file__).parents[1] / "migrations"


@fact
class RevisionUnknown(TatameError):
    """No migration has this revision."""

    revision: str
    known: list[str]
    what = "there is no revision {revision!r}; the revisions are {known}"
    fix = "`tatame-db status` shows the revision of the database; `head` is the newest"


@fact
class DatabaseAhead(TatameError):
    """The database is at a revision that does not exist in the migrations at hand."""

    revision: str
    what = "the database is at revision {revision}, which does not exist in {place}"
    fix = "{advice}"
    is_checkout: bool = False

    @property
    def place(self) -> str:
        """The migrations at hand."""
        return "this checkout" if self.is_checkout else "this version of the package"

    @property
    def advice(self) -> str:
        """The way to migrations that have the revision."""
        if self.is_checkout:
            return (
                f"`git log --all -- '*{self.revision}*'` finds the commits with its file: check out their branch, or"
                " restore the file; there, `tatame-db rollback` undoes it"
            )
        return "install the version of the package that migrated the database, or a newer one"


@fact
class DatabaseDiverged(DatabaseAhead):
    """The database was migrated on another branch of the code: each has migrations that the other lacks."""

    missing: list[str]
    what = (
        "the database was migrated on another branch of the code: it has {revision}, which does not exist here, and"
        " lacks {missing}"
    )
    fix = (
        "merge the branch that has {revision}, and join both with `tatame-db generate --merge`; or check it out, and"
        " undo {revision} there with `tatame-db rollback`"
    )


@fact
class AppNotLoaded(DatabaseAhead):
    """The database has migrations of an app, and the command knows only those of the package."""

    app: str
    what = "the database has migrations of {app}, such as {revision}, and this command does not know {app}"
    fix = (
        "run the command in the folder of {app}, whose `pyproject.toml` names its models in `[tool.tatame-db]`, or set"
        " `TATAME_MODELS`; from Python, call `evolve.load_app` first"
    )


@fact
class TwoHeads(TatameError):
    """Two branches each added a migration after the same one."""

    files: list[str]
    what = "the migrations have {heads} heads: {files}"
    fix = 'read the files, then join them with `tatame-db generate --merge "merge the branches"`'

    @property
    def heads(self) -> int:
        """The number of heads."""
        return len(self.files)


@fact
class MigrationUnreadable(TatameError):
    """The migration files do not form a history, or one of them cannot be loaded."""

    problem: str
    what = "the migrations cannot be loaded: {problem}"
    fix = "fix the file or restore it with `git checkout`, then run the command again"


@fact
class MigrationEdited(TatameError):
    """A migration file changed after it was applied to this database."""

    files: list[str]
    what = "edited after it was applied to this database: {files}"
    means = f"{NOTHING_CHANGED} The database has the schema that the file described before the edit."
    fix = (
        "restore the file with `git checkout`, or undo the edit if it was never committed; then write the change as a"
        ' new migration: `tatame-db generate "the change"`. If no other database has the migration: `tatame-db'
        " rollback`, edit, `tatame-db migrate`"
    )


@dataclass(frozen=True)
class Branch:
    """The migrations of one folder: those of the package, or those of the app."""

    folder: Path
    heads: list[str]
    """Its newest migrations; none if the folder has none yet."""
    app: App | None = None


def is_project() -> bool:
    """Return whether the package runs from a checkout of its project, and not from an installed copy."""
    try:
        project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    except (OSError, ValueError):
        return False
    return bool(project.get("project", {}).get("name") == "tatame-db")


def configuration() -> Config:
    """Return the settings with which Alembic finds the migrations."""
    app = loaded_app()
    folders = [MIGRATIONS / "versions", *([app.versions] if app and app.versions.is_dir() else [])]
    config = Config()
    config.attributes["version_schema"] = VERSION_SCHEMA
    config.attributes["shared"] = shared_like_public(VERSION_SCHEMA)
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", "\n".join(map(str, folders)).replace("%", "%%"))
    return config


class History:
    """The migrations of the package and of the app, read once. Raises `MigrationUnreadable`."""

    def __init__(self) -> None:
        self.scripts = ScriptDirectory.from_config(configuration())
        app = loaded_app()
        folders = [(MIGRATIONS / "versions", None), *([(app.versions, app)] if app else [])]
        try:
            with warnings.catch_warnings():
                # Of two files with one revision, and of a revision that no file has, Alembic only warns.
                warnings.filterwarnings("error", message="Revision .* is (present more than once|not present)")
                scripts = list(self.scripts.walk_revisions())
        except SyntaxError as error:
            file = Path(error.filename or "?").name
            raise MigrationUnreadable(problem=f"{file}, line {error.lineno}: {error.msg}") from error
        except (CommandError, RevisionError, UserWarning) as error:
            gone = re.match(r"Revision (\S+) referenced from .*-> (\S+?),? .*is not present", str(error))
            problem = f"{gone[2]} continues from {gone[1]}, which no file has" if gone else str(error)
            raise MigrationUnreadable(problem=problem) from error
        except (Exception, SystemExit) as error:
            # Alembic imports each file to read its revision.
            frames = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
            files = [file.name for file in frames if file.parent in {folder for folder, _ in folders}]
            if not files and not isinstance(error, AttributeError | ValueError):
                raise
            # Alembic itself fails for a file without the variables of a migration.
            problem = f"{files[0]} raises {problem_of(error)}" if files else str(error)
            raise MigrationUnreadable(problem=problem) from error
        if incomplete := [Path(script.path).name for script in scripts if not _runs(script)]:
            raise MigrationUnreadable(problem=f"no `upgrade` or no `downgrade` in {', '.join(incomplete)}")
        self.branches = [Branch(folder, _heads(in_folder(scripts, folder)), app) for folder, app in folders]

    @property
    def own(self) -> Branch:
        """The branch that `generate` writes: the app's, or without one the package's."""
        return self.branches[-1]

    @property
    def forked(self) -> list[str]:
        """The files of the heads of a branch that has more than one."""
        forked = [branch for branch in self.branches if len(branch.heads) > 1][:1]
        return [Path(self.script(head).path).name for branch in forked for head in branch.heads]

    def refuse_forked(self) -> None:
        """Raise `TwoHeads` if a branch has more than one head."""
        if files := self.forked:
            raise TwoHeads(files=files)

    @property
    def newest(self) -> list[str]:
        """The newest revision of each branch, that of the package first. Raises `TwoHeads`."""
        self.refuse_forked()
        return [head for branch in self.branches for head in branch.heads]

    def script(self, revision: str) -> Script:
        """Return one migration. Raises `RevisionUnknown`."""
        try:
            found = self.scripts.revision_map.get_revision(revision)
        except ResolutionError:
            found = None
        if found is None:
            known = [script.revision for script in self.scripts.walk_revisions()]
            raise RevisionUnknown(revision=revision, known=known)
        return cast("Script", found)

    def up_to(self, revision: str) -> list[Script]:
        """Return the migrations that lead to `revision`, oldest first. Raises `RevisionUnknown`, `TwoHeads`."""
        if revision in {"head", "heads"}:
            self.refuse_forked()
            target = "heads"
        else:
            target = self.script(revision).revision
        return list(self.scripts.iterate_revisions(target, "base"))[::-1]

    def applied(self, connection: Connection) -> list[Script]:
        """Return the migrations applied to a database, the last one first.

        Raises `DatabaseAhead`, `DatabaseDiverged`, `AppNotLoaded`.
        """
        found: dict[str, Script] = {}
        for revision in current_revisions(connection):
            try:
                found |= {script.revision: script for script in self.scripts.iterate_revisions(revision, "base")}
            except ResolutionError as error:
                raise self._unknown(connection, revision) from error
        return self._last_applied_first(found, list(_recorded(connection)))

    def _last_applied_first(self, applied: dict[str, Script], recorded: list[str]) -> list[Script]:
        """Sort migrations in the order in which they can be undone; between branches, by when they were applied."""
        oldest_first = [script.revision for script in self.scripts.walk_revisions()][::-1]
        sorter = TopologicalSorter[str](dict.fromkeys(applied, ()))
        for revision, script in applied.items():
            for before in set(steps_before(script)) & applied.keys():
                sorter.add(before, revision)
        sorter.prepare()
        ready: list[str] = []
        order: list[Script] = []
        while sorter.is_active():
            ready += sorter.get_ready()
            ready.sort(key=lambda name: (recorded.index(name) if name in recorded else -1, oldest_first.index(name)))
            order.append(applied[ready.pop()])
            sorter.done(order[-1].revision)
        return order

    def pending(self, connection: Connection, revision: str = "head") -> list[Script]:
        """Return the migrations up to `revision` that are not applied, of all branches, oldest first.

        Raises `RevisionUnknown`, `TwoHeads`, `DatabaseAhead`.
        """
        applied = {script.revision for script in self.applied(connection)}
        return [script for script in self.up_to(revision) if script.revision not in applied]

    def reached(self, connection: Connection) -> str | None:
        """Return the revision of a database, one for each branch; `None` before the first migration."""
        applied = self.applied(connection)
        return ", ".join(head for branch in self.branches for head in _heads(in_folder(applied, branch.folder))) or None

    def _unknown(self, connection: Connection, revision: str) -> DatabaseAhead:
        """Say why a revision of a database is not among the migrations."""
        app = app_of(revision)
        if app and not (self.own.app and self.own.app.owns(revision)):
            return AppNotLoaded(revision=revision, app=app)
        recorded = _recorded(connection)
        # A branch of the history that is behind says nothing of the other one.
        folder = (self.own if app else self.branches[0]).folder
        scripts = in_folder(self.scripts.walk_revisions(), folder)
        missing = [script.revision for script in scripts if script.revision not in recorded]
        if recorded and missing:
            return DatabaseDiverged(revision=revision, missing=missing[::-1])
        return DatabaseAhead(revision=revision, is_checkout=app is not None or is_project())

    def unrecorded(self, connection: Connection) -> list[str]:
        """Return the applied migrations of whose file no checksum is on record."""
        recorded = _recorded(connection)
        return [script.revision for script in self.applied(connection) if script.revision not in recorded]

    def refuse_edited(self, connection: Connection) -> None:
        """Raise `MigrationEdited` if an applied file has another checksum than when it was applied."""
        recorded = _recorded(connection)
        edited = [
            Path(script.path).name
            for script in self.applied(connection)
            if recorded.get(script.revision, checksum(script)) != checksum(script)
        ]
        if edited:
            raise MigrationEdited(files=edited)


def in_folder(scripts: Iterable[Script], folder: Path) -> list[Script]:
    """Return the migrations whose files are in a folder."""
    return [script for script in scripts if Path(script.path).resolve().parent == folder.resolve()]


def steps_before(script: Script) -> tuple[str, ...]:
    """Return the revisions of a database to which a migration is the next step."""
    return tuple(to_tuple(script.down_revision, default=())) + tuple(to_tuple(script.dependencies, default=()))


def _heads(scripts: Collection[Script]) -> list[str]:
    """Return the revisions that no other of these migrations follows."""
    followed = {down for script in scripts for down in to_tuple(script.down_revision, default=())}
    return sorted(script.revision for script in scripts if script.revision not in followed)


def _recorded(connection: Connection) -> dict[str, str]:
    """Return the checksum of each applied migration as it was then, in the order in which they were applied."""
    query = text(f"SELECT revision, checksum FROM {VERSION_SCHEMA}.applied ORDER BY applied_at")
    if connection.scalar(text(f"SELECT to_regclass('{VERSION_SCHEMA}.applied')")) is None:
        return {}
    return {row.revision: row.checksum for row in connection.execute(query)}


def _runs(script: Script) -> bool:
    return all(callable(getattr(script.module, way, None)) for way in ("upgrade", "downgrade"))


def current_revisions(connection: Connection) -> tuple[str, ...]:
    """Return the revision of a database: none, one, or one for each branch that is not merged yet."""
    options = {"version_table_schema": VERSION_SCHEMA}
    return MigrationContext.configure(connection, opts=options).get_current_heads()


def checksum(script: Script) -> str:
    """Return the SHA-256 of a migration file, the same with the line ends of Windows."""
    return hashlib.sha256(Path(script.path).read_bytes().replace(b"\r\n", b"\n")).hexdigest()
