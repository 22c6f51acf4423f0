"""Backups that prove themselves: what is whole is whole, and what is damaged, killed or cut is not restored."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL
from tests.conftest import (
    OLDER_PROGRAMS,
    foreign_server,
    free_port,
    new_directory,
    require_older_programs,
    run_sql,
    tls_settings,
)
from tests.database.moves import change
from tests.database.relays import relay
from tests.database.roles import with_roles
from tests.database.scratches import shared_scratch
from tests.database.standbys import Pair
from tests.forks import Zygote
from tests.servers import quicken
from typer.testing import CliRunner

from tatame_db import backup, evolve, roles, seed
from tatame_db.backup import contents, programs
from tatame_db.backup import folder as folders
from tatame_db.backup import manifest as manifests
from tatame_db.backup.archive import begin_anew
from tatame_db.backup.contents import contents_of_server, differences
from tatame_db.backup.history import RESTORES, history_of
from tatame_db.backup.manifest import read_manifest
from tatame_db.backup.marks import MARKS, STATE, WAL, State, read_marks, read_state
from tatame_db.backup.programs import environment_for
from tatame_db.backup.record import DRILLS, Origin
from tatame_db.backup.removal import remove_old
from tatame_db.backup.restored import contents_of
from tatame_db.cli import commands, console
from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.database.dialect import quoted
from tatame_db.database.pool import Database
from tatame_db.errors import TatameError
from tatame_db.move.fingerprint import Fingerprint
from tatame_db.roles import Names
from tatame_db.server import run_directory
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.server.errors import DirectoryUnusable
from tatame_db.server.run_directory import new_run_directory
from tatame_db.testing.runs import Run

__all__ = ["shared_scratch"]

TEMPLATE = "template"

ODD = r'''
CREATE SCHEMA "an odd""";
CREATE TABLE "an odd"""."t' %s" ("a "" b" int, j json, p point, n numeric, v text GENERATED ALWAYS AS ('x') STORED);
{rows};
CREATE TABLE no_columns ();
INSERT INTO no_columns DEFAULT VALUES;
CREATE TABLE parts (id int) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
INSERT INTO parts VALUES (1), (2);
CREATE UNLOGGED TABLE fleeting (id int);
CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM parts;
SELECT lo_from_bytea(0, '\x0102');
'''


ODD_NAME = '''"an odd"""."t' %s"'''
ODD_ROWS = f"INSERT INTO {ODD_NAME} VALUES (1, '{{\"a\": 1}}', '(1,2)', 'NaN'), (NULL, NULL, NULL, 1.10)"


@pytest.fixture(scope="module", autouse=True)
def disk() -> Generator[Path]:
    """Start scratch servers in memory: these tests do not measure a disk."""
    with pytest.MonkeyPatch.context() as patch:
        directory = new_directory()
        patch.delenv("TMPDIR", raising=False)
        patch.setattr(run_directory, "_DISK", directory)
        yield directory
        shutil.rmtree(directory)


@pytest.fixture(scope="module", autouse=True)
def _quick_servers(disk: Path) -> Generator[None]:
    with pytest.MonkeyPatch.context() as patch:
        quicken(disk / TEMPLATE, patch.setattr, small_wal=True)
        yield


@pytest.fixture(scope="module")
def home() -> Generator[Path]:
    path = new_directory()
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def origin(home: Path) -> Generator[EmbeddedServer]:
    """A server with the four roles, sample data and difficult tables, on a port too."""
    server = EmbeddedServer(home / "origin", durable=False)
    server.start()
    change(server.address.set(database="postgres"), "ALTER SYSTEM SET max_prepared_transactions = 5")
    server.stop()
    server.start(free_port())
    create_missing_database(server.address)
    with Database(server.address) as database:
        evolve.migrate(database.engine)
        with database.engine.begin() as connection:
            seed.seed(connection, seed.SeedPlan(gyms=1, members=2, days=3, until=date(2026, 3, 1)))
        with database.engine.connect() as connection:
            roles.apply(connection, Names())
    run_sql(server.address, ODD.replace("{rows}", ODD_ROWS))
    create_tablespace(server.address)
    run_sql(server.address, "CREATE TABLE elsewhere TABLESPACE inside AS SELECT 1 AS id")
    # Nothing that is restored may use the archive of the original.
    run_sql(server.address, f"ALTER SYSTEM SET archive_command = 'touch {home}/archived'")
    yield server
    server.delete()


def create_tablespace(address: URL) -> None:
    """Create a tablespace within the data directory."""
    with psycopg.connect(readable(address), autocommit=True) as connection:
        connection.execute("SET allow_in_place_tablespaces = on")
        connection.execute("CREATE TABLESPACE inside LOCATION ''")


@pytest.fixture(scope="module")
def folder(home: Path) -> Path:
    return home / "backups"


@pytest.fixture(scope="module")
def made(origin: EmbeddedServer, folder: Path) -> backup.Made:
    """A backup that the backup role made, for tests that only read it."""
    with Database(origin.address.set(username=Names().backup)) as database:
        return backup.make(database, folder)


@pytest.fixture
def copied(made: backup.Made, directory: Path) -> Path:
    """A copy of the backup, to be damaged."""
    path = directory / "backups" / made.backup.path.name
    shutil.copytree(made.backup.path, path, ignore=shutil.ignore_patterns("base"))
    # Most of it: `relation` copies the one file that is damaged there.
    shutil.copytree(made.backup.data / "base", path / "data" / "base", copy_function=os.link)
    return path


def leftovers(folder: Path) -> list[str]:
    names = [path.name for path in folder.iterdir() if path.name.endswith(".part")]
    return names + [path.name for path in new_run_directory(on_disk=True).parent.iterdir() if path.name != TEMPLATE]


# --- What a backup holds ----------------------------------------------------------------------------------------------


def test_a_backup_of_the_backup_role_holds_what_the_server_holds(
    origin: EmbeddedServer, made: backup.Made, folder: Path
) -> None:
    manifest = made.backup.manifest
    live = contents_of_server(origin.address, lambda _: None)
    assert differences(live, manifest.contents) == []
    tables = manifest.contents["tatame"].tables
    assert tables[ODD_NAME].rows == 2
    assert tables["public.no_columns"].rows == tables["public.seen"].rows == 1
    assert "public.parts_1" in tables
    assert {"public.parts", "public.fleeting"}.isdisjoint(tables)
    assert tables["pg_catalog.pg_largeobject"].rows == 1
    assert manifest.contents["tatame"].revision == ["20261123120000"]
    assert made.removed == leftovers(folder) == []
    assert [found.problem for found in backup.list_backups(folder)] == [None]
    assert read_manifest(made.backup.path) == manifest


def test_a_drill_finds_it_equal_and_leaves_nothing(origin: EmbeddedServer, made: backup.Made, folder: Path) -> None:
    stages: list[str] = []
    with Database(origin.address) as live:
        drilled = backup.drill(folder, live=live, on_stage=stages.append)
    assert drilled.live
    assert (drilled.live.differences, drilled.live.where) == ([], readable(origin.address))
    assert drilled.backup == made.backup
    assert (drilled.error, drilled.differences, drilled.schema_problems) == (None, [], [])
    assert "verifying the checksums" in stages
    assert leftovers(folder) == []
    assert drilled.unrecorded is None
    with (folder / "drills.jsonl").open("a") as record:
        # What a full disk cut off.
        record.write('\n{"backup": "2026')
        # What another program wrote.
        record.write(f"\n{'[' * 200_000}\n\n[]")
        record.write(json.dumps({"backup": [], "at": "2026-03-01 10:00:00", "equal": 1, "seconds": 1, "origin": {}}))
    [noted] = backup.read_drills(folder)
    assert (noted.backup, noted.equal) == (made.backup.path.name, True)
    assert noted.origin == Origin(made.backup.manifest.system_identifier, ["postgres", "tatame"])


def test_a_drill_names_what_differs(origin: EmbeddedServer, copied: Path) -> None:
    manifest = read_manifest(copied)
    before = manifest.contents["tatame"]
    tables = before.tables | {
        "public.users": replace(before.tables["public.users"], digest=1),
        "public.gyms": Fingerprint(7, 1),
        "public.gone": Fingerprint(1, 1),
    }
    del tables["public.parts_1"]
    changed = replace(before, tables=tables, sequences=before.sequences | {"public.users_id_seq": 1})
    replace(manifest, contents={"tatame": changed, "other": changed}).write(copied)
    run_sql(
        origin.address, f"INSERT INTO parts VALUES (9); CREATE TABLE new (); UPDATE {ODD_NAME} SET v = DEFAULT, n = 7"
    )
    try:
        with Database(origin.address) as live:
            run_drill = backup.drill(copied, live=live)
    finally:
        run_sql(origin.address, f"DELETE FROM parts WHERE id = 9; DROP TABLE new; TRUNCATE {ODD_NAME}; {ODD_ROWS}")
    assert run_drill.live
    assert run_drill.live.differences == [
        f"{ODD_NAME} has 2 rows as in the backup, with other values",
        "the table public.new exists only in the live database",
        "public.parts_1 has 3 rows, and 2 in the backup",
    ]
    with Database(origin.address) as live, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["tatame_db.backup.drill"], "differences", lambda *_: [])
        run_sql(origin.address, "INSERT INTO parts VALUES (9)")
        try:
            error = backup.drill(copied, live=live).error
        finally:
            run_sql(origin.address, "DELETE FROM parts WHERE id = 9")
    assert isinstance(error, backup.LiveDiffers)
    assert error.exit_code == 3
    with (
        Database(origin.address.set(database="elsewhere")) as live,
        pytest.raises(backup.NotInBackup, match="no database"),
    ):
        backup.drill(copied, live=live)
    assert run_drill.differences == [
        "the database other is missing",
        "the database postgres is new",
        "tatame: the table public.gone is missing",
        "tatame: public.gyms has 1 rows, not 7",
        "tatame: the table public.parts_1 is new",
        f"tatame: public.users has {tables['public.users'].rows} rows as before, with other values",
        "tatame: the sequence public.users_id_seq has another last value",
    ]
    assert run_drill.error
    assert run_drill.error.exit_code == 3
    [noted, of_live] = backup.read_drills(copied.parent)
    assert not noted.equal
    assert not of_live.equal
    assert noted.origin.databases == ["other", "tatame"]


HOSTILE = "od\"d' %s\n; \\ \u202e name"
ROLE = "back \"up' %s"


@pytest.fixture
def difficult(origin: EmbeddedServer) -> Generator[None]:
    """Databases that no session may enter, a name that no shell likes, and a lock that no session holds."""
    names = [HOSTILE, "closed", "broken", "private", "model"]
    change(origin.address, *(f"CREATE DATABASE {quoted(name)} STRATEGY FILE_COPY" for name in names))
    change(
        origin.address.set(database=HOSTILE),
        "CREATE TABLE locked (id int)",
        "INSERT INTO locked VALUES (1)",
        "BEGIN; ALTER TABLE locked ADD later int; PREPARE TRANSACTION 'it''s'",
    )
    change(
        origin.address,
        "ALTER DATABASE closed ALLOW_CONNECTIONS false",
        "ALTER DATABASE model IS_TEMPLATE true",
        "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'broken'",
        "REVOKE CONNECT ON DATABASE private FROM PUBLIC",
        f"CREATE ROLE {quoted(ROLE)} LOGIN REPLICATION",
    )
    yield
    change(origin.address.set(database=HOSTILE), "ROLLBACK PREPARED 'it''s'")
    change(origin.address, "ALTER DATABASE model IS_TEMPLATE false", f"DROP ROLE {quoted(ROLE)}")
    change(origin.address, *(f"DROP DATABASE {quoted(name)}" for name in names))


@pytest.mark.usefixtures("difficult")
def test_databases_with_difficult_names_states_and_locks_are_in_it(origin: EmbeddedServer, directory: Path) -> None:
    with Database(origin.address.set(username=ROLE, database=HOSTILE)) as database:
        made = backup.make(database, directory / "backups")
    assert made.backup.manifest.contents.keys() == {HOSTILE, "model", "postgres", "private", "tatame"}
    assert made.backup.manifest.contents[HOSTILE].tables["public.locked"].rows == 1
    restored = backup.restore(directory / "backups", directory / "place")
    try:
        with psycopg.connect(readable(restored.databases[HOSTILE])) as connection:
            # They are the transaction manager's to finish.
            assert connection.execute("SELECT gid FROM pg_prepared_xacts").fetchall() == [("it's",)]
            assert connection.execute("SELECT count(*) FROM pg_database").fetchone() == (9,)
    finally:
        restored.server.delete()


def test_every_commit_before_the_time_that_is_named_is_in_the_backup(origin: EmbeddedServer, directory: Path) -> None:
    acknowledged: list[datetime] = []
    begun, stop = threading.Event(), threading.Event()

    def write() -> None:
        with psycopg.connect(readable(origin.address), autocommit=True) as connection:
            connection.execute("CREATE TABLE ticks (id int)")
            while not stop.is_set():
                connection.execute("INSERT INTO ticks VALUES (1)")
                row = connection.execute("SELECT clock_timestamp()").fetchone()
                acknowledged.append(row[0] if row else datetime.max)
                begun.set()
            connection.execute("DROP TABLE ticks")

    # The clock of this machine is wrong.
    with pytest.MonkeyPatch.context() as patch, Database(origin.address) as database:
        patch.setattr(sys.modules["tatame_db.backup.make"], "datetime", Ahead)
        writer = threading.Thread(target=write)
        writer.start()
        try:
            assert begun.wait(60)
            manifest = backup.make(database, directory / "backups").backup.manifest
        finally:
            stop.set()
            writer.join()
    before = sum(moment < manifest.until for moment in acknowledged)
    assert 0 < before <= manifest.contents["tatame"].tables["public.ticks"].rows < len(acknowledged)
    assert acknowledged[0] < manifest.until < manifest.ended < acknowledged[-1]


class Ahead(datetime):
    """A clock that is an hour ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Ahead:
        return super().now(tz) + timedelta(hours=1)


def test_a_standby_is_backed_up_and_the_manifest_says_so(restored: backup.Restored, directory: Path) -> None:
    home = directory / "standby"
    home.mkdir()
    # PostgreSQL refuses a backup of a standby whose primary writes no full pages, as one that is not durable.
    restored.server._hand_over(home, 0o700)
    pair = Pair(restored.server, home)
    pair.copy()
    moment = datetime.now(UTC)
    try:
        with Database(pair.standby) as database:
            again = backup.make(database, directory / "backups").backup
            assert backup.make_dump(database, directory / "dumps").backup.manifest.standby
    finally:
        pair.pg_ctl("stop", "--mode=immediate")
    assert again.manifest.standby
    # It is as old as what it has replayed.
    assert again.manifest.until < moment < again.manifest.ended
    assert read_manifest(again.path) == again.manifest
    assert differences(restored.backup.manifest.contents, again.manifest.contents) == []


# --- Restore ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def restored(made: backup.Made, folder: Path, home: Path) -> Generator[backup.Restored]:
    """A restored server, whose rows each test leaves as they were."""
    restored = backup.restore(folder, home / "new" / "place")
    assert restored.backup == made.backup
    yield restored
    restored.server.delete()


def test_a_restored_server_is_an_embedded_one_and_takes_writes(
    origin: EmbeddedServer, restored: backup.Restored, folder: Path, home: Path
) -> None:
    place = home / "new" / "place"
    server = EmbeddedServer(place)
    expected = restored.backup.manifest.contents
    assert differences(expected, contents_of_server(server.address, lambda _: None)) == []
    run_sql(server.address, "INSERT INTO parts VALUES (3); SELECT pg_switch_wal()")
    run_sql(server.address, "DELETE FROM parts WHERE id = 3")
    assert server.stop()
    port = free_port()
    assert server.start(port)
    password = server.password_file.read_text()
    assert password != origin.password_file.read_text()
    psycopg.connect(f"postgresql://postgres:{password}@127.0.0.1:{port}/tatame").close()
    with psycopg.connect(readable(server.address)) as connection:
        assert connection.execute("SHOW archive_command").fetchone() == ("(disabled)",)
    with pytest.raises(backup.PlaceTaken):
        backup.restore(folder, place)
    assert server.is_running
    assert restored.replaced is None
    assert not (home / "archived").exists()
    assert sorted(path.name for path in place.parent.iterdir()) == ["place"]


def test_a_restored_server_is_used_with_the_names_of_the_original(
    fresh_server: EmbeddedServer, directory: Path
) -> None:
    fresh_server.start()
    for statement in ("CREATE ROLE other SUPERUSER LOGIN", 'CREATE DATABASE "our %s shop"'):
        change(fresh_server.address.set(database="postgres"), statement)
    odd = fresh_server.address.set(username="other", database="our %s shop")
    change(odd, 'ALTER ROLE postgres RENAME TO "ad: \'min@"')
    odd = odd.set(username="ad: 'min@")
    run_sql(odd, "CREATE TABLE mine ()")
    with Database(odd) as database:
        backup.make(database, directory / "backups")
    server = EmbeddedServer(directory / "place", durable=False)
    backup.restore(directory / "backups", server.directory)
    try:
        assert server.address == odd.update_query_dict({"host": str(server.directory)})
        run_sql(server.address, "DROP TABLE mine")
        server.stop()
        port, variables = free_port(), {"TATAME_DATA_DIR": str(server.directory)}
        started = CliRunner().invoke(commands.app, ["start", "--port", str(port)], env=variables)
        assert "the user is ad: 'min@, the password is in" in started.stderr
        psycopg.connect(
            host="127.0.0.1",
            port=port,
            user="ad: 'min@",
            password=server.password_file.read_text(),
            dbname="our %s shop",
        ).close()
        migrated = CliRunner().invoke(commands.app, ["up", "--no-seed"], env=variables)
        assert "no pending migrations" in migrated.stdout
        (server.directory / "names.json").write_text('{"superuser": 1}')
        assert server.address.username == "postgres"
    finally:
        server.delete()
    assert not server.directory.exists()


def test_a_server_is_replaced_only_by_one_that_runs(
    made: backup.Made, folder: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedServer(directory / "place", durable=False)
    server.start()
    start = EmbeddedServer.start
    try:
        run_sql(server.address.set(database="postgres"), "CREATE TABLE mine ()")

        def fail_in_place(self: EmbeddedServer, port: int | None = None) -> bool:
            if self.directory == server.directory and (self.data / "postgresql.auto.conf.original").exists():
                raise KeyboardInterrupt
            return start(self, port)

        monkeypatch.setattr(EmbeddedServer, "start", fail_in_place)
        with pytest.raises(KeyboardInterrupt):
            backup.restore(folder, server.directory, replace=True)
        monkeypatch.undo()
        run_sql(server.address.set(database="postgres"), "SELECT FROM mine")
        assert [path.name for path in directory.iterdir()] == ["place"]

        restored = backup.restore(folder, server.directory, replace=True)
        assert restored.backup == made.backup
        assert restored.replaced
        run_sql(server.address, "SELECT FROM parts")
        old = EmbeddedServer(restored.replaced, durable=False)
        assert not old.is_running
        old.start()
        run_sql(old.address.set(database="postgres"), "SELECT FROM mine")
        old.delete()
    finally:
        server.delete()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("{backup}/data/new", "in one another"),
        ("{directory}/files", "not an embedded server's"),
        # As one whose parent may not be searched, which the superuser of the system meets nowhere.
        ("{directory}/" + "x" * 300, "File name too long"),
    ],
)
def test_a_backup_is_not_restored_over_other_files(made: backup.Made, directory: Path, place: str, words: str) -> None:
    (directory / "files").mkdir()
    (directory / "files" / "mine").touch()
    with pytest.raises(backup.PlaceUnusable, match=words):
        backup.restore(made.backup.path, Path(place.format(backup=made.backup.path, directory=directory)), replace=True)
    assert (directory / "files" / "mine").exists()


# --- Damage -----------------------------------------------------------------------------------------------------------


def flip(path: Path, place: int | None = None) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 if place is None else place)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def relation(copied: Path) -> Path:
    files = (path for path in (copied / "data" / "base").rglob("*") if path.is_file())
    found = max(files, key=lambda path: path.stat().st_size)
    content = found.read_bytes()
    found.unlink()
    found.write_bytes(content)
    return found


def other_format(copied: Path, **facts: object) -> None:
    path = copied / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def edited(**facts: object) -> tuple[Callable[[Path], None], type[TatameError], str]:
    """Return how a manifest is edited by hand, with a checksum that fits it."""

    def edit(copied: Path) -> None:
        path = copied / "manifest.json"
        written = json.loads(path.read_text()) | facts
        del written["checksum"]
        path.write_text(json.dumps(written | {"checksum": manifests._checksum(written)}))

    return edit, backup.BackupDamaged, next(iter(facts))


def other_version(copied: Path) -> None:
    replace(read_manifest(copied), server_version="17.2").write(copied)


def make_pipe(path: Path) -> None:
    """Replace a file by a pipe, for which a reader would wait."""
    path.unlink()
    os.mkfifo(path)


def other_list(copied: Path) -> None:
    """Damage a file, and write a list of files that fits it."""
    flip(copied / "data" / "backup_manifest")


DAMAGE: dict[str, tuple[Callable[[Path], object], type[TatameError], str]] = {
    "flip": (lambda path: flip(relation(path)), backup.BackupDamaged, "checksum mismatch"),
    "wal": (lambda path: flip(min((path / "data/pg_wal").glob("0*")), 100), backup.BackupDamaged, "WAL"),
    "unreadable": (lambda path: relation(path).chmod(0), backup.BackupDamaged, "right to be read|ermission denied"),
    "truncated": (lambda path: os.truncate(relation(path), 8192), backup.BackupDamaged, "size"),
    "missing": (lambda path: relation(path).unlink(), backup.BackupDamaged, "not on disk|is present in the manifest"),
    "extra": (lambda path: (path / "data/base/1/extra").touch(), backup.BackupDamaged, "not in the manifest"),
    "list": (other_list, backup.BackupDamaged, "not the list"),
    "pipe": (lambda path: make_pipe(path / "data" / "backup_manifest"), backup.BackupDamaged, "no regular file"),
    "no list": (lambda path: (path / "data/backup_manifest").unlink(), backup.BackupDamaged, "No such file"),
    "manifest": (lambda path: other_format(path, name="another"), backup.BackupDamaged, "does not have the checksum"),
    "garbage": (lambda path: (path / "manifest.json").write_bytes(b"\xff{"), backup.BackupDamaged, "cannot be read"),
    "no object": (lambda path: (path / "manifest.json").write_text("[]"), backup.BackupDamaged, "cannot be read"),
    "no JSON": (
        lambda path: (path / "manifest.json").write_text("\n{"),
        backup.BackupDamaged,
        "no JSON from line 2 on",
    ),
    "deep": (
        lambda path: (path / "manifest.json").write_text("[" * 200_000),
        backup.BackupDamaged,
        "nested too deeply",
    ),
    "long": (lambda path: (path / "manifest.json").write_text("9" * 9999), backup.BackupDamaged, "number is too long"),
    "pipe for the manifest": (lambda path: make_pipe(path / "manifest.json"), backup.BackupDamaged, "no regular file"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), backup.BackupDamaged, "No such file"),
    "contents": edited(contents=[]),
    "digest": edited(contents={"tatame": {"size_bytes": 1, "revision": [], "tables": {"t": "1:x"}, "sequences": {}}}),
    "no zone": edited(ended="2026-03-01 10:00:00"),
    "far": (edited(ended="0001-01-01 00:00:00+14:00")[0], backup.BackupDamaged, "no time of a backup"),
    "number": edited(size_bytes=float("nan")),
    "setting": edited(settings={"port": "1'\nssl = 'on"}),
    "position": edited(start_lsn="zz"),
    "server": edited(server_version="x"),
    "newer": (lambda path: other_format(path, format=2), backup.BackupOfNewerFormat, "reads formats up to 1"),
    "version": (other_version, backup.BackupOfOtherVersion, "is of PostgreSQL 17"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_backup_is_named_and_not_restored(copied: Path, directory: Path, damage: str) -> None:
    hurt, error, words = DAMAGE[damage]
    hurt(copied)
    with pytest.raises(error, match=words) as caught:
        backup.restore(copied.parent, directory / "place")
    assert caught.value.exit_code == 1
    with pytest.raises(error, match=words) as caught:
        backup.drill(copied.parent)
    assert caught.value.exit_code == (3 if error is backup.BackupDamaged else 1)
    assert [path.name for path in directory.iterdir()] == ["backups"]
    # A backup that cannot be read here is not drilled.
    assert [drill.equal for drill in backup.read_drills(copied.parent)] == [False] * (caught.value.exit_code == 3)
    # A list reads no file of the data.
    listed = damage in {"flip", "wal", "unreadable", "extra", "list", "version"}
    [problem] = [found.problem for found in backup.list_backups(copied.parent)]
    assert (problem is None) == listed
    assert not any(words in str(problem) for words in ("Errno", "Expecting value"))


# --- Dumps ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dumped(_tatame_run: Run, home: Path) -> Generator[backup.Made]:
    """A dump that the backup role made, while another session wrote."""
    with with_roles(_tatame_run.clone()) as roled:
        with Database(roled.address) as database, database.engine.begin() as connection:
            seed.seed(connection, seed.SeedPlan(gyms=1, members=2, days=3, until=date(2026, 3, 1)))
        roled.apply()
        odd = f"odd\" ' %s {roled.names.app}"
        roled.others.append(odd)
        roled.run(
            f"CREATE ROLE {quoted(odd)}",
            f"CREATE POLICY own ON gyms TO {roled.names.app}, {quoted(odd)}, pg_monitor USING (true)",
        )

        def write(stage: str) -> None:
            if stage == "dumping the database":
                roled.run("INSERT INTO users (clerk_user_id) VALUES ('new'); DELETE FROM checkins")
                # A migration waits neither for what was read nor for what pg_dump is to read.
                roled.run("SET lock_timeout = 1; ALTER TABLE assets ADD later int")

        with Database(roled.at(roled.names.backup)) as database:
            yield backup.make_dump(database, home / "dumps", on_stage=write)


def test_a_dump_holds_its_snapshot_and_is_drilled_and_restored(
    dumped: backup.Made, server: EmbeddedServer, directory: Path
) -> None:
    manifest = dumped.backup.manifest
    assert manifest.method == "logical"
    assert manifest.begun < manifest.until < manifest.ended
    assert [name[:11] for name in manifest.roles] == ["odd\" ' %s t", "tatame_app_"]
    tables = manifest.contents[manifest.database].tables
    assert tables["public.checkins"].rows > 0
    (dumped.backup.path.parent / "drills.jsonl").mkdir()
    with Database(server.address.set(database=manifest.database)) as live:
        drilled = backup.drill(dumped.backup.path, live=live)
    assert drilled.differences == []
    users = tables["public.users"].rows
    assert drilled.live
    assert drilled.live.differences == [
        f"public.assets has {tables['public.assets'].rows} rows as in the backup, with other values",
        f"public.checkins has 0 rows, and {tables['public.checkins'].rows} in the backup",
        f"public.users has {users + 1} rows, and {users} in the backup",
    ]
    assert drilled.unrecorded == "Is a directory"
    assert backup.read_drills(dumped.backup.path.parent) == []
    assert manifest.system_identifier.isdigit()
    # No migration has made it.
    assert [problem[:15] for problem in drilled.schema_problems or []] == ["policy gyms.own"]
    restored = backup.restore(dumped.backup.path, directory / "place").server
    try:
        run_sql(restored.address.set(database=manifest.database), "INSERT INTO users (clerk_user_id) VALUES ('new')")
    finally:
        restored.delete()


@pytest.fixture(scope="module")
def older() -> Generator[URL]:
    """The database `postgres` of a PostgreSQL 15 that is reached over TLS."""
    require_older_programs()
    home, host, port = new_directory(), "127.1", free_port()
    settings = tls_settings(home, host) | {"listen_addresses": "127.0.0.1", "port": str(port)}
    query = {"sslmode": "verify-full", "sslrootcert": settings["ssl_cert_file"]}
    with foreign_server(OLDER_PROGRAMS, home / "server", **settings):
        yield URL.create("postgresql+psycopg", "postgres", host=host, port=port, database="postgres", query=query)
    shutil.rmtree(home)


def test_a_dump_of_an_older_server_over_tls_is_restored_on_the_new_one(
    older: URL, directory: Path, copied_dump: Callable[[], Path]
) -> None:
    with Database(older) as database:
        evolve.migrate(database.engine)
        with database.engine.begin() as connection:
            seed.seed(connection, seed.SeedPlan(gyms=1, members=2, days=3, until=date(2026, 3, 1)))
    # No other server has it.
    create_tablespace(older)
    run_sql(older, "ALTER TABLE gyms SET TABLESPACE inside")
    jobs: list[str] = []

    def noted(program: Path, arguments: list[str], *others: Any, **named: Any) -> None:
        jobs.extend(f"{program.name} {argument}" for argument in arguments if argument.startswith("--jobs"))
        run(program, arguments, *others, **named)

    run = programs.run
    with pytest.MonkeyPatch.context() as patch, Database(older) as database:
        patch.setenv("PATH", "/nowhere")
        with pytest.raises(backup.BackupRefused, match="the pg_dump of this package has no TLS") as caught:
            backup.make_dump(database, directory / "dumps")
        assert "own pg_dump 15 to 18" in caught.value.fix
        patch.setenv("PATH", f"{OLDER_PROGRAMS}:{os.defpath}")
        patch.setattr(programs, "run", noted)
        made = backup.make_dump(database, directory / "dumps", jobs=3)
        assert backup.drill(directory / "dumps", jobs=1).error is None
    assert made.backup.manifest.major_version == "15"
    assert jobs == ["pg_dump --jobs=3", *["pg_restore --jobs=3"] * 2, *["pg_restore --jobs=1"] * 2]

    def of_earlier_version(toc: Path) -> None:
        (toc.parents[1] / "files.sha256").unlink()
        flip(toc)

    damage: dict[str, Callable[[Path], object]] = {
        "  data/toc.dat is not as it was written": flip,
        "  data/toc.dat is missing": Path.unlink,
        "  data/ex tra is new": lambda toc: toc.with_name("ex tra").touch(),
        "  data/extra: it is no regular file": lambda toc: os.mkfifo(toc.with_name("extra")),
        "  a file in data is missing, new, or not as it was written": of_earlier_version,
    }
    for reason, hurt in damage.items():
        path = copied_dump()
        hurt(path / "data" / "toc.dat")
        with pytest.raises(backup.BackupDamaged) as damaged:
            backup.restore(path, directory / "place")
        assert damaged.value.reason == reason
        shutil.rmtree(path)
    assert not (directory / "place").exists()


@pytest.fixture
def copied_dump(dumped: backup.Made, directory: Path) -> Callable[[], Path]:
    """A function that copies the dump, to be damaged."""

    def copy() -> Path:
        return Path(shutil.copytree(dumped.backup.path, directory / "copies" / dumped.backup.path.name))

    return copy


def test_a_dump_that_cannot_be_made_restored_or_proved_is_none(
    bare_address: URL, origin: EmbeddedServer, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(
        address: URL, error: type[TatameError], words: str, locker: psycopg.Connection[tuple[Any, ...]] | None = None
    ) -> None:
        def lock(stage: str) -> None:
            if locker and stage == "dumping the database":
                locker.execute("LOCK TABLE one IN ACCESS EXCLUSIVE MODE")

        with Database(address) as database, pytest.raises(error, match=words):
            backup.make_dump(database, directory / "dumps", on_stage=lock)
        assert leftovers(directory / "dumps") == []
        assert backup.list_backups(directory / "dumps") == []

    fails(origin.address.set(username=Names().read_only), TatameError, "too few rights|permission denied")
    # A function that finds its table only by the search path, which a restore does not have.
    run_sql(
        bare_address,
        "CREATE TABLE one (id int); CREATE FUNCTION known(int) RETURNS bool LANGUAGE plpgsql AS"
        " 'BEGIN RETURN EXISTS (SELECT FROM one); END'; INSERT INTO one VALUES (1);"
        "CREATE TABLE two (id int CHECK (known(id))); INSERT INTO two VALUES (1)",
    )
    fails(bare_address, backup.DumpRejected, 'relation "one" does not exist')
    run_sql(bare_address, "DROP TABLE two")

    with psycopg.connect(readable(bare_address)) as other, monkeypatch.context() as patch:
        patch.setitem(contents._SETTINGS, "lock_timeout", "10ms")
        other.execute("LOCK TABLE one IN ACCESS EXCLUSIVE MODE")
        fails(bare_address, backup.TableLocked, "has locked public.one for 300 seconds")
        other.rollback()
        patch.setattr(programs, "LOCK_SECONDS", 1)
        fails(bare_address, backup.TableLocked, "has locked public.one for 1 second", other)

    def another(*arguments: Any) -> Any:
        found = contents_of(*arguments)
        return {name: replace(of, tables={"public.one": Fingerprint(1, 1)}) for name, of in found.items()}

    monkeypatch.setattr("tatame_db.backup.dump.contents_of", another)
    fails(bare_address, backup.DumpDiffers, "1 rows as before, with other values")


# --- Refusals ---------------------------------------------------------------------------------------------------------


def test_a_server_that_gives_no_base_backup_says_why(origin: EmbeddedServer, directory: Path, older: URL) -> None:
    def refused(address: URL) -> str:
        with Database(address) as database, pytest.raises(backup.BackupRefused) as caught:
            backup.make(database, directory / "backups")
        return str(caught.value)

    assert "ALTER ROLE tatame_read REPLICATION" in refused(origin.address.set(username=Names().read_only))
    assert "only PostgreSQL 18 can be restored here" in refused(older)
    (directory / "place").mkdir()
    shutil.chown(directory / "place", origin.data.stat().st_uid)
    run_sql(origin.address, f"CREATE TABLESPACE elsewhere LOCATION '{directory / 'place'}'")
    try:
        assert "outside its data directory: elsewhere\n" in refused(origin.address)
    finally:
        run_sql(origin.address, "DROP TABLESPACE elsewhere")
    assert not (directory / "backups").exists()
    with pytest.raises(
        backup.BackupRefused, match="encrypted, and the pg_basebackup of this package has no TLS"
    ) as caught:
        programs.program_for("pg_basebackup", origin.address, encrypted=True)
    assert "own pg_basebackup 18," in caught.value.fix


LIMITED = ("transaction_timeout", "idle_in_transaction_session_timeout")


def test_time_limits_of_roles_end_no_backup(origin: EmbeddedServer, directory: Path) -> None:
    roles = (Names().backup, "postgres")
    paused: list[str] = []

    def pause(stage: str) -> None:
        # Within the transaction that reads the tables, for longer than the limits.
        if stage.startswith("reading") and stage not in paused:
            paused.append(stage)
            if len(paused) == 1:
                threading.Event().wait(0.6)

    try:
        for role in roles:
            for limit in LIMITED:
                run_sql(origin.address, f"ALTER ROLE {role} SET {limit} = '500ms'")
        with Database(origin.address.set(username=Names().backup)) as database:
            tables = backup.make(database, directory, on_stage=pause).backup.manifest.contents["tatame"].tables
        assert len(paused) > 1
        paused.clear()
        with Database(origin.address) as database:
            dumped = backup.make_dump(database, directory, on_stage=pause).backup.manifest.contents["tatame"].tables
        assert dumped.keys() < tables.keys()
    finally:
        for role in roles:
            run_sql(origin.address, f"ALTER ROLE {role} RESET ALL")


def without_locks(*_: object) -> None:
    """Fail as `flock` does on some network file systems."""
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_a_second_backup_into_a_folder_and_a_folder_that_cannot_be_written_are_refused(
    origin: EmbeddedServer, made: backup.Made, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Database(origin.address) as database:
        before = os.umask(0)
        try:
            made.backup.manifest.write(directory)
            with folders.locked(directory / "backups"), pytest.raises(backup.BackupRunning):
                backup.make(database, directory / "backups")
        finally:
            os.umask(before)
        # No other user may enter it, or hold its lock.
        paths = (directory / "backups", directory / "backups" / folders.LOCK, directory / "manifest.json")
        assert [path.stat().st_mode & 0o777 for path in paths] == [0o700, 0o600, 0o600]
        (directory / "file").touch()
        with pytest.raises(backup.FolderUnusable):
            backup.make(database, directory / "file")
        monkeypatch.setattr(fcntl, "flock", without_locks)
        with pytest.raises(backup.FolderUnusable, match=r"gives no locks \(No locks available\)"):
            backup.make(database, directory / "backups")
        monkeypatch.undo()
        monkeypatch.setenv("TMPDIR", str(directory / "none"))
        with pytest.raises(backup.PlaceUnusable, match="`TMPDIR` names it"):
            backup.make(database, directory / "backups")
    long = directory / ("x" * 300)
    with pytest.raises(backup.FolderUnreadable, match="File name too long"):
        backup.list_backups(long)
    with pytest.raises(backup.NoBackup):
        backup.drill(directory / "backups")


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    origin: EmbeddedServer, made: backup.Made, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=1 << 20)

    monkeypatch.setattr(shutil, "disk_usage", small)
    with Database(origin.address) as database, pytest.raises(backup.SpaceMissing, match="has 1 MB free, and the ba"):
        backup.make(database, directory / "backups")
    with pytest.raises(backup.SpaceMissing, match="the restored server"):
        backup.restore(made.backup.path, directory / "place")
    with pytest.raises(backup.SpaceMissing, match="the scratch server"):
        backup.drill(made.backup.path)
    assert not (directory / "place").exists()


# --- Keep -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def old(made: backup.Made, directory: Path) -> Callable[..., backup.Backup]:
    """A function that adds a backup without files, which ended on a day of January, under the name of another day."""

    def add(
        named: int, ended: int | None = None, /, *, history: str = "", restores: str = "", **facts: Any
    ) -> backup.Backup:
        path = directory / f"202601{named:02}T000000Z"
        (path / "data" / "pg_wal").mkdir(parents=True)
        (path / "data" / "backup_label").write_text(f"START TIMELINE: {2 if history else 1}\n")
        (path / "data" / "pg_wal" / "00000002.history").write_text(history)
        if restores:
            (path / "data" / RESTORES).write_text(restores)
        moment = datetime(2026, 1, ended or named, tzinfo=UTC)
        manifest = replace(made.backup.manifest, ended=moment, contents={}, **facts)
        manifest.write(path)
        return backup.Backup(path, manifest)

    return add


def days(folder: Path) -> list[int]:
    return sorted(int(path.name[6:8]) for path in folder.glob("2026*Z"))


def test_old_backups_are_removed_but_not_one_that_is_being_restored(
    directory: Path, old: Callable[..., backup.Backup]
) -> None:
    backups = [old(day) for day in range(1, 6)]
    (directory / "20250101T000000Z.part").mkdir()
    (directory / "mine.part").mkdir()
    folders.remove_leftovers(directory)
    with folders.in_use(backups[1].path):
        assert remove_old(backups[4], 2) == [backups[0].path.name, backups[2].path.name]
    assert days(directory) == [2, 4, 5]
    assert remove_old(backups[4], 9) == []
    assert sorted(path.name for path in directory.iterdir() if path.suffix) == ["mine.part"]


def test_a_new_backup_removes_none_of_another_origin_or_kind_and_never_itself(
    directory: Path, old: Callable[..., backup.Backup]
) -> None:
    one = {"method": "logical", "database": "one"}
    # Renamed, or made while a clock was ahead.
    old(28, 2)
    old(3)
    old(4, system_identifier="7")
    old(5, **one)
    old(6, **one | {"database": "other"})
    old(7, **one, system_identifier="")
    (directory / "20260108T000000Z").mkdir()
    assert remove_old(old(20, database="one"), 1) == ["20260128T000000Z", "20260103T000000Z"]
    assert days(directory) == [4, 5, 6, 7, 8, 20]
    ahead = old(29)
    assert remove_old(old(21), 1) == ["20260120T000000Z", ahead.path.name]
    assert remove_old(old(22, **one), 1) == ["20260105T000000Z"]
    assert folders.choose(directory) == directory / "20260122T000000Z"
    last = old(23, **one)
    (directory / "20260122T000000Z.part" / "files").mkdir(parents=True)
    with pytest.raises(backup.OldBackupsStay, match="20260122T000000Z: Directory not empty"):
        remove_old(last, 1)
    assert days(directory) == [4, 6, 7, 8, 21, 22, 23]


def test_a_new_backup_removes_none_that_may_be_of_another_history(
    made: backup.Made, directory: Path, old: Callable[..., backup.Backup]
) -> None:
    left, lsn = "1\t0/400000\tno recovery target specified\n", {"start_lsn": "0/200005", "stop_lsn": "0/200010"}
    old(1, **lsn)
    # The disk was set back since.
    old(2, start_lsn="0/B00005", stop_lsn="0/B00010")
    old(3, history=left, restores="one\n", **lsn)
    old(4, history=left.replace("4", "5"), **lsn)
    late = {"start_lsn": "0/900005", "stop_lsn": "0/900010"}
    promoted = old(5, history=left, **late)
    assert remove_old(promoted, 1) == []
    # A copy that was promoted, as the archive of the original shows; and the server itself, as that of both does.
    size = 1 << 20
    (directory / WAL).mkdir()
    State(made.backup.manifest.system_identifier, "tatame_backup_1", size).write(directory)
    (directory / WAL / f"{1:08X}{0:08X}{9:08X}").write_bytes(bytes(size))
    assert remove_old(promoted, 1) == []
    (directory / WAL / f"{1:08X}{0:08X}{9:08X}").rename(directory / WAL / f"{2:08X}{0:08X}{9:08X}")
    (directory / WAL / "00000002.history").write_text(left)
    assert remove_old(promoted, 1) == ["20260101T000000Z"]
    assert remove_old(old(6, history=left, **late), 1) == ["20260105T000000Z"]
    assert remove_old(old(7, **late), 1) == []
    (directory / "20260107T000000Z" / "data" / "backup_label").unlink()
    assert remove_old(old(8, **late), 1) == []
    assert days(directory) == [2, 3, 4, 6, 7, 8]


def test_the_base_backup_that_the_archive_continues_stays(
    made: backup.Made, directory: Path, old: Callable[..., backup.Backup]
) -> None:
    size = 1 << 20
    (directory / WAL).mkdir()
    State(made.backup.manifest.system_identifier, "tatame_backup_1", size).write(directory)
    (directory / WAL / f"{1:08X}{0:08X}{2:08X}").write_bytes(bytes(size))
    for day in (1, 2):
        old(day, start_lsn="0/200005", stop_lsn="0/200010")
    # The follower has not received what belongs to this one.
    late = old(3, start_lsn="0/900005", stop_lsn="0/900010")
    assert remove_old(late, 1) == ["20260101T000000Z"]
    (directory / WAL / f"{1:08X}{0:08X}{9:08X}").write_bytes(bytes(size))
    assert remove_old(late, 1) == ["20260102T000000Z"]
    (directory / WAL / "archive.json").write_text("{")
    with pytest.raises(backup.OldBackupsStay, match=r"archive\.json cannot be read"):
        remove_old(old(4), 1)
    assert days(directory) == [3, 4]


def test_a_backup_of_before_a_gap_stays_with_its_log(
    made: backup.Made, directory: Path, old: Callable[..., backup.Backup]
) -> None:
    state = State(made.backup.manifest.system_identifier, "tatame_backup_1", 1 << 20)
    segment = f"{1:08X}{0:08X}{2:08X}"
    early, later = (old(day, start_lsn="0/200005", stop_lsn="0/200010") for day in (1, 2))
    for one in (early, later):
        (one.data / "pg_wal").mkdir(exist_ok=True)
        (one.data / "pg_wal" / segment).write_bytes(b"log" * 10)
    (directory / WAL).mkdir()
    state.write(directory)
    (directory / WAL / segment).write_bytes((b"log" * 10).ljust(1 << 20, b"\0"))
    assert remove_old(later, 1) == ["20260101T000000Z"]
    begin_anew(directory, state, "the log is another one")
    newest = old(3, start_lsn="0/900005", stop_lsn="0/900010")
    # The archive continues the new backup by now.
    (directory / WAL / f"{1:08X}{0:08X}{9:08X}").write_bytes(bytes(1 << 20))
    assert remove_old(newest, 1) == []
    [place] = (directory / WAL / "earlier").iterdir()
    assert (place / segment).exists()


@pytest.mark.parametrize("name", ["backup_label", RESTORES])
def test_a_pipe_in_the_history_of_a_backup_is_damage(copied: Path, name: str) -> None:
    (copied / "data" / name).touch()
    make_pipe(copied / "data" / name)
    with pytest.raises(backup.ArchiveDamaged, match="no regular file"):
        history_of(backup.Backup(copied, read_manifest(copied)))


def test_a_pipe_in_a_folder_of_backups_is_not_waited_for(directory: Path) -> None:
    (directory / WAL).mkdir()
    for path in (directory / WAL / STATE, directory / WAL / MARKS, directory / DRILLS):
        os.mkfifo(path)
    with pytest.raises(backup.ArchiveDamaged, match="no regular file"):
        read_state(directory)
    assert read_marks(directory / WAL, None) == []
    assert backup.read_drills(directory) == []


# --- Killed, cut, full ------------------------------------------------------------------------------------------------

STAGES = ["copying the server's files", "copying the server's files: ", "verifying", "restoring", "reading"]
KILLED = """
import os, sys
from pathlib import Path
from tatame_db import backup
from tatame_db.database.pool import Database
from tatame_db.server import run_directory

run_directory._DISK = Path({disk!r})

def stage(text):
    if text.startswith({stage!r}):
        os.kill(os.getpid(), 9)

def before_rename(place):
    if {stage!r} == "written":
        os.kill(os.getpid(), 9)

sys.modules["tatame_db.backup.make"].sync = before_rename
with Database({address!r}) as database:
    backup.make(database, Path({folder!r}), on_stage=stage)
"""


@pytest.mark.long
def test_a_backup_that_is_killed_in_any_stage_is_none_and_is_cleared_up(
    origin: EmbeddedServer, directory: Path, zygote: Zygote, tmp_path: Path
) -> None:
    folder = directory / "backups"
    for stage in [*STAGES, "written"]:
        facts = {
            "address": readable(origin.address),
            "folder": str(folder),
            "disk": str(new_run_directory(on_disk=True).parent),
        }
        done = zygote.run(cwd=tmp_path, environment=dict(os.environ), code=KILLED.format(stage=stage, **facts))
        assert done.returncode == -9, (stage, done.stderr)
        assert [path.suffix for path in folder.iterdir() if path.is_dir()] == [".part"]
        assert backup.list_backups(folder) == []
        with pytest.raises(backup.NoBackup):
            backup.restore(folder, directory / "place")
        wait_for_lock(folder)
    with Database(origin.address) as database:
        backup.make(database, folder)
    assert leftovers(folder) == []
    assert len(backup.list_backups(folder)) == 1


def wait_for_lock(folder: Path) -> None:
    """Wait until pg_basebackup has ended, which holds the lock of a process that was killed for some moments."""
    with (folder / folders.LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_backup_leaves_nothing(origin: EmbeddedServer, directory: Path, stage: str) -> None:
    def interrupt(text: str) -> None:
        if text.startswith(stage):
            raise KeyboardInterrupt

    with Database(origin.address) as database, pytest.raises(KeyboardInterrupt):
        backup.make(database, directory / "backups", on_stage=interrupt)
    assert leftovers(directory / "backups") == []
    assert backup.list_backups(directory / "backups") == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("backup {new}", "no unfinished backup is left; `tatame-db backups` lists the complete ones"),
        ("restore {made} --drill", "no restored copy is left; the backup is unchanged;"),
        ("restore {made} --to {new}", "{new} has either what was there before, or the whole restored"),
    ],
)
def test_an_interrupted_command_says_what_there_is(
    origin: EmbeddedServer, made: backup.Made, directory: Path, command: str, words: str
) -> None:
    names = {"new": str(directory / "new"), "made": str(made.backup.path)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console.Progress, "stage", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        variables = {"DATABASE_URL": readable(origin.address)}
        done = CliRunner().invoke(commands.app, command.format(**names).split(), env=variables)
    assert (done.exit_code, "interrupted: " in done.output) == (130, True)
    assert words.format(**names) in done.output
    assert "rolled back" not in done.output
    assert leftovers(directory) == []


def test_ctrl_c_ends_a_dump_of_a_server_that_is_silent(origin: EmbeddedServer, directory: Path) -> None:
    stopped: list[int] = []

    def hold(text: str) -> None:
        if text == "dumping the database":
            with psycopg.connect(readable(origin.address)) as connection:
                query = (
                    "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction' AND backend_xmin IS NOT NULL"
                )
                stopped.extend(pid for (pid,) in connection.execute(query))
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            raise KeyboardInterrupt

    def wake() -> None:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)

    with Database(origin.address) as database:
        late = threading.Timer(60, wake)
        late.start()
        with pytest.raises(KeyboardInterrupt):
            backup.make_dump(database, directory / "backups", on_stage=hold)
        assert late.is_alive()
        late.cancel()
        wake()
    assert stopped
    assert leftovers(directory / "backups") == []


def test_an_interrupted_or_killed_restore_leaves_no_server(
    made: backup.Made, directory: Path, zygote: Zygote, tmp_path: Path
) -> None:
    def interrupt(text: str) -> None:
        if text == "recovered":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup.restore(made.backup.path, directory / "place", on_stage=interrupt)
    assert list(directory.iterdir()) == []
    code = (
        "import os; from pathlib import Path; from tatame_db import backup\n"
        f"backup.restore(Path({str(made.backup.path)!r}), Path({str(directory / 'place')!r}),"
        " on_stage=lambda text: text == 'recovered' and os.kill(os.getpid(), 9))"
    )
    assert zygote.run(cwd=tmp_path, environment=dict(os.environ), code=code).returncode == -9
    assert not (directory / "place").exists()
    server = backup.restore(made.backup.path, directory / "place").server
    server.delete()
    assert list(directory.iterdir()) == []


def test_a_cut_connection_ends_the_backup_with_words_and_no_password(origin: EmbeddedServer, directory: Path) -> None:
    port = int((origin.data / "postmaster.pid").read_text().split("\n")[3])
    password = origin.password_file.read_text()
    with relay(port, cut_after=3 << 20) as (cut, _):
        address = URL.create("postgresql+psycopg", "postgres", password, "127.0.0.1", cut, "tatame")
        with Database(address) as database, pytest.raises(backup.BackupFailed, match="pg_basebackup failed") as caught:
            backup.make(database, directory / "backups")
    assert password not in str(caught.value)
    assert environment_for(address)["PGPASSWORD"] == password
    assert leftovers(directory / "backups") == []


@pytest.mark.parametrize("several", [False, True])
def test_a_disk_that_fills_up_during_a_restore_is_named(
    made: backup.Made, directory: Path, monkeypatch: pytest.MonkeyPatch, several: bool
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*_: object) -> None:
        raise shutil.Error([("from", "to", str(full))]) if several else full

    monkeypatch.setattr("tatame_db.backup.restored.copy_data", fail)
    with pytest.raises(DirectoryUnusable, match="No space left on device"):
        backup.restore(made.backup.path, directory / "place")
    with pytest.raises(DirectoryUnusable, match="No space left on device"):
        backup.drill(made.backup.path)
    assert list(directory.iterdir()) == []


FULL = """
import os, shutil, sys
from pathlib import Path
from types import SimpleNamespace
from tatame_db import backup
from tatame_db.backup import dump, restored
from tatame_db.database.pool import Database
from tatame_db.errors import TatameError
from tests.servers import quicken

quicken(Path(sys.argv[3]), setattr, small_wal=True)
# Another program fills the disk after the space was checked.
shutil.disk_usage = lambda _: SimpleNamespace(free=1 << 40)
os.environ["TMPDIR"] = tempdir = str(Path("scratch").absolute())
restore_dump = restored.restore_dump

def fill(place):
    state = os.statvfs(place)
    with open(f"{place}/filler", "wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, state.f_bavail * state.f_bsize)

def attempt(name, place, action):
    try:
        print("NOT FULL", name, action(lambda: fill(place)))
    except TatameError as error:
        left = [path.name for part in ("backups", "scratch", "places") for path in Path(part).iterdir()]
        whole = backup.list_backups(Path("backups").absolute())
        full = "No space left on device" in error.what
        print(name, type(error).__name__, error.exit_code, full, whole, {*left} - {"filler", ".tatame-db-backups"})
    Path(place, "filler").unlink()

def at(stage, full):
    return lambda text: text.startswith(stage) and not [*Path().glob("*/filler")] and full()

with Database(sys.argv[1]) as database:
    folder, place = Path("backups"), Path("places/place")
    for where, stage in (("backups", "copying"), ("scratch", "restoring"), ("backups", "reading")):
        attempt(stage, where, lambda full: backup.make(database, folder, on_stage=at(stage, full)))
    for where, stage in (("backups", "dumping"), ("scratch", "restoring")):
        attempt(stage, where, lambda full: backup.make_dump(database, folder, on_stage=at(stage, full)))
    def full_restore(full):
        restored.restore_dump = lambda *facts, **jobs: (full(), restore_dump(*facts, **jobs))
        return backup.make_dump(database, folder)
    attempt("pg_restore", "scratch", full_restore)
    made = Path(sys.argv[2])
    attempt("restore", "places", lambda full: backup.restore(made, place, on_stage=at("copying", full)))
"""


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="root alone mounts file systems")
def test_a_disk_that_fills_up_in_any_stage_is_named_and_nothing_looks_whole(
    origin: EmbeddedServer, made: backup.Made, directory: Path, disk: Path
) -> None:
    disks = ("backups", "scratch", "places")
    for place in disks:
        (directory / place).mkdir()
    mounts = " && ".join(f"mount -t tmpfs -o size=120m,mode=755 none {place}" for place in disks)
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-ec", f'{mounts} && exec "$@"', "sh", sys.executable, "-c", FULL),
            *(readable(origin.address), str(made.backup.path), str(disk / TEMPLATE)),
        ],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
        capture_output=True,
        text=True,
        cwd=directory,
    )
    assert done.stdout.splitlines() == [
        f"{stage} {error} 1 True [] set()"
        for stage, error in (
            ("copying", "BackupFailed"),
            ("restoring", "DirectoryUnusable"),
            ("reading", "FolderUnusable"),
            ("dumping", "BackupFailed"),
            ("restoring", "DirectoryUnusable"),
            ("pg_restore", "SpaceRanOut"),
            ("restore", "DirectoryUnusable"),
        )
    ], done.stderr


def test_a_full_disk_ends_the_backup_with_words(
    origin: EmbeddedServer, directory: Path, zygote: Zygote, tmp_path: Path
) -> None:
    code = (
        "import resource; from pathlib import Path; from tatame_db import backup\n"
        "from tatame_db.database.pool import Database\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
        f"with Database({readable(origin.address)!r}) as database:\n"
        "    try:\n"
        f"        backup.make(database, Path({str(directory / 'backups')!r}))\n"
        "    except backup.BackupFailed as error:\n"
        "        print(error)\n"
    )
    done = zygote.run(cwd=tmp_path, environment=dict(os.environ), code=code)
    assert "pg_basebackup failed" in done.stdout, done.stderr
    assert leftovers(directory / "backups") == []
