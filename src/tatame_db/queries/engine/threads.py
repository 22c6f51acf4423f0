"""Calls of threads: which connection they use, when they are sent again, and what their callers learn."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import psycopg

from tatame_db.database.connecting import waiting_seconds
from tatame_db.database.connections import skip_checkout_checks
from tatame_db.database.errors import ConnectionsExhausted, OutcomeUnknown
from tatame_db.database.failures import is_stale
from tatame_db.database.session_state import CHANGED
from tatame_db.queries.engine.failures import disconnected, explained, is_lost
from tatame_db.queries.engine.lean import LeanConnection, lean_connection
from tatame_db.queries.errors import ValueNotReadable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import PoolProxiedConnection

    from tatame_db.database.connecting import DatabasePool
    from tatame_db.database.pool import Database
    from tatame_db.queries.engine.deadline import Deadline
    from tatame_db.queries.engine.plan import Parameters, Statement

T = TypeVar("T")


def checkout(database: Database, statement: Statement[Any], deadline: Deadline | None = None) -> LeanConnection:
    """Take a connection in autocommit, which the server has not ended while it was idle.

    Raises `DatabaseUnavailable`, and `DeadlineExceeded` if none is free until the deadline of the statement.
    """
    started = time.perf_counter()
    try:
        return _checkout(database, statement, deadline)
    except BaseException as error:
        database.observer.record(statement.name, started, None, error)
        raise


def _checkout(database: Database, statement: Statement[Any], deadline: Deadline | None) -> LeanConnection:
    pool: DatabasePool = database.engine.pool  # type: ignore[assignment]  # `Database` makes its engine with one
    kept: LeanConnection | None
    while kept := pool.kept.take():
        if kept.is_gone:
            kept.discard()
        elif kept.identified is not None and kept.identified.is_old:
            # The pool identifies the server again as it lends the connection.
            kept.release()
            break
        else:
            return kept  # type: ignore[no-any-return]  # queries keep nothing else
    if deadline is None:
        return _from_pool(pool)
    return _from_pool_until(pool, statement, deadline)


def _from_pool(pool: DatabasePool) -> LeanConnection:
    token = skip_checkout_checks.set(True)
    try:
        lean = _lent(pool)
        # All idle ones may be gone. After as many, one was new: the call itself says what has become of it.
        for _ in range(pool.size()):
            if not lean.is_gone:
                break
            lean.discard()
            lean = _lent(pool)
    finally:
        skip_checkout_checks.reset(token)
    if not lean.driver.autocommit:
        lean.driver.autocommit = True
    return lean


def _lent(pool: DatabasePool) -> LeanConnection:
    lent = pool.connect()
    lean = lean_connection(lent)
    lean.lent, lean.kept = lent, pool.kept
    return lean


def _from_pool_until(pool: DatabasePool, statement: Statement[Any], deadline: Deadline) -> LeanConnection:
    """Take a connection out of the pool; raise `DeadlineExceeded` if none arrives in time.

    libpq connects without a limit below two seconds. So a thread does it, and keeps a connection that comes too late.
    """
    arrival: Future[LeanConnection] = Future()

    def arrive() -> None:
        # In this thread the variable has no other value.
        waiting_seconds.set(max(deadline.remaining_ms, 0) / 1000)
        try:
            lean = _from_pool(pool)
        except BaseException as error:  # noqa: BLE001, the caller raises it
            if arrival.set_running_or_notify_cancel():
                arrival.set_exception(error)
        else:
            if arrival.set_running_or_notify_cancel():
                arrival.set_result(lean)
            else:
                lean.give_back()

    threading.Thread(target=arrive, name="tatame-db connection", daemon=True).start()
    try:
        return arrival.result(max(deadline.remaining_ms, 0) / 1000)
    except (TimeoutError, ConnectionsExhausted) as error:
        _leave(arrival)
        if isinstance(error, ConnectionsExhausted) and deadline.remaining_ms > 0:
            raise
        raise deadline.exceeded(statement, sent=False) from None
    except BaseException:
        _leave(arrival)
        raise


def _leave(arrival: Future[LeanConnection]) -> None:
    """Let a connection that comes too late, or came just now, serve another call."""
    if not arrival.cancel() and arrival.exception() is None:
        arrival.result().give_back()


def fetch_committed(
    database: Database, statement: Statement[T], values: dict[str, Any], deadline: Deadline | None
) -> list[T]:
    """Run a statement on a connection of the pool, commit it, and return its rows.

    If the connection is lost, a statement that may repeat, or that certainly did not begin, is sent again once.
    """
    parameters = statement.plan.parameters(values)
    is_first = True
    while True:
        lean = checkout(database, statement, deadline)
        started = time.perf_counter()
        try:
            rows = _call(lean, statement, values, parameters, deadline)
        except BaseException as raised:  # noqa: BLE001, `_fail` raises it again
            error = explained(statement, raised, lean.address, lean.server, is_final=not statement.may_repeat)
            if is_first and not isinstance(error, OutcomeUnknown) and is_lost(raised, lean.server):
                is_first = False
                continue
            error = disconnected(statement, error, raised, lean.server, lean.address)
            _fail(statement, error, raised, lean, started)
        finally:
            lean.give_back()
        lean.observer.record(statement.name, started, statement.number_of_rows(rows), None)
        return rows


def fetch_all_committed(
    database: Database, calls: Sequence[tuple[Statement[T], dict[str, Any]]], deadline: Deadline | None
) -> list[list[T]]:
    """Run statements in one transaction, and return the rows of each.

    If the connection is lost before the commit was sent, the transaction is run again once; so it is for each statement
    that turns out to be prepared no longer.
    """
    parameters = [statement.plan.parameters(values) for statement, values in calls]
    first, last = calls[0][0], calls[-1][0]
    may_repeat = all(statement.may_repeat for statement, _ in calls)
    is_first, restarts = True, 0
    while True:
        lean = checkout(database, first, deadline)
        statement, commits, started = first, False, time.perf_counter()
        try:
            lean.run(b"BEGIN")
            answers: list[list[T]] = []
            for (statement, values), dumped in zip(calls, parameters, strict=True):
                started = time.perf_counter()
                rows = _call(lean, statement, values, dumped, deadline)
                answers.append(rows)
                lean.observer.record(statement.name, started, statement.number_of_rows(rows), None)
            statement, commits, started = last, True, time.perf_counter()
            lean.run(b"COMMIT")
        except BaseException as raised:  # noqa: BLE001, `_fail` raises it again
            error = explained(statement, raised, lean.address, lean.server, is_final=commits and not may_repeat)
            if is_lost(raised, lean.server):
                if is_first and not isinstance(error, OutcomeUnknown):
                    is_first = False
                    continue
                error = disconnected(statement, error, raised, lean.server, lean.address)
            else:
                with suppress(psycopg.Error):
                    lean.run(b"ROLLBACK")
                if isinstance(raised, psycopg.Error) and is_stale(raised) and restarts < len(calls):
                    restarts += 1
                    continue
            _fail(statement, error, raised, lean, started)
        finally:
            lean.give_back()
        return answers


def fetch_in_session(
    connection: PoolProxiedConnection, statement: Statement[T], values: dict[str, Any], deadline: Deadline | None
) -> list[T]:
    """Run a statement on the connection of a session, in its transaction, and return its rows."""
    parameters = statement.plan.parameters(values)
    lean = lean_connection(connection)
    if statement.changes_session(values):
        connection.info[CHANGED] = True
    started = time.perf_counter()
    try:
        opened = lean.begin()
        rows = _call(lean, statement, values, parameters, deadline, is_first=opened)
    except BaseException as raised:  # noqa: BLE001, `_fail` raises it again
        is_final = lean.driver.autocommit and not statement.may_repeat
        error = explained(statement, raised, lean.address, lean.server, is_final=is_final)
        if is_lost(raised, lean.server):
            # Otherwise the session would fail again when it rolls back.
            connection.invalidate()
        _fail(statement, error, raised, lean, started)
    lean.observer.record(statement.name, started, statement.number_of_rows(rows), None)
    return rows


def _call(
    lean: LeanConnection,
    statement: Statement[T],
    values: dict[str, Any],
    parameters: Parameters,
    deadline: Deadline | None,
    *,
    is_first: bool = False,
) -> list[T]:
    if statement.changes_session(values):
        lean.is_changed = True
    if lean.speaks_utf8:
        return lean.call(statement.plan, parameters, deadline, is_first=is_first)
    # A cursor encodes parameters as the session wants them.
    cursor = lean.driver.cursor(row_factory=statement.row_factory)
    cursor.execute(statement.sql_bytes, values)
    return statement.finished(cursor.fetchall()) if statement.has_rows else statement.written(cursor.rowcount)


def _fail(
    statement: Statement[Any],
    error: BaseException,
    raised: BaseException,
    lean: LeanConnection,
    started: float,
) -> NoReturn:
    lean.observer.record(statement.name, started, None, error)
    if error is raised:
        raise raised
    raise error from (None if isinstance(error, ValueNotReadable) else raised)
