"""The migrations in the folder, those applied to a database, and whether an applied file was edited."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, cast

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import text

from tatame_db.errors import NOTHING_CHANGED, TatameError, fact

if TYPE_CHECKING:
    from alembic.script import Script
    from sqlalchemy import Connection

MIGRATIONS = Path(__file__).parents[1] / "migrations"
# Not `public`: tools that compare `public` with their own schema file must find the tables of the app alone.
VERSION_SCHEMA = "tatame_migrations"


@fact
class RevisionUnknown(TatameError):
    """No migration has this revision."""

    revision: str
    known: list[str]
    what = "there is no revision {revision!r}; the revisions are {known}"
    fix = "`tatame-db status` shows the revision of the database; `head` is the newest"


@fact
class DatabaseAhead(TatameError):
    """The database is at a revision that this version of the package does not have."""

    revision: str
    what = "the database is at revision {revision}, which this version of the package does not have"
    fix = "install the version of the package that migrated the database, or a newer one"


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
    """A migration file is not valid Python, or not a migration."""

    problem: str
    what = "a migration cannot be loaded: {problem}"
    fix = "fix the file or remove it from the folder, then run the command again"


@fact
class MigrationEdited(TatameError):
    """A migration file changed after it was applied to this database."""

    files: list[str]
    what = "edited after it was applied to this database: {files}"
    means = f"{NOTHING_CHANGED} The database has the schema that the file described before the edit."
    fix = (
        "restore the file with `git checkout`, and write the change as a new migration: "
        '`tatame-db generate "the change"`'
    )


def configuration() -> Config:
    """Return the settings with which Alembic finds the migrations."""
    config = Config()
    config.attributes["version_schema"] = VERSION_SCHEMA
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


class History:
    """The migrations in the folder, read once. Raises `MigrationUnreadable`."""

    def __init__(self) -> None:
        self.scripts = ScriptDirectory.from_config(configuration())
        try:
            self.heads = sorted(self.scripts.get_heads())
        except SyntaxError as error:
            file = Path(error.filename or "?").name
            raise MigrationUnreadable(problem=f"{file}, line {error.lineno}: {error.msg}") from error
        except (CommandError, ImportError, NameError, AttributeError) as error:
            # Alembic imports each file to read its revision.
            raise MigrationUnreadable(problem=str(error)) from error

    @property
    def head(self) -> str:
        """The newest revision. Raises `TwoHeads`."""
        if len(self.heads) > 1:
            raise TwoHeads(files=[Path(self.script(head).path).name for head in self.heads])
        return self.heads[0]

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
        target = self.head if revision in {"head", "heads"} else self.script(revision).revision
        return list(self.scripts.iterate_revisions(target, "base"))[::-1]

    def applied(self, connection: Connection) -> list[Script]:
        """Return the migrations applied to a database, newest first. Raises `DatabaseAhead`."""
        found: dict[str, Script] = {}
        for revision in current_revisions(connection):
            try:
                found |= {script.revision: script for script in self.scripts.iterate_revisions(revision, "base")}
            except ResolutionError as error:
                raise DatabaseAhead(revision=revision) from error
        newest_first = [script.revision for script in self.scripts.walk_revisions()]
        return sorted(found.values(), key=lambda script: newest_first.index(script.revision))

    def pending(self, connection: Connection, revision: str = "head") -> list[Script]:
        """Return the migrations up to `revision` that are not applied, of all branches, oldest first.

        Raises `RevisionUnknown`, `TwoHeads`, `DatabaseAhead`.
        """
        applied = {script.revision for script in self.applied(connection)}
        return [script for script in self.up_to(revision) if script.revision not in applied]

    def refuse_edited(self, connection: Connection) -> None:
        """Raise `MigrationEdited` if an applied file has another checksum than when it was applied."""
        if connection.scalar(text(f"SELECT to_regclass('{VERSION_SCHEMA}.applied')")) is None:
            return
        applied = connection.execute(text(f"SELECT revision, checksum FROM {VERSION_SCHEMA}.applied"))
        recorded = {row.revision: row.checksum for row in applied}
        edited = [
            Path(script.path).name
            for script in self.applied(connection)
            if recorded.get(script.revision, checksum(script)) != checksum(script)
        ]
        if edited:
            raise MigrationEdited(files=edited)


def current_revisions(connection: Connection) -> tuple[str, ...]:
    """Return the revision of a database: none, one, or one for each branch that is not merged yet."""
    options = {"version_table_schema": VERSION_SCHEMA}
    return MigrationContext.configure(connection, opts=options).get_current_heads()


def checksum(script: Script) -> str:
    """Return the SHA-256 of a migration file, the same with the line ends of Windows."""
    return hashlib.sha256(Path(script.path).read_bytes().replace(b"\r\n", b"\n")).hexdigest()
