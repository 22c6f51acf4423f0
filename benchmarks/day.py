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
from tatame_db.move.rehearsal.comparer import compare_values
from tatame_db.move.rehearsal.project import connect, run_statements
from tatame_db.move.rehearsal.writer import Writer
from tatame_db.move.switch.steps import Step
from tatame_db.server.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import URL

    from tatame_db.server.scratch import Scratch

COMMAND = [sys.executable, "-m", "tatame_db", "move"]
CONFIRMED = "--write-to-source"
SWITCHES = 5
# The next writer begins anew.
CLEAR = [
    "DELETE FROM notifications WHERE title LIKE 'rehearsal\\_%'",
    "DELETE FROM checkins WHERE {user_id} IN (SELECT id FROM users WHERE clerk_user_id LIKE 'rehearsal\\_%')",
    "DELETE FROM users WHERE clerk_user_id LIKE 'rehearsal\\_%'",
]


class Day:
    """A source, a target and an app."""

    def __init__(self, source: Scratch, target: Scratch) -> None:
        self.servers = [source.server, target.server]
        self.source = source.server.address.set(database="supabase")
        self.target = target.server.address.set(database="app")
        self.at_target = False
        self.rounds = self.transactions = self.wrong = 0
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

    @property
    def command(self) -> str:
        """The command that moves the homes to the other database."""
        return "back" if self.at_target else "switch"

    def kill(self, victim: str, process: subprocess.Popen[str]) -> None:
        """Kill the client or a server, start the server again, and wait for the end of the client."""
        if victim == "client":
            process.kill()
        else:
            server = self.servers[victim == "target"]
            os.kill(int((server.data / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
            time.sleep(0.2)
            while not server.is_running:
                with contextlib.suppress(Exception):
                    server.start()
        process.communicate("\n", timeout=120)

    @contextlib.contextmanager
    def round(self, name: str, victim: str) -> Generator[None]:
        """Let the app write while something is killed; then move the homes, and compare everything."""
        with Writer(self.source, self.target) as writer:
            yield
            for attempt in range(20):
                with contextlib.suppress(RuntimeError):
                    self.move(self.command, CONFIRMED)
                    break
                if {table["home"] for table in self.move("status", "--json")["tables"]} == {self._new_home}:
                    break
                time.sleep(1 + attempt)
            self.at_target = not self.at_target
            before = writer.acknowledged
            while writer.acknowledged < before + 5:
                time.sleep(0.05)
        self.move("follow", "--once", *(["--back"] if self.at_target else []), CONFIRMED)
        wrong = [str(found) for found in compare_values(self.source, self.target).discrepancies]
        wrong += [problem for address in (self.source, self.target) for problem in writer.problems(address)]
        self.rounds += 1
        self.transactions += writer.acknowledged
        self.wrong += bool(wrong)
        print(f"{name}, {victim} killed: {'; '.join(wrong) or 'equal'}", file=sys.stderr, flush=True)
        with connect(self.target if self.at_target else self.source) as connection:
            user_id = "user_id" if self.at_target else '"userId"'
            for statement in CLEAR:
                connection.execute(statement.format(user_id=user_id).encode())

    @property
    def _new_home(self) -> str:
        return "source" if self.at_target else "target"

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
            measure_pauses(day, writer)
        print(f"{writer.acknowledged} acknowledged transactions: {writer.problems(day.source) or 'none lost'}")
    finally:
        follow.send_signal(signal.SIGINT)
        follow.communicate(timeout=60)


def measure_pauses(day: Day, writer: Writer) -> None:
    """Print the pauses of switches and ways back in turns, each after a comparison of all rows without a pause."""
    pauses: dict[str, list[float]] = {"switch": [], "back": []}
    ratios: dict[str, list[float]] = {"switch": [], "back": []}
    writer.longest_wait_seconds = 0.0
    for _ in range(SWITCHES):
        for command, found in pauses.items():
            digest = day.move(command, "--dry-run", "--json")["pause_seconds"]
            pause = day.move(command, "--json", CONFIRMED)["pause_seconds"]
            found.append(pause)
            ratios[command].append(pause / digest)
            time.sleep(1)
    for command, found in pauses.items():
        print(
            f"{command}: pause {median(found):.2f} s, {max(found):.2f} s at most; {median(ratios[command]):.2f} of a"
            f" comparison of all rows, {min(ratios[command]):.2f} to {max(ratios[command]):.2f} in {SWITCHES} rounds"
        )
    print(f"the app waited for {writer.longest_wait_seconds:.2f} s at most")


def _peak_megabytes(process: int) -> float:
    [line] = [line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


VICTIMS = ("client", "source", "target")
# Ran in a process of its own, which waits in the wanted step until the victim is dead.
WAITING_SWITCH = """
import os, sys
from sqlalchemy import create_engine, make_url
from tatame_db.database.address import parse_address
from tatame_db.move import Home, Step, switch

def wait(step):
    if step is Step[sys.argv[1]]:
        print("there", flush=True)
        sys.stdin.readline()

source, target = parse_address(os.environ["SUPABASE_DB_URL"]), parse_address(os.environ["DATABASE_URL"])
switch(source, create_engine(target), to=Home(sys.argv[2]), on_step=wait)
"""


def kill_rounds(day: Day, rounds: int) -> None:
    """Kill the client or a server at a random moment of following, switching and going back; name what was lost."""
    chance = random.Random(1)  # noqa: S311, no secret
    for number in range(1, rounds + 1):
        victim = chance.choice(VICTIMS)
        with day.round(f"round {number}", victim):
            following = ["follow", "--once", *(["--back"] if day.at_target else [])]
            process = day.start(*chance.choice([following, [day.command]]), CONFIRMED)
            time.sleep(chance.uniform(0.5, 4.0))
            day.kill(victim, process)


def kill_at_steps(day: Day) -> None:
    """Kill the client and each server once in each step of a switch, in turns in both directions."""
    for victim in VICTIMS:
        for step in Step:
            with day.round(f"{day.command}, {step.name}", victim):
                home = "source" if day.at_target else "target"
                process = subprocess.Popen(
                    [sys.executable, "-c", WAITING_SWITCH, step.name, home],
                    env=day.environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
                if not process.stdout or process.stdout.readline() != "there\n":
                    raise RuntimeError(f"the switch did not reach {step.name}")
                day.kill(victim, process)


def main() -> None:
    """Measure one day, then the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_200_000)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=0, help="kill something in each of these rounds")
    parser.add_argument("--steps", action="store_true", help="kill something in each step of a switch")
    options = parser.parse_args()
    kills = options.steps or options.rounds > 0
    with scratch(on_disk=kills) as source, scratch(on_disk=kills) as target:
        day = Day(source, target)
        with source.database("supabase"), target.database("app") as engine:
            for file in ("supabase", "rows"):
                run_statements(day.source, file, options.rows)
            for address in (day.source, day.target) if kills else ():
                # Scratch servers lose what they acknowledged last when they are killed.
                with connect(address, autocommit=True) as connection:
                    connection.execute(f"ALTER DATABASE {address.database} SET synchronous_commit = on".encode())
            evolve.migrate(engine)
            engine.dispose()
            day.move("copy")
            if options.steps:
                kill_at_steps(day)
            if options.rounds:
                kill_rounds(day, options.rounds)
            if kills:
                print(f"{day.rounds} rounds, {day.transactions} acknowledged transactions: wrong in {day.wrong} rounds")
            else:
                measure(day, options.seconds)


if __name__ == "__main__":
    main()
