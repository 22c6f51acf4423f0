"""Migrations as people write them: as a script, outside a transaction, with a COMMIT, with data, and broken files."""

from __future__ import annotations

import importlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine, inspect
from tests.database.scratches import shared_scratch

from tatame_db import evolve
from tatame_db.database.address import readable
from tatame_db.database.pool import Database
from tatame_db.evolve import catalogue
from tatame_db.roles import RightsMissing
from tatame_db.server.wheel import installed_programs

__all__ = ["shared_scratch"]

Add = Callable[..., str]
INDEX = """with op.get_context().autocommit_block():
        op.create_index("users_email_index", "users", ["email"], unique=True, postgresql_concurrently=True{more})"""


def ask(engine: Engine, query: str) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def change(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)


def run_script(engine: Engine, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [installed_programs() / "psql", "-qX", "-v", "ON_ERROR_STOP=1", "-f", "-", readable(engine.url)],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def migrated(engine: Engine, migrations: Path) -> Engine:  # noqa: ARG001, the copy of the migrations to add to
    """An engine for a migrated, empty database."""
    return engine


@pytest.fixture
def copied(bare_engine: Engine) -> Engine:
    """An engine for another migrated, empty database."""
    evolve.migrate(bare_engine)
    return bare_engine


# As a script

WRITTEN = [
    # The session's time zone, an escaped percent sign, a colon, a tab, a quote, a semicolon and an empty line.
    """op.execute("CREATE TABLE moments (at timestamp); INSERT INTO moments VALUES ('2026-11-27 10:00')")
    op.execute("ALTER TABLE moments ALTER COLUMN at TYPE timestamptz")""",
    """op.execute("ALTER TABLE users ADD CONSTRAINT with_at CHECK (email LIKE '%@%')")""",
    r"""op.execute(r"INSERT INTO roles (id) VALUES (':now'), ('a\:b'), (':c:d'), ('100%'), ('d''or')")""",
    r"""op.execute("INSERT INTO roles (id) VALUES ('a\tb;\n\nc -- d')")""",
    """op.bulk_insert(sa.table("roles", sa.column("id")), [{"id": "%s"}, {"id": ":x"}, {"id": "it's"}])""",
    """op.add_column("users", sa.Column("tags", sa.ARRAY(sa.Text()), server_default="{}", nullable=False))""",
    """op.create_check_constraint("no_tabs", "users", sa.text("phone <> E'\\\\t'"))""",
    """op.execute(sa.text("INSERT INTO roles (id) VALUES (:id)").bindparams(id="%(id)s"))""",
]


def test_the_script_does_what_migrate_does(migrated: Engine, copied: Engine, add: Add) -> None:
    revisions = [add(upgrade=upgrade) for upgrade in WRITTEN]
    for engine in (migrated, copied):
        change(engine, f"ALTER DATABASE \"{engine.url.database}\" SET timezone TO 'America/Sao_Paulo'")
        engine.dispose()
    done = run_script(migrated, evolve.migration_sql(migrated))
    assert (done.returncode, done.stderr) == (0, "")
    assert [step.revision for step in evolve.migrate(copied)] == revisions
    assert evolve.migrate(migrated) == []
    for query in (
        "SELECT id FROM roles ORDER BY 1",
        "SELECT extract(epoch FROM at) FROM moments",
        "SELECT revision, checksum FROM tatame_migrations.applied ORDER BY 1",
    ):
        assert ask(migrated, query) == ask(copied, query)
    with migrated.connect() as one, copied.connect() as other:
        assert catalogue.read(one) == catalogue.read(other)


def test_a_script_runs_once_and_only_where_it_continues(migrated: Engine, add: Add) -> None:
    add(upgrade="op.execute(\"INSERT INTO roles (id) VALUES ('once')\")")
    script = evolve.migration_sql(migrated)
    assert run_script(migrated, script).returncode == 0
    again = run_script(migrated, script)
    assert again.returncode == 3
    assert "this script continues from {20261123120000}" in again.stderr
    assert ask(migrated, "SELECT count(*) FROM roles") == [(1,)]


def test_a_script_has_steps_outside_a_transaction(migrated: Engine, add: Add) -> None:
    add(upgrade=INDEX.format(more=""))
    done = run_script(migrated, evolve.migration_sql(migrated))
    assert (done.returncode, done.stderr) == (0, "")
    assert evolve.migrate(migrated) == []
    assert "users_email_index" in {index["name"] for index in inspect(migrated).get_indexes("users")}


@pytest.mark.parametrize(
    ("upgrade", "reason"),
    [
        ("[op.execute('SELECT 1') for _ in op.get_bind().execute(sa.text('SELECT 1'))]", "it reads from the database"),
        ("sa.inspect(op.get_bind()).get_table_names()", "it reads from the database"),
        ("op.get_bind().execute(sa.text('SELECT 1 WHERE false')).scalar() + 1", "it reads from the database"),
        ("op.execute('SELECT 1/0')", "it fails: division by zero"),
        ("op.execute(sa.text(\"SELECT ':now'\"))", "A value is required for bind parameter 'now'"),
    ],
)
def test_what_depends_on_the_database_is_not_written_as_a_script(
    migrated: Engine, add: Add, upgrade: str, reason: str
) -> None:
    revision = add(upgrade=upgrade)
    with pytest.raises(evolve.NoScript, match=reason) as caught:
        evolve.migration_sql(migrated)
    assert caught.value.revision == revision


def test_a_statement_without_its_parameter_is_named(migrated: Engine, add: Add) -> None:
    add(upgrade="op.execute(sa.text(\"SELECT ':now'\"))")
    with pytest.raises(evolve.MigrationFailed, match="SQLAlchemy reports: A value is required for bind parameter"):
        evolve.migrate(migrated)


# Outside a transaction


@pytest.mark.parametrize(
    "upgrade",
    [
        "op.execute('CREATE TABLE half (id integer)')\n    " + INDEX.format(more=""),
        INDEX.format(more="") + "\n    op.execute('CREATE TABLE half (id integer)')",
        INDEX.format(more="") + "\n        op.execute('VACUUM users')",
        "if True:\n        " + INDEX.format(more="").replace("\n", "\n    "),
        "for _ in range(2):\n        " + INDEX.format(more="").replace("\n", "\n    "),
        "context = op.get_context()\n    with context.autocommit_block():\n        op.execute('VACUUM')",
    ],
)
def test_a_step_outside_a_transaction_is_alone_in_its_migration(migrated: Engine, add: Add, upgrade: str) -> None:
    revision = add(upgrade=upgrade)
    before = ask(migrated, "SELECT relname FROM pg_class ORDER BY 1")
    with pytest.raises(evolve.AutocommitMixed) as caught:
        evolve.migrate(migrated)
    assert caught.value.files == [f"{revision}.py"]
    assert ask(migrated, "SELECT relname FROM pg_class ORDER BY 1") == before


def test_a_way_back_outside_a_transaction_is_alone_too(migrated: Engine, add: Add) -> None:
    add(downgrade="op.execute('SELECT 1')\n    " + INDEX.format(more=""))
    with pytest.raises(evolve.AutocommitMixed):
        evolve.migrate(migrated)


def test_indexes_that_can_be_repeated_share_a_block(migrated: Engine, add: Add) -> None:
    more = ", if_not_exists=True"
    first = INDEX.format(more=more)
    add(upgrade=first + "\n" + first.splitlines()[1].replace("email", "phone"))
    assert len(evolve.migrate(migrated)) == 1


def _with_the_same_email(engine: Engine) -> None:
    change(engine, "INSERT INTO users (clerk_user_id, email) VALUES ('a', 'x@y'), ('b', 'x@y')")


def test_an_index_that_fails_leaves_an_invalid_one_that_is_never_called_done(migrated: Engine, add: Add) -> None:
    _with_the_same_email(migrated)
    add(upgrade=INDEX.format(more=", if_not_exists=True"))
    with pytest.raises(evolve.MigrationFailed) as caught:
        evolve.migrate(migrated)
    assert caught.value.invalid == ["users_email_index"]
    assert "There is an invalid index: users_email_index." in str(caught.value)
    assert "DROP INDEX CONCURRENTLY users_email_index" in caught.value.fix
    assert "x@y" not in str(caught.value)
    # The index exists now, so nothing is created, and nothing is done either.
    change(migrated, "DELETE FROM users")
    with pytest.raises(evolve.IndexInvalid, match="users_email_index"):
        evolve.migrate(migrated)
    assert len(evolve.status(migrated).pending) == 1
    with migrated.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("DROP INDEX CONCURRENTLY users_email_index")
    assert len(evolve.migrate(migrated)) == 1


def test_a_failure_says_which_steps_outside_a_transaction_stay(migrated: Engine, add: Add) -> None:
    _with_the_same_email(migrated)
    more = ", if_not_exists=True"
    first = INDEX.format(more=more)
    phone = first.splitlines()[1].replace("email", "phone").replace("unique=True, ", "")
    add(upgrade=first.splitlines()[0] + "\n" + phone + "\n" + first.splitlines()[1])
    with pytest.raises(evolve.MigrationFailed) as caught:
        evolve.migrate(migrated)
    assert [statement.startswith("CREATE INDEX CONCURRENTLY") for statement in caught.value.stayed] == [True]
    assert "users_phone_index" in caught.value.means
    assert "rolled back" not in caught.value.means


# The end of a transaction


@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT",
        "commit; begin",
        "CREATE TABLE half2 (id integer); COMMIT",
        "/* now */ END",
        "-- now\nROLLBACK",
        "BEGIN",
        "ABORT",
        "start transaction",
        "SELECT 'it''s; done'; Commit Work",
        "PREPARE TRANSACTION 'x'",
    ],
)
def test_a_migration_does_not_end_its_transaction(migrated: Engine, add: Add, statement: str) -> None:
    revision = add(upgrade=f"op.execute('CREATE TABLE half (id integer)')\n    op.execute({statement!r})")
    with pytest.raises(evolve.TransactionEnded) as caught:
        evolve.migrate(migrated)
    assert (caught.value.revision, caught.value.statement) == (revision, statement)
    assert not inspect(migrated).has_table("half")
    assert evolve.status(migrated).pending == [revision]


@pytest.mark.parametrize("way", ["commit", "rollback", "get_transaction().commit", "get_transaction().rollback"])
def test_the_connection_of_a_migration_does_not_end_its_transaction(migrated: Engine, add: Add, way: str) -> None:
    revision = add(
        upgrade=f"op.execute('CREATE TABLE half (id integer)')\n    op.get_bind().{way}()\n"
        "    op.get_bind().begin() if op.get_bind().in_transaction() is False else None"
    )
    with pytest.raises((evolve.TransactionEnded, evolve.MigrationRaised)) as caught:
        evolve.migrate(migrated)
    assert f"migration {revision} " in caught.value.what
    assert not inspect(migrated).has_table("half")
    assert evolve.status(migrated).pending == [revision]


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import sys\n    sys.exit()", "SystemExit"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("int('a secret')", "ValueError"),
        ("missing", "NameError: name 'missing' is not defined"),
        ("assert False, 'a secret'", "AssertionError"),
        ("raise BaseException('a secret')", "BaseException"),
    ],
)
def test_what_a_migration_raises_is_named_with_its_place(migrated: Engine, add: Add, code: str, problem: str) -> None:
    revision = add(upgrade=f"op.execute('CREATE TABLE half (id integer)')\n    {code}")
    with pytest.raises(evolve.MigrationRaised) as caught:
        evolve.migrate(migrated)
    assert (caught.value.revision, caught.value.problem) == (revision, problem)
    assert f"{revision}.py, line " in caught.value.place
    assert "a secret" not in str(caught.value)
    assert not inspect(migrated).has_table("half")
    assert evolve.status(migrated).pending == [revision]


@pytest.mark.parametrize(
    "setting",
    [
        "SET search_path = extra",
        "SET SESSION AUTHORIZATION DEFAULT; SET search_path = extra",
        "SET session_replication_role = replica",
        "SET statement_timeout = '7s'",
        "SET lock_timeout = '7s'",
        "SET TimeZone = 'America/Sao_Paulo'",
        "SET tatame.odd = 'x'",
    ],
)
def test_a_setting_of_a_migration_ends_with_it(migrated: Engine, add: Add, setting: str) -> None:
    names = ("search_path", "session_replication_role", "statement_timeout", "lock_timeout", "timezone", "tatame.odd")
    noted = ", ".join(f"current_setting('{name}', true)" for name in names)
    note = f"op.execute(\"CREATE TABLE public.noted_{{}} AS SELECT concat_ws('|', {noted}) AS all\")"
    add(upgrade=note.format("before"))
    add(upgrade=f'op.execute("CREATE SCHEMA extra")\n    op.execute("{setting}")')
    add(upgrade=note.format("after"))
    script = evolve.migration_sql(migrated)
    assert len(evolve.migrate(migrated)) == 3
    [(before,)], [(after,)] = (ask(migrated, f"SELECT * FROM public.noted_{when}") for when in ("before", "after"))
    assert str(after).rstrip("|") == str(before).rstrip("|")
    # The script does the same.
    change(migrated, "DROP TABLE public.noted_before, public.noted_after; DROP SCHEMA extra")
    change(
        migrated,
        f"DELETE FROM tatame_migrations.applied WHERE revision <> '{HEAD}';"
        f" UPDATE tatame_migrations.alembic_version SET version_num = '{HEAD}'",
    )
    done = run_script(migrated, script)
    assert done.returncode == 0, done.stderr
    [(before,)], [(after,)] = (ask(migrated, f"SELECT * FROM public.noted_{when}") for when in ("before", "after"))
    assert str(after).rstrip("|") == str(before).rstrip("|")


def test_a_role_that_may_not_read_the_history_learns_the_grant(migrated: Engine) -> None:
    change(
        migrated, "CREATE ROLE reader_of_tables LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_of_tables"
    )
    try:
        with Database(migrated.url.set(username="reader_of_tables")) as database:
            for act in (evolve.status, evolve.check, evolve.migrate, evolve.migration_sql):
                with pytest.raises(RightsMissing, match="reader_of_tables") as caught:
                    act(database.engine)
            change(migrated, caught.value.statements)
            assert evolve.status(database.engine).pending == []
    finally:
        change(migrated, "DROP OWNED BY reader_of_tables; DROP ROLE reader_of_tables")


def test_an_owner_who_may_not_create_schemas_can_migrate(migrated: Engine, add: Add) -> None:
    change(migrated, "CREATE ROLE keeper LOGIN; GRANT USAGE, CREATE ON SCHEMA public TO keeper")
    change(migrated, "GRANT USAGE ON SCHEMA tatame_migrations TO keeper")
    change(migrated, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tatame_migrations TO keeper")
    add(upgrade="op.execute('CREATE TABLE kept (id integer)')", downgrade="op.execute('DROP TABLE kept')")
    try:
        with Database(migrated.url.set(username="keeper")) as database:
            assert len(evolve.migrate(database.engine)) == 1
            assert len(evolve.rollback(database.engine)) == 1
    finally:
        change(migrated, "DROP OWNED BY keeper; DROP ROLE keeper")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE UNIQUE INDEX one_phone ON users (phone)",
        "ALTER TABLE users ALTER phone TYPE integer USING phone::integer",
        "ALTER TABLE users ALTER name SET NOT NULL",
        "ALTER TABLE users ADD CONSTRAINT short CHECK (length(phone) < 3)",
        "ALTER TABLE users ADD CONSTRAINT apart EXCLUDE USING btree (phone WITH =)",
        "CREATE TABLE phones (phone text PRIMARY KEY);ALTER TABLE users ADD FOREIGN KEY (phone) REFERENCES phones",
        "CREATE TYPE size AS ENUM ('S'); ALTER TABLE users ALTER phone TYPE size USING phone::size",
        "UPDATE users SET gym_id = phone::integer",
    ],
)
def test_no_value_of_a_row_is_in_the_message_of_a_failed_migration(migrated: Engine, add: Add, statement: str) -> None:
    change(migrated, "INSERT INTO users (clerk_user_id, phone) VALUES ('xyzzy1', 'xyzzy2'), ('xyzzy3', 'xyzzy2')")
    add(upgrade="\n    ".join(f'op.execute("{part}")' for part in statement.split(";")))
    with pytest.raises(evolve.MigrationFailed) as caught:
        evolve.migrate(migrated)
    assert "xyzzy" not in str(caught.value)


@pytest.mark.parametrize(
    "statement",
    [
        "DO $$ BEGIN PERFORM 1; END $$",
        "CREATE FUNCTION f() RETURNS integer LANGUAGE plpgsql AS $f$ BEGIN RETURN 1; END; $f$",
        "CREATE FUNCTION f() RETURNS integer BEGIN ATOMIC SELECT 1; SELECT 2; END",
        "INSERT INTO roles (id) VALUES ('; commit;')",
        "SAVEPOINT a; ROLLBACK TO SAVEPOINT a",
        'CREATE TABLE "end; commit" (id integer)',
        "-- commit;\nSELECT 1",
        "SELECT E'\\'; commit; --'",
    ],
)
def test_what_only_looks_like_the_end_of_a_transaction_runs(migrated: Engine, add: Add, statement: str) -> None:
    add(upgrade=f"op.execute(sa.text({statement.replace(':', chr(92) + ':')!r}))")
    assert len(evolve.migrate(migrated)) == 1


# What is lost


def _losses(engine: Engine, act: Callable[..., object]) -> list[str]:
    class Refused(Exception):
        pass

    found: list[str] = []

    def refuse(losses: list[str]) -> None:
        found.extend(losses)
        raise Refused

    try:
        act(engine, agree=refuse)
    except Refused:
        return found
    return []


def test_a_rollback_names_the_rows_of_the_tables_that_it_drops(migrated: Engine) -> None:
    change(migrated, "INSERT INTO roles (id) VALUES ('STUDENT'), ('MANAGER')")
    assert _losses(migrated, evolve.rollback) == ["table roles is dropped, with 2 rows"]
    assert evolve.status(migrated).pending == []


# Locks


def test_a_migration_waits_for_a_lock_briefly_and_names_who_holds_it(
    migrated: Engine, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("tatame_db.evolve.migrate"), "RETRY_PAUSES_SECONDS", (0.01,))
    add(upgrade="op.execute(\"INSERT INTO roles SELECT current_setting('lock_timeout')\")")
    evolve.migrate(migrated)
    assert ask(migrated, "SELECT id FROM roles") == [("500ms",)]
    add(upgrade="op.drop_column('users', 'phone')")
    retries: list[evolve.Retry] = []
    with psycopg.connect(readable(migrated.url), application_name="the app") as holder:
        holder.execute("SELECT FROM users")
        pid, user = holder.info.backend_pid, holder.info.user
        with pytest.raises(evolve.MigrationFailed) as caught:
            evolve.migrate(migrated, timeouts=evolve.Timeouts(lock_timeout_ms=1_500, on_retry=retries.append))
    assert [len(retry.blockers) for retry in retries] == [1]
    expected = f"held by pid {pid} (the app, user {user}, idle in transaction for "
    assert expected in caught.value.message
    assert f"held by {retries[0].blockers[0].split(' for ')[0]}" in caught.value.message


# Broken files

HEAD = "20261123120000"


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"a.py": ("a", "missing")}, "a continues from missing, which no file has"),
        ({"a.py": ("a", "a")}, "Loop is detected|Cycle is detected|Self-loop"),
        ({"a.py": ("a", "b"), "b.py": ("b", "a")}, "Cycle is detected|Loop"),
        ({"a.py": ("a", HEAD), "b.py": ("a", HEAD)}, "Revision a is present more than once"),
        ({"a.py": "raise ZeroDivisionError('x')"}, "a.py raises ZeroDivisionError: x"),
        ({"a.py": "import sys\nsys.exit(4)"}, "a.py raises SystemExit: 4"),
        ({"a.py": "revision, down_revision = 'a', None"}, "no `upgrade` or no `downgrade` in a.py"),
        ({"a.py": "x = 1"}, "has no attribute 'down_revision'"),
        ({"a.py": "\0"}, "null bytes"),
    ],
)
def test_files_that_form_no_history_are_named(
    migrated: Engine, migrations: Path, files: dict[str, tuple[str, str] | str], problem: str
) -> None:
    for name, content in files.items():
        code = content
        if isinstance(content, tuple):
            revision, down = content
            code = f"revision = {revision!r}\ndown_revision = {down!r}\ndef upgrade(): pass\ndef downgrade(): pass\n"
        (migrations / "versions" / name).write_text(str(code))
    acts: list[Callable[[], object]] = [
        lambda: evolve.status(migrated),
        lambda: evolve.check(migrated),
        lambda: evolve.migrate(migrated),
        lambda: evolve.rollback(migrated),
        lambda: evolve.migration_sql(migrated),
        lambda: evolve.generate("x"),
        lambda: evolve.generate_empty("x"),
        lambda: evolve.generate_merge("x"),
        evolve.lint,
    ]
    for act in acts:
        with pytest.raises(evolve.MigrationUnreadable, match=problem):
            act()
