"""Sessions, locks and slow statements as different roles see them, and statements that are cancelled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from threading import Thread
from typing import Any, Self

import psycopg
import pytest
from sqlalchemy import URL
from tests.conftest import until
from tests.database.roles import Roled, with_roles

from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.studio.access import Access
from tatame_db.testing.runs import Run

Client = Any
SECRET = "ana.silva@example.com"


@pytest.fixture
def roled(_tatame_run: Run) -> Generator[Roled]:
    with with_roles(_tatame_run.clone()) as roled:
        yield roled


class Session:
    """A session with a statement that runs in the background; it ends with the block."""

    def __init__(self, address: URL, name: str) -> None:
        self.connection = psycopg.connect(readable(address), application_name=name)
        self.pid = self.connection.info.backend_pid
        self.error: Exception | None = None
        self._running: Thread | None = None

    def start(self, statement: str) -> None:
        self._running = Thread(target=self._run, args=(statement,))
        self._running.start()

    def _run(self, statement: str) -> None:
        try:
            self.connection.execute(statement.encode())
        except psycopg.Error as error:
            self.error = error

    def join(self) -> None:
        if self._running:
            self._running.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.cancel_safe()
        self.join()
        self.connection.close()


def activity(client: Client, pid: int) -> Any:
    return {session["pid"]: session for session in client.get("/api/activity")}.get(pid)


def cancel(client: Client, session: Any) -> Any:
    return client.ask("/api/activity/cancel", {"pid": session["pid"], "started": session["started"]})


def test_the_page_shows_who_waits_for_whom_and_cancels_only_what_it_may(
    roled: Roled, serve_studio: Callable[..., Client], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    roled.apply()
    role = roled.role("GRANT {app} TO {role}")
    client = serve_studio(Access(roled.at(role), role, write=True))
    with (
        Session(roled.at(role), "holder") as holder,
        Session(roled.at(role), "waiter") as waiter,
        Session(roled.address, "of the superuser") as superuser,
    ):
        holder.connection.execute("LOCK TABLE gyms IN SHARE MODE")
        waiter.start(f"UPDATE gyms SET name = '{SECRET}'")
        superuser.connection.execute("SELECT 1")
        until(lambda: activity(client, waiter.pid)["blockers"] == [holder.pid])

        held, waits, hidden = (activity(client, session.pid) for session in (holder, waiter, superuser))
        assert (held["state"], held["blockers"], held["application"]) == ("idle in transaction", [], "holder")
        assert waits["lock"] == "RowExclusiveLock on gyms"
        assert SECRET in waits["statement"]
        assert (hidden["visible"], hidden["statement"], hidden["state"]) == (False, None, None)
        assert [session["own"] for session in (held, waits, hidden)] == [False, False, False]

        refused = cancel(client, hidden)
        assert refused.status == 403
        assert "only a superuser may cancel" in refused.json["fix"]
        # The holder runs no statement, and the number may belong to a later session.
        assert cancel(client, held).json == {"cancelled": False}
        assert cancel(client, waits | {"started": hidden["started"]}).json == {"cancelled": False}
        assert cancel(client, waits).json == {"cancelled": True}
        waiter.join()
        assert isinstance(waiter.error, psycopg.errors.QueryCanceled)
    assert SECRET not in caplog.text
    client.server.should_exit = True


def test_a_right_to_cancel_is_named_and_works(roled: Roled, serve_studio: Callable[..., Client]) -> None:
    role, other = roled.role(), roled.role()
    client = serve_studio(Access(roled.at(role), role, write=True))
    with Session(roled.at(other), "other") as session:
        session.start("SELECT pg_sleep(600)")
        until(lambda: roled.ask(f"SELECT FROM pg_stat_activity WHERE pid = {session.pid} AND state = 'active'"))
        refused = cancel(client, activity(client, session.pid)).json
        [grant] = [part for part in refused["fix"].split("`") if part.startswith("GRANT")]
        roled.run(grant)
        assert cancel(client, activity(client, session.pid)).json == {"cancelled": True}
    client.server.should_exit = True


def test_the_studio_cancels_nothing_of_its_own_and_nothing_in_read_only_mode(
    roled: Roled, serve_studio: Callable[..., Client]
) -> None:
    role = roled.role()
    reading = serve_studio(Access(roled.at(role), role, write=False))
    writing = serve_studio(Access(roled.at(role), role, write=True))
    running = writing.begin("/api/sql", {"id": "a", "tab": "a", "text": "SELECT pg_sleep(600)"})
    try:
        until(lambda: sleeping(writing))
        session = sleeping(writing)
        assert session["own"] is True
        refused = cancel(writing, session)
        assert (refused.status, "belongs to this studio" in refused.json["what"]) == (409, True)
        assert cancel(reading, session).status == 403
        assert sleeping(writing)
    finally:
        writing.ask("/api/sql/cancel", {"id": "a"})
        running.close()
    for client in (reading, writing):
        client.server.should_exit = True


def sleeping(client: Client) -> Any:
    found = [session for session in client.get("/api/activity") if "pg_sleep" in (session["statement"] or "")]
    return found[0] if found else None


def test_slow_statements_say_how_to_record_them(roled: Roled, serve_studio: Callable[..., Client]) -> None:
    role = roled.role()
    client = serve_studio(Access(roled.at(role), role, write=False))
    found = client.get("/api/activity/statements")
    assert found["statements"] == []
    assert "shared_preload_libraries" in found["advice"]
    assert "CREATE EXTENSION pg_stat_statements" in found["advice"]
    client.server.should_exit = True


def test_recorded_statements_are_sorted_by_their_total_time(
    fresh_server: EmbeddedServer, serve_studio: Callable[..., Client]
) -> None:
    fresh_server.start()
    create_missing_database(fresh_server.address)
    server = Roled(fresh_server.address)
    role = server.role()
    client = serve_studio(Access(server.at(role), role, write=False))

    def commands() -> list[str]:
        advice = client.get("/api/activity/statements")["advice"] or ""
        return [part for part in advice.split("`") if part.startswith(("ALTER", "CREATE", "GRANT"))]

    alter, create = commands()
    server.run(alter)
    fresh_server.stop()
    fresh_server.start()
    assert commands() == [create]
    server.run(create, "REVOKE SELECT ON pg_stat_statements FROM PUBLIC")
    [grants] = commands()
    server.run(grants)
    server.ask("SELECT count(*) FROM generate_series(1, 100000)")
    found = client.get("/api/activity/statements")
    assert found["advice"] is None
    totals = [statement["total_ms"] for statement in found["statements"]]
    assert totals == sorted(totals, reverse=True)
    # Those of other roles are counted, and their texts are not shown.
    assert {statement["statement"] is None for statement in found["statements"]} == {True, False}
    client.server.should_exit = True
