"""What a line of the doctor says: a verdict, a sentence, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

NAMED = 3
"""How many names or statements are shown."""


class Verdict(StrEnum):
    """How well a part of the database is; sorted from the best to the worst."""

    GOOD = "good"
    UNKNOWN = "unknown"
    """Not checked, which is not good: a right, a connection or the time was missing."""
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True)
class Answer:
    """What a check found."""

    verdict: Verdict
    text: str
    fix: str | None = None


@dataclass(frozen=True)
class Finding:
    """A line: what one check found, or why it could not look."""

    group: str
    name: str
    verdict: Verdict
    text: str
    """One sentence. It contains no value of a row, no text of a statement with values, and no address of a client."""
    fix: str | None
    """What to do or type; `None` for a good line."""


def good(text: str) -> Answer:
    """Return a good answer."""
    return Answer(Verdict.GOOD, text)


def warn(text: str, fix: str) -> Answer:
    """Return an answer to look at soon."""
    return Answer(Verdict.WARN, text, fix)


def bad(text: str, fix: str) -> Answer:
    """Return an answer to act on now."""
    return Answer(Verdict.BAD, text, fix)


def unknown(reason: str, fix: str) -> Answer:
    """Return that a line could not be checked."""
    return Answer(Verdict.UNKNOWN, f"not checked: {reason}", fix)


def worst(answers: Iterable[Answer | None], otherwise: Answer) -> Answer:
    """Join the answers that are not good, with the worst verdict of them, or return `otherwise`."""
    order = list(Verdict)
    found = [answer for answer in answers if answer and answer.verdict is not Verdict.GOOD]
    if not found:
        return otherwise
    found.sort(key=lambda answer: order.index(answer.verdict), reverse=True)
    fixes = dict.fromkeys(answer.fix for answer in found if answer.fix)
    return Answer(found[0].verdict, "; ".join(answer.text for answer in found), "; ".join(fixes))


def named(names: Collection[str]) -> str:
    """Write a few names, and how many others there are: `a, b, c and 4 more`."""
    more = len(names) - NAMED
    listed = ", ".join(list(names)[:NAMED])
    return f"{listed} and {more} more" if more > 0 else listed


def size(number: float) -> str:
    """Write a number of bytes: `12 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1024:
            return f"{number:,.0f} {unit}"
        number /= 1024
    return f"{number:,.1f} TB"


def duration(seconds: float) -> str:
    """Write a number of seconds: `40 s`, `12 min`, `5 h`, `3 days`."""
    for unit, length in (("days", 2 * 86_400), ("h", 2 * 3_600), ("min", 2 * 60)):
        if seconds >= length:
            return f"{seconds / {'days': 86_400, 'h': 3_600, 'min': 60}[unit]:,.0f} {unit}"
    return f"{seconds:,.0f} s"
