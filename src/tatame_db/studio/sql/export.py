"""The whole result of a statement as a file, streamed from a read-only transaction on a connection of its own."""

from __future__ import annotations

import codecs
import re
from contextlib import aclosing
from itertools import chain
from typing import TYPE_CHECKING

import msgspec
from psycopg.pq import ExecStatus

from tatame_db.errors import fact
from tatame_db.studio.errors import BadInput, Refused
from tatame_db.studio.export import PIECE_BYTES, Form, csv_heading, in_pieces, is_formula
from tatame_db.studio.sql.results import Outcome, columns_of
from tatame_db.studio.sql.rights import refuse_harmful
from tatame_db.studio.sql.wire import Wire
from tatame_db.studio.transactions import EXPORT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from psycopg.pq.abc import PGresult

    from tatame_db.database.pool import AsyncDatabase
    from tatame_db.studio.memory import Budget

_NUMBERS = {"int2", "int4", "int8", "numeric", "float4", "float8", "oid"}
_PLAIN = {*_NUMBERS, "bool", "date", "time", "timetz", "timestamp", "timestamptz", "uuid"}
MAX_EXPORTS = 10
_LIMIT = "SELECT pg_catalog.set_config('statement_timeout', %s, true)"
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
_JSON_NUMBER = re.compile(rb"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


class ResultExport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body that exports the result of one statement."""

    text: str


@fact
class TooManyExports(Refused):
    """Each export of a result holds a connection, of which a server has few."""

    exports: int
    status = 429
    what = "{exports} exports of results are running already"
    fix = "wait until one of them ends, or cancel one in the browser"


class Exports:
    """The exports of results that run at the moment, each on a connection of its own."""

    def __init__(self, database: AsyncDatabase, budget: Budget, *, write: bool) -> None:
        self._database, self._budget, self._write = database, budget, write
        self._running = 0

    async def run(self, text: str, form: Form) -> AsyncGenerator[bytes]:
        """Run a statement read-only, also in write mode, and write its rows in the forms that `export` has for tables.

        The session of the tab is not used, so its temporary tables and its open transaction are not seen.
        """
        if "\0" in text:
            raise BadInput(problem="the statement contains a NUL character")
        if self._running >= MAX_EXPORTS:
            raise TooManyExports(exports=MAX_EXPORTS)
        self._running += 1
        try:
            wire = await Wire.open(self._database, self._budget, write=False)
            try:
                if not self._write:
                    await refuse_harmful(self._database)
                await wire.driver.execute("BEGIN READ ONLY")
                # After a query, PostgreSQL rejects `SET TRANSACTION READ WRITE`; and the text is sent as a single
                # statement.
                await wire.driver.execute(_LIMIT, [f"{EXPORT_SECONDS}s"])
                rows = _csv(wire, text, form) if form.name == "csv" else _joined(_objects(wire, text), form)
                async for piece in in_pieces(rows):
                    yield piece
            finally:
                await wire.close()
        finally:
            self._running -= 1


def _take_values(result: PGresult) -> list[bytes | None]:
    """Return the values of a row, and free the memory of the result."""
    values = [result.get_value(0, at) for at in range(result.nfields)]
    result.clear()
    return values


def _texts(value: bytes) -> Iterable[str]:
    """Decode a value, a long one in parts."""
    if len(value) <= PIECE_BYTES:
        return (value.decode(errors="replace"),)
    decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    starts = range(0, len(value), PIECE_BYTES)
    return (decode(value[at : at + PIECE_BYTES], final=at + PIECE_BYTES >= len(value)) for at in starts)


# --- CSV --------------------------------------------------------------------------------------------------------------


async def _csv(wire: Wire, text: str, form: Form) -> AsyncGenerator[Iterable[bytes]]:
    types: list[str] | None = None
    async with aclosing(wire.results(text, Outcome())) as results:
        async for result in results:
            if types is None:
                names, types = _columns(result)
                yield [csv_heading(names, form).encode()]
            if result.status == ExecStatus.SINGLE_TUPLE:
                yield _csv_line(_take_values(result), types, form)


def _csv_line(values: list[bytes | None], types: list[str], form: Form) -> Iterable[bytes]:
    separator = form.separator.encode()
    for at, (value, kind) in enumerate(zip(values, types, strict=True)):
        if at:
            yield separator
        if value is None:
            yield form.null.encode()
        elif kind in _PLAIN:
            yield value
        else:
            yield b'"'
            for place, part in enumerate(_texts(value)):
                guards = form.harmless and not place and is_formula(part)
                yield (f"'{part}" if guards else part).replace('"', '""').encode()
            yield b'"'
    yield b"\r\n"


# --- JSON -------------------------------------------------------------------------------------------------------------


async def _joined(objects: AsyncGenerator[Iterable[bytes]], form: Form) -> AsyncGenerator[Iterable[bytes]]:
    """Join objects into an array, or into lines."""
    if form.name == "jsonl":
        async for parts in objects:
            # Only between its tokens can a JSON text have line ends.
            yield chain((part.translate(_ONE_LINE) for part in parts), [b"\n"])
        return
    before = b"[\n"
    async for parts in objects:
        yield chain([before], parts)
        before = b",\n"
    yield [b"[]\n" if before == b"[\n" else b"\n]\n"]


async def _objects(wire: Wire, text: str) -> AsyncGenerator[Iterable[bytes]]:
    keys: list[bytes] = []
    types: list[str] | None = None
    async with aclosing(wire.results(text, Outcome())) as results:
        async for result in results:
            if types is None:
                names, types = _columns(result)
                keys = [msgspec.json.encode(name) + b":" for name in _distinct(names)]
            if result.status == ExecStatus.SINGLE_TUPLE:
                yield _object(keys, _take_values(result), types)


def _object(keys: list[bytes], values: list[bytes | None], types: list[str]) -> Iterable[bytes]:
    before = b"{"
    for key, value, kind in zip(keys, values, types, strict=True):
        yield before + key
        yield from _json(value, kind)
        before = b","
    yield b"}"


def _json(value: bytes | None, kind: str) -> Iterable[bytes]:
    if value is None:
        yield b"null"
    elif kind == "bool":
        yield b"true" if value.startswith(b"t") else b"false"
    elif kind in {"json", "jsonb"} or (kind in _NUMBERS and _JSON_NUMBER.fullmatch(value)):
        yield value
    else:
        yield b'"'
        for part in _texts(value):
            yield msgspec.json.encode(part)[1:-1]
        yield b'"'


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
