"""The contents of a database as numbers: the rows and a digest of each table, in every schema but the system's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from tatame_db.backup.errors import TableLocked
from tatame_db.database.dialect import VERSION_SCHEMA, quoted
from tatame_db.database.driver import driver_connection
from tatame_db.database.pool import Database
from tatame_db.database.text_output import TEXT_OUTPUT
from tatame_db.move.conversion import HASHED_TEXT, about, hashed
from tatame_db.move.fingerprint import Fingerprint, hash_of_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL

    Connection = psycopg.Connection[tuple[Any, ...]]

LOCK_SECONDS = 300
"""How long a backup waits for a table that another session has locked."""
_SETTINGS = TEXT_OUTPUT | {"search_path": "pg_catalog", "row_security": "off"} | {"lock_timeout": f"{LOCK_SECONDS}s"}
# Each partition is a table of its own here. Unlogged tables are empty after a recovery, and foreign ones elsewhere.
_TABLES = """
SELECT format('%%I.%%I', nspname, relname),
    coalesce(array_agg(attname::text ORDER BY attnum) FILTER (WHERE attname IS NOT NULL), '{}'),
    coalesce(array_agg(format_type(atttypid, NULL) ORDER BY attnum) FILTER (WHERE attname IS NOT NULL), '{}')
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    LEFT JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated IN ('', 's')
WHERE relkind = ANY(%s) AND relpersistence = 'p' AND relispopulated
    AND nspname !~ '^pg_' AND nspname <> 'information_schema'
GROUP BY 1 ORDER BY 1
"""
_SEQUENCES = """
SELECT format('%I.%I', schemaname, sequencename), last_value FROM pg_sequences
WHERE schemaname !~ '^pg_' ORDER BY 1
"""
# PostgreSQL lets no session into an invalid one, whose `DROP DATABASE` was interrupted.
_DATABASES = """
SELECT datname FROM pg_database
WHERE datallowconn AND datconnlimit <> -2 AND datname NOT IN ('template0', 'template1') ORDER BY 1
"""
_PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
_REVISIONS = f"SELECT version_num FROM {VERSION_SCHEMA}.alembic_version ORDER BY 1"  # noqa: S608, a constant
LARGE_OBJECTS = "pg_catalog.pg_largeobject"
LIMITS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
)
_WITH_TRANSACTION_TIMEOUT = 170_000


@dataclass(frozen=True)
class Contents:
    """One database."""

    size_bytes: int
    revision: list[str]
    """The revisions of its migrations; empty if it has none."""
    tables: dict[str, Fingerprint]
    """By the quoted name of the table, with its schema."""
    sequences: dict[str, int | None]
    """The last value of each sequence; `None` if it has given none."""

    @property
    def rows(self) -> int:
        """The rows of all tables."""
        return sum(table.rows for table in self.tables.values())


def lift_limits(connection: Connection, *, scope: str = "LOCAL") -> None:
    """Lift the time limits of the role, the database and the environment, until the end of the transaction."""
    for name in LIMITS:
        if name != "transaction_timeout" or connection.info.server_version >= _WITH_TRANSACTION_TIMEOUT:
            connection.execute(f"SET {scope} {name} = 0".encode())


def contents_of_dump(connection: Connection, on_table: Callable[[str], None]) -> Contents:
    """Read what a dump holds of a database: a materialized view is made again, and large objects are not compared."""
    return read_contents(connection, on_table, kinds="r")


def contents_of_server(server: URL, on_table: Callable[[str], None]) -> dict[str, Contents]:
    """Read all databases of a scratch server, as a superuser; the address names any of them. Reads every row.

    What a transaction manager had prepared is rolled back first: its rows are not visible, and its locks would be in
    the way forever.
    """
    with Database(server) as database, database.engine.connect() as connection:
        names = [name for (name,) in driver_connection(connection).execute(_DATABASES).fetchall()]
    found: dict[str, Contents] = {}
    for name in names:
        with Database(server.set(database=name)) as database, database.engine.connect() as connection:
            driver = driver_connection(connection)
            _roll_back_prepared(driver)
            found[name] = read_contents(driver, on_table)
    return found


def _roll_back_prepared(connection: Connection) -> None:
    connection.autocommit = True
    for (transaction,) in connection.execute(_PREPARED).fetchall():
        connection.execute(sql.SQL("ROLLBACK PREPARED {}").format(transaction))
    connection.autocommit = False


def read_contents(connection: Connection, on_table: Callable[[str], None], *, kinds: str = "rm") -> Contents:
    """Read the database of a connection, in the transaction that it is in, which keeps no lock on a table.

    With such locks, a migration would wait until the end of a backup, and what pg_dump reads behind the migration.
    Raises `TableLocked`.
    """
    lift_limits(connection)
    for setting, value in _SETTINGS.items():
        connection.execute("SELECT set_config(%s, %s, true)", [setting, value])
    tables: dict[str, Fingerprint] = {}
    for name, columns, types in connection.execute(_TABLES, [list(kinds)]).fetchall():
        on_table(name)
        try:
            with connection.transaction() as reading:
                tables[name] = _fingerprint(connection, name, columns, types)
                raise psycopg.Rollback(reading)
        except psycopg.errors.LockNotAvailable as error:
            raise TableLocked(table=name, seconds=LOCK_SECONDS) from error
    if "m" in kinds and _one(connection, "SELECT has_table_privilege('pg_largeobject', 'SELECT')"):
        objects = _fingerprint(connection, LARGE_OBJECTS, ["loid", "pageno", "data"], ["oid", "integer", "bytea"])
        if objects.rows:
            tables[LARGE_OBJECTS] = objects
    revision: list[str] = []
    if f"{VERSION_SCHEMA}.alembic_version" in tables:
        revision = [row[0] for row in _all(connection, _REVISIONS)]
    size = _one(connection, "SELECT pg_database_size(current_database())")
    return Contents(int(size), revision, tables, dict(connection.execute(_SEQUENCES).fetchall()))


def _fingerprint(connection: Connection, name: str, columns: list[str], types: list[str]) -> Fingerprint:
    values = [
        about(hashed(kind) or HASHED_TEXT, f"t.{quoted(column)}") for column, kind in zip(columns, types, strict=True)
    ]
    digest = f"coalesce(sum({hash_of_values(values)}), 0)" if values else "0"
    # The server has quoted the names.
    query = f"SELECT count(*), {digest} FROM ONLY {name} AS t"  # noqa: S608
    [(rows, total)] = _all(connection, query)
    return Fingerprint(rows, int(total))


def _all(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode()).fetchall()


def _one(connection: Connection, query: str) -> Any:
    return _all(connection, query)[0][0]


def differences(expected: dict[str, Contents], found: dict[str, Contents]) -> list[str]:
    """Return what differs, as sentences; an empty list if nothing does."""
    lines = [f"the database {name} is missing" for name in expected.keys() - found.keys()]
    lines += [f"the database {name} is new" for name in found.keys() - expected.keys()]
    for name in sorted(expected.keys() & found.keys()):
        lines += [f"{name}: {line}" for line in _differing(expected[name], found[name])]
    return lines


def _differing(expected: Contents, found: Contents) -> list[str]:
    lines: list[str] = []
    for table in sorted(expected.tables.keys() | found.tables.keys()):
        before, now = expected.tables.get(table), found.tables.get(table)
        if before is None or now is None:
            lines.append(f"the table {table} is {'missing' if now is None else 'new'}")
        elif before.rows != now.rows:
            lines.append(f"{table} has {now.rows:,} rows, not {before.rows:,}")
        elif before != now:
            lines.append(f"{table} has {now.rows:,} rows as before, with other values")
    sequences = sorted(expected.sequences.keys() | found.sequences.keys())
    return lines + [
        f"the sequence {sequence} has another last value"
        for sequence in sequences
        if expected.sequences.get(sequence) != found.sequences.get(sequence)
    ]
