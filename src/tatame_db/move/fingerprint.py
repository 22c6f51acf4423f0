"""A digest of one table of the target alone, which shows a later write to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.database.dialect import quoted
from tatame_db.move.catalogue import partitioned_tables, target_column_types, target_name
from tatame_db.move.conversion import HASHED_TEXT, about, hashed
from tatame_db.schema import Base

if TYPE_CHECKING:
    from tatame_db.move.connection import MoveConnection


@dataclass(frozen=True)
class Fingerprint:
    """The number of rows of a table and the sum of a hash of each; written as `rows:digest`."""

    rows: int
    digest: int

    def __str__(self) -> str:
        return f"{self.rows}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        """Read one that was written with `str`."""
        rows, digest = text.split(":")
        return cls(int(rows), int(digest))


def fingerprint(target: MoveConnection, table: str) -> Fingerprint:
    """Compute the fingerprint of a table as it is now; reads all its rows."""
    name = target_name(table, partitioned_tables(target))
    rows, digest = target.row(f"SELECT count(*), {fingerprint_digest(target, table)} FROM {name} AS t")
    return Fingerprint(rows, int(digest))


def fingerprint_digest(target: MoveConnection, table: str) -> str:
    """Return the SQL of the digest for a query of the table, as `t`, which may compute more in the same pass.

    Only the columns of the models count: a copy writes no other, so another may be filled at any time.
    """
    types = target_column_types(target, table)
    names = [column.name for column in Base.metadata.tables[table].columns if column.name in types]
    values = [about(hashed(types[name]) or HASHED_TEXT, f"t.{quoted(name)}") for name in names]
    return f"coalesce(sum({hash_of_values(values)}), 0)"


def hash_of_values(values: list[str]) -> str:
    """Return the SQL of a 64-bit hash of some values.

    The hash of a record is a sum of the hashes of its values, so the sum over all records would stay the same if two
    of them exchanged a value: hence the second hash, of bytes, because that of a number has only 32 bits.
    """
    return f"hash_record_extended(ROW(int8send(hash_record_extended(ROW({', '.join(values)}), 0))), 0)"
