"""Several writers change the source while its target follows; every batch is one moment of it, and nothing is lost."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import psycopg
import pytest
from sqlalchemy import URL
from tests.conftest import on_both_versions
from tests.database.days import Day, Steps, assert_equal, day
from tests.database.moves import Row, ask, change

from tatame_db.database.address import readable
from tatame_db.move.connection import ConnectionLost

__all__ = ["day"]

# With a number of the writer, `w`, and a random one, `n`.
STATEMENTS = [
    "INSERT INTO users (id, clerk_user_id, gym_id) VALUES ({n}{w}, 'user_{n}{w}', 1) ON CONFLICT (id) DO NOTHING",
    "INSERT INTO checkins (id, \"userId\", date) SELECT {n}{w}, id, '2025-01-01' FROM users ORDER BY random() LIMIT 1"
    " ON CONFLICT (id) DO UPDATE SET date = excluded.date + 1",
    "UPDATE users SET phone = '{n}', clerk_user_id = 'user_{n}{w}_' || id WHERE id % 10 = {w} AND id % 7 = {n} % 7",
    "UPDATE checkins SET id = id + 100000 WHERE id % 10 = {w} AND id < 100000 AND id % 5 = {n} % 5",
    "DELETE FROM checkins WHERE id % 10 = {w} AND id % 3 = {n} % 3",
    "DELETE FROM users AS u WHERE id % 10 = {w} AND id % 4 = {n} % 4 AND id > 9 AND NOT EXISTS (SELECT FROM checkins"
    ' WHERE "userId" = u.id)',
    "SAVEPOINT a; UPDATE users SET phone = 'lost' WHERE id % 10 = {w}; ROLLBACK TO a",
    "SAVEPOINT b; UPDATE notifications SET title = '{n}{w}'; RELEASE b",
    "INSERT INTO gyms VALUES ({n}{w}, now(), 'x', 'y', 1, NULL, '2020-01-01') ON CONFLICT (id) DO NOTHING",
    "DELETE FROM gyms WHERE id % 10 = {w} AND id > 9",
]
WRITERS = 3


def write(address: URL, writer: int, seed: int, stop: Event) -> int:
    """Run transactions of random statements until the event, and return how many were committed."""
    numbers, committed = random.Random(seed), 0  # noqa: S311
    with psycopg.connect(readable(address)) as connection:
        while not stop.is_set():
            pair = [str(committed), 10 + writer]
            try:
                connection.execute('UPDATE versions SET "appVersion" = %s WHERE id = %s', pair)
                for _ in range(numbers.randint(1, 4)):
                    statement = numbers.choice(STATEMENTS).format(w=writer, n=numbers.randint(1, 40))
                    connection.execute(statement.encode())
                connection.execute("UPDATE app_stores SET store = %s WHERE id = %s", pair)
                connection.rollback() if numbers.random() < 0.2 else connection.commit()
                committed += 1
            except (psycopg.errors.ForeignKeyViolation, psycopg.errors.DeadlockDetected, psycopg.IntegrityError):
                connection.rollback()
    return committed


@on_both_versions
def test_nothing_is_lost_or_torn_while_writers_go_on_and_connections_are_cut(
    day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = Event()
    pairs = "SELECT 10 + n FROM generate_series(1, 3) AS n"
    change(day.source, f"INSERT INTO versions (id) {pairs}; INSERT INTO app_stores (id) {pairs}")
    with ThreadPoolExecutor(WRITERS) as pool, day.following() as steps:
        writers = [pool.submit(write, day.source, number, number, stop) for number in range(1, WRITERS + 1)]
        try:
            for turn in range(6):
                if turn % 3 == 2:
                    # The slot is read again from where the last commit of the target was confirmed.
                    monkeypatch.setattr(type(steps.following.slot), "advance", _lose)
                    # A batch whose moment sees none of the pending transactions leaves the slot where it is.
                    with pytest.raises(ConnectionLost):
                        run_often(steps)
                    monkeypatch.undo()
                assert steps.run().reason is None
                assert torn(day) == []
        finally:
            stop.set()
        assert sum(writer.result() for writer in writers) > WRITERS
        steps.until_applied()
        assert_equal(day.source, day.engine.url)
    assert day.wholes == [["roles"]] * len(day.wholes)
    # What a person sees at the end: every digest is equal.
    change(day.source, "UPDATE users SET phone = 'the end'")
    day.follow(until_equal=True)
    assert_equal(day.source, day.engine.url)


def run_often(steps: Steps) -> None:
    for _ in range(100):
        steps.run()


def _lose(*_: object) -> None:
    raise ConnectionLost(database="target", reason="the test has cut it")


def torn(day: Day) -> list[Row]:
    """Return the pairs of rows, always written in one transaction, of which the target has one half."""
    query = "SELECT * FROM versions AS v FULL JOIN app_stores AS a USING (id) WHERE id > 9 AND store IS DISTINCT FROM"
    return ask(day.engine.url, f"{query} app_version")
