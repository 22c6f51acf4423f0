"""A replica is compared with the primary again when either is replaced, or the primary was away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from sqlalchemy import URL, text
from sqlalchemy.exc import OperationalError
from tests.conftest import run_sql, until
from tests.database.standbys import Pair, pair

from tatame_db.database import identity
from tatame_db.database.errors import DatabaseUnavailable, NotAReplica
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.queries.read import read
from tatame_db.schema import User

__all__ = ["pair"]


class Sync:
    """The rows that each kind of read finds on the replica, and two uses of the primary."""

    def __init__(self, address: URL, replica: URL) -> None:
        self.database = Database(address, replica_address=replica)

    def ping(self) -> None:
        self.database.ping()

    def lsn(self) -> str:
        return self.database.current_lsn()

    def query_primary(self) -> int:
        return len(read(User).all(self.database))

    def query(self) -> int:
        return len(read(User).all(self.database.replica))

    def session(self) -> int:
        with self.database.replica.session() as session:
            return len(read(User).all(session))

    def reader(self, after: str | None = None) -> int:
        with self.database.reader(after=after) as session:
            return len(read(User).all(session))

    def close(self) -> None:
        self.database.close()


class Async:
    """The same for asyncio, in one event loop."""

    def __init__(self, address: URL, replica: URL) -> None:
        self.database = AsyncDatabase(address, replica_address=replica)
        self._loop = asyncio.Runner()

    def ping(self) -> None:
        self._loop.run(self.database.ping())

    def lsn(self) -> str:
        return self._loop.run(self.database.current_lsn())

    def query_primary(self) -> int:
        async def work() -> int:
            return len(await read(User).all(self.database))

        return self._loop.run(work())

    def query(self) -> int:
        async def work() -> int:
            return len(await read(User).all(self.database.replica))

        return self._loop.run(work())

    def session(self) -> int:
        async def work() -> int:
            async with self.database.replica.session() as session:
                return len(await read(User).all(session))

        return self._loop.run(work())

    def reader(self, after: str | None = None) -> int:
        async def work() -> int:
            async with self.database.reader(after=after) as session:
                return len(await read(User).all(session))

        return self._loop.run(work())

    def close(self) -> None:
        self._loop.run(self.database.close())
        self._loop.close()


class Place:
    """An address that leads to a server of choice, as a name or a port does that a new server takes over."""

    def __init__(self, link: Path, name: str) -> None:
        self.link, self.name = link, name

    def lead_to(self, address: URL | None) -> None:
        if address is None:
            self.link.unlink(missing_ok=True)
            return
        # In one step, so that nothing finds no server.
        new = self.link.with_name(f"{self.link.name}.new")
        new.symlink_to(str(address.query["host"]))
        new.rename(self.link)

    @property
    def address(self) -> URL:
        return URL.create("postgresql+psycopg", "postgres", database=self.name, query={"host": str(self.link)})


@pytest.fixture
def foreign(address: URL) -> URL:
    """A database of another server, with one row."""
    run_sql(address, "INSERT INTO users (clerk_user_id) VALUES ('foreign')")
    return address


def oid(address: URL) -> int | None:
    with Database(address.set(database="postgres")) as database, database.engine.connect() as connection:
        query = text("SELECT oid::bigint FROM pg_database WHERE datname = :name")
        found: int | None = connection.scalar(query, {"name": address.database})
        return found


def end_connections(*addresses: URL) -> None:
    others = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{}'"
    for address in addresses:
        run_sql(address.set(database="postgres"), others.format(address.database))


@pytest.fixture
def own(pair: Pair, foreign: URL) -> Generator[tuple[URL, URL]]:
    """An empty database of the same name, on a primary and its standby."""
    name = str(foreign.database)
    maintenance = pair.primary.address.set(database="postgres")
    run_sql(maintenance, f'CREATE DATABASE "{name}" TEMPLATE tatame')
    primary, standby = pair.primary.address.set(database=name), pair.standby.set(database=name)
    until(lambda: oid(standby))
    yield primary, standby
    run_sql(maintenance, f'DROP DATABASE "{name}" WITH (FORCE)')


class App:
    """An app whose two addresses lead where a test wants, of one face."""

    def __init__(self, face: type[Sync | Async], folder: Path, name: str) -> None:
        self.primary, self.replica = Place(folder / "primary", name), Place(folder / "replica", name)
        self._face = face
        self.face: Sync | Async = face(self.primary.address, self.replica.address)

    def restart(self) -> None:
        self.face.close()
        self.face = self._face(self.primary.address, self.replica.address)

    def lead_to(self, primary: URL | None, replica: URL) -> None:
        self.primary.lead_to(primary)
        self.replica.lead_to(replica)

    @property
    def reads(self) -> list[Callable[[], int]]:
        return [self.face.query, self.face.session, self.face.reader]

    def rows(self) -> list[int]:
        return [count() for count in self.reads]

    def refuses(self) -> bool:
        refused = 0
        for count in self.reads:
            try:
                count()
            except NotAReplica:
                refused += 1
            except (DatabaseUnavailable, OperationalError):
                # Its connection was ended while it was read.
                return False
        return refused == len(self.reads)


@pytest.fixture(params=[Sync, Async])
def app(request: pytest.FixtureRequest, directory: Path, foreign: URL) -> Generator[App]:
    app = App(request.param, directory, str(foreign.database))
    yield app
    app.face.close()


def test_a_replica_is_compared_again_when_the_primary_or_both_are_replaced(
    app: App, own: tuple[URL, URL], foreign: URL
) -> None:
    app.lead_to(*own)
    assert app.rows() == [0, 0, 0]
    position = app.face.lsn()
    app.primary.lead_to(foreign)
    end_connections(own[0])
    # As any use of the primary does.
    app.face.ping()
    assert app.refuses()
    with pytest.raises(NotAReplica):
        app.face.reader(after=position)
    app.replica.lead_to(foreign)
    assert app.rows() == [1, 1, 1]
    # The app reads the replica alone, before it uses the new primary.
    app.lead_to(*own)
    end_connections(foreign)
    assert app.rows() == [0, 0, 0]


def test_a_replica_that_was_connected_while_the_primary_was_away_is_compared_later(
    app: App, own: tuple[URL, URL], foreign: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.lead_to(None, foreign)
    assert app.rows() == [1, 1, 1]
    app.primary.lead_to(own[0])
    app.face.ping()
    assert app.refuses()
    # Without a use of the primary, it is asked every some seconds.
    app.restart()
    monkeypatch.setattr(identity, "AGAIN_SECONDS", 0.05)
    app.primary.lead_to(None)
    assert app.rows() == [1, 1, 1]
    app.primary.lead_to(own[0])
    until(app.refuses)
    app.replica.lead_to(own[1])
    assert app.rows() == [0, 0, 0]


def test_a_database_that_is_rebuilt_under_its_name_is_read_on(app: App, own: tuple[URL, URL]) -> None:
    app.lead_to(*own)
    assert app.rows() == [0, 0, 0]
    name, before = str(own[0].database), oid(own[0])
    maintenance = own[0].set(database="postgres")
    run_sql(maintenance, "CREATE DATABASE rebuilt TEMPLATE tatame")
    run_sql(maintenance, f'DROP DATABASE "{name}" WITH (FORCE)')
    run_sql(maintenance, f'ALTER DATABASE rebuilt RENAME TO "{name}"')
    until(lambda: oid(own[1]) == oid(own[0]) != before)
    assert app.rows() == [0, 0, 0]
    app.face.ping()
    assert app.rows() == [0, 0, 0]
