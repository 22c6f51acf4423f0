"""The pages that questions about check-ins read: from one table, from 24 months, and by an index that answers alone.

Run it by hand: `python benchmarks/partitions.py --rows 1000000`. Pages do not depend on the load of the machine.
`README.md` has results.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

import psycopg

from tatame_db import evolve
from tatame_db.database.address import readable
from tatame_db.server.scratch import scratch

MONTHS, CLASSES, MEMBERS, VISITS = 24, 20, 200, 12
"""Months with check-ins, classes and members of a gym, and visits of a member in a month."""
ASKED = 15
"""The number of members, check-ins or gyms of which the median is shown."""

# The month that is asked for is the last but one.
_MONTH = "date BETWEEN '2026-11-01' AND '2026-11-30'"
_CREATED = "created_at >= '2026-11-01' AND created_at < '2026-12-01'"
_OF_GYM = f"class_id = ANY(ARRAY(SELECT generate_series({{gym}} * {CLASSES} + 1, {{gym}} * {CLASSES} + {CLASSES})))"
QUESTIONS = {
    "a member's month": f"SELECT * FROM {{table}} WHERE user_id = {{n}} AND {_MONTH}",
    "a member's month, by `created_at` too": (
        f"SELECT * FROM {{table}} WHERE user_id = {{n}} AND {_MONTH} AND {_CREATED}"
    ),
    "a member's last 5": "SELECT * FROM {table} WHERE user_id = {n} ORDER BY date DESC LIMIT 5",
    "a check-in by `id`": "SELECT * FROM {table} WHERE id = {n} * 1000",
    "a gym's month": f"SELECT user_id FROM {{table}} WHERE {_OF_GYM} AND {_MONTH}",
    "a gym's month, by `created_at` too": f"SELECT user_id FROM {{table}} WHERE {_OF_GYM} AND {_MONTH} AND {_CREATED}",
    "a month of all gyms, counted": f"SELECT count(*) FROM {{table}} WHERE {_CREATED}",
    "one more check-in": "INSERT INTO {table} (id, user_id, class_id, date, created_at)"
    " VALUES (-{n}, {n}, {n}, '2026-12-30', '2026-12-30 12:00:00')",
}
TABLES = {"flat": "checkins_class_id_date_index", "months": "months_class_id_date_idx"}
"""The tables, each with the index that the other one replaces."""
COVERING = "CREATE INDEX {table}_covering ON {table} (class_id, date) INCLUDE (user_id)"


def run(connection: psycopg.Connection[Any], statement: str) -> list[Any]:
    """Run a statement and return its rows."""
    cursor = connection.execute(statement.encode())
    return cursor.fetchall() if cursor.description else []


def fill(connection: psycopg.Connection[Any], rows: int) -> None:
    """Create the check-ins in the order of their time, as an app does, in one table and in months."""
    gyms = gyms_of(rows)
    members = rows // (MONTHS * VISITS)
    run(connection, "ALTER TABLE checkins RENAME TO flat")
    for key in ("user_id_users_id", "class_id_class_id"):
        run(connection, f"ALTER TABLE flat DROP CONSTRAINT checkins_{key}_fk")
    run(
        connection,
        "CREATE TABLE months (LIKE flat INCLUDING DEFAULTS, PRIMARY KEY (id, created_at))"
        " PARTITION BY RANGE (created_at)",
    )
    for columns in ("user_id, date", "class_id, date"):
        run(connection, f"CREATE INDEX ON months ({columns})")
    for number in range(MONTHS):
        first, end = (f"{2025 + month // 12}-{month % 12 + 1:02}-01" for month in (number, number + 1))
        run(connection, f"CREATE TABLE m{number} PARTITION OF months FOR VALUES FROM ('{first}') TO ('{end}')")
    run(connection, "SELECT setseed(0.5)")
    run(
        connection,
        "INSERT INTO flat (id, user_id, class_id, date, created_at)"
        f" SELECT i, u, u % {gyms} * {CLASSES} + 1 + floor(random() * {CLASSES}), to_char(t, 'YYYY-MM-DD'), t"
        f" FROM (SELECT i, 1 + floor(random() * {members})::integer AS u,"
        f" timestamp '2025-01-01' + i * (interval '729 days' / {rows}) AS t FROM generate_series(1, {rows}) AS i) AS c"
        " ORDER BY i",
    )
    run(connection, "INSERT INTO months SELECT * FROM flat ORDER BY id")
    run(connection, "VACUUM ANALYZE flat, months")


def pages(connection: psycopg.Connection[Any], question: str) -> tuple[int, int, int]:
    """Return the rows of a question, and the pages that it and its planning read."""
    explain = f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {question}"
    [([found],)] = connection.execute(explain.encode()).fetchall()
    return (
        round(found["Plan"]["Actual Rows"]),
        *(part["Shared Hit Blocks"] + part["Shared Read Blocks"] for part in (found["Plan"], found["Planning"])),
    )


def median_pages(connection: psycopg.Connection[Any], table: str, rows: int) -> dict[str, str]:
    """Return the median of the rows and pages of each question, for several members, check-ins or gyms."""
    answers: dict[str, str] = {}
    for name, question in QUESTIONS.items():
        found: list[tuple[int, int, int]] = []
        # The first time, the session reads the catalogue too.
        for number in range(ASKED + 1):
            with connection.transaction(force_rollback=True):
                asked = question.format(table=table, n=number + 1, gym=number % gyms_of(rows))
                found.append(pages(connection, asked))
        number_of_rows, read, _ = (round(median(numbers)) for numbers in zip(*found[1:], strict=True))
        answers[name] = f"{read:,}" + (
            f" for {number_of_rows:,} rows" if table == "flat" and number_of_rows > 1 else ""
        )
    return answers


def gyms_of(rows: int) -> int:
    """Return the number of gyms that have this number of check-ins."""
    return max(rows // (MONTHS * VISITS * MEMBERS), 1)


def size(connection: psycopg.Connection[Any], name: str) -> str:
    """Return the size of a table or an index."""
    return str(connection.execute(f"SELECT pg_size_pretty(pg_relation_size('{name}'))".encode()).fetchall()[0][0])


def dropped(connection: psycopg.Connection[Any], statement: str) -> str:
    """Return the time and the bytes of WAL that a statement takes."""
    [(start,)] = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchall()
    began = time.perf_counter()
    connection.execute(statement.encode())
    seconds = time.perf_counter() - began
    [(size,)] = connection.execute(f"SELECT pg_current_wal_insert_lsn() - '{start}'::pg_lsn".encode()).fetchall()
    return f"{seconds * 1000:,.0f} ms, {size / 1024:,.0f} kB of WAL"


def main() -> None:
    """Fill both, ask, replace an index of both, and ask again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with scratch() as server, server.database("app") as engine:
        evolve.migrate(engine)
        with psycopg.connect(readable(engine.url), autocommit=True) as connection:
            fill(connection, rows)
            first = [pages(connection, f"SELECT FROM {table} WHERE user_id = 1")[2] for table in TABLES]
            columns = [median_pages(connection, table, rows) for table in TABLES]
            sizes = [size(connection, "flat"), size(connection, "checkins_class_id_date_index")]
            for table, index in TABLES.items():
                run(connection, f"DROP INDEX {index}")
                run(connection, COVERING.format(table=table))
            run(connection, "VACUUM ANALYZE flat, months")
            columns += [median_pages(connection, table, rows) for table in TABLES]
            print(f"{rows:,} rows\n\n| Question | One table | 24 months | One table, INCLUDE | 24 months, INCLUDE |")
            print("| --- | --- | --- | --- | --- |")
            for name in QUESTIONS:
                print(f"| {name} | {' | '.join(column[name] for column in columns)} |")
            print(f"| the first plan of a session | {' | '.join(map(str, first))} | | |")
            print("table, index, index with INCLUDE:", *sizes, size(connection, "flat_covering"))
            print("DELETE of a month:", dropped(connection, "DELETE FROM flat WHERE created_at < '2025-02-01'"))
            print("DROP of a month:", dropped(connection, "DROP TABLE m0"))


if __name__ == "__main__":
    main()
