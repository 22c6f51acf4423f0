"""The routes of the studio."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tatame_db.database.address import readable
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.errors import TatameError
from tatame_db.studio import changes, moves, overview, rows
from tatame_db.studio.answers import BadInput, Forbidden, Streamed, answer, explain, while_asked
from tatame_db.studio.export import MEDIA_TYPES, exported
from tatame_db.studio.filters import OPERATORS
from tatame_db.studio.query import Queries, Statement
from tatame_db.studio.session import PAGE_SECONDS, answers, reading, writing
from tatame_db.studio.tables import described, table_named

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from starlette.requests import Request

    from tatame_db.studio.access import Access

STATIC = files("tatame_db.studio") / "static"
_HEALTH_SECONDS = 3
_SAVE_SECONDS = 60
_SLOW_SECONDS = 600
_MAX_BODY_BYTES = 16_000_000


@dataclass
class Studio:
    """What the routes work on."""

    access: Access

    def __post_init__(self) -> None:
        self.database = AsyncDatabase(self.access.address)
        self.queries = Queries(self.database, self.access.write)
        # For what the rest of the package does without asyncio.
        self.engine = Database(self.access.address).engine

    async def close(self) -> None:
        """Close all connections."""
        await self.database.engine.dispose()
        self.engine.dispose()

    def app(self) -> Starlette:
        """Put the routes together."""
        errors = (TatameError, DBAPIError, psycopg.Error, PoolTimeout, TimeoutError)
        return Starlette(
            routes=[
                _get("/api/session", self.session),
                _get("/api/health", self.health, seconds=_HEALTH_SECONDS),
                _get("/api/overview", self.overview),
                _get("/api/drift", self.drift, seconds=_SLOW_SECONDS),
                _get("/api/move", self.move),
                _get("/api/move/stale", self.stale, seconds=_SLOW_SECONDS),
                Route("/api/move/events", self.move_events),
                _get("/api/count/{table}", self.count),
                _get("/api/rows/{table}", self.rows),
                _get("/api/row/{table}/{key:path}", self.row),
                _get("/api/find", self.find),
                _get("/api/cell/{table}/{column}/{key:path}", self.cell),
                Route("/api/export/{table}.{form}", self.export),
                Route("/api/changes", self.changes, methods=["POST"]),
                Route("/api/sql", self.sql, methods=["POST"]),
                Route("/api/sql/cancel", self.cancel, methods=["POST"]),
                Mount("/static", StaticFiles(directory=str(STATIC), check_dir=False)),
                Route("/api/{path:path}", _no_such_call, methods=["GET", "POST"]),
                Route("/{path:path}", shell),
            ],
            exception_handlers={**dict.fromkeys(errors, _explained), HTTPException: _told, Exception: _a_bug},
        )

    # What there is

    async def session(self, _: Request) -> dict[str, Any]:
        """Say where we are, as whom, and what tables there are; known without asking the database."""
        operators = {kind: list(known) for kind, known in OPERATORS.items()}
        return self.where() | {"tables": described(), "operators": operators}

    def where(self) -> dict[str, Any]:
        """Say where we are, and as whom."""
        return {
            "server": readable(self.access.address),
            "database": self.access.address.database,
            "role": self.access.role,
            "mode": "write" if self.access.write else "read-only",
            "version": version("tatame-db"),
        }

    async def health(self, _: Request) -> dict[str, Any]:
        """Make a round trip."""
        started = time.perf_counter()
        await answers(self.database)
        ms = round((time.perf_counter() - started) * 1000, 1)
        return {"ok": True, "latency_ms": ms, "pool": self.pool()}

    async def overview(self, _: Request) -> dict[str, Any]:
        """Say how the server, the schema and the tables are."""
        async with reading(self.database) as connection:
            found = await overview.server(connection)
        schema = await asyncio.to_thread(overview.schema, self.engine)
        return self.where() | found | schema | {"pool": self.pool()}

    async def drift(self, _: Request) -> dict[str, Any]:
        """Compare the database with its migrations."""
        return await asyncio.to_thread(overview.drift, self.engine)

    async def move(self, _: Request) -> dict[str, Any]:
        """Say how the move stands."""
        async with reading(self.database) as connection:
            return await moves.remembered(connection)

    async def stale(self, _: Request) -> dict[str, Any]:
        """Look whether what was proven still holds."""
        return await asyncio.to_thread(moves.stale, self.engine)

    async def move_events(self, _: Request) -> Response:
        """Tell how the move stands, as it changes."""
        return Streamed(moves.events(self.database), "text/event-stream", open_ended=True)

    def pool(self) -> dict[str, int]:
        """Count our own connections."""
        pool = self.database.engine.sync_engine.pool
        return {"size": pool.size(), "in_use": pool.checkedout()}  # type: ignore[attr-defined]  # a QueuePool's

    # Rows

    async def rows(self, request: Request) -> dict[str, Any]:
        """Give a page of rows."""
        asked, query = _question(request), request.query_params
        async with reading(self.database) as connection:
            page = await rows.page(
                connection,
                asked,
                limit=_number(query.get("limit", "100")),
                after=query.get("after"),
                before=query.get("before"),
                last="last" in query,
            )
        return asdict(page)

    async def count(self, request: Request) -> dict[str, Any]:
        """Count rows exactly."""
        async with reading(self.database) as connection:
            return {"rows": await rows.count(connection, _question(request))}

    async def row(self, request: Request) -> dict[str, Any]:
        """Give a row and its surroundings."""
        async with reading(self.database) as connection:
            table = table_named(request.path_params["table"])
            return await rows.row(connection, table, request.path_params["key"])

    async def cell(self, request: Request) -> dict[str, Any]:
        """Give a whole value."""
        path = request.path_params
        async with reading(self.database) as connection:
            return {"value": await rows.cell(connection, table_named(path["table"]), path["key"], path["column"])}

    async def find(self, request: Request) -> list[dict[str, Any]]:
        """Find rows to point at."""
        query = request.query_params
        async with reading(self.database) as connection:
            return await rows.find(connection, table_named(query.get("table", "")), query.get("q", ""))

    async def export(self, request: Request) -> Response:
        """Download all the rows that are meant."""
        table, form = request.path_params["table"], request.path_params["form"]
        if form not in MEDIA_TYPES:
            raise BadInput(f"rows are not exported as {form!r}", fix=f"take {' or '.join(MEDIA_TYPES)}")
        headers = {"Content-Disposition": f'attachment; filename="{table_named(table)}.{form}"'}
        return Streamed(exported(self.database, _question(request), form), MEDIA_TYPES[form], headers)

    async def changes(self, request: Request) -> Response:
        """Save what was mended, or say what that would run."""
        asked = await _body(request, changes.Changes)
        if not self.access.write:
            raise ReadOnly
        if asked.preview:
            return answer({"sql": changes.preview(asked.changes)})
        # Not undone when the browser leaves: it would not know what became of its changes.
        async with asyncio.timeout(_SAVE_SECONDS), writing(self.database) as connection:
            saved = await changes.save(connection, asked.changes)
        return answer({"saved": len(saved), "rows": saved})

    # SQL

    async def sql(self, request: Request) -> Response:
        """Run a statement."""
        asked = await _body(request, Statement)
        return Streamed(_lines(self.queries.run(asked)), "application/x-ndjson", open_ended=True)

    async def cancel(self, request: Request) -> Response:
        """Cancel a statement."""
        asked = await _body(request, _Cancel)
        return answer({"cancelled": await self.queries.cancel(asked.id)})


class ReadOnly(Forbidden):
    """The studio was started without `--write`."""

    def __init__(self) -> None:
        super().__init__("this studio only reads", fix="start it with `tatame-db studio --write` to change rows")


class _Cancel(msgspec.Struct, forbid_unknown_fields=True):
    id: str


def _get(path: str, function: Callable[[Request], Awaitable[Any]], *, seconds: int = PAGE_SECONDS + 5) -> Route:
    async def respond(request: Request) -> Response:
        async def work() -> Any:
            return await function(request)

        return answer(await while_asked(request.receive, work(), seconds))

    return Route(path, respond)


async def _body(request: Request, kind: type[Any]) -> Any:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise BadInput("the request is no JSON", fix="send it as `Content-Type: application/json`")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _MAX_BODY_BYTES:
            raise BadInput(f"the request is larger than {_MAX_BODY_BYTES:,} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"the request cannot be read: {error}") from None


def _question(request: Request) -> rows.Question:
    query = request.query_params
    return rows.question(
        table_named(request.path_params["table"]),
        columns=query.get("columns", ""),
        sort=query.get("sort", ""),
        filters=query.get("filter", ""),
    )


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadInput(f"{text!r} is no number of rows")
    return int(text)


async def _lines(pieces: AsyncGenerator[dict[str, Any]]) -> AsyncGenerator[bytes]:
    try:
        async for piece in pieces:
            yield msgspec.json.encode(piece) + b"\n"
    finally:
        await pieces.aclose()


async def shell(request: Request) -> Response:
    """Give the page that every address of the browser's begins with."""
    try:
        page = (STATIC / "index.html").read_text(encoding="utf-8")
    except FileNotFoundError:
        return PlainTextResponse("The studio's pages were not built: `make studio-assets`.", 500)
    return HTMLResponse(page.replace("{{nonce}}", request.scope["nonce"]))


async def _explained(request: Request, error: Exception) -> Response:
    return explain(request, error)


async def _a_bug(_: Request, __: Exception) -> Response:
    # Starlette raises it again, so that the terminal has the traceback.
    what = "something happened that nobody foresaw"
    return answer({"what": what, "means": "", "fix": "look into the studio's terminal", "code": None}, 500)


async def _told(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if request.url.path.startswith("/api/"):
        facts = {"what": error.detail, "means": "Nothing was changed.", "fix": "check the address", "code": None}
        return answer(facts, error.status_code)
    return PlainTextResponse(error.detail, error.status_code)


async def _no_such_call(request: Request) -> Response:
    raise HTTPException(404, f"there is no {request.url.path}")
