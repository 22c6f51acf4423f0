"""What a read asks for, as data: a model or relation, conditions, order, limits, columns and further relations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import BindParameter, inspect

from tatame_db.queries.errors import ReadInvalid

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import InstrumentedAttribute

    from tatame_db.schema import Base


@dataclass(frozen=True, eq=False)
class RelationRead:
    """Which rows of a model or a relation to read, and which of their columns and relations.

    Descriptions are immutable: each method returns a new one.
    """

    model: type[Base]
    attribute: Any = None
    """The relation, such as `User.gym`; `None` for the outermost rows."""
    conditions: tuple[ColumnElement[bool], ...] = ()
    order: tuple[Any, ...] = ()
    count: int | BindParameter[int] | None = None
    skip: int | BindParameter[int] | None = None
    selected: tuple[str, ...] = ()
    relations: tuple[RelationRead, ...] = ()

    def where(self, *conditions: ColumnElement[bool]) -> Self:
        """Restrict the rows to those for which every condition holds; earlier conditions still apply.

        read(User).where(User.gym_id == 1, User.role == "STUDENT")
        read(Gym).where(Gym.members.any(User.role == "MANAGER"))
        """
        return replace(self, conditions=self.conditions + conditions)

    def order_by(self, *order: Any) -> Self:
        """Sort by columns or expressions, after those of earlier calls.

        read(Graduation).order_by(Graduation.created_at.desc())
        read(User).order_by(func.lower(User.first_name), User.id)
        """
        return replace(self, order=self.order + order)

    def limit(self, count: int, *, skip: int | None = None) -> Self:
        """Return at most `count` rows, after the first `skip`.

            read(Checkin).order_by(Checkin.id).limit(50)
            read(Checkin).order_by(Checkin.id).limit(50, skip=100)

        Both numbers become part of the SQL, because PostgreSQL plans badly for a limit that it does not know.
        """
        return replace(self, count=count, skip=skip)

    def columns(self, *columns: InstrumentedAttribute[Any]) -> Self:
        """Read these columns only; reading any other attribute of the rows raises `NotLoaded`.

            read(User).columns(User.id, User.first_name)
            read(User).load(read(User.gym).columns(Gym.name))

        Raises `ReadInvalid` for a column of another model.
        """
        for column in columns:
            if column.class_ is not self.model or column.key not in inspect(self.model).columns:
                raise ReadInvalid(
                    problem=f"{column} is not a column of {self.model.__name__}",
                    advice=f"name columns of {self.model.__name__}",
                )
        return replace(self, selected=tuple(column.key for column in columns))

    def load(self, *relations: InstrumentedAttribute[Any] | RelationRead) -> Self:
        """Load relations with the rows: whole, or as `read(Model.relation)` describes them.

            read(User).load(User.gym, User.graduations)
            read(User).load(read(User.checkins).order_by(Checkin.id.desc()).limit(5))

        Raises `ReadInvalid` for a relation of another model, and for one that is loaded twice.
        """
        added = tuple(one if isinstance(one, RelationRead) else read_relation(one) for one in relations)
        names = [relation.relation_name for relation in self.relations + added]
        for relation in added:
            name = relation.relation_name
            if not name or getattr(self.model, name, None) is not relation.attribute:
                raise ReadInvalid(
                    problem=f"{relation.title} is not a relation of {self.model.__name__}",
                    advice=f"load relations of {self.model.__name__} here, and those of another model on its own read",
                )
            if names.count(name) > 1:
                raise ReadInvalid(problem=f"{relation.title} is loaded twice", advice="load it once")
        return replace(self, relations=self.relations + added)

    @property
    def relation_name(self) -> str:
        """The name of the relation; empty for the outermost rows."""
        return self.attribute.key if self.attribute is not None else ""

    @property
    def title(self) -> str:
        """The model or relation as code refers to it, such as `User` or `User.gym`."""
        return str(self.attribute) if self.attribute is not None else self.model.__name__

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns to read, in order."""
        return self.selected or tuple(inspect(self.model).columns.keys())

    @property
    def is_list(self) -> bool:
        """Whether the relation leads to many rows."""
        return bool(self.attribute.property.uselist)


def read_relation(attribute: InstrumentedAttribute[Any]) -> RelationRead:
    """Describe a read of a relation such as `User.gym`; raises `ReadInvalid` for a column."""
    relation = inspect(attribute.class_).relationships.get(attribute.key)
    if relation is None:
        raise ReadInvalid(problem=f"{attribute} is a column", advice="name a model, or a relation such as `User.gym`")
    return RelationRead(relation.mapper.class_, attribute)


def row_count(number: Any) -> int:
    """Return a limit that may become part of SQL; raises `ReadInvalid` unless it is an `int` of 0 or more."""
    if type(number) is not int or number < 0:
        raise ReadInvalid(problem="a limit is not a whole number of 0 or more", advice="pass an `int`")
    return number
