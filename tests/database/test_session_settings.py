"""Values mean the same whatever the role, the database or the address set, and after a session changed a setting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import URL, Double, Interval, func, literal_column, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tatame_db.database.dialect import quoted
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries.read import Read, query, read
from tatame_db.queries.write import insert_many
from tatame_db.schema import Gym
from tatame_db.testing.runs import Run


class Elsewhere(DeclarativeBase):
    """Tables that the package does not have."""


class Measured(Elsewhere):
    __tablename__ = "readings"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    weight: Mapped[float] = mapped_column(Double)
    day: Mapped[date]
    moment: Mapped[datetime]
    lasted: Mapped[timedelta] = mapped_column(Interval)
    photo: Mapped[bytes]


# mypy expects the models of the package.
Reading: Any = Measured

ROWS = [
    {
        "id": 1,
        "name": "Fé \\ 'x'",
        "weight": 0.1 + 0.2,
        "day": date(2024, 2, 1),
        "moment": datetime(1969, 12, 31, 23, 59, 59, 1),
        "lasted": timedelta(days=-3, seconds=1, microseconds=5),
        "photo": b"\x00\xff\\'",
    }
]
"""A row whose every value some setting would change."""

HOSTILE = (
    *("DateStyle = 'SQL, DMY'", "DateStyle = German", "DateStyle = 'Postgres, MDY'", "DateStyle = 'ISO, DMY'"),
    *("IntervalStyle = sql_standard", "IntervalStyle = iso_8601", "IntervalStyle = postgres_verbose"),
    *("extra_float_digits = -15", "extra_float_digits = 0", "bytea_output = escape", "TimeZone = 'Asia/Kolkata'"),
    *("client_encoding = LATIN1", "client_encoding = SQL_ASCII", "client_encoding = EUC_JP"),
    *("standard_conforming_strings = off", "array_nulls = off", "transform_null_equals = on"),
    *("default_transaction_isolation = serializable", "plan_cache_mode = force_generic_plan", "row_security = off"),
)


@pytest.fixture
def readings(_tatame_run: Run) -> Generator[URL]:
    """The address of a database with a table of one row."""
    address = _tatame_run.clone()
    with Database(address) as database:
        Elsewhere.metadata.create_all(database.engine)
        insert_many(Reading, ROWS).run(database)
    yield address
    _tatame_run.sandbox.drop(str(address.database))


def values(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ROWS[0]}


def reads_of_threads(address: URL) -> list[dict[str, Any]]:
    """Read before and after the statement is prepared, in a session and as a stream."""
    with Database(address) as database:
        found = [row for _ in range(3) for row in read(Reading).all(database)]
        found += read(Reading).where(Reading.name == ROWS[0]["name"], Reading.moment == ROWS[0]["moment"]).all(database)
        found += read(Reading).stream(database)
        with database.session() as session:
            found += read(Reading).all(session)
            return [*map(values, found), *map(values, session.query(Reading))]


async def reads_of_tasks(address: URL) -> list[dict[str, Any]]:
    async with AsyncDatabase(address) as database:
        found = [row for _ in range(4) for row in await read(Reading).all(database)]
        found += await read(Reading).where(Reading.name == ROWS[0]["name"]).all(database)
        found += [row async for row in read(Reading).stream(database)]
        async with database.session() as session:
            found += await read(Reading).all(session)
        return [*map(values, found)]


@pytest.mark.parametrize("setting", HOSTILE)
def test_no_setting_of_a_database_changes_a_value(readings: URL, setting: str) -> None:
    with Database(readings) as database, database.engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {quoted(str(readings.database))} SET {setting}"))
        connection.commit()
    assert reads_of_threads(readings) == ROWS * 7
    assert asyncio.run(reads_of_tasks(readings)) == ROWS * 7


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_no_encoding_of_an_address_changes_a_value(readings: URL, encoding: str) -> None:
    address = readings.update_query_dict({"client_encoding": encoding})
    assert reads_of_threads(address) == ROWS * 7
    assert asyncio.run(reads_of_tasks(address)) == ROWS * 7


CHANGES = ["client_encoding = LATIN1", "DateStyle = German", "IntervalStyle = iso_8601", "TimeZone = 'Asia/Kolkata'"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_session_leaves_no_changed_setting_to_the_next_caller(readings: URL, change: str) -> None:
    with Database(readings, pool_size=1) as database:
        with database.session.begin() as session:
            session.execute(text(f"SET {change}"))
        assert [values(row) for row in read(Reading).all(database)] == ROWS
        assert database.statistics().in_use == 0


@pytest.mark.parametrize("change", CHANGES)
def test_a_task_leaves_no_changed_setting_to_the_next_caller(readings: URL, change: str) -> None:
    async def run() -> None:
        async with AsyncDatabase(readings, pool_size=1) as database:
            async with database.session.begin() as session:
                await session.execute(text(f"SET {change}"))
            await insert_many(Gym, [{"name": "Fé €", "address": "x", "since": "y"}]).run(database)
            assert [gym.name for gym in await read(Gym).all(database)] == ["Fé €"]
            assert [values(row) for row in await read(Reading).all(database)] == ROWS

    asyncio.run(run())


STATE = select(
    literal_column("current_user"),
    func.current_setting("app.gym", literal_column("true")),
    func.current_setting("search_path"),
)
LASTING = [
    "SET ROLE pg_monitor",
    "SET SESSION AUTHORIZATION pg_monitor",
    "SET app.gym = '5'",
    "SET search_path = pg_catalog",
    "SELECT set_config('app.gym', '5', false)",
    "SELECT 1; SET ROLE pg_monitor",
    "DO $$ BEGIN SET app.gym = '5'; END $$",
]


@query
def gym_set(*, is_local: bool) -> Read[Gym]:
    return read(Gym).where(func.set_config("app.gym", "5", is_local) == "5")


@pytest.mark.parametrize("change", LASTING)
def test_a_session_leaves_neither_its_role_nor_its_settings_to_the_next_caller(address: URL, change: str) -> None:
    with Database(address, pool_size=1) as database:
        with database.session() as session:
            before = session.execute(STATE).one()
        uses: list[Callable[[Session], object]] = [
            lambda session: session.execute(text(change)),
            lambda session: session.connection().exec_driver_sql(change),
        ]
        for use in uses:
            with database.session.begin() as session:
                use(session)
            with database.session() as session:
                assert session.execute(STATE).one() == before


@pytest.mark.parametrize("change", LASTING)
def test_a_task_leaves_neither_its_role_nor_its_settings_to_the_next_caller(address: URL, change: str) -> None:
    async def run() -> None:
        async with AsyncDatabase(address, pool_size=1) as database:
            async with database.session() as session:
                before = (await session.execute(STATE)).one()
            async with database.session.begin() as session:
                await session.execute(text(change))
            async with database.session() as session:
                assert (await session.execute(STATE)).one() == before

    asyncio.run(run())


def test_a_read_leaves_no_setting_to_the_next_caller(address: URL) -> None:
    async def run() -> None:
        async with AsyncDatabase(address, pool_size=1) as database:
            await insert_many(Gym, [{"name": "Norte", "address": "x", "since": "y"}]).run(database)
            for use in (gym_set.all(database, is_local=False), _streamed(database)):
                assert await use
                async with database.session() as session:
                    assert not (await session.execute(STATE)).one()[1]
            async with database.session.begin() as session:
                await gym_set.all(session, is_local=False)
            async with database.session() as session:
                assert not (await session.execute(STATE)).one()[1]

    asyncio.run(run())
    with Database(address, pool_size=1) as database:
        for _ in range(3):
            assert gym_set.all(database, is_local=False)
            with database.session() as session:
                assert not session.execute(STATE).one()[1]
            assert len(list(gym_set.stream(database, is_local=False))) == 1
            with database.session.begin() as session:
                assert not session.execute(STATE).one()[1]
                gym_set.all(session, is_local=False)
                assert session.execute(STATE).one()[1] == "5"


async def _streamed(database: AsyncDatabase) -> list[Any]:
    return [row async for row in gym_set.stream(database, is_local=False)]


@pytest.mark.parametrize("change", ["SET LOCAL ROLE pg_read_all_data", "SELECT set_config('app.gym', '5', true)"])
def test_a_local_change_costs_no_new_connection(address: URL, change: str) -> None:
    process = select(func.pg_backend_pid())
    with Database(address, pool_size=1) as database:
        with database.session.begin() as session:
            session.execute(text(change))
            assert session.execute(STATE).one()[:2] != (address.username, None)
            gym_set.all(session, is_local=True)
            first = session.scalar(process)
        with database.session() as session:
            assert session.scalar(process) == first


def test_a_database_of_another_encoding_is_read_as_text(readings: URL) -> None:
    with Database(readings) as database, database.engine.connect() as connection:
        plain = connection.execution_options(isolation_level="AUTOCOMMIT")
        plain.execute(text("CREATE DATABASE ascii_only ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"))
    address = readings.set(database="ascii_only")
    try:
        with Database(address) as database:
            Elsewhere.metadata.create_all(database.engine)
            insert_many(Reading, ROWS).run(database)
        assert reads_of_threads(address) == ROWS * 7
        assert asyncio.run(reads_of_tasks(address)) == ROWS * 7
    finally:
        with Database(readings) as database, database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("DROP DATABASE ascii_only"))
