"""Foreign keys and secondary indexes, as the catalogue describes them: rows are written faster without them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tatame_db.database.dialect import public, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    import psycopg

    Rows = Callable[[str, dict[str, Any]], list[tuple[Any, ...]]]

# What an index has beside its definition, as statements that restore it. They are run with parameters, hence the `%%`.
_INDEX_ATTRIBUTES = """
    array_remove(ARRAY[
        (SELECT format('ALTER INDEX public.%%I SET TABLESPACE %%I', x.relname, s.spcname)
            FROM pg_tablespace s WHERE s.oid = x.reltablespace),
        CASE WHEN i.indisclustered
            THEN format('ALTER TABLE public.%%I CLUSTER ON %%I', t.relname, x.relname) END,
        CASE WHEN i.indisreplident
            THEN format('ALTER TABLE public.%%I REPLICA IDENTITY USING INDEX %%I', t.relname, x.relname) END,
        format('COMMENT ON INDEX public.%%I IS ', x.relname) || quote_literal(obj_description(x.oid, 'pg_class'))
    ], NULL) || ARRAY(
        SELECT format('ALTER INDEX public.%%I ALTER %%s SET STATISTICS %%s', x.relname, a.attnum, a.attstattarget)
        FROM pg_attribute a WHERE a.attrelid = x.oid AND a.attstattarget >= 0
    )"""
_CONSTRAINT_ATTRIBUTES = """
    array_remove(ARRAY[
        format('COMMENT ON CONSTRAINT %%I ON public.%%I IS ', k.conname, t.relname)
            || quote_literal(obj_description(k.oid, 'pg_constraint'))
    ], NULL)"""
_QUERY = f"""
SELECT 'index', t.relname, x.relname, pg_get_indexdef(i.indexrelid), {_INDEX_ATTRIBUTES}, NULL
FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
WHERE t.relnamespace = 'public'::regnamespace AND t.relname = ANY(%(tables)s)
    -- A unique index rejects rows, so it has to be there while they are written. One that is invalid, that depends on
    -- an extension, or that has parts in partitions would not come back as it was.
    AND NOT i.indisunique AND i.indisvalid AND x.relkind = 'i'
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = x.oid AND d.deptype = 'x')
    AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = t.oid)
UNION ALL
SELECT 'key', t.relname, k.conname, pg_get_constraintdef(k.oid), {_CONSTRAINT_ATTRIBUTES}, p.relname
FROM pg_constraint k JOIN pg_class t ON t.oid = k.conrelid JOIN pg_class p ON p.oid = k.confrelid
WHERE k.contype = 'f' AND t.relnamespace = 'public'::regnamespace AND t.relname = ANY(%(tables)s)
-- A key may need a unique index of the table that it refers to, so it is created after all indexes.
ORDER BY 1, 2, 3
"""  # noqa: S608, constants
_UNIQUE = f"""
SELECT CASE WHEN k.oid IS NULL THEN 'index' ELSE 'key' END, t.relname, x.relname,
    coalesce(pg_get_constraintdef(k.oid), pg_get_indexdef(i.indexrelid)),
    {_INDEX_ATTRIBUTES} || CASE WHEN k.oid IS NOT NULL THEN {_CONSTRAINT_ATTRIBUTES} END, NULL
FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = t.oid AND k.contype = 'u'
WHERE t.relnamespace = 'public'::regnamespace AND t.relname = %(table)s AND x.relname = %(name)s
    AND i.indisunique AND NOT i.indisprimary
"""  # noqa: S608, constants


@dataclass(frozen=True)
class KeyOrIndex:
    """A foreign or unique key, or an index that belongs to no constraint; `parent` is the table that a key refers to.

    `attributes` are statements that restore what it has beside its definition: a comment, a tablespace, marks.
    """

    kind: Literal["key", "index"]
    table: str
    name: str
    definition: str
    attributes: list[str] = field(default_factory=list[str])
    parent: str | None = None

    @property
    def drop_statement(self) -> str:
        """The statement that drops it."""
        if self.kind == "key":
            return f"ALTER TABLE {public(self.table)} DROP CONSTRAINT {quoted(self.name)}"
        return f"DROP INDEX {public(self.name)}"

    @property
    def create_statements(self) -> list[str]:
        """The statements that create it again as it was; a key is validated if it was."""
        return [self._create_statement, *self.attributes]

    @property
    def create_unvalidated_statements(self) -> list[str]:
        """The statements that create it again, a foreign key without reading the rows that exist."""
        return [self._create_statement + (" NOT VALID" if self.is_validated else ""), *self.attributes]

    @property
    def is_validated(self) -> bool:
        """Whether it is a foreign key that holds for all rows, those that existed before it included."""
        return self.kind == "key" and self.is_enforced and not self.definition.endswith(" NOT VALID")

    @property
    def is_enforced(self) -> bool:
        """Whether it applies to rows at all; PostgreSQL 18 has foreign keys that do not."""
        return not self.definition.endswith(" NOT ENFORCED")

    @property
    def _create_statement(self) -> str:
        if self.kind == "index":
            return self.definition
        return f"ALTER TABLE {public(self.table)} ADD CONSTRAINT {quoted(self.name)} {self.definition}"


def keys_and_indexes(rows: Rows, tables: Sequence[str]) -> list[KeyOrIndex]:
    """Return the foreign keys and secondary indexes of these tables, in an order in which they can be created.

    `rows` runs a query with named parameters and returns its rows.
    """
    return [KeyOrIndex(*row) for row in rows(_QUERY, {"tables": list(tables)})]


def unique_key_or_index(rows: Rows, table: str, name: str) -> KeyOrIndex | None:
    """Return the unique key or index of this name, unless it is the primary key."""
    found = rows(_UNIQUE, {"table": table, "name": name})
    return KeyOrIndex(*found[0]) if found else None


@contextmanager
def without_keys_and_indexes(connection: psycopg.Connection[Any], table: str) -> Generator[None]:
    """Drop the foreign keys and secondary indexes of a table, and create the same ones again at the end.

    A million rows are written in a fifth of the time. An error restores nothing: the caller has to roll back.
    """
    found = keys_and_indexes(lambda query, names: connection.execute(query.encode(), names).fetchall(), [table])
    for item in found:
        connection.execute(item.drop_statement.encode())
    yield
    for item in found:
        for statement in item.create_statements:
            connection.execute(statement.encode())
