"""Reads on a replica: chosen by the caller for each call, and only if it has what the caller has written."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import psycopg
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from tatame_db.database.address import hosts_of
from tatame_db.database.connecting import waiting_seconds
from tatame_db.database.connections import Connections
from tatame_db.database.driver import driver_connection
from tatame_db.database.errors import NotAReplica
from tatame_db.database.failures import refusing_writes
from tatame_db.database.identity import identify
from tatame_db.database.options import check_seconds
from tatame_db.database.positions import SEES_CONTROL, STANDING, Has, Position, Standing
from tatame_db.database.replicas import (
    ANSWER_SECONDS,
    READ_ONLY,
    UNREACHABLE,
    WITHIN_SECONDS,
    ReplicaConnections,
    pauses,
)
from tatame_db.database.silence import Patience, Watch, begin_setup, patience

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from sqlalchemy import Connection
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session, SessionTransaction
    from sqlalchemy.pool import ConnectionPoolEntry

    from tatame_db.database.async_sessions import AsyncSessions
    from tatame_db.database.sessions import Sessions

_READ_COMMITTED = {"isolation_level": "READ COMMITTED"}
"""Each statement sees what is replayed when it starts, also after the one that looked how much that is."""

_making_replica = threading.Lock()


class WithReplica(Connections):
    """What both faces share."""

    is_replica: ClassVar[bool] = False
    """Whether this is the `replica` of another database."""
    new_replica: ClassVar[Callable[[Any], WithReplica]]
    """The class of `replica`, which each face sets."""
    _replica: WithReplica | None = None
    _sees_control: bool | None = None
    """Whether the role may read the control file of the server."""

    @property
    def replica(self) -> Self:
        """The database of `DATABASE_REPLICA_URL`, for reads that may be a little old; a write raises `ServerReadOnly`.

            gyms = read(Gym).all(db.replica)

        It has a pool of its own, with the options of this one, and is closed with it. Without an address it reads from
        this same server, and refuses writes all the same; in the test kit it is the database itself.
        """
        if self.shares_transaction or self.is_replica:
            return self
        with _making_replica:
            if self._replica is None:
                self._replica = type(self).new_replica(self)
                self._replica._closed = self._closed
        return cast("Self", self._replica)

    @property
    def _server_of_reads(self) -> str:
        """The server of `replica`, in the words of `session.info`."""
        return "primary" if self.replica.address == self.address else "replica"

    @property
    def _is_compared(self) -> bool:
        return self.options.replica_address is not None

    def _compare(self, connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
        replica = self._replica
        if isinstance(replica, ReplicaConnections) and replica.address != self.address:
            # The pool ends it.
            begin_setup(driver_connection(entry), self.options.pool_timeout_seconds, is_pooled=entry.info["pooled"])
            # It may be another server than the last one.
            try:
                replica.comparison.learn(identify(connection))
            except psycopg.Error:
                # Writes need no replica.
                connection.rollback()


class _Question:
    """Whether a server has what was committed before a position, and how long its caller waits for the answer."""

    def __init__(self, database: Connections, after: str | None, within_seconds: float) -> None:
        check_seconds("within_seconds", within_seconds)
        self.position = None if after is None else Position.parse(after)
        self._database = database
        self._within_seconds = within_seconds

    @contextmanager
    def limited(self) -> Generator[None]:
        """Limit the time for a connection, from now on."""
        hosts = len(hosts_of(self._database.address))
        self.until = time.monotonic() + self._within_seconds
        self._patience = Patience(max(self._within_seconds, ANSWER_SECONDS), hosts)
        tokens = waiting_seconds.set(self._within_seconds), patience.set(self._patience)
        try:
            yield
        finally:
            waiting_seconds.reset(tokens[0])
            patience.reset(tokens[1])

    @contextmanager
    def watched(self, connection: Connection) -> Generator[None]:
        """Limit the time for the answers. Raises `DatabaseUnavailable` for a server that is silent."""
        # The connections of the test kit wait for their turn.
        if self._database.shares_transaction:
            yield
            return
        watch = Watch(driver_connection(connection), self._patience.left)
        try:
            yield
        except DBAPIError as error:
            if silence := watch.error(self._database.address, self._database.variable):
                raise silence from error
            raise
        finally:
            watch.end()


class Readers(WithReplica):
    """The part of a `Database` that is about replicas."""

    session: Sessions

    def current_lsn(self) -> str:
        """Return the server's position in its log (WAL) now, which is at or after all that was committed before.

        It is a text of at most 80 characters for `reader` and `caught_up`, without spaces and quotes.
        """
        with self.session() as session:
            return str(self._standing(session).position)

    def caught_up(self, lsn: str, within_seconds: float = WITHIN_SECONDS) -> bool:
        """Wait until the server has what was committed before a position of `current_lsn`, and return whether it has.

        `False` comes at once from a server that is on another timeline, as one that does not follow the new primary
        after a failover. Of an address with several hosts it answers for one; `reader` reads from the one that it
        asked.

        Raises `DatabaseUnavailable` for a server that is away or silent, where `reader` goes to the primary.
        """
        question = _Question(self, _required(lsn), within_seconds)
        with question.limited(), self.session() as session:
            return self._has(session, question)

    @contextmanager
    def reader(self, *, after: str | None = None, within_seconds: float = WITHIN_SECONDS) -> Generator[Session]:
        """Open a session for reads, on a replica that has what was committed before `after`.

            with db.reader(after=lsn) as session:
                gyms = read(Gym).all(session)

        The primary answers instead if no replica can be used, or the one that was asked does not have it in time, or
        is silent for that time or a second. `session.info["server"]` is `"replica"` or `"primary"`, which it is also
        without an address of replicas. A write raises `ServerReadOnly` on both.
        """
        question = _Question(self.replica, after, within_seconds)
        with self.replica.session(info={"server": self._server_of_reads}) as session:
            if self.replica._follows(session, question):
                yield session
                return
        with self.session(info={"server": "primary"}) as session:
            if self.shares_transaction:
                yield session
                return
            event.listen(session, "after_begin", _read_only)
            with refusing_writes(driver_connection(session.connection()).pgconn):
                yield session

    def _follows(self, session: Session, question: _Question) -> bool:
        try:
            with question.limited():
                return self._has(session, question)
        except NotAReplica:
            raise
        except UNREACHABLE:
            return False

    def _has(self, session: Session, question: _Question) -> bool:
        connection = session.connection(execution_options=_READ_COMMITTED)
        if question.position is None:
            return True
        with question.watched(connection):
            for pause in pauses(question.until):
                if (has := self._standing(session).has(question.position)) is not Has.NOT_YET:
                    return has is Has.YES
                time.sleep(pause)
            return self._standing(session).has(question.position) is Has.YES

    def _standing(self, session: Session) -> Standing:
        if self._sees_control is None:
            self._sees_control = bool(session.scalar(SEES_CONTROL))
        return Standing(*session.execute(STANDING[self._sees_control]).one())


class AsyncReaders(WithReplica):
    """The part of an `AsyncDatabase` that is about replicas."""

    session: AsyncSessions

    async def current_lsn(self) -> str:
        """Do what `Database.current_lsn` does."""
        async with self.session() as session:
            return str((await self._standing(session)).position)

    async def caught_up(self, lsn: str, within_seconds: float = WITHIN_SECONDS) -> bool:
        """Do what `Database.caught_up` does."""
        question = _Question(self, _required(lsn), within_seconds)
        with question.limited():
            async with self.session() as session:
                return await self._has(session, question)

    @asynccontextmanager
    async def reader(
        self, *, after: str | None = None, within_seconds: float = WITHIN_SECONDS
    ) -> AsyncGenerator[AsyncSession]:
        """Do what `Database.reader` does.

        async with db.reader(after=lsn) as session:
            gyms = await read(Gym).all(session)
        """
        question = _Question(self.replica, after, within_seconds)
        async with self.replica.session(info={"server": self._server_of_reads}) as session:
            if await self.replica._follows(session, question):
                yield session
                return
        async with self.session(info={"server": "primary"}) as session:
            if self.shares_transaction:
                yield session
                return
            event.listen(session.sync_session, "after_begin", _read_only)
            connection = _sync_connection(await session.connection())
            with refusing_writes(driver_connection(connection).pgconn):
                yield session

    async def _follows(self, session: AsyncSession, question: _Question) -> bool:
        try:
            with question.limited():
                return await self._has(session, question)
        except NotAReplica:
            raise
        except UNREACHABLE:
            return False

    async def _has(self, session: AsyncSession, question: _Question) -> bool:
        connection = await session.connection(execution_options=_READ_COMMITTED)
        if question.position is None:
            return True
        with question.watched(_sync_connection(connection)):
            for pause in pauses(question.until):
                if (has := (await self._standing(session)).has(question.position)) is not Has.NOT_YET:
                    return has is Has.YES
                await asyncio.sleep(pause)
            return (await self._standing(session)).has(question.position) is Has.YES

    async def _standing(self, session: AsyncSession) -> Standing:
        if self._sees_control is None:
            self._sees_control = bool(await session.scalar(SEES_CONTROL))
        return Standing(*(await session.execute(STANDING[self._sees_control])).one())


def _sync_connection(connection: AsyncConnection) -> Connection:
    """Return the connection below an async one that is open."""
    return cast("Connection", connection.sync_connection)


def _read_only(_: Session, __: SessionTransaction, connection: Connection) -> None:
    """Begin a transaction of a session that only reads, also after a commit."""
    connection.execute(READ_ONLY)


def _required(lsn: str) -> str:
    # Without a position, `reader` asks nothing.
    Position.parse(lsn)
    return lsn
