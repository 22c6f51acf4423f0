"""The tables of what was measured, and whether the goals are reached."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from jobs import JOBS
from rich import box
from rich.console import Console
from rich.table import Table

NAMES = {
    "tatame": "tatame_db",
    "tatame_uvloop": "tatame_db, uvloop",
    "asyncpg": "asyncpg, uvloop",
    "psycopg": "psycopg pool",
    "orm": "ORM",
    "drizzle": "Drizzle",
    "drizzle_prepared": "Drizzle prepared",
    "postgresjs": "postgres.js",
    "pgbench": "pgbench",
    "tatame_sync": "tatame_db",
    "psycopg_sync": "psycopg pool",
    "orm_sync": "ORM",
    "asyncpg_unprepared": "asyncpg, uvloop",
    "psycopg_unprepared": "psycopg pool",
    "postgresjs_unprepared": "postgres.js",
}
PEERS = ["asyncpg", "psycopg", "orm", "drizzle", "drizzle_prepared", "postgresjs"]
PYTHON_PEERS = ["asyncpg", "psycopg", "orm"]
BESIDE = {
    "sleep": "three statements that sleep for two seconds",
    "lock": "three reads that wait up to two seconds for a lock",
}
CPU_JOBS = (1, 4, 6, 7)
CPU_SHARE = 0.6

Key = tuple[int | str, str, int]


@dataclass
class Measured:
    """The figures of every turn, by job, client and calls in flight."""

    turns: dict[Key, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, job: int | str, way: str, inflight: int, figures: dict[str, float]) -> None:
        self.turns[job, way, inflight].append(figures)

    def median(self, job: int | str, way: str, inflight: int, figure: str) -> float:
        return statistics.median(turn[figure] for turn in self.turns[job, way, inflight])

    def has(self, job: int | str, way: str) -> bool:
        return any(key[:2] == (job, way) for key in self.turns)

    @property
    def jobs(self) -> list[int]:
        return [job for job in JOBS if self.has(job, "tatame")]

    def best(self, job: int | str, ways: list[str], inflight: int, figure: str = "per_second") -> tuple[str, float]:
        """Return the best of some clients: the most calls, or the least of any other figure."""
        found = {way: self.median(job, way, inflight, figure) for way in ways}
        choose = max if figure == "per_second" else min
        way = choose(found, key=lambda name: found[name])
        return way, found[way]


@dataclass(frozen=True)
class Verdict:
    """One goal for one job: the ratio that was measured, and the most or the least that it may be."""

    goal: str
    subject: str
    ratio: float
    limit: float
    at_least: bool
    peer: str

    @property
    def reached(self) -> bool:
        return self.ratio >= self.limit if self.at_least else self.ratio <= self.limit

    def __str__(self) -> str:
        missed = abs(self.ratio / self.limit - 1) * 100
        result = "reached" if self.reached else f"missed by {missed:.0f} %"
        return f"{self.subject}: {self.ratio:.2f} of {self.peer}, {result}"


def verdicts(measured: Measured) -> list[Verdict]:
    found: list[Verdict] = []

    def judge(goal: str, job: int, way: str, peers: list[str], *, inflight: int, figure: str, limit: float = 1) -> None:
        peer, value = measured.best(job, peers, inflight, figure)
        ratio = measured.median(job, way, inflight, figure) / value
        found.append(Verdict(goal, f"job {job}", ratio, limit, at_least=figure == "per_second", peer=NAMES[peer]))

    for job in measured.jobs:
        judge(
            "calls per second, 20 in flight: at least the best peer's",
            job,
            "tatame",
            PEERS,
            inflight=20,
            figure="per_second",
        )
    for job in (job for job in measured.jobs if job in CPU_JOBS):
        goal = f"client CPU, 20 in flight: at most {CPU_SHARE} of asyncpg's"
        judge(goal, job, "tatame", ["asyncpg"], inflight=20, figure="client_cpu_ms", limit=CPU_SHARE)
    for job in measured.jobs:
        judge(
            "latency of a call alone: at most the best Python peer's",
            job,
            "tatame",
            PYTHON_PEERS,
            inflight=1,
            figure="p50_ms",
        )
    for threads in (1, 8):
        for job in measured.jobs:
            goal = f"calls per second, {threads} {'thread' if threads == 1 else 'threads'}: at least psycopg's pool"
            judge(goal, job, "tatame_sync", ["psycopg_sync"], inflight=threads, figure="per_second")
    for name, title in BESIDE.items():
        if measured.has(name, "tatame"):
            value = measured.median(name, "asyncpg", 20, "p99_ms")
            ratio = measured.median(name, "tatame", 20, "p99_ms") / value
            goal = "p99 of short calls beside slow ones: at most that of a pool of 20"
            found.append(Verdict(goal, title, ratio, limit=1, at_least=False, peer=NAMES["asyncpg"]))
    return found


def report(measured: Measured, about: dict[str, Any], earlier: dict[str, Any] | None) -> dict[str, Any]:
    """Print everything as Markdown, and return it as JSON has it."""
    console = Console(width=400, highlight=False)
    console.print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in about.items()))
    if measured.jobs:
        _print_async(console, measured)
        _print_sync(console, measured)
    _print_beside(console, measured)
    _print_pooled(console, measured)
    if earlier:
        _print_changes(console, measured, earlier)
    judged = verdicts(measured)
    goal = ""
    for verdict in judged:
        if verdict.goal != goal:
            goal = verdict.goal
            same = [other for other in judged if other.goal == goal]
            console.print(f"\n{goal} ({sum(other.reached for other in same)} of {len(same)})\n")
        console.print(f"- {verdict}")
    return {
        "about": about,
        "figures": [
            {"job": job, "way": way, "inflight": inflight, "turns": turns}
            for (job, way, inflight), turns in measured.turns.items()
        ],
        "verdicts": [{"goal": v.goal, "text": str(v), "ratio": v.ratio, "reached": v.reached} for v in judged],
    }


def _print_table(console: Console, title: str, heads: list[str], rows: list[list[str]]) -> None:
    table = Table(box=box.MARKDOWN)
    for head in heads:
        table.add_column(head, no_wrap=True, justify="left" if head == heads[0] else "right")
    for row in rows:
        table.add_row(*row)
    console.print(f"\n{title}\n")
    console.print(table)


def _print_async(console: Console, measured: Measured) -> None:
    ways = ["tatame", "tatame_uvloop", *PEERS]

    def table(title: str, inflight: int, figures: list[str], form: str, names: list[str] = ways) -> None:
        rows = [
            [
                f"{job} {JOBS[job]}",
                *(
                    " / ".join(format(measured.median(job, way, inflight, figure), form) for figure in figures)
                    for way in names
                ),
            ]
            for job in measured.jobs
        ]
        _print_table(console, title, ["Job", *(NAMES[way] for way in names)], rows)

    table("Calls per second, 20 in flight:", 20, ["per_second"], ",.0f", [*ways, "pgbench"])
    rows = []
    for job in measured.jobs:
        calls = measured.median(job, "tatame", 20, "per_second")
        peer, best = measured.best(job, PEERS, 20)
        limit = measured.median(job, "pgbench", 20, "per_second")
        uvloop = measured.median(job, "tatame_uvloop", 20, "per_second")
        cpu = measured.median(job, "tatame", 20, "client_cpu_ms") / measured.median(job, "asyncpg", 20, "client_cpu_ms")
        ratios = [f"{ratio:.2f}" for ratio in (calls / best, uvloop / best, calls / limit, cpu)]
        rows.append([f"{job} {JOBS[job]}", NAMES[peer], *ratios])
    heads = ["Job", "Best peer", "of its calls", "with uvloop", "of pgbench's calls", "of asyncpg's client CPU"]
    _print_table(console, "tatame_db's share, 20 in flight:", heads, rows)
    table("Milliseconds of a call, 20 in flight (median / 99th percentile):", 20, ["p50_ms", "p99_ms"], ".1f")
    table("Milliseconds of a call alone (median / 99th percentile):", 1, ["p50_ms", "p99_ms"], ".2f")
    table("Milliseconds of client CPU per call, 20 in flight:", 20, ["client_cpu_ms"], ".3f")
    table("Milliseconds of server CPU per call, 20 in flight:", 20, ["server_cpu_ms"], ".3f")


def _print_sync(console: Console, measured: Measured) -> None:
    ways = ["tatame_sync", "psycopg_sync", "orm_sync"]
    for title, figure, form in (
        ("Sync, calls per second with 1 / 8 / 20 threads:", "per_second", ",.0f"),
        ("Sync, milliseconds of client CPU per call with 1 / 8 / 20 threads:", "client_cpu_ms", ".3f"),
        ("Sync, milliseconds of a call with 1 / 8 / 20 threads, 99th percentile:", "p99_ms", ".2f"),
    ):
        rows = [
            [
                f"{job} {JOBS[job]}",
                *(" / ".join(format(measured.median(job, way, n, figure), form) for n in (1, 8, 20)) for way in ways),
            ]
            for job in measured.jobs
        ]
        _print_table(console, title, ["Job", *(NAMES[way] for way in ways)], rows)


def _print_beside(console: Console, measured: Measured) -> None:
    for name, title in BESIDE.items():
        rows = []
        for way in dict.fromkeys(way for job, way, _ in measured.turns if job == name):
            values = [measured.median(name, way, 20, figure) for figure in ("p50_ms", "p99_ms", "max_ms")]
            kind = "threads" if way.endswith("_sync") else "asyncio"
            calls = measured.median(name, way, 20, "per_second")
            rows.append([f"{NAMES[way]} ({kind})", f"{calls:,.0f}", *(f"{value:.1f}" for value in values)])
        if rows:
            heads = ["Client", "calls per second", "median ms", "99th percentile", "longest"]
            _print_table(console, f"Job 6, 20 in flight, beside {title}:", heads, rows)


def _print_pooled(console: Console, measured: Measured) -> None:
    jobs = [job for job in JOBS if measured.has(f"pgbouncer {job}", "tatame")]
    ways = ["tatame", "asyncpg_unprepared", "psycopg_unprepared", "postgresjs_unprepared"]
    for title, figure, form in (
        ("Behind PgBouncer in transaction mode, calls per second, 20 in flight:", "per_second", ",.0f"),
        ("Behind PgBouncer, milliseconds of client CPU per call:", "client_cpu_ms", ".3f"),
    ):
        rows = [
            [
                f"{job} {JOBS[job]}",
                *(format(measured.median(f"pgbouncer {job}", way, 20, figure), form) for way in ways),
            ]
            for job in jobs
        ]
        if rows:
            _print_table(console, title, ["Job", *(NAMES[way] for way in ways)], rows)


def _print_changes(console: Console, measured: Measured, earlier: dict[str, Any]) -> None:
    before = Measured()
    for figures in earlier["figures"]:
        for turn in figures["turns"]:
            before.add(figures["job"], figures["way"], figures["inflight"], turn)
    rows = []
    for job, way, inflight in measured.turns:
        if way.startswith("tatame") and (job, way, inflight) in before.turns:
            pairs = [
                (measured.median(job, way, inflight, figure), before.median(job, way, inflight, figure))
                for figure in ("per_second", "client_cpu_ms", "server_cpu_ms", "p99_ms")
            ]
            ratios = [f"{now / then:.2f}" for now, then in pairs]
            rows.append([str(job), way, str(inflight), f"{pairs[0][1]:,.0f}", f"{pairs[0][0]:,.0f}", *ratios])
    heads = ["Job", "Client", "In flight", "then", "now", "calls", "client CPU", "server CPU", "p99"]
    commit = earlier["about"].get("commit", "an earlier run")
    _print_table(console, f"Against {commit}, as ratios of now to then:", heads, rows)
