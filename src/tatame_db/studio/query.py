"""A statement of the user's: one at a time, in a transaction of its own, streamed, and cancelled on the server."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import psycopg
from psycopg import generators
from psycopg.pq import ExecStatus, TransactionStatus

from tatame_db.studio.answers import BadInput, Refused, is_away
from tatame_db.studio.session import discarded

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from psycopg.pq.abc import PGconn, PGresult

    from tatame_db.database.pool import AsyncDatabase

MAX_ROWS = 100_000
CUT_CHARACTERS = 10_000
MAX_AT_ONCE = 10
_CANCEL_SECONDS = 5
_BATCH_BYTES = 64_000
_BATCH_ROWS = 500
_BATCH_SECONDS = 0.2
_MAX_NOTICES = 100
_EXPLAIN = {"plan": "EXPLAIN (FORMAT JSON) ", "analyze": "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "}


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `/api/sql` is asked to run; the id is the browser's own, to cancel by."""

    id: str
    text: str
    explain: Literal["plan", "analyze"] | None = None
    limit: int = 1000


class TooMany(Refused):
    """Each running query holds a connection, and pages need some too."""

    status = 429

    def __init__(self) -> None:
        super().__init__(f"{MAX_AT_ONCE} queries are running already", fix="cancel one, or wait for its end")


class CopyNotHere(psycopg.ProgrammingError):
    """`COPY` speaks with its client in a way that a browser does not."""

    sqlstate = "0A000"

    def __init__(self) -> None:
        super().__init__("COPY to or from the client does not work here; export the rows, or use `tatame-db psql`")


@dataclass
class _Running:
    driver: psycopg.AsyncConnection | None = None
    cancelled: bool = False


@dataclass
class Queries:
    """The queries that are running, by the browser's id."""

    database: AsyncDatabase
    write: bool
    _running: dict[str, _Running] = field(default_factory=dict[str, _Running])

    async def run(self, asked: Statement) -> AsyncGenerator[dict[str, Any]]:
        """Run one statement and yield its columns, rows and end; what it wrote is committed where that is allowed.

        What PostgreSQL says against the statement is yielded as `error`. Raises `BadInput`, `TooMany`, and what
        stands in the way of a connection.
        """
        self._refuse(asked)
        entry = self._running[asked.id] = _Running()
        try:
            async with discarded(self.database, write=self.write) as driver:
                entry.driver = driver
                async for piece in _Run(driver, asked, entry, write=self.write).pieces():
                    yield piece
        finally:
            del self._running[asked.id]

    def _refuse(self, asked: Statement) -> None:
        if "\0" in asked.text:
            raise BadInput("the statement holds a NUL character")
        if not 1 <= asked.limit <= MAX_ROWS:
            raise BadInput(f"a result shows 1 to {MAX_ROWS} rows, not {asked.limit}")
        if asked.id in self._running:
            raise BadInput("a query with this id is running already")
        if len(self._running) >= MAX_AT_ONCE:
            raise TooMany

    async def cancel(self, name: str) -> bool:
        """Cancel a query on the server; say whether it was running."""
        entry = self._running.get(name)
        if entry is None:
            return False
        entry.cancelled = True
        if entry.driver is not None:
            await entry.driver.cancel_safe(timeout=_CANCEL_SECONDS)
        return True


class _Run:
    def __init__(self, driver: psycopg.AsyncConnection, asked: Statement, entry: _Running, *, write: bool) -> None:
        self.driver, self.asked, self.entry, self.write = driver, asked, entry, write
        self.prefix = _EXPLAIN[asked.explain] if asked.explain else ""
        self.notices: list[dict[str, str | None]] = []
        self.rows, self.more = 0, False
        self.command: str | None = None

    async def pieces(self) -> AsyncGenerator[dict[str, Any]]:
        started = time.perf_counter()
        self.driver.add_notice_handler(self._notice)
        try:
            async for piece in self._results():
                yield piece
            if self.write and not self.asked.explain:
                await self.driver.commit()
        except psycopg.Error as error:
            yield {"error": self._told(error)}
        else:
            ms = round((time.perf_counter() - started) * 1000, 1)
            facts = {"rows": self.rows, "more": self.more, "ms": ms, "command": self.command}
            yield {"done": facts | {"notices": self.notices}}
        finally:
            # Nobody reads on; without this, the server would first work to the end.
            if self.driver.pgconn.transaction_status == TransactionStatus.ACTIVE and not self.driver.closed:
                await self.driver.cancel_safe(timeout=_CANCEL_SECONDS)

    async def _results(self) -> AsyncGenerator[dict[str, Any]]:
        if self.entry.cancelled:
            raise psycopg.errors.QueryCanceled("canceling statement due to user request")
        await self.driver.wait(_send(self.driver.pgconn, self.prefix + self.asked.text))
        batch: list[list[Any]] = []
        size, flushed, told = 0, time.monotonic(), False
        while result := await self.driver.wait(generators.fetch(self.driver.pgconn)):
            if self._refuse_failed(result) and not told:
                told = True
                if not self.asked.explain:
                    yield {"columns": self._columns(result)}
            if result.status != ExecStatus.SINGLE_TUPLE:
                continue
            if self.asked.explain:
                yield {"plan": msgspec.Raw(msgspec.json.format(result.get_value(0, 0) or b"null", indent=-1))}
                continue
            if self.rows == self.asked.limit:
                self.more = True
                # What writes has to come to its end; what only reads need not.
                if self.write:
                    continue
                break
            self.rows += 1
            cells = [_cell(result.get_value(0, at)) for at in range(result.nfields)]
            size += sum(len(cell) for cell in cells if isinstance(cell, str)) + CUT_CHARACTERS * sum(
                isinstance(cell, dict) for cell in cells
            )
            batch.append(cells)
            if size > _BATCH_BYTES or len(batch) == _BATCH_ROWS or time.monotonic() - flushed > _BATCH_SECONDS:
                yield {"rows": batch}
                batch, size, flushed = [], 0, time.monotonic()
        if batch:
            yield {"rows": batch}

    def _refuse_failed(self, result: PGresult) -> bool:
        """Say whether the result has rows or could have."""
        match result.status:
            case ExecStatus.SINGLE_TUPLE:
                return True
            case ExecStatus.TUPLES_OK | ExecStatus.COMMAND_OK:
                self.command = (result.command_status or b"").decode()
                return True
            case ExecStatus.EMPTY_QUERY:
                raise psycopg.ProgrammingError("there is no statement in this text")
            case ExecStatus.COPY_OUT | ExecStatus.COPY_IN | ExecStatus.COPY_BOTH:
                self.driver.pgconn.finish()
                raise CopyNotHere
            case _:
                raise psycopg.errors.error_from_result(result, encoding="utf-8")

    def _columns(self, result: PGresult) -> list[dict[str, str]]:
        return [
            {"name": (result.fname(at) or b"").decode(errors="replace"), "type": self._type(result, at)}
            for at in range(result.nfields)
        ]

    def _type(self, result: PGresult, at: int) -> str:
        oid = result.ftype(at)
        known = psycopg.adapters.types.get(oid)
        if known is None:
            return f"type {oid}"
        return known.get_type_display(oid=oid, fmod=result.fmod(at))

    def _notice(self, notice: psycopg.errors.Diagnostic) -> None:
        if len(self.notices) < _MAX_NOTICES:
            words = (notice.message_primary or "")[:CUT_CHARACTERS]
            self.notices.append({"severity": notice.severity_nonlocalized, "what": words})

    def _told(self, error: psycopg.Error) -> dict[str, Any]:
        at = int(error.diag.statement_position or 0) - len(self.prefix)
        return {
            "what": error.diag.message_primary or str(error).strip(),
            "detail": error.diag.message_detail,
            "hint": error.diag.message_hint,
            "position": at if at > 0 else None,
            "code": error.sqlstate,
            "away": is_away(error),
        }


def _send(connection: PGconn, statement: str) -> Generator[Any, Any, None]:
    # With parameters, even none, the protocol takes a single statement: `commit; update …` is refused by the server.
    connection.send_query_params(statement.encode(), None)
    connection.set_single_row_mode()
    yield from generators.send(connection)


def _cell(value: bytes | None) -> str | dict[str, Any] | None:
    if value is None:
        return None
    text = value.decode(errors="replace")
    return text if len(text) <= CUT_CHARACTERS else {"cut": text[:CUT_CHARACTERS], "length": len(text)}
