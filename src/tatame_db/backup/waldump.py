"""The archive's records, as PostgreSQL's pg_waldump reads them, and the names and ends of its segments."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tatame_db.backup.archive_errors import ArchiveDamaged
from tatame_db.backup.files import regular
from tatame_db.server.wheel import installed_programs

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

PARTIAL = ".partial"
_FILE_BYTES = 1 << 32
_BLOCK_BYTES = 1 << 20
_COMMIT = re.compile(r"desc: COMMIT(?:_PREPARED)? (?:\d+: )?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC")

_REMOVAL = re.compile(r"tx: +(\d+), .*desc: DROP dir (.+)$")
_TRANSACTION = re.compile(r"lsn: ([0-9A-F]+/[0-9A-F]+), .*desc: (?:COMMIT|PREPARE|ABORT_PREPARED)")
_DATABASE = re.compile(r"\d+/(\d+)")


def lsn_of(text: str) -> int:
    """Return a position in the write-ahead log, such as `0/3000148`, as a number of bytes."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def lsn_text(lsn: int) -> str:
    """Write a position as PostgreSQL does."""
    return f"{lsn >> 32:X}/{lsn % _FILE_BYTES:X}"


def segment_name(timeline: int, number: int, size: int) -> str:
    """Return the name of a segment, which PostgreSQL looks for."""
    of_file = _FILE_BYTES // size
    return f"{timeline:08X}{number // of_file:08X}{number % of_file:08X}"


def segment_number(high: str, low: str, size: int) -> int:
    """Return the number of a segment from the two parts of its name that follow the timeline."""
    return int(high, 16) * (_FILE_BYTES // size) + int(low, 16)


def present(path: Path) -> Path:
    """Return the path of a segment that may have been completed since its part was listed."""
    return path.with_suffix("") if path.suffix == PARTIAL and not path.exists() else path


def filled_bytes(path: Path, begin: int = 0) -> int:
    """Return up to where a part has been received, which begins as a file of zeros. Raises `ArchiveDamaged`."""
    try:
        with regular(present(path)).open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            while end > begin:
                start = max(begin, end - _BLOCK_BYTES)
                file.seek(start)
                if filled := len(file.read(end - start).rstrip(b"\0")):
                    return start + filled
                end = start
    except OSError as error:
        raise ArchiveDamaged(path=path, reason=error.strerror or str(error)) from error
    return begin


@contextlib.contextmanager
def _dumped(segments: Iterable[tuple[int, Path]], size: int, *options: str) -> Generator[subprocess.Popen[str]]:
    with tempfile.TemporaryDirectory() as directory:
        for number, path in segments:
            # One name for all: the first segment of a timeline begins with a copy of the one before.
            (Path(directory) / segment_name(1, number, size)).symlink_to(present(path).absolute())
        with subprocess.Popen(
            [installed_programs() / "pg_waldump", f"--path={directory}", "--timeline=1", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(os.environ) | {"TZ": "UTC", "LC_ALL": "C"},
            text=True,
            errors="replace",
        ) as process:
            try:
                yield process
            finally:
                process.kill()


def is_whole(segments: Iterable[tuple[int, Path]], size: int, begin: int, end: int) -> bool:
    """Whether each record between two positions can be read."""
    with _dumped(segments, size, "--quiet", f"--start={lsn_text(begin)}", f"--end={lsn_text(end)}") as process:
        return process.wait() == 0


def has_record(segments: Iterable[tuple[int, Path]], size: int, begin: int) -> bool:
    """Whether a whole record begins at a position, which is the end of another."""
    with _dumped(segments, size, f"--start={lsn_text(begin)}", "--limit=1") as process:
        return bool(process.communicate()[0])


def commits(segments: Iterable[tuple[int, Path]], size: int, begin: int, end: int) -> list[datetime]:
    """Return the time of each commit in a part of the log, as far as it can be read."""
    options = [f"--start={lsn_text(begin)}", f"--end={lsn_text(end)}", "--rmgr=Transaction"]
    with _dumped(segments, size, *options) as process:
        return [time for line in process.stdout or () if (time := commit_time(line))]


def last_transaction(segments: Iterable[tuple[int, Path]], size: int, begin: int, end: int) -> int | None:
    """Return where the last commit or prepared transaction in a part of the log begins; `None` if there is none."""
    options = [f"--start={lsn_text(begin)}", f"--end={lsn_text(end)}", "--rmgr=Transaction"]
    with _dumped(segments, size, *options) as process:
        found = [lsn_of(match[1]) for line in process.stdout or () if (match := _TRANSACTION.search(line))][-1:]
    return found[0] if found and found[0] < end else None


def removals(segments: Iterable[tuple[int, Path]], size: int, begin: int, end: int) -> dict[int, int]:
    """Return the databases whose files are removed in a part of the log, each with the last transaction that did so."""
    options = [f"--start={lsn_text(begin)}", f"--end={lsn_text(end)}", "--rmgr=Database"]
    with _dumped(segments, size, *options) as process:
        found = [match for line in process.stdout or () if (match := _REMOVAL.search(line))]
    return {int(database): int(match[1]) for match in found for database in _DATABASE.findall(match[2])}


def is_committed(segments: Iterable[tuple[int, Path]], size: int, begin: int, transaction: int) -> bool:
    """Whether a transaction is committed in the log from a position on."""
    options = [f"--start={lsn_text(begin)}", "--rmgr=Transaction", f"--xid={transaction}"]
    with _dumped(segments, size, *options) as process:
        return any(commit_time(line) for line in process.stdout or ())


def commit_time(line: str) -> datetime | None:
    """Return the time in a line of pg_waldump about a commit, which has to run with the time zone UTC; else `None`."""
    found = _COMMIT.search(line)
    return datetime.fromisoformat(found[1]).replace(tzinfo=UTC) if found else None
