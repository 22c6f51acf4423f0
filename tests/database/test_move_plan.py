from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Engine
from tests.conftest import free_port
from tests.database.moves import change

from tatame_db import evolve, move
from tatame_db.database.pool import Database
from tatame_db.move.conversion import about
from tatame_db.move.mapping import PhaseUnknown, read_mapping
from tatame_db.schema import Base, optional_in_source, phases, tables_in_order
from tatame_db.server.embedded import EmbeddedServer


@pytest.fixture
def planned(supabase: URL, engine: Engine) -> Callable[[], move.Plan]:
    def planned() -> move.Plan:
        with move.open_for_reading(supabase, engine) as connections:
            return move.plan(connections)

    return planned


def found(plan: move.Plan) -> list[tuple[str, str, int, list[str]]]:
    return [
        (table.table, obstacle.kind, obstacle.rows, obstacle.ids)
        for table in plan.tables
        for obstacle in table.obstacles
    ]


def test_every_table_has_a_phase_after_those_of_its_parents() -> None:
    assert all("phase" in table.info for table in Base.metadata.tables.values())
    assert phases() == {
        "roles": 1,
        "versions": 1,
        "app_stores": 1,
        "gyms": 2,
        "users": 3,
        "graduations": 3,
        "class": 4,
        "checkins": 4,
        "assets": 4,
        "attachments": 4,
        "notifications": 5,
    }
    assert list(phases().values()) == sorted(phases().values())
    for table in Base.metadata.tables.values():
        parents = {key.column.table.name for key in table.foreign_keys}
        later = {parent for parent in parents if phases()[parent] > phases()[table.name]}
        assert later == ({"users"} if table.name == "gyms" else set())


def test_a_view_in_place_of_a_table_is_named(planned: Callable[[], move.Plan], supabase: URL, engine: Engine) -> None:
    assert planned().views == []
    change(
        supabase,
        "CREATE SCHEMA private; ALTER TABLE notifications SET SCHEMA private; ALTER TABLE assets SET SCHEMA private;"
        " CREATE VIEW notifications AS SELECT * FROM private.notifications WHERE id > 1;"
        " CREATE MATERIALIZED VIEW assets AS TABLE private.assets",
    )
    assert planned().views == ["assets", "notifications"]
    with move.open_for_writing(supabase, engine, lambda: None) as connections:
        report = move.copy(connections)
    assert (report.views, {table.table: table.rows for table in report.tables}["notifications"]) == (
        ["assets", "notifications"],
        2,
    )


def test_a_project_in_use_has_no_obstacle(planned: Callable[[], move.Plan]) -> None:
    plan = planned()
    assert plan.obstacles == []
    assert plan.complete
    assert {table.table: table.rows for table in plan.tables} == {
        "roles": 3,
        "versions": 2,
        "app_stores": 1,
        "gyms": 2,
        "users": 3,
        "graduations": 2,
        "class": 2,
        "checkins": 2,
        "assets": 2,
        "attachments": 1,
        "notifications": 3,
    }
    [versions] = [table for table in plan.tables if table.table == "versions"]
    assert versions.size_bytes
    assert [(column.source, column.target, column.conversion) for column in versions.columns] == [
        ("id", "id", "unchanged, in 4 bytes"),
        ("appVersion", "app_version", "unchanged"),
        ("created_at", "created_at", "converted to UTC"),
        ("disabled_at", "disabled_at", "midnight at the start of the day"),
    ]


@pytest.mark.parametrize("table", phases())
@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
def test_each_column_is_converted_as_expected(supabase: URL, expected_target: URL, table: str, zone: str) -> None:
    for address in (supabase, expected_target):
        change(address, f"ALTER DATABASE {address.database} SET timezone = '{zone}'")
        change(address, f"ALTER DATABASE {address.database} SET datestyle = 'SQL, DMY'")
    with Database(expected_target) as target, move.open_for_reading(supabase, target.engine) as connections:
        mapped = read_mapping(connections)[table]
        converted = ", ".join(
            f"({about(column.conversion.convert, column.source_value)})::{column.type}::text"
            for column in mapped.columns
        )
        values = ", ".join(f't."{column.name}"::text' for column in mapped.columns)
        source, written = connections.rows(
            f"SELECT {converted} FROM {mapped.source_sql} ORDER BY s.id",
            f"SELECT {values} FROM {mapped.target_sql} ORDER BY t.id",
        )
    assert written
    assert source == written


FILL = "INSERT INTO users (id, clerk_user_id) SELECT n, 'user_' || n FROM generate_series(100, 104) AS n;"
NO_KEYS = """
    ALTER TABLE gyms DROP CONSTRAINT "gyms_managerId_fkey"; ALTER TABLE users DROP CONSTRAINT users_gym_id_fkey;
    ALTER TABLE checkins DROP CONSTRAINT "checkins_userId_fkey"; ALTER TABLE users DROP CONSTRAINT users_role_fkey;
    ALTER TABLE graduations DROP CONSTRAINT "graduations_userId_fkey";
"""


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        (f"{NO_KEYS} UPDATE users SET gym_id = 99 WHERE id = 2", ("users", "orphan", 1, ["2"])),
        (f"{NO_KEYS} UPDATE users SET role = 'GHOST' WHERE id < 2", ("users", "orphan", 2, ["-5", "1"])),
        (f'{NO_KEYS} UPDATE gyms SET "managerId" = 99', ("gyms", "orphan", 2, ["1", "2147483646"])),
        (f'{NO_KEYS} UPDATE graduations SET "userId" = 99 WHERE id = 1', ("graduations", "orphan", 1, ["1"])),
        (
            f"{FILL} UPDATE users SET clerk_user_id = 'x' WHERE id > 99",
            ("users", "duplicate", 5, ["100", "101", "102"]),
        ),
        (
            "ALTER TABLE users ALTER clerk_user_id DROP NOT NULL; UPDATE users SET clerk_user_id = NULL WHERE id = 2",
            ("users", "missing-value", 1, ["2"]),
        ),
        ("INSERT INTO checkins (id) VALUES (2147483648)", ("checkins", "misfit", 1, ["2147483648"])),
        ("UPDATE graduations SET degree = -2147483649 WHERE id = 2", ("graduations", "misfit", 1, ["2"])),
        ("UPDATE class SET start = '18:30:45' WHERE id = 1", ("class", "misfit", 1, ["1"])),
        ("UPDATE class SET \"end\" = '18:30:00.5' WHERE id = 1", ("class", "misfit", 1, ["1"])),
        ("UPDATE checkins SET date = 'infinity' WHERE id = 1", ("checkins", "misfit", 1, ["1"])),
        ("UPDATE checkins SET date = '0001-12-31 BC' WHERE id = 1", ("checkins", "misfit", 1, ["1"])),
        ("UPDATE users SET deleted_at = '-infinity' WHERE id = 1", ("users", "misfit", 1, ["1"])),
        ("UPDATE users SET created_at = '10000-01-01+00' WHERE id = 1", ("users", "misfit", 1, ["1"])),
        ("UPDATE assets SET valid_until = '5874897-12-31' WHERE id = 1", ("assets", "misfit", 1, ["1"])),
        (
            "ALTER TABLE users ADD nickname text; UPDATE users SET nickname = '' WHERE id = 1",
            ("users", "unknown-column", 1, ["1"]),
        ),
        ("ALTER TABLE class DROP created_at", ("class", "missing-column", 2, ["1", "2"])),
        (
            "ALTER TABLE checkins ALTER date TYPE text USING repeat('é', 2000)",
            ("checkins", "too-long", 2, ["1", "70000"]),
        ),
        (
            "UPDATE notifications SET recipients = ARRAY['1', repeat('x', 3000)] WHERE id = 2",
            ("notifications", "too-long", 1, ["2"]),
        ),
        (
            "ALTER TABLE notifications ALTER recipients TYPE text USING 'Ana, Bia'",
            ("notifications", "misfit", 3, ["1", "2", "3"]),
        ),
        (
            "ALTER TABLE users ALTER deleted_at TYPE text USING '2024'",
            ("users", "misfit", 3, ["-5", "1", "2"]),
        ),
        (
            "ALTER TABLE graduations ALTER degree TYPE text USING CASE id WHEN 2 THEN 'black' END",
            ("graduations", "misfit", 1, ["2"]),
        ),
        (
            "ALTER TABLE versions DROP CONSTRAINT versions_pkey; INSERT INTO versions (id) VALUES (7)",
            ("versions", "duplicate", 2, ["7"]),
        ),
        ("INSERT INTO checkins (id) VALUES (2147483647)", ("checkins", "last-id", 1, ["2147483647"])),
        ("DROP TABLE versions", ("versions", "missing-table", 0, [])),
        (
            "DROP TABLE versions; CREATE VIEW versions AS SELECT 2147483648 AS id",
            ("versions", "misfit", 1, ["2147483648"]),
        ),
    ],
)
def test_an_obstacle_is_named_with_its_rows(
    supabase: URL, planned: Callable[[], move.Plan], statements: str, expected: tuple[Any, ...]
) -> None:
    change(supabase, statements)
    plan = planned()
    assert expected in found(plan)
    assert not plan.complete
    assert all(obstacle.choices for obstacle in plan.obstacles)


def test_an_unknown_table_is_an_obstacle_once_it_has_rows(supabase: URL, planned: Callable[[], move.Plan]) -> None:
    change(supabase, "CREATE TABLE stripe (id int); CREATE TABLE empty (id int); CREATE VIEW v AS SELECT 1")
    assert planned().complete
    change(supabase, "INSERT INTO stripe VALUES (1), (2)")
    [obstacle] = planned().unknown_tables
    assert (obstacle.kind, obstacle.rows, "stripe" in obstacle.reason) == ("unknown-table", 2, True)


@pytest.mark.parametrize(
    "statements",
    [
        "DROP TABLE attachments",
        "ALTER TABLE users DROP migrated_at",
        "ALTER TABLE users ADD nickname text",
        "ALTER TABLE users ALTER created_at TYPE timestamp",
        "ALTER TABLE checkins ALTER date TYPE text",
        'ALTER TABLE checkins RENAME "userId" TO user_id',
        "ALTER TABLE notifications DROP viewed_by, ALTER recipients TYPE text"
        " USING CASE id WHEN 1 THEN '{a,NULL,\"b c\"}' END",
        "CREATE DOMAIN word AS varchar(20); CREATE DOMAIN belt AS word; ALTER TABLE graduations ALTER belt TYPE belt",
        "CREATE TYPE gender AS ENUM ('F'); ALTER TABLE users ALTER gender TYPE gender USING gender::gender",
        "ALTER TABLE graduations ALTER degree TYPE numeric USING 1.00",
        "ALTER TABLE class ALTER start TYPE text",
    ],
)
def test_a_project_that_drifted_without_losing_a_value_has_no_obstacle(
    supabase: URL, planned: Callable[[], move.Plan], statements: str
) -> None:
    change(supabase, statements)
    assert planned().obstacles == []


def test_a_new_table_that_its_model_calls_optional_is_no_obstacle(
    supabase: URL, planned: Callable[[], move.Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(supabase, "DROP TABLE versions")
    [obstacle] = planned().obstacles
    assert obstacle.kind == "missing-table"
    monkeypatch.setattr(
        Base.metadata.tables["versions"], "info", {"of_package": True, "phase": 1, "optional_in_source": True}
    )
    assert planned().obstacles == []


def test_a_phase_without_tables_is_refused() -> None:
    assert move.tables_of_phase(2) == ["gyms"]
    with pytest.raises(PhaseUnknown) as caught:
        move.tables_of_phase(6)
    assert caught.value.what == "there is no phase 6; the phases are 1, 2, 3, 4, 5"
    assert caught.value.exit_code == 2


def test_only_a_table_that_some_projects_lack_may_be_missing() -> None:
    assert [table.name for table in tables_in_order() if optional_in_source(table)] == ["attachments"]


def test_both_databases_are_opened_read_only(supabase: URL, engine: Engine) -> None:
    with move.open_for_reading(supabase, engine) as connections, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connections.source.rows("DELETE FROM public.checkins RETURNING 1")
    with move.open_for_reading(supabase, engine) as connections, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connections.target.rows("DELETE FROM public.checkins RETURNING 1")


def test_all_queries_see_one_moment(supabase: URL, engine: Engine) -> None:
    with move.open_for_reading(supabase, engine) as connections:
        change(supabase, "DELETE FROM checkins")
        assert connections.source.rows("SELECT count(*) FROM public.checkins") == [(2,)]


def test_a_role_to_which_policies_apply_is_refused(supabase: URL, engine: Engine) -> None:
    role = f"reader_{supabase.database}"
    change(supabase, f"CREATE ROLE {role} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    change(supabase, f"REVOKE SELECT ON roles FROM {role}")
    try:
        with (
            pytest.raises(move.SourceUnreadable) as caught,
            move.open_for_reading(supabase.set(username=role), engine) as connections,
        ):
            move.plan(connections)
    finally:
        change(supabase, f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert caught.value.forbidden == ["roles"]
    assert caught.value.hidden == sorted(set(phases()) - {"roles"})


def test_the_same_database_is_refused_whatever_its_address(fresh_server: EmbeddedServer) -> None:
    from tatame_db.database.creation import create_missing_database

    fresh_server.start(port=(port := free_port()))
    create_missing_database(fresh_server.address)
    password = fresh_server.password_file.read_text().strip()
    by_port = URL.create("postgresql+psycopg", "postgres", password, "localhost", port, "tatame")
    with Database(fresh_server.address) as database:
        evolve.migrate(database.engine)
        for spelled in (fresh_server.address, by_port, by_port.set(host="127.0.0.1")):
            with pytest.raises(move.SameDatabase) as caught, move.open_for_reading(spelled, database.engine):
                pass
            assert password not in str(caught.value)


def test_a_target_without_the_schema_is_refused(supabase: URL, bare_engine: Engine) -> None:
    with pytest.raises(evolve.SchemaBehind), move.open_for_reading(supabase, bare_engine):
        pass


def test_an_unreachable_source_is_named_without_its_password(engine: Engine) -> None:
    nowhere = URL.create("postgresql+psycopg", "ana", "SECRET", "127.0.0.1", free_port(), "x")
    with pytest.raises(move.SourceUnreachable) as caught, move.open_for_reading(nowhere, engine):
        pass
    assert "SECRET" not in f"{caught.value} {caught.value!r}"
    assert "SUPABASE_DB_URL" in str(caught.value)


def test_a_lost_source_is_a_failure_and_not_a_short_answer(supabase: URL, engine: Engine) -> None:
    def interrupted() -> None:
        with move.open_for_reading(supabase, engine) as connections:
            [(pid,)] = connections.source.rows("SELECT pg_backend_pid()")
            change(supabase.set(database="postgres"), f"SELECT pg_terminate_backend({pid}, 5000)")
            move.plan(connections)

    with pytest.raises(move.ConnectionLost) as caught:
        interrupted()
    assert caught.value.database == "source"
