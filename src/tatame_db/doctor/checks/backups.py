"""The backups of the database under examination, in the folder that the settings name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tatame_db.backup import Listed, list_backups
from tatame_db.backup.record import Drill, Origin, origin_of, read_drills, system_identifier
from tatame_db.database.driver import driver_connection
from tatame_db.doctor.finding import bad, duration, good, named, unknown, warn, worst
from tatame_db.doctor.lines import line

if TYPE_CHECKING:
    from pathlib import Path

    from tatame_db.doctor.examination import Examination
    from tatame_db.doctor.finding import Answer

_GROUP = "Backups"


@line(
    _GROUP,
    warns="the last whole one is older than {backup_warn_hours:g} h, another is damaged, or none was drilled in"
    " {drill_warn_days:g} days",
    bad="it is older than {backup_bad_days:g} days, there is none, the last drill failed, or the folder cannot be read",
)
def backups(examination: Examination) -> Answer:
    """The age of the last whole backup of the database in `TATAME_BACKUP_DIR`, and the last drill."""
    if (folder := examination.setup.backup_folder) is None:
        return unknown(
            "`TATAME_BACKUP_DIR` names no folder",
            "set it to the folder of `tatame-db backup`; if another tool makes the backups, watch that one",
        )
    try:
        # Its absence is not an empty list: a disk may not be mounted.
        next(folder.iterdir(), None)
        found = list_backups(folder)
    except OSError as error:
        return bad(
            f"the folder of the backups, {folder}, cannot be read: {error.strerror}",
            "mount its disk, let this user read it, or correct `TATAME_BACKUP_DIR`",
        )
    with examination.engine.connect() as connection, connection.begin():
        identifier = system_identifier(driver_connection(connection))
    mine = Origin(identifier, [str(examination.address.database)])
    answers = [
        _last_backup(examination, folder, [one for one in found if one.manifest and origin_of(one.manifest).has(mine)]),
        _damaged([one for one in found if one.problem]),
        _last_drill(examination, [drill for drill in read_drills(folder) if drill.origin.has(mine)]),
    ]
    return worst(answers, good("; ".join(answer.text for answer in answers if answer)))


def _age(moment: datetime) -> timedelta:
    return datetime.now(UTC) - moment


def _ago(moment: datetime) -> str:
    return f"{duration(_age(moment).total_seconds())} ago"


def _last_backup(examination: Examination, folder: Path, found: list[Listed]) -> Answer:
    limits, fix = examination.limits, "`tatame-db backup`, each night by a job"
    ends = [one.manifest.ended for one in found if one.manifest and not one.problem]
    if not ends:
        return bad(f"{folder} has no whole backup of this database", fix)
    age, text = _age(max(ends)), f"the last whole backup is {duration(_age(max(ends)).total_seconds())} old"
    if age >= timedelta(days=limits.backup_bad_days):
        return bad(text, fix)
    return warn(text, fix) if age >= timedelta(hours=limits.backup_warn_hours) else good(text)


def _damaged(found: list[Listed]) -> Answer | None:
    if not found:
        return None
    names = named([one.path.name for one in found])
    return warn(f"{names} cannot be restored", "`tatame-db backups` says why; check the disk")


def _last_drill(examination: Examination, found: list[Drill]) -> Answer:
    fix = "`tatame-db restore --drill`, each week by a job"
    if not found:
        return warn("no backup was drilled", fix)
    last = found[-1]
    if not last.equal:
        return bad(
            f"the drill of {last.backup} failed, {_ago(last.at)}",
            "make a new backup with `tatame-db backup`, and drill it with `tatame-db restore --drill`",
        )
    text = f"the last drill, {_ago(last.at)}, found all equal"
    late = _age(last.at) >= timedelta(days=examination.limits.drill_warn_days)
    return warn(text, fix) if late else good(text)
