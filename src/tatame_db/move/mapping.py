"""Which table and column of the source fills which of the target, found by name in the source's catalogue."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sqlalchemy import DefaultClause, TextClause
from sqlalchemy.sql.elements import False_, True_

from tatame_db.database.dialect import DIALECT, literal, quoted
from tatame_db.errors import TatameError, fact
from tatame_db.move.catalogue import read_source_tables, target_name
from tatame_db.move.conversion import HASHED_TEXT, INTEGERS, MISSING, TEXT, UNCHANGED, Conversion, about, hashed
from tatame_db.move.known_conversions import TEXT_TYPES, conversion
from tatame_db.move.partitions import Partitions, read_partitions
from tatame_db.move.sql import array
from tatame_db.schema import form, key_of, moved_tables, optional_in_source, phase, phases

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import Column, Table

    from tatame_db.move.catalogue import SourceColumn, SourceTable
    from tatame_db.move.connection import Connections, MoveConnection

# Columns that the source names differently.
_NAMES = {
    ("versions", "app_version"): "appVersion",
    ("gyms", "manager_id"): "managerId",
    ("graduations", "user_id"): "userId",
    ("checkins", "user_id"): "userId",
    ("checkins", "class_id"): "classId",
}

# A number, a text or a truth value, with or without a cast.
_CONSTANT = re.compile(
    r"(-?[0-9]+([.][0-9]+)?|true|false|'([^'\\\\]|'')*')(::[a-z ]+(\([0-9, ]+\))?(\[\])?)?", re.IGNORECASE
)
# Texts that are equal only if they are the same, unless their collation is not deterministic.
_PLAIN_TEXTS = {TEXT, "character varying"}


@fact
class TableUnknown(TatameError):
    """A name in the arguments is not that of a table of the models."""

    exit_code = 2
    names: list[str]
    what = "there is no table {names}; the tables are {known}"
    fix = "choose from these tables, or omit the names to choose all of them"

    @property
    def known(self) -> list[str]:
        """The tables of the models."""
        return list(phases())


@fact
class PhaseUnknown(TatameError):
    """No table is copied in this phase."""

    exit_code = 2
    phase: int
    what = "there is no phase {phase}; the phases are {known}"
    fix = "choose one of these phases, or omit `--phase` to copy all tables"

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


@dataclass(frozen=True)
class ColumnMap:
    """A column of the target and the column that fills it; `source` is `None` if the source has no such column."""

    name: str
    type: str
    required: bool
    source: SourceColumn | None
    conversion: Conversion

    @property
    def source_value(self) -> str:
        """The value in a query of the source; a text that the source compares in a way of its own is a plain text."""
        return self.value_of("s")

    def value_of(self, row: str) -> str:
        """Return the value of a row of the source that a query calls by another name."""
        return self.plain(f"{row}.{quoted(self.source.name)}") if self.source else "NULL"

    def plain(self, value: str) -> str:
        """Return a value of the source's type so that two of them are equal only if they are the same."""
        return f'({value}::text COLLATE "C")' if self._compared_by_source else value

    @property
    def _compared_by_source(self) -> bool:
        """Whether the source may call two texts equal that differ, by its collation or its type."""
        return self.source is not None and (
            self.source.kind in TEXT_TYPES - _PLAIN_TEXTS or not self.source.deterministic
        )

    @property
    def alike(self) -> bool:
        """Whether both databases compare the values in the same way, so that an index of the source can be used."""
        if self.source is None or self._compared_by_source:
            return False
        kinds = self.source.kind, self.type
        return kinds[0] == kinds[1] == "uuid" or any(set(kinds) <= known for known in ({*INTEGERS}, _PLAIN_TEXTS))

    @property
    def compared(self) -> str:
        """The value of the source as the target compares it; NULL if it cannot be stored."""
        return self.compared_value(self.source_value)

    def compared_value(self, value: str) -> str:
        """Return a value of the source's column as the target compares it; NULL if it cannot be stored."""
        if self.alike:
            return value
        converted = f"({about(self.conversion.convert, value)})::{self.type}"
        if unstorable := self.conversion.unstorable:
            return f"CASE WHEN ({about(unstorable, value)}) IS NOT TRUE THEN {converted} END"
        return converted

    @property
    def proven_unique(self) -> bool:
        """Whether a unique index of the source proves that the target's values are unique too."""
        # Two texts of the source may become the same value only if the proof compares them in a form of its own.
        return self.source is not None and self.source.unique and self.conversion.source_text == "VALUE::text"

    @property
    def source_text(self) -> str:
        """The text that a proof compares, made from the source's value."""
        return self.source_text_of(self.source_value)

    def source_text_of(self, value: str) -> str:
        """Return the text that a proof compares, made from a `plain` value of the source's type."""
        return about(self.conversion.source_text, value)

    @property
    def target_value(self) -> str:
        """The value in a query of the target."""
        return f"t.{quoted(self.name)}"

    @property
    def target_text(self) -> str:
        """The text that a proof compares, made from the target's value."""
        return about(self.conversion.target_text, self.target_value)

    def hashed(self, target_type: str | None) -> tuple[str, str]:
        """Return what is hashed of the source's value and of the target's, which has this type: texts, if in doubt."""
        texts = self.conversion.source_text, self.conversion.target_text
        unchanged = texts == (UNCHANGED.source_text, UNCHANGED.target_text)
        if self.source and unchanged and (expression := hashed(self.source.kind, target_type)):
            return about(expression, self.source_value), about(expression, self.target_value)
        return about(HASHED_TEXT, self.source_text), about(HASHED_TEXT, self.target_text)


@dataclass(frozen=True)
class ExcludedRows:
    """The rows of a table that are not copied, and the values that become NULL.

    Ids are in the form of `array_items`; `nulled` has them by column of the source.
    """

    rejected: str = ""
    without_id: bool = False
    nulled: dict[str, str] = field(default_factory=dict[str, str])

    def with_rejected(self, ids: str) -> ExcludedRows:
        """Add rows that are not copied."""
        return replace(self, rejected=_joined(self.rejected, ids))

    def with_nulled(self, column: str, ids: str) -> ExcludedRows:
        """Add rows whose value in a column becomes NULL."""
        return replace(self, nulled=self.nulled | {column: _joined(self.nulled.get(column, ""), ids)})


def _joined(some: str, more: str) -> str:
    return f"{some},{more}" if some and more else some or more


@dataclass(frozen=True)
class TableMap:
    """A table of the target and the table that fills it; `source` is `None` if the source has no such table.

    A query over `source_sql` sees the source's rows without excluded rows and values.
    """

    table: Table
    source: SourceTable | None
    columns: list[ColumnMap]
    target_name: str
    """The name of the target's table in a query, which sees only its own rows."""
    excluded: ExcludedRows = field(default_factory=ExcludedRows)
    hides_rows: bool = False
    """Whether `target_name` is a query that leaves out rows or values."""
    partitions: Partitions | None = None
    own: list[ColumnMap] = field(default_factory=list[ColumnMap])
    """Columns that only the target has, and whose values stay as they are: nothing compares or writes them."""

    @property
    def name(self) -> str:
        """The name, which is the same in both databases."""
        return self.table.name

    @property
    def comparable(self) -> bool:
        """Whether the source has the table, or may lack it. Otherwise its absence must not pass for an empty table."""
        return self.source is not None or optional_in_source(self.table)

    @property
    def key(self) -> ColumnMap:
        """The column that names the rows."""
        return self.column(key_of(self.table).name)

    @property
    def source_id(self) -> str:
        """The id of a row of the source, as text: the one that it has in the target, if it can be stored there."""
        key = self.key
        return (
            f"{key.source_value}::text" if key.alike else f"coalesce(({key.compared})::text, {key.source_value}::text)"
        )

    @property
    def target_id(self) -> str:
        """The id of a row of the target, as text."""
        return f"{self.key.target_value}::text"

    @property
    def counted_key(self) -> bool:
        """Whether the key is a number in both databases, so that rows can be read by ranges of it."""
        source = self.key.source
        return source is not None and source.not_null and source.kind in INTEGERS and self.key.type != TEXT

    @property
    def later_parents(self) -> set[str]:
        """The tables that this one refers to and that are copied in a later phase."""
        parents = {key.column.table for key in self.table.foreign_keys}
        return {parent.name for parent in parents if phase(parent) > phase(self.table)}

    @property
    def unknown(self) -> list[SourceColumn]:
        """The columns of the source that fill no column of the target."""
        if self.source is None:
            return []
        known = {column.source.name for column in self.columns if column.source}
        return [column for name, column in self.source.columns.items() if name not in known]

    @property
    def source_sql(self) -> str:
        """The table of the source, as `s`, for the FROM of a query; without excluded rows and values."""
        if self.source is None:
            return "(SELECT WHERE false) AS s"
        if self.excluded == ExcludedRows():
            return f"{self.source.sql} AS s"
        values = ", ".join(self._value(name) for name in self.source.columns)
        return f"(SELECT {values} FROM {self.source.sql} AS s WHERE {self._is_included}) AS s"

    def _value(self, column: str) -> str:
        value = f"s.{quoted(column)}"
        ids = self.excluded.nulled.get(column)
        return f"CASE WHEN {self.among(ids)} THEN NULL ELSE {value} END AS {quoted(column)}" if ids else value

    @property
    def _is_included(self) -> str:
        key = self.key.source_value
        conditions = [f"{key} IS NOT NULL"] if self.excluded.without_id else []
        if self.excluded.rejected:
            ids = array(self.excluded.rejected, self.id_kind)
            conditions.append(f"NOT EXISTS (SELECT FROM unnest({ids}) AS r WHERE r = {self.id_value})")
        return " AND ".join(conditions) or "true"

    def among(self, ids: str) -> str:
        """Return the condition that a row of the source has one of these ids."""
        return f"{self.id_value} = ANY({array(ids, self.id_kind)})"

    @property
    def id_value(self) -> str:
        """The id by which rows of the source are excluded and found again: the value itself, or `source_id`."""
        return self.key.source_value if self.key.alike else f'({self.source_id} COLLATE "C")'

    @property
    def id_kind(self) -> str:
        """The type of `id_value`."""
        return self.key.source.kind if self.key.alike and self.key.source else TEXT

    @property
    def with_all_rows(self) -> TableMap:
        """The same table with nothing excluded."""
        return replace(self, excluded=ExcludedRows())

    @property
    def target_sql(self) -> str:
        """The table of the target, as `t`, for the FROM of a query."""
        return f"{self.target_name} AS t"

    def column(self, name: str) -> ColumnMap:
        """Return the column of the target with this name."""
        return next(column for column in (*self.columns, *self.own) if column.name == name)

    @property
    def with_own_columns(self) -> TableMap:
        """The same table, with the values that it has in columns that the source lacks left as they are."""
        if self.source is None:
            return self
        columns, own = list[ColumnMap](), list[ColumnMap]()
        for column in self.columns:
            (columns if column.source else own).append(column)
        return replace(self, columns=columns, own=own)


@dataclass(frozen=True)
class Mapping:
    """All tables of the target in the order of the move, and the tables of the source that fill none of them."""

    tables: list[TableMap]
    unknown: list[SourceTable]

    def chosen(self, names: Sequence[str]) -> list[TableMap]:
        """Return the tables with these names, or all, in the order of the move. Raises `TableUnknown`."""
        refuse_unknown(names)
        return [table for table in self.tables if not names or table.name in names]

    def __getitem__(self, name: str) -> TableMap:
        return next(table for table in self.tables if table.name == name)


def refuse_unknown(names: Sequence[str]) -> None:
    """Raise `TableUnknown` for names that are not those of tables of the models."""
    if unknown := [name for name in names if name not in phases()]:
        raise TableUnknown(names=unknown)


def read_mapping(connections: Connections) -> Mapping:
    """Read both catalogues and map the source's tables and columns by name. Raises `SourceUnreadable`."""
    partitions = read_partitions(connections.target)
    mapping = map_source(connections.source, partitions)
    return replace(mapping, tables=[replace(table, partitions=partitions.get(table.name)) for table in mapping.tables])


def map_source(source: MoveConnection, partitioned: Collection[str] = ()) -> Mapping:
    """Map the source's tables and columns to a target with these partitioned tables. Raises `SourceUnreadable`."""
    tables = moved_tables()
    names = [table.name for table in tables]
    found = read_source_tables(source, names)
    return Mapping(
        [_table(table, found.get(table.name), target_name(table.name, partitioned)) for table in tables],
        [table for name, table in found.items() if name not in names],
    )


def _table(table: Table, source: SourceTable | None, target_name: str) -> TableMap:
    return TableMap(table, source, [_column(column, source) for column in table.columns], target_name)


def _column(column: Column[object], source: SourceTable | None) -> ColumnMap:
    kind = str(column.type.compile(DIALECT)).lower()
    required = not column.nullable
    found = _source_column(column, source) if source else None
    chosen = conversion(found.kind, kind, form(column)) if found else _missing(column, kind)
    return ColumnMap(column.name, kind, required, found, chosen)


def _missing(column: Column[object], kind: str) -> Conversion:
    """Return the default of a column that must not be NULL and that the source lacks, if it is a constant."""
    default = _constant_default(column)
    if column.nullable or default is None:
        return MISSING
    shown, sql = default
    value = f"({sql})::{kind}"
    return Conversion(
        f"the default {shown}: the source has no such column", convert=value, source_text=f"{value}::text"
    )


def _constant_default(column: Column[object]) -> tuple[str, str] | None:
    """Return a server default that is the same for every row, whenever it is inserted, to be shown and as SQL."""
    stated = column.server_default.arg if isinstance(column.server_default, DefaultClause) else None
    if isinstance(stated, str):
        return repr(stated), literal(stated)
    written = str(stated) if isinstance(stated, TextClause | True_ | False_) else ""
    return (written, written) if _CONSTANT.fullmatch(written) else None


def _source_column(column: Column[object], source: SourceTable) -> SourceColumn | None:
    name = _NAMES.get((source.name, column.name), column.name)
    # Some projects have renamed the column to the target's name.
    return source.columns.get(name) or source.columns.get(column.name)
