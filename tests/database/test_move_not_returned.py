"""What a way back leaves on the target is named and stored, and the next moves in both directions work."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Engine
from tests.conftest import on_both_versions
from tests.database.days import Day, drop_slots
from tests.database.moves import Row, ask, change
from tests.database.test_move_rejects import Restore, restore, texts

from tatame_db import move
from tatame_db.move.back.errors import LeftRowsReferenced
from tatame_db.move.choices import Choices
from tatame_db.move.follow.loop import FollowOptions, Lag
from tatame_db.move.follow.run import follow_source, follow_target
from tatame_db.move.open import open_both_for_writing, open_target
from tatame_db.move.restore import RESTORED_OF_TARGET
from tatame_db.move.switch.finish import finish
from tatame_db.move.switch.homes import Home
from tatame_db.move.switch.steps import Step
from tatame_db.move.switch.switch import switch

__all__ = ["restore"]

# The source lacks a column, and holds less than the target; a copy excludes a value and a row.
NARROW = (
    "ALTER TABLE users DROP instagram",
    "ALTER TABLE users ALTER phone TYPE varchar(9), ADD CHECK (email <> 'refused')",
    'ALTER TABLE checkins DROP CONSTRAINT "checkins_userId_fkey"',
    "INSERT INTO checkins (id, \"userId\", date) VALUES (5, 99, '2024-01-01'), (6, 1, 'infinity')",
)
COPIED = Choices(misfits="null", orphans="reject", unknown="leave")
# A value that becomes NULL, a row that is refused and has a child, and values of the column.
WRITTEN = (
    "UPDATE users SET phone = '1234567890' WHERE id = 1",
    "UPDATE users SET instagram = '@' || id, last_name = 'New' WHERE id IN (1, 2)",
    "INSERT INTO users (id, clerk_user_id, email, first_name) VALUES (30, 'c', 'refused', 'Ana')",
    "INSERT INTO checkins (id, user_id) VALUES (30, 30)",
)
BACK = Choices(misfits="null", orphans="null", unknown="leave", rejects="keep")


@pytest.fixture
def narrow(supabase: URL, engine: Engine) -> Generator[Day]:
    """A project whose tables have all moved."""
    change(supabase, *NARROW)
    found = Day(supabase, engine)
    found.copy(choices=COPIED)
    try:
        switch(supabase, engine)
        yield found
    finally:
        drop_slots(supabase)
        drop_slots(engine.url)


def back(day: Day, *tables: str, choices: Choices | None = BACK, **options: Any) -> move.SwitchReport:
    return switch(day.source, day.engine, tables, to=Home.SOURCE, choices=choices, **options)


def left(report: move.SwitchReport | Lag) -> dict[str, tuple[str, int]]:
    return {found.place: (found.action, found.rows) for found in report.not_returned}


def kept(day: Day, *, returned: bool = False) -> dict[str, tuple[str, list[str]]]:
    with open_target(day.engine) as target:
        found = move.kept_rows(target).not_returned
    return {group.place: (group.action, group.ids) for group in found if group.returned is returned}


def users(address: URL, columns: str = "id, phone, last_name, email") -> list[Row]:
    return ask(address, f"SELECT {columns} FROM users ORDER BY id")


def follow(day: Day) -> list[Lag]:
    lags: list[Lag] = []
    follow_source(day.source, day.engine, FollowOptions(until_equal=True), lags.append)
    return lags


def follow_back(day: Day, choices: Choices | None = BACK, **options: Any) -> list[Lag]:
    lags: list[Lag] = []
    options = options or {"until_equal": True}
    follow_target(day.source, day.engine, FollowOptions(**options), lags.append, choices=choices)
    return lags


LEFT = {
    "users.phone": ("nulled", 1),
    "users": ("left", 1),
    "users.instagram": ("left", 2),
    "checkins.user_id": ("nulled", 1),
}


LEFT_WITHOUT_REFERENCES = {place: found for place, found in LEFT.items() if place != "checkins.user_id"}
STORED = "table_name, column_name, id, kind, reason, action, row_text"


@on_both_versions
def test_what_a_way_back_leaves_is_stored_and_both_databases_follow_each_other_again(narrow: Day) -> None:
    with open_target(narrow.engine) as target:
        excluded = move.kept_rows(target).rejects
    assert len(excluded) == 2
    change(narrow.engine.url, *WRITTEN)
    expected = users(narrow.engine.url)
    assert left(back(narrow, dry_run=True)) == LEFT
    report = back(narrow)
    assert left(report) == LEFT
    assert all(table.is_equal for table in report.tables)
    assert kept(narrow) == {
        "users.phone": ("nulled", ["1"]),
        "users": ("left", ["30"]),
        "users.instagram": ("left", ["1", "2"]),
        "checkins.user_id": ("nulled", ["30"]),
    }
    assert ask(
        narrow.engine.url,
        "SELECT \"row\" ->> 'phone', \"row\" ->> 'last_name' FROM tatame_move.not_returned WHERE column_name = 'phone'",
    ) == [("1234567890", "New")]
    # Nothing of it was changed on the target, and nothing says that it was.
    assert users(narrow.engine.url) == expected
    with open_target(narrow.engine) as target:
        assert not any(table.stale for table in move.status(target).tables)
        assert {(found.place, found.rows) for found in move.status(target).not_returned} == {
            (place, rows) for place, (_, rows) in LEFT.items()
        }
    follow(narrow)
    assert users(narrow.engine.url) == users(narrow.source)
    assert ask(narrow.engine.url, "SELECT user_id FROM checkins WHERE id = 30") == [(None,)]
    with open_both_for_writing(narrow.source, narrow.engine) as connections:
        connections.source.pin_settings(for_transaction=True)
        assert move.verify(connections).equal_but_for_choices
    # What only the target has a place for stays there.
    instagram = "SELECT instagram FROM users WHERE id <= 2 AND id > 0 ORDER BY id"
    assert ask(narrow.engine.url, instagram) == [("@1",), ("@2",)]
    change(narrow.source, "UPDATE users SET last_name = 'Newer' WHERE id = 2")
    follow(narrow)
    switch(narrow.source, narrow.engine)
    assert ask(narrow.engine.url, instagram) == [("@1",), ("@2",)]
    assert {column for _, column in ask(narrow.engine.url, "SELECT id, last_name FROM users WHERE id IN (1, 2)")} == {
        "New",
        "Newer",
    }
    # Repaired on the target, it is written.
    change(
        narrow.engine.url,
        "UPDATE users SET phone = '123456789' WHERE id = 1",
        "INSERT INTO users (id, clerk_user_id, email, first_name) VALUES (30, 'c', 'fine', 'Ana')",
        "UPDATE checkins SET date = '2024-05-05' WHERE id = 30",
    )
    follow_back(narrow)
    still = {"users.instagram": ("left", ["1", "2"]), "checkins.user_id": ("nulled", ["30"])}
    assert kept(narrow) == still
    assert kept(narrow, returned=True) == {"users.phone": ("nulled", ["1"]), "users": ("left", ["30"])}
    report = back(narrow)
    assert left(report) == {"users.instagram": ("left", 2)}
    assert kept(narrow) == still
    assert users(narrow.source, "id, phone, email") == users(narrow.engine.url, "id, phone, email")
    assert (30, None, "fine") in users(narrow.source, "id, phone, email")
    with open_target(narrow.engine) as target:
        assert move.kept_rows(target).rejects == excluded
    kept_rows = ask(narrow.engine.url, "SELECT * FROM tatame_move.not_returned")
    with open_both_for_writing(narrow.source, narrow.engine) as connections:
        assert finish(connections).kept_not_returned == len(kept_rows) == 5
    assert ask(narrow.engine.url, "SELECT * FROM tatame_move.not_returned") == kept_rows


def stop_at(wanted: Step, error: BaseException) -> Callable[[Step], None]:
    def stop(step: Step) -> None:
        if step is wanted:
            raise error

    return stop


def test_what_is_left_is_stored_with_the_switch_or_not_at_all(narrow: Day) -> None:
    change(narrow.engine.url, *WRITTEN)
    with pytest.raises(KeyboardInterrupt):
        back(narrow, on_step=stop_at(Step.COMMIT, KeyboardInterrupt()))
    assert kept(narrow) == {}
    # Between the two commits, the rows are stored, and the second attempt stores them once.
    with pytest.raises(move.NotOpened):
        back(narrow, on_step=stop_at(Step.OPEN, psycopg.OperationalError("lost")))
    stored = ask(narrow.engine.url, f"SELECT {STORED} FROM tatame_move.not_returned ORDER BY {STORED}")
    assert len(stored) == 5
    assert left(back(narrow)) == LEFT
    assert ask(narrow.engine.url, f"SELECT {STORED} FROM tatame_move.not_returned ORDER BY {STORED}") == stored
    # A copy overwrites as a follower does.
    narrow.copy(choices=COPIED)
    assert users(narrow.engine.url) == users(narrow.source)
    assert ask(narrow.engine.url, "SELECT count(*) FROM users WHERE instagram IS NOT NULL") == [(2,)]
    assert ask(narrow.engine.url, f"SELECT {STORED} FROM tatame_move.not_returned ORDER BY {STORED}") == stored


def test_a_follower_names_what_it_leaves_and_ends_when_all_else_is_equal(narrow: Day) -> None:
    change(narrow.engine.url, *WRITTEN)
    assert {place: counts for place, counts in left(follow_back(narrow)[-1]).items() if "insta" not in place} == {
        place: counts for place, counts in LEFT.items() if "insta" not in place
    }
    # Until the home changes, all of it is on the target.
    assert kept(narrow) == {}
    change(narrow.engine.url, "UPDATE users SET phone = '1' WHERE id = 1")
    assert "users.phone" not in left(follow_back(narrow, once=True)[-1])
    assert ask(narrow.source, "SELECT phone FROM users WHERE id = 1") == [("1",)]


def test_a_value_is_missing_until_another_one_is_at_the_source(narrow: Day) -> None:
    change(narrow.engine.url, "UPDATE users SET phone = 'longer than 9' WHERE id IN (1, -5)")
    back(narrow)
    follow(narrow)
    switch(narrow.source, narrow.engine)
    # The row is written back, and its value is as lost as before.
    change(narrow.engine.url, "UPDATE users SET last_name = 'x' WHERE id = 1")
    follow_back(narrow)
    assert left(back(narrow)) == {}
    assert kept(narrow) == {"users.phone": ("nulled", ["1", "-5"])}
    follow(narrow)
    switch(narrow.source, narrow.engine)
    # A newer value that cannot be written takes the place of the older one, and a deleted row needs none.
    change(
        narrow.engine.url,
        "UPDATE users SET phone = 'even longer than 9' WHERE id = 1",
        "DELETE FROM users WHERE id = -5",
    )
    back(narrow)
    assert kept(narrow) == {"users.phone": ("nulled", ["1"])}
    assert kept(narrow, returned=True) == {"users.phone": ("nulled", ["-5"])}
    phones = "SELECT \"row\" ->> 'phone' FROM tatame_move.not_returned WHERE returned_at IS NULL"
    assert ask(narrow.engine.url, phones) == [("even longer than 9",)]


def test_a_row_that_stays_alone_is_not_left_to_rows_that_refer_to_it(narrow: Day) -> None:
    change(narrow.engine.url, *WRITTEN)
    with pytest.raises(LeftRowsReferenced, match=r"checkins\.user_id to users"):
        back(narrow, "users")
    assert ask(narrow.engine.url, "SELECT count(*) FROM users WHERE id = 30") == [(1,)]
    assert kept(narrow) == {}
    assert left(back(narrow, "users", "checkins")) == LEFT
    follow(narrow)
    assert ask(narrow.engine.url, "SELECT id, user_id FROM checkins WHERE id = 30") == [(30, None)]
    assert ask(narrow.engine.url, "SELECT count(*) FROM users WHERE id = 30") == [(0,)]


def test_rows_that_refer_to_a_left_row_are_left_with_it(narrow: Day) -> None:
    change(narrow.engine.url, *WRITTEN)
    report = back(narrow, choices=replace(BACK, orphans="reject"))
    assert left(report) == {**LEFT_WITHOUT_REFERENCES, "checkins": ("left", 1)}
    follow(narrow)
    assert ask(narrow.engine.url, "SELECT count(*) FROM checkins WHERE id = 30") == [(0,)]
    assert users(narrow.engine.url) == users(narrow.source)
    switch(narrow.source, narrow.engine)
    assert left(back(narrow)) == {"users.instagram": ("left", 2)}


def test_a_row_that_the_source_does_not_delete_comes_back(narrow: Day) -> None:
    change(narrow.engine.url, "DELETE FROM users WHERE id = -5")
    with open_both_for_writing(narrow.source, narrow.engine) as connections:
        token = connections.target.row("SELECT value FROM tatame_move.token")[0]
    change(
        narrow.source,
        f"SET tatame_move.token = '{token}'",
        "CREATE TABLE notes (id bigint PRIMARY KEY, user_id bigint REFERENCES users)",
        "INSERT INTO notes VALUES (1, -5)",
    )
    assert left(back(narrow)) == {"users": ("not deleted", 1)}
    assert kept(narrow) == {"users": ("not deleted", ["-5"])}
    assert ask(narrow.engine.url, 'SELECT "row", row_text FROM tatame_move.not_returned') == [(None, None)]
    follow(narrow)
    assert users(narrow.engine.url) == users(narrow.source)
    switch(narrow.source, narrow.engine)
    change(narrow.source, "DELETE FROM notes")
    change(narrow.engine.url, "DELETE FROM users WHERE id = -5")
    assert left(back(narrow)) == {}
    assert (kept(narrow), kept(narrow, returned=True)) == ({}, {"users": ("not deleted", ["-5"])})


def test_values_of_a_column_that_the_source_gets_later_are_written_back(narrow: Day) -> None:
    change(narrow.engine.url, "UPDATE users SET instagram = '@' || id WHERE id IN (1, 2)")
    back(narrow)
    follow(narrow)
    switch(narrow.source, narrow.engine)
    change(narrow.source, "ALTER TABLE users ADD instagram text")
    back(narrow, "checkins")
    assert kept(narrow) == {"users.instagram": ("left", ["1", "2"])}
    assert left(back(narrow, choices=None)) == {}
    assert users(narrow.source, "id, instagram") == users(narrow.engine.url, "id, instagram")
    assert (kept(narrow), kept(narrow, returned=True)) == ({}, {"users.instagram": ("left", ["1", "2"])})


def test_the_rows_are_restored_as_the_target_had_them(narrow: Day, restore: Restore, bare_address: URL) -> None:
    change(narrow.engine.url, *WRITTEN)
    expected = {
        "users": texts(narrow.engine.url, "users AS its WHERE id IN (1, 30) --"),
        "users.instagram": texts(narrow.engine.url, "(SELECT id, instagram FROM users WHERE id IN (1, 2))"),
        "checkins": texts(narrow.engine.url, "checkins AS its WHERE id = 30 --"),
    }
    back(narrow)
    restore("users", "checkins")
    assert {name: texts(bare_address, f'{RESTORED_OF_TARGET}."{name}"') for name in expected} == expected
