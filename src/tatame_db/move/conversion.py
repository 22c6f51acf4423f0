"""A conversion of values of the source into values of the target, and of both into the text that a proof compares.

It consists of SQL expressions about one value, written `VALUE`. A proof compares the text of the source's value with
the text of the *target's* value in the source's type. So a conversion that loses something fails its proof.
"""

from __future__ import annotations

from dataclasses import dataclass

TEXT, INTEGER, TIMESTAMP, TEXTS = "text", "integer", "timestamp without time zone", "text[]"
INTEGERS = ("smallint", "integer", "bigint")
# Types of which two values are equal only if their texts are, each with one name for all types that hash alike.
_EXACT: dict[str | None, str] = {
    **dict.fromkeys(INTEGERS, INTEGER),
    **dict.fromkeys((TEXT, "character varying"), TEXT),
    TIMESTAMP: TIMESTAMP,
    **{name: name for name in ("boolean", "date", "time without time zone", "timestamp with time zone", "uuid")},
}
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


def as_hashed(value: str, kind: str | None) -> str:
    """Return the expression whose hash stands for the text of a value of this type: a text, or the value itself.

    A value of another type than the exact ones may be equal to one with another text, as 1.0 is to 1.00.
    """
    if exact_kind(kind) in (None, TEXT):
        return f'({value}::text) COLLATE "C"'
    return value


def exact_kind(kind: str | None) -> str | None:
    """Return one name for all types whose equal values have equal texts and equal hashes; `None` for other types."""
    return _EXACT.get(kind)


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
