"""The transaction that all connections of a test share: how it begins, commits, rolls back and ends.

It begins with the first statement of a test. On top of the rows that the test has committed there is always one
savepoint: a commit moves it forward, a rollback returns to it.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakSet

import psycopg
from psycopg import generators
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus

from tatame_db.database.driver import driver_connection
from tatame_db.testing.turns import TransactionInterrupted, Turns

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn
    from sqlalchemy import PoolProxiedConnection

    from tatame_db.database.pool import Database
    from tatame_db.testing.turns import Participant

T = TypeVar("T")

_BEGIN = "BEGIN; SAVEPOINT tatame_test"
_ROLL_BACK = "ROLLBACK TO SAVEPOINT tatame_test"
_MOVE_SAVEPOINT = "RELEASE SAVEPOINT tatame_test; SAVEPOINT tatame_test"
# A rollback does not release the advisory locks of a session.
_END = "ROLLBACK; SELECT pg_advisory_unlock_all()"
LOCK_TIMEOUT_SECONDS = 10
"""How long a statement of a test waits for a lock of a session that is not part of the test."""
# The numbers of PostgreSQL's own tables are below 16384.
_HOLDERS = """
SELECT format('session %%s of %%s, %%s since %%s', pid, coalesce(nullif(application_name, ''), usename), state,
              to_char(coalesce(state_change, backend_start), 'HH24:MI:SS')),
    array_agg(DISTINCT coalesce(relation::regclass::text, 'advisory lock ' || objid))
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND granted
    AND locktype IN ('relation', 'advisory') AND pid NOT IN (pg_backend_pid(), %s)
    AND (relation IS NULL OR relation >= 16384)
GROUP BY 1 ORDER BY 1
"""
_DEFERRED = """
SELECT string_agg(format('%I.%I', n.nspname, c.conname), ', ')
FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace WHERE c.condeferred
"""


class SharedTransaction:
    """The transaction of the current test, on a connection that is reused for the next one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._opening = Lock()
        self._begin()

    def _begin(self) -> None:
        self._pooled: PoolProxiedConnection | None = None
        self._reset()

    def _reset(self) -> None:
        self.turns = Turns()
        self.connections: WeakSet[Participant] = WeakSet()
        """Those of the current test."""
        self._begun = self._undo = False

    @property
    def pgconn(self) -> PGconn:
        """The connection of libpq, opened when it is first needed. Raises `TransactionInterrupted` if it was lost."""
        with self._opening:
            if self._pooled is None:
                self._open()
        pgconn: PGconn = driver_connection(cast("Any", self._pooled)).pgconn
        if pgconn.status == ConnStatus.BAD:
            raise TransactionInterrupted
        return pgconn

    def _open(self) -> None:
        self._pooled = self._database.engine.raw_connection()
        cursor = self._pooled.cursor()
        # Some servers end idle sessions, and a test or the next one may take its time. The last is new in version 17.
        cursor.execute(
            "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN"
            " ('idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')"
        )
        # A lock that an earlier test left elsewhere ends the wait with the name of its holder.
        cursor.execute("SELECT set_config('lock_timeout', %s, false)", [f"{LOCK_TIMEOUT_SECONDS}s"])
        cursor.execute(_DEFERRED)
        [(deferred,)] = cursor.fetchall()
        self._pooled.commit()
        # A real commit checks what is deferred, and the next transaction begins with the modes of the constraints.
        restored = f"; SET CONSTRAINTS {deferred} DEFERRED" if deferred else ""
        self._commit = f"SET CONSTRAINTS ALL IMMEDIATE{restored}; {_MOVE_SAVEPOINT}"

    def end(self) -> None:
        """Roll back what the test did. A connection that cannot do that is closed, and replaced in the next test."""
        for connection in self.connections:
            connection.leave()
        if self._pooled is None:
            return
        driver = driver_connection(self._pooled)
        clean = self.turns.running is None and driver.pgconn.transaction_status in (
            TransactionStatus.INTRANS,
            TransactionStatus.INERROR,
            TransactionStatus.IDLE,
        )
        if clean:
            if self._begun:
                psycopg.Connection.wait(driver, _commands(driver.pgconn, _END))
        else:
            self.close()
        self._reset()

    def close(self) -> None:
        """Close the connection."""
        if self._pooled is not None:
            self._pooled.invalidate()
            self._begin()

    def in_turn(self, connection: Participant, statement: PQGen[T], *, keeps: bool = False) -> PQGen[T]:
        """Run a statement whose turn it is, and leave the transaction usable if it fails.

        `keeps` is for a cursor, which must survive a rollback of others.
        """
        yield from self.prepare()
        try:
            result = yield from statement
            if keeps and self.turns.writer is None:
                yield from _commands(self.pgconn, _MOVE_SAVEPOINT)
            if connection.commits_itself and self.turns.writer is connection:
                yield from self.commit(connection)
        except Exception as error:
            if isinstance(error, psycopg.errors.LockNotAvailable):
                error.add_note(self._holders())
            yield from self.recover(connection)
            raise
        return result

    def _holders(self) -> str:
        """Name the other sessions that hold locks in the database of the test."""
        with self._database.engine.connect() as connection:
            own = self.pgconn.backend_pid
            found = connection.exec_driver_sql(_HOLDERS, (own,)).all()
        return (
            "\n".join(f"{holder} holds {', '.join(locks)}" for holder, locks in found) or "no session holds a lock now"
        )

    def prepare(self) -> PQGen[None]:
        """Begin the transaction, or undo what was rolled back meanwhile."""
        if not self._begun:
            self._begun = True
            yield from _commands(self.pgconn, _BEGIN)
        elif self._undo:
            self._undo = False
            yield from _commands(self.pgconn, _ROLL_BACK)

    def recover(self, connection: Participant) -> PQGen[None]:
        """Undo a failed statement at once if it is a read, for others use the transaction too."""
        if self.turns.writer is connection:
            if connection.commits_itself:
                self.roll_back(connection)
        elif connection.pgconn.transaction_status == TransactionStatus.INERROR:
            yield from _commands(self.pgconn, _ROLL_BACK)
            connection.failed = not connection.commits_itself

    def commit(self, connection: Participant) -> PQGen[None]:
        """Keep what the writer did until the end of the test; undo it if a deferred constraint is violated."""
        try:
            yield from _commands(self.pgconn, self._commit)
        except psycopg.Error:
            yield from _commands(self.pgconn, _ROLL_BACK)
            raise
        finally:
            self.turns.end_unit(connection)

    def roll_back(self, connection: Participant) -> None:
        """Undo what a connection did since its last commit, before the next statement of any connection."""
        if self.turns.writer is connection:
            self._undo = True
        self.turns.end_unit(connection)


def _commands(pgconn: PGconn, sql: str) -> PQGen[None]:
    pgconn.send_query(sql.encode())
    for result in (yield from generators.execute(pgconn)):
        if result.status == ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
