"""The routes of the SQL page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.routing import Route

from tatame_db.studio.requests import get_route, json_body
from tatame_db.studio.responses import StreamedResponse, json_response
from tatame_db.studio.sql.names import names
from tatame_db.studio.sql.sessions import Script, Sessions
from tatame_db.studio.transactions import read_transaction

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request
    from starlette.responses import Response


class _Cancel(msgspec.Struct, forbid_unknown_fields=True):
    id: str


class _Answer(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    yes: bool


class _Tabs(msgspec.Struct, forbid_unknown_fields=True):
    tabs: list[str]


def sql_routes(sessions: Sessions) -> list[Route]:
    """Return the routes that run statements and watch over sessions."""

    async def run(request: Request) -> Response:
        script = await json_body(request, Script)
        return StreamedResponse(_lines(sessions.run(script)), "application/x-ndjson", open_ended=True)

    async def cancel(request: Request) -> Response:
        body = await json_body(request, _Cancel)
        return json_response({"cancelled": await sessions.cancel(body.id)})

    async def answer(request: Request) -> Response:
        body = await json_body(request, _Answer)
        return json_response({"answered": sessions.answer(body.id, yes=body.yes)})

    async def states(request: Request) -> Response:
        body = await json_body(request, _Tabs)
        return json_response(sessions.states(body.tabs))

    async def close(request: Request) -> Response:
        body = await json_body(request, _Tabs)
        await sessions.close(body.tabs)
        return json_response({})

    async def completions(_: Request) -> dict[str, Any]:
        async with read_transaction(sessions.database) as connection:
            return await names(connection)

    named = {"": run, "/cancel": cancel, "/answer": answer, "/states": states, "/close": close}
    posted = [Route(f"/api/sql{path}", endpoint, methods=["POST"]) for path, endpoint in named.items()]
    return [get_route("/api/sql/names", completions), *posted]


async def _lines(pieces: AsyncGenerator[dict[str, Any]]) -> AsyncGenerator[bytes]:
    try:
        async for piece in pieces:
            yield msgspec.json.encode(piece) + b"\n"
    finally:
        await pieces.aclose()
