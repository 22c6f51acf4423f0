"""The installed command, run in a clean environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL
from tests.conftest import free_port
from typer.testing import CliRunner

from tatame_db.cli import commands
from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.server.embedded import EmbeddedServer

COMMAND = Path(sys.executable).with_name("tatame-db")

Run = Callable[..., subprocess.CompletedProcess[str]]

# What a forked command finds loaded. A command of a copy of the package loads the copy itself.
LIBRARIES = [
    *("alembic.autogenerate", "alembic.runtime.environment", "httpx", "msgspec", "psycopg", "pydantic_settings"),
    *("rich.progress", "sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.ext.asyncio", "sqlalchemy.orm", "typer"),
]
PACKAGE = [
    *LIBRARIES,
    *(f"tatame_db.{name}" for name in ("cli.commands", "doctor", "evolve", "evolve.app", "move", "roles", "seed")),
]


class Zygote:
    """A process whose forks run `tatame-db`: processes of their own, without the second that Python takes to start."""

    def __init__(self, modules: list[str], directory: Path) -> None:
        self._directory = directory
        self._process = subprocess.Popen(
            [sys.executable, "-P", Path(__file__).with_name("zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=directory,
            env={"PATH": os.environ["PATH"]},
        )
        self._send(modules)

    def _send(self, message: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")

    def run(
        self, *arguments: str, cwd: Path, environment: dict[str, str], path: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a command without input. Raises `TimeoutExpired` after two minutes."""
        output = [Path(tempfile.mkdtemp(dir=self._directory)) / name for name in ("stdout", "stderr")]
        files = [str(file) for file in output]
        self._send({"arguments": arguments, "cwd": str(cwd), "environment": environment, "path": path, "output": files})
        assert self._process.stdout is not None
        process = int(self._process.stdout.readline())
        expired: list[int] = []

        def kill() -> None:
            expired.append(process)
            os.kill(process, signal.SIGKILL)

        timer = threading.Timer(120, kill)
        timer.start()
        code = int(self._process.stdout.readline())
        timer.cancel()
        if expired:
            raise subprocess.TimeoutExpired(arguments, 120)
        return subprocess.CompletedProcess(arguments, code, *(file.read_text() for file in output))

    def end(self) -> None:
        """Stop the process."""
        self._process.communicate()


@pytest.fixture(scope="session")
def _zygote(tmp_path_factory: pytest.TempPathFactory) -> Generator[Zygote]:
    zygote = Zygote(PACKAGE, tmp_path_factory.mktemp("zygote"))
    yield zygote
    zygote.end()


@pytest.fixture(scope="session")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Generator[Run]:
    """Run `tatame-db` from the package in a path, for tests of a command, and not of its start."""
    zygote = Zygote(LIBRARIES, tmp_path_factory.mktemp("zygote"))
    yield zygote.run
    zygote.end()


@pytest.fixture
def environment(directory: Path) -> dict[str, str]:
    """An environment with the PATH and no other variable of the developer."""
    return {"PATH": os.environ["PATH"], "HOME": str(directory / "home"), "TATAME_DATA_DIR": str(directory / "data")}


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path, _zygote: Zygote) -> Generator[Run]:
    """A function that runs `tatame-db` in an empty directory, with an embedded server that is deleted afterwards."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return _zygote.run(*arguments, cwd=tmp_path, environment=environment | variables)

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
