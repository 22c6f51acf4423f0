"""What the target's tables have beside the models, as its catalogue describes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tatame_db.database.dialect import quoted
from tatame_db.evolve.addresses import MOVE_TRIGGERS
from tatame_db.move.choices import Obstacle
from tatame_db.move.target_schema import types_of_models
from tatame_db.schema import Base, moved_tables, phases

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.mapping import TableMap


@dataclass(frozen=True)
class TargetObject:
    """Something of a target's table that the models do not have.

    A `trigger`, a `rule` or `row-level security` can change rows as they are written: no obstacle, because a proof
    follows. A `foreign key` of another table and a `column` are left as they are. Only row-level security has no name.
    `description` is the rest of the definition.
    """

    table: str
    kind: str
    name: str | None
    description: str

    @property
    def changes_rows(self) -> bool:
        """Whether it can change rows as they are written."""
        return self.kind not in ("foreign key", "column")


@dataclass(frozen=True)
class OwnKey:
    """A foreign key that the models do not have, from any table to a table of the models."""

    schema: str
    table: str
    name: str
    columns: list[str]
    parent: str
    parent_columns: list[str]
    on_delete: str

    @property
    def place(self) -> str:
        """The table, with its schema unless that is `public`."""
        return self.table if self.schema == "public" else f"{self.schema}.{self.table}"

    @property
    def sql(self) -> str:
        """The table in a query."""
        return f"{quoted(self.schema)}.{quoted(self.table)}"

    @property
    def is_of_models(self) -> bool:
        """Whether the table itself is one of the models."""
        return self.schema == "public" and self.table in phases()

    @property
    def matches(self) -> str:
        """The condition that a row of its table, `c`, refers to a row of the parent, `t`."""
        pairs = zip(self.columns, self.parent_columns, strict=True)
        return " AND ".join(f"c.{quoted(column)} = t.{quoted(parent)}" for column, parent in pairs)


@dataclass(frozen=True)
class TargetColumn:
    """A column of a table of the target; `required` means that an insert has to name it."""

    table: str
    name: str
    type: str
    required: bool
    generated: bool
    deterministic: bool
    """Whether its collation calls two texts equal only if they are the same."""
    wanted: str | None = None
    """The type that the models give it, if it has another one."""

    @property
    def is_of_models(self) -> bool:
        """Whether the models have the column too."""
        return self.name in Base.metadata.tables[self.table].columns


def target_objects(target: MoveConnection, columns: Iterable[TargetColumn]) -> list[TargetObject]:
    """Return triggers, rules and row-level security, foreign keys and columns that the models do not have."""
    tables = list(phases())
    objects = [TargetObject(*row) for row in target.rows(_OBJECTS, {"tables": tables})]
    objects += [
        TargetObject(key.parent, "foreign key", key.name, f"of {key.place}, ON DELETE {key.on_delete}")
        for key in own_keys(target)
    ]
    objects += [
        TargetObject(column.table, "column", column.name, column.type) for column in columns if not column.is_of_models
    ]
    return sorted(objects, key=lambda found: tables.index(found.table))


def keys_of_models() -> set[tuple[str, tuple[str, ...], str, tuple[str, ...]]]:
    """Return table, columns, parent and its columns of each foreign key of the models."""
    return {
        (
            table.name,
            tuple(key.column_keys),
            key.referred_table.name,
            tuple(element.column.name for element in key.elements),
        )
        for table in moved_tables()
        for key in table.foreign_key_constraints
    }


def own_keys(target: MoveConnection, moved: Collection[str] = ()) -> list[OwnKey]:
    """Return the foreign keys that refer to tables of the models, and that the models do not have.

    With `moved`, tables whose home is the target, also their own keys: the rows there are not those of the source.
    """
    of_models = keys_of_models()
    return [
        key
        for key in keys_to(target, list(phases()))
        if not key.is_of_models
        or key.table in moved
        or (key.table, tuple(key.columns), key.parent, tuple(key.parent_columns)) not in of_models
    ]


def keys_to(connection: MoveConnection, tables: list[str]) -> list[OwnKey]:
    """Return all foreign keys that refer to these tables of the schema `public`, from any table."""
    return [OwnKey(*row) for row in connection.rows(_KEYS, {"tables": tables})]


def target_columns(target: MoveConnection) -> list[TargetColumn]:
    """Return the columns of all tables of the models."""
    wanted = types_of_models(target)
    columns: list[TargetColumn] = []
    for table, name, type_id, modifier, *facts in target.rows(_COLUMNS, {"tables": list(phases())}):
        found = TargetColumn(table, name, *facts)
        in_models = wanted.get((table, name), (None, type_id, modifier))
        columns.append(found if in_models[1:] == (type_id, modifier) else replace(found, wanted=in_models[0]))
    return columns


def column_obstacles(table: TableMap, rows: int, columns: Iterable[TargetColumn]) -> list[Obstacle]:
    """Return the columns of the target that keep rows from being written; `rows` is the number of rows to write."""
    found = {column.name: column for column in columns if column.table == table.name}
    reasons = {
        f"the target has no column {column.name}": "add the column to the target: `tatame-db check` shows what differs"
        for column in table.columns
        if column.name not in found
    }
    for column in found.values():
        if column.is_of_models and column.generated:
            reasons[f"{column.name} is generated on the target, so it cannot be copied"] = (
                "let the column be an ordinary one on the target"
            )
        elif column.wanted:
            reasons[
                f"{column.name} of the target is of type {column.type}, and of type {column.wanted} in the models"
            ] = "change the type on the target: `tatame-db check` shows what differs"
        elif column.is_of_models and not column.deterministic:
            reasons[f"{column.name} of the target has a collation that calls different texts equal"] = (
                "give the column the collation of the models on the target"
            )
        elif column.required and not column.is_of_models:
            reasons[f"{column.name} of the target may not be NULL, has no default, and is not in the models"] = (
                "give the column a default on the target, or let it be NULL"
            )
    return [Obstacle("target-column", reason, rows, [], [fix]) for reason, fix in reasons.items()]


_OBJECTS = f"""
WITH models AS (
    SELECT c.oid, c.relname, c.relrowsecurity, c.relforcerowsecurity,
        array_position(%(tables)s::text[], c.relname::text) AS place
    FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY(%(tables)s)
), found (place, relname, kind, name, description) AS (
    SELECT m.place, m.relname, 'trigger', t.tgname, concat_ws(' ',
        CASE WHEN t.tgtype & 2 > 0 THEN 'BEFORE' WHEN t.tgtype & 64 > 0 THEN 'INSTEAD OF' ELSE 'AFTER' END,
        concat_ws(' OR ',
            CASE WHEN t.tgtype & 4 > 0 THEN 'INSERT' END, CASE WHEN t.tgtype & 16 > 0 THEN 'UPDATE' END,
            CASE WHEN t.tgtype & 8 > 0 THEN 'DELETE' END, CASE WHEN t.tgtype & 32 > 0 THEN 'TRUNCATE' END),
        CASE WHEN t.tgtype & 1 > 0 THEN 'FOR EACH ROW' ELSE 'FOR EACH STATEMENT' END,
        CASE WHEN t.tginitdeferred THEN 'INITIALLY DEFERRED' END)
    FROM models m JOIN pg_trigger t ON t.tgrelid = m.oid
    -- A trigger that is disabled, or enabled for replication only, does not run.
    WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.oid NOT IN ({MOVE_TRIGGERS})
    UNION ALL
    SELECT m.place, m.relname, 'rule', r.rulename, concat('ON ',
        CASE r.ev_type WHEN '2' THEN 'UPDATE' WHEN '3' THEN 'INSERT' WHEN '4' THEN 'DELETE' ELSE 'SELECT' END,
        CASE WHEN r.is_instead THEN ' DO INSTEAD' ELSE ' DO ALSO' END)
    FROM models m JOIN pg_rewrite r ON r.ev_class = m.oid WHERE r.ev_enabled IN ('O', 'A')
    UNION ALL
    SELECT m.place, m.relname, 'row-level security', NULL, concat(
        'ON ', coalesce((
            SELECT string_agg(DISTINCT CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT'
                WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END, ' OR ')
            FROM pg_policy p WHERE p.polrelid = m.oid), 'ALL'),
        CASE WHEN m.relforcerowsecurity THEN ', for the owner too' END)
    FROM models m WHERE m.relrowsecurity
    UNION ALL
    SELECT m.place, m.relname, 'child table', i.inhrelid::regclass::text,
        concat('by inheritance: every query of ', m.relname, ' reads its rows too, and no copy or proof does')
    FROM models m JOIN pg_inherits i ON i.inhparent = m.oid JOIN pg_class c ON c.oid = m.oid AND c.relkind = 'r'
)
SELECT relname, kind, name, description FROM found ORDER BY place, kind DESC, name
"""


def column_names(table: str, numbers: str) -> str:
    """Return the SQL of the names of these columns of a table, in this order."""
    return (
        f"ARRAY(SELECT a.attname::text FROM unnest({numbers}) WITH ORDINALITY AS u (number, place)"
        f" JOIN pg_attribute a ON a.attrelid = {table} AND a.attnum = u.number ORDER BY u.place)"
    )


# A key that is not enforced reaches no row.
_KEYS = f"""
SELECT n.nspname, c.relname, k.conname,
    {column_names("k.conrelid", "k.conkey")}, p.relname, {column_names("k.confrelid", "k.confkey")},
    CASE k.confdeltype
        WHEN 'c' THEN 'CASCADE' WHEN 'n' THEN 'SET NULL' WHEN 'd' THEN 'SET DEFAULT' WHEN 'r' THEN 'RESTRICT'
        ELSE 'NO ACTION' END
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class p ON p.oid = k.confrelid
WHERE k.contype = 'f' AND k.conparentid = 0 AND p.relnamespace = 'public'::regnamespace
    AND p.relname = ANY(%(tables)s) AND pg_get_constraintdef(k.oid) NOT LIKE '%% NOT ENFORCED'
ORDER BY 1, 2, 3
"""
_COLUMNS = """
SELECT c.relname, a.attname, a.atttypid::bigint, a.atttypmod, format_type(a.atttypid, a.atttypmod),
    (a.attnotnull OR t.typnotnull) AND NOT a.atthasdef AND a.attidentity = '' AND t.typdefault IS NULL,
    a.attgenerated <> '', coalesce(l.collisdeterministic, true)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY(%(tables)s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY c.relname, a.attnum
"""
