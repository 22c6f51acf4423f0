"""The values that a column of texts holds already: those that an editor offers, and whether all of them are dates."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, cast, func, select, text

from tatame_db.database.dialect import SCHEMA
from tatame_db.schema import Base, form
from tatame_db.schema.forms import DATE
from tatame_db.studio.kinds import kind_of
from tatame_db.studio.search import is_secret
from tatame_db.studio.tables import address_of, column_named

if TYPE_CHECKING:
    from sqlalchemy import Column, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

MAX_VALUES = 50
_SAMPLED_ROWS = 10_000
_CHARACTERS = 100
_ISO_DATE = r"^\d{4}-(0[1-9]|1[0-2])-([0-2]\d|3[01])$"

# The view shows a role the columns that it may read. Below zero, `n_distinct` is a share of the rows.
_STATISTICS = text(
    "SELECT CASE WHEN s.n_distinct < 0 THEN -s.n_distinct * c.reltuples ELSE s.n_distinct END AS number,"
    " CAST(CAST(s.most_common_vals AS text) AS text[]) AS common"
    " FROM pg_stats s JOIN pg_namespace n ON n.nspname = s.schemaname"
    " JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename"
    " WHERE s.schemaname = :schema AND s.tablename = :table AND s.attname = :column"
    " ORDER BY s.inherited DESC LIMIT 1"
)


@dataclass(frozen=True)
class ValuesInUse:
    """The values to offer, in their order; none of a column with many. `dates` means that the texts are ISO dates."""

    values: list[str]
    dates: bool


async def values_in_use(connection: AsyncConnection, table: Table, name: str) -> ValuesInUse:
    """Return the values of a column of texts that other rows have. Raises `ColumnNotFound`.

    Statistics tell of values in the whole table, and its first rows of those since the statistics were collected.
    """
    column = column_named(table, name)
    if kind_of(column) != "text" or is_secret(column):
        return ValuesInUse([], dates=False)
    sample = await _sample(connection, column)
    number, common = await _statistics(connection, column)
    rows = sum(sample.values())
    dates = _states_dates(column) or await _are_dates(connection, column, common)
    # Names repeat too, but a list of them is no choice.
    few = len(sample) <= min(MAX_VALUES, rows // 2) and (number or 0) <= MAX_VALUES
    offered = [*sample, *common] if few and not dates else []
    values = {value for value in offered if value and len(value) <= _CHARACTERS}
    return ValuesInUse(sorted(values, key=lambda value: (value.casefold(), value)), dates=dates)


def _states_dates(column: Column[Any]) -> bool:
    model = Base.metadata.tables.get(address_of(column.table))
    known = form(model.columns[column.name]) if model is not None and column.name in model.columns else None
    return known is not None and known.pattern == DATE.pattern


def _sampled(column: Column[Any]) -> Any:
    value = func.left(cast(column, Text), _CHARACTERS + 1).label("value")
    return select(value).where(column.is_not(None)).limit(_SAMPLED_ROWS).subquery()


async def _sample(connection: AsyncConnection, column: Column[Any]) -> dict[str, int]:
    """Return the values of the first rows, and how many have each; one more than would be offered."""
    sampled = _sampled(column)
    number = func.count().label("number")
    query = select(sampled.c.value, number).group_by(sampled.c.value).order_by(number.desc()).limit(MAX_VALUES + 1)
    return {row.value: row.number for row in await connection.execute(query)}


async def _are_dates(connection: AsyncConnection, column: Column[Any], common: list[str]) -> bool:
    if not all(re.match(_ISO_DATE, value) for value in common):
        return False
    sampled = _sampled(column)
    query = select(func.bool_and(sampled.c.value.regexp_match(_ISO_DATE)))
    return bool(await connection.scalar(query))


async def _statistics(connection: AsyncConnection, column: Column[Any]) -> tuple[float | None, list[str]]:
    table = column.table
    place = {"schema": table.schema or SCHEMA, "table": table.name, "column": column.name}
    found = (await connection.execute(_STATISTICS, place)).first()
    return (None, []) if found is None else (found.number, found.common or [])
