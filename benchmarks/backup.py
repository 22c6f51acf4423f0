"""Backups: seconds and size of a base backup and of a dump, with and without their proof, of restores and of drills.

Run it by hand: `python benchmarks/backup.py --checkins 1000000 --rounds 3`. `README.md` has results.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections import defaultdict
from datetime import date
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db import Database, backup, evolve, seed
from tatame_db.backup import programs
from tatame_db.backup.folder import size_of
from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.server.wheel import installed_programs

if TYPE_CHECKING:
    from collections.abc import Callable

JOBS = min(4, os.cpu_count() or 1)
"""What a dump takes by default."""
CHECKINS = """
INSERT INTO checkins (user_id, class_id, date, created_at)
SELECT users[1 + i % cardinality(users)], classes[1 + i % cardinality(classes)], to_char(t, 'YYYY-MM-DD'), t
FROM (SELECT array_agg(id) AS users FROM users) AS u, (SELECT array_agg(id) AS classes FROM class) AS c,
    generate_series(1, :rows) AS i, LATERAL (SELECT timestamp '2025-01-01' + i * interval '1 min' AS t) AS moment
"""
RATIOS = (
    ("dump", "base backup"),
    ("base backup", "pg_basebackup alone"),
    ("dump", "pg_dump alone"),
    ("restore of the dump", "restore of the base backup"),
    ("drill of the dump", "drill of the base backup"),
    ("drill of the base backup", "restore of the base backup"),
)


def fill(server: EmbeddedServer, rows: int) -> None:
    """Start a durable server with sample gyms and check-ins."""
    server.start()
    create_missing_database(server.address)
    with Database(server.address) as database:
        evolve.migrate(database.engine)
        with database.engine.begin() as connection:
            seed.seed(connection, seed.SeedPlan(gyms=20, members=200, days=1, until=date(2026, 3, 1)))
            connection.execute(text(CHECKINS), {"rows": rows})
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))


class Turns:
    """The ways, each of which leaves nothing but its seconds and its size."""

    def __init__(self, directory: Path, database: Database) -> None:
        self.directory = directory
        self.database = database
        self.base = backup.make(database, directory / "base").backup.path
        self.dump = backup.make_dump(database, directory / "dump").backup.path
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.sizes: dict[str, int] = {}

    @property
    def ways(self) -> dict[str, Callable[[Path], object]]:
        """What is measured, by name; each writes into a directory that does not exist."""
        return {
            "base backup": lambda place: backup.make(self.database, place),
            "pg_basebackup alone": self._base_alone,
            "dump": lambda place: backup.make_dump(self.database, place),
            "pg_dump alone": self._dump_alone,
            "restore of the base backup": lambda place: backup.restore(self.base, place),
            "restore of the dump": lambda place: backup.restore(self.dump, place),
            "drill of the base backup": lambda _: self._refuse(backup.drill(self.base)),
            "drill of the dump": lambda _: self._refuse(backup.drill(self.dump)),
        }

    @staticmethod
    def _refuse(drilled: backup.Drilled) -> None:
        if drilled.error:
            raise drilled.error

    def _base_alone(self, place: Path) -> None:
        with tempfile.TemporaryFile("w") as lock:
            program = installed_programs() / "pg_basebackup"
            programs.base_backup(program, self.database.address, place, lock=lock, on_progress=lambda _: None)

    def _dump_alone(self, place: Path) -> None:
        address = self.database.address
        options = [f"--file={place}", "--format=directory", f"--jobs={JOBS}", f"--dbname={readable(address)}"]
        programs.run(installed_programs() / "pg_dump", options, programs.environment_for(address))

    def take(self, name: str) -> None:
        """Measure one way once."""
        place = self.directory / "taken"
        begun = time.perf_counter()
        self.ways[name](place)
        self.seconds[name].append(time.perf_counter() - begun)
        if place.exists():
            server = EmbeddedServer(place)
            if server.has_data:
                self.sizes[name] = size_of(server.data)
                server.delete()
            else:
                self.sizes[name] = size_of(place)
                shutil.rmtree(place)


def main() -> None:
    """Measure all ways in turns, and print them with their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkins", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="a disk")  # noqa: S108, a new directory in it
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="tatame-backup-", dir=options.directory))
    directory.chmod(0o755)
    os.environ["TMPDIR"] = tempfile.tempdir = str(directory)
    server = EmbeddedServer(directory / "server")
    try:
        fill(server, options.checkins)
        with Database(server.address) as database:
            turns = Turns(directory, database)
            for number in range(options.rounds):
                # What runs first finds other pages in memory: every other round runs the other way.
                for name in list(turns.ways)[:: 1 if number % 2 == 0 else -1]:
                    turns.take(name)
    finally:
        server.delete()
        shutil.rmtree(directory, ignore_errors=True)
    middle = {name: median(values) for name, values in turns.seconds.items()}
    print(f"{options.checkins:,} check-ins, {options.rounds} rounds\n")
    print("| | median | worst | size |\n| --- | --- | --- | --- |")
    for name in turns.ways:
        size = f"{turns.sizes[name] / 1e6:,.0f} MB" if name in turns.sizes else ""
        print(f"| {name} | {middle[name]:.1f} s | {max(turns.seconds[name]):.1f} s | {size} |")
    print("\n| Ratio of medians | seconds | size |\n| --- | --- | --- |")
    for one, other in RATIOS:
        sizes = f"{turns.sizes[one] / turns.sizes[other]:.2f}" if {one, other} <= turns.sizes.keys() else ""
        print(f"| {one} / {other} | {middle[one] / middle[other]:.2f} | {sizes} |")


if __name__ == "__main__":
    main()
