from __future__ import annotations

import json
import re
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


def test_counts_and_verify_agree_on_what_arrived(move: Run, arrived: URL) -> None:
    for command in ("counts", "verify"):
        done = move(command, DATABASE_URL=readable(arrived))
        assert (done.returncode, done.stderr) == (0, "")
        assert "notifications" in done.stdout
    told = json.loads(move("verify", "--json", DATABASE_URL=readable(arrived)).stdout)
    assert (told["equal"], told["hash"], len(told["tables"])) == (True, "hashtextextended", 11)


def test_counts_of_an_empty_target_differ_and_exit_with_3(move: Run) -> None:
    done = move("counts")
    assert done.returncode == 3
    assert re.search(r"^ +users +3 +0 +differ$", done.stdout, flags=re.MULTILINE)
    told = json.loads(move("counts", "--json").stdout)
    assert {"table": "users", "source": 3, "target": 0, "agrees": False} in told["tables"]


def test_verify_shows_both_values_and_exits_with_3(move: Run, arrived: URL) -> None:
    with psycopg.connect(readable(arrived)) as connection:
        connection.execute("UPDATE users SET email = NULL WHERE id = 1")
    done = move("verify", "users", DATABASE_URL=readable(arrived))
    assert done.returncode == 3
    assert "    email: 'ana@gym.example' in the source, NULL here\n" in done.stdout
    assert "ana@gym.example" not in done.stderr
    hidden = move("verify", "--max-differences", "0", DATABASE_URL=readable(arrived))
    assert "  and 1 more\n" in hidden.stdout
    assert "ana@gym.example" not in hidden.stdout


def test_a_table_that_is_not_ours_is_a_mistyped_one(move: Run) -> None:
    done = move("verify", "usres")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no table usres" in done.stderr
