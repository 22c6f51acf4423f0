"""Why a request is refused: the facts, the sentences about them, and the HTTP status."""

from __future__ import annotations

from typing import Any

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from tatame_db.database.errors import DatabaseUnavailable
from tatame_db.database.failures import is_lost
from tatame_db.errors import TatameError, fact
from tatame_db.roles.missing import RightsMissing, StatementForbidden

EXPECTED = (TatameError, DBAPIError, psycopg.Error, PoolTimeout, TimeoutError)
"""The errors that `translated` puts into words; any other error is a bug."""
UNAVAILABLE = 503
"""The HTTP status of a response without a database."""


class Refused(TatameError):
    """The studio refuses a request."""

    status: int = 400
    """The HTTP status of the response."""
    code: str | None = None
    """The SQLSTATE, if PostgreSQL rejected the statement."""

    @property
    def details(self) -> dict[str, Any]:
        """The fields of the response beside the three sentences and the code."""
        return {}


@fact
class BadInput(Refused):
    """A part of the request is malformed or contradicts another part."""

    problem: str
    advice: str = "correct the request and try again"
    what = "{problem}"
    fix = "{advice}"


@fact
class OutOfRange(Refused):
    """A number in the request is zero or above its maximum."""

    container: str
    noun: str
    number: int
    maximum: int
    what = "{container} has 1 to {maximum:,} {noun}, not {number:,}"
    fix = "choose a number from 1 to {maximum:,}"


@fact
class TableNotFound(Refused):
    """The database has no table of this name."""

    table: str
    tables: list[str]
    status = 404
    what = 'table "{table}" does not exist'
    fix = "the tables are {tables}"


@fact
class TableNotReadable(Refused):
    """The role may read no column of a table."""

    table: str
    role: str
    grant: str
    status = 403
    what = "the role {role} may not read {table}"
    fix = "let the owner of the table run `{grant}`, or start the studio as a role that may read it"


@fact
class TableReadOnly(Refused):
    """No row of the table can be changed."""

    table: str
    obstacle: str
    what = "the rows of {table} cannot be changed: {reason}"
    means = "Nothing was saved."
    fix = "use SQL with a condition that names the rows"

    @property
    def reason(self) -> str:
        """The obstacle as a part of a sentence."""
        return self.obstacle[:1].lower() + self.obstacle[1:].rstrip(".")


@fact
class ColumnNotFound(Refused):
    """The table has no such column, or the role may not read it."""

    table: str
    column: str
    columns: list[str]
    what = 'column "{column}" of table "{table}" does not exist'
    fix = "its columns are {columns}"


@fact
class RowNotFound(Refused):
    """A table has no row with this key."""

    table: str
    key: str
    status = 404
    what = '{table} has no row with the key "{key}"'
    fix = "find the row in the list of {table}"


@fact
class WritesDisabled(Refused):
    """The studio was started without `--write`."""

    status = 403
    what = "this studio is read-only"
    fix = "start it with `tatame-db studio --write` to change rows"


@fact
class DatabaseNotResponding(Refused):
    """The database cannot be used at the moment."""

    reason: str
    status = UNAVAILABLE
    what = "{reason}"
    means = "No data is lost; unsaved changes were not written."
    fix = (
        "run `tatame-db status` to check the server, `tatame-db start` to start it; the studio reconnects automatically"
    )


@fact
class CommitUnconfirmed(Refused):
    """The connection was lost between COMMIT and its answer."""

    reason: str
    status = UNAVAILABLE
    what = "the connection was lost while the changes were committed: {reason}"
    means = "They may have been saved."
    fix = "look at the rows before you save or import them again"


@fact
class StudioStopped(Refused):
    """The client has disconnected, or the studio is stopping."""

    status = UNAVAILABLE
    what = "the studio has stopped"
    fix = "start it again with `tatame-db studio`"


@fact
class StatementRejected(Refused):
    """PostgreSQL or psycopg rejected a statement or one of its values."""

    message: str
    code: str | None
    status: int
    advice: str
    what = "{message}"
    fix = "{advice}"


ENCODING_ADVICE = {
    # Sent to the database.
    "22P05": "write the value without this character, which the encoding of the database lacks",
    # Read from the database: whatever the studio sends is UTF-8.
    "22021": (
        "these bytes are no text in UTF-8: correct what is converted; in a database without an encoding (SQL_ASCII),"
        " hide the column with *Columns*, or read its bytes in the SQL page with `convert_to(column, 'SQL_ASCII')`"
    ),
}
"""By SQLSTATE, what to do about a text that a database cannot store, or that cannot be read."""
# By SQLSTATE, or by its class: the HTTP status, and what to do.
_SCHEMA_BEHIND = "the schema may be behind: `tatame-db status`, then `tatame-db migrate`"
_REJECTIONS = {
    "57014": (422, "narrow the request so that it takes less time"),
    "55P03": (422, "another session is changing the same rows; try again in a moment"),
    "22": (400, "write the value in the form of the column's type"),
    **{state: (422, advice) for state, advice in ENCODING_ADVICE.items()},
    "42P01": (422, _SCHEMA_BEHIND),
    "42703": (422, _SCHEMA_BEHIND),
    "42501": (
        403,
        "start the studio with `--write`, or as a role with this privilege: `tatame-db roles` shows which has it",
    ),
    "25006": (403, "start the studio with `--write`"),
}


def translated(error: Exception) -> TatameError:
    """Turn an error of SQLAlchemy or psycopg into one with a cause and a fix. Raises others again: they are bugs."""
    if isinstance(error, TatameError):
        return error
    if isinstance(error, PoolTimeout):
        return DatabaseNotResponding(reason="all connections of the studio are in use")
    if isinstance(error, TimeoutError):
        return DatabaseNotResponding(reason="the database does not respond in time")
    if isinstance(error, DBAPIError):
        error = error.orig if isinstance(error.orig, Exception) else error
    if isinstance(error, psycopg.Error):
        return _rejection(error)
    raise error


def _rejection(error: psycopg.Error) -> Refused:
    if is_unavailable(error):
        return DatabaseNotResponding(reason=f"the connection to the database was lost: {message_of(error)}")
    # psycopg itself rejects a value that no text can hold, and then sets no SQLSTATE.
    state = error.sqlstate or ("22" if isinstance(error, psycopg.DataError) else "")
    status, advice = (
        _REJECTIONS.get(state) or _REJECTIONS.get(state[:2]) or (422, "fix the problem that PostgreSQL reports")
    )
    # An error of the studio itself brings its own advice.
    advice = getattr(error, "fix", advice)
    return StatementRejected(message=message_of(error), code=error.sqlstate, status=status, advice=advice)


def message_of(error: psycopg.Error) -> str:
    """Return the server's primary message, or the first line of psycopg's own."""
    return error.diag.message_primary or str(error).strip().splitlines()[0]


def is_unavailable(error: psycopg.Error) -> bool:
    """Return whether the server failed or has no connection left, so that the statement itself may be right."""
    return is_lost(error) or error.sqlstate == "53300"


def status_of(error: TatameError) -> int:
    """Return the HTTP status of the response to a request that failed with this error."""
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, RightsMissing | StatementForbidden):
        return 403
    return UNAVAILABLE if isinstance(error, DatabaseUnavailable) else 422


def problem_of(error: TatameError) -> dict[str, Any]:
    """Return the body of that response: three sentences, the SQLSTATE or `None`, and further facts."""
    code, details = (error.code, error.details) if isinstance(error, Refused) else (None, {})
    return {"what": error.what, "means": error.means, "fix": error.fix, "code": code} | details
