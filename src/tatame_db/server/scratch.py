"""A throw-away PostgreSQL, so that building a schema to look at never touches anybody's database."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.database.pool import Database
from tatame_db.server import run_directory
from tatame_db.server.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import Engine


@dataclass(frozen=True)
class Scratch:
    """Databases on a server that nobody else knows."""

    server: EmbeddedServer

    @contextlib.contextmanager
    def database(self, name: str, template: str = "template0") -> Generator[Engine]:
        """Create a database, empty or a copy of another one to which nobody is connected."""
        self._maintain(f"CREATE DATABASE {name} TEMPLATE {template}")
        with Database(self.server.address.set(database=name)) as database:
            yield database.engine

    def drop(self, name: str) -> None:
        """Drop a database, whoever is connected to it."""
        self._maintain(f"DROP DATABASE {name} WITH (FORCE)")

    def _maintain(self, statement: str) -> None:
        maintenance = self.server.address.set(database="postgres")
        # Databases cannot be made or dropped inside a transaction.
        with (
            Database(maintenance) as database,
            database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        ):
            connection.execute(text(statement))


@contextlib.contextmanager
def scratch(*, on_disk: bool = False) -> Generator[Scratch]:
    """Start a server in a temporary directory, and delete it afterwards, with what killed processes left behind."""
    directory = run_directory.new_run_directory(on_disk=on_disk)
    server = EmbeddedServer(directory / "server", durable=False)
    with run_directory.join(directory):
        try:
            for dead in run_directory.dead_runs(directory):
                EmbeddedServer(dead / "server").delete()
            server.start()
            yield Scratch(server)
        finally:
            server.delete()
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def left_running(prefix: str) -> Generator[Scratch]:
    """Start a server in a new directory and leave both; delete them only where we are interrupted or fail."""
    server = EmbeddedServer(Path(tempfile.mkdtemp(prefix=prefix)), durable=False)
    try:
        server.start()
        yield Scratch(server)
    except BaseException:
        server.delete()
        raise
