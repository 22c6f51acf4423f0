"""Keys and indexes that the models have and the target lacks, as after the record of an unfinished copy was deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import ForeignKeyConstraint, PrimaryKeyConstraint, UniqueConstraint
from sqlalchemy.schema import AddConstraint, ColumnCollectionConstraint, CreateIndex

from tatame_db.database.dialect import DIALECT
from tatame_db.database.keys import KeyOrIndex
from tatame_db.move.catalogue import partitioned_tables
from tatame_db.move.target import column_names
from tatame_db.schema import Base, phases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Constraint, Table

    from tatame_db.move.connection import MoveConnection


def missing_keys_and_indexes(target: MoveConnection) -> list[KeyOrIndex]:
    """Return what the models have and the target lacks, in an order in which it can be created.

    A key counts as there if it has the same columns, whatever its name, an index if it has the same name.
    """
    existing: set[tuple[object, ...]] = {
        (kind, table, tuple(names), parent, tuple(parent_names))
        for kind, table, names, parent, parent_names in target.rows(_EXISTING, {"tables": list(phases())})
    }
    # A partitioned table cannot have all of them, and those that it can have belong to its partitions too.
    partitioned = partitioned_tables(target)
    tables = [Base.metadata.tables[name] for name in phases() if name not in partitioned]
    found = [item for table in tables for item in _of_table(table, existing)]
    # A foreign key needs a unique one, which counts as an index here.
    return sorted(found, key=lambda item: item.kind != "index")


def _of_table(table: Table, existing: set[tuple[object, ...]]) -> Iterator[KeyOrIndex]:
    for constraint in table.constraints:
        if not isinstance(constraint, ColumnCollectionConstraint):
            continue
        names = tuple(column.name for column in constraint.columns)
        statement = _statement(AddConstraint(constraint, isolate_from_table=False))
        if isinstance(constraint, ForeignKeyConstraint):
            parent = constraint.referred_table.name
            parent_names = tuple(element.column.name for element in constraint.elements)
            if ("key", table.name, names, parent, parent_names) not in existing:
                definition = statement[statement.index("FOREIGN KEY") :]
                yield KeyOrIndex("key", table.name, str(constraint.name), definition, parent=parent)
        elif (
            isinstance(constraint, PrimaryKeyConstraint | UniqueConstraint)
            and ("unique", table.name, tuple(sorted(names)), None, ()) not in existing
        ):
            yield KeyOrIndex("index", table.name, _name(constraint, table), statement)
    for index in table.indexes:
        if ("index", table.name, (index.name,), None, ()) not in existing:
            yield KeyOrIndex("index", table.name, str(index.name), _statement(CreateIndex(index)))


def _name(constraint: Constraint, table: Table) -> str:
    return str(constraint.name) if constraint.name else f"{table.name}_pkey"


def _statement(element: AddConstraint | CreateIndex) -> str:
    compiled = element.compile(dialect=DIALECT)
    return str(compiled).strip()


_EXISTING = f"""
SELECT 'key', c.relname, {column_names("k.conrelid", "k.conkey")}, p.relname,
    {column_names("k.confrelid", "k.confkey")}
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class p ON p.oid = k.confrelid
WHERE k.contype = 'f' AND c.relnamespace = 'public'::regnamespace AND c.relname = ANY(%(tables)s)
    AND p.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', c.relname, ARRAY[x.relname::text], NULL, ARRAY[]::text[]
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY(%(tables)s) AND i.indisvalid
UNION ALL
SELECT 'unique', c.relname,
    ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY(i.indkey) ORDER BY 1),
    NULL, ARRAY[]::text[]
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY(%(tables)s)
    AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = i.indnatts
"""
