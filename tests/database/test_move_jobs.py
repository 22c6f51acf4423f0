from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest
from sqlalchemy import URL, Engine
from tests.database.moves import Copy, ask, change, contents, copy_into, schema

from tatame_db import move
from tatame_db.move import jobs
from tatame_db.move.open import reopen
from tatame_db.schema import phases
from tatame_db.server.embedded import EmbeddedServer


@pytest.fixture
def copy(supabase: URL, engine: Engine) -> Copy:
    return copy_into(supabase, engine, jobs=3)


def test_all_jobs_see_one_moment_although_the_source_changes_before_they_start(
    copy: Copy, supabase: URL, engine: Engine, expected_target: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = schema(engine)
    done: list[str] = []

    def write_first(connections: move.Connections, snapshot: str) -> AbstractContextManager[move.Connections]:
        change(
            supabase,
            "UPDATE users SET email = 'later'; UPDATE notifications SET title = 'later'; DELETE FROM attachments;"
            " INSERT INTO checkins (id) SELECT max(id) + 1 FROM checkins; DELETE FROM graduations",
        )
        return reopen(connections, snapshot)

    monkeypatch.setattr(jobs, "reopen", write_first)
    report = copy(on_table=lambda table: done.append(table.table))
    assert contents(engine.url) == contents(expected_target)
    assert schema(engine) == before
    assert [table.table for table in report.tables] == list(phases())
    assert sorted(done) == sorted(phases())
    copy(accept_emptied=True)
    assert contents(engine.url) != contents(expected_target)


def test_all_jobs_use_the_server_of_the_first_connection(
    supabase: URL, engine: Engine, fresh_server: EmbeddedServer
) -> None:
    """Of two servers behind one address, each connection may reach another."""
    fresh_server.start()
    hosts = f"{supabase.query['host']},{fresh_server.address.query['host']}"
    several = supabase.update_query_dict({"host": hosts, "port": "5432,5432", "load_balance_hosts": "disable"})
    with move.open_for_writing(several, engine, lambda: None) as connections:
        pinned = connections.source.server_address
        assert (pinned.query["host"], "load_balance_hosts" in pinned.query) == (supabase.query["host"], False)
        assert move.copy(connections, jobs=3).tables


def test_a_job_without_a_connection_is_no_claim_that_nothing_was_changed(supabase: URL, engine: Engine) -> None:
    change(
        supabase,
        "DROP ROLE IF EXISTS reader",
        "CREATE ROLE reader LOGIN BYPASSRLS CONNECTION LIMIT 1",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
        "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO reader",
    )
    try:
        with pytest.raises(move.JobNotConnected, match="too many connections") as caught:
            copy_into(supabase.set(username="reader"), engine)(jobs=3)
    finally:
        change(supabase, "DROP OWNED BY reader", "DROP ROLE reader")
    assert "Nothing was changed" not in str(caught.value)
    assert "apply to new rows only" in caught.value.__notes__[0]


SLOW = """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(100); RETURN NEW; END';
    CREATE TRIGGER slow BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION slow();
"""


def test_a_failure_in_one_job_cancels_and_rolls_back_the_others(
    copy: Copy, engine: Engine, expected_target: URL
) -> None:
    before, wanted = schema(engine), contents(expected_target)
    change(
        engine.url,
        f"{SLOW} CREATE FUNCTION louder() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.title := upper(NEW.title); RETURN NEW; END';"
        "CREATE TRIGGER louder BEFORE INSERT ON assets FOR EACH ROW EXECUTE FUNCTION louder()",
    )
    with pytest.raises(move.CopyDiffers) as caught:
        copy()
    assert caught.value.table == "assets"
    now = contents(engine.url)
    # Otherwise the users, which all others wait for, would be there.
    assert (now["users"], now["assets"]) == ([], [])
    assert all(rows in ([], wanted[table]) for table, rows in now.items())
    change(engine.url, "DROP FUNCTION slow CASCADE; DROP FUNCTION louder CASCADE")
    assert set(schema(engine)) == set(before)
    copy()
    assert contents(engine.url) == wanted
    assert schema(engine) == before


def test_ctrl_c_while_the_jobs_are_started_rolls_back_those_that_have_begun(
    copy: Copy, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(engine.url, SLOW)
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"

    class InterruptedPool(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **options: Any) -> Any:
            if self._threads:
                while ask(engine.url, asleep) == [(0,)]:
                    time.sleep(0.05)
                raise KeyboardInterrupt
            return super().submit(*arguments, **options)

    monkeypatch.setattr(jobs, "ThreadPoolExecutor", InterruptedPool)
    with pytest.raises(KeyboardInterrupt):
        copy()
    assert ask(engine.url, "SELECT count(*) FROM users") == [(0,)]


def test_a_job_that_loses_the_source_reports_it(copy: Copy, supabase: URL) -> None:
    def cut(_: move.TableCopy) -> None:
        change(
            supabase.set(database="postgres"),
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            f" WHERE datname = '{supabase.database}' AND application_name = 'tatame-db move'",
        )

    with pytest.raises(move.ConnectionLost):
        copy(on_table=cut)
    copy()
