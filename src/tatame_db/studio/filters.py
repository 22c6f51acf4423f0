"""Which rows are meant: a filter from the address of a page, as a condition with bound values."""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from sqlalchemy import ARRAY, ColumnElement, Text, and_, any_, bindparam, cast, false, func, or_, true

from tatame_db.studio.answers import BadInput
from tatame_db.studio.tables import column_named, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Column, Table

    Compare = Callable[[Column[Any], Any], ColumnElement[bool]]

T = TypeVar("T")
_MAX_CONDITIONS = 50


def condition(table: Table, text: str) -> ColumnElement[bool]:
    """Read a filter in JSON. Raises `BadInput`."""
    try:
        node = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(f"the filter is no JSON: {error}") from None
    return _Reader(table).read(node)


class _Reader:
    def __init__(self, table: Table) -> None:
        self.table = table
        self.left = _MAX_CONDITIONS

    def read(self, node: Any) -> ColumnElement[bool]:
        self.left -= 1
        if self.left < 0:
            raise BadInput(f"the filter has more than {_MAX_CONDITIONS} conditions")
        parts = _as(dict[str, Any], node, _unreadable())
        if parts.keys() == {"all"}:
            return and_(true(), *self._each(parts["all"]))
        if parts.keys() == {"any"}:
            return or_(false(), *self._each(parts["any"]))
        if {"column", "op"} <= parts.keys() <= {"column", "op", "value"}:
            return self._compared(column_named(self.table, parts["column"]), parts["op"], parts.get("value"))
        raise _unreadable()

    def _each(self, nodes: Any) -> list[ColumnElement[bool]]:
        return [self.read(part) for part in _as(list[Any], nodes, _unreadable())]

    def _compared(self, column: Column[Any], name: object, value: Any) -> ColumnElement[bool]:
        known = OPERATORS[kind_of(column)]
        if not isinstance(name, str) or name not in known:
            raise BadInput(f"{column.name} has no operator {name!r}", fix=f"its operators are {', '.join(known)}")
        return known[name](column, value)


def _unreadable() -> BadInput:
    return BadInput(
        "a part of the filter cannot be read",
        fix='write {"all": […]}, {"any": […]} or {"column": …, "op": …, "value": …}',
    )


def _as(kind: type[T], value: Any, problem: BadInput) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise problem from None


# --- Values -----------------------------------------------------------------------------------------------------------


def read_as(column: Column[Any], value: str | None) -> ColumnElement[Any]:
    """Bind a value as text, and let PostgreSQL read it as the column's type, so that nothing is lost on the way."""
    return cast(bindparam(None, value, Text), column.type)


def _text(column: Column[Any], value: Any) -> str:
    problem = BadInput(f"the value for {column.name} is not a text in JSON", fix='write numbers as texts too: "7"')
    return _as(str, value, problem)


def _texts(column: Column[Any], value: Any) -> ColumnElement[Any]:
    problem = BadInput(f"the value for {column.name} is not a list of texts", fix='write it as ["1", "2"]')
    return bindparam(None, _as(list[str], value, problem), ARRAY(Text))


# --- Operators --------------------------------------------------------------------------------------------------------


def _by(compare: Callable[[Any, Any], Any]) -> Compare:
    def compared(column: Column[Any], value: Any) -> ColumnElement[bool]:
        found: ColumnElement[bool] = compare(column, read_as(column, _text(column, value)))
        return found

    return compared


def _like(before: str, after: str, *, exact: bool = False) -> Compare:
    def compared(column: Column[Any], value: Any) -> ColumnElement[bool]:
        pattern = before + escaped(_text(column, value)) + after
        return column.like(pattern, escape="\\") if exact else column.ilike(pattern, escape="\\")

    return compared


def escaped(text: str) -> str:
    """Take the special meaning from what LIKE would read as a pattern."""
    return re.sub(r"([\\%_])", r"\\\1", text)


def _between(column: Column[Any], value: Any) -> ColumnElement[bool]:
    problem = BadInput(f"the value for {column.name} is not a pair of texts", fix='write it as ["1", "9"]')
    low, high = _as(tuple[str, str], value, problem)
    return column.between(read_as(column, low), read_as(column, high))


_NULLS: dict[str, Compare] = {
    "null": lambda column, _: column.is_(None),
    "not null": lambda column, _: column.is_not(None),
}
_ORDERED: dict[str, Compare] = {
    "is": _by(operator.eq),
    # Whoever looks for what is not so means NULL too.
    "is not": _by(lambda column, value: column.is_distinct_from(value)),
    "<": _by(operator.lt),
    "<=": _by(operator.le),
    ">": _by(operator.gt),
    ">=": _by(operator.ge),
    "between": _between,
    "in": lambda column, value: column == any_(cast(_texts(column, value), ARRAY(column.type))),
    **_NULLS,
}
OPERATORS: dict[str, dict[str, Compare]] = {
    "text": {
        "contains": _like("%", "%"),
        "starts": _like("", "%"),
        "ends": _like("%", ""),
        **_ORDERED,
        "contains exact": _like("%", "%", exact=True),
        "starts exact": _like("", "%", exact=True),
    },
    "integer": _ORDERED,
    "timestamp": _ORDERED,
    "array": {
        "has": lambda column, value: column.contains(_texts(column, [value])),
        "has any": lambda column, value: column.overlap(_texts(column, value)),
        "empty": lambda column, _: func.cardinality(column) == 0,
        **_NULLS,
    },
}
"""What a column of each kind can be asked, in the order in which the browser offers it."""
