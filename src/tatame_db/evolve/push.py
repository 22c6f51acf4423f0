"""Apply the models to a development database in one transaction, without a migration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alembic.operations import ops
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db.database.dialect import quoted
from tatame_db.errors import TatameError, counted, fact
from tatame_db.evolve.difference import Answers, find_change, flattened
from tatame_db.evolve.failure import fix_for, indented, postgres_message, sqlstate
from tatame_db.evolve.lock import Timeouts, exclusive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine


@fact
class PushFailed(TatameError):
    """PostgreSQL rejected a statement of a push, and the whole push was rolled back."""

    statement: str
    message: str
    sqlstate: str | None
    what = "the push failed at\n\n{sql}\n\nPostgreSQL reports: {message}"
    means = "The push was rolled back; the database is unchanged."
    fix = "{advice}, then run the command again"

    @property
    def sql(self) -> str:
        """The rejected statement, indented."""
        return indented(self.statement)

    @property
    def advice(self) -> str:
        """The fix for the cause."""
        return fix_for(self.sqlstate, "models")


@dataclass(frozen=True)
class Push:
    """The statements of a push, in order and without semicolons, and the data that they lose, one sentence each."""

    statements: list[str]
    losses: list[str]


def push(
    engine: Engine,
    answers: Answers | None = None,
    *,
    agree: Callable[[Push], bool],
    timeouts: Timeouts | None = None,
) -> Push | None:
    """Make a database equal to the models in one transaction; return what was run, or `None` if `agree` refused.

    `agree` receives the planned push before the first statement runs; only other schema changes are locked out
    meanwhile. It is not called if there is nothing to do.

        >>> evolve.push(engine, agree=lambda planned: not planned.losses)
        Push(statements=['ALTER TABLE users ADD COLUMN tier TEXT'], losses=[])

    Raises `PushFailed`, `RenameUndecided`, `AnswerInvalid`, `DirectAddressNeeded`.
    """
    with exclusive(engine, timeouts or Timeouts()) as connection:
        planned = _plan(connection, answers or Answers())
        if planned.statements and not agree(planned):
            return None
        for statement in planned.statements:
            try:
                connection.exec_driver_sql(statement)
            except DBAPIError as error:
                connection.rollback()
                raise _failed(connection, error, statement) from error
        connection.commit()
        return planned


def _plan(connection: Connection, answers: Answers) -> Push:
    try:
        change = find_change(connection, answers)
        statements = change.statements(connection)
        losses = [loss for operation in flattened(change.upgrade) for loss in _losses(connection, operation)]
    except DBAPIError as error:
        connection.rollback()
        raise _failed(connection, error, error.statement or "") from error
    finally:
        # Finding the change applied the renames, which only the push itself may do.
        connection.rollback()
    return Push(statements, losses)


def _failed(connection: Connection, error: DBAPIError, statement: str) -> PushFailed:
    return PushFailed(statement=statement, message=postgres_message(connection, error), sqlstate=sqlstate(error))


def _losses(connection: Connection, operation: ops.MigrateOperation) -> Iterator[str]:
    """Describe the data that an operation drops or rewrites, with the number of rows; nothing if there are none."""

    def count(expression: str, table: str) -> int:
        return connection.scalar(text(f"SELECT count({expression}) FROM {quoted(table)}")) or 0

    if isinstance(operation, ops.DropTableOp):
        table = operation.table_name
        if rows := count("*", table):
            yield f"table {table} is dropped, with {counted(rows, 'row')}"
    elif isinstance(operation, ops.DropColumnOp):
        table, column = operation.table_name, operation.column_name
        if rows := count(quoted(column), table):
            yield f"column {table}.{column} is dropped, with values in {counted(rows, 'row')}"
    elif isinstance(operation, ops.AlterColumnOp) and operation.modify_type is not None:
        table, column = operation.table_name, operation.column_name
        if rows := count(quoted(column), table):
            new = operation.modify_type.compile(dialect=connection.dialect)
            yield f"column {table}.{column} is rewritten as {new} in {counted(rows, 'row')}"
