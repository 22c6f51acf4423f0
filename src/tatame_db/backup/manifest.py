"""The manifest of a backup: what it is of, how it was made, and what it contains."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tatame_db.backup.contents import Contents
from tatame_db.backup.errors import BackupDamaged, BackupOfNewerFormat
from tatame_db.backup.files import regular
from tatame_db.errors import listed
from tatame_db.move.fingerprint import Fingerprint

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "manifest.json"
FORMAT = 1
BASE: Literal["base"] = "base"
LOGICAL: Literal["logical"] = "logical"

_Name = Annotated[str, Meta(min_length=1, pattern=r"\A[^\0]*\Z")]
_Lsn = Annotated[str, Meta(pattern=r"\A([0-9A-F]{1,8}/[0-9A-F]{1,8})?\Z")]
_Size = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_Time = Annotated[datetime, Meta(tz=True)]
_Setting = Annotated[str, Meta(pattern=r"\A[a-z_]+\Z")]
_Line = Annotated[str, Meta(pattern=r"\A[^\0\n\r]*\Z")]


@dataclass(frozen=True)
class Manifest:
    """The facts of a complete backup. No password is one of them."""

    name: str
    method: Literal["base", "logical"]
    """`base`: a copy of the server's files; `logical`: a dump of one database."""
    begun: _Time
    ended: _Time
    """When the copy was complete, by the clock of the server."""
    made_by: str
    server_version: Annotated[str, Meta(pattern=r"\A[0-9]{1,3}(?![0-9])")]
    system_identifier: Annotated[str, Meta(pattern=r"\A[0-9]{0,20}\Z")]
    """The identity of the server, which its copies share; of a dump, empty if the role might not see it."""
    superuser: _Name
    """The name of the role that made the cluster."""
    database: _Name
    """The database of the address from which the backup was made."""
    start_lsn: _Lsn
    stop_lsn: _Lsn
    size_bytes: _Size
    files_sha256: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    """The checksum of the list of files, which has a checksum of each file."""
    roles: list[_Name]
    """The roles that policies name, without which a dump cannot be restored; empty in a base backup."""
    settings: dict[_Setting, _Line]
    """Settings without which the server would not start or would read texts differently."""
    contents: dict[_Name, Contents]
    standby: bool = False
    """Whether the server was a standby, whose rows are as old as its replay was late."""
    complete_until: _Time | None = None
    """A time of the server: every commit that it reported before it is in the backup, and later ones may be."""

    @property
    def is_logical(self) -> bool:
        """Whether it is a dump, which any server of the same or a newer version can restore."""
        return self.method == LOGICAL

    @property
    def until(self) -> datetime:
        """The time up to which it is complete; of earlier versions of this package, the time at which it began."""
        return self.complete_until or self.begun

    @property
    def major_version(self) -> str:
        """The major version of the server."""
        return re.split(r"\D", self.server_version, maxsplit=1)[0]

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
        # No one else may read it, whatever the umask is.
        with os.fdopen(
            os.open(folder / MANIFEST, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())


class _Contents(msgspec.Struct):
    """The contents of a database as they are written."""

    size_bytes: _Size
    revision: list[str]
    tables: dict[_Name, Annotated[str, Meta(pattern=r"\A[0-9]{1,19}:-?[0-9]{1,99}\Z")]]
    sequences: dict[_Name, int | None]

    def parsed(self) -> Contents:
        tables = {name: Fingerprint.parse(text) for name, text in self.tables.items()}
        return Contents(self.size_bytes, self.revision, tables, self.sequences)


class _Written(msgspec.Struct):
    contents: dict[_Name, _Contents]


def read_manifest(backup: Path) -> Manifest:
    """Read the manifest of a backup. Raises `BackupDamaged`, `BackupOfNewerFormat`.

    A checksum proves no fact, because whoever edits the file can write it again: each is as it has to be, or else the
    backup is damaged.
    """
    try:
        text = regular(backup / MANIFEST).read_text(encoding="utf-8")
        facts: dict[str, Any] = msgspec.convert(json.loads(text), dict[str, Any])
        version = msgspec.convert(facts.pop("format"), int)
        if version > FORMAT:
            raise BackupOfNewerFormat(backup=backup, format=version, known=FORMAT)
        checksum = facts.pop("checksum", None)
        # Half of a character cannot be printed.
        json.dumps(facts, ensure_ascii=False).encode()
        if checksum != _checksum({"format": version} | facts):
            raise _damaged(backup, f"{MANIFEST} does not have the checksum that it names")
        return _parsed(facts)
    except OSError as error:
        raise _damaged(backup, f"{MANIFEST} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, RecursionError, msgspec.MsgspecError) as error:
        raise _damaged(backup, f"{MANIFEST} cannot be read: {_in_words(error)}") from error


def _parsed(facts: dict[str, Any]) -> Manifest:
    """Raises `ValueError`, `MsgspecError`."""
    contents = msgspec.convert(facts, _Written).contents
    manifest = msgspec.convert(facts | {"contents": {}}, Manifest)
    if not manifest.is_logical and not (manifest.start_lsn and manifest.stop_lsn):
        raise ValueError("a base backup without its positions in the write-ahead log")
    for moment in (manifest.begun, manifest.ended, manifest.until):
        # Another zone has to have them too.
        if not datetime.min.year < moment.year < datetime.max.year:
            raise ValueError(f"{moment} is no time of a backup")
    return replace(manifest, contents={name: found.parsed() for name, found in contents.items()})


def _in_words(error: Exception) -> str:
    """Return the reason; Python's own words about these help no reader of a file."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"it is no JSON from line {error.lineno} on"
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return "a number is too long" if "set_int_max_str_digits" in str(error) else str(error)


def _damaged(backup: Path, reason: str) -> BackupDamaged:
    return BackupDamaged(backup=backup, reason=listed([reason]))


def _checksum(facts: dict[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
