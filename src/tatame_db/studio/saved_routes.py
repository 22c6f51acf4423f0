"""The routes of the saved queries. They are files, not rows, so a read-only studio writes them too."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute, Route

from tatame_db.studio.requests import get_route, json_body
from tatame_db.studio.responses import json_response
from tatame_db.studio.saved import QueryName, QueryText, QueryVersion

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from tatame_db.studio.saved import Listing, SavedQueries, SavedQuery


def saved_query_routes(saved: SavedQueries) -> list[BaseRoute]:
    """Return the routes that list, read, save, rename and delete the queries."""

    async def listing(_: Request) -> Listing:
        return await asyncio.to_thread(saved.listing)

    async def read(request: Request) -> SavedQuery:
        return await asyncio.to_thread(saved.read, request.query_params.get("name", ""))

    async def save(request: Request) -> Response:
        body = await json_body(request, QueryText)
        return json_response(await asyncio.to_thread(saved.save, body.name, body.text, body.version))

    async def rename(request: Request) -> Response:
        body = await json_body(request, QueryName)
        return json_response(await asyncio.to_thread(saved.rename, body.name, body.to, body.version))

    async def delete(request: Request) -> Response:
        body = await json_body(request, QueryVersion)
        await asyncio.to_thread(saved.delete, body.name, body.version)
        return json_response({"deleted": True})

    return [
        get_route("/api/queries", listing),
        get_route("/api/queries/text", read),
        Route("/api/queries", save, methods=["POST"]),
        Route("/api/queries/rename", rename, methods=["POST"]),
        Route("/api/queries/delete", delete, methods=["POST"]),
    ]
