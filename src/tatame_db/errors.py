"""What a person can act on, in their words."""

from __future__ import annotations


class TatameError(Exception):
    """A failure with a known cause: shown as a message, never as a traceback."""

    exit_code = 1

    def __init__(self, what: str, *, means: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.means, self.fix = what, means, fix

    def __str__(self) -> str:
        return f"{self.what}\n{self.means}\n\nhint: {self.fix}"


NOTHING_CHANGED = "Nothing was changed."


def counted(number: int, noun: str) -> str:
    """Write `1 row` and `2 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
