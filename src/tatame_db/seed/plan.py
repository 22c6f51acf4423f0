"""The numbers that a seed is made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from tatame_db.errors import TatameError, fact

# Beyond these, a number is a typing error or leaves the calendar.
_LIMITS: dict[str, tuple[Any, Any]] = {
    "gyms": (1, 1_000),
    "members": (0, 5_000),
    "days": (0, 3_650),
    "until": (date(2000, 1, 1), date(2999, 12, 31)),
}


@fact
class SeedPlanInvalid(TatameError):
    """A number of the plan is outside its limits."""

    problems: dict[str, str]
    """The allowed range and the value, by the name of the field."""
    what = "{reasons}"
    fix = "omit the option to use its default, as in `tatame-db seed`"

    @property
    def reasons(self) -> str:
        """The problems as one sentence."""
        return "; ".join(f"{name} {problem}" for name, problem in self.problems.items())


@dataclass(frozen=True)
class SeedPlan:
    """The size of the sample data and the day on which it ends. Raises `SeedPlanInvalid`.

    >>> SeedPlan(gyms=1, members=20, days=30, until=date(2026, 3, 1)).first_day
    datetime.date(2026, 1, 30)
    """

    gyms: int = 3
    members: int = 60
    """Students of each gym, in every state of approval."""
    days: int = 120
    """The number of days with check-ins; the last one is the day before `until`."""
    random_seed: int = 1
    until: date = field(default_factory=lambda: datetime.now(UTC).date())
    """The data ends on this day at 00:00 UTC: no check-in or message is dated later."""

    def __post_init__(self) -> None:
        problems = {
            name: f"must be from {low} to {high}, not {getattr(self, name)}"
            for name, (low, high) in _LIMITS.items()
            if not low <= getattr(self, name) <= high
        }
        if problems:
            raise SeedPlanInvalid(problems=problems)

    @property
    def first_day(self) -> date:
        """The first day that may have check-ins."""
        return self.until - days(self.days)

    @property
    def last_day(self) -> date:
        """The last day on which anything happens."""
        return self.until - days(1)

    @property
    def launch(self) -> date:
        """The day on which the app was released: two years before the first check-in."""
        return self.first_day - days(730)


def days(count: int) -> timedelta:
    """Return a duration of whole days."""
    return timedelta(days=count)
