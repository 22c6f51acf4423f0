"""Pages, filters, single rows and exports, over rows that are hard to sort, to cut and to show."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import text

from tatame_db.database.driver import driver_connection
from tatame_db.database.pool import Database
from tatame_db.schema import Base
from tatame_db.studio.access import Access, opened
from tatame_db.studio.filters import OPERATORS

Caller = Any
ORDERS = {
    "": "id",
    "-id": "id DESC",
    "first_name": "first_name, id",
    "-first_name": "first_name DESC, id DESC",
    "gym_id,-created_at": "gym_id, created_at DESC, id DESC",
    "-gym_id,first_name,-email": "gym_id DESC, first_name, email DESC, id DESC",
    "-role,-id": "role DESC, id DESC",
    "approved_at": "approved_at, id",
    "created_at,last_name,plan": "created_at, last_name, plan, id",
    "instagram": "instagram, id",
}


def ids(database: Database, query: str) -> list[str]:
    with database.engine.connect() as connection:
        return [str(key) for key in connection.scalars(text(query))]


@pytest.mark.parametrize(("sort", "order"), ORDERS.items())
@pytest.mark.parametrize("limit", [2, 7])
def test_the_pages_of_any_order_are_the_whole_in_both_directions(
    old_studio: Caller, old_database: Database, sort: str, order: str, limit: int
) -> None:
    wanted = ids(old_database, f"SELECT id FROM users WHERE id > 40 ORDER BY {order}")
    asked = {"sort": sort, "limit": str(limit), "columns": "id"}
    asked["filter"] = json.dumps({"column": "id", "op": ">", "value": "40"})

    def walk(page: dict[str, Any], way: str, parameter: str) -> list[list[str]]:
        pages = [page["keys"]]
        while cursor := page[way]:
            page = old_studio.get("/api/rows/users", **asked, **{parameter: cursor})
            pages.append(page["keys"])
        return pages

    first = old_studio.get("/api/rows/users", **asked)
    assert first["previous"] is None
    assert [key for keys in walk(first, "next", "after") for key in keys] == wanted

    last = old_studio.get("/api/rows/users", **asked, last="1")
    assert last["next"] is None
    assert [key for keys in reversed(walk(last, "previous", "before")) for key in keys] == wanted


def test_a_page_goes_on_after_its_last_row_was_deleted(studio: Caller, committed_database: Database) -> None:
    with committed_database.engine.begin() as connection:
        connection.execute(text("INSERT INTO roles SELECT 'role ' || n FROM generate_series(1, 6) AS n"))
    page = studio.get("/api/rows/roles", limit="3", sort="-created_at,id")
    with committed_database.engine.begin() as connection:
        connection.execute(text("DELETE FROM roles WHERE id IN ('role 3', 'role 4')"))

    following = studio.get("/api/rows/roles", limit="3", sort="-created_at,id", after=page["next"])
    assert following["keys"] == ["role 5", "role 6"]


def test_a_page_after_a_long_value_asks_for_its_row_again(studio: Caller, committed_database: Database) -> None:
    with committed_database.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO assets (title) SELECT repeat('x', 5000) || n FROM generate_series(1, 4) n")
        )
    page = studio.get("/api/rows/assets", limit="2", sort="title")
    assert len(page["next"]) < 100
    assert studio.get("/api/rows/assets", limit="2", sort="title", after=page["next"])["keys"] == ["3", "4"]

    with committed_database.engine.begin() as connection:
        connection.execute(text("DELETE FROM assets WHERE id = 2"))
    answer = studio.ask(f"/api/rows/assets?sort=title&after={page['next']}")
    assert (answer.status, answer.json["what"]) == (400, "the row at the end of that page is gone")


FILTERS: list[tuple[Any, str]] = [
    ({"column": "first_name", "op": "contains", "value": "AN"}, "first_name ILIKE '%an%'"),
    ({"column": "first_name", "op": "contains exact", "value": "an"}, "first_name LIKE '%an%'"),
    ({"column": "first_name", "op": "starts", "value": "an"}, "lower(first_name) = 'ana'"),
    ({"column": "first_name", "op": "starts exact", "value": "an"}, "first_name = 'ana'"),
    ({"column": "first_name", "op": "ends", "value": "A"}, "first_name ILIKE '%a'"),
    ({"column": "first_name", "op": "is", "value": "ana"}, "first_name = 'ana'"),
    ({"column": "first_name", "op": "is", "value": ""}, "first_name = ''"),
    ({"column": "first_name", "op": "is not", "value": "ana"}, "first_name IS DISTINCT FROM 'ana'"),
    ({"column": "first_name", "op": "null"}, "first_name IS NULL"),
    ({"column": "first_name", "op": "not null"}, "first_name IS NOT NULL"),
    ({"column": "first_name", "op": "<", "value": "Bia"}, "first_name < 'Bia'"),
    ({"column": "first_name", "op": "in", "value": ["ana", ""]}, "first_name IN ('ana', '')"),
    ({"column": "first_name", "op": "contains", "value": "%_\\"}, "first_name = '100%_\\'"),
    ({"column": "first_name", "op": "contains", "value": "%"}, "first_name = '100%_\\'"),
    ({"column": "first_name", "op": "starts", "value": "'; DROP"}, "first_name LIKE '%DROP%'"),
    ({"column": "id", "op": "between", "value": ["7", "9"]}, "id IN (7, 8, 9)"),
    ({"column": "id", "op": "in", "value": ["7", "9"]}, "id IN (7, 9)"),
    ({"column": "id", "op": "in", "value": []}, "false"),
    ({"column": "id", "op": "<=", "value": "3"}, "id <= 3"),
    ({"column": "gym_id", "op": "is not", "value": "1"}, "gym_id IS DISTINCT FROM 1"),
    ({"column": "created_at", "op": "is", "value": "2026-01-01 10:00:00.000002"}, "id % 6 = 1"),
    ({"column": "created_at", "op": ">=", "value": "2026-01-01 10:00:00.000005"}, "id % 6 > 3"),
    ({"column": "approved_at", "op": "is", "value": "-infinity"}, "id % 6 = 1"),
    ({"column": "approved_at", "op": "<", "value": "0001-01-01 00:00:00"}, "id % 6 IN (1, 2)"),
    (
        {"all": [{"column": "id", "op": ">", "value": "9"}, {"column": "id", "op": "<", "value": "12"}]},
        "id IN (10, 11)",
    ),
    ({"any": [{"column": "id", "op": "is", "value": "9"}, {"column": "id", "op": "is", "value": "4"}]}, "id IN (9, 4)"),
    (
        {"all": [{"any": [{"column": "role", "op": "null"}, {"all": []}]}, {"column": "id", "op": "<", "value": "5"}]},
        "id < 5",
    ),
    ({"any": []}, "false"),
]


@pytest.mark.parametrize(("condition", "meaning"), FILTERS, ids=lambda value: json.dumps(value)[:60])
def test_a_filter_finds_what_it_says(old_studio: Caller, old_database: Database, condition: Any, meaning: str) -> None:
    wanted = ids(old_database, f"SELECT id FROM users WHERE {meaning.replace(':', chr(92) + ':')} ORDER BY id")
    asked = {"filter": json.dumps(condition)}

    found = old_studio.get("/api/rows/users", columns="id", **asked)
    assert found["keys"] == wanted
    assert old_studio.get("/api/count/users", **asked) == {"rows": len(wanted)}
    assert found["estimated"] >= 0


@pytest.mark.parametrize(
    ("condition", "keys"),
    [
        ({"op": "has", "value": "2"}, ["1", "2", "4"]),
        ({"op": "has", "value": 'a,"b"'}, ["2"]),
        ({"op": "has any", "value": ["1", 'a,"b"']}, ["1", "2", "4"]),
        ({"op": "null"}, ["3"]),
        ({"op": "not null"}, ["1", "2", "4"]),
    ],
)
def test_a_list_is_asked_for_what_it_holds(old_studio: Caller, condition: Any, keys: list[str]) -> None:
    asked = json.dumps(condition | {"column": "recipients"})
    assert old_studio.get("/api/rows/notifications", filter=asked)["keys"] == keys


def test_an_empty_list_is_not_null(old_studio: Caller) -> None:
    asked = json.dumps({"column": "viewed_by", "op": "empty"})
    assert old_studio.get("/api/rows/notifications", filter=asked)["keys"] == ["1", "3"]


def test_every_operator_is_tried_here() -> None:
    tried = {part["op"] for condition, _ in FILTERS for part in flat(condition)}
    assert set(OPERATORS["text"]) | set(OPERATORS["integer"]) | set(OPERATORS["timestamp"]) == tried | {">"} - {""}
    assert set(OPERATORS["array"]) == {"has", "has any", "empty", "null", "not null"}


def flat(condition: Any) -> list[Any]:
    parts = condition.get("all", condition.get("any"))
    return [condition] if parts is None else [found for part in parts for found in flat(part)]


def test_a_filter_of_a_table_that_is_not_looked_at_fails_in_words(old_studio: Caller) -> None:
    answer = old_studio.ask(
        '/api/count/users?filter={"column":"recipients","op":"has","value":"1"}'.replace('"', "%22")
    )
    assert (answer.status, answer.json["what"]) == (400, "users has no column 'recipients'")


def test_cells_are_exact_and_long_ones_are_cut(old_studio: Caller) -> None:
    page = old_studio.get("/api/rows/users", limit="7", columns="id,instagram,phone,created_at,approved_at,first_name")

    assert page["rows"][0] == [
        "1",
        {"cut": "é" * 200, "length": 1_000_000},
        "line 1\nline\t2\r\n",
        "2026-01-01 10:00:00.000002",
        "-infinity",
        "ana",
    ]
    assert [row[4] for row in page["rows"][1:6]] == [
        "0001-01-01 00:00:00 BC",
        "2026-02-28 23:59:59.999999",
        None,
        None,
        "infinity",
    ]
    assert [row[5] for row in page["rows"][2:4]] == [None, ""]


def test_lists_are_lists_and_long_ones_are_cut(old_studio: Caller) -> None:
    page = old_studio.get("/api/rows/notifications", columns="recipients,viewed_by")

    assert page["rows"][:3] == [[["1", "2"], []], [["2", None, 'a,"b"'], None], [None, []]]
    assert page["rows"][3][0]["cut"].startswith("{1,2,3,")
    assert page["rows"][3][0]["length"] == 3894
    assert old_studio.get("/api/cell/notifications/recipients/4")["value"] == [str(n) for n in range(1, 1001)]


def test_a_whole_cell_is_given_on_demand(old_studio: Caller) -> None:
    assert old_studio.get("/api/cell/users/instagram/1") == {"value": "é" * 1_000_000}
    assert old_studio.get("/api/cell/users/phone/2") == {"value": None}


def test_a_cell_that_no_page_can_hold_is_told_to_be_so(studio: Caller, committed_database: Database) -> None:
    with committed_database.engine.begin() as connection:
        connection.execute(text("INSERT INTO assets (content) VALUES (repeat('x', 8000001))"))
    answer = studio.ask("/api/cell/assets/content/1")
    assert (answer.status, answer.json["what"][:9]) == (400, "8,000,001")


def test_a_row_shows_what_it_points_to_and_what_points_to_it(old_studio: Caller) -> None:
    found = old_studio.get("/api/row/users/5")

    assert found["row"]["clerk_user_id"] == "user_005"
    assert found["references"] == {"gym_id": {"table": "gyms", "key": "2", "label": "Norte"}}
    counted = {f"{part['table']}.{part['column']}": (part["rows"], part["more"]) for part in found["referenced_by"]}
    assert counted["checkins.user_id"] == (1000, True)
    assert counted["graduations.user_id"] == (0, False)
    assert len(counted) == 6


@pytest.mark.parametrize("key", ["STUDENT", "a/b?c=d&e %", ""])
def test_a_key_of_any_text_is_found(old_studio: Caller, key: str) -> None:
    assert old_studio.get(f"/api/row/roles/{quote(key, safe='')}")["row"]["id"] == key


@pytest.mark.parametrize(
    ("table", "words", "keys"),
    [
        ("users", "ágUa", ["5", "13", "21", "29", "37", "45", "53"]),
        ("users", "7", ["7"]),
        ("gyms", "", ["1", "2"]),
        ("gyms", "nor", ["2"]),
        ("roles", "STU", ["STUDENT"]),
        ("gyms", "%", []),
    ],
)
def test_rows_to_point_at_are_found_by_key_and_by_name(
    old_studio: Caller, table: str, words: str, keys: list[str]
) -> None:
    assert [found["key"] for found in old_studio.get("/api/find", table=table, q=words)] == keys


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/rows/nothing", 404, "there is no table 'nothing'"),
        ("/api/rows/pg_authid", 404, "there is no table 'pg_authid'"),
        ("/api/rows/users?columns=id,nothing", 400, "users has no column 'nothing'"),
        ("/api/rows/users?sort=nothing", 400, "users has no column 'nothing'"),
        ("/api/rows/users?sort=id%20DESC", 400, "users has no column 'id DESC'"),
        ("/api/rows/users?limit=0", 400, "a page has 1 to 1000 rows"),
        ("/api/rows/users?limit=1001", 400, "a page has 1 to 1000 rows"),
        ("/api/rows/users?limit=999999999999999999999", 400, "is no number"),
        ("/api/rows/users?limit=-1", 400, "is no number"),
        ("/api/rows/users?limit=%C2%B2", 400, "is no number"),
        ("/api/rows/users?after=nonsense", 400, "cursor"),
        ("/api/rows/users?after=%FF%FE", 400, "cursor"),
        ("/api/rows/users?after=WyJlbWFpbCIsWyIyIl1d", 400, "cursor belongs to another order"),
        ("/api/rows/users?after=WyJpZCIsWyJ4Il1d", 400, "invalid input syntax for type integer"),
        ("/api/rows/users?filter=nonsense", 400, "no JSON"),
        ("/api/rows/users?filter=" + "[" * 5000, 400, "no JSON"),
        ("/api/rows/users?filter=[]", 400, "cannot be read"),
        ("/api/rows/users?filter=1", 400, "cannot be read"),
        ('/api/rows/users?filter={"all":1}', 400, "cannot be read"),
        ('/api/rows/users?filter={"all":[],"any":[]}', 400, "cannot be read"),
        ('/api/rows/users?filter={"column":"id"}', 400, "cannot be read"),
        ('/api/rows/users?filter={"column":["id"],"op":"is","value":"1"}', 400, "no column"),
        ('/api/rows/users?filter={"column":"id","op":"contains","value":"1"}', 400, "no operator 'contains'"),
        ('/api/rows/users?filter={"column":"id","op":["is"],"value":"1"}', 400, "no operator"),
        ('/api/rows/users?filter={"column":"id","op":"is","value":1}', 400, "not a text"),
        ('/api/rows/users?filter={"column":"id","op":"is"}', 400, "not a text"),
        ('/api/rows/users?filter={"column":"id","op":"in","value":"1"}', 400, "not a list"),
        ('/api/rows/users?filter={"column":"id","op":"between","value":["1"]}', 400, "not a pair"),
        ('/api/rows/users?filter={"column":"id","op":"is","value":"ana"}', 400, "invalid input syntax"),
        ('/api/rows/users?filter={"column":"id","op":"is","value":"99999999999"}', 400, "out of range"),
        ('/api/rows/users?filter={"column":"created_at","op":"is","value":"soon"}', 400, "invalid input syntax"),
        ('/api/rows/users?filter={"column":"email","op":"is","value":"a\\u0000b"}', 400, "NUL"),
        ('/api/rows/users?filter={"any":[' + ",".join(['{"all":[]}'] * 51) + "]}", 400, "more than 50 conditions"),
        ("/api/row/users/999", 404, "users has no row '999'"),
        ("/api/row/users/ana", 400, "invalid input syntax"),
        ("/api/cell/users/id/999", 404, "users has no row '999'"),
        ("/api/cell/users/nothing/1", 400, "no column"),
        ("/api/find?q=ana", 404, "there is no table ''"),
        ("/api/export/users.exe", 400, "not exported as 'exe'"),
        ("/api/export/nothing.csv", 404, "there is no table"),
        ('/api/export/users.csv?filter={"column":"id","op":"is","value":"ana"}', 400, "invalid input syntax"),
        ("/api/nothing", 404, "there is no /api/nothing"),
    ],
)
def test_what_cannot_be_read_is_answered_in_words(old_studio: Caller, path: str, status: int, words: str) -> None:
    answer = old_studio.ask(quote(path, safe="/?=&%"))

    assert answer.status == status, answer.text
    assert words in answer.json["what"]
    assert {"what", "means", "fix", "code"} <= answer.json.keys()


def test_the_tables_are_described_from_the_models(old_studio: Caller) -> None:
    session = old_studio.get("/api/session")

    assert (session["mode"], session["role"]) == ("read-only", "tatame_studio")
    described = {table["name"]: table for table in session["tables"]}
    assert described.keys() == Base.metadata.tables.keys()
    columns = {column["name"]: column for column in described["users"]["columns"]}
    assert list(columns) == Base.metadata.tables["users"].columns.keys()
    assert columns["gym_id"]["references"] == {"table": "gyms", "column": "id"}
    assert columns["created_at"] | {"default": None} == {
        "name": "created_at",
        "type": "timestamp without time zone",
        "kind": "timestamp",
        "nullable": False,
        "default": None,
        "unique": False,
        "primary": False,
        "references": None,
    }
    assert {"table": "gyms", "column": "manager_id"} in described["users"]["referenced_by"]


# --- Exports ----------------------------------------------------------------------------------------------------------


def test_an_export_as_csv_is_read_back_equal_by_postgresql(old_studio: Caller, old_database: Database) -> None:
    answer = old_studio.ask("/api/export/users.csv")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="users.csv"'
    with old_database.engine.connect() as connection:
        connection.execute(text("CREATE TEMP TABLE back (LIKE users)"))
        driver = driver_connection(connection)
        with driver.cursor().copy("COPY back FROM STDIN (FORMAT csv, HEADER match)") as copy:
            copy.write(answer.text)
        differing = (
            "SELECT count(*) FROM users u FULL JOIN back b ON u.id = b.id WHERE u::text IS DISTINCT FROM b::text"
        )
        assert connection.scalar(text(differing.replace("::", r"\:\:"))) == 0
        assert connection.scalar(text("SELECT count(*) FROM back")) == 60
        connection.rollback()


def test_an_export_has_the_rows_and_columns_that_show_in_their_order(old_studio: Caller) -> None:
    asked = "?columns=first_name,id&sort=-id&filter=" + quote('{"column":"id","op":"<","value":"6"}')

    rows = list(csv.reader(io.StringIO(old_studio.ask(f"/api/export/users.csv{asked}").text)))
    assert rows == [["first_name", "id"], ["Água", "5"], ["", "4"], ["", "3"], ["Bia", "2"], ["ana", "1"]]
    assert old_studio.get(f"/api/export/users.json{asked}") == [
        {"first_name": name, "id": key} for name, key in [("Água", 5), ("", 4), (None, 3), ("Bia", 2), ("ana", 1)]
    ]


def test_an_export_of_nothing_is_whole_too(old_studio: Caller) -> None:
    assert old_studio.ask("/api/export/versions.json").json == []
    assert old_studio.ask("/api/export/versions.csv").text == "id,app_version,created_at,disabled_at\r\n"


def test_lists_in_an_export_as_json_are_lists(old_studio: Caller) -> None:
    exported = old_studio.get("/api/export/notifications.json?columns=recipients,viewed_by&sort=id")
    assert exported[1] == {"recipients": ["2", None, 'a,"b"'], "viewed_by": None}


def test_a_table_that_is_not_there_yet_is_told_to_be_waiting_for_migrations(
    bare_address: Any, serve_studio: Callable[[Access], Caller]
) -> None:
    with Database(bare_address) as database:
        studio = serve_studio(opened(database, embedded=True, write=False))

    answer = studio.ask("/api/rows/users")
    assert (answer.status, answer.json["code"]) == (422, "42P01")
    assert "tatame-db migrate" in answer.json["fix"]
    overview = studio.get("/api/overview")
    assert [table["missing"] for table in overview["tables"]] == [True] * len(Base.metadata.tables)
    assert len(overview["pending"]) > 0
    assert studio.get("/api/move")["ever"] is False
