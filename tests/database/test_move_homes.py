"""The home of each table: derived from both fences, and known to every command."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest
from sqlalchemy import URL, Engine
from tests.database.moves import ask, change

from tatame_db import move
from tatame_db.move.open import open_source_for_writing
from tatame_db.move.switch import fence, homes
from tatame_db.move.switch.homes import Home
from tatame_db.move.switch.token import make_token, token_hash, token_of
from tatame_db.schema import phases


@contextmanager
def writing(source: URL, engine: Engine) -> Generator[move.Connections]:
    """Open both databases for statements that write."""
    with move.open_for_writing(source, engine) as connections, open_source_for_writing(source) as opened:
        yield move.Connections(opened, connections.target)


def set_fences(connections: move.Connections, table: str, *, source: str, target: str) -> None:
    """Leave the fences of a table as a switch or a way back does."""
    hashed = token_hash(make_token(connections.target))
    changes = {"closed": fence.close, "opened": fence.open_}
    for connection, state in ((connections.source, source), (connections.target, target)):
        if state in changes:
            connection.driver.rollback()
            connection.pin_settings(for_transaction=True)
            changes[state](connection, [table], hashed)
            connection.driver.commit()


def found_homes(connections: move.Connections) -> dict[str, Home]:
    connections.source.driver.rollback()
    connections.source.pin_settings(for_transaction=True)
    return homes.homes(connections)


STATES = [
    ("absent", "absent", Home.SOURCE),
    ("absent", "closed", Home.SOURCE),
    ("opened", "closed", Home.SOURCE),
    ("closed", "closed", Home.NEITHER),
    ("closed", "opened", Home.TARGET),
    ("closed", "absent", Home.TARGET),
]


@pytest.mark.parametrize(("source", "target", "home"), STATES)
def test_the_fences_of_both_databases_tell_the_home(
    supabase: URL, engine: Engine, source: str, target: str, home: Home
) -> None:
    with writing(supabase, engine) as connections:
        set_fences(connections, "roles", source=source, target=target)
        assert found_homes(connections) == dict.fromkeys(phases(), Home.SOURCE) | {"roles": home}


@pytest.mark.parametrize("state", ["absent", "opened"])
def test_two_open_databases_after_a_switch_are_no_answer(supabase: URL, engine: Engine, state: str) -> None:
    with writing(supabase, engine) as connections:
        set_fences(connections, "roles", source=state, target="opened")
        with pytest.raises(homes.BothHomesOpen, match="roles"):
            found_homes(connections)


def test_a_source_that_moved_to_another_target_is_no_answer(supabase: URL, engine: Engine) -> None:
    with writing(supabase, engine) as connections:
        set_fences(connections, "roles", source="closed", target="opened")
        connections.target.execute("DELETE FROM tatame_move.token")
        with pytest.raises(homes.MovedElsewhere, match="roles"):
            found_homes(connections)


def test_an_optional_table_that_the_source_lacks_moves_with_the_target_alone(supabase: URL, engine: Engine) -> None:
    change(supabase, "DROP TABLE IF EXISTS attachments CASCADE")
    with writing(supabase, engine) as connections:
        set_fences(connections, "attachments", source="closed", target="closed")
        assert found_homes(connections)["attachments"] is Home.SOURCE
        set_fences(connections, "attachments", source="closed", target="opened")
        assert found_homes(connections)["attachments"] is Home.TARGET


def test_only_its_owner_reads_the_token(supabase: URL, engine: Engine) -> None:
    change(
        engine.url,
        "DO $$ BEGIN CREATE ROLE token_reader; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO token_reader, PUBLIC",
    )
    with writing(supabase, engine) as connections:
        token = make_token(connections.target)
        assert make_token(connections.target) == token_of(connections.target) == token
        readers = "SELECT DISTINCT grantee FROM information_schema.role_table_grants WHERE table_name = 'token'"
        assert ask(engine.url, readers) == [("postgres",)]
        connections.target.execute("SET ROLE token_reader")
        assert token_of(connections.target) is None
        connections.target.driver.rollback()
