from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tatame_db import move
from tatame_db.cli.move import rehearse_
from tatame_db.move import digest, rehearsal

COMMAND = Path(sys.executable).with_name("tatame-db")
Run = Callable[..., subprocess.CompletedProcess[str]]
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def rehearse(run: Run, directory: Path) -> Run:
    """Rehearse with few rows, and with nothing but a directory for what is temporary."""
    return lambda *arguments: run("move", "rehearse", "--rows", "1000", *arguments, TMPDIR=str(directory))


@pytest.mark.long
def test_a_rehearsal_ends_as_it_has_to_and_leaves_nothing(rehearse: Run, directory: Path) -> None:
    done = rehearse()
    assert (done.returncode, done.stderr) == (0, "starting a PostgreSQL of its own for the rehearsal\n")
    steps = re.findall(r"^ *[0-9.]+ s  ([a-z ]+): ", done.stdout, flags=re.MULTILINE)
    assert (len(steps), steps[0], steps[-1]) == (12, "a project", "verify at the end")
    assert "verify names it: users, id 7, email" in done.stdout
    assert done.stdout.endswith(" s  all of it, and every step ended as it has to\n")
    assert list(directory.iterdir()) == []


def test_the_command_that_deletes_what_was_kept_works_wherever_it_is_pasted(
    rehearse: Run, environment: dict[str, str], directory: Path, tmp_path: Path
) -> None:
    another = "postgresql://ana@127.0.0.1:1/other"
    (tmp_path / ".env").write_text(f"DATABASE_URL={another}\nTATAME_ENV=production\n")
    done = rehearse("--keep")
    assert done.returncode == 0, done.stderr
    [command] = re.findall("^both go with `(.*)`$", done.stdout, flags=re.MULTILINE)
    there = {"PATH": f"{COMMAND.parent}:{environment['PATH']}", "TMPDIR": str(directory)}
    given = {"DATABASE_URL": another, "TATAME_ENV": "production"}
    gone = subprocess.run(
        ["sh", "-c", command],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment | there | given,
    )
    assert gone.returncode == 0, gone.stderr
    assert list(directory.iterdir()) == []


@pytest.mark.long
def test_what_a_rehearsal_kept_can_be_looked_at_and_deleted(run: Run, rehearse: Run, directory: Path) -> None:
    done = rehearse("--keep", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["as_expected"], {step["as_expected"] for step in told["steps"]}) == (True, {True})
    for address, query in (
        (told["source"], "SELECT count(*) FROM payments"),
        (told["target"], "TABLE tatame_move.runs"),
    ):
        with psycopg.connect(address) as connection:
            assert connection.execute(query).fetchone()
    assert run("move", "status", TATAME_DATA_DIR=told["directory"], TMPDIR=str(directory)).returncode == 0
    assert run("down", "--yes", TATAME_DATA_DIR=told["directory"], TMPDIR=str(directory)).returncode == 0
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("options", [[], ["--keep"]], ids=["usual", "keep"])
def test_a_rehearsal_that_is_interrupted_leaves_nothing(
    environment: dict[str, str], directory: Path, options: list[str]
) -> None:
    rehearsing = subprocess.Popen(
        [COMMAND, "move", "rehearse", "--rows", "100000", *options],
        env=environment | {"TMPDIR": str(directory), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert rehearsing.stdout
    assert "a project" in rehearsing.stdout.readline()
    rehearsing.send_signal(signal.SIGINT)
    _, words = rehearsing.communicate(timeout=60)
    assert (rehearsing.returncode, "interrupted" in words) == (130, True)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    ("broken", "step"),
    [
        # What the rehearsal waits for does not come true, and a failure that explains itself.
        ((rehearsal, "CHANGED", {"users"}), "copy what changed"),
        ((digest, "HASHES", {"broken": "hashtextextended(TEXT, pg_backend_pid())"}), "copy"),
    ],
)
def test_a_step_that_goes_wrong_is_named_and_ends_the_rehearsal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: tuple[Any, str, Any], step: str
) -> None:
    monkeypatch.setattr(*broken)
    with pytest.raises(move.RehearsalFailed, match=f"the step `{step}` did not end") as caught:
        rehearse_(rows=1_000)
    assert caught.value.exit_code == 3
    shown = capsys.readouterr().out.splitlines()
    assert f" s  {step}: " in shown[-1]
    assert "every step ended" not in shown[-1]


def test_each_obstacle_of_the_page_is_met_in_a_rehearsal() -> None:
    page = (DOCS / "leave-supabase.md").read_text()
    assert set(re.findall(r"^\| `([a-z-]+)` \|", page, flags=re.MULTILINE)) == rehearsal.OBSTACLES
