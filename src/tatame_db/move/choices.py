"""What is done, by choice, with rows that cannot move as they are: which stay behind, and which lose a value.

What is set aside stays set aside, whatever turns up later: of two rows with one `clerk_user_id` the second does not
come back because the first turns out to be an orphan. So the answer is always the same one, and there always is one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.move import obstacles as checks
from tatame_db.move.mapping import Mapping, literal, quoted
from tatame_db.move.obstacles import Check

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tatame_db.move.connection import Side
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


class TooManyAside(TatameError):
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


def _ways(check: Check) -> list[str]:
    reject = "the row stays behind, and is kept"
    null = "NULL takes its place, and the row is kept as it was" if check.nullable else f"may not be NULL, so {reject}"
    own = {
        "orphan": [f"`--orphans null`: {null}", f"`--orphans reject`: {reject}"],
        "misfit": [f"`--misfits null`: {null}", f"`--misfits reject`: {reject}"],
        "duplicate": [f"`--duplicates {keep}`: the {keep} by id moves, the others are kept" for keep in _KEEPS],
        "unknown-column": _UNKNOWN,
        UNKNOWN_TABLE: _UNKNOWN,
    }
    return [*own.get(check.kind, []), *([_REST] if check.kind in _ROWS else []), *check.mending]


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
class SetAside:
    """What one choice comes to in one table: `rejected` rows, `nulled`, `kept` or `left` values."""

    table: str
    column: str | None
    kind: str
    reason: str
    action: str
    rows: int


@dataclass(frozen=True)
class Step:
    """What is set aside, and the rows of the source that it is about, as a query without its `SELECT`."""

    told: SetAside
    key: str
    row: str
    rows: str


@dataclass(frozen=True)
class Settled:
    """What the choices make of the source: its tables without what is set aside, and what that is."""

    mapping: Mapping
    rows: dict[str, int]
    """All rows of each table in the source."""
    obstacles: dict[str, list[Obstacle]]
    unknown_tables: list[Obstacle]
    steps: list[Step]


def told(steps: Iterable[Step]) -> list[SetAside]:
    """Sum up what is set aside for the same reason."""
    rows: Counter[SetAside] = Counter()
    for step in steps:
        rows[replace(step.told, rows=0)] += step.told.rows
    return [replace(what, rows=count) for what, count in rows.items()]


def values_of(table: TableMap, what: SetAside) -> Step:
    """Say where the values of an unknown column are, with the ids of their rows; also of rows that are rejected."""
    plain, key = table.plain, table.key.source
    names = [*([key.name] if key else []), str(what.column)]
    pairs = ", ".join(f"{literal(name)}::text, s.{quoted(name)}" for name in names)
    rows = f"FROM {plain.source_sql} WHERE s.{quoted(str(what.column))} IS NOT NULL"
    return Step(what, f"({plain.key.source_value})::text", f"jsonb_build_object({pairs})", rows)


def rows_of(table: SourceTable, what: SetAside) -> Step:
    """Say where the rows of an unknown table are."""
    return Step(what, "to_jsonb(s) ->> 'id'", "to_jsonb(s)", f"FROM {table.sql} AS s")


def settle(source: Side, mapping: Mapping, choices: Choices) -> Settled:
    """Look at all rows of the source, and find out what the choices come to. Raises `TooManyAside`."""
    return _Settling(source, mapping, choices).settled()


@dataclass(frozen=True)
class _Draft:
    """What is set aside, before it is known which of these rows are rejected for another reason later."""

    table: str
    check: Check
    action: str
    ids: str
    """As they stand between the braces of an array."""


class _Settling:
    def __init__(self, source: Side, mapping: Mapping, choices: Choices) -> None:
        self.source, self.mapping, self.choices = source, mapping, choices
        self.tables = {table.name: table for table in mapping.tables}
        self.here = [table.name for table in mapping.tables if table.source]
        self.rows = dict.fromkeys(self.tables, 0)
        self.obstacles: dict[str, dict[str, Obstacle]] = {name: {} for name in self.tables}
        self.drafts: list[_Draft] = []
        self.steps: list[Step] = []
        # Rows that stay behind, and whose children were not looked at yet.
        self.fresh: list[tuple[str, str]] = []
        self.ids = 0

    def settled(self) -> Settled:
        for name in self.here:
            self._look_at(name)
        for name in self.here:
            for check in checks.orphans(self.mapping, self.tables[name]):
                self._meet(name, check, self._count(name, check))
        self._look_for_children()
        for name in self.here:
            for check in checks.duplicates(self.tables[name].plain):
                self._meet(name, check, self._count(name, check))
        self._look_for_children()
        self._finish()
        unknown = [found for table in self.mapping.unknown if (found := self._look_at_unknown(table))]
        return Settled(
            replace(self.mapping, tables=list(self.tables.values())),
            self.rows,
            {
                name: [*_missing_table(table), *(self._outcome(name, told) for told in self.obstacles[name].values())]
                for name, table in self.tables.items()
            },
            unknown,
            self.steps,
        )

    def _look_at(self, name: str) -> None:
        table = self.tables[name]
        found = list(checks.of_a_row(table))
        filters = "".join(f", count(*) FILTER (WHERE {check.condition})" for check in found)
        # Over a source of any size one reading of the table answers all that a row says about itself.
        self.rows[name], *counts = self.source.row(f"SELECT count(*){filters} FROM {table.source_sql}")
        for check in checks.of_the_key(table):
            self._meet(name, check, self._count(name, check))
        for check, count in zip(found, counts, strict=True):
            self._meet(name, check, count)

    def _count(self, name: str, check: Check) -> int:
        [count] = self.source.row(f"SELECT count(*) FROM {self.tables[name].plain.source_sql} WHERE {check.condition}")
        return int(count)

    def _meet(self, name: str, check: Check, count: int) -> None:
        if not count:
            return
        self._tell(name, check, count, self.tables[name].plain)
        if chosen := self.choices.of(check.kind):
            self._do(name, check, chosen[0])

    def _tell(self, name: str, check: Check, count: int, table: TableMap) -> None:
        known = self.obstacles[name].get(check.what)
        if known:
            self.obstacles[name][check.what] = replace(known, rows=known.rows + count)
            return
        key = table.key.source_value
        examples = self.source.rows(
            f"SELECT coalesce({key}::text, 'NULL') FROM {table.source_sql} WHERE {check.condition}"
            f" ORDER BY {key} LIMIT {EXAMPLES}"
        )
        chosen = self.choices.of(check.kind)
        self.obstacles[name][check.what] = Obstacle(
            check.kind, check.what, count, [row[0] for row in examples], _ways(check), chosen[1] if chosen else None
        )

    def _do(self, name: str, check: Check, way: str) -> None:
        table = self.tables[name]
        if check.kind == "unknown-column":
            self._take_values(table, check, way)
            return
        key = table.key
        if check.kind == "duplicate" and key.source and check.column != key.source.name:
            # Now among the rows that are not set aside for another reason.
            keep = way if way in _KEEPS else None
            [check] = [other for other in checks.duplicates(table, keep) if other.column == check.column]
        without_id = check.kind == "missing-value" and key.source is not None and check.column == key.source.name
        action = NULLED if way == "null" and check.nullable else REJECTED
        rows, ids = self._ids(table, check, f"{key.source_value} IS {'' if without_id else 'NOT '}NULL")
        if not rows:
            return
        aside = table.aside
        if without_id:
            aside, ids = replace(aside, without_id=True), ""
        elif action == REJECTED:
            aside = aside.with_rejected(ids)
            self.fresh.append((name, ids))
        else:
            aside = aside.with_nulled(str(check.column), ids)
        self.tables[name] = replace(table, aside=aside)
        self.drafts.append(_Draft(name, check, action, ids))

    def _ids(self, table: TableMap, check: Check, which: str) -> tuple[int, str]:
        rows, ids = self.source.row(
            f"SELECT count(*), array_agg(k)::text FROM (SELECT {table.key.source_value} AS k FROM {table.source_sql}"
            f" WHERE ({check.condition}) AND {which} LIMIT {MOST_IDS + 1}) AS found"
        )
        self.ids += rows
        if self.ids > MOST_IDS:
            raise TooManyAside(table.name, check.what)
        return rows, ids[1:-1] if ids else ""

    def _look_for_children(self) -> None:
        """Reject what names a rejected row, or set it to NULL, until nothing more turns up."""
        while self.fresh:
            parent, ids = self.fresh.pop()
            for name in self.here:
                for check in checks.orphans_of(self.tables[name], self.tables[parent], ids):
                    table = self.tables[name]
                    [count] = self.source.row(f"SELECT count(*) FROM {table.source_sql} WHERE {check.condition}")
                    if count:
                        self._tell(name, check, count, table)
                        if chosen := self.choices.of(check.kind):
                            self._do(name, check, chosen[0])

    def _take_values(self, table: TableMap, check: Check, way: str) -> None:
        self._add(values_of(table, SetAside(table.name, check.column, check.kind, check.what, _TAKEN[way], 0)))

    def _look_at_unknown(self, table: SourceTable) -> Obstacle | None:
        [count] = self.source.row(f"SELECT count(*) FROM {table.sql}")
        if not count:
            return None
        words = f"the table {table.name} has rows, and there is no such table of ours"
        mending = ("add the table to the models with `tatame-db generate`", "move or drop it at the source")
        check = Check(UNKNOWN_TABLE, words, "true", mending)
        chosen = self.choices.of(check.kind)
        # Without columns there is nothing to keep: over REST, of a table that was only counted.
        if chosen is None or (chosen[0] == "keep" and not table.columns):
            return Obstacle(check.kind, words, count, [], _ways(check))
        what = SetAside(table.name, None, check.kind, words, _TAKEN[chosen[0]], 0)
        self._add(rows_of(table, what))
        return Obstacle(check.kind, words, count, [], _ways(check), chosen[1], {what.action: count})

    def _finish(self) -> None:
        for draft in self.drafts:
            table, check = self.tables[draft.table], draft.check
            which = table.among(draft.ids) if draft.ids else f"{table.key.source_value} IS NULL"
            # A row that is rejected in the end has lost no value: it is kept once, as a whole.
            seen = replace(table, aside=replace(table.aside, nulled={})) if draft.action == NULLED else table.plain
            what = SetAside(table.name, check.column, check.kind, check.what, draft.action, 0)
            rows = f"FROM {seen.source_sql} WHERE {which}"
            self._add(Step(what, f"({table.key.source_value})::text", "to_jsonb(s)", rows))

    def _add(self, step: Step) -> None:
        [count] = self.source.row(f"SELECT count(*) {step.rows}")
        if count:
            self.steps.append(replace(step, told=replace(step.told, rows=count)))

    def _outcome(self, name: str, obstacle: Obstacle) -> Obstacle:
        outcome: Counter[str] = Counter()
        for step in self.steps:
            if (step.told.table, step.told.reason) == (name, obstacle.what):
                outcome[step.told.action] += step.told.rows
        return replace(obstacle, outcome=dict(outcome))


_TAKEN = {"keep": KEPT, "leave": LEFT}


def _missing_table(table: TableMap) -> list[Obstacle]:
    if table.comparable:
        return []
    words = f"the source has no table {table.name}, and every project has one"
    return [Obstacle("missing-table", words, 0, [], ["check that `SUPABASE_DB_URL` names the right project"])]
