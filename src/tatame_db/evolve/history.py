"""Which migrations there are, which a database has, and whether they are still what was applied."""

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

from tatame_db.errors import NOTHING_CHANGED, TatameError

if TYPE_CHECKING:
    from alembic.script import Script
    from sqlalchemy import Connection

MIGRATIONS = Path(__file__).parents[1] / "migrations"
# Beside the tables, not among them: tools that compare `public` with a schema of theirs see only what is ours.
VERSION_SCHEMA = "tatame_migrations"


class RevisionUnknown(TatameError):
    """A revision was asked for that is not among the migrations."""

    def __init__(self, revision: str, known: list[str]) -> None:
        self.revision = revision
        super().__init__(
            f"there is no revision {revision!r}. Checked: {', '.join(known)}",
            means=NOTHING_CHANGED,
            fix="`tatame-db status` shows where the database is; `head` is the newest revision",
        )


class DatabaseAhead(TatameError):
    """The database is at a revision that this version of the package does not know."""

    def __init__(self, revision: str) -> None:
        self.revision = revision
        super().__init__(
            f"the database is at revision {revision}, which this version of tatame-db does not have",
            means=NOTHING_CHANGED,
            fix="install the version of tatame-db that migrated it, or a newer one",
        )


class TwoHeads(TatameError):
    """Two branches each added a migration after the same one."""

    def __init__(self, files: list[str]) -> None:
        self.files = files
        super().__init__(
            f"the migrations end in {len(files)} heads: {', '.join(files)}",
            means=NOTHING_CHANGED,
            fix='join them with `tatame-db generate --merge "merge the branches"`, and read both before',
        )


class MigrationUnreadable(TatameError):
    """A migration file is not valid Python, or not a migration."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(
            f"a migration cannot be read: {problem}",
            means=NOTHING_CHANGED,
            fix="mend the file, or take it out of the folder, then run the command again",
        )


class MigrationEdited(TatameError):
    """A migration file is not what it was when it was applied to this database."""

    def __init__(self, files: list[str]) -> None:
        self.files = files
        super().__init__(
            f"edited after it was applied to this database: {', '.join(files)}",
            means=f"{NOTHING_CHANGED} The database has what the file said before the edit.",
            fix="put the file back as it was (`git checkout`), and write what you want as a new migration: "
            '`tatame-db generate "what changes"`',
        )


def configuration() -> Config:
    """Return what Alembic needs to know to find our migrations."""
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
            raise MigrationUnreadable(f"{file}, line {error.lineno}: {error.msg}") from error
        except (CommandError, ImportError, NameError, AttributeError) as error:
            # Alembic runs each file to learn its revision.
            raise MigrationUnreadable(str(error)) from error

    @property
    def head(self) -> str:
        """The newest revision. Raises `TwoHeads`."""
        if len(self.heads) > 1:
            raise TwoHeads([Path(self.script(head).path).name for head in self.heads])
        return self.heads[0]

    def script(self, revision: str) -> Script:
        """Return one migration. Raises `RevisionUnknown`."""
        try:
            script = self.scripts.revision_map.get_revision(revision)
        except ResolutionError:
            script = None
        if script is None:
            raise RevisionUnknown(revision, [known.revision for known in self.scripts.walk_revisions()])
        return cast("Script", script)

    def up_to(self, revision: str) -> list[Script]:
        """Return the migrations that lead to `revision`, oldest first. Raises `RevisionUnknown`, `TwoHeads`."""
        target = self.head if revision in {"head", "heads"} else self.script(revision).revision
        return list(self.scripts.iterate_revisions(target, "base"))[::-1]

    def applied(self, connection: Connection) -> list[Script]:
        """Return the migrations that a database has, newest first. Raises `DatabaseAhead`."""
        found: dict[str, Script] = {}
        for revision in current_revisions(connection):
            try:
                found |= {script.revision: script for script in self.scripts.iterate_revisions(revision, "base")}
            except ResolutionError as error:
                raise DatabaseAhead(revision) from error
        newest_first = [script.revision for script in self.scripts.walk_revisions()]
        return sorted(found.values(), key=lambda script: newest_first.index(script.revision))

    def pending(self, connection: Connection, revision: str = "head") -> list[Script]:
        """Return the migrations that are missing up to `revision`, oldest first, whatever branch they come from.

        Raises `RevisionUnknown`, `TwoHeads`, `DatabaseAhead`.
        """
        applied = {script.revision for script in self.applied(connection)}
        return [script for script in self.up_to(revision) if script.revision not in applied]

    def refuse_edited(self, connection: Connection) -> None:
        """Raise `MigrationEdited` where an applied file is no longer what was applied."""
        if connection.scalar(text(f"SELECT to_regclass('{VERSION_SCHEMA}.applied')")) is None:
            return
        kept = {
            row.revision: row.checksum for row in connection.execute(text(f"SELECT * FROM {VERSION_SCHEMA}.applied"))
        }
        edited = [
            Path(script.path).name
            for script in self.applied(connection)
            if kept.get(script.revision, checksum(script)) != checksum(script)
        ]
        if edited:
            raise MigrationEdited(edited)


def current_revisions(connection: Connection) -> tuple[str, ...]:
    """Return the revision a database is at: none, one, or one for each branch that was not merged yet."""
    options = {"version_table_schema": VERSION_SCHEMA}
    return MigrationContext.configure(connection, opts=options).get_current_heads()


def checksum(script: Script) -> str:
    """Return the SHA-256 of a migration file, whatever line ends it was checked out with."""
    return hashlib.sha256(Path(script.path).read_bytes().replace(b"\r\n", b"\n")).hexdigest()
