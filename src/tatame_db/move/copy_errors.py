"""What keeps a copy from its end: each error states its cause and what is committed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from tatame_db.errors import TatameError, fact
from tatame_db.move.connection import is_refusal, reason_without_values
from tatame_db.schema import phases

if TYPE_CHECKING:
    from collections.abc import Generator

    from tatame_db.move.connection import MoveConnection

_ROLLED_BACK = "Unfinished work was rolled back; tables that were proven before stay committed."


@dataclass(frozen=True)
class LockHolder:
    """A process of the target's server that locks a table; `vacuums` if it runs VACUUM."""

    table: str
    process: int
    vacuums: bool


@fact
class NotProven(TatameError):
    """The source, which is not read at one moment, was read a second time and has changed."""

    exit_code = 3
    tables: list[str]
    reason: str
    what = "copied, but not proven by a second reading of the source: {tables}: {reason}"
    means = "These tables contain the rows of the first reading. The others are proven."
    fix = "stop writing to the source, then run the command again"


@fact
class NotReplicated(TatameError):
    """An administrator ended the wait of a commit for a synchronous standby, without which it counts as done."""

    reason: str
    what = "copied and proven, but a commit is not known to be on the standby of the target: {reason}"
    means = "The rows are on the disk of the target's server, and are lost if the standby replaces it now."
    fix = "start the standby, then run the command again, which waits until the standby has everything"


@fact
class TargetBusy(TatameError):
    """Other sessions hold locks on a table for longer than the lock timeout."""

    reason: str
    holders: list[LockHolder]
    what = "a table of the target is locked by another session: {reason}{locks}"
    means = _ROLLED_BACK
    fix = "{advice}, then run the command again"

    @property
    def locks(self) -> str:
        """The tables and the processes that lock them, as far as they still do."""
        return "".join(f"; {holder.table} by the process {holder.process}" for holder in self.holders)

    @property
    def advice(self) -> str:
        """What to do about the sessions."""
        if any(holder.vacuums for holder in self.holders):
            # The server ends its own VACUUM for a session that waits, except for one against wraparound.
            return "wait until VACUUM is done, whose progress `pg_stat_progress_vacuum` of the target shows"
        return "end the other sessions on the target"


@fact
class TargetRefused(TatameError):
    """The target refused a statement because of a function, such as that of an event trigger, or of a value."""

    reason: str
    what = "the target refused a statement: {reason}"
    means = _ROLLED_BACK
    fix = "correct the function or index, or disable its trigger until the copy is done, then run the command again"


@fact
class SchemaChanged(TatameError):
    """A table, a column or a schema that a copy uses has changed or disappeared while it ran."""

    reason: str
    what = "the schema of the source or of the target changed during the copy: {reason}"
    means = _ROLLED_BACK
    fix = "run `tatame-db check`, fix what differs from the models, then run the command again"


# What a server answers if it no longer has what a statement names.
_SCHEMA_ERRORS = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedObject,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.WrongObjectType,
    psycopg.errors.DatatypeMismatch,
)


@contextlib.contextmanager
def in_words(target: MoveConnection) -> Generator[None]:
    """Raise an error in words for each failure of the target that can be foreseen."""
    try:
        yield
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
        raise TargetBusy(reason=str(error.diag.message_primary), holders=_holders(target)) from error
    except psycopg.Error as error:
        if is_refusal(error):
            raise TargetRefused(reason=reason_without_values(error)) from error
        if isinstance(error, _SCHEMA_ERRORS):
            raise SchemaChanged(reason=str(error.diag.message_primary)) from error
        raise


def _holders(target: MoveConnection) -> list[LockHolder]:
    """Return who locks tables of the models now, the transaction that waited being over."""
    with contextlib.suppress(psycopg.Error, TatameError):
        target.driver.rollback()
        return [LockHolder(*row) for row in target.rows(_HOLDERS, {"tables": list(phases())})]
    return []


# A reader is in the way only of what drops and creates keys, and is named if nothing else is.
_HOLDERS = """
WITH found AS (
    SELECT c.relname::text, l.pid, v.pid IS NOT NULL AS vacuums, bool_and(l.mode = 'AccessShareLock') AS reads
    FROM pg_locks l JOIN pg_class c ON c.oid = l.relation LEFT JOIN pg_stat_progress_vacuum v ON v.pid = l.pid
    WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid()
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND c.relnamespace = 'public'::regnamespace AND c.relname = ANY(%(tables)s)
    GROUP BY 1, 2, 3
)
SELECT relname, pid, vacuums FROM found WHERE reads = (SELECT bool_and(reads) FROM found) ORDER BY 1, 2
"""
