"""Staged rows written into the tables of the source, and what its own rules do to them.

Everything is tried again from a savepoint after an exception of this module, so each of them leaves nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from tatame_db.database.dialect import literal, quoted
from tatame_db.database.keys import unique_key_or_index
from tatame_db.move.back.errors import SourceNotWritable
from tatame_db.move.back.requirements import CHANGED, REFERENCED, REFUSED
from tatame_db.move.back.staging import find_keys
from tatame_db.move.connection import is_refusal, reason_without_values
from tatame_db.move.conversion import TEXT
from tatame_db.move.flow import Applied
from tatame_db.move.sql import array, array_items
from tatame_db.move.target import keys_to

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from tatame_db.move.back.staging import StagedTable
    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.target import OwnKey

# Each refused row takes a search of its own among all rows of its table.
MOST_REFUSED = 100


class RowsNotTaken(Exception):
    """Rows that the source refuses, or changes as they are written; `ids` are some of them, or empty for all."""

    def __init__(self, table: str, kind: str, reason: str, ids: list[str]) -> None:
        super().__init__(f"{table}: {reason}")
        self.table, self.kind, self.reason, self.ids = table, kind, reason, ids


@dataclass(frozen=True)
class Loosened:
    """A constraint of the source that holds at the end, but not after each statement of a write."""

    loosen: str
    restore: list[str]


class MustLoosen(Exception):
    """A constraint does not hold after each statement of a table: it has to be loosened before anything is written."""

    def __init__(self, table: str, loosened: Loosened) -> None:
        super().__init__(loosened.loosen)
        self.table, self.loosened = table, loosened


def write(
    source: MoveConnection,
    tables: Sequence[StagedTable],
    loosened: Sequence[Loosened] = (),
    tight: Sequence[Loosened] = (),
    skipped: Collection[str] = (),
) -> list[Applied]:
    """Update and insert rows, parents first; then delete those that are gone, children first.

    `tight` are constraints that did not hold at the end either, `skipped` the names of tables not to write to. Raises
    `RowsNotTaken`, `MustLoosen`, `SourceNotWritable`.
    """
    for constraint in loosened:
        source.execute(constraint.loosen)
    source.execute("SET CONSTRAINTS ALL DEFERRED")
    writer = _Writer(source, {table.table.name: table for table in tables}, list(loosened), list(tight))
    tables = [table for table in tables if table.table.name not in skipped]
    written = {table.table.name: writer.upsert(table) if table.writes else 0 for table in tables}
    emptied = [table.table.name for table in tables if table.deletes]
    for key in keys_to(source, emptied) if emptied else ():
        writer.refuse_references(key)
    deleted = {table.table.name: writer.delete(table) if table.deletes else 0 for table in reversed(tables)}
    writer.restore()
    for table in tables:
        writer.refuse_changed(table)
    return [Applied(name, deleted[name], written[name]) for name in written]


class _Writer:
    def __init__(
        self, source: MoveConnection, tables: dict[str, StagedTable], loosened: list[Loosened], tight: list[Loosened]
    ) -> None:
        self.source, self.tables, self.loosened, self.tight = source, tables, loosened, tight

    def upsert(self, staged: StagedTable) -> int:
        """Update the rows that differ and insert the new ones; return their number."""
        cells = [cell for cell in staged.cells if not cell.column.generated]
        names, values = ", ".join(cell.column.sql for cell in cells), ", ".join(cell.value() for cell in cells)
        sets = ", ".join(
            f"{cell.column.sql} = CASE WHEN {staged.keeps(cell)} THEN s.{cell.column.sql} ELSE {cell.value()} END"
            for cell in staged.written
        )
        update = (
            f"UPDATE {staged.sql} AS s SET {sets} FROM {staged.rows} AS r"
            f" WHERE {staged.has_key('s', 'r.key')} AND NOT ({staged.is_kept(staged.written)})"
        )
        # `ONLY` belongs to rows that exist.
        insert = (
            f"INSERT INTO {staged.sql.removeprefix('ONLY ')} ({names}) OVERRIDING SYSTEM VALUE"
            f" SELECT {values} FROM {staged.rows} AS r WHERE r.key IS NULL"
        )
        statements = [update, insert] if sets else [insert]
        return self._run(staged, staged.rows, statements)

    def delete(self, staged: StagedTable) -> int:
        """Delete the rows that are gone; return their number."""
        statement = f"DELETE FROM {staged.sql} AS s USING {staged.gone} AS r WHERE {staged.has_key('s', 'r.key')}"
        return self._run(staged, staged.gone, [statement])

    def _run(self, staged: StagedTable, rows: str, statements: list[str]) -> int:
        def run(condition: str) -> int:
            return sum(self.source.execute(f"{statement}{condition}") for statement in statements)

        try:
            with self.source.driver.transaction():
                return run("")
        except psycopg.Error as error:
            if not is_refusal(error):
                raise
            if loosened := self._loosened(staged, error):
                raise MustLoosen(staged.table.name, loosened) from error
            ids = [key for (key,) in self.source.rows(f"SELECT id FROM {rows} ORDER BY id")]
            # If only several rows together are refused, all of them are.
            refused = self._find_refused(run, ids, type(error)) or ids
            raise RowsNotTaken(staged.table.name, REFUSED, reason_without_values(error), refused) from error

    def _find_refused(self, run: Callable[[str], int], ids: list[str], kind: type[psycopg.Error]) -> list[str]:
        """Return those of the rows that are refused by themselves, in halves of halves."""
        refused: list[str] = []
        waiting = [ids]
        while waiting and len(refused) < MOST_REFUSED:
            some = waiting.pop()
            if not self._is_refused(run, some, kind):
                continue
            if len(some) == 1:
                refused += some
            else:
                waiting += [some[len(some) // 2 :], some[: len(some) // 2]]
        return refused

    def _is_refused(self, run: Callable[[str], int], ids: list[str], kind: type[psycopg.Error]) -> bool:
        try:
            with self.source.driver.transaction(force_rollback=True):
                run(f" AND r.id = ANY({array(array_items(ids), TEXT)})")
        except psycopg.Error as error:
            if not is_refusal(error):
                raise
            return isinstance(error, kind)
        return False

    def _loosened(self, staged: StagedTable, error: psycopg.Error) -> Loosened | None:
        """Return how to loosen the constraint that was violated; `None` if that cannot be, or is done already."""
        name, diagnostic = str(error.diag.constraint_name), error.diag
        found: Loosened | None = None
        in_table = (diagnostic.schema_name, diagnostic.table_name) == ("public", staged.table.name)
        if isinstance(error, psycopg.errors.UniqueViolation) and in_table:
            key = unique_key_or_index(self.source.rows, staged.table.name, name)
            found = Loosened(key.drop_statement, key.create_statements) if key else None
        elif isinstance(error, psycopg.errors.ForeignKeyViolation):
            table = f"{quoted(str(diagnostic.schema_name))}.{quoted(str(diagnostic.table_name))}"
            alter = f"ALTER TABLE {table} ALTER CONSTRAINT {quoted(name)}"
            is_deferrable = self.source.rows(
                f"SELECT FROM pg_constraint WHERE conrelid = {literal(table)}::regclass"
                f" AND conname = {literal(name)} AND condeferrable"
            )
            found = (
                None
                if is_deferrable
                else Loosened(f"{alter} DEFERRABLE INITIALLY DEFERRED", [f"{alter} NOT DEFERRABLE"])
            )
        return None if found in [*self.loosened, *self.tight] else found

    def refuse_references(self, key: OwnKey) -> None:
        """Refuse to delete rows to which rows refer that stay: by a key that deletes or changes those, or fails."""
        staged = self.tables[key.parent]
        matches = " AND ".join(
            f"c.{quoted(column)} = s.{quoted(parent)}"
            for column, parent in zip(key.columns, key.parent_columns, strict=True)
        )
        child = self.tables.get(key.table) if key.schema == "public" else None
        stays = f" AND NOT EXISTS (SELECT FROM {child.gone} AS w WHERE {child.has_key('c', 'w.key')})" if child else ""
        rows = self.source.rows(
            f"SELECT r.id FROM {staged.gone} AS r JOIN {staged.sql} AS s ON {staged.has_key('s', 'r.key')}"
            f" WHERE EXISTS (SELECT FROM {key.sql} AS c WHERE {matches}{stays})"
        )
        if rows:
            reason = (
                f"rows of {key.place} at the source, which stay, refer to rows that the target has deleted"
                f" ({key.name}, ON DELETE {key.on_delete})"
            )
            raise RowsNotTaken(staged.table.name, REFERENCED, reason, [found for (found,) in rows])

    def restore(self) -> None:
        """Check what was deferred or loosened."""
        try:
            self.source.execute("SET CONSTRAINTS ALL IMMEDIATE")
            for constraint in self.loosened:
                for statement in constraint.restore:
                    self.source.execute(statement)
        except psycopg.Error as error:
            if not is_refusal(error):
                raise
            reason = reason_without_values(error)
            table = str(error.diag.table_name)
            if table not in self.tables:
                raise SourceNotWritable(reason=reason, advice="disable the trigger or the constraint there") from error
            # Which rows they are cannot be asked any more: the transaction has failed.
            raise RowsNotTaken(table, REFUSED, reason, []) from error

    def refuse_changed(self, staged: StagedTable) -> None:
        """Compare what was written with the rows that the source has now."""
        same = staged.has_key("s", "r.key")
        if staged.deletes:
            self._refuse_changed(
                staged,
                "rows are at the source after they were deleted there: a trigger or a rule keeps them",
                f"{staged.gone} AS r WHERE EXISTS (SELECT FROM {staged.sql} AS s WHERE {same})",
            )
        if not staged.writes:
            return
        find_keys(self.source, staged)
        self._refuse_changed(
            staged,
            "rows are not at the source after they were inserted there: a trigger or a rule removes them",
            f"{staged.rows} AS r WHERE r.key IS NULL",
        )
        rows = f"{staged.rows} AS r JOIN {staged.sql} AS s ON {same} WHERE NOT"
        if not self.source.rows(f"SELECT FROM {rows} ({staged.is_kept(staged.cells)}) LIMIT 1"):
            return
        for cell in staged.cells:
            changed_by = "it is generated" if cell.column.generated else "a trigger or a rule changes it"
            self._refuse_changed(
                staged,
                f"{cell.column.name} of the source has another value after it was written: {changed_by}",
                f"{rows} {staged.keeps(cell)}",
            )

    def _refuse_changed(self, staged: StagedTable, reason: str, rows: str) -> None:
        if ids := [found for (found,) in self.source.rows(f"SELECT r.id FROM {rows}")]:
            raise RowsNotTaken(staged.table.name, CHANGED, reason, ids)
