"""Foreign keys and secondary indexes of the target's tables, as its catalogue describes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from tatame_db.database.dialect import public, quoted
from tatame_db.database.keys import KeyOrIndex, keys_and_indexes
from tatame_db.errors import TatameError, counted, fact
from tatame_db.move.target import column_names, keys_of_models, own_keys
from tatame_db.schema import Base, phases

if TYPE_CHECKING:
    from collections.abc import Collection

    from tatame_db.move.connection import MoveConnection


@fact
class ForeignKeyViolated(TatameError):
    """Rows of the target violate foreign keys; `violations` has a sentence for each."""

    violations: list[str]
    what = "rows of the target violate foreign keys: {violations}"
    means = "The rows are stored; the keys are enforced for new rows, but not validated for existing ones."
    fix = "run `tatame-db move copy` for all tables"


@fact
class KeysDisabled(TatameError):
    """Foreign keys of the target do not apply: `pg_restore --disable-triggers` disables them, `NOT ENFORCED` too."""

    disabled: list[str]
    not_enforced: list[str]
    what = "foreign keys of the target are disabled: {names}"
    means = "The target accepts rows that violate them, so nothing can be proven."
    fix = "{advice}, then run the command again"

    @property
    def names(self) -> list[str]:
        """The keys of both kinds."""
        return [*self.disabled, *(f"{key} (NOT ENFORCED)" for key in self.not_enforced)]

    @property
    def advice(self) -> str:
        """The statements that let the keys apply."""
        triggers = "let a superuser run `ALTER TABLE … ENABLE TRIGGER ALL` for these tables"
        enforce = "run `ALTER TABLE … ALTER CONSTRAINT … ENFORCED` for each key that is NOT ENFORCED"
        return " and ".join([triggers] * bool(self.disabled) + [enforce] * bool(self.not_enforced))


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


def disabled_keys(target: MoveConnection) -> list[tuple[str, str]]:
    """Return table and name of each foreign key of the tables of the models whose triggers do not run."""
    rows = target.rows(
        "SELECT DISTINCT c.relname::text, k.conname::text FROM pg_trigger t JOIN pg_constraint k"
        " ON k.oid = t.tgconstraint JOIN pg_class c ON c.oid = k.conrelid"
        " WHERE t.tgisinternal AND k.contype = 'f' AND t.tgenabled NOT IN ('O', 'A')"
        " AND c.relnamespace = 'public'::regnamespace AND c.relname = ANY(%(names)s) ORDER BY 1, 2",
        {"names": list(phases())},
    )
    return [(table, key) for table, key in rows]


def not_enforced_keys(target: MoveConnection) -> list[tuple[str, str]]:
    """Return table and name of each foreign key that the models have, and the target only as `NOT ENFORCED`."""
    in_models = keys_of_models()
    rows = target.rows(_NOT_ENFORCED, {"tables": list(phases())})
    return [
        (table, name)
        for table, name, columns, parent, parent_columns in rows
        if (table, tuple(columns), parent, tuple(parent_columns)) in in_models
    ]


def refuse_disabled_keys(target: MoveConnection, parked: Collection[str] = ()) -> None:
    """Raise `KeysDisabled` if a foreign key of the tables of the models does not apply.

    `parked` are dropped, and one of them may be the key that applies beside one that is not enforced.
    """
    disabled, not_enforced = disabled_keys(target), [] if parked else not_enforced_keys(target)
    if disabled or not_enforced:
        raise KeysDisabled(disabled=list(map(".".join, disabled)), not_enforced=list(map(".".join, not_enforced)))


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
        target.commit()
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
_NOT_ENFORCED = f"""
SELECT c.relname::text, k.conname::text, {column_names("k.conrelid", "k.conkey")}, p.relname::text,
    {column_names("k.confrelid", "k.confkey")}
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class p ON p.oid = k.confrelid
WHERE k.contype = 'f' AND k.conparentid = 0 AND c.relnamespace = 'public'::regnamespace AND c.relname = ANY(%(tables)s)
    AND p.relnamespace = 'public'::regnamespace AND pg_get_constraintdef(k.oid) LIKE '%% NOT ENFORCED'
    AND NOT EXISTS (
        SELECT FROM pg_constraint o WHERE o.contype = 'f' AND (o.conrelid, o.conkey, o.confrelid, o.confkey)
            = (k.conrelid, k.conkey, k.confrelid, k.confkey) AND pg_get_constraintdef(o.oid) NOT LIKE '%% NOT ENFORCED'
    )
ORDER BY 1, 2
"""
