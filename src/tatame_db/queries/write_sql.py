"""The SQL of writes: all rows of a batch are one JSON parameter, or the data of a COPY.

A single row of plain values is a parameter for each column, which costs client and server a little less.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import psycopg
from sqlalchemy import ARRAY, JSON, DefaultClause, Float, Numeric, Table, inspect

from tatame_db.database.citus import HAS_CITUS
from tatame_db.database.dialect import DIALECT, literal, quoted, quoted_table
from tatame_db.queries.columns import MAX_COLUMN_SETS, column_name, column_type
from tatame_db.queries.engine.plan import Statement
from tatame_db.queries.row import row_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tatame_db.schema import Base


@lru_cache(maxsize=MAX_COLUMN_SETS)
def insert_statement(
    model: type[Base], columns: tuple[str, ...], returned: tuple[str, ...], *, is_single: bool
) -> Statement[Any]:
    """Return an INSERT of these columns, of rows or of a single one, with RETURNING if it returns some."""
    sql = _insert(model, columns, is_single=is_single)
    if returned:
        if not is_single and placed_insert_statement(model, columns, returned):
            sql += _UNLESS_CITUS
        sql += f"\nRETURNING {_names(model, returned)}"
    return Statement(
        f"insert {model.__name__}",
        _with_parameters(sql, _types(model, columns)),
        _row_maker(model, returned),
        has_rows=bool(returned),
    )


@lru_cache(maxsize=MAX_COLUMN_SETS)
def upsert_statement(
    model: type[Base],
    columns: tuple[str, ...],
    key: tuple[str, ...],
    changed: tuple[str, ...],
    returned: tuple[str, ...],
    *,
    is_single: bool,
) -> Statement[Any]:
    """Return an INSERT of these columns that sets some of them in a row that exists.

    It returns rows or, if no columns are returned, the numbers of inserted and updated rows.
    """
    guard = _UNLESS_CITUS if returned and not is_single else ""
    sql = f"{_insert(model, columns, is_single=is_single)}{guard}{_on_conflict(model, key, changed)}"
    if returned:
        sql += f"\nRETURNING {_names(model, returned)}"
        return Statement(
            f"upsert {model.__name__}", _with_parameters(sql, _types(model, columns)), _row_maker(model, returned)
        )
    # Nothing has locked or deleted a row that was just inserted. An updated row was locked before, by this statement.
    # PostgreSQL 18 has RETURNING old and new, which also work in partitioned tables; older servers lack them.
    sql = f"WITH written AS (\n{sql}\nRETURNING xmax = 0 AS is_new\n)\n{_COUNTS}"
    sql = _with_parameters(sql, _types(model, columns))
    return Statement(f"upsert {model.__name__}", sql, tuple, written_by_row=sum)


@lru_cache(maxsize=MAX_COLUMN_SETS)
def placed_insert_statement(
    model: type[Base], columns: tuple[str, ...], returned: tuple[str, ...]
) -> Statement[Any] | None:
    """Return the INSERT of rows into a table that Citus may have placed on several nodes.

    The statement makes the keys that the rows do not name, by the sequence or the default of the model. It is `None` if
    the key has neither, so that the server rejects the rows, or is an identity that takes no values.
    """
    key = tuple(inspect(model).get_property_by_column(column).key for column in inspect(model).primary_key)
    made = tuple(name for name in key if name not in columns)
    if any(_made(model, name) is None for name in made):
        return None
    sql = _placed(model, columns, made, key, returned)
    name = f"insert {model.__name__}"
    if returned:
        return Statement(name, sql, _row_maker(model, returned))
    return Statement(name, f"{sql}\nSELECT count(*) FROM written", _first, written_by_row=int)


@lru_cache(maxsize=MAX_COLUMN_SETS)
def placed_upsert_statement(
    model: type[Base],
    columns: tuple[str, ...],
    key: tuple[str, ...],
    changed: tuple[str, ...],
    returned: tuple[str, ...],
) -> Statement[Any]:
    """Return the same of an upsert."""
    sql = _placed(model, columns, (), key, returned, conflict=_on_conflict(model, key, changed))
    name = f"upsert {model.__name__}"
    if returned:
        return Statement(name, sql, _row_maker(model, returned))
    return Statement(name, f"{sql}\n{_COUNTS}", tuple, written_by_row=sum)


@lru_cache(maxsize=MAX_COLUMN_SETS)
def update_statement(
    model: type[Base], columns: tuple[str, ...], key: tuple[str, ...], returned: tuple[str, ...]
) -> Statement[Any]:
    """Return an UPDATE of these columns.

    It returns the number of updated rows or, if columns are returned, pairs: a position in the batch, and a row.
    """
    name = f"update {model.__name__}"
    to_name = _namer(model)
    changes = ", ".join(f"{to_name(column)} = {_read(model, column)}" for column in columns if column not in key)
    matches = " AND ".join(f"target.{to_name(column)} = {_read(model, column)}" for column in key)
    # The function's rows are numbered, because UPDATE returns rows in any order.
    update = (
        f"UPDATE {_table(model)} AS target SET {changes}\n"  # noqa: S608, names are quoted and values are parameters
        f"FROM ROWS FROM (json_to_recordset({_ROWS}) AS ({_typed(model, columns)})) WITH ORDINALITY\n"
        f'    AS source ({", ".join(map(quoted, columns))}, "#")\n'
        f"WHERE {matches}\n"
    )
    if not returned:
        sql = f"WITH updated AS (\n{update}RETURNING 1\n)\nSELECT count(*) FROM updated"
        return Statement(name, _with_parameters(sql), _first, written_by_row=int)
    sql = f'{update}RETURNING source."#" - 1, {", ".join(f"target.{to_name(column)}" for column in returned)}'
    make_row = _row_maker(model, returned)
    return Statement(name, _with_parameters(sql), lambda values: (values[0], make_row(values[1:])))


@lru_cache(maxsize=MAX_COLUMN_SETS)
def copy_statement(model: type[Base], columns: tuple[str, ...]) -> Statement[Any]:
    """Return a COPY of these columns."""
    sql = f"COPY {_table(model)} ({_names(model, columns)}) FROM STDIN"
    return Statement(f"copy {model.__name__}", sql, tuple, has_rows=False)


# These stand for parameters until each `%` of the names is doubled.
_ROWS = ":rows:"
_VALUES = ":values:"
# Citus would return the rows in another order. The server looks once for each statement, which takes no round trip.
_UNLESS_CITUS = f"\nWHERE NOT {HAS_CITUS}"
_COUNTS = "SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new) FROM written"


def _with_parameters(sql: str, types: Sequence[str] = ()) -> str:
    # The types of the model, as in the rows of JSON: a column of the database may have another one.
    values = ", ".join(f"%({position})s::{kind}" for position, kind in enumerate(types))
    return sql.replace("%", "%%").replace(_ROWS, "%(rows)s::json").replace(_VALUES, values)


def _on_conflict(model: type[Base], key: tuple[str, ...], changed: tuple[str, ...]) -> str:
    # Without another column, the key sets itself: PostgreSQL returns only rows that it inserts or updates.
    changes = ", ".join(f"{name} = EXCLUDED.{name}" for name in map(_namer(model), changed or key))
    return f"\nON CONFLICT ({_names(model, key)}) DO UPDATE SET {changes}"


def _insert(model: type[Base], columns: tuple[str, ...], *, is_single: bool) -> str:
    into = f"INSERT INTO {_table(model)} ({_names(model, columns)})\n"
    if is_single:
        return f"{into}VALUES ({_VALUES})"
    return (
        f"{into}SELECT {', '.join(_read(model, name) for name in columns)}\n"
        f"FROM json_to_recordset({_ROWS}) AS source ({_typed(model, columns)})"
    )


def _placed(
    model: type[Base],
    columns: tuple[str, ...],
    made: tuple[str, ...],
    key: tuple[str, ...],
    returned: tuple[str, ...],
    *,
    conflict: str = "",
) -> str:
    """Write an INSERT that numbers its rows, and returns them in this order: Citus returns them by shard.

    Citus also hides the SQLSTATE of a rejected row if it inserts what a query of the same statement returns.
    """
    to_name, places = _namer(model), range(len(returned))
    rows = [f"{_read(model, name)} AS {quoted(name)}" for name in columns]
    rows += [f"{_made(model, name)}::{column_type(model, name)} AS {quoted(name)}" for name in made]
    names = (*columns, *made)
    sql = (
        f'WITH source AS MATERIALIZED (\nSELECT {", ".join(rows)}, "#"\n'
        f"FROM ROWS FROM (json_to_recordset({_ROWS}) AS ({_typed(model, columns)})) WITH ORDINALITY\n"
        f'    AS source ({", ".join(map(quoted, columns))}, "#")\n), written AS (\n'
        f"INSERT INTO {_table(model)} ({_names(model, names)})\n"
        f"SELECT {', '.join(f'source.{quoted(name)}' for name in names)} FROM source{conflict}\nRETURNING "
    )
    if not returned:
        return _with_parameters(f"{sql}xmax = 0 AS is_new\n)")
    sql += ", ".join(f"{to_name(name)} AS c{place}" for place, name in enumerate(returned))
    sql += "".join(f", {to_name(name)} AS k{place}" for place, name in enumerate(key))
    # No two rows have the same key, NULLs included.
    same = " AND ".join(f"k{place} IS NOT DISTINCT FROM source.{quoted(name)}" for place, name in enumerate(key))
    return _with_parameters(
        f"{sql}\n)\nSELECT {', '.join(f'c{place}' for place in places)}\nFROM written JOIN source ON {same}\n"
        'ORDER BY source."#"'
    )


def _made(model: type[Base], name: str) -> str | None:
    """Write the value that the server makes for a key; `None` if it makes none, or takes no other."""
    column, table = inspect(model).columns[name], cast("Table", model.__table__)
    if isinstance(default := column.server_default, DefaultClause):
        return literal(default.arg) if isinstance(default.arg, str) else f"({default.arg.compile(dialect=DIALECT)})"
    if column is not table.autoincrement_column or (column.identity is not None and column.identity.always):
        return None
    return f"nextval(pg_get_serial_sequence({literal(_table(model))}, {literal(column.name)}))"


def _table(model: type[Base]) -> str:
    return quoted_table(cast("Table", model.__table__))


def _namer(model: type[Base]) -> Callable[[str], str]:
    return lambda name: column_name(model, name)


def _names(model: type[Base], columns: Iterable[str]) -> str:
    return ", ".join(map(_namer(model), columns))


def _is_json(model: type[Base], name: str) -> bool:
    return isinstance(inspect(model).columns[name].type, JSON)


def _typed(model: type[Base], columns: tuple[str, ...]) -> str:
    """Write the columns of the rows, under the names of the attributes."""
    # JSON comes as text: a null of JSON inside JSON would be NULL.
    return ", ".join(
        f"{quoted(name)} {'TEXT' if _is_json(model, name) else column_type(model, name)}" for name in columns
    )


def _types(model: type[Base], columns: tuple[str, ...]) -> list[str]:
    return [column_type(model, name) for name in columns]


def _read(model: type[Base], name: str) -> str:
    """Write the value of a column in a row of the parameter."""
    return f"source.{quoted(name)}" + (f"::{column_type(model, name)}" if _is_json(model, name) else "")


def _row_maker(model: type[Base], returned: tuple[str, ...]) -> Callable[[Sequence[Any]], Any]:
    """Return the maker of rows; values that SQLAlchemy converts, such as the members of an `Enum`, are converted."""
    row = row_type(model, returned)
    converters = {place: convert for place, name in enumerate(returned) if (convert := _converter(model, name))}
    if not converters:
        return lambda values: row(*values)

    def make_row(values: Sequence[Any]) -> Any:
        converted = list(values)
        for place, convert in converters.items():
            converted[place] = _converted(convert, converted[place])
        return row(*converted)

    return make_row


def _converted(convert: Callable[[Any], Any], value: Any) -> Any:
    # A trigger may set a label that the model lacks. SQLAlchemy's error would show it, even as the context of another.
    with suppress(LookupError, ValueError):
        return convert(value)
    raise psycopg.DataError("the model cannot represent a value")


def _converter(model: type[Base], name: str) -> Callable[[Any], Any] | None:
    """Return SQLAlchemy's conversion of the driver's values of a column, if there is one."""
    kind: Any = inspect(model).columns[name].type
    if isinstance(cast("Any", kind).item_type if isinstance(kind, ARRAY) else kind, Float | Numeric):
        # SQLAlchemy would choose it by the type of the answer. psycopg's numbers are those that a write takes.
        return None
    return kind.dialect_impl(DIALECT).result_processor(DIALECT, None)  # type: ignore[no-any-return]


def _first(values: Sequence[Any]) -> Any:
    return values[0]
