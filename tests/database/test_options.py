"""The options of a database: what each does, and which of several values applies."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, func, text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import OperationalError

from tatame_db.database.address import readable
from tatame_db.database.errors import ConnectionRefused, ConnectionsExhausted
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries.read import read
from tatame_db.queries.write import insert_many
from tatame_db.schema import User

SLEEPING = read(User).where(func.pg_sleep(20).is_(None))


def setting(database: Database, name: str) -> str:
    with database.session() as session:
        return str(session.scalar(text(f"SHOW {name}")))


# Which value applies


def test_what_an_address_says_comes_before_the_argument(address: URL) -> None:
    said = address.update_query_dict(
        {"application_name": "of the address", "options": "-c statement_timeout=7s", "connect_timeout": "9"}
    )
    options: dict[str, Any] = {
        "application_name": "of the argument",
        "statement_timeout_ms": 3_000,
        "connect_timeout_seconds": 5,
    }
    with Database(said, **options) as database:
        assert setting(database, "application_name") == "of the address"
        assert setting(database, "statement_timeout") == "7s"
        with database.engine.connect() as connection:
            assert connection.connection.driver_connection.info.get_parameters()["connect_timeout"] == "9"  # type: ignore[union-attr]
    with Database(address, **options) as database:
        assert setting(database, "application_name") == "of the argument"
        assert setting(database, "statement_timeout") == "3s"
        with database.engine.connect() as connection:
            assert connection.connection.driver_connection.info.get_parameters()["connect_timeout"] == "5"  # type: ignore[union-attr]


def test_other_options_in_an_address_leave_the_time_out_to_the_argument(address: URL) -> None:
    said = address.update_query_dict({"options": "-c lock_timeout=4s"})
    with Database(said, statement_timeout_ms=3_000) as database:
        assert setting(database, "lock_timeout") == "4s"
        assert setting(database, "statement_timeout") == "3s"


def test_without_an_option_the_setting_of_the_role_or_database_stays(address: URL) -> None:
    with Database(address) as database, database.engine.begin() as connection:
        connection.execute(text(f'ALTER DATABASE "{address.database}" SET statement_timeout = 1234'))
    with Database(address) as database:
        assert setting(database, "statement_timeout") == "1234ms"
    with Database(address, statement_timeout_ms=5_000) as database:
        assert setting(database, "statement_timeout") == "5s"


def test_the_environment_sets_the_options_of_from_env(address: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", readable(address))
    monkeypatch.setenv("TATAME_POOL_SIZE", "3")
    monkeypatch.setenv("TATAME_APPLICATION_NAME", "check-in api")
    monkeypatch.setenv("TATAME_STATEMENT_TIMEOUT_MS", "3000")
    with Database.from_env() as database:
        assert database.options.pool_size == 3
        assert setting(database, "application_name") == "check-in api"
        assert setting(database, "statement_timeout") == "3s"
    with Database.from_env(pool_size=2) as database:
        assert database.options.pool_size == 2
        assert setting(database, "application_name") == "check-in api"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("pool_size", 0),
        ("pool_size", 1.5),
        ("pool_size", True),
        ("pool_timeout_seconds", 0),
        ("pool_timeout_seconds", float("inf")),
        ("statement_timeout_ms", 0),
        ("statement_timeout_ms", "5000"),
        ("connect_timeout_seconds", 1),
        ("application_name", ""),
        ("slow_statement_ms", -1),
    ],
)
@pytest.mark.parametrize("database", [Database, AsyncDatabase])
def test_a_value_that_cannot_be_used_is_refused_where_it_is_given(database: Any, option: str, value: object) -> None:
    with pytest.raises(ValueError, match=option):
        database("postgresql://db.example/tatame", **{option: value})


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="unknown option pool_sise; the options are pool_size, pool_timeout_seconds"):
        Database("postgresql://db.example/tatame", pool_sise=3)  # type: ignore[call-arg]


# Time-outs


@pytest.fixture
def one_user(address: URL) -> URL:
    """The address of a database with a user, for whom `SLEEPING` sleeps."""
    with Database(address) as database:
        insert_many(User, [{"clerk_user_id": "ana"}]).run(database)
    return address


def test_the_server_ends_a_statement_that_takes_too_long(one_user: URL) -> None:
    address = one_user

    async def main() -> None:
        async with AsyncDatabase(address, statement_timeout_ms=100) as database:
            with pytest.raises(OperationalError, match="statement timeout"):
                await SLEEPING.all(database)
            async with database.session() as session:
                with pytest.raises(OperationalError, match="statement timeout"):
                    await session.execute(text("SELECT pg_sleep(20)"))

    asyncio.run(main())
    with Database(address, statement_timeout_ms=100) as database:
        with pytest.raises(OperationalError, match="statement timeout"):
            SLEEPING.all(database)
        with database.session() as session, pytest.raises(OperationalError, match="statement timeout"):
            session.execute(text("SELECT pg_sleep(20)"))


@pytest.mark.parametrize("slow", ["a catalogue that is locked", "a server that hangs"])
def test_a_limit_that_is_too_short_for_the_connection_itself_is_named(
    bare_address: URL, slow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = bare_address.update_query_dict({"options": "-c statement_timeout=50ms"})

    async def main() -> None:
        async with AsyncDatabase(limited) as database:
            with pytest.raises(
                ConnectionRefused, match="timeout, before the connection was ready; a limit of the role"
            ):
                await database.ping()

    with psycopg.connect(readable(bare_address)) as other:
        if slow == "a catalogue that is locked":
            # This package reads it as soon as it is connected.
            other.execute("LOCK TABLE pg_extension IN ACCESS EXCLUSIVE MODE")
        else:
            # SQLAlchemy asks for it then.
            asked = "_get_server_version_info"
            monkeypatch.setattr(
                PGDialect_psycopg, asked, lambda _, connection: connection.exec_driver_sql("SELECT pg_sleep(60)")
            )
        with Database(limited) as database, pytest.raises(ConnectionRefused, match="a limit of the role"):
            database.ping()
        asyncio.run(main())


def test_the_time_out_takes_no_round_trip_of_its_own(address: URL) -> None:
    counts = []
    for options in ({}, {"statement_timeout_ms": 5_000}):
        with Database(address, **options) as database, database.engine.connect() as connection:  # type: ignore[arg-type]
            driver: Any = connection.connection.driver_connection
            # Statements that psycopg ran so far: the one that prepares the connection, between BEGIN and COMMIT.
            counts.append(len(driver._prepared._counts))
    assert counts[0] == counts[1] == 1


# The size


def test_a_pool_without_a_free_connection_says_so(address: URL) -> None:
    async def main() -> None:
        async with AsyncDatabase(address, pool_size=2, pool_timeout_seconds=0.2) as database:
            held = [await database.engine.connect() for _ in range(2)]
            with pytest.raises(ConnectionsExhausted) as of_query:
                await read(User).all(database)
            with pytest.raises(ConnectionsExhausted) as of_session:
                async with database.session() as session:
                    await session.execute(text("SELECT 1"))
            for error in (of_query.value, of_session.value):
                assert (error.size, error.seconds) == (2, 0.2)
            for connection in held:
                await connection.close()
            assert await read(User).all(database) == []

    asyncio.run(main())
    with Database(address, pool_size=2, pool_timeout_seconds=0.2) as database:
        held = [database.engine.connect() for _ in range(2)]
        started = time.monotonic()
        with pytest.raises(ConnectionsExhausted, match="all 2 connections of the pool are in use") as of_query:
            read(User).all(database)
        assert time.monotonic() - started >= 0.2
        with pytest.raises(ConnectionsExhausted) as of_session, database.session() as session:
            session.execute(text("SELECT 1"))
        for error in (of_query.value, of_session.value):
            assert (error.size, error.seconds) == (2, 0.2)
            assert "pool_size" in error.fix
        for connection in held:
            connection.close()
        assert read(User).all(database) == []


def test_slow_statements_are_logged_by_from_env(
    one_user: URL, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DATABASE_URL", readable(one_user))
    monkeypatch.setenv("TATAME_ENV", "production")
    monkeypatch.setenv("TATAME_SLOW_STATEMENT_MS", "100")
    with Database.from_env() as database:
        read(User).where(func.pg_sleep(0.15).is_(None)).all(database)
        with database.session() as session:
            session.execute(text("SELECT pg_sleep(0.15)"))
            session.execute(text("SELECT 1"))
    assert [(record.levelno, record.message.partition(" [")[0]) for record in caplog.records] == [
        (logging.WARNING, "read User"),
        (logging.WARNING, "SELECT pg_sleep(0.15)"),
    ]
