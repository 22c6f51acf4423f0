"""A digest of one table of the target alone, which shows a later write to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.database.dialect import public
from tatame_db.move.sql import TARGET_ROW

if TYPE_CHECKING:
    from tatame_db.move.connection import MoveConnection


@dataclass(frozen=True)
class Fingerprint:
    """The number of rows of a table and the sum of a hash of each; written as `rows:digest`."""

    rows: int
    digest: int

    def __str__(self) -> str:
        return f"{self.rows}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        """Read one that was written with `str`."""
        rows, digest = text.split(":")
        return cls(int(rows), int(digest))


def fingerprint(target: MoveConnection, table: str) -> Fingerprint:
    """Compute the fingerprint of a table as it is now; reads all its rows."""
    rows, digest = target.row(
        f'SELECT count(*), coalesce(sum(hashtextextended(({TARGET_ROW})::text COLLATE "C", 0)), 0)'
        f" FROM {public(table)} AS t"
    )
    return Fingerprint(rows, int(digest))
