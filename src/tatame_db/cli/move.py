"""Out of Supabase: one short function per command."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from tatame_db.cli import console
from tatame_db.cli.app import AsJson, DatabaseUrl, app, target_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from tatame_db.move import Obstacle, Plan, Sides, TableCount, TableProof

move = typer.Typer(help="Move the data out of Supabase, and prove it.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(move, name="move")


@contextlib.contextmanager
def _opened(database_url: str | None) -> Generator[Sides]:
    from tatame_db import move
    from tatame_db.settings import parse_address

    target = target_of(database_url)
    named = target.settings.supabase_db_url
    if named is None:
        raise move.SourceNotNamed
    with move.opened(parse_address(named.get_secret_value()), target.database.engine) as sides:
        yield sides


@move.command("plan")
def plan_(database_url: DatabaseUrl = None, *, as_json: AsJson = False) -> None:
    """Show what would become of each row, and what stands in the way; exit with 3 where anything does."""
    from tatame_db import move

    with _opened(database_url) as sides:
        planned = move.plan(sides)
    if as_json:
        console.answer_json(asdict(planned) | {"whole": planned.whole})
    else:
        _show_plan(planned)
    if not planned.whole:
        raise move.NotWhole(len(planned.obstacles))


def _show_plan(planned: Plan) -> None:
    console.answer(f"source  {planned.source}, PostgreSQL {planned.source_version}")
    console.answer(f"target  {planned.target}, PostgreSQL {planned.target_version}")
    for table in planned.tables:
        console.answer(f"\n{table.table}  phase {table.phase}, {table.rows:,} rows, {table.size_bytes:,} bytes")
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
    if planned.whole:
        rows = sum(table.rows for table in planned.tables)
        console.answer(f"\nnothing stands in the way of {rows:,} rows")


def _show_obstacle(where: str, obstacle: Obstacle) -> None:
    ids = f", for example {', '.join(obstacle.ids)}" if obstacle.ids else ""
    console.answer(f"{where}: {obstacle.what}: {obstacle.rows:,} rows{ids}")
    for choice in obstacle.choices:
        console.answer(f"  can be done: {choice}")


@move.command("counts")
def counts_(database_url: DatabaseUrl = None, *, as_json: AsJson = False) -> None:
    """Compare the number of rows, table by table; exit with 3 where any differs."""
    from tatame_db import move

    with _opened(database_url) as sides:
        found = move.counts(sides)
    if as_json:
        console.answer_json({"tables": [asdict(count) | {"agrees": count.agrees} for count in found]})
    else:
        _show_counts(found)
    if wrong := [count.table for count in found if not count.agrees]:
        raise move.CountsDiffer(wrong)


def _show_counts(found: list[TableCount]) -> None:
    console.answer(f"  {'table':<13}  {'source':>12}  {'target':>12}")
    for count in found:
        source = "no table" if count.source is None else f"{count.source:,}"
        console.answer(
            f"  {count.table:<13}  {source:>12}  {count.target:>12,}  {'agree' if count.agrees else 'differ'}"
        )


@move.command("verify")
def verify_(
    tables: Annotated[
        list[str] | None, typer.Argument(metavar="[TABLE]...", help="The tables to compare; else all.")
    ] = None,
    database_url: DatabaseUrl = None,
    *,
    as_json: AsJson = False,
    max_differences: Annotated[int, typer.Option(min=0, help="How many rows to show of each table.")] = 20,
) -> None:
    """Compare whole contents and show what differs, down to the value; exit with 3 where anything does."""
    from tatame_db import move

    with _opened(database_url) as sides:
        proof = move.verify(sides, tables or (), max_differences=max_differences)
    if as_json:
        proofs = [asdict(table) | {"equal": table.equal} for table in proof.tables]
        console.answer_json({"hash": proof.hash, "equal": not proof.unequal, "tables": proofs})
    else:
        for table in proof.tables:
            _show_proof(table)
    if proof.unequal:
        raise move.DataDiffers(proof.unequal)


def _show_proof(proof: TableProof) -> None:
    if proof.source_rows is None:
        console.answer(f"{proof.table}: cannot be compared, the source has no such table")
        return
    if proof.equal:
        console.answer(f"{proof.table}: equal, {proof.target_rows:,} rows, digest {proof.target_digest}")
        return
    console.answer(
        f"{proof.table}: {proof.missing:,} rows missing, {proof.extra:,} extra, {proof.differing:,} differing"
        f" ({proof.source_rows:,} in the source, {proof.target_rows:,} in the target)"
    )
    for difference in proof.differences:
        console.answer(f"  {difference.id}  {difference.kind}")
        for value in difference.values:
            console.answer(f"    {value.column}: {_shown(value.source)} in the source, {_shown(value.target)} here")
    hidden = proof.missing + proof.extra + proof.differing - len(proof.differences)
    if hidden:
        console.answer(f"  and {hidden:,} more")


def _shown(value: str | None) -> str:
    return "NULL" if value is None else repr(value)
