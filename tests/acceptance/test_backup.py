"""The page about backups, followed to the letter, and the answers of its commands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.acceptance.conftest import COMMAND
from tests.acceptance.json_pages import assert_described

PAGE = Path(__file__).parents[2] / "docs" / "back-up-and-restore.md"
Run = Callable[..., subprocess.CompletedProcess[str]]
BLOCK = re.compile(r"^```console\n\$ tatame-db ([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def masked(text: str) -> str:
    """Leave out numbers, and the spaces and plurals that depend on them."""
    return re.sub(r" +", " ", re.sub(r"\b(minute|second)s?\b", r"\1", re.sub(r"\d[\d,.]*", "0", text)))


@pytest.mark.long
def test_the_page_shows_what_the_commands_print(run: Run, directory: Path) -> None:
    assert run("up").returncode == 0
    shown = BLOCK.findall(PAGE.read_text())
    assert len(shown) == 7

    def here(text: str) -> str:
        return text.replace("/srv", str(directory))

    place = here("/srv/tatame")
    try:
        for command, output in shown:
            done = run(*shlex.split(here(command)), TMPDIR=str(directory))
            assert done.returncode == 0, done.stderr
            assert masked(done.stdout) == masked(here(output))
        assert "checkins" in run("status", TATAME_DATA_DIR=place).stdout

        folder = here("/srv/backups")
        [found] = json.loads(run("backups", folder, "--json").stdout)["backups"]
        tables = found["manifest"]["databases"]["tatame"]["tables"]
        assert tables["public.gyms"]["rows"] == 3
        variables = {"TMPDIR": str(directory), "TATAME_BACKUP_DIR": folder}
        drilled = json.loads(run("restore", "--drill", "--json", **variables).stdout)
        assert (drilled["equal"], drilled["differences"], drilled["schema_problems"]) == (True, [], [])
        assert drilled["recorded"]
        assert re.search(
            r"good  backups: the last whole backup is \d+ s old; the last", run("doctor", **variables).stdout
        )
        assert run("psql", "-c", "DELETE FROM graduations").returncode == 0
        differs = run("restore", "--drill", "--live", "--json", **variables)
        assert differs.returncode == 3
        assert_described(json.loads(differs.stdout), "Drilled")
        assert "public.graduations has 0 rows, and" in json.loads(differs.stdout)["live"]["differences"][0]
        assert "each write since then is a difference too" in differs.stderr
        answer = json.loads(run("backups", "--json", **variables).stdout)
        assert_described(answer, "Backups")
        [listed] = answer["backups"]
        assert listed["last_drill"]["equal"] is False
        assert sorted(path.name for path in directory.iterdir() if "before" not in path.name) == [
            *("backups", "data", "dumps", "tatame")
        ]

        refused = run("restore", folder, "--to", place, "--replace")
        assert (refused.returncode, f"pass `--yes-replace {place}`" in refused.stderr) == (1, True)
        refused = run("restore", folder, "--to", place, "--yes-replace", f"{place}2")
        assert (refused.returncode, "not confirmed" in refused.stderr) == (1, True)
        refused = run("restore", folder, "--to", place)
        assert (refused.returncode, "is not empty" in refused.stderr) == (1, True)
        shutil.rmtree(Path(found["path"]) / "data" / "base" / "1")
        assert run("restore", folder, "--drill").returncode == 3
        assert run("restore", folder, "--to", f"{place}2").returncode == 1
        assert "bytes, not" in run("backups", folder).stdout
    finally:
        for server in directory.glob("tatame*"):
            run("down", "--yes", TATAME_DATA_DIR=str(server))


def test_without_a_folder_the_command_names_the_setting(invoke: Run) -> None:
    for command in (["backup"], ["backups"], ["restore", "--drill"]):
        refused = invoke(*command)
        assert (refused.returncode, "`TATAME_BACKUP_DIR` is not set" in refused.stderr) == (1, True)


def test_tables_at_a_time_are_those_of_a_dump(invoke: Run) -> None:
    for options, words in (
        (["--jobs", "2"], "--jobs needs --logical"),
        (["--jobs", "9" * 13, "--logical"], "less than or equal to 1000"),
    ):
        refused = invoke("backup", "/srv/backups", *options)
        assert (refused.returncode, words in refused.stderr) == (2, True)


def test_a_restore_needs_a_purpose_and_a_backup(invoke: Run, tmp_path: Path) -> None:
    for arguments in ([], ["--drill", "--to", "here"], ["--live", "--to", "here"], ["--drill", "--replace"]):
        refused = invoke("restore", str(tmp_path), *arguments)
        assert (refused.returncode, "either `--to` or `--drill`" in refused.stderr) == (1, True)
    for command in (["restore", "--drill"], ["restore", "--to", "here"], ["backups"]):
        refused = invoke(command[0], str(tmp_path), *command[1:])
        assert (refused.returncode, "there is no complete backup" in refused.stderr) == (1, True)


def test_a_follower_ends_with_its_signal_and_its_archive_is_drilled(
    run: Run, directory: Path, environment: dict[str, str]
) -> None:
    folder = str(directory / "backups")
    assert run("up", "--no-seed").returncode == 0
    made = run("backup", folder, "--json", TMPDIR=str(directory))
    assert_described(json.loads(made.stdout), "BackedUp")
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        with subprocess.Popen(
            [COMMAND, "backup", folder, "--follow", "--json"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as following:
            assert following.stdout
            received = json.loads(following.stdout.readline())
            assert_described(received, "Received")
            assert received["until"]
            following.send_signal(number)
            words = following.communicate()[1]
            assert "all that was received is on the disk" in words
            assert "rolled back" not in words
        assert following.returncode == code
    [found] = json.loads(run("backups", folder, "--json").stdout)["backups"]
    assert (found["restorable_until"] > found["manifest"]["ended"], found["archive_problem"]) == (True, None)
    drilled = run("restore", folder, "--drill", "--at", "latest", "--json", TMPDIR=str(directory))
    assert_described(json.loads(drilled.stdout), "Drilled")
    assert json.loads(drilled.stdout)["replayed"]["last_transaction"] > found["manifest"]["ended"]
    place = str(directory / "tatame")
    try:
        done = run("restore", folder, "--to", place, "--at", found["restorable_until"])
        assert (done.returncode, "restores the times from" in done.stderr) == (1, True)
        done = run("restore", folder, "--to", place, "--at", "latest")
        assert "as of the end of the archive\nreplayed  the last transaction is of" in done.stdout
        run("stop", TATAME_DATA_DIR=place)
        again = run("restore", folder, "--to", place, "--yes-replace", place, "--json")
        assert_described(json.loads(again.stdout), "Restored")
    finally:
        run("down", "--yes", TATAME_DATA_DIR=place)
    dropped = json.loads(run("backup", folder, "--stop-following", "--json").stdout)
    assert_described(dropped, "Dropped")
    assert dropped["dropped"]
    assert "nothing to drop" in run("backup", folder, "--stop-following").stdout
    for options in (["--after-gap"], ["--follow", "--keep", "2"], ["--follow", "--stop-following"]):
        assert "three different commands" in run("backup", folder, *options).stderr
    assert run("restore", folder, "--drill", "--at", "yesterday").returncode == 2
