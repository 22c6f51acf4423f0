"""The conversions that keep every value of a type as it is. Any other one may change values, and is a loss."""

from __future__ import annotations

import re
from typing import NamedTuple

# The text of a value is the same in both types, whatever the settings of the session. That is not so for numbers with
# a binary exponent, dates, intervals and bytes. `tests/database/test_casts.py` tries all pairs that PostgreSQL has.
_KEEPS = {
    "smallint": {"integer", "bigint", "numeric", "real", "double precision", "text", "character varying"},
    "integer": {"bigint", "numeric", "double precision", "text", "character varying"},
    "bigint": {"numeric", "text", "character varying"},
    "numeric": {"text", "character varying"},
    "oid": {"bigint"},
    "uuid": {"text", "character varying"},
    "json": {"text", "character varying"},
    "jsonb": {"json", "text", "character varying"},
    "name": {"text", "character varying"},
    "text": {"character varying"},
    "character varying": {"text"},
    # A day becomes its first moment.
    "date": {"timestamp without time zone"},
    # Converted as UTC.
    "timestamp without time zone": {"timestamp with time zone"},
    "timestamp with time zone": {"timestamp without time zone"},
}
# The precision of a type without one, in digits of a second.
_SECONDS = {
    "timestamp without time zone": 6,
    "timestamp with time zone": 6,
    "time without time zone": 6,
    "time with time zone": 6,
    "interval": 6,
}
_TYPE = re.compile(r"(?P<head>[^(\[]*)(?:\((?P<modifiers>[-\d,]+)\))?(?P<rest>[^(\[]*)(?P<array>\[\])?")


class Type(NamedTuple):
    """The name of a type as `format_type` writes it, in parts."""

    base: str
    modifiers: tuple[int, ...]
    is_array: bool


def parse(name: str) -> Type:
    """Take the name of a type apart.

    >>> parse("timestamp(3) without time zone[]")
    Type(base='timestamp without time zone', modifiers=(3,), is_array=True)
    """
    found = _TYPE.fullmatch(name)
    # A quoted name may have any characters.
    if found is None or '"' in name:
        return Type(name.removesuffix("[]"), (), name.endswith("[]"))
    modifiers = tuple(int(part) for part in (found["modifiers"] or "").split(",") if part)
    return Type(found["head"] + found["rest"], modifiers, bool(found["array"]))


def is_utc(before: str, after: str) -> bool:
    """Return whether a time without a zone becomes one with a zone or the reverse, which is converted as UTC."""
    old, new = parse(before), parse(after)
    stamps = {"timestamp without time zone", "timestamp with time zone"}
    return {old.base, new.base} == stamps and not (old.is_array or new.is_array)


def is_lossless(before: str, after: str, enums: frozenset[str] = frozenset()) -> bool:
    """Return whether every value of a type is the same in another one. `enums` are the names of the enums."""
    old, new = parse(before), parse(after)
    if before == after or old.is_array != new.is_array:
        return before == after
    if old.base == new.base:
        return _holds(old, new)
    # PostgreSQL converts an array by the zone of the session.
    if old.is_array and "timestamp with time zone" in {old.base, new.base}:
        return False
    if new.modifiers:
        return (
            new.base in _SECONDS and new.base in _KEEPS.get(old.base, ()) and (old.base == "date" or _holds(old, new))
        )
    kept = {"text", "character varying"} if old.base in enums else _KEEPS.get(old.base, set())
    return new.base in kept or (old.base.startswith("interval ") and new.base == "interval")


def _holds(old: Type, new: Type) -> bool:
    """Return whether a type has room for all values of a type that differs in its length or precision."""
    if not new.modifiers or not old.modifiers:
        # The shortest of bits and characters is one.
        unlimited = not new.modifiers and new.base not in {"bit", "character"}
        return unlimited or new.modifiers == (_SECONDS.get(new.base),)
    if new.base == "numeric":
        (digits, scale), (old_digits, old_scale) = new.modifiers, old.modifiers
        return scale >= old_scale and digits - scale >= old_digits - old_scale
    return new.modifiers >= old.modifiers and new.base in {*_SECONDS, "character varying", "bit varying"}
