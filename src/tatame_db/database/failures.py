"""Which of our errors a failure of psycopg or libpq stands for."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

import psycopg
from psycopg.pq import ConnStatus
from sqlalchemy.exc import DBAPIError

from tatame_db.database.address import hosts_of, is_local
from tatame_db.database.citus import is_on_citus
from tatame_db.database.errors import (
    CommandOutcomeUnknown,
    ConnectionCut,
    ConnectionRefused,
    DatabaseMissing,
    DatabaseUnavailable,
    HostUnknown,
    NodeUnavailable,
    NotOnCitus,
    OutcomeUnknown,
    PasswordRejected,
    PoolerBusy,
    PoolerConsole,
    PoolerModeUnsupported,
    PoolerWithoutServer,
    PrimaryMissing,
    ServerNotReady,
    ServerNotRunning,
    ServerReadOnly,
    ServerSilent,
    StandbyMissing,
    TlsFailed,
    TooManyConnections,
)
from tatame_db.server.postmaster import postmaster_of

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from psycopg.pq.abc import PGconn
    from sqlalchemy import URL

# libpq gives no SQLSTATE for a connection that was never made, so only its text can tell. A server may answer in any
# language, and then it is `ConnectionRefused`; libpq and poolers answer in English. Written in lower case.
_ANSWERS: dict[type[DatabaseUnavailable], tuple[str, ...]] = {
    PasswordRejected: ("password authentication failed", "no password supplied", "password is required"),
    ServerNotReady: ("the database system is", "terminating connection due to administrator command"),
    TooManyConnections: (
        "too many clients",
        "too many connections",
        "remaining connection slots",
        "no more connections allowed",
        "max client connections reached",
        "max clients reached",
    ),
    PoolerBusy: ("query_wait_timeout",),
    PoolerConsole: ("use show help",),
    PoolerModeUnsupported: ("statement pooling mode",),
    PoolerWithoutServer: ("server login", "server_login_retry", "cannot connect to server"),
}
_NO_ANSWER: dict[type[DatabaseUnavailable], tuple[str, ...]] = {
    PasswordRejected: ("no password supplied",),
    HostUnknown: ("failed to resolve host", "could not translate host name"),
    ServerReadOnly: ("session is read-only", "server is in hot standby mode"),
    StandbyMissing: ("session is not read-only", "server is not in hot standby mode"),
    TlsFailed: ("ssl", "certificate", "tls"),
    # The last two are values of libpq's own variables.
    ConnectionRefused: (
        "permission denied",
        "service file",
        "definition of service",
        ' value: "',
        "invalid integer value",
    ),
}


def connection_error(address: URL, error: psycopg.Error, variable: str = "DATABASE_URL") -> DatabaseUnavailable:
    """Return the error that a failed connection stands for; the variable is the setting that has the address."""
    # The server's own message follows FATAL, and the address that libpq tried precedes it. An SQLSTATE comes from a
    # pooler, which lets a client in before it has a server, and then fails the first statement.
    _, fatal, reason = str(error).partition("FATAL:")
    answered = bool(fatal or error.sqlstate)
    reason = _first_line(reason if fatal else str(error))
    for prefix in ("connection failed: ", "connection is bad: "):
        reason = reason.removeprefix(prefix)
    if isinstance(error, psycopg.errors.QueryCanceled):
        reason += ", before the connection was ready; a limit of the role, the database or the address is too short"
    if answered and (re.fullmatch(r"database .* does not exist", reason) or "no such database" in reason):
        return DatabaseMissing(address=address, variable=variable)
    if isinstance(error, psycopg.errors.ConnectionTimeout) and is_local(address):
        process = postmaster_of(address)
        suspended = process is not None and process.is_suspended
        return ServerSilent(address=address, reason=reason, pid=process.pid if process else None, suspended=suspended)
    kind = _kind(_ANSWERS, reason, ConnectionRefused) if answered else _kind(_NO_ANSWER, reason, ServerNotRunning)
    if kind in _WITHOUT_PRIMARY and len(hosts_of(address)) > 1 and _wants_primary(address):
        kind = PrimaryMissing
    return kind(address=address, variable=variable, reason=reason)  # type: ignore[call-arg]  # all in the tables have a reason


# libpq and psycopg write a line for each host of an address.
_ANOTHER_KIND = (
    "server is not in hot standby mode",
    "server is in hot standby mode",
    "session is read-only",
    "session is not read-only",
)


def _first_line(text: str) -> str:
    """Return the first failure, or that of the first host that is not merely a server of another kind."""
    lines = text.strip().splitlines()
    failures = [line for line in lines if " failed: " in line and not line.endswith(_ANOTHER_KIND)]
    _, where, reason = failures[0].partition("connection to server") if failures else ("", "", "")
    return where + reason if where else lines[0]


# The reason is that of the last host, which may be a standby, be away, or still be starting.
_WITHOUT_PRIMARY = (ServerNotRunning, ServerReadOnly, ServerNotReady)


def _wants_primary(address: URL) -> bool:
    return address.query.get("target_session_attrs") in {"read-write", "primary"}


def statement_error(
    address: URL, error: psycopg.Error, connection: PGconn | None, *, is_commit: bool = False
) -> DatabaseUnavailable | None:
    """Return the error that a failed statement stands for if the server or a pooler ran no part of it.

    That of a lost node of Citus says itself that a COMMIT may have been done.

    All others, for which this returns `None`, reach the caller as SQLAlchemy's.
    """
    reason = error.diag.message_primary or str(error).strip()
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction) and not _asked_for_reads_only(connection):
        return ServerReadOnly(address=address, reason=reason)
    # A statement that was prepared before a change of its table has the same SQLSTATE, and is the server's own matter.
    is_refused = error.sqlstate == "0A000" and error.diag.source_function != "RevalidateCachedQuery"
    if is_refused and is_on_citus(address):
        return NotOnCitus(address=address, reason=reason)
    # At a COMMIT Citus reports the loss as an internal error.
    codes = (*_LOSSES, "XX000") if is_commit else _LOSSES
    if is_on_citus(address) and is_loss_of_node(error, connection, codes):
        return NodeUnavailable(address=address, reason=_first_line(reason))
    if isinstance(error, psycopg.errors.ProtocolViolation):
        # PgBouncer's only SQLSTATE. It also reports the loss of a server that may have run the statement.
        kind = _kind(_ANSWERS, reason, DatabaseUnavailable)
        if kind is not DatabaseUnavailable:
            return kind(address=address, reason=reason)  # type: ignore[call-arg]  # as above
    return None


_LOSSES = ("08", "57P01", "57P02", "57P03")


def is_loss_of_node(error: psycopg.Error, connection: PGconn | None, codes: tuple[str, ...] = _LOSSES) -> bool:
    """Return whether a server reports, on a connection that goes on, that it lost one to another server."""
    is_own = error.diag.severity_nonlocalized != "ERROR" or isinstance(error, psycopg.errors.ProtocolViolation)
    goes_on = connection is not None and connection.status == ConnStatus.OK
    return (error.sqlstate or "").startswith(codes) and goes_on and not is_own


_refusing: WeakSet[PGconn] = WeakSet()

_of_pooler: WeakKeyDictionary[PGconn, bool] = WeakKeyDictionary()
"""The connections to poolers, and whether the caller of the running transaction wanted it to be read-only."""


@contextmanager
def refusing_writes(connection: PGconn) -> Generator[None]:
    """Let a write on a connection be `ServerReadOnly`, though its transaction alone is read-only."""
    _refusing.add(connection)
    try:
        yield
    finally:
        _refusing.discard(connection)


def serve_by_pooler(connection: PGconn) -> None:
    """Note that a pooler serves a connection, and goes on to report what its server was when it first connected."""
    _of_pooler[connection] = False


def note_wish(connection: PGconn, *, reads_only: bool) -> None:
    """Note whether the caller of the running transaction wants it to be read-only, if only the wish itself tells."""
    if connection in _of_pooler:
        _of_pooler[connection] = reads_only


def is_lost(error: BaseException | None) -> bool:
    """Return whether the connection or the server failed, not the statement."""
    return isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08").startswith(("08", "57P"))


def is_stale(error: psycopg.Error) -> bool:
    """Return whether a prepared statement is gone or no longer fits its tables; it did not run then."""
    # 0A000 has other meanings too; this function of the server raises it for this one.
    return error.sqlstate == "26000" or (
        error.sqlstate == "0A000" and error.diag.source_function == "RevalidateCachedQuery"
    )


def loss_in_words(error: BaseException) -> ConnectionCut | OutcomeUnknown | None:
    """Return the error of a connection that was lost in the middle of a command; others are `None`."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(error, DBAPIError):
        is_lost = error.connection_invalidated
    else:
        is_lost = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
    if not is_lost:
        return None
    reason = (str(cause).strip().splitlines() or ["no reason is known"])[0]
    # SQLAlchemy runs COMMIT without a statement's text.
    if isinstance(error, DBAPIError) and error.statement is None:
        return CommandOutcomeUnknown(name="tatame-db", reason=reason)
    return ConnectionCut(reason=reason)


def hide_row(error: psycopg.Error) -> None:
    """Remove the detail and the context, which may quote a row, from the text of an error; `diag` keeps both."""
    diagnosis = error.diag
    if diagnosis.message_detail or diagnosis.context or diagnosis.internal_query:
        hint = f"\nHINT:  {diagnosis.message_hint}" if diagnosis.message_hint else ""
        error.args = (f"{diagnosis.message_primary}{hint}",)


def _kind(
    texts: Mapping[type[DatabaseUnavailable], tuple[str, ...]], reason: str, default: type[DatabaseUnavailable]
) -> type[DatabaseUnavailable]:
    lowered = reason.lower()
    return next((kind for kind, found in texts.items() if any(text in lowered for text in found)), default)


def _asked_for_reads_only(connection: PGconn | None) -> bool:
    """Return whether a transaction is read-only because its caller wanted it so, not because of the server.

    PostgreSQL reports both settings without being asked. PgBouncer goes on to report those of its first login, so the
    wish itself counts there.
    """
    if connection is None or connection in _refusing:
        return False
    if (wish := _of_pooler.get(connection)) is not None:
        return wish
    settings = [connection.parameter_status(name) for name in (b"in_hot_standby", b"default_transaction_read_only")]
    return settings == [b"off", b"off"]
