"""Whether a server goes on where an archive ends, and how the archive enters a timeline that the server has begun."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.backup.archive import Archive, branch_text
from tatame_db.backup.files import regular
from tatame_db.backup.marks import WAL
from tatame_db.backup.receiver import BEHIND, REMOVED
from tatame_db.backup.waldump import PARTIAL, filled_bytes, lsn_text, segment_name
from tatame_db.backup.walsender import LogRemoved, log_of, timelines_of, walsender

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL

    from tatame_db.backup.silence import Silence

# The head of a segment and the first records of two servers may be equal; a mark, with its time, is not.
_ENOUGH_BYTES = 1024
_MARK_BYTES = 256
_PADDING = 8
_COMPARED_BYTES = 16 << 20


def lost_by(archive: Archive, timelines: dict[int, int | None]) -> str | None:
    """Return in words which log of an archive a server lacks, by its timelines; `None` if it lacks none."""
    for timeline, left in timelines.items():
        if left is not None and archive.goes_beyond(timeline, left):
            return branch_text(timeline, left)
    if archive.newest and archive.newest[0] not in timelines:
        return (
            f"the server is on timeline {max(timelines)}, and was never on timeline {archive.newest[0]}, whose log is"
            " archived"
        )
    for timeline, ancestors in archive.ancestors().items():
        if timeline in timelines and any(timelines.get(line) != left for line, left in ancestors.items()):
            return f"the server began its timeline {timeline} elsewhere than the archived one of that number"
    return None


def differing(
    address: URL, archive: Archive, confirmed: int, silence: Silence
) -> tuple[dict[int, int | None], str | None]:
    """Compare the end of an archive with the log of a server; return its timelines, and in words what differs.

    Servers that were restored, or whose disk was set back or copied, have the same identity and timelines, and their
    next segments would overwrite those of the archive. Up to the confirmed position, that of its slot, the server knows
    what is archived.

    Raises `psycopg.OperationalError`.
    """
    with walsender(address, silence) as connection:
        timelines, end = timelines_of(connection)
    if archive.newest is None:
        return timelines, None
    if reason := lost_by(archive, timelines):
        return timelines, reason
    spans = _spans(archive, timelines)
    archived = spans[-1].end
    if timelines[spans[-1].timeline] is None and end < archived:
        return timelines, BEHIND
    proven = confirmed >= spans[-1].begin
    for span in spans:
        try:
            found = _first_difference(address, span, archive.state.segment_bytes, silence)
        except LogRemoved:
            if span.path.suffix == PARTIAL:
                return timelines, REMOVED
            continue
        if found is not None:
            return timelines, (
                f"from {lsn_text(found)} on, the log of the server is not the one that is archived, as after its disk"
                " was set back or a backup was restored in its place"
            )
        proven = proven or _is_telling(span, archive)
    reason = f"the server has removed its log before {lsn_text(archived)}, so it cannot be compared with the archive"
    return timelines, None if proven else reason


@dataclass(frozen=True)
class _Span:
    """A part of a segment of an archive."""

    timeline: int
    path: Path
    begin: int
    end: int


def _spans(archive: Archive, timelines: dict[int, int | None]) -> list[_Span]:
    """Return the end of an archive; at the beginning of a segment, the one before too."""
    size, spans = archive.state.segment_bytes, list[_Span]()
    assert archive.newest  # noqa: S101, for the type checker
    line, number = archive.newest
    while not spans or spans[0].end - spans[0].begin < _ENOUGH_BYTES:
        path = archive.segments[line, number]
        end = number * size + (filled_bytes(path) if path.suffix == PARTIAL else size)
        end = min(end, timelines[line] or end)
        spans.insert(0, _Span(line, path, max(number * size, end - _COMPARED_BYTES), end))
        before = [other for other, found in archive.segments if found == number - 1 and other <= line]
        if len(spans) > 1 or not before:
            break
        line, number = max(before), number - 1
    return spans


def _is_telling(span: _Span, archive: Archive) -> bool:
    """Whether another history of the server would differ in a part."""
    mark = archive.marks[-1] if archive.marks else None
    has_mark = mark and mark.timeline == span.timeline and span.begin + _MARK_BYTES <= mark.lsn <= span.end + _PADDING
    return bool(has_mark) or span.end - span.begin >= _ENOUGH_BYTES


def _first_difference(address: URL, span: _Span, size: int, silence: Silence) -> int | None:
    """Return the first position at which the log of a server differs; `None` if none does. Raises `LogRemoved`."""
    begin = span.begin
    if begin >= span.end:
        return None
    with walsender(address, silence) as connection, regular(span.path).open("rb") as file:
        file.seek(begin % size)
        for block in log_of(connection, span.timeline, begin, span.end):
            silence.heard()
            archived = file.read(len(block))
            if block != archived:
                pairs = zip(block, archived, strict=False)
                return begin + next((index for index, (one, other) in enumerate(pairs) if one != other), len(archived))
            begin += len(block)
    return None


def enter_timeline(folder: Path, archive: Archive, timelines: dict[int, int | None]) -> None:
    """Let pg_receivewal begin a timeline that the server began exactly where the archive ends.

    Where there is no byte left of a timeline, it does not ask for the next one: the server's answer fails it.
    """
    if archive.newest is None:
        return
    timeline, number = archive.newest
    size = archive.state.segment_bytes
    if archive.segments[timeline, number].suffix != PARTIAL:
        number += 1
    if timelines.get(timeline) != number * size:
        return
    for following, left in timelines.items():
        if following > timeline and (left is None or left > number * size):
            # An empty part names where it begins.
            (folder / WAL / (segment_name(following, number, size) + PARTIAL)).touch()
            return
