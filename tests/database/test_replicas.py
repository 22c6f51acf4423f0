"""Replicas for reads: what `db.replica` reads and refuses, and when a reader of an own write goes to the primary."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import psycopg
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import URL, insert, text
from tests.conftest import run_sql
from tests.database.standbys import Pair, pair
from typer.testing import CliRunner

from tatame_db import doctor
from tatame_db.cli import commands
from tatame_db.database import readers
from tatame_db.database.address import AddressInvalid, readable
from tatame_db.database.errors import (
    ConnectionRefused,
    DatabaseMissing,
    NotAReplica,
    ServerNotRunning,
    ServerReadOnly,
    StandbyMissing,
)
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
        # SQLAlchemy leaves the connection of such a session with the wish to write.
        for _ in range(2):
            with database.replica.session() as session:
                session.connection(execution_options={"postgresql_readonly": True})
                assert read(User).all(session) == []
        with database.replica.session() as session, pytest.raises(ServerReadOnly):
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
            async with database.replica.session() as session:
                await session.connection(execution_options={"postgresql_readonly": True})
            async with database.replica.session() as session:
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


def test_a_reader_on_the_primary_refuses_writes_after_a_commit_too(pair: Pair) -> None:
    away = pair.standby.set(query={"host": f"{pair.home}/nowhere"})
    with Database(pair.primary.address, replica_address=away) as database, database.reader() as session:
        assert (session.info["server"], read(User).all(session)) == ("primary", [])
        session.commit()
        with pytest.raises(ServerReadOnly):
            session.execute(insert(User).values(ANA))

    async def main() -> None:
        async with AsyncDatabase(pair.primary.address, replica_address=away) as database, database.reader() as session:
            assert (session.info["server"], await read(User).all(session)) == ("primary", [])
            await session.commit()
            with pytest.raises(ServerReadOnly):
                await session.execute(insert(User).values(ANA))

    asyncio.run(main())


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
    # One of the same server is none either, on the primary or the standby.
    run_sql(pair.primary.address, "CREATE DATABASE other")
    with Database(pair.primary.address) as database:
        assert Database(pair.standby).caught_up(database.current_lsn(), within_seconds=20)
    for address in (pair.primary.address, pair.standby):
        other = address.set(database="other")
        with Database(pair.primary.address, replica_address=other) as database:
            with pytest.raises(NotAReplica, match="another database"):
                database.replica.ping()
            assert not Database(other).caught_up(database.current_lsn(), within_seconds=20)
    with Database(pair.primary.address, replica_address=foreign) as database:
        with pytest.raises(NotAReplica, match="another system identifier"):
            database.replica.ping()
        assert not Database(foreign).caught_up(database.current_lsn(), within_seconds=20)
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


WRONG: list[Any] = [5, None, b"0/1", "1", "yesterday", "0/16B3748", "0/1.1.1.1.1.1\n", "0/1.1.1.1.1.1' --"]
WRONG_SECONDS: list[Any] = ["1", None, True, -1, float("nan"), float("inf"), 3e6]


def test_wrong_positions_and_times_are_refused_at_once(database: Database) -> None:
    lsn = database.current_lsn()
    assert (len(lsn) <= 80, unquote(quote(lsn))) == (True, lsn)
    for position in WRONG:
        with pytest.raises((TypeError, ValueError), match="`current_lsn\\(\\)` returned"):
            database.caught_up(position)
    for seconds in WRONG_SECONDS:
        with pytest.raises((TypeError, ValueError), match="within_seconds is a number of seconds"):
            database.caught_up(lsn, within_seconds=seconds)
        with (
            pytest.raises((TypeError, ValueError), match="within_seconds is a number of seconds"),
            database.reader(within_seconds=seconds),
        ):
            pytest.fail("it was read")
        with pytest.raises((TypeError, ValueError), match="timeout_seconds is a number of seconds"):
            database.check(seconds)
    assert database.check(86_400).healthy


def test_a_standby_that_is_frozen_holds_up_no_reader(
    pair: Pair, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "ANSWER_SECONDS", 0.3)
    lsn = database.current_lsn()

    async def main() -> None:
        async with AsyncDatabase(pair.primary.address, replica_address=pair.standby) as tasks:
            assert await tasks.replica.caught_up(lsn, within_seconds=20)
            with pair.frozen():
                # On the connection that is open, and on a new one.
                for _ in range(2):
                    async with tasks.reader(after=lsn, within_seconds=0.1) as session:
                        assert (session.info["server"], await read(User).all(session)) == ("primary", [])

    assert database.replica.caught_up(lsn, within_seconds=20)
    with pair.frozen():
        with pytest.raises(ConnectionRefused, match=r"answered nothing within 0\.\d+ seconds"):
            database.replica.caught_up(lsn, within_seconds=0.1)
        with database.reader(after=lsn, within_seconds=0.1) as session:
            assert (session.info["server"], read(User).all(session)) == ("primary", [])
    asyncio.run(main())
    with database.reader(after=lsn, within_seconds=20) as session:
        assert session.info["server"] == "replica"


def test_a_standby_of_a_database_that_is_serializable_is_read(pair: Pair, database: Database) -> None:
    run_sql(pair.primary.address, "ALTER DATABASE tatame SET default_transaction_isolation = 'serializable'")
    try:
        insert_many(User, ANA).run(database)
        lsn = database.current_lsn()
        # A query of the standby sees the setting before it is replayed only on an older connection.
        assert database.replica.caught_up(lsn, within_seconds=20)
        with Database(pair.primary.address, replica_address=pair.standby) as later:
            assert len(read(User).all(later.replica)) == 1
            assert later.replica.check().healthy
            with later.reader(after=lsn) as session:
                assert (session.info["server"], len(read(User).all(session))) == ("replica", 1)

        async def main() -> None:
            async with AsyncDatabase(pair.standby) as tasks:
                assert len(await read(User).all(tasks)) == 1

        asyncio.run(main())
        done = CliRunner().invoke(commands.app, ["status"], env={"DATABASE_URL": readable(pair.standby)})
        assert done.exit_code == 0, done.output
        examination = doctor.examine(pair.standby, Setup(), limits=Limits(), names=["standbys"])
        assert [finding.verdict for finding in examination.findings] == [Verdict.GOOD]
    finally:
        run_sql(pair.primary.address, "ALTER DATABASE tatame RESET default_transaction_isolation")


def end_log_at_page(pair: Pair) -> None:
    """Write to the primary's log until a record ends with a page: the next one will begin behind the page's header."""
    page, header_of_record, headers_of_page = 8192, 54, (24, 40)
    with psycopg.connect(readable(pair.primary.address), autocommit=True) as connection:
        for _ in range(100):
            [offset] = connection.execute("SELECT (pg_current_wal_insert_lsn() - '0/0') %% %s", [page]).fetchone() or []
            if offset in headers_of_page:
                return
            size = page - int(offset) - header_of_record
            size = size if size > 300 else 4000
            connection.execute("SELECT pg_logical_emit_message(false, '', repeat('-', %s))", [size])
    pytest.fail("no record ended with a page")


def test_all_that_is_committed_counts_also_if_the_next_record_begins_later(pair: Pair, database: Database) -> None:
    insert_many(User, ANA).run(database)
    end_log_at_page(pair)
    lsn = database.current_lsn()
    assert database.replica.caught_up(lsn, within_seconds=5)


def test_a_role_that_may_not_compare_the_databases_goes_to_the_primary(pair: Pair, database: Database) -> None:
    functions = "pg_control_system(), pg_control_checkpoint(), pg_control_recovery()"
    run_sql(pair.primary.address, "CREATE ROLE app LOGIN; GRANT SELECT ON users TO app")
    run_sql(pair.primary.address, f"REVOKE EXECUTE ON FUNCTION {functions} FROM PUBLIC")
    try:
        assert database.replica.caught_up(database.current_lsn(), within_seconds=20)
        address, replica = (address.set(username="app") for address in (pair.primary.address, pair.standby))
        with Database(address, replica_address=replica) as as_app:
            assert read(User).all(as_app.replica) == []
            with as_app.reader(after=as_app.current_lsn(), within_seconds=20) as session:
                assert (session.info["server"], read(User).all(session)) == ("primary", [])
            with as_app.replica.session() as session, pytest.raises(ServerReadOnly):
                session.execute(insert(User).values(ANA))
        # Without a replica, it is the same server.
        with Database(address) as as_app, as_app.reader(after=as_app.current_lsn()) as session:
            assert session.info["server"] == "primary"
        [finding] = doctor.examine(address, Setup(replica=replica), limits=Limits(), names=["replica"]).findings
        assert (finding.verdict, "GRANT EXECUTE" in (finding.fix or "")) == (Verdict.WARN, True)
    finally:
        run_sql(pair.primary.address, f"GRANT EXECUTE ON FUNCTION {functions} TO PUBLIC")
        run_sql(pair.primary.address, "DROP OWNED BY app; DROP ROLE app")


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


def test_an_address_of_a_replica_that_cannot_be_used_is_named(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", readable(pair.primary.address))
    for variable, line in (("DATABASE_REPLICA_URL", "replica"), ("SUPABASE_DB_URL", "slots of source")):
        with monkeypatch.context() as broken:
            broken.setenv(variable, "postgresql://ana:secret@host:http/tatame")
            done = CliRunner().invoke(commands.app, ["doctor", "--json"])
            assert done.exit_code == 3
            findings = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
            assert findings[line]["verdict"] == "bad"
            assert f"in `{variable}` has a port" in findings[line]["text"]
            assert "secret" not in done.output
            assert findings["reachable"]["verdict"] == "good"
    with monkeypatch.context() as broken:
        broken.setenv("DATABASE_REPLICA_URL", "postgresql://ana@host:http/tatame")
        for face in (Database, AsyncDatabase):
            with pytest.raises(AddressInvalid, match="in `DATABASE_REPLICA_URL` has"):
                face.from_env()
    unknown = pair.standby.set(database="unknown")
    with Database(pair.primary.address, replica_address=unknown) as database:
        with pytest.raises(DatabaseMissing, match="has no database 'unknown'") as caught:
            database.replica.ping()
        assert "tatame-db up" not in caught.value.fix
    for attributes in ("standby", "read-only"):
        for hosts in ([pair.primary.address.query["host"]], [pair.primary.address.query["host"]] * 2):
            replica = pair.address(*hosts, attributes=attributes)
            with Database(pair.primary.address, replica_address=replica) as database:
                with pytest.raises(StandbyMissing, match="no standby answers") as missing:
                    database.replica.ping()
                assert "start" not in missing.value.fix
                with database.reader() as session:
                    assert session.info["server"] == "primary"
