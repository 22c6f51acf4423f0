"""A server that becomes silent."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import URL

from tatame_db.database.errors import DatabaseUnavailable, OutcomeUnknown
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries.engine.lean import CANCEL_TIMEOUT_SECONDS
from tatame_db.queries.engine.plan import Statement
from tatame_db.queries.errors import DeadlineExceeded
from tatame_db.queries.run import fetch, fetch_all_async, fetch_async

NUMBER: Statement[Any] = Statement("number", "SELECT %(n)s::INTEGER", tuple, may_repeat=True)
WRITE: Statement[Any] = Statement("write", "SELECT %(n)s::INTEGER", tuple)
READY = b"Z\0\0\0\5"
"""Begins the message in which the server says that it is ready for the next statement."""


class Relay:
    """Passes on what a client and the server send, until it swallows the answers of the server."""

    def __init__(self, server: str) -> None:
        self.answers_left: int | None = None
        """After how many answers it becomes silent; the first one on a connection ends the login."""
        self.ends_after: int | None = None
        """After how many answers it closes a connection."""
        self.swallowed = threading.Event()
        self.hold = threading.Event()
        """Unset, it holds up the answers of the server."""
        self.hold.set()
        self.delay_seconds = 0.0
        """How long each answer is underway."""
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                self._sockets += [client, server]
                server.connect(self._server)
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        answers = 0
        with suppress(OSError):
            while data := source.recv(65_536):
                self.hold.wait()
                if source.family == socket.AF_UNIX and self.answers_left is not None:
                    if self.answers_left <= 0:
                        self.swallowed.set()
                        continue
                    self.answers_left -= data.count(READY)
                if source.family == socket.AF_UNIX:
                    time.sleep(self.delay_seconds)
                target.sendall(data)
                answers += data.count(READY)
                if source.family == socket.AF_UNIX and answers == self.ends_after:
                    source.shutdown(socket.SHUT_RDWR)
            target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """Close all connections."""
        for each in self._sockets[1:]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.hold.set()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture
def relay(bare_address: URL) -> Generator[Relay]:
    relay = Relay(f"{bare_address.query['host']}/.s.PGSQL.{bare_address.query.get('port', bare_address.port or 5432)}")
    yield relay
    relay.close()


@pytest.fixture
def relayed(bare_address: URL, relay: Relay) -> URL:
    return URL.create(
        bare_address.drivername, bare_address.username, None, "127.0.0.1", relay.port, bare_address.database
    )


# --- Asyncio ----------------------------------------------------------------------------------------------------------


def test_a_far_server_that_answers_each_statement_is_not_silent(relayed: URL, relay: Relay) -> None:
    async def main() -> None:
        async with AsyncDatabase(address) as database:
            await database.ping()

    address = relayed.update_query_dict({"connect_timeout": "1"})
    # All of the set-up takes longer than the limit.
    relay.delay_seconds = 0.15
    with Database(address) as database:
        database.ping()
    asyncio.run(main())


@pytest.mark.parametrize("answers", [0, 1, 3])
def test_a_deadline_of_asyncio_covers_the_time_in_which_a_connection_is_made(
    relayed: URL, relay: Relay, answers: int
) -> None:
    async def main() -> None:
        async with AsyncDatabase(relayed, connect_timeout_seconds=20) as database:
            relay.answers_left = answers
            for statement in (NUMBER, WRITE):
                with pytest.raises(DeadlineExceeded) as caught:
                    await fetch_async(database, statement, {"n": 1}, deadline_ms=300)
                assert not caught.value.sent
                assert caught.value.seconds < 10
            relay.answers_left = None
            relay.cut()
            assert await fetch_async(database, NUMBER, {"n": 1}, deadline_ms=10_000) == [(1,)]

    asyncio.run(main())


def test_a_deadline_of_asyncio_waits_little_for_a_server_that_became_silent(relayed: URL, relay: Relay) -> None:
    async def main() -> None:
        for statement, error in ((NUMBER, DeadlineExceeded), (WRITE, OutcomeUnknown)):
            async with AsyncDatabase(relayed) as database:
                for number in range(3):
                    assert await fetch_async(database, statement, {"n": number}) == [(number,)]
                relay.answers_left = 0
                before = time.monotonic()
                with pytest.raises(error):
                    await fetch_async(database, statement, {"n": 1}, deadline_ms=200)
                # The limit of an interrupted call, which was that of this one too.
                assert time.monotonic() - before < CANCEL_TIMEOUT_SECONDS
                relay.answers_left = None
                relay.cut()

    asyncio.run(main())


def test_a_deadline_in_an_async_session_waits_little_for_a_server_that_became_silent(
    relayed: URL, relay: Relay
) -> None:
    async def main() -> None:
        async with AsyncDatabase(relayed) as database:
            for statement in (NUMBER, WRITE):
                async with database.session() as session:
                    assert await fetch_async(session, statement, {"n": 1}) == [(1,)]
                    relay.answers_left = 0
                    before = time.monotonic()
                    # The transaction of a session is not committed, so even a write did nothing.
                    with pytest.raises(DeadlineExceeded):
                        await fetch_async(session, statement, {"n": 1}, deadline_ms=200)
                    assert time.monotonic() - before < CANCEL_TIMEOUT_SECONDS
                    current = asyncio.current_task()
                    assert current is not None
                    assert current.cancelling() == 0
                    await session.rollback()
                    relay.answers_left = None
                    assert await fetch_async(session, statement, {"n": 2}) == [(2,)]
            assert database.statistics().in_use == 0

    asyncio.run(main())


def test_an_idle_connection_that_became_silent_holds_up_no_caller(relayed: URL, relay: Relay) -> None:
    async def main() -> None:
        async with AsyncDatabase(relayed) as database:
            await database.ping()
            assert database.statistics().idle == 1
            relay.answers_left = 0
            with pytest.raises(DatabaseUnavailable):
                await fetch_async(database, NUMBER, {"n": 1})
            relay.answers_left = None
            await asyncio.sleep(0.3)
            assert await fetch_async(database, NUMBER, {"n": 1}) == [(1,)]

    asyncio.run(main())


# --- While a connection is prepared ----------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", [0, 1, 2, 4, 100])
def test_a_server_that_is_silent_while_a_connection_is_prepared_is_unavailable(
    relayed: URL, relay: Relay, answers: int
) -> None:
    with Database(relayed) as database:
        for use in (database.ping, lambda: fetch(database, NUMBER, {"n": 1})):
            relay.answers_left = answers
            if answers == 100:
                # More than a connection takes: without this case, the others might fail for another reason.
                use()
                continue
            with pytest.raises(DatabaseUnavailable):
                use()
        assert database.statistics().in_use == 0
        relay.answers_left = None
        assert fetch(database, NUMBER, {"n": 1}) == [(1,)]


@pytest.mark.parametrize("answers", [1, 2])
def test_a_server_that_is_silent_while_an_async_connection_is_prepared_is_unavailable(
    relayed: URL, relay: Relay, answers: int
) -> None:
    async def main() -> None:
        async with AsyncDatabase(relayed) as database:
            for _ in range(2):
                relay.answers_left = answers
                with pytest.raises(DatabaseUnavailable):
                    await fetch_async(database, NUMBER, {"n": 1})
                with pytest.raises(DatabaseUnavailable):
                    await database.ping()
            relay.answers_left = None
            await asyncio.sleep(0.3)
            assert await fetch_async(database, NUMBER, {"n": 1}) == [(1,)]

    asyncio.run(main())


@pytest.mark.parametrize("answers", [1, 2, 3])
def test_a_server_that_ends_each_connection_as_it_is_opened_is_unavailable(
    relayed: URL, relay: Relay, answers: int
) -> None:
    relay.ends_after = answers

    async def main() -> None:
        async with AsyncDatabase(relayed, pool_size=2) as database:
            for statement in (NUMBER, WRITE):
                with pytest.raises((DatabaseUnavailable, OutcomeUnknown)):
                    await fetch_async(database, statement, {"n": 1})
                with pytest.raises((DatabaseUnavailable, OutcomeUnknown)):
                    await fetch_all_async(database, [(statement, {"n": 1})] * 2)

    with Database(relayed, pool_size=2) as database:
        for statement in (NUMBER, WRITE):
            with pytest.raises((DatabaseUnavailable, OutcomeUnknown)):
                fetch(database, statement, {"n": 1})
    asyncio.run(main())


# --- A deadline ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", [0, 1, 3])
def test_a_deadline_covers_the_time_in_which_a_connection_is_made(relayed: URL, relay: Relay, answers: int) -> None:
    with Database(relayed, connect_timeout_seconds=20) as database:
        relay.answers_left = answers
        with pytest.raises(DeadlineExceeded) as caught:
            fetch(database, NUMBER, {"n": 1}, deadline_ms=300)
        assert not caught.value.sent
        assert caught.value.seconds < 10
        relay.answers_left = None
        relay.cut()
        assert fetch(database, NUMBER, {"n": 1}, deadline_ms=10_000) == [(1,)]


def test_a_connection_that_arrives_after_the_deadline_serves_the_next_call(relayed: URL, relay: Relay) -> None:
    with Database(relayed, pool_size=1, connect_timeout_seconds=20) as database:
        relay.hold.clear()
        with pytest.raises(DeadlineExceeded):
            fetch(database, NUMBER, {"n": 1}, deadline_ms=100)
        relay.hold.set()
        assert fetch(database, NUMBER, {"n": 1}) == [(1,)]
        assert database.statistics().in_use == 0


def test_a_deadline_on_a_server_that_became_silent_waits_little_for_the_cancel(relayed: URL, relay: Relay) -> None:
    with Database(relayed) as database:
        for statement, error in ((NUMBER, DeadlineExceeded), (WRITE, OutcomeUnknown)):
            relay.answers_left = None
            for number in range(3):
                assert fetch(database, statement, {"n": number}) == [(number,)]
            relay.answers_left = 0
            before = time.monotonic()
            with pytest.raises(error):
                fetch(database, statement, {"n": 1}, deadline_ms=200)
            # The limit of an interrupted call, which was that of this one too.
            assert time.monotonic() - before < CANCEL_TIMEOUT_SECONDS
            assert database.statistics().in_use == 0
