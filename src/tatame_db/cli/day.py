"""The day of a move: follow, switch, go back, finish. One short function per command."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tatame_db.cli import console, day_report, move_json
from tatame_db.cli.app import AsJson, DatabaseUrl, Target, target_of
from tatame_db.cli.move import Misfits, Orphans, chosen_tables, move, postgres_source, say_wait, source_of
from tatame_db.errors import TatameError, fact

if TYPE_CHECKING:
    from sqlalchemy import URL

    from tatame_db.move import Choices, Home
    from tatame_db.move.switch.steps import Step

_UNITS = {"": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}


def _bytes(text: str | int) -> int:
    # Typer passes the default too.
    if not isinstance(text, str):
        return text
    found = re.fullmatch(r"(\d+) ?(|kB|MB|GB)", text, re.IGNORECASE)
    if not found:
        raise typer.BadParameter("a size is a number with kB, MB or GB, such as 2GB")
    return int(found[1]) * _UNITS[found[2].lower()]


def _seconds(text: str | float) -> float:
    if not isinstance(text, str):
        return text
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?s?", text)
    if not found or not float(found[1]):
        raise typer.BadParameter("a pause is a number of seconds, such as 30s")
    return float(found[1])


Tables = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TABLE]...", help="Tables, in addition to those of --phase; by default all."),
]
Phase = Annotated[int | None, typer.Option(min=1, help="The tables of this phase, and each TABLE.", show_default=False)]
PauseAtMost = Annotated[
    float, typer.Option("--pause-at-most", metavar="SECONDS", parser=_seconds, help="The longest wait of a writer.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check and compare without stopping a writer; show the pause to expect.")
]
WriteToSource = Annotated[
    bool, typer.Option("--write-to-source", help="Confirm what the command writes to the source, without a question.")
]
RejectsBack = Annotated[
    Literal["keep"] | None,
    typer.Option("--rejects", help="Leave every other row that cannot be written back on the target only."),
]
LeaveUnknown = Annotated[
    bool, typer.Option("--leave-unknown", help="Leave the values of columns that the source lacks on the target.")
]


@fact
class SourceNotToBeWritten(TatameError):
    """The command writes to the source, which was not confirmed."""

    action: str
    what = "not confirmed: {action}"
    fix = "pass `--write-to-source` to confirm"


def _confirm(action: str, *, confirmed: bool) -> None:
    if not console.confirmed(f"{action}. Continue?", yes=confirmed):
        raise SourceNotToBeWritten(action=action)


@move.command("follow")
def follow_(
    database_url: DatabaseUrl = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="Carry over what is committed now, then end.")] = False,
    until_equal: Annotated[bool, typer.Option("--until-equal", help="End as soon as all rows are equal.")] = False,
    back: Annotated[bool, typer.Option("--back", help="Carry over to the source, for tables that moved here.")] = False,
    keep_slot: Annotated[
        bool, typer.Option("--keep-slot", help="Leave the slot, which holds WAL, for the next run.")
    ] = False,
    wal_at_most: Annotated[
        int,
        typer.Option(
            "--wal-at-most",
            metavar="SIZE",
            parser=_bytes,
            show_default="2GB",
            help="Drop the slot if it holds more WAL.",
        ),
    ] = _bytes("2GB"),
    orphans: Orphans = None,
    misfits: Misfits = None,
    rejects: RejectsBack = None,
    leave_unknown: LeaveUnknown = False,
    write_to_source: WriteToSource = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object for each batch, on a line of its own.")
    ] = False,
) -> None:
    """Keep the other database equal to each table's home, until Ctrl-C."""
    from tatame_db import move as moving

    target = target_of(database_url)
    options = moving.FollowOptions(
        once=once, until_equal=until_equal, keep_slot=keep_slot, wal_bytes_at_most=wal_at_most
    )
    report = day_report.LagLines() if as_json else day_report.LagReport()
    if back:
        address = postgres_source(target)
        _confirm("`tatame-db move follow --back` writes rows to the source", confirmed=write_to_source)
        choices = _choices(orphans, misfits, rejects, leave_unknown=leave_unknown)
        moving.follow_target(address, target.database.engine, options, report, say_wait, choices=choices)
    else:
        action = "`tatame-db move follow` creates a publication and a replication slot in the source, until it ends"
        with source_of(target) as source:
            _confirm(action, confirmed=write_to_source)
            moving.follow_source(source, target.database.engine, options, report, say_wait)
    report.end()
    if not (once or until_equal):
        console.say(f"ended: no table has its home in the {'target' if back else 'source'} any more")


@move.command("switch")
def switch_(
    tables: Tables = None,
    database_url: DatabaseUrl = None,
    *,
    phase: Phase = None,
    pause_at_most: PauseAtMost = 30.0,
    dry_run: DryRun = False,
    write_to_source: WriteToSource = False,
    as_json: AsJson = False,
) -> None:
    """Move the home of tables here, with proof: all of them or none."""
    from tatame_db import move as moving

    target = target_of(database_url)
    _switch(
        target,
        moving.Home.TARGET,
        chosen_tables(tables, phase),
        None,
        pause_at_most,
        dry_run=dry_run,
        confirmed=write_to_source,
        as_json=as_json,
    )


@move.command("back")
def back_(
    tables: Tables = None,
    database_url: DatabaseUrl = None,
    *,
    phase: Phase = None,
    pause_at_most: PauseAtMost = 30.0,
    orphans: Orphans = None,
    misfits: Misfits = None,
    rejects: RejectsBack = None,
    leave_unknown: LeaveUnknown = False,
    dry_run: DryRun = False,
    write_to_source: WriteToSource = False,
    as_json: AsJson = False,
) -> None:
    """Move the home of tables back to the source, with all that was written here since."""
    from tatame_db import move as moving

    target = target_of(database_url)
    _switch(
        target,
        moving.Home.SOURCE,
        chosen_tables(tables, phase),
        _choices(orphans, misfits, rejects, leave_unknown=leave_unknown),
        pause_at_most,
        dry_run=dry_run,
        confirmed=write_to_source,
        as_json=as_json,
    )


@move.command("finish")
def finish_(
    database_url: DatabaseUrl = None, *, write_to_source: WriteToSource = False, as_json: AsJson = False
) -> None:
    """Remove what the move created in both databases beside the tables."""
    from tatame_db import move as moving

    target = target_of(database_url)
    source = postgres_source(target)
    action = (
        "`tatame-db move finish` removes slots, publications, triggers and the record of the move; both databases take"
        " writes afterwards, and there is no way back"
    )
    _confirm(action, confirmed=write_to_source)
    with moving.open_both_for_writing(source, target.database.engine, say_wait) as connections:
        found = moving.finish(connections, lambda removed: console.say(f"removed {removed}"))
    if as_json:
        console.answer_json(move_json.as_json(found))
    else:
        day_report.show_finished(found)
    if error := found.error:
        raise error


def _switch(
    target: Target,
    home: Home,
    tables: list[str],
    choices: Choices | None,
    pause_at_most: float,
    *,
    dry_run: bool,
    confirmed: bool,
    as_json: bool,
) -> None:
    from tatame_db import move as moving

    source: URL = postgres_source(target)
    names = ", ".join(tables) or "all tables"
    refused = "the source" if home is moving.Home.TARGET else "the target"
    if not dry_run:
        action = f"this refuses all writes to {names} in {refused} from now on, by triggers"
        _confirm(f"{action}; the source also gets rows" if choices else action, confirmed=confirmed)
    report = moving.switch(
        source,
        target.database.engine,
        tables,
        to=home,
        choices=choices,
        pause_at_most_seconds=pause_at_most,
        on_step=_say_step,
        on_retry=_say_retry,
        on_wait=say_wait,
        dry_run=dry_run,
    )
    if as_json:
        console.answer_json(move_json.as_json(report))
    else:
        day_report.show_switch(report)


def _choices(orphans: str | None, misfits: str | None, rejects: str | None, *, leave_unknown: bool) -> Choices:
    from tatame_db import move as moving

    unknown = "leave" if leave_unknown else None
    return moving.Choices(orphans=orphans, misfits=misfits, unknown=unknown, rejects=rejects)  # type: ignore[arg-type]  # Typer has checked them


def _say_step(step: Step) -> None:
    console.say(step.value)


def _say_retry(pause: float, blockers: list[str]) -> None:
    holders = f", held by {', '.join(blockers)}" if blockers else ""
    console.say(f"the tables are in use{holders}; writers go on, next attempt in {pause:g} s")
