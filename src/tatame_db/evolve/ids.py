"""How many ids the sequences and the keys of a database have used, and about when they end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

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
    largest: int
    """The largest id that the sequence, the column and all columns that refer to it can hold."""
    last: int
    """The last id of the sequence, or the largest of the column if it has none."""
    readable: bool
    """Whether the role may read the sequence and the table, and no lock prevented it."""
    days_left: float | None
    """The days until the last id at the rate of the newest rows; `None` if that is unknown."""
    place: str | None
    """The table, quoted for SQL."""
    column: str | None
    sequence: str | None
    """The sequence of the column, as a literal of SQL."""
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
        return self.last / self.largest

    @property
    def end(self) -> datetime | None:
        """When the ids end, if that is known and within a century."""
        if self.days_left is None or self.days_left >= _FOREVER_DAYS:
            return None
        return datetime.now(UTC) + timedelta(days=self.days_left)

    @property
    def end_in_words(self) -> str:
        """The month in which the ids end, or why there is none."""
        if self.last >= self.largest:
            return "none is left"
        if self.end:
            return f"{self.end:%B %Y}"
        return "no rate yet" if self.days_left is None else "over 100 years"

    @property
    def largest_id(self) -> str:
        """The query for the largest id of a row; the index of the key finds it at once."""
        return f"SELECT coalesce(max({self.column}), 0) FROM {self.place}"


def id_uses(engine: Engine) -> list[IdUse]:
    """Return how many ids each key and each sequence of the schema `public` has used, the most used first.

    Waits a tenth of a second for a lock at most; what it cannot read is not `readable`. Changes nothing.

        >>> evolve.id_uses(engine)[0].share
        0.0
    """
    with engine.connect() as connection:

        def rows(query: str) -> Sequence[Row[Any]]:
            try:
                with connection.begin_nested():
                    for setting in ("lock_timeout = '100ms'", "statement_timeout = '1s'"):
                        connection.execute(text(f"SET LOCAL {setting}"))
                    return connection.execute(text(query)).all()
            except DBAPIError:
                return []

        return read_uses(rows)


def read_uses(rows: Callable[[str], Sequence[Row[Any]]]) -> list[IdUse]:
    """Return what `id_uses` returns, by a function that runs a query, or returns no row if it cannot."""
    return sorted((_use_of(key, rows) for key in rows(_KEYS)), key=lambda use: use.share, reverse=True)


def _use_of(key: Any, rows: Callable[[str], Sequence[Row[Any]]]) -> IdUse:
    use = IdUse(
        name=key.name,
        largest=key.largest,
        last=key.last or 0,
        readable=key.readable,
        days_left=None,
        place=key.place,
        column=key.column,
        sequence=key.sequence,
        enlarge=key.enlarge,
        owner=key.owner,
    )
    if use.readable and not key.has_sequence:
        found = rows(use.largest_id)
        use = replace(use, readable=bool(found), last=int(found[0][0]) if found else 0)
    if use.readable and key.timed and use.last:
        use = replace(use, days_left=_days_left(use, rows))
    return use


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
# other sequence: the largest id that the sequence, its column and all columns that refer
# to it can hold. A sequence that starts again, or counts down, does not end in this sense.
_KEYS = """
WITH number (oid, largest) AS (VALUES
    ('smallint'::regtype, 32767), ('integer'::regtype, 2147483647), ('bigint'::regtype, 9223372036854775807)
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
), key AS (
    SELECT c.oid AS relid, c.relname, c.relowner, a.attnum, a.attname, n.largest,
        CASE WHEN a.atttypid <> 'bigint'::regtype
            THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE bigint', c.oid::regclass, a.attname) END AS enlarge,
        EXISTS (SELECT FROM pg_attribute t WHERE t.attrelid = c.oid AND t.attname = 'created_at'
            AND t.atttypid IN ('timestamp'::regtype, 'timestamptz'::regtype)) AS timed
    FROM pg_constraint k
    JOIN pg_class c ON c.oid = k.conrelid
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(k.conkey)
    JOIN number n ON n.oid = a.atttypid
    WHERE k.contype = 'p' AND k.conparentid = 0
        AND (cardinality(k.conkey) = 1 OR (c.oid, a.attnum) IN (SELECT relid, attnum FROM sequence))
        AND c.relnamespace = to_regnamespace('public')
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
SELECT format('%s.%s', key.relname, key.attname) AS name, format('public.%I', key.relname) AS place,
    format('%I', key.attname) AS column, key.timed, sequence.seqrelid IS NOT NULL AS has_sequence,
    least(key.largest, referring.largest, sequence.seqmax) AS largest,
    CASE WHEN sequence.readable THEN pg_sequence_last_value(sequence.seqrelid) END AS last,
    coalesce(sequence.readable, true) AND has_table_privilege(key.relid, 'SELECT') AS readable,
    concat_ws('; ', referring.enlarge, key.enlarge, sequence.enlarge) AS enlarge,
    quote_ident(pg_get_userbyid(key.relowner)) AS owner, quote_literal(sequence.seqrelid::regclass) AS sequence
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
