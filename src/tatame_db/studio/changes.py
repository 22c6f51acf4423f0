"""Changes of rows: saved in one transaction, and only over the values that the browser has seen."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy import ARRAY, ColumnElement, Text, bindparam, cast, delete, insert, literal, select, update
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import ColumnCollectionConstraint

from tatame_db.database.citus import knows_citus
from tatame_db.database.dialect import qualify
from tatame_db.errors import fact
from tatame_db.studio.addresses import address
from tatame_db.studio.bound import BoundChange, BoundValue, Change, Changes, Delete, Insert, Update, Value, bind_all
from tatame_db.studio.cells import Cell, cell_expressions, cells_of, characters_of_a_cell
from tatame_db.studio.errors import OutOfRange, Refused
from tatame_db.studio.kinds import COMPARED_KINDS, kind_of
from tatame_db.studio.referring import referring_rows
from tatame_db.studio.row import MAX_CELL_CHARACTERS
from tatame_db.studio.shards import diagnosis_of
from tatame_db.studio.tables import address_of, has_key, key_columns, key_expression

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["Changes", "check", "preview", "save"]

MAX_CHANGES = 1000


def _statement(bound: BoundChange) -> Any:
    values = {value.column: value.expression for value in bound.values}
    match bound.change:
        case Insert():
            # Inline: otherwise SQLAlchemy would add a `RETURNING` of its own, also to a preview.
            return (insert(bound.table).values(values) if values else insert(bound.table)).inline()
        case Update(key=key):
            return update(bound.table).where(has_key(bound.table, key)).values(values)
        case Delete(key=key):
            return delete(bound.table).where(has_key(bound.table, key))


# --- Saving -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PreviewedStatement:
    """A statement with placeholders `$1`, `$2` and so on, and their values."""

    statement: str
    parameters: list[Any]


@dataclass(frozen=True)
class SavedRow:
    """The state of a row after its change; a deleted row is `None`."""

    table: str
    key: str
    row: dict[str, Cell] | None


_NUMBERED = PGDialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
qualify(_NUMBERED)


async def preview(connection: AsyncConnection, changes: list[Change]) -> list[PreviewedStatement]:
    """Write the statements that saving would run. Raises what `bind_all` raises."""
    compiled = [_statement(bound).compile(dialect=_NUMBERED) for bound in await bind_all(connection, changes)]
    return [
        PreviewedStatement(str(statement), [statement.params[name] for name in statement.positiontup or ()])
        for statement in compiled
    ]


class _NotOneRow(Exception):
    """The statement of a change wrote no row, or several."""


_NOT_WRITTEN = "PostgreSQL wrote no row: an earlier change of the batch removed it, or a trigger prevented this one"
_SEVERAL = "the key selects several rows at the moment: an earlier change of the batch has set it in another row"


async def save(connection: AsyncConnection, changes: list[Change]) -> list[SavedRow]:
    """Write all changes and return the new state of each row; the caller commits.

    Raises `OutOfRange`, what `bind_all` raises, and `ChangesConflict` or `ChangesRejected` with all their causes.
    """
    if not 1 <= len(changes) <= MAX_CHANGES:
        raise OutOfRange(container="a request", noun="changes", number=len(changes), maximum=MAX_CHANGES)
    all_bound = await bind_all(connection, changes)
    await _refuse_conflicts(connection, all_bound)
    saved: list[SavedRow] = []
    rejections: list[Rejection] = []
    has_citus = bool(knows_citus(connection.dialect))
    for index, bound in enumerate(all_bound):
        try:
            async with connection.begin_nested():
                saved.append(await _save(connection, bound, len(changes), has_citus=has_citus))
        except DBAPIError as error:
            if not isinstance(error.orig, psycopg.IntegrityError | psycopg.DataError):
                raise
            rejections.append(await rejection(connection, index, bound, error.orig))
        except _NotOneRow as error:
            rejections.append(Rejection(index, None, None, str(error), _place(bound, None)))
    if rejections:
        raise ChangesRejected(errors=rejections)
    return saved


@dataclass(frozen=True)
class Check:
    """The rows as PostgreSQL would store them, or the reasons for which it would reject some of the changes."""

    rows: list[SavedRow]
    errors: list[Rejection]


async def check(connection: AsyncConnection, changes: list[Change]) -> Check:
    """Save changes and roll them back. Raises what `save` raises, except `ChangesRejected`."""
    try:
        return Check(await save(connection, changes), [])
    except ChangesRejected as rejected:
        return Check([], rejected.errors)
    finally:
        await connection.rollback()


async def _save(connection: AsyncConnection, bound: BoundChange, changes: int, *, has_citus: bool) -> SavedRow:
    columns = list(bound.table.columns)
    shown = cell_expressions(columns, characters_of_a_cell(MAX_CELL_CHARACTERS, changes * len(columns)))
    key_of_row = key_expression(key_columns(bound.table))
    # Citus returns no expression that depends on a setting, as the text of a time does; so the row is read afterwards.
    returned = [] if has_citus else shown
    found = (await connection.execute(_statement(bound).returning(key_of_row, *returned))).all()
    if len(found) != 1:
        raise _NotOneRow(_SEVERAL if found else _NOT_WRITTEN)
    [[key, *values]] = found
    if isinstance(bound.change, Delete):
        return SavedRow(bound.change.table, key, None)
    if has_citus:
        query = select(*shown).select_from(bound.table).where(has_key(bound.table, key))
        values = list((await connection.execute(query)).one())
    return SavedRow(
        bound.change.table, key, dict(zip(bound.table.columns.keys(), cells_of(columns, values), strict=True))
    )


# --- Conflicts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conflict:
    """A cell that another session has changed, or with `deleted` a row that is gone; `index` is that of the change."""

    index: int
    key: str
    deleted: bool = False
    column: str | None = None
    was: Value = None
    now: Cell = None
    wanted: Value = None


@fact
class ChangesConflict(Refused):
    """Another session has written to the rows since the browser read them."""

    conflicts: list[Conflict]
    status = 409
    what = "another session has changed these rows"
    means = "Nothing was saved."
    fix = "compare the values, and choose one for each cell"

    @property
    def details(self) -> dict[str, Any]:
        """All conflicts, in the order of the changes."""
        return {"conflicts": self.conflicts}


async def _refuse_conflicts(connection: AsyncConnection, changes: list[BoundChange]) -> None:
    conflicts: list[Conflict] = []
    # Rows are locked in one order, so that two requests cannot deadlock.
    for index, bound in sorted(enumerate(changes), key=lambda item: (item[1].change.table, item[1].key or "")):
        if bound.key is not None:
            conflicts += await _conflicts(connection, index, bound, bound.key, len(changes))
    if conflicts:
        raise ChangesConflict(conflicts=sorted(conflicts, key=lambda conflict: conflict.index))


async def _conflicts(
    connection: AsyncConnection, index: int, bound: BoundChange, key: str, changes: int
) -> list[Conflict]:
    """Lock the row, and let PostgreSQL compare its values with those that the browser has seen."""
    columns = [seen.column for seen in bound.seen]
    equal = [_is_as_seen(seen) for seen in bound.seen]
    characters = characters_of_a_cell(MAX_CELL_CHARACTERS, changes * len(columns))
    query = select(literal(value=True), *equal, *cell_expressions(columns, characters))
    found = (await connection.execute(query.where(has_key(bound.table, key)).with_for_update())).first()
    if found is None:
        return [Conflict(index, key, deleted=True)]
    _, *values = found
    agreements, cells = values[: len(columns)], cells_of(columns, values[len(columns) :])
    wanted = {value.column: value.value for value in bound.values}
    return [
        Conflict(index, key, column=seen.column.name, was=seen.value, now=now, wanted=wanted.get(seen.column))
        for seen, agrees, now in zip(bound.seen, agreements, cells, strict=True)
        if not agrees
    ]


def _is_as_seen(seen: BoundValue) -> ColumnElement[bool]:
    if isinstance(seen.value, list):
        return cast(seen.column, ARRAY(Text)).is_not_distinct_from(bindparam(None, seen.value, ARRAY(Text)))
    if kind_of(seen.column) in COMPARED_KINDS:
        return seen.column.is_not_distinct_from(seen.expression)
    # Not every type has an operator for equality, and `=` calls values equal that are written differently.
    return cast(seen.column, Text).is_not_distinct_from(bindparam(None, seen.value, Text))


# --- Rejections -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rejection:
    """Why PostgreSQL rejected a change, and the column that is to blame if there is one."""

    index: int
    column: str | None
    constraint: str | None
    what: str
    place: str = ""
    """The cell or the row in words."""


_MOST_NAMED = 3


@fact
class ChangesRejected(Refused):
    """PostgreSQL rejected at least one of the changes."""

    errors: list[Rejection]
    status = 422
    what = "the database rejected {places}"
    means = "Nothing was saved."
    fix = "{advice}"

    @property
    def advice(self) -> str:
        """The fix for rejected cells, or for whole rows."""
        if any(rejection.column for rejection in self.errors):
            return "correct the marked cells"
        return "undo the marked changes, or first change what the reason names"

    @property
    def places(self) -> str:
        """The first rejected cells, and the number of the others."""
        named = [rejection.place or "a change" for rejection in self.errors[:_MOST_NAMED]]
        rest = len(self.errors) - len(named)
        return ", ".join(named) + (f" and {rest} more" if rest else "") or "some of the changes"

    @property
    def details(self) -> dict[str, Any]:
        """All rejections, in the order of the changes."""
        return {"errors": self.errors}


async def rejection(connection: AsyncConnection, index: int, bound: BoundChange, error: psycopg.Error) -> Rejection:
    """Explain why PostgreSQL rejected a change, after a rollback to the savepoint before it."""
    known = {address_of(other): other for other in bound.table.metadata.tables.values()}
    found = await diagnosis_of(connection, error, known)
    constraint, detail = found.constraint, found.detail
    # A row that is still referenced breaks a constraint of another table.
    place = address(found.schema, found.table or "")
    table = known.get(place, bound.table)
    columns = _columns_of(table, constraint)
    names = " and ".join(columns) or "value"
    column = found.column or next(iter(columns), None)
    is_delete = isinstance(bound.change, Delete)
    match error:
        case psycopg.errors.UniqueViolation():
            what = f"another row already has this {names}. {detail}"
        case psycopg.errors.ForeignKeyViolation() if is_delete or "is still referenced" in detail:
            rows = await referring_rows(connection, bound.table, bound.key) if bound.key is not None else []
            others = ", ".join(rows) or f"rows of {address_of(table)} by {names}"
            what, column = f"other rows still refer to this one: {others}", None
        case psycopg.errors.ForeignKeyViolation():
            what = f"{names} refers to a row that does not exist. {detail}"
        case psycopg.errors.NotNullViolation():
            what = f"{column} must have a value"
        case psycopg.DataError():
            what, column = found.message + _advice(found.message), await _unreadable_column(connection, bound)
        case _:
            what = found.message
    return Rejection(index, column, constraint, what.strip(), _place(bound, column))


def _place(bound: BoundChange, column: str | None) -> str:
    row = f"a new row of {bound.change.table}" if bound.key is None else f"{bound.change.table} {bound.key}"
    return f"{row}, {column}" if column else row


_ADVICE = {
    r'type [a-z ]+: "\s*[+-]?[\d.]*,\d+\s*"$': "write decimals with a point, not a comma",
    r'date/time field value out of range: "\s*\d+/\d+/': "the day comes first, as in 26/11/2026",
}


def _advice(message: str) -> str:
    """Explain the commonest mistakes in values of spreadsheets."""
    return next((f"; {advice}" for pattern, advice in _ADVICE.items() if re.search(pattern, message)), "")


def _columns_of(table: Table, constraint: str | None) -> list[str]:
    found = (known for known in table.constraints if constraint and known.name == constraint)
    return [column.name for known in found if isinstance(known, ColumnCollectionConstraint) for column in known.columns]


async def _unreadable_column(connection: AsyncConnection, bound: BoundChange) -> str | None:
    """Find the column whose type does not accept its value: PostgreSQL does not name it."""
    for value in bound.values:
        try:
            async with connection.begin_nested():
                await connection.execute(select(value.expression))
        except DBAPIError:
            return value.column.name
    return None
