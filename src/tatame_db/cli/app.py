"""The application, the options that commands share, and the database that a command works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from tatame_db.cli import console
from tatame_db.errors import TatameError, fact

if TYPE_CHECKING:
    from tatame_db.database.pool import Database
    from tatame_db.server.embedded import EmbeddedServer
    from tatame_db.settings import Settings

INTERRUPTED = 130


class Group(TyperGroup):
    """Turns a `TatameError` into a message and an exit code; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command and print its error, if it is an expected one."""
        try:
            return super().invoke(ctx)
        except TatameError as error:
            _say_with_notes(f"error: {error}", error)
            raise typer.Exit(error.exit_code) from None
        except (KeyboardInterrupt, typer.Abort) as stopped:
            _say_with_notes("\ninterrupted: unfinished changes were rolled back", stopped)
            raise typer.Exit(INTERRUPTED) from None


def _say_with_notes(message: str, error: BaseException) -> None:
    console.say("\n".join([message, *getattr(error, "__notes__", [])]))


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    # Typer's tracebacks show local variables, and with them passwords.
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
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The database of Tatame: an embedded PostgreSQL, its schema, sample data, and the move out of Supabase."""


DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url", metavar="URL", help="Database to use; by default DATABASE_URL, then the embedded server."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Port = Annotated[
    int | None, typer.Option(min=1, max=65535, help="Also listen on this port of 127.0.0.1.", show_default=False)
]
Docker = Annotated[bool, typer.Option("--docker", help="Use Docker Compose instead of the embedded server.")]


@fact
class NotEmbedded(TatameError):
    """The command works on the embedded server only, and the settings name another one."""

    command: str
    where: str
    what = "`{command}` works on the embedded server only; the settings name {where}"
    fix = "unset `DATABASE_URL` in the environment and in `.env` to use the embedded server"


@fact
class NotLocal(TatameError):
    """The command replaces data, and the database is on another machine."""

    command: str
    where: str
    what = "`{command}` works on local databases only; {where} is on another machine"
    fix = "set `DATABASE_URL` to a database on this machine, or unset it to use the embedded server"


@fact
class NotConfirmed(TatameError):
    """A command that destroys data or changes a schema was not confirmed."""

    action: str
    what = "not confirmed: {action}"
    fix = "pass `--yes` to confirm"


def confirm(action: str, *, yes: bool) -> None:
    """Ask before an action, a sentence without its full stop. Raises `NotConfirmed`."""
    if not console.confirmed(f"{action}. Continue?", yes=yes):
        raise NotConfirmed(action=action)


@dataclass(frozen=True)
class Target:
    """The database that a command works on, and the embedded server if it is there."""

    settings: Settings
    database: Database
    server: EmbeddedServer | None

    @property
    def readable(self) -> str:
        """The address without the password."""
        from tatame_db.database.address import readable

        return readable(self.database.address)

    def embedded(self, command: str) -> EmbeddedServer:
        """Return the embedded server. Raises `NotEmbedded` if the settings name another one."""
        if self.server is None:
            raise NotEmbedded(command=command, where=self.readable)
        return self.server


def target_of(database_url: str | None = None) -> Target:
    """Return the database that the option, the environment and `.env` name; nothing connects yet.

    Raises `SettingsInvalid`, `EnvFileUnreadable`, `AddressInvalid`.
    """
    from tatame_db.database.pool import Database
    from tatame_db.server.embedded import EmbeddedServer
    from tatame_db.settings import Settings

    settings = Settings.from_env(database_url=database_url)
    server = EmbeddedServer(settings.data_directory)
    # Its own address is what `tatame-db start` and `tatame-db url` print.
    if settings.address is None or settings.address == server.address:
        return Target(settings, Database(server.address), server)
    return Target(settings, Database(settings.address), None)
