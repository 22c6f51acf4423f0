"""Keys and indexes of the models come back as they were, and those of the team's own are never dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Engine
from tests.database.moves import Copy, ask, change, contents, copy_into, schema

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.move.record import Record


@pytest.fixture
def copy(supabase: URL, engine: Engine) -> Copy:
    return copy_into(supabase, engine)


@pytest.fixture
def status(engine: Engine) -> Callable[[], move.MoveStatus]:
    def status() -> move.MoveStatus:
        with move.open_target(engine) as target:
            return move.status(target)

    return status


def park(supabase: URL, engine: Engine) -> None:
    """Leave all keys and indexes of the models dropped, as a killed run does."""
    with move.open_for_writing(supabase, engine, lambda: None) as connections:
        Record(connections.target).park()
        connections.target.driver.commit()


def add_parked(engine: Engine, name: str, definition: str) -> None:
    with psycopg.connect(readable(engine.url)) as connection:
        connection.execute(
            "INSERT INTO tatame_move.parked (kind, table_name, name, definition)"
            " OVERRIDING SYSTEM VALUE VALUES ('index', 'users', %s, %s)",
            (name, definition),
        )


OWN = """
    CREATE TABLE doors (id int PRIMARY KEY);
    ALTER TABLE checkins ADD door int;
    CREATE INDEX own_index ON checkins (door);
    CREATE UNIQUE INDEX own_unique ON checkins (created_at, id);
    ALTER TABLE checkins ADD CONSTRAINT own_key FOREIGN KEY (door) REFERENCES doors;
    ALTER TABLE checkins ADD CONSTRAINT own_gym FOREIGN KEY (door) REFERENCES gyms NOT VALID;
    COMMENT ON INDEX own_index IS 'ours'
"""


def own(engine: Engine) -> list[tuple[Any, ...]]:
    """Return the internal numbers of what the team has added, which change when it is created again."""
    return ask(
        engine.url,
        "SELECT relname, oid FROM pg_class WHERE relname IN ('own_index', 'own_unique')"
        " UNION ALL SELECT conname, oid FROM pg_constraint WHERE conname IN ('own_key', 'own_gym') ORDER BY 1",
    )


def test_what_the_models_do_not_have_is_left_in_place(
    copy: Copy, supabase: URL, engine: Engine, status: Callable[[], move.MoveStatus]
) -> None:
    change(engine.url, OWN)
    before, created = own(engine), schema(engine)
    assert len(before) == 4
    report = copy()
    assert report.foreign_keys == 12
    change(supabase, "DELETE FROM checkins WHERE id = 1; DELETE FROM users WHERE id = -5")
    copy()
    park(supabase, engine)
    assert own(engine) == before
    copy()
    assert (own(engine), schema(engine)) == (before, created)
    # The key that is not valid stays so, and leaves nothing unfinished.
    assert (status().parked, status().unvalidated_keys) == ([], [])


def test_rows_that_violate_an_index_of_the_team_are_not_committed(
    copy: Copy, engine: Engine, status: Callable[[], move.MoveStatus]
) -> None:
    change(engine.url, "CREATE UNIQUE INDEX own ON users ((email IS NULL))")
    created = schema(engine)
    with pytest.raises(move.RowsRefused) as caught:
        copy()
    assert caught.value.reason == 'duplicate key value violates unique constraint "own"'
    assert contents(engine.url)["users"] == []
    assert set(schema(engine)) == set(created)
    assert status().parked == []


@pytest.mark.parametrize(
    ("expression", "reason", "fix"),
    [
        ("nothing", 'column "nothing" does not exist', "ALTER TABLE users ADD nothing text"),
        ("(email::integer)", "a value is rejected (SQLSTATE 22P02)", "UPDATE users SET email = NULL"),
    ],
)
def test_an_index_that_cannot_be_created_keeps_no_other_away(
    *,
    copy: Copy,
    supabase: URL,
    engine: Engine,
    status: Callable[[], move.MoveStatus],
    expression: str,
    reason: str,
    fix: str,
) -> None:
    copy()
    created = schema(engine)
    add_parked(engine, "broken", f"CREATE INDEX broken ON public.users ({expression})")
    park(supabase, engine)
    for _ in range(2):
        with pytest.raises(move.KeysNotRestored) as caught:
            copy()
        assert caught.value.problems == [f"users.broken: {reason}"]
        assert status().parked == ["users.broken"]
    run = status().last_run
    assert run
    assert (run.outcome, run.error) == ("failed", caught.value.what)
    assert set(schema(engine)) == set(created)
    if fix.startswith("UPDATE"):
        change(supabase, fix)
    else:
        change(engine.url, fix)
    copy()
    assert status().parked == []


def test_an_index_that_a_person_has_created_meanwhile_is_taken_as_it_is(
    copy: Copy, supabase: URL, engine: Engine, status: Callable[[], move.MoveStatus]
) -> None:
    copy()
    created = schema(engine)
    park(supabase, engine)
    change(
        engine.url,
        "CREATE INDEX gyms_manager_id_index ON gyms (manager_id); ALTER TABLE users ADD CONSTRAINT"
        " users_gym_id_gyms_id_fk FOREIGN KEY (gym_id) REFERENCES gyms",
    )
    copy()
    assert schema(engine) == created
    assert status().parked == []


def test_keys_and_indexes_come_back_even_if_the_record_of_a_killed_run_is_deleted(
    copy: Copy, supabase: URL, engine: Engine
) -> None:
    before = schema(engine)
    copy()
    park(supabase, engine)
    change(engine.url, "DROP SCHEMA tatame_move CASCADE", "DELETE FROM checkins")
    assert schema(engine) != before
    assert copy(replace_rows=True).foreign_keys == 12
    assert schema(engine) == before


def test_every_key_and_index_of_the_models_that_is_missing_is_created(copy: Copy, engine: Engine) -> None:
    before = schema(engine)
    change(
        engine.url,
        """DO $$ DECLARE found record; BEGIN
        FOR found IN SELECT conrelid::regclass AS place, conname FROM pg_constraint
            WHERE contype IN ('f', 'u') AND connamespace = 'public'::regnamespace ORDER BY contype
        LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', found.place, found.conname); END LOOP;
        FOR found IN SELECT conrelid::regclass AS place, conname FROM pg_constraint
            WHERE contype = 'p' AND connamespace = 'public'::regnamespace
        LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', found.place, found.conname); END LOOP;
        FOR found IN SELECT indexrelid::regclass AS place FROM pg_index JOIN pg_class c ON c.oid = indexrelid
            WHERE relnamespace = 'public'::regnamespace
        LOOP EXECUTE format('DROP INDEX %s', found.place); END LOOP; END $$""",
    )
    copy()
    assert schema(engine) == before


def test_a_key_of_the_models_with_another_name_is_no_missing_one(copy: Copy, engine: Engine) -> None:
    change(
        engine.url,
        "ALTER TABLE users RENAME CONSTRAINT users_gym_id_gyms_id_fk TO home",
        "ALTER TABLE users RENAME CONSTRAINT users_clerk_user_id_unique TO who",
    )
    before = schema(engine)
    assert copy().foreign_keys == 12
    assert schema(engine) == before


def test_comments_marks_and_tablespaces_come_back(copy: Copy, supabase: URL, engine: Engine) -> None:
    space = f"space of {engine.url.database}"
    with psycopg.connect(readable(engine.url), autocommit=True) as connection:
        connection.execute("SET allow_in_place_tablespaces = true")
        connection.execute(f"CREATE TABLESPACE \"{space}\" LOCATION ''".encode())
    index, key = "checkins_user_id_date_index", "checkins_user_id_users_id_fk"
    change(
        engine.url,
        f"ALTER TABLE checkins CLUSTER ON {index}; COMMENT ON INDEX {index} IS E'when\\\\they ''trained''';"
        f" ALTER INDEX {index} SET TABLESPACE \"{space}\"; COMMENT ON CONSTRAINT {key} ON checkins IS '100% sure'",
    )

    def attributes() -> list[tuple[Any, ...]]:
        return ask(
            engine.url,
            "SELECT obj_description(indexrelid), spcname, indisclustered FROM pg_index JOIN pg_class c"
            " ON c.oid = indexrelid JOIN pg_tablespace s ON s.oid = reltablespace"
            f" WHERE relname = '{index}' UNION ALL"
            f" SELECT obj_description(oid), NULL, NULL FROM pg_constraint WHERE conname = '{key}'",
        )

    before = attributes()
    assert before == [("when\\they 'trained'", space, True), ("100% sure", None, None)]
    copy()
    park(supabase, engine)
    assert attributes() == []
    copy()
    assert attributes() == before
    change(engine.url, f"ALTER INDEX {index} SET TABLESPACE pg_default", f'DROP TABLESPACE "{space}"')


LAX = "ALTER TABLE checkins ADD CONSTRAINT lax FOREIGN KEY (user_id) REFERENCES users NOT ENFORCED"


def test_a_key_that_is_not_enforced_stays_so(
    copy: Copy, supabase: URL, engine: Engine, status: Callable[[], move.MoveStatus]
) -> None:
    change(
        engine.url,
        "ALTER TABLE checkins ADD door int, ADD CONSTRAINT own FOREIGN KEY (door) REFERENCES gyms NOT ENFORCED",
        # The key of the models has the same columns, and applies.
        LAX,
    )
    created = schema(engine)
    assert copy().foreign_keys == 12
    change(supabase, "DELETE FROM users WHERE id = -5")
    copy()
    park(supabase, engine)
    copy()
    assert schema(engine) == created
    assert (status().parked, status().unvalidated_keys) == ([], [])


def test_a_key_of_the_models_that_is_not_enforced_is_refused_and_reported(
    copy: Copy, supabase: URL, engine: Engine, status: Callable[[], move.MoveStatus]
) -> None:
    change(engine.url, "ALTER TABLE checkins DROP CONSTRAINT checkins_user_id_users_id_fk", LAX)
    with move.open_for_reading(supabase, engine) as connections:
        assert [refusal.split(":")[0] for refusal in move.plan(connections).refusals] == [
            "foreign keys of the target are disabled"
        ]
    with pytest.raises(move.KeysDisabled) as caught:
        copy()
    assert caught.value.what == "foreign keys of the target are disabled: checkins.lax (NOT ENFORCED)"
    assert caught.value.fix.startswith("run `ALTER TABLE … ALTER CONSTRAINT … ENFORCED`")
    assert status().unvalidated_keys == ["checkins.lax"]
    change(engine.url, "ALTER TABLE checkins ALTER CONSTRAINT lax ENFORCED")
    assert copy().foreign_keys == 12
    assert status().unvalidated_keys == []


def test_every_violated_key_is_named_with_the_number_of_rows(
    copy: Copy, supabase: URL, engine: Engine, status: Callable[[], move.MoveStatus]
) -> None:
    copy()
    park(supabase, engine)
    change(
        engine.url,
        "UPDATE checkins SET user_id = 99; UPDATE class SET gym_id = 98 WHERE id = 1",
    )
    with pytest.raises(move.ForeignKeyViolated) as caught:
        copy("roles")
    assert caught.value.violations == [
        "2 rows of checkins violate checkins_user_id_users_id_fk",
        "1 row of class violate class_gym_id_gyms_id_fk",
    ]
    assert status().unvalidated_keys == ["checkins.checkins_user_id_users_id_fk", "class.class_gym_id_gyms_id_fk"]
    copy(replace_rows=True)
    assert (status().parked, status().unvalidated_keys) == ([], [])


def test_keys_of_a_partitioned_table_come_back_on_a_server_that_validates_them_at_once(
    supabase: URL, older_engine: Engine
) -> None:
    copy = copy_into(supabase, older_engine)
    change(
        older_engine.url,
        "ALTER TABLE checkins RENAME TO old; CREATE TABLE checkins (LIKE old INCLUDING DEFAULTS INCLUDING IDENTITY,"
        " PRIMARY KEY (id)) PARTITION BY HASH (id); ALTER SEQUENCE checkins_id_seq OWNED BY checkins.id; DROP TABLE old"
        "; CREATE TABLE every PARTITION OF checkins FOR VALUES WITH (MODULUS 1, REMAINDER 0);"
        " ALTER TABLE checkins ADD CONSTRAINT checkins_user_id_users_id_fk FOREIGN KEY (user_id) REFERENCES users,"
        " ADD CONSTRAINT checkins_class_id_class_id_fk FOREIGN KEY (class_id) REFERENCES class",
    )
    keys = (
        "SELECT conrelid::regclass::text, conname, convalidated FROM pg_constraint"
        " WHERE contype = 'f' AND connamespace = 'public'::regnamespace ORDER BY 1, 2"
    )
    before = ask(older_engine.url, keys)
    assert copy().foreign_keys == 12
    change(supabase, 'UPDATE checkins SET "userId" = NULL; DELETE FROM users WHERE id = -5')
    copy()
    assert ask(older_engine.url, keys) == before
    park(supabase, older_engine)
    change(older_engine.url, "UPDATE checkins SET user_id = 99")
    with pytest.raises(move.KeysNotRestored, match="violates foreign key") as caught:
        copy("roles")
    assert "checkins.checkins_user_id_users_id_fk" in caught.value.problems[0]
    copy(replace_rows=True)
    assert ask(older_engine.url, keys) == before
