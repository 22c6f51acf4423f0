"""The development shortcut: make a database equal to the models in one transaction, without a migration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alembic.operations import ops
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db.errors import NOTHING_CHANGED, TatameError, counted
from tatame_db.evolve.difference import Answers, find_change, flattened
from tatame_db.evolve.failure import indented, postgres_message
from tatame_db.evolve.lock import Timeouts, exclusive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine


class DataLoss(TatameError):
    """The push would drop or rewrite data, and nobody accepted that."""

    def __init__(self, losses: list[str]) -> None:
        self.losses = losses
        listed = "\n".join(f"  {loss}" for loss in losses)
        super().__init__(
            f"the push would lose data:\n{listed}",
            means=NOTHING_CHANGED,
            fix="say `--accept-data-loss` if it may go; a renamed column keeps its data with `--rename`",
        )


class PushFailed(TatameError):
    """PostgreSQL refused a statement of the push, and the whole push was undone."""

    def __init__(self, statement: str, message: str) -> None:
        self.statement, self.message = statement, message
        super().__init__(
            f"the push failed at\n\n{indented(statement)}\n\nPostgreSQL says: {message}",
            means="All of it was undone; the database is as before.",
            fix="mend the data or the models, then run the command again",
        )


@dataclass(frozen=True)
class Push:
    """What a push does to a database: its statements in order, and the data that is lost."""

    statements: list[str]
    losses: list[str]


def push(
    engine: Engine,
    answers: Answers | None = None,
    *,
    agree: Callable[[Push], bool],
    timeouts: Timeouts | None = None,
) -> Push | None:
    """Make a database equal to the models in one transaction; return what was done, or `None` if `agree` said no.

    `agree` is shown everything before the first statement runs, while nothing is locked but other schema changes.
    Raises `PushFailed`, `RenameUndecided`, `AnswerUseless`.
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
                raise PushFailed(statement, postgres_message(connection, error)) from error
        connection.commit()
        return planned


def _plan(connection: Connection, answers: Answers) -> Push:
    try:
        change = find_change(connection, answers)
        statements = change.statements(connection)
        losses = [loss for operation in flattened(change.upgrade) for loss in _losses(connection, operation)]
    except DBAPIError as error:
        raise PushFailed(error.statement or "", postgres_message(connection, error)) from error
    finally:
        # Only looked at: the renames that helped to compare are taken back.
        connection.rollback()
    return Push(statements, losses)


def _losses(connection: Connection, operation: ops.MigrateOperation) -> Iterator[str]:
    """Name what an operation drops or rewrites, with the number of rows; nothing where there are none."""
    quote = connection.dialect.identifier_preparer.quote

    def count(what: str, table: str) -> int:
        return connection.scalar(text(f"SELECT count({what}) FROM {quote(table)}")) or 0

    if isinstance(operation, ops.DropTableOp):
        table = operation.table_name
        if rows := count("*", table):
            yield f"table {table} goes, with {counted(rows, 'row')}"
    elif isinstance(operation, ops.DropColumnOp):
        table, column = operation.table_name, operation.column_name
        if rows := count(quote(column), table):
            yield f"column {table}.{column} goes, with a value in {counted(rows, 'row')}"
    elif isinstance(operation, ops.AlterColumnOp) and operation.modify_type is not None:
        table, column = operation.table_name, operation.column_name
        if rows := count(quote(column), table):
            new = operation.modify_type.compile(dialect=connection.dialect)
            yield f"column {table}.{column} is rewritten as {new} in {counted(rows, 'row')}"
