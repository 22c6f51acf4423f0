"""A session on the server in which statements run as in psql; in read-only mode none of them can make it write.

In read-only mode the studio itself opens each transaction, READ ONLY, and runs a query in it before the first statement
of the user: after a query PostgreSQL rejects READ WRITE. It checks that after each statement, and rolls the transaction
back at its end, unless nothing ran in it but settings: a commit would send notifications.
"""

from __future__ import annotations

import re
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
from psycopg.pq import ExecStatus, TransactionStatus
from sqlalchemy import text

from tatame_db.studio.errors import EXPECTED
from tatame_db.studio.shards import texts_without_shards
from tatame_db.studio.sql.attempt import Attempt
from tatame_db.studio.sql.dangers import MOST_UNASKED, effects_of, is_dangerous, may_change, state_now
from tatame_db.studio.sql.results import Notices, Outcome, Refusal, describe_error
from tatame_db.studio.sql.rights import refuse_harmful
from tatame_db.studio.sql.wire import Wire, copy_unsupported
from tatame_db.studio.transactions import read_transaction

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from tatame_db.database.pool import AsyncDatabase
    from tatame_db.studio.memory import Budget
    from tatame_db.studio.sql.split import Statement

    Pieces = AsyncGenerator[dict[str, Any]]
    Ask = Callable[[], Awaitable[bool | None]]

QUESTION_SECONDS = 60
_EXPLAIN = {"plan": "EXPLAIN (FORMAT JSON) ", "analyze": "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "}
_BEGIN = re.compile(
    r"(?:BEGIN(?: WORK| TRANSACTION)?|START TRANSACTION)"
    r"(?:(?P<isolation> ISOLATION LEVEL (?:SERIALIZABLE|REPEATABLE READ|READ COMMITTED|READ UNCOMMITTED))"
    r"|(?P<write> READ WRITE)| READ ONLY|(?P<deferrable> (?:NOT )?DEFERRABLE))*"
)
_END = re.compile(r"(COMMIT|END|ROLLBACK|ABORT)(?: WORK| TRANSACTION)?(?: AND (?P<no>NO )?(?P<chain>CHAIN))?")
_NEEDS_BLOCK = {"SAVEPOINT": "SAVEPOINT", "RELEASE": "RELEASE SAVEPOINT", "ROLLBACK": "ROLLBACK TO SAVEPOINT"}
# Tags of statements that run no function and no query: their commit changes nothing but the session.
_SETTINGS = {"SET", "RESET", "LISTEN", "UNLISTEN", "SHOW", "SAVEPOINT", "RELEASE", "ROLLBACK", "DEALLOCATE"}
_BLOCKING_LOCKS = {
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
}
# A hostile `search_path` finds no other functions and operators than these.
_GUARD = """
SELECT pg_catalog.current_setting('transaction_read_only'), pg_catalog.pg_advisory_unlock_all()::pg_catalog.text,
    ARRAY(SELECT CASE WHEN locktype OPERATOR(pg_catalog.=) 'advisory' THEN locktype ELSE mode END
        FROM pg_catalog.pg_locks WHERE pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()
        AND locktype OPERATOR(pg_catalog.=) ANY ('{relation,advisory}'))
"""
_UNLOCK = "SELECT pg_catalog.pg_advisory_unlock_all()"
_HOLDS_LOCKS = "SELECT count(*) FROM pg_locks WHERE pid = :pid AND locktype = 'advisory'"
_READ_ONLY_ADVICE = "start the studio with `--write`"


class Session:
    """The session of one tab. It runs one statement at a time."""

    def __init__(self, database: AsyncDatabase, wire: Wire, *, write: bool) -> None:
        self.database, self.wire, self.write = database, wire, write
        self.has_block = False
        """Whether the user has opened a transaction block, in read-only mode."""
        self._only_settings = True

    @classmethod
    async def open(cls, database: AsyncDatabase, budget: Budget, *, write: bool) -> Session:
        """Connect. Raises `DatabaseUnavailable`."""
        return cls(database, await Wire.open(database, budget, write=write), write=write)

    @property
    def transaction(self) -> str:
        """The transaction block of the user: `none`, `open` or `failed`."""
        status = self.wire.status
        if not (self.has_block or (self.write and status in {TransactionStatus.INTRANS, TransactionStatus.INERROR})):
            return "none"
        return "failed" if status == TransactionStatus.INERROR else "open"

    @property
    def is_closed(self) -> bool:
        """Whether the connection is gone."""
        return bool(self.wire.driver.closed)

    async def run(self, statement: Statement, explain: str | None, limit: int, ask: Ask) -> Pieces:
        """Run a statement and yield its columns, its rows in batches, and `done`, `error` or `undone` at the end.

        In write mode a statement outside a block is committed before `done`. A dangerous one yields `question` before,
        and awaits `ask()`: yes, no, or `None` for no answer in time.
        """
        outcome = Outcome()
        notices = self.wire.notices = Notices()
        work = self._write if self.write else self._read
        is_undone = is_finished = False
        described: dict[str, Any] | None = None
        try:
            async with aclosing(work(statement, explain, limit, outcome, ask)) as pieces:
                async for piece in pieces:
                    is_undone = "undone" in piece
                    is_finished = is_undone
                    yield piece
            is_finished = True
            if not is_undone:
                done = {"rows": outcome.rows, "more": outcome.more, "ms": outcome.ms, "command": outcome.command}
                yield {"done": done | {"notices": notices.found}}
        except psycopg.Error as error:
            is_finished = True
            prefix = len(_EXPLAIN[explain]) if explain else 0
            described = describe_error(error, statement.text, prefix)
        finally:
            # The reader of the result has gone: what runs is cancelled, and what is open is rolled back.
            if not is_finished:
                await self.wire.close()
        # After the error itself was forgotten, which may have megabytes.
        if described is not None:
            described |= await texts_without_shards(self.database, {key: described[key] for key in ("what", "detail")})
            yield {"error": described | {"notices": notices.found}}

    async def _result(
        self, statement: Statement, explain: str | None, limit: int, outcome: Outcome, *, stops: bool
    ) -> Pieces:
        if not explain:
            async with aclosing(self.wire.table(statement.text, outcome, limit=limit, stops=stops)) as pieces:
                async for piece in pieces:
                    yield piece
            return
        async with aclosing(self.wire.results(_EXPLAIN[explain] + statement.text, outcome)) as results:
            async for result in results:
                if result.status == ExecStatus.SINGLE_TUPLE:
                    plan = result.get_value(0, 0) or b"null"
                    yield {"plan": msgspec.Raw(msgspec.json.format(plan, indent=-1))}

    # --- Read-only mode -----------------------------------------------------------------------------------------------

    async def _read(self, statement: Statement, explain: str | None, limit: int, outcome: Outcome, _: Ask) -> Pieces:
        if not explain and await self._control(statement, outcome):
            return
        self._refuse(statement)
        await refuse_harmful(self.database)
        if not self.has_block:
            await self._open_transaction()
        try:
            # In a block, a cancel would fail the transaction.
            pieces = self._result(statement, explain, limit, outcome, stops=not self.has_block)
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece
            await self._guard()
            if not self.has_block and (outcome.command or "").startswith("DECLARE CURSOR"):
                raise _needs_block("DECLARE CURSOR")
        except psycopg.Error:
            await self._end_after_failure()
            raise
        self._only_settings = self._only_settings and outcome.command in _SETTINGS
        if not self.has_block:
            await self._close_transaction(commit=self._only_settings)

    def _refuse(self, statement: Statement) -> None:
        if statement.begins("LOCK"):
            raise Refusal("cannot lock a table in a read-only studio", code="25006", fix=_READ_ONLY_ADVICE)
        if statement.begins("PREPARE", "TRANSACTION"):
            raise Refusal("cannot prepare a transaction in a read-only studio", code="25006", fix=_READ_ONLY_ADVICE)
        if statement.begins("COPY") and {"STDIN", "STDOUT"} & set(statement.words):
            raise copy_unsupported()
        name = _NEEDS_BLOCK.get(statement.words[0] if statement.words else "")
        if name and not self.has_block:
            raise _needs_block(name)

    async def _control(self, statement: Statement, outcome: Outcome) -> bool:
        """Do what a statement that begins or ends a block asks for; return whether it was one."""
        words = " ".join(statement.words)
        if words == "DISCARD ALL" and not self.has_block:
            # Outside a transaction, as PostgreSQL demands; the text is our own, so nothing else can run here.
            await self.wire.driver.execute("DISCARD ALL")
            await self.wire.prepare()
            outcome.command = "DISCARD ALL"
        elif begin := _BEGIN.fullmatch(words):
            if begin["write"]:
                raise Refusal("cannot begin a transaction that writes", code="25006", fix=_READ_ONLY_ADVICE)
            if self.has_block:
                self.wire.notices.add("Warning", "there is already a transaction in progress")
            else:
                await self._open_transaction((begin["isolation"] or "") + (begin["deferrable"] or ""))
                self.has_block = True
            outcome.command = words.split(" ISOLATION")[0]
        elif end := _END.fullmatch(words):
            await self._end_block(end, outcome)
        else:
            return False
        return True

    async def _end_block(self, end: re.Match[str], outcome: Outcome) -> None:
        commits = end[1] in {"COMMIT", "END"} and self.wire.status != TransactionStatus.INERROR
        outcome.command = "COMMIT" if commits else "ROLLBACK"
        if not self.has_block:
            if end["chain"] and not end["no"]:
                raise _needs_block(f"{outcome.command} AND CHAIN")
            self.wire.notices.add("Warning", "there is no transaction in progress")
            return
        await self._close_transaction(commit=commits and self._only_settings)
        self.has_block = False
        if end["chain"] and not end["no"]:
            await self._open_transaction()
            self.has_block = True

    async def _open_transaction(self, options: str = "") -> None:
        await self.wire.driver.execute(f"BEGIN READ ONLY{options}".encode())
        try:
            await self._guard()
        except psycopg.Error:
            await self._close_transaction(commit=False)
            raise
        self._only_settings = True

    async def _close_transaction(self, *, commit: bool) -> None:
        if self.is_closed:
            self.has_block = False
            return
        if commit:
            await self.wire.driver.execute("COMMIT")
        # A cancel request may arrive late and hit the rollback.
        while self.wire.status != TransactionStatus.IDLE:
            await self.wire.driver.execute("ROLLBACK")

    async def _guard(self) -> None:
        """Check the transaction, and run a query in it, after which it cannot become one that writes."""
        if self.wire.status == TransactionStatus.INERROR:
            return
        if self.wire.driver.pgconn.parameter_status(b"client_encoding") != b"UTF8":
            await self.wire.driver.execute("SET client_encoding TO 'UTF8'")
            self.wire.notices.add("Notice", "client_encoding stays UTF8, which the browser reads")
        row = await (await self.wire.driver.execute(_GUARD)).fetchone()
        read_only: str = row[0] if row else ""
        locks: list[str] = row[2] if row else []
        if read_only != "on" or self.wire.status == TransactionStatus.IDLE:
            await self.wire.close()
            what = "the statement left the read-only transaction, so its session was ended and rolled back"
            raise Refusal(what, code="25006", fix=_READ_ONLY_ADVICE)
        # Those of the session are released by now, so this one would last as long as the block.
        if _BLOCKING_LOCKS & set(locks) or (self.has_block and "advisory" in locks):
            await self._close_transaction(commit=False)
            self.has_block = False
            raise _held_lock("a table" if _BLOCKING_LOCKS & set(locks) else "an advisory number")

    async def _end_after_failure(self) -> None:
        """End the transaction of a statement that failed, or leave the failed block of the user as it is.

        A failed statement keeps its advisory locks, and a failed block runs nothing that releases them.
        """
        is_left = self.has_block and not self.is_closed and not await self._holds_advisory_locks()
        if is_left:
            return
        had_block, self.has_block = self.has_block, False
        await self._close_transaction(commit=False)
        if not self.is_closed:
            await self.wire.driver.execute(_UNLOCK)
            if had_block:
                raise _held_lock("an advisory number")

    async def _holds_advisory_locks(self) -> bool:
        pid = self.wire.driver.info.backend_pid
        try:
            async with read_transaction(self.database) as another:
                return bool(await another.scalar(text(_HOLDS_LOCKS), {"pid": pid}))
        except EXPECTED:
            return True

    # --- Write mode ---------------------------------------------------------------------------------------------------

    async def _write(self, statement: Statement, explain: str | None, limit: int, outcome: Outcome, ask: Ask) -> Pieces:
        if statement.begins("COPY") and {"STDIN", "STDOUT"} & set(statement.words):
            raise copy_unsupported()
        if explain == "analyze":
            pieces = self._undone(statement, limit, outcome)
        elif not explain and self._may_ask(statement):
            pieces = self._asked(statement, limit, outcome, ask)
        else:
            pieces = self._result(statement, explain, limit, outcome, stops=False)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    def _may_ask(self, statement: Statement) -> bool:
        """Return whether the statement is undone before the question; in a block the user can roll back himself."""
        status = self.wire.status
        if status == TransactionStatus.INERROR:
            return False
        return is_dangerous(statement) or (status == TransactionStatus.IDLE and may_change(statement))

    async def _undone(self, statement: Statement, limit: int, outcome: Outcome) -> Pieces:
        """Measure a statement, and undo its effects."""
        attempt = await Attempt.begin(self.wire)
        try:
            async with aclosing(self._result(statement, "analyze", limit, outcome, stops=False)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            await attempt.undo()

    async def _asked(self, statement: Statement, limit: int, outcome: Outcome, ask: Ask) -> Pieces:
        """Run a statement in a transaction or behind a savepoint, show its effects, and keep them after a yes."""
        attempt = await Attempt.begin(self.wire)
        cannot_be_undone = has_result = False
        lines: list[str] = []
        try:
            before = await state_now(self.wire.driver, is_in_block=attempt.is_in_block)
            await attempt.mark()
            async with aclosing(self._result(statement, None, limit, outcome, stops=False)) as pieces:
                async for piece in pieces:
                    has_result = True
                    yield piece
            if not attempt.is_in_block:
                # What a trigger does at the commit belongs to the effects.
                await self.wire.driver.execute("SET CONSTRAINTS ALL IMMEDIATE")
            lines = await effects_of(self.wire, statement, before, attempt, outcome.command)
        except psycopg.Error as error:
            # A block fails, as in psql.
            if not attempt.is_in_block:
                await attempt.undo()
            if attempt.is_in_block or has_result or not _is_refused_in_transactions(error):
                raise
            cannot_be_undone = True
        if cannot_be_undone:
            self.wire.notices.found.clear()
            command = " ".join(statement.words[:2])
            unknown = f"runs {command}, which PostgreSQL cannot undo; its effect is not known before"
            lines = [unknown] if is_dangerous(statement) else []
        if lines:
            question = {"lines": lines, "notices": self.wire.notices.found, "seconds": QUESTION_SECONDS}
            yield {"question": question | {"command": " ".join(statement.words[:1]), "most_unasked": MOST_UNASKED}}
            agreed = await ask()
            if not agreed:
                if not cannot_be_undone:
                    await attempt.undo()
                yield {"undone": {"in_time": agreed is not None}}
                return
        if not cannot_be_undone:
            await attempt.keep()
            return
        async with aclosing(self._result(statement, None, limit, outcome, stops=False)) as pieces:
            async for piece in pieces:
                yield piece


def _held_lock(locked: str) -> Refusal:
    what = f"the statement locked {locked} against other sessions, so the transaction was rolled back"
    return Refusal(what, code="25006", fix=_READ_ONLY_ADVICE)


def _needs_block(name: str) -> Refusal:
    return Refusal(f"{name} can only be used in transaction blocks", code="25P01", fix="run BEGIN before it")


def _is_refused_in_transactions(error: psycopg.Error) -> bool:
    """Return whether PostgreSQL itself refuses the statement in a transaction; a function may raise the same error."""
    return error.diag.source_function in {"PreventInTransactionBlock", "_SPI_commit", "_SPI_rollback"}
