"""Out of Supabase: one short function per command."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from tatame_db.cli import console
from tatame_db.cli.app import AsJson, DatabaseUrl, app, target_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from tatame_db.move import Obstacle, Plan, Sides

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
