"""The move out of Supabase: one short function per command."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tatame_db.cli import console, kept_report, move_json, move_report
from tatame_db.cli.app import AsJson, DatabaseUrl, Target, app, target_of
from tatame_db.errors import counted

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import URL

    from tatame_db.move import Connections, Mirror, TableCopy
    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.snapshot import LockWait

move = typer.Typer(help="Move data out of Supabase and prove it.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(move, name="move")

Orphans = Annotated[
    Literal["null", "reject"] | None,
    typer.Option(help="A reference to a row that does not exist: set it to NULL, or reject the row."),
]
Misfits = Annotated[
    Literal["null", "reject"] | None,
    typer.Option(help="A value that cannot be stored unchanged: set it to NULL, or reject the row."),
]
Duplicates = Annotated[
    Literal["first", "last"] | None,
    typer.Option(help="Rows with the same unique value: copy the first or the last by id, reject the others."),
]
Unknown = Annotated[
    Literal["keep", "leave"] | None,
    typer.Option(
        help="Columns and tables without a model: keep the values in tatame_move.rejects, or leave them at the source."
    ),
]
Rejects = Annotated[
    Literal["keep"] | None,
    typer.Option(help="Reject every other row that cannot be copied, and keep it in tatame_move.rejects."),
]
AnonSeesAll = Annotated[
    bool,
    typer.Option(
        "--anon-sees-all", help="Over REST without the service role key: trust that the policies hide no rows."
    ),
]


@contextlib.contextmanager
def _opened(target: Target, *, anon_sees_all: bool, keep_unknown: bool = False) -> Generator[Connections]:
    from tatame_db import move

    with (
        source_of(target, anon_sees_all=anon_sees_all, keep_unknown=keep_unknown) as source,
        move.open_for_reading(source, target.database.engine, _say_locked) as connections,
    ):
        yield connections


@contextlib.contextmanager
def source_of(target: Target, *, anon_sees_all: bool = False, keep_unknown: bool = False) -> Generator[URL | Mirror]:
    """Yield the source that the settings name. Raises `SourceNotConfigured`."""
    from tatame_db.move.open import SourceNotConfigured

    settings = target.settings
    if (source := settings.source_address) is not None:
        yield source
        return

    from tatame_db.move.mirror import Mirror
    from tatame_db.move.rest import RestClient, rest_address

    address = rest_address(settings.supabase_url, settings.supabase_rest_url)
    key = settings.supabase_service_role_key or settings.supabase_anon_key
    if address is None or key is None:
        raise SourceNotConfigured(rest_address=address)
    proxy = settings.supabase_proxy.get_secret_value() if settings.supabase_proxy else None
    with contextlib.closing(
        RestClient(address, key.get_secret_value(), anon_sees_all=anon_sees_all, proxy=proxy)
    ) as rest:
        yield Mirror(rest, _say_table_read, keep_unknown)


def postgres_source(target: Target) -> URL:
    """Return the address of the source's own PostgreSQL. Raises `SourceWithoutServer`, `SourceNotConfigured`."""
    from tatame_db.move.open import SourceNotConfigured
    from tatame_db.move.switch.errors import SourceWithoutServer

    settings = target.settings
    address = settings.source_address
    if address is None:
        raise (
            SourceWithoutServer
            if settings.supabase_url or settings.supabase_rest_url
            else SourceNotConfigured(rest_address=None)
        )
    return address


def _say_table_read(table: str, rows: int) -> None:
    console.say(f"{table}: {counted(rows, 'row')} read")


@move.command("plan")
def plan_(
    database_url: DatabaseUrl = None,
    *,
    orphans: Orphans = None,
    misfits: Misfits = None,
    duplicates: Duplicates = None,
    unknown: Unknown = None,
    rejects: Rejects = None,
    anon_sees_all: AnonSeesAll = False,
    as_json: AsJson = False,
) -> None:
    """Show how rows would be copied, any obstacles, and what stays behind. Exit with 3 if an obstacle is unresolved."""
    from tatame_db import move

    target = target_of(database_url)
    addresses = filter(None, [target.settings.supabase_url, target.settings.supabase_rest_url])
    choices = move.Choices(orphans, misfits, duplicates, unknown, rejects)
    with _opened(target, anon_sees_all=anon_sees_all, keep_unknown=unknown == "keep") as connections:
        plan = move.plan(connections, choices, addresses)
    if as_json:
        console.answer_json(move_json.as_json(plan))
    else:
        move_report.show_plan(plan)
    if error := plan.error:
        raise error


@move.command("copy")
def copy_(
    tables: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TABLE]...", help="Tables to copy, in addition to those of --phase; by default all."),
    ] = None,
    database_url: DatabaseUrl = None,
    *,
    phase: Annotated[
        int | None,
        typer.Option(min=1, help="Copy the tables of this phase, and each TABLE.", show_default=False),
    ] = None,
    orphans: Orphans = None,
    misfits: Misfits = None,
    duplicates: Duplicates = None,
    unknown: Unknown = None,
    rejects: Rejects = None,
    jobs: Annotated[int, typer.Option(min=1, max=8, help="Number of tables to copy at the same time.")] = 1,
    sha256: Annotated[
        bool, typer.Option("--sha256", help="Read back tables that were empty, and compare the SHA-256 of all bytes.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite rows that did not come from this source.")
    ] = False,
    emptied: Annotated[
        bool,
        typer.Option("--emptied", help="Accept tables that are empty in the source now and had rows at the last copy."),
    ] = False,
    anon_sees_all: AnonSeesAll = False,
    as_json: AsJson = False,
) -> None:
    """Copy the rows that differ, and prove the result. Run it again to copy later changes."""
    from tatame_db import move

    target = target_of(database_url)
    choices = move.Choices(orphans, misfits, duplicates, unknown, rejects)
    chosen = chosen_tables(tables, phase)
    with (
        source_of(target, anon_sees_all=anon_sees_all, keep_unknown=unknown == "keep") as source,
        move.open_for_writing(source, target.database.engine, say_wait, _say_locked) as connections,
        console.Progress() as progress,
    ):

        def say_table(copied: TableCopy) -> None:
            progress.end(copied.table)
            _say_table_copied(copied)

        report = move.copy(
            connections,
            chosen,
            choices=choices,
            replace_rows=replace,
            jobs=jobs,
            sha256=sha256,
            accept_emptied=emptied,
            on_table=say_table,
            on_rows=progress.update,
            on_stage=lambda stage, table: progress.stage(f"{stage.value}: {table}" if table else stage.value),
        )
    if as_json:
        console.answer_json(move_json.as_json(report))
    else:
        move_report.show_copy(report)


def chosen_tables(tables: list[str] | None, phase: int | None) -> list[str]:
    """Return the tables that a command names and those of a phase; none for all. Raises `PhaseUnknown`."""
    from tatame_db import move

    return [*(tables or ()), *(move.tables_of_phase(phase) if phase else ())]


def say_wait() -> None:
    """Print that another process holds the lock on schema changes."""
    console.say("another move or schema change is running on this database; waiting for it to end")


def _say_locked(wait: LockWait) -> None:
    console.say(f"{wait}; waiting for them")


def _say_table_copied(copied: TableCopy) -> None:
    console.say(
        f"{copied.table}: {counted(copied.rows, 'row')}, {copied.written:,} written, {copied.deleted:,} deleted,"
        f" {copied.seconds:.2f} s"
    )


@move.command("status")
def status_(
    database_url: DatabaseUrl = None,
    *,
    env: Annotated[
        bool, typer.Option("--env", help="Print the USE_POSTGRES_… lines for `.env` that fit the homes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the state of the move: homes, tables copied and proven, later changes, slots, unfinished work."""
    from tatame_db import move

    if env and as_json:
        raise typer.BadParameter("--env prints lines for `.env`, which --json cannot hold; choose one of them")
    with contextlib.ExitStack() as opened:
        chosen = target_of(database_url)
        target = opened.enter_context(move.open_target(chosen.database.engine, on_locked=_say_locked))
        status = move.status(target, _source_if_reachable(opened, chosen))
        if env and not status.home_problem and not move.known_homes(target).fenced:
            # Before the first switch, and after the end of a move, which has removed every trace of the homes.
            raise move.HomesUnknown(problem="no table follows another database now, and no switch is on record")
    if env and status.home_problem:
        raise move.HomesUnknown(problem=status.home_problem)
    if env:
        homes = {table.table: table.home for table in status.tables if table.home}
        console.answer("\n".join(move.environment_lines(homes)))
    elif as_json:
        console.answer_json(move_json.as_json(status))
    else:
        move_report.show_status(status)


def _source_if_reachable(opened: contextlib.ExitStack, target: Target) -> MoveConnection | None:
    """Open the source if one is configured and answers; the state of the target is shown without it too."""
    from tatame_db.errors import TatameError
    from tatame_db.move.open import open_source

    if target.settings.supabase_db_url is None:
        return None
    try:
        return opened.enter_context(open_source(postgres_source(target), on_locked=_say_locked))
    except TatameError as error:
        console.say(f"the state of the source is not known: {error.what}")
        return None


@move.command("rejects")
def rejects_(
    tables: Annotated[list[str] | None, typer.Argument(metavar="[TABLE]...", help="Tables; by default all.")] = None,
    database_url: DatabaseUrl = None,
    *,
    sql: Annotated[
        bool,
        typer.Option("--sql", help="Print a script for psql that creates the rows exactly as they were."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the rows and values that were excluded, or not written back, and are kept; with --sql, the rows."""
    from tatame_db import move

    if sql and as_json:
        raise typer.BadParameter("--sql prints a script, which --json cannot hold; choose one of them")
    with move.open_target(target_of(database_url).database.engine, on_locked=_say_locked) as target:
        if sql:
            console.answer_parts(move.restoring_script(target, tables or ()))
            return
        kept = move.kept_rows(target, tables or ())
    if as_json:
        console.answer_json(move_json.as_json(kept))
    else:
        kept_report.show_kept(kept)


@move.command("counts")
def counts_(database_url: DatabaseUrl = None, *, anon_sees_all: AnonSeesAll = False, as_json: AsJson = False) -> None:
    """Compare the number of rows of each table. Exit with 3 if any differ."""
    from tatame_db import move
    from tatame_db.move.proof import CountsDiffer

    target, rest = target_of(database_url), None
    with source_of(target, anon_sees_all=anon_sees_all) as source:
        if isinstance(source, move.Mirror):
            counts, rest = source.counts(target.database.engine), source.rest.reading
        else:
            with move.open_for_reading(source, target.database.engine, _say_locked) as connections:
                counts = move.counts(connections)
    if as_json:
        console.answer_json(move_json.as_json(move_json.Counts(rest, counts)))
    else:
        move_report.show_counts(counts, rest)
    if differing := [count for count in counts if not count.agrees]:
        by_choice = all(count.by_choice for count in differing)
        raise CountsDiffer(tables=[count.table for count in differing], by_choice=by_choice)


@move.command("verify")
def verify_(
    tables: Annotated[
        list[str] | None, typer.Argument(metavar="[TABLE]...", help="Tables to compare; by default all.")
    ] = None,
    database_url: DatabaseUrl = None,
    *,
    anon_sees_all: AnonSeesAll = False,
    as_json: AsJson = False,
    max_differences: Annotated[int, typer.Option(min=0, help="Number of differing rows to show of each table.")] = 20,
) -> None:
    """Compare all rows and show the differences. Exit with 3 if there are any."""
    from tatame_db import move

    with _opened(target_of(database_url), anon_sees_all=anon_sees_all) as connections:
        compared = move.compare(connections, tables or (), max_differences=max_differences)
        if as_json:
            console.answer_json(move_json.comparison_as_json(compared))
        else:
            move_report.show_proof(compared)
    if error := compared.proof.error:
        raise error


@move.command("rehearse")
def rehearse_(
    *,
    rows: Annotated[int, typer.Option(min=1_000, max=10_000_000, help="Number of rows to generate.")] = 200_000,
    keep: Annotated[bool, typer.Option("--keep", help="Keep both databases for inspection.")] = False,
    as_json: AsJson = False,
) -> None:
    """Rehearse the whole move offline, with generated rows. Exit with 3 if a step fails."""
    from tatame_db import move
    from tatame_db.move.rehearsal.run import RehearsalFailed

    console.say("starting a temporary PostgreSQL for the rehearsal")
    print_step = console.say if as_json else console.answer
    rehearsal = move.rehearse(rows, keep=keep, on_step=lambda step: print_step(move_report.step_line(step)))
    if as_json:
        console.answer_json(move_json.as_json(rehearsal))
    else:
        move_report.show_rehearsal(rehearsal)
    if rehearsal.failed:
        raise RehearsalFailed(step=rehearsal.failed.name, problem=rehearsal.failed.summary)
