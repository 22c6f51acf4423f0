"""Replicas: databases that are only read, and how far one has replayed what the primary wrote."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, ClassVar, cast

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db.database.connections import Connections
from tatame_db.database.errors import DatabaseUnavailable, NotAReplica
from tatame_db.database.silence import Setup, end_setup, setup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

    from tatame_db.database.options import DatabaseOptions

WITHIN_SECONDS = 1.0
"""How long a reader waits for a replica."""

UNREACHABLE = (DatabaseUnavailable, DBAPIError)
"""What a replica raises that does not answer, or no longer."""

_POSITION = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END"
CURRENT_LSN = text(f"SELECT ({_POSITION})::text")
HAS_REPLAYED = text(f"SELECT coalesce({_POSITION} >= CAST(:lsn AS pg_lsn), false)")

READ_ONLY = text("SET TRANSACTION READ ONLY")

_ALWAYS_READ_ONLY = "SELECT set_config('default_transaction_read_only', 'on', false)"
_IDENTIFIER = "SELECT system_identifier FROM pg_control_system()"
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.001, 0.05
_UNKNOWN_FOR_SECONDS = 10.0


def pauses(within_seconds: float) -> Iterator[float]:
    """Yield how long to wait before each next look, until the time is over."""
    deadline, pause = time.monotonic() + within_seconds, _FIRST_PAUSE_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


def check_position(lsn: str | None, within_seconds: float) -> None:
    """Raise `ValueError` for a text that is no position, or a negative time."""
    if lsn is not None and not re.fullmatch("[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", lsn):
        raise ValueError("a position of the log looks like 0/16B3748, as `current_lsn()` returns it")
    if not within_seconds >= 0:
        raise ValueError("within_seconds is a number of seconds, 0 or more")


def replica_options(primary: Connections) -> DatabaseOptions:
    """Return the options of a primary for its replica."""
    return cast("DatabaseOptions", vars(primary.options) | {"replica_address": None})


class ReplicaConnections(Connections):
    """The connections of `db.replica`: their transactions only read, and their server holds the primary's database."""

    is_replica: ClassVar[bool] = True
    primary: Connections

    @property
    def variable(self) -> str:
        """The setting that has the address: without one of its own, that of the primary."""
        return self.primary.variable if self.address == self.primary.address else "DATABASE_REPLICA_URL"

    _primary_identifier: int | None = None
    _not_before = 0.0

    def _prepare(self, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        super()._prepare(connection, entry)
        cursor = connection.cursor()
        if not entry.info["pooled"]:
            # A session of a pooler serves other clients too; that of a standby refuses writes by itself.
            cursor.execute(_ALWAYS_READ_ONLY)
        if self.address != self.primary.address and (expected := self._identifier_of_primary()) is not None:
            try:
                cursor.execute(_IDENTIFIER)
            except psycopg.errors.InsufficientPrivilege:
                # A managed service that does not tell it.
                connection.rollback()
            else:
                [(found,)] = cursor.fetchall()
                if found != expected:
                    raise NotAReplica(address=self.address, primary=self.primary.address)
        cursor.close()
        connection.commit()

    def _identifier_of_primary(self) -> int | None:
        """Return the identifier of the primary's data, or `None` while it does not answer.

        The connection is one of its own: the caller may hold the last one of the primary's pool.
        """
        if self._primary_identifier is None and time.monotonic() >= self._not_before:
            try:
                self._primary_identifier = self._ask_primary()
            except (psycopg.Error, DBAPIError, DatabaseUnavailable):
                self._not_before = time.monotonic() + _UNKNOWN_FOR_SECONDS
        return self._primary_identifier

    def _ask_primary(self) -> int:
        engine = self.primary._sync_engine
        connection: Any = engine.pool._invoke_creator(None)  # type: ignore[arg-type]  # it belongs to no pool
        try:
            driver = getattr(connection, "driver_connection", connection)
            setup.set(Setup(driver, self.primary.options.pool_timeout_seconds, is_pooled=False))
            cursor = connection.cursor()
            cursor.execute(_IDENTIFIER)
            [(identifier,)] = cursor.fetchall()
            return int(identifier)
        finally:
            end_setup()
            engine.dialect.do_close(connection)
