"""The command line: all commands, in the order of the help."""

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
    app(prog_name="tatame-db")
