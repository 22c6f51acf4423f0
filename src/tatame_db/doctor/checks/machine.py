"""The machine of the embedded server: its programs, its disk, its log. Other servers are on machines out of reach."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from tatame_db.doctor.finding import bad, good, size, warn
from tatame_db.doctor.lines import line
from tatame_db.server.errors import DataOfOtherVersion, PostgresMissing
from tatame_db.server.wheel import MAJOR_VERSION

if TYPE_CHECKING:
    from tatame_db.doctor.examination import Examination
    from tatame_db.doctor.finding import Answer

_GROUP = "Machine"


@line(
    _GROUP,
    warns="the server runs other programs than the installed ones",
    bad="the programs are not installed, or are of another major version than the data",
    offline=True,
)
def programs(examination: Examination) -> Answer | None:
    """Whether the embedded server runs the PostgreSQL that is installed with the package."""
    server = examination.embedded
    if server is None:
        return None
    try:
        program = server.program("postgres")
    except PostgresMissing as error:
        return bad(error.what, error.fix)
    # `postgres (PostgreSQL) 18.4`
    installed = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.split()[2]
    version = server.data / "PG_VERSION"
    if version.exists() and (data := version.read_text().strip()) != MAJOR_VERSION:
        other = DataOfOtherVersion(data=server.data, version=data, expected=MAJOR_VERSION)
        return bad(other.what, other.fix)
    if examination.facts is None:
        return good(f"PostgreSQL {installed} is installed")
    if examination.facts.version == installed:
        return good(f"the server runs PostgreSQL {installed}, as installed")
    return warn(
        f"the server runs PostgreSQL {examination.facts.version}, and {installed} is installed",
        "`tatame-db stop`, then `tatame-db start`",
    )


@line(
    _GROUP,
    warns="less than {disk_warn:.0%} of it is free",
    bad="less than {disk_bad:.0%} is free",
    offline=True,
)
def disk(examination: Examination) -> Answer | None:
    """The space that is left where the embedded server keeps its data."""
    server = examination.embedded
    if server is None or not server.data.exists():
        return None
    total, _, free = shutil.disk_usage(server.data)
    text = f"{size(free)} of {size(total)} are free"
    limits = examination.limits
    if free >= total * limits.disk_warn:
        return good(text)
    return (bad if free < total * limits.disk_bad else warn)(
        f"{text}; without space, the server stops", f"free some, or move {server.directory} to a larger disk"
    )


@line(_GROUP, warns="it has {log_warn_mb:g} MB or more", offline=True)
def log(examination: Examination) -> Answer | None:
    """The size of the embedded server's log, to which it always appends."""
    server = examination.embedded
    if server is None or not server.log.exists():
        return None
    found = server.log.stat().st_size
    if found < examination.limits.log_warn_mb * 1024**2:
        return good(size(found))
    return warn(f"{size(found)}", f"`tatame-db stop`, delete {server.log}, and `tatame-db start`")
