"""The order in which the tables are copied out of Supabase: by phase, and parents before children within a phase."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import PrimaryKeyConstraint, UniqueConstraint
from sqlalchemy.schema import sort_tables

from tatame_db.errors import TatameError, fact
from tatame_db.schema.base import Base

if TYPE_CHECKING:
    from sqlalchemy import Column, Table

_OF_PACKAGE = "of_package"


@fact
class PhaseInvalid(TatameError):
    """A model states a phase of the move that is not a whole number from 1."""

    table: str
    phase: str
    what = "the model of the table {table} states the phase {phase}, which is not a whole number from 1"
    fix = "correct `phase` in its `__table_args__`, or remove it: the table then moves last"


def phase(table: Table) -> int:
    """Return the phase in which a table is copied, as its model states it in `Table.info`.

    A table that states none is copied in the last phase. Raises `PhaseInvalid`.
    """
    stated = _stated_phase(table)
    return max(_stated_phase(other) or 1 for other in _package_tables()) if stated is None else stated


def _stated_phase(table: Table) -> int | None:
    stated: object = table.info.get("phase")
    if stated is None or (isinstance(stated, int) and not isinstance(stated, bool) and stated >= 1):
        return stated
    raise PhaseInvalid(table=table.name, phase=repr(stated))


def is_of_package(table: Table) -> bool:
    """Return whether a table is one of the package; otherwise it is an app's, which no move copies."""
    return bool(table.info.get(_OF_PACKAGE, False))


def mark_package_tables() -> None:
    """Mark the tables that are defined now as those of the package."""
    for table in Base.metadata.tables.values():
        table.info[_OF_PACKAGE] = True


def _package_tables() -> list[Table]:
    return [table for table in Base.metadata.tables.values() if is_of_package(table)]


def tables_in_order() -> list[Table]:
    """Return every table of the models, in the order of the move.

    Within a phase, parents come before their children; otherwise the order is the one in which `tatame_db.schema`
    imports the models. An app's tables come last.
    """
    tables = _parents_first(tuple((table, len(table.foreign_keys)) for table in Base.metadata.tables.values()))
    return sorted(tables, key=lambda table: (not is_of_package(table), phase(table)))


@lru_cache(maxsize=1)
def _parents_first(tables: tuple[tuple[Table, int], ...]) -> list[Table]:
    """Sort tables with their numbers of foreign keys. A move asks hundreds of times for the same order."""
    # A key with `use_alter` closes a circle, as that of a gym's manager does, and orders nothing.
    return sort_tables([table for table, _ in tables])


def moved_tables() -> list[Table]:
    """Return the tables of the package, which a move copies, in its order."""
    return [table for table in tables_in_order() if is_of_package(table)]


def phases() -> dict[str, int]:
    """Return the phase of each table that a move copies by the table's name, in the order of the move.

    >>> list(phases().items())[:4]
    [('roles', 1), ('versions', 1), ('app_stores', 1), ('gyms', 2)]
    """
    return {table.name: phase(table) for table in moved_tables()}


def key_of(table: Table) -> Column[Any]:
    """Return the column that names the rows of a table: of several in its key, as a partitioned one needs, the first.

    >>> key_of(Base.metadata.tables["checkins"]).name
    'id'
    """
    return next(iter(table.primary_key.columns))


@fact
class DistributionInvalid(TatameError):
    """A model asks for its table to be distributed over several machines, and its keys forbid it."""

    table: str
    reason: str
    what = "the model of the table {table} states `distributed`, and {reason}"
    fix = "remove `distributed` from its `__table_args__`: every machine then has a copy of the table"


def distribution_column(table: Table) -> Column[Any] | None:
    """Return the column by which Citus distributes a table, as `Table.info` states; `None` if it states nothing.

    The column is the key. All other tables are copied to each machine, so that every foreign key still holds. Raises
    `DistributionInvalid` if another table refers to it, or a unique key lacks the column: no machine could check that.

        >>> distribution_column(Base.metadata.tables["checkins"]).name
        'id'
    """
    if not table.info.get("distributed", False):
        return None
    if not table.primary_key.columns:
        raise DistributionInvalid(table=table.name, reason="it has no key")
    column = key_of(table)
    if column.identity is not None:
        raise DistributionInvalid(table=table.name, reason=f"{column.name} is an identity; a sequence (serial) may be")
    others = (other for other in Base.metadata.tables.values() if not other.info.get("distributed", False))
    for other in others:
        if any(key.column.table is table for key in other.foreign_keys):
            raise DistributionInvalid(table=table.name, reason=f"{other.name} refers to it")
    unique = [key.columns for key in table.constraints if isinstance(key, UniqueConstraint | PrimaryKeyConstraint)]
    unique += [index.columns for index in table.indexes if index.unique]
    if any(column.name not in columns for columns in unique):
        raise DistributionInvalid(table=table.name, reason=f"one of its unique keys lacks {column.name}")
    return column


def optional_in_source(table: Table) -> bool:
    """Return whether a source may lack the table, as its model states it in `Table.info`; it then has no rows there."""
    return bool(table.info.get("optional_in_source", False))
