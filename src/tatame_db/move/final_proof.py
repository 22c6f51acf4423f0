"""The end of a run: every copied table still holds the rows that were proven, and that is stored with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.database.dialect import public
from tatame_db.errors import TatameError, fact
from tatame_db.move.fingerprint import fingerprint
from tatame_db.move.record import Record
from tatame_db.schema import phases

if TYPE_CHECKING:
    from collections.abc import Collection

    from tatame_db.move.connection import MoveConnection


@fact
class ChangedAfterProof(TatameError):
    """Something else wrote to copied tables of the target after their proof, while the run still worked on others."""

    exit_code = 3
    tables: list[str]
    not_proven: list[str]
    what = "these tables of the target were changed after their proof, before the copy ended: {tables}"
    means = "Their rows are no longer those of the source. The rows of the other tables are proven{exception}."
    fix = (
        "end the other program that writes to the target, or disable the trigger (`tatame-db move plan` names triggers"
        " and rules); then run the command again with `--replace`, which overwrites these changes"
    )

    @property
    def exception(self) -> str:
        """The end of the sentence, about tables that a source over REST has changed meanwhile."""
        return f", except {', '.join(self.not_proven)}, which the source has changed" if self.not_proven else ""


def lock_and_find_changed(target: MoveConnection, outdated: Collection[str]) -> list[str]:
    """Lock all copied tables against writers, and return those that were written to since their proof.

    Until the caller commits, none of them changes, so what it stores is true when it is stored. `outdated` are tables
    that others may write to, or wrote to before this run, and are neither locked nor compared.
    """
    copied = {name: last for name, last in Record(target).tables().items() if name in phases() and name not in outdated}
    # Ends the transaction, so that the rows are seen as of a moment after the lock.
    target.commit()
    if not copied:
        return []
    target.execute(f"LOCK TABLE {', '.join(public(name) for name in phases() if name in copied)} IN SHARE MODE")
    return [name for name in phases() if name in copied and fingerprint(target, name) != copied[name].fingerprint]
