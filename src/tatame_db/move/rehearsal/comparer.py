"""A comparison of two databases value by value, which shares no code with the proof of a move.

The proof lets each server compute digests by the mapping of a copy. Here all rows are read and compared in Python, and
columns are found by their names alone: a mistake that both have in common is unlikely.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tatame_db.move.rehearsal.project import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg
    from sqlalchemy import URL

_Row = tuple[Any, ...]
_COLUMNS = """
SELECT table_name, column_name, data_type FROM information_schema.columns
WHERE table_schema = 'public' AND table_name <> 'alembic_version' ORDER BY table_name, ordinal_position
"""
# The text of a value of the source as the target has it, where their types differ in more than their size.
_FORMS = {
    ("timestamp with time zone", "timestamp without time zone"): "({} AT TIME ZONE 'UTC')::text",
    ("date", "timestamp without time zone"): "{}::timestamp::text",
    ("time without time zone", "text"): "to_char({}, 'HH24:MI')",
}
# Rows of one fetch.
_BATCH = 2_000
# After these, the rest of a table is not read.
_MOST = 100


@dataclass(frozen=True, order=True)
class Discrepancy:
    """A row that only one database has, or a value that differs."""

    table: str
    key: str
    place: str
    """The column of the source, or `ONLY_SOURCE` or `ONLY_TARGET` for a row."""

    def __str__(self) -> str:
        return f"{self.table}, id {self.key}, {self.place}"


ONLY_SOURCE, ONLY_TARGET = "only in the source", "only in the target"


@dataclass
class Compared:
    """What was compared, and what differs: of each table at most the first discrepancies."""

    tables: list[str] = field(default_factory=list[str])
    rows: int = 0
    """The rows that both databases have."""
    not_compared: list[str] = field(default_factory=list[str])
    """Columns of these tables that only the target has."""
    discrepancies: list[Discrepancy] = field(default_factory=list[Discrepancy])


def compare_values(source: URL, target: URL) -> Compared:
    """Compare all rows of the tables and columns that both databases have."""
    compared = Compared()
    with connect(source) as here, connect(target) as there:
        for connection in (here, there):
            connection.execute("SET TimeZone = 'UTC'; SET DateStyle = 'ISO'")
        columns, wanted = _columns(here), _columns(there)
        for table in wanted:
            if table in columns:
                alone = wanted[table].keys() - columns[table].keys()
                compared.not_compared += [f"{table}.{wanted[table][name][0]}" for name in sorted(alone)]
                _compare(here, there, table, _common(columns[table], wanted[table]), compared)
    return compared


def _columns(connection: psycopg.Connection[_Row]) -> dict[str, dict[str, tuple[str, str]]]:
    """Return name and type of each column, by table and by a name that `userId` and `user_id` have in common."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for table, column, kind in connection.execute(_COLUMNS):
        found.setdefault(table, {})[column.replace("_", "").lower()] = (column, kind)
    return found


def _common(columns: dict[str, tuple[str, str]], wanted: dict[str, tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Return the columns of the source that the target has too, each with its text in both databases."""
    found: list[tuple[str, str, str]] = []
    for common, (name, kind) in columns.items():
        if common in wanted:
            its, its_kind = wanted[common]
            text = _FORMS.get((kind, its_kind), "{}::text").format(f'"{name}"')
            found.append((name, text, f'"{its}"::text'))
    return found


def _compare(
    here: psycopg.Connection[_Row],
    there: psycopg.Connection[_Row],
    table: str,
    columns: list[tuple[str, str, str]],
    compared: Compared,
) -> None:
    compared.tables.append(table)
    most = len(compared.discrepancies) + _MOST
    with ExitStack() as opened:
        rows = _rows(opened, here, table, [text for _, text, _ in columns])
        others = _rows(opened, there, table, [text for _, _, text in columns])
        row, other = next(rows, None), next(others, None)
        while (row or other) and len(compared.discrepancies) < most:
            if row and (other is None or row[0].encode() < other[0].encode()):
                compared.discrepancies.append(Discrepancy(table, row[0], ONLY_SOURCE))
                row = next(rows, None)
            elif other and (row is None or other[0].encode() < row[0].encode()):
                compared.discrepancies.append(Discrepancy(table, other[0], ONLY_TARGET))
                other = next(others, None)
            elif row and other:
                compared.rows += 1
                if row != other:
                    pairs = zip(columns, row[1:], other[1:], strict=True)
                    names = [column for (column, _, _), value, its in pairs if value != its]
                    compared.discrepancies += [Discrepancy(table, row[0], name) for name in names]
                row, other = next(rows, None), next(others, None)


def _rows(opened: ExitStack, connection: psycopg.Connection[_Row], table: str, values: list[str]) -> Iterator[_Row]:
    """Return the rows with their ids as text, in the order of their bytes."""
    cursor = opened.enter_context(connection.cursor("rows"))
    cursor.itersize = _BATCH
    cursor.execute(f'SELECT id::text, {", ".join(values)} FROM public."{table}" ORDER BY id::text COLLATE "C"'.encode())
    return iter(cursor)
