"""The list of all lines: a check, its group, and from when on it warns or is bad; a table of the docs is made of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tatame_db.doctor.limits import LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tatame_db.doctor.examination import Examination
    from tatame_db.doctor.finding import Answer
    from tatame_db.doctor.limits import Limits

    Check = Callable[[Examination], Answer | None]

GROUPS = (
    "Connection",
    "Rights",
    "Schema",
    "Move",
    "Replication",
    "Room",
    "Sessions",
    "Tables",
    "Settings",
    "Backups",
    "Machine",
)
"""The groups, in the order in which they are shown."""


@dataclass(frozen=True)
class Line:
    """A line of the doctor."""

    name: str
    group: str
    check: Check
    """Looks, and returns `None` where the line has no meaning: no move, no replication, no embedded server."""
    warns: str
    bad: str
    right: str | None
    """The statement that gives a role the right to look, with `{role}` in it; `None` if every role may."""
    command: str | None
    """The command that needs the same rights on tables, as `roles.needs` has them."""
    offline: bool
    """Whether it looks at the machine alone, so that it needs no connection."""
    slow: bool
    """Whether it takes seconds, and comes after all others."""

    @property
    def meaning(self) -> str:
        """What is examined, in one sentence."""
        return (self.check.__doc__ or "").strip()

    def warns_when(self, limits: Limits = LIMITS) -> str:
        """When it warns, with the numbers; empty if it never does."""
        return self.warns.format(**asdict(limits))

    def bad_when(self, limits: Limits = LIMITS) -> str:
        """When it is bad, with the numbers; empty if it never is."""
        return self.bad.format(**asdict(limits))


registered: dict[str, Line] = {}
"""The lines by name, as far as their modules are imported; `checks.LINES` has all."""


def line(
    group: str,
    *,
    warns: str = "",
    bad: str = "",
    right: str | None = None,
    command: str | None = None,
    offline: bool = False,
    slow: bool = False,
) -> Callable[[Check], Check]:
    """Add a check to the list; the name of the function is the name of the line, and its docstring the meaning."""

    def add(check: Check) -> Check:
        name = check.__name__.replace("_", " ")
        registered[name] = Line(name, group, check, warns, bad, right, command, offline, slow)
        return check

    return add
