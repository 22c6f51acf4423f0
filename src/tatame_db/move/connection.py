"""A connection to one database of a move: its queries, its interruption, and the report of its loss."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy.exc import DBAPIError

from tatame_db.database import commits
from tatame_db.database.address import readable
from tatame_db.database.dialect import literal
from tatame_db.database.errors import ServerReadOnly
from tatame_db.database.failures import statement_error
from tatame_db.database.text_output import TEXT_OUTPUT
from tatame_db.errors import TatameError, fact
from tatame_db.move.silence import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

    from sqlalchemy import URL

    from tatame_db.move.rest import RestReading

# No single answer takes that long; a proxy that has lost its server may keep a client waiting forever.
SILENCE_SECONDS = 1_800
_CANCEL_SECONDS = 2
# How often a thread that waits for another one looks for Ctrl-C.
SIGNAL_CHECK_SECONDS = 0.5
# What a role or a database prefers must change neither the text of a value nor the meaning of a statement, and must not
# end a session that works for hours. `row_security = off` makes a row that a policy would hide an error.
_SETTINGS = TEXT_OUTPUT | {
    "array_nulls": "on",
    # The server ends the query of a client that was killed within a second, as it ends none by default.
    "client_connection_check_interval": "1s",
    "client_encoding": "UTF8",
    "default_tablespace": "",
    "default_transaction_deferrable": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "exit_on_error": "off",
    "gin_fuzzy_search_limit": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "jit": "off",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "quote_all_identifiers": "off",
    "row_security": "off",
    "search_path": "pg_catalog",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "transform_null_equals": "off",
    "xmlbinary": "base64",
    "xmloption": "content",
}
# By the first version that has it.
_NEWER_SETTINGS = {17: {"transaction_timeout": "0"}}


# The lines of a context are translated, except for the names of languages. What is in quotes may be a value of a row.
_IN_FUNCTION = re.compile(r"(?!COPY\b)[^\"'«»„:]*\b(?:PL/\w+|SQL)\b")
_SIGNATURE = re.compile(r"[^\"'«»„:]*\bPL/\w+[^\"'«»„:]*?([\w$.]+\([^()]*\))")


@fact
class ConnectionLost(TatameError):
    """The connection to the source or to the target was lost."""

    database: str
    reason: str
    what = "the connection to the {database} was lost: {reason}"
    means = (
        "What was not committed is rolled back. Keys and indexes of the target that were dropped for a copy are "
        "restored by the next one."
    )
    fix = "run the command again"


@fact
class ResourceExhausted(TatameError):
    """The source or the target has no disk space or memory left, or a limit of its configuration is reached."""

    database: str
    resource: str
    reason: str
    advice: str
    what = "the {database} has reached the limit of its {resource}: {reason}"
    means = "Unfinished work was rolled back; tables that were proven before stay committed."
    fix = "{advice} on the server of the {database}, then run the command again"


_EXHAUSTED: dict[type[psycopg.Error], tuple[str, str]] = {
    psycopg.errors.DiskFull: ("disk", "free some disk space"),
    psycopg.errors.OutOfMemory: ("memory", "free some memory, or raise `max_locks_per_transaction` if locks fill it,"),
    psycopg.errors.ConfigurationLimitExceeded: ("configuration", "raise the setting that the reason names"),
}


@fact
class StandbyConflict(TatameError):
    """A standby ended a reading, because it could no longer wait to apply what its primary had done."""

    database: str
    reason: str
    what = "the {database} is a standby, and ended the reading: {reason}"
    means = "Unfinished work was rolled back; tables that were proven before stay committed."
    fix = "use the address of its primary, or raise `max_standby_streaming_delay` of the standby"


@fact
class StatementCanceled(TatameError):
    """An administrator of the source or of the target, or a limit of its server, canceled a statement."""

    database: str
    reason: str
    what = "a statement on the {database} was canceled: {reason}"
    means = "Unfinished work was rolled back; tables that were proven before stay committed."
    fix = "find out who or what cancels long statements on the server of the {database}, then run the command again"


@fact
class ServerFailed(TatameError):
    """A server cannot read or write a file, a page is damaged, or what a foreign table stands for cannot be reached."""

    database: str
    reason: str
    what = "the server of the {database} failed: {reason}"
    means = "Unfinished work was rolled back; tables that were proven before stay committed."
    fix = "repair what the log of the server of the {database} names, such as a view, then run the command again"


# Classes of SQLSTATE: errors of the operating system, and of foreign data.
_FAILED = ("58", "HV")
_DAMAGED = ("XX001", "XX002")


@contextlib.contextmanager
def attribute_errors(connection: MoveConnection) -> Generator[None]:
    """Raise an error in words for a statement that the server of this connection ended.

    Raises `ResourceExhausted`, `ServerReadOnly`, `StandbyConflict`, `StatementCanceled`, `ServerFailed`.
    """
    try:
        yield
    except psycopg.Error as error:
        reason, kind = str(error.diag.message_primary), type(error)
        if kind in _EXHAUSTED:
            resource, advice = _EXHAUSTED[kind]
            raise ResourceExhausted(
                database=connection.name, resource=resource, reason=reason, advice=advice
            ) from error
        # A standby, or a primary that has become one; a source has an address of its own to correct. Where this package
        # only reads, a write is an error of its own.
        is_refused = isinstance(error, psycopg.errors.ReadOnlySqlTransaction) and not connection.driver.read_only
        if is_refused and connection.name == "target":
            raise ServerReadOnly(address=connection.address, reason=reason) from error
        if isinstance(error, psycopg.errors.QueryCanceled):
            raise StatementCanceled(database=connection.name, reason=reason) from error
        # Nothing else can conflict with a transaction that only reads.
        if isinstance(error, psycopg.errors.SerializationFailure) and connection.driver.read_only:
            raise StandbyConflict(database=connection.name, reason=reason) from error
        # A view or a foreign table may compute its values; nothing else that is only read can fail for one. A standby
        # has no rows of unlogged tables.
        unreadable = isinstance(error, psycopg.DataError | psycopg.errors.FeatureNotSupported)
        if unreadable and connection.driver.read_only:
            raise ServerFailed(database=connection.name, reason=reason_without_values(error)) from error
        if error.sqlstate in _DAMAGED or (error.sqlstate or "")[:2] in _FAILED:
            raise ServerFailed(database=connection.name, reason=reason) from error
        raise


@dataclass(frozen=True)
class MoveConnection:
    """A connection to the source or the target; `name` says which.

    While it is open for reading, all its queries see the database at one moment.
    """

    name: str
    address: URL
    driver: psycopg.Connection[tuple[Any, ...]]
    rest: RestReading | None = None
    """How the rows were read over REST; `None` for a PostgreSQL that was opened directly."""
    reread: Callable[[], AbstractContextManager[MoveConnection]] | None = None
    """Reads a source over REST a second time, into a database of its own; closes this connection's database."""

    not_replicated: list[str] = field(default_factory=list[str])
    """A message for each commit that stopped to wait for a standby."""

    def rows(self, query: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """Run a query and return all its rows; without parameters, a `%` in it is a plain character.

        Raises `ConnectionLost` if the server is silent for `SILENCE_SECONDS`, and what `attribute_errors` raises.
        """
        commits.began(commits_itself=False)
        with attribute_errors(self), watchdog(self):
            # psycopg's types accept `str` only as a literal.
            return self.driver.execute(query.encode(), parameters).fetchall()

    def row(self, query: str) -> tuple[Any, ...]:
        """Run a query that returns one row."""
        [row] = self.rows(query)
        return row

    def execute(self, statement: str, parameters: dict[str, Any] | None = None) -> int:
        """Run a statement, however long it takes, and return the number of rows it wrote.

        Raises what `attribute_errors` raises.
        """
        commits.began(commits_itself=False)
        with attribute_errors(self):
            return self.driver.execute(statement.encode(), parameters).rowcount

    def commit(self) -> None:
        """Commit; a command that is interrupted meanwhile does not report that it was rolled back."""
        with commits.committing():
            self.driver.commit()
        # Each commit of a move is recorded with it.
        commits.began(commits_itself=False)

    def abort(self) -> None:
        """Cancel the running statement and shut the socket down, so that a thread that waits for it wakes up.

        Can be called from any thread.
        """
        with contextlib.suppress(psycopg.Error, OSError):
            self.driver.cancel_safe(timeout=_CANCEL_SECONDS)
        with contextlib.suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(self.driver.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)

    def note_commits_not_replicated(self) -> None:
        """Fill `not_replicated` from now on: the server sends a warning only, because the commit cannot be undone."""

        def note(diagnostic: psycopg.errors.Diagnostic) -> None:
            # The message is translated, and has no SQLSTATE of its own.
            if diagnostic.source_function == "SyncRepWaitForLSN":
                self.not_replicated.append(str(diagnostic.message_primary))

        self.driver.add_notice_handler(note)

    @property
    def identity(self) -> tuple[int | str, ...]:
        """Identifies the database, whatever address was used to reach it."""
        if self.rest:
            return self.rest.identity
        system, database = self.row(
            "SELECT (SELECT system_identifier FROM pg_control_system()), oid::bigint"
            " FROM pg_database WHERE datname = current_database()"
        )
        return system, database

    @property
    def server_address(self) -> URL:
        """The address of the very server that this connection reached, of the several that a host may stand for."""
        info = self.driver.info
        several = ("host", "port", "hostaddr", "load_balance_hosts", "target_session_attrs")
        query: dict[str, Any] = {name: value for name, value in self.address.query.items() if name not in several}
        if info.host.startswith("/"):
            query |= {"host": info.host, "port": str(info.port)}
            return self.address._replace(host=None, port=None).set(query=query)
        if info.hostaddr:
            query["hostaddr"] = info.hostaddr
        return self.address.set(host=info.host, port=info.port, query=query)

    @property
    def readable(self) -> str:
        """The address, without a password."""
        return self.rest.address if self.rest else readable(self.address)

    @property
    def version(self) -> str:
        """The version of the server."""
        if self.rest:
            return self.rest.version
        [version] = self.row("SELECT current_setting('server_version')")
        return str(version).split()[0]

    def pin_settings(self, *, for_transaction: bool) -> None:
        """Pin the settings that a move depends on, for the current transaction or for the session; takes no snapshot.

        A pooler may hand the session of a source to another client, so there the settings end with the transaction.
        """
        # As `SET` and without parameters: a query would take the snapshot of the transaction.
        self.execute(self._settings("LOCAL" if for_transaction else "SESSION"))

    def rows_at_once(self, query: str) -> list[tuple[Any, ...]]:
        """Run a query with pinned settings in one message, outside of a transaction, and return all its rows.

        The connection has to be in autocommit mode. Raises what `rows` raises.
        """
        with attribute_errors(self), watchdog(self):
            # PostgreSQL runs the statements of one message in one transaction.
            cursor = self.driver.execute(f"{self._settings('LOCAL')}; {query}".encode())
            while cursor.nextset():
                pass
            return cursor.fetchall()

    def _settings(self, scope: str) -> str:
        settings = dict(_SETTINGS)
        for major, newer in _NEWER_SETTINGS.items():
            if self.driver.info.server_version >= major * 10_000:
                settings |= newer
        return "; ".join(f"SET {scope} {name} = {literal(value)}" for name, value in settings.items())


@dataclass(frozen=True)
class Connections:
    """The two databases of a move."""

    source: MoveConnection
    target: MoveConnection

    def rows(
        self,
        source_query: str,
        target_query: str,
        parameters: dict[str, Any] | None = None,
    ) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Query both servers at the same time; return the rows of the source and those of the target."""
        with ThreadPoolExecutor(1) as other:
            waiting = other.submit(self.source.rows, source_query, parameters)
            try:
                target = self.target.rows(target_query, parameters)
                while not waiting.done():
                    wait([waiting], SIGNAL_CHECK_SECONDS)
                return waiting.result(), target
            except BaseException:
                # Otherwise the executor waits for the source's answer, and so does Ctrl-C.
                self.source.abort()
                raise


@contextlib.contextmanager
def watchdog(*connections: MoveConnection) -> Generator[Callable[[], None]]:
    """Abort the connections, one after the other, once nothing has arrived for `SILENCE_SECONDS`.

    Yields the function to call whenever something arrives. Raises `ConnectionLost`.
    """
    silent: list[str] = []

    def abort() -> None:
        for connection in connections:
            silent.append(connection.name)
            connection.abort()
            # If it was this connection that the main thread waited for, the others stay usable.
            if watch.ended.wait(_CANCEL_SECONDS):
                return

    watch = Watch(SILENCE_SECONDS, abort)
    try:
        with watch:
            yield watch.hear
    except (psycopg.Error, StatementCanceled) as error:
        if silent:
            minutes = f"{SILENCE_SECONDS / 60:.0f} minutes"
            raise ConnectionLost(database=silent[-1], reason=f"no data arrived for {minutes}") from error
        raise


@contextlib.contextmanager
def report_loss(connection: MoveConnection) -> Generator[None]:
    """Raise `ConnectionLost` for an error that broke this connection, or the error of a pooler that runs nothing."""
    try:
        yield
    except psycopg.OperationalError as error:
        if refused := statement_error(connection.address, error, None):
            raise refused from error
        if connection.driver.broken:
            raise ConnectionLost(database=connection.name, reason=str(error).splitlines()[0]) from error
        raise


@contextlib.contextmanager
def report_loss_of_target() -> Generator[None]:
    """Raise `ConnectionLost` for an error that broke the SQLAlchemy connection to the target."""
    try:
        yield
    except DBAPIError as error:
        if error.connection_invalidated:
            raise ConnectionLost(database="target", reason=str(error.orig).splitlines()[0]) from error
        raise


def reason_without_values(error: psycopg.Error) -> str:
    """Return PostgreSQL's message, unless it may quote a value of a row."""
    # Errors in values, such as of an expression that an index computes, quote them.
    names_a_sequence = isinstance(error, psycopg.errors.SequenceGeneratorLimitExceeded)
    if isinstance(error, psycopg.DataError) and not (raising_function(error) or names_a_sequence):
        return f"a value is rejected (SQLSTATE {error.sqlstate})"
    # What a function says is up to its author. Its name is on record, and its message in the log of the server.
    if function := raising_function(error):
        return f"an error was raised by {function}"
    return error.diag.message_primary or ""


def is_refusal(error: psycopg.Error) -> bool:
    """Return whether a statement failed for a value, a constraint, or a function such as that of a trigger."""
    if isinstance(error, psycopg.DataError | psycopg.IntegrityError):
        return True
    return raising_function(error) is not None and not isinstance(error, psycopg.OperationalError)


def raising_function(error: psycopg.Error) -> str | None:
    """Return the function of the database in which an error was raised; `None` if it was in none, or is not known."""
    inside = [line for line in (error.diag.context or "").splitlines() if _IN_FUNCTION.match(line)]
    if not inside and not isinstance(error, psycopg.errors.RaiseException):
        return None
    named = next((found[1] for line in inside if (found := _SIGNATURE.match(line))), None)
    return f"the function {named}" if named else "a function"
