"""Requests of several modules: routes that return data, and bodies of JSON."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from tatame_db.studio.errors import BadInput, StudioStopped
from tatame_db.studio.responses import json_response, until_disconnect
from tatame_db.studio.transactions import PAGE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

_MAX_BODY_BYTES = 16_000_000
_LARGE_BODY_BYTES = 1_000_000


def get_route(
    path: str, method: Callable[[Request], Awaitable[Any]], *, timeout_seconds: int = PAGE_SECONDS + 5
) -> Route:
    """Respond to GET with what a method returns, and cancel it when the client disconnects."""

    async def respond(request: Request) -> Response:
        async def work() -> Any:
            return await method(request)

        return json_response(await until_disconnect(request.receive, work(), timeout_seconds))

    return Route(path, respond)


async def json_body(request: Request, kind: type[Any], turn: AsyncExitStack | None = None) -> Any:
    """Read the body of a request. Raises `BadInput`, and `StudioStopped` if the client leaves meanwhile.

    Only one large body at a time is in memory: until it was read, or with a `turn`, until that ends.
    """
    if turn is None:
        async with AsyncExitStack() as reading:
            return await json_body(request, kind, reading)
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise BadInput(problem="the request is not JSON", advice="send it as `Content-Type: application/json`")
    body, is_large = bytearray(), False
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > _LARGE_BODY_BYTES and not is_large:
                is_large = True
                await turn.enter_async_context(request.app.state.large_body)
            if len(body) > _MAX_BODY_BYTES:
                raise BadInput(problem=f"the request is larger than {_MAX_BODY_BYTES:,} bytes")
    except ClientDisconnect:
        raise StudioStopped from None
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(problem=f"the request is malformed: {error}") from None
