"""The steps of a rehearsal from a living source to the end of the move, while an app writes all the time."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from statistics import median
from threading import Event
from typing import TYPE_CHECKING, Any

import psycopg

from tatame_db.errors import counted
from tatame_db.move.follow.loop import FollowOptions
from tatame_db.move.follow.run import follow_source, follow_target
from tatame_db.move.open import open_both_for_writing
from tatame_db.move.rehearsal.comparer import ONLY_SOURCE, Discrepancy, compare_values
from tatame_db.move.rehearsal.project import connect
from tatame_db.move.rehearsal.steps import expect, listed
from tatame_db.move.rehearsal.writer import Writer
from tatame_db.move.switch.finish import finish
from tatame_db.move.switch.homes import Home
from tatame_db.move.switch.switch import switch
from tatame_db.schema import phases

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from sqlalchemy import URL, Engine

    from tatame_db.move.follow.loop import Lag

# The changes whose arrival is measured.
_SAMPLES = 4
_POLL_SECONDS = 0.02
# Even on a slow machine: a comparison of all rows comes before the first change.
_WAIT_SECONDS, _ROWS_A_SECOND = 60, 5_000
# Then the sessions of both databases are ended.
_END_SECONDS = 1.0
_EXAMPLES = 3
_END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = ANY(%s) AND pid <> pg_backend_pid()
"""
# While the record knows duplicates, each change of a user leads to a comparison of all rows, as after a copy.
_RESOLVE = """
DELETE FROM users AS u WHERE EXISTS (SELECT FROM users WHERE clerk_user_id = u.clerk_user_id AND id < u.id)
"""
_BY_CHOICE = """
SELECT table_name, id, CASE action WHEN 'rejected' THEN %s ELSE column_name END FROM tatame_move.rejects
WHERE action IN ('rejected', 'nulled')
"""
_OBJECTS = """
SELECT pg_describe_object(catalogue, oid, 0) FROM (
    SELECT 'pg_class'::regclass AS catalogue, oid FROM pg_class WHERE relnamespace::regnamespace::text !~ '^pg_'
    UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc
    UNION ALL SELECT 'pg_trigger'::regclass, oid FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'pg_namespace'::regclass, oid FROM pg_namespace WHERE nspname !~ '^pg_'
    UNION ALL SELECT 'pg_publication'::regclass, oid FROM pg_publication
    UNION ALL SELECT 'pg_event_trigger'::regclass, oid FROM pg_event_trigger
) AS objects WHERE oid >= 16384
UNION ALL SELECT 'replication slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
"""


class _FollowerThread:
    """Keeps one database equal to the other in a thread, as `tatame-db move follow` does."""

    def __init__(self, threads: ThreadPoolExecutor, follow: Callable[..., None], *, once: bool = False) -> None:
        self.written = 0
        self._stop = Event()
        self.run: Future[None] = threads.submit(follow, FollowOptions(once=once, stop=self._stop), self._note)

    def _note(self, lag: Lag) -> None:
        self.written += sum(found.written for found in lag.applied)

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by itself; raises the error that has ended it."""
        return self.run.done() and self.run.result() is None

    def stop(self) -> None:
        """End after the current batch; do not wait for it."""
        self._stop.set()


class Day:
    """The steps. As a context manager, it ends the writer and the followers, whatever they are doing."""

    def __init__(self, source: URL, target: Engine, rows: int) -> None:
        self.source, self.target = source, target
        self.writer = Writer(source, target.url)
        self._patience_seconds = _WAIT_SECONDS + rows / _ROWS_A_SECOND
        self._threads = ThreadPoolExecutor(thread_name_prefix="follower")
        self._followers: list[_FollowerThread] = []
        self._before: list[set[str]] = []
        """The objects of both databases before the first step."""

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the writer and the followers."""
        self.writer.stop()
        for follower in self._followers:
            follower.stop()
        ends = [follower.run for follower in self._followers]
        if self.writer.is_alive():
            ends.append(self._threads.submit(self.writer.join))
        while wait(ends, _END_SECONDS).not_done:
            # A comparison of many rows would go on to its end.
            with suppress(psycopg.Error), connect(self.source, autocommit=True) as connection:
                connection.execute(_END_SESSIONS, [[self.source.database, self.target.url.database]])
        self._threads.shutdown()

    def steps(self) -> dict[str, Callable[[], str]]:
        """Return the steps by name, in their order."""
        return {
            "follow a living source": self._follow,
            "switch under load": self._switch,
            "follow back": self._follow_back,
            "go back under load": self._go_back,
            "stop the app": self._stop,
            "compare every value": self._compare,
            "finish": self._finish,
        }

    def _follow(self) -> str:
        self._before = [_objects(database) for database in (self.source, self.target.url)]
        with connect(self.source) as connection:
            connection.execute(_RESOLVE)
        self.writer.start()
        return self._followed(follow_source, self.target.url)

    def _switch(self) -> str:
        return f"{self._switched(Home.TARGET)}, then wrote to the target"

    def _follow_back(self) -> str:
        return self._followed(follow_target, self.source)

    def _go_back(self) -> str:
        return f"{self._switched(Home.SOURCE)}, then wrote to the source again"

    def _stop(self) -> str:
        self.writer.stop()
        self.writer.join()
        self._expect_no_problem()
        last = _FollowerThread(self._threads, partial(follow_source, self.source, self.target), once=True)
        self._followers.append(last)
        last.run.result()
        transactions = counted(self.writer.acknowledged, "transaction")
        return f"{transactions} acknowledged in all; the last {counted(last.written, 'row')} carried over"

    def _compare(self) -> str:
        compared = compare_values(self.source, self.target.url)
        missing = set(phases()) - set(compared.tables)
        expect(not missing, f"expected both databases to have {listed(missing)}")
        with connect(self.target.url) as connection:
            by_choice = {Discrepancy(*row) for row in connection.execute(_BY_CHOICE, [ONLY_SOURCE])}
        wrong = sorted(by_choice.symmetric_difference(compared.discrepancies))
        examples = "; ".join(str(difference) for difference in wrong[:_EXAMPLES])
        expect(not wrong, f"expected no difference but by choice; differing: {examples}")
        for name, database in (("source", self.source), ("target", self.target.url)):
            problems = "; ".join(self.writer.problems(database))
            expect(not problems, f"the {name} has not what it acknowledged: {problems}")
        return (
            f"{compared.rows:,} rows read, equal except for {len(by_choice)} excluded by choice;"
            f" all acknowledged writes are there, each once"
        )

    def _finish(self) -> str:
        with open_both_for_writing(self.source, self.target) as connections:
            finished = finish(connections)
        if finished.error:
            raise finished.error
        databases = self.source, self.target.url
        for name, database, before in zip(("source", "target"), databases, self._before, strict=True):
            left = _objects(database) - before
            expect(not left, f"expected nothing of the move in the {name}, found {listed(left)}")
        removed = counted(len(finished.removed), "object")
        return f"{removed} removed, nothing is left but {counted(finished.kept_rejects, 'excluded row')}"

    def _followed(self, follow: Callable[..., None], follower: URL) -> str:
        """Follow from now on, and measure when changes arrive at the follower."""
        acknowledged = self.writer.acknowledged
        running = _FollowerThread(self._threads, partial(follow, self.source, self.target))
        self._followers.append(running)
        with connect(follower, autocommit=True) as reader:
            # The first one waits for a comparison of all rows.
            _, *lags = [self._arrival(reader) for _ in range(1 + _SAMPLES)]
        transactions = counted(self.writer.acknowledged - acknowledged, "transaction")
        return (
            f"{transactions} acknowledged, {counted(running.written, 'row')} carried over;"
            f" changes arrived after {median(lags):.2f} s, {max(lags):.2f} s at most"
        )

    def _arrival(self, reader: psycopg.Connection[Any]) -> float:
        """Return the seconds from the acknowledgement of a write until a client of the follower reads it."""
        before = self.writer.lasting
        self._wait(lambda: self.writer.lasting != before, "a write")
        acknowledged_at, written = time.monotonic(), self.writer.lasting
        query = "SELECT FROM notifications WHERE id = %s"

        def has_arrived() -> bool:
            expect(not self._followers[-1].has_ended, "the follower has ended by itself")
            return reader.execute(query, [written]).rowcount == 1

        self._wait(has_arrived, "a change to arrive")
        return time.monotonic() - acknowledged_at

    def _switched(self, home: Home) -> str:
        """Switch all tables, and wait until the app has gone over."""
        self.writer.longest_wait_seconds = 0.0
        report = switch(self.source, self.target, to=home)
        if report.is_interrupted:
            raise KeyboardInterrupt
        tables = {table.table for table in report.tables}
        expect(tables == set(phases()), f"expected all tables to be switched; switched: {listed(tables)}")
        acknowledged = self.writer.acknowledged

        def goes_on() -> bool:
            return self.writer.is_at_target is (home is Home.TARGET) and self.writer.acknowledged > acknowledged

        self._wait(goes_on, "a write to the new home")
        self._wait(lambda: self._followers[-1].has_ended, "the follower of the old home to end")
        rows = counted(sum(table.rows for table in report.tables), "row")
        return (
            f"{rows} compared in a pause of {report.pause_seconds:.2f} s;"
            f" the app waited for {self.writer.longest_wait_seconds:.2f} s at most"
        )

    def _wait(self, condition: Callable[[], bool], wanted: str) -> None:
        until = time.monotonic() + self._patience_seconds
        while not condition():
            self._expect_no_problem()
            expect(time.monotonic() < until, f"waited for {wanted} for {self._patience_seconds:.0f} s")
            time.sleep(_POLL_SECONDS)

    def _expect_no_problem(self) -> None:
        expect(self.writer.problem is None, f"the app could not write: {self.writer.problem}")


def _objects(database: URL) -> set[str]:
    """Return the name of everything that a move could leave in a database."""
    with connect(database) as connection:
        return {name for (name,) in connection.execute(_OBJECTS)}
