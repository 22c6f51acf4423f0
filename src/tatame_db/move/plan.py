"""What would become of each row, and what stands in the way; reads both databases and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tatame_db.errors import NOTHING_CHANGED, TatameError, counted
from tatame_db.move import record
from tatame_db.move.choices import Choices, Exclusion, Obstacle, Resolution, resolve, summary
from tatame_db.move.mapping import read_mapping
from tatame_db.schema import phase

if TYPE_CHECKING:
    from tatame_db.move.connection import Connections
    from tatame_db.move.mapping import TableMap
    from tatame_db.move.rest import RestReading


# With its proof, indexes and keys: 1.2 million check-ins in 4 s, on 2 cores with both servers and us on one machine.
BYTES_PER_SECOND = 20_000_000


class PlanIncomplete(TatameError):
    """Something stands in the way of a whole move: the answer of `move plan`."""

    exit_code = 3

    def __init__(self, obstacles: int) -> None:
        self.obstacles = obstacles
        super().__init__(
            f"the move would not be whole: {counted(obstacles, 'obstacle')}",
            means=NOTHING_CHANGED,
            fix="mend the rows at the source or give a choice, as each obstacle says, then plan again",
        )


@dataclass(frozen=True)
class PlannedColumn:
    """A column of ours, and what fills it."""

    target: str
    target_type: str
    source: str | None
    source_type: str | None
    conversion: str


@dataclass(frozen=True)
class PlannedTable:
    """What a table holds and what becomes of it."""

    table: str
    phase: int
    rows: int
    size_bytes: int
    seconds: float
    """How long a first copy takes, guessed: from the last copy on record, else from the size."""
    columns: list[PlannedColumn]
    obstacles: list[Obstacle] = field(default_factory=list[Obstacle])


@dataclass(frozen=True)
class Plan:
    """What would move from where to where."""

    source: str
    source_version: str
    target: str
    target_version: str
    tables: list[PlannedTable]
    unknown_tables: list[Obstacle]
    exclusions: list[Exclusion]
    """What the choices come to."""
    rest: RestReading | None
    """How the source was read, where that was over REST."""

    @property
    def obstacles(self) -> list[Obstacle]:
        """All obstacles, table by table."""
        return [*(obstacle for table in self.tables for obstacle in table.obstacles), *self.unknown_tables]

    @property
    def seconds(self) -> float:
        """How long a first copy of all tables takes, guessed."""
        return round(sum(table.seconds for table in self.tables), 1)

    @property
    def unresolved(self) -> list[Obstacle]:
        """The obstacles that nobody gave a choice for."""
        return [obstacle for obstacle in self.obstacles if obstacle.chosen is None]

    @property
    def empty(self) -> bool:
        """Whether the source has no row at all in our tables."""
        return not any(table.rows for table in self.tables)

    @property
    def complete(self) -> bool:
        """Whether every row can be copied unchanged or as chosen."""
        return not self.unresolved


def plan(connections: Connections, choices: Choices | None = None) -> Plan:
    """Read catalogues and data, and say what would become of them. Raises `SourceUnreadable`, `TooManyAside`."""
    return planned(connections, resolve(connections.source, read_mapping(connections.source), choices or Choices()))


def planned(connections: Connections, resolution: Resolution) -> Plan:
    """Say what would become of a source that was looked at."""
    source, target = connections.source, connections.target
    known = record.rates(target)
    return Plan(
        source=source.readable,
        source_version=source.version,
        target=target.readable,
        target_version=target.version,
        tables=[_planned(resolution, table, known.get(table.name)) for table in resolution.mapping.tables],
        unknown_tables=resolution.unknown_tables,
        exclusions=summary(resolution.queries),
        rest=source.rest,
    )


def _planned(resolution: Resolution, table: TableMap, rows_per_second: float | None) -> PlannedTable:
    rows, size = resolution.rows[table.name], table.source.size_bytes if table.source else 0
    columns = [
        PlannedColumn(
            column.name,
            column.type,
            column.source.name if column.source else None,
            column.source.kind if column.source else None,
            column.conversion.description,
        )
        for column in table.columns
    ]
    return PlannedTable(
        table.name,
        phase(table.table),
        rows,
        size,
        round(rows / rows_per_second if rows_per_second else size / BYTES_PER_SECOND, 1),
        columns,
        resolution.obstacles[table.name],
    )
