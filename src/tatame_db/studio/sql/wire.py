"""A connection of a SQL tab: opened beside the pool, behind a relay, with statements of the user on the wire."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, aclosing, suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import generators
from psycopg.pq import ExecStatus, TransactionStatus

from tatame_db.database.address import readable, without_environment
from tatame_db.database.connecting import connect_as
from tatame_db.database.failures import connection_error
from tatame_db.errors import fact
from tatame_db.studio.errors import Refused
from tatame_db.studio.sql.relay import MAX_MESSAGE_BYTES, Relay
from tatame_db.studio.sql.results import Batch, Notices, Outcome, Refusal, columns_of
from tatame_db.studio.transactions import APPLY_SETTINGS, SESSION_SETTINGS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from psycopg.pq.abc import PGconn, PGresult

    from tatame_db.database.pool import AsyncDatabase
    from tatame_db.studio.memory import Budget

T = TypeVar("T")
_CANCEL_SECONDS = 5
_RESET_CHECKED = 160_000
"""Before this version, `RESET transaction_read_only` was not checked: it has to find `on` as the default."""
_READ_ONLY = "-c transaction_read_only=on -c default_transaction_read_only=on"
COPY_UNSUPPORTED = "COPY to or from the client is not supported here"
_COPY_ADVICE = "export the rows, or use `tatame-db psql`"


@fact
class SessionUnavailable(Refused):
    """The address leads to a pooler, which lends each transaction another session."""

    where: str
    status = 422
    what = "{where} is a pooler, and each SQL tab needs a session of PostgreSQL for itself"
    means = "The statement was not run, and no setting of the pooler's sessions was changed. The other pages work."
    fix = "set `DATABASE_URL` to the server's own address, usually on port 5432, and start the studio again"


class RowTooLarge(Refusal):
    """The relay has ended the connection."""

    def __init__(self, limit_bytes: int) -> None:
        what, fix = f"a row or a message is larger than {limit_bytes / 1_000_000:g} MB", "read a part of the value"
        if limit_bytes < MAX_MESSAGE_BYTES:
            what += ", and other tabs and exports hold the memory for larger ones"
            fix = "close tabs that have shown large rows, read a part of the value"
        super().__init__(
            f"{what}, so the session was ended",
            code="54000",
            fix=f"{fix}, such as `left(column, 1000)`, or use `tatame-db psql`",
        )


class Connection(psycopg.AsyncConnection[Any]):
    """A connection that hands out notifications while it waits.

    psycopg does so only at the end of a result, until when libpq would gather all of them.
    """

    on_notified: Callable[[], None] | None = None

    async def wait(self, gen: Generator[Any, Any, T], *arguments: Any, **options: Any) -> T:
        """Run a generator of psycopg."""
        return await super().wait(self._handing_out(gen), *arguments, **options)

    def _handing_out(self, work: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        ready = None
        while True:
            try:
                state = work.send(ready)
            except StopIteration as done:
                found: T = done.value
                return found
            self.hand_out_notifications()
            ready = yield state

    def hand_out_notifications(self) -> None:
        """Call the handlers of the notifications that have arrived."""
        while notification := self.pgconn.notifies():
            if self.on_notified:
                self.on_notified()
            if self.pgconn.notify_handler:
                self.pgconn.notify_handler(notification)


class Wire:
    """The connection, in autocommit, and what is sent on it."""

    def __init__(self, driver: Connection, budget: Budget) -> None:
        self.driver = driver
        self.relay = Relay(driver, budget)
        self.notices = Notices()
        driver.on_notified = self.relay.message_complete
        driver.add_notice_handler(self._add_notice)

    @classmethod
    async def open(cls, database: AsyncDatabase, budget: Budget, *, write: bool) -> Wire:
        """Connect; large rows take from the budget. Raises `DatabaseUnavailable`, `SessionUnavailable`."""
        driver = await _connect(database)
        async with AsyncExitStack() as unused:
            unused.push_async_callback(driver.close)
            row = await (await driver.execute("SELECT pg_catalog.pg_backend_pid()")).fetchone()
            if row != (driver.info.backend_pid,):
                # What a tab sets would stay in a session that a pooler lends to others, and what begins a tab as well.
                raise SessionUnavailable(where=readable(database.address))
            if not write and driver.info.server_version < _RESET_CHECKED:
                await driver.close()
                driver = await _connect(database, options=_READ_ONLY)
                unused.push_async_callback(driver.close)
            # `DISCARD ALL` of the user would drop statements that psycopg has prepared.
            driver.prepare_threshold = None
            wire = cls(driver, budget)
            unused.push_async_callback(wire.close)
            await wire.prepare()
            unused.pop_all()
        return wire

    async def prepare(self) -> None:
        """Set what each session of the studio begins with."""
        await self.driver.execute(APPLY_SETTINGS, {"settings": json.dumps(SESSION_SETTINGS), "local": False})

    def _add_notice(self, notice: psycopg.errors.Diagnostic) -> None:
        self.relay.message_complete()
        self.notices.add_of_server(notice)

    @property
    def status(self) -> TransactionStatus:
        """The state of the transaction on the server, as it reported it last."""
        return TransactionStatus(self.driver.pgconn.transaction_status)

    async def cancel(self) -> None:
        """Cancel the running statement."""
        # A server that is gone or hangs cannot cancel.
        with suppress(psycopg.Error):
            await self.driver.cancel_safe(timeout=_CANCEL_SECONDS)

    async def close(self) -> None:
        """End the session on the server, and a statement that runs in it."""
        if self.status == TransactionStatus.ACTIVE and not self.driver.closed:
            await self.cancel()
        await self.driver.close()
        # psycopg leaves the memory of a connection that was lost to the garbage collector.
        self.driver.pgconn.finish()
        await self.relay.closed()

    async def table(self, text: str, outcome: Outcome, *, limit: int, stops: bool) -> AsyncGenerator[dict[str, Any]]:
        """Run a statement and yield its columns and rows; with `stops`, cancel it at the limit.

        Otherwise the rest is read and forgotten, because a statement that may write has to run to its end.
        """
        batch, has_columns, is_stopped = Batch(), False, False
        try:
            async with aclosing(self.results(text, outcome)) as results:
                async for result in results:
                    if not has_columns:
                        has_columns = True
                        yield {"columns": columns_of(result)}
                    if result.status != ExecStatus.SINGLE_TUPLE:
                        continue
                    if outcome.rows >= limit or outcome.is_full:
                        outcome.more = True
                        if stops and not is_stopped:
                            is_stopped = True
                            await self.cancel()
                        continue
                    outcome.rows += 1
                    outcome.characters += batch.add(result)
                    # Not only once the browser has read the batch.
                    result.clear()
                    if batch.is_full:
                        yield {"rows": batch.rows}
                        batch = Batch()
        except psycopg.errors.QueryCanceled:
            if not is_stopped:
                raise
        if batch.rows:
            yield {"rows": batch.rows}

    async def results(self, text: str, outcome: Outcome) -> AsyncGenerator[PGresult]:
        """Send a statement; yield one result for each row, and at the end one without rows. Reads to the end."""
        started = perf_counter()
        failure: psycopg.Error | None = None
        try:
            await self.driver.wait(_send(self.driver.pgconn, text))
            while result := await self.driver.wait(generators.fetch(self.driver.pgconn)):
                self.relay.message_complete()
                match result.status:
                    case ExecStatus.SINGLE_TUPLE:
                        yield result
                    case ExecStatus.TUPLES_OK | ExecStatus.COMMAND_OK:
                        outcome.command = (result.command_status or b"").decode()
                        yield result
                    case ExecStatus.EMPTY_QUERY:
                        failure = psycopg.ProgrammingError("the text contains no statement")
                    case ExecStatus.COPY_OUT | ExecStatus.COPY_IN | ExecStatus.COPY_BOTH:
                        self.driver.pgconn.finish()
                        raise copy_unsupported()
                    case _:
                        failure = psycopg.errors.error_from_result(result, encoding="utf-8")
        except psycopg.OperationalError as error:
            if self.relay.ended_at_bytes is not None:
                self.driver.pgconn.finish()
                raise RowTooLarge(self.relay.ended_at_bytes) from error
            # The server's own words, if it ended the session with some.
            raise failure or error from None
        outcome.ms = round((perf_counter() - started) * 1000, 1)
        if failure:
            try:
                raise failure
            finally:
                # Otherwise its traceback refers to this frame, so that a large error waits for the garbage collector.
                del failure


def copy_unsupported() -> Refusal:
    """Return the refusal of `COPY … FROM STDIN`, which needs a subprotocol that a browser does not speak."""
    return Refusal(f"{COPY_UNSUPPORTED}; {_COPY_ADVICE}", code="0A000", fix=_COPY_ADVICE)


async def _connect(database: AsyncDatabase, options: str = "") -> Connection:
    _, parameters = database.engine.dialect.create_connect_args(database.address)
    # psycopg's adapters, which belong to SQLAlchemy.
    parameters.pop("context", None)
    parameters = {**without_environment(database.address), **parameters, **database.options.beside(database.address)}
    if options:
        parameters["options"] = f"{parameters.get('options') or ''} {options}".strip()
    try:
        return await connect_as(Connection, **parameters, autocommit=True)
    except psycopg.Error as error:
        raise connection_error(database.address, error) from error


def _send(connection: PGconn, statement: str) -> Generator[Any, Any, None]:
    # With parameters, even none, the protocol takes a single statement: PostgreSQL rejects `commit; update …`.
    connection.send_query_params(statement.encode(), None)
    connection.set_single_row_mode()
    yield from generators.send(connection)
