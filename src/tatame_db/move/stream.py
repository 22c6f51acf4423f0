"""Rows streamed from the source into the target in binary COPY, and read back from the target."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tatame_db.database.dialect import public, quoted
from tatame_db.evolve.lock import ignore
from tatame_db.move.connection import attribute_errors, watchdog
from tatame_db.move.conversion import TEXT, TEXTS, about

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from psycopg.abc import Buffer

    from tatame_db.move.connection import Connections, MoveConnection
    from tatame_db.move.mapping import ColumnMap, TableMap

BLOCK_BYTES = 1 << 16


def stream(
    connections: Connections,
    query: str,
    into: str,
    *,
    on_rows: Callable[[int], None] = ignore,
    on_block: Callable[[bytes], None] = ignore,
) -> int:
    """Run a query on the source and write its rows into a table of the target; return how many were written.

    `into` is a table and its columns. `on_rows` is called now and then with the number of rows so far, `on_block` with
    every byte of the COPY stream. After a failure the source's connection is closed. Raises `ConnectionLost`,
    `ResourceExhausted`.
    """
    source, target = connections.source, connections.target
    with watchdog(source, target) as heartbeat, ExitStack() as opened:
        with attribute_errors(source):
            reading = opened.enter_context(source.driver.cursor())
            rows = opened.enter_context(reading.copy(f"COPY ({query}) TO STDOUT (FORMAT binary)".encode()))
        writing = opened.enter_context(target.driver.cursor())
        try:
            with (
                attribute_errors(target),
                writing.copy(f"COPY {into} FROM STDIN (FORMAT binary)".encode()) as copy,
            ):
                for block in _blocks_of(source, rows, on_rows):
                    copy.write(block)
                    heartbeat()
                    on_block(block)
        except BaseException:
            # Otherwise closing the cursor drains the stream, and Ctrl-C hangs on a silent server.
            source.abort()
            source.driver.close()
            raise
        return writing.rowcount


def stream_table(
    connections: Connections,
    table: TableMap,
    where: str,
    *,
    into: str | None = None,
    on_rows: Callable[[int], None],
    on_block: Callable[[bytes], None] | None,
) -> int:
    """Copy the rows of a table that match a WHERE clause, also into another table; return how many were written.

    With `on_block`, the rows are sorted by key, and the bytes are those that `read_back` hashes.
    """
    values = ", ".join(_target_value(column, exact=on_block is not None) for column in table.columns)
    query = f"SELECT {values} FROM {table.source_sql}{where}"
    if on_block:
        key = table.key
        # A number is sorted as the source has it, which an index serves.
        query += _order_by(table, key.source_value if table.counted_key else _target_value(key, exact=False))
    columns = ", ".join(quoted(column.name) for column in table.columns)
    return stream(
        connections, query, f"{into or public(table.name)} ({columns})", on_rows=on_rows, on_block=on_block or ignore
    )


def read_back(target: MoveConnection, table: TableMap) -> bytes:
    """Return the SHA-256 of all rows of a table of the target, sorted by key, in binary COPY."""
    found = hashlib.sha256()
    columns = ", ".join(column.target_value for column in table.columns)
    query = f"SELECT {columns} FROM {table.target_sql}{_order_by(table, table.key.target_value)}"
    with (
        attribute_errors(target),
        watchdog(target) as heartbeat,
        target.driver.cursor() as reading,
        reading.copy(f"COPY ({query}) TO STDOUT (FORMAT binary)".encode()) as rows,
    ):
        for block in _blocks(rows):
            found.update(block)
            heartbeat()
    return found.digest()


def _blocks_of(source: MoveConnection, rows: Iterable[Buffer], on_rows: Callable[[int], None]) -> Iterator[bytes]:
    # The stream's two servers fail at the same place, and only here can a failure of the source be distinguished.
    with attribute_errors(source):
        yield from _blocks(rows, on_rows)


def _blocks(rows: Iterable[Buffer], on_rows: Callable[[int], None] = ignore) -> Iterator[bytes]:
    """Join the rows, which the server sends one by one, into blocks."""
    block = bytearray()
    for count, row in enumerate(rows):
        block += row
        if len(block) >= BLOCK_BYTES:
            yield bytes(block)
            block.clear()
            on_rows(count)
    yield bytes(block)


def _target_value(column: ColumnMap, *, exact: bool) -> str:
    """Return the value of a column in exactly the target's type: a binary COPY checks the length, not the type."""
    # An array keeps its has-nulls flag after its last NULL is gone; a round trip through text clears it.
    kind = f"text::{column.type}" if exact and column.type == TEXTS else column.type
    return f"({about(column.conversion.convert, column.source_value)})::{kind}"


def _order_by(table: TableMap, key: str) -> str:
    # COPY promises no order, and each server has its own collation.
    return f" ORDER BY ({key})" + (' COLLATE "C"' if table.key.type == TEXT else "")
