"""The SQL of a column, a table and a type, from what the catalogue says about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tatame_db.database.dialect import quoted
from tatame_db.evolve import casts
from tatame_db.evolve.catalogue import Catalogue, SchemaObject, run_verbatim

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection

_SERIAL = {"smallint": "smallserial", "integer": "serial", "bigint": "bigserial"}
_IDENTITY = {"a": "ALWAYS", "d": "BY DEFAULT"}
_NUMBERS = {"smallint", "integer", "bigint", "numeric", "real", "double precision"}
_TEXTS = {"text", "character varying", "character"}


@dataclass(frozen=True)
class Loss:
    """Values that a step drops or rewrites: those of a table, or of a column; `new_type` if they are rewritten."""

    table: str
    column: str | None = None
    new_type: str | None = None

    def __str__(self) -> str:
        if self.column is None:
            return f"table {self.table} is dropped with its rows"
        if self.new_type:
            return (
                f"column {self.table}.{self.column} becomes {self.new_type}, which changes its values, or fails if one"
                " cannot be converted"
            )
        return f"column {self.table}.{self.column} is dropped with its values"


@dataclass(frozen=True)
class Step:
    """A statement without a semicolon, and the values that it may lose."""

    sql: str
    losses: tuple[Loss, ...] = ()


def constant(text: str) -> str:
    """Write a text as PostgreSQL's catalogue does, for SQL that has no placeholders."""
    doubled = text.replace("'", "''")
    return f"'{doubled}'"


def owned_sequence(catalogue: Catalogue, column: SchemaObject) -> SchemaObject | None:
    """Return the sequence that belongs to a column of type `serial` or with an identity."""
    for candidate in catalogue.values():
        if (
            candidate.kind == "sequence"
            and candidate.table == column.table
            and candidate.facts["column"] == column.facts["name"]
        ):
            return candidate
    return None


def is_serial(column: SchemaObject, sequence: SchemaObject | None) -> bool:
    """Return whether a column is what `serial` creates."""
    facts = column.facts
    return (
        sequence is not None
        and not sequence.facts["identity"]
        and sequence.facts["changed"] is None
        and sequence.name == f"{column.table}_{facts['name']}_seq"
        and sequence.definition.startswith(f"AS {facts['type']} ")
        and sequence.key in column.requires
        and facts["type"] in _SERIAL
        and facts["not_null"]
    )


def changes_owner(old: SchemaObject, new: SchemaObject) -> bool:
    """Return whether a sequence changes between `serial` and an identity, which is another sequence."""
    return bool(old.facts["identity"] != new.facts["identity"])


def column_sql(column: SchemaObject, sequence: SchemaObject | None) -> str:
    """Write a column as `CREATE TABLE` and `ADD COLUMN` take it."""
    facts = column.facts
    not_null = "NOT NULL" if facts["not_null"] else None
    if is_serial(column, sequence):
        return f"{quoted(facts['name'])} {_SERIAL[facts['type']]} {not_null}"
    value = None
    if facts["generated"]:
        value = f"GENERATED ALWAYS AS ({facts['expression']}) {'VIRTUAL' if facts['generated'] == 'v' else 'STORED'}"
    elif facts["identity"]:
        value = _identity_sql(column, sequence)
    elif facts["expression"] is not None:
        value = f"DEFAULT {facts['expression']}"
    parts = (quoted(facts["name"]), facts["type"], facts["collation"], value, not_null)
    return " ".join(filter(None, parts))


def _identity_sql(column: SchemaObject, sequence: SchemaObject | None) -> str:
    options: list[str] = []
    if sequence is not None:
        if sequence.name != f"{column.table}_{column.facts['name']}_seq":
            options.append(f"SEQUENCE NAME {quoted(sequence.name)}")
        if sequence.facts["changed"]:
            options.append(sequence.facts["changed"])
    written = f" ({' '.join(options)})" if options else ""
    return f"GENERATED {_IDENTITY[column.facts['identity']]} AS IDENTITY{written}"


def table_sql(table: SchemaObject, catalogue: Catalogue, constraints: Iterable[SchemaObject]) -> str:
    """Write `CREATE TABLE` with the columns and these constraints."""
    columns = sorted(
        (found for found in catalogue.values() if found.kind == "column" and found.table == table.name),
        key=lambda column: int(column.facts["number"]),
    )
    lines = [column_sql(column, owned_sequence(catalogue, column)) for column in columns]
    lines += [f"CONSTRAINT {quoted(found.facts['name'])} {found.definition}" for found in constraints]
    kind = "UNLOGGED TABLE" if table.facts["unlogged"] else "TABLE"
    partition = f"\nPARTITION BY {table.facts['partition']}" if table.facts["partition"] else ""
    return f"CREATE {kind} {quoted(table.name)} (\n    " + ",\n    ".join(lines) + f"\n){partition}"


def retyped(old: SchemaObject, new: SchemaObject) -> bool:
    """Return whether a column gets another type or collation."""
    return (old.facts["type"], old.facts["collation"]) != (new.facts["type"], new.facts["collation"])


def same_family(old: SchemaObject, new: SchemaObject) -> bool:
    """Return whether PostgreSQL can keep the keys and checks of a column that gets another type."""
    types = {casts.parse(column.facts["type"]).base for column in (old, new)}
    return old.facts["collation"] == new.facts["collation"] and (types <= _NUMBERS or types <= _TEXTS)


def keeps_computed_values(old: SchemaObject, new: SchemaObject) -> bool:
    """Return whether a column is no longer computed, and has values that stay; a virtual one has none."""
    return old.kind == "column" and old.facts["generated"] == "s" and not new.facts["generated"]


def drop_expression(column: SchemaObject) -> Step:
    """Stop computing a column."""
    return Step(f"ALTER TABLE {quoted(str(column.table))} ALTER COLUMN {quoted(column.facts['name'])} DROP EXPRESSION")


def replaced_by_new_column(old: SchemaObject, new: SchemaObject) -> bool:
    """Return whether a column must be dropped and added: another computation, or computed from now on."""
    before, after = old.facts["generated"], new.facts["generated"]
    if not before and not after:
        return False
    if not after:
        # The stored values stay; a virtual column has none.
        return bool(before == "v")
    return bool(before != after) or old.facts["expression"] != new.facts["expression"] or retyped(old, new)


def past_rows(sequence: SchemaObject, column: SchemaObject) -> Step:
    """Move a sequence past the ids of the rows that exist, which new rows must not get."""
    facts, name = sequence.facts, quoted(column.facts["name"])
    last, beyond = (f"max({name})", ">=") if facts["increment"] > 0 else (f"min({name})", "<=")
    return Step(
        f"SELECT setval({constant(quoted(sequence.name))}, {last}) FROM {quoted(str(column.table))}"
        f" HAVING {last} {beyond} {facts['start']}"
    )


@dataclass(frozen=True)
class ColumnChange:
    """A column before and after, with the sequence of each if it is serial or an identity."""

    old: SchemaObject
    new: SchemaObject
    had: SchemaObject | None
    gets: SchemaObject | None
    rebuilt: bool
    """True if the type keeps its name and gets another definition."""
    before: Catalogue = field(default_factory=Catalogue)
    after: Catalogue = field(default_factory=Catalogue)
    """The schemas, for domains and enums."""

    @property
    def alter(self) -> str:
        """The beginning of most of its statements."""
        return f"ALTER TABLE {quoted(str(self.new.table))} ALTER COLUMN {quoted(self.new.facts['name'])}"

    @property
    def other_sequence(self) -> bool:
        """Whether the column gets another sequence than it had."""
        had, gets = self.had, self.gets
        return had is None or gets is None or had.name != gets.name or changes_owner(had, gets)

    def steps(self, connection: Connection) -> Iterator[Step]:
        """Change the column in place."""
        converted = self.rebuilt or retyped(self.old, self.new)
        conversion = _conversion(connection, self) if converted else None
        before, after = self.old.facts, self.new.facts
        # A value that is computed no longer stays as it is.
        expression = None if before["generated"] else before["expression"]
        default_changes = expression != after["expression"] and not after["generated"]
        drop_default = expression is not None and (
            (default_changes and (after["expression"] is None or conversion is not None))
            or (conversion is not None and bool(conversion.using))
        )
        if drop_default:
            yield Step(f"{self.alter} DROP DEFAULT")
        yield from self._let_go_of_sequence()
        if conversion is not None:
            collation = f" {after['collation']}" if after["collation"] else ""
            losses = () if conversion.lossless else (Loss(str(self.new.table), after["name"], after["type"]),)
            yield Step(f"{self.alter} TYPE {after['type']}{collation}{conversion.using}", losses)
        if after["not_null"] != before["not_null"]:
            yield Step(f"{self.alter} {'SET' if after['not_null'] else 'DROP'} NOT NULL")
        if after["identity"] and after["identity"] != before["identity"]:
            always = f"SET GENERATED {_IDENTITY[after['identity']]}"
            yield Step(f"{self.alter} {always if before['identity'] else f'ADD {_identity_sql(self.new, self.gets)}'}")
        yield from self._take_sequence(
            set_default=after["expression"] is not None and (default_changes or drop_default)
        )

    def _let_go_of_sequence(self) -> Iterator[Step]:
        if self.old.facts["identity"] and not self.new.facts["identity"]:
            yield Step(f"{self.alter} DROP IDENTITY")
        if self.had and not self.had.facts["identity"] and self.other_sequence:
            yield Step(f"DROP {self.had.handle}")

    def _take_sequence(self, *, set_default: bool) -> Iterator[Step]:
        gets = self.gets if self.other_sequence else None
        serial = gets is not None and not gets.facts["identity"]
        if gets and serial:
            yield Step(str(gets.create))
        if set_default:
            yield Step(f"{self.alter} SET DEFAULT {self.new.facts['expression']}")
        if gets and serial:
            name = f"{quoted(str(self.new.table))}.{quoted(self.new.facts['name'])}"
            yield Step(f"ALTER SEQUENCE {quoted(gets.name)} OWNED BY {name}")
        if gets:
            yield past_rows(gets, self.new)


@dataclass(frozen=True)
class _Conversion:
    """How the values of a column get another type: the `USING` clause, empty if PostgreSQL needs none."""

    using: str
    lossless: bool


def _conversion(connection: Connection, change: ColumnChange) -> _Conversion:
    source, target = change.old.facts["type"], change.new.facts["type"]
    name = quoted(change.new.facts["name"])
    if source == target and not change.rebuilt:
        return _Conversion("", lossless=True)
    before, after = underlying(source, change.before), underlying(target, change.after)
    if change.rebuilt and after.removesuffix("[]") in _enums(change.after):
        # A label is the same text in both.
        text = "text[]" if after.endswith("[]") else "text"
        return _Conversion(f" USING {name}::{text}::{target}", lossless=True)
    lossless = casts.is_lossless(before, after, _enums(change.before))
    if casts.is_utc(before, after):
        # Otherwise the zone of the session decides which moment it is.
        return _Conversion(f" USING {name} AT TIME ZONE 'UTC'", lossless)
    old, new = casts.parse(before), casts.parse(after)
    # Without USING, PostgreSQL rejects a text that is too long; a cast would cut it.
    if old.is_array == new.is_array and _is_assigned(connection, old.base, new.base):
        return _Conversion("", lossless)
    return _Conversion(f" USING {name}::{target}", lossless)


def _is_assigned(connection: Connection, source: str, target: str) -> bool:
    """Return whether PostgreSQL converts a value that is assigned, without a cast."""
    if source == target:
        return True
    found = run_verbatim(
        connection,
        "SELECT castcontext::text FROM pg_cast"
        f" WHERE castsource = to_regtype({constant(source)}) AND casttarget = to_regtype({constant(target)})",
    ).scalar()
    # Every type can be written as text.
    return found in {"i", "a"} or (found is None and target in _TEXTS)


def underlying(name: str, catalogue: Catalogue) -> str:
    """Return the type below a domain, with its length; any other type as it is."""
    element = name.removesuffix("[]")
    for found in catalogue.values():
        if found.kind == "domain" and found.handle == f"TYPE {element}":
            base = underlying(found.facts["base"], catalogue)
            # An array of a domain over an array has no other name.
            return name if base.endswith("[]") and name != element else base + name[len(element) :]
    return name


def _enums(catalogue: Catalogue) -> frozenset[str]:
    """Return the enums, named as in the type of a column."""
    return frozenset(found.handle.removeprefix("TYPE ") for found in catalogue.values() if found.kind == "enum")


def only_adds_labels(old: SchemaObject, new: SchemaObject) -> bool:
    """Return whether an enum keeps its labels and their order."""
    before, after = old.facts["labels"], new.facts["labels"]
    return bool([label for label in after if label in before] == before)


def label_steps(old: SchemaObject, new: SchemaObject) -> Iterator[Step]:
    """Add the new labels of an enum at their places."""
    labels: list[str] = new.facts["labels"]
    kept: list[str] = old.facts["labels"]
    for position, label in enumerate(labels):
        if label in kept:
            continue
        place = (
            f" AFTER {constant(labels[position - 1])}" if position else f" BEFORE {constant(kept[0])}" if kept else ""
        )
        yield Step(f"ALTER {new.handle} ADD VALUE {constant(label)}{place}")


def attributes_refused(old: SchemaObject, new: SchemaObject, columns: Iterable[SchemaObject]) -> str | None:
    """Return the reason why a composite type that columns have cannot get other attributes."""
    before, after = dict(old.facts["attributes"]), dict(new.facts["attributes"])
    kept = [name for name in before if name in after]
    others = [f"{name} from {before[name]} to {after[name]}" for name in kept if before[name] != after[name]]
    if not others and list(after)[: len(kept)] == kept:
        return None
    change = f"the type of {', '.join(others)}" if others else "the order of its attributes"
    names = ", ".join(column.name for column in columns)
    return f"{new.key} does not change {change}: no cast keeps the values of {names}"


def attribute_steps(old: SchemaObject, new: SchemaObject, columns: Iterable[SchemaObject]) -> Iterator[Step]:
    """Drop attributes of a composite type, and add others at its end; `columns` have the type."""
    before, after = dict(old.facts["attributes"]), dict(new.facts["attributes"])
    for name in [name for name in before if name not in after]:
        losses = [Loss(str(column.table), column.facts["name"], f"{new.name} without {name}") for column in columns]
        yield Step(f"ALTER {new.handle} DROP ATTRIBUTE {quoted(name)}", tuple(losses))
    for name in [name for name in after if name not in before]:
        yield Step(f"ALTER {new.handle} ADD ATTRIBUTE {quoted(name)} {after[name]}")


def sequence_steps(old: SchemaObject, new: SchemaObject, catalogue: Catalogue) -> Iterator[Step]:
    """Change the options of a sequence."""
    alter = f"ALTER SEQUENCE {quoted(new.name)}"
    if old.facts["persistence"] != new.facts["persistence"]:
        table = catalogue.get(f"table {new.table}")
        of_table = "UNLOGGED" if table and table.facts["unlogged"] else "LOGGED"
        yield Step(f"{alter} SET {new.facts['persistence'] or of_table}")
    owner = catalogue.get(f"column {new.table}.{new.facts['column']}")
    turns = (old.facts["increment"] > 0) != (new.facts["increment"] > 0)
    yield Step(f"{alter} {new.facts['full']}{' RESTART' if owner and turns else ''}")
    if owner and turns:
        yield past_rows(new, owner)
