"""An HTTP client that talks to one server only, and waits for no response without end."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, Self

import httpx

from tatame_db.move.rest_errors import CertificatesUnusable, ProxyInvalid

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

CONNECT_TIMEOUT_SECONDS = 15
# Counting a large table may take the server this long before it sends the first byte.
READ_TIMEOUT_SECONDS = 120
# A server that sends a byte now and then is never silent, so the time up to the rows has a limit too.
HEAD_TIMEOUT_SECONDS = 180
RESPONSE_TIMEOUT_SECONDS = 900


class HttpClient:
    """Connections to one server. Close it after use."""

    def __init__(self, headers: dict[str, str], proxy: str | None, read_timeout_seconds: float) -> None:
        """Send nothing yet. Raises `ProxyInvalid`, `CertificatesUnusable`."""
        self._socket: socket.socket | None = None
        self._client = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(read_timeout_seconds, connect=CONNECT_TIMEOUT_SECONDS),
            # A redirect would carry the key to a server that was not configured, and so would a proxy that the
            # environment names for all programs.
            follow_redirects=False,
            trust_env=False,
            proxy=_valid_proxy(proxy) if proxy else None,
            verify=_certificates(),
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def get(
        self, url: str, parameters: dict[str, str], headers: dict[str, str], max_bytes: int
    ) -> tuple[httpx.Response, bytearray | None]:
        """Send a request; the body is `None` if it exceeds `max_bytes`. Raises `httpx.RequestError`."""
        with _Alarm(self._abort) as alarm:
            try:
                alarm.set(HEAD_TIMEOUT_SECONDS)
                with self._client.stream(
                    "GET", url, params=parameters, headers=headers, extensions={"trace": self._note_socket}
                ) as response:
                    alarm.set(RESPONSE_TIMEOUT_SECONDS)
                    return response, _body(response, max_bytes)
            except httpx.RequestError as error:
                if alarm.rang_after:
                    raise httpx.ReadTimeout(f"the response took more than {alarm.rang_after} seconds") from error
                raise

    def _note_socket(self, event: str, info: dict[str, Any]) -> None:
        # The sequence of requests is never interleaved, so the last connection is the one in use.
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")

    def _abort(self) -> None:
        """Shut the socket down, so that the thread that waits for it wakes up. Can be called from any thread."""
        if self._socket is not None:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._socket.fileno())) as end:
                end.shutdown(socket.SHUT_RDWR)


class _Alarm:
    """Calls a function once a time has passed; each `set` replaces the time before it."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._timer: threading.Timer | None = None
        self.rang_after: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cancel()

    def set(self, seconds: float) -> None:
        self._cancel()
        self._timer = threading.Timer(seconds, self._ring, [seconds])
        self._timer.daemon = True
        self._timer.start()

    def _cancel(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer.join()

    def _ring(self, seconds: float) -> None:
        self.rang_after = seconds
        self._call()


def _body(response: httpx.Response, max_bytes: int) -> bytearray | None:
    # Not copied into `bytes`, because a single row may be long.
    body = bytearray()
    for part in response.iter_bytes():
        body += part
        if len(body) > max_bytes:
            return None
    return body


def _valid_proxy(address: str) -> str:
    try:
        url = httpx.URL(address.strip())
    except httpx.InvalidURL:
        raise ProxyInvalid(problem="cannot be parsed") from None
    if url.scheme not in ("http", "https"):
        raise ProxyInvalid(problem="does not start with `http://` or `https://`")
    if not url.host:
        raise ProxyInvalid(problem="has no host")
    return str(url)


def _certificates() -> ssl.SSLContext:
    """Return the certificates that the environment names, or those of the package `certifi`."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        # `SSLError` is one of them: the file exists and is no certificate.
        file = os.environ.get("SSL_CERT_FILE", "")
        raise CertificatesUnusable(file=file, reason=error.strerror or "no certificate in it") from None
