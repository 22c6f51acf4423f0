"""Ids: the target never hands one out that the source has handed out."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Engine
from tests.database.days import Day, day, drop_slots
from tests.database.moves import ask, change, copy_into

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.move.switch.homes import Home
from tatame_db.move.switch.steps import Step
from tatame_db.move.switch.switch import switch
from tatame_db.schema import phases

__all__ = ["day"]


@pytest.fixture
def rejected_user(supabase: URL) -> URL:
    """Return a source whose user 20 refers to a role that does not exist."""
    change(
        supabase,
        "ALTER TABLE users DROP CONSTRAINT users_role_fkey",
        "INSERT INTO users (id, clerk_user_id, role) VALUES (20, 'user_twenty', 'NOBODY')",
    )
    return supabase


def copy(source: URL, engine: Engine, **options: Any) -> move.Report:
    return copy_into(source, engine, choices=move.Choices(orphans="reject"))(**options)


def next_ids(engine: Engine) -> dict[str, int]:
    """Return the next id of each table; takes none."""
    query = "SELECT CASE WHEN is_called THEN last_value + 1 ELSE last_value END FROM {}"
    sequences = ask(engine.url, "SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'")
    return {name.removesuffix("_id_seq"): ask(engine.url, query.format(name))[0][0] for (name,) in sequences}


@pytest.mark.parametrize(
    ("statement", "following"),
    [
        ("SELECT setval('users_id_seq', 120)", 121),
        ("ALTER SEQUENCE users_id_seq RESTART WITH 120", 120),
        ("ALTER SEQUENCE users_id_seq INCREMENT 10 RESTART WITH 120", 120),
        # As after a load of rows with ids of their own.
        ("SELECT setval('users_id_seq', 1)", 21),
        ("ALTER TABLE users ALTER id DROP IDENTITY", 21),
        (
            "ALTER TABLE users ALTER id DROP IDENTITY; CREATE SEQUENCE other; SELECT setval('other', 70);"
            " ALTER TABLE users ALTER id SET DEFAULT nextval('other')",
            71,
        ),
        (
            'CREATE SCHEMA "More s"; CREATE SEQUENCE "More s"."Other%\'s"; ALTER TABLE users ALTER id DROP IDENTITY;'
            " ALTER TABLE users ALTER id SET DEFAULT nextval('\"More s\".\"Other%''s\"');"
            " SELECT setval('\"More s\".\"Other%''s\"', 80)",
            81,
        ),
        # One that counts down has handed out all ids from its start.
        (
            "ALTER SEQUENCE users_id_seq INCREMENT -1 MINVALUE -9 MAXVALUE 900 START 900 RESTART 900;"
            " SELECT nextval('users_id_seq')",
            901,
        ),
        ("ALTER SEQUENCE users_id_seq INCREMENT -1 MINVALUE -9 MAXVALUE 900 START 900 RESTART 900", 21),
        ("SELECT setval('users_id_seq', 2147483645)", 2147483646),
    ],
)
@pytest.mark.parametrize("jobs", [1, 2])
def test_the_target_continues_after_every_id_of_the_source(
    rejected_user: URL, engine: Engine, jobs: int, statement: str, following: int
) -> None:
    change(rejected_user, statement)
    report = copy(rejected_user, engine, jobs=jobs)
    assert sum(table.rejected for table in report.tables) == 1
    assert next_ids(engine)["users"] == following
    # The next copy neither sets it back nor takes an id.
    copy(rejected_user, engine, jobs=jobs)
    assert next_ids(engine)["users"] == following
    change(engine.url, "INSERT INTO users (clerk_user_id) VALUES ('user_new')")
    assert ask(engine.url, "SELECT id FROM users WHERE clerk_user_id = 'user_new'") == [(following,)]


def test_the_sequence_of_the_target_is_never_set_back(rejected_user: URL, engine: Engine) -> None:
    change(engine.url, "SELECT setval('users_id_seq', 500); SELECT setval('checkins_id_seq', 80000, false)")
    for _ in range(2):
        copy(rejected_user, engine)
        assert (next_ids(engine)["users"], next_ids(engine)["checkins"]) == (501, 80_000)


def test_ids_that_the_target_could_never_reach_do_not_use_up_its_own(supabase: URL, engine: Engine) -> None:
    change(
        supabase,
        "INSERT INTO checkins (id) VALUES (2147483646), (2147483647), (2147483648), (-5)",
        "ALTER TABLE versions ALTER id DROP IDENTITY",
        "ALTER TABLE versions ALTER id TYPE text",
        "INSERT INTO versions (id) VALUES ('90'), ('later'), ('9000000000')",
    )
    copy_into(supabase, engine, choices=move.Choices(misfits="reject", rejects="keep"))()
    assert (next_ids(engine)["checkins"], next_ids(engine)["versions"]) == (70_001, 91)
    # The app adds more than one row afterwards.
    change(engine.url, *["INSERT INTO checkins DEFAULT VALUES"] * 2)


def test_a_high_id_on_the_target_does_not_use_up_those_of_the_source(day: Day) -> None:
    switch(day.source, day.engine)
    change(day.engine.url, "INSERT INTO checkins (id) VALUES (2147483646)")
    switch(day.source, day.engine, to=Home.SOURCE)
    change(day.source, *["INSERT INTO checkins DEFAULT VALUES"] * 2)
    assert ask(day.source, "SELECT max(id) FROM checkins WHERE id < 2000000000") == [(70_002,)]
    drop_slots(day.engine.url)


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_target_without_an_id_left_that_fits_the_source_does_not_go_back(day: Day, dry_run: bool) -> None:
    change(day.source, "ALTER TABLE checkins ALTER id TYPE integer")
    switch(day.source, day.engine)
    change(day.engine.url, "SELECT setval('checkins_id_seq', 2147483647)")
    steps: list[Step] = []
    with pytest.raises(move.IdsExhausted):
        switch(day.source, day.engine, to=Home.SOURCE, dry_run=dry_run, on_step=steps.append)
    assert steps == [Step.CHECK]
    drop_slots(day.engine.url)


@pytest.mark.parametrize("last", [2**31 - 1, 2**40])
def test_a_source_without_an_id_left_is_refused_by_plan_and_copy(supabase: URL, engine: Engine, last: int) -> None:
    change(supabase, f"SELECT setval('users_id_seq', {last})")
    with pytest.raises(move.IdsExhausted) as caught, move.open_for_reading(supabase, engine) as connections:
        move.plan(connections)
    assert (caught.value.table, caught.value.last, caught.value.largest) == ("users", last, 2**31 - 1)
    with pytest.raises(move.IdsExhausted):
        copy(supabase, engine)
    assert ask(engine.url, "SELECT to_regclass('tatame_move.runs')") == [(None,)]


def test_a_sequence_that_the_role_cannot_read_is_named(supabase: URL, engine: Engine) -> None:
    role = f"reader_{supabase.database}"
    change(supabase, f"CREATE ROLE {role} LOGIN BYPASSRLS; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    try:
        with (
            pytest.raises(move.SourceUnreadable) as caught,
            move.open_for_reading(supabase.set(username=role), engine) as connections,
        ):
            move.plan(connections)
        assert caught.value.forbidden[0].startswith("public.")
        change(supabase, f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {role}")
        with move.open_for_reading(supabase.set(username=role), engine) as connections:
            assert move.plan(connections).complete
    finally:
        change(supabase, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_trial_insert_neither_waits_for_the_app_nor_sets_its_sequence_back(supabase: URL, engine: Engine) -> None:
    copy(supabase, engine)
    before = next_ids(engine)
    with psycopg.connect(readable(engine.url)) as app:
        [taken] = app.execute("SELECT nextval('versions_id_seq')").fetchone() or ()
        report = copy(supabase, engine)
        assert set(report.insert_tested) == set(phases()) - {"roles"}
        following = next_ids(engine)
        assert following["versions"] > taken
        assert {name: value for name, value in following.items() if name != "versions"} == {
            name: value for name, value in before.items() if name != "versions"
        }


def test_a_trial_insert_leaves_the_sequences_of_empty_tables_alone(supabase: URL, engine: Engine) -> None:
    change(supabase, f"TRUNCATE {', '.join(phases())} RESTART IDENTITY")
    copy(supabase, engine)
    assert set(next_ids(engine).values()) == {1}
