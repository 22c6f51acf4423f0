"""The archive of the write-ahead log in a folder of backups: its files, how far they reach, and which are needed.

Only pg_receivewal writes segments.
"""

from __future__ import annotations

import re
import shutil
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from itertools import count, takewhile
from typing import TYPE_CHECKING

from tatame_db.backup.archive_errors import ArchiveDamaged
from tatame_db.backup.files import regular
from tatame_db.backup.folder import Backup, complete, sync
from tatame_db.backup.history import History, ancestors_of, history_of
from tatame_db.backup.manifest import read_manifest
from tatame_db.backup.marks import MARKS, SEGMENT, WAL, Mark, State, note, read_marks, read_state
from tatame_db.backup.waldump import (
    PARTIAL,
    filled_bytes,
    has_record,
    is_whole,
    lsn_of,
    lsn_text,
    present,
    segment_name,
    segment_number,
)
from tatame_db.errors import TatameError

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

EARLIER = "earlier"
"""In it, a folder for the log before each gap: pg_receivewal begins after the newest segment of its directory."""
GAP = "gap"
"""A file with the reason why the log is not continued, in words."""
_OTHER_LOG = "the log of the archive differs from that of the backup, as of a server that was restored or set back"
_HISTORY = re.compile(r"([0-9A-F]{8})\.history")
_PAGE_BYTES = 8192
_ALIGNMENT = 8
_COMPARED_BYTES = 1 << 20


@dataclass(frozen=True)
class Reach:
    """What of an archive continues one backup."""

    timeline: int
    """The newest timeline that the backup leads to."""
    histories: list[Path]
    segments: list[tuple[int, str, Path]]
    """In their order: the number of each, the name that PostgreSQL looks for, and the file."""
    missing: str | None
    """The first segment that is missing or incomplete, if the archive had it or has later ones."""
    branch: str | None
    """If the log after these segments is not theirs, as after a failover that lost commits: why, in words."""
    marks: list[Mark]
    """The marks within these segments, the newest last."""
    ended: str | None = None
    """Of the log before a gap: why it was not continued, in words."""

    @property
    def gap(self) -> str | None:
        """What ends the archive before its newest segment, in words."""
        return f"the segment {self.missing} is missing or incomplete" if self.missing else self.branch or self.ended

    @property
    def until(self) -> datetime | None:
        """The newest time of which every commit is here; `None` if that is not known."""
        return self.marks[-1].time if self.marks else None


@dataclass(frozen=True)
class Archive:
    """The log since the last gap, or between two gaps. What pg_receivewal writes meanwhile is not in it."""

    place: Path
    state: State
    marks: list[Mark]
    """One mark for each segment that has any, those around a step of the clock, and the last one."""
    segments: dict[tuple[int, int], Path] = field(default_factory=dict[tuple[int, int], "Path"])
    """By timeline and number; of one that is still being written, the part."""
    histories: dict[int, Path] = field(default_factory=dict[int, "Path"])
    gap: str | None = None
    """Why it is not continued, in words; of the log since the last gap, as the follower found."""
    earlier: list[Archive] = field(default_factory=list["Archive"])
    """Of the log since the last gap: that before it, the newest first."""

    @property
    def newest(self) -> tuple[int, int] | None:
        """Timeline and number of the newest segment or part, which pg_receivewal continues; `None` if none exists."""
        return max(self.segments, key=lambda key: (key[1], key[0]), default=None)

    def ancestors(self) -> dict[int, dict[int, int]]:
        """Return those before each timeline whose history is here, each with the position at which it was left."""
        return {timeline: self._ancestors(timeline) for timeline in self.histories}

    def has_log_of(self, backup: Backup) -> bool | None:
        """Whether it has the end of the log that is in a base backup; `None` if it has nothing to compare.

        Servers that were restored, or copied with their disk, share identity, timeline and positions.
        """
        size, end, history = self.state.segment_bytes, lsn_of(backup.manifest.stop_lsn), history_of(backup)
        if self._contradicts(history):
            return False
        timeline = history.timeline
        number = (end - 1) // size
        if (path := self.segments.get((timeline, number))) is None:
            return None
        begin = max(0, end - number * size - _COMPARED_BYTES)
        length = end - number * size - begin
        try:
            copied = _part_of(backup.data / "pg_wal" / segment_name(timeline, number, size), begin, length)
        except OSError:
            return None
        # It may not be received up to there yet.
        found = _part_of(present(path), begin, length).rstrip(b"\0")
        return copied.startswith(found) if found else None

    def leads_to(self, history: History) -> bool:
        """Whether the archived server entered the timeline of a backup where that of the backup did."""
        return history.timeline in self.histories and self._ancestors(history.timeline) == history.ancestors

    def _contradicts(self, history: History) -> bool:
        """Whether the server of a backup began a timeline elsewhere, or without log of the one before that is here."""
        if history.ancestors is None:
            return False
        if history.timeline in self.histories and not self.leads_to(history):
            return True
        return any(self.goes_beyond(line, end) for line, end in history.ancestors.items())

    def _ancestors(self, timeline: int) -> dict[int, int]:
        """Return the timelines before this one, each with the position at which it was left."""
        if timeline not in self.histories:
            return {}
        path = self.histories[timeline]
        try:
            return ancestors_of(regular(path).read_text(errors="replace"))
        except OSError as error:
            raise ArchiveDamaged(path=path, reason=error.strerror or str(error)) from error

    def _path(self, timeline: int, lsn: int) -> tuple[list[int], list[int], str | None]:
        """Return the timelines from this one to the newest that descends from it, where each begins, and a branch.

        It ends before a timeline that the server began without all that is in the backup or archived of the one before.
        """
        newest = max([timeline, *(other for other in self.histories if timeline in self._ancestors(other))])
        switches = [(line, end) for line, end in sorted(self._ancestors(newest).items()) if line >= timeline]
        timelines, begins = [timeline], [0]
        for index, (line, end) in enumerate(switches):
            if end < lsn or self.goes_beyond(line, end):
                return timelines, begins, branch_text(line, end)
            timelines.append(switches[index + 1][0] if index + 1 < len(switches) else newest)
            begins.append(end)
        return timelines, begins, None

    def goes_beyond(self, timeline: int, lsn: int) -> bool:
        """Whether the archive has a record of a timeline at a position, or later."""
        size = self.state.segment_bytes
        first = lsn // size
        numbers = list(takewhile(lambda number: (timeline, number) in self.segments, count(first)))
        if not numbers:
            return any(line == timeline and number > first for line, number in self.segments)
        if len(numbers) == 1 and filled_bytes(self.segments[timeline, first], lsn % size) == lsn % size:
            return False
        # The first half of a record, without which nothing is lost, is often there.
        return has_record([(number, self.segments[timeline, number]) for number in numbers], size, lsn)

    def reach(self, timeline: int, lsn: int) -> Reach:
        """Return what continues a backup that ended at a position."""
        size = self.state.segment_bytes
        timelines, begins, branch = self._path(timeline, lsn)
        # Of each timeline, the numbers of its segments; two have the one in which the server switched.
        spans = {
            line: range(begin // size, end // size + 1)
            for line, begin, end in zip(timelines, begins, [*begins[1:], 1 << 64], strict=True)
        }
        last = max((number for line, number in self.segments if number in spans.get(line, ())), default=-1)
        found: list[tuple[int, str, Path]] = []
        number, missing = lsn // size, None
        while number <= last:
            able = [line for line in reversed(timelines) if number in spans[line]]
            line = next((line for line in able if (line, number) in self.segments), None)
            if line is None:
                missing = self._name(able[0], number)
                break
            found.append((number, self._name(line, number), self.segments[line, number]))
            if self.segments[line, number].suffix == PARTIAL and number < last:
                missing = self._name(line, number)
                break
            if line != able[0]:
                # Of the next timeline there is no byte yet.
                break
            number += 1
        marks = [mark for mark in self.marks if mark.lsn > lsn and _is_on(mark, timelines, begins)]
        filled = self._filled(found, lsn, max((mark.lsn for mark in marks), default=0))
        within = [mark for mark in marks if mark.lsn <= filled]
        if len(within) < len(marks) and missing is None:
            # The archive had it once.
            ends_in = found[-1][0] + (found[-1][2].suffix != PARTIAL) if found else lsn // size
            missing = self._name(marks[-1].timeline, ends_in)
        histories = [self.histories[line] for line in timelines if line in self.histories]
        ended = self.gap if self.place.name != WAL else None
        return Reach(timelines[-1], histories, found, missing, branch, within, ended)

    def _filled(self, found: list[tuple[int, str, Path]], lsn: int, newest: int) -> int:
        """Return the position up to which there is log after another; no byte of it is needed after the newest mark."""
        if not found:
            return lsn
        number, _, path = found[-1]
        size = self.state.segment_bytes
        if path.suffix != PARTIAL:
            return (number + 1) * size
        filled = number * size + filled_bytes(path) + _ALIGNMENT
        # The last record may end in zeros, though not over a page, whose head has none.
        in_zeros = filled < newest <= filled + _PAGE_BYTES
        return newest if in_zeros and is_whole([(number, path)], size, number * size, newest) else filled

    def _name(self, timeline: int, number: int) -> str:
        return segment_name(timeline, number, self.state.segment_bytes)


def branch_text(timeline: int, lsn: int) -> str:
    """State that the server left a timeline before its end in the archive."""
    return f"the server went on at {lsn_text(lsn)} of timeline {timeline} without the log after it, which is archived"


def _is_on(mark: Mark, timelines: list[int], begins: list[int]) -> bool:
    """Whether a position is on its timeline before that was left."""
    return timelines[bisect_right(begins, mark.lsn - 1) - 1] == mark.timeline


def read_archive(folder: Path) -> Archive | None:
    """Read which files the archive in a folder of backups has; `None` if it has none. Raises `ArchiveDamaged`."""
    # Before the files, so that they have what the marks promise.
    if (state := read_state(folder)) is None:
        return None
    earlier = replace(state, mark=None)
    archives = [_read(place, earlier) for place in reversed(_places_before(folder))]
    return replace(_read(folder / WAL, state), earlier=archives)


def _read(place: Path, state: State) -> Archive:
    archive = Archive(place, state, read_marks(place, state.mark), gap=_gap_of(place))
    for path in _files(place):
        if found := _HISTORY.fullmatch(path.name):
            archive.histories[int(found[1], 16)] = path
        elif found := SEGMENT.fullmatch(path.name):
            key = int(found[1], 16), segment_number(found[2], found[3], state.segment_bytes)
            # pg_receivewal fills a part up to its full size at once; what has another size is no segment.
            if _size_of(present(path)) == state.segment_bytes:
                archive.segments[key] = present(path)
    return archive


def _places_before(folder: Path) -> list[Path]:
    """The folders of the log before each gap, the oldest first."""
    earlier = folder / WAL / EARLIER
    found = earlier.iterdir() if earlier.is_dir() else ()
    return sorted((path for path in found if path.name.isdecimal()), key=lambda path: int(path.name))


def _gap_of(place: Path) -> str | None:
    try:
        return " ".join(regular(place / GAP).read_text(errors="replace").split()) or None
    except OSError:
        return None


def _files(place: Path) -> list[Path]:
    """The files of an archive; a part comes before the whole segment."""
    return sorted(place.iterdir(), key=lambda path: path.suffix != PARTIAL) if place.is_dir() else []


def _part_of(path: Path, begin: int, length: int) -> bytes:
    with regular(path).open("rb") as file:
        file.seek(begin)
        return file.read(length)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        # It has been completed or removed meanwhile.
        return -1


def reach_of(archive: Archive | None, backup: Backup) -> Reach | None:
    """Return what continues a backup; `None` if the archive is of another server, or the backup is a dump."""
    manifest = backup.manifest
    if archive is None or manifest.is_logical or manifest.system_identifier != archive.state.system_identifier:
        return None
    eras = (archive, *archive.earlier)
    same = {index: era.has_log_of(backup) for index, era in enumerate(eras)}
    found = next((index for verdict in (True, None) for index in same if same[index] is verdict), None)
    timeline = history_of(backup).timeline
    if found is None:
        return Reach(timeline, [], [], None, _OTHER_LOG, [])
    return eras[found].reach(timeline, lsn_of(manifest.stop_lsn))


def remove_unneeded(folder: Path) -> int:
    """Remove the segments before the oldest base backup, and return their number; the caller holds the folder's lock.

    None is removed as long as it is not certain which backups need them.
    """
    archive = read_archive(folder)
    if archive is None:
        return 0
    backups: list[Backup] = []
    for path in complete(folder):
        try:
            manifest = read_manifest(path)
        except TatameError:
            # It may need any of them.
            return 0
        if not manifest.is_logical and manifest.system_identifier == archive.state.system_identifier:
            backups.append(Backup(path, manifest))
    return sum(_remove_before(era, backups) for era in (archive, *archive.earlier))


def _remove_before(era: Archive, backups: list[Backup]) -> int:
    size = era.state.segment_bytes
    begins = [lsn_of(backup.manifest.start_lsn) // size for backup in backups if _may_need(backup, era)]
    is_earlier, removed = era.place.name != WAL, 0
    for path in _files(era.place) if backups and (begins or is_earlier) else ():
        found = SEGMENT.fullmatch(path.name)
        if found and (not begins or segment_number(found[2], found[3], size) < min(begins)):
            path.unlink(missing_ok=True)
            removed += 1
    if is_earlier and not any(SEGMENT.fullmatch(path.name) for path in _files(era.place)):
        shutil.rmtree(era.place, ignore_errors=True)
    return removed


def _may_need(backup: Backup, era: Archive) -> bool:
    try:
        return era.has_log_of(backup) is not False
    except ArchiveDamaged:
        # Its files name no timeline.
        return True


def begin_anew(folder: Path, state: State, reason: str) -> State:
    """Move the log before a gap, so that pg_receivewal begins at its slot, and return the new state.

    What a killed process has not moved, the next call moves to the same place.
    """
    if state.mark:
        note(folder, state.mark)
    state = replace(state, mark=None)
    state.write(folder)
    note_gap(folder, reason)
    places = _places_before(folder)
    if not places or (places[-1] / GAP).exists():
        number = int(places[-1].name) + 1 if places else 1
        places.append(folder / WAL / EARLIER / str(number))
    place = places[-1]
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    moved = [path for path in _files(folder / WAL) if SEGMENT.fullmatch(path.name) or _HISTORY.fullmatch(path.name)]
    for path in [*moved, folder / WAL / MARKS, folder / WAL / GAP]:
        if path.exists():
            path.replace(place / path.name)
    sync(place)
    sync(place.parent)
    sync(folder / WAL)
    return state


def note_gap(folder: Path, reason: str | None) -> None:
    """Note why an archive cannot be continued, or that it is."""
    place = folder / WAL / GAP
    if reason is None:
        place.unlink(missing_ok=True)
    else:
        place.write_text(reason + "\n")
