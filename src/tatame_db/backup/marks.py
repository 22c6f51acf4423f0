"""How far an archive reaches: a mark is a transaction of the follower on the server.

Once the archive has its commit, it has every commit before it too, and a recovery up to an earlier time meets a later
commit, where it stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from tatame_db.backup.archive_errors import ArchiveDamaged
from tatame_db.backup.files import regular
from tatame_db.backup.folder import sync
from tatame_db.backup.waldump import lsn_of, lsn_text

if TYPE_CHECKING:
    from pathlib import Path

WAL = "wal"
STATE = "archive.json"
MARKS = "marks"
SEGMENT = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})(\.partial)?")
_SEGMENT_BYTES = frozenset(1 << power for power in range(20, 31))


@dataclass(frozen=True)
class Mark:
    """A time of the server, and the position at which everything that was committed until then is in the archive."""

    time: datetime
    timeline: int
    lsn: int

    def __str__(self) -> str:
        return f"{self.timeline} {lsn_text(self.lsn)} {self.time.isoformat()}"

    @staticmethod
    def parse(text: str) -> Mark:
        """Read what `str` wrote. Raises `ValueError`."""
        timeline, lsn, written = text.split()
        time = datetime.fromisoformat(written)
        if time.tzinfo is None:
            raise ValueError("a time without a zone")
        return Mark(time, int(timeline), lsn_of(lsn))


@dataclass(frozen=True)
class State:
    """The server of an archive, the slot by which it is followed, and how far it reaches."""

    system_identifier: str
    slot: str
    segment_bytes: int
    mark: Mark | None = None

    def write(self, folder: Path) -> None:
        """Replace the state in a folder of backups, on the disk."""
        place, half = folder / WAL / STATE, folder / WAL / (STATE + ".new")
        facts = asdict(self) | {"mark": self.mark and str(self.mark)}
        try:
            with half.open("w") as file:
                file.write(json.dumps(facts) + "\n")
                file.flush()
                os.fsync(file.fileno())
            half.rename(place)
        except OSError:
            half.unlink(missing_ok=True)
            raise
        sync(place.parent)


def read_state(folder: Path) -> State | None:
    """Return the state of the archive in a folder of backups; `None` if it has none. Raises `ArchiveDamaged`."""
    place = folder / WAL / STATE
    try:
        facts = json.loads(regular(place).read_text())
        mark = facts["mark"] and Mark.parse(facts["mark"])
        state = State(str(facts["system_identifier"]), str(facts["slot"]), int(facts["segment_bytes"]), mark)
    except (FileNotFoundError, NotADirectoryError):
        if any(SEGMENT.fullmatch(path.name) for path in place.parent.rglob("*")):
            raise ArchiveDamaged(path=place, reason="it is missing, and there are segments") from None
        return None
    except OSError as error:
        raise ArchiveDamaged(path=place, reason=error.strerror or str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        is_json = not isinstance(error, json.JSONDecodeError)
        reason = "it is not as `--follow` writes it" if is_json else "it is no JSON"
        raise ArchiveDamaged(path=place, reason=reason) from error
    if state.segment_bytes not in _SEGMENT_BYTES:
        raise ArchiveDamaged(path=place, reason=f"no segment has {state.segment_bytes} bytes")
    return state


def read_marks(place: Path, newest: Mark | None) -> list[Mark]:
    """Return one mark for each segment that has any, those around a step of the clock, and the last one."""
    found: list[Mark] = []
    with contextlib.suppress(OSError):
        for line in regular(place / MARKS).read_text(errors="replace").splitlines():
            # A killed follower may leave half a line.
            with contextlib.suppress(ValueError, OverflowError):
                found.append(Mark.parse(line))
    return [*found, newest] if newest and newest not in found[-1:] else found


def add_mark(folder: Path, state: State, mark: Mark) -> State:
    """Record a mark that the archive has reached, and return the new state."""
    before, size = state.mark, state.segment_bytes
    # A clock that was set back makes the times between the two ambiguous; a timeline that was left has an end.
    steps = before is not None and (mark.time < before.time or mark.timeline != before.timeline)
    if before and steps:
        note(folder, before)
    if before is None or steps or before.lsn // size != mark.lsn // size:
        note(folder, mark)
    state = State(state.system_identifier, state.slot, size, mark)
    state.write(folder)
    return state


def note(folder: Path, mark: Mark) -> None:
    """Add a mark to those that stay, on the disk."""
    with (folder / WAL / MARKS).open("a") as file:
        file.write(f"{mark}\n")
        file.flush()
        os.fsync(file.fileno())
