"""Counts and digests of both sides, made by the servers themselves and narrowed down to the value that differs.

A digest is the number of rows and the sum of a 64-bit hash over the text of each, so their order does not matter. The
text is the same on both sides only where the target's values, read in the source's types, are the source's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tatame_db.errors import NOTHING_CHANGED, TatameError, counted
from tatame_db.move import record
from tatame_db.move.choices import REJECTED
from tatame_db.move.mapping import NUMBER, array, listed, read_mapping
from tatame_db.move.rejects import Kept

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tatame_db.move.choices import Exclusion
    from tatame_db.move.connection import Connections
    from tatame_db.move.mapping import TableMap
    from tatame_db.move.rest import RestReading

MAX_DIFFERENCES = 20
BATCH_ROWS = 10_000
_ROWS_AT_ONCE = 1 << 14
# Rows whose ids agree but for the last bits lie together: first many thousands, then some hundreds or some.
_WIDE_BITS, _NARROW_BITS, _FEW_BITS = 16, 8, 4
HASHES = {
    "hashtextextended": 'hashtextextended((TEXT) COLLATE "C", 0)',
    # Older and newer servers on other machines may disagree on the first, but never on this one.
    "md5": "('x' || left(md5(TEXT), 16))::bit(64)::bigint",
}
_KNOWN_TEXTS = ["", "a", "null", "NULL", '(1,,"")', "Ação 🥋", "e\u0301", "\t\n\\N", "x" * 1_000, "é" * 30_000]


class CountsDiffer(TatameError):
    """The number of rows differs, or could not be told: the answer of `move counts`."""

    exit_code = 3

    def __init__(self, counts: list[TableCount]) -> None:
        self.tables = tables = [count.table for count in counts]
        by_choice = all(count.by_choice for count in counts)
        super().__init__(
            f"the number of rows differs or could not be told: {', '.join(tables)}"
            + ("; each by as many as were set aside by choice" if by_choice else ""),
            means=NOTHING_CHANGED,
            fix=f"`tatame-db move verify {' '.join(tables)}` names the rows",
        )


class DataDiffers(TatameError):
    """The contents differ, or could not be compared: the answer of `move verify`."""

    exit_code = 3

    def __init__(self, proof: Proof) -> None:
        self.tables, self.by_choice = proof.unequal, proof.by_choice
        changed = [".".join(filter(None, (what.table, what.column))) for what in proof.changed]
        what = f"source and target are not equal: {', '.join([*self.tables, *changed])}"
        fix = "look at the differences above; `tatame-db move plan` says which rows cannot be stored as they are"
        if proof.equal_but_for_choices:
            what = f"equal but for {counted(self.by_choice, 'row')} set aside by choice: {', '.join(self.tables)}"
            fix = "they are in `tatame_move.rejects`, as the source has them today; mend them there to move them too"
        elif self.by_choice:
            what += f"; {counted(self.by_choice, 'difference')} by choice, the others not"
        super().__init__(what, means=NOTHING_CHANGED, fix=fix)


class NoCommonHash(TatameError):
    """The two servers make different hashes of the same text."""

    def __init__(self, encodings: tuple[str, str]) -> None:
        self.encodings = encodings
        super().__init__(
            f"the servers make different digests of the same text; source and target are in {' and '.join(encodings)}",
            means="Nothing was compared, so nothing is proven.",
            fix="make the target in a database with the encoding UTF8",
        )


@dataclass(frozen=True)
class TableCount:
    """The rows of both sides; `source` is `None` where there is no table that could have told.

    `rejected` counts those that stayed behind by choice and are kept, by the kind of obstacle.
    """

    table: str
    source: int | None
    target: int
    rejected: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def agrees(self) -> bool:
        """Whether both were told, and are the same."""
        return self.source == self.target

    @property
    def by_choice(self) -> bool:
        """Whether they differ by as many rows as are kept."""
        return self.source is not None and self.source - self.target == sum(self.rejected.values()) > 0


@dataclass(frozen=True)
class Value:
    """A column that differs, with the text of its value on both sides."""

    column: str
    source: str | None
    target: str | None


@dataclass(frozen=True)
class Difference:
    """A row that is `missing` on the target, `extra` there, or `differing`; `values` for the last kind alone.

    `choice` says why it is so by choice; only where the row is kept as the source has it today.
    """

    id: str
    kind: str
    values: list[Value]
    choice: str | None = None


@dataclass(frozen=True)
class TableProof:
    """What a comparison of whole contents found; the counts are of all rows, the differences are the first ones."""

    table: str
    source_rows: int | None
    target_rows: int
    source_digest: str | None
    target_digest: str | None
    missing: int
    extra: int
    differing: int
    by_choice: int
    """How many of these rows differ by choice, and are kept as the source has them today."""
    differences: list[Difference]

    @property
    def equal(self) -> bool:
        """Whether both sides hold the same rows, and that could be told."""
        return (
            self.source_rows is not None
            and (self.source_rows, self.source_digest) == (self.target_rows, self.target_digest)
            and not (self.missing or self.extra or self.differing)
        )

    @property
    def differs_by_choice(self) -> bool:
        """Whether there are differences, and each is by choice."""
        return self.source_rows is not None and 0 < self.by_choice == self.missing + self.extra + self.differing


@dataclass(frozen=True)
class Proof:
    """The proof of some tables, each side read in one moment, and the hash that both servers agreed on."""

    hash: str
    tables: list[TableProof]
    exclusions: list[Exclusion]
    """What is kept of rows and values that were set aside by choice."""
    changed: list[Exclusion]
    """Columns and tables without a place with us that are kept, and not as the source has them today."""
    rest: RestReading | None

    @property
    def unequal(self) -> list[str]:
        """The tables that differ."""
        return [table.table for table in self.tables if not table.equal]

    @property
    def equal(self) -> bool:
        """Whether there is no difference at all."""
        return not self.unequal and not self.changed

    @property
    def by_choice(self) -> int:
        """How many rows differ by choice."""
        return sum(table.by_choice for table in self.tables)

    @property
    def equal_but_for_choices(self) -> bool:
        """Whether every difference is by choice, and what it leaves out is kept."""
        return not self.changed and all(table.equal or table.differs_by_choice for table in self.tables)


def counts(connections: Connections) -> list[TableCount]:
    """Count the rows of both sides. Raises `SourceUnreadable`."""
    tables = read_mapping(connections.source).tables
    exclusions = record.recorded_exclusions(connections.target, record.identity_of(connections.source))
    return [replace(_count(connections, table), rejected=rejected(exclusions, table.name)) for table in tables]


def rejected(exclusions: list[Exclusion], table: str) -> dict[str, int]:
    """Count the rows of a table that stayed behind by choice, by the kind of obstacle."""
    rows: Counter[str] = Counter()
    for what in exclusions:
        if (what.table, what.action) == (table, REJECTED):
            rows[what.kind] += what.rows
    return dict(rows)


def verify(connections: Connections, tables: Sequence[str] = (), *, max_differences: int = MAX_DIFFERENCES) -> Proof:
    """Compare the whole contents of these tables, or of all; `max_differences` is how many to show of each.

    Raises `TableUnknown`, `SourceUnreadable`, `NoCommonHash`.
    """
    mapping = read_mapping(connections.source)
    chosen = mapping.chosen(tables)
    name = common_hash(connections)
    kept = Kept(connections, HASHES[name])
    proofs = [Comparison(connections, table, HASHES[name], max_differences, kept).prove() for table in chosen]
    return Proof(name, proofs, kept.of(tables), kept.changed(mapping, tables), connections.source.rest)


def common_hash(connections: Connections) -> str:
    """Return the first hash that both servers compute alike, tried on known texts. Raises `NoCommonHash`."""
    for name, expression in HASHES.items():
        query = f"SELECT {expression.replace('TEXT', 'known')} FROM unnest(%(known)s::text[]) AS known"
        source, target = connections.rows(query, query, {"known": _KNOWN_TEXTS})
        if source == target:
            return name
    query = "SELECT current_setting('server_encoding')"
    [[source_encoding]], [[target_encoding]] = connections.rows(query, query)
    raise NoCommonHash((source_encoding, target_encoding))


def _count(connections: Connections, table: TableMap) -> TableCount:
    query = "SELECT count(*) FROM {}"
    [[source]], [[target]] = connections.rows(query.format(table.source_sql), query.format(table.target_sql))
    return TableCount(table.name, source if table.comparable else None, target)


Digest = tuple[int, str]


@dataclass(frozen=True)
class Where:
    """Which rows are meant, in the words of either side."""

    source: str
    target: str
    buckets: int = 0


EVERYWHERE = Where("", "")


@dataclass(frozen=True)
class Work:
    """What makes the target equal: which rows to delete there, and which to bring, each as conditions to go through.

    `bulk` where that is done by ranges, which may hold rows that are equal; else `rows` are to be brought.
    """

    deletes: list[str]
    brings: list[str]
    bulk: bool
    rows: int | None = None


class Comparison:
    """One table on both sides: first as a whole, then only where it differs."""

    def __init__(
        self, connections: Connections, table: TableMap, hashed: str, max_differences: int = 0, kept: Kept | None = None
    ) -> None:
        self.connections, self.table, self.max_differences, self.kept = connections, table, max_differences, kept
        key = table.key
        self.source_key, self.target_key = f"{key.source_value}::text", f"{key.target_value}::text"
        self.source_hash = hashed.replace("TEXT", _row([column.source_text for column in table.columns]))
        self.target_hash = hashed.replace("TEXT", _row([column.target_text for column in table.columns]))
        self.missing = self.extra = self.differing = self.by_choice = 0
        self.found: list[tuple[str, str, str | None]] = []

    def prove(self) -> TableProof:
        """Compare, and count and show what differs."""
        if not self.table.comparable:
            count = _count(self.connections, self.table)
            return TableProof(self.table.name, None, count.target, None, None, 0, 0, 0, 0, [])
        source, target = self.whole()
        if source != target:
            for part in self._parts(_NARROW_BITS):
                self._compare_rows(part)
        return TableProof(
            table=self.table.name,
            source_rows=source[0],
            target_rows=target[0],
            source_digest=source[1],
            target_digest=target[1],
            missing=self.missing,
            extra=self.extra,
            differing=self.differing,
            by_choice=self.by_choice,
            differences=sorted(self._shown(), key=lambda shown: _number_first(shown.id)),
        )

    def whole(self) -> tuple[Digest, Digest]:
        """Digest both sides as a whole."""
        source, target = self._digests(EVERYWHERE)
        return source[None], target[None]

    def _parts(self, bits: int) -> Iterator[Where]:
        """Say which rows differ at most: in ranges of ids, buckets of so many bits that differ."""
        if not self.table.counted_key:
            yield EVERYWHERE
            return
        for wide in self._differing_buckets(EVERYWHERE, _WIDE_BITS):
            buckets = self._differing_buckets(self._within([wide], _WIDE_BITS), bits)
            # The rows of one part have to fit into little memory.
            step = _ROWS_AT_ONCE >> bits
            for start in range(0, len(buckets), step):
                yield self._within(buckets[start : start + step], bits)

    def work(self, most_rows: int) -> Work:
        """Say what is to be done: row by row up to so many, else by ranges."""
        key = self.table.key
        deletes: list[str] = []
        brings: list[str] = []
        differing = deleted = rows = 0
        for part in self._parts(_FEW_BITS):
            differing += part.buckets
            # In each there is a row that differs, so this is known before a single row is read.
            if differing > most_rows:
                return self.bulk()
            theirs, ours = map(set[tuple[str, int]], self._hashes(part))
            gone, come = {name for name, _ in ours - theirs}, {name for name, _ in theirs - ours}
            deleted, rows = deleted + len(gone), rows + len(come)
            if max(deleted, rows) > most_rows:
                return self.bulk()
            # Kept as the conditions that they become: ids one by one would take ten times as much memory.
            deletes += [f" WHERE {key.target_value} = ANY({array(ids, key.type)})" for ids in _batches(gone)]
            brings += [f" WHERE {self.table.among(ids)}" for ids in _batches(come)]
        return Work(deletes, brings, bulk=False, rows=rows)

    def bulk(self) -> Work:
        """Say which ranges are to be deleted and brought."""
        parts = list(self._parts(_NARROW_BITS))
        return Work([part.target for part in parts], [part.source for part in parts], bulk=True)

    def _digests(
        self, where: Where, bits: int | None = None
    ) -> tuple[dict[int | None, Digest], dict[int | None, Digest]]:
        """Digest each bucket of both sides; without bits, the whole, which a server can do in parallel."""
        query = "SELECT {}, count(*), coalesce(sum({}), 0)::text FROM {}{}"
        if bits is not None:
            query += " GROUP BY 1"
        source, target = self.connections.rows(
            query.format(
                _bucket(self.table.key.source_value, bits), self.source_hash, self.table.source_sql, where.source
            ),
            query.format(
                _bucket(self.table.key.target_value, bits), self.target_hash, self.table.target_sql, where.target
            ),
        )
        return _by_bucket(source), _by_bucket(target)

    def _differing_buckets(self, where: Where, bits: int) -> list[int]:
        source, target = self._digests(where, bits)
        buckets = source.keys() | target.keys()
        return sorted(bucket for bucket in buckets if bucket is not None and source.get(bucket) != target.get(bucket))

    def _within(self, buckets: list[int], bits: int) -> Where:
        key = self.table.key
        return Where(_among(key.source_value, buckets, bits), _among(key.target_value, buckets, bits), len(buckets))

    def _hashes(self, where: Where) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Hash each row of both sides, after its id."""
        return self.connections.rows(
            f"SELECT {self.source_key}, {self.source_hash} FROM {self.table.source_sql}{where.source}",
            f"SELECT {self.target_key}, {self.target_hash} FROM {self.table.target_sql}{where.target}",
        )

    def _compare_rows(self, where: Where) -> None:
        theirs, ours = map(_hashes_by_key, self._hashes(where))
        unequal = [key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key)]
        reasons = self._reasons(
            [key for key in unequal if not ours.get(key)],
            [key for key in unequal if ours.get(key) and theirs.get(key)],
        )
        for key in sorted(unequal, key=_number_first):
            there, here = len(theirs.get(key, [])), len(ours.get(key, []))
            # Where an id is there twice, rows beyond the first have nothing to be compared with.
            both = min(there, here)
            self.differing += both
            self.missing += there - both
            self.extra += here - both
            if key in reasons:
                self.by_choice += there
            if len(self.found) < self.max_differences:
                kind = "differing" if both else "missing" if there else "extra"
                self.found.append((key, kind, reasons.get(key)))

    def _reasons(self, missing: list[str], differing: list[str]) -> dict[str, str]:
        """Say which of these rows differ by choice alone, and why."""
        if self.kept is None:
            return {}
        known = self.kept.reasons(self.table, [*missing, *differing])
        reasons = {key: known[key][None] for key in missing if None in known.get(key, {})}
        nulled = [key for key in differing if known.get(key)]
        for key, values in self._values(nulled).items():
            columns = [(value, self.table.column(value.column).source) for value in values]
            if all(value.target is None and column and column.name in known[key] for value, column in columns):
                reasons[key] = "; ".join(known[key][column.name] for _, column in columns if column)
        return reasons

    def _shown(self) -> Iterator[Difference]:
        values = self._values([key for key, kind, _ in self.found if kind == "differing"])
        for key, kind, choice in self.found:
            yield Difference(key, kind, values.get(key, []), choice)

    def _values(self, keys: list[str]) -> dict[str, list[Value]]:
        """Read the values of rows that differ, column by column."""
        if not keys:
            return {}
        columns = self.table.columns
        theirs = ", ".join(f"{column.source_text}, {column.source_value}::text" for column in columns)
        ours = ", ".join(f"{column.target_text}, {column.target_value}::text" for column in columns)
        key, ids = self.table.key, listed(keys)
        source, target = self.connections.rows(
            f"SELECT {self.source_key}, {theirs} FROM {self.table.source_sql} WHERE {self.table.among(ids)}",
            f"SELECT {self.target_key}, {ours} FROM {self.table.target_sql}"
            f" WHERE {key.target_value} = ANY({array(ids, key.type)})",
        )
        rows = {row[0]: row[1:] for row in target}
        return {
            key: [
                Value(column.name, there[2 * at + 1], rows[key][2 * at + 1])
                for at, column in enumerate(columns)
                if there[2 * at] != rows[key][2 * at]
            ]
            for key, *there in source
        }


def _batches(found: set[str]) -> Iterator[str]:
    keys = sorted(found, key=_number_first)
    for start in range(0, len(keys), BATCH_ROWS):
        yield listed(keys[start : start + BATCH_ROWS])


def _row(texts: list[str]) -> str:
    # PostgreSQL quotes inside a row, and writes NULL as nothing and an empty text as "": no two rows look alike.
    return f"ROW({', '.join(texts)})::text"


def _bucket(number: str, bits: int | None) -> str:
    # A bigint on both sides: an integer is not looked up in a list of bigints, but compared with each.
    return "NULL::bigint" if bits is None else f"({number}::bigint >> {bits})"


def _among(number: str, buckets: list[int], bits: int) -> str:
    """Say which rows are meant: a range that an index serves, and in it a list of buckets."""
    lowest, highest = buckets[0] << bits, ((buckets[-1] + 1) << bits) - 1
    listed = ", ".join(map(str, buckets))
    return (
        f" WHERE {number} BETWEEN {lowest} AND {highest}"
        f" AND {_bucket(number, bits)} IN (SELECT unnest('{{{listed}}}'::bigint[]))"
    )


def _by_bucket(rows: list[tuple[Any, ...]]) -> dict[int | None, Digest]:
    return {bucket: (count, digest) for bucket, count, digest in rows}


def _hashes_by_key(rows: list[tuple[Any, ...]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for key, hashed in rows:
        found["NULL" if key is None else key].append(hashed)
    for hashes in found.values():
        hashes.sort()
    return found


def _number_first(key: str) -> tuple[int, str]:
    return (int(key), "") if NUMBER.fullmatch(key) else (0, key)
