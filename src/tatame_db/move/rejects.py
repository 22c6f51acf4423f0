"""What is kept of rows and values that were set aside: proven as it is written, and looked at again by each proof."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from tatame_db.move import record
from tatame_db.move.choices import KEPT, UNKNOWN_TABLE, Exclusion, rows_of, values_of
from tatame_db.move.conversion import TEXT
from tatame_db.move.mapping import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tatame_db.move.choices import ExclusionQuery
    from tatame_db.move.connection import Connections, MoveConnection
    from tatame_db.move.mapping import Mapping, TableMap

_HERE = f"FROM {record.SCHEMA}.rejects AS k WHERE k.source_identity = %(identity)s AND k.table_name = %(table)s"


def digest_of_source(source: MoveConnection, hashed: str, queries: Iterable[ExclusionQuery]) -> tuple[int, int]:
    """Digest the rows that are to be kept, as they are in the source."""
    found = [
        source.row(f"SELECT count(*), coalesce(sum({_hash(hashed, query.key, query.row)}), 0) {query.rows}")
        for query in queries
    ]
    return sum(count for count, _ in found), sum(int(digest) for _, digest in found)


def digest_of_target(
    target: MoveConnection, hashed: str, identity: str, table: str, column: str | None = None
) -> tuple[int, int]:
    """Digest the rows that are kept of a table, or of one column of it."""
    [(count, digest)] = target.rows(
        f"SELECT count(*), coalesce(sum({_hash(hashed, 'k.id', 'k.row')}), 0) {_HERE}"
        " AND (%(column)s::text IS NULL OR k.column_name = %(column)s)",
        {"identity": identity, "table": table, "column": column},
    )
    return count, int(digest)


def _hash(hashed: str, key: str, row: str) -> str:
    return hashed.replace("TEXT", f"ROW({key}, ({row})::text)::text")


class Kept:
    """What is kept of this source on the target."""

    def __init__(self, connections: Connections, hashed: str) -> None:
        self.connections, self.hashed = connections, hashed
        self.identity = record.identity_of(connections.source)
        self.exclusion = record.recorded_exclusions(connections.target, self.identity)

    def of(self, tables: Sequence[str]) -> list[Exclusion]:
        """Sum up what is kept of these tables, or of all."""
        return [what for what in self.exclusion if not tables or what.table in tables]

    def changed(self, mapping: Mapping, tables: Sequence[str]) -> list[Exclusion]:
        """Return the unknown columns and tables whose values are not any more what is kept of them."""
        return [what for what in self.of(tables) if what.action == KEPT and not self._is_as_in_source(mapping, what)]

    def _is_as_in_source(self, mapping: Mapping, what: Exclusion) -> bool:
        queries: list[ExclusionQuery] = []
        if what.kind == UNKNOWN_TABLE:
            queries = [rows_of(table, what) for table in mapping.unknown if table.name == what.table]
        else:
            table = mapping[what.table]
            queries = [values_of(table, what) for unknown in table.unknown if unknown.name == what.column]
        there = digest_of_source(self.connections.source, self.hashed, queries)
        return there == digest_of_target(self.connections.target, self.hashed, self.identity, what.table, what.column)

    def reasons(self, table: TableMap, keys: list[str]) -> dict[str, dict[str | None, str]]:
        """Say which of these rows are set aside by choice and kept as the source has them today, and why.

        The reason is given for each column of the source that became NULL, or for none where the row was rejected.
        """
        if not keys or not any(what.table == table.name for what in self.exclusion):
            return {}
        key = table.key.source_value
        hashed = self.hashed.replace("TEXT", "({})::text")
        # By the ids' own type, which an index serves; a row without an id is told apart from one that is named so.
        named = keys if table.key.type == TEXT else [name for name in keys if name != "NULL"]
        rows = self.connections.source.rows(
            f"SELECT coalesce({key}::text, 'NULL'), {hashed.format('to_jsonb(s)')} FROM {table.source_sql}"
            f" WHERE {table.among(listed(named))}{f' OR {key} IS NULL' if 'NULL' in keys else ''}"
        )
        there: dict[str, list[int]] = defaultdict(list)
        for name, value in rows:
            there[name].append(value)
        here: dict[str, dict[tuple[str | None, str], list[int]]] = defaultdict(lambda: defaultdict(list))
        kept = self.connections.target.rows(
            f"SELECT coalesce(k.id, 'NULL'), CASE k.action WHEN 'nulled' THEN k.column_name END, k.reason,"
            f" {hashed.format('k.row')} {_HERE} AND k.action <> 'kept' AND coalesce(k.id, 'NULL') = ANY(%(keys)s)",
            {"identity": self.identity, "table": table.name, "keys": keys},
        )
        for name, column, reason, value in kept:
            here[name][column, reason].append(value)
        return {
            name: {
                column: reason for (column, reason), values in found.items() if sorted(values) == sorted(there[name])
            }
            for name, found in here.items()
        }
