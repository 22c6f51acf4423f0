"""A pool of connections and its sessions, sync and async."""

from __future__ import annotations

import asyncio
import queue
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

from sqlalchemy import URL, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, MissingGreenlet
from sqlalchemy.util.concurrency import in_greenlet

from tatame_db.database.connecting import AsyncDatabasePool, DatabasePool, connect_async, connect_patiently
from tatame_db.database.driver import close_async
from tatame_db.database.errors import ConnectionsBusy
from tatame_db.database.health import CHECK_TIMEOUT_SECONDS, Health
from tatame_db.database.idle import AsyncIdleConnections
from tatame_db.database.lending import LendingPool
from tatame_db.database.readers import AsyncReaders, Readers
from tatame_db.database.replicas import ReplicaConnections, replica_options
from tatame_db.database.retries import (
    RETRIES,
    Attempts,
    IsolationLevel,
    refuse_async,
    refuse_awaitable,
    require_awaitable,
)
from tatame_db.database.sessions import Sessions
from tatame_db.errors import TatameError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from tatame_db.database.options import DatabaseOptions

T = TypeVar("T")

CLOSE_TIMEOUT_SECONDS = 30.0


class Database(Readers):
    """A pool of at most 20 connections, and sessions on them.

        with Database.from_env() as db, db.session.begin() as session:
            gym = session.get(Gym, 1)

    Nothing connects before the first use. Every use raises `DatabaseUnavailable` if no connection can be made.
    """

    def __init__(self, address: URL | str, **options: Unpack[DatabaseOptions]) -> None:
        super().__init__(address, **options)
        self.engine = create_engine(self.address, poolclass=DatabasePool, **self._engine_options)
        self._listen(self.engine)
        event.listen(self.engine, "do_connect", connect_patiently)
        self.session = Sessions(self.engine, expire_on_commit=False)
        """`with db.session.begin() as session:` commits at its end; after `db.session()`, you commit yourself."""

    def ping(self) -> None:
        """Make one round trip. Raises `DatabaseUnavailable`."""
        with self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def check(self, timeout_seconds: float = CHECK_TIMEOUT_SECONDS) -> Health:
        """Return within the time-out whether PostgreSQL answers, and how fast or why not.

        No failure of the server is raised. Raises `ValueError` for a time-out below 0 or above a day.

        It uses a connection of its own for a moment, so it does not wait while all of the pool are busy.
        """
        probe, answers = self._probe(timeout_seconds), queue.SimpleQueue[Health]()
        if self._closed:
            return self._closed_health()
        probe.start(answers.put)
        try:
            return answers.get(timeout=timeout_seconds)
        except queue.Empty:
            return probe.timed_out()

    def run_in_transaction(
        self, work: Callable[[Session], T], *, retries: int = RETRIES, isolation_level: IsolationLevel | None = None
    ) -> T:
        """Call a function with a new session, commit, and return its result; after a conflict, try all of it again.

            gym_id = db.run_in_transaction(lambda session: open_gym(session, "Tatame Norte"))

        A deadlock, a serialization failure, or a migration that has changed the type of a column rolls the transaction
        back, and the function is called again up to `retries` times, after pauses of about 20, 40, 80 ms and so on. So
        let it have no effect outside the session. An exception of the function rolls back and reaches the caller; so
        does the last conflict.

        Raises `OutcomeUnknown` if the connection is lost during the commit, which is never tried again.
        """
        refuse_async(work)
        attempts = Attempts(work, retries)
        while True:
            try:
                return self._run_once(work, isolation_level)
            except DBAPIError as error:
                pause_seconds = attempts.pause_seconds(error)
            time.sleep(pause_seconds)

    def _run_once(self, work: Callable[[Session], T], isolation_level: IsolationLevel | None) -> T:
        with self.session.begin() as session:
            if isolation_level:
                session.connection(execution_options={"isolation_level": isolation_level})
            result = work(session)
            refuse_awaitable(result)
        return result

    def close(self, timeout_seconds: float = CLOSE_TIMEOUT_SECONDS) -> None:
        """Open no more connections, wait for those in use, close all; a second call does nothing.

        A stream that the caller itself has not read to its end is not waited for: if it goes on, it raises
        `DatabaseClosed`. Raises `ConnectionsBusy` when the time runs out.
        """
        try:
            if isinstance(self._replica, Database):
                self._replica.close(timeout_seconds)
        finally:
            self._close(timeout_seconds)

    def _close(self, timeout_seconds: float) -> None:
        self._end_streams()
        self._pool.kept.close()
        self._idle.stop()
        deadline = time.monotonic() + timeout_seconds
        while _in_use(self.engine) and time.monotonic() < deadline:
            time.sleep(0.01)
        busy = _in_use(self.engine)
        self.engine.dispose()
        if busy:
            raise ConnectionsBusy(busy=busy, seconds=timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, raised: BaseException | None, __: object) -> None:
        with _note_on(raised):
            self.close()


class AsyncDatabase(AsyncReaders):
    """The asyncio version of `Database`.

    async with AsyncDatabase.from_env() as db, db.session.begin() as session:
        gym = await session.get(Gym, 1)
    """

    _idle_connections = AsyncIdleConnections

    def __init__(self, address: URL | str, **options: Unpack[DatabaseOptions]) -> None:
        # SQLAlchemy's asyncio loads greenlet, which sync programs do not need.
        from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415

        from tatame_db.database.async_sessions import AsyncSessions  # noqa: PLC0415

        super().__init__(address, **options)
        engine_options = self._engine_options
        engine_options["connect_args"]["async_creator_fn"] = connect_async
        # The test kit's connections serve several event loops at once, and are not lent.
        pool = AsyncDatabasePool if self.shares_transaction else LendingPool
        self.engine = create_async_engine(self.address, poolclass=pool, **engine_options)
        # psycopg closes without waiting, so a connection can be closed where nothing can be awaited: by the garbage
        # collector, by a call that found it broken, or after a cancellation.
        dialect = self.engine.sync_engine.dialect
        dialect.do_close = dialect.do_terminate = close_async  # type: ignore[assignment]
        self._listen(self.engine.sync_engine)
        event.listen(self.engine.sync_engine, "do_connect", _connect_in_greenlets_only)
        self.session = AsyncSessions(self.engine, expire_on_commit=False)
        """`async with db.session.begin() as session:` commits at its end; after `db.session()`, you commit yourself."""

    async def ping(self) -> None:
        """Make one round trip. Raises `DatabaseUnavailable`."""
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def check(self, timeout_seconds: float = CHECK_TIMEOUT_SECONDS) -> Health:
        """Do what `Database.check` does."""
        loop = asyncio.get_running_loop()
        probe, answers = self._probe(timeout_seconds), asyncio.Queue[Health]()

        def report(health: Health) -> None:
            # The caller may be gone, and its loop with it.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(answers.put_nowait, health)

        if self._closed:
            return self._closed_health()
        probe.start(report)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await answers.get()
        except TimeoutError:
            return probe.timed_out()

    async def run_in_transaction(
        self,
        work: Callable[[AsyncSession], Awaitable[T]],
        *,
        retries: int = RETRIES,
        isolation_level: IsolationLevel | None = None,
    ) -> T:
        """Do what `Database.run_in_transaction` does, with an async function.

        gym_id = await db.run_in_transaction(lambda session: open_gym(session, "Tatame Norte"))

        If the caller is cancelled during the commit, the outcome is unknown too.
        """
        attempts = Attempts(work, retries)
        while True:
            try:
                return await self._run_once(work, isolation_level)
            except DBAPIError as error:
                pause_seconds = attempts.pause_seconds(error)
            await asyncio.sleep(pause_seconds)

    async def _run_once(
        self, work: Callable[[AsyncSession], Awaitable[T]], isolation_level: IsolationLevel | None
    ) -> T:
        async with self.session.begin() as session:
            if isolation_level:
                await session.connection(execution_options={"isolation_level": isolation_level})
            working = work(session)
            require_awaitable(working)
            return await working

    async def close(self, timeout_seconds: float = CLOSE_TIMEOUT_SECONDS) -> None:
        """Open no more connections, wait for those in use, close all; a second call does nothing.

        A stream that the caller itself has not read to its end is not waited for: if it goes on, it raises
        `DatabaseClosed`. Raises `ConnectionsBusy` when the time runs out.
        """
        try:
            if isinstance(self._replica, AsyncDatabase):
                await self._replica.close(timeout_seconds)
        finally:
            await self._close(timeout_seconds)

    async def _close(self, timeout_seconds: float) -> None:
        self._end_streams()
        if isinstance(self._pool, LendingPool):
            self._pool.end_loans()
        self._idle.stop()
        deadline = time.monotonic() + timeout_seconds
        while _in_use(self.engine.sync_engine) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        busy = _in_use(self.engine.sync_engine)
        await self.engine.dispose()
        if busy:
            raise ConnectionsBusy(busy=busy, seconds=timeout_seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _: object, raised: BaseException | None, __: object) -> None:
        with _note_on(raised):
            await self.close()


class _Replica(ReplicaConnections, Database):
    """The `replica` of a `Database`."""

    def __init__(self, primary: Database) -> None:
        self.primary = primary
        super().__init__(primary.options.replica_address or primary.address, **replica_options(primary))


class _AsyncReplica(ReplicaConnections, AsyncDatabase):
    """The `replica` of an `AsyncDatabase`."""

    def __init__(self, primary: AsyncDatabase) -> None:
        self.primary = primary
        super().__init__(primary.options.replica_address or primary.address, **replica_options(primary))


Database.new_replica = _Replica
AsyncDatabase.new_replica = _AsyncReplica


@contextmanager
def _note_on(raised: BaseException | None) -> Generator[None]:
    """Add a failure to close as a note to the error that ended a block, which it would replace."""
    try:
        yield
    except TatameError as error:
        if raised is None:
            raise
        raised.add_note(str(error))


def _in_use(engine: Engine) -> int:
    return engine.pool.checkedout()  # type: ignore[attr-defined,no-any-return]  # a QueuePool's


def _connect_in_greenlets_only(*_: object) -> None:
    # Queries ask the pool for an idle connection outside a greenlet. Without one it would connect, and this stops it.
    if not in_greenlet():
        raise MissingGreenlet("a new connection has to be awaited")
