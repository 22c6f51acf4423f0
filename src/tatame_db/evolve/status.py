"""The state of a database: its revision, the pending migrations, and the size of its tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.database.address import readable
from tatame_db.database.dialect import SCHEMA
from tatame_db.errors import TatameError, fact
from tatame_db.evolve.history import History
from tatame_db.schema import Base

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, TextClause


@fact
class SchemaBehind(TatameError):
    """Migrations are pending, and the command needs the current schema."""

    pending: list[str]
    what = "the database is not migrated; pending: {pending}"
    fix = "apply them with `tatame-db migrate`"


@fact
class TablesMissing(TatameError):
    """Every migration is applied, and tables are missing nevertheless."""

    tables: list[str]
    elsewhere: list[str]
    """Other schemas in the `search_path` that have tables of these names."""
    what = "all migrations are applied, but tables are missing: {tables}"
    fix = "{advice}"

    @property
    def advice(self) -> str:
        """The fix for tables in another schema, or for missing ones."""
        if self.elsewhere:
            moved = f"ALTER TABLE {self.elsewhere[0]}.{self.tables[0]} SET SCHEMA {SCHEMA}"
            return f"tables of these names are in {', '.join(self.elsewhere)}: move each with `{moved}`"
        return (
            "run `tatame-db check` to see every difference; on a development database, `tatame-db push` creates the"
            " tables"
        )


@fact
class StatusCheckFailed(SchemaBehind):
    """Migrations are pending: the negative answer of `status --check`."""

    exit_code = 3


@dataclass(frozen=True)
class Status:
    """The state of a database. `tables` maps each existing table of the models to its estimated number of rows."""

    database: str
    server_version: str
    revision: str | None
    head: str
    pending: list[str]
    tables: dict[str, int]
    elsewhere: list[str]
    """Other schemas in the `search_path` that have tables of the same names, which are not used."""


def status(engine: Engine) -> Status:
    """Read the revision of a database, the pending migrations and the row counts; changes nothing.

        >>> evolve.status(engine).pending
        []

    Raises `DatabaseAhead`, `TwoHeads`, `MigrationUnreadable`.
    """
    history = History()
    with engine.connect() as connection:
        return Status(
            database=readable(engine.url),
            server_version=str(connection.scalar(text("SELECT current_setting('server_version')"))).split()[0],
            revision=history.reached(connection),
            head=", ".join(history.newest),
            pending=[script.revision for script in history.pending(connection)],
            tables={row.name: row.rows_estimated for row in connection.execute(estimated_rows())},
            elsewhere=_schemas_elsewhere(connection),
        )


def refuse_incomplete(connection: Connection) -> None:
    """Raise `SchemaBehind` if migrations are pending, `TablesMissing` if a table was dropped by other means."""
    if pending := History().pending(connection):
        raise SchemaBehind(pending=[script.revision for script in pending])
    if missing := Base.metadata.tables.keys() - {row.name for row in connection.execute(estimated_rows())}:
        raise TablesMissing(tables=sorted(missing), elsewhere=_schemas_elsewhere(connection))


def _schemas_elsewhere(connection: Connection) -> list[str]:
    query = text(
        "SELECT DISTINCT nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE nspname = ANY(current_schemas(false)) AND nspname <> :schema AND relname = ANY(:names) ORDER BY 1"
    )
    return list(connection.scalars(query, {"schema": SCHEMA, "names": list(Base.metadata.tables)}))


def table_sizes() -> TextClause:
    """Select `name`, `size_bytes` and `rows_estimated` of the existing tables of the models, by name.

    Measuring the size of a table waits for a lock on it; see `estimated_rows`.
    """
    return _existing_tables("pg_total_relation_size(oid) AS size_bytes,")


def estimated_rows() -> TextClause:
    """Select `name` and `rows_estimated` of the existing tables of the models, by name; waits for no lock."""
    return _existing_tables("")


def _existing_tables(size: str) -> TextClause:
    # A table that was never analyzed has no estimate yet; the cumulative statistics count its rows meanwhile.
    return text(
        f"SELECT relname AS name, {size}"
        " CASE WHEN reltuples < 0 THEN pg_stat_get_live_tuples(oid) ELSE reltuples END::bigint AS rows_estimated"
        " FROM pg_class WHERE oid = ANY(SELECT to_regclass('public.' || quote_ident(name))"
        " FROM unnest(CAST(:names AS text[])) AS name) ORDER BY relname"
    ).bindparams(names=list(Base.metadata.tables))
