"""Changes made in the browser: saved all or none, and never over another session's values."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from tatame_db.database.pool import Database

Client = Any


@pytest.fixture
def database(committed_database: Database) -> Database:
    with committed_database.engine.begin() as connection:
        connection.execute(text("INSERT INTO roles (id) VALUES ('STUDENT')"))
        connection.execute(text("INSERT INTO gyms (name, address, since) VALUES ('Centro', 'Rua Direita', '2015')"))
        connection.execute(
            text(
                "INSERT INTO users (clerk_user_id, email, phone, gym_id, created_at) VALUES"
                " ('ana', 'ana@gym.example', E'1\\r\\n2', 1, '2026-01-01 10:00:00.123456'), ('bia', NULL, '', 1, now())"
            )
        )
        connection.execute(
            text("INSERT INTO public.notifications (title, recipients) VALUES ('one', '{1,NULL,\"a,b\"}')")
        )
    return committed_database


def update(key: str, values: dict[str, Any], was: dict[str, Any], table: str = "users") -> dict[str, Any]:
    return {"op": "update", "table": table, "key": key, "values": values, "was": was}


def save(studio: Client, *changes: Any, status: int = 200, **options: Any) -> Any:
    response = studio.ask("/api/changes", {"changes": changes, **options})
    assert response.status == status, response.text
    return response.json


def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_a_saved_cell_leaves_the_others_unchanged(writing_studio: Client, database: Database) -> None:
    rest = "SELECT (to_jsonb(users) - 'email')\\:\\:text FROM users WHERE id = 1"
    before = rows(database, rest)

    saved = save(writing_studio, update("1", {"email": "Ana@gym.example"}, {"email": "ana@gym.example"}))

    assert rows(database, "SELECT email FROM users ORDER BY id") == [("Ana@gym.example",), (None,)]
    assert rows(database, rest) == before
    assert saved["saved"] == 1
    assert saved["rows"][0]["row"] == writing_studio.get("/api/row/users/1")["row"]


@pytest.mark.parametrize(
    ("column", "was", "value"),
    [
        ("email", "ana@gym.example", None),
        ("email", "ana@gym.example", ""),
        ("phone", "1\r\n2", "1\n2\r\n\t "),
        ("created_at", "2026-01-01 10:00:00.123456", "2026-01-01 10:00:00.123457"),
        ("approved_at", None, "infinity"),
        ("approved_at", None, "0001-01-01 00:00:00 BC"),
        ("gym_id", "1", None),
        ("id", "1", "2000"),
    ],
)
def test_a_value_is_stored_exactly(
    writing_studio: Client, database: Database, column: str, was: str | None, value: str | None
) -> None:
    [row] = save(writing_studio, update("1", {column: value}, {column: was}))["rows"]

    assert row["row"][column] == value
    assert rows(database, f"SELECT {column}\\:\\:text FROM users WHERE clerk_user_id = 'ana'") == [(value,)]


@pytest.mark.parametrize("value", [None, [], ["1", None, "", 'x"y,{z}', "NULL"]])
def test_a_list_is_stored_exactly(writing_studio: Client, database: Database, value: Any) -> None:
    change = update("1", {"recipients": value}, {"recipients": ["1", None, "a,b"]}, "notifications")

    assert save(writing_studio, change)["rows"][0]["row"]["recipients"] == value
    assert rows(database, "SELECT recipients FROM notifications") == [(value,)]


@pytest.mark.parametrize(
    ("column", "was", "now"),
    [
        ("email", "Ana@gym.example", "ana@gym.example"),
        ("email", None, "ana@gym.example"),
        ("phone", "1\n2", "1\r\n2"),
        ("approved_at", "infinity", None),
        ("created_at", "2026-01-01 10:00:00.123457", "2026-01-01 10:00:00.123456"),
        ("gym_id", None, "1"),
    ],
)
def test_a_value_of_another_session_is_never_overwritten(
    writing_studio: Client, database: Database, column: str, was: str | None, now: str | None
) -> None:
    before = rows(database, "SELECT users\\:\\:text FROM users ORDER BY id")
    found = save(
        writing_studio,
        update("2", {"phone": "saved?"}, {"phone": ""}),
        update("1", {column: "2027-01-01", "plan": "x"}, {column: was, "plan": None}),
        status=409,
    )

    assert found["conflicts"] == [
        {"index": 1, "key": "1", "deleted": False, "column": column, "was": was, "now": now, "wanted": "2027-01-01"}
    ]
    assert rows(database, "SELECT users\\:\\:text FROM users ORDER BY id") == before


@pytest.mark.usefixtures("database")
def test_null_instead_of_an_empty_text_is_a_conflict(writing_studio: Client) -> None:
    found = save(writing_studio, update("2", {"phone": "1"}, {"phone": None}), status=409)
    assert found["conflicts"][0]["now"] == ""


@pytest.mark.usefixtures("database")
def test_the_text_null_instead_of_a_null_element_is_a_conflict(writing_studio: Client) -> None:
    change = update("1", {"recipients": []}, {"recipients": ["1", "NULL", "a,b"]}, "notifications")
    assert save(writing_studio, change, status=409)["conflicts"][0]["now"] == ["1", None, "a,b"]


@pytest.mark.usefixtures("database")
def test_a_deleted_row_is_a_conflict(writing_studio: Client) -> None:
    changes = [update("9", {"phone": "1"}, {"phone": None}), {"op": "delete", "table": "gyms", "key": "9", "was": {}}]
    found = save(writing_studio, *changes, status=409)
    assert [(conflict["index"], conflict["deleted"]) for conflict in found["conflicts"]] == [(0, True), (1, True)]


def test_saving_waits_for_a_lock_and_then_finds_the_conflict(writing_studio: Client, database: Database) -> None:
    with database.engine.connect() as other:
        other.execute(text("UPDATE users SET email = 'theirs' WHERE id = 1"))
        change = update("1", {"email": "mine"}, {"email": "ana@gym.example"})
        request = writing_studio.begin("/api/changes", {"changes": [change]})
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename ~ 'studio'"
        while rows(database, waiting) == [(0,)]:
            pass
        other.commit()
    response = request.getresponse()
    assert response.status == 409
    response.read()
    request.close()
    assert rows(database, "SELECT email FROM users WHERE id = 1") == [("theirs",)]


def test_rows_are_inserted_and_deleted(writing_studio: Client, database: Database) -> None:
    found = save(
        writing_studio,
        {"op": "insert", "table": "users", "values": {"clerk_user_id": "caio", "role": "STUDENT", "email": None}},
        {"op": "insert", "table": "versions", "values": {}},
        {"op": "delete", "table": "users", "key": "2", "was": {"email": None, "phone": ""}},
    )

    assert [(row["table"], row["key"], row["row"] is None) for row in found["rows"]] == [
        ("users", "3", False),
        ("versions", "1", False),
        ("users", "2", True),
    ]
    assert rows(database, "SELECT clerk_user_id, role FROM users ORDER BY id") == [("ana", None), ("caio", "STUDENT")]


def test_every_rejection_names_its_cell_and_nothing_is_saved(writing_studio: Client, database: Database) -> None:
    before = rows(database, "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM roles)")
    found = save(
        writing_studio,
        {"op": "insert", "table": "roles", "values": {"id": "NEW"}},
        update("2", {"clerk_user_id": "ana"}, {"clerk_user_id": "bia"}),
        update("1", {"clerk_user_id": None}, {"clerk_user_id": "ana"}),
        update("1", {"gym_id": "9"}, {"gym_id": "1"}),
        {"op": "delete", "table": "gyms", "key": "1", "was": {}},
        {"op": "insert", "table": "users", "values": {"clerk_user_id": "x", "approved_at": "soon"}},
        update("1", {"gym_id": "99999999999"}, {"gym_id": "1"}),
        {"op": "insert", "table": "roles", "values": {"id": "STUDENT"}},
        update("1", {"phone": "a\0b"}, {"phone": "1\r\n2"}),
        status=422,
    )

    assert {(error["index"], error["column"], error["constraint"]) for error in found["errors"]} == {
        (1, "clerk_user_id", "users_clerk_user_id_unique"),
        (2, "clerk_user_id", None),
        (3, "gym_id", "users_gym_id_gyms_id_fk"),
        (4, None, "users_gym_id_gyms_id_fk"),
        (5, "approved_at", None),
        (6, "gym_id", None),
        (7, "id", "roles_pkey"),
        (8, "phone", None),
    }
    messages = [error["what"] for error in found["errors"]]
    assert messages[0].startswith("another row already has this clerk_user_id. Key (clerk_user_id)=(ana)")
    assert messages[1] == "clerk_user_id must have a value"
    assert messages[2].startswith("gym_id refers to a row that does not exist. Key (gym_id)=(9)")
    assert messages[3] == "other rows still refer to this one: 2 rows of users by gym_id"
    assert found["what"] == (
        "the database rejected users 2, clerk_user_id, users 1, clerk_user_id, users 1, gym_id and 5 more"
    )
    assert rows(database, "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM roles)") == before


def test_a_rejected_deletion_counts_the_rows_of_all_tables_that_refer_to_it(
    writing_studio: Client, database: Database
) -> None:
    statements = """
        CREATE TABLE teams (a int, b int, boss int, name text UNIQUE, PRIMARY KEY (a, b));
        ALTER TABLE teams ADD FOREIGN KEY (boss, b) REFERENCES teams;
        CREATE TABLE wins (a int, b int, FOREIGN KEY (a, b) REFERENCES teams);
        CREATE TABLE flags (name text REFERENCES teams (name) ON UPDATE CASCADE);
        CREATE TABLE notes (name text REFERENCES teams (name) ON DELETE CASCADE);
        INSERT INTO teams VALUES (1, 1, NULL, 'x'), (2, 1, 1, 'y');
        INSERT INTO wins SELECT 1, 1 FROM generate_series(1, 1234); INSERT INTO wins VALUES (2, 1), (1, NULL);
        INSERT INTO flags VALUES ('x'); INSERT INTO notes VALUES ('x');
        GRANT ALL ON teams, wins, flags, notes TO tatame_studio_writer
    """
    with database.engine.begin() as connection:
        connection.execute(text(statements))
    deletion = {"op": "delete", "table": "teams", "key": '["1", "1"]', "was": {}}
    [error] = save(writing_studio, deletion, status=422)["errors"]
    assert error["what"] == (
        "other rows still refer to this one: 1 row of flags by name, 1 row of teams by boss and b, "
        "1,234 rows of wins by a and b"
    )


def test_a_preview_shows_the_statements_and_runs_none(writing_studio: Client, database: Database) -> None:
    found = save(
        writing_studio,
        update("1", {"email": "x'; --"}, {"email": "never compared"}),
        {"op": "delete", "table": "class", "key": "7", "was": {}},
        {"op": "insert", "table": "notifications", "values": {"recipients": ["1"]}},
        preview=True,
    )

    assert found["sql"] == [
        {
            "statement": "UPDATE public.users SET email=CAST($1 AS TEXT) WHERE public.users.id = CAST($2 AS INTEGER)",
            "parameters": ["x'; --", "1"],
        },
        {"statement": "DELETE FROM public.class WHERE public.class.id = CAST($1 AS INTEGER)", "parameters": ["7"]},
        {"statement": "INSERT INTO public.notifications (recipients) VALUES ($1)", "parameters": [["1"]]},
    ]
    assert rows(database, "SELECT email FROM users WHERE id = 1") == [("ana@gym.example",)]


@pytest.mark.parametrize("preview", [False, True])
def test_a_read_only_studio_saves_nothing(studio: Client, preview: bool) -> None:
    found = save(studio, {"op": "insert", "table": "versions", "values": {}}, status=403, preview=preview)
    assert "--write" in found["fix"]


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "1 to 1,000 changes"),
        ([{"op": "insert", "table": "versions", "values": {}}] * 1001, "1 to 1,000 changes"),
        ([{"op": "drop", "table": "users"}], "is malformed"),
        ([{"op": "insert", "table": "users"}], "is malformed"),
        ([{"op": "insert", "table": "users", "values": {"id": 1}}], "is malformed"),
        ([{"op": "insert", "table": "users", "values": {"email": ["x"]}}], 'the value for "email" is a list'),
        ([{"op": "insert", "table": "notifications", "values": {"recipients": "x"}}], "is not a list"),
        (
            [{"op": "insert", "table": "users", "values": {"nothing": "x"}}],
            'column "nothing" of table "users" does not exist',
        ),
        ([{"op": "insert", "table": "users", "values": {}, "where": "1=1"}], "is malformed"),
        ([update("1", {}, {})], "sets no columns"),
        ([update("1", {"email": "x"}, {"phone": ""})], "lacks the previous value"),
        (
            [update("1", {"email": "x"}, {"email": None, "nothing": None})],
            'column "nothing" of table "users" does not exist',
        ),
        ([update("ana", {"email": "x"}, {"email": None})], "invalid input syntax"),
        ([update("1", {"gym_id": "1"}, {"gym_id": "x"})], "invalid input syntax"),
        ("nonsense", "is malformed"),
    ],
)
def test_malformed_changes_get_a_problem(writing_studio: Client, changes: Any, message: str) -> None:
    response = writing_studio.ask("/api/changes", {"changes": changes})
    assert (response.status, message in response.json["what"]) == (400, True), response.text


@pytest.mark.parametrize("body", ["", "{", "[]", '{"changes":[]} x', '{"changes":' + "[" * 9999, '"\ud83d\\ud83d"'])
def test_a_malformed_body_gets_a_problem(writing_studio: Client, body: str) -> None:
    response = writing_studio.ask("/api/changes", body.encode("utf-8", "replace").decode())
    assert (response.status, "is malformed" in response.json["what"]) == (400, True), response.text


def test_a_check_returns_the_rows_as_they_would_be_stored_and_saves_nothing(
    writing_studio: Client, database: Database
) -> None:
    before = rows(database, "SELECT users\\:\\:text FROM users ORDER BY id")
    good = update("1", {"approved_at": "26/11/2026 10:00"}, {"approved_at": None})
    assert save(writing_studio, good, check=True)["rows"][0]["row"]["approved_at"] == "2026-11-26 10:00:00"
    bad = [
        update("1", {"approved_at": "11/26/2026"}, {"approved_at": None}),
        update("2", {"gym_id": "1,5"}, {"gym_id": "1"}),
    ]
    errors = save(writing_studio, good, *bad, check=True)["errors"]
    assert [(error["index"], error["column"]) for error in errors] == [(1, "approved_at"), (2, "gym_id")]
    assert "the day comes first" in errors[0]["what"]
    assert "write decimals with a point" in errors[1]["what"]
    assert rows(database, "SELECT users\\:\\:text FROM users ORDER BY id") == before
    save(writing_studio, good)
    assert rows(database, "SELECT approved_at\\:\\:text FROM users WHERE id = 1") == [("2026-11-26 10:00:00",)]
