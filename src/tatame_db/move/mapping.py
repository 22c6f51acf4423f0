"""Which table and column of the source becomes which of ours; read from the source's catalogue, never assumed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tatame_db.database.dialect import DIALECT
from tatame_db.errors import NOTHING_CHANGED, TatameError, fact
from tatame_db.move.conversion import INTEGERS, MISSING, TEXT, Conversion, about, conversion
from tatame_db.schema import optional_in_source, phases, tables_in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import Column, Table

    from tatame_db.move.connection import MoveConnection

# Where the source writes a name in another way than we do.
_NAMES = {
    ("versions", "app_version"): "appVersion",
    ("gyms", "manager_id"): "managerId",
    ("graduations", "user_id"): "userId",
    ("checkins", "user_id"): "userId",
    ("checkins", "class_id"): "classId",
}


NUMBER, _SPECIAL = re.compile("-?[0-9]+"), re.compile(r'["\\]')


class SourceUnreadable(TatameError):
    """The role may not read all rows of some tables, which would look empty or smaller than they are."""

    def __init__(self, role: str, forbidden: list[str], hidden: list[str]) -> None:
        self.forbidden, self.hidden = forbidden, hidden
        reasons = [f"no right to read {', '.join(forbidden)}"] if forbidden else []
        reasons += [f"row-level security may hide rows of {', '.join(hidden)}"] if hidden else []
        super().__init__(
            f"the role {role} cannot read the whole source: {'; '.join(reasons)}",
            means=NOTHING_CHANGED,
            fix="let `SUPABASE_DB_URL` name a role that may read all and has BYPASSRLS, as Supabase's own `postgres`",
        )


class TableUnknown(TatameError):
    """A table was asked for that is not ours."""

    exit_code = 2

    def __init__(self, names: list[str]) -> None:
        self.names = names
        super().__init__(
            f"there is no table {', '.join(names)}. Checked: {', '.join(phases())}",
            means=NOTHING_CHANGED,
            fix="name some of these, or none for all",
        )


@fact
class PhaseUnknown(TatameError):
    """No table is copied in the phase that was asked for."""

    exit_code = 2
    phase: int
    what = "there is no phase {phase}; the phases are {known}"
    fix = "choose one of these phases, or none to copy all tables"

    @property
    def known(self) -> list[int]:
        """The phases that have tables."""
        return sorted(set(phases().values()))


def tables_of_phase(phase: int) -> list[str]:
    """Return the names of the tables that are copied in a phase. Raises `PhaseUnknown`."""
    names = [name for name, its_phase in phases().items() if its_phase == phase]
    if not names:
        raise PhaseUnknown(phase=phase)
    return names


def quoted(name: str) -> str:
    """Write a name so that PostgreSQL takes it as it is."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Write a text as a constant that holds no `%`, which would count beside parameters."""
    escaped = text.replace("\\", r"\\").replace("'", "''").replace("%", r"\x25")
    return f"E'{escaped}'"


def listed(ids: Iterable[str]) -> str:
    """Write ids as they stand between the braces of an array."""
    return ",".join(name if NUMBER.fullmatch(name) else '"' + _SPECIAL.sub(r"\\\g<0>", name) + '"' for name in ids)


def array(ids: str, kind: str) -> str:
    """Write ids, as they stand between the braces of an array, as an array of this type."""
    # A list of another type than the column's is not hashed; `character` alone would cut each to one letter.
    return f"{literal(f'{{{ids}}}')}::{'bpchar' if kind == 'character' else kind}[]"


@dataclass(frozen=True)
class SourceColumn:
    """A column as the source's catalogue has it. `kind` is its type without length, a domain's being the one below."""

    name: str
    kind: str
    not_null: bool
    unique: bool


@dataclass(frozen=True)
class SourceTable:
    """A table as the source's catalogue has it."""

    name: str
    columns: dict[str, SourceColumn]
    size_bytes: int

    @property
    def sql(self) -> str:
        """Its name for a query."""
        return f"public.{quoted(self.name)}"


@dataclass(frozen=True)
class ColumnMap:
    """A column of ours and where its values come from; `source` is `None` where the source lacks it."""

    name: str
    type: str
    required: bool
    source: SourceColumn | None
    conversion: Conversion

    @property
    def source_value(self) -> str:
        """The value on the source."""
        return f"s.{quoted(self.source.name)}" if self.source else "NULL"

    @property
    def source_text(self) -> str:
        """The text that is proven, made from the source's value."""
        return about(self.conversion.source_text, self.source_value)

    @property
    def target_value(self) -> str:
        """The value on the target."""
        return f"t.{quoted(self.name)}"

    @property
    def target_text(self) -> str:
        """The text that is proven, made from the target's value."""
        return about(self.conversion.target_text, self.target_value)


@dataclass(frozen=True)
class ExcludedRows:
    """Which rows of the source stay behind, and where NULL takes the place of a value, all by choice.

    Ids are as they stand between the braces of a PostgreSQL array; `nulled` has them by column of the source.
    """

    rejected: str = ""
    without_id: bool = False
    nulled: dict[str, str] = field(default_factory=dict[str, str])

    def with_rejected(self, ids: str) -> ExcludedRows:
        """Add rows that stay behind."""
        return replace(self, rejected=_joined(self.rejected, ids))

    def with_nulled(self, column: str, ids: str) -> ExcludedRows:
        """Add rows that lose a value."""
        return replace(self, nulled=self.nulled | {column: _joined(self.nulled.get(column, ""), ids)})


def _joined(some: str, more: str) -> str:
    return f"{some},{more}" if some and more else some or more


@dataclass(frozen=True)
class TableMap:
    """A table of ours and where its rows come from; `source` is `None` where the source has no such table.

    A query of the source sees its rows without what is set aside.
    """

    table: Table
    source: SourceTable | None
    columns: list[ColumnMap]
    excluded: ExcludedRows = field(default_factory=ExcludedRows)

    @property
    def name(self) -> str:
        """Its name, which is the same on both sides."""
        return self.table.name

    @property
    def comparable(self) -> bool:
        """Whether there is something to compare with: a missing table is no empty one, but where it never was."""
        return self.source is not None or optional_in_source(self.table)

    @property
    def key(self) -> ColumnMap:
        """The one column that tells rows apart."""
        [key] = self.table.primary_key.columns
        return self.column(key.name)

    @property
    def counted_key(self) -> bool:
        """Whether both sides number their rows, so that numbers that lie together can be read together."""
        source = self.key.source
        return source is not None and source.not_null and source.kind in INTEGERS and self.key.type != TEXT

    @property
    def unknown(self) -> list[SourceColumn]:
        """The columns of the source that have no place with us."""
        if self.source is None:
            return []
        taken = {column.source.name for column in self.columns if column.source}
        return [column for name, column in self.source.columns.items() if name not in taken]

    @property
    def source_sql(self) -> str:
        """What a query of the source reads from."""
        if self.source is None:
            return "(SELECT WHERE false) AS s"
        if self.excluded == ExcludedRows():
            return f"{self.source.sql} AS s"
        values = ", ".join(self._accepted(name) for name in self.source.columns)
        return f"(SELECT {values} FROM {self.source.sql} AS s WHERE {self._is_accepted}) AS s"

    def _accepted(self, column: str) -> str:
        value = f"s.{quoted(column)}"
        ids = self.excluded.nulled.get(column)
        return f"CASE WHEN {self.among(ids)} THEN NULL ELSE {value} END AS {quoted(column)}" if ids else value

    @property
    def _is_accepted(self) -> str:
        key = self.key.source_value
        conditions = [f"{key} IS NOT NULL"] if self.excluded.without_id else []
        if self.excluded.rejected:
            ids = array(self.excluded.rejected, self.key_kind)
            conditions.append(f"NOT EXISTS (SELECT FROM unnest({ids}) AS r WHERE r = {key})")
        return " AND ".join(conditions) or "true"

    def among(self, ids: str) -> str:
        """Say that a row of the source has one of these ids."""
        return f"{self.key.source_value} = ANY({array(ids, self.key_kind)})"

    @property
    def key_kind(self) -> str:
        """The type of the key in the source."""
        return self.key.source.kind if self.key.source else TEXT

    @property
    def plain(self) -> TableMap:
        """The same with every row of the source as it is."""
        return replace(self, excluded=ExcludedRows())

    @property
    def target_sql(self) -> str:
        """What a query of the target reads from."""
        return f"public.{quoted(self.name)} AS t"

    def column(self, name: str) -> ColumnMap:
        """Return the column of ours with this name."""
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True)
class Mapping:
    """All tables of ours in the order of the phases, and the source's tables that have no place with us."""

    tables: list[TableMap]
    unknown: list[SourceTable]

    def chosen(self, names: Sequence[str]) -> list[TableMap]:
        """Return the tables with these names, or all. Raises `TableUnknown`."""
        known = {table.name for table in self.tables}
        if strangers := [name for name in names if name not in known]:
            raise TableUnknown(strangers)
        return [table for table in self.tables if not names or table.name in names]

    def __getitem__(self, name: str) -> TableMap:
        return next(table for table in self.tables if table.name == name)


def read_mapping(source: MoveConnection) -> Mapping:
    """Read the source's catalogue and find a place for each column. Raises `SourceUnreadable`."""
    found = _catalogue(source)
    tables = tables_in_order()
    known = {table.name for table in tables}
    return Mapping(
        [_table(table, found.get(table.name)) for table in tables],
        [table for name, table in found.items() if name not in known],
    )


def _table(table: Table, source: SourceTable | None) -> TableMap:
    return TableMap(table, source, [_column(column, source) for column in table.columns])


def _column(column: Column[object], source: SourceTable | None) -> ColumnMap:
    kind = str(column.type.compile(DIALECT)).lower()
    required = not column.nullable
    found = _source_column(column, source) if source else None
    chosen = conversion(found.kind, kind) if found else MISSING
    return ColumnMap(column.name, kind, required, found, chosen)


def _source_column(column: Column[object], source: SourceTable) -> SourceColumn | None:
    theirs = _NAMES.get((source.name, column.name), column.name)
    # A project that took up our spelling has the column under our name.
    return source.columns.get(theirs) or source.columns.get(column.name)


def _catalogue(source: MoveConnection) -> dict[str, SourceTable]:
    rows = source.rows(_CATALOGUE, {"ours": list(phases())})
    forbidden = sorted({row[0] for row in rows if not row[1]})
    hidden = sorted({row[0] for row in rows if row[1] and row[2]})
    if forbidden or hidden:
        raise SourceUnreadable(source.row("SELECT current_user")[0], forbidden, hidden)
    tables: dict[str, SourceTable] = {}
    for name, _, _, size, *column in rows:
        table = tables.setdefault(name, SourceTable(name, {}, size))
        if column[0] is not None:
            table.columns[column[0]] = SourceColumn(*column)
    return tables


_CATALOGUE = """
WITH RECURSIVE bases (type, base) AS (
    SELECT oid, oid FROM pg_type WHERE typtype <> 'd'
    UNION ALL
    SELECT t.oid, b.base FROM pg_type t JOIN bases b ON t.typbasetype = b.type WHERE t.typtype = 'd'
)
SELECT c.relname, has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid), pg_table_size(c.oid),
    a.attname, format_type(b.base, NULL), a.attnotnull,
    EXISTS (
        SELECT FROM pg_index i
        WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
            AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum
    )
FROM pg_class c
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN bases b ON b.type = a.atttypid
WHERE c.relnamespace = to_regnamespace('public') AND NOT c.relispartition
    -- A view of another name shows rows that are counted where they are; one of ours stands for the table.
    AND (c.relkind IN ('r', 'p') OR c.relkind IN ('v', 'm', 'f') AND c.relname = ANY(%(ours)s))
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
ORDER BY c.relname, a.attnum
"""
