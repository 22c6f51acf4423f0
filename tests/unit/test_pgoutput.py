"""Messages of `pgoutput`: what is no message is refused in words, and never taken for another one."""

from __future__ import annotations

import contextlib
import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tatame_db.move.follow.pgoutput import Begin, Change, Commit, MessageUnknown, Relation, Truncate, parse

BEGIN = b"B" + struct.pack(">QqI", 1, 1_000_000, 4_294_967_295)
COMMIT = b"C" + struct.pack(">BQQq", 0, 1, 2**40, 1_000_000)
RELATION = b"R" + struct.pack(">I", 16_385) + b"public\0A\xc3\xa7\xc3\xa3o\0d\0\1\1id\0" + struct.pack(">Ii", 20, -1)
ROW = b"\0\3t\0\0\0\x0217nu"
VALUES = (b"17", None, None)
TABLE = struct.pack(">I", 16_385)
MESSAGES = {
    BEGIN: Begin(4_294_967_295, datetime(2000, 1, 1, 0, 0, 1, tzinfo=UTC)),
    COMMIT: Commit(2**40),
    RELATION: Relation(16_385, "public", "Ação", (("id", 20),)),
    b"I" + TABLE + b"N" + ROW: Change(16_385, (VALUES,)),
    b"U" + TABLE + b"N" + ROW: Change(16_385, (VALUES,)),
    b"U" + TABLE + b"K" + ROW + b"N" + ROW: Change(16_385, (VALUES, VALUES)),
    b"U" + TABLE + b"O" + ROW + b"N" + ROW: Change(16_385, (VALUES, VALUES)),
    b"D" + TABLE + b"K" + ROW: Change(16_385, (VALUES,)),
    b"D" + TABLE + b"O" + ROW: Change(16_385, (VALUES,)),
    b"T" + struct.pack(">IBII", 2, 1, 16_385, 16_386): Truncate((16_385, 16_386)),
    b"Y\0\0\0\1public\0belt\0": None,
    b"O\0\0\0\0\0\0\0\1elsewhere\0": None,
}


@pytest.mark.parametrize("data", MESSAGES, ids=lambda data: data[:6].hex())
def test_a_message_is_read(data: bytes) -> None:
    assert parse(data) == MESSAGES[data]


@pytest.mark.parametrize("data", [data for data, message in MESSAGES.items() if message], ids=lambda data: data.hex())
def test_a_message_that_is_cut_off_or_goes_on_is_refused(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(MessageUnknown):
            parse(data[:length])
    with pytest.raises(MessageUnknown, match=f"the length {len(data) + 1} instead of {len(data)}"):
        parse(data + b"x")


def test_an_unknown_message_is_an_error_in_words() -> None:
    for kind in {bytes([byte]) for byte in range(256)} - {data[:1] for data in MESSAGES}:
        with pytest.raises(MessageUnknown, match="is not known"):
            parse(kind + b"\0" * 40)


@given(st.binary(max_size=60), st.sampled_from([*MESSAGES, b""]), st.integers(0, 40))
def test_garbage_is_read_or_refused_in_words(garbage: bytes, message: bytes, kept: int) -> None:
    with contextlib.suppress(MessageUnknown):
        parse(message[:kept] + garbage)
