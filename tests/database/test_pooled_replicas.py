"""Replicas behind a real PgBouncer, which goes on to report what its server was when it first connected."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from psycopg.pq.abc import PGconn
from sqlalchemy import URL, insert, text
from sqlalchemy.exc import InternalError
from tests.conftest import run_sql, until
from tests.database.standbys import Pair, pair
from tests.database.test_replica_identity import App, Async, Place, Sync, end_connections, foreign, own
from tests.database.test_replicas import ANA, WRITES

from tatame_db import doctor
from tatame_db.database import identity
from tatame_db.database.driver import async_driver_connection, driver_connection
from tatame_db.database.errors import NotAReplica, ServerReadOnly
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.database.silence import Watch
from tatame_db.doctor import Limits, Setup, Verdict
from tatame_db.queries.read import read
from tatame_db.schema import User

__all__ = ["foreign", "own", "pair"]

Pooler = Callable[..., URL]

WISHES: list[Callable[[Any], Any]] = [
    lambda session: session.execute(text("SET TRANSACTION READ ONLY")),
    lambda session: session.execute(text("SELECT set_config('transaction_read_only', 'on', true)")),
    lambda session: session.connection(execution_options={"postgresql_readonly": True}),
]


def refuse_writes(database: Database) -> None:
    """Expect `ServerReadOnly` from each way to write."""
    for write in WRITES.values():
        with pytest.raises(ServerReadOnly):
            write(database)
    with pytest.raises(ServerReadOnly), database.session.begin() as session:
        session.execute(insert(User).values(ANA))
    with pytest.raises(ServerReadOnly):
        database.run_in_transaction(lambda session: session.execute(insert(User).values(ANA)))


def refuse_writes_by_wish(database: Database) -> None:
    """Expect the server's own words in a transaction that its caller wants to be read-only."""
    for wish in WISHES:
        with database.session() as session:
            wish(session)
            with pytest.raises(InternalError, match="read-only transaction"):
                session.execute(insert(User).values(ANA))


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_pooler_that_met_another_kind_of_server_first_is_no_witness(
    pair: Pair, pooler: Pooler, directory: Path, mode: str
) -> None:
    place = Place(directory / "place", "tatame")
    place.lead_to(pair.primary.address)
    pooled = pooler(place.address, pool_mode=mode, default_pool_size=20)
    with Database(pooled) as database:
        assert (database.check(20).is_standby, database.check(20).lag_seconds) == (False, None)
        refuse_writes_by_wish(database)
        place.lead_to(pair.standby)
        end_connections(pair.primary.address)
        with Database(pair.primary.address, replica_address=pooled) as later:
            assert later.replica.check(20).is_standby
            assert later.replica.check(20).lag_seconds is not None
            for face in (database, later.replica):
                refuse_writes(face)
            refuse_writes_by_wish(database)
            # The wish ends with its transaction.
            refuse_writes(database)

        async def main() -> None:
            async with AsyncDatabase(pooled) as tasks:
                assert (await tasks.check(20)).is_standby
                for write in WRITES.values():
                    with pytest.raises(ServerReadOnly):
                        await write(tasks)
                async with tasks.session() as session:
                    with pytest.raises(ServerReadOnly):
                        await session.execute(insert(User).values(ANA))

        asyncio.run(main())
        setup = Setup(replica=pooled)
        examination = doctor.examine(pair.primary.address, setup, limits=Limits(), names=["replica"])
        assert [finding.verdict for finding in examination.findings] == [Verdict.GOOD]


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_standby_that_was_promoted_behind_a_pooler_has_no_lag(
    pair: Pair, pooler: Pooler, directory: Path, mode: str
) -> None:
    place = Place(directory / "place", "tatame")
    place.lead_to(pair.standby)
    pooled = pooler(place.address, pool_mode=mode, default_pool_size=20)
    with Database(pooled) as database:
        assert (health := database.check(20)).is_standby
        assert health.lag_seconds is not None
        refuse_writes(database)
        # As a promotion does.
        run_sql(pair.primary.address, "ALTER DATABASE tatame SET default_transaction_isolation = 'serializable'")
        place.lead_to(pair.primary.address)
        end_connections(pair.standby)
        try:
            health = database.check(20)
            assert (health.healthy, health.is_standby, health.lag_seconds) == (True, False, None)
            refuse_writes_by_wish(database)
            with database.session.begin() as session:
                session.execute(text("INSERT INTO users (clerk_user_id) VALUES ('ana')"))
            with database.session.begin() as session:
                session.execute(text("DELETE FROM users"))
            with Database(pooled) as later, later.session() as session:
                assert session.scalar(text("SHOW transaction_isolation")) == "serializable"
        finally:
            run_sql(pair.primary.address, "ALTER DATABASE tatame RESET default_transaction_isolation")
            with Database(pair.primary.address) as primary, Database(pair.standby) as standby:
                assert standby.caught_up(primary.current_lsn(), within_seconds=20)


class PooledApp(App):
    """An app one of whose addresses is that of a pooler, of connections that are always identified again."""

    def __init__(self, face: type[Sync | Async], folder: Path, name: str, pooler: Pooler, pooled: str) -> None:
        super().__init__(face, folder, name)
        addresses = {"primary": self.primary.address, "replica": self.replica.address}
        addresses[pooled] = pooler(addresses[pooled], default_pool_size=20, server_login_retry=0)
        self.face = face(addresses["primary"], addresses["replica"])


@pytest.fixture
def app(
    request: pytest.FixtureRequest,
    directory: Path,
    own: tuple[URL, URL],
    pooler: Pooler,
    monkeypatch: pytest.MonkeyPatch,
) -> Generator[App]:
    monkeypatch.setattr(identity, "AGAIN_SECONDS", 0)
    face, pooled = request.param
    app = PooledApp(face, directory, str(own[0].database), pooler, pooled)
    app.lead_to(*own)
    yield app
    app.face.close()


def reads(app: App, rows: list[int]) -> bool:
    """Return whether the replica is read; asyncio may still refuse a connection that was being opened before."""
    try:
        return app.rows() == rows
    except NotAReplica:
        return False


@pytest.mark.parametrize("app", [(Sync, "replica"), (Async, "replica")], indirect=True)
def test_a_replica_that_is_replaced_behind_a_pooler_is_refused(app: App, own: tuple[URL, URL], foreign: URL) -> None:
    until(lambda: reads(app, [0, 0, 0]))
    app.replica.lead_to(foreign)
    end_connections(own[1])
    until(app.refuses)
    # The primary follows.
    app.primary.lead_to(foreign)
    until(lambda: reads(app, [1, 1, 1]))
    app.lead_to(*own)
    end_connections(foreign)
    until(lambda: reads(app, [0, 0, 0]))


@pytest.mark.parametrize("app", [(Sync, "primary"), (Async, "primary")], indirect=True)
@pytest.mark.parametrize("use", ["ping", "query_primary"])
def test_a_primary_that_is_replaced_behind_a_pooler_ends_the_reads_of_its_old_replica(
    app: App, own: tuple[URL, URL], foreign: URL, use: str
) -> None:
    for _ in range(2):
        getattr(app.face, use)()
        until(lambda: reads(app, [0, 0, 0]))
    app.primary.lead_to(foreign)
    end_connections(own[0])
    getattr(app.face, use)()
    until(app.refuses)
    app.replica.lead_to(foreign)
    until(lambda: reads(app, [1, 1, 1]))


def watches() -> set[Watch]:
    """Return those that run; some may be of the thread that identifies the primary."""
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    owners = [getattr(timer.function, "__self__", None) for timer in timers if not timer.finished.is_set()]
    return {owner for owner in owners if isinstance(owner, Watch)}


@pytest.mark.parametrize(
    "app", [(face, pooled) for face in (Sync, Async) for pooled in ("primary", "replica")], indirect=True
)
def test_no_limit_of_the_set_up_ends_a_connection_in_use(app: App) -> None:
    running: set[Watch] = set()

    def ended() -> bool:
        # Connections of asyncio are opened while the loop runs.
        app.face.ping()
        return not running & watches()

    uses = (app.face.query, app.face.query_primary, app.face.ping, app.face.session, app.face.reader)
    for use in (*uses, *uses):
        use()
        running = watches()
        until(ended)
        assert not any(watch.has_expired for watch in running)


@pytest.mark.parametrize("pooled", [False, True])
def test_only_connections_to_a_pooler_are_identified_again(
    pair: Pair, pooler: Pooler, directory: Path, monkeypatch: pytest.MonkeyPatch, *, pooled: bool
) -> None:
    replica = pooler(pair.standby) if pooled else pair.standby

    def count(use: Callable[[], object], connection: PGconn) -> tuple[int, int]:
        """Return how many messages two uses send, and how many of these ask for the identity."""
        log = directory / "messages"
        with log.open("w") as file:
            connection.trace(file.fileno())
            use()
            use()
            connection.untrace()
        sent = [line for line in log.read_text().splitlines() if "\tF\t" in line]
        return len(sent), sum("pg_control_system" in line for line in sent)

    def counts(use: Callable[[], object], connection: PGconn) -> None:
        use()
        monkeypatch.setattr(identity, "AGAIN_SECONDS", 1e9)
        usual, identified = count(use, connection)
        assert (usual > 0, identified) == (True, 0)
        monkeypatch.setattr(identity, "AGAIN_SECONDS", 0)
        more, identified = count(use, connection)
        assert identified == (2 if pooled else 0)
        assert (more > usual) == pooled

    with Database(pair.primary.address, replica_address=replica, pool_size=1) as database:
        with database.replica.session() as session:
            connection = driver_connection(session.connection()).pgconn
        counts(lambda: read(User).all(database.replica), connection)
        counts(database.replica.ping, connection)

    with asyncio.Runner() as loop:
        tasks = AsyncDatabase(pair.primary.address, replica_address=replica, pool_size=1)

        async def raw() -> PGconn:
            async with tasks.replica.engine.connect() as opened:
                return async_driver_connection(await opened.get_raw_connection()).pgconn

        async def query() -> None:
            await read(User).all(tasks.replica)

        connection = loop.run(raw())
        counts(lambda: loop.run(query()), connection)
        counts(lambda: loop.run(tasks.replica.ping()), connection)
        loop.run(tasks.close())
