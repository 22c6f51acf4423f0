"""The routes that answer while the user types: rows to refer to, names of rows, and values in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote

import msgspec

from tatame_db.studio import find, names, values
from tatame_db.studio.errors import BadInput
from tatame_db.studio.requests import get_route
from tatame_db.studio.rows import MAX_PAGE_ROWS
from tatame_db.studio.tables import table_named
from tatame_db.studio.transactions import read_transaction

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from tatame_db.database.pool import AsyncDatabase

_Keys = Annotated[list[str], msgspec.Meta(max_length=MAX_PAGE_ROWS)]


def find_routes(database: AsyncDatabase) -> list[BaseRoute]:
    """Return the routes that find rows, and those that read their names and values."""

    async def find_referenced(request: Request) -> list[find.Candidate]:
        query = request.query_params
        async with find.find_transaction(database) as connection:
            table = await table_named(connection, query.get("table", ""))
            return await find.find(connection, table, query.get("q", ""), by=query.get("column"))

    async def find_for_palette(request: Request) -> list[find.FoundRow]:
        async with find.find_transaction(database) as connection:
            return await find.find_anywhere(connection, request.query_params.get("q", ""))

    async def read_names(request: Request) -> dict[str, str]:
        async with read_transaction(database) as connection:
            table = await table_named(connection, request.path_params["table"])
            key = names.named_column(table, request.query_params.get("column"))
            return await names.names_of(connection, key, _keys(request.query_params.get("keys", "[]")))

    async def read_values(request: Request) -> values.ValuesInUse:
        path = request.path_params
        async with find.find_transaction(database) as connection:
            table = await table_named(connection, path["table"])
            return await values.values_in_use(connection, table, unquote(path["column"]))

    return [
        get_route("/api/find", find_referenced),
        get_route("/api/search", find_for_palette),
        get_route("/api/names/{table}", read_names),
        get_route("/api/values/{table}/{column}", read_values),
    ]


def _keys(text: str) -> list[str]:
    try:
        keys: list[str] = msgspec.json.decode(text, type=_Keys)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(problem=f"the keys are malformed: {error}", advice='write ["1", "2"]') from None
    return keys
