"""Conversions into columns of text that have a fixed form, such as `YYYY-MM-DD`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.move.conversion import TEXT, YEARS_1_TO_9999, Conversion, is_day, outside_years_1_to_9999

if TYPE_CHECKING:
    from tatame_db.schema.forms import Form

_TIME = "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)"


def _unless(condition: str, text: str) -> str:
    """Return the target's text in the source's type; a text of another form gets a `?`, so that it equals no value."""
    return f"CASE WHEN {condition} THEN {text} ELSE '?' || VALUE END"


_IS_DATE = f"length(VALUE) = 10 AND {is_day('VALUE')}"
_OF_A_LEAP_YEAR = "('2000-' || VALUE)"
_IS_DAY = f"length(VALUE) = 5 AND {is_day(_OF_A_LEAP_YEAR)}"
_IS_TIME = f"VALUE ~ '{_TIME}$'"
# The same time with its seconds, as a column of times becomes a column of text.
_IS_TIME_OF_SOURCE = f"VALUE ~ '{_TIME}(:00)?$'"

_INTO_DATE = {
    "date": Conversion(
        "formatted as YYYY-MM-DD",
        convert="VALUE::text",
        unstorable=outside_years_1_to_9999("date"),
        unstorable_reason=f"is infinite or {YEARS_1_TO_9999}",
    ),
    "timestamp without time zone": Conversion(
        "formatted as YYYY-MM-DD",
        convert="VALUE::date::text",
        target_text=_unless(_IS_DATE, "VALUE || ' 00:00:00'"),
        unstorable=f"VALUE <> date_trunc('day', VALUE) OR {outside_years_1_to_9999('timestamp')}",
        unstorable_reason=f"has a time of day, which YYYY-MM-DD cannot hold, or is infinite or {YEARS_1_TO_9999}",
    ),
    "timestamp with time zone": Conversion(
        "formatted as YYYY-MM-DD",
        convert="(VALUE AT TIME ZONE 'UTC')::date::text",
        target_text=_unless(_IS_DATE, "VALUE || ' 00:00:00+00'"),
        unstorable=f"VALUE <> date_trunc('day', VALUE, 'UTC') OR {outside_years_1_to_9999('timestamptz')}",
        unstorable_reason="is not midnight in UTC, and YYYY-MM-DD cannot hold a time of day, or is infinite or"
        f" {YEARS_1_TO_9999}",
    ),
}
_INTO_TIME = {
    "time without time zone": Conversion(
        "formatted as HH:MM",
        convert="left(VALUE::text, 5)",
        target_text=_unless(_IS_TIME, "VALUE || ':00'"),
        unstorable="extract(second FROM VALUE) <> 0",
        unstorable_reason="has seconds, which HH:MM cannot hold",
    ),
    "time with time zone": Conversion(
        "formatted as HH:MM",
        convert="left(VALUE::text, 5)",
        target_text=_unless(_IS_TIME, "VALUE || ':00+00'"),
        unstorable="VALUE::text !~ '^[0-9]{2}:[0-9]{2}:00[+]00$'",
        unstorable_reason="has seconds or another time zone than UTC, which HH:MM cannot hold",
    ),
    TEXT: Conversion(
        "unchanged, without the seconds :00",
        convert="left(VALUE, 5)",
        source_text=f"CASE WHEN {_IS_TIME_OF_SOURCE} THEN left(VALUE, 5) ELSE VALUE END",
        unstorable=f"NOT ({_IS_TIME_OF_SOURCE})",
        unstorable_reason="is not a time of the form HH:MM",
    ),
}
INTO_FORM: dict[str, tuple[str, dict[str, Conversion]]] = {
    "YYYY-MM-DD": (_IS_DATE, _INTO_DATE),
    "MM-DD": (_IS_DAY, {}),
    "HH:MM": (_IS_TIME, _INTO_TIME),
}


def conversion_into_form(kind: str, form: Form) -> Conversion:
    """Return how a value of a type of the source becomes a text of this form."""
    has_form, known = INTO_FORM[form.pattern]
    if kind == TEXT and not form.required:
        return Conversion("unchanged", convert="VALUE::text")
    if found := known.get(kind):
        return found
    return Conversion(
        f"unchanged, as {form.pattern}",
        convert="VALUE::text",
        unstorable=f"VALUE::text IS NOT NULL AND NOT ({has_form.replace('VALUE', '(VALUE::text)')})",
        unstorable_reason=f"does not have the form {form.pattern}",
    )
