"""The superuser and the database of an embedded server, which are those of another server after a restore."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NAMES = "names.json"
"""A file in the directory of a server that has other names than a new one."""


@dataclass(frozen=True)
class ServerNames:
    """The names in the address of a server; by default those of a new one."""

    superuser: str = "postgres"
    database: str = "tatame"

    def write(self, directory: Path) -> Path | None:
        """Write them to the directory of a server, and return the file; a new server's need none."""
        if self == ServerNames():
            return None
        path = directory / NAMES
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path


def read_names(directory: Path) -> ServerNames:
    """Return the names of the server in a directory; those of a new one if there is no file that can be read."""
    try:
        found: dict[str, str] = json.loads((directory / NAMES).read_bytes())
        return ServerNames(str(found["superuser"]), str(found["database"]))
    except (OSError, ValueError, TypeError, KeyError):
        return ServerNames()
