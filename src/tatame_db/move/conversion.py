"""How a value of the source becomes one of ours, and how ours is read as the source's again.

Each expression speaks of one value, called `VALUE`. What is proven is the text of the source's value against the text
that the *target's* value gives in the source's type, so a conversion that loses something cannot prove itself.
"""

from __future__ import annotations

from dataclasses import dataclass

TEXT, INTEGER, TIMESTAMP, TEXTS = "text", "integer", "timestamp without time zone", "text[]"
INTEGERS = ("smallint", "integer", "bigint")


@dataclass(frozen=True)
class Conversion:
    """Four expressions about one value.

    `misfit` is true for what cannot be stored unchanged, NULL or false for all other values; `convert` may be given
    only what is no misfit. `target_text` never fails, whatever the target holds.
    """

    words: str
    convert: str = "VALUE"
    source_text: str = "VALUE::text"
    target_text: str = "VALUE::text"
    unstorable: str | None = None
    unstorable_reason: str = ""


def about(expression: str, value: str) -> str:
    """Say which value an expression is about."""
    return expression.replace("VALUE", value)


MISSING = Conversion("not in the source: NULL", convert="NULL", source_text="NULL::text")

_SAME = Conversion("as it is")
_AS_TEXT = Conversion("written as text", convert="VALUE::text")
_INT4 = "VALUE BETWEEN -2147483648 AND 2147483647"
_PLAIN_YEARS = "is infinite, before Christ or after the year 9999"


def _plain(kind: str) -> str:
    return f"NOT (VALUE >= {kind} '0001-01-01' AND VALUE < {kind} '10000-01-01')"


_INTO_TEXT = {
    "date": Conversion(
        "written as YYYY-MM-DD", convert="VALUE::text", unstorable=_plain("date"), unstorable_reason=_PLAIN_YEARS
    ),
    "time without time zone": Conversion(
        "written as HH:MM",
        convert="to_char(VALUE, 'HH24:MI')",
        # The target's text in the source's form; what is not HH:MM gets a mark that no time has.
        target_text="CASE WHEN VALUE ~ '^[0-9]{2}:[0-9]{2}$' THEN VALUE || ':00' ELSE '?' || VALUE END",
        unstorable="extract(second FROM VALUE) <> 0",
        unstorable_reason="has seconds, and HH:MM has none",
    ),
}
_INTO_INTEGER = {
    "smallint": Conversion("as it is", convert="VALUE::integer"),
    "integer": _SAME,
    "bigint": Conversion(
        "as it is, in 4 bytes",
        convert="VALUE::integer",
        unstorable=f"NOT ({_INT4})",
        unstorable_reason="is beyond the 4 bytes of an integer",
    ),
    "numeric": Conversion(
        "as a whole number",
        convert="VALUE::integer",
        source_text="trim_scale(VALUE)::text",
        unstorable=f"NOT ({_INT4} AND trunc(VALUE) = VALUE)",
        unstorable_reason="is no whole number of 4 bytes",
    ),
    "text": Conversion(
        "read as a whole number",
        convert="VALUE::integer",
        # The cast waits for the pattern, or it would fail over a word.
        unstorable="VALUE IS NOT NULL AND NOT CASE WHEN VALUE ~ '^(0|-?[1-9][0-9]{0,9})$'"
        f" THEN {about(_INT4, 'VALUE::bigint')} ELSE false END",
        unstorable_reason="is no whole number of 4 bytes",
    ),
}
_INTO_TIMESTAMP = {
    "timestamp with time zone": Conversion(
        "as UTC",
        convert="VALUE AT TIME ZONE 'UTC'",
        target_text="(VALUE AT TIME ZONE 'UTC')::text",
        unstorable=_plain("timestamptz"),
        unstorable_reason=_PLAIN_YEARS,
    ),
    TIMESTAMP: Conversion("as it is, taken for UTC", unstorable=_plain("timestamp"), unstorable_reason=_PLAIN_YEARS),
    "date": Conversion(
        "as the midnight that begins it",
        convert="VALUE::timestamp",
        target_text="CASE WHEN VALUE = date_trunc('day', VALUE) THEN VALUE::date::text ELSE '?' || VALUE::text END",
        unstorable=_plain("date"),
        unstorable_reason=_PLAIN_YEARS,
    ),
}
# One array as PostgreSQL itself writes it, without anything that needs an escape; the spaces that it quotes are these.
_ITEM = '("[^"\\\\]*"|[^",{}\\\\ \\t\\n\\v\\f\\r]+)'
_INTO_TEXTS = {
    "text[]": _SAME,
    "character varying[]": Conversion("as it is", convert="VALUE::text[]"),
    "text": Conversion(
        "read as a PostgreSQL array",
        convert="VALUE::text[]",
        unstorable=f"VALUE IS NOT NULL AND NOT CASE WHEN VALUE ~ '^[{{]({_ITEM}(,{_ITEM})*)?[}}]$'"
        " THEN VALUE::text[]::text = VALUE ELSE false END",
        unstorable_reason="is no array as PostgreSQL writes it",
    ),
}
for _number in (*INTEGERS, "uuid"):
    _INTO_TEXTS[f"{_number}[]"] = Conversion("each written as text", convert="VALUE::text[]")
# Bound by nothing but their name: a limit of length or an own alphabet of the source is no conversion.
_TEXTS_OF_SOME_KIND = {"character varying", "character", "citext", "extensions.citext", "public.citext"}


def conversion(source_type: str, target_type: str) -> Conversion:
    """Return how one type becomes another; where there is no way, every value is a misfit."""
    kind = TEXT if source_type in _TEXTS_OF_SOME_KIND else source_type
    known: dict[str, dict[str, Conversion]] = {
        TEXT: {TEXT: Conversion("as it is", convert="VALUE::text")} | _INTO_TEXT,
        INTEGER: _INTO_INTEGER,
        TIMESTAMP: _INTO_TIMESTAMP,
        TEXTS: _INTO_TEXTS,
    }
    if found := known[target_type].get(kind):
        return found
    if target_type == TEXT:
        return _AS_TEXT
    return Conversion(
        f"no way from {source_type} to {target_type}",
        convert="NULL",
        unstorable="VALUE IS NOT NULL",
        unstorable_reason=f"is a {source_type}, which we do not turn into {target_type}",
    )
