"""Responses for requests that failed because of the database: 503, and never an address, a statement or a value."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from fastapi.exceptions import ResponseValidationError
from sqlalchemy.exc import DBAPIError
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from tatame_db.database.errors import DatabaseUnavailable, OutcomeUnknown
from tatame_db.database.observer import log_safely
from tatame_db.queries.errors import DeadlineExceeded, NotLoaded, ParameterInvalid, RowInvalid

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import HTTPConnection
    from starlette.responses import Response

RETRY_AFTER_SECONDS = 5
CLOSE_CODES = {503: 1013, 422: 1007}
"""The codes with which a WebSocket is closed: "try again later", and "invalid data"."""

# What a later request need not meet again, by SQLSTATE and its class: lost connections, too few resources, conflicts,
# locks, cancelled statements, a server that shuts down or is a standby.
_PASSING = ("08", "53", "40001", "40P01", "55P03", "57014", "57P01", "57P02", "57P03", "57P05", "25006")

logger = logging.getLogger("tatame_db.fastapi")


class Failure(NamedTuple):
    """What a client learns."""

    detail: str
    may_repeat: bool
    """Whether the transaction that failed certainly changed nothing, so that the request may be sent again."""
    status: int = 503


UNAVAILABLE = Failure("The database is unavailable; try again later.", may_repeat=True)
TOO_SLOW = Failure("The database did not answer in time; try again later.", may_repeat=True)
UNKNOWN = Failure("The connection to the database was lost; the request may have been carried out.", may_repeat=False)
INVALID = Failure("A value of the request cannot be stored or compared.", may_repeat=False, status=422)

_FAILURES: dict[type[Exception], Failure] = {
    OutcomeUnknown: UNKNOWN,
    DatabaseUnavailable: UNAVAILABLE,
    DeadlineExceeded: TOO_SLOW,
    ParameterInvalid: INVALID,
    RowInvalid: INVALID,
}

# A number out of range, a text that is too long, and text that the server's encoding lacks, such as NUL.
_INVALID_VALUES = ("22003", "22001", "22021", "22P05")


def add_database_handlers(app: FastAPI, *, retry_after_seconds: int = RETRY_AFTER_SECONDS) -> None:
    """Respond with 503 to requests that failed because the database is away, full, locked or too slow.

        add_database_handlers(app)

    The body is `{"detail": …}`, in words that name no address and no value; the log has the error. `Retry-After` is set
    unless a commit may have been carried out before its connection was lost. A value that PostgreSQL cannot hold, such
    as an id that is out of range or a text with NUL, is 422. Other errors stay what they are: a bug is 500. A response
    whose model has an attribute that its row did not load raises `NotLoaded`, which names it.
    """

    async def respond(connection: HTTPConnection, error: Exception) -> Response | None:
        failure = failure_of(error)
        if failure is None:
            raise error
        log_safely(logger, logging.WARNING, "%d for %s: %s", failure.status, _request(connection), _logged(error))
        if isinstance(connection, WebSocket):
            await connection.close(CLOSE_CODES[failure.status], failure.detail)
            return None
        headers = {"Retry-After": str(retry_after_seconds)} if failure.may_repeat else {}
        return JSONResponse({"detail": failure.detail}, status_code=failure.status, headers=headers)

    for kind in (*_FAILURES, DBAPIError):
        app.add_exception_handler(kind, respond)  # type: ignore[arg-type]  # `None` for WebSockets is allowed
    app.add_exception_handler(ResponseValidationError, _explain_missing_attribute)


def failure_of(error: Exception) -> Failure | None:
    """Return what a client learns of an error, or `None` if it is not the database's."""
    if isinstance(error, DBAPIError):
        return _failure_of_statement(error)
    return next((failure for kind, failure in _FAILURES.items() if isinstance(error, kind)), None)


def _failure_of_statement(error: DBAPIError) -> Failure | None:
    if error.connection_invalidated:
        # SQLAlchemy runs COMMIT without a statement's text. Whatever ran before it is rolled back by the loss.
        return UNKNOWN if error.statement is None else UNAVAILABLE
    state = getattr(error.orig, "sqlstate", None) or ""
    # psycopg refuses NUL itself, without an SQLSTATE.
    is_nul = isinstance(error.orig, psycopg.DataError) and not state and "NUL" in str(error.orig)
    if is_nul or state in _INVALID_VALUES:
        return INVALID
    if not state.startswith(_PASSING):
        return None
    return TOO_SLOW if state == "57014" else UNAVAILABLE


def _request(connection: HTTPConnection) -> str:
    """Describe a request by its method and route; the values in its path are not part of it."""
    scope = connection.scope
    return f"{scope.get('method', 'WebSocket')} {getattr(scope.get('route'), 'path', 'of no route')}"


def _logged(error: Exception) -> str:
    """Describe an error for the log; the text of the server's may quote a row."""
    if isinstance(error, DBAPIError):
        return f"{type(error.orig).__name__} {getattr(error.orig, 'sqlstate', None) or ''}".rstrip()
    return getattr(error, "what", type(error).__name__)


async def _explain_missing_attribute(_: Any, error: Any) -> Response:
    """Name the attribute that a row did not load: to pydantic it is a missing field."""
    for problem in error.errors():
        if problem["type"] == "missing":
            _read(error.body, problem["loc"][1:], error)
    raise error


def _read(body: Any, location: tuple[int | str, ...], error: Exception) -> None:
    value = body
    for step in location:
        try:
            value = value[step] if isinstance(step, int) else getattr(value, step)
        except NotLoaded as not_loaded:
            raise not_loaded from error
        except (AttributeError, LookupError, TypeError):
            return
