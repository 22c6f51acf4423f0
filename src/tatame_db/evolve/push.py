"""Apply the models to a development database in one transaction, without a migration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from tatame_db.database.dialect import CHECK_DEFERRED, quoted
from tatame_db.database.failures import loss_in_words
from tatame_db.errors import TatameError, fact, listed
from tatame_db.evolve import catalogue, made, models
from tatame_db.evolve.catalogue import run_verbatim
from tatame_db.evolve.difference import Answers, Change, find_change
from tatame_db.evolve.failure import fix_for, indented, is_limit_of_citus, missing_rights_of, postgres_message, sqlstate
from tatame_db.evolve.lock import Timeouts, exclusive
from tatame_db.evolve.losses import count_all, loss_of_column, loss_of_table
from tatame_db.evolve.worker import refuse_worker
from tatame_db.roles import explained
from tatame_db.roles.missing import refuse_missing
from tatame_db.roles.rights import rows_of
from tatame_db.server.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Connection, Engine

    from tatame_db.evolve.ddl import Loss
    from tatame_db.roles import RightsMissing


@fact
class PushFailed(TatameError):
    """PostgreSQL rejected a statement of a push, and the whole push was rolled back."""

    statement: str
    message: str
    sqlstate: str | None
    rights: RightsMissing | None
    """The rights that the role lacks."""
    on_citus: bool
    """Whether Citus does not support the statement."""
    what = "the push failed at\n\n{sql}\n\nPostgreSQL reports: {message}{lacks}"
    means = "The push was rolled back; the database is unchanged."
    fix = "{advice}, then run the command again"

    @property
    def sql(self) -> str:
        """The rejected statement, indented."""
        return indented(self.statement)

    @property
    def advice(self) -> str:
        """The fix for the cause."""
        return self.rights.fix if self.rights else fix_for(self.sqlstate, "models", on_citus=self.on_citus)

    @property
    def lacks(self) -> str:
        """The rights that the role lacks."""
        return f"; {self.rights.what}" if self.rights else ""


@fact
class PushRefused(TatameError):
    """The models differ from the database in objects that a push cannot change, or did not."""

    objects: list[str]
    what = "the push cannot make the database equal to the models:\n{lines}"
    means = "The push was rolled back; the database is unchanged."
    fix = "change these objects with SQL, then run the command again"

    @property
    def lines(self) -> str:
        """The objects, one a line."""
        return listed(self.objects)


@dataclass(frozen=True)
class Push:
    """A push that is planned or done."""

    statements: list[str]
    """In order and without semicolons."""
    losses: list[str]
    """The data that they lose, one sentence each."""
    left_alone: list[str]
    """The objects that are not in the models and stay: no migration made them, or no model can describe them."""


def push(
    engine: Engine,
    answers: Answers | None = None,
    *,
    agree: Callable[[Push], bool],
    timeouts: Timeouts | None = None,
) -> Push | None:
    """Make a database equal to the models in one transaction; return what was run, or `None` if `agree` refused.

    The models are built on a scratch server, and both schemas are compared before and after. `agree` receives the
    planned push before the first statement runs; only other schema changes are locked out meanwhile. It is not called
    if there is nothing to do.

        >>> evolve.push(engine, agree=lambda planned: not planned.losses)
        Push(statements=['ALTER TABLE users ADD COLUMN tier text'], losses=[], left_alone=[])

    Raises `PushFailed`, `ConnectionCut`, `PushRefused`, `ModelsInvalid`, `RenameUndecided`, `AnswerInvalid`,
    `DirectAddressNeeded`, `RightsMissing`, `NotCoordinator`.
    """
    with explained(engine.url, "push"), exclusive(engine, timeouts or Timeouts()) as connection:
        refuse_worker(connection)
        change, planned = _plan(connection, answers or Answers())
        if planned.losses:
            # Otherwise consent to a loss would be asked of a role that can cause none.
            refuse_missing(rows_of(connection), "push")
        if planned.statements and not agree(planned):
            return None
        statement = ""
        # As when the change was found, so that the statements mean the same objects.
        catalogue.pin_search_path(connection)
        try:
            for statement in planned.statements:
                run_verbatim(connection, statement)
            statement = CHECK_DEFERRED
            run_verbatim(connection, statement)
            reached = catalogue.read(connection)
        except DBAPIError as error:
            connection.rollback()
            raise _failed(connection, error, statement) from error
        if rest := catalogue.differences(change.target, reached):
            connection.rollback()
            raise PushRefused(objects=[str(difference) for difference in rest])
        connection.commit()
        return planned


def _plan(connection: Connection, answers: Answers) -> tuple[Change, Push]:
    with scratch() as server:
        wanted = models.build(server)
        try:
            change = find_change(connection, wanted, answers, lambda: made.made_by_migrations(server))
            losses = [
                sentence for step in change.plan.steps for loss in step.losses for sentence in _losses(connection, loss)
            ]
        except DBAPIError as error:
            connection.rollback()
            raise _failed(connection, error, error.statement or "") from error
        finally:
            # Finding the change applied the renames, which only the push itself may do.
            connection.rollback()
    if change.plan.refused:
        raise PushRefused(objects=change.plan.refused)
    return change, Push(change.statements, losses, change.foreign + change.undeclared)


def _failed(connection: Connection, error: DBAPIError, statement: str) -> TatameError:
    # PostgreSQL rejected nothing if the connection was lost.
    if sqlstate(error) is None and (lost := loss_in_words(error)):
        return lost
    return PushFailed(
        statement=statement,
        message=postgres_message(connection, error),
        sqlstate=sqlstate(error),
        rights=missing_rights_of(connection, error, "push"),
        on_citus=is_limit_of_citus(connection, error),
    )


def _losses(connection: Connection, loss: Loss) -> Iterator[str]:
    """Describe the data that a step drops or rewrites, with the number of rows; nothing if there are none."""
    expression = quoted(loss.column) if loss.column else "*"
    rows = count_all(connection, f"SELECT count({expression}) FROM {quoted(loss.table)}")
    if rows == 0:
        return
    if loss.column is None:
        yield loss_of_table(loss.table, rows)
    elif loss.new_type is None:
        yield loss_of_column(f"{loss.table}.{loss.column}", rows)
    else:
        yield loss_of_column(f"{loss.table}.{loss.column}", rows, f"is rewritten as {loss.new_type}")
