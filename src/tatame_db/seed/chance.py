"""Random draws that are the same in every Python."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from random import Random
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class Chance:
    """A source of draws for one topic, so that more rows of one table change nothing in another.

    Everything is made from `random()`: it is the only method of `Random` whose numbers Python promises to keep.
    """

    def __init__(self, *topic: object) -> None:
        self.draw = Random("/".join(str(part) for part in topic)).random  # noqa: S311, nothing here is a secret

    def under(self, share: float) -> bool:
        """Return true in this share of the draws."""
        return self.draw() < share

    def number(self, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`, both included."""
        return low + int(self.draw() * (max(low, high) - low + 1))

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return options[int(self.draw() * len(options))]

    def letters(self, count: int) -> str:
        """Return letters and digits, as the ids of other services have them."""
        return "".join(self.pick(_ALPHABET) for _ in range(count))

    def moment(self, first: date, last: date) -> datetime:
        """Return a second from 8:00 to 20:00 in Brazil on one of these days, as naive UTC."""
        day = date.fromordinal(self.number(first.toordinal(), last.toordinal()))
        return datetime.combine(day, time(11)) + timedelta(seconds=self.number(0, 12 * 3600 - 1))
