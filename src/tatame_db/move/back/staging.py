"""Changed rows of the target, on the source as texts: in temporary tables of one transaction.

The texts are those that a proof compares, so a value can be written back if its text, read in the column's type, has
that same text again. No conversion states that a second time.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tatame_db.database.dialect import literal, public, quoted
from tatame_db.move.changes import batches
from tatame_db.move.connection import Connections
from tatame_db.move.conversion import INTEGERS, TEXT
from tatame_db.move.sql import array, array_items
from tatame_db.move.stream import stream

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable

    from tatame_db.move.catalogue import SourceColumn
    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.mapping import ColumnMap, TableMap

_ROWS, _GONE, _READS = "pg_temp.tatame_move_rows", "pg_temp.tatame_move_gone", "pg_temp.tatame_move_reads"


@dataclass(frozen=True)
class WrittenColumn:
    """A column of the source; `map` is that of the target's column which it fills, if there is one."""

    name: str
    type: str
    """With its length, as a CREATE TABLE has it."""
    not_null: bool
    has_default: bool
    """Whether a new row gets a value without naming the column: also an identity, or a computed value."""
    generated: bool
    map: ColumnMap | None

    @property
    def sql(self) -> str:
        """The name in a statement."""
        return quoted(self.name)


def written_columns(source: MoveConnection, table: TableMap) -> list[WrittenColumn]:
    """Read the columns of a table of the source."""
    maps = {column.source.name: column for column in table.columns if column.source}
    rows = source.rows(_COLUMNS, {"table": public(table.name)})
    return [
        WrittenColumn(name, kind, not_null, has_default, generated, maps.get(name))
        for name, kind, not_null, has_default, generated in rows
    ]


_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull OR t.typnotnull,
    a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL, a.attgenerated <> ''
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %(table)s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""


@dataclass(frozen=True)
class Cell:
    """A column that is written back, and its text in a staged row, `r`."""

    column: WrittenColumn
    map: ColumnMap
    name: str
    is_key: bool

    def text(self, row: str = "r") -> str:
        """Return the text of a staged row."""
        return f"{row}.{self.name}"

    def value(self, row: str = "r") -> str:
        """Return the value that the source gets; fails if its type cannot read the text."""
        return f"({self.text(row)})::{self.column.type}"

    @property
    def current_text(self) -> str:
        """The text of the source's row, `s`."""
        return self.map.source_text

    def is_exact(self, *, carefully: bool) -> str:
        """Return the condition that the source's type holds the value of this text; never fails if `carefully`."""
        exact = f"coalesce({self.map.source_text_of(self.map.plain(self.value()))} = {self.text()}, false)"
        if not carefully:
            return exact
        return f"CASE WHEN {_READS}({self.text()}, {literal(self.column.type)}) THEN {exact} ELSE false END"


@dataclass(frozen=True)
class StagedTable:
    """A table of which rows are on the source as texts, `r`, with the key of the source's row if there is one."""

    table: TableMap
    """Without what the first direction excluded."""
    columns: list[WrittenColumn]
    cells: list[Cell]
    rows: str
    """The temporary table of rows to write."""
    gone: str
    """The temporary table of rows to delete: their ids, and their keys at the source."""
    writes: int = 0
    """The number of rows to write, some of which may be removed again."""
    deletes: int = 0
    """The number of rows to delete, some of which may be removed again."""

    @property
    def key(self) -> Cell:
        """The key, whose text is that of the target's id."""
        return next(cell for cell in self.cells if cell.is_key)

    @property
    def written(self) -> list[Cell]:
        """The cells that an UPDATE sets."""
        return [cell for cell in self.cells if not (cell.is_key or cell.column.generated)]

    @property
    def sql(self) -> str:
        """The table of the source, in a statement."""
        assert self.table.source  # noqa: S101, only such tables are staged
        return self.table.source.sql

    def remove(self, source: MoveConnection, ids: Collection[str]) -> None:
        """Neither write nor delete these rows."""
        for name in (self.rows, self.gone):
            source.execute(f"DELETE FROM {name} WHERE id = ANY({array(array_items(ids), TEXT)})")

    def empty(self, source: MoveConnection, cell: Cell, ids: Collection[str]) -> None:
        """Write NULL into a column of these rows."""
        among = array(array_items(ids), TEXT)
        source.execute(f"UPDATE {self.rows} SET {cell.name} = NULL WHERE id = ANY({among})")

    def has_key(self, row: str, key: str) -> str:
        """Return the condition that a row of the source has the key of a staged one."""
        column = self.key.map
        return f"{column.value_of(row)} = {column.plain(key)}"

    def keeps(self, cell: Cell) -> str:
        """Return the condition that the source's row, `s`, has the value of `r` already, in whatever form.

        A value that became NULL on the way to the target stays as it is.
        """
        same = f"{cell.current_text} IS NOT DISTINCT FROM {cell.text()}"
        ids = self.table.excluded.nulled.get(cell.column.name)
        return f"({same} OR {cell.text()} IS NULL AND r.id = ANY({array(ids, TEXT)}))" if ids else f"({same})"

    def is_kept(self, cells: Iterable[Cell]) -> str:
        """Return the condition that the source's row has all these values."""
        return " AND ".join(map(self.keeps, cells)) or "true"


def stage(connections: Connections, table: TableMap, ids: Collection[str], position: int) -> StagedTable:
    """Bring the rows with these ids to the source; the transaction there drops the temporary tables when it ends."""
    source = connections.source
    columns = written_columns(source, table)
    cells = [
        Cell(column, column.map, f"c{number}", column.map is table.key)
        for number, column in enumerate(columns)
        if column.map
    ]
    staged = StagedTable(table, columns, cells, f"{_ROWS}_{position}", f"{_GONE}_{position}")
    texts = "".join(f", {cell.name} {TEXT}" for cell in cells)
    source.execute(f"CREATE TEMPORARY TABLE {_local(staged.rows)} (id {TEXT}{texts}) ON COMMIT DROP")
    names = ", ".join(("id", *(cell.name for cell in cells)))
    values = ", ".join((table.target_id, *(f"({cell.map.target_text})::{TEXT}" for cell in cells)))
    back = Connections(connections.target, source)
    writes = 0
    for some in batches(ids):
        among = array(some, table.key.type)
        query = f"SELECT {values} FROM {table.target_sql} WHERE {table.key.target_value} = ANY({among})"
        writes += stream(back, query, f"{staged.rows} ({names})")
    items = array(array_items(ids), TEXT)
    # In few messages, because each takes the time of a journey to the source. Without ANALYZE, the planner takes a
    # temporary table for one of a few pages.
    source.execute(
        f"ALTER TABLE {staged.rows} ADD key {_source_of_key(table).kind}; ANALYZE {staged.rows}; {_find_keys(staged)}"
    )
    deletes = source.execute(
        f"CREATE TEMPORARY TABLE {_local(staged.gone)} ON COMMIT DROP AS SELECT w.id, {_key(table)} AS key"
        f" FROM unnest({items}) AS w (id) JOIN {table.source_sql} ON {_same_id(table, 'w.id')}"
        f" WHERE NOT EXISTS (SELECT FROM {staged.rows} AS r WHERE r.id = w.id); ANALYZE {staged.gone}"
    )
    return replace(staged, writes=writes, deletes=deletes)


def pending_ids(source: MoveConnection, staged: StagedTable, ids: Collection[str]) -> set[str]:
    """Return those of these ids whose rows a write changes, inserts or deletes."""
    among = f"r.id = ANY({array(array_items(ids), TEXT)})"
    rows = source.rows(
        f"SELECT r.id FROM {staged.rows} AS r LEFT JOIN {staged.sql} AS s ON {staged.has_key('s', 'r.key')}"
        f" WHERE {among} AND (r.key IS NULL OR NOT ({staged.is_kept(staged.cells)}))"
        f" UNION ALL SELECT r.id FROM {staged.gone} AS r WHERE {among}"
    )
    return {key for (key,) in rows}


def find_keys(source: MoveConnection, staged: StagedTable) -> None:
    """Note the keys of the staged rows that the source has by now."""
    source.execute(_find_keys(staged))


def _find_keys(staged: StagedTable) -> str:
    table = staged.table
    return (
        f"UPDATE {staged.rows} AS r SET key = {_key(table)} FROM {table.with_all_rows.source_sql}"
        f" WHERE r.key IS NULL AND {_same_id(table, 'r.id')}"
    )


@contextlib.contextmanager
def able_to_read(source: MoveConnection) -> Generator[None]:
    """Create the function that tests whether a type can read a text, and drop it at the end."""
    signature = f"{_READS}({TEXT}, {TEXT})"
    source.execute(
        f"CREATE FUNCTION {signature} RETURNS boolean LANGUAGE plpgsql AS $$"
        " BEGIN EXECUTE 'SELECT ' || quote_nullable($1) || '::' || $2; RETURN true;"
        " EXCEPTION WHEN OTHERS THEN RETURN false; END $$"
    )
    yield
    # Otherwise it would stay in a session that a pooler lends to others. An error rolls it back.
    source.execute(f"DROP FUNCTION {signature}")


def _local(name: str) -> str:
    return name.removeprefix("pg_temp.")


def _source_of_key(table: TableMap) -> SourceColumn:
    assert table.key.source  # noqa: S101, only such tables are staged
    return table.key.source


def _key(table: TableMap) -> str:
    return f"s.{quoted(_source_of_key(table).name)}"


def _same_id(table: TableMap, text: str) -> str:
    """Return the condition that a row of the source has an id of the target."""
    if not table.key.alike:
        return f"{table.id_value} = {text}"
    # Of the widest type, because the source's may be narrower than an id of the target.
    kind = "bigint" if table.id_kind in INTEGERS else table.id_kind
    return f"{table.id_value} = {text}::{kind}"
