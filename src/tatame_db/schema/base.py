"""What all tables share: types, names of constraints, and how an unloaded relation answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, NoReturn

from sqlalchemy import TIMESTAMP, MetaData, Table, Text, inspect
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, MappedAsDataclass, RelationshipProperty
from sqlalchemy.orm.strategies import _LazyLoader  # pyright: ignore[reportPrivateUsage]

from tatame_db.errors import TatameError


class RelationNotLoaded(TatameError, InvalidRequestError):
    """A relation was read that the query did not load."""

    def __init__(self, model: str, relation: str) -> None:
        self.model, self.relation = model, relation
        variable = {"Class": "class_"}.get(model, model.lower())
        super().__init__(
            f"{model}.{relation} was not loaded",
            means="Reading it would have queried the database behind your back, so nothing was read.",
            fix=f"load it with the query: `select({model}).options(selectinload({model}.{relation}))`, "
            f'or later: `session.refresh({variable}, ["{relation}"])`',
        )


@RelationshipProperty.strategy_for(lazy="raise")
class _RaiseWithAdvice(_LazyLoader):
    """SQLAlchemy's own strategy for `lazy="raise"`, with a message that says what to type."""

    def _invoke_raise_load(self, state: Any, passive: Any, lazy: Any) -> NoReturn:  # noqa: ARG002, SQLAlchemy calls it so
        raise RelationNotLoaded(self.parent.class_.__name__, self.key)


def _foreign_key_name(constraint: Any, table: Table) -> str:
    # SQLAlchemy's own token for the referred column asks for a table that may not be defined yet.
    columns = [element.parent.name for element in constraint.elements]
    referred = [element.target_fullname.split(".") for element in constraint.elements]
    return "_".join([table.name, *columns, referred[0][0], *(column for _, column in referred), "fk"])


class Base(MappedAsDataclass, DeclarativeBase, kw_only=True, eq=False, repr=False):
    """The root of the 11 models, which are compared by identity.

    Each model says `kw_only=True` once more: type checkers do not see that a base class passes it on.
    """

    metadata = MetaData(
        # The names that the plan's tool gives, so that it sees no difference in a database of ours.
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

    def __repr__(self) -> str:
        """Name the row by its key alone: the other columns may be personal."""
        state = inspect(self)
        key = ", ".join(
            f"{column.key}={state.dict.get(column.key)!r}" for column in state.mapper.primary_key if column.key
        )
        return f"{type(self).__name__}({key})"
