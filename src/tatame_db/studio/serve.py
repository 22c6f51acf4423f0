"""The web server of the studio, on 127.0.0.1 until Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from tatame_db.doctor import Setup
from tatame_db.errors import TatameError, fact
from tatame_db.studio.app import Studio
from tatame_db.studio.guard import Guard
from tatame_db.studio.memory import return_large_blocks
from tatame_db.studio.saved import SavedQueries, project_directory

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL

    from tatame_db.studio.access import Access

DEFAULT_PORT = 4737
_SHUTDOWN_SECONDS = 3


@fact
class StudioPortTaken(TatameError):
    """The studio cannot listen on its port."""

    port: int
    reason: str
    what = "the studio cannot listen on port {port} of 127.0.0.1: {reason}"
    means = "The studio was not started. Nothing was changed."
    fix = "choose another port with `--port`, or omit `--port` to use a free one"


class StudioServer(uvicorn.Server):
    """The web server of one run, with its own token; `run()` returns after an interrupt.

    `source` returns the address of the source of the move, `queries` is the directory of the saved queries, by default
    that of the project. The constructor listens, and raises `StudioPortTaken`. A
    browser that connects before `run()` waits.
    """

    def __init__(
        self,
        access: Access,
        source: Callable[[], URL],
        port: int | None = None,
        setup: Setup | None = None,
        queries: Path | None = None,
    ) -> None:
        self._listener = _listen(port)
        self.port = int(self._listener.getsockname()[1])
        saved = SavedQueries(queries or project_directory(Path.cwd()))
        self._studio = Studio(access, source, setup or Setup(), saved)
        self.guard = Guard(self._studio.app(), port=self.port)
        super().__init__(
            uvicorn.Config(
                self.guard,
                # The address that opens the studio contains the token.
                access_log=False,
                # Plain lines on stderr, and only for errors.
                log_config=None,
                log_level="warning",
                lifespan="off",
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            )
        )
        logging.getLogger("uvicorn.error").addFilter(_is_news)

    def address(self, token: str) -> str:
        """Write the address that opens the studio."""
        return f"http://127.0.0.1:{self.port}/?token={token}"

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until interrupted."""
        with self._listener:
            super().run(sockets or [self._listener])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cancel running requests and their statements instead of waiting for them."""
        self.guard.stopping.set()
        await super().shutdown(sockets)
        await self._studio.close()


def serve(
    access: Access,
    source: Callable[[], URL],
    setup: Setup,
    *,
    port: int | None,
    queries: Path | None,
    on_ready: Callable[[str], None],
    open_browser: bool,
) -> None:
    """Serve until interrupted; `on_ready` gets the address that opens the studio. Raises `StudioPortTaken`."""
    return_large_blocks()
    server = StudioServer(access, source, port, setup, queries)
    on_ready(server.address(server.guard.token))
    if open_browser and _has_display():
        # All users of the machine can read the arguments of a process, so the browser gets a one-time token.
        address = server.address(server.guard.one_time_token())
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    # uvicorn raises the interrupt again after a graceful shutdown.
    with contextlib.suppress(KeyboardInterrupt):
        server.run()


def _is_news(record: logging.LogRecord) -> bool:
    # A response that is broken off on purpose, so that no client takes a part of a file for the whole.
    return "returned without completing response" not in record.getMessage()


def _listen(port: int | None) -> socket.socket:
    if port is not None:
        return _listen_on(port)
    # The browser stores columns and queries by port, so the port should stay the same.
    with contextlib.suppress(StudioPortTaken):
        return _listen_on(DEFAULT_PORT)
    return _listen_on(0)


def _listen_on(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        # Before the server runs, so that a fast browser waits instead of being refused.
        listener.listen()
    except OSError as error:
        listener.close()
        raise StudioPortTaken(port=port, reason=error.strerror or str(error)) from error
    return listener


def _has_display() -> bool:
    # Without a display, Python would open a browser in the terminal.
    is_set = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    return is_set or sys.platform == "darwin"
