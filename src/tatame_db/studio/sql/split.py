"""A text as statements, split where PostgreSQL ends them, and the words of each for a first look at it.

Safety does not rest on this: the server accepts one statement at a time, whatever is found here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LETTER = r"A-Za-z_\x80-\U0010ffff"
_TOKEN = re.compile(
    rf"""
    (?P<space>\s++) | (?P<line>--[^\n\r]*+) | (?P<comment>/\*)
    | (?P<escapes>[eE]'(?:[^'\\]++|\\.|'')*+'?) | (?P<text>'[^']*+'?) | (?P<quoted>"[^"]*+"?)
    | (?P<word>[{_LETTER}][{_LETTER}0-9$]*+) | (?P<number>[0-9][0-9A-Za-z_.]*+)
    | \$(?P<tag>(?:[{_LETTER}][{_LETTER}0-9]*+)?)\$ | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_BACKSLASHES = re.compile(r"'(?:[^'\\]++|\\.|'')*+'?", re.DOTALL)
_COMMENT_END = re.compile(r"/\*|\*/")
_LONGEST_BEGINNING = 4
_HAS_BODY = re.compile(r"CREATE (OR REPLACE )?(FUNCTION|PROCEDURE)\b")


@dataclass(frozen=True)
class Statement:
    """A statement in its text: `start` and `end` are characters from 0; the semicolon is not part of it."""

    start: int
    end: int
    text: str
    words: tuple[str, ...]
    """Its words in upper case, its parentheses and `"` for each quoted name, without comments and values."""

    def begins(self, *words: str) -> bool:
        """Return whether the first words are these."""
        return self.words[: len(words)] == words


class _Splitter:
    def __init__(self, text: str, *, backslashes: bool) -> None:
        self.text, self.backslashes = text, backslashes
        self.found: list[Statement] = []
        self._next()

    def _next(self) -> None:
        self.start: int | None = None
        self.end = self.parentheses = self.blocks = 0
        self.words: list[str] = []
        self.has_tokens = self.may_have_body = False

    def split(self) -> list[Statement]:
        at = 0
        while token := _TOKEN.match(self.text, at):
            kind, at = token.lastgroup or "", self._end(token)
            if kind == "space":
                continue
            if self.start is None and token[0] != ";":
                self.start = token.start()
            if kind == "other" and token[0] == ";" and not self.parentheses and not self.blocks:
                self._finish()
                continue
            self.end = at
            if kind not in {"line", "comment"}:
                self.has_tokens = True
                self._see(kind, token[0])
        self._finish()
        return self.found

    def _end(self, token: re.Match[str]) -> int:
        match token.lastgroup:
            case "comment":
                return _end_of_comment(self.text, token.end())
            case "tag":
                closing = self.text.find(token[0], token.end())
                return len(self.text) if closing < 0 else closing + len(token[0])
            case "text" if self.backslashes and (whole := _BACKSLASHES.match(self.text, token.start())):
                return whole.end()
            case _:
                return token.end()

    def _see(self, kind: str, part: str) -> None:
        if kind == "word":
            word = part.upper()
            self.words.append(word)
            if len(self.words) <= _LONGEST_BEGINNING:
                self.may_have_body = _HAS_BODY.match(" ".join(self.words)) is not None
            # The statements of a SQL-standard body end with semicolons too; psql finds its end in this way as well.
            if self.may_have_body and not self.parentheses:
                self.blocks += word == "BEGIN" or (word == "CASE" and self.blocks > 0)
                self.blocks -= word == "END" and self.blocks > 0
        elif kind == "quoted":
            self.words.append('"')
        elif part in {"(", ")"}:
            self.words.append(part)
            self.parentheses = max(0, self.parentheses + (1 if part == "(" else -1))

    def _finish(self) -> None:
        if self.has_tokens and self.start is not None:
            text = self.text[self.start : self.end]
            self.found.append(Statement(self.start, self.end, text, tuple(self.words)))
        self._next()


def _end_of_comment(text: str, at: int) -> int:
    depth = 1
    while depth and (mark := _COMMENT_END.search(text, at)):
        depth, at = depth + (1 if mark[0] == "/*" else -1), mark.end()
    return at if depth == 0 else len(text)


def split(text: str, *, backslashes: bool = False) -> list[Statement]:
    """Split a text; a part without a statement is left out.

    `backslashes` says whether `standard_conforming_strings` is off. An unfinished comment, string or body lasts to the
    end of the text.
    """
    return _Splitter(text, backslashes=backslashes).split()


def statement_at(statements: list[Statement], cursor: int) -> Statement | None:
    """Return the statement that a cursor is in or before, else the last one."""
    return next((found for found in statements if cursor <= found.end + 1), statements[-1] if statements else None)
