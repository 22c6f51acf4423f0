"""Foreign keys and secondary indexes of the target's tables, as its catalogue describes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from tatame_db.database.dialect import public, quoted
from tatame_db.database.keys import KeyOrIndex, keys_and_indexes
from tatame_db.errors import TatameError, fact
from tatame_db.schema import phases

if TYPE_CHECKING:
    from tatame_db.move.connection import MoveConnection


@fact
class ForeignKeyViolated(TatameError):
    """Rows of the target violate a foreign key."""

    table: str
    key: str
    reason: str
    what = "rows of {table} violate the foreign key {key}: {reason}"
    means = "The rows are stored; the key is enforced for new rows, but not validated for existing ones."
    fix = "run `tatame-db move copy` for all tables"


def target_keys_and_indexes(target: MoveConnection) -> list[KeyOrIndex]:
    """Return the foreign keys and secondary indexes of all tables of the models."""
    return keys_and_indexes(target.rows, list(phases()))


def count_keys(target: MoveConnection) -> int:
    """Count the foreign keys of all tables of the models."""
    return sum(found.kind == "key" for found in target_keys_and_indexes(target))


def unvalidated_keys(target: MoveConnection) -> list[tuple[str, str]]:
    """Return table and name of each foreign key that was not validated against the existing rows."""
    rows = target.rows(
        "SELECT c.relname, k.conname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid"
        " WHERE k.contype = 'f' AND NOT k.convalidated AND c.relnamespace = 'public'::regnamespace"
        " AND c.relname = ANY(%(tables)s) ORDER BY 1, 2",
        {"tables": list(phases())},
    )
    return [(table, name) for table, name in rows]


def validate_keys(target: MoveConnection) -> None:
    """Validate each foreign key that is not, and commit each by itself. Raises `ForeignKeyViolated`."""
    for table, key in unvalidated_keys(target):
        try:
            target.execute(f"ALTER TABLE {public(table)} VALIDATE CONSTRAINT {quoted(key)}")
        except psycopg.errors.ForeignKeyViolation as error:
            target.driver.rollback()
            raise ForeignKeyViolated(table=table, key=key, reason=str(error.diag.message_detail)) from error
        target.driver.commit()
