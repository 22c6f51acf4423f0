"""The rows of a file, inserted in batches: PostgreSQL decides which fit; halves of a batch find those that do not."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import ARRAY, Text, and_, bindparam, cast, func, literal_column, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from tatame_db.database.citus import knows_citus
from tatame_db.database.dialect import SCHEMA, quoted
from tatame_db.studio.bound import BoundChange, BoundValue, Insert
from tatame_db.studio.changes import rejection
from tatame_db.studio.errors import message_of
from tatame_db.studio.imports.plan import MAX_BAD_ROWS
from tatame_db.studio.imports.values import Row, ValueUnfit, row_of
from tatame_db.studio.shards import without_shards

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Column, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from tatame_db.studio.imports.plan import Assignment, Plan
    from tatame_db.studio.imports.source import Source

_BATCH_ROWS = 1000
_BATCH_BYTES = 2_000_000
_MAX_UNKNOWN = 20
# What one row may cause by itself. Other errors, such as a missing right, concern all rows.
_OF_A_ROW = (psycopg.IntegrityError, psycopg.DataError, psycopg.errors.CardinalityViolation)
_STATES_OF_A_ROW = ("54", "P0")
_HAS_POLICIES = text(
    "SELECT row_security_active(:table) AND has_any_column_privilege(current_user, CAST(:table AS text), 'INSERT')"
)


@dataclass(frozen=True)
class BadRow:
    """A row that does not fit, the line where it begins, and the column that is to blame if there is one."""

    line: int
    column: str | None
    what: str


@dataclass
class Outcome:
    """What became of the rows of a file. `skipped` were there already, or a trigger left them out."""

    rows: int = 0
    inserted: int = 0
    updated: int = 0
    skipped: int = 0
    bad: list[BadRow] = field(default_factory=list[BadRow])
    stopped: bool = False
    """The rest of the file was not read, because too many rows do not fit."""
    unknown: list[str] = field(default_factory=list[str])
    """Keys of JSON objects that go nowhere."""
    sequence: str | None = None
    """A sentence on a sequence that is behind the imported numbers."""


class Import:
    """One import into a table. The caller commits, or rolls back."""

    def __init__(
        self, connection: AsyncConnection, table: Table, plan: Plan, columns: list[tuple[Assignment, Column[Any]]]
    ) -> None:
        self.connection, self.table, self.plan, self.columns = connection, table, plan, columns
        self.key = [table.columns[name] for name in plan.key]
        self.outcome = Outcome()
        self._has_policies = False

    async def run(self, source: Source) -> Outcome:
        """Insert the rows. Stops after too many bad ones. Raises what concerns the file or the table as a whole."""
        # Otherwise a deferred constraint is checked at the commit, and names no row.
        await self.connection.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
        table = {"table": f"{quoted(self.table.schema or SCHEMA)}.{quoted(self.table.name)}"}
        self._has_policies = bool(await self.connection.scalar(_HAS_POLICIES, table))
        for batch in self._batches(source):
            # Rows with the same columns share a statement.
            for _, rows in groupby(batch, key=lambda row: row.columns):
                await self._insert(list(rows))
            if self.outcome.stopped:
                break
        self.outcome.bad.sort(key=lambda bad: bad.line)
        return self.outcome

    def _batches(self, source: Source) -> Iterator[list[Row]]:
        batch: list[Row] = []
        size_bytes = 0
        used = {assignment.source for assignment, _ in self.columns}
        unknown: dict[str, None] = {}
        for record in source.records:
            self.outcome.rows += 1
            for name in record.keys:
                if name not in used and len(unknown) < _MAX_UNKNOWN:
                    unknown[name] = None
            try:
                row = row_of(record, source, self.plan, self.columns)
            except ValueUnfit as unfit:
                self._reject(BadRow(record.line, unfit.column, unfit.what))
                if self.outcome.stopped:
                    break
                continue
            batch.append(row)
            size_bytes += row.size_bytes
            if len(batch) >= _BATCH_ROWS or size_bytes > _BATCH_BYTES:
                yield batch
                batch, size_bytes = [], 0
        self.outcome.unknown = list(unknown)
        yield batch

    def _reject(self, bad: BadRow) -> None:
        self.outcome.bad.append(bad)
        self.outcome.stopped = len(self.outcome.bad) >= MAX_BAD_ROWS

    async def _insert(self, rows: Sequence[Row]) -> None:
        """Insert rows, or the halves that fit."""
        if self.outcome.stopped:
            return
        try:
            async with self.connection.begin_nested():
                existing = await self._existing(rows) if self.plan.existing == "update" else 0
                # Otherwise SQLAlchemy does not read the number of rows of an INSERT.
                options = {"preserve_rowcount": True}
                written = (await self.connection.execute(*self._statement(rows), execution_options=options)).rowcount
        except DBAPIError as error:
            if not self._concerns_a_row(error.orig):
                raise
            if len(rows) > 1:
                await self._insert(rows[: len(rows) // 2])
                await self._insert(rows[len(rows) // 2 :])
            else:
                self._reject(await self._reason(rows[0], error.orig))
            return
        self.outcome.inserted += written - existing
        self.outcome.updated += existing
        self.outcome.skipped += len(rows) - written

    def _source(self, rows: Sequence[Row]) -> tuple[Any, dict[str, list[str | None]]]:
        """Write the values of all rows as a table of texts, `v0`, `v1` and so on."""
        names = [f"v{number}" for number in range(len(rows[0].columns))]
        values = func.unnest(*(bindparam(name, type_=ARRAY(Text)) for name in names))
        parameters = {name: [row.values[number] for row in rows] for number, name in enumerate(names)}
        return values.table_valued(*names).render_derived(name="imported"), parameters

    def _statement(self, rows: Sequence[Row]) -> tuple[Any, dict[str, list[str | None]]]:
        columns = rows[0].columns
        source, parameters = self._source(rows)
        values = select(*(cast(source.c[f"v{number}"], column.type) for number, column in enumerate(columns)))
        names = [column.name for column in columns]
        statement: Any = insert(self.table).from_select(names, values, include_defaults=False)
        if knows_citus(self.connection.dialect):
            # Otherwise Citus counts the rows that it reads, and passes on what a node rejects without the SQLSTATE.
            statement = statement.returning(literal_column("1"))
        others = {column.name: statement.excluded[column.name] for column in columns if column not in self.key}
        if self.plan.existing == "update" and others:
            return statement.on_conflict_do_update(index_elements=self.key, set_=others), parameters
        if self.plan.existing != "refuse":
            return statement.on_conflict_do_nothing(index_elements=self.key), parameters
        return statement, parameters

    async def _existing(self, rows: Sequence[Row]) -> int:
        """Count the rows whose key the table has already."""
        source, parameters = self._source(rows)
        places = [rows[0].columns.index(column) for column in self.key]
        same = [column == cast(source.c[f"v{at}"], column.type) for column, at in zip(self.key, places, strict=True)]
        query = select(func.count()).select_from(source.join(self.table, and_(*same)))
        return int(await self.connection.scalar(query, parameters) or 0)

    def _concerns_a_row(self, error: BaseException | None) -> bool:
        # A policy rejects a row with the SQLSTATE of a missing right.
        if isinstance(error, _OF_A_ROW) or (
            self._has_policies and isinstance(error, psycopg.errors.InsufficientPrivilege)
        ):
            return True
        return isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith(_STATES_OF_A_ROW)

    async def _reason(self, row: Row, error: BaseException | None) -> BadRow:
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            said = await without_shards(self.connection, message_of(error))
            return BadRow(row.line, None, f"the row-level security of the table rejects the row: {said}")
        if not isinstance(error, psycopg.IntegrityError | psycopg.DataError):
            said = str(error).splitlines()[0]
            return BadRow(row.line, None, await without_shards(self.connection, said))
        values = tuple(
            BoundValue(column, value, cast(bindparam(None, value, Text), column.type))
            for column, value in zip(row.columns, row.values, strict=True)
        )
        bound = BoundChange(Insert(self.table.name, {}), self.table, values, ())
        found = await rejection(self.connection, 0, bound, error)
        return BadRow(row.line, found.column, found.what)
