"""The databases of the test kit, whose sessions and queries share a transaction that is rolled back."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from threading import Barrier, Event

import pytest
from sqlalchemy import Text, cast, delete, event, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, InternalError, OperationalError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tatame_db import AsyncDatabase, Database, insert_many, read, update_many, upsert
from tatame_db.database.errors import TransactionAborted
from tatame_db.database.observer import StatementEvent
from tatame_db.queries.errors import DeadlineExceeded, RowRejected
from tatame_db.queries.write import COPY_MIN_ROWS
from tatame_db.schema import Checkin, Gym, User
from tatame_db.testing import turns
from tatame_db.testing.databases import RolledBackDatabases
from tatame_db.testing.factories import a_gym, a_user
from tatame_db.testing.turns import TransactionControlled, TransactionInterrupted, TransactionsOverlap, may_write

COUNT = select(func.count()).select_from(User)
GUARD_SECONDS = 20


@pytest.fixture
def kit(committed_database: Database) -> Generator[RolledBackDatabases]:
    """Databases on a transaction that the test itself ends; `committed_database` shows what others see of it."""
    databases = RolledBackDatabases(committed_database)
    yield databases
    databases.close()


def users(database: Database) -> int:
    with database.session() as session:
        return session.scalars(COUNT).one()


def names(database: Database) -> set[str | None]:
    with database.session() as session:
        return set(session.scalars(select(User.first_name)))


def guarded(work: Callable[[], object]) -> None:
    """Run work that must not wait for itself, in a loop."""

    async def run() -> None:
        await asyncio.wait_for(work(), GUARD_SECONDS)  # type: ignore[arg-type]

    asyncio.run(run())


# --- The fixtures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_begins_with_an_empty_database(
    database: Database, async_database: AsyncDatabase, session: Session, turn: int
) -> None:
    session.add(a_user(id=turn))
    session.commit()
    with database.session.begin() as other:
        other.add(a_user(id=turn + 10))

    async def work() -> None:
        async with async_database.session.begin() as other:
            other.add(a_user(id=turn + 20))
        assert {user.id for user in await read(User).all(async_database)} == {turn, turn + 10, turn + 20}

    asyncio.run(work())
    assert {user.id for user in read(User).all(session)} == {turn, turn + 10, turn + 20}


@pytest.mark.parametrize("turn", [1, 2])
def test_an_async_session_begins_with_an_empty_database(async_session: AsyncSession, turn: int) -> None:
    async def work() -> list[int]:
        async_session.add(a_user())
        await async_session.commit()
        return list(await async_session.scalars(select(User.id)))

    assert len(asyncio.run(work())) == 1, turn


# --- Commits and rollbacks -------------------------------------------------------------------------------------------


def test_a_commit_is_invisible_to_others_and_rolled_back_at_the_end(
    kit: RolledBackDatabases, committed_database: Database
) -> None:
    with kit.database.session.begin() as session:
        session.add(a_user())
    assert users(committed_database) == 0
    assert users(kit.database) == 1

    kit.end()
    assert users(committed_database) == 0
    assert users(kit.database) == 0


def test_a_rollback_goes_back_to_the_last_commit(database: Database) -> None:
    with database.session() as session:
        with session.begin():
            session.add(a_user(first_name="Ana"))
        session.add(a_user(first_name="Rui"))
        session.flush()
        session.rollback()
        assert session.scalars(select(User.first_name)).all() == ["Ana"]


def test_an_error_in_a_block_rolls_it_back(database: Database) -> None:
    def fail() -> None:
        with database.session.begin() as session:
            session.add(a_user())
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert users(database) == 0


def test_a_session_has_the_options_of_the_database(session: Session) -> None:
    user = a_user(first_name="Ana")
    session.add(user)
    session.commit()
    # With `expire_on_commit`, this would query again.
    assert "first_name" in vars(user)


def test_a_session_that_the_test_closed_can_be_used_again(session: Session) -> None:
    with session:
        session.add(a_user())
        session.commit()
    assert session.scalar(COUNT) == 1


def test_an_unused_database_opens_no_connection(committed_database: Database) -> None:
    opened: list[object] = []
    event.listen(committed_database.engine, "checkout", lambda *connection: opened.append(connection))
    kit = RolledBackDatabases(committed_database)
    kit.database.session().close()
    kit.end()
    kit.close()
    assert opened == []


def test_closing_a_database_as_an_app_does_leaves_it_to_the_test(
    database: Database, async_database: AsyncDatabase
) -> None:
    async def app() -> None:
        async with async_database as opened, opened.session.begin() as session:
            session.add(a_user())

    asyncio.run(app())
    with database:
        assert users(database) == 1
    assert users(database) == 1


def test_savepoints_of_a_session_nest(database: Database) -> None:
    with database.session.begin() as session:
        session.add(a_user(first_name="Ana"))
        with pytest.raises(IntegrityError), session.begin_nested():
            session.execute(insert(User).values(id=1))
        session.add(a_user(first_name="Bia"))
        with session.begin_nested():
            session.add(a_user(first_name="Rui"))
    assert names(database) == {"Ana", "Bia", "Rui"}


def test_a_session_of_an_ended_test_cannot_write_in_the_next_one(kit: RolledBackDatabases) -> None:
    left = kit.database.session()
    left.add(a_user())
    left.flush()
    kit.end()
    left.add(a_user())
    with pytest.raises(DBAPIError, match="the connection is closed"):
        left.commit()
    left.close()
    assert users(kit.database) == 0


# --- Errors ----------------------------------------------------------------------------------------------------------


def test_a_caught_integrity_error_undoes_its_own_transaction_alone(database: Database) -> None:
    with database.session.begin() as session:
        session.add(a_user(id=1))
    gym, again = a_gym(), a_user(id=1)
    with pytest.raises(IntegrityError), database.session.begin() as session:
        session.add_all([gym, again])
    with database.session.begin() as session:
        session.add(a_user(id=2))
    assert [user.id for user in read(User).order_by(User.id).all(database)] == [1, 2]
    assert read(Gym).all(database) == []


@pytest.mark.parametrize("first", [select(text("1/0")), update(User).values(gym_id=99)])
def test_after_an_error_a_session_needs_a_rollback_and_others_go_on(
    database: Database, first: object, session: Session
) -> None:
    with database.session.begin() as other:
        other.add(a_user())
    with pytest.raises(DBAPIError):
        session.execute(first)  # type: ignore[call-overload]
    # As PostgreSQL would: the transaction of this session is aborted.
    with pytest.raises(InternalError, match="current transaction is aborted"):
        session.execute(COUNT)
    session.rollback()
    assert session.scalar(COUNT) == 1
    assert users(database) == 1


def test_others_go_on_before_a_session_whose_read_failed_is_rolled_back(database: Database, session: Session) -> None:
    with pytest.raises(DBAPIError):
        session.execute(text("SELECT 1/0"))
    with database.session.begin() as other:
        other.add(a_user())
    assert users(database) == 1
    session.rollback()
    assert session.scalar(COUNT) == 1


def test_a_commit_after_an_error_is_an_error_too(database: Database) -> None:
    with database.engine.connect() as connection:
        connection.execute(text("INSERT INTO gyms (name, address, since) VALUES ('a', 'b', 'c')"))
        with pytest.raises(IntegrityError):
            connection.execute(text("INSERT INTO users (id) VALUES (1)"))
        with pytest.raises(TransactionAborted):
            connection.commit()
    with database.session() as session:
        with pytest.raises(DBAPIError):
            session.execute(text("SELECT 1 / 0"))
        with pytest.raises(TransactionAborted):
            session.commit()
    assert read(Gym).all(database) == []


def test_a_deferred_constraint_is_checked_by_the_commit(database: Database) -> None:
    def add_a_gym_without_its_manager() -> None:
        with database.session.begin() as session:
            session.execute(text("SET CONSTRAINTS ALL DEFERRED"))
            session.add(a_gym(manager_id=99))
            session.flush()

    with pytest.raises(IntegrityError):
        add_a_gym_without_its_manager()
    assert read(Gym).all(database) == []
    with database.session.begin() as session:
        session.execute(text("SET CONSTRAINTS ALL DEFERRED"))
        session.add(a_gym(manager_id=7))
        session.flush()
        session.add(a_user(id=7))
    # The next transaction begins with the modes of the schema.
    with database.session() as session, pytest.raises(IntegrityError):
        session.execute(text("INSERT INTO gyms (name, address, since, manager_id) VALUES ('a', 'b', 'c', 99)"))


def test_a_constraint_that_is_deferred_from_the_start_is_checked_by_each_commit(committed_database: Database) -> None:
    with committed_database.engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE lockers (user_id integer REFERENCES users DEFERRABLE INITIALLY DEFERRED)")
        )
    kit = RolledBackDatabases(committed_database)
    for _ in range(2):
        connection = kit.database.engine.connect()
        connection.execute(text("INSERT INTO lockers VALUES (99)"))
        with pytest.raises(IntegrityError):
            connection.commit()
        connection.close()
        with kit.database.engine.begin() as connection:
            connection.execute(text("INSERT INTO lockers VALUES (98)"))
            connection.execute(text("INSERT INTO users (id, clerk_user_id) VALUES (98, 'u98') ON CONFLICT DO NOTHING"))
    kit.close()


# --- Queries and bulk writes -----------------------------------------------------------------------------------------


def test_queries_and_bulk_writes_run_in_the_transaction(kit: RolledBackDatabases, committed_database: Database) -> None:
    db = kit.database
    assert insert_many(User, [{"clerk_user_id": "a", "first_name": "Ana"}, {"clerk_user_id": "b"}]).run(db) == 2
    upsert(User, [{"clerk_user_id": "b", "first_name": "Bia"}], by=[User.clerk_user_id]).run(db)
    user = read(User).where(User.clerk_user_id == "a").one(db)
    changes: list[dict[str, object]] = [{"id": user.id, "phone": "1"}, {"id": user.id + 1, "email": "b@b.example"}]
    update_many(User, changes, by=[User.id]).run(db)
    found = list(read(User).order_by(User.id).stream(db))
    assert [(user.first_name, user.phone, user.email) for user in found] == [
        ("Ana", "1", None),
        ("Bia", None, "b@b.example"),
    ]
    assert insert_many(Checkin, [{"user_id": user.id}] * COPY_MIN_ROWS).run(db) == COPY_MIN_ROWS
    with db.session() as session:
        assert session.scalar(select(func.count()).select_from(Checkin)) == COPY_MIN_ROWS
    assert "Seq Scan" in read(User).explain(db)
    assert users(committed_database) == 0


def test_async_queries_and_bulk_writes_run_in_the_transaction(
    kit: RolledBackDatabases, committed_database: Database
) -> None:
    db = kit.async_database

    async def work() -> None:
        assert await insert_many(User, [{"clerk_user_id": "a"}, {"clerk_user_id": "b"}]).run(db) == 2
        await upsert(User, [{"clerk_user_id": "b", "first_name": "Bia"}], by=[User.clerk_user_id]).run(db)
        user = await read(User).where(User.clerk_user_id == "a").one(db)
        changes: list[dict[str, object]] = [{"id": user.id, "phone": "1"}, {"id": user.id + 1, "email": "b@b.example"}]
        await update_many(User, changes, by=[User.id]).run(db)
        found = [(user.first_name, user.phone) async for user in read(User).order_by(User.id).stream(db)]
        assert found == [(None, "1"), ("Bia", None)]
        rows = [{"user_id": user.id}] * COPY_MIN_ROWS
        assert await insert_many(Checkin, rows).run(db) == COPY_MIN_ROWS
        assert "Seq Scan" in await read(User).explain(db)

    guarded(work)
    with kit.database.session() as session:
        assert session.scalar(select(func.count()).select_from(Checkin)) == COPY_MIN_ROWS
    assert users(committed_database) == 0


def test_a_rejected_bulk_write_undoes_itself_alone(database: Database, async_database: AsyncDatabase) -> None:
    insert_many(User, [{"clerk_user_id": "a"}]).run(database)
    with pytest.raises(RowRejected):
        insert_many(User, [{"clerk_user_id": "b"}, {"clerk_user_id": "a"}]).run(database)
    with pytest.raises(RowRejected):
        asyncio.run(insert_many(User, [{"clerk_user_id": "c"}, {"clerk_user_id": "a"}]).run(async_database))
    insert_many(User, [{"clerk_user_id": "d"}]).run(database)
    assert {user.clerk_user_id for user in read(User).all(database)} == {"a", "d"}


def test_a_query_in_a_session_sees_what_the_session_flushed(session: Session) -> None:
    session.add(a_user(first_name="Ana"))
    assert [user.first_name for user in read(User).all(session)] == ["Ana"]
    session.rollback()
    assert read(User).all(session) == []


SLOW = read(User).where(cast(func.pg_sleep(30), Text) == "").within(deadline_ms=100)


def test_a_deadline_ends_a_read_and_others_go_on(database: Database, async_database: AsyncDatabase) -> None:
    insert_many(User, [{"clerk_user_id": "a"}]).run(database)
    with pytest.raises(DeadlineExceeded):
        SLOW.all(database)

    async def work() -> None:
        with pytest.raises(DeadlineExceeded):
            await SLOW.all(async_database)
        assert len(await read(User).all(async_database)) == 1

    guarded(work)
    with database.session() as session:
        session.add(a_user())
        with pytest.raises(DeadlineExceeded):
            SLOW.all(session)
        with pytest.raises(TransactionAborted):
            session.commit()
    assert users(database) == 1


def test_rows_can_be_written_while_others_are_streamed(database: Database, async_database: AsyncDatabase) -> None:
    insert_many(User, [{"clerk_user_id": str(number)} for number in range(3_000)]).run(database)
    streamed = 0
    for user in read(User).order_by(User.id).stream(database):
        streamed += 1
        if streamed % 1_500 == 1:
            update_many(User, [{"id": user.id, "phone": "1"}], by=[User.id]).run(database)
            with pytest.raises(RowRejected):
                insert_many(User, [{"clerk_user_id": "1"}]).run(database)

    async def work() -> int:
        number = 0
        async for user in read(User).order_by(User.id).stream(async_database):
            number += 1
            if number % 1_500 == 1:
                await update_many(User, [{"id": user.id, "phone": "2"}], by=[User.id]).run(async_database)
        return number

    assert (streamed, asyncio.run(work())) == (3_000, 3_000)
    assert len(read(User).where(User.phone == "2").all(database)) == 2


@pytest.mark.parametrize("turn", [1, 2])
def test_statements_of_many_rows_take_one_turn(database: Database, async_database: AsyncDatabase, turn: int) -> None:
    assert turn
    insert_many(User, [{"id": number, "clerk_user_id": str(number)} for number in range(1, 201)]).run(database)

    def change(face: str) -> list[dict[str, object]]:
        return [{"id": number, "phone": face} for number in range(1, 201)]

    def in_threads() -> None:
        with database.session.begin() as session:
            session.execute(update(User), change("sync"))

    async def in_tasks() -> None:
        async with async_database.session.begin() as session:
            await session.execute(update(User), change("async"))

    async def many() -> None:
        await asyncio.gather(*(in_tasks() for _ in range(4)))

    with ThreadPoolExecutor(5) as pool:
        running = [pool.submit(in_threads) for _ in range(4)] + [pool.submit(asyncio.run, many())]
        for future in running:
            future.result(GUARD_SECONDS)
    assert len({user.phone for user in read(User).all(database)}) == 1


def test_a_transaction_with_retries_runs_in_the_transaction(database: Database, async_database: AsyncDatabase) -> None:
    def add(session: Session) -> None:
        session.add(a_user(first_name="Ana"))

    async def add_async(session: AsyncSession) -> None:
        session.add(a_user(first_name="Bia"))

    database.run_in_transaction(add)
    asyncio.run(async_database.run_in_transaction(add_async))
    assert names(database) == {"Ana", "Bia"}
    with pytest.raises(TransactionControlled):
        database.run_in_transaction(add, isolation_level="SERIALIZABLE")
    assert names(database) == {"Ana", "Bia"}


def test_a_function_of_a_test_is_not_called_in_the_next_one(kit: RolledBackDatabases) -> None:
    seen: list[StatementEvent] = []
    kit.database.on_statement(seen.append)
    users(kit.database)
    assert len(seen) == 1
    kit.end()
    users(kit.database)
    assert len(seen) == 1
    kit.database.on_statement(seen.append)
    users(kit.database)
    assert len(seen) == 2


# --- Transactions beside each other ----------------------------------------------------------------------------------


def test_a_commit_beside_a_session_that_only_read_outlives_its_rollback(database: Database, session: Session) -> None:
    assert session.scalar(COUNT) == 0
    with database.session.begin() as other:
        other.add(a_user())
    assert session.scalar(COUNT) == 1
    session.rollback()
    assert users(database) == 1


def test_a_session_that_only_read_may_write_later(database: Database, session: Session) -> None:
    assert session.scalar(COUNT) == 0
    with database.session.begin() as other:
        other.add(a_user(first_name="Bia"))
    session.add(a_user(first_name="Ana"))
    session.flush()
    session.rollback()
    assert names(database) == {"Bia"}


@pytest.mark.parametrize("first_commits", [True, False])
def test_transactions_of_tasks_wait_for_each_other(async_database: AsyncDatabase, first_commits: bool) -> None:
    async def work() -> None:
        wrote, order = asyncio.Event(), list[str]()

        async def first() -> None:
            async with async_database.session() as session:
                session.add(a_user(first_name="Ana"))
                await session.flush()
                wrote.set()
                await asyncio.sleep(0.05)
                order.append("first ends")
                await (session.commit() if first_commits else session.rollback())

        async def second() -> None:
            await wrote.wait()
            async with async_database.session.begin() as session:
                # An uncommitted row of another transaction is never seen.
                assert await session.scalar(COUNT) == first_commits
                order.append("second reads")
                session.add(a_user(first_name="Bia"))

        await asyncio.gather(first(), second())
        assert order == ["first ends", "second reads"]
        found = {user.first_name for user in await read(User).all(async_database)}
        assert found == ({"Ana", "Bia"} if first_commits else {"Bia"})

    guarded(work)


def test_a_locked_row_is_locked_for_other_transactions(async_database: AsyncDatabase) -> None:
    async def check_in() -> bool:
        async with async_database.session.begin() as session:
            user = (await session.scalars(select(User).with_for_update())).one()
            if user.phone:
                return False
            await asyncio.sleep(0.01)
            user.phone = "checked in"
            return True

    async def work() -> None:
        await insert_many(User, [{"clerk_user_id": "a"}]).run(async_database)
        assert sorted(await asyncio.gather(*(check_in() for _ in range(8)))) == [False] * 7 + [True]

    guarded(work)


def test_queries_that_run_at_once_in_one_session_take_turns(async_session: AsyncSession) -> None:
    async def work() -> None:
        await async_session.connection()
        found = await asyncio.gather(*(read(User).all(async_session) for _ in range(8)))
        assert found == [[]] * 8

    guarded(work)


def test_threads_wait_for_each_other(database: Database) -> None:
    together = Barrier(8, timeout=GUARD_SECONDS)

    def request(number: int) -> int:
        together.wait()
        with database.session.begin() as session:
            session.add(a_user(first_name=str(number)))
            session.flush()
            seen = session.scalars(COUNT).one()
        if number % 2:
            insert_many(Gym, [{"name": str(number), "address": "", "since": ""}]).run(database)
        return seen

    with ThreadPoolExecutor(8) as pool:
        seen = sorted(pool.map(request, range(8), timeout=GUARD_SECONDS))
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8]
    assert len(read(Gym).all(database)) == 4


def test_a_task_that_would_wait_for_itself_gets_an_error_at_once(
    async_database: AsyncDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 1e9)

    async def work() -> None:
        async with async_database.session.begin() as session:
            session.add(a_user(email="ana@gym.example"))
            await session.flush()
            with pytest.raises(TransactionsOverlap, match=r"`INSERT INTO public.users …`") as caught:
                await read(User).all(async_database)
            assert "ana@gym.example" not in str(caught.value)
            with pytest.raises(TransactionsOverlap):
                async with async_database.session() as other:
                    await other.scalar(COUNT)
            # Its own session goes on, and its rows can be read there.
            assert len(await read(User).all(session)) == 1
        assert len(await read(User).all(async_database)) == 1

    guarded(work)


def test_a_test_that_would_wait_for_itself_gets_an_error_at_once(
    database: Database, async_database: AsyncDatabase, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 1e9)
    session.add(a_user())
    session.flush()
    with pytest.raises(TransactionsOverlap):
        read(User).all(database)
    session.commit()
    assert len(read(User).all(database)) == 1

    async def in_the_loop() -> None:
        read(User).all(database)

    async def work() -> None:
        async with async_database.session.begin() as other:
            other.add(a_user())
            await other.flush()
            # A wait here would block the loop in which the other one has to end.
            with pytest.raises(TransactionsOverlap):
                await asyncio.create_task(in_the_loop())

    guarded(work)


def test_a_wait_for_a_transaction_that_does_nothing_ends(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 0.2)
    wrote, done = Event(), Event()

    def hold() -> None:
        with database.session.begin() as session:
            session.add(a_user())
            session.flush()
            wrote.set()
            assert done.wait(GUARD_SECONDS)

    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(hold)
        assert wrote.wait(GUARD_SECONDS)
        with pytest.raises(TransactionsOverlap):
            users(database)
        done.set()
        held.result(GUARD_SECONDS)
    assert users(database) == 1


def test_a_cancelled_task_undoes_its_rows_and_others_go_on(async_database: AsyncDatabase) -> None:
    async def slow() -> None:
        async with async_database.session.begin() as session:
            session.add(a_user())
            await session.flush()
            await session.execute(text("SELECT pg_sleep(30)"))

    async def work() -> None:
        task = asyncio.create_task(slow())
        waiting = asyncio.create_task(insert_many(User, [{"clerk_user_id": "a"}]).run(async_database))
        await asyncio.sleep(0.1)
        task.cancel()
        assert await waiting == 1
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [user.clerk_user_id for user in await read(User).all(async_database)] == ["a"]

    guarded(work)


def test_a_task_that_is_cancelled_while_it_waits_leaves_no_trace(async_database: AsyncDatabase) -> None:
    async def work() -> None:
        async with async_database.session() as session:
            session.add(a_user(first_name="Ana"))
            await session.flush()
            waiting = asyncio.create_task(insert_many(User, [{"clerk_user_id": "a"}]).run(async_database))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await session.commit()
        assert [user.first_name for user in await read(User).all(async_database)] == ["Ana"]

    guarded(work)


# --- Event loops and lost connections --------------------------------------------------------------------------------


def test_a_connection_that_was_awaited_in_one_loop_can_be_awaited_in_the_next(kit: RolledBackDatabases) -> None:
    async def wait_for_each_other() -> int:
        async with kit.async_database.session() as session:
            process = (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            await asyncio.gather(*(session.execute(text("SELECT pg_sleep(0.01)")) for _ in range(3)))
            return int(process)

    processes = set()
    for _ in range(2):
        processes |= {asyncio.run(wait_for_each_other()) for _ in range(2)}
        kit.end()
    assert len(processes) == 1


def test_a_loop_in_another_thread_and_the_test_take_turns(database: Database, async_database: AsyncDatabase) -> None:
    async def app() -> None:
        for _ in range(20):
            async with async_database.session.begin() as session:
                session.add(a_user())
                await session.flush()
                await asyncio.sleep(0)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, app())
        for _ in range(20):
            insert_many(User, [{"clerk_user_id": str(random.random())}]).run(database)  # noqa: S311, no secret
        running.result(GUARD_SECONDS)
    assert users(database) == 40


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")
def test_a_test_whose_loop_was_closed_during_a_statement_ends_at_once(
    kit: RolledBackDatabases, committed_database: Database
) -> None:
    session = kit.async_database.session()
    loop = asyncio.new_event_loop()
    task = loop.create_task(session.execute(text("SELECT pg_sleep(30)")))
    asleep = text("SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(30)' AND state = 'active'")
    with committed_database.engine.connect() as connection:
        while not connection.scalar(asleep):
            loop.run_until_complete(asyncio.sleep(0.01))
            connection.rollback()
    assert not task.done()
    loop.close()

    with pytest.raises(TransactionInterrupted):
        users(kit.database)
    asyncio.run(asyncio.wait_for(session.close(), timeout=5))
    kit.end()
    assert users(kit.database) == 0


def test_a_lost_connection_is_an_error_and_the_next_test_has_another(
    kit: RolledBackDatabases, committed_database: Database
) -> None:
    with kit.database.session.begin() as session:
        session.add(a_user())
        process = session.scalar(text("SELECT pg_backend_pid()"))
    with committed_database.engine.connect() as connection:
        connection.execute(text(f"SELECT pg_terminate_backend({process}, 5000)"))
    with pytest.raises(DBAPIError):
        users(kit.database)
    with pytest.raises(TransactionInterrupted):
        users(kit.database)
    kit.end()
    assert users(kit.database) == 0


def test_a_test_may_take_longer_than_the_role_allows_a_transaction_to_be_idle(committed_database: Database) -> None:
    with committed_database.engine.begin() as connection:
        name = committed_database.address.database
        connection.execute(text(f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '50ms'"))
    committed_database.engine.dispose()
    kit = RolledBackDatabases(committed_database)
    assert users(kit.database) == 0
    time.sleep(0.2)
    assert users(kit.database) == 0
    kit.close()


# --- What one transaction can and cannot be --------------------------------------------------------------------------


def test_tables_can_be_created_and_are_rolled_back(kit: RolledBackDatabases, committed_database: Database) -> None:
    with kit.database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE lockers (id integer)"))
    with kit.database.engine.begin() as connection:
        connection.execute(text("INSERT INTO lockers VALUES (1)"))
    kit.end()
    with committed_database.engine.connect() as connection, pytest.raises(ProgrammingError):
        connection.execute(text("SELECT * FROM lockers"))


def test_the_time_of_the_transaction_stands_still_and_the_clock_goes_on(database: Database) -> None:
    def times() -> tuple[object, object]:
        with database.session() as session:
            return tuple(session.execute(text("SELECT now(), clock_timestamp()")).one())

    (first_now, first_clock), (second_now, second_clock) = times(), times()
    assert first_now == second_now
    assert first_clock != second_clock


def test_a_connection_in_autocommit_commits_each_statement(database: Database) -> None:
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("INSERT INTO users (clerk_user_id) VALUES ('a')"))
        assert users(database) == 1
        with pytest.raises(IntegrityError):
            connection.execute(text("INSERT INTO users (clerk_user_id) VALUES ('a')"))
        connection.execute(delete(User))
        connection.execute(text("INSERT INTO users (clerk_user_id) VALUES (:id)"), [{"id": "a"}, {"id": "b"}])
        assert users(database) == 2
        connection.execute(delete(User))
    assert users(database) == 0
    # The next checkout begins transactions again.
    with database.engine.connect() as connection:
        connection.execute(text("INSERT INTO users (clerk_user_id) VALUES ('a')"))
        connection.rollback()
    assert users(database) == 0


@pytest.mark.parametrize("statement", ["COMMIT", "rollback", "  BEGIN", "START TRANSACTION", "PREPARE TRANSACTION 'a'"])
def test_a_statement_that_would_end_the_transaction_is_refused(session: Session, statement: str) -> None:
    with pytest.raises(TransactionControlled):
        session.execute(text(statement))


@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ"])
def test_another_isolation_level_is_refused(database: Database, async_database: AsyncDatabase, level: str) -> None:
    with pytest.raises(TransactionControlled, match=level), database.session() as session:
        session.connection(execution_options={"isolation_level": level})

    async def work() -> None:
        async with async_database.session() as session:
            await session.connection(execution_options={"isolation_level": level})

    with pytest.raises(TransactionControlled, match=level):
        asyncio.run(work())
    assert users(database) == 0


@pytest.mark.parametrize(
    ("sql", "writes"),
    [
        ("SELECT users.id, users.updated_at FROM users", False),
        ("\n (select 1) union (select 2)", False),
        ("WITH page AS MATERIALIZED (SELECT 1) SELECT * FROM page", False),
        ("EXPLAIN (ANALYZE, BUFFERS) SELECT 1", False),
        ("SELECT id FROM users FOR UPDATE", True),
        ("SELECT id FROM users FOR KEY SHARE", True),
        ("WITH gone AS (DELETE FROM users RETURNING id) SELECT * FROM gone", True),
        ("SELECT pg_advisory_xact_lock(1)", True),
        ("SELECT set_config('a.b', 'c', true)", True),
        ("SET LOCAL statement_timeout = 1", True),
        ("SAVEPOINT a", True),
        ("ROLLBACK TO SAVEPOINT a", True),
        ("TRUNCATE users", True),
    ],
)
def test_a_statement_that_may_write_is_known_by_its_text(sql: str, writes: bool) -> None:
    assert may_write(sql) == writes


# --- Everything at once ----------------------------------------------------------------------------------------------

STEPS = "wfrcxe"
"""A bulk write, one that fails, a read, and sessions that commit, roll back and fail."""


@contextmanager
def failing() -> Iterator[None]:
    with pytest.raises((IntegrityError, RowRejected)):
        yield


@dataclass
class Chance:
    """What eight tasks and four threads do, in an order that chance decides."""

    plans: list[str]

    def rows(self, kinds: str) -> set[str]:
        return {
            f"{number}.{step}"
            for number, plan in enumerate(self.plans)
            for step, kind in enumerate(plan)
            if kind in kinds
        }

    @cached_property
    def lost(self) -> set[str]:
        return self.rows("fxe")

    def thread(self, number: int, database: Database) -> None:
        for step, kind in enumerate(self.plans[number]):
            name = f"{number}.{step}"
            if kind == "w":
                insert_many(User, [{"clerk_user_id": name}]).run(database)
            elif kind == "f":
                with failing():
                    insert_many(User, [{"clerk_user_id": name}, {"clerk_user_id": "taken"}]).run(database)
            elif kind == "r":
                assert not {user.clerk_user_id for user in read(User).all(database)} & self.lost
            else:
                with database.session() as session:
                    assert not set(session.scalars(select(User.clerk_user_id))) & self.lost
                    session.add(User(clerk_user_id=name))
                    session.flush()
                    if kind == "c":
                        session.commit()
                    elif kind == "e":
                        with failing():
                            session.execute(insert(User).values(clerk_user_id="taken"))

    async def task(self, number: int, database: AsyncDatabase) -> None:
        for step, kind in enumerate(self.plans[number]):
            name = f"{number}.{step}"
            if kind == "w":
                await insert_many(User, [{"clerk_user_id": name}]).run(database)
            elif kind == "f":
                with failing():
                    await insert_many(User, [{"clerk_user_id": name}, {"clerk_user_id": "taken"}]).run(database)
            elif kind == "r":
                assert not {user.clerk_user_id for user in await read(User).all(database)} & self.lost
            else:
                async with database.session() as session:
                    assert not set(await session.scalars(select(User.clerk_user_id))) & self.lost
                    session.add(User(clerk_user_id=name))
                    await session.flush()
                    await asyncio.sleep(0)
                    if kind == "c":
                        await session.commit()
                    elif kind == "e":
                        with failing():
                            await session.execute(insert(User).values(clerk_user_id="taken"))

    async def tasks(self, database: AsyncDatabase) -> None:
        await asyncio.gather(*(self.task(number, database) for number in range(8)))


@pytest.mark.parametrize("seed", range(4))
def test_whatever_runs_at_once_only_commits_stay_and_uncommitted_rows_are_never_seen(
    database: Database, async_database: AsyncDatabase, seed: int
) -> None:
    dice = random.Random(seed)  # noqa: S311, no secret
    chance = Chance(["".join(dice.choices(STEPS, k=12)) for _ in range(12)])
    insert_many(User, [{"clerk_user_id": "taken"}]).run(database)
    with ThreadPoolExecutor(5) as pool:
        running = [pool.submit(chance.thread, number, database) for number in range(8, 12)]
        running.append(pool.submit(asyncio.run, chance.tasks(async_database)))
        for future in running:
            future.result(60)
    assert {user.clerk_user_id for user in read(User).all(database)} == {"taken"} | chance.rows("wc")


@pytest.mark.parametrize("left", ["LOCK TABLE users", "SELECT pg_advisory_lock(7)"])
def test_a_lock_that_another_session_left_is_named_with_its_holder(
    kit: RolledBackDatabases, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tatame_db.testing.shared.LOCK_TIMEOUT_SECONDS", 0.2)
    kit.close()
    with Database(kit.database.address, application_name="an earlier test") as other, other.engine.connect() as holder:
        holder.execute(text(left))
        with kit.database.session() as session:
            waits = "UPDATE users SET email = NULL" if "users" in left else "SELECT pg_advisory_xact_lock(7)"
            with pytest.raises(OperationalError) as caught:
                session.execute(text(waits))
    [note] = getattr(caught.value.orig, "__notes__", [])
    assert "of an earlier test, idle in transaction since" in note
    assert note.endswith("holds users" if "users" in left else "holds advisory lock 7")


def test_an_advisory_lock_of_a_test_ends_with_it(kit: RolledBackDatabases) -> None:
    with kit.database.session() as session:
        session.execute(text("SELECT pg_advisory_lock(7)"))
    kit.end()
    with Database(kit.database.address) as other, other.engine.connect() as connection:
        assert connection.scalar(text("SELECT pg_try_advisory_lock(7)"))
