"""The base class of the models: column types, names of constraints, and the error of an unloaded relation."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

from sqlalchemy import TIMESTAMP, MetaData, Table, Text, inspect
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, MappedAsDataclass, RelationshipProperty
from sqlalchemy.orm.strategies import _LazyLoader  # pyright: ignore[reportPrivateUsage]

from tatame_db.errors import TatameError, fact


@fact
class RelationNotLoaded(TatameError, InvalidRequestError):
    """A relation was read that the query had not loaded."""

    model: str
    relation: str
    what = "{model}.{relation} was not loaded"
    means = "Nothing was read: a relation never queries the database by itself."
    fix = (
        "load it with the query: `select({model}).options(selectinload({model}.{relation}))`, "
        'or later: `session.refresh({variable}, ["{relation}"])`'
    )

    @property
    def variable(self) -> str:
        """A variable that holds a row of the model."""
        return {"Class": "class_"}.get(self.model, self.model.lower())


@RelationshipProperty.strategy_for(lazy="raise")
class _RaiseRelationNotLoaded(_LazyLoader):
    """SQLAlchemy's strategy for `lazy="raise"`, with an error that states the query to write."""

    def _invoke_raise_load(self, state: Any, passive: Any, lazy: Any) -> NoReturn:  # noqa: ARG002, SQLAlchemy calls it so
        raise RelationNotLoaded(model=self.parent.class_.__name__, relation=self.key)


def _foreign_key_name(constraint: Any, table: Table) -> str:
    # SQLAlchemy's own token for the referenced column needs the table, which may not be defined yet.
    columns = [element.parent.name for element in constraint.elements]
    # Without the schema, if a key names one.
    referenced = [element.target_fullname.split(".")[-2:] for element in constraint.elements]
    return "_".join([table.name, *columns, referenced[0][0], *(column for _, column in referenced), "fk"])


class Base(MappedAsDataclass, DeclarativeBase, kw_only=True, eq=False, repr=False):
    """The base of the models, whose rows are compared by identity.

    Each model repeats `kw_only=True`, because type checkers do not see that it is inherited.
    """

    metadata = MetaData(
        # The names that Drizzle gives, so that the plan's tool finds no difference in a database of this package.
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_unique",
            "foreign_key_name": _foreign_key_name,
            "fk": "%(foreign_key_name)s",
            "ix": "%(table_name)s_%(column_0_N_name)s_index",
            "ck": "%(table_name)s_%(constraint_name)s_check",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text(),
        list[str]: ARRAY(Text()),
        datetime: TIMESTAMP(timezone=False),
    }

    if TYPE_CHECKING:

        @classmethod
        def _alike(cls, row: Self) -> Self:
            """Tell type checkers which rows are of this model; it does not exist at run time."""
            raise NotImplementedError

    def __repr__(self) -> str:
        """Show the model and the key; other columns may be personal."""
        state = inspect(self)
        key = ", ".join(
            f"{column.key}={state.dict.get(column.key)!r}" for column in state.mapper.primary_key if column.key
        )
        return f"{type(self).__name__}({key})"
