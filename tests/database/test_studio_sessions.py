"""The sessions of the SQL tabs: as in psql, with questions before destruction, and read-only without a way out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, text

from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.database.pool import Database
from tatame_db.studio.access import Access, open_access
from tatame_db.studio.sql import session, sessions

Client = Any

SETUP = """
CREATE TABLE belts (id int PRIMARY KEY, name text);
INSERT INTO belts SELECT n, 'white' FROM generate_series(1, 60) AS n;
CREATE FUNCTION wipe() RETURNS int LANGUAGE plpgsql AS 'BEGIN DELETE FROM belts; RETURN 1; END';
CREATE FUNCTION unset() RETURNS int LANGUAGE plpgsql AS
    'BEGIN PERFORM set_config(''transaction_read_only'', ''off'', true); RETURN wipe(); END';
CREATE PROCEDURE commits() LANGUAGE plpgsql AS 'BEGIN COMMIT; DELETE FROM belts; END';
CREATE SEQUENCE counter;
"""
# Each script runs in a tab of its own, as a role that may do everything to these tables, and changes nothing.
ATTEMPTS = [
    "DELETE FROM belts",
    "BEGIN; DELETE FROM belts; COMMIT",
    "COMMIT; DELETE FROM belts",
    "ROLLBACK; DELETE FROM belts",
    "END; BEGIN; UPDATE belts SET name = 'x'; END",
    "BEGIN READ WRITE; DELETE FROM belts; COMMIT",
    "BEGIN; SET TRANSACTION READ WRITE; DELETE FROM belts; COMMIT",
    "START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE; DELETE FROM belts; COMMIT",
    "BEGIN; ROLLBACK AND CHAIN; SET TRANSACTION READ WRITE; DELETE FROM belts; COMMIT",
    "BEGIN; COMMIT AND CHAIN; SET TRANSACTION READ WRITE; DELETE FROM belts; COMMIT",
    "BEGIN; COMMIT AND NO CHAIN; DELETE FROM belts",
    "BEGIN; SELECT 1/0; ROLLBACK AND CHAIN; SET TRANSACTION READ WRITE; DELETE FROM belts; COMMIT",
    "BEGIN; SAVEPOINT a; SET TRANSACTION READ WRITE; DELETE FROM belts; COMMIT",
    "BEGIN; SAVEPOINT a; SELECT 1/0; ROLLBACK TO a; SET TRANSACTION READ WRITE; DELETE FROM belts; COMMIT",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; DELETE FROM belts",
    "SET default_transaction_read_only = off; DELETE FROM belts",
    "SET default_transaction_read_only = off; BEGIN; DELETE FROM belts; COMMIT",
    "SET transaction_read_only = off; DELETE FROM belts",
    "SET LOCAL transaction_read_only = off; DELETE FROM belts",
    "RESET transaction_read_only; DELETE FROM belts",
    "BEGIN; RESET transaction_read_only; DELETE FROM belts; COMMIT",
    "BEGIN; SET transaction_read_only TO DEFAULT; DELETE FROM belts; COMMIT",
    "DO $$ BEGIN RESET transaction_read_only; DELETE FROM belts; END $$",
    "DO $$ BEGIN SET LOCAL transaction_read_only TO DEFAULT; DELETE FROM belts; END $$",
    "RESET ALL; DELETE FROM belts",
    "DISCARD ALL; DELETE FROM belts",
    "DISCARD ALL; BEGIN; DELETE FROM belts; COMMIT",
    "SELECT set_config('transaction_read_only', 'off', false); DELETE FROM belts",
    "SELECT set_config('transaction_read_only', 'off', true), wipe()",
    "SELECT set_config('default_transaction_read_only', 'off', false); BEGIN; DELETE FROM belts; COMMIT",
    "BEGIN; PREPARE TRANSACTION 'x'; DELETE FROM belts",
    "COMMIT PREPARED 'x'; DELETE FROM belts",
    "DO $$ BEGIN DELETE FROM belts; END $$",
    "DO $$ BEGIN COMMIT; DELETE FROM belts; COMMIT; END $$",
    "DO $$ BEGIN SET TRANSACTION READ WRITE; DELETE FROM belts; END $$",
    "CALL commits()",
    "BEGIN; CALL commits(); COMMIT",
    "SELECT wipe()",
    "SELECT unset()",
    "BEGIN; SELECT unset(); COMMIT",
    "PREPARE gone AS DELETE FROM belts; EXECUTE gone",
    "BEGIN; DECLARE c CURSOR FOR SELECT wipe(); FETCH c; COMMIT",
    "DECLARE c CURSOR WITH HOLD FOR SELECT wipe(); FETCH c",
    "WITH gone AS (DELETE FROM belts RETURNING *) SELECT * FROM gone",
    "EXPLAIN ANALYZE DELETE FROM belts",
    "EXPLAIN (ANALYZE) SELECT wipe()",
    "TRUNCATE belts",
    "DROP TABLE belts",
    "ALTER TABLE belts DROP COLUMN name",
    "LOCK TABLE belts",
    "LOCK belts IN SHARE MODE NOWAIT",
    "BEGIN; DO $$ BEGIN LOCK TABLE belts; END $$; DELETE FROM belts; COMMIT",
    "SELECT * FROM belts FOR UPDATE",
    "SELECT * FROM belts FOR SHARE",
    "SELECT nextval('counter')",
    "SELECT setval('counter', 9)",
    "CREATE TEMP TABLE mine AS SELECT 1",
    "SET standard_conforming_strings = off; SELECT 'a\\'; DELETE FROM belts; --'",
    "SELECT 'a\\'; DELETE FROM belts; --'",
    "SELECT $a$; $b$; DELETE FROM belts; $a$; COMMIT; DELETE FROM belts",
    "/* ; /* */ COMMIT; */ DELETE FROM belts",
    "SELECT lo_from_bytea(0, 'x')",
    "NOTIFY gossip; DELETE FROM belts",
    "SET search_path = public, pg_catalog; DELETE FROM belts",
    "REFRESH MATERIALIZED VIEW belts",
    "VACUUM belts",
    "COPY belts FROM STDIN",
]


@pytest.fixture
def belts(committed_database: Database) -> Generator[tuple[Database, str]]:
    """Yield a database with a table of belts, and the name of a role that may do everything to it."""
    name = f"owner_of_{committed_database.address.database}"
    with committed_database.engine.begin() as connection:
        connection.execute(text(f'CREATE ROLE "{name}" LOGIN'))
        connection.execute(text(f'GRANT ALL ON SCHEMA public TO "{name}"'))
    with Database(committed_database.address.set(username=name)) as own, own.engine.begin() as connection:
        connection.exec_driver_sql(SETUP)
    yield committed_database, name
    with committed_database.engine.begin() as connection:
        connection.execute(text(f'DROP OWNED BY "{name}" CASCADE'))
        connection.execute(text(f'DROP ROLE "{name}"'))


def serve(belts: tuple[Database, str], serve_studio: Callable[[Access], Client], *, write: bool) -> Client:
    with Database(belts[0].address.set(username=belts[1])) as database:
        return serve_studio(open_access(database, embedded=False, write=write))


@pytest.fixture
def reader(belts: tuple[Database, str], serve_studio: Callable[[Access], Client]) -> Client:
    """Serve a read-only studio as a role that may write."""
    return serve(belts, serve_studio, write=False)


@pytest.fixture
def writer(belts: tuple[Database, str], serve_studio: Callable[[Access], Client]) -> Client:
    return serve(belts, serve_studio, write=True)


STATE = "SELECT string_agg(name, '' ORDER BY id), (SELECT last_value FROM counter) FROM belts"


def state(database: Database, query: str = STATE) -> Any:
    with database.engine.connect() as connection:
        return connection.execute(text(query)).one()


def commands(lines: list[Any]) -> list[str | None]:
    """Return the command, or the SQLSTATE of the error, of each statement."""
    ends = (line for line in lines if {"done", "error"} & set(line))
    return [line["done"]["command"] if "done" in line else line["error"]["code"] for line in ends]


def try_to_write(studio: Client, database: Database) -> None:
    before = state(database)
    for attempt in ATTEMPTS:
        studio.script(attempt, tab=attempt)
        # The statements after a failed one do not run, so they are tried one by one too, in the same session.
        for part in attempt.split("; "):
            studio.script(part, tab=attempt)
        assert state(database) == before, attempt
        studio.script("ROLLBACK", tab=attempt)
        assert studio.error("DELETE FROM belts", tab=attempt)["code"] == "25006", attempt
        assert state(database) == before, attempt
        studio.ask("/api/sql/close", {"tabs": [attempt]})


def test_no_statement_writes_from_a_read_only_session(reader: Client, belts: tuple[Database, str]) -> None:
    try_to_write(reader, belts[0])


def test_no_statement_writes_on_the_oldest_server(
    other_postgres: Callable[[Path], URL],
    postgres_programs: Callable[[int], Path],
    serve_studio: Callable[[Access], Client],
) -> None:
    address = other_postgres(postgres_programs(14))
    create_missing_database(address)
    with Database(address) as database:
        with database.engine.begin() as connection:
            connection.exec_driver_sql("CREATE ROLE ana LOGIN; GRANT ALL ON SCHEMA public TO ana")
        with Database(address.set(username="ana")) as own:
            with own.engine.begin() as connection:
                connection.exec_driver_sql(SETUP)
            studio = serve_studio(open_access(own, embedded=False, write=False))
        try_to_write(studio, database)


def test_a_read_only_session_blocks_no_other(reader: Client, belts: tuple[Database, str]) -> None:
    reader.run("BEGIN")
    assert reader.error("DO $$ BEGIN LOCK TABLE belts; END $$")["what"].startswith("the statement locked a table")
    with belts[0].engine.begin() as connection:
        connection.execute(text("LOCK TABLE belts NOWAIT"))
        connection.execute(text("LISTEN gossip"))
        reader.run("BEGIN; SELECT pg_notify('gossip', 'x'); COMMIT; SELECT pg_notify('gossip', 'y'); NOTIFY gossip")
    with belts[0].engine.begin() as connection:
        assert list(connection.connection.driver_connection.notifies(timeout=0)) == []  # type: ignore[union-attr]


def test_a_read_only_session_holds_no_advisory_lock_after_a_statement(
    reader: Client, belts: tuple[Database, str]
) -> None:
    names = ["lock", "lock_shared", "xact_lock", "xact_lock_shared"]
    calls = [f"pg_{prefix}advisory_{name}(7)" for name in names for prefix in ("", "try_")]
    free = "SELECT pg_try_advisory_lock(7) AND pg_advisory_unlock(7)"
    for call in calls:
        # Outside a block, in a block, and in one that fails: there a lock of the session would outlast the rollback.
        assert "done" in reader.run(f"SELECT {call}")[-1]
        assert state(belts[0], free) == (True,), call
        reader.run("BEGIN")
        outcome = reader.run(f"SELECT {call}")[-1]
        assert ("error" in outcome) == ("xact" in call)
        assert state(belts[0], free) == (True,), call
        reader.run("ROLLBACK")
        assert reader.error(f"SELECT {call}::text::int")["code"] == "22P02"
        assert state(belts[0], free) == (True,), call
        reader.run("BEGIN; SAVEPOINT a")
        error = reader.error(f"SELECT {call}, 1 / (pg_backend_pid() - pg_backend_pid())")
        assert "advisory number" in error["what"] if "xact" not in call else error["code"] == "22012"
        assert state(belts[0], free) == (True,), call
        reader.run("ROLLBACK")
    # A block that fails without a lock stays as it was.
    assert reader.script("BEGIN; SELECT 1/0")[-1]["session"]["transaction"] == "failed"


def test_a_read_only_session_has_blocks_savepoints_settings_and_cursors(reader: Client) -> None:
    assert commands(reader.script("SET work_mem = '3MB'; PREPARE two AS SELECT 2; LISTEN gossip")) == [
        "SET", "PREPARE", "LISTEN",
    ]  # fmt: skip
    assert reader.run("EXECUTE two")[1]["rows"] == [["2"]]
    assert reader.run("SHOW work_mem")[1]["rows"] == [["3MB"]]
    lines = reader.script("BEGIN ISOLATION LEVEL REPEATABLE READ; DECLARE c CURSOR FOR SELECT 7; FETCH c")
    assert lines[-1]["session"]["transaction"] == "open"
    assert reader.run("SHOW transaction_isolation")[1]["rows"] == [["repeatable read"]]
    lines = reader.script("SAVEPOINT a; SELECT 1/0")
    assert lines[-1]["session"]["transaction"] == "failed"
    assert reader.error("SELECT 1")["code"] == "25P02"
    assert commands(reader.script("ROLLBACK TO a; FETCH c; COMMIT")) == ["ROLLBACK", "FETCH 0", "COMMIT"]
    assert reader.error("FETCH c")["code"] == "34000"
    assert reader.error("SAVEPOINT a")["code"] == "25P01"
    assert reader.run("COMMIT")[-1]["done"]["notices"][0]["what"] == "there is no transaction in progress"
    reader.run("DISCARD ALL")
    assert reader.run("SELECT current_setting('work_mem'), current_setting('statement_timeout')")[1]["rows"] == [
        ["4MB", "5min"]
    ]
    assert reader.run("SELECT generate_series(1, 2000000000)", limit=3)[-1]["done"]["more"]


def test_a_writing_session_is_that_of_psql(writer: Client, belts: tuple[Database, str]) -> None:
    database = belts[0]
    script = "BEGIN; DELETE FROM belts WHERE id > 1; SAVEPOINT a; DELETE FROM belts WHERE id = 1; ROLLBACK TO a"
    lines = writer.script(script)
    assert commands(lines) == ["BEGIN", "DELETE 59", "SAVEPOINT", "DELETE 1", "ROLLBACK"]
    assert [script[line["statement"]["start"] :][:6] for line in lines if "statement" in line][1] == "DELETE"
    assert lines[-1]["session"]["transaction"] == "open"
    assert writer.run("SELECT count(*) FROM belts")[1]["rows"] == [["1"]]
    assert writer.run("SELECT count(*) FROM belts", tab="another")[1]["rows"] == [["60"]]
    assert writer.script("SELECT 1/0")[-1]["session"]["transaction"] == "failed"
    assert commands(writer.script("COMMIT")) == ["ROLLBACK"]
    assert state(database)[0] == "white" * 60

    writer.script("SET TIME ZONE 'America/Sao_Paulo'; CREATE TEMP TABLE mine AS SELECT 1 AS n; PREPARE two AS SELECT 2")
    assert writer.run("SELECT n, current_setting('TimeZone') FROM mine")[1]["rows"] == [["1", "America/Sao_Paulo"]]
    assert writer.run("EXECUTE two")[1]["rows"] == [["2"]]
    writer.run("DECLARE c CURSOR WITH HOLD FOR SELECT 5")
    assert writer.run("FETCH c")[1]["rows"] == [["5"]]
    writer.run("LISTEN gossip")
    writer.run("NOTIFY gossip, 'a new belt'", tab="another")
    notified: list[Any] = []
    while not notified:
        notified = writer.ask("/api/sql/states", {"tabs": ["one"]}).json["one"]["notifications"]
    assert (notified[0]["channel"], notified[0]["payload"]) == ("gossip", "a new belt")


def test_a_script_stops_at_its_first_error_with_all_that_is_known(writer: Client) -> None:
    script = "SELECT 1 AS a;\nINSERT INTO belts VALUES (1, 'é'); SELECT 2"
    lines = writer.script(script)
    assert commands(lines) == ["SELECT 1", "23505"]
    error = next(line["error"] for line in lines if "error" in line)
    assert error["detail"] == "Key (id)=(1) already exists."
    lines = writer.script("SELECT '😀';\nSELECT nothing FROM belts")
    place, error = (next(line[kind] for line in reversed(lines) if kind in line) for kind in ("statement", "error"))
    assert "SELECT '😀';\nSELECT nothing FROM belts"[place["start"] + error["position"] - 1 :].startswith("nothing")
    # Only the statement at the cursor.
    assert commands(writer.script("SELECT 1; VALUES (2), (3) ; TABLE belts", cursor=12)) == ["SELECT 2"]


# --- Questions --------------------------------------------------------------------------------------------------------


def asked(studio: Client, statement: str, *, yes: bool | None, tab: str = "one") -> tuple[list[str], Any]:
    """Run a statement, answer its question, and return the lines of the question and the last result."""
    lines: list[Any] = []
    with closing(studio.begin("/api/sql", {"id": "asked", "tab": tab, "text": statement})) as connection:
        response = connection.getresponse()
        while line := response.readline():
            lines.append(json.loads(line))
            if "question" in lines[-1]:
                if yes is None:
                    return lines[-1]["question"]["lines"], None
                assert studio.ask("/api/sql/answer", {"id": "asked", "yes": yes}).json == {"answered": True}
    questions = [line["question"]["lines"] for line in lines if "question" in line]
    return (questions[0] if questions else []), lines[-2]


@pytest.mark.parametrize("in_block", [False, True])
def test_a_statement_without_where_asks_with_its_effects(
    writer: Client, belts: tuple[Database, str], in_block: bool
) -> None:
    database = belts[0]
    writer.run("CREATE TABLE wins (belt int REFERENCES belts ON DELETE CASCADE)")
    writer.run("INSERT INTO wins VALUES (1), (1), (2)")
    if in_block:
        writer.run("BEGIN")
    deletes = ["deletes 3 rows of wins", "deletes 60 rows of belts"]
    expected = {
        "DELETE FROM belts": deletes,
        "WITH gone AS (DELETE FROM belts RETURNING id) SELECT count(*) FROM gone WHERE true": deletes,
        "EXPLAIN ANALYZE DELETE FROM belts": deletes,
        "DELETE FROM belts WHERE (1 = 1) OR NOT true RETURNING id": deletes,
        "UPDATE belts SET name = (SELECT 'x' WHERE true)": ["updates 60 rows of belts"],
        "TRUNCATE wins, belts": ["empties belts, which has 60 rows", "empties wins, which has 3 rows"],
        "DROP TABLE belts CASCADE": ["drops belts, which has 60 rows"],
        "ALTER TABLE belts DROP name": ["drops a column of belts, which has 60 rows"],
        "DROP FUNCTION wipe()": ["runs DROP FUNCTION"],
    }
    for statement, question in expected.items():
        lines, end = asked(writer, statement, yes=False)
        assert (sorted(lines), end) == (question, {"undone": {"in_time": True}}), statement
        assert writer.run("SELECT count(name) FROM belts")[1]["rows"] == [["60"]], statement
    # Nothing asks that keeps all rows, or has a condition.
    for statement in ('DELETE FROM wins WHERE "belt" = 2', "UPDATE belts SET id = id WHERE (id) = 1"):
        assert asked(writer, statement, yes=None)[0] == [], statement
    lines, end = asked(writer, "DELETE FROM belts" if not in_block else "SELECT 1", yes=True)
    if in_block:
        writer.run("ROLLBACK")
    else:
        assert end["done"]["command"] == "DELETE 60"
        assert state(database, "SELECT count(*) FROM belts") == (0,)


def test_a_statement_that_changes_many_rows_asks_whatever_its_words_are(
    writer: Client, belts: tuple[Database, str]
) -> None:
    database = belts[0]
    writer.run("PREPARE gone AS DELETE FROM belts WHERE id > 20; ANALYZE belts; CREATE TEMP TABLE mine AS TABLE belts")
    expected = {
        "EXECUTE gone": "deletes 40 rows of belts",
        "DELETE FROM belts WHERE id > 20": "deletes 40 rows of belts",
        "CREATE TABLE x AS WITH d AS (DELETE FROM belts WHERE id > 20 RETURNING *) SELECT * FROM d": (
            "deletes 40 rows of belts"
        ),
        "MERGE INTO belts USING (VALUES (20)) AS v (n) ON id > n WHEN MATCHED THEN DELETE": "deletes 40 rows of belts",
        "MERGE INTO belts USING (VALUES (20)) AS v (n) ON id > n WHEN MATCHED THEN UPDATE SET name = 'x'": (
            "updates 40 rows of belts"
        ),
        "SELECT wipe()": "deletes 60 rows of belts",
        "DO $$ BEGIN PERFORM wipe(); END $$": "deletes 60 rows of belts",
        "EXPLAIN ANALYZE DELETE FROM belts WHERE id > 20": "deletes 40 rows of belts",
        "INSERT INTO belts SELECT n FROM generate_series(1, 21) n ON CONFLICT (id) DO UPDATE SET name = 'x'": (
            "updates 21 rows of belts"
        ),
        "DO $$ BEGIN TRUNCATE belts; END $$": "empties belts, which has about 60 rows",
        "DO $$ BEGIN TRUNCATE belts; INSERT INTO belts VALUES (1, 'x'); END $$": (
            "empties belts, which has about 60 rows"
        ),
        "DO $$ BEGIN DROP TABLE belts; END $$": "drops belts, which has about 60 rows",
        "DO $$ BEGIN ALTER TABLE belts DROP name; END $$": "drops a column of belts, which has about 60 rows",
    }
    for statement, question in expected.items():
        assert asked(writer, statement, yes=False) == ([question], {"undone": {"in_time": True}}), statement
        assert state(database)[0] == "white" * 60, statement
    # Few rows, new rows, rows of a temporary table, the same rows in another file, and statements outside transactions.
    for statement in (
        "DELETE FROM belts WHERE id > 40",
        "DELETE FROM belts WHERE id > 20",
        "INSERT INTO belts SELECT n, 'white' FROM generate_series(21, 60) AS n",
        "UPDATE mine SET name = 'x' WHERE id > 0",
        "ALTER TABLE belts ALTER id TYPE bigint",
        "CREATE INDEX CONCURRENTLY ON belts (name)",
        "CALL commits()",
    ):
        lines, end = asked(writer, statement, yes=True)
        assert (lines, "done" in end) == ([], True), (statement, end)
    assert state(database, "SELECT count(*) FROM belts") == (0,)
    writer.run("INSERT INTO belts SELECT n, 'white' FROM generate_series(1, 60) AS n")
    assert asked(writer, "SELECT wipe()", yes=True)[1]["done"]["command"] == "SELECT 1"
    assert state(database, "SELECT count(*) FROM belts") == (0,)


def test_what_the_commit_or_a_policy_hides_is_in_the_question(writer: Client, belts: tuple[Database, str]) -> None:
    database, role = belts
    writer.run("CREATE TABLE days (n int); INSERT INTO days VALUES (1)")
    writer.run(
        "CREATE FUNCTION wipe_late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM wipe(); RETURN NULL; END';"
        "CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON days DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
        " EXECUTE FUNCTION wipe_late()"
    )
    lines, _ = asked(writer, "UPDATE days SET n = 2 WHERE n = 1", yes=False)
    assert sorted(lines) == ["deletes 60 rows of belts", "updates 1 row of days"]
    convert = "ALTER TABLE belts ALTER name TYPE text USING 'wiped'"
    assert asked(writer, convert, yes=False)[0] == ["changes the values of a column, in every row"]
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE belts ENABLE ROW LEVEL SECURITY; ALTER TABLE belts FORCE ROW LEVEL SECURITY"
        )
        connection.exec_driver_sql("ANALYZE belts")
    assert asked(writer, "DROP TABLE belts CASCADE", yes=False)[0] == ["drops belts, which has about 60 rows"]
    with database.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE belts DISABLE ROW LEVEL SECURITY")
        connection.exec_driver_sql(f'ALTER ROLE "{role}" SET track_counts = off')
    unknown = "changes rows of belts, which are not counted"
    for statement, line in {
        "DELETE FROM belts": "deletes 60 rows of belts",
        "UPDATE belts SET name = 'x' WHERE id > 20": "updates 40 rows of belts",
        "WITH ids AS (SELECT 1) DELETE FROM belts WHERE id > 20": "deletes 40 rows of belts",
        "INSERT INTO belts SELECT n FROM generate_series(1, 21) n ON CONFLICT (id) DO UPDATE SET name = 'x'": (
            "inserts or updates 21 rows of belts"
        ),
        "WITH gone AS (DELETE FROM belts WHERE id > 20 RETURNING id) SELECT count(*) FROM gone": unknown,
        "SELECT wipe()": unknown,
        "DO $$ BEGIN PERFORM wipe(); END $$": unknown,
        "EXPLAIN ANALYZE DELETE FROM belts WHERE id > 20": unknown,
    }.items():
        assert asked(writer, statement, yes=False, tab="uncounted")[0] == [line]
    for statement in (
        "DELETE FROM belts WHERE id > 60",
        "EXPLAIN DELETE FROM belts",
        "SELECT * FROM belts FOR UPDATE",
        "INSERT INTO belts SELECT n FROM generate_series(1, 21) n ON CONFLICT DO NOTHING",
        "CREATE FUNCTION gone() RETURNS void LANGUAGE sql AS 'DELETE FROM belts'",
    ):
        assert asked(writer, statement, yes=None, tab="uncounted")[0] == []
    assert state(database)[0] == "white" * 60


def test_a_statement_that_fails_like_one_outside_transactions_runs_once(
    writer: Client, belts: tuple[Database, str]
) -> None:
    before = state(belts[0], "SELECT nextval('counter')")
    forged = "DO $$ BEGIN PERFORM nextval('counter'); RAISE 'no' USING ERRCODE = '25001'; END $$"
    assert writer.error(forged)["code"] == "25001"
    assert state(belts[0], "SELECT nextval('counter')") == (before[0] + 2,)


def test_no_statement_runs_outside_a_transaction_of_a_studio_that_is_gone(
    writer: Client, belts: tuple[Database, str]
) -> None:
    [state_of_tab] = writer.ask("/api/sql/states", {"tabs": ["earlier"]}).json.values()
    assert (state_of_tab["open"], state_of_tab["ended"]) == (False, "the studio was started again")
    body = {"id": "x", "tab": "earlier", "text": "INSERT INTO belts VALUES (61, 'red')", "in_transaction": True}
    [first, last] = writer.ask("/api/sql", body).lines
    assert first["error"]["means"] == "Its open transaction was rolled back, and this statement was not run."
    assert last["session"]["lost_transaction"] is False
    assert state(belts[0], "SELECT count(*) FROM belts WHERE id = 61") == (0,)
    assert writer.ask("/api/sql", body | {"in_transaction": False}).lines[-2]["done"]["command"] == "INSERT 0 1"


def test_a_question_without_an_answer_rolls_back(
    writer: Client, belts: tuple[Database, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client leaves.
    assert asked(writer, "DELETE FROM belts", yes=None)[0] == ["deletes 60 rows of belts"]
    locks = "SELECT count(*) FROM pg_locks WHERE relation = 'belts'::regclass AND mode = 'RowExclusiveLock'"
    while state(belts[0], locks) != (0,):
        time.sleep(0.01)
    # The tab is closed, although its page is still there.
    with closing(writer.begin("/api/sql", {"id": "x", "tab": "two", "text": "DELETE FROM belts"})) as connection:
        response = connection.getresponse()
        while b"question" not in response.readline():
            pass
        assert writer.ask("/api/sql/close", {"tabs": ["two"]}).status == 200
        assert json.loads(response.readline()) == {"undone": {"in_time": True}}
        response.read()
    # The time is over.
    monkeypatch.setattr(sessions, "QUESTION_SECONDS", 0.01)
    assert writer.run("DELETE FROM belts")[-1] == {"undone": {"in_time": False}}
    # The statement fails at the commit.
    monkeypatch.setattr(sessions, "QUESTION_SECONDS", session.QUESTION_SECONDS)
    writer.run("CREATE TABLE wins (belt int REFERENCES belts DEFERRABLE INITIALLY DEFERRED)")
    writer.run("INSERT INTO wins VALUES (1)")
    assert asked(writer, "DELETE FROM belts", yes=True)[1]["error"]["code"] == "23503"
    assert state(belts[0])[0] == "white" * 60


def test_a_statement_outside_transactions_asks_without_a_number(writer: Client) -> None:
    lines, end = asked(writer, "VACUUM belts", yes=True)
    assert lines == ["runs VACUUM BELTS, which PostgreSQL cannot undo; its effect is not known before"]
    assert end["done"]["command"] == "VACUUM"
    assert asked(writer, "DROP DATABASE no_such", yes=False)[1] == {"undone": {"in_time": True}}


# --- The end of a session ---------------------------------------------------------------------------------------------


def test_a_session_that_the_server_ended_is_named(writer: Client, belts: tuple[Database, str]) -> None:
    def terminate() -> None:
        pid = writer.run("SELECT pg_backend_pid()")[1]["rows"][0][0]
        state(belts[0], f"SELECT pg_terminate_backend({pid}, 5000)")

    def wait_for_end() -> Any:
        while (found := writer.ask("/api/sql/states", {"tabs": ["one"]}).json["one"])["open"]:
            time.sleep(0.01)
        return found

    writer.script("BEGIN; UPDATE belts SET name = 'black' WHERE id = 1")
    terminate()
    assert wait_for_end()["lost_transaction"] is True
    error = writer.error("COMMIT")
    assert "terminating connection due to administrator command" in error["what"]
    assert error["means"] == "Its open transaction was rolled back, and this statement was not run."
    assert writer.run("SELECT name FROM belts WHERE id = 1")[1]["rows"] == [["white"]]
    terminate()
    wait_for_end()
    assert "This is a new session" in writer.run("SELECT 1")[-1]["done"]["notices"][0]["what"]
    assert writer.run("SELECT 1")[-1]["done"]["notices"] == []
    writer.script("SET idle_in_transaction_session_timeout = '10ms'; BEGIN")
    assert "idle-in-transaction timeout" in wait_for_end()["ended"]


def test_a_commit_whose_answer_is_lost_is_not_called_a_rollback(writer: Client) -> None:
    body = "BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END"
    writer.run(f"CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS '{body}'")
    timing = "AFTER INSERT ON belts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
    writer.run(f"CREATE CONSTRAINT TRIGGER lose {timing} EXECUTE FUNCTION lose()")
    for end in ("COMMIT", "/* so */ end work", "PREPARE TRANSACTION 'x'"):
        writer.script("BEGIN; INSERT INTO belts VALUES (70, 'x')")
        assert "check whether PostgreSQL had committed it" in writer.error(end)["means"]
    writer.script("BEGIN; INSERT INTO belts VALUES (70, 'x')")
    assert "was rolled back" in writer.error("SELECT pg_terminate_backend(pg_backend_pid())")["means"]


def test_idle_sessions_end_and_there_are_at_most_twenty(
    reader: Client, belts: tuple[Database, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{belts[1]}' AND backend_type = 'client backend'"
    assert reader.ask("/api/rows/users").status == 403
    [before] = state(belts[0], alive)
    for number in range(20):
        reader.run("SELECT 1", tab=f"tab {number}")
    body = {"id": "more", "tab": "one more", "text": "SELECT 1"}
    assert reader.ask("/api/sql", body).status == 429
    reader.ask("/api/sql/close", {"tabs": [f"tab {number}" for number in range(20)]})
    while state(belts[0], alive)[0] > before:
        time.sleep(0.01)
    studio = reader.server._studio
    monkeypatch.setattr(studio.sql_sessions, "idle_seconds", 0.05)
    reader.run("BEGIN")
    while (found := reader.ask("/api/sql/states", {"tabs": ["one"]}).json["one"])["open"]:
        time.sleep(0.01)
    assert "idle minutes" in found["ended"]
    monkeypatch.setattr(studio.sql_sessions, "idle_seconds", sessions.IDLE_SECONDS)
    assert reader.error("SELECT 1")["code"] == "08003"
    assert reader.run("SELECT 1")[1]["rows"] == [["1"]]


def test_a_value_that_would_fill_the_memory_ends_the_session(writer: Client) -> None:
    for statement in (
        "SELECT repeat(repeat('x', 10000), 2000)",
        "DO $$ BEGIN RAISE NOTICE '%', repeat(repeat('x', 10000), 2000); END $$",
        "DO $$ BEGIN RAISE EXCEPTION '%', repeat(repeat('x', 10000), 2000); END $$",
    ):
        error = writer.error(statement)
        assert error["code"] == "54000", error["what"][:200]
        assert "left(column, 1000)" in error["fix"]
    lines = writer.run("SELECT repeat('é', 2000000), 1")
    assert lines[1]["rows"][0][0]["length"] == 2_000_000
    # Many notices are no large one, and neither are rows beyond the limit.
    many = "DO $$ BEGIN FOR n IN 1..2000 LOOP RAISE NOTICE '%', repeat('x', 10000); END LOOP; END $$"
    assert len(writer.run(many)[-1]["done"]["notices"]) == 100
    assert writer.run("SELECT repeat('x', 100000) FROM generate_series(1, 300)", limit=1)[-1]["done"]["more"]
    assert writer.ask("/api/sql", {"id": "x", "tab": "one", "text": "x" * 1_000_001}).status == 400
    assert writer.ask("/api/sql", {"id": "x", "tab": "one", "text": "TABLE a;" * 1001}).status == 400


def test_the_names_for_completion_are_those_that_the_role_can_use(reader: Client) -> None:
    found = reader.get("/api/sql/names")
    [belts] = [table for table in found["tables"] if table["name"] == "belts"]
    assert belts == {"schema": "public", "name": "belts", "columns": [["id", "integer"], ["name", "text"]]}
    functions = {function["name"]: function for function in found["functions"]}
    assert functions["wipe"] == {"schema": "public", "name": "wipe", "arguments": [""], "result": "integer"}
    assert len(functions["round"]["arguments"]) > 1
    assert not {"int4eq", "btint4cmp", "int4_avg_accum"} & set(functions)


def test_a_tab_behind_a_pooler_is_refused_and_leaves_no_setting(
    committed_database: Database, pooler: Callable[[URL], URL], serve_studio: Callable[..., Client]
) -> None:
    pooled = pooler(committed_database.address)
    client = serve_studio(Access(pooled, "postgres", write=True))
    refused = client.ask("/api/sql", {"id": "x", "tab": "one", "text": "SET work_mem = '7MB'"})
    assert (refused.status, "is a pooler" in refused.json["what"]) == (422, True), refused.text
    assert client.get("/api/rows/users")["rows"] == []
    with psycopg.connect(readable(pooled)) as connection:
        assert connection.execute("SELECT current_setting('lock_timeout'), current_setting('work_mem')").fetchone() == (
            "0",
            "4MB",
        )
