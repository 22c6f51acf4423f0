"""Obstacles to a copy, the choices that resolve them, and the rows and values that those exclude."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

from tatame_db.database.dialect import literal, quoted
from tatame_db.move.row_json import ROW_AS_TEXT, jsonb_of, row_as_jsonb

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tatame_db.move.catalogue import SourceTable
    from tatame_db.move.mapping import Mapping, TableMap
    from tatame_db.move.obstacles import Requirement

UNKNOWN_TABLE = "unknown-table"
# The row is not copied; the value becomes NULL; a value without a place in the target is stored in
# `tatame_move.rejects`; such a value is not copied at all.
REJECTED, NULLED, KEPT, LEFT = "rejected", "nulled", "kept", "left"
Instead = Literal["null", "reject"]
Keep = Literal["first", "last"]
Unknown = Literal["keep", "leave"]
Rejects = Literal["keep"]


@dataclass(frozen=True)
class Choices:
    """What to do about each kind of obstacle; `None` leaves it unresolved."""

    orphans: Instead | None = None
    misfits: Instead | None = None
    duplicates: Keep | None = None
    unknown: Unknown | None = None
    rejects: Rejects | None = None

    def __post_init__(self) -> None:
        """Raise `ValueError` for a choice that does not exist."""
        kinds = {"orphans": Instead, "misfits": Instead, "duplicates": Keep, "unknown": Unknown, "rejects": Rejects}
        for name, kind in kinds.items():
            if (choice := getattr(self, name)) not in (None, *get_args(kind)):
                raise ValueError(f"{name} is {choice!r}; it can be {', '.join(map(repr, get_args(kind)))} or None")

    def of(self, kind: str) -> tuple[str, str] | None:
        """Return the choice for a kind of obstacle, and the option that makes it."""
        options = {
            "orphan": ("--orphans", self.orphans),
            "misfit": ("--misfits", self.misfits),
            "duplicate": ("--duplicates", self.duplicates),
            "unknown-column": ("--unknown", self.unknown),
            UNKNOWN_TABLE: ("--unknown", self.unknown),
        }
        option, choice = options.get(kind, ("", None))
        if choice:
            return choice, f"{option} {choice}"
        if self.rejects and kind in _CAN_BE_REJECTED:
            return "reject", "--rejects keep"
        return None


_OF_THE_WAY_BACK = {"rejected-id", "not-unique", "refused", "referenced", "changed-by-source"}
_CAN_BE_REJECTED = {
    "orphan",
    "misfit",
    "duplicate",
    "missing-value",
    "last-id",
    "too-long",
    "no-partition",
    *_OF_THE_WAY_BACK,
}
_STORED = "kept in `tatame_move.rejects`"


def choices_for(requirement: Requirement) -> list[str]:
    """Describe the options that resolve an obstacle, and the remedies at the source."""
    reject = f"the row is not copied, and is {_STORED}"
    null = f"the value becomes NULL, and the original row is {_STORED}"
    if not requirement.nullable:
        null = f"the column may not be NULL, so {reject}"
    unknown = [f"`--unknown keep`: the values are {_STORED}", "`--unknown leave`: the values are not copied"]
    options = {
        "orphan": [f"`--orphans null`: {null}", f"`--orphans reject`: {reject}"],
        "misfit": [f"`--misfits null`: {null}", f"`--misfits reject`: {reject}"],
        "duplicate": [
            f"`--duplicates {which}`: the row with the {which} id is copied, the others are {_STORED}"
            for which in ("first", "last")
        ],
        "unknown-column": unknown,
        UNKNOWN_TABLE: unknown,
    }
    rejects = [f"`--rejects keep`: {reject}"] if requirement.kind in _CAN_BE_REJECTED else []
    return [*options.get(requirement.kind, []), *rejects, *requirement.fixes]


@dataclass(frozen=True)
class Obstacle:
    """Rows that cannot be copied unchanged: their number, the `ids` of some, and the choices that there are.

    `chosen` is the option that was chosen, and `outcome` the number of rows that are `rejected`, `nulled`, `kept` or
    `left` by it. A row that is rejected for one reason does not count for another.
    """

    kind: str
    reason: str
    rows: int
    ids: list[str]
    choices: list[str]
    chosen: str | None = None
    outcome: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class Exclusion:
    """The rows or values of one table that one choice excludes: their number, and the reason."""

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
    """An exclusion and the rows of the source that it is about, as SQL."""

    exclusion: Exclusion
    columns: tuple[str, ...]
    """The columns of a row: of the whole row, or of the part that is kept."""
    key: str
    row: str
    """The row as `jsonb`; NULL if `jsonb` cannot hold it."""
    text: str
    """The row as PostgreSQL writes it."""
    rows: str
    """The FROM clause, with conditions."""


@dataclass(frozen=True)
class Resolution:
    """The source after the choices."""

    mapping: Mapping
    """All tables, without excluded rows and values."""
    rows: dict[str, int]
    """The number of rows of each table of the source, with those that are excluded."""
    obstacles: dict[str, list[Obstacle]]
    unknown_tables: list[Obstacle]
    queries: list[ExclusionQuery]

    def rejects_of(self, table: str) -> list[ExclusionQuery]:
        """Return the queries of a table's excluded rows that are kept in the target."""
        return [query for query in self.queries if query.exclusion.table == table and query.exclusion.action != LEFT]


def summary(queries: Iterable[ExclusionQuery]) -> list[Exclusion]:
    """Add up the exclusions from the same column for the same reason."""
    rows: Counter[Exclusion] = Counter()
    for query in queries:
        rows[replace(query.exclusion, rows=0)] += query.exclusion.rows
    return [replace(exclusion, rows=count) for exclusion, count in rows.items()]


def values_of(table: TableMap, exclusion: Exclusion) -> ExclusionQuery:
    """Return the query of the values of an unknown column, with the ids of their rows; also of rejected rows."""
    everything, key, column = table.with_all_rows, table.key.source, str(exclusion.column)
    names = (*([key.name] if key else []), column)
    pairs = ", ".join(f"{literal(name)}::text, s.{quoted(name)}" for name in names)
    row = f"ROW({', '.join(f's.{quoted(name)}' for name in names)})"
    kinds = [found.kind for found in everything.unknown if found.name == column]
    return ExclusionQuery(
        exclusion,
        columns=names,
        key=everything.source_id,
        row=jsonb_of(row, f"json_build_object({pairs})", f"jsonb_build_object({pairs})", kinds),
        text=f"({row})::text",
        rows=f"FROM {everything.source_sql} WHERE s.{quoted(column)} IS DISTINCT FROM NULL",
    )


def rows_of(table: SourceTable, exclusion: Exclusion) -> ExclusionQuery:
    """Return the query of the rows of an unknown table."""
    key = f"(s.{quoted('id')})::text" if "id" in table.columns else "NULL::text"
    return whole_rows(table, exclusion, key, f"FROM {table.sql} AS s")


def whole_rows(table: SourceTable, exclusion: Exclusion, key: str, rows: str) -> ExclusionQuery:
    """Return the query of whole rows of a table, with this expression for their id and this FROM clause."""
    return ExclusionQuery(exclusion, tuple(table.columns), key, row_as_jsonb(table), ROW_AS_TEXT, rows)
