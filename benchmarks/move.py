"""The time of a move and of tools that only copy. They take turns, so that a busy machine affects all of them alike.

Run it by hand: `python benchmarks/move.py --rows 2000000`. It needs `pgcopydb` and takes minutes. `README.md` has
results.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psycopg

from tatame_db import evolve
from tatame_db.database.address import readable
from tatame_db.database.dialect import quoted
from tatame_db.database.pool import Database
from tatame_db.move.conversion import about
from tatame_db.move.keys import validate_keys
from tatame_db.move.mapping import TableMap, read_mapping
from tatame_db.move.open import open_for_reading, open_for_writing
from tatame_db.move.parked import restore
from tatame_db.move.record import Record
from tatame_db.move.rehearsal.project import run_statements
from tatame_db.server.scratch import Scratch, scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import URL

PAGE = 1_000
# A page-by-page copy of all rows would take longer than everything else together.
PAGED_ROWS = 200_000
# What a tool without plan and proof does too.
COPYING = ["DROP", "WRITE", "NUMBER", "RESTORE", "VALIDATE", "TRY"]
PROVING = ["COMPARE", "PROVE", "CONFIRM"]

COPY, WITHOUT_PROOF, DIGESTS, IDLE = "move copy", "move copy without proof", "digests of move copy", "idle second run"
PIPE, CLONE, CLONE_MIGRATED = "bare pipe", "pgcopydb", "pgcopydb of the migrated schema"
RATIOS = [
    (PIPE, WITHOUT_PROOF),
    (WITHOUT_PROOF, CLONE),
    (WITHOUT_PROOF, CLONE_MIGRATED),
    (COPY, CLONE_MIGRATED),
    (DIGESTS, WITHOUT_PROOF),
    ("move verify", WITHOUT_PROOF),
    (IDLE, COPY),
    ("move copy --sha256", COPY),
    ("move copy --jobs 2", COPY),
]


def run_timed() -> None:
    """Run `tatame-db`, and write the seconds of each stage of a copy to the file that the last argument names."""
    seconds: Counter[str] = Counter()
    began = [("", 0.0)]
    move: Any = importlib.import_module("tatame_db.move")
    copy = move.copy

    def turn_to(stage: str) -> None:
        last, started = began.pop()
        began.append((stage, time.perf_counter()))
        if last:
            seconds[last] += time.perf_counter() - started

    def timed(*arguments: Any, on_stage: Callable[[Any, str | None], None], **options: Any) -> Any:
        def follow(stage: Any, table: str | None) -> None:
            turn_to(stage.name)
            on_stage(stage, table)

        try:
            return copy(*arguments, on_stage=follow, **options)
        finally:
            turn_to("")

    move.copy = timed
    place = sys.argv.pop()
    sys.argv[1:2] = []
    commands: Any = importlib.import_module("tatame_db.cli.commands")
    try:
        commands.main()
    finally:
        Path(place).write_text(json.dumps(seconds))


class Bench:
    """One project on one server, and targets on another."""

    def __init__(self, source: Scratch, target: Scratch, rows: int, place: Path) -> None:
        self.target_server, self.rows, self.place = target, rows, place
        self.targets = 0
        self.programs = source.server.program("psql").parent
        self.project = source.server.address.set(database="supabase")
        self.converted = source.server.address.set(database="converted")
        with source.database("supabase"):
            run_statements(self.project, "supabase", rows)
            run_statements(self.project, "rows", rows)
        with target.database("migrated") as engine:
            evolve.migrate(engine)
        # The same rows in the migrated schema, for tools that cannot convert.
        with source.database("converted") as engine:
            evolve.migrate(engine)
        self.command("copy", self.converted)
        for address in (self.project, self.converted):
            self.run_sql(address, "VACUUM (ANALYZE)", "CHECKPOINT")

    def run_sql(self, address: URL, *statements: str) -> None:
        with psycopg.connect(readable(address), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    @contextlib.contextmanager
    def database(self, template: str) -> Iterator[URL]:
        """Make a target that is dropped afterwards."""
        self.targets += 1
        name = f"target{self.targets}"
        maintenance = self.target_server.server.address.set(database="postgres")
        self.run_sql(maintenance, f"CREATE DATABASE {name} TEMPLATE {template}", "CHECKPOINT")
        yield maintenance.set(database=name)
        self.run_sql(maintenance, f"DROP DATABASE {name} WITH (FORCE)")

    def command(self, name: str, target: URL, *options: str) -> tuple[float, dict[str, float], float]:
        """Run `tatame-db move`; return seconds, the parts of them, and the peak of memory in MB."""
        parts = self.place / "parts.json"
        environment = os.environ | {"SUPABASE_DB_URL": readable(self.project), "DATABASE_URL": readable(target)}
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, __file__, "--child", "move", name, *options, str(parts)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stderr
        words = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        assert process.returncode == 0, words.decode()
        # Linux counts in KB and macOS in bytes.
        megabytes = used.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
        return seconds, json.loads(parts.read_text()), megabytes

    def shell(self, command: str) -> None:
        """Run a pipe of programs of the same version as the servers; a failure of any ends the run."""
        subprocess.run(
            ["bash", "-c", f"set -euo pipefail; {command}"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | {"PATH": f"{self.programs}:{os.environ['PATH']}"},
        )

    # The tools

    def pipe(self, target: URL) -> None:
        """Pipe rows from psql to psql in blocks of 64 kB, without keys meanwhile; no plan, no transaction, no proof."""
        with Database(target) as database, open_for_writing(self.project, database.engine, lambda: None) as connections:
            mapping = read_mapping(connections)
            record = Record(connections.target)
            record.create()
            record.park()
            connections.target.driver.commit()
            for table in mapping.tables:
                out, into = _copies(table)
                self.shell(
                    f"psql -qXc '{out}' '{readable(self.project)}' | dd bs=64k iflag=fullblock status=none"
                    f" | psql -qXc '{into}' '{readable(target)}'"
                )
            restore(connections.target)
            validate_keys(connections.target)
            for mapped in mapping.tables:
                connections.target.execute(f"ANALYZE public.{quoted(mapped.name)}")
            connections.target.driver.commit()

    def pgcopydb(self, source: URL, target: URL) -> None:
        with tempfile.TemporaryDirectory() as work:
            ends = f"--source '{readable(source)}' --target '{readable(target)}'"
            self.shell(f"pgcopydb clone --dir {work}/work --no-owner {ends}")

    def dump(self, target: URL) -> None:
        self.shell(f"pg_dump --no-owner '{readable(self.project)}' | psql -qX -v ON_ERROR_STOP=1 '{readable(target)}'")

    def pages(self, target: URL) -> float:
        """Copy pages of rows with a driver and with all keys; return the seconds that all rows would take."""
        started, done = time.perf_counter(), 0
        with Database(target) as database, open_for_reading(self.project, database.engine) as connections:
            mapping = read_mapping(connections)
        with psycopg.connect(readable(self.project)) as reading, psycopg.connect(readable(target)) as writing:
            for name in ("roles", "gyms", "users", "class", "checkins"):
                done += self._paged(mapping[name], reading, writing, PAGED_ROWS - done)
        return (time.perf_counter() - started) * self.rows / done

    def _paged(self, table: TableMap, reading: Any, writing: Any, most: int) -> int:
        columns = [column for column in table.columns if (table.name, column.name) != ("gyms", "manager_id")]
        values = ", ".join(about(column.conversion.convert, column.source_value) for column in columns)
        insert = (
            f"INSERT INTO public.{quoted(table.name)} ({', '.join(quoted(column.name) for column in columns)})"
            f" VALUES ({', '.join(['%s'] * len(columns))})"
        )
        done, last = 0, None
        while done < most:
            where = "" if last is None else "WHERE s.id > %s"
            page = reading.execute(
                f"SELECT {values} FROM {table.source_sql} {where} ORDER BY s.id LIMIT {PAGE}".encode(),
                None if last is None else [last],
            ).fetchall()
            if not page:
                break
            with writing.cursor() as cursor:
                cursor.executemany(insert.encode(), page)
            writing.commit()
            done, last = done + len(page), page[-1][0]
        return done


def _copies(table: TableMap) -> tuple[str, str]:
    values = ", ".join(
        f"({about(column.conversion.convert, column.source_value)})::{column.type}" for column in table.columns
    ).replace("'", "'\\''")
    names = ", ".join(quoted(column.name) for column in table.columns)
    return (
        f"SET TimeZone = UTC; COPY (SELECT {values} FROM {table.source_sql}) TO STDOUT (FORMAT binary)",
        f"COPY public.{quoted(table.name)} ({names}) FROM STDIN (FORMAT binary)",
    )


def main() -> None:
    """Run all tools in turns, and print the results."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=2_000_000)
    options.add_argument("--turns", type=int, default=3)
    chosen = options.parse_args()
    with scratch() as source, scratch() as target, tempfile.TemporaryDirectory() as place:
        bench = Bench(source, target, chosen.rows, Path(place))
        found: dict[str, list[float]] = {}

        def note(name: str, seconds: float) -> None:
            found.setdefault(name, []).append(seconds)
            print(f"{seconds:8.2f}  {name}", file=sys.stderr, flush=True)

        def timed(name: str, tool: Callable[[], None]) -> None:
            started = time.perf_counter()
            tool()
            note(name, time.perf_counter() - started)

        for turn in range(chosen.turns):
            with bench.database("migrated") as address:
                whole, parts, megabytes = bench.command("copy", address)
                note(COPY, whole)
                for part, seconds in parts.items():
                    note(f"  of it {part}", seconds)
                note("  of it start and connections", whole - sum(parts.values()))
                note(WITHOUT_PROOF, sum(parts[stage] for stage in COPYING))
                note(DIGESTS, sum(parts[stage] for stage in PROVING))
                note("memory, MB", megabytes)
                idle, parts, megabytes = bench.command("copy", address)
                note(IDLE, idle)
                for part, seconds in parts.items():
                    note(f"  of the idle run {part}", seconds)
                note("  of the idle run start and connections", idle - sum(parts.values()))
                note("memory of the idle run, MB", megabytes)
                note("move verify", bench.command("verify", address)[0])
            for option in (["--sha256"], ["--jobs", "2"]):
                with bench.database("migrated") as address:
                    note(f"move copy {' '.join(option)}", bench.command("copy", address, *option)[0])
            with bench.database("migrated") as address:
                timed(PIPE, lambda: bench.pipe(address))
                # Also checks that the pipe has copied everything.
                bench.command("verify", address)
            with bench.database("template0") as address:
                timed(CLONE, lambda: bench.pgcopydb(bench.project, address))
            with bench.database("template0") as address:
                timed(CLONE_MIGRATED, lambda: bench.pgcopydb(bench.converted, address))
            with bench.database("template0") as address:
                timed("pg_dump | psql", lambda: bench.dump(address))
            if turn == 0:
                with bench.database("migrated") as address:
                    note("pages of 1,000 rows, scaled up", bench.pages(address))
    report(chosen.rows, chosen.turns, found)


def report(rows: int, turns: int, found: dict[str, list[float]]) -> None:
    """Print medians, and the medians of the ratios within each turn."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{rows:,} rows, {turns} turns, Python {platform.python_version()}, load {load}\n")
    for name, seconds in found.items():
        print(f"{median(seconds):8.2f}  {name}  ({', '.join(f'{each:.2f}' for each in seconds)})")
    print()
    for name, other in RATIOS:
        ratios = [seconds / others for seconds, others in zip(found[name], found[other], strict=True)]
        print(f"{median(ratios):8.2f}  {name} / {other}  ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")


if __name__ == "__main__":
    run_timed() if "--child" in sys.argv else main()
