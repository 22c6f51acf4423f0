"""The directories of a server that a restore replaces, and what a restore leaves that was killed meanwhile."""

from __future__ import annotations

import glob
from typing import TYPE_CHECKING

from tatame_db.errors import TatameError, fact

if TYPE_CHECKING:
    from pathlib import Path

_PART, _BEFORE = ".part", ".before-"


@fact
class ReplacementUnfinished(TatameError):
    """A restore was killed between the two steps by which one server takes the place of another."""

    directory: Path
    former: Path
    restored: Path
    what = "there is no server in {directory}, because a restore was ended while it replaced the one there"
    means = "Nothing was started. The former server is in {former}, and the restored one in {restored}; both are whole."
    fix = "rename the one to use, as by `mv {restored} {directory}`; or run `tatame-db restore` again"


def restored_part(directory: Path) -> Path:
    """Return where a server is restored that will be in a directory."""
    return directory.with_name(directory.name + _PART)


def former_place(directory: Path, moment: str) -> Path:
    """Return where the server of a directory goes when it is replaced."""
    return directory.with_name(f"{directory.name}{_BEFORE}{moment}")


def unfinished_replacement(directory: Path) -> ReplacementUnfinished | None:
    """Return the error of a directory that is missing because a restore was killed."""
    restored = restored_part(directory)
    if directory.exists() or not (restored / "data").exists():
        return None
    former = sorted(directory.parent.glob(f"{glob.escape(directory.name)}{_BEFORE}*"))
    return ReplacementUnfinished(directory=directory, former=former[-1], restored=restored) if former else None
