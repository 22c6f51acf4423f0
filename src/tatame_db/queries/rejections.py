"""Name the row that PostgreSQL rejected, without its values: they are in the server's message, and may be personal."""

from __future__ import annotations

import re
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import msgspec
from sqlalchemy import ForeignKeyConstraint, PrimaryKeyConstraint, Table, UniqueConstraint, inspect

from tatame_db.database.dialect import DIALECT
from tatame_db.queries.arguments import is_partitioned
from tatame_db.queries.errors import RowRejected

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import psycopg

    from tatame_db.queries.validate import Batch
    from tatame_db.schema import Base

CORRECT = "correct this row, or remove it"

# The problem and the advice, by SQLSTATE. Other errors of the classes "data exception" and "integrity constraint
# violation" are the fault of a row too.
REJECTIONS = {
    "21000": ("is the key of an earlier row too", "keep one row for each key"),
    "23000": ("has a key that violates a constraint", CORRECT),
    "23502": ("must not be NULL", "set it in this row, or remove the row"),
    "23503": ("refers to a row that does not exist", "write the row that it refers to first, or correct this one"),
    "23505": ("already exists", CORRECT),
    "23514": ("violates {constraint}", CORRECT),
    "23P01": ("conflicts with another row by {constraint}", CORRECT),
    "22001": ("has a text that is too long for its column", "shorten it, or remove the row"),
    "22003": ("has a number that is out of the range of its column", CORRECT),
}
ROW_FAULTS = ("22", "23")
_UNKNOWN_KEY = "23000"
# PostgreSQL names the table then, and no constraint.
NO_PARTITION = (
    "belongs to no partition of the table",
    "correct this row, or create the partition: `tatame-db doctor` shows where they end",
)

# PostgreSQL shows this much of a value of a row.
SHOWN_BYTES = 64

_COPY_LINE = re.compile(r"^COPY .*?, \S+ (\d+)(?:, \S+ (\w+))?", re.MULTILINE)
_KEY = re.compile(r"\((.+?)\) ?= ?\(")
_PARTITION_KEY = re.compile(r"\((.+?)\) = \(")


def rejection(
    model: type[Base], batches: Sequence[Batch], key: tuple[str, ...], error: psycopg.Error
) -> RowRejected | None:
    """Return the error for callers, or `None` if the server's error is not the fault of a row."""
    state = error.sqlstate or ""
    is_unplaced = _has_no_partition(model, error)
    if error.diag.source_function == "ReportCopyError" and _KEY.search(error.diag.message_detail or ""):
        # In a COPY of many rows, Citus passes on what a node says without its SQLSTATE.
        state = "23514" if is_unplaced else _state_of_key(model, error)
    if state not in REJECTIONS and state[:2] not in ROW_FAULTS:
        return None
    problem, advice = REJECTIONS.get(state, (f"has a value that PostgreSQL rejected (error {state})", CORRECT))
    if state == "23505" and not key:
        advice += "; `upsert` updates a row that exists"
    columns = key if state == "21000" else _columns(model, error)
    if state == "23505" and columns and not any(set(columns) & set(batch.named) for batch in batches):
        # No row names the column, so its sequence made the value.
        names = ", ".join(columns)
        advice = f"the sequence of `{names}` is behind the rows: set it to the largest `{names}` with `setval`"
    positions = _positions(batches, columns, error)
    if state == "23505" and len(positions) > 1:
        # The key may be new in the database, and the second row repeats it.
        problem, advice = "has the same value in an earlier row", "keep one row for each value"
        del positions[0]
    if is_unplaced:
        # The columns of the bounds are right for another partition.
        (problem, advice), columns = NO_PARTITION, ()
    name = _without_shard(model, error, error.diag.constraint_name)
    if not columns and state == "23502":
        problem = "has a NULL where PostgreSQL allows none"
    if not columns and name and "{" not in problem:
        problem += ", by {constraint}"
    return RowRejected(
        model=model.__name__,
        position=positions[0] if positions else None,
        columns=columns,
        # A trigger may raise the error of a constraint without naming one.
        problem=problem.format(constraint=f"the constraint `{name}`" if name else "a constraint"),
        advice=advice,
    )


def _state_of_key(model: type[Base], error: psycopg.Error) -> str:
    """Return the SQLSTATE of a key, by the constraint that the message of a node names with the number of a shard."""
    message = error.diag.message_primary or ""
    for name, constraint in constraints(model).items():
        plain = re.escape(name.strip('"'))
        if re.search(rf"\b{plain}_\d+\b", message):
            return "23503" if isinstance(constraint, ForeignKeyConstraint) else "23505"
    return _UNKNOWN_KEY


def _has_no_partition(model: type[Base], error: psycopg.Error) -> bool:
    """Return whether a row belongs to no partition of the model's table; Citus passes on no name of a table then."""
    diagnosis = error.diag
    if error.sqlstate == "23514" and diagnosis.table_name and not diagnosis.constraint_name:
        return True
    is_of_node = diagnosis.source_function in {"ReportCopyError", "ReportResultError"}
    detail = diagnosis.message_detail or ""
    # Such as `Partition key of the failing row contains (at) = (2030-01-01 00:00:00).`
    return is_of_node and is_partitioned(model) and bool(_PARTITION_KEY.search(detail))


def _columns(model: type[Base], error: psycopg.Error) -> tuple[str, ...]:
    """Return the columns that the server blames; none if it names none, or another table."""
    diagnosis = error.diag
    constraint = constraints(model).get(_without_shard(model, error, diagnosis.constraint_name))
    # A trigger may write to another table, whose constraint may have the same name.
    if diagnosis.table_name and _without_shard(model, error, diagnosis.table_name) != _table_name(model):
        return ()
    if constraint is not None:
        return _attributes(model, [column.name for column in constraint.columns])
    if key := _KEY.search(diagnosis.message_detail or ""):
        return _attributes(model, [name.strip('"') for name in key[1].split(", ")])
    copied = _COPY_LINE.search(diagnosis.context or "")
    name = diagnosis.column_name or (copied[2] if copied else None)
    return _attributes(model, [name] if name else [])


def _table_name(model: type[Base]) -> str:
    return cast("Table", model.__table__).name


def _without_shard(model: type[Base], error: psycopg.Error, name: str | None) -> str:
    """Return a name of the model's table without the number of a shard: Citus has `users_102009` on its nodes."""
    shard = re.fullmatch(rf"{re.escape(_table_name(model))}(_\d+)", error.diag.table_name or "")
    return (name or "").removesuffix(shard[1]) if shard else name or ""


def _attributes(model: type[Base], columns: Sequence[str]) -> tuple[str, ...]:
    """Return the attributes of columns, which callers know."""
    names = {column.name: name for name, column in inspect(model).columns.items()}
    return tuple(names[column] for column in columns) if names.keys() >= set(columns) else ()


def _positions(batches: Sequence[Batch], columns: tuple[str, ...], error: psycopg.Error) -> list[int]:
    """Find the rows that the server's message is about."""
    detail = error.diag.message_detail or ""
    # Such as `Key (user_id)=(99) is not present in table "users".`
    if key := _KEY.search(detail):
        has_key = [
            position
            for position, row, batch in _rows(batches)
            if columns and set(columns) <= set(batch.columns) and f"{key[0]}{_listed(row, columns)})" in detail
        ]
        if has_key:
            return has_key
    if copied := _COPY_LINE.search(error.diag.context or ""):
        lines = [position for batch in batches for position in batch.positions]
        return [lines[int(copied[1]) - 1]]
    # Such as `Failing row contains (7, 1.50, null, Ana).`
    if detail.endswith(").") and "(" in detail:
        shown = f", {detail[detail.index('(') + 1 : -2]}, "
        found = [(position, row) for position, row, batch in _rows(batches) if _is_shown(row, batch, shown)]
        # Of rows that look alike, only the server knows which one it was.
        return [position for position, _ in found] if len({_contents(row) for _, row in found}) == 1 else []
    return []


def _rows(batches: Sequence[Batch]) -> Iterator[tuple[int, Any, Batch]]:
    for batch in batches:
        for position, row in zip(batch.positions, batch.rows, strict=True):
            yield position, row, batch


def _listed(row: Any, columns: tuple[str, ...]) -> str:
    return ", ".join(_output(getattr(row, name)) or "" for name in columns)


def _contents(row: Any) -> str:
    return repr(msgspec.structs.astuple(row))


def _is_shown(row: Any, batch: Batch, shown: str) -> bool:
    """Return whether all values of a row are among those that the server shows of the row that it rejected."""
    outputs = (_output(getattr(row, name)) for name in batch.columns)
    return all(f", {_shortened(output)}, " in shown for output in outputs if output is not None)


def _shortened(output: str) -> str:
    encoded = output.encode()
    if len(encoded) <= SHOWN_BYTES:
        return output
    return f"{encoded[:SHOWN_BYTES].decode(errors='ignore')}..."


def _output(value: Any) -> str | None:
    """Write a value as PostgreSQL shows it; `None` if that depends on more than the value."""
    match value:
        case None:
            return "null"
        case bool():
            return "t" if value else "f"
        case datetime():
            text = value.isoformat(" ")
            return text.rstrip("0") if value.microsecond else text
        case list():
            return None
        case _:
            return str(value)


@cache
def constraints(model: type[Base]) -> dict[str, Any]:
    """Return the keys and foreign keys of a model, by the name that the server reports."""
    kinds = ForeignKeyConstraint | PrimaryKeyConstraint | UniqueConstraint
    return {
        str(DIALECT.identifier_preparer.format_constraint(constraint)): constraint
        for constraint in cast("Table", model.__table__).constraints
        # The server names a constraint that the model does not.
        if isinstance(constraint, kinds) and constraint.name is not None
    }
