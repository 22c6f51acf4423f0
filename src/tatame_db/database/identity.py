"""Whether a replica has the data of the primary: compared at each new connection of either.

Behind a pooler a connection outlives its server, and is identified again every some seconds when a caller takes it.

The server at an address may be replaced while an app runs, and the primary may be away when a replica is connected. So
each open connection to a replica is compared again once the primary's identity is known again, and ended if it differs.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import psycopg
from sqlalchemy.exc import DBAPIError

from tatame_db.database.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine.interfaces import DBAPIConnection

    AnyConnection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]

AGAIN_SECONDS = 5.0
"""How long an identity counts as known, and after how long a primary that did not answer is asked again."""

IDENTIFIED = "identified"
"""The name in `info` of when the server was identified; only connections to poolers have it."""

_IDENTITY = "SELECT {cluster}, oid::bigint FROM pg_database WHERE datname = current_database()"


@dataclass(frozen=True)
class Identity:
    """What a database and its replicas have in common, and no other database."""

    cluster: int | None
    """The system identifier; `None` if the role may not read it."""
    database: int

    def difference(self, expected: Identity) -> str | None:
        """Return how another identity differs, as the end of a sentence."""
        if None not in (self.cluster, expected.cluster) and self.cluster != expected.cluster:
            return "its data has another system identifier"
        return None if self.database == expected.database else "it is another database, with an OID of its own"


def identify(connection: DBAPIConnection) -> Identity:
    """Ask a server for the identity of its database; ends the transaction."""
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
    return Identity(cluster, database)


class Identified:
    """When the server behind a connection to a pooler was identified last: it may be another one by now."""

    __slots__ = ("_at",)

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Count from now."""
        self._at = time.monotonic()

    @property
    def is_old(self) -> bool:
        """Whether it has to be identified again before a caller uses it."""
        return time.monotonic() >= self._at + AGAIN_SECONDS


class Comparison:
    """Compares the connections of a replica with the primary; connections of other threads may be opened meanwhile."""

    def __init__(self, ask: Callable[[], Identity], ask_in_thread: Callable[[], Identity]) -> None:
        self._ask_primary, self._ask_primary_in_thread = ask, ask_in_thread
        self._expected: Identity | None = None
        self._known_until = self._not_before = 0.0
        self._open: WeakKeyDictionary[AnyConnection, Identity] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def difference(self, driver: AnyConnection, identity: Identity) -> str | None:
        """Return how the server of a connection differs from the primary, as far as that is known.

        The primary is asked before a difference is reported: both may be replaced. For a new connection it is asked in
        any case, unless it was a moment ago.
        """
        with self._lock:
            is_new = driver not in self._open
            # What is learnt about the primary does not end the connection by its former identity.
            self._open[driver] = identity
        if self._differs(identity) or (is_new and time.monotonic() >= self._known_until):
            self._ask(self._ask_primary)
        if difference := self._differs(identity):
            with self._lock:
                self._open.pop(driver, None)
            return difference
        if is_new and time.monotonic() >= self._known_until:
            self._ask_later()
        return None

    def learn(self, identity: Identity) -> None:
        """Note the identity of the primary, and end the connections to other data."""
        with self._lock:
            self._expected, self._not_before = identity, 0.0
            self._known_until = time.monotonic() + AGAIN_SECONDS
            foreign = [driver for driver, own in self._open.items() if own.difference(identity)]
        for driver in foreign:
            # Each user of a connection finds out that it has ended, whichever thread or loop it works in.
            with suppress(psycopg.Error, OSError):
                number = driver.fileno()
                with socket.socket(fileno=os.dup(number)) as end:
                    # Another thread may have closed it before the copy, and opened a new one with this number.
                    if driver.fileno() == number:
                        end.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Ask no more."""
        with self._lock:
            self._open.clear()
            if self._timer is not None:
                self._timer.cancel()

    def _differs(self, identity: Identity) -> str | None:
        return None if self._expected is None else identity.difference(self._expected)

    def _ask(self, ask: Callable[[], Identity]) -> None:
        if time.monotonic() >= self._not_before:
            try:
                self.learn(ask())
            except (psycopg.Error, DBAPIError, DatabaseUnavailable, OSError):
                self._not_before = time.monotonic() + AGAIN_SECONDS

    def _ask_later(self) -> None:
        """Ask in a thread: no caller waits for it, and queries of both faces hold connections between their calls."""
        with self._lock:
            # That of a parent process is not alive here. While Python ends, a new thread never runs.
            if (self._timer is not None and self._timer.is_alive()) or sys.is_finalizing():
                return
            self._timer = threading.Timer(AGAIN_SECONDS, self._ask_again)
            self._timer.daemon = True
            self._timer.start()

    def _ask_again(self) -> None:
        with self._lock:
            self._timer = None
            if not self._open:
                return
        self._not_before = 0.0
        self._ask(self._ask_primary_in_thread)
        if time.monotonic() >= self._known_until:
            self._ask_later()
