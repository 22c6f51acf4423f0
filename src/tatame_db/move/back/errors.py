"""What keeps rows from their way back: each error states its cause and what is committed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg

from tatame_db.errors import TatameError, counted, fact

if TYPE_CHECKING:
    from collections.abc import Generator

    from tatame_db.move.choices import Obstacle

_NOTHING = "Nothing of this was written to the source: the transaction there was rolled back."


@fact
class RowsNotReturnable(TatameError):
    """Rows of the target cannot be written to the source unchanged, and no choice says what to do about them."""

    obstacles: dict[str, list[Obstacle]]
    what = "not every row can be written back to the source: {reasons}"
    means = _NOTHING
    fix = "{choices}"

    @property
    def reasons(self) -> str:
        """The obstacles of each table, with the ids of some rows."""
        return "; ".join(
            f"{table}: {obstacle.reason} ({counted(obstacle.rows, 'row')}{_examples(obstacle)})"
            for table, obstacles in self.obstacles.items()
            for obstacle in obstacles
        )

    @property
    def choices(self) -> str:
        """The choices that resolve the obstacles, without repetition."""
        found = [choice for obstacles in self.obstacles.values() for its in obstacles for choice in its.choices]
        return "choose for each: " + "; ".join(dict.fromkeys(found))


def _examples(obstacle: Obstacle) -> str:
    return f", for example with the id {', '.join(obstacle.ids)}" if obstacle.ids else ""


@fact
class LeftRowsReferenced(TatameError):
    """Rows that would stay on the target only are no longer there once its copy follows, and others refer to them."""

    references: list[str]
    what = "rows of tables that stay on the target refer to rows that are not written back: {references}"
    means = "The home of all tables is unchanged. A target that follows the source does not hold such rows."
    fix = "move back the tables that refer to them in the same command, or let their rows refer to others"


@fact
class SourceNotWritable(TatameError):
    """The source does not let the move write."""

    reason: str
    advice: str
    what = "the source refused a write: {reason}"
    means = _NOTHING
    fix = "{advice}, then run the command again"


_ADVICE: dict[type[psycopg.Error], str] = {
    psycopg.errors.InsufficientPrivilege: (
        "set `SUPABASE_DB_URL` to the role that owns the tables, such as Supabase's own `postgres`"
    ),
    psycopg.errors.ReadOnlySqlTransaction: "set `SUPABASE_DB_URL` to the primary of the project, not to a standby",
    psycopg.errors.LockNotAvailable: "wait until the other session that locks the tables of the source ends",
    psycopg.errors.ObjectNotInPrerequisiteState: "let `tatame-db move status` show the home of each table",
}


@contextlib.contextmanager
def writing_in_words() -> Generator[None]:
    """Raise `SourceNotWritable` for a right, a lock or a fence that the source has against all writes."""
    try:
        yield
    except tuple(_ADVICE) as error:
        advice = next(advice for kind, advice in _ADVICE.items() if isinstance(error, kind))
        raise SourceNotWritable(reason=str(error.diag.message_primary), advice=advice) from error
