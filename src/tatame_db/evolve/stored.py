"""Where a database stores values: its schemas, types, tables and columns, by their addresses in the catalogue."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tatame_db.database.dialect import SCHEMA, VERSION_SCHEMA
from tatame_db.evolve.catalogue import Address, run_verbatim

if TYPE_CHECKING:
    from sqlalchemy import Connection

NOTES_SCHEMA = "tatame_effects"
"""The schema of a scratch database in which the effects of steps are noted."""
OWN_SCHEMAS = (VERSION_SCHEMA, NOTES_SCHEMA)
"""The schemas that belong to migrations, and hold no value of an app."""

# A column has the type of its array's elements, of its domain's base, or of its row's attributes, as far as values go.
_QUERY = """
    WITH relations AS (
        SELECT c.oid, n.nspname, c.relname, CASE c.relkind WHEN 'c' THEN 'attribute' ELSE 'column' END AS part
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'c') AND c.relpersistence <> 't'
    )
    SELECT 'schema', 'pg_namespace'::regclass::oid, oid, 0, nspname::text, '', '', 0::oid, 0, 0::oid, false, '', ''
    FROM pg_namespace WHERE oid >= 16384 OR nspname = 'public'
    UNION ALL
    SELECT 'type', 'pg_type'::regclass::oid, t.oid, 0, n.nspname, t.typname, '', 0, 0, 0, false, '', ''
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE t.oid >= 16384 AND t.typcategory <> 'A' AND n.nspname !~ '^pg_t'
    UNION ALL
    SELECT 'table', 'pg_class'::regclass::oid, oid, 0, nspname, relname, '', 0, 0, 0, false, '', ''
    FROM relations WHERE part = 'column'
    UNION ALL
    SELECT r.part, 'pg_class'::regclass::oid, r.oid, a.attnum, r.nspname, r.relname, a.attname,
        a.atttypid, a.atttypmod, e.oid, e.typtype = 'e', format_type(a.atttypid, a.atttypmod),
        CASE e.typtype
            WHEN 'd' THEN format_type(e.typbasetype, e.typtypmod)
            WHEN 'c' THEN (SELECT '(' || string_agg(p.attname || ' ' || format_type(p.atttypid, p.atttypmod), ', '
                ORDER BY p.attnum) || ')' FROM pg_attribute p
                WHERE p.attrelid = e.typrelid AND p.attnum > 0 AND NOT p.attisdropped)
            ELSE format_type(e.oid, a.atttypmod)
        END || CASE WHEN e.oid <> t.oid THEN '[]' ELSE '' END
    FROM relations r
    JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    JOIN pg_type t ON t.oid = a.atttypid
    JOIN pg_type e ON e.oid = CASE t.typcategory WHEN 'A' THEN t.typelem ELSE t.oid END
"""


class Name(NamedTuple):
    """What an object is called; `table` is the name of a type too, and `column` that of an attribute."""

    kind: str
    schema: str
    table: str = ""
    column: str = ""

    def __str__(self) -> str:
        schema = "" if self.schema == SCHEMA and self.table else self.schema
        return ".".join(filter(None, (schema, self.table, self.column)))

    @property
    def whole(self) -> Name:
        """The table of a column, or the type of an attribute."""
        return Name("table" if self.kind == "column" else "type", self.schema, self.table)


@dataclass(frozen=True)
class Stored:
    """A schema, type, table, column, or attribute of a composite type; computed columns store nothing of their own."""

    name: Name
    type_id: tuple[int, int] = (0, 0)
    """The type of a column and its modifier."""
    type: str = ""
    underlying: str = ""
    """The type of a column's values: the base of a domain, the attributes of a composite type."""
    element: int = 0
    """The type of a column, or of the elements of its array."""
    is_enum: bool = False
    """Whether that is an enum."""


@dataclass(frozen=True)
class Storage:
    """All that stores values in a database, without PostgreSQL's own schemas."""

    objects: dict[Address, Stored]
    addresses: dict[Name, Address]
    """The same by name, without the record of the migrations."""
    tables: dict[int, Name]
    """The tables by oid."""


def read(connection: Connection) -> Storage:
    """Read the catalogue; waits for no lock, and needs no privilege."""
    objects: dict[Address, Stored] = {}
    for row in run_verbatim(connection, _QUERY):
        kind, catalogue, oid, number, schema, table, column, *types = tuple(row)
        type_oid, modifier, element, is_enum, type_name, underlying = types
        name = Name(kind, schema, table, column)
        objects[catalogue, oid, number] = Stored(name, (type_oid, modifier), type_name, underlying, element, is_enum)
    addresses = {found.name: address for address, found in objects.items() if found.name.schema not in OWN_SCHEMAS}
    tables = {address[1]: name for name, address in addresses.items() if name.kind == "table"}
    return Storage(objects, addresses, tables)


def plain_names(written: str) -> tuple[str, ...]:
    """Split a name as SQL writes it, with schema and quotes, into its parts as the catalogue has them."""
    parts = re.findall(r'"(?:[^"]|"")*"|[^\s."]+', written)
    return tuple(part[1:-1].replace('""', '"') if part[0] == '"' else part.lower() for part in parts)
