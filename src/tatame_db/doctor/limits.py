"""From when on a line warns, and from when on it is bad; and why."""

from __future__ import annotations

from dataclasses import dataclass

from tatame_db.settings import SLOW_STATEMENT_MS


@dataclass(frozen=True)
class Limits:
    """The thresholds of all lines, in the units of their names; the shares are from 0 to 1."""

    line_seconds: int = 5
    """No query of the catalogue takes as long on a healthy server; the doctor must not become a slow statement."""
    whole_seconds: int = 120
    """A person waits at the terminal, and a job of CI must end. The comparison with the migrations takes most of it."""

    round_trip_warn_ms: float = 20
    """A request of an app makes ten round trips or more: at this limit they take 0.2 s, however fast its queries."""
    support_warn_days: int = 180
    """Time to plan an upgrade to the next major version."""
    support_bad_days: int = 0
    """After its end, a version gets no fix of any flaw."""

    ids_warn: float = 0.5
    """A change from int to bigint takes weeks of planning, and the second half goes as fast as the first or faster."""
    ids_bad: float = 0.8
    ids_warn_days: int = 730
    """The change of a large table takes weeks, and the rate may double meanwhile."""
    ids_bad_days: int = 90
    partitions_warn_days: int = 60
    """A job that creates one each month has failed once or twice, and there is time to see why."""
    partitions_bad_days: int = 14
    transaction_ids_warn: float = 0.5
    """Vacuum freezes tables from a tenth on by default, so at half it has failed for long."""
    transaction_ids_bad: float = 0.75
    connections_warn: float = 0.7
    """A deployment that starts the new processes before it stops the old ones doubles the connections."""
    connections_bad: float = 0.9
    wal_warn_times: float = 2
    """PostgreSQL keeps the log below `max_wal_size` by itself, unless a slot, an archive or the load prevents it."""

    slot_bad_mb: int = 1024
    """An unread slot keeps all WAL until the disk is full, and then the server stops."""
    prepared_warn_minutes: float = 5
    """A transaction manager commits within seconds; one that was forgotten keeps its locks forever."""
    prepared_bad_minutes: float = 60
    lag_warn_mb: float = 64
    """Four files of WAL: a standby that keeps up has much less to read."""
    lag_bad_mb: float = 1024
    replica_lag_warn_seconds: float = 60
    """A person who reads what another one saved a minute ago does not expect it to be missing."""

    transaction_warn_minutes: float = 5
    """Until the oldest transaction ends, vacuum can remove no row that was deleted since it began."""
    transaction_bad_minutes: float = 60
    idle_warn_minutes: float = 1
    """An app that waits for something else inside a transaction keeps its locks and its connection meanwhile."""
    idle_bad_minutes: float = 10
    blocked_warn_seconds: float = 5
    """Longer than people wait for a page; what waits behind it waits too."""
    blocked_bad_seconds: float = 60

    dead_rows: int = 10_000
    """Below it, a table is small enough to read the dead rows too."""
    dead_warn: float = 0.3
    """Autovacuum begins at a fifth, so at more than this share it does not keep up."""
    dead_bad: float = 0.6
    table_rows: int = 10_000
    """A smaller table is read as fast without an index, and needs no statistics."""
    scans: int = 1_000
    """Fewer are those of backups, migrations and people."""
    index_mb: float = 10
    """A smaller index costs little."""
    cache_reads: int = 1_000_000
    """Fewer pages say nothing: after a start, all are read from the disk once."""
    cache_warn: float = 0.9
    """Most pages that an app reads are those that it has read just before."""
    slow_ms: int = SLOW_STATEMENT_MS
    """From how long on the app logs a statement as slow by default."""
    slow_calls: int = 10
    """Fewer are those of people and of reports."""
    disk_warn: float = 0.1
    disk_bad: float = 0.03
    """A server without space stops, and a vacuum that would free some needs some first."""
    backup_warn_hours: float = 26
    """A nightly job starts at the same time each day, and its backup takes some time."""
    backup_bad_days: float = 7
    drill_warn_days: float = 8
    """A weekly job, and a day to see that it failed."""
    log_warn_mb: float = 500
    """The embedded server appends to one file, and nothing removes it."""


LIMITS = Limits()
