"""One real PostgreSQL for the run; each test that asks for an engine gets a migrated database of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import URL, Engine, text

from tatame_db import evolve
from tatame_db.database import SyncDatabase, create_missing_database, readable
from tatame_db.server import EmbeddedServer

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the developer's own settings and `.env` out of the tests."""
    of_ours = ("DATABASE_URL", "TEST_DATABASE_URL", "SUPABASE_DB_URL", "USE_POSTGRES", "TATAME_ENV", "TATAME_DATA_DIR")
    for name in (*of_ours, "PGHOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def directory() -> Generator[Path]:
    """Give an empty directory that other users can pass through, as a server started by root needs it."""
    path = Path(tempfile.mkdtemp(prefix="tatame-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def server() -> Generator[EmbeddedServer]:
    """Start the server of the run."""
    path = Path(tempfile.mkdtemp(prefix="tatame-test-"))
    path.chmod(0o755)
    server = EmbeddedServer(path / "server", durable=False)
    server.start()
    yield server
    server.delete()
    shutil.rmtree(path)


@pytest.fixture
def fresh_server(directory: Path) -> Generator[EmbeddedServer]:
    """Give a server that was never started, for the tests that start, kill and break it."""
    server = EmbeddedServer(directory / "server", durable=False)
    yield server
    server.delete()


@pytest.fixture(scope="session")
def template(server: EmbeddedServer) -> URL:
    """Migrate one database, from which the others are cloned."""
    address = server.address.set(database="template_of_tests")
    create_missing_database(address)
    with SyncDatabase(address) as database:
        evolve.migrate(database.engine)
    return address


def _clone(server: EmbeddedServer, template: str) -> Generator[URL]:
    name = f"t_{uuid4().hex}"
    with SyncDatabase(server.address.set(database="postgres")) as maintenance:
        # CREATE DATABASE cannot run inside a transaction.
        with maintenance.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        yield server.address.set(database=name)
        with maintenance.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


@pytest.fixture
def address(server: EmbeddedServer, template: URL) -> Generator[URL]:
    """Give the address of a migrated, empty database."""
    yield from _clone(server, str(template.database))


@pytest.fixture
def bare_address(server: EmbeddedServer) -> Generator[URL]:
    """Give the address of a database without any table."""
    yield from _clone(server, "template0")


@pytest.fixture
def engine(address: URL) -> Generator[Engine]:
    """Connect to a migrated, empty database."""
    with SyncDatabase(address) as database:
        yield database.engine


@pytest.fixture
def bare_engine(bare_address: URL) -> Generator[Engine]:
    """Connect to a database without any table."""
    with SyncDatabase(bare_address) as database:
        yield database.engine


@pytest.fixture
def supabase(server: EmbeddedServer) -> Generator[URL]:
    """Give the address of a database as a Supabase project has it, with hard rows."""
    for address in _clone(server, "template0"):
        for file in ("supabase.sql", "supabase_rows.sql"):
            run_sql(address, (HERE / file).read_text())
        yield address


def run_sql(address: URL, statements: str) -> None:
    """Run statements of a file or a test, and commit them."""
    with psycopg.connect(readable(address), autocommit=True) as connection:
        connection.execute(statements.encode())


@pytest.fixture
def arrived(server: EmbeddedServer, template: URL) -> Generator[URL]:
    """Give the address of a database of ours that holds what the rows of `supabase` have to become."""
    for address in _clone(server, str(template.database)):
        run_sql(address, (HERE / "arrived_rows.sql").read_text())
        yield address
