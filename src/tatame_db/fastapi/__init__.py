"""FastAPI: a lifespan that opens the database, dependencies, responses to a database that is away, health routes.

    from tatame_db.fastapi import AsyncSessionDep, add_database_handlers, database_lifespan, health_router

    app = FastAPI(lifespan=database_lifespan())
    add_database_handlers(app)
    app.include_router(health_router)

    @app.get("/gyms/{gym_id}")
    async def show_gym(gym_id: int, session: AsyncSessionDep) -> GymOut: ...

It needs the extra `tatame-db[fastapi]`.
"""

from __future__ import annotations

from tatame_db.fastapi.installed import require_fastapi

require_fastapi()

from tatame_db.fastapi.dependencies import (  # noqa: E402, FastAPI is there
    AsyncDatabaseDep,
    AsyncSessionDep,
    DatabaseDep,
    SessionDep,
    get_async_database,
    get_async_session,
    get_database,
    get_session,
)
from tatame_db.fastapi.handlers import add_database_handlers  # noqa: E402, as above
from tatame_db.fastapi.health import health_router  # noqa: E402, as above
from tatame_db.fastapi.lifespan import database_lifespan  # noqa: E402, as above

__all__ = [
    "AsyncDatabaseDep",
    "AsyncSessionDep",
    "DatabaseDep",
    "SessionDep",
    "add_database_handlers",
    "database_lifespan",
    "get_async_database",
    "get_async_session",
    "get_database",
    "get_session",
    "health_router",
]
