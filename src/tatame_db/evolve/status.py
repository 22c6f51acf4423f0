"""The state of a database: its revision, the pending migrations, and the size of its tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.database.address import readable
from tatame_db.database.dialect import SCHEMA
from tatame_db.errors import TatameError, fact
from tatame_db.evolve.counts import row_counts
from tatame_db.evolve.history import History
from tatame_db.evolve.placement import elsewhere_stored, places
from tatame_db.evolve.worker import refuse_worker
from tatame_db.roles import explained
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
class ColumnsMissing(TatameError):
    """Every migration is applied, and the models have columns that the database lacks."""

    columns: list[str]
    what = "all migrations are applied, but the models have columns that the database lacks: {columns}"
    fix = (
        'if the models are right, write the migration with `tatame-db generate "…"`, then run `tatame-db migrate`; on a'
        " development database, `tatame-db push` adds the columns"
    )


@fact
class StatusCheckFailed(SchemaBehind):
    """Migrations are pending: the negative answer of `status --check`."""

    exit_code = 3


@dataclass(frozen=True)
class Status:
    """The state of a database."""

    database: str
    server_version: str
    revision: str | None
    head: str
    pending: list[str]
    tables: dict[str, int | None]
    """The number of rows of each existing table of the models, partitions included: the server's estimate, or a count
    where it has none; `None` if a count takes too long."""
    placement: dict[str, str] | None
    """Where Citus stores each of them; `None` without Citus."""
    elsewhere: list[str]
    """Other schemas in the `search_path` that have tables of the same names, which are not used."""


def status(engine: Engine) -> Status:
    """Read the revision of a database, the pending migrations and the row counts; changes nothing.

        >>> evolve.status(engine).pending
        []

    Raises `DatabaseAhead`, `TwoHeads`, `MigrationUnreadable`, `RightsMissing`, `NotCoordinator`.
    """
    history = History()
    with explained(engine.url, "status"), engine.connect() as connection:
        refuse_worker(connection)
        placed = places(connection)
        return Status(
            database=readable(engine.url),
            server_version=str(connection.scalar(text("SELECT current_setting('server_version')"))).split()[0],
            revision=history.reached(connection),
            head=", ".join(history.newest),
            pending=[script.revision for script in history.pending(connection)],
            tables=row_counts(connection, connection.execute(estimated_rows()).all(), elsewhere_stored(placed)),
            placement=None if placed is None else {name: str(place) for name, place in placed.items()},
            elsewhere=_schemas_elsewhere(connection),
        )


def refuse_incomplete(connection: Connection, command: str = "status") -> None:
    """Raise `SchemaBehind` if migrations are pending, `TablesMissing` if a table was dropped by other means.

    Raises `RightsMissing` with the needs of the command if the role may not read which migrations are applied, and
    `NotCoordinator` on a worker of Citus.
    """
    refuse_worker(connection)
    with explained(connection.engine.url, command):
        pending = History().pending(connection)
    if pending:
        raise SchemaBehind(pending=[script.revision for script in pending])
    if missing := Base.metadata.tables.keys() - {row.name for row in connection.execute(estimated_rows())}:
        raise TablesMissing(tables=sorted(missing), elsewhere=_schemas_elsewhere(connection))


def refuse_missing_columns(connection: Connection) -> None:
    """Raise `ColumnsMissing` if existing tables lack columns of their models, so that no row can be written."""
    query = text(
        "SELECT relname, attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
        " WHERE relnamespace = to_regnamespace(:schema) AND attnum > 0 AND NOT attisdropped"
    )
    found = {(table, column) for table, column in connection.execute(query, {"schema": SCHEMA})}
    tables = {table for table, _ in found}
    columns = [column for table in Base.metadata.tables.values() if table.name in tables for column in table.columns]
    if missing := sorted(str(column) for column in columns if (column.table.name, column.name) not in found):
        raise ColumnsMissing(columns=missing)


def _schemas_elsewhere(connection: Connection) -> list[str]:
    query = text(
        "SELECT DISTINCT nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE nspname = ANY(current_schemas(false)) AND nspname <> :schema AND relname = ANY(:names) ORDER BY 1"
    )
    return list(connection.scalars(query, {"schema": SCHEMA, "names": list(Base.metadata.tables)}))


def table_sizes() -> TextClause:
    """Select what `estimated_rows` selects, and `size_bytes`.

    Measuring the size of a table waits for a lock on it; see `estimated_rows`.
    """
    return _existing_tables(", sum(pg_total_relation_size(part.oid))::bigint AS size_bytes")


def estimated_rows() -> TextClause:
    """Select `name`, `rows_estimated` and `unknown` of the existing tables of the models, by name; waits for no lock.

    The rows of partitions and inherited tables are those of their table. `unknown` lists the parts of which
    neither the planner nor the cumulative statistics know a row. They are empty, or were never counted: filled
    before the statistics were reset, or distributed over other servers.
    """
    return _existing_tables("")


def _existing_tables(size: str) -> TextClause:
    return text(
        f"""
        WITH RECURSIVE part AS (
            SELECT oid AS root, oid FROM pg_class
            WHERE oid = ANY(
                SELECT to_regclass('{SCHEMA}.' || quote_ident(name)) FROM unnest(CAST(:names AS text[])) AS name
            )
            UNION ALL SELECT part.root, i.inhrelid FROM part JOIN pg_inherits i ON i.inhparent = part.oid
        )
        SELECT root.relname AS name, sum(known.rows)::bigint AS rows_estimated,
            coalesce(array_agg(known.name) FILTER (WHERE known.rows IS NULL), '{{}}') AS unknown{size}
        FROM part
        JOIN pg_class root ON root.oid = part.root
        JOIN pg_class c ON c.oid = part.oid
        CROSS JOIN LATERAL (SELECT
            -- A table that was never analyzed has no estimate yet; the statistics count its rows meanwhile.
            -- Afterwards they count what is written to it, and `reltuples` stays as it was.
            CASE WHEN c.relkind = 'p' THEN 0 ELSE coalesce(
                CASE WHEN coalesce(
                    pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid)
                ) IS NOT NULL THEN nullif(pg_stat_get_live_tuples(c.oid), 0) END,
                nullif(greatest(c.reltuples, 0), 0), nullif(pg_stat_get_live_tuples(c.oid), 0)) END AS rows,
            CASE WHEN c.relhassubclass THEN 'ONLY ' ELSE '' END
                || format('%I.%I', (SELECT nspname FROM pg_namespace n WHERE n.oid = c.relnamespace), c.relname) AS name
        ) known
        GROUP BY root.relname ORDER BY root.relname
        """
    ).bindparams(names=list(Base.metadata.tables))
