"""The clauses that a description accepts: conditions, order, columns and limits, each checked where it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    Alias,
    BinaryExpression,
    BindParameter,
    Boolean,
    ClauseElement,
    Select,
    TableClause,
    Tuple,
    all_,
    any_,
    inspect,
    null,
)
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql import coercions, operators, roles, visitors
from sqlalchemy.sql.selectable import SelectBase
from sqlalchemy.types import NullType
from typing_extensions import TypeIs

from tatame_db.queries.errors import ReadInvalid
from tatame_db.queries.parameters import Parameter, parameter_name
from tatame_db.queries.values import ItemList

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import ColumnElement

    from tatame_db.schema import Base

IDENTITIES = {operators.eq: operators.is_, operators.ne: operators.is_not}
"""The operators that compare with NULL as Python compares with None."""
ANY_OR_ALL = {
    operators.in_op: (operators.eq, operators.ne, any_),
    operators.not_in_op: (operators.ne, operators.eq, all_),
}
"""How an array is compared in place of a list: operator, negation, and the function that the array is in."""

LIST = "is_list_of_tatame"
"""The attribute that marks an array as the list of an `in_`."""

MAX_COUNT = 2**63 - 1
"""The largest LIMIT and OFFSET of PostgreSQL."""


def condition(value: Any, model: type[Base], parent: type[Base] | None) -> ColumnElement[bool]:
    """Return a condition about the rows of a model; raises `ReadInvalid` for anything else.

    `parent` is the model that the relation belongs to, if it is one: its columns may be compared too.
    """
    form = f"`read({model.__name__}).where({model.__name__}.{_first_column(model)} == …)`"
    if value is None or isinstance(value, bool):
        # `User.id is None`, `not User.deleted_at` and `User.id in ids` are decided by Python.
        advice = f"compare in SQL: {form}, `.is_(None)` for NULL, `.in_(…)` for a list, `~` for not"
        raise ReadInvalid(problem=f"`where` received {value} in place of a condition", advice=advice)
    is_column = is_attribute(value) and not isinstance(inspect(model).columns.get(value.key, null()).type, Boolean)
    if is_column or isinstance(value, SelectBase):
        raise ReadInvalid(problem=f"`where` received {title(value)} in place of a condition", advice=f"write {form}")
    clause = _clause(value, roles.WhereHavingRole, "where", "a condition", form)
    _check_tables(clause, model, parent, "where")
    _check_identities(clause)
    return cast("ColumnElement[bool]", _with_arrays(clause))


def _check_identities(clause: ClauseElement) -> None:
    """Refuse `.is_(x)` of a parameter: `IS` is followed by NULL, TRUE or FALSE, and by nothing else in PostgreSQL."""
    for part in visitors.iterate(clause):
        if isinstance(part, BinaryExpression) and part.operator in IDENTITIES.values():
            name = parameter_name(part.right)
            if name is not None:
                sign = "==" if part.operator is operators.is_ else "!="
                raise ReadInvalid(
                    problem=f"the parameter `{name}` is in `.is_` or `.is_not`, which take None, True and False alone",
                    advice=f"write `User.role {sign} {name}`, which means NULL where `{name}` is None",
                )


def order(value: Any, model: type[Base], parent: type[Base] | None) -> ColumnElement[Any]:
    """Return what rows are sorted by; raises `ReadInvalid` unless it is a column or an expression of the model."""
    form = f"`read({model.__name__}).order_by({model.__name__}.{_first_column(model)}.desc())`"
    if isinstance(value, Parameter | BindParameter):
        problem = (
            f"`order_by` received the parameter `{parameter_name(cast('Any', value))}`, which is the same for each row"
        )
        raise ReadInvalid(problem=problem, advice=f"write a read for each order: {form}")
    clause = _clause(value, roles.OrderByRole, "order_by", "a column", form)
    _check_tables(clause, model, parent, "order_by")
    _check_identities(clause)
    return cast("ColumnElement[Any]", _with_arrays(clause))


def column(value: Any, model: type[Base]) -> str:
    """Return the name of a column of the model; raises `ReadInvalid` for anything else."""
    advice = f"name columns of {model.__name__}: `.columns({model.__name__}.{_first_column(model)})`"
    if not is_attribute(value):
        raise ReadInvalid(problem=f"`columns` received {title(value)} in place of a column", advice=advice)
    if value.class_ is not model or value.key not in inspect(model).columns:
        raise ReadInvalid(problem=f"{value} is not a column of {model.__name__}", advice=advice)
    return value.key


def count(value: Any, method: str, *, least: int = 0) -> Any:
    """Return a number of rows or pages, or the parameter that stands for one; raises `ReadInvalid` for others."""
    if parameter_name(value) is not None:
        return value
    if isinstance(value, ClauseElement):
        raise ReadInvalid(
            problem=f"`{method}` received an expression in place of a number",
            advice="pass the number as a parameter of its own, or write `.page(page, size=20)`, which computes it",
        )
    return checked_count(value, f"`{method}`", least=least)


def checked_count(value: Any, title: str, *, least: int = 0) -> int:
    """Return a number that may become part of SQL; raises `ReadInvalid`, which names `title`."""
    if type(value) is not int or not least <= value <= MAX_COUNT:
        problem = f"{title} is not a whole number of {least} or more"
        raise ReadInvalid(problem=problem, advice=f"pass an `int` of {least} or more, up to {MAX_COUNT}")
    return value


def page_and_limit(name: str) -> ReadInvalid:
    """Return the error for a read with two ways to say how many rows it has."""
    return ReadInvalid(
        problem=f"`{name}` has `page` and `limit`, which both choose how many rows it has",
        advice="keep one of them: `.page(page, size=20)` or `.limit(20, skip=40)`",
    )


def refuse_names(method: str, model: type[Base], names: Iterable[str]) -> None:
    """Raise `ReadInvalid` for `where(gym_id=1)`."""
    for name in names:
        raise ReadInvalid(
            problem=f"`{method}` received `{name}=…`, and takes expressions alone",
            advice=f"write `read({model.__name__}).where({model.__name__}.{name} == …)`",
        )


def without_nulls(clause: ClauseElement, names: frozenset[str]) -> ClauseElement:
    """Return the clause for parameters that are None: `= NULL` is true for no row, and `IS NULL` is meant."""

    def compare(comparison: Any) -> None:
        operator = IDENTITIES.get(comparison.operator)
        if operator is not None:
            if _is_one_of(comparison.left, names):
                comparison.left, comparison.right = comparison.right, comparison.left
            if _is_one_of(comparison.right, names):
                comparison.operator, comparison.negate = operator, IDENTITIES[comparison.negate]
                comparison.right = null()

    def pass_none(bind: Any) -> None:
        if _is_one_of(bind, names):
            if hasattr(bind, LIST):
                raise ReadInvalid(
                    problem=f"the list `{bind.key}` is None",
                    advice="pass a list: with an empty one, `in_` is never true",
                )
            bind.value, bind.required = None, False

    return _copied(clause, {"binary": compare, "bindparam": pass_none})


def _is_one_of(element: Any, names: frozenset[str]) -> bool:
    return isinstance(element, BindParameter) and element.key in names and cast("Any", element).value is None


def _copied(clause: ClauseElement, changes: dict[str, Callable[[Any], None]]) -> ClauseElement:
    """Return a copy of a clause, changed where it has elements of these kinds."""
    # Subqueries refer to their tables and aliases from several places, which must stay the same.
    tables: list[Any] = [element for element in visitors.iterate(clause) if isinstance(element, Alias | TableClause)]
    return visitors.cloned_traverse(clause, {"stop_on": tables}, changes)


def _clause(value: Any, role: Any, method: str, wanted: str, form: str) -> ClauseElement:
    if not _is_relation(value) and (isinstance(value, ClauseElement) or hasattr(value, "__clause_element__")):
        try:
            return cast("ClauseElement", coercions.expect(role, value))
        except ArgumentError:
            pass
    raise ReadInvalid(problem=f"`{method}` received {title(value)} in place of {wanted}", advice=f"write {form}")


def _is_relation(value: Any) -> bool:
    return is_attribute(value) and value.key in inspect(value.class_).relationships


def is_attribute(value: Any) -> TypeIs[InstrumentedAttribute[Any]]:
    """Return whether a value is an attribute of a model."""
    return isinstance(value, InstrumentedAttribute)


def title(value: Any) -> str:
    """Name a wrong argument: an attribute or model by its name, any other value by its type, for it may be personal."""
    if is_attribute(value):
        return f"`{value}`"
    return f"the class `{value.__name__}`" if isinstance(value, type) else f"a value of type `{type(value).__name__}`"


def _first_column(model: type[Base]) -> str:
    return str(next(iter(inspect(model).columns.keys())))


def _check_tables(clause: ClauseElement, model: type[Base], parent: type[Base] | None, method: str) -> None:
    """Refuse columns of another table, which would pair each row with all rows of that table."""
    known = {table for one in (model, parent) if one is not None for table in inspect(one).tables}
    for source in _sources(clause):
        if source not in known:
            table = getattr(source, "element", source)
            others = [one.class_ for one in model.registry.mappers if table in one.tables]
            other = others[0].__name__ if others else source.description
            raise ReadInvalid(
                problem=f"`{method}` of {model.__name__} received columns of {other}",
                advice=f"follow a relation: `{model.__name__}.….any({other}.… == …)`, or `.has(…)` of one row",
            )


def _sources(clause: Any) -> list[Any]:
    """Return the tables that a clause adds to the FROM of its statement."""
    found: list[Any] = list(getattr(clause, "_from_objects", ()))
    for element in _outermost_selects(clause):
        # `any` and `has` build an EXISTS in which the table of their own model comes from the statement around it.
        inner = element._correlate_except
        if inner is not None and element.whereclause is not None:
            found += [source for source in element.whereclause._from_objects if source not in inner]
    return [source._deannotate() for source in found]


def _outermost_selects(clause: Any) -> Iterable[Any]:
    if isinstance(clause, Select):
        yield clause
        return
    for child in clause.get_children():
        yield from _outermost_selects(child)


def _with_arrays(clause: ClauseElement) -> ClauseElement:
    """Compare with an array where `in_` has a list that each call passes: the SQL is then the same for any length."""

    def compare(comparison: Any) -> None:
        array = comparison.right
        if comparison.operator not in ANY_OR_ALL or not is_list(array) or isinstance(comparison.left, Tuple):
            return
        comparison.operator, comparison.negate, function = ANY_OR_ALL[comparison.operator]
        array.expanding = False
        setattr(array, LIST, True)
        array.type = ItemList(comparison.left.type) if not isinstance(comparison.left.type, NullType) else NullType()
        comparison.right = function(array)

    if not any(map(is_list, visitors.iterate(clause))):
        return clause
    copy = _copied(clause, {"binary": compare})
    for element in filter(is_list, visitors.iterate(copy)):
        raise ReadInvalid(
            problem=f"the parameter `{cast('Any', element).key}` is a list that PostgreSQL has no array for",
            advice="pass a list for each column, and compare with `Model.column == any_(values)`",
        )
    return copy


def is_list(element: Any) -> bool:
    """Return whether this is a list that each call passes, and that `in_` would write out."""
    return isinstance(element, BindParameter) and element.expanding and element.required
