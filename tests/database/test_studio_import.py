"""Import of CSV and JSON in the studio: what fits is decided by PostgreSQL, and nothing is imported by halves."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tatame_db.database.pool import Database

Client = Any
ODD = "\u202egnp\u202c <script>"


@pytest.fixture
def database(committed_database: Database) -> Database:
    with committed_database.engine.begin() as connection:
        connection.execute(text("INSERT INTO roles (id) VALUES ('STUDENT')"))
        connection.execute(text("INSERT INTO gyms (name, address, since) VALUES ('Centro', 'Rua Direita', '2015')"))
        connection.execute(text("INSERT INTO users (clerk_user_id, plan) VALUES ('ana', 'old')"))
    return committed_database


def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def plan(*columns: str, **options: Any) -> dict[str, Any]:
    """Write a plan that takes columns by place, or by key if a name has a `:`."""
    assigned = [
        {"column": name.split(":")[0], "source": name.split(":")[1] if ":" in name else place}
        for place, name in enumerate(columns)
    ]
    return {"columns": assigned, **options}


def send(studio: Client, mode: str, plan: dict[str, Any], content: str | bytes, table: str = "users") -> Any:
    """Send a file; bytes are sent as they are."""
    file = content.encode() if isinstance(content, str) else content
    with socket.create_connection(("127.0.0.1", studio.server.port), timeout=60) as connection:
        body = json.dumps(plan).encode() + b"\n" + file
        connection.sendall(head(studio, f"{table}/{mode}", len(body)) + body)
        with connection.makefile("rb") as answer:
            status = int(answer.readline().split()[1])
            received = answer.read().partition(b"\r\n\r\n")[2]
    return {"status": status, **json.loads(received)}


def head(studio: Client, path: str, length: int) -> bytes:
    host = f"127.0.0.1:{studio.server.port}"
    return (
        f"POST /api/import/{path} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nCookie: {studio.cookie}\r\n"
        f"Connection: close\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def bad(outcome: Any) -> list[tuple[int, str | None]]:
    assert outcome["status"] == 200, outcome
    return [(row["line"], row["column"]) for row in outcome["bad"]]


CSV = plan("clerk_user_id", "first_name", "approved_at")
JSON = plan("clerk_user_id:id", "first_name:name", "gym_id:gym")
FILES: dict[str, tuple[dict[str, Any], str | bytes, list[tuple[int, str | None]], list[str | None]]] = {
    "a mark of UTF-8": (CSV, "\ufeffid,n,a\n1,João,\n", [], ["João"]),
    "Windows-1252": (CSV, "id;n;a\r\n1;João €;\r\n".encode("cp1252"), [], ["João €"]),
    "Latin-1": (CSV, b"id;n;a\r\n1;\x81\xe3;\r\n", [], ["\x81ã"]),
    "UTF-16": (CSV, "id\tn\ta\n1\tJoão\t\n".encode("utf-16"), [], ["João"]),
    "line ends in values": (CSV, 'id,n,a\r\n1,"a\r\nb",\r\n2,b,soon\r\n', [(4, "approved_at")], ["a\r\nb"]),
    "old line ends": (CSV, "id,n,a\r1,b,\r", [], ["b"]),
    "a separator in the first line": (CSV, "sep=;\r\nid;n;a\r\n1;b,c;\r\n", [], ["b,c"]),
    "empty lines": (CSV, "id,n,a\n\n1,b,\n\n\n", [], ["b"]),
    "dates day first": (CSV, "id,n,a\n1,b,26/11/2026 10:00\n2,c,11/26/2026\n", [(3, "approved_at")], ["b"]),
    "NUL": (CSV, "id,n,a\n1,b\0,\n2,c,\n", [(2, "first_name")], ["c"]),
    "a megabyte": (CSV, f"id,n,a\n1,{'x' * 1_000_000},\n", [], ["x" * 1_000_000]),
    "odd directions and markup": (CSV, f"id,n,a\n1,{ODD},\n", [], [ODD]),
    "a formula": (CSV, 'id,n,a\n1,"=HYPERLINK(""x"")",\n', [], ['=HYPERLINK("x")']),
    "text after a quote": (CSV, 'id,n,a\n1,"b"c,\n2,d,\n', [(2, None)], ["d"]),
    "an open quote": (CSV, 'id,n,a\n1,b,\n2,"c,\n3,d,\n', [(3, None)], ["b"]),
    "too few and too many values": (CSV, "id,n,a\n1,b\n2,c,,\n3,d,\n", [(2, None), (3, None)], ["d"]),
    "a key that is taken": (CSV, "id,n,a\nana,b,\n1,c,\n", [(2, "clerk_user_id")], ["c"]),
    "a key twice": (CSV, "id,n,a\n1,b,\n1,c,\n", [(3, "clerk_user_id")], ["b"]),
    "no value where one must be": (CSV, "id,n,a\n,b,\n1,c,\n", [(2, "clerk_user_id")], ["c"]),
    "no rows": (CSV, "id,n,a\n", [], []),
    "infinity and BC": (CSV, "id,n,a\n1,b,infinity\n2,c,0044-03-15 00:00:00 BC\n", [], ["b", "c"]),
    "an array": (JSON, '[{"id": "1", "name": null, "gym": 1}, {"id": "2", "name": "b"}]', [], [None, "b"]),
    "lines of JSON": (JSON, '{"id":"1","name":"b"}\n\n{"id":"2",\n{"id":"3","name":"c"}\n', [(3, None)], ["b", "c"]),
    "values across the pieces in which a file is read": (
        JSON,
        '[{"id": "1", "name": "' + "\\\\" * 50_000 + '\\""}, {"id": "2", "x": [{"]": 1}], "name": "b"}]',
        [],
        ["\\" * 50_000 + '"', "b"],
    ),
    "a broken object among others": (JSON, '[{"id" 1},\n{"id": "2", "name": "b"}]', [(1, None)], ["b"]),
    "escapes and numbers": (JSON, '[{"id": 9007199254740993, "name": "\\u00e3\\n"}]', [], ["ã\n"]),
    "half a surrogate": (
        JSON,
        '[{"id": "1", "name": "\\ud800"},\n{"id": "2", "name": "b"}]',
        [(1, None)],
        ["b"],
    ),
    "an escaped NUL": (JSON, '[{"id": "1", "name": "\\u0000"},\n{"id": "2", "name": "b"}]', [(1, "first_name")], ["b"]),
    "an object in a text": (JSON, '[{"id": "1", "name": {"a": 1}}]', [(1, "first_name")], []),
    "a missing reference": (JSON, '[{"id": "1"},\n{"id": "2", "gym": 999}]', [(2, "gym_id")], [None]),
    "no objects": (JSON, '[1, "a", [], null]', [(1, None)] * 4, []),
    "an empty array": (JSON, " [ ] ", [], []),
}


@pytest.mark.parametrize("name", FILES)
def test_rows_that_fit_are_imported_and_the_others_named(writing_studio: Client, database: Database, name: str) -> None:
    plan_, content, expected, names = FILES[name]
    before = rows(database, "SELECT count(*) FROM users")
    checked = send(writing_studio, "check", plan_, content)
    assert bad(checked) == expected
    assert not checked["committed"]
    refused = send(writing_studio, "run", plan_, content)
    assert (bad(refused), refused["committed"]) == (expected, not expected)
    if expected:
        assert rows(database, "SELECT count(*) FROM users") == before
        assert send(writing_studio, "run", {**plan_, "only_fitting": True}, content)["committed"]
    found = rows(database, "SELECT first_name FROM users WHERE clerk_user_id <> 'ana' ORDER BY id")
    assert [value for (value,) in found] == names
    assert rows(database, "SELECT plan FROM users WHERE clerk_user_id = 'ana'") == [("old",)]


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "an empty file": ("", "the file is empty"),
    "an array that ends": ('[{"id": "1"}', "the file ends where"),
    "an object that ends": ('[{"id": "1"', "not JSON"),
    "a missing comma": ('[{"id": "1"}\n{"id": "2"}]', "line 2 of the file"),
    "text after the array": ("[] x", "text follows"),
    "nested without end": ("[" * 100_000, "nested too deeply"),
    "a row without end": ('id,n,a\n1,"' + ("x" * 1000 + "\n") * 9_000, "larger than 8 MB"),
    "an object that is too large": ('[{"id": "1"},\n{"id": "' + '😀\\\\\\"' * 1_100_000 + '"}]', "line 2 of the file"),
    "another encoding": (b"id,n,a\n1,\xff,\n", "encoding utf-8"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_its_line(writing_studio: Client, database: Database, name: str) -> None:
    content, words = BROKEN[name]
    options = {"encoding": "utf-8"} if isinstance(content, bytes) else {}
    refused = send(writing_studio, "run", {**(CSV if "id,n" in str(content[:9]) else JSON), **options}, content)
    assert refused["status"] == 400
    assert words in refused["what"]
    assert rows(database, "SELECT count(*) FROM users") == [(1,)]


def test_a_large_file_of_bad_rows_is_left_after_the_first_hundred(writing_studio: Client, database: Database) -> None:
    content = "id,n,a\n" + "".join(f"{n},b,soon\n" for n in range(20_000))
    outcome = send(writing_studio, "run", {**CSV, "only_fitting": True}, content)
    assert (len(outcome["bad"]), outcome["stopped"], outcome["committed"]) == (100, True, False)
    assert [row["line"] for row in outcome["bad"]] == list(range(2, 102))
    assert outcome["rows"] < 5000
    assert rows(database, "SELECT count(*) FROM users") == [(1,)]


@pytest.mark.parametrize(
    ("existing", "expected", "counts"),
    [("skip", "old", (1, 0, 1)), ("update", "new", (1, 1, 0))],
)
def test_existing_rows_are_skipped_or_updated_by_a_key(
    writing_studio: Client, database: Database, existing: str, expected: str, counts: tuple[int, ...]
) -> None:
    described = send(writing_studio, "sample", {}, "clerk,plan\nana,new\n")
    assert ["clerk_user_id"] in described["keys"]
    assert (described["names"], described["rows"]) == (["clerk", "plan"], [["ana", "new"]])
    by_key = plan("clerk_user_id", "plan", existing=existing, key=["clerk_user_id"])
    outcome = send(writing_studio, "run", by_key, "clerk,plan\nana,new\nbia,new\n")
    assert (outcome["inserted"], outcome["updated"], outcome["skipped"]) == counts
    assert rows(database, "SELECT clerk_user_id, plan FROM users ORDER BY id") == [("ana", expected), ("bia", "new")]
    assert send(writing_studio, "run", {**by_key, "key": ["plan"]}, "a,b\n")["status"] == 400


def test_a_policy_a_deferrable_key_and_what_is_no_json_are_named(writing_studio: Client, database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE seats (id int PRIMARY KEY, place int UNIQUE DEFERRABLE, price numeric)"))
        connection.execute(text("GRANT ALL ON seats TO tatame_studio_writer"))
        connection.execute(text("ALTER TABLE seats ENABLE ROW LEVEL SECURITY"))
        connection.execute(text("CREATE POLICY cheap ON seats USING (true) WITH CHECK (price < 100)"))
    seats = plan("id", "place", "price", only_fitting=True)
    outcome = send(writing_studio, "run", seats, "id,place,price\n1,1,9\n2,2,100\n3,3,8\n4,4,x\n", "seats")
    assert (bad(outcome), outcome["inserted"]) == ([(3, None), (5, "price")], 2)
    assert "row-level security of the table rejects the row" in outcome["bad"][0]["what"]
    assert send(writing_studio, "sample", {}, "id\n1\n", "seats")["keys"] == [["id"]]
    for existing in ("update", "skip"):
        by_place = {**seats, "existing": existing, "key": ["place"]}
        refused = send(writing_studio, "check", by_place, "id,place,price\n1,1,9\n", "seats")
        assert (refused["status"], "the key place is DEFERRABLE" in refused["what"]) == (400, True)
    for content in ('[{"id": 7, "price": NaN}]', '{"id": 7, "price": -Infinity}'):
        outcome = send(writing_studio, "check", plan("id:id", "price:price"), content, "seats")
        assert "is no value of JSON: write null" in outcome["bad"][0]["what"]
    with database.engine.begin() as connection:
        connection.execute(text("REVOKE INSERT ON seats FROM tatame_studio_writer"))
    assert send(writing_studio, "check", seats, "id,place,price\n7,7,7\n", "seats")["status"] == 403


def test_lists_constants_defaults_and_marks_of_null(writing_studio: Client, database: Database) -> None:
    lists = {**plan("title", "recipients", "created_at", empty="default", null_mark="\\N")}
    lists["columns"] = [*lists["columns"], {"column": "content", "value": "all"}]
    content = 'title,recipients,created\na,"{1,NULL,""x,y""}",\nb,"[""1"", null, ""x\\""y""]",\n\\N,{},2026-01-01\n'
    assert send(writing_studio, "run", lists, content, "notifications")["inserted"] == 3
    found = rows(
        database, "SELECT title, recipients, content, created_at > '2026-01-01' FROM notifications ORDER BY id"
    )
    assert found == [
        ("a", ["1", None, "x,y"], "all", True),
        ("b", ["1", None, 'x"y'], "all", True),
        (None, [], "all", False),
    ]
    objects = plan("title:t", "recipients:r")
    outcome = send(writing_studio, "run", objects, '[{"t": "c", "r": ["1", null, 2], "x": 1}]', "notifications")
    assert (outcome["inserted"], outcome["unknown"]) == (1, ["x"])
    assert rows(database, "SELECT recipients FROM public.notifications WHERE title = 'c'") == [(["1", None, "2"],)]


def test_an_export_for_excel_is_imported_as_it_was(writing_studio: Client, database: Database) -> None:
    texts = ["+55 11 99", "=1+1", "'plain", "-5", "'", "@x", "", "'=2", "''+3"]
    with database.engine.begin() as connection:
        for number, value in enumerate(texts, start=1000):
            connection.execute(
                text("INSERT INTO users (id, clerk_user_id, phone) VALUES (:id, :id, :phone)"),
                {"id": number, "phone": value},
            )
    query = "SELECT array_agg(coalesce(phone, '') ORDER BY id) FROM users WHERE id >= 1000"
    before = rows(database, query)
    form = "columns=id,clerk_user_id,phone&harmless=1&separator=;&sort=-id"
    exported = writing_studio.ask(f"/api/export/users.csv?{form}").text
    assert "'+55 11 99" in exported
    again = plan("id", "clerk_user_id", "phone", key=["id"], existing="update")
    assert send(writing_studio, "sample", again, exported)["harmless"] is True
    assert send(writing_studio, "sample", again, "id,phone\n1,5\n")["harmless"] is False
    assert send(writing_studio, "run", {**again, "harmless": True}, exported)["updated"] >= len(texts)
    assert rows(database, query) == before


def test_numbers_from_the_file_move_the_sequence_on(writing_studio: Client, database: Database) -> None:
    with_ids = plan("id", "clerk_user_id")
    outcome = send(writing_studio, "run", with_ids, "id,c\n500,b\n20,c\n")
    assert (outcome["committed"], outcome["sequence"]) == (True, None)
    with database.engine.begin() as connection:
        assert connection.scalar(text("INSERT INTO users (clerk_user_id) VALUES ('next') RETURNING id")) == 501
    far = send(writing_studio, "run", with_ids, "id,c\n2000000000,d\n")
    assert far["committed"]
    assert "SELECT setval('public.users_id_seq', 2000000000)" in far["sequence"]


def test_an_import_needs_write_mode_a_plan_and_columns(studio: Client, writing_studio: Client) -> None:
    assert send(studio, "run", CSV, "a\n")["status"] == 403
    assert send(writing_studio, "other", CSV, "a\n")["status"] == 404
    for plan_, words in [
        ({}, "at least one column"),
        (plan("id", "id"), "each of them once"),
        (plan("nope"), "does not exist"),
        (plan("id", "plan", separator=";;"), "not one character"),
        (plan("id", "plan", "phone"), "no value for phone"),
        ({"other": 1}, "malformed"),
    ]:
        refused = send(writing_studio, "run", plan_, "a,b\n1,2\n")
        assert refused["status"] == 400
        assert words in refused["what"]


def test_a_running_import_reports_how_many_rows_it_has_read(writing_studio: Client, database: Database) -> None:
    with ThreadPoolExecutor() as pool, database.engine.begin() as connection:
        # The import waits for the end of this transaction to know whether the key is taken.
        connection.execute(text("INSERT INTO users (clerk_user_id) VALUES ('1')"))
        answer = pool.submit(send, writing_studio, "run", {**CSV, "id": "running"}, "id,n,a\n1,b,\n2,c,\n")
        while writing_studio.get("/api/import-progress/running") != {"rows": 2}:
            assert not answer.done()
        connection.rollback()
        assert answer.result()["inserted"] == 2
    assert writing_studio.get("/api/import-progress/running") == {"rows": None}


def test_a_client_that_leaves_during_the_upload_leaves_nothing_behind(
    writing_studio: Client, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with socket.create_connection(("127.0.0.1", writing_studio.server.port), timeout=60) as connection:
        content = json.dumps(CSV).encode() + b"\nid,n,a\n" + b"1,b,\n" * 100_000
        connection.sendall(head(writing_studio, "users/run", len(content) + 1) + content)
    # A later request is answered, and no error is logged.
    assert send(writing_studio, "check", CSV, "id,n,a\n1,b,\n")["rows"] == 1
    assert list(tmp_path.iterdir()) == []
    assert rows(database, "SELECT count(*) FROM users") == [(1,)]
