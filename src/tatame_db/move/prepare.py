"""The preparation of a copy: the tables to copy, the reasons to refuse, and the tables that differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.errors import TatameError, fact
from tatame_db.move.changes import Changes, bulk_changes, find_changes
from tatame_db.move.digest import Digest, Hash, TableDigests, common_hash
from tatame_db.move.fingerprint import Fingerprint, fingerprint
from tatame_db.move.keys import refuse_disabled_keys
from tatame_db.move.own_columns import read_mapping_to_target
from tatame_db.move.plan import plan_of, unresolved
from tatame_db.move.reach import refuse_references
from tatame_db.move.record import Record, identity_of
from tatame_db.move.refusals import refuse_emptied, refuse_other_rows
from tatame_db.move.resolve import resolve
from tatame_db.move.sequences import highest_ids
from tatame_db.move.stages import Stage
from tatame_db.move.switch.homes import Home, homes, refuse_moved
from tatame_db.move.target import OwnKey, own_keys
from tatame_db.move.target_schema import refuse_replaced_tables
from tatame_db.roles.missing import refuse_missing
from tatame_db.schema import phases

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from tatame_db.move.choices import Choices, Resolution
    from tatame_db.move.connection import Connections, MoveConnection
    from tatame_db.move.mapping import Mapping, TableMap
    from tatame_db.move.plan import Plan

# Up to this many changed rows, rows are written one by one and the indexes stay. Of 1.2 million rows, writing 118,000
# scattered ones took half as long as rewriting all their ranges; a larger share of scattered rows amounts to that.
FEW_ROWS, FEW_OF_ALL = 10_000, 0.1


@fact
class ObstaclesUnresolved(TatameError):
    """The plan has obstacles without a choice, so nothing is copied."""

    kinds: list[str]
    what = "not every row can be stored unchanged: {kinds}"
    means = "Nothing was copied."
    fix = "run `tatame-db move plan`, which names the rows and the choices"


@fact
class ParentsNotCopied(TatameError):
    """Rows refer to tables that are neither part of this copy nor equal to the source."""

    parents: list[str]
    what = "the rows refer to tables that are not equal to the source yet: {parents}"
    fix = "copy the earlier phases first, or all tables with `tatame-db move copy`"


@dataclass(frozen=True)
class CopyOptions:
    """The options of a copy; `tables` is empty for all."""

    tables: Sequence[str]
    choices: Choices
    replace_rows: bool
    jobs: int
    sha256: bool
    accept_emptied: bool


@dataclass(frozen=True)
class Preparation:
    """Everything that a copy knows before it writes. All its jobs read it, and none changes it."""

    options: CopyOptions
    plan: Plan
    resolution: Resolution
    mapping: Mapping
    """All tables, without excluded rows and values."""
    tables: list[TableMap]
    """The tables to make equal, in the order of the move."""
    names: list[str]
    """Their names."""
    identity: str
    """Of the source, as the record stores it."""
    hash_function: Hash
    """The hash that both servers compute alike."""
    fingerprints: dict[str, Fingerprint]
    """Of each table of the target, when its digest was computed."""
    digests: dict[str, tuple[Digest, Digest]]
    """Of each table, in the source and in the target."""
    own_keys: list[OwnKey]
    """Foreign keys of the target that the models do not have."""
    outdated: list[str]
    """Other tables that were copied by an earlier run, and written to since."""
    moved: list[str]
    """Tables whose home is no longer the source, which this copy neither reads nor locks."""
    highest_ids: dict[str, int]
    """Of each table, handed out by the source to any row, with rejected and deleted ones."""

    @property
    def differing(self) -> list[TableMap]:
        """The tables that have to be written to."""
        digests = self.digests
        return [table for table in self.tables if digests[table.name][0] != digests[table.name][1]]


def prepare(
    connections: Connections, options: CopyOptions, on_stage: Callable[[Stage, str | None], None]
) -> Preparation:
    """Read both databases and find out which tables differ; writes nothing.

    Raises `TargetTablesReplaced`, `KeysDisabled`, `RightsMissing`, `ObstaclesUnresolved`, `TablesEmptied`,
    `OtherRowsInTarget`, `RowsStillReferenced`, `ReferencesUnreadable`, `ParentsNotCopied`, `SourceUnreadable`,
    `TableUnknown`, `TooManyExcluded`, `IdsExhausted`, `NoCommonHash`, `TablesMoved`, `SwitchUnfinished`, and what
    `homes` raises.
    """
    on_stage(Stage.CHECK, None)
    refuse_replaced_tables(connections.target)
    refuse_disabled_keys(connections.target, Record(connections.target).parked())
    refuse_missing(connections.target.rows, "move copy")
    mapping = read_mapping_to_target(connections)
    found_homes = homes(connections)
    refuse_moved(found_homes, [table.name for table in mapping.chosen(options.tables)])
    moved = [table for table, home in found_homes.items() if home is not Home.SOURCE]
    selected = _select(mapping, options.tables, moved)
    resolution = resolve(connections.source, mapping, options.choices)
    plan = plan_of(connections, resolution)
    refuse_unresolved(plan)
    tables = resolution.mapping.chosen(selected.names)
    hash_function = common_hash(connections)
    _refuse_missing_parents(connections, resolution.mapping, selected, hash_function, moved)
    fingerprints: dict[str, Fingerprint] = {}
    digests: dict[str, tuple[Digest, Digest]] = {}
    for table in tables:
        on_stage(Stage.COMPARE, table.name)
        # In one pass, so that both are of the same rows, whatever is written to the target meanwhile.
        source, target, found = TableDigests(connections, table, hash_function).whole_with_fingerprint()
        digests[table.name], fingerprints[table.name] = (source, target), found
    preparation = Preparation(
        options=options,
        plan=plan,
        resolution=resolution,
        mapping=resolution.mapping,
        tables=tables,
        names=selected.names,
        identity=identity_of(connections.source),
        hash_function=hash_function,
        fingerprints=fingerprints,
        digests=digests,
        own_keys=own_keys(connections.target, moved),
        outdated=_outdated(connections.target, [*selected.names, *moved]),
        moved=moved,
        highest_ids=highest_ids(connections.source, resolution.mapping),
    )
    record = Record(connections.target)
    if not options.accept_emptied:
        refuse_emptied(record, resolution, preparation.identity, selected.names, options.choices)
    if not options.replace_rows:
        differing = [
            (TableDigests(connections, table, hash_function), fingerprints[table.name])
            for table in preparation.differing
        ]
        refuse_other_rows(record, preparation.identity, differing)
    held = [table for table in preparation.differing if fingerprints[table.name].rows]
    refuse_references(connections, held, preparation.own_keys)
    return preparation


def refuse_unresolved(plan: Plan) -> None:
    """Raise `ObstaclesUnresolved` if the plan has obstacles without a choice."""
    if not plan.complete:
        found = {
            f"{obstacle.kind} in {table.table}" for table in plan.tables for obstacle in unresolved(table.obstacles)
        }
        found |= {obstacle.kind for obstacle in unresolved(plan.unknown_tables)}
        raise ObstaclesUnresolved(kinds=sorted(found))


def changes_of(preparation: Preparation, connections: Connections, table: TableMap) -> Changes:
    """Find out which rows of a differing table to delete and to write."""
    rows = preparation.fingerprints[table.name].rows
    if not rows:
        return Changes([], [""], bulk=True)
    digests = TableDigests(connections, table, preparation.hash_function)
    if rows > FEW_ROWS and not table.counted_key:
        # Without ranges of ids, all rows would have to be held in memory.
        return bulk_changes(digests)
    return find_changes(digests, max(FEW_ROWS, int(rows * FEW_OF_ALL)))


@dataclass(frozen=True)
class _Selection:
    """The tables to make equal. `completed` were not chosen, but refer to a chosen table of a later phase.

    An earlier copy may have left their columns NULL, which this one can fill.
    """

    names: list[str]
    completed: set[str]


def _select(mapping: Mapping, names: Sequence[str], moved: Collection[str]) -> _Selection:
    chosen = {table.name for table in mapping.chosen(names)}
    completed = {table.name for table in mapping.tables if table.later_parents & chosen} - chosen - {*moved}
    return _Selection([table.name for table in mapping.tables if table.name in chosen | completed], completed)


def _refuse_missing_parents(
    connections: Connections,
    mapping: Mapping,
    selected: _Selection,
    hash_function: Hash,
    moved: Collection[str],
) -> None:
    tables = mapping.chosen(selected.names)
    parents = {key.column.table.name for table in tables for key in table.table.foreign_keys}
    later = {parent for table in tables for parent in table.later_parents}
    known, identity = Record(connections.target).tables(), identity_of(connections.source)
    copied = {name for name in selected.completed if name in known and known[name].source_identity == identity}
    # A parent that has moved has the rows of the target, whatever the source still has.
    required = (parents - set(selected.names) - later - {*moved}) | (selected.completed - copied)

    def differs(table: TableMap) -> bool:
        source, target = TableDigests(connections, table, hash_function).whole()
        return source != target

    missing = [table.name for table in mapping.tables if table.name in required and differs(table)]
    if missing:
        raise ParentsNotCopied(parents=missing)


def _outdated(target: MoveConnection, names: Sequence[str]) -> list[str]:
    others = {name: last for name, last in Record(target).tables().items() if name not in names and name in phases()}
    return [name for name, last in others.items() if fingerprint(target, name) != last.fingerprint]
