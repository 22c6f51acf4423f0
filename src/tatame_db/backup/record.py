"""The record of drills in a folder of backups, and of which server and database a backup or a drill is.

It is one line of JSON for each drill, beside the backups: no checksum covers it, and it outlives the backup that was
drilled, which `--keep` removes.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
import psycopg
from msgspec import Meta

from tatame_db.backup.errors import BackupDamaged
from tatame_db.backup.files import regular
from tatame_db.backup.manifest import read_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from tatame_db.backup.contents import Connection
    from tatame_db.backup.manifest import Manifest

DRILLS = "drills.jsonl"
_SYSTEM_IDENTIFIER = "SELECT system_identifier::text FROM pg_control_system()"


@dataclass(frozen=True)
class Origin:
    """A server by its identity, and databases of it; what is not known is empty."""

    system_identifier: str
    databases: list[str]

    def has(self, database: Origin) -> bool:
        """Return whether this is of a database, as far as both are known."""
        identifiers = {self.system_identifier, database.system_identifier} - {""}
        return len(identifiers) < 2 and (not self.databases or {*database.databases} <= {*self.databases})


@dataclass(frozen=True)
class Drill:
    """The result of one drill."""

    backup: str
    """The name of the backup."""
    at: Annotated[datetime, Meta(tz=True)]
    equal: bool
    seconds: float
    """How long the restore took."""
    origin: Origin


def origin_of(manifest: Manifest) -> Origin:
    """Return of what a backup is."""
    return Origin(manifest.system_identifier, sorted(manifest.contents))


def system_identifier(connection: Connection) -> str:
    """Return the identity of a server, which its standbys and its copies share; empty if the role may not see it."""
    try:
        with connection.transaction():
            row = connection.execute(_SYSTEM_IDENTIFIER).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return ""
    return str(row[0]) if row else ""


def note_drill(backup: Path, *, equal: bool, seconds: float) -> str | None:
    """Note a drill durably; return why it could not be noted, such as that the folder is read-only."""
    try:
        origin = origin_of(read_manifest(backup))
    except BackupDamaged:
        origin = Origin("", [])
    drill = Drill(backup.name, datetime.now(UTC), equal, round(seconds, 1), origin)
    # The line end comes first: a line that a full disk cut off spoils no other.
    line = "\n" + json.dumps(asdict(drill), default=str)
    try:
        with (backup.parent / DRILLS).open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return None


def read_drills(folder: Path) -> list[Drill]:
    """Read the drills of a folder, the last one last; none if there is no record that can be read."""
    try:
        lines = regular(folder / DRILLS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    drills = [drill for line in lines if (drill := _parsed(line))]
    return sorted(drills, key=lambda drill: drill.at)


def _parsed(line: str) -> Drill | None:
    try:
        return msgspec.json.decode(line, type=Drill)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None
