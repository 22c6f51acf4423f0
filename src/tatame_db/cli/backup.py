"""The commands for backups: one short function each."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tatame_db.cli import archive, console
from tatame_db.cli.app import AsJson, DatabaseUrl, NotConfirmed, app, interrupted_means, load_app, server_of
from tatame_db.errors import TatameError, counted, fact

if TYPE_CHECKING:
    from tatame_db.backup import Drill, Drilled, Listed, Manifest
    from tatame_db.settings import Settings

_BY_DEFAULT = "by default TATAME_BACKUP_DIR"
Folder = Annotated[
    Path | None, typer.Argument(metavar="[DIR]", help=f"Folder of the backups; {_BY_DEFAULT}.", show_default=False)
]
_OR_ONE = f"Folder of the backups, for the newest, {_BY_DEFAULT}; or one backup."
_MOST_JOBS = 1000
_BACKUP_INTERRUPTED = "no unfinished backup is left; `tatame-db backups` lists the complete ones"
_DRILL_INTERRUPTED = "no restored copy is left; the backup is unchanged; `tatame-db backups` lists the last drill"


def _jobs(meaning: str) -> Any:
    return typer.Option(
        min=1, max=_MOST_JOBS, help=f"{meaning}; by default one for each processor, at most 4.", show_default=False
    )


@fact
class RestoreUndecided(TatameError):
    """`restore` has to have one of two options."""

    what = (
        "`tatame-db restore` needs either `--to` or `--drill`; `--live` belongs to `--drill`, and `--replace` to `--to`"
    )
    fix = "restore with `--to PLACE`, a new directory; or only test the backup with `--drill`"


@fact
class BackupFolderMissing(TatameError):
    """Neither the command nor the settings name the folder of the backups."""

    command: str
    what = "`tatame-db {command}` needs the folder of the backups, and `TATAME_BACKUP_DIR` is not set"
    fix = "name it as in `tatame-db {command} /srv/backups`, or set `TATAME_BACKUP_DIR`"


def _folder(argument: Path | None, settings: Settings, command: str) -> Path:
    folder = argument or settings.backup_directory
    if folder is None:
        raise BackupFolderMissing(command=command)
    return folder.expanduser().absolute()


@fact
class FollowUndecided(TatameError):
    """`backup` does one thing at a time."""

    what = "`--follow`, `--stop-following` and a backup with `--keep` or `--logical` are three different commands"
    fix = "run one after the other; `--follow` in a terminal or service of its own; `--after-gap` belongs to `--follow`"


@app.command()
def backup(
    folder: Folder = None,
    database_url: DatabaseUrl = None,
    *,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of backups of this server, or dumps of this database, to keep; by default all.",
            show_default=False,
        ),
    ] = None,
    logical: Annotated[
        bool, typer.Option("--logical", help="Dump the database, where the server gives no copy of its files.")
    ] = False,
    jobs: Annotated[int | None, _jobs("With --logical: number of tables to dump at a time")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Archive the write-ahead log as it comes, until Ctrl-C.")
    ] = False,
    after_gap: Annotated[
        bool, typer.Option("--after-gap", help="With --follow, go on after a gap in the archive, which stays.")
    ] = False,
    stop_following: Annotated[
        bool, typer.Option("--stop-following", help="Drop the slot of --follow, which holds WAL on the server.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Back up the whole server, restore the copy to prove it, and record its contents; or archive its log."""
    if (after_gap and not follow) or sum((follow, stop_following, logical or keep is not None or jobs is not None)) > 1:
        raise FollowUndecided
    target = server_of(database_url)
    place = _folder(folder, target.settings, "backup")
    if follow:
        archive.follow(target, place, after_gap=after_gap, as_json=as_json)
        return
    if stop_following:
        archive.stop_following(target, place, as_json=as_json)
        return
    if jobs and not logical:
        raise typer.BadParameter("--jobs needs --logical: a base backup is one stream of files")
    with interrupted_means(_BACKUP_INTERRUPTED), console.Progress() as progress:
        from tatame_db import backup as backups

        if logical:
            made = backups.make_dump(
                target.database, place, keep=keep, jobs=jobs, on_stage=progress.stage, on_words=console.say
            )
        else:
            made = backups.make(target.database, place, keep=keep, on_stage=progress.stage, on_words=console.say)
    manifest = made.backup.manifest
    if as_json:
        console.answer_json({"path": str(made.backup.path), "removed": made.removed} | _facts(manifest))
        return
    console.answer(f"backup    {made.backup.path}")
    standby = ", a standby" if manifest.standby else ""
    console.answer(f"server    PostgreSQL {manifest.server_version}{standby}, {_megabytes(manifest.size_bytes)}")
    console.answer(f"contents  {_contents(manifest)}")
    console.answer("proved    restored into a scratch server, and every row was read there")
    for name in made.removed:
        console.answer(f"removed   {name}")


@app.command()
def backups(folder: Folder = None, *, as_json: AsJson = False) -> None:
    """List the backups of a folder, with their age, size, contents and last drill."""
    from tatame_db import backup as backups
    from tatame_db.settings import Settings

    place = _folder(folder, Settings.from_env(), "backups")
    found = backups.list_backups(place)
    if not found:
        raise backups.NoBackup(folder=place)
    drills = {drill.backup: drill for drill in backups.read_drills(place)}
    if as_json:
        console.answer_json({"backups": [_listed(one, drills.get(one.path.name)) for one in found]})
        return
    console.table(
        ["backup", "age", "kind", "PostgreSQL", "MB", "rows", "restorable until", "last drill", "problem"],
        [
            (
                one.path.name,
                one.manifest and _age(one.manifest.ended),
                one.manifest and one.manifest.method,
                one.manifest and one.manifest.server_version,
                one.manifest and (one.manifest.size_bytes >> 20) + 1,
                one.manifest and one.manifest.rows,
                until and archive.moment(until),
                _drill_in_words(drills.get(one.path.name)),
                one.problem or gap,
            )
            for one, (until, gap) in ((one, _until(one)) for one in found)
        ],
    )


@app.command()
def restore(
    folder: Annotated[Path | None, typer.Argument(metavar="[DIR]", help=_OR_ONE, show_default=False)] = None,
    *,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="PLACE", help="New directory for the restored server.")
    ] = None,
    drill: Annotated[
        bool, typer.Option("--drill", help="Restore into a scratch server, compare every row, and delete it.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="With --drill: compare with the configured database as it is now too.")
    ] = False,
    jobs: Annotated[int | None, _jobs("Number of tables of a dump to restore at a time")] = None,
    at: Annotated[
        Any,
        typer.Option(
            "--at", metavar="TIME", parser=archive.parse_moment, help="Replay the archive to this time, or to `latest`."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the server in PLACE, whose name you type; it is moved beside it.")
    ] = False,
    yes_replace: Annotated[
        Path | None, typer.Option(metavar="PLACE", help="Replace the server in PLACE without a question.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Restore a backup into a new directory and start it; or drill it, and exit with 3 on any difference."""
    if (to is None) == (not drill) or (live and not drill) or (drill and (replace or yes_replace)):
        raise RestoreUndecided
    state = f"the backup is unchanged; {to} has either what was there before, or the whole restored server"
    state = _DRILL_INTERRUPTED if to is None else state
    with interrupted_means(state):
        from tatame_db import backup as backups
        from tatame_db.database.address import readable
        from tatame_db.settings import Settings

    settings = Settings.from_env()
    place = _folder(folder, settings, "restore")
    if to is None:
        load_app(settings)
        with interrupted_means(state), console.Progress() as progress:
            drilled = backups.drill(
                place, at=at, live=server_of().database if live else None, jobs=jobs, on_stage=progress.stage
            )
        _show_drill(drilled, as_json=as_json)
        return
    replaces = _confirmed(to, asked=replace, typed=yes_replace)
    with interrupted_means(state), console.Progress() as progress:
        restored = backups.restore(place, to, at=at, replace=replaces, jobs=jobs, on_stage=progress.stage)
    manifest = restored.backup.manifest
    last = restored.replayed.last_transaction if restored.replayed else None
    addresses = {name: readable(address) for name, address in restored.databases.items()}
    if as_json:
        facts = {
            "backup": str(restored.backup.path),
            "place": str(restored.server.directory),
            "replaced": restored.replaced and str(restored.replaced),
            "at": at.isoformat() if isinstance(at, datetime) else at,
            "last_transaction": last and last.isoformat(),
            "dropping": list(restored.replayed.dropping) if restored.replayed else [],
            "seconds": round(restored.seconds, 1),
            "databases": addresses,
        }
        console.answer_json(facts)
        return
    as_of = manifest.until if at is None else at
    end = "the end of the log before the gap" if restored.replayed and restored.replayed.before_gap else None
    as_of = archive.moment(as_of) if isinstance(as_of, datetime) else end or "the end of the archive"
    console.answer(f"restored  {restored.backup.path.name}, as of {as_of}")
    if restored.replayed:
        archive.show_replayed(restored.replayed)
    console.answer(f"server    {restored.server.directory}, running")
    console.answer(f"database  {addresses.get(manifest.database, '')}")
    if restored.replaced:
        console.answer(f"replaced  the server that was there is stopped, in {restored.replaced}")
    console.say(f"to use it, set `TATAME_DATA_DIR={restored.server.directory}`")


def _confirmed(place: Path, *, asked: bool, typed: Path | None) -> bool:
    """Return whether the server in a directory may be replaced. Raises `NotConfirmed`."""
    action, option = f"`tatame-db restore --replace` replaces the server in {place}", f"--yes-replace {place}"
    path = place.expanduser().absolute()
    if typed is not None:
        if typed.expanduser().absolute() != path:
            raise NotConfirmed(action=f"{action}, and `--yes-replace` names {typed}", option=option)
        return True
    if asked:
        if not console.is_terminal():
            raise NotConfirmed(action=action, option=option)
        answer = console.ask(f"{action}. Type its name, {path.name}")
        if answer != path.name and Path(answer).expanduser().absolute() != path:
            raise NotConfirmed(action=f"{action}, whose name is {path.name}, not {answer or 'empty'}", option=option)
    return asked


def _show_drill(drilled: Drilled, *, as_json: bool) -> None:
    manifest, replayed = drilled.backup.manifest, drilled.replayed
    if as_json:
        facts: dict[str, Any] = {
            "backup": str(drilled.backup.path),
            "equal": drilled.error is None,
            "differences": drilled.differences,
            "schema_problems": drilled.schema_problems,
            "restore_seconds": round(drilled.restore_seconds, 1),
            "compare_seconds": round(drilled.compare_seconds, 1),
            "live": drilled.live and asdict(drilled.live) | {"at": drilled.live.at.isoformat()},
            "recorded": drilled.unrecorded is None,
        }
        facts["replayed"] = replayed and archive.replay_facts(replayed)
        console.answer_json(facts | {"manifest": _facts(manifest)})
    else:
        schema = "no migrations" if drilled.schema_problems is None else "matches its migrations"
        console.answer(f"backup    {drilled.backup.path}, as of {_moment(manifest.until)}")
        if not drilled.differences:
            console.answer(f"contents  equal: {_contents(manifest)}")
        console.answer(f"schema    {'differs' if drilled.schema_problems else schema}")
        if compared := drilled.live:
            differing = f"{counted(len(compared.differences), 'difference')} in {counted(compared.tables, 'table')}"
            console.answer(f"live      {differing if compared.differences else 'equal'}, as of {_moment(compared.at)}")
        console.answer(f"time      a restore takes about {counted(round(drilled.restore_seconds) or 1, 'second')} here")
        if replayed:
            archive.show_replay(replayed)
    if drilled.unrecorded:
        console.say(f"the result could not be noted in {drilled.backup.path.parent}: {drilled.unrecorded}")
    if drilled.error:
        raise drilled.error


def _drill_in_words(drill: Drill | None) -> str | None:
    return f"{'equal' if drill.equal else 'failed'}, {_age(drill.at)} ago" if drill else None


def _listed(found: Listed, drill: Drill | None) -> dict[str, Any]:
    facts = found.manifest and _facts(found.manifest)
    until, gap = _until(found)
    drilled = drill and {"at": drill.at.isoformat(), "equal": drill.equal, "seconds": drill.seconds}
    listed = {"path": str(found.path), "problem": found.problem, "manifest": facts, "last_drill": drilled}
    return listed | {"restorable_until": until and until.isoformat(), "archive_problem": gap}


def _until(found: Listed) -> tuple[datetime | None, str | None]:
    from tatame_db import backup as backups

    return backups.restorable_until(backups.Backup(found.path, found.manifest)) if found.manifest else (None, None)


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "method": manifest.method,
        "standby": manifest.standby,
        "begun": manifest.begun.isoformat(),
        "ended": manifest.ended.isoformat(),
        "complete_until": manifest.until.isoformat(),
        "server_version": manifest.server_version,
        "size_bytes": manifest.size_bytes,
        "stop_lsn": manifest.stop_lsn,
        "databases": {
            name: {
                "revision": contents.revision,
                "tables": {table: {"rows": of.rows, "digest": str(of.digest)} for table, of in contents.tables.items()},
            }
            for name, contents in manifest.contents.items()
        },
    }


def _contents(manifest: Manifest) -> str:
    rows = counted(manifest.rows, "row")
    tables = counted(sum(len(contents.tables) for contents in manifest.contents.values()), "table")
    return f"{rows} in {tables} of {counted(len(manifest.contents), 'database')}"


def _megabytes(size: int) -> str:
    return f"{(size >> 20) + 1:,} MB"


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _age(moment: datetime) -> str:
    minutes = int((datetime.now(UTC) - moment).total_seconds() // 60)
    if minutes < 60:
        return counted(max(minutes, 0), "minute")
    return counted(minutes // 60, "hour") if minutes < 48 * 60 else counted(minutes // (24 * 60), "day")
