"""A database that gets Citus while connections are open: the guard of a write, and how the engine learns of it.

`tatame-db distribute` ends older sessions, but the clients of a pooler stay connected, and a call may have chosen its
form before it got a new connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy.exc import DBAPIError

from tatame_db.database.citus import HAS_CITUS, know
from tatame_db.database.errors import NotOnCitus
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries.engine.plan import Statement
from tatame_db.queries.run import fetch, fetch_async, has_citus

if TYPE_CHECKING:
    from collections.abc import Callable

    from tatame_db.queries.run import AsyncTarget, SyncTarget

Prepare: TypeAlias = "Callable[[], tuple[Statement[Any], dict[str, Any]]]"
"""Chooses the form of a read for a database as it is known now, and the values to send with it."""

_ASK = Statement[bool]("ask for Citus", f"SELECT {HAS_CITUS}", lambda row: bool(row[0]), may_repeat=True)


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


def fetch_as_it_can(
    target: SyncTarget, statement: Statement[Any], values: dict[str, Any], prepare: Prepare, *, deadline_ms: int | None
) -> list[Any]:
    """Read with a statement or, if the database has Citus since it was chosen and refuses it, with its other form."""
    try:
        return fetch(target, statement, values, deadline_ms=deadline_ms)
    except (DBAPIError, NotOnCitus) as error:
        if not _is_refused(target, error) or not (has_citus(target) or learns(target)):
            raise
        again, values = prepare()
        if again is statement:
            raise
    return fetch(target, again, values, deadline_ms=deadline_ms)


async def fetch_as_it_can_async(
    target: AsyncTarget, statement: Statement[Any], values: dict[str, Any], prepare: Prepare, *, deadline_ms: int | None
) -> list[Any]:
    """Do what `fetch_as_it_can` does."""
    try:
        return await fetch_async(target, statement, values, deadline_ms=deadline_ms)
    except (DBAPIError, NotOnCitus) as error:
        if not _is_refused(target, error) or not (has_citus(target) or await learns_async(target)):
            raise
        again, values = prepare()
        if again is statement:
            raise
    return await fetch_async(target, again, values, deadline_ms=deadline_ms)


def _is_refused(target: SyncTarget | AsyncTarget, error: DBAPIError | NotOnCitus) -> bool:
    """Return whether a server does not support a statement, which was in no transaction of the caller."""
    alone = isinstance(target, Database | AsyncDatabase) and not target.shares_transaction
    return alone and (isinstance(error, NotOnCitus) or getattr(error.orig, "sqlstate", None) == "0A000")


def _know(target: SyncTarget | AsyncTarget) -> None:
    lent: Any = target
    if isinstance(target, Database | AsyncDatabase):
        engine = lent.engine
    else:
        engine = (lent.get_bind() if hasattr(lent, "get_bind") else lent).engine
    know(getattr(engine, "sync_engine", engine), has_citus=True)
