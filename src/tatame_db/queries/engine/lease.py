"""Connections that the engine holds: taken from the pool, made into pipes, and given back."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from copy import copy
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, cast

import psycopg
from sqlalchemy.exc import MissingGreenlet, SQLAlchemyError
from sqlalchemy.util import greenlet_spawn

from tatame_db.database.connections import skip_checkout_checks
from tatame_db.database.driver import async_driver_connection, driver_connection, is_gone
from tatame_db.database.errors import ConnectionRefused, ConnectionsExhausted
from tatame_db.database.failures import connection_error
from tatame_db.database.lending import borrowing
from tatame_db.errors import TatameError
from tatame_db.queries.engine.call import MAX_TRIES, Call
from tatame_db.queries.engine.cursors import is_usable
from tatame_db.queries.engine.loss import Loss
from tatame_db.queries.engine.pipe import Owner, Pipe

if TYPE_CHECKING:
    from sqlalchemy import PoolProxiedConnection
    from sqlalchemy.pool import QueuePool

    from tatame_db.database.pool import AsyncDatabase

MAX_OPENING = 4
"""How many connections are opened at once: a server starts a process for each, which slows down those that work."""

PAUSE_SECONDS = 0.2
"""How long after a failure no connection is tried: a server that restarts should not be kept busy by refusals."""

LEAVE_SECONDS = 1
"""How long an attempt that is given up may take to end."""

FAILURES = (TatameError, SQLAlchemyError, psycopg.Error, OSError)


async def checkout_async(database: AsyncDatabase) -> PoolProxiedConnection:
    """Take a connection out of the pool, in autocommit.

    Raises `DatabaseUnavailable`.
    """
    pool = cast("QueuePool", database.engine.sync_engine.pool)
    token = skip_checkout_checks.set(True)
    try:
        connection = await _idle_or_new(pool, waits=database.compares_again)
    finally:
        skip_checkout_checks.reset(token)
    driver = async_driver_connection(connection)
    if not driver.autocommit:
        try:
            await driver.set_autocommit(True)
        except BaseException:
            connection.invalidate()
            raise
    return connection


class LentConnection:
    """A connection of the pool for the length of a block, in autocommit."""

    def __init__(self, database: AsyncDatabase, name: str) -> None:
        self._database = database
        self._name = name
        """That of the statement, which the observer learns of if it gets no connection."""

    async def __aenter__(self) -> PoolProxiedConnection:
        started = perf_counter()
        try:
            self._connection = await checkout_async(self._database)
        except BaseException as error:
            self._database.observer.record(self._name, started, None, error)
            raise
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        connection = self._connection
        if not connection.is_valid:
            # It was closed together with its database.
            return
        if is_usable(connection):
            # In autocommit nothing is rolled back, so there is nothing to wait for.
            connection.close()
        else:
            await greenlet_spawn(connection.invalidate)


async def _idle_or_new(pool: QueuePool, *, waits: bool) -> PoolProxiedConnection:
    if pool.checkedin() and not waits:
        # An idle connection needs no waiting, and a greenlet would cost more than everything else here. If it
        # is taken before we get it, opening another one outside a greenlet raises `MissingGreenlet`.
        with suppress(MissingGreenlet):
            connection = pool.connect()
            gone = is_gone(driver_connection(connection))
            return await greenlet_spawn(_alive, pool, connection) if gone else connection
    connection = await greenlet_spawn(pool.connect)
    return await greenlet_spawn(_alive, pool, connection)


def _alive(pool: QueuePool, connection: PoolProxiedConnection) -> PoolProxiedConnection:
    """Return the connection, or another one of the pool if the server ended it while it was idle."""
    # All idle ones may be gone. After as many, one was new: the call itself says what has become of it.
    for _ in range(pool.size()):
        if not is_gone(driver_connection(connection)):
            break
        connection.invalidate()
        connection = pool.connect()
    return connection


class Receiver(Owner, Protocol):
    """Receives the pipes that were asked for."""

    def arrived(self, pipe: Pipe) -> None:
        """A pipe has answered for the first time."""
        ...

    def refused(self) -> None:
        """No connection could be had."""
        ...


class Leases:
    """Makes pipes of the pool's connections, in tasks of its own: a caller that leaves must not leave one half open."""

    def __init__(self, database: AsyncDatabase, receiver: Receiver, loop: asyncio.AbstractEventLoop) -> None:
        self._database = database
        self._receiver = receiver
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: Exception | None = None
        self._failed_at = float("-inf")
        self.opening = 0
        """The number of pipes that are on their way."""
        self._failed_in_a_row = 0

    @property
    def failure(self) -> tuple[Exception | None, float]:
        """The last failure, and the `time.perf_counter()` when it happened."""
        return self._failure, self._failed_at

    @property
    def _is_paused(self) -> bool:
        return perf_counter() < self._failed_at + PAUSE_SECONDS

    @property
    def may_succeed(self) -> bool:
        """Whether an attempt is under way, and not all of the last ones have failed."""
        return self.opening > 0 and self._failed_in_a_row < MAX_OPENING

    def open_soon(self) -> None:
        """Ask for another pipe."""
        if self.opening < MAX_OPENING and not self._is_paused:
            self.opening += 1
            task = self._loop.create_task(self._open())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _open(self) -> None:
        # In the context of a task of its own, so that nothing has to be reset.
        borrowing.set(True)
        try:
            pipe = await self._new_pipe_or_second_try()
        except Exception as error:  # noqa: BLE001, whatever it is, those who wait have to learn it
            self._failure, self._failed_at = error, perf_counter()
            self._failed_in_a_row += 1
            self.opening -= 1
            self._receiver.refused()
            if isinstance(error, ConnectionsExhausted):
                # The pool was busy, and the server is well: the next call waits for its own connection.
                self._failed_at = float("-inf")
        except BaseException:
            self.opening -= 1
            raise
        else:
            self.opening -= 1
            self._failed_in_a_row = 0
            self._receiver.arrived(pipe)

    async def _new_pipe_or_second_try(self) -> Pipe:
        started = perf_counter()
        try:
            return await self._new_pipe()
        except ConnectionsExhausted:
            # It has waited as long as it may.
            raise
        except FAILURES:
            # A caller should wait for one unreachable server, not for two.
            if perf_counter() - started > self._database.options.connect_timeout_seconds:
                raise
        # A server that just restarted, or an administrator who ends sessions, may have ended this one half open.
        return await self._new_pipe()

    async def _new_pipe(self) -> Pipe:
        try:
            connection = await checkout_async(self._database)
            seconds = self._answer_seconds(connection)
            task = self._loop.create_task(self._answering_pipe(connection))
            task.add_done_callback(partial(_close_without_pipe, connection))
            try:
                # Cancelled once, psycopg waits until its statement has ended, which a pooler without a session of the
                # server does not bring about.
                for pause in (seconds, LEAVE_SECONDS, LEAVE_SECONDS):
                    await asyncio.wait({task}, timeout=pause)
                    if task.done():
                        break
                    task.cancel()
                if task.done() and not task.cancelled():
                    return task.result()
            except asyncio.CancelledError:
                if not task.cancel() and not task.cancelled() and not task.exception():
                    give_back(task.result())
                raise
        except psycopg.Error as error:
            raise connection_error(self._database.address, error, self._database.variable) from error
        reason = f"it accepts connections, and answered nothing within {seconds:g} seconds"
        raise ConnectionRefused(address=self._database.address, variable=self._database.variable, reason=reason)

    def _answer_seconds(self, connection: PoolProxiedConnection) -> float:
        """Return how long a connection may take to its first answer in pipeline mode."""
        options = self._database.options
        # A pooler lets a statement wait until it has a session of the server, as a pool does.
        pooled = options.pool_timeout_seconds if connection.info.get("pooled") else 0
        return max(options.connect_timeout_seconds, pooled)

    async def _answering_pipe(self, connection: PoolProxiedConnection) -> Pipe:
        driver = async_driver_connection(connection)
        if driver.info.encoding != "utf-8":
            # Parameters are dumped before it is known on which connection they are sent.
            try:
                await driver.execute("SET client_encoding TO 'UTF8'")
            except BaseException:
                connection.invalidate()
                raise
        pipe = Pipe(connection, self._receiver, self._loop)
        hello = Call(self._loop.create_future(), ())
        hello.tries = MAX_TRIES - 1
        pipe.send(hello)
        try:
            # A pooler accepts connections for which it has no session of the server, and then answers nothing.
            await hello.future
        except asyncio.CancelledError:
            pipe.drop(Loss("no caller waits for its first answer"))
            raise
        return pipe


def _close_without_pipe(connection: PoolProxiedConnection, task: asyncio.Task[Pipe]) -> None:
    """Close the connection of a task that ended without a pipe, perhaps before it ran at all."""
    if (task.cancelled() or task.exception()) and connection.is_valid:
        connection.invalidate()


def fresh(error: Exception) -> Exception:
    """Return a copy of an error that several callers raise, each with a traceback of its own."""
    try:
        own = copy(error)
    except TypeError:
        # The class of an app whose `__init__` does not accept its own `args`.
        return error
    own.__cause__ = error.__cause__
    return own.with_traceback(error.__traceback__)


def give_back(pipe: Pipe) -> None:
    """Return the connection of an idle pipe to the pool."""
    if pipe.leave():
        # In autocommit nothing is rolled back, so there is nothing to wait for.
        pipe.connection.close()
    else:
        pipe.connection.invalidate()
