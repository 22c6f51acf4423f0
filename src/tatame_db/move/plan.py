"""The plan of a copy: its tables, and the obstacles among their rows; reads both databases and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tatame_db.errors import TatameError, fact
from tatame_db.move.catalogue import read_views
from tatame_db.move.choices import Choices, Exclusion, Obstacle, Resolution, summary
from tatame_db.move.left_behind import LeftBehind, read_left_behind
from tatame_db.move.own_columns import read_mapping_to_target
from tatame_db.move.record import Record
from tatame_db.move.refusals import refusals_of_copy
from tatame_db.move.resolve import resolve
from tatame_db.move.sequences import highest_ids
from tatame_db.move.target import TargetColumn, TargetObject, column_obstacles, target_columns, target_objects
from tatame_db.move.target_schema import refuse_replaced_tables
from tatame_db.schema import phase, phases

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tatame_db.move.connection import Connections
    from tatame_db.move.mapping import TableMap
    from tatame_db.move.rest import RestReading


# With proof, indexes and keys: 1.2 million check-ins take 4 s, on 2 cores that both servers and the client share.
BYTES_PER_SECOND = 20_000_000
# Of a view, whose rows are elsewhere.
ROW_BYTES = 100


@fact
class PlanIncomplete(TatameError):
    """Some obstacles have no choice: the answer of `move plan`."""

    exit_code = 3
    obstacles: int
    what = "the move would be incomplete: {obstacles:obstacle} without a choice"
    fix = "fix the rows at the source or add an option, as each obstacle suggests; then plan again"


@fact
class CopyWouldRefuse(TatameError):
    """Every row could be copied, but a copy would refuse the target or the source as they are."""

    exit_code = 3
    refusals: list[str]
    what = "`move copy` would refuse: {refusals}"
    fix = "do what each reason suggests, then plan again"


@dataclass(frozen=True)
class PlannedColumn:
    """A column of the target, and the column that fills it."""

    target: str
    target_type: str
    source: str | None
    source_type: str | None
    conversion: str


@dataclass(frozen=True)
class PlannedTable:
    """A table, its rows in the source, and the obstacles among them."""

    table: str
    phase: int
    rows: int
    size_bytes: int | None
    """Of the table in the source; `None` for a view or a foreign table, whose rows are elsewhere."""
    seconds: float
    """An estimate for a first copy: by the speed of the last recorded copy, otherwise by the size."""
    columns: list[PlannedColumn]
    obstacles: list[Obstacle] = field(default_factory=list[Obstacle])


@dataclass(frozen=True)
class Plan:
    """The plan of a copy of all tables."""

    source: str
    source_version: str
    target: str
    target_version: str
    tables: list[PlannedTable]
    unknown_tables: list[Obstacle]
    exclusions: list[Exclusion]
    """The rows and values that the choices exclude."""
    target_objects: list[TargetObject]
    """What the target has beside the models, and what can change rows as they are written."""
    rest: RestReading | None
    """How the source was read, if over REST."""
    views: list[str]
    """The tables that are filled from views, which may show fewer rows than there are."""
    left_behind: LeftBehind | None = None
    """What the move does not bring; `None` in the plan of a copy."""
    refusals: list[str] = field(default_factory=list[str])
    """Why a copy would refuse the target or the source as they are, each with what to do."""

    @property
    def obstacles(self) -> list[Obstacle]:
        """All obstacles, table by table."""
        return [*(obstacle for table in self.tables for obstacle in table.obstacles), *self.unknown_tables]

    @property
    def seconds(self) -> float:
        """An estimate for a first copy of all tables."""
        return round(sum(table.seconds for table in self.tables), 1)

    @property
    def unresolved(self) -> list[Obstacle]:
        """The obstacles without a choice."""
        return unresolved(self.obstacles)

    @property
    def empty(self) -> bool:
        """Whether the source has no row in any table of the models."""
        return not any(table.rows for table in self.tables)

    @property
    def complete(self) -> bool:
        """Whether every row can be copied unchanged or as chosen, and a copy without options refuses nothing."""
        return not (self.unresolved or self.refusals)

    @property
    def error(self) -> PlanIncomplete | CopyWouldRefuse | None:
        """The error that states how many obstacles have no choice, or that a copy refuses; `None` if it is complete."""
        if self.unresolved:
            return PlanIncomplete(obstacles=len(self.unresolved))
        return CopyWouldRefuse(refusals=self.refusals) if self.refusals else None


def unresolved(obstacles: Iterable[Obstacle]) -> list[Obstacle]:
    """Return the obstacles without a choice."""
    return [obstacle for obstacle in obstacles if obstacle.chosen is None]


def plan(connections: Connections, choices: Choices | None = None, addresses: Iterable[str] = ()) -> Plan:
    """Read the catalogues and all rows of the source, and plan a copy of all tables.

    `addresses` are other addresses of the project; values that point at their hosts are counted. Raises
    `TargetTablesReplaced`, `SourceUnreadable`, `TooManyExcluded`, `IdsExhausted`.
    """
    refuse_replaced_tables(connections.target)
    source, mapping = connections.source, read_mapping_to_target(connections)
    # A copy reads them too, and refuses the same sources.
    highest_ids(source, mapping)
    choices = choices or Choices()
    resolution = resolve(source, mapping, choices)
    planned = plan_of(connections, resolution)
    # With an obstacle, the tables cannot even be compared.
    refusals = [] if planned.unresolved else refusals_of_copy(connections, resolution, choices)
    return replace(
        planned,
        left_behind=read_left_behind(source, addresses),
        refusals=[f"{refusal.what} ({refusal.fix})" for refusal in refusals],
    )


def plan_of(connections: Connections, resolution: Resolution) -> Plan:
    """Plan a copy of a source whose obstacles are resolved already."""
    source, target = connections.source, connections.target
    speeds, columns = Record(target).rows_per_second(), target_columns(target)
    return Plan(
        source=source.readable,
        source_version=source.version,
        target=target.readable,
        target_version=target.version,
        tables=[_planned(resolution, table, speeds.get(table.name), columns) for table in resolution.mapping.tables],
        unknown_tables=resolution.unknown_tables,
        exclusions=summary(resolution.queries),
        target_objects=target_objects(target, columns),
        rest=source.rest,
        views=read_views(source, phases()),
    )


def _planned(
    resolution: Resolution, table: TableMap, rows_per_second: float | None, target: list[TargetColumn]
) -> PlannedTable:
    rows, size_bytes = resolution.rows[table.name], table.source.size_bytes if table.source else 0
    columns = [
        PlannedColumn(
            column.name,
            column.type,
            column.source.name if column.source else None,
            column.source.type_name if column.source else None,
            column.conversion.description,
        )
        for column in table.columns
    ]
    known_bytes = rows * ROW_BYTES if size_bytes is None else size_bytes
    seconds = rows / rows_per_second if rows_per_second else known_bytes / BYTES_PER_SECOND
    obstacles = [*resolution.obstacles[table.name], *column_obstacles(table, rows, target)]
    return PlannedTable(table.name, phase(table.table), rows, size_bytes, round(seconds, 1), columns, obstacles)
