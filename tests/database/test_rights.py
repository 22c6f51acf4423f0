"""Each command with each of the four roles, and with less: it works, or it names a statement that makes it work."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from sqlalchemy import URL
from tests.conftest import run_sql
from tests.database.roles import Roled, with_roles
from tests.database.scratches import shared_scratch
from typer.core import TyperGroup
from typer.testing import CliRunner

from tatame_db import evolve, roles, seed
from tatame_db.cli import commands
from tatame_db.database.address import readable
from tatame_db.database.errors import DatabaseNotCreated
from tatame_db.database.pool import Database
from tatame_db.move.rehearsal.project import SUPABASE_SCHEMA
from tatame_db.roles import RightsMissing
from tatame_db.roles.needs import COMMANDS, DUTIES, OWNING
from tatame_db.testing.runs import Run
from tatame_db.testing.sandbox import Sandbox

__all__ = ["shared_scratch"]

Add = Callable[..., str]
_CHOICES = "--orphans null --misfits null --duplicates first --unknown keep --rejects keep"
_SEED = "seed --replace --yes --gyms 1 --members 1 --days 1"

ARGUMENTS = {
    "up": "up",
    "start": "start",
    "status": "status",
    "seed": _SEED,
    "migrate": "migrate",
    "migrate --sql": "migrate --sql",
    "rollback": "rollback --yes --accept-data-loss",
    "push": "push --yes",
    "check": "check",
    "roles": "roles",
    "doctor": "doctor",
    "move plan": "move plan",
    "move copy": f"move copy {_CHOICES} --replace --emptied",
    "move status": "move status",
    "move rejects": "move rejects",
    "move counts": "move counts",
    "move verify": "move verify",
}
"""How each command is run that asks the database of the address for something."""
ELSEWHERE = {
    "backup --logical": "dumps and restores, which takes seconds; tested there too",
    "distribute": "refuses a server without Citus first; test_distribute.py runs it as two roles",
    "psql": "replaces the process; a test of its own",
    "backup": "copies the whole server; test_backup.py runs it as the backup role, and as one that may not",
    "studio": "serves; its pages have tests of their own",
    "studio --write": "serves, as above",
    **dict.fromkeys(
        ("stop", "down", "logs", "url", "generate", "lint", "move rehearse", "backups", "restore"), "asks no database"
    ),
    **dict.fromkeys(
        ("move follow", "move switch", "move back", "move finish"),
        "opens the target as `move copy` does; their own rights are tested in the tests of the day",
    ),
}

DUTIES_BUT_OWNER = [duty.name for duty in DUTIES if duty is not OWNING]
KINDS = {
    **{duty.name: f"GRANT {{{duty.name.replace('-', '_')}}} TO {{role}}" for duty in DUTIES},
    "only tables": "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
    "nothing": "SELECT",
    "no inheritance": "ALTER ROLE {role} NOINHERIT; GRANT {app} TO {role}",
}


def all_commands() -> set[str]:
    def named(group: TyperGroup, before: str = "") -> Generator[str]:
        for name, command in group.commands.items():
            if isinstance(command, TyperGroup):
                yield from named(command, f"{before}{name} ")
            else:
                yield f"{before}{name}"

    program = typer.main.get_command(commands.app)
    assert isinstance(program, TyperGroup)
    return set(named(program))


def test_each_command_is_run_with_each_role_or_a_reason_says_why_not() -> None:
    assert ARGUMENTS.keys().isdisjoint(ELSEWHERE)
    assert all_commands() <= ARGUMENTS.keys() | ELSEWHERE.keys()
    assert COMMANDS.keys() <= ARGUMENTS.keys() | ELSEWHERE.keys()


@pytest.fixture(scope="module")
def bundled(_tatame_run: Run) -> Generator[tuple[Roled, URL]]:
    with with_roles(_tatame_run.clone()) as roled:
        yield _with_rows(roled), _source(_tatame_run.sandbox)


@pytest.fixture(scope="module")
def older(tls_sandbox: Sandbox) -> Generator[tuple[Roled, URL]]:
    address = tls_sandbox.create()
    with Database(address) as database:
        evolve.migrate(database.engine)
    with with_roles(address) as roled:
        yield _with_rows(roled), _source(tls_sandbox)


def _with_rows(roled: Roled) -> Roled:
    with Database(roled.address) as database, database.engine.begin() as connection:
        seed.seed(connection, seed.SeedPlan(gyms=1, members=1, days=1))
    roled.apply()
    return roled


def _source(sandbox: Sandbox) -> URL:
    source = sandbox.create()
    run_sql(source, SUPABASE_SCHEMA.read_text())
    return source


def run(roled: Roled, source: URL, role: str, arguments: str) -> Any:
    environment = {"DATABASE_URL": readable(roled.at(role)), "SUPABASE_DB_URL": readable(source)}
    return CliRunner().invoke(commands.app, arguments.split(), env=environment, catch_exceptions=False)


def granted(words: str) -> list[str]:
    """Return the statements that a message says to run."""
    return [statement for found in re.findall("`((?:GRANT|ALTER) [^`]*)`", words) for statement in found.split("; ")]


def run_as(words: str) -> str | None:
    """Return the role that a message says to run the command as."""
    found = re.search("with the address of (\\S+) in `DATABASE_URL`", words)
    return found[1] if found else None


@pytest.fixture
def pending(add: Add) -> str:
    return add(
        upgrade="op.execute('ALTER TABLE users ADD extra int'); op.execute('CREATE TABLE extra (id int)')",
        downgrade="op.execute('ALTER TABLE users DROP extra'); op.execute('DROP TABLE extra')",
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", ARGUMENTS)
def test_a_command_works_or_names_the_statement_that_makes_it_work(
    bundled: tuple[Roled, URL], command: str, kind: str, request: pytest.FixtureRequest
) -> None:
    _works_or_is_made_to(*bundled, command, kind, request)


@pytest.mark.parametrize("kind", ["app", "only tables", "no inheritance"])
@pytest.mark.parametrize("command", ["status", "seed", "migrate", "move copy", "move verify"])
def test_the_same_on_postgresql_15_over_tls(
    older: tuple[Roled, URL], command: str, kind: str, request: pytest.FixtureRequest
) -> None:
    _works_or_is_made_to(*older, command, kind, request)


def _works_or_is_made_to(roled: Roled, source: URL, command: str, kind: str, request: pytest.FixtureRequest) -> None:
    if command in {"migrate", "rollback", "migrate --sql"}:
        request.getfixturevalue("pending")
        request.addfinalizer(lambda: _undo(roled))
        if command == "rollback":
            with Database(roled.at(roled.names.owner)) as database:
                evolve.migrate(database.engine)
    if command == "move copy":
        # A member of the owner makes it its own.
        request.addfinalizer(lambda: roled.run("DROP SCHEMA IF EXISTS tatame_move CASCADE"))
    role = roled.role(KINDS[kind])
    done = run(roled, source, role, ARGUMENTS[command])
    lacks, able = granted(done.stderr), run_as(done.stderr)
    if done.exit_code and (lacks or able):
        what, _, fix = done.stderr.partition("\nhint: ")
        assert role in what
        assert fix.strip()
        if kind in DUTIES_BUT_OWNER:
            # It would no longer be its part.
            assert lacks == []
        roled.run(*lacks)
        done = run(roled, source, role if lacks else str(able), ARGUMENTS[command])
        # A plan says beforehand what a copy will lack, and a migration of another role whose its tables should be.
        assert granted(done.stderr.partition("warning: ")[0]) == [] or command == "move plan"
    # 3 is the answer no, such as to a plan with obstacles.
    assert done.exit_code in {0, 3}, done.stderr


def test_a_role_that_may_not_migrate_is_not_asked_about_losses(
    bundled: tuple[Roled, URL], request: pytest.FixtureRequest
) -> None:
    roled, source = bundled
    request.getfixturevalue("pending")
    request.addfinalizer(lambda: _undo(roled))
    with Database(roled.at(roled.names.owner)) as database:
        evolve.migrate(database.engine)
    roled.run("INSERT INTO extra VALUES (1)")
    refused = run(roled, source, roled.names.app, "rollback --yes")
    assert refused.exit_code == 1
    assert f"the role {roled.names.app} has too few rights" in refused.stderr
    assert "accept-data-loss" not in refused.stderr


def test_a_migration_of_a_superuser_says_how_its_tables_get_their_owner(
    changed: Roled, bundled: tuple[Roled, URL], request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("pending")
    superuser = str(changed.address.username)
    warned = run(changed, bundled[1], superuser, "migrate")
    assert warned.exit_code == 0
    assert f"{superuser} has migrated, not {changed.names.owner}; to it belong public.extra" in warned.stderr
    with psycopg.connect(readable(changed.at(changed.names.app)), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT FROM extra")
        checked = run(changed, bundled[1], changed.names.app, "check")
        assert checked.exit_code == 3
        assert f"public.extra belongs to {superuser}" in checked.stdout
        changed.run(*granted(warned.stderr))
        changed.apply()
        connection.execute("SELECT FROM extra")
    again = run(changed, bundled[1], changed.names.app, "check")
    assert "belongs to" not in again.stdout


def _undo(roled: Roled) -> None:
    with Database(roled.address) as database:
        if len(evolve.status(database.engine).pending) == 0:
            evolve.rollback(database.engine)


# --- Other kinds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taken", "command"),
    [
        ("REVOKE CONNECT ON DATABASE {database} FROM PUBLIC, {app}", "status"),
        *(
            ("REVOKE USAGE ON SCHEMA public FROM PUBLIC, {app}", command)
            for command in ("check", "status", "move verify")
        ),
        ("REVOKE SELECT ON tatame_migrations.alembic_version FROM {app}", "status"),
        ("REVOKE SELECT ON tatame_migrations.applied FROM {app}", "check"),
        ("REVOKE SELECT ON users FROM {app}; GRANT SELECT (id, email) ON users TO {app}", "move verify"),
        ("ALTER TABLE users ENABLE ROW LEVEL SECURITY", "move verify"),
        ("REVOKE CREATE ON SCHEMA public FROM {owner}", _SEED),
        ("REVOKE CREATE ON SCHEMA public FROM {owner}", "push --yes"),
        ("ALTER TABLE users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", _SEED),
        ("REVOKE TEMPORARY, CREATE ON DATABASE {database} FROM {owner}", f"move copy {_CHOICES} --replace --emptied"),
        ("ALTER TABLE gyms OWNER TO postgres", _SEED),
    ],
)
def test_a_single_right_that_is_gone_is_named_and_given_back(
    bundled: tuple[Roled, URL], taken: str, command: str, changed: Roled
) -> None:
    roled, source = changed, bundled[1]
    names = vars(roled.names) | {"database": str(roled.address.database)}
    role = names["owner"] if "{owner}" in taken or command == _SEED else names["app"]
    roled.run(taken.format(**names))
    if "push" in command:
        # The push has to create it.
        roled.run("DROP INDEX gyms_manager_id_index")
    done = run(roled, source, role, command)
    assert done.exit_code == 1
    assert role in done.stderr
    # Row-level security hides nothing from the owner, and it is not the app's part to see all rows.
    able = run_as(done.stderr) if "ROW LEVEL" in taken and role == names["app"] else None
    assert bool(granted(done.stderr)) == (able is None)
    roled.run(*granted(done.stderr))
    assert run(roled, source, able or role, command).exit_code in {0, 3}


@pytest.fixture
def changed(_tatame_run: Run) -> Generator[Roled]:
    """A database with the four roles, to take rights from them."""
    with with_roles(_tatame_run.clone()) as roled:
        roled.apply()
        yield roled


def test_a_membership_without_inheritance_and_rights_on_columns_are_mentioned(bundled: tuple[Roled, URL]) -> None:
    roled, _ = bundled
    member = roled.role(KINDS["no inheritance"], "GRANT SELECT (revision) ON tatame_migrations.applied TO {role}")
    with Database(roled.at(member)) as database, pytest.raises(RightsMissing) as caught:
        evolve.status(database.engine)
    assert f"it is a member of {roled.names.app} without inheriting its rights" in caught.value.what
    assert "it has the privilege on some columns of tatame_migrations.applied" in caught.value.what


def test_a_refusal_of_a_trigger_is_no_missing_right(changed: Roled) -> None:
    roled = changed
    roled.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no %', NEW USING ERRCODE = '42501'; END $$",
        "CREATE TRIGGER refuse BEFORE INSERT ON gyms FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    with (
        Database(roled.at(roled.names.owner)) as database,
        pytest.raises(roles.StatementForbidden) as caught,
        database.engine.begin() as connection,
    ):
        seed.seed(connection, seed.SeedPlan(gyms=1, members=1, days=1))
    assert str(caught.value).count(" no ") == 0


def test_the_test_kit_names_the_right_to_create_databases(bundled: tuple[Roled, URL]) -> None:
    roled, _ = bundled
    poor = roled.role()

    def sandbox() -> Sandbox:
        return Sandbox(roled.at(poor), "1" * 12)

    found = sandbox()
    with pytest.raises(DatabaseNotCreated) as caught:
        found.create()
    roled.run(*granted(caught.value.fix))
    found.drop(str(found.create().database))
    found.close()


def test_psql_connects_or_names_the_right(changed: Roled, directory: Path) -> None:
    roled = changed
    poor = roled.role()
    roled.run(f'REVOKE CONNECT ON DATABASE "{roled.address.database}" FROM PUBLIC')
    from tests.acceptance.conftest import COMMAND

    environment = {"DATABASE_URL": readable(roled.at(poor)), "TATAME_DATA_DIR": str(directory / "data")}
    environment |= {"PATH": os.environ["PATH"]}

    def psql() -> subprocess.CompletedProcess[str]:
        command = [str(COMMAND), "psql", "-c", "SELECT 1"]
        return subprocess.run(command, env=environment, check=False, capture_output=True, text=True)

    refused = psql()
    assert refused.returncode == 1
    roled.run(*granted(refused.stderr))
    assert psql().returncode == 0
