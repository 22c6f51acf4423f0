"""The obstacles of the way back, and what the choices do about them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from tatame_db.move.back.errors import RowsNotReturnable
from tatame_db.move.choices import LEFT, NULLED, Choices, Obstacle
from tatame_db.move.digest import number_first
from tatame_db.move.resolve import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Collection

    from tatame_db.move.obstacles import Requirement

_LEFT = "the row stays on the target only, and the source's own row, if there is one, as it is"
_NULL = "the value becomes NULL at the source, and stays on the target"
UNKNOWN_COLUMN = "unknown-column"
# The way back has no other choice about them.
_LEAVE_UNKNOWN = "--leave-unknown"


class FoundObstacles:
    """Collects the obstacles of one attempt."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.complete = True
        """Whether everything was tried that could show an obstacle."""
        self._noted: dict[str, dict[str, Obstacle]] = defaultdict(dict)

    @property
    def obstacles(self) -> dict[str, list[Obstacle]]:
        """The obstacles of each table that has any."""
        return {table: list(noted.values()) for table, noted in self._noted.items()}

    def note(self, table: str, requirement: Requirement, ids: Collection[str]) -> bool:
        """Note rows that violate a requirement; return whether the choice is that the value becomes NULL."""
        if not ids:
            return False
        choice = self.choices.of(requirement.kind)
        becomes_null = bool(choice and choice[0] == "null" and requirement.nullable)
        outcome = {NULLED if becomes_null else LEFT: len(ids)} if choice else {}
        known = self._noted[table].get(requirement.reason)
        before = known or Obstacle(
            kind=requirement.kind,
            reason=requirement.reason,
            rows=0,
            ids=[],
            choices=choices_for(requirement),
            chosen=(_LEAVE_UNKNOWN if requirement.kind == UNKNOWN_COLUMN else choice[1]) if choice else None,
        )
        self._noted[table][requirement.reason] = replace(
            before,
            rows=before.rows + len(ids),
            ids=(before.ids + sorted(ids, key=number_first))[:EXAMPLES],
            outcome={kind: before.outcome.get(kind, 0) + rows for kind, rows in outcome.items()},
        )
        return becomes_null

    def refuse_unresolved(self) -> None:
        """Raise `RowsNotReturnable` for obstacles without a choice."""
        open_ones = {
            table: unresolved
            for table, obstacles in self.obstacles.items()
            if (unresolved := [obstacle for obstacle in obstacles if obstacle.chosen is None])
        }
        if open_ones:
            raise RowsNotReturnable(obstacles=open_ones)


def choices_for(requirement: Requirement) -> list[str]:
    """Describe the options that resolve an obstacle of the way back, and the remedies on the target."""
    null = _NULL if requirement.nullable else f"the column of the source may not be NULL, so {_LEFT}"
    options = {
        "misfit": [f"`--misfits null`: {null}", f"`--misfits reject`: {_LEFT}"],
        "orphan": [f"`--orphans null`: {null}", f"`--orphans reject`: {_LEFT}"],
        UNKNOWN_COLUMN: [f"`{_LEAVE_UNKNOWN}`: the values stay on the target only"],
    }
    rejects = [] if requirement.kind == UNKNOWN_COLUMN else [f"`--rejects keep`: {_LEFT}"]
    return [*options.get(requirement.kind, []), *rejects, *requirement.fixes]
