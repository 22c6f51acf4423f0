"""Rows about which the changed keys decide nothing: they are compared whole, or refused in words as by a copy."""

from __future__ import annotations

import time

import psycopg
import pytest
from tests.conftest import on_both_versions
from tests.database.days import Day, assert_equal, day
from tests.database.moves import ask, change

from tatame_db import move
from tatame_db.move.follow import changed

__all__ = ["day"]


def test_an_obstacle_without_a_choice_stops_and_with_one_is_excluded_until_it_is_fixed(day: Day) -> None:
    with day.following() as steps:
        change(day.source, "INSERT INTO checkins (id, date) VALUES (5, 'infinity'), (6, '2025-01-01')")
        with pytest.raises(move.ObstaclesUnresolved):
            steps.run()
        assert ask(day.engine.url, "SELECT FROM checkins WHERE id IN (5, 6)") == []
        day.copy(choices=move.Choices(misfits="null", orphans="reject", duplicates="first"))
        steps.until_applied()
        assert ask(day.engine.url, "SELECT id, date::text FROM checkins WHERE id IN (5, 6) ORDER BY id") == [
            (5, None),
            (6, "2025-01-01"),
        ]
        change(day.source, "UPDATE checkins SET date = '2025-02-02' WHERE id = 5")
        steps.until_applied()
        assert_equal(day.source, day.engine.url)

        # Without keys of its own, the source has orphans and duplicates, and loses their reasons again.
        change(
            day.source,
            'ALTER TABLE checkins DROP CONSTRAINT "checkins_userId_fkey";'
            ' INSERT INTO checkins (id, "userId") VALUES (7, 700)',
            "INSERT INTO users (id, clerk_user_id) VALUES (800, 'twice'), (801, 'twice')",
        )
        steps.until_applied()
        assert ask(day.engine.url, "SELECT FROM checkins WHERE id = 7") == []
        assert ask(day.engine.url, "SELECT id FROM users WHERE clerk_user_id = 'twice'") == [(800,)]
        change(day.source, "INSERT INTO users (id, clerk_user_id) VALUES (700, 'user_700')")
        steps.until_applied()
        assert ask(day.engine.url, "SELECT user_id FROM checkins WHERE id = 7") == [(700,)]
        change(day.source, "DELETE FROM users WHERE id = 800")
        steps.until_applied()
        assert_equal(day.source, day.engine.url)

        # A delete that the target's key would not allow: the row that refers to it was not changed.
        change(day.source, "DELETE FROM users WHERE id = 700")
        steps.until_applied()
        assert ask(day.engine.url, "SELECT FROM checkins WHERE id = 7 UNION ALL SELECT FROM users WHERE id = 700") == []


def test_what_is_on_the_target_is_neither_overwritten_nor_deleted_unasked(day: Day) -> None:
    change(day.engine.url, "CREATE TABLE lockers (id int PRIMARY KEY, user_id int REFERENCES users ON DELETE CASCADE)")
    with day.following() as steps:
        change(day.source, "INSERT INTO users (id, clerk_user_id) VALUES (90, 'user_90')")
        steps.until_applied()
        change(day.engine.url, "INSERT INTO lockers VALUES (1, 90)")
        change(day.source, "DELETE FROM users WHERE id = 90")
        with pytest.raises(move.RowsStillReferenced):
            steps.run()
        assert ask(day.engine.url, "SELECT user_id FROM lockers") == [(90,)]
        change(day.engine.url, "DROP TABLE lockers")
        steps.until_applied()
        assert_equal(day.source, day.engine.url)

        change(
            day.engine.url,
            "CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN NEW.title := upper(NEW.title); RETURN NEW; END';"
            "CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON notifications FOR EACH ROW EXECUTE FUNCTION shout()",
        )
        change(day.source, "UPDATE notifications SET title = 'quiet'")
        with pytest.raises(move.CopyDiffers):
            steps.run()
        change(day.engine.url, "DROP FUNCTION shout CASCADE")
        steps.until_applied()
        assert_equal(day.source, day.engine.url)

        with pytest.raises(psycopg.Error, match="the table notifications follows the source"):
            change(day.engine.url, "UPDATE notifications SET title = 'mine' WHERE id = 1")
        change(
            day.engine.url,
            "SELECT set_config('tatame_move.token', value, false) FROM tatame_move.token",
            "UPDATE notifications SET title = 'mine' WHERE id = 1",
        )
        change(day.source, "TRUNCATE attachments")
        with pytest.raises(move.OtherRowsInTarget, match="notifications"):
            steps.run()
        assert ask(day.engine.url, "SELECT title FROM notifications WHERE id = 1") == [("mine",)]


@on_both_versions
def test_a_partitioned_table_is_followed_by_its_keys(day: Day) -> None:
    change(
        day.source,
        "ALTER TABLE checkins RENAME TO checkins_1; ALTER TABLE checkins_1 ALTER id DROP IDENTITY,"
        " DROP CONSTRAINT checkins_pkey, ALTER created_at SET NOT NULL;"
        " CREATE TABLE checkins (LIKE checkins_1, PRIMARY KEY (id, created_at)) PARTITION BY RANGE (created_at);"
        " ALTER TABLE checkins ATTACH PARTITION checkins_1 FOR VALUES FROM (MINVALUE) TO ('2030-01-01');"
        " CREATE TABLE checkins_2 PARTITION OF checkins FOR VALUES FROM ('2030-01-01') TO (MAXVALUE)",
    )
    with day.following() as steps:
        for statement in (
            "INSERT INTO checkins (id, created_at) VALUES (80, '2029-01-01'), (81, '2031-01-01'), (82, '2031-01-01')",
            "UPDATE checkins SET created_at = '2031-02-01' WHERE id = 80",
            "UPDATE checkins_2 SET id = 83 WHERE id = 81",
            "DELETE FROM checkins WHERE id = 82",
        ):
            change(day.source, statement)
            assert steps.until_applied(), statement
            assert_equal(day.source, day.engine.url)
        assert day.wholes == [["roles"]] * len(day.wholes)
        change(day.source, "CREATE SCHEMA archive")
        for statement in (
            "TRUNCATE checkins_2; INSERT INTO checkins_2 (id, created_at) VALUES (84, '2031-01-01')",
            "ALTER TABLE checkins DETACH PARTITION checkins_2; ALTER TABLE checkins_2 SET SCHEMA archive",
            "ALTER TABLE checkins ATTACH PARTITION archive.checkins_2 FOR VALUES FROM ('2030-01-01') TO (MAXVALUE)",
            "TRUNCATE checkins",
        ):
            day.wholes.clear()
            change(day.source, statement)
            assert steps.until_applied(), statement
            assert_equal(day.source, day.engine.url)
            assert any(len(tables) > 1 for tables in day.wholes), statement


def test_tables_that_cannot_be_published_are_compared_whole_and_their_app_still_writes(
    day: Day, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(
        day.source,
        "ALTER TABLE versions DROP CONSTRAINT versions_pkey",
        "ALTER TABLE app_stores REPLICA IDENTITY NOTHING",
        "ALTER TABLE attachments REPLICA IDENTITY FULL",
        "ALTER TABLE assets DROP CONSTRAINT assets_pkey, ADD PRIMARY KEY (id) DEFERRABLE",
        "ALTER TABLE notifications DROP CONSTRAINT notifications_pkey, ADD PRIMARY KEY (id, created_at)",
        "ALTER TABLE graduations SET UNLOGGED",
        "ALTER TABLE checkins RENAME TO checkins_1; CREATE TABLE checkins (LIKE checkins_1 INCLUDING ALL)"
        " PARTITION BY RANGE (id); ALTER TABLE checkins_1 ALTER id DROP IDENTITY, DROP CONSTRAINT checkins_pkey;"
        " ALTER TABLE checkins ATTACH PARTITION checkins_1 DEFAULT; ALTER TABLE checkins_1 REPLICA IDENTITY FULL",
    )
    with day.following() as steps:
        compared = steps.run().compared
        assert compared == {
            "roles": "its ids are neither integers nor UUIDs in both databases",
            "versions": "it has no primary key of one column that names its rows",
            "app_stores": "it has no replica identity",
            "graduations": "it is an unlogged table",
            "assets": "it has no primary key of one column that names its rows",
            "checkins": "it has a partition that does not name its rows by the primary key",
            "notifications": "it has no primary key of one column that names its rows",
        }
        for table in [*compared, "attachments", "users"]:
            change(day.source, f"UPDATE {table} SET created_at = '2025-01-01 12:00:00+00'")
        # A user of a new role, in a table that is compared whole, is no obstacle.
        change(day.source, "INSERT INTO roles VALUES ('NEW'); UPDATE users SET role = 'NEW' WHERE id = 2")
        steps.following.compared_until = 0
        steps.until_applied()
        assert_equal(day.source, day.engine.url)

        # A comparison that was not due yet is made up for, although nothing is written any more.
        change(day.source, "INSERT INTO roles VALUES ('LATER')")
        steps.following.compared_until = time.monotonic() + 3600
        steps.run()
        assert ask(day.engine.url, "SELECT FROM roles WHERE id = 'LATER'") == []
        steps.following.compared_until = 0
        assert steps.following._batch_if_due(None)
        assert_equal(day.source, day.engine.url)

        # The team changes an identity: the publication follows, and its app goes on.
        change(day.source, "ALTER TABLE users REPLICA IDENTITY FULL")
        steps.until_applied()
        change(day.source, "UPDATE users SET phone = 'full' WHERE id = 1; DELETE FROM attachments")
        day.wholes.clear()
        assert {found.table for found in steps.until_applied()} == {"users", "attachments"}
        assert len(day.wholes) <= 1
        assert_equal(day.source, day.engine.url)

        monkeypatch.setattr(changed, "MOST_KEYS", 2)
        change(day.source, "UPDATE users SET phone = 'many'")
        steps.until_applied()
        assert list(day.engine.connect().exec_driver_sql("SELECT DISTINCT phone FROM users")) == [("many",)]
        assert_equal(day.source, day.engine.url)
