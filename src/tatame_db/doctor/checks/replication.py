"""What waits for another server or program: slots, prepared transactions, standbys, the archive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.database.address import readable
from tatame_db.database.errors import DatabaseUnavailable, NotAReplica
from tatame_db.database.pool import Database
from tatame_db.database.positions import standing_of
from tatame_db.doctor import advice
from tatame_db.doctor.finding import bad, duration, good, named, size, unknown, warn, worst
from tatame_db.doctor.lines import line
from tatame_db.move.follow.slot import PREFIX

if TYPE_CHECKING:
    from tatame_db.database.health import Health
    from tatame_db.database.positions import Standing
    from tatame_db.doctor.examination import Examination
from tatame_db.doctor.finding import Answer

_GROUP = "Replication"
_MB = 1024**2
_READERS = {PREFIX: "tatame-db move follow", "tatame_backup_": "tatame-db backup DIR --follow"}
"""The commands of this package that read a slot, by the beginning of its name."""


@line(
    _GROUP,
    warns="a slot is not read",
    bad="it keeps {slot_bad_mb} MB of WAL or more, or the server may remove what it needs",
)
def slots(examination: Examination) -> Answer:
    """Replication slots that nothing reads: the server keeps its WAL for them until its disk is full."""
    answers: list[Answer | None] = []
    for name, status, held in examination.rows(_UNREAD_SLOTS):
        dropped = advice.sql(examination, (f"SELECT pg_drop_replication_slot('{name}')", advice.SUPERUSER))
        readers = [command for prefix, command in _READERS.items() if name.startswith(prefix)]
        others = "".join(f"continue with `{command}`, or " for command in readers)
        fix = f"{others}if nothing needs it any more, {dropped}"
        text = f"nothing reads the slot {name}, which keeps {size(held)} of WAL"
        worse = held >= examination.limits.slot_bad_mb * _MB or status in {"unreserved", "lost"}
        answers.append((bad if worse else warn)(text, fix))
    return worst(answers, good("the server keeps no WAL for a reader that is away"))


# A move reads its slot only now and then, by a session of the slot's name.
_UNREAD_SLOTS = """
SELECT slot_name::text, wal_status, coalesce(pg_wal_lsn_diff(
    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn), 0)::bigint
FROM pg_replication_slots
WHERE NOT active AND NOT temporary AND (restart_lsn IS NOT NULL OR wal_status = 'lost')
    AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = slot_name)
ORDER BY 3 DESC, 1
"""


@line(
    _GROUP,
    warns="a transaction is prepared for {prepared_warn_minutes:g} min or longer",
    bad="for {prepared_bad_minutes:g} min or longer",
)
def prepared_transactions(examination: Examination) -> Answer:
    """Transactions that `PREPARE TRANSACTION` left open: they keep their locks, also after a restart."""
    limits = examination.limits
    number, oldest = examination.row(
        "SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(prepared)), 0) FROM pg_prepared_xacts"
        " WHERE database = current_database()"
    )
    if not number or oldest < limits.prepared_warn_minutes * 60:
        return good(f"{number} open" if number else "none")
    return (bad if oldest >= limits.prepared_bad_minutes * 60 else warn)(
        f"{number} open, the oldest for {duration(oldest)}",
        "finish them with the program that prepared them; if it has forgotten them, run the statements that are printed"
        f" by {advice.sql(examination, (_PREPARED, advice.SUPERUSER))}",
    )


_PREPARED = (
    "SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts WHERE database = current_database()"
    " ORDER BY prepared"
)


@line(
    _GROUP,
    warns="a standby is {lag_warn_mb:g} MB of WAL behind",
    bad="it is {lag_bad_mb:g} MB behind",
    right="GRANT pg_read_all_stats TO {role}",
)
def standbys(examination: Examination) -> Answer | None:
    """How far the standbys are behind; or this server, if it is one."""
    limits = examination.limits
    if examination.known.standby:
        subject, behind = "this server is a standby, which refuses writes, and is", examination.value(_BEHIND)
        lags: list[tuple[str, float | None]] = [(subject, float(behind))]
    else:
        lags = [(f"the standby {name} is", lag) for name, lag in examination.rows(_STANDBYS)]
    if not lags:
        return None
    if any(lag is None for _, lag in lags):
        return unknown(
            f"{examination.known.role} may not see the standbys",
            advice.sql(examination, (f"GRANT pg_read_all_stats TO {examination.known.role}", advice.SUPERUSER)),
        )
    known = [(subject, lag or 0) for subject, lag in lags]
    answers = [
        (bad if lag >= limits.lag_bad_mb * _MB else warn)(
            f"{subject} {size(lag)} of WAL behind",
            "look at the load, the disk and the network of the standby, and for a long query on it",
        )
        for subject, lag in known
        if lag >= limits.lag_warn_mb * _MB
    ]
    return worst(answers, good(named([f"{subject} {size(lag)} behind" for subject, lag in known])))


# A standby that was started without its primary has received less than it had replayed before.
_BEHIND = (
    "SELECT greatest(coalesce(pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), 0), 0)::bigint"
)
_STANDBYS = """
SELECT coalesce(nullif(application_name, ''), 'without a name'),
    pg_wal_lsn_diff(pg_current_wal_lsn(), coalesce(replay_lsn, flush_lsn, write_lsn, sent_lsn))::bigint
FROM pg_stat_replication ORDER BY 2 DESC NULLS FIRST
"""


@line(
    _GROUP,
    warns="it does not answer, leads to the primary, cannot be compared, or is {replica_lag_warn_seconds:g} s behind"
    " or more",
    bad="its address cannot be read, it is a copy of another database, or has another timeline than the primary",
)
def replica(examination: Examination) -> Answer | None:
    """The server of `DATABASE_REPLICA_URL`, from which the app reads with `db.replica`."""
    address, problem = examination.setup.replica, examination.setup.replica_problem
    if address is None:
        return bad(problem.what, problem.fix) if problem else None
    with Database(
        examination.address,
        replica_address=address,
        pool_size=1,
        connect_timeout_seconds=max(2, examination.limits.line_seconds),
        application_name="tatame-db doctor",
    ) as database:
        try:
            with database.replica.session() as session:
                standing = standing_of(session)
        except NotAReplica as error:
            return bad(error.what, error.fix)
        except DatabaseUnavailable as error:
            return warn(
                f"{error.what}; `db.reader` goes to the primary meanwhile, and other uses of `db.replica` fail",
                error.fix,
            )
        with database.session() as session:
            primary = standing_of(session)
        health = database.replica.check(examination.limits.line_seconds)
    where = readable(address)
    if standing.cluster is None:
        functions = "pg_control_system(), pg_control_checkpoint(), pg_control_recovery()"
        grant = f"GRANT EXECUTE ON FUNCTION {functions} TO {examination.known.role}", advice.SUPERUSER
        return warn(
            f"{examination.known.role} may not see whether {where} is a copy of this database",
            advice.sql(examination, grant),
        )
    if not primary.is_standby and standing.timeline != primary.timeline:
        return _of_another_timeline(where, standing, primary)
    return _answer_of(health, where, examination.limits.replica_lag_warn_seconds)


def _of_another_timeline(where: str, standing: Standing, primary: Standing) -> Answer:
    timelines = f"timeline {standing.timeline}, and the primary on {primary.timeline}"
    if not standing.is_standby:
        return bad(
            f"{where} is a primary of its own, on {timelines}: its rows are not those of the primary",
            "stop it, and make it a standby again with `pg_rewind` or a new `pg_basebackup`",
        )
    if standing.timeline_is_received:
        return bad(
            f"{where} follows another server than the primary: it is on {timelines}",
            "let its `primary_conninfo` lead to the primary; if it does not start to follow, rebuild it with"
            " `pg_rewind` or `pg_basebackup`",
        )
    return warn(
        f"at its last checkpoint, {where} was on {timelines}",
        "wait some minutes after a failover; if it stays so, look at its log, which says why it does not follow, and"
        " rebuild it with `pg_rewind` or `pg_basebackup`",
    )


def _answer_of(health: Health, where: str, warn_seconds: float) -> Answer:
    if not health.healthy:
        return warn(health.reason or "it does not answer", "read its log")
    if not health.is_standby:
        return warn(
            f"{where} leads to a primary, which `db.replica` does not relieve",
            "set `DATABASE_REPLICA_URL` to a standby, or add `target_session_attrs=standby` to it",
        )
    if health.lag_seconds is None or health.lag_seconds >= warn_seconds:
        lag = "by an unknown time" if health.lag_seconds is None else duration(health.lag_seconds)
        return warn(
            f"the replica is {lag} behind, or receives nothing",
            "look whether it is connected to its primary, at its load, and for a long query on it",
        )
    return good(f"it is {duration(health.lag_seconds)} behind at most")


@line(_GROUP, bad="the newest file of WAL could not be archived, or no command archives it")
def archiving(examination: Examination) -> Answer | None:
    """Whether the archive has all WAL, without which a backup cannot be restored up to now."""
    row = examination.row(_ARCHIVE)
    if row.mode == "off":
        return None
    fix = "run `archive_command` of the server by hand, as the user of the server, and read its log"
    if row.nothing:
        return bad(
            "`archive_mode` is on without a command, so the server keeps all WAL",
            "set `archive_command` to that of the backup tool and reload the server; without such a tool, turn"
            " `archive_mode` off and restart it",
        )
    if row.failing:
        return bad(
            f"archiving fails, last {duration(row.seconds)} ago; the server keeps its WAL until it succeeds", fix
        )
    return good("the newest file that is complete is archived")


_ARCHIVE = """
SELECT current_setting('archive_mode') AS mode,
    last_failed_time > coalesce(last_archived_time, '-infinity') AS failing,
    extract(epoch FROM clock_timestamp() - last_failed_time) AS seconds,
    current_setting('archive_command') = '' AND coalesce(current_setting('archive_library', true), '') = '' AS nothing
FROM pg_stat_archiver
"""
