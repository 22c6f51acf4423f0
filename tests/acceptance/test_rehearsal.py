from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.acceptance.test_leave_supabase import REHEARSAL, pattern

from tatame_db.cli.move import rehearse_
from tatame_db.move import digest
from tatame_db.move.rehearsal import copies, day
from tatame_db.move.rehearsal import run as rehearsal
from tatame_db.move.rehearsal.day import Day
from tatame_db.move.rehearsal.project import connect
from tatame_db.move.rehearsal.run import RehearsalFailed
from tatame_db.move.switch.steps import Step
from tatame_db.move.switch.switch import switch

COMMAND = Path(sys.executable).with_name("tatame-db")
Run = Callable[..., subprocess.CompletedProcess[str]]
README = Path(__file__).parents[2] / "README.md"
DOCS = README.parent / "docs"


@pytest.fixture
def rehearse(invoke: Run, directory: Path) -> Run:
    """Rehearse in this process, with few rows and with a temporary directory of its own."""
    return lambda *arguments: invoke("move", "rehearse", "--rows", "1000", *arguments, TMPDIR=str(directory))


@pytest.mark.long
def test_a_rehearsal_passes_prints_what_the_page_shows_and_leaves_nothing_behind(run: Run, directory: Path) -> None:
    # Too long for a socket. The variables are meant for other databases.
    temporary = directory / ("x" * 120)
    temporary.mkdir()
    temporary.chmod(0o755)
    others = {"PGSERVICE": "other", "PGOPTIONS": "-c search_path=other", "PGSSLMODE": "verify-full", "PGPORT": "1"}
    done = run("move", "rehearse", "--rows", "1000", TMPDIR=str(temporary), **others)
    assert (done.returncode, done.stderr) == (0, "starting a temporary PostgreSQL for the rehearsal\n")
    _, shown = REHEARSAL
    assert re.fullmatch(pattern(shown), done.stdout.rstrip("\n")), done.stdout
    [in_readme] = [block for block in README.read_text().split("```") if "all steps passed" in block]
    assert re.fullmatch(pattern(shown), in_readme.removeprefix("text\n").rstrip("\n"))
    assert list(temporary.iterdir()) == []


@pytest.mark.long
def test_a_kept_rehearsal_can_be_inspected_and_deleted_by_its_command_in_any_directory(
    invoke: Run, rehearse: Run, environment: dict[str, str], directory: Path, tmp_path: Path
) -> None:
    done = rehearse("--keep")
    assert done.returncode == 0, done.stderr
    source, target = re.findall(r"^(?:source|target) +(postgresql\S+)", done.stdout, flags=re.MULTILINE)
    for address, query in (
        (source, "SELECT count(*) FROM legacy_payments"),
        (target, "SELECT FROM tatame_move.rejects"),
    ):
        with psycopg.connect(address) as connection:
            assert connection.execute(query).fetchone() is not None
    [command] = re.findall("^delete both with `(.*)`$", done.stdout, flags=re.MULTILINE)
    [kept] = re.findall(r"TATAME_DATA_DIR=(\S+)", command)
    assert invoke("move", "status", TATAME_DATA_DIR=kept, TMPDIR=str(directory)).returncode == 0
    another = "postgresql://ana@127.0.0.1:1/other"
    (tmp_path / ".env").write_text(f"DATABASE_URL={another}\nTATAME_ENV=production\n")
    paths = {"PATH": f"{COMMAND.parent}:{environment['PATH']}", "TMPDIR": str(directory)}
    developer = {"DATABASE_URL": another, "TATAME_ENV": "production"}
    deleted = subprocess.run(
        ["sh", "-c", command],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment | paths | developer,
    )
    assert deleted.returncode == 0, deleted.stderr
    assert list(directory.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("last", "options"),
    [("follow a living source", ["--rows", "1000"]), ("create a project", ["--rows", "100000", "--keep"])],
    ids=["usual", "keep"],
)
def test_an_interrupted_rehearsal_leaves_nothing_behind(
    environment: dict[str, str], directory: Path, last: str, options: list[str]
) -> None:
    rehearsing = subprocess.Popen(
        [COMMAND, "move", "rehearse", *options],
        env=environment | {"TMPDIR": str(directory), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert rehearsing.stdout
    assert any(last in line for line in iter(rehearsing.stdout.readline, ""))
    rehearsing.send_signal(signal.SIGINT)
    _, words = rehearsing.communicate(timeout=60)
    assert (rehearsing.returncode, "interrupted" in words) == (130, True)
    assert list(directory.iterdir()) == []


def test_a_rehearsal_ends_also_if_the_interrupt_came_too_late_for_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(step: Step) -> None:
        if step is Step.CLEAN:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(day, "switch", partial(switch, on_step=interrupt))
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        rehearsal.rehearse(1_000, on_step=lambda step: steps.append(step.name))
    assert steps[-1] == "follow a living source"


@pytest.mark.parametrize(
    ("broken", "step", "problem"),
    [
        # A result other than the expected one, and an error of a command.
        (
            (copies, "CHANGED_TABLES", {"users"}),
            "copy the changes",
            "expected changes in users; found changes in checkins, notifications, users",
        ),
        (
            (copies, "EXCLUSIONS", copies.EXCLUSIONS | {("misfit", "nulled"): 3}),
            "copy",
            "exclusions differ: misfit nulled: expected 3, found 2",
        ),
        (
            (digest, "HASHES", [digest.Hash("broken", "hashtextextended(TEXT, pg_backend_pid())")]),
            "fix the source",
            "the servers compute different digests of the same text",
        ),
    ],
    ids=["result", "exclusions", "error"],
)
def test_a_failing_step_is_named_and_ends_the_rehearsal(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: tuple[Any, str, Any],
    step: str,
    problem: str,
) -> None:
    monkeypatch.setattr(*broken)
    with pytest.raises(RehearsalFailed, match=f"the step `{step}` of the rehearsal failed: {problem}") as caught:
        rehearse_(rows=1_000)
    assert caught.value.exit_code == 3
    shown = capsys.readouterr().out.splitlines()
    assert f" s  {step}: {problem}" in shown[-1]
    assert "all steps passed" not in shown[-1]


def _lose_at_both(day: Day) -> None:
    """Delete an acknowledged row as another client of the home, so that both databases agree."""
    with connect(day.source, autocommit=True) as home:
        home.execute("DELETE FROM notifications WHERE id = %s", [day.writer.lasting])


def _lose_at_target(day: Day) -> None:
    """Delete a row as the move itself may, after the last one that would notice."""
    with connect(day.target.url, autocommit=True) as target:
        target.execute("SELECT set_config('tatame_move.token', value, false) FROM tatame_move.token")
        target.execute("DELETE FROM checkins WHERE id = 55")


def _hand_out_ids_again(day: Day) -> None:
    with connect(day.target.url, autocommit=True) as target:
        target.execute("ALTER SEQUENCE users_id_seq RESTART WITH 1")


def _leave_an_object(day: Day) -> None:
    with connect(day.source, autocommit=True) as source:
        source.execute("CREATE PUBLICATION tatame_move_forgotten")


@pytest.mark.parametrize(
    ("harm", "step", "problem"),
    [
        (
            (_lose_at_both, "_follow"),
            "compare every value",
            r"the source has not what it acknowledged: 1 row of notifications lost, for example of rehearsal_\d+",
        ),
        (
            (_lose_at_target, "_stop"),
            "compare every value",
            "expected no difference but by choice; differing: checkins, id 55, only in the source",
        ),
        (
            (_hand_out_ids_again, "_switch"),
            "follow back",
            "the app could not write: duplicate key value violates unique constraint",
        ),
        (
            (_leave_an_object, "_stop"),
            "finish",
            "expected nothing of the move in the source, found publication tatame_move_forgotten",
        ),
    ],
    ids=["an acknowledged row is lost in both", "the target has lost a row", "ids come twice", "an object is left"],
)
def test_a_day_that_loses_something_fails_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    harm: tuple[Callable[[Day], None], str],
    step: str,
    problem: str,
) -> None:
    """Harm a day after one of its steps."""
    harmed, after = harm
    steps, harmless = copies.Copies.steps, getattr(Day, after)
    few = ("create a project", "create a target", "fix the source", "copy")
    monkeypatch.setattr(copies.Copies, "steps", lambda self: {name: steps(self)[name] for name in few})

    def harmful(day: Day) -> str:
        summary = str(harmless(day))
        harmed(day)
        return summary

    monkeypatch.setattr(Day, after, harmful)
    with pytest.raises(RehearsalFailed, match=f"the step `{step}` of the rehearsal failed: {problem}"):
        rehearse_(rows=1_000)
    assert re.search(f" s  {step}: {problem}", capsys.readouterr().out.splitlines()[-1])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("writer", "follower"))]


def test_a_rehearsal_has_every_obstacle_of_the_page() -> None:
    page = (DOCS / "move-in-detail.md").read_text()
    assert set(re.findall(r"^\| `([a-z-]+)` \|", page, flags=re.MULTILINE)) == copies.OBSTACLES


@pytest.mark.parametrize("keep", [(), ("--keep",)])
def test_a_full_disk_is_named_and_leaves_nothing_behind(
    rehearse: Run, directory: Path, monkeypatch: pytest.MonkeyPatch, keep: tuple[str, ...]
) -> None:
    monkeypatch.setattr(rehearsal, "_NEEDED_BYTES", 1 << 62)

    def fail(*_: object) -> str:
        raise psycopg.errors.DiskFull("could not write a file: No space left on device")

    monkeypatch.setattr(copies.Copies, "_create_project", fail)
    done = rehearse(*keep)
    assert done.returncode == 1
    assert "error: no place for the databases of the rehearsal in" in done.stderr
    assert "hint: set `TMPDIR` to a directory that you can write to, with free space" in done.stderr
    assert list(directory.iterdir()) == []
