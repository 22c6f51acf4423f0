"""Read-only rows: C structs with the attributes of the models, made once for each selection of columns.

Static types call a row an object of its model, and code finds it to be one: `isinstance(row, User)` is true,
`case User(id=1)` matches it, and `vars(row)` has what was loaded. It has no session, and loads nothing later.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import msgspec
from sqlalchemy import ARRAY, TIMESTAMP, Boolean, Enum, Integer, String, inspect

from tatame_db.queries.errors import NotLoaded, RowOutdated, RowReadOnly

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.orm import Mapper
    from sqlalchemy.types import TypeEngine

    from tatame_db.schema import Base


class Row(msgspec.Struct, array_like=True, gc=False, eq=False):
    """The base of all rows; each subclass has the columns and relations that a read selects.

    Two rows are equal if they are of the same model and have the same attributes with equal values, relations included.
    `gc=False` is safe: rows never form reference cycles.
    """

    def as_dict(self) -> dict[str, Any]:
        """Return what was loaded as plain dictionaries, lists and values, relations included.

        json.dumps(row.as_dict(), default=str)
        """
        return {name: _plain(getattr(self, name)) for name in self.__struct_fields__}

    @property  # type: ignore[misc]  # read-only
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride], read-only
        """The model, so that `isinstance` and `match` agree with the static type; `type(row)` is the struct."""
        return _MAPPERS[type(self)].class_

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]  # read-only
        """What was loaded, as in an object of the model; a new dictionary each time."""
        return {name: getattr(self, name) for name in self.__struct_fields__}

    def __dir__(self) -> Iterable[str]:
        return sorted({*self.__struct_fields__, *dir(Row)})

    @property
    def __pydantic_serializer__(self) -> Any:
        """How pydantic serializes a row without a model for the response: as its dictionary."""
        return _serializer()

    def __getattr__(self, name: str) -> NoReturn:
        mapper = _MAPPERS[type(self)]
        if name in mapper.attrs:
            raise NotLoaded(model=type(self).__name__, attribute=name, is_relation=name in mapper.relationships)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: object) -> None:
        raise RowReadOnly(model=type(self).__name__, name=name)

    def __delattr__(self, name: str) -> None:
        raise RowReadOnly(model=type(self).__name__, name=name)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Row):
            return NotImplemented
        if _MAPPERS[type(self)] is not _MAPPERS[type(other)]:
            return False
        return self is other or self.__dict__ == other.__dict__

    def __ne__(self, other: object) -> bool:
        # A struct has one of its own, which compares identities.
        return not self == other

    def __hash__(self) -> int:
        # Equal rows have equal keys. Without the whole key, arrays and relations are left out: a list has no hash.
        values = [getattr(self, name) for name in _key(type(self)) if name in self.__struct_fields__]
        if not values:
            values = [value for value in self.__dict__.values() if not isinstance(value, list | dict | Row)]
        return hash((_MAPPERS[type(self)], *values))

    def __reduce__(self) -> tuple[Any, ...]:
        mapper = _MAPPERS[type(self)]
        return _restored, (mapper.class_, self.__dict__)

    def __repr__(self) -> str:
        """Show the primary key alone, as the models do: other columns may be personal."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in _key(type(self)) if name in self.__struct_fields__]


# A struct has no room for an attribute of its class besides its fields.
_MAPPERS: dict[type, Mapper[Base]] = {}


@cache
def row_type(model: type[Base], columns: tuple[str, ...], relations: tuple[tuple[str, Any], ...] = ()) -> type[Row]:
    """Return the struct for these columns, in this order, followed by the relations with their types."""
    mapper = inspect(model)
    fields = [(name, json_type(mapper.columns[name].type) or Any) for name in columns]
    fields = [(name, kind if not mapper.columns[name].nullable else kind | None) for name, kind in fields]
    struct = msgspec.defstruct(
        model.__name__, [*fields, *relations], bases=(Row,), module=__name__, array_like=True, gc=False, eq=False
    )
    _MAPPERS[struct] = mapper
    return cast("type[Row]", struct)


def json_type(kind: TypeEngine[Any]) -> Any:
    """Return the Python type of a column type that JSON carries without loss, or `None` if JSON loses something.

    JSON has no NaN, infinity or bytes, and no form of PostgreSQL's intervals that other programs read.
    """
    if isinstance(kind, ARRAY):
        # PostgreSQL allows NULL and several dimensions in any array, whatever its column declares.
        return list[Any] if _plain_json_type(cast("Any", kind).item_type) is not None else None
    if isinstance(kind, TIMESTAMP):
        return None if kind.timezone else datetime
    return _plain_json_type(kind)


def _plain_json_type(kind: TypeEngine[Any]) -> type | None:
    # SQLAlchemy makes the members of an `Enum` of its labels.
    if isinstance(kind, Enum):
        return None
    known: dict[type[TypeEngine[Any]], type] = {String: str, Integer: int, Boolean: bool}
    return next((python for sql, python in known.items() if isinstance(kind, sql)), None)


@cache
def _serializer() -> Any:
    # Programs without pydantic's models need not load it.
    from pydantic import PlainSerializer, TypeAdapter  # noqa: PLC0415

    return TypeAdapter(Annotated[Any, PlainSerializer(Row.as_dict)]).serializer


@cache
def _key(struct: type) -> tuple[str, ...]:
    mapper = _MAPPERS[struct]
    return tuple(mapper.get_property_by_column(column).key for column in mapper.primary_key)


def _plain(value: Any) -> Any:
    if isinstance(value, Row):
        return value.as_dict()
    if isinstance(value, list):
        return [_plain(item) for item in cast("list[object]", value)]
    return value


def _restored(model: type[Base], values: dict[str, Any]) -> Row:
    """Make a pickled row again, also in a process that has run no read."""
    mapper = inspect(model)
    columns = tuple(name for name in values if name in mapper.columns)
    relations = tuple((name, Any) for name in values if name in mapper.relationships)
    if missing := values.keys() - {*columns, *(name for name, _ in relations)}:
        raise RowOutdated(model=model.__name__, names=sorted(missing))
    return row_type(model, columns, relations)(
        *[values[name] for name in columns], *[values[name] for name, _ in relations]
    )
