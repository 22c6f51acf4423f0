"""The schema of a database as PostgreSQL's catalogue describes it: objects that can be compared and created again."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from tatame_db.database.dialect import SCHEMA
from tatame_db.evolve import addresses, kinds, rare, settings_of_tables
from tatame_db.evolve.placement import has_citus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, CursorResult

_QUERIES = (*kinds.ALL, *settings_of_tables.ALL)
# What other objects belong to; no two of them have the same name.
_RELATIONS = ("table", "materialized view", "view", "foreign table")

# The address of an object in `pg_depend`: catalogue, oid, and the number of a column or 0.
Address = tuple[int, int, int]


@dataclass(frozen=True)
class SchemaObject:
    """An object of the schema. Two are equal if their definitions are; a definition omits the name."""

    kind: str
    name: str
    definition: str
    table: str | None = None
    """The table that it belongs to; a table belongs to itself."""
    handle: str = field(default="", compare=False)
    """How `DROP` and `COMMENT ON` name it, such as `TRIGGER audit ON users`."""
    create: str | None = field(default=None, compare=False)
    """The SQL that creates it; `None` for tables and columns, which the planner writes, and for unusual kinds."""
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False)
    requires: frozenset[str] = field(default=frozenset(), compare=False)
    """The keys of the objects without which it cannot exist."""
    root: str = field(default="", compare=False)
    """The key of the table or view that it belongs to; its own key if it belongs to none."""
    parent: str | None = None
    """The table of which its table is a partition or a child."""
    comparable: bool = True
    """False for a kind whose definition is not read: only its existence is compared."""

    @property
    def key(self) -> str:
        """The kind and the name, which are unique in a schema."""
        return f"{self.kind} {self.name}"


Catalogue = dict[str, SchemaObject]


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


def run_verbatim(connection: Connection, statement: str) -> CursorResult[Any]:
    """Run a statement as it is written: `%` and `:name` in it are no placeholders."""
    return connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def pin_search_path(connection: Connection) -> None:
    """Make every name without a schema one of `public`, until the transaction ends."""
    # PostgreSQL omits the schema of a name that `search_path` finds, so the path has to be the same in every session.
    connection.execute(text(f"SET LOCAL search_path = {SCHEMA}"))


def read(connection: Connection) -> Catalogue:
    """Return the objects of the schema `public` by key. Runs in the open transaction and waits for no lock.

    Objects of an extension and of a move are omitted, and so are the shards of Citus. Owners and privileges are not
    read: they belong to the server.
    """
    pin_search_path(connection)
    connection.execute(text("SET LOCAL quote_all_identifiers = off"))
    reader = _Reader(connection)
    [found] = reader.rows(rare.FOUND)
    absent = {query for query, exists in zip(rare.CONDITIONS, found, strict=True) if not exists}
    for row in reader.rows(" UNION ALL ".join(query for query in _QUERIES if query not in absent)):
        reader.add(row)
    reader.add_comments()
    reader.add_everything_else()
    return reader.catalogue()


class _Reader:
    """Collects objects by address, which tells comments, dependencies and unknown kinds what they belong to."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.objects: Catalogue = {}
        self.by_address: dict[Address, SchemaObject] = {}
        others = [*self.rows(addresses.OTHERS), *(self.rows(addresses.SHARDS) if has_citus(self.rows) else ())]
        self.others = {(row[0], row[1]) for row in others}
        self.parents = {row[0]: row[1] for row in self.rows(addresses.PARENTS)}
        self.part_of: dict[Address, Address] = {
            (row[0], row[1], 0): (row[2], row[3], row[4]) for row in self.rows(addresses.PART_OF)
        }
        self.tables_of_extensions: set[str] = set()

    def rows(self, query: str) -> list[Any]:
        """Run a query of `kinds`, in which `%` is no placeholder."""
        return list(run_verbatim(self.connection, query).all())

    def add(self, row: Any) -> None:
        """Add an object that a query of `kinds` describes, unless it belongs to an extension or to a move."""
        kind, name, table, definition, handle, create, facts, *address = row
        if (address[0], address[1]) in self.others:
            self.tables_of_extensions |= {table} if kind == "table" and table else set()
            return
        if table in self.tables_of_extensions:
            return
        parent = self.parents.get(table or "")
        found = SchemaObject(kind, name, definition, table, handle, create, facts or {}, parent=parent)
        self.objects[found.key] = found
        # A setting has the address of its table.
        self.by_address.setdefault((address[0], address[1], address[2]), found)

    def add_comments(self) -> None:
        for *place, comment, literal, kind, identity in self.rows(addresses.COMMENTS):
            address = (place[0], place[1], place[2])
            whole = self._resolve(address)
            if whole is None:
                continue
            commented = self.by_address.get(address)
            # A column of a view and an attribute of a type are no objects of their own.
            handle = commented.handle if commented else f"COLUMN {identity}" if "column" in kind else None
            sql = f"COMMENT ON {handle} IS "
            found = SchemaObject(
                "comment",
                f"on {commented.key if commented else f'{kind} {identity}'}",
                comment,
                whole.table,
                f"comment on {handle}",
                sql + literal if handle else None,
                {"drop": f"{sql}NULL"} if handle else {},
                frozenset({whole.key}),
                parent=whole.parent,
            )
            self.objects[found.key] = found

    def add_everything_else(self) -> None:
        """Name each object of a kind that no query reads."""
        for *address, kind, identity, table in self.rows(addresses.EVERYTHING):
            place = (address[0], address[1], address[2])
            if self._known(place) or place[:2] in self.others or table in self.tables_of_extensions:
                continue
            found = SchemaObject(
                kind,
                identity.removeprefix(f"{SCHEMA}."),
                "exists",
                table,
                parent=self.parents.get(table),
                comparable=False,
            )
            if table or found.key not in self.objects:
                self.objects[found.key] = found

    def _known(self, address: Address) -> bool:
        """Return whether an object was read, or is a part of another one."""
        return address in self.by_address or address in self.part_of

    def catalogue(self) -> Catalogue:
        """Return the objects with what they require."""
        requires: dict[str, set[str]] = defaultdict(set)
        for row in self.rows(addresses.DEPENDENCIES):
            dependent, required = self._resolve((row[0], row[1], row[2])), self._resolve((row[3], row[4], row[5]))
            # The parts of a table, such as the triggers of foreign keys, refer to what refers to the table.
            if dependent and required and dependent is not required and dependent.kind != "table":
                requires[dependent.key].add(required.key)
        relations = {found.name: key for key, found in self.objects.items() if found.kind in _RELATIONS}
        return {
            key: replace(found, requires=found.requires | requires[key], root=self._root(found, relations))
            for key, found in sorted(self.objects.items())
        }

    def _root(self, found: SchemaObject, relations: dict[str, str]) -> str:
        if found.kind == "comment":
            [commented] = found.requires
            return self._root(self.objects[commented], relations)
        return relations.get(found.table or "", found.key)

    def _resolve(self, address: Address) -> SchemaObject | None:
        """Return the object at an address, or the one that the object there is a part of."""
        if found := self.by_address.get(address):
            return found
        whole = self.part_of.get((address[0], address[1], 0))
        # A column of a view is a part of the view.
        return self._resolve(whole) if whole else self.by_address.get((address[0], address[1], 0))


def differences(expected: Catalogue, found: Catalogue) -> list[SchemaDifference]:
    """Compare two catalogues; differences are sorted by name."""

    def definition(catalogue: Catalogue, key: str) -> str | None:
        return catalogue[key].definition if key in catalogue else None

    return [
        SchemaDifference(key, definition(expected, key), definition(found, key))
        for key in sorted(expected.keys() | found.keys())
        if definition(expected, key) != definition(found, key)
    ]
