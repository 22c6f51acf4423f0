"""The stages of a copy, and what a caller can follow of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Stage(Enum):
    """What a copy does, in this order; it writes and proves table by table. Only a source over REST is read twice."""

    CHECK = "checking rows and references"
    COMPARE = "comparing the source with the target"
    FIND = "finding the rows that differ"
    DROP = "dropping foreign keys and indexes"
    WRITE = "writing rows"
    PROVE = "proving what was written"
    KEEP = "keeping excluded rows"
    NUMBER = "setting the sequence"
    RESTORE = "restoring foreign keys and indexes"
    VALIDATE = "checking foreign keys"
    TRY = "trying to insert a row"
    REREAD = "reading the source a second time"
    CONFIRM = "comparing the target once more"
    RECORD = "recording the result"


@dataclass(frozen=True)
class Follower:
    """The functions that a copy calls while it works; with several jobs, several threads call them."""

    on_rows: Callable[[str, int, int], None]
    """With a table, the number of rows that were sent so far, and the number of rows to send at most."""
    on_stage: Callable[[Stage, str | None], None]
    """With each stage as it begins, and the table if it is about one."""
