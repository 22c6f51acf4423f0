"""What a caller catches: the situations of docs/run-in-production.md, in which psycopg's own errors never escape."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeAlias

import psycopg
import pytest
from sqlalchemy import URL, func, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from tatame_db.database.address import readable
from tatame_db.database.errors import OutcomeUnknown, ServerDisconnected
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.errors import TatameError
from tatame_db.queries import write as writes
from tatame_db.queries.errors import RowRejected
from tatame_db.queries.read import read
from tatame_db.queries.write import insert_many, update_many
from tatame_db.schema import User

COUNT = "SELECT count(*) FROM users"
ANA = [{"clerk_user_id": "ana"}]

Use: TypeAlias = "Callable[[Database], object]"
UseAsync: TypeAlias = "Callable[[AsyncDatabase], Awaitable[object]]"


@pytest.fixture
def one_user(address: URL) -> URL:
    """The address of a database with the user `ana`."""
    with Database(address) as database:
        insert_many(User, ANA).run(database)
    return address


def caught(address: URL, use: Use, use_async: UseAsync, **options: Any) -> type[BaseException]:
    """Return the class that both faces raise, which is never psycopg's."""

    async def main() -> BaseException:
        async with AsyncDatabase(address, application_name="victim", **options) as database:
            with pytest.raises(Exception) as of_async:  # noqa: PT011, its class is the result
                await use_async(database)
        return of_async.value

    with (
        Database(address, application_name="victim", **options) as database,
        pytest.raises(Exception) as of_sync,  # noqa: PT011, as above
    ):
        use(database)
    of_async = asyncio.run(main())
    for error in (of_sync.value, of_async):
        assert isinstance(error, TatameError | SQLAlchemyError)
        assert not isinstance(error, psycopg.Error)
    assert of_sync.type is type(of_async)
    return of_sync.type


def end_victims(address: URL, locked: threading.Event, stop: threading.Event) -> None:
    """Lock the table of users, and terminate each victim that waits for it."""
    waiting = "application_name = 'victim' AND wait_event_type = 'Lock'"
    with (
        psycopg.connect(readable(address)) as locking,
        # Within a transaction, the activity would stay what it was at the first look.
        psycopg.connect(readable(address), autocommit=True) as connection,
    ):
        locking.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        locked.set()
        while not stop.is_set():
            connection.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {waiting}")
            time.sleep(0.02)
        locking.rollback()


@pytest.fixture
def ended(one_user: URL) -> Generator[URL]:
    """The address of a database that ends the connection of each statement about users."""
    locked, stop = threading.Event(), threading.Event()
    thread = threading.Thread(target=end_victims, args=(one_user, locked, stop))
    thread.start()
    locked.wait()
    yield one_user
    stop.set()
    thread.join()


async def in_session(database: AsyncDatabase, statement: str) -> None:
    async with database.session() as session:
        await session.execute(text(statement))


def in_sync_session(database: Database, statement: str) -> None:
    with database.session() as session:
        session.execute(text(statement))


async def streamed(database: AsyncDatabase) -> None:
    async for _ in read(User).stream(database):
        pass


# Lost connections


def test_a_connection_lost_in_a_session(ended: URL) -> None:
    def use(database: Database) -> None:
        in_sync_session(database, COUNT)

    assert caught(ended, use, lambda database: in_session(database, COUNT)) is OperationalError


def test_a_connection_lost_in_a_read_and_again(ended: URL) -> None:
    assert caught(ended, read(User).all, read(User).all) is ServerDisconnected


def test_a_connection_lost_in_a_stream(ended: URL) -> None:
    assert caught(ended, lambda database: list(read(User).stream(database)), streamed) is OperationalError


def test_a_connection_lost_in_a_write(ended: URL) -> None:
    write = insert_many(User, [{"clerk_user_id": "bia"}])
    assert caught(ended, write.run, write.run) is OutcomeUnknown


def test_a_connection_lost_in_a_copy(ended: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes, "COPY_MIN_ROWS", 1)
    write = insert_many(User, [{"clerk_user_id": "bia"}])
    assert issubclass(caught(ended, write.run, write.run), OutcomeUnknown | OperationalError)


def test_a_connection_lost_while_a_session_holds_it(one_user: URL) -> None:
    end = text("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'victim'")

    def end_all() -> None:
        with Database(one_user) as other, other.engine.connect() as connection:
            connection.execute(end)

    def use(database: Database) -> None:
        with database.session() as session:
            session.execute(text("SELECT 1"))
            end_all()
            read(User).all(session)

    async def use_async(database: AsyncDatabase) -> None:
        async with database.session() as session:
            await session.execute(text("SELECT 1"))
            await asyncio.to_thread(end_all)
            await read(User).all(session)

    assert caught(one_user, use, use_async) is OperationalError


# Refused statements


def test_sql_that_does_not_fit_the_tables(one_user: URL) -> None:
    def use(database: Database) -> None:
        in_sync_session(database, "SELECT missing")

    assert caught(one_user, use, lambda database: in_session(database, "SELECT missing")) is ProgrammingError
    with Database(one_user) as database, database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE users RENAME email TO e_mail"))
    assert caught(one_user, read(User).all, read(User).all) is ProgrammingError
    assert caught(one_user, lambda database: list(read(User).stream(database)), streamed) is ProgrammingError


def test_a_row_that_breaks_a_constraint(one_user: URL) -> None:
    def use(database: Database) -> None:
        with database.session() as session:
            session.add(User(clerk_user_id="ana"))
            session.flush()

    async def use_async(database: AsyncDatabase) -> None:
        async with database.session() as session:
            session.add(User(clerk_user_id="ana"))
            await session.flush()

    assert caught(one_user, use, use_async) is IntegrityError
    assert (
        caught(one_user, insert_many(User, ANA).run, lambda database: insert_many(User, ANA).run(database))
        is RowRejected
    )


def test_a_statement_that_takes_too_long(one_user: URL) -> None:
    limit: dict[str, Any] = {"statement_timeout_ms": 100}
    sleeping, pause = read(User).where(func.pg_sleep(60).is_(None)), "SELECT pg_sleep(60)"

    def use(database: Database) -> None:
        in_sync_session(database, pause)

    async def use_stream(database: AsyncDatabase) -> None:
        async for _ in sleeping.stream(database):
            pass

    assert caught(one_user, use, lambda database: in_session(database, pause), **limit) is OperationalError
    assert caught(one_user, sleeping.all, sleeping.all, **limit) is OperationalError
    assert caught(one_user, lambda database: list(sleeping.stream(database)), use_stream, **limit) is OperationalError


def test_a_lock_that_is_not_available(one_user: URL) -> None:
    address = one_user.update_query_dict({"options": "-c lock_timeout=100"})
    rows: list[dict[str, object]] = [{"clerk_user_id": "ana", "email": "a@gym.example"}]
    change = update_many(User, rows, by=[User.clerk_user_id])
    with Database(one_user) as other, other.session() as session:
        session.execute(text("SELECT * FROM users FOR UPDATE"))
        kind = caught(address, change.run, change.run)
    assert issubclass(kind, DBAPIError)
