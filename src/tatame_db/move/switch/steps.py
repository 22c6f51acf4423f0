"""The steps of a switch, in this order, and what a caller learns of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tatame_db.move.choices import Exclusion
    from tatame_db.move.switch.homes import Home


class Step(Enum):
    """What a switch does, in this order. Writers wait from the end of `CLOSE` until the end of `COMMIT`."""

    CHECK = "checking both databases"
    CATCH_UP = "bringing the follower up to date"
    RETURN = "preparing the way back"
    CLOSE = "stopping the writers"
    DRAIN = "carrying over the last changes"
    PROVE = "comparing all rows"
    NUMBER = "setting sequences"
    TRY = "trying to insert a row"
    RECORD = "recording the result"
    COMMIT = "closing the old home"
    OPEN = "opening the new home"
    CLEAN = "removing what followed the old home"

    @property
    def stops_writers(self) -> bool:
        """Whether writers wait during the whole step."""
        steps = list(Step)
        return steps.index(Step.CLOSE) < steps.index(self) <= steps.index(Step.COMMIT)


@dataclass(frozen=True)
class SwitchedTable:
    """A table whose home changed, with the proof: the number of rows and the digests of both databases."""

    table: str
    rows: int
    source_digest: str
    target_digest: str

    @property
    def is_equal(self) -> bool:
        """Whether the digests are the same; always after a switch, and not always in a dry run."""
        return self.source_digest == self.target_digest


@dataclass(frozen=True)
class SwitchReport:
    """A switch of homes, or with `is_dry_run` what one would do."""

    home: Home
    """The new home."""
    tables: list[SwitchedTable]
    pause_seconds: float
    """How long writers waited; in a dry run, how long they would wait at least."""
    hash: str
    slot: str | None
    """The slot that holds the changes of the new home for the way back; `None` without one."""
    no_slot_because: str | None
    """Why there is none: the way back compares whole tables then."""
    left: list[str]
    """What could not be removed of what followed the old home; `move finish` removes it."""
    not_returned: list[Exclusion]
    """Rows and values of these tables that stay on the target by choice, and are stored there."""
    closed_again: list[str] = field(default_factory=list[str])
    """Tables that had moved before, and whose triggers on the source were removed or disabled since: they are back."""
    is_dry_run: bool = False
    is_interrupted: bool = False
    """Whether Ctrl-C came too late to undo the switch, which was completed."""
