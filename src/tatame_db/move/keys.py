"""Foreign keys and secondary indexes of the target's tables, as its catalogue describes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from tatame_db.database.dialect import public, quoted
from tatame_db.database.keys import KeyOrIndex, keys_and_indexes
from tatame_db.errors import TatameError, counted, fact
from tatame_db.move.target import column_names, own_keys
from tatame_db.schema import Base, phases

if TYPE_CHECKING:
    from tatame_db.move.connection import MoveConnection


@fact
class ForeignKeyViolated(TatameError):
    """Rows of the target violate foreign keys; `violations` has a sentence for each."""

    violations: list[str]
    what = "rows of the target violate foreign keys: {violations}"
    means = "The rows are stored; the keys are enforced for new rows, but not validated for existing ones."
    fix = "run `tatame-db move copy` for all tables"


def model_keys_and_indexes(target: MoveConnection) -> list[KeyOrIndex]:
    """Return the foreign keys and secondary indexes that the models have, in an order in which they can be created.

    A foreign key is that of the models if it has the same columns, whatever its name. One that is not enforced rejects
    nothing, so it is no part of this.
    """
    tables = Base.metadata.tables
    own = {(key.table, key.name) for key in own_keys(target) if key.is_of_models}
    return [
        found
        for found in keys_and_indexes(target.rows, list(phases()))
        if (
            found.name in {index.name for index in tables[found.table].indexes}
            if found.kind == "index"
            else found.parent in phases() and (found.table, found.name) not in own and found.is_enforced
        )
    ]


def count_keys(target: MoveConnection) -> int:
    """Count the foreign keys of the models, and of no others."""
    return sum(found.kind == "key" for found in model_keys_and_indexes(target))


def unvalidated_keys(target: MoveConnection) -> list[tuple[str, str]]:
    """Return table and name of each foreign key of the models that was not validated against the existing rows."""
    found = model_keys_and_indexes(target)
    return [(key.table, key.name) for key in found if key.kind == "key" and not key.is_validated]


def validate_keys(target: MoveConnection) -> None:
    """Validate each foreign key of the models that is not, and commit each by itself. Raises `ForeignKeyViolated`."""
    violations: list[str] = []
    for table, key in unvalidated_keys(target):
        try:
            target.execute(f"ALTER TABLE {public(table)} VALIDATE CONSTRAINT {quoted(key)}")
        except psycopg.errors.ForeignKeyViolation:
            target.driver.rollback()
            violations.append(f"{counted(_violating_rows(target, table, key), 'row')} of {table} violate {key}")
        target.driver.commit()
    if violations:
        raise ForeignKeyViolated(violations=violations)


def _violating_rows(target: MoveConnection, table: str, key: str) -> int:
    [(columns, parent, parent_columns)] = target.rows(_KEY, {"table": table, "key": key})
    # A row with a NULL in it refers to nothing.
    conditions = [f"c.{quoted(column)} IS NOT NULL" for column in columns]
    pairs = " AND ".join(
        f"p.{quoted(other)} = c.{quoted(column)}" for column, other in zip(columns, parent_columns, strict=True)
    )
    conditions.append(f"NOT EXISTS (SELECT FROM {public(parent)} AS p WHERE {pairs})")
    [rows] = target.row(f"SELECT count(*) FROM {public(table)} AS c WHERE {' AND '.join(conditions)}")
    return int(rows)


_KEY = f"""
SELECT {column_names("k.conrelid", "k.conkey")}, p.relname, {column_names("k.confrelid", "k.confkey")}
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class p ON p.oid = k.confrelid
WHERE k.contype = 'f' AND c.relnamespace = 'public'::regnamespace AND c.relname = %(table)s AND k.conname = %(key)s
"""
