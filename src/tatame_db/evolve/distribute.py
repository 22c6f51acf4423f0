"""The placement of the tables on the nodes of Citus: what is to do, what it costs, and each step in a transaction."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db.database.address import readable
from tatame_db.database.dialect import public
from tatame_db.database.errors import NodeUnavailable, ServerReadOnly
from tatame_db.evolve.addresses import MOVE_PUBLICATIONS, MOVE_TRIGGERS
from tatame_db.evolve.catalogue import run_verbatim
from tatame_db.evolve.check import CheckFailed, check
from tatame_db.evolve.counts import row_counts
from tatame_db.evolve.ddl import constant
from tatame_db.evolve.distribute_errors import (
    CitusMissing,
    CopyNotCounted,
    MoveUnderWay,
    PartitionsNotCopied,
    PlacedDifferently,
    PlacementFailed,
    RowsDiffer,
    WorkersMissing,
)
from tatame_db.evolve.failure import is_limit_of_citus, missing_rights_of, postgres_message, sqlstate
from tatame_db.evolve.lock import LOCK_TIMEOUT_MS, Timeouts, exclusive, ignore
from tatame_db.evolve.placement import (
    Place,
    elsewhere_stored,
    has_citus,
    nodes_without_copies,
    places,
    rows_on,
    wanted_places,
)
from tatame_db.evolve.sessions import end_sessions, other_sessions
from tatame_db.evolve.silent_nodes import watched
from tatame_db.evolve.status import refuse_incomplete, table_sizes
from tatame_db.evolve.worker import refuse_worker
from tatame_db.roles import explained
from tatame_db.roles.missing import refuse_missing
from tatame_db.roles.rights import rows_of
from tatame_db.schema import Base

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Engine


@dataclass(frozen=True)
class PlacementStep:
    """A statement of the placement: it copies a table, or prepares a node, or removes the rest of copied tables."""

    sql: str
    table: str | None
    """The table that it copies."""
    place: str | None
    """Where the rows of the table are afterwards, in words."""
    rows: int | None
    """As `evolve.status` has them."""
    size_bytes: int | None
    """Of the table with its indexes, as it is now."""


@dataclass(frozen=True)
class Distribution:
    """The placement of the tables: what is placed, and what is to do or was done."""

    nodes: list[str]
    """The nodes that store rows."""
    placed: dict[str, str]
    """Where the tables are that need no step."""
    steps: list[PlacementStep]
    sessions: int
    """How many other sessions of the database it ends first: those that knew it before may not know of Citus."""


def distribute(
    engine: Engine,
    *,
    agree: Callable[[Distribution], bool],
    single_node: bool = False,
    on_step: Callable[[PlacementStep], None] = ignore,
    on_silence: Callable[[list[str]], None] = ignore,
    timeouts: Timeouts | None = None,
) -> Distribution | None:
    """Place the tables on the nodes of Citus; return what was done, or `None` if `agree` refused.

    The other sessions of the database are ended first: one that is older than the extension, such as those in the pool
    of an app, writes in the form for one PostgreSQL, and gets keys in another order. A pool opens new ones.

    A table whose model states `distributed` is distributed by its key, and each other is copied to every node. A step
    is a transaction, which locks all tables and counts the rows before and after it: what is stopped or killed is
    continued by another call. `agree` is called before the first step, and not if there is nothing to do. `on_silence`
    is called from a thread, with the nodes that do not answer while a step waits for them.

        >>> evolve.distribute(engine, agree=lambda planned: True).steps
        []

    Raises `CitusMissing`, `NotCoordinator`, `WorkersMissing`, `PlacedDifferently`, `MoveUnderWay`, `CheckFailed`,
    `SchemaBehind`, `TablesMissing`, `DistributionInvalid`, `PartitionsNotCopied`, `PlacementFailed`, `RowsDiffer`,
    `ServerReadOnly`, `RightsMissing`, `SessionsNotEnded`, `DirectAddressNeeded`.
    """
    with explained(engine.url, "distribute"), exclusive(engine, timeouts or Timeouts(), LOCK_TIMEOUT_MS) as connection:
        _refuse(connection, single_node=single_node)
        refuse_incomplete(connection, "distribute")
        planned = _plan(connection)
        if not planned.steps:
            return planned
        refuse_missing(rows_of(connection), "distribute")
        connection.rollback()
        report = check(engine).without_placement
        if report.failed:
            raise CheckFailed(check=report)
        if not agree(planned):
            return None
        if any(step.table is not None for step in planned.steps):
            end_sessions(connection)
        for number, step in enumerate(planned.steps):
            try:
                with watched(engine.url, on_silence):
                    _run(connection, step, on_step)
            except DBAPIError as error:
                connection.rollback()
                raise _failed(connection, error, step, number, len(planned.steps)) from error
            except NodeUnavailable as error:
                raise _failed_on_node(error, step, number, len(planned.steps)) from error
        return planned


def _refuse(connection: Connection, *, single_node: bool) -> None:
    """Raise why no table can be placed here."""
    where = readable(connection.engine.url)
    if connection.scalar(text("SELECT pg_is_in_recovery()")):
        raise ServerReadOnly(address=connection.engine.url, reason="it is a standby")
    if not has_citus(rows_on(connection)):
        installed = connection.scalar(text("SELECT count(*) > 0 FROM pg_available_extensions WHERE name = 'citus'"))
        raise CitusMissing(where=where, installed=bool(installed))
    nodes = connection.execute(text(_NODES)).all()
    refuse_worker(connection)
    workers = [node for node in nodes if not node.is_coordinator]
    if not single_node and not any(node.stores for node in nodes):
        raise WorkersMissing(where=where, inactive=[node.address for node in workers if not node.isactive])
    found = f"""
        SELECT c.relname::text FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid WHERE t.oid IN ({MOVE_TRIGGERS})
        UNION SELECT prrelid::regclass::text FROM pg_publication_rel WHERE prpubid IN ({MOVE_PUBLICATIONS}) ORDER BY 1
    """
    if moving := list(connection.scalars(text(found))):
        raise MoveUnderWay(tables=moving)


_NODES = """
SELECT nodename || ':' || nodeport AS address, nodename, nodeport, groupid = 0 AS is_coordinator, isactive,
    isactive AND shouldhaveshards AS stores
FROM pg_dist_node WHERE noderole = 'primary' ORDER BY groupid
"""


def _plan(connection: Connection) -> Distribution:
    """Find what is placed and what is to do. Raises `PlacedDifferently`, `PartitionsNotCopied`."""
    found, wanted = places(connection) or {}, wanted_places()
    copied = [public(name) for name, place in wanted.items() if place.kind == "reference"]
    if partitioned := list(connection.scalars(text(_PARTITIONED), {"tables": copied})):
        raise PartitionsNotCopied(tables=partitioned)
    if other := {
        name: place for name, place in found.items() if place.kind not in {"local", "managed"} and place != wanted[name]
    }:
        raise PlacedDifferently(
            tables=[f"{name} is {place}, not {wanted[name]}" for name, place in other.items()],
            undo=[_undo(name) for name in other],
        )
    sizes = connection.execute(table_sizes()).all()
    stored = elsewhere_stored(found)
    rows = row_counts(connection, sizes, stored)
    size_of = {row.name: row.size_bytes for row in sizes}

    steps = [
        PlacementStep(_statement(name, place), name, str(place), rows[name], size_of[name])
        for name, place in wanted.items()
        if found[name] != place
    ]
    left = set(connection.scalars(text(_LEFT), {"tables": [public(name) for name in wanted if name in stored]}))
    if cleared := [name for name, place in wanted.items() if found[name] != place or name in left]:
        steps.append(PlacementStep(_clear(cleared), None, None, None, None))
    nodes = connection.execute(text(_NODES)).all()
    if nodes and not any(node.stores for node in nodes):
        node = f"{constant(nodes[0].nodename)}, {nodes[0].nodeport}"
        sql = f"SELECT citus_set_node_property({node}, 'shouldhaveshards', true)"
        steps.insert(0, PlacementStep(sql, None, None, None, None))
    if nodes_without_copies(rows_on(connection)):
        steps.insert(0, PlacementStep(_replicate(connection), None, None, None, None))
    placed = {name: str(place) for name, place in wanted.items() if found[name] == place}
    ended = len(other_sessions(connection)) if any(step.table is not None for step in steps) else 0
    return Distribution([node.address for node in nodes if node.isactive], placed, steps, ended)


def _replicate(connection: Connection) -> str:
    """Return the statement that copies the tables on every node to those that lack them, without a pause if it can."""
    can_follow = connection.scalar(text("SELECT current_setting('wal_level')")) == "logical"
    return f"SELECT {_REPLICATE}({'' if can_follow else constant('block_writes')})"


_REPLICATE = "replicate_reference_tables"


_PARTITIONED = """
SELECT relname::text FROM pg_class WHERE oid = ANY(CAST(CAST(:tables AS text[]) AS regclass[])) AND relkind = 'p'
ORDER BY relname
"""


# A copied table stays on the disk of the coordinator, where no query sees it any more.
_LEFT = """
SELECT relname::text FROM pg_class WHERE oid = ANY(CAST(CAST(:tables AS text[]) AS regclass[]))
    AND pg_relation_size(oid) > 0
"""


def _statement(name: str, place: Place) -> str:
    table = constant(public(name))
    if place.column is None:
        return f"SELECT create_reference_table({table})"
    return f"SELECT create_distributed_table({table}, {constant(place.column)})"


def _undo(name: str) -> str:
    return f"SELECT undistribute_table({constant(public(name))}, cascade_via_foreign_keys => true)"


def _clear(names: list[str]) -> str:
    tables = ", ".join(constant(public(name)) for name in names)
    return f"SELECT truncate_local_data_after_distributing_table(t) FROM unnest(ARRAY[{tables}]::regclass[]) AS t"


def _run(connection: Connection, step: PlacementStep, on_step: Callable[[PlacementStep], None]) -> None:
    """Run a step in a transaction that lets no one else see the tables, and report it after the commit.

    Raises `RowsDiffer`, `CopyNotCounted`.
    """
    everything = list(Base.metadata.tables)
    if _REPLICATE in step.sql:
        # Citus copies in sessions of its own, which would wait for a lock of this one. A later step would copy too.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        run_verbatim(connection, step.sql)
        connection.commit()
        on_step(step)
        for name in everything:
            _refuse_unequal_copies(connection, name)
        return
    # The step that clears a table clears all that refer to it, so all are compared.
    compared = everything if step.table is None else [step.table]
    if step.table is None:
        for name in everything:
            _refuse_unequal_copies(connection, name)
    # The copy takes as long as it takes, and Citus changes its nodes one after the other for a table with keys.
    for setting in ("statement_timeout = 0", "citus.multi_shard_modify_mode = 'sequential'"):
        connection.execute(text(f"SET LOCAL {setting}"))
    # Citus needs this lock of every table that a key joins with this one; to take it later could be a deadlock.
    tables = ", ".join(map(public, everything))
    connection.execute(text(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE"))
    before = {name: _count(connection, name) for name in compared}
    run_verbatim(connection, step.sql)
    for name, rows in before.items():
        if (after := _count(connection, name)) != rows:
            connection.rollback()
            raise RowsDiffer(table=name, before=rows, after=after, where="", stays=False)
    connection.commit()
    on_step(step)
    if step.table is not None:
        _refuse_unequal_copies(connection, step.table)


def _refuse_unequal_copies(connection: Connection, name: str) -> None:
    """Count the rows of each copy of a reference table. Raises `RowsDiffer`, `CopyNotCounted`."""
    table = constant(public(name))
    try:
        connection.execute(text(f"LOCK TABLE {public(name)} IN SHARE MODE"))
        rows = _count(connection, name)
        copies = run_verbatim(
            connection,
            "SELECT nodename || ':' || nodeport AS node, success, result FROM"
            f" run_command_on_placements({table}, 'SELECT count(*) FROM %s')"
            f" WHERE EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = {table}::regclass AND repmodel = 't')",
        ).all()
    except (DBAPIError, NodeUnavailable) as error:
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            raise
        connection.rollback()
        # The step is committed by now, so its failure would be wrong.
        reason = error.reason if isinstance(error, NodeUnavailable) else postgres_message(connection, error)
        raise CopyNotCounted(table=name, node=_named_node(connection, reason), message=reason) from error
    connection.rollback()
    for copy in copies:
        if not copy.success:
            raise CopyNotCounted(table=name, node=copy.node, message=copy.result)
        if int(copy.result) != rows:
            raise RowsDiffer(table=name, before=rows, after=int(copy.result), where=f" on {copy.node}", stays=True)


def _named_node(connection: Connection, reason: str) -> str:
    """Return the node that a message of the coordinator names: it could not reach it."""
    nodes = [node.address for node in connection.execute(text(_NODES))]
    connection.rollback()
    return next(
        (node for node in nodes if re.search(rf"(?<![\w.-]){re.escape(node)}(?!\d)", reason)), "the coordinator"
    )


def _count(connection: Connection, name: str) -> int:
    return int(connection.scalar(text(f"SELECT count(*) FROM {public(name)}")) or 0)


def _failed_on_node(error: NodeUnavailable, step: PlacementStep, done: int, steps: int) -> PlacementFailed:
    return PlacementFailed(
        statement=step.sql,
        message=error.reason,
        sqlstate=_CONNECTION_LOST,
        done=done,
        steps=steps,
        rights=None,
        on_citus=False,
    )


_CONNECTION_LOST = "08006"


def _failed(
    connection: Connection, error: DBAPIError, step: PlacementStep, done: int, steps: int
) -> PlacementFailed | DBAPIError:
    code = sqlstate(error)
    if code is None or error.connection_invalidated:
        # The connection is lost; its words are elsewhere.
        return error
    return PlacementFailed(
        statement=step.sql,
        message=postgres_message(connection, error),
        sqlstate=code,
        done=done,
        steps=steps,
        rights=missing_rights_of(connection, error, "distribute"),
        on_citus=is_limit_of_citus(connection, error),
    )
