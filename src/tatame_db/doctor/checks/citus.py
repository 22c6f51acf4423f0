"""The nodes of Citus, its versions, and where the tables are. Without Citus, no line is shown."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tatame_db.doctor import advice
from tatame_db.doctor.finding import bad, good, named, warn, worst
from tatame_db.doctor.lines import line
from tatame_db.errors import counted
from tatame_db.evolve.placement import (
    has_citus,
    is_worker,
    nodes_without_copies,
    nodes_without_rows,
    read_places,
    unplaced,
)

if TYPE_CHECKING:
    from tatame_db.doctor.examination import Examination
    from tatame_db.evolve.placement import Place
from tatame_db.doctor.finding import Answer


@line(
    "Replication",
    warns="a node is not active or lacks copies or rows, or a table is not placed as its model states, once others are",
    bad="a node does not answer, or the extension has another version than the library",
)
def citus(examination: Examination) -> Answer | None:
    """The nodes of Citus, its versions, and where the tables are, where the extension is installed in the database."""
    if not has_citus(examination.rows):
        return None
    versions = examination.row(_VERSIONS)
    if versions.loaded is None:
        return bad(
            "the server has not loaded the library of Citus, so no distributed table can be read",
            "add `citus` to `shared_preload_libraries` as the first of them, and restart the server",
        )
    if versions.differ:
        # Each function of Citus refuses meanwhile.
        return bad(
            f"the extension has version {versions.extension}, and the library {versions.loaded}",
            advice.sql(examination, ("ALTER EXTENSION citus UPDATE", advice.SUPERUSER)) + ", on every node",
        )
    if is_worker(examination.rows):
        return good(f"version {versions.loaded}; this server is a worker")
    nodes = examination.rows(_NODES)
    places = read_places(examination.rows) or {}
    answers = [
        bad(f"the node {node.address} does not answer", "start it, and look at its log and at the network between them")
        for node in nodes
        if node.isactive and not node.answers
    ]
    answers += [
        warn(
            f"the node {node.address} is not active",
            advice.sql(
                examination, (f"SELECT citus_activate_node('{node.nodename}', {node.nodeport})", advice.SUPERUSER)
            ),
        )
        for node in nodes
        if not node.isactive
    ]
    if found := unplaced(places):
        answers.append(
            warn(f"not placed as their models state: {named(found)}", "`tatame-db distribute` places the tables")
        )
    answers += [
        warn(
            f"the node {node} has no copy of {named(tables)}",
            "`tatame-db distribute` copies the tables to it",
        )
        for node, tables in nodes_without_copies(examination.rows).items()
    ]
    answers += [
        warn(
            f"the node {node} stores no rows of {named(tables)}",
            advice.sql(examination, (_rebalance(examination), advice.SUPERUSER)) + ", which moves some to it",
        )
        for node, tables in nodes_without_rows(examination.rows).items()
    ]
    return worst(answers, good(f"version {versions.loaded}, {counted(len(nodes), 'node')}; {_placement(places)}"))


def _placement(places: dict[str, Place]) -> str:
    numbers = Counter(map(str, places.values()))
    return ", ".join(f"{counted(number, 'table')} {place}" for place, number in numbers.items())


_VERSIONS = """
SELECT extversion AS extension, current_setting('citus.version', true) AS loaded,
    split_part(extversion, '-', 1) <>
        array_to_string((string_to_array(current_setting('citus.version', true), '.'))[1:2], '.') AS differ
FROM pg_extension WHERE extname = 'citus'
"""
_NODES = """
SELECT nodename || ':' || nodeport AS address, nodename, nodeport, isactive,
    isactive AND citus_check_connection_to_node(nodename, nodeport) AS answers
FROM pg_dist_node WHERE noderole = 'primary' ORDER BY groupid
"""


def _rebalance(examination: Examination) -> str:
    # Without logical decoding the job that moves the rows would fail again and again.
    is_logical = examination.value("SELECT current_setting('wal_level')") == "logical"
    mode = "" if is_logical else "shard_transfer_mode := 'block_writes'"
    return f"SELECT citus_rebalance_start({mode})"
