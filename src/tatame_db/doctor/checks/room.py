"""What runs out one day: ids, transaction ids, connections, and the space of the write-ahead log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tatame_db.doctor import advice
from tatame_db.doctor.finding import bad, good, named, size, unknown, warn, worst
from tatame_db.doctor.lines import line

if TYPE_CHECKING:
    from tatame_db.doctor.examination import Examination
from tatame_db.doctor.finding import Answer

_GROUP = "Room"
# A vacuum freezes what is older; beyond it, PostgreSQL refuses writes.
_TRANSACTION_IDS = 2**31
_FOREVER_DAYS = 36_500
# An import, or a few rows added by hand, are faster than any app for a moment.
_SHORTEST_RATE_SECONDS = 3_600
_READ_ALL = (
    "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {role}"
)


@line(
    _GROUP,
    warns="{ids_warn:.0%} are used, or they end within {ids_warn_days} days",
    bad="{ids_bad:.0%} are used, or they end within {ids_bad_days} days",
    right=_READ_ALL,
)
def ids(examination: Examination) -> Answer | None:
    """How many ids each sequence and each key of 32 bits has left, and about when they end at the present rate."""
    keys = examination.rows(_KEYS)
    if not keys:
        return None
    role, hidden = examination.known.role, [row.name for row in keys if not row.readable]
    used = [(_last_id(examination, row), row) for row in keys if row.readable]
    used.sort(key=lambda pair: pair[0] / pair[1].largest, reverse=True)
    answers = [_answer_of_key(examination, last, row) for last, row in used]
    if hidden:
        grant = _READ_ALL.format(role=role), advice.SUPERUSER
        unread = unknown(f"{role} may not read {named(hidden)}", advice.sql(examination, grant))
        return worst([*answers, unread], unread)
    last, row = used[0]
    return worst(answers, good(f"{row.name} has used the most: {last / row.largest:.1%} of {row.largest:,}"))


def _last_id(examination: Examination, key: Any) -> int:
    if key.sequence:
        return int(key.last or 0)
    return _largest_id(examination, key)


def _largest_id(examination: Examination, key: Any) -> int:
    # The index of the key finds it at once.
    return int(examination.value(f"SELECT coalesce(max({key.column}), 0) FROM {key.place}"))


def _answer_of_key(examination: Examination, last: int, key: Any) -> Answer | None:
    limits, share = examination.limits, last / key.largest
    days = _days_left(examination, last, key)
    if share < limits.ids_warn and days >= limits.ids_warn_days:
        return None
    text = f"{key.name} has used {share:.0%} of {key.largest:,} ids"
    if days < _FOREVER_DAYS:
        text += f", which end about {datetime.now(UTC) + timedelta(days=days):%B %Y} at the present rate"
    worse = share >= limits.ids_bad or days < limits.ids_bad_days
    enlarge = (
        "before they end and each new row fails, change the key and what refers to it to bigint by a migration, which"
        f" rewrites the tables while nothing can read them: {advice.sql(examination, (key.enlarge, key.owner))}"
    )
    if key.place and last > (largest := _largest_id(examination, key)) * 2:
        # By hand, or by an import that skipped ids.
        statement = f"SELECT setval({key.sequence_name}, {max(largest, 1)}, {str(largest > 0).lower()})"
        back = advice.sql(examination, (statement, key.owner))
        return (bad if worse else warn)(
            f"{text}, and the largest id of a row is {largest:,}",
            f"if no row ever had a larger one, set the sequence back: {back}; otherwise, {enlarge}",
        )
    return (bad if worse else warn)(text, enlarge)


def _days_left(examination: Examination, last: int, key: Any) -> float:
    """Return the days until the last id, at the rate of the newest tenth of the rows, or a century if it is not known.

    It is known if these rows were created over an hour or more. There is an index on the key and none on the time, so
    the rows are found by the key.
    """
    if not (key.timed and last):
        return _FOREVER_DAYS
    found = examination.row(_RATE.format(key=key.column, place=key.place))
    if found.ids <= 0 or found.seconds < _SHORTEST_RATE_SECONDS:
        return _FOREVER_DAYS
    return min(_FOREVER_DAYS, float((key.largest - last) / (found.ids / found.seconds) / 86_400))


_RATE = """
SELECT newest.key - older.key AS ids, extract(epoch FROM newest.at - older.at) AS seconds
FROM (SELECT t.{key}::bigint AS key, t.created_at AS at FROM {place} t ORDER BY t.{key} DESC LIMIT 1) newest,
    LATERAL (SELECT t.{key}::bigint AS key, t.created_at AS at FROM {place} t
        WHERE t.{key} >= newest.key - greatest(newest.key / 10, 1) ORDER BY t.{key} LIMIT 1) older
UNION ALL SELECT 0, 0 ORDER BY 1 DESC LIMIT 1
"""
# For each key of one column and each sequence: the largest id that the sequence, its column and all columns that refer
# to it can hold. A sequence that starts again, or counts down, does not end in this sense.
_KEYS = """
WITH number (oid, largest) AS (VALUES
    ('smallint'::regtype, 32767), ('integer'::regtype, 2147483647), ('bigint'::regtype, 9223372036854775807)
), key AS (
    SELECT c.oid AS relid, c.relname, c.relowner, a.attnum, a.attname, n.largest,
        CASE WHEN a.atttypid <> 'bigint'::regtype
            THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE bigint', c.oid::regclass, a.attname) END AS enlarge,
        EXISTS (SELECT FROM pg_attribute t WHERE t.attrelid = c.oid AND t.attname = 'created_at'
            AND t.atttypid IN ('timestamp'::regtype, 'timestamptz'::regtype)) AS timed
    FROM pg_constraint k
    JOIN pg_class c ON c.oid = k.conrelid
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.conkey[1]
    JOIN number n ON n.oid = a.atttypid
    WHERE k.contype = 'p' AND cardinality(k.conkey) = 1 AND k.conparentid = 0
        AND c.relnamespace = to_regnamespace('public')
), referring AS (
    SELECT k.confrelid AS relid, k.confkey[1] AS attnum, min(n.largest) AS largest,
        string_agg(format('ALTER TABLE %s ALTER COLUMN %I TYPE bigint', k.conrelid::regclass, a.attname), '; '
            ORDER BY k.oid) FILTER (WHERE a.atttypid <> 'bigint'::regtype) AS enlarge
    FROM pg_constraint k
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
    JOIN number n ON n.oid = a.atttypid
    WHERE k.contype = 'f' AND cardinality(k.conkey) = 1 GROUP BY 1, 2
), sequence AS (
    SELECT s.seqrelid, c.relname, c.relowner, s.seqmax,
        CASE WHEN s.seqmax < 9223372036854775807
            THEN format('ALTER SEQUENCE %s AS bigint NO MAXVALUE', s.seqrelid::regclass) END AS enlarge,
        s.seqincrement > 0 AND NOT s.seqcycle AS ends,
        has_sequence_privilege(s.seqrelid, 'SELECT, USAGE') AS readable, d.refobjid AS relid, d.refobjsubid AS attnum
    FROM pg_sequence s
    JOIN pg_class c ON c.oid = s.seqrelid AND c.relnamespace = to_regnamespace('public') AND c.relpersistence <> 't'
    LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.seqrelid
        AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
)
SELECT format('%s.%s', key.relname, key.attname) AS name, format('public.%I', key.relname) AS place,
    format('%I', key.attname) AS column, key.timed, sequence.seqrelid IS NOT NULL AS sequence,
    least(key.largest, referring.largest, sequence.seqmax) AS largest,
    CASE WHEN sequence.readable THEN pg_sequence_last_value(sequence.seqrelid) END AS last,
    coalesce(sequence.readable, true) AND has_table_privilege(key.relid, 'SELECT') AS readable,
    concat_ws('; ', referring.enlarge, key.enlarge, sequence.enlarge) AS enlarge,
    quote_ident(pg_get_userbyid(key.relowner)) AS owner, quote_literal(sequence.seqrelid::regclass) AS sequence_name
FROM key
LEFT JOIN sequence ON (sequence.relid, sequence.attnum) = (key.relid, key.attnum)
LEFT JOIN referring ON (referring.relid, referring.attnum) = (key.relid, key.attnum)
WHERE coalesce(sequence.ends, true)
UNION ALL
SELECT relname, NULL, NULL, false, true, seqmax,
    CASE WHEN readable THEN pg_sequence_last_value(seqrelid) END, readable, enlarge,
    quote_ident(pg_get_userbyid(relowner)), NULL
FROM sequence WHERE ends AND NOT EXISTS (
    SELECT FROM key WHERE (key.relid, key.attnum) = (sequence.relid, sequence.attnum))
ORDER BY 1
"""


@line(
    _GROUP,
    warns="{transaction_ids_warn:.0%} are used since the oldest row was frozen",
    bad="{transaction_ids_bad:.0%} are used",
)
def transaction_ids(examination: Examination) -> Answer:
    """How many ids of transactions are left until PostgreSQL refuses writes, so that none is used twice."""
    return _ages(examination, "age(datfrozenxid)", "transaction ids")


@line(_GROUP, warns="{transaction_ids_warn:.0%} are used", bad="{transaction_ids_bad:.0%} are used")
def multixact_ids(examination: Examination) -> Answer:
    """The same for the ids of rows that several transactions lock at once."""
    return _ages(examination, "mxid_age(datminmxid)", "multixact ids")


def _ages(examination: Examination, age: str, noun: str) -> Answer:
    limits = examination.limits
    database, oldest = examination.row(
        f"SELECT format('%I', datname), {age}::bigint FROM pg_database ORDER BY 2 DESC LIMIT 1"
    )
    share = oldest / _TRANSACTION_IDS
    text = f"{share:.1%} of the {noun} are used since the oldest row was frozen"
    if share < limits.transaction_ids_warn:
        return good(text)
    return (bad if share >= limits.transaction_ids_bad else warn)(
        f"{text}, in the database {database}",
        "find what holds vacuum back (a long transaction, a slot, a prepared transaction), then run"
        f" `VACUUM (FREEZE, VERBOSE)` in that database{advice.as_role(examination, advice.SUPERUSER)}",
    )


@line(
    _GROUP,
    warns="{connections_warn:.0%} of the connections are in use, or two processes with full pools do not fit",
    bad="{connections_bad:.0%} are in use, or one pool does not fit",
)
def connections(examination: Examination) -> Answer:
    """How many connections the server has for this role, how many are in use, and how many pools fit."""
    limits, pool = examination.limits, examination.setup.pool_size
    row = examination.row(_CONNECTIONS)
    fitting = row.available // pool
    fit = f"{fitting} {'process' if fitting == 1 else 'processes'} with a pool of {pool} fit{'s' * (fitting == 1)}"
    text = f"{row.used} of {row.available} are in use; {fit}"
    if row.used >= row.available * limits.connections_warn:
        return (bad if row.used >= row.available * limits.connections_bad else warn)(
            text, "lower `TATAME_POOL_SIZE`, put PgBouncer between the app and the server, or raise `max_connections`"
        )
    # Behind a pooler, the connections of a pool are not those of the server.
    if examination.known.pooled or row.available >= 2 * pool:
        return good(text if not examination.known.pooled else f"{row.used} of {row.available} are in use")
    return (bad if row.available < pool else warn)(
        text, "lower `TATAME_POOL_SIZE`, or raise the limit of the server, of the role or of the database"
    )


_CONNECTIONS = """
SELECT least(
        current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
            - coalesce(current_setting('reserved_connections', true)::integer, 0),
        nullif((SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user), -1),
        nullif((SELECT datconnlimit FROM pg_database WHERE datname = current_database()), -1)) AS available,
    (SELECT sum(numbackends)::integer FROM pg_stat_database) AS used
"""


@line(
    _GROUP,
    warns="the write-ahead log takes {wal_warn_times:g} times `max_wal_size` or more",
    right="GRANT pg_monitor TO {role}",
)
def space(examination: Examination) -> Answer:
    """The size of the database and of the write-ahead log."""
    database, wal, most = examination.row(
        "SELECT pg_database_size(current_database()), (SELECT sum(size) FROM pg_ls_waldir())::bigint,"
        " pg_size_bytes(current_setting('max_wal_size'))"
    )
    text = f"the database has {size(database)}, the write-ahead log {size(wal)}"
    if wal < most * examination.limits.wal_warn_times:
        return good(text)
    return warn(
        f"{text}, and `max_wal_size` is {size(most)}",
        "look at the lines `slots` and `archiving`; under a heavy load, raise `max_wal_size`",
    )
