"""One short function per command."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from tatame_db.cli import console
from tatame_db.errors import NOTHING_CHANGED, TatameError

if TYPE_CHECKING:
    from tatame_db.database import SyncDatabase
    from tatame_db.evolve import Status, Step
    from tatame_db.server import EmbeddedServer
    from tatame_db.settings import Settings

INTERRUPTED = 130


class _Group(TyperGroup):
    """Turns what we foresaw into a message and an exit code; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TatameError as error:
            console.say(f"error: {error}")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            console.say("\ninterrupted: what was not finished is undone")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=_Group,
    help="The database of Tatame: an embedded PostgreSQL, its schema, and data to develop with.",
    no_args_is_help=True,
    # Typer's own tracebacks show local variables, and so passwords.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url", metavar="URL", help="The database that is meant; else DATABASE_URL, else the embedded one."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Port = Annotated[
    int | None, typer.Option(min=1, max=65535, help="Listen on this port of 127.0.0.1 too.", show_default=False)
]
Docker = Annotated[bool, typer.Option("--docker", help="Docker Compose instead of the embedded server.")]


class NotEmbedded(TatameError):
    """The command is for the embedded server alone, and the settings name another one."""

    def __init__(self, command: str, address: str) -> None:
        super().__init__(
            f"`{command}` is for the embedded server, and the settings mean {address}",
            means=NOTHING_CHANGED,
            fix="unset `DATABASE_URL` (see `.env`) to work with the embedded server",
        )


class NotHere(TatameError):
    """A command that overwrites data was pointed at a database on another machine."""

    def __init__(self, command: str, address: str) -> None:
        super().__init__(
            f"`{command}` only works on a database on this machine, and {address} is on another",
            means=NOTHING_CHANGED,
            fix="set `DATABASE_URL` to a database on this machine, or unset it for the embedded one",
        )


class NotAgreed(TatameError):
    """Something would be destroyed, and nobody said yes."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}, and nobody agreed", means=NOTHING_CHANGED, fix="say `--yes` if you mean it")


class NoLog(TatameError):
    """The embedded server never wrote a log."""

    def __init__(self, log: str) -> None:
        super().__init__(f"there is no log. Checked: {log}", means=NOTHING_CHANGED, fix="`tatame-db start`")


@dataclass(frozen=True)
class _Target:
    """The database that a command means."""

    settings: Settings
    database: SyncDatabase
    server: EmbeddedServer | None

    @property
    def readable(self) -> str:
        from tatame_db.database import readable

        return readable(self.database.address)

    def embedded(self, command: str) -> EmbeddedServer:
        if self.server is None:
            raise NotEmbedded(command, self.readable)
        return self.server


def _target(database_url: str | None = None) -> _Target:
    from tatame_db.database import SyncDatabase, address_of
    from tatame_db.server import EmbeddedServer
    from tatame_db.settings import Settings

    settings = Settings.from_env(database_url=database_url)
    server = None if settings.address else EmbeddedServer(settings.data_directory)
    return _Target(settings, SyncDatabase(address_of(settings)), server)


def _show(status: Status) -> None:
    waiting = f"{len(status.pending)} pending: {', '.join(status.pending)}" if status.pending else "nothing pending"
    kind = "embedded" if status.embedded else "by DATABASE_URL"
    console.answer(f"database  {status.database}")
    console.answer(f"server    PostgreSQL {status.server_version}, {kind}")
    console.answer(f"revision  {status.revision or 'none'}, {waiting}")
    if status.tables:
        console.answer("")
        console.answer(console.table(status.tables, "table"))


def _say_step(step: Step) -> None:
    console.say(f"{step.revision}  {step.sentence}  {step.seconds:.2f} s")


def _say_wait() -> None:
    console.say("another migration is running on this database; waiting for it")


@app.command()
def up(database_url: DatabaseUrl = None, port: Port = None) -> None:
    """Start, create the database, migrate, seed if empty, and show what is there."""
    from tatame_db import evolve, seed
    from tatame_db.database import create_missing_database
    from tatame_db.settings import is_local

    target = _target(database_url)
    if target.server:
        console.say("starting PostgreSQL")
        target.server.start(port)
        target = _target(database_url)
    if create_missing_database(target.database.address):
        console.say(f"created the database {target.database.address.database}")
    engine = target.database.engine
    evolve.migrate(engine, on_step=_say_step, on_wait=_say_wait)
    with engine.begin() as connection:
        empty = seed.is_empty(connection)
        if empty and is_local(target.database.address) and target.settings.environment != "production":
            rows = seed.seed(connection)
            console.say(f"seeded {sum(rows.values()):,} rows")
        elif empty:
            console.say("not seeded: only a development database on this machine is filled by itself")
    _show(evolve.status(engine, embedded=target.server is not None))
    console.answer("")
    console.answer("next: `tatame-db psql` to look around, `tatame-db --help` for the rest, `tatame-db stop` to end")


@app.command()
def start(port: Port = None, *, docker: Docker = False) -> None:
    """Start the embedded server and print its address."""
    from tatame_db import docker as compose
    from tatame_db.database import readable

    if docker:
        console.answer(compose.start(port))
        console.say("\nset DATABASE_URL to this address, in `.env` or the environment, to work with it")
        return
    target = _target()
    if target.server is None:
        target.database.ping()
        console.say("nothing started: DATABASE_URL names a server, and it answers")
        console.answer(target.readable)
        return
    started = target.server.start(port)
    console.say("started" if started else "running already")
    console.answer(readable(target.server.address))
    if port:
        console.say(f"also at 127.0.0.1:{port}, user postgres; the password is in {target.server.password_file}")


@app.command()
def stop(*, docker: Docker = False) -> None:
    """Stop the embedded server and keep its data."""
    from tatame_db import docker as compose

    if docker:
        compose.stop()
        console.say("stopped")
        return
    console.say("stopped" if _target().embedded("tatame-db stop").stop() else "not running")


@app.command()
def down(*, yes: Yes = False) -> None:
    """Stop the embedded server and delete its data."""
    server = _target().embedded("tatame-db down")
    what = f"`tatame-db down` deletes the database in {server.directory}"
    if not console.agreed(f"{what}. Go on?", yes=yes):
        raise NotAgreed(what)
    console.say(f"deleted {server.directory}" if server.delete() else f"nothing to delete in {server.directory}")


@app.command()
def status(
    database_url: DatabaseUrl = None,
    *,
    as_json: AsJson = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 3 where migrations are pending.")] = False,
) -> None:
    """Say which database is meant, its revision, what is pending, and how full it is."""
    from tatame_db import evolve

    target = _target(database_url)
    found = evolve.status(target.database.engine, embedded=target.server is not None)
    if as_json:
        console.answer_json(asdict(found))
    else:
        _show(found)
    if check and found.pending:
        raise evolve.CheckedBehind(found.pending)


@app.command()
def logs(*, follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False) -> None:
    """Print the end of the embedded server's log."""
    log = _target().embedded("tatame-db logs").log
    if not log.exists():
        raise NoLog(str(log))
    sys.stdout.flush()
    os.execvp("tail", ["tail", "-n", "200", *(["-F"] if follow else []), str(log)])  # noqa: S606


@app.command()
def url(database_url: DatabaseUrl = None) -> None:
    """Print the address of the database and nothing else, never with a password."""
    console.answer(_target(database_url).readable)


@app.command(context_settings={"ignore_unknown_options": True})
def psql(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[ARGS]...", help="Given to psql as they are.")
    ] = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Open PostgreSQL's own client on the database."""
    from tatame_db.server import EmbeddedServer

    target = _target(database_url)
    address = target.database.address
    program = str(EmbeddedServer(target.settings.data_directory).program("psql"))
    environment = {"PGTZ": "UTC", "PGAPPNAME": "tatame-db psql", **os.environ}
    if address.password:
        # Not in the arguments, which everybody on the machine can read.
        environment["PGPASSWORD"] = str(address.password)
    sys.stdout.flush()
    os.execve(program, ["psql", target.readable, *(arguments or [])], environment)  # noqa: S606


@app.command()
def migrate(
    revision: Annotated[str, typer.Argument(help="Where to stop.")] = "head",
    database_url: DatabaseUrl = None,
    *,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL, and run nothing.")] = False,
) -> None:
    """Apply the pending migrations, each in a transaction of its own."""
    from tatame_db import evolve

    engine = _target(database_url).database.engine
    if sql:
        script = evolve.migration_sql(engine, revision)
        console.answer(script) if script else console.say("nothing to migrate")
    elif not evolve.migrate(engine, revision, on_step=_say_step, on_wait=_say_wait):
        console.say("nothing to migrate")


@app.command()
def rollback(
    database_url: DatabaseUrl = None,
    *,
    steps: Annotated[int, typer.Option(min=1, help="How many migrations to undo.")] = 1,
) -> None:
    """Undo the newest migrations, each in a transaction of its own."""
    from tatame_db import evolve

    evolve.rollback(_target(database_url).database.engine, steps, on_step=_say_step, on_wait=_say_wait)


@app.command()
def seed(
    database_url: DatabaseUrl = None,
    *,
    gyms: Annotated[int, typer.Option(min=1, help="How many gyms.")] = 3,
    members: Annotated[int, typer.Option(min=1, help="How many students in each.")] = 60,
    days: Annotated[int, typer.Option(min=1, help="How many days of check-ins.")] = 120,
    random_seed: Annotated[int, typer.Option(help="The same number gives the same data.")] = 1,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The data ends before this day; today unless given.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Empty the tables first.")] = False,
    yes: Yes = False,
) -> None:
    """Fill an empty database with lifelike gyms."""
    from tatame_db import evolve
    from tatame_db import seed as seeding
    from tatame_db.settings import is_local

    target = _target(database_url)
    if not is_local(target.database.address):
        raise NotHere("tatame-db seed", target.readable)
    last: dict[str, date] = {"until": until.date()} if until else {}
    plan = seeding.SeedPlan(gyms=gyms, members=members, days=days, random_seed=random_seed, **last)
    with target.database.engine.begin() as connection:
        if waiting := evolve.pending(connection):
            raise evolve.SchemaBehind([script.revision for script in waiting])
        if replace and not seeding.is_empty(connection):
            what = f"`tatame-db seed --replace` deletes every row of {target.readable}"
            if not console.agreed(f"{what}. Go on?", yes=yes):
                raise NotAgreed(what)
            seeding.empty(connection)
        rows = seeding.seed(connection, plan)
    console.answer(console.table(rows, "table"))


def main() -> None:
    """Run the command line."""
    app(prog_name="tatame-db")
