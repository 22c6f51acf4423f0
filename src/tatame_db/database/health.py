"""The health check: a round trip on a connection of its own, so that a full pool cannot delay it."""

from __future__ import annotations

import select
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, PGconn, PollingStatus

from tatame_db.database.errors import TooManyConnections
from tatame_db.database.failures import connection_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from psycopg.pq.abc import PGconn as PGconnProtocol
    from psycopg.pq.abc import PGresult
    from sqlalchemy import URL

CHECK_TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True)
class Health:
    """The result of `check()`: how long a round trip took, or why there was none."""

    healthy: bool
    """Whether PostgreSQL answers."""
    latency_ms: float | None = None
    """The time of a round trip on an open connection."""
    reason: str | None = None
    """Why there was no round trip."""
    busy: bool = False
    """Whether all connections of the pool are in use, so that sessions and queries wait."""
    lag_seconds: float | None = None
    """By how much a standby is behind its primary, at most; `None` if the server is no standby, or if this is unknown.

    It is 0 if all that arrived is replayed. Otherwise, also while the standby is not connected to a primary, it is the
    age of the last transaction that was replayed, or of the last checkpoint before the first one.
    """
    is_standby: bool = False
    """Whether the server that answered is a standby."""


# A role without the rights for it sees that there is a receiver, and no more.
_LAG = b"""
SELECT CASE
    WHEN NOT pg_is_in_recovery() THEN NULL
    WHEN EXISTS (SELECT FROM pg_stat_wal_receiver) AND pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
    ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())
END
"""
_SINCE_CHECKPOINT = b"""
SELECT extract(epoch FROM clock_timestamp() - checkpoint_time) FROM pg_control_checkpoint() WHERE pg_is_in_recovery()
"""


@dataclass(frozen=True)
class Probe:
    """What a check needs to know of a database before it starts."""

    address: URL
    variable: str
    """The setting that has the address."""
    parameters: Mapping[str, Any] = field(repr=False)
    """Those of a connection, as libpq takes them."""
    timeout_seconds: float
    busy: bool

    def start(self, report: Callable[[Health], object]) -> None:
        """Report the health from a thread, which ends within the time-out and leaves no connection.

        A thread, because libpq waits for the name service without a time limit.
        """
        deadline = time.monotonic() + self.timeout_seconds
        threading.Thread(target=lambda: report(self._health(deadline)), name="tatame-db check", daemon=True).start()

    def timed_out(self) -> Health:
        """Return the health of a database that did not answer in time."""
        return Health(
            healthy=False, reason=f"no answer within {self.timeout_seconds:g} seconds (timeout)", busy=self.busy
        )

    def _health(self, deadline: float) -> Health:
        try:
            trip = _round_trip(self.parameters, deadline)
            return Health(
                healthy=True,
                latency_ms=trip.seconds * 1000,
                busy=self.busy,
                lag_seconds=trip.lag_seconds,
                is_standby=trip.is_standby,
            )
        except TimeoutError:
            return self.timed_out()
        except psycopg.Error as error:
            reason = connection_error(self.address, error, self.variable)
            # The server answers, and the connections that it has are those of the pool.
            at_work = self.busy and isinstance(reason, TooManyConnections)
            return Health(healthy=at_work, reason=reason.what, busy=self.busy)
        except (OSError, ValueError) as error:
            return Health(healthy=False, reason=str(error), busy=self.busy)


class _RoundTrip(NamedTuple):
    seconds: float
    is_standby: bool
    lag_seconds: float | None


def _round_trip(parameters: Mapping[str, Any], deadline: float) -> _RoundTrip:
    """Connect, run a statement, close, and return the seconds that it took, and the lag of a standby.

    It tests whether a pooler allows transactions.

    Raises `psycopg.OperationalError` and `TimeoutError`.
    """
    connection = PGconn.connect_start(make_conninfo("", **parameters).encode())
    try:
        while (status := connection.connect_poll()) != PollingStatus.OK:
            if status == PollingStatus.FAILED:
                raise psycopg.OperationalError(connection.error_message.decode(errors="replace"))
            _wait(connection, select.POLLIN if status == PollingStatus.READING else select.POLLOUT, deadline)
        connection.nonblocking = 1
        # A standby refuses queries that are serializable, as those of a database or role may be by default.
        begin = b"BEGIN ISOLATION LEVEL READ COMMITTED"
        began = connection.parameter_status(b"in_hot_standby") == b"on"
        if began:
            _answer(connection, begin, deadline)
        started = time.perf_counter()
        # A pooler goes on to report what its server was when it first connected, so the server is asked.
        server, recovering = _row(connection, b"SELECT pg_backend_pid(), pg_is_in_recovery()", deadline)
        seconds = time.perf_counter() - started
        is_standby, is_pooled = recovering == b"t", server != b"%d" % connection.backend_pid
        if is_pooled and not began:
            # One in statement mode answers this, and refuses what sessions need.
            _answer(connection, begin, deadline)
        lag = _lag(connection, deadline) if is_standby else None
        if is_pooled:
            _answer(connection, b"COMMIT", deadline)
        return _RoundTrip(seconds, is_standby, lag)
    finally:
        connection.finish()


def _lag(connection: PGconnProtocol, deadline: float) -> float | None:
    lag = _answer(connection, _LAG, deadline)
    if lag is None:
        with suppress(psycopg.errors.InsufficientPrivilege):
            lag = _answer(connection, _SINCE_CHECKPOINT, deadline)
    return None if lag is None else max(0.0, float(lag))


def _answer(connection: PGconnProtocol, sql: bytes, deadline: float) -> bytes | None:
    """Run a statement and return its value, if it has one."""
    values = _row(connection, sql, deadline)
    return values[0] if values else None


def _row(connection: PGconnProtocol, sql: bytes, deadline: float) -> list[bytes | None]:
    """Run a statement and return its first row, if it has one."""
    connection.send_query(sql)
    while connection.flush():
        _wait(connection, select.POLLOUT, deadline)
    first: PGresult | None = None
    while True:
        while connection.is_busy():
            _wait(connection, select.POLLIN, deadline)
            try:
                connection.consume_input()
            except psycopg.Error:
                # The last words of the server say more than the end of the connection.
                first = first or connection.get_result()
                if first is None:
                    raise
                break
        result = connection.get_result()
        if result is None:
            break
        first = first or result
    if first is None:
        raise psycopg.OperationalError(connection.error_message.decode(errors="replace"))
    if first.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
        raise error_from_result(first)
    return [first.get_value(0, column) for column in range(first.nfields)] if first.ntuples else []


def _wait(connection: PGconnProtocol, direction: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(connection.socket, direction)
    remaining = deadline - time.monotonic()
    if remaining <= 0 or not poll.poll(remaining * 1000):
        raise TimeoutError
