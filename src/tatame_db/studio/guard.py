"""Who may call: one browser, on this machine, that was given the token."""

from __future__ import annotations

import asyncio
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from starlette.datastructures import URL, Headers, MutableHeaders, QueryParams
from starlette.responses import HTMLResponse, RedirectResponse, Response

from tatame_db.studio.answers import Refused, explain

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_LOCKED = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>tatame studio</title>
<h1>The studio does not know this browser</h1>
<p>Open the address that <code>tatame-db studio</code> printed in its terminal; it holds the token of this run.</p>
<p>If you came here by a link and have opened the studio before, <a href="">open this page again</a>.</p>
"""


class _Unknown(Refused):
    status = 401

    def __init__(self) -> None:
        super().__init__(
            "the studio does not know this browser",
            fix="open the address that `tatame-db studio` printed; it holds the token of this run",
        )


class _OtherName(Refused):
    status = 421

    def __init__(self) -> None:
        super().__init__(
            "the studio is not at this address",
            fix="open it at 127.0.0.1, with the port that `tatame-db studio` printed",
        )


class _OtherPage(Refused):
    status = 403

    def __init__(self) -> None:
        super().__init__("the request comes from another page", fix="work in the studio's own pages")


class Guard:
    """Looks at every request before the studio does, and at every answer after it."""

    def __init__(self, app: ASGIApp, *, port: int) -> None:
        self.app, self.port = app, port
        self.token = secrets.token_urlsafe(24)
        self.ending = asyncio.Event()
        """Set when the studio ends: to those who are being answered, as if they had left."""
        self._cookie = f"tatame_studio_{port}"
        self._pass = secrets.token_urlsafe(32)
        self._tickets: set[str] = set()
        names = ("127.0.0.1", "localhost", "[::1]")
        self._hosts = {f"{name}:{port}" for name in names} | {name for name in names if port == 80}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        nonce = scope["nonce"] = secrets.token_urlsafe(16)
        refusal = self._judged(scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers["Content-Security-Policy"] = _policy(nonce)
                # The studio's own files may be kept, if they are asked about each time; data never.
                headers["Cache-Control"] = "no-cache" if scope["path"].startswith("/static/") else "no-store"
            await send(message)

        await (refusal or self.app)(scope, self._until_end(receive), send_guarded)

    def ticket(self) -> str:
        """Make another token, which opens the studio once."""
        ticket = secrets.token_urlsafe(24)
        self._tickets.add(ticket)
        return ticket

    def _until_end(self, receive: Receive) -> Receive:
        async def receive_or_end() -> Message:
            message, end = asyncio.ensure_future(receive()), asyncio.ensure_future(self.ending.wait())
            try:
                await asyncio.wait({message, end}, return_when=asyncio.FIRST_COMPLETED)
                return message.result() if message.done() else {"type": "http.disconnect"}
            finally:
                message.cancel()
                end.cancel()

        return receive_or_end

    def _judged(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), str(scope["path"])
        is_call = path.startswith("/api/")
        if headers.get("host", "").lower() not in self._hosts:
            return explain(None, _OtherName())
        if is_call and not self._from_here(headers, needs_proof=scope["method"] not in {"GET", "HEAD"}):
            return explain(None, _OtherPage())
        query = QueryParams(scope["query_string"])
        if not is_call and scope["method"] == "GET" and (token := query.get("token")) is not None:
            if self._opens(token):
                return self._let_in(scope, query)
        elif _same(_cookie(headers, self._cookie), self._pass):
            return None
        return explain(None, _Unknown()) if is_call else HTMLResponse(_LOCKED, 401)

    def _from_here(self, headers: Headers, *, needs_proof: bool) -> bool:
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if needs_proof and site is None and origin is None:
            return False
        of_us = origin is None or origin.removeprefix("http://") == headers["host"]
        return of_us and site in ({"same-origin", None} if needs_proof else {"same-origin", "none", None})

    def _opens(self, token: str) -> bool:
        used = {ticket for ticket in self._tickets if _same(token, ticket)}
        self._tickets -= used
        return bool(used) or _same(token, self.token)

    def _let_in(self, scope: Scope, query: QueryParams) -> Response:
        kept = urlencode([(name, value) for name, value in query.multi_items() if name != "token"])
        # Of the address only path and query, so that no name from outside decides where we lead.
        url = URL(scope=scope)
        path = "/" + url.path.lstrip("/")
        response = RedirectResponse(f"{path}?{kept}" if kept else path, 303)
        response.set_cookie(self._cookie, self._pass, httponly=True, samesite="strict", path="/")
        return response


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode(), wanted.encode())


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def _policy(nonce: str) -> str:
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data:; "
        "font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    )
