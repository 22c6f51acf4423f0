"""A throw-away PostgreSQL, so that building a schema to compare never touches the user's databases."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg import sql

from tatame_db.database.creation import create_database, maintenance
from tatame_db.database.pool import Database
from tatame_db.server import run_directory
from tatame_db.server.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import Engine


@dataclass(frozen=True)
class Scratch:
    """Databases on a server of their own."""

    server: EmbeddedServer

    @contextlib.contextmanager
    def database(self, name: str, template: str = "template0") -> Generator[Engine]:
        """Create a database, empty or as a copy of a template without sessions, and connect to it."""
        address = self.server.address.set(database=name)
        in_memory = run_directory.in_memory(self.server.directory)
        with maintenance(address) as connection:
            create_database(connection, address, template=template, file_copy=in_memory)
        with Database(address) as database:
            yield database.engine

    def drop(self, name: str) -> None:
        """Drop a database if it exists, and end all sessions on it."""
        with maintenance(self.server.address) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextlib.contextmanager
def scratch(*, on_disk: bool = False) -> Generator[Scratch]:
    """Start a server in a temporary directory, and delete both at the end.

    At the start, the leftovers of killed processes are deleted too.
    """
    directory = run_directory.new_run_directory(on_disk=on_disk)
    server = run_server(directory)
    with run_directory.join(directory):
        try:
            delete_dead_runs(directory)
            server.start()
            yield Scratch(server)
        finally:
            server.delete()
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def persistent_scratch(prefix: str) -> Generator[Scratch]:
    """Start a server in a new directory and leave both at the end; after an error or Ctrl-C, delete them."""
    server = EmbeddedServer(Path(tempfile.mkdtemp(prefix=prefix)), durable=False)
    try:
        server.start()
        yield Scratch(server)
    except BaseException:
        server.delete()
        raise


def run_server(directory: Path) -> EmbeddedServer:
    """Return the server in a run directory, started or not."""
    return EmbeddedServer(directory / "server", durable=False)


def delete_dead_runs(directory: Path) -> None:
    """Delete the runs beside a run directory whose processes are all dead, with their servers."""
    for dead in run_directory.dead_runs(directory):
        run_server(dead).delete()
