"""What goes wrong between a program and its server, and what the program and the server are left with."""

from __future__ import annotations

import asyncio
import gc
import time

import psycopg
import pytest
from sqlalchemy import URL, text
from sqlalchemy.exc import InternalError
from tests.conftest import free_port

from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.database.errors import HostUnknown, ServerReadOnly, TlsFailed
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.errors import TatameError
from tatame_db.queries.read import read
from tatame_db.queries.write import insert_many
from tatame_db.schema import User
from tatame_db.server.embedded import EmbeddedServer


def sessions(address: URL) -> int:
    """Return the number of sessions of a database, beside the one that counts."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with psycopg.connect(readable(address)) as connection:
        [count] = connection.execute(query).fetchone() or [0]
    return int(count)


def wait_for_sessions(address: URL, expected: int) -> None:
    deadline = time.monotonic() + 20
    while sessions(address) != expected:
        assert time.monotonic() < deadline, f"{sessions(address)} sessions instead of {expected}"
        time.sleep(0.05)


# Cancelled


@pytest.mark.parametrize("through", ["session", "query"])
def test_a_task_cancelled_while_connecting_leaves_no_session(bare_address: URL, through: str) -> None:
    async def use(database: AsyncDatabase) -> None:
        if through == "query":
            await read(User).all(database)
        else:
            async with database.session() as session:
                await session.execute(text("SELECT 1"))

    async def main() -> None:
        databases = [AsyncDatabase(bare_address) for _ in range(30)]
        for number, database in enumerate(databases):
            task = asyncio.create_task(use(database))
            await asyncio.sleep(number * 0.0004)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await asyncio.gather(*(database.close() for database in databases))
        # Those still connecting close themselves as soon as they are connected.
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.01)
        wait_for_sessions(bare_address, 0)

    # The garbage collector must not be what ends them.
    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


# Read-only servers


@pytest.fixture
def read_only(address: URL) -> URL:
    """The address of a migrated database that accepts no writes."""
    with psycopg.connect(readable(address), autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{address.database}" SET default_transaction_read_only = on')
    return address


def test_a_write_on_a_read_only_server_says_so(read_only: URL) -> None:
    user = {"clerk_user_id": "ana"}

    async def main() -> None:
        async with AsyncDatabase(read_only) as database:
            with pytest.raises(ServerReadOnly, match="read-only transaction"):
                await insert_many(User, [user]).run(database)
            async with database.session() as session:
                session.add(User(clerk_user_id="ana"))
                with pytest.raises(ServerReadOnly):
                    await session.flush()

    asyncio.run(main())
    with Database(read_only) as database:
        assert read(User).all(database) == []
        with pytest.raises(ServerReadOnly):
            insert_many(User, [user]).run(database)
        with database.session() as session:
            session.add(User(clerk_user_id="ana"))
            with pytest.raises(ServerReadOnly):
                session.flush()
            session.rollback()
            assert session.execute(text("SELECT 1")).scalar() == 1


def test_a_transaction_that_its_caller_made_read_only_is_not_blamed_on_the_server(address: URL) -> None:
    with Database(address) as database, database.session() as session:
        session.execute(text("SET TRANSACTION READ ONLY"))
        session.add(User(clerk_user_id="ana"))
        with pytest.raises(InternalError, match="read-only transaction"):
            session.flush()


# Connections that cannot be made


def failure(address: URL) -> TatameError:
    """Return the error of connecting, after checking that all four ways raise the same."""

    async def main() -> list[BaseException]:
        async with AsyncDatabase(address) as database:
            with pytest.raises(TatameError) as of_ping:
                await database.ping()
            with pytest.raises(TatameError) as of_query:
                await read(User).all(database)
        return [of_ping.value, of_query.value]

    with Database(address) as database:
        with pytest.raises(TatameError) as of_ping:
            database.ping()
        with pytest.raises(TatameError) as of_query:
            read(User).all(database)
    errors = [of_ping.value, of_query.value, *asyncio.run(main())]
    assert len({type(error) for error in errors}) == 1
    return of_ping.value


def test_an_unknown_host_is_reported() -> None:
    error = failure(URL.create("postgresql+psycopg", "ana", "secret", "nowhere.invalid", 5432, "tatame"))
    assert isinstance(error, HostUnknown)
    assert "nowhere.invalid" in error.what


@pytest.fixture
def on_a_port(fresh_server: EmbeddedServer) -> URL:
    """The address of a server that listens on a port."""
    port = free_port()
    fresh_server.start(port=port)
    create_missing_database(fresh_server.address)
    with Database(fresh_server.address) as database, database.engine.begin() as connection:
        connection.execute(text("CREATE ROLE ana LOGIN PASSWORD 'secret'"))
    return URL.create("postgresql+psycopg", "ana", "secret", "127.0.0.1", port, "tatame")


def test_a_tls_failure_is_reported(on_a_port: URL) -> None:
    error = failure(on_a_port.update_query_dict({"sslmode": "require"}))
    assert isinstance(error, TlsFailed)
