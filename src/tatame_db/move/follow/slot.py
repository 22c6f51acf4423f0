"""A logical slot on a home, read and moved by plain SQL, so that it works through a pooler too."""

from __future__ import annotations

import contextlib
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from tatame_db.database.dialect import literal
from tatame_db.move.connection import ResourceExhausted, StatementCanceled, attribute_errors, watchdog
from tatame_db.move.follow.errors import (
    ReplicationForbidden,
    SlotBlocked,
    SlotForeign,
    SlotInUse,
    SlotLost,
    SlotMissing,
    SlotsExhausted,
    SlotUnsupported,
    WalLevelTooLow,
    writing,
)
from tatame_db.move.follow.publication import PublicationChanged

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from datetime import datetime

    from tatame_db.move.connection import MoveConnection

PREFIX = "tatame_move_"
CREATE_SECONDS = 20.0
# A server notices within a second that the client which read a slot is dead.
_RELEASE_SECONDS = 10.0
_PAUSE_SECONDS = 0.05
_TRANSACTIONS_NAMED = 5


def slot_name(target_identity: str, home: str) -> str:
    """Return the name of slot and publication on a home, `source` or `target`; `target_identity` is `identity_of`.

    Names of slots belong to the server, and source and target may share one.
    """
    name = PREFIX + hashlib.sha256(target_identity.encode()).hexdigest()[:8]
    return name if home == "source" else f"{name}_back"


@dataclass(frozen=True)
class SlotState:
    """A slot as its server describes it; positions in the WAL are numbers of bytes."""

    database: str
    plugin: str
    process: int | None
    wal_status: str | None
    """`reserved`, `extended`, `unreserved` or `lost`."""
    wal_bytes: int
    """The WAL that the server keeps for the slot."""
    confirmed: int


@dataclass(frozen=True)
class ForgottenSlot:
    """A slot of a move that no process reads, and the WAL that its server keeps for it."""

    name: str
    database: str
    wal_status: str | None
    wal_bytes: int


@dataclass(frozen=True)
class Slot:
    """The slot of a move on one home, over a connection in autocommit mode."""

    connection: MoveConnection
    name: str

    def exists(self) -> bool:
        """Return whether there is a slot to continue. Raises `SlotForeign`."""
        state = self.state()
        if state is None:
            return False
        [database] = self._row("SELECT current_database()")
        if (state.database, state.plugin) != (database, "pgoutput"):
            raise SlotForeign(name=self.name, database=state.database, plugin=state.plugin)
        return True

    def create(self) -> None:
        """Create the slot; waits for the transactions that run now, but not forever.

        Raises `WalLevelTooLow`, `ReplicationForbidden`, `SlotsExhausted`, `SlotUnsupported`, `SlotBlocked`.
        """
        connection, database = self.connection, self.connection.name
        level, is_standby = self._row("SELECT current_setting('wal_level'), pg_is_in_recovery()")
        if is_standby:
            raise SlotUnsupported(database=database, reason="it is a standby")
        if level != "logical":
            raise WalLevelTooLow(database=database, level=level)
        try:
            with writing(connection, statement_timeout_ms=int(CREATE_SECONDS * 1000)):
                connection.rows(f"SELECT pg_create_logical_replication_slot({literal(self.name)}, 'pgoutput')")
        except psycopg.errors.InsufficientPrivilege as error:
            raise ReplicationForbidden(database=database, role=self._row("SELECT current_user")[0]) from error
        except ResourceExhausted as error:
            raise SlotsExhausted(database=database, reason=error.reason) from error
        except StatementCanceled as error:
            transactions = [found for (found,) in self.connection.rows_at_once(_RUNNING)]
            raise SlotBlocked(database=database, seconds=CREATE_SECONDS, transactions=transactions) from error
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.ObjectNotInPrerequisiteState) as error:
            raise SlotUnsupported(database=database, reason=str(error.diag.message_primary)) from error

    def state(self) -> SlotState | None:
        """Return the state of the slot; `None` if there is none."""
        rows = self.connection.rows_at_once(f"{_STATES} AND slot_name = {literal(self.name)}")
        return SlotState(*rows[0][1:]) if rows else None

    def flushed(self) -> int:
        """Return a position in the WAL; all that was committed and visible before this call lies before it.

        A commit that does not wait for the disk is visible before a slot can deliver it.
        """
        inserted, flushed = self._row(f"SELECT {_number('pg_current_wal_insert_lsn()')}, {_FLUSHED}")
        if flushed < inserted:
            with writing(self.connection):
                self.connection.execute("SET LOCAL synchronous_commit = local")
                self.connection.rows("SELECT pg_logical_emit_message(true, 'tatame_move', '')")
            return self.position()
        return int(flushed)

    def position(self) -> int:
        """Return the position up to which the server's WAL is on its disk."""
        return int(self._row(f"SELECT {_FLUSHED}")[0])

    def age(self, moment: datetime) -> float:
        """Return the seconds since a moment by the clock of the server."""
        [seconds] = self._row(
            f"SELECT extract(epoch FROM clock_timestamp() - {literal(moment.isoformat())}::timestamptz)"
        )
        return float(seconds)

    def peek(self, publication: str) -> Iterator[bytes]:
        """Yield the messages of all changes that are not confirmed yet, one by one, in the order of the commits.

        Raises `SlotInUse`, `SlotMissing`, `SlotLost`, `PublicationChanged`, `ConnectionLost`.
        """
        connection = self.connection
        query = (
            f"SELECT data FROM pg_logical_slot_peek_binary_changes({literal(self.name)}, NULL, NULL,"
            f" 'proto_version', '1', 'publication_names', {literal(publication)})"
        )
        self._released()
        with self._in_words(publication), writing(connection), watchdog(connection) as heartbeat:
            cursor = connection.driver.cursor()
            with (
                attribute_errors(connection),
                cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT binary)".encode()) as copy,
            ):
                copy.set_types(["bytea"])
                try:
                    for (data,) in copy.rows():
                        heartbeat()
                        yield data
                except psycopg.Error:
                    raise
                except BaseException:
                    # Otherwise closing the cursor drains the stream, and Ctrl-C hangs on a silent server.
                    connection.abort()
                    connection.driver.close()
                    raise

    def advance(self, position: int, publication: str) -> None:
        """Confirm all changes before a position, which the slot then forgets. Raises what `peek` raises."""
        state = self._released()
        if state and state.confirmed >= position:
            return
        with self._in_words(publication), writing(self.connection):
            self.connection.rows(
                f"SELECT pg_replication_slot_advance({literal(self.name)}, '{position >> 32:X}/{position % 2**32:X}')"
            )

    def drop(self) -> None:
        """Drop the slot if it exists. Raises `SlotInUse`."""
        self._released()
        with self._in_words(self.name), contextlib.suppress(SlotMissing), writing(self.connection):
            self.connection.rows(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                f" WHERE slot_name = {literal(self.name)}"
            )

    def _released(self) -> SlotState | None:
        """Return the state of the slot once no process reads it. Raises `SlotInUse`."""
        deadline = time.monotonic() + _RELEASE_SECONDS
        while (state := self.state()) and state.process:
            if time.monotonic() > deadline:
                raise SlotInUse(name=self.name, process=state.process)
            time.sleep(_PAUSE_SECONDS)
        return state

    @contextlib.contextmanager
    def _in_words(self, publication: str) -> Generator[None]:
        """Raise an error in words for a slot that others have changed."""
        try:
            yield
        except psycopg.errors.ObjectInUse as error:
            state = self.state()
            raise SlotInUse(name=self.name, process=state.process if state else None) from error
        except psycopg.errors.UndefinedObject as error:
            if self.state():
                raise PublicationChanged(name=publication) from error
            raise SlotMissing(name=self.name) from error
        except psycopg.errors.ObjectNotInPrerequisiteState as error:
            state = self.state()
            if state and state.wal_status == "lost":
                raise SlotLost(name=self.name) from error
            raise

    def _row(self, query: str) -> tuple[Any, ...]:
        [row] = self.connection.rows_at_once(query)
        return row


def forgotten_slots(connection: MoveConnection) -> list[ForgottenSlot]:
    """Return the slots of moves, of all databases of the server, that no process reads.

    A process that follows has the name of its slot as `application_name`, because it reads it only now and then.
    """
    rows = connection.rows(
        f"{_STATES} AND starts_with(slot_name, '{PREFIX}') AND NOT active AND NOT EXISTS (SELECT FROM"
        " pg_stat_activity a WHERE a.application_name = slot_name) ORDER BY slot_name"
    )
    return [ForgottenSlot(name, database, status, held) for name, database, _, _, status, held, _ in rows]


def _number(position: str) -> str:
    return f"({position} - '0/0'::pg_lsn)::bigint"


_FLUSHED = _number("pg_current_wal_flush_lsn()")
_STATES = f"""
SELECT slot_name::text, database::text, plugin::text, active_pid, wal_status,
    coalesce(pg_current_wal_lsn() - restart_lsn, 0)::bigint, coalesce({_number("confirmed_flush_lsn")}, 0)
FROM pg_replication_slots WHERE slot_type = 'logical'
"""
# Without the text of a query, which may contain values.
_RUNNING = f"""
SELECT concat('the process ', pid, ' (', concat_ws(', ', nullif(application_name, ''), 'user ' || usename,
    coalesce(state, backend_type),
    'begun ' || to_char(xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS UTC')), ')')
FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
UNION ALL
SELECT concat('the prepared transaction ', gid) FROM pg_prepared_xacts
LIMIT {_TRANSACTIONS_NAMED}
"""
