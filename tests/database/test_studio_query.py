"""Statements that the user writes: streamed, limited, cancelled, and robust against failures of the server."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, text
from tests.conftest import until

from tatame_db import evolve
from tatame_db.database.creation import create_missing_database
from tatame_db.database.pool import Database
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.studio.access import Access, open_access

Client = Any
RUNNING = "SELECT pid FROM pg_stat_activity WHERE usename ~ 'studio' AND state = 'active' AND query ~ :part"


def running(database: Database, part: str) -> list[int]:
    with database.engine.connect() as connection:
        return list(connection.scalars(text(RUNNING), {"part": part}))


def in_background(studio: Client, statement: str, name: str = "one") -> tuple[threading.Thread, list[Any]]:
    lines: list[Any] = []

    def run() -> None:
        lines.extend(studio.run(statement, id=name, tab=name))

    thread = threading.Thread(target=run)
    thread.start()
    return thread, lines


def test_a_result_has_its_columns_rows_and_end(filled_studio: Client) -> None:
    columns, rows, done = filled_studio.run("SELECT 1 AS a, NULL AS a, '' AS \"ü\", 1.50, ARRAY[1], true, '{}'::jsonb")

    assert [(column["name"], column["type"]) for column in columns["columns"]] == [
        ("a", "int4"),
        ("a", "text"),
        ("ü", "text"),
        ("?column?", "numeric"),
        ("array", "int4[]"),
        ("?column?", "bool"),
        ("jsonb", "jsonb"),
    ]
    assert rows == {"rows": [["1", None, "", "1.50", "{1}", "t", "{}"]]}
    assert done["done"] | {"ms": 0} == {"rows": 1, "more": False, "ms": 0, "command": "SELECT 1", "notices": []}


def test_a_result_may_have_no_columns_or_no_rows(filled_studio: Client) -> None:
    assert filled_studio.run("SELECT FROM generate_series(1, 2)")[:2] == [{"columns": []}, {"rows": [[], []]}]
    assert [column["name"] for column in filled_studio.run("SELECT 1 AS a WHERE false")[0]["columns"]] == ["a"]
    assert filled_studio.run("SET work_mem = '1MB'")[-1]["done"]["command"] == "SET"


def test_a_user_defined_type_is_shown_by_its_number(writing_studio: Client, committed_database: Any) -> None:
    with committed_database.engine.begin() as connection:
        connection.execute(text("CREATE TYPE belt AS ENUM ('white')"))
    assert writing_studio.run("SELECT 'white'::belt")[0]["columns"][0]["type"].startswith("type ")


def test_long_cells_are_cut(filled_studio: Client) -> None:
    [[cell, exact]] = filled_studio.run("SELECT repeat('é', 10001), repeat('é', 10000)")[1]["rows"]
    assert cell == {"cut": "é" * 10_000, "length": 10_001}
    assert exact == "é" * 10_000


def test_notices_are_returned(filled_studio: Client) -> None:
    notices = filled_studio.run("DO $$ BEGIN RAISE WARNING 'careful'; RAISE NOTICE 'hm'; END $$")[-1]["done"]["notices"]
    assert [(notice["severity"], notice["what"]) for notice in notices] == [("Warning", "careful"), ("Notice", "hm")]


def test_an_error_has_its_position(filled_studio: Client) -> None:
    statement = "SELECT 'é',\n  nothing FROM users"
    error = filled_studio.error(statement)

    assert error["what"] == 'column "nothing" does not exist'
    assert statement[error["position"] - 1 :].startswith("nothing")
    assert filled_studio.error(statement, explain="plan")["position"] == error["position"]
    assert filled_studio.error("SELECT emial FROM users")["hint"] == (
        'Perhaps you meant to reference the column "users.email".'
    )


@pytest.mark.parametrize("statement", ["", "  ;; -- nothing\n"])
def test_a_text_without_a_statement_is_an_error(filled_studio: Client, statement: str) -> None:
    assert filled_studio.error(statement)["what"] == "the text contains no statement"


def test_a_trailing_semicolon_or_comment_is_not_a_second_statement(filled_studio: Client) -> None:
    assert filled_studio.run("-- first\nSELECT 1; -- last")[-1]["done"]["rows"] == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"id": "one", "tab": "one", "text": "SELECT 1", "limit": 0}, 400),
        ({"id": "one", "tab": "one", "text": "SELECT 1", "limit": 100_001}, 400),
        ({"id": "one", "tab": "one", "text": "SELECT '\0'"}, 400),
        ({"id": "one", "tab": "one", "text": "SELECT 1", "explain": "everything"}, 400),
        ({"id": "one"}, 400),
        ({"id": "one", "text": "SELECT 1"}, 400),
        ({"id": 1, "tab": "one", "text": "SELECT 1"}, 400),
    ],
)
def test_a_malformed_request_gets_a_problem(filled_studio: Client, body: Any, status: int) -> None:
    response = filled_studio.ask("/api/sql", body)
    assert (response.status, "what" in response.json) == (status, True)


def test_a_plan_is_a_tree(filled_studio: Client) -> None:
    planned, done = filled_studio.run("SELECT * FROM users -- all", explain="plan")
    assert planned["plan"][0]["Plan"]["Relation Name"] == "users"
    assert "Execution Time" not in planned["plan"][0]
    assert done["done"]["command"] == "EXPLAIN"

    assert filled_studio.run("SELECT * FROM users", explain="analyze")[0]["plan"][0]["Plan"]["Actual Rows"] == 60


def test_an_analyzed_statement_is_rolled_back(writing_studio: Client, committed_database: Database) -> None:
    plan = writing_studio.run("INSERT INTO roles VALUES ('STUDENT')", explain="analyze")[0]["plan"]

    assert plan[0]["Plan"]["Operation"] == "Insert"
    with committed_database.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM roles")) == 0


def test_a_result_is_limited_and_the_server_stops(filled_studio: Client, filled_database: Database) -> None:
    lines = filled_studio.run("SELECT generate_series(1, 2000000000) AS limited", limit=1234)

    assert sum(len(line["rows"]) for line in lines if "rows" in line) == 1234
    assert (lines[-1]["done"]["rows"], lines[-1]["done"]["more"]) == (1234, True)
    until(lambda: not running(filled_database, "limited"))


def test_a_statement_that_is_slow_after_the_limit_is_cancelled(
    filled_studio: Client, filled_database: Database
) -> None:
    rows = "(SELECT generate_series(1, 1000)) AS s (n)"
    statement = f"SELECT repeat('x', 200), CASE WHEN n > 900 THEN pg_sleep(600) END AS endless FROM {rows}"
    assert filled_studio.run(statement, limit=10)[-1]["done"]["more"] is True
    until(lambda: not running(filled_database, "endless"))


def test_a_result_of_exactly_the_limit_is_complete(filled_studio: Client) -> None:
    assert filled_studio.run("SELECT generate_series(1, 7)", limit=7)[-1]["done"]["more"] is False


def test_rows_arrive_while_the_statement_runs(filled_studio: Client) -> None:
    rows = "(SELECT generate_series(1, 1000)) AS s (n)"
    statement = f"SELECT repeat('x', 200), CASE WHEN n > 900 THEN pg_sleep(600) END FROM {rows}"
    body = {"id": "slow", "tab": "slow", "text": statement, "limit": 5000}
    with closing(filled_studio.begin("/api/sql", body)) as connection:
        response = connection.getresponse()
        assert "statement" in json.loads(response.readline())
        assert "columns" in json.loads(response.readline())
        assert len(json.loads(response.readline())["rows"]) > 100


def test_a_query_is_cancelled_on_the_server(filled_studio: Client, filled_database: Database) -> None:
    first, lines = in_background(filled_studio, "SELECT pg_sleep(600) /* first */", "first")
    second, _ = in_background(filled_studio, "SELECT pg_sleep(600) /* second */", "second")
    until(lambda: len(running(filled_database, "pg_sleep")) == 2)

    assert filled_studio.ask("/api/sql/cancel", {"id": "first"}).json == {"cancelled": True}
    first.join()
    assert lines[-1]["error"]["code"] == "57014"
    assert len(running(filled_database, "second")) == 1

    assert filled_studio.ask("/api/sql", {"id": "second", "tab": "other", "text": "SELECT 1"}).status == 400
    assert filled_studio.ask("/api/sql/cancel", {"id": "second"}).json == {"cancelled": True}
    second.join()
    assert filled_studio.ask("/api/sql/cancel", {"id": "second"}).json == {"cancelled": False}


def test_a_disconnect_cancels_a_query(filled_studio: Client, filled_database: Database) -> None:
    connection = filled_studio.begin(
        "/api/sql", {"id": "left", "tab": "left", "text": "SELECT pg_sleep(600) /* left */"}
    )
    until(lambda: running(filled_database, "left"))
    connection.close()
    until(lambda: not running(filled_database, "left"))
    until(lambda: filled_studio.get("/api/health")["pool"]["in_use"] == 0)


def test_a_disconnect_cancels_the_reading_of_a_page(studio: Client, committed_database: Database) -> None:
    with committed_database.engine.begin() as other:
        other.execute(text("LOCK TABLE users"))
        with closing(studio.begin("/api/rows/users")):
            until(lambda: running(committed_database, "."))
        until(lambda: not running(committed_database, "."))


def test_a_disconnect_ends_an_export(filled_studio: Client) -> None:
    with closing(filled_studio.begin("/api/export/users.csv")) as connection:
        connection.getresponse().read(10)
    until(lambda: filled_studio.get("/api/health")["pool"]["in_use"] == 0)


def test_a_terminated_session_is_reported_and_the_next_query_works(
    studio: Client, committed_database: Database
) -> None:
    thread, lines = in_background(studio, "SELECT pg_sleep(600) /* ended */")
    until(lambda: running(committed_database, "ended"))
    with committed_database.engine.connect() as connection:
        connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM ({RUNNING}) AS found"), {"part": "ended"})
    thread.join()

    assert (lines[-1]["error"]["code"], lines[-1]["error"]["away"]) == ("57P01", True)
    assert studio.run("SELECT 1")[1]["rows"] == [["1"]]


def test_the_studio_survives_the_end_of_its_sessions(studio: Client, committed_database: Database) -> None:
    studio.get("/api/rows/users")
    with committed_database.engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND usename ~ 'studio'"
            )
        )
    assert studio.ask("/api/rows/users").status == 200


def test_statements_write_in_a_writing_studio(writing_studio: Client, committed_database: Database) -> None:
    lines = writing_studio.run("INSERT INTO roles SELECT n::text FROM generate_series(1, 9) AS n RETURNING id", limit=2)
    assert (lines[-1]["done"]["rows"], lines[-1]["done"]["more"]) == (2, True)
    assert writing_studio.error("INSERT INTO roles VALUES ('10'), ('1')")["code"] == "23505"
    with committed_database.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM roles")) == 9


def test_an_error_of_the_commit_is_reported(writing_studio: Client, committed_database: Database) -> None:
    with committed_database.engine.begin() as connection:
        key = "gyms_manager_id_users_id_fk"
        connection.execute(text(f"ALTER TABLE gyms ALTER CONSTRAINT {key} DEFERRABLE INITIALLY DEFERRED"))
    error = writing_studio.error("INSERT INTO gyms (name, address, since, manager_id) VALUES ('', '', '', 7)")
    assert error["code"] == "23503"


def test_a_stopped_server_is_reported_until_it_starts_again(
    fresh_server: EmbeddedServer, serve_studio: Callable[[Access], Client]
) -> None:
    fresh_server.start()
    create_missing_database(fresh_server.address)
    with Database(fresh_server.address) as database:
        studio = serve_studio(open_access(database, embedded=True, write=True))
    assert studio.get("/api/health")["ok"]
    fresh_server.stop()

    requests: dict[str, Any] = {
        "/api/health": None,
        "/api/overview": None,
        "/api/rows/users": None,
        "/api/export/users.csv": None,
        "/api/sql": {"id": "one", "tab": "one", "text": "SELECT 1"},
        "/api/changes": {"changes": [{"op": "insert", "table": "versions", "values": {}}]},
    }
    for path, body in requests.items():
        response = studio.ask(path, body)
        assert response.status == 503, (path, response.text)
        assert "tatame-db" in response.json["fix"]
    assert studio.ask("/").status == 200
    assert len(studio.get("/api/session")["tables"]) == 11

    fresh_server.start()
    assert studio.get("/api/health")["ok"]
    assert studio.run("SELECT 1")[1]["rows"] == [["1"]]


def send(number: signal.Signals, processes: list[int]) -> None:
    for process in processes:
        # `pg_stat_activity` may still list a session that has just ended.
        with suppress(ProcessLookupError):
            os.kill(process, number)


def test_a_hanging_server_is_reported(fresh_server: EmbeddedServer, serve_studio: Callable[[Access], Client]) -> None:
    fresh_server.start()
    create_missing_database(fresh_server.address)
    with Database(fresh_server.address) as database:
        studio = serve_studio(open_access(database, embedded=True, write=False))
        with database.engine.connect() as connection:
            studio.get("/api/health")
            found = connection.scalars(text("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"))
            postmaster = int((fresh_server.data / "postmaster.pid").read_text().split()[0])
            processes = [postmaster, *found]
    try:
        send(signal.SIGSTOP, processes)
        response = studio.ask("/api/health")
    finally:
        send(signal.SIGCONT, processes)
    assert (response.status, response.json["what"]) == (503, "the database does not respond in time")
    until(lambda: studio.ask("/api/health").status == 200)


def test_the_studio_works_on_the_oldest_server(
    other_postgres: Callable[[Path], URL],
    postgres_programs: Callable[[int], Path],
    serve_studio: Callable[[Access], Client],
) -> None:
    address = other_postgres(postgres_programs(14))
    create_missing_database(address)
    with Database(address) as database:
        evolve.migrate(database.engine)
        studio = serve_studio(open_access(database, embedded=True, write=False))
        writer = serve_studio(open_access(database, embedded=True, write=True))

    changes = [{"op": "insert", "table": "users", "values": {"clerk_user_id": "ana"}}]
    assert writer.ask("/api/changes", {"changes": changes}).status == 200
    assert studio.get("/api/rows/users", last="1")["keys"] == ["1"]
    assert studio.get("/api/row/users/1")["row"]["clerk_user_id"] == "ana"
    assert studio.get("/api/overview")["server_version"].startswith("14.")
    assert studio.get("/api/move")["ever"] is False
    assert studio.ask("/api/export/users.json").json[0]["id"] == 1
    assert studio.run("SELECT id FROM users")[1]["rows"] == [["1"]]
    for statement in ("COPY users TO PROGRAM 'id'", "SELECT pg_read_file('/etc/passwd')", "SET ROLE postgres"):
        assert studio.error(statement)["code"] == "42501"
    # PostgreSQL 14 creates large objects in a read-only transaction; its rollback removes them.
    studio.run("SELECT lo_from_bytea(0, 'x')")
    assert studio.run("SELECT 1 FROM pg_largeobject_metadata")[-1]["done"]["rows"] == 0


def test_the_studio_stops_while_queries_run_and_pages_listen(
    committed_database: Database, serve_studio: Callable[[Access], Client]
) -> None:
    studio = serve_studio(open_access(committed_database, embedded=True, write=False))
    thread, lines = in_background(studio, "SELECT pg_sleep(600) /* still */")
    events = studio.begin("/api/move/events")
    assert events.getresponse().readline().startswith(b"data: ")
    until(lambda: running(committed_database, "still"))

    studio.server.should_exit = True
    thread.join()
    until(lambda: not running(committed_database, "still"))
    assert lines == []
    events.close()
