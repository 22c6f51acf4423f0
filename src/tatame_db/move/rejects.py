"""The rows and values in `tatame_move.rejects`: digested as a copy writes them, and compared with the source again.

`k` is a row of that table. Its digests are of an id and a row, as text and as JSON.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tatame_db.database.dialect import literal, public
from tatame_db.move.choices import KEPT, UNKNOWN_TABLE, Exclusion, rows_of, values_of
from tatame_db.move.conversion import TEXT
from tatame_db.move.record import REJECT_ID_HASH, SCHEMA, Record, identity_of
from tatame_db.move.row_json import ROW_AS_TEXT, row_as_jsonb
from tatame_db.move.sql import array, array_items

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tatame_db.move.choices import ExclusionQuery
    from tatame_db.move.connection import Connections, MoveConnection
    from tatame_db.move.digest import Hash
    from tatame_db.move.mapping import Mapping, TableMap

_OF_TABLE = f"FROM {SCHEMA}.rejects AS k WHERE k.source_identity = %(identity)s AND k.table_name = %(table)s"


# The text of a row, where the record is of an older version that had none.
_NO_TEXT = "NULL::text"


def source_digest(
    source: MoveConnection, hash_function: Hash, queries: Iterable[ExclusionQuery], *, texts: bool = True
) -> tuple[int, int]:
    """Return the number and the digest of excluded rows, as the source has them; without `texts`, of their JSON."""
    digests: list[tuple[int, int]] = []
    for query in queries:
        hashed = _hash(hash_function, query.text if texts else _NO_TEXT, query.row, query.key)
        count, digest = source.row(f"SELECT count(*), coalesce(sum({hashed}), 0) {query.rows}")
        digests.append((count, digest))
    return sum(count for count, _ in digests), sum(int(digest) for _, digest in digests)


def rejects_digest(
    target: MoveConnection,
    hash_function: Hash,
    identity: str,
    table: str,
    column: str | None = None,
    *,
    texts: bool = True,
) -> tuple[int, int]:
    """Return the number and the digest of the excluded rows that are kept of a table, or of one column of it."""
    hashed = _hash(hash_function, "k.row_text" if texts else _NO_TEXT, "k.row", "k.id")
    [(count, digest)] = target.rows(
        f"SELECT count(*), coalesce(sum({hashed}), 0) {_OF_TABLE}"
        " AND (%(column)s::text IS NULL OR k.column_name = %(column)s)",
        {"identity": identity, "table": table, "column": column},
    )
    return count, int(digest)


def declared_types(database: MoveConnection, table: str) -> dict[str, str]:
    """Return the type of each column of a table, in their order, with its length, as a CREATE TABLE has it."""
    rows = database.rows(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        {"table": public(table)},
    )
    return dict(rows)


def _hash(hash_function: Hash, text: str, row: str, *key: str) -> str:
    # Each by itself, because both in one text might be longer than a text can be.
    hashes = (hash_function.of_text(value) for value in (text, f"({row})::text"))
    return hash_function.of_text(f"ROW({', '.join((*key, *hashes))})::text")


@dataclass
class ExcludedRow:
    """Why a row was rejected, or why columns of the source became NULL in it."""

    rejected: str | None = None
    nulled: dict[str, str] = field(default_factory=dict[str, str])


class Rejects:
    """What the target keeps of the connected source."""

    def __init__(self, connections: Connections, hash_function: Hash) -> None:
        self.connections, self.hash_function = connections, hash_function
        self.identity = identity_of(connections.source)
        record = Record(connections.target)
        self.exclusions = record.exclusions(self.identity)
        # An older version kept JSON only, which is compared then.
        self.texts = record.keeps_texts()

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
        hashed, texts = self.hash_function, self.texts
        return source_digest(self.connections.source, hashed, queries, texts=texts) == rejects_digest(
            self.connections.target, hashed, self.identity, table, column, texts=texts
        )

    def excluded_rows(self, table: TableMap, keys: list[str]) -> dict[str, ExcludedRow]:
        """Return, by id, those of these rows that are excluded and that the source has not changed since."""
        if not keys or not any(exclusion.table == table.name for exclusion in self.exclusions):
            return {}
        kept = self._kept_hashes(table, keys)
        # Only of these, because a row that is not kept may be too large for a text.
        in_source = self._source_hashes(table, list({key for key, _, _ in kept})) if kept else {}
        excluded: dict[str, ExcludedRow] = defaultdict(ExcludedRow)
        for (key, column, reason), hashes in kept.items():
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
        row = row_as_jsonb(table.source) if table.source else "NULL"
        without_id = f" OR {key} IS NULL" if "NULL" in keys else ""
        hashed = _hash(self.hash_function, ROW_AS_TEXT if self.texts else _NO_TEXT, row)
        rows = self.connections.source.rows(
            f"SELECT coalesce({key}, 'NULL'), {hashed} FROM {table.source_sql}"
            f" WHERE {table.among(array_items(ids))}{without_id}"
        )
        hashes: dict[str, list[int]] = defaultdict(list)
        for found, hashed in rows:
            hashes[found].append(hashed)
        return hashes

    def _kept_hashes(self, table: TableMap, keys: list[str]) -> dict[tuple[str, str | None, str], list[int]]:
        """Hash the kept rows with these ids, by id, column that became NULL, and reason."""
        text = "k.row_text" if self.texts else _NO_TEXT
        # Each id is looked up in the index: OFFSET keeps the planner, which may know nothing about the rows yet, from
        # any other join. Without parameters, so that no plan is made for an unknown number of ids.
        rows = self.connections.target.rows(
            "SELECT found.* FROM unnest(" + array(array_items(keys), TEXT) + ") AS wanted CROSS JOIN LATERAL ("
            "SELECT coalesce(k.id, 'NULL'), CASE k.action WHEN 'nulled' THEN k.column_name END, k.reason,"
            f" {_hash(self.hash_function, text, 'k.row')} FROM {SCHEMA}.rejects AS k"
            f" WHERE k.source_identity = {literal(self.identity)} AND k.table_name = {literal(table.name)}"
            f" AND {REJECT_ID_HASH.format('k.id')} = {REJECT_ID_HASH.format('wanted')}"
            " AND coalesce(k.id, 'NULL') = wanted AND k.action <> 'kept' OFFSET 0) AS found"
        )
        hashes: dict[tuple[str, str | None, str], list[int]] = defaultdict(list)
        for key, column, reason, hashed in rows:
            hashes[key, column, reason].append(hashed)
        return hashes
