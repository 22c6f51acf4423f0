"""The reasons why a database cannot be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.database.address import is_local, readable
from tatame_db.database.dialect import OLDEST_SERVER
from tatame_db.errors import TatameError, fact

if TYPE_CHECKING:
    from sqlalchemy import URL


@fact
class DatabaseUnavailable(TatameError):
    """A database cannot be used; each reason has a class of its own."""

    address: URL
    what = "the database at {where} is unavailable"
    fix = "check the server, and the address in `DATABASE_URL`"

    @property
    def where(self) -> str:
        """The address without its password."""
        return readable(self.address)


@fact
class ServerNotRunning(DatabaseUnavailable):
    """No PostgreSQL answers at the address."""

    reason: str
    what = "PostgreSQL does not answer at {where}: {reason}"
    fix = "{first_step}"

    @property
    def first_step(self) -> str:
        """The advice for a server on this machine, or for one on another."""
        if is_local(self.address):
            return "start it with `tatame-db start`, or set `DATABASE_URL` to a running server"
        return "check the host and the port in `DATABASE_URL`, and the network between here and there"


@fact
class PasswordRejected(DatabaseUnavailable):
    """The server rejected the user or the password."""

    reason: str
    what = "the server at {where} rejected the login of {user}: {reason}"
    fix = "check the user and the password in `DATABASE_URL`"

    @property
    def user(self) -> str:
        """The user in the address."""
        return self.address.username or "the default user"


@fact
class DatabaseMissing(DatabaseUnavailable):
    """The server has no database of this name."""

    what = "the server at {where} has no database {address.database!r}"
    fix = "create it with `tatame-db up`, or set `DATABASE_URL` to an existing database"


@fact
class ConnectionRefused(DatabaseUnavailable):
    """The server refused the connection for another reason, such as too many connections."""

    reason: str
    what = "could not connect to {where}: {reason}"
    fix = "fix the reported problem, or set `DATABASE_URL` to another server"


@fact
class ServerTooOld(DatabaseUnavailable):
    """The server is older than the oldest supported version."""

    version: str
    what = "the server at {where} is PostgreSQL {version}; the oldest supported version is {oldest}"
    fix = "upgrade the server, or set `DATABASE_URL` to a newer one"
    oldest = OLDEST_SERVER


@fact
class DatabaseNotCreated(DatabaseUnavailable):
    """The database is missing, and the user may not create it."""

    reason: str
    what = "the database {address.database!r} cannot be created at {where}: {reason}"
    fix = "ask an administrator to create it, or to run `ALTER ROLE {address.username} CREATEDB`"


@fact
class DatabaseClosed(DatabaseUnavailable):
    """A connection was requested after `close()`."""

    what = "the connections to {where} are closed"
    fix = "make a new `Database` or `AsyncDatabase`, or close this one later"


@fact
class ConnectionsBusy(TatameError):
    """Connections were still in use when the time for closing ran out."""

    busy: int
    seconds: float
    what = "{busy:connection} still in use after {seconds:g} seconds"
    means = "They can finish; idle connections are closed, and no new one can be opened."
    fix = "end those sessions, or pass a longer `close(timeout_seconds=…)`"


def connection_error(address: URL, message: str) -> DatabaseUnavailable:
    """Return the error that a message of libpq about a failed connection stands for."""
    # libpq gives no SQLSTATE for a connection that was never made, so only the text can tell. In most languages the
    # server's own message follows FATAL; the address that libpq tried precedes it.
    _, answered, reason = message.partition("FATAL:")
    reason = (reason if answered else message).strip().splitlines()[0]
    for prefix in ("connection failed: ", "connection is bad: "):
        reason = reason.removeprefix(prefix)
    if "password authentication failed" in reason or "no password supplied" in reason:
        return PasswordRejected(address=address, reason=reason)
    if answered and reason.startswith("database ") and reason.endswith("does not exist"):
        return DatabaseMissing(address=address)
    if answered or any(word in reason for word in ("SSL", "sslmode", "certificate", "Permission denied")):
        return ConnectionRefused(address=address, reason=reason)
    return ServerNotRunning(address=address, reason=reason)
