"""Pages, filters, single rows and exports, over rows that are hard to sort, to cut and to show."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from sqlalchemy import text

from tatame_db.database.driver import driver_connection
from tatame_db.database.pool import Database
from tatame_db.schema import Base
from tatame_db.studio.access import Access, open_access
from tatame_db.studio.filters import OPERATORS

Client = Any
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
def test_the_pages_of_any_order_are_complete_in_both_directions(
    filled_studio: Client, filled_database: Database, sort: str, order: str, limit: int
) -> None:
    expected = ids(filled_database, f"SELECT id FROM users WHERE id > 40 ORDER BY {order}")
    query = {"sort": sort, "limit": str(limit), "columns": "id"}
    query["filter"] = json.dumps({"column": "id", "op": ">", "value": "40"})

    def walk(page: dict[str, Any], way: str, parameter: str) -> list[list[str]]:
        pages = [page["keys"]]
        while cursor := page[way]:
            page = filled_studio.get("/api/rows/users", **query, **{parameter: cursor})
            pages.append(page["keys"])
        return pages

    first = filled_studio.get("/api/rows/users", **query)
    assert first["previous"] is None
    assert [key for keys in walk(first, "next", "after") for key in keys] == expected

    last = filled_studio.get("/api/rows/users", **query, last="1")
    assert last["next"] is None
    assert [key for keys in reversed(walk(last, "previous", "before")) for key in keys] == expected


def test_the_next_page_is_found_after_the_last_row_was_deleted(studio: Client, committed_database: Database) -> None:
    with committed_database.engine.begin() as connection:
        connection.execute(text("INSERT INTO roles SELECT 'role ' || n FROM generate_series(1, 6) AS n"))
    page = studio.get("/api/rows/roles", limit="3", sort="-created_at,id")
    with committed_database.engine.begin() as connection:
        connection.execute(text("DELETE FROM roles WHERE id IN ('role 3', 'role 4')"))

    following = studio.get("/api/rows/roles", limit="3", sort="-created_at,id", after=page["next"])
    assert following["keys"] == ["role 5", "role 6"]


def test_a_cursor_leaves_out_a_long_value_and_reads_it_again(studio: Client, committed_database: Database) -> None:
    with committed_database.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO assets (title) SELECT repeat('x', 5000) || n FROM generate_series(1, 4) n")
        )
    page = studio.get("/api/rows/assets", limit="2", sort="title")
    assert len(page["next"]) < 100
    assert studio.get("/api/rows/assets", limit="2", sort="title", after=page["next"])["keys"] == ["3", "4"]

    with committed_database.engine.begin() as connection:
        connection.execute(text("DELETE FROM assets WHERE id = 2"))
    response = studio.ask(f"/api/rows/assets?sort=title&after={page['next']}")
    assert (response.status, response.json["what"]) == (400, "the row at the end of that page was deleted")


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


@pytest.mark.parametrize(("condition", "where"), FILTERS, ids=lambda value: json.dumps(value)[:60])
def test_a_filter_finds_its_rows(filled_studio: Client, filled_database: Database, condition: Any, where: str) -> None:
    expected = ids(filled_database, f"SELECT id FROM users WHERE {where.replace(':', chr(92) + ':')} ORDER BY id")
    query = {"filter": json.dumps(condition)}

    found = filled_studio.get("/api/rows/users", columns="id", **query)
    assert found["keys"] == expected
    assert filled_studio.get("/api/count/users", **query) == {"rows": len(expected)}
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
def test_a_list_is_filtered_by_its_elements(filled_studio: Client, condition: Any, keys: list[str]) -> None:
    query = json.dumps(condition | {"column": "recipients"})
    assert filled_studio.get("/api/rows/notifications", filter=query)["keys"] == keys


def test_an_empty_list_is_not_null(filled_studio: Client) -> None:
    query = json.dumps({"column": "viewed_by", "op": "empty"})
    assert filled_studio.get("/api/rows/notifications", filter=query)["keys"] == ["1", "3"]


def test_every_operator_is_tested_here() -> None:
    tested = {part["op"] for condition, _ in FILTERS for part in flat(condition)}
    assert set(OPERATORS["text"]) | set(OPERATORS["integer"]) | set(OPERATORS["timestamp"]) == tested | {">"} - {""}
    assert set(OPERATORS["array"]) == {"has", "has any", "empty", "null", "not null"}


def flat(condition: Any) -> list[Any]:
    parts = condition.get("all", condition.get("any"))
    return [condition] if parts is None else [found for part in parts for found in flat(part)]


def test_a_filter_on_a_column_of_another_table_gets_a_problem(filled_studio: Client) -> None:
    response = filled_studio.ask(
        '/api/count/users?filter={"column":"recipients","op":"has","value":"1"}'.replace('"', "%22")
    )
    assert (response.status, response.json["what"]) == (400, 'column "recipients" of table "users" does not exist')


def test_cells_are_exact_and_long_ones_are_cut(filled_studio: Client) -> None:
    page = filled_studio.get(
        "/api/rows/users", limit="7", columns="id,instagram,phone,created_at,approved_at,first_name"
    )

    assert page["rows"][0] == [
        "1",
        {"cut": "é" * 200, "length": 2_000_000, "bytes": True},
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


def test_lists_are_lists_and_long_ones_are_cut(filled_studio: Client) -> None:
    page = filled_studio.get("/api/rows/notifications", columns="recipients,viewed_by")

    assert page["rows"][:3] == [[["1", "2"], []], [["2", None, 'a,"b"'], None], [None, []]]
    assert page["rows"][3][0]["cut"].startswith("{1,2,3,")
    assert page["rows"][3][0]["length"] == 3894
    assert filled_studio.get("/api/cell/notifications/recipients/4")["value"] == [str(n) for n in range(1, 1001)]


def test_a_whole_value_is_read_on_demand(filled_studio: Client) -> None:
    assert filled_studio.get("/api/cell/users/instagram/1") == {"value": "é" * 1_000_000}
    assert filled_studio.get("/api/cell/users/phone/2") == {"value": None}


def test_a_value_that_is_too_long_for_the_browser_gets_a_problem(studio: Client, committed_database: Database) -> None:
    with committed_database.engine.begin() as connection:
        connection.execute(text("INSERT INTO assets (content) VALUES (repeat('x', 8000001))"))
    response = studio.ask("/api/cell/assets/content/1")
    assert (response.status, response.json["what"][:29]) == (400, "the value has 8,000,001 bytes")


def test_a_row_has_its_references_and_its_referrers(filled_studio: Client) -> None:
    found = filled_studio.get("/api/row/users/5")

    assert found["row"]["clerk_user_id"] == "user_005"
    assert found["references"] == {"gym_id": {"table": "gyms", "key": "2", "label": "Norte"}}
    counted = {f"{part['table']}.{part['column']}": (part["rows"], part["more"]) for part in found["referenced_by"]}
    assert counted["checkins.user_id"] == (1000, True)
    assert counted["graduations.user_id"] == (0, False)
    assert len(counted) == 6


@pytest.mark.parametrize("key", ["STUDENT", "a/b?c=d&e %", ""])
def test_any_text_can_be_a_key(filled_studio: Client, key: str) -> None:
    assert filled_studio.get(f"/api/row/roles/{quote(key, safe='')}")["row"]["id"] == key


@pytest.mark.parametrize(
    ("table", "prefix", "keys"),
    [
        ("users", "ágUa", ["5", "45", "13", "21", "29", "37", "53"]),
        ("users", "agua silva 37", ["37"]),
        ("users", "59", ["59"]),
        ("gyms", "", ["1", "2"]),
        ("gyms", "nor", ["2"]),
        ("roles", "STU", ["STUDENT"]),
        ("gyms", "%", []),
    ],
)
def test_rows_to_refer_to_are_found_by_key_and_by_label(
    filled_studio: Client, table: str, prefix: str, keys: list[str]
) -> None:
    assert [found["key"] for found in filled_studio.get("/api/find", table=table, q=prefix)] == keys


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/api/rows/nothing", 404, 'table "nothing" does not exist'),
        ("/api/rows/pg_authid", 404, 'table "pg_authid" does not exist'),
        ("/api/rows/users?columns=id,nothing", 400, 'column "nothing" of table "users" does not exist'),
        ("/api/rows/users?sort=nothing", 400, 'column "nothing" of table "users" does not exist'),
        ("/api/rows/users?sort=id%20DESC", 400, 'column "id DESC" of table "users" does not exist'),
        ("/api/rows/users?limit=0", 400, "a page has 1 to 1,000 rows"),
        ("/api/rows/users?limit=1001", 400, "a page has 1 to 1,000 rows"),
        ("/api/rows/users?limit=999999999999999999999", 400, "is not a number"),
        ("/api/rows/users?limit=-1", 400, "is not a number"),
        ("/api/rows/users?limit=%C2%B2", 400, "is not a number"),
        ("/api/rows/users?after=nonsense", 400, "cursor"),
        ("/api/rows/users?after=%FF%FE", 400, "cursor"),
        ("/api/rows/users?after=WyJlbWFpbCIsWyIyIl1d", 400, "cursor belongs to another order"),
        ("/api/rows/users?after=WyJpZCIsWyJ4Il1d", 400, "invalid input syntax for type integer"),
        ("/api/rows/users?filter=nonsense", 400, "is not JSON"),
        ("/api/rows/users?filter=" + "[" * 5000, 400, "is not JSON"),
        ("/api/rows/users?filter=[]", 400, "is malformed"),
        ("/api/rows/users?filter=1", 400, "is malformed"),
        ('/api/rows/users?filter={"all":1}', 400, "is malformed"),
        ('/api/rows/users?filter={"all":[],"any":[]}', 400, "is malformed"),
        ('/api/rows/users?filter={"column":"id"}', 400, "is malformed"),
        ('/api/rows/users?filter={"column":["id"],"op":"is","value":"1"}', 400, "is malformed"),
        (
            '/api/rows/users?filter={"column":"id","op":"contains","value":"1"}',
            400,
            'column "id" has no operator "contains"',
        ),
        ('/api/rows/users?filter={"column":"id","op":["is"],"value":"1"}', 400, "is malformed"),
        ('/api/rows/users?filter={"column":"id","op":"is","value":1}', 400, "not a string"),
        ('/api/rows/users?filter={"column":"id","op":"is"}', 400, "not a string"),
        ('/api/rows/users?filter={"column":"id","op":"in","value":"1"}', 400, "not a list"),
        ('/api/rows/users?filter={"column":"id","op":"between","value":["1"]}', 400, "not a pair"),
        ('/api/rows/users?filter={"column":"id","op":"is","value":"ana"}', 400, "invalid input syntax"),
        ('/api/rows/users?filter={"column":"id","op":"is","value":"99999999999"}', 400, "out of range"),
        ('/api/rows/users?filter={"column":"created_at","op":"is","value":"soon"}', 400, "invalid input syntax"),
        ('/api/rows/users?filter={"column":"email","op":"is","value":"a\\u0000b"}', 400, "NUL"),
        ('/api/rows/users?filter={"any":[' + ",".join(['{"all":[]}'] * 51) + "]}", 400, "more than 50 conditions"),
        ("/api/row/users/999", 404, 'users has no row with the key "999"'),
        ("/api/row/users/ana", 400, "invalid input syntax"),
        ("/api/cell/users/id/999", 404, 'users has no row with the key "999"'),
        ("/api/cell/users/nothing/1", 400, 'column "nothing" of table "users" does not exist'),
        ("/api/find?q=ana", 404, 'table "" does not exist'),
        ("/api/export/users.exe", 400, '"exe" is not an export format'),
        ("/api/export/users.csv?separator=|", 400, '"|" cannot separate values'),
        ("/api/export/users.csv?null=none", 400, 'NULL cannot be written as "none"'),
        ("/api/export/nothing.csv", 404, 'table "nothing" does not exist'),
        ('/api/export/users.csv?filter={"column":"id","op":"is","value":"ana"}', 400, "invalid input syntax"),
        ("/api/nothing", 404, "/api/nothing does not exist"),
    ],
)
def test_a_refused_request_gets_a_problem(filled_studio: Client, path: str, status: int, message: str) -> None:
    response = filled_studio.ask(quote(path, safe="/?=&%"))

    assert response.status == status, response.text
    assert message in response.json["what"]
    assert {"what", "means", "fix", "code"} <= response.json.keys()


def test_the_tables_are_described_from_the_models(filled_studio: Client) -> None:
    session = filled_studio.get("/api/session")

    assert (session["mode"], session["role"]) == ("read-only", "tatame_studio")
    described = {table["name"]: table for table in session["tables"]}
    assert described.keys() == Base.metadata.tables.keys()
    columns = {column["name"]: column for column in described["users"]["columns"]}
    assert list(columns) == Base.metadata.tables["users"].columns.keys()
    assert columns["gym_id"]["references"] == {"table": "gyms", "column": "id", "is_key": True}
    assert columns["created_at"] | {"default": None} == {
        "name": "created_at",
        "type": "timestamp without time zone",
        "kind": "timestamp",
        "nullable": False,
        "default": None,
        "unique": False,
        "primary": False,
        "references": None,
        "values": None,
        "sortable": True,
        "editable": True,
        "insertable": True,
    }
    assert {"table": "gyms", "column": "manager_id"} in described["users"]["referenced_by"]


# --- Exports ----------------------------------------------------------------------------------------------------------


def test_postgresql_reads_a_csv_export_back_unchanged(filled_studio: Client, filled_database: Database) -> None:
    response = filled_studio.ask("/api/export/users.csv")
    assert response.headers["Content-Disposition"] == 'attachment; filename="users.csv"'
    with filled_database.engine.connect() as connection:
        connection.execute(text("CREATE TEMP TABLE back (LIKE users)"))
        driver = driver_connection(connection)
        with driver.cursor().copy("COPY back FROM STDIN (FORMAT csv, HEADER match)") as copy:
            copy.write(response.text)
        differing = (
            "SELECT count(*) FROM users u FULL JOIN back b ON u.id = b.id WHERE u::text IS DISTINCT FROM b::text"
        )
        assert connection.scalar(text(differing.replace("::", r"\:\:"))) == 0
        assert connection.scalar(text("SELECT count(*) FROM back")) == 60
        connection.rollback()


def test_postgresql_reads_a_csv_export_with_other_options_back(
    filled_studio: Client, filled_database: Database
) -> None:
    exported = filled_studio.ask("/api/export/users.csv?" + urlencode({"separator": "\t", "null": "\\N", "mark": ""}))
    assert exported.headers["Content-Disposition"] == 'attachment; filename="users.tsv"'
    assert exported.text.startswith("\ufeffid\t")
    with filled_database.engine.connect() as connection:
        connection.execute(text("CREATE TEMP TABLE back (LIKE users)"))
        options = r"FORMAT csv, HEADER match, DELIMITER E'\t', NULL '\N'"
        with driver_connection(connection).cursor().copy(f"COPY back FROM STDIN ({options})") as copy:
            copy.write(exported.text[1:])
        differing = "SELECT count(*) FROM users u FULL JOIN back b USING (id) WHERE u.* IS DISTINCT FROM b.*"
        assert connection.scalar(text(differing)) == 0
        connection.rollback()


def test_a_harmless_export_has_no_text_that_a_spreadsheet_computes(
    studio: Client, committed_database: Database
) -> None:
    texts = ["=1+1", "+351", "-5", "@SUM(A1)", "\t=1", "\r\n=1", "\uff1d1", "a=b", "", None, "'x", 'say "=1"']
    with committed_database.engine.begin() as connection:
        for number, shown in enumerate(texts, start=-3):
            connection.execute(
                text("INSERT INTO versions (id, app_version, created_at) VALUES (:id, :shown, '-infinity')"),
                {"id": number, "shown": shown},
            )
    query = "?columns=id,app_version,created_at&sort=id"
    rows = list(csv.reader(io.StringIO(studio.ask(f"/api/export/versions.csv{query}&harmless").text, newline="")))
    changed = [f"'{shown}" if index < 7 else shown or "" for index, shown in enumerate(texts)]
    assert rows[1:] == [[str(number), shown, "-infinity"] for number, shown in enumerate(changed, start=-3)]
    lines = studio.ask(f"/api/export/versions.jsonl{query}&harmless").lines
    assert [line["app_version"] for line in lines] == texts


def test_an_export_has_the_rows_columns_and_order_of_its_selection(filled_studio: Client) -> None:
    query = "?columns=first_name,id&sort=-id&filter=" + quote('{"column":"id","op":"<","value":"6"}')

    rows = list(csv.reader(io.StringIO(filled_studio.ask(f"/api/export/users.csv{query}").text)))
    assert rows == [["first_name", "id"], ["Água", "5"], ["", "4"], ["", "3"], ["Bia", "2"], ["ana", "1"]]
    assert filled_studio.get(f"/api/export/users.json{query}") == [
        {"first_name": name, "id": key} for name, key in [("Água", 5), ("", 4), (None, 3), ("Bia", 2), ("ana", 1)]
    ]


def test_the_estimate_follows_what_is_written_since_the_table_was_analyzed(
    committed_database: Database, serve_studio: Callable[[Access], Client]
) -> None:
    client = serve_studio(open_access(committed_database, embedded=True, write=False))
    statements = [
        "INSERT INTO versions (app_version) SELECT 'v' || n FROM generate_series(1, 500) n",
        "ANALYZE versions",
    ]
    for statement in [*statements, "DELETE FROM versions WHERE id > 400"]:
        with committed_database.engine.begin() as connection:
            connection.execute(text(statement))
            connection.execute(text("SELECT pg_stat_force_next_flush()"))
    assert client.get("/api/rows/versions", limit="1")["estimated"] == 400
    [versions] = [table for table in client.get("/api/overview")["tables"] if table["name"] == "versions"]
    assert versions["rows_estimated"] == 400


def test_an_export_without_rows_is_complete(filled_studio: Client) -> None:
    assert filled_studio.ask("/api/export/versions.json").json == []
    assert filled_studio.ask("/api/export/versions.csv").text == "id,app_version,created_at,disabled_at\r\n"


def test_lists_are_lists_in_a_json_export(filled_studio: Client) -> None:
    exported = filled_studio.get("/api/export/notifications.json?columns=recipients,viewed_by&sort=id")
    assert exported[1] == {"recipients": ["2", None, 'a,"b"'], "viewed_by": None}


def test_a_missing_table_gets_the_hint_to_migrate(bare_address: Any, serve_studio: Callable[[Access], Client]) -> None:
    with Database(bare_address) as database:
        studio = serve_studio(open_access(database, embedded=True, write=False))

    response = studio.ask("/api/rows/users")
    assert (response.status, response.json["code"]) == (422, "42P01")
    assert "tatame-db migrate" in response.json["fix"]
    overview = studio.get("/api/overview")
    assert [table["missing"] for table in overview["tables"]] == [True] * len(Base.metadata.tables)
    assert len(overview["pending"]) > 0
    assert studio.get("/api/move")["ever"] is False
