"""`run_in_transaction` with real deadlocks, serialization failures, and connections that are lost."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Integer, String, Update, cast, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tatame_db.database import retries
from tatame_db.database.address import readable
from tatame_db.database.errors import OutcomeUnknown
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.schema import User


@pytest.fixture
def two_users(address: URL) -> URL:
    """The address of a database with the users `a` and `b`."""
    with Database(address) as database, database.session.begin() as session:
        session.add_all([User(clerk_user_id="a", phone="0"), User(clerk_user_id="b", phone="0")])
    return address


def phones(address: URL) -> list[str | None]:
    with Database(address) as database, database.session() as session:
        return list(session.scalars(select(User.phone).order_by(User.clerk_user_id)))


def add_one(clerk_user_id: str) -> Update:
    """Return the statement that adds one to a user's phone number."""
    number = cast(cast(User.phone, Integer) + 1, String)
    return update(User).where(User.clerk_user_id == clerk_user_id).values(phone=number)


# Conflicts


def test_deadlocks_are_tried_again_until_all_are_committed(two_users: URL) -> None:
    met, committed = threading.Barrier(2), threading.Event()
    attempts: list[str] = []

    def add(first: str, second: str) -> Callable[[Session], None]:
        def work(session: Session) -> None:
            attempts.append(first)
            if attempts.count(first) == 2:
                # The other one may not have woken up yet, and would meet this one in a second deadlock.
                committed.wait()
            session.execute(add_one(first))
            if len(attempts) <= 2:
                met.wait()
            session.execute(add_one(second))

        return work

    with Database(two_users) as database, ThreadPoolExecutor(2) as pool:
        both = [pool.submit(database.run_in_transaction, add(*order)) for order in (("a", "b"), ("b", "a"))]
        for done in both:
            done.add_done_callback(lambda _: committed.set())
        for done in both:
            done.result()
    assert phones(two_users) == ["2", "2"]
    assert len(attempts) == 3


def test_deadlocks_are_tried_again_for_asyncio(two_users: URL) -> None:
    attempts: list[str] = []
    locked: list[str] = []

    async def main() -> tuple[str, str]:
        both, committed = asyncio.Event(), asyncio.Event()
        async with AsyncDatabase(two_users) as database:

            def add(first: str, second: str) -> Callable[[AsyncSession], Awaitable[str]]:
                async def work(session: AsyncSession) -> str:
                    attempts.append(first)
                    if attempts.count(first) == 2:
                        await committed.wait()
                    await session.execute(add_one(first))
                    locked.append(first)
                    if len(locked) == 2:
                        both.set()
                    await both.wait()
                    await session.execute(add_one(second))
                    return first

                return work

            async def run(first: str, second: str) -> str:
                result = await database.run_in_transaction(add(first, second))
                committed.set()
                return result

            first, second = await asyncio.gather(run("a", "b"), run("b", "a"))
            return first, second

    assert asyncio.run(main()) == ("a", "b")
    assert phones(two_users) == ["2", "2"]
    assert len(attempts) == 3


def conflicting(address: URL, attempts: list[int], conflicts: int) -> Callable[[Session], int]:
    """Return work that fails to serialize as often as this: another transaction changes what it has read."""

    def work(session: Session) -> int:
        attempts.append(len(attempts))
        session.scalars(select(User.phone)).all()
        if len(attempts) <= conflicts:
            with Database(address) as other, other.session.begin() as other_session:
                other_session.execute(add_one("a"))
        session.execute(add_one("a"))
        return len(attempts)

    return work


def test_a_serialization_failure_is_tried_again(two_users: URL, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tatame_db.database")
    attempts: list[int] = []
    with Database(two_users) as database:
        work = conflicting(two_users, attempts, conflicts=2)
        assert database.run_in_transaction(work, isolation_level="REPEATABLE READ") == 3
        # The level belongs to that transaction.
        with database.session() as session:
            assert session.scalar(text("SHOW transaction_isolation")) == "read committed"
    assert phones(two_users) == ["3", "0"]
    logged = [record.message for record in caplog.records if record.name == "tatame_db.database"]
    assert [("40001" in message, "attempt" in message) for message in logged] == [(True, True)] * 2


def test_a_conflict_that_only_the_commit_finds_is_tried_again(two_users: URL) -> None:
    attempts: list[int] = []

    def work(session: Session) -> None:
        attempts.append(1)
        session.scalars(select(User.phone)).all()
        session.execute(add_one("a"))
        if len(attempts) == 1:
            with Database(two_users) as other, other.session() as second:
                second.connection(execution_options={"isolation_level": "SERIALIZABLE"})
                second.scalars(select(User.phone)).all()
                second.execute(add_one("b"))
                second.commit()

    with Database(two_users) as database:
        database.run_in_transaction(work, isolation_level="SERIALIZABLE")
    assert phones(two_users) == ["1", "1"]
    assert len(attempts) == 2


def test_the_last_conflict_reaches_the_caller(two_users: URL) -> None:
    attempts: list[int] = []
    with Database(two_users) as database:
        work = conflicting(two_users, attempts, conflicts=10)
        with pytest.raises(OperationalError) as caught:
            database.run_in_transaction(work, retries=2, isolation_level="REPEATABLE READ")
        assert isinstance(caught.value.orig, psycopg.errors.SerializationFailure)
        assert caught.value.__notes__ == ["This was attempt 3 of 3; all of them were rolled back."]
        with pytest.raises(OperationalError):
            database.run_in_transaction(work, retries=0, isolation_level="REPEATABLE READ")
    assert len(attempts) == 4
    # What the conflicting transactions wrote, and nothing of this transaction.
    assert phones(two_users) == ["4", "0"]


def test_the_pauses_grow_and_vary() -> None:
    error = DBAPIError.instance("SELECT 1", None, psycopg.errors.DeadlockDetected(), psycopg.Error)
    assert isinstance(error, DBAPIError)

    def pauses() -> list[float]:
        attempts = retries.Attempts(lambda _: None, 12)
        return [attempts.pause_seconds(error) for _ in range(12)]

    several = [pauses() for _ in range(40)]
    means = [sum(column) / len(column) for column in zip(*several, strict=True)]
    assert means[:6] == sorted(means[:6])
    assert len({pause[0] for pause in several}) > 1
    assert max(map(max, several)) <= 3


# Other failures


def test_other_errors_roll_back_and_pass(two_users: URL) -> None:
    attempts: list[int] = []

    def duplicate(session: Session) -> None:
        attempts.append(1)
        session.execute(add_one("a"))
        session.add(User(clerk_user_id="b"))

    def broken(session: Session) -> None:
        attempts.append(1)
        session.execute(add_one("a"))
        raise LookupError("of the caller")

    with Database(two_users) as database:
        with pytest.raises(IntegrityError):
            database.run_in_transaction(duplicate)
        with pytest.raises(LookupError):
            database.run_in_transaction(broken)
    assert phones(two_users) == ["0", "0"]
    assert len(attempts) == 2


def terminate(address: URL, process: int) -> None:
    with psycopg.connect(readable(address), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 10000)", [process])


def test_a_commit_whose_connection_was_lost_has_an_unknown_outcome(two_users: URL) -> None:
    attempts: list[int] = []

    def work(session: Session) -> None:
        attempts.append(1)
        session.execute(add_one("a"))
        [process] = session.execute(text("SELECT pg_backend_pid()")).one()
        terminate(two_users, process)

    async def work_async(session: AsyncSession) -> None:
        await session.run_sync(work)

    async def main() -> None:
        async with AsyncDatabase(two_users) as database:
            with pytest.raises(OutcomeUnknown, match="work_async"):
                await database.run_in_transaction(work_async)

    with Database(two_users) as database:
        with pytest.raises(OutcomeUnknown, match="work"):
            database.run_in_transaction(work)
        assert database.run_in_transaction(lambda session: session.scalar(text("SELECT 1"))) == 1
    asyncio.run(main())
    assert len(attempts) == 2


def test_a_connection_lost_before_the_commit_has_a_known_outcome(two_users: URL) -> None:
    def work(session: Session) -> None:
        session.execute(add_one("a"))
        [process] = session.execute(text("SELECT pg_backend_pid()")).one()
        terminate(two_users, process)
        session.execute(add_one("b"))

    with Database(two_users) as database, pytest.raises(OperationalError):
        database.run_in_transaction(work)
    assert phones(two_users) == ["0", "0"]


def test_work_that_commits_itself_is_not_run_twice(two_users: URL) -> None:
    attempts: list[int] = []

    def work(session: Session) -> None:
        attempts.append(1)
        session.execute(add_one("a"))
        session.commit()
        session.execute(add_one("a"))

    with Database(two_users) as database, pytest.raises(InvalidRequestError):
        database.run_in_transaction(work)
    assert phones(two_users) == ["1", "0"]
    assert len(attempts) == 1


# The function


def test_a_function_of_the_other_face_is_refused(two_users: URL) -> None:
    async def for_asyncio(session: Any) -> None:
        await session.execute(add_one("a"))

    def for_threads(session: Session) -> bool:
        return session.is_active

    def of_a_coroutine(session: Session) -> object:
        return for_asyncio(session)

    async def main() -> None:
        async with AsyncDatabase(two_users) as database:
            with pytest.raises(TypeError, match="expects an async function"):
                await database.run_in_transaction(for_threads)  # type: ignore[arg-type]

    asyncio.run(main())
    with Database(two_users) as database:
        with pytest.raises(TypeError, match="not an async function"):
            _ = database.run_in_transaction(for_asyncio)
        with pytest.raises(TypeError, match="returned an awaitable"):
            database.run_in_transaction(of_a_coroutine)
    assert phones(two_users) == ["0", "0"]


def test_retries_are_not_negative(two_users: URL) -> None:
    with Database(two_users) as database, pytest.raises(ValueError, match="retries"):
        database.run_in_transaction(Session.flush, retries=-1)


def test_each_attempt_has_a_session_of_its_own_and_the_connection_goes_back(two_users: URL) -> None:
    seen: list[Session] = []

    def work(session: Session) -> User:
        assert not session.new
        seen.append(session)
        return session.scalars(select(User).limit(1)).one()

    with Database(two_users, pool_size=1, pool_timeout_seconds=1) as database:
        for _ in range(3):
            assert database.run_in_transaction(work).clerk_user_id == "a"
        assert len(set(seen)) == 3
        assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
