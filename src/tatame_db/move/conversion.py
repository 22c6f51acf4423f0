"""How a value of the source becomes a value of the target, and how both are written as the text that a proof compares.

Each conversion consists of SQL expressions about one value, written `VALUE`. A proof compares the text of the source's
value with the text of the *target's* value in the source's type. So a conversion that loses something fails its proof.
"""

from __future__ import annotations

from dataclasses import dataclass

TEXT, INTEGER, TIMESTAMP, TEXTS = "text", "integer", "timestamp without time zone", "text[]"
INTEGERS = ("smallint", "integer", "bigint")


@dataclass(frozen=True)
class Conversion:
    """Four SQL expressions about one value.

    `unstorable` is true for a value that cannot be stored unchanged, and NULL or false for all others. `convert` may
    fail for such a value. `target_text` never fails, whatever value the target has.
    """

    description: str
    convert: str = "VALUE"
    source_text: str = "VALUE::text"
    target_text: str = "VALUE::text"
    unstorable: str | None = None
    unstorable_reason: str = ""


def about(expression: str, value: str) -> str:
    """Insert the value into an expression."""
    return expression.replace("VALUE", value)


MISSING = Conversion("NULL: the source has no such column", convert="NULL", source_text="NULL::text")

_UNCHANGED = Conversion("unchanged")
_AS_TEXT = Conversion("converted to text", convert="VALUE::text")
_INT4 = "VALUE BETWEEN -2147483648 AND 2147483647"
_YEARS_1_TO_9999 = "is infinite or outside the years 1 to 9999"


def _outside_years_1_to_9999(type_name: str) -> str:
    return f"NOT (VALUE >= {type_name} '0001-01-01' AND VALUE < {type_name} '10000-01-01')"


_INTO_TEXT = {
    "date": Conversion(
        "formatted as YYYY-MM-DD",
        convert="VALUE::text",
        unstorable=_outside_years_1_to_9999("date"),
        unstorable_reason=_YEARS_1_TO_9999,
    ),
    "time without time zone": Conversion(
        "formatted as HH:MM",
        convert="to_char(VALUE, 'HH24:MI')",
        # A text that is not HH:MM gets a `?`, so that it equals no time of the source.
        target_text="CASE WHEN VALUE ~ '^[0-9]{2}:[0-9]{2}$' THEN VALUE || ':00' ELSE '?' || VALUE END",
        unstorable="extract(second FROM VALUE) <> 0",
        unstorable_reason="has seconds, which HH:MM cannot hold",
    ),
}
_INTO_INTEGER = {
    "smallint": Conversion("unchanged", convert="VALUE::integer"),
    "integer": _UNCHANGED,
    "bigint": Conversion(
        "unchanged, in 4 bytes",
        convert="VALUE::integer",
        unstorable=f"NOT ({_INT4})",
        unstorable_reason="is out of range for a 4-byte integer",
    ),
    "numeric": Conversion(
        "converted to an integer",
        convert="VALUE::integer",
        source_text="trim_scale(VALUE)::text",
        unstorable=f"NOT ({_INT4} AND trunc(VALUE) = VALUE)",
        unstorable_reason="is not a 4-byte integer",
    ),
    "text": Conversion(
        "parsed as an integer",
        convert="VALUE::integer",
        # CASE evaluates the cast only after the pattern has matched; otherwise the cast would fail on a word.
        unstorable="VALUE IS NOT NULL AND NOT CASE WHEN VALUE ~ '^(0|-?[1-9][0-9]{0,9})$'"
        f" THEN {about(_INT4, 'VALUE::bigint')} ELSE false END",
        unstorable_reason="is not a 4-byte integer",
    ),
}
_INTO_TIMESTAMP = {
    "timestamp with time zone": Conversion(
        "converted to UTC",
        convert="VALUE AT TIME ZONE 'UTC'",
        target_text="(VALUE AT TIME ZONE 'UTC')::text",
        unstorable=_outside_years_1_to_9999("timestamptz"),
        unstorable_reason=_YEARS_1_TO_9999,
    ),
    TIMESTAMP: Conversion(
        "unchanged, interpreted as UTC",
        unstorable=_outside_years_1_to_9999("timestamp"),
        unstorable_reason=_YEARS_1_TO_9999,
    ),
    "date": Conversion(
        "midnight at the start of the day",
        convert="VALUE::timestamp",
        target_text="CASE WHEN VALUE = date_trunc('day', VALUE) THEN VALUE::date::text ELSE '?' || VALUE::text END",
        unstorable=_outside_years_1_to_9999("date"),
        unstorable_reason=_YEARS_1_TO_9999,
    ),
}
# An element of an array in PostgreSQL's own format, without escapes. PostgreSQL quotes exactly these kinds of space.
_ITEM = '("[^"\\\\]*"|[^",{}\\\\ \\t\\n\\v\\f\\r]+)'
_INTO_TEXTS = {
    "text[]": _UNCHANGED,
    "character varying[]": Conversion("unchanged", convert="VALUE::text[]"),
    "text": Conversion(
        "parsed as a PostgreSQL array",
        convert="VALUE::text[]",
        unstorable=f"VALUE IS NOT NULL AND NOT CASE WHEN VALUE ~ '^[{{]({_ITEM}(,{_ITEM})*)?[}}]$'"
        " THEN VALUE::text[]::text = VALUE ELSE false END",
        unstorable_reason="is not an array in PostgreSQL's format",
    ),
}
for _number in (*INTEGERS, "uuid"):
    _INTO_TEXTS[f"{_number}[]"] = Conversion("each element converted to text", convert="VALUE::text[]")
# They hold the same text: a length limit or a collation of the source needs no conversion.
_TEXT_TYPES = {"character varying", "character", "citext", "extensions.citext", "public.citext"}


def conversion(source_type: str, target_type: str) -> Conversion:
    """Return how a value of one type becomes a value of another; if it cannot, every value is unstorable."""
    kind = TEXT if source_type in _TEXT_TYPES else source_type
    known: dict[str, dict[str, Conversion]] = {
        TEXT: {TEXT: Conversion("unchanged", convert="VALUE::text")} | _INTO_TEXT,
        INTEGER: _INTO_INTEGER,
        TIMESTAMP: _INTO_TIMESTAMP,
        TEXTS: _INTO_TEXTS,
    }
    if found := known.get(target_type, {}).get(kind):
        return found
    # A model may have a column of any other type; only a value of the same type is known to arrive unchanged.
    if target_type not in known and target_type == source_type:
        return _UNCHANGED
    if target_type == "bigint" and source_type in INTEGERS:
        return Conversion("unchanged", convert="VALUE::bigint")
    if target_type == TEXT:
        return _AS_TEXT
    return Conversion(
        f"no conversion from {source_type} to {target_type}",
        convert="NULL",
        unstorable="VALUE IS NOT NULL",
        unstorable_reason=f"is of type {source_type}, which cannot be converted to {target_type}",
    )
