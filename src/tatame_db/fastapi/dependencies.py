"""Dependencies of endpoints: the database, and a session with one transaction for the request."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Annotated, TypeAlias, TypeVar

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from starlette.requests import HTTPConnection

from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.database.sessions import async_transaction, transaction
from tatame_db.errors import TatameError, fact
from tatame_db.fastapi.lifespan import ASYNC_KEY, SYNC_KEY

T = TypeVar("T")


@fact
class DatabaseNotOpened(TatameError):
    """An endpoint depends on a database that the app has not opened."""

    kind: str
    function: str
    what = "the app has opened no `{kind}`"
    fix = (
        "make the app with `FastAPI(lifespan=database_lifespan({kind}.from_env))`; a test runs the lifespan with"
        " `with TestClient(app) as client:`, or replaces `{function}` in `app.dependency_overrides`"
    )


async def get_async_database(connection: HTTPConnection) -> AsyncDatabase:
    """Return the `AsyncDatabase` of the app's lifespan; tests replace it in `app.dependency_overrides`.

    Raises `DatabaseNotOpened`.
    """
    return _opened(connection, ASYNC_KEY, AsyncDatabase)


async def get_database(connection: HTTPConnection) -> Database:
    """Return the `Database` of the app's lifespan; tests replace it in `app.dependency_overrides`.

    Raises `DatabaseNotOpened`.
    """
    return _opened(connection, SYNC_KEY, Database)


def _opened(connection: HTTPConnection, key: str, kind: type[T]) -> T:
    # Not the app's own state: a mounted app shares the state of the lifespan alone.
    database = getattr(connection.state, key, None)
    if not isinstance(database, kind):
        raise DatabaseNotOpened(kind=kind.__name__, function=f"get_{key}")
    return database


AsyncDatabaseDep: TypeAlias = Annotated[AsyncDatabase, Depends(get_async_database)]
"""The parameter of an `async def` endpoint that reads and writes with queries."""

DatabaseDep: TypeAlias = Annotated[Database, Depends(get_database)]
"""The parameter of a `def` endpoint that reads and writes with queries."""


async def get_async_session(database: AsyncDatabaseDep) -> AsyncGenerator[AsyncSession]:
    """Yield a session with one transaction; it is committed if the endpoint returns, and rolled back if it raises."""
    # A closed session would connect again, for example in a stream that is sent later, and never give that back.
    async with database.session(close_resets_only=False) as session, async_transaction(session):
        yield session


def get_session(database: DatabaseDep) -> Generator[Session]:
    """Do what `get_async_session` does, for `def` endpoints."""
    with database.session(close_resets_only=False) as session, transaction(session):
        yield session


# A dependency with `yield` ends after the response by default: a client would learn of a success that a failed
# commit then takes back.
AsyncSessionDep: TypeAlias = Annotated[AsyncSession, Depends(get_async_session, scope="function")]
"""The parameter of an `async def` endpoint: a session whose transaction is committed before the response is sent.

An exception rolls it back, `HTTPException` included; a response that is returned commits it, whatever its status.
"""

SessionDep: TypeAlias = Annotated[Session, Depends(get_session, scope="function")]
"""The parameter of a `def` endpoint: a session whose transaction is committed before the response is sent."""
