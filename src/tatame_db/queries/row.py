"""Read-only rows: C structs with the attributes of the models, made once for each selection of columns."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn, cast

import msgspec
from sqlalchemy import ARRAY, TIMESTAMP, Boolean, Integer, Text, inspect

from tatame_db.queries.errors import NotLoaded, RowReadOnly

if TYPE_CHECKING:
    from sqlalchemy.orm import Mapper
    from sqlalchemy.types import TypeEngine

    from tatame_db.schema import Base


class Row(msgspec.Struct, array_like=True, gc=False, eq=False):
    """The base of all rows; each subclass has the columns and relations that a read selects.

    Rows are compared by identity, as the models are. `gc=False` is safe: rows never form reference cycles.
    """

    def __getattr__(self, name: str) -> NoReturn:
        mapper = _MAPPERS[type(self)]
        if name in mapper.attrs:
            raise NotLoaded(model=type(self).__name__, name=name, is_relation=name in mapper.relationships)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: object) -> None:
        raise RowReadOnly(model=type(self).__name__, name=name)

    def __delattr__(self, name: str) -> None:
        raise RowReadOnly(model=type(self).__name__, name=name)

    def __repr__(self) -> str:
        """Show the primary key alone, as the models do: other columns may be personal."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        key = [str(column.key) for column in _MAPPERS[type(self)].primary_key]
        return [(name, getattr(self, name)) for name in key if name in self.__struct_fields__]


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
        return list[Any] if isinstance(cast("Any", kind).item_type, Text | Integer | Boolean) else None
    if isinstance(kind, TIMESTAMP):
        return None if kind.timezone else datetime
    known: dict[type[TypeEngine[Any]], Any] = {Text: str, Integer: int, Boolean: bool}
    return next((python for sql, python in known.items() if isinstance(kind, sql)), None)
