"""Reads for a database whose tables Citus has placed on several nodes: the same rows, from another form of SQL.

Citus refuses a subquery for each row if it reads a distributed table, and an aggregate of several shards loses the
order of its rows. So each level of a read is a list of rows of its own, `WITH … AS MATERIALIZED`, which Citus runs
first and sends where the next one needs it:

1. the rows, in their order, and then numbered;
2. for each relation the related rows, joined to the rows by their own condition, with the number of their row;
3. the relations of those rows, likewise; then each list becomes JSON, and joins the row of its number.

All of it is one statement, and so one snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Column, Select, Text, and_, func, inspect, select, text
from sqlalchemy import cast as sql_cast
from sqlalchemy import literal_column as literal
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import aliased

from tatame_db.database.citus import has_subquery, name_of, uncorrelated
from tatame_db.queries.clauses import checked_count
from tatame_db.queries.compile import (
    LIMITS,
    CompiledRead,
    aliased_relation,
    check_json,
    check_native,
    compiled,
    field_type,
    joined_row,
    json_rows,
    row_maker,
    struct_of,
)

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Mapper

    from tatame_db.queries.compile import RowMaker
    from tatame_db.queries.description import RelationRead

NUMBER = "tatame_number"
"""The number of a row in its level."""
PARENT = "tatame_parent"
"""The number of the row that a related row belongs to."""
RANK = "tatame_rank"
"""The place of a related row among those of its row."""


def differs(description: RelationRead) -> bool:
    """Return whether a read has another form on Citus, as far as it selects rows of further tables."""
    clauses = (*description.conditions, *description.order)
    return bool(description.relations) or any(map(has_subquery, clauses))


def placed(description: RelationRead) -> RelationRead:
    """Return the description with conditions that Citus accepts."""
    models = (description.model,) if description.parent is None else (description.model, description.parent)
    around = {name_of(table) for model in models for table in inspect(model).tables}

    def rewritten(clauses: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(uncorrelated(clause, around) for clause in clauses)

    return replace(
        description,
        conditions=rewritten(description.conditions),
        order=rewritten(description.order),
        relations=tuple(map(placed, description.relations)),
    )


def needs_levels(description: RelationRead) -> bool:
    """Return whether a read has, at any depth, a relation that is no plain join: to many rows, or with a subquery."""
    return any(
        relation.is_list or any(map(has_subquery, relation.conditions)) or needs_levels(relation)
        for relation in description.relations
    )


def compile_levels(description: RelationRead) -> CompiledRead:
    """Compile a description, whose conditions are those of `placed`, to one list of rows for each of its relations."""
    check_native(description)
    names = _names(description)
    rows: Any = select(*[getattr(description.model, name) for name in names]).select_from(description.model)
    rows = rows.where(*description.conditions).order_by(*description.order).suffix_with(text(LIMITS))
    level = _level(description, rows)
    statement = _joined(level)
    return compiled(statement.order_by(level.rows.c[NUMBER]), level.make_row)


@dataclass(frozen=True)
class _Level:
    """The numbered rows of a description, the lists that join them, and the columns that make its rows."""

    rows: Any
    joins: list[tuple[Any, Any]]
    columns: list[Any]
    make_row: RowMaker


def _level(description: RelationRead, ordered: Any, *, as_json: bool = False) -> _Level:
    """Number the rows of a query in its order, and prepare the relations of each.

    Rows that become JSON have their relations as JSON too; those of the read itself have a related row as columns.
    """
    # An outer query may run on other rows than those in the order of the inner one, unless that is complete.
    complete = ordered.cte(None).prefix_with("MATERIALIZED")
    numbered = select(*complete.c, func.row_number().over().label(NUMBER)).cte(None).prefix_with("MATERIALIZED")
    entity = aliased(description.model, numbered)
    columns: list[Any] = [getattr(entity, name) for name in description.column_names]
    width = len(columns)
    joins: list[tuple[Any, Any]] = []
    makers: list[RowMaker] = []
    for relation in description.relations:
        is_json = as_json or relation.is_list
        check_json(relation) if is_json else check_native(relation)
        related = _level(relation, _related(relation, entity, numbered), as_json=is_json)
        if is_json:
            lists = _lists(relation, related)
            joins.append((lists, lists.c[PARENT] == numbered.c[NUMBER]))
            empty: ColumnElement[Any] = literal("'[]'::json")
            value = func.coalesce(lists.c.value, empty) if relation.is_list else lists.c.value
            columns.append(value if as_json else sql_cast(value, Text))
            makers.append(json_rows(msgspec.json.Decoder(field_type(relation)).decode, len(columns) - 1))
            continue
        start = len(columns)
        parent = related.rows.c[PARENT]
        joins += [(related.rows, parent == numbered.c[NUMBER]), *related.joins]
        # The number of its row comes first, and is NULL if the row has no related one.
        columns += [parent, *related.columns]
        makers.append(joined_row(related.make_row, start, len(columns)))
    return _Level(numbered, joins, columns, row_maker(struct_of(description), width, makers))


def _related(relation: RelationRead, entity: Any, parents: Any) -> Any:
    """Select the rows of a relation for all rows of a level, with the number of that one, in the relation's order."""
    # A condition reads the table of its parents, not their list: a subquery of it may look for others.
    mapper = inspect(entity).mapper
    parent = aliased(mapper)
    alias, adapt = aliased_relation(relation, parent)
    conditions, order = list(map(adapt, relation.conditions)), list(map(adapt, relation.order))
    columns = [getattr(alias, name) for name in _names(relation)]
    number = parents.c[NUMBER]
    rows: Any = select(*columns, number.label(PARENT)).select_from(parents)
    rows = rows.join(alias, getattr(entity, relation.relation_name).of_type(alias))
    if _uses_parents(relation, mapper):
        rows = rows.join(parent, and_(*(getattr(parent, key) == getattr(entity, key) for key in _key(mapper))))
    rows = rows.where(*conditions)
    if relation.size is None and relation.skip is None:
        return rows.order_by(*order)
    rank = func.row_number().over(partition_by=number, order_by=order or None).label(RANK)
    ranked = rows.add_columns(rank).subquery()
    skip = checked_count(relation.skip or 0, "a limit")
    chosen = select(*[column for column in ranked.c if column.key != RANK]).where(ranked.c[RANK] > literal(str(skip)))
    if relation.size is not None:
        last = skip + checked_count(relation.size, "a limit")
        chosen = chosen.where(ranked.c[RANK] <= literal(str(last)))
    # Within each row the rank is the order; between rows none is needed.
    return chosen.order_by(ranked.c[RANK])


def _lists(relation: RelationRead, related: _Level) -> Any:
    """Make one JSON value of the related rows of each row."""
    parent, number = related.rows.c[PARENT], related.rows.c[NUMBER]
    rows: Any = func.json_agg(aggregate_order_by(func.json_build_array(*related.columns), number))
    value = rows if relation.is_list else rows.op("->")(literal("0"))
    found = select(parent, value.label("value")).select_from(related.rows)
    for source, condition in related.joins:
        found = found.outerjoin(source, condition)
    return found.group_by(parent).subquery()


def _joined(level: _Level) -> Any:
    statement: Any = select(*[column.label(f"c{place}") for place, column in enumerate(level.columns)])
    statement = statement.select_from(level.rows)
    for source, condition in level.joins:
        statement = statement.outerjoin(source, condition)
    return statement


def _names(description: RelationRead) -> list[str]:
    """Return the columns to read: those of the rows, and those by which their relations find theirs."""
    mapper = inspect(description.model)
    used = dict.fromkeys(description.column_names)
    for relation in description.relations:
        local = relation.attribute.property.local_columns
        used |= dict.fromkeys(mapper.get_property_by_column(column).key for column in local)
        if _uses_parents(relation, mapper):
            used |= dict.fromkeys(_key(mapper))
    return list(used)


def _uses_parents(relation: RelationRead, mapper: Mapper[Any]) -> bool:
    """Return whether the conditions or the order of a relation use its parents, if they are of another model."""
    return inspect(relation.model) is not mapper and any(
        _uses(clause, mapper) for clause in (*relation.conditions, *relation.order)
    )


def _uses(clause: Any, mapper: Mapper[Any]) -> bool:
    if isinstance(clause, Column):
        return clause.table in mapper.tables
    # A SELECT that states no correlation reads a table of the parents as its own.
    chosen: Any = clause
    is_independent = isinstance(clause, Select) and not chosen._correlate and chosen._correlate_except is None
    return not is_independent and any(_uses(child, mapper) for child in clause.get_children())


def _key(mapper: Mapper[Any]) -> list[str]:
    return [mapper.get_property_by_column(column).key for column in mapper.primary_key]
