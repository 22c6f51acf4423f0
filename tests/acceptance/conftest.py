"""The installed command, run in a clean environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL
from tests.conftest import free_port
from tests.forks import LIBRARIES, Zygote
from typer.testing import CliRunner

import tatame_db
from tatame_db.cli import commands
from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.server.embedded import EmbeddedServer

COMMAND = Path(sys.executable).with_name("tatame-db")

Run = Callable[..., subprocess.CompletedProcess[str]]


def copy_package(root: Path) -> Path:
    """Copy the sources into a directory, to be edited; return the folder of the package."""
    copy = root / "src" / "tatame_db"
    copy.parent.mkdir()
    # With the compiled files, because compiling the package takes longer than most commands; and not by `shutil`, which
    # takes as long as three commands.
    subprocess.run(["cp", "-Rp", Path(tatame_db.__file__).parent, copy], check=True)
    shutil.copy(Path(__file__).parents[2] / "pyproject.toml", root)
    return copy


@pytest.fixture(scope="session")
def fork(tmp_path_factory: pytest.TempPathFactory, server: EmbeddedServer, server_template: Path) -> Generator[Run]:
    """Run `tatame-db` from the package in a path, for tests of a command, and not of its start.

    The scratch databases of the commands for the schema are on the server of the run.
    """
    zygote = Zygote(LIBRARIES, tmp_path_factory.mktemp("zygote"), template=server_template)
    yield partial(zygote.run, scratch=server.directory)
    zygote.end()


@pytest.fixture(scope="session")
def loaded_fork(zygote: Zygote, server: EmbeddedServer) -> Run:
    """Run `tatame-db` as `fork` does, for tests that do not edit the package: each fork has loaded it."""
    return partial(zygote.run, scratch=server.directory)


@pytest.fixture
def environment(directory: Path) -> dict[str, str]:
    """An environment with the PATH and no other variable of the developer."""
    return {"PATH": os.environ["PATH"], "HOME": str(directory / "home"), "TATAME_DATA_DIR": str(directory / "data")}


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path, zygote: Zygote) -> Generator[Run]:
    """A function that runs `tatame-db` in an empty directory, with an embedded server that is deleted afterwards."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return zygote.run(*arguments, cwd=tmp_path, environment=environment | variables)

    yield run
    run("down", "--yes")


@pytest.fixture
def invoke(environment: dict[str, str]) -> Run:
    """Run `tatame-db` as `run` does, but in this process, which saves the seconds that Python takes to start.

    The caller names the database: no embedded server is deleted afterwards.
    """

    def invoke(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        # `None` removes a variable, so that the command sees no more than a process of its own would.
        seen = dict.fromkeys(os.environ) | environment | variables
        with pytest.MonkeyPatch.context() as patch:
            # Python looks at TMPDIR once in the life of a process.
            patch.setattr(tempfile, "tempdir", None)
            done = CliRunner().invoke(commands.app, arguments, env=seen, catch_exceptions=False)
        return subprocess.CompletedProcess([str(COMMAND), *arguments], done.exit_code, done.stdout, done.stderr)

    return invoke


@pytest.fixture
def bare_address_url(bare_address: URL) -> str:
    """The address of a database without tables; to the command, its server is not the embedded one."""
    return readable(bare_address)


@pytest.fixture
def guarded_url(fresh_server: EmbeddedServer) -> str:
    """The address of a role on a port, with a password of special characters."""
    port = free_port()
    fresh_server.start(port=port)
    create_missing_database(fresh_server.address)
    with psycopg.connect(readable(fresh_server.address)) as connection:
        connection.execute("CREATE ROLE ana LOGIN PASSWORD 'p%@:/#[w'")
    return f"postgresql://ana:p%@:/#[w@127.0.0.1:{port}/tatame"
