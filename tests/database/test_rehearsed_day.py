"""What a rehearsal judges the day of a move by: a comparison of every value, and an app that counts its writes."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import URL
from tests.database.days import Day, assert_equal, day
from tests.database.moves import change

from tatame_db.move.rehearsal.comparer import compare_values
from tatame_db.move.rehearsal.project import connect, run_statements
from tatame_db.move.rehearsal.writer import Writer

__all__ = ["day"]

CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> %s"


@pytest.fixture
def project(bare_address: URL) -> URL:
    """An empty project."""
    run_statements(bare_address, "supabase", 1)
    return bare_address


def test_a_comparison_names_each_row_and_value_that_differs(day: Day) -> None:
    assert_equal(day.source, day.engine.url)
    change(
        day.source,
        "INSERT INTO versions (id) VALUES (90); UPDATE class SET start = start + interval '1 minute' WHERE id = 1",
    )
    change(
        day.engine.url,
        "ALTER TABLE users ADD note text; UPDATE users SET email = '' WHERE id = 1",
        "INSERT INTO versions (id) VALUES (9)",
        "UPDATE checkins SET user_id = NULL WHERE id = (SELECT min(id) FROM checkins WHERE user_id IS NOT NULL)",
        "UPDATE gyms SET created_at = created_at + interval '1 microsecond' WHERE id = 1",
    )
    with connect(day.engine.url) as target:
        [(checkin,)] = target.execute("SELECT min(id) FROM checkins")
    compared = compare_values(day.source, day.engine.url)
    assert sorted(map(str, compared.discrepancies)) == [
        f"checkins, id {checkin}, userId",
        "class, id 1, start",
        "gyms, id 1, created_at",
        "users, id 1, email",
        "versions, id 9, only in the target",
        "versions, id 90, only in the source",
    ]
    assert compared.not_compared == ["users.note"]


def test_a_writer_knows_what_was_committed_when_its_connections_are_cut(project: URL) -> None:
    with Writer(project, project, transactions_a_second=1_000) as writer, connect(project, autocommit=True) as other:
        for _ in range(30):
            acknowledged = writer.acknowledged
            while writer.is_alive() and writer.acknowledged == acknowledged:
                time.sleep(0.001)
            other.execute(CUT, [other.info.backend_pid])
    assert (writer.problem, writer.problems(project)) == (None, [])


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        ("DELETE FROM notifications WHERE title = '{mark}'", "1 row of notifications lost, for example of {mark}"),
        (
            'INSERT INTO checkins ("userId", date) SELECT "userId", date FROM checkins WHERE "userId" = (SELECT id'
            " FROM users WHERE clerk_user_id = '{mark}')",
            "1 row of checkins too many, for example of {mark}",
        ),
        (
            "INSERT INTO users (clerk_user_id) VALUES ('rehearsal_1')",
            "1 row of users too many, for example of rehearsal_1",
        ),
    ],
    ids=["a row is lost", "a row is there twice", "a deleted row came back"],
)
def test_a_writer_finds_what_is_not_as_it_was_acknowledged(project: URL, harm: str, problem: str) -> None:
    with Writer(project, project, transactions_a_second=1_000) as writer:
        while writer.is_alive() and writer.acknowledged < 4:
            time.sleep(0.001)
    mark = f"rehearsal_{writer.acknowledged}"
    assert writer.problems(project) == []
    change(project, harm.format(mark=mark))
    assert writer.problems(project) == [problem.format(mark=mark)]
