"""Access to the studio: one browser on this machine, signed in with the token, from the studio's own pages."""

from __future__ import annotations

import asyncio
import secrets
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from starlette.datastructures import URL, Headers, MutableHeaders, QueryParams
from starlette.responses import HTMLResponse, RedirectResponse, Response

from tatame_db.errors import fact
from tatame_db.studio.errors import Refused
from tatame_db.studio.responses import problem_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_NOT_SIGNED_IN = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Tatame studio</title>
<h1>This browser is not signed in to the studio</h1>
<p>Open the address that <code>tatame-db studio</code> printed in its terminal; it contains the token of this run.</p>
<p>If you followed a link and have opened the studio before, <a href="">open this page again</a>.</p>
"""


@fact
class NotSignedIn(Refused):
    """The request lacks the cookie that the token is exchanged for, or has a wrong token."""

    status = 401
    what = "this browser is not signed in to the studio"
    fix = "open the address that `tatame-db studio` printed; it contains the token of this run"


@fact
class WrongHost(Refused):
    """The Host header names another machine: a domain may have been rebound to this address."""

    status = 421
    what = "the studio does not serve this host"
    fix = "open it at 127.0.0.1, with the port that `tatame-db studio` printed"


@fact
class CrossOrigin(Refused):
    """A page of another origin sent the request, or no page at all where one is required."""

    status = 403
    what = "the request does not come from a page of the studio"
    fix = "use the pages of the studio"


class Guard:
    """Checks every request before the studio gets it, and adds security headers to every response."""

    def __init__(self, app: ASGIApp, *, port: int) -> None:
        self.app, self.port = app, port
        self.token = secrets.token_urlsafe(24)
        self.stopping = asyncio.Event()
        """Set when the studio stops: to running requests, as if their client had disconnected."""
        self._cookie_name = f"tatame_studio_{port}"
        self._cookie_value = secrets.token_urlsafe(32)
        self._one_time_tokens: set[str] = set()
        names = ("127.0.0.1", "localhost")
        self._hosts = {f"{name}:{port}" for name in names} | {name for name in names if port == 80}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or respond to it here."""
        nonce = scope["nonce"] = secrets.token_urlsafe(16)
        response = self._own_response(scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers["Content-Security-Policy"] = _policy(nonce)
                # A browser may store the studio's files if it revalidates them each time, and must not store data.
                headers["Cache-Control"] = "no-cache" if scope["path"].startswith("/static/") else "no-store"
            await send(message)

        await (response or self.app)(scope, self._until_stopping(receive), send_guarded)

    def one_time_token(self) -> str:
        """Create another token, which signs in once."""
        token = secrets.token_urlsafe(24)
        self._one_time_tokens.add(token)
        return token

    def _until_stopping(self, receive: Receive) -> Receive:
        async def receive_or_stop() -> Message:
            message, stop = asyncio.ensure_future(receive()), asyncio.ensure_future(self.stopping.wait())
            try:
                await asyncio.wait({message, stop}, return_when=asyncio.FIRST_COMPLETED)
                return message.result() if message.done() else {"type": "http.disconnect"}
            finally:
                message.cancel()
                stop.cancel()

        return receive_or_stop

    def _own_response(self, scope: Scope) -> Response | None:
        """Return a refusal or the redirect of a sign-in; `None` lets the request through."""
        headers, path = Headers(scope=scope), str(scope["path"])
        is_api = path.startswith("/api/")
        if headers.get("host", "").lower() not in self._hosts:
            return problem_response(WrongHost())
        if is_api and not _is_same_origin(headers, proof_required=scope["method"] not in {"GET", "HEAD"}):
            return problem_response(CrossOrigin())
        query = QueryParams(scope["query_string"])
        if not is_api and scope["method"] == "GET" and (token := query.get("token")) is not None:
            if self._accepts(token):
                return self._signed_in(scope, query)
        elif _equal(_cookie(headers, self._cookie_name), self._cookie_value):
            return None
        return problem_response(NotSignedIn()) if is_api else HTMLResponse(_NOT_SIGNED_IN, 401)

    def _accepts(self, token: str) -> bool:
        used = {known for known in self._one_time_tokens if _equal(token, known)}
        self._one_time_tokens -= used
        return bool(used) or _equal(token, self.token)

    def _signed_in(self, scope: Scope, query: QueryParams) -> Response:
        rest = urlencode([(name, value) for name, value in query.multi_items() if name != "token"])
        # Only the path and the query of the address, so that the request cannot redirect to another host.
        path = "/" + URL(scope=scope).path.lstrip("/")
        response = RedirectResponse(f"{path}?{rest}" if rest else path, 303)
        response.set_cookie(self._cookie_name, self._cookie_value, httponly=True, samesite="strict", path="/")
        return response


def _is_same_origin(headers: Headers, *, proof_required: bool) -> bool:
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if proof_required and site is None and origin is None:
        return False
    is_own = origin is None or origin.removeprefix("http://") == headers["host"]
    return is_own and site in ({"same-origin", None} if proof_required else {"same-origin", "none", None})


def _equal(one: str, other: str) -> bool:
    return secrets.compare_digest(one.encode(), other.encode())


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
