"""Lists of rows with relations in one statement and so in one snapshot, at the least cost for many rows.

The rows come first, `WITH … AS MATERIALIZED`. All related rows of all of them are one JSON value in the first row for
each relation: one scan of an index by all keys, and one value to decode, where each row has its own otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec
from sqlalchemy import (
    CHAR,
    Column,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    any_,
    case,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy import literal_column as literal
from sqlalchemy.sql import operators, visitors

from tatame_db.queries.compile import (
    LIMITS,
    MAX_JSON_FIELDS,
    CompiledRead,
    aliased_relation,
    check_native,
    compiled,
    json_column,
    json_fields,
    restricted,
    struct_of,
)
from tatame_db.queries.row import json_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy.orm import Mapper, RelationshipProperty

    from tatame_db.queries.compile import RowMaker
    from tatame_db.queries.description import RelationRead

Lookup: TypeAlias = "Callable[[Sequence[Any]], tuple[Callable[[Any], Any], Any]]"
"""Makes of the first row what finds the related rows of a row, and the place of the value to find them by."""

# No table should have this name, which hides one in the rest of the statement.
ROWS = "tatame_rows"


@dataclass(frozen=True)
class Key:
    """The columns by which the rows of a relation belong to their parents, as attributes of the two models."""

    local: str
    remote: str


def shared_key(relation: RelationRead) -> Key | None:
    """Return the key of a relation all of whose rows can be one value; `None` if each parent needs a value of its own.

    That is so with a limit for each parent, with a relation that is no plain foreign key, and for keys whose equality
    is not that of their values in Python.
    """
    joined: RelationshipProperty[Any] = relation.attribute.property
    is_small = len(relation.column_names) + len(relation.relations) < MAX_JSON_FIELDS
    is_limited = relation.size is not None or relation.skip is not None
    if is_limited or not is_small or not _is_foreign_key(joined) or _names_parent(relation):
        return None
    [(local, remote)] = cast("Any", joined.local_remote_pairs)
    # Each parent of a list has rows of its own, and each row that parents share is one.
    if not _is_comparable(local, remote) or not _is_unique(local if relation.is_list else remote):
        return None
    return Key(_attribute(joined.parent, local), _attribute(joined.mapper, remote))


def compile_list(description: RelationRead) -> CompiledRead:
    """Compile a description to a statement whose first row has the relations of all rows."""
    check_native(description)
    names = description.column_names
    columns = [getattr(description.model, name) for name in names]
    places = {name: place for place, name in enumerate(names)}
    lookups: list[Lookup] = []
    shared: list[tuple[RelationRead, Key]] = []
    for relation in description.relations:
        key = shared_key(relation)
        if key is None:
            column, make = json_column(relation, description.model, len(columns))
            columns.append(column)
            lookups.append(_own_rows(make))
            continue
        if key.local not in places:
            places[key.local] = len(columns)
            columns.append(getattr(description.model, key.local))
        shared.append((relation, key))
        lookups.append(_shared_rows(relation, key, places[key.local], -len(shared)))
    labelled: list[Any] = [column.label(f"c{place}") for place, column in enumerate(columns)]
    rows: Any = select(*labelled).select_from(description.model)
    rows = restricted(rows, description, lambda clause: clause)
    page = rows.suffix_with(text(LIMITS)).cte(ROWS).prefix_with("MATERIALIZED")
    values = [
        _in_first_row(relation, key, description.model, page.c[f"c{places[key.local]}"]) for relation, key in shared
    ]
    # The places of the values are counted from the end.
    statement = select(*page.c, *reversed(values))
    return compiled(statement, cast("RowMaker", tuple), _rows_maker(struct_of(description), len(names), lookups))


def _in_first_row(relation: RelationRead, key: Key, model: Any, local: Any) -> Any:
    """Select all related rows of all rows as one JSON array of columns, in the first row.

    PostgreSQL looks up the type of each value of a JSON array, and that of an aggregate only once.
    """
    alias, adapt = aliased_relation(relation, model)
    fields = json_fields(relation, alias)
    if key.remote not in relation.column_names:
        fields.append(getattr(alias, key.remote))
    labelled: list[Any] = [field.label(f"c{place}") for place, field in enumerate(fields)]
    # PostgreSQL would join `IN (SELECT …)` with the whole table of the relation, and looks keys up in an index.
    keys = func.array(select(local).scalar_subquery())
    found: Any = select(*labelled).where(getattr(alias, key.remote) == any_(keys))
    rows = restricted(found, relation, adapt).subquery()
    columns = func.json_build_array(*[func.json_agg(column) for column in rows.c])
    value = select(sql_cast(columns, Text)).having(func.count() > literal("0")).scalar_subquery()
    return case((func.row_number().over() == literal("1"), value))


# --- Rows ------------------------------------------------------------------------------------------------------------


def _rows_maker(row: Callable[..., Any], width: int, lookups: list[Lookup]) -> Callable[[list[Any]], list[Any]]:
    def make_rows(answer: list[Any]) -> list[Any]:
        if not answer:
            return []
        related = [lookup(answer[0]) for lookup in lookups]
        if len(related) == 1:
            [(find, place)] = related
            return [row(*values[:width], find(values[place])) for values in answer]
        return [row(*values[:width], *[find(values[place]) for find, place in related]) for values in answer]

    return make_rows


def _own_rows(make: RowMaker) -> Lookup:
    return lambda _: (make, slice(None))


def _shared_rows(relation: RelationRead, key: Key, local: int, place: int) -> Lookup:
    struct: Any = struct_of(relation)
    kinds = [field.type for field in msgspec.structs.fields(struct)]
    width = len(kinds)
    if key.remote in relation.column_names:
        keys_at = relation.column_names.index(key.remote)
    else:
        keys_at = width
        kinds.append(json_type(inspect(relation.model).columns[key.remote].type))
    decode: Any = msgspec.json.Decoder(tuple[tuple(list[kind] for kind in kinds)]).decode  # type: ignore[misc,valid-type]  # made at run time

    empty: list[list[Any]] = [[] for _ in kinds]

    def lookup(first: Sequence[Any]) -> tuple[Callable[[Any], Any], int]:
        value = first[place]
        columns: list[list[Any]] = empty if value is None else decode(value)
        rows: Iterable[Any] = map(struct, *columns[:width])
        if not relation.is_list:
            return dict(zip(columns[keys_at], rows, strict=True)).get, local
        lists = _Lists()
        for value_of_key, row in zip(columns[keys_at], rows, strict=True):
            lists.setdefault(value_of_key, []).append(row)
        return lists.__getitem__, local

    return lookup


class _Lists(dict[Any, list[Any]]):
    """The related rows by key; each row without any gets an empty list of its own."""

    def __missing__(self, _: Any) -> list[Any]:
        return []


# --- Keys ------------------------------------------------------------------------------------------------------------


def _is_foreign_key(joined: RelationshipProperty[Any]) -> bool:
    """Return whether the condition of a relation is that two columns are equal."""
    condition: Any = joined.primaryjoin
    pairs: list[Any] = list(joined.local_remote_pairs or ())
    if joined.secondary is not None or len(pairs) != 1 or getattr(condition, "operator", None) is not operators.eq:
        return False
    return {condition.left, condition.right} == set(pairs[0])


def _names_parent(relation: RelationRead) -> bool:
    """Return whether the conditions or the order of a relation may use columns of its parent."""
    tables = inspect(relation.parent).tables if relation.parent is not None else ()
    return relation.parent is not relation.model and any(
        isinstance(element, Column) and element.table in tables
        for clause in (*relation.conditions, *relation.order)
        for element in visitors.iterate(clause)
    )


def _is_comparable(local: Any, remote: Any) -> bool:
    """Return whether two columns are equal in PostgreSQL where their values are equal in Python."""
    kinds = {json_type(column.type) for column in (local, remote)}
    is_plain = not any(isinstance(column.type, CHAR) for column in (local, remote))
    has_collation = any(getattr(column.type, "collation", None) for column in (local, remote))
    return is_plain and not has_collation and kinds in ({int}, {str})


def _is_unique(column: Any) -> bool:
    return column.table.primary_key.columns.values() == [column] or any(
        constraint.columns.values() == [column]
        for constraint in column.table.constraints
        if isinstance(constraint, PrimaryKeyConstraint | UniqueConstraint) and not constraint.deferrable
    )


def _attribute(mapper: Mapper[Any], column: Any) -> str:
    return mapper.get_property_by_column(column).key
