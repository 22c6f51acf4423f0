"""What the sessions of this database do now: long and idle transactions, who waits for whom, and what limits them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tatame_db.doctor import advice
from tatame_db.doctor.finding import bad, duration, good, unknown, warn
from tatame_db.doctor.lines import line

if TYPE_CHECKING:
    from tatame_db.doctor.examination import Examination
from tatame_db.doctor.finding import Answer

_GROUP = "Sessions"
_SEE_SESSIONS = "GRANT pg_read_all_stats TO {role}"


@line(
    _GROUP,
    warns="one runs for {transaction_warn_minutes:g} min or longer",
    bad="for {transaction_bad_minutes:g} min or longer",
    right=_SEE_SESSIONS,
)
def long_transactions(examination: Examination) -> Answer:
    """Transactions that work for long: vacuum can remove no row that was deleted since the oldest one began."""
    limits = examination.limits
    found = _oldest(examination, "xact_start", "state NOT LIKE 'idle in transaction%'", limits.transaction_warn_minutes)
    return _answer(examination, found, "runs", limits.transaction_bad_minutes)


@line(
    _GROUP,
    warns="one is idle for {idle_warn_minutes:g} min or longer",
    bad="for {idle_bad_minutes:g} min or longer",
    right=_SEE_SESSIONS,
)
def idle_transactions(examination: Examination) -> Answer:
    """Transactions that wait for their program: their locks and their connection are lost to others meanwhile."""
    limits = examination.limits
    found = _oldest(examination, "state_change", "state LIKE 'idle in transaction%'", limits.idle_warn_minutes)
    return _answer(examination, found, "is idle", limits.idle_bad_minutes)


def _oldest(examination: Examination, since: str, condition: str, minutes: float) -> Any:
    return examination.row(_TRANSACTIONS.format(since=since, condition=condition), seconds=minutes * 60)


def _answer(examination: Examination, found: Any, does: str, bad_minutes: float) -> Answer:
    if found.pid is None and found.hidden:
        role = examination.known.role
        grant = _SEE_SESSIONS.format(role=role), advice.SUPERUSER
        return unknown(f"{role} may not see the sessions of other roles", advice.sql(examination, grant))
    if found.pid is None:
        return good("none")
    others = f", and {found.number - 1} more" if found.number > 1 else ""
    return (bad if found.seconds >= bad_minutes * 60 else warn)(
        f"the process {found.pid} of {found.role} {does} for {duration(found.seconds)}{others}",
        "fix the program that left it open; to end it,"
        f" {advice.sql(examination, (f'SELECT pg_terminate_backend({found.pid})', found.role))}",
    )


# The state of a session of another role is NULL without the right to see it.
_TRANSACTIONS = """
WITH session AS (
    SELECT pid, quote_ident(usename) AS role, state, {since} AS since,
        NOT (pg_has_role(usesysid, 'USAGE') OR pg_has_role('pg_read_all_stats', 'USAGE')) AS hidden
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND usesysid IS NOT NULL
        AND coalesce(backend_type, 'client backend') = 'client backend'
), old AS (
    SELECT *, extract(epoch FROM clock_timestamp() - since) AS seconds FROM session
    WHERE {condition} AND extract(epoch FROM clock_timestamp() - since) >= :seconds
), oldest AS (SELECT * FROM old ORDER BY seconds DESC LIMIT 1)
SELECT pid, role, seconds, (SELECT count(*) FROM old) AS number, (SELECT bool_or(hidden) FROM session) AS hidden
FROM (SELECT) AS one LEFT JOIN oldest ON true
"""


@line(
    _GROUP,
    warns="one waits for {blocked_warn_seconds:g} s or longer",
    bad="for {blocked_bad_seconds:g} s or longer",
)
def blocked_sessions(examination: Examination) -> Answer:
    """Sessions that wait for a lock, and for whom."""
    limits = examination.limits
    found = examination.rows(_BLOCKED, seconds=limits.blocked_warn_seconds)
    if not found:
        return good("none")
    first = found[0]
    holders = ", ".join(map(str, first.blockers))
    others = f"; {len(found) - 1} more wait too" if len(found) > 1 else ""
    pairs = zip(first.blockers, first.roles, strict=True)
    ends = [(f"SELECT pg_terminate_backend({pid})", role) for pid, role in pairs]
    return (bad if first.seconds >= limits.blocked_bad_seconds else warn)(
        f"the process {first.pid} waits for {duration(first.seconds)} for a lock of {holders}{others}",
        f"look at the process {holders} in `pg_stat_activity`; to end its transaction,"
        f" {advice.sql(examination, *ends)}",
    )


_BLOCKED = """
SELECT pid, seconds, blockers, ARRAY(
    SELECT coalesce(quote_ident(usename), 'a superuser') FROM unnest(blockers) WITH ORDINALITY AS b(pid, n)
    LEFT JOIN pg_stat_activity USING (pid) ORDER BY n) AS roles
FROM (
    SELECT l.pid, extract(epoch FROM clock_timestamp() - min(l.waitstart)) AS seconds,
        array_remove(pg_blocking_pids(l.pid), 0) AS blockers
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE NOT l.granted AND a.datname = current_database() GROUP BY l.pid
) waiting WHERE seconds >= :seconds AND cardinality(blockers) > 0 ORDER BY seconds DESC
"""


# A migration or a backup must not be ended, and a role that owns tables or is a superuser may be theirs.
_IS_APP = """
SELECT current_setting('is_superuser') = 'off' AND bool_or(has_table_privilege(oid, 'INSERT'))
    AND NOT bool_or(pg_has_role(relowner, 'USAGE'))
FROM pg_class WHERE relnamespace = to_regnamespace('public') AND relkind IN ('r', 'p')
"""


@line(_GROUP, warns="nothing limits a statement, or an idle transaction")
def time_limits(examination: Examination) -> Answer | None:
    """Whether the server ends the statements and idle transactions of the app that last too long."""
    if examination.embedded or not examination.value(_IS_APP):
        return None
    missing = {
        name: meaning
        for name, meaning in (
            ("statement_timeout", "a statement"),
            ("idle_in_transaction_session_timeout", "an idle transaction"),
        )
        if examination.setting(name) == "0"
    }
    if examination.setup.statement_timeout_ms:
        missing.pop("statement_timeout", None)
    if not missing:
        return good("statements and idle transactions are limited")
    limits = {"statement_timeout": "15s", "idle_in_transaction_session_timeout": "60s"}
    role = examination.known.role
    return warn(
        f"{' and '.join(missing.values())} of {role} may last forever",
        "; ".join(f"`ALTER ROLE {role} SET {name} = '{limits[name]}'`" for name in missing),
    )
