"""A file as the plan says, or as its beginning shows: its form, encoding, separator, names and records."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, TextIO

from tatame_db.studio.errors import BadInput
from tatame_db.studio.export import is_harmless
from tatame_db.studio.imports.encoding import detect, drop_last_line, opened
from tatame_db.studio.imports.plan import FileUnreadable
from tatame_db.studio.imports.records import JsonArray, Lines, csv_records, json_lines, read, separator_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from tatame_db.studio.imports.plan import Plan
    from tatame_db.studio.imports.records import Record

_START_CHARACTERS = 65_536
_SAMPLE = 20
_SAMPLE_BYTES = 1_000_000


@dataclass(frozen=True)
class Source:
    """A file that is open; `names` are those of the columns of a CSV file, or of the first objects of JSON."""

    form: str
    encoding: str
    separator: str | None
    names: list[str]
    records: Iterator[Record]


@contextlib.contextmanager
def opened_source(plan: Plan, file: IO[bytes], codec: str) -> Generator[Source]:
    """Open a file for reading once. Raises `FileUnreadable` here or while its records are read."""
    with opened(file, codec) as text:
        start = read(text.read, _START_CHARACTERS, 1)
    with opened(file, codec) as text:
        form = plan.form or ("json" if start.lstrip()[:1] in {"[", "{"} else "csv")
        yield _csv(plan, codec, start, text) if form == "csv" else _json(codec, start, text)


def _csv(plan: Plan, codec: str, start: str, text: TextIO) -> Source:
    lines = Lines(text)
    separator = plan.separator
    # Excel writes and reads this first line.
    if start[:4].lower() == "sep=" and start[5:6] in {"\r", "\n"}:
        separator = separator or start[4]
        next(lines)
    separator = separator or separator_of(start)
    if len(separator) != 1 or separator in {"\r", "\n", plan.quote}:
        raise BadInput(problem="the separator is not one character, or is the quote", advice="choose another separator")
    records = csv_records(lines, separator, plan.quote)
    first = next(records, None)
    if first is None:
        raise FileUnreadable(line=1, problem="the file is empty", advice="choose another file")
    if first.problem:
        raise FileUnreadable(line=first.line, problem=first.problem)
    if plan.header:
        return Source("csv", codec, separator, first.values, records)
    names = [f"column {number}" for number in range(1, len(first.values) + 1)]
    return Source("csv", codec, separator, names, itertools.chain([first], records))


def _json(codec: str, start: str, text: TextIO) -> Source:
    records = JsonArray(text).records() if start.lstrip().startswith("[") else json_lines(Lines(text))
    first = _first(records)
    names = list(dict.fromkeys(name for record in first for name in record.keys))
    return Source("json", codec, None, names, itertools.chain(first, records))


def _first(records: Iterator[Record]) -> list[Record]:
    """Read the first records, fewer if they are large."""
    found: list[Record] = []
    for record in itertools.islice(records, _SAMPLE):
        found.append(record)
        if sum(known.size_bytes for known in found) > _SAMPLE_BYTES:
            break
    return found


def sample(plan: Plan, file: IO[bytes]) -> dict[str, Any]:
    """Describe a file by its first records, for the browser to choose what goes where."""
    if plan.partial:
        drop_last_line(file)
    with opened_source(plan, file, plan.encoding or detect(file)) as source:
        found = _first(source.records)
    shown = [
        record.values if source.form == "csv" else [_shown(record.keys.get(name)) for name in source.names]
        for record in found
    ]
    return {
        "form": source.form,
        "encoding": source.encoding,
        "separator": source.separator,
        "names": source.names,
        "harmless": source.form == "csv" and any(is_harmless(value) for row in shown for value in row),
        "rows": [[value[:200] for value in row] for row in shown],
    }


def _shown(raw: Any) -> str:
    return "" if raw is None else bytes(raw).decode()
