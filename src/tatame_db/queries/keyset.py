"""Pages by the last row of the page before: the condition for the rows after it, in the order of the read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Float,
    PrimaryKeyConstraint,
    UniqueConstraint,
    and_,
    bindparam,
    cast,
    false,
    inspect,
    or_,
    tuple_,
)
from sqlalchemy.sql import operators

from tatame_db.queries.errors import ReadInvalid
from tatame_db.queries.parameters import parameter_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import ColumnElement

    from tatame_db.queries.description import RelationRead


@dataclass(frozen=True)
class SortColumn:
    """A column that rows are sorted by, and how."""

    name: str
    """The attribute of the model."""
    column: ColumnElement[Any]
    descending: bool
    nulls_first: bool
    is_nullable: bool


def total_order(description: RelationRead) -> tuple[ColumnElement[Any], ...]:
    """Return the order with the primary key after it, unless it has one place for each row already.

    Without that, rows that are equal in the order may change places between two pages.
    """
    columns = [column for term in description.order if (column := _sort_column(description, term))]
    if _is_unique(description, columns):
        return description.order
    descending = bool(columns) and columns[-1].descending
    named = {column.name for column in columns}
    key = [getattr(description.model, name) for name in primary_key(description) if name not in named]
    added = [column.desc() if descending else column.asc() for column in key]
    return (*description.order, *added)


def primary_key(description: RelationRead) -> list[str]:
    """Return the attributes that hold the primary key."""
    mapper = inspect(description.model)
    return [mapper.get_property_by_column(column).key for column in mapper.primary_key]


def sort_columns(description: RelationRead) -> list[SortColumn]:
    """Return the columns of the total order; raises `ReadInvalid` for what a row does not have the value of."""
    columns: list[SortColumn] = []
    for term in total_order(description):
        column = _sort_column(description, term)
        if column is None:
            raise ReadInvalid(
                problem=f"`after` cannot continue the order of {description.title}: it sorts by an expression, "
                "whose value is not part of a row",
                advice="sort by columns, or write pages with `.page(…)`",
            )
        if column.name not in description.column_names:
            title = f"{description.model.__name__}.{column.name}"
            raise ReadInvalid(
                problem=f"`after` needs {title} of the last row, which the read leaves out",
                advice=f"add it: `.columns(…, {title})`",
            )
        columns.append(column)
    return columns


def values_of_row(row: Any, description: RelationRead, columns: Sequence[SortColumn]) -> dict[str, Any]:
    """Return the values of a row that its place depends on.

    Raises `ReadInvalid` unless it is a row of the model, and `NotLoaded` if it lacks one of the columns.
    """
    if not isinstance(row, description.model):
        name = parameter_name(description.last_row)
        subject = "`after` received" if name is None else f"the parameter `{name}` of `after` is"
        model = description.model.__name__
        raise ReadInvalid(
            problem=f"{subject} a value of type `{type(row).__name__}` in place of a row of {model}",
            advice="pass the last row of the page before, or None for the first page",
        )
    values = {column.name: getattr(row, column.name) for column in columns}
    for column in columns:
        if values[column.name] is None and not column.is_nullable:
            title = f"{description.model.__name__}.{column.name}"
            raise ReadInvalid(
                problem=f"`after` received a row whose {title} is None, so that no row comes after it",
                advice="pass the last row of the page before: a new object has no place in the order yet",
            )
    return values


def value_name(parameter: str, column: str) -> str:
    """Return the name under which a value of the row that a parameter holds is sent; no other parameter can have it."""
    return f"{parameter}${column}"


def after_condition(
    description: RelationRead, columns: Sequence[SortColumn], values: Mapping[str, Any]
) -> ColumnElement[bool]:
    """Return the condition for the rows after the last one.

    The values are those of the row; of a row that is a parameter it matters here only which of them are NULL.
    """
    parameter = parameter_name(description.last_row)

    def bound(column: SortColumn) -> Any:
        value, kind = values[column.name], column.column.type
        if value is None:
            return None
        # A parameter even if the value is known: SQLAlchemy writes `true` as SQL, which it does not compare.
        name = None if parameter is None else value_name(parameter, column.name)
        sent = bindparam(name, value if parameter is None else None, kind, required=parameter is not None)
        # Otherwise a `real` is compared with a double, which differs from it in its last digits.
        return cast(sent, kind) if isinstance(kind, Float) else sent

    return _after([(column, bound(column)) for column in columns])


def _after(places: list[tuple[SortColumn, Any]]) -> ColumnElement[bool]:
    first, value = places[0]
    directions = {column.descending for column, _ in places}
    if len(places) > 1 and len(directions) == 1 and not any(column.is_nullable for column, _ in places):
        # The only form of several columns that PostgreSQL looks up in an index.
        row, last = tuple_(*(column.column for column, _ in places)), tuple_(*(value for _, value in places))
        return row < last if first.descending else row > last
    column = first.column
    if value is None:
        beyond: ColumnElement[bool] = column.is_not(None) if first.nulls_first else false()
        same = column.is_(None)
    else:
        beyond = column < value if first.descending else column > value
        if first.is_nullable and not first.nulls_first:
            beyond = or_(beyond, column.is_(None))
        same = column == value
    if len(places) == 1:
        return beyond
    after = or_(beyond, and_(same, _after(places[1:])))
    if first.is_nullable:
        return after
    # It follows from the rest, and PostgreSQL looks it up in an index, where there is one.
    return and_(column <= value if first.descending else column >= value, after)


def _sort_column(description: RelationRead, term: Any) -> SortColumn | None:
    """Return the column of a term of the order; `None` for an expression."""
    descending, nulls_first = False, None
    while modifier := getattr(term, "modifier", None):
        if modifier in (operators.nulls_first_op, operators.nulls_last_op):
            nulls_first = modifier is operators.nulls_first_op
        elif modifier in (operators.asc_op, operators.desc_op):
            descending = modifier is operators.desc_op
        else:
            return None
        term = term.element
    mapper = inspect(description.model)
    column: Any = term._deannotate()
    name = next((name for name, known in mapper.columns.items() if known is column), None)
    if name is None:
        return None
    nullable = bool(mapper.columns[name].nullable)
    # The default of PostgreSQL: NULL is larger than any value.
    nulls_first = descending if nulls_first is None else nulls_first
    return SortColumn(name, getattr(description.model, name), descending, nulls_first, nullable)


def _is_unique(description: RelationRead, columns: Sequence[SortColumn]) -> bool:
    """Return whether no two rows are equal in these columns."""
    mapper = inspect(description.model)
    sorted_by = {mapper.columns[column.name] for column in columns if not column.is_nullable}
    return any(
        len(constraint.columns) > 0 and set(constraint.columns) <= sorted_by
        for constraint in getattr(mapper.local_table, "constraints", ())
        if isinstance(constraint, PrimaryKeyConstraint | UniqueConstraint) and not constraint.deferrable
    )
