"""How an archive goes on when its server begins another timeline, as a standby does that is promoted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg.conninfo import make_conninfo

from tatame_db.backup.archive import ancestors_of, branch_text, newest_segment, read_archive
from tatame_db.backup.marks import WAL
from tatame_db.backup.waldump import PARTIAL, segment_name
from tatame_db.database.address import readable, without_environment

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL

_CONNECT_SECONDS = 10


def timelines_of(address: URL) -> dict[int, int | None]:
    """Return the timelines of a server, each with the position at which it was left; the present one is the last."""
    password = {"password": str(address.password)} if address.password else {}
    options = without_environment(address) | password | {"replication": "true"}
    options.setdefault("connect_timeout", str(_CONNECT_SECONDS))
    with psycopg.connect(make_conninfo(readable(address), **options), autocommit=True) as connection:
        timeline = int(_answer(connection, b"IDENTIFY_SYSTEM")[1])
        left = {}
        if timeline > 1:
            left = ancestors_of(_answer(connection, b"TIMELINE_HISTORY %d" % timeline)[1].decode(errors="replace"))
    return {**left, timeline: None}


def _answer(connection: psycopg.Connection, command: bytes) -> list[bytes]:
    # The walsender has only the simple protocol.
    result = connection.pgconn.exec_(command)
    if result.status != psycopg.pq.ExecStatus.TUPLES_OK:
        raise psycopg.OperationalError(result.get_error_message())
    return [result.get_value(0, column) or b"" for column in range(result.nfields)]


def lost_by(folder: Path, timelines: dict[int, int | None]) -> str | None:
    """Return in words which log of an archive a server lacks; `None` if it goes on where the archive ends."""
    if (archive := read_archive(folder)) is None:
        return None
    for key in [key for key, path in archive.segments.items() if path.parent.name != WAL]:
        # From before a gap.
        del archive.segments[key]
    for timeline, left in timelines.items():
        if left is not None and archive.goes_beyond(timeline, left):
            return branch_text(timeline, left)
    return None


def enter_timeline(folder: Path, timelines: dict[int, int | None], segment_bytes: int) -> None:
    """Let pg_receivewal begin a timeline that the server began exactly where the archive ends.

    Where there is no byte left of a timeline, it does not ask for the next one: the server's answer fails it.
    """
    if (newest := newest_segment(folder)) is None:
        return
    timeline, number = newest
    name = segment_name(timeline, number, segment_bytes)
    if (folder / WAL / name).exists():
        number += 1
    if timelines.get(timeline) != number * segment_bytes:
        return
    for following, left in timelines.items():
        if following > timeline and (left is None or left > number * segment_bytes):
            # An empty part names where it begins.
            (folder / WAL / (segment_name(following, number, segment_bytes) + PARTIAL)).touch()
            return
