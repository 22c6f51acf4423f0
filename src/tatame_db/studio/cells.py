"""Cells as the browser shows them: a value as PostgreSQL writes it, a list, or the beginning of a long value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import ARRAY, ColumnElement, Text, and_, case, cast, func, not_, true

from tatame_db.studio.kinds import SHORT_KINDS, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Cut(msgspec.Struct, frozen=True, omit_defaults=True):
    """The beginning of a long value, and the number of characters of the whole, or of its bytes."""

    cut: str
    length: int
    bytes: bool = False
    """Whether `length` counts bytes: PostgreSQL would read all of a very long value to count its characters."""


_RESPONSE_CHARACTERS = 4_000_000
_LEAST_CHARACTERS = 20
_UTF8_BYTES = 4
"""The most for a character."""


def characters_of_a_cell(most: int, cells: int) -> int:
    """Return where to cut each cell of a response, by the number of its cells."""
    return max(_LEAST_CHARACTERS, min(most, _RESPONSE_CHARACTERS // max(1, cells)))


Cell = None | str | list[str | None] | Cut


def cell_expressions(columns: Iterable[ColumnElement[Any]], max_characters: int) -> list[ColumnElement[Any]]:
    """Write the expressions that `cells_of` reads: PostgreSQL cuts a long value, which never leaves the server."""
    return [expression for column in columns for expression in _expressions(column, max_characters)]


def _expressions(column: ColumnElement[Any], limit: int) -> list[ColumnElement[Any]]:
    whole: ColumnElement[Any] = cast(column, Text)
    length: ColumnElement[int]
    match kind_of(column):
        case kind if kind in SHORT_KINDS:
            return [whole.label(None)]
        case "array":
            length = func.length(whole)
            is_list = and_(length <= limit, is_plain_list(column))
            return [
                case((is_list, cast(column, ARRAY(Text)))).label(None),
                case((not_(is_list), func.left(whole, limit))).label(None),
                case((length > limit, length)).label(None),
            ]
        case "bytea":
            # Two digits for each byte, after `\\x`; not written for a whole value that may have a gigabyte.
            length = func.octet_length(column) * 2 + 2
            return [
                cast(func.substring(column, 1, limit // 2), Text).label(None),
                case((length > limit, length)).label(None),
            ]
        case _:
            whole = column if isinstance(column.type, Text) else whole
    length, size = func.length(whole), func.octet_length(whole)
    # Negative for bytes. The size of a stored text is known without reading it.
    known = case((size > _UTF8_BYTES * limit, -size), (length > limit, length))
    return [func.left(whole, limit).label(None), known.label(None)]


def is_plain_list(column: ColumnElement[Any]) -> ColumnElement[bool]:
    """Write whether an array is empty or a list that starts at 1; only the text of any other array is exact."""
    return func.coalesce(and_(func.array_ndims(column) == 1, func.array_lower(column, 1) == 1), true())


def cells_of(columns: Sequence[ColumnElement[Any]], values: Sequence[Any]) -> list[Cell]:
    """Read the cells of one row from the values of `cell_expressions` of the same columns."""
    [cells] = rows_of_cells(columns, [values])
    return cells


def rows_of_cells(columns: Sequence[ColumnElement[Any]], rows: Iterable[Sequence[Any]]) -> list[list[Cell]]:
    """Read the cells of several rows."""
    kinds = [kind_of(column) for column in columns]
    return [[_cell(kind, values) for kind in kinds] for values in map(iter, rows)]


def _cell(kind: str, values: Iterator[Any]) -> Cell:
    if kind in SHORT_KINDS:
        shown, length = next(values), None
    elif kind == "array":
        whole, start, length = next(values), next(values), next(values)
        shown = whole if start is None else start
    else:
        shown, length = next(values), next(values)
    return Cut(shown, abs(length), length < 0) if length else shown
