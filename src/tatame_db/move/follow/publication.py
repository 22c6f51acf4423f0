"""The publication on a home: the tables that it can list without harm to their writers, and how it is kept true.

An UPDATE of a published table that has no replica identity fails, and so does one whose identity has columns beside
those that are listed. So the catalogue decides before a table is listed, and all other tables are compared whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from tatame_db.database.dialect import literal, quoted
from tatame_db.errors import TatameError, fact
from tatame_db.move.catalogue import only
from tatame_db.move.conversion import INTEGERS
from tatame_db.move.follow.errors import SlotRefused, writing

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from tatame_db.move.connection import MoveConnection

# CREATE PUBLICATION waits for VACUUM and schema changes, and no writer waits for it.
_LOCK_TIMEOUT_MS = 5_000
# The first version in which a publication can list columns.
_LISTS_COLUMNS = 150_000
_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}
_NOT_PUBLISHED = {
    "d": "it has no primary key of one column that names its rows",
    "i": "its replica identity is an index",
    "n": "it has no replica identity",
}


@fact
class PublicationRefused(SlotRefused):
    """The role may not create a publication for these tables."""

    role: str
    reason: str
    what = "the role {role} cannot publish the tables to follow: {reason}"
    fix = "use the role that owns the tables and has CREATE on the database, as `postgres` of a Supabase project has"


@fact
class PublicationBlocked(TatameError):
    """A table that is to be published stays locked."""

    name: str
    reason: str
    what = "the publication {name} could not be created within 5 seconds: {reason}"
    fix = "wait until VACUUM or the schema change of another session is done, then run the command again"


@fact
class PublicationChanged(TatameError):
    """The publication was changed or dropped by another program, so the slot may lack changes."""

    name: str
    what = "the publication {name} was changed or dropped by another program"
    means = "The slot may lack changes from then on. Changes since the last batch were not applied."
    fix = "run the command again: it creates publication and slot again and compares every table"


@dataclass(frozen=True)
class TableState:
    """A table of a home as its catalogue describes it."""

    oid: int
    kind: str
    is_logged: bool
    replica_identity: str
    primary_key: list[str]
    """Its columns; empty if the key is deferrable, with which PostgreSQL identifies no row."""
    types: dict[str, str]
    form: str
    """Changes with whatever changes rows without a message: columns, a rewrite, a partition that comes or goes."""
    names_rows_of_partitions: bool
    """Whether all partitions are logged tables that name their rows by the primary key; true without partitions."""

    def reason_against(self, key: str | None) -> str | None:
        """Return why the table cannot be published; `None` if it can, with rows that this column names."""
        if self.kind not in "rp":
            return f"it is {_KINDS.get(self.kind, 'no table')}"
        if not self.is_logged:
            return "it is an unlogged table"
        if key is None or self.types.get(key) not in (*INTEGERS, "uuid"):
            return "its ids are neither integers nor UUIDs in both databases"
        if self.kind == "p":
            # The server publishes their changes as those of the table, and identifies the rows as the partitions do.
            is_named = key in self.primary_key and self.names_rows_of_partitions
            return None if is_named else "it has a partition that does not name its rows by the primary key"
        if self.replica_identity == "f" or (self.replica_identity == "d" and self.primary_key == [key]):
            return None
        return _NOT_PUBLISHED.get(self.replica_identity, _NOT_PUBLISHED["n"])


@dataclass(frozen=True)
class Coverage:
    """The tables that a publication lists, each with the columns, and the others with the reason.

    The columns are empty if all are published: of a table with REPLICA IDENTITY FULL, and before PostgreSQL 15.
    """

    published: dict[str, tuple[str, ...]]
    compared: dict[str, str]


def table_states(home: MoveConnection, tables: Collection[str]) -> dict[str, TableState]:
    """Describe those of these tables that exist."""
    rows = home.rows(_STATES, {"tables": list(tables)})
    return {name: TableState(*facts) for name, *facts in rows}


def coverage(
    tables: Collection[str], states: Mapping[str, TableState], keys: Mapping[str, str], version: int
) -> Coverage:
    """Decide which tables can be published by a server of this version; `keys` are columns that name their rows."""
    found = Coverage({}, {})
    for name in tables:
        state, key = states.get(name), keys.get(name)
        reason = state.reason_against(key) if state else "it does not exist"
        if reason or state is None or key is None:
            found.compared[name] = str(reason)
        else:
            lists = (state.kind == "p" or state.replica_identity == "d") and version >= _LISTS_COLUMNS
            found.published[name] = tuple(state.primary_key) if lists else ()
    return found


def publish(connection: MoveConnection, name: str, published: Mapping[str, tuple[str, ...]]) -> bool:
    """Let the publication list exactly these tables, and return whether it already did, unchanged by others.

    Raises `PublicationRefused`, `PublicationBlocked`.
    """
    if is_intact(connection, name) and lists(connection, name, published):
        return True
    tables = ", ".join(
        only(table) + (f" ({', '.join(map(quoted, columns))})" if columns else "")
        for table, columns in published.items()
    )
    try:
        with writing(connection, lock_timeout_ms=_LOCK_TIMEOUT_MS):
            connection.execute(f"DROP PUBLICATION IF EXISTS {name}")
            # Otherwise the changes of a partition would have its name, and not that of its table.
            options = "WITH (publish_via_partition_root)"
            connection.execute(f"CREATE PUBLICATION {name}{f' FOR TABLE {tables}' if tables else ''} {options}")
            [state] = connection.row(_state(name))
            connection.execute(f"COMMENT ON PUBLICATION {name} IS {literal(state)}")
    except psycopg.errors.InsufficientPrivilege as error:
        raise PublicationRefused(role=connection.driver.info.user, reason=str(error.diag.message_primary)) from error
    except psycopg.errors.LockNotAvailable as error:
        raise PublicationBlocked(name=name, reason=str(error.diag.message_primary)) from error
    return False


def is_intact(connection: MoveConnection, name: str) -> bool:
    """Return whether the publication exists and nothing has changed it since `publish`.

    Its comment holds the state in which it was created, so also a run that continues an earlier one knows.
    """
    [(state, comment)] = connection.rows(
        f"SELECT ({_state(name)}), (SELECT obj_description(oid, 'pg_publication') FROM pg_publication"
        f" WHERE pubname = '{name}')"
    )
    return state is not None and state == comment


def lists(connection: MoveConnection, name: str, published: Mapping[str, tuple[str, ...]]) -> bool:
    """Return whether the publication lists exactly these tables and columns."""
    return _listed(connection, name) == dict(published)


def unpublish(connection: MoveConnection, name: str) -> None:
    """Drop the publication if it exists."""
    with writing(connection, lock_timeout_ms=_LOCK_TIMEOUT_MS):
        connection.execute(f"DROP PUBLICATION IF EXISTS {name}")


def _listed(connection: MoveConnection, name: str) -> dict[str, tuple[str, ...]]:
    columns = "NULL::text[]"
    if connection.driver.info.server_version >= _LISTS_COLUMNS:
        columns = (
            "(SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a"
            " WHERE a.attrelid = r.prrelid AND a.attnum = ANY(r.prattrs))"
        )
    rows = connection.rows(
        f"SELECT c.relname::text, {columns} FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid"
        f" JOIN pg_class c ON c.oid = r.prrelid WHERE p.pubname = '{name}'"
    )
    return {table: tuple(listed or ()) for table, listed in rows}


def _state(name: str) -> str:
    """Return the query of a text that changes with each change of the publication."""
    return (
        "SELECT concat(p.oid, '/', p.xmin, ':', (SELECT string_agg(concat(r.prrelid, '/', r.oid, '/', r.xmin), ' '"
        f" ORDER BY r.oid) FROM pg_publication_rel r WHERE r.prpubid = p.oid)) FROM pg_publication p"
        f" WHERE p.pubname = '{name}'"
    )


# A rewrite of a table, or TRUNCATE of a partition by itself, gives it another file; a new column with a default, or
# another expression of a generated one, changes rows without a rewrite.
_STATES = """
SELECT c.relname::text, c.oid::bigint, c.relkind::text, c.relpersistence = 'p', c.relreplident::text,
    coalesce((
        SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_index i
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
        WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate AND i.indisvalid
    ), '{}'),
    coalesce(columns.types, '{}'), concat(c.relfilenode, ':', columns.forms, parts.forms),
    coalesce(parts.are_identified, true)
FROM pg_class c LEFT JOIN LATERAL (
    SELECT jsonb_object_agg(a.attname, format_type(a.atttypid, NULL)) AS types, string_agg(
        concat_ws('/', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation,
            CASE WHEN a.attgenerated <> '' THEN d.oid END), ' ' ORDER BY a.attnum) AS forms
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
) columns ON true
LEFT JOIN LATERAL (
    WITH RECURSIVE part AS (
        SELECT inhrelid FROM pg_inherits WHERE inhparent = c.oid
        UNION ALL SELECT i.inhrelid FROM part JOIN pg_inherits i ON i.inhparent = part.inhrelid
    )
    SELECT string_agg(concat(':', r.oid, '/', r.relfilenode), '' ORDER BY r.oid) AS forms, bool_and(
        r.relkind = 'p' OR (r.relkind = 'r' AND r.relpersistence = 'p' AND r.relreplident = 'd')) AS are_identified
    FROM part JOIN pg_class r ON r.oid = part.inhrelid
) parts ON c.relkind = 'p'
WHERE c.relnamespace = to_regnamespace('public') AND c.relname = ANY(%(tables)s)
"""
