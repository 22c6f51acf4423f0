"""The sessions of an `AsyncDatabase`, apart because SQLAlchemy's asyncio loads greenlet."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from tatame_db.database.sessions import async_transaction

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class AsyncSessions(async_sessionmaker[AsyncSession]):
    """Makes them; `begin` does what that of `Sessions` does."""

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[AsyncSession]:  # type: ignore[override]  # SQLAlchemy names its own class
        """Open a session with a transaction that is committed at the end of the block. Raises `TransactionAborted`."""
        async with self() as session, async_transaction(session):
            yield session
