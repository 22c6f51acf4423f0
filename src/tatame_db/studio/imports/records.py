"""The records of a file, one at a time: lines of CSV, objects of a JSON array, or lines of JSON."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

import msgspec

from tatame_db.studio.imports.plan import FileUnreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_RECORD_CHARACTERS = 16_000_000
_PIECE_CHARACTERS = 65_536
_NOT_SPACE = re.compile(r"[^ \t\r\n]")

csv.field_size_limit(MAX_RECORD_CHARACTERS)


@dataclass(frozen=True)
class Record:
    """A line of CSV or an object of JSON, with the line where it begins; or the reason why it cannot be read."""

    line: int
    values: list[str] = field(default_factory=list[str])
    keys: dict[str, msgspec.Raw] = field(default_factory=dict[str, msgspec.Raw])
    problem: str | None = None


class Lines:
    """The lines of a text with their numbers. A record that never ends does not fill the memory."""

    def __init__(self, text: TextIO) -> None:
        self.text = text
        self.number = 0
        self.start = 1
        self._characters = 0

    def begin_record(self) -> None:
        """Start to count the characters of the next record."""
        self.start, self._characters = self.number + 1, 0

    def __iter__(self) -> Lines:
        """Return itself."""
        return self

    def __next__(self) -> str:
        """Return the next line with its end."""
        line = read(self.text.readline, MAX_RECORD_CHARACTERS, self.start)
        if not line:
            raise StopIteration
        self._characters += len(line)
        if self._characters >= MAX_RECORD_CHARACTERS:
            raise FileUnreadable(
                line=self.start,
                problem=f"the row that begins here has more than {MAX_RECORD_CHARACTERS:,} characters",
                advice="look for a quote that is never closed, or for missing line ends",
            )
        self.number += 1
        return line


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
                yield Record(lines.start, values)


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
            yield _record(lines.start, line)


def _record(line: int, text: str) -> Record:
    try:
        return Record(line, keys=msgspec.json.decode(text, type=dict[str, msgspec.Raw]))
    except (msgspec.DecodeError, RecursionError) as error:
        return Record(line, problem=f"not a JSON object: {error}")


class JsonArray:
    """Reads the objects of one JSON array, without holding the array in memory."""

    # The numbers are not needed, and Python refuses to read very long ones.
    _decoder = json.JSONDecoder(parse_int=str, parse_float=str)

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
        """Read on: as much again as there is, so that a long object is not decoded for each piece of it."""
        rest = self._buffer[self._at :]
        piece = read(self._text.read, max(_PIECE_CHARACTERS, len(rest)), self._line)
        self._buffer, self._at = rest + piece, 0
        return bool(piece)

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

    def _value(self) -> str:
        while True:
            at = self._at
            try:
                _, end = self._decoder.raw_decode(self._buffer, at)
            except RecursionError:
                raise FileUnreadable(line=self._line, problem="a value is nested too deeply") from None
            except json.JSONDecodeError as error:
                is_too_long = len(self._buffer) - at > MAX_RECORD_CHARACTERS
                if not is_too_long and self._more():
                    continue
                line = self._line + error.doc.count("\n", at, error.pos)
                raise FileUnreadable(line=line, problem=f"not JSON: {error.msg}") from None
            # A number at the end of the piece may go on in the next one.
            if end == len(self._buffer) and self._more():
                continue
            # Reading on removes what is before the value.
            end -= at - self._at
            value = self._buffer[self._at : end]
            self._advance(end)
            return value
