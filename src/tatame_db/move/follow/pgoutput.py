"""The messages of PostgreSQL's plug-in `pgoutput`, version 1, as far as transactions and keys are concerned."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tatame_db.errors import TatameError, fact

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_BEGIN, _COMMIT, _TRUNCATE = struct.Struct(">QqI"), struct.Struct(">BQQq"), struct.Struct(">IB")
_COUNT, _LENGTH, _COLUMN = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Ii")
# The marks of a row before the change, its key or the whole of it, and whether a row after the change follows.
_OLD = (b"K", b"O")
_CHANGES = {b"I": ((), True), b"U": (_OLD, True), b"D": (_OLD, False)}
# The type of a column, and the name of a server from which a change came: neither says anything about a row.
_WITHOUT_ROWS = (b"Y", b"O")


@fact
class MessageUnknown(TatameError):
    """A slot delivered something that is no message of the protocol as it was requested."""

    reason: str
    what = "a message of the logical slot cannot be read: {reason}"
    means = "The changes from there on were not applied, and the slot keeps them."
    fix = "run the command again without a slot, and report the version of the server"


@dataclass(frozen=True)
class Begin:
    """The begin of a transaction; `xid` has 32 bits."""

    xid: int
    committed_at: datetime


@dataclass(frozen=True)
class Commit:
    """The end of a transaction, and the position in the WAL after it."""

    end: int


@dataclass(frozen=True)
class Relation:
    """A table as the following changes describe it: names and types of its published columns."""

    oid: int
    schema: str
    name: str
    columns: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Change:
    """A row that was inserted, updated or deleted: its published values before, if they are known, and after."""

    relation: int
    rows: tuple[tuple[bytes | None, ...], ...]
    """`None` for NULL and for a long value that did not change."""


@dataclass(frozen=True)
class Truncate:
    """The tables that were emptied."""

    relations: tuple[int, ...]


Message = Begin | Commit | Relation | Change | Truncate


def parse(data: bytes) -> Message | None:
    """Read a message; `None` for one that says nothing about rows. Raises `MessageUnknown`."""
    kind = data[:1]
    try:
        message, end = _parse(kind, data)
    except (IndexError, ValueError, OverflowError, struct.error) as error:
        raise MessageUnknown(reason=f"the kind is {kind!r}, the length {len(data)}") from error
    if end != len(data):
        raise MessageUnknown(reason=f"the kind is {kind!r}, the length {len(data)} instead of {end}")
    return message


def _parse(kind: bytes, data: bytes) -> tuple[Message | None, int]:
    """Return a message and the position after it."""
    if kind in _CHANGES:
        return _change(kind, data)
    if kind == b"B":
        _, microseconds, xid = _BEGIN.unpack_from(data, 1)
        return Begin(xid, _EPOCH + timedelta(microseconds=microseconds)), 1 + _BEGIN.size
    if kind == b"C":
        _, _, end, _ = _COMMIT.unpack_from(data, 1)
        return Commit(end), 1 + _COMMIT.size
    if kind == b"R":
        return _relation(data)
    if kind == b"T":
        count, _ = _TRUNCATE.unpack_from(data, 1)
        at = 1 + _TRUNCATE.size
        return Truncate(struct.unpack_from(f">{count}I", data, at)), at + 4 * count
    if kind in _WITHOUT_ROWS:
        return None, len(data)
    raise MessageUnknown(reason=f"the kind {kind!r} is not known")


def _relation(data: bytes) -> tuple[Relation, int]:
    [oid] = _LENGTH.unpack_from(data, 1)
    schema, at = _text(data, 5)
    name, at = _text(data, at)
    # The replica identity is one byte.
    [count] = _COUNT.unpack_from(data, at + 1)
    at += 3
    columns: list[tuple[str, int]] = []
    for _ in range(count):
        column, at = _text(data, at + 1)
        kind, _ = _COLUMN.unpack_from(data, at)
        columns.append((column, kind))
        at += _COLUMN.size
    # The server leaves the name of its own catalogue empty.
    return Relation(oid, schema or "pg_catalog", name, tuple(columns)), at


def _text(data: bytes, start: int) -> tuple[str, int]:
    end = data.index(b"\0", start)
    return data[start:end].decode(), end + 1


def _change(kind: bytes, data: bytes) -> tuple[Change, int]:
    before, has_after = _CHANGES[kind]
    [relation] = _LENGTH.unpack_from(data, 1)
    rows: list[tuple[bytes | None, ...]] = []
    at = 5
    if data[at : at + 1] in before:
        row, at = _row(data, at + 1)
        rows.append(row)
    if has_after:
        if data[at : at + 1] != b"N":
            raise ValueError
        row, at = _row(data, at + 1)
        rows.append(row)
    if not rows:
        raise ValueError
    return Change(relation, tuple(rows)), at


def _row(data: bytes, at: int) -> tuple[tuple[bytes | None, ...], int]:
    [count] = _COUNT.unpack_from(data, at)
    at += 2
    values: list[bytes | None] = []
    for _ in range(count):
        kind = data[at]
        at += 1
        if kind == 0x74:  # t, a text
            [length] = _LENGTH.unpack_from(data, at)
            at += 4 + length
            values.append(data[at - length : at])
        elif kind in b"nu":
            values.append(None)
        else:
            raise ValueError
    return tuple(values), at
