"""The page "From int to bigint", step by step, on 200,000 rows, while writers insert, change, delete and read."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import NotSupportedError
from sqlalchemy.orm import Session
from tests.acceptance.test_schema_changes import Checkout, check_out, migrated

from tatame_db import Database, evolve
from tatame_db.schema import Checkin

__all__ = ["check_out", "migrated"]

PAGE = Path(__file__).parents[2] / "docs" / "int-to-bigint.md"
ROWS = 200_000
DATE = "2026-01-01"


def file(title: str) -> str:
    """Return the content of a file that the page shows."""
    [content] = re.findall(rf'^```\w+ title="{re.escape(title)}"\n(.*?)^```\n', PAGE.read_text(), re.DOTALL | re.M)
    return str(content)


POOL_SIZE = 2


class Writer(Thread):
    """Insert, change, delete and read check-ins of its own, and remember those that must be there.

    Its transactions are committed, because a rollback makes psycopg forget what it has prepared.
    """

    def __init__(self, database: Database, stop: Event) -> None:
        super().__init__()
        self.database, self.stop = database, stop
        self.expected: dict[int, str] = {}
        self.error: Exception | None = None
        self.refused = 0

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self.write()
        except Exception as error:  # noqa: BLE001, the test raises it
            self.error = error

    def write(self) -> None:
        with self.database.session.begin() as session:
            changed, deleted = insert(session)
        self.expected |= {changed: DATE, deleted: DATE}
        self.expected |= dict.fromkeys(self.database.run_in_transaction(insert_later), DATE)
        self.expected |= dict.fromkeys(self.insert_later(), DATE)
        with self.database.session.begin() as session:
            session.execute(update(Checkin).where(Checkin.id == changed).values(date="2026-02-02"))
            session.execute(delete(Checkin).where(Checkin.id == deleted))
        self.expected[changed] = "2026-02-02"
        del self.expected[deleted]
        with self.database.session.begin() as session:
            assert session.scalars(select(Checkin.date).where(Checkin.id == changed)).one() == "2026-02-02"

    def insert_later(self) -> list[int]:
        """Insert by a later statement of a transaction, which may fail once for each connection."""
        try:
            with self.database.session.begin() as session:
                return insert_later(session)
        except NotSupportedError:
            self.refused += 1
            return []


def insert(session: Session) -> list[int]:
    rows = [Checkin(date=DATE) for _ in range(2)]
    session.add_all(rows)
    session.flush()
    return [row.id for row in rows]


def insert_later(session: Session) -> list[int]:
    session.execute(text("SELECT 1"))
    return insert(session)


@contextmanager
def writing(checkout: Checkout) -> Generator[dict[int, str]]:
    """Let two writers go on, and yield what has to be in the table once they have stopped; none of them may fail."""
    expected: dict[int, str] = {}
    stop = Event()
    # No statement waits longer than a migration may wait for its locks and hold them.
    with Database(checkout.url, statement_timeout_ms=5_000, pool_size=POOL_SIZE) as database:
        writers = [Writer(database, stop) for _ in range(POOL_SIZE)]
        for writer in writers:
            writer.start()
        try:
            yield expected
        finally:
            stop.set()
            for writer in writers:
                writer.join()
        assert [writer.error for writer in writers] == [None] * POOL_SIZE
        assert sum(writer.refused for writer in writers) <= POOL_SIZE
        assert all(len(writer.expected) > 10 for writer in writers)
    for writer in writers:
        expected.update(writer.expected)


def backfill(checkout: Checkout) -> str:
    program = [sys.executable, "-c", file("backfill.py")]
    done = subprocess.run(program, env=checkout.environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def finish(checkout: Checkout, steps: str) -> None:
    """Replace the steps of the newest migration, as a person does."""
    newest = checkout.versions[-1]
    head = newest.read_text().partition("def upgrade")[0]
    newest.write_text(head + file(steps))


def edit_model(checkout: Checkout, difference: str) -> None:
    """Edit the model as a page shows it."""
    gone: list[str] = []
    for line in difference.splitlines():
        if line.startswith("-"):
            gone.append(line[1:])
        elif line.startswith("+"):
            [old] = gone or ["    )"]
            checkout.edit("schema/checkins.py", f"{old}\n", f"{'' if gone else old + chr(10)}{line[1:]}\n")
            gone = []


def assert_good(checkout: Checkout) -> None:
    done = checkout.run("check")
    assert done.returncode == 0, done.stdout


def test_the_key_becomes_bigint_while_writers_go_on(migrated: Checkout) -> None:
    migrated.sql(f"INSERT INTO checkins (date) SELECT '2025-01-01' FROM generate_series(1, {ROWS})")
    # Written by hand, far from each other.
    odd = {-(2**31): DATE, -5: DATE, 0: DATE, 2_000_000_000: DATE}
    migrated.sql(f"INSERT INTO checkins (id, date) SELECT unnest(ARRAY{list(odd)}), '{DATE}'")
    with writing(migrated) as expected:
        change(migrated)
    expected |= odd
    outside = f"id NOT BETWEEN 1 AND {ROWS}"
    assert set(migrated.sql(f"SELECT id, date FROM checkins WHERE {outside}")) == set(expected.items())
    assert migrated.sql("SELECT count(*), sum(id) FROM checkins WHERE date = '2025-01-01'") == [
        (ROWS, ROWS * (ROWS + 1) // 2)
    ]

    migrated.done("rollback", "--yes", "--accept-data-loss")
    assert key_type(migrated) == [("integer",)]
    assert set(migrated.sql(f"SELECT id, new_id FROM checkins WHERE {outside}")) == {(key, key) for key in expected}
    migrated.done("migrate", "--accept-data-loss")
    migrated.sql("SELECT setval('checkins_id_seq', 3000000000)")
    migrated.sql("INSERT INTO checkins (date) VALUES ('2026-03-03')")
    assert migrated.sql("SELECT max(id) FROM checkins") == [(3_000_000_001,)]
    with Database(migrated.url) as database:
        [use] = [use for use in evolve.id_uses(database.engine) if use.name == "checkins.id"]
        assert use.largest == 2**63 - 1


def change(checkout: Checkout) -> None:
    """Follow the page."""
    source = checkout.root / "src" / "tatame_db" / "schema" / "widening.py"
    source.write_text(file("src/tatame_db/schema/widening.py"))
    checkout.done("generate", "give check-ins a second id of 64 bits")
    checkout.done("migrate")
    assert_good(checkout)
    assert backfill(checkout) == "0 rows are left\n"

    source.write_text(f"{source.read_text()}\n{file('the end of widening.py')}")
    checkout.done("generate", "index the second id of check-ins")
    finish(checkout, "an index")
    checkout.done("migrate")
    assert_good(checkout)
    source.unlink()
    edit_model(checkout, file("src/tatame_db/schema/checkins.py"))
    checkout.done("generate", "the id of check-ins has 64 bits")
    finish(checkout, "the swap")
    checkout.done("lint")
    assert checkout.run("migrate").returncode != 0
    assert key_type(checkout) == [("integer",)]
    checkout.done("migrate", "--accept-data-loss")
    assert_good(checkout)
    assert key_type(checkout) == [("bigint",)]


def key_type(checkout: Checkout) -> list[tuple[object, ...]]:
    return checkout.sql(
        "SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = 'checkins'::regclass AND attname = 'id'"
    )
