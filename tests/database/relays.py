"""A relay before a server: a link that stalls, or that is cut."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress

_WITHOUT_LIMIT = 1 << 40


@contextmanager
def relay(port: int, *, cut_after: int = _WITHOUT_LIMIT) -> Generator[tuple[int, threading.Event]]:
    """Forward a port to that of a server while an event is set, and hold what comes while it is not; yields both.

    A connection on which the server has sent `cut_after` bytes is cut.
    """
    flows, opened = threading.Event(), list[socket.socket]()
    flows.set()

    def forward(source: socket.socket, target: socket.socket, limit: int) -> None:
        with suppress(OSError):
            while limit > 0 and (block := source.recv(65_536)):
                flows.wait()
                target.sendall(block)
                limit -= len(block)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                opened.extend((client, server))
                for pair in ((client, server, _WITHOUT_LIMIT), (server, client, cut_after)):
                    threading.Thread(target=forward, args=pair, daemon=True).start()

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listener.getsockname()[1], flows
        finally:
            flows.set()
            for end in opened:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
