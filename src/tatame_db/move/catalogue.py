"""The tables of both databases, as their catalogues describe them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tatame_db.database.dialect import literal, public
from tatame_db.errors import TatameError, fact

if TYPE_CHECKING:
    from collections.abc import Collection

    from tatame_db.move.connection import MoveConnection


@fact
class SourceUnreadable(TatameError):
    """The role may not read all rows of some tables, which would look empty or smaller than they are."""

    role: str
    forbidden: list[str] = field(default_factory=list[str])
    hidden: list[str] = field(default_factory=list[str])
    schema: str | None = None
    """A schema without USAGE."""
    reason: str | None = None
    """PostgreSQL's own."""
    what = "the role {role} cannot read the whole source: {reasons}"
    fix = (
        "set `SUPABASE_DB_URL` to a role with SELECT on all tables and sequences, and BYPASSRLS, such as Supabase's own"
        " `postgres`"
    )

    @property
    def reasons(self) -> str:
        """Why the tables cannot be read."""
        reasons = [f"no USAGE on the schema {self.schema}"] if self.schema else []
        reasons += [self.reason] if self.reason else []
        reasons += [f"no SELECT on {', '.join(self.forbidden)}"] if self.forbidden else []
        reasons += [f"row-level security may hide rows of {', '.join(self.hidden)}"] if self.hidden else []
        return "; ".join(reasons)


@dataclass(frozen=True)
class SourceColumn:
    """A column of the source. `kind` is its type without a length; for a domain, the type that it is based on."""

    name: str
    kind: str
    """For a cast: a type that has one character or bit unless a length is stated is written as one without a length."""
    not_null: bool
    unique: bool
    deterministic: bool
    """Whether its collation calls two texts equal only if they are the same."""

    @property
    def type_name(self) -> str:
        """The type for a person."""
        return self.kind.replace("bpchar", "character").replace('"bit"', "bit")


@dataclass(frozen=True)
class SourceTable:
    """A table of the source, or a view that stands for one."""

    name: str
    kind: str
    """`table`, `partitioned table`, `view`, `materialized view` or `foreign table`."""
    columns: dict[str, SourceColumn]
    size_bytes: int | None
    """`None` for a view or a foreign table, whose rows are elsewhere."""

    @property
    def sql(self) -> str:
        """Its name in a query, which sees only its own rows: a table that inherits from it is a table of its own."""
        return only(self.name) if self.kind == "table" else public(self.name)


def only(name: str) -> str:
    """Return the name of a table in a query that does not see the rows of the tables that inherit from it."""
    return f"ONLY {public(name)}"


def read_source_tables(source: MoveConnection, target_names: Collection[str]) -> dict[str, SourceTable]:
    """Read all tables of the schema `public` by name, and views only if a target table has their name.

    Raises `SourceUnreadable`.
    """
    rows = source.rows(_CATALOGUE, {"target_names": list(target_names)})
    forbidden = sorted({row[0] for row in rows if not row[2]})
    hidden = sorted({row[0] for row in rows if row[2] and row[3]})
    if forbidden or hidden:
        [role] = source.row("SELECT current_user")
        raise SourceUnreadable(role=role, forbidden=forbidden, hidden=hidden)
    tables: dict[str, SourceTable] = {}
    for name, kind, _, _, size_bytes, *column in rows:
        table = tables.setdefault(name, SourceTable(name, kind, {}, size_bytes))
        if column[0] is not None:
            table.columns[column[0]] = SourceColumn(*column)
    return tables


def read_views(source: MoveConnection, target_names: Collection[str]) -> list[str]:
    """Return the target tables that are filled from a view or a foreign table, which may hide rows or show old ones."""
    if source.rest:
        return source.rest.read_views
    rows = source.rows(
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('public') AND relkind IN ('v', 'm', 'f')"
        " AND relname = ANY(%(target_names)s) ORDER BY relname",
        {"target_names": list(target_names)},
    )
    return [row[0] for row in rows]


# The tables to read, as `c`.
TABLES = """
    c.relnamespace = to_regnamespace('public') AND NOT c.relispartition
    -- The rows of other views are counted in the tables that they read.
    AND (c.relkind IN ('r', 'p') OR c.relkind IN ('v', 'm', 'f') AND c.relname = ANY(%(target_names)s))
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
"""
_CATALOGUE = f"""
WITH RECURSIVE bases (type, base) AS (
    SELECT oid, oid FROM pg_type WHERE typtype <> 'd'
    UNION ALL
    SELECT t.oid, b.base FROM pg_type t JOIN bases b ON t.typbasetype = b.type WHERE t.typtype = 'd'
)
SELECT c.relname,
    CASE c.relkind
        WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
        ELSE 'foreign table'
    END,
    has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid),
    CASE c.relkind
        WHEN 'p' THEN (SELECT sum(pg_table_size(p.relid))::bigint FROM pg_partition_tree(c.oid) p)
        WHEN 'v' THEN NULL WHEN 'f' THEN NULL ELSE pg_table_size(c.oid)
    END,
    a.attname, format_type(b.base, -1),
    -- A server believes what it knows of a foreign table, and a constraint that is not validated holds for new rows.
    a.attnotnull AND c.relkind IN ('r', 'p') AND NOT EXISTS (
        SELECT FROM pg_constraint n
        WHERE n.conrelid = c.oid AND n.contype = 'n' AND n.conkey[1] = a.attnum AND NOT n.convalidated
    ),
    EXISTS (
        SELECT FROM pg_index i
        WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
            AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum
    ),
    coalesce(l.collisdeterministic, true)
FROM pg_class c
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN bases b ON b.type = a.atttypid
LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE {TABLES}
ORDER BY c.relname, a.attnum
"""


def partitioned_tables(target: MoveConnection) -> set[str]:
    """Return the names of the partitioned tables of the target, whose rows are all in other tables."""
    rows = target.rows("SELECT relname FROM pg_class WHERE relkind = 'p' AND relnamespace = to_regnamespace('public')")
    return {name for [name] in rows}


def placed_tables(connection: MoveConnection, tables: Collection[str]) -> list[str]:
    """Return those of these tables that Citus has placed on its nodes."""
    [has_citus] = connection.row("SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL")
    if not has_citus:
        return []
    rows = connection.rows(
        "SELECT relname::text FROM pg_class JOIN pg_dist_partition ON logicalrelid = oid"
        " WHERE relnamespace = to_regnamespace('public') AND relname = ANY(%(tables)s) ORDER BY relname",
        {"tables": list(tables)},
    )
    return [name for [name] in rows]


def target_column_types(target: MoveConnection, table: str) -> dict[str, str]:
    """Return the type, without a length, of each column of a table of the target."""
    rows = target.rows(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute"
        f" WHERE attrelid = {literal(public(table))}::regclass AND attnum > 0 AND NOT attisdropped"
    )
    return dict(rows)


def target_name(name: str, partitioned: Collection[str]) -> str:
    """Return the name of a table of the target in a query, which sees only its own rows."""
    return public(name) if name in partitioned else only(name)
