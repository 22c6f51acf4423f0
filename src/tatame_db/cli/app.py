"""The application, the options that commands share, and the database that a command works on."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from tatame_db.cli import console
from tatame_db.database import commits
from tatame_db.errors import NOTHING_CHANGED, TatameError, fact

if TYPE_CHECKING:
    from collections.abc import Generator

    from tatame_db.database.pool import Database
    from tatame_db.server.embedded import EmbeddedServer
    from tatame_db.settings import Settings

INTERRUPTED = 130
ROLLED_BACK = "unfinished changes to the database were rolled back"
MAY_BE_COMMITTED = (
    "either all of the last transaction was committed, or nothing of it; `tatame-db status`, `tatame-db check` and"
    " `tatame-db roles` show which"
)


class Interrupted(KeyboardInterrupt):
    """A command was interrupted; the argument says what that means."""


@contextlib.contextmanager
def interrupted_means(state: str) -> Generator[None]:
    """Say this if the block is interrupted, in which there is more than a transaction to undo."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or (not isinstance(error, TatameError) and _interrupt_before(error)):
            raise Interrupted(state) from None
        raise


class Group(TyperGroup):
    """Turns a `TatameError` into a message and an exit code; a bug keeps its traceback.

    With `--json`, the error is also the answer on stdout, unless the command has already printed its own.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note whether JSON is asked for, also if other options are mistyped."""
        console.JsonAnswer.requested, console.JsonAnswer.begun = "--json" in args, False
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command and print its error, if it is an expected one."""
        commits.forget()
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, typer.Abort) as stopped:
            raise _interrupted(stopped) from None
        except TyperException as mistyped:
            # Only the whole message names the option.
            what = str(getattr(mistyped, "format_message", mistyped.__str__)())
            _answer_error("Mistyped", what, NOTHING_CHANGED, "see `--help` of the command", mistyped)
            raise
        except Exception as failure:
            if not isinstance(failure, TatameError) and (interrupt := _interrupt_before(failure)):
                raise _interrupted(interrupt) from None
            error = _explained(failure) if isinstance(failure, TatameError) else _lost(failure)
            if error is None:
                raise
            _say_with_notes(f"error: {error}", error)
            _answer_error(type(error).__name__, error.what, error.means, error.fix, error)
            raise typer.Exit(error.exit_code) from None


def _interrupted(stopped: BaseException) -> typer.Exit:
    """Say what an interrupt means, and return the end of the command."""
    state = MAY_BE_COMMITTED if commits.may_be_committed() else ROLLED_BACK
    if isinstance(stopped, Interrupted):
        state = str(stopped)
    _say_with_notes(f"\ninterrupted: {state}", stopped)
    _answer_error("Interrupted", "interrupted", state, "run the command again", stopped)
    return typer.Exit(INTERRUPTED)


def _interrupt_before(failure: BaseException) -> KeyboardInterrupt | None:
    """Return the interrupt after which a clean-up failed, as a ROLLBACK does between a statement and its answer."""
    before = failure.__context__
    while before is not None and not isinstance(before, KeyboardInterrupt):
        before = before.__context__
    return before


def _lost(error: Exception) -> TatameError | None:
    """Return the words for a connection that was lost, as in a failover; everything else is a bug."""
    if "sqlalchemy" not in sys.modules:
        return None
    from tatame_db.database.failures import loss_in_words

    return loss_in_words(error)


def _explained(error: TatameError) -> TatameError:
    """Return which right is missing, if a server refused a connection for a reason that its words alone tell."""
    from tatame_db.database.errors import ConnectionRefused

    if type(error) is not ConnectionRefused:
        return error
    from tatame_db.roles.missing import refused_login

    return refused_login(error.address) or error


def _say_with_notes(message: str, error: BaseException) -> None:
    console.say("\n".join([message, *_notes(error)]))


def _answer_error(kind: str, what: str, means: str, fix: str, error: BaseException) -> None:
    # The command has failed already; that its answer cannot be printed either changes nothing about it.
    with contextlib.suppress(console.OutputFailed):
        console.answer_error({"type": kind, "what": what, "means": means, "fix": fix, "notes": _notes(error)})


def _notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


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
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, also for an error.")]
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
class NotInProduction(TatameError):
    """The command writes sample data, and the settings say that the data is real."""

    command: str
    where: str
    what = "`{command}` does not run in production, and `TATAME_ENV` is `production`; the database is {where}"
    fix = "run it with another `TATAME_ENV`, if this database has no real data"


@fact
class NotConfirmed(TatameError):
    """A command that destroys data or changes a schema was not confirmed."""

    action: str
    option: str = "--yes"
    what = "not confirmed: {action}"
    fix = "pass `{option}` to confirm"


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


def load_app(settings: Settings, *, may_be_new: bool = False) -> None:
    """Load the models and migrations of the app that the settings name.

    Raises `ProjectFileInvalid`, and the errors of `evolve.load_app`.
    """
    if app := settings.app:
        from tatame_db import evolve

        evolve.load_app(app.models, app.migrations, root=app.root, may_be_new=may_be_new)


def target_of(database_url: str | None = None, *, may_be_new: bool = False) -> Target:
    """Return the database of a command that works on the tables, and load the models of the app; nothing connects yet.

    With `may_be_new`, the app may have no migration yet. Raises the errors of `server_of` and `load_app`.
    """
    target = server_of(database_url)
    load_app(target.settings, may_be_new=may_be_new)
    return target


def server_of(database_url: str | None = None) -> Target:
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
        # libpq reads the service before any option, and fails if there is none of this name.
        os.environ.pop("PGSERVICE", None)
        return Target(settings, Database(server.address), server)
    return Target(settings, Database(settings.address), None)
