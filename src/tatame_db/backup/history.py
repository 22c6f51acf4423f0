"""The history of the server of a base backup: its timelines, and the restores since which it is another server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.backup.archive_errors import ArchiveDamaged
from tatame_db.backup.files import regular
from tatame_db.backup.folder import DATA
from tatame_db.backup.waldump import lsn_of

if TYPE_CHECKING:
    from pathlib import Path

    from tatame_db.backup.folder import Backup

RESTORES = "tatame_restores"
"""A file in the data of a restored server, with a random line for each restore.

Its standbys and its backups have the same lines. Two servers that were restored from one may share all else.
"""
_SWITCH = re.compile(r"\s*(\d+)\s+([0-9A-Fa-f]+)/([0-9A-Fa-f]+)")
_LABEL = re.compile(r"^START TIMELINE: (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class History:
    """The history of a server up to a backup."""

    timeline: int
    ancestors: dict[int, int] | None
    """The timelines before, each with the position at which it was left; `None` if the backup does not have them."""
    restores: str


def history_of(backup: Backup) -> History:
    """Read the history of a base backup. Raises `ArchiveDamaged`."""
    timeline = _timeline_of(backup)
    ancestors = _text(backup.data / "pg_wal" / f"{timeline:08X}.history") if timeline > 1 else ""
    found = None if ancestors is None else ancestors_of(ancestors)
    return History(timeline, found, _text(backup.data / RESTORES) or "")


def ancestors_of(history: str) -> dict[int, int]:
    """Return the timelines in the history of another, each with the position at which it was left."""
    found = [match for line in history.splitlines() if (match := _SWITCH.match(line))]
    return {int(match[1]): lsn_of(f"{match[2]}/{match[3]}") for match in found}


def _timeline_of(backup: Backup) -> int:
    label = backup.path / DATA / "backup_label"
    try:
        found = _LABEL.search(regular(label).read_text(errors="replace"))
    except OSError as error:
        raise ArchiveDamaged(path=label, reason=error.strerror or str(error)) from error
    if not found:
        raise ArchiveDamaged(path=label, reason="it names no timeline")
    return int(found[1])


def _text(path: Path) -> str | None:
    try:
        return regular(path).read_text(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArchiveDamaged(path=path, reason=error.strerror or str(error)) from error
