"""What all commands share: the application, the options, and the database that is meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from tatame_db.cli import console
from tatame_db.errors import NOTHING_CHANGED, TatameError

if TYPE_CHECKING:
    from tatame_db.database.pool import Database
    from tatame_db.server.embedded import EmbeddedServer
    from tatame_db.settings import Settings

INTERRUPTED = 130


class Group(TyperGroup):
    """Turns what we foresaw into a message and an exit code; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command, and explain what we foresaw."""
        try:
            return super().invoke(ctx)
        except TatameError as error:
            console.say(f"error: {error}")
            raise typer.Exit(error.exit_code) from None
        except (KeyboardInterrupt, typer.Abort):
            console.say("\ninterrupted: what was not finished is undone")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    # Typer's own tracebacks show local variables, and so passwords.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        console.answer(f"tatame-db {version('tatame-db')}")
        raise typer.Exit


@app.callback()
def main(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The database of Tatame: an embedded PostgreSQL, its schema, and data to develop with."""


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


@dataclass(frozen=True)
class Target:
    """The database that a command means."""

    settings: Settings
    database: Database
    server: EmbeddedServer | None

    @property
    def readable(self) -> str:
        """Its address without the password."""
        from tatame_db.database.address import readable

        return readable(self.database.address)

    def embedded(self, command: str) -> EmbeddedServer:
        """Return the embedded server. Raises `NotEmbedded` where another one is meant."""
        if self.server is None:
            raise NotEmbedded(command, self.readable)
        return self.server


def target_of(database_url: str | None = None) -> Target:
    """Find the database that options, environment and `.env` mean. Raises `SettingsInvalid`, `AddressInvalid`."""
    from tatame_db.database.pool import Database
    from tatame_db.server.embedded import EmbeddedServer
    from tatame_db.settings import Settings

    settings = Settings.from_env(database_url=database_url)
    if settings.address:
        return Target(settings, Database(settings.address), None)
    server = EmbeddedServer(settings.data_directory)
    return Target(settings, Database(server.address), server)
