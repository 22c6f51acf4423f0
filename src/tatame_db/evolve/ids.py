"""How many ids the sequences and the keys of a database have used, and about when they end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db.database.errors import NodeUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Engine, Row

_FOREVER_DAYS = 36_500
# An import, or a few rows added by hand, are faster than any app for a moment.
_SHORTEST_RATE_SECONDS = 3_600


@dataclass(frozen=True)
class IdUse:
    """The ids of a key, or of a sequence that numbers no key."""

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
    next_id: int | None
    """The id that the sequence returns next; `None` if that is not known."""
    taken: int | None
    """The first id of a row that the sequence still returns; `None` without one."""
    unique: bool
    """Whether the id is a key by itself, so that the insert of a taken one fails."""
    readable: bool
    """Whether the role may read the sequence and the table, and no lock prevented it."""
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
        next_id=None,
        taken=None,
        unique=key.alone,
        readable=key.readable,
        days_left=None,
        place=key.place,
        column=key.column,
        sequence=key.sequence,
        enlarge=key.enlarge,
        owner=key.owner,
    )
    if use.readable and use.place:
        found = rows(f"SELECT {'max' if key.step > 0 else 'min'}({use.column})::bigint FROM {use.place}")
        use = replace(use, readable=bool(found), of_rows=found[0][0] if found else None)
    if use.readable and key.sequence_place:
        use = _with_sequence(use, key, rows)
    # One row with an odd id, such as an import leaves, uses up no ids: `behind` names it.
    last = use.of_sequence if use.of_sequence is not None else use.of_rows or 0
    # One that counts from -1000 to -1, or from 1000 to 1.
    use = replace(use, last=last, first=int(key.first) if last * key.step < 0 else 0)
    if use.readable and key.timed and use.of_rows and key.step > 0:
        use = replace(use, days_left=_days_left(use, rows))
    return use


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
    found = rows(f"SELECT {use.column}::bigint FROM {use.place} WHERE {where} ORDER BY {order} LIMIT 1")
    return replace(use, taken=found[0][0] if found else None)


def _days_left(use: IdUse, rows: Callable[[str], Sequence[Row[Any]]]) -> float | None:
    """Return the days until the last id, at the rate of the newest tenth of the rows, or `None` if it is not known.

    It is known if these rows were created over an hour or more. There is an index on the key and none on the time, so
    the rows are found by the key: in two queries, because Citus has no plan for both in one.
    """
    at = "CASE WHEN isfinite(created_at) THEN extract(epoch FROM created_at)::float8 END"
    row = f"SELECT {use.column}::bigint AS key, {at} AS seconds FROM {use.place}"
    for newest in rows(f"{row} ORDER BY {use.column} DESC LIMIT 1"):
        first = newest.key - max(newest.key // 10, 1)
        for older in rows(f"{row} WHERE {use.column} >= {first} ORDER BY {use.column} LIMIT 1"):
            if None in {newest.seconds, older.seconds}:
                return None
            ids, seconds = newest.key - older.key, newest.seconds - older.seconds
            if ids > 0 and seconds >= _SHORTEST_RATE_SECONDS:
                return float((use.largest - use.last) / (ids / seconds) / 86_400)
    return None


# For each key of one column, each column of a key with a sequence (a partitioned table has others in its key), and each
# other sequence that ends: the last id that the sequence, its column and all columns that refer to it can hold. Outside
# of `public`, those that the role may read. A table with triggers of a move gets its sequence set when it is opened.
_KEYS = """
WITH number (oid, largest) AS (VALUES
    ('smallint'::regtype, 32767), ('integer'::regtype, 2147483647), ('bigint'::regtype, 9223372036854775807)
), space AS (
    SELECT n.oid, n.nspname, n.nspname = 'public' AS is_public,
        CASE WHEN n.nspname <> 'public' THEN n.nspname || '.' ELSE '' END AS prefix
    FROM pg_namespace n
    WHERE n.nspname = 'public' OR (n.nspname !~ '^(pg_|information_schema$|tatame_)'
        AND has_schema_privilege(n.oid, 'USAGE')
        AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_namespace'::regclass AND objid = n.oid
            AND deptype = 'e'))
), link AS (
    SELECT DISTINCT ON (1) l.seqrelid, l.relid, l.attnum
    FROM (
        SELECT objid AS seqrelid, refobjid AS relid, refobjsubid AS attnum, 1 AS rank FROM pg_depend
        WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND deptype IN ('a', 'i')
        UNION ALL
        SELECT refobjid, adrelid, adnum, 2 FROM pg_depend JOIN pg_attrdef f ON f.oid = objid
        WHERE classid = 'pg_attrdef'::regclass AND refclassid = 'pg_class'::regclass AND deptype = 'n'
    ) l
    JOIN pg_sequence s ON s.seqrelid = l.seqrelid ORDER BY 1, rank, l.relid
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
        has_sequence_privilege(s.seqrelid, 'SELECT') AS selectable, link.relid, link.attnum
    FROM pg_sequence s
    JOIN pg_class c ON c.oid = s.seqrelid AND c.relpersistence <> 't'
    JOIN space ON space.oid = c.relnamespace
    LEFT JOIN link ON link.seqrelid = s.seqrelid
    WHERE space.is_public OR has_sequence_privilege(s.seqrelid, 'SELECT, USAGE')
), key AS (
    SELECT c.oid AS relid, c.relname, c.relowner, space.prefix, a.attnum, a.attname, n.largest,
        CASE WHEN a.atttypid <> 'bigint'::regtype
            THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE bigint', c.oid::regclass, a.attname) END AS enlarge,
        EXISTS (SELECT FROM pg_attribute t WHERE t.attrelid = c.oid AND t.attname = 'created_at'
            AND t.atttypid IN ('timestamp'::regtype, 'timestamptz'::regtype)) AS timed,
        cardinality(k.conkey) = 1 AS alone, (a.atthasdef OR a.attidentity <> '') AND NOT EXISTS (
            SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
            WHERE t.tgrelid = c.oid AND p.pronamespace = to_regnamespace('tatame_move')) AS fills
    FROM pg_constraint k
    JOIN pg_class c ON c.oid = k.conrelid
    JOIN space ON space.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(k.conkey)
    JOIN number n ON n.oid = a.atttypid
    WHERE k.contype = 'p' AND k.conparentid = 0
        AND (cardinality(k.conkey) = 1 OR (c.oid, a.attnum) IN (SELECT relid, attnum FROM sequence))
        AND (space.is_public OR has_table_privilege(c.oid, 'SELECT'))
), referring AS (
    SELECT k.confrelid AS relid, k.confkey[1] AS attnum, min(n.largest) AS largest,
        string_agg(format('ALTER TABLE %s ALTER COLUMN %I TYPE bigint', k.conrelid::regclass, a.attname), '; '
            ORDER BY k.oid) FILTER (WHERE a.atttypid <> 'bigint'::regtype) AS enlarge
    FROM pg_constraint k
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
    JOIN number n ON n.oid = a.atttypid
    -- A partition gets its columns changed with those of its table, and refuses to change one by itself.
    WHERE k.contype = 'f' AND k.conparentid = 0 AND cardinality(k.conkey) = 1 GROUP BY 1, 2
)
SELECT format('%s%s.%s', key.prefix, key.relname, key.attname) AS name,
    (SELECT format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = key.relid) AS place,
    format('%I', key.attname) AS column, key.timed, coalesce(key.fills, false) AS fills, key.alone,
    CASE WHEN sequence.seqincrement < 0
        THEN greatest(-key.largest - 1, -referring.largest - 1, sequence.seqmin)
        ELSE least(key.largest, referring.largest, sequence.seqmax) END AS largest,
    coalesce(sequence.first, 0) AS first, coalesce(sequence.seqincrement, 1) AS step, sequence.limit,
    sequence.start_over, coalesce(sequence.seqcycle, false) AS cycles,
    CASE WHEN sequence.readable THEN pg_sequence_last_value(sequence.seqrelid) END AS last,
    coalesce(sequence.readable, true) AND has_table_privilege(key.relid, 'SELECT') AS readable,
    coalesce(sequence.selectable, false) AS selectable,
    concat_ws('; ', referring.enlarge, key.enlarge, sequence.enlarge) AS enlarge,
    quote_ident(pg_get_userbyid(key.relowner)) AS owner, quote_literal(sequence.seqrelid::regclass) AS sequence,
    sequence.seqrelid::regclass::text AS sequence_place
FROM key
LEFT JOIN sequence ON (sequence.relid, sequence.attnum) = (key.relid, key.attnum)
LEFT JOIN referring ON (referring.relid, referring.attnum) = (key.relid, key.attnum)
UNION ALL
SELECT prefix || relname, NULL, NULL, false, false, false, sequence.limit, first, seqincrement, sequence.limit,
    start_over, seqcycle, CASE WHEN readable THEN pg_sequence_last_value(seqrelid) END, readable, selectable, enlarge,
    quote_ident(pg_get_userbyid(relowner)), quote_literal(seqrelid::regclass), seqrelid::regclass::text
FROM sequence WHERE NOT seqcycle AND NOT EXISTS (
    SELECT FROM key WHERE (key.relid, key.attnum) = (sequence.relid, sequence.attnum))
ORDER BY 1
"""
