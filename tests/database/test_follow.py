"""Following by a slot: after each batch the target equals the source at one moment, whatever was done there."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import psycopg
import pytest
from tests.conftest import on_both_versions
from tests.database.days import Day, assert_equal, day
from tests.database.moves import ask, change

from tatame_db.database.address import readable
from tatame_db.move.back.flow import BackFlow
from tatame_db.move.follow import loop
from tatame_db.move.follow.slot import Slot
from tatame_db.move.open import open_source_for_writing, open_target, open_target_for_slots
from tatame_db.move.switch.fence import close, open_
from tatame_db.move.switch.homes import SwitchUnfinished
from tatame_db.move.switch.token import make_token, token_hash

__all__ = ["day"]

CHANGES = {
    "rows are inserted, parents first": (
        "INSERT INTO gyms VALUES (50, now(), 'x', 'y', 1, NULL, '2020-01-01')",
        "INSERT INTO users (id, clerk_user_id, gym_id) VALUES (60, 'user_60', 50)",
        "INSERT INTO checkins (id, \"userId\", date) VALUES (61, 60, '2025-01-01'), (62, NULL, NULL)",
    ),
    "rows are updated, one of them twice": (
        "UPDATE users SET email = id || '@new.example'",
        "UPDATE users SET first_name = E'\\\\N' WHERE id = 1; UPDATE notifications SET viewed_by = '{a,NULL}'",
    ),
    "rows are deleted, children first": (
        "DELETE FROM checkins WHERE id > 1; DELETE FROM graduations WHERE id = 1; DELETE FROM attachments",
    ),
    "keys change": (
        "UPDATE checkins SET id = id + 1000; UPDATE checkins SET id = 999 WHERE id = 1001",
        "UPDATE notifications SET id = 4 WHERE id = 3; INSERT INTO notifications (id, title) VALUES (3, 'another')",
    ),
    "a gym and its manager refer to each other": (
        "SET CONSTRAINTS ALL DEFERRED; INSERT INTO gyms VALUES (70, now(), 'x', 'y', 71, NULL, '2020-01-01');"
        " INSERT INTO users (id, clerk_user_id, gym_id) VALUES (71, 'user_71', 70)",
        "INSERT INTO gyms VALUES (72, now(), 'x', 'y', 71, NULL, '2020-01-01')",
        "SET CONSTRAINTS ALL DEFERRED; UPDATE users SET gym_id = NULL WHERE id = 71; DELETE FROM gyms WHERE id IN"
        " (70, 72); DELETE FROM users WHERE id = 71",
    ),
    "sub-transactions are rolled back": (
        "BEGIN; UPDATE users SET phone = 'kept'; SAVEPOINT a; UPDATE users SET phone = 'lost'; INSERT INTO versions"
        " (id) VALUES (90); ROLLBACK TO a; SAVEPOINT b; INSERT INTO versions (id) VALUES (91); RELEASE b; COMMIT",
        "BEGIN; DELETE FROM notifications; ROLLBACK",
    ),
    "a unique value moves from a deleted row to a new one": (
        "DELETE FROM users WHERE id = -5; INSERT INTO users (id, clerk_user_id) VALUES (80, 'user_negative')",
    ),
}
WHOLE = {
    "two users swap a unique value": (
        "UPDATE users SET clerk_user_id = 'x' WHERE id = 1; UPDATE users SET clerk_user_id = 'user_ana' WHERE id = -5;"
        " UPDATE users SET clerk_user_id = 'user_negative' WHERE id = 1",
    ),
    "a table is truncated": ("TRUNCATE checkins", "TRUNCATE attachments; INSERT INTO attachments (id) VALUES (5)"),
    "a column changes every row": (
        "ALTER TABLE versions ALTER disabled_at TYPE date USING coalesce(disabled_at, '2020-01-01')",
    ),
    "a column comes back with another default": (
        "ALTER TABLE versions DROP disabled_at; ALTER TABLE versions ADD disabled_at date DEFAULT '2021-01-01'",
    ),
    "another table takes the name": (
        "ALTER TABLE assets RENAME TO old_assets; CREATE TABLE assets (LIKE old_assets INCLUDING ALL);"
        " DROP TABLE old_assets; INSERT INTO assets (id) VALUES (7)",
    ),
}


@on_both_versions
def test_every_kind_of_change_is_carried_over_by_its_keys(day: Day) -> None:
    with day.following() as steps:
        for name, statements in CHANGES.items():
            for statement in statements:
                change(day.source, statement)
                written = bool(steps.until_applied())
                assert written == ("ROLLBACK" not in statement or "COMMIT" in statement), name
                assert_equal(day.source, day.engine.url)
            assert day.wholes == [["roles"]] * len(day.wholes), name


@on_both_versions
def test_what_keys_cannot_tell_is_compared_whole(day: Day) -> None:
    with day.following() as steps:
        for name, statements in WHOLE.items():
            day.wholes.clear()
            change(day.source, *statements)
            assert steps.until_applied(), name
            assert_equal(day.source, day.engine.url)
            assert any(len(tables) > 1 for tables in day.wholes), name


@on_both_versions
def test_a_transaction_that_commits_late_is_neither_lost_nor_torn(day: Day) -> None:
    address = readable(day.source)
    with day.following() as steps, psycopg.connect(address) as early, psycopg.connect(address) as late:
        for turn in range(5):
            # The late one begins first, and the batch between sees one of them only.
            late.execute("INSERT INTO gyms VALUES (%s, now(), 'x', 'y', 1, NULL, '2020-01-01')", [100 + turn])
            early.execute("UPDATE users SET phone = %s WHERE id = 1", [f"early {turn}"])
            steps.run()
            early.commit()
            lag = steps.run()
            assert [(found.table, found.written) for found in lag.applied] == [("users", 1)]
            assert_equal(day.source, day.engine.url)
            late.execute("UPDATE users SET gym_id = %s, phone = 'late' WHERE id = 2", [100 + turn])
            late.commit()
            assert {found.table for found in steps.until_applied()} == {"gyms", "users"}
            assert_equal(day.source, day.engine.url)
        assert not steps.run().applied


@on_both_versions
def test_tables_that_a_switch_has_moved_are_followed_no_longer_and_can_be_followed_back(day: Day) -> None:
    with day.following(), day.open_flow() as flow:
        moved, token = ["users", "gyms"], make_token(flow.follower)
        flow.home.driver.rollback()
        flow.home.driver.read_only = False
        close(flow.home, moved, token_hash(token))
        flow.home.driver.commit()
        with pytest.raises(SwitchUnfinished):
            flow.begin()
        open_(flow.follower, moved, token_hash(token))
        flow.follower.driver.commit()
        flow.begin()
        assert not set(moved) & set(flow.tables)
        flow.follower.driver.rollback()
        change(day.engine.url, "UPDATE users SET phone = 'here' WHERE id = 1")
    with day.following() as steps:
        change(day.source, "UPDATE notifications SET title = 'there again'")
        assert [found.table for found in steps.until_applied()] == ["notifications"]
        assert ask(day.engine.url, "SELECT phone FROM users WHERE id = 1") == [("here",)]

    @contextlib.contextmanager
    def open_back() -> Generator[BackFlow]:
        with open_target(day.engine) as home, open_source_for_writing(day.source) as follower:
            yield BackFlow(home, follower, token=token, tables=moved)

    lags: list[loop.Lag] = []
    with open_target_for_slots(day.engine) as home:
        home.driver.autocommit = True
        back = loop.Following(open_back, Slot(home, f"{day.name}_back"), day.options, lags.append)
        for phone in ("first", "second"):
            change(day.engine.url, f"UPDATE users SET phone = '{phone}'; UPDATE gyms SET logo = '{phone}'")
            # The target of tests does not wait for its disk, so a position says nothing about a commit.
            back.position = 0
            assert back._batch_if_due(None)
            assert_equal(day.source, day.engine.url)
        assert [found.table for found in lags[-1].applied] == ["gyms", "users"]
        loop._remove(back.slot)
