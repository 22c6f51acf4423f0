"""Replicas for reads: what `db.replica` reads and refuses, and when a reader of an own write goes to the primary."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import URL, insert, text
from tests.database.standbys import Pair, pair

from tatame_db import doctor
from tatame_db.database.errors import NotAReplica, ServerNotRunning, ServerReadOnly
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.doctor import Finding, Limits, Setup, Verdict
from tatame_db.fastapi import database_lifespan, health_router
from tatame_db.queries.read import read
from tatame_db.queries.write import insert_many, update_many, upsert
from tatame_db.schema import User
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.testing.databases import RolledBackDatabases

__all__ = ["pair"]

ANA = [{"clerk_user_id": "ana"}]
KNOWN_ID = [{"id": 1, "clerk_user_id": "ana"}]
# COPY is used from some hundred rows on.
MANY = [{"clerk_user_id": f"user {number}"} for number in range(3000)]


@pytest.fixture
def database(pair: Pair) -> Generator[Database]:
    with Database(pair.primary.address, replica_address=pair.standby) as database:
        yield database
        with database.engine.begin() as connection:
            connection.execute(text("TRUNCATE users CASCADE"))


@pytest.fixture(params=["standby", "none"])
def refusing(request: pytest.FixtureRequest, pair: Pair) -> URL | None:
    """Return the address of the replica; without one, the primary is read, and refuses the same writes."""
    return pair.standby if request.param == "standby" else None


WRITES: dict[str, Callable[[Any], Any]] = {
    "insert": lambda database: insert_many(User, ANA).run(database),
    "copy": lambda database: insert_many(User, MANY).run(database),
    "upsert": lambda database: upsert(User, KNOWN_ID, by=[User.id]).run(database),
    "update": lambda database: update_many(User, KNOWN_ID, by=[User.id]).run(database),
}


def test_each_way_to_write_on_a_replica_is_refused_in_words(pair: Pair, refusing: URL | None) -> None:
    with Database(pair.primary.address, replica_address=refusing) as database:
        assert read(User).all(database.replica) == []
        for write in WRITES.values():
            with pytest.raises(ServerReadOnly, match="accepts no writes") as caught:
                write(database.replica)
            assert "with `db` in place of `db.replica`" in caught.value.fix
        with database.replica.session() as session:
            session.add(User(clerk_user_id="ana"))
            with pytest.raises(ServerReadOnly):
                session.flush()
        with pytest.raises(ServerReadOnly), database.replica.session.begin() as session:
            session.execute(insert(User).values(ANA))
        with pytest.raises(ServerReadOnly), database.replica.engine.begin() as connection:
            connection.execute(text("DELETE FROM users"))
        with pytest.raises(ServerReadOnly):
            database.replica.run_in_transaction(lambda session: session.execute(insert(User).values(ANA)))
        with database.reader() as session, pytest.raises(ServerReadOnly):
            session.execute(insert(User).values(ANA))
        assert database.replica.replica is database.replica

    async def main() -> None:
        async with AsyncDatabase(pair.primary.address, replica_address=refusing) as database:
            assert await read(User).all(database.replica) == []
            for write in WRITES.values():
                with pytest.raises(ServerReadOnly, match="accepts no writes"):
                    await write(database.replica)
            async with database.replica.session() as session:
                session.add(User(clerk_user_id="ana"))
                with pytest.raises(ServerReadOnly):
                    await session.flush()
            async with database.reader() as session:
                with pytest.raises(ServerReadOnly):
                    await session.execute(insert(User).values(ANA))

    asyncio.run(main())


def test_a_reader_after_a_write_sees_it_on_the_replica_or_on_the_primary(pair: Pair, database: Database) -> None:
    insert_many(User, ANA).run(database)
    lsn = database.current_lsn()
    assert database.replica.caught_up(lsn, within_seconds=20)
    with database.reader(after=lsn, within_seconds=20) as session:
        assert (session.info["server"], len(read(User).all(session))) == ("replica", 1)

    pair.pause_replay(pause=True)
    try:
        with database.engine.begin() as connection:
            # What is not flushed at the commit counts too.
            connection.execute(text("SET LOCAL synchronous_commit = off"))
            connection.execute(insert(User).values(clerk_user_id="bia"))
        lsn = database.current_lsn()
        assert not database.replica.caught_up(lsn, within_seconds=0)
        assert database.caught_up(lsn, within_seconds=0)
        with database.reader(after=lsn, within_seconds=0.05) as session:
            assert (session.info["server"], len(read(User).all(session))) == ("primary", 2)
            with pytest.raises(ServerReadOnly, match="accepts no writes"):
                session.execute(insert(User).values(ANA))
        for write in WRITES.values():
            with database.reader(after=lsn, within_seconds=0) as session, pytest.raises(ServerReadOnly):
                write(session)
        with database.reader() as session:
            assert (session.info["server"], len(read(User).all(session))) == ("replica", 1)
        assert len(list(read(User).all(database.replica))) == 1

        async def main() -> None:
            async with AsyncDatabase(pair.primary.address, replica_address=pair.standby) as tasks:
                assert not await tasks.replica.caught_up(lsn, within_seconds=0)
                async with tasks.reader(after=lsn, within_seconds=0.05) as session:
                    assert (session.info["server"], len(await read(User).all(session))) == ("primary", 2)
                    with pytest.raises(ServerReadOnly, match="accepts no writes"):
                        await session.execute(insert(User).values(ANA))
                for write in WRITES.values():
                    async with tasks.reader(after=lsn, within_seconds=0) as session:
                        with pytest.raises(ServerReadOnly):
                            await write(session)
                async with tasks.reader() as session:
                    assert (session.info["server"], len(await read(User).all(session))) == ("replica", 1)
                await asyncio.to_thread(pair.pause_replay, pause=False)
                after = await tasks.current_lsn()
                async with tasks.reader(after=after, within_seconds=20) as session:
                    assert (session.info["server"], len(await read(User).all(session))) == ("replica", 2)

        asyncio.run(main())
    finally:
        pair.pause_replay(pause=False)
    # The primary's connections write again after a reader had one.
    assert insert_many(User, [{"clerk_user_id": "caio"}]).run(database) == 1


def test_a_reader_goes_to_the_primary_while_the_replica_is_away_or_has_no_free_connection(pair: Pair) -> None:
    away = pair.standby.set(query={"host": f"{pair.home}/nowhere"})
    with Database(pair.primary.address, replica_address=away) as database:
        lsn = database.current_lsn()
        with database.reader() as session:
            assert (session.info["server"], read(User).all(session)) == ("primary", [])
        with pytest.raises(ServerNotRunning, match="does not answer") as caught:
            read(User).all(database.replica)
        assert "`DATABASE_REPLICA_URL`" in caught.value.fix
        with pytest.raises(ServerNotRunning):
            database.replica.caught_up(lsn)
        assert not database.replica.check().healthy
        assert database.check().healthy
    # Of two hosts, the one that is away is the reason, and not the primary.
    hosts = f"{pair.primary.address.query['host']},{pair.home}/nowhere"
    query = {"host": hosts, "target_session_attrs": "standby"}
    with Database(pair.primary.address, replica_address=pair.standby.set(query=query)) as database:
        assert (
            "nowhere" in (database.replica.check().reason or "").partition("does not answer at")[2].partition(": ")[2]
        )
        with pytest.raises(ServerNotRunning) as caught:
            read(User).all(database.replica)
        assert "nowhere" in caught.value.reason
    with (
        Database(pair.primary.address, replica_address=pair.standby, pool_size=1) as database,
        database.reader() as first,
        database.reader(within_seconds=0) as second,
    ):
        assert [session.info["server"] for session in (first, second)] == ["replica", "primary"]

    async def main() -> None:
        async with AsyncDatabase(pair.primary.address, replica_address=away) as database, database.reader() as session:
            assert (session.info["server"], await read(User).all(session)) == ("primary", [])

    asyncio.run(main())


def test_a_server_with_another_database_is_refused_as_a_replica(pair: Pair, server: EmbeddedServer) -> None:
    foreign = server.address.set(database="postgres")
    with Database(pair.primary.address, replica_address=foreign) as database:
        with pytest.raises(NotAReplica, match="no replica of"):
            database.replica.ping()
        with pytest.raises(NotAReplica), database.reader():
            pytest.fail("it was read")

    async def main() -> None:
        # The check needs no connection of the primary's pool.
        address = pair.primary.address
        async with (
            AsyncDatabase(address, replica_address=foreign, pool_size=1) as database,
            database.session() as session,
        ):
            await session.connection()
            with pytest.raises(NotAReplica):
                await read(User).all(database.replica)

    asyncio.run(main())
    nowhere = pair.primary.address.set(query={"host": f"{pair.home}/nowhere"})
    with Database(nowhere, replica_address=pair.standby) as database:
        # Whether it is a replica is not known while the primary is away, and reads go on.
        assert read(User).all(database.replica) == []


def test_a_check_of_a_standby_has_its_lag(pair: Pair, database: Database) -> None:
    insert_many(User, ANA).run(database)
    assert database.replica.caught_up(database.current_lsn(), within_seconds=20)
    assert database.check().lag_seconds is None
    assert database.replica.check().lag_seconds is not None
    pair.pause_replay(pause=True)
    try:
        insert_many(User, [{"clerk_user_id": "bia"}]).run(database)
        # What was replayed last becomes older with each look.
        ages = [database.replica.check().lag_seconds or 0 for _ in range(2)]
        while ages[-1] <= ages[0]:
            ages.append(database.replica.check().lag_seconds or 0)
        assert examined(pair, Limits(replica_lag_warn_seconds=0)).verdict == Verdict.WARN
    finally:
        pair.pause_replay(pause=False)
    assert examined(pair, Limits()).verdict == Verdict.GOOD


def examined(pair: Pair, limits: Limits) -> Finding:
    setup = Setup(replica=pair.standby)
    [finding] = doctor.examine(pair.primary.address, setup, limits=limits, names=["replica"]).findings
    return finding


def test_an_app_is_ready_while_its_replica_is_away(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    away = pair.standby.set(query={"host": f"{pair.home}/nowhere"})
    for replica, lag in ((pair.standby, float), (away, type(None))):
        database = Database(pair.primary.address, replica_address=replica)
        app = FastAPI(lifespan=database_lifespan(database))
        app.include_router(health_router)
        with TestClient(app) as client:
            ready = client.get("/health/ready")
        assert ready.status_code == 200
        assert isinstance(ready.json()["replica_lag_seconds"], lag)
    assert "the replica is not ready" in caplog.text


def test_the_replica_is_closed_with_its_database(pair: Pair) -> None:
    with Database(pair.primary.address, replica_address=pair.standby) as database:
        replica = database.replica
        replica.ping()
    assert not replica.check().healthy
    assert not Database.replica.fget(database).check().healthy  # type: ignore[attr-defined]
    later = Database(pair.primary.address)
    later.close()
    assert not later.replica.check().healthy


def test_wrong_positions_and_times_are_refused_at_once(database: Database) -> None:
    with pytest.raises(ValueError, match="looks like"):
        database.caught_up("yesterday")
    with pytest.raises(ValueError, match="within_seconds"), database.reader(within_seconds=-1):
        pytest.fail("it was read")


def test_the_test_kit_reads_its_own_transaction_as_the_replica(committed_database: Database) -> None:
    databases = RolledBackDatabases(committed_database)
    try:
        database = databases.database
        insert_many(User, ANA).run(database)
        assert len(read(User).all(database.replica)) == 1
        with database.reader(after=database.current_lsn()) as session:
            assert len(read(User).all(session)) == 1
        insert_many(User, [{"clerk_user_id": "bia"}]).run(database)
    finally:
        databases.close()
