"""A primary and its standby, which tests promote, stop and fill."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import URL, text
from tests.conftest import new_directory, postmaster_pid

from tatame_db import evolve
from tatame_db.database.address import parse_address
from tatame_db.database.creation import create_missing_database
from tatame_db.database.pool import Database
from tatame_db.server.embedded import EmbeddedServer


@dataclass(frozen=True)
class Pair:
    """A primary and its standby; each listens on a socket in a directory."""

    primary: EmbeddedServer
    home: Path

    @property
    def standby(self) -> URL:
        return self.primary.address.set(query={"host": str(self.home)})

    @property
    def both(self) -> URL:
        """The address of an app that finds the primary after a failover."""
        return self.address(self.primary.address.query["host"], self.home, attributes="read-write")

    def address(self, *hosts: object, attributes: str) -> URL:
        names = ",".join(map(str, hosts))
        return parse_address(f"postgresql://postgres@/tatame?host={names}&target_session_attrs={attributes}")

    def pg_ctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.primary._run("pg_ctl", "-w", f"--pgdata={self.home}/data", *arguments)

    def start_standby(self, *settings: str) -> None:
        options = "".join(
            f"-c {setting} " for setting in ("listen_addresses=''", f"unix_socket_directories={self.home}", *settings)
        )
        started = self.pg_ctl("start", f"--log={self.home}/log", f"--options={options}")
        assert started.returncode == 0, started.stdout

    def copy(self, *settings: str) -> None:
        """Make the standby again from the primary, and start it."""
        host = str(self.primary.address.query["host"])
        copied = self.primary._run(
            *("pg_basebackup", f"--pgdata={self.home}/data", f"--host={host}", "--username=postgres"),
            *("-R", "--checkpoint=fast", "--no-sync"),
        )
        assert copied.returncode == 0, copied.stdout
        self.start_standby("fsync=off", *settings)

    @contextmanager
    def frozen(self) -> Generator[None]:
        """Suspend all processes of the standby: it accepts connections, and says nothing."""
        postmaster = int((self.home / "data/postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGSTOP)
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        processes = [*map(int, children), postmaster]
        try:
            for process in processes:
                os.kill(process, signal.SIGSTOP)
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

    def kill_primary(self) -> None:
        """Kill all processes of the primary, as a power failure does."""
        postmaster = postmaster_pid(self.primary)
        # Stopped first; otherwise it would replace the first processes that die.
        os.kill(postmaster, signal.SIGSTOP)
        for process in Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split():
            os.kill(int(process), signal.SIGKILL)
        os.kill(postmaster, signal.SIGKILL)

    def promote(self) -> None:
        assert self.pg_ctl("promote").returncode == 0

    def pause_replay(self, *, pause: bool) -> None:
        with Database(self.standby) as database, database.engine.connect() as connection:
            connection.execute(text(f"SELECT pg_wal_replay_{'pause' if pause else 'resume'}()"))


@contextmanager
def another_standby(primary: EmbeddedServer, home: Path, *settings: str) -> Generator[Pair]:
    """Start one more standby."""
    home.mkdir()
    primary._hand_over(home, 0o700)
    pair = Pair(primary, home)
    pair.copy(*settings)
    try:
        yield pair
    finally:
        pair.pg_ctl("stop", "--mode=immediate")


@contextmanager
def standby_pair(server: EmbeddedServer, home: Path) -> Generator[Pair]:
    """Start a migrated primary and its standby; the server is deleted by its owner."""
    server.start()
    create_missing_database(server.address)
    with Database(server.address) as database:
        evolve.migrate(database.engine)
    with another_standby(server, home) as pair:
        yield pair


@pytest.fixture(scope="module")
def pair() -> Generator[Pair]:
    """Yield a pair for a module that imports it; its tests leave both running."""
    directory = new_directory()
    server = EmbeddedServer(directory / "server", durable=False)
    with standby_pair(server, directory / "standby") as pair:
        yield pair
    server.delete()
    shutil.rmtree(directory)
