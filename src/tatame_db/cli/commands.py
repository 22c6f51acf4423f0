"""The command line: all commands, in the order of the help."""

import logging
import signal

from tatame_db.cli import server
from tatame_db.cli.app import app

# isort: split
from tatame_db.cli import schema

# isort: split
from tatame_db.cli import move

# isort: split
from tatame_db.cli import studio

__all__ = ["app", "main", "move", "schema", "server", "studio"]


def main() -> None:
    """Run the command line."""
    # What psycopg warns of, such as a stream that breaks off with its connection, is an error of the command.
    logging.getLogger("psycopg").addHandler(logging.NullHandler())
    # A closed terminal and a shutdown end a command as Ctrl-C does, so that it restores what it has dropped.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    app(prog_name="tatame-db")
