"""Which SQL changes a session for longer than its transaction."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from tatame_db.database.dialect import DIALECT
from tatame_db.database.session_state import changes_session

CHANGES = (
    *("SET ROLE tenant", "set role tenant", "SET app.gym = '5'", "SET SESSION app.gym TO '5'", "\n  SET TIME ZONE UTC"),
    *("SET SESSION AUTHORIZATION ana", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SET search_path TO x"),
    *("RESET ROLE", "RESET ALL", "reset app.gym", "DISCARD ALL", "SELECT 1; SET ROLE tenant", "BEGIN;SET ROLE tenant"),
    *("/* api */ SET ROLE tenant", "-- api\nSET ROLE tenant", "/* a */ -- b\n/* c */ RESET ROLE"),
    *("DO $$ BEGIN SET ROLE tenant; END $$", "DO $$ BEGIN IF true THEN RESET ROLE; END IF; END $$"),
    *("SELECT set_config('app.gym', '5', false)", "SELECT SET_CONFIG ('app.gym', '5', 'false')"),
    *("SELECT set_config('a.b', '1', true), set_config('a.c', '1', false)", "SELECT set_config('a.b', '1', 1 = 1)"),
    "DO $$ BEGIN PERFORM set_config('app.gym', '5', false); END $$",
    *("SELECT \"set_config\"('app.gym', '5', false)", "SELECT pg_catalog.\"set_config\" ('a.b', '1', false)"),
    *("SELECT U&\"set\\005Fconfig\"('app.gym', '5', false)", "SELECT u&\"\\0073\\0065t_config\"('a.b', '1', false)"),
    "UPDATE pg_settings SET setting = '5' WHERE name = 'app.gym'",
    "UPDATE ONLY pg_catalog.\"pg_settings\" AS s SET setting = '5'",
    "WITH a AS (SELECT 1) UPDATE pg_settings SET setting = '5' FROM a",
    "WITH changed AS (SELECT set_config('app.gym', (SELECT max(id)::text FROM gyms), false)) SELECT * FROM changed",
)

NO_CHANGES = (
    *("SET LOCAL ROLE tenant", "set local app.gym = '5'", "SET TRANSACTION READ ONLY", "SET CONSTRAINTS ALL DEFERRED"),
    *(
        "SELECT 1",
        "UPDATE gyms SET name = 'x'",
        "UPDATE gyms\nSET name = 'x'",
        "SELECT 1 OFFSET 3",
        "SELECT reset FROM x",
    ),
    *("INSERT INTO a VALUES (1) ON CONFLICT (id) DO UPDATE SET name = 'x'", "ALTER TABLE a ALTER b SET NOT NULL"),
    *(
        "SELECT set_config('app.gym', '5', true)",
        "SELECT set_config('app.gym', '5', TRUE)",
        "SELECT 1; SET LOCAL a.b = '1'",
    ),
    "SELECT set_config('a.b', '1', true), set_config('a.c', lower(to_json(array_agg(id))::text), true) FROM gyms",
    "DO $$ BEGIN UPDATE gyms SET name = 'x'; END $$",
    "SELECT \"set_config\"('app.gym', '5', true)",
    "SELECT setting FROM pg_settings WHERE name = 'search_path'",
)


@pytest.mark.parametrize("sql", CHANGES)
def test_a_change_that_outlasts_its_transaction_is_noticed(sql: str) -> None:
    assert changes_session(sql)


@pytest.mark.parametrize("sql", NO_CHANGES)
def test_what_ends_with_its_transaction_or_changes_no_setting_is_not_a_change(sql: str) -> None:
    assert not changes_session(sql)


@pytest.mark.parametrize(("is_local", "changes"), [(True, False), (False, True), (None, True)])
def test_a_parameter_decides_whether_a_setting_is_local(is_local: bool | None, *, changes: bool) -> None:
    compiled = select(func.set_config("app.gym", "5", is_local)).compile(dialect=DIALECT)
    assert changes_session(str(compiled), compiled.params) is changes
    assert changes_session("SELECT set_config('app.gym', %(gym)s, %(Local)s)", {"Local": is_local}) is changes
    assert changes_session("SELECT set_config('app.gym', %s, %s)", ("5", True))


def test_many_comments_take_no_time() -> None:
    assert not changes_session("/* a */ " * 10_000 + "UPDATE gyms SET name = 'x'")
    assert changes_session("SELECT set_config(" + "(" * 10_000)
