"""The function of a `@query`: its parameters, and its calls with placeholders and None as their values."""

from __future__ import annotations

import inspect
from inspect import Parameter as Argument
from itertools import combinations
from typing import TYPE_CHECKING, Any

from sqlalchemy import ClauseElement, Column
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.operators import ColumnOperators

from tatame_db.errors import TatameError
from tatame_db.queries.errors import ParameterHasNoValue, ParametersDiffer, ReadInvalid
from tatame_db.queries.parameters import CHOICE, COMPARISON, TRUTH, Parameter, parameter_names, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import FrameType, TracebackType

NO_NULLS: frozenset[str] = frozenset()
MAX_NULLABLE = 4
"""Up to this number of parameters that may be None, all combinations of them are tried where the read is defined."""

ORDERINGS = (operators.lt, operators.le, operators.gt, operators.ge)
"""The operators with which `min`, `max` and `sorted` compare."""

# Errors of this kind are mistakes. Others may be a function's way to refuse a combination of its arguments.
MISTAKES = (TatameError, SQLAlchemyError, TypeError, AttributeError, NameError)


class QueryFunction:
    """The function of a `@query`. Raises `ReadInvalid` if its parameters cannot be those of a read."""

    def __init__(self, function: Callable[..., Any]) -> None:
        if not inspect.isfunction(function):
            raise ReadInvalid(
                problem=f"`query` received a value of type `{type(function).__name__}` in place of a function",
                advice="write `@query` above a function that returns a read: `return read(User).where(…)`",
            )
        self._function = function
        self.name = function.__name__
        arguments = inspect.signature(function).parameters.values()
        if next(iter(arguments), inspect.Parameter("_", Argument.KEYWORD_ONLY)).name in ("self", "cls"):
            raise ReadInvalid(
                problem=f"`{self.name}` is a method: its parameters would include the object",
                advice="declare it outside of the class, or without `self`: `@query` makes a value, not a method",
            )
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
        except ParametersDiffer as error:
            raise ReadInvalid(
                problem=f"`{self.name}` runs a read, before its parameters have values",
                advice=f"return the description, and run it where you need its rows: `{self.name}.all(db, …)`",
            ) from error
        except (TypeError, AttributeError, SQLAlchemyError, ReadInvalid) as error:
            explained = self._explained(error, nulls)
            if explained is None:
                raise
            raise explained from error

    def _explained(self, error: Exception, nulls: frozenset[str]) -> TatameError | None:
        """Return the error to raise in place of one of the function, if its cause is known."""
        if isinstance(error, TypeError):
            explained = _due_to_placeholder(self.name, error, [name for name in self.names if name not in nulls])
            if explained is not None:
                return explained
        problem = error.problem if isinstance(error, ReadInvalid) else str(error).partition("\n")[0]
        if nulls and _is_due_to_none(error):
            names = ", ".join(f"`{name}`" for name in self.names if name in nulls)
            return ReadInvalid(
                problem=f"`{self.name}` fails where {names} {'is' if len(nulls) == 1 else 'are'} None: {problem}",
                advice=f"write `if {min(nulls, key=self.names.index)} is not None:` before this use, or declare a "
                "parameter that is never None",
            )
        return named(error, self.name) if isinstance(error, ReadInvalid) else None

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
            may_decide = name in self._nullable
            raise ReadInvalid(
                problem=f"`{self.name}` does not use its parameter `{name}` in the read"
                + (", at most whether it is None: all its other values would have the same effect" * may_decide),
                advice="use it in a condition or limit, or remove it; for a flag, declare "
                f"`{name}: bool` and write `User.deleted_at.is_(None) | {name}`; to decide by other values than None, "
                "write a read for each case",
            )

    def add_defaults(self, defaults: Mapping[str, Any]) -> None:
        """Add the defaults of a read that the function extends, for parameters that are not its own."""
        self.defaults.update({name: value for name, value in defaults.items() if name not in self.names})

    def _combinations(self) -> Iterator[frozenset[str]]:
        nullable = self._nullable
        sizes: Iterable[int] = range(len(nullable) + 1)
        if len(nullable) > MAX_NULLABLE:
            sizes = (0, 1, len(nullable))
        for size in sizes:
            yield from map(frozenset, combinations(nullable, size))


def named(error: ReadInvalid, name: str) -> ReadInvalid:
    """Return the error of a description with the name of its read."""
    return ReadInvalid(problem=f"`{name}`: {error.problem}", advice=error.advice)


def _is_due_to_none(error: Exception) -> bool:
    """Return whether None may be the cause of an error that a function does not raise for placeholders."""
    if isinstance(error, AttributeError):
        return error.obj is None and hasattr(ColumnOperators, str(error.name))
    if not isinstance(error, TypeError):
        return True
    frame = _innermost(error.__traceback__)
    raised_in = frame.f_globals.get("__name__", "") if frame is not None else ""
    return "NoneType" in str(error) or str(raised_in).startswith("sqlalchemy.")


def _due_to_placeholder(function: str, error: TypeError, placeholders: list[str]) -> ParameterHasNoValue | None:
    """Return the error for a TypeError that is due to a placeholder."""
    frame = _innermost(error.__traceback__)
    expression = frame.f_locals.get("self") if frame is not None else None
    if isinstance(expression, ClauseElement) and frame is not None and frame.f_code.co_name == "__bool__":
        names = sorted(parameter_names(expression))
        if names and _compares_values(expression):
            return refusal(function, names[:1], "in a comparison of Python, as in `if` or `min`", COMPARISON)
        return refusal(function, names[:1], "in `if`, `and`, `or` or `not`", TRUTH) if names else None
    if placeholders and Parameter.__name__ in str(error):
        return refusal(function, placeholders, "as a value of Python", CHOICE)
    return None


def _compares_values(expression: ClauseElement) -> bool:
    """Return whether an expression orders values without a column, such as `min(size, 100)`."""
    has_column = any(isinstance(part, Column) for part in visitors.iterate(expression))
    return getattr(expression, "operator", None) in ORDERINGS and not has_column


def _innermost(trace: TracebackType | None) -> FrameType | None:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame if trace is not None else None
