"""pg_receivewal, which writes each byte of the write-ahead log to the disk as the server sends it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections import deque
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tatame_db.backup.marks import WAL
from tatame_db.backup.programs import environment_for
from tatame_db.backup.waldump import PARTIAL, filled_bytes
from tatame_db.database.address import readable
from tatame_db.errors import listed

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from sqlalchemy import URL

REMOVED = "the server has removed log that is not archived"
BEHIND = "it has log that the server lacks, as after a failover to a standby that was behind"
# It is killed then, which loses no byte that the server counts as received.
_END_SECONDS = 5.0
_SHOWN_LINES = 8
# A cut network is noticed within a minute, not within the two hours of the system.
_KEEPALIVES = {"keepalives_idle": "20", "keepalives_interval": "10", "keepalives_count": "3", "connect_timeout": "10"}
# Ends the program when standard input is closed, as it is when this process is killed, and then waits for it: it writes
# the segment to the disk first. It waits for the server's farewell too, which may never come.
_WATCHED = """
exec 3<&0
"$0" "$@" </dev/null 3<&- & program=$!
{
    read -r _; kill "$program"; left=25
    while kill -0 "$program" && [ "$left" -gt 0 ]; do sleep 0.2; left=$((left - 1)); done
    [ "$left" -gt 0 ] || kill -9 "$program"
} <&3 2>/dev/null & watcher=$!
exec 3<&-
wait "$program"; code=$?
kill "$watcher" 2>/dev/null
exit "$code"
"""


@dataclass(frozen=True)
class Receiver:
    """A running pg_receivewal."""

    process: subprocess.Popen[bytes]
    _output: IO[bytes]

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, as it does when the server ends the connection."""
        return self.process.poll() is not None

    def output(self) -> str:
        """Return the end of what it wrote, one line for each message."""
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").splitlines()
        return listed(deque(lines, _SHOWN_LINES)) or f"  exit code {self.process.returncode}"


@contextlib.contextmanager
def receiving(program: Path, address: URL, folder: Path, slot: str, *, lock: IO[str]) -> Generator[Receiver]:
    """Run pg_receivewal, and end it at the end; it holds the lock too, so that a lock that is free means it has ended.

    It ends when the connection is lost, and does not try again.
    """
    given = conninfo_to_dict(readable(address))
    conninfo = make_conninfo("", **_KEEPALIVES | given)
    # A signal that comes just before it waits is noticed only at the next status.
    arguments = [f"--directory={folder / WAL}", f"--slot={slot}", f"--dbname={conninfo}", "--status-interval=1"]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHED, program, *arguments, "--synchronous", "--no-loop", "--no-password"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment_for(address),
            pass_fds=[lock.fileno()],
            start_new_session=True,
        )
        try:
            yield Receiver(process, output)
        finally:
            _end(process)


def gap_in(output: str) -> str | None:
    """Return which gap pg_receivewal reports; `None` if none, or in a language that is not understood."""
    if "has already been removed" in output:
        return REMOVED
    if "is not in this server's history" in output or "is ahead of the WAL flush position" in output:
        return BEHIND
    return None


def complete_part(folder: Path, segment_bytes: int) -> None:
    """Give a part that a full disk cut off the size without which pg_receivewal refuses it; it is received again."""
    for part in (folder / WAL).glob(f"*{PARTIAL}"):
        if 0 < part.stat().st_size < segment_bytes:
            # Without a byte of log, it is written as a new one, which takes its place on the disk at once.
            os.truncate(part, segment_bytes if filled_bytes(part) else 0)


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin  # noqa: S101, for the type checker
    process.stdin.close()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        # The disk or the server does not answer, and neither would a new connection.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
