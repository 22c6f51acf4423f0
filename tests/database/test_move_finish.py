"""The end of a move: every object of it is removed and named, and what cannot be removed does not stop the rest."""

from __future__ import annotations

from collections.abc import Generator

import psycopg
import pytest
from sqlalchemy import URL, Engine
from tests.conftest import on_both_versions
from tests.database.moves import ask, change, contents, copy_into, set_fences
from tests.database.test_move_homes import EVERYTHING

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.move.follow.slot import slot_name
from tatame_db.move.open import open_both_for_writing
from tatame_db.move.record import identity_of
from tatame_db.move.switch import fence, removal
from tatame_db.move.switch.finish import Finished, FinishIncomplete, KeysStillParked, finish
from tatame_db.move.switch.homes import Home, SwitchUnfinished, known_homes
from tatame_db.schema import phases

OBJECTS = """
SELECT tgname FROM pg_trigger WHERE tgname LIKE 'tatame%'
UNION ALL SELECT pubname FROM pg_publication
UNION ALL SELECT slot_name FROM pg_replication_slots WHERE database = current_database()
UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = to_regnamespace('tatame_move')
"""


@pytest.fixture
def slots(supabase: URL, engine: Engine) -> Generator[dict[str, str]]:
    """A slot and a publication in both databases, and their names."""
    with move.open_target(engine) as target:
        identity = identity_of(target)
    names = {home: slot_name(identity, home) for home in ("source", "target")}
    addresses = {"source": supabase, "target": engine.url}
    for database, name in names.items():
        change(
            addresses[database],
            f"CREATE PUBLICATION {name} FOR TABLE roles (id)",
            f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')",
        )
    yield names
    for address in addresses.values():
        drop = (
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
        )
        change(address, drop)


def finished(supabase: URL, engine: Engine) -> Finished:
    with open_both_for_writing(supabase, engine) as connections:
        return finish(connections)


def switched(supabase: URL, engine: Engine) -> None:
    """Leave the fences as after a switch of `roles`, with `users` following."""
    with open_both_for_writing(supabase, engine) as connections:
        set_fences(connections, "roles", source="closed", target="opened")
        set_fences(connections, "users", source="opened", target="closed")


@on_both_versions
def test_nothing_is_left_and_each_removal_is_named(supabase: URL, engine: Engine, slots: dict[str, str]) -> None:
    switched(supabase, engine)
    with move.open_for_reading(supabase, engine) as connections:
        forgotten = move.status(connections.target, connections.source).forgotten_slots
        assert {slot.name for slot in forgotten} >= {*slots.values()}
    before = contents(engine.url)
    found = finished(supabase, engine)
    assert (found.left, found.error, found.kept_rejects) == ([], None, 0)
    assert [(step.database, step.kind, step.name) for step in found.removed] == [
        ("source", "slot", slots["source"]),
        ("source", "publication", slots["source"]),
        ("target", "slot", slots["target"]),
        ("target", "publication", slots["target"]),
        ("target", "triggers", "roles"),
        ("target", "triggers", "users"),
        ("target", "function", "tatame_move.refuse_following"),
        ("source", "triggers", "roles"),
        ("source", "triggers", "users"),
        ("source", "function", "tatame_move.refuse_moved"),
        ("source", "schema", "tatame_move"),
        ("target", "record", "tatame_move.token"),
        ("target", "schema", "tatame_move"),
    ]
    assert found.stayed_at_source == [table for table in phases() if table != "roles"]
    for address in (supabase, engine.url):
        assert ask(address, OBJECTS) == []
        assert ask(address, "SELECT FROM pg_namespace WHERE nspname = 'tatame_move'") == []
    assert contents(engine.url) == before
    assert finished(supabase, engine).removed == []


@pytest.mark.usefixtures("slots")
def test_excluded_rows_are_kept_with_their_record(supabase: URL, engine: Engine) -> None:
    copy_into(supabase, engine, choices=EVERYTHING)()
    change(
        engine.url,
        "INSERT INTO tatame_move.rejects (run, source_identity, table_name, id, kind, reason, action)"
        " SELECT id, source_identity, 'users', '1', 'orphan', 'no gym', 'rejected' FROM tatame_move.runs",
    )
    rejects = ask(engine.url, "SELECT * FROM tatame_move.rejects")
    switched(supabase, engine)
    found = finished(supabase, engine)
    assert found.kept_rejects == len(rejects) > 0
    assert ask(engine.url, "SELECT * FROM tatame_move.rejects") == rejects
    assert ask(engine.url, "SELECT to_regclass('tatame_move.token')") == [(None,)]
    assert ask(engine.url, OBJECTS) == []


@pytest.mark.usefixtures("slots")
def test_what_cannot_be_removed_is_named_and_the_rest_is_removed(
    supabase: URL, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "RETRY_PAUSES_SECONDS", ())
    switched(supabase, engine)
    with psycopg.connect(readable(engine.url)) as reader:
        reader.execute("SELECT FROM roles")
        found = finished(supabase, engine)
        assert isinstance(found.error, FinishIncomplete)
        assert found.error.exit_code == 1
        assert [(step.database, step.name) for step in found.left] == [("target", "roles")]
        assert "triggers roles of the target: canceling statement due to lock timeout" in found.error.what
        # Its home is still known, so that no copy overwrites what was written to the target.
        with move.open_for_reading(supabase, engine) as connections:
            assert known_homes(connections.target, connections.source).homes["roles"] is Home.TARGET
    found = finished(supabase, engine)
    assert found.left == []
    assert ask(supabase, OBJECTS) == ask(engine.url, OBJECTS) == []


@pytest.mark.usefixtures("slots")
def test_an_interrupted_switch_is_not_finished(supabase: URL, engine: Engine) -> None:
    with open_both_for_writing(supabase, engine) as connections:
        set_fences(connections, "roles", source="closed", target="closed")
    with pytest.raises(SwitchUnfinished, match="roles"):
        finished(supabase, engine)
    assert len(ask(supabase, OBJECTS)) == len(ask(engine.url, OBJECTS)) == 5


@pytest.mark.usefixtures("slots")
def test_parked_keys_are_not_lost_with_the_record(supabase: URL, engine: Engine) -> None:
    copy_into(supabase, engine, choices=EVERYTHING)()
    change(
        engine.url,
        "INSERT INTO tatame_move.parked (kind, table_name, name, definition) VALUES ('index', 'users', 'i', 'd')",
    )
    with pytest.raises(KeysStillParked, match=r"users\.i"):
        finished(supabase, engine)


@pytest.mark.usefixtures("slots")
def test_triggers_of_another_target_stay(supabase: URL, engine: Engine) -> None:
    with open_both_for_writing(supabase, engine) as connections:
        set_fences(connections, "roles", source="opened", target="closed")
        connections.source.pin_settings(for_transaction=True)
        fence.open_(connections.source, ["users"], "0" * 64)
        connections.source.driver.commit()
    assert finished(supabase, engine).left == []
    assert ask(supabase, "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger WHERE tgname LIKE 'tatame%'") == [
        ("users",)
    ]
