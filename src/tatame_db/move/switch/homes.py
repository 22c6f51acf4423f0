"""The home of each table, derived from the fences of both databases and never guessed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from tatame_db.errors import TatameError, fact
from tatame_db.move.connection import Connections
from tatame_db.move.switch.fence import FenceDamaged, fences
from tatame_db.move.switch.token import token_hash, token_of
from tatame_db.schema import phases

if TYPE_CHECKING:
    from collections.abc import Collection

    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.switch.fence import Fence


class Home(StrEnum):
    """The database that takes the writes of a table."""

    SOURCE = "source"
    TARGET = "target"
    NEITHER = "neither"
    """A switch or a way back was interrupted between its two commits: both refuse writes."""


@fact
class BothHomesOpen(TatameError):
    """Tables that have moved take writes in both databases, because a person removed or disabled triggers."""

    tables: list[str]
    what = "both databases take writes to {tables}: the triggers of the source that refuse them are gone or disabled"
    means = "Rows may have been written to both databases since then. Nothing was changed now."
    fix = (
        "stop the app's writes to the source, look with `tatame-db move verify` for rows that only the source has, and"
        " write them to the target; then run `tatame-db move switch`, which closes the source again"
    )


@fact
class MovedElsewhere(TatameError):
    """The source refuses writes to tables that have moved to another target, or to one whose record is lost."""

    tables: list[str]
    what = "the source says that these tables have moved, and not to this target: {tables}"
    means = "Nothing was changed."
    fix = (
        "set `DATABASE_URL` to the target that they have moved to; if it no longer exists, drop the triggers"
        " `tatame_move_moved` and `tatame_move_moved_row` of these tables on the source"
    )


@fact
class TablesMoved(TatameError):
    """A command would overwrite tables whose home is the target."""

    tables: list[str]
    others: list[str]
    what = "the home of {tables} is the target: the source has only rows from before the switch"
    means = "Nothing was copied; a copy would overwrite what was written to the target since."
    fix = "{advice}`{command}` makes the source their home again, with all rows"

    @property
    def advice(self) -> str:
        """How to copy the other tables, if there are any."""
        return f"copy the other tables with `tatame-db move copy {' '.join(self.others)}`; " if self.others else ""

    @property
    def command(self) -> str:
        """The command, with the tables unless they are all."""
        tables = [] if len(self.tables) == len(phases()) else self.tables
        return " ".join(["tatame-db move back", *tables])


@fact
class SwitchUnfinished(TatameError):
    """A switch or a way back was interrupted between its two commits."""

    tables: list[str]
    what = "a switch of {tables} was interrupted: neither database takes writes to them"
    means = (
        "The switch itself lost no row, and nothing was changed now. If a database was restored from a backup since,"
        " compare first: `tatame-db move verify`."
    )
    fix = (
        "run `tatame-db move switch {arguments}` to let the target take the writes, or `tatame-db move back"
        " {arguments}` to let the source take them"
    )

    @property
    def arguments(self) -> str:
        """The tables, as they are typed."""
        return " ".join(self.tables)


def homes(connections: Connections) -> dict[str, Home]:
    """Return the home of each table of the models.

    Over REST the fences of the source are out of reach, and the target alone decides. Raises `FenceDamaged`,
    `BothHomesOpen`, `MovedElsewhere`.
    """
    if connections.source.rest:
        return homes_of_target(connections.target)
    moved, following = fences(connections.source), fences(connections.target)
    closed_source = {table: fence for table, fence in moved.items() if fence.closed}
    # A role that may only read has no token, and the triggers of the target have the same hash.
    token = token_of(connections.target)
    own = {fence.token_hash for fence in following.values()}
    if token:
        own.add(token_hash(token))
    if elsewhere := [table for table, fence in closed_source.items() if fence.token_hash not in own]:
        raise MovedElsewhere(tables=elsewhere)
    found = {table: _home(table, closed_source, following) for table in phases()}
    # An optional table that the source lacks takes no writes there.
    existing = _existing(connections.source)
    if both := [t for t, home in found.items() if home is None and t in existing]:
        raise BothHomesOpen(tables=both)
    return {table: home or Home.TARGET for table, home in found.items()}


def homes_of_target(target: MoveConnection) -> dict[str, Home]:
    """Return the home of each table as far as the target alone knows it: `NEITHER` shows as `SOURCE`.

    Raises `FenceDamaged`.
    """
    following = fences(target)
    return {
        table: Home.TARGET if table in following and not following[table].closed else Home.SOURCE for table in phases()
    }


@dataclass(frozen=True)
class KnownHomes:
    """The homes as far as they are known; none if the fences contradict each other, which `problem` describes."""

    homes: dict[str, Home]
    problem: str | None = None
    fenced: dict[str, Home] = field(default_factory=dict[str, Home])
    """Those of the tables that have ever followed the source, as far as the target knows."""

    @property
    def moved(self) -> list[str]:
        """The tables whose home is the target."""
        return [table for table, home in self.homes.items() if home is Home.TARGET]


def known_homes(target: MoveConnection, source: MoveConnection | None = None) -> KnownHomes:
    """Return the homes for a command that only shows them, with the source if it is at hand."""
    try:
        fenced = {table: Home.SOURCE if fence.closed else Home.TARGET for table, fence in fences(target).items()}
        return KnownHomes(homes(Connections(source, target)) if source else homes_of_target(target), fenced=fenced)
    except (BothHomesOpen, MovedElsewhere, FenceDamaged) as error:
        return KnownHomes({}, error.what)


def refuse_moved(homes: dict[str, Home], tables: Collection[str]) -> None:
    """Raise `TablesMoved` or `SwitchUnfinished` if the home of one of these tables is not the source."""
    if unfinished := [table for table in tables if homes[table] is Home.NEITHER]:
        raise SwitchUnfinished(tables=unfinished)
    if moved := [table for table in tables if homes[table] is Home.TARGET]:
        others = [table for table, home in homes.items() if table in tables and home is Home.SOURCE]
        raise TablesMoved(tables=moved, others=others)


def _home(table: str, closed_source: dict[str, Fence], following: dict[str, Fence]) -> Home | None:
    """Return the home of a table; `None` if a switch left the target open, and the source is open too."""
    target = following.get(table)
    if table in closed_source:
        return Home.NEITHER if target and target.closed else Home.TARGET
    return None if target and not target.closed else Home.SOURCE


def _existing(source: MoveConnection) -> set[str]:
    rows = source.rows(
        "SELECT relname::text FROM pg_class"
        " WHERE relnamespace = to_regnamespace('public') AND relname = ANY(%(tables)s)",
        {"tables": list(phases())},
    )
    return {name for (name,) in rows}
