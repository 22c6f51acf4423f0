"""How many ids the sequences and the keys of a database have used, and about when they end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db.database.errors import NodeUnavailable
from tatame_db.evolve.catalogue import run_verbatim
from tatame_db.evolve.id_columns import COLUMNS, COLUMNS_ALONE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Engine, Row

_FOREVER_DAYS = 36_500
# An import, or a few rows added by hand, are faster than any app for a moment.
_SHORTEST_RATE_SECONDS = 3_600


Unread = Literal["no right", "hidden rows", "no index", "failed"]
"""Why not all was read: a right is missing, row-level security hides rows, the table is large and no index begins with
the column, or the query failed, as by a lock."""


@dataclass(frozen=True)
class IdUse:
    """The ids of a key or of another column that a sequence fills, or of a sequence that fills no such column."""

    name: str
    """`table.column`, or the sequence."""
    first: int
    """The id before the first one, which is 0 for most."""
    largest: int
    """The last id that the sequence, the column and all columns that refer to it can hold."""
    last: int
    """The last id of the sequence; without one, that of a row."""
    of_sequence: int | None
    """The last id of the sequence; `None` without one, or if the role may not know."""
    of_rows: int | None
    """The last id of a row; `None` without rows or without a table."""
    compared: bool
    """Whether the rows were read, which needs a unique index that has the column."""
    next_id: int | None
    """The id that the sequence returns next; `None` if that is not known."""
    taken: int | None
    """The first id of a row that the sequence still returns; `None` without one."""
    unique: bool
    """Whether the id is a key by itself, so that the insert of a taken one fails."""
    unread: Unread | None
    """Why the sequence, or the rows, could not be read; `None` if they were."""
    step: int
    """The difference of two ids of the sequence, below 0 if it counts down; 1 without a sequence."""
    computed: bool
    """Whether the next id cannot be compared with the rows: the default computes with a sequence, does not show which
    one it is, or fills a column that is no number."""
    days_left: float | None
    """The days until the last id at the rate of the newest rows; `None` if that is unknown."""
    place: str | None
    """The table, quoted for SQL."""
    column: str | None
    sequence: str | None
    """The sequence, as a literal of SQL."""
    enlarge: str
    """The statements that change the column and all that refer to it to bigint."""
    owner: str
    sequence_owner: str | None

    @property
    def readable(self) -> bool:
        """Whether all of it was read."""
        return self.unread is None

    @property
    def table(self) -> str | None:
        """The table of the key."""
        return None if self.place is None else self.name.rpartition(".")[0]

    @property
    def share(self) -> float:
        """The used part, from 0 to 1."""
        return max((self.last - self.first) / ((self.largest - self.first) or 1), 0.0)

    @property
    def end(self) -> datetime | None:
        """When the ids end, if that is known and within a century."""
        if self.days_left is None or self.days_left >= _FOREVER_DAYS:
            return None
        return datetime.now(UTC) + timedelta(days=self.days_left)

    @property
    def end_in_words(self) -> str:
        """The month in which the ids end, or why there is none."""
        if self.share >= 1:
            return "none is left"
        if self.end:
            return f"{self.end:%B %Y}"
        return "no rate yet" if self.days_left is None else "over 100 years"

    @property
    def next_is_taken(self) -> bool:
        """Whether the next id of the sequence is that of a row."""
        return self.taken is not None and self.taken == self.next_id

    @property
    def behind(self) -> str | None:
        """What happens because rows have ids that the sequence still returns; `None` if none has."""
        if self.taken is None:
            return None
        row = "insert fails" if self.unique else "row gets the id of another row"
        when = f"the next {row}" if self.next_is_taken else f"when it comes to {self.taken:,}, the {row}"
        return f"the sequence of {self.name} is behind its rows, the last of which has the id {self.of_rows:,}: {when}"


def id_uses(engine: Engine) -> list[IdUse]:
    """Return how many ids each key and each sequence has used, the most used first.

    Waits a tenth of a second for a lock at most; what it cannot read is not `readable`. Changes nothing.

        >>> evolve.id_uses(engine)[0].share
        0.0
    """
    with engine.connect() as connection:
        for setting in ("lock_timeout = '100ms'", "statement_timeout = '1s'"):
            connection.execute(text(f"SET LOCAL {setting}"))

        def rows(query: str) -> Sequence[Row[Any]]:
            try:
                with connection.begin_nested():
                    return run_verbatim(connection, query).all()
            except (DBAPIError, NodeUnavailable):
                return []

        return read_uses(rows)


def read_uses(rows: Callable[[str], Sequence[Row[Any]]]) -> list[IdUse]:
    """Return what `id_uses` returns, by a function that runs a query, or returns no row if it cannot."""
    keys = rows(COLUMNS) or rows(COLUMNS_ALONE)
    return sorted((_use_of(key, rows) for key in keys), key=lambda use: use.share, reverse=True)


def _use_of(key: Any, rows: Callable[[str], Sequence[Row[Any]]]) -> IdUse:
    use = IdUse(
        name=key.name,
        first=0,
        largest=key.largest,
        last=0,
        of_sequence=key.last,
        of_rows=None,
        compared=False,
        next_id=None,
        taken=None,
        unique=key.alone,
        unread=_unread(key),
        step=key.step,
        computed=key.computed,
        days_left=None,
        place=key.place,
        column=key.column,
        sequence=key.sequence,
        enlarge=key.enlarge,
        owner=key.owner,
        sequence_owner=key.sequence_owner,
    )
    if use.readable and key.reads:
        last_row = f"{'max' if key.step > 0 else 'min'}({use.column})::bigint"
        found = rows(f"SELECT {last_row} FROM {_rows_of(use, key)}")
        of_rows = found[0][0] if found else None
        use = replace(use, unread=None if found else "failed", of_rows=of_rows, compared=bool(found))
    if key.readable and key.sequence_place:
        use = _with_sequence(use, key, rows)
    # One row with an odd id, such as an import leaves, uses up no ids: `behind` names it.
    last = use.of_sequence if use.of_sequence is not None else use.of_rows or 0
    # One that counts from -1000 to -1, or from 1000 to 1.
    use = replace(use, last=last, first=int(key.first) if last * key.step < 0 else 0)
    if use.readable and key.timed and use.of_rows and key.step > 0:
        use = replace(use, days_left=_days_left(use, key, rows))
    return use


def _unread(key: Any) -> Unread | None:
    if not key.readable:
        return "no right"
    if key.hidden:
        return "hidden rows"
    return "no index" if key.unindexed else None


def _rows_of(use: IdUse, key: Any) -> str | None:
    """Return the rows for FROM; a numeric may be infinite, broken, or no number, which no sequence returns."""
    if not key.decimal:
        return use.place
    largest = 2**63 - 1
    whole = f"{use.column} BETWEEN {-largest} AND {largest} AND {use.column} = trunc({use.column})"
    return f"(SELECT * FROM {use.place} WHERE {whole}) AS numbers"


def _with_sequence(use: IdUse, key: Any, rows: Callable[[str], Sequence[Row[Any]]]) -> IdUse:
    """Add the last id of the sequence, and the id of a row that it will return."""
    forward = 1 if key.step > 0 else -1
    last = use.of_sequence
    if last is None or (use.of_rows is not None and (use.of_rows - last) * forward > 0):
        # After RESTART, it has no last id. And rows that were added meanwhile have later ids than it had then.
        found = rows(
            f"SELECT CASE WHEN is_called THEN last_value ELSE last_value::numeric - {key.step} END"
            f" FROM {key.sequence_place}"
            if key.selectable
            else f"SELECT pg_sequence_last_value({key.sequence}::regclass)"
        )
        if not found:
            return replace(use, unread=use.unread or "failed")
        last = None if found[0][0] is None else int(found[0][0])
    if last is None:
        return replace(use, of_sequence=None)
    before = key.start_over - key.step if key.cycles and (key.limit - last - key.step) * forward < 0 else last
    use = replace(use, of_sequence=last, next_id=before + key.step)
    if not key.fills or use.of_rows is None or (use.of_rows - before) * forward <= 0:
        return use
    # Servers that share out ids leave those of the others out.
    returned = f" AND ({use.column} - ({before})) % {key.step} = 0" if abs(key.step) > 1 else ""
    where = f"{use.column} {'>' if forward > 0 else '<'} ({before}){returned}"
    found = rows(
        f"SELECT {'min' if forward > 0 else 'max'}({use.column})::bigint FROM {_rows_of(use, key)} WHERE {where}"
    )
    if not found:
        return replace(use, unread="failed")
    taken = found[0][0]
    # An index knows no rows of the children that inherit the table.
    own = not key.inherited or rows(f"SELECT 1 FROM ONLY {use.place} WHERE {use.column} = {taken or 0} LIMIT 1")
    return replace(use, taken=taken, unique=use.unique and bool(own))


def _days_left(use: IdUse, key: Any, rows: Callable[[str], Sequence[Row[Any]]]) -> float | None:
    """Return the days until the last id, at the rate of the newest tenth of the rows, or `None` if it is not known.

    It is known if these rows were created over an hour or more, and the sequence is not further ahead of them: after a
    jump, or upserts of rows that exist, they do not show how fast ids are used. There is an index on the key and none
    on the time, so the rows are found by the key: in two queries, because Citus has no plan for both in one.
    """
    at = "CASE WHEN isfinite(created_at) THEN extract(epoch FROM created_at)::float8 END"
    row = f"SELECT {use.column}::bigint AS key, {at} AS seconds FROM {_rows_of(use, key)}"
    for newest in rows(f"{row} ORDER BY {use.column} DESC LIMIT 1"):
        tenth = max(newest.key // 10, 1)
        if use.last - newest.key > tenth:
            return None
        first = newest.key - tenth
        for older in rows(f"{row} WHERE {use.column} >= {first} ORDER BY {use.column} LIMIT 1"):
            if None in {newest.seconds, older.seconds}:
                return None
            ids, seconds = newest.key - older.key, newest.seconds - older.seconds
            if ids > 0 and seconds >= _SHORTEST_RATE_SECONDS:
                return float((use.largest - use.last) / (ids / seconds) / 86_400)
    return None
