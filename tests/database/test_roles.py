"""The four roles on the bundled server, and on a PostgreSQL 15 over TLS: what they get, and who may give it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Generator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL, text
from sqlalchemy.exc import ProgrammingError
from tests.conftest import OLDER_PROGRAMS
from tests.database.roles import Roled, with_roles
from tests.database.scratches import shared_scratch

from tatame_db import evolve, roles, seed
from tatame_db.database.address import readable
from tatame_db.database.pool import Database
from tatame_db.roles import Names, RightsNotGranted, RoleNameInvalid, RolesBusy, RoleUnsuitable
from tatame_db.roles.needs import APP, BACKUP, DUTIES, OWNING, READ_ONLY, Duty, Need
from tatame_db.roles.rights import missing_rights, rows_of
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.testing.runs import Run

__all__ = ["shared_scratch"]

Add = Callable[..., str]
HOSTILE = Names('ow"ner', "app'; DROP TABLE users; --", "$do0$ %s :name", "Back up")


@pytest.fixture(params=["bundled", "older over TLS"])
def bare(request: pytest.FixtureRequest, _tatame_run: Run) -> Generator[Roled]:
    """A migrated database without the four roles."""
    if request.param == "bundled":
        address = _tatame_run.clone()
    else:
        address = request.getfixturevalue("tls_sandbox").create()
        with Database(address) as database:
            evolve.migrate(database.engine)
    with with_roles(address) as roled:
        yield roled


@pytest.fixture
def roled(bare: Roled) -> Roled:
    """A migrated database with the four roles."""
    assert bare.apply().created == list(bare.names.by_duty.values())
    return bare


@pytest.fixture
def bundled(_tatame_run: Run) -> Generator[Roled]:
    """A migrated database of the bundled server with the four roles."""
    with with_roles(_tatame_run.clone()) as found:
        found.apply()
        yield found


@pytest.fixture
def empty(_tatame_run: Run) -> Generator[Roled]:
    """A database of the bundled server without tables."""
    with with_roles(_tatame_run.sandbox.create()) as found:
        yield found


@pytest.fixture(scope="module")
def shared(_tatame_run: Run) -> Generator[Roled]:
    """The same for the tests that change nothing of it."""
    with with_roles(_tatame_run.clone()) as found:
        found.apply()
        yield found


def missing(roled: Roled, needs: tuple[Need, ...], role: str) -> set[tuple[str, str, str | None]]:
    with Database(roled.address) as database, database.engine.connect() as connection:
        found = missing_rights(rows_of(connection), needs, [role])[role]
    return {(right.privilege, right.kind, right.schema) for right in found}


# --- What they get ----------------------------------------------------------------------------------------------------


def test_each_role_has_its_rights_and_those_of_no_other(roled: Roled) -> None:
    every = tuple({need: None for duty in DUTIES for need in duty.needs})
    for duty in DUTIES:
        role = roled.names.by_duty[duty.name]
        assert missing(roled, duty.needs, role) == set()
        if duty is not OWNING:
            # The secret table and the record of a move do not exist yet, and no policy hides rows.
            others = {need for need in every if need not in duty.needs and need.privilege != "ALL ROWS"}
            lacked = missing(roled, tuple(others), role)
            expected = {(need.privilege, need.kind, need.schema) for need in others if need.schema != "tatame_move"}
            existing = {(p, k, s) for p, k, s in expected if (k, s) != ("sequence", "tatame_migrations")}
            assert existing - lacked == set()


def test_applying_twice_changes_nothing(roled: Roled) -> None:
    assert roled.apply() == roles.RolesApplied([], [], [])
    owner = Database(roled.at(roled.names.owner))
    with owner, owner.engine.connect() as connection:
        # The owner, who may create no role, finds nothing to do either.
        assert roles.apply(connection, roled.names).changes == []


def test_a_later_migration_makes_tables_that_all_roles_can_use(roled: Roled, add: Add) -> None:
    add(upgrade="op.execute('CREATE TABLE belts (id serial PRIMARY KEY)')")
    with Database(roled.at(roled.names.owner)) as database:
        assert len(evolve.migrate(database.engine)) == 1
    with psycopg.connect(readable(roled.at(roled.names.app))) as connection:
        connection.execute("INSERT INTO belts DEFAULT VALUES")
        connection.execute("UPDATE belts SET id = 7")
    for role in (roled.names.read_only, roled.names.backup):
        with psycopg.connect(readable(roled.at(role))) as connection:
            assert connection.execute("SELECT id FROM belts").fetchall() == [(7,)]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("DELETE FROM belts")


def test_the_owner_seeds_and_checks_what_it_owns_and_rights_are_no_drift(roled: Roled) -> None:
    with Database(roled.at(roled.names.owner)) as database:
        with database.engine.begin() as connection:
            seed.seed(connection, seed.SeedPlan(gyms=1, members=1, days=1))
        checked = evolve.check(database.engine)
        assert (checked.failed, checked.foreign, checked.undeclared) == ([], [], [])
        pushed = evolve.push(database.engine, agree=lambda _: False)
        assert pushed is not None
        assert (pushed.statements, pushed.left_alone) == ([], [])


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (id int)",
        "CREATE TEMPORARY TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "ALTER TABLE users ADD mine int",
        "DROP TABLE users",
        "TRUNCATE users",
        "DELETE FROM tatame_migrations.applied",
        "SELECT setval('users_id_seq', 1)",
        "SELECT * FROM pg_shadow",
    ],
)
def test_the_app_changes_rows_and_no_table(shared: Roled, statement: str) -> None:
    with (
        psycopg.connect(readable(shared.at(shared.names.app))) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


def test_what_migrations_made_beside_tables_is_transferred_and_what_is_of_others_is_not(bare: Roled) -> None:
    bare.run(
        "CREATE TYPE mood AS ENUM ('good')",
        "CREATE TYPE pair AS (a int, b int)",
        "CREATE DOMAIN short AS text",
        "CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT 2 * $1'",
        "CREATE PROCEDURE nothing() LANGUAGE sql AS 'SELECT 1'",
        "CREATE AGGREGATE total(int) (sfunc = int4pl, stype = int)",
        "CREATE VIEW names AS SELECT first_name FROM users",
        "CREATE MATERIALIZED VIEW counts AS SELECT count(*) FROM users",
        "CREATE SEQUENCE numbers",
        "CREATE STATISTICS role_and_gym ON role, gym_id FROM users",
        "CREATE TABLE of_others (id serial)",
    )
    other = bare.role()
    bare.run(f"CREATE VIEW theirs AS SELECT 1 AS id; ALTER VIEW theirs OWNER TO {other}")
    bare.apply()
    owners = dict(
        bare.ask(
            "SELECT relname::text, pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " UNION ALL SELECT typname, pg_get_userbyid(typowner) FROM pg_type"
            " WHERE typname IN ('mood', 'short', 'pair')"
            " UNION ALL SELECT proname, pg_get_userbyid(proowner) FROM pg_proc"
            " WHERE proname IN ('twice', 'nothing', 'total')"
            " UNION ALL SELECT stxname, pg_get_userbyid(stxowner) FROM pg_statistic_ext"
        )
    )
    others = {name for name, owner in owners.items() if owner != bare.names.owner}
    assert others == {"of_others", "of_others_id_seq", "theirs"}
    with psycopg.connect(readable(bare.at(bare.names.read_only))) as connection:
        connection.execute("SELECT * FROM names, counts, numbers")


@pytest.mark.parametrize("names", [None, HOSTILE], ids=["usual names", "hostile names"])
def test_the_printed_sql_does_what_apply_does(bare: Roled, server: EmbeddedServer, names: Names | None) -> None:
    bare.names = names or bare.names
    with Database(bare.address) as database, database.engine.connect() as connection:
        script = roles.as_text(roles.script(connection, bare.names))
    for _ in range(2):
        # The bundled one has no TLS.
        program = OLDER_PROGRAMS / "psql" if bare.address.port else server.program("psql")
        psql = [str(program), "--no-psqlrc", "--set=ON_ERROR_STOP=1", readable(bare.address)]
        done = subprocess.run(psql, input=script, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert bare.apply() == roles.RolesApplied([], [], [])
    assert bare.ask("SELECT count(*) FROM users") == [(0,)]


def test_an_existing_role_keeps_its_password_and_loses_what_it_has_beside_its_duty(bare: Roled) -> None:
    bare.run(
        f"CREATE ROLE {bare.names.app} LOGIN PASSWORD 'secret' VALID UNTIL '2030-01-01'",
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {bare.names.app}",
        f"GRANT pg_read_all_data, pg_write_all_data TO {bare.names.app}",
    )
    query = f"SELECT rolpassword, rolvaliduntil, rolcanlogin FROM pg_authid WHERE rolname = '{bare.names.app}'"
    before = bare.ask(query)
    applied = bare.apply()
    assert bare.names.app not in applied.created
    assert bare.ask(query) == before
    [lost] = [change for change in applied.changes if change.startswith(f"{bare.names.app} no longer has ")]
    assert "membership of pg_read_all_data, pg_write_all_data" in lost
    assert missing(bare, (Need("TRUNCATE", "table", "public"),), bare.names.app) == {("TRUNCATE", "table", "public")}
    assert missing(bare, APP.needs, bare.names.app) == set()


def test_a_backup_role_dumps_the_database_and_copies_the_server(
    bundled: Roled, server: EmbeddedServer, tmp_path: Path
) -> None:
    bundled.run(
        "CREATE SCHEMA tatame_move",
        "CREATE TABLE tatame_move.token (singleton boolean PRIMARY KEY, value text)",
        "CREATE TABLE tatame_move.runs (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY)",
        "ALTER TABLE users ENABLE ROW LEVEL SECURITY",
    )
    bundled.apply()
    address = readable(bundled.at(bundled.names.backup))
    dumped = subprocess.run([server.program("pg_dump"), address], check=False, capture_output=True, text=True)
    assert (dumped.returncode, dumped.stderr) == (0, "")
    copied = [
        str(server.program("pg_basebackup")),
        f"--dbname={address}",
        f"--pgdata={tmp_path / 'copy'}",
        "--checkpoint=fast",
    ]
    assert subprocess.run(copied, check=False, capture_output=True).returncode == 0
    for role in (bundled.names.app, bundled.names.read_only):
        with psycopg.connect(readable(bundled.at(role))) as connection:
            connection.execute("SELECT FROM tatame_move.runs")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SELECT FROM tatame_move.token")


def test_a_schema_that_the_owner_creates_later_has_the_readers_of_public(bundled: Roled, supabase: URL) -> None:
    from tatame_db import move

    choices = move.Choices("null", "null", "first", "keep", "keep")
    with (
        Database(bundled.at(bundled.names.owner)) as database,
        move.open_for_writing(supabase, database.engine) as connections,
    ):
        move.copy(connections, choices=choices)
    for duty in (APP, READ_ONLY, BACKUP):
        assert missing(bundled, duty.needs, bundled.names.by_duty[duty.name]) == set()


def test_an_app_that_lacks_a_right_gets_the_error_of_sqlalchemy(shared: Roled) -> None:
    with (
        Database(shared.at(shared.names.read_only)) as database,
        pytest.raises(ProgrammingError, match="permission denied for table gyms"),
        database.session.begin() as session,
    ):
        session.execute(text("DELETE FROM gyms"))
    with Database(shared.at(shared.role())) as database:
        assert database.check(timeout_seconds=20).healthy


# --- Who may give it --------------------------------------------------------------------------------------------------


def state(roled: Roled) -> list[tuple[object, ...]]:
    return roled.ask(
        "SELECT relname::text, relowner::regrole::text, relacl::text FROM pg_class WHERE relname IN ('users', 'gyms')"
        " UNION ALL SELECT nspname, nspowner::regrole::text, nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_'"
        " UNION ALL SELECT rolname, '', '' FROM pg_roles UNION ALL SELECT datname, '', datacl::text FROM pg_database"
        " ORDER BY 1, 2, 3"
    )


@pytest.fixture
def manager(bare: Roled) -> URL:
    """A role as managed services give it: it owns the database and its tables, and is no superuser."""
    name = bare.role("ALTER ROLE {role} CREATEROLE CREATEDB")
    database = bare.address.database
    bare.run(f"ALTER DATABASE {database} OWNER TO {name}", f"ALTER SCHEMA tatame_migrations OWNER TO {name}")
    bare.run(
        "DO $$ DECLARE t text; BEGIN FOR t IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
        " WHERE schemaname IN ('public', 'tatame_migrations') LOOP EXECUTE 'ALTER TABLE ' || t ||"
        f" ' OWNER TO {name}'; END LOOP; END $$"
    )
    return bare.at(name)


def test_without_a_superuser_all_but_replication_can_be_granted(bare: Roled, manager: URL) -> None:
    before = state(bare)
    with Database(manager) as database, database.engine.connect() as connection:
        with pytest.raises(RightsNotGranted) as caught:
            roles.apply(connection, bare.names)
        assert caught.value.statement == f"ALTER ROLE {bare.names.backup} REPLICATION"
        assert "--no-replication" in caught.value.fix
        assert state(bare) == before

        assert len(roles.apply(connection, bare.names, replication=False).created) == 4
        assert roles.apply(connection, bare.names, replication=False).changes == []
    for duty in DUTIES:
        needs = tuple(need for need in duty.needs if need.kind != "role")
        assert missing(bare, needs, bare.names.by_duty[duty.name]) == set()


@pytest.mark.parametrize(
    "grants",
    [
        [],
        ["GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"],
        ["ALTER ROLE {role} CREATEROLE"],
        ["ALTER ROLE {role} CREATEROLE", "GRANT CREATE ON SCHEMA public TO {role}"],
    ],
)
def test_a_role_that_may_not_grant_a_right_changes_nothing(bare: Roled, grants: list[str]) -> None:
    poor = bare.role(*grants)
    before = state(bare)
    with Database(bare.at(poor)) as database, database.engine.connect() as connection:
        with pytest.raises(RightsNotGranted) as caught:
            roles.apply(connection, bare.names)
        assert caught.value.role == poor
    assert state(bare) == before


def test_a_right_that_the_role_only_has_itself_is_not_taken_for_granted(bundled: Roled) -> None:
    # PostgreSQL warns of such a grant, and reports no error.
    bundled.run(f"REVOKE USAGE ON SCHEMA public FROM PUBLIC, {bundled.names.app}")
    with (
        Database(bundled.at(bundled.names.owner)) as database,
        database.engine.connect() as connection,
        pytest.raises(RightsNotGranted, match="no USAGE on the schema public afterwards"),
    ):
        roles.apply(connection, bundled.names)
    assert bundled.apply().changes == [f"{bundled.names.app} has USAGE on the schema public"]


def test_a_lock_that_is_not_free_in_time_changes_nothing(bare: Roled) -> None:
    before = state(bare)
    with (
        psycopg.connect(readable(bare.address)) as holder,
        Database(bare.address) as database,
        database.engine.connect() as connection,
    ):
        holder.execute("SELECT FROM users")
        connection.execute(text("SET lock_timeout = '100ms'"))
        with pytest.raises(RolesBusy, match=r"ALTER TABLE public\.users OWNER TO"):
            roles.apply(connection, bare.names)
    assert state(bare) == before


@pytest.mark.parametrize(
    ("grant", "reason"),
    [
        ("ALTER ROLE {role} SUPERUSER", "is a superuser"),
        ("ALTER ROLE {role} CREATEROLE", "may create roles"),
        ("GRANT postgres TO {role}", "is a member of a superuser"),
        ("GRANT {owner} TO {role}", "is a member of tatame_owner"),
    ],
)
@pytest.mark.parametrize("duty", [APP, READ_ONLY, BACKUP], ids=lambda duty: duty.name)
def test_a_role_that_can_do_more_is_refused(shared: Roled, grant: str, reason: str, duty: Duty) -> None:
    strong = shared.role(grant)
    names = shared.names.__dict__ | {duty.name.replace("-", "_"): strong}
    with pytest.raises(RoleUnsuitable, match=reason):
        shared.apply(Names(**names))


@pytest.mark.parametrize("name", ["", "public", "none", "pg_mine", "x" * 64, "é" * 32, "two\nlines", "tatame_owner"])
def test_a_name_that_no_role_can_have_is_refused(name: str) -> None:
    with pytest.raises(RoleNameInvalid):
        Names(app=name).refuse_invalid()


# --- Who may do what --------------------------------------------------------------------------------------------------


def test_a_role_that_may_only_connect_sees_who_may_do_what(roled: Roled) -> None:
    poor = roled.role()
    with Database(roled.at(poor)) as database, database.engine.connect() as connection:
        found = roles.list_roles(connection)
    by_name = {role.name: role for role in found.roles}
    rights = {
        name: (role.owns, role.reads, role.writes, role.creates, role.migrates, role.backs_up)
        for name, role in by_name.items()
    }
    names = roled.names
    assert found.tables == 11
    assert found.current == by_name[poor]
    assert by_name["postgres"].is_superuser
    assert rights["postgres"] == (11, 11, 11, True, True, "yes")
    assert rights[names.owner] == (11, 11, 11, True, True, "pg_dump")
    assert rights[names.app] == (0, 11, 11, False, False, "pg_dump")
    assert rights[names.read_only] == (0, 11, 0, False, False, "pg_dump")
    assert rights[names.backup] == (0, 11, 0, False, False, "yes")
    assert rights[poor] == (0, 0, 0, False, False, "no")
    assert not {name for name in by_name if name.startswith("pg_")}


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("REVOKE USAGE ON SCHEMA public FROM PUBLIC, {app}", (0, 0, "no")),
        ("REVOKE SELECT ON users FROM {app}; GRANT SELECT (id) ON users TO {app}", (10, 11, "no")),
        ("REVOKE DELETE ON users FROM {app}", (11, 10, "pg_dump")),
        ("ALTER TABLE users ENABLE ROW LEVEL SECURITY", (11, 11, "no")),
    ],
)
def test_a_right_that_is_gone_is_not_listed(bundled: Roled, statement: str, expected: tuple[int, int, str]) -> None:
    bundled.run(statement.format(**vars(bundled.names)))
    with Database(bundled.address) as database, database.engine.connect() as connection:
        [app] = [role for role in roles.list_roles(connection).roles if role.name == bundled.names.app]
    assert (app.reads, app.writes, app.backs_up) == expected


def test_a_database_without_tables_has_roles_too(empty: Roled) -> None:
    assert len(empty.apply().created) == 4
    with Database(empty.at(empty.names.owner)) as database:
        evolve.migrate(database.engine)
    for duty in DUTIES:
        assert missing(empty, duty.needs, empty.names.by_duty[duty.name]) == set()
