"""Writes the sample data: one COPY for each table, in one transaction of the caller."""

from __future__ import annotations

import contextlib
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from sqlalchemy import func, or_, select, text
from sqlalchemy.exc import DBAPIError

from tatame_db.database.bulk import advance_sequence, truncate
from tatame_db.database.citus import IN_SEQUENCE
from tatame_db.database.dialect import CHECK_DEFERRED, MOVE_SCHEMA, quoted, quoted_table
from tatame_db.database.driver import driver_connection
from tatame_db.database.keys import without_keys_and_indexes
from tatame_db.errors import TatameError, counted, fact
from tatame_db.roles import explained
from tatame_db.schema import Base, Checkin, tables_in_order
from tatame_db.seed.belts import graduations
from tatame_db.seed.checkins import CHECKIN_COLUMNS, checkin_lines
from tatame_db.seed.classes import assets, attachments, timetable_of
from tatame_db.seed.gyms import gyms
from tatame_db.seed.infrastructure import app_stores, roles, versions
from tatame_db.seed.messages import notifications
from tatame_db.seed.people import newcomers, team_of
from tatame_db.seed.plan import SeedPlan

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from sqlalchemy import Connection, Table


Row = TypeVar("Row", bound=Base)

_MANAGERS = b"""
UPDATE public.gyms SET manager_id = managers.id FROM unnest(%s::int[], %s::int[]) AS managers (gym_id, id)
WHERE gyms.id = managers.gym_id"""


# The keys of a partition are parts of those of its table, until it is detached.
_REFERRING = text("""
SELECT DISTINCT k.conrelid::regclass::text FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
WHERE k.contype = 'f' AND NOT c.relispartition AND k.confrelid = ANY(CAST(:tables AS text[])::regclass[])
    AND k.conrelid <> ALL(CAST(:tables AS text[])::regclass[]) ORDER BY 1
""")


@fact
class DatabaseNotEmpty(TatameError):
    """The database has rows, and the sample data would be mixed with them."""

    rows: dict[str, int]
    """The number of rows by table; tables without rows are absent."""
    what = "the database is not empty: {counts}"
    fix = "if these rows can be deleted, replace them with `tatame-db seed --replace`"

    @property
    def counts(self) -> list[str]:
        """The number of rows of each table."""
        return [f"{counted(count, 'row')} in {table}" for table, count in self.rows.items()]


@fact
class TableRefusesWrites(TatameError):
    """The database takes part in a move, and a table of it takes no writes, because its home is the other database."""

    reason: str
    what = "the database takes no sample data: {reason}"
    means = "No row was deleted or written."
    fix = "seed another database, or end the move with `tatame-db move finish` first"


@fact
class SampleRowsRefused(TatameError):
    """The database has a rule that the models do not have, such as a partition that a row lacks."""

    reason: str
    what = "the database rejected the sample data: {reason}"
    means = "No row was deleted or written."
    fix = (
        "create the partitions for the days of `--days` and `--until`, or fix what `tatame-db check` finds, then run"
        " the command again; the log of the server has the whole message"
    )


@fact
class OtherTablesRefer(TatameError):
    """Tables outside of the models refer to tables that are to be emptied, so PostgreSQL refuses TRUNCATE."""

    tables: list[str]
    what = "the rows cannot be deleted, because tables outside of the models refer to them: {tables}"
    means = "No row was deleted or written."
    fix = (
        "if its rows can be deleted, drop each of these tables, such as a month that was detached from a partitioned"
        " table; otherwise drop its foreign keys, or seed another database"
    )


@contextlib.contextmanager
def _refused_in_words(connection: Connection) -> Generator[None]:
    try:
        with explained(connection.engine.url, "seed"):
            # Otherwise PostgreSQL finds only the rows that a policy shows, without an error.
            _execute(connection, "SET LOCAL row_security = off")
            _execute(connection, IN_SEQUENCE)
            yield
    except (DBAPIError, psycopg.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        # The triggers of a move are the only ones whose function is in its schema.
        if isinstance(cause, psycopg.Error) and f" {MOVE_SCHEMA}." in (cause.diag.context or ""):
            raise TableRefusesWrites(reason=str(cause.diag.message_primary)) from error
        # The detail and the context have values of the row, and the message of an error in a value has that.
        if isinstance(cause, psycopg.IntegrityError):
            raise SampleRowsRefused(reason=str(cause.diag.message_primary)) from None
        if isinstance(cause, psycopg.DataError):
            raise SampleRowsRefused(reason=f"a value is rejected (SQLSTATE {cause.sqlstate})") from None
        if isinstance(cause, psycopg.Error) and (cause.sqlstate or "").startswith("P0"):
            raise SampleRowsRefused(reason=f"a trigger raises an error (SQLSTATE {cause.sqlstate})") from None
        raise


def is_empty(connection: Connection) -> bool:
    """Return whether every table of the models is empty. Raises `RightsMissing`."""
    with _refused_in_words(connection):
        return _is_empty(connection)


def _is_empty(connection: Connection) -> bool:
    return not connection.scalar(select(or_(*(table.select().exists() for table in tables_in_order()))))


def empty(connection: Connection) -> None:
    """Delete the rows of all tables of the models and restart their ids; the caller commits.

    Raises `OtherTablesRefer` if a table outside of the models refers to one of them: the rows of that table are not
    deleted. Raises `RightsMissing` and `TableRefusesWrites`.
    """
    tables = tables_in_order()
    with _refused_in_words(connection):
        if others := list(connection.scalars(_REFERRING, {"tables": [quoted_table(table) for table in tables]})):
            raise OtherTablesRefer(tables=others)
        truncate(connection, tables)


def seed(connection: Connection, plan: SeedPlan | None = None) -> dict[str, int]:
    """Fill an empty database and return the number of rows of each table; the caller commits, all or nothing.

    A table without sample data stays empty. Other writers wait until the commit, and while check-ins are written also
    readers of some tables. Deferred constraints are checked, and are immediate until the commit. The role of the
    connection must own the tables. Raises `DatabaseNotEmpty`, `RightsMissing`, `SampleRowsRefused` and
    `TableRefusesWrites`, having changed nothing.

    >>> with database.engine.begin() as connection:
    ...     seed(connection, SeedPlan(gyms=1, members=20))
    """
    with _refused_in_words(connection):
        return _seed(connection, plan or SeedPlan())


def _seed(connection: Connection, plan: SeedPlan) -> dict[str, int]:
    driver = _driver(connection)
    tables = tables_in_order()
    names = ", ".join(map(quoted_table, tables))
    # Without the lock, two seeds at once would both find the database empty.
    _execute(connection, f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE")
    if not _is_empty(connection):
        raise DatabaseNotEmpty(rows=_rows_by_table(connection))
    written = _write(driver, plan)
    for table in tables:
        advance_sequence(connection, table)
    _execute(connection, f"ANALYZE {names}")
    _execute(connection, CHECK_DEFERRED)
    return {table.name: written.get(table.name, 0) for table in tables}


def _driver(connection: Connection) -> psycopg.Connection[Any]:
    driver = driver_connection(connection)
    if not isinstance(driver, psycopg.Connection):  # pyright: ignore[reportUnnecessaryIsInstance]  # inside `run_sync`
        raise TypeError("seeding uses COPY, which needs a synchronous connection")
    return driver


def _execute(connection: Connection, statement: str) -> None:
    connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _rows_by_table(connection: Connection) -> dict[str, int]:
    counts = {table.name: connection.scalar(select(func.count()).select_from(table)) for table in tables_in_order()}
    return {name: count for name, count in counts.items() if count}


def _write(driver: psycopg.Connection[Any], plan: SeedPlan) -> dict[str, int]:
    teams = [team_of(plan, gym) for gym in gyms(plan)]
    users = _numbered([*(user for team in teams for user in team.people), *newcomers(plan)])
    timetables = {team.gym.id: timetable_of(plan, team) for team in teams}
    classes = _numbered(lesson.class_ for lessons in timetables.values() for lesson in lessons)

    written = _copy(driver, roles(plan))
    written |= _copy(driver, _numbered(versions(plan)))
    written |= _copy(driver, _numbered(app_stores(plan)))
    written |= _copy(driver, [team.gym for team in teams])
    written |= _copy(driver, users)
    # A gym refers to its manager, who belongs to the gym. A deferred key would do on PostgreSQL, and not on Citus,
    # whose nodes check each statement.
    managers = [(team.gym.id, team.manager.id) for team in teams]
    driver.execute(_MANAGERS, [list(column) for column in zip(*managers, strict=True)] or [[], []])
    written |= _copy(driver, _numbered(row for team in teams for row in graduations(plan, team)))
    written |= _copy(driver, classes)
    written |= _copy(driver, _numbered(row for class_ in classes for row in assets(plan, class_)))
    written |= _copy(driver, _numbered(row for class_ in classes for row in attachments(plan, class_)))
    written |= _copy(driver, _numbered(row for team in teams for row in notifications(plan, team)))
    return written | _copy_checkins(driver, checkin_lines(plan, teams, timetables))


def _numbered(rows: Iterable[Row]) -> list[Row]:
    """Assign ids in the order of time, as the app's own rows have them."""
    ordered = sorted(rows, key=attrgetter("created_at"))
    for number, row in enumerate(ordered, start=1):
        setattr(row, "id", number)  # noqa: B010, a role has no number, so `Base` declares no `id`
    return ordered


def _copy(driver: psycopg.Connection[Any], rows: Sequence[Base]) -> dict[str, int]:
    """Write rows of one model; return their number by the name of the table."""
    if not rows:
        return {}
    table = Base.metadata.tables[rows[0].__tablename__]
    columns = table.columns.keys()
    values = attrgetter(*columns)
    with driver.cursor() as cursor:
        with cursor.copy(_copy_statement(table, columns)) as copy:
            for row in rows:
                copy.write_row(values(row))
        return {table.name: cursor.rowcount}


def _copy_checkins(driver: psycopg.Connection[Any], blocks: Iterator[str]) -> dict[str, int]:
    table = Base.metadata.tables[Checkin.__tablename__]
    with without_keys_and_indexes(driver, table.name), driver.cursor() as cursor:
        with cursor.copy(_copy_statement(table, CHECKIN_COLUMNS)) as copy:
            for block in blocks:
                copy.write(block)
        return {table.name: cursor.rowcount}


def _copy_statement(table: Table, columns: Iterable[str]) -> bytes:
    return f"COPY {quoted_table(table)} ({', '.join(map(quoted, columns))}) FROM STDIN".encode()
