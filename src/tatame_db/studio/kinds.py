"""Kinds of columns, by which the browser shows, filters and edits a value; and the types of PostgreSQL behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy
from sqlalchemy import BigInteger, Integer, SmallInteger, Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TIMESTAMP, UserDefinedType

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.types import TypeEngine

_KINDS: dict[type[Any], str] = {sqlalchemy.ARRAY: "array", Integer: "integer", TIMESTAMP: "timestamp", Text: "text"}
_BY_SHAPE = {"A": "array", "e": "enum", "r": "range", "m": "range"}
_BY_NAME = {
    "boolean": "boolean",
    "numeric": "number",
    "real": "number",
    "double precision": "number",
    "date": "date",
    "time without time zone": "time",
    "time with time zone": "time",
    "json": "json",
    "jsonb": "json",
    "bytea": "bytea",
    "uuid": "uuid",
    "interval": "interval",
    "character varying": "text",
    "bpchar": "text",
    "name": "text",
    "citext": "text",
}
SHORT_KINDS = {"integer", "timestamp", "boolean", "enum", "date", "time", "uuid", "interval"}
"""The kinds whose values are never long."""
COMPARED_KINDS = {"integer", "text", "timestamp", "date", "uuid"}
"""The kinds of which equal values have equal texts, and each has an operator for equality."""


class Named(UserDefinedType[Any]):
    """A type of PostgreSQL by its name; its values are texts."""

    cache_ok = True

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind = name, kind

    def get_col_spec(self, **_: object) -> str:
        """Write the type for a cast; of a compound statement, psycopg reads `%` as the start of a parameter."""
        return self.name.replace("%", "%%")


def column_type(name: str, shape: str = "b", element: str | None = None) -> TypeEngine[Any]:
    """Return the type for a name as `format_type` writes it, and a `typtype`, or `A` for an array."""
    if shape == "A" or name.endswith("[]"):
        return ARRAY(column_type(element or name.removesuffix("[]")))
    known: dict[str, TypeEngine[Any]] = {
        "text": Text(),
        "smallint": SmallInteger(),
        "integer": Integer(),
        "bigint": BigInteger(),
        "timestamp without time zone": TIMESTAMP(),
        "timestamp with time zone": TIMESTAMP(timezone=True),
    }
    kind = _BY_SHAPE.get(shape) or _BY_NAME.get(name.rpartition(".")[2], "other")
    return known.get(name) or Named(name, kind)


def kind_of(column: ColumnElement[Any]) -> str:
    """Return the kind of a column, by which the browser shows, filters and edits it."""
    if isinstance(column.type, Named):
        return column.type.kind
    return next((kind for known, kind in _KINDS.items() if isinstance(column.type, known)), "other")
