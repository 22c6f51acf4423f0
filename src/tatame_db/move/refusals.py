"""What a copy refuses before it writes: rows that it would overwrite or delete unasked. A plan says so beforehand."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.errors import TatameError, counted, fact
from tatame_db.evolve import DirectAddressNeeded
from tatame_db.move.changes import MOST_COUNTED, count_overwritten
from tatame_db.move.choices import REJECTED, UNKNOWN_TABLE
from tatame_db.move.digest import TableDigests, common_hash
from tatame_db.move.keys import refuse_disabled_keys
from tatame_db.move.reach import refuse_references
from tatame_db.move.record import Record, identity_of
from tatame_db.move.switch.homes import homes, refuse_moved
from tatame_db.move.target import own_keys
from tatame_db.roles.missing import refuse_missing
from tatame_db.schema import phases

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from tatame_db.move.choices import Choices, Resolution
    from tatame_db.move.connection import Connections, MoveConnection
    from tatame_db.move.fingerprint import Fingerprint
    from tatame_db.move.mapping import TableMap


@dataclass(frozen=True)
class OtherRows:
    """The rows of a table that a copy would delete or overwrite; their number is `None` if it is not known."""

    rows: int | None
    of_rows: int

    def __str__(self) -> str:
        if self.rows == 0:
            return "fewer than the source"
        if self.rows is None:
            return f"some of {counted(self.of_rows, 'row')}"
        more = "more than " * (self.rows > MOST_COUNTED)
        return f"{more}{min(self.rows, MOST_COUNTED):,} of {counted(self.of_rows, 'row')}"


@fact
class OtherRowsInTarget(TatameError):
    """Tables of the target hold rows that this move did not write, or that were changed since."""

    rows: dict[str, OtherRows]
    what = "these tables hold rows that did not come from this source, or were changed since: {tables}"
    means = "Nothing was copied."
    fix = "to overwrite them with the rows of the source, run `tatame-db move copy --replace`"

    @property
    def tables(self) -> list[str]:
        """The tables, each with the number of the rows that differ from the source."""
        return [f"{table} ({rows})" for table, rows in self.rows.items()]


@fact
class TablesEmptied(TatameError):
    """Tables of the source are empty, and had rows when they were last copied."""

    rows: dict[str, int]
    what = "these tables of the source are empty now, and had rows at the last copy: {tables}"
    means = "Nothing was copied: equal tables would be empty on the target too."
    fix = "if the rows were deleted on purpose, run the command with `--emptied`"

    @property
    def tables(self) -> list[str]:
        """The tables, each with the number of rows that were copied or kept."""
        return [f"{table} with {counted(rows, 'row')}" for table, rows in self.rows.items()]


def refuse_emptied(
    record: Record, resolution: Resolution, identity: str, names: Collection[str], choices: Choices
) -> None:
    """Raise `TablesEmptied` if one of these tables had rows at the last copy, and has none in the source now."""
    had: Counter[str] = Counter()
    for name, last in record.tables().items():
        if last.source_identity == identity and name in names:
            had[name] += last.rows
    keeps_unknown = choices.unknown == "keep"
    for found in record.exclusions(identity):
        if (found.action == REJECTED and found.table in names) or (found.kind == UNKNOWN_TABLE and keeps_unknown):
            had[found.table] += found.rows
    filled = {name for name, rows in resolution.rows.items() if rows}
    filled |= {query.exclusion.table for query in resolution.queries}
    if emptied := {name: rows for name, rows in sorted(had.items()) if rows and name not in filled}:
        raise TablesEmptied(rows=emptied)


def refuse_other_rows(record: Record, identity: str, differing: Iterable[tuple[TableDigests, Fingerprint]]) -> None:
    """Raise `OtherRowsInTarget` if a table of the target differs and was not written by a copy of this source alone."""
    known = record.tables()
    others: dict[str, OtherRows] = {}
    for digests, found in differing:
        name = digests.table.name
        last = known.get(name)
        from_source = last and (last.source_identity, last.fingerprint) == (identity, found)
        if found.rows and not from_source:
            others[name] = OtherRows(count_overwritten(digests, found.rows), found.rows)
    if others:
        raise OtherRowsInTarget(rows=others)


def refusals_of_copy(connections: Connections, resolution: Resolution, choices: Choices) -> list[TatameError]:
    """Return why a copy of all tables with these choices would refuse the target, or this state of the source."""
    try:
        refuse_moved(homes(connections), phases())
    except TatameError as error:
        # Its rows of the target are to differ from those of the source.
        return [error]
    target, record = connections.target, Record(connections.target)
    identity = identity_of(connections.source)
    tables = resolution.mapping.tables
    differing = _filled_and_differing(connections, tables)
    held = [digests.table for digests, _ in differing]
    checks: list[Callable[[], None]] = [
        lambda: _refuse_pooler(target),
        lambda: refuse_missing(target.rows, "move copy"),
        lambda: refuse_disabled_keys(target, record.parked()),
        lambda: refuse_emptied(record, resolution, identity, [table.name for table in tables], choices),
        lambda: refuse_other_rows(record, identity, differing),
        lambda: refuse_references(connections, held, own_keys(target)),
    ]
    refusals: list[TatameError] = []
    for check in checks:
        try:
            check()
        except TatameError as error:
            refusals.append(error)
    return refusals


def _filled_and_differing(connections: Connections, tables: list[TableMap]) -> list[tuple[TableDigests, Fingerprint]]:
    hash_function = common_hash(connections)
    differing: list[tuple[TableDigests, Fingerprint]] = []
    for table in tables:
        [has_rows] = connections.target.row(f"SELECT EXISTS (SELECT 1 FROM {table.target_name})")
        if has_rows:
            digests = TableDigests(connections, table, hash_function)
            source, target, found = digests.whole_with_fingerprint()
            if source != target:
                differing.append((digests, found))
    return differing


def _refuse_pooler(target: MoveConnection) -> None:
    [session] = target.row("SELECT pg_backend_pid()")
    if session != target.driver.info.backend_pid:
        raise DirectAddressNeeded(address=target.address)
