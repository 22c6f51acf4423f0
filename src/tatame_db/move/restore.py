"""The way back from the record: an SQL script that creates the rows that it keeps exactly as they were.

`rejects` has rows of the source, and `not_returned` rows of the target.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tatame_db.database.dialect import literal, quoted
from tatame_db.database.text_output import TEXT_OUTPUT
from tatame_db.errors import TatameError, fact
from tatame_db.move.back.found import UNKNOWN_COLUMN
from tatame_db.move.back.stored import NOT_RETURNED, stores_any
from tatame_db.move.choices import NULLED, Exclusion
from tatame_db.move.record import OF_LAST_SOURCE, SCHEMA, Record
from tatame_db.move.sql import array, array_items

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tatame_db.move.connection import MoveConnection

_REJECTS = f"{SCHEMA}.rejects"
# The schema in which the script creates its tables, for each table of the record.
RESTORED, RESTORED_OF_TARGET = "tatame_rejects", "tatame_not_returned"
_SCHEMAS = {_REJECTS: RESTORED, NOT_RETURNED: RESTORED_OF_TARGET}
# The ids that are listed of each exclusion.
IDS = 20
# Settings on which depends how a server reads the text of a value.
_SETTINGS = TEXT_OUTPUT | {
    "client_encoding": "UTF8",
    "lc_monetary": "C",
    "xmloption": "content",
    "array_nulls": "on",
    "search_path": "pg_catalog",
    "statement_timeout": "0",
}
# The backslash is the first, because the others contain one.
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_LONGEST_NAME = 63
# Values of an unknown column have a shape of their own.
_COLUMN = f"CASE kind WHEN '{UNKNOWN_COLUMN}' THEN column_name END"
# A value in the text of a row: in quotes, with quotes and backslashes doubled, or bare; NULL is bare and empty.
_VALUE = re.compile(r'(?:"((?:[^"\\]++|""|\\\\)*+)"|([^,)]*+))[,)]')


@fact
class NotRejected(TatameError):
    """A name in the arguments is not that of a table of which rows or values are kept."""

    exit_code = 2
    tables: list[str]
    known: list[str]
    what = "no excluded rows or values are kept of {tables}; there are some of: {known}"
    fix = "choose from these tables, or omit the names to choose all of them"


@fact
class RowsWithoutText(TatameError):
    """An older version kept these rows as JSON only, which is not exact."""

    tables: list[str]
    what = "the excluded rows of {tables} were kept by an older version, as JSON only"
    fix = "run `tatame-db move copy` for these tables again, then this command"


@dataclass(frozen=True)
class Rejected(Exclusion):
    """An exclusion that is kept in `tatame_move.rejects`, with the first 20 ids of its rows."""

    ids: list[str]


@dataclass(frozen=True)
class NotReturned(Exclusion):
    """Rows or values that a way back left, kept in `tatame_move.not_returned`, with the first 20 ids of their rows.

    `action` is `left` for what stayed on the target, `nulled` for values that became NULL at the source, and
    `not deleted` for rows that the target had deleted and the source has still.
    """

    ids: list[str]
    returned: bool
    """Whether a later way back wrote these rows, or other values in the column."""


@dataclass(frozen=True)
class _Group:
    """Rows of one shape, which make one table; `column` is set if only its values are kept, and not whole rows."""

    kept_in: str
    table: str
    column: str | None
    shape: int
    names: list[str]
    types: list[str]

    @property
    def sql(self) -> str:
        """The name of the table in the script."""
        name = f"{self.table}.{self.column}" if self.column else self.table
        if len(name.encode()) > _LONGEST_NAME:
            name = f"{self.table}.{self.shape}"
        return f"{_SCHEMAS[self.kept_in]}.{quoted(name)}"


@dataclass(frozen=True)
class KeptRows:
    """What the record keeps of the connected target's moves."""

    rejects: list[Rejected]
    """What a copy excluded."""
    not_returned: list[NotReturned]
    """What a way back left."""


def kept_rows(target: MoveConnection, tables: Sequence[str] = ()) -> KeptRows:
    """Return what is kept of these tables, or of all. Raises `NotRejected`."""
    rejects, not_returned = Record(target).exclusions(), _not_returned(target)
    known = sorted({found.table for found in (*rejects, *not_returned)})
    if missing := [table for table in tables if table not in known]:
        raise NotRejected(tables=missing, known=known)
    return KeptRows(
        [
            Rejected(**asdict(found), ids=_ids(target, _REJECTS, found))
            for found in rejects
            if not tables or found.table in tables
        ],
        [found for found in not_returned if not tables or found.table in tables],
    )


def _not_returned(target: MoveConnection) -> list[NotReturned]:
    if not stores_any(target):
        return []
    groups = target.rows(
        f"SELECT table_name, column_name, kind, reason, action, count(*), returned_at IS NOT NULL FROM {NOT_RETURNED}"
        f" WHERE {OF_LAST_SOURCE} GROUP BY 1, 2, 3, 4, 5, 7 ORDER BY 7, 1, 2 NULLS FIRST, 3, 4, 5"
    )
    found: list[NotReturned] = []
    for *group, returned in groups:
        exclusion = Exclusion(*group)
        ids = _ids(target, NOT_RETURNED, exclusion, f" AND (returned_at IS NOT NULL) = {returned}")
        found.append(NotReturned(**asdict(exclusion), ids=ids, returned=returned))
    return found


def _ids(target: MoveConnection, kept_in: str, exclusion: Exclusion, state: str = "") -> list[str]:
    rows = target.rows(
        f"SELECT coalesce(id, 'NULL') FROM {kept_in} WHERE {OF_LAST_SOURCE} AND table_name = %(table)s"
        " AND column_name IS NOT DISTINCT FROM %(column)s::text AND (kind, reason, action) ="
        f" (%(kind)s, %(reason)s, %(action)s){state} ORDER BY length(id), id LIMIT {IDS}",
        {
            "table": exclusion.table,
            "column": exclusion.column,
            "kind": exclusion.kind,
            "reason": exclusion.reason,
            "action": exclusion.action,
        },
    )
    return [row[0] for row in rows]


def restoring_script(target: MoveConnection, tables: Sequence[str] = ()) -> Iterator[str]:
    """Yield the parts of a script for `psql` that creates a table for the kept rows of each of these tables, or of all.

    The tables have the columns and the types of the database whose rows they are, so the script runs in any database
    that has these types. A column that the other database lacks has a table of its own, with the ids. Raises
    `NotRejected`, `RowsWithoutText`.
    """
    kept = kept_rows(target, tables)
    names = sorted({exclusion.table for exclusion in (*kept.rejects, *kept.not_returned)})
    where = f"{OF_LAST_SOURCE} AND table_name = ANY({array(array_items(names), 'text')})"
    _refuse_without_text(target, where)
    kept_in = [_REJECTS] * bool(kept.rejects) + [NOT_RETURNED] * bool(kept.not_returned)
    groups = [group for name in kept_in for group in _groups(target, name, where)]
    yield "\\set ON_ERROR_STOP on\nBEGIN;\n"
    yield from (f"SET LOCAL {name} = '{value}';\n" for name, value in _SETTINGS.items())
    yield from (f"CREATE SCHEMA IF NOT EXISTS {_SCHEMAS[name]};\n" for name in kept_in)
    for group in groups:
        columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in zip(group.names, group.types, strict=True))
        yield f"CREATE TABLE {group.sql} ({columns});\n"
        yield f"COPY {group.sql} ({', '.join(map(quoted, group.names))}) FROM STDIN;\n"
        yield from _lines(target, group, where)
        yield "\\.\n"
    yield "COMMIT;\n"


def _refuse_without_text(target: MoveConnection, where: str) -> None:
    record = Record(target)
    if not record.exists():
        return
    without_text = " AND row_text IS NULL" if record.keeps_texts() else ""
    old = target.rows(f"SELECT DISTINCT table_name FROM {_REJECTS} WHERE {where}{without_text} ORDER BY 1")
    if old:
        raise RowsWithoutText(tables=[row[0] for row in old])


def _groups(target: MoveConnection, kept_in: str, where: str) -> list[_Group]:
    """Find the tables to create. A row that the target had deleted is in none of them."""
    rows = target.rows(
        f"SELECT found.*, names, types FROM (SELECT DISTINCT table_name, {_COLUMN}, shape FROM {kept_in}"
        f" WHERE {where} AND row_text IS NOT NULL) AS found JOIN {SCHEMA}.shapes ON id = shape ORDER BY 1, 2"
    )
    return [_Group(kept_in, *row) for row in rows]


def _lines(target: MoveConnection, group: _Group, where: str) -> Iterator[str]:
    """Yield the lines of a COPY: each row once, also if several of its values became NULL."""
    column = f"= {literal(group.column)}" if group.column else "IS NULL"
    query = (
        f"SELECT DISTINCT ON (action, CASE action WHEN '{NULLED}' THEN id ELSE ctid::text END) row_text"
        f" FROM {group.kept_in} WHERE {where} AND table_name = {literal(group.table)} AND {_COLUMN} {column}"
        f" AND shape = {group.shape} AND row_text IS NOT NULL"
    )
    # A COPY, because it sends a row at a time, and a single row may have hundreds of megabytes.
    with target.driver.cursor() as reading, reading.copy(f"COPY ({query}) TO STDOUT".encode()) as copy:
        copy.set_types(["text"])
        for (row,) in copy.rows():
            yield "\t".join(map(_written, values_of_row(row))) + "\n"


def values_of_row(row: str) -> list[str | None]:
    """Split the text of a row into the texts of its values.

    >>> values_of_row('(1,,"a, b","")')
    ['1', None, 'a, b', '']
    """
    return [_unquoted(*found.groups()) for found in _VALUE.finditer(row, 1)]


def _unquoted(inside: str | None, bare: str | None) -> str | None:
    return bare or None if inside is None else inside.replace('""', '"').replace("\\\\", "\\")


def _written(value: str | None) -> str:
    """Write a value for COPY."""
    if value is None:
        return "\\N"
    for character, escaped in _ESCAPES.items():
        value = value.replace(character, escaped)
    return value
