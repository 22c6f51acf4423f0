"""Tables that are partitioned by time: rows without a partition, now or soon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tatame_db.doctor import advice
from tatame_db.doctor.finding import bad, good, unknown, warn, worst
from tatame_db.doctor.lines import line

if TYPE_CHECKING:
    from tatame_db.doctor.examination import Examination
from tatame_db.doctor.finding import Answer


@line(
    "Room",
    warns="the last one ends within {partitions_warn_days} days, one is missing before it or is half detached, or a row"
    " is in a default partition",
    bad="rows of today or within {partitions_bad_days} days have no partition",
    right="GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
)
def partitions(examination: Examination) -> Answer | None:
    """Until when the tables that are partitioned by a range of time have partitions: a row without one is an error."""
    found = examination.rows(_PARTITIONED)
    if not found:
        return None
    ends = [row for row in found if row.default_place is None and row.start]
    lasting = f"the last one of {ends[0].name} ends on {ends[0].start}" if ends else "no table runs out of partitions"
    # Months that were dropped, or never created: only a row that is entered late belongs to them.
    lasting += "".join(f"; {row.name} has none for {row.past}" for row in found if row.past and not row.default_place)
    return worst((_answer_of_table(examination, row) for row in found), good(lasting))


def _answer_of_table(examination: Examination, row: Any) -> Answer | None:
    soon = row.days_left is not None and row.days_left < examination.limits.partitions_bad_days
    is_bad = soon and row.default_place is None
    if row.detached:
        return (bad if is_bad else warn)(
            f"the `DETACH` of {row.detached} was interrupted, so {row.name} lacks its rows and takes none for it",
            f"end it: {advice.sql(examination, (row.finalize, row.finalizer))}",
        )
    if row.default_place is not None:
        return _answer_of_default(examination, row)
    if row.days_left is None or (row.is_last and row.days_left >= examination.limits.partitions_warn_days):
        return None
    if not row.is_last:
        missing = f"from {row.start} to {row.stop}" if row.start else f"before {row.stop}"
        text = f"{row.name} has no partition {missing}"
    else:
        text = f"the last partition of {row.name} ends on {row.start}" if row.start else f"{row.name} has no partition"
    if row.childless:
        fix = f"{row.childless} is partitioned and has no partition: create those that its own key asks for"
    else:
        created = [] if row.exists else [(row.create, row.owner)]
        verb = "attach the one that exists" if row.exists else "create the next one"
        fix = (
            "a row without a partition is an error; see why the job that creates partitions does not, and"
            f" {verb}: {advice.sql(examination, *created, (row.attach, row.owner))}"
        )
    return (bad if is_bad else warn)(text, fix)


def _answer_of_default(examination: Examination, row: Any) -> Answer | None:
    if not row.readable:
        grant = f"GRANT SELECT ON {row.default_place} TO {examination.known.role}", row.default_owner
        return unknown(f"{examination.known.role} may not read {row.default_place}", advice.sql(examination, grant))
    if not examination.value(f"SELECT EXISTS (SELECT FROM {row.default_place})"):
        return None
    return warn(
        f"rows of {row.name} are in its default partition {row.default_place}",
        f"`SELECT min({row.column}), max({row.column}) FROM {row.default_place}` shows which partitions are missing:"
        " detach the default partition, create them, insert its rows into the table, and attach it again",
    )


# Of the tables with one column of time: the first range from now on in which a row has no partition. Partitions that
# are partitioned by the same column again count by those, others if they have any. The next partition is as long as
# the last one, or a month. If that lies before today, it is the one of today.
_PARTITIONED = """
WITH RECURSIVE ranged AS (
    SELECT t.partrelid AS oid, nullif(t.partdefid, 0) AS default_id, a.attname, a.atttypid
    FROM pg_partitioned_table t
    JOIN pg_attribute a ON a.attrelid = t.partrelid AND a.attnum = t.partattrs[0]
    WHERE t.partstrat = 'r' AND t.partnatts = 1
        AND a.atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
), child AS (
    SELECT i.inhparent AS parent, c.oid, c.relkind, c.relowner, i.inhdetachpending AS detached,
        substring(b.expression FROM $$FROM \\('(.*?)'\\)$$)::timestamptz AS lower,
        substring(b.expression FROM $$TO \\('(.*)'\\)$$)::timestamptz AS upper
    FROM ranged
    JOIN pg_inherits i ON i.inhparent = ranged.oid
    JOIN pg_class c ON c.oid = i.inhrelid
    CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS expression) b
), root AS (
    SELECT ranged.*, c.relname, c.relowner
    FROM ranged
    JOIN pg_class c ON c.oid = ranged.oid AND c.relnamespace = to_regnamespace('public')
    WHERE NOT EXISTS (SELECT FROM child JOIN ranged above ON above.oid = child.parent
        WHERE child.oid = ranged.oid AND above.attname = ranged.attname)
), part AS (
    SELECT root.oid AS root, 1 AS depth, root.attname, child.*,
        tstzrange(child.lower, nullif(child.upper, 'infinity')) AS range
    FROM root JOIN child ON child.parent = root.oid AND child.oid IS DISTINCT FROM root.default_id
    UNION ALL
    SELECT part.root, part.depth + 1, part.attname, child.parent, child.oid, child.relkind, child.relowner,
        part.detached OR child.detached, child.lower, child.upper,
        part.range * tstzrange(child.lower, nullif(child.upper, 'infinity'))
    FROM part
    JOIN ranged ON ranged.oid = part.oid AND ranged.attname = part.attname
    JOIN child ON child.parent = part.oid
), leaf AS (
    SELECT *, relkind = 'p' AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = part.oid) AS childless
    FROM part
    WHERE NOT detached AND NOT EXISTS (SELECT FROM ranged WHERE (oid, attname) = (part.oid, part.attname))
), missing AS (
    SELECT root.oid AS root, '{(,)}'::tstzmultirange
        - coalesce((SELECT range_agg(range) FROM leaf WHERE root = root.oid AND NOT childless), '{}') AS ranges
    FROM root
), gap AS (
    SELECT DISTINCT ON (root) root, lower(range) AS lower, upper(range) AS upper
    FROM missing, unnest(ranges) AS range
    WHERE upper_inf(range) OR upper(range) > now()
    ORDER BY root, range
), past AS (
    SELECT root, string_agg(format('%s to %s', lower(range)::date, upper(range)::date), ', ' ORDER BY range) AS ranges
    FROM missing, unnest(ranges) AS range
    WHERE NOT lower_inf(range) AND upper(range) <= now() GROUP BY root
), next AS (
    SELECT gap.*, length, CASE WHEN gap.lower + length > now() THEN gap.lower
        ELSE greatest(gap.lower, date_trunc(CASE WHEN length < interval '1 month' THEN 'day' ELSE 'month' END, now()))
        END AS first
    FROM gap
    CROSS JOIN LATERAL (SELECT coalesce((
        SELECT age(upper(range), lower(range)) FROM leaf WHERE leaf.root = gap.root AND upper(range) <= gap.lower
        AND isfinite(lower(range)) ORDER BY upper(range) DESC LIMIT 1), interval '1 month') AS length) l
), holding AS (
    SELECT next.*, holder.oid AS holder, c.relname, c.relowner, ranged.atttypid,
        least(first + length, next.upper, upper(holder.range)) AS stop,
        (SELECT leaf.oid FROM leaf WHERE leaf.root = next.root AND childless AND range @> first LIMIT 1) AS childless
    FROM next
    CROSS JOIN LATERAL (
        SELECT depth, part.oid, range FROM part JOIN ranged ON (ranged.oid, ranged.attname) = (part.oid, part.attname)
        WHERE part.root = next.root AND NOT detached AND range @> first
        UNION ALL SELECT 0, next.root, '(,)' ORDER BY depth DESC LIMIT 1
    ) holder
    JOIN pg_class c ON c.oid = holder.oid
    JOIN ranged ON ranged.oid = holder.oid
), named AS (
    SELECT holding.*, free.name AS partition, found.oid IS NOT NULL AS exists
    FROM holding
    CROSS JOIN LATERAL (SELECT left(relname, 40) || to_char(first, '_YYYY_MM') AS month,
        left(relname, 40) || to_char(first, '_YYYY_MM_DD') AS day) n
    CROSS JOIN LATERAL (SELECT CASE WHEN length < interval '1 month' OR EXISTS (SELECT FROM pg_class
        WHERE relnamespace = to_regnamespace('public') AND relname = n.month AND (relispartition OR relkind <> 'r'))
        THEN n.day ELSE n.month END AS name) free
    LEFT JOIN pg_class found ON found.relnamespace = to_regnamespace('public') AND found.relname = free.name
)
SELECT format('%I', root.relname) AS name, format('%I', root.attname) AS column,
    quote_ident(pg_get_userbyid(named.relowner)) AS owner,
    named.lower::date AS start, named.upper::date AS stop, named.upper IS NULL AS is_last, past.ranges AS past,
    CASE WHEN named.root IS NOT NULL THEN
        coalesce(extract(epoch FROM greatest(named.lower - now(), interval '0')) / 86400, 0) END AS days_left,
    half.oid::regclass::text AS detached,
    (SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = half.parent) AS finalizer,
    format('ALTER TABLE %s DETACH PARTITION %s FINALIZE', half.parent::regclass, half.oid::regclass) AS finalize,
    root.default_id::regclass::text AS default_place,
    (SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = root.default_id) AS default_owner,
    has_table_privilege(root.default_id, 'SELECT') AS readable,
    named.childless::regclass::text AS childless, named.exists,
    format('CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS)', quote_ident(partition), holder::regclass) AS create,
    format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', holder::regclass, quote_ident(partition),
        CASE named.atttypid WHEN 'date'::regtype THEN first::date::text
            WHEN 'timestamp'::regtype THEN first::timestamp::text ELSE first::text END,
        CASE named.atttypid WHEN 'date'::regtype THEN named.stop::date::text
            WHEN 'timestamp'::regtype THEN named.stop::timestamp::text ELSE named.stop::text END) AS attach
FROM root
LEFT JOIN named ON named.root = root.oid
LEFT JOIN past ON past.root = root.oid
LEFT JOIN LATERAL (SELECT * FROM part WHERE part.root = root.oid AND detached ORDER BY lower LIMIT 1) half ON true
ORDER BY named.lower NULLS FIRST, 1
"""
