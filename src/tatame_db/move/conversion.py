"""A conversion of values of the source into values of the target, and of both into the text that a proof compares.

It consists of SQL expressions about one value, written `VALUE`. A proof compares the text of the source's value with
the text of the *target's* value in the source's type. So a conversion that loses something fails its proof.
"""

from __future__ import annotations

from dataclasses import dataclass

TEXT, INTEGER, TIMESTAMP, TEXTS = "text", "integer", "timestamp without time zone", "text[]"
INTEGERS = ("smallint", "integer", "bigint")
HASHED_TEXT = '(VALUE)::text COLLATE "C"'
# Groups of types of which two values are equal only if their texts are, each with what is hashed for them. PostgreSQL's
# own hash of a 64-bit value is that of its two halves, exclusive-or: hence the bytes that it would send.
_HASHED = [
    ({"smallint", "integer"}, "VALUE"),
    ({*INTEGERS}, "int8send(VALUE::bigint)"),
    ({TEXT, "character varying"}, HASHED_TEXT),
    ({"boolean"}, "VALUE"),
    ({"date"}, "VALUE"),
    ({"uuid"}, "VALUE"),
    ({"time without time zone"}, "time_send(VALUE)"),
    ({TIMESTAMP}, "timestamp_send(VALUE)"),
    ({"timestamp with time zone"}, "timestamptz_send(VALUE)"),
]
# Parts of the reasons for which a value cannot be stored.
YEARS_1_TO_9999 = "outside the years 1 to 9999"


@dataclass(frozen=True)
class Conversion:
    """Four SQL expressions about one value.

    `unstorable` is true for a value that cannot be stored unchanged, and NULL or false for all others. `convert` may
    fail for such a value. The two texts never fail, whatever value there is.
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


def hashed(*kinds: str | None) -> str | None:
    """Return the expression that is hashed for a value of any of these types; `None` if it has to be the text.

    A value of another type may be equal to one with another text, as 1.0 is to 1.00.
    """
    return next((expression for group, expression in _HASHED if group.issuperset(kinds)), None)


MISSING = Conversion("NULL: the source has no such column", convert="NULL", source_text="NULL::text")
UNCHANGED = Conversion("unchanged")


def outside_years_1_to_9999(type_name: str) -> str:
    """Return the condition that a date or a moment is infinite or outside the years 1 to 9999."""
    return f"NOT (VALUE >= {type_name} '0001-01-01' AND VALUE < {type_name} '10000-01-01')"


def is_day(text: str) -> str:
    """Return the condition that a text begins with a day of the calendar, as `2024-02-29`; never fails."""
    # The cast of a day that does not exist would fail, so the days are counted from the first one of the month.
    return (
        f"CASE WHEN {text} ~ '^(?!0000)[0-9]{{4}}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])'"
        f" THEN ((left({text}, 7) || '-01')::date + (substr({text}, 9, 2)::integer - 1))::text = left({text}, 10)"
        " ELSE false END"
    )
