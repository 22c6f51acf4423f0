"""The schema that the models describe, as PostgreSQL builds it in an empty database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from tatame_db.errors import TatameError, fact
from tatame_db.evolve import catalogue
from tatame_db.schema import Base

if TYPE_CHECKING:
    from sqlalchemy import MetaData

    from tatame_db.evolve.catalogue import Catalogue
    from tatame_db.server.scratch import Scratch


@fact
class ModelsInvalid(TatameError):
    """The tables of the models cannot be created."""

    problem: str
    what = "the models do not describe a schema that PostgreSQL can build: {problem}"
    fix = "fix the model, then run the command again; a foreign key names its column as `users.id`, without a schema"


def metadata() -> MetaData:
    """Return the tables of the models."""
    return Base.metadata


def build(server: Scratch) -> Catalogue:
    """Return the schema of the models, read from a database that is built for it. Raises `ModelsInvalid`."""
    with server.database("models") as engine, engine.connect() as connection:
        try:
            metadata().create_all(connection)
        except DBAPIError as error:
            statement = (error.statement or "").strip()
            raise ModelsInvalid(problem=f"{error.orig}\n\n{statement}" if statement else str(error.orig)) from error
        except SQLAlchemyError as error:
            raise ModelsInvalid(problem=str(error)) from error
        return catalogue.read(connection)
