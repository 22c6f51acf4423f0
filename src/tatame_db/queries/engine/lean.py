"""Lean calls of threads: one statement at a time on a connection of the pool, without cursors.

psycopg's cursors cost more than the statement itself: they find the parameters in the SQL, choose dumpers and loaders,
and keep a history, again in each call. Here a plan keeps the first, and a connection the rest.
"""

from __future__ import annotations

import select
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import ref

import psycopg
from psycopg import capabilities
from psycopg.errors import error_from_result
from psycopg.pq import ConnStatus, DiagnosticField, ExecStatus, Format, TransactionStatus

from tatame_db.database.driver import driver_connection
from tatame_db.database.errors import OutcomeUnknown
from tatame_db.database.identity import IDENTIFIED
from tatame_db.database.observer import SILENT, Observer
from tatame_db.queries.engine.deadline import deadline_after
from tatame_db.queries.engine.failures import is_stale
from tatame_db.queries.engine.plan import Prepared, binary_format, load_rows
from tatame_db.queries.engine.prepared import MAX_PREPARED

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGresult
    from sqlalchemy import URL, PoolProxiedConnection

    from tatame_db.database.identity import Identified
    from tatame_db.database.kept import KeptConnections
    from tatame_db.queries.engine.deadline import Deadline
    from tatame_db.queries.engine.plan import Parameters, Plan
    from tatame_db.queries.engine.prepared import Key

T = TypeVar("T")
CANCEL_TIMEOUT_SECONDS = 5.0
"""How long an interrupted call waits for the server to accept a cancel request and to end the statement."""

DEADLINE_CANCEL_TIMEOUT_SECONDS = 0.8
"""The same for a call whose time is over."""

_SUCCESS = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)
_ANSWERS = (*_SUCCESS, ExecStatus.FATAL_ERROR)


class LeanConnection:
    """A connection, and what its lean calls keep: prepared statements, and how to wait for its socket.

    One thread uses it at a time.
    """

    def __init__(self, connection: PoolProxiedConnection) -> None:
        driver = driver_connection(connection)
        self.lent: PoolProxiedConnection | None = None
        """The connection as the pool has lent it, while calls on a `Database` use or keep it."""
        self.kept: KeptConnections | None = None
        """Where to put it between those calls."""
        self.is_changed = False
        """Whether a call has changed a setting of the session, which the next one must not see."""
        self.identified: Identified | None = connection.info.get(IDENTIFIED)
        """When the server behind a pooler was identified."""
        self.driver = driver
        self.observer: Observer = connection.info.get("observer", SILENT)
        self.address: URL | None = connection.info.get("address")
        self.server = driver.pgconn
        self._poll = select.poll()
        self._poll.register(driver.fileno(), select.POLLIN)
        # Behind a pooler each transaction may get another session, which knows no statement prepared before.
        self._prepares = driver.prepare_threshold is not None
        self._known: OrderedDict[Key, Prepared | Format] = OrderedDict()
        self._dropped: list[bytes] = []
        self._names = 0

    @property
    def is_gone(self) -> bool:
        """Whether the server ended the connection while it was idle: only its farewell can be waiting to be read."""
        return bool(self._poll.poll(0))

    @property
    def is_idle(self) -> bool:
        """Whether it is in no transaction, and no answer is still to be read."""
        return self.server.transaction_status == TransactionStatus.IDLE

    @property
    def speaks_utf8(self) -> bool:
        """Whether texts have the encoding of dumped parameters; a session may have another one."""
        return self.server.parameter_status(b"client_encoding") == b"UTF8"

    def call(
        self, plan: Plan[T], parameters: Parameters, deadline: Deadline | None, *, is_first: bool = False
    ) -> list[T]:
        """Run a statement and return its rows.

        `is_first` says that `begin` has opened the transaction just before, so that it may be opened again.

        Raises `psycopg.Error`, and `DeadlineExceeded` once the server has ended the statement.
        """
        server = self.server
        key = (plan.sql, parameters.types)
        while True:
            known = self._known_for(key, plan, deadline)
            if isinstance(known, Prepared):
                server.send_query_prepared(known.name, parameters.values, parameters.formats, known.result_format)
            else:
                server.send_query_params(plan.sql, parameters.values, parameters.types, parameters.formats, known)
            result = self._answer(plan, deadline)
            if result.status not in _SUCCESS:
                if isinstance(known, Prepared) and is_stale(result):
                    self._forget(key, result)
                    # Elsewhere in a transaction it is too late: the error has aborted it.
                    if self.is_idle or (is_first and self._begin_again()):
                        continue
                raise error_from_result(result)
            if isinstance(known, Prepared):
                return known.rows(plan, result)
            self._remember(key, form := binary_format(result))
            if known == Format.BINARY and form == Format.TEXT:
                # The columns have changed since the last answer.
                continue
            return load_rows(plan, self.driver, result)

    def give_back(self) -> None:
        """Keep the connection for the next call; close it if it is changed, in a transaction or busy."""
        if self.kept is not None and self.is_idle and not self.is_changed:
            self.kept.keep(self)
        else:
            self.discard()

    def release(self) -> None:
        """Return the connection, which is idle, to the pool."""
        # First, because another thread may receive it at once.
        lent, self.lent = self.lent, None
        if lent is not None:
            lent.close()

    def discard(self) -> None:
        """Close the connection, and let the pool open another one in its place."""
        lent, self.lent = self.lent, None
        if lent is not None:
            lent.invalidate()

    def begin(self) -> bool:
        """Open the transaction that psycopg would open before the first statement of a session.

        Return whether it was needed.
        """
        if self.driver.autocommit or not self.is_idle:
            return False
        driver, parts = self.driver, [b"BEGIN"]
        if driver.isolation_level is not None:
            parts.append(b"ISOLATION LEVEL " + driver.isolation_level.name.replace("_", " ").encode())
        if driver.read_only is not None:
            parts.append(b"READ ONLY" if driver.read_only else b"READ WRITE")
        if driver.deferrable is not None:
            parts.append(b"DEFERRABLE" if driver.deferrable else b"NOT DEFERRABLE")
        self.run(b" ".join(parts))
        return True

    def _begin_again(self) -> bool:
        self.run(b"ROLLBACK")
        return self.begin()

    # --- Prepared statements -----------------------------------------------------------------------------------------

    def _known_for(self, key: Key, plan: Plan[Any], deadline: Deadline | None) -> Prepared | Format:
        """Return the prepared statement of a plan, or the form in which to ask for the rows of an unnamed one.

        The second run prepares it, for many run only once. Behind a pooler none is prepared, and only one that may
        repeat asks for binary rows: if its columns have changed since, it has to be run again.
        """
        known = self._known.get(key)
        if known is None:
            return Format.TEXT
        self._known.move_to_end(key)
        if isinstance(known, Prepared):
            return known
        if not self._prepares:
            return known if plan.may_repeat else Format.TEXT
        self._names += 1
        name = b"tatame_%d" % self._names
        self.server.send_prepare(name, plan.sql, key[1])
        result = self._answer(plan, deadline)
        if result.status not in _SUCCESS:
            raise error_from_result(result)
        prepared = Prepared(name, self.driver, known)
        self._remember(key, prepared)
        return prepared

    def _forget(self, key: Key, error: PGresult) -> None:
        """Stop using a name that the server no longer knows, or whose columns have changed."""
        if error.error_field(DiagnosticField.SQLSTATE) == b"26000":
            # Names are seldom deallocated one by one.
            self.forget_names()
        elif isinstance(known := self._known.pop(key), Prepared):
            self._dropped.append(known.name)

    def forget_names(self) -> None:
        """Note that the server has deallocated all statements."""
        self._known.clear()
        self._dropped.clear()

    def _remember(self, key: Key, known: Prepared | Format) -> None:
        self._known[key] = known
        if len(self._known) > MAX_PREPARED:
            _, oldest = self._known.popitem(last=False)
            if isinstance(oldest, Prepared):
                self._dropped.append(oldest.name)
        while self._dropped and self._deallocate(self._dropped[-1]):
            self._dropped.pop()

    def _deallocate(self, name: bytes) -> bool:
        """Deallocate a statement, and return whether that was possible: an error would abort a transaction."""
        if capabilities.has_send_close_prepared():
            self.server.send_close_prepared(name)
            self._answer(None, None)
            return True
        if not self.is_idle:
            return False
        with suppress(psycopg.Error):
            self.run(b"DEALLOCATE " + name)
        return True

    # --- Waiting -----------------------------------------------------------------------------------------------------

    def run(self, command: bytes) -> None:
        """Run a command that returns nothing. Raises `psycopg.Error`."""
        self.server.send_query(command)
        result = self._answer(None, None)
        if result.status not in _SUCCESS:
            raise error_from_result(result)

    def _answer(self, plan: Plan[Any] | None, deadline: Deadline | None) -> PGresult:
        """Wait until the server is ready again, and return its answer to what was sent.

        An interrupted wait cancels the statement first, so that no answer is left for the next call.
        """
        try:
            return self._read_answer(deadline)
        except TimeoutError:
            if plan is None or deadline is None:
                raise
            return self._answer_after(deadline, plan)
        except BaseException:
            self._cancel(CANCEL_TIMEOUT_SECONDS)
            raise

    def _read_answer(self, deadline: Deadline | None) -> PGresult:
        server = self.server
        if server.flush():
            self._send_rest(deadline)
        answer: PGresult | None = None
        while True:
            while server.is_busy():
                if deadline is None:
                    self._poll.poll()
                elif not self._poll.poll(max(deadline.remaining_ms, 0)):
                    raise TimeoutError
                try:
                    server.consume_input()
                except psycopg.Error:
                    # The last words of the server say more than the end of the connection.
                    if answer is not None and answer.status == ExecStatus.FATAL_ERROR:
                        return answer
                    raise
            result = server.get_result()
            if result is None:
                break
            # A commit may fail after its rows came, for example because of a deferred constraint.
            if answer is None or result.status == ExecStatus.FATAL_ERROR:
                answer = result
            if result.status not in _ANSWERS:
                server.finish()
                raise psycopg.ProgrammingError("a COPY cannot run as a query")
        if answer is None:
            raise psycopg.OperationalError("the server sent no answer")
        return answer

    def _send_rest(self, deadline: Deadline | None) -> None:
        """Send what did not fit into the buffer of the socket, and read meanwhile: the server may wait for that."""
        both = select.poll()
        both.register(self.driver.fileno(), select.POLLIN | select.POLLOUT)
        while self.server.flush():
            ready = both.poll(None if deadline is None else max(deadline.remaining_ms, 0))
            if not ready:
                raise TimeoutError
            if ready[0][1] & ~select.POLLOUT:
                self.server.consume_input()

    def _answer_after(self, deadline: Deadline, plan: Plan[Any]) -> PGresult:
        """Cancel a statement whose time is over, and return its answer if it has finished all the same."""
        answer = self._cancel(DEADLINE_CANCEL_TIMEOUT_SECONDS)
        if answer is None and not plan.may_repeat:
            raise OutcomeUnknown(name=plan.name, reason="the server did not answer a cancel request at its deadline")
        if answer is None or answer.error_field(DiagnosticField.SQLSTATE) == b"57014":
            raise deadline.exceeded(plan.statement, sent=True)
        return answer

    def _cancel(self, seconds: float) -> PGresult | None:
        """Cancel the statement that is running and return its answer; without one in time, close the connection."""
        server = self.server
        if server.status != ConnStatus.OK or server.transaction_status != TransactionStatus.ACTIVE:
            return None
        try:
            end = deadline_after(int(seconds * 1000))
            driver: object = self.driver
            if isinstance(driver, psycopg.AsyncConnection):
                # In `run_sync` of a session of asyncio, where nothing can be awaited.
                driver.cancel()
            else:
                self.driver.cancel_safe(timeout=seconds)
            return self._read_answer(end)
        except BaseException as error:
            # The request may arrive later, and would cancel the next statement.
            server.finish()
            if isinstance(error, psycopg.Error | TimeoutError):
                return None
            raise


def lean_connection(connection: PoolProxiedConnection) -> LeanConnection:
    """Return the lean connection below a connection of the pool; it lives as long as its connection to the server."""
    lean = connection.info.get("lean")
    if lean is None:
        lean = connection.info["lean"] = LeanConnection(connection)
        _report_deallocation(lean)
    return cast("LeanConnection", lean)


def _report_deallocation(lean: LeanConnection) -> None:
    """Let a lean connection know when psycopg deallocates all statements of its session.

    psycopg does so after a ROLLBACK, DROP or ALTER if it has prepared one itself. The lean calls would find out by an
    error, which aborts the transaction that they are in.
    """
    # psycopg has no public event for it. A strong reference would delay the end of a connection that is lost.
    known, driver, usual = ref(lean), ref(lean.driver), cast("Any", type(lean.driver))

    def deallocate(name: bytes | None) -> PQGen[None]:
        if name is None and (found := known()):
            found.forget_names()
        used = driver()
        assert used is not None  # noqa: S101, it is what calls
        yield from usual._deallocate(used, name)

    cast("Any", lean.driver)._deallocate = deallocate
