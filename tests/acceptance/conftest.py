"""The installed command, run as a stranger would run it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL

from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.server.embedded import EmbeddedServer

COMMAND = Path(sys.executable).with_name("tatame-db")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(directory: Path) -> dict[str, str]:
    """Give an environment with nothing of the developer's in it but the PATH."""
    return {"PATH": os.environ["PATH"], "HOME": str(directory / "home"), "TATAME_DATA_DIR": str(directory / "data")}


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Generator[Run]:
    """Run `tatame-db` in an empty directory, with an embedded server of its own that is deleted afterwards."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment | variables,
            stdin=subprocess.DEVNULL,
            timeout=120,
        )

    yield run
    run("down", "--yes")


@pytest.fixture
def bare_address_url(bare_address: URL) -> str:
    """Give the address of a database without tables on a server that we did not start as embedded."""
    return readable(bare_address)


@pytest.fixture
def guarded_url(fresh_server: EmbeddedServer) -> str:
    """Give an address, on a port, of a role whose password is hard to write."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    fresh_server.start(port=port)
    create_missing_database(fresh_server.address)
    with psycopg.connect(readable(fresh_server.address)) as connection:
        connection.execute("CREATE ROLE ana LOGIN PASSWORD 'p%@:/#[w'")
    return f"postgresql://ana:p%@:/#[w@127.0.0.1:{port}/tatame"
