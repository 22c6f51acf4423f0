"""Large rows, many messages and broken connections: memory is bounded, and each end has its reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import closing
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, text
from tests.conftest import OLDER_PROGRAMS, foreign_server, free_port, require_older_programs, tls_settings

from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.database.pool import Database
from tatame_db.studio.access import Access

Client = Any
MEGABYTE = "SELECT repeat('x', 1000000), 1"
EIGHT = "SELECT repeat(repeat('x', 10000), 790) FROM generate_series(1, 3)"


# --- One message ------------------------------------------------------------------------------------------------------


def test_many_messages_are_no_large_one(writing_studio: Client, committed_database: Database) -> None:
    writing_studio.run("LISTEN news")
    with psycopg.connect(readable(committed_database.address), autocommit=True) as other:
        notify = "SELECT count(pg_notify('news', n || repeat('x', 7000))) FROM generate_series(1, 1500) AS n"
        writing_studio.run("BEGIN")
        other.execute(notify)
        # The server sends them at the end of the transaction, before its answer.
        assert writing_studio.run("ROLLBACK")[-1]["done"]["command"] == "ROLLBACK"
        other.execute(notify)
        state = writing_studio.script("SELECT 1")[-1]["session"]
        assert (state["open"], len(state["notifications"])) == (True, 100)
    lines = writing_studio.run(EIGHT)
    assert [row[0]["length"] for line in lines if "rows" in line for row in line["rows"]] == [7_900_000] * 3


# --- Shared memory ----------------------------------------------------------------------------------------------------


def test_tabs_and_exports_share_the_memory_for_large_rows(studio: Client) -> None:
    budget = studio.server._studio.sql_sessions.budget
    budget.free_bytes = 2_500_000
    assert [studio.run(MEGABYTE, tab=tab)[-1]["done"]["rows"] for tab in ("one", "two")] == [1, 1]
    error = studio.error(MEGABYTE, tab="three")
    assert (error["code"], "other tabs and exports hold the memory" in error["what"]) == ("54000", True), error
    assert error["fix"].startswith("close tabs")
    refused = studio.ask("/api/sql/export/csv", {"text": MEGABYTE})
    assert (refused.status, refused.json["fix"][:10]) == (422, "close tabs")
    # Small rows need nothing, a tab uses its part again, and a closed tab gives it back.
    assert studio.run("SELECT 1", tab="three")[1]["rows"] == [["1"]]
    assert studio.run(MEGABYTE, tab="one")[-1]["done"]["rows"] == 1
    studio.ask("/api/sql/close", {"tabs": ["one"]})
    assert studio.run(MEGABYTE, tab="three")[-1]["done"]["rows"] == 1
    studio.ask("/api/sql/close", {"tabs": ["two", "three"]})
    assert budget.free_bytes == 2_500_000


def test_a_row_of_any_size_is_exported_in_pieces(studio: Client, committed_database: Database) -> None:
    with committed_database.engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE long AS SELECT n AS id, repeat('é\"', n * 3000000) AS v FROM generate_series(0, 1) AS n")
        )
        connection.execute(text("GRANT SELECT ON long TO PUBLIC"))
    quoted = 'é""' * 3_000_000
    assert studio.ask("/api/export/long.csv?sort=id").text == f'id,v\r\n0,""\r\n1,"{quoted}"\r\n'
    objects = [{"id": 0, "v": ""}, {"id": 1, "v": 'é"' * 3_000_000}]
    assert studio.ask("/api/export/long.json?sort=id").json == objects
    assert studio.ask("/api/export/long.jsonl?sort=id").lines == objects
    exported = studio.ask("/api/sql/export/json", {"text": "SELECT id, left(v, 2000000) AS v FROM long WHERE id = 1"})
    assert exported.json == [{"id": 1, "v": 'é"' * 1_000_000}]


# --- Broken off -------------------------------------------------------------------------------------------------------


def test_a_file_that_is_cut_is_no_complete_one(
    studio: Client, committed_database: Database, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with committed_database.engine.begin() as connection:
        connection.execute(text("INSERT INTO assets (content) SELECT repeat('x', 1000) FROM generate_series(1, 30000)"))
    for path, body in (
        ("/api/export/assets.csv", None),
        ("/api/sql/export/csv", {"text": "SELECT repeat('x', 1000) FROM generate_series(1, 30000)"}),
    ):
        with closing(studio.begin(path, body)) as connection:
            response = connection.getresponse()
            response.read(1000)
            with psycopg.connect(readable(committed_database.address), autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
                    " WHERE application_name LIKE 'tatame-db studio%' AND state IN ('active', 'idle in transaction')"
                )
            with pytest.raises(IncompleteRead):
                response.read()
    # The client leaves.
    with closing(studio.begin("/api/export/assets.csv")) as connection:
        connection.getresponse().read(1000)
    assert studio.get("/api/rows/assets")["rows"]
    words = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [word.split(" (")[0] for word in words if "its file is incomplete" in word] == [
        "A download was broken off by an error of the database"
    ] * 2
    assert "returned without" not in capfd.readouterr().err


def test_a_connection_whose_first_query_fails_is_closed(studio: Client, committed_database: Database) -> None:
    with committed_database.engine.begin() as connection:
        connection.execute(text("REVOKE EXECUTE ON FUNCTION pg_catalog.pg_backend_pid() FROM PUBLIC"))
    assert studio.ask("/api/sql", {"id": "x", "tab": "one", "text": "SELECT 1"}).status == 403
    with psycopg.connect(readable(committed_database.address)) as connection:
        found = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_backend_pid()'")
        assert found.fetchone() == (0,)
    assert studio.server._studio.sql_sessions._tabs == {}


# --- Encrypted --------------------------------------------------------------------------------------------------------


@pytest.fixture
def encrypted(directory: Path) -> Generator[URL]:
    """A PostgreSQL 15 with a certificate that it made itself, which wants a password."""
    require_older_programs()
    port, rules = free_port(), directory / "rules"
    rules.write_text("local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n")
    rules.chmod(0o644)
    settings = {"listen_addresses": "127.0.0.1", "port": str(port), "hba_file": str(rules)}
    settings |= tls_settings(directory, "localhost")
    with foreign_server(OLDER_PROGRAMS, directory / "server", **settings) as local:
        address = local.update_query_dict({"port": str(port)})
        create_missing_database(address)
        with psycopg.connect(readable(address), autocommit=True) as connection:
            connection.execute("ALTER ROLE postgres PASSWORD 'secret'")
        yield address.set(host="localhost", port=port, password="secret", query={"hostaddr": "127.0.0.1"})


def test_a_tab_over_an_encrypted_connection_works_and_is_bounded(
    encrypted: URL, directory: Path, serve_studio: Callable[..., Client]
) -> None:
    certificate = str(directory / "server.crt")
    for query in (
        {"sslmode": "require"},
        {"sslmode": "require", "channel_binding": "require"},
        {"sslmode": "verify-full", "sslrootcert": certificate, "channel_binding": "require"},
    ):
        client = serve_studio(Access(encrypted.update_query_dict(query), "postgres", write=True))
        lines = client.run("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert lines[1]["rows"] == [["t"]], lines
        assert client.run(EIGHT)[-1]["done"]["rows"] == 3
        assert client.error("SELECT repeat(repeat('x', 10000), 2000)")["code"] == "54000"
        assert client.run("SELECT generate_series(1, 20000)", limit=20_000)[-1]["done"]["rows"] == 20_000
        exported = client.ask("/api/sql/export/json", {"text": "SELECT repeat('é', 3000000) AS v"})
        assert json.loads(exported.text) == [{"v": "é" * 3_000_000}]
    wrong = {"sslmode": "verify-full", "sslrootcert": str(directory / "absent.crt")}
    client = serve_studio(Access(encrypted.update_query_dict(wrong), "postgres", write=True))
    refused = client.ask("/api/sql", {"id": "x", "tab": "one", "text": "SELECT 1"})
    assert refused.status == 503
    assert all(refused.json[part] for part in ("what", "means", "fix"))
