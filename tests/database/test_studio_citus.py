"""The studio on Citus: what it must refuse, ask and count where the rows are on other nodes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Generator
from typing import Any, cast

import psycopg
import pytest
from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError
from tests.database.cituses import citus_database
from tests.database.conftest import serving
from tests.database.test_studio_import import plan, send
from tests.database.test_studio_sessions import asked

from tatame_db import evolve, seed
from tatame_db.database.citus import know
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.roles import apply
from tatame_db.studio.access import RoleTooPowerful, harmful_rights, open_access
from tatame_db.studio.shards import Diagnosis, diagnosis_of

Client = Any

# --- A read-only studio -----------------------------------------------------------------------------------------------

# The catalogue of a database with Citus, as far as the rights of a role depend on it. It is rolled back.
_CITUS = """
INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
    VALUES (99999, 'citus', 10, 'pg_catalog'::regnamespace, false, '13');
CREATE FUNCTION run_command_on_shards(regclass, text) RETURNS text LANGUAGE sql AS 'SELECT $2';
INSERT INTO pg_depend SELECT 'pg_proc'::regclass, 'run_command_on_shards'::regproc, 0, 'pg_extension'::regclass,
    99999, 0, 'e';
"""
_BY_CITUS = "by a function of Citus, such as run_command_on_shards"


@pytest.mark.parametrize(
    ("grant", "rights"),
    [
        ("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}", []),
        ("GRANT INSERT ON users, gyms TO {role}", [f"may change gyms, users {_BY_CITUS}"]),
        ("GRANT UPDATE (date) ON checkins TO {role}", [f"may change checkins {_BY_CITUS}"]),
        ("GRANT UPDATE ON SEQUENCE users_id_seq TO {role}", [f"may change users_id_seq {_BY_CITUS}"]),
        ("GRANT TRIGGER ON users TO {role}", [f"may change users {_BY_CITUS}"]),
        ("GRANT CREATE ON SCHEMA public TO {role}", [f"may create objects in schema public {_BY_CITUS}"]),
        ("ALTER TABLE class OWNER TO {role}", [f"may change class, class_id_seq {_BY_CITUS}"]),
        ("ALTER ROLE {role} CREATEROLE", [f"may create roles {_BY_CITUS}"]),
        (
            "GRANT TRUNCATE ON ALL TABLES IN SCHEMA public TO {group}; ALTER ROLE {role} NOINHERIT;"
            " GRANT {group} TO {role}",
            [f"is a member of {{group}}, which may change app_stores, assets, attachments and 8 more {_BY_CITUS}"],
        ),
        (
            "GRANT DELETE ON users TO {role};"
            " REVOKE EXECUTE ON FUNCTION run_command_on_shards(regclass, text) FROM PUBLIC",
            [],
        ),
    ],
)
def test_a_right_to_write_is_harmful_where_a_function_of_citus_leaves_the_transaction(
    committed_database: Database, grant: str, rights: list[str]
) -> None:
    role, group = (f"{name}_of_{committed_database.address.database}" for name in ("ana", "staff"))
    for has_citus in (False, True):
        with committed_database.engine.connect() as connection:
            for statement in (
                _CITUS
                if has_citus
                else "CREATE FUNCTION run_command_on_shards(regclass, text) RETURNS text LANGUAGE sql AS 'SELECT $2'",
                f"CREATE ROLE {role}; CREATE ROLE {group}",
                grant.format(role=role, group=group),
                f"SET LOCAL SESSION AUTHORIZATION {role}",
            ):
                connection.exec_driver_sql(statement)
            found = harmful_rights(connection)
            connection.rollback()
        assert found == ([right.format(group=group) for right in rights] if has_citus else [])


@pytest.fixture(scope="module")
def placed() -> Generator[Database]:
    """A seeded database whose tables are placed on the nodes of Citus, with the four roles."""
    with citus_database() as address, Database(address) as database:
        evolve.migrate(database.engine)
        with database.engine.begin() as connection:
            seed.seed(connection, seed.SeedPlan(gyms=2, members=10, days=20))
        evolve.distribute(database.engine, agree=lambda _: True)
        with database.engine.connect() as connection:
            apply(connection)
        yield database


@pytest.fixture
def writer(placed: Database) -> Generator[Client]:
    """The studio of that database in write mode."""
    with serving(open_access(placed, embedded=False, write=True)) as client:
        yield client


_ATTACKS = (
    "SELECT success, result FROM run_command_on_placements('gyms', 'UPDATE %s SET since = 1')",
    "SELECT success, result FROM run_command_on_shards('checkins', 'DELETE FROM %s')",
    "SELECT success, result FROM run_command_on_all_nodes('DELETE FROM gyms')",
    "SELECT success, result FROM run_command_on_workers('TRUNCATE gyms')",
    "SELECT success, result FROM run_command_on_coordinator('CREATE TABLE mine (id int)')",
    "SELECT undistribute_table('checkins')",
    "SELECT update_distributed_table_colocation('checkins', 'none')",
    "SELECT citus_drop_all_shards('checkins', 'public', 'checkins')",
    "SELECT alter_distributed_table('checkins', shard_count := 2)",
    "SELECT truncate_local_data_after_distributing_table('users')",
    "SELECT citus_rebalance_start()",
)


def test_a_read_only_studio_on_citus_needs_a_role_that_only_reads(placed: Database) -> None:
    def as_role(name: str) -> URL:
        return placed.address.set(username=name)

    for name in ("tatame_owner", "tatame_app"):
        with Database(as_role(name)) as database, pytest.raises(RoleTooPowerful, match="by a function of Citus"):
            open_access(database, embedded=False, write=False)
    with Database(as_role("tatame_read")) as database:
        assert open_access(database, embedded=False, write=False).role == "tatame_read"
        with database.engine.connect() as connection:
            for attack in _ATTACKS:
                try:
                    found = [tuple(row) for row in connection.execute(text(attack))]
                except DBAPIError as error:
                    found = [(False, str(error.orig))]
                connection.rollback()
                assert found
                assert all(
                    not done and re.match(r"(ERROR:  )?(permission denied|must be owner)", said) for done, said in found
                )


def test_a_right_that_the_role_gets_while_the_studio_runs_is_found(placed: Database) -> None:
    statement = "SELECT result FROM run_command_on_shards('checkins', 'UPDATE %s SET date = date')"
    refused = "may change checkins by a function of Citus"
    with (
        Database(placed.address.set(username="tatame_read")) as database,
        serving(open_access(database, embedded=False, write=False)) as reader,
    ):

        def export() -> str:
            return str(reader.ask("/api/sql/export/json", {"text": statement}).text)

        assert "permission denied" in str(reader.run(statement))
        with placed.engine.begin() as connection:
            connection.exec_driver_sql("GRANT UPDATE ON checkins TO tatame_read")
        try:
            assert refused in reader.error(statement)["what"]
            assert refused in export()
        finally:
            with placed.engine.begin() as connection:
                connection.exec_driver_sql("REVOKE UPDATE ON checkins FROM tatame_read")
        assert "done" in reader.run("SELECT 1")[-1]


# --- The SQL tab ------------------------------------------------------------------------------------------------------


def test_a_statement_that_changes_many_placed_rows_asks(placed: Database, writer: Client) -> None:
    with placed.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION wipe() RETURNS int LANGUAGE plpgsql AS 'BEGIN DELETE FROM checkins; RETURN 1; END'"
        )
        connection.exec_driver_sql("CREATE TABLE notes (gym_id int REFERENCES gyms ON DELETE CASCADE, id int)")
        connection.exec_driver_sql("SELECT create_distributed_table('notes', 'id')")
        connection.exec_driver_sql("INSERT INTO gyms (id, name, address, since) VALUES (99, 'a', 'b', '2015')")

    def state() -> Any:
        with placed.engine.connect() as connection:
            return connection.execute(
                text(
                    "SELECT (SELECT count(*) FROM checkins), (SELECT sum(hashtext(date)) FROM checkins),"
                    " (SELECT count(*) FROM notifications), (SELECT count(*) FROM graduations),"
                    " (SELECT count(*) FROM users WHERE phone IS DISTINCT FROM 'zz'), (SELECT count(*) FROM gyms)"
                )
            ).one()

    before = state()
    checkins, users, graduations = before[0], before[4], before[3]
    unknown = "changes rows of checkins, which are not counted"
    expected = {
        "DELETE FROM checkins": [f"deletes {checkins} rows of checkins"],
        "DELETE FROM checkins WHERE id > 0": [f"deletes {checkins} rows of checkins"],
        "UPDATE checkins SET date = 'x'": [f"updates {checkins} rows of checkins"],
        "UPDATE users SET phone = 'zz' WHERE id > 0": [f"updates {users} rows of users"],
        "DELETE FROM graduations WHERE id > 0": [f"deletes {graduations} rows of graduations"],
        "DELETE FROM gyms WHERE id = 99": ["deletes 1 row of gyms", "changes rows of notes, which are not counted"],
        "INSERT INTO checkins (id, user_id) SELECT n, 1 FROM generate_series(1, 21) n"
        " ON CONFLICT (id) DO UPDATE SET date = 'x'": ["inserts or updates 21 rows of checkins"],
        "WITH gone AS (DELETE FROM checkins WHERE id > 0 RETURNING id) SELECT count(*) FROM gone": [unknown],
        "DO $$ BEGIN UPDATE checkins SET date = 'do'; END $$": [unknown],
        "SELECT wipe()": [unknown],
        "TRUNCATE notifications": [f"empties notifications, which has {before[2]} rows"],
    }
    for statement, lines in expected.items():
        assert asked(writer, statement, yes=False) == (lines, {"undone": {"in_time": True}}), statement
        assert state() == before, statement
    for statement in (
        "SELECT count(*) FROM checkins",
        "SELECT * FROM checkins WHERE id = 1 FOR UPDATE",
        "UPDATE checkins SET date = 'y' WHERE id = 1",
        "INSERT INTO checkins (user_id) SELECT 1 FROM generate_series(1, 21)",
        "ALTER TABLE checkins ADD COLUMN note text",
        "CREATE INDEX ON checkins (note)",
    ):
        assert asked(writer, statement, yes=None)[0] == [], statement
    writer.run("CREATE TABLE local AS SELECT 1 AS n")
    writer.run("BEGIN; UPDATE checkins SET date = 'z' WHERE id = 1")
    assert asked(writer, "DELETE FROM local", yes=False)[0] == ["deletes 1 row of local"]
    assert asked(writer, "DELETE FROM checkins", yes=False)[0] == [f"deletes {checkins + 21} rows of checkins"]
    writer.run("ROLLBACK")
    _, end = asked(writer, "DELETE FROM checkins", yes=True)
    assert end["done"]["command"] == f"DELETE {checkins + 21}"
    assert state()[0] == 0


# --- Rows that do not fit ---------------------------------------------------------------------------------------------

_MESSAGES = [
    # SQLSTATE, message and detail of a node, and what is left of it.
    (
        '23505|duplicate key value violates unique constraint "users_pkey_102009"|Key (id)=(102009) already exists.',
        ("users_pkey", None, None),
        "Key (id)=(102009) already exists.",
    ),
    (
        '23503|insert or update on table "log_202601_102011" violates foreign key constraint "log_fk_102011"|'
        'Key (a_102011)=(1) is not present in table "users_102009".',
        ("log_fk", "log_202601", None),
        'Key (a)=(1) is not present in table "users".',
    ),
    (
        '23502|null value in column "name" of relation "users_102009" violates not-null constraint|',
        (None, "users", "name"),
        "",
    ),
    ('23505|duplicate key value violates unique constraint "log_202601"|', (None, None, None), ""),
]


@pytest.mark.parametrize(("written", "names", "detail"), _MESSAGES)
def test_the_name_of_a_shard_is_that_of_its_table(
    committed_database: Database, written: str, names: tuple[str | None, ...], detail: str
) -> None:
    with committed_database.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL allow_system_table_mods = on")
        connection.exec_driver_sql("CREATE TABLE pg_catalog.pg_dist_shard AS VALUES (102009::bigint), (102011)")
        connection.exec_driver_sql("ALTER TABLE pg_catalog.pg_dist_shard RENAME column1 TO shardid")
    code, message, said = written.split("|")
    raised = f"""DO $do$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = $${message}$$, DETAIL = $${said}$$;
        END $do$"""

    async def diagnose() -> Diagnosis:
        async with AsyncDatabase(committed_database.address) as database, database.engine.connect() as connection:
            know(database.engine.sync_engine, has_citus=True)
            with pytest.raises(DBAPIError) as caught:
                await connection.exec_driver_sql(raised)
            await connection.rollback()
            return await diagnosis_of(connection, cast("psycopg.Error", caught.value.orig), {"users", "log_202601"})

    found = asyncio.run(diagnose())
    assert (found.constraint, found.table, found.column) == names
    assert found.detail == detail
    assert not re.search("102009|102011", found.message)


def test_an_import_into_placed_tables_counts_truly_and_names_each_row_that_does_not_fit(
    placed: Database, writer: Client
) -> None:
    def ids() -> list[int]:
        with placed.engine.connect() as connection:
            return list(connection.scalars(text("SELECT id FROM checkins WHERE id BETWEEN 5000 AND 7999 ORDER BY id")))

    def run(mode: str, content: str, *columns: str, table: str = "checkins", **options: Any) -> Any:
        return send(writer, mode, plan(*columns, **options), content, table)

    def counts(outcome: Any) -> tuple[int, int, int]:
        return outcome["inserted"], outcome["updated"], outcome["skipped"]

    file = "id,user_id\n" + "".join(f"{number},1\n" for number in range(5000, 5060))
    assert counts(run("run", file, "id", "user_id")) == (60, 0, 0)
    skip: dict[str, Any] = {"existing": "skip", "key": ["id"]}
    again = file + "6000,1\n"
    assert counts(run("run", again, "id", "user_id", **skip)) == (1, 0, 60)
    assert counts(run("run", again, "id", "user_id", **skip | {"existing": "update"})) == (0, 61, 0)
    assert ids() == [*range(5000, 5060), 6000]

    mixed = "id,user_id\n7000,1\n5001,1\n7001,777777\n7002,1\n"
    checked = run("check", mixed, "id", "user_id")
    assert [(row["line"], row["column"]) for row in checked["bad"]] == [(3, "id"), (4, "user_id")]
    assert [row["what"] for row in checked["bad"]] == [
        "another row already has this id. Key (id)=(5001) already exists.",
        'user_id refers to a row that does not exist. Key (user_id)=(777777) is not present in table "users".',
    ]
    assert counts(run("run", mixed, "id", "user_id", only_fitting=True)) == (2, 0, 0)
    assert ids()[-2:] == [7000, 7002]

    members = "clerk_user_id,gym_id\nnew,1\nlost,777777\n"
    [bad] = run("check", members, "clerk_user_id", "gym_id", table="users")["bad"]
    assert (bad["line"], bad["column"]) == (3, "gym_id")
    assert bad["what"].endswith('is not present in table "gyms".')


def test_a_rejected_cell_of_a_placed_table_is_named(placed: Database, writer: Client) -> None:
    with placed.engine.begin() as connection:
        connection.execute(text("INSERT INTO checkins (id, user_id) VALUES (8000, 1)"))
    changes = [
        {"op": "update", "table": table, "key": key, "values": {column: "777777"}, "was": {column: "1"}}
        for table, key, column in (("checkins", "8000", "user_id"), ("users", "1", "gym_id"))
    ]
    response = writer.ask("/api/changes", {"changes": [*changes, {"op": "insert", "table": "users", "values": {}}]})
    assert response.status == 422, response.text
    found = {(error["place"], error["column"], error["constraint"]) for error in response.json["errors"]}
    assert found == {
        ("checkins 8000, user_id", "user_id", "checkins_user_id_users_id_fk"),
        ("users 1, gym_id", "gym_id", "users_gym_id_gyms_id_fk"),
        ("a new row of users, clerk_user_id", "clerk_user_id", None),
    }
    error = writer.error("UPDATE users SET gym_id = 777777 WHERE id = 1")
    assert not re.search(r"_10\d{4}", response.text + error["what"] + error["detail"])
