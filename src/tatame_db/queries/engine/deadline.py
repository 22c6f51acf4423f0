"""The time that a call may take, waiting for a connection included."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.queries.errors import DeadlineExceeded

if TYPE_CHECKING:
    from tatame_db.queries.engine.plan import Statement


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment at which a call ends; made at its start by `deadline_after`."""

    ms: int
    started: float
    """Its `time.monotonic()`."""

    @property
    def remaining_ms(self) -> float:
        """The time that is left; 0 or less once the deadline has passed."""
        return (self.started - time.monotonic()) * 1000 + self.ms

    def exceeded(self, statement: Statement[object], *, sent: bool) -> DeadlineExceeded:
        """Return the error for a call that took too long; `sent` is false if it never got a connection."""
        seconds = time.monotonic() - self.started
        return DeadlineExceeded(name=statement.name, deadline_ms=self.ms, seconds=seconds, sent=sent)


MAX_MS = 2**31 - 1
"""The longest deadline, of 24 days: the longest that poll() can wait."""


def deadline_after(ms: int | None) -> Deadline | None:
    """Return the deadline of a call that starts now, if it has one; raises `ValueError` for an impossible one."""
    if ms is None:
        return None
    if type(ms) is not int or not 0 < ms <= MAX_MS:
        raise ValueError(f"a deadline is a whole number of milliseconds from 1 to {MAX_MS:,}")
    return Deadline(ms, time.monotonic())
