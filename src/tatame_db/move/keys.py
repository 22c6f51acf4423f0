"""Foreign keys and secondary indexes of the target's tables, as its catalogue describes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import psycopg

from tatame_db.database.dialect import quoted
from tatame_db.errors import TatameError, fact
from tatame_db.move.sql import public
from tatame_db.schema import phases

if TYPE_CHECKING:
    from tatame_db.move.connection import MoveConnection

_OF_THE_MODELS = "c.relnamespace = 'public'::regnamespace AND c.relname = ANY(%(tables)s)"
_KEYS = f"""
SELECT 'key', c.relname, k.conname, pg_get_constraintdef(k.oid), p.relname
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class p ON p.oid = k.confrelid
WHERE k.contype = 'f' AND {_OF_THE_MODELS}
"""
_INDEXES = f"""
SELECT 'index', c.relname, x.relname, pg_get_indexdef(i.indexrelid), NULL
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
WHERE {_OF_THE_MODELS}
    AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = c.oid)
"""


@fact
class ForeignKeyViolated(TatameError):
    """Rows of the target violate a foreign key."""

    table: str
    key: str
    reason: str
    what = "rows of {table} violate the foreign key {key}: {reason}"
    means = "The rows are stored; the key is enforced for new rows, and not validated for the others."
    fix = "run `tatame-db move copy` for all tables"


@dataclass(frozen=True)
class KeyOrIndex:
    """A foreign key, or an index that belongs to no constraint; `parent` is the table that a key refers to."""

    kind: Literal["key", "index"]
    table: str
    name: str
    definition: str
    parent: str | None = None

    @property
    def drop_statement(self) -> str:
        """The statement that drops it."""
        if self.kind == "key":
            return f"ALTER TABLE {public(self.table)} DROP CONSTRAINT {quoted(self.name)}"
        return f"DROP INDEX {public(self.name)}"

    @property
    def create_statement(self) -> str:
        """The statement that creates it again; a key is not validated, so that existing rows are not read."""
        if self.kind == "index":
            return self.definition
        definition = self.definition.removesuffix(" NOT VALID")
        return f"ALTER TABLE {public(self.table)} ADD CONSTRAINT {quoted(self.name)} {definition} NOT VALID"


def keys_and_indexes(target: MoveConnection) -> list[KeyOrIndex]:
    """Return the foreign keys and secondary indexes of all tables of the models."""
    return [KeyOrIndex(*row) for row in target.rows(f"{_KEYS} UNION ALL {_INDEXES}", _tables())]


def count_keys(target: MoveConnection) -> int:
    """Count the foreign keys of all tables of the models."""
    [(count,)] = target.rows(f"SELECT count(*) FROM ({_KEYS}) AS keys", _tables())
    return int(count)


def unvalidated_keys(target: MoveConnection) -> list[tuple[str, str]]:
    """Return table and name of each foreign key that was not validated against the existing rows."""
    rows = target.rows(
        "SELECT c.relname, k.conname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid"
        f" WHERE k.contype = 'f' AND NOT k.convalidated AND {_OF_THE_MODELS} ORDER BY 1, 2",
        _tables(),
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


def _tables() -> dict[str, Any]:
    return {"tables": list(phases())}
