"""The command that places the tables on the nodes of Citus."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from tatame_db.cli import console
from tatame_db.cli.app import AsJson, DatabaseUrl, NotConfirmed, Yes, app, target_of
from tatame_db.cli.schema import LockTimeout, timeouts
from tatame_db.errors import counted

if TYPE_CHECKING:
    from tatame_db.evolve import Distribution, PlacementStep


@app.command()
def distribute(
    database_url: DatabaseUrl = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the statements without running them.")] = False,
    single_node: Annotated[
        bool, typer.Option("--single-node", help="Place the tables on the coordinator if there is no worker.")
    ] = False,
    yes: Yes = False,
    lock_timeout: LockTimeout = None,
    as_json: AsJson = False,
) -> None:
    """Place the tables on the nodes of Citus: the large ones distributed, the others on every node."""
    from tatame_db import evolve, move

    target = target_of(database_url)
    with move.open_target(target.database.engine, check_schema=False) as opened:
        if error := move.unfinished(opened).error:
            raise error
    plans: list[Distribution] = []
    done: list[PlacementStep] = []

    def agree(planned: Distribution) -> bool:
        plans.append(planned)
        if dry_run:
            if not as_json:
                _show_statements(planned)
            return False
        _say_costs(planned)
        if not console.confirmed(f"Run {counted(len(planned.steps), 'step')} on {target.readable}?", yes=yes):
            raise NotConfirmed(action=f"`tatame-db distribute` moves the tables of {target.readable}")
        return True

    def on_step(step: PlacementStep) -> None:
        done.append(step)
        console.say(step.sql)

    def on_silence(nodes: list[str]) -> None:
        answer = "does not answer" if len(nodes) == 1 else "do not answer"
        console.say(f"waiting for {', '.join(nodes)}, which {answer}; Ctrl-C rolls this step back")

    try:
        found = evolve.distribute(
            target.database.engine,
            agree=agree,
            single_node=single_node,
            on_step=on_step,
            on_silence=on_silence,
            timeouts=timeouts(lock_timeout),
        )
    except KeyboardInterrupt as stopped:
        stopped.add_note(f"{counted(len(done), 'step')} done; run the command again to continue")
        raise
    plan = found or plans[0]
    if as_json:
        console.answer_json(asdict(plan) | {"done": len(done)})
    elif not plan.steps:
        console.say(f"nothing to do: {_names(plan.placed)} are placed")
    elif done:
        console.say(f"done: {counted(len(done), 'step')}; `tatame-db status` shows where each table is")


def _show_statements(planned: Distribution) -> None:
    """Print the statements of a placement, as a script for psql, and its costs."""
    _say_costs(planned)
    for step in planned.steps:
        console.answer(f"{step.sql};")


def _say_costs(planned: Distribution) -> None:
    """Say what is copied and locked, and what becomes impossible."""
    from tatame_db.doctor.finding import size

    by_place: dict[str, list[PlacementStep]] = {}
    for step in planned.steps:
        if step.place is not None:
            by_place.setdefault(step.place, []).append(step)
    nodes = counted(len(planned.nodes), "node") if planned.nodes else "this server"
    console.say(f"Nodes     {nodes}: {', '.join(planned.nodes) or 'not added yet'}")
    for place, steps in by_place.items():
        rows = sum(step.rows or 0 for step in steps)
        about = "" if all(step.rows is not None for step in steps) else "more than "
        console.say(
            f"Copies    {about}{counted(rows, 'row')}, {size(sum(step.size_bytes or 0 for step in steps))},"
            f" {place}: {', '.join(str(step.table) for step in steps)}"
        )
    if all(step.sql.startswith("SELECT replicate_reference_tables(") for step in planned.steps):
        console.say("Copies    to the nodes that lack them: the tables that belong on every node")
        return
    console.say(
        "Removes   last, what stays on the coordinator of the copied tables; all rows are counted before and after"
    )
    if planned.sessions:
        console.say(
            f"Sessions  {counted(planned.sessions, 'other session')} of this database ended first, so that each pool"
            " reconnects and learns\n          of Citus: their open transactions are rolled back"
        )
    console.say(
        "Locks     all tables exclusively during each step: reads and writes of the app wait until it has ended.\n"
        "          A step that does not get its lock in time is rolled back, and so is one that is stopped"
    )
    console.say(
        "Ends      in a distributed table: changes of an id, FOR UPDATE of rows on several nodes, unique indexes\n"
        '          without the id; see the page "Citus" of the documentation'
    )


def _names(placed: dict[str, str]) -> str:
    """Name how many tables are where: `9 tables on every node, 2 distributed by id`."""
    places = list(placed.values())
    return ", ".join(f"{counted(places.count(place), 'table')} {place}" for place in dict.fromkeys(places))
