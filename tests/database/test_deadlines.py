"""Deadlines of reads, sync and async."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from sqlalchemy import URL, Engine, Text, cast, func, text

from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries.errors import DeadlineExceeded
from tatame_db.queries.read import Read, query, read
from tatame_db.queries.write import insert_many
from tatame_db.schema import Gym

METHODS = ["first", "one", "all", "count", "exists", "explain"]


@query
def sleepy_gyms(seconds: float) -> Read[Gym]:
    return read(Gym).where(cast(func.pg_sleep(seconds), Text) == "")


@pytest.fixture
def address(address: URL) -> URL:
    """The address of a database with one gym."""
    with Database(address) as database:
        insert_many(Gym, [{"name": "Tatame Norte", "address": "Rua 1", "since": "2015-03-01"}]).run(database)
    return address


def sleeping(engine: Engine) -> int:
    with engine.connect() as connection:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep%'"
        return int(connection.scalar(text(f"{asked} AND pid <> pg_backend_pid()")) or 0)


@pytest.mark.parametrize("method", METHODS)
def test_a_read_ends_at_its_deadline_whatever_it_returns(address: URL, engine: Engine, method: str) -> None:
    limited: Any = sleepy_gyms.within(deadline_ms=200)
    with Database(address) as database:
        for _ in range(2):
            with pytest.raises(DeadlineExceeded) as caught:
                getattr(limited, method)(database, seconds=60)
            assert caught.value.deadline_ms == 200
            assert "sleepy_gyms" in caught.value.name
        assert sleeping(engine) == 0
        assert getattr(limited, method)(database, seconds=0)


@pytest.mark.parametrize("method", METHODS)
def test_an_async_read_ends_at_its_deadline_whatever_it_returns(address: URL, engine: Engine, method: str) -> None:
    limited: Any = sleepy_gyms.within(deadline_ms=200)

    async def main() -> None:
        async with AsyncDatabase(address) as database:
            for _ in range(2):
                with pytest.raises(DeadlineExceeded):
                    await getattr(limited, method)(database, seconds=60)
            assert await getattr(limited, method)(database, seconds=0)

    asyncio.run(main())
    assert sleeping(engine) == 0


def test_a_read_with_a_deadline_shares_the_statements_of_the_read_without(address: URL) -> None:
    with Database(address) as database:
        limited = sleepy_gyms.within(deadline_ms=10_000)
        assert limited.first(database, 0)
        assert limited._statements is sleepy_gyms._statements
        assert sleepy_gyms.deadline_ms is None
        assert limited.within(deadline_ms=5_000).deadline_ms == 5_000


def test_a_description_made_of_a_read_with_a_deadline_keeps_it() -> None:
    assert read(Gym).within(deadline_ms=100).where(Gym.id == 1).deadline_ms == 100


@pytest.mark.parametrize("deadline_ms", [0, -1, 2**31, 10**20, math.inf, math.nan, 1.5, True, "9"])
def test_a_deadline_is_a_number_of_milliseconds(deadline_ms: Any) -> None:
    with pytest.raises(ValueError, match="from 1 to"):
        read(Gym).within(deadline_ms=deadline_ms)


def test_a_deadline_may_be_in_24_days(address: URL) -> None:
    names = read(Gym).within(deadline_ms=2**31 - 1)

    async def main() -> list[Gym]:
        async with AsyncDatabase(address) as database:
            return await names.all(database)

    with Database(address) as database:
        assert names.all(database) == asyncio.run(main()) == read(Gym).all(database) != []
