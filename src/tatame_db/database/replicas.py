"""Replicas: databases that are only read, and how far one has replayed what the primary wrote."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db.database.connections import Connections
from tatame_db.database.driver import driver_connection
from tatame_db.database.errors import DatabaseUnavailable, NotAReplica
from tatame_db.database.silence import Setup, end_setup, setup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

    from tatame_db.database.options import DatabaseOptions

WITHIN_SECONDS = 1.0
"""How long a reader waits for a replica."""

ANSWER_SECONDS = 1.0
"""How long a server may take to be connected and to answer, also if the caller waits for less."""

UNREACHABLE = (DatabaseUnavailable, DBAPIError)
"""What a replica raises that does not answer, or no longer."""

READ_ONLY = text("SET TRANSACTION READ ONLY")

_ALWAYS_READ_ONLY = "SELECT set_config('default_transaction_read_only', 'on', false)"
_IDENTITY = "SELECT {cluster}, oid::bigint FROM pg_database WHERE datname = current_database()"
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.001, 0.05
_UNKNOWN_FOR_SECONDS = 10.0


def pauses(until: float) -> Iterator[float]:
    """Yield how long to wait before each next look, until the clock shows that time."""
    pause = _FIRST_PAUSE_SECONDS
    while (left := until - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


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

    _primary_identity: _Identity | None = None
    _not_before = 0.0

    def _prepare(self, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        super()._prepare(connection, entry)
        expected = None if self.address == self.primary.address else self._identity_of_primary()
        # The pool ends it.
        driver = driver_connection(entry)
        setup.set(Setup(driver, self.options.pool_timeout_seconds, is_pooled=entry.info["pooled"]))
        if not entry.info["pooled"]:
            # A session of a pooler serves other clients too; that of a standby refuses writes by itself.
            cursor = connection.cursor()
            cursor.execute(_ALWAYS_READ_ONLY)
            cursor.close()
            connection.commit()
        if expected is not None and (difference := _identify(connection).difference(expected)):
            raise NotAReplica(
                address=self.address, variable=self.variable, primary=self.primary.address, difference=difference
            )

    def _identity_of_primary(self) -> _Identity | None:
        """Return the identity of the primary's data, or `None` while it does not answer.

        The connection is one of its own: the caller may hold the last one of the primary's pool.
        """
        if self._primary_identity is None and time.monotonic() >= self._not_before:
            try:
                self._primary_identity = self._ask_primary()
            except (psycopg.Error, DBAPIError, DatabaseUnavailable):
                self._not_before = time.monotonic() + _UNKNOWN_FOR_SECONDS
        return self._primary_identity

    def _ask_primary(self) -> _Identity:
        engine = self.primary._sync_engine
        connection: Any = engine.pool._invoke_creator(None)  # type: ignore[arg-type]  # it belongs to no pool
        try:
            driver = getattr(connection, "driver_connection", connection)
            setup.set(Setup(driver, self.primary.options.pool_timeout_seconds, is_pooled=False))
            return _identify(connection)
        finally:
            end_setup()
            engine.dialect.do_close(connection)


@dataclass(frozen=True)
class _Identity:
    """What a database and its replicas have in common, and no other database."""

    cluster: int | None
    """The system identifier; `None` if the role may not read it."""
    database: int

    def difference(self, expected: _Identity) -> str | None:
        """Return how another identity differs, as the end of a sentence."""
        if None not in (self.cluster, expected.cluster) and self.cluster != expected.cluster:
            return "its data has another system identifier"
        return None if self.database == expected.database else "it is another database, with an OID of its own"


def _identify(connection: DBAPIConnection) -> _Identity:
    cursor = connection.cursor()
    try:
        cursor.execute(_IDENTITY.format(cluster="(SELECT system_identifier FROM pg_control_system())"))
    except psycopg.errors.InsufficientPrivilege:
        # A managed service that does not show it.
        connection.rollback()
        cursor.execute(_IDENTITY.format(cluster="NULL::bigint"))
    [(cluster, database)] = cursor.fetchall()
    cursor.close()
    connection.commit()
    return _Identity(cluster, database)
