"""What a read asks for, as data: a model or relation, conditions, order, limits, columns and further relations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Never, Self

from sqlalchemy import inspect

from tatame_db.queries import clauses
from tatame_db.queries.columns import unique_keys
from tatame_db.queries.errors import ReadInvalid
from tatame_db.queries.parameters import parameter_name, parameter_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import BindParameter, ColumnElement
    from sqlalchemy.orm import InstrumentedAttribute

    from tatame_db.queries.parameters import Parameter
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
    order: tuple[ColumnElement[Any], ...] = ()
    is_order_of_model: bool = False
    """Whether the order is that of `relationship(order_by=…)`, which the first `order_by` replaces."""
    size: int | Parameter | BindParameter[int] | None = None
    """At most how many rows."""
    skip: int | Parameter | BindParameter[int] | None = None
    page_number: int | Parameter | BindParameter[int] | None = None
    """The page of `count` rows, from 1; only of the outermost rows."""
    last_row: Any = None
    """The row after which the rows start, or its parameter; only of the outermost rows."""
    is_paged: bool = False
    """Whether each row needs a place of its own in the order."""
    selected: tuple[str, ...] = ()
    relations: tuple[RelationRead, ...] = ()

    def __repr__(self) -> str:
        """Show what is read. Conditions may contain values."""
        return f"<read {self.title}>"

    def where(self, *conditions: ColumnElement[bool], **columns: Never) -> Self:
        """Restrict the rows to those for which every condition holds; earlier conditions still apply.

            read(User).where(User.gym_id == 1, User.role == "STUDENT")
            read(Gym).where(Gym.members.any(User.role == "MANAGER"))

        Combine conditions with `&`, `|` and `~`: `and` makes Python keep one of two and drop the other. Raises
        `ReadInvalid` for anything but conditions about the model: for what Python has decided, such as `User.id is
        None`, and for columns of other tables outside `any` and `has`.
        """
        clauses.refuse_names("where", self.model, columns)
        added = tuple(clauses.condition(condition, self.model, self.parent) for condition in conditions)
        return self._apply(lambda read: replace(read, conditions=read.conditions + added))

    def order_by(self, *order: Any) -> Self:
        """Sort by columns or expressions, after those of earlier calls, in place of the order of a relationship.

            read(Graduation).order_by(Graduation.created_at.desc())
            read(User).order_by(func.lower(User.first_name), User.id)

        Raises `ReadInvalid` for anything but columns and expressions of the model.
        """
        added = tuple(clauses.order(term, self.model, self.parent) for term in order)
        return self._apply(
            lambda read: replace(
                read, order=added if read.is_order_of_model else read.order + added, is_order_of_model=False
            )
        )

    def limit(self, count: int, *, skip: int | None = None) -> Self:
        """Return at most `count` rows, after the first `skip`.

            read(Checkin).order_by(Checkin.id).limit(50)
            read(Checkin).order_by(Checkin.id).limit(50, skip=100)

        Both numbers become part of the SQL, because PostgreSQL plans badly for a limit that it does not know. A later
        call replaces an earlier one. Raises `ReadInvalid` beside `page`, and for an expression, such as
        `(page - 1) * size` of parameters: `Read.page` computes that.
        """
        if self.page_number is not None:
            raise clauses.page_and_limit(self.title)
        clauses.count(count, "limit")
        if skip is not None:
            clauses.count(skip, "skip")
        return self._apply(lambda read: replace(read, size=count, skip=skip))

    def columns(self, *columns: InstrumentedAttribute[Any]) -> Self:
        """Read these columns only; reading any other attribute of the rows raises `NotLoaded`.

            read(User).columns(User.id, User.first_name)
            read(User).load(read(User.gym).columns(Gym.name))

        A later call replaces an earlier one. Raises `ReadInvalid` for a column of another model.
        """
        selected = tuple(clauses.column(column, self.model) for column in columns)
        return self._apply(lambda read: replace(read, selected=selected))

    def load(self, *relations: InstrumentedAttribute[Any] | RelationRead) -> Self:
        """Load relations with the rows: whole, or as `read(Model.relation)` describes them.

            read(User).load(User.gym, User.graduations)
            read(User).load(read(User.checkins).order_by(Checkin.id.desc()).limit(5))

        Raises `ReadInvalid` for a relation of another model, and for one that is loaded twice.
        """
        added = tuple(one if isinstance(one, RelationRead) else read_relation(one, self.model) for one in relations)
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
            _refuse_several_rows(relation)
            if any(parameter_name(number) is not None for number in (relation.size, relation.skip)):
                raise ReadInvalid(
                    problem=f"the limit of {relation.title} is a parameter",
                    advice="write a number: only the outermost limit can be a parameter",
                )
        return self._apply(lambda read: replace(read, relations=read.relations + added))

    def _apply(self, step: Callable[[Self], Self]) -> Self:
        """Return what a step makes of this description."""
        return step(self)

    @property
    def parent(self) -> type[Base] | None:
        """The model that the relation belongs to."""
        return self.attribute.class_ if self.attribute is not None else None

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

    @property
    def used_parameters(self) -> set[str]:
        """The names of all parameters, those of the relations included."""
        numbers = map(parameter_name, (self.size, self.skip, self.page_number, self.last_row))
        used = {name for name in numbers if name is not None}
        for clause in (*self.conditions, *self.order):
            used |= parameter_names(clause)
        return used.union(*(relation.used_parameters for relation in self.relations))

    def without_nulls(self, names: frozenset[str]) -> Self:
        """Return the description for parameters that are None, in which `== None` is `IS NULL`."""
        if names.isdisjoint(self.used_parameters):
            return self
        conditions: Any = tuple(clauses.without_nulls(clause, names) for clause in self.conditions)
        order: Any = tuple(clauses.without_nulls(clause, names) for clause in self.order)
        relations = tuple(relation.without_nulls(names) for relation in self.relations)
        last_row = None if parameter_name(self.last_row) in names else self.last_row
        return replace(self, conditions=conditions, order=order, relations=relations, last_row=last_row)


def read_relation(attribute: Any, model: type[Base] | None = None) -> RelationRead:
    """Describe a read of a relation such as `User.gym`; raises `ReadInvalid` for anything else."""
    relation = None
    if clauses.is_attribute(attribute):
        relation = inspect(attribute.class_).relationships.get(attribute.key)
        if relation is None:
            problem = f"{attribute} is a column"
            raise ReadInvalid(problem=problem, advice="name a model, or a relation such as `User.gym`")
    if relation is None:
        kind = (
            f"the class `{attribute.__name__}`"
            if isinstance(attribute, type)
            else f"a value of type `{type(attribute).__name__}`"
        )
        if model is None:
            raise ReadInvalid(
                problem=f"`read` received {kind} in place of a model or a relation",
                advice="name a model, `read(User)`, or a relation for `load`, `read(User.gym)`",
            )
        example = next((str(one.class_attribute) for one in inspect(model).relationships), f"{model.__name__}.…")
        raise ReadInvalid(
            problem=f"`load` received {kind} in place of a relation",
            advice=f"name relations of {model.__name__}: `.load({example})` or `.load(read({example}))`",
        )
    order: Any = tuple(relation.order_by or ())
    return RelationRead(relation.mapper.class_, attribute, order=order, is_order_of_model=True)


def _refuse_several_rows(relation: RelationRead) -> None:
    """Raise `ReadInvalid` for a relation to one row that may match several: a join would repeat its parent."""
    property_ = relation.attribute.property
    if relation.is_list or (type(relation.size) is int and relation.size == 1 and property_.secondary is None):
        return
    mapper = inspect(relation.model)
    remote = [column for column in property_.remote_side if column.table is mapper.local_table]
    names = {mapper.get_property_by_column(column).key for column in remote}
    if property_.secondary is None and any(key and key <= names for key in unique_keys(relation.model)):
        return
    raise ReadInvalid(
        problem=f"{relation.title} leads to one row, and its columns are no unique key, so that several may match",
        advice=f"add a unique constraint, choose one with `read({relation.title}).order_by(…).limit(1)`, "
        "or load it in a session",
    )
