"""The data that a migration drops, empties or rewrites, counted before it runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from tatame_db.database.dialect import quoted
from tatame_db.errors import TatameError, counted, fact, listed
from tatame_db.evolve.catalogue import run_verbatim
from tatame_db.evolve.statements import QUALIFIED, do_blocks, statements
from tatame_db.evolve.stored import Name, Storage, plain_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection

    from tatame_db.evolve.effects import Effects

_DROPPED = re.compile(
    rf"(?:DROP\s+(?P<kind>TABLE|SCHEMA|TYPE|DOMAIN)\s+(?:IF\s+EXISTS\s+)?|TRUNCATE\s+(?:TABLE\s+)?(?:ONLY\s+)?)"
    rf"(?P<names>{QUALIFIED}(?:\s*,\s*{QUALIFIED})*)",
    re.IGNORECASE,
)
_ALTERED = re.compile(rf"ALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?:ONLY\s+)?(?P<table>{QUALIFIED})", re.IGNORECASE)
# What follows ALTER COLUMN … DROP is no column.
_COLUMN = re.compile(
    r"\bDROP\s+(?!(?:CONSTRAINT|DEFAULT|NOT|IDENTITY|EXPRESSION)\b)(?:COLUMN\s+)?(?:IF\s+EXISTS\s+)?"
    rf"(?P<column>{QUALIFIED})",
    re.IGNORECASE,
)
_DESTROYS = re.compile(r"\b(?:DROP|TRUNCATE|ALTER\s+TABLE)\s", re.IGNORECASE)
_START = "SELECT * FROM unnest(CAST(:catalogues AS oid[]), CAST(:oids AS oid[]), CAST(:numbers AS int[]))"
# As `CASCADE` follows them. What depends on a column names it, and what depends on a table may name one of its columns.
_GOES_WITH_IT = f"""
    WITH RECURSIVE gone (catalogue, id, number) AS (
        {_START}
        UNION SELECT d.classid, d.objid, d.objsubid FROM pg_depend d JOIN gone
            ON d.refclassid = catalogue AND d.refobjid = id AND number IN (0, d.refobjsubid)
        WHERE d.deptype IN ('n', 'a', 'i', 'P', 'S')
    )
    SELECT catalogue, id, number FROM gone
"""
# A table that others refer to can be emptied only together with them.
_EMPTIED_WITH_IT = f"""
    WITH RECURSIVE emptied (catalogue, id, number) AS (
        {_START}
        UNION SELECT catalogue, other.id, number FROM emptied, LATERAL (
            SELECT conrelid AS id FROM pg_constraint WHERE contype = 'f' AND confrelid = emptied.id
            UNION ALL SELECT inhrelid FROM pg_inherits WHERE inhparent = emptied.id) other
    )
    SELECT catalogue, id, number FROM emptied
"""


@fact
class DataLoss(TatameError):
    """A change would drop or rewrite data, which the caller did not accept."""

    change: str
    losses: list[str]
    what = "`tatame-db {change}` would lose data:\n{lines}"
    fix = "{advice}"

    @property
    def lines(self) -> str:
        """The losses, one a line."""
        return listed(self.losses)

    @property
    def advice(self) -> str:
        """How to accept the loss, or to avoid it."""
        if self.change == "push":
            return "accept the loss with `--accept-data-loss`, or keep the data of a renamed column with `--rename`"
        return f"back the data up, then accept the loss with `tatame-db {self.change} --accept-data-loss`"


def loss_of_table(table: str, rows: int | None, verb: str = "is dropped") -> str:
    """Describe the loss of the rows of a table; `None` if their number is not known."""
    return f"table {table} {verb}, with {_number(rows)}"


def loss_of_column(column: str, rows: int | None, verb: str = "is dropped, with values") -> str:
    """Describe the loss of the values of a column, `table.column`; `None` if their number is not known."""
    return f"column {column} {verb} in {_number(rows)}"


def _number(rows: int | None) -> str:
    # The role may read the catalogue, and not the rows or not all of them.
    return "an unknown number of rows" if rows is None else counted(rows, "row")


def losses_of(connection: Connection, storage: Storage, effects: Effects, sql: Iterable[str]) -> list[str]:
    """Describe, one sentence each, the data of a database that steps lose, with counts; the transaction stays open.

    `sql` is the text of the steps, a second source: for objects that no migration made, and for DO blocks, whose path
    may depend on rows.
    """
    losses = _Losses(connection, storage, effects)
    return [*losses.found(sql), *effects.unknown]


def count_all(connection: Connection, query: str) -> int | None:
    """Return what a query counts, or `None` if the role may not read the rows or a policy hides some."""
    try:
        with connection.begin_nested():
            # Otherwise PostgreSQL counts only the rows that a policy shows, without an error.
            connection.execute(text("SET LOCAL row_security = off"))
            return int(run_verbatim(connection, query).scalar() or 0)
    except ProgrammingError as error:
        if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise
        return None


class _Losses:
    """The effects of steps on the objects of a database: those of the migrations, and those that depend on them."""

    def __init__(self, connection: Connection, storage: Storage, effects: Effects) -> None:
        self.connection, self.storage, self.effects = connection, storage, effects
        self.path: list[str] = connection.scalar(text("SELECT CAST(current_schemas(false) AS text[])")) or []
        self.parents: dict[Name, list[Name]] = {}
        for row in run_verbatim(connection, "SELECT inhrelid, inhparent FROM pg_inherits"):
            child, parent = (storage.tables.get(oid) for oid in tuple(row))
            if child and parent:
                self.parents.setdefault(child, []).append(parent)

    def found(self, sql: Iterable[str]) -> Iterator[str]:
        """Describe the losses."""
        dropped, emptied = set(self.effects.gone), set(self.effects.emptied)
        for step in sql:
            self._read(step, dropped, emptied)
        dropped = self._inherited(self._reached(_GOES_WITH_IT, dropped))
        tables = {name for name in dropped if name.kind == "table"}
        columns = {name for name in dropped if name.kind == "column" and name.whole not in tables}
        yield from self._of_tables(tables, "is dropped")
        yield from self._of_tables(self._reached(_EMPTIED_WITH_IT, emptied) - tables, "is emptied")
        yield from self._of_columns(columns, "is dropped, with values")
        for name in sorted(name for name in dropped if name.kind == "attribute" and name.whole not in dropped):
            yield from self._of_columns(self._of_type(name.whole), f"loses its part {name.column}, with values")
        for new_type in sorted(set(self.effects.rewritten.values())):
            rewritten = {name for name, other in self.effects.rewritten.items() if other == new_type}
            yield from self._of_columns(self._inherited(rewritten), f"is rewritten as {new_type}")

    def _read(self, sql: str, dropped: set[Name], emptied: set[Name]) -> None:
        known = self.effects.known if self.effects.failed is None else frozenset[Name]()
        for statement in statements(sql):
            (emptied if statement[0] in "tT" else dropped).update(self._named(statement) - known)
        for statement in (part for block in do_blocks(sql) for part in block.split(";")):
            if found := _DESTROYS.search(statement):
                destroys = statement[found.start() :]
                (emptied if destroys[0] in "tT" else dropped).update(self._named(destroys))

    def _named(self, statement: str) -> set[Name]:
        """Return the objects that a statement drops or empties by name."""
        names: set[Name | None] = set()
        if found := _DROPPED.match(statement):
            kind = {"schema": "schema", "type": "type", "domain": "type"}.get((found["kind"] or "").lower(), "table")
            names = {self._find(kind, written) for written in re.findall(QUALIFIED, found["names"])}
        elif (found := _ALTERED.match(statement)) and (table := self._find("table", found["table"])):
            written = (plain_names(column)[-1] for column in _COLUMN.findall(statement, found.end()))
            names = {Name("column", table.schema, table.table, column) for column in written}
        return {name for name in names if name and name in self.storage.addresses}

    def _find(self, kind: str, written: str) -> Name | None:
        *schema, name = plain_names(written)
        if kind == "schema":
            return Name("schema", name)
        found = (Name(kind, place, name) for place in schema or self.path)
        return next((name for name in found if name in self.storage.addresses), None)

    def _reached(self, query: str, names: set[Name]) -> set[Name]:
        """Add what PostgreSQL drops or empties with objects, except where the scratch shows that it stays."""
        start = [address for name in names if (address := self.storage.addresses.get(name))]
        catalogues, oids, numbers = ([address[part] for address in start] for part in range(3))
        rows = self.connection.execute(text(query), {"catalogues": catalogues, "oids": oids, "numbers": numbers})
        found = (self.storage.objects.get((row[0], row[1], row[2])) for row in rows)
        return names | ({other.name for other in found if other} - self.effects.known)

    def _inherited(self, names: set[Name]) -> set[Name]:
        """Add the columns that the children of a table have from it."""
        found = set(names)
        for child in self.parents:
            for ancestor in self._ancestors(child):
                columns = [name.column for name in names if name.kind == "column" and name.whole == ancestor]
                found |= {Name("column", child.schema, child.table, column) for column in columns} - self.effects.known
        return found

    def _ancestors(self, table: Name) -> Iterator[Name]:
        for parent in self.parents.get(table, []):
            yield parent
            yield from self._ancestors(parent)

    def _of_type(self, composite: Name) -> set[Name]:
        """Return the columns of a composite type, or of an array of it."""
        oid = self.storage.addresses[composite][1] if composite in self.storage.addresses else None
        return {
            found.name
            for found in self.storage.objects.values()
            if found.name.kind == "column" and found.element == oid
        }

    def _of_tables(self, tables: set[Name], verb: str) -> Iterator[str]:
        for table, rows in self._counts(tables, "*"):
            yield loss_of_table(table, rows, verb)

    def _of_columns(self, columns: set[Name], verb: str) -> Iterator[str]:
        for column in sorted({name.column for name in columns}):
            tables = {name.whole for name in columns if name.column == column and name in self.storage.addresses}
            for table, rows in self._counts(tables, quoted(column)):
                yield loss_of_column(f"{table}.{column}", rows, verb)

    def _counts(self, tables: set[Name], expression: str) -> Iterator[tuple[str, int | None]]:
        """Count rows or values; those of partitions and children as their parent's. Tables without any are omitted."""
        families: dict[Name, list[Name]] = {}
        for table in tables & self.storage.addresses.keys():
            *_, top = table, *(ancestor for ancestor in self._ancestors(table) if ancestor in tables)
            families.setdefault(top, []).append(table)
        for table, parts in sorted(families.items()):
            rows = self._count(parts, expression)
            if rows != 0:
                yield str(table), rows

    def _count(self, tables: list[Name], expression: str) -> int | None:
        """Return the number of rows or values, or `None` if the role may not read them or a policy hides some."""
        parts = (f"SELECT count({expression}) AS n FROM ONLY {quoted(t.schema)}.{quoted(t.table)}" for t in tables)
        return count_all(self.connection, f"SELECT sum(n) FROM ({' UNION ALL '.join(parts)}) AS parts")
