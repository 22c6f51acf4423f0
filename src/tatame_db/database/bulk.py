"""Writing many rows at once: keys and indexes are dropped before and restored afterwards, then the sequence is set.

Everything here happens inside the transaction of the caller.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from tatame_db.database.dialect import quoted, quoted_table

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from sqlalchemy import Connection, Table

# Indexes first, so that each key finds the index that it needs when they are restored in this order.
_SECONDARY = """
SELECT 'index', t.relname, x.relname, NULL, pg_get_indexdef(i.indexrelid),
    format('DROP INDEX %s', i.indexrelid::regclass), pg_get_indexdef(i.indexrelid)
FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
WHERE t.oid = ANY($1::regclass[])
    AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.oid AND k.conrelid = t.oid)
UNION ALL
SELECT 'key', t.relname, k.conname, p.relname, pg_get_constraintdef(k.oid),
    format('ALTER TABLE %s DROP CONSTRAINT %I', t.oid::regclass, k.conname),
    format('ALTER TABLE %s ADD CONSTRAINT %I %s', t.oid::regclass, k.conname, pg_get_constraintdef(k.oid))
FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid JOIN pg_class p ON p.oid = k.confrelid
WHERE k.contype = 'f' AND t.oid = ANY($1::regclass[])
ORDER BY 1, 2, 3
"""


@dataclass(frozen=True)
class SecondaryObject:
    """A foreign key, or an index that backs no constraint: rows can be written without it.

    It is as the database has it, which may differ from the models. `kind` is `key` or `index`, `parent` the table that
    a key refers to; `drop` and `create` are statements.
    """

    kind: str
    table: str
    name: str
    parent: str | None
    definition: str
    drop: str
    create: str


def secondary_objects(connection: psycopg.Connection[Any], tables: Sequence[Table]) -> list[SecondaryObject]:
    """Return the foreign keys and secondary indexes of these tables, in the order in which to create them."""
    # A raw cursor, because the statement writes `%` itself.
    with psycopg.RawCursor(connection) as cursor:
        cursor.execute(_SECONDARY, [[quoted_table(table) for table in tables]])
        return [SecondaryObject(*row) for row in cursor]


@contextmanager
def without_secondary_objects(connection: psycopg.Connection[Any], table: Table) -> Generator[None]:
    """Drop the foreign keys and secondary indexes of a table, and create the same ones again at the end.

    A million rows are written in a fifth of the time. An error restores nothing: the caller has to roll back.
    """
    dropped = secondary_objects(connection, [table])
    for item in reversed(dropped):
        connection.execute(item.drop.encode())
    yield
    for item in dropped:
        connection.execute(item.create.encode())


def truncate(connection: Connection, tables: Sequence[Table]) -> None:
    """Delete the rows of all these tables and restart their ids at 1.

    It fails if another table refers to one of them, rather than delete the rows of that table.
    """
    names = ", ".join(map(quoted_table, tables))
    connection.exec_driver_sql(f"TRUNCATE {names} RESTART IDENTITY", execution_options={"no_parameters": True})


def set_sequence(connection: psycopg.Connection[Any], table: Table) -> None:
    """Set the sequence of a table behind its highest id; PostgreSQL does not undo this at a rollback."""
    column = table.autoincrement_column
    if column is None:
        return
    name, highest = quoted_table(table), f"max({quoted(column.name)})"
    # In an empty table the first id is 1, which "the last id was 0" cannot express: a sequence has no 0.
    connection.execute(
        f"SELECT setval(pg_get_serial_sequence(%s, %s), greatest({highest}, 1), {highest} IS NOT NULL)"  # noqa: S608, quoted
        f" FROM {name}".encode(),
        [name, column.name],
    )
