"""Positions in a server's log (WAL), and whether another server has all that was committed before one.

An LSN alone says nothing after a failover: the new primary and a standby that does not follow it write and replay other
records at the same LSN. So a position has the timeline too, and a server that cannot show that it is on this timeline
does not have it. PostgreSQL shows the timeline that a standby receives to `pg_read_all_stats` alone. Other roles see
that of its last checkpoint, which is some minutes old at most.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_PARTS = ("lsn", "timeline", "xmax", "database", "cluster", "started")
_TEXT = re.compile(
    r"(?P<lsn>[0-9A-F]{1,8}/[0-9A-F]{1,8})\.(?P<timeline>[0-9a-f]{1,8})\.(?P<xmax>[0-9a-f]{1,16})"
    r"\.(?P<database>[0-9a-f]{1,8})\.(?P<cluster>-?[0-9a-f]{0,16})\.(?P<started>[0-9a-f]{0,16})"
)

SEES_CONTROL = text(
    "SELECT bool_and(has_function_privilege('pg_catalog.pg_control_' || name || '()', 'EXECUTE'))"
    " FROM unnest(ARRAY['system', 'checkpoint', 'recovery']) name"
)
"""Whether the role may read the control file, as each role may unless a managed service forbids it."""

_TIMELINE_OF_CHECKPOINT = (
    "(SELECT greatest(timeline_id, min_recovery_end_timeline) FROM pg_control_checkpoint(), pg_control_recovery())"
)
# Whether the server is a standby is asked once, because it may be promoted meanwhile: its last replayed position stays
# then. The LSN is read before the timeline, so that the timeline is never older.
_STANDING = """
SELECT is_standby,
    (CASE WHEN is_standby THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END)::text,
    CASE WHEN is_standby THEN coalesce((SELECT received_tli FROM pg_stat_wal_receiver), {timeline})
        ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer END,
    pg_snapshot_xmin(pg_current_snapshot())::text::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
    (SELECT oid::bigint FROM pg_database WHERE datname = current_database()), {cluster},
    (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint,
    is_standby AND EXISTS (SELECT FROM pg_stat_wal_receiver WHERE received_tli IS NOT NULL)
FROM (SELECT pg_is_in_recovery() AS is_standby OFFSET 0) now
"""
STANDING = {
    True: text(
        _STANDING.format(
            timeline=_TIMELINE_OF_CHECKPOINT, cluster="(SELECT system_identifier FROM pg_control_system())"
        )
    ),
    False: text(_STANDING.format(timeline="NULL::integer", cluster="NULL::bigint")),
}
"""The SQL of a `Standing`, by whether the role may read the control file."""


class Has(Enum):
    """Whether a server has all that was committed before a position."""

    YES = "yes"
    NOT_YET = "not yet"
    NEVER = "never"
    """Or it cannot be known: the server is on another timeline, or is another one."""


@dataclass(frozen=True)
class Position:
    """A position in the log of a server."""

    lsn: int
    timeline: int
    xmax: int
    """Each transaction that was complete has a lower ID."""
    database: int
    cluster: int | None
    """The system identifier, if the role may read it."""
    started: int | None
    """When the server was started, in microseconds; `None` for a standby."""

    def __str__(self) -> str:
        rest = (self.timeline, self.xmax, self.database, self.cluster, self.started)
        return ".".join([_lsn_text(self.lsn), *("" if part is None else f"{part:x}" for part in rest)])

    @classmethod
    def parse(cls, value: object) -> Position:
        """Read the text of a position. Raises `TypeError` and `ValueError`."""
        if not isinstance(value, str):
            raise TypeError(f"a position is the text that `current_lsn()` returned, and not {type(value).__name__}")
        found = _TEXT.fullmatch(value)
        if found is None:
            raise ValueError("this is no position of the log: pass the text that `current_lsn()` returned, unchanged")
        lsn, *rest = found.group(*_PARTS)
        timeline, xmax, database, cluster, started = (int(part, 16) if part else None for part in rest)
        return cls(lsn_of(lsn), timeline or 0, xmax or 0, database or 0, cluster, started)


@dataclass(frozen=True)
class Standing:
    """A server, and how far its log has come at one moment."""

    is_standby: bool
    lsn_text: str
    """The position that a standby has replayed, or a primary written."""
    timeline: int | None
    """`None` if the role may see none of a standby."""
    xmin: int
    xmax: int
    database: int
    cluster: int | None
    started: int
    timeline_is_received: bool
    """Whether the timeline of a standby is the one that it receives, and not that of its last checkpoint."""

    @property
    def position(self) -> Position:
        """The position behind all that is committed."""
        started = None if self.is_standby else self.started
        return Position(lsn_of(self.lsn_text), self.timeline or 0, self.xmax, self.database, self.cluster, started)

    def has(self, position: Position) -> Has:
        """Return whether all that was committed before a position is visible here."""
        if not self._is_of_same_history(position):
            return Has.NEVER
        if self.timeline != position.timeline:
            # One that has passed a later failover does not show where.
            return Has.NEVER
        # The primary writes records that are no commits, and sends them only with the next commit. So a standby without
        # them has all commits if each transaction of the position is complete there too.
        is_there = lsn_of(self.lsn_text) >= position.lsn or (self.is_standby and self.xmin >= position.xmax)
        return Has.YES if is_there else Has.NOT_YET

    def _is_of_same_history(self, position: Position) -> bool:
        if self.database != position.database or self.cluster != position.cluster:
            return False
        if self.is_standby:
            return self.cluster is not None
        # Two standbys that were both promoted are on one timeline, with other records.
        return self.started == position.started if position.started else self.cluster is not None


def lsn_of(value: str) -> int:
    """Return the number of an LSN such as 0/16B3748."""
    high, low = value.split("/")
    return int(high, 16) << 32 | int(low, 16)


def _lsn_text(lsn: int) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def standing_of(session: Session) -> Standing:
    """Ask a server how far it has come."""
    return Standing(*session.execute(STANDING[bool(session.scalar(SEES_CONTROL))]).one())
