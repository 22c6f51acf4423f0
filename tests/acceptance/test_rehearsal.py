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

from tatame_db.cli.move import rehearse_
from tatame_db.move import digest
from tatame_db.move.rehearsal import copies
from tatame_db.move.rehearsal import run as rehearsal
from tatame_db.move.rehearsal.run import RehearsalFailed

COMMAND = Path(sys.executable).with_name("tatame-db")
Run = Callable[..., subprocess.CompletedProcess[str]]
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def rehearse(invoke: Run, directory: Path) -> Run:
    """Rehearse in this process, with few rows and with a temporary directory of its own."""
    return lambda *arguments: invoke("move", "rehearse", "--rows", "1000", *arguments, TMPDIR=str(directory))


@pytest.mark.long
def test_a_rehearsal_passes_and_leaves_nothing_behind(run: Run, directory: Path) -> None:
    # Too long for a socket. The variables are meant for other databases.
    temporary = directory / ("x" * 120)
    temporary.mkdir()
    temporary.chmod(0o755)
    others = {"PGSERVICE": "other", "PGOPTIONS": "-c search_path=other", "PGSSLMODE": "verify-full", "PGPORT": "1"}
    done = run("move", "rehearse", "--rows", "1000", TMPDIR=str(temporary), **others)
    assert (done.returncode, done.stderr) == (0, "starting a temporary PostgreSQL for the rehearsal\n")
    steps = re.findall(r"^ *[0-9.]+ s  ([a-z ]+): ", done.stdout, flags=re.MULTILINE)
    assert (len(steps), steps[0], steps[-1]) == (14, "create a project", "verify at the end")
    assert "verify names it: users, id 7, email" in done.stdout
    assert done.stdout.endswith(" s  all steps passed\n")
    assert list(temporary.iterdir()) == []


def test_the_command_that_deletes_a_kept_rehearsal_works_in_any_directory(
    rehearse: Run, environment: dict[str, str], directory: Path, tmp_path: Path
) -> None:
    another = "postgresql://ana@127.0.0.1:1/other"
    (tmp_path / ".env").write_text(f"DATABASE_URL={another}\nTATAME_ENV=production\n")
    done = rehearse("--keep")
    assert done.returncode == 0, done.stderr
    [command] = re.findall("^delete both with `(.*)`$", done.stdout, flags=re.MULTILINE)
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
def test_a_kept_rehearsal_can_be_inspected_and_deleted(invoke: Run, rehearse: Run, directory: Path) -> None:
    done = rehearse("--keep", "--json")
    assert done.returncode == 0, done.stderr
    rehearsed = json.loads(done.stdout)
    assert (rehearsed["passed"], {step["passed"] for step in rehearsed["steps"]}) == (True, {True})
    for address, query in (
        (rehearsed["source"], "SELECT count(*) FROM legacy_payments"),
        (rehearsed["target"], "TABLE tatame_move.runs"),
    ):
        with psycopg.connect(address) as connection:
            assert connection.execute(query).fetchone()
    assert invoke("move", "status", TATAME_DATA_DIR=rehearsed["directory"], TMPDIR=str(directory)).returncode == 0
    assert invoke("down", "--yes", TATAME_DATA_DIR=rehearsed["directory"], TMPDIR=str(directory)).returncode == 0
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("options", [[], ["--keep"]], ids=["usual", "keep"])
def test_an_interrupted_rehearsal_leaves_nothing_behind(
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
    assert "create a project" in rehearsing.stdout.readline()
    rehearsing.send_signal(signal.SIGINT)
    _, words = rehearsing.communicate(timeout=60)
    assert (rehearsing.returncode, "interrupted" in words) == (130, True)
    assert list(directory.iterdir()) == []


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
