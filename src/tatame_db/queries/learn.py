"""A database that gets Citus while connections are open: the guard of a write, and how the engine learns of it.

`tatame-db distribute` ends older sessions, but the clients of a pooler stay connected, and a call may have chosen its
form before it got a new connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tatame_db.database.citus import HAS_CITUS, know
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries.engine.plan import Statement
from tatame_db.queries.run import fetch, fetch_async

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tatame_db.queries.run import AsyncTarget, SyncTarget
    from tatame_db.queries.validate import Batch


_ASK = Statement[bool]("ask for Citus", f"SELECT {HAS_CITUS}", lambda row: bool(row[0]), may_repeat=True)


def unwritten(batches: Sequence[Batch], answers: Sequence[list[Any]]) -> list[int]:
    """Return the numbers of the batches that the guard has not written; a trigger may have skipped them too."""
    return [
        number
        for number, (batch, rows) in enumerate(zip(batches, answers, strict=True))
        if not rows and batch.values is None
    ]


def learns(target: SyncTarget) -> bool:
    """Ask whether a database has Citus now, and note it for the calls to come."""
    [found] = fetch(target, _ASK, {})
    if found:
        _know(target)
    return found


async def learns_async(target: AsyncTarget) -> bool:
    """Do what `learns` does."""
    [found] = await fetch_async(target, _ASK, {})
    if found:
        _know(target)
    return found


def _know(target: SyncTarget | AsyncTarget) -> None:
    lent: Any = target
    if isinstance(target, Database | AsyncDatabase):
        engine = lent.engine
    else:
        engine = (lent.get_bind() if hasattr(lent, "get_bind") else lent).engine
    know(getattr(engine, "sync_engine", engine), has_citus=True)
