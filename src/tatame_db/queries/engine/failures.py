"""What a caller learns of a failed call, and whether the call may be sent again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
from psycopg.pq import ConnStatus, DiagnosticField
from sqlalchemy.exc import DBAPIError

from tatame_db.database.dialect import DIALECT
from tatame_db.database.errors import OutcomeUnknown, ServerDisconnected
from tatame_db.database.failures import hide_row, statement_error
from tatame_db.queries.errors import ValueDiffersFromModel, ValueNotReadable

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult
    from sqlalchemy import URL

    from tatame_db.queries.engine.plan import Statement

# A row maker that decodes JSON raises msgspec's error while rows are made.
FAILURES = (psycopg.Error, msgspec.DecodeError)


# In these classes of SQLSTATE, the server's own messages name objects and limits, and no values.
_CLASSES_WITHOUT_VALUES = frozenset(
    ("08", "0A", "21", "25", "26", "28", "2D", "34", "3B", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "XX")
)
_DIVISION_BY_ZERO = "22012"
# A name that is not part of the statement may be a value: of `regclass`, of a text search, or in SQL that a function
# makes.
_NAME_ERRORS = frozenset(("3D000", "3F000", "42601", "42602", "42622", "42703", "42704", "42725", "42883", "42P01"))


def hide_values(error: psycopg.Error | msgspec.DecodeError) -> None:
    """Replace the text of an error if it may quote a value; `diag` keeps the server's own words."""
    if not isinstance(error, psycopg.Error):
        error.args = ("a value of the answer could not be decoded",)
    elif error.sqlstate is None:
        # Others without an SQLSTATE are about the connection.
        if isinstance(error, psycopg.DataError):
            error.args = ("a value of the answer has no equal in Python",)
    elif _may_quote_values(error):
        text = f"error {error.sqlstate}; its message may quote a value, and is only in the error's `orig.diag`"
        error.args = (text,)
    else:
        hide_row(error)


def _may_quote_values(error: psycopg.Error) -> bool:
    diagnosis, state = error.diag, error.sqlstate or ""
    # A function of PL/pgSQL raises its errors with any SQLSTATE.
    if diagnosis.source_function == "exec_stmt_raise":
        return True
    if state[:2] not in _CLASSES_WITHOUT_VALUES:
        return state != _DIVISION_BY_ZERO
    return state in _NAME_ERRORS and diagnosis.statement_position is None


def _difference(error: msgspec.ValidationError) -> str:
    """Return how a value differs from its model, without the value, which is shown of an `Enum` alone."""
    text = str(error)
    if not text.startswith("Invalid enum value"):
        return text
    _, found, path = text.rpartition(" - at ")
    return f"Invalid enum value{found}{path}"


def failure(
    statement: Statement[Any], error: psycopg.Error | msgspec.DecodeError, address: URL | None, server: PGconn | None
) -> Exception:
    """Return the error that the caller of a statement receives; a known address explains refusals of the server.

    The text of the error itself is replaced where it may quote a value, because it is the cause or context of that one.
    """
    # The children of rows are decoded by the types of their columns. Only a moment may be of its type and unreadable.
    if isinstance(error, msgspec.ValidationError) and not str(error).startswith("Invalid RFC3339"):
        problem = _difference(error)
        hide_values(error)
        return ValueDiffersFromModel(name=statement.name, problem=problem)
    hide_values(error)
    # Errors of the server have an SQLSTATE; without one, psycopg could not load a value into Python.
    if not isinstance(error, psycopg.Error) or (isinstance(error, psycopg.DataError) and error.sqlstate is None):
        return ValueNotReadable(name=statement.name)
    if address is not None and (explained := statement_error(address, error, server)):
        return explained
    return DBAPIError.instance(
        statement.sql,
        None,
        error,
        psycopg.Error,
        hide_parameters=True,
        connection_invalidated=server is not None and is_lost(error, server),
        dialect=DIALECT,
    )


def outcome_unknown(statement: Statement[Any], error: psycopg.Error) -> OutcomeUnknown:
    """Return the error for a write whose connection was lost before its answer came."""
    return OutcomeUnknown(name=statement.name, reason=_reason(error))


def disconnected(
    statement: Statement[Any], error: BaseException, raised: BaseException, server: PGconn, address: URL | None
) -> BaseException:
    """Return the error of a call that is not sent again and was not committed, if its connection was lost."""
    if address is None or not is_lost(raised, server) or not isinstance(error, DBAPIError):
        return error
    return ServerDisconnected(address=address, name=statement.name, reason=_reason(raised))


def _reason(error: BaseException) -> str:
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return ((primary or str(error)).strip().splitlines() or ["no reason is known"])[0]


def explained(
    statement: Statement[Any], raised: BaseException, address: URL | None, server: PGconn, *, is_final: bool
) -> BaseException:
    """Return the error that the caller receives for any error of a call.

    `is_final` says that a commit may have been under way, of something that must not run twice.
    """
    if not isinstance(raised, FAILURES):
        return raised
    error = failure(statement, raised, address, server)
    if not is_final or not isinstance(raised, psycopg.Error) or not isinstance(error, DBAPIError):
        return error
    is_unknown = is_lost(raised, server) and not never_began(raised)
    return outcome_unknown(statement, raised) if is_unknown else error


def is_lost(error: BaseException, server: PGconn) -> bool:
    """Return whether the connection ended with this error. Behind a pooler, that may be the pooler's own farewell."""
    if not isinstance(error, psycopg.Error):
        return False
    return server.status == ConnStatus.BAD or error.diag.severity_nonlocalized in ("FATAL", "PANIC")


def never_began(error: BaseException) -> bool:
    """Return whether the server certainly ran no part of a statement whose connection was lost."""
    # 57P05 ends a session only while it waits for a statement.
    return isinstance(error, psycopg.errors.IdleSessionTimeout)


def is_stale(result: PGresult) -> bool:
    """Return whether a prepared statement is gone or no longer fits its tables; it did not run then."""
    state = result.error_field(DiagnosticField.SQLSTATE)
    # 0A000 has other meanings too; this function of the server raises it for this one.
    return state == b"26000" or (
        state == b"0A000" and result.error_field(DiagnosticField.SOURCE_FUNCTION) == b"RevalidateCachedQuery"
    )
