"""Read-only rows: C structs made once from the models, with the same attributes."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn, cast

import msgspec
from sqlalchemy import ARRAY, TIMESTAMP, Boolean, Integer, Text, inspect

from tatame_db.errors import TatameError

if TYPE_CHECKING:
    from sqlalchemy.orm import Mapper
    from sqlalchemy.types import TypeEngine

    from tatame_db.schema import Base


class NotLoaded(TatameError):
    """A column or a relation of a row was read that its description did not ask for."""

    def __init__(self, model: str, name: str, *, is_relation: bool) -> None:
        self.model, self.name = model, name
        step = f".load({model}.{name})" if is_relation else f".columns(…, {model}.{name})"
        super().__init__(
            f"{model}.{name} was not loaded",
            means="Reading it would have queried the database behind your back, so nothing was read.",
            fix=f"add it to the description that read this row: `{step}`",
        )


class RowReadOnly(TatameError):
    """An attribute of a row was assigned."""

    def __init__(self, model: str, name: str) -> None:
        self.model, self.name = model, name
        super().__init__(
            f"{model}.{name} cannot be set: this row was read to be looked at",
            means="Nothing was changed, here or in the database.",
            fix=f"get the object to change: `session.get({model}, row.id)`",
        )


class Row(msgspec.Struct, array_like=True, gc=False, eq=False):
    """What every row answers; its subclasses have the columns and relations that were asked for.

    Like the models, rows are compared by identity.

    No collection of garbage: rows hold what was read and never each other in a circle.
    """

    def __getattr__(self, name: str) -> NoReturn:
        mapper = _mapper_of(type(self))
        if name in mapper.attrs:
            raise NotLoaded(type(self).__name__, name, is_relation=name in mapper.relationships)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: object) -> None:
        raise RowReadOnly(type(self).__name__, name)

    def __delattr__(self, name: str) -> None:
        raise RowReadOnly(type(self).__name__, name)

    def __repr__(self) -> str:
        """Name the row by its key alone, as the models do: the other columns may be personal."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        key = [str(column.key) for column in _mapper_of(type(self)).primary_key]
        return [(name, getattr(self, name)) for name in key if name in self.__struct_fields__]


_MAPPERS: dict[type, Mapper[Base]] = {}


def _mapper_of(row_type: type) -> Mapper[Base]:
    return _MAPPERS[row_type]


@cache
def row_type(model: type[Base], columns: tuple[str, ...], relations: tuple[tuple[str, Any], ...] = ()) -> type[Row]:
    """Make the struct for these columns and relations, whose types are given; the same question gives the same type."""
    mapper = inspect(model)
    fields = [(name, python_type(mapper.columns[name].type) or Any) for name in columns]
    fields = [(name, kind if not mapper.columns[name].nullable else kind | None) for name, kind in fields]
    made = msgspec.defstruct(
        model.__name__, [*fields, *relations], bases=(Row,), module=__name__, array_like=True, gc=False, eq=False
    )
    _MAPPERS[made] = mapper
    return cast("type[Row]", made)


def python_type(kind: TypeEngine[Any]) -> Any:
    """Return what JSON carries of this type without loss, as the driver would give it; `None` where it does not.

    JSON has no NaN, no infinity, no bytes, and PostgreSQL's intervals have no form in it that others read.
    """
    if isinstance(kind, ARRAY):
        # An array may hold NULL and have several dimensions, whatever its column says.
        return list[Any] if isinstance(cast("Any", kind).item_type, Text | Integer | Boolean) else None
    if isinstance(kind, TIMESTAMP):
        return None if kind.timezone else datetime
    known: dict[type[TypeEngine[Any]], Any] = {Text: str, Integer: int, Boolean: bool}
    return next((python for sql, python in known.items() if isinstance(kind, sql)), None)
