"""The change that leads from a database to the models, as operations; a rename is never guessed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alembic.autogenerate import produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import Operations, ops
from sqlalchemy import ForeignKeyConstraint, PrimaryKeyConstraint, UniqueConstraint, inspect, text

from tatame_db.database.dialect import quoted
from tatame_db.errors import NOTHING_CHANGED, TatameError, fact
from tatame_db.schema import Base

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Inspector, MetaData, Table

# Alembic misses some changes even so, such as the text of a check; comparing catalogues finds those.
_COMPARE = {
    "compare_type": True,
    "compare_server_default": True,
    "autogenerate_plugins": ["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
}


@fact
class RenameUndecided(TatameError):
    """An object is no longer in the models and others are new, so it may be renamed or dropped."""

    gone: str
    candidates: list[str]
    what = "{gone} is no longer in the models: renamed to {names}, or dropped?"
    means = f"{NOTHING_CHANGED} A rename keeps the data, a drop loses it."
    fix = "answer with {renames} or with `--drop {gone}`"

    @property
    def names(self) -> str:
        """The possible new names."""
        return " or ".join(self.candidates)

    @property
    def renames(self) -> str:
        """The possible renames, as options."""
        return " or ".join(f"`--rename {self.gone}:{name}`" for name in self.candidates)


@fact
class AnswerInvalid(TatameError):
    """A `--rename` or `--drop` does not match the difference between database and models."""

    answer: str
    problem: str
    what = "`{answer}` is not valid: {problem}"
    fix = "write `--rename table.column:new_column`, `--rename table:new_table` or `--drop table.column`"


@dataclass(frozen=True)
class Answers:
    """The columns and tables that are no longer in the models: renamed, or dropped.

    >>> evolve.generate("rename plan", evolve.Answers(renames={"users.plan": "tier"}))
    Generated(path=PosixPath('.../20261124090000_rename_plan.py'), ...)
    """

    renames: dict[str, str] = field(default_factory=dict[str, str])
    """The new name of each renamed `table` or `table.column`."""
    drops: frozenset[str] = frozenset()
    ask: Callable[[str, list[str]], str | None] | None = None
    """Called for anything else with its name and the possible new names; returns one of them, or `None` for a drop."""

    @classmethod
    def parse(
        cls,
        renames: list[str],
        drops: list[str],
        ask: Callable[[str, list[str]], str | None] | None = None,
    ) -> Answers:
        """Parse options such as `users.plan:tier` and `users.plan`. Raises `AnswerInvalid`."""
        pairs: dict[str, str] = {}
        for rename in renames:
            gone, _, name = rename.partition(":")
            if not gone or not name or "." in name:
                raise AnswerInvalid(answer=f"--rename {rename}", problem="it is not `old:new`")
            pairs[gone] = name
        return cls(pairs, frozenset(drops), ask)

    def new_name(self, gone: str, candidates: list[str]) -> str | None:
        """Return the new name, or `None` for a drop. Raises `RenameUndecided`, `AnswerInvalid`."""
        if gone in self.drops:
            return None
        if name := self.renames.get(gone):
            if name not in candidates:
                raise AnswerInvalid(answer=f"--rename {gone}:{name}", problem=f"{name} is not new in the models")
            return name
        if not candidates:
            return None
        if self.ask is None:
            raise RenameUndecided(gone=gone, candidates=candidates)
        return self.ask(gone, candidates)


@dataclass(frozen=True)
class Renaming:
    """A rename as SQL, with the statement that reverses it, and the names of the table that it touches."""

    up: str
    down: str
    tables: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """The change that makes a database equal to the models: renames first, then all other operations."""

    renamings: list[Renaming]
    upgrade: ops.UpgradeOps

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to do."""
        return not self.renamings and self.upgrade.is_empty()

    def statements(self, connection: Connection) -> list[str]:
        """Return the SQL of the change, one statement each, in order and without semicolons."""
        rest = _Statements()
        context = MigrationContext.configure(
            dialect=connection.dialect, opts={"as_sql": True, "output_buffer": rest, "literal_binds": True}
        )
        operations = Operations(context)
        for operation in flattened(self.upgrade):
            operations.invoke(operation)
        return [renaming.up for renaming in self.renamings] + rest


class _Statements(list[str]):
    """A buffer that receives the SQL of Alembic, one statement in each write."""

    def write(self, statement: str) -> None:
        self.append(statement.strip().removesuffix(";"))

    def flush(self) -> None:
        """Do nothing: the buffer is a list."""


def find_change(connection: Connection, answers: Answers, metadata: MetaData = Base.metadata) -> Change:
    """Compare a database with the models, and apply the renames to it.

    The renames stay in the connection's open transaction: commit them on a scratch database, roll them back elsewhere.
    Raises `RenameUndecided`, `AnswerInvalid`.
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
            raise AnswerInvalid(answer=answer, problem="the models still have it, or the database never did")
    return Change(renamings, _operations(connection, metadata))


def flattened(upgrade: ops.OpContainer) -> Iterator[ops.MigrateOperation]:
    """Return single operations; Alembic groups those of a table."""
    for operation in upgrade.ops:
        if isinstance(operation, ops.OpContainer):
            yield from flattened(operation)
        else:
            yield operation


def _operations(connection: Connection, metadata: MetaData) -> ops.UpgradeOps:
    context = MigrationContext.configure(connection, opts=_COMPARE | {"target_metadata": metadata})
    upgrade = produce_migrations(context, metadata).upgrade_ops
    assert upgrade is not None  # noqa: S101, `None` only in other uses of Alembic
    # CREATE TABLE omits the foreign keys of tables that refer to each other, and Alembic does not add them.
    upgrade.ops += [
        ops.CreateForeignKeyOp.from_constraint(constraint)
        for operation in flattened(upgrade)
        if isinstance(operation, ops.CreateTableOp)
        for constraint in operation.to_table().foreign_key_constraints
        if constraint.use_alter
    ]
    return upgrade


def _next_rename(connection: Connection, metadata: MetaData, answers: Answers, decided: set[str]) -> list[Renaming]:
    """Return the first rename that is not decided yet, tables before columns; a drop is only noted in `decided`."""
    inspector = inspect(connection)
    tables = set(inspector.get_table_names())
    new_tables = sorted(metadata.tables.keys() - tables)
    for gone in sorted(tables - metadata.tables.keys() - decided):
        name = answers.new_name(gone, new_tables)
        decided.add(gone)
        if name:
            return [_renaming("ALTER TABLE {} RENAME TO {}", gone, name, gone, name)]
    for table in sorted(tables & metadata.tables.keys()):
        columns = {column["name"] for column in inspector.get_columns(table)}
        wanted = set(metadata.tables[table].columns.keys())
        for gone in sorted(columns - wanted):
            key = f"{table}.{gone}"
            if key in decided:
                continue
            name = answers.new_name(key, sorted(wanted - columns))
            decided.add(key)
            if name:
                return [_renaming(f"ALTER TABLE {quoted(table)} RENAME COLUMN {{}} TO {{}}", gone, name, table)]
    return []


def _renaming(sql: str, old: str, new: str, *tables: str) -> Renaming:
    """Fill the old and the new name into SQL, and in reverse order for the way back."""
    return Renaming(sql.format(quoted(old), quoted(new)), sql.format(quoted(new), quoted(old)), tables)


def _renamed_followers(connection: Connection, metadata: MetaData) -> Iterator[Renaming]:
    """Rename constraints, indexes and sequences after their renamed tables and columns."""
    inspector = inspect(connection)
    for name in sorted(set(inspector.get_table_names()) & metadata.tables.keys()):
        table = metadata.tables[name]
        wanted = dict(_named_by_shape(table))
        for shape, old in _found_by_shape(inspector, name):
            new = wanted.get(shape)
            if new and new != old:
                index = shape[0] == "index"
                sql = (
                    "ALTER INDEX {} RENAME TO {}"
                    if index
                    else f"ALTER TABLE {quoted(name)} RENAME CONSTRAINT {{}} TO {{}}"
                )
                yield _renaming(sql, old, new, name)
        for column in table.primary_key.columns:
            sequence = connection.scalar(
                text("SELECT pg_get_serial_sequence(quote_ident(:t), :c)::regclass::text"),
                {"t": name, "c": column.name},
            )
            expected = f"{name}_{column.name}_seq"
            if sequence and sequence != expected:
                yield _renaming("ALTER SEQUENCE {} RENAME TO {}", sequence, expected, name)


# The kind and the columns, by which an index or constraint is recognized under its old name.
Shape = tuple[Any, ...]


def _named_by_shape(table: Table) -> Iterator[tuple[Shape, str]]:
    for constraint in table.constraints:
        kind = type(constraint).__name__
        if isinstance(constraint, PrimaryKeyConstraint | UniqueConstraint | ForeignKeyConstraint):
            yield (kind, tuple(column.name for column in constraint.columns)), str(constraint.name)
    for index in table.indexes:
        yield ("index", tuple(getattr(column, "name", str(column)) for column in index.expressions)), str(index.name)


def _found_by_shape(inspector: Inspector, table: str) -> Iterator[tuple[Shape, str]]:
    key = inspector.get_pk_constraint(table)
    if key["name"]:
        yield ("PrimaryKeyConstraint", tuple(key["constrained_columns"])), key["name"]
    for foreign in inspector.get_foreign_keys(table):
        yield ("ForeignKeyConstraint", tuple(foreign["constrained_columns"])), str(foreign["name"])
    uniques = inspector.get_unique_constraints(table)
    for unique in uniques:
        yield ("UniqueConstraint", tuple(unique["column_names"])), str(unique["name"])
    for index in inspector.get_indexes(table):
        if not index.get("duplicates_constraint"):
            yield ("index", tuple(index["column_names"])), str(index["name"])


def _apply(connection: Connection, renamings: list[Renaming]) -> None:
    for renaming in renamings:
        connection.exec_driver_sql(renaming.up)
