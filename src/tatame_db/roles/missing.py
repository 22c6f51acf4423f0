"""PostgreSQL's refusal of a right, in words: which right on which object is missing, and the statement that gives it.

The message of the server may be in any language and names one object only. So the catalogue is asked for all that the
command needs.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy.exc import DBAPIError

from tatame_db.database.creation import maintenance
from tatame_db.database.dialect import quoted
from tatame_db.database.errors import DatabaseUnavailable
from tatame_db.database.pool import Database
from tatame_db.errors import TatameError, fact
from tatame_db.roles.needs import COMMANDS, OWNER
from tatame_db.roles.rights import grants, holder_of, in_words, missing_rights, rows_of

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from sqlalchemy import URL

    from tatame_db.roles.rights import Holder, Right, Rows


@fact
class RightsMissing(TatameError):
    """The role lacks rights that the command needs."""

    role: str
    rights: list[str]
    """The missing rights, in words."""
    grants: list[str]
    """The statements that give them."""
    hints: list[str]
    """What the role has, and is of no help."""
    owners: list[str]
    """The roles whose objects it would have to own."""
    what = "the role {role} has too few rights; it lacks {rights}{notes}"
    fix = "{advice}; `tatame-db roles` shows who may do what, and `tatame-db roles --apply` gives an app its four roles"

    @property
    def advice(self) -> str:
        """Who should run the command, or which rights let the role run it."""
        granted = f"let the owner of the tables or a superuser run `{self.statements}`"
        return (
            f"run the command as {' or '.join(self.owners)}, who owns the tables; or {granted}"
            if self.owners
            else granted
        )

    @property
    def statements(self) -> str:
        """The grants as one line of SQL."""
        return "; ".join(self.grants)

    @property
    def notes(self) -> str:
        """What the role has, and is of no help."""
        return "".join(f"; {hint}" for hint in self.hints)


@fact
class StatementForbidden(TatameError):
    """PostgreSQL refused a statement to a role that has every right that the command needs."""

    role: str
    what = (
        "PostgreSQL refused a statement to the role {role}, which has every right that the command needs: a trigger, a"
        " policy or another program's object refused it"
    )
    fix = "read the log of the server, which names the statement; or run the command as the owner of the tables"


def refusal(rows: Rows, command: str) -> RightsMissing | None:
    """Return which rights the role of a connection lacks for a command; `None` if it has all."""
    [rights] = missing_rights(rows, COMMANDS[command]).values()
    return _in_words(holder_of(rows), rights) if rights else None


def _in_words(holder: Holder, rights: Sequence[Right]) -> RightsMissing:
    hints: list[str] = []
    if holder.uninherited:
        hints.append(f"it is a member of {', '.join(holder.uninherited)} without inheriting its rights")
    if columns := [right.object for right in rights if right.has_columns]:
        hints.append(f"it has the privilege on some columns of {', '.join(dict.fromkeys(columns))}")
    return RightsMissing(
        role=holder.role,
        rights=in_words(rights),
        grants=grants(holder, rights),
        hints=hints,
        owners=sorted({str(right.owner) for right in rights if right.privilege == OWNER}),
    )


def error_of_refusal(address: URL, command: str) -> RightsMissing | StatementForbidden:
    """Ask the catalogue, on a connection of its own, why PostgreSQL refused a statement of a command."""
    with Database(address) as database, database.engine.connect() as connection:
        rows = rows_of(connection)
        return refusal(rows, command) or StatementForbidden(role=holder_of(rows).role)


def refused_login(address: URL) -> RightsMissing | None:
    """Return that the role may not connect to a database, if another database of the server says so.

    A server that refuses a login sends no SQLSTATE, and its words may be in any language.
    """
    query = (
        "SELECT r.rolname, quote_ident(datname) FROM pg_database CROSS JOIN pg_roles r WHERE datname = %s"
        " AND r.rolname = current_user AND NOT has_database_privilege(datname, 'CONNECT')"
    )
    try:
        with maintenance(address) as connection:
            row = connection.execute(query, [address.database]).fetchone()
    except DatabaseUnavailable:
        return None
    if row is None:
        return None
    role, database = row
    statement = f"GRANT CONNECT ON DATABASE {database} TO {quoted(role)}"
    return RightsMissing(
        role=role, rights=[f"CONNECT on the database {database}"], grants=[statement], hints=[], owners=[]
    )


def is_refusal(error: BaseException) -> bool:
    """Return whether PostgreSQL refused a statement because of a missing right."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return isinstance(cause, psycopg.errors.InsufficientPrivilege)


@contextlib.contextmanager
def explained(address: URL, command: str, *, alone: bool = True) -> Generator[None]:
    """Turn a refusal of PostgreSQL into `RightsMissing` or `StatementForbidden`; other errors pass.

    If the command is not `alone` with this database, a refusal that the catalogue does not explain passes too.
    """
    try:
        yield
    except (DBAPIError, psycopg.Error) as error:
        if not is_refusal(error):
            raise
        reason = error_of_refusal(address, command)
        if isinstance(reason, StatementForbidden) and not alone:
            raise
        raise reason from error
