"""The roles on the command line, as the page about production shows them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tatame_db.roles.needs import DUTIES

PAGE = Path(__file__).parents[2] / "docs" / "run-in-production.md"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.long
def test_the_page_shows_what_the_commands_print(run: Run, environment: dict[str, str]) -> None:
    assert run("up", "--no-seed").returncode == 0
    app = f"postgresql://tatame_app@/tatame?host={environment['TATAME_DATA_DIR']}"
    console = "".join(
        re.findall(r"^```console\n(\$ (?:DATABASE_URL=\$app )?tatame-db .*?)^```$", PAGE.read_text(), re.S | re.M)
    )
    shown = re.findall(r"^\$ (DATABASE_URL=\$app )?tatame-db (.*)\n((?:(?!\$ ).*\n)*)", console, flags=re.MULTILINE)
    assert [command.split(" -c")[0] for _, command, _ in shown] == [
        "roles --apply --yes",
        "roles",
        "psql",
        "roles --apply --yes",
        "seed",
    ]
    codes: list[int] = []
    for as_app, command, output in shown:
        done = run(*shlex.split(command), **({"DATABASE_URL": app} if as_app else {}))
        codes.append(done.returncode)
        assert (done.stderr if done.returncode else done.stdout) == output
    assert codes == [0, 0, 0, 3, 1]

    assert run("roles").stdout.count("WARNING") == 2
    [taken] = re.findall("`(REVOKE .*)`", shown[3][2])
    assert run("psql", "-c", taken).returncode == 0
    again = run("roles", "--apply", "--yes")
    assert (again.returncode, again.stdout) == (0, "")
    assert "nothing changed" in again.stderr
    assert json.loads(run("roles", "--json", DATABASE_URL=app).stdout)["tables"] == 11
    assert run("roles", "--dry-run").stdout == run("roles", "--sql").stdout


def test_rights_are_not_granted_unasked(invoke: Run, bare_address_url: str) -> None:
    refused = invoke("roles", "--apply", DATABASE_URL=bare_address_url)
    assert refused.returncode == 1
    assert "--yes" in refused.stderr
    assert "invalid" not in refused.stderr
    wrong = invoke("roles", "--apply", "--yes", "--app", "pg_mine", DATABASE_URL=bare_address_url)
    assert "PostgreSQL reserves it" in wrong.stderr


def test_the_help_names_the_roles_and_their_options(invoke: Run) -> None:
    text = " ".join(invoke("roles", "--help").stdout.split())
    for duty in DUTIES:
        assert re.search(rf"--{duty.name} NAME .*{duty.role}", text)
