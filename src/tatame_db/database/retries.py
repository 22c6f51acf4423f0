"""Transactions that are tried again: what may be, how often, and after which pauses. It waits for nothing."""

from __future__ import annotations

import inspect
import logging
import random
from typing import TYPE_CHECKING, Literal, TypeAlias

import psycopg

from tatame_db.database.errors import OutcomeUnknown
from tatame_db.database.failures import is_stale
from tatame_db.database.observer import log_safely

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.exc import DBAPIError

IsolationLevel: TypeAlias = Literal["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]

RETRIES = 3
FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 2.0

# PostgreSQL rolled the transaction back, so that another one could be committed.
_CONFLICTS = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)

logger = logging.getLogger("tatame_db.database")


class Attempts:
    """The attempts of one `run_in_transaction`."""

    def __init__(self, work: Callable[..., object], retries: int) -> None:
        if retries < 0:
            raise ValueError("retries should be 0 or more")
        self.name: str = getattr(work, "__qualname__", type(work).__name__)
        self._retries = retries
        self._failed = 0

    def pause_seconds(self, error: DBAPIError) -> float:
        """Return how long to wait before the next attempt.

        The pauses double, and vary at random, so that transactions which met once do not meet again. Raises the error
        itself if it is neither a conflict nor a stale statement, or no attempt is left, and `OutcomeUnknown` if it is
        the loss of a COMMIT.
        """
        # SQLAlchemy runs COMMIT without a statement's text. Whatever ran before it is rolled back by the loss.
        if error.statement is None and error.connection_invalidated:
            raise OutcomeUnknown(name=self.name, reason=str(error.orig).strip().splitlines()[0]) from error
        # A stale statement is one whose columns a migration has changed since the session prepared it.
        if not (isinstance(error.orig, _CONFLICTS) or (isinstance(error.orig, psycopg.Error) and is_stale(error.orig))):
            raise error
        if self._failed == self._retries:
            error.add_note(f"This was attempt {self._failed + 1} of {self._retries + 1}; all of them were rolled back.")
            raise error
        pause: float = min(FIRST_PAUSE_SECONDS * 2**self._failed, _LONGEST_PAUSE_SECONDS) * random.uniform(0.5, 1.5)  # noqa: S311, no secret
        self._failed += 1
        log_safely(
            logger,
            logging.INFO,
            "%s was rolled back (%s); attempt %d of %d begins in %.0f ms",
            self.name,
            error.orig.sqlstate,
            self._failed + 1,
            self._retries + 1,
            pause * 1000,
        )
        return pause


def refuse_async(work: Callable[..., object]) -> None:
    """Raise `TypeError` for an async function, whose coroutine nothing would await."""
    if inspect.iscoroutinefunction(work) or inspect.iscoroutinefunction(getattr(work, "__call__", None)):  # noqa: B004, the method itself is examined
        raise TypeError(
            "Database.run_in_transaction expects a function, not an async function; AsyncDatabase has one for those"
        )


def refuse_awaitable(result: object) -> None:
    """Raise `TypeError` for the coroutine that a function returned instead of doing its work."""
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(
            "the function of Database.run_in_transaction returned an awaitable; AsyncDatabase runs async functions"
        )


def require_awaitable(result: object) -> None:
    """Raise `TypeError` for what a function returned that did its work without awaiting."""
    if not inspect.isawaitable(result):
        raise TypeError(
            "AsyncDatabase.run_in_transaction expects an async function: `async def work(session: AsyncSession)`"
        )
