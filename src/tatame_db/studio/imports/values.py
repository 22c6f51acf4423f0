"""The values of a record, as texts that PostgreSQL casts to the types of their columns."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import ARRAY

from tatame_db.studio.export import is_harmless
from tatame_db.studio.kinds import kind_of

if TYPE_CHECKING:
    from sqlalchemy import Column

    from tatame_db.studio.imports.plan import Assignment, Plan
    from tatame_db.studio.imports.records import Record
    from tatame_db.studio.imports.source import Source


@dataclass(frozen=True)
class Row:
    """A row to insert; a column without a value gets its default."""

    line: int
    columns: tuple[Column[Any], ...]
    values: tuple[str | None, ...]

    @property
    def size_bytes(self) -> int:
        """The memory of all values, of which Python writes each character with up to four bytes."""
        return sum(map(sys.getsizeof, self.values))


class ValueUnfit(Exception):
    """A record, or one of its values, cannot be written as a text of a column."""

    def __init__(self, what: str, column: str | None = None) -> None:
        super().__init__(what)
        self.what, self.column = what, column


def row_of(record: Record, source: Source, plan: Plan, columns: list[tuple[Assignment, Column[Any]]]) -> Row:
    """Read the values of a record. Raises `ValueUnfit`."""
    if record.problem:
        raise ValueUnfit(record.problem)
    if source.form == "csv" and len(record.values) != len(source.names):
        raise ValueUnfit(f"the line has {len(record.values)} values, and {len(source.names)} are expected")
    found: list[tuple[Column[Any], str | None]] = []
    for assignment, column in columns:
        if assignment.source is None:
            found.append((column, assignment.value))
        elif source.form == "csv":
            found += _csv_value(record, assignment, column, plan)
        elif (raw := record.keys.get(str(assignment.source))) is not None:
            found.append((column, _json_value(bytes(raw), column)))
    if not found:
        raise ValueUnfit("the row has no value for any column")
    return Row(record.line, tuple(column for column, _ in found), tuple(value for _, value in found))


def _csv_value(
    record: Record, assignment: Assignment, column: Column[Any], plan: Plan
) -> list[tuple[Column[Any], str | None]]:
    value = record.values[int(assignment.source or 0)]
    if value == "" and plan.empty != "text":
        return [(column, None)] if plan.empty == "null" else []
    if plan.null_mark and value == plan.null_mark:
        return [(column, None)]
    if plan.harmless and is_harmless(value):
        value = value[1:]
    if isinstance(column.type, ARRAY) and value.lstrip().startswith("["):
        return [(column, _array_of_text(value, column))]
    return [(column, value)]


def _array_of_text(value: str, column: Column[Any]) -> str:
    try:
        return _array(value.encode(), column)
    except (ValueUnfit, msgspec.DecodeError, UnicodeEncodeError):
        # PostgreSQL writes an array that does not begin at 1 as `[0:1]={a,b}`.
        return value


def _json_value(raw: bytes, column: Column[Any]) -> str | None:
    if raw == b"null":
        return None
    if kind_of(column) == "json" or str(column.type).lower() in {"json", "jsonb"}:
        return raw.decode()
    try:
        if raw.startswith(b"[") and isinstance(column.type, ARRAY):
            return _array(raw, column)
        if raw.startswith((b"[", b"{")):
            kind = "a list" if raw.startswith(b"[") else "an object"
            raise ValueUnfit(f"{column.name} is {kind}, and the column does not take one", column.name)
        return _scalar(raw)
    except msgspec.DecodeError as error:
        raise ValueUnfit(f"{column.name} is not valid JSON: {error}", column.name) from None


def _scalar(raw: bytes) -> str:
    """Return a text as it is, and a number with all its digits."""
    return msgspec.json.decode(raw, type=str) if raw.startswith(b'"') else raw.decode()


def _array(raw: bytes, column: Column[Any]) -> str:
    """Write a JSON list in the form of PostgreSQL; lists in lists are further dimensions."""
    return (
        "{" + ",".join(_element(bytes(item), column) for item in msgspec.json.decode(raw, type=list[msgspec.Raw])) + "}"
    )


def _element(raw: bytes, column: Column[Any]) -> str:
    if raw == b"null":
        return "NULL"
    if raw.startswith(b"["):
        return _array(raw, column)
    if raw.startswith(b"{"):
        raise ValueUnfit(f"{column.name} is a list of objects, and the column does not take one", column.name)
    return '"' + _scalar(raw).replace("\\", "\\\\").replace('"', '\\"') + '"'
