"""The comparison of both databases: counts of rows, and whole contents down to the value that differs."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from tatame_db.errors import TatameError, counted, fact
from tatame_db.move.choices import REJECTED
from tatame_db.move.differences import DifferenceReader, RowDifference
from tatame_db.move.digest import NARROW_BITS, TableDigests, common_hash, number_first
from tatame_db.move.own_columns import read_mapping_to_target
from tatame_db.move.record import Record, identity_of
from tatame_db.move.rejects import Rejects
from tatame_db.move.switch.homes import known_homes
from tatame_db.move.target_schema import refuse_missing_columns, refuse_replaced_tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tatame_db.move.choices import Exclusion
    from tatame_db.move.connection import Connections
    from tatame_db.move.digest import Part
    from tatame_db.move.mapping import TableMap
    from tatame_db.move.rest import RestReading

MAX_DIFFERENCES = 20


@fact
class CountsDiffer(TatameError):
    """The numbers of rows differ, or the source's is unknown: the negative answer of `move counts`."""

    exit_code = 3
    tables: list[str]
    by_choice: bool
    what = "the row counts differ or are unknown: {tables}{explanation}"
    fix = "`tatame-db move verify {arguments}` names the rows"

    @property
    def explanation(self) -> str:
        """The end of the sentence."""
        return "; each difference is the number of excluded rows" if self.by_choice else ""

    @property
    def arguments(self) -> str:
        """The tables, as they are typed."""
        return " ".join(self.tables)


@fact
class DataDiffers(TatameError):
    """The contents differ, or cannot be compared: the negative answer of `move verify`."""

    exit_code = 3
    names: list[str]
    by_choice: int
    moved: list[str] = field(default_factory=list[str])
    """Those whose home is the target."""
    what = "source and target differ: {names}{explanation}"
    fix = "{advice}"

    @property
    def explanation(self) -> str:
        """The end of the sentence."""
        choice = f"; {counted(self.by_choice, 'difference')} by choice, the others not" if self.by_choice else ""
        return f"{choice}; the home of {', '.join(self.moved)} is the target" if self.moved else choice

    @property
    def advice(self) -> str:
        """How to make them equal, in the direction that loses nothing."""
        if self.moved:
            return (
                f"the rows that count are those of the target: `tatame-db move back {' '.join(self.moved)}` writes them"
                " to the source too, if that is to be their home again"
            )
        return "run `tatame-db move copy`, which copies what differs; `tatame-db move plan` shows what it would refuse"


@fact
class OnlyExclusionsDiffer(TatameError):
    """The contents differ only by rows and values that were excluded by choice: an answer of `move verify`."""

    exit_code = 3
    tables: list[str]
    rows: int
    what = "equal except for {rows:row} excluded by choice: {tables}"
    fix = "the excluded rows are in `tatame_move.rejects`; fix them at the source to move them too"


@dataclass(frozen=True)
class TableCount:
    """The number of rows in both databases; `source` is `None` if it is unknown.

    `rejected` counts the rows that were not copied by choice, by kind of obstacle.
    """

    table: str
    source: int | None
    target: int
    rejected: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def agrees(self) -> bool:
        """Whether both numbers are known and equal."""
        return self.source == self.target

    @property
    def by_choice(self) -> bool:
        """Whether the numbers differ exactly by the rejected rows."""
        return self.source is not None and self.source - self.target == sum(self.rejected.values()) > 0


@dataclass(frozen=True)
class TableProof:
    """The result of comparing a table; the counts are of all rows that differ, `differences` are the first of them.

    A table that the source lacks has neither a number of rows nor digests.
    """

    table: str
    source_rows: int | None
    target_rows: int
    source_digest: str | None
    target_digest: str | None
    missing: int
    extra: int
    differing: int
    by_choice: int
    """How many of these rows differ by choice: they were excluded, and the source has not changed them since."""
    differences: list[RowDifference]

    @property
    def equal(self) -> bool:
        """Whether the table could be compared and both databases hold the same rows."""
        return (
            self.source_rows is not None
            and (self.source_rows, self.source_digest) == (self.target_rows, self.target_digest)
            and not (self.missing or self.extra or self.differing)
        )

    @property
    def differs_by_choice(self) -> bool:
        """Whether there are differences, and every one is by choice."""
        return self.source_rows is not None and 0 < self.by_choice == self.missing + self.extra + self.differing


@dataclass(frozen=True)
class Proof:
    """The comparison of some tables, each database as of one moment, by a hash that both servers compute alike."""

    hash: str
    tables: list[TableProof]
    exclusions: list[Exclusion]
    """The rows and values that are kept in `tatame_move.rejects`."""
    changed: list[Exclusion]
    """Columns and tables without a model whose values have changed at the source since they were kept."""
    rest: RestReading | None
    moved: list[str]
    """The tables whose home is the target, which takes writes that the source does not have."""
    home_problem: str | None
    """Why the homes of the tables are not known."""

    @property
    def unequal(self) -> list[str]:
        """The names of the tables that differ."""
        return [table.table for table in self.tables if not table.equal]

    @property
    def equal(self) -> bool:
        """Whether there is no difference at all."""
        return not self.unequal and not self.changed

    @property
    def by_choice(self) -> int:
        """The number of rows that differ by choice."""
        return sum(table.by_choice for table in self.tables)

    @property
    def equal_but_for_choices(self) -> bool:
        """Whether every difference is by choice, and everything excluded is kept."""
        return not self.changed and all(table.equal or table.differs_by_choice for table in self.tables)

    @property
    def error(self) -> DataDiffers | OnlyExclusionsDiffer | None:
        """The error that states the differences; `None` if there are none."""
        if self.equal:
            return None
        if self.equal_but_for_choices:
            return OnlyExclusionsDiffer(tables=self.unequal, rows=self.by_choice)
        return DataDiffers(
            names=[*self.unequal, *(kept.place for kept in self.changed)],
            by_choice=self.by_choice,
            moved=[table for table in self.unequal if table in self.moved],
        )


def counts(connections: Connections) -> list[TableCount]:
    """Count the rows of each table in both databases. Raises `SourceUnreadable`."""
    tables = read_mapping_to_target(connections).tables
    exclusions = Record(connections.target).exclusions(identity_of(connections.source))
    return [replace(_count(connections, table), rejected=rejected(exclusions, table.name)) for table in tables]


def rejected(exclusions: list[Exclusion], table: str) -> dict[str, int]:
    """Count the rejected rows of a table by kind of obstacle."""
    rows: Counter[str] = Counter()
    for exclusion in exclusions:
        if (exclusion.table, exclusion.action) == (table, REJECTED):
            rows[exclusion.kind] += exclusion.rows
    return dict(rows)


@dataclass(frozen=True)
class Comparison:
    """A proof without the values that differ, which can be read as long as both databases are open."""

    proof: Proof
    readers: dict[str, DifferenceReader]

    def differences(self, table: TableProof) -> Iterator[RowDifference]:
        """Read the values of a table's differences; holds some megabytes of them at a time."""
        return self.readers[table.table].with_values(table.differences) if table.differences else iter(())


def compare(
    connections: Connections, tables: Sequence[str] = (), *, max_differences: int = MAX_DIFFERENCES
) -> Comparison:
    """Compare the contents of these tables, or of all; remember at most `max_differences` rows of each that differ.

    Raises `TableUnknown`, `SourceUnreadable`, `TargetColumnsMissing`, `NoCommonHash`.
    """
    mapping = read_mapping_to_target(connections)
    chosen = mapping.chosen(tables)
    refuse_replaced_tables(connections.target)
    refuse_missing_columns(connections.target, [table.table for table in chosen])
    hash_function = common_hash(connections)
    rejects = Rejects(connections, hash_function)
    readers = {
        table.name: DifferenceReader(TableDigests(connections, table, hash_function), hash_function) for table in chosen
    }
    found = known_homes(connections.target, connections.source)
    proof = Proof(
        hash=hash_function.name,
        tables=[_prove(connections, readers[table.name], rejects, max_differences) for table in chosen],
        exclusions=rejects.of(tables),
        changed=rejects.changed(mapping, tables),
        rest=connections.source.rest,
        moved=[table.name for table in chosen if table.name in found.moved],
        home_problem=found.problem,
    )
    return Comparison(proof, readers)


def verify(connections: Connections, tables: Sequence[str] = (), *, max_differences: int = MAX_DIFFERENCES) -> Proof:
    """Compare the contents of these tables, or of all, and return at most `max_differences` rows of each that differ.

    Holds the values of all these rows; `compare` reads them one after the other. Raises what `compare` raises.
    """
    found = compare(connections, tables, max_differences=max_differences)
    tables_with_values = [replace(table, differences=list(found.differences(table))) for table in found.proof.tables]
    return replace(found.proof, tables=tables_with_values)


def _count(connections: Connections, table: TableMap) -> TableCount:
    query = "SELECT count(*) FROM {}"
    [[source]], [[target]] = connections.rows(query.format(table.source_sql), query.format(table.target_sql))
    return TableCount(table.name, source if table.comparable else None, target)


def _prove(connections: Connections, reader: DifferenceReader, rejects: Rejects, max_differences: int) -> TableProof:
    digests, table = reader.digests, reader.table
    if not table.comparable:
        return TableProof(table.name, None, _count(connections, table).target, None, None, 0, 0, 0, 0, [])
    rows = _RowComparison(reader, rejects, max_differences)
    source, target = digests.whole()
    if source != target:
        for part in digests.differing_parts(NARROW_BITS):
            rows.compare(part)
    return TableProof(
        table=table.name,
        source_rows=source[0],
        target_rows=target[0],
        source_digest=source[1],
        target_digest=target[1],
        missing=rows.missing,
        extra=rows.extra,
        differing=rows.differing,
        by_choice=rows.by_choice,
        differences=rows.differences(),
    )


class _RowComparison:
    """Compares the rows of one table part by part: counts those that differ, and remembers the first of them."""

    def __init__(self, reader: DifferenceReader, rejects: Rejects, max_differences: int) -> None:
        self.reader, self.digests, self.table = reader, reader.digests, reader.table
        self.rejects, self.max_differences = rejects, max_differences
        self.missing = self.extra = self.differing = self.by_choice = 0
        self.found: list[RowDifference] = []

    def compare(self, part: Part) -> None:
        source, target = map(_hashes_by_key, self.digests.row_hashes(part))
        unequal = [key for key in source.keys() | target.keys() if source.get(key) != target.get(key)]
        reasons = self._reasons(
            missing=[key for key in unequal if key not in target],
            differing=[key for key in unequal if key in source and key in target],
        )
        for key in sorted(unequal, key=number_first):
            source_rows, target_rows = len(source.get(key, ())), len(target.get(key, ()))
            # An id may occur more than once; the rows without a counterpart are missing or extra.
            pairs = min(source_rows, target_rows)
            self.differing += pairs
            self.missing += source_rows - pairs
            self.extra += target_rows - pairs
            if key in reasons:
                self.by_choice += source_rows
            if len(self.found) < self.max_differences:
                kind: Literal["missing", "extra", "differing"] = (
                    "differing" if pairs else "missing" if source_rows else "extra"
                )
                self.found.append(RowDifference(key, kind, [], reasons.get(key)))

    def differences(self) -> list[RowDifference]:
        """Return the rows that were remembered, in the order of their ids, without values."""
        return sorted(self.found, key=lambda row: number_first(row.id))

    def _reasons(self, missing: list[str], differing: list[str]) -> dict[str, str]:
        """Return, by id, the reasons of those rows that differ only by choice."""
        excluded = self.rejects.excluded_rows(self.table, [*missing, *differing])
        reasons: dict[str, str] = {}
        for key in missing:
            if key in excluded and (reason := excluded[key].rejected) is not None:
                reasons[key] = reason
        nulled = {key: excluded[key].nulled for key in differing if key in excluded and excluded[key].nulled}
        for key, columns in self.reader.columns(list(nulled)).items():
            # By choice only if each differing column is NULL now, and was made NULL for a reason that is on record.
            names = [found.column.source.name if found.column.source else "" for found in columns]
            if all(found.is_null_in_target for found in columns) and nulled[key].keys() >= set(names):
                reasons[key] = "; ".join(nulled[key][name] for name in names)
        return reasons


def _hashes_by_key(rows: list[tuple[Any, ...]]) -> dict[str, list[int]]:
    hashes: dict[str, list[int]] = defaultdict(list)
    for key, hashed in rows:
        hashes["NULL" if key is None else key].append(hashed)
    return {key: sorted(of_key) for key, of_key in hashes.items()}
