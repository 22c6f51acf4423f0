"""The commands for the server and its data: one short function each."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tatame_db.cli import console
from tatame_db.cli.app import (
    AsJson,
    DatabaseUrl,
    Docker,
    NotInProduction,
    NotLocal,
    Port,
    Target,
    Yes,
    app,
    confirm,
    interrupted_means,
    server_of,
    target_of,
)
from tatame_db.errors import TatameError, counted, fact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tatame_db.evolve import IdUse, Status


@fact
class NoLog(TatameError):
    """The embedded server has never written a log."""

    log: Path
    what = "there is no log at {log}"
    fix = "start the server with `tatame-db start`"


@fact
class PsqlWithoutTls(TatameError):
    """The server requires TLS, and there is only the psql of the package, which has none."""

    where: str
    what = "the connection to {where} is encrypted, and the psql of this package has no TLS"
    fix = (
        "install PostgreSQL's own, for example with `apt-get install postgresql-client`: `tatame-db psql` then runs"
        " that one, if it is on the PATH"
    )


def _say_whose(target: Target) -> None:
    """Say what is not obvious about the embedded server: it was started elsewhere, lies elsewhere, or is outdated."""
    from tatame_db.server.errors import ProgramsUninstalled
    from tatame_db.settings import unusable_data_home

    if target.server is None:
        return
    starter = target.server.starter
    if starter and not starter.endswith(f" in {Path.cwd()}"):
        console.say(f"using the server in {target.server.directory}, started by {starter}")
    if "data_directory" not in target.settings.model_fields_set and (share := unusable_data_home()):
        reason = "PostgreSQL does not run as root, and its user cannot enter it"
        console.say(f"using {target.server.directory}, not XDG_DATA_HOME={share}: {reason}")
    if program := target.server.uninstalled_program:
        console.say(f"warning: {ProgramsUninstalled(program=program)}")


def _origin(target: Target, database_url: str | None) -> str:
    if target.server:
        return "embedded"
    return "from --database-url" if database_url else "from DATABASE_URL"


def _show(status: Status, origin: str, uses: Sequence[IdUse] = ()) -> None:
    pending = counted(len(status.pending), "pending migration") if status.pending else "no pending migrations"
    names = f": {', '.join(status.pending)}" if status.pending else ""
    console.answer(f"database  {status.database}")
    console.answer(f"server    PostgreSQL {status.server_version}, {origin}")
    console.answer(f"revision  {status.revision or 'none'}, {pending}{names}")
    if status.elsewhere:
        schemas = ", ".join(status.elsewhere)
        console.answer(f"schema    public; tables of the same names in {schemas} are not used")
    if status.tables:
        console.answer("")
        _show_tables(status, uses)


def _show_tables(status: Status, uses: Sequence[IdUse]) -> None:
    """Print the tables with their rows, their place on Citus and the ids that their keys have used; then other keys."""
    rows: list[list[object]] = [[name, "unknown" if rows is None else rows] for name, rows in status.tables.items()]
    headings = ["table", "rows about"]
    if status.placement is not None:
        headings.append("is")
        rows = [[*row, status.placement[str(row[0])]] for row in rows]
    if uses:
        # Of several in a table, that which has used the most.
        of_tables = {use.table: use for use in reversed(uses) if use.table in status.tables}
        rows = [[*row, *_id_cells(of_tables.get(str(row[0])))] for row in rows]
        for use in uses:
            if use not in of_tables.values():
                rows.append([use.name, *[None for _ in headings[1:]], *_id_cells(use)])
        headings += ["ids used", "ids end about"]
    console.table(headings, rows)


def _id_cells(use: IdUse | None) -> tuple[str | None, str | None]:
    if use is None:
        return None, None
    if not use.readable:
        return "unknown", None
    return f"{use.share:.1%}", use.end_in_words


def _end_soon(use: IdUse) -> bool:
    from tatame_db.doctor import LIMITS

    return use.share >= LIMITS.ids_warn or (use.days_left is not None and use.days_left < LIMITS.ids_warn_days)


@app.command()
def up(
    database_url: DatabaseUrl = None,
    port: Port = None,
    *,
    no_seed: Annotated[bool, typer.Option("--no-seed", help="Leave an empty database empty.")] = False,
) -> None:
    """Start the server, create and migrate the database, seed if empty."""
    from tatame_db import evolve, seed
    from tatame_db.cli.schema import accept_losses, say_step, timeouts
    from tatame_db.database.address import is_local
    from tatame_db.database.creation import create_missing_database

    target = target_of(database_url)
    if port:
        target.embedded("tatame-db up --port")
    if target.server:
        if not target.server.is_running:
            console.say("starting PostgreSQL")
        target.server.start(port)
        _say_whose(target)
        target = server_of(database_url)
    if create_missing_database(target.database.address):
        console.say(f"created the database {target.database.address.database}")
    engine = target.database.engine
    evolve.migrate(engine, agree=accept_losses("migrate", accepted=False), on_step=say_step, timeouts=timeouts())
    # In a transaction of its own. With a reader's lock still held, two simultaneous `up` would deadlock in `seed`.
    with engine.connect() as connection:
        evolve.refuse_incomplete(connection, "up")
        evolve.refuse_missing_columns(connection)
        empty = seed.is_empty(connection) and not no_seed
    if empty and is_local(target.database.address) and target.settings.environment != "production":
        # Another `up` may have seeded it since.
        with contextlib.suppress(seed.DatabaseNotEmpty):
            with engine.begin() as connection:
                rows = sum(seed.seed(connection).values())
            console.say(f"seeded {rows:,} rows")
    elif empty:
        console.say("not seeded: `tatame-db up` seeds local databases only, and none in production")
    _show(evolve.status(engine), _origin(target, database_url))
    console.answer("")
    stop = ", `tatame-db stop` stops the server" if target.server else ""
    console.answer(f"next: `tatame-db studio` shows the data, `tatame-db --help` lists all commands{stop}")


@app.command()
def start(port: Port = None, *, docker: Docker = False) -> None:
    """Start the embedded server and print its address."""
    from tatame_db.database.address import readable
    from tatame_db.server import docker as compose

    if docker:
        console.answer(compose.start(port))
        console.say("\nto use it, set DATABASE_URL to this address in the environment or in `.env`")
        return
    target = server_of()
    if port:
        target.embedded("tatame-db start --port")
    if target.server is None:
        target.database.ping()
        console.say("nothing to start: the server in DATABASE_URL is running")
        console.answer(target.readable)
        return
    started = target.server.start(port)
    console.say("started" if started else "already running")
    _say_whose(target)
    console.answer(readable(target.server.address))
    if port:
        user, password = target.server.address.username, target.server.password_file
        console.say(f"also on port {port} of 127.0.0.1: the user is {user}, the password is in {password}")


@app.command()
def stop(*, docker: Docker = False) -> None:
    """Stop the embedded server and keep its data."""
    from tatame_db.server import docker as compose

    if docker:
        compose.stop()
        console.say("stopped")
        return
    console.say("stopped" if server_of().embedded("tatame-db stop").stop() else "not running")


@app.command()
def down(*, yes: Yes = False) -> None:
    """Stop the embedded server and delete all its databases."""
    server = server_of().embedded("tatame-db down")
    confirm(f"`tatame-db down` deletes all databases in {server.directory}", yes=yes)
    state = "either nothing is deleted, or no server starts on what is left; run the command again to delete it"
    with interrupted_means(state):
        deleted = server.delete()
    console.say(
        f"deleted the server's files in {server.directory}" if deleted else f"nothing to delete in {server.directory}"
    )


@app.command()
def status(
    database_url: DatabaseUrl = None,
    *,
    as_json: AsJson = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 3 if migrations are pending or a move is unfinished.")
    ] = False,
) -> None:
    """Show the database, its revision, pending migrations, about how many rows it has, and used ids."""
    from tatame_db import evolve, move

    target = target_of(database_url)
    found = evolve.status(target.database.engine)
    uses = evolve.id_uses(target.database.engine)
    with move.open_target(target.database.engine, check_schema=False) as opened:
        unfinished = move.unfinished(opened)
        known = move.known_homes(opened)
    flags = [str(flag) for flag in move.mismatches(target.settings.use_postgres, known.fenced)]
    problems = [known.problem] if known.problem else []
    if as_json:
        ids = [
            {
                "name": use.name,
                "largest": use.largest,
                "last": use.last if use.readable else None,
                "end": use.end,
                "behind": use.behind,
            }
            for use in uses
        ]
        facts = {
            "ids": ids,
            "embedded": target.server is not None,
            "move": unfinished.names,
            "flags": [*flags, *problems],
        }
        console.answer_json(asdict(found) | facts)
    else:
        _say_whose(target)
        _show(found, _origin(target, database_url), uses)
        if unfinished.names:
            names = ", ".join(unfinished.names)
            console.answer(f"\nNOT READY  a move is unfinished; not restored or not validated: {names}")
            console.answer(f"           run `{unfinished.command}` to restore them")
        if ending := [use.name for use in uses if use.readable and _end_soon(use)]:
            console.answer(f"\nWARNING  ids end soon, or half of them are used: {', '.join(ending)}")
            console.answer("         `tatame-db doctor` says what to do")
        for behind in filter(None, (use.behind for use in uses)):
            console.answer(f"\nWARNING  {behind}")
            console.answer("         `tatame-db doctor` prints the statement that sets it")
        for problem in problems:
            console.answer(f"\nWARNING  {problem}")
        if flags:
            console.answer("\nWARNING  the flags of the app do not fit the homes of the tables:")
            for flag in flags:
                console.answer(f"         {flag}")
            console.answer("         `tatame-db move status --env` prints the flags that fit")
    if check and found.pending:
        raise evolve.StatusCheckFailed(pending=found.pending)
    if check and (error := unfinished.error):
        raise error


@app.command()
def logs(
    *, follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing as the log grows.")] = False
) -> None:
    """Show the end of the embedded server's log."""
    server = server_of().embedded("tatame-db logs")
    server.refuse_foreign()
    log = server.log
    if not log.exists():
        raise NoLog(log=log)
    sys.stdout.flush()
    os.execvp("tail", ["tail", "-n", "200", *(["-F"] if follow else []), str(log)])  # noqa: S606


@app.command()
def url(database_url: DatabaseUrl = None) -> None:
    """Show the address of the database, without its password."""
    console.answer(server_of(database_url).readable)


@app.command(context_settings={"ignore_unknown_options": True})
def psql(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[ARGS]...", help="Arguments for psql.")] = None,
    database_url: DatabaseUrl = None,
) -> None:
    """Run psql, PostgreSQL's client, on the database."""
    from tatame_db.database.address import is_embedded, libpq_variables

    target = server_of(database_url)
    address = target.database.address
    program = _psql_for(target)
    ignored = libpq_variables() if is_embedded(address) else set[str]()
    environment = {name: value for name, value in os.environ.items() if name not in ignored}
    environment = {"PGTZ": "UTC", "PGAPPNAME": "tatame-db psql"} | environment
    if address.password:
        # Not in the arguments, which every user of the machine can read.
        environment["PGPASSWORD"] = str(address.password)
    sys.stdout.flush()
    os.execve(program, ["psql", target.readable, *(arguments or [])], environment)  # noqa: S606


def _psql_for(target: Target) -> str:
    """Return the path of the package's psql, or of that of the system if the connection is encrypted.

    Raises `PsqlWithoutTls` and `DatabaseUnavailable`.
    """
    from tatame_db.database.driver import driver_connection
    from tatame_db.server.embedded import EmbeddedServer

    with target.database.engine.connect() as connection:
        is_encrypted = driver_connection(connection).pgconn.ssl_in_use
    if not is_encrypted:
        return str(EmbeddedServer(target.settings.data_directory).program("psql"))
    found = shutil.which("psql")
    # A psql checks the address before it connects, so one without TLS fails at once, and so does any at this socket.
    probe = [found or "", "host=/nonexistent sslmode=require"]
    if (
        found is None
        or "not compiled in"
        in subprocess.run(probe, check=False, capture_output=True, text=True, env={"LC_ALL": "C"}).stderr
    ):
        raise PsqlWithoutTls(where=target.readable)
    return found


@app.command()
def seed(
    database_url: DatabaseUrl = None,
    *,
    gyms: Annotated[int, typer.Option(min=1, max=1000, help="Number of gyms.")] = 3,
    members: Annotated[int, typer.Option(min=0, max=5000, help="Number of students per gym.")] = 60,
    days: Annotated[int, typer.Option(min=0, max=3650, help="Number of days with check-ins.")] = 120,
    random_seed: Annotated[int, typer.Option(help="The same number creates the same data.")] = 1,
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="First day without data; by default today."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Delete all rows first.")] = False,
    yes: Yes = False,
) -> None:
    """Create lifelike sample data in an empty database."""
    from tatame_db import evolve
    from tatame_db import seed as seeding
    from tatame_db.database.address import is_local

    target = target_of(database_url)
    if not is_local(target.database.address):
        raise NotLocal(command="tatame-db seed", where=target.readable)
    if target.settings.environment == "production":
        raise NotInProduction(command="tatame-db seed", where=target.readable)
    last: dict[str, date] = {"until": until.date()} if until else {}
    plan = seeding.SeedPlan(gyms=gyms, members=members, days=days, random_seed=random_seed, **last)
    with target.database.engine.connect() as connection:
        evolve.refuse_incomplete(connection, "seed")
        evolve.refuse_missing_columns(connection)
    with target.database.engine.begin() as connection:
        if replace and not seeding.is_empty(connection):
            confirm(f"`tatame-db seed --replace` deletes all rows of {target.readable}", yes=yes)
            seeding.empty(connection)
        rows = seeding.seed(connection, plan)
    console.table(["table", "rows"], rows.items())
