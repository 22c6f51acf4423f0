"""What would become of each row, and what stands in the way; reads both databases and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.move.conversion import TEXT, TEXTS, about
from tatame_db.move.mapping import PHASE_OF, Mapping, SourceTable, TableMap, quoted, read_mapping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ForeignKey

    from tatame_db.move.mapping import ColumnMap
    from tatame_db.move.rest import Reading
    from tatame_db.move.sides import Side, Sides

EXAMPLES = 3
# PostgreSQL takes at most 2,704 bytes into an entry, of which other columns and headers need some.
INDEXED_BYTES = 2_500
LAST_ID = 2_147_483_647


class NotWhole(TatameError):
    """Something stands in the way of a whole move: the answer of `move plan`."""

    exit_code = 3

    def __init__(self, obstacles: int) -> None:
        self.obstacles = obstacles
        super().__init__(
            f"the move would not be whole: {obstacles} {'obstacle' if obstacles == 1 else 'obstacles'}",
            means=NOTHING_CHANGED,
            fix="mend the rows at the source as each obstacle says, then plan again",
        )


@dataclass(frozen=True)
class Obstacle:
    """Rows that cannot move as they are; `rows` of them, some named by their `ids`, and what can be done."""

    kind: str
    what: str
    rows: int
    ids: list[str]
    choices: list[str]


@dataclass(frozen=True)
class PlannedColumn:
    """A column of ours, and what fills it."""

    target: str
    target_type: str
    source: str | None
    source_type: str | None
    conversion: str


@dataclass(frozen=True)
class PlannedTable:
    """What a table holds and what becomes of it."""

    table: str
    phase: int
    rows: int
    size_bytes: int
    columns: list[PlannedColumn]
    obstacles: list[Obstacle] = field(default_factory=list[Obstacle])


@dataclass(frozen=True)
class Plan:
    """What would move from where to where."""

    source: str
    source_version: str
    target: str
    target_version: str
    tables: list[PlannedTable]
    unknown_tables: list[Obstacle]
    rest: Reading | None
    """How the source was read, where that was over REST."""

    @property
    def obstacles(self) -> list[Obstacle]:
        """All obstacles, table by table."""
        return [*(obstacle for table in self.tables for obstacle in table.obstacles), *self.unknown_tables]

    @property
    def whole(self) -> bool:
        """Whether every row would arrive as it is."""
        return not self.obstacles


def plan(sides: Sides) -> Plan:
    """Read catalogues and data, and say what would become of them. Raises `SourceUnreadable`."""
    source, target = sides.source, sides.target
    mapping = read_mapping(source)
    return Plan(
        source=source.readable,
        source_version=source.version,
        target=target.readable,
        target_version=target.version,
        tables=[_planned(source, mapping, table) for table in mapping.tables],
        unknown_tables=list(_unknown_tables(source, mapping.unknown)),
        rest=source.rest,
    )


def _planned(source: Side, mapping: Mapping, table: TableMap) -> PlannedTable:
    columns = [
        PlannedColumn(
            column.name,
            column.type,
            column.source.name if column.source else None,
            column.source.kind if column.source else None,
            column.conversion.words,
        )
        for column in table.columns
    ]
    if table.source is None:
        return PlannedTable(table.name, PHASE_OF[table.name], 0, 0, columns, list(_missing_table(table)))
    checks = list(_checks(table))
    filters = "".join(f", count(*) FILTER (WHERE {check.condition})" for check in checks)
    # Over a source of any size one reading of the table answers all that a row says about itself.
    rows, *counts = source.row(f"SELECT count(*){filters} FROM {table.source_sql}")
    obstacles = [
        check.obstacle(count, _examples(source, table, check.condition))
        for check, count in zip(checks, counts, strict=True)
        if count
    ]
    for check in _joins(mapping, table):
        [count] = source.row(f"SELECT count(*) FROM {table.source_sql} WHERE {check.condition}")
        if count:
            obstacles.append(check.obstacle(count, _examples(source, table, check.condition)))
    return PlannedTable(table.name, PHASE_OF[table.name], rows, table.source.size_bytes, columns, obstacles)


@dataclass(frozen=True)
class _Check:
    """A condition on rows of the source that says they cannot move as they are."""

    kind: str
    what: str
    condition: str
    choices: tuple[str, ...]

    def obstacle(self, rows: int, ids: list[str]) -> Obstacle:
        return Obstacle(self.kind, self.what, rows, ids, list(self.choices))


def _checks(table: TableMap) -> Iterator[_Check]:
    for column in table.columns:
        if column.source is None:
            if column.required:
                words = f"there is no column for {column.name}, which every row of ours must have"
                yield _Check("missing-column", words, "true", ("add the column at the source and fill it",))
            continue
        value, name = column.source_value, column.source.name
        if column.required and not column.source.not_null:
            yield _Check(
                "missing-value",
                f"{name} is NULL, and {column.name} of ours may not be",
                f"{value} IS NULL",
                ("fill it at the source", "delete the rows at the source"),
            )
        if column.conversion.misfit:
            yield _Check(
                "misfit",
                f"{name} {column.conversion.misfit_words}",
                about(column.conversion.misfit, value),
                ("change the values at the source",),
            )
    if table.counted_key:
        words = "id is the last number there is, after which no row of ours could be added"
        yield _Check("last-id", words, f"{table.key.source_value} = {LAST_ID}", ("give the row another id",))
    yield from _too_long(table)
    for unknown in table.unknown:
        yield _Check(
            "unknown-column",
            f"{unknown.name} ({unknown.kind}) has values, and no column of ours takes them",
            f"s.{quoted(unknown.name)} IS NOT NULL",
            ("add the column to the models with `tatame-db generate`", "drop the column at the source"),
        )


def _too_long(table: TableMap) -> Iterator[_Check]:
    """Values that an index of ours refuses, which the source need not have indexed."""
    indexes = [(str(index.name), list(index.columns)) for index in table.table.indexes]
    indexes += [(f"of {column.name}", [column]) for column in table.table.columns if column.unique]
    for name, columns in indexes:
        found = [column for column in map(table.column, (column.name for column in columns)) if column.source]
        texts = [f"coalesce(octet_length({column.source_value}::text), 0)" for column in found if column.type == TEXT]
        if texts:
            names = " and ".join(column.source.name for column in found if column.source and column.type == TEXT)
            words = f"{names} is longer than the {INDEXED_BYTES:,} bytes that surely fit into the index {name}"
            condition = f"{' + '.join(texts)} > {INDEXED_BYTES}"
            yield _Check("too-long", words, condition, ("shorten the values at the source",))
        for column in found:
            if column.type == TEXTS and column.source and column.source.kind.endswith("[]"):
                words = (
                    f"{column.source.name} has an element of more than {INDEXED_BYTES:,} bytes, for the index {name}"
                )
                longest = f"(SELECT max(octet_length(e)) FROM unnest({column.source_value}::text[]) AS e)"
                condition = f"{longest} > {INDEXED_BYTES}"
                yield _Check("too-long", words, condition, ("shorten the values at the source",))


def _joins(mapping: Mapping, table: TableMap) -> Iterator[_Check]:
    """Conditions that look at other rows, each worth a query that can join."""
    for column in table.columns:
        if column.source is None:
            continue
        ours = table.table.columns[column.name]
        if (ours.unique or ours.primary_key) and not column.source.unique:
            yield _Check(
                "duplicate",
                f"{column.source.name} is not unique, and {column.name} of ours must be",
                f"{column.source_value} IN ("
                f"SELECT {column.source_value} FROM {table.source_sql} GROUP BY 1 HAVING count(*) > 1)",
                ("keep one of the rows at the source",),
            )
        for key in ours.foreign_keys:
            yield _orphans(mapping, column, key)


def _orphans(mapping: Mapping, column: ColumnMap, key: ForeignKey) -> _Check:
    parent = mapping[key.column.table.name]
    referred = parent.column(key.column.name)
    found = "false"
    if parent.source and referred.source and column.source:
        # Compared as text only where the types differ: an index or a hash serves equal ones.
        cast = "" if referred.source.kind == column.source.kind else "::text"
        value = f"p.{quoted(referred.source.name)}{cast}"
        found = f"EXISTS (SELECT FROM {parent.source.sql} AS p WHERE {value} = {column.source_value}{cast})"
    name = column.source.name if column.source else column.name
    return _Check(
        "orphan",
        f"{name} names a row of {parent.name} that is not there",
        f"{column.source_value} IS NOT NULL AND NOT {found}",
        (*(() if column.required else ("set it to NULL at the source",)), "delete the rows at the source"),
    )


def _examples(source: Side, table: TableMap, condition: str) -> list[str]:
    key = table.key.source_value
    rows = source.rows(
        f"SELECT coalesce({key}::text, 'NULL') FROM {table.source_sql} WHERE {condition}"
        f" ORDER BY {key} LIMIT {EXAMPLES}"
    )
    return [row[0] for row in rows]


def _missing_table(table: TableMap) -> Iterator[Obstacle]:
    if not table.comparable:
        words = f"the source has no table {table.name}, and every project has one"
        yield Obstacle("missing-table", words, 0, [], ["check that `SUPABASE_DB_URL` names the right project"])


def _unknown_tables(source: Side, tables: list[SourceTable]) -> Iterator[Obstacle]:
    for table in tables:
        [rows] = source.row(f"SELECT count(*) FROM {table.sql}")
        if rows:
            words = f"the table {table.name} has rows, and there is no such table of ours"
            choices = ["add the table to the models with `tatame-db generate`", "move or drop it at the source"]
            yield Obstacle("unknown-table", words, rows, [], choices)
