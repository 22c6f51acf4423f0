"""The tables are those of `public`, whatever the `search_path` of the role, the database or the address is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator

import psycopg
import pytest
from sqlalchemy import URL, Column, Integer, MetaData, Table, func, insert, select, text
from tests.conftest import run_sql
from tests.database.scratches import shared_scratch

from tatame_db import evolve, seed
from tatame_db.database.address import readable
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.evolve import TablesMissing
from tatame_db.queries.read import Read, query, read
from tatame_db.queries.write import insert_many, update_many, upsert
from tatame_db.schema import AppStore, Base, User
from tatame_db.studio.bound import Insert
from tatame_db.studio.changes import save
from tatame_db.testing.databases import RolledBackDatabases
from tatame_db.testing.sandbox import Sandbox

__all__ = ["shared_scratch"]

ROLE = "tatame_elsewhere"
# A role that owns its tables and has no other right.
CREATE_ROLE = f"""
DO $$ BEGIN CREATE ROLE {ROLE} LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
ALTER ROLE {ROLE} RESET search_path;
GRANT CREATE, USAGE ON SCHEMA public TO {ROLE};
CREATE SCHEMA app AUTHORIZATION {ROLE};
"""


@pytest.fixture(params=["bundled", "older"])
def empty(request: pytest.FixtureRequest) -> Generator[URL]:
    """The address of an empty database as a role without rights, with the schema `app`."""
    sandbox: Sandbox = (
        request.getfixturevalue("older_sandbox")
        if request.param == "older"
        else request.getfixturevalue("_tatame_run").sandbox
    )
    address = sandbox.create()
    run_sql(address, f"{CREATE_ROLE} GRANT CREATE ON DATABASE {address.database} TO {ROLE}")
    yield address.set(username=ROLE)
    sandbox.drop(str(address.database))


def by_database(address: URL) -> URL:
    run_sql(address.set(username="postgres"), f"ALTER DATABASE {address.database} SET search_path = app, public")
    return address


def by_role(address: URL) -> URL:
    everywhere = f"ALTER ROLE {ROLE} IN DATABASE {address.database}"
    run_sql(address.set(username="postgres"), f"{everywhere} SET search_path = app")
    return address


def by_option(address: URL) -> URL:
    return address.update_query_dict({"options": "-csearch_path=app"})


def by_user(address: URL) -> URL:
    run_sql(address.set(username="postgres"), f"CREATE SCHEMA {ROLE} AUTHORIZATION {ROLE}")
    return address


def by_nothing(address: URL) -> URL:
    return address.update_query_dict({"options": "-csearch_path="})


set_path = pytest.mark.parametrize("set_path", [by_database, by_role, by_option, by_user, by_nothing])


def tables_in(address: URL) -> set[tuple[str, str]]:
    with psycopg.connect(readable(address)) as connection:
        found = connection.execute("SELECT schemaname, tablename FROM pg_tables WHERE tablename = 'users'")
        return {(schema, table) for schema, table in found}


@query
def find_user(clerk_user_id: str) -> Read[User]:
    return read(User).where(User.clerk_user_id == clerk_user_id).load(User.gym, User.checkins)


def use_tables(database: Database) -> None:
    """Read and write a user in each way that the package has."""
    with database.session.begin() as session:
        session.add(User(clerk_user_id="session"))
    [returned] = insert_many(User, [{"clerk_user_id": "write"}], returning=User.id).run(database)
    upsert(User, [{"clerk_user_id": "write", "email": ""}], by=[User.clerk_user_id]).run(database)
    assert update_many(User, [{"id": returned, "phone": "1"}], by=[User.id]).run(database) == 1
    many = [{"clerk_user_id": f"many {number}"} for number in range(2_000)]
    insert_many(User, many).run(database)
    for name in ("session", "write", "many 7"):
        found = find_user.one(database, clerk_user_id=name)
        assert (found.gym, list(found.checkins)) == (None, [])
    assert read(User).count(database) == 2_002
    with database.session() as session:
        assert session.scalar(select(func.count()).select_from(User)) == 2_002


@set_path
def test_a_migration_creates_its_tables_in_public(empty: URL, set_path: Callable[[URL], URL]) -> None:
    with Database(set_path(empty)) as database:
        evolve.migrate(database.engine)
        assert tables_in(empty) == {("public", "users")}
        with database.engine.connect() as connection:
            evolve.refuse_incomplete(connection)
        found = evolve.status(database.engine)
        assert (found.pending, set(found.tables), found.elsewhere) == ([], set(Base.metadata.tables), [])
        with database.engine.begin() as connection:
            written = seed.seed(connection, seed.SeedPlan(gyms=1, members=5, days=5))
        with database.engine.begin() as connection:
            seed.empty(connection)
        assert written["users"] > 5
        use_tables(database)
        evolve.rollback(database.engine)
    assert tables_in(empty) == set()


@pytest.mark.parametrize("set_path", [by_database, by_option])
def test_check_and_push_compare_the_tables_of_public(empty: URL, set_path: Callable[[URL], URL]) -> None:
    with Database(set_path(empty)) as database:
        evolve.migrate(database.engine)
        assert evolve.check(database.engine).failed == []
        planned = evolve.push(database.engine, agree=lambda _: False)
        assert planned
        assert planned.statements == []


@pytest.fixture
def shadowed(empty: URL) -> URL:
    """The address of a migrated database whose role finds tables of the same names in `app` first."""
    with Database(empty) as database:
        evolve.migrate(database.engine)
    for table in Base.metadata.tables:
        run_sql(empty, f"CREATE TABLE app.{table} (LIKE public.{table} INCLUDING ALL)")
    run_sql(empty, "INSERT INTO app.users (id, clerk_user_id) VALUES (-1, 'write'), (-2, 'session')")
    return by_database(empty)


def test_tables_of_the_same_names_in_another_schema_are_not_used(shadowed: URL) -> None:
    with Database(shadowed) as database:
        use_tables(database)
        assert evolve.status(database.engine).elsewhere == ["app"]
        with database.engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM app.users")) == 2


def test_a_pooler_lends_sessions_with_their_own_path_and_queries_use_public(
    shadowed: URL, pooler: Callable[..., URL]
) -> None:
    with Database(pooler(shadowed, ignore_startup_parameters="extra_float_digits,options")) as database:
        use_tables(database)
        with database.engine.connect() as connection:
            assert connection.scalar(text("SELECT count(*) FROM app.users")) == 2
            assert connection.scalar(text("SELECT current_setting('search_path')")) == "app, public"


def test_the_test_kit_and_the_studio_use_public(shadowed: URL) -> None:
    async def edit(database: AsyncDatabase) -> None:
        inserted = Insert(table="app_stores", values={"store": "play"})
        async with database.engine.begin() as connection:
            await save(connection, [inserted])

    with Database(shadowed) as database:
        databases = RolledBackDatabases(database)
        use_tables(databases.database)
        databases.close()
        assert read(User).count(database) == 0

    async def main() -> int:
        async with AsyncDatabase(shadowed) as database:
            await edit(database)
            return await read(AppStore).count(database)

    assert asyncio.run(main()) == 1


def test_tables_that_were_created_in_another_schema_are_found_there(empty: URL) -> None:
    with Database(empty) as database:
        evolve.migrate(database.engine)
    for table in Base.metadata.tables:
        run_sql(empty, f"ALTER TABLE public.{table} SET SCHEMA app")
    with Database(by_database(empty)) as database, database.engine.connect() as connection:
        with pytest.raises(TablesMissing, match="tables of these names are in app") as caught:
            evolve.refuse_incomplete(connection)
        for table in caught.value.tables:
            connection.execute(text(caught.value.fix.split("`")[1].replace(caught.value.tables[0], table)))
        evolve.refuse_incomplete(connection)


def test_a_temporary_table_and_a_table_with_a_schema_keep_their_names(shadowed: URL) -> None:
    named = Table("users", MetaData(schema="app"), Column("id", Integer))
    passing = Table("passing", MetaData(), Column("id", Integer), prefixes=["TEMPORARY"])
    with Database(shadowed) as database, database.engine.begin() as connection:
        assert connection.scalar(select(func.count()).select_from(named)) == 2
        passing.create(connection)
        connection.execute(insert(passing), [{"id": 1}])
        assert connection.scalar(select(passing.c.id)) == 1
