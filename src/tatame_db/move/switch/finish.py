"""The end of a move: what it created beside the tables is removed from both databases, one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.database.dialect import literal, quoted
from tatame_db.errors import TatameError, fact
from tatame_db.evolve.lock import ignore
from tatame_db.move.back.stored import NOT_RETURNED
from tatame_db.move.follow.slot import slot_name
from tatame_db.move.progress import PROGRESS_TABLES
from tatame_db.move.record import SCHEMA, TABLES, Record, identity_of
from tatame_db.move.switch.homes import Home, SwitchUnfinished, homes
from tatame_db.move.switch.removal import Removal, drop_schema_if_empty, removal, remove
from tatame_db.move.switch.token import token_hash, token_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tatame_db.move.connection import Connections, MoveConnection


@fact
class FinishIncomplete(TatameError):
    """Objects of the move could not be removed; the others are."""

    left: list[str]
    """Each object with the reason."""
    what = "these objects of the move could not be removed: {left}"
    means = "Everything else that the move created was removed; no row of a table was changed."
    fix = "do what each reason suggests, then run the command again, which removes what is left"


@fact
class KeysStillParked(TatameError):
    """Foreign keys or indexes are dropped, and only the record knows their definitions."""

    names: list[str]
    what = "the record of the move has the only definitions of keys and indexes that are dropped: {names}"
    fix = "run `tatame-db move copy`, which restores them, or run `tatame-db move status`; then finish"


@dataclass(frozen=True)
class Finished:
    """What the end of a move removed, in this order, and what it left."""

    removed: list[Removal]
    left: list[Removal]
    """Could not be removed, each with the reason."""
    stayed_at_source: list[str]
    """Tables whose home is the source: nothing keeps the target equal to it any more."""
    kept_rejects: int
    """Excluded rows that exist only in the record, which is kept for them."""
    kept_not_returned: int
    """Rows and values that a way back did not write to the source, for which the record is kept too."""

    @property
    def error(self) -> FinishIncomplete | None:
        """The error that names what is left; `None` if nothing is."""
        return FinishIncomplete(left=[str(found) for found in self.left]) if self.left else None


def finish(connections: Connections, on_removed: Callable[[Removal], None] = ignore) -> Finished:
    """Remove what the move created in both databases: slots, publications, triggers, functions, and the record.

    Rows of tables stay as they are, and so does the record if it has rows, which may exist nowhere else. What
    cannot be removed is named, and the rest is removed nevertheless; a second call removes what is left, and finds
    nothing if nothing is.

    From the end on, both databases take writes. Commits after each object. Raises `SwitchUnfinished`,
    `KeysStillParked`, and what `homes` raises.
    """
    source, target = connections.source, connections.target
    source.driver.rollback()
    source.pin_settings(for_transaction=True)
    found = homes(connections)
    if unfinished := [table for table, home in found.items() if home is Home.NEITHER]:
        raise SwitchUnfinished(tables=unfinished)
    record = Record(target)
    if names := record.parked():
        raise KeysStillParked(names=names)
    token, identity = token_of(target), identity_of(target)
    source.driver.rollback()
    target.driver.rollback()
    rejects = _count(target, f"{SCHEMA}.rejects")
    left = _count(target, NOT_RETURNED)
    finished = Finished([], [], [table for table, home in found.items() if home is Home.SOURCE], rejects, left)

    def report(steps: Iterator[Removal]) -> None:
        for step in steps:
            (finished.left if step.reason else finished.removed).append(step)
            if step.reason is None:
                on_removed(step)

    for connection in (source, target):
        report(_slot_removals(connection, slot_name(identity, connection.name)))
    report(remove(target))
    if token:
        # A table whose fence is open on the target and gone on the source would have two homes.
        report(
            remove(source, token_hash(token), kept=[step.name for step in finished.left if step.database == "target"])
        )
    report(drop_schema_if_empty(source))
    # By the token, the next call finds what is left.
    if not finished.left:
        report(_record_removals(target, kept=rejects + left > 0))
    return finished


def _slot_removals(connection: MoveConnection, name: str) -> Iterator[Removal]:
    # A slot belongs to the server, and another database of it may have one with this name.
    queries = {
        "slot": (
            f"FROM pg_replication_slots WHERE slot_name = {literal(name)} AND database = current_database()",
            f"SELECT pg_drop_replication_slot({literal(name)})",
        ),
        "publication": (
            f"FROM pg_publication WHERE pubname = {literal(name)}",
            f"DROP PUBLICATION {quoted(name)}",
        ),
    }
    for kind, (exists, drop) in queries.items():
        found = connection.rows(f"SELECT {exists}")
        connection.driver.rollback()
        if found:
            yield from removal(connection, kind, name, [drop])


def _record_removals(target: MoveConnection, *, kept: bool) -> Iterator[Removal]:
    names = ["token", *PROGRESS_TABLES, *([] if kept else TABLES)]
    found = target.rows(_EXISTING, {"schema": SCHEMA, "names": names})
    target.driver.rollback()
    if found:
        tables = ", ".join(f"{SCHEMA}.{name}" for (name,) in found)
        yield from removal(target, "record", tables, [f"DROP TABLE {tables}"])
    yield from drop_schema_if_empty(target)


def _count(target: MoveConnection, table: str) -> int:
    # Neither may exist: an older version created fewer tables.
    exists = target.rows(f"SELECT to_regclass({literal(table)})") != [(None,)]
    rows = target.rows(f"SELECT count(*) FROM {table}") if exists else [(0,)]
    target.driver.rollback()
    return int(rows[0][0])


_EXISTING = """
SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = ANY(%(names)s) AND c.relkind = 'r' ORDER BY 1
"""
