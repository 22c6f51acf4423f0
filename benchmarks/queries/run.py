"""Measure the jobs with every client in turns, and print the tables of the README.

    python benchmarks/queries/run.py --quick
    python benchmarks/queries/run.py --jobs 1,6,sleep --rounds 5 --json measured.json

Before anything is measured, all clients have to return the same values.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jobs import JOBS, WRITES
from limit import CONNECTIONS, NUMBER, Limit
from report import BESIDE, Measured, report
from server import DATABASE, Server, file_system

HERE = Path(__file__).parent
# On many systems /tmp is in memory; this directory never is.
DISK = Path("/var/tmp")  # noqa: S108, the names in it are random
ASYNC = ["tatame", "tatame_uvloop", "asyncpg", "psycopg", "orm", "drizzle", "drizzle_prepared", "postgresjs"]
SYNC = ["tatame_sync", "psycopg_sync", "orm_sync"]
BESIDE_WAYS = ["tatame", "tatame_uvloop", "asyncpg", "psycopg", "tatame_sync", "psycopg_sync"]
POOLED = ["tatame", "asyncpg_unprepared", "psycopg_unprepared", "postgresjs_unprepared"]
POOLED_JOBS = [1, 3, 4, 6]
# The ORM and 20 threads take their turns once: their distance does not depend on a few per cent.
ONCE = {"orm", "orm_sync"}
NUMBERS = [NUMBER, *range(100, 119)]


class Client:
    """One client process, which takes orders on its input."""

    def __init__(self, way: str, node: Path, socket: str, port: str) -> None:
        on_node = way.startswith(("drizzle", "postgresjs"))
        program = ["node", str(node / "client.mjs")] if on_node else [sys.executable, str(HERE / "client.py")]
        self.process = subprocess.Popen(
            [*program, way, socket, DATABASE, port],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TZ": "UTC", "PGPORT": port},
        )
        self.way = way

    def ask(self, order: Any) -> Any:
        self._say(json.dumps(order))
        return self._answer()

    def measure(self, server: Server, **order: Any) -> dict[str, float]:
        assert self.ask(order) == "ready"
        before = server.cpu_seconds()
        self._say("go")
        figures: dict[str, float] = self._answer()
        after = server.cpu_seconds()
        used = sum(seconds - before.get(process, 0) for process, seconds in after.items())
        return figures | {"server_cpu_ms": used / figures["calls"] * 1000}

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def _say(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the client {self.way} ended with exit code {self.process.wait()}")
        return json.loads(line)


def comparable(result: Any, *, depth: int = 0) -> Any:
    """Return a result without the differences that clients may have: camel case, order of children, new ids."""
    if isinstance(result, list):
        items = [comparable(item, depth=depth + 1) for item in result]
        # The first level is the list of calls, the second the rows in their order; deeper ones have no order.
        return sorted(items, key=str) if depth > 1 and items and isinstance(items[0], dict) else items
    if isinstance(result, dict):
        named = {re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name): item for name, item in result.items()}
        if named.get("date") == "2030-01-01":
            del named["id"], named["created_at"]
        return {name: comparable(item, depth=max(depth, 1) + 1) for name, item in sorted(named.items())}
    return result


class Run:
    """All clients on one server, and what they measured."""

    def __init__(self, server: Server, node: Path, options: argparse.Namespace) -> None:
        self.server, self.node, self.options = server, node, options
        self.measured = Measured()

    def all(self, jobs: list[int], others: list[str]) -> Measured:
        clients = self._clients([*ASYNC, *SYNC] if jobs else BESIDE_WAYS)
        for job in jobs:
            self._say(f"job {job}: compare")
            self._compare(clients, job)
            limit = self._limit(clients["tatame"], job)
            for turn in range(self.options.rounds):
                self._say(f"job {job}: turn {turn + 1} of {self.options.rounds}")
                self._turn(clients, job, turn)
                self.measured.add(job, "pgbench", CONNECTIONS, limit.measure(self.options.seconds))
                self._clean(job)
        for name in (name for name in others if name in BESIDE):
            self._beside(clients, name)
        for client in clients.values():
            client.close()
        if "pgbouncer" in others:
            self._pooled([job for job in POOLED_JOBS if job in (jobs or JOBS)])
        return self.measured

    def _clients(self, ways: list[str]) -> dict[str, Client]:
        return {way: Client(way, self.node, self.server.socket, self.server.port) for way in ways}

    def _compare(self, clients: dict[str, Client], job: int) -> None:
        """End the run unless all clients return, or write, the same."""
        numbers = [NUMBER] if job in {5, 8} else NUMBERS
        expected = None
        for way, client in clients.items():
            answer = comparable(client.ask({"check": {"job": job, "numbers": numbers}}))
            if job in WRITES:
                answer = [answer if job == 4 else None, [list(row) for row in self.server.delete_new_checkins()]]
            expected = answer if expected is None else expected
            if answer != expected:
                raise SystemExit(f"{way} differs in job {job}:\n{str(answer)[:3000]}\n{str(expected)[:3000]}")

    def _limit(self, client: Client, job: int) -> Limit:
        with self.server.logged_statements() as statements:
            client.ask({"check": {"job": job, "numbers": [NUMBER]}})
        self._clean(job)
        assert statements, f"the server logged no statement of job {job}"
        return Limit(self.server, statements)

    def _turn(self, clients: dict[str, Client], job: int, turn: int) -> None:
        # Forwards and backwards in turns, so that a machine that slows down favours no client.
        ways = list(clients) if turn % 2 == 0 else list(reversed(clients))
        for way in ways:
            if turn and way in ONCE:
                continue
            for inflight in (1, 8, 20) if way in SYNC else (1, 20):
                if turn and way in SYNC and inflight == 20:
                    continue
                self._measure(clients[way], job, inflight)
            self._clean(job)

    def _measure(self, client: Client, job: int, inflight: int) -> None:
        # In the first turn Node compiles its functions, and every client prepares its statements.
        first = (job, client.way, inflight) not in self.measured.turns
        warm = self.options.first_warm if first else self.options.warm
        order = {"job": job, "inflight": inflight, "seconds": self.options.seconds, "warm_seconds": warm}
        self.measured.add(job, client.way, inflight, client.measure(self.server, **order))

    def _clean(self, job: int) -> None:
        if job in WRITES:
            self.server.delete_new_checkins()

    def _beside(self, clients: dict[str, Client], name: str) -> None:
        for turn in range(self.options.rounds):
            self._say(f"{name}: turn {turn + 1} of {self.options.rounds}")
            for way in BESIDE_WAYS:
                order = {"job": 6, "inflight": 20, "seconds": self.options.beside, "warm_seconds": self.options.warm}
                if name == "lock":
                    with self.server.locking():
                        figures = clients[way].measure(self.server, beside=name, **order)
                else:
                    figures = clients[way].measure(self.server, beside=name, **order)
                self.measured.add(name, way, 20, figures)

    def _pooled(self, jobs: list[int]) -> None:
        with self.server.bouncer() as (socket, port):
            clients = {way: Client(way, self.node, socket, port) for way in POOLED}
            for job in jobs:
                self._compare(clients, job)
                for turn in range(self.options.rounds):
                    self._say(f"PgBouncer, job {job}: turn {turn + 1} of {self.options.rounds}")
                    for way, client in clients.items():
                        order = {"job": job, "inflight": 20, "seconds": self.options.seconds}
                        figures = client.measure(self.server, warm_seconds=self.options.warm, **order)
                        self.measured.add(f"pgbouncer {job}", way, 20, figures)
                        self._clean(job)
            for client in clients.values():
                client.close()

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self.options.started:4.0f} s  {text}", file=sys.stderr, flush=True)


def install_node_packages(directory: Path) -> None:
    """Install the clients on Node beside copies of their sources, so that nothing of theirs is in this directory."""
    if not shutil.which("npm"):
        raise SystemExit("Node is not installed, and the clients of JavaScript run on it: `apt-get install npm`")
    shutil.copytree(HERE / "node", directory)
    subprocess.run(["npm", "ci", "--silent", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=directory, check=True)


def machine(directory: Path) -> dict[str, Any]:
    model = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    versions = {"node": ["node", "--version"], "commit": ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]}
    found = {
        name: subprocess.run(command, check=False, capture_output=True, text=True) for name, command in versions.items()
    }
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "file_system": file_system(directory),
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
        **{name: done.stdout.strip() for name, done in found.items()},
    }


def parse() -> argparse.Namespace:
    every = ",".join([*map(str, JOBS), *BESIDE, "pgbouncer"])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", default=every, help=f"which of {every}")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each client; results are medians of them")
    parser.add_argument("--seconds", type=float, default=0.7, help="duration of one measurement")
    parser.add_argument("--quick", action="store_true", help="one round of short measurements")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to a file")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="show the ratio to the figures of an earlier run")
    parser.add_argument("--directory", type=Path, default=DISK, help="where the server's files go: on a real disk")
    options = parser.parse_args()
    options.started = time.monotonic()
    options.warm, options.first_warm, options.beside = 0.15, 0.5, 4.5
    if options.quick:
        options.rounds, options.seconds, options.first_warm, options.beside = 1, 0.3, 0.2, 2.5
    return options


def main() -> None:
    options = parse()
    # A run that is ended from outside must not leave its server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked = options.jobs.split(",")
    with tempfile.TemporaryDirectory(prefix="tatame-bench-", dir=options.directory) as name:
        directory = Path(name)
        directory.chmod(0o755)
        install_node_packages(directory / "node")
        server = Server(directory / "server")
        about = machine(directory)
        try:
            run = Run(server, directory / "node", options)
            measured = run.all(
                [int(job) for job in asked if job.isdigit()], [job for job in asked if not job.isdigit()]
            )
        finally:
            server.embedded.delete()
    about["minutes"] = round((time.monotonic() - options.started) / 60, 1)
    earlier = json.loads(options.compare.read_text()) if options.compare else None
    result = report(measured, about, earlier)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
