"""The checks, a module for each group. `LINES` has them all."""

from tatame_db.doctor.checks import (
    backups,
    citus,
    configuration,
    connection,
    machine,
    moves,
    partitions,
    replication,
    rights,
    room,
    schema,
    sessions,
    tables,
)
from tatame_db.doctor.lines import GROUPS, registered

__all__ = [
    "LINES",
    "backups",
    "citus",
    "configuration",
    "connection",
    "machine",
    "moves",
    "partitions",
    "replication",
    "rights",
    "room",
    "schema",
    "sessions",
    "tables",
]

LINES = dict(sorted(registered.items(), key=lambda pair: GROUPS.index(pair[1].group)))
"""All lines by name, in the order in which they are shown."""
