from __future__ import annotations

import asyncio
import importlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from sqlalchemy import DDL, URL, BigInteger, DefaultClause, Engine, String, Time, event, inspect, text
from tests.database.scratches import shared_scratch

from tatame_db import evolve, seed
from tatame_db.database.address import readable
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.evolve import catalogue, history
from tatame_db.evolve.difference import AnswerInvalid
from tatame_db.evolve.generate import ChangeRefused, ChangeRejected
from tatame_db.evolve.migration_errors import TooFewMigrations
from tatame_db.evolve.push import PushFailed, PushRefused
from tatame_db.schema import Base

__all__ = ["shared_scratch"]

migrate_module = importlib.import_module("tatame_db.evolve.migrate")

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


def _head(engine: Engine) -> str:
    return evolve.status(engine).head


def test_migrating_twice_does_nothing_the_second_time(bare_engine: Engine) -> None:
    assert [step.revision for step in evolve.migrate(bare_engine)] == ["20261123120000"]
    assert evolve.migrate(bare_engine) == []


def test_each_step_is_reported_with_its_sentence_and_time(bare_engine: Engine) -> None:
    reported: list[evolve.MigrationStep] = []
    steps = evolve.migrate(bare_engine, on_step=reported.append)
    assert reported == steps
    assert steps[0].sentence == "The initial schema."
    assert steps[0].seconds > 0


def test_a_rollback_drops_all_tables_and_migrate_creates_them_again(bare_engine: Engine) -> None:
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


def test_a_migration_that_fails_half_way_is_rolled_back_and_explained(bare_engine: Engine, migrations: Path) -> None:
    first = _head(bare_engine)
    (migrations / "versions" / "failing.py").write_text(FAILING.format(head=first))
    with pytest.raises(evolve.MigrationFailed) as caught:
        evolve.migrate(bare_engine)
    error = caught.value
    assert (error.revision, error.applied) == ("29990101000000", [first])
    assert "INSERT INTO half" in error.statement
    # Without the value, which may be one of a person.
    assert error.message == 'invalid input syntax for type integer: "…"'
    assert not inspect(bare_engine).has_table("half")
    assert evolve.status(bare_engine).revision == first
    assert evolve.status(bare_engine).pending == ["29990101000000"]


def test_migrating_up_to_a_revision_leaves_the_rest_pending(bare_engine: Engine, migrations: Path) -> None:
    first = _head(bare_engine)
    (migrations / "versions" / "failing.py").write_text(FAILING.format(head=first))
    assert [step.revision for step in evolve.migrate(bare_engine, first)] == [first]
    assert evolve.migrate(bare_engine, first) == []


def test_of_two_runs_at_once_one_waits_and_finds_nothing_to_do(bare_engine: Engine) -> None:
    running, resume, waiting = threading.Event(), threading.Event(), threading.Event()
    done: dict[str, list[evolve.MigrationStep]] = {}

    def hold(_: evolve.MigrationStep) -> None:
        running.set()
        resume.wait(20)

    first = threading.Thread(target=lambda: done.update(first=evolve.migrate(bare_engine, on_step=hold)))
    first.start()
    assert running.wait(20)
    second = threading.Thread(
        target=lambda: done.update(second=evolve.migrate(bare_engine, timeouts=evolve.Timeouts(on_wait=waiting.set)))
    )
    second.start()
    assert waiting.wait(20)
    resume.set()
    first.join()
    second.join()
    assert [step.revision for step in done["first"]] == ["20261123120000"]
    assert done["second"] == []


def test_a_run_leaves_no_lock_and_no_timeout_behind(bare_engine: Engine) -> None:
    evolve.migrate(bare_engine)
    with bare_engine.connect() as connection:
        assert connection.scalar(text("SHOW statement_timeout")) == "0"
        assert connection.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 0


def test_a_rollback_that_gets_no_lock_stops_after_some_retries_and_changes_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate_module, "RETRY_PAUSES_SECONDS", (0.01, 0.02))
    retries: list[evolve.Retry] = []
    with engine.begin() as other:
        other.execute(text("SELECT FROM users"))
        with pytest.raises(evolve.MigrationFailed, match="lock timeout"):
            evolve.rollback(engine, timeouts=evolve.Timeouts(lock_timeout_ms=50, on_retry=retries.append))
    assert [retry.pause_seconds for retry in retries] == [0.01, 0.02]
    assert evolve.status(engine).pending == []


def test_a_retry_succeeds_once_the_lock_is_released(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate_module, "RETRY_PAUSES_SECONDS", (0.01, 0.01))
    other = engine.connect()
    other.execute(text("SELECT FROM users"))
    timeouts = evolve.Timeouts(lock_timeout_ms=50, on_retry=lambda _: other.close())
    assert len(evolve.rollback(engine, timeouts=timeouts)) == 1
    assert not inspect(engine).has_table("users")


def test_a_statement_that_exceeds_the_timeout_is_canceled(bare_engine: Engine, add: Callable[..., str]) -> None:
    add(upgrade="op.execute('SELECT pg_sleep(20)')")
    with pytest.raises(evolve.MigrationFailed, match="statement timeout"):
        evolve.migrate(bare_engine, timeouts=evolve.Timeouts(statement_timeout_ms=100))


def test_an_applied_migration_that_was_edited_is_rejected(
    bare_engine: Engine, migrations: Path, add: Callable[..., str]
) -> None:
    revision = add(upgrade="op.execute('CREATE TABLE one (id integer)')", downgrade="op.execute('DROP TABLE one')")
    evolve.migrate(bare_engine)
    file = migrations / "versions" / f"{revision}.py"
    before = file.read_text()
    file.write_text(before.replace("id integer", "id bigint"))
    for act in (evolve.migrate, evolve.rollback):
        with pytest.raises(evolve.MigrationEdited, match=f"{revision}.py"):
            act(bare_engine)
    file.write_text(before)
    assert evolve.migrate(bare_engine) == []
    evolve.rollback(bare_engine)
    file.write_text(before.replace("id integer", "id bigint"))
    assert len(evolve.migrate(bare_engine)) == 1


def test_two_heads_are_reported_with_the_command_that_joins_them(bare_engine: Engine, add: Callable[..., str]) -> None:
    first = evolve.status(bare_engine).head
    left, right = add(after=first), add(after=first)
    with pytest.raises(evolve.TwoHeads) as caught:
        evolve.migrate(bare_engine)
    assert caught.value.files == [f"{left}.py", f"{right}.py"]
    assert "generate --merge" in caught.value.fix


def test_the_late_branch_of_a_merge_is_not_skipped(bare_engine: Engine, add: Callable[..., str]) -> None:
    first = evolve.status(bare_engine).head
    left = add(after=first, upgrade="op.execute('CREATE TABLE a (id integer)')", downgrade="op.execute('DROP TABLE a')")
    evolve.migrate(bare_engine)
    right = add(
        after=first, upgrade="op.execute('CREATE TABLE b (id integer)')", downgrade="op.execute('DROP TABLE b')"
    )
    both = add(after=(left, right))
    assert evolve.status(bare_engine).pending == [right, both]
    assert [step.revision for step in evolve.migrate(bare_engine)] == [right, both]
    assert {"a", "b"} <= set(inspect(bare_engine).get_table_names())
    assert {step.revision for step in evolve.rollback(bare_engine, 3)} == {left, right, both}
    assert sorted(evolve.status(bare_engine).pending) == [left, right, both]
    assert not {"a", "b"} & set(inspect(bare_engine).get_table_names())


PAGE = (Path(__file__).parents[2] / "docs" / "change-the-schema.md").read_text()


def test_steps_outside_a_transaction_keep_the_lock(bare_engine: Engine, migrations: Path) -> None:
    [example] = re.findall(r"^```python\n(from alembic import op\n.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    header = f'"""An index."""\n\nrevision = "29990101000000"\ndown_revision = "{_head(bare_engine)}"\n'
    (migrations / "versions" / "index.py").write_text(header + example)
    locks: list[int] = []

    def count(_: evolve.MigrationStep) -> None:
        with bare_engine.connect() as connection:
            locks.append(connection.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) or 0)

    evolve.migrate(bare_engine, on_step=count)
    assert locks == [1, 1]
    assert "users_email_index" in {index["name"] for index in inspect(bare_engine).get_indexes("users")}
    evolve.rollback(bare_engine)


def test_a_not_null_that_finds_nulls_reports_how_many_and_a_key(bare_engine: Engine, add: Callable[..., str]) -> None:
    add(upgrade='op.alter_column("users", "email", nullable=False)')
    evolve.migrate(bare_engine, evolve.status(bare_engine).pending[0])
    with bare_engine.begin() as connection:
        connection.execute(
            text("INSERT INTO users (clerk_user_id, email) VALUES ('a', 'x@y'), ('b', NULL), ('c', NULL)")
        )
    with pytest.raises(evolve.MigrationFailed) as caught:
        evolve.migrate(bare_engine)
    assert "2 rows with NULL, for example id = 2" in caught.value.message


def test_a_new_not_null_column_without_a_default_reports_the_number_of_rows(
    bare_engine: Engine, add: Callable[..., str]
) -> None:
    add(upgrade='op.execute("ALTER TABLE roles ADD COLUMN rank integer NOT NULL")')
    evolve.migrate(bare_engine, evolve.status(bare_engine).pending[0])
    with bare_engine.begin() as connection:
        connection.execute(text("INSERT INTO roles VALUES ('STUDENT'), ('MANAGER')"))
    with pytest.raises(evolve.MigrationFailed, match="would be NULL in the 2 existing rows"):
        evolve.migrate(bare_engine)


def test_a_syntax_error_in_a_migration_is_reported_with_its_line(bare_engine: Engine, migrations: Path) -> None:
    (migrations / "versions" / "broken.py").write_text("revision = '3'\ndef upgrade(:\n")
    with pytest.raises(evolve.MigrationUnreadable, match=r"broken\.py, line 2"):
        evolve.migrate(bare_engine)


def test_a_file_that_cannot_be_imported_is_reported(bare_engine: Engine, migrations: Path) -> None:
    (migrations / "versions" / "notes.py").write_text("import no_such_module\n")
    with pytest.raises(evolve.MigrationUnreadable, match="no_such_module"):
        evolve.migrate(bare_engine)


def test_an_async_application_migrates_with_its_own_engine(bare_address: URL) -> None:
    async def start_up() -> list[evolve.MigrationStep]:
        async with AsyncDatabase(bare_address) as database:
            return await asyncio.to_thread(evolve.migrate, database.engine)

    assert len(asyncio.run(start_up())) == 1


def test_every_revision_goes_up_down_and_up_without_losing_older_data(bare_engine: Engine) -> None:
    def picture() -> tuple[catalogue.Catalogue, dict[str, str]]:
        with bare_engine.connect() as connection:
            tables = inspect(connection).get_table_names()
            rows = {
                table: connection.scalar(
                    text(f'SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM "{table}" t')
                )
                for table in tables
            }
            return catalogue.read(connection), {table: str(digest) for table, digest in rows.items()}

    steps = [script.revision for script in history.History().up_to("head")]
    for position, revision in enumerate(steps):
        schema_before, rows_before = picture()
        evolve.migrate(bare_engine, revision)
        schema_after, _ = picture()
        evolve.rollback(bare_engine)
        assert picture() == (schema_before, rows_before), revision
        evolve.migrate(bare_engine, revision)
        assert picture()[0] == schema_after, revision
        if position == 0:
            with bare_engine.begin() as connection:
                seed.seed(connection, seed.SeedPlan(gyms=1, members=5, days=7))


KILLED = """
import sys
from sqlalchemy import text
from tatame_db import evolve
from tatame_db.database.pool import Database
from tatame_db.evolve import history
from pathlib import Path
history.MIGRATIONS = Path(sys.argv[2])
evolve.migrate(Database(sys.argv[1]).engine)
"""


def test_a_killed_run_is_undone_and_frees_the_lock(
    bare_engine: Engine, migrations: Path, add: Callable[..., str]
) -> None:
    revision = add(upgrade="op.execute('CREATE TABLE half (id integer)')\n    op.execute('SELECT pg_sleep(60)')")
    arguments = [readable(bare_engine.url), str(migrations)]
    killed = subprocess.Popen([sys.executable, "-c", KILLED, *arguments])

    def asleep() -> bool:
        with bare_engine.connect() as connection:
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()"
            )
            return bool(connection.scalar(text(query)))

    deadline = time.monotonic() + 30
    while not asleep() and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    file = migrations / "versions" / f"{revision}.py"
    file.write_text(file.read_text().replace("pg_sleep(60)", "pg_sleep(0)"))
    # The server notices within a second that the client is dead; until then this run waits for the lock.
    assert [step.revision for step in evolve.migrate(bare_engine)] == [revision]
    assert inspect(bare_engine).has_table("half")


def test_an_unknown_revision_is_reported_with_the_known_ones(engine: Engine) -> None:
    with pytest.raises(evolve.RevisionUnknown, match="20261123120000"):
        evolve.migrate(engine, "no_such_revision")


def test_a_database_ahead_of_the_package_is_not_changed(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE tatame_migrations.alembic_version SET version_num = '29991231235959'"))
    for act in (evolve.migrate, evolve.rollback, evolve.migration_sql):
        with pytest.raises(evolve.DatabaseAhead, match="29991231235959"):
            act(engine)
    with pytest.raises(evolve.DatabaseAhead):
        evolve.status(engine)


def test_a_rollback_of_more_steps_than_applied_changes_nothing(engine: Engine) -> None:
    with pytest.raises(TooFewMigrations) as caught:
        evolve.rollback(engine, 2)
    assert caught.value.possible == 1
    assert evolve.status(engine).pending == []


def test_the_status_of_an_empty_database_is_all_pending(bare_engine: Engine) -> None:
    report = evolve.status(bare_engine)
    assert (report.revision, report.pending, report.tables) == (None, ["20261123120000"], {})
    assert report.server_version.startswith("18.")


def test_the_status_counts_rows_and_hides_the_password(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO roles SELECT g::text FROM generate_series(1, 1000) AS g"))
        connection.execute(text("ANALYZE roles"))
    with Database(engine.url.set(password="p%@:/#[w")) as database:
        report = evolve.status(database.engine)
    assert report.tables["roles"] == 1000
    assert report.tables.keys() == Base.metadata.tables.keys()
    assert report.database == readable(engine.url)


# Rows that the catalogue does not know: as after a crash, or in the empty shell of a distributed table.
UNCOUNTED = (
    "INSERT INTO versions SELECT FROM generate_series(1, 7)",
    "SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()",
    "SELECT pg_stat_reset()",
)


def test_the_status_counts_the_rows_that_the_server_never_counted(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ALTER TABLE versions SET (autovacuum_enabled = off)"))
        for statement in UNCOUNTED:
            connection.execute(text(statement))
    status = evolve.status(engine)
    assert (status.tables["versions"], status.tables["roles"], status.placement) == (7, 0, None)


def test_the_status_counts_the_rows_of_partitions_and_children(engine: Engine) -> None:
    with engine.begin() as connection:
        for statement in (
            "DROP TABLE versions",
            "CREATE TABLE versions (id integer, day date) PARTITION BY RANGE (day)",
            "CREATE TABLE v1 PARTITION OF versions FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
            "CREATE TABLE v2 PARTITION OF versions DEFAULT PARTITION BY HASH (id)",
            "CREATE TABLE v3 PARTITION OF v2 FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
            "INSERT INTO versions SELECT n, '2026-12-01'::date + n FROM generate_series(1, 100) AS n",
            "CREATE TABLE old_stores () INHERITS (app_stores)",
            "INSERT INTO old_stores (id) SELECT generate_series(1, 40)",
        ):
            connection.execute(text(statement))
        connection.execute(text("ANALYZE v1, v3, old_stores"))
    tables = evolve.status(engine).tables
    assert (tables["versions"], tables["app_stores"]) == (100, 40)


def test_the_status_waits_for_no_lock_and_calls_what_is_locked_unknown(engine: Engine) -> None:
    with engine.begin() as other:
        other.execute(text("LOCK TABLE users"))
        tables = evolve.status(engine).tables
    assert tables["users"] is None
    assert tables["roles"] == 0


def test_a_table_of_another_schema_is_not_counted(bare_engine: Engine) -> None:
    with bare_engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA other"))
        connection.execute(text("CREATE TABLE other.users (id integer)"))
    assert evolve.status(bare_engine).tables == {}


@pytest.mark.parametrize("default", ["a;\n\nb", ";", "100 %; \\ :name"])
def test_a_push_runs_each_statement_whole(default: str, bare_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Base.metadata.tables["users"].columns["plan"], "server_default", DefaultClause(default))
    pushed = evolve.push(bare_engine, agree=lambda _: True)
    assert pushed
    assert not [statement for statement in pushed.statements if statement.endswith(";") or not statement]
    with bare_engine.begin() as connection:
        plan = "INSERT INTO users (clerk_user_id) VALUES ('a') RETURNING plan"
        assert connection.scalar(text(plan)) == default
    again = evolve.push(bare_engine, agree=lambda _: True)
    assert again
    assert again.statements == []


# Partitions, older servers, other roles


def test_an_older_server_matches_and_takes_a_push(older_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert evolve.check(older_engine).failed == []
    monkeypatch.setattr(Base.metadata.tables["users"].columns["plan"], "server_default", DefaultClause("it's"))
    monkeypatch.setattr(Base.metadata.tables["gyms"].columns["id"], "type", BigInteger())
    pushed = evolve.push(older_engine, agree=lambda _: True)
    assert pushed
    assert "ALTER SEQUENCE gyms_id_seq AS bigint" in " ".join(pushed.statements)
    again = evolve.push(older_engine, agree=lambda _: True)
    assert again
    assert again.statements == []
    with older_engine.begin() as connection:
        connection.execute(text("CREATE POLICY everyone ON users USING (true)"))
        connection.execute(text("CREATE TABLE stripe_events (id integer)"))
        connection.execute(text("CREATE VIEW emails AS SELECT id, email FROM users WHERE email <> ''"))
    report = evolve.check(older_engine)
    assert report.database
    assert "policy users.everyone is not expected: AS PERMISSIVE FOR ALL TO PUBLIC USING (true)" in report.database
    assert report.foreign == ["table stripe_events", "view emails"]


def test_a_partitioned_table_is_one_difference_and_its_partitions_are_none(engine: Engine) -> None:
    with engine.begin() as connection:
        for statement in (
            "DROP TABLE versions",
            "CREATE TABLE versions (id integer PRIMARY KEY) PARTITION BY RANGE (id)",
            *(f"CREATE TABLE versions_{n} PARTITION OF versions FOR VALUES FROM ({n}) TO ({n + 1})" for n in range(30)),
        ):
            connection.execute(text(statement))
    found = evolve.check(engine)
    assert found.database
    assert any(difference.startswith("table versions differs") for difference in found.database)
    assert not [difference for difference in found.database if "versions_1" in difference]
    assert found.foreign == []
    with pytest.raises(PushRefused, match="table versions is not changed from 'PARTITION BY RANGE"):
        evolve.push(engine, agree=lambda _: True)


def test_a_role_that_owns_nothing_can_check_and_its_push_changes_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = f"reader_{engine.url.database}"
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
        connection.execute(text(f"GRANT USAGE ON SCHEMA tatame_migrations TO {role}"))
        connection.execute(text(f"GRANT SELECT ON ALL TABLES IN SCHEMA tatame_migrations TO {role}"))
    try:
        with Database(engine.url.set(username=role)) as reader:
            assert evolve.check(reader.engine).failed == []
            monkeypatch.setattr(Base.metadata.tables["users"].columns["plan"], "server_default", DefaultClause("x"))
            with pytest.raises(PushFailed, match="must be owner of table users") as caught:
                evolve.push(reader.engine, agree=lambda _: True)
            assert "run the command with the address of postgres in `DATABASE_URL`; or let" in caught.value.fix
            # A name that says nothing of its rows: they cannot be asked.
            assert evolve.status(reader.engine).tables["users"] is None
    finally:
        with engine.begin() as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))


def test_a_view_of_a_migration_stays_and_follows_a_type(
    bare_engine: Engine, add: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(
        upgrade="op.execute('CREATE VIEW degrees AS SELECT degree FROM graduations WHERE degree > 2')",
        downgrade="op.execute('DROP VIEW degrees')",
    )
    assert evolve.generate("nothing") is None
    monkeypatch.setattr(Base.metadata.tables["graduations"].columns["degree"], "type", BigInteger())
    written = evolve.generate("big degrees")
    assert written
    assert written.left_alone == ["view degrees"]
    evolve.migrate(bare_engine)
    report = evolve.check(bare_engine)
    assert (report.failed, report.undeclared) == ([], ["view degrees"])
    evolve.rollback(bare_engine)


def test_what_a_migration_made_and_dropped_later_is_not_foreign(bare_engine: Engine, add: Callable[..., str]) -> None:
    add(upgrade="op.execute('CREATE TABLE old (id integer)')", downgrade="op.execute('DROP TABLE old')")
    evolve.migrate(bare_engine)
    add(upgrade="op.execute('DROP TABLE old')", downgrade="op.execute('CREATE TABLE old (id integer)')")
    pushed = evolve.push(bare_engine, agree=lambda _: True)
    assert pushed
    assert pushed.statements == ["DROP TABLE old"]


def test_a_push_renames_beside_what_no_migration_made(engine: Engine, add: Callable[..., str]) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE stripe_events (plan text)"))
        connection.execute(text("ALTER TABLE users RENAME COLUMN plan TO tier"))
        connection.execute(text("ALTER TABLE users RENAME COLUMN phone TO mobile"))
    add()
    answers = evolve.Answers(renames={"users.tier": "plan", "users.mobile": "phone"})
    pushed = evolve.push(engine, answers, agree=lambda _: True)
    assert pushed
    assert pushed.left_alone == ["table stripe_events"]
    assert sorted(pushed.statements) == [
        "ALTER TABLE users RENAME COLUMN mobile TO phone",
        "ALTER TABLE users RENAME COLUMN tier TO plan",
    ]


DECLARED = [
    "CREATE VIEW emails AS SELECT id, email FROM users WHERE email LIKE '%%@%%'",
    "CREATE VIEW email_count AS SELECT count(*) AS n FROM emails",
    "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER touched BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touch()",
]


@pytest.fixture
def declared() -> Generator[None]:
    """Declare views, a function and a trigger beside the models."""
    elements = [DDL(statement) for statement in DECLARED]  # type: ignore[no-untyped-call]
    for element in elements:
        event.listen(Base.metadata, "after_create", element)
    yield
    for element in elements:
        event.remove(Base.metadata, "after_create", element)


@pytest.mark.usefixtures("declared", "migrations")
def test_what_the_models_create_beside_their_tables_is_generated_in_order(
    bare_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evolve.generate("views")
    monkeypatch.setattr(Base.metadata.tables["users"].columns["email"], "type", String(99))
    written = evolve.generate("another type below the views")
    assert written
    steps = re.findall(r"^(?:DROP|ALTER|CREATE) \w+ (?:\w+)", written.sql.partition("search_path")[2], re.MULTILINE)
    assert [step for step in steps if "SCHEMA" not in step] == [
        "DROP VIEW email_count",
        "DROP VIEW emails",
        "ALTER TABLE users",
        "CREATE VIEW emails",
        "CREATE VIEW email_count",
    ]
    evolve.migrate(bare_engine)
    report = evolve.check(bare_engine)
    assert (report.failed, report.undeclared) == ([], [])


# A migration's own partitions and children, and how a database may differ from them.
FAMILY = (
    "CREATE TABLE parts (id integer, day date) PARTITION BY RANGE (day)",
    *(
        f"CREATE TABLE parts_{year} PARTITION OF parts FOR VALUES FROM ('{year}-01-01') TO ('{year + 1}-01-01')"
        for year in (2025, 2026, 2027)
    ),
    "CREATE TABLE heir () INHERITS (users)",
    "CREATE VIEW emails AS SELECT id, email FROM users",
)
DRIFTS = {
    "ALTER TABLE parts DETACH PARTITION parts_2025": "table parts_2025 differs",
    "ALTER TABLE parts DETACH PARTITION parts_2026;"
    "ALTER TABLE parts ATTACH PARTITION parts_2026 DEFAULT": "table parts_2026 differs",
    "ALTER TABLE parts_2027 ADD CONSTRAINT late CHECK (id > 5)": "constraint parts_2027.late is not expected",
    "ALTER TABLE heir NO INHERIT users": "table heir differs",
    "ALTER VIEW emails ALTER id SET DEFAULT 5": "default emails.id is not expected",
    "COMMENT ON COLUMN emails.id IS 'x'": "comment on view column public.emails.id is not expected",
    "ALTER SEQUENCE users_id_seq SET UNLOGGED": "sequence users_id_seq differs",
    "ALTER TABLE users SET (toast.autovacuum_enabled = off)": "storage parameters users is not expected",
    "ALTER INDEX users_pkey SET (fillfactor = 50)": "index of a constraint users.users_pkey is not expected",
    "ALTER TABLE gyms DISABLE TRIGGER ALL": "internal trigger gyms.gyms_manager_id_users_id_fk #1 is not expected",
}


def test_a_partition_or_a_setting_that_differs_is_found(bare_engine: Engine, add: Callable[..., str]) -> None:
    drop = "DROP VIEW emails; DROP TABLE heir; DROP TABLE parts"
    add(upgrade=f"op.execute({'; '.join(FAMILY)!r})", downgrade=f"op.execute({drop!r})")
    evolve.migrate(bare_engine)
    with bare_engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE parts_2030 PARTITION OF parts FOR VALUES FROM ('2030-01-01') TO (MAXVALUE)")
        )
        connection.execute(text("ALTER TABLE parts_2030 ADD CHECK (id > 0)"))
    assert evolve.check(bare_engine).database == []
    with bare_engine.begin() as connection:
        for statement in DRIFTS:
            connection.exec_driver_sql(statement)
    found = evolve.check(bare_engine).database
    assert found
    for statement, difference in DRIFTS.items():
        assert any(line.startswith(difference) for line in found), statement
    assert not [line for line in found if "parts_2030" in line]


@pytest.mark.usefixtures("migrations")
def test_a_change_without_a_way_back_is_refused_before_a_file_is_written(
    migrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted((migrations / "versions").iterdir())
    monkeypatch.setattr(Base.metadata.tables["users"].columns["created_at"], "type", Time())
    monkeypatch.setattr(Base.metadata.tables["users"].columns["created_at"], "server_default", None)
    with pytest.raises(
        ChangeRejected, match=r"in the rollback, PostgreSQL rejects(?s:.*)ALTER COLUMN created_at TYPE timestamp"
    ) as caught:
        evolve.generate("only times")
    assert "--empty" in caught.value.fix
    assert sorted((migrations / "versions").iterdir()) == files


@pytest.mark.usefixtures("migrations")
def test_a_partition_beside_the_models_is_not_written_and_the_reason_is() -> None:
    table = "CREATE TABLE {} (day date) PARTITION BY RANGE (day)"
    elements = [DDL(table.format("days")), DDL("CREATE TABLE days_1 PARTITION OF days DEFAULT")]  # type: ignore[no-untyped-call]
    for element in elements:
        event.listen(Base.metadata, "after_create", element)
    try:
        with pytest.raises(
            ChangeRefused, match="days_1 is not created: `generate` does not write a partition or a child"
        ):
            evolve.generate("days")
    finally:
        for element in elements:
            event.remove(Base.metadata, "after_create", element)


def test_a_column_of_a_renamed_table_has_the_new_name_of_the_table(engine: Engine, add: Callable[..., str]) -> None:
    renames = "ALTER TABLE users RENAME TO people; ALTER TABLE people RENAME COLUMN plan TO tier"
    add(upgrade=f"op.execute({renames!r})")
    evolve.migrate(engine)
    answers = {"people": "users", "people.tier": "plan"}
    with pytest.raises(
        AnswerInvalid, match=r"`--rename people.tier:plan`.* renamed to users: name its column users\.tier"
    ):
        evolve.push(engine, evolve.Answers(renames=answers), agree=lambda _: True)
    right = {"people": "users", "users.tier": "plan"}
    assert evolve.push(engine, evolve.Answers(renames=right), agree=lambda _: True)
