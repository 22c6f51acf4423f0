"""What the migrations ever made: everything else in a database is another program's, and is left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.evolve import catalogue
from tatame_db.evolve.history import History
from tatame_db.evolve.migrate import migrate

if TYPE_CHECKING:
    from tatame_db.server.scratch import Scratch


def made_by_migrations(server: Scratch) -> set[str]:
    """Return the keys of all objects of all revisions, also of those that a later migration drops or renames."""
    keys: set[str] = set()
    with server.database("revisions") as engine:
        for script in reversed(list(History().scripts.walk_revisions())):
            migrate(engine, script.revision)
            with engine.connect() as connection:
                keys |= catalogue.read(connection).keys()
    return keys
