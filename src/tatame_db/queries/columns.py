"""What a write has to know of the columns of a model: their order, their names in SQL, and who sets them."""

from __future__ import annotations

from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Column, PrimaryKeyConstraint, UniqueConstraint, inspect

from tatame_db.database.dialect import DIALECT, quoted
from tatame_db.queries.errors import WriteInvalid

if TYPE_CHECKING:
    from collections.abc import Callable

    from tatame_db.schema import Base

MAX_COLUMN_SETS = 1_000
"""How many sets of columns are remembered: callers choose the columns, so there may be any number of sets."""


def column_name(model: type[Base], name: str) -> str:
    """Write the column of an attribute for SQL: `mapped_column("from")` may have the name `from_` in Python."""
    return quoted(str(inspect(model).columns[name].name))


def column_type(model: type[Base], name: str) -> str:
    """Write the type of a column for SQL."""
    return inspect(model).columns[name].type.compile(DIALECT)


@cache
def column_keys(model: type[Base]) -> tuple[str, ...]:
    """Return the attributes of all columns, in the order of the table."""
    return tuple(inspect(model).columns.keys())


@cache
def mapped_elsewhere(model: type[Base]) -> str | None:
    """Return why the rows of a model are more than those of its table, if only SQLAlchemy knows how they are made."""
    mapper = inspect(model)
    if mapper.inherits is not None and not mapper.single:
        return f"{model.__name__} has columns in the table of {mapper.inherits.class_.__name__}, which it inherits from"
    columns: dict[str, object] = dict(mapper.columns.items())
    computed = [name for name, column in columns.items() if not isinstance(column, Column)]
    return f"{model.__name__}.{computed[0]} is a `column_property` of an expression" if computed else None


@lru_cache(maxsize=MAX_COLUMN_SETS)
def in_order(model: type[Base], names: frozenset[str]) -> tuple[str, ...]:
    """Return columns in the order of the table, so that the same columns make the same statement."""
    return tuple(name for name in column_keys(model) if name in names)


def has_server_default(column: Column[Any]) -> bool:
    """Return whether the server sets a column that an INSERT does not name."""
    return column.server_default is not None or column is column.table.autoincrement_column


@cache
def computed_columns(model: type[Base]) -> frozenset[str]:
    """Return the columns that the server computes and no statement sets."""
    return frozenset(
        name
        for name, column in inspect(model).columns.items()
        if column.computed is not None or (column.identity is not None and column.identity.always)
    )


@cache
def python_defaults(model: type[Base]) -> dict[str, Callable[[], Any]]:
    """Return the defaults that SQLAlchemy computes in Python."""
    found: dict[str, Callable[[], Any]] = {}
    for name, column in inspect(model).columns.items():
        default = cast("Any", column.default)
        if default is None:
            continue
        if default.is_scalar:
            found[name] = partial(_same, default.arg)
        elif default.is_callable:
            # SQLAlchemy passes the context of the statement to the function, whether it uses it or not.
            found[name] = partial(default.arg, _NoContext(model, name))
    return found


@cache
def only_a_session_sets(model: type[Base]) -> frozenset[str]:
    """Return the columns whose default is an expression or a sequence that SQLAlchemy adds to an INSERT."""
    defaults = python_defaults(model)
    return frozenset(
        name for name, column in inspect(model).columns.items() if column.default is not None and name not in defaults
    )


@cache
def only_a_session_updates(model: type[Base]) -> frozenset[str]:
    """Return the columns that SQLAlchemy sets in an UPDATE that does not name them."""
    return frozenset(name for name, column in inspect(model).columns.items() if column.onupdate is not None)


class _NoContext:
    """Stands for the context that SQLAlchemy passes to a default, which has the other values of the row."""

    def __init__(self, model: type[Base], name: str) -> None:
        self._column = f"{model.__name__}.{name}"

    def __getattr__(self, name: str) -> Any:
        raise WriteInvalid(
            problem=f"the default of {self._column} needs the context of a session's statement",
            advice="name the column in each row, or use `session.add_all`",
        )


def _same(value: Any) -> Any:
    return value


def unique_keys(model: type[Base]) -> list[set[str]]:
    """Return the keys by which ON CONFLICT finds a row: those that are checked at once, and hold for all rows."""
    attribute = {column.name: name for name, column in inspect(model).columns.items()}
    table: Any = model.__table__
    found = [
        list(constraint.columns)
        for constraint in getattr(table, "constraints", ())
        if isinstance(constraint, PrimaryKeyConstraint | UniqueConstraint) and not constraint.deferrable
    ]
    for index in getattr(table, "indexes", ()):
        is_partial = index.dialect_options["postgresql"]["where"] is not None
        if index.unique and not is_partial and len(index.columns) == len(index.expressions):
            found.append(list(index.columns))
    return [{attribute[column.name] for column in columns} for columns in found]
