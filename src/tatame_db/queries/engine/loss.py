"""What the loss of a connection means for its calls: which of them are sent again, and what the others raise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg.pq import DiagnosticField, ExecStatus

from tatame_db.database.errors import OutcomeUnknown, ServerDisconnected
from tatame_db.queries.engine.call import MAX_TRIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.pq.abc import PGresult
    from sqlalchemy import URL

    from tatame_db.queries.engine.call import Call

_QUERY_CANCELED = b"57014"
_IDLE_SESSION_TIMEOUT = b"57P05"
_FATAL = (b"FATAL", b"PANIC")


def ends_session(result: PGresult) -> bool:
    """Return whether an error ends the session: the server sent FATAL, or libpq found the connection closed."""
    if result.status != ExecStatus.FATAL_ERROR:
        return False
    severity = result.error_field(DiagnosticField.SEVERITY_NONLOCALIZED)
    return severity is None or severity in _FATAL


def is_cancelled(error: PGresult) -> bool:
    """Return whether a statement was cancelled: it has no effect."""
    return error.error_field(DiagnosticField.SQLSTATE) == _QUERY_CANCELED


@dataclass(frozen=True)
class Loss:
    """How a connection was lost."""

    reason: str
    """The first line of the message of the server or libpq."""
    sqlstate: bytes | None = None
    while_idle: bool = False
    """True if the server ended the session while no statement was running. libpq makes it a notice."""

    def may_have_begun(self, position: int) -> bool:
        """Return whether the call at a position in the pipe may have begun, and so may be committed."""
        if self.while_idle or self.sqlstate == _IDLE_SESSION_TIMEOUT:
            return False
        # All calls before the first are answered. FATAL is the answer to the first, so no other was read.
        return self.sqlstate is None or position == 0


def loss_of(results: Sequence[PGresult], message: bytes) -> Loss:
    """Return how a connection was lost, from the results that arrived last and the message of libpq."""
    for result in results:
        state = result.error_field(DiagnosticField.SQLSTATE) if ends_session(result) else None
        if state is not None:
            primary = result.error_field(DiagnosticField.MESSAGE_PRIMARY) or b""
            return Loss(_text(primary), state)
    return Loss(_text(message) or "the connection was closed")


def _text(message: bytes) -> str:
    return (message.decode("utf-8", "replace").strip().splitlines() or [""])[0]


def error_after_loss(call: Call, position: int, loss: Loss, address: URL) -> BaseException | None:
    """Return what the caller of a lost call receives, or `None` if the call is to be sent again."""
    begun = loss.may_have_begun(position)
    if begun and not call.may_repeat:
        return OutcomeUnknown(name=call.name, reason=loss.reason)
    if call.tries < MAX_TRIES:
        return None
    return ServerDisconnected(address=address, name=call.name, reason=loss.reason)
