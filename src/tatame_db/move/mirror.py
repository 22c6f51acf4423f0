"""A source that is reached over REST, read into a PostgreSQL of our own, so that everything else works as with any.

The rows pass through us as the JSON that the server wrote, and become values in PostgreSQL alone: no number is rounded,
no text taken for another.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psycopg

from tatame_db.database.pool import readable
from tatame_db.errors import NOTHING_CHANGED
from tatame_db.move import record
from tatame_db.move.choices import UNKNOWN_TABLE
from tatame_db.move.connection import MoveConnection, SameDatabase, open_source, open_target
from tatame_db.move.mapping import MAY_BE_MISSING, PHASE_OF, quoted
from tatame_db.move.proof import TableCount, rejected
from tatame_db.move.rest import SEES_ALL, Rest, RestAnswer, RestError, RestTable
from tatame_db.server.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from sqlalchemy import Engine

    from tatame_db.server.scratch import Scratch

PAGE_ROWS = 10_000
# PostgreSQL needs some room beside the rows.
SPARE_BYTES = 1 << 28


class RowsMoved(RestError):
    """A table did not stay as it was while its pages were read."""

    def __init__(self, table: str, before: int, read: int, after: int) -> None:
        self.table, self.before, self.read, self.after = table, before, read, after
        super().__init__(
            f"{table} changed while it was read: {before:,} rows before, {read:,} read, {after:,} after",
            means=NOTHING_CHANGED,
            fix="stop writing to the source, then run the command again",
        )


class EmptyOrForbidden(RestError):
    """The key sees no row of some tables, which may be empty or closed to it."""

    def __init__(self, role: str, tables: list[str]) -> None:
        self.tables = tables
        super().__init__(
            f"the role {role} sees no rows of {', '.join(tables)}: empty and forbidden look the same",
            means=NOTHING_CHANGED,
            fix="set `SUPABASE_SERVICE_ROLE_KEY`, which sees which it is",
        )


class NoRoomForRows(RestError):
    """The disk cannot hold the copy of the source that is compared with."""

    def __init__(self, directory: str) -> None:
        super().__init__(
            f"the rows read over REST are kept in {directory} for a while, and its disk is too small or full",
            means=NOTHING_CHANGED,
            fix="set `TMPDIR` to a directory on a larger disk, or `SUPABASE_DB_URL`, which needs none",
        )


def _silent(*_: object) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Mirror:
    """A source over REST. `on_read` hears of each table that was read, and how many rows it has.

    Of a table that is not ours the rows are counted. They are read where they are to be kept, or were kept already.
    """

    rest: Rest
    on_read: Callable[[str, int], None] = _silent
    keep_unknown: bool = False

    @property
    def readable(self) -> str:
        """Where it is."""
        return self.rest.address

    def is_same_as(self, target: MoveConnection) -> bool:
        """Say whether the first row of some table lies in the same place of the same table, which only itself does."""
        for name, table in sorted(self.rest.tables().items()):
            if name in PHASE_OF and (found := self.rest.places(table)):
                [is_there] = target.row(f"SELECT to_regclass('public.{quoted(name)}') IS NOT NULL")
                # Before it is migrated, a target may have no such table, or one of its own without an `id`.
                return is_there and bool(
                    target.rows(
                        f"SELECT FROM public.{quoted(name)} AS t WHERE tableoid::text = %(table)s"
                        " AND xmin::text = %(writer)s AND ctid::text = %(place)s AND to_jsonb(t) ->> 'id' = %(key)s",
                        dict(zip(("key", "table", "writer", "place"), found, strict=True)),
                    )
                )
        return False

    def counts(self, target: Engine) -> list[TableCount]:
        """Count the rows of both sides, those of the source by its own word. Raises `RestError`, `SameDatabase`."""
        self.rest.tables()
        with open_target(target, self) as connection:
            if self.is_same_as(connection):
                raise SameDatabase(self.readable)
            exclusions = record.recorded_exclusions(connection, record.identity_of(self.rest.reading))
            return [replace(self._compared(connection, name), rejected=rejected(exclusions, name)) for name in PHASE_OF]

    def _compared(self, target: MoveConnection, name: str) -> TableCount:
        [ours] = target.row(f"SELECT count(*) FROM public.{quoted(name)}")
        theirs = self.rest.count(name)
        if theirs is None and name in MAY_BE_MISSING:
            theirs = 0
        elif not theirs and self.rest.role != SEES_ALL:
            # Empty and forbidden look the same.
            theirs = None
        return TableCount(name, theirs, ours)

    @contextlib.contextmanager
    def open(self, target: MoveConnection) -> Generator[MoveConnection]:
        """Read everything into a server of our own, and open that; deleted at the end.

        Raises `RestError`, and what making a server raises.
        """
        exclusions = record.recorded_exclusions(target, record.identity_of(self.rest.reading))
        kept = {what.table for what in exclusions if what.kind == UNKNOWN_TABLE}
        with scratch(on_disk=True) as server, self._read(server, "first", kept) as connection:
            yield connection

    @contextlib.contextmanager
    def _read(self, server: Scratch, name: str, kept: set[str]) -> Generator[MoveConnection]:
        self.rest.pages = 0

        @contextlib.contextmanager
        def reread() -> Generator[MoveConnection]:
            # Only one has to fit onto the disk.
            server.drop(name)
            with self._read(server, "second", kept) as read:
                yield read

        with server.database(name) as engine:
            with psycopg.connect(readable(engine.url)) as connection:
                _Filling(self, connection, str(server.server.directory), kept).fill()
            with open_source(engine.url) as read:
                yield replace(read, rest=self.rest.reading, reread=reread)


class _Filling:
    def __init__(self, mirror: Mirror, connection: psycopg.Connection[Any], directory: str, kept: set[str]) -> None:
        self.mirror, self.rest, self.connection, self.directory = mirror, mirror.rest, connection, directory
        self.kept = kept

    def fill(self) -> None:
        described = self.rest.tables()
        for name in PHASE_OF.keys() - described.keys():
            if self.rest.count(name) is not None:
                raise RestAnswer(self.rest.address, f"there is a table {name}, and it is not described")
        counted: dict[str, int] = {}
        for name in [*PHASE_OF, *sorted(described.keys() - PHASE_OF.keys())]:
            if name in described:
                whole = name in PHASE_OF or name in self.kept or self.mirror.keep_unknown
                counted[name] = self._filled(described[name]) if whole else self._counted(name)
                self.mirror.on_read(name, counted[name])
        empty = [name for name, rows in counted.items() if not rows]
        if empty and self.rest.role != SEES_ALL:
            raise EmptyOrForbidden(self.rest.role, empty)
        self._do("ANALYZE")
        self.connection.commit()

    def _counted(self, name: str) -> int:
        """Note how many rows a table has that is not ours, without their contents."""
        count = self._count(name)
        self._do(f"CREATE UNLOGGED TABLE public.{quoted(name)} ()")
        self._do(f"INSERT INTO public.{quoted(name)} SELECT FROM generate_series(1, {count})")
        return count

    def _filled(self, table: RestTable) -> int:
        types = {name: self._type(kind) for name, kind in table.columns.items()}
        columns = ", ".join(f"{quoted(name)} {kind}" for name, kind in types.items())
        self._do(f"CREATE UNLOGGED TABLE public.{quoted(table.name)} ({columns}, PRIMARY KEY ({quoted(table.key)}))")
        insert = _insert(table, types)
        before = self._count(table.name)
        read, after, limit, cut = 0, None, PAGE_ROWS, 0
        while True:
            page = self.rest.page(table, after, limit)
            if page is None:
                limit = max(1, limit // 8)
                continue
            found, after = self._inserted(table, insert, page.body)
            if found != page.rows:
                raise RestAnswer(
                    f"{self.rest.address}/{table.name}", f"{found:,} rows came, and {page.rows:,} were told"
                )
            if not found:
                break
            # Only a page that more rows came after was cut short.
            self.rest.cap = max(self.rest.cap or 0, cut) or None
            cut = found if found < limit else 0
            read += found
        now = self._count(table.name)
        if not before == read == now:
            raise RowsMoved(table.name, before, read, now)
        return read

    def _count(self, name: str) -> int:
        count = self.rest.count(name)
        if count is None:
            raise RestAnswer(f"{self.rest.address}/{name}", "the table is described, and not there")
        return count

    def _inserted(self, table: RestTable, insert: str, body: bytes) -> tuple[int, str | None]:
        if shutil.disk_usage(self.directory).free < SPARE_BYTES:
            raise NoRoomForRows(self.directory)
        try:
            [(found, last)] = self.connection.execute(insert.encode(), {"page": body}).fetchall()
        except psycopg.errors.UniqueViolation:
            words = "the same row came twice"
        except psycopg.DataError as error:
            words = f"it is no page of rows: {error.diag.message_primary}"
        else:
            return found, last
        raise RestAnswer(f"{self.rest.address}/{table.name}", words)

    def _type(self, described: str) -> str:
        """Return a type of PostgreSQL's own; of one that the source made we keep the text."""
        found = self.connection.execute(
            "SELECT format_type(oid, NULL) FROM pg_type WHERE oid = to_regtype(%s)"
            " AND typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b'",
            [described],
        ).fetchall()
        return str(found[0][0]) if found else "text[]" if described.endswith("[]") else "text"

    def _do(self, statement: str) -> None:
        self.connection.execute(statement.encode())


def _insert(table: RestTable, types: dict[str, str]) -> str:
    """Write the statement that takes a page in; gives the number of its rows and the key of the last one, as text."""
    given = ", ".join(f"{quoted(name)} text" for name in types)
    names = ", ".join(f"c{at}" for at in range(len(types)))
    values = ", ".join(f"c{at}::{kind}" for at, kind in enumerate(types.values()))
    key = f"c{list(types).index(table.key)}"
    return (
        "WITH page AS MATERIALIZED (SELECT * FROM ROWS FROM (json_to_recordset(convert_from(%(page)b, 'UTF8')::json)"
        f" AS ({given})) WITH ORDINALITY AS p ({names}, place)),"
        f" inserted AS (INSERT INTO public.{quoted(table.name)} ({', '.join(map(quoted, types))})"
        f" SELECT {values} FROM page)"
        f" SELECT count(*), (SELECT {key} FROM page ORDER BY place DESC LIMIT 1) FROM page"
    )
