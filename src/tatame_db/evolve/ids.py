"""How many ids the sequences and the keys of a database have used, and about when they end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db.database.errors import NodeUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Engine, Row

_FOREVER_DAYS = 36_500
# An import, or a few rows added by hand, are faster than any app for a moment.
_SHORTEST_RATE_SECONDS = 3_600
# A table of 8 MB is read within some milliseconds.
_SMALL_PAGES = 1_024
# The OIDs that PostgreSQL has for nextval(regclass) and for B-trees in every version.
_NEXTVAL, _BTREE = 1_574, 403


Unread = Literal["no right", "hidden rows", "no index", "failed"]
"""Why not all was read: a right is missing, row-level security hides rows, the table is large and no index begins with
the column, or the query failed, as by a lock."""


@dataclass(frozen=True)
class IdUse:
    """The ids of a key or of another column that a sequence fills, or of a sequence that fills no such column."""

    name: str
    """`table.column`, or the sequence."""
    first: int
    """The id before the first one, which is 0 for most."""
    largest: int
    """The last id that the sequence, the column and all columns that refer to it can hold."""
    last: int
    """The last id of the sequence; without one, that of a row."""
    of_sequence: int | None
    """The last id of the sequence; `None` without one, or if the role may not know."""
    of_rows: int | None
    """The last id of a row; `None` without rows or without a table."""
    compared: bool
    """Whether the rows were read, which needs a unique index that has the column."""
    next_id: int | None
    """The id that the sequence returns next; `None` if that is not known."""
    taken: int | None
    """The first id of a row that the sequence still returns; `None` without one."""
    unique: bool
    """Whether the id is a key by itself, so that the insert of a taken one fails."""
    unread: Unread | None
    """Why the sequence, or the rows, could not be read; `None` if they were."""
    step: int
    """The difference of two ids of the sequence, below 0 if it counts down; 1 without a sequence."""
    computed: bool
    """Whether the default computes with a sequence, so that its next id cannot be compared with the rows."""
    days_left: float | None
    """The days until the last id at the rate of the newest rows; `None` if that is unknown."""
    place: str | None
    """The table, quoted for SQL."""
    column: str | None
    sequence: str | None
    """The sequence, as a literal of SQL."""
    enlarge: str
    """The statements that change the column and all that refer to it to bigint."""
    owner: str
    sequence_owner: str | None

    @property
    def readable(self) -> bool:
        """Whether all of it was read."""
        return self.unread is None

    @property
    def table(self) -> str | None:
        """The table of the key."""
        return None if self.place is None else self.name.rpartition(".")[0]

    @property
    def share(self) -> float:
        """The used part, from 0 to 1."""
        return max((self.last - self.first) / ((self.largest - self.first) or 1), 0.0)

    @property
    def end(self) -> datetime | None:
        """When the ids end, if that is known and within a century."""
        if self.days_left is None or self.days_left >= _FOREVER_DAYS:
            return None
        return datetime.now(UTC) + timedelta(days=self.days_left)

    @property
    def end_in_words(self) -> str:
        """The month in which the ids end, or why there is none."""
        if self.share >= 1:
            return "none is left"
        if self.end:
            return f"{self.end:%B %Y}"
        return "no rate yet" if self.days_left is None else "over 100 years"

    @property
    def next_is_taken(self) -> bool:
        """Whether the next id of the sequence is that of a row."""
        return self.taken is not None and self.taken == self.next_id

    @property
    def behind(self) -> str | None:
        """What happens because rows have ids that the sequence still returns; `None` if none has."""
        if self.taken is None:
            return None
        row = "insert fails" if self.unique else "row gets the id of another row"
        when = f"the next {row}" if self.next_is_taken else f"when it comes to {self.taken:,}, the {row}"
        return f"the sequence of {self.name} is behind its rows, the last of which has the id {self.of_rows:,}: {when}"


def id_uses(engine: Engine) -> list[IdUse]:
    """Return how many ids each key and each sequence has used, the most used first.

    Waits a tenth of a second for a lock at most; what it cannot read is not `readable`. Changes nothing.

        >>> evolve.id_uses(engine)[0].share
        0.0
    """
    with engine.connect() as connection:
        for setting in ("lock_timeout = '100ms'", "statement_timeout = '1s'"):
            connection.execute(text(f"SET LOCAL {setting}"))

        def rows(query: str) -> Sequence[Row[Any]]:
            try:
                with connection.begin_nested():
                    return connection.execute(text(query)).all()
            except (DBAPIError, NodeUnavailable):
                return []

        return read_uses(rows)


def read_uses(rows: Callable[[str], Sequence[Row[Any]]]) -> list[IdUse]:
    """Return what `id_uses` returns, by a function that runs a query, or returns no row if it cannot."""
    return sorted((_use_of(key, rows) for key in rows(_KEYS)), key=lambda use: use.share, reverse=True)


def _use_of(key: Any, rows: Callable[[str], Sequence[Row[Any]]]) -> IdUse:
    use = IdUse(
        name=key.name,
        first=0,
        largest=key.largest,
        last=0,
        of_sequence=key.last,
        of_rows=None,
        compared=False,
        next_id=None,
        taken=None,
        unique=key.alone,
        unread=_unread(key),
        step=key.step,
        computed=key.computed,
        days_left=None,
        place=key.place,
        column=key.column,
        sequence=key.sequence,
        enlarge=key.enlarge,
        owner=key.owner,
        sequence_owner=key.sequence_owner,
    )
    if use.readable and key.reads:
        last_row = f"{'max' if key.step > 0 else 'min'}({use.column})::bigint"
        found = rows(f"SELECT {last_row} FROM {_rows_of(use, key)}")
        of_rows = found[0][0] if found else None
        use = replace(use, unread=None if found else "failed", of_rows=of_rows, compared=bool(found))
    if use.readable and key.sequence_place:
        use = _with_sequence(use, key, rows)
    # One row with an odd id, such as an import leaves, uses up no ids: `behind` names it.
    last = use.of_sequence if use.of_sequence is not None else use.of_rows or 0
    # One that counts from -1000 to -1, or from 1000 to 1.
    use = replace(use, last=last, first=int(key.first) if last * key.step < 0 else 0)
    if use.readable and key.timed and use.of_rows and key.step > 0:
        use = replace(use, days_left=_days_left(use, key, rows))
    return use


def _unread(key: Any) -> Unread | None:
    if not key.readable:
        return "no right"
    if key.hidden:
        return "hidden rows"
    return "no index" if key.unindexed else None


def _rows_of(use: IdUse, key: Any) -> str | None:
    """Return the rows for FROM; a numeric may be infinite, broken, or no number, which no sequence returns."""
    if not key.decimal:
        return use.place
    largest = 2**63 - 1
    whole = f"{use.column} BETWEEN {-largest} AND {largest} AND {use.column} = trunc({use.column})"
    return f"(SELECT * FROM {use.place} WHERE {whole}) AS numbers"


def _with_sequence(use: IdUse, key: Any, rows: Callable[[str], Sequence[Row[Any]]]) -> IdUse:
    """Add the last id of the sequence, and the id of a row that it will return."""
    forward = 1 if key.step > 0 else -1
    last = use.of_sequence
    if last is None or (use.of_rows is not None and (use.of_rows - last) * forward > 0):
        # After RESTART, it has no last id. And rows that were added meanwhile have later ids than it had then.
        found = rows(
            f"SELECT CASE WHEN is_called THEN last_value ELSE last_value::numeric - {key.step} END"
            f" FROM {key.sequence_place}"
            if key.selectable
            else f"SELECT pg_sequence_last_value({key.sequence}::regclass)"
        )
        last = int(found[0][0]) if found and found[0][0] is not None else None
    if last is None:
        return replace(use, of_sequence=None)
    before = key.start_over - key.step if key.cycles and (key.limit - last - key.step) * forward < 0 else last
    use = replace(use, of_sequence=last, next_id=before + key.step)
    if not key.fills or use.of_rows is None or (use.of_rows - before) * forward <= 0:
        return use
    # Servers that share out ids leave those of the others out.
    returned = f" AND ({use.column} - ({before})) % {key.step} = 0" if abs(key.step) > 1 else ""
    where = f"{use.column} {'>' if forward > 0 else '<'} ({before}){returned}"
    order = f"{use.column} {'ASC' if forward > 0 else 'DESC'}"
    found = rows(f"SELECT {use.column}::bigint FROM {_rows_of(use, key)} WHERE {where} ORDER BY {order} LIMIT 1")
    return replace(use, taken=found[0][0] if found else None)


def _days_left(use: IdUse, key: Any, rows: Callable[[str], Sequence[Row[Any]]]) -> float | None:
    """Return the days until the last id, at the rate of the newest tenth of the rows, or `None` if it is not known.

    It is known if these rows were created over an hour or more. There is an index on the key and none on the time, so
    the rows are found by the key: in two queries, because Citus has no plan for both in one.
    """
    at = "CASE WHEN isfinite(created_at) THEN extract(epoch FROM created_at)::float8 END"
    row = f"SELECT {use.column}::bigint AS key, {at} AS seconds FROM {_rows_of(use, key)}"
    for newest in rows(f"{row} ORDER BY {use.column} DESC LIMIT 1"):
        first = newest.key - max(newest.key // 10, 1)
        for older in rows(f"{row} WHERE {use.column} >= {first} ORDER BY {use.column} LIMIT 1"):
            if None in {newest.seconds, older.seconds}:
                return None
            ids, seconds = newest.key - older.key, newest.seconds - older.seconds
            if ids > 0 and seconds >= _SHORTEST_RATE_SECONDS:
                return float((use.largest - use.last) / (ids / seconds) / 86_400)
    return None


# The last number that a column of a type, with its precision, can hold.
_LARGEST = """
CASE base WHEN 'smallint'::regtype THEN 32767 WHEN 'integer'::regtype THEN 2147483647
    WHEN 'bigint'::regtype THEN 9223372036854775807
    ELSE CASE WHEN typmod < 0 THEN 9223372036854775807
        ELSE least(9223372036854775807, greatest(0, 10::numeric ^ least(19,
            ((typmod - 4) >> 16 & 65535) - (((typmod - 4 & 2047) # 1024) - 1024)) - 1))::bigint
    END
END
"""
# For each key of one column, each other column that a sequence fills, and each other sequence that ends: the last id
# that the sequence, its column and all columns that refer to it can hold. A sequence fills a column that has it as its
# identity, or a default that is `nextval` and nothing else: the owner of a sequence need not be filled by it. Rows are
# read for columns of unique indexes only, by an index that begins with the column, or if the table is small. Outside
# of `public`, those that the role may read. A table with triggers of a move gets its sequence set when it is opened.
# No function here may wait for the lock of a table, as pg_get_expr does.
_KEYS = f"""
WITH RECURSIVE number (oid, base, typmod) AS (
    SELECT unnest, unnest, NULL::integer
    FROM unnest('{{smallint,integer,bigint,numeric}}'::regtype[]::oid[])
    UNION ALL
    SELECT t.oid, base, coalesce(typmod, nullif(t.typtypmod, -1))
    FROM number JOIN pg_type t ON t.typbasetype = number.oid AND t.typtype = 'd'
), space AS (
    SELECT n.oid, n.nspname, n.nspname = 'public' AS is_public,
        CASE WHEN n.nspname <> 'public' THEN n.nspname || '.' ELSE '' END AS prefix
    FROM pg_namespace n
    WHERE n.nspname = 'public' OR (n.nspname !~ '^(pg_|information_schema$|tatame_)'
        AND has_schema_privilege(n.oid, 'USAGE')
        AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_namespace'::regclass AND objid = n.oid
            AND deptype = 'e'))
), used AS (
    SELECT s.seqrelid, l.relid, l.attnum, a.attname, a.attinhcount, l.computed
    FROM (
        SELECT objid AS seqrelid, refobjid AS relid, refobjsubid AS attnum, false AS computed FROM pg_depend
        WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND deptype = 'i'
        UNION ALL
        -- All casts, explicit ones too, are functions of another format.
        SELECT refobjid, adrelid, adnum, adbin::text !~ '\\:funcid {_NEXTVAL} '
                OR adbin::text ~ '\\:funcformat 0 .*\\:funcformat 0 '
                OR adbin::text ~ '[{{](?!(FUNCEXPR|CONST|RELABELTYPE|COERCETODOMAIN|COERCEVIAIO) )[A-Z]'
        FROM pg_depend JOIN pg_attrdef f ON f.oid = objid
        WHERE classid = 'pg_attrdef'::regclass AND refclassid = 'pg_class'::regclass AND deptype = 'n'
    ) l
    JOIN pg_sequence s ON s.seqrelid = l.seqrelid
    JOIN pg_attribute a ON a.attrelid = l.relid AND a.attnum = l.attnum
), link AS (
    -- A partition, or another child, has the default of its table, whose rows contain its own.
    SELECT * FROM used WHERE attinhcount = 0 OR NOT EXISTS (
        SELECT FROM pg_inherits i JOIN used parent ON parent.relid = i.inhparent
        WHERE i.inhrelid = used.relid AND (parent.attname, parent.seqrelid) = (used.attname, used.seqrelid))
), sequence AS (
    SELECT s.*, c.relname, c.relowner, space.prefix,
        CASE WHEN s.seqincrement > 0 AND s.seqmax < 9223372036854775807
            THEN format('ALTER SEQUENCE %s AS bigint NO MAXVALUE', s.seqrelid::regclass)
            WHEN s.seqincrement < 0 AND s.seqmin > -9223372036854775808
            THEN format('ALTER SEQUENCE %s AS bigint NO MINVALUE', s.seqrelid::regclass) END AS enlarge,
        CASE WHEN s.seqincrement > 0 THEN s.seqmax ELSE s.seqmin END AS limit,
        CASE WHEN s.seqincrement > 0 THEN s.seqmin ELSE s.seqmax END AS start_over,
        CASE WHEN s.seqincrement > 0 THEN least(s.seqmin, 0) ELSE greatest(s.seqmax::numeric + 1, 0) END AS first,
        has_sequence_privilege(s.seqrelid, 'SELECT, USAGE') AS readable,
        has_sequence_privilege(s.seqrelid, 'SELECT') AS selectable
    FROM pg_sequence s
    JOIN pg_class c ON c.oid = s.seqrelid AND c.relpersistence <> 't'
    JOIN space ON space.oid = c.relnamespace
    WHERE space.is_public OR has_sequence_privilege(s.seqrelid, 'SELECT, USAGE')
), candidate AS (
    SELECT relid, attnum, bool_or(is_key) AS is_key, bool_or(computed) AS computed
    FROM (
        SELECT conrelid AS relid, conkey[1] AS attnum, true AS is_key, false AS computed FROM pg_constraint
        WHERE contype = 'p' AND conparentid = 0 AND cardinality(conkey) = 1
        UNION ALL SELECT relid, attnum, false, computed FROM link
    ) c GROUP BY 1, 2
), key AS (
    SELECT c.oid AS relid, c.relname, c.relnamespace, c.relowner, space.prefix, a.attnum, a.attname, largest,
        base = 'numeric'::regtype AS decimal,
        CASE WHEN a.atttypid <> 'bigint'::regtype
            THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE bigint', c.oid::regclass, a.attname) END AS enlarge,
        EXISTS (SELECT FROM pg_attribute t WHERE t.attrelid = c.oid AND t.attname = 'created_at'
            AND t.atttypid IN ('timestamp'::regtype, 'timestamptz'::regtype)) AS timed,
        coalesce(x.alone, false) AS alone, k.computed, coalesce(x.in_key, false) AS in_key,
        coalesce(x.leading, false) OR (c.relkind = 'r' AND c.relpages <= {_SMALL_PAGES}) AS found,
        has_table_privilege(c.oid, 'SELECT') AS readable,
        NOT EXISTS (
            SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
            WHERE t.tgrelid = c.oid AND p.pronamespace = to_regnamespace('tatame_move')) AS fills
    FROM candidate k
    JOIN pg_class c ON c.oid = k.relid
    JOIN space ON space.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
    JOIN (SELECT oid, base, typmod AS domain_typmod FROM number) n ON n.oid = a.atttypid
    CROSS JOIN LATERAL (SELECT coalesce(domain_typmod, a.atttypmod) AS typmod) m
    CROSS JOIN LATERAL (SELECT {_LARGEST} AS largest) l
    CROSS JOIN LATERAL (
        SELECT bool_or(complete AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum) AS alone,
            bool_or(complete AND a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1])) AS in_key,
            bool_or(i.indpred IS NULL AND i.indkey[0] = a.attnum AND ic.relam = {_BTREE}) AS leading
        FROM pg_index i
        JOIN pg_class ic ON ic.oid = i.indexrelid
        CROSS JOIN LATERAL (SELECT i.indisunique AND i.indpred IS NULL AS complete) u
        WHERE i.indrelid = c.oid AND i.indisvalid
    ) x
    WHERE (space.is_public OR has_table_privilege(c.oid, 'SELECT'))
        AND ((k.relid, k.attnum) IN (SELECT relid, attnum FROM link) OR base <> 'numeric'::regtype)
), referring AS (
    SELECT k.confrelid AS relid, k.confkey[1] AS attnum, min(largest) AS largest,
        string_agg(format('ALTER TABLE %s ALTER COLUMN %I TYPE bigint', k.conrelid::regclass, a.attname), '; '
            ORDER BY k.oid) FILTER (WHERE a.atttypid <> 'bigint'::regtype) AS enlarge
    FROM pg_constraint k
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
    JOIN (SELECT oid, base, typmod AS domain_typmod FROM number) n ON n.oid = a.atttypid
    CROSS JOIN LATERAL (SELECT coalesce(domain_typmod, a.atttypmod) AS typmod) m
    CROSS JOIN LATERAL (SELECT {_LARGEST} AS largest) l
    -- A partition gets its columns changed with those of its table, and refuses to change one by itself.
    WHERE k.contype = 'f' AND k.conparentid = 0 AND cardinality(k.conkey) = 1 GROUP BY 1, 2
)
SELECT format('%s%s.%s', key.prefix, key.relname, key.attname) AS name,
    format('%I.%I', (SELECT nspname FROM space WHERE oid = key.relnamespace), key.relname) AS place,
    format('%I', key.attname) AS column, key.timed, key.fills AND sequence.seqrelid IS NOT NULL AS fills, key.alone,
    key.decimal, key.computed, key.in_key AND key.found AS reads, key.in_key AND NOT key.found AS unindexed,
    key.in_key AND row_security_active(key.relid) AS hidden,
    CASE WHEN sequence.seqincrement < 0
        THEN greatest(-key.largest - 1, -referring.largest - 1, sequence.seqmin)
        ELSE least(key.largest, referring.largest, sequence.seqmax) END AS largest,
    coalesce(sequence.first, 0) AS first, coalesce(sequence.seqincrement, 1) AS step, sequence.limit,
    sequence.start_over, coalesce(sequence.seqcycle, false) AS cycles,
    CASE WHEN sequence.readable THEN pg_sequence_last_value(sequence.seqrelid) END AS last,
    coalesce(sequence.readable, link.seqrelid IS NULL) AND (NOT key.in_key OR key.readable) AS readable,
    coalesce(sequence.selectable, false) AS selectable,
    concat_ws('; ', referring.enlarge, key.enlarge, sequence.enlarge) AS enlarge,
    quote_ident(pg_get_userbyid(key.relowner)) AS owner,
    quote_ident(pg_get_userbyid(sequence.relowner)) AS sequence_owner,
    quote_literal(sequence.seqrelid::regclass) AS sequence, sequence.seqrelid::regclass::text AS sequence_place
FROM key
LEFT JOIN link ON (link.relid, link.attnum) = (key.relid, key.attnum) AND NOT link.computed
LEFT JOIN sequence ON sequence.seqrelid = link.seqrelid
LEFT JOIN referring ON (referring.relid, referring.attnum) = (key.relid, key.attnum)
UNION ALL
SELECT prefix || relname, NULL, NULL, false, false, false, false, false, false, false, false, sequence.limit, first,
    seqincrement, sequence.limit, start_over, seqcycle, CASE WHEN readable THEN pg_sequence_last_value(seqrelid) END,
    readable, selectable, enlarge, owner, owner, quote_literal(seqrelid::regclass), seqrelid::regclass::text
FROM sequence CROSS JOIN LATERAL (SELECT quote_ident(pg_get_userbyid(relowner)) AS owner) o
WHERE NOT seqcycle AND NOT EXISTS (
    SELECT FROM link JOIN key ON (key.relid, key.attnum) = (link.relid, link.attnum)
    WHERE link.seqrelid = sequence.seqrelid AND NOT link.computed)
ORDER BY 1, sequence
"""
