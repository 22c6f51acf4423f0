"""The conversions between types: each is exact, or states which values cannot be stored unchanged."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from tatame_db.move.conversion import (
    INTEGER,
    INTEGERS,
    TEXT,
    TEXTS,
    TIMESTAMP,
    UNCHANGED,
    YEARS_1_TO_9999,
    Conversion,
    about,
    is_day,
    outside_years_1_to_9999,
)
from tatame_db.move.forms import conversion_into_form

if TYPE_CHECKING:
    from tatame_db.schema.forms import Form

_INFINITE_OR_OUTSIDE = f"is infinite or {YEARS_1_TO_9999}"
_BYTES = {"smallint": 2, INTEGER: 4, "bigint": 8}


def _into_integers(target: str) -> dict[str, Conversion]:
    """Return the conversions into whole numbers of some bytes."""
    size = _BYTES[target]
    highest = 2 ** (8 * size - 1) - 1
    in_range = f"VALUE BETWEEN {-highest - 1} AND {highest}"
    reason = f"is not a {size}-byte integer"
    found = {
        "numeric": Conversion(
            "converted to an integer",
            convert=f"VALUE::{target}",
            source_text="trim_scale(VALUE)::text",
            unstorable=f"NOT ({in_range} AND trunc(VALUE) = VALUE)",
            unstorable_reason=reason,
        ),
        TEXT: Conversion(
            "parsed as an integer",
            convert=f"VALUE::{target}",
            # CASE evaluates the cast only after the pattern has matched; otherwise the cast would fail on a word.
            unstorable="VALUE IS NOT NULL AND NOT CASE WHEN VALUE ~ '^(0|-?[1-9][0-9]{0,18})$'"
            f" THEN {about(in_range, 'VALUE::numeric')} ELSE false END",
            unstorable_reason=reason,
        ),
    }
    # These types have no counterpart of the highest integer; the number after it is out of range. Their `-0` equals 0,
    # and no integer holds its sign.
    whole = (
        f"VALUE >= {-highest - 1} AND VALUE < {highest + 1}::double precision AND trunc(VALUE) = VALUE"
        " AND (VALUE <> 0 OR VALUE::text = '0')"
    )
    for kind in ("real", "double precision"):
        found[kind] = Conversion(
            "converted to an integer",
            convert=f"VALUE::{target}",
            source_text=f"CASE WHEN {whole} THEN VALUE::{target}::text ELSE VALUE::text END",
            unstorable=f"NOT ({whole})",
            unstorable_reason=reason,
        )
    for kind in INTEGERS:
        if kind == target:
            found[kind] = UNCHANGED
        elif _BYTES[kind] < size:
            found[kind] = Conversion("unchanged", convert=f"VALUE::{target}")
        else:
            found[kind] = Conversion(
                f"unchanged, in {size} bytes",
                convert=f"VALUE::{target}",
                unstorable=f"NOT ({in_range})",
                unstorable_reason=f"is out of range for a {size}-byte integer",
            )
    return found


# A moment of ISO 8601 in UTC or without a time zone, as JavaScript and PostgreSQL write it.
_MOMENT = "^.{10}([T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]{1,6})?)?(Z|[+]00(:?00)?)?)?$"
_PLAIN_MOMENT = "regexp_replace(replace(VALUE, 'T', ' '), '(Z|[+]00(:?00)?)$', '')"
_INTO_TIMESTAMP = {
    "timestamp with time zone": Conversion(
        "converted to UTC",
        convert="VALUE AT TIME ZONE 'UTC'",
        target_text="(VALUE AT TIME ZONE 'UTC')::text",
        unstorable=outside_years_1_to_9999("timestamptz"),
        unstorable_reason=_INFINITE_OR_OUTSIDE,
    ),
    TIMESTAMP: Conversion(
        "unchanged, interpreted as UTC",
        unstorable=outside_years_1_to_9999("timestamp"),
        unstorable_reason=_INFINITE_OR_OUTSIDE,
    ),
    "date": Conversion(
        "midnight at the start of the day",
        convert="VALUE::timestamp",
        target_text="CASE WHEN VALUE = date_trunc('day', VALUE) THEN VALUE::date::text ELSE '?' || VALUE::text END",
        unstorable=outside_years_1_to_9999("date"),
        unstorable_reason=_INFINITE_OR_OUTSIDE,
    ),
    TEXT: Conversion(
        "parsed as a moment, interpreted as UTC",
        convert="VALUE::timestamp",
        # As PostgreSQL writes it: with seconds, and without zeros at the end of a fraction.
        source_text=f"CASE length({_PLAIN_MOMENT}) WHEN 10 THEN {_PLAIN_MOMENT} || ' 00:00:00'"
        f" WHEN 16 THEN {_PLAIN_MOMENT} || ':00'"
        f" ELSE regexp_replace({_PLAIN_MOMENT}, '([.][0-9]*[1-9])0+$|[.]0+$', '\\1') END",
        unstorable=f"VALUE IS NOT NULL AND NOT CASE WHEN VALUE ~ '{_MOMENT}' THEN {is_day('VALUE')} ELSE false END",
        unstorable_reason="is not a moment of the form YYYY-MM-DD or YYYY-MM-DD HH:MM:SS, in UTC",
    ),
}
_INTO_DATE = {
    TEXT: Conversion(
        "parsed as a date",
        convert="VALUE::date",
        unstorable=f"VALUE IS NOT NULL AND NOT (length(VALUE) = 10 AND {is_day('VALUE')})",
        unstorable_reason="is not a date of the form YYYY-MM-DD",
    ),
    TIMESTAMP: Conversion(
        "converted to a date",
        convert="VALUE::date",
        target_text="VALUE::text || ' 00:00:00'",
        unstorable=f"VALUE <> date_trunc('day', VALUE) OR {outside_years_1_to_9999('timestamp')}",
        unstorable_reason=f"has a time of day, or {_INFINITE_OR_OUTSIDE}",
    ),
}
# An element of an array in PostgreSQL's own format, without escapes. PostgreSQL quotes exactly these kinds of space.
_ITEM = '("[^"\\\\]*"|[^",{}\\\\ \\t\\n\\v\\f\\r]+)'
_ONE_DIMENSION = "array_ndims(VALUE) = 1 AND array_lower(VALUE, 1) = 1 OR cardinality(VALUE) = 0"


def _from_json(json: str, *, source_text: str, readable: str) -> Conversion:
    """Return the conversion of a JSON array of texts; `json` is the value as jsonb, `readable` whether it is one."""
    elements = f"jsonb_array_elements(CASE WHEN jsonb_typeof({json}) = 'array' THEN {json} ELSE '[]' END) AS e"
    return Conversion(
        "each element of the JSON array",
        convert=f"CASE WHEN VALUE IS NOT NULL THEN ARRAY(SELECT e.text FROM jsonb_array_elements_text({json})"
        " WITH ORDINALITY AS e (text, place) ORDER BY e.place) END",
        source_text=source_text,
        # JSON has no bounds of arrays.
        target_text=f"CASE WHEN {_ONE_DIMENSION} THEN to_jsonb(VALUE)::text ELSE '?' || VALUE::text END",
        unstorable=f"VALUE IS NOT NULL AND NOT CASE WHEN {readable} THEN jsonb_typeof({json}) = 'array' AND NOT EXISTS"
        f" (SELECT FROM {elements} WHERE jsonb_typeof(e) NOT IN ('string', 'null')) ELSE false END",
        unstorable_reason="is not an array of texts",
    )


# An array of texts in JSON, without the escapes of characters that jsonb cannot hold, or only as a pair.
_JSON_TEXT = r'[ \t\n\r]*(null|"([^"\\]|\\[^u]|\\u(?!0000|[dD][89abAB])....)*")[ \t\n\r]*'
_JSON_TEXTS = f"VALUE::text ~ '^[ \\t\\n\\r]*[[]([ \\t\\n\\r]*|{_JSON_TEXT}(,{_JSON_TEXT})*)[]][ \\t\\n\\r]*$'"
_INTO_TEXTS = {
    "text[]": UNCHANGED,
    "character varying[]": Conversion("unchanged", convert="VALUE::text[]"),
    TEXT: Conversion(
        "parsed as a PostgreSQL array",
        convert="VALUE::text[]",
        unstorable=f"VALUE IS NOT NULL AND NOT CASE WHEN VALUE ~ '^[{{]({_ITEM}(,{_ITEM})*)?[}}]$'"
        " THEN VALUE::text[]::text = VALUE ELSE false END",
        unstorable_reason="is not an array in PostgreSQL's format",
    ),
    "jsonb": _from_json("VALUE", source_text="VALUE::text", readable="true"),
    "json": _from_json(
        "VALUE::jsonb",
        source_text=f"CASE WHEN {_JSON_TEXTS} THEN VALUE::jsonb::text ELSE VALUE::text END",
        readable=_JSON_TEXTS,
    ),
}
for _number in (*INTEGERS, "uuid"):
    _INTO_TEXTS[f"{_number}[]"] = Conversion("each element converted to text", convert="VALUE::text[]")
_NUMBER = "VALUE ~ '^-?[0-9]{1,100}([.][0-9]{1,100})?$'"
_INTO_NUMERIC = {
    TEXT: Conversion(
        "parsed as a number",
        convert="VALUE::numeric",
        unstorable=f"VALUE IS NOT NULL AND NOT CASE WHEN {_NUMBER} THEN VALUE::numeric::text = VALUE ELSE false END",
        unstorable_reason="is not a number as PostgreSQL writes it",
    ),
}
for _number in INTEGERS:
    _INTO_NUMERIC[_number] = Conversion("unchanged", convert="VALUE::numeric")
KNOWN: dict[str, dict[str, Conversion]] = {
    TEXT: {TEXT: Conversion("unchanged", convert="VALUE::text")},
    **{target: _into_integers(target) for target in INTEGERS},
    TIMESTAMP: _INTO_TIMESTAMP,
    "date": _INTO_DATE,
    TEXTS: _INTO_TEXTS,
    "numeric": _INTO_NUMERIC,
    "uuid": {
        TEXT: Conversion(
            "parsed as a UUID",
            convert="VALUE::uuid",
            source_text="lower(VALUE)",
            unstorable="VALUE !~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'",
            unstorable_reason="is not a UUID",
        ),
    },
    "boolean": {
        TEXT: Conversion(
            "parsed as true or false",
            convert="VALUE::boolean",
            unstorable="VALUE NOT IN ('true', 'false')",
            unstorable_reason="is neither true nor false",
        ),
    },
}
# They hold the same text: a length limit or a collation of the source needs no conversion.
TEXT_TYPES = {TEXT, "character varying", "bpchar", "citext", "extensions.citext", "public.citext"}
_SYNONYMS = {
    "varchar": "character varying",
    "char": "bpchar",
    "character": "bpchar",
    "bit": '"bit"',
    "float": "double precision",
}
_LIMITED = re.compile(r"([a-z ]+?) ?\(([0-9, -]+)\)(.*)")


def conversion(source_kind: str, target_type: str, form: Form | None = None) -> Conversion:
    """Return how a value of one type becomes a value of another; if it cannot, every value is unstorable.

    `form` is that of the target's column, if it is a text with a fixed form.
    """
    kind = TEXT if source_kind in TEXT_TYPES else source_kind
    limited = _LIMITED.fullmatch(target_type)
    base = limited[1] + limited[3] if limited else target_type
    base = _SYNONYMS.get(base, base)
    found = _conversion(kind, TEXT if base in TEXT_TYPES else base, target_type, form)
    return _within_limit(found, kind, base, target_type) if limited else found


def _conversion(kind: str, base: str, target_type: str, form: Form | None) -> Conversion:
    if base == TEXT and form:
        return conversion_into_form(kind, form)
    if found := KNOWN.get(base, {}).get(kind):
        return found
    # A model may have a column of any other type; only a value of the same type is known to arrive unchanged.
    if base == kind:
        return UNCHANGED
    if base == TEXT:
        return Conversion("converted to text", convert="VALUE::text")
    return Conversion(
        f"no conversion from {kind} to {target_type}",
        convert="NULL",
        # A composite value is not NULL either if a field of it is.
        unstorable="VALUE IS DISTINCT FROM NULL",
        unstorable_reason=f"is of type {kind}, which cannot be converted to {target_type}",
    )


def _within_limit(found: Conversion, kind: str, base: str, target_type: str) -> Conversion:
    """Add the condition that a value fits into a type with a limit, to which a cast would cut or round it."""
    value = f"({found.convert})"
    if base == "numeric":
        digits, scale = _digits(target_type)
        # The cast itself fails for a number with too many digits.
        fits = f"{value} = round({value}, {scale}) AND abs({value}) < 1e{digits - scale}"
        number = "trim_scale(VALUE::numeric)::text"
        number = f"CASE WHEN {_NUMBER} THEN {number} ELSE VALUE END" if kind == TEXT else number
        found = replace(found, source_text=number, target_text="trim_scale(VALUE)::text")
    else:
        fits = f"{value}::{target_type}::text = {value}::text"
    unstorable = f"CASE WHEN ({found.unstorable or 'false'}) THEN true ELSE NOT ({fits}) END"
    reason = f"does not fit into {target_type}"
    reason = f"{found.unstorable_reason}, or {reason}" if found.unstorable else reason
    return replace(found, unstorable=unstorable, unstorable_reason=reason)


def _digits(target_type: str) -> tuple[int, int]:
    """Return the number of digits of a `numeric(10,2)`, and how many of them come after the point."""
    digits, scale, *_ = [*map(int, re.findall(r"-?[0-9]+", target_type)), 0]
    return digits, scale
