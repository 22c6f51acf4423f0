"""Exports of all the rows of a selection, as CSV or JSON, streamed row by row."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import sqlalchemy
from sqlalchemy import ColumnElement, Select, Text, case, func, literal_column, select

from tatame_db.studio.errors import BadInput
from tatame_db.studio.kinds import kind_of
from tatame_db.studio.names import with_names
from tatame_db.studio.pieces import read_pieces
from tatame_db.studio.rows import sorted_by
from tatame_db.studio.transactions import EXPORT_SECONDS, read_transaction

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

    from sqlalchemy import Column

    from tatame_db.database.pool import AsyncDatabase
    from tatame_db.studio.rows import Selection

MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "jsonl": "application/x-ndjson",
}
_FORMULA_CHARACTERS = "=+@\t\r\n\uff1d\uff0b\uff0d\uff20-"
"""The first characters, in both widths, of what a spreadsheet may compute; OWASP lists them under "CSV injection"."""
_SEPARATORS = {",": "csv", ";": "csv", "\t": "tsv"}
_NULLS = {"", "\\N"}
_PLAIN = {"integer", "number", "boolean", "date", "time", "timestamp", "uuid"}
PIECE_BYTES = 64_000
# A function of PostgreSQL takes at most 100 arguments.
_FIELDS_AT_ONCE = 90


@dataclass(frozen=True)
class Form:
    """The form of an export; all but `name` and `names` applies to CSV."""

    name: str
    separator: str = ","
    null: str = ""
    harmless: bool = False
    """Put an apostrophe before a text that a spreadsheet would take for a formula."""
    mark: bool = False
    """Start with a byte order mark, by which Excel recognizes UTF-8."""
    names: bool = False
    """Write the name of the row behind each reference; in every form."""

    @property
    def media_type(self) -> str:
        """Return the content type of the response."""
        return MEDIA_TYPES[self.name]

    @property
    def suffix(self) -> str:
        """Return the end of the file's name."""
        return _SEPARATORS[self.separator] if self.name == "csv" else self.name


def read_form(name: str, query: Mapping[str, str]) -> Form:
    """Read the form of an export from the address of its request. Raises `BadInput`."""
    if name not in MEDIA_TYPES:
        raise BadInput(problem=f'"{name}" is not an export format', advice=f"use {' or '.join(MEDIA_TYPES)}")
    form = Form(
        name,
        query.get("separator", ","),
        query.get("null", ""),
        harmless="harmless" in query,
        mark="mark" in query,
        names="names" in query,
    )
    if form.separator not in _SEPARATORS:
        raise BadInput(problem=f'"{form.separator}" cannot separate values', advice="use a comma, a semicolon or a tab")
    if form.null not in _NULLS:
        raise BadInput(problem=f'NULL cannot be written as "{form.null}"', advice=r"use an empty field or \N")
    return form


def attachment(name: str) -> dict[str, str]:
    """Write the header that makes the browser store a response under this name."""
    plain = "".join(character if character.isascii() and character.isprintable() else "_" for character in name)
    plain = plain.replace('"', "_").replace("\\", "_")
    encoded = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return {"Content-Disposition": f'attachment; filename="{plain}"{encoded}'}


async def export(database: AsyncDatabase, selection: Selection, form: Form) -> AsyncGenerator[bytes]:
    """Write the rows as CSV, as a JSON array of objects, or as lines with an object each."""
    if form.names:
        selection = with_names(selection)
    rows = _csv(database, selection, form) if form.name == "csv" else _json(database, selection, form)
    async for piece in in_pieces(rows):
        yield piece


async def in_pieces(rows: AsyncGenerator[Iterable[bytes]]) -> AsyncGenerator[bytes]:
    """Join the parts of rows into pieces of a size that is worth sending; a long row is never joined as a whole."""
    pending: list[bytes] = []
    size = 0
    async for parts in rows:
        for part in parts:
            pending.append(part)
            size += len(part)
            if size > PIECE_BYTES:
                yield b"".join(pending)
                pending, size = [], 0
    yield b"".join(pending)


# --- CSV --------------------------------------------------------------------------------------------------------------


async def _csv(database: AsyncDatabase, selection: Selection, form: Form) -> AsyncGenerator[Iterable[bytes]]:
    yield [csv_heading([column.name for column in selection.columns], form).encode()]
    # PostgreSQL joins the values of a line faster than Python does.
    fields = [func.coalesce(_csv_value(column, form), form.null) for column in selection.columns]
    starts = range(0, len(fields), _FIELDS_AT_ONCE)
    parts = (func.concat_ws(form.separator, *fields[start : start + _FIELDS_AT_ONCE]) for start in starts)
    line = func.concat(func.concat_ws(form.separator, *parts), "\r\n")
    async for piece in _pieces(database, _query(selection, [line.label("line")])):
        yield [piece]


def csv_heading(names: Sequence[str], form: Form) -> str:
    """Write the first line of a CSV file."""
    shown = (f"'{name}" if form.harmless and is_formula(name) else name for name in names)
    fields = (quoted(name) if set(name) & {form.separator, '"', "\r", "\n"} else name for name in shown)
    return ("\ufeff" if form.mark else "") + form.separator.join(fields) + "\r\n"


def is_formula(text: str) -> bool:
    """Return whether a spreadsheet may compute a text.

    With apostrophes before it too, so that an import can remove one of them again.
    """
    return text.lstrip("'").startswith(tuple(_FORMULA_CHARACTERS))


def is_harmless(text: str) -> bool:
    """Return whether a text has the apostrophe that an export puts before a formula."""
    return text.startswith("'") and is_formula(text)


def quoted(text: str) -> str:
    """Write a field in quotation marks."""
    return '"' + text.replace('"', '""') + '"'


def _csv_value(column: Column[Any], form: Form) -> ColumnElement[Any]:
    whole: ColumnElement[Any] = sqlalchemy.cast(column, Text)
    if kind_of(column) in _PLAIN:
        return whole
    # An array starts with a bracket.
    if form.harmless and kind_of(column) != "array":
        whole = func.regexp_replace(whole, f"^('*[{_FORMULA_CHARACTERS}])", r"'\1")
    field = '"' + func.replace(whole, '"', '""') + '"'
    if kind_of(column) in {"text", "array"}:
        return field
    return case((whole.op("~")(f'[{form.separator}"\r\n]'), field), else_=whole)


# --- JSON -------------------------------------------------------------------------------------------------------------


async def _json(database: AsyncDatabase, selection: Selection, form: Form) -> AsyncGenerator[Iterable[bytes]]:
    # Labelled, because SQLAlchemy shortens a name that has nearly the greatest length.
    rows = _query(selection, [column.label(column.name) for column in selection.columns]).subquery("exported")
    # Not the bare alias, which would be the column of that name if the table has one.
    row: ColumnElement[Any] = sqlalchemy.cast(func.row_to_json(literal_column("exported.*")), Text)
    if form.name == "jsonl":
        # Only between its tokens can a JSON text have line ends.
        line = func.concat(func.translate(row, "\r\n", "  "), "\n")
        async for piece in _pieces(database, select(line.label("line")).select_from(rows)):
            yield [piece]
        return
    is_empty = True
    async for piece in _pieces(database, select(func.concat(",\n", row).label("line")).select_from(rows)):
        yield [b"[" + piece[1:] if is_empty else piece]
        is_empty = False
    yield [b"[]\n" if is_empty else b"\n]\n"]


# --- Rows -------------------------------------------------------------------------------------------------------------


def _query(selection: Selection, columns: Sequence[ColumnElement[Any]]) -> Select[Any]:
    return selection.filtered(select(*columns).order_by(*sorted_by(selection.order)))


async def _pieces(database: AsyncDatabase, lines: Select[Any]) -> AsyncGenerator[bytes]:
    transaction = read_transaction(database, EXPORT_SECONDS)
    async with transaction as connection, aclosing(read_pieces(connection, lines)) as pieces:
        async for piece in pieces:
            yield piece
