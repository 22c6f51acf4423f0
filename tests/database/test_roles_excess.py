"""What the four roles can do beyond their parts, from whichever source: it is taken away, or it is named."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from tests.database.roles import Roled, with_roles
from tests.database.scratches import shared_scratch
from typer.testing import CliRunner

from tatame_db import evolve
from tatame_db.cli import commands
from tatame_db.database.address import readable
from tatame_db.database.pool import Database
from tatame_db.roles import Names, Roles, RolesRejected, ScriptUnprintable, as_text, list_roles, script
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.testing.runs import Run
from tatame_db.testing.sandbox import Sandbox

__all__ = ["shared_scratch"]

PAGE = Path(__file__).parents[2] / "docs" / "run-in-production.md"
_TABLES = "ALL TABLES IN SCHEMA public"


@pytest.fixture
def bare(_tatame_run: Run) -> Generator[Roled]:
    """A migrated database of the bundled server without the four roles."""
    with with_roles(_tatame_run.clone()) as roled:
        yield roled


@pytest.fixture
def bundled(bare: Roled) -> Roled:
    """The same with the four roles."""
    bare.apply()
    return bare


@pytest.fixture
def older(tls_sandbox: Sandbox) -> Generator[Roled]:
    """The same on PostgreSQL 15."""
    address = tls_sandbox.create()
    with Database(address) as database:
        evolve.migrate(database.engine)
    with with_roles(address) as roled:
        roled.apply()
        yield roled


def filled(roled: Roled, statement: str) -> str:
    """Fill in the names; `{group}` is a role of another program."""
    while "{group}" in statement and not roled.others:
        roled.role()
    names = vars(roled.names) | {"database": roled.address.database, "group": "".join(roled.others[:1])}
    return statement.format(**names)


def listed(roled: Roled) -> Roles:
    with Database(roled.address) as database, database.engine.connect() as connection:
        return list_roles(connection, roled.names)


def refused(roled: Roled, role: str, statement: str) -> bool:
    """Return whether a role lacks the right to run a statement; what it changes is rolled back."""
    autocommit = statement.startswith("CREATE DATABASE")
    with psycopg.connect(readable(roled.at(role)), autocommit=autocommit) as connection:
        try:
            connection.execute(filled(roled, statement).encode())
        except psycopg.errors.InsufficientPrivilege:
            return True
        except psycopg.Error:
            return False
        finally:
            connection.rollback()
    return False


TAKEN_AWAY = [
    # What the role was granted itself.
    ("GRANT CREATE ON SCHEMA public TO {app}", "app", "CREATE TABLE mine (id int)"),
    ("GRANT CREATE, TEMPORARY ON DATABASE {database} TO {app}", "app", "CREATE SCHEMA mine"),
    ("GRANT CREATE, TEMPORARY ON DATABASE {database} TO {read_only}", "read_only", "CREATE TEMP TABLE mine (id int)"),
    (f"GRANT ALL ON {_TABLES} TO {{app}}", "app", "TRUNCATE notifications"),
    ("GRANT UPDATE (email) ON users TO {read_only}", "read_only", "UPDATE users SET email = NULL"),
    ("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {app}", "app", "SELECT setval('users_id_seq', 1)"),
    (
        "GRANT INSERT ON ALL TABLES IN SCHEMA tatame_migrations TO {backup}",
        "backup",
        "INSERT INTO tatame_migrations.applied (revision) VALUES ('1')",
    ),
    (
        "GRANT SELECT ON users TO {read_only} WITH GRANT OPTION; SET ROLE {read_only};"
        " GRANT SELECT ON users TO {backup}, {group}",
        "read_only",
        # Without the option, PostgreSQL warns and grants nothing.
        "DO 'BEGIN IF NOT has_table_privilege(''users'', ''SELECT WITH GRANT OPTION'')"
        " THEN RAISE insufficient_privilege; END IF; END'",
    ),
    # What PUBLIC was granted.
    (f"GRANT ALL ON {_TABLES} TO PUBLIC", "read_only", "TRUNCATE notifications"),
    ("GRANT UPDATE (email) ON users TO PUBLIC", "read_only", "UPDATE users SET email = NULL"),
    ("GRANT CREATE ON SCHEMA public, tatame_migrations TO PUBLIC", "app", "CREATE TABLE tatame_migrations.mine ()"),
    ("GRANT CREATE, TEMPORARY ON DATABASE {database} TO PUBLIC", "read_only", "CREATE SCHEMA mine"),
    # Groups.
    ("GRANT pg_execute_server_program TO {app}", "app", "COPY (SELECT 1) TO PROGRAM 'cat'"),
    ("GRANT pg_write_server_files, pg_signal_backend TO {backup}", "backup", "COPY (SELECT 1) TO '/dev/null'"),
    ("GRANT pg_write_all_data TO {read_only}", "read_only", "DELETE FROM notifications"),
    ("GRANT {app} TO {read_only}", "read_only", "DELETE FROM notifications"),
    ("ALTER ROLE {read_only} NOINHERIT; GRANT {app} TO {read_only}", "read_only", "SET ROLE {app}"),
    # Attributes.
    ("ALTER ROLE {app} CREATEDB", "app", "CREATE DATABASE mine TEMPLATE no_such"),
    (
        "ALTER ROLE {read_only} REPLICATION",
        "read_only",
        "SELECT pg_create_physical_replication_slot('mine', false, true)",
    ),
    # Ownership of what is the owner's.
    ("ALTER TABLE users OWNER TO {app}", "app", "DROP TABLE users CASCADE"),
    ("CREATE TABLE mine (id serial); ALTER TABLE mine OWNER TO {app}", "app", "DROP TABLE mine"),
    ("ALTER SCHEMA tatame_migrations OWNER TO {app}", "app", "CREATE TABLE tatame_migrations.mine ()"),
]


@pytest.mark.parametrize(("statement", "role", "harm"), TAKEN_AWAY)
def test_a_right_beyond_the_part_of_a_role_is_taken_away(bundled: Roled, statement: str, role: str, harm: str) -> None:
    _is_taken_away(bundled, statement, role, harm)


@pytest.mark.parametrize(("statement", "role", "harm"), [TAKEN_AWAY[number] for number in (0, 7, 8, 12, 16)])
def test_the_same_on_postgresql_15(older: Roled, statement: str, role: str, harm: str) -> None:
    _is_taken_away(older, statement, role, harm)


def _is_taken_away(roled: Roled, statement: str, role: str, harm: str) -> None:
    name = vars(roled.names)[role]
    roled.run(filled(roled, statement))
    assert not refused(roled, name, harm)
    assert listed(roled).beyond
    applied = roled.apply()
    assert applied.changes
    assert applied.remaining == []
    assert refused(roled, name, harm)
    again = roled.apply()
    assert (again.changes, again.remaining) == ([], [])
    assert listed(roled).beyond == []


REMAINS = [
    # A group of another program.
    ("GRANT TRUNCATE ON notifications TO {group}; GRANT {group} TO {app}", "app", "TRUNCATE notifications"),
    (
        "GRANT DELETE ON notifications TO {group}; ALTER ROLE {read_only} NOINHERIT; GRANT {group} TO {read_only}",
        "read_only",
        "SET ROLE {group}; DELETE FROM notifications",
    ),
    ("ALTER ROLE {group} CREATEDB; GRANT {group} TO {app}", "app", "SET ROLE {group}; CREATE DATABASE x TEMPLATE y"),
    ("GRANT pg_write_all_data TO {group}; GRANT {group} TO {read_only}", "read_only", "DELETE FROM notifications"),
    # Ownership.
    ("ALTER SCHEMA public OWNER TO {app}", "app", "CREATE TABLE mine (id int)"),
    ("ALTER DATABASE {database} OWNER TO {read_only}", "read_only", "CREATE TABLE mine (id int)"),
    ("ALTER SCHEMA public OWNER TO {group}; GRANT {group} TO {app}", "app", "CREATE TABLE mine (id int)"),
    # The owner may be the administrator of a service.
    ("GRANT pg_execute_server_program TO {owner}", "owner", "COPY (SELECT 1) TO PROGRAM 'cat'"),
    ("ALTER ROLE {owner} CREATEROLE", "owner", "CREATE ROLE one_more"),
    # Another role than the owner granted it.
    (
        "GRANT DELETE ON notifications TO {group} WITH GRANT OPTION; SET ROLE {group};"
        " GRANT DELETE ON notifications TO {read_only}",
        "read_only",
        "DELETE FROM notifications",
    ),
]


@pytest.mark.parametrize(("statement", "role", "harm"), REMAINS)
def test_what_may_concern_others_is_named_with_the_statement_that_takes_it_away(
    bundled: Roled, statement: str, role: str, harm: str
) -> None:
    _remains(bundled, statement, role, harm)


@pytest.mark.parametrize(("statement", "role", "harm"), [REMAINS[number] for number in (0, 5, 9)])
def test_the_same_remains_on_postgresql_15(older: Roled, statement: str, role: str, harm: str) -> None:
    _remains(older, statement, role, harm)


def _remains(roled: Roled, statement: str, role: str, harm: str) -> None:
    name = vars(roled.names)[role]
    roled.run(filled(roled, statement))
    assert not refused(roled, name, harm.partition(";")[0])
    remaining = roled.apply().remaining
    assert remaining
    for sentence in remaining:
        assert sentence.startswith(f"{name} has ")
        roled.run(*re.findall("`(.*)`", sentence))
    assert refused(roled, name, harm)
    assert roled.apply().remaining == []


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} GRANT ALL ON TABLES TO {read_only}, PUBLIC",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT ALL ON TABLES TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT TRUNCATE, DELETE ON TABLES TO {read_only}",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT SELECT ON TABLES TO {read_only} WITH GRANT"
        " OPTION",
    ],
)
def test_later_tables_are_no_more_open_than_those_of_now(bundled: Roled, statement: str) -> None:
    bundled.run(filled(bundled, statement))
    assert bundled.apply().remaining == []
    with psycopg.connect(readable(bundled.at(bundled.names.owner))) as connection:
        connection.execute("CREATE TABLE later (id int)")
    for harm in ("DELETE FROM later", "TRUNCATE later"):
        assert refused(bundled, bundled.names.read_only, harm)
    assert not refused(bundled, bundled.names.read_only, "SELECT FROM later")
    assert bundled.ask(
        "SELECT count(*) FROM pg_class, aclexplode(relacl) WHERE relname = 'later' AND is_grantable"
        " AND grantee <> relowner"
    ) == [(0,)]


def test_the_statements_of_the_list_take_away_what_it_names(bundled: Roled) -> None:
    bundled.run(
        filled(bundled, "CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT 2 * $1'"),
        "CREATE AGGREGATE total(int) (sfunc = int4pl, stype = int)",
        filled(bundled, "ALTER FUNCTION twice(int) OWNER TO {app}; ALTER AGGREGATE total(int) OWNER TO {app}"),
        filled(bundled, "ALTER TABLE users OWNER TO {read_only}; GRANT TRUNCATE ON users, gyms TO PUBLIC"),
        filled(bundled, "ALTER ROLE {backup} CREATEDB; GRANT CREATE ON DATABASE {database} TO {backup}"),
    )
    sentences = listed(bundled).beyond
    assert len(sentences) == 4
    bundled.run(*(statement for sentence in sentences for statement in re.findall("`(.*)`", sentence)))
    assert listed(bundled).beyond == []


def test_roles_that_swap_their_parts_have_nothing_of_the_part_before(bundled: Roled) -> None:
    names = bundled.names
    bundled.apply(Names(names.app, names.owner, names.backup, names.read_only))
    for _ in range(2):
        applied = bundled.apply()
        assert applied.remaining == []
    assert applied.changes == []
    for harm in ("CREATE TABLE mine (id int)", "CREATE SCHEMA mine", "DROP TABLE users CASCADE", "TRUNCATE users"):
        assert refused(bundled, names.app, harm)
    assert bundled.ask(f"SELECT count(*) FROM pg_default_acl WHERE defaclrole <> '{names.owner}'::regrole") == [(0,)]
    assert bundled.ask(f"SELECT rolreplication FROM pg_roles WHERE rolname = '{names.read_only}'") == [(False,)]


def test_groups_that_only_read_statistics_are_left_alone(bundled: Roled) -> None:
    bundled.run(
        filled(bundled, "GRANT pg_monitor TO {app}; GRANT pg_read_all_data TO {backup}; GRANT {group} TO {app}")
    )
    applied = bundled.apply()
    assert (applied.changes, applied.remaining) == ([], [])


def test_an_event_trigger_that_refuses_a_grant_ends_in_words(bare: Roled) -> None:
    bare.run(
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no grants''; END'",
        "CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('GRANT') EXECUTE FUNCTION refuse()",
    )
    with pytest.raises(RolesRejected, match=r"PostgreSQL rejected `GRANT .*`: no grants"):
        bare.apply()
    assert bare.ask(f"SELECT FROM pg_roles WHERE rolname = '{bare.names.app}'") == []


def test_the_page_says_how_no_role_stores_large_objects(bundled: Roled) -> None:
    [statement] = re.findall("`(REVOKE EXECUTE ON FUNCTION .*?)`", PAGE.read_text(), re.DOTALL)
    harms = [
        "SELECT lo_create(0)",
        "SELECT lo_creat(-1)",
        "SELECT lo_from_bytea(0, '')",
        "SELECT lo_import('/dev/null')",
    ]
    stored = [harm for harm in harms if not refused(bundled, bundled.names.read_only, harm)]
    assert stored == harms[:3]
    bundled.run(statement)
    assert [harm for harm in harms if not refused(bundled, bundled.names.read_only, harm)] == []


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("CREATE SCHEMA other; CREATE TABLE other.things ()", "may not read other.things"),
        (
            "CREATE TABLE things (); ALTER TABLE things ENABLE ROW LEVEL SECURITY; GRANT SELECT ON things TO {backup}",
            "a policy may hide rows of public.things",
        ),
        ("SELECT lo_create(7)", "may not read 1 large object"),
    ],
)
def test_a_role_backs_up_only_if_pg_dump_works(
    bundled: Roled, server: EmbeddedServer, statement: str, words: str
) -> None:
    def dumps() -> bool:
        address = readable(bundled.at(bundled.names.backup))
        dump = subprocess.run([server.program("pg_dump"), address], check=False, capture_output=True)
        return dump.returncode == 0

    def answer() -> str:
        return next(role.backs_up for role in listed(bundled).roles if role.name == bundled.names.backup)

    assert (listed(bundled).unable, answer(), dumps()) == ([], "yes", True)
    bundled.run(filled(bundled, statement))
    [sentence] = listed(bundled).unable
    assert words in sentence
    assert (answer(), dumps()) == ("no", False)
    bundled.run(*re.findall("`(.*)`", sentence))
    assert (listed(bundled).unable, answer(), dumps()) == ([], "yes", True)
    assert bundled.apply().remaining == []


def test_a_view_of_another_program_keeps_its_owner(bare: Roled) -> None:
    bare.run(
        "CREATE SCHEMA other; CREATE TABLE other.things (); CREATE VIEW theirs AS SELECT FROM other.things",
        "CREATE MATERIALIZED VIEW theirs_too AS SELECT FROM theirs",
        "CREATE VIEW names AS SELECT first_name FROM users",
    )
    bare.apply()
    owned = bare.ask(
        f"SELECT relname FROM pg_class WHERE relkind IN ('v', 'm') AND relowner = '{bare.names.owner}'::regrole"
    )
    assert owned == [("names",)]


def test_sql_with_what_a_terminal_would_obey_is_not_printed(bare: Roled) -> None:
    bare.run('CREATE SEQUENCE "a\x1b[31mb"')
    with Database(bare.address) as database, database.engine.connect() as connection:
        found = script(connection, bare.names)
    with pytest.raises(ScriptUnprintable, match=r"\\x1b"):
        as_text(found)
    assert bare.apply().remaining == []


def test_default_privileges_of_another_program_make_no_app_with_four_roles(bare: Roled) -> None:
    maker, reader = bare.role("GRANT CREATE ON SCHEMA public TO {role}"), bare.role()
    bare.run(f"ALTER DEFAULT PRIVILEGES FOR ROLE {maker} IN SCHEMA public GRANT ALL ON TABLES TO {reader}")
    with Database(bare.address) as database:
        with database.engine.connect() as connection:
            found = list_roles(connection)
        assert (found.in_use, found.beyond, found.lacking) == (False, [], [])
        assert evolve.check(database.engine).failed == []


def test_the_hint_for_a_password_names_the_role_as_psql_reads_it(bare: Roled) -> None:
    bare.names = replace(bare.names, app="Big App")
    options = ["--owner", bare.names.owner, "--app", "Big App", "--read-only", bare.names.read_only]
    command = ["roles", "--apply", "--yes", *options, "--backup", bare.names.backup]
    done = CliRunner().invoke(commands.app, command, env={"DATABASE_URL": readable(bare.address)})
    assert done.exit_code == 0
    assert '`\\password "Big App"`' in done.stderr
