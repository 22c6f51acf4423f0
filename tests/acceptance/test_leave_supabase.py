"""The commands on the pages about the move print what the pages show."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
from sqlalchemy import URL

from tatame_db.database.address import readable
from tatame_db.move.rehearsal import run_statements

Run = Callable[..., subprocess.CompletedProcess[str]]
DOCS = Path(__file__).parents[2] / "docs"
PAGES = "".join((DOCS / name).read_text() for name in ("leave-supabase.md", "move-in-detail.md"))
EXAMPLE = re.compile(
    r"^```sh\n(tatame-db [^\n|]+)\n```\n\nIt prints[^\n]*:\n\n```text\n(.*?)^```\n", re.DOTALL | re.MULTILINE
)


def pattern(shown: str) -> str:
    """Return a pattern for an output in which `…` stands for any text, and a line of its own for any lines."""
    lines = [
        "(?s:.*)" if line == "…" else re.sub(" *…", lambda _: ".*", re.escape(line).replace("\\ ", " "))
        for line in shown.splitlines()
    ]
    return "\n".join(lines).replace("(?s:.*)\n", "(?s:.*)")


def test_the_commands_of_the_pages_print_what_they_show(
    invoke: Run, bare_address: URL, address: URL, directory: Path
) -> None:
    for file in ("supabase", "rows", "left_behind"):
        run_statements(bare_address, file, 9_085)
    with psycopg.connect(readable(bare_address)) as connection:
        connection.execute("UPDATE checkins SET date = 'infinity' WHERE id = 41")
    variables = {
        "SUPABASE_DB_URL": readable(bare_address),
        "DATABASE_URL": readable(address),
        "TMPDIR": str(directory),
    }
    examples = EXAMPLE.findall(PAGES)
    assert [shlex.split(command)[1:3] for command, _ in examples] == [
        ["move", "rehearse"],
        ["move", "plan"],
        ["move", "plan"],
        ["move", "copy"],
        ["move", "verify"],
        ["check"],
        ["move", "rejects"],
    ]
    for command, shown in examples:
        fewer = ("--rows", "1000") if "rehearse" in command else ()
        done = invoke(*shlex.split(command)[1:], *fewer, **variables)
        output = done.stdout + (done.stderr if "\nerror: " in shown else "")
        assert re.fullmatch(pattern(shown), output.rstrip("\n")), f"{command} printed:\n{output}"
