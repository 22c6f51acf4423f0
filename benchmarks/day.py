"""The day of a move under load: lag of the follower, pause of a switch, and rounds in which something is killed.

Run it by hand: `python benchmarks/day.py --rows 1200000`. It takes minutes. `README.md` has results.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tatame_db import evolve
from tatame_db.database.address import readable
from tatame_db.move.rehearsal.project import connect, run_statements
from tatame_db.move.rehearsal.writer import Writer
from tatame_db.server.scratch import scratch

if TYPE_CHECKING:
    from sqlalchemy import URL

    from tatame_db.server.scratch import Scratch

COMMAND = [sys.executable, "-m", "tatame_db", "move"]
CONFIRMED = "--write-to-source"


class Day:
    """A source, a target and an app."""

    def __init__(self, source: Scratch, target: Scratch) -> None:
        self.servers = [source.server, target.server]
        self.source = source.server.address.set(database="supabase")
        self.target = target.server.address.set(database="app")
        self.environment = os.environ | {
            "SUPABASE_DB_URL": readable(self.source),
            "DATABASE_URL": readable(self.target),
        }

    def move(self, *arguments: str) -> dict[str, Any]:
        """Run a command, and return what it prints with `--json`."""
        done = subprocess.run([*COMMAND, *arguments], env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr}")
        return dict(json.loads(done.stdout)) if "--json" in arguments else {}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command that goes on."""
        return subprocess.Popen(
            [*COMMAND, *arguments], env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def newest(self, address: URL) -> float:
        """Return the time of the newest row that the app wrote, as a database has it; 0 if it has none."""
        with connect(address) as connection:
            [(newest,)] = connection.execute(
                "SELECT extract(epoch FROM max(created_at)) FROM users WHERE clerk_user_id LIKE 'rehearsal\\_%'"
            )
        return float(newest or 0)


def measure(day: Day, seconds: int) -> None:
    """Print lag, pause and memory."""
    follow = day.start("follow", "--keep-slot", CONFIRMED)
    try:
        with Writer(day.source, day.target) as writer:
            while day.newest(day.target) == 0:
                time.sleep(0.1)
            time.sleep(5)
            lags: list[float] = []
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                lags.append(max(0.0, day.newest(day.source) - day.newest(day.target)))
                time.sleep(0.1)
            print(f"lag: median {median(lags):.2f} s, highest {max(lags):.2f} s, of {len(lags)} samples")
            peak = _peak_megabytes(follow.pid)
            print(f"memory of the follower: {peak:.0f} MB at most")
            digest = day.move("switch", "--dry-run", "--json")["pause_seconds"]
            for command in ("switch", "back"):
                writer.longest_wait_seconds = 0.0
                report = day.move(command, "--json", CONFIRMED)
                time.sleep(1)
                print(
                    f"{command}: pause {report['pause_seconds']:.2f} s, {report['pause_seconds'] / digest:.2f} of the"
                    f" whole digest ({digest:.2f} s); the app waited for {writer.longest_wait_seconds:.2f} s at most"
                )
        report_losses(writer, day.source)
    finally:
        follow.send_signal(signal.SIGINT)
        follow.communicate(timeout=60)


def _peak_megabytes(process: int) -> float:
    [line] = [line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def kill_rounds(day: Day, rounds: int) -> None:
    """Kill the client or a server at a random moment of following, switching and going back, and name what was lost."""
    chance = random.Random(1)  # noqa: S311, no secret
    at_target = False
    with Writer(day.source, day.target) as writer:
        for number in range(1, rounds + 1):
            command = chance.choice(["follow", "switch"])
            if command == "follow":
                arguments = ["follow", "--once", *(["--back"] if at_target else [])]
            else:
                arguments = ["back" if at_target else "switch"]
            process = day.start(*arguments, CONFIRMED)
            victim = chance.choice(["client", "source", "target"])
            time.sleep(chance.uniform(0.5, 4.0))
            if victim == "client":
                process.kill()
            else:
                server = day.servers[victim == "target"]
                os.kill(int((server.data / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
                time.sleep(0.2)
                while not server.is_running:
                    with contextlib.suppress(Exception):
                        server.start()
            process.wait(120)
            for attempt in range(20):
                with contextlib.suppress(RuntimeError):
                    day.move("back" if at_target else "switch", CONFIRMED)
                    break
                homes = {table["home"] for table in day.move("status", "--json")["tables"]}
                if homes == {"source" if at_target else "target"}:
                    break
                time.sleep(1 + attempt)
            at_target = not at_target
            time.sleep(0.5)
            print(f"round {number}: {' '.join(arguments)}, {victim} killed", file=sys.stderr)
    report_losses(writer, day.target if at_target else day.source)


def report_losses(writer: Writer, home: URL) -> None:
    """Print whether every acknowledged write is there, once."""
    problems = "; ".join(writer.problems(home)) or "nothing is lost, nothing is there twice"
    print(f"{writer.acknowledged} acknowledged transactions: {problems}")


def main() -> None:
    """Measure one day, then the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_200_000)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=0)
    options = parser.parse_args()
    with scratch(on_disk=options.rounds > 0) as source, scratch(on_disk=options.rounds > 0) as target:
        day = Day(source, target)
        with source.database("supabase"), target.database("app") as engine:
            for file in ("supabase", "rows"):
                run_statements(day.source, file, options.rows)
            evolve.migrate(engine)
            engine.dispose()
            day.move("copy")
            if options.rounds:
                kill_rounds(day, options.rounds)
            else:
                measure(day, options.seconds)


if __name__ == "__main__":
    main()
