"""Reads on a replica: chosen by the caller for each call, and only if it has what the caller has written."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from tatame_db.database.connecting import waiting_seconds
from tatame_db.database.connections import Connections
from tatame_db.database.driver import driver_connection
from tatame_db.database.errors import NotAReplica
from tatame_db.database.failures import refusing_writes
from tatame_db.database.replicas import (
    CURRENT_LSN,
    HAS_REPLAYED,
    READ_ONLY,
    UNREACHABLE,
    WITHIN_SECONDS,
    check_position,
    pauses,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

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


class Readers(WithReplica):
    """The part of a `Database` that is about replicas."""

    session: Sessions

    def current_lsn(self) -> str:
        """Return the server's position in its log (WAL) now, which is at or after all that was committed before."""
        with self.session() as session:
            return str(session.scalar(CURRENT_LSN))

    def caught_up(self, lsn: str, within_seconds: float = WITHIN_SECONDS) -> bool:
        """Wait until the server has replayed what was committed before a position, and return whether it has.

        Of an address with several hosts it answers for one; `reader` reads from the one that it asked. Raises
        `DatabaseUnavailable` while no server answers, where `reader` goes to the primary.
        """
        check_position(lsn, within_seconds)
        with self.session() as session:
            session.connection(execution_options=_READ_COMMITTED)
            return _has_replayed(session, lsn, within_seconds)

    @contextmanager
    def reader(self, *, after: str | None = None, within_seconds: float = WITHIN_SECONDS) -> Generator[Session]:
        """Open a session for reads, on a replica that has replayed what was committed before `after`.

            with db.reader(after=lsn) as session:
                gyms = read(Gym).all(session)

        The primary answers instead if no replica can be used, or the one that was asked has not replayed it in time.
        `session.info["server"]` is `"replica"` or `"primary"`. A write raises `ServerReadOnly` on both; on the primary,
        this transaction alone is READ ONLY.
        """
        check_position(after, within_seconds)
        with self.replica.session(info={"server": "replica"}) as session:
            if _follows(session, after, within_seconds):
                yield session
                return
        with self.session(info={"server": "primary"}) as session:
            if self.shares_transaction:
                yield session
                return
            session.execute(READ_ONLY)
            with refusing_writes(driver_connection(session.connection()).pgconn):
                yield session


def _follows(session: Session, after: str | None, within_seconds: float) -> bool:
    token = waiting_seconds.set(within_seconds)
    try:
        session.connection(execution_options=_READ_COMMITTED)
        return after is None or _has_replayed(session, after, within_seconds)
    except NotAReplica:
        raise
    except UNREACHABLE:
        return False
    finally:
        waiting_seconds.reset(token)


def _has_replayed(session: Session, lsn: str, within_seconds: float) -> bool:
    for pause in pauses(within_seconds):
        if session.scalar(HAS_REPLAYED, {"lsn": lsn}):
            return True
        time.sleep(pause)
    return bool(session.scalar(HAS_REPLAYED, {"lsn": lsn}))


class AsyncReaders(WithReplica):
    """The part of an `AsyncDatabase` that is about replicas."""

    session: AsyncSessions

    async def current_lsn(self) -> str:
        """Do what `Database.current_lsn` does."""
        async with self.session() as session:
            return str(await session.scalar(CURRENT_LSN))

    async def caught_up(self, lsn: str, within_seconds: float = WITHIN_SECONDS) -> bool:
        """Do what `Database.caught_up` does."""
        check_position(lsn, within_seconds)
        async with self.session() as session:
            await session.connection(execution_options=_READ_COMMITTED)
            return await _has_replayed_async(session, lsn, within_seconds)

    @asynccontextmanager
    async def reader(
        self, *, after: str | None = None, within_seconds: float = WITHIN_SECONDS
    ) -> AsyncGenerator[AsyncSession]:
        """Do what `Database.reader` does.

        async with db.reader(after=lsn) as session:
            gyms = await read(Gym).all(session)
        """
        check_position(after, within_seconds)
        async with self.replica.session(info={"server": "replica"}) as session:
            if await _follows_async(session, after, within_seconds):
                yield session
                return
        async with self.session(info={"server": "primary"}) as session:
            if self.shares_transaction:
                yield session
                return
            await session.execute(READ_ONLY)
            connection = (await session.connection()).sync_connection
            assert connection is not None  # noqa: S101, for the type checker
            with refusing_writes(driver_connection(connection).pgconn):
                yield session


async def _follows_async(session: AsyncSession, after: str | None, within_seconds: float) -> bool:
    token = waiting_seconds.set(within_seconds)
    try:
        await session.connection(execution_options=_READ_COMMITTED)
        return after is None or await _has_replayed_async(session, after, within_seconds)
    except NotAReplica:
        raise
    except UNREACHABLE:
        return False
    finally:
        waiting_seconds.reset(token)


async def _has_replayed_async(session: AsyncSession, lsn: str, within_seconds: float) -> bool:
    for pause in pauses(within_seconds):
        if await session.scalar(HAS_REPLAYED, {"lsn": lsn}):
            return True
        await asyncio.sleep(pause)
    return bool(await session.scalar(HAS_REPLAYED, {"lsn": lsn}))
