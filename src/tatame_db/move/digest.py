"""Digests of a table in both databases, computed by the servers and narrowed down to the rows that differ.

A digest is the number of rows and the sum of a 64-bit hash of each row, so the order of rows does not matter. Hashed
are texts, which are the same only if the target's value, read in the source's type, is the source's value; or the
values themselves, if both types are ones of which equal values have equal texts. That takes half of the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tatame_db.database.dialect import literal
from tatame_db.errors import TatameError, fact
from tatame_db.move.catalogue import target_column_types
from tatame_db.move.conversion import HASHED_TEXT, TEXT, TIMESTAMP, about, hashed
from tatame_db.move.fingerprint import Fingerprint, fingerprint_digest, hash_of_values
from tatame_db.move.sql import NUMBER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tatame_db.move.connection import Connections
    from tatame_db.move.mapping import ColumnMap, TableMap

# The rows of one part are held in memory.
_PART_ROWS = 1 << 14
# Ids that differ only in their last bits form a bucket: of thousands of rows, of some hundreds, or of sixteen.
_WIDE_BITS, NARROW_BITS, FEW_BITS = 16, 8, 4
_KNOWN_TEXTS = ["", "a", "null", "NULL", '(1,,"")', "Ação 🥋", "e\u0301", "\t\n\\N", "x" * 1_000, "é" * 30_000]
# A value of each exact type, and its type.
_KNOWN_VALUES = [
    ("2", "integer"),
    ("-9000000000", "bigint"),
    ("Ação 🥋", TEXT),
    ("true", "boolean"),
    ("1999-12-31", "date"),
    ("23:59:59.999999", "time without time zone"),
    ("2024-02-29 12:34:56.789", TIMESTAMP),
    ("infinity", "timestamp with time zone"),
    ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", "uuid"),
]

Digest = tuple[int, str]


@fact
class NoCommonHash(TatameError):
    """The two servers compute different hashes of the same text."""

    source_encoding: str
    target_encoding: str
    what = (
        "the servers compute different digests of the same text; the encodings are {source_encoding} and"
        " {target_encoding}"
    )
    means = "Nothing was compared."
    fix = "create the target database with the encoding UTF8"


@dataclass(frozen=True)
class Hash:
    """A 64-bit hash that a server computes: the name of its function, and an expression about `TEXT`."""

    name: str
    expression: str
    hashes_values: bool = False
    """Whether it hashes the values of a row without their texts."""

    def of_text(self, text: str) -> str:
        """Return the SQL of the hash of a text."""
        return self.expression.replace("TEXT", text)

    def of_row(self, columns: list[ColumnMap], target_types: dict[str, str]) -> tuple[str, str]:
        """Return the SQL of the hash of a row of the source, and of a row of the target."""
        if not self.hashes_values:
            texts = [column.source_text for column in columns], [column.target_text for column in columns]
            # PostgreSQL quotes the fields of a row, and writes NULL as nothing and an empty text as "": no two rows
            # look alike.
            source, target = (self.of_text(f"ROW({', '.join(of_row)})::text") for of_row in texts)
            return source, target
        pairs = [column.hashed(target_types.get(column.name)) for column in columns]
        return hash_of_values([source for source, _ in pairs]), hash_of_values([target for _, target in pairs])


# The first that both servers compute alike is used.
HASHES = [
    Hash("hash_record_extended", 'hashtextextended((TEXT) COLLATE "C", 0)', hashes_values=True),
    # Servers on machines of different kinds may disagree about the first, but never about this one.
    Hash("md5", "('x' || left(md5(TEXT), 16))::bit(64)::bigint"),
]


def common_hash(connections: Connections) -> Hash:
    """Return the first hash of `HASHES` that both servers compute alike. Raises `NoCommonHash`."""
    values = hash_of_values(
        [about(hashed(kind) or HASHED_TEXT, f"{literal(value)}::{kind}") for value, kind in _KNOWN_VALUES]
    )
    for found in HASHES:
        query = f"SELECT {found.of_text('known')}, {values} FROM unnest(%(known)s::text[]) AS known"
        source, target = connections.rows(query, query, {"known": _KNOWN_TEXTS})
        if source == target:
            return found
    query = "SELECT current_setting('server_encoding')"
    [[source_encoding]], [[target_encoding]] = connections.rows(query, query)
    raise NoCommonHash(source_encoding=source_encoding, target_encoding=target_encoding)


@dataclass(frozen=True)
class Part:
    """Some rows of a table: a WHERE clause for each database, and the number of buckets; empty for all rows."""

    source: str = ""
    target: str = ""
    buckets: int = 0


_WHOLE = "SELECT count(*), coalesce(sum({}), 0)::text{} FROM {}"


class TableDigests:
    """The digests of one table in both databases."""

    def __init__(self, connections: Connections, table: TableMap, hashed: Hash) -> None:
        self.connections, self.table = connections, table
        self.source_key, self.target_key = table.source_id, table.target_id
        types = target_column_types(connections.target, table.name)
        self._source_hash, self._target_hash = hashed.of_row(table.columns, types)

    def whole(self) -> tuple[Digest, Digest]:
        """Return the digests of all rows of the source and of the target."""
        return self.of_part(Part())

    def of_part(self, part: Part) -> tuple[Digest, Digest]:
        """Return the digests of the rows of a part, of the source and of the target."""
        source, target = self._digests(part)
        return source[None], target[None]

    def whole_with_fingerprint(self) -> tuple[Digest, Digest, Fingerprint]:
        """Return the digests of all rows of the source and of the target, and the fingerprint of the same rows."""
        [source], [(rows, digest, fingerprint)] = self.connections.rows(
            _WHOLE.format(self._source_hash, "", self.table.source_sql), self._target_query
        )
        return (source[0], source[1]), (rows, digest), Fingerprint(rows, int(fingerprint))

    def of_target(self) -> tuple[Digest, Fingerprint]:
        """Return the digest of all rows of the target, and the fingerprint of the same rows."""
        rows, digest, fingerprint = self.connections.target.row(self._target_query)
        return (rows, digest), Fingerprint(rows, int(fingerprint))

    @property
    def _target_query(self) -> str:
        found = fingerprint_digest(self.connections.target, self.table.name)
        return _WHOLE.format(self._target_hash, f", {found}", self.table.target_sql)

    def differing_parts(self, bits: int) -> Iterator[Part]:
        """Yield parts that hold all differing rows: the buckets of `2 ** bits` ids whose digests differ.

        Unless both databases have a numeric key, the only part is the whole table.
        """
        if not self.table.counted_key:
            yield Part()
            return
        for wide_bucket in self._differing_buckets(Part(), _WIDE_BITS):
            buckets = self._differing_buckets(self._part([wide_bucket], _WIDE_BITS), bits)
            step = _PART_ROWS >> bits
            for start in range(0, len(buckets), step):
                yield self._part(buckets[start : start + step], bits)

    def row_hashes(self, part: Part) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Return the id, as text, and the hash of each row of a part, of the source and of the target."""
        return self.connections.rows(
            f"SELECT {self.source_key}, {self._source_hash} FROM {self.table.source_sql}{part.source}",
            f"SELECT {self.target_key}, {self._target_hash} FROM {self.table.target_sql}{part.target}",
        )

    def _digests(
        self, part: Part, bits: int | None = None
    ) -> tuple[dict[int | None, Digest], dict[int | None, Digest]]:
        """Return the digests of each bucket; without `bits`, of the whole part, for which a server may use workers."""
        query = "SELECT {}, count(*), coalesce(sum({}), 0)::text FROM {}{}"
        if bits is not None:
            query += " GROUP BY 1"
        key, table = self.table.key, self.table
        source, target = self.connections.rows(
            query.format(_bucket(key.source_value, bits), self._source_hash, table.source_sql, part.source),
            query.format(_bucket(key.target_value, bits), self._target_hash, table.target_sql, part.target),
        )
        return _by_bucket(source), _by_bucket(target)

    def _differing_buckets(self, part: Part, bits: int) -> list[int]:
        source, target = self._digests(part, bits)
        buckets = source.keys() | target.keys()
        return sorted(bucket for bucket in buckets if bucket is not None and source.get(bucket) != target.get(bucket))

    def _part(self, buckets: list[int], bits: int) -> Part:
        key = self.table.key
        return Part(
            _where_in_buckets(key.source_value, buckets, bits),
            _where_in_buckets(key.target_value, buckets, bits),
            len(buckets),
        )


def number_first(key: str) -> tuple[int, str]:
    """Sort ids as numbers, and texts that are none by their letters."""
    return (int(key), "") if NUMBER.fullmatch(key) else (0, key)


def _bucket(number: str, bits: int | None) -> str:
    # PostgreSQL hashes a list only if the value has exactly the type of its elements: hence the cast.
    return "NULL::bigint" if bits is None else f"({number}::bigint >> {bits})"


def _where_in_buckets(number: str, buckets: list[int], bits: int) -> str:
    """Return a WHERE clause with a range, which an index serves, and within it the list of buckets."""
    lowest, highest = buckets[0] << bits, ((buckets[-1] + 1) << bits) - 1
    numbers = ", ".join(map(str, buckets))
    return (
        f" WHERE {number} BETWEEN {lowest} AND {highest}"
        f" AND {_bucket(number, bits)} IN (SELECT unnest('{{{numbers}}}'::bigint[]))"
    )


def _by_bucket(rows: list[tuple[Any, ...]]) -> dict[int | None, Digest]:
    return {bucket: (count, digest) for bucket, count, digest in rows}
