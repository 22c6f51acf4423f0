"""Sessions with one transaction, whose end never passes over a failed flush."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session, sessionmaker

from tatame_db.database.errors import TransactionAborted

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import SessionTransaction


@contextmanager
def transaction(session: Session) -> Generator[None]:
    """Commit at the end of the block; an error in it rolls back.

    Raises `TransactionAborted` if a flush has failed. `session.begin()` passes over it: SQLAlchemy has rolled back
    then, and an app that caught the error would go on as if its rows were stored.
    """
    with session.begin() as begun:
        yield
        _refuse_failed(session, begun)


@asynccontextmanager
async def async_transaction(session: AsyncSession) -> AsyncGenerator[None]:
    """Do what `transaction` does."""
    async with session.begin():
        begun = session.sync_session.get_transaction()
        yield
        if begun is not None:
            _refuse_failed(session.sync_session, begun)


def _refuse_failed(session: Session, begun: SessionTransaction) -> None:
    if session.get_transaction() is begun and not begun.is_active:
        raise TransactionAborted


class Sessions(sessionmaker[Session]):
    """Makes the sessions of a `Database`."""

    @contextmanager
    def begin(self) -> Generator[Session]:
        """Open a session with a transaction that is committed at the end of the block. Raises `TransactionAborted`."""
        with self() as session, transaction(session):
            yield session
