"""What is known of each statement that ended: its name, time, rows and error, for the log and for metrics.

Never a value: a parameter may be a person's name, and the text of an error may quote a row.
"""

from __future__ import annotations

import inspect
import logging
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import event

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine
    from sqlalchemy.engine import Connection, ExecutionContext
    from sqlalchemy.engine.interfaces import DBAPICursor, ExceptionContext

Callback = TypeVar("Callback", bound="Callable[[StatementEvent], object]")

logger = logging.getLogger("tatame_db.sql")


@dataclass(frozen=True, slots=True)
class StatementEvent:
    """A statement that ended, as `on_statement` reports it."""

    name: str
    """The name of the query or write; for a statement of a session its SQL, without parameters."""
    seconds: float
    """The time until its last row was received, or until it failed. That of a stream is the time in
    which it waited for rows, without its caller's work."""
    rows: int | None
    """The number of rows returned or written, or `None` where it failed or PostgreSQL does not report it."""
    error: BaseException | None
    """The error of the statement, or `None`. Its text may quote a value of a row; its class does not.

    It is the one that the caller receives, except that a write may turn it into `RowRejected`.
    """
    is_sql: bool = False
    """Whether the name is SQL, because a session or connection ran the statement."""

    def __repr__(self) -> str:
        """Show no text of the error, which may quote a value of a row."""
        outcome = f"rows={self.rows}" if self.error is None else f"error={_kind(self.error)}"
        return f"StatementEvent({self.label!r}, seconds={self.seconds:.6f}, {outcome})"

    @property
    def label(self) -> str:
        """A short name for metrics, one of few: that of the query or write, or the first word of the SQL."""
        return self.name.split(maxsplit=1)[0].upper() if self.is_sql else self.name


def log_safely(logger: logging.Logger, level: int, message: str, *arguments: object) -> None:
    """Log, and lose the message if a handler raises: it must not break the call, whose work may be committed."""
    with suppress(Exception):
        logger.log(level, message, *arguments)


class Observer:
    """Logs the statements of a database, and calls the callbacks of `on_statement`."""

    def __init__(self, *, log_statements: bool = False, slow_statement_ms: int | None = None) -> None:
        self._log_statements = log_statements
        self._slow_seconds = float("inf") if slow_statement_ms is None else slow_statement_ms / 1000
        self._callbacks: tuple[Callable[[StatementEvent], object], ...] = ()
        self._failed: set[int] = set()
        self.listening = log_statements or slow_statement_ms is not None
        """False while nothing needs the statements; `record` then returns at once."""

    def add(self, callback: Callable[[StatementEvent], object]) -> None:
        """Call a function with the event of each statement from now on.

        Raises `TypeError` for an async function, which would never be awaited.
        """
        if inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(getattr(callback, "__call__", None)):  # noqa: B004, the method itself is examined
            raise TypeError("on_statement expects a function, not an async function: it is called and never awaited")
        # A new tuple, because another thread may be calling the functions of the old one.
        self._callbacks = (*self._callbacks, callback)
        self.listening = True

    def clear(self) -> None:
        """Forget the functions that were added, as between two tests."""
        self._callbacks = ()

    def record(
        self, name: str, started: float, rows: int | None, error: BaseException | None, *, is_sql: bool = False
    ) -> None:
        """Report that a statement ended now; `started` is the `time.perf_counter()` of its start. Never raises."""
        if not self.listening:
            return
        seconds = time.perf_counter() - started
        slow = seconds >= self._slow_seconds
        if slow or self._log_statements:
            level = logging.WARNING if slow else logging.INFO
            log_safely(logger, level, "%s [%.1f ms]%s", name, seconds * 1000, f" {_kind(error)}" if error else "")
        if self._callbacks:
            self._call(StatementEvent(name, seconds, rows, error, is_sql))

    def _call(self, statement: StatementEvent) -> None:
        for callback in self._callbacks:
            try:
                callback(statement)
            except Exception as error:  # noqa: BLE001, metrics must not break the call that they measure
                if id(callback) in self._failed:
                    continue
                self._failed.add(id(callback))
                # The frames alone: the message may repeat the error of the statement, which may quote a row.
                log_safely(
                    logger,
                    logging.ERROR,
                    "the on_statement callback %r raised %s; its further errors are not logged\n%s",
                    callback,
                    type(error).__name__,
                    "".join(traceback.format_tb(error.__traceback__)),
                )


SILENT = Observer()
"""The observer of a connection that no `Database` made."""


def observe_sessions(engine: Engine, observer: Observer) -> None:
    """Report the statements of an engine's sessions and connections, failed ones included.

    A second time does nothing.
    """
    if event.contains(engine, "before_cursor_execute", _start_clock):
        return

    def ended(*arguments: Any) -> None:
        cursor: DBAPICursor
        _, cursor, statement, _, context, _ = arguments
        observer.record(statement, context._tatame_started, _rows(cursor), None, is_sql=True)

    def failed(context: ExceptionContext) -> None:
        started = getattr(context.execution_context, "_tatame_started", None)
        # It has no start if it was never sent, and no statement if a COMMIT or a connection failed.
        if started is not None and context.statement is not None:
            replaced = getattr(context, "chained_exception", None)
            error = replaced or context.sqlalchemy_exception or context.original_exception
            observer.record(context.statement, started, None, error, is_sql=True)

    event.listen(engine, "before_cursor_execute", _start_clock)
    event.listen(engine, "after_cursor_execute", ended)
    event.listen(engine, "handle_error", failed)


def _start_clock(
    _: Connection, __: DBAPICursor, ___: str, ____: Any, context: ExecutionContext | None, _____: bool
) -> None:
    context._tatame_started = time.perf_counter()  # type: ignore[union-attr]


def _rows(cursor: DBAPICursor) -> int | None:
    # -1 for a cursor of the server, whose rows are fetched later, and for statements without rows.
    return cursor.rowcount if cursor.rowcount >= 0 else None


def _kind(error: BaseException) -> str:
    """Write the class of an error and its SQLSTATE."""
    state = getattr(getattr(error, "orig", error), "sqlstate", None)
    return " ".join(filter(None, (type(error).__name__, state)))
