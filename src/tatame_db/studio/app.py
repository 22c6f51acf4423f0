"""The routes of the studio: each reads its request, calls one function, and responds with JSON or a stream."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tatame_db.database.address import readable
from tatame_db.database.pool import AsyncDatabase, Database
from tatame_db.errors import NOTHING_CHANGED
from tatame_db.studio import activity, changes, moves, overview, row, rows, searched
from tatame_db.studio.catalogue import list_tables
from tatame_db.studio.day import WayBack
from tatame_db.studio.errors import EXPECTED, BadInput, WritesDisabled
from tatame_db.studio.export import attachment, export, read_form
from tatame_db.studio.filters import OPERATORS
from tatame_db.studio.find_routes import find_routes
from tatame_db.studio.imports.source import sample
from tatame_db.studio.imports.transaction import Imports
from tatame_db.studio.imports.upload import uploaded
from tatame_db.studio.index import STATIC, index_page
from tatame_db.studio.locks import explained_locks
from tatame_db.studio.memory import Budget
from tatame_db.studio.page import Place, read_page
from tatame_db.studio.requests import get_route as _get
from tatame_db.studio.requests import json_body as _body
from tatame_db.studio.responses import StreamedResponse, json_response, problem_response
from tatame_db.studio.saved_routes import saved_query_routes
from tatame_db.studio.sql.export import Exports, ResultExport
from tatame_db.studio.sql.routes import sql_routes
from tatame_db.studio.sql.sessions import Sessions
from tatame_db.studio.tables import describe, describe_models, table_named
from tatame_db.studio.transactions import read_transaction, write_transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL
    from sqlalchemy.ext.asyncio import AsyncConnection
    from starlette.requests import Request

    from tatame_db.doctor import Setup
    from tatame_db.studio.access import Access
    from tatame_db.studio.catalogue import TableName
    from tatame_db.studio.changes import Changes
    from tatame_db.studio.page import Page
    from tatame_db.studio.row import Row
    from tatame_db.studio.rows import Selection
    from tatame_db.studio.saved import SavedQueries
    from tatame_db.studio.tables import TableDescription

_HEALTH_SECONDS = 3
_SAVE_SECONDS = 60
_COMPARISON_SECONDS = 600


@dataclass
class Studio:
    """The connections of the studio, and a method for each route."""

    access: Access
    source: Callable[[], URL]
    """Returns the address of the source of the move."""
    setup: Setup
    """What the settings say for the doctor."""
    saved: SavedQueries

    def __post_init__(self) -> None:
        self.own = f"tatame-db studio {os.getpid()}"
        # Also where the address has a name, because the sessions of this studio must be known.
        address = self.access.address.update_query_dict({"application_name": self.own})
        self.database = AsyncDatabase(address)
        budget = Budget()
        self.sql_sessions = Sessions(self.database, budget, write=self.access.write)
        self.exports = Exports(self.database, budget, write=self.access.write)
        self.imports = Imports(self.database)
        # `evolve` and `move` are synchronous.
        self.engine = Database(address).engine
        self.way_back = WayBack(self.engine, self.source)

    async def close(self) -> None:
        """Close all connections."""
        await self.sql_sessions.close_all()
        await self.database.engine.dispose()
        self.engine.dispose()

    def app(self) -> Starlette:
        """Build the application."""
        app = Starlette(
            routes=[
                _get("/api/session", self.session),
                _get("/api/health", self.health, timeout_seconds=_HEALTH_SECONDS),
                _get("/api/overview", self.overview),
                _get("/api/activity", self.server_sessions),
                _get("/api/activity/statements", self.statements),
                Route("/api/activity/cancel", self.cancel_session, methods=["POST"]),
                _get("/api/drift", self.drift, timeout_seconds=_COMPARISON_SECONDS),
                _get("/api/doctor", self.doctor, timeout_seconds=_COMPARISON_SECONDS),
                _get("/api/move", self.move),
                _get("/api/move/stale", self.stale, timeout_seconds=_COMPARISON_SECONDS),
                _get("/api/move/back", self.move_back, timeout_seconds=_COMPARISON_SECONDS),
                Route("/api/move/events", self.move_events),
                _get("/api/count/{table}", self.count),
                _get("/api/tables", self.tables),
                _get("/api/table/{table}", self.table),
                _get("/api/rows/{table}", self.rows),
                _get("/api/row/{table}/{key:path}", self.row),
                *find_routes(self.database),
                Route("/api/cell/{table}/{column}/{key:path}", self.cell),
                Route("/api/export/{table}.{form}", self.export),
                Route("/api/changes", self.changes, methods=["POST"]),
                _get("/api/import-progress/{id}", self.import_progress),
                Route("/api/import/{table}/{mode}", self.import_file, methods=["POST"]),
                *saved_query_routes(self.saved),
                *sql_routes(self.sql_sessions),
                Route("/api/sql/export/{form}", self.export_result, methods=["POST"]),
                Mount("/static", StaticFiles(directory=str(STATIC), check_dir=False)),
                Route("/api/{path:path}", _unknown_route, methods=["GET", "POST"]),
                Route("/{path:path}", index_page),
            ],
            exception_handlers={
                **dict.fromkeys(EXPECTED, _expected_error),
                HTTPException: _http_error,
                Exception: _internal_error,
            },
        )
        app.state.large_body = asyncio.Semaphore(1)
        return app

    # Server, schema and move

    async def session(self, _: Request) -> dict[str, Any]:
        """Return the server, the role, the tables and the filter operators, without asking the database."""
        operators = {kind: list(known) for kind, known in OPERATORS.items()}
        return self._identity() | {"tables": describe_models(), "operators": operators}

    def _identity(self) -> dict[str, Any]:
        return {
            "server": readable(self.access.address),
            "database": self.access.address.database,
            "role": self.access.role,
            "mode": "write" if self.access.write else "read-only",
            "version": version("tatame-db"),
        }

    async def health(self, _: Request) -> dict[str, Any]:
        """Make one round trip to the database."""
        started = time.perf_counter()
        await self.database.ping()
        ms = round((time.perf_counter() - started) * 1000, 1)
        return {"ok": True, "latency_ms": ms, "pool": self._pool()}

    async def overview(self, _: Request) -> dict[str, Any]:
        """Describe the server, the schema and the tables."""
        return self._identity() | await overview.cards(self.database, self.engine) | {"pool": self._pool()}

    def _pool(self) -> dict[str, int]:
        pool = self.database.engine.sync_engine.pool
        return {"size": pool.size(), "in_use": pool.checkedout()}  # type: ignore[attr-defined]  # a QueuePool's

    async def server_sessions(self, _: Request) -> list[dict[str, Any]]:
        """Return the sessions of the server."""
        async with read_transaction(self.database) as connection:
            return await activity.sessions(connection, self.own)

    async def statements(self, _: Request) -> activity.Statements:
        """Return the slow statements."""
        async with read_transaction(self.database) as connection:
            return await activity.statements(connection)

    async def cancel_session(self, request: Request) -> Response:
        """Cancel the statement of a session that is not the studio's own."""
        session = await _body(request, activity.Cancel)
        if not self.access.write:
            raise WritesDisabled
        async with read_transaction(self.database) as connection:
            return json_response({"cancelled": await activity.cancel(connection, session, self.own)})

    async def drift(self, _: Request) -> dict[str, Any]:
        """Compare the database with its migrations."""
        return await asyncio.to_thread(overview.drift, self.engine)

    async def doctor(self, _: Request) -> dict[str, Any]:
        """Examine the database and the machine."""
        return await asyncio.to_thread(overview.examination, self.access.address, self.setup)

    async def move(self, _: Request) -> dict[str, Any]:
        """Return the status of the move."""
        return await moves.move_status(self.database, self.engine)

    async def stale(self, _: Request) -> dict[str, Any]:
        """Return which tables were written to since they were proven."""
        return await asyncio.to_thread(moves.stale_tables, self.engine)

    async def move_back(self, _: Request) -> dict[str, Any]:
        """Check whether the source could hold what was written to the target since the switch."""
        return await self.way_back.check()

    async def move_events(self, _: Request) -> Response:
        """Stream the status of the move as it changes."""
        return StreamedResponse(moves.events(self.database, self.engine), "text/event-stream", open_ended=True)

    # Rows

    async def tables(self, _: Request) -> list[TableName]:
        """Return the names of all tables of the database."""
        async with read_transaction(self.database) as connection:
            return await list_tables(connection)

    async def table(self, request: Request) -> TableDescription:
        """Describe a table."""
        async with read_transaction(self.database) as connection:
            return describe(await table_named(connection, request.path_params["table"], referrers=True))

    async def rows(self, request: Request) -> Page:
        """Return a page of rows."""
        query = request.query_params
        place = Place(
            limit=_number_of_rows(query.get("limit", "100")),
            after=query.get("after"),
            before=query.get("before"),
            last="last" in query,
        )
        async with read_transaction(self.database) as connection:
            return await read_page(
                connection,
                await _selection(connection, request),
                place,
                typed=query.get("q", ""),
                is_sorted=bool(query.get("sort")),
                is_named=query.get("names") != "0",
            )

    async def count(self, request: Request) -> dict[str, int]:
        """Count the rows of a selection exactly."""
        async with read_transaction(self.database) as connection:
            selection = await _selection(connection, request)
            selection = await searched.searched(connection, selection, request.query_params.get("q", ""))
            return {"rows": await rows.count(connection, selection)}

    async def row(self, request: Request) -> Row:
        """Return a row, its references and its referrers."""
        async with read_transaction(self.database) as connection:
            table = await table_named(connection, request.path_params["table"], referrers=True)
            return await row.read_row(connection, table, request.path_params["key"])

    async def cell(self, request: Request) -> Response:
        """Return a whole value."""
        path = request.path_params
        value = row.whole_value(self.database, path["table"], path["key"], unquote(path["column"]))
        return StreamedResponse(value, "application/json")

    async def export(self, request: Request) -> Response:
        """Download all rows of a selection."""
        form = read_form(request.path_params["form"], request.query_params)
        async with read_transaction(self.database) as connection:
            selection = await _selection(connection, request)
            selection = await searched.searched(connection, selection, request.query_params.get("q", ""))
        headers = attachment(f"{selection.table.name}.{form.suffix}")
        return StreamedResponse(export(self.database, selection, form), form.media_type, headers)

    async def export_result(self, request: Request) -> Response:
        """Download all rows of a statement, which runs again, read-only."""
        form, body = read_form(request.path_params["form"], request.query_params), await _body(request, ResultExport)
        return StreamedResponse(self.exports.run(body.text, form), form.media_type)

    async def changes(self, request: Request) -> Response:
        """Save changes, or return the statements that saving would run."""
        async with AsyncExitStack() as turn:
            return await self._changed(await _body(request, changes.Changes, turn))

    async def _changed(self, body: Changes) -> Response:
        if not self.access.write:
            raise WritesDisabled
        if body.preview:
            async with read_transaction(self.database) as connection:
                return json_response({"sql": await changes.preview(connection, body.changes)})
        if body.check:
            async with asyncio.timeout(_SAVE_SECONDS), write_transaction(self.database) as connection:
                return json_response(await changes.check(connection, body.changes))
        tables = {change.table for change in body.changes}
        # A disconnect does not cancel this: the browser would not know whether its changes were saved.
        async with (
            explained_locks(self.database, self.sql_sessions, tables),
            asyncio.timeout(_SAVE_SECONDS),
            write_transaction(self.database) as connection,
        ):
            saved = await changes.save(connection, body.changes)
        return json_response({"saved": len(saved), "rows": saved})

    async def import_progress(self, request: Request) -> dict[str, int | None]:
        """Return how many rows a running import has read."""
        return {"rows": self.imports.progress(request.path_params["id"])}

    async def import_file(self, request: Request) -> Response:
        """Describe the file in the body, check its rows, or import them."""
        table, mode = request.path_params["table"], request.path_params["mode"]
        if mode not in {"sample", "check", "run"}:
            return await _unknown_route(request)
        if not self.access.write:
            raise WritesDisabled
        async with uploaded(request) as (plan, file):
            if mode == "sample":
                return json_response(sample(plan, file) | {"keys": await self.imports.keys(table)})
            check = mode == "check"
            return json_response(await self.imports.run(request.receive, table, plan, file, check=check))


# --- Requests ---------------------------------------------------------------------------------------------------------


async def _selection(connection: AsyncConnection, request: Request) -> Selection:
    query = request.query_params
    return rows.read_selection(
        await table_named(connection, request.path_params["table"]),
        columns=query.get("columns", ""),
        sort=query.get("sort", ""),
        filters=query.get("filter", ""),
    )


def _number_of_rows(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadInput(problem=f'"{text}" is not a number of rows')
    return int(text)


# --- Responses --------------------------------------------------------------------------------------------------------


async def _expected_error(_: Request, error: Exception) -> Response:
    return problem_response(error)


async def _internal_error(_: Request, __: Exception) -> Response:
    # Starlette raises the error again, so that the terminal shows the traceback.
    problem = {
        "what": "internal error; see the terminal running `tatame-db studio`",
        "means": "The request was not completed.",
        "fix": "report the traceback in the terminal",
        "code": None,
    }
    return json_response(problem, 500)


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if request.url.path.startswith("/api/"):
        problem = {"what": error.detail, "means": NOTHING_CHANGED, "fix": "check the address", "code": None}
        return json_response(problem, error.status_code)
    return PlainTextResponse(error.detail, error.status_code)


async def _unknown_route(request: Request) -> Response:
    raise HTTPException(404, f"{request.url.path} does not exist")
