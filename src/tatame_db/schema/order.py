"""The order in which the tables are copied out of Supabase: by phase, and parents before children within a phase."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.schema import sort_tables

from tatame_db.errors import TatameError, fact
from tatame_db.schema.base import Base

if TYPE_CHECKING:
    from sqlalchemy import Table


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
    return max(_stated_phase(other) or 1 for other in table.metadata.tables.values()) if stated is None else stated


def _stated_phase(table: Table) -> int | None:
    stated: object = table.info.get("phase")
    if stated is None or (isinstance(stated, int) and not isinstance(stated, bool) and stated >= 1):
        return stated
    raise PhaseInvalid(table=table.name, phase=repr(stated))


def tables_in_order() -> list[Table]:
    """Return every table of the models, in the order of the move.

    Within a phase, parents come before their children; otherwise the order is the one in which `tatame_db.schema`
    imports the models.
    """
    # A key with `use_alter` closes a circle, as that of a gym's manager does, and orders nothing.
    return sorted(sort_tables(list(Base.metadata.tables.values())), key=phase)


def phases() -> dict[str, int]:
    """Return the phase of each table by the table's name, in the order of the move.

    >>> list(phases().items())[:4]
    [('roles', 1), ('versions', 1), ('app_stores', 1), ('gyms', 2)]
    """
    return {table.name: phase(table) for table in tables_in_order()}


def optional_in_source(table: Table) -> bool:
    """Return whether a source may lack the table, as its model states it in `Table.info`; it then has no rows there."""
    return bool(table.info.get("optional_in_source", False))
