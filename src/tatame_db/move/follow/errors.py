"""What keeps a home from being followed by a slot, and the transactions in which slots and publications are made."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg

from tatame_db.errors import TatameError, fact
from tatame_db.move.connection import is_refusal, reason_without_values

if TYPE_CHECKING:
    from collections.abc import Generator

    from tatame_db.move.connection import MoveConnection

_SLOT_KEPT = "The changes that were not applied yet are lost to the slot; the rows of both databases are not."


class SlotRefused(TatameError):
    """No slot can be had on this home, so its tables can only be compared whole, again and again."""


@fact
class WalLevelTooLow(SlotRefused):
    """The server writes no WAL from which changes can be decoded."""

    database: str
    level: str
    what = "`wal_level` of the {database} is {level}; a logical slot needs `logical`"
    fix = "set `wal_level = logical` and restart the server, or follow by whole comparisons"


@fact
class ReplicationForbidden(SlotRefused):
    """The role has no REPLICATION."""

    database: str
    role: str
    what = "the role {role} may not create a replication slot on the {database}"
    fix = "run `ALTER ROLE {role} REPLICATION` as a superuser, or use a role that has it, as Supabase's `postgres` does"


@fact
class SlotsExhausted(SlotRefused):
    """Every slot of the server is in use."""

    database: str
    reason: str
    what = "the {database} has no free replication slot: {reason}"
    fix = "drop a slot that nothing reads (`SELECT * FROM pg_replication_slots`), or raise `max_replication_slots`"


@fact
class SlotUnsupported(SlotRefused):
    """The server, or a pooler before it, refuses logical slots for another reason."""

    database: str
    reason: str
    what = "the {database} refuses a logical slot: {reason}"
    fix = "use the address of the primary server itself, or follow by whole comparisons"


@fact
class SlotBlocked(TatameError):
    """A new slot begins when all transactions that run at that time have ended, and one of them does not end."""

    database: str
    seconds: float
    transactions: list[str]
    what = "no slot could be created on the {database} within {seconds:g} seconds: it waits for {listed}"
    means = "Nothing was changed, and the transactions go on."
    fix = "wait until they end, or end them with `SELECT pg_terminate_backend(…)`, then run the command again"

    @property
    def listed(self) -> str:
        """The transactions that run now."""
        return ", ".join(self.transactions) or "a transaction that has ended by now"


@fact
class FollowRuns(TatameError):
    """Another process follows in the same direction."""

    direction: str
    process: int | None
    what = "another `tatame-db move follow{direction}` runs already; its session on the target is {process}"
    fix = "let it run, or end it first; on the target, `SELECT pg_terminate_backend({process})` ends it"


@fact
class SlotInUse(TatameError):
    """Another process reads the slot."""

    name: str
    process: int | None
    what = "the slot {name} is in use by the process {process} of the server"
    fix = (
        "end the other `tatame-db move follow`, or `SELECT pg_terminate_backend({process})`, and run the command again"
    )


@fact
class SlotMissing(TatameError):
    """The slot was dropped by another program."""

    name: str
    what = "the slot {name} was dropped by another program"
    means = _SLOT_KEPT
    fix = "run the command again: it creates the slot again and compares every table"


@fact
class SlotLost(TatameError):
    """The server has removed WAL that the slot needs."""

    name: str
    what = "the slot {name} is lost: it held more WAL than `max_slot_wal_keep_size` of the server allows"
    means = _SLOT_KEPT
    fix = "run the command again: it creates the slot again and compares every table"


@fact
class SlotForeign(TatameError):
    """Another database of the server, or another plug-in, has a slot of the same name."""

    name: str
    database: str
    plugin: str
    what = "the slot {name} belongs to the database {database} and the plug-in {plugin}"
    fix = "drop it with `SELECT pg_drop_replication_slot('{name}')` if nothing reads it, then run the command again"


@fact
class ObjectsRefused(TatameError):
    """A function of the database raised an error as objects of the move were created, as an event trigger does."""

    database: str
    reason: str
    what = "the {database} refused objects that the move needs: {reason}"
    means = "What was to be created was rolled back; no row and no home of a table was changed."
    fix = (
        "`SELECT evtname, evtfoid::regproc FROM pg_event_trigger` shows event triggers; disable the one that refuses"
        " changes of the schema, then run the command again"
    )


@contextlib.contextmanager
def objects_in_words(connection: MoveConnection) -> Generator[None]:
    """Raise `ObjectsRefused` for an error of a function of the database; its transaction is of no use then."""
    try:
        yield
    except psycopg.Error as error:
        if not is_refusal(error):
            raise
        raise ObjectsRefused(database=connection.name, reason=reason_without_values(error)) from error


@contextlib.contextmanager
def writing(connection: MoveConnection, *, lock_timeout_ms: int = 0, statement_timeout_ms: int = 0) -> Generator[None]:
    """Run statements in a transaction of their own, with settings that end with it. Raises `ObjectsRefused`."""
    driver = connection.driver
    # A role may begin its transactions read-only, which no setting within them changes.
    driver.read_only, driver.isolation_level = False, psycopg.IsolationLevel.READ_COMMITTED
    with objects_in_words(connection), driver.transaction():
        connection.pin_settings(for_transaction=True)
        for name, milliseconds in (("lock_timeout", lock_timeout_ms), ("statement_timeout", statement_timeout_ms)):
            if milliseconds:
                connection.execute(f"SET LOCAL {name} = {milliseconds}")
        yield
