"""The installed command, run in a clean environment."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from multiprocessing.context import ForkServerContext
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

# What a forked command finds loaded; the package itself it imports from its own path.
LIBRARIES = [
    *("alembic.autogenerate", "alembic.runtime.environment", "httpx", "msgspec", "psycopg", "pydantic_settings"),
    *("rich.progress", "sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.ext.asyncio", "sqlalchemy.orm", "typer"),
]
FORKED = """
import os, runpy, sys
for number, file in enumerate(output, start=1):
    os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
os.chdir(cwd)
os.environ.clear()
os.environ.update(environment)
sys.argv[1:] = arguments
sys.path[:0] = path
sys.dont_write_bytecode = False
runpy.run_module("tatame_db", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="session")
def fork_server() -> ForkServerContext:
    """Make processes as copies of one that has loaded the libraries, which takes most of a command's second."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return context


@pytest.fixture
def fork(fork_server: ForkServerContext, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run `tatame-db` as a process of its own, forked: for tests of a command, and not of its start."""

    def fork(
        *arguments: str, cwd: Path, environment: dict[str, str], path: list[str]
    ) -> subprocess.CompletedProcess[str]:
        output = [tmp_path_factory.mktemp("forked") / name for name in ("stdout", "stderr")]
        facts = {"arguments": arguments, "cwd": cwd, "environment": environment, "path": path, "output": output}
        process = fork_server.Process(target=exec, args=(FORKED, facts))
        process.start()
        process.join(120)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, 120)
        return subprocess.CompletedProcess(arguments, process.exitcode, *(file.read_text() for file in output))

    return fork


@pytest.fixture
def environment(directory: Path) -> dict[str, str]:
    """An environment with the PATH and no other variable of the developer."""
    return {"PATH": os.environ["PATH"], "HOME": str(directory / "home"), "TATAME_DATA_DIR": str(directory / "data")}


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Generator[Run]:
    """A function that runs `tatame-db` in an empty directory, with an embedded server that is deleted afterwards."""

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
