"""Statements that the user writes: each in its own transaction, streamed, and cancelled on the server."""

from __future__ import annotations

import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import psycopg
from psycopg import generators
from psycopg.pq import ExecStatus, TransactionStatus

from tatame_db.errors import fact
from tatame_db.studio.cells import Cut
from tatame_db.studio.errors import BadInput, OutOfRange, Refused, is_unavailable
from tatame_db.studio.transactions import disposable_connection

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from psycopg.pq.abc import PGconn, PGresult

    from tatame_db.database.pool import AsyncDatabase

MAX_ROWS = 100_000
MAX_CELL_CHARACTERS = 10_000
MAX_QUERIES = 10
_CANCEL_SECONDS = 5
_BATCH_CHARACTERS = 64_000
_BATCH_ROWS = 500
_BATCH_SECONDS = 0.2
_MAX_NOTICES = 100
_EXPLAIN = {"plan": "EXPLAIN (FORMAT JSON) ", "analyze": "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "}


class SqlStatement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `/api/sql`; the browser chooses the id, by which it can cancel the query."""

    id: str
    text: str
    explain: Literal["plan", "analyze"] | None = None
    limit: int = 1000


@fact
class TooManyQueries(Refused):
    """Each running query holds a connection, and pages need some too."""

    queries: int
    status = 429
    what = "{queries} queries are already running"
    fix = "cancel one of them, or wait until it ends"


class CopyUnsupported(psycopg.ProgrammingError):
    """`COPY` to or from the client needs a subprotocol that a browser does not speak."""

    sqlstate = "0A000"

    def __init__(self) -> None:
        super().__init__("COPY to or from the client is not supported here; export the rows, or use `tatame-db psql`")


@dataclass
class _RunningQuery:
    driver: psycopg.AsyncConnection | None = None
    is_cancelled: bool = False


@dataclass
class Queries:
    """The running queries, by the browser's id."""

    database: AsyncDatabase
    write: bool
    _running: dict[str, _RunningQuery] = field(default_factory=dict[str, _RunningQuery])

    async def run(self, statement: SqlStatement) -> AsyncGenerator[dict[str, Any]]:
        """Run a statement and yield its columns, its rows in batches, and `done`; in write mode, commit before `done`.

        An error that PostgreSQL reports about the statement is yielded as `error`. Raises `BadInput`, `OutOfRange`,
        `TooManyQueries`, and the errors of connecting.
        """
        self._refuse(statement)
        query = self._running[statement.id] = _RunningQuery()
        try:
            async with disposable_connection(self.database, write=self.write) as driver:
                query.driver = driver
                async for piece in _Execution(driver, statement, query, write=self.write).pieces():
                    yield piece
        finally:
            del self._running[statement.id]

    def _refuse(self, statement: SqlStatement) -> None:
        if "\0" in statement.text:
            raise BadInput(problem="the statement contains a NUL character")
        if not 1 <= statement.limit <= MAX_ROWS:
            raise OutOfRange(container="a result", noun="rows", number=statement.limit, maximum=MAX_ROWS)
        if statement.id in self._running:
            raise BadInput(problem="a query with this id is already running")
        if len(self._running) >= MAX_QUERIES:
            raise TooManyQueries(queries=MAX_QUERIES)

    async def cancel(self, query_id: str) -> bool:
        """Cancel a query on the server; return whether it was running."""
        query = self._running.get(query_id)
        if query is None:
            return False
        query.is_cancelled = True
        if query.driver is not None:
            await query.driver.cancel_safe(timeout=_CANCEL_SECONDS)
        return True


class _Execution:
    def __init__(
        self, driver: psycopg.AsyncConnection, statement: SqlStatement, query: _RunningQuery, *, write: bool
    ) -> None:
        self.driver, self.statement, self.query, self.write = driver, statement, query, write
        self.prefix = _EXPLAIN[statement.explain] if statement.explain else ""
        self.notices: list[dict[str, str | None]] = []
        self.rows, self.has_more = 0, False
        self.command: str | None = None

    async def pieces(self) -> AsyncGenerator[dict[str, Any]]:
        started = time.perf_counter()
        self.driver.add_notice_handler(self._add_notice)
        try:
            async with aclosing(self._plan() if self.statement.explain else self._table()) as pieces:
                async for piece in pieces:
                    yield piece
            if self.write and not self.statement.explain:
                await self.driver.commit()
        except psycopg.Error as error:
            yield {"error": self._describe(error)}
        else:
            ms = round((time.perf_counter() - started) * 1000, 1)
            done = {"rows": self.rows, "more": self.has_more, "ms": ms, "command": self.command}
            yield {"done": done | {"notices": self.notices}}
        finally:
            # The rest of the result is not read; without a cancel request, the server would continue to its end.
            if self.driver.pgconn.transaction_status == TransactionStatus.ACTIVE and not self.driver.closed:
                await self.driver.cancel_safe(timeout=_CANCEL_SECONDS)

    async def _plan(self) -> AsyncGenerator[dict[str, Any]]:
        async with aclosing(self._results()) as results:
            async for result in results:
                if result.status == ExecStatus.SINGLE_TUPLE:
                    plan = result.get_value(0, 0) or b"null"
                    yield {"plan": msgspec.Raw(msgspec.json.format(plan, indent=-1))}

    async def _table(self) -> AsyncGenerator[dict[str, Any]]:
        batch, has_columns = _Batch(), False
        async with aclosing(self._results()) as results:
            async for result in results:
                if not has_columns:
                    has_columns = True
                    yield {"columns": _columns(result)}
                if result.status != ExecStatus.SINGLE_TUPLE:
                    continue
                if self.rows == self.statement.limit:
                    self.has_more = True
                    # A statement that may write has to run to its end.
                    if self.write:
                        continue
                    break
                self.rows += 1
                batch.add(result)
                if batch.is_full:
                    yield {"rows": batch.rows}
                    batch = _Batch()
        if batch.rows:
            yield {"rows": batch.rows}

    async def _results(self) -> AsyncGenerator[PGresult]:
        """Send the statement and yield one result for each row, and at the end one without rows."""
        if self.query.is_cancelled:
            raise psycopg.errors.QueryCanceled("canceling statement due to user request")
        await self.driver.wait(_send(self.driver.pgconn, self.prefix + self.statement.text))
        while result := await self.driver.wait(generators.fetch(self.driver.pgconn)):
            match result.status:
                case ExecStatus.SINGLE_TUPLE:
                    yield result
                case ExecStatus.TUPLES_OK | ExecStatus.COMMAND_OK:
                    self.command = (result.command_status or b"").decode()
                    yield result
                case ExecStatus.EMPTY_QUERY:
                    raise psycopg.ProgrammingError("the text contains no statement")
                case ExecStatus.COPY_OUT | ExecStatus.COPY_IN | ExecStatus.COPY_BOTH:
                    self.driver.pgconn.finish()
                    raise CopyUnsupported
                case _:
                    raise psycopg.errors.error_from_result(result, encoding="utf-8")

    def _add_notice(self, notice: psycopg.errors.Diagnostic) -> None:
        if len(self.notices) < _MAX_NOTICES:
            message = (notice.message_primary or "")[:MAX_CELL_CHARACTERS]
            self.notices.append({"severity": notice.severity_nonlocalized, "what": message})

    def _describe(self, error: psycopg.Error) -> dict[str, Any]:
        position = int(error.diag.statement_position or 0) - len(self.prefix)
        return {
            "what": error.diag.message_primary or str(error).strip(),
            "detail": error.diag.message_detail,
            "hint": error.diag.message_hint,
            "position": position if position > 0 else None,
            "code": error.sqlstate,
            "away": is_unavailable(error),
        }


def _send(connection: PGconn, statement: str) -> Generator[Any, Any, None]:
    # With parameters, even none, the protocol takes a single statement: PostgreSQL rejects `commit; update …`.
    connection.send_query_params(statement.encode(), None)
    connection.set_single_row_mode()
    yield from generators.send(connection)


class _Batch:
    """Rows that go to the browser together."""

    def __init__(self) -> None:
        self.rows: list[list[str | Cut | None]] = []
        self._characters = 0
        self._started = time.monotonic()

    def add(self, result: PGresult) -> None:
        cells = [_cell(result.get_value(0, at)) for at in range(result.nfields)]
        self.rows.append(cells)
        self._characters += sum(len(cell.cut if isinstance(cell, Cut) else cell) for cell in cells if cell is not None)

    @property
    def is_full(self) -> bool:
        return (
            self._characters > _BATCH_CHARACTERS
            or len(self.rows) == _BATCH_ROWS
            or time.monotonic() - self._started > _BATCH_SECONDS
        )


def _cell(value: bytes | None) -> str | Cut | None:
    if value is None:
        return None
    text = value.decode(errors="replace")
    return text if len(text) <= MAX_CELL_CHARACTERS else Cut(text[:MAX_CELL_CHARACTERS], len(text))


def _columns(result: PGresult) -> list[dict[str, str]]:
    return [
        {"name": (result.fname(at) or b"").decode(errors="replace"), "type": _type(result, at)}
        for at in range(result.nfields)
    ]


def _type(result: PGresult, at: int) -> str:
    oid = result.ftype(at)
    known = psycopg.adapters.types.get(oid)
    return f"type {oid}" if known is None else known.get_type_display(oid=oid, fmod=result.fmod(at))
