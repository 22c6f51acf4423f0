"""Placeholders: what the function of a `@query` receives as its arguments, because their values come with each call.

A placeholder becomes a bound parameter wherever SQL is made of it. It refuses everything else: Python that decides or
computes by a placeholder would do so once, for all calls, and return wrong rows.
"""

from __future__ import annotations

import sys
from datetime import datetime, time, timedelta
from decimal import Decimal
from inspect import currentframe
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from sqlalchemy import BindParameter, func
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.operators import ColumnOperators

from tatame_db.queries.errors import ParameterHasNoValue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

    from sqlalchemy import ClauseElement
    from sqlalchemy.sql.operators import OperatorType

# It accepts plain text alone, and there is no public way to pass it SQL.
ESCAPING_CODE: Any = vars(operators)["_escaped_like_impl"].__code__

TEXT = 'build the text in SQL, such as `"%" + {name} + "%"` or `User.first_name.icontains({name}, autoescape=True)`'
NUMBER = "pass the number as it is to be used, or compute in SQL, such as `{name} + 1`; for pages write `.page(…)`"
TRUTH = (
    "decide by None, which is passed as it is: `if {name} is not None:`; combine conditions in `where`, with `and_` or "
    "`or_`; to decide by another value, write a read for each case"
)
COMPARISON = (
    "compare where you call it, and pass the result, such as `{function}.all(db, {name}=min({name}, 100))`; to decide "
    "by the value, write a read for each case"
)
SEQUENCE = "use the whole list in SQL, `User.id.in_({name})`; to use one item, make it a parameter of its own"
LONGER_LIST = "pass the whole list: `{function}.all(db, {name}=[*{name}, …])`"
SLICE = (
    "use a function of SQL, such as `func.left({name}, 3)`, or pass the part: `{function}.all(db, {name}={name}[:3])`"
)
ITEM = "make each item that the read needs a parameter of its own, and pass it where you call `{function}`"
LENGTH = "use the length in SQL, `func.length({name})` of a text, or make it a parameter of its own"
VALUE = "pass the value as SQL is to use it: `{function}.all(db, {name}=…)`"
CHOICE = (
    "compute with the value where you call `{function}`, and pass the result; to choose by it, such as an order, write "
    'a read for each choice, and choose where you call: `{{"name": by_name, "date": by_date}}[{name}].all(db)`'
)

SQL_METHODS = {
    "capitalize": "initcap",
    "lower": "lower",
    "lstrip": "ltrim",
    "rstrip": "rtrim",
    "strip": "trim",
    "title": "initcap",
    "upper": "upper",
}
"""Methods of text, and the functions of SQL that do the same or nearly so."""
METHODS_OF = (str, bytes, datetime, time, timedelta, Decimal, UUID, list, set)


class Parameter(ColumnOperators):
    """A parameter of a `@query` function while the function describes the read.

    It cannot notice `is True` and `type(…)`, which therefore answer for the placeholder.
    """

    __slots__ = ("_bind", "_function", "_name")

    def __init__(self, name: str, function: str) -> None:
        self._name = name
        self._function = function
        self._bind = _Bind(name, self)

    def __clause_element__(self) -> BindParameter[Any]:
        """Return what SQLAlchemy puts into SQL."""
        return self._bind

    def operate(self, op: OperatorType, *other: Any, **kwargs: Any) -> Any:
        """Return SQL for an operator."""
        self._check_operand(op, other)
        return op(cast("Any", self._bind), *other, **kwargs)

    def reverse_operate(self, op: OperatorType, other: Any, **kwargs: Any) -> Any:
        """Return SQL for an operator to the right of a value."""
        self._check_operand(op, (other,))
        return op(other, cast("Any", self._bind), **kwargs)

    def _check_operand(self, op: OperatorType, other: tuple[Any, ...]) -> None:
        if op is operators.add and isinstance(other[0], list | tuple):
            raise self._refusal("as a list", LONGER_LIST)

    def _refusal(self, use: str, advice: str) -> ParameterHasNoValue:
        return refusal(self._function, [self._name], use, advice)

    # `isinstance` asks for it.
    @property
    def __class__(self) -> type:
        if _is_escaping():
            return str
        if _app_calls():
            raise self._refusal("in `isinstance`", TRUTH)
        return Parameter

    @__class__.setter
    def __class__(self, _: type) -> None:
        raise TypeError("a placeholder stays one")

    def __bool__(self) -> bool:
        raise self._refusal("in `if`, `and`, `or` or `not`", TRUTH)

    def __hash__(self) -> int:
        if _app_calls():
            raise self._refusal("as a key of a dictionary or set", CHOICE)
        return id(self)

    def __repr__(self) -> str:
        if _app_calls():
            raise self._refusal("as text", TEXT)
        return f"the parameter {self._name}"

    def __str__(self) -> str:
        raise self._refusal("as text", TEXT)

    def __format__(self, _: str) -> str:
        raise self._refusal("as text", TEXT)

    def __bytes__(self) -> bytes:
        raise self._refusal("as bytes", VALUE)

    def __fspath__(self) -> str:
        raise self._refusal("as a path", VALUE)

    def __int__(self) -> int:
        raise self._refusal("as a number", NUMBER)

    def __float__(self) -> float:
        raise self._refusal("as a number", NUMBER)

    def __complex__(self) -> complex:
        raise self._refusal("as a number", NUMBER)

    def __index__(self) -> int:
        raise self._refusal("as a number", NUMBER)

    def __round__(self, _: Any = None) -> int:
        raise self._refusal("as a number", NUMBER)

    def __abs__(self) -> int:
        raise self._refusal("as a number", NUMBER)

    def __len__(self) -> int:
        raise self._refusal("in `len`", LENGTH)

    # Without `__iter__`, which would make it a list for SQLAlchemy, Python iterates by this one.
    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            raise self._refusal("in Python, with `[…]`", SLICE)
        if not isinstance(key, int):
            raise self._refusal("in Python, with `[…]`", ITEM)
        raise self._refusal("as a sequence", SEQUENCE)

    def __contains__(self, _: Any) -> Any:
        raise self._refusal("as a sequence", SEQUENCE)

    def __call__(self, *_: Any, **__: Any) -> Any:
        """Refuse to be a function."""
        raise self._refusal("as a function", VALUE)

    def __getattr__(self, name: str) -> Any:
        if name == "replace" and _is_escaping():
            return _Escaped(self._bind).replace
        # SQLAlchemy asks objects for the attributes that it knows.
        if name.startswith("_") or not _app_calls():
            raise AttributeError(name)
        raise self._refusal(f"in Python, with `.{name}`", _advice_for(name))


class _Bind(BindParameter[Any]):
    """The bound parameter of a placeholder."""

    inherit_cache = True

    def __init__(self, name: str, placeholder: Parameter) -> None:
        super().__init__(name)
        self.placeholder = placeholder

    def __hash__(self) -> int:
        return _Hash(id(self), self.placeholder)


class _Hash(int):
    """A hash that cannot be compared in Python.

    SQLAlchemy gives `User.id == x` a truth value, by comparing the hashes of both operands: `if User.id == x:` would
    always be false, and `User.id == x and User.role == y` would be its second half alone.
    """

    def __new__(cls, value: int, placeholder: Parameter) -> _Hash:
        made = super().__new__(cls, value)
        made.placeholder = placeholder
        return made

    placeholder: Parameter

    def __eq__(self, _: object) -> bool:
        self.placeholder.__bool__()
        return False

    def __ne__(self, other: object) -> bool:
        return self == other

    __hash__ = int.__hash__


class _Escaped:
    """A parameter in which `icontains(x, autoescape=True)` and the like escape wildcards, as if it were text."""

    def __init__(self, clause: ClauseElement) -> None:
        self._clause = clause

    def __clause_element__(self) -> ClauseElement:
        return self._clause

    def replace(self, old: str, new: str) -> _Escaped:
        return _Escaped(func.replace(self._clause, old, new))


def _is_escaping() -> bool:
    """Return whether the caller of the method that asks is SQLAlchemy's function that escapes wildcards."""
    frame = currentframe()
    caller = frame and frame.f_back and frame.f_back.f_back
    return caller is not None and caller.f_code is ESCAPING_CODE


def refusal(function: str, names: list[str], use: str, advice: str) -> ParameterHasNoValue:
    """Return the error for a use of a parameter in Python; where it is not known which, `names` are those it may be."""
    advice = advice.format(name=names[0], function=function)
    return ParameterHasNoValue(function=function, parameters=tuple(names), use=use, advice=advice)


def _advice_for(attribute: str) -> str:
    """Return the advice for an attribute of a parameter."""
    is_method = any(callable(getattr(kind, attribute, None)) for kind in METHODS_OF)
    used = f"{{name}}.{attribute}{'(…)' if is_method else ''}"
    passed = f"pass the result: `{{function}}.all(db, {{name}}={used})`"
    if attribute in SQL_METHODS:
        return f"use the function of SQL, `func.{SQL_METHODS[attribute]}({{name}})`, or {passed}"
    if is_method:
        return passed
    return f"{passed}; of an object with several values, make each that the read needs a parameter of its own"


def _app_calls() -> bool:
    """Return whether code of the app called the method that asks, itself or by the standard library."""
    frame = currentframe()
    for _ in range(2):
        frame = frame and frame.f_back
    while frame is not None and _package(frame) in sys.stdlib_module_names:
        frame = frame.f_back
    return frame is None or _package(frame) not in ("sqlalchemy", "tatame_db")


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def parameter_names(clause: ClauseElement) -> set[str]:
    """Return the names of the parameters in a clause: those of a `@query`, and each `bindparam` without a value."""
    return set[str]().union(*map(_names_of, visitors.iterate(clause)))


def _names_of(element: Any) -> set[str]:
    if not isinstance(element, BindParameter):
        return set()
    return {element.key} if element.required else set(placeholders_in(cast("Any", element).value))


def placeholders_in(value: Any) -> Iterator[str]:
    """Yield the names of placeholders in a value that is sent as it is, such as the list of `contains([user_id])`."""
    if isinstance(value, Parameter):
        yield value.__clause_element__().key
    elif isinstance(value, list | tuple):
        for item in cast("list[object]", value):
            yield from placeholders_in(item)


def filled(value: Any, values: Mapping[str, Any]) -> Any:
    """Return such a value with the values of a call in the places of its placeholders."""
    if isinstance(value, Parameter):
        return values[value.__clause_element__().key]
    if isinstance(value, list | tuple):
        return [filled(item, values) for item in cast("list[object]", value)]
    return value


def parameter_name(value: Any) -> str | None:
    """Return the name of a parameter, whether a placeholder or a `bindparam`; `None` for anything else."""
    bind: Any = value.__clause_element__() if isinstance(value, Parameter) else value
    return str(bind.key) if isinstance(bind, BindParameter) else None
