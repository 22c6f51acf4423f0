"""The requirements of the target, each with a condition for the rows of the source that violate it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import UniqueConstraint

from tatame_db.database.dialect import quoted
from tatame_db.move.conversion import MISSING, TEXT, TEXTS, about
from tatame_db.move.sequences import LARGEST_IDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ForeignKey, Table

    from tatame_db.move.catalogue import SourceColumn
    from tatame_db.move.mapping import ColumnMap, Mapping, TableMap

# An index entry has at most 2,704 bytes, of which headers and other columns take some.
INDEXED_BYTES = 2_500


@dataclass(frozen=True)
class Requirement:
    """A requirement of the target, and the condition of the rows of the source that violate it.

    `column` is that of the source, if there is one; `nullable` means that its value may become NULL in the target.
    `fixes` are the remedies at the source.
    """

    kind: str
    reason: str
    violation: str
    fixes: tuple[str, ...]
    column: str | None = None
    nullable: bool = False


def of_the_key(table: TableMap) -> Iterator[Requirement]:
    """Yield the requirements for the primary key, which come first: without a key, rows cannot be told apart."""
    key = table.key
    if key.source is None:
        return
    if not key.source.not_null:
        yield _missing_value(key, key.source)
    if not key.proven_unique:
        yield duplicate(table, [key])


def of_a_row(table: TableMap) -> Iterator[Requirement]:
    """Yield the requirements that a row meets or violates by itself."""
    for column in table.columns:
        yield from _of_a_column(table, column)
    key = table.key
    if key.source and key.type in LARGEST_IDS and table.table.autoincrement_column is not None:
        reason = f"{key.name} is the largest integer, so no new row could get a higher one"
        yield Requirement("last-id", reason, f"{key.compared} = {LARGEST_IDS[key.type]}", ("give the row another id",))
    yield from _too_long(table)
    yield from _without_partition(table)
    for unknown in table.unknown:
        yield Requirement(
            "unknown-column",
            f"{unknown.name} ({unknown.type_name}) has values, and the target has no such column",
            # A composite value is not NULL either if a field of it is.
            f"s.{quoted(unknown.name)} IS DISTINCT FROM NULL",
            ("add the column to the models with `tatame-db generate`", "drop the column at the source"),
            unknown.name,
        )


def _of_a_column(table: TableMap, column: ColumnMap) -> Iterator[Requirement]:
    source, conversion = column.source, column.conversion
    if source is None:
        if column.required and conversion == MISSING:
            reason = f"the source has no column for {column.name}, which may not be NULL"
            yield Requirement("missing-column", reason, "true", ("add the column at the source and fill it",))
        return
    if column.required and not source.not_null and column is not table.key:
        yield _missing_value(column, source)
    if conversion.unstorable:
        yield Requirement(
            "misfit",
            f"{source.name} {conversion.unstorable_reason}",
            about(conversion.unstorable, column.source_value),
            ("change the values at the source",),
            source.name,
            not column.required,
        )


def _missing_value(column: ColumnMap, source: SourceColumn) -> Requirement:
    return Requirement(
        "missing-value",
        f"{source.name} is NULL, and {column.name} of the target may not be",
        f"{column.source_value} IS NOT DISTINCT FROM NULL",
        ("fill it at the source", "delete the rows at the source"),
        source.name,
    )


def _without_partition(table: TableMap) -> Iterator[Requirement]:
    """Yield the requirement that the target has a partition for the row."""
    columns = [table.column(name) for name in table.partitions.columns] if table.partitions else []
    if table.partitions and columns and all(column.source for column in columns):
        values = ", ".join(f"{column.compared} AS {quoted(column.name)}" for column in columns)
        known = " AND ".join(f"row.{quoted(column.name)} IS NOT NULL" for column in columns)
        yield Requirement(
            "no-partition",
            f"the target has no partition for the value of {', '.join(column.name for column in columns)}",
            f"EXISTS (SELECT FROM (SELECT {values}) AS row WHERE {known} AND NOT ({table.partitions.condition}))",
            ("create the partition on the target", "correct the value at the source"),
            ", ".join(column.source.name for column in columns if column.source),
        )


def _too_long(table: TableMap) -> Iterator[Requirement]:
    """Yield requirements for values that an index of the target rejects; the source may have no such index."""
    indexes = [(str(index.name), list(index.columns)) for index in table.table.indexes]
    indexes += [
        (f"of {column.name}", [column]) for column in table.table.columns if column.unique or column.primary_key
    ]
    for index, columns in indexes:
        indexed = [table.column(column.name) for column in columns]
        yield from _too_long_together(index, [column for column in indexed if column.type == TEXT and column.source])
        for column in indexed:
            yield from _too_long_element(index, column)


def _too_long_together(index: str, columns: list[ColumnMap]) -> Iterator[Requirement]:
    if columns:
        names = " and ".join(column.source.name for column in columns if column.source)
        lengths = [f"coalesce(octet_length({column.source_value}::text), 0)" for column in columns]
        yield Requirement(
            "too-long",
            f"{names} is longer than {INDEXED_BYTES:,} bytes, the most that surely fits into the index {index}",
            f"{' + '.join(lengths)} > {INDEXED_BYTES}",
            ("shorten the values at the source",),
        )


def _too_long_element(index: str, column: ColumnMap) -> Iterator[Requirement]:
    if column.type == TEXTS and column.source:
        longest = f"(SELECT max(octet_length(e)) FROM unnest({column.compared}) AS e)"
        yield Requirement(
            "too-long",
            f"{column.source.name} has an element longer than {INDEXED_BYTES:,} bytes, the most that surely fits into"
            f" the index {index}",
            f"{longest} > {INDEXED_BYTES}",
            ("shorten the values at the source",),
            column.source.name,
        )


def duplicates(table: TableMap, keep: str | None = None) -> Iterator[Requirement]:
    """Yield the requirements that values are unique; with `keep`, the `first` or `last` row by id does not violate."""
    for names in _unique_columns(table.table):
        columns = [table.column(name) for name in names]
        proven = len(columns) == 1 and columns[0].proven_unique
        if not proven and all(column.source for column in columns):
            yield duplicate(table, columns, keep)


def _unique_columns(table: Table) -> list[tuple[str, ...]]:
    """Return the sets of columns that are unique by a constraint or an index of the models, without the key."""
    found = {
        tuple(column.name for column in constraint.columns)
        for constraint in table.constraints
        if isinstance(constraint, UniqueConstraint)
    }
    # An index of some rows or of expressions says nothing about the columns.
    found |= {
        tuple(column.name for column in index.columns)
        for index in table.indexes
        if index.unique
        and index.dialect_options["postgresql"]["where"] is None
        and len(index.expressions) == len(index.columns)
    }
    return sorted(found)


def duplicate(table: TableMap, columns: list[ColumnMap], keep: str | None = None) -> Requirement:
    """Return the requirement that columns are unique among the rows that are not excluded."""
    # Compared as the target compares them, after the conversion, and where no value is NULL.
    values = ", ".join(f"({column.compared})" for column in columns)
    present = " AND ".join(f"({column.compared}) IS NOT NULL" for column in columns)
    violation = (
        f"({values}) IN (SELECT {values} FROM {table.source_sql} WHERE {present} GROUP BY {values} HAVING count(*) > 1)"
    )
    if keep:
        order = f"{table.key.compared} {'ASC' if keep == 'first' else 'DESC'}"
        position = f"row_number() OVER (PARTITION BY {values} ORDER BY {order})"
        others = f"SELECT {table.id_value} AS id, {position} AS position FROM {table.source_sql} WHERE {present}"
        violation = f"{table.id_value} IN (SELECT id FROM ({others}) AS ranked WHERE position > 1)"
    sources = [column.source.name for column in columns if column.source]
    names, plural = " and ".join(column.name for column in columns), len(columns) > 1
    return Requirement(
        "duplicate",
        f"{' and '.join(sources)} {'are' if plural else 'is'} not unique, and {names} of the target must be",
        violation,
        ("keep one of the rows at the source",),
        ", ".join(sources),
    )


def orphans(mapping: Mapping, table: TableMap) -> Iterator[Requirement]:
    """Yield the requirements that a referenced row exists in the source."""
    for column, source, key in _keys(table):
        parent = mapping[key.column.table.name]
        referenced = parent.column(key.column.name)
        exists = "false"
        if parent.source and referenced.source:
            value = referenced.compared_value(referenced.value_of("p"))
            exists = f"EXISTS (SELECT FROM {parent.source.sql} AS p WHERE {value} = {column.compared})"
        yield _orphan(
            column,
            source,
            f"{source.name} refers to a row of {parent.name} that does not exist",
            f"({column.compared}) IS NOT NULL AND NOT {exists}",
        )


def orphans_of(table: TableMap, parent: TableMap, ids: str) -> Iterator[Requirement]:
    """Yield the requirements that a row does not refer to one of these rows, which are rejected."""
    rows = parent.with_all_rows
    for column, source, key in _keys(table):
        if key.column.table.name == parent.name:
            rejected = f"SELECT {rows.column(key.column.name).compared} FROM {rows.source_sql} WHERE {rows.among(ids)}"
            yield _orphan(
                column,
                source,
                f"{source.name} refers to a row of {parent.name} that is rejected",
                f"{column.compared} IN ({rejected})",
            )


def _keys(table: TableMap) -> Iterator[tuple[ColumnMap, SourceColumn, ForeignKey]]:
    for column in table.columns:
        if column.source:
            for key in table.table.columns[column.name].foreign_keys:
                yield column, column.source, key


def _orphan(column: ColumnMap, source: SourceColumn, reason: str, violation: str) -> Requirement:
    fixes = (*(() if column.required else ("set it to NULL at the source",)), "delete the rows at the source")
    return Requirement("orphan", reason, violation, fixes, source.name, not column.required)
