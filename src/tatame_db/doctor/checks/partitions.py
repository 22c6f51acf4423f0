"""Tables that are partitioned by time: rows without a partition, now or soon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from tatame_db.doctor import advice
from tatame_db.doctor.failures import not_checked
from tatame_db.doctor.finding import bad, good, unknown, warn, worst
from tatame_db.doctor.lines import line
from tatame_db.evolve.id_columns import SCHEMAS

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
    found, others = examination.rows(_PARTITIONED), examination.rows(_OTHERS)
    if not found and not others:
        return None
    ends = [row for row in found if row.default_place is None and row.start]
    lasting = f"the last one of {ends[0].name} ends on {ends[0].start}" if ends else "no table runs out of partitions"
    # Months that were dropped, or never created: only a row that is entered late belongs to them.
    lasting += "".join(f"; {row.name} has none for {row.past}" for row in found if row.past and not row.default_place)
    answers = [_answer_of_table(examination, row) for row in found]
    return worst([*answers, *(_answer_of_other(examination, row) for row in others)], good(lasting))


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
        fix = (
            "a row without a partition is an error; see why the job that creates partitions does not, and"
            f" {_next_partition(examination, row)}"
        )
    return (bad if is_bad else warn)(text, fix)


def _next_partition(examination: Examination, row: Any) -> str:
    attach = row.attach, row.owner
    if not row.exists:
        return f"create the next one: {advice.sql(examination, (row.create, row.owner), attach)}"
    try:
        strange = examination.value(row.strange)
    except DBAPIError:
        # It is locked, or the role may not read it.
        strange = None
    if strange:
        return (
            f"move the rows of {row.partition} elsewhere that are not between its bounds; then attach it:"
            f" {advice.sql(examination, attach)}"
        )
    unless = " if all its rows are between the bounds" if strange is None else ""
    return f"attach the one that exists{unless}: {advice.sql(examination, attach)}"


def _answer_of_default(examination: Examination, row: Any) -> Answer | None:
    name = row.default_place
    if not row.readable:
        grant = f"GRANT SELECT ON {name} TO {examination.known.role}", row.default_owner
        return unknown(f"{examination.known.role} may not read {name}", advice.sql(examination, grant))
    if row.default_hidden:
        return unknown(
            f"row-level security hides rows of {name} from {examination.known.role}",
            "examine the database with the address of the owner of the tables, or of a role with BYPASSRLS",
        )
    try:
        if examination.value(f"SELECT EXISTS (SELECT FROM {name})"):
            look = f"min({row.column}), max({row.column})" if row.column else "*"
            return warn(
                f"rows of {row.name} are in its default partition {name}",
                f"`SELECT {look} FROM {name}` shows which partitions are missing:"
                " detach the default partition, create them, insert its rows into the table, and attach it again",
            )
    except DBAPIError as error:
        if examination.expired:
            raise
        return not_checked(examination, error, name)
    if row.default_divided:
        return unknown(
            f"the default partition {name} of {row.name} is partitioned by {row.default_divided} too, and may refuse"
            " rows",
            _LOOK.format(literal=row.default_literal),
        )
    return None


def _answer_of_other(examination: Examination, row: Any) -> Answer | None:
    if row.default_place is not None:
        return _answer_of_default(examination, row)
    return unknown(
        f"{row.name} is partitioned by {row.key}, so until when it has partitions is not known",
        _LOOK.format(literal=row.literal),
    )


_LOOK = (
    "see how far its partitions reach: `SELECT inhrelid::regclass, pg_get_expr(relpartbound, oid) FROM pg_class JOIN"
    " pg_inherits ON inhrelid = oid WHERE inhparent = {literal}::regclass`"
)


def _day(time: str) -> str:
    """Return the SQL that writes a time: a day, unless it is within one."""
    return f"CASE WHEN {time} = date_trunc('day', {time}) THEN {time}::date::text ELSE {time}::timestamp::text END"


# A default partition takes nothing if it is partitioned and no partition of it can hold a row. Another one that is
# partitioned by a range or a list takes all if it has a default partition of its own.
_DEFAULTS = """
default_tree AS (
    SELECT partrelid AS root, partdefid AS oid FROM pg_partitioned_table WHERE partdefid <> 0
    UNION ALL SELECT default_tree.root, inhrelid FROM default_tree JOIN pg_inherits ON inhparent = default_tree.oid
), usable AS (
    SELECT t.partrelid AS root, d.oid, d.relowner,
        CASE WHEN own.partstrat <> 'h' AND own.partdefid = 0 THEN pg_get_partkeydef(d.oid) END AS divided
    FROM pg_partitioned_table t
    JOIN pg_class d ON d.oid = t.partdefid
    LEFT JOIN pg_partitioned_table own ON own.partrelid = d.oid
    WHERE EXISTS (SELECT FROM default_tree JOIN pg_class c ON c.oid = default_tree.oid AND c.relkind <> 'p'
        WHERE default_tree.root = t.partrelid)
)
"""
_OF_DEFAULT = """
    usable.oid::regclass::text AS default_place, quote_literal(usable.oid::regclass) AS default_literal,
    quote_ident(pg_get_userbyid(usable.relowner)) AS default_owner,
    has_table_privilege(usable.oid, 'SELECT') AS readable,
    usable.oid IS NOT NULL AND row_security_active(usable.oid) AS default_hidden, usable.divided AS default_divided
"""
# Arithmetic with a year of five digits, or one before Christ, may exceed what PostgreSQL has: no row is there.
_FAR = "'(^|[^.0-9])[0-9]{5}'"
_TIMES = """(
    SELECT oid, CASE WHEN typtype = 'd' THEN typbasetype ELSE oid END AS base FROM pg_type
    WHERE 'date'::regtype IN (oid, typbasetype) OR 'timestamp'::regtype IN (oid, typbasetype)
        OR 'timestamptz'::regtype IN (oid, typbasetype))"""
_BOUND = """CASE named.atttypid WHEN 'date'::regtype THEN {time}::date::text
    WHEN 'timestamp'::regtype THEN {time}::timestamp::text ELSE {time}::text END"""
# Of the tables whose key is one column of time: the first range from now on in which a row has no partition.
# Partitions that are partitioned by the same column again count by those, others if they have any. The next partition
# is as long as the last one, or a month. If that lies before today, it is the one of today.
_PARTITIONED = f"""
WITH RECURSIVE {SCHEMAS}, {_DEFAULTS}, ranged AS (
    SELECT t.partrelid AS oid, nullif(t.partdefid, 0) AS default_id, a.attname, y.base AS atttypid
    FROM pg_partitioned_table t
    JOIN pg_attribute a ON a.attrelid = t.partrelid AND a.attnum = t.partattrs[0]
    JOIN {_TIMES} y ON y.oid = a.atttypid
    WHERE t.partstrat = 'r' AND t.partnatts = 1
), child AS (
    SELECT i.inhparent AS parent, c.oid, c.relkind, c.relowner, i.inhdetachpending AS detached,
        CASE WHEN right(t.lower, 2) = 'BC' THEN NULL WHEN t.lower ~ {_FAR} THEN '9999-12-31'
            ELSE t.lower::timestamptz END AS lower,
        CASE WHEN right(t.upper, 2) = 'BC' THEN '0001-01-01' WHEN t.upper ~ {_FAR} THEN NULL
            ELSE t.upper::timestamptz END AS upper
    FROM ranged
    JOIN pg_inherits i ON i.inhparent = ranged.oid
    JOIN pg_class c ON c.oid = i.inhrelid
    CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, 0) AS expression OFFSET 0) b
    CROSS JOIN LATERAL (SELECT substring(b.expression FROM $$FROM \\('(.*?)'\\)$$) AS lower,
        substring(b.expression FROM $$TO \\('(.*)'\\)$$) AS upper OFFSET 0) t
), root AS (
    SELECT ranged.*, c.relname, c.relowner
    FROM ranged
    JOIN pg_class c ON c.oid = ranged.oid
    JOIN space ON space.oid = c.relnamespace AND (space.is_public OR has_table_privilege(c.oid, 'SELECT'))
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
    SELECT root.oid AS root, '{{(,)}}'::tstzmultirange
        - coalesce((SELECT range_agg(range) FROM leaf WHERE root = root.oid AND NOT childless), '{{}}') AS ranges
    FROM root
), gap AS (
    SELECT DISTINCT ON (root) root, lower(range) AS lower, upper(range) AS upper
    FROM missing, unnest(ranges) AS range
    WHERE upper_inf(range) OR upper(range) > now()
    ORDER BY root, range
), past AS (
    SELECT root, string_agg(format('%s to %s', {_day("lower(range)")}, {_day("upper(range)")}), ', '
        ORDER BY range) AS ranges
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
    SELECT next.*, holder.oid AS holder, c.relname, c.relowner, c.relnamespace, ranged.atttypid,
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
    -- A table of the name is attached if its columns are those of the partitioned one; otherwise, another name is free.
    SELECT holding.*, free.exists, CASE WHEN pg_table_is_visible(holder) THEN '' ELSE quote_ident(nspname) || '.' END
        || quote_ident(free.name) AS partition
    FROM holding
    JOIN pg_namespace n ON n.oid = holding.relnamespace
    CROSS JOIN LATERAL (SELECT left(relname, 40) || to_char(first, '_YYYY_MM') AS month) m
    CROSS JOIN LATERAL (
        SELECT candidate AS name, found.oid IS NOT NULL AS exists
        FROM unnest(ARRAY[month, month || to_char(first, '_DD'), month || to_char(first, '_DD_HH24_MI_SS_US')])
            WITH ORDINALITY AS c (candidate, number)
        LEFT JOIN pg_class found ON found.relname = candidate AND found.relnamespace = holding.relnamespace
        WHERE (number > 1 OR length >= interval '1 month') AND (found.oid IS NULL OR number = 3 OR (
            found.relkind = 'r' AND NOT found.relispartition AND NOT EXISTS (
                SELECT FROM (SELECT * FROM pg_attribute WHERE attrelid = holder AND attnum > 0 AND NOT attisdropped) a
                FULL JOIN (SELECT * FROM pg_attribute WHERE attrelid = found.oid AND attnum > 0 AND NOT attisdropped) o
                    USING (attname)
                WHERE (a.atttypid, a.atttypmod, a.attcollation, a.attnotnull) IS DISTINCT FROM
                    (o.atttypid, o.atttypmod, o.attcollation, a.attnotnull AND o.attnotnull))))
        ORDER BY number LIMIT 1
    ) free
)
SELECT root.oid::regclass::text AS name, format('%I', root.attname) AS column,
    quote_ident(pg_get_userbyid(named.relowner)) AS owner,
    {_day("named.lower")} AS start, {_day("named.upper")} AS stop, named.upper IS NULL AS is_last, past.ranges AS past,
    CASE WHEN named.root IS NOT NULL THEN
        coalesce(extract(epoch FROM greatest(named.lower - now(), interval '0')) / 86400, 0) END AS days_left,
    half.oid::regclass::text AS detached,
    (SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = half.parent) AS finalizer,
    format('ALTER TABLE %s DETACH PARTITION %s FINALIZE', half.parent::regclass, half.oid::regclass) AS finalize,
    {_OF_DEFAULT},
    named.childless::regclass::text AS childless, named.exists, named.partition,
    format('CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS)', partition, holder::regclass) AS create,
    format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', holder::regclass, partition,
        bound.first, bound.stop) AS attach,
    format('SELECT EXISTS (SELECT FROM %s WHERE (%I >= %L AND %2$I < %4$L) IS NOT TRUE)', partition, root.attname,
        bound.first, bound.stop) AS strange
FROM root
LEFT JOIN usable ON usable.root = root.oid
LEFT JOIN named ON named.root = root.oid
LEFT JOIN LATERAL (SELECT {_BOUND.format(time="named.first")} AS first, {_BOUND.format(time="named.stop")} AS stop)
    bound ON true
LEFT JOIN past ON past.root = root.oid
LEFT JOIN LATERAL (SELECT * FROM part WHERE part.root = root.oid AND detached ORDER BY lower LIMIT 1) half ON true
ORDER BY named.lower NULLS FIRST, 1
"""
# The tables of which the time is one of several columns of the key, within an expression, or in a list.
_OTHERS = f"""
WITH RECURSIVE {SCHEMAS}, {_DEFAULTS}
SELECT c.oid::regclass::text AS name, quote_literal(c.oid::regclass) AS literal, pg_get_partkeydef(c.oid) AS key,
    NULL AS column, {_OF_DEFAULT}
FROM pg_partitioned_table t
JOIN pg_class c ON c.oid = t.partrelid
JOIN space ON space.oid = c.relnamespace AND (space.is_public OR has_table_privilege(c.oid, 'SELECT'))
LEFT JOIN usable ON usable.root = c.oid
WHERE t.partstrat <> 'h' AND NOT (t.partstrat = 'r' AND t.partnatts = 1 AND t.partattrs[0] <> 0) AND (
    t.partexprs::text ~ ':vartype (1082|1114|1184) ' OR EXISTS (
        SELECT FROM pg_attribute a JOIN {_TIMES} y ON y.oid = a.atttypid
        WHERE a.attrelid = c.oid AND a.attnum = ANY(t.partattrs::int2[])))
ORDER BY 1
"""
