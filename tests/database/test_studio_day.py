"""The studio's part of the day: homes, followers, switches as they happen, and what a way back would name."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL
from tests.conftest import until
from tests.database.days import Day, day, drop_slots
from tests.database.moves import ask, change
from tests.database.test_progress import followed, sessions

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.database.pool import Database
from tatame_db.move.switch.errors import NotOpened
from tatame_db.move.switch.homes import Home
from tatame_db.move.switch.steps import Step
from tatame_db.move.switch.switch import switch
from tatame_db.schema import phases
from tatame_db.studio.access import Access, open_access

__all__ = ["day"]

Client = Any
Serve = Callable[..., Client]


@pytest.fixture
def client(day: Day, serve_studio: Serve) -> Client:
    """The studio of the target of the day, read-only, and with the source."""
    access = open_access(Database(day.engine.url), embedded=True, write=False)
    return serve_studio(access, lambda: day.source)


def homes(client: Client) -> dict[str, str]:
    return {table["table"]: table["home"] for table in client.get("/api/move")["tables"]}


def test_homes_and_followers_are_shown_and_the_overview_sums_them_up(day: Day, client: Client) -> None:
    # On one connection of the pool, which prepares what is run often.
    for _ in range(12):
        found = client.get("/api/move")
    assert (found["followers"], found["switches"], found["unfinished"]) == ([], [], [])
    assert client.get("/api/overview")["move"] is None
    with followed(day, Home.SOURCE) as lags:
        until(lambda: bool(lags) and bool(client.get("/api/move")["followers"][0]["points"]))
        [follower] = client.get("/api/move")["followers"]
        assert (follower["home"], follower["runs"], follower["rows"], follower["seconds"]) == ("source", True, 0, 0)
        [point, *_] = follower["points"]
        assert point["at"] < follower["until"]
        assert point["wal_bytes"] >= 0
        summary = client.get("/api/overview")["move"]
        assert (summary["moved"], summary["tables"], summary["unfinished"]) == (0, len(phases()), [])
        assert summary["followers"] == [{"home": "source", "rows": 0, "seconds": 0}]
    # A follower that ended is shown for a while, as what it was.
    until(lambda: not client.get("/api/move")["followers"][0]["runs"])
    switch(day.source, day.engine, ["users"])
    found = homes(client)
    assert [name for name, home in found.items() if home == "target"] == ["users"]
    summary = client.get("/api/overview")["move"]
    assert (summary["moved"], summary["followers"]) == (1, [])
    drop_slots(day.engine.url)


def test_the_steps_of_a_switch_arrive_as_events_while_it_runs(day: Day, client: Client) -> None:
    with closing(client.begin("/api/move/events")) as events:
        response = events.getresponse()

        def look(step: Step) -> None:
            while step in (Step.DRAIN, Step.CLEAN):
                line = response.readline()
                found = json.loads(line[6:])["switches"] if line.startswith(b"data: ") else []
                begun = [each["name"] for each in found[0]["steps"] if each["seconds"] is not None] if found else []
                if begun[-1:] == [step.name]:
                    assert found[0]["runs"]
                    return

        switch(day.source, day.engine, on_step=look)
    done = client.get("/api/move")["switches"][0]
    assert [step["text"] for step in done["steps"]] == [step.value for step in Step]
    assert [step["name"] for step in done["steps"] if step["stops_writers"]] == [
        "DRAIN",
        "PROVE",
        "NUMBER",
        "TRY",
        "RECORD",
        "COMMIT",
    ]
    assert (done["home"], done["runs"], done["problem"]) == ("target", False, None)
    assert done["report"]["pause_seconds"] > 0
    assert done["report"]["slot"].endswith("_back")
    assert set(homes(client).values()) == {"target"}
    drop_slots(day.engine.url)


def test_a_failed_switch_is_shown_with_the_three_parts_of_its_error(day: Day, client: Client) -> None:
    with pytest.raises(move.NothingToSwitch):
        switch(day.source, day.engine, ["users"], to=Home.SOURCE)
    [failed] = client.get("/api/move")["switches"]
    assert failed["tables"] == ["users"]
    assert failed["problem"]["what"].endswith("is the source already")
    assert failed["problem"]["means"] == "Nothing was changed."
    assert failed["problem"]["fix"].startswith("`tatame-db move status`")


@pytest.mark.parametrize("home", [Home.TARGET, Home.SOURCE])
def test_a_switch_that_ended_between_its_commits_leaves_tables_without_a_home(
    day: Day, client: Client, home: Home
) -> None:
    if home is Home.SOURCE:
        switch(day.source, day.engine)

    def lose(step: Step) -> None:
        if step is Step.OPEN:
            opening = day.engine.url if home is Home.TARGET else day.source
            change(
                opening,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND state ="
                " 'idle in transaction' AND pid <> pg_backend_pid()",
            )

    with pytest.raises(NotOpened):
        switch(day.source, day.engine, ["users", "gyms"], to=home, on_step=lose)
    day.engine.dispose()
    found = client.get("/api/move")
    assert sorted(found["unfinished"]) == ["gyms", "users"]
    assert sorted(client.get("/api/overview")["move"]["unfinished"]) == ["gyms", "users"]
    # With the source at hand it is certain.
    checked = client.get("/api/move/back")
    assert {name for name, where in checked["homes"].items() if where == "neither"} == {"users", "gyms"}
    switch(day.source, day.engine, ["users", "gyms"], to=home)
    assert client.get("/api/move")["unfinished"] == []
    drop_slots(day.engine.url)


def test_the_way_back_is_checked_without_a_trace(day: Day, client: Client) -> None:
    switch(day.source, day.engine)
    assert client.get("/api/move/back")["obstacles"] == []
    change(
        day.engine.url,
        "UPDATE class SET start = 'at eight' WHERE id = 1",
        "UPDATE users SET phone = 'new' WHERE id = 1",
    )
    fences = ask(day.source, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'tatame%'")
    checked = client.get("/api/move/back")
    [obstacle] = checked["obstacles"]
    assert (obstacle["table"], obstacle["rows"], obstacle["ids"]) == ("class", 1, ["1"])
    assert obstacle["choices"]
    assert checked["tried"] is False
    assert set(checked["homes"].values()) == {"target"}
    assert ask(day.source, "SELECT phone FROM users WHERE phone = 'new'") == []
    assert ask(day.source, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'tatame%'") == fences
    drop_slots(day.engine.url)


def test_one_check_of_the_way_back_runs_at_a_time_and_ends_with_its_client(day: Day, client: Client) -> None:
    switch(day.source, day.engine)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(readable(day.source)) as other:
        other.execute("LOCK public.users")
        with closing(client.begin("/api/move/back")):
            until(lambda: ask(day.source, waiting) == [(1,)])
            refused = client.ask("/api/move/back")
            assert (refused.status, refused.json["what"]) == (409, "the way back is being checked already")
        until(lambda: ask(day.source, waiting) == [(0,)])
    until(lambda: client.ask("/api/move/back").status == 200)
    drop_slots(day.engine.url)


def test_a_studio_that_ends_does_not_wait_for_the_check_of_the_way_back(day: Day, client: Client) -> None:
    switch(day.source, day.engine)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(readable(day.source)) as other:
        other.execute("LOCK public.users")
        with closing(client.begin("/api/move/back")) as checking:
            until(lambda: ask(day.source, waiting) == [(1,)])
            client.server.should_exit = True
            assert checking.getresponse().status == 503
        until(lambda: ask(day.source, waiting) == [(0,)])
    drop_slots(day.engine.url)


def test_without_a_source_the_check_says_which_setting_it_needs(day: Day, serve_studio: Serve) -> None:
    refused = serve_studio(open_access(Database(day.engine.url), embedded=True, write=False)).ask("/api/move/back")
    assert refused.status == 422
    assert "SUPABASE_DB_URL" in refused.json["fix"]


def test_no_password_of_the_source_is_sent(day: Day, serve_studio: Serve) -> None:
    access = open_access(Database(day.engine.url), embedded=True, write=False)
    wrong = URL.create("postgresql+psycopg", "postgres", "secret-of-the-source", "127.0.0.1", 1, "postgres")
    client = serve_studio(access, lambda: wrong)
    switch(day.source, day.engine)
    for path in ("/api/move/back", "/api/move", "/api/overview", "/api/session"):
        assert "secret-of-the-source" not in client.ask(path).text
    refused = client.ask("/api/move/back")
    assert (refused.status, refused.json["what"][:40]) == (422, "could not connect to the source at postg")
    drop_slots(day.engine.url)


def test_a_record_of_an_older_version_lacks_the_tables_of_the_day(day: Day, client: Client) -> None:
    assert ask(day.engine.url, "SELECT to_regclass('tatame_move.lag'), to_regclass('tatame_move.switches')") == [
        (None, None)
    ]
    found = client.get("/api/move")
    assert (found["ever"], found["followers"], found["switches"]) == (True, [], [])
    assert set(homes(client).values()) == {"source"}


def test_a_role_that_may_not_read_the_record_learns_which_right_it_lacks(day: Day, serve_studio: Serve) -> None:
    switch(day.source, day.engine, ["users"])
    role = "reader_of_the_day"
    change(day.engine.url, f"DROP ROLE IF EXISTS {role}", f"CREATE ROLE {role} LOGIN")
    change(day.engine.url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public, tatame_migrations TO {role}")
    change(day.engine.url, f"GRANT USAGE ON SCHEMA tatame_migrations TO {role}")
    try:
        client = serve_studio(Access(day.engine.url.set(username=role), role, write=False))
        refused = client.ask("/api/move")
        assert refused.status == 403
        assert refused.json["what"].startswith(f"the role {role} may not read the record of the move: it lacks USAGE")
        assert "token" not in refused.json["fix"]
        # The triggers of the tables are in the catalogue, which every role can read.
        assert client.get("/api/overview")["move"]["moved"] == 1
        [grants] = [part for part in refused.json["fix"].split("`") if part.startswith("GRANT")]
        change(day.engine.url, *grants.split("; "))
        assert client.get("/api/move")["ever"] is True
        assert sessions(day.engine.url) == []
        client.server.should_exit = True
    finally:
        until(lambda: ask(day.engine.url, f"SELECT FROM pg_stat_activity WHERE usename = '{role}'") == [])
        change(day.engine.url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
        drop_slots(day.engine.url)


def test_rows_that_the_copy_excluded_stay_named_after_a_switch(day: Day, client: Client) -> None:
    change(day.source, "UPDATE class SET start = '18:30:45' WHERE id = 1")
    day.copy(choices=move.Choices(misfits="null"), replace_rows=True)
    before = {table["table"]: table for table in client.get("/api/move")["tables"]}["class"]
    switch(day.source, day.engine)
    after = {table["table"]: table for table in client.get("/api/move")["tables"]}["class"]
    assert (before["nulled"], after["nulled"], after["rejected"]) == (1, 1, 0)
    assert after["differences"] == before["differences"] != []
    assert after["source_digest"] == after["target_digest"] != ""
    drop_slots(day.engine.url)
