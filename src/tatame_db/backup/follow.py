"""The write-ahead log of a server is archived as it comes, so that every moment can be restored."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

import psycopg

from tatame_db.backup.archive import begin_anew, note_gap, reach_of, read_archive
from tatame_db.backup.archive_errors import (
    ArchiveFull,
    ArchiveGap,
    ArchiveOfOther,
    FollowRefused,
    ReceiverFailed,
    SlotsTaken,
)
from tatame_db.backup.branches import differing, enter_timeline, lost_by
from tatame_db.backup.contents import lift_limits
from tatame_db.backup.errors import FolderUnusable
from tatame_db.backup.folder import Backup, complete
from tatame_db.backup.manifest import read_manifest
from tatame_db.backup.marks import Mark, State, add_mark, read_state
from tatame_db.backup.programs import program_for
from tatame_db.backup.receiver import REMOVED, Receiver, complete_part, gap_in, receiving
from tatame_db.backup.silence import Silence
from tatame_db.backup.slot import alone, session, slot_of
from tatame_db.backup.waldump import lsn_text
from tatame_db.backup.walsender import timelines_of, walsender
from tatame_db.database.dialect import quoted
from tatame_db.database.errors import DatabaseUnavailable
from tatame_db.errors import TatameError
from tatame_db.server.wheel import MAJOR_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path
    from typing import IO

    from tatame_db.backup.slot import Connection
    from tatame_db.database.pool import Database

_MARK_SECONDS = 10.0
_TICKS = 10
_QUICK_SECONDS = 0.1
# A server that is being restarted answers for some moments more; one that still reads the slot for a dead client, too.
_TRIES = 4
_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0
_FULL = os.strerror(errno.ENOSPC)

_FACTS = """
SELECT current_setting('server_version_num')::int / 10000, current_setting('server_version'), pg_is_in_recovery(),
    (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user), current_user::text,
    current_setting('wal_level'), (SELECT system_identifier::text FROM pg_control_system()),
    (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size')
"""
_MARK = "SELECT clock_timestamp(), pg_logical_emit_message(true, 'tatame_backup', '')"
# Its commit, which waits for the disk, has written there every commit that was visible before it. What was inserted
# since may stay in memory for long.
_POSITION = """
SELECT ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::int,
    (pg_current_wal_flush_lsn() - '0/0')::bigint
"""
_SLOT = """
SELECT active, wal_status, (restart_lsn - '0/0')::bigint, (pg_current_wal_flush_lsn() - '0/0')::bigint,
    clock_timestamp(), slot_type
FROM (SELECT) AS one LEFT JOIN pg_replication_slots ON slot_name = %s
"""


@dataclass(frozen=True)
class Received:
    """What an archive has of the write-ahead log."""

    slot: str
    lsn: str
    """The position up to which it is on the disk."""
    until: datetime | None
    """The time up to which every commit is in it, by the clock of the server; `None` before the first mark."""
    lag_bytes: int
    lag_seconds: float | None


@dataclass(frozen=True)
class FollowChoices:
    """How to archive: `after_gap` goes on after a gap, which stays; a mark says each while how far the archive is."""

    after_gap: bool = False
    mark_seconds: float = _MARK_SECONDS


def follow_wal(
    database: Database,
    folder: Path,
    choices: FollowChoices | None = None,
    *,
    stop: Event | None = None,
    on_received: Callable[[Received], None] = lambda _: None,
    on_words: Callable[[str], None] = lambda _: None,
) -> None:
    """Archive the write-ahead log of a server into a folder of backups, until `stop` is set or Ctrl-C.

        backup.follow_wal(database, Path("/srv/backups"))

    A replication slot keeps on the server what is not archived yet, also while this does not run. A lost connection is
    made again for as long as it takes; only the first one has to succeed. What is reported is on the disk.

    Raises `FollowRefused`, `ArchiveFollowed`, `ArchiveOfOther`, `ArchiveDamaged`, `ArchiveGap`, `ArchiveFull`,
    `ReceiverFailed`, `SlotsTaken`, `FolderUnusable`, `DatabaseUnavailable`.
    """
    folder = folder.expanduser().absolute()
    with alone(folder) as lock:
        try:
            _Follower(database, folder, choices or FollowChoices(), stop or Event(), lock, on_received, on_words).run()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise ArchiveFull(folder=folder, slot=slot_of(folder)) from error
            raise FolderUnusable(folder=folder, reason=error.strerror or str(error)) from error


class _ReceiverEnded(Exception):
    """pg_receivewal ended; its argument is the end of its output."""


@dataclass
class _Follower:
    database: Database
    folder: Path
    choices: FollowChoices
    stop: Event
    lock: IO[str]
    on_received: Callable[[Received], None]
    on_words: Callable[[str], None]
    was_connected: bool = False
    failures: int = 0
    """Ends of pg_receivewal, or of connections, since it last received anything."""
    position: int = 0
    timeline: int = 0

    def __post_init__(self) -> None:
        self.slot = slot_of(self.folder)
        self.state: State | None = read_state(self.folder)
        self.silence = Silence(self.stop, self.on_words)

    def run(self) -> None:
        """Receive until the end, and connect again when the connection is lost."""
        with self.silence:
            self._run()

    def _run(self) -> None:
        while not self.stop.is_set():
            self.silence.begin()
            try:
                with session(self.database) as connection:
                    self._try(connection)
            except (DatabaseUnavailable, psycopg.OperationalError) as error:
                if self.stop.is_set():
                    break
                if not self.was_connected:
                    raise
                self.failures += 1
                if self.failures == 1:
                    [first, *_] = str(error).splitlines() or [""]
                    self.on_words(f"the connection is lost, and is tried again: {first}")
            if self.failures:
                self.stop.wait(min(_LONGEST_PAUSE_SECONDS, _PAUSE_SECONDS * self.failures))

    def _try(self, connection: Connection) -> None:
        with self.silence.asking(connection):
            # A standby that is away must not hold up a mark.
            connection.execute("SET synchronous_commit = local")
            lift_limits(connection, scope="SESSION")
            connection.execute("SET statement_timeout = '60s'")
        try:
            program, state = self._prepare(connection)
            if not self.was_connected:
                self.on_words(
                    f"the slot {self.slot} keeps the log on the server while this command does not run;"
                    f" `tatame-db backup {self.folder} --stop-following` drops it"
                )
            self.was_connected = True
            with receiving(program, self.database.address, self.folder, self.slot, lock=self.lock) as receiver:
                self._receive(connection, receiver, state)
        except _ReceiverEnded as ended:
            self._explain(connection, str(ended))
        except ArchiveGap as gap:
            self._go_on_after(connection, gap)

    def _prepare(self, connection: Connection) -> tuple[Path, State]:
        """Ask the server, create the slot where it is missing, and refuse what leaves a gap."""
        facts = self._row(connection, _FACTS)
        major, version, is_standby, replicates, role, level, identifier, segment_bytes = facts

        def refused(reason: str, advice: str) -> FollowRefused:
            return FollowRefused(address=self.database.address, reason=reason, advice=advice)

        if str(major) != MAJOR_VERSION:
            reason = f"it is PostgreSQL {version}, and only PostgreSQL {MAJOR_VERSION} can be restored here"
            raise refused(reason, "use the tools of that version, such as its own pg_receivewal")
        if not replicates:
            raise refused(
                f"the role {role} lacks the right REPLICATION",
                f"run `ALTER ROLE {quoted(role)} REPLICATION` as a superuser, or use the backup role of"
                " `tatame-db roles`",
            )
        if is_standby:
            raise refused("it is a standby", "name its primary")
        if level == "minimal":
            raise refused("`wal_level` is minimal", "set `wal_level = replica`, and restart the server")
        if self.state and self.state.system_identifier != identifier:
            raise ArchiveOfOther(folder=self.folder)
        program = program_for("pg_receivewal", self.database.address, encrypted=connection.pgconn.ssl_in_use)
        _, status, restart, *_, kind = self._slot(connection)
        if status == "lost":
            raise self._gap("the server has removed what the slot was for, because it held too much")
        if self.state is None:
            self.state = State(identifier, self.slot, segment_bytes)
            self.state.write(self.folder)
        # A slot of the server's past was confirmed by this archive; one of another server never was.
        self._compare(self.state, confirmed=restart or 0)
        if kind is not None and restart is None:
            self._row(connection, "SELECT pg_drop_replication_slot(%s)", self.slot)
            kind = None
        if kind is None:
            self._create_slot(connection)
        return program, self.state

    def _compare(self, state: State, *, confirmed: int) -> None:
        """Compare the archive with the log of the server, before anything is received.

        Raises `ArchiveGap`, `_ReceiverEnded`.
        """
        complete_part(self.folder, state.segment_bytes)
        if (archive := read_archive(self.folder)) is None:
            return
        try:
            timelines, reason = differing(self.database.address, archive, confirmed, self.silence)
        except psycopg.OperationalError as error:
            # pg_receivewal would end so too.
            raise _ReceiverEnded(f"  {error}") from error
        if reason:
            raise self._gap(reason)
        self.timeline = max(timelines)
        enter_timeline(self.folder, archive, timelines)

    def _create_slot(self, connection: Connection) -> None:
        if self.state and self.state.mark:
            was_there = self.state.mark.timeline == self.timeline
            reason = "has been dropped on the server; it" if was_there else "is not on the new primary yet, and"
            self.on_words(f"the slot {self.slot} {reason} is created {'again' if was_there else 'there'}")
        try:
            self._row(connection, "SELECT pg_create_physical_replication_slot(%s, true)", self.slot)
        except psycopg.errors.ConfigurationLimitExceeded as error:
            raise SlotsTaken(address=self.database.address) from error

    def _follow_timelines(self) -> None:
        """See on which timeline the server is now. Raises `ArchiveGap`, `_ReceiverEnded`."""
        try:
            with walsender(self.database.address, self.silence) as connection:
                timelines, _ = timelines_of(connection)
        except psycopg.OperationalError as error:
            raise _ReceiverEnded(f"  {error}") from error
        archive = read_archive(self.folder)
        if archive and (reason := lost_by(archive, timelines)):
            raise self._gap(reason)
        self.timeline = max(timelines)

    def _receive(self, connection: Connection, receiver: Receiver, state: State) -> None:
        """Mark and report until the end. Raises `_ReceiverEnded`, `ArchiveGap`."""
        due, pending, has_reported = 0.0, None, False
        tick = self.choices.mark_seconds / _TICKS
        while not self.stop.wait(min(tick, _QUICK_SECONDS) if pending or not has_reported else tick):
            if receiver.has_ended:
                raise _ReceiverEnded(receiver.output())
            _, status, restart, flushed, now, _ = self._slot(connection)
            if status == "lost":
                raise self._gap("the server has removed what the slot was for, because it held too much")
            received = restart or 0
            if received > self.position:
                self.position, self.failures = received, 0
            if pending and pending.timeline != self.timeline:
                # pg_receivewal was connected later than this session, to a standby that was promoted meanwhile.
                self._follow_timelines()
            if pending and received >= pending.lsn:
                self.state = state = add_mark(self.folder, state, pending)
                self.on_received(self._report(state, received, flushed, now))
                if not has_reported:
                    note_gap(self.folder, None)
                if not has_reported and not self._continues_a_backup():
                    self.on_words(f"no backup in {self.folder} is continued by this archive yet: make one now")
                pending, has_reported = None, True
            if time.monotonic() >= due:
                if pending:
                    self.on_received(self._report(state, received, flushed, now))
                pending = pending or self._mark(connection)
                due = time.monotonic() + self.choices.mark_seconds

    def _continues_a_backup(self) -> bool:
        archive = read_archive(self.folder)
        for path in complete(self.folder):
            with contextlib.suppress(TatameError):
                reach = reach_of(archive, Backup(path, read_manifest(path)))
                if reach and reach.segments and not reach.gap:
                    return True
        return False

    def _mark(self, connection: Connection) -> Mark:
        """Commit a transaction that leaves nothing but its commit."""
        [moment, _] = self._row(connection, _MARK)
        [timeline, lsn] = self._row(connection, _POSITION)
        return Mark(moment, timeline, lsn)

    def _report(self, state: State, received: int, flushed: int, now: datetime) -> Received:
        until = state.mark.time if state.mark else None
        return Received(
            slot=self.slot,
            lsn=lsn_text(received),
            until=until,
            lag_bytes=max(0, flushed - received),
            lag_seconds=max(0.0, (now - until).total_seconds()) if until else None,
        )

    def _slot(self, connection: Connection) -> tuple[Any, ...]:
        return self._row(connection, _SLOT, self.slot)

    def _row(self, connection: Connection, query: str, *values: str) -> tuple[Any, ...]:
        with self.silence.asking(connection):
            [row] = connection.execute(query.encode(), values or None).fetchall()
        return row

    # The end of pg_receivewal

    def _explain(self, connection: Connection, output: str) -> None:
        """Raise the error for an end that another try would meet again; else return. Raises `ArchiveGap` and others."""
        if _FULL in output:
            raise ArchiveFull(folder=self.folder, slot=self.slot)
        reason = gap_in(output)
        self.failures += not reason
        if self.failures >= _TRIES:
            # The server may report a gap in any language.
            if not self._begins_later(connection):
                raise ReceiverFailed(slot=self.slot, output=output)
            reason = REMOVED
        if reason:
            self._go_on_after(connection, self._gap(reason))
        else:
            self.on_words(f"pg_receivewal ended, and is started again:\n{output}")

    def _begins_later(self, connection: Connection) -> bool:
        """Whether the slot begins after the segment that the archive needs next."""
        _, _, restart, *_ = self._slot(connection)
        archive = read_archive(self.folder)
        newest = archive.newest if archive else None
        return bool(newest and self.state and restart and newest[1] + 1 < restart // self.state.segment_bytes)

    def _gap(self, reason: str) -> ArchiveGap:
        return ArchiveGap(folder=self.folder, slot=self.slot, reason=reason)

    def _go_on_after(self, connection: Connection, gap: ArchiveGap) -> None:
        """Begin at a new slot if that was chosen, else raise."""
        if not self.choices.after_gap:
            note_gap(self.folder, gap.reason)
            raise gap
        self.on_words(f"going on after a gap: {gap.reason}; make a new base backup now")
        if self.state:
            self.state = begin_anew(self.folder, self.state, gap.reason)
        with self.silence.asking(connection):
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [self.slot]
            )
        self.failures = 0
