"""The removal of what a move created in a database: each object in a transaction of its own, with short waits."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from tatame_db.evolve.migrate import RETRY_PAUSES_SECONDS
from tatame_db.move.record import SCHEMA
from tatame_db.move.switch.fence import FENCE_LOCK_TIMEOUT_MS, relations_of, words_of
from tatame_db.schema import phases

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.switch.fence import Relation


@dataclass(frozen=True)
class Removal:
    """An object that was removed, or could not be: then `reason` says why."""

    database: str
    kind: str
    name: str
    reason: str | None = None

    def __str__(self) -> str:
        place = f"{self.kind} {self.name} of the {self.database}"
        return f"{place}: {self.reason}" if self.reason else place


def remove(
    connection: MoveConnection, token_hash: str | None = None, *, kept: Collection[str] = ()
) -> Iterator[Removal]:
    """Remove the fences of this database, except for those of the tables in `kept`, and then their function.

    With `token_hash`, only those that this token passes. Commits after each table, so that no reader waits for long;
    what cannot be removed is named and left.
    """
    words = words_of(connection)
    tables: defaultdict[str, list[Relation]] = defaultdict(list)
    for relation in relations_of(connection, phases()):
        # The triggers of rows of a partition go with those of the whole table.
        if relation.hashes and token_hash in (None, *relation.hashes) and relation.table not in kept:
            tables[relation.table].append(relation)
    connection.driver.rollback()
    for table, parts in tables.items():
        statements = [
            f"DROP TRIGGER IF EXISTS {trigger} ON {part.sql}"
            for part in parts
            for trigger in (words.triggers if part.is_root else [words.trigger])
        ]
        yield from removal(connection, "triggers", table, statements)
    function = f"{SCHEMA}.{words.function}"
    if connection.rows(_FUNCTION, {"schema": SCHEMA, "name": words.function}):
        # Another target may have triggers that call it.
        [used] = connection.row(f"SELECT EXISTS (SELECT FROM pg_trigger WHERE tgfoid = '{function}'::regproc)")
        connection.driver.rollback()
        if not used:
            yield from removal(connection, "function", function, [f"DROP FUNCTION {function}()"])
    connection.driver.rollback()


def drop_schema_if_empty(connection: MoveConnection) -> Iterator[Removal]:
    """Drop the schema of the move if nothing is in it; commits."""
    is_empty = connection.rows(_EMPTY_SCHEMA, {"schema": SCHEMA})
    connection.driver.rollback()
    if is_empty:
        yield from removal(connection, "schema", SCHEMA, [f"DROP SCHEMA {SCHEMA}"])


def removal(connection: MoveConnection, kind: str, name: str, statements: list[str]) -> Iterator[Removal]:
    """Remove an object by statements in one transaction, with short waits for locks, several times if need be."""
    for pause in (*RETRY_PAUSES_SECONDS[:3], None):
        connection.pin_settings(for_transaction=True)
        connection.execute(f"SET LOCAL lock_timeout = {FENCE_LOCK_TIMEOUT_MS}")
        try:
            for statement in statements:
                connection.execute(statement)
        except psycopg.Error as error:
            if connection.driver.closed:
                raise
            connection.driver.rollback()
            if pause is not None and isinstance(error, psycopg.errors.LockNotAvailable):
                time.sleep(pause)
                continue
            yield Removal(connection.name, kind, name, str(error.diag.message_primary))
            return
        connection.commit()
        yield Removal(connection.name, kind, name)
        return


_FUNCTION = """
SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = %(schema)s AND p.proname = %(name)s
"""
_EMPTY_SCHEMA = """
SELECT FROM pg_namespace n WHERE n.nspname = %(schema)s
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid)
"""
