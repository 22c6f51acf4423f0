"""The records of a file, one at a time: lines of CSV, objects of a JSON array, or lines of JSON."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

import msgspec

from tatame_db.studio.imports.plan import FileUnreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_RECORD_BYTES = 8_000_000
"""In UTF-8, whatever the encoding of the file is."""
_MAX_DEPTH = 900
_PIECE_CHARACTERS = 65_536
_NOT_SPACE = re.compile(r"[^ \t\r\n]")

csv.field_size_limit(MAX_RECORD_BYTES)


@dataclass(frozen=True)
class Record:
    """A line of CSV or an object of JSON, with the line where it begins; or the reason why it cannot be read."""

    line: int
    values: list[str] = field(default_factory=list[str])
    keys: dict[str, msgspec.Raw] = field(default_factory=dict[str, msgspec.Raw])
    problem: str | None = None
    size_bytes: int = 0


class Lines:
    """The lines of a text with their numbers. A record that never ends does not fill the memory."""

    def __init__(self, text: TextIO) -> None:
        self.text = text
        self.number = 0
        self.start = 1
        self.size_bytes = 0
        """The size of the record so far."""

    def begin_record(self) -> None:
        """Start to count the bytes of the next record."""
        self.start, self.size_bytes = self.number + 1, 0

    def __iter__(self) -> Lines:
        """Return itself."""
        return self

    def __next__(self) -> str:
        """Return the next line with its end."""
        parts: list[str] = []
        while part := read(self.text.readline, _PIECE_CHARACTERS, self.start):
            parts.append(part)
            self.size_bytes = checked(self.size_bytes + len(part.encode()), self.start)
            if len(part) < _PIECE_CHARACTERS or part.endswith(("\r", "\n")):
                break
        if not parts:
            raise StopIteration
        self.number += 1
        return "".join(parts)


def checked(size_bytes: int, line: int) -> int:
    """Return the size of a record. Raises `FileUnreadable` if it is too large."""
    if size_bytes > MAX_RECORD_BYTES:
        raise FileUnreadable(
            line=line,
            problem=f"the row that begins here is larger than {MAX_RECORD_BYTES / 1_000_000:g} MB",
            advice="look for a quote that is never closed, or for missing line ends; import a large value with"
            " `\\copy` in `tatame-db psql`",
        )
    return size_bytes


def read(function: Callable[[int], str], characters: int, line: int) -> str:
    """Read some characters of a file. Raises `FileUnreadable` if they are not in its encoding."""
    try:
        return function(characters)
    except UnicodeDecodeError as error:
        problem = f"a text here or below is not in the encoding {error.encoding}"
        raise FileUnreadable(line=line, problem=problem, advice="choose another encoding") from None


# --- CSV --------------------------------------------------------------------------------------------------------------

_CSV_PROBLEMS = {
    "expected after": "text follows a closing quote; a quote inside a quoted value is written twice",
    "unexpected end": "a quote that opens here is never closed",
}


def csv_records(lines: Lines, separator: str, quote: str) -> Iterator[Record]:
    """Read the rows of a CSV file; empty lines are left out."""
    if quote:
        reader = csv.reader(lines, delimiter=separator, quotechar=quote, strict=True)
    else:
        reader = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE, strict=True)
    while True:
        lines.begin_record()
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = next((words for part, words in _CSV_PROBLEMS.items() if part in str(error)), str(error))
            yield Record(lines.start, problem=problem)
        else:
            if values:
                yield Record(lines.start, values, size_bytes=lines.size_bytes)


def separator_of(start: str) -> str:
    """Return the separator with which most of the first lines have the same number of values."""

    def score(separator: str) -> tuple[int, int]:
        rows = [row for row in csv.reader(start.splitlines(keepends=True)[:20], delimiter=separator) if row]
        widths = [len(row) for row in rows]
        common = max(set(widths), key=widths.count, default=1)
        return (widths.count(common), common) if common > 1 else (0, 0)

    return max(",;\t|", key=score)


# --- JSON -------------------------------------------------------------------------------------------------------------


def json_lines(lines: Lines) -> Iterator[Record]:
    """Read one object from each line."""
    while True:
        lines.begin_record()
        line = next(lines, None)
        if line is None:
            return
        if line.strip():
            yield _record(lines.start, line.encode())


def _record(line: int, written: bytes) -> Record:
    try:
        keys = msgspec.json.decode(written, type=dict[str, msgspec.Raw])
        return Record(line, keys=keys, size_bytes=len(written))
    except (msgspec.DecodeError, RecursionError) as error:
        return Record(line, problem=_problem(written.decode(errors="replace"), error))


_NO_NUMBER = re.compile(r"[:,\[]\s*(-?Infinity|NaN)\b")


def _problem(text: str, error: Exception) -> str:
    if found := _NO_NUMBER.search(text):
        return f'{found[1]} is no value of JSON: write null, or the text "{found[1]}" for a column of numbers'
    return f"not a JSON object: {error}"


class JsonArray:
    """Reads the objects of one JSON array, without holding the array in memory.

    It only looks for the end of each value. The value itself is read as a record, which says whether it is valid.
    """

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._buffer, self._at, self._line = "", 0, 1

    def records(self) -> Iterator[Record]:
        """Read the objects. Raises `FileUnreadable` where the array is malformed, because no later row can be found."""
        self._take("[")
        if self._peek() == "]":
            self._take("]")
        else:
            while True:
                self._peek()
                line = self._line
                yield _record(line, self._value())
                if self._take(",]") == "]":
                    break
        if self._peek():
            raise FileUnreadable(line=self._line, problem="text follows the end of the JSON array")

    def _more(self) -> bool:
        """Read on, after all of the buffer was used."""
        self._buffer, self._at = read(self._text.read, _PIECE_CHARACTERS, self._line), 0
        return bool(self._buffer)

    def _peek(self) -> str:
        """Return the next character that is not a space; empty at the end of the file."""
        while True:
            if found := _NOT_SPACE.search(self._buffer, self._at):
                self._advance(found.start())
                return found[0]
            self._advance(len(self._buffer))
            if not self._more():
                return ""

    def _advance(self, end: int) -> None:
        self._line += self._buffer.count("\n", self._at, end)
        self._at = end

    def _take(self, characters: str) -> str:
        found = self._peek()
        if not found or found not in characters:
            expected = " or ".join(characters)
            problem = (
                f'{expected} is missing before "{found}"' if found else f"the file ends where {expected} is missing"
            )
            raise FileUnreadable(line=self._line, problem=problem)
        self._at += 1
        return found

    def _value(self) -> bytes:
        first, size_bytes = self._line, 0
        parts: list[bytes] = []
        end = _ValueEnd(self._line)
        while True:
            start, found = self._at, end.find(self._buffer, self._at)
            self._advance(len(self._buffer) if found is None else found)
            part = self._buffer[start : self._at].encode()
            parts.append(part)
            size_bytes = checked(size_bytes + len(part), first)
            if found is None and self._more():
                continue
            # A number may be the end of the file, after which a bracket is missing.
            if not size_bytes or (found is None and not end.is_scalar):
                raise FileUnreadable(line=self._line, problem="not JSON: a value is missing or has no end")
            return b"".join(parts)


class _ValueEnd:
    """The search for the end of a value, in one piece of text after the other."""

    def __init__(self, line: int) -> None:
        self.is_scalar = False
        self._line = line
        self._depth, self._begun, self._in_string, self._escaped = 0, False, False, False

    def find(self, text: str, at: int) -> int | None:
        """Return the place behind the value, or `None` if it goes on in the next piece."""
        if not self._begun:
            self._begun, self.is_scalar = True, text[at] not in '"[{'
        if self.is_scalar:
            found = _AFTER_SCALAR.search(text, at)
            return None if found is None else found.start()
        while at < len(text):
            if self._in_string:
                at = self._end_of_string(text, at)
            elif token := _TOKEN.search(text, at):
                at = token.end()
                self._see(token[0])
            else:
                return None
            if not self._depth and not self._in_string:
                return at
        return None

    def _see(self, mark: str) -> None:
        if mark == '"':
            self._in_string = True
        elif mark in "[{":
            self._depth += 1
            if self._depth > _MAX_DEPTH:
                raise FileUnreadable(line=self._line, problem="a value is nested too deeply")
        elif mark in "]}":
            self._depth -= 1

    def _end_of_string(self, text: str, at: int) -> int:
        """Return the place behind the string that was open at the beginning, or the end of the text."""
        at, self._escaped = at + self._escaped, False
        found = _IN_STRING.match(text, at)
        at = found.end() if found else at
        if at < len(text):
            # A quote, or a backslash before the end of the piece.
            self._in_string, self._escaped = text[at] != '"', text[at] == "\\"
            at += 1
        return at


_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}"]', re.DOTALL)
"""A whole string, a bracket, or the quote of a string that goes on in the next piece."""
_IN_STRING = re.compile(r'(?:[^"\\]++|\\.)*+', re.DOTALL)
_AFTER_SCALAR = re.compile(r'[\s,\[\]{}"]')
