from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Engine
from tests.database.moves import Copy, Killed, ask, change, copy_into

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.move.parked import restore
from tatame_db.move.record import Record
from tatame_db.schema import Base, phases

NUMBERED = [table.name for table in Base.metadata.tables.values() if table.autoincrement_column is not None]


@pytest.fixture
def copy(supabase: URL, engine: Engine) -> Copy:
    return copy_into(supabase, engine)


def runs(engine: Engine) -> list[tuple[Any, ...]]:
    return ask(engine.url, "SELECT outcome, error, ended_at IS NOT NULL FROM tatame_move.runs ORDER BY id")


# --- A trial insert --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", ["some", "none"])
def test_a_trial_insert_into_each_table_leaves_no_trace(copy: Copy, supabase: URL, engine: Engine, rows: str) -> None:
    if rows == "none":
        change(supabase, f"TRUNCATE {', '.join(phases())}")
    report = copy()
    assert sorted(report.insert_tested) == sorted(NUMBERED)
    assert len(report.insert_tested) == 10
    for done in report.tables:
        assert ask(engine.url, f"SELECT count(*) FROM {done.table}") == [(done.rows,)]
    for table in NUMBERED:
        sequence = f"pg_get_serial_sequence('public.{table}', 'id')"
        # One row has an id near the end, after which hardly another could follow.
        highest_id = "max(id) FILTER (WHERE id < 2000000000)"
        [(following, highest)] = ask(engine.url, f"SELECT nextval({sequence}), {highest_id} FROM {table}")
        assert following == (max(highest, 1) + 1 if highest else 1)


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("ALTER TABLE assets ALTER id DROP IDENTITY IF EXISTS, ALTER id DROP DEFAULT", "assets"),
        ("ALTER TABLE users ADD nickname text NOT NULL DEFAULT 'x' CHECK (id < 0 OR id < 3)", "users"),
        ("ALTER TABLE checkins ADD CHECK (id IN (1, 70000))", "checkins"),
    ],
)
def test_a_table_that_rejects_a_new_row_is_an_error(copy: Copy, engine: Engine, statement: str, table: str) -> None:
    change(engine.url, statement)
    with pytest.raises(move.TrialInsertFailed) as caught:
        copy()
    assert caught.value.table == table
    [(outcome, error, ended)] = runs(engine)
    assert (outcome, error, ended) == ("failed", caught.value.what, True)


# --- The record ------------------------------------------------------------------------------------------------------


def test_the_record_of_a_run_has_counts_and_digests_of_both_databases(
    copy: Copy, supabase: URL, engine: Engine
) -> None:
    report = copy()
    with move.open_for_reading(supabase, engine) as connections:
        proven = {table.table: table for table in move.verify(connections).tables}
    [(stored, versions)] = ask(engine.url, "SELECT report, source_version FROM tatame_move.runs")
    assert stored["run"] == report.run
    assert (stored["source_version"], stored["foreign_keys"]) == (versions, 12)
    for table in stored["tables"]:
        proof = proven[table["table"]]
        assert (table["rows"], table["source_digest"]) == (proof.source_rows, proof.source_digest)
        assert table["target_digest"] == proof.target_digest == table["source_digest"]
    assert runs(engine) == [("proven", None, True)]
    # An idle run reports the same digests.
    assert [table.target_digest for table in copy().tables] == [table["target_digest"] for table in stored["tables"]]


def test_a_run_that_was_not_equal_is_recorded(copy: Copy, engine: Engine) -> None:
    change(
        engine.url,
        "CREATE FUNCTION louder() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.title := upper(NEW.title); RETURN NEW; END';"
        "CREATE TRIGGER louder BEFORE INSERT ON assets FOR EACH ROW EXECUTE FUNCTION louder()",
    )
    with pytest.raises(move.CopyDiffers):
        copy()
    assert runs(engine) == [
        ("not equal", "assets was copied, but the proof found that it differs from the source", True)
    ]


def test_a_failed_run_is_recorded_without_personal_values(copy: Copy, engine: Engine) -> None:
    change(engine.url, "ALTER TABLE users ADD CONSTRAINT no_mail CHECK (email IS NULL)")
    with pytest.raises(move.RowsRefused) as caught:
        copy()
    assert caught.value.table == "users"
    [(outcome, error, ended)] = runs(engine)
    assert (outcome, ended) == ("failed", True)
    assert (
        error == 'the target rejected rows of users: new row for relation "users" violates check constraint "no_mail"'
    )
    with move.open_target(engine) as target:
        last = move.status(target).last_run
    assert last
    assert (last.outcome, last.error) == ("failed", error)


def test_a_run_that_lost_its_source_is_recorded(copy: Copy, supabase: URL, engine: Engine) -> None:
    def cut(done: move.TableCopy) -> None:
        if done.table == "users":
            change(
                supabase.set(database="postgres"),
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                f" WHERE datname = '{supabase.database}' AND application_name = 'tatame-db move'",
            )

    with pytest.raises(move.ConnectionLost):
        copy(on_table=cut)
    [(outcome, error, ended)] = runs(engine)
    assert (outcome, ended) == ("failed", True)
    assert error
    assert copy().tables
    assert [outcome for outcome, *_ in runs(engine)] == ["failed", "proven"]


def test_a_run_in_progress_has_no_outcome_yet(copy: Copy, engine: Engine) -> None:
    seen: list[Any] = []

    def look(done: move.TableCopy) -> None:
        if done.table == "users":
            seen.extend(runs(engine))

    copy(on_table=look)
    assert seen == [(None, None, False)]


def test_progress_reports_the_rows_sent_and_the_rows_to_send(
    copy: Copy, supabase: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(supabase, "INSERT INTO checkins (id) SELECT n FROM generate_series(100000, 120000) AS n")
    heard: list[tuple[str, int, int]] = []
    copy(on_rows=lambda *progress: heard.append(progress))
    assert {(table, wanted) for table, _, wanted in heard} == {("checkins", 20_003)}
    assert [rows for _, rows, _ in heard] == sorted({rows for _, rows, _ in heard})
    # About 30 bytes a row, reported after each 64 kB.
    assert 1_000 < heard[0][1] < 4_000
    assert 16_000 < heard[-1][1] <= 20_003
    monkeypatch.setattr("tatame_db.move.changes.BATCH_ROWS", 300)
    monkeypatch.setattr("tatame_db.move.stream.BLOCK_BYTES", 1_000)
    heard.clear()
    change(supabase, "UPDATE checkins SET date = '2024-01-01' WHERE id BETWEEN 100000 AND 100999")
    copy(on_rows=lambda *progress: heard.append(progress))
    assert {(table, wanted) for table, _, wanted in heard} == {("checkins", 1_000)}
    assert [rows for _, rows, _ in heard] == sorted({rows for _, rows, _ in heard})
    assert 900 < heard[-1][1] <= 1_000


def test_the_plan_estimates_by_size_and_then_by_the_last_copy(copy: Copy, supabase: URL, engine: Engine) -> None:
    def planned() -> dict[str, float]:
        with move.open_for_reading(supabase, engine) as connections:
            found = move.plan(connections)
        assert found.seconds == round(sum(table.seconds for table in found.tables), 1)
        return {table.table: table.seconds for table in found.tables}

    change(supabase, "INSERT INTO checkins (id) SELECT n FROM generate_series(100000, 200000) AS n; ANALYZE")
    [(size,)] = ask(supabase, "SELECT pg_table_size('checkins')")
    assert planned()["checkins"] == round(size / 20_000_000, 1) > 0
    copy()
    [(run, report)] = ask(engine.url, "SELECT id, report FROM tatame_move.runs")
    for table in report["tables"]:
        table["seconds"] = 50.0 if table["table"] == "checkins" else 0.5
    with psycopg.connect(readable(engine.url)) as connection:
        connection.execute("UPDATE tatame_move.runs SET report = %s WHERE id = %s", (json.dumps(report), run))
    change(supabase, "INSERT INTO checkins (id) SELECT n FROM generate_series(300000, 400000) AS n")
    # Twice the rows that took 50 seconds; a copy of less than a second does not count.
    assert planned()["checkins"] == 100.0
    assert planned()["roles"] == 0.0


# --- Until a run is proven -------------------------------------------------------------------------------------------


def unfinished(engine: Engine) -> list[str]:
    with move.open_target(engine, check_schema=False) as target:
        return move.unfinished(target).names


def test_an_unfinished_run_is_named_until_the_next_run(copy: Copy, supabase: URL, engine: Engine) -> None:
    assert unfinished(engine) == []
    copy()
    assert unfinished(engine) == []
    with move.open_for_writing(supabase, engine, lambda: None) as connections:
        Record(connections.target).park()
        connections.target.driver.commit()
        assert "users.users_gym_id_birth_day_index" in unfinished(engine)
        restore(connections.target)
    unvalidated = unfinished(engine)
    assert len(unvalidated) == 12
    assert "users.users_gym_id_gyms_id_fk" in unvalidated
    copy()
    assert unfinished(engine) == []


@pytest.mark.parametrize("table", ["gyms", "users"])
def test_managers_are_not_lost_if_a_run_is_killed_between_the_phases(
    copy: Copy, supabase: URL, engine: Engine, table: str
) -> None:
    for phase in (1, 2):
        copy(*(name for name, its in phases().items() if its == phase))
    assert ask(engine.url, "SELECT count(*), count(manager_id) FROM gyms") == [(2, 0)]

    def fail(done: move.TableCopy) -> None:
        if done.table == table:
            raise Killed

    with pytest.raises(Killed):
        copy("users", on_table=fail)
    # What is unfinished is named, and half of it does not pass for done.
    assert "gyms.gyms_manager_id_users_id_fk" in unfinished(engine)
    report = copy("users", "graduations")
    assert [done.table for done in report.tables] == ["gyms", "users", "graduations"]
    assert ask(engine.url, "SELECT id, manager_id FROM gyms ORDER BY id") == [(1, 1), (2147483646, 2)]
    assert unfinished(engine) == []
    with move.open_for_reading(supabase, engine) as connections:
        assert move.verify(connections, ["gyms", "users"]).equal
