"""The columns and values of rows that differ, read in batches: many rows may differ, and each may be long."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from tatame_db.move.sql import array, array_items

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tatame_db.move.digest import Hash, TableDigests
    from tatame_db.move.mapping import ColumnMap

# Rows whose columns are compared at a time, and the bytes of values that are read at a time; one row may have more.
BATCH_ROWS, BATCH_BYTES = 1_000, 8_000_000


@dataclass(frozen=True)
class ValueDifference:
    """A column of a row that differs, with the text of both values."""

    column: str
    source: str | None
    target: str | None


@dataclass(frozen=True)
class RowDifference:
    """A row that is `missing` on the target, `extra` there, or `differing`; only the latter has `values`.

    `choice` is the reason if the row differs by choice: it was excluded, and the source has not changed it since.
    """

    id: str
    kind: Literal["missing", "extra", "differing"]
    values: list[ValueDifference]
    choice: str | None = None


@dataclass(frozen=True)
class DifferingColumn:
    """A column of a row that differs, without its values; `size_bytes` is that of both texts together."""

    column: ColumnMap
    is_null_in_target: bool
    size_bytes: int


class DifferenceReader:
    """Reads what differs in the rows of one table."""

    def __init__(self, digests: TableDigests, hash_function: Hash) -> None:
        self.digests, self.table, self.hash_function = digests, digests.table, hash_function

    def columns(self, keys: list[str]) -> dict[str, list[DifferingColumn]]:
        """Return, by id, the columns that differ. Only hashes and lengths travel."""
        if not keys:
            return {}
        columns = self.table.columns
        source, target = self._by_id(
            keys,
            [self._facts(column.source_text, column.source_value) for column in columns],
            [self._facts(column.target_text, column.target_value) for column in columns],
        )
        return {
            key: [
                DifferingColumn(column, target_length is None, (source_length or 0) + (target_length or 0))
                for column, source_hash, source_length, target_hash, target_length in zip(
                    columns, row[::2], row[1::2], target[key][::2], target[key][1::2], strict=True
                )
                if source_hash != target_hash
            ]
            for key, row in source.items()
        }

    def with_values(self, found: Iterable[RowDifference]) -> Iterator[RowDifference]:
        """Yield the same rows, those that differ with their values; holds some megabytes at a time."""
        rows = iter(found)
        while page := list(islice(rows, BATCH_ROWS)):
            columns = self.columns([row.id for row in page if row.kind == "differing"])
            batch: list[RowDifference] = []
            size_bytes = 0
            for row in page:
                batch.append(row)
                size_bytes += sum(column.size_bytes for column in columns.get(row.id, ()))
                if size_bytes > BATCH_BYTES:
                    yield from self._filled(batch, columns)
                    batch, size_bytes = [], 0
            yield from self._filled(batch, columns)

    def _facts(self, text: str, value: str) -> str:
        return f"{self.hash_function.of_text(text)}, octet_length({value}::text)"

    def _filled(
        self, rows: list[RowDifference], differing: dict[str, list[DifferingColumn]]
    ) -> Iterator[RowDifference]:
        ids: dict[str, list[str]] = {}
        for row in rows:
            for found in differing.get(row.id, ()):
                ids.setdefault(found.column.name, []).append(row.id)
        columns = {name: self.table.column(name) for name in ids}
        source, target = self._by_id(
            sorted({key for keys in ids.values() for key in keys}),
            # A value that does not differ may be long too, so it is not read.
            [
                f"CASE WHEN {self._among_source(ids[name])} THEN {column.source_value}::text END"
                for name, column in columns.items()
            ],
            [
                f"CASE WHEN {self._among_target(ids[name])} THEN {column.target_value}::text END"
                for name, column in columns.items()
            ],
        )
        places = {name: place for place, name in enumerate(columns)}
        for row in rows:
            its_columns = [found.column.name for found in differing.get(row.id, ())]
            yield replace(
                row,
                values=[
                    ValueDifference(name, source[row.id][places[name]], target[row.id][places[name]])
                    for name in its_columns
                ],
            )

    def _by_id(
        self, keys: list[str], source: list[str], target: list[str]
    ) -> tuple[dict[str, tuple[Any, ...]], dict[str, tuple[Any, ...]]]:
        """Select expressions about the rows with these ids; return the results by id."""
        if not keys:
            return {}, {}
        rows = self.digests.connections.rows(
            f"SELECT {', '.join([self.digests.source_key, *source])} FROM {self.table.source_sql}"
            f" WHERE {self._among_source(keys)}",
            f"SELECT {', '.join([self.digests.target_key, *target])} FROM {self.table.target_sql}"
            f" WHERE {self._among_target(keys)}",
        )
        source_rows, target_rows = ({row[0]: row[1:] for row in found} for found in rows)
        return source_rows, target_rows

    def _among_source(self, keys: list[str]) -> str:
        return self.table.among(array_items(keys))

    def _among_target(self, keys: list[str]) -> str:
        key = self.table.key
        return f"{key.target_value} = ANY({array(array_items(keys), key.type)})"
