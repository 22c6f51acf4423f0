"""Lean calls of threads: prepared statements, kept connections, interruptions, deadlines and lost connections."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import psycopg
import pytest
from sqlalchemy import URL, Engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError, NotSupportedError, ProgrammingError
from tests.conftest import run_sql

from tatame_db.database.address import readable
from tatame_db.database.connecting import DatabasePool
from tatame_db.database.errors import DatabaseClosed, DatabaseUnavailable, OutcomeUnknown, ServerDisconnected
from tatame_db.database.pool import Database
from tatame_db.queries.engine import lean as lean_module
from tatame_db.queries.engine.lean import LeanConnection, lean_connection
from tatame_db.queries.engine.plan import Prepared, Statement
from tatame_db.queries.engine.threads import checkout
from tatame_db.queries.errors import DeadlineExceeded
from tatame_db.queries.run import copy, fetch, fetch_all, stream
from tatame_db.server.embedded import EmbeddedServer


@pytest.fixture
def database(bare_address: URL) -> Generator[Database]:
    run_sql(bare_address, "CREATE TABLE beaches (id integer PRIMARY KEY, name text NOT NULL)")
    with Database(bare_address) as database:
        yield database


def value(values: Any) -> Any:
    return values[0]


NUMBER: Statement[int] = Statement("number", "SELECT %(n)s::INTEGER", value, may_repeat=True)
PID: Statement[int] = Statement("pid", "SELECT pg_backend_pid()", value)
NAME: Statement[str] = Statement("name", "SELECT name FROM beaches WHERE id = %(n)s::INTEGER", value, may_repeat=True)
ALL: Statement[Any] = Statement("all", "SELECT * FROM beaches ORDER BY id", tuple, may_repeat=True)
SLEEP: Statement[Any] = Statement("sleep", "SELECT pg_sleep(60)", tuple, may_repeat=True)
ADD: Statement[int] = Statement("add", "INSERT INTO beaches VALUES (%(n)s::INTEGER, %(name)s) RETURNING id", value)
SLOW_ADD: Statement[Any] = Statement(
    "slow add", "INSERT INTO beaches SELECT 1, 'Ipanema' FROM pg_sleep(60)", tuple, has_rows=False
)


def is_waiting(database: Database, callers: int) -> bool:
    return database.statistics().waiting == callers


def release_kept(database: Database) -> None:
    """Let a session use the connection of the last call."""
    cast("DatabasePool", database.engine.pool).kept.release_all()


@contextmanager
def taken(database: Database) -> Generator[LeanConnection]:
    """Take the connection that the next call would use."""
    lean = checkout(database, Statement("taken", "", tuple))
    try:
        yield lean
    finally:
        lean.give_back()


def prepared_on_server(database: Database) -> list[str]:
    with taken(database) as lean:
        found = lean.driver.execute('SELECT statement FROM pg_prepared_statements ORDER BY statement COLLATE "C"')
        return [row[0] for row in found.fetchall()]


def kill(address: URL, pid: int) -> None:
    with psycopg.connect(readable(address), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [pid])


def running(address: URL, part: str) -> list[int]:
    """Return the processes that run a statement with this text."""
    with psycopg.connect(readable(address), autocommit=True) as other:
        found = other.execute(
            "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s AND pid <> pg_backend_pid()"
            " AND datname = current_database()",
            [f"%{part}%"],
        )
        return [pid for (pid,) in found.fetchall()]


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)
    return found


# --- Prepared statements ---------------------------------------------------------------------------------------------


def test_a_statement_is_prepared_once_it_runs_again(database: Database) -> None:
    assert fetch(database, NUMBER, {"n": 1}) == [1]
    assert prepared_on_server(database) == []
    for number in (2, 3, None, 70_000):
        assert fetch(database, NUMBER, {"n": number}) == [number]
    assert prepared_on_server(database) == ["SELECT $1::INTEGER"]


def test_descriptions_with_equal_sql_share_a_prepared_statement_and_make_their_own_rows(database: Database) -> None:
    for make_row, expected in ((tuple, (1, 7)), (list, [1, 7]), (sum, 8), (max, 7)):
        again: Statement[Any] = Statement("again", "SELECT 1, %(n)s::INTEGER", make_row)
        assert fetch(database, again, {"n": 7}) == [expected]
    assert len(prepared_on_server(database)) == 1


def test_a_parameter_of_another_type_has_a_prepared_statement_of_its_own(database: Database) -> None:
    kind = Statement("kind", "SELECT pg_typeof(%(a)s)::text", value)
    kinds: list[tuple[Any, str]] = [(1, "smallint"), (70_000, "integer"), (1.5, "double precision"), (True, "boolean")]
    for _ in range(3):
        for sent, expected in kinds:
            assert fetch(database, kind, {"a": sent}) == [expected]
    assert prepared_on_server(database) == ["SELECT pg_typeof($1)::text"] * 4


def test_the_least_recently_used_statements_are_deallocated(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lean_module, "MAX_PREPARED", 3)
    statements = [Statement("s", f"SELECT {number}, %(n)s::INTEGER", tuple) for number in range(6)]
    for number, statement in enumerate(statements):
        for n in range(2):
            assert fetch(database, statement, {"n": n}) == [(number, n)]
            assert fetch(database, NUMBER, {"n": n}) == [n]
    assert prepared_on_server(database) == [
        "SELECT $1::INTEGER",
        "SELECT 4, $1::INTEGER",
        "SELECT 5, $1::INTEGER",
    ]
    assert fetch(database, statements[0], {"n": 9}) == [(0, 9)]


def test_statements_are_deallocated_inside_a_transaction_without_aborting_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lean_module, "MAX_PREPARED", 1)
    with database.session() as session:
        for number in range(4):
            session.execute(text("DEALLOCATE ALL"))
            for n in range(2):
                statement = Statement("s", f"SELECT {number}, %(n)s::INTEGER", tuple)
                assert fetch(session, statement, {"n": n}) == [(number, n)]


@pytest.mark.parametrize(
    "command",
    [
        "ALTER TABLE beaches ADD COLUMN city text DEFAULT 'Rio'",
        "ALTER TABLE beaches ALTER COLUMN name TYPE varchar",
        "ALTER TABLE beaches ALTER COLUMN id TYPE bigint",
        "DEALLOCATE ALL",
        "DISCARD ALL",
        "DROP TABLE beaches; CREATE TABLE beaches (name text, id integer); INSERT INTO beaches VALUES ('Leblon', 1)",
    ],
)
def test_a_stale_statement_is_prepared_again_without_the_caller_noticing(database: Database, command: str) -> None:
    fetch(database, ADD, {"n": 1, "name": "Leblon"})
    for _ in range(3):
        assert fetch(database, ALL, {}) == [(1, "Leblon")]
        assert fetch(database, NAME, {"n": 1}) == ["Leblon"]
    with taken(database) as lean:
        for part in command.split("; "):
            lean.driver.execute(part.encode())
    expected = fetch(database, Statement("fresh", "SELECT * FROM beaches ORDER BY 1", tuple), {})
    for _ in range(3):
        assert fetch(database, ALL, {}) == expected
        assert fetch(database, NAME, {"n": 1}) == ["Leblon"]


def test_a_column_that_becomes_an_enum_is_read_as_text(database: Database) -> None:
    fetch(database, ADD, {"n": 1, "name": "BLUE"})
    for _ in range(3):
        assert fetch(database, ALL, {}) == [(1, "BLUE")]
    run_sql(database.address, "CREATE TYPE belt AS ENUM ('BLUE')")
    run_sql(database.address, "ALTER TABLE beaches ALTER COLUMN name TYPE belt USING name::belt")
    for _ in range(3):
        assert fetch(database, ALL, {}) == [(1, "BLUE")]


STALE = ["ALTER TABLE beaches ADD COLUMN city text", "ALTER TABLE beaches ALTER COLUMN id TYPE bigint"]


@pytest.mark.parametrize("command", [*STALE, "DEALLOCATE ALL", "DISCARD ALL"])
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "SERIALIZABLE"])
def test_a_stale_statement_that_opens_a_transaction_is_prepared_again(
    database: Database, command: str, isolation: Any
) -> None:
    shown = Statement("isolation", "SELECT current_setting('transaction_isolation')", value)
    fetch(database, ADD, {"n": 1, "name": "Leblon"})
    for _ in range(3):
        fetch(database, ALL, {})
    with taken(database) as lean:
        lean.driver.execute(command.encode())
    release_kept(database)
    with database.session() as session:
        session.connection(execution_options={"isolation_level": isolation})
        for _ in range(3):
            assert [row[:2] for row in fetch(session, ALL, {})] == [(1, "Leblon")]
        assert fetch(session, shown, {}) == [isolation.lower()]
        assert session.scalar(text("SELECT count(*) FROM beaches")) == 1


@pytest.mark.parametrize("command", STALE)
def test_a_stale_statement_later_in_a_transaction_fails_once_with_the_words_of_the_server(
    database: Database, command: str
) -> None:
    for _ in range(3):
        fetch(database, ALL, {})
    release_kept(database)
    run_sql(database.address, command)
    with database.session() as session:
        session.execute(text("SELECT 1"))
        with pytest.raises(NotSupportedError, match="cached plan"):
            fetch(session, ALL, {})
    with database.session.begin() as session:
        session.execute(text("SELECT 1"))
        assert fetch(session, ALL, {}) == []


@pytest.mark.parametrize("end", ["rollback", "drop"])
def test_statements_that_psycopg_deallocates_are_prepared_again_inside_a_transaction(
    database: Database, end: str
) -> None:
    run_sql(database.address, "CREATE TABLE lagoons (id integer)")
    for number in range(3):
        calls: list[Any] = [(ADD, {"n": number, "name": "x"}), (NAME, {"n": number})]
        fetch_all(database, calls)
    release_kept(database)
    with database.session() as session:
        for _ in range(8):
            # psycopg prepares it, and then deallocates all there are.
            session.execute(text("SELECT id FROM beaches WHERE id = :n"), {"n": 1})
            assert fetch(session, NAME, {"n": 1}) == ["x"]
        if end == "rollback":
            session.rollback()
        else:
            session.execute(text("DROP TABLE lagoons"))
        session.execute(text("SELECT 1"))
        for _ in range(3):
            assert fetch(session, NAME, {"n": 1}) == ["x"]
            assert fetch(session, NUMBER, {"n": 1}) == [1]
    calls = [(ADD, {"n": 9, "name": "y"}), (NAME, {"n": 9})]
    assert fetch_all(database, calls) == [[9], ["y"]]


@pytest.mark.parametrize("command", [*STALE, "DEALLOCATE ALL", "DISCARD ALL"])
def test_a_transaction_of_several_stale_statements_is_run_again(database: Database, command: str) -> None:
    one = Statement("one", "SELECT * FROM beaches WHERE id = %(n)s::INTEGER", tuple)

    def write(number: int) -> Any:
        calls: list[Any] = [
            (ADD, {"n": number, "name": "x"}),
            (ALL, {}),
            (one, {"n": 0}),
            (NAME, {"n": number}),
        ]
        return fetch_all(database, calls)

    for number in range(3):
        write(number)
    with taken(database) as lean:
        lean.driver.execute(command.encode())
    added, everything, [first], names = write(9)
    assert (added, len(everything), first[:2], names) == ([9], 4, (0, "x"), ["x"])


@pytest.mark.parametrize("sql", ["SELECT nothing", "SELECT 1 +", "SELECT lower(%(n)s, 1)", "SELECT 1 / %(n)s::INTEGER"])
def test_a_statement_that_fails_fails_each_time_and_harms_no_other(database: Database, sql: str) -> None:
    for _ in range(4):
        with pytest.raises(DBAPIError) as caught:
            fetch(database, Statement("wrong", sql, tuple), {"n": 0})
        assert isinstance(caught.value, ProgrammingError) or "zero" in str(caught.value)
        assert fetch(database, NUMBER, {"n": 5}) == [5]


# --- Answers ---------------------------------------------------------------------------------------------------------


def test_a_commit_that_fails_after_its_rows_came_is_an_error(database: Database) -> None:
    run_sql(database.address, "CREATE TABLE waves (beach integer REFERENCES beaches DEFERRABLE INITIALLY DEFERRED)")
    add = Statement("add", "INSERT INTO waves VALUES (%(n)s::INTEGER) RETURNING beach", value)
    for _ in range(3):
        with pytest.raises(IntegrityError, match="error 23503"):
            fetch(database, add, {"n": 1})
        with pytest.raises(IntegrityError, match="error 23503"):
            fetch_all(database, [(add, {"n": 1}), (add, {"n": 2})])
    assert fetch(database, Statement("count", "SELECT count(*) FROM waves", value), {}) == [0]
    fetch(database, ADD, {"n": 1, "name": "Leblon"})
    assert fetch(database, add, {"n": 1}) == [1]


def test_parameters_and_answers_larger_than_every_buffer_pass(database: Database) -> None:
    echo = Statement("echo", "SELECT %(a)s::text, repeat('y', 5000000), %(a)s::text", tuple)
    for size in (1_000, 3_000_000, 12_000_000):
        [(first, middle, last)] = fetch(database, echo, {"a": "x" * size})
        assert (len(first), len(middle), len(last)) == (size, 5_000_000, size)


def test_threads_get_their_own_answers(database: Database) -> None:
    fetch_all(database, [(ADD, {"n": number, "name": f"beach {number}"}) for number in range(50)])
    wrong = Statement("wrong", "SELECT 1 / (%(n)s::INTEGER - %(n)s::INTEGER)", value)

    def use(start: int) -> int:
        right = 0
        for number in range(start, start + 300):
            if number % 7 == 0:
                with pytest.raises(DBAPIError, match="division by zero"):
                    fetch(database, wrong, {"n": number})
            if number % 11 == 0:
                with database.session() as session:
                    right += fetch(session, NAME, {"n": number % 50}) == [f"beach {number % 50}"]
            else:
                right += fetch(database, NAME, {"n": number % 50}) == [f"beach {number % 50}"]
        return right

    with ThreadPoolExecutor(30) as pool:
        assert list(pool.map(use, range(30))) == [300] * 30


def test_a_connection_with_another_encoding_reads_and_writes_every_text_of_it(bare_address: URL) -> None:
    run_sql(bare_address, "CREATE TABLE beaches (id integer PRIMARY KEY, name text NOT NULL)")
    with Database(bare_address.update_query_dict({"client_encoding": "latin1"})) as database:
        for number in range(4):
            assert fetch(database, ADD, {"n": number, "name": "Praia do Forró é"}) == [number]
            assert fetch(database, NAME, {"n": number}) == ["Praia do Forró é"]


def test_an_encoding_that_a_session_sets_applies_to_queries_on_its_connection(database: Database) -> None:
    fetch(database, ADD, {"n": 1, "name": "Forró"})
    for _ in range(3):
        assert fetch(database, NAME, {"n": 1}) == ["Forró"]
    with taken(database) as lean:
        lean.driver.execute("SET client_encoding = latin1")
    assert fetch(database, NAME, {"n": 1}) == ["Forró"]


# --- Sessions --------------------------------------------------------------------------------------------------------


def test_queries_and_statements_of_a_session_share_its_transaction(database: Database) -> None:
    with database.session() as session:
        assert fetch(session, ADD, {"n": 1, "name": "Leblon"}) == [1]
        assert session.scalar(text("SELECT name FROM beaches")) == "Leblon"
        assert fetch(session, PID, {}) == [session.scalar(text("SELECT pg_backend_pid()"))]
        assert fetch(database, NAME, {"n": 1}) == []
        session.rollback()
        assert fetch(session, NAME, {"n": 1}) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ("read committed", "off", "off")),
        ({"isolation_level": "SERIALIZABLE"}, ("serializable", "off", "off")),
        ({"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}, ("repeatable read", "on", "off")),
        (
            {"isolation_level": "SERIALIZABLE", "postgresql_readonly": True, "postgresql_deferrable": True},
            ("serializable", "on", "on"),
        ),
    ],
)
def test_a_query_that_opens_the_transaction_gives_it_the_options_of_the_session(
    database: Database, options: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    shown = Statement(
        "options",
        "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only'),"
        " current_setting('transaction_deferrable')",
        tuple,
    )
    with database.engine.connect().execution_options(**options) as connection:
        assert fetch(connection, shown, {}) == [expected]


def test_a_query_on_a_connection_in_autocommit_commits(database: Database) -> None:
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        fetch(connection, ADD, {"n": 1, "name": "Leblon"})
    assert fetch(database, NAME, {"n": 1}) == ["Leblon"]


def test_a_failed_query_aborts_the_transaction_of_its_session_as_any_statement_does(database: Database) -> None:
    with database.session() as session:
        with pytest.raises(DBAPIError, match="division by zero"):
            fetch(session, Statement("zero", "SELECT 1 / 0", tuple), {})
        with pytest.raises(DBAPIError, match="current transaction is aborted"):
            fetch(session, NUMBER, {"n": 1})
        session.rollback()
        assert fetch(session, NUMBER, {"n": 1}) == [1]


# --- Kept connections ------------------------------------------------------------------------------------------------


def test_a_call_uses_the_connection_of_the_last_one(database: Database) -> None:
    assert len({fetch(database, PID, {})[0] for _ in range(5)}) == 1
    assert database.statistics().in_use == 0
    assert database.statistics().idle == 1


def test_a_session_gets_a_kept_connection_when_the_pool_is_full(bare_address: URL) -> None:
    with Database(bare_address, pool_size=1, pool_timeout_seconds=5) as database:
        for _ in range(3):
            [pid] = fetch(database, PID, {})
            with database.session() as session:
                assert session.scalar(text("SELECT pg_backend_pid()")) == pid
                assert not session.connection().connection.dbapi_connection.autocommit  # type: ignore[union-attr]
        for number in stream(database, NUMBER, {"n": 1}):
            assert number == 1


def test_sessions_and_queries_of_many_threads_share_a_small_pool(bare_address: URL) -> None:
    with Database(bare_address, pool_size=2, pool_timeout_seconds=30) as database:

        def use(number: int) -> int:
            right = 0
            for turn in range(60):
                if (number + turn) % 3:
                    right += fetch(database, NUMBER, {"n": turn}) == [turn]
                else:
                    with database.session() as session:
                        right += session.scalar(text("SELECT CAST(:n AS integer)"), {"n": turn}) == turn
            return right

        with ThreadPoolExecutor(12) as pool:
            assert list(pool.map(use, range(12))) == [60] * 12
        assert database.statistics().in_use == 0


@pytest.mark.parametrize("newcomer_is", ["a query", "a session"])
def test_a_newcomer_does_not_overtake_those_who_wait_for_a_connection(bare_address: URL, newcomer_is: str) -> None:
    with Database(bare_address, pool_size=1) as database, ThreadPoolExecutor(3) as pool:
        for _ in range(20):
            served: list[str] = []

            def use(name: str, served: list[str] = served) -> None:
                if name == "a session":
                    with database.session() as session:
                        session.execute(text("SELECT 1"))
                        served.append(name)
                else:
                    with taken(database):
                        served.append(name)

            with taken(database):
                waiting = []
                for number, name in enumerate(("a query", "a session", "a query"), 1):
                    waiting.append(pool.submit(use, name))
                    wait_for(partial(is_waiting, database, number))
            use(newcomer_is)
            assert served == ["a query", "a session", "a query", newcomer_is]
            assert [call.result(20) for call in waiting] == [None] * 3


def test_each_thread_gets_its_turn_where_they_outnumber_the_connections(bare_address: URL) -> None:
    done = [0] * 6
    with Database(bare_address, pool_size=2, pool_timeout_seconds=5) as database, ThreadPoolExecutor(6) as pool:

        def use(thread: int) -> None:
            # Each goes on until the slowest is done: a thread that is overtaken forever would end in a time-out.
            while min(done) < 200:
                fetch(database, NUMBER, {"n": 1})
                done[thread] += 1

        list(pool.map(use, range(6)))
    assert min(done) >= 200


def test_an_interrupted_wait_for_a_connection_gives_its_place_to_the_next(bare_address: URL) -> None:
    with Database(bare_address, pool_size=1) as database, ThreadPoolExecutor(1) as pool:
        with taken(database):
            with interrupted_after(0.2):
                fetch(database, NUMBER, {"n": 1})
            assert database.statistics().waiting == 0
            call = pool.submit(fetch, database, NUMBER, {"n": 2})
            wait_for(lambda: is_waiting(database, 1))
        assert call.result(20) == [2]


def test_close_ends_kept_connections_and_waits_for_calls(database: Database, bare_engine: Engine) -> None:
    slow = Statement("slow", "SELECT pg_sleep(0.5)", tuple)
    pid = fetch(database, PID, {})[0]
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(fetch, database, slow, {})
        wait_for(lambda: running(database.address, "pg_sleep(0.5)"))
        database.close()
        assert running(database.address, "pg_sleep(0.5)") == []
        assert call.result(20) == [("",)]
    with pytest.raises(DatabaseClosed):
        fetch(database, NUMBER, {"n": 1})
    with bare_engine.connect() as connection:
        ended = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
        wait_for(lambda: connection.scalar(ended, {"pid": pid}) == 0)


def test_an_engine_that_is_disposed_during_a_call_keeps_nothing_of_its_old_pool(database: Database) -> None:
    with taken(database) as lean:
        database.engine.dispose()
    assert lean.lent is None
    assert database.statistics().idle == 0
    assert fetch(database, NUMBER, {"n": 1}) == [1]
    assert database.statistics().idle == 1


# --- Interruptions and deadlines -------------------------------------------------------------------------------------


@contextmanager
def interrupted_after(seconds: float) -> Generator[None]:
    """Press Ctrl-C once, while the main thread waits."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupted_call_ends_its_statement_and_leaves_no_answer_behind(database: Database) -> None:
    [pid] = fetch(database, PID, {})
    for _ in range(3):
        with interrupted_after(0.2):
            fetch(database, SLEEP, {})
        assert running(database.address, "pg_sleep(60)") == []
        assert fetch(database, NUMBER, {"n": 3}) == [3]
    assert fetch(database, PID, {}) == [pid]


def test_an_interrupted_write_is_undone(database: Database) -> None:
    with interrupted_after(0.2):
        fetch(database, SLOW_ADD, {})
    with interrupted_after(0.2):
        fetch_all(database, [(ADD, {"n": 1, "name": "Leblon"}), (SLOW_ADD, {})])
    assert fetch(database, ALL, {}) == []


def test_a_session_goes_on_after_an_interrupted_query_and_a_rollback(database: Database) -> None:
    with database.session() as session:
        [pid] = fetch(session, PID, {})
        with interrupted_after(0.2):
            fetch(session, SLEEP, {})
        session.rollback()
        assert fetch(session, PID, {}) == [pid]


def test_a_call_past_its_deadline_is_ended_on_the_server(database: Database) -> None:
    [pid] = fetch(database, PID, {})
    for turn in range(3):
        with pytest.raises(DeadlineExceeded) as caught:
            fetch(database, SLEEP, {}, deadline_ms=500)
        assert (caught.value.name, caught.value.deadline_ms, caught.value.sent) == ("sleep", 500, True)
        assert caught.value.seconds >= 0.5
        assert running(database.address, "pg_sleep(60)") == []
        assert fetch(database, NUMBER, {"n": turn}, deadline_ms=10_000) == [turn]
    assert fetch(database, PID, {}) == [pid]


def test_a_write_past_its_deadline_is_undone(database: Database) -> None:
    with pytest.raises(DeadlineExceeded):
        fetch(database, SLOW_ADD, {}, deadline_ms=100)
    with pytest.raises(DeadlineExceeded):
        fetch_all(database, [(ADD, {"n": 1, "name": "Leblon"}), (SLOW_ADD, {})], deadline_ms=200)
    assert fetch(database, ALL, {}) == []


def test_a_statement_that_finishes_in_spite_of_the_cancel_is_a_success(database: Database) -> None:
    run_sql(
        database.address,
        """CREATE FUNCTION stubborn() RETURNS text LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep(60); RETURN 'slept'; EXCEPTION WHEN query_canceled THEN RETURN 'finished'; END $$""",
    )
    database.ping()
    assert fetch(database, Statement("stubborn", "SELECT stubborn()", value), {}, deadline_ms=1_000) == ["finished"]


def test_a_deadline_covers_the_wait_for_a_connection(bare_address: URL) -> None:
    with Database(bare_address, pool_size=1) as database:
        with database.engine.connect():
            with pytest.raises(DeadlineExceeded) as caught:
                fetch(database, NUMBER, {"n": 1}, deadline_ms=100)
            assert not caught.value.sent
        # The next wait is as long as the pool's own.
        assert fetch(database, NUMBER, {"n": 1}) == [1]


def test_a_session_goes_on_after_a_deadline_and_a_rollback(database: Database) -> None:
    with database.session() as session:
        [pid] = fetch(session, PID, {})
        with pytest.raises(DeadlineExceeded):
            fetch(session, SLEEP, {}, deadline_ms=100)
        session.rollback()
        assert fetch(session, PID, {}) == [pid]


@pytest.mark.parametrize("deadline_ms", [0, -1])
def test_a_deadline_is_positive(database: Database, deadline_ms: int) -> None:
    with pytest.raises(ValueError, match="from 1 to"):
        fetch(database, NUMBER, {"n": 1}, deadline_ms=deadline_ms)


# --- Lost connections ------------------------------------------------------------------------------------------------


def while_running(database: Database, part: str, call: Callable[[], Any], act: Callable[[int], None]) -> Any:
    """Act on the process that runs a call, and return the result of the call."""
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(call)
        [pid] = wait_for(lambda: running(database.address, part))
        act(pid)
        return result.result(30)


def test_a_read_whose_connection_is_lost_is_sent_again(database: Database) -> None:
    fetch(database, ADD, {"n": 1, "name": "Leblon"})
    read = Statement("read", "SELECT name FROM beaches, pg_sleep(0.7)", value, may_repeat=True)
    pids: list[int] = []

    def end(pid: int) -> None:
        pids.append(pid)
        kill(database.address, pid)

    for _ in range(3):
        assert while_running(database, "pg_sleep(0.7)", lambda: fetch(database, read, {}), end) == ["Leblon"]
    assert len(set(pids)) == 3


def test_a_read_that_loses_two_connections_fails(database: Database) -> None:
    def end_both(pid: int) -> None:
        kill(database.address, pid)
        [other] = wait_for(lambda: [found for found in running(database.address, "pg_sleep(60)") if found != pid])
        kill(database.address, other)

    with pytest.raises(ServerDisconnected, match="terminating connection"):
        while_running(database, "pg_sleep(60)", lambda: fetch(database, SLEEP, {}), end_both)
    assert fetch(database, NUMBER, {"n": 1}) == [1]


def test_a_write_whose_connection_is_lost_says_that_its_outcome_is_unknown(database: Database) -> None:
    with pytest.raises(OutcomeUnknown) as caught:
        while_running(
            database, "pg_sleep(60)", lambda: fetch(database, SLOW_ADD, {}), lambda pid: kill(database.address, pid)
        )
    assert caught.value.name == "slow add"
    assert fetch(database, ALL, {}) == []


def test_a_transaction_that_is_lost_before_its_commit_is_run_again(database: Database) -> None:
    slow = Statement("slow", "SELECT pg_sleep(0.7)", tuple)
    calls: list[Any] = [(ADD, {"n": 1, "name": "Leblon"}), (slow, {})]
    done = while_running(
        database, "pg_sleep(0.7)", lambda: fetch_all(database, calls), lambda pid: kill(database.address, pid)
    )
    assert done == [[1], [("",)]]
    assert fetch(database, ALL, {}) == [(1, "Leblon")]


def test_a_commit_whose_connection_is_lost_says_that_its_outcome_is_unknown(database: Database) -> None:
    run_sql(
        database.address,
        """CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON beaches DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION slowly()""",
    )
    calls: list[Any] = [(ADD, {"n": 1, "name": "Leblon"}), (NUMBER, {"n": 1})]
    with pytest.raises(OutcomeUnknown):
        while_running(database, "COMMIT", lambda: fetch_all(database, calls), lambda pid: kill(database.address, pid))


def test_a_copy_whose_connection_is_lost_says_that_its_outcome_is_unknown(database: Database) -> None:
    into: Statement[Any] = Statement("copy", "COPY beaches FROM STDIN", tuple, has_rows=False)

    def rows() -> Generator[tuple[int, str]]:
        for number in range(1_000_000):
            if number == 1_000:
                [pid] = wait_for(lambda: running(database.address, "COPY beaches"))
                kill(database.address, pid)
            yield number, "x" * 100

    with pytest.raises(OutcomeUnknown):
        copy(database, into, rows())
    assert fetch(database, ALL, {}) == []


def test_a_query_in_a_session_is_never_sent_again(database: Database) -> None:
    with database.session() as session, pytest.raises(DBAPIError, match="terminating connection") as caught:
        while_running(
            database, "pg_sleep(60)", lambda: fetch(session, SLEEP, {}), lambda pid: kill(database.address, pid)
        )
    assert caught.value.connection_invalidated


def test_a_connection_that_the_server_ended_while_it_was_idle_is_replaced(database: Database) -> None:
    for _ in range(3):
        [pid] = fetch(database, PID, {})
        kill(database.address, pid)
        wait_for(lambda: database_has_ended(database))
        assert fetch(database, ADD, {"n": pid, "name": "Leblon"}) == [pid]


def database_has_ended(database: Database) -> bool:
    kept = cast("DatabasePool", database.engine.pool).kept
    lean = kept.take()
    kept.keep(lean)
    return bool(lean.is_gone)


def test_calls_during_restarts_are_right_or_say_that_the_server_is_unavailable(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    run_sql(fresh_server.address.set(database="postgres"), f'CREATE DATABASE "{fresh_server.address.database}"')
    run_sql(fresh_server.address, "CREATE TABLE beaches (id integer PRIMARY KEY, name text NOT NULL)")
    stop = threading.Event()
    written: set[int] = set()
    unknown: set[int] = set()
    refused: set[int] = set()

    def wait_for_writes() -> None:
        before = len(written)
        wait_for(lambda: len(written) > before + 200)

    def use(database: Database, start: int) -> int:
        wrong = 0
        for number in range(start * 1_000_000, start * 1_000_000 + 1_000_000):
            if stop.is_set():
                return wrong
            try:
                wrong += fetch(database, NUMBER, {"n": number}) != [number]
                fetch(database, ADD, {"n": number, "name": "x"})
                written.add(number)
            except OutcomeUnknown:
                unknown.add(number)
            except DatabaseUnavailable:
                refused.add(number)
                time.sleep(0.01)
        return wrong

    with Database(fresh_server.address) as database, ThreadPoolExecutor(6) as pool:
        results = [pool.submit(use, database, number) for number in range(6)]
        for _ in range(3):
            wait_for_writes()
            fresh_server.stop()
            fresh_server.start()
        wait_for_writes()
        stop.set()
        assert [result.result() for result in results] == [0] * 6
        there = {row[0] for row in fetch(database, ALL, {})}
    assert written <= there
    assert there <= written | unknown
    assert not refused & there


def test_the_number_of_prepared_statements_is_that_of_the_connection(database: Database) -> None:
    # Guards the tests above: they look at the connection that calls use.
    for _ in range(3):
        fetch(database, NUMBER, {"n": 1})
    with taken(database) as lean:
        assert lean.lent is not None
        assert lean_connection(lean.lent) is lean
        assert [type(known) for known in lean._known.values()] == [Prepared]
