"""The studio: browse, query and edit the data in a browser."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tatame_db.cli import console
from tatame_db.cli.app import DatabaseUrl, app, target_of
from tatame_db.cli.doctor import setup_of
from tatame_db.cli.move import postgres_source


@app.command()
def studio(
    database_url: DatabaseUrl = None,
    *,
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="The port on 127.0.0.1; by default 4737, or a free one.", show_default=False
        ),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Allow changes to rows.")] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address without opening it.")] = False,
    read_only_role: Annotated[
        str | None,
        typer.Option(metavar="ROLE", help="Log in as this role, with the password from PGPASSWORD or `~/.pgpass`."),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The directory of the saved queries; by default `queries` beside the nearest pyproject.toml or .git.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Browse and query the data in a browser, and edit it with `--write`; stop with Ctrl-C."""
    from tatame_db.studio import access, serve

    if write and read_only_role:
        raise typer.BadParameter("a read-only role cannot write", param_hint="--read-only-role")
    target = target_of(database_url)
    opened = access.open_access(
        target.database, embedded=target.server is not None, write=write, read_only_role=read_only_role
    )
    mode = "can write" if write else "read-only"

    def say_ready(address: str) -> None:
        console.say(f"studio of {target.readable}, {mode}, as {opened.role}; stop it with Ctrl-C")
        console.answer(address)

    source = partial(postgres_source, target)
    serve.serve(
        opened,
        source,
        setup_of(target),
        port=port,
        # A link that the user names is followed, one in the project is not.
        queries=queries.resolve() if queries else None,
        on_ready=say_ready,
        open_browser=not no_browser,
    )
