"""The replication protocol of PostgreSQL: the timelines of a server, and a part of its write-ahead log."""

from __future__ import annotations

import contextlib
import select
from typing import TYPE_CHECKING

import psycopg
from psycopg.conninfo import make_conninfo

from tatame_db.backup.history import ancestors_of
from tatame_db.backup.waldump import lsn_of, lsn_text
from tatame_db.database.address import readable, without_environment

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from sqlalchemy import URL

    from tatame_db.backup.silence import Silence

_CONNECT_SECONDS = 10
# The server has what is asked for, and asks itself after 30 seconds.
_ANSWER_SECONDS = 60
# Before the log itself: a letter, and three numbers.
_LOG = ord("w")
_HEAD_BYTES = 25
_ASKS_AT = 17
# Without a position, so that the server never counts this session as a standby.
_STILL_HERE = b"r" + bytes(33)


class LogRemoved(Exception):
    """The server no longer has a part of its log."""


@contextlib.contextmanager
def walsender(address: URL, silence: Silence) -> Generator[psycopg.Connection]:
    """Connect for replication."""
    password = {"password": str(address.password)} if address.password else {}
    options = without_environment(address) | password | {"replication": "true"}
    options.setdefault("connect_timeout", str(_CONNECT_SECONDS))
    with (
        contextlib.closing(psycopg.connect(make_conninfo(readable(address), **options), autocommit=True)) as one,
        silence.asking(one),
    ):
        yield one


def timelines_of(connection: psycopg.Connection) -> tuple[dict[int, int | None], int]:
    """Return the timelines of a server, each with the position at which it was left, and the end of its log.

    The present one is the last.
    """
    _, timeline, end, *_ = _answer(connection, b"IDENTIFY_SYSTEM")
    present, left = int(timeline), dict[int, int]()
    if present > 1:
        left = ancestors_of(_answer(connection, b"TIMELINE_HISTORY %d" % present)[1].decode(errors="replace"))
    return {**left, present: None}, lsn_of(end.decode())


def _answer(connection: psycopg.Connection, command: bytes) -> list[bytes]:
    # The walsender has only the simple protocol.
    result = connection.pgconn.exec_(command)
    if result.status != psycopg.pq.ExecStatus.TUPLES_OK:
        raise psycopg.OperationalError(result.get_error_message())
    return [result.get_value(0, column) or b"" for column in range(result.nfields)]


def log_of(connection: psycopg.Connection, timeline: int, begin: int, end: int) -> Iterator[bytes]:
    """Yield a part of a server's log, which it has already written; the connection is of no other use afterwards.

    Raises `LogRemoved`, `psycopg.OperationalError`.
    """
    pgconn = connection.pgconn
    result = pgconn.exec_(f"START_REPLICATION PHYSICAL {lsn_text(begin)} TIMELINE {timeline}".encode())
    if result.status != psycopg.pq.ExecStatus.COPY_BOTH:
        raise psycopg.OperationalError(result.get_error_message())
    while begin < end:
        length, message = pgconn.get_copy_data(1)
        if length < 0:
            ended = pgconn.get_result()
            if ended and ended.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"58P01":
                raise LogRemoved
            raise psycopg.OperationalError(ended.get_error_message() if ended else "the server sends no more log")
        if length == 0:
            if not select.select([pgconn.socket], [], [], _ANSWER_SECONDS)[0]:
                raise psycopg.OperationalError("the server sends no log")
            pgconn.consume_input()
        elif message[0] == _LOG:
            block = bytes(message[_HEAD_BYTES:])
            yield block[: end - begin]
            begin += len(block)
        elif message[_ASKS_AT]:
            pgconn.put_copy_data(_STILL_HERE)
            pgconn.flush()
