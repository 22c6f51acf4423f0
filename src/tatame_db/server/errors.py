"""The reasons why the embedded server does not start or stop."""

from __future__ import annotations

import sysconfig
from typing import TYPE_CHECKING

from tatame_db.errors import TatameError, fact

if TYPE_CHECKING:
    from pathlib import Path


@fact
class PostgresMissing(TatameError):
    """The package that contains PostgreSQL is missing, incomplete, damaged, or of another version."""

    version: str
    package: str
    reason: str
    what = "PostgreSQL {version} is not installed, or not completely: {reason}"
    means = "Nothing was started or stopped; existing data is untouched."
    fix = (
        "run `pip install --force-reinstall '{package}=={version}.*'`; "
        "if it finds none for {platform}, set `DATABASE_URL` to another server"
    )

    @property
    def platform(self) -> str:
        """The system and processor, as `linux-x86_64`."""
        return sysconfig.get_platform()


@fact
class ServerUserMissing(TatameError):
    """Root started a server, PostgreSQL does not run as root, and no user can be created for it."""

    user: str
    reason: str
    what = "PostgreSQL does not run as root, and the user `{user}` cannot be created: {reason}"
    fix = "run the command as an ordinary user, or set `DATABASE_URL` to another server"


@fact
class DirectoryUnusable(TatameError):
    """The embedded server's directory cannot be read or written."""

    directory: Path
    reason: str
    what = "the embedded server cannot use {directory}: {reason}"
    means = "Nothing was started, stopped or deleted; existing data is untouched."
    fix = "set `TATAME_DATA_DIR` to a directory that you can write to, with free space"


@fact
class DataIncomplete(TatameError):
    """The data directory exists and is not a complete one of PostgreSQL."""

    data: Path
    what = "{data} is not a complete data directory of PostgreSQL: another program made it, or files are missing"
    means = "The server was not started; the directory is untouched."
    fix = "restore the files, or delete the data with `tatame-db down --yes`"


@fact
class DataOfOtherVersion(TatameError):
    """The data was written by another major version of PostgreSQL."""

    data: Path
    version: str
    expected: str
    what = "{data} was written by PostgreSQL {version}; the embedded server is PostgreSQL {expected}"
    means = "The server was not started; the data is untouched."
    fix = (
        "dump the data with PostgreSQL {version}, set `TATAME_DATA_DIR` to another directory, "
        "or delete the data with `tatame-db down --yes`"
    )


@fact
class DataInUse(TatameError):
    """Another server works on the data."""

    data: Path
    pid: str
    what = "{data} is in use by another PostgreSQL server, process {pid}"
    means = "No second server was started; the data is untouched."
    fix = "stop that server with `kill {pid}`, then run `tatame-db start`"


@fact
class PortTaken(TatameError):
    """Another program listens on the port."""

    port: int
    what = "port {port} on 127.0.0.1 is already in use"
    means = "The server was not started; the data is untouched."
    fix = "choose another port with `tatame-db start --port`, or none: the socket needs no port"


@fact
class PortNotOpen(TatameError):
    """The server was started without the requested port."""

    port: int
    what = "the embedded server is already running, without port {port}"
    means = "It continues to run unchanged."
    fix = "run `tatame-db stop`, then `tatame-db start --port {port}`"


@fact
class ProgramsUninstalled(TatameError):
    """The running server's programs were uninstalled, as by an upgrade of the package that contains PostgreSQL."""

    program: Path
    what = "the embedded server runs a program that was uninstalled: {program}"
    means = "Its data is safe, and it keeps running; what it has not loaded yet fails, such as PL/pgSQL and time zones."
    fix = "restart it with `tatame-db stop`, then `tatame-db start`"


@fact
class SharedMemoryFull(TatameError):
    """The file system in which PostgreSQL shares memory between its processes is too small."""

    what = "PostgreSQL cannot share memory between its processes: /dev/shm is full or too small"
    means = "The server was not started; existing data is untouched."
    fix = "give it more space: `docker run --shm-size=256m …`, or `mount -o remount,size=256m /dev/shm`"


@fact
class ProgramFailed(TatameError):
    """A program of PostgreSQL failed; the end of its output is in the message."""

    action: str
    output: str
    log: Path
    what = "{action} failed:\n{output}"
    means = "Existing data is untouched."
    fix = "fix the problem that PostgreSQL reports above; the complete log is {log}"
