"""Health routes: whether the process lives, and whether the database answers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from tatame_db.database.observer import log_safely
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.fastapi.handlers import RETRY_AFTER_SECONDS
from tatame_db.fastapi.lifespan import ASYNC_KEY, SYNC_KEY

if TYPE_CHECKING:
    from tatame_db.database.health import Health

logger = logging.getLogger("tatame_db.fastapi")

health_router = APIRouter(prefix="/health", include_in_schema=False)
"""`GET /health/live` and `GET /health/ready`; add it with `app.include_router(health_router)`."""


@health_router.get("/live")
async def live() -> JSONResponse:
    """Respond with 200 as long as the app runs: a database that is away is no reason to restart it."""
    return JSONResponse({"status": "live"})


@health_router.get("/ready")
async def ready(request: Request) -> JSONResponse:
    """Respond with 200 if every database of the lifespan answers within a second, and with 503 if one does not.

    The log has the reason, and the response never: it may name the server.
    """
    checked = [await _check(getattr(request.state, key, None)) for key in (ASYNC_KEY, SYNC_KEY)]
    found = [health for health in checked if health is not None]
    away = [health for health in found if not health.healthy]
    if away or not found:
        reason = away[0].reason if away else "no database was opened in the app's lifespan"
        log_safely(logger, logging.WARNING, "not ready: %s", reason)
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        return JSONResponse({"status": "unavailable"}, status_code=503, headers=headers)
    content = {"status": "ready", "latency_ms": round(max(health.latency_ms or 0 for health in found), 1)}
    return JSONResponse(content | await _replica_lag(request))


async def _replica_lag(request: Request) -> dict[str, float | None]:
    """Return the largest lag of the replicas, if there are any; one that is away keeps no request from the app."""
    databases = [getattr(request.state, key, None) for key in (ASYNC_KEY, SYNC_KEY)]
    checked = [
        await _check(database.replica) for database in databases if database and database.options.replica_address
    ]
    found = [health for health in checked if health is not None]
    for health in found:
        if not health.healthy:
            log_safely(logger, logging.WARNING, "the replica is not ready: %s", health.reason)
    if not found:
        return {}
    lags = [health.lag_seconds for health in found]
    return {"replica_lag_seconds": None if None in lags else max(lag or 0.0 for lag in lags)}


async def _check(database: Database | AsyncDatabase | None) -> Health | None:
    if database is None:
        return None
    return await (database.check() if isinstance(database, AsyncDatabase) else run_in_threadpool(database.check))
