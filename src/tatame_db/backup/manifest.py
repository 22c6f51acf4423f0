"""The manifest of a backup: what it is of, how it was made, and what it contains."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tatame_db.backup.contents import Contents
from tatame_db.backup.errors import BackupDamaged, BackupOfNewerFormat
from tatame_db.errors import listed
from tatame_db.move.fingerprint import Fingerprint

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "manifest.json"
FORMAT = 1
BASE, LOGICAL = "base", "logical"


@dataclass(frozen=True)
class Manifest:
    """The facts of a complete backup. No password is one of them."""

    name: str
    method: str
    """`base`: a copy of the server's files; `logical`: a dump of one database."""
    begun: datetime
    ended: datetime
    """When the copy was complete, and with it the moment that it restores."""
    made_by: str
    server_version: str
    system_identifier: str
    """The identity of the server, which its copies share; of a dump, empty if the role might not see it."""
    superuser: str
    """The name of the role that made the cluster."""
    database: str
    """The database of the address from which the backup was made."""
    start_lsn: str
    stop_lsn: str
    size_bytes: int
    files_sha256: str
    """The checksum of the list of files, which has a checksum of each file."""
    roles: list[str]
    """The roles that policies name, without which a dump cannot be restored; empty in a base backup."""
    settings: dict[str, str]
    """Settings without which the server would not start or would read texts differently."""
    contents: dict[str, Contents]
    standby: bool = False
    """Whether the server was a standby, whose rows are as old as its replay was late."""

    @property
    def is_logical(self) -> bool:
        """Whether it is a dump, which any server of the same or a newer version can restore."""
        return self.method == LOGICAL

    @property
    def major_version(self) -> str:
        """The major version of the server."""
        return self.server_version.partition(".")[0]

    @property
    def restored_bytes(self) -> int:
        """The size of the restored server."""
        return max(self.size_bytes, sum(contents.size_bytes for contents in self.contents.values()))

    @property
    def rows(self) -> int:
        """The rows of all tables of all databases."""
        return sum(contents.rows for contents in self.contents.values())

    def write(self, folder: Path) -> None:
        """Write the manifest to the disk, with a checksum of itself."""
        facts = json.loads(json.dumps(asdict(self), default=str))
        for contents, mine in zip(facts["contents"].values(), self.contents.values(), strict=True):
            contents["tables"] = {name: str(table) for name, table in mine.tables.items()}
        facts = {"format": FORMAT} | facts
        text = json.dumps(facts | {"checksum": _checksum(facts)}, indent=2, ensure_ascii=False)
        with (folder / MANIFEST).open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_manifest(backup: Path) -> Manifest:
    """Read the manifest of a backup. Raises `BackupDamaged`, `BackupOfNewerFormat`."""
    try:
        facts = json.loads((backup / MANIFEST).read_text(encoding="utf-8"))
        version = int(facts["format"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(backup, f"{MANIFEST} cannot be read: {error}") from error
    if version > FORMAT:
        raise BackupOfNewerFormat(backup=backup, format=version, known=FORMAT)
    checksum = facts.pop("checksum", None)
    if checksum != _checksum(facts):
        raise _damaged(backup, f"{MANIFEST} does not have the checksum that it names")
    del facts["format"]
    times = {name: datetime.fromisoformat(facts[name]) for name in ("begun", "ended")}
    return Manifest(**facts | times | {"contents": {name: _contents(of) for name, of in facts["contents"].items()}})


def _contents(facts: dict[str, Any]) -> Contents:
    tables = {name: Fingerprint.parse(text) for name, text in facts["tables"].items()}
    return Contents(facts["size_bytes"], facts["revision"], tables, facts["sequences"])


def _damaged(backup: Path, reason: str) -> BackupDamaged:
    return BackupDamaged(backup=backup, reason=listed([reason]))


def _checksum(facts: dict[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
