"""The function of a `@query`: its parameters, and its calls with placeholders and None as their values."""

from __future__ import annotations

import inspect
from inspect import Parameter as Argument
from itertools import combinations
from typing import TYPE_CHECKING, Any

from sqlalchemy import ClauseElement
from sqlalchemy.exc import SQLAlchemyError

from tatame_db.errors import TatameError
from tatame_db.queries.errors import ParameterHasNoValue, ReadInvalid
from tatame_db.queries.parameters import TRUTH, VALUE, Parameter, parameter_names, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType, TracebackType

NO_NULLS: frozenset[str] = frozenset()
MAX_NULLABLE = 4
"""Up to this number of parameters that may be None, all combinations of them are tried where the read is defined."""

# Errors of this kind are mistakes. Others may be a function's way to refuse a combination of its arguments.
MISTAKES = (TatameError, SQLAlchemyError, TypeError, AttributeError, NameError)


class QueryFunction:
    """The function of a `@query`. Raises `ReadInvalid` if its parameters cannot be those of a read."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.name = function.__name__
        arguments = inspect.signature(function).parameters.values()
        for argument in arguments:
            if argument.kind in (Argument.VAR_POSITIONAL, Argument.VAR_KEYWORD):
                raise ReadInvalid(
                    problem=f"`{self.name}` takes any number of arguments, as `{argument}`",
                    advice="name each parameter; a list is one parameter: `User.id.in_(ids)`",
                )
        if inspect.iscoroutinefunction(function):
            raise ReadInvalid(
                problem=f"`{self.name}` is declared with `async`",
                advice="write `def`: it describes the read, and `await` comes where the read runs",
            )
        self.names = tuple(argument.name for argument in arguments)
        self.positional = tuple(one.name for one in arguments if one.kind is not Argument.KEYWORD_ONLY)
        """The parameters that a call may pass by position, in order."""
        self.defaults = {one.name: one.default for one in arguments if one.default is not Argument.empty}
        self._nullable = [one.name for one in arguments if one.default is None or "None" in str(one.annotation)]

    def call(self, nulls: frozenset[str]) -> Any:
        """Return what the function returns for parameters that are None, with placeholders for the others.

        Raises `ParameterHasNoValue` where Python needs the value of a placeholder, and what the function raises.
        """
        values = {name: None if name in nulls else Parameter(name, self.name) for name in self.names}
        positional = [values[name] for name in self.positional]
        named = {name: value for name, value in values.items() if name not in self.positional}
        try:
            return self._function(*positional, **named)
        except TypeError as error:
            explained = _explained(self.name, error, [name for name in self.names if name not in nulls])
            if explained is None:
                raise
            raise explained from error

    def definitions(self) -> Iterator[tuple[frozenset[str], Any]]:
        """Yield what the function returns for the combinations to try where it is defined.

        A combination for which it raises an error of its own is left out: calls with it raise that error.
        """
        for nulls in self._combinations():
            try:
                described = self.call(nulls)
            except MISTAKES:
                raise
            except Exception:
                if not nulls:
                    raise
                continue
            yield nulls, described

    def check_used(self, used: Iterable[set[str]]) -> None:
        """Raise `ReadInvalid` if a parameter is in none of these sets of used ones."""
        known = set[str]().union(*used)
        unused = [name for name in self.names if name not in known]
        for name in unused:
            raise ReadInvalid(
                problem=f"`{self.name}` does not use its parameter `{name}` in the read",
                advice="use it in a condition or limit, or remove it; to decide by other values than None, write a "
                "read for each case",
            )

    def _combinations(self) -> Iterator[frozenset[str]]:
        nullable = self._nullable
        sizes: Iterable[int] = range(len(nullable) + 1)
        if len(nullable) > MAX_NULLABLE:
            sizes = (0, 1, len(nullable))
        for size in sizes:
            yield from map(frozenset, combinations(nullable, size))


def _explained(function: str, error: TypeError, placeholders: list[str]) -> ParameterHasNoValue | None:
    """Return the error for a TypeError that is due to a placeholder."""
    frame = _innermost(error.__traceback__)
    expression = frame.f_locals.get("self") if frame is not None else None
    if isinstance(expression, ClauseElement) and frame is not None and frame.f_code.co_name == "__bool__":
        names = sorted(parameter_names(expression))
        return refusal(function, names[:1], "in `if`, `and`, `or` or `not`", TRUTH) if names else None
    if placeholders and Parameter.__name__ in str(error):
        return refusal(function, placeholders, "as a value of Python", VALUE)
    return None


def _innermost(trace: TracebackType | None) -> FrameType | None:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame if trace is not None else None
