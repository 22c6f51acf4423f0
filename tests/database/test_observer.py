"""What `on_statement` and the log report of each statement."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from contextlib import suppress

import psycopg
import pytest
from sqlalchemy import URL, func, select, text
from sqlalchemy import delete as delete_from
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from tatame_db.database.address import readable
from tatame_db.database.errors import ConnectionsExhausted
from tatame_db.database.observer import StatementEvent
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries import write as writes
from tatame_db.queries.errors import RowRejected, ValueNotReadable
from tatame_db.queries.read import Read, query, read
from tatame_db.queries.write import insert_many, update_many, upsert
from tatame_db.schema import User


@query
def find_user(clerk_user_id: str) -> Read[User]:
    return read(User).where(User.clerk_user_id == clerk_user_id)


USERS: list[dict[str, object]] = [{"clerk_user_id": f"user_{number}"} for number in range(3)]


def outline(events: list[StatementEvent]) -> list[tuple[str, int | None, str | None]]:
    """Return the first two words, the rows and the class of the error of each event."""
    return [
        (" ".join(event.name.split()[:2]), event.rows, type(event.error).__name__ if event.error else None)
        for event in events
    ]


EXPECTED = [
    ("insert User", 3, None),
    ("find_user", 1, None),
    ("read User", 3, None),
    ("insert User", None, "IntegrityError"),
    ("SELECT public.users.id", 3, None),
    ("INSERT INTO", None, "IntegrityError"),
]


def test_every_kind_of_statement_is_reported(address: URL) -> None:
    events: list[StatementEvent] = []
    with Database(address) as database:
        database.on_statement(events.append)
        insert_many(User, USERS).run(database)
        find_user.one(database, "user_1")
        assert len(list(read(User).stream(database))) == 3
        with pytest.raises(RowRejected):
            insert_many(User, USERS).run(database)
        with database.session() as session:
            assert len(session.scalars(select(User.id)).all()) == 3
            session.add(User(clerk_user_id="user_1"))
            with pytest.raises(IntegrityError):
                session.flush()
    assert outline(events) == EXPECTED
    assert all(event.seconds > 0 for event in events)


def test_every_kind_of_statement_is_reported_for_asyncio(address: URL) -> None:
    events: list[StatementEvent] = []

    async def main() -> None:
        async with AsyncDatabase(address) as database:
            database.on_statement(events.append)
            await insert_many(User, USERS).run(database)
            await find_user.one(database, "user_1")
            assert len([user async for user in read(User).stream(database)]) == 3
            with pytest.raises(RowRejected):
                await insert_many(User, USERS).run(database)
            async with database.session() as session:
                assert len((await session.scalars(select(User.id))).all()) == 3
                session.add(User(clerk_user_id="user_1"))
                with pytest.raises(IntegrityError):
                    await session.flush()

    asyncio.run(main())
    assert outline(events) == EXPECTED


@pytest.mark.parametrize("failing", [False, True])
def test_a_copy_is_reported(address: URL, monkeypatch: pytest.MonkeyPatch, *, failing: bool) -> None:
    monkeypatch.setattr(writes, "COPY_MIN_ROWS", 1)
    events: list[StatementEvent] = []
    rows = [*USERS, *USERS] if failing else USERS

    async def main() -> None:
        async with AsyncDatabase(address) as database:
            database.on_statement(events.append)
            await insert_many(User, [{"clerk_user_id": f"async {row['clerk_user_id']}"} for row in rows]).run(database)

    with Database(address) as database:
        database.on_statement(events.append)
        for insert in (lambda: insert_many(User, rows).run(database), lambda: asyncio.run(main())):
            if failing:
                with pytest.raises(RowRejected):
                    insert()
            else:
                insert()
    expected = ("copy User", None, "IntegrityError") if failing else ("copy User", 3, None)
    assert [event for event in outline(events) if event[0] == "copy User"] == [expected] * 2


def test_a_stream_that_its_caller_leaves_is_no_failure(address: URL) -> None:
    events: list[StatementEvent] = []
    with Database(address) as database:
        insert_many(User, USERS).run(database)
        database.on_statement(events.append)
        stream = read(User).stream(database)
        next(stream)
        stream.close()
    assert [event.error for event in events] == [None]


def _sleeps(address: URL) -> bool:
    query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
    with psycopg.connect(readable(address)) as connection:
        return bool(connection.execute(query).fetchall())


def test_a_cancelled_call_is_reported(address: URL) -> None:
    events: list[StatementEvent] = []

    async def main() -> None:
        async with AsyncDatabase(address) as database:
            database.on_statement(events.append)
            await insert_many(User, USERS).run(database)
            sleeping = asyncio.create_task(read(User).where(func.pg_sleep(300).is_(None)).all(database))
            while not await asyncio.to_thread(_sleeps, address):
                await asyncio.sleep(0.02)
            sleeping.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sleeping

    asyncio.run(main())
    assert outline(events)[-1] == ("read User", None, "CancelledError")


def test_the_error_of_an_event_is_the_one_that_the_caller_receives(address: URL) -> None:
    events: list[StatementEvent] = []
    with Database(address) as database:
        database.on_statement(events.append)
        with database.engine.connect() as connection, pytest.raises(ProgrammingError) as in_session:
            connection.execute(text("SELECT missing"))
        with database.engine.begin() as connection:
            connection.execute(text("ALTER TABLE users DROP COLUMN email"))
        with pytest.raises(DBAPIError) as in_query:
            read(User).all(database)
    errors = [event.error for event in events if event.error]
    assert errors == [in_session.value, in_query.value]


def test_a_value_that_cannot_be_read_is_a_failure(address: URL) -> None:
    events: list[StatementEvent] = []
    with Database(address) as database:
        with database.engine.begin() as connection:
            connection.execute(text("INSERT INTO users (clerk_user_id, created_at) VALUES ('u', 'infinity')"))
        database.on_statement(events.append)
        with pytest.raises(ValueNotReadable):
            read(User).all(database)
    assert outline(events) == [("read User", None, "ValueNotReadable")]


def test_the_label_of_an_event_is_one_of_few(address: URL) -> None:
    events: list[StatementEvent] = []
    with Database(address) as database:
        database.on_statement(events.append)
        find_user.first(database, "user_1")
        with database.session() as session:
            session.scalars(select(User.id)).all()
            session.execute(text("select 1"))
            with pytest.raises(ProgrammingError):
                session.execute(text(" Update missing SET a = 1"))
    assert [event.label for event in events] == ["find_user", "SELECT", "SELECT", "UPDATE"]


# Callbacks


def test_a_callback_that_raises_breaks_no_call_and_is_logged_once(
    address: URL, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[StatementEvent] = []
    with Database(address) as database:

        @database.on_statement
        def broken(event: StatementEvent) -> None:
            raise RuntimeError(f"ana@gym.example {event.error}")

        database.on_statement(events.append)
        for _ in range(2):
            read(User).all(database)
            with database.session() as session:
                session.scalars(select(User.id)).all()
            with pytest.raises(DBAPIError), database.session() as session:
                session.execute(text("SELECT 'ana@gym.example'::integer"))
    assert len(events) == 6
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "RuntimeError" in record.message
    assert "in broken" in record.message
    # The message of a callback may repeat the error, which may quote a value of a row.
    assert record.message.count("ana@gym.example") <= 1
    assert "invalid input syntax" not in record.message


class _AsyncCallable:
    async def __call__(self, event: StatementEvent) -> None: ...


async def _async_function(event: StatementEvent) -> None: ...


@pytest.mark.parametrize("callback", [_async_function, _AsyncCallable()])
def test_an_async_callback_is_refused(address: URL, callback: Callable[[StatementEvent], object]) -> None:
    with Database(address) as database, pytest.raises(TypeError, match="not an async function"):
        database.on_statement(callback)


def test_the_databases_of_a_process_report_apart(address: URL) -> None:
    first: list[StatementEvent] = []
    second: list[StatementEvent] = []
    with Database(address) as one, Database(address) as other:
        one.on_statement(first.append)
        other.on_statement(second.append)
        read(User).all(one)
        with other.session() as session:
            session.scalars(select(User.id)).all()
    assert outline(first) == [("read User", 0, None)]
    assert outline(second) == [("SELECT public.users.id", 0, None)]


def test_connections_that_were_idle_report_too(address: URL) -> None:
    events: list[StatementEvent] = []
    with Database(address) as database:
        read(User).all(database)
        database.ping()
        database.on_statement(events.append)
        read(User).all(database)
        database.ping()
    assert outline(events) == [("read User", 0, None), ("SELECT 1", 1, None)]


# The log


def test_a_failed_statement_is_logged_with_its_class_and_code_alone(
    address: URL, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tatame_db.sql")
    with Database(address, log_statements=True) as database, database.session.begin() as session:
        session.execute(text("SELECT 1"))
        for rows in ([{"clerk_user_id": "ana"}], [{"clerk_user_id": "bia", "gym_id": 7}]):
            with suppress(RowRejected), session.begin_nested():
                insert_many(User, rows).run(session)
    logged = [re.sub(r"[0-9.]+ ms", "… ms", message) for message in caplog.messages]
    assert [message for message in logged if message.startswith("insert")] == [
        "insert User [… ms]",
        "insert User [… ms] IntegrityError 23503",
    ]
    assert "bia" not in caplog.text


def test_a_slow_statement_is_a_warning_with_its_name_and_time(address: URL, caplog: pytest.LogCaptureFixture) -> None:
    with Database(address, slow_statement_ms=100) as database, database.session() as session:
        read(User).all(database)
        session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": 0.15375})
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert re.fullmatch(r"SELECT pg_sleep\(.*\) \[[0-9.]+ ms\]", record.message)
    assert "0.15375" not in caplog.text


@pytest.mark.parametrize("is_single", [True, False])
def test_the_rows_of_a_write_are_those_that_it_wrote(address: URL, *, is_single: bool) -> None:
    events: list[StatementEvent] = []
    rows: list[dict[str, object]] = USERS[:1] if is_single else [*USERS, {"clerk_user_id": "other", "phone": "1"}]
    named = [{**row, "first_name": "Ana"} for row in rows]
    missing: list[dict[str, object]] = [*named, {"clerk_user_id": "missing", "first_name": "Bia"}]
    writes = [
        insert_many(User, rows),
        update_many(User, missing, by=[User.clerk_user_id]),
        update_many(User, missing, by=[User.clerk_user_id], returning=User.id),
        upsert(User, missing, by=[User.clerk_user_id]),
        upsert(User, missing, by=[User.clerk_user_id], returning=User),
    ]
    number = len(rows)
    expected = [number, number, number, number + 1, number + 1]

    def reported() -> list[int]:
        """Return the sum of the events since the last call, because a write may have several statements."""
        found, total = list(events), 0
        events.clear()
        for event in found:
            assert event.rows is not None
            total += event.rows
        return [total]

    def delete(database: Database) -> None:
        with database.engine.begin() as connection:
            connection.execute(delete_from(User))
        events.clear()

    async def main() -> list[int]:
        async with AsyncDatabase(address) as database:
            database.on_statement(events.append)
            totals: list[int] = []
            for write in writes:
                await write.run(database)
                totals += reported()
            async with database.session.begin() as session:
                for write in writes[1:]:
                    await write.run(session)
                    totals += reported()
            return totals

    with Database(address) as database:
        database.on_statement(events.append)
        totals: list[int] = []
        for write in writes:
            write.run(database)
            totals += reported()
        with database.session.begin() as session:
            for write in writes[1:]:
                write.run(session)
                totals += reported()
        delete(database)
    # The missing row exists the second time.
    assert totals == [*expected, *[number + 1] * 4]
    assert asyncio.run(main()) == totals


class RaisingHandler(logging.Handler):
    """A handler that raises, such as one whose disk is full."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError(record.name)


def test_a_log_that_raises_breaks_no_call(address: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(address, log_statements=True) as database:
            assert await insert_many(User, [{"clerk_user_id": "async"}]).run(database) == 1
            assert await find_user.exists(database, "async")
            assert len([user async for user in read(User).stream(database)]) == 2

    logger, handler = logging.getLogger("tatame_db"), RaisingHandler()
    level = logging.getLogger("tatame_db.sql").level
    logging.getLogger("tatame_db.sql").setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        with Database(address, log_statements=True) as database:
            database.on_statement(lambda _: 1 / 0)
            assert insert_many(User, [{"clerk_user_id": "sync"}]).run(database) == 1
            with database.session.begin() as session:
                assert session.scalar(select(func.count()).select_from(User)) == 1
            assert len(list(read(User).stream(database))) == 1
        asyncio.run(main())
    finally:
        logger.removeHandler(handler)
        logging.getLogger("tatame_db.sql").setLevel(level)


def test_a_call_without_a_connection_is_reported(address: URL) -> None:
    events: list[StatementEvent] = []

    async def main() -> None:
        async with AsyncDatabase(address, pool_size=1, pool_timeout_seconds=0.01) as database:
            database.on_statement(events.append)
            async with database.engine.connect():
                with pytest.raises(ConnectionsExhausted):
                    await read(User).all(database)
                with pytest.raises(ConnectionsExhausted):
                    _ = [user async for user in read(User).stream(database)]

    with Database(address, pool_size=1, pool_timeout_seconds=0.01) as database:
        database.on_statement(events.append)
        with database.engine.connect():
            with pytest.raises(ConnectionsExhausted):
                read(User).all(database)
            with pytest.raises(ConnectionsExhausted):
                _ = list(read(User).stream(database))
    asyncio.run(main())
    assert outline(events) == [("read User", None, "ConnectionsExhausted")] * 4
