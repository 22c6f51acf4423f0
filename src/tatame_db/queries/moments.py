"""The values of columns of dates and times."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Annotated, Any, cast

import msgspec

from tatame_db.queries.value_type import Refused, ValueType, wrong_type

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Date, DateTime, Time


def datetime_values(kind: DateTime) -> ValueType:
    """Return the values of a column with or without a time zone."""
    check_precision = _precision_check(kind)

    def accept(value: Any) -> datetime:
        if not isinstance(value, datetime):
            raise wrong_type("`datetime`", value)
        if kind.timezone and value.utcoffset() is None:
            raise Refused(
                "is of the wrong type: expected `datetime` with a timezone, got one with no timezone",
                "{}.replace(tzinfo=UTC)",
            )
        # PostgreSQL would drop the zone, and store another moment.
        if not kind.timezone and value.tzinfo is not None:
            raise Refused(
                "is of the wrong type: expected `datetime` with no timezone, got one with a timezone",
                "{}.astimezone(UTC).replace(tzinfo=None)",
            )
        check_precision(value)
        return _plain_datetime(value)

    if kind.timezone:
        return ValueType(accept, _moment_text)
    checked_by = Annotated[datetime, msgspec.Meta(tz=False)] if _precision(kind) is None else None
    return ValueType(accept, None if checked_by else lambda value: value.isoformat(" "), checked_by)


def _plain_datetime(value: datetime) -> datetime:
    if type(value) is datetime:
        return value
    plain = datetime.combine(
        date(value.year, value.month, value.day),
        time(value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold),
    )
    if plain != value:  # as with the nanoseconds of pandas
        raise Refused("is more precise than microseconds")
    return plain


def _moment_text(value: datetime) -> str:
    try:
        value = value.astimezone(UTC)
    except OverflowError:
        # The first or last day of Python's calendar is another year in UTC, which PostgreSQL has.
        return value.isoformat(" ")
    return value.isoformat(" ").removesuffix(":00")


def date_values(_: Date) -> ValueType:
    """Return the values of a column of dates."""

    def accept(value: Any) -> date:
        if not isinstance(value, date) or isinstance(value, datetime):
            raise wrong_type("`date`", value)
        return date(value.year, value.month, value.day)

    return ValueType(accept, date.isoformat)


def time_values(kind: Time) -> ValueType:
    """Return the values of a column of times, with or without an offset from UTC."""
    check_precision = _precision_check(kind)

    def accept(value: Any) -> time:
        if not isinstance(value, time):
            raise wrong_type("`time`", value)
        if kind.timezone and value.utcoffset() is None:
            raise Refused("is of the wrong type: expected `time` with an offset from UTC, got one with none")
        if not kind.timezone and value.tzinfo is not None:
            raise Refused("is of the wrong type: expected `time` with no timezone, got one with a timezone")
        check_precision(value)
        return value

    return ValueType(accept, time.isoformat)


def _precision(kind: Any) -> int | None:
    return cast("int | None", getattr(kind, "precision", None))


def _precision_check(kind: Any) -> Callable[[Any], None]:
    """Return a check that a column keeps all digits of a second; the type of PostgreSQL alone may have fewer than 6."""
    digits = _precision(kind)

    def check(value: Any) -> None:
        if digits is not None and value.microsecond % 10 ** (6 - digits):
            raise Refused(f"has more than {digits} digits of a second")

    return check


def interval_values(kind: Any) -> ValueType | None:
    """Return the values of a column of intervals, or `None` if it keeps only some parts of them."""
    if getattr(kind, "fields", None) is not None or _precision(kind) is not None:
        return None

    def accept(value: Any) -> timedelta:
        if not isinstance(value, timedelta):
            raise wrong_type("`timedelta`", value)
        return value

    # A sign for each part, because one sign may count for all of them, depending on `IntervalStyle`.
    return ValueType(
        accept, lambda value: f"{value.days:+} days {value.seconds:+} seconds {value.microseconds:+} microseconds"
    )
