"""Where the tables are on a server with Citus: on one machine, copied to each machine, or distributed over them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sqlalchemy import text

from tatame_db.database.citus import HAS_CITUS
from tatame_db.database.dialect import SCHEMA
from tatame_db.database.placed import within
from tatame_db.schema import Base, distribution_column, tables_in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from sqlalchemy import Connection, Row, Table

    Rows = Callable[[str], Sequence[Row[Any]]]

Kind = Literal["local", "managed", "reference", "distributed", "other"]
# `managed` is how Citus calls a table that it added by itself, because a key joins it with a reference table.
_PLACED = f"""
SELECT c.relname::text AS name, CASE
        WHEN p.partmethod = 'h' THEN 'distributed'
        WHEN p.partmethod = 'n' AND p.repmodel = 't' THEN 'reference'
        WHEN p.partmethod = 'n' AND p.colocationid = 0 THEN 'managed'
        ELSE 'other' END AS kind,
    CASE WHEN p.partmethod = 'h' THEN column_to_column_name(p.logicalrelid, p.partkey) END AS column
FROM pg_dist_partition p JOIN pg_class c ON c.oid = p.logicalrelid
WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = '{SCHEMA}')
"""
_WORDS: dict[Kind, str] = {
    "local": "on the coordinator",
    "managed": "on the coordinator",
    "reference": "on every node",
    "other": "in another way",
}


@dataclass(frozen=True)
class Place:
    """Where the rows of a table are."""

    kind: Kind
    column: str | None = None
    """The column by which they are distributed."""

    def __str__(self) -> str:
        return f"distributed by {self.column}" if self.kind == "distributed" else _WORDS[self.kind]


def wanted(table: Table) -> Place:
    """Return where `tatame-db distribute` puts a table. Raises `DistributionInvalid`."""
    column = distribution_column(table)
    return Place("reference") if column is None else Place("distributed", column.name)


def wanted_places() -> dict[str, Place]:
    """Return where each table belongs, in the order of the placement: first those that are copied to every node."""
    places = {table.name: wanted(table) for table in tables_in_order()}
    return dict(sorted(places.items(), key=lambda pair: pair[1].kind == "distributed"))


def rows_on(connection: Connection) -> Rows:
    """Return the function that runs a query on a connection."""
    return lambda query: connection.execute(text(query)).all()


def has_citus(rows: Rows) -> bool:
    """Return whether the extension exists in a database."""
    return bool(rows(f"SELECT 1 WHERE {HAS_CITUS}"))


def is_worker(rows: Rows) -> bool:
    """Return whether a database is on a worker of Citus, whose tables belong to the coordinator."""
    return has_citus(rows) and bool(rows("SELECT groupid FROM pg_dist_local_group")[0].groupid)


def read_places(rows: Rows) -> dict[str, Place] | None:
    """Return where the tables of the models are, by a function that runs a query; `None` without Citus.

    A table that does not exist counts as local.
    """
    if not has_citus(rows):
        return None
    found = {row.name: Place(row.kind, row.column) for row in rows(_PLACED)}
    return {name: found.get(name, Place("local")) for name in Base.metadata.tables}


def places(connection: Connection) -> dict[str, Place] | None:
    """Return where the tables of the models are; `None` without Citus."""
    return read_places(rows_on(connection))


def elsewhere_stored(found: dict[str, Place] | None) -> set[str]:
    """Return the tables whose rows Citus stores outside of them, so that the server's own estimate is wrong."""
    return {name for name, place in (found or {}).items() if place.kind != "local"}


def unplaced(found: dict[str, Place]) -> dict[str, str]:
    """Return each table that is not placed as its model states, with a sentence; none before anything is placed."""
    if not any(place.kind in {"reference", "distributed", "other"} for place in found.values()):
        return {}
    return {
        name: f"{name} is {found[name]}, not {place}" for name, place in wanted_places().items() if found[name] != place
    }


# Citus copies the tables to a node that is added or activated with the next one that it places, or when asked to.
_NODES_WITHOUT_COPIES = f"""
SELECT n.nodename || ':' || n.nodeport AS address, array_agg(c.relname::text ORDER BY c.relname) AS tables
FROM pg_dist_node n CROSS JOIN pg_dist_partition p JOIN pg_class c ON c.oid = p.logicalrelid
WHERE n.isactive AND n.noderole = 'primary' AND p.repmodel = 't'
    AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = '{SCHEMA}')
    AND NOT EXISTS (
        SELECT FROM pg_dist_shard s JOIN pg_dist_placement q USING (shardid)
        WHERE s.logicalrelid = p.logicalrelid AND q.groupid = n.groupid)
GROUP BY n.groupid, n.nodename, n.nodeport ORDER BY n.groupid
"""
# With fewer shards than nodes, some node has none.
_NODES_WITHOUT_ROWS = f"""
SELECT n.nodename || ':' || n.nodeport AS address, array_agg(c.relname::text ORDER BY c.relname) AS tables
FROM pg_dist_node n CROSS JOIN pg_dist_partition p JOIN pg_class c ON c.oid = p.logicalrelid
WHERE n.isactive AND n.shouldhaveshards AND n.noderole = 'primary' AND p.partmethod = 'h'
    AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = '{SCHEMA}')
    AND (SELECT count(*) FROM pg_dist_shard s WHERE s.logicalrelid = p.logicalrelid)
        >= (SELECT count(*) FROM pg_dist_node WHERE isactive AND shouldhaveshards AND noderole = 'primary')
    AND NOT EXISTS (
        SELECT FROM pg_dist_shard s JOIN pg_dist_placement q USING (shardid)
        WHERE s.logicalrelid = p.logicalrelid AND q.groupid = n.groupid)
GROUP BY n.groupid, n.nodename, n.nodeport ORDER BY n.groupid
"""


def nodes_without_copies(rows: Rows) -> dict[str, list[str]]:
    """Return the active nodes of Citus that lack copies of tables which are on every other node, and these tables."""
    return {row.address: list(row.tables) for row in rows(_NODES_WITHOUT_COPIES)}


def nodes_without_rows(rows: Rows) -> dict[str, list[str]]:
    """Return the nodes of Citus that may store rows of distributed tables and have no shard of them."""
    return {row.address: list(row.tables) for row in rows(_NODES_WITHOUT_ROWS)}


def misplaced(connection: Connection) -> list[str]:
    """Return a sentence for each table and node that is not as the models state; none before anything is placed."""
    if (found := places(connection)) is None:
        return []
    lacking = nodes_without_copies(rows_on(connection))
    return [
        *unplaced(found).values(),
        *(f"the node {node} has no copy of {', '.join(tables)}" for node, tables in lacking.items()),
        *_uneven_shards(connection),
    ]


def _uneven_shards(connection: Connection) -> list[str]:
    """Return a sentence for each shard with other indexes or constraints than its table, and for each lost node."""
    found = within(connection, time.monotonic() + _SHARDS_SECONDS, _UNEVEN_SHARDS)
    if found is None:
        return [f"the shards cannot be compared with their tables: no answer within {_SHARDS_SECONDS} seconds"]
    return [
        *(
            f"{row['name']} has {row['expected']}, and its shard {row['shardid']} on {row['node']} has {row['found']}"
            for row in found
            if row["success"]
        ),
        *dict.fromkeys(
            f"the shards on the node {row['node']} cannot be compared: {row['found']}"
            for row in found
            if not row["success"]
        ),
    ]


_SHARDS_SECONDS = 10
# A statement on a node itself changes one part of a table, of which the coordinator does not know.
_PARTS = """(SELECT count(*) FROM pg_index WHERE indrelid = {oid}) || ' indexes and '
    || (SELECT count(*) FROM pg_constraint WHERE conrelid = {oid}) || ' constraints'"""
_UNEVEN_SHARDS = f"""
SELECT coalesce(json_agg(shards ORDER BY name, shardid), '[]') FROM (
SELECT c.relname::text AS name, s.nodename || ':' || s.nodeport AS node, s.shardid, s.success, s.result AS found,
    {_PARTS.format(oid="c.oid")} AS expected
FROM pg_dist_partition p JOIN pg_class c ON c.oid = p.logicalrelid CROSS JOIN LATERAL run_command_on_placements(
    p.logicalrelid, $$SELECT {_PARTS.format(oid="t.oid")} FROM (SELECT '%s'::regclass AS oid) t$$) s
WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = '{SCHEMA}')
    AND s.result IS DISTINCT FROM {_PARTS.format(oid="c.oid")}) shards
"""
