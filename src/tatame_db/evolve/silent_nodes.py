"""The nodes of Citus that do not answer while a statement waits for them: the server waits without a word."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db.database.errors import DatabaseUnavailable
from tatame_db.database.pool import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from sqlalchemy import URL, Connection

SECONDS = 10.0
"""How long a statement may take before the nodes are asked."""
_ANSWER_MS = 3_000
_NODES = """
SELECT nodename || ':' || nodeport AS address, nodename, nodeport
FROM pg_dist_node WHERE noderole = 'primary' AND isactive ORDER BY groupid
"""
_ANSWERS = "SELECT citus_check_connection_to_node(:name, :port)"


@contextmanager
def watched(address: URL, report: Callable[[list[str]], None]) -> Generator[None]:
    """Report once, from a thread, which nodes do not answer if the block takes long; its own failures are silent."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SECONDS):
            try:
                with Database(address) as database, database.engine.connect() as connection:
                    silent = _silent_nodes(connection)
            except (DBAPIError, DatabaseUnavailable):
                continue
            if silent and not ended.is_set():
                report(silent)
                return

    thread = threading.Thread(target=watch, daemon=True, name="tatame-db-silent-nodes")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _silent_nodes(connection: Connection) -> list[str]:
    nodes = connection.execute(text(_NODES)).all()
    return [node.address for node in nodes if not _answers(connection, node.nodename, node.nodeport)]


def _answers(connection: Connection, name: str, port: int) -> bool:
    try:
        with connection.begin_nested():
            connection.execute(text(f"SET LOCAL statement_timeout = {_ANSWER_MS}"))
            return bool(connection.scalar(text(_ANSWERS), {"name": name, "port": port}))
    except DBAPIError:
        return False
