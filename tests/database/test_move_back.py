"""Rows written on the new home come back to the source exactly, and nothing else there changes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Engine
from tests.conftest import HERE, on_both_versions, run_sql
from tests.database.moves import Row, ask, change, close_source, contents, copy_into

from tatame_db.database.address import readable
from tatame_db.database.pool import Database
from tatame_db.move.back.errors import RowsNotReturnable, SourceNotWritable
from tatame_db.move.back.flow import BackFlow, back_obstacles
from tatame_db.move.choices import Choices, Obstacle
from tatame_db.move.connection import MoveConnection
from tatame_db.move.flow import Flow
from tatame_db.move.follow.loop import FollowOptions, follow
from tatame_db.move.open import open_source_for_writing, open_target
from tatame_db.move.rehearsal.project import SUPABASE_SCHEMA
from tatame_db.move.switch.fence import open_
from tatame_db.move.switch.token import token_hash
from tatame_db.schema import phases
from tatame_db.testing.runs import Run

# One row each that a copy rejects or empties a value of: an orphan, a value out of range, an id out of range.
EXCLUDED = (
    'ALTER TABLE checkins DROP CONSTRAINT "checkins_userId_fkey"',
    "INSERT INTO checkins (id, \"userId\", date) VALUES (5, 99, '2024-01-01'), (6, 1, 'infinity')",
    'INSERT INTO checkins (id, "userId") VALUES (2147483648, 1)',
)
CHOICES = {"orphans": "reject", "misfits": "null", "rejects": "keep"}


def begin(flow: Flow) -> None:
    flow.begin()


@dataclass(frozen=True)
class Moved:
    """A project and the target of its move."""

    source: URL
    engine: Engine

    def copy(self, **choices: Any) -> None:
        copy_into(self.source, self.engine)(choices=Choices(**choices))
        close_source(self.source, self.engine)

    def at_source(self, *statements: str) -> None:
        """Change the source, also behind its fences."""
        tokens = ask(self.engine.url, "SELECT to_regclass('tatame_move.token') IS NOT NULL")
        if tokens == [(True,)]:
            [(token,)] = ask(self.engine.url, "SELECT value FROM tatame_move.token")
            statements = (f"SET tatame_move.token = '{token}'", *statements)
        change(self.source, *statements)

    def on_target(self, *statements: str) -> None:
        change(self.engine.url, *statements)

    def ask(self, query: str) -> list[Row]:
        return ask(self.source, query)

    @contextlib.contextmanager
    def flow(self, *, token: str | None = None, **choices: Any) -> Generator[BackFlow]:
        with open_target(self.engine) as home, open_source_for_writing(self.source) as follower:
            flow = BackFlow(home, follower, token=token, choices=Choices(**choices))
            begin(flow)
            yield flow

    def back(self, **options: Any) -> dict[str, tuple[int, int]]:
        """Write all differing rows back, prove the tables equal, and return the numbers of rows."""
        with self.flow(**options) as flow:
            applied = flow.compare_whole(flow.tables)
            proofs = flow.prove(flow.tables)
            assert {name: proof for name, proof in proofs.items() if proof[0] != proof[1]} == {}
            assert set(proofs) == set(flow.tables)
            return {table.table: (table.deleted, table.written) for table in applied}

    def obstacles(self, **choices: Any) -> tuple[dict[str, list[Obstacle]], bool]:
        with self.flow(**choices) as flow:
            return back_obstacles(flow)

    def kinds(self, **choices: Any) -> dict[tuple[str, str], int]:
        found, _ = self.obstacles(**choices)
        return {(table, obstacle.kind): obstacle.rows for table, its in found.items() for obstacle in its}


@pytest.fixture
def not_moved(supabase: URL, engine: Engine) -> Moved:
    return Moved(supabase, engine)


@pytest.fixture(scope="module")
def _templates(_tatame_run: Run) -> Generator[tuple[URL, URL]]:
    source, target = _tatame_run.sandbox.create(), _tatame_run.clone()
    for file in (SUPABASE_SCHEMA, HERE / "supabase_rows.sql"):
        run_sql(source, file.read_text())
    with Database(target) as database:
        copy_into(source, database.engine)()
        close_source(source, database.engine)
    yield source, target
    for used in (source, target):
        _tatame_run.sandbox.drop(str(used.database))


@pytest.fixture
def moved(_templates: tuple[URL, URL], _tatame_run: Run) -> Generator[Moved]:
    """A project that was moved, without a copy for each test."""
    source, target = (_tatame_run.sandbox.create(str(template.database)) for template in _templates)
    with Database(target) as database:
        yield Moved(source, database.engine)
    for used in (source, target):
        _tatame_run.sandbox.drop(str(used.database))


# --- Rows ------------------------------------------------------------------------------------------------------------


@on_both_versions
def test_all_that_was_written_on_the_target_is_at_the_source_afterwards(not_moved: Moved) -> None:
    not_moved.copy()
    before = contents(not_moved.source)
    assert not_moved.back() == {}
    assert contents(not_moved.source) == before
    not_moved.on_target(
        "UPDATE users SET email = 'x', migrated_at = '2024-05-01 10:00:00.5', approved_at = '9999-12-31' WHERE id = 1",
        "INSERT INTO users (id, clerk_user_id, created_at) VALUES (3, 'c', '2024-01-01'), (4, E'\\\\N', '0001-01-01')",
        "INSERT INTO gyms (id, name, address, manager_id, since, created_at) VALUES"
        " (3, 'g', '', 4, '0001-01-01', '2024-01-01')",
        "UPDATE users SET gym_id = 3 WHERE id = 3",
        "UPDATE class SET start = '23:59', \"end\" = NULL, deleted_at = NULL WHERE id = 1",
        "DELETE FROM checkins WHERE id = 70000",
        "UPDATE notifications SET recipients = '[0:1]={a,NULL}', viewed_by = '{{\",\"},{\\\\}}' WHERE id = 2",
        "DELETE FROM notifications WHERE id = 3",
    )
    assert not_moved.back() == {
        "users": (0, 3),
        "gyms": (0, 1),
        "class": (0, 1),
        "checkins": (1, 0),
        "notifications": (1, 1),
    }
    expected = {table: {row[0] for row in rows} for table, rows in before.items()}
    assert not_moved.ask("SELECT email, migrated_at::text, approved_at::text FROM users WHERE id = 1") == [
        ("x", "2024-05-01 10:00:00.5+00", "9999-12-31")
    ]
    assert not_moved.ask(
        "SELECT id, clerk_user_id, gym_id, created_at::text FROM users WHERE id IN (3, 4) ORDER BY 1"
    ) == [
        (3, "c", 3, "2024-01-01 00:00:00+00"),
        (4, "\\N", None, "0001-01-01 00:00:00+00"),
    ]
    assert not_moved.ask('SELECT name, "managerId", since::text, created_at::text FROM gyms WHERE id = 3') == [
        ("g", 4, "0001-01-01", "2024-01-01 00:00:00+00")
    ]
    assert not_moved.ask('SELECT start::text, "end", deleted_at FROM class WHERE id = 1') == [("23:59:00", None, None)]
    assert not_moved.ask("SELECT recipients::text, viewed_by::text FROM notifications WHERE id = 2") == [
        ("[0:1]={a,NULL}", '{{","},{"\\\\"}}')
    ]
    after = {table: {row[0] for row in rows} for table, rows in contents(not_moved.source).items()}
    assert {table: len(after[table] ^ expected[table]) for table in after if after[table] != expected[table]} == {
        "users": 4,
        "gyms": 1,
        "class": 2,
        "checkins": 1,
        "notifications": 3,
    }
    # Once more changes nothing.
    assert not_moved.back() == {}


def test_only_the_rows_with_these_ids_are_written(moved: Moved) -> None:
    moved.on_target(
        "UPDATE users SET email = 'x'",
        "INSERT INTO users (id, clerk_user_id) VALUES (3, 'c'), (4, 'd')",
        "DELETE FROM checkins",
    )
    with moved.flow() as flow:
        for _ in range(2):
            applied = flow.apply({"checkins": {"1"}, "users": ["1", "3", "12345678"]})
        flow.follower.driver.rollback()
        assert moved.ask("SELECT count(*) FROM users WHERE email = 'x'") == [(0,)]
        applied = flow.apply({"checkins": {"1"}, "users": ["1", "3", "12345678"]})
        flow.follower.driver.commit()
    assert {(table.table, table.deleted, table.written) for table in applied} == {("users", 0, 2), ("checkins", 1, 0)}
    assert moved.ask("SELECT id FROM users WHERE email = 'x' OR id > 2 ORDER BY id") == [(1,), (3,)]
    assert moved.ask("SELECT id FROM checkins") == [(70000,)]


def test_a_value_that_is_equal_keeps_the_form_that_the_source_has(not_moved: Moved) -> None:
    not_moved.at_source(
        "ALTER TABLE class ALTER start TYPE text USING start::text",
        "ALTER TABLE users ALTER migrated_at TYPE text USING replace(migrated_at::text, ' ', 'T')",
        "ALTER TABLE notifications ALTER recipients TYPE json USING '[ \"a\" ]'",
    )
    not_moved.copy()
    query = (
        "SELECT (SELECT start FROM class WHERE id = 1), (SELECT migrated_at FROM users WHERE id = 1),"
        " (SELECT recipients::text FROM notifications WHERE id = 1)"
    )
    before = not_moved.ask(query)
    not_moved.on_target(
        *(
            f"UPDATE {table} SET created_at = '2020-01-01' WHERE id = 1"
            for table in ("class", "users", "notifications")
        ),
    )
    assert not_moved.back() == {"class": (0, 1), "users": (0, 1), "notifications": (0, 1)}
    assert not_moved.ask(query) == before == [("18:30:00", "2024-05-01T13:00:00.123456+00", '[ "a" ]')]


@on_both_versions
def test_what_a_copy_excluded_stays_as_it_is_at_the_source(not_moved: Moved) -> None:
    not_moved.at_source(*EXCLUDED)
    not_moved.copy(**CHOICES)
    excluded = "SELECT t::text FROM checkins AS t WHERE id IN (5, 6, 2147483648) ORDER BY id"
    before = not_moved.ask(excluded)
    assert not_moved.back() == {}
    not_moved.on_target("DELETE FROM checkins WHERE id = 1", "UPDATE checkins SET class_id = 2 WHERE id = 6")
    assert not_moved.back() == {"checkins": (1, 1)}
    assert [before[0], before[2]] == [row for row in not_moved.ask(excluded) if "infinity" not in row[0]]
    assert not_moved.ask('SELECT "classId", date::text FROM checkins WHERE id = 6') == [(2, "infinity")]
    # A value that the app enters takes the place of the one that was excluded, and may become NULL again.
    not_moved.on_target("UPDATE checkins SET date = '2024-03-03' WHERE id = 6")
    assert not_moved.back() == {"checkins": (0, 1)}
    assert not_moved.ask("SELECT date::text FROM checkins WHERE id = 6") == [("2024-03-03",)]
    not_moved.on_target("UPDATE checkins SET date = NULL WHERE id = 6")
    assert not_moved.back() == {"checkins": (0, 1)}
    assert not_moved.ask("SELECT date FROM checkins WHERE id = 6") == [(None,)]
    # The id of a rejected row is taken.
    not_moved.on_target("INSERT INTO checkins (id, user_id) VALUES (5, 2)")
    assert not_moved.kinds() == {("checkins", "rejected-id"): 1}
    with pytest.raises(RowsNotReturnable, match="which the move rejected"):
        not_moved.back()
    assert not_moved.back(**CHOICES) == {}
    assert not_moved.ask(excluded)[0] == before[0]


def test_columns_that_the_models_lack_keep_their_values(not_moved: Moved) -> None:
    not_moved.at_source("ALTER TABLE users ADD \"ni%ck\" text DEFAULT 'new'", "UPDATE users SET \"ni%ck\" = 'old'")
    not_moved.copy(unknown="leave")
    not_moved.on_target(
        "UPDATE users SET email = 'x' WHERE id = 1", "INSERT INTO users (id, clerk_user_id) VALUES (3, 'c')"
    )
    assert not_moved.back() == {"users": (0, 2)}
    names: dict[int, str] = dict(not_moved.ask('SELECT id, "ni%ck" FROM users'))
    assert names == {1: "old", 2: "old", -5: "old", 3: "new"}
    not_moved.at_source('ALTER TABLE users ALTER "ni%ck" DROP DEFAULT', 'ALTER TABLE users ALTER "ni%ck" SET NOT NULL')
    not_moved.on_target("INSERT INTO users (id, clerk_user_id) VALUES (4, 'd')", "UPDATE users SET email = 'y'")
    assert not_moved.kinds() == {("users", "missing-value"): 1}
    assert not_moved.back(rejects="keep") == {"users": (0, 4)}


# --- Constraints of the source ---------------------------------------------------------------------------------------


def test_unique_values_may_move_from_row_to_row(moved: Moved) -> None:
    moved.at_source(UNIQUE)
    moved.on_target(
        "DELETE FROM users WHERE id = -5",
        "INSERT INTO users (id, clerk_user_id) VALUES (3, 'user_negative')",
        "UPDATE users SET clerk_user_id = 'x' WHERE id = 1",
        "UPDATE users SET clerk_user_id = 'user_ana' WHERE id = 2",
        "UPDATE users SET clerk_user_id = 'user_bia 🥋' WHERE id = 1",
    )
    found, tried = moved.obstacles()
    # A trial does not drop the index that would have to be created again.
    assert (found, tried) == ({}, False)
    assert moved.back() == {"users": (1, 3)}
    assert dict(moved.ask("SELECT id, clerk_user_id FROM users")) == {
        1: "user_bia 🥋",
        2: "user_ana",
        3: "user_negative",
    }
    assert moved.ask("SELECT count(*) FROM pg_constraint WHERE conname = 'account'") == [(1,)]


def test_rows_that_violate_an_index_of_expressions_are_named(moved: Moved) -> None:
    moved.at_source("CREATE UNIQUE INDEX accounts ON users (lower(clerk_user_id)) WHERE id > 0")
    moved.on_target(
        "INSERT INTO users (id, clerk_user_id) VALUES (3, 'USER_ANA'), (4, 'd')",
        "UPDATE users SET clerk_user_id = 'moved' WHERE id = 1",
        "INSERT INTO users (id, clerk_user_id) VALUES (5, 'USER_BIA 🥋'), (6, 'user_ana')",
    )
    with pytest.raises(RowsNotReturnable, match="accounts"):
        moved.back()
    # Two rows have the account of Ana, so one of them stays on the target, and so does one of those of Bia.
    assert moved.back(rejects="keep") == {"users": (0, 3)}
    assert moved.ask("SELECT id FROM users WHERE id > 2 ORDER BY id") == [(3,), (4,)]


def test_a_deferred_trigger_that_fails_is_named(moved: Moved) -> None:
    moved.at_source(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no: %', NEW; END $$",
        "CREATE CONSTRAINT TRIGGER no AFTER INSERT ON users DEFERRABLE FOR EACH ROW EXECUTE FUNCTION no()",
    )
    moved.on_target("INSERT INTO users (id, clerk_user_id) VALUES (3, 'c')")
    with pytest.raises(SourceNotWritable, match=r"the function public\.no\(\)"):
        moved.back()


def test_a_circle_of_keys_that_cannot_be_deferred_is_written(moved: Moved) -> None:
    moved.at_source('ALTER TABLE gyms ALTER CONSTRAINT "gyms_managerId_fkey" NOT DEFERRABLE')
    moved.on_target(
        "INSERT INTO users (id, clerk_user_id) VALUES (3, 'c')",
        "INSERT INTO gyms (id, name, address, manager_id, since) VALUES (3, 'g', 'a', 3, '2020-01-01')",
        "UPDATE users SET gym_id = 3 WHERE id = 3",
    )
    assert moved.back() == {"users": (0, 1), "gyms": (0, 1)}
    moved.on_target(
        "UPDATE users SET gym_id = NULL WHERE id = 3",
        "DELETE FROM gyms WHERE id = 3",
        "DELETE FROM users WHERE id = 3",
    )
    assert moved.back() == {"users": (1, 0), "gyms": (1, 0)}
    assert moved.ask("SELECT condeferrable FROM pg_constraint WHERE conname = 'gyms_managerId_fkey'") == [(False,)]


STRICT = (
    "CREATE DOMAIN positive AS bigint CHECK (VALUE > 0)",
    "CREATE TYPE belt AS ENUM ('branca', 'azul')",
    "UPDATE graduations SET degree = 1",
    "ALTER TABLE graduations ALTER degree TYPE positive, ALTER belt TYPE belt USING belt::belt",
    "ALTER TABLE users ALTER phone TYPE varchar(9), ADD CHECK (email <> 'refused')",
    "ALTER TABLE checkins ALTER id TYPE smallint USING nullif(id, 70000), ALTER date SET DEFAULT now()",
    "UPDATE checkins SET date = '2024-01-01' WHERE date IS NULL",
    "ALTER TABLE checkins ALTER date SET NOT NULL",
    "ALTER TABLE users ADD CONSTRAINT phones UNIQUE (phone)",
    "ALTER TABLE assets ADD CONSTRAINT titles UNIQUE (title)",
)


@on_both_versions
def test_each_row_that_the_source_cannot_hold_is_named(not_moved: Moved) -> None:
    not_moved.at_source("DELETE FROM checkins WHERE id = 70000", *STRICT)
    not_moved.copy()
    not_moved.on_target(
        "UPDATE graduations SET degree = 0, belt = 'preta' WHERE id = 1",
        "UPDATE users SET phone = '1234567890' WHERE id = 1",
        "UPDATE users SET email = 'refused' WHERE id = 2",
        "INSERT INTO checkins (id, date) VALUES (32768, '2024-01-01'), (3, NULL), (4, '2024-02-30')",
        "INSERT INTO users (id, clerk_user_id, phone) VALUES (3, 'c', '1'), (4, 'd', '1')",
        "INSERT INTO graduations (id, user_id) VALUES (3, 3)",
        "INSERT INTO assets (id, title) VALUES (3, 'x')",
    )
    before = contents(not_moved.source)
    found, tried = not_moved.obstacles()
    assert contents(not_moved.source) == before
    named = {
        (table, obstacle.kind, obstacle.reason.split(",")[0]): obstacle.ids
        for table, its in found.items()
        for obstacle in its
    }
    assert tried
    assert named == {
        ("users", "misfit", "phone has values that phone of the source"): ["1"],
        ("users", "not-unique", "phone must be unique at the source"): ["3", "4"],
        ("users", "refused", 'new row for relation "users" violates check constraint "users_email_check"'): ["2"],
        ("graduations", "misfit", "degree has values that degree of the source"): ["1"],
        ("graduations", "misfit", "belt has values that belt of the source"): ["1"],
        ("graduations", "orphan", "user_id refers to a row of users that the source does not have"): ["3"],
        ("assets", "not-unique", "title must be unique at the source"): ["3"],
        ("checkins", "misfit", "id has values that id of the source"): ["32768"],
        ("checkins", "missing-value", "date is NULL"): ["3"],
        ("checkins", "misfit", "date has values that date of the source"): ["4"],
    }
    with pytest.raises(RowsNotReturnable) as refused:
        not_moved.back()
    assert "users: phone has values that phone of the source, of type character varying(9), cannot hold exactly" in str(
        refused.value
    )
    choices = {"misfits": "null", "orphans": "reject", "rejects": "keep"}
    found, _ = not_moved.obstacles(**choices)
    assert {kind: rows for its in found.values() for obstacle in its for kind, rows in obstacle.outcome.items()}
    assert all(obstacle.chosen for its in found.values() for obstacle in its)
    not_moved.back(**choices)
    assert not_moved.ask("SELECT degree, belt FROM graduations WHERE id = 1") == [(None, None)]
    assert not_moved.ask("SELECT phone FROM users WHERE id = 1") == [(None,)]
    assert not_moved.ask("SELECT email FROM users WHERE id = 2") == [("",)]
    assert not_moved.ask("SELECT id FROM checkins") == [(1,)]
    assert not_moved.ask("SELECT id FROM users WHERE id > 2") == []


def test_rows_that_refer_to_deleted_ones_are_never_deleted_with_them(not_moved: Moved) -> None:
    not_moved.at_source(
        "CREATE TABLE notes (id bigint PRIMARY KEY, user_id bigint REFERENCES users ON DELETE CASCADE)",
        "INSERT INTO notes VALUES (1, -5)",
    )
    not_moved.copy(unknown="leave")
    not_moved.on_target("DELETE FROM users WHERE id = -5")
    assert not_moved.kinds() == {("users", "referenced"): 1}
    with pytest.raises(RowsNotReturnable, match="rows of notes at the source, which stay"):
        not_moved.back()
    assert not_moved.back(rejects="keep") == {}
    assert not_moved.ask("SELECT count(*) FROM users, notes WHERE users.id = user_id") == [(1,)]


TOUCH = """
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} END $$;
CREATE TRIGGER touch BEFORE INSERT OR UPDATE OR DELETE ON users FOR EACH ROW EXECUTE FUNCTION touch()
"""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "IF TG_OP <> 'DELETE' THEN NEW.migrated_at = now(); END IF; RETURN coalesce(NEW, OLD);",
            "migrated_at of the source has another",
        ),
        (
            "IF TG_OP = 'INSERT' THEN RETURN NULL; END IF; RETURN coalesce(NEW, OLD);",
            "rows are not at the source after",
        ),
        ("IF TG_OP = 'DELETE' THEN RETURN NULL; END IF; RETURN NEW;", "rows are at the source after"),
        ("RAISE 'no: %', OLD;", r"an error was raised by the function public.touch\(\)"),
    ],
)
def test_a_trigger_that_changes_rows_is_named(moved: Moved, body: str, reason: str) -> None:
    moved.at_source(TOUCH.format(body))
    moved.on_target(
        "INSERT INTO users (id, clerk_user_id) VALUES (3, 'c')",
        "DELETE FROM users WHERE id = -5",
    )
    before = contents(moved.source)
    with pytest.raises(RowsNotReturnable, match=reason):
        moved.back()
    assert contents(moved.source) == before


def test_what_only_the_target_has_is_an_obstacle_with_a_choice(moved: Moved) -> None:
    moved.at_source("ALTER TABLE users DROP instagram", 'ALTER TABLE versions DROP "appVersion"')
    moved.on_target(
        "UPDATE users SET instagram = '@x', email = 'y' WHERE id = 2",
        "UPDATE users SET instagram = NULL WHERE id = 1",
        "UPDATE versions SET app_version = NULL",
    )
    assert moved.kinds() == {("users", "unknown-column"): 1}
    with pytest.raises(RowsNotReturnable, match="instagram has values, and the source has no such column"):
        moved.back()
    assert moved.kinds(unknown="leave") == {("users", "unknown-column"): 1}
    assert moved.back(unknown="leave") == {"users": (0, 1)}
    assert moved.ask("SELECT email FROM users WHERE id = 2") == [("y",)]


# --- The session -----------------------------------------------------------------------------------------------------


def test_the_token_opens_the_fences_for_one_transaction_only(moved: Moved) -> None:
    moved.on_target("UPDATE users SET email = 'x' WHERE id = 1", "DELETE FROM users WHERE id = -5")
    with pytest.raises(SourceNotWritable, match="the table users has moved"):
        moved.back(token="another")
    with moved.flow() as flow:
        flow.compare_whole(flow.tables)
        assert flow.follower.row("SELECT current_setting('tatame_move.token', true)") in [("",), (None,)]
    assert moved.ask("SELECT id FROM users WHERE email = 'x' OR id < 0") == [(1,)]


def test_a_table_whose_home_is_the_source_is_never_written_there(moved: Moved) -> None:
    with open_source_for_writing(moved.source) as source:
        source.pin_settings(for_transaction=True)
        open_(source, ["checkins"], token_hash("any"))
        source.driver.commit()
    moved.on_target(
        "UPDATE checkins SET date = '2000-01-01'",
        "UPDATE users SET email = 'x' WHERE id = 1",
    )
    before = contents(moved.source)["checkins"]
    with moved.flow() as flow:
        assert "checkins" not in flow.tables
        flow.apply({"checkins": {"1"}})
        flow.follower.driver.commit()
    assert moved.back() == {"users": (0, 1)}
    assert contents(moved.source)["checkins"] == before


def test_a_source_that_is_read_only_or_locked_is_named(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tatame_db.move.back.flow.LOCK_TIMEOUT_MS", 50)
    moved.on_target("UPDATE users SET email = 'x' WHERE id = 1")
    with psycopg.connect(readable(moved.source)) as other:
        other.execute("SELECT FROM users WHERE id = 1 FOR UPDATE")
        with pytest.raises(SourceNotWritable, match="lock timeout"):
            moved.back()
    moved.at_source(f'ALTER DATABASE "{moved.source.database}" SET default_transaction_read_only = on')
    assert moved.back() == {"users": (0, 1)}


def test_changes_of_the_target_follow_by_the_keys_of_a_slot(moved: Moved) -> None:
    @contextlib.contextmanager
    def open_home() -> Generator[MoveConnection]:
        with psycopg.connect(readable(moved.engine.url)) as driver:
            yield MoveConnection("target", moved.engine.url, driver)

    name = f"tatame_move_{moved.engine.url.database}"[:63]
    options = FollowOptions(once=True, keep_slot=True)
    follow(moved.flow, open_home, name, options)
    moved.on_target(
        "UPDATE users SET email = 'x' WHERE id = 1",
        "INSERT INTO users (id, clerk_user_id) VALUES (3, 'c')",
        "UPDATE users SET id = 4 WHERE id = 3",
        "DELETE FROM checkins WHERE id = 1",
    )
    follow(moved.flow, open_home, name, FollowOptions(until_equal=True))
    assert moved.ask("SELECT id, email FROM users WHERE id > 2 OR email = 'x' ORDER BY id") == [(1, "x"), (4, None)]
    assert moved.ask("SELECT id FROM checkins") == [(70000,)]
    assert ask(moved.engine.url, f"SELECT FROM pg_replication_slots WHERE slot_name = '{name}'") == []


UNIQUE = "ALTER TABLE users ADD CONSTRAINT account UNIQUE (clerk_user_id)"
SWAP = (
    "INSERT INTO users (id, clerk_user_id) VALUES (3, 'c')",
    "UPDATE users SET clerk_user_id = 'x' WHERE id = 1",
    "UPDATE users SET clerk_user_id = 'user_ana' WHERE id = 2",
    "UPDATE users SET clerk_user_id = 'user_bia 🥋' WHERE id = 1",
    "UPDATE graduations SET belt = '🥋' WHERE id = 1",
)


def test_rows_are_written_through_a_pooler(moved: Moved, pooler: Callable[[URL], URL]) -> None:
    moved.at_source(UNIQUE, "ALTER TABLE graduations ADD CHECK (belt <> '🥋')")
    moved.on_target(*SWAP)
    pooled = Moved(pooler(moved.source), moved.engine)
    assert pooled.kinds() == {("graduations", "refused"): 1}
    assert pooled.back(rejects="keep") == {"users": (0, 3)}
    # Nothing stays in the sessions that the pooler lends to others.
    left = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'tatame_move%'"
    assert moved.ask(f"{left} UNION ALL SELECT count(*) FROM pg_class WHERE relname LIKE 'tatame_move%'") == [
        (0,),
        (0,),
    ]


def test_the_owner_of_the_tables_writes_rows_back_and_another_role_does_not(moved: Moved) -> None:
    role = f"owner_{moved.source.database}"
    moved.at_source(UNIQUE, f"CREATE ROLE {role} LOGIN BYPASSRLS")
    grants = [f"GRANT ALL ON SCHEMA public TO {role}", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"]
    moved.at_source(*grants)
    moved.on_target(*SWAP)
    as_role = Moved(moved.source.set(username=role), moved.engine)
    with pytest.raises(SourceNotWritable, match="permission denied for table users"):
        as_role.back()
    moved.at_source(*(f'ALTER TABLE public."{table}" OWNER TO {role}' for table in phases()))
    assert as_role.back() == {"users": (0, 3), "graduations": (0, 1)}
    with as_role.flow() as flow:
        flow.advance_sequences()
    moved.at_source(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_the_source_hands_out_no_id_that_the_target_has(moved: Moved) -> None:
    moved.on_target("INSERT INTO checkins DEFAULT VALUES; INSERT INTO checkins DEFAULT VALUES; DELETE FROM checkins")
    moved.at_source("SELECT setval('assets_id_seq', 1000)")
    with moved.flow() as flow:
        flow.advance_sequences()
        flow.follower.driver.commit()
    assert moved.ask("SELECT nextval('checkins_id_seq'), nextval('assets_id_seq')") == [(70003, 1001)]
