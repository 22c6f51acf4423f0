"""The sessions of all SQL tabs: opened by the first statement of a tab, ended with it or after idle minutes."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import psycopg

from tatame_db.errors import fact
from tatame_db.studio.errors import BadInput, OutOfRange, Refused
from tatame_db.studio.sql.results import Notices, describe_error
from tatame_db.studio.sql.session import QUESTION_SECONDS, Session
from tatame_db.studio.sql.split import split, statement_at

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tatame_db.database.pool import AsyncDatabase
    from tatame_db.studio.memory import Budget
    from tatame_db.studio.sql.split import Statement

MAX_ROWS = 100_000
MAX_SESSIONS = 20
MAX_TEXT_BYTES = 1_000_000
MAX_STATEMENTS = 1_000
IDLE_SECONDS = 15 * 60
_CONNECT_SECONDS = 30
_REFUSAL_SECONDS = 5
_MAX_NOTIFICATIONS = 100
_LONG_TEXT = 20_000
_RESTARTED = "the studio was started again"


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `/api/sql`; the browser chooses the id, by which it can cancel the run, and the name of the tab.

    With a `cursor`, a number of characters, only the statement there runs; otherwise all of them. `in_transaction` says
    that the browser knows of an open transaction, and not of its end.
    """

    id: str
    tab: str
    text: str
    cursor: int | None = None
    explain: Literal["plan", "analyze"] | None = None
    limit: int = 1000
    in_transaction: bool = False


@fact
class TooManySessions(Refused):
    """Each SQL tab with a session holds a connection, of which a server has few."""

    sessions: int
    status = 429
    what = "{sessions} SQL tabs have a session on the server already"
    fix = "close a tab that you no longer need"


@fact
class TabBusy(Refused):
    """A session runs one statement at a time."""

    status = 409
    what = "a statement is already running in this tab"
    fix = "cancel it, wait until it ends, or open another tab"


@dataclass
class _Tab:
    session: Session | None = None
    run: _Run | None = None
    ended: str | None = None
    """Why the last session has ended, until the browser knows."""
    lost_transaction: bool = False
    """Whether a transaction was open at that time, which the next statement must not continue."""
    notifications: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    timer: asyncio.TimerHandle | None = None


@dataclass
class _Run:
    id: str
    is_cancelled: bool = False
    is_asking: bool = False
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    answer: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def wait_for_answer(self) -> bool | None:
        """Return the answer to a question, or `None` if there is none in time."""
        self.is_asking = True
        try:
            async with asyncio.timeout(QUESTION_SECONDS):
                return await self.answer
        except TimeoutError:
            return None
        finally:
            self.is_asking = False
            self.answer = asyncio.get_running_loop().create_future()

    async def refuse(self) -> None:
        """Answer the question with no, and wait until the run has rolled back."""
        if not self.answer.done():
            self.answer.set_result(False)
        with suppress(TimeoutError):
            async with asyncio.timeout(_REFUSAL_SECONDS):
                await self.is_over.wait()


class Sessions:
    """The sessions, by the name that the browser gives each tab."""

    def __init__(
        self, database: AsyncDatabase, budget: Budget, *, write: bool, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self.database, self.budget, self.write, self.idle_seconds = database, budget, write, idle_seconds
        self._tabs: dict[str, _Tab] = {}
        self._ending: set[asyncio.Task[None]] = set()

    # --- Running ------------------------------------------------------------------------------------------------------

    async def run(self, script: Script) -> AsyncGenerator[dict[str, Any]]:
        """Run statements one after the other until one fails, and yield their results.

        Each begins with `statement`, its place in the text, and ends with `done`, `error` or `undone`. The last line is
        `session`. Raises `BadInput`, `OutOfRange`, `TooManySessions`, `TabBusy`, and the errors of connecting.
        """
        self._refuse(script)
        tab = self._tabs.setdefault(script.tab, _Tab())
        run = tab.run = _Run(script.id)
        if tab.timer:
            tab.timer.cancel()
        try:
            notice = await self._connect(tab, in_transaction=script.in_transaction)
            statements = await self._statements(script, tab)
            async with aclosing(self._run_all(script, statements, tab, run)) as pieces:
                async for piece in pieces:
                    if notice and "done" in piece:
                        piece["done"]["notices"].insert(0, notice)
                        notice = None
                    yield piece
            yield {"session": self._state(tab)}
        finally:
            tab.run = None
            run.is_over.set()
            self._note_end(tab)
            if tab.session:
                loop = asyncio.get_running_loop()
                tab.timer = loop.call_later(self.idle_seconds, self._end_idle, tab)
            elif script.tab in self._tabs and not tab.ended:
                del self._tabs[script.tab]

    def _refuse(self, script: Script) -> None:
        if "\0" in script.text:
            raise BadInput(problem="the statement contains a NUL character")
        size_bytes = len(script.text.encode(errors="replace"))
        if size_bytes > MAX_TEXT_BYTES:
            raise BadInput(
                problem=f"the text has {size_bytes:,} bytes, and {MAX_TEXT_BYTES:,} are the limit",
                advice="run it with `tatame-db psql -f FILE`",
            )
        if not 1 <= script.limit <= MAX_ROWS:
            raise OutOfRange(container="a result", noun="rows", number=script.limit, maximum=MAX_ROWS)
        if any(tab.run and tab.run.id == script.id for tab in self._tabs.values()):
            raise BadInput(problem="a query with this id is already running")
        known = self._tabs.get(script.tab)
        if known and known.run:
            raise TabBusy
        if not (known and known.session) and sum(1 for tab in self._tabs.values() if tab.session) >= MAX_SESSIONS:
            raise TooManySessions(sessions=MAX_SESSIONS)

    async def _connect(self, tab: _Tab, *, in_transaction: bool) -> dict[str, Any] | None:
        """Open the session of a tab that has none; return a notice if it had one before."""
        self._look(tab)
        if tab.session:
            return None
        if in_transaction and not tab.lost_transaction:
            tab.ended, tab.lost_transaction = tab.ended or _RESTARTED, True
        async with asyncio.timeout(_CONNECT_SECONDS):
            tab.session = await Session.open(self.database, self.budget, write=self.write)
        tab.session.wire.driver.add_notify_handler(lambda notify: self._notify(tab, notify))
        if not tab.ended or tab.lost_transaction:
            return None
        what = f"This is a new session: {tab.ended}. Settings, prepared statements and temporary tables are gone."
        tab.ended = None
        return {"severity": "Warning", "what": what, "detail": None, "hint": None}

    async def _statements(self, script: Script, tab: _Tab) -> list[Statement]:
        assert tab.session  # noqa: S101, for the type checker
        standard = tab.session.wire.driver.pgconn.parameter_status(b"standard_conforming_strings")
        backslashes = standard == b"off"
        if len(script.text) < _LONG_TEXT:
            found = split(script.text, backslashes=backslashes)
        else:
            found = await asyncio.to_thread(split, script.text, backslashes=backslashes)
        if script.cursor is not None:
            at_cursor = statement_at(found, script.cursor)
            return [at_cursor] if at_cursor else []
        if len(found) > MAX_STATEMENTS:
            raise OutOfRange(container="a run", noun="statements", number=len(found), maximum=MAX_STATEMENTS)
        return found

    async def _run_all(
        self, script: Script, statements: list[Statement], tab: _Tab, run: _Run
    ) -> AsyncGenerator[dict[str, Any]]:
        if tab.lost_transaction:
            yield {"error": _lost_transaction(tab)}
            tab.lost_transaction, tab.ended = False, None
            return
        if not statements:
            empty = psycopg.ProgrammingError("the text contains no statement")
            yield {"error": describe_error(empty, script.text) | {"notices": []}}
        for index, statement in enumerate(statements):
            session = tab.session
            if session is None:
                return
            place = {"index": index, "of": len(statements), "start": statement.start, "end": statement.end}
            yield {"statement": place | {"text": statement.text[:200]}}
            if run.is_cancelled:
                error = psycopg.errors.QueryCanceled("canceling statement due to user request")
                yield {"error": describe_error(error, script.text) | {"notices": []}}
                return
            had_transaction, failed = session.transaction != "none", False
            ask = run.wait_for_answer
            async with aclosing(session.run(statement, script.explain, script.limit, ask)) as pieces:
                async for piece in pieces:
                    failed = failed or "error" in piece or "undone" in piece
                    if session.is_closed and "error" in piece:
                        tab.ended = str(piece["error"]["what"])
                        piece["error"]["means"] = _meaning_of_end(
                            # Its answer is lost, and it may be done.
                            had_transaction=had_transaction and not _commits(statement),
                            write=self.write,
                        )
                    yield piece
            if failed:
                return

    def _note_end(self, tab: _Tab) -> None:
        """Forget the session of a tab if its connection has ended while a statement ran."""
        if tab.session and tab.session.is_closed:
            self._start_closing(tab.session)
            tab.session = None

    async def cancel(self, run_id: str) -> bool:
        """Cancel a run on the server, and answer its question with no; return whether it was running."""
        for tab in self._tabs.values():
            if tab.run and tab.run.id == run_id:
                tab.run.is_cancelled = True
                if not tab.run.answer.done():
                    tab.run.answer.set_result(False)
                if tab.session:
                    await tab.session.wire.cancel()
                return True
        return False

    def answer(self, run_id: str, *, yes: bool) -> bool:
        """Answer the question of a run; return whether it waits for an answer."""
        for tab in self._tabs.values():
            if tab.run and tab.run.id == run_id and not tab.run.answer.done():
                tab.run.answer.set_result(yes)
                return True
        return False

    # --- The state of a tab -------------------------------------------------------------------------------------------

    def states(self, names: list[str]) -> dict[str, dict[str, Any]]:
        """Return the state of some tabs, and the notifications that have arrived since the last call."""
        found: dict[str, dict[str, Any]] = {}
        for name in names:
            # The browser asks about tabs with a session. An unknown one had it with an earlier process.
            tab = self._tabs.get(name) or _Tab(ended=_RESTARTED)
            if not tab.run:
                self._look(tab)
                found[name] = self._state(tab)
        return found

    def in_transaction(self) -> dict[int, str]:
        """Return the tabs that have an open transaction, by the process of their session on the server."""
        open_tabs = ((name, tab.session) for name, tab in self._tabs.items() if tab.session)
        return {
            session.wire.driver.info.backend_pid: name
            for name, session in open_tabs
            if not session.is_closed and session.transaction != "none"
        }

    def _state(self, tab: _Tab) -> dict[str, Any]:
        notifications, tab.notifications = tab.notifications, []
        is_open = tab.session is not None and not tab.session.is_closed
        return {
            "transaction": tab.session.transaction if tab.session and is_open else "none",
            "open": is_open,
            "ended": tab.ended,
            "lost_transaction": tab.lost_transaction,
            "notifications": notifications,
        }

    def _look(self, tab: _Tab) -> None:
        """Read what an idle session has received: notifications, or the end."""
        if not tab.session:
            return
        session, connection = tab.session, tab.session.wire.driver.pgconn
        transaction, problem = session.transaction, None
        notices = session.wire.notices = Notices()
        try:
            connection.consume_input()
        except psycopg.Error as error:
            problem = str(error)
        # The farewell of the server is a notice, and arrives before the end or together with it.
        connection.is_busy()
        problem = next((str(notice["what"]) for notice in notices.found), problem)
        if problem:
            reason = problem.strip().splitlines()[0]
            self._end(tab, f"the server ended it ({reason})", lost_transaction=transaction != "none")
            return
        session.wire.relay.message_complete()
        session.wire.driver.hand_out_notifications()

    def _notify(self, tab: _Tab, notify: psycopg.Notify) -> None:
        if len(tab.notifications) < _MAX_NOTIFICATIONS:
            found = {"channel": notify.channel, "payload": notify.payload, "pid": notify.pid}
            tab.notifications.append(found)

    # --- The end ------------------------------------------------------------------------------------------------------

    def _end_idle(self, tab: _Tab) -> None:
        if tab.session and not tab.run:
            lost = tab.session.transaction != "none"
            self._end(tab, f"the studio ended it after {self.idle_seconds / 60:g} idle minutes", lost_transaction=lost)

    def _end(self, tab: _Tab, reason: str, *, lost_transaction: bool) -> None:
        session, tab.session = tab.session, None
        tab.ended, tab.lost_transaction = reason, lost_transaction
        if session:
            self._start_closing(session)

    def _start_closing(self, session: Session, run: _Run | None = None) -> None:
        async def close() -> None:
            if run and run.is_asking:
                await run.refuse()
            await session.wire.close()

        task = asyncio.get_running_loop().create_task(close())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def close(self, names: list[str]) -> None:
        """End the sessions of tabs that are closed; an open transaction is rolled back."""
        for name in names:
            tab = self._tabs.pop(name, None)
            if tab is None:
                continue
            if tab.timer:
                tab.timer.cancel()
            session, tab.session = tab.session, None
            if session:
                if tab.run:
                    tab.run.is_cancelled = True
                self._start_closing(session, tab.run)
        await self._closed()

    async def close_all(self) -> None:
        """End all sessions."""
        await self.close(list(self._tabs))

    async def _closed(self) -> None:
        with suppress(psycopg.Error):
            await asyncio.gather(*self._ending)


def _commits(statement: Statement) -> bool:
    return any(statement.begins(*words) for words in (("COMMIT",), ("END",), ("PREPARE", "TRANSACTION")))


def _lost_transaction(tab: _Tab) -> dict[str, Any]:
    return {
        "what": f"the session of this tab has ended: {tab.ended}",
        "means": "Its open transaction was rolled back, and this statement was not run.",
        "fix": "run the statements of the transaction again; a new session is open",
        "code": "08003",
        "notices": [],
    }


def _meaning_of_end(*, had_transaction: bool, write: bool) -> str:
    if had_transaction:
        return "The session has ended, and its open transaction was rolled back. The next statement opens a new one."
    if write:
        return (
            "The session has ended; the next statement opens a new one. If the statement was writing, check whether"
            " PostgreSQL had committed it."
        )
    return "The session has ended; the next statement opens a new one."
