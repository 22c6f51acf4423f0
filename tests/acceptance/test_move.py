from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import URL

from tatame_db.database import readable

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def move(run: Run, supabase: URL, address: URL) -> Run:
    def move(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        named = {"SUPABASE_DB_URL": readable(supabase), "DATABASE_URL": readable(address)}
        return run("move", *arguments, **{**named, **variables})

    return move


def test_the_plan_of_a_living_project_is_whole(move: Run) -> None:
    done = move("plan")
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing stands in the way of 23 rows" in done.stdout
    told = json.loads(move("plan", "--json").stdout)
    assert told["whole"] is True
    assert [table["table"] for table in told["tables"]][:2] == ["roles", "versions"]


def test_the_plan_names_an_obstacle_and_exits_with_3(move: Run, supabase: URL) -> None:
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("UPDATE class SET start = '18:30:45' WHERE id = 1")
    done = move("plan")
    assert done.returncode == 3
    assert "class: start has seconds, and HH:MM has none: 1 rows, for example 1\n" in done.stdout
    assert "error: the move would not be whole: 1 obstacle" in done.stderr
    told = json.loads(move("plan", "--json").stdout)
    assert told["whole"] is False


def test_a_move_without_a_source_says_what_to_set(move: Run) -> None:
    done = move("plan", SUPABASE_DB_URL="")
    assert (done.returncode, done.stdout) == (1, "")
    assert "`SUPABASE_DB_URL` is not set" in done.stderr


def test_a_move_to_itself_is_refused(move: Run, address: URL) -> None:
    done = move("plan", SUPABASE_DB_URL=readable(address))
    assert (done.returncode, done.stdout) == (1, "")
    assert "the same database" in done.stderr
