from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, inspect, text

from tatame_db import evolve
from tatame_db.database import SyncDatabase, readable
from tatame_db.schema import Base

FAILING = '''
"""A step that fails half-way."""

from alembic import op

revision = "29990101000000"
down_revision = "{head}"


def upgrade() -> None:
    op.execute("CREATE TABLE half (id integer)")
    op.execute("INSERT INTO half SELECT 'seven'::text::integer")


def downgrade() -> None:
    op.execute("DROP TABLE half")
'''


@pytest.fixture
def migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a copy of the migrations to add to."""
    copy = tmp_path / "migrations"
    shutil.copytree(evolve.MIGRATIONS, copy)
    monkeypatch.setattr(evolve, "MIGRATIONS", copy)
    return copy


def _head(engine: Engine) -> str:
    return evolve.status(engine, embedded=True).head


def test_migrating_twice_does_nothing_the_second_time(bare_engine: Engine) -> None:
    assert [step.revision for step in evolve.migrate(bare_engine)] == ["20261123120000"]
    assert evolve.migrate(bare_engine) == []


def test_each_step_is_told_with_its_sentence_and_time(bare_engine: Engine) -> None:
    told: list[evolve.Step] = []
    steps = evolve.migrate(bare_engine, on_step=told.append)
    assert told == steps
    assert steps[0].sentence == "The initial schema."
    assert steps[0].seconds > 0


def test_rolling_back_takes_everything_away_and_migrating_brings_it_back(bare_engine: Engine) -> None:
    evolve.migrate(bare_engine)
    assert [step.revision for step in evolve.rollback(bare_engine)] == ["20261123120000"]
    assert inspect(bare_engine).get_table_names() == []
    evolve.migrate(bare_engine)
    assert set(inspect(bare_engine).get_table_names()) == set(Base.metadata.tables)


def test_the_printed_sql_builds_the_same_database(bare_engine: Engine) -> None:
    script = evolve.migration_sql(bare_engine)
    assert inspect(bare_engine).get_table_names() == []
    with bare_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(script.replace("%", "%%"))
    assert set(inspect(bare_engine).get_table_names()) == set(Base.metadata.tables)
    assert evolve.migrate(bare_engine) == []
    assert evolve.migration_sql(bare_engine) == ""


def test_a_migration_that_fails_half_way_is_undone_and_explained(bare_engine: Engine, migrations: Path) -> None:
    first = _head(bare_engine)
    (migrations / "versions" / "failing.py").write_text(FAILING.format(head=first))
    with pytest.raises(evolve.MigrationFailed) as caught:
        evolve.migrate(bare_engine)
    error = caught.value
    assert (error.revision, error.applied) == ("29990101000000", [first])
    assert "INSERT INTO half" in error.statement
    assert error.message == 'invalid input syntax for type integer: "seven"'
    assert not inspect(bare_engine).has_table("half")
    assert evolve.status(bare_engine, embedded=True).revision == first
    assert evolve.status(bare_engine, embedded=True).pending == ["29990101000000"]


def test_migrating_up_to_a_revision_leaves_the_rest_pending(bare_engine: Engine, migrations: Path) -> None:
    first = _head(bare_engine)
    (migrations / "versions" / "failing.py").write_text(FAILING.format(head=first))
    assert [step.revision for step in evolve.migrate(bare_engine, first)] == [first]
    assert evolve.migrate(bare_engine, first) == []


def test_of_two_runs_at_once_one_waits_and_finds_nothing_to_do(bare_engine: Engine) -> None:
    at_work, go_on, told_to_wait = threading.Event(), threading.Event(), threading.Event()
    done: dict[str, list[evolve.Step]] = {}

    def hold(_: evolve.Step) -> None:
        at_work.set()
        go_on.wait(20)

    first = threading.Thread(target=lambda: done.update(first=evolve.migrate(bare_engine, on_step=hold)))
    first.start()
    assert at_work.wait(20)
    second = threading.Thread(target=lambda: done.update(second=evolve.migrate(bare_engine, on_wait=told_to_wait.set)))
    second.start()
    assert told_to_wait.wait(20)
    go_on.set()
    first.join()
    second.join()
    assert [step.revision for step in done["first"]] == ["20261123120000"]
    assert done["second"] == []


def test_a_run_leaves_no_lock_and_no_timeout_behind(bare_engine: Engine) -> None:
    evolve.migrate(bare_engine)
    with bare_engine.connect() as connection:
        assert connection.scalar(text("SHOW statement_timeout")) == "0"
        assert connection.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 0


def test_a_lock_held_by_another_session_ends_the_run_unharmed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolve, "LOCK_TIMEOUT_MS", 200)
    with engine.begin() as other:
        other.execute(text("SELECT FROM users"))
        with pytest.raises(evolve.MigrationFailed, match="lock timeout"):
            evolve.rollback(engine)
    assert evolve.status(engine, embedded=True).pending == []


def test_an_unknown_revision_is_named_with_those_there_are(engine: Engine) -> None:
    with pytest.raises(evolve.RevisionUnknown, match="20261123120000"):
        evolve.migrate(engine, "no_such_revision")


def test_a_database_from_the_future_is_left_alone(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE tatame_migrations.alembic_version SET version_num = '29991231235959'"))
    for act in (evolve.migrate, evolve.rollback, evolve.migration_sql):
        with pytest.raises(evolve.DatabaseAhead, match="29991231235959"):
            act(engine)
    with pytest.raises(evolve.DatabaseAhead):
        evolve.status(engine, embedded=True)


def test_more_steps_back_than_there_are_change_nothing(engine: Engine) -> None:
    with pytest.raises(evolve.NotADowngrade) as caught:
        evolve.rollback(engine, 2)
    assert caught.value.possible == 1
    assert evolve.status(engine, embedded=True).pending == []


def test_the_status_of_an_empty_database_is_all_pending(bare_engine: Engine) -> None:
    report = evolve.status(bare_engine, embedded=True)
    assert (report.revision, report.pending, report.tables) == (None, ["20261123120000"], {})
    assert report.server_version.startswith("18.")


def test_the_status_counts_rows_and_hides_the_password(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO roles SELECT g::text FROM generate_series(1, 1000) AS g"))
        connection.execute(text("ANALYZE roles"))
    with SyncDatabase(engine.url.set(password="p%@:/#[w")) as database:
        report = evolve.status(database.engine, embedded=False)
    assert report.tables["roles"] == 1000
    assert report.tables.keys() == Base.metadata.tables.keys()
    assert report.database == readable(engine.url)
    assert report.embedded is False


def test_a_table_of_another_schema_is_not_taken_for_ours(bare_engine: Engine) -> None:
    with bare_engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA other"))
        connection.execute(text("CREATE TABLE other.users (id integer)"))
    assert evolve.status(bare_engine, embedded=True).tables == {}
