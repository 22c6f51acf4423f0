"""The Python values that each column type takes, and how PostgreSQL reads them.

Rows and parameters pass the same checks, so that a value is stored, compared or refused alike on every path. What one
path would round, pad or reinterpret is refused on all of them.
"""

from __future__ import annotations

import json
import struct
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, cast
from uuid import UUID

import msgspec
from sqlalchemy import (
    ARRAY,
    JSON,
    REAL,
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    Interval,
    LargeBinary,
    Null,
    Numeric,
    SmallInteger,
    String,
    Time,
    Uuid,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import INTERVAL

from tatame_db.database.dialect import DIALECT
from tatame_db.queries.moments import date_values, datetime_values, interval_values, time_values
from tatame_db.queries.value_type import Refused, ValueType, check_text, wrong_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sqlalchemy.types import TypeEngine

# PostgreSQL's own limits.
MAX_ARRAY_DIMENSIONS = 6
MAX_DIGITS_BEFORE_POINT = 131_072
MAX_DIGITS_AFTER_POINT = 16_383
# Python writes no longer integer as text.
MAX_JSON_BITS = 14_000
# A FLOAT of at most this many binary digits is `real`.
REAL_DIGITS = 24


def value_type(kind: TypeEngine[Any]) -> ValueType | None:
    """Return the values of a column type, or `None` for a type whose values only a session can write."""
    for sql_type, make in _MAKERS:
        if isinstance(kind, sql_type):
            return make(kind)
    return None


def checked_converter(
    kinds: Iterable[TypeEngine[Any]], convert: Callable[[Any], Any] | None
) -> Callable[[Any], Any] | None:
    """Return the conversion of a parameter that SQL compares with values of these types: a check, then SQLAlchemy's.

    It raises `Refused`. `None` if there is nothing to do, because SQLAlchemy does not know the type.
    """
    checks = [kind.accept for kind in (value_type(_compared(kind)) for kind in kinds) if kind is not None]
    if not checks:
        return convert

    def converted(value: Any) -> Any:
        if value is not None:
            for check in checks:
                value = check(value)
        return value if convert is None else convert(value)

    return converted


def _compared(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """Return the type with which a value is compared: one that is too long or too precise for a column is no mistake.

    An integer out of range is one, because its SQL has a cast to the type of the column, which fails.
    """
    if isinstance(kind, Enum):
        return kind
    if isinstance(kind, String):
        return String()
    if isinstance(kind, Float):
        return kind if kind.asdecimal else Float()
    return Numeric() if isinstance(kind, Numeric) and kind.asdecimal else kind


# --- Text and numbers ------------------------------------------------------------------------------------------------


def _text(kind: String) -> ValueType:
    length = kind.length
    if length is None:
        return ValueType(check_text, checked_by=str)

    def accept(value: Any) -> str:
        text = check_text(value)
        if len(text) > length:
            raise Refused(f"has more than {length} characters")
        return text

    return ValueType(accept, checked_by=Annotated[str, msgspec.Meta(max_length=length)])


def _integer(kind: Integer) -> ValueType:
    bits = 64 if isinstance(kind, BigInteger) else 16 if isinstance(kind, SmallInteger) else 32
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def accept(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise wrong_type("`int`", value)
        if not lowest <= value <= highest:
            raise Refused(f"is out of range: expected >= {lowest} and <= {highest}")
        return int.__int__(value)

    return ValueType(accept, checked_by=Annotated[int, msgspec.Meta(ge=lowest, le=highest)])


def _boolean(_: Boolean) -> ValueType:
    def accept(value: Any) -> bool:
        if not isinstance(value, bool):
            raise wrong_type("`bool`", value)
        return value

    return ValueType(accept, checked_by=bool)


def _float(kind: Float[Any]) -> ValueType | None:
    if kind.asdecimal:
        return None
    is_real = isinstance(kind, REAL) or (kind.precision is not None and kind.precision <= REAL_DIGITS)

    def accept(value: Any) -> float:
        number = _exact_float(value)
        if is_real and number - number == 0:  # neither infinite nor NaN
            try:
                vanishes = number != 0 and struct.unpack("<f", struct.pack("<f", number)) == (0,)
            except OverflowError:
                raise Refused("is out of the range of `real`") from None
            if vanishes:
                raise Refused("is out of the range of `real`")
        return number

    return ValueType(accept, repr)


def _exact_float(value: Any) -> float:
    if isinstance(value, float):
        return float.__float__(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_type("`float`", value)
    try:
        number = float(int.__int__(value))
    except OverflowError:
        number = 0.0
    if number != value:
        raise Refused("is an `int` that no `float` equals")
    return number


def _numeric(kind: Numeric[Any]) -> ValueType | None:
    if not kind.asdecimal:
        return None
    before, after = MAX_DIGITS_BEFORE_POINT, MAX_DIGITS_AFTER_POINT
    if kind.precision is not None:
        after = kind.scale or 0
        before = kind.precision - after

    def accept(value: Any) -> Decimal:
        if not isinstance(value, int | Decimal) or isinstance(value, bool):
            raise wrong_type("`Decimal`", value)
        number = Decimal(value)
        if number.is_snan():
            raise Refused("is a signaling NaN")
        if number.is_infinite() and kind.precision is not None:
            raise Refused("is infinite")
        if number.is_finite() and number:
            _, digits, exponent = number.as_tuple()
            zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
            if -(cast("int", exponent) + zeros) > after:
                raise Refused(f"has more than {after} digits after the point")
            if number.adjusted() + 1 > before:
                raise Refused(f"has more than {before} digits before the point")
        return number

    return ValueType(accept, lambda number: f"{number:.{kind.scale}f}" if kind.scale else str(number))


# --- Other types -----------------------------------------------------------------------------------------------------


def _uuid(kind: Uuid[Any]) -> ValueType:
    def accept(value: Any) -> UUID:
        if not isinstance(value, UUID):
            raise wrong_type("`UUID`", value)
        return value

    def accept_text(value: Any) -> str:
        try:
            return str(UUID(check_text(value)))
        except ValueError:
            raise Refused("is not a UUID") from None

    return ValueType(accept if kind.as_uuid else accept_text, str)


def _bytes(_: LargeBinary) -> ValueType:
    def accept(value: Any) -> bytes:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise wrong_type("`bytes`", value)
        return bytes(cast("bytes", value))

    return ValueType(accept, lambda value: f"\\x{value.hex()}")


def _enum(kind: Enum) -> ValueType:
    members = kind.enum_class
    labels = cast("Sequence[str]", kind.enums)
    to_label: Callable[[Any], Any] = cast("Any", kind).bind_processor(DIALECT)

    def accept(value: Any) -> Any:
        # Text may be a label, as in a session.
        if not isinstance(value, str) and (members is None or not isinstance(value, members)):
            raise wrong_type(f"`{members.__name__ if members else 'str'}`", value)
        try:
            label = to_label(value)
        except LookupError:
            label = None
        if label not in labels:
            raise Refused(f"is not one of {', '.join(labels)}")
        return value

    return ValueType(accept, to_label)


def _json(kind: JSON) -> ValueType:
    def accept(value: Any) -> Any:
        # SQLAlchemy's own names for the null of JSON and that of SQL.
        if value is JSON.NULL or isinstance(value, Null):
            return value
        try:
            _check_json(value)
        except RecursionError:
            raise Refused("contains itself, or too many levels") from None
        return value

    return ValueType(accept, _json_text, takes_none=not kind.none_as_null)


def _json_text(value: Any) -> str | None:
    return None if isinstance(value, Null) else json.dumps(None if value is JSON.NULL else value)


def _check_json(value: Any) -> None:
    match value:
        case None | bool():
            pass
        case str():
            check_text(value)
        case int() if value.bit_length() > MAX_JSON_BITS:
            raise Refused("contains a number with too many digits")
        case float() if value - value != 0:
            raise Refused("contains a number that JSON cannot represent")
        case int() | float():
            pass
        case list() | tuple():
            for item in cast("list[object]", value):
                _check_json(item)
        case dict():
            for key, item in cast("dict[object, object]", value).items():
                if not isinstance(key, str):
                    raise Refused(f"contains a key that is a `{type(key).__name__}`, not a `str`")
                check_text(key)
                _check_json(item)
        case _:
            raise Refused(f"contains a `{type(value).__name__}`, which JSON cannot represent")


# --- Arrays ----------------------------------------------------------------------------------------------------------


class ItemList(postgresql.ARRAY[Any]):
    """The values of an `in_`, which are no lists themselves: `= ANY` would look into those."""

    cache_ok = True


def _array(kind: ARRAY[Any]) -> ValueType | None:
    item = value_type(kind.item_type)
    # JSON has arrays of its own, so that it cannot say where an array of PostgreSQL ends.
    if item is None or isinstance(kind.item_type, JSON):
        return None
    text = item.text

    def accept(value: Any) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise wrong_type("`list`", value)
        if isinstance(kind, ItemList) and any(isinstance(part, list | tuple) for part in cast("list[object]", value)):
            raise Refused("contains a list in place of an item")
        items = _items(cast("list[object]", value), item, MAX_ARRAY_DIMENSIONS)
        if items and _shape(items) is None:
            raise Refused("is not an array: its lists differ in length or in depth, or are empty")
        return items

    return ValueType(accept, partial(_item_texts, text) if text else _unchanged)


def _items(value: Sequence[object], item: ValueType, dimensions: int) -> list[Any]:
    if not dimensions:
        raise Refused(f"has more than {MAX_ARRAY_DIMENSIONS} dimensions")
    return [
        None
        if part is None
        else _items(cast("list[object]", part), item, dimensions - 1)
        if isinstance(part, list | tuple)
        else _accepted_item(part, item)
        for part in value
    ]


def _accepted_item(value: object, item: ValueType) -> Any:
    try:
        return item.accept(value)
    except Refused as refused:
        raise Refused(f"contains an item that {refused.problem}") from None


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return the lengths of a nested list by dimension; `None` unless it is rectangular and nowhere empty."""
    if not isinstance(value, list):
        return ()
    shapes = {_shape(part) for part in cast("list[object]", value)}
    shape = shapes.pop() if shapes else None
    return None if shapes or shape is None else (len(cast("list[object]", value)), *shape)


def _item_texts(text: Callable[[Any], Any], value: list[Any]) -> list[Any]:
    return [
        None if part is None else _item_texts(text, cast("Any", part)) if isinstance(part, list) else text(part)
        for part in value
    ]


def _unchanged(value: Any) -> Any:
    return value


# A subclass comes before its base: `Enum` is a `String`.
_MAKERS: Sequence[tuple[Any, Callable[[Any], ValueType | None]]] = (
    (Enum, _enum),
    (String, _text),
    (Integer, _integer),
    (Boolean, _boolean),
    (Float, _float),
    (Numeric, _numeric),
    (DateTime, datetime_values),
    (Date, date_values),
    (Time, time_values),
    (Interval | INTERVAL, interval_values),
    (Uuid, _uuid),
    (LargeBinary, _bytes),
    (JSON, _json),
    (ARRAY, _array),
)
