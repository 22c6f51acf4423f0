"""Replicas: databases that are only read, and how far one has replayed what the primary wrote."""

from __future__ import annotations

import time
from contextlib import closing
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db.database.connections import Connections
from tatame_db.database.driver import driver_connection
from tatame_db.database.errors import DatabaseUnavailable, NotAReplica
from tatame_db.database.identity import Comparison, Identity, identify
from tatame_db.database.silence import begin_setup, end_setup, heard_in_setup

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
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.001, 0.05


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

    @cached_property
    def comparison(self) -> Comparison:
        """Compares the server with the primary."""
        return Comparison(self._ask_primary, self._ask_primary_in_thread)

    @property
    def _is_compared(self) -> bool:
        return self.address != self.primary.address

    def _compare(self, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        # The pool ends it.
        driver = driver_connection(entry)
        begin_setup(driver, self.options.pool_timeout_seconds, is_pooled=entry.info["pooled"])
        if not entry.info["pooled"]:
            # A session of a pooler serves other clients too; that of a standby refuses writes by itself.
            cursor = connection.cursor()
            cursor.execute(_ALWAYS_READ_ONLY)
            cursor.close()
            connection.commit()
            heard_in_setup()
        if not self._is_compared:
            return
        identity = identify(connection)
        end_setup()
        if difference := self.comparison.difference(driver, identity):
            raise NotAReplica(
                address=self.address, variable=self.variable, primary=self.primary.address, difference=difference
            )

    def _ask_primary(self) -> Identity:
        """Ask on a connection of its own: the caller may hold the last one of the primary's pool."""
        engine = self.primary._sync_engine
        connection: Any = engine.pool._invoke_creator(None)  # type: ignore[arg-type]  # it belongs to no pool
        try:
            return self._identify_primary(connection, getattr(connection, "driver_connection", connection))
        finally:
            engine.dialect.do_close(connection)

    def _ask_primary_in_thread(self) -> Identity:
        with closing(psycopg.connect(**self.primary.libpq_parameters())) as connection:
            return self._identify_primary(connection, connection)

    def _identify_primary(self, connection: Any, driver: psycopg.Connection[Any]) -> Identity:
        begin_setup(driver, self.primary.options.pool_timeout_seconds, is_pooled=False)
        try:
            return identify(connection)
        finally:
            end_setup()

    def _end_streams(self) -> None:
        self.comparison.stop()
        super()._end_streams()
