"""The way that rows of tables take from their home to their follower, in either direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tatame_db.move.connection import MoveConnection


@dataclass(frozen=True)
class Applied:
    """The number of rows of a table that the follower deleted, and that it wrote."""

    table: str
    deleted: int
    written: int


class Flow(Protocol):
    """Makes rows of the follower equal to those of the home, by the same mapping and conversions as a copy."""

    home: MoveConnection
    """Reads: between two calls of `begin`, every query sees the home at one moment."""
    follower: MoveConnection
    """Writes; its session passes the triggers that refuse other writers."""

    @property
    def tables(self) -> list[str]:
        """The tables that take this way, in the order of the move."""
        ...

    @property
    def home_keys(self) -> dict[str, str]:
        """The column of the home by whose text `apply` finds the rows of a table; without tables that have none."""
        ...

    def begin(self) -> None:
        """Take a new moment of the home; read the catalogues again, because a schema may have changed.

        Raises `TablesLocked`, `TablesChanging`, `ConnectionLost`.
        """
        ...

    def apply(self, keys: Mapping[str, Collection[str]]) -> list[Applied]:
        """Make the rows with these ids, as texts, equal on the follower, whether the home still has them or not.

        All tables in one transaction, which the caller commits. Raises `WholeComparisonNeeded` if the rows alone do
        not decide what the follower must hold; the transaction is rolled back then.
        """
        ...

    def compare_whole(self, tables: Collection[str]) -> list[Applied]:
        """Find the rows of these tables that differ, by digests, and make them equal; commits."""
        ...


class WholeComparisonNeeded(Exception):
    """The changed rows alone do not decide what the follower must hold: an obstacle, an exclusion, or a conflict."""

    def __init__(self, tables: Collection[str], reason: str) -> None:
        super().__init__(f"{', '.join(sorted(tables))}: {reason}")
        self.tables, self.reason = tables, reason
