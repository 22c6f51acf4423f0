"""From the description of a read to SQL, and from the values of its answer to rows."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import msgspec
from sqlalchemy import (
    Boolean,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    String,
    Table,
    Text,
    Time,
    Uuid,
    and_,
    func,
    inspect,
    literal_column,
    select,
    text,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.exc import CompileError
from sqlalchemy.orm import aliased
from sqlalchemy.sql.selectable import Exists
from sqlalchemy.sql.util import ClauseAdapter

from tatame_db.database.citus import has_subquery, plain, replace_elements, replaceable, select_of
from tatame_db.database.dialect import DIALECT
from tatame_db.queries.clauses import checked_count
from tatame_db.queries.columns import mapped_elsewhere
from tatame_db.queries.errors import ParameterInvalid, ReadInvalid
from tatame_db.queries.keyset import primary_key
from tatame_db.queries.parameters import filled, placeholders_in
from tatame_db.queries.row import json_type, row_type
from tatame_db.queries.value_type import Refused
from tatame_db.queries.values import checked_converter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import ColumnElement, ScalarSelect, Select
    from sqlalchemy.types import TypeEngine

    from tatame_db.queries.description import RelationRead

RowMaker: TypeAlias = "Callable[[Sequence[Any]], Any]"
"""Makes a row of the values that the driver returns for it."""
RowsMaker: TypeAlias = "Callable[[list[Any]], list[Any]]"
"""Makes the rows of an answer of all its values."""

# For these types the driver's value is the ORM's; for others, SQLAlchemy may convert it.
NATIVE_TYPES = (Boolean, Date, DateTime, Float, Integer, Interval, LargeBinary, String, Time, Uuid)

# PostgreSQL functions take at most 100 arguments, `json_build_array` included.
MAX_JSON_FIELDS = 100


# SQLAlchemy has no error class of its own for it.
_TAKEN_NAME = re.compile(r"Bind parameter '(\w+)' conflicts with unique bind parameter")

# The place of the outermost LIMIT and OFFSET, which may differ from call to call.
LIMITS = "/* limits */"


@dataclass(frozen=True)
class CompiledRead:
    """A read as SQL, with `LIMITS` in the place of the outermost LIMIT and OFFSET."""

    sql: str
    constants: dict[str, Any] = field(repr=False)
    """The values that the description contains, as the driver takes them."""
    templates: dict[str, Any] = field(repr=False)
    """Values that the description contains with parameters in them, such as the list of `contains([user_id])`."""
    converters: dict[str, Callable[[Any], Any]]
    """The checks of parameters by their types, and SQLAlchemy's conversions into what the driver takes."""
    make_row: RowMaker
    make_rows: RowsMaker | None = None
    """Makes the rows of the whole answer, where no row can be made by itself."""

    def bind(self, values: dict[str, Any], title: str) -> dict[str, Any]:
        """Return all values to send, for the values of a call; raises `ParameterInvalid`, with the name of the read."""
        if self.templates:
            values = values | {name: filled(template, values) for name, template in self.templates.items()}
        if self.converters:
            try:
                values = values | {name: convert(values[name]) for name, convert in self.converters.items()}
            except Refused:
                self._raise_invalid(values, title)
        return self.constants | values if self.constants else values

    def _raise_invalid(self, values: dict[str, Any], title: str) -> NoReturn:
        for name, convert in self.converters.items():
            try:
                convert(values[name])
            except Refused as refused:
                parameter = next(placeholders_in(self.templates.get(name)), name)
                form = refused.form and refused.form.format(parameter)
                raise ParameterInvalid(name=title, parameter=parameter, problem=refused.problem, form=form) from None
        raise AssertionError("a value was refused once, and then accepted")


def compile_rows(description: RelationRead, *, joined: bool) -> CompiledRead:
    """Compile a description to a statement each of whose rows is complete; raises `ReadInvalid` for what cannot be one.

    `joined` joins relations to one row, which costs the server less than JSON. It is wrong for rows that are sorted
    and then limited: all rows would be joined, then sorted, and only then limited.
    """
    selection = _selection(description, description.model, joined=joined)
    statement: Any = select(*selection.columns).select_from(description.model)
    for alias, condition in selection.joins:
        statement = statement.outerjoin(alias, condition)
    statement = restricted(statement, description, lambda clause: clause)
    return compiled(statement.suffix_with(text(LIMITS)), selection.make_row)


def compile_count(description: RelationRead) -> CompiledRead:
    """Compile a description to a statement that returns the number of its rows."""
    statement = select(func.count()).select_from(description.model).where(*description.conditions)
    return compiled(statement.suffix_with(text(LIMITS)), itemgetter(0))


def compile_exists(description: RelationRead) -> CompiledRead:
    """Compile a description to a statement that returns whether it has a row."""
    one: ColumnElement[Any] = literal_column("1")
    rows = select(one).select_from(description.model).where(*description.conditions)
    return compiled(select(rows.exists()).suffix_with(text(LIMITS)), itemgetter(0))


def compiled(
    statement: Any, make_row: RowMaker, make_rows: Callable[[list[Any]], list[Any]] | None = None
) -> CompiledRead:
    """Compile a statement of SQLAlchemy."""
    try:
        result = statement.compile(dialect=DIALECT)
    except CompileError as error:
        taken = _TAKEN_NAME.search(str(error))
        if taken is None:
            raise
        raise ReadInvalid(
            problem=f"the parameter `{taken[1]}` has a name that SQLAlchemy gives to a value in the same read",
            advice="give it a name that does not end with a number",
        ) from error
    parameters = {name for bind, name in result.bind_names.items() if bind.required}
    templates = {name: bind.value for bind, name in result.bind_names.items() if any(placeholders_in(bind.value))}
    # `in_` with a list of the description becomes one placeholder for each value.
    expanded = result.construct_expanded_state(dict.fromkeys(parameters))
    kinds: dict[str, list[Any]] = {}
    for bind, name in result.bind_names.items():
        kinds.setdefault(name, []).append(bind.type)
    # The state has the conversions of the values in lists, and no others.
    processors = {name: kind.dialect_impl(DIALECT).bind_processor(DIALECT) for name, [kind, *_] in kinds.items()}
    converters = {name: convert for name, convert in (processors | expanded.processors).items() if convert is not None}
    checked = {name: checked_converter(kinds[name], converters.get(name)) for name in (*parameters, *templates)}
    return CompiledRead(
        sql=expanded.statement,
        constants={
            name: converters[name](value) if name in converters else value
            for name, value in expanded.parameters.items()
            if name not in parameters and name not in templates
        },
        templates=templates,
        converters={name: convert for name, convert in checked.items() if convert is not None},
        make_row=make_row,
        make_rows=make_rows,
    )


@dataclass(frozen=True)
class _Selection:
    """The columns that the rows of a model need, the joins that provide them, and how they become a row."""

    columns: list[Any]
    joins: list[tuple[Any, Any]]
    make_row: RowMaker


def _selection(description: RelationRead, entity: Any, *, joined: bool) -> _Selection:
    """Select the columns and relations of `entity`, which is the model or an alias of it."""
    check_native(description)
    columns = [getattr(entity, name) for name in description.column_names]
    joins: list[tuple[Any, Any]] = []
    makers: list[RowMaker] = []
    for relation in description.relations:
        start = len(columns)
        if joined and not relation.is_list and relation.size is None and relation.skip is None:
            alias, adapt = aliased_relation(relation, entity)
            inner = _selection(relation, alias, joined=True)
            is_related = getattr(entity, relation.relation_name).of_type(alias)
            joins += [(alias, and_(is_related, *map(adapt, relation.conditions))), *inner.joins]
            # The key comes first, and is NULL if the join found no row.
            columns += [getattr(alias, primary_key(relation)[0]), *inner.columns]
            makers.append(joined_row(inner.make_row, start, len(columns)))
        else:
            column, make = json_column(relation, entity, start)
            columns.append(column)
            makers.append(make)
    row = struct_of(description)
    return _Selection(columns, joins, row_maker(row, len(description.column_names), makers))


def _json(relation: RelationRead, entity: Any) -> ScalarSelect[Any]:
    """Select the related rows as one JSON value for each row of `entity`.

    It is a subquery in the SELECT list, not a LATERAL join: it runs after sorting, for the rows that LIMIT leaves.
    """
    alias, adapt = aliased_relation(relation, entity)
    rows = select(func.json_build_array(*json_fields(relation, alias)).label("row"))
    rows = rows.where(getattr(entity, relation.relation_name).of_type(alias)).correlate(entity)
    rows = restricted(rows, relation, adapt)
    rows = rows.limit(_literal(relation.size)).offset(_literal(relation.skip))
    if not relation.is_list:
        return rows.scalar_subquery()
    found = rows.subquery()
    empty: ColumnElement[Any] = literal_column("'[]'::json")
    return select(func.coalesce(func.json_agg(found.c.row), empty)).correlate(entity).scalar_subquery()


def json_fields(relation: RelationRead, alias: Any) -> list[Any]:
    """Select the columns of related rows and their relations; raises `ReadInvalid` for what JSON cannot represent."""
    check_json(relation)
    columns = [getattr(alias, name) for name in relation.column_names]
    return columns + [_json(inner, alias) for inner in relation.relations]


def json_column(relation: RelationRead, entity: Any, place: int) -> tuple[Any, RowMaker]:
    """Return the column that holds the related rows of each row, and what decodes it at that place."""
    # As text, because the driver would parse JSON, and more slowly.
    return sql_cast(_json(relation, entity), Text), json_rows(msgspec.json.Decoder(field_type(relation)).decode, place)


def aliased_relation(relation: RelationRead, entity: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Return an alias of the related model, and a function that adapts clauses to it and to `entity`, its parent."""
    alias = aliased(relation.model)
    adapt = ClauseAdapter(inspect(alias).selectable).traverse
    parent = inspect(entity)
    if not parent.is_aliased_class or parent.mapper is inspect(relation.model):
        return alias, lambda clause: adapt(separated(clause))
    adapt_parent = ClauseAdapter(parent.selectable).traverse
    return alias, lambda clause: adapt_parent(adapt(separated(clause)))


def separated(clause: Any) -> Any:
    """Return a condition each EXISTS of which reads aliases: those of a relation replace its tables, and not these."""

    def replaced(element: Any, **_: Any) -> Any:
        inner = select_of(element) if isinstance(element, Exists) else None
        if inner is None or not inner._correlate_except:
            return None
        tables: list[Any] = list(map(plain, inner._correlate_except))
        conditions: list[Any] = list(map(separated, inner._where_criteria))
        own_tables: list[Any] = [table.alias() if isinstance(table, Table) else table for table in tables]
        for table, own in zip(tables, own_tables, strict=True):
            if own is not table:
                adapt: Callable[[Any], Any] = ClauseAdapter(own).traverse
                conditions = list(map(adapt, conditions))
        one: ColumnElement[Any] = literal_column("1")
        return select(one).select_from(*own_tables).where(*conditions).correlate_except(*own_tables).exists()

    if not has_subquery(clause):
        return clause
    return replace_elements(replaceable(clause), replaced)


def restricted(statement: Select[Any], description: RelationRead, adapt: Callable[[Any], Any]) -> Select[Any]:
    """Add the conditions and the order of a description."""
    return statement.where(*map(adapt, description.conditions)).order_by(*map(adapt, description.order))


def _literal(number: Any) -> ColumnElement[int] | None:
    return None if number is None else literal_column(str(checked_count(number, "a limit")))


# --- Rows ------------------------------------------------------------------------------------------------------------


def struct_of(description: RelationRead) -> Any:
    """Return the type of the rows of a description."""
    relations = tuple((one.relation_name, field_type(one)) for one in description.relations)
    return row_type(description.model, description.column_names, relations)


def field_type(relation: RelationRead) -> Any:
    """Return the type of the attribute that holds a relation."""
    row = struct_of(relation)
    return list[row] if relation.is_list else row | None  # type: ignore[valid-type]  # made at run time


def row_maker(row: Callable[..., Any], width: int, makers: list[RowMaker]) -> RowMaker:
    """Return what makes a row of its values and, with a maker for each, of its relations."""
    if not makers:
        return lambda values: row(*values)
    return lambda values: row(*values[:width], *[make(values) for make in makers])


def joined_row(make_row: RowMaker, start: int, end: int) -> RowMaker:
    """Return what makes a related row of the values from a place to another; the first is NULL without one."""
    return lambda values: None if values[start] is None else make_row(values[start + 1 : end])


def json_rows(decode: Callable[[str], Any], place: int) -> RowMaker:
    """Return what makes related rows of the JSON value at a place."""
    return lambda values: None if values[place] is None else decode(values[place])


# --- What one statement cannot return --------------------------------------------------------------------------------


def _is_native(kind: TypeEngine[Any]) -> bool:
    if isinstance(kind, Float):
        return not kind.asdecimal
    if isinstance(kind, Uuid):
        return bool(kind.as_uuid)
    return isinstance(kind, NATIVE_TYPES) and not isinstance(kind, Enum)


def check_native(description: RelationRead) -> None:
    """Raise `ReadInvalid` for a model or column whose values the driver does not return as the ORM does."""
    if problem := mapped_elsewhere(description.model):
        raise ReadInvalid(problem=problem, advice=f"use `select({description.model.__name__})` in a session")
    for name in description.column_names:
        kind = inspect(description.model).columns[name].type
        if json_type(kind) is None and not _is_native(kind):
            raise ReadInvalid(
                problem=f"{description.title} has `{name}` of type {kind!r}, which SQLAlchemy converts in Python",
                advice=f"leave it out with `.columns(…)`, or use `select({description.model.__name__})` in a session",
            )


def check_json(relation: RelationRead) -> None:
    """Raise `ReadInvalid` for a relation that JSON cannot represent."""
    advice = f"leave it out with `read({relation.title}).columns(…)`, or use `selectinload` in a session"
    for name in relation.column_names:
        kind = inspect(relation.model).columns[name].type
        if json_type(kind) is None:
            raise ReadInvalid(
                problem=f"{relation.title} has `{name}` of type {kind}, which JSON cannot represent", advice=advice
            )
    if len(relation.column_names) + len(relation.relations) > MAX_JSON_FIELDS:
        raise ReadInvalid(
            problem=f"{relation.title} has more than {MAX_JSON_FIELDS} columns and relations",
            advice=f"read fewer with `read({relation.title}).columns(…)`, or use `selectinload` in a session",
        )
