"""Sessions whose prepared statements a migration makes stale, as when a key becomes bigint."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest
from sqlalchemy import URL, Engine, select, text
from sqlalchemy.exc import NotSupportedError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tatame_db import AsyncDatabase, Database
from tatame_db.schema import Checkin

POOL_SIZE = 5


def prepare(database: Database) -> None:
    """Let each connection of the pool prepare the INSERT of the ORM."""
    for _ in range(6):
        with ExitStack() as stack:
            for session in [stack.enter_context(database.session.begin()) for _ in range(POOL_SIZE)]:
                add(session)


def add(session: Session) -> int:
    row = Checkin(date="2026-01-01")
    session.add(row)
    session.flush()
    return row.id


def change_type(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE checkins ALTER COLUMN id TYPE bigint"))


def test_the_first_statement_of_a_transaction_notices_no_change_of_a_type(address: URL, engine: Engine) -> None:
    with Database(address, pool_size=POOL_SIZE) as database:
        prepare(database)
        change_type(engine)
        prepare(database)
        with database.session.begin() as session:
            assert session.scalars(select(Checkin.date).distinct()).all() == ["2026-01-01"]
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            query = text("SELECT max(id) FROM checkins")
            largest = [connection.scalar(query) for _ in range(7)]
            with engine.begin() as other:
                other.execute(text("ALTER TABLE checkins ALTER COLUMN id TYPE numeric"))
            assert connection.scalar(query) == largest[0] == 12 * POOL_SIZE


def test_a_later_statement_fails_once_for_each_connection_and_a_repeated_transaction_does_not(
    address: URL, engine: Engine
) -> None:
    def work(session: Session) -> int:
        session.execute(text("SELECT 1"))
        return add(session)

    with Database(address, pool_size=POOL_SIZE) as database:
        prepare(database)
        change_type(engine)
        with ExitStack() as stack:
            sessions = [stack.enter_context(database.session()) for _ in range(POOL_SIZE)]
            for session in sessions:
                session.execute(text("SELECT 1"))
            for session in sessions:
                with pytest.raises(NotSupportedError, match="cached plan"):
                    add(session)
            for session in sessions:
                session.rollback()
                work(session)
                session.commit()
        prepare(database)
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE checkins ALTER COLUMN id TYPE integer"))
        before = database.run_in_transaction(add)
        prepare(database)
        change_type(engine)
        assert database.run_in_transaction(work) > before


def test_the_same_holds_for_asyncio(address: URL, engine: Engine) -> None:
    asyncio.run(use_async(address, engine))


async def use_async(address: URL, engine: Engine) -> None:
    async def first(session: AsyncSession) -> None:
        session.add(Checkin(date="2026-01-01"))
        await session.flush()

    async def later(session: AsyncSession) -> None:
        await session.execute(text("SELECT 1"))
        await first(session)

    async with AsyncDatabase(address, pool_size=1) as database:

        async def prepared() -> None:
            for _ in range(6):
                async with database.session.begin() as session:
                    await first(session)

        await prepared()
        change_type(engine)
        await prepared()
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE checkins ALTER COLUMN id TYPE integer"))
        with pytest.raises(NotSupportedError, match="cached plan"):
            async with database.session.begin() as session:
                await later(session)
        await prepared()
        change_type(engine)
        await database.run_in_transaction(later)
