"""What people and other programs do to a move of some tables: it goes on, or says what to do, and loses nothing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import URL
from tests.conftest import on_both_versions
from tests.database.days import Day, assert_equal, day, drop_slots
from tests.database.moves import ask, change
from tests.database.test_switch import homes_of, raise_at, slot_name_of, takes_writes

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.move.follow.errors import ObjectsRefused
from tatame_db.move.switch.homes import BothHomesOpen, Home
from tatame_db.move.switch.steps import Step
from tatame_db.move.switch.switch import switch

__all__ = ["day"]

CHILDREN = ["checkins"]


@pytest.fixture
def moved(day: Day) -> Generator[Day]:
    """A move of which one table has its home on the target, and its parents on the source."""
    switch(day.source, day.engine, CHILDREN)
    yield day
    drop_slots(day.engine.url)


@pytest.mark.parametrize("home", [Home.TARGET, Home.SOURCE])
def test_a_name_that_is_no_table_is_refused_among_others(day: Day, home: Home) -> None:
    with pytest.raises(move.TableUnknown, match="there is no table chekins"):
        switch(day.source, day.engine, ["users", "chekins"], to=home)
    assert homes_of(day) == {Home.SOURCE}


def test_only_the_named_tables_are_said_to_be_there_already(moved: Day) -> None:
    with pytest.raises(move.NothingToSwitch, match=r"^the home of checkins is the target already"):
        switch(moved.source, moved.engine, CHILDREN)
    with pytest.raises(move.NothingToSwitch, match=r"^the home of users is the source already"):
        switch(moved.source, moved.engine, ["users"], to=Home.SOURCE)


def test_a_source_that_was_opened_by_hand_is_closed_again_by_a_switch(moved: Day) -> None:
    change(
        moved.source, "ALTER TABLE checkins DISABLE TRIGGER tatame_move_moved, DISABLE TRIGGER tatame_move_moved_row"
    )
    for way in (Home.SOURCE, Home.TARGET):
        with pytest.raises(BothHomesOpen):
            switch(moved.source, moved.engine, to=way, dry_run=way is Home.TARGET)
    report = switch(moved.source, moved.engine, CHILDREN)
    assert (report.closed_again, report.tables) == (CHILDREN, [])
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        change(moved.source, "DELETE FROM checkins")
    change(
        moved.source, "ALTER TABLE checkins DISABLE TRIGGER tatame_move_moved, DISABLE TRIGGER tatame_move_moved_row"
    )
    report = switch(moved.source, moved.engine)
    assert report.closed_again == CHILDREN
    assert "users" in [table.table for table in report.tables]
    assert homes_of(moved) == {Home.TARGET}


@contextlib.contextmanager
def event_trigger(source: URL) -> Generator[None]:
    change(
        source,
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'secret'; END $$",
        "CREATE EVENT TRIGGER refuse ON ddl_command_end EXECUTE FUNCTION refuse()",
    )
    try:
        yield
    finally:
        change(source, "DROP EVENT TRIGGER refuse")


def test_an_event_trigger_that_refuses_changes_of_the_schema_is_named(day: Day) -> None:
    with event_trigger(day.source):
        for run in (lambda: day.follow(once=True), lambda: switch(day.source, day.engine)):
            with pytest.raises(ObjectsRefused) as caught:
                run()
            assert "raised by the function public.refuse()" in str(caught.value)
            assert "secret" not in str(caught.value)
        assert takes_writes(day.source)


def test_a_parent_that_is_deleted_while_a_child_of_it_is_written_to_the_other_home(moved: Day) -> None:
    valid = "SELECT convalidated FROM pg_constraint WHERE conname = 'checkins_class_id_class_id_fk'"
    change(moved.source, "INSERT INTO class (id) VALUES (77)")
    with moved.following() as steps:
        steps.until_applied()
        change(moved.engine.url, "INSERT INTO checkins (id, class_id) VALUES (900, 77)")
        change(moved.source, "DELETE FROM class WHERE id = 77")
        for _ in range(2):
            with pytest.raises(move.RowsStillReferenced, match="to class, for example to the id 77"):
                steps.run()
            assert ask(moved.engine.url, valid) == [(True,)]
            assert ask(moved.engine.url, "SELECT class_id FROM checkins WHERE id = 900") == [(77,)]
        change(moved.engine.url, "DELETE FROM checkins WHERE id = 900")
        steps.until_applied()
    assert_equal(moved.source, moved.engine.url)


def test_a_switch_that_fails_leaves_the_way_back_of_what_has_moved(moved: Day) -> None:
    slots = "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()"
    publications = "SELECT pubname::text FROM pg_publication"
    before = ask(moved.engine.url, slots)
    with pytest.raises(KeyboardInterrupt):
        switch(moved.source, moved.engine, ["users"], on_step=raise_at(Step.PROVE, KeyboardInterrupt()))
    assert ask(moved.engine.url, slots) == ask(moved.engine.url, publications) == before
    change(moved.engine.url, "UPDATE checkins SET date = '2026-11-27' WHERE id = 1")
    move.follow_target(moved.source, moved.engine, move.FollowOptions(once=True, keep_slot=True))
    assert ask(moved.source, "SELECT date::text FROM checkins WHERE id = 1") == [("2026-11-27",)]
    with psycopg.connect(readable(moved.source)) as source:
        source.execute("UPDATE users SET phone = 'x' WHERE id = 1")


def test_a_missing_index_does_not_block_the_way_back(moved: Day) -> None:
    change(moved.engine.url, "DROP INDEX checkins_user_id_date_index")
    with pytest.raises(move.KeysMissing, match="create what is missing"):
        switch(moved.source, moved.engine)
    switch(moved.source, moved.engine, to=Home.SOURCE)
    with pytest.raises(move.KeysMissing, match="run `tatame-db move copy`"):
        switch(moved.source, moved.engine)


def test_ctrl_c_after_both_commits_does_not_claim_that_anything_was_undone(day: Day) -> None:
    report = switch(day.source, day.engine, on_step=raise_at(Step.CLEAN, KeyboardInterrupt()))
    assert (report.is_interrupted, report.left) == (True, [f"the slot {slot_name_of(day)}, because of an interrupt"])
    assert homes_of(day) == {Home.TARGET}
    drop_slots(day.source)
    drop_slots(day.engine.url)


@pytest.mark.parametrize("back", [False, True])
def test_a_second_process_that_follows_in_one_direction_is_refused(moved: Day, back: bool) -> None:
    follow = move.follow_target if back else move.follow_source

    other = move.follow_source if back else move.follow_target
    options, began = move.FollowOptions(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(follow, moved.source, moved.engine, options, lambda _: began.set())
        try:
            assert began.wait(60)
            with pytest.raises(move.FollowRuns, match=r"--back. runs" if back else r"follow. runs") as caught:
                follow(moved.source, moved.engine)
            assert caught.value.process is not None
            other(moved.source, moved.engine, move.FollowOptions(once=True))
        finally:
            options.stop.set()
        first.result(60)
    follow(moved.source, moved.engine, move.FollowOptions(once=True))


def test_a_crash_cannot_undo_that_the_old_home_is_closed(day: Day) -> None:
    change(day.source, f'ALTER DATABASE "{day.source.database}" SET synchronous_commit = off')
    for home in (Home.TARGET, Home.SOURCE):
        old = day.engine.url if home is Home.SOURCE else day.source
        before: list[str] = []

        def look(step: Step, old: URL = old, before: list[str] = before) -> None:
            if step is Step.COMMIT:
                [(position,)] = ask(old, "SELECT pg_current_wal_insert_lsn()::text")
                before.append(position)
            elif step is Step.OPEN:
                assert ask(old, f"SELECT pg_current_wal_flush_lsn() > '{before[0]}'") == [(True,)]

        switch(day.source, day.engine, to=home, on_step=look)
        assert before
    drop_slots(day.engine.url)
    drop_slots(day.source)


@on_both_versions
def test_the_role_of_a_project_and_a_session_pooler_are_enough_for_the_way_there_and_back(
    day: Day, pooler: Callable[..., URL]
) -> None:
    role = f"project_{day.source.database}"
    tables = [name for (name,) in ask(day.source, "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")]
    change(
        day.source,
        f"CREATE ROLE {role} LOGIN NOSUPERUSER BYPASSRLS REPLICATION",
        f"ALTER DATABASE {day.source.database} OWNER TO {role}",
        *(
            f'ALTER TABLE "{table}" OWNER TO {role}; ALTER TABLE "{table}" ENABLE ROW LEVEL SECURITY'
            for table in tables
        ),
        "CREATE SCHEMA audit; CREATE TABLE audit.noted (tag text)",
        "CREATE FUNCTION note() RETURNS event_trigger SECURITY DEFINER LANGUAGE plpgsql"
        " AS $$ BEGIN INSERT INTO audit.noted VALUES (tg_tag); END $$",
        "CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION note()",
    )
    through = pooler(day.source.set(username=role), pool_mode="session", default_pool_size=8)
    try:
        for home, old, new in ((Home.TARGET, day.source, day.engine.url), (Home.SOURCE, day.engine.url, day.source)):
            change(old, f"UPDATE users SET phone = 'at {home}' WHERE id = 1")
            report = switch(through, day.engine, to=home)
            assert (report.no_slot_because, report.left) == (None, [])
            assert (takes_writes(old), takes_writes(new)) == (False, True)
            assert_equal(day.source, day.engine.url)
        assert ("CREATE TRIGGER",) in ask(day.source, "SELECT tag FROM audit.noted")
    finally:
        drop_slots(day.source)
        drop_slots(day.engine.url)
        change(day.source, f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}")
