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
from tatame_db.queries.engine.failures import FAILURES, explained
from tatame_db.queries.errors import ValueNotReadable

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import URL, PoolProxiedConnection

    from tatame_db.queries.engine.plan import Statement


@dataclass
class ReportedRows:
    """The number of rows that a statement returned or wrote, once it is known."""

    number: int | None = None


@contextmanager
def reported(
    statement: Statement[Any], connection: PoolProxiedConnection, *, writes: bool = False
) -> Generator[ReportedRows]:
    """Report a statement to the observer of its database, and turn its failure into the error for callers."""
    observer: Observer = connection.info.get("observer", SILENT)
    started, rows = time.perf_counter(), ReportedRows()
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
        observer.record(statement.name, started, None if error else rows.number, error)


_cursor_numbers = count(1)


def cursor_name() -> str:
    """Return a new name: two streams of one session must not share one."""
    return f"tatame_{next(_cursor_numbers)}"


def is_usable(connection: PoolProxiedConnection) -> bool:
    """Return whether a connection may go back to the pool: no transaction, no answer still to be read."""
    driver = driver_connection(connection)
    return driver.pgconn.transaction_status == TransactionStatus.IDLE
