"""Cells as the browser shows them: a value as PostgreSQL writes it, a list, or the beginning of a long value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import ColumnElement, Text, case, cast, func

from tatame_db.studio.tables import kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Cut(msgspec.Struct, frozen=True):
    """The beginning of a long value, and the number of characters of the whole."""

    cut: str
    length: int


Cell = None | str | list[str | None] | Cut


def cell_expressions(columns: Iterable[ColumnElement[Any]], max_characters: int) -> list[ColumnElement[Any]]:
    """Write the expressions that `cells_of` reads: PostgreSQL cuts a long value, which never leaves the server."""
    return [expression for column in columns for expression in _expressions(column, max_characters)]


def _expressions(column: ColumnElement[Any], limit: int) -> list[ColumnElement[Any]]:
    whole = cast(column, Text)
    match kind_of(column):
        case "text":
            length = func.length(column)
            return [func.left(column, limit).label(None), case((length > limit, length)).label(None)]
        case "array":
            length = func.length(whole)
            return [
                case((length <= limit, column)).label(None),
                case((length > limit, func.left(whole, limit))).label(None),
                case((length > limit, length)).label(None),
            ]
        case _:
            return [whole.label(None)]


def cells_of(columns: Sequence[ColumnElement[Any]], values: Sequence[Any]) -> list[Cell]:
    """Read the cells of one row from the values of `cell_expressions` of the same columns."""
    [cells] = rows_of_cells(columns, [values])
    return cells


def rows_of_cells(columns: Sequence[ColumnElement[Any]], rows: Iterable[Sequence[Any]]) -> list[list[Cell]]:
    """Read the cells of several rows."""
    kinds = [kind_of(column) for column in columns]
    return [[_cell(kind, values) for kind in kinds] for values in map(iter, rows)]


def _cell(kind: str, values: Iterator[Any]) -> Cell:
    match kind:
        case "text":
            shown, length = next(values), next(values)
        case "array":
            whole, start, length = next(values), next(values), next(values)
            shown = start if length else whole
        case _:
            shown, length = next(values), None
    return Cut(shown, length) if length else shown
