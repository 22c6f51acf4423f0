from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine
from tests.conftest import on_both_versions
from tests.database.moves import Copy, Killed, Row, ask, change, contents

from tatame_db import move
from tatame_db.database.creation import create_missing_database
from tatame_db.move.rehearsal.project import SUPABASE_SCHEMA
from tatame_db.schema import phases


def rejects(engine: Engine) -> list[Row]:
    found = ask(engine.url, "SELECT table_name, id, column_name, kind, action FROM tatame_move.rejects")
    return sorted(found, key=str)


@pytest.fixture
def copy(supabase: URL, engine: Engine) -> Copy:
    def copy(*tables: str, on_table: Callable[[move.TableCopy], None] = lambda _: None, **chosen: Any) -> move.Report:
        with move.open_for_writing(supabase, engine, lambda: None) as connections:
            return move.copy(connections, tables, choices=move.Choices(**chosen), on_table=on_table)

    return copy


@pytest.fixture
def plan(supabase: URL, engine: Engine) -> Callable[..., move.Plan]:
    def plan(**chosen: Any) -> move.Plan:
        with move.open_for_reading(supabase, engine) as connections:
            return move.plan(connections, move.Choices(**chosen))

    return plan


@pytest.fixture
def verify(supabase: URL, engine: Engine) -> Callable[[], move.Proof]:
    def verify() -> move.Proof:
        with move.open_for_reading(supabase, engine) as connections:
            return move.verify(connections)

    return verify


NO_KEYS = """
    ALTER TABLE gyms DROP CONSTRAINT "gyms_managerId_fkey"; ALTER TABLE users DROP CONSTRAINT users_gym_id_fkey;
    ALTER TABLE checkins DROP CONSTRAINT "checkins_userId_fkey"; ALTER TABLE users DROP CONSTRAINT users_role_fkey;
    ALTER TABLE graduations DROP CONSTRAINT "graduations_userId_fkey";
"""
TWINS = "INSERT INTO users (id, clerk_user_id) SELECT n, 'twin' FROM generate_series(100, 103) AS n;"
NO_KEY_OF_VERSIONS = "ALTER TABLE versions DROP CONSTRAINT versions_pkey;"
WITH_NULLS = "ALTER TABLE versions ALTER id DROP IDENTITY, ALTER id DROP NOT NULL;"
# Too long for an index, even if compressed.
A_LONG_ROLE = "".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(50))
# What is rejected with a user: all rows that refer to it.
REST_OF_BIA = [
    ("assets", "1", "class_id", "orphan", "rejected"),
    ("attachments", "1", "class_id", "orphan", "rejected"),
    ("checkins", "1", "classId", "orphan", "rejected"),
    ("class", "1", "instructor_id", "orphan", "rejected"),
    ("graduations", "2", "userId", "orphan", "rejected"),
    ("gyms", "2147483646", "managerId", "orphan", "rejected"),
    ("notifications", "3", "sent_by", "orphan", "rejected"),
]


@pytest.mark.parametrize(
    ("statements", "chosen", "expected", "query", "rows"),
    [
        pytest.param(
            f"{NO_KEYS} UPDATE users SET gym_id = 99 WHERE id = 2",
            {"orphans": "null"},
            [("users", "2", "gym_id", "orphan", "nulled")],
            "SELECT id, gym_id FROM users ORDER BY id",
            [(-5, 1), (1, 1), (2, None)],
            id="orphan-null",
        ),
        pytest.param(
            f"{NO_KEYS} UPDATE users SET gym_id = 99 WHERE id = 2",
            {"orphans": "reject"},
            [*REST_OF_BIA, ("users", "2", "gym_id", "orphan", "rejected")],
            "SELECT id FROM users ORDER BY id",
            [(-5,), (1,)],
            id="orphan-reject",
        ),
        pytest.param(
            f"{NO_KEYS} UPDATE users SET gym_id = 99 WHERE id = 2",
            {"rejects": "keep"},
            [*REST_OF_BIA, ("users", "2", "gym_id", "orphan", "rejected")],
            "SELECT id FROM users ORDER BY id",
            [(-5,), (1,)],
            id="orphan-rejects",
        ),
        pytest.param(
            f'{NO_KEYS} UPDATE graduations SET "userId" = 99 WHERE id = 1',
            {"orphans": "null"},
            [("graduations", "1", "userId", "orphan", "rejected")],
            "SELECT id FROM graduations",
            [(2,)],
            id="orphan-null-where-it-may-not-be-null",
        ),
        pytest.param(
            "UPDATE class SET start = '18:30:45' WHERE id = 1",
            {"misfits": "null"},
            [("class", "1", "start", "misfit", "nulled")],
            'SELECT id, start, "end" FROM class ORDER BY id',
            [(1, None, "24:00"), (2, None, "00:00")],
            id="misfit-null",
        ),
        pytest.param(
            "UPDATE checkins SET date = 'infinity' WHERE id = 1",
            {"misfits": "reject"},
            [("checkins", "1", "date", "misfit", "rejected")],
            "SELECT id FROM checkins",
            [(70000,)],
            id="misfit-reject",
        ),
        pytest.param(
            "INSERT INTO checkins (id) VALUES (2147483648); UPDATE graduations SET degree = 2147483648 WHERE id = 2",
            {"misfits": "null"},
            [
                ("checkins", "2147483648", "id", "misfit", "rejected"),
                ("graduations", "2", "degree", "misfit", "nulled"),
            ],
            "SELECT id, degree FROM graduations ORDER BY id",
            [(1, 0), (2, None)],
            id="misfit-in-a-key",
        ),
        pytest.param(
            "UPDATE gyms SET since = 'infinity' WHERE id = 1",
            {"misfits": "null", "orphans": "null"},
            [
                ("class", "1", "gym_id", "orphan", "nulled"),
                ("gyms", "1", "since", "misfit", "rejected"),
                ("users", "-5", "gym_id", "orphan", "nulled"),
                ("users", "1", "gym_id", "orphan", "nulled"),
            ],
            "SELECT id, manager_id FROM gyms",
            [(2147483646, 2)],
            id="a-rejected-gym-leaves-its-users-without-one",
        ),
        pytest.param(
            "UPDATE users SET created_at = 'infinity' WHERE id = 1",
            {"rejects": "keep"},
            [
                ("assets", "1", "class_id", "orphan", "rejected"),
                ("attachments", "1", "class_id", "orphan", "rejected"),
                ("checkins", "1", "userId", "orphan", "rejected"),
                ("class", "1", "created_by", "orphan", "rejected"),
                ("graduations", "1", "userId", "orphan", "rejected"),
                # The gym whose manager the user is, and then all others of this gym.
                ("gyms", "1", "managerId", "orphan", "rejected"),
                ("notifications", "1", "sent_by", "orphan", "rejected"),
                ("users", "-5", "gym_id", "orphan", "rejected"),
                ("users", "1", "created_at", "misfit", "rejected"),
            ],
            "SELECT id FROM users",
            [(2,)],
            id="around-the-cycle",
        ),
        pytest.param(
            TWINS,
            {"duplicates": "first"},
            [("users", str(twin), "clerk_user_id", "duplicate", "rejected") for twin in (101, 102, 103)],
            "SELECT id FROM users WHERE id >= 100",
            [(100,)],
            id="duplicates-first",
        ),
        pytest.param(
            TWINS,
            {"duplicates": "last"},
            [("users", str(twin), "clerk_user_id", "duplicate", "rejected") for twin in (100, 101, 102)],
            "SELECT id FROM users WHERE id >= 100",
            [(103,)],
            id="duplicates-last",
        ),
        pytest.param(
            TWINS,
            {"rejects": "keep"},
            [("users", str(twin), "clerk_user_id", "duplicate", "rejected") for twin in (100, 101, 102, 103)],
            "SELECT id FROM users WHERE id >= 100",
            [],
            id="duplicates-rejects",
        ),
        pytest.param(
            f"{NO_KEYS} {TWINS} UPDATE users SET gym_id = 99 WHERE id = 100",
            {"duplicates": "first", "orphans": "reject"},
            [
                ("users", "100", "gym_id", "orphan", "rejected"),
                ("users", "102", "clerk_user_id", "duplicate", "rejected"),
                ("users", "103", "clerk_user_id", "duplicate", "rejected"),
            ],
            "SELECT id FROM users WHERE id >= 100",
            [(101,)],
            id="duplicates-among-those-that-move",
        ),
        pytest.param(
            f'{NO_KEYS} {TWINS} UPDATE graduations SET "userId" = 101 WHERE id = 1;'
            ' UPDATE checkins SET "userId" = 102 WHERE id = 1',
            {"duplicates": "first", "orphans": "null"},
            [
                ("checkins", "1", "userId", "orphan", "nulled"),
                ("graduations", "1", "userId", "orphan", "rejected"),
                *[("users", str(twin), "clerk_user_id", "duplicate", "rejected") for twin in (101, 102, 103)],
            ],
            "SELECT id, user_id, class_id FROM checkins ORDER BY id",
            [(1, None, 1), (70000, None, None)],
            id="what-names-a-duplicate",
        ),
        pytest.param(
            f"{NO_KEY_OF_VERSIONS} INSERT INTO versions (id) VALUES (7)",
            {"duplicates": "first"},
            [("versions", "7", "id", "duplicate", "rejected")] * 2,
            "SELECT id FROM versions",
            [(1,)],
            id="duplicate-ids",
        ),
        pytest.param(
            f"{NO_KEY_OF_VERSIONS} {WITH_NULLS} INSERT INTO versions (id) VALUES (NULL), (NULL)",
            {"rejects": "keep"},
            [("versions", None, "id", "missing-value", "rejected")] * 2,
            "SELECT id FROM versions ORDER BY id",
            [(1,), (7,)],
            id="rows-without-an-id",
        ),
        pytest.param(
            "ALTER TABLE users ALTER clerk_user_id DROP NOT NULL; UPDATE users SET clerk_user_id = NULL WHERE id = -5",
            {"rejects": "keep"},
            [("users", "-5", "clerk_user_id", "missing-value", "rejected")],
            "SELECT id FROM users ORDER BY id",
            [(1,), (2,)],
            id="missing-value",
        ),
        pytest.param(
            "INSERT INTO checkins (id) VALUES (2147483647)",
            {"rejects": "keep"},
            [("checkins", "2147483647", None, "last-id", "rejected")],
            "SELECT max(id) FROM checkins",
            [(70000,)],
            id="last-id",
        ),
        pytest.param(
            "UPDATE notifications SET recipients = ARRAY['1', repeat('x', 3000)] WHERE id = 2",
            {"rejects": "keep"},
            [("notifications", "2", "recipients", "too-long", "rejected")],
            "SELECT id FROM notifications ORDER BY id",
            [(1,), (3,)],
            id="too-long",
        ),
        pytest.param(
            "INSERT INTO roles VALUES ('100%, \"sure\" \\{it''s'), ('NULL'), ('-infinity');"
            " INSERT INTO roles VALUES ('--5');"
            " UPDATE roles SET created_at = '-infinity' WHERE id LIKE '%''s' OR id = 'NULL'",
            {"rejects": "keep"},
            [
                ("roles", '100%, "sure" \\{it\'s', "created_at", "misfit", "rejected"),
                ("roles", "NULL", "created_at", "misfit", "rejected"),
            ],
            "SELECT left(id, 10) FROM roles ORDER BY id",
            [("--5",), ("-infinity",), ("INSTRUCTOR",), ("MANAGER",), ("STUDENT",)],
            id="ids-that-are-hard-to-write",
        ),
        pytest.param(
            "ALTER TABLE users DROP CONSTRAINT users_role_fkey; ALTER TABLE roles DROP CONSTRAINT roles_pkey;"
            f" INSERT INTO roles VALUES ('{A_LONG_ROLE}')",
            {"rejects": "keep"},
            [("roles", A_LONG_ROLE, None, "too-long", "rejected")],
            "SELECT count(*) FROM roles",
            [(3,)],
            id="a-key-that-is-too-long",
        ),
        pytest.param(
            "ALTER TABLE users ADD nickname text; UPDATE users SET nickname = '' WHERE id = 1;"
            " INSERT INTO users (id, clerk_user_id, nickname) VALUES (2147483647, 'x', 'y')",
            {"unknown": "keep", "rejects": "keep"},
            [
                ("users", "1", "nickname", "unknown-column", "kept"),
                ("users", "2147483647", "nickname", "unknown-column", "kept"),
                ("users", "2147483647", None, "last-id", "rejected"),
            ],
            "SELECT \"row\" ->> 'nickname', \"row\" ->> 'id' FROM tatame_move.rejects WHERE action = 'kept' ORDER BY 2",
            [("", "1"), ("y", "2147483647")],
            id="unknown-column-keep",
        ),
        pytest.param(
            "ALTER TABLE users ADD nickname text; UPDATE users SET nickname = '' WHERE id = 1",
            {"unknown": "leave"},
            [],
            "SELECT id FROM users ORDER BY id",
            [(-5,), (1,), (2,)],
            id="unknown-column-leave",
        ),
        pytest.param(
            "CREATE TABLE stripe (id int, plan text); INSERT INTO stripe VALUES (1, 'gold'), (2, NULL)",
            {"unknown": "keep"},
            [("stripe", "1", None, "unknown-table", "kept"), ("stripe", "2", None, "unknown-table", "kept")],
            'SELECT "row"::text FROM tatame_move.rejects ORDER BY id',
            [('{"id": 1, "plan": "gold"}',), ('{"id": 2, "plan": null}',)],
            id="unknown-table-keep",
        ),
        pytest.param(
            "CREATE TABLE stripe (id int, plan text); INSERT INTO stripe VALUES (1, 'gold'), (2, NULL)",
            {"unknown": "leave"},
            [],
            "SELECT to_regclass('stripe')",
            [(None,)],
            id="unknown-table-leave",
        ),
        pytest.param(
            # A value that becomes NULL does not count in a row that is rejected in the end.
            f"{TWINS} UPDATE users SET deleted_at = 'infinity' WHERE id = 101",
            {"misfits": "null", "duplicates": "first"},
            [("users", str(twin), "clerk_user_id", "duplicate", "rejected") for twin in (101, 102, 103)],
            "SELECT id FROM users WHERE id >= 100",
            [(100,)],
            id="rejected-beats-nulled",
        ),
    ],
)
def test_a_choice_excludes_these_rows_and_every_report_counts_them(
    *,
    copy: Copy,
    plan: Callable[..., move.Plan],
    verify: Callable[[], move.Proof],
    supabase: URL,
    engine: Engine,
    statements: str,
    chosen: dict[str, str],
    expected: list[Row],
    query: str,
    rows: list[Row],
) -> None:
    change(supabase, statements)
    assert not plan().complete
    planned = plan(**chosen)
    assert planned.complete
    report = copy(**chosen)
    assert rejects(engine) == sorted(expected, key=str)
    assert ask(engine.url, query) == rows
    assert ask(engine.url, "SELECT conname FROM pg_constraint WHERE NOT convalidated") == []
    # Excluded rows are kept as the source has them, to the last column.
    for table, key, _, _, action in expected:
        if action in ("rejected", "nulled") and key is not None:
            there = ask(supabase, f"SELECT to_jsonb(s)::text FROM public.{table} AS s WHERE id::text = $${key}$$")
            found = (
                'SELECT DISTINCT "row"::text FROM tatame_move.rejects WHERE action <> $$kept$$ AND (table_name, id) ='
            )
            assert set(ask(engine.url, f"{found} ('{table}', $${key}$$)")) == set(there)
    # Plan, report and status have the same counts.
    counted = {
        (what.table, what.column, what.kind, what.action): 0 for what in report.exclusions if what.action != "left"
    }
    for what in report.exclusions:
        if what.action != "left":
            counted[what.table, what.column, what.kind, what.action] += what.rows
    assert counted == {
        fact: sum((table, column, kind, action) == fact for table, _, column, kind, action in expected)
        for fact in {(table, column, kind, action) for table, _, column, kind, action in expected}
    }
    assert report.exclusions == planned.exclusions
    rejected = dict.fromkeys(phases(), 0)
    for table, _, _, _, action in expected:
        if action == "rejected":
            rejected[table] += 1
    assert {table.table: table.rejected for table in report.tables} == rejected
    with move.open_for_reading(supabase, engine) as connections:
        assert {table.table: table.rejected for table in move.status(connections.target).tables} == rejected
        counts = move.counts(connections)
    assert {count.table: sum(count.rejected.values()) for count in counts} == rejected
    assert all(count.agrees != count.by_choice for count in counts)
    # The proof finds the differences, and which of them are by choice.
    proof = verify()
    differing = {(table, key) for table, key, _, _, action in expected if action == "nulled"}
    assert proof.equal == (not any(rejected.values()) and not differing)
    assert proof.by_choice == sum(rejected.values()) + len(differing)
    assert proof.equal_but_for_choices
    # A second copy has nothing to do.
    assert {(table.written, table.deleted) for table in copy(**chosen).tables} == {(0, 0)}
    assert rejects(engine) == sorted(expected, key=str)


def test_rows_left_at_the_source_are_counted_in_the_report(copy: Copy, supabase: URL) -> None:
    change(supabase, "CREATE TABLE stripe (id int); INSERT INTO stripe VALUES (1), (2)")
    [left] = copy(unknown="leave").exclusions
    assert (left.table, left.action, left.rows) == ("stripe", "left", 2)


ALL = {"orphans": "null", "misfits": "null", "duplicates": "first", "unknown": "keep", "rejects": "keep"}


@pytest.mark.parametrize("statement", ["DROP TABLE versions", "ALTER TABLE class DROP created_at"])
def test_no_choice_resolves_a_missing_table_or_column(
    copy: Copy, supabase: URL, engine: Engine, statement: str
) -> None:
    change(supabase, statement)
    with pytest.raises(move.ObstaclesUnresolved, match="missing-"):
        copy(**ALL)
    assert ask(engine.url, "SELECT to_regnamespace('tatame_move')") == [(None,)]


def test_an_orphan_that_a_choice_creates_needs_a_choice_too(
    copy: Copy, plan: Callable[..., move.Plan], supabase: URL, engine: Engine
) -> None:
    change(supabase, "UPDATE gyms SET since = 'infinity' WHERE id = 1")
    before = contents(engine.url)
    planned = plan(misfits="reject")
    assert not planned.complete
    assert [(obstacle.kind, obstacle.reason, obstacle.rows, obstacle.ids) for obstacle in planned.unresolved] == [
        ("orphan", "gym_id refers to a row of gyms that is rejected", 2, ["-5", "1"]),
        ("orphan", "gym_id refers to a row of gyms that is rejected", 1, ["1"]),
    ]
    with pytest.raises(move.ObstaclesUnresolved, match="orphan"):
        copy(misfits="reject")
    assert contents(engine.url) == before


@on_both_versions
def test_the_plan_shows_the_outcome_of_each_choice(plan: Callable[..., move.Plan], supabase: URL) -> None:
    change(supabase, f"{NO_KEYS} {TWINS} UPDATE users SET gym_id = 99 WHERE id IN (2, 102)")
    planned = plan(orphans="null", duplicates="last")
    found = {obstacle.kind: obstacle for obstacle in planned.obstacles}
    assert (found["orphan"].rows, found["orphan"].chosen) == (2, "--orphans null")
    assert found["orphan"].outcome == {"nulled": 1}
    assert (found["duplicate"].rows, found["duplicate"].chosen) == (4, "--duplicates last")
    assert found["duplicate"].outcome == {"rejected": 3}
    assert (
        "`--orphans null`: the value becomes NULL, and the original row is kept in `tatame_move.rejects`"
        in found["orphan"].choices
    )


@on_both_versions
def test_rows_fixed_at_the_source_are_copied_without_a_choice(
    copy: Copy, verify: Callable[[], move.Proof], supabase: URL, engine: Engine, expected_target: URL
) -> None:
    change(supabase, "UPDATE users SET created_at = 'infinity' WHERE id = 1; ALTER TABLE users ADD nickname text")
    change(supabase, "UPDATE users SET nickname = 'x'; CREATE TABLE stripe (id int); INSERT INTO stripe VALUES (1)")
    copy(**ALL)
    assert len(rejects(engine)) == 10
    change(supabase, "UPDATE users SET created_at = '2024-01-01 12:00:00-03' WHERE id = 1; DROP TABLE stripe")
    change(supabase, "ALTER TABLE users DROP nickname")
    report = copy()
    assert report.exclusions == []
    assert rejects(engine) == []
    assert contents(engine.url) == contents(expected_target)
    assert verify().equal


def test_the_next_run_applies_another_choice(copy: Copy, supabase: URL, engine: Engine) -> None:
    change(supabase, f"{NO_KEYS} UPDATE users SET gym_id = 99 WHERE id = 2")
    copy(orphans="reject")
    assert len(rejects(engine)) == 8
    copy(orphans="null")
    assert rejects(engine) == [("users", "2", "gym_id", "orphan", "nulled")]
    assert ask(engine.url, "SELECT count(*) FROM class") == [(2,)]
    copy(orphans="reject")
    assert len(rejects(engine)) == 8
    assert ask(engine.url, "SELECT id FROM class") == [(2,)]
    options = ask(engine.url, "SELECT options ->> 'orphans', report -> 'exclusions' FROM tatame_move.runs ORDER BY id")
    assert [(orphans, sum(what["rows"] for what in exclusions)) for orphans, exclusions in options] == [
        ("reject", 8),
        ("null", 1),
        ("reject", 8),
    ]


@pytest.mark.parametrize("table", ["gyms", "users", "checkins"])
def test_a_killed_run_with_choices_is_finished_by_the_next_one(
    copy: Copy, verify: Callable[[], move.Proof], supabase: URL, engine: Engine, table: str
) -> None:
    def fail(done: move.TableCopy) -> None:
        if done.table == table:
            raise Killed

    change(supabase, "UPDATE users SET created_at = 'infinity' WHERE id = 1")
    with pytest.raises(Killed):
        copy(rejects="keep", on_table=fail)
    so_far = list(phases())[: list(phases()).index(table) + 1]
    assert {row[0] for row in rejects(engine)} == {row[0] for row in rejects(engine)} & set(so_far)
    copy(rejects="keep")
    assert len(rejects(engine)) == 9
    assert verify().equal_but_for_choices


@pytest.mark.parametrize(
    ("database", "statement"),
    [
        ("source", "UPDATE users SET email = 'new' WHERE id = 1"),
        ("source", "UPDATE class SET \"end\" = '18:30:45' WHERE id = 2"),
        ("source", "UPDATE class SET start = '18:30:46' WHERE id = 2"),
        ("source", "UPDATE users SET nickname = 'new' WHERE id = 2"),
        ("source", "ALTER TABLE users DROP nickname"),
        ("target", "UPDATE class SET start = '18:30' WHERE id = 2"),
        ("target", "DELETE FROM class WHERE id = 2"),
        ("target", "UPDATE tatame_move.rejects SET \"row\" = '{}' WHERE table_name = 'users' AND id = '1'"),
        ("target", "DELETE FROM tatame_move.rejects WHERE table_name = 'users' AND id = '1'"),
        ("target", "UPDATE tatame_move.rejects SET source_identity = 'another'"),
    ],
)
def test_a_difference_is_by_choice_only_if_the_row_is_kept_as_the_source_has_it(
    *, copy: Copy, verify: Callable[[], move.Proof], supabase: URL, engine: Engine, database: str, statement: str
) -> None:
    change(
        supabase,
        "UPDATE users SET created_at = 'infinity' WHERE id = 1; UPDATE class SET start = '18:30:45' WHERE id = 2;"
        " ALTER TABLE users ADD nickname text; UPDATE users SET nickname = 'x' WHERE id = 2",
    )
    copy(rejects="keep", misfits="null", unknown="keep", orphans="null")
    assert verify().equal_but_for_choices
    change(supabase if database == "source" else engine.url, statement)
    proof = verify()
    assert not proof.equal
    assert not proof.equal_but_for_choices


def test_the_number_of_excluded_rows_is_limited(
    copy: Copy, supabase: URL, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(supabase, TWINS)
    monkeypatch.setattr("tatame_db.move.resolve.MAX_IDS", 2)
    with pytest.raises(move.TooManyExcluded) as caught:
        copy(duplicates="first")
    assert caught.value.table == "users"
    assert ask(engine.url, "SELECT to_regnamespace('tatame_move')") == [(None,)]
    monkeypatch.setattr("tatame_db.move.resolve.MAX_IDS", 3)
    copy(duplicates="first")


@pytest.mark.parametrize("kind", ["integer", "smallint", "numeric", "text", "uuid"])
def test_ids_of_any_type_can_be_rejected(copy: Copy, supabase: URL, engine: Engine, kind: str) -> None:
    becomes = "lpad(id::text, 32, '0')::uuid" if kind == "uuid" else f"id::{kind}"
    change(
        supabase,
        f"ALTER TABLE versions ALTER id DROP IDENTITY; ALTER TABLE versions ALTER id TYPE {kind} USING {becomes};"
        " UPDATE versions SET created_at = 'infinity' WHERE \"appVersion\" IS NULL",
    )
    copy(rejects="keep")
    assert ask(engine.url, "SELECT count(*) FROM versions") == [(0 if kind == "uuid" else 1,)]


def test_a_child_with_another_type_of_key_is_rejected_with_its_parent(
    copy: Copy, supabase: URL, engine: Engine
) -> None:
    change(
        supabase,
        'ALTER TABLE checkins DROP CONSTRAINT "checkins_userId_fkey"; ALTER TABLE checkins ALTER "userId" TYPE integer;'
        " UPDATE users SET created_at = 'infinity' WHERE id = 1;"
        " INSERT INTO users (id, clerk_user_id) VALUES (2147483648, 'x')",
    )
    copy(rejects="keep", orphans="null")
    assert ask(engine.url, "SELECT id, user_id FROM checkins ORDER BY id") == [(1, None), (70000, None)]


def test_ids_that_are_padded_with_blanks_are_distinguished(copy: Copy, supabase: URL, engine: Engine) -> None:
    change(
        supabase,
        "ALTER TABLE users DROP CONSTRAINT users_role_fkey; ALTER TABLE roles ALTER id TYPE character(20);"
        " UPDATE roles SET created_at = 'infinity' WHERE id = 'STUDENT'; INSERT INTO roles VALUES ('S')",
    )
    copy(rejects="keep", orphans="null")
    assert ask(engine.url, "SELECT id FROM roles ORDER BY id") == [("INSTRUCTOR",), ("MANAGER",), ("S",)]
    assert ask(engine.url, "SELECT id, role FROM users ORDER BY id") == [(-5, None), (1, "MANAGER"), (2, None)]


def test_a_trigger_that_changes_an_excluded_row_is_found_and_rolled_back(
    copy: Copy, supabase: URL, engine: Engine
) -> None:
    copy()
    change(
        engine.url,
        "CREATE FUNCTION shorter() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.row := NEW.row - ''url''; RETURN NEW; END';"
        "CREATE TRIGGER shorter BEFORE INSERT ON tatame_move.rejects FOR EACH ROW EXECUTE FUNCTION shorter()",
    )
    change(supabase, "UPDATE app_stores SET created_at = 'infinity'")
    with pytest.raises(move.CopyDiffers) as caught:
        copy(rejects="keep")
    assert caught.value.table == "app_stores"
    assert ask(engine.url, "SELECT count(*) FROM app_stores") == [(1,)]
    assert rejects(engine) == []


def test_an_excluded_row_is_the_same_on_servers_of_different_versions(
    engine: Engine, postgres_programs: Callable[[int], Path], other_postgres: Callable[[Path], URL]
) -> None:
    old = other_postgres(postgres_programs(14))
    create_missing_database(old)
    for file in (SUPABASE_SCHEMA, Path(__file__).parents[1] / "supabase_rows.sql"):
        change(old, file.read_text())
    change(old, f"{TWINS} UPDATE users SET created_at = 'infinity', clerk_user_id = 'user_ana' WHERE id IN (2, -5)")
    with move.open_for_writing(old, engine, lambda: None) as connections:
        move.copy(connections, choices=move.Choices(orphans="null", duplicates="last", rejects="keep"))
    assert len(rejects(engine)) == 9
    with move.open_for_reading(old, engine) as connections:
        assert move.verify(connections).equal_but_for_choices


def test_a_later_copy_names_what_it_excludes_in_addition(copy: Copy, supabase: URL) -> None:
    change(
        supabase,
        "INSERT INTO checkins (id, date) VALUES (500000, 'infinity')",
        "ALTER TABLE users ADD nickname text DEFAULT 'ana'",
        "ALTER TABLE users ADD shoe_size text DEFAULT '38'",
    )
    chosen = {"rejects": "keep", "misfits": "reject", "unknown": "keep"}
    assert copy(**chosen).more_excluded == []
    assert copy(**chosen).more_excluded == []
    change(
        supabase,
        "INSERT INTO checkins (id, date) SELECT n, 'infinity' FROM generate_series(500001, 500003) AS n",
        "ALTER TABLE gyms ADD colour text DEFAULT 'red'",
    )
    more = {(found.place, found.action): found.rows for found in copy(**chosen).more_excluded}
    gyms = ask(supabase, "SELECT count(*) FROM gyms")[0][0]
    assert more == {("checkins.date", "rejected"): 3, ("gyms.colour", "kept"): gyms}
    assert copy(**chosen).more_excluded == []
    left = chosen | {"unknown": "leave"}
    assert copy(**left).more_excluded == copy(**left).more_excluded == []
