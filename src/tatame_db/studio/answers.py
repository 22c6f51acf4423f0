"""What goes over the wire: answers, refusals, and errors in words."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.responses import Response

from tatame_db.database.errors import (
    ConnectionRefused,
    DatabaseMissing,
    PasswordRejected,
    ServerNotRunning,
    ServerTooOld,
)
from tatame_db.errors import NOTHING_CHANGED, TatameError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

T = TypeVar("T")
_AWAY = (ServerNotRunning, DatabaseMissing, ConnectionRefused, PasswordRejected, ServerTooOld)


class Refused(TatameError):
    """A request that is not answered, and why."""

    status = 400

    def __init__(self, what: str, *, means: str = NOTHING_CHANGED, fix: str, **extras: Any) -> None:
        super().__init__(what, means=means, fix=fix)
        self.extras = extras


class BadInput(Refused):
    """The request names or holds what does not exist or cannot be read."""

    def __init__(self, what: str, *, fix: str = "correct it and try again") -> None:
        super().__init__(what, fix=fix)


class NotFound(Refused):
    """There is no such table or row."""

    status = 404


class Forbidden(Refused):
    """It may not be done, by whomever."""

    status = 403


class DatabaseAway(Refused):
    """The database does not answer now."""

    status = 503

    def __init__(self, what: str) -> None:
        super().__init__(
            what,
            means="Nothing is lost; what was not saved was not written.",
            fix="wait: it goes on by itself once the server is back (`tatame-db status`, `tatame-db start`)",
        )


def answer(content: Any, status: int = 200) -> Response:
    """Answer with JSON."""
    # The names of tables are texts of SQLAlchemy's own kind.
    return Response(msgspec.json.encode(content, enc_hook=str), status, media_type="application/json")


def explain(_: Request | None, error: Exception) -> Response:
    """Answer with what went wrong, in words."""
    told = in_words(error)
    code = getattr(told, "code", None)
    facts = {"what": told.what, "means": told.means, "fix": told.fix, "code": code}
    if isinstance(told, Refused):
        return answer(facts | told.extras, told.status)
    return answer(facts, 503 if isinstance(told, _AWAY) else 422)


def in_words(error: Exception) -> TatameError:
    """Put an error of ours, of SQLAlchemy or of the driver into words; others are bugs, and raised."""
    if isinstance(error, TatameError):
        return error
    if isinstance(error, PoolTimeout):
        return DatabaseAway("all connections of the studio are in use")
    if isinstance(error, TimeoutError):
        return DatabaseAway("the database does not answer in time")
    if isinstance(error, DBAPIError):
        error = error.orig if isinstance(error.orig, Exception) else error
    if isinstance(error, psycopg.Error):
        return _of_driver(error)
    raise error


class _Driver(Refused):
    def __init__(self, error: psycopg.Error, status: int, fix: str) -> None:
        super().__init__(words_of(error), fix=fix)
        self.code, self.status = error.sqlstate, status


# By SQLSTATE or its class: the status, and what to do.
_STATES = {
    "57014": (422, "narrow it down, so that it takes less time"),
    "55P03": (422, "somebody else is changing the same rows; try again in a moment"),
    "22": (400, "write the value as the column's type wants it"),
    "42P01": (422, "the schema may be behind: `tatame-db status`, then `tatame-db migrate`"),
    "42703": (422, "the schema may be behind: `tatame-db status`, then `tatame-db migrate`"),
    "42501": (403, "start the studio with `--write`, or as a role that may do it"),
    "25006": (403, "start the studio with `--write`"),
}


def _of_driver(error: psycopg.Error) -> Refused:
    if is_away(error):
        return DatabaseAway(f"the database went away: {words_of(error)}")
    # The driver itself refuses values that no text can hold, and gives no state.
    state = error.sqlstate or ("22" if isinstance(error, psycopg.DataError) else "")
    status, fix = _STATES.get(state) or _STATES.get(state[:2]) or (422, "mend what it says")
    return _Driver(error, status, fix)


def words_of(error: psycopg.Error) -> str:
    """Return what the server says, or else the driver."""
    return error.diag.message_primary or str(error).strip().splitlines()[0]


def is_away(error: psycopg.Error) -> bool:
    """Say whether the server, and not the statement, is the reason."""
    state = error.sqlstate or ""
    ended = state.startswith(("08", "57P")) or state == "53300"
    return ended or (not state and isinstance(error, psycopg.OperationalError))


# --- Requests that end with their asker ------------------------------------------------------------------------------


class NobodyWaits(Refused):
    """The asker left, or the studio ends."""

    status = 503

    def __init__(self) -> None:
        super().__init__("the studio has ended", fix="start it again with `tatame-db studio`")


async def while_asked(receive: Receive, work: Coroutine[Any, Any, T], seconds: float | None = None) -> T:
    """Do the work, and cancel it, down to the statement, when the asker leaves.

    The body of the request was read before. Raises `NobodyWaits`, and `TimeoutError` after so many seconds.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        done, _ = await asyncio.wait({working, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if working in done:
            return working.result()
        if leaving in done:
            raise NobodyWaits
        # A server that hangs does not even take back a statement, so that is not waited for.
        _abandoned.add(working)
        working.add_done_callback(_abandoned.discard)
        raise TimeoutError
    finally:
        leaving.cancel()
        working.cancel()
        if working not in _abandoned:
            await asyncio.gather(working, return_exceptions=True)


_abandoned: set[asyncio.Future[Any]] = set()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Streamed(Response):
    """A body in pieces, as they come; the generator is closed when the asker leaves.

    What fails in the middle breaks the connection off, so that nobody takes a part for the whole. An `open_ended`
    body has its own way to say that it is whole, if it ever is, and ends quietly with the studio.
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
        """Send it."""
        async with contextlib.aclosing(self.pieces) as pieces:
            # What fails before the first piece is answered in words, with a status.
            first = await while_asked(receive, anext(pieces, b""))
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            with contextlib.suppress(DBAPIError, psycopg.Error):
                try:
                    await while_asked(receive, self._send_rest(pieces, send))
                except NobodyWaits:
                    if not self.open_ended:
                        return
                await send({"type": "http.response.body", "body": b""})

    async def _send_rest(self, pieces: AsyncGenerator[bytes], send: Send) -> None:
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
