"""The results of a statement as the browser gets them: columns, rows in batches, notices and errors, each limited."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

from tatame_db.studio.cells import Cut
from tatame_db.studio.errors import ENCODING_ADVICE, is_unavailable

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

MAX_CELL_CHARACTERS = 10_000
_LEAST_CELL_CHARACTERS = 200
_MAX_ROW_CHARACTERS = 1_000_000
MAX_RESULT_CHARACTERS = 50_000_000
_BATCH_CHARACTERS = 64_000
_BATCH_ROWS = 500
_BATCH_SECONDS = 0.2
_MAX_NOTICES = 100
_UTF8_BYTES = 4
_PIECE_BYTES = 65_536
_CONTINUATION_BYTES = bytes(range(0x80, 0xC0))
_SEVERITIES = {"DEBUG": "Debug", "LOG": "Log", "INFO": "Info", "NOTICE": "Notice", "WARNING": "Warning"}


class Refusal(psycopg.ProgrammingError):
    """The studio itself rejects a statement, with the SQLSTATE that PostgreSQL has for the reason."""

    def __init__(self, what: str, *, code: str, fix: str) -> None:
        super().__init__(what)
        self.sqlstate = code
        self.fix = fix


@dataclass
class Outcome:
    """The progress of one statement."""

    rows: int = 0
    more: bool = False
    command: str | None = None
    characters: int = 0
    ms: float = 0.0

    @property
    def is_full(self) -> bool:
        """Whether the result has as many characters as a browser can hold with ease."""
        return self.characters > MAX_RESULT_CHARACTERS


@dataclass
class Notices:
    """The notices of one statement, the first hundred."""

    found: list[dict[str, str | None]] = field(default_factory=list[dict[str, str | None]])

    def add(self, severity: str, what: str, detail: str | None = None, hint: str | None = None) -> None:
        """Keep a notice."""
        if len(self.found) < _MAX_NOTICES:
            notice = {"severity": severity, "what": _shortened(what)}
            self.found.append(notice | {"detail": _shortened(detail), "hint": _shortened(hint)})

    def add_of_server(self, notice: psycopg.errors.Diagnostic) -> None:
        """Keep a notice of PostgreSQL."""
        severity = notice.severity_nonlocalized or ""
        self.add(
            _SEVERITIES.get(severity.rstrip("12345"), severity.capitalize()),
            notice.message_primary or "",
            notice.message_detail,
            notice.message_hint,
        )


def describe_error(error: psycopg.Error, text: str, prefix: int = 0) -> dict[str, Any]:
    """Describe an error of a statement; its position counts the characters of the text after the prefix, from 1."""
    diag = error.diag
    position = int(diag.statement_position or 0) - prefix
    return {
        "what": _shortened(diag.message_primary or str(error).strip()),
        "detail": _shortened(diag.message_detail),
        "hint": _shortened(diag.message_hint),
        "context": _shortened(diag.context),
        "fix": getattr(error, "fix", ENCODING_ADVICE.get(error.sqlstate or "")),
        # An error without a position, such as one of a constraint, belongs to no place in the text.
        "position": position if 0 < position <= len(text) + 1 else None,
        "code": error.sqlstate,
        "away": is_unavailable(error),
    }


def _shortened(text: str | None) -> str | None:
    if text is None or len(text) <= MAX_CELL_CHARACTERS:
        return text
    return f"{text[:MAX_CELL_CHARACTERS]}… ({len(text):,} characters)"


class Batch:
    """Rows that go to the browser together."""

    def __init__(self) -> None:
        self.rows: list[list[str | Cut | None]] = []
        self._characters = 0
        self._started = time.monotonic()

    def add(self, result: PGresult) -> int:
        """Add a row; return the number of its characters."""
        longest = max(_LEAST_CELL_CHARACTERS, min(MAX_CELL_CHARACTERS, _MAX_ROW_CHARACTERS // max(1, result.nfields)))
        cells = [_cell(result.get_value(0, at), longest) for at in range(result.nfields)]
        self.rows.append(cells)
        size = sum(len(cell.cut if isinstance(cell, Cut) else cell) for cell in cells if cell is not None)
        self._characters += size
        return size

    @property
    def is_full(self) -> bool:
        """Whether to send the batch."""
        return (
            self._characters > _BATCH_CHARACTERS
            or len(self.rows) == _BATCH_ROWS
            or time.monotonic() - self._started > _BATCH_SECONDS
        )


def _cell(value: bytes | None, longest: int) -> str | Cut | None:
    if value is None:
        return None
    if len(value) <= longest:
        return value.decode(errors="replace")
    # The bytes are cut first: a text in Python may take four times as much memory.
    text = value[: longest * _UTF8_BYTES].decode(errors="replace")
    length = sum(
        len(value[at : at + _PIECE_BYTES].translate(None, _CONTINUATION_BYTES))
        for at in range(0, len(value), _PIECE_BYTES)
    )
    return text if length <= longest else Cut(text[:longest], length)


def columns_of(result: PGresult) -> list[dict[str, str]]:
    """Return the names and types of the columns."""
    return [
        {"name": (result.fname(at) or b"").decode(errors="replace"), "type": _type(result, at)}
        for at in range(result.nfields)
    ]


def _type(result: PGresult, at: int) -> str:
    oid = result.ftype(at)
    known = psycopg.adapters.types.get(oid)
    return f"type {oid}" if known is None else known.get_type_display(oid=oid, fmod=result.fmod(at))
