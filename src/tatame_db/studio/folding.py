"""Text without case and accents, and the regular expressions that find it where no index does."""

from __future__ import annotations

import unicodedata
from functools import cache

_RANGES = (range(0xC0, 0x250), range(0x370, 0x530), range(0x1E00, 0x2000))
"""Latin, Greek and Cyrillic letters."""
_MARKS = range(0x300, 0x370)
_OWN = {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ħ": "h", "\u0131": "i"}
"""Letters that Unicode does not decompose."""
_ANY_MARKS = "[\u0300-\u036f]*"


def folded(text: str) -> str:
    """Remove case and accents: `João` and `Joa` with a combining tilde and `o` become `joao`."""
    letters = _letters()
    composed = unicodedata.normalize("NFC", text)
    return "".join(letters.get(letter, letter.lower()) for letter in composed if ord(letter) not in _MARKS)


def expression(word: str) -> str:
    """Write the regular expression of PostgreSQL that finds a word in a text that is not folded, by `~*`."""
    parts: list[str] = []
    at, word = 0, folded(word)
    while at < len(word):
        single = _letter(word[at])
        pair = _written().get(word[at : at + 2]) if at + 1 < len(word) else None
        # `strasse` finds `Straße`.
        parts.append(f"(?:{single}{_letter(word[at + 1])}|[{pair}])" if pair else single)
        at += 2 if pair else 1
    return "".join(parts)


def _letter(letter: str) -> str:
    others = _written().get(letter, "")
    # Punctuation of ASCII may have a meaning in the expression; a backslash before another letter is refused.
    plain = f"\\{letter}" if letter.isascii() and not letter.isalnum() else letter
    return f"[{letter}{others}]{_ANY_MARKS}" if others else plain


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
