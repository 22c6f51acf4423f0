"""The programs of PostgreSQL that copy and verify a server."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg.conninfo import make_conninfo

from tatame_db.backup.contents import LOCK_SECONDS
from tatame_db.backup.errors import BackupFailed, BackupRefused, DumpRejected, SpaceRanOut, TableLocked
from tatame_db.database.address import is_embedded, libpq_variables, readable
from tatame_db.errors import listed
from tatame_db.server.wheel import MAJOR_VERSION, installed_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import IO

    from sqlalchemy import URL

_SHOWN_LINES = 8
_JOBS = min(4, os.cpu_count() or 1)
_END_SECONDS = 10
_LOOK_MS = 2_000
# Some servers note the version of a column as an option of it, which no other server knows.
_NOTES_OF_SERVERS = re.compile(rb"^ALTER TABLE ONLY [^\n]* SET \(pg_attver=\d+\);\n", re.MULTILINE)
# Runs a program, and ends its whole group when standard input is closed, as it is when this process is killed. Alone,
# the half of pg_basebackup that receives the write-ahead log would go on forever.
_WATCHED = """
exec 3<&0
"$0" "$@" </dev/null 3<&- & program=$!
{ read -r _; kill 0; } <&3 & watcher=$!
exec 3<&-
wait "$program"; code=$?
kill "$watcher"
exit "$code"
"""


class ProgramRejected(Exception):
    """A program ended with an error; its argument is the end of its output."""


def program_for(name: str, address: URL, *, encrypted: bool, of: int = int(MAJOR_VERSION)) -> Path:
    """Return the package's program; over TLS that of the system, because the package's has none.

    The system's must be as new as the server, which has the version `of`, and no newer than the package, whose programs
    restore what it writes. Raises `BackupRefused`, `PostgresMissing`.
    """
    if not encrypted:
        return installed_programs() / name
    found = shutil.which(name)
    if found is None or not of <= _version(found) <= int(MAJOR_VERSION):
        versions = MAJOR_VERSION if of >= int(MAJOR_VERSION) else f"{of} to {MAJOR_VERSION}"
        raise BackupRefused(
            address=address,
            reason=f"the connection is encrypted, and the {name} of this package has no TLS",
            advice=f"install PostgreSQL's own {name} {versions}, so that it is on the PATH; or run the command on the"
            " machine of the server, with the address of its socket",
        )
    return Path(found)


def _version(program: str) -> int:
    done = subprocess.run([program, "--version"], check=False, capture_output=True, text=True)
    found = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    return int(found[1]) if found else 0


def environment_for(address: URL) -> dict[str, str]:
    """Return the environment of a program that connects: with the password, which no argument may show."""
    ignored = libpq_variables() if is_embedded(address) else {"PGHOSTADDR"} if address.host else set[str]()
    environment = {name: value for name, value in os.environ.items() if name not in ignored}
    environment |= {"LC_ALL": "C", "PGAPPNAME": "tatame-db backup"}
    if address.password:
        environment["PGPASSWORD"] = str(address.password)
    return environment


def run(
    program: Path,
    arguments: Sequence[str],
    environment: dict[str, str],
    *,
    on_line: Callable[[str], None] | None = None,
    on_wait: Callable[[], None] | None = None,
    lock: IO[str] | None = None,
    directory: Path | None = None,
) -> None:
    """Run a program to its end, and end it if this process is interrupted or killed.

    While it writes nothing, `on_wait` is called now and then.
    The program holds the lock too, so that a lock that is free means that nothing writes any more.
    Raises `ProgramRejected`.
    """
    last: deque[str] = deque(maxlen=_SHOWN_LINES)
    with subprocess.Popen(
        ["/bin/sh", "-c", _WATCHED, program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=[lock.fileno()] if lock else [],
        cwd=directory,
        start_new_session=True,
    ) as process:
        try:
            for line in _lines(process.stdout, on_wait):
                if on_line:
                    on_line(line)
                last.append(line)
            process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise ProgramRejected(listed(last) or f"  exit code {process.returncode}")


def _lines(output: IO[bytes] | None, on_wait: Callable[[], None] | None) -> Iterator[str]:
    """Yield lines as they come; a progress ends in a carriage return."""
    assert output  # noqa: S101, for the type checker
    rest = b""
    poll = select.poll()
    poll.register(output.fileno(), select.POLLIN)
    while True:
        while on_wait and not poll.poll(_LOOK_MS):
            on_wait()
        if not (block := os.read(output.fileno(), 65_536)):
            break
        *lines, rest = re.split(rb"[\r\n]+", rest + block)
        yield from (line.decode(errors="replace") for line in lines if line.strip())
    if rest.strip():
        yield rest.decode(errors="replace")


def base_backup(
    program: Path,
    address: URL,
    data: Path,
    *,
    lock: IO[str],
    on_progress: Callable[[str], None],
    on_wait: Callable[[], None],
) -> None:
    """Copy a server's files and the write-ahead log that they need. Raises `BackupFailed`."""
    conninfo = make_conninfo(readable(address))

    def show(line: str) -> None:
        if found := re.search(r"\((\d+)%\)", line):
            on_progress(found[1])

    arguments = ["--checkpoint=fast", "--wal-method=stream", "--manifest-checksums=SHA256", "--progress"]
    try:
        run(
            program,
            [f"--pgdata={data}", f"--dbname={conninfo}", "--no-password", "--label=tatame-db", *arguments],
            environment_for(address),
            on_line=show,
            on_wait=on_wait,
            lock=lock,
        )
    except ProgramRejected as error:
        raise BackupFailed(action="pg_basebackup", output=_without_progress(str(error))) from None


def dump(
    program: Path,
    address: URL,
    data: Path,
    *,
    snapshot: str,
    jobs: int | None,
    lock: IO[str],
    on_wait: Callable[[], None],
) -> None:
    """Dump a database as of a snapshot, several tables at a time. Raises `BackupFailed`."""
    options = [f"--snapshot={snapshot}", "--format=directory", f"--jobs={jobs or _JOBS}", "--no-subscriptions"]
    options.append(f"--lock-wait-timeout={LOCK_SECONDS}s")
    try:
        run(
            program,
            [f"--file={data}", f"--dbname={make_conninfo(readable(address))}", "--no-password", *options],
            environment_for(address),
            on_wait=on_wait,
            lock=lock,
        )
    except ProgramRejected as error:
        if locking := re.search(r"statement timeout\n.*LOCK TABLE (.*) IN ACCESS SHARE MODE", str(error)):
            # It locks many tables by one statement.
            table = "a table" if "," in locking[1] else locking[1]
            raise TableLocked(table=table, seconds=LOCK_SECONDS) from None
        raise BackupFailed(action="pg_dump", output=str(error)) from None


def restore_dump(address: URL, data: Path, *, jobs: int | None) -> None:
    """Restore a dump into an empty database, without its owners, privileges and tablespaces. Raises `DumpRejected`."""
    programs, environment = installed_programs(), environment_for(address)
    to = [f"--dbname={make_conninfo(readable(address))}", "--no-password"]
    of = ["--exit-on-error", "--no-owner", "--no-privileges", "--no-tablespaces", str(data)]
    try:
        with tempfile.TemporaryDirectory() as directory:
            script = Path(directory) / "schema.sql"
            run(programs / "pg_restore", ["--section=pre-data", f"--file={script}", *of], environment)
            script.write_bytes(_NOTES_OF_SERVERS.sub(b"", script.read_bytes()))
            options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--file={script}"]
            run(programs / "psql", [*to, *options], environment)
        for section in ("data", "post-data"):
            run(programs / "pg_restore", [f"--section={section}", f"--jobs={jobs or _JOBS}", *to, *of], environment)
    except ProgramRejected as error:
        if os.strerror(errno.ENOSPC) in str(error):
            raise SpaceRanOut(output=str(error)) from None
        raise DumpRejected(output=str(error)) from None


def _without_progress(output: str) -> str:
    lines = [line for line in output.splitlines() if not re.search(r"\d+/\d+ kB", line)]
    return "\n".join(lines) or output


def verify_files(data: Path) -> None:
    """Compare every file with its checksum, and read the write-ahead log. Raises `ProgramRejected`."""
    # A relative path, because it passes that of the log to a shell, which would expand a `$` in it.
    program, environment = installed_programs() / "pg_verifybackup", dict(os.environ) | {"LC_ALL": "C"}
    run(program, ["--quiet", data.name], environment, directory=data.parent)
