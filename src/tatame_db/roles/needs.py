"""What the four roles may do, and the least that each command needs: the grants, the list and the tests come from here.

A need names objects by their schema, not one by one: the tables of `public` are those of the models, and the other two
schemas belong to this package as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tatame_db.database.dialect import MOVE_SCHEMA, SCHEMA, VERSION_SCHEMA

Kind = Literal["role", "database", "schema", "table", "sequence"]
SCHEMAS = (SCHEMA, VERSION_SCHEMA, MOVE_SCHEMA)
SECRET = "token"  # noqa: S105, the name of a table
"""The table of `tatame_move` that only its owner and a backup read: with its value, a session passes a move's triggers.
"""
OWNER = "OWNER"
"""Not a privilege: what only the owner of an object may do, such as to alter it."""
ALL_ROWS = "ALL ROWS"
"""Not a privilege: no policy of row-level security hides rows from the role."""


@dataclass(frozen=True)
class Need:
    """A right on all objects of a kind in a schema; one on a schema that does not exist is the right to create it."""

    privilege: str
    kind: Kind
    schema: str | None = None
    is_secret: bool = False
    """Whether it is about the secret table, which the others leave out."""


def _tables(*privileges: str, schema: str = SCHEMA) -> tuple[Need, ...]:
    return tuple(Need(privilege, "table", schema) for privilege in privileges)


def _reading(schema: str) -> tuple[Need, ...]:
    return (Need("USAGE", "schema", schema), *_tables("SELECT", schema=schema))


CONNECT = (Need("CONNECT", "database"),)
READ_HISTORY = _reading(VERSION_SCHEMA)
READ_RECORD = _reading(MOVE_SCHEMA)
READ_ROWS = _reading(SCHEMA)
_RECORDS = (
    *READ_HISTORY,
    *READ_RECORD,
    *(Need("SELECT", "sequence", schema) for schema in (VERSION_SCHEMA, MOVE_SCHEMA)),
)
WRITE_ROWS = (*READ_ROWS, *_tables("INSERT", "UPDATE", "DELETE"), Need("USAGE", "sequence", SCHEMA))
_ENTER = Need("USAGE", "schema", SCHEMA)
_OWN_TABLES = (_ENTER, Need("CREATE", "schema", SCHEMA), *_tables(OWNER))
MIGRATE = (
    *READ_HISTORY,
    *_tables("INSERT", "UPDATE", "DELETE", schema=VERSION_SCHEMA),
    Need("CREATE", "schema", VERSION_SCHEMA),
    *_OWN_TABLES,
)
_SEED = (*READ_HISTORY, *_OWN_TABLES, *_tables(ALL_ROWS))
_MOVE = (
    *READ_HISTORY,
    *_OWN_TABLES,
    *_tables(ALL_ROWS),
    Need(OWNER, "schema", MOVE_SCHEMA),
    *_tables(OWNER, schema=MOVE_SCHEMA),
    Need("TEMPORARY", "database"),
)
_COMPARE = (*READ_HISTORY, *READ_RECORD, *READ_ROWS, *_tables(ALL_ROWS))
DUMP = (
    *(need for schema in SCHEMAS for need in (*_reading(schema), Need("SELECT", "sequence", schema))),
    Need("SELECT", "table", MOVE_SCHEMA, is_secret=True),
    *_tables(ALL_ROWS),
)


@dataclass(frozen=True)
class Duty:
    """One of the four roles: its name by default, and what it may do."""

    name: str
    role: str
    purpose: str
    needs: tuple[Need, ...]


OWNING = Duty(
    "owner",
    "tatame_owner",
    "owns the tables and migrates",
    (
        *CONNECT,
        Need("CREATE", "database"),
        Need("TEMPORARY", "database"),
        *(need for schema in SCHEMAS for need in (Need("USAGE", "schema", schema), Need("CREATE", "schema", schema))),
        *(Need(OWNER, "schema", schema) for schema in SCHEMAS if schema != SCHEMA),
        *(need for schema in SCHEMAS for need in _tables(OWNER, schema=schema)),
    ),
)
APP = Duty(
    "app",
    "tatame_app",
    "reads and writes rows",
    (*CONNECT, *WRITE_ROWS, Need("SELECT", "sequence", SCHEMA), *_RECORDS),
)
READ_ONLY = Duty(
    "read-only",
    "tatame_read",
    "reads, as the studio and reports do",
    (*CONNECT, *READ_ROWS, Need("SELECT", "sequence", SCHEMA), *_RECORDS),
)
BACKUP = Duty(
    "backup",
    "tatame_backup",
    "runs pg_dump and pg_basebackup",
    (*CONNECT, *DUMP, Need("REPLICATION", "role")),
)
DUTIES = (OWNING, APP, READ_ONLY, BACKUP)

COMMANDS: dict[str, tuple[Need, ...]] = {
    "up": (*MIGRATE, *_SEED, *READ_RECORD),
    "start": CONNECT,
    "stop": (),
    "down": (),
    "status": (*READ_HISTORY, *READ_RECORD, _ENTER),
    "logs": (),
    "url": (),
    "psql": CONNECT,
    "seed": _SEED,
    "migrate": MIGRATE,
    "migrate --sql": READ_HISTORY,
    "rollback": MIGRATE,
    "generate": (),
    "push": MIGRATE,
    "check": (*READ_HISTORY, *READ_RECORD, _ENTER),
    "lint": (),
    "distribute": (*READ_HISTORY, *_OWN_TABLES),
    "doctor": CONNECT,
    "roles": CONNECT,
    "backup": (Need("REPLICATION", "role"),),
    "backup --logical": DUMP,
    "move plan": _COMPARE,
    "move copy": _MOVE,
    "move counts": _COMPARE,
    "move verify": _COMPARE,
    "move status": _COMPARE,
    "studio": (*READ_HISTORY, *READ_RECORD, *READ_ROWS),
    "studio --write": (*READ_HISTORY, *READ_RECORD, *WRITE_ROWS),
}
"""The least that each command needs of the database that it works on, beside CONNECT, if it has something to do."""
