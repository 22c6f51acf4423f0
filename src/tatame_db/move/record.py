"""The target's own record of its moves, in the schema `tatame_move`: runs, tables, parked keys and excluded rows."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tatame_db.database.dialect import MOVE_SCHEMA
from tatame_db.database.keys import KeyOrIndex
from tatame_db.move.choices import UNKNOWN_TABLE, Exclusion
from tatame_db.move.fingerprint import Fingerprint
from tatame_db.move.keys import model_keys_and_indexes
from tatame_db.roles.script import shared_like_public

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.rest import RestReading

SCHEMA = MOVE_SCHEMA
# As in the index of `rejects`, about the id.
REJECT_ID_HASH = """hashtextextended(coalesce({}, 'NULL') COLLATE "C", 0)"""
_TABLES = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};
{shared_like_public(SCHEMA)};
CREATE TABLE IF NOT EXISTS {SCHEMA}.runs (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    source text NOT NULL,
    source_identity text NOT NULL,
    source_version text NOT NULL,
    target_version text NOT NULL,
    options jsonb NOT NULL,
    -- NULL for a run that is still running or was killed.
    outcome text CHECK (outcome IN ('proven', 'not equal', 'failed')),
    error text,
    report jsonb
);
CREATE TABLE IF NOT EXISTS {SCHEMA}.tables (
    name text PRIMARY KEY,
    source_identity text NOT NULL,
    run integer NOT NULL REFERENCES {SCHEMA}.runs,
    rows bigint NOT NULL,
    -- Of the table when its copy was proven; a different one shows a later write.
    fingerprint text NOT NULL,
    copied_at timestamptz NOT NULL,
    -- NULL until a source over REST, which is not read at one moment, was read a second time.
    proven_at timestamptz
);
CREATE TABLE IF NOT EXISTS {SCHEMA}.parked (
    position integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('index', 'key')),
    table_name text NOT NULL,
    name text NOT NULL,
    definition text NOT NULL,
    UNIQUE (kind, table_name, name)
);
-- Statements that restore what a key or an index has beside its definition.
ALTER TABLE {SCHEMA}.parked ADD COLUMN IF NOT EXISTS attributes text[] NOT NULL DEFAULT '{{}}';
-- Columns and their types, in the order of the values in the rows that have this shape.
CREATE TABLE IF NOT EXISTS {SCHEMA}.shapes (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    names text[] NOT NULL,
    types text[] NOT NULL
);
-- Excluded rows and values, as the source has them. Each copy of a table replaces those of the table.
CREATE TABLE IF NOT EXISTS {SCHEMA}.rejects (
    run integer NOT NULL REFERENCES {SCHEMA}.runs,
    source_identity text NOT NULL,
    table_name text NOT NULL,
    id text,
    column_name text,
    kind text NOT NULL,
    reason text NOT NULL,
    action text NOT NULL CHECK (action IN ('rejected', 'nulled', 'kept')),
    -- For reading: NULL for a row that jsonb cannot hold, and inexact for values such as arrays with bounds.
    "row" jsonb,
    -- Exactly as the source writes it. NULL in a record of an older version, until the table is copied again.
    row_text text,
    shape integer REFERENCES {SCHEMA}.shapes
);
-- A hash of the id, which may be too long for an index: that is one of the reasons to reject a row.
CREATE INDEX IF NOT EXISTS rejects_id_index ON {SCHEMA}.rejects (table_name, ({REJECT_ID_HASH.format("id")}));
-- Rows and values that a way back did not write to the source, as the target had them.
CREATE TABLE IF NOT EXISTS {SCHEMA}.not_returned (
    run integer NOT NULL REFERENCES {SCHEMA}.runs,
    source_identity text NOT NULL,
    table_name text NOT NULL,
    id text NOT NULL,
    -- Of the target; NULL for a whole row.
    column_name text,
    kind text NOT NULL,
    reason text NOT NULL,
    action text NOT NULL CHECK (action IN ('nulled', 'left', 'not deleted')),
    -- As in `rejects`; both are NULL for a row that the target had deleted.
    "row" jsonb,
    row_text text,
    shape integer NOT NULL REFERENCES {SCHEMA}.shapes,
    -- NULL until a later way back writes the row, or another value in the column.
    returned_at timestamptz
);
CREATE INDEX IF NOT EXISTS not_returned_id_index ON {SCHEMA}.not_returned
    (table_name, ({REJECT_ID_HASH.format("id")}));
"""
TABLES = re.findall(rf"CREATE TABLE IF NOT EXISTS {SCHEMA}[.](\w+)", _TABLES)
"""The tables of the record."""
# Of a record that an older version made.
_UPGRADE = f"""
ALTER TABLE {SCHEMA}.rejects ALTER "row" DROP NOT NULL, ADD row_text text, ADD shape integer REFERENCES {SCHEMA}.shapes;
DROP INDEX IF EXISTS {SCHEMA}.rejects_table_name_index;
"""
OF_LAST_SOURCE = f"""
source_identity = coalesce((SELECT source_identity FROM {SCHEMA}.tables WHERE name = table_name), source_identity)
"""
"""Of each table in `rejects` or `not_returned`, the rows of the source that it was copied from last."""

Outcome = Literal["proven", "not equal", "failed"]


@dataclass(frozen=True)
class TableRecord:
    """The last copy of a table; `proven_at` is `None` until it is proven."""

    source_identity: str
    rows: int
    fingerprint: Fingerprint
    copied_at: datetime
    proven_at: datetime | None


@dataclass(frozen=True)
class RunStatus:
    """A run. `outcome` is `proven`, `not equal` or `failed`, and `None` if the run is still running or was killed."""

    id: int
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    error: str | None


def identity_of(source: MoveConnection | RestReading) -> str:
    """Return the identity of a source as the record stores it."""
    return ":".join(map(str, source.identity))


@dataclass(frozen=True)
class Record:
    """Reads and writes `tatame_move`. Reading finds nothing until `create` was called; the caller commits."""

    target: MoveConnection

    def create(self) -> None:
        """Create the schema and its tables, unless they exist; add what a record of an older version lacks."""
        self.target.execute(_TABLES)
        if not self.keeps_texts():
            self.target.execute(_UPGRADE)

    def exists(self) -> bool:
        """Return whether there was ever a move into this database."""
        [exists] = self.target.row(f"SELECT to_regclass('{SCHEMA}.rejects') IS NOT NULL")
        return exists is True

    def keeps_texts(self) -> bool:
        """Return whether excluded rows are stored as text too, which older versions did not do."""
        return bool(
            self.target.rows(
                f"SELECT FROM pg_attribute WHERE attrelid = to_regclass('{SCHEMA}.rejects') AND attname = 'row_text'"
            )
        )

    # Runs

    def begin_run(
        self, *, source: str, identity: str, source_version: str, target_version: str, options: dict[str, Any]
    ) -> int:
        """Insert a run and return its number."""
        [(run,)] = self.target.rows(
            f"INSERT INTO {SCHEMA}.runs (source, source_identity, source_version, target_version, options)"
            " VALUES (%(source)s, %(identity)s, %(source_version)s, %(target_version)s, %(options)s) RETURNING id",
            {
                "source": source,
                "identity": identity,
                "source_version": source_version,
                "target_version": target_version,
                "options": json.dumps(options),
            },
        )
        return int(run)

    def end_run(
        self, run: int, outcome: Outcome, *, report: dict[str, Any] | None = None, error: str | None = None
    ) -> None:
        """Store the outcome of a run."""
        self.target.execute(
            f"UPDATE {SCHEMA}.runs SET ended_at = clock_timestamp(), outcome = %(outcome)s, error = %(error)s,"
            " report = %(report)s WHERE id = %(run)s",
            {"run": run, "outcome": outcome, "error": error, "report": report and json.dumps(report)},
        )

    def last_run(self) -> RunStatus | None:
        """Return the newest run."""
        columns = "id, started_at, ended_at, outcome, error"
        rows = self._rows(f"SELECT {columns} FROM {SCHEMA}.runs ORDER BY id DESC LIMIT 1")
        return RunStatus(*rows[0]) if rows else None

    def last_options(self) -> dict[str, Any] | None:
        """Return the options of the newest run: the tables, and the choices by the names of their options."""
        rows = self._rows(f"SELECT options FROM {SCHEMA}.runs ORDER BY id DESC LIMIT 1")
        return rows[0][0] if rows else None

    def tables_that_came_back(self, identity: str) -> set[str]:
        """Return the tables that had their home on the target, and came back to this source."""
        rows = self._rows(
            f"SELECT DISTINCT jsonb_array_elements_text(options -> 'moved') FROM {SCHEMA}.runs"
            " WHERE options ->> 'home' = 'source' AND source_identity = %(identity)s",
            {"identity": identity},
        )
        return {name for (name,) in rows}

    def rows_per_second(self) -> dict[str, float]:
        """Return the speed of the last proven copy of each table; copies of less than a second do not count."""
        rows = self._rows(
            "SELECT DISTINCT ON (t ->> 'table') t ->> 'table', (t ->> 'written')::float / (t ->> 'seconds')::float"
            f" FROM {SCHEMA}.runs, jsonb_array_elements(report -> 'tables') AS t"
            " WHERE outcome = 'proven' AND (t ->> 'written')::bigint > 0 AND (t ->> 'seconds')::float >= 1"
            " ORDER BY 1, id DESC"
        )
        return dict(rows)

    # Tables

    def tables(self) -> dict[str, TableRecord]:
        """Return the last copy of each table that was ever copied."""
        rows = self._rows(f"SELECT name, source_identity, rows, fingerprint, copied_at, proven_at FROM {SCHEMA}.tables")
        return {
            name: TableRecord(identity, count, Fingerprint.parse(fingerprint), *times)
            for name, identity, count, fingerprint, *times in rows
        }

    def save_table(
        self, table: str, *, run: int, identity: str, fingerprint: Fingerprint, copied: bool, proven: bool
    ) -> None:
        """Store that a table is equal to the source; with `copied`, also that it was written to.

        Belongs into the transaction that writes the rows, so that the record never states more than the table holds.
        """
        self.target.execute(
            f"INSERT INTO {SCHEMA}.tables VALUES (%(table)s, %(identity)s, %(run)s, %(rows)s, %(fingerprint)s,"
            " clock_timestamp(), CASE WHEN %(proven)s THEN clock_timestamp() END) ON CONFLICT (name) DO UPDATE"
            " SET source_identity = excluded.source_identity, run = excluded.run, rows = excluded.rows,"
            " fingerprint = excluded.fingerprint, proven_at = excluded.proven_at,"
            " copied_at = CASE WHEN %(copied)s THEN excluded.copied_at ELSE tables.copied_at END",
            {
                "table": table,
                "identity": identity,
                "run": run,
                "rows": fingerprint.rows,
                "fingerprint": str(fingerprint),
                "copied": copied,
                "proven": proven,
            },
        )

    def save_changes(self, table: str, before: Fingerprint, after: Fingerprint) -> None:
        """Store that some rows of a table, which had the fingerprint `before`, have the fingerprint `after` now.

        Belongs into the transaction that writes the rows. So a write by anything else still shows.
        """
        last = self.tables()[table].fingerprint
        found = Fingerprint(last.rows - before.rows + after.rows, last.digest - before.digest + after.digest)
        self.target.execute(
            f"UPDATE {SCHEMA}.tables SET rows = %(rows)s, fingerprint = %(fingerprint)s, copied_at = clock_timestamp()"
            " WHERE name = %(table)s",
            {"table": table, "rows": found.rows, "fingerprint": str(found)},
        )

    def mark_proven(self, table: str) -> None:
        """Store that the last copy of a table is proven."""
        self.target.execute(
            f"UPDATE {SCHEMA}.tables SET proven_at = clock_timestamp() WHERE name = %(table)s", {"table": table}
        )

    # Excluded rows

    def exclusions(self, identity: str | None = None) -> list[Exclusion]:
        """Count the excluded rows of one source, or for each table those of the source that it was copied from."""
        of_source = "source_identity = %(identity)s" if identity else OF_LAST_SOURCE
        rows = self._rows(
            "SELECT table_name, column_name, kind, reason, action, count(*)"
            f" FROM {SCHEMA}.rejects WHERE {of_source} GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4",
            {"identity": identity},
        )
        return [Exclusion(*row) for row in rows]

    def shape(self, names: Sequence[str], types: Sequence[str]) -> int:
        """Return the number of a shape; stores it if it is new."""
        shape = {"names": list(names), "types": list(types)}
        rows = self.target.rows(
            f"SELECT id FROM {SCHEMA}.shapes WHERE names = %(names)s AND types = %(types)s LIMIT 1", shape
        ) or self.target.rows(
            f"INSERT INTO {SCHEMA}.shapes (names, types) VALUES (%(names)s, %(types)s) RETURNING id", shape
        )
        return int(rows[0][0])

    def delete_rejects(self, identity: str, table: str) -> None:
        """Delete the excluded rows of a table of a source."""
        self.target.execute(
            f"DELETE FROM {SCHEMA}.rejects WHERE source_identity = %(identity)s AND table_name = %(table)s",
            {"identity": identity, "table": table},
        )

    def delete_rejects_of_unknown_tables(self, identity: str) -> None:
        """Delete the excluded rows of all tables that the models lack."""
        self.target.execute(
            f"DELETE FROM {SCHEMA}.rejects WHERE source_identity = %(identity)s AND kind = %(kind)s",
            {"identity": identity, "kind": UNKNOWN_TABLE},
        )

    # Parked keys and indexes

    def park(self, is_wanted: Callable[[KeyOrIndex], bool] = lambda _: True) -> None:
        """Drop the wanted foreign keys and indexes of the models, and store their definitions, in one transaction."""
        for found in filter(is_wanted, model_keys_and_indexes(self.target)):
            self.mark_parked(found)
            self.target.execute(found.drop_statement)

    def mark_parked(self, found: KeyOrIndex) -> None:
        """Store the definition of a key or an index that does not exist, or is dropped next."""
        # One that is parked already, and exists nevertheless, was created by a person.
        self.target.execute(
            f"INSERT INTO {SCHEMA}.parked (kind, table_name, name, definition, attributes) VALUES (%(kind)s,"
            " %(table)s, %(name)s, %(definition)s, %(attributes)s) ON CONFLICT (kind, table_name, name) DO UPDATE"
            " SET definition = excluded.definition, attributes = excluded.attributes",
            {
                "kind": found.kind,
                "table": found.table,
                "name": found.name,
                "definition": found.definition,
                "attributes": found.attributes,
            },
        )

    def parked(self) -> list[str]:
        """Name the parked keys and indexes, as `users.users_gym_id_gyms_id_fk`."""
        rows = self._rows(f"SELECT table_name, name FROM {SCHEMA}.parked ORDER BY 1, 2")
        return [f"{table}.{name}" for table, name in rows]

    def parked_keys_and_indexes(self) -> list[KeyOrIndex]:
        """Return the parked keys and indexes, in an order in which they can be created."""
        if not self.exists():
            return []
        # An earlier version stored less.
        self.create()
        columns = "kind, table_name, name, definition, attributes"
        # A key may need an index, and one that failed to be restored may have been parked before it.
        return [
            KeyOrIndex(*row) for row in self._rows(f"SELECT {columns} FROM {SCHEMA}.parked ORDER BY kind, position")
        ]

    def forget_parked(self, found: KeyOrIndex) -> None:
        """Delete a key or an index that exists again."""
        self.target.execute(
            f"DELETE FROM {SCHEMA}.parked WHERE (kind, table_name, name) = (%(kind)s, %(table)s, %(name)s)",
            {"kind": found.kind, "table": found.table, "name": found.name},
        )

    def _rows(self, query: str, parameters: dict[str, Any] | None = None) -> list[tuple[Any, ...]]:
        return self.target.rows(query, parameters) if self.exists() else []
