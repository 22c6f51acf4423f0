"""The description of an import as the browser sends it, and the errors of a file as a whole."""

from __future__ import annotations

from typing import Literal

import msgspec

from tatame_db.errors import fact
from tatame_db.studio.errors import Refused

MAX_BAD_ROWS = 100


class Assignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column, and where its values come from: a place in the line, a key of the object, or one value for all rows."""

    column: str
    source: int | str | None = None
    value: str | None = None


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to read a file and where its values go. What is `None` is found out from the file."""

    id: str = ""
    """A name that the browser chooses, under which it asks for the progress."""
    form: Literal["csv", "json"] | None = None
    encoding: Literal["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"] | None = None
    separator: str | None = None
    quote: Literal['"', "'", ""] = '"'
    header: bool = True
    columns: list[Assignment] = []
    empty: Literal["null", "text", "default"] = "null"
    """What an empty cell of a CSV file means."""
    null_mark: str = ""
    """A text that means NULL, such as `\\N`."""
    harmless: bool = False
    """Remove the apostrophe that an export puts before a text that a spreadsheet would take for a formula."""
    key: list[str] = []
    """The columns by which a row is recognized that the table already has."""
    existing: Literal["refuse", "skip", "update"] = "refuse"
    only_fitting: bool = False
    """Import the rows that fit, although others do not."""
    partial: bool = False
    """The file is only the beginning of a longer one."""


@fact
class FileUnreadable(Refused):
    """A file, or its rest from a line on, cannot be read as the plan says."""

    line: int
    problem: str
    advice: str = "correct the file, or choose another format, encoding, separator or quote"
    what = "line {line} of the file: {problem}"
    means = "Nothing was imported."
    fix = "{advice}"


@fact
class FileTooLarge(Refused):
    """The file is larger than the studio accepts, or than its temporary directory holds."""

    problem: str
    status = 413
    what = "{problem}"
    means = "Nothing was imported."
    fix = "split the file, or import it with `\\copy` in `tatame-db psql`"
