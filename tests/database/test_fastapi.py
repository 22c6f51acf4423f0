"""FastAPI with a real uvicorn and a real PostgreSQL, which goes away and comes back."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import fastapi
import httpx
import psycopg
import pytest
import uvicorn
from fastapi import APIRouter, FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict
from sqlalchemy import URL, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError
from sqlalchemy.orm import Session
from starlette.websockets import WebSocketDisconnect
from tests.conftest import free_port

from tatame_db import AsyncDatabase, Database, Read, evolve, insert_many, query, read
from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.database.errors import ConnectionsExhausted, OutcomeUnknown, ServerReadOnly
from tatame_db.fastapi import (
    AsyncDatabaseDep,
    AsyncSessionDep,
    DatabaseDep,
    SessionDep,
    add_database_handlers,
    database_lifespan,
    get_async_database,
    get_database,
    health_router,
)
from tatame_db.fastapi.dependencies import DatabaseNotOpened
from tatame_db.fastapi.handlers import CLOSE_CODES, failure_of
from tatame_db.fastapi.installed import FastApiMissing, require_fastapi
from tatame_db.queries.errors import DeadlineExceeded, NotLoaded
from tatame_db.schema import Gym, User
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.testing import turns
from tatame_db.testing.factories import a_gym, a_user
from tatame_db.testing.turns import TransactionsOverlap

FACES = ["sync", "async"]
GUARD_SECONDS = 20


class GymOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str


class UserOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    first_name: str | None
    gym: GymOut | None


def sync_routes() -> APIRouter:
    """Return endpoints in threads; each has a twin in `async_routes`."""
    router = APIRouter(prefix="/sync")

    @router.post("/gyms", status_code=201)
    def add_gym(session: SessionDep, name: str, status: int = 201, manager_id: int | None = None) -> GymOut:
        session.execute(text("SET CONSTRAINTS ALL DEFERRED"))
        gym = a_gym(name=name, manager_id=manager_id)
        session.add(gym)
        session.flush()
        if status != 201:
            raise HTTPException(status, "as requested")
        return GymOut.model_validate(gym)

    @router.get("/gyms")
    def list_gyms(database: DatabaseDep) -> list[GymOut]:
        return read(Gym).order_by(Gym.id).all(database)  # type: ignore[return-value]  # by their attributes

    @router.post("/statements")
    def run(session: SessionDep, sql: str, name: str) -> Any:
        session.add(a_gym(name=name))
        session.flush()
        session.execute(text(sql))

    @router.post("/caught")
    def go_on(session: SessionDep, name: str) -> None:
        session.add(a_gym(name=name))
        session.flush()
        session.add(a_user(gym_id=10**6))
        with suppress(IntegrityError):
            session.flush()

    @router.post("/lost-commits")
    def lose(session: SessionDep, name: str) -> None:
        session.add(a_gym(name=name))
        session.flush()
        end_session(session.scalar(text("SELECT pg_backend_pid()")))

    return router


def async_routes() -> APIRouter:
    """Return endpoints in the event loop."""
    router = APIRouter(prefix="/async")

    @router.post("/gyms", status_code=201)
    async def add_gym(session: AsyncSessionDep, name: str, status: int = 201, manager_id: int | None = None) -> GymOut:
        await session.execute(text("SET CONSTRAINTS ALL DEFERRED"))
        gym = a_gym(name=name, manager_id=manager_id)
        session.add(gym)
        await session.flush()
        if status != 201:
            raise HTTPException(status, "as requested")
        return GymOut.model_validate(gym)

    @router.get("/gyms")
    async def list_gyms(database: AsyncDatabaseDep) -> list[GymOut]:
        return await read(Gym).order_by(Gym.id).all(database)  # type: ignore[return-value]  # by their attributes

    @router.post("/statements")
    async def run(session: AsyncSessionDep, sql: str, name: str) -> Any:
        session.add(a_gym(name=name))
        await session.flush()
        await session.execute(text(sql))

    @router.post("/caught")
    async def go_on(session: AsyncSessionDep, name: str) -> None:
        session.add(a_gym(name=name))
        await session.flush()
        session.add(a_user(gym_id=10**6))
        with suppress(IntegrityError):
            await session.flush()

    @router.post("/lost-commits")
    async def lose(session: AsyncSessionDep, name: str) -> None:
        session.add(a_gym(name=name))
        await session.flush()
        end_session(await session.scalar(text("SELECT pg_backend_pid()")))

    return router


class Superuser:
    """The address by which a test ends sessions of the app."""

    address: URL


def end_session(process: int | None) -> None:
    with psycopg.connect(readable(Superuser.address), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", [process])


@dataclass
class App:
    """An app that runs in a uvicorn."""

    client: httpx.Client
    server: EmbeddedServer

    def until(self, path: str, status: int) -> httpx.Response:
        """Repeat a request until its status is the expected one."""
        deadline = time.monotonic() + GUARD_SECONDS
        while (response := self.client.get(path)).status_code != status:
            assert time.monotonic() < deadline, response.text
            time.sleep(0.05)
        return response


@contextmanager
def serving(app: FastAPI) -> Iterator[httpx.Client]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    # uvicorn closes the connection after an error, perhaps only when the next request is on its way there.
    once = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=GUARD_SECONDS, limits=once) as client:
        yield client
    server.should_exit = True
    thread.join(GUARD_SECONDS)
    assert not thread.is_alive()


def app_on(address: URL, **options: Any) -> FastAPI:
    app = FastAPI(
        lifespan=database_lifespan(lambda: AsyncDatabase(address, **options), lambda: Database(address, **options))
    )
    add_database_handlers(app)
    app.include_router(health_router)
    app.include_router(sync_routes())
    app.include_router(async_routes())
    return app


@pytest.fixture
def app(address: URL, server: EmbeddedServer) -> Generator[App]:
    """An app on a migrated, empty database."""
    Superuser.address = address
    with serving(app_on(address, pool_size=2, pool_timeout_seconds=0.2, statement_timeout_ms=500)) as client:
        yield App(client, server)


def names(app: App, face: str) -> list[str]:
    return [gym["name"] for gym in app.client.get(f"/{face}/gyms").json()]


# --- One transaction for each request --------------------------------------------------------------------------------


@pytest.mark.parametrize("face", FACES)
def test_a_transaction_is_committed_when_the_endpoint_returns(app: App, face: str) -> None:
    added = app.client.post(f"/{face}/gyms", params={"name": "Sul"})
    assert (added.status_code, added.json()["name"]) == (201, "Sul")
    assert names(app, face) == ["Sul"]


@pytest.mark.parametrize("face", FACES)
def test_an_exception_rolls_back(app: App, face: str) -> None:
    assert app.client.post(f"/{face}/gyms", params={"name": "Sul", "status": 409}).status_code == 409
    assert names(app, face) == []


@pytest.mark.parametrize("face", FACES)
def test_a_client_is_never_told_of_a_success_whose_commit_failed(app: App, face: str) -> None:
    # The foreign key is deferred: the statement succeeds, and the COMMIT fails.
    failed = app.client.post(f"/{face}/gyms", params={"name": "Sul", "manager_id": 99})
    assert (failed.status_code, failed.text) == (500, "Internal Server Error")
    assert names(app, face) == []


@pytest.mark.parametrize("face", FACES)
def test_a_client_is_never_told_of_a_success_whose_flush_failed(app: App, face: str) -> None:
    failed = app.client.post(f"/{face}/caught", params={"name": "Sul"})
    assert (failed.status_code, failed.text) == (500, "Internal Server Error")
    assert names(app, face) == []


@pytest.mark.parametrize("face", FACES)
def test_a_bug_is_500_and_names_no_value(app: App, face: str) -> None:
    failed = app.client.post(f"/{face}/statements", params={"sql": "SELECT nonsense", "name": "Sul"})
    assert (failed.status_code, failed.text) == (500, "Internal Server Error")
    assert names(app, face) == []


# --- A database that is away -----------------------------------------------------------------------------------------


@pytest.fixture
def own_server(fresh_server: EmbeddedServer) -> EmbeddedServer:
    """A server that the test may stop."""
    fresh_server.start()
    create_missing_database(fresh_server.address)
    with Database(fresh_server.address) as database:
        evolve.migrate(database.engine)
    return fresh_server


@pytest.mark.long
def test_a_stopped_server_is_503_and_then_200_again(own_server: EmbeddedServer) -> None:
    with serving(app_on(own_server.address)) as client:
        app = App(client, own_server)
        assert client.get("/health/ready").json()["status"] == "ready"
        for face in FACES:
            assert client.post(f"/{face}/gyms", params={"name": face}).status_code == 201

        own_server.stop()
        for face in FACES:
            # The first request may meet the farewell on an idle connection.
            for response in (client.get(f"/{face}/gyms"), client.post(f"/{face}/gyms", params={"name": "lost"})):
                assert response.status_code == 503, response.text
                assert response.headers["Retry-After"] == "5"
                assert response.json() == {"detail": "The database is unavailable; try again later."}
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"status": "unavailable"})
        assert client.get("/health/live").json() == {"status": "live"}
        leaks = (str(own_server.directory), "psycopg", "postgres")
        assert not [word for word in leaks if word in ready.text + response.text]

        own_server.start()
        assert app.until("/health/ready", 200).json()["latency_ms"] >= 0
        for face in FACES:
            assert client.post(f"/{face}/gyms", params={"name": "again"}).status_code == 201
            assert "lost" not in names(app, face)


@pytest.mark.parametrize("face", FACES)
def test_a_connection_that_is_lost_before_the_commit_changed_nothing(app: App, face: str) -> None:
    lost = app.client.post(
        f"/{face}/statements", params={"sql": "SELECT pg_terminate_backend(pg_backend_pid())", "name": "Sul"}
    )
    assert (lost.status_code, lost.headers["Retry-After"]) == (503, "5")
    assert lost.json()["detail"].endswith("try again later.")
    assert names(app, face) == []


@pytest.mark.parametrize("face", FACES)
def test_a_client_is_not_asked_to_repeat_what_may_have_been_committed(app: App, face: str) -> None:
    lost = app.client.post(f"/{face}/lost-commits", params={"name": "Sul"})
    assert lost.status_code == 503
    assert "Retry-After" not in lost.headers
    assert lost.json()["detail"].endswith("the request may have been carried out.")


@pytest.mark.parametrize("face", FACES)
def test_a_slow_statement_is_503(app: App, face: str) -> None:
    slow = app.client.post(f"/{face}/statements", params={"sql": "SELECT pg_sleep(30)", "name": "Sul"})
    assert slow.status_code == 503
    assert slow.json()["detail"] == "The database did not answer in time; try again later."
    assert names(app, face) == []


@pytest.mark.parametrize("face", FACES)
def test_a_full_pool_is_503(app: App, address: URL, face: str) -> None:
    with psycopg.connect(readable(address)) as locking:
        locking.execute("LOCK TABLE gyms IN ACCESS EXCLUSIVE MODE")
        busy = [
            threading.Thread(target=lambda: app.client.post(f"/{face}/gyms", params={"name": "Sul"})) for _ in range(2)
        ]
        for thread in busy:
            thread.start()
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        while psycopg_count(address, query) < 2:
            time.sleep(0.01)
        # The statement time-out ends those that wait; until then they have both connections.
        full = app.client.get(f"/{face}/gyms")
        assert (full.status_code, full.headers["Retry-After"]) == (503, "5")
        assert "connection" not in full.text
    for thread in busy:
        thread.join(GUARD_SECONDS)
    assert app.client.get(f"/{face}/gyms").status_code == 200


def psycopg_count(address: URL, query: str) -> int:
    with psycopg.connect(readable(address)) as connection:
        row = connection.execute(query.encode()).fetchone()
        return int(row[0]) if row else 0


@pytest.mark.parametrize(
    ("state", "may_repeat"),
    [
        *(("08006", True), ("53300", True), ("53100", True), ("40001", True), ("40P01", True), ("55P03", True)),
        *(("57014", True), ("57P01", True), ("57P03", True), ("25006", True)),
        *(("23505", None), ("42P01", None), ("22P02", None), ("42501", None), ("25P02", None), ("57P04", None)),
    ],
)
def test_only_errors_that_pass_are_503(state: str, may_repeat: bool | None) -> None:
    psycopg_error = psycopg.errors.lookup(state)("duplicate key: ana@gym.example")
    error = DBAPIError.instance("SELECT 1", None, psycopg_error, psycopg.Error)
    assert isinstance(error, DBAPIError)
    failure = failure_of(error)
    assert (failure and failure.may_repeat) == may_repeat
    assert failure is None or "ana@gym.example" not in failure.detail


@query
def gym_by_id(gym_id: int) -> Read[Gym]:
    return read(Gym).where(Gym.id == gym_id)


def test_a_value_that_the_database_cannot_hold_is_422(address: URL, caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI(lifespan=database_lifespan(lambda: Database(address)))
    add_database_handlers(app)

    @app.get("/query/{gym_id}")
    def by_query(gym_id: int, database: DatabaseDep) -> bool:
        return gym_by_id.exists(database, gym_id)

    @app.get("/session/{gym_id}")
    def by_session(gym_id: int, session: SessionDep) -> bool:
        return session.get(Gym, gym_id) is not None

    @app.post("/write")
    def write(name: str, database: DatabaseDep) -> int:
        return insert_many(Gym, [{"name": name}]).run(database)

    @app.post("/session")
    def add(name: str, session: SessionDep) -> None:
        session.add(User(clerk_user_id=name))
        session.flush()

    with TestClient(app) as client:
        assert [client.get(f"/{way}/1").json() for way in ("query", "session")] == [False, False]
        caplog.clear()
        answers = [
            client.get("/query/99999999999"),
            client.get("/session/99999999999"),
            client.post("/write", params={"name": "a\0secret"}),
            client.post("/session", params={"name": "a\0secret"}),
        ]
    assert [answer.status_code for answer in answers] == [422] * 4
    assert {answer.text for answer in answers} == {'{"detail":"A value of the request cannot be stored or compared."}'}
    logged = [record.message for record in caplog.records if record.name == "tatame_db.fastapi"]
    assert [line.split(":")[0] for line in logged] == [
        "422 for GET /query/{gym_id}",
        "422 for GET /session/{gym_id}",
        "422 for POST /write",
        "422 for POST /session",
    ]
    assert "secret" not in caplog.text
    assert "99999999999" not in "".join(logged)


ADDRESS = URL.create("postgresql+psycopg", "ana", "secret", "db.example")


@pytest.mark.parametrize(
    ("error", "may_repeat"),
    [
        (ConnectionsExhausted(address=ADDRESS, size=20, seconds=30), True),
        (ServerReadOnly(address=ADDRESS, reason="cannot execute INSERT in a read-only transaction"), True),
        (DeadlineExceeded(name="presences", deadline_ms=50, seconds=0.05, sent=True), True),
        (OutcomeUnknown(name="insert Checkin", reason="server closed the connection"), False),
        (NotLoaded(model="User", attribute="gym", is_relation=True), None),
        (ValueError("ana@gym.example"), None),
    ],
)
def test_errors_of_the_package_that_pass_are_503(error: Exception, may_repeat: bool | None) -> None:
    failure = failure_of(error)
    assert (failure and failure.may_repeat) == may_repeat
    assert failure is None or "db.example" not in failure.detail


def test_the_log_has_the_error_without_values(app: App, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tatame_db.fastapi"):
        app.client.post("/sync/statements", params={"sql": "SELECT pg_sleep(30)", "name": "Sul"})
    assert [record.message for record in caplog.records] == ["503 for POST /sync/statements: QueryCanceled 57014"]


# --- The lifespan ----------------------------------------------------------------------------------------------------


def test_a_lifespan_of_the_app_runs_while_the_databases_are_open(address: URL) -> None:
    events: list[str] = []
    opened = AsyncDatabase(address)

    @asynccontextmanager
    async def own(_: FastAPI) -> AsyncIterator[dict[str, str]]:
        events.append(f"open: {(await opened.check()).healthy}")
        yield {"greeting": "oss"}
        events.append(f"close: {(await opened.check()).healthy}")

    app = FastAPI(lifespan=database_lifespan(opened, app_lifespan=own))

    @app.get("/")
    async def greet(request: fastapi.Request, database: AsyncDatabaseDep) -> str:
        assert database is opened
        return str(request.state.greeting)

    with TestClient(app) as client:
        assert client.get("/").json() == "oss"
    assert events == ["open: True", "close: True"]
    assert asyncio.run(opened.check()).healthy is False


def test_the_database_of_the_settings_is_the_default(address: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", readable(address))
    app = FastAPI(lifespan=database_lifespan())
    app.include_router(health_router)
    app.include_router(async_routes())
    # A second start opens another one.
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/health/ready").status_code == 200
            assert client.get("/async/gyms").json() == []


def test_a_lifespan_of_ones_own_may_open_the_database(address: URL) -> None:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Database]]:
        with Database(address) as database:
            yield {"database": database}

    app = FastAPI(lifespan=lifespan)
    app.include_router(sync_routes())
    app.include_router(health_router)
    with TestClient(app) as client:
        assert client.get("/sync/gyms").json() == []
        assert client.get("/health/ready").status_code == 200


def test_a_mounted_app_shares_the_database(address: URL) -> None:
    app, mounted = FastAPI(lifespan=database_lifespan(lambda: AsyncDatabase(address))), FastAPI()
    mounted.include_router(async_routes())
    app.mount("/v2", mounted)
    with TestClient(app) as client:
        assert client.get("/v2/async/gyms").json() == []


def test_two_databases_of_a_kind_are_refused(address: URL) -> None:
    app = FastAPI(lifespan=database_lifespan(lambda: Database(address), lambda: Database(address)))
    with pytest.raises(TypeError, match="two databases of the type Database"), TestClient(app):
        pass


@pytest.mark.parametrize("face", FACES)
def test_an_app_without_a_lifespan_says_what_is_missing(face: str) -> None:
    app = FastAPI()
    app.include_router(sync_routes())
    app.include_router(async_routes())
    app.include_router(health_router)
    client = TestClient(app)
    with pytest.raises(DatabaseNotOpened, match=r"the app has opened no `(Async)?Database`"):
        client.get(f"/{face}/gyms")
    assert client.get("/health/ready").status_code == 503


# --- What an endpoint can do -----------------------------------------------------------------------------------------


def test_a_session_cannot_be_used_after_the_request(address: URL) -> None:
    app = FastAPI(lifespan=database_lifespan(lambda: AsyncDatabase(address)))

    @app.get("/")
    async def stream(session: AsyncSessionDep) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            yield str(await session.scalar(select(1)))

        return StreamingResponse(lines())

    with TestClient(app) as client, pytest.raises(InvalidRequestError, match="permanently closed"):
        client.get("/")


def test_a_stream_reads_from_the_database(address: URL, committed_database: Database) -> None:
    insert_many(User, [{"clerk_user_id": str(number)} for number in range(2_500)]).run(committed_database)
    app = FastAPI(lifespan=database_lifespan(lambda: AsyncDatabase(address)))

    @app.get("/")
    async def export(database: AsyncDatabaseDep) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            async for user in read(User).order_by(User.id).stream(database):
                yield f"{user.id}\n"

        return StreamingResponse(lines())

    with TestClient(app) as client:
        assert len(client.get("/").text.splitlines()) == 2_500


def test_a_websocket_has_the_database_and_is_closed_when_it_is_away(address: URL, fresh_server: EmbeddedServer) -> None:
    def app(address: URL) -> FastAPI:
        app = FastAPI(lifespan=database_lifespan(lambda: AsyncDatabase(address)))
        add_database_handlers(app)

        @app.websocket("/")
        async def gyms(websocket: WebSocket, database: AsyncDatabaseDep) -> None:
            await websocket.accept()
            await websocket.send_json(len(await read(Gym).all(database)))

        return app

    with TestClient(app(address)) as client, client.websocket_connect("/") as websocket:
        assert websocket.receive_json() == 0
    away = TestClient(app(fresh_server.address))
    with away, away.websocket_connect("/") as websocket:
        with pytest.raises(WebSocketDisconnect) as closed:
            websocket.receive_json()
        assert closed.value.code == CLOSE_CODES[503]


# --- Rows in responses -----------------------------------------------------------------------------------------------


@pytest.fixture
def rows(database: Database) -> FastAPI:
    with database.session.begin() as session:
        session.add(a_user(first_name="Ana", email="ana@gym.example", gym=a_gym(name="Sul")))
    app = FastAPI()
    app.dependency_overrides[get_database] = lambda: database
    add_database_handlers(app)

    @app.get("/model")
    def with_model(database: DatabaseDep) -> list[UserOut]:
        return read(User).load(User.gym).all(database)  # type: ignore[return-value]  # by their attributes

    @app.get("/raw")
    def raw(database: DatabaseDep) -> Any:
        return read(User).columns(User.first_name).load(read(User.gym).columns(Gym.name)).all(database)

    @app.get("/nothing")
    def without_annotation(database: DatabaseDep):  # type: ignore[no-untyped-def]
        return read(User).columns(User.first_name).load(read(User.gym).columns(Gym.name)).one(database)

    @app.get("/incomplete")
    def incomplete(database: DatabaseDep) -> list[UserOut]:
        return read(User).all(database)  # type: ignore[return-value]  # by their attributes

    @app.get("/deeper")
    def deeper(database: DatabaseDep) -> UserOut:
        return read(User).load(read(User.gym).columns(Gym.id)).one(database)  # type: ignore[return-value]  # as above

    return app


def test_a_response_model_chooses_the_attributes_of_rows(rows: FastAPI) -> None:
    [user] = TestClient(rows).get("/model").json()
    assert user == {"first_name": "Ana", "gym": {"id": user["gym"]["id"], "name": "Sul"}}


def test_a_row_without_a_model_becomes_what_was_loaded(rows: FastAPI) -> None:
    user = {"first_name": "Ana", "gym": {"name": "Sul"}}
    assert TestClient(rows).get("/raw").json() == [user]
    assert TestClient(rows).get("/nothing").json() == user


@pytest.mark.parametrize(("path", "attribute"), [("/incomplete", "User.gym"), ("/deeper", "Gym.name")])
def test_an_attribute_that_was_not_loaded_is_named(rows: FastAPI, path: str, attribute: str) -> None:
    with pytest.raises(NotLoaded, match=f"{attribute} was not loaded"):
        TestClient(rows).get(path)
    response = TestClient(rows, raise_server_exceptions=False).get(path)
    assert (response.status_code, response.text) == (500, "Internal Server Error")


def test_another_wrong_response_stays_an_error_of_fastapi() -> None:
    app = FastAPI()
    add_database_handlers(app)

    @app.get("/")
    def wrong() -> GymOut:
        return {"id": "one"}  # type: ignore[return-value]  # wrong on purpose

    with pytest.raises(fastapi.exceptions.ResponseValidationError):
        TestClient(app).get("/")


# --- With the test kit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [1, 2])
def test_an_app_is_tested_in_a_transaction_that_is_rolled_back(
    database: Database, async_database: AsyncDatabase, turn: int
) -> None:
    app = app_on(URL.create("postgresql+psycopg", host="nowhere.example"))
    app.dependency_overrides |= {get_database: lambda: database, get_async_database: lambda: async_database}
    with database.session.begin() as session:
        session.add(a_gym(name=f"test {turn}"))
    with TestClient(app) as client:
        for face in FACES:
            assert client.post(f"/{face}/gyms", params={"name": face}).status_code == 201
            assert client.post(f"/{face}/gyms", params={"name": "gone", "status": 418}).status_code == 418
        found = [gym["name"] for gym in client.get("/async/gyms").json()]
    assert found == [f"test {turn}", *FACES]
    assert [gym.name for gym in read(Gym).order_by(Gym.id).all(database)] == found


def test_requests_that_run_at_once_are_tested_in_one_transaction(
    database: Database, async_database: AsyncDatabase
) -> None:
    app = FastAPI(dependencies=[])
    app.include_router(sync_routes())
    app.include_router(async_routes())
    app.dependency_overrides |= {get_database: lambda: database, get_async_database: lambda: async_database}

    async def requests() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            calls = [
                client.post(f"/{face}/gyms", params={"name": f"{face} {number}", "status": 201 + number % 2 * 208})
                for number in range(10)
                for face in FACES
            ]
            answers = await asyncio.wait_for(asyncio.gather(*calls), GUARD_SECONDS)
        assert [answer.status_code for answer in answers] == [201, 201, 409, 409] * 5

    asyncio.run(requests())
    expected = {f"{face} {number}" for number in range(0, 10, 2) for face in FACES}
    assert {gym.name for gym in read(Gym).all(database)} == expected


def test_an_endpoint_that_waits_for_the_session_of_the_test_gets_an_error(
    database: Database, async_database: AsyncDatabase, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 0.2)
    app = FastAPI()
    app.include_router(sync_routes())
    app.include_router(async_routes())
    app.dependency_overrides |= {get_database: lambda: database, get_async_database: lambda: async_database}
    session.add(a_gym(name="Sul"))
    session.flush()
    client = TestClient(app)
    for face in FACES:
        with pytest.raises(TransactionsOverlap, match=r"INSERT INTO public\.gyms"):
            client.get(f"/{face}/gyms")
    session.commit()
    for face in FACES:
        assert [gym["name"] for gym in client.get(f"/{face}/gyms").json()] == ["Sul"]


# --- Without FastAPI -------------------------------------------------------------------------------------------------

WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == "fastapi":
            raise ModuleNotFoundError("No module named 'fastapi'", name="fastapi")

sys.meta_path.insert(0, Missing())
try:
    import tatame_db.fastapi
except ImportError as error:
    print(error)
"""


def test_an_import_without_fastapi_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", WITHOUT], check=True, capture_output=True, text=True)
    assert "needs FastAPI 0.121 or newer, and it is not installed" in done.stdout
    assert "hint: install it with `python -m pip install 'fastapi>=0.121'`" in done.stdout


def test_a_fastapi_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def depends(dependency: Callable[..., Any] | None = None, *, use_cache: bool = True) -> None: ...

    monkeypatch.setattr(fastapi, "Depends", depends)
    with pytest.raises(FastApiMissing, match=f"version {fastapi.__version__} is installed"):
        require_fastapi()


def test_the_schema_has_no_health_routes_and_no_dependencies(address: URL) -> None:
    schema = json.dumps(app_on(address).openapi())
    assert "/async/gyms" in schema
    assert "health" not in schema
    assert "session" not in schema
