"""Out of Supabase: one short function per command."""

from __future__ import annotations

import contextlib
import json
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tatame_db.cli import console
from tatame_db.cli.app import AsJson, DatabaseUrl, Target, app, target_of
from tatame_db.errors import counted

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import URL

    from tatame_db.move import (
        Connections,
        Exclusion,
        Mirror,
        MoveStatus,
        Obstacle,
        Plan,
        Proof,
        Rehearsal,
        RehearsedStep,
        Report,
        RestReading,
        RunStatus,
        TableCopy,
        TableCount,
        TableProof,
    )

AnonSeesAll = Annotated[
    bool,
    typer.Option(
        "--anon-sees-all", help="Over REST without a service role key: the policies hide no row, and you know it."
    ),
]

move = typer.Typer(help="Move the data out of Supabase, and prove it.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(move, name="move")

Orphans = Annotated[Literal["null", "reject"] | None, typer.Option(help="Where a row names another that is not there.")]
Misfits = Annotated[
    Literal["null", "reject"] | None, typer.Option(help="Where a value cannot be stored without a change.")
]
Duplicates = Annotated[
    Literal["first", "last"] | None, typer.Option(help="Which row moves, by id, of those with one unique value.")
]
Unknown = Annotated[
    Literal["keep", "leave"] | None, typer.Option(help="What becomes of columns and tables that are not ours.")
]
Rejects = Annotated[Literal["keep"] | None, typer.Option(help="Reject and keep every other row that cannot move.")]


@contextlib.contextmanager
def _opened(database_url: str | None, *, anon_sees_all: bool, keep_unknown: bool = False) -> Generator[Connections]:
    from tatame_db import move

    target = target_of(database_url)
    with (
        _source(target, anon_sees_all=anon_sees_all, keep_unknown=keep_unknown) as source,
        move.open_for_reading(source, target.database.engine) as connections,
    ):
        yield connections


@contextlib.contextmanager
def _source(target: Target, *, anon_sees_all: bool, keep_unknown: bool = False) -> Generator[URL | Mirror]:
    from tatame_db import move
    from tatame_db.database.address import parse_address

    settings = target.settings
    if settings.supabase_db_url:
        yield parse_address(settings.supabase_db_url.get_secret_value())
        return
    address = move.rest_address(settings.supabase_url, settings.supabase_rest_url)
    key = settings.supabase_service_role_key or settings.supabase_anon_key
    if address is None or key is None:
        raise move.SourceNotConfigured(rest_address=address)
    with contextlib.closing(move.RestClient(address, key.get_secret_value(), anon_sees_all=anon_sees_all)) as rest:
        yield move.Mirror(rest, _say_read, keep_unknown)


def _say_read(table: str, rows: int) -> None:
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
    """Show what would become of each row, and what stands in the way; exit with 3 where anything does."""
    from tatame_db import move

    choices = move.Choices(orphans, misfits, duplicates, unknown, rejects)
    with _opened(database_url, anon_sees_all=anon_sees_all, keep_unknown=unknown == "keep") as connections:
        planned = move.plan(connections, choices)
    if as_json:
        console.answer_json(asdict(planned) | {"whole": planned.whole, "seconds": planned.seconds})
    else:
        _show_plan(planned)
    if not planned.whole:
        raise move.PlanIncomplete(len(planned.unresolved))


def _show_plan(planned: Plan) -> None:
    _show_sides(planned)
    for table in planned.tables:
        console.answer(
            f"\n{table.table}  phase {table.phase}, {counted(table.rows, 'row')}, {table.size_bytes:,} bytes,"
            f" about {table.seconds:,.1f} s"
        )
        for column in table.columns:
            origin = f"{column.source} ({column.source_type})" if column.source else "-"
            console.answer(f"  {column.target:<16}  {origin:<40}  {column.conversion}")
    for table in planned.tables:
        for obstacle in table.obstacles:
            console.answer("")
            _show_obstacle(table.table, obstacle)
    for obstacle in planned.unknown_tables:
        console.answer("")
        _show_obstacle("source", obstacle)
    console.answer(f"\na first copy takes about {planned.seconds:,.1f} s, by the last one on record or by the sizes")
    if planned.whole:
        rows = sum(table.rows for table in planned.tables)
        rejected = sum(what.rows for what in planned.exclusions if what.action == "rejected")
        console.answer(f"\nnothing stands in the way of {counted(rows - rejected, 'row')}")
        _show_exclusions(planned.exclusions)
    if planned.empty:
        _show_emptiness()


def _show_emptiness() -> None:
    console.answer("EMPTY   the source has no rows at all in any of our tables: this may be the wrong database")


def _show_sides(told: Plan | Report, moment: str | None = None) -> None:
    server = "PostgREST" if told.rest else "PostgreSQL"
    console.answer(
        f"source  {told.source}, {server} {told.source_version}{f', as it was at {moment}' if moment else ''}"
    )
    _show_reading(told.rest)
    console.answer(f"target  {told.target}, PostgreSQL {told.target_version}")


def _show_reading(rest: RestReading | None) -> None:
    if rest is None:
        return
    cap = f", of {rest.cap:,} rows at most" if rest.cap else ""
    console.answer(f"read    over REST as {rest.role}, in {rest.pages:,} pages{cap}, and not in one moment")
    if rest.anon_sees_all:
        console.answer("trusted that no row is hidden from this role: --anon-sees-all was said, and nothing shows it")


def _show_obstacle(where: str, obstacle: Obstacle) -> None:
    ids = f", for example {', '.join(obstacle.ids)}" if obstacle.ids else ""
    console.answer(f"{where}: {obstacle.what}: {counted(obstacle.rows, 'row')}{ids}")
    if obstacle.chosen:
        outcome = ", ".join(f"{rows:,} {action}" for action, rows in obstacle.outcome.items())
        console.answer(f"  chosen: `{obstacle.chosen}`: {outcome or 'nothing is left to do'}")
        return
    for choice in obstacle.choices:
        console.answer(f"  can be done: {choice}")


def _show_exclusions(exclusions: list[Exclusion]) -> None:
    for what in exclusions:
        where = f"{what.table}.{what.column}" if what.column else what.table
        console.answer(f"aside   {what.rows:,} {what.action} of {where}: {what.reason}")


@move.command("copy")
def copy_(
    tables: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TABLE]...", help="The tables to copy, besides those of --phase; else all."),
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
    jobs: Annotated[int, typer.Option(min=1, max=8, help="How many tables to copy at once.")] = 1,
    sha256: Annotated[
        bool, typer.Option("--sha256", help="Read back what goes into empty tables, byte for byte.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Let rows go that did not come from this source.")] = False,
    anon_sees_all: AnonSeesAll = False,
    as_json: AsJson = False,
) -> None:
    """Copy what differs and prove it; run again, it copies what has changed since."""
    from tatame_db import move

    target = target_of(database_url)
    choices = move.Choices(orphans, misfits, duplicates, unknown, rejects)
    chosen = [*(tables or ()), *(move.tables_of_phase(phase) if phase else ())]
    with (
        _source(target, anon_sees_all=anon_sees_all, keep_unknown=unknown == "keep") as source,
        move.open_for_writing(source, target.database.engine, _say_wait) as connections,
        console.Progress() as progress,
    ):

        def say_table(done: TableCopy) -> None:
            progress.end(done.table)
            _say_table(done)

        report = move.copy(
            connections,
            chosen,
            choices=choices,
            replace_rows=replace,
            jobs=jobs,
            sha256=sha256,
            on_table=say_table,
            on_rows=progress.update,
        )
    if as_json:
        console.answer_json(asdict(report))
    else:
        _show_report(report)


def _say_wait() -> None:
    console.say("another move or schema change is running on this database; waiting for it")


def _say_table(done: TableCopy) -> None:
    console.say(
        f"{done.table}: {counted(done.rows, 'row')}, {done.written:,} written, {done.deleted:,} deleted,"
        f" {done.seconds:.2f} s"
    )


def _show_report(report: Report) -> None:
    from tatame_db.schema import phases

    _show_sides(report, report.moment)
    console.answer(f"\n  {'table':<13}  {'rows':>12}  {'written':>12}  {'deleted':>12}  {'seconds':>9}  digest")
    for table in report.tables:
        numbers = f"{table.rows:>12,}  {table.written:>12,}  {table.deleted:>12,}  {table.seconds:>9.1f}"
        console.answer(f"  {table.table:<13}  {numbers}  {table.target_digest}")
    rows = sum(table.rows for table in report.tables)
    written = sum(table.written for table in report.tables)
    console.answer("")
    equal = f"{counted(rows, 'row')} in {counted(len(report.tables), 'table')}"
    console.answer(f"equal   {equal}, proven by digests with {report.hash}")
    console.answer("        each server digests its own rows, ours read back as the source has them; they are the same")
    if read_back := [table for table in report.tables if table.sha256]:
        console.answer(f"bytes   {counted(len(read_back), 'table')} read back, and what went into them came out:")
        for table in read_back:
            console.answer(f"        {table.table:<13}  SHA-256 {table.sha256}")
    console.answer(f"keys    {counted(report.keys, 'foreign key')} hold over all rows")
    console.answer(f"ready   a new row was added to {counted(len(report.tried), 'table')}, and taken back")
    _show_exclusions(report.exclusions)
    if not report.exclusions:
        console.answer("aside   nothing: every row moved as it is")
    waiting = [f"{', '.join(table.waiting)} of {table.table}" for table in report.tables if table.waiting]
    for column in waiting:
        console.answer(f"waits   {column}, for rows of a later phase")
    if (
        len(report.tables) == len(phases())
        and not rows
        and not any(what.table in phases() for what in report.exclusions)
    ):
        _show_emptiness()
    console.answer(f"time    {report.seconds:.1f} s, {counted(written, 'row')} written")
    for step in _next(report, waiting):
        console.answer(f"next    {step}")


def _next(report: Report, waiting: list[str]) -> list[str]:
    steps: list[str] = []
    if any(what.action != "left" for what in report.exclusions):
        steps.append(
            "look at `tatame_move.rejects`: what is mended at the source arrives with the next `tatame-db move copy`"
        )
    if report.uncopied:
        steps.append(f"copy the later phases; not copied yet: {', '.join(report.uncopied)}")
    elif waiting:
        steps.append("copy the later phases")
    elif not steps:
        steps.append(
            "once nobody writes to Supabase any more: `tatame-db move copy` again, then `tatame-db move verify`"
            " and `tatame-db check`"
        )
    return steps


@move.command("status")
def status_(database_url: DatabaseUrl = None, *, as_json: AsJson = False) -> None:
    """Say what was copied and proven, whether that still holds, and what a killed run left open."""
    from tatame_db import move

    with move.open_target(target_of(database_url).database.engine) as target:
        found = move.status(target)
    if as_json:
        console.answer_json(json.loads(json.dumps(asdict(found), default=str)))
    else:
        _show_status(found)


def _show_status(found: MoveStatus) -> None:
    if found.last_run:
        _show_run(found.last_run)
    if found.parked:
        console.answer(f"NOT READY  away, until `{found.finish_command}` has run again: {', '.join(found.parked)}\n")
    if found.unproven_keys:
        names = ", ".join(found.unproven_keys)
        until = f"until `{found.finish_command}` has run again"
        console.answer(f"NOT READY  not checked against the rows that are there, {until}: {names}\n")
    for table in found.tables:
        if table.copied_at is None:
            told = "not copied"
        else:
            proven = f"proven {table.proven_at:%Y-%m-%d %H:%M}" if table.proven_at else "not proven"
            told = f"{counted(table.rows or 0, 'row')}, copied {table.copied_at:%Y-%m-%d %H:%M}, {proven}"
        rejected = f", {table.rejected:,} rejected" if table.rejected else ""
        stale = ", written to since: the proof is stale" if table.stale else ""
        console.answer(f"  phase {table.phase}  {table.table:<13}  {told}{rejected}{stale}")
    _show_exclusions(found.exclusions)


def _show_run(run: RunStatus) -> None:
    how = run.outcome or "goes on, or was killed"
    console.answer(f"run {run.id} of {run.started_at:%Y-%m-%d %H:%M}: {how}{f', {run.error}' if run.error else ''}\n")


@move.command("counts")
def counts_(database_url: DatabaseUrl = None, *, anon_sees_all: AnonSeesAll = False, as_json: AsJson = False) -> None:
    """Compare the number of rows, table by table; exit with 3 where any differs."""
    from tatame_db import move

    target, rest = target_of(database_url), None
    with _source(target, anon_sees_all=anon_sees_all) as source:
        if isinstance(source, move.Mirror):
            found, rest = source.counts(target.database.engine), source.rest.reading
        else:
            with move.open_for_reading(source, target.database.engine) as connections:
                found = move.counts(connections)
    if as_json:
        told = [asdict(count) | {"agrees": count.agrees, "by_choice": count.by_choice} for count in found]
        console.answer_json({"rest": asdict(rest) if rest else None, "tables": told})
    else:
        _show_reading(rest)
        _show_counts(found)
    if differing := [count for count in found if not count.agrees]:
        by_choice = all(count.by_choice for count in differing)
        raise move.CountsDiffer(tables=[count.table for count in differing], by_choice=by_choice)


def _show_counts(found: list[TableCount]) -> None:
    console.answer(f"  {'table':<13}  {'source':>12}  {'target':>12}")
    for count in found:
        source = "not told" if count.source is None else f"{count.source:,}"
        agree = "agree" if count.agrees else "differ, by choice" if count.by_choice else "differ"
        rejected = "".join(f", {rows:,} rejected: {kind}" for kind, rows in count.rejected.items())
        console.answer(f"  {count.table:<13}  {source:>12}  {count.target:>12,}  {agree}{rejected}")


@move.command("verify")
def verify_(
    tables: Annotated[
        list[str] | None, typer.Argument(metavar="[TABLE]...", help="The tables to compare; else all.")
    ] = None,
    database_url: DatabaseUrl = None,
    *,
    anon_sees_all: AnonSeesAll = False,
    as_json: AsJson = False,
    max_differences: Annotated[int, typer.Option(min=0, help="How many rows to show of each table.")] = 20,
) -> None:
    """Compare whole contents and show what differs, down to the value; exit with 3 where anything does."""
    from tatame_db import move

    with _opened(database_url, anon_sees_all=anon_sees_all) as connections:
        proof = move.verify(connections, tables or (), max_differences=max_differences)
    if as_json:
        _answer_proof(proof)
    else:
        _show_reading(proof.rest)
        for table in proof.tables:
            _show_proof(table)
        for what in proof.changed:
            name = f"{what.table}.{what.column}" if what.column else what.table
            console.answer(f"{name}: what is kept of it is not what the source has today")
        _show_exclusions(proof.exclusions)
    if error := proof.error:
        raise error


def _answer_proof(proof: Proof) -> None:
    facts = {
        "hash": proof.hash,
        "rest": asdict(proof.rest) if proof.rest else None,
        "equal": proof.equal,
        "equal_but_for_choices": proof.equal_but_for_choices,
        "by_choice": proof.by_choice,
        "tables": [asdict(table) | {"equal": table.equal} for table in proof.tables],
        "exclusions": [asdict(what) for what in proof.exclusions],
        "changed": [asdict(what) for what in proof.changed],
    }
    console.answer_json(facts)


def _show_proof(proof: TableProof) -> None:
    if proof.source_rows is None:
        console.answer(f"{proof.table}: cannot be compared, the source has no such table")
        return
    if proof.equal:
        console.answer(f"{proof.table}: equal, {counted(proof.target_rows, 'row')}, digest {proof.target_digest}")
        return
    console.answer(
        f"{proof.table}: {counted(proof.missing, 'row')} missing, {proof.extra:,} extra, {proof.differing:,} differing"
        f" ({proof.source_rows:,} in the source, {proof.target_rows:,} in the target)"
        + (f"; {proof.by_choice:,} of them by choice" if proof.by_choice else "")
    )
    for difference in proof.differences:
        choice = f", by choice: {difference.choice}" if difference.choice else ""
        console.answer(f"  {difference.id}  {difference.kind}{choice}")
        for value in difference.values:
            console.answer(f"    {value.column}: {_shown(value.source)} in the source, {_shown(value.target)} here")
    hidden = proof.missing + proof.extra + proof.differing - len(proof.differences)
    if hidden:
        console.answer(f"  and {hidden:,} more")


def _shown(value: str | None) -> str:
    return "NULL" if value is None else repr(value)


@move.command("rehearse")
def rehearse_(
    *,
    rows: Annotated[int, typer.Option(min=1_000, max=10_000_000, help="How many rows to practise with.")] = 200_000,
    keep: Annotated[bool, typer.Option("--keep", help="Leave both databases for looking at.")] = False,
    as_json: AsJson = False,
) -> None:
    """Practise the whole move offline, on invented rows; exit with 3 where a step does not end as it has to."""
    from tatame_db import move

    console.say("starting a PostgreSQL of its own for the rehearsal")
    done = move.rehearse(rows, keep=keep, on_step=_say_step if as_json else _show_step)
    if as_json:
        console.answer_json(asdict(done) | {"as_expected": done.failed is None})
    else:
        _show_end(done)
    if done.failed:
        raise move.RehearsalFailed(done.failed)


def _show_end(done: Rehearsal) -> None:
    if done.failed is None:
        console.answer(f"{done.seconds:7.1f} s  all of it, and every step ended as it has to")
    if done.directory:
        console.answer(f"\nsource  {done.source}\ntarget  {done.target}")
        # From `/`, for an empty variable gives way to a `.env`, which is looked for in all folders above.
        means = f"DATABASE_URL= TATAME_ENV= TATAME_DATA_DIR={shlex.quote(done.directory)}"
        console.answer(f"\nboth go with `(cd / && {means} tatame-db down --yes)`")


def _show_step(step: RehearsedStep) -> None:
    console.answer(_told(step))


def _say_step(step: RehearsedStep) -> None:
    console.say(_told(step))


def _told(step: RehearsedStep) -> str:
    return f"{step.seconds:7.1f} s  {step.name}: {step.told}"
