"""The studio's own web server: on this machine alone, until Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import webbrowser
from typing import TYPE_CHECKING

import uvicorn

from tatame_db.database import Database
from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.studio.app import Studio
from tatame_db.studio.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from tatame_db.studio.access import Access

USUAL_PORT = 4737
_PATIENCE_SECONDS = 3


class PortTaken(TatameError):
    """Something else listens on the port."""

    def __init__(self, port: int, reason: str) -> None:
        super().__init__(
            f"the studio cannot listen on port {port} of 127.0.0.1: {reason}",
            means=f"It was not started. {NOTHING_CHANGED}",
            fix="choose another one with `--port`, or none: then a free one is taken",
        )


def serve(access: Access, *, port: int | None, say: Callable[[str], None], browser: bool) -> None:
    """Serve until interrupted; `say` is given the address that opens it. Raises `PortTaken`."""
    with _listening(port) as listener:
        real_port = listener.getsockname()[1]
        token = secrets.token_urlsafe(24)
        address = f"http://127.0.0.1:{real_port}/?token={token}"
        studio = Studio(access, Database(access.address))
        app = Guard(studio.app(), port=real_port, token=token)
        config = uvicorn.Config(
            app,
            access_log=False,
            log_level="warning",
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_PATIENCE_SECONDS,
        )
        say(address)
        if browser and _has_screen():
            webbrowser.open(address)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def _listening(port: int | None) -> socket.socket:
    if port is not None:
        return _bound(port)
    # The browser remembers columns and queries by the port.
    with contextlib.suppress(PortTaken):
        return _bound(USUAL_PORT)
    return _bound(0)


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        # So that a browser that is quicker than we are waits.
        listener.listen()
    except OSError as error:
        listener.close()
        raise PortTaken(port, error.strerror or str(error)) from error
    return listener


def _has_screen() -> bool:
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
