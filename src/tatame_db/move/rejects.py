"""The rows and values in `tatame_move.rejects`: digested as a copy writes them, and compared with the source again.

`k` is a row of that table. Its digests are of pairs of an id and a row, both as text.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tatame_db.move.choices import KEPT, UNKNOWN_TABLE, Exclusion, rows_of, values_of
from tatame_db.move.conversion import TEXT
from tatame_db.move.record import SCHEMA, Record, identity_of
from tatame_db.move.sql import SOURCE_ROW, array_items

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tatame_db.move.choices import ExclusionQuery
    from tatame_db.move.connection import Connections, MoveConnection
    from tatame_db.move.mapping import Mapping, TableMap

_OF_TABLE = f"FROM {SCHEMA}.rejects AS k WHERE k.source_identity = %(identity)s AND k.table_name = %(table)s"


def source_digest(source: MoveConnection, hash_expression: str, queries: Iterable[ExclusionQuery]) -> tuple[int, int]:
    """Return the number and the digest of excluded rows, as the source has them."""
    digests = [
        source.row(f"SELECT count(*), coalesce(sum({_hash(hash_expression, query.key, query.row)}), 0) {query.rows}")
        for query in queries
    ]
    return sum(count for count, _ in digests), sum(int(digest) for _, digest in digests)


def rejects_digest(
    target: MoveConnection, hash_expression: str, identity: str, table: str, column: str | None = None
) -> tuple[int, int]:
    """Return the number and the digest of the excluded rows that are kept of a table, or of one column of it."""
    [(count, digest)] = target.rows(
        f"SELECT count(*), coalesce(sum({_hash(hash_expression, 'k.id', 'k.row')}), 0) {_OF_TABLE}"
        " AND (%(column)s::text IS NULL OR k.column_name = %(column)s)",
        {"identity": identity, "table": table, "column": column},
    )
    return count, int(digest)


def _hash(hash_expression: str, key: str, row: str) -> str:
    return hash_expression.replace("TEXT", f"ROW({key}, ({row})::text)::text")


@dataclass
class ExcludedRow:
    """Why a row was rejected, or why columns of the source became NULL in it."""

    rejected: str | None = None
    nulled: dict[str, str] = field(default_factory=dict[str, str])


class Rejects:
    """What the target keeps of the connected source."""

    def __init__(self, connections: Connections, hash_expression: str) -> None:
        self.connections, self.hash_expression = connections, hash_expression
        self.identity = identity_of(connections.source)
        self.exclusions = Record(connections.target).exclusions(self.identity)

    def of(self, tables: Sequence[str]) -> list[Exclusion]:
        """Return what is kept of these tables, or of all."""
        return [exclusion for exclusion in self.exclusions if not tables or exclusion.table in tables]

    def changed(self, mapping: Mapping, tables: Sequence[str]) -> list[Exclusion]:
        """Return the unknown columns and tables whose values have changed at the source since they were kept."""
        return [
            exclusion
            for exclusion in self.of(tables)
            if exclusion.action == KEPT and not self._is_up_to_date(mapping, exclusion)
        ]

    def _is_up_to_date(self, mapping: Mapping, exclusion: Exclusion) -> bool:
        table, column = exclusion.table, exclusion.column
        if exclusion.kind == UNKNOWN_TABLE:
            queries = [rows_of(unknown, exclusion) for unknown in mapping.unknown if unknown.name == table]
        else:
            mapped = mapping[table]
            queries = [values_of(mapped, exclusion) for unknown in mapped.unknown if unknown.name == column]
        return source_digest(self.connections.source, self.hash_expression, queries) == rejects_digest(
            self.connections.target, self.hash_expression, self.identity, table, column
        )

    def excluded_rows(self, table: TableMap, keys: list[str]) -> dict[str, ExcludedRow]:
        """Return, by id, those of these rows that are excluded and that the source has not changed since."""
        if not keys or not any(exclusion.table == table.name for exclusion in self.exclusions):
            return {}
        in_source = self._source_hashes(table, keys)
        excluded: dict[str, ExcludedRow] = defaultdict(ExcludedRow)
        for (key, column, reason), hashes in self._kept_hashes(table, keys).items():
            if sorted(hashes) != sorted(in_source.get(key, [])):
                continue
            if column is None:
                excluded[key].rejected = reason
            else:
                excluded[key].nulled[column] = reason
        return excluded

    def _source_hashes(self, table: TableMap, keys: list[str]) -> dict[str, list[int]]:
        """Hash the rows of the source with these ids; an id may occur more than once, and `NULL` is one too."""
        key = table.source_id
        # Compared in the type of the ids, for which there is an index; only a text can be the id "NULL".
        ids = keys if table.key.type == TEXT else [key for key in keys if key != "NULL"]
        rows = self.connections.source.rows(
            f"SELECT coalesce({key}, 'NULL'), {self._row_hash(f'to_jsonb({SOURCE_ROW})')} FROM {table.source_sql}"
            f" WHERE {table.among(array_items(ids))}{f' OR {key} IS NULL' if 'NULL' in keys else ''}"
        )
        hashes: dict[str, list[int]] = defaultdict(list)
        for found, hashed in rows:
            hashes[found].append(hashed)
        return hashes

    def _kept_hashes(self, table: TableMap, keys: list[str]) -> dict[tuple[str, str | None, str], list[int]]:
        """Hash the kept rows with these ids, by id, column that became NULL, and reason."""
        rows = self.connections.target.rows(
            f"SELECT coalesce(k.id, 'NULL'), CASE k.action WHEN 'nulled' THEN k.column_name END, k.reason,"
            f" {self._row_hash('k.row')} {_OF_TABLE} AND k.action <> 'kept' AND coalesce(k.id, 'NULL') = ANY(%(keys)s)",
            {"identity": self.identity, "table": table.name, "keys": keys},
        )
        hashes: dict[tuple[str, str | None, str], list[int]] = defaultdict(list)
        for key, column, reason, hashed in rows:
            hashes[key, column, reason].append(hashed)
        return hashes

    def _row_hash(self, row: str) -> str:
        return self.hash_expression.replace("TEXT", f"({row})::text")
