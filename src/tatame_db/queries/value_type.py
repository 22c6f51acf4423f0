"""What a column type accepts, and how a value is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class Refused(Exception):
    """A value that a column cannot hold. The problem names types and limits, never the value."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


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
    return Refused(
        f"is of the wrong type: expected {expected}, got `{'None' if value is None else type(value).__name__}`"
    )
