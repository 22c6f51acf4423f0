"""What the commands print about rows and values that the other database does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.cli import console
from tatame_db.errors import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tatame_db.move import Exclusion, KeptRows, NotReturned, Rejected

_NOT_RETURNED = {
    "nulled": "set to NULL at the source",
    "left": "left on the target",
    "not deleted": "deleted on the target, and still at the source",
}


def show_kept(kept: KeptRows) -> None:
    """Print what was excluded by choice, what was not written back, and the ids of some of the rows."""
    if not (kept.rejects or kept.not_returned):
        console.answer("no rows or values are excluded")
        return
    if kept.rejects:
        _show_kept(kept.rejects, [found.action for found in kept.rejects])
    if kept.not_returned:
        console.answer("\nnot written back:" if kept.rejects else "not written back:")
        _show_kept(
            kept.not_returned,
            ["written back since" if found.returned else found.action for found in kept.not_returned],
        )
    console.answer("\nthe rows themselves, as SQL: `tatame-db move rejects --sql`")


def _show_kept(kept: Sequence[Rejected | NotReturned], actions: list[str]) -> None:
    console.table(
        ["table", "column", "rows", "action", "reason", "ids"],
        [
            (found.table, found.column, found.rows, action, found.reason, _listed(found.ids, found.rows))
            for found, action in zip(kept, actions, strict=True)
        ],
    )


def show_not_returned(exclusions: Iterable[Exclusion]) -> None:
    """Print what a way back leaves, and why."""
    for found in exclusions:
        rows = counted(found.rows, "value" if found.column else "row")
        console.answer(f"not written back: {rows} of {found.place} ({_NOT_RETURNED[found.action]}): {found.reason}")


def _listed(ids: list[str], rows: int) -> str:
    return ", ".join(ids) + (", …" if rows > len(ids) else "")
