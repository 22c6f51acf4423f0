"""One client process in Python: it takes orders on its input, one JSON value a line, and answers each with one line."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import drivers
import orm
import ours
import uvloop
from sqlalchemy import URL

from tatame_db import AsyncDatabase, Database
from tatame_db.schema import Base

Jobs = dict[int | str, Callable[[int], Any]]
SLOW_CALLS = 3


def say(value: Any) -> None:
    print(json.dumps(value), flush=True)


def plain(value: Any) -> Any:
    """Return a result as JSON has it, whatever it is made of; a timestamp differs from a text that looks like one."""
    if hasattr(value, "__struct_fields__"):
        value = {name: getattr(value, name) for name in value.__struct_fields__}
    elif isinstance(value, Base):
        value = {name: item for name, item in value.__dict__.items() if not name.startswith("_")}
    if hasattr(value, "items"):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return f"timestamp {value.isoformat()}"
    return value


def figures(latencies: list[float], seconds: float, cpu: float) -> dict[str, float]:
    latencies.sort()
    return {
        "calls": len(latencies),
        "per_second": len(latencies) / seconds,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1000,
        "max_ms": latencies[-1] * 1000,
        "client_cpu_ms": cpu / len(latencies) * 1000,
    }


# --- asyncio ---------------------------------------------------------------------------------------------------------


class AsyncClient:
    """Runs the jobs in one event loop, with as many calls in flight as an order says."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.numbers = itertools.count()

    async def serve(self) -> None:
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            if "check" in order:
                run = self.jobs[order["check"]["job"]]
                say(plain(await asyncio.gather(*map(run, order["check"]["numbers"]))))
            else:
                say(await self.measure(**order))

    async def measure(
        self, job: int, inflight: int, seconds: float, warm_seconds: float, beside: str | None = None
    ) -> dict[str, float]:
        run = self.jobs[job]
        await self.turns(run, inflight, warm_seconds)
        gc.collect()
        say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        stop = asyncio.Event()
        slow = [asyncio.create_task(self.repeat(self.jobs[beside], stop)) for _ in range(SLOW_CALLS) if beside]
        cpu, started = time.process_time(), time.perf_counter()
        latencies = await self.turns(run, inflight, seconds)
        answer = figures(latencies, time.perf_counter() - started, time.process_time() - cpu)
        stop.set()
        await asyncio.gather(*slow)
        return answer

    async def turns(self, run: Callable[[int], Any], inflight: int, seconds: float) -> list[float]:
        latencies: list[float] = []
        end = time.perf_counter() + seconds

        async def worker() -> None:
            at = time.perf_counter()
            while True:
                await run(next(self.numbers))
                now = time.perf_counter()
                latencies.append(now - at)
                at = now
                if now > end:
                    return

        await asyncio.gather(*(worker() for _ in range(inflight)))
        return latencies

    async def repeat(self, run: Callable[[int], Any], stop: asyncio.Event) -> None:
        while not stop.is_set():
            await run(0)


async def serve_async(way: str, socket: str, database: str, port: str) -> None:
    address = address_of(socket, database, port)
    dsn = drivers.conninfo(socket, database, port)
    prepared = not way.endswith("_unprepared")
    async with AsyncDatabase(address) as db:
        match way.split("_", maxsplit=1)[0]:
            case "tatame":
                jobs = ours.jobs(db)
            case "orm":
                jobs = orm.jobs(db)
            case "asyncpg":
                jobs = await drivers.Asyncpg(dsn, prepared=prepared).open()
            case _:
                jobs = await drivers.PsycopgAsync(dsn, prepared=prepared).open()
        await AsyncClient(jobs).serve()


# --- Threads ---------------------------------------------------------------------------------------------------------


class SyncClient:
    """Runs the jobs in as many threads as an order says."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.numbers = itertools.count()

    def serve(self) -> None:
        for line in sys.stdin:
            order = json.loads(line)
            if "check" in order:
                with ThreadPoolExecutor(8) as threads:
                    say(plain(list(threads.map(self.jobs[order["check"]["job"]], order["check"]["numbers"]))))
            else:
                say(self.measure(**order))

    def measure(
        self, job: int, inflight: int, seconds: float, warm_seconds: float, beside: str | None = None
    ) -> dict[str, float]:
        run = self.jobs[job]
        self.turns(run, inflight, warm_seconds)
        gc.collect()
        say("ready")
        sys.stdin.readline()
        stop = threading.Event()
        slow = [
            threading.Thread(target=self.repeat, args=(self.jobs[beside], stop)) for _ in range(SLOW_CALLS) if beside
        ]
        for thread in slow:
            thread.start()
        cpu, started = time.process_time(), time.perf_counter()
        latencies = self.turns(run, inflight, seconds)
        answer = figures(latencies, time.perf_counter() - started, time.process_time() - cpu)
        stop.set()
        for thread in slow:
            thread.join()
        return answer

    def turns(self, run: Callable[[int], Any], inflight: int, seconds: float) -> list[float]:
        latencies: list[float] = []
        end = time.perf_counter() + seconds

        def worker() -> None:
            at = time.perf_counter()
            while True:
                run(next(self.numbers))
                now = time.perf_counter()
                latencies.append(now - at)
                at = now
                if now > end:
                    return

        # A thread that fails must end the run, which a bare `Thread` does not.
        with ThreadPoolExecutor(inflight) as threads:
            for worked in [threads.submit(worker) for _ in range(inflight)]:
                worked.result()
        return latencies

    def repeat(self, run: Callable[[int], Any], stop: threading.Event) -> None:
        while not stop.is_set():
            run(0)


def serve_sync(way: str, socket: str, database: str, port: str) -> None:
    with Database(address_of(socket, database, port)) as db:
        match way.split("_", maxsplit=1)[0]:
            case "tatame":
                jobs = ours.jobs(db)
            case "orm":
                jobs = orm.jobs(db)
            case _:
                jobs = drivers.Psycopg(drivers.conninfo(socket, database, port)).open()
        SyncClient(jobs).serve()


def address_of(socket: str, database: str, port: str) -> URL:
    return URL.create("postgresql+psycopg", "postgres", database=database, query={"host": socket, "port": port})


def main(way: str, socket: str, database: str, port: str) -> None:
    if way.endswith("_sync"):
        serve_sync(way, socket, database, port)
    elif "uvloop" in way or way.startswith("asyncpg"):
        uvloop.run(serve_async(way, socket, database, port))
    else:
        asyncio.run(serve_async(way, socket, database, port))


if __name__ == "__main__":
    main(*sys.argv[1:])
