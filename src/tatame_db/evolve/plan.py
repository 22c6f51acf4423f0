"""The statements that turn one schema into another, in an order in which PostgreSQL accepts them.

Both schemas are catalogues, so whatever PostgreSQL can describe is written as PostgreSQL describes it. The idea is that
of migra and pg-schema-diff: what depends on an object that goes is dropped before it and created after it.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

from tatame_db.database.dialect import quoted
from tatame_db.evolve import ddl
from tatame_db.evolve.ddl import Loss, Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection

    from tatame_db.evolve.catalogue import Catalogue, SchemaObject

_ORDER = (
    "extension",
    "collation",
    "enum",
    "domain",
    "type",
    "sequence",
    "table",
    "column",
    "function",
    "procedure",
    "constraint",
    "index",
    "view",
    "materialized view",
    "default",
    "statistics",
    "trigger",
    "rule",
    "policy",
)
_TYPES = {"enum", "domain", "type"}
_CONSTRAINT_ORDER = "pucxf"
# Dropped last, because columns let go of them first.
_DROPPED_LATE = _TYPES | {"extension", "collation", "sequence", "function", "procedure"}
# Changed by the statement that creates them.
_SET_AGAIN = {
    "comment",
    "row-level security",
    "replica identity",
    "cluster",
    "storage parameters",
    "function",
    "procedure",
}
# Dropped and created again with what they depend on.
_REPLACED = {"constraint", "index", "view", "materialized view", "default", "statistics", "trigger", "rule", "policy"}
# Compared, and neither written nor dropped.
_UNWRITTEN = {"storage", "internal trigger", "index of a constraint", "comment"}


@dataclass(frozen=True)
class Plan:
    """The steps in order, advice about rows that exist, and the objects that cannot be changed, a sentence each."""

    steps: list[Step] = field(default_factory=list[Step])
    advice: list[str] = field(default_factory=list[str])
    refused: list[str] = field(default_factory=list[str])


def plan(connection: Connection, old: Catalogue, new: Catalogue, untouchable: frozenset[str] = frozenset()) -> Plan:
    """Return the steps from `old`, the schema of the connection, to `new`; runs nothing but reads the casts.

    An object whose key is `untouchable` is not dropped to be created again.
    """
    return _Planner(connection, old, new, untouchable).plan()


class _Planner:
    """What is dropped, changed, replaced and created; then the order and the statements."""

    def __init__(self, connection: Connection, old: Catalogue, new: Catalogue, untouchable: frozenset[str]) -> None:
        self.connection, self.old, self.new = connection, old, new
        self.created = new.keys() - old.keys()
        self.dropped = old.keys() - new.keys()
        self.changed = {key for key in old.keys() & new.keys() if old[key].definition != new[key].definition}
        self.rebuilt = {key for key in self.changed if self._is_rebuilt(key)}
        self.replaced = {
            key
            for key in self.changed
            if old[key].kind in _REPLACED
            or (old[key].kind == "column" and ddl.replaced_by_new_column(old[key], new[key]))
        }
        self._propagate(untouchable)
        self.changed -= self.replaced
        self.rewritten -= self.replaced
        # Written with their column.
        self.handled = {
            key for key in self.changed if old[key].kind == "sequence" and ddl.changes_owner(old[key], new[key])
        }
        self.result = Plan()

    def _is_rebuilt(self, key: str) -> bool:
        """Return whether a type gets another definition that `ALTER TYPE … ADD VALUE` cannot reach."""
        old, new = self.old[key], self.new[key]
        if old.kind == "type":
            # No cast leads from a composite type to its successor.
            return not self._columns_with(key)
        if old.kind != "enum":
            return old.kind in _TYPES
        added = [ddl.constant(label) for label in new.facts["labels"] if label not in old.facts["labels"]]
        # PostgreSQL does not let the transaction that adds a label use it.
        used = any(
            label in self.new[other].definition
            for other in self.created | self.changed
            if other != key
            for label in added
        )
        return used or not ddl.only_adds_labels(old, new)

    def _columns_with(self, key: str) -> list[SchemaObject]:
        """Return the columns that have a type, also in an array, a domain or another composite type."""
        types, before = {key}, 0
        while before != (before := len(types)):
            types |= {other.key for other in self.old.values() if other.kind in _TYPES and other.requires & types}
        return [found for found in self.old.values() if found.kind == "column" and found.requires & types]

    def _propagate(self, untouchable: frozenset[str]) -> None:
        """Add what depends on an object that is dropped, replaced or rewritten."""
        self.rewritten = {
            key
            for key in self.changed - self.replaced
            if self.old[key].kind == "column" and ddl.retyped(self.old[key], self.new[key])
        }
        before = -1
        while before != (before := len(self.replaced) + len(self.rewritten)):
            for key in (self.old.keys() & self.new.keys()) - self.replaced - untouchable:
                found = self.old[key]
                gone = bool(found.requires & (self.dropped | self.replaced))
                altered = any(self._disturbs(required, found) for required in found.requires & self.rewritten)
                generated = found.kind == "column" and found.facts["generated"] and self.new[key].facts["generated"]
                if (gone and found.kind == "comment") or ((gone or altered) and (generated or found.kind in _REPLACED)):
                    self.replaced.add(key)
                elif found.kind == "column" and found.requires & self.rebuilt:
                    self.rewritten.add(key)

    def _disturbs(self, column: str, found: SchemaObject) -> bool:
        """Return whether an object has to go while a column that it depends on is rewritten."""
        if found.kind == "constraint" and found.facts["type"] in "cf":
            old, new = self.old[column], self.new[column]
            return bool(old.requires & self.rebuilt) or not ddl.same_family(old, new)
        if found.kind in {"constraint", "statistics"}:
            return False
        return found.kind != "index" or bool(found.facts["computed"])

    def plan(self) -> Plan:
        self._drop_first()
        inlined = set(self._inlined())
        changed = self.created | self.replaced | self.changed | self.rewritten
        for key in self._sorted(self.new, changed - inlined - self.handled):
            if key not in self.handled:
                self.result.steps.extend(self._create_or_change(key))
        for key in self._drop_last():
            self.result.steps.extend(self._drop(self.old[key]))
        for key in sorted(self.rebuilt):
            old = self.old[key]
            self.result.steps.append(Step(f"DROP TYPE {quoted(_name_meanwhile(old))}"))
        return self.result

    # The order

    def _sorted(self, catalogue: Catalogue, keys: Iterable[str]) -> Iterator[str]:
        """Sort objects so that each comes after those that it requires, and by kind and name otherwise."""
        wanted = set(keys)
        tables = {name: position for position, name in enumerate(self._tables_in_order(catalogue))}
        graph: TopologicalSorter[str] = TopologicalSorter()
        for key in wanted:
            found = catalogue[key]
            requires = {required for required in found.requires if not _is_owner(found, catalogue[required])}
            if found.table and found.kind != "table":
                requires.add(f"table {found.table}")
            if found.kind == "table":
                # Its columns are created with it.
                requires |= {
                    required
                    for other in catalogue.values()
                    if other.table == found.name and other.kind in {"column", "constraint"} and other.key not in wanted
                    for required in other.requires
                    if catalogue[required].table != found.name
                    and catalogue[required].kind not in {"column", "constraint"}
                }
            graph.add(key, *(requires & wanted))
        graph.prepare()
        ready: list[tuple[int, int, str]] = []
        while graph.is_active():
            for key in graph.get_ready():
                heapq.heappush(ready, (_rank(catalogue[key]), tables.get(catalogue[key].name, 0), key))
            *_, key = heapq.heappop(ready)
            yield key
            graph.done(key)

    def _tables_in_order(self, catalogue: Catalogue) -> Iterator[str]:
        """Return tables after those that their foreign keys refer to, where there is no circle."""
        targets: dict[str, list[str]] = {}
        for found in catalogue.values():
            if found.kind == "constraint" and found.facts["type"] == "f":
                targets.setdefault(str(found.table), []).append(found.facts["to"])
        seen: set[str] = set()

        def visit(name: str) -> Iterator[str]:
            if name not in seen:
                seen.add(name)
                for target in sorted(targets.get(name, [])):
                    yield from visit(target)
                yield name

        for found in catalogue.values():
            if found.kind == "table":
                yield from visit(found.name)

    # Drops

    def _drop_first(self) -> None:
        for key in sorted(self.changed):
            if ddl.keeps_computed_values(self.old[key], self.new[key]):
                # Before the columns change that it is computed from.
                self.result.steps.append(ddl.drop_expression(self.new[key]))
        first = {key for key in self.dropped | self.replaced if self.old[key].kind not in _DROPPED_LATE}
        for key in reversed(list(self._sorted(self.old, first))):
            if not self._goes_with_another(self.old[key]):
                self.result.steps.extend(self._drop(self.old[key]))

    def _drop_last(self) -> Iterator[str]:
        last = {key for key in self.dropped if self.old[key].kind in _DROPPED_LATE}
        for key in reversed(list(self._sorted(self.old, last))):
            if key not in self.handled and not self._goes_with_another(self.old[key]):
                yield key

    def _goes_with_another(self, found: SchemaObject) -> bool:
        """Return whether PostgreSQL drops an object with its table, column or whatever it is a comment on."""
        gone = self.dropped | self.replaced
        if found.kind == "comment":
            return bool(found.requires & gone)
        if found.kind == "sequence" and f"column {found.table}.{found.facts['column']}" in gone:
            return True
        if found.root == found.key or found.root not in gone:
            return False
        # Tables that refer to each other let go first.
        refers = found.kind == "constraint" and found.facts["type"] == "f" and found.facts["to"] != found.table
        return not (refers and f"table {found.facts['to']}" in self.dropped)

    def _drop(self, found: SchemaObject) -> Iterator[Step]:
        table = quoted(str(found.table))
        if "drop" in found.facts:
            yield Step(found.facts["drop"])
        elif not found.comparable or found.kind in _UNWRITTEN:
            self.result.refused.append(f"{found.key} is not dropped: `generate` does not write this kind of object")
        elif found.kind == "constraint":
            yield Step(f"ALTER TABLE {table} DROP CONSTRAINT {quoted(found.facts['name'])}")
        elif found.kind == "column":
            column, new = found.facts["name"], self.new.get(found.key)
            # What is computed again is not lost.
            derived = found.facts["generated"] and (new is None or new.facts["generated"])
            losses = () if derived else (Loss(str(found.table), column),)
            yield Step(f"ALTER TABLE {table} DROP COLUMN {quoted(column)}", losses)
        else:
            yield Step(f"DROP {found.handle}", (Loss(found.name),) if found.kind == "table" else ())

    # Creations and changes

    def _inlined(self) -> Iterator[str]:
        """Return the created objects that `CREATE TABLE` and `ADD COLUMN` write."""
        for key in self.created | self.replaced:
            found = self.new[key]
            if found.kind == "sequence" and (column := self.new.get(f"column {found.table}.{found.facts['column']}")):
                serial = found.facts["identity"] or ddl.is_serial(column, found)
                if serial or column.key in self.old:
                    yield key
            elif found.kind == "column" and f"table {found.table}" in self.created:
                yield key

    def _create_or_change(self, key: str) -> Iterator[Step]:
        new = self.new[key]
        if key in self.changed and new.kind not in _SET_AGAIN:
            yield from self._change(self.old[key], new)
        elif key in self.rewritten:
            yield from self._change_column(self.old[key], new)
        elif new.kind == "table":
            yield from self._create_table(new)
        elif new.kind == "column":
            yield from self._add_column(new)
        elif new.create:
            yield Step(new.create)
        else:
            self.result.refused.append(f"{key} is not created: `generate` does not write this kind of object")

    def _create_table(self, table: SchemaObject) -> Iterator[Step]:
        if not table.facts["plain"] or table.parent:
            what = f"a partition or a child of {table.parent}" if table.parent else f"a table {table.definition!r}"
            self.result.refused.append(f"{table.key} is not created: `generate` does not write {what}")
            return
        exists = self.old.keys() | self.handled | {table.key}
        constraints = sorted(
            (
                found
                for found in self.new.values()
                if found.kind == "constraint"
                and found.table == table.name
                and found.key in self.created
                and (found.facts["type"] != "f" or f"table {found.facts['to']}" in exists)
            ),
            key=lambda found: (_CONSTRAINT_ORDER.index(found.facts["type"]), found.name),
        )
        self.handled |= {table.key, *(found.key for found in constraints)}
        yield Step(ddl.table_sql(table, self.new, constraints))
        for column in self.new.values():
            if column.kind == "column" and column.table == table.name:
                yield from self._own_sequence(column)

    def _add_column(self, column: SchemaObject) -> Iterator[Step]:
        sequence = ddl.owned_sequence(self.new, column)
        facts = column.facts
        yield Step(f"ALTER TABLE {quoted(str(column.table))} ADD COLUMN {ddl.column_sql(column, sequence)}")
        yield from self._own_sequence(column)
        filled = facts["expression"] is not None or facts["identity"] or facts["generated"]
        if facts["not_null"] and not filled:
            self.result.advice.append(
                f"column {column.name} is NOT NULL without a default, which fails if {column.table} has rows: add it"
                " nullable, fill it, and set NOT NULL in a later migration"
            )

    def _own_sequence(self, column: SchemaObject) -> Iterator[Step]:
        """Give a sequence that `serial` did not create to its column."""
        sequence = ddl.owned_sequence(self.new, column)
        if sequence and not sequence.facts["identity"] and not ddl.is_serial(column, sequence):
            name = f"{quoted(str(column.table))}.{quoted(column.facts['name'])}"
            yield Step(f"ALTER SEQUENCE {quoted(sequence.name)} OWNED BY {name}")

    def _change(self, old: SchemaObject, new: SchemaObject) -> Iterator[Step]:
        if new.kind == "column":
            yield from self._change_column(old, new)
        elif new.key in self.rebuilt:
            yield Step(f"ALTER TYPE {quoted(old.name)} RENAME TO {quoted(_name_meanwhile(old))}")
            yield Step(str(new.create))
        elif new.kind == "enum":
            yield from ddl.label_steps(old, new)
        elif new.kind == "type":
            columns = self._columns_with(new.key)
            if reason := ddl.attributes_refused(old, new, columns):
                self.result.refused.append(reason)
            else:
                yield from ddl.attribute_steps(old, new, columns)
        elif new.kind == "sequence":
            yield from ddl.sequence_steps(old, new, self.new)
        elif new.kind == "table" and old.facts == {**new.facts, "unlogged": old.facts["unlogged"]}:
            yield Step(f"ALTER TABLE {quoted(new.name)} SET {'UNLOGGED' if new.facts['unlogged'] else 'LOGGED'}")
        else:
            self.result.refused.append(f"{new.key} is not changed from {old.definition!r} to {new.definition!r}")

    def _change_column(self, old: SchemaObject, new: SchemaObject) -> Iterator[Step]:
        had, gets = ddl.owned_sequence(self.old, old), ddl.owned_sequence(self.new, new)
        if had and had.key in self.dropped:
            self.handled.add(had.key)
        rebuilt = bool(new.requires & self.rebuilt) and not ddl.retyped(old, new)
        change = ddl.ColumnChange(old, new, had, gets, rebuilt, self.old, self.new)
        yield from change.steps(self.connection)
        if new.facts["not_null"] and not old.facts["not_null"]:
            self.result.advice.append(
                f"column {new.name} becomes NOT NULL, which fails if a row has no value: fill the rows first"
            )


def _rank(found: SchemaObject) -> int:
    if found.kind == "constraint":
        return 10 * _ORDER.index("constraint") + _CONSTRAINT_ORDER.index(found.facts["type"])
    if found.kind == "sequence" and found.table:
        # After the column, whose type decides the range of an identity.
        return 10 * _ORDER.index("column") + 1
    return 10 * (_ORDER.index(found.kind) if found.kind in _ORDER else len(_ORDER))


def _is_owner(found: SchemaObject, required: SchemaObject) -> bool:
    """Return whether a sequence belongs to the column, which in turn takes its default from it."""
    return found.kind == "sequence" and required.kind == "column"


def _name_meanwhile(found: SchemaObject) -> str:
    """The name of a type while columns change from it to its successor."""
    return f"{found.name}_before"
