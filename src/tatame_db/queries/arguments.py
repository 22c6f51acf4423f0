"""The arguments of a write: which model, which key, and what to return."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import JSON, inspect
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import InstrumentedAttribute, Mapper

from tatame_db.queries.columns import column_keys, mapped_elsewhere, unique_keys
from tatame_db.queries.errors import NotAKey, WriteInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tatame_db.schema import Base

PARTITIONED = "a partitioned table has no unique key without the columns of its partitions"
WITHOUT_KEY = "change rows that exist with `update_many`, and insert the others with `insert_many`"


def check_model(model: Any) -> None:
    """Raise `WriteInvalid` unless rows of `model` can be written."""
    if not isinstance(model, type) or not _is_model(model):
        raise WriteInvalid(
            problem=f"{described(model)} is not a model", advice="pass the class of a model, such as `User`"
        )
    parent: Any = cast("Any", inspect(model)).inherits
    problem = mapped_elsewhere(model)
    if problem is None and parent is not None:
        problem = f"the table of {model.__name__} also has rows of {parent.class_.__name__}, which it inherits from"
    if problem is not None:
        raise WriteInvalid(problem=problem, advice="use `session.add_all`, or a statement of SQLAlchemy in a session")


@cache
def _is_model(kind: Any) -> bool:
    return isinstance(inspect(kind, raiseerr=False), Mapper)


def returned_columns(model: type[Base], returning: Any) -> tuple[str, ...]:
    """Return the columns to return for `returning`: none, all, or one; raises `WriteInvalid` for anything else."""
    if returning is None:
        return ()
    if returning is model:
        return column_keys(model)
    if _is_column(model, returning):
        return (str(returning.key),)
    raise WriteInvalid(
        problem=f"`returning` is {described(returning)}, not {model.__name__} or one of its columns",
        advice=f"pass `returning={model.__name__}`, or a column such as `returning={_example(model)}`",
    )


def key_columns(model: type[Base], by: Any) -> tuple[str, ...]:
    """Return the columns in `by`; raises `NotAKey` unless it is a list of some, all of the model."""
    if isinstance(by, InstrumentedAttribute | str | bytes) or not hasattr(by, "__iter__"):
        raise _not_a_key(model, f"it is {described(by)}, not a list of columns", [by])
    columns: list[Any] = list(cast("Iterable[Any]", by))
    if not columns:
        raise _not_a_key(model, "it is empty")
    for column in columns:
        if not _is_column(model, column):
            raise _not_a_key(model, f"{described(column)} is not a column of {model.__name__}", columns)
        kind = inspect(model).columns[str(column.key)].type
        if isinstance(kind, JSON) and not isinstance(kind, JSONB):
            raise _not_a_key(model, f"{column} has the type JSON, whose values PostgreSQL does not compare")
    return tuple(dict.fromkeys(str(column.key) for column in columns))


def check_unique(model: type[Base], key: tuple[str, ...]) -> None:
    """Raise `NotAKey` unless the columns are the primary key or a unique key of a model."""
    keys = unique_keys(model)
    if set(key) in keys:
        return
    examples = [", ".join(f"{model.__name__}.{name}" for name in sorted(names)) for names in keys]
    problem = f"no primary key or unique constraint consists of {', '.join(key)}"
    advice = f"name the columns of one: {' or '.join(f'`by=[{example}]`' for example in examples)}"
    if is_partitioned(model):
        problem += f", because {PARTITIONED}"
        advice += f"; or {WITHOUT_KEY}"
    raise NotAKey(model=model.__name__, problem=problem, advice=advice)


def uncountable(model: type[Base]) -> WriteInvalid:
    """Return the error of an upsert whose new rows the server cannot tell from others."""
    return WriteInvalid(
        problem=f"the new rows of {model.__name__} cannot be counted, because its table has partitions or rules",
        advice=f"pass `returning=`, such as `returning={model.__name__}`",
    )


def is_partitioned(model: type[Base]) -> bool:
    """Return whether the table of a model is partitioned."""
    return bool(cast("Any", model).__table__.dialect_options["postgresql"]["partition_by"])


def described(argument: Any) -> str:
    """Describe an argument without its value: `User.gym`, `User`, text, or the type of anything else."""
    if isinstance(argument, InstrumentedAttribute):
        return str(cast("object", argument))
    if isinstance(argument, str):
        return "text"
    return argument.__name__ if isinstance(argument, type) else f"a `{type(argument).__name__}`"


def _not_a_key(model: type[Base], problem: str, meant: list[Any] | None = None) -> NotAKey:
    """Return the error, with an example of what was probably meant."""
    names = [_meant(model, column) for column in meant or []]
    examples = [f"{model.__name__}.{name}" for name in names if name]
    example = ", ".join(examples) if examples and len(examples) == len(names) else _example(model)
    return NotAKey(
        model=model.__name__,
        problem=problem,
        advice=f"name columns of {model.__name__}, such as `by=[{example}]`",
    )


def _meant(model: type[Base], column: Any) -> str | None:
    """Return the column that text names, or that a relation needs."""
    mapper = inspect(model)
    name = column if isinstance(column, str) else getattr(column, "key", None)
    if not isinstance(name, str) or (not isinstance(column, str) and getattr(column, "class_", None) is not model):
        return None
    if name in mapper.relationships:
        local = [mapper.get_property_by_column(found).key for found in mapper.relationships[name].local_columns]
        return local[0] if len(local) == 1 else None
    return name if name in mapper.columns else None


def _is_column(model: type[Base], column: Any) -> bool:
    keys = column_keys(model)
    return isinstance(column, InstrumentedAttribute) and column.class_ is model and column.key in keys


def _example(model: type[Base]) -> str:
    mapper = inspect(model)
    return f"{model.__name__}.{mapper.get_property_by_column(mapper.primary_key[0]).key}"
