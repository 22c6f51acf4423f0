"""Whatever `plan` calls complete, `copy` can write: rows are compared as the target compares them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from sqlalchemy import URL, Engine, UniqueConstraint
from tests.database.moves import Copy, ask, change

from tatame_db import move
from tatame_db.database.dialect import public, quoted
from tatame_db.move.conversion import about
from tatame_db.move.known_conversions import conversion
from tatame_db.schema import Base, form
from tatame_db.seed import SeedPlan, seed


@pytest.fixture
def copy(supabase: URL, engine: Engine) -> Copy:
    def copy(*tables: str, replace_rows: bool = False, **chosen: Any) -> move.Report:
        with move.open_for_writing(supabase, engine, lambda: None) as connections:
            return move.copy(connections, tables, choices=move.Choices(**chosen), replace_rows=replace_rows)

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


def found(plan: move.Plan) -> list[tuple[str, str, int, list[str]]]:
    return [
        (table.table, obstacle.kind, obstacle.rows, obstacle.ids)
        for table in plan.tables
        for obstacle in table.obstacles
    ]


def written(report: move.Report) -> int:
    return sum(table.written + table.deleted for table in report.tables)


# --- Tables that inherit ---------------------------------------------------------------------------------------------

ARCHIVE = """
    CREATE TABLE users_archive (archived_at date) INHERITS (users);
    INSERT INTO users_archive (id, clerk_user_id, role) VALUES (1, 'user_ana', 'GHOST'), (9, 'user_old', NULL);
"""


def test_rows_of_a_table_that_inherits_from_a_table_of_the_source_are_its_own(
    copy: Copy, plan: Callable[..., move.Plan], verify: Callable[[], move.Proof], supabase: URL, engine: Engine
) -> None:
    change(supabase, ARCHIVE)
    planned = plan()
    assert found(planned) == []
    assert [(obstacle.kind, obstacle.rows) for obstacle in planned.unknown_tables] == [("unknown-table", 2)]
    report = copy(unknown="keep")
    assert {table.table: table.rows for table in report.tables}["users"] == 3
    assert ask(engine.url, "SELECT id FROM tatame_move.rejects ORDER BY id") == [("1",), ("9",)]
    assert verify().equal
    with move.open_for_reading(supabase, engine) as connections:
        assert all(count.agrees for count in move.counts(connections))


def test_a_reference_to_a_row_of_a_table_that_inherits_is_an_orphan(
    plan: Callable[..., move.Plan], supabase: URL
) -> None:
    change(supabase, f'{ARCHIVE} ALTER TABLE checkins DROP CONSTRAINT "checkins_userId_fkey"')
    change(supabase, 'UPDATE checkins SET "userId" = 9 WHERE id = 1')
    assert found(plan()) == [("checkins", "orphan", 1, ["1"])]


def test_rows_of_a_table_that_inherits_from_a_table_of_the_target_stay(
    copy: Copy, verify: Callable[[], move.Proof], supabase: URL, engine: Engine
) -> None:
    change(
        engine.url, "CREATE TABLE checkins_old () INHERITS (checkins); INSERT INTO checkins_old (id) VALUES (1), (9)"
    )
    change(engine.url, "CREATE TABLE gyms_old () INHERITS (gyms)")
    change(engine.url, "INSERT INTO gyms_old (id, name, address, since) VALUES (1, 'x', 'y', '2024-01-01')")
    assert {table.table: table.rows for table in copy().tables}["checkins"] == 2
    assert verify().equal
    assert written(copy()) == 0
    change(supabase, "DELETE FROM checkins WHERE id = 1")
    assert written(copy()) == 1
    with move.open_for_reading(supabase, engine) as connections:
        assert all(count.agrees for count in move.counts(connections))
        assert not any(table.stale for table in move.status(connections.target).tables)
    assert ask(engine.url, "SELECT id FROM checkins_old ORDER BY id") == [(1,), (9,)]
    assert ask(engine.url, "SELECT id FROM gyms_old") == [(1,)]


def test_a_partitioned_table_of_the_target_is_read_and_written_with_its_partitions(
    copy: Copy, verify: Callable[[], move.Proof], supabase: URL, engine: Engine
) -> None:
    change(
        engine.url,
        "ALTER TABLE checkins RENAME TO old; CREATE TABLE checkins (LIKE old INCLUDING DEFAULTS INCLUDING IDENTITY,"
        " PRIMARY KEY (id)) PARTITION BY HASH (id);"
        "CREATE TABLE even PARTITION OF checkins FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE odd PARTITION OF checkins FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        "ALTER SEQUENCE checkins_id_seq OWNED BY checkins.id; DROP TABLE old;"
        "CREATE INDEX checkins_user_id_date_index ON checkins (user_id, date)",
    )
    indexes = "SELECT indexdef FROM pg_indexes WHERE tablename IN ('checkins', 'even', 'odd') ORDER BY 1"
    before = ask(engine.url, indexes)
    assert {table.table: table.rows for table in copy().tables}["checkins"] == 2
    assert verify().equal
    assert ask(engine.url, indexes) == before
    assert written(copy()) == 0
    change(supabase, "DELETE FROM checkins WHERE id = 1")
    assert written(copy()) == 1
    assert verify().equal


def test_a_row_without_a_partition_on_the_target_is_an_obstacle(
    copy: Copy, plan: Callable[..., move.Plan], verify: Callable[[], move.Proof], supabase: URL, engine: Engine
) -> None:
    change(
        engine.url,
        "ALTER TABLE checkins RENAME TO old; CREATE TABLE checkins (LIKE old INCLUDING DEFAULTS,"
        " PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at); CREATE TABLE past PARTITION OF checkins"
        " FOR VALUES FROM (MINVALUE) TO ('2029-12-31') PARTITION BY RANGE (id);"
        "CREATE TABLE low PARTITION OF past FOR VALUES FROM (0) TO (80000);"
        "CREATE TABLE high PARTITION OF past FOR VALUES FROM (90001) TO (MAXVALUE);"
        "CREATE TABLE later PARTITION OF checkins FOR VALUES FROM ('2030-01-01') TO ('2030-02-01');"
        "ALTER SEQUENCE checkins_id_seq OWNED BY checkins.id; DROP TABLE old;"
        "CREATE INDEX checkins_user_id_date_index ON checkins (user_id, date)",
    )
    change(
        supabase,
        "INSERT INTO checkins (id, created_at) VALUES (81, '2029-12-31 12:00+00'), (82, '2030-01-31 23:00-03'),"
        " (83, '2030-01-31 23:00+00'), (90000, '2026-01-01')",
    )
    assert found(plan()) == [("checkins", "no-partition", 3, ["81", "82", "90000"])]
    with pytest.raises(move.ObstaclesUnresolved):
        copy()
    copy(rejects="keep")
    assert verify().equal_but_for_choices
    assert ask(engine.url, "SELECT id FROM checkins WHERE id BETWEEN 80 AND 60000 OR id > 80000") == [(83,)]


def test_a_partitioned_table_of_the_source_is_read_with_its_partitions(
    copy: Copy, plan: Callable[..., move.Plan], verify: Callable[[], move.Proof], supabase: URL
) -> None:
    change(
        supabase,
        "ALTER TABLE checkins RENAME TO old; CREATE TABLE checkins (LIKE old INCLUDING DEFAULTS, PRIMARY KEY (id))"
        " PARTITION BY HASH (id); ALTER TABLE checkins ENABLE ROW LEVEL SECURITY;"
        "CREATE TABLE every PARTITION OF checkins FOR VALUES WITH (MODULUS 1, REMAINDER 0);"
        "INSERT INTO checkins SELECT * FROM old; DROP TABLE old;"
        "CREATE SCHEMA kept; ALTER TABLE versions SET SCHEMA kept; CREATE VIEW versions AS SELECT * FROM kept.versions",
    )
    sizes = {table.table: table.size_bytes for table in plan().tables}
    assert sizes["checkins"]
    assert sizes["versions"] is None
    assert {table.table: table.rows for table in copy().tables}["checkins"] == 2
    assert verify().equal


# --- Equality --------------------------------------------------------------------------------------------------------

ANY_CASE = (
    "CREATE EXTENSION citext;"
    "CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
)
NO_KEY = "ALTER TABLE users DROP CONSTRAINT users_role_fkey;"


# The bundled server has no ICU.
on_a_server_with_icu = pytest.mark.parametrize("supabase", ["older"], indirect=True)
TEXTS_IN_ANY_CASE = pytest.mark.parametrize("kind", ["text COLLATE any_case", "citext"])


@on_a_server_with_icu
@TEXTS_IN_ANY_CASE
def test_a_reference_that_only_a_collation_of_the_source_finds_is_an_orphan(
    copy: Copy, plan: Callable[..., move.Plan], verify: Callable[[], move.Proof], supabase: URL, kind: str
) -> None:
    change(
        supabase,
        f"{ANY_CASE} {NO_KEY} ALTER TABLE roles ALTER id TYPE {kind}; ALTER TABLE users ALTER role TYPE {kind};"
        " UPDATE users SET role = 'student' WHERE id = 2",
    )
    assert found(plan()) == [("users", "orphan", 1, ["2"])]
    with pytest.raises(move.ObstaclesUnresolved):
        copy()
    copy(orphans="null")
    assert verify().equal_but_for_choices


@on_a_server_with_icu
@TEXTS_IN_ANY_CASE
def test_ids_that_only_a_collation_of_the_source_calls_the_same_are_different_rows(
    copy: Copy, verify: Callable[[], move.Proof], supabase: URL, engine: Engine, kind: str
) -> None:
    change(
        supabase,
        f"{ANY_CASE} {NO_KEY} ALTER TABLE roles DROP CONSTRAINT roles_pkey; ALTER TABLE roles ALTER id TYPE {kind};"
        " INSERT INTO roles VALUES ('student', 'infinity')",
    )
    copy(rejects="keep")
    assert ask(engine.url, "SELECT id FROM roles ORDER BY 1") == [("INSTRUCTOR",), ("MANAGER",), ("STUDENT",)]
    assert verify().equal_but_for_choices
    change(supabase, "UPDATE roles SET created_at = now()")
    copy()
    assert ask(engine.url, 'SELECT id FROM roles ORDER BY id COLLATE "C"')[3:] == [("student",)]
    assert verify().equal


@on_a_server_with_icu
@TEXTS_IN_ANY_CASE
def test_accounts_that_only_a_collation_of_the_source_calls_the_same_are_no_duplicates(
    copy: Copy, supabase: URL, engine: Engine, kind: str
) -> None:
    change(supabase, f"{ANY_CASE} ALTER TABLE users ALTER clerk_user_id TYPE {kind}")
    change(supabase, "INSERT INTO users (id, clerk_user_id) VALUES (7, 'USER_ANA')")
    copy()
    assert ask(engine.url, "SELECT count(*) FROM users") == [(4,)]


@pytest.mark.parametrize("kind", ["numeric", "numeric(10, 2)", "double precision", "text", "character(9)"])
def test_ids_of_another_type_are_those_of_the_target(
    copy: Copy, verify: Callable[[], move.Proof], supabase: URL, engine: Engine, kind: str
) -> None:
    change(
        supabase,
        "ALTER TABLE checkins ALTER id DROP IDENTITY;"
        f" ALTER TABLE checkins ALTER id TYPE {kind} USING id::text::{kind};"
        f" INSERT INTO checkins (id) SELECT n::text::{kind} FROM generate_series(10, 15) AS n",
    )
    copy()
    change(supabase, "UPDATE checkins SET date = '2020-01-01' WHERE id::text::numeric = 12")
    [checkins] = [table for table in verify().tables if not table.equal]
    assert (checkins.missing, checkins.extra, checkins.differing) == (0, 0, 1)
    assert [(row.id, [value.column for value in row.values]) for row in checkins.differences] == [("12", ["date"])]
    assert written(copy()) == 1
    change(supabase, "UPDATE checkins SET created_at = 'infinity' WHERE id::text::numeric = 13")
    copy(misfits="reject")
    assert ask(engine.url, "SELECT id FROM tatame_move.rejects") == [("13",)]
    assert verify().equal_but_for_choices


@pytest.mark.parametrize(("kind", "ids"), [("numeric", "1.0), (1.00"), ("character(9)", "'1'), ('1  '")])
def test_different_values_that_become_the_same_id_are_duplicates(
    copy: Copy, plan: Callable[..., move.Plan], supabase: URL, kind: str, ids: str
) -> None:
    change(
        supabase,
        "DROP TABLE versions; CREATE TABLE versions"
        f' (id {kind} NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), "appVersion" text, disabled_at date);'
        f" INSERT INTO versions (id) VALUES ({ids})",
    )
    assert found(plan()) == [("versions", "duplicate", 2, ["1"])]
    copy(duplicates="first")


def test_a_reference_of_another_type_is_compared_by_its_value(
    copy: Copy, plan: Callable[..., move.Plan], supabase: URL, engine: Engine
) -> None:
    change(
        supabase,
        'ALTER TABLE checkins DROP CONSTRAINT "checkins_userId_fkey"; ALTER TABLE checkins ALTER "userId" TYPE'
        ' numeric(10, 2); UPDATE checkins SET "userId" = 99 WHERE id = 70000;'
        " UPDATE users SET created_at = 'infinity' WHERE id = 2;"
        ' INSERT INTO checkins (id, "userId") VALUES (5, 2), (6, 1)',
    )
    assert ("checkins", "orphan", 1, ["70000"]) in found(plan())
    assert ("checkins", "orphan", 1, ["5"]) in found(plan(misfits="reject"))
    copy(misfits="reject", orphans="null")
    assert ask(engine.url, "SELECT id, user_id FROM checkins ORDER BY id") == [(1, 1), (5, None), (6, 1), (70000, None)]


def test_values_of_a_composite_type_are_found_whatever_their_fields_hold(
    plan: Callable[..., move.Plan], supabase: URL
) -> None:
    change(supabase, "CREATE TYPE place AS (x integer, y integer); ALTER TABLE users ADD place place")
    change(
        supabase, "UPDATE users SET place = CASE id WHEN 1 THEN (1, NULL)::place WHEN 2 THEN (NULL, NULL)::place END"
    )
    assert found(plan()) == [("users", "unknown-column", 2, ["1", "2"])]


@pytest.mark.parametrize("kind", ["json", "point", "xid", "timestamptz[]"])
def test_ids_of_a_type_without_an_order_are_named(plan: Callable[..., move.Plan], supabase: URL, kind: str) -> None:
    value = {"json": "{}", "point": "(1,2)", "xid": "7", "timestamptz[]": "{}"}[kind]
    change(
        supabase,
        "DROP TABLE versions; CREATE TABLE versions"
        f' (id {kind} NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), "appVersion" text, disabled_at date);'
        f" INSERT INTO versions (id) VALUES ('{value}'), ('{value}')",
    )
    assert found(plan()) == [("versions", "misfit", 2, [value])]
    assert plan(rejects="keep").complete


def test_values_that_are_unique_only_together_are_compared_together(
    plan: Callable[..., move.Plan], supabase: URL
) -> None:
    checkins = Base.metadata.tables["checkins"]
    once_a_day = UniqueConstraint(checkins.c.user_id, checkins.c.date)
    try:
        change(
            supabase, """INSERT INTO checkins (id, "userId", date) VALUES (5, 1, '2024-02-29'), (6, 2, '2024-02-29')"""
        )
        assert found(plan()) == [("checkins", "duplicate", 2, ["1", "5"])]
        resolved = plan(duplicates="last")
        assert resolved.complete
        assert [(row.table, row.rows) for row in resolved.exclusions] == [("checkins", 1)]
    finally:
        checkins.constraints.discard(once_a_day)


@pytest.mark.parametrize("kind", ["text", "jsonb"])
def test_an_element_that_is_too_long_for_an_index_is_found_in_any_type(
    plan: Callable[..., move.Plan], supabase: URL, kind: str
) -> None:
    change(supabase, "ALTER TABLE notifications ALTER recipients TYPE text USING '{}'")
    long = "'{' || repeat('x', 3000) || '}'" if kind == "text" else """'["' || repeat('x', 3000) || '"]'"""
    change(supabase, f"UPDATE notifications SET recipients = CASE id WHEN 2 THEN {long} END")
    change(supabase, f"ALTER TABLE notifications ALTER recipients TYPE {kind} USING recipients::{kind}")
    assert found(plan()) == [("notifications", "too-long", 1, ["2"])]


def test_the_generated_rows_have_the_forms_that_the_columns_state(engine: Engine) -> None:
    with engine.begin() as connection:
        seed(connection, SeedPlan(gyms=2, members=30, days=40, until=date(2026, 3, 1)))
    formed = {
        column: stated
        for table in Base.metadata.tables.values()
        for column in table.columns
        if (stated := form(column))
    }
    assert len(formed) == 6
    for column, stated in formed.items():
        unstorable = conversion("text", "text", replace(stated, required=True)).unstorable
        of_another_form = about(str(unstorable), quoted(column.name))
        assert ask(engine.url, f"SELECT count(*) FROM {public(column.table.name)} WHERE {of_another_form}") == [(0,)]
