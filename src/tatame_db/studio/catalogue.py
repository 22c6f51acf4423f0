"""One table, view or foreign table as the catalogue describes it, and the names of all of them.

A description takes one statement over the indexes of the catalogue, however many tables the database has.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import (
    Column,
    FetchedValue,
    ForeignKeyConstraint,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    text,
)
from sqlalchemy.sql.elements import quoted_name

from tatame_db.database.dialect import SCHEMA, quoted
from tatame_db.roles.rights import grant
from tatame_db.studio.addresses import address, parsed
from tatame_db.studio.errors import TableNotFound, TableNotReadable
from tatame_db.studio.kinds import column_type

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

KINDS = {"r": "table", "p": "partitioned table", "v": "view", "m": "materialized view", "f": "foreign table"}
_REMEMBERED = 200


# --- As the catalogue describes them ----------------------------------------------------------------------------------


class _Column(msgspec.Struct, frozen=True):
    name: str
    type: str
    cast: str
    """The type to which a text is cast: of a domain its base type, and without a length, which would cut silently."""
    shape: str
    """`typtype`, and `A` for an array."""
    element: str | None
    sortable: bool
    values: list[str] | None
    required: bool
    default: str | None
    generated: str
    """`attgenerated` or `attidentity`: `s`, `v`, `a` or `d`."""
    readable: bool
    editable: bool
    insertable: bool


class _Key(msgspec.Struct, frozen=True):
    name: str
    columns: list[str]
    is_primary: bool
    identifies: bool
    """Whether each row has another value, and none is NULL."""
    is_deferrable: bool


class _Neighbour(msgspec.Struct, frozen=True):
    """A foreign key of this table or, unless it is `outward`, of another one that refers to this."""

    name: str
    outward: bool
    columns: list[str]
    schema: str
    table: str
    others: list[str]
    """The columns of the other table."""
    action: str
    """`confdeltype`: of a row that is referred to, `a` and `r` reject the deletion."""
    is_key: bool
    """Whether these are its primary key."""
    described: list[tuple[str, str]]
    """Columns of the other table that the role may read, each with the type to cast to."""


class _Described(msgspec.Struct, frozen=True):
    schema: str
    name: str
    kind: str
    role: str
    comment: str | None
    has_heirs: bool
    """Whether tables inherit from it, whose rows are among its own and may have the same key."""
    may_delete: bool
    columns: list[_Column]
    keys: list[_Key]
    neighbours: list[_Neighbour]


@dataclass(frozen=True)
class TableFacts:
    """What the catalogue says of a table beside its columns; `Table.info["facts"]` holds it."""

    kind: str = KINDS["r"]
    comment: str | None = None
    hidden: tuple[str, ...] = ()
    """The columns that the role may not read."""
    may_insert: bool = True
    may_update: bool = True
    may_delete: bool = True
    obstacle: str | None = None
    """Why no row can be changed, in one sentence."""


@dataclass(frozen=True)
class ColumnFacts:
    """What the catalogue says of a column beside its type; `Column.info["facts"]` holds it."""

    type: str
    default: str | None = None
    generated: str = ""
    sortable: bool = True
    editable: bool = True
    insertable: bool = True
    values: list[str] | None = None


# `pg_constraint` has no index on the referenced table, but `pg_depend` has.
_TABLE = text(
    """
    SELECT CAST(json_build_object(
        'schema', n.nspname, 'name', c.relname, 'kind', c.relkind, 'role', current_user,
        'comment', obj_description(c.oid, 'pg_class'),
        'has_heirs', c.relkind <> 'p' AND EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = c.oid),
        'may_delete', has_table_privilege(c.oid, 'DELETE'),
        'columns', coalesce((
            SELECT json_agg(json_build_object(
                'name', a.attname,
                'type', format_type(a.atttypid, a.atttypmod),
                'cast', format_type(b.oid, -1),
                'shape', CASE WHEN b.is_array THEN 'A' ELSE b.typtype END,
                'element', CASE WHEN b.is_array THEN format_type(b.typelem, -1) END,
                'sortable', EXISTS (SELECT FROM pg_opclass o WHERE o.opcmethod = 403 AND o.opcdefault
                    AND (o.opcintype = e.oid OR o.opcintype = CASE e.typtype WHEN 'e' THEN 3500 WHEN 'c' THEN 2249
                        WHEN 'r' THEN 3831 WHEN 'm' THEN 4537 ELSE CASE e.oid WHEN 1043 THEN 25 ELSE 0 END END)),
                'values', CASE b.typtype WHEN 'e' THEN (
                    SELECT json_agg(v.enumlabel ORDER BY v.enumsortorder) FROM pg_enum v WHERE v.enumtypid = b.oid) END,
                'required', a.attnotnull OR t.typnotnull,
                'default', pg_get_expr(d.adbin, d.adrelid),
                'generated', CONCAT(a.attgenerated, a.attidentity),
                'readable', has_column_privilege(c.oid, a.attnum, 'SELECT'),
                'editable', has_column_privilege(c.oid, a.attnum, 'UPDATE'),
                'insertable', has_column_privilege(c.oid, a.attnum, 'INSERT')
            ) ORDER BY a.attnum)
            FROM pg_attribute a
            JOIN pg_type t ON t.oid = a.atttypid
            CROSS JOIN LATERAL (
                WITH RECURSIVE base AS (
                    SELECT t.oid, t.typtype, t.typbasetype, t.typelem, t.typlen, t.typcategory
                    UNION ALL
                    SELECT u.oid, u.typtype, u.typbasetype, u.typelem, u.typlen, u.typcategory
                    FROM base JOIN pg_type u ON u.oid = base.typbasetype WHERE base.typtype = 'd'
                ) SELECT *, typcategory = 'A' AND typelem <> 0 AND typlen = -1 AS is_array FROM base
                WHERE typtype <> 'd'
            ) b
            JOIN pg_type e ON e.oid = CASE WHEN b.is_array THEN b.typelem ELSE b.oid END
            LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]'),
        'keys', coalesce((
            SELECT json_agg(json_build_object(
                'name', i.relname, 'columns', k.columns, 'is_primary', x.indisprimary, 'identifies', k.identifies,
                'is_deferrable', NOT x.indimmediate
            ) ORDER BY x.indisprimary DESC, x.indimmediate DESC, x.indnkeyatts, x.indexrelid)
            FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
            CROSS JOIN LATERAL (
                SELECT json_agg(a.attname ORDER BY p.place) AS columns,
                    bool_and(a.attnotnull AND has_column_privilege(c.oid, a.attnum, 'SELECT')) AS identifies
                FROM unnest(CAST(x.indkey AS int2[])) WITH ORDINALITY p (attnum, place)
                JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.attnum WHERE p.place <= x.indnkeyatts
            ) k
            WHERE x.indrelid = c.oid AND x.indisunique AND x.indisvalid AND x.indpred IS NULL AND x.indexprs IS NULL
        ), '[]'),
        'neighbours', coalesce((
            SELECT json_agg(json_build_object(
                'name', f.name, 'outward', f.outward, 'schema', rn.nspname, 'table', r.relname, 'is_key', f.is_key,
                'action', f.action,
                'columns', (SELECT json_agg(a.attname ORDER BY p.place) FROM unnest(f.own) WITH ORDINALITY p (n, place)
                    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.n),
                'others', (SELECT json_agg(a.attname ORDER BY p.place)
                    FROM unnest(f.others) WITH ORDINALITY p (n, place)
                    JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = p.n),
                'described', coalesce((
                    SELECT json_agg(json_build_array(
                        a.attname, format_type(CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END, -1)
                    ) ORDER BY a.attnum)
                    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                    WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
                    AND (f.outward OR a.attnum = ANY(f.others))
                    AND has_schema_privilege(rn.oid, 'USAGE') AND has_column_privilege(r.oid, a.attnum, 'SELECT')
                ), '[]')
            ) ORDER BY rn.nspname, r.relname, f.name)
            FROM (
                SELECT conname AS name, true AS outward, conkey AS own, confrelid AS other, confkey AS others,
                    confdeltype AS action,
                    EXISTS (SELECT FROM pg_index x WHERE x.indexrelid = conindid AND x.indisprimary) AS is_key
                FROM pg_constraint WHERE conrelid = c.oid AND contype = 'f'
                UNION ALL
                SELECT conname, false, confkey, conrelid, conkey, confdeltype, false
                FROM pg_constraint WHERE confrelid = c.oid AND contype = 'f' AND conrelid <> confrelid
                AND :referrers AND oid IN (
                    SELECT objid FROM pg_depend WHERE refclassid = CAST('pg_class' AS regclass)
                    AND refobjid = c.oid AND classid = CAST('pg_constraint' AS regclass))
            ) f
            JOIN pg_class r ON r.oid = f.other JOIN pg_namespace rn ON rn.oid = r.relnamespace
            WHERE f.outward OR NOT r.relispartition
        ), '[]')
    ) AS text)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = :schema AND c.relname = :name AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    """
)
_TABLES = text(
    """
    SELECT n.nspname, c.relname, c.relkind, has_schema_privilege(n.oid, 'USAGE')
        AND (has_table_privilege(c.oid, 'SELECT') OR has_any_column_privilege(c.oid, 'SELECT'))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition AND c.relpersistence <> 't'
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
    ORDER BY n.nspname <> 'public', n.nspname, c.relname
    """
)


# --- Reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableName:
    """A table in the list of all of them; `name` is its address."""

    name: str
    schema: str
    title: str
    kind: str
    readable: bool


async def list_tables(connection: AsyncConnection) -> list[TableName]:
    """Return the tables of all schemas, without partitions and the system's own; those of `public` come first."""
    return [
        TableName(address(schema, name), schema, name, KINDS[kind], readable)
        for schema, name, kind, readable in await connection.execute(_TABLES)
    ]


async def read_table(connection: AsyncConnection, written: str, *, referrers: bool = False) -> Table:
    """Read one table by its address, in a `MetaData` of its own with the tables that it refers to.

    With `referrers`, those that refer to it are there too, of which a table may have thousands.

    The primary key is what identifies a row: the table's own, or else a unique constraint of NOT NULL columns; it has
    no columns where there is neither. Equal descriptions are the same object, so that SQLAlchemy compiles each
    statement once. Raises `TableNotFound`, `TableNotReadable`.
    """
    schema, name = parsed(written)
    # A name with NUL is none; PostgreSQL would reject the parameter.
    found = None
    if "\0" not in written:
        found = await connection.scalar(_TABLE, {"schema": schema, "name": name, "referrers": referrers})
    if found is None or schema in {"pg_catalog", "information_schema", "pg_toast"}:
        raise TableNotFound(table=written, tables=[table.name for table in await list_tables(connection)][:_REMEMBERED])
    return _built(found)


@lru_cache(maxsize=_REMEMBERED)
def _built(description: str) -> Table:
    found = msgspec.json.decode(description, type=_Described)
    readable = [column for column in found.columns if column.readable]
    if found.columns and not readable:
        schema, role = quoted(found.schema), quoted(found.role)
        grants = [grant("SELECT", f"{schema}.{quoted(found.name)}", role)]
        if found.schema != SCHEMA:
            grants.insert(0, grant("USAGE", f"SCHEMA {schema}", role))
        raise TableNotReadable(table=address(found.schema, found.name), role=found.role, grant="; ".join(grants))
    key = None if found.has_heirs else next((key for key in found.keys if key.identifies), None)
    metadata = MetaData()
    table = Table(
        _name(found.name),
        metadata,
        *map(_column, readable),
        schema=_name(found.schema),
        info={"facts": _facts(found, has_key=key is not None)},
    )
    if key:
        names = map(_name, key.columns)
        table.append_constraint(PrimaryKeyConstraint(*names, name=key.name, deferrable=key.is_deferrable))
    for unique in found.keys:
        if unique is not key and _has_columns(table, unique.columns):
            table.append_constraint(
                UniqueConstraint(*unique.columns, name=unique.name, deferrable=unique.is_deferrable)
            )
    for neighbour in found.neighbours:
        _add_neighbour(table, neighbour)
    return table


def _name(name: str) -> str:
    # SQLAlchemy leaves some reserved words unquoted.
    return quoted_name(name, quote=True) if quoted(name) != name else name


def _column(found: _Column) -> Column[Any]:
    facts = ColumnFacts(
        type=found.type,
        default=_default(found),
        generated=found.generated,
        sortable=found.sortable,
        editable=found.editable and found.generated not in {"s", "v", "a"},
        insertable=found.insertable and found.generated not in {"s", "v", "a"},
        values=found.values,
    )
    return Column(
        _name(found.name),
        column_type(found.cast, found.shape, found.element),
        nullable=not found.required,
        # Otherwise SQLAlchemy warns of an INSERT without the key.
        server_default=FetchedValue(),
        autoincrement=False,
        info={"facts": facts},
    )


def _default(found: _Column) -> str | None:
    is_numbered = found.generated in {"a", "d"} or (found.default or "").startswith("nextval(")
    return "the next number" if is_numbered else found.default


def _facts(found: _Described, *, has_key: bool) -> TableFacts:
    may_update = any(column.editable for column in found.columns)
    may_insert = any(column.insertable for column in found.columns)
    return TableFacts(
        kind=KINDS[found.kind],
        comment=found.comment,
        hidden=tuple(column.name for column in found.columns if not column.readable),
        may_insert=may_insert and has_key,
        may_update=may_update and has_key,
        may_delete=found.may_delete and has_key,
        obstacle=_obstacle(found, has_key=has_key, may_write=may_update or may_insert or found.may_delete),
    )


def _obstacle(found: _Described, *, has_key: bool, may_write: bool) -> str | None:
    if found.kind == "m":
        return "A materialized view is read-only: `REFRESH MATERIALIZED VIEW` fills it again."
    if found.has_heirs:
        return "The table is read-only here: tables inherit from it, and their rows may have the same key."
    if not has_key and found.kind in {"v", "f"}:
        return f"A {KINDS[found.kind]} has no key, so no statement can name one of its rows."
    if not has_key:
        return (
            "The table is read-only here: it has no primary key and no unique constraint of NOT NULL columns, so no"
            " statement can name one of its rows."
        )
    if not may_write:
        return f"The role {found.role} may not change the rows of this table."
    return None


def _add_neighbour(table: Table, found: _Neighbour) -> None:
    """Add a foreign key, and the table at its other end as far as the role may read it."""
    other = table
    if (found.schema, found.table) != (table.schema, table.name):
        other = Table(_name(found.table), table.metadata, schema=_name(found.schema), extend_existing=True)
        for name, cast_to in found.described:
            if name not in other.columns:
                other.append_column(Column(_name(name), column_type(cast_to), autoincrement=False))
        if found.is_key and not other.primary_key.columns and _has_columns(other, found.others):
            other.append_constraint(PrimaryKeyConstraint(*found.others))
    if not _has_columns(table, found.columns) or not _has_columns(other, found.others):
        return
    own, own_names, target, target_names = table, found.columns, other, found.others
    if not found.outward:
        own, own_names, target, target_names = other, found.others, table, found.columns
    targets = [target.columns[name] for name in target_names]
    info = {"rejects_deletion": found.action in {"a", "r"}}
    own.append_constraint(ForeignKeyConstraint(own_names, targets, name=found.name, info=info))


def _has_columns(table: Table, names: list[str]) -> bool:
    return set(names).issubset(table.columns.keys())
