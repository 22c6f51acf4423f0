"""A COMMIT that waits, as for a synchronous standby: a command that is stopped then does not report a rollback."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import psycopg
import pytest
from psycopg import _cursor_base, generators
from psycopg.pq.abc import PGconn
from sqlalchemy import URL
from tests.conftest import run_sql
from typer.testing import CliRunner, Result

from tatame_db.cli import commands
from tatame_db.database.address import readable

SECONDS = 60
STATEMENTS = 25
"""In the middle of a seed."""
NAMES = {"owner": "lost_owner", "app": "lost_app", "read-only": "lost_read", "backup": "lost_backup"}
ROLES = " ".join(f"--{duty} {name}" for duty, name in NAMES.items())
ROWS = "SELECT count(*) > 0 FROM checkins"
COMMANDS = {
    "migrate": ("", "SELECT to_regclass('public.lost') IS NOT NULL"),
    "rollback --yes --accept-data-loss": ("", "SELECT to_regclass('public.users') IS NULL"),
    "push --yes": (
        "ALTER TABLE users DROP COLUMN phone",
        "SELECT count(*) = 1 FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = 'phone'",
    ),
    "seed --gyms 1 --members 5 --days 5": ("", ROWS),
    "seed --replace --yes --gyms 1 --members 5 --days 5": ("INSERT INTO users (clerk_user_id) VALUES ('a')", ROWS),
    "up": ("", ROWS),
    f"roles --apply --yes {ROLES}": ("", "SELECT count(*) = 1 FROM pg_roles WHERE rolname = 'lost_app'"),
}
"""The commands that change the database; what is done before each, and whether it has committed."""


def invoke(arguments: str, address: URL) -> Result:
    return CliRunner().invoke(commands.app, arguments.split(), env={"DATABASE_URL": readable(address)})


def scalar(address: URL, query: str) -> object:
    with psycopg.connect(readable(address)) as connection:
        row = connection.execute(query.encode()).fetchone()
        return row and row[0]


@pytest.fixture
def unanswered(address: URL) -> Generator[URL]:
    """A database whose commits wait for a standby that does not exist, once `wait` has run."""
    yield address
    run_sql(address, "ALTER SYSTEM RESET synchronous_standby_names")
    run_sql(address, "SELECT pg_reload_conf()")
    if scalar(address, "SELECT count(*) FROM pg_roles WHERE rolname = 'lost_app'"):
        for name in NAMES.values():
            run_sql(address, f"DROP OWNED BY {name}; DROP ROLE {name}")


def let_commits_wait(address: URL) -> None:
    run_sql(address, "ALTER SYSTEM SET synchronous_standby_names = 'missing'")
    run_sql(address, "SELECT pg_reload_conf()")
    # The other databases of the server do not wait.
    run_sql(address, f'ALTER DATABASE "{address.database}" SET synchronous_commit = on')


def at_commit(address: URL, act: Callable[[int], object]) -> threading.Thread:
    """Do something once, as soon as a COMMIT waits for the standby, with the process of its session."""
    waiting = f"SELECT min(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND datname = '{address.database}'"

    def watch() -> None:
        deadline = time.monotonic() + SECONDS
        with psycopg.connect(readable(address), autocommit=True) as connection:
            while time.monotonic() < deadline:
                [pid] = connection.execute(waiting.encode()).fetchone() or [None]
                if pid is not None:
                    act(pid)
                    return
                time.sleep(0.01)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.parametrize("arguments", COMMANDS)
@pytest.mark.parametrize("is_lost", [False, True], ids=["interrupted", "lost"])
def test_a_command_that_is_stopped_in_its_commit_does_not_report_a_rollback(
    unanswered: URL, add: Callable[..., str], arguments: str, is_lost: bool
) -> None:
    preparation, committed = COMMANDS[arguments]
    if arguments == "migrate":
        add(upgrade="op.execute('CREATE TABLE lost ()')")
    run_sql(unanswered, preparation or "SELECT 1")
    assert scalar(unanswered, committed) is False
    let_commits_wait(unanswered)

    def stop(pid: int) -> None:
        if is_lost:
            run_sql(unanswered, f"SELECT pg_terminate_backend({pid})")
        else:
            os.kill(os.getpid(), signal.SIGINT)

    stopping = at_commit(unanswered, stop)
    done = invoke(arguments, unanswered)
    stopping.join()
    assert "rolled back" not in done.output
    assert "`tatame-db status`" in done.output
    if is_lost:
        assert "Either all of it was committed, or nothing" in done.output
    else:
        assert "interrupted: either all of the last transaction was committed, or nothing of it" in done.output
    assert done.exit_code == (1 if is_lost else 130), done.output
    # Nothing is reported as done that is not known to be.
    assert " s\n" not in done.output
    assert "seeded" not in done.output
    assert scalar(unanswered, committed) is True


def test_an_interrupt_between_a_statement_and_its_answer_is_no_traceback(
    unanswered: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The rollback fails then, because the connection still expects the answer.
    sent, send = 0, generators.execute

    def interrupt(server: PGconn) -> Any:
        nonlocal sent
        sent += 1
        if sent == STATEMENTS:
            signal.raise_signal(signal.SIGINT)
        return send(server)

    assert invoke("seed --gyms 1 --members 5 --days 5", unanswered).exit_code == 0
    before = scalar(unanswered, "SELECT count(*) FROM checkins")
    with monkeypatch.context() as patch:
        patch.setattr(_cursor_base, "execute", interrupt)
        done = invoke("seed --replace --yes", unanswered)
    assert done.exit_code == 130, done.output
    assert done.output.endswith("interrupted: unfinished changes to the database were rolled back\n")
    assert scalar(unanswered, "SELECT count(*) FROM checkins") == before


def interrupted_at_lock(address: URL, arguments: str) -> Result:
    """Interrupt a command that waits for the table `users`."""
    waiting = (
        f"SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = '{address.database}'"
    )

    def stop() -> None:
        deadline = time.monotonic() + SECONDS
        while not scalar(address, waiting) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    with psycopg.connect(readable(address)) as holder:
        holder.execute("LOCK TABLE users IN ROW EXCLUSIVE MODE")
        stopping = threading.Thread(target=stop)
        stopping.start()
        done = invoke(arguments, address)
        stopping.join()
    return done


def test_a_migration_that_is_stopped_before_its_commit_is_rolled_back(unanswered: URL, add: Callable[..., str]) -> None:
    first = add(upgrade="op.execute('CREATE TABLE first ()')")
    add(upgrade="op.execute('CREATE TABLE lost ()'); op.execute('LOCK TABLE users')")
    done = interrupted_at_lock(unanswered, "migrate --lock-timeout 60000")
    assert done.exit_code == 130, done.output
    assert done.output.startswith(f"{first}  ")
    assert done.output.endswith(" s\n\ninterrupted: unfinished changes to the database were rolled back\n")
    assert scalar(unanswered, "SELECT to_regclass('first') IS NOT NULL AND to_regclass('lost') IS NULL")


def test_an_interrupt_outside_a_transaction_names_the_steps_that_stay(unanswered: URL, add: Callable[..., str]) -> None:
    add(
        upgrade="""with op.get_context().autocommit_block():
        op.create_index("lost", "users", ["email"], postgresql_concurrently=True, if_not_exists=True)"""
    )
    done = interrupted_at_lock(unanswered, "migrate --lock-timeout 60000")
    assert done.exit_code == 130, done.output
    notes = "these steps ran outside a transaction and are not rolled back:\n\n    CREATE INDEX CONCURRENTLY"
    assert notes in done.output
    assert "were rolled back" not in done.output


def test_a_constraint_that_fails_at_the_commit_undoes_its_migration_alone(
    unanswered: URL, add: Callable[..., str]
) -> None:
    run_sql(unanswered, "INSERT INTO users (clerk_user_id) VALUES ('a'), ('b')")
    first = add(upgrade="op.execute('CREATE TABLE lost (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)')")
    add(upgrade="op.execute('INSERT INTO lost SELECT 1 FROM users')")
    done = invoke("migrate", unanswered)
    assert done.exit_code == 1
    assert "failed at\n\n    COMMIT\n\nPostgreSQL reports: duplicate key" in done.output
    assert f"The migration was rolled back. Applied before it: {first}.\n" in done.output
    assert done.output.count(" s\n") == 1


WRITES_TWICE = """
CREATE TABLE audit (id int UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION note_row() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO audit VALUES (1), (1); RETURN NULL; END';
CREATE TRIGGER note AFTER INSERT ON gyms FOR EACH STATEMENT EXECUTE FUNCTION note_row();
CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO audit VALUES (1), (1); END';
CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION note()
"""


@pytest.mark.parametrize("arguments", [one for one in COMMANDS if one.startswith(("push", "seed", "up", "roles"))])
def test_a_constraint_that_is_deferred_to_the_commit_fails_in_words(unanswered: URL, arguments: str) -> None:
    preparation, committed = COMMANDS[arguments]
    run_sql(unanswered, preparation or "SELECT 1")
    run_sql(unanswered, WRITES_TWICE)
    done = invoke(arguments, unanswered)
    assert (done.exit_code, type(done.exception)) == (1, SystemExit), done.output
    assert 'duplicate key value violates unique constraint "audit_id_key"' in done.output
    assert "\n\nhint: " in done.output
    assert scalar(unanswered, committed) is False
    if not arguments.startswith("seed"):
        return
    run_sql(unanswered, "DROP EVENT TRIGGER note; ALTER TABLE gyms DISABLE TRIGGER note")
    run_sql(
        unanswered,
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''secret''; END';
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON gyms DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION refuse()
    """,
    )
    done = invoke(arguments, unanswered)
    assert "the database rejected the sample data: a trigger raises an error (SQLSTATE P0001)" in done.output
    assert "secret" not in done.output
    assert scalar(unanswered, committed) is False


def test_a_wait_that_is_cancelled_is_a_commit_that_no_standby_has(unanswered: URL) -> None:
    let_commits_wait(unanswered)
    cancelling = at_commit(unanswered, lambda pid: run_sql(unanswered, f"SELECT pg_cancel_backend({pid})"))
    done = invoke("seed --gyms 1 --members 5 --days 5", unanswered)
    cancelling.join()
    assert done.exit_code == 0, done.output
    assert scalar(unanswered, ROWS) is True
