"""The requirements of the source, each with a condition for the staged rows, `r`, that violate it.

Rows with values that a type of the source cannot hold are removed first, so that all other conditions can read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.database.dialect import public, quoted
from tatame_db.move.conversion import TEXT
from tatame_db.move.obstacles import Requirement
from tatame_db.move.sql import array
from tatame_db.move.target import column_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tatame_db.move.back.staging import Cell, StagedTable
    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.mapping import TableMap

MISFIT, MISSING, ORPHAN = "misfit", "missing-value", "orphan"
REJECTED_ID, NOT_UNIQUE, REFUSED, REFERENCED, CHANGED = (
    "rejected-id",
    "not-unique",
    "refused",
    "referenced",
    "changed-by-source",
)
_CHANGE = "change the values on the target"


@dataclass(frozen=True)
class Reference:
    """A foreign key of one column, of the source or of the models: names of the source."""

    column: str
    schema: str
    parent: str
    parent_column: str


def of_the_row(staged: StagedTable, *, carefully: bool) -> Iterator[Requirement]:
    """Yield the requirements that a row meets or violates by itself."""
    if rejected := staged.table.excluded.rejected:
        yield Requirement(
            REJECTED_ID,
            "the source has another row with this id, which the move rejected",
            f"r.id = ANY({array(rejected, TEXT)})",
            ("give the row of the target another id",),
        )
    for cell in staged.cells:
        yield from _of_a_cell(staged, cell, carefully=carefully)
    for column in staged.columns:
        if column.map is None and column.not_null and not (column.has_default or column.generated):
            yield Requirement(
                MISSING,
                f"{column.name} of the source may not be NULL, has no default, and is not in the models",
                "r.key IS NULL",
                ("let a change of the source's schema give the column a default",),
                column.name,
            )


def _of_a_cell(staged: StagedTable, cell: Cell, *, carefully: bool) -> Iterator[Requirement]:
    unchanged = (
        f"EXISTS (SELECT FROM {staged.table.with_all_rows.source_sql}"
        f" WHERE {staged.has_key('s', 'r.key')} AND {staged.keeps(cell)})"
    )
    name, source = cell.map.name, cell.column
    yield Requirement(
        MISFIT,
        f"{name} has values that {source.name} of the source, of type {source.type}, cannot hold exactly",
        f"{cell.text()} IS NOT NULL AND NOT {cell.is_exact(carefully=carefully)} AND NOT {unchanged}",
        (_CHANGE,),
        source.name,
        not (source.not_null or cell.is_key),
    )
    if source.not_null and not source.generated:
        yield Requirement(
            MISSING,
            f"{name} is NULL, and {source.name} of the source may not be",
            f"{cell.text()} IS NULL AND NOT {unchanged}",
            (_CHANGE,),
            source.name,
        )


def unique(source: MoveConnection, staged: StagedTable) -> Iterator[Requirement]:
    """Yield the requirements that values are unique among the rows that the source will have."""
    cells = {cell.column.name: cell for cell in staged.cells}
    rows = source.rows(_UNIQUE, {"table": public(staged.table.name)})
    for names in [names for (names,) in rows]:
        if not cells.keys() >= set(names):
            continue
        of = [cells[name] for name in names]
        same_there = " AND ".join(f"s.{cell.column.sql} = {cell.value()}" for cell in of)
        same_here = " AND ".join(f"{cell.value('w')} = {cell.value()}" for cell in of)
        rewritten = " AND ".join(
            f"NOT EXISTS (SELECT FROM {table} AS w WHERE {staged.has_key('s', 'w.key')})"
            for table in (staged.rows, staged.gone)
        )
        yield Requirement(
            NOT_UNIQUE,
            f"{', '.join(names)} must be unique at the source, and another row has the same value",
            f"EXISTS (SELECT FROM {staged.sql} AS s WHERE {same_there} AND {rewritten})"
            f" OR EXISTS (SELECT FROM {staged.rows} AS w WHERE {same_here} AND w.id <> r.id)",
            (_CHANGE,),
            ", ".join(names),
        )


_UNIQUE = f"""
SELECT {column_names("i.indrelid", "i.indkey[0:i.indnkeyatts - 1]::smallint[]")}
FROM pg_index i WHERE i.indrelid = %(table)s::regclass AND i.indisunique AND NOT i.indisprimary AND i.indisvalid
    AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indexrelid
"""


def references(source: MoveConnection, staged: StagedTable, maps: Mapping[str, TableMap]) -> list[Reference]:
    """Return the foreign keys of one column that the source has, and those of the models between its tables."""
    found = {Reference(*row) for row in source.rows(_REFERENCES, {"table": public(staged.table.name)})}
    for cell in staged.cells:
        for key in staged.table.table.columns[cell.map.name].foreign_keys:
            parent = maps.get(key.column.table.name)
            if parent and (there := parent.column(key.column.name).source):
                found.add(Reference(cell.column.name, "public", parent.name, there.name))
    return sorted(found, key=str)


_REFERENCES = """
SELECT a.attname, n.nspname, p.relname, b.attname
FROM pg_constraint k JOIN pg_class p ON p.oid = k.confrelid JOIN pg_namespace n ON n.oid = p.relnamespace
JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = k.confkey[1]
WHERE k.conrelid = %(table)s::regclass AND k.contype = 'f' AND cardinality(k.conkey) = 1
"""


def orphans(
    staged: StagedTable, reference: Reference, maps: Mapping[str, TableMap], all_staged: Mapping[str, StagedTable]
) -> Requirement | None:
    """Return the requirement that a referenced row exists at the source, or is written there."""
    cell = next((cell for cell in staged.cells if cell.column.name == reference.column), None)
    if cell is None:
        return None
    in_public = reference.schema == "public"
    there = maps[reference.parent].source_sql if in_public and reference.parent in maps else None
    parent = all_staged.get(reference.parent) if in_public else None
    rows = there or f"{quoted(reference.schema)}.{quoted(reference.parent)} AS s"
    exists = f"EXISTS (SELECT FROM {rows} WHERE s.{quoted(reference.parent_column)} = {cell.value()}"
    if parent:
        exists += f" AND NOT EXISTS (SELECT FROM {parent.gone} AS w WHERE {parent.has_key('s', 'w.key')})"
    exists += ")"
    for other in parent.cells if parent else []:
        if parent and other.column.name == reference.parent_column:
            exists += f" OR EXISTS (SELECT FROM {parent.rows} AS w WHERE {other.value('w')} = {cell.value()})"
    return Requirement(
        ORPHAN,
        f"{cell.map.name} refers to a row of {reference.parent} that the source does not have",
        f"{cell.text()} IS NOT NULL AND NOT ({exists})",
        (f"write the row of {reference.parent} back too", _CHANGE),
        cell.column.name,
        not cell.column.not_null,
    )


def refused(kind: str, reason: str) -> Requirement:
    """Return the requirement that rows have violated as they were written."""
    fix = {
        REFERENCED: "change or delete the rows that refer to them, by a change of the source that passes its fences",
        CHANGED: "disable the trigger at the source",
    }
    return Requirement(kind, reason, "", (fix.get(kind, _CHANGE),))
