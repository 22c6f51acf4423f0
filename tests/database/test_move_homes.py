"""The home of each table: derived from both fences, and known to every command."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import URL, Engine
from tests.database.moves import ask, change, contents, copy_into, schema, set_fences

from tatame_db import evolve, move, seed
from tatame_db.database.pool import Database
from tatame_db.move.open import open_both_for_writing
from tatame_db.move.switch import fence, homes
from tatame_db.move.switch.homes import Home
from tatame_db.move.switch.token import make_token, token_of
from tatame_db.schema import phases

EVERYTHING = move.Choices(orphans="null", misfits="null", duplicates="last", unknown="keep", rejects="keep")


def found_homes(connections: move.Connections) -> dict[str, Home]:
    connections.source.driver.rollback()
    connections.source.pin_settings(for_transaction=True)
    return homes.homes(connections)


STATES = [
    ("absent", "absent", Home.SOURCE),
    ("absent", "closed", Home.SOURCE),
    ("opened", "closed", Home.SOURCE),
    ("closed", "closed", Home.NEITHER),
    ("closed", "opened", Home.TARGET),
    ("closed", "absent", Home.TARGET),
]


@pytest.mark.parametrize(("source", "target", "home"), STATES)
def test_the_fences_of_both_databases_tell_the_home(
    supabase: URL, engine: Engine, source: str, target: str, home: Home
) -> None:
    with open_both_for_writing(supabase, engine) as connections:
        set_fences(connections, "roles", source=source, target=target)
        assert found_homes(connections) == dict.fromkeys(phases(), Home.SOURCE) | {"roles": home}


@pytest.mark.parametrize("state", ["absent", "opened"])
def test_two_open_databases_after_a_switch_are_no_answer(supabase: URL, engine: Engine, state: str) -> None:
    with open_both_for_writing(supabase, engine) as connections:
        set_fences(connections, "roles", source=state, target="opened")
        with pytest.raises(homes.BothHomesOpen, match="roles"):
            found_homes(connections)


def test_a_source_that_moved_to_another_target_is_no_answer(supabase: URL, engine: Engine) -> None:
    with open_both_for_writing(supabase, engine) as connections:
        set_fences(connections, "users", source="closed", target="opened")
        connections.source.pin_settings(for_transaction=True)
        fence.close(connections.source, ["roles"], "0" * 64)
        connections.source.driver.commit()
        with pytest.raises(homes.MovedElsewhere, match="roles"):
            found_homes(connections)


def test_an_optional_table_that_the_source_lacks_moves_with_the_target_alone(supabase: URL, engine: Engine) -> None:
    change(supabase, "DROP TABLE IF EXISTS attachments CASCADE")
    with open_both_for_writing(supabase, engine) as connections:
        set_fences(connections, "attachments", source="closed", target="closed")
        assert found_homes(connections)["attachments"] is Home.SOURCE
        set_fences(connections, "attachments", source="closed", target="opened")
        assert found_homes(connections)["attachments"] is Home.TARGET


def test_only_its_owner_reads_the_token(supabase: URL, engine: Engine) -> None:
    change(
        engine.url,
        "DO $$ BEGIN CREATE ROLE token_reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO token_reader, PUBLIC",
    )
    with open_both_for_writing(supabase, engine) as connections:
        token = make_token(connections.target)
        assert make_token(connections.target) == token_of(connections.target) == token
        readers = "SELECT DISTINCT grantee FROM information_schema.role_table_grants WHERE table_name = 'token'"
        assert ask(engine.url, readers) == [("postgres",)]
        connections.target.execute("SET ROLE token_reader")
        assert token_of(connections.target) is None
        connections.target.driver.rollback()


def test_a_role_that_may_only_read_knows_the_homes(supabase: URL, engine: Engine) -> None:
    change(
        engine.url,
        "DO $$ BEGIN CREATE ROLE homes_reader LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "GRANT USAGE ON SCHEMA tatame_migrations TO homes_reader",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public, tatame_migrations TO homes_reader",
    )
    with open_both_for_writing(supabase, engine) as connections:
        set_fences(connections, "roles", source="closed", target="opened")
    # Not the token, which lets its holder write.
    change(engine.url, "GRANT USAGE ON SCHEMA tatame_move TO homes_reader")
    with (
        Database(engine.url.set(username="homes_reader")) as reader,
        move.open_for_reading(supabase, reader.engine) as connections,
    ):
        assert homes.homes(connections)["roles"] is Home.TARGET


# What the commands do with homes


def test_a_copy_never_writes_to_tables_that_have_moved(supabase: URL, engine: Engine) -> None:
    copy = copy_into(supabase, engine, choices=EVERYTHING)
    copy()
    with open_both_for_writing(supabase, engine) as connections:
        set_fences(connections, "roles", source="closed", target="opened")
    change(engine.url, "UPDATE roles SET created_at = now()")
    before = contents(engine.url)
    for tables in ([], ["roles"], ["roles", "versions"]):
        with pytest.raises(homes.TablesMoved, match="the home of roles is the target"):
            copy(*tables, replace_rows=True)
    assert contents(engine.url) == before


def test_the_other_tables_are_copied_beside_moved_parents_that_changed(supabase: URL, engine: Engine) -> None:
    copy = copy_into(supabase, engine, choices=EVERYTHING)
    copy()
    with open_both_for_writing(supabase, engine) as connections:
        for table in ("gyms", "roles", "notifications"):
            set_fences(connections, table, source="closed", target="opened")
    change(engine.url, "UPDATE gyms SET name = 'written here'", "DELETE FROM notifications")
    change(supabase, "UPDATE users SET last_name = 'written there'")
    report = copy("users")
    # They refer to users, and an earlier copy may have left their columns NULL; but they have moved.
    assert [table.table for table in report.tables if table.table in ("gyms", "roles", "notifications")] == []
    assert ask(engine.url, "SELECT DISTINCT name FROM gyms") == [("written here",)]
    assert ask(engine.url, "SELECT DISTINCT last_name FROM users") == [("written there",)]
    assert report.outdated == []


def test_a_copy_refuses_tables_without_a_home(supabase: URL, engine: Engine) -> None:
    with open_both_for_writing(supabase, engine) as connections:
        set_fences(connections, "roles", source="closed", target="closed")
    with pytest.raises(homes.SwitchUnfinished, match="neither database takes writes"):
        copy_into(supabase, engine, choices=EVERYTHING)("roles")


def test_a_copy_passes_the_fence_of_tables_that_follow(supabase: URL, engine: Engine) -> None:
    with open_both_for_writing(supabase, engine) as connections:
        for table in phases():
            set_fences(connections, table, source="absent", target="closed")
    report = copy_into(supabase, engine, choices=EVERYTHING)(jobs=2, sha256=True)
    assert "users" in report.insert_tested
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="users follows the source"):
        change(engine.url, "DELETE FROM users")
    # Changed rows are written to tables that are not empty, in another way.
    change(supabase, "UPDATE users SET last_name = 'written there'")
    copy_into(supabase, engine, choices=EVERYTHING)()
    assert ask(engine.url, "SELECT DISTINCT last_name FROM users") == [("written there",)]


def test_nothing_of_a_move_is_foreign_to_the_schema(supabase: URL, engine: Engine) -> None:
    expected = schema(engine)
    with move.open_for_reading(supabase, engine) as connections:
        before = move.plan(connections)
    with open_both_for_writing(supabase, engine) as connections:
        for table in phases():
            set_fences(connections, table, source="opened", target="closed")
    publication = "CREATE PUBLICATION tatame_move_01234567 FOR TABLE users (id)"
    change(supabase, publication)
    change(engine.url, publication)
    assert schema(engine) == expected
    found = evolve.check(engine)
    assert (found.database, found.foreign, found.not_compared) == ([], [], [])
    with move.open_for_reading(supabase, engine) as connections:
        after = move.plan(connections)
    assert (after.target_objects, after.left_behind) == (before.target_objects, before.left_behind)


def test_a_fenced_target_is_migrated_and_a_migration_that_writes_fails_in_words(
    supabase: URL, engine: Engine, add: Callable[..., str]
) -> None:
    with open_both_for_writing(supabase, engine) as connections:
        set_fences(connections, "users", source="absent", target="closed")
    first = add(upgrade="op.execute('ALTER TABLE users ADD COLUMN later text DEFAULT 1')")
    evolve.migrate(engine)
    add(after=first, upgrade="op.execute('UPDATE users SET later = 2')")
    with pytest.raises(evolve.MigrationFailed, match="the table users follows the source: its home is still there"):
        evolve.migrate(engine)


def test_sample_data_is_refused_by_a_fenced_database_in_words(supabase: URL, engine: Engine) -> None:
    with open_both_for_writing(supabase, engine) as connections:
        set_fences(connections, "users", source="absent", target="closed")
    with pytest.raises(seed.TableRefusesWrites, match="users"), engine.begin() as connection:
        seed.seed(connection, seed.SeedPlan(gyms=1, members=2))
    with pytest.raises(seed.TableRefusesWrites, match="users"), engine.begin() as connection:
        seed.empty(connection)


def test_verify_says_that_the_rows_of_a_moved_table_are_those_of_the_target(supabase: URL, engine: Engine) -> None:
    copy_into(supabase, engine, choices=EVERYTHING)()
    with open_both_for_writing(supabase, engine) as connections:
        set_fences(connections, "roles", source="closed", target="opened")
    change(engine.url, "UPDATE roles SET created_at = now()")
    with move.open_for_reading(supabase, engine) as connections:
        proof = move.verify(connections, ["roles", "versions"])
        plan = move.plan(connections, EVERYTHING)
    assert (proof.moved, proof.home_problem) == (["roles"], None)
    assert proof.error is not None
    assert "the home of roles is the target" in proof.error.what
    assert "move back roles" in proof.error.fix
    assert len(plan.refusals) == 1
    assert "the home of roles is the target" in plan.refusals[0]


def test_status_shows_homes_from_the_target_alone_and_more_with_the_source(supabase: URL, engine: Engine) -> None:
    with open_both_for_writing(supabase, engine) as connections:
        set_fences(connections, "roles", source="closed", target="opened")
        set_fences(connections, "users", source="closed", target="closed")
    with move.open_for_reading(supabase, engine) as connections:
        alone, both = move.status(connections.target), move.status(connections.target, connections.source)
    others = dict.fromkeys(phases(), Home.SOURCE)
    assert {table.table: table.home for table in alone.tables} == others | {"roles": Home.TARGET}
    known = {table.table: table.home for table in both.tables}
    assert known == others | {"roles": Home.TARGET, "users": Home.NEITHER}
    change(supabase, "ALTER TABLE roles DISABLE TRIGGER USER")
    with move.open_for_reading(supabase, engine) as connections:
        both = move.status(connections.target, connections.source)
    assert {table.home for table in both.tables} == {None}
    assert "both databases take writes to roles" in str(both.home_problem)
