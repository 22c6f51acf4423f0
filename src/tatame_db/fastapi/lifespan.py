"""The lifespan of an app: its databases are opened before the first request and closed after the last."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from starlette.concurrency import run_in_threadpool

from tatame_db.database.pool import AsyncDatabase, Database

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from fastapi import FastAPI

AnyDatabase: TypeAlias = Database | AsyncDatabase
State: TypeAlias = "Mapping[str, Any]"
Lifespan: TypeAlias = "Callable[[FastAPI], AbstractAsyncContextManager[State]]"

SYNC_KEY, ASYNC_KEY = "database", "async_database"
"""Where the dependencies find the databases in the state of a lifespan."""


def database_lifespan(
    *databases: AnyDatabase | Callable[[], AnyDatabase],
    app_lifespan: Callable[[FastAPI], AbstractAsyncContextManager[Any]] | None = None,
) -> Lifespan:
    """Return a lifespan that opens databases, and closes them when the app stops.

        app = FastAPI(lifespan=database_lifespan())
        app = FastAPI(lifespan=database_lifespan(lambda: Database(address, pool_size=5), app_lifespan=warm_up))

    A database is passed as such, or as a function that makes it; without any, it is `AsyncDatabase.from_env`. It may be
    one `Database`, one `AsyncDatabase`, or one of each. `app_lifespan` is entered when they are open, and left before
    they are closed. Nothing connects before the first request, so the app starts without a server.

    It yields `{"async_database": …}`, `{"database": …}` or both, with the state of `app_lifespan`. A lifespan of your
    own that yields one of these serves the dependencies as well. Raises `TypeError` for two databases of a kind.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[State]:
        state: dict[str, Any] = {}
        async with AsyncExitStack() as stack:
            for opened in databases or (AsyncDatabase.from_env,):
                database = opened if isinstance(opened, AnyDatabase) else opened()
                key = await _enter(stack, database)
                if key in state:
                    raise TypeError(f"database_lifespan got two databases of the type {type(database).__name__}")
                state[key] = database
            if app_lifespan is not None:
                state |= await stack.enter_async_context(app_lifespan(app)) or {}
            yield state

    return lifespan


async def _enter(stack: AsyncExitStack, database: AnyDatabase) -> str:
    if isinstance(database, AsyncDatabase):
        await stack.enter_async_context(database)
        return ASYNC_KEY

    async def close(*raised: Any) -> None:
        # It blocks until its connections are no longer in use, and they may be in use by this event loop.
        await run_in_threadpool(database.__exit__, *raised)

    stack.push_async_exit(close)
    return SYNC_KEY
