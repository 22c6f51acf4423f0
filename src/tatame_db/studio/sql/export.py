"""The whole result of a statement as a file, streamed from a read-only transaction on a connection of its own."""

from __future__ import annotations

import re
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec
from psycopg.pq import ExecStatus

from tatame_db.studio.errors import BadInput
from tatame_db.studio.export import FORMULA_CHARACTERS, Form, csv_heading, in_pieces, json_lines, quoted
from tatame_db.studio.sql.results import Outcome, columns_of
from tatame_db.studio.sql.wire import Wire
from tatame_db.studio.transactions import EXPORT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from psycopg.pq.abc import PGresult

    from tatame_db.database.pool import AsyncDatabase

_NUMBERS = {"int2", "int4", "int8", "numeric", "float4", "float8", "oid"}
_PLAIN = {*_NUMBERS, "bool", "date", "time", "timetz", "timestamp", "timestamptz", "uuid"}
_JSON_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


class ResultExport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body that exports the result of one statement."""

    text: str


async def export_result(database: AsyncDatabase, text: str, form: Form) -> AsyncGenerator[bytes]:
    """Run a statement read-only, also in write mode, and write its rows in the forms that `export` has for tables.

    The session of the tab is not used, so its temporary tables and its open transaction are not seen.
    """
    if "\0" in text:
        raise BadInput(problem="the statement contains a NUL character")
    wire = await Wire.open(database, write=False)
    try:
        await wire.driver.execute("BEGIN READ ONLY")
        # After a query, PostgreSQL rejects `SET TRANSACTION READ WRITE`; and the text is sent as a single statement.
        await wire.driver.execute("SELECT pg_catalog.set_config('statement_timeout', %s, true)", [f"{EXPORT_SECONDS}s"])
        lines = _csv(wire, text, form) if form.name == "csv" else json_lines(_objects(wire, text), form)
        async for piece in in_pieces(lines):
            yield piece
    finally:
        await wire.close()


async def _csv(wire: Wire, text: str, form: Form) -> AsyncGenerator[str]:
    types: list[str] | None = None
    async with aclosing(wire.results(text, Outcome())) as results:
        async for result in results:
            if types is None:
                names, types = _columns(result)
                yield csv_heading(names, form)
            if result.status == ExecStatus.SINGLE_TUPLE:
                fields = (_field(_value(result, at), kind, form) for at, kind in enumerate(types))
                yield form.separator.join(fields) + "\r\n"


def _field(value: str | None, kind: str, form: Form) -> str:
    if value is None:
        return form.null
    if kind in _PLAIN:
        return value
    return quoted(f"'{value}" if form.harmless and value.startswith(tuple(FORMULA_CHARACTERS)) else value)


async def _objects(wire: Wire, text: str) -> AsyncGenerator[str]:
    names: list[str] = []
    types: list[str] | None = None
    async with aclosing(wire.results(text, Outcome())) as results:
        async for result in results:
            if types is None:
                names, types = _columns(result)
                names = _distinct(names)
            if result.status == ExecStatus.SINGLE_TUPLE:
                parts = (_json(_value(result, at), kind) for at, kind in enumerate(types))
                keys = (msgspec.json.encode(name).decode() for name in names)
                yield "{" + ",".join(f"{key}:{part}" for key, part in zip(keys, parts, strict=True)) + "}"


def _json(value: str | None, kind: str) -> str:
    if value is None:
        return "null"
    if kind == "bool":
        return "true" if value.startswith("t") else "false"
    if kind in {"json", "jsonb"} or (kind in _NUMBERS and _JSON_NUMBER.fullmatch(value)):
        return value
    return msgspec.json.encode(value).decode()


def _distinct(names: list[str]) -> list[str]:
    """Number the columns of the same name, because an object has each name once."""
    found: list[str] = []
    for name in names:
        again = next(number for number in range(1, len(names) + 1) if _numbered(name, number) not in found)
        found.append(_numbered(name, again))
    return found


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"


def _columns(result: PGresult) -> tuple[list[str], list[str]]:
    columns = columns_of(result)
    if not columns:
        raise BadInput(problem="the statement returns no rows", advice="export the result of a query")
    # Without the precision: `numeric(10,2)`. An array is none of the types above.
    types = [
        column["type"] if column["type"].endswith("[]") else column["type"].partition("(")[0] for column in columns
    ]
    return [column["name"] for column in columns], types


def _value(result: PGresult, at: int) -> str | None:
    value = result.get_value(0, at)
    return None if value is None else value.decode(errors="replace")
