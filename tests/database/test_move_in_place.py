"""What is on the target beside the rows of the source: a later copy changes none of it, or refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import URL, Engine
from tests.database.moves import Copy, ask, change, contents, copy_into, schema

from tatame_db import move
from tatame_db.database.pool import Database
from tatame_db.schema import phases

ACTIONS = ["CASCADE", "SET NULL", "SET DEFAULT", "NO ACTION", "RESTRICT"]
CHANGES = (
    "UPDATE users SET email = 'x' || id; UPDATE gyms SET logo = 'x'; DELETE FROM checkins WHERE id = 1;"
    " INSERT INTO users (id, clerk_user_id) VALUES (9, 'user_new')"
)


@pytest.fixture
def copy(supabase: URL, engine: Engine) -> Copy:
    return copy_into(supabase, engine)


@pytest.fixture(params=["row by row", "by ranges"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "by ranges":
        monkeypatch.setattr("tatame_db.move.prepare.FEW_ROWS", 0)
    return str(request.param)


@pytest.fixture
def verify(supabase: URL, engine: Engine) -> Callable[[], list[str]]:
    def verify() -> list[str]:
        with move.open_for_reading(supabase, engine) as connections:
            return move.verify(connections).unequal

    return verify


def add_notes(engine: Engine, action: str = "CASCADE") -> None:
    """Create a table of the team's own, with 20 rows that refer to the users 1 and 2."""
    change(
        engine.url,
        "CREATE TABLE notes (id int PRIMARY KEY, user_id int DEFAULT 1"
        f" CONSTRAINT notes_user REFERENCES users ON DELETE {action});"
        " INSERT INTO notes SELECT n, 1 + n % 2 FROM generate_series(1, 20) AS n",
    )


def notes(engine: Engine) -> list[tuple[int, int]]:
    return [(key, user) for key, user in ask(engine.url, "SELECT id, user_id FROM notes ORDER BY id")]


# --- Tables of the team's own ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("action", ACTIONS)
def test_rows_that_refer_to_a_changed_row_stay(
    copy: Copy, supabase: URL, engine: Engine, verify: Callable[[], list[str]], action: str
) -> None:
    copy()
    add_notes(engine, action)
    before, created = notes(engine), schema(engine)
    change(supabase, CHANGES)
    report = {table.table: table for table in copy(jobs=2 if action == "CASCADE" else 1).tables}
    assert verify() == []
    assert (notes(engine), schema(engine)) == (before, created)
    assert len(before) == 20
    assert (report["users"].written, report["users"].deleted) == (4, 0)


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("action", ACTIONS)
def test_a_copy_that_would_delete_a_row_that_is_referred_to_is_refused_before_it_writes(
    copy: Copy, supabase: URL, engine: Engine, verify: Callable[[], list[str]], action: str
) -> None:
    copy()
    add_notes(engine, action)
    change(
        engine.url,
        "INSERT INTO users (id, clerk_user_id) VALUES (7, 'user_own'); UPDATE notes SET user_id = 7 WHERE id < 4",
    )
    change(supabase, CHANGES)
    before = contents(engine.url) | {"notes": notes(engine)}
    with pytest.raises(move.RowsStillReferenced) as caught:
        copy(replace_rows=True)
    assert caught.value.references == [
        f"3 rows of notes to users, for example to the id 7, by notes_user (ON DELETE {action})"
    ]
    assert contents(engine.url) | {"notes": notes(engine)} == before
    assert ask(engine.url, "SELECT count(*) FROM tatame_move.runs") == [(1,)]
    change(engine.url, "DELETE FROM notes WHERE user_id = 7")
    copy(replace_rows=True)
    assert verify() == []
    assert len(notes(engine)) == 17


def test_a_reference_that_the_app_adds_during_the_copy_is_not_lost(copy: Copy, supabase: URL, engine: Engine) -> None:
    copy()
    add_notes(engine)
    change(supabase, "DELETE FROM users WHERE id = -5")

    def refer(done: move.TableCopy) -> None:
        if done.table == "gyms":
            change(engine.url, "INSERT INTO notes VALUES (21, -5)")

    with pytest.raises(move.RowsStillReferenced) as caught:
        copy(on_table=refer)
    assert caught.value.references == [
        "1 row of notes to users, for example to the id -5, by notes_user (ON DELETE CASCADE)"
    ]
    assert ask(engine.url, "SELECT count(*) FROM users") == [(3,)]
    assert len(notes(engine)) == 21


def test_a_row_that_becomes_rejected_is_deleted_unless_it_is_referred_to(
    copy: Copy, supabase: URL, engine: Engine, verify: Callable[[], list[str]]
) -> None:
    copy()
    add_notes(engine)
    change(supabase, "UPDATE users SET created_at = 'infinity', role = NULL WHERE id = -5")
    copy(choices=move.Choices(rejects="keep"))
    assert ask(engine.url, "SELECT id FROM users ORDER BY id") == [(1,), (2,)]
    assert ask(engine.url, "SELECT id FROM tatame_move.rejects") == [("-5",)]
    assert verify() == ["users"]
    change(supabase, "UPDATE users SET created_at = 'infinity' WHERE id = 2")
    with pytest.raises(move.RowsStillReferenced, match="10 rows of notes to users, for example to the id 2,"):
        copy(choices=move.Choices(rejects="keep", orphans="null"))
    assert len(notes(engine)) == 20


def test_a_table_that_the_role_cannot_read_is_reported(supabase: URL, engine: Engine) -> None:
    role = f"mover of {engine.url.database}"
    change(
        engine.url,
        f'CREATE ROLE "{role}" LOGIN; GRANT CREATE ON DATABASE "{engine.url.database}" TO "{role}";'
        f' GRANT USAGE ON SCHEMA tatame_migrations TO "{role}"; GRANT SELECT ON ALL TABLES IN SCHEMA'
        f' tatame_migrations TO "{role}"; GRANT CREATE ON SCHEMA public TO "{role}"',
        *(f'ALTER TABLE public."{table}" OWNER TO "{role}"' for table in phases()),
    )
    with Database(engine.url.set(username=role)) as database:
        copy = copy_into(supabase, database.engine)
        copy()
        add_notes(engine)
        change(supabase, CHANGES)
        with pytest.raises(move.ReferencesUnreadable, match="permission denied for table notes"):
            copy()
        change(engine.url, f'GRANT SELECT ON notes TO "{role}"')
        copy()
    assert len(notes(engine)) == 20
    change(engine.url, f'REASSIGN OWNED BY "{role}" TO postgres; DROP OWNED BY "{role}"; DROP ROLE "{role}"')


@pytest.mark.usefixtures("mode")
def test_a_key_to_another_column_than_the_id_is_not_reached_either(
    copy: Copy, supabase: URL, engine: Engine, verify: Callable[[], list[str]]
) -> None:
    copy()
    change(
        engine.url,
        "CREATE TABLE accounts (clerk text CONSTRAINT account REFERENCES users (clerk_user_id) ON UPDATE CASCADE)",
        "INSERT INTO accounts VALUES ('user_ana')",
    )
    change(supabase, "UPDATE users SET clerk_user_id = 'user_changed' WHERE id = 2")
    copy()
    assert verify() == []
    change(supabase, "UPDATE users SET clerk_user_id = 'user_maria' WHERE id = 1")
    with pytest.raises(move.RowsStillReferenced) as caught:
        copy()
    assert caught.value.references == [
        "1 row of accounts to users, for example to the id 1, by account (ON DELETE NO ACTION)"
    ]
    assert ask(engine.url, "SELECT clerk FROM accounts") == [("user_ana",)]
    change(engine.url, "DELETE FROM accounts")
    copy()
    assert verify() == []


# --- Columns of the team's own ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("mode")
def test_a_column_that_was_added_and_filled_by_hand_keeps_its_values(
    copy: Copy, supabase: URL, engine: Engine, verify: Callable[[], list[str]]
) -> None:
    copy()
    change(engine.url, "ALTER TABLE users ADD nickname text; UPDATE users SET nickname = 'nick of ' || id")
    change(supabase, CHANGES)
    copy()
    assert verify() == []
    assert ask(engine.url, "SELECT id, nickname FROM users ORDER BY id") == [
        (-5, "nick of -5"),
        (1, "nick of 1"),
        (2, "nick of 2"),
        (9, None),
    ]
    change(engine.url, "UPDATE users SET nickname = 'later'")
    with move.open_target(engine) as target:
        assert [table.table for table in move.status(target).tables if table.stale] == []


def test_the_plan_names_keys_and_columns_that_are_not_in_the_models(supabase: URL, engine: Engine) -> None:
    change(
        engine.url,
        "CREATE TABLE notes (user_id int CONSTRAINT notes_user REFERENCES users ON DELETE CASCADE)",
        "ALTER TABLE users ADD nickname text, ADD age numeric(3, 1) NOT NULL DEFAULT 1",
        "CREATE SCHEMA own; CREATE TABLE own.visits (gym_id int CONSTRAINT visited REFERENCES gyms)",
        "ALTER TABLE checkins ADD door int CONSTRAINT doors REFERENCES gyms ON DELETE SET NULL",
    )
    with move.open_for_reading(supabase, engine) as connections:
        plan = move.plan(connections)
    assert plan.complete
    assert [(found.table, found.kind, found.name, found.description) for found in plan.target_objects] == [
        ("gyms", "foreign key", "visited", "of own.visits, ON DELETE NO ACTION"),
        ("gyms", "foreign key", "doors", "of checkins, ON DELETE SET NULL"),
        ("users", "foreign key", "notes_user", "of notes, ON DELETE CASCADE"),
        ("users", "column", "nickname", "text"),
        ("users", "column", "age", "numeric(3,1)"),
        ("checkins", "column", "door", "integer"),
    ]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (
            "ALTER TABLE users ADD nickname text NOT NULL",
            "nickname of the target may not be NULL, has no default, and is not in the models",
        ),
        ("ALTER TABLE users DROP phone", "the target has no column phone"),
        (
            "ALTER TABLE users DROP phone, ADD phone text GENERATED ALWAYS AS (email) STORED",
            "phone is generated on the target, so it cannot be copied",
        ),
    ],
)
def test_a_column_of_the_target_that_keeps_rows_from_being_written_is_an_obstacle(
    copy: Copy, supabase: URL, engine: Engine, statement: str, reason: str
) -> None:
    change(engine.url, statement)
    with move.open_for_reading(supabase, engine) as connections:
        plan = move.plan(connections)
    assert [(found.kind, found.reason, found.rows) for found in plan.unresolved] == [("target-column", reason, 3)]
    with pytest.raises(move.ObstaclesUnresolved, match="target-column"):
        copy()
    with move.open_target(engine) as target:
        assert move.status(target).tables


# --- Unique values that move from one row to another -----------------------------------------------------------------


@pytest.mark.usefixtures("mode")
def test_unique_values_that_move_between_rows_are_written_in_place(
    copy: Copy, supabase: URL, engine: Engine, verify: Callable[[], list[str]]
) -> None:
    change(supabase, "INSERT INTO users (id, clerk_user_id, email) SELECT n, n, n FROM generate_series(100, 150) AS n")
    copy()
    add_notes(engine)
    unique = "users_clerk_user_id_unique"
    change(
        engine.url,
        "CREATE UNIQUE INDEX own ON users (lower(email)) WHERE id > 50; COMMENT ON INDEX own IS 'of ''the'' team'",
        "COMMENT ON CONSTRAINT users_clerk_user_id_unique ON users IS 'one account'",
        f"ALTER TABLE users REPLICA IDENTITY USING INDEX {unique}, CLUSTER ON {unique}",
    )
    before, created = notes(engine), schema(engine)
    attributes = (
        "SELECT obj_description('own'::regclass), (SELECT obj_description(oid) FROM pg_constraint WHERE conname ="
        " 'users_clerk_user_id_unique'), (SELECT array_agg(indexrelid::regclass::text) FROM pg_index"
        " WHERE indisreplident), (SELECT array_agg(indexrelid::regclass::text) FROM pg_index WHERE indisclustered)"
    )
    assert ask(engine.url, attributes) == [("of 'the' team", "one account", [unique], [unique])]
    # A swap, a chain of ten whose first value is free and whose last row is new, and a circle of twenty.
    change(
        supabase,
        "UPDATE users SET clerk_user_id = CASE id WHEN 1 THEN 'user_bia 🥋' ELSE 'user_ana' END WHERE id IN (1, 2);"
        " UPDATE users SET clerk_user_id = id - 1, email = id - 1 WHERE id BETWEEN 101 AND 110;"
        " UPDATE users SET clerk_user_id = 'free', email = 'free' WHERE id = 100;"
        " INSERT INTO users (id, clerk_user_id, email) VALUES (200, '110', '110');"
        " UPDATE users SET clerk_user_id = 120 + (id - 119) % 20, email = 120 + (id - 119) % 20"
        " WHERE id BETWEEN 120 AND 139",
    )
    report = {table.table: table for table in copy().tables}
    assert verify() == []
    assert (notes(engine), schema(engine)) == (before, created)
    assert ask(engine.url, attributes) == [("of 'the' team", "one account", [unique], [unique])]
    assert (report["users"].written, report["users"].deleted) == (34, 0)


def test_a_value_that_two_rows_have_is_reported_and_nothing_is_written(
    copy: Copy, supabase: URL, engine: Engine
) -> None:
    copy()
    change(engine.url, "CREATE UNIQUE INDEX own ON users (email)")
    change(supabase, "UPDATE users SET email = 'ana@gym.example'")
    before, created = contents(engine.url), schema(engine)
    with pytest.raises(move.RowsRefused, match='could not create unique index "own"') as caught:
        copy()
    assert "@" not in str(caught.value)
    assert (contents(engine.url), schema(engine)) == (before, created)


def test_a_swap_under_a_key_of_another_table_is_reported_in_words(copy: Copy, supabase: URL, engine: Engine) -> None:
    copy()
    change(engine.url, "CREATE TABLE accounts (clerk text REFERENCES users (clerk_user_id))")
    change(
        supabase,
        "UPDATE users SET clerk_user_id = 'x' WHERE id = 1; UPDATE users SET clerk_user_id = 'user_ana' WHERE id = 2;"
        " UPDATE users SET clerk_user_id = 'user_bia 🥋' WHERE id = 1",
    )
    with pytest.raises(move.RowsRefused, match="other objects depend on it"):
        copy()
