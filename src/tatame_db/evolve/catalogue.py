"""The schema of a database as PostgreSQL's catalogue describes it, as text that can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy import Connection

# The objects of an extension come and go with the extension.
_NOT_OF_AN_EXTENSION = "AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = {oid} AND d.deptype = 'e')"

_QUERIES = (
    # A partitioned or unlogged table, or row-level security, is a manual change.
    f"""
    SELECT 'table ' || c.relname,
        concat_ws(' ',
            CASE c.relkind WHEN 'p' THEN 'partitioned' ELSE 'plain' END,
            CASE c.relpersistence WHEN 'u' THEN 'unlogged' WHEN 't' THEN 'temporary' END,
            CASE WHEN c.relrowsecurity THEN 'with row-level security' END)
    FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') {_NOT_OF_AN_EXTENSION.format(oid="c.oid")}
    """,
    f"""
    SELECT 'column ' || c.relname || '.' || a.attname,
        concat_ws(' ',
            format_type(a.atttypid, a.atttypmod),
            CASE WHEN a.attcollation <> t.typcollation THEN 'COLLATE ' || a.attcollation::regcollation END,
            CASE WHEN a.attnotnull THEN 'NOT NULL' END,
            CASE a.attidentity WHEN 'a' THEN 'IDENTITY ALWAYS' WHEN 'd' THEN 'IDENTITY' END,
            CASE WHEN a.attgenerated <> '' THEN 'GENERATED' WHEN d.oid IS NOT NULL THEN 'DEFAULT' END
                || ' ' || pg_get_expr(d.adbin, d.adrelid))
    FROM pg_attribute a
    JOIN pg_class c ON c.oid = a.attrelid
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
        {_NOT_OF_AN_EXTENSION.format(oid="c.oid")}
    """,
    # PostgreSQL 18 lists NOT NULL among the constraints; here it belongs to the column.
    f"""
    SELECT 'constraint ' || c.relname || '.' || k.conname, pg_get_constraintdef(k.oid)
    FROM pg_constraint k
    JOIN pg_class c ON c.oid = k.conrelid
    WHERE c.relnamespace = 'public'::regnamespace AND k.contype <> 'n' {_NOT_OF_AN_EXTENSION.format(oid="c.oid")}
    """,
    f"""
    SELECT 'index ' || i.indexrelid::regclass,
        pg_get_indexdef(i.indexrelid) || CASE WHEN i.indisvalid THEN '' ELSE ' INVALID' END
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indrelid
    WHERE c.relnamespace = 'public'::regnamespace {_NOT_OF_AN_EXTENSION.format(oid="c.oid")}
        AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = i.indrelid)
    """,
    f"""
    SELECT 'sequence ' || c.relname,
        concat_ws(' ', format_type(s.seqtypid, NULL), 'by', s.seqincrement::text, 'of',
            (SELECT d.refobjid::regclass || '.' || a.attname
             FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
             WHERE d.objid = c.oid AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0))
    FROM pg_sequence s
    JOIN pg_class c ON c.oid = s.seqrelid
    WHERE c.relnamespace = 'public'::regnamespace {_NOT_OF_AN_EXTENSION.format(oid="c.oid")}
    """,
    f"""
    SELECT 'enum ' || t.typname, string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
    FROM pg_type t
    JOIN pg_enum e ON e.enumtypid = t.oid
    WHERE t.typnamespace = 'public'::regnamespace {_NOT_OF_AN_EXTENSION.format(oid="t.oid")}
    GROUP BY t.typname
    """,
    f"""
    SELECT CASE c.relkind WHEN 'm' THEN 'materialized view ' ELSE 'view ' END || c.relname, pg_get_viewdef(c.oid)
    FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('v', 'm') {_NOT_OF_AN_EXTENSION.format(oid="c.oid")}
    """,
    f"""
    SELECT 'function ' || p.oid::regprocedure, pg_get_functiondef(p.oid)
    FROM pg_proc p
    WHERE p.pronamespace = 'public'::regnamespace AND p.prokind IN ('f', 'p') {_NOT_OF_AN_EXTENSION.format(oid="p.oid")}
    """,
    """
    SELECT 'trigger ' || c.relname || '.' || t.tgname, pg_get_triggerdef(t.oid)
        || CASE WHEN t.tgenabled = 'O' THEN '' ELSE ' NOT ALWAYS ENABLED' END
    FROM pg_trigger t
    JOIN pg_class c ON c.oid = t.tgrelid
    WHERE c.relnamespace = 'public'::regnamespace AND NOT t.tgisinternal
    """,
)


@dataclass(frozen=True)
class SchemaDifference:
    """An object that differs between two schemas; `None` where it does not exist."""

    name: str
    expected: str | None
    found: str | None

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.name} is missing: {self.expected}"
        if self.expected is None:
            return f"{self.name} is not expected: {self.found}"
        return f"{self.name} differs\n    expected: {self.expected}\n    found:    {self.found}"


def read(connection: Connection) -> dict[str, str]:
    """Return the name and the definition of every object in the schema `public`. Runs in the open transaction."""
    # PostgreSQL omits the schema of a name that `search_path` finds, so the path has to be the same in every session.
    connection.execute(text("SET LOCAL search_path = pg_catalog, public"))
    connection.execute(text("SET LOCAL quote_all_identifiers = off"))
    return {str(name): str(definition) for query in _QUERIES for name, definition in connection.execute(text(query))}


def differences(expected: dict[str, str], found: dict[str, str]) -> list[SchemaDifference]:
    """Compare two catalogues; differences are sorted by name."""
    return [
        SchemaDifference(name, expected.get(name), found.get(name))
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
