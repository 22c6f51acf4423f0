"""From what a database has to what the models say, as operations; a rename is asked about, never guessed."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alembic.autogenerate import produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import Operations, ops
from sqlalchemy import ForeignKeyConstraint, PrimaryKeyConstraint, UniqueConstraint, inspect, text

from tatame_db.errors import NOTHING_CHANGED, TatameError
from tatame_db.schema import Base

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Inspector, MetaData, Table

# Types, defaults and, by name, checks; what even these do not see is found by comparing catalogues.
_COMPARE = {
    "compare_type": True,
    "compare_server_default": True,
    "autogenerate_plugins": ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
}


class RenameUndecided(TatameError):
    """Something would go and something like it would come, and nobody said whether it is the same."""

    def __init__(self, gone: str, candidates: list[str]) -> None:
        self.gone, self.candidates = gone, candidates
        names = " or ".join(f"`--rename {gone}:{name}`" for name in candidates)
        super().__init__(
            f"{gone} is no longer in the models, and {', '.join(candidates)} is new there: renamed, or dropped?",
            means=f"{NOTHING_CHANGED} A rename keeps the data, a drop loses it.",
            fix=f"say {names}, or `--drop {gone}`",
        )


class AnswerUseless(TatameError):
    """A `--rename` or `--drop` names something that has not gone, or has not come."""

    def __init__(self, answer: str, problem: str) -> None:
        self.answer = answer
        super().__init__(
            f"`{answer}` does not fit: {problem}",
            means=NOTHING_CHANGED,
            fix="write `--rename table.column:new_column`, `--rename table:new_table`, or `--drop table.column`",
        )


@dataclass(frozen=True)
class Answers:
    """What was said in advance about things that go: what they become, or that they really go."""

    renames: dict[str, str] = field(default_factory=dict[str, str])
    drops: frozenset[str] = frozenset()
    ask: Callable[[str, list[str]], str | None] | None = None
    """Called with what goes and what could be its new name; answers with the name, or `None` for a drop."""

    @classmethod
    def parse(
        cls,
        renames: list[str],
        drops: list[str],
        ask: Callable[[str, list[str]], str | None] | None = None,
    ) -> Answers:
        """Read `users.plan:tier` and `users.plan`. Raises `AnswerUseless`."""
        pairs: dict[str, str] = {}
        for rename in renames:
            gone, _, name = rename.partition(":")
            if not gone or not name or "." in name:
                raise AnswerUseless(f"--rename {rename}", "it is not `old:new`")
            pairs[gone] = name
        return cls(pairs, frozenset(drops), ask)

    def about(self, gone: str, candidates: list[str]) -> str | None:
        """Decide one thing. Raises `RenameUndecided`, `AnswerUseless`."""
        if gone in self.drops:
            return None
        if name := self.renames.get(gone):
            if name not in candidates:
                raise AnswerUseless(f"--rename {gone}:{name}", f"{name} is not new in the models")
            return name
        if not candidates:
            return None
        if self.ask is None:
            raise RenameUndecided(gone, candidates)
        return self.ask(gone, candidates)


@dataclass(frozen=True)
class Renaming:
    """A rename as SQL, there and back."""

    up: str
    down: str


@dataclass(frozen=True)
class Change:
    """What leads from a database to the models: renames first, then the rest."""

    renamings: list[Renaming]
    upgrade: ops.UpgradeOps

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.renamings and self.upgrade.is_empty()

    def statements(self, connection: Connection) -> list[str]:
        """Write the SQL of the change, in order."""
        written = io.StringIO()
        context = MigrationContext.configure(
            dialect=connection.dialect, opts={"as_sql": True, "output_buffer": written, "literal_binds": True}
        )
        operations = Operations(context)
        for operation in flattened(self.upgrade):
            operations.invoke(operation)
        rest = [statement.strip() for statement in written.getvalue().split(";\n\n")]
        return [renaming.up for renaming in self.renamings] + [statement for statement in rest if statement]


def find_change(connection: Connection, answers: Answers, metadata: MetaData = Base.metadata) -> Change:
    """Compare a database with the models, applying the decided renames to it on the way.

    The renames are left in the connection's transaction: commit them on a scratch database, roll back on others.
    Raises `RenameUndecided`, `AnswerUseless`.
    """
    renamings: list[Renaming] = []
    decided: set[str] = set()
    while renaming := _next_rename(connection, metadata, answers, decided):
        _apply(connection, renaming)
        renamings += renaming
    if renamings:
        followers = list(_renamed_followers(connection, metadata))
        _apply(connection, followers)
        renamings += followers
    for answer in answers.renames.keys() | answers.drops:
        if answer not in decided:
            raise AnswerUseless(answer, "nothing of this name has gone from the models")
    return Change(renamings, _operations(connection, metadata))


def flattened(upgrade: ops.OpContainer) -> Iterator[ops.MigrateOperation]:
    """List single operations, where Alembic groups those of a table."""
    for operation in upgrade.ops:
        if isinstance(operation, ops.OpContainer):
            yield from flattened(operation)
        else:
            yield operation


def _operations(connection: Connection, metadata: MetaData) -> ops.UpgradeOps:
    context = MigrationContext.configure(connection, opts=_COMPARE | {"target_metadata": metadata})
    upgrade = produce_migrations(context, metadata).upgrade_ops
    assert upgrade is not None  # noqa: S101, Alembic's type allows for other uses of it
    # CREATE TABLE leaves out the keys of tables that point at each other, and Alembic does not add them.
    upgrade.ops += [
        ops.CreateForeignKeyOp.from_constraint(constraint)
        for operation in flattened(upgrade)
        if isinstance(operation, ops.CreateTableOp)
        for constraint in operation.to_table().foreign_key_constraints
        if constraint.use_alter
    ]
    return upgrade


def _next_rename(connection: Connection, metadata: MetaData, answers: Answers, decided: set[str]) -> list[Renaming]:
    """The first rename that the answers decide, tables before columns; what is dropped is only noted."""
    there = inspect(connection)
    quote = connection.dialect.identifier_preparer.quote
    tables = set(there.get_table_names())
    new_tables = sorted(metadata.tables.keys() - tables)
    for gone in sorted(tables - metadata.tables.keys() - decided):
        name = answers.about(gone, new_tables)
        decided.add(gone)
        if name:
            return [_renaming(connection, "ALTER TABLE {} RENAME TO {}", gone, name)]
    for table in sorted(tables & metadata.tables.keys()):
        columns = {column["name"] for column in there.get_columns(table)}
        wanted = set(metadata.tables[table].columns.keys())
        for gone in sorted(columns - wanted):
            key = f"{table}.{gone}"
            if key in decided:
                continue
            name = answers.about(key, sorted(wanted - columns))
            decided.add(key)
            if name:
                return [_renaming(connection, f"ALTER TABLE {quote(table)} RENAME COLUMN {{}} TO {{}}", gone, name)]
    return []


def _renaming(connection: Connection, sql: str, old: str, new: str) -> Renaming:
    """Fill the old and the new name into SQL, and the other way round for the way back."""
    quote = connection.dialect.identifier_preparer.quote
    return Renaming(sql.format(quote(old), quote(new)), sql.format(quote(new), quote(old)))


def _renamed_followers(connection: Connection, metadata: MetaData) -> Iterator[Renaming]:
    """Give constraints, indexes and sequences the names that follow from the new names of tables and columns."""
    there = inspect(connection)
    quote = connection.dialect.identifier_preparer.quote
    for name in sorted(set(there.get_table_names()) & metadata.tables.keys()):
        table = metadata.tables[name]
        wanted = dict(_named_by_shape(table))
        for shape, old in _found_by_shape(there, name):
            new = wanted.get(shape)
            if new and new != old:
                index = shape[0] == "index"
                sql = (
                    "ALTER INDEX {} RENAME TO {}"
                    if index
                    else f"ALTER TABLE {quote(name)} RENAME CONSTRAINT {{}} TO {{}}"
                )
                yield _renaming(connection, sql, old, new)
        for column in table.primary_key.columns:
            sequence = connection.scalar(
                text("SELECT pg_get_serial_sequence(quote_ident(:t), :c)::regclass::text"),
                {"t": name, "c": column.name},
            )
            expected = f"{name}_{column.name}_seq"
            if sequence and sequence != expected:
                yield _renaming(connection, "ALTER SEQUENCE {} RENAME TO {}", sequence, expected)


Shape = tuple[Any, ...]


def _named_by_shape(table: Table) -> Iterator[tuple[Shape, str]]:
    for constraint in table.constraints:
        kind = type(constraint).__name__
        if isinstance(constraint, PrimaryKeyConstraint | UniqueConstraint | ForeignKeyConstraint):
            yield (kind, tuple(column.name for column in constraint.columns)), str(constraint.name)
    for index in table.indexes:
        yield ("index", tuple(getattr(column, "name", str(column)) for column in index.expressions)), str(index.name)


def _found_by_shape(there: Inspector, table: str) -> Iterator[tuple[Shape, str]]:
    key = there.get_pk_constraint(table)
    if key["name"]:
        yield ("PrimaryKeyConstraint", tuple(key["constrained_columns"])), key["name"]
    for foreign in there.get_foreign_keys(table):
        yield ("ForeignKeyConstraint", tuple(foreign["constrained_columns"])), str(foreign["name"])
    uniques = there.get_unique_constraints(table)
    for unique in uniques:
        yield ("UniqueConstraint", tuple(unique["column_names"])), str(unique["name"])
    for index in there.get_indexes(table):
        if not index.get("duplicates_constraint"):
            yield ("index", tuple(index["column_names"])), str(index["name"])


def _apply(connection: Connection, renamings: list[Renaming]) -> None:
    for renaming in renamings:
        connection.exec_driver_sql(renaming.up)
