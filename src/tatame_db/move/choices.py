"""What is done, by choice, with rows that cannot move as they are: which stay behind, and which lose a value.

What is set aside stays set aside, whatever turns up later: of two rows with one `clerk_user_id` the second does not
come back because the first turns out to be an orphan. So the answer is always the same one, and there always is one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.move import obstacles
from tatame_db.move.mapping import Mapping, literal, quoted
from tatame_db.move.obstacles import Requirement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.mapping import SourceTable, TableMap

EXAMPLES = 3
UNKNOWN_TABLE = "unknown-table"
# What becomes of it: the row stays behind, a value becomes NULL, values are kept beside our tables, or not at all.
REJECTED, NULLED, KEPT, LEFT = "rejected", "nulled", "kept", "left"
# Their ids pass through our memory and stand in queries, some 10 bytes each.
MOST_IDS = 2_000_000
Instead = Literal["null", "reject"]
Keep = Literal["first", "last"]
Unknown = Literal["keep", "leave"]
Rejects = Literal["keep"]


class TooManyExcluded(TatameError):
    """So many rows would be set aside that they are no exceptions."""

    def __init__(self, table: str, what: str) -> None:
        self.table = table
        super().__init__(
            f"more than {MOST_IDS:,} rows would be set aside; the last are of {table}: {what}",
            means=NOTHING_CHANGED,
            fix="these are no exceptions; mend them at the source",
        )


@dataclass(frozen=True)
class Choices:
    """What to do with each kind of obstacle; `None` where nobody chose."""

    orphans: Instead | None = None
    misfits: Instead | None = None
    duplicates: Keep | None = None
    unknown: Unknown | None = None
    rejects: Rejects | None = None

    def of(self, kind: str) -> tuple[str, str] | None:
        """Return what is to be done with this kind, and the option that says so."""
        own = {
            "orphan": ("--orphans", self.orphans),
            "misfit": ("--misfits", self.misfits),
            "duplicate": ("--duplicates", self.duplicates),
            "unknown-column": ("--unknown", self.unknown),
            UNKNOWN_TABLE: ("--unknown", self.unknown),
        }
        option, chosen = own.get(kind, ("", None))
        if chosen:
            return chosen, f"{option} {chosen}"
        if self.rejects and kind in _ROWS:
            return "reject", "--rejects keep"
        return None


_ROWS = {"orphan", "misfit", "duplicate", "missing-value", "last-id", "too-long"}
_REST = "`--rejects keep`: the row stays behind, and is kept"
_UNKNOWN = ["`--unknown keep`: the values are kept as JSON", "`--unknown leave`: they stay at the source alone"]


def _ways(requirement: Requirement) -> list[str]:
    reject = "the row stays behind, and is kept"
    null = (
        "NULL takes its place, and the row is kept as it was"
        if requirement.nullable
        else f"may not be NULL, so {reject}"
    )
    own = {
        "orphan": [f"`--orphans null`: {null}", f"`--orphans reject`: {reject}"],
        "misfit": [f"`--misfits null`: {null}", f"`--misfits reject`: {reject}"],
        "duplicate": [f"`--duplicates {keep}`: the {keep} by id moves, the others are kept" for keep in _KEEPS],
        "unknown-column": _UNKNOWN,
        UNKNOWN_TABLE: _UNKNOWN,
    }
    return [*own.get(requirement.kind, []), *([_REST] if requirement.kind in _ROWS else []), *requirement.fixes]


_KEEPS: tuple[Keep, Keep] = ("first", "last")


@dataclass(frozen=True)
class Obstacle:
    """Rows that cannot move as they are: `rows` of them, some named by their `ids`, and what can be done.

    `chosen` is the option that says what is done, and `outcome` what that comes to: how many are `rejected`, `nulled`,
    `kept` or `left`. A row that is rejected for one reason does not count for another.
    """

    kind: str
    what: str
    rows: int
    ids: list[str]
    choices: list[str]
    chosen: str | None = None
    outcome: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class Exclusion:
    """What one choice comes to in one table: `rejected` rows, `nulled`, `kept` or `left` values."""

    table: str
    column: str | None
    kind: str
    reason: str
    action: str
    rows: int

    @property
    def place(self) -> str:
        """The column with its table, as `users.phone`, or the table."""
        return f"{self.table}.{self.column}" if self.column else self.table


@dataclass(frozen=True)
class ExclusionQuery:
    """What is set aside, and the rows of the source that it is about, as a query without its `SELECT`."""

    exclusion: Exclusion
    key: str
    row: str
    rows: str


@dataclass(frozen=True)
class Resolution:
    """What the choices make of the source: its tables without what is set aside, and what that is."""

    mapping: Mapping
    rows: dict[str, int]
    """All rows of each table in the source."""
    obstacles: dict[str, list[Obstacle]]
    unknown_tables: list[Obstacle]
    queries: list[ExclusionQuery]


def summary(queries: Iterable[ExclusionQuery]) -> list[Exclusion]:
    """Sum up what is set aside for the same reason."""
    rows: Counter[Exclusion] = Counter()
    for query in queries:
        rows[replace(query.exclusion, rows=0)] += query.exclusion.rows
    return [replace(what, rows=count) for what, count in rows.items()]


def values_of(table: TableMap, what: Exclusion) -> ExclusionQuery:
    """Say where the values of an unknown column are, with the ids of their rows; also of rows that are rejected."""
    plain, key = table.plain, table.key.source
    names = [*([key.name] if key else []), str(what.column)]
    pairs = ", ".join(f"{literal(name)}::text, s.{quoted(name)}" for name in names)
    rows = f"FROM {plain.source_sql} WHERE s.{quoted(str(what.column))} IS NOT NULL"
    return ExclusionQuery(what, f"({plain.key.source_value})::text", f"jsonb_build_object({pairs})", rows)


def rows_of(table: SourceTable, what: Exclusion) -> ExclusionQuery:
    """Say where the rows of an unknown table are."""
    return ExclusionQuery(what, "to_jsonb(s) ->> 'id'", "to_jsonb(s)", f"FROM {table.sql} AS s")


def resolve(source: MoveConnection, mapping: Mapping, choices: Choices) -> Resolution:
    """Look at all rows of the source, and find out what the choices come to. Raises `TooManyAside`."""
    return _Resolver(source, mapping, choices).resolution()


@dataclass(frozen=True)
class _Draft:
    """What is set aside, before it is known which of these rows are rejected for another reason later."""

    table: str
    requirement: Requirement
    action: str
    ids: str
    """As they stand between the braces of an array."""


class _Resolver:
    def __init__(self, source: MoveConnection, mapping: Mapping, choices: Choices) -> None:
        self.source, self.mapping, self.choices = source, mapping, choices
        self.tables = {table.name: table for table in mapping.tables}
        self.here = [table.name for table in mapping.tables if table.source]
        self.rows = dict.fromkeys(self.tables, 0)
        self.obstacles: dict[str, dict[str, Obstacle]] = {name: {} for name in self.tables}
        self.drafts: list[_Draft] = []
        self.queries: list[ExclusionQuery] = []
        # Rows that stay behind, and whose children were not looked at yet.
        self.fresh: list[tuple[str, str]] = []
        self.ids = 0

    def resolution(self) -> Resolution:
        for name in self.here:
            self._look_at(name)
        for name in self.here:
            for requirement in obstacles.orphans(self.mapping, self.tables[name]):
                self._meet(name, requirement, self._count(name, requirement))
        self._look_for_children()
        for name in self.here:
            for requirement in obstacles.duplicates(self.tables[name].plain):
                self._meet(name, requirement, self._count(name, requirement))
        self._look_for_children()
        self._finish()
        unknown = [found for table in self.mapping.unknown if (found := self._look_at_unknown(table))]
        return Resolution(
            replace(self.mapping, tables=list(self.tables.values())),
            self.rows,
            {
                name: [
                    *_missing_table(table),
                    *(self._outcome(name, summary) for summary in self.obstacles[name].values()),
                ]
                for name, table in self.tables.items()
            },
            unknown,
            self.queries,
        )

    def _look_at(self, name: str) -> None:
        table = self.tables[name]
        found = list(obstacles.of_a_row(table))
        filters = "".join(f", count(*) FILTER (WHERE {requirement.condition})" for requirement in found)
        # Over a source of any size one reading of the table answers all that a row says about itself.
        self.rows[name], *counts = self.source.row(f"SELECT count(*){filters} FROM {table.source_sql}")
        for requirement in obstacles.of_the_key(table):
            self._meet(name, requirement, self._count(name, requirement))
        for requirement, count in zip(found, counts, strict=True):
            self._meet(name, requirement, count)

    def _count(self, name: str, requirement: Requirement) -> int:
        [count] = self.source.row(
            f"SELECT count(*) FROM {self.tables[name].plain.source_sql} WHERE {requirement.condition}"
        )
        return int(count)

    def _meet(self, name: str, requirement: Requirement, count: int) -> None:
        if not count:
            return
        self._tell(name, requirement, count, self.tables[name].plain)
        if chosen := self.choices.of(requirement.kind):
            self._do(name, requirement, chosen[0])

    def _tell(self, name: str, requirement: Requirement, count: int, table: TableMap) -> None:
        known = self.obstacles[name].get(requirement.what)
        if known:
            self.obstacles[name][requirement.what] = replace(known, rows=known.rows + count)
            return
        key = table.key.source_value
        examples = self.source.rows(
            f"SELECT coalesce({key}::text, 'NULL') FROM {table.source_sql} WHERE {requirement.condition}"
            f" ORDER BY {key} LIMIT {EXAMPLES}"
        )
        chosen = self.choices.of(requirement.kind)
        self.obstacles[name][requirement.what] = Obstacle(
            requirement.kind,
            requirement.what,
            count,
            [row[0] for row in examples],
            _ways(requirement),
            chosen[1] if chosen else None,
        )

    def _do(self, name: str, requirement: Requirement, way: str) -> None:
        table = self.tables[name]
        if requirement.kind == "unknown-column":
            self._take_values(table, requirement, way)
            return
        key = table.key
        if requirement.kind == "duplicate" and key.source and requirement.column != key.source.name:
            # Now among the rows that are not set aside for another reason.
            keep = way if way in _KEEPS else None
            [requirement] = [other for other in obstacles.duplicates(table, keep) if other.column == requirement.column]
        without_id = (
            requirement.kind == "missing-value" and key.source is not None and requirement.column == key.source.name
        )
        action = NULLED if way == "null" and requirement.nullable else REJECTED
        rows, ids = self._ids(table, requirement, f"{key.source_value} IS {'' if without_id else 'NOT '}NULL")
        if not rows:
            return
        excluded = table.excluded
        if without_id:
            excluded, ids = replace(excluded, without_id=True), ""
        elif action == REJECTED:
            excluded = excluded.with_rejected(ids)
            self.fresh.append((name, ids))
        else:
            excluded = excluded.with_nulled(str(requirement.column), ids)
        self.tables[name] = replace(table, excluded=excluded)
        self.drafts.append(_Draft(name, requirement, action, ids))

    def _ids(self, table: TableMap, requirement: Requirement, which: str) -> tuple[int, str]:
        rows, ids = self.source.row(
            f"SELECT count(*), array_agg(k)::text FROM (SELECT {table.key.source_value} AS k FROM {table.source_sql}"
            f" WHERE ({requirement.condition}) AND {which} LIMIT {MOST_IDS + 1}) AS found"
        )
        self.ids += rows
        if self.ids > MOST_IDS:
            raise TooManyExcluded(table.name, requirement.what)
        return rows, ids[1:-1] if ids else ""

    def _look_for_children(self) -> None:
        """Reject what names a rejected row, or set it to NULL, until nothing more turns up."""
        while self.fresh:
            parent, ids = self.fresh.pop()
            for name in self.here:
                for requirement in obstacles.orphans_of(self.tables[name], self.tables[parent], ids):
                    table = self.tables[name]
                    [count] = self.source.row(f"SELECT count(*) FROM {table.source_sql} WHERE {requirement.condition}")
                    if count:
                        self._tell(name, requirement, count, table)
                        if chosen := self.choices.of(requirement.kind):
                            self._do(name, requirement, chosen[0])

    def _take_values(self, table: TableMap, requirement: Requirement, way: str) -> None:
        self._add(
            values_of(
                table, Exclusion(table.name, requirement.column, requirement.kind, requirement.what, _TAKEN[way], 0)
            )
        )

    def _look_at_unknown(self, table: SourceTable) -> Obstacle | None:
        [count] = self.source.row(f"SELECT count(*) FROM {table.sql}")
        if not count:
            return None
        words = f"the table {table.name} has rows, and there is no such table of ours"
        fixes = ("add the table to the models with `tatame-db generate`", "move or drop it at the source")
        requirement = Requirement(UNKNOWN_TABLE, words, "true", fixes)
        chosen = self.choices.of(requirement.kind)
        # Without columns there is nothing to keep: over REST, of a table that was only counted.
        if chosen is None or (chosen[0] == "keep" and not table.columns):
            return Obstacle(requirement.kind, words, count, [], _ways(requirement))
        what = Exclusion(table.name, None, requirement.kind, words, _TAKEN[chosen[0]], 0)
        self._add(rows_of(table, what))
        return Obstacle(requirement.kind, words, count, [], _ways(requirement), chosen[1], {what.action: count})

    def _finish(self) -> None:
        for draft in self.drafts:
            table, requirement = self.tables[draft.table], draft.requirement
            which = table.among(draft.ids) if draft.ids else f"{table.key.source_value} IS NULL"
            # A row that is rejected in the end has lost no value: it is kept once, as a whole.
            seen = (
                replace(table, excluded=replace(table.excluded, nulled={})) if draft.action == NULLED else table.plain
            )
            what = Exclusion(table.name, requirement.column, requirement.kind, requirement.what, draft.action, 0)
            rows = f"FROM {seen.source_sql} WHERE {which}"
            self._add(ExclusionQuery(what, f"({table.key.source_value})::text", "to_jsonb(s)", rows))

    def _add(self, query: ExclusionQuery) -> None:
        [count] = self.source.row(f"SELECT count(*) {query.rows}")
        if count:
            self.queries.append(replace(query, exclusion=replace(query.exclusion, rows=count)))

    def _outcome(self, name: str, obstacle: Obstacle) -> Obstacle:
        outcome: Counter[str] = Counter()
        for query in self.queries:
            if (query.exclusion.table, query.exclusion.reason) == (name, obstacle.what):
                outcome[query.exclusion.action] += query.exclusion.rows
        return replace(obstacle, outcome=dict(outcome))


_TAKEN = {"keep": KEPT, "leave": LEFT}
_AT_A_MISSING_TABLE = [
    "check that `SUPABASE_DB_URL` names the right project",
    'state `"optional_in_source": True` in the `info` of the model, if the table is new',
]


def _missing_table(table: TableMap) -> list[Obstacle]:
    if table.comparable:
        return []
    words = f"the source has no table {table.name}, and every project has one"
    return [Obstacle("missing-table", words, 0, [], _AT_A_MISSING_TABLE)]
