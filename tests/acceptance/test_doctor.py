"""The doctor as a command: the page of the docs, its exit codes, JSON, and colours at a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL
from tests.acceptance.conftest import COMMAND
from tests.conftest import run_sql

from tatame_db.database.address import readable

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "doctor.md").read_text()
Run = Callable[..., subprocess.CompletedProcess[str]]


def entries(text: str) -> list[str]:
    """Return the lines of a page, each unwrapped, without its numbers and its directory."""
    joined = re.sub(r"\n {8}", " ", text)
    without_sizes = re.sub(r"[\d.,]+ (B|kB|MB|GB|TB)\b", "SIZE", joined)
    return re.sub(r"\d[\d.,]*|host=\S+", "#", without_sizes).splitlines()


@pytest.mark.long
def test_the_page_of_the_docs_is_what_the_command_prints(run: Run) -> None:
    section = PAGE.partition("## A page")[2]
    [commands] = re.findall(r"^```sh\n(.*?)^```$", section.partition("## In a job")[0], re.DOTALL | re.MULTILINE)
    [printed] = re.findall(
        r"^It prints:\n\n```text\n(.*?)^```$", section.partition("## The lines")[0], re.DOTALL | re.M
    )
    statements = re.findall(r'psql -c "(.*)"$', commands, re.MULTILINE)
    assert statements
    assert run("up").returncode == 0
    for statement in statements:
        assert run("psql", "-c", statement).returncode == 0

    done = run("doctor")

    assert done.returncode == 3
    assert entries(done.stdout) == entries(printed)
    assert [line for line in done.stdout.splitlines()[2:] if len(line) > 80] == []
    assert "2 lines bad: drift, disabled keys" in done.stderr


def test_without_a_server_the_page_says_so_and_the_exit_code_is_1(invoke: Run) -> None:
    stopped, as_json = invoke("doctor"), invoke("doctor", "--json")

    assert (stopped.returncode, as_json.returncode) == (1, 1)
    assert "bad   reachable: PostgreSQL does not answer" in stopped.stdout
    assert "good  programs: " in stopped.stdout
    assert "hint: start it with `tatame-db start`" in stopped.stderr
    assert json.loads(as_json.stdout)["findings"][0]["verdict"] == "bad"


def keys_of(name: str) -> set[str]:
    section = (DOCS / "json.md").read_text().partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


def test_the_keys_of_the_answer_are_documented(invoke: Run, address: URL) -> None:
    done = invoke("doctor", "--json", DATABASE_URL=readable(address))

    answer: dict[str, Any] = json.loads(done.stdout)
    # The server of tests is not durable, and has no directory of its own to look at.
    assert done.returncode == 3
    assert set(answer) == keys_of("Examined")
    assert {*answer["findings"][0]} == keys_of("Finding")
    assert sum(answer["counts"].values()) == len(answer["findings"])


def test_a_closed_output_is_no_failure_of_the_page(environment: dict[str, str], address: URL) -> None:
    variables = environment | {"DATABASE_URL": readable(address.set(query={"host": "/nowhere"}))}
    done = subprocess.run(
        ["bash", "-c", f"{COMMAND} doctor <&- >&-"], check=False, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_hostile_name_cannot_command_the_terminal(invoke: Run, address: URL) -> None:
    run_sql(address, 'CREATE INDEX "\x1b[31mred" ON users (email); CREATE INDEX "\x1b[32mgreen" ON users (email)')

    done = invoke("doctor", DATABASE_URL=readable(address))

    assert "\x1b" not in done.stdout
    assert "\\x1b[31mred" in done.stdout


def test_an_app_that_cannot_be_loaded_is_a_line_and_no_end(invoke: Run, address: URL) -> None:
    done = invoke("doctor", "--json", DATABASE_URL=readable(address), TATAME_MODELS="gymapi.models")

    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["migrations"]["verdict"] == "bad"
    assert "there is no module 'gymapi.models'" in found["migrations"]["text"]
    assert found["drift"]["verdict"] == found["history"]["verdict"] == "unknown"
    assert found["encoding"]["verdict"] == "good"


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_verdicts_have_colours_at_a_terminal(
    environment: dict[str, str], address: URL, variables: dict[str, str], *, coloured: bool
) -> None:
    reader, terminal = pty.openpty()
    chosen = environment | variables | {"DATABASE_URL": readable(address.set(query={"host": "/nowhere"}))}
    process = subprocess.Popen(
        [COMMAND, "doctor"], env=chosen, stdin=terminal, stdout=terminal, stderr=subprocess.DEVNULL
    )
    os.close(terminal)
    shown = b""
    while part := _read(reader):
        shown += part
    os.close(reader)

    assert process.wait() == 1
    assert (b"\x1b[31m" in shown) is coloured
    assert b"reachable" in shown


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 65_536)
    except OSError:
        # Linux reports the end of a terminal as an error.
        return b""
