"""Measure the eight jobs in turns and print the tables of the README; `--seconds` and `--rounds` set the duration."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import text

from tatame_db import evolve
from tatame_db.database.creation import create_missing_database
from tatame_db.database.pool import Database
from tatame_db.server.embedded import EmbeddedServer

HERE = Path(__file__).parent
WAYS = ["tatame", "plain", "prepared", "orm", "psycopg"]
NAMES = {
    "tatame": "tatame_db",
    "plain": "Drizzle",
    "prepared": "Drizzle prepared",
    "orm": "ORM",
    "psycopg": "psycopg",
}
JOBS = {
    1: "a user by clerk id with gym and graduations",
    2: "20 classes of a gym with gym, instructor, assets",
    3: "100 students with graduations",
    4: "insert one check-in returning it",
    5: "insert 1,000 check-ins",
    6: "50 check-ins of a member between two dates",
    7: "newest 20 notifications for a recipient",
    8: "10,000 users, all 22 columns",
}
DATA = """
INSERT INTO roles (id) VALUES ('STUDENT'), ('INSTRUCTOR'), ('MANAGER');
INSERT INTO gyms (name, address, since, created_at)
    SELECT 'Gym ' || i, 'Rua ' || i, '2015-03-01', '2026-01-01' FROM generate_series(1, 100) i;
INSERT INTO users (clerk_user_id, email, first_name, last_name, birth, birth_day, gender, phone, role, gym_id, plan,
                   approved_at, created_at)
    SELECT 'user_' || i, 'user' || i || '@gym.example', 'Ana ' || i, 'da Silva', '1990-12-31', '12-31', 'FEMALE',
           '+55 11 90000-0000', CASE WHEN i % 20 = 0 THEN 'INSTRUCTOR' ELSE 'STUDENT' END, i % 100 + 1, 'MONTHLY',
           '2026-01-02 10:00:00', '2026-01-01 10:00:00'
    FROM generate_series(1, 20000) i;
INSERT INTO graduations (user_id, belt, degree, modality, created_at)
    SELECT i, 'BLUE', n, 'BJJ', '2026-01-01'::timestamp + n * interval '1 day'
    FROM generate_series(1, 20000) i, generate_series(1, 3) n;
INSERT INTO class (gym_id, instructor_id, created_by, day, start, "end", modality, description, created_at)
    SELECT i % 100 + 1, i * 10, i * 10, 'MONDAY', '18:00', '19:30', 'BJJ', 'Fundamentals for everybody', '2026-01-01'
    FROM generate_series(1, 2000) i;
INSERT INTO assets (class_id, title, content, type, created_at)
    SELECT i, 'Armbar', 'https://video.example/' || i, 'video', '2026-01-01'
    FROM generate_series(1, 2000) i, generate_series(1, 2);
INSERT INTO checkins (user_id, class_id, date, created_at)
    SELECT i % 20000 + 1, i % 2000 + 1, to_char('2025-01-01'::date + i / 20000 * 14, 'YYYY-MM-DD'), '2026-01-01'
    FROM generate_series(0, 999999) i;
INSERT INTO notifications (sent_by, title, content, channel, status, recipients, viewed_by, sent_at, created_at)
    SELECT i, 'Exam', 'On Saturday at ten', 'push', 'sent',
           ARRAY(SELECT ((i * 40 + n) % 20000 + 1)::text FROM generate_series(0, 39) n), '{}', '2026-01-02',
           '2026-01-01'::timestamp + i * interval '1 minute'
    FROM generate_series(1, 20000) i;
"""


class Client:
    """One client process, which takes commands on its input."""

    def __init__(self, way: str, socket: str) -> None:
        program = [sys.executable, "client.py"] if way in ("tatame", "orm", "psycopg") else ["node", "drizzle.mjs"]
        self.process = subprocess.Popen(
            [*program, way, socket, "bench"],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TZ": "UTC"},
        )

    def ask(self, **order: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def same_for_all(result: Any) -> Any:
    """Return a result without the differences in how clients write names and timestamps."""
    if isinstance(result, list):
        return [same_for_all(one) for one in result]
    if isinstance(result, dict):
        named = {re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name): one for name, one in result.items()}
        named.pop("id", None) if named.get("date") == "2030-01-01" else None
        named.pop("created_at", None) if named.get("date") == "2030-01-01" else None
        return {name: same_for_all(one) for name, one in sorted(named.items())}
    return result.removesuffix("Z").removesuffix(".000") if isinstance(result, str) else result


def clean(database: Database) -> None:
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("DELETE FROM checkins WHERE id > 1000000"))
        connection.execute(text("VACUUM checkins"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tatame-bench-") as directory:
        Path(directory).chmod(0o755)
        server = EmbeddedServer(Path(directory) / "server", durable=False)
        server.start()
        try:
            # Five clients with 20 connections each.
            with (
                Database(server.address.set(database="postgres")) as database,
                database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
            ):
                connection.execute(text("ALTER SYSTEM SET max_connections = 150"))
            server.stop()
            server.start()
            measure(server, options.seconds, options.rounds)
        finally:
            server.delete()


def measure(server: EmbeddedServer, seconds: float, rounds: int) -> None:
    address = server.address.set(database="bench")
    create_missing_database(address)
    with Database(address) as database:
        evolve.migrate(database.engine)
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(DATA, execution_options={"no_parameters": True})
            connection.execute(text("VACUUM ANALYZE"))
        clients = {way: Client(way, str(address.query["host"])) for way in WAYS}
        for job in JOBS:
            answers = [same_for_all(client.ask(check=job)) for client in clients.values()]
            if job != 5:
                for way, answer in zip(WAYS, answers, strict=True):
                    assert answer == answers[0], f"{way} differs in job {job}: {answer} {answers[0]}"
        clean(database)
        found: dict[tuple[int, str, int], list[dict[str, float]]] = {}
        for job in JOBS:
            for _ in range(rounds):
                for way, client in clients.items():
                    for inflight in (1, 20):
                        answer = client.ask(job=job, inflight=inflight, seconds=seconds)
                        found.setdefault((job, way, inflight), []).append(answer)
                    if job in (4, 5):
                        clean(database)
            print(f"job {job} done", file=sys.stderr, flush=True)
        for client in clients.values():
            client.process.stdin.close()  # type: ignore[union-attr]
            client.process.wait()
    report(found)


def report(found: dict[tuple[int, str, int], list[dict[str, float]]]) -> None:
    def median(job: int, way: str, inflight: int, figure: str) -> float:
        return statistics.median(turn[figure] for turn in found[job, way, inflight])

    def table(title: str, inflight: int, figure: str, form: str) -> None:
        print(f"\n{title}\n\n| Job | {' | '.join(NAMES[way] for way in WAYS)} |\n|{' --- |' * (len(WAYS) + 1)}")
        for job, name in JOBS.items():
            cells = [format(median(job, way, inflight, figure), form) for way in WAYS]
            print(f"| {job} {name} | {' | '.join(cells)} |")

    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    table("Calls per second at 20 in flight:", 20, "per_second", ",.0f")
    table("Milliseconds of a call alone (median):", 1, "latency_ms", ".2f")
    table("Milliseconds of client CPU per call at 20 in flight:", 20, "cpu_ms", ".3f")
    print("\ntatame_db against the others, calls per second at 20 in flight, and client CPU:\n")
    print(f"| Job | {' | '.join(NAMES[way] for way in WAYS[1:])} | CPU |\n|{' --- |' * (len(WAYS) + 1)}")
    for job in JOBS:
        calls = median(job, "tatame", 20, "per_second")
        ratios = [f"{calls / median(job, way, 20, 'per_second'):.2f}" for way in WAYS[1:]]
        cpu = median(job, "tatame", 20, "cpu_ms") / median(job, "psycopg", 20, "cpu_ms")
        print(f"| {job} | {' | '.join(ratios)} | {cpu:.2f} |")


if __name__ == "__main__":
    main()
