"""Whatever else writes to the target while a copy runs: a success is reported only if it changed nothing."""

from __future__ import annotations

import importlib

import psycopg
import pytest
from sqlalchemy import URL, Engine
from tests.database.moves import Copy, ask, change, copy_into

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.errors import TatameError
from tatame_db.schema import phases


@pytest.fixture
def copy(supabase: URL, engine: Engine) -> Copy:
    return copy_into(supabase, engine)


def stale(engine: Engine) -> list[str]:
    """Return the tables that `status` shows as changed since their proof."""
    with move.open_target(engine) as target:
        return [table.table for table in move.status(target).tables if table.stale]


def last_run(engine: Engine) -> tuple[str | None, str | None]:
    with move.open_target(engine) as target:
        run = move.status(target).last_run
    assert run
    return run.outcome, run.error


def equal(supabase: URL, engine: Engine) -> bool:
    with move.open_for_reading(supabase, engine) as connections:
        return move.verify(connections).equal


FUNCTION = (
    "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN UPDATE public.users SET phone = ''touched'' WHERE id = 2; RETURN NEW; END'"
)
TRIGGERS = {
    "before each row": "CREATE TRIGGER touch BEFORE INSERT ON checkins FOR EACH ROW EXECUTE FUNCTION touch()",
    "after each row": "CREATE TRIGGER touch AFTER INSERT ON checkins FOR EACH ROW EXECUTE FUNCTION touch()",
    "statement": "CREATE TRIGGER touch AFTER INSERT ON checkins FOR EACH STATEMENT EXECUTE FUNCTION touch()",
    "deferred": "CREATE CONSTRAINT TRIGGER touch AFTER INSERT ON checkins DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW EXECUTE FUNCTION touch()",
}


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("kind", TRIGGERS)
def test_a_trigger_that_changes_a_table_that_was_proven_before_is_an_error(
    copy: Copy, supabase: URL, engine: Engine, kind: str, jobs: int
) -> None:
    copy("roles", "gyms", "users", "class")
    change(engine.url, FUNCTION, TRIGGERS[kind])
    with pytest.raises(move.ChangedAfterProof) as caught:
        copy(jobs=jobs)
    assert (caught.value.tables, caught.value.exit_code) == (["users"], 3)
    assert last_run(engine) == ("not equal", caught.value.what)
    assert stale(engine) == ["users"]
    change(engine.url, "DROP FUNCTION touch CASCADE")
    with pytest.raises(move.OtherRowsInTarget):
        copy()
    copy(replace_rows=True)
    assert equal(supabase, engine)
    assert (stale(engine), last_run(engine)) == ([], ("proven", None))


def test_a_constraint_trigger_that_waits_for_commit_runs_before_the_proof(copy: Copy, engine: Engine) -> None:
    change(
        engine.url,
        FUNCTION,
        "CREATE CONSTRAINT TRIGGER touch AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION touch()",
    )
    with pytest.raises(move.CopyDiffers) as caught:
        copy()
    assert caught.value.table == "users"
    assert ask(engine.url, "SELECT count(*) FROM users") == [(0,)]


def test_a_constraint_trigger_that_rejects_rows_at_commit_is_reported_in_words(copy: Copy, engine: Engine) -> None:
    change(
        engine.url,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no more users''; END';"
        " CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    with pytest.raises(move.RowsRefused, match=r"raised by the function public\.refuse\(\)") as caught:
        copy()
    # The author of the function may have put a value of the row into it.
    assert "no more users" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ("PERFORM 1 / (length(NEW.id::text) - length(NEW.id::text))", "22012"),
        ("PERFORM NEW.email::date", "22007"),
        ("PERFORM FROM no_such_table", "42P01"),
        ("ASSERT NEW.email IS NULL, NEW.email", "P0004"),
    ],
)
def test_whatever_fails_in_a_trigger_is_reported_in_words(copy: Copy, engine: Engine, body: str, state: str) -> None:
    change(
        engine.url,
        f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NEW; END $$;"
        " CREATE TRIGGER refuse BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    with pytest.raises(move.RowsRefused, match=r"raised by the function public\.refuse\(\)") as caught:
        copy()
    assert isinstance(caught.value.__cause__, psycopg.Error)
    assert caught.value.__cause__.sqlstate == state
    assert "@" not in str(caught.value)
    assert ask(engine.url, "SELECT count(*) FROM users") == [(0,)]


def test_an_event_trigger_that_fails_is_reported_in_words(copy: Copy, supabase: URL, engine: Engine) -> None:
    change(
        engine.url,
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''ask ana@club''; END';"
        " CREATE EVENT TRIGGER refuse ON ddl_command_end EXECUTE FUNCTION refuse()",
    )
    with pytest.raises(TatameError, match=r"raised by the function public\.refuse\(\)") as caught:
        copy()
    assert "@" not in str(caught.value)
    change(engine.url, "DROP EVENT TRIGGER refuse")
    copy()
    assert equal(supabase, engine)


@pytest.mark.parametrize("end", ["source", "target"])
def test_a_statement_that_an_administrator_cancels_is_reported_in_words(
    copy: Copy, supabase: URL, engine: Engine, end: str
) -> None:
    # More rows than the buffers between the servers hold, so that both are still at work.
    change(supabase, "INSERT INTO checkins (id) SELECT n FROM generate_series(100000, 300000) AS n")
    address = {"source": supabase, "target": engine.url}[end]

    def cancel(*_: object) -> None:
        change(
            address,
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database() AND query LIKE 'COPY%'",
        )

    with pytest.raises(move.StatementCanceled) as caught:
        copy(on_rows=cancel)
    assert caught.value.database == end
    copy()
    assert equal(supabase, engine)


def test_a_rule_that_changes_a_table_that_was_proven_before_is_an_error(
    copy: Copy, supabase: URL, engine: Engine
) -> None:
    copy()
    change(
        engine.url,
        "CREATE RULE touch AS ON DELETE TO checkins DO ALSO UPDATE public.users SET phone = 'touched' WHERE id = 2",
    )
    change(supabase, "DELETE FROM checkins WHERE id = 1")
    with pytest.raises(move.ChangedAfterProof) as caught:
        copy()
    assert caught.value.tables == stale(engine) == ["users"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_rows_that_an_app_updates_while_other_tables_are_copied_are_an_error(
    copy: Copy, supabase: URL, engine: Engine, jobs: int
) -> None:
    def update(done: move.TableCopy) -> None:
        if done.table == "users":
            change(engine.url, "UPDATE users SET email = id || '@new.example'")

    with pytest.raises(move.ChangedAfterProof) as caught:
        copy(on_table=update, jobs=jobs)
    assert caught.value.tables == stale(engine) == ["users"]
    assert "@" not in str(caught.value)
    copy(replace_rows=True)
    assert equal(supabase, engine)


def test_a_change_of_a_table_that_an_earlier_run_copied_is_an_error_too(copy: Copy, engine: Engine) -> None:
    copy("roles", "gyms", "users", "class")
    change(engine.url, FUNCTION, TRIGGERS["after each row"])
    with pytest.raises(move.ChangedAfterProof) as caught:
        copy("checkins")
    assert caught.value.tables == stale(engine) == ["users"]


def test_a_table_that_was_changed_before_a_run_of_other_tables_is_named(copy: Copy, engine: Engine) -> None:
    copy()
    change(engine.url, "UPDATE assets SET title = 'new'")
    report = copy("roles")
    assert report.outdated == stale(engine) == ["assets"]
    assert last_run(engine) == ("proven", None)


def test_a_writer_that_does_not_end_is_not_waited_for_forever(supabase: URL, engine: Engine, copy: Copy) -> None:
    copy()
    with (
        psycopg.connect(readable(engine.url)) as writer,
        move.open_for_writing(supabase, engine, lambda: None) as connections,
    ):

        def write(done: move.TableCopy) -> None:
            if done.table == "notifications":
                connections.target.execute("SET lock_timeout = 100")
                writer.execute("UPDATE users SET email = 'x'")

        with pytest.raises(move.TargetBusy):
            move.copy(connections, on_table=write)
        writer.rollback()
    assert stale(engine) == []
    outcome, error = last_run(engine)
    assert (outcome, error) == ("failed", "LockNotAvailable: canceling statement due to lock timeout")


def test_no_writer_gets_between_the_last_proof_and_its_record(
    copy: Copy, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy()
    refused: list[str] = []

    def write_first(*_: object) -> int:
        with psycopg.connect(readable(engine.url), autocommit=True) as writer:
            writer.execute("SET lock_timeout = 100")
            for table in phases():
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    writer.execute(f"UPDATE {table} SET id = id".encode())
                refused.append(table)
        return 0

    monkeypatch.setattr(importlib.import_module("tatame_db.move.copy"), "count_keys", write_first)
    copy()
    assert refused == list(phases())


def test_the_plan_names_triggers_rules_and_policies_of_the_target(supabase: URL, engine: Engine) -> None:
    def objects() -> list[tuple[str, str, str | None, str]]:
        with move.open_for_reading(supabase, engine) as connections:
            plan = move.plan(connections)
        assert plan.complete
        return [(found.table, found.kind, found.name, found.description) for found in plan.target_objects]

    assert objects() == []
    change(
        engine.url,
        FUNCTION,
        "CREATE TRIGGER first BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touch()",
        "CREATE TRIGGER off AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION touch();"
        " ALTER TABLE users DISABLE TRIGGER off",
        TRIGGERS["deferred"],
        "CREATE TRIGGER last AFTER DELETE ON checkins FOR EACH STATEMENT EXECUTE FUNCTION touch()",
        "CREATE RULE also AS ON UPDATE TO gyms DO ALSO SELECT 1",
        "ALTER TABLE class ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        " CREATE POLICY own ON class FOR UPDATE USING (true); CREATE POLICY other ON class FOR SELECT USING (true)",
        "ALTER TABLE assets ENABLE ROW LEVEL SECURITY",
    )
    assert objects() == [
        ("gyms", "rule", "also", "ON UPDATE DO ALSO"),
        ("users", "trigger", "first", "BEFORE INSERT OR UPDATE FOR EACH ROW"),
        ("class", "row-level security", None, "ON SELECT OR UPDATE, for the owner too"),
        ("checkins", "trigger", "last", "AFTER DELETE FOR EACH STATEMENT"),
        ("checkins", "trigger", "touch", "AFTER INSERT FOR EACH ROW INITIALLY DEFERRED"),
        ("assets", "row-level security", None, "ON ALL"),
    ]
