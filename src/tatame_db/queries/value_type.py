"""What a column type accepts, and how a value is refused."""

from __future__ import annotations

from collections.abc import Generator, KeysView, Mapping, ValuesView
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Callable


class Refused(Exception):
    """A value that a column cannot hold. The problem names types and limits, never the value."""

    def __init__(self, problem: str, form: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.form = form
        """Code that makes a value that is accepted, with `{}` in the place of this one."""


@dataclass(frozen=True)
class ValueType:
    """The values of a column type."""

    accept: Callable[[Any], Any]
    """Returns an equal value of a plain type; raises `Refused`. It is not called with `None`, which is NULL."""
    text: Callable[[Any], Any] | None = None
    """Writes an accepted value as text, or as lists of it, as PostgreSQL's output does if that is cheap.

    `None` if JSON and psycopg write the value itself.
    """
    checked_by: Any = None
    """The type with which msgspec checks values, as strictly as `accept` and faster; `None` if there is none."""
    takes_none: bool = False
    """Whether `None` is a value: JSON has a null of its own."""

    def written(self, value: Any) -> Any:
        """Return what JSON and psycopg write for a value; raises `Refused`."""
        accepted = self.accept(value)
        return accepted if self.text is None else self.text(accepted)


# The type that a column expects and that of the value, and the conversion that is meant.
FORMS: list[tuple[str, type | tuple[type, ...], str]] = [
    ("`list`", (set, frozenset, Mapping, Generator, KeysView, ValuesView, range), "list({})"),
    ("`str`", Enum, "{}.value"),
    ("`str`", (date, time), "{}.isoformat()"),
    ("`str`", (int, UUID, Decimal), "str({})"),
    ("`int`", str, "int({})"),
    ("`float`", (str, Decimal), "float({})"),
    ("`Decimal`", (float, str), "Decimal(str({}))"),
    ("`UUID`", str, "UUID({})"),
    ("`bytes`", str, "{}.encode()"),
    ("`datetime`", str, "datetime.fromisoformat({})"),
    ("`datetime`", date, "datetime.combine({}, time())"),
    ("`date`", datetime, "{}.date()"),
    ("`date`", str, "date.fromisoformat({})"),
    ("`time`", str, "time.fromisoformat({})"),
    ("`timedelta`", (int, float), "timedelta(seconds={})"),
]


def check_text(value: Any) -> str:
    """Return a text, or one of a subclass such as escaped markup, as plain text; raises `Refused` for what none is."""
    if not isinstance(value, str):
        raise wrong_type("`str`", value)
    # An `Enum` with text is its text, as psycopg sees it; `str()` would return its name.
    text = str.__str__(value)
    if "\0" in text:
        raise Refused("contains NUL, which PostgreSQL's text cannot hold")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Refused("contains half of a surrogate pair, which is not text") from None
    return text


def wrong_type(expected: str, value: object) -> Refused:
    """Return the refusal of a value of another type."""
    found = "None" if value is None else type(value).__name__
    is_truth = isinstance(value, bool)
    forms = (form for name, kinds, form in FORMS if name == expected and isinstance(value, kinds) and not is_truth)
    return Refused(f"is of the wrong type: expected {expected}, got `{found}`", next(forms, None))
