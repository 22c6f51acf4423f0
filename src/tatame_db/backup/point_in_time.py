"""The archive is replayed on a restored base backup, up to a moment or to its end."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from tatame_db.backup.archive import Archive, Reach, reach_of, read_archive
from tatame_db.backup.archive_errors import (
    ArchiveDamaged,
    ClockSetBack,
    DatabaseBeingRemoved,
    GapInArchive,
    NoArchive,
    ReplayEndedEarly,
    ReplayFailed,
    TimeOutOfReach,
)
from tatame_db.backup.files import copy_file
from tatame_db.backup.folder import Backup, choose, complete
from tatame_db.backup.manifest import read_manifest
from tatame_db.backup.marks import WAL
from tatame_db.backup.recovery import recover, write_target
from tatame_db.backup.waldump import (
    commits,
    is_committed,
    last_transaction,
    lsn_of,
    lsn_text,
    present,
    removals,
)
from tatame_db.errors import TatameError, listed

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL

    from tatame_db.server.embedded import EmbeddedServer

LATEST: Literal["latest"] = "latest"
Moment = datetime | Literal["latest"]

_LAST = re.compile(r"last completed transaction was at log time (.+)$", re.MULTILINE)
_PROBLEM = re.compile(r"LOG: +((?:invalid|unexpected|record|incorrect|there is no|could not).+)$", re.MULTILINE)
_SHOWN_LINES = 8
# A position at the end of a page may be written with or without the head of the next one.
_PAGE_HEAD_BYTES = 40
# Commits that run at the same time reach the log in another order than that of their times, a moment apart.
_DISORDER = timedelta(seconds=1)
# Marks come each ten seconds, and those of one segment may be left out.
_BETWEEN_MARKS = timedelta(minutes=1)


@dataclass(frozen=True)
class Replayed:
    """What was replayed on a base backup."""

    target: Moment
    last_transaction: datetime | None
    """When the last transaction that was restored was committed; `None` if there was none since the base backup."""
    stop: int
    """Where in the log the replay ended."""
    before_gap: bool = False
    """Whether the archive has a gap, and goes on behind it."""
    dropping: tuple[str, ...] = ()
    """Databases whose `DROP DATABASE` had begun and not ended, as on the server then: nothing can connect to them."""


def choose_before(place: Path, at: Moment | None) -> Path:
    """Return this backup, or of a folder the newest base backup that ended before a time.

    One of another server, or of another history of it, is passed over if the archive continues an earlier one.

    Raises `NoBackup`, `NoArchive`, `TimeOutOfReach`.
    """
    path = choose(place)
    if at is None or path == place:
        return path
    found, ends = list["Path"](), list[datetime]()
    for candidate in reversed(complete(place)):
        try:
            manifest = read_manifest(candidate)
        except TatameError:
            # A drill of the latest has to report it.
            found += [candidate] if at == LATEST else []
            continue
        if not manifest.is_logical:
            ends.append(manifest.ended)
            found += [candidate] if isinstance(at, str) or manifest.ended < at else []
    if not found and not ends:
        raise NoArchive(backup=path, reason="a dump has the rows of one moment")
    archive = None
    with contextlib.suppress(ArchiveDamaged):
        archive = read_archive(place)
    if not found:
        raise _out_of_reach(str(place), at, ends[-1], archive.marks[-1].time if archive and archive.marks else ends[0])
    return next((candidate for candidate in found if not _is_of_other(archive, candidate)), found[0])


def _is_of_other(archive: Archive | None, path: Path) -> bool:
    """Whether an archive is of another server than a base backup, or went on without what is in it."""
    try:
        reach = reach_of(archive, Backup(path, read_manifest(path)))
    except TatameError:
        return False
    return reach is None or (reach.branch is not None and not reach.segments)


def _out_of_reach(subject: str, at: Moment, first: datetime, last: datetime) -> TimeOutOfReach:
    # The first is excluded.
    begin = first + timedelta(milliseconds=1)
    return TimeOutOfReach(subject=subject, time=_text(at), first=_text(begin), last=_text(max(begin, last)))


def _text(moment: Moment) -> str:
    if isinstance(moment, str):
        return moment
    try:
        return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"
    except OverflowError:
        # Its year in UTC is 0 or 10000.
        return moment.isoformat(" ")


@dataclass(frozen=True)
class Replay:
    """How the archive is replayed on one base backup: into its log directory, from where PostgreSQL recovers."""

    backup: Backup
    at: Moment
    reach: Reach
    segments: list[tuple[str, Path]]
    segment_bytes: int
    last_commit: int | None = None
    """Where the last transaction up to the time begins; 0 if it is in the backup, `None` to stop by the time."""

    @property
    def size_bytes(self) -> int:
        """The bytes of the log that is replayed."""
        return len(self.segments) * self.segment_bytes

    def write(self, data: Path) -> None:
        """Add the log to a copy of the backup's data, and tell PostgreSQL how far to recover."""
        for name, path in [*self.segments, *((path.name, path) for path in self.reach.histories)]:
            copy_file(str(present(path)), str(data / "pg_wal" / name))
        write_target(data, {"recovery_target_timeline": str(self.reach.timeline)} | self._target())

    def _target(self) -> dict[str, str]:
        if isinstance(self.at, str):
            return {}
        target = {"recovery_target_action": "promote"}
        if self.last_commit is None:
            return target | {"recovery_target_time": f"{self.at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00"}
        begin = self.last_commit or lsn_of(self.backup.manifest.stop_lsn)
        inclusive = "on" if self.last_commit else "off"
        return target | {"recovery_target_lsn": lsn_text(begin), "recovery_target_inclusive": inclusive}

    def run(self, server: EmbeddedServer, address: URL) -> Replayed:
        """Start a server on that data, and wait until it has recovered. Raises `ReplayEndedEarly`, `ReplayFailed`."""
        last, lsn = recover(server, address, lambda: self._failure(server))
        if self.at == LATEST and self.reach.marks and lsn + _PAGE_HEAD_BYTES < self.reach.marks[-1].lsn:
            raise self._ended_early(server, self.reach.marks[-1].time, _text(last) if last else None)
        if isinstance(self.at, datetime) and self.last_commit is None:
            self._refuse_earlier(self.at, last, lsn)
        return Replayed(self.at, last, lsn, before_gap=self.reach.ended is not None)

    def up_to_commit(self, stop: int) -> Replay:
        """Return the replay up to the last commit before a position.

        PostgreSQL stops at the first commit after a time, and has by then replayed all that precedes it in the log: if
        it is that of a DROP DATABASE, the removal of the files too.
        """
        begin = lsn_of(self.backup.manifest.stop_lsn)
        segments = [(number, path) for number, _, path in self.reach.segments if number <= stop // self.segment_bytes]
        return replace(self, last_commit=last_transaction(segments, self.segment_bytes, begin, stop) or 0)

    def refuse_removed(self, invalid: dict[str, int], stop: int) -> None:
        """Refuse a time at which a `DROP DATABASE` had removed the files of these databases, and was not committed.

        Before the removal, and after an interrupted command, the server had them in the same state.

        Raises `DatabaseBeingRemoved`.
        """
        begin, size = lsn_of(self.backup.manifest.stop_lsn), self.segment_bytes
        segments = [(number, path) for number, _, path in self.reach.segments[: len(self.segments)]]
        removed = removals(segments, size, begin, stop)
        names = [
            name for name, oid in invalid.items() if oid in removed and is_committed(segments, size, stop, removed[oid])
        ]
        if names:
            raise DatabaseBeingRemoved(backup=self.backup.path, time=_text(self.at), database=", ".join(sorted(names)))

    def _refuse_earlier(self, at: datetime, last: datetime | None, stop: int) -> None:
        """Look for earlier commits after the first one beyond the time, before which the recovery stopped.

        Raises `ClockSetBack`.
        """
        later = [mark for mark in self.reach.marks if mark.lsn > stop]
        near = [index for index, mark in enumerate(later) if mark.time <= at + _BETWEEN_MARKS]
        ends = [*(mark.lsn for mark in later), (self.reach.segments[-1][0] + 1) * self.segment_bytes]
        end = ends[near[-1] + 1 if near else 0]
        numbers = range(stop // self.segment_bytes, end // self.segment_bytes + 1)
        segments = [(number, path) for number, _, path in self.reach.segments if number in numbers]
        times = commits(segments, self.segment_bytes, stop, end)
        earliest = max([at, *times[:1]]) - _DISORDER
        if earlier := [index for index, time in enumerate(times) if time <= earliest]:
            raise _set_back(self.backup, at, last, max([at, *times[: earlier[-1]]]))

    def _failure(self, server: EmbeddedServer) -> TatameError:
        log = server.log.read_text(errors="replace")
        if "recovery ended before configured recovery target was reached" in log:
            found = _LAST.search(log)
            return self._ended_early(server, self.at, found[1] if found else None)
        lines = [line for line in log.splitlines() if any(level in line for level in ("FATAL", "PANIC", "DETAIL"))]
        return ReplayFailed(backup=self.backup.path, output=listed(lines[-_SHOWN_LINES:]) or listed(["see the server"]))

    def _ended_early(self, server: EmbeddedServer, target: Moment, last: str | None) -> ReplayEndedEarly:
        problems = _PROBLEM.findall(server.log.read_text(errors="replace"))
        reason = f"; PostgreSQL reports: {problems[-1]}" if problems else ""
        return ReplayEndedEarly(
            backup=self.backup.path,
            time=_text(target),
            last=last or f"{_text(self.backup.manifest.ended)}, when the backup ended",
            reason=reason,
        )


def replay_of(backup: Backup, at: Moment, *, to_gap: bool = False) -> Replay:
    """Return how a time is restored from a backup; the caller keeps it from being removed.

    With `to_gap`, the latest is the end of the log before a gap behind which the archive goes on.

    Raises `NoArchive`, `GapInArchive`, `TimeOutOfReach`, `ClockSetBack`, `ArchiveDamaged`.
    """
    folder, manifest = backup.path.parent, backup.manifest
    if manifest.is_logical:
        raise NoArchive(backup=backup.path, reason="a dump has the rows of one moment")
    archive = read_archive(folder)
    reach = reach_of(archive, backup)
    if archive is None or reach is None:
        reason = "its folder has no archive" if archive is None else "the archive of its folder is of another server"
        raise NoArchive(backup=backup.path, reason=reason)
    if not reach.segments:
        reason = reach.branch or reach.ended or "the archive ends before it"
        if reach.missing:
            reason = f"the archive begins later, and the segment {reach.missing} is missing"
        raise NoArchive(backup=backup.path, reason=reason)
    until = reach.until or manifest.ended
    ends_in_gap = to_gap and isinstance(at, str) and not (reach.missing or reach.branch)
    if reach.gap and not ends_in_gap and (isinstance(at, str) or at >= until):
        raise GapInArchive(backup=backup.path, gap=reach.gap, last=_text(until))
    if isinstance(at, datetime) and not (reach.until and manifest.ended < at < reach.until):
        raise _out_of_reach(f"the backup {backup.path}", at, manifest.ended, until)
    segments = reach.segments
    if isinstance(at, datetime):
        # The mark is a commit after the time, so no later segment is needed; its commit may begin in the one before.
        beyond = next(index for index, mark in enumerate(reach.marks) if mark.time > at)
        if any(mark.time <= at for mark in reach.marks[beyond:]):
            before = reach.marks[beyond - 1].time if beyond else None
            raise _set_back(backup, at, before, max(mark.time for mark in reach.marks[beyond:]))
        needed = reach.marks[beyond].lsn // archive.state.segment_bytes
        segments = [segment for segment in segments if segment[0] <= needed]
    return Replay(backup, at, reach, [(name, path) for _, name, path in segments], archive.state.segment_bytes)


def _set_back(backup: Backup, at: datetime, first: datetime | None, last: datetime) -> ClockSetBack:
    first = first or backup.manifest.ended
    return ClockSetBack(backup=backup.path, time=_text(at), first=_text(first), last=_text(last))


def _wrong_archive(folder: Path, archive: Archive | None) -> str | None:
    """Return why an archive continues no backup of its folder, if it is one of a server without backups there."""
    if archive is None:
        place = folder / WAL
        is_wrong = not place.is_dir() and (place.exists() or place.is_symlink())
        return f"{WAL} is not the folder of an archive" if is_wrong else None
    for path in complete(folder):
        with contextlib.suppress(TatameError):
            if read_manifest(path).system_identifier == archive.state.system_identifier:
                return None
    return f"the archive in {WAL} is of another server"


def restorable_until(backup: Backup) -> tuple[datetime, str | None]:
    """Return up to when a backup can be restored, and what ends its archive or makes times in it ambiguous."""
    until = backup.manifest.until
    try:
        archive = read_archive(backup.path.parent)
        reach = reach_of(archive, backup)
    except TatameError as error:
        return until, " ".join(error.what.split())
    if archive is None or reach is None:
        return until, None if backup.manifest.is_logical else _wrong_archive(backup.path.parent, archive)
    problem = f"gap in the archive: {reach.gap}" if reach.gap else None
    if not reach.segments and problem is None:
        problem = "the archive ends before it"
    for before, after in pairwise(reach.marks):
        if after.time < before.time and problem is None:
            problem = f"the clock of the server was set back from {_text(before.time)} to {_text(after.time)}"
    if archive.gap and problem is None:
        problem = f"the archive is not continued: {archive.gap}"
    return max(until, reach.until or until), problem
