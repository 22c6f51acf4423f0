"""Filters: JSON in the address of a page, read as a condition with bound values."""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from sqlalchemy import ARRAY, ColumnElement, Text, and_, any_, bindparam, cast, false, func, or_, true

from tatame_db.studio.errors import BadInput
from tatame_db.studio.kinds import kind_of
from tatame_db.studio.tables import column_facts, column_named, typed_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Column, Table

    Compare = Callable[[Column[Any], Any], ColumnElement[bool]]

T = TypeVar("T")
_MAX_CONDITIONS = 50


def condition(table: Table, text: str) -> ColumnElement[bool]:
    """Read a filter in JSON. Raises `BadInput`, `ColumnNotFound`."""
    try:
        node = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(problem=f"the filter is not JSON: {error}") from None
    return _Reader(table).read(node)


class _Reader:
    def __init__(self, table: Table) -> None:
        self.table = table
        self.remaining = _MAX_CONDITIONS

    def read(self, node: Any) -> ColumnElement[bool]:
        self.remaining -= 1
        if self.remaining < 0:
            raise BadInput(problem=f"the filter has more than {_MAX_CONDITIONS} conditions")
        parts = _as(dict[str, Any], node, _malformed())
        if parts.keys() == {"all"}:
            return and_(true(), *self._read_each(parts["all"]))
        if parts.keys() == {"any"}:
            return or_(false(), *self._read_each(parts["any"]))
        if {"column", "op"} <= parts.keys() <= {"column", "op", "value"}:
            column = column_named(self.table, _as(str, parts["column"], _malformed()))
            return self._comparison(column, _as(str, parts["op"], _malformed()), parts.get("value"))
        raise _malformed()

    def _read_each(self, nodes: Any) -> list[ColumnElement[bool]]:
        return [self.read(node) for node in _as(list[Any], nodes, _malformed())]

    def _comparison(self, column: Column[Any], name: str, value: Any) -> ColumnElement[bool]:
        operators = OPERATORS[kind_of(column)] if column_facts(column).sortable else _AS_TEXT
        if name not in operators:
            raise BadInput(
                problem=f'column "{column.name}" has no operator "{name}"',
                advice=f"its operators are {', '.join(operators)}",
            )
        return operators[name](column, value)


def _malformed() -> BadInput:
    return BadInput(
        problem="the filter is malformed",
        advice='write {"all": […]}, {"any": […]} or {"column": …, "op": …, "value": …}',
    )


def _as(kind: type[T], value: Any, problem: BadInput) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise problem from None


# --- Values -----------------------------------------------------------------------------------------------------------


def _text(column: Column[Any], value: Any) -> str:
    problem = f'the value for "{column.name}" is not a string'
    return _as(str, value, BadInput(problem=problem, advice='write numbers as strings too: "7"'))


def _texts(column: Column[Any], value: Any) -> ColumnElement[Any]:
    problem = f'the value for "{column.name}" is not a list of strings'
    return bindparam(None, _as(list[str], value, BadInput(problem=problem, advice='write ["1", "2"]')), ARRAY(Text))


def _list(column: Column[Any], value: Any) -> ColumnElement[Any]:
    return cast(_texts(column, value), column.type)


def _pair(column: Column[Any], value: Any) -> tuple[str, str]:
    problem = f'the value for "{column.name}" is not a pair of strings'
    return _as(tuple[str, str], value, BadInput(problem=problem, advice='write ["1", "9"]'))


# --- Operators --------------------------------------------------------------------------------------------------------


def _compare(operation: Callable[[Any, Any], Any]) -> Compare:
    def compare(column: Column[Any], value: Any) -> ColumnElement[bool]:
        found: ColumnElement[bool] = operation(column, typed_value(column, _text(column, value)))
        return found

    return compare


def _contains(column: ColumnElement[Any], value: str) -> ColumnElement[bool]:
    return column.ilike(f"%{escape_pattern(value)}%", escape="\\")


def _like(before: str, after: str, *, exact: bool = False) -> Compare:
    def compare(column: Column[Any], value: Any) -> ColumnElement[bool]:
        pattern = before + escape_pattern(_text(column, value)) + after
        return column.like(pattern, escape="\\") if exact else column.ilike(pattern, escape="\\")

    return compare


def escape_pattern(text: str) -> str:
    """Escape the characters that have a meaning in a LIKE pattern."""
    return re.sub(r"([\\%_])", r"\\\1", text)


def _between(column: Column[Any], value: Any) -> ColumnElement[bool]:
    low, high = _pair(column, value)
    return column.between(typed_value(column, low), typed_value(column, high))


_NULLS: dict[str, Compare] = {
    "null": lambda column, _: column.is_(None),
    "not null": lambda column, _: column.is_not(None),
}
_ORDERED: dict[str, Compare] = {
    "is": _compare(operator.eq),
    # Unlike SQL's `<>`, this finds NULL too.
    "is not": _compare(lambda column, value: column.is_distinct_from(value)),
    "<": _compare(operator.lt),
    "<=": _compare(operator.le),
    ">": _compare(operator.gt),
    ">=": _compare(operator.ge),
    "between": _between,
    "in": lambda column, value: column == any_(cast(_texts(column, value), ARRAY(column.type))),
    **_NULLS,
}
_AS_TEXT: dict[str, Compare] = {
    "contains": lambda column, value: _contains(cast(column, Text), _text(column, value)),
    "is": lambda column, value: cast(column, Text) == _text(column, value),
    **_NULLS,
}
"""The operators of a type whose values PostgreSQL cannot compare."""
_BY_ORDER = (
    "integer",
    "timestamp",
    "other",
    "number",
    "enum",
    "date",
    "time",
    "uuid",
    "interval",
    "range",
    "bytea",
)
OPERATORS: dict[str, dict[str, Compare]] = {
    "text": {
        "contains": _like("%", "%"),
        "starts": _like("", "%"),
        "ends": _like("%", ""),
        **_ORDERED,
        "contains exact": _like("%", "%", exact=True),
        "starts exact": _like("", "%", exact=True),
    },
    **dict.fromkeys(_BY_ORDER, _ORDERED),
    "boolean": {name: _ORDERED[name] for name in ("is", "is not", "null", "not null")},
    "json": _AS_TEXT,
    "array": {
        "has": lambda column, value: column.contains(_list(column, [value])),
        "has any": lambda column, value: column.overlap(_list(column, value)),
        "empty": lambda column, _: func.cardinality(column) == 0,
        **_NULLS,
    },
}
"""The operators of each kind of column, in the order in which the browser offers them."""
