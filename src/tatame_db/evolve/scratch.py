"""A throw-away PostgreSQL, so that building a schema to look at never touches anybody's database."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.database import SyncDatabase
from tatame_db.server import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import Engine

_PREFIX = "tatame-scratch-"


@dataclass(frozen=True)
class Scratch:
    """Databases on a server that nobody else knows."""

    server: EmbeddedServer

    @contextlib.contextmanager
    def database(self, name: str, template: str = "template0") -> Generator[Engine]:
        """Create a database, empty or a copy of another one to which nobody is connected."""
        maintenance = self.server.address.set(database="postgres")
        # CREATE DATABASE cannot run inside a transaction.
        with (
            SyncDatabase(maintenance) as database,
            database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        ):
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        with SyncDatabase(self.server.address.set(database=name)) as database:
            yield database.engine


@contextlib.contextmanager
def scratch() -> Generator[Scratch]:
    """Start a server in a temporary directory, and delete it afterwards."""
    _sweep()
    directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    # As root, the server belongs to another user, who has to pass through.
    directory.chmod(0o755)
    server = EmbeddedServer(directory / "server", durable=False)
    try:
        server.start()
        yield Scratch(server)
    finally:
        _delete(directory)


def _sweep() -> None:
    """Delete what killed processes left behind."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid = int(directory.name.removeprefix(_PREFIX).partition("-")[0])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            _delete(directory)
        except PermissionError:
            continue


def _delete(directory: Path) -> None:
    EmbeddedServer(directory / "server").delete()
    shutil.rmtree(directory, ignore_errors=True)
