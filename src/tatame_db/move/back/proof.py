"""The proof that both databases hold the same rows, for a switch of homes in either direction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.move.digest import TableDigests
from tatame_db.move.fingerprint import fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tatame_db.move.connection import Connections
    from tatame_db.move.digest import Digest, Hash
    from tatame_db.move.fingerprint import Fingerprint
    from tatame_db.move.mapping import TableMap


def prove(
    connections: Connections, tables: Iterable[TableMap], hash_function: Hash
) -> dict[str, tuple[Digest, Digest, Fingerprint]]:
    """Return the digests of each table in the source and in the target, and the fingerprint of the target's rows.

    Each table is read once, in both databases at the same time. What the tables exclude is part of neither digest:
    `without_excluded` leaves out what the record names, and `LeftRows` what stays on the target by choice. The
    fingerprint is of all rows of the target, for which a table that hides some is read again.
    """
    found: dict[str, tuple[Digest, Digest, Fingerprint]] = {}
    for table in tables:
        digests = TableDigests(connections, table, hash_function)
        if table.hides_rows:
            found[table.name] = (*digests.whole(), fingerprint(connections.target, table.name))
        else:
            found[table.name] = digests.whole_with_fingerprint()
    return found
