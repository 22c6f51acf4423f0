"""The overview, and the status of the move out of Supabase."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, text

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.database.pool import Database
from tatame_db.schema import Base

Client = Any


def copied(source: URL, target: Database, *tables: str) -> None:
    def never() -> None:
        raise AssertionError("no other copy is running")

    with move.open_for_writing(source, target.engine, never) as connections:
        move.copy(connections, list(tables))


def test_the_overview_describes_server_schema_and_tables(filled_studio: Client, filled_database: Database) -> None:
    found = filled_studio.get("/api/overview")

    with filled_database.engine.connect() as connection:
        version = str(connection.scalar(text("SHOW server_version"))).split()[0]
    assert (found["server_version"], found["mode"], found["role"]) == (version, "read-only", "tatame_studio")
    assert (found["pending"], found["problems"]) == ([], {})
    assert found["revision"]
    assert found["size_bytes"] > 1_000_000
    assert found["pool"] == {"size": 20, "in_use": 0}
    tables = {table["name"]: table for table in found["tables"]}
    assert tables.keys() == Base.metadata.tables.keys()
    assert tables["users"]["rows_estimated"] == 60
    assert tables["users"]["newest_row"] == "2026-01-01 10:00:00.000001"
    assert tables["versions"]["newest_row"] is None


def test_rows_that_the_server_never_counted_are_counted(studio: Client, committed_database: Database) -> None:
    with committed_database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ALTER TABLE versions SET (autovacuum_enabled = off)"))
        connection.execute(text("INSERT INTO versions SELECT FROM generate_series(1, 7)"))
        connection.execute(text("SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()"))
        connection.execute(text("SELECT pg_stat_reset()"))
    tables = {table["name"]: table["rows_estimated"] for table in studio.get("/api/overview")["tables"]}
    assert (tables["versions"], tables["roles"]) == (7, 0)


def test_an_unknown_revision_is_a_problem_of_the_overview(studio: Client, committed_database: Database) -> None:
    with committed_database.engine.begin() as connection:
        connection.execute(text("UPDATE tatame_migrations.alembic_version SET version_num = 'unheard_of'"))
    found = studio.get("/api/overview")
    assert "unheard_of" in found["problems"]["schema"]["what"]


def test_the_doctor_says_what_the_role_of_the_studio_may_not_see(studio: Client, committed_database: Database) -> None:
    with committed_database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE graduations DISABLE TRIGGER ALL"))

    found = {finding["name"]: finding for finding in studio.get("/api/doctor")["findings"]}

    assert found["disabled keys"]["verdict"] == "bad"
    assert found["space"]["verdict"] == "unknown"
    assert "`GRANT pg_monitor TO tatame_studio`" in found["space"]["fix"]


def test_drift_names_the_difference(studio: Client, committed_database: Database) -> None:
    with committed_database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE users ADD COLUMN shoe_size int"))
    found = studio.get("/api/drift")
    assert any("shoe_size" in difference for difference in found["drift"])
    assert found["migrations"] == found["heads"] == []


def test_without_a_move_the_status_is_empty(filled_studio: Client) -> None:
    assert filled_studio.get("/api/move") == {
        **dict.fromkeys(("ever", "running"), False),
        **{name: [] for name in ("runs", "tables", "parked", "unfinished", "followers", "switches")},
        "home_problem": None,
    }


def test_a_copy_sends_events_and_fills_the_status(studio: Client, committed_database: Database, supabase: URL) -> None:
    with closing(studio.begin("/api/move/events")) as events:
        response = events.getresponse()
        assert json.loads(response.readline().removeprefix(b"data: "))["ever"] is False
        copied(supabase, committed_database)
        line = b""
        while b'"proven"' not in line:
            line = response.readline()
        status = json.loads(line.removeprefix(b"data: "))

    assert status == studio.get("/api/move")
    assert (status["ever"], status["running"], status["parked"]) == (True, False, [])
    assert status["runs"][0]["outcome"] == "proven"
    assert status["runs"][0]["report"]["tables"]
    tables = {table["table"]: table for table in status["tables"]}
    assert tables.keys() == Base.metadata.tables.keys()
    with committed_database.engine.connect() as connection:
        users = connection.scalar(text("SELECT count(*) FROM users"))
    assert tables["users"]["source_rows"] == tables["users"]["target_rows"] == tables["users"]["written"] == users
    assert (tables["users"]["equal"], tables["users"]["working"]) == (True, False)
    assert tables["users"]["proven_at"]
    assert "postgres:" not in json.dumps(status)


def test_a_table_written_to_after_its_proof_is_stale(
    studio: Client, committed_database: Database, supabase: URL
) -> None:
    copied(supabase, committed_database, "roles")
    with committed_database.engine.begin() as connection:
        connection.execute(text("INSERT INTO roles (id) VALUES ('LATE')"))

    stale = studio.get("/api/move/stale")["stale"]
    assert [table for table, is_stale in stale.items() if is_stale] == ["roles"]
    tables = {table["table"]: table for table in studio.get("/api/move")["tables"]}
    assert (tables["roles"]["equal"], tables["users"]["equal"]) == (True, False)


@pytest.mark.parametrize("alive", [True, False])
def test_an_unfinished_run_is_running_or_broken_off(
    studio: Client, committed_database: Database, supabase: URL, *, alive: bool
) -> None:
    copied(supabase, committed_database, "roles")
    with committed_database.engine.connect() as connection:
        connection.execute(text("UPDATE tatame_move.runs SET ended_at = NULL, report = NULL"))
        connection.commit()
        if alive:
            # The locks of a copy that is writing a table.
            connection.execute(text(f"SELECT pg_advisory_xact_lock({0x7461_7461_6D65})"))
            connection.execute(text("LOCK TABLE roles IN SHARE ROW EXCLUSIVE MODE"))
        status = studio.get("/api/move")

    assert status["running"] is alive
    assert status["runs"][0]["outcome"] == ("running" if alive else "broken off")
    working = [table["table"] for table in status["tables"] if table["working"]]
    assert working == (["roles"] if alive else [])


def test_unknown_fields_of_a_report_are_passed_on(studio: Client, committed_database: Database, supabase: URL) -> None:
    copied(supabase, committed_database, "roles")
    with committed_database.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE tatame_move.runs SET report = jsonb_set(report, '{tables,0}', report #> '{tables,0}' ||"
                " '{\"new\": [1]}')"
            )
        )
    tables = {table["table"]: table for table in studio.get("/api/move")["tables"]}
    assert tables["roles"]["new"] == [1]


def test_an_exclusion_is_named_with_its_reason(studio: Client, committed_database: Database, supabase: URL) -> None:
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("UPDATE class SET start = '18:30:45' WHERE id = 1")
        connection.execute("UPDATE notifications SET created_at = 'infinity' WHERE id = 2")
    with move.open_for_writing(supabase, committed_database.engine, lambda: None) as connections:
        move.copy(connections, choices=move.Choices(misfits="null"), replace_rows=True)
    tables = {table["table"]: table for table in studio.get("/api/move")["tables"]}
    [nulled], [rejected] = tables["class"]["differences"], tables["notifications"]["differences"]
    assert (nulled["id"], nulled["kind"], nulled["values"]) == ("1", "differing", [{"column": "start"}])
    assert nulled["choice"] == "start has seconds, which HH:MM cannot hold"
    assert (rejected["id"], rejected["kind"]) == ("2", "missing")
    notifications = tables["notifications"]
    assert [notifications[name] for name in ("source_rows", "target_rows", "rejected")] == [3, 2, 1]
    assert notifications["source_digest"] == notifications["target_digest"] != ""
    assert tables["users"]["differences"] == []


def test_a_failed_run_and_an_unproven_table_are_not_proven(
    studio: Client, committed_database: Database, supabase: URL
) -> None:
    copied(supabase, committed_database, "roles", "versions")
    with committed_database.engine.begin() as connection:
        # As a copy over REST leaves them whose second reading differed.
        connection.execute(text("UPDATE tatame_move.runs SET outcome = 'not equal', error = 'roles changed'"))
        connection.execute(text("UPDATE tatame_move.tables SET proven_at = NULL WHERE name = 'roles'"))
    status = studio.get("/api/move")
    assert (status["runs"][0]["outcome"], status["runs"][0]["error"]) == ("not equal", "roles changed")
    tables = {table["table"]: table for table in status["tables"]}
    assert (tables["roles"]["equal"], tables["versions"]["equal"]) == (False, True)


def test_events_continue_once_the_database_is_back(studio: Client, committed_database: Database) -> None:
    with closing(studio.begin("/api/move/events")) as events:
        response = events.getresponse()
        assert response.readline().startswith(b"data: ")
        name = str(committed_database.address.database)
        line = b""
        with (
            Database(committed_database.address.set(database="postgres")) as other,
            other.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        ):
            connection.execute(text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false'))
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
            )
            while not line.startswith(b"event: away"):
                line = response.readline()
            connection.execute(text(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'))
        while not line.startswith(b'data: {"ever"'):
            line = response.readline()
