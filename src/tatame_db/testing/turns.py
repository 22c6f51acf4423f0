"""Turns on the one connection of a test: which statement may run now, and whose uncommitted rows it would see.

Any number of transactions may be open at once as long as they have only read. The first statement that writes or locks
makes its transaction the *writer*: until it ends, the statements of all others wait, because on one connection they
would see its rows, and its rollback would undo theirs. Threads and event loops wait without blocking each other.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from contextlib import suppress
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Protocol

from tatame_db.errors import TatameError, fact

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.pq.abc import PGconn

PATIENCE_SECONDS = 5.0
"""How long a statement waits for a writer that runs no statement itself."""
_RECHECK_SECONDS = 0.25

_READS = re.compile(r"[\s(]*(?:select|with|values|table|show|explain)\b", re.IGNORECASE)
# Those that write or lock although their statement begins as a read does. A name of a column may be such a word too:
# then a read is taken for a write, which only makes others wait.
_WRITES = re.compile(
    r"\b(?:insert|update|delete|merge|into|share|nextval|setval|set_config|pg_notify|\w*advisory\w*)\b", re.IGNORECASE
)
_ENDS = re.compile(r"\s*(?:begin|start|commit|end|abort|rollback(?!\s+to)|prepare\s+transaction)\b", re.IGNORECASE)
_COMMAND = re.compile(r"\s*((?:[a-z]+\s+){1,2}[\w.\"]+)", re.IGNORECASE)


@fact
class TransactionsOverlap(TatameError):
    """A transaction of the test wrote rows and is still open, and another one wants to go on beside it."""

    command: str
    what = "another transaction of this test is still open after `{command} …`, and this one cannot go on beside it"
    means = "All connections of a test share one, where this transaction would see uncommitted rows."
    fix = (
        "commit or roll back the other one first, or run this in its session; to test two transactions at once, use"
        " `committed_database`"
    )


@fact
class TransactionInterrupted(TatameError):
    """The connection of the test was lost, or its event loop was closed during a statement."""

    what = "the transaction of this test was interrupted: its connection is lost, or an event loop was closed"
    means = "The rows of this test are rolled back. The next test has a new connection."
    fix = "let the statements of a test finish; to test the loss of a connection, use `committed_database`"


@fact
class TransactionControlled(TatameError):
    """A statement would end the transaction of the test, or needs a transaction of another kind."""

    problem: str
    what = "{problem} cannot run within the transaction of a test"
    fix = "commit and roll back by the session or connection; for anything else, use `committed_database`"


class Participant(Protocol):
    """A connection that takes turns."""

    failed: bool
    """Whether a statement failed, so that the transaction accepts no other until it is rolled back."""
    pgconn: PGconn

    @property
    def commits_itself(self) -> bool:
        """Whether each statement is committed on its own."""
        ...

    def leave(self) -> None:
        """Roll back, and let go of the shared connection without closing it."""


@lru_cache(maxsize=1024)
def may_write(sql: str) -> bool:
    """Return whether a statement may write or lock rows, as far as its text shows; reads that call functions do not.

    Raises `TransactionControlled` for a statement that begins or ends a transaction.
    """
    if _ENDS.match(sql):
        raise TransactionControlled(problem=f"`{sql.split(maxsplit=1)[0].upper()}`")
    return not _READS.match(sql) or bool(_WRITES.search(sql))


class Turns:
    """Whose turn it is; `enter` and `enter_async` wait for it, `leave` ends it, and `end_unit` ends a transaction."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Callable[[], object]] = []
        self.running: Participant | None = None
        """The connection whose statement runs now."""
        self.writer: Participant | None = None
        """The connection whose transaction has uncommitted rows or locks."""
        self._depth = 0
        self._holder: object = None
        self._flow: object = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._command = ""
        self._active_at = 0.0

    def enter(self, participant: Participant, sql: str | None) -> None:
        """Block until a statement may run; `None` stands for one that writes."""
        started = time.monotonic()
        woken = threading.Event()
        while not self._admits(participant, sql, started, woken.set, blocks=True):
            woken.wait(_RECHECK_SECONDS)
            woken.clear()

    async def enter_async(self, participant: Participant, sql: str | None) -> None:
        """Do what `enter` does, without blocking the event loop."""
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        while True:
            woken = loop.create_future()
            if self._admits(participant, sql, started, partial(_wake, loop, woken), blocks=False):
                return
            await asyncio.wait([woken], timeout=_RECHECK_SECONDS)

    def leave(self) -> None:
        """End the turn that was entered last."""
        with self._lock:
            self._depth -= 1
            if self._depth:
                return
            self.running = self._holder = None
            self._active_at = time.monotonic()
            waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()

    def end_unit(self, participant: Participant) -> bool:
        """Let the others go on after a transaction has ended; return whether it was the writer."""
        with self._lock:
            participant.failed = False
            if self.writer is not participant:
                return False
            self.writer = None
            waiting, self._waiting = self._waiting, []
        for wake in waiting:
            wake()
        return True

    def _admits(
        self,
        participant: Participant,
        sql: str | None,
        started: float,
        wake: Callable[[], object],
        *,
        blocks: bool,
    ) -> bool:
        writes = sql is None or may_write(sql)
        with self._lock:
            free = self.running is None
            # A statement may be part of the turn of its own connection, but not of one that runs beside it.
            if (free or self._holder == _holder()) and self.writer in (None, participant):
                if free:
                    self.running, self._holder = participant, _holder()
                    self._flow, self._loop = _flow(), _running_loop()
                self._depth += 1
                if writes and self.writer is None:
                    self.writer, self._command = participant, _command(sql)
                return True
            self._refuse_endless_wait(started, blocks=blocks)
            self._waiting.append(wake)
            return False

    def _refuse_endless_wait(self, started: float, *, blocks: bool) -> None:
        if self.running is not None:
            if self._loop is not None and self._loop.is_closed():
                raise TransactionInterrupted
            waits_for_itself = blocks and self._loop is not None and self._loop is _running_loop()
        else:
            # The flow of a writer that is waiting here would never end its transaction.
            waits_for_itself = self._flow is not None and self._flow is _flow()
            waits_for_itself |= blocks and self._loop is not None and self._loop is _running_loop()
            waits_for_itself |= time.monotonic() - max(started, self._active_at) > PATIENCE_SECONDS
        if waits_for_itself:
            raise TransactionsOverlap(command=self._command)


def _flow() -> object:
    """Return what runs this code until its transactions end: a task, or the main thread.

    The threads of a pool do not count: one may continue with another request while a transaction of the last is open.
    """
    loop = _running_loop()
    if loop is not None:
        return asyncio.current_task(loop)
    return threading.main_thread() if threading.current_thread() is threading.main_thread() else None


def _holder() -> object:
    """Return what runs this code now."""
    loop = _running_loop()
    return threading.get_ident(), asyncio.current_task(loop) if loop is not None else None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _wake(loop: asyncio.AbstractEventLoop, woken: asyncio.Future[None]) -> None:
    def finish() -> None:
        if not woken.done():
            woken.set_result(None)

    # The loop may be closed, with the task that waited.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(finish)


def _command(sql: str | None) -> str:
    """Return the first words of a statement, which hold no values."""
    found = _COMMAND.match(sql or "")
    return found[1] if found else "a statement"
