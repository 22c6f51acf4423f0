"""Text without case and accents, and the regular expressions that find it where no index does."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache

_RANGES = (range(0xC0, 0x250), range(0x370, 0x530), range(0x1E00, 0x2000))
"""Latin, Greek and Cyrillic letters."""
_MARKS = range(0x300, 0x370)
_OWN = {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ħ": "h", "\u0131": "i"}
"""Letters that Unicode does not decompose."""
_FIRST_MARK, _LAST_MARK = "\u0300", "\u036f"
_CODECS = {"SQL_ASCII": "utf-8", "UTF8": "utf-8"}


@dataclass(frozen=True)
class Alphabet:
    """The letters that a database can store, by the name of its encoding."""

    encoding: str = "UTF8"

    def has(self, letters: str) -> bool:
        """Return whether all the letters exist."""
        name = self.encoding
        codec = _CODECS.get(name) or (f"cp{name.removeprefix('WIN')}" if name.startswith("WIN") else name)
        try:
            letters.encode(codec)
        except (UnicodeEncodeError, LookupError):
            return letters.isascii()
        return True

    def any_of(self, letters: list[str]) -> str:
        """Write the expression of one letter out of several. Without an encoding, PostgreSQL compares single bytes."""
        return f"(?:{'|'.join(letters)})" if self.encoding == "SQL_ASCII" else f"[{''.join(letters)}]"

    @property
    def marks(self) -> str:
        """The expression of accents that are letters of their own."""
        if self.encoding == "SQL_ASCII" or not self.has(_FIRST_MARK + _LAST_MARK):
            return ""
        return f"[{_FIRST_MARK}-{_LAST_MARK}]*"


UNICODE = Alphabet()


def folded(text: str) -> str:
    """Remove case and accents: `João` and `Joa` with a combining tilde and `o` become `joao`."""
    letters = _letters()
    composed = unicodedata.normalize("NFC", text)
    return "".join(letters.get(letter, letter.lower()) for letter in composed if ord(letter) not in _MARKS)


def expression(word: str, alphabet: Alphabet = UNICODE) -> str | None:
    """Write the regular expression of PostgreSQL that finds a word in a text that is not folded, by `~*`.

    `None` if no text of the alphabet contains the word.
    """
    parts: list[str] = []
    at, word = 0, folded(word)
    while at < len(word):
        single = _letter(word[at], alphabet)
        pair = _stored(word[at : at + 2], alphabet) if at + 1 < len(word) else []
        if pair and single and (second := _letter(word[at + 1], alphabet)):
            # `strasse` finds `Straße`.
            parts.append(f"(?:{single}{second}|{alphabet.any_of(pair)})")
        elif single:
            parts.append(single)
        else:
            return None
        at += 2 if pair else 1
    return "".join(parts)


def _letter(letter: str, alphabet: Alphabet) -> str | None:
    # Punctuation of ASCII may have a meaning in the expression; a backslash before another letter is refused.
    plain = f"\\{letter}" if letter.isascii() and not letter.isalnum() else letter
    others = _stored(letter, alphabet)
    if not alphabet.has(letter):
        return alphabet.any_of(others) if others else None
    return f"{alphabet.any_of([letter, *others])}{alphabet.marks}" if others else plain


def _stored(folded_letters: str, alphabet: Alphabet) -> list[str]:
    """Return the letters of an alphabet that are folded to others."""
    return [letter for letter in _written().get(folded_letters, "") if alphabet.has(letter)]


@cache
def _letters() -> dict[str, str]:
    """Return the folded form of each letter that has another one."""
    letters = (chr(code) for codes in _RANGES for code in codes)
    known = {letter: _decomposed(letter) for letter in letters}
    return {letter: plain for letter, plain in known.items() if plain and plain != letter.lower()}


def _decomposed(letter: str) -> str:
    bare = "".join(part for part in unicodedata.normalize("NFD", letter) if ord(part) not in _MARKS).lower()
    bare = "".join(part for part in bare if ord(part) not in _MARKS)
    return "".join(_OWN.get(part, part) for part in bare)


@cache
def _written() -> dict[str, str]:
    """Return the letters, upper case included, that are folded to one or two characters."""
    written: dict[str, str] = {}
    for letter, plain in _letters().items():
        if len(plain) <= 2:
            written[plain] = written.get(plain, "") + letter
    return written
