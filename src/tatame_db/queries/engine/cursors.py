"""What streams, COPY and the sessions of asyncio need around psycopg's own cursors."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from psycopg.pq import TransactionStatus

from tatame_db.database.driver import driver_connection
from tatame_db.database.observer import SILENT, Observer
from tatame_db.database.session_state import CHANGED
from tatame_db.queries.engine.failures import FAILURES, explained
from tatame_db.queries.errors import ValueNotReadable

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import URL, PoolProxiedConnection

    from tatame_db.queries.engine.plan import Statement


@dataclass
class ReportedRows:
    """The number of rows that a statement returned or wrote, once it is known."""

    _started: float
    number: int | None = None
    _paused: float | None = None

    def pause(self) -> None:
        """Stop the clock while the caller of a stream works on its rows."""
        self._paused = time.perf_counter()

    def resume(self) -> None:
        """Let the clock go on."""
        if self._paused is not None:
            self._started += time.perf_counter() - self._paused
            self._paused = None

    @property
    def started(self) -> float:
        """The `time.perf_counter()` of a start from which the statement would have ended now without pauses."""
        self.resume()
        return self._started


@contextmanager
def reported(
    statement: Statement[Any], connection: PoolProxiedConnection, *, writes: bool = False
) -> Generator[ReportedRows]:
    """Report a statement to the observer of its database, and turn its failure into the error for callers."""
    observer: Observer = connection.info.get("observer", SILENT)
    rows = ReportedRows(time.perf_counter())
    error: BaseException | None = None
    try:
        yield rows
    except FAILURES as raised:
        driver = driver_connection(connection)
        address: URL | None = connection.info.get("address")
        error = explained(statement, raised, address, driver.pgconn, is_final=writes and driver.autocommit)
        raise error from (None if isinstance(error, ValueNotReadable) else raised)
    except GeneratorExit:
        # The caller left a stream early, which is no failure.
        raise
    except BaseException as raised:
        error = raised
        raise
    finally:
        observer.record(statement.name, rows.started, None if error else rows.number, error)


def check_parameters(connection: PoolProxiedConnection, statement: Statement[Any], values: dict[str, Any]) -> None:
    """Prepare a connection for a cursor, which would raise `ParameterInvalid` as the error of an unreadable value."""
    statement.plan.parameters(values)
    if statement.changes_session(values):
        connection.info[CHANGED] = True


_cursor_numbers = count(1)


def cursor_name() -> str:
    """Return a new name: two streams of one session must not share one."""
    return f"tatame_{next(_cursor_numbers)}"


def is_usable(connection: PoolProxiedConnection) -> bool:
    """Return whether a connection may go back to the pool: no transaction, no answer still to be read."""
    driver = driver_connection(connection)
    return driver.pgconn.transaction_status == TransactionStatus.IDLE
