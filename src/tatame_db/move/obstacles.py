"""What a row of the source can have that our schema does not take, as conditions of a query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.move.conversion import TEXT, TEXTS, about
from tatame_db.move.mapping import array, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ForeignKey

    from tatame_db.move.mapping import ColumnMap, Mapping, SourceColumn, TableMap

# PostgreSQL takes at most 2,704 bytes into an entry, of which other columns and headers need some.
INDEXED_BYTES = 2_500
LAST_ID = 2_147_483_647


@dataclass(frozen=True)
class Requirement:
    """A condition on rows of the source that says they cannot move as they are.

    `column` is the source's, where it is one; `nullable` says whether NULL could take its place with us.
    """

    kind: str
    what: str
    condition: str
    fixes: tuple[str, ...]
    column: str | None = None
    nullable: bool = False


def of_the_key(table: TableMap) -> Iterator[Requirement]:
    """Say which rows cannot be told apart, and so have to be looked at first."""
    key = table.key
    if key.source is None:
        return
    if not key.source.not_null:
        yield _missing_value(key, key.source)
    if not key.source.unique:
        yield duplicate(table, key, key.source)


def of_a_row(table: TableMap) -> Iterator[Requirement]:
    """Say what a row tells about itself."""
    for column in table.columns:
        source, value = column.source, column.source_value
        if source is None:
            if column.required:
                words = f"there is no column for {column.name}, which every row of ours must have"
                yield Requirement("missing-column", words, "true", ("add the column at the source and fill it",))
            continue
        if column.required and not source.not_null and column is not table.key:
            yield _missing_value(column, source)
        if column.conversion.unstorable:
            yield Requirement(
                "misfit",
                f"{source.name} {column.conversion.unstorable_reason}",
                about(column.conversion.unstorable, value),
                ("change the values at the source",),
                source.name,
                not column.required,
            )
    if table.counted_key:
        words = "id is the last number there is, after which no row of ours could be added"
        yield Requirement("last-id", words, f"{table.key.source_value} = {LAST_ID}", ("give the row another id",))
    yield from _too_long(table)
    for unknown in table.unknown:
        yield Requirement(
            "unknown-column",
            f"{unknown.name} ({unknown.kind}) has values, and no column of ours takes them",
            f"s.{quoted(unknown.name)} IS NOT NULL",
            ("add the column to the models with `tatame-db generate`", "drop the column at the source"),
            unknown.name,
        )


def _missing_value(column: ColumnMap, source: SourceColumn) -> Requirement:
    return Requirement(
        "missing-value",
        f"{source.name} is NULL, and {column.name} of ours may not be",
        f"{column.source_value} IS NULL",
        ("fill it at the source", "delete the rows at the source"),
        source.name,
    )


def _too_long(table: TableMap) -> Iterator[Requirement]:
    """Values that an index of ours refuses, which the source need not have indexed."""
    indexes = [(str(index.name), list(index.columns)) for index in table.table.indexes]
    indexes += [
        (f"of {column.name}", [column]) for column in table.table.columns if column.unique or column.primary_key
    ]
    for name, columns in indexes:
        found = [column for column in map(table.column, (column.name for column in columns)) if column.source]
        texts = [f"coalesce(octet_length({column.source_value}::text), 0)" for column in found if column.type == TEXT]
        if texts:
            names = " and ".join(column.source.name for column in found if column.source and column.type == TEXT)
            words = f"{names} is longer than the {INDEXED_BYTES:,} bytes that surely fit into the index {name}"
            condition = f"{' + '.join(texts)} > {INDEXED_BYTES}"
            yield Requirement("too-long", words, condition, ("shorten the values at the source",))
        for column in found:
            if column.type == TEXTS and column.source and column.source.kind.endswith("[]"):
                words = (
                    f"{column.source.name} has an element of more than {INDEXED_BYTES:,} bytes, for the index {name}"
                )
                longest = f"(SELECT max(octet_length(e)) FROM unnest({column.source_value}::text[]) AS e)"
                condition = f"{longest} > {INDEXED_BYTES}"
                fixes = ("shorten the values at the source",)
                yield Requirement("too-long", words, condition, fixes, column.source.name)


def duplicates(table: TableMap, keep: str | None = None) -> Iterator[Requirement]:
    """Say which rows have a value that others have too; with `first` or `last`, without that one of them."""
    for column in table.columns:
        source = column.source
        if source and table.table.columns[column.name].unique and not source.unique:
            yield duplicate(table, column, source, keep)


def duplicate(table: TableMap, column: ColumnMap, source: SourceColumn, keep: str | None = None) -> Requirement:
    """Say which rows have the same value in this column, judged among those that are not set aside."""
    value, key = column.source_value, table.key.source_value
    groups = f"FROM {table.source_sql} WHERE {value} IS NOT NULL GROUP BY {value}"
    condition = f"{value} IN (SELECT {value} {groups} HAVING count(*) > 1)"
    if keep:
        condition += (
            f" AND ({value}, {key}) NOT IN (SELECT {value}, {'min' if keep == 'first' else 'max'}({key}) {groups})"
        )
    return Requirement(
        "duplicate",
        f"{source.name} is not unique, and {column.name} of ours must be",
        condition,
        ("keep one of the rows at the source",),
        source.name,
    )


def orphans(mapping: Mapping, table: TableMap) -> Iterator[Requirement]:
    """Say which rows name others that the source does not have."""
    for column, source, key in _keys(table):
        parent = mapping[key.column.table.name].plain
        referred = parent.column(key.column.name)
        found = "false"
        if parent.source and referred.source:
            # Compared as text only where the types differ: an index or a hash serves equal ones.
            cast = "" if referred.source.kind == source.kind else "::text"
            value = f"p.{quoted(referred.source.name)}{cast}"
            found = f"EXISTS (SELECT FROM {parent.source.sql} AS p WHERE {value} = {column.source_value}{cast})"
        yield _orphan(
            column,
            source,
            f"{source.name} names a row of {parent.name} that is not there",
            f"{column.source_value} IS NOT NULL AND NOT {found}",
        )


def orphans_of(table: TableMap, parent: TableMap, ids: str) -> Iterator[Requirement]:
    """Say which rows name one of these rows, which stay behind."""
    for column, source, key in _keys(table):
        if key.column.table.name == parent.name:
            cast = "" if source.kind == parent.key_kind else "::text"
            among = f"{array(ids, parent.key_kind)}{cast and '::text[]'}"
            yield _orphan(
                column,
                source,
                f"{source.name} names a row of {parent.name} that is rejected",
                f"{column.source_value}{cast} = ANY({among})",
            )


def _keys(table: TableMap) -> Iterator[tuple[ColumnMap, SourceColumn, ForeignKey]]:
    for column in table.columns:
        if column.source:
            for key in table.table.columns[column.name].foreign_keys:
                yield column, column.source, key


def _orphan(column: ColumnMap, source: SourceColumn, what: str, condition: str) -> Requirement:
    fixes = (*(() if column.required else ("set it to NULL at the source",)), "delete the rows at the source")
    return Requirement("orphan", what, condition, fixes, source.name, not column.required)
