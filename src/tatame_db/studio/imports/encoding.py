"""The encoding of a file: by its mark, or UTF-8 if all of it is, or one of the two that Windows programs write."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_PIECE_BYTES = 1_000_000
# Windows-1252 has no character for these.
_ONLY_LATIN_1 = frozenset(b"\x81\x8d\x8f\x90\x9d")


def detect(file: IO[bytes]) -> str:
    """Return the codec of a file. Every file has one: as Latin-1, each byte is a character."""
    file.seek(0)
    start = file.read(3)
    for mark, codec in _MARKS.items():
        if start.startswith(mark):
            return codec
    if _is_utf_8(file):
        return "utf-8"
    return "latin-1" if any(_ONLY_LATIN_1 & set(piece) for piece in _pieces(file)) else "cp1252"


def _is_utf_8(file: IO[bytes]) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for piece in _pieces(file):
            decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(_PIECE_BYTES):
        yield piece


def drop_last_line(file: IO[bytes]) -> None:
    """Remove what follows the last line end, because the beginning of a file may end in the middle of a character."""
    size = file.seek(0, os.SEEK_END)
    from_ = max(0, size - _PIECE_BYTES)
    file.seek(from_)
    if (last := file.read().rfind(b"\n")) >= 0:
        # Two bytes are a multiple of the size of a character in all encodings that are read.
        file.truncate((from_ + last + 1) & ~1)


@contextlib.contextmanager
def opened(file: IO[bytes], codec: str) -> Generator[io.TextIOWrapper]:
    """Read the file from its beginning as text, without changing its line ends."""
    file.seek(0)
    text = io.TextIOWrapper(file, codec, newline="")
    try:
        yield text
    finally:
        # Otherwise the wrapper would close the file.
        text.detach()
