"""Changes of the schema: one short function per command."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tatame_db.cli import console
from tatame_db.cli.app import AsJson, DatabaseUrl, NotAgreed, Yes, app, target_of
from tatame_db.errors import NOTHING_CHANGED, TatameError, counted

if TYPE_CHECKING:
    from tatame_db.evolve import Answers, MigrationStep, Push, Retry, SchemaCheck, Timeouts

LockTimeout = Annotated[
    int | None,
    typer.Option(
        "--lock-timeout", metavar="MS", min=1, help="How long a step may wait for a lock.", show_default=False
    ),
]
StatementTimeout = Annotated[
    int | None,
    typer.Option("--statement-timeout", metavar="MS", min=1, help="How long a statement may take.", show_default=False),
]
Renames = Annotated[
    list[str] | None,
    typer.Option("--rename", metavar="OLD:NEW", help="A rename, as `users.plan:tier` or `assets:materials`."),
]
Drops = Annotated[
    list[str] | None, typer.Option("--drop", metavar="NAME", help="Not a rename: `users.plan` or `assets` really goes.")
]


class NotTyped(TatameError):
    """A database on another machine is pushed to only by somebody who types its name."""

    def __init__(self, address: str, name: str) -> None:
        super().__init__(
            f"{address} is not on this machine, and its name was not typed",
            means=NOTHING_CHANGED,
            fix=f"if you mean it, say `--database-name {name}`; what others use is changed with `tatame-db migrate`",
        )


def say_step(step: MigrationStep) -> None:
    """Tell of one migration, its sentence and its time."""
    console.say(f"{step.revision}  {step.sentence}  {step.seconds:.2f} s")


def _say_wait() -> None:
    console.say("another schema change is running on this database; waiting for it")


def _say_retry(retry: Retry) -> None:
    console.say(f"{retry.revision}  got no lock and was undone; next try in {retry.pause_seconds:g} s")


def timeouts(lock_timeout: int | None = None, statement_timeout: int | None = None) -> Timeouts:
    """Put the timeouts together, and tell of waiting."""
    from tatame_db import evolve

    return evolve.Timeouts(
        lock_timeout or evolve.Timeouts.lock_timeout_ms,
        statement_timeout or evolve.Timeouts.statement_timeout_ms,
        on_wait=_say_wait,
        on_retry=_say_retry,
    )


def _answers(renames: list[str] | None, drops: list[str] | None) -> Answers:
    from tatame_db import evolve

    return evolve.Answers.parse(renames or [], drops or [], _ask if console.is_terminal() else None)


def _ask(gone: str, candidates: list[str]) -> str | None:
    answer = console.ask(f"{gone} is gone from the models. Renamed to {' or '.join(candidates)}? (empty: dropped)")
    return answer or None


@app.command()
def migrate(
    revision: Annotated[str, typer.Argument(help="Where to stop.")] = "head",
    database_url: DatabaseUrl = None,
    *,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL, and run nothing.")] = False,
    lock_timeout: LockTimeout = None,
    statement_timeout: StatementTimeout = None,
) -> None:
    """Apply the pending migrations, each in a transaction of its own."""
    from tatame_db import evolve

    engine = target_of(database_url).database.engine
    if sql:
        script = evolve.migration_sql(engine, revision)
        console.answer(script) if script else console.say("nothing to migrate")
    elif not evolve.migrate(engine, revision, on_step=say_step, timeouts=timeouts(lock_timeout, statement_timeout)):
        console.say("nothing to migrate")


@app.command()
def rollback(
    database_url: DatabaseUrl = None,
    *,
    steps: Annotated[int, typer.Option(min=1, help="How many migrations to undo.")] = 1,
    yes: Yes = False,
    lock_timeout: LockTimeout = None,
    statement_timeout: StatementTimeout = None,
) -> None:
    """Undo the newest migrations and lose the data in what they made; at a terminal, asks first."""
    from tatame_db import evolve

    target = target_of(database_url)
    engine = target.database.engine
    what = f"`tatame-db rollback` drops what {counted(steps, 'migration')} made in {target.readable}, with its data"
    if console.is_terminal() and not console.agreed(f"{what}. Go on?", yes=yes):
        raise NotAgreed(what)
    evolve.rollback(engine, steps, on_step=say_step, timeouts=timeouts(lock_timeout, statement_timeout))


@app.command()
def generate(
    sentence: Annotated[str, typer.Argument(help="What changes, as `add belt to graduations`.")],
    *,
    empty: Annotated[bool, typer.Option("--empty", help="Without steps, to be written by hand.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="Join the heads of two branches.")] = False,
    rename: Renames = None,
    drop: Drops = None,
) -> None:
    """Write the next migration from the difference of models and migrations, and print its SQL."""
    from tatame_db import evolve

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
    console.say(f"wrote {written.path}")
    console.answer(written.sql.strip())


@app.command()
def push(
    database_url: DatabaseUrl = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the statements, and run nothing.")] = False,
    yes: Yes = False,
    accept_data_loss: Annotated[
        bool, typer.Option("--accept-data-loss", help="Drop or rewrite data where the models say so.")
    ] = False,
    database_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The name of a database on another machine, typed to show that you mean it."),
    ] = None,
    rename: Renames = None,
    drop: Drops = None,
    lock_timeout: LockTimeout = None,
    statement_timeout: StatementTimeout = None,
) -> None:
    """Make a development database equal to the models, in one transaction and without a migration."""
    from tatame_db import evolve
    from tatame_db.database.address import is_local

    target = target_of(database_url)
    name = str(target.database.address.database)
    if not is_local(target.database.address) and database_name != name:
        raise NotTyped(target.readable, name)

    def agree(planned: Push) -> bool:
        for statement in planned.statements:
            console.answer(f"{statement};\n")
        for loss in planned.losses:
            console.say(f"data loss: {loss}")
        if dry_run:
            return False
        if planned.losses and not accept_data_loss:
            raise evolve.DataLoss(planned.losses)
        if not console.agreed(f"Run {len(planned.statements)} statements on {target.readable}?", yes=yes):
            raise NotAgreed(f"`tatame-db push` changes {target.readable}")
        return True

    done = evolve.push(
        target.database.engine,
        _answers(rename, drop),
        agree=agree,
        timeouts=timeouts(lock_timeout, statement_timeout),
    )
    if done is None:
        console.say("nothing was run")
    else:
        console.say(f"ran {len(done.statements)} statements" if done.statements else "nothing to push")


@app.command()
def check(database_url: DatabaseUrl = None, *, as_json: AsJson = False) -> None:
    """Say whether migrations, models and database agree; exit with 3 where they do not."""
    from tatame_db import evolve, move

    engine = target_of(database_url).database.engine
    report = evolve.check(engine)
    with move.open_target(engine, check_schema=False) as opened:
        unfinished = move.unfinished(opened)
    failed = [*report.failed, *(["a move out of Supabase"] if unfinished.names else [])]
    if as_json:
        console.answer_json(asdict(report) | {"move": unfinished.names, "failed": failed})
    else:
        _show(report)
        _show_answer("no move is unfinished", unfinished.names)
    if unfinished.names:
        raise move.MoveUnfinished(names=unfinished.names, command=unfinished.command)
    if failed:
        raise evolve.CheckFailed(failed)


def _show(report: SchemaCheck) -> None:
    for question, problems in (
        ("there is one head", report.heads),
        ("the migrations build what the models say", report.migrations),
        (f"the database is what revision {report.revision or 'none'} says", report.database),
    ):
        _show_answer(question, problems)


def _show_answer(question: str, problems: list[str]) -> None:
    console.answer(f"{'no ' if problems else 'yes'}  {question}")
    for problem in problems:
        console.answer(f"     {problem}")


@app.command()
def lint(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILES]...", help="Migrations; else those that no release has.")
    ] = None,
) -> None:
    """Look for steps in migrations that would hurt a running app; exit with 3 where there are any."""
    from tatame_db import evolve

    found = evolve.lint(files)
    for linted in found:
        console.answer(linted.warnings or f"{linted.file}: nothing to warn about")
    if warned := [linted.file for linted in found if linted.warnings]:
        raise evolve.LintFailed(warned)
    if not found:
        console.say("nothing to lint: every migration is in a release")
