"""A real standby: what a write there says, and how an address with several hosts finds the primary."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.database.standbys import Pair, standby_pair

from tatame_db import doctor
from tatame_db.database.creation import create_missing_database
from tatame_db.database.errors import ServerNotReady, ServerNotRunning, ServerReadOnly, TooManyConnections
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.doctor import Limits, Verdict
from tatame_db.errors import TatameError
from tatame_db.queries.read import read
from tatame_db.queries.write import insert_many
from tatame_db.schema import User
from tatame_db.server.embedded import EmbeddedServer

ANA = [{"clerk_user_id": "ana"}]


@pytest.fixture
def pair(fresh_server: EmbeddedServer, directory: Path) -> Generator[Pair]:
    with standby_pair(fresh_server, directory / "standby") as pair:
        yield pair


def in_recovery(database: Database) -> bool:
    with database.session() as session:
        return bool(session.scalar(text("SELECT pg_is_in_recovery()")))


def test_a_write_on_a_standby_says_so_and_reads_work(pair: Pair) -> None:
    async def main() -> None:
        async with AsyncDatabase(pair.standby) as database:
            assert await read(User).all(database) == []
            with pytest.raises(ServerReadOnly):
                await insert_many(User, ANA).run(database)
            async with database.session() as session:
                session.add(User(clerk_user_id="ana"))
                with pytest.raises(ServerReadOnly):
                    await session.flush()

    asyncio.run(main())
    with Database(pair.standby) as database:
        assert read(User).all(database) == []
        with pytest.raises(ServerReadOnly, match="read-only transaction"):
            insert_many(User, ANA).run(database)
        with database.session() as session:
            session.add(User(clerk_user_id="ana"))
            with pytest.raises(ServerReadOnly):
                session.flush()
        # A function that needs a primary is refused with the same SQLSTATE and other words.
        with pytest.raises(TatameError, match="recovery"), database.session() as session:
            session.execute(text("SELECT txid_current()"))
        # The same connections serve writes once the standby is the primary.
        pair.promote()
        assert insert_many(User, ANA).run(database) == 1


def test_an_address_of_several_hosts_finds_the_server_that_it_wants(pair: Pair) -> None:
    primary, standby = pair.primary.address.query["host"], pair.home

    async def writes() -> int:
        async with AsyncDatabase(pair.address(standby, primary, attributes="read-write")) as database:
            assert (await database.check()).healthy
            return await insert_many(User, ANA).run(database)

    assert asyncio.run(writes()) == 1
    with Database(pair.address(standby, primary, attributes="read-write")) as database:
        assert not in_recovery(database)
        assert database.check().healthy
        assert len(read(User).all(database)) == 1
    with Database(pair.address(primary, standby, attributes="standby")) as database:
        assert in_recovery(database)
        assert database.check().healthy
    with Database(pair.address(pair.home / "nowhere", primary, attributes="any")) as database:
        assert not in_recovery(database)


def test_an_address_without_the_server_that_it_wants_says_so(pair: Pair) -> None:
    with Database(pair.address(pair.home, attributes="read-write")) as database, pytest.raises(ServerReadOnly):
        database.ping()
    nowhere = pair.address(pair.home / "one", pair.home / "two", attributes="any")
    with Database(nowhere) as database, pytest.raises(ServerNotRunning):
        read(User).all(database)


def test_a_pool_finds_the_new_primary_after_a_failover(pair: Pair) -> None:
    hosts = (pair.primary.address.query["host"], pair.home)
    with Database(pair.address(*hosts, attributes="read-write")) as database:
        assert insert_many(User, ANA).run(database) == 1
        with Database(pair.standby) as standby:
            deadline = time.monotonic() + 20
            while not read(User).all(standby):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        pair.primary.stop()
        pair.promote()
        assert [user.clerk_user_id for user in read(User).all(database)] == ["ana"]
        assert insert_many(User, [{"clerk_user_id": "bia"}]).run(database) == 1
        pair.primary.start()


def test_a_server_that_is_not_ready_yet_says_so(pair: Pair) -> None:
    # A standby that accepts no reads answers as a server does that is still starting.
    pair.pg_ctl("stop")
    started = pair.pg_ctl(
        "start",
        "--no-wait",
        f"--options=-c hot_standby=off -c listen_addresses='' -c unix_socket_directories={pair.home}",
    )
    assert started.returncode == 0
    with Database(pair.standby) as database:
        deadline = time.monotonic() + 20
        while True:
            with pytest.raises((ServerNotReady, ServerNotRunning)) as caught:
                read(User).all(database)
            if caught.type is ServerNotReady:
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(ServerNotReady, match="database system"):
            database.ping()
        health = database.check()
        assert not health.healthy
        assert "database system" in (health.reason or "")


def test_a_server_without_a_connection_left_says_so(fresh_server: EmbeddedServer) -> None:
    fresh_server.start()
    create_missing_database(fresh_server.address)
    with Database(fresh_server.address) as database, database.engine.begin() as connection:
        connection.execute(text("CREATE ROLE ana LOGIN CONNECTION LIMIT 1"))
    limited = fresh_server.address.set(username="ana")

    async def main() -> None:
        async with AsyncDatabase(limited) as database:
            with pytest.raises(TooManyConnections):
                await read(User).all(database)
            with pytest.raises(TooManyConnections):
                await database.ping()

    with Database(limited) as first, first.engine.connect(), Database(limited) as database:
        with pytest.raises(TooManyConnections, match="too many connections for role"):
            database.ping()
        with pytest.raises(TooManyConnections):
            read(User).all(database)
        asyncio.run(main())


def test_the_doctor_examines_a_standby_in_every_line(pair: Pair) -> None:
    found = {finding.name: finding for finding in doctor.examine(pair.standby).findings}

    # To the doctor this is a server of its own, with the settings of tests and the role of a superuser.
    assert {name for name, finding in found.items() if finding.verdict != Verdict.GOOD} == {
        "backup",
        "backups",
        "durability",
        "superuser",
    }
    assert "this server is a standby" in found["standbys"].text
    with Database(pair.standby) as database, database.engine.connect() as connection:
        connection.execute(text("SELECT pg_wal_replay_pause()"))
    with Database(pair.primary.address) as database, database.engine.begin() as connection:
        connection.execute(text("SELECT pg_logical_emit_message(true, 'x', repeat('x', 2097152))"))
    lagging = Limits(lag_warn_mb=1)
    deadline = time.monotonic() + 20
    while doctor.examine(pair.standby, limits=lagging, names=["standbys"]).findings[0].verdict != Verdict.WARN:
        assert time.monotonic() < deadline
        time.sleep(0.05)
