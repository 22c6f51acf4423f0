"""A source that is reached over REST, copied into a temporary PostgreSQL, so that everything else works as with any.

The rows pass through Python as the JSON that the server sent and become values only in PostgreSQL: no number is
rounded, and no text is mistaken for another.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
from psycopg.conninfo import make_conninfo

from tatame_db.database.address import readable, without_environment
from tatame_db.database.dialect import literal, public, quoted
from tatame_db.errors import counted
from tatame_db.move.catalogue import partitioned_tables, target_name
from tatame_db.move.choices import UNKNOWN_TABLE
from tatame_db.move.open import SameDatabase, open_source, open_target
from tatame_db.move.proof import TableCount, rejected
from tatame_db.move.record import Record, identity_of
from tatame_db.move.rest import FULL_ACCESS_ROLE, RestClient, read_as_text
from tatame_db.move.rest_errors import EmptyOrForbidden, NoRoomForRows, RowsChanged, UnexpectedResponse
from tatame_db.move.sql import TARGET_ROW, beside_parameters
from tatame_db.schema import Base, optional_in_source, phases
from tatame_db.server.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from sqlalchemy import Engine

    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.rest_answers import RestTable
    from tatame_db.server.scratch import Scratch

PAGE_ROWS = 10_000
# The server needs some room beside the rows, for its log and for sorting.
SPARE_BYTES = 1 << 28
# A server may write these in several ways, each of which is read without loss.
_WRITTEN_IN_SEVERAL_WAYS = {"timestamp with time zone", "bytea", "bytea[]"}
# So are arrays of moments in the form of ISO 8601, in any time zone; in other forms, a day may look like a month.
_MOMENTS = "timestamp with time zone[]"
_MOMENT = r'"\d{4,}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?[-+]\d\d(:\d\d){0,2}( BC)?"|-?infinity|NULL'
_MOMENTS_IN_ISO_FORM = rf"^(\[[^=]+=)?[{{}},]*(({_MOMENT})[{{}},]*)*$"

# The text of these types refers to objects of the source, or depends on how a server was built or is set.
_NEEDS_MORE_THAN_TEXT = "^(xml|money|aclitem|gtsvector|reg.*|pg_.*)$"
# What PostgreSQL raises for JSON that is not that of rows of the table.
_NOT_ROWS = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.NotSupportedError,
    psycopg.errors.StatementTooComplex,
    psycopg.errors.ProgramLimitExceeded,
)


@dataclass(frozen=True)
class Mirror:
    """A source over REST. `on_read` is called for each table that was read, with the number of its rows.

    A table without a model is only counted, unless its rows are to be kept or were kept by an earlier copy.
    """

    rest: RestClient
    on_read: Callable[[str, int], None] | None = None
    keep_unknown: bool = False

    @property
    def readable(self) -> str:
        """The address of the server."""
        return self.rest.address

    def is_same_as(self, target: MoveConnection) -> bool:
        """Return whether the source is the target itself: both store the first row of a table in the same place.

        False if every table is empty, or if the server does not reveal the places of rows. Raises `RestError`.
        """
        for name, table in sorted(self.rest.tables().items()):
            if name in phases() and (place := self.rest.first_row_place(table)):
                [exists] = target.row(f"SELECT to_regclass({literal(public(name))}) IS NOT NULL")
                # A target that is not migrated may lack the table, or have a table of this name without an `id`.
                return exists and bool(
                    target.rows(
                        f"SELECT FROM {public(name)} AS t WHERE t.tableoid::text = %(tableoid)s"
                        " AND t.xmin::text = %(xmin)s AND t.ctid::text = %(ctid)s"
                        f" AND to_jsonb({TARGET_ROW}) ->> 'id' = %(key)s",
                        dict(place),
                    )
                )
        return False

    def counts(self, target: Engine) -> list[TableCount]:
        """Count the rows of both databases; the source's numbers are those that its server reports.

        Raises `RestError`, `SameDatabase`.
        """
        self.rest.tables()
        with open_target(target, self) as connection:
            if self.is_same_as(connection):
                raise SameDatabase(where=self.readable)
            exclusions = Record(connection).exclusions(identity_of(self.rest.reading))
            return [replace(self._compared(connection, name), rejected=rejected(exclusions, name)) for name in phases()]

    def _compared(self, target: MoveConnection, name: str) -> TableCount:
        [target_rows] = target.row(f"SELECT count(*) FROM {target_name(name, partitioned_tables(target))}")
        source_rows = self.rest.count(name)
        if source_rows is None and optional_in_source(Base.metadata.tables[name]):
            source_rows = 0
        elif not source_rows and self.rest.role != FULL_ACCESS_ROLE:
            # A policy that hides all rows looks like an empty table.
            source_rows = None
        return TableCount(name, source_rows, target_rows)

    @contextlib.contextmanager
    def open(self, target: MoveConnection) -> Generator[MoveConnection]:
        """Copy the source into a temporary server and open that copy, which is deleted at the end.

        Raises `RestError`, and the errors of starting a server.
        """
        exclusions = Record(target).exclusions(identity_of(self.rest.reading))
        kept = {exclusion.table for exclusion in exclusions if exclusion.kind == UNKNOWN_TABLE}
        with scratch(on_disk=True) as server, self._read(server, "first", kept) as connection:
            yield connection

    @contextlib.contextmanager
    def _read(self, server: Scratch, name: str, kept: set[str]) -> Generator[MoveConnection]:
        self.rest.pages = 0

        @contextlib.contextmanager
        def reread() -> Generator[MoveConnection]:
            # The disk need not have room for two copies.
            server.drop(name)
            with self._read(server, "second", kept) as read:
                yield read

        with server.database(name) as engine:
            with psycopg.connect(make_conninfo(readable(engine.url), **without_environment(engine.url))) as connection:
                _Loader(self, connection, str(server.server.directory), kept).load()
            with open_source(engine.url) as copied:
                yield replace(copied, rest=self.rest.reading, reread=reread)


class _Loader:
    """Loads the tables of a source into an empty database. `kept` are the tables without a model that are read too."""

    def __init__(self, mirror: Mirror, connection: psycopg.Connection[Any], directory: str, kept: set[str]) -> None:
        self.mirror, self.rest, self.connection, self.directory = mirror, mirror.rest, connection, directory
        self.kept = kept

    def load(self) -> None:
        described = self.rest.tables()
        known = phases()
        for name in known.keys() - described.keys():
            if self.rest.count(name) is not None:
                raise UnexpectedResponse(
                    url=self.rest.address, problem=f"the table {name} exists, but the description does not list it"
                )
        rows: dict[str, int] = {}
        views = sorted(name for name, table in described.items() if self.rest.is_view(table))
        self.rest.read_views = [name for name in views if name in known]
        # As over PostgreSQL, the rows of other views are those of the tables that they read.
        self.rest.views = [name for name in views if name not in known]
        for name in [*known, *sorted(described.keys() - known.keys())]:
            if name in described and name not in self.rest.views:
                table = described[name]
                # One table that cannot be read page by page must not make it impossible to keep the others.
                kept = (name in self.kept or self.mirror.keep_unknown) and table.has_key
                rows[name] = self._load_rows(table) if name in known or kept else self._load_count(name)
                if self.mirror.on_read:
                    self.mirror.on_read(name, rows[name])
        empty = [name for name, count in rows.items() if not count]
        if empty and self.rest.role != FULL_ACCESS_ROLE:
            raise EmptyOrForbidden(role=self.rest.role, tables=empty)
        self._execute("ANALYZE")
        self.connection.commit()

    def _load_count(self, name: str) -> int:
        """Create a table without columns that has as many rows as the source's."""
        count = self._count(name)
        self._execute(f"CREATE UNLOGGED TABLE public.{quoted(name)} ()")
        self._execute(f"INSERT INTO public.{quoted(name)} SELECT FROM generate_series(1, {count})")
        return count

    def _load_rows(self, table: RestTable) -> int:
        types = {name: self._stored_type(type_name) for name, type_name in table.columns.items()}
        columns = ", ".join(f"{quoted(name)} {type_name}" for name, type_name in types.items())
        self._execute(
            f"CREATE UNLOGGED TABLE public.{quoted(table.name)} ({columns}, PRIMARY KEY ({quoted(table.key)}))"
        )
        insert = _insert(table, types)
        names = list(types)
        before = self._count(table.name)
        read, after, limit, cut = 0, None, PAGE_ROWS, 0
        while True:
            page = self.rest.page(table, after, limit)
            if page is None:
                limit = max(1, limit // 8)
                continue
            inserted, after, changed = self._insert_page(table, insert, page.body)
            if changed:
                problem = f"values of the column {names[changed[0]]} cannot be stored as they were sent"
                raise UnexpectedResponse(url=self._url(table.name), problem=problem)
            if inserted != page.rows:
                problem = f"the Content-Range header announces {counted(page.rows, 'row')}, the body has {inserted:,}"
                raise UnexpectedResponse(url=self._url(table.name), problem=problem)
            if not inserted:
                break
            # A short page was cut only if more rows follow it; otherwise it is the last one.
            self.rest.cap = max(self.rest.cap or 0, cut) or None
            cut = inserted if inserted < limit else 0
            read += inserted
        now = self._count(table.name)
        if not before == read == now:
            raise RowsChanged(table=table.name, before=before, read=read, after=now)
        return read

    def _count(self, name: str) -> int:
        count = self.rest.count(name)
        if count is None:
            raise UnexpectedResponse(url=self._url(name), problem="the table is described, but does not exist")
        return count

    def _insert_page(self, table: RestTable, insert: str, body: bytearray) -> tuple[int, str | None, list[int]]:
        """Insert the rows of a page; return their number, the key of the last one, and the columns that changed."""
        if shutil.disk_usage(self.directory).free < SPARE_BYTES:
            raise NoRoomForRows(directory=self.directory)
        if problem := _problem_of(body, set(table.columns)):
            raise UnexpectedResponse(url=self._url(table.name), problem=problem)
        try:
            [(rows, last_key, changed, unique)] = self.connection.execute(insert.encode(), {"page": body}).fetchall()
        except psycopg.errors.DiskFull:
            raise NoRoomForRows(directory=self.directory) from None
        except psycopg.errors.UniqueViolation:
            problem = "a row was sent twice, or the rows are out of order"
        except _NOT_ROWS as error:
            # The message of PostgreSQL would repeat the value.
            problem = f"expected rows, got something else ({type(error).__name__})"
        else:
            if unique:
                return rows, last_key, changed
            # Readers of JSON disagree about which of the values counts, so none of them is the row's.
            problem = "a row has a column twice"
        raise UnexpectedResponse(url=self._url(table.name), problem=problem)

    def _stored_type(self, described: str) -> str:
        """Return the type in which values are stored, without a limit.

        A built-in type is stored as described, and text for the source's own types and for types whose values only
        their own server or database can read.
        """
        # With -1, `character` and `bit` are written in the form that has no length. Otherwise it would be 1.
        try:
            found = self.connection.execute(
                "SELECT format_type(t.oid, -1) FROM pg_type t LEFT JOIN pg_type e ON e.typarray = t.oid"
                " WHERE t.oid = to_regtype(%s) AND t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b'"
                " AND coalesce(e.typname, t.typname) !~ %s",
                [described, _NEEDS_MORE_THAN_TEXT],
            ).fetchall()
        except psycopg.Error:
            problem = "the description of the tables contains a type that PostgreSQL cannot read"
            raise UnexpectedResponse(url=self.rest.address, problem=problem) from None
        return str(found[0][0]) if found else "text[]" if described.endswith("[]") else "text"

    def _url(self, table: str) -> str:
        return f"{self.rest.address}/{table}"

    def _execute(self, statement: str) -> None:
        self.connection.execute(statement.encode())


def _problem_of(body: bytearray, columns: set[str]) -> str | None:
    """Return what is wrong with rows that PostgreSQL would read: without a value, it is NULL; an object is a text."""
    try:
        rows = msgspec.json.decode(body, type=list[dict[str, msgspec.Raw]])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"expected rows, got something else ({type(error).__name__})"
    for row in rows:
        if row.keys() != columns:
            return "a row lacks columns that were requested, or has others"
        # A value that is no text, number or truth value in JSON is requested as a text.
        if nested := next((name for name, value in row.items() if bytes(memoryview(value)[:1]) in (b"[", b"{")), None):
            return f"a value of the column {nested} is an array or an object"
    return None


def _insert(table: RestTable, types: dict[str, str]) -> str:
    """Return the statement that inserts `%(page)b`.

    Its result is the number of rows, the last key as text, the positions of columns with a value that is stored as
    another than the one that was sent, and whether no row has a column twice.
    """
    changed = [_changed(f"c{at}", table.columns[name], types[name]) for at, name in enumerate(types)]
    positions = ", ".join(f"CASE WHEN bool_or({condition}) THEN {at} END" for at, condition in enumerate(changed))
    texts = beside_parameters(", ".join(f"{quoted(name)} text" for name in types))
    into = beside_parameters(f"public.{quoted(table.name)} ({', '.join(map(quoted, types))})")
    names = ", ".join(f"c{at}" for at in range(len(types)))
    values = ", ".join(f"c{at}::{type_name}" for at, type_name in enumerate(types.values()))
    key = f"c{list(types).index(table.key)}"
    return (
        "WITH page AS MATERIALIZED (SELECT * FROM ROWS FROM (json_to_recordset(convert_from(%(page)b, 'UTF8')::json)"
        f" AS ({texts})) WITH ORDINALITY AS p ({names}, place)),"
        f" inserted AS (INSERT INTO {into} SELECT {values} FROM page)"
        f" SELECT count(*), (SELECT {key} FROM page ORDER BY place DESC LIMIT 1),"
        f" array_remove(ARRAY[{positions}]::integer[], NULL),"
        " convert_from(%(page)b, 'UTF8') IS JSON WITH UNIQUE KEYS FROM page"
    )


def _changed(sent: str, described: str, stored_type: str) -> str:
    """Return the condition that a value is stored as another than the one that was sent, as text."""
    if stored_type in _WRITTEN_IN_SEVERAL_WAYS or stored_type == "text":
        return "false"
    if stored_type == _MOMENTS:
        return f"{sent} !~ '{_MOMENTS_IN_ISO_FORM}'"
    stored = f"{sent}::{stored_type}"
    return f"{stored}::text <> {sent}" if read_as_text(described) else f"to_json({stored}) #>> '{{}}' <> {sent}"
