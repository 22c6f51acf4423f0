"""The keys of changed rows from the messages of a slot, as far as one moment of the home sees their transactions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tatame_db.move.follow.pgoutput import Begin, Change, Commit, MessageUnknown, Relation, Truncate, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from tatame_db.move.connection import MoveConnection

# Beyond it, a whole comparison takes less memory and hardly more time.
MOST_KEYS = 100_000


@dataclass(frozen=True)
class Moment:
    """A snapshot of the home: which transactions its queries see. The numbers have 64 bits."""

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def of(cls, home: MoveConnection) -> Moment:
        """Return the moment that the current transaction of a connection sees."""
        [snapshot] = home.row("SELECT pg_current_snapshot()::text")
        xmin, xmax, running = str(snapshot).split(":")
        return cls(int(xmin), int(xmax), frozenset(map(int, running.split(","))) if running else frozenset())

    def sees(self, xid: int) -> bool:
        """Return whether a transaction that has committed is visible; `xid` has 32 bits."""
        # The number with these last 32 bits that is next to `xmax`: no other can be in the WAL.
        number = self.xmax + (xid - self.xmax + 2**31) % 2**32 - 2**31
        return number < self.xmin or (number < self.xmax and number not in self.running)


@dataclass
class Changed:
    """What a slot delivered: keys of visible transactions by table, and the count of those that are not visible yet."""

    keys: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    whole: dict[str, str] = field(default_factory=dict[str, str])
    """Tables whose changed rows are not known, and why."""
    rows: int = 0
    pending_rows: int = 0
    pending_since: datetime | None = None
    """When the oldest transaction that is not visible yet committed, by the clock of the home."""
    end: int | None = None
    """The position after the last transaction before the first that is not visible; all before it are in `keys`."""
    is_complete: bool = True
    """Whether every transaction was visible."""


class Collector:
    """Collects keys from messages; `keys` are the columns that name the rows of the published tables."""

    def __init__(self, keys: Mapping[str, str], moment: Moment) -> None:
        self.changed = Changed()
        self._keys, self._moment = keys, moment
        # Of each table: its name, and the position of the key among the published columns.
        self._relations: dict[int, tuple[str, int | None]] = {}
        self._columns: dict[str, tuple[tuple[str, int], ...]] = {}
        self._visible = False

    def collect(self, messages: Iterable[bytes]) -> Changed:
        """Read all messages. Raises `MessageUnknown`."""
        for data in messages:
            match parse(data):
                case Change() as change:
                    self._change(change)
                case Begin() as begin:
                    self._begin(begin)
                case Commit(end):
                    # What comes after one that is not visible is applied, and delivered again.
                    if self.changed.is_complete:
                        self.changed.end = end
                case Relation() as relation:
                    self._relation(relation)
                case Truncate(relations):
                    for oid in relations:
                        self._compare_whole(self._table(oid)[0], "it was emptied by TRUNCATE")
                case None:
                    pass
        return self.changed

    def _begin(self, begin: Begin) -> None:
        self._visible = self._moment.sees(begin.xid)
        if not self._visible:
            self.changed.is_complete = False
            oldest = self.changed.pending_since
            self.changed.pending_since = min(oldest, begin.committed_at) if oldest else begin.committed_at

    def _relation(self, relation: Relation) -> None:
        name = relation.name if relation.schema == "public" and relation.name in self._keys else ""
        columns = [column for column, _ in relation.columns]
        key = self._keys.get(name)
        self._relations[relation.oid] = (name, columns.index(key) if key in columns else None)
        if name and self._columns.setdefault(name, relation.columns) != relation.columns:
            self._compare_whole(name, "its columns have changed")

    def _table(self, oid: int) -> tuple[str, int | None]:
        try:
            return self._relations[oid]
        except KeyError as error:
            raise MessageUnknown(
                reason=f"it is about the table with the number {oid}, which was not described"
            ) from error

    def _change(self, change: Change) -> None:
        name, position = self._table(change.relation)
        if not name:
            return
        if not self._visible:
            self.changed.pending_rows += 1
            return
        self.changed.rows += 1
        if name in self.changed.whole:
            return
        keys = self.changed.keys.setdefault(name, set())
        for row in change.rows:
            value = row[position] if position is not None and position < len(row) else None
            if value is None:
                # Such a row cannot be found again.
                self._compare_whole(name, "a row has no key")
                return
            keys.add(value.decode())
        if len(keys) > MOST_KEYS:
            self._compare_whole(name, f"more than {MOST_KEYS:,} rows have changed")

    def _compare_whole(self, name: str, reason: str) -> None:
        if name and self._visible:
            self.changed.whole.setdefault(name, reason)
            self.changed.keys.pop(name, None)
