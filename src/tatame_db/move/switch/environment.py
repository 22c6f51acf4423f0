"""The flags with which an app chooses the database of each table, as they fit the homes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.move.switch.homes import Home

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class FlagMismatch:
    """A table that the app uses in one database, while its home is the other, or neither."""

    table: str
    uses_target: bool
    home: Home

    def __str__(self) -> str:
        used = "target" if self.uses_target else "source"
        home = "neither database" if self.home is Home.NEITHER else f"the {self.home}"
        return f"{flag(self.table)} lets the app use {self.table} in the {used}, and its home is {home}"


def flag(table: str) -> str:
    """Return the name of the flag of a table."""
    return f"USE_POSTGRES_{table.upper()}"


def environment_lines(homes: Mapping[str, Home]) -> list[str]:
    """Return the lines for `.env` that fit the homes; a table without a home has none, and keeps its flag."""
    return [f"{flag(table)}={_uses_target(home)}" for table, home in homes.items() if home is not Home.NEITHER]


def _uses_target(home: Home) -> str:
    return str(home is Home.TARGET).lower()


def mismatches(use_postgres: Callable[[str], bool], homes: Mapping[str, Home]) -> list[FlagMismatch]:
    """Return the tables that the app uses where they take no writes.

    >>> mismatches(Settings.from_env().use_postgres, homes(connections))
    """
    wanted = {Home.SOURCE: False, Home.TARGET: True}
    return [
        FlagMismatch(table, uses_target, home)
        for table, home in homes.items()
        if (uses_target := use_postgres(table)) is not wanted.get(home)
    ]
