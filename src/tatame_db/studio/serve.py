"""The studio's own web server: on this machine alone, until Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import webbrowser
from typing import TYPE_CHECKING

import uvicorn

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


class StudioServer(uvicorn.Server):
    """The web server of one run, with a token of its own; `run()` returns when it was interrupted.

    Raises `PortTaken`. A browser that comes before `run()` waits.
    """

    def __init__(self, access: Access, port: int | None = None) -> None:
        self._listener = _listening(port)
        self.port = int(self._listener.getsockname()[1])
        self._studio = Studio(access)
        self.guard = Guard(self._studio.app(), port=self.port)
        super().__init__(
            uvicorn.Config(
                self.guard,
                # The address that opens the studio holds the token.
                access_log=False,
                # Plain lines to stderr, and only of what goes wrong.
                log_config=None,
                log_level="warning",
                lifespan="off",
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=_PATIENCE_SECONDS,
            )
        )

    def address(self, token: str) -> str:
        """Write the address that opens the studio."""
        return f"http://127.0.0.1:{self.port}/?token={token}"

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until interrupted."""
        with self._listener:
            super().run(sockets or [self._listener])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what is running, down to the statements, rather than wait for it."""
        self.guard.ending.set()
        await super().shutdown(sockets)
        await self._studio.close()


def serve(access: Access, *, port: int | None, say: Callable[[str], None], browser: bool) -> None:
    """Serve until interrupted; `say` is given the address that opens the studio. Raises `PortTaken`."""
    server = StudioServer(access, port)
    say(server.address(server.guard.token))
    if browser and _has_screen():
        # Everybody on the machine can read the arguments of a program, so this token is good for once.
        once = server.address(server.guard.ticket())
        threading.Thread(target=webbrowser.open, args=(once,), daemon=True).start()
    # uvicorn raises it again after it has ended well.
    with contextlib.suppress(KeyboardInterrupt):
        server.run()


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
    # Without a screen, Python would open a browser in the terminal.
    named = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    return named or sys.platform == "darwin"
