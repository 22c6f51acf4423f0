"""HTTP responses: JSON, problems, and bodies that are streamed until the client disconnects."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import psycopg
from sqlalchemy.exc import DBAPIError
from starlette.responses import Response

from tatame_db.studio.errors import StudioStopped, problem_of, status_of, translated

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine

    from starlette.types import Receive, Scope, Send

T = TypeVar("T")
_log = logging.getLogger(__name__)
_CUT_OFF = "A download was broken off by an error of the database (%s); its file is incomplete."


def json_response(content: Any, status: int = 200) -> Response:
    """Respond with JSON."""
    # SQLAlchemy's names are a subclass of `str`, which msgspec does not encode.
    return Response(msgspec.json.encode(content, enc_hook=str), status, media_type="application/json")


def problem_response(error: Exception) -> Response:
    """Respond with an expected error. Raises any other again, because it is a bug."""
    expected = translated(error)
    return json_response(problem_of(expected), status_of(expected))


# --- Work that ends with the client ----------------------------------------------------------------------------------


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T], timeout_seconds: float | None = None) -> T:
    """Do the work; when the client disconnects, cancel it, and with it the statement that runs on the server.

    The body of the request must have been read. Raises `StudioStopped` on a disconnect, and `TimeoutError`.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        done, _ = await asyncio.wait({working, leaving}, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        if working in done:
            return working.result()
        if leaving in done:
            raise StudioStopped
        # A server that hangs does not even respond to a cancel request, so the work is left to end by itself.
        _abandoned.add(working)
        working.add_done_callback(_abandoned.discard)
        raise TimeoutError
    finally:
        leaving.cancel()
        working.cancel()
        if working not in _abandoned:
            await asyncio.gather(working, return_exceptions=True)


# The event loop holds its tasks by weak references only.
_abandoned: set[asyncio.Future[Any]] = set()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class StreamedResponse(Response):
    """A body that is sent piece by piece; the generator is closed when the client disconnects.

    An error in the middle breaks the connection off, so that no client takes an incomplete body for a complete one.
    An `open_ended` body marks its own end, if it has one, and ends normally when the studio stops.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes],
        media_type: str,
        headers: dict[str, str] | None = None,
        *,
        open_ended: bool = False,
    ) -> None:
        super().__init__(media_type=media_type, headers=headers)
        self.pieces, self.open_ended = pieces, open_ended
        del self.headers["content-length"]

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        async with contextlib.aclosing(self.pieces) as pieces:
            # An error before the first piece still becomes a response with a status.
            first = await until_disconnect(receive, anext(pieces, b""))
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            try:
                await until_disconnect(receive, self._send_rest(pieces, send))
            except StudioStopped:
                if not self.open_ended:
                    return
            except (DBAPIError, psycopg.Error) as error:
                _log.warning(_CUT_OFF, _state_of(error))
                return
            await send({"type": "http.response.body", "body": b""})

    async def _send_rest(self, pieces: AsyncGenerator[bytes], send: Send) -> None:
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})


def _state_of(error: DBAPIError | psycopg.Error) -> str:
    """Return the SQLSTATE, because a message may contain values of rows."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return (isinstance(cause, psycopg.Error) and cause.sqlstate) or "the connection was lost"
