"""The embedded PostgreSQL in one directory: its address, its data, start and stop."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import hashlib
import os
import secrets
import shlex
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy import URL

from tatame_db.database.address import MARK, readable, without_environment
from tatame_db.database.errors import ServerSilent
from tatame_db.server.errors import (
    DataIncomplete,
    DataInUse,
    DataOfOtherVersion,
    DirectoryUnusable,
    PortNotOpen,
    PortTaken,
    ProgramFailed,
    ProgramsUninstalled,
    SharedMemoryFull,
)
from tatame_db.server.names import NAMES, ServerNames, read_names
from tatame_db.server.owner import server_owner
from tatame_db.server.postmaster import DEFAULT_PORT, SOCKET, Postmaster, read_lock
from tatame_db.server.replacement import unfinished_replacement
from tatame_db.server.wheel import (
    COPIES,
    MAJOR_VERSION,
    copy_programs,
    describe_damage,
    installed_programs,
    postgres_missing,
)

if TYPE_CHECKING:
    import pwd
    from collections.abc import Callable, Generator

    from tatame_db.errors import TatameError

_VERSION_FILE = "PG_VERSION"
_START_SECONDS = 60
# A killed server and its children need a moment to leave.
_LEAVING_SECONDS = 3
# A busy machine may take seconds.
_ANSWER_SECONDS = 10
# A socket's address has 108 bytes on Linux and 104 on macOS, including a final NUL.
_SOCKET_PATH_BYTES = 103


_SHORTEST = Path("/tmp")  # noqa: S108, the name in it is that of a directory which only the server's owner can enter


def _holds_socket(directory: Path) -> bool:
    # libpq reads a comma as the separator of several hosts.
    return len(os.fsencode(directory / ".s.PGSQL.65535.lock")) <= _SOCKET_PATH_BYTES and "," not in str(directory)


class EmbeddedServer:
    """A PostgreSQL server in one directory, reached by a socket in it that only its owner can open.

        server = EmbeddedServer(Path("/var/lib/tatame-db"))
        server.start()

    For root, the server and its files belong to the system user `tatame-db`. `durable=False` is for tests: it is
    faster, and a power cut may destroy the data.
    """

    def __init__(self, directory: Path, *, durable: bool = True, start_seconds: int = _START_SECONDS) -> None:
        self.directory = directory.expanduser().absolute()
        self.durable = durable
        self.start_seconds = start_seconds
        self.data = self.directory / "data"
        self.log = self.directory / "postgres.log"
        self.password_file = self.directory / "password"

    # Address

    @property
    def address(self) -> URL:
        """The address of its database, `tatame` unless a restore named another, running or not."""
        names = read_names(self.directory)
        return URL.create(
            "postgresql+psycopg",
            username=names.superuser,
            database=names.database,
            query={"host": str(self._socket_directory)},
        )

    @property
    def is_running(self) -> bool:
        """Whether a server listens on the socket; one that is suspended does, and does not answer."""
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.settimeout(1)
            client.connect(str(self._socket))
            return True
        return False

    @property
    def starter(self) -> str | None:
        """The user who started the server last, and in which directory; `None` if that is not known."""
        try:
            return (self.directory / MARK).read_text() or None
        except OSError:
            return None

    @property
    def uninstalled_program(self) -> Path | None:
        """The program that runs the server, if it was uninstalled meanwhile, as by an upgrade of the package."""
        with contextlib.suppress(OSError):
            program = Path((self.data / "postmaster.opts").read_text().partition(' "')[0])
            if not program.exists():
                return program
        return None

    def program(self, name: str) -> Path:
        """Return the path of a program of PostgreSQL, such as `psql`. Raises `PostgresMissing`."""
        return _existing(self._programs / name)

    # Start, stop, delete

    def start(self, port: int | None = None) -> bool:
        """Start the server, creating its data if it has none; return False if it was running already.

        It listens on the socket, and with `port` also on 127.0.0.1. Two simultaneous starts result in one server.

        Raises `PostgresMissing`, `ServerUserMissing`, `DirectoryUnusable`, `DataIncomplete`, `DataOfOtherVersion`,
        `DataInUse`, `PortTaken`, `PortNotOpen`, `ProgramsUninstalled`, `ServerSilent`, `ProgramFailed`,
        `ReplacementUnfinished`.
        """
        if not self.data.exists() and (unfinished := unfinished_replacement(self.directory)):
            raise unfinished
        with self._locked():
            if self.is_running:
                self._refuse_silent()
                if program := self.uninstalled_program:
                    raise ProgramsUninstalled(program=program)
                if port and not self._listens_on(port):
                    raise PortNotOpen(port=port)
                return False
            self._check_data()
            self._check_programs()
            if port and not _is_free(port):
                raise PortTaken(port=port)
            if not self.data.exists():
                self._create_data()
            self._launch(port)
            self._delete_other_copies()
            (self.directory / MARK).write_text(f"{getpass.getuser()} in {Path.cwd()}")
            return True

    def stop(self) -> bool:
        """Stop the server and end its sessions; return whether it was running.

        Raises `DirectoryUnusable`, `ServerSilent`, `ProgramFailed`.
        """
        self.refuse_foreign()
        if not self.data.exists():
            return False
        with self._locked():
            return self._stop()

    def refuse_foreign(self) -> None:
        """Raise `DirectoryUnusable` if the directory belongs to another user and cannot be read."""
        self._refuse_file()
        if self.directory.exists() and not os.access(self.directory, os.R_OK | os.X_OK):
            raise self._unusable("it belongs to another user")

    def _refuse_file(self) -> None:
        if self.directory.exists() and not self.directory.is_dir():
            raise self._unusable("it is a file, not a directory")

    def delete(self) -> bool:
        """Stop the server and delete its files and no others; return whether there were any.

        Raises `DirectoryUnusable`, `ServerSilent`, `ProgramFailed`.
        """
        self.refuse_foreign()
        if not self._is_marked():
            return False
        with self._locked():
            # No server can run on data without a version file, and `pg_ctl` rejects it.
            if (self.data / _VERSION_FILE).exists():
                # What is deleted need not be written first, for which a full disk may have no room.
                self._stop("immediate")
            try:
                # A start after a kill would take half of the data for a server, but not without this file.
                (self.data / _VERSION_FILE).unlink(missing_ok=True)
                for path in self._files():
                    is_directory = path.is_dir() and not path.is_symlink()
                    shutil.rmtree(path) if is_directory else path.unlink(missing_ok=True)
            except OSError as error:
                raise self._unusable(_reason(error)) from error
            if self._socket_directory != self.directory:
                shutil.rmtree(self._socket_directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.directory.rmdir()
        return True

    # Data from elsewhere

    @property
    def has_data(self) -> bool:
        """Whether the directory is an embedded server's and holds data, running or not."""
        return self._is_marked() and self.data.exists()

    def fill(self, write: Callable[[Path], None]) -> None:
        """Let a function write the data into a new directory, before the first start; a failure leaves none of it.

        Raises `DirectoryUnusable`, and what the function raises.
        """
        with self._locked():
            if self.data.exists():
                raise self._unusable("it has data already")
            half = self._new_data
            shutil.rmtree(half, ignore_errors=True)
            try:
                write(half)
                self._hand_over_all(half)
            except OSError as error:
                shutil.rmtree(half, ignore_errors=True)
                raise self._unusable(_reason(error)) from error
            except BaseException:
                shutil.rmtree(half, ignore_errors=True)
                raise
            half.rename(self.data)

    def write_password(self, password: str) -> None:
        """Note the password of the superuser, as the creation of the data does."""
        self.password_file.write_text(password)
        self._hand_over(self.password_file, 0o600)

    def write_names(self, names: ServerNames) -> None:
        """Note which superuser and database the data has, so that `address` names them."""
        if path := names.write(self.directory):
            self._hand_over(path, 0o600)

    def rename(self, directory: Path) -> EmbeddedServer:
        """Stop the server and rename its directory; return it at its new place, not started.

        Raises the errors of `stop`.
        """
        self.stop()
        self.directory.rename(directory)
        if self._socket_directory != self.directory:
            shutil.rmtree(self._socket_directory, ignore_errors=True)
        return EmbeddedServer(directory, durable=self.durable, start_seconds=self.start_seconds)

    # The directory

    @property
    def _new_data(self) -> Path:
        return self.directory / "data.new"

    @cached_property
    def _socket_directory(self) -> Path:
        name = f"tatame-{hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:12]}"
        shorter = Path(tempfile.gettempdir()) / name
        # TMPDIR may be as long as the directory.
        return next(filter(_holds_socket, (self.directory, shorter)), _SHORTEST / name)

    @property
    def _socket(self) -> Path:
        return self._socket_directory / SOCKET.format(port=DEFAULT_PORT)

    def _sockets(self) -> list[Path]:
        """The sockets and their locks, which a killed server leaves behind."""
        return list(self._socket_directory.glob(SOCKET.format(port="*")))

    def _files(self) -> list[Path]:
        # The data may be on another disk.
        linked = self.data.iterdir() if self.data.is_symlink() and self.data.is_dir() else ()
        return [
            *linked,
            *self.directory.glob(COPIES),
            *self._sockets(),
            *(self.directory / name for name in ("data", "data.new", "password", NAMES, "postgres.log", MARK)),
        ]

    def _is_marked(self) -> bool:
        return (self.directory / MARK).exists()

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        """Lock the directory against other starts and stops, and create it if it is missing."""
        try:
            self._create_directories()
            lock = (self.directory / MARK).open("a")
        except OSError as error:
            place = "" if error.filename in {None, str(self.directory)} else f"{error.filename}: "
            raise self._unusable(f"{place}{error.strerror or error}") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _create_directories(self) -> None:
        if not str(self.directory).isprintable():
            raise self._unusable("its name contains a character that cannot be printed")
        self._refuse_file()
        # Another start writes the mark first. If it has written any file by now, the mark is there to be seen.
        if self.directory.exists() and {*self.directory.iterdir()} - {*self._sockets()} and not self._is_marked():
            raise self._unusable("it contains files that are not the embedded server's")
        for directory in dict.fromkeys([self.directory, self._socket_directory]):
            # The server's user must be able to pass through the parents, whatever the umask is.
            for parent in reversed(directory.parents):
                if not parent.exists():
                    parent.mkdir(exist_ok=True)
                    parent.chmod(0o755)
            directory.mkdir(exist_ok=True)
            if directory.stat().st_uid not in {os.geteuid(), self._owner.pw_uid}:
                raise DirectoryUnusable(directory=directory, reason="it belongs to another user")
            self._hand_over(directory, 0o700)
        if self._socket_directory != self.directory:
            (self._socket_directory / MARK).touch()
        self._check_access()

    def _check_access(self) -> None:
        command = ["/bin/sh", "-c", 'cd "$1"', "sh", str(self.directory)]
        if subprocess.call(command, stderr=subprocess.DEVNULL, **self._as_owner):
            with contextlib.suppress(OSError):
                self.directory.rmdir()
            raise self._unusable(f"PostgreSQL runs as the user `{self._owner.pw_name}`, who cannot enter it")

    def _hand_over(self, path: Path, mode: int) -> None:
        path.chmod(mode)
        if os.geteuid() == 0:
            os.chown(path, self._owner.pw_uid, self._owner.pw_gid)

    def _hand_over_all(self, directory: Path) -> None:
        directory.chmod(0o700)
        if os.geteuid() == 0:
            for parent, _, files in os.walk(directory):
                for path in (parent, *(os.path.join(parent, name) for name in files)):  # noqa: PTH118, thousands
                    os.chown(path, self._owner.pw_uid, self._owner.pw_gid, follow_symlinks=False)

    def _unusable(self, reason: str) -> DirectoryUnusable:
        return DirectoryUnusable(directory=self.directory, reason=reason)

    # The user

    @cached_property
    def _owner(self) -> pwd.struct_passwd:
        return server_owner()

    @cached_property
    def _as_owner(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        return {"user": self._owner.pw_uid, "group": self._owner.pw_gid, "extra_groups": []}

    # The programs

    @cached_property
    def _programs(self) -> Path:
        return installed_programs()

    @cached_property
    def _server_programs(self) -> Path:
        """The programs, or a copy of them if they are in root's home, where the server's user cannot run them."""
        # `_run` reports other errors.
        with contextlib.suppress(OSError):
            try:
                subprocess.run(
                    [self.program("postgres"), "--version"], check=True, capture_output=True, **self._as_owner
                )
            except (PermissionError, subprocess.CalledProcessError):
                return self._copied_programs()
        return self._programs

    def _copied_programs(self) -> Path:
        try:
            return copy_programs(self.directory)
        except OSError as error:
            raise self._unusable(f"PostgreSQL's programs cannot be copied into it: {_reason(error)}") from error

    def _check_programs(self) -> None:
        done = self._run("postgres", "--version")
        if done.returncode:
            raise self._failure("running PostgreSQL", done.stdout)
        if not done.stdout and os.statvfs(temporary := Path(tempfile.gettempdir())).f_bavail == 0:
            # The output of each program goes to a file there.
            raise DirectoryUnusable(directory=temporary, reason=os.strerror(errno.ENOSPC))
        if f"(PostgreSQL) {MAJOR_VERSION}." not in done.stdout:
            program = self._server_programs / "postgres"
            raise postgres_missing(f"{program} is of another version: {done.stdout.strip()}")

    def _delete_other_copies(self) -> None:
        """Delete copies of earlier versions, which no server of this directory runs: this one has just started."""
        for copy in self.directory.glob(COPIES):
            if copy not in self._server_programs.parents:
                shutil.rmtree(copy, ignore_errors=True)

    def _run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        # The caller's PGDATA, PGHOST or LANG must not change how the server is created and found.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "LANG"))}
        program = _existing(self._server_programs / name)
        with tempfile.TemporaryFile("w+") as output:
            # A file, because the server that `pg_ctl` leaves running would hold a pipe open forever.
            try:
                done = subprocess.run(
                    [program, *arguments],
                    check=False,
                    cwd=self.directory,
                    env=environment | {"LC_ALL": "C"},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    text=True,
                    **self._as_owner,
                )
            except OSError as error:
                raise postgres_missing(f"{program}: {error.strerror}") from error
            output.seek(0)
            done.stdout = output.read()
        return done

    # The data

    def _check_data(self) -> None:
        if not self.data.exists():
            return
        version_file = self.data / _VERSION_FILE
        if not version_file.exists() or not (self.data / "global" / "pg_control").exists():
            raise DataIncomplete(data=self.data)
        version = version_file.read_text().strip()
        if version != MAJOR_VERSION:
            raise DataOfOtherVersion(data=self.data, version=version, expected=MAJOR_VERSION)

    def _create_data(self) -> None:
        """Create the data under another name and rename it, so that a killed start leaves no half of it."""
        half = self._new_data
        try:
            shutil.rmtree(half, ignore_errors=True)
            self.write_password(secrets.token_urlsafe(18))
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error
        done = self._run(
            "initdb",
            f"--pgdata={half}",
            "--username=postgres",
            f"--pwfile={self.password_file}",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
            # Text sorts the same on every machine, whatever its locales are.
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
            *([] if self.durable else ["--no-sync"]),
        )
        if done.returncode:
            shutil.rmtree(half, ignore_errors=True)
            raise self._failure("creating the data directory", done.stdout)
        half.rename(self.data)

    def _failure(self, action: str, output: str) -> TatameError:
        if "shared memory segment" in output and os.strerror(errno.ENOSPC) in output:
            return SharedMemoryFull()
        if os.strerror(errno.ENOSPC) in output:
            return self._unusable(os.strerror(errno.ENOSPC))
        if damage := describe_damage():
            return postgres_missing(damage)
        lines = [f"  {line}" for line in output.splitlines() if line.strip()]
        return ProgramFailed(action=action, output="\n".join(lines[-8:]), log=self.log)

    # The process

    def _launch(self, port: int | None) -> None:
        deadline = time.monotonic() + _LEAVING_SECONDS
        while (output := self._output_of_failed_launch(port)) is not None:
            locked = "lock file" in output and "already exists" in output
            leaving = locked or "pre-existing shared memory block" in output
            if leaving and time.monotonic() < deadline:
                time.sleep(0.2)
            elif locked:
                process = read_lock(self._lock_file)
                raise DataInUse(data=self.data, pid=str(process.pid) if process else "unknown")
            else:
                raise self._failure("starting PostgreSQL", output)

    def _output_of_failed_launch(self, port: int | None) -> str | None:
        """Run `pg_ctl start`; return `None` if the server runs, else the output of both programs."""
        if self._live_postmaster() is None:
            # Another process may have the number of a killed server by now, and PostgreSQL would take it for one.
            for file in [self._lock_file, *self._sockets()]:
                file.unlink(missing_ok=True)
            if port and port != DEFAULT_PORT:
                # PostgreSQL names its socket after the port. Clients find this one whatever the port is.
                self._socket.symlink_to(SOCKET.format(port=port))
        log_size = self.log.stat().st_size if self.log.exists() else 0
        done = self._run(
            # Relative paths, because `pg_ctl` passes them to a shell, which would expand a `$` in them.
            *("pg_ctl", "start", "-w", f"--timeout={self.start_seconds}", f"--pgdata={self.data.name}"),
            *(f"--log={self.log.name}", f"--options={shlex.join(self._server_arguments(port))}"),
        )
        if done.returncode == 0:
            return None
        log = self.log.read_bytes()[log_size:].decode(errors="replace") if self.log.exists() else ""
        return done.stdout + log

    def _server_arguments(self, port: int | None) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1" if port else "",
            "port": str(port or DEFAULT_PORT),
            "unix_socket_directories": '"{}"'.format(str(self._socket_directory).replace('"', '""')),
            "unix_socket_permissions": "0700",
            "timezone": "UTC",
            "log_timezone": "UTC",
            # A move back follows this server by a logical slot, and a change of this setting needs a restart.
            "wal_level": "logical",
        }
        if not self.durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        return [part for name, value in options.items() for part in ("-c", f"{name}={value}")]

    def _refuse_silent(self) -> None:
        """Raise `ServerSilent` if the server listens and does not answer."""
        process = self._live_postmaster()
        suspended = process is not None and process.is_suspended
        try:
            if not suspended:
                options = without_environment(self.address) | {"connect_timeout": str(_ANSWER_SECONDS)}
                psycopg.connect(make_conninfo(readable(self.address), **options)).close()
                return
        except psycopg.errors.ConnectionTimeout:
            pass
        except psycopg.OperationalError:
            # It starts, stops or lacks the database, and says so.
            return
        raise ServerSilent(
            address=self.address, pid=process.pid if process else None, suspended=suspended, reason="no answer"
        )

    def _stop(self, mode: Literal["fast", "immediate"] = "fast") -> bool:
        process = self._live_postmaster()
        if process is None:
            return False
        if process.is_suspended:
            self._refuse_silent()
        done = self._run("pg_ctl", "stop", "-w", f"--mode={mode}", f"--pgdata={self.data.name}")
        if done.returncode:
            raise self._failure("stopping PostgreSQL", done.stdout)
        for socket_file in self._sockets():
            socket_file.unlink(missing_ok=True)
        return True

    @property
    def _lock_file(self) -> Path:
        return self.data / "postmaster.pid"

    def _live_postmaster(self) -> Postmaster | None:
        process = read_lock(self._lock_file)
        return process if process and process.is_alive else None

    def _listens_on(self, port: int) -> bool:
        process = read_lock(self._lock_file)
        return process is not None and process.port == port and process.listens


def _reason(error: OSError) -> str:
    # `shutil` lists an error for each file.
    return str(error.args[0][0][-1]) if isinstance(error, shutil.Error) else error.strerror or str(error)


def _existing(program: Path) -> Path:
    # Not `os.access`: a copy of a program runs that is on a file system mounted with `noexec`.
    if not program.exists() or not program.stat().st_mode & stat.S_IXUSR:
        raise postgres_missing(f"there is no program {program}")
    return program


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
