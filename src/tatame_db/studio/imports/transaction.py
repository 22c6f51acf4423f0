"""One import in one transaction: committed, or rolled back after a check and where rows do not fit."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

from sqlalchemy import PrimaryKeyConstraint, UniqueConstraint

from tatame_db.studio.errors import BadInput
from tatame_db.studio.imports.encoding import detect
from tatame_db.studio.imports.insert import Import
from tatame_db.studio.imports.sequence import advance
from tatame_db.studio.imports.source import opened_source
from tatame_db.studio.responses import until_disconnect
from tatame_db.studio.tables import column_named, table_named
from tatame_db.studio.transactions import read_transaction, write_transaction

if TYPE_CHECKING:
    from sqlalchemy import Column, Table
    from sqlalchemy.ext.asyncio import AsyncConnection
    from starlette.types import Receive

    from tatame_db.database.pool import AsyncDatabase
    from tatame_db.studio.imports.insert import Outcome
    from tatame_db.studio.imports.plan import Assignment, Plan


class Imports:
    """The imports of a studio. They run one after the other, because each takes memory for a batch of rows."""

    def __init__(self, database: AsyncDatabase) -> None:
        self._database = database
        self._running: dict[str, Import] = {}
        self._turn = asyncio.Semaphore(1)

    def progress(self, id: str) -> int | None:  # noqa: A002, the name of the field
        """Return how many rows of a running import were read; `None` if it is not running."""
        running = self._running.get(id)
        return None if running is None else running.outcome.rows

    async def keys(self, address: str) -> list[list[str]]:
        """Return the keys of a table by which an import may recognize a row."""
        async with read_transaction(self._database) as connection:
            return keys_of(await table_named(connection, address))

    async def run(self, receive: Receive, address: str, plan: Plan, file: IO[bytes], *, check: bool) -> dict[str, Any]:
        """Insert the rows of a file; return what became of them, and whether that is committed.

        A client that leaves cancels it, unless the commit has begun. Raises what concerns the file or the table as a
        whole.
        """
        await until_disconnect(receive, self._turn.acquire())
        try:
            return await self._run(receive, address, plan, file, check=check)
        finally:
            self._turn.release()

    async def _run(self, receive: Receive, address: str, plan: Plan, file: IO[bytes], *, check: bool) -> dict[str, Any]:
        async with write_transaction(self._database) as connection:
            try:
                outcome, encoding = await until_disconnect(receive, self._insert(connection, address, plan, file))
            finally:
                self._running.pop(plan.id, None)
            committed = not check and not outcome.stopped and (plan.only_fitting or not outcome.bad)
            if not committed:
                await connection.rollback()
        return asdict(outcome) | {"committed": committed, "encoding": encoding}

    async def _insert(
        self, connection: AsyncConnection, address: str, plan: Plan, file: IO[bytes]
    ) -> tuple[Outcome, str]:
        table = await table_named(connection, address)
        columns = _columns(plan, table)
        # All of a file must be read to know its encoding.
        codec: str | None = plan.encoding
        if codec is None:
            codec = await asyncio.to_thread(detect, file)
        work = self._running[plan.id] = Import(connection, table, plan, columns)
        with opened_source(plan, file, codec) as source:
            _refuse_places(plan, source.names)
            outcome = await work.run(source)
        if outcome.inserted:
            outcome.sequence = await advance(connection, [column for _, column in columns])
        return outcome, codec


def _columns(plan: Plan, table: Table) -> list[tuple[Assignment, Column[Any]]]:
    columns = [(assignment, column_named(table, assignment.column)) for assignment in plan.columns]
    names = [assignment.column for assignment in plan.columns]
    if not names or len(set(names)) < len(names):
        raise BadInput(problem="an import needs at least one column, and each of them once")
    if plan.existing != "refuse" and plan.key in keys_of(table, deferrable=True):
        raise BadInput(
            problem=f"the key {', '.join(plan.key)} is DEFERRABLE: PostgreSQL recognizes no existing row by it",
            advice="choose another key, or refuse rows that exist",
        )
    if plan.existing != "refuse" and plan.key not in keys_of(table):
        raise BadInput(
            problem="existing rows are not recognized by these columns", advice="choose the columns of a unique key"
        )
    if not set(plan.key) <= set(names):
        raise BadInput(problem="a column by which existing rows are recognized is not imported")
    return columns


def keys_of(table: Table, *, deferrable: bool = False) -> list[list[str]]:
    """Return the columns of each key that is `deferrable` or not: the primary key first, then unique constraints."""
    kinds = (PrimaryKeyConstraint, UniqueConstraint)
    found = [known for kind in kinds for known in table.constraints if isinstance(known, kind)]
    return [
        [column.name for column in key.columns]
        for key in found
        if len(key.columns) and bool(key.deferrable) == deferrable
    ]


def _refuse_places(plan: Plan, names: list[str]) -> None:
    for assignment in plan.columns:
        if isinstance(assignment.source, int) and not 0 <= assignment.source < len(names):
            raise BadInput(problem=f"the file has no value for {assignment.column}: it has {len(names)} columns")
