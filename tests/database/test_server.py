from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy import text
from tests.conftest import free_port, postmaster_pid

from tatame_db.database.address import is_local, libpq_variables, parse_address, readable
from tatame_db.database.creation import create_missing_database
from tatame_db.database.errors import ConnectionRefused, ServerSilent
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.move.open import open_source
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.server.errors import (
    DataIncomplete,
    DataInUse,
    DataOfOtherVersion,
    DirectoryUnusable,
    PortNotOpen,
    PortTaken,
    ProgramFailed,
)
from tatame_db.server.replacement import ReplacementUnfinished, former_place, restored_part
from tatame_db.testing.sandbox import Sandbox

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def taken_port() -> Generator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def _answer(server: EmbeddedServer) -> str:
    with psycopg.connect(readable(server.address.set(database="postgres"))) as connection:
        row = connection.execute("SELECT current_setting('server_version')").fetchone()
        assert row
        return str(row[0])


@pytest.mark.usefixtures("initdb")
def test_a_started_server_answers_with_version_18(fresh_server: EmbeddedServer) -> None:
    assert fresh_server.start()
    assert fresh_server.is_running
    assert _answer(fresh_server).startswith("18.")


def test_starting_twice_starts_once(fresh_server: EmbeddedServer) -> None:
    assert fresh_server.start()
    first = postmaster_pid(fresh_server)
    assert not fresh_server.start()
    assert postmaster_pid(fresh_server) == first


@pytest.mark.usefixtures("initdb")
def test_two_starts_at_once_end_with_one_server(directory: Path) -> None:
    servers = [EmbeddedServer(directory / "server", durable=False) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        started = list(pool.map(EmbeddedServer.start, servers))
    assert sorted(started) == [False, False, False, True]
    assert _answer(servers[0])
    servers[0].delete()


def test_data_survives_a_stop_and_a_start(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    create_missing_database(fresh_server.address)
    with Database(fresh_server.address) as database, database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE survivors AS SELECT 7 AS number"))
    assert fresh_server.stop()
    assert not fresh_server.is_running
    assert fresh_server.start()
    with Database(fresh_server.address) as database, database.engine.begin() as connection:
        assert connection.scalar(text("SELECT number FROM survivors")) == 7


def test_stopping_a_stopped_server_returns_false(fresh_server: EmbeddedServer) -> None:
    assert not fresh_server.stop()
    fresh_server.start()
    assert fresh_server.stop()
    assert not fresh_server.stop()


def test_a_killed_server_starts_again(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    killed = postmaster_pid(fresh_server)
    os.kill(killed, signal.SIGKILL)
    assert fresh_server.start()
    assert postmaster_pid(fresh_server) != killed
    assert _answer(fresh_server)


@pytest.fixture
def suspended_server(fresh_server: EmbeddedServer) -> Generator[EmbeddedServer]:
    fresh_server.start()
    process = postmaster_pid(fresh_server)
    os.kill(process, signal.SIGSTOP)
    yield fresh_server
    os.kill(process, signal.SIGCONT)


@pytest.mark.parametrize("action", ["start", "stop", "delete", "connect"])
def test_a_suspended_server_is_named_with_the_command_that_continues_it(
    suspended_server: EmbeddedServer, action: str
) -> None:
    process = postmaster_pid(suspended_server)
    database = Database(suspended_server.address)
    act = database.ping if action == "connect" else getattr(suspended_server, action)
    with pytest.raises(ServerSilent, match=f"process {process} is suspended") as caught:
        act()
    assert caught.value.fix == f"continue it with `kill -CONT {process}`"
    assert suspended_server.is_running


def test_a_suspended_server_of_another_installation_is_named_too(older_sandbox: Sandbox) -> None:
    address = older_sandbox.address
    process = int((Path(str(address.query["host"])) / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(process, signal.SIGSTOP)
    try:
        with pytest.raises(ServerSilent, match=f"process {process} is suspended"):
            Database(address).ping()
    finally:
        os.kill(process, signal.SIGCONT)


def test_a_server_that_starts_on_another_port_has_the_same_address(fresh_server: EmbeddedServer) -> None:
    address = fresh_server.address
    for port in (free_port(), None, free_port()):
        fresh_server.start(port=port)
        assert fresh_server.address == address
        assert _answer(fresh_server)
        assert not fresh_server.start(port=port)
        assert fresh_server.stop()


@pytest.fixture
def bystander(fresh_server: EmbeddedServer) -> Generator[subprocess.Popen[bytes]]:
    """A process of the server's user that is no server, and that a signal would end."""
    with subprocess.Popen(["sleep", "600"], **fresh_server._as_owner) as process:
        yield process
        process.kill()


def kill(server: EmbeddedServer) -> None:
    """End a server and all its processes at once, as a power cut does."""
    postmaster = psutil.Process(postmaster_pid(server))
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        process.suspend()
    for process in processes:
        process.kill()
    psutil.wait_procs(processes)


def _lock_naming(process: int, server: EmbeddedServer) -> str:
    _, *rest = (server.data / "postmaster.pid").read_text().splitlines()
    return "\n".join([str(process), *rest, ""])


@pytest.mark.parametrize("port", [None, 1])
@pytest.mark.parametrize("action", ["start", "stop", "delete"])
def test_a_process_with_the_number_of_a_killed_server_is_not_taken_for_it(
    fresh_server: EmbeddedServer, bystander: subprocess.Popen[bytes], action: str, port: int | None
) -> None:
    fresh_server.start(port=port and free_port())
    kill(fresh_server)
    lock = _lock_naming(bystander.pid, fresh_server)
    (fresh_server.data / "postmaster.pid").write_text(lock)
    (fresh_server.directory / ".s.PGSQL.5432.lock").write_text(lock)

    assert getattr(fresh_server, action)() is (action != "stop")
    assert bystander.poll() is None
    if action == "delete":
        assert not fresh_server.directory.exists()
    assert fresh_server.start() is (action != "start")
    assert _answer(fresh_server)


@pytest.mark.skipif(not IS_ROOT or not shutil.which("setpriv"), reason="root alone loses a right, with `setpriv`")
def test_root_in_a_container_knows_the_servers_process_by_its_start(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    code = """
import sys
from dataclasses import replace
from pathlib import Path
from tatame_db.server.postmaster import read_lock
found = read_lock(Path(sys.argv[1]))
print(found.is_alive, replace(found, started=found.started - 60).is_alive)
"""
    drop = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    lock = fresh_server.data / "postmaster.pid"
    done = subprocess.run([*drop, sys.executable, "-c", code, lock], check=True, capture_output=True, text=True)
    assert done.stdout == "True False\n"


@pytest.mark.parametrize("rest", ["", "4", "12\n/somewhere\n", "\0" * 60])
def test_a_lock_that_a_power_cut_left_half_written_does_not_prevent_a_start(
    fresh_server: EmbeddedServer, rest: str
) -> None:
    fresh_server.start()
    kill(fresh_server)
    for lock in (fresh_server.data / "postmaster.pid", fresh_server.directory / ".s.PGSQL.5432.lock"):
        lock.write_text(rest)
    assert not fresh_server.stop()
    assert fresh_server.start()
    assert _answer(fresh_server)


def test_sockets_that_a_deleted_server_left_do_not_prevent_a_start(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    kill(fresh_server)
    (fresh_server.directory / ".tatame-db").unlink()
    shutil.rmtree(fresh_server.data)
    for name in ("password", "postgres.log"):
        (fresh_server.directory / name).unlink()
    assert fresh_server.start()


def test_a_start_succeeds_after_a_killed_start(fresh_server: EmbeddedServer) -> None:
    code = (
        "import sys; from pathlib import Path; from tatame_db.server.embedded import EmbeddedServer;"
        "print('go', flush=True); EmbeddedServer(Path(sys.argv[1]), durable=False).start()"
    )
    starting = subprocess.Popen(
        [sys.executable, "-c", code, str(fresh_server.directory)], stdout=subprocess.PIPE, process_group=0
    )
    assert starting.stdout
    starting.stdout.readline()
    half_created = fresh_server.directory / "data.new"
    while not half_created.exists() and starting.poll() is None:
        pass
    os.killpg(starting.pid, signal.SIGKILL)
    starting.wait()
    starting.stdout.close()
    assert not fresh_server.data.exists()

    assert fresh_server.start()
    assert _answer(fresh_server)


@pytest.mark.usefixtures("initdb")
def test_a_path_that_is_too_long_for_a_socket_still_works(directory: Path) -> None:
    server = EmbeddedServer(directory / ("deep" * 30) / "server", durable=False)
    try:
        server.start()
        assert _answer(server)
    finally:
        server.delete()
    assert not server._socket_directory.exists()


@pytest.mark.usefixtures("initdb")
def test_a_path_with_spaces_quotes_commas_and_accents_works(directory: Path) -> None:
    server = EmbeddedServer(directory / 'it\'s, a `$HOME` "ç"', durable=False)
    try:
        server.start()
        assert _answer(server)
    finally:
        server.delete()


def test_a_taken_port_is_reported_and_nothing_is_started(fresh_server: EmbeddedServer, taken_port: int) -> None:
    with pytest.raises(PortTaken) as caught:
        fresh_server.start(port=taken_port)
    assert caught.value.port == taken_port
    assert not fresh_server.is_running


@pytest.mark.usefixtures("initdb")
def test_the_port_requires_the_password_and_the_socket_does_not(fresh_server: EmbeddedServer) -> None:
    port = free_port()
    fresh_server.start(port=port)
    assert _answer(fresh_server)
    there = f"host=127.0.0.1 port={port} user=postgres dbname=postgres"
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(there, password="guess")
    psycopg.connect(there, password=fresh_server.password_file.read_text()).close()


def test_the_hosts_of_an_address_are_tried_in_turn_and_can_be_pasted_back(fresh_server: EmbeddedServer) -> None:
    port, closed = free_port(), free_port()
    fresh_server.start(port=port)
    password = fresh_server.password_file.read_text()
    hosts = f"127.0.0.1:{closed},127.0.0.1:{port}"
    address = parse_address(f"postgresql://postgres:{password}@{hosts}/postgres?target_session_attrs=read-write")
    assert is_local(address)
    with Database(address) as database:
        database.ping()
    psycopg.connect(readable(address), password=password).close()
    with Database(parse_address(readable(address)).set(password=password)) as database:
        database.ping()


def test_a_port_of_another_program_is_not_mistaken_for_the_servers(
    fresh_server: EmbeddedServer, taken_port: int
) -> None:
    fresh_server.start()
    with pytest.raises(PortNotOpen):
        fresh_server.start(port=taken_port)


def test_a_running_server_does_not_open_another_port(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    with pytest.raises(PortNotOpen):
        fresh_server.start(port=free_port())


@pytest.mark.usefixtures("initdb")
def test_only_the_owner_can_enter_the_directory(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    assert fresh_server.directory.stat().st_mode & 0o077 == 0
    assert fresh_server.password_file.stat().st_mode & 0o077 == 0


def test_data_of_another_version_is_refused_and_untouched(
    fresh_server: EmbeddedServer, postgres_programs: Callable[[int], Path]
) -> None:
    fresh_server.start()
    fresh_server.stop()
    older = fresh_server.directory / "older"
    subprocess.run(
        [postgres_programs(14) / "initdb", "--username=postgres", "--auth=trust", "--no-sync", f"--pgdata={older}"],
        check=True,
        cwd=fresh_server.directory,
        stdout=subprocess.DEVNULL,
        **fresh_server._as_owner,
    )
    fresh_server.data.rename(fresh_server.directory / "eighteen")
    older.rename(fresh_server.data)

    with pytest.raises(DataOfOtherVersion) as caught:
        fresh_server.start()
    assert caught.value.version == "14"
    assert (fresh_server.data / "PG_VERSION").read_text() == "14\n"


@pytest.mark.parametrize("missing", ["PG_VERSION", "global/pg_control"])
def test_incomplete_data_is_refused_until_it_is_deleted(fresh_server: EmbeddedServer, missing: str) -> None:
    fresh_server.start()
    fresh_server.stop()
    (fresh_server.data / missing).unlink()

    with pytest.raises(DataIncomplete):
        fresh_server.start()
    assert fresh_server.delete()
    assert fresh_server.start()


def test_data_in_use_by_another_server_is_refused(fresh_server: EmbeddedServer, directory: Path) -> None:
    fresh_server.start()
    other = EmbeddedServer(directory / "other", durable=False)
    with other._locked():
        pass
    # The same data under another name, so that its socket is in another directory.
    (other.directory / "data").symlink_to(fresh_server.data)
    with pytest.raises(DataInUse) as caught:
        other.start()
    assert caught.value.pid == str(postmaster_pid(fresh_server))
    assert fresh_server.is_running


def test_a_directory_with_other_files_is_untouched(directory: Path) -> None:
    (directory / "thesis.txt").write_text("years of work")
    directory.chmod(0o755)
    server = EmbeddedServer(directory, durable=False)
    with pytest.raises(DirectoryUnusable, match="not the embedded server's"):
        server.start()
    assert not server.delete()
    assert directory.stat().st_mode & 0o777 == 0o755
    assert (directory / "thesis.txt").read_text() == "years of work"


def test_a_foreign_directory_named_data_is_never_deleted(directory: Path) -> None:
    (directory / "data").mkdir()
    (directory / "data" / "results.csv").write_text("years of work")
    server = EmbeddedServer(directory, durable=False)
    with pytest.raises(DirectoryUnusable):
        server.start()
    assert not server.delete()
    assert (directory / "data" / "results.csv").exists()


DELETE = """
import sys
from pathlib import Path
from tatame_db.server.embedded import EmbeddedServer
EmbeddedServer(Path(sys.argv[1]), durable=False).delete()
"""


def test_a_delete_that_is_killed_leaves_no_half_of_the_data(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    # So that the deletion takes a while.
    many = fresh_server.data / "base" / "many"
    many.mkdir()
    for number in range(20_000):
        (many / str(number)).touch()
    with subprocess.Popen([sys.executable, "-c", DELETE, fresh_server.directory]) as deleting:
        with contextlib.suppress(FileNotFoundError):
            while len(list(many.iterdir())) == 20_000:
                pass
        deleting.kill()
    if fresh_server.data.exists():
        with pytest.raises(DataIncomplete, match="tatame-db down"):
            fresh_server.start()
        assert fresh_server.delete()
    assert fresh_server.start()
    assert not many.exists()


def test_a_replacement_that_was_killed_halfway_is_no_new_server(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    place = fresh_server.directory
    former = fresh_server.rename(former_place(place, "20260102T030405Z"))
    restored_part(place).mkdir()
    (restored_part(place) / "data").mkdir()
    with pytest.raises(ReplacementUnfinished, match=rf"(?s)former server is in {former.directory}.*mv {place}\.part"):
        fresh_server.start()
    former.rename(place)
    assert fresh_server.start()
    # Without the half of a restore, only a deleted server was there.
    fresh_server.delete()
    shutil.rmtree(restored_part(place))
    assert fresh_server.start()


def test_data_on_another_disk_is_deleted_through_its_link(fresh_server: EmbeddedServer, directory: Path) -> None:
    fresh_server.start()
    fresh_server.stop()
    disk = directory / "disk"
    fresh_server.data.rename(disk)
    fresh_server.data.symlink_to(disk)
    fresh_server._new_data.symlink_to(directory)
    assert fresh_server.delete()
    assert not list(disk.iterdir())
    assert not fresh_server.directory.exists()
    assert fresh_server.start()


def test_delete_removes_the_servers_files_and_no_others(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    (fresh_server.directory / "notes.txt").write_text("a note")
    assert fresh_server.delete()
    assert [path.name for path in fresh_server.directory.iterdir()] == ["notes.txt"]
    (fresh_server.directory / "notes.txt").unlink()
    assert not fresh_server.delete()


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


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        # Root mounts a small file system. Other users do the closest thing that needs no privileges.
        ("mount -t tmpfs -o size=6m,mode=755 none .", "No space left on device")
        if IS_ROOT
        else ("ulimit -f 1000", "File too large"),
        ("mount -t tmpfs -o mode=755 none . && mount -o remount,ro .", "Read-only file system")
        if IS_ROOT
        else ("chmod 555 .", "Permission denied"),
    ],
    ids=["full", "read-only"],
)
def test_a_full_or_read_only_disk_is_reported(directory: Path, prepare: str, reason: str) -> None:
    script = f'{prepare} && exec "$@"'
    namespace = ["unshare", "--mount"] if IS_ROOT else []
    done = subprocess.run(
        [*namespace, "sh", "-ec", script, "sh", sys.executable, "-c", START, str(directory / "server")],
        check=True,
        capture_output=True,
        text=True,
        cwd=directory,
    )
    directory.chmod(0o755)
    assert reason in done.stdout
    assert "untouched" in done.stdout


@pytest.mark.parametrize("action", ["start", "stop", "delete"])
def test_a_file_in_place_of_the_directory_is_reported(directory: Path, action: str) -> None:
    (directory / "file").write_text("years of work")
    with pytest.raises(DirectoryUnusable, match="it is a file, not a directory"):
        getattr(EmbeddedServer(directory / "file"), action)()
    with pytest.raises(DirectoryUnusable, match="Not a directory"):
        EmbeddedServer(directory / "file" / "server").start()
    assert (directory / "file").read_text() == "years of work"


def test_a_directory_in_place_of_the_mark_is_named(directory: Path) -> None:
    (directory / ".tatame-db").mkdir()
    with pytest.raises(DirectoryUnusable, match=r"\.tatame-db: Is a directory"):
        EmbeddedServer(directory).start()


@pytest.mark.skipif(not IS_ROOT, reason="root alone mounts file systems")
@pytest.mark.parametrize(
    ("mounted", "reported"),
    [
        ("mount -t tmpfs -o size=64k none /dev/shm", "shm is full or too small"),
        ("mount -t tmpfs -o size=24m,mode=755 none .", "No space left on device"),
    ],
)
def test_the_file_system_that_is_full_is_named(directory: Path, mounted: str, reported: str) -> None:
    script = f'{mounted} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script, "sh", sys.executable, "-c", START, str(directory / "server")],
        check=True,
        capture_output=True,
        text=True,
        cwd=directory,
    )
    assert reported in done.stdout


@pytest.mark.usefixtures("initdb")
def test_the_umask_does_not_keep_the_servers_user_out(directory: Path) -> None:
    server = EmbeddedServer(directory / "new" / "parents" / "server", durable=False)
    before = os.umask(0o077)
    try:
        assert server.start()
    finally:
        os.umask(before)
        server.delete()


def test_the_user_and_directory_that_started_a_server_are_known(fresh_server: EmbeddedServer) -> None:
    assert fresh_server.starter is None
    fresh_server.start()
    assert str(fresh_server.starter).endswith(f" in {Path.cwd()}")
    fresh_server.stop()
    assert str(fresh_server.starter).endswith(f" in {Path.cwd()}")


def test_a_broken_configuration_is_reported_with_the_servers_output(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    fresh_server.stop()
    (fresh_server.data / "postgresql.conf").write_text("shared_buffers = 'a lot'\n")
    with pytest.raises(ProgramFailed, match="shared_buffers"):
        fresh_server.start()


@pytest.mark.usefixtures("initdb")
def test_the_callers_libpq_variables_do_not_affect_the_server(
    fresh_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGDATA": "/nowhere", "PGPORT": "1", "LC_ALL": "xx_XX.UTF-8", "LANG": "yy_YY"}.items():
        monkeypatch.setenv(name, value)
    assert fresh_server.start()
    assert fresh_server.is_running


@pytest.fixture
def _hostile_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set each variable that libpq knows to what leads to another server, or to no value of it."""
    for name in libpq_variables():
        monkeypatch.setenv(name, "10.0.0.1")
    monkeypatch.setenv("PGSERVICE", "production")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    hostile = {"host": "10.0.0.1", "hostaddr": "10.0.0.1", "port": "1", "options": "-c no=such", "sslmode": "require"}
    lines = "".join(f"{name}={value}\n" for name, value in hostile.items())
    (tmp_path / "services").write_text(f"[production]\n{lines}")


@pytest.mark.usefixtures("_hostile_variables", "initdb")
@pytest.mark.parametrize("part", ["", "deep" * 30])
def test_no_variable_of_libpq_leads_the_embedded_server_astray(directory: Path, part: str) -> None:
    async def ping() -> bool:
        async with AsyncDatabase(address) as database:
            await database.ping()
            return (await database.check(10)).healthy

    server = EmbeddedServer(directory / part / "server", durable=False)
    try:
        assert server.start()
        assert not server.start()
        address = server.address
        assert is_local(address)
        assert create_missing_database(address)
        with Database(address) as database:
            database.ping()
            assert database.check(10).healthy
        assert asyncio.run(ping())
        with open_source(address) as source:
            assert source.row("SELECT 1") == (1,)
    finally:
        server.delete()


@pytest.mark.usefixtures("_hostile_variables")
def test_a_broken_variable_is_reported_as_the_reason_why_another_server_cannot_be_reached() -> None:
    with pytest.raises(ConnectionRefused, match=r"10\.0\.0\.1"):
        Database("postgresql://postgres@localhost/tatame?hostaddr=127.0.0.1").ping()


OWNER = """
import sys
from tatame_db.server.owner import server_owner
print("ready", flush=True)
sys.stdin.readline()
print(server_owner().pw_uid, flush=True)
"""
OWNERS = """
import pwd, subprocess, sys
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
starts = [subprocess.Popen([sys.executable, "-c", sys.argv[1]], text=True, **pipes) for _ in range(4)]
assert all(start.stdout.readline() == "ready\\n" for start in starts)
print(*sorted({start.communicate("go")[0].strip() for start in starts}), pwd.getpwnam("tatame-db").pw_uid)
"""


@pytest.mark.skipif(not IS_ROOT or not shutil.which("useradd"), reason="root alone creates the user, with `useradd`")
def test_first_starts_at_the_same_moment_create_one_user(directory: Path) -> None:
    # In a mount namespace of its own, on a copy of /etc in which no user of the server exists.
    script = """
cp -a /etc/. . && sed -i '/^tatame-db:/d' passwd shadow group gshadow && mount --bind . /etc && exec "$@"
"""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script, "sh", sys.executable, "-c", OWNERS, OWNER],
        check=True,
        capture_output=True,
        text=True,
        cwd=directory,
    )
    found, registered = done.stdout.split()
    assert found == registered
