"""The test kit in an app: a small project, whose tests run as its developers run them."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from filelock import FileLock
from tests.conftest import new_directory

from tatame_db.database.address import readable
from tatame_db.server.embedded import EmbeddedServer

ROOT = Path(__file__).parents[2]
PYTEST_ASYNCIO = "pytest-asyncio==1.5.0"

TESTS = """
import asyncio
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tatame_db import insert_many, read
from tatame_db.testing.factories import a_checkin, a_user
from tatame_db.schema import User

COUNT = select(func.count()).select_from(User)


@pytest.fixture(autouse=True)
def _database(tatame_database, worker_id):
    Path(f"{worker_id}.address").write_text(str(tatame_database.address))


@pytest.mark.parametrize("turn", range(4))
def test_session(session, turn):
    assert session.scalar(COUNT) == 0
    session.add(a_user())
    session.commit()


async def work(session):
    assert await session.scalar(COUNT) == 0
    session.add(a_user())
    await session.commit()


@pytest.mark.parametrize("turn", range(2))
def test_plain_asyncio(async_session, turn):
    asyncio.run(work(async_session))


@pytest.mark.asyncio
@pytest.mark.parametrize("turn", range(2))
async def test_pytest_asyncio(async_session, turn):
    await work(async_session)


@pytest.mark.anyio
@pytest.mark.parametrize("turn", range(2))
async def test_anyio(async_session, turn):
    await work(async_session)


@pytest.mark.parametrize("turn", range(2))
def test_databases(database, async_database, session, turn):
    with database.session.begin() as other:
        other.add(a_user())
    asyncio.run(insert_many(User, [{"clerk_user_id": "ana"}]).run(async_database))
    assert session.scalar(COUNT) == len(read(User).all(database)) == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("turn", range(2))
async def test_databases_with_pytest_asyncio(database, async_database, async_session, turn):
    await work(async_session)
    async with async_database.session.begin() as other:
        other.add(a_user())
    assert len(read(User).all(database)) == 2


@pytest.mark.parametrize("turn", range(2))
def test_committed(committed_database, turn):
    with committed_database.session.begin() as session:
        session.add(a_checkin())
    with committed_database.session() as session:
        assert session.scalar(COUNT) == 1
"""

WAITING = """
import os, time
from pathlib import Path

def test_first(session, committed_database):
    Path(f"{os.getpid()}.waiting").touch()
    time.sleep(60)

def test_second(session, committed_database):
    Path(f"{os.getpid()}.waiting").touch()
    time.sleep(60)
"""

CRASHING = """
import os, signal
import pytest

@pytest.mark.parametrize("turn", range(4))
def test_crash(session, committed_database, turn):
    if turn == 1:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@dataclass
class Project:
    """A folder with tests; their runs create files in another folder, or databases on the server in `variables`."""

    folder: Path
    run_files: Path
    plugins: Path
    variables: dict[str, str] = field(default_factory=dict)

    def write(self, tests: str) -> None:
        (self.folder / "test_app.py").write_text(tests)

    def start(self, *options: str) -> subprocess.Popen[str]:
        # Every other warning is an error; this one of pytest-asyncio is about an option of its own.
        warnings = ["-W", "error", "-W", "ignore:The configuration option:pytest.PytestDeprecationWarning"]
        # The plugin of Hypothesis imports all of it at the end of each run.
        without = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *without, *warnings, *options],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "TMPDIR": str(self.run_files),
                "PYTHONPATH": str(self.plugins),
                **self.variables,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *options: str) -> tuple[int, str]:
        process = self.start(*options)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def wait_for(self, pattern: str, count: int) -> list[Path]:
        deadline = time.monotonic() + 60
        while len(found := sorted(self.folder.glob(pattern))) < count:
            assert time.monotonic() < deadline, pattern
            time.sleep(0.05)
        return found

    def left(self) -> list[str]:
        """Return the directories and processes that the runs left."""
        processes = subprocess.run(["ps", "-ww", "-eo", "args"], check=True, capture_output=True, text=True).stdout
        servers = [line for line in processes.splitlines() if str(self.run_files) in line]
        return [path.name for path in self.run_files.glob("tatame-*")] + servers


@pytest.fixture(scope="session")
def plugins() -> Path:
    """Install pytest-asyncio once, outside the environment: in it, every other run would need its configuration."""
    place = Path(sys.prefix) / "share" / PYTEST_ASYNCIO
    place.parent.mkdir(exist_ok=True)
    with FileLock(f"{place}.lock"):
        if not place.exists():
            half = place.with_name("pytest-asyncio-new")
            uv = Path(sys.executable).with_name("uv")
            command = [str(uv), "pip", "install", "--quiet", "--no-deps", "--target", str(half), PYTEST_ASYNCIO]
            subprocess.run(command, check=True)
            half.rename(place)
    return place


@pytest.fixture
def project(tmp_path: Path, plugins: Path) -> Generator[Project]:
    """Create a project whose runs use the same kind of directory as this run: in memory if possible."""
    run_files = new_directory()
    folder = tmp_path / "app"
    folder.mkdir()
    project = Project(folder, run_files, plugins)
    yield project
    for run in run_files.glob("tatame-tests-*"):
        EmbeddedServer(run / "server").delete()
    shutil.rmtree(run_files)


@pytest.fixture
def shared_server(project: Project) -> Generator[psycopg.Connection]:
    """Set `TEST_DATABASE_URL` of the project to a shared server, and connect to it."""
    server = EmbeddedServer(project.run_files / "shared", durable=False)
    server.start()
    project.variables["TEST_DATABASE_URL"] = readable(server.address.set(database="tatame_test"))
    with psycopg.connect(host=str(server.directory), user="postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE shop_test")
        yield connection
    server.delete()


def databases(shared_server: psycopg.Connection) -> set[str]:
    return {name for (name,) in shared_server.execute("SELECT datname FROM pg_database WHERE NOT datistemplate")}


UNTOUCHED = {"postgres", "shop_test"}


# --- On a server of its own ------------------------------------------------------------------------------------------


def test_the_fixtures_work_without_configuration_and_leave_nothing(project: Project) -> None:
    project.write(TESTS)
    code, output = project.run("-n", "0")
    assert code == 0, output
    assert "16 passed" in output
    assert project.left() == []


def test_workers_share_a_server_and_not_their_database(project: Project) -> None:
    project.write(TESTS)
    code, output = project.run("-n", "2", "--dist", "each")
    assert code == 0, output
    first, second = (path.read_text().split("?") for path in project.wait_for("gw*.address", 2))
    assert first[0] != second[0]
    assert first[1] == second[1]
    assert project.left() == []


def test_a_worker_that_crashes_leaves_nothing(project: Project) -> None:
    project.write(CRASHING)
    code, output = project.run("-n", "2")
    assert code == 1, output
    assert "crashed" in output
    assert "3 passed" in output
    assert project.left() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_run_leaves_nothing(project: Project, workers: int) -> None:
    project.write(WAITING)
    process = project.start("-n", str(workers))
    project.wait_for("*.waiting", workers or 1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    assert project.left() == []


def test_files_of_a_killed_run_are_deleted_by_the_next(project: Project) -> None:
    project.write(WAITING)
    process = project.start("-n", "0")
    project.wait_for("*.waiting", 1)
    process.kill()
    process.communicate()
    assert len(project.left()) == 2

    project.write("def test_session(session): session.connection()")
    code, output = project.run()
    assert code == 0, output
    assert project.left() == []


# --- On a shared server ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shared_server_is_used_and_left_unchanged(
    project: Project, shared_server: psycopg.Connection, workers: int
) -> None:
    project.write(TESTS)
    code, output = project.run("-n", str(workers), "--dist", "load")
    assert code == 0, output
    (address, *_) = (path.read_text() for path in project.wait_for("*.address", 1))
    assert str(project.run_files / "shared") in address.replace("%2F", "/")
    assert databases(shared_server) == UNTOUCHED
    assert [name for name in project.left() if "shared" not in name] == []


def test_databases_of_a_killed_run_on_a_shared_server_are_dropped_by_the_next(
    project: Project, shared_server: psycopg.Connection
) -> None:
    project.write(WAITING)
    first = project.start("-n", "0")
    project.wait_for("*.waiting", 1)
    first.kill()
    first.communicate()
    # The template, the clone of the process, and the clone of the test.
    killed = databases(shared_server) - UNTOUCHED
    assert len(killed) == 3

    second = project.start("-n", "0")
    project.wait_for("*.waiting", 2)
    living = databases(shared_server) - UNTOUCHED
    assert not killed & living
    # A third run recognizes that the second is alive.
    project.write("def test_session(session): session.connection()")
    code, output = project.run("-n", "0")
    assert code == 0, output
    assert databases(shared_server) - UNTOUCHED == living
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=60)
    assert databases(shared_server) == UNTOUCHED


def test_an_address_of_a_database_not_for_tests_is_refused_without_a_traceback(
    project: Project, shared_server: psycopg.Connection
) -> None:
    address = project.variables["TEST_DATABASE_URL"].replace("tatame_test", "postgres")
    project.variables["TEST_DATABASE_URL"] = address
    project.write("def test_session(session): session.connection()")
    code, output = project.run("-n", "0")
    assert code == 1
    assert "`TEST_DATABASE_URL` names the database 'postgres', and only a name that ends in `_test` is safe" in output
    assert "Traceback" not in output
    assert "runs.py" not in output
    assert databases(shared_server) == UNTOUCHED


# --- Runs without a database ------------------------------------------------------------------------------------------


def test_the_package_declares_the_plugin() -> None:
    points = importlib.metadata.distribution("tatame-db").entry_points
    assert [(point.name, point.value) for point in points if point.group == "pytest11"] == [
        ("tatame_db", "tatame_db.testing.plugin")
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_without_a_database_imports_nothing_heavy_and_creates_nothing(project: Project, workers: int) -> None:
    heavy = (
        "sqlalchemy",
        "psycopg",
        "alembic",
        "pydantic",
        "typer",
        "tatame_db.testing.runs",
        "tatame_db.testing.databases",
    )
    project.write(
        "import sys\n"
        "def test_nothing(pytestconfig):\n"
        "    assert pytestconfig.pluginmanager.hasplugin('tatame_db')\n"
        f"    assert [name for name in {heavy} if name in sys.modules] == []\n"
    )
    code, output = project.run("-n", str(workers), "-p", "no:randomly")
    assert code == 0, output
    assert project.left() == []


# --- The documentation and the type checkers --------------------------------------------------------------------------


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "testing.md").read_text(), re.DOTALL | re.MULTILINE)


def test_the_examples_of_the_documentation_pass(project: Project) -> None:
    for number, example in enumerate(examples()):
        (project.folder / f"test_{number}.py").write_text(example)
    code, output = project.run("-n", "0")
    assert code == 0, output
    (passed,) = re.findall(r"(\d+) passed", output)
    assert int(passed) == sum(len(re.findall(r"def test_", example)) for example in examples()) > 5
    assert project.left() == []


def test_the_example_without_pytest_passes_without_it(project: Project) -> None:
    (example,) = (example for example in examples() if "unittest" in example)
    (project.folder / "test_app.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "unittest", "-v"],
        cwd=project.folder,
        env={"PATH": os.environ["PATH"], "HOME": str(project.folder), "TMPDIR": str(project.run_files)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert project.left() == []
