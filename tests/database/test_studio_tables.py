"""The studio over a catalogue that holds everything: odd names, every kind of relation, and values of every type."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import text
from tests.database.conftest import serving

from tatame_db.database.driver import driver_connection
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.studio.access import Access, open_access
from tatame_db.studio.addresses import address, encoded
from tatame_db.studio.catalogue import read_table
from tatame_db.studio.transactions import read_transaction
from tatame_db.testing.runs import Run

Client = Any
ODD = address('Odd "Schema".x/y%', 'Na.me "q" /%41?#-,:x')
KEY, VALUE = "Ke.y,-", '-Col/umn %s (x) :y, "z"'

# Each value is written as PostgreSQL writes it, so that equal texts are equal values.
VALUES = {
    "a_boolean": "true",
    "a_smallint": "-32768",
    "a_bigint": "9007199254740993",
    "a_numeric": "123456789012345678901234567890.000100",
    "a_real": "1.1754944e-38",
    "a_double": "-0",
    "a_money": "$1,234.50",
    "a_text": " a\r\n\tb\\ ",
    "a_varchar": "ab\n ",
    "a_char": "ab   ",
    "a_name": "Ana",
    "an_enum": "happy, very",
    "a_domain": "a'b",
    "a_bytea": "\\x00ff0a",
    "a_json": '{"a":  1, "a": 12345678901234567890.10}',
    "a_jsonb": '{"a": [1, {"b": null}], "n": 9007199254740993.10}',
    "a_date": "0044-03-15 BC",
    "a_time": "24:00:00",
    "a_timetz": "10:00:00.000001-03",
    "a_timestamp": "-infinity",
    "a_timestamptz": "2026-11-26 10:00:00.123456+00",
    "an_interval": "-1 years -2 mons +3 days -04:05:06.789",
    "a_uuid": "01890a5d-ac96-774b-bcce-b302099a8057",
    "a_inet": "192.168.0.1/24",
    "a_cidr": "2001:db8::/32",
    "a_macaddr": "08:00:2b:01:02:03",
    "a_point": "(0.1,2)",
    "a_polygon": "((0,0),(1,1),(1,0))",
    "a_range": "[1,)",
    "a_tstzrange": '["2026-01-01 00:00:00+00",infinity)',
    "a_multirange": "{[1,3),[5,7)}",
    "a_bit": "101",
    "a_varbit": "",
    "a_tsvector": "'a''b':1A 'c'",
    "a_composite": '(7,"a,""b""")',
    "a_regclass": "pg_class",
    "a_jsonpath": '$."a"?(@ > 1)',
    "texts": ["a b", "", None, "NULL", '{"x",\\}'],
    "integers": ["1", None, "-2147483648"],
    "moods": ["happy, very", "{odd}"],
    "jsons": ['{"a": "b,c"}', None, "[]"],
    "points": ["(1,2)", "(3,4)"],
    "composites": ['(1,"a,b")', None, "(,)"],
    "domains": ["a'b", None],
    "timestamps": ["2026-01-01 10:00:00.000001+00", "infinity"],
    "matrix": "{{1,2},{3,NULL}}",
    "zero_based": "[0:1]={x,NULL}",
}


@pytest.fixture(scope="module")
def databases(_tatame_run: Run) -> Generator[Database]:
    """Create the catalogue once; each test has rows of its own."""
    target = _tatame_run.clone()
    with Database(target) as database:
        with database.engine.connect() as connection:
            # Several statements, and names that look like parameters.
            driver_connection(connection).execute((Path(__file__).parent / "studio_tables.sql").read_bytes())
            driver_connection(connection).commit()
        yield database
    _tatame_run.sandbox.drop(str(target.database))


@pytest.fixture(scope="module")
def _studios(databases: Database) -> Generator[dict[bool, Client]]:
    with (
        serving(open_access(databases, embedded=True, write=False)) as reading,
        serving(open_access(databases, embedded=True, write=True)) as writing,
    ):
        yield {False: reading, True: writing}


@pytest.fixture
def reading(_studios: dict[bool, Client], _no_traceback: None) -> Client:
    return _studios[False]


@pytest.fixture
def writing(_studios: dict[bool, Client], _no_traceback: None) -> Client:
    return _studios[True]


def described(studio: Client, table: str) -> Any:
    return studio.get(f"/api/table/{quote(table, safe='')}")


def page(studio: Client, table: str, **query: str) -> Any:
    return studio.get(f"/api/rows/{quote(table, safe='')}", **query)


def save(studio: Client, *changes: Any, status: int = 200) -> Any:
    response = studio.ask("/api/changes", {"changes": changes})
    assert response.status == status, response.text
    return response.json


def update(table: str, key: str, values: dict[str, Any], was: dict[str, Any]) -> dict[str, Any]:
    return {"op": "update", "table": table, "key": key, "values": values, "was": was}


def delete(table: str, key: str) -> dict[str, Any]:
    return {"op": "delete", "table": table, "key": key, "was": {}}


def scalar(database: Database, query: str) -> Any:
    with database.engine.connect() as connection:
        return connection.exec_driver_sql(query, execution_options={"no_parameters": True}).scalar()


# --- Names and relations ----------------------------------------------------------------------------------------------


def test_every_relation_is_listed_with_its_kind(reading: Client) -> None:
    listed = {table["name"]: table for table in reading.get("/api/tables")}

    kinds = {name.removeprefix("kinds."): table["kind"] for name, table in listed.items() if name.startswith("kinds.")}
    assert kinds["everything"] == "table"
    assert kinds["parted"] == "partitioned table"
    assert "parted_2026" not in kinds
    assert (kinds["a_view"], kinds["a_materialized_view"]) == ("view", "materialized view")
    assert kinds["far_away"] == "foreign table"
    assert listed[ODD] | {"readable": None} == {
        "name": ODD,
        "schema": 'Odd "Schema".x/y%',
        "title": 'Na.me "q" /%41?#-,:x',
        "kind": "table",
        "readable": None,
    }
    assert next(iter(listed)) == "app_stores"
    assert not [name for name in listed if name.startswith(("pg_", "information_schema"))]


def test_names_with_every_character_work_on_every_page(reading: Client, writing: Client) -> None:
    assert described(reading, ODD)["key"] == [KEY]
    found = page(reading, ODD, limit="2", sort=f"-{encoded(VALUE)}", columns=f"{encoded(VALUE)},lateral")
    assert found["rows"] == [["value 5", "x"], ["value 4", "x"]]
    query = {"limit": "2", "sort": f"-{encoded(VALUE)}", "columns": encoded(VALUE)}
    assert page(reading, ODD, after=found["next"], **query)["rows"] == [["value 3"], ["value 2"]]
    condition = json.dumps({"all": [{"column": VALUE, "op": "ends", "value": "3"}, {"column": KEY, "op": "not null"}]})
    assert page(reading, ODD, filter=condition)["keys"] == ["3"]
    assert page(reading, ODD, filter=condition)["estimated"] >= 0
    path = quote(ODD, safe="")
    assert reading.get(f"/api/count/{path}", filter=condition) == {"rows": 1}
    assert reading.get(f"/api/row/{path}/3")["row"][VALUE] == "value 3"
    assert reading.get(f"/api/cell/{path}/{quote(encoded(VALUE), safe='')}/3") == {"value": "value 3"}
    assert [found["key"] for found in reading.get("/api/find", table=ODD, q="3")] == ["3"]
    exported = reading.ask(f"/api/export/{path}.csv?sort={quote(encoded(KEY))}")
    assert exported.text.splitlines()[1] == '1,"value 1","x","<script>"'
    assert exported.text.splitlines()[0] == '"Ke.y,-","-Col/umn %s (x) :y, ""z""",lateral,<b>markup</b>'
    assert json.loads(reading.ask(f"/api/export/{path}.json").text)[0][VALUE] == "value 1"

    inserted = save(writing, {"op": "insert", "table": ODD, "values": {VALUE: "%s (y)", "lateral": "z"}})["rows"][0]
    assert (inserted["table"], inserted["row"][VALUE]) == (ODD, "%s (y)")
    changed = update(ODD, inserted["key"], {VALUE: "other"}, {VALUE: "%s (y)", "lateral": "z"})
    assert save(writing, changed)["rows"][0]["row"][VALUE] == "other"
    save(writing, {"op": "delete", "table": ODD, "key": inserted["key"], "was": {VALUE: "other"}})
    assert writing.get(f"/api/count/{path}") == {"rows": 5}


@pytest.mark.parametrize(
    "name", ["", ".", "kinds.", ".users", "kinds.nothing", "a.b.c", "pg_catalog.pg_class", "%", "a\0b", "kinds.Users"]
)
def test_a_name_that_is_no_table_gets_a_problem(reading: Client, name: str) -> None:
    response = reading.ask(f"/api/find?table={quote(name, safe='')}")
    assert (response.status, "does not exist" in response.json["what"]) == (404, True), response.text


def test_a_key_of_several_columns_pages_reads_and_saves(reading: Client, writing: Client, databases: Database) -> None:
    table = "kinds.composite_key"
    assert described(reading, table)["key"] == ["number", "gym"]
    found = page(reading, table, limit="5")
    keys = found["keys"]
    while found["next"]:
        found = page(reading, table, limit="5", after=found["next"])
        keys += found["keys"]
    assert [tuple(json.loads(key)) for key in keys] == [(str(n), gym) for n in range(1, 5) for gym in ("", "a", 'é"\\')]
    assert page(reading, table, limit="5", last="1")["keys"] == keys[-5:]

    key = keys[2]
    assert reading.get(f"/api/row/{table}/{quote(key, safe='')}")["row"]["note"] == 'é"\\1'
    [saved] = save(writing, update(table, key, {"note": "n", "number": "9"}, {"note": 'é"\\1', "number": "1"}))["rows"]
    assert saved["key"] == '["9", "é\\"\\\\"]'
    save(writing, update(table, saved["key"], {"note": 'é"\\1', "number": "1"}, {"note": "n", "number": "9"}))
    for wrong in ("1", "[]", '["1"]', '["1","a","b"]', "[1,2]", "{", '["x", "a"]'):
        assert reading.ask(f"/api/row/{table}/{quote(wrong, safe='')}").status == 400
    with databases.engine.begin() as connection:
        connection.execute(text("INSERT INTO kinds.refers_to_both VALUES (1, 'a', 1)"))
    assert reading.get("/api/row/kinds.refers_to_both/1")["references"] == {}


def test_the_tables_that_refer_to_a_table_are_read_only_if_asked_for(databases: Database) -> None:
    async def tables(*, referrers: bool) -> set[str]:
        database = AsyncDatabase(databases.address)
        async with read_transaction(database) as connection:
            found = await read_table(connection, "kinds.by_unique", referrers=referrers)
        await database.engine.dispose()
        return set(found.metadata.tables)

    assert asyncio.run(tables(referrers=False)) == {"kinds.by_unique"}
    assert asyncio.run(tables(referrers=True)) == {"kinds.by_unique", "kinds.refers_to_code"}


def test_a_unique_constraint_identifies_a_row_and_a_reference_names_it(reading: Client) -> None:
    assert described(reading, "kinds.by_unique")["key"] == ["code"]
    assert described(reading, "kinds.by_unique")["referenced_by"] == [
        {"table": "kinds.refers_to_code", "column": "code"}
    ]
    found = reading.get("/api/row/kinds.refers_to_code/1")
    assert found["references"] == {"code": {"table": "kinds.by_unique", "key": "x", "label": "Ana"}}
    referrers = reading.get("/api/row/kinds.by_unique/x")["referenced_by"]
    assert referrers == [{"table": "kinds.refers_to_code", "column": "code", "value": "x", "rows": 1, "more": False}]
    columns = described(reading, "kinds.refers_to_code")["columns"]
    assert columns[1]["references"] == {"table": "kinds.by_unique", "column": "code", "is_key": False}
    page = reading.get("/api/rows/kinds.refers_to_code", q="ana")
    assert (page["keys"], page["names"]) == (["1"], {"kinds.by_unique/code": {"x": "Ana"}})
    assert reading.get("/api/names/kinds.by_unique", column="code", keys='["y"]') == {"y": "Bia"}
    offered = reading.get("/api/find", table="kinds.by_unique", column="code", q="bia")
    assert offered == [{"key": "y", "label": "Bia"}]
    assert reading.get("/api/find", table="kinds.by_unique", column="other", q="") == []
    assert reading.ask("/api/find?table=kinds.by_unique&column=none&q=").status == 400


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("kinds.without_key", "no primary key and no unique constraint of NOT NULL columns"),
        ("kinds.a_view", "A view has no key"),
        ("kinds.a_materialized_view", "REFRESH MATERIALIZED VIEW"),
        ("kinds.far_away", "A foreign table has no key"),
        ("kinds.no_columns", "no primary key"),
    ],
)
def test_a_table_without_a_key_is_read_only_and_says_why(writing: Client, table: str, reason: str) -> None:
    found = described(writing, table)
    assert (found["key"], reason in found["obstacle"]) == ([], True), found["obstacle"]
    assert [found["may_insert"], found["may_update"], found["may_delete"]] == [False] * 3

    for change in ({"op": "insert", "table": table, "values": {}}, update(table, "1", {"id": "1"}, {"id": "1"})):
        assert reason.lower() in save(writing, change, status=400)["what"].lower()
    assert writing.ask(f"/api/row/{table}/1").status == 400


def test_the_pages_of_a_table_without_a_key_are_complete(reading: Client) -> None:
    for sort in ("", "-number"):
        found = page(reading, "kinds.without_key", limit="10", sort=sort)
        assert (found["keys"], found["previous"]) == ([], None)
        rows = found["rows"]
        while found["next"]:
            found = page(reading, "kinds.without_key", limit="10", sort=sort, after=found["next"])
            rows += found["rows"]
        assert len(rows) == 25
        assert sorted(rows) == sorted([f"row {n}", str(n)] for n in range(1, 26))
        last = page(reading, "kinds.without_key", limit="10", sort=sort, last="1")
        assert (last["rows"], last["next"]) == (rows[20:], None)
        assert page(reading, "kinds.without_key", limit="10", sort=sort, before=last["previous"])["rows"] == rows[10:20]
    assert page(reading, "kinds.no_columns")["rows"] == []
    assert reading.ask("/api/rows/kinds.without_key?after=WyIiLFsieCJdXQ").status == 400


def test_columns_that_postgresql_writes_are_not_written(writing: Client) -> None:
    columns = {column["name"]: column for column in described(writing, "kinds.written_by_postgres")["columns"]}
    assert {name for name, column in columns.items() if not column["editable"]} == {"id", "doubled"}
    assert columns["id"]["default"] == "the next number"

    for name in ("id", "doubled"):
        change = update("kinds.written_by_postgres", "1", {name: "7"}, {name: "1"})
        assert "PostgreSQL itself writes" in save(writing, change, status=400)["what"]
    change = update("kinds.written_by_postgres", "1", {"seats": "4"}, {"seats": "1", "doubled": "2"})
    assert save(writing, change)["rows"][0]["row"]["doubled"] == "8"


def test_a_partitioned_table_is_one_table(reading: Client, writing: Client) -> None:
    [key] = page(reading, "kinds.parted")["keys"]
    assert key == '["1", "2026-03-01"]'
    assert save(writing, update("kinds.parted", key, {"id": "2"}, {"id": "1"}))["rows"][0]["key"] != key
    save(writing, update("kinds.parted", '["2", "2026-03-01"]', {"id": "1"}, {"id": "2"}))


def test_a_column_or_table_that_the_role_may_not_read_is_left_out(
    databases: Database, serve_studio: Callable[[Access], Client]
) -> None:
    name = f"reader_of_{databases.address.database}"
    with databases.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f'CREATE ROLE "{name}" LOGIN'))
        connection.execute(text(f'GRANT USAGE ON SCHEMA kinds TO "{name}"'))
        connection.execute(text(f'GRANT SELECT (id, shown), UPDATE (shown) ON kinds.in_part TO "{name}"'))
        with Database(databases.address.set(username=name)) as database:
            studio = serve_studio(open_access(database, embedded=False, write=True))

        found = described(studio, "kinds.in_part")
        assert (found["hidden"], [column["editable"] for column in found["columns"]]) == (["hidden"], [False, True])
        assert (found["may_insert"], found["may_update"], found["may_delete"]) == (False, True, False)
        assert page(studio, "kinds.in_part")["rows"] == [["1", "shown"]]
        assert studio.get("/api/row/kinds.in_part/1")["row"] == {"id": "1", "shown": "shown"}
        assert studio.get("/api/count/kinds.in_part") == {"rows": 1}
        assert studio.ask("/api/export/kinds.in_part.csv").text == 'id,shown\r\n1,"shown"\r\n'
        change = update("kinds.in_part", "1", {"shown": "changed"}, {"shown": "shown"})
        assert save(studio, change)["rows"][0]["row"] == {"id": "1", "shown": "changed"}
        assert "hidden" in studio.ask("/api/cell/kinds.in_part/hidden/1").json["what"]

        refused = studio.ask("/api/rows/kinds.secret")
        assert (refused.status, refused.json["what"]) == (403, f"the role {name} may not read kinds.secret")
        assert [table["readable"] for table in studio.get("/api/tables") if table["title"] == "secret"] == [False]
        for grant in refused.json["fix"].split("`")[1].split("; "):
            connection.execute(text(grant))
        assert page(studio, "kinds.secret")["rows"] == []
        connection.execute(text(f'DROP OWNED BY "{name}"'))
        connection.execute(text(f'DROP ROLE "{name}"'))


# --- Values -----------------------------------------------------------------------------------------------------------


def test_a_value_of_every_type_is_read_and_saved_to_the_character(writing: Client, databases: Database) -> None:
    table = "kinds.everything"
    nothing = dict.fromkeys(VALUES)
    save(writing, {"op": "insert", "table": table, "values": {"id": "1"}})
    [written] = save(writing, update(table, "1", VALUES, nothing))["rows"]

    # The padding of `char` has no meaning, and PostgreSQL leaves it out of a text.
    expected = VALUES | {"a_char": "ab"}
    assert {name: written["row"][name] for name in VALUES} == expected
    found = writing.get(f"/api/row/{table}/1")["row"]
    assert {name: found[name] for name in VALUES} == expected
    assert dict(zip(found, page(writing, table, limit="1")["rows"][0], strict=True)) == found
    for name in VALUES:
        assert writing.get(f"/api/cell/{table}/{name}/1") == {"value": expected[name]}
    # Saved into another row from what the browser has seen, and over what it has seen: no conflict, no other character.
    save(writing, {"op": "insert", "table": table, "values": {"id": "2", **expected}})
    save(writing, update(table, "2", expected, expected))
    for name in VALUES:
        query = f"SELECT {name}::text IS NOT DISTINCT FROM (SELECT {name}::text FROM kinds.everything WHERE id = 2)"
        assert scalar(databases, f"{query} FROM kinds.everything WHERE id = 1"), name
    save(writing, {"op": "delete", "table": table, "key": "2", "was": expected})
    save(writing, update(table, "1", nothing, expected))
    save(writing, {"op": "delete", "table": table, "key": "1", "was": nothing})


def test_every_type_is_filtered_sorted_and_described(writing: Client) -> None:
    table = "kinds.everything"
    kept = VALUES | {"id": "7"}
    save(writing, {"op": "insert", "table": table, "values": kept})
    columns = {column["name"]: column for column in described(writing, table)["columns"]}
    assert columns["an_enum"]["values"] == ["happy, very", "sad", "{odd}"]
    assert columns["a_varchar"]["type"] == "character varying(5)"
    assert columns["a_domain"]["type"] == "kinds.code"
    kinds = {name: column["kind"] for name, column in columns.items()}
    assert (kinds["a_boolean"], kinds["an_enum"], kinds["a_jsonb"]) == ("boolean", "enum", "json")
    assert (kinds["a_bytea"], kinds["a_date"], kinds["a_range"], kinds["matrix"]) == ("bytea", "date", "range", "array")
    assert not any(columns[name]["sortable"] for name in ("a_json", "a_point", "points", "a_polygon"))
    operators = writing.get("/api/session")["operators"]
    for name, column in columns.items():
        if column["sortable"]:
            assert page(writing, table, sort=f"-{name}", limit="1", columns="id")["rows"] == [["7"]], name
        else:
            assert writing.ask(f"/api/rows/{table}?sort={name}").status == 400
        known = operators[column["kind"] if column["sortable"] else "json"]
        if (value := kept.get(name)) is None:
            # The embedded server was built without XML.
            assert name == "a_xml"
            continue
        condition = {"column": name, "op": "is" if "is" in known else "not null", "value": value}
        if not isinstance(value, str) and "is" in known:
            condition |= {"op": "contains", "value": value[0]}
        assert page(writing, table, filter=json.dumps(condition), columns="id")["rows"] == [["7"]], name
        if column["kind"] == "array" and column["sortable"] and isinstance(value, list):
            condition = {"column": name, "op": "has", "value": value[0]}
            assert page(writing, table, filter=json.dumps(condition), columns="id")["rows"] == [["7"]], name
    save(writing, {"op": "delete", "table": table, "key": "7", "was": {}})


def test_long_values_of_every_type_are_cut(writing: Client) -> None:
    table = "kinds.everything"
    digits, body = "1" * 5000, "ab" * 5000
    values = {"a_numeric": digits, "a_bytea": f"\\x{body}", "a_json": f'"{body}"', "matrix": "{{" + "1," * 999 + "1}}"}
    save(writing, {"op": "insert", "table": table, "values": {"id": "5", **values}})
    row = page(writing, table, filter='{"column":"id","op":"is","value":"5"}', columns=",".join(values))["rows"][0]
    for (name, value), cell in zip(values.items(), row, strict=True):
        assert cell["length"] == len(value)
        assert value.startswith(cell["cut"])
        assert writing.get(f"/api/cell/{table}/{name}/5") == {"value": value}
    save(writing, {"op": "delete", "table": table, "key": "5", "was": values})


@pytest.mark.parametrize(
    ("values", "column", "what"),
    [
        ({"a_varchar": "abcdef"}, None, "value too long for type character varying(5)"),
        ({"a_domain": "abcd"}, None, "value too long for type character varying(3)"),
        ({"a_domain": "bad"}, None, "violates check constraint"),
        ({"a_bit": "1011"}, None, "bit string length 4 does not match type bit(3)"),
        ({"an_enum": "angry"}, "an_enum", "invalid input value for enum"),
        ({"a_jsonb": "{"}, "a_jsonb", "invalid input syntax for type json"),
        ({"matrix": "{{1},{2,3}}"}, "matrix", "malformed array literal"),
        ({"integers": ["x"]}, "integers", "invalid input syntax for type integer"),
        ({"a_bigint": "9223372036854775808"}, "a_bigint", "out of range"),
    ],
)
def test_a_value_that_does_not_fit_is_rejected_not_cut(
    writing: Client, values: dict[str, Any], column: str | None, what: str
) -> None:
    change = {"op": "insert", "table": "kinds.everything", "values": {"id": "9", **values}}
    [error] = save(writing, change, status=422)["errors"]
    assert (error["column"], what in error["what"]) == (column, True), error


# --- Batches ----------------------------------------------------------------------------------------------------------


def test_a_batch_that_contradicts_itself_is_refused_with_words(writing: Client, databases: Database) -> None:
    table, key = "kinds.composite_key", '["1", "a"]'
    deletion = delete(table, key)
    change = update(table, key, {"note": "x"}, {"note": "a1"})
    for batch in ([deletion, change], [change, deletion], [deletion, deletion]):
        assert "deleted and changed in one request" in save(writing, *batch, status=400)["what"]

    with databases.engine.begin() as connection:
        connection.execute(text("INSERT INTO kinds.refers_to_both VALUES (5, 'a', 4) ON CONFLICT DO NOTHING"))
    cascading = delete(table, '["4", "a"]')
    child = update("kinds.refers_to_both", "5", {"gym": None}, {"gym": "a"})
    moved = update(table, '["3", "a"]', {"number": "30"}, {"number": "3"})
    again = update(table, '["3", "a"]', {"note": "x"}, {"note": "a3"})
    for batch in ([cascading, child], [moved, again]):
        [error] = save(writing, *batch, status=422)["errors"]
        assert (error["index"], "wrote no row" in error["what"]) == (1, True)
    kept = update("kinds.kept", "1", {"name": "x"}, {"name": "kept"})
    assert "a trigger prevented" in save(writing, kept, status=422)["errors"][0]["what"]
    assert scalar(databases, "SELECT count(*) FROM kinds.composite_key") == 12


def test_no_change_writes_a_second_row_with_the_key(writing: Client, databases: Database) -> None:
    with databases.engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE kinds.parent (id integer PRIMARY KEY, note text);"
                "CREATE TABLE kinds.heir () INHERITS (kinds.parent);"
                "INSERT INTO kinds.parent VALUES (1, 'parent'); INSERT INTO kinds.heir VALUES (1, 'heir');"
                "CREATE TABLE kinds.postponed (id integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, note text);"
                "INSERT INTO kinds.postponed VALUES (1, 'a'), (2, 'b');"
                "GRANT ALL ON kinds.parent, kinds.heir, kinds.postponed TO PUBLIC"
            )
        )
    change = update("kinds.parent", "1", {"note": "x"}, {"note": "parent"})
    assert "tables inherit from it" in save(writing, change, status=400)["what"]
    assert len(page(writing, "kinds.parent")["rows"]) == 2

    moved = update("kinds.postponed", "1", {"id": "2"}, {"id": "1", "note": "a"})
    [error] = save(writing, moved, delete("kinds.postponed", "2"), status=422)["errors"]
    assert (error["index"], "several rows" in error["what"]) == (1, True)
    query = "SELECT string_agg(id || note, ' ' ORDER BY note) FROM kinds."
    assert scalar(databases, query + "postponed") == "1a 2b"
    assert scalar(databases, query + "parent") == "1heir 1parent"


def test_a_connection_lost_at_the_commit_is_not_called_unsaved(writing: Client, databases: Database) -> None:
    with databases.engine.begin() as connection:
        connection.execute(
            text(
                "CREATE TABLE kinds.killing (id integer PRIMARY KEY);"
                "CREATE FUNCTION kinds.kill() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';"
                "CREATE CONSTRAINT TRIGGER kill AFTER INSERT ON kinds.killing DEFERRABLE INITIALLY DEFERRED"
                " FOR EACH ROW EXECUTE FUNCTION kinds.kill();"
                "GRANT ALL ON kinds.killing TO PUBLIC"
            )
        )
    lost = save(writing, {"op": "insert", "table": "kinds.killing", "values": {"id": "1"}}, status=503)
    assert lost["means"] == "They may have been saved."
    assert "terminating connection" in lost["what"]


def test_a_client_that_leaves_during_an_upload_leaves_no_traceback(writing: Client) -> None:
    connection = writing.begin("/api/changes", '{"changes":', Content_Length="1000")
    connection.close()
    assert writing.get("/api/health")["ok"]
