"""Changes of the schema: one short function per command."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tatame_db.cli import console
from tatame_db.cli.app import AsJson, DatabaseUrl, NotConfirmed, Yes, app, confirm, load_app, target_of
from tatame_db.errors import TatameError, counted, fact

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL

    from tatame_db.evolve import Answers, MigrationStep, Push, Retry, SchemaCheck, Timeouts

LockTimeout = Annotated[
    int | None,
    typer.Option("--lock-timeout", metavar="MS", min=1, help="Maximum wait for a lock.", show_default=False),
]
StatementTimeout = Annotated[
    int | None,
    typer.Option(
        "--statement-timeout", metavar="MS", min=1, help="Maximum duration of a statement.", show_default=False
    ),
]
Renames = Annotated[
    list[str] | None,
    typer.Option(
        "--rename",
        metavar="OLD:NEW",
        help="Rename a column, table or label of an enum: `users.plan:tier`, `assets:materials`, `kind.GOLD:PLUS`.",
    ),
]
Drops = Annotated[
    list[str] | None,
    typer.Option(
        "--drop",
        metavar="NAME",
        help="Drop a column or table with its data, or what `generate` left alone: `users.plan`, `assets`.",
    ),
]

AcceptDataLoss = Annotated[
    bool, typer.Option("--accept-data-loss", help="Run even if tables or columns with values are dropped.")
]


@fact
class NameNotConfirmed(TatameError):
    """A push to a database on another machine has to be confirmed with the name of the database."""

    address: URL
    what = "{where} is on another machine, and its name is not confirmed"
    fix = "confirm with `--database-name {address.database}`, or change a shared database with `tatame-db migrate`"

    @property
    def where(self) -> str:
        """The address, without a password."""
        from tatame_db.database.address import readable

        return readable(self.address)


def say_step(step: MigrationStep) -> None:
    """Print a migration, its sentence and its time."""
    console.say(f"{step.revision}  {step.sentence}  {step.seconds:.2f} s")


def _say_undone(step: MigrationStep) -> None:
    console.say(f"{step.revision}  undone: {step.sentence}  {step.seconds:.2f} s")


def _say_wait() -> None:
    console.say("waiting for another schema change on this database")


def _say_retry(retry: Retry) -> None:
    holders = f", held by {', '.join(retry.blockers)}" if retry.blockers else ""
    console.say(f"{retry.revision}  lock timeout{holders}; rolled back, next attempt in {retry.pause_seconds:g} s")


def timeouts(lock_timeout: int | None = None, statement_timeout: int | None = None) -> Timeouts:
    """Return the timeouts of the options, with callbacks that print every delay."""
    from tatame_db import evolve

    return evolve.Timeouts(
        lock_timeout,
        statement_timeout or evolve.Timeouts.statement_timeout_ms,
        on_wait=_say_wait,
        on_retry=_say_retry,
    )


def accept_losses(change: str, *, accepted: bool) -> Callable[[list[str]], None]:
    """Return a function that receives the data that a change loses, and prints it, or raises `DataLoss`."""

    def agree(losses: list[str]) -> None:
        from tatame_db import evolve

        if losses and not accepted:
            raise evolve.DataLoss(change=change, losses=losses)
        for loss in losses:
            console.say(f"data loss: {loss}")

    return agree


def _answers(renames: list[str] | None, drops: list[str] | None) -> Answers:
    from tatame_db import evolve

    return evolve.Answers.parse(renames or [], drops or [], _ask if console.is_terminal() else None)


def _ask(gone: str, candidates: list[str]) -> str | None:
    question = f"{gone} is no longer in the models. Type its new name ({' or '.join(candidates)}), or DROP to drop it"
    while (answer := console.ask(question)) not in [*candidates, "DROP"]:
        pass
    return answer if answer in candidates else None


@app.command()
def migrate(
    revision: Annotated[str, typer.Argument(help="Stop after this revision.")] = "head",
    database_url: DatabaseUrl = None,
    *,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL without running it.")] = False,
    accept_data_loss: AcceptDataLoss = False,
    lock_timeout: LockTimeout = None,
    statement_timeout: StatementTimeout = None,
) -> None:
    """Apply the pending migrations, each in its own transaction."""
    from tatame_db import evolve
    from tatame_db.roles.owners import tables_of_another

    engine, agree = target_of(database_url).database.engine, accept_losses("migrate", accepted=accept_data_loss)
    if sql:
        script = evolve.migration_sql(engine, revision)
        console.answer(script) if script else console.say("nothing to migrate")
    elif evolve.migrate(
        engine, revision, agree=agree, on_step=say_step, timeouts=timeouts(lock_timeout, statement_timeout)
    ):
        with engine.connect() as connection:
            if found := tables_of_another(connection):
                console.say(f"warning: {found}")
    else:
        console.say("nothing to migrate")


@app.command()
def rollback(
    database_url: DatabaseUrl = None,
    *,
    steps: Annotated[int, typer.Option(min=1, help="Number of migrations to undo.")] = 1,
    yes: Yes = False,
    accept_data_loss: AcceptDataLoss = False,
    lock_timeout: LockTimeout = None,
    statement_timeout: StatementTimeout = None,
) -> None:
    """Undo the newest migrations; the data in the tables and columns that they created is lost."""
    from tatame_db import evolve

    target = target_of(database_url)
    confirm(f"`tatame-db rollback` undoes {counted(steps, 'migration')} in {target.readable}", yes=yes)
    evolve.rollback(
        target.database.engine,
        steps,
        agree=accept_losses("rollback", accepted=accept_data_loss),
        on_step=_say_undone,
        timeouts=timeouts(lock_timeout, statement_timeout),
    )


@app.command()
def generate(
    sentence: Annotated[str, typer.Argument(help="The change in words, such as `add belt to graduations`.")],
    *,
    empty: Annotated[bool, typer.Option("--empty", help="Create a migration without steps, to write by hand.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Create a migration that joins two branches.")] = False,
    rename: Renames = None,
    drop: Drops = None,
) -> None:
    """Create the next migration from the difference between models and migrations."""
    from tatame_db import evolve
    from tatame_db.settings import Settings

    load_app(Settings.from_env(), may_be_new=True)
    if merge:
        written = evolve.generate_merge(sentence)
    elif empty:
        written = evolve.generate_empty(sentence)
    else:
        found = evolve.generate(sentence, _answers(rename, drop))
        if found is None:
            console.say("nothing to generate")
            return
        written = found
    for advice in written.advice:
        console.say(f"note: {advice}")
    if written.left_alone:
        console.say(f"left alone, because no model describes it: {', '.join(written.left_alone)}")
    console.say(f"wrote {written.path}")
    console.answer_parts([written.sql.strip(), "\n"])


@app.command()
def push(
    database_url: DatabaseUrl = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the statements without running them.")] = False,
    yes: Yes = False,
    accept_data_loss: AcceptDataLoss = False,
    database_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Confirm a database on another machine by its name."),
    ] = None,
    rename: Renames = None,
    drop: Drops = None,
    lock_timeout: LockTimeout = None,
    statement_timeout: StatementTimeout = None,
) -> None:
    """Apply the models to a development database in one transaction, without a migration."""
    from tatame_db import evolve
    from tatame_db.database.address import is_local

    target = target_of(database_url, may_be_new=True)
    address = target.database.address
    if not is_local(address) and database_name != address.database:
        raise NameNotConfirmed(address=address)

    def agree(planned: Push) -> bool:
        _say_left_alone(planned)
        for statement in planned.statements:
            console.answer_parts([f"{statement};\n\n"])
        accept_losses("push", accepted=accept_data_loss or dry_run)(planned.losses)
        if dry_run:
            return False
        if not console.confirmed(f"Run {counted(len(planned.statements), 'statement')} on {target.readable}?", yes=yes):
            raise NotConfirmed(action=f"`tatame-db push` changes {target.readable}")
        return True

    done = evolve.push(
        target.database.engine,
        _answers(rename, drop),
        agree=agree,
        timeouts=timeouts(lock_timeout, statement_timeout),
    )
    if done is None:
        console.say("nothing was run")
    elif done.statements:
        console.say(f"ran {counted(len(done.statements), 'statement')}")
    else:
        _say_left_alone(done)
        console.say("nothing to push")


def _say_left_alone(push: Push) -> None:
    if push.left_alone:
        console.say(f"left alone, because it is not in the models: {', '.join(push.left_alone)}")


@app.command()
def check(database_url: DatabaseUrl = None, *, as_json: AsJson = False) -> None:
    """Check that migrations, models and database agree; exit with 3 if not."""
    from tatame_db import evolve, move

    engine = target_of(database_url).database.engine
    report = evolve.check(engine)
    with move.open_target(engine, check_schema=False) as opened:
        unfinished = move.unfinished(opened)
    failed = [*report.failed, *(["move"] if unfinished.names else [])]
    if as_json:
        console.answer_json(asdict(report) | {"move": unfinished.names, "failed": failed})
    else:
        _show(report)
        _show_answer("no move is unfinished", unfinished.names)
    if error := unfinished.error:
        raise error
    if report.failed:
        raise evolve.CheckFailed(check=report)


def _show(report: SchemaCheck) -> None:
    schema = f"revision {report.revision}" if report.revision else "an empty schema"
    _show_answer("the migrations have one head", report.heads)
    _show_answer("the migrations build the models", report.migrations)
    _show_answer(f"the database matches {schema}", report.database)
    if report.pending:
        console.answer(f"     not applied to it yet: {', '.join(report.pending)}")
    if report.placement:
        _show_answer("the tables are placed on the nodes of Citus", report.placement)
    if report.edited:
        edited = [f"edited after it was applied to this database: {file}" for file in report.edited]
        _show_answer("no applied migration was edited", edited)
    for note, objects in (
        ("applied without a checksum, so an edit of the file is not seen", report.unrecorded),
        ("made by a migration, not described by a model", report.undeclared),
        ("not made by a migration, left alone", report.foreign),
        ("exists as expected, definition not compared", report.not_compared),
    ):
        if objects:
            console.answer(f"     {note}: {', '.join(objects)}")


def _show_answer(statement: str, problems: list[str] | None) -> None:
    if problems is None:
        console.answer(f"?    not compared, because there is more than one head: {statement}")
        return
    console.answer(f"{'no ' if problems else 'yes'}  {statement}")
    for problem in problems:
        console.answer(f"     {problem}")


@app.command()
def lint(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILES]...", help="Migrations to check; by default all unreleased ones."),
    ] = None,
) -> None:
    """Check migrations for steps that would block or break a running app; exit with 3 if there are any."""
    from tatame_db import evolve
    from tatame_db.settings import Settings

    load_app(Settings.from_env())
    found = evolve.lint(files)
    for linted in found:
        console.answer(linted.warnings or f"{linted.file}: no warnings")
    if found and not files and not evolve.has_released():
        console.say("no tag in this repository: every migration counts as unreleased")
    if warned := [linted.file for linted in found if linted.warnings]:
        raise evolve.LintFailed(files=warned)
    if not found:
        console.say("nothing to lint: every migration is released")
