"""An app that writes while its tables move, and knows which of its writes were acknowledged."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import psycopg

from tatame_db.errors import counted
from tatame_db.move.rehearsal.project import connect

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from sqlalchemy import URL

# Each transaction makes seven changes on average.
TRANSACTIONS_A_SECOND = 25.0
_PAUSE_SECONDS = 0.02
_MARK = "rehearsal_"
_FIRST_DAY = date(2026, 1, 1)
_EXAMPLES = 3
# A project of the app and the target name it differently.
_USER_ID = """
SELECT quote_ident(attname) FROM pg_attribute
WHERE attrelid = 'checkins'::regclass AND attname IN ('userId', 'user_id') AND NOT attisdropped
"""
_FIND = """
SELECT u.id, c.id, n.id FROM users AS u, checkins AS c, notifications AS n
WHERE u.clerk_user_id = %s AND c.{user_id} = u.id AND n.title = u.clerk_user_id
"""
# Of this number of rows, one is deleted. A project has no index for its foreign keys: the end of a user makes it
# read all check-ins.
_DELETED = {"users": 20, "checkins": 2, "notifications": 2}
_READ = {
    "users": "SELECT clerk_user_id, phone FROM users WHERE clerk_user_id LIKE %s",
    "checkins": "SELECT u.clerk_user_id, c.date FROM checkins AS c JOIN users AS u ON u.id = c.{user_id}"
    " WHERE u.clerk_user_id LIKE %s",
    "notifications": "SELECT title, content FROM notifications WHERE title LIKE %s",
}


@dataclass(frozen=True)
class _Ids:
    """The ids of the rows of a transaction."""

    user: int
    checkin: int
    notification: int


class Writer(threading.Thread):
    """Writes to the database that takes its writes, and goes over to the other one when it is refused.

    An app does the same when its flags are changed. Transaction `n` inserts a user, a check-in and a notification,
    updates those of the transaction before, and deletes some of the one before that. So the number of acknowledged
    transactions alone decides which rows have to be there.

    After a lost connection it asks whether the last transaction was committed. Any other error ends it and becomes its
    `problem`. As a context manager it writes until the end of the block.
    """

    def __init__(self, source: URL, target: URL, transactions_a_second: float = TRANSACTIONS_A_SECOND) -> None:
        super().__init__(name="writer", daemon=True)
        self._addresses, self.is_at_target = (source, target), False
        self._interval = 1 / transactions_a_second
        self._stopped = threading.Event()
        self._ids: dict[int, _Ids] = {}
        self.acknowledged = 0
        """The number of transactions."""
        self.lasting = 0
        """The id of the newest notification that is never deleted."""
        self.longest_wait_seconds = 0.0
        """From the first attempt of a transaction until it was acknowledged; a caller may reset it."""
        self.problem: str | None = None

    def __enter__(self) -> Self:
        """Start to write."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write no more, and wait for the current transaction."""
        self.stop()
        self.join()

    def stop(self) -> None:
        """End after the current transaction; do not wait for it."""
        self._stopped.set()

    def run(self) -> None:
        """Write until stopped."""
        # Whether the next transaction may have been committed without an answer.
        is_unknown, asked_at = False, time.monotonic()
        while not self._stopped.is_set():
            try:
                with closing(connect(self._addresses[self.is_at_target], autocommit=True)) as connection:
                    while not self._stopped.is_set():
                        number = self.acknowledged + 1
                        ids = _find(connection, number) if is_unknown else None
                        is_unknown = True
                        self._acknowledge(number, ids or self._write(connection, number), asked_at)
                        is_unknown = False
                        self._stopped.wait(asked_at + self._interval - time.monotonic())
                        asked_at = time.monotonic()
            except psycopg.errors.ObjectNotInPrerequisiteState:
                is_unknown, self.is_at_target = False, not self.is_at_target
                self._stopped.wait(_PAUSE_SECONDS)
            except psycopg.OperationalError:
                self._stopped.wait(_PAUSE_SECONDS)
            except psycopg.Error as error:
                self.problem = str(error).splitlines()[0]
                return

    def _write(self, connection: psycopg.Connection[Any], number: int) -> _Ids:
        before, last = self._ids.get(number - 1), self._ids.get(number - 2)
        mark, value, day = _mark(number), str(number), _day(number)
        with connection.transaction():
            user = _added(connection, "users (clerk_user_id, phone)", mark, value)
            checkin = _added(connection, f"checkins ({_user_id(connection)}, date)", user, day)
            notification = _added(connection, "notifications (title, content)", mark, value)
            if before:
                connection.execute("UPDATE users SET phone = %s WHERE id = %s", [value, before.user])
                connection.execute("UPDATE checkins SET date = %s WHERE id = %s", [day, before.checkin])
                connection.execute("UPDATE notifications SET content = %s WHERE id = %s", [value, before.notification])
            if last and _is_deleted("notifications", number - 2):
                connection.execute("DELETE FROM notifications WHERE id = %s", [last.notification])
            if last and _is_deleted("checkins", number - 2):
                connection.execute("DELETE FROM checkins WHERE id = %s", [last.checkin])
            if last and _is_deleted("users", number - 2):
                connection.execute("DELETE FROM users WHERE id = %s", [last.user])
        return _Ids(user, checkin, notification)

    def _acknowledge(self, number: int, ids: _Ids, asked_at: float) -> None:
        self._ids = {known: its for known, its in self._ids.items() if known > number - 2} | {number: ids}
        if not _is_deleted("notifications", number):
            self.lasting = ids.notification
        self.acknowledged = number
        self.longest_wait_seconds = max(self.longest_wait_seconds, time.monotonic() - asked_at)

    def problems(self, address: URL) -> list[str]:
        """Compare the rows that a database has of this writer with those that have to be there, each once.

        Call it when the writer has ended and the database is up to date.
        """
        newest = self.acknowledged
        found: dict[str, Counter[tuple[str, str]]] = {}
        with connect(address) as connection:
            user_id = _user_id(connection)
            for table, query in _READ.items():
                there = connection.execute(query.format(user_id=user_id).encode(), [f"{_MARK}%"])
                found[table] = Counter((str(mark), str(value)) for mark, value in there)
        problems: list[str] = []
        for table, rows in found.items():
            form = _day if table == "checkins" else str
            expected = Counter(
                (_mark(number), form(min(number + 1, newest)))
                for number in range(1, newest + 1)
                if number > newest - 2 or not _is_deleted(table, number)
            )
            for wrong, what in ((expected - rows, "lost"), (rows - expected, "too many")):
                if wrong:
                    examples = ", ".join(sorted({mark for mark, _ in wrong})[:_EXAMPLES])
                    problems.append(f"{counted(wrong.total(), 'row')} of {table} {what}, for example of {examples}")
        return problems


def _is_deleted(table: str, number: int) -> bool:
    """Return whether the row of a transaction is deleted two transactions later."""
    return number % _DELETED[table] == 1


def _find(connection: psycopg.Connection[Any], number: int) -> _Ids | None:
    """Return the ids of the rows of a transaction, if it was committed."""
    query = _FIND.format(user_id=_user_id(connection))
    found = connection.execute(query.encode(), [_mark(number)]).fetchone()
    return _Ids(*found) if found else None


def _user_id(connection: psycopg.Connection[Any]) -> str:
    [(column,)] = connection.execute(_USER_ID)
    return str(column)


def _added(connection: psycopg.Connection[Any], columns: str, *values: object) -> int:
    [added] = connection.execute(f"INSERT INTO {columns} VALUES (%s, %s) RETURNING id".encode(), values)
    return int(added[0])


def _mark(number: int) -> str:
    return f"{_MARK}{number}"


def _day(number: int) -> str:
    return str(_FIRST_DAY + timedelta(days=number))
