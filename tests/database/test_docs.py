from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest
from tests.forks import Zygote

from tatame_db import seed
from tatame_db.database.address import readable
from tatame_db.database.pool import Database
from tatame_db.server.embedded import EmbeddedServer

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(python|sql)\n(.*?)^```\n(?:\nIt prints:\n\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Example:
    name: str
    language: str
    code: str
    prints: str | None


def examples() -> list[Example]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [
        Example(f"{page.name}-{number}", language, code, prints or None)
        for page in pages
        for number, (language, code, prints) in enumerate(BLOCK.findall(page.read_text()), start=1)
    ]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_an_example_of_the_pages_runs_on_a_seeded_database_and_prints_what_it_says(
    example: Example, server: EmbeddedServer, committed_database: Database, zygote: Zygote, tmp_path: Path
) -> None:
    address = readable(committed_database.address)
    with committed_database.engine.begin() as connection:
        seed.seed(connection, seed.SeedPlan(gyms=1, members=3, days=7, until=date(2026, 3, 1)))

    psql = [str(server.program("psql")), "--no-psqlrc", "--set=ON_ERROR_STOP=1", address]
    environment = dict(os.environ) | {"DATABASE_URL": address}
    # The README is where newcomers try things twice.
    for _ in range(2 if example.name.startswith("README") else 1):
        if example.language == "python":
            done = zygote.run(cwd=tmp_path, environment=environment, code=example.code)
        else:
            done = subprocess.run(psql, input=example.code, check=False, capture_output=True, text=True)

        assert done.returncode == 0, done.stderr
        assert example.prints in (None, done.stdout)
