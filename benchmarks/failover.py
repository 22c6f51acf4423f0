"""Failover: seconds from the promotion to the next write, and acknowledged writes that the new primary lacks.

Run it by hand: `python benchmarks/failover.py --rounds 10`, and with `--synchronous`. `README.md` has results.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db import AsyncDatabase, Database, TatameError, evolve, insert_many, read
from tatame_db.database.address import parse_address
from tatame_db.database.creation import create_missing_database
from tatame_db.schema import User
from tatame_db.server.embedded import EmbeddedServer

WRITERS = 4
"""Of each face."""
BUSY_SECONDS = 1.5


class Round:
    """A primary and a standby in a directory, and writers that note what was acknowledged and when."""

    def __init__(self, directory: Path, *, synchronous: bool) -> None:
        self.primary = EmbeddedServer(directory / "primary")
        self.home = directory / "standby"
        self.synchronous = synchronous
        self.acknowledged: list[tuple[str, str, float, float]] = []
        self.ended = threading.Event()
        self._numbers = count()

    def start(self) -> None:
        self.primary.start()
        create_missing_database(self.primary.address)
        with Database(self.primary.address) as database:
            evolve.migrate(database.engine)
        self.home.mkdir()
        self.primary._hand_over(self.home, 0o700)
        host = str(self.primary.address.query["host"])
        self._program("pg_basebackup", "-D", f"{self.home}/data", "-h", host, "-U", "postgres", "-R", "-c", "fast")
        self.pg_ctl("start", "-l", f"{self.home}/log", "-o", f"-c listen_addresses='' -k {self.home}")
        if self.synchronous:
            with Database(self.primary.address) as database, database.engine.connect() as connection:
                alone = connection.execution_options(isolation_level="AUTOCOMMIT")
                alone.execute(text("ALTER SYSTEM SET synchronous_standby_names = '*'"))
                alone.execute(text("SELECT pg_reload_conf()"))
                while not alone.scalar(text("SELECT true FROM pg_stat_replication WHERE sync_state = 'sync'")):
                    time.sleep(0.05)

    def _program(self, name: str, *arguments: str) -> None:
        done = self.primary._run(name, *arguments)
        if done.returncode:
            raise SystemExit(done.stdout)

    def pg_ctl(self, *arguments: str) -> None:
        self._program("pg_ctl", "-w", "-D", f"{self.home}/data", *arguments)

    def kill(self) -> None:
        """Kill all processes of the primary at once."""
        postmaster = int((self.primary.data / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGSTOP)
        for process in Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split():
            os.kill(int(process), signal.SIGKILL)
        os.kill(postmaster, signal.SIGKILL)

    def promote(self) -> float:
        """Promote the standby, and return the moment from which it takes writes."""
        with (
            Database(self.primary.address.set(query={"host": str(self.home)})) as database,
            database.engine.connect() as connection,
        ):
            alone = connection.execution_options(isolation_level="AUTOCOMMIT")
            alone.execute(text("SELECT pg_promote(false)"))
            while alone.scalar(text("SELECT pg_is_in_recovery()")):
                time.sleep(0.001)
            return time.perf_counter()

    def _row(self, writer: str) -> list[dict[str, str]]:
        return [{"clerk_user_id": f"{writer} {next(self._numbers)}"}]

    def _note(self, writer: str, row: list[dict[str, str]], begun: float) -> None:
        self.acknowledged.append((writer, row[0]["clerk_user_id"], begun, time.perf_counter()))

    def write(self, writer: str, database: Database) -> None:
        while not self.ended.is_set():
            row, begun = self._row(writer), time.perf_counter()
            try:
                insert_many(User, row).run(database)
                self._note(writer, row, begun)
            except (TatameError, DBAPIError):
                time.sleep(0.01)

    def write_async(self, address: Any) -> None:
        async def write(writer: str, database: AsyncDatabase) -> None:
            while not self.ended.is_set():
                row, begun = self._row(writer), time.perf_counter()
                try:
                    await insert_many(User, row).run(database)
                    self._note(writer, row, begun)
                except (TatameError, DBAPIError):
                    await asyncio.sleep(0.01)

        async def main() -> None:
            async with AsyncDatabase(address) as database:
                await asyncio.gather(*(write(f"async {number}", database) for number in range(WRITERS)))

        asyncio.run(main())

    def run(self) -> dict[str, Any]:
        """Kill and promote once, and return what was measured."""
        hosts = f"{self.primary.address.query['host']},{self.home}"
        address = parse_address(f"postgresql://postgres@/tatame?host={hosts}&target_session_attrs=read-write")
        with Database(address) as database:
            threads = [threading.Thread(target=self.write_async, args=(address,))]
            threads += [
                threading.Thread(target=self.write, args=(f"sync {number}", database)) for number in range(WRITERS)
            ]
            for thread in threads:
                thread.start()
            time.sleep(BUSY_SECONDS)
            self.kill()
            killed = time.perf_counter()
            promoted = self.promote()
            time.sleep(BUSY_SECONDS)
            self.ended.set()
            for thread in threads:
                thread.join()
            stored = {user.clerk_user_id for user in read(User).all(database)}
        # What was sent before the kill may be noted a moment after it.
        later = [(writer, at) for writer, _, begun, at in self.acknowledged if begun > killed]
        first = {face: min(at for writer, at in later if writer.startswith(face)) for face in ("sync", "async")}
        return {
            "acknowledged": len(self.acknowledged),
            "lost": len({row for _, row, _, _ in self.acknowledged} - stored),
            "promotion": promoted - killed,
            **{f"{face} after promotion": at - promoted for face, at in first.items()},
        }


def main() -> None:
    """Run the rounds and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--synchronous", action="store_true", help="let each commit wait for the standby")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    for _ in range(options.rounds):
        directory = Path(tempfile.mkdtemp(prefix="tatame-failover-"))
        directory.chmod(0o755)
        round_ = Round(directory, synchronous=options.synchronous)
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, directory)
            stack.callback(round_.primary.delete)
            round_.start()
            results.append(round_.run())
            with suppress(SystemExit):
                round_.pg_ctl("stop", "-m", "immediate")
        print(json.dumps({name: round(value, 3) for name, value in results[-1].items()}), flush=True)
    for name in results[0]:
        values = [result[name] for result in results]
        print(f"{name}: sum {sum(values):.3f}, median {median(values):.3f}, worst {max(values):.3f}")


if __name__ == "__main__":
    main()
