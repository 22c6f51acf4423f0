"""Each command on a standby: it works, or says in words that the server takes no writes."""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest
from sqlalchemy import URL
from tests.conftest import run_sql
from tests.database.standbys import Pair, pair
from tests.database.test_rights import ARGUMENTS, ELSEWHERE, all_commands
from typer.testing import CliRunner

from tatame_db.cli import commands
from tatame_db.database.address import readable
from tatame_db.move.rehearsal.project import SUPABASE_SCHEMA
from tatame_db.testing.runs import Run

__all__ = ["pair"]

COMMANDS = [arguments for name, arguments in ARGUMENTS.items() if name != "start"]
"""Those that ask the database of the address; `start` starts a server of its own."""

READS = {"status", "check", "roles", "doctor", "move plan", "move status", "move rejects", "move counts", "move verify"}
NOTHING_TO_DO = {"migrate": "nothing to migrate", "push --yes": "nothing to push"}
"""They look first, and find that there is nothing to write."""


@pytest.fixture(scope="module")
def source(_tatame_run: Run) -> Generator[URL]:
    address = _tatame_run.sandbox.create()
    run_sql(address, SUPABASE_SCHEMA.read_text())
    yield address
    _tatame_run.sandbox.drop(str(address.database))


@pytest.mark.parametrize("arguments", [*COMMANDS, "roles --apply --yes", "distribute --yes"])
def test_a_command_on_a_standby_works_or_says_that_it_takes_no_writes(pair: Pair, source: URL, arguments: str) -> None:
    environment = {"DATABASE_URL": readable(pair.standby), "SUPABASE_DB_URL": readable(source)}
    done = CliRunner().invoke(commands.app, arguments.split(), env=environment, catch_exceptions=False)

    if arguments in READS or "--sql" in arguments:
        # 3 is an answer too: the check of a server of tests finds that it is not durable.
        assert done.exit_code in (0, 3), done.output
        assert "accepts no writes" not in done.output
    elif arguments in NOTHING_TO_DO:
        assert (done.exit_code, done.output.strip()) == (0, NOTHING_TO_DO[arguments])
    else:
        assert done.exit_code == 1
        assert "accepts no writes" in done.output
        assert "hint: write to the primary server" in done.output


def test_each_command_is_tried_on_a_standby() -> None:
    assert all_commands() <= ARGUMENTS.keys() | ELSEWHERE.keys()


def test_a_missing_primary_is_named_as_such(pair: Pair) -> None:
    for address in (
        "postgresql://postgres@127.0.0.1:1,127.0.0.1:2/tatame?target_session_attrs=read-write",
        readable(pair.address(pair.home, pair.home, attributes="read-write")),
    ):
        done = CliRunner().invoke(commands.app, ["migrate"], env={"DATABASE_URL": address})
        assert done.exit_code == 1
        assert f"error: none of the 2 hosts accepts writes at {address}: " in done.output
        assert "hint: wait and try again if a standby is being promoted" in done.output


def test_a_pending_migration_is_refused_on_a_standby(pair: Pair, add: Callable[..., str]) -> None:
    add(upgrade='op.execute("CREATE TABLE half_done ()")')
    done = CliRunner().invoke(commands.app, ["migrate"], env={"DATABASE_URL": readable(pair.standby)})
    assert done.exit_code == 1
    assert "accepts no writes" in done.output
