"""Statements that destroy more than a slip of the finger should: found by their words and by their effects."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import errors

from tatame_db.studio.sql.results import Notices, Outcome
from tatame_db.studio.sql.uncounted import NOT_A_STATEMENT, Written, describe, rows_in_words, written_now

if TYPE_CHECKING:
    import psycopg

    from tatame_db.studio.sql.attempt import Attempt
    from tatame_db.studio.sql.split import Statement
    from tatame_db.studio.sql.wire import Wire

MOST_UNASKED = 20
"""Outside a block, a statement that changes or deletes more rows than this asks, whatever its words are."""
_MAY_WRITE = {"WITH", "DELETE", "UPDATE", "INSERT", "MERGE", "EXPLAIN", "COPY"}
_MAY_CALL = {"SELECT", "VALUES", "TABLE", "(", "EXECUTE", "DO", "CALL", "CREATE", "ALTER", "REFRESH"}
"""The first words of statements that may run a function, or a statement inside of them."""
_KEEPS_ROWS = {"CONSTRAINT", "NOT", "DEFAULT", "EXPRESSION", "IDENTITY"}
_SELECTS_NOTHING = {"WHERE", "TRUE", "FALSE", "NULL", "NOT", "AND", "OR", "IS", "(", ")"}
"""The words of a condition on no column, such as `WHERE true` and `WHERE 1 = 1`, which all rows meet."""
_COUNT_TIMEOUT = "5s"


def is_dangerous(statement: Statement) -> bool:
    """Return whether to ask before the statement takes effect."""
    words = statement.words
    match words[:1]:
        case ("DROP",) | ("TRUNCATE",) | ("VACUUM",):
            return True
        case ("ALTER",):
            # `ALTER TABLE … DROP COLUMN`, in which COLUMN may be left out.
            return _converts(words) or any(
                word == "DROP" and words[at + 1 : at + 2] not in {(kept,) for kept in _KEEPS_ROWS}
                for at, word in enumerate(words)
            )
        case (first,):
            return first in _MAY_WRITE and _lacks_where(words)
        case _:
            return False


def _converts(words: tuple[str, ...]) -> bool:
    """Return whether a column gets other values, by `ALTER COLUMN … TYPE … USING …`."""
    return words[:1] == ("ALTER",) and "TYPE" in words and "USING" in words


def may_change(statement: Statement) -> bool:
    """Return whether the effects of the statement have to be looked at, because its words do not show them."""
    return bool(set(statement.words[:1]) & (_MAY_WRITE | _MAY_CALL))


def _lacks_where(words: tuple[str, ...]) -> bool:
    """Return whether a DELETE or an UPDATE has no condition between the parentheses in which it stands."""
    for at, word in enumerate(words):
        deletes = word == "DELETE" and words[at + 1 : at + 2] == ("FROM",)
        updates = word == "UPDATE" and not (at and words[at - 1] in NOT_A_STATEMENT)
        if (deletes or updates) and not _has_where(words[at:]):
            return True
    return False


def _has_where(words: tuple[str, ...]) -> bool:
    """Return whether a WHERE follows that names something."""
    depth, is_condition = 0, False
    for word in words:
        depth += (word == "(") - (word == ")")
        if depth < 0 or (word == "RETURNING" and depth == 0):
            return False
        is_condition |= word == "WHERE" and depth == 0
        if is_condition and word not in _SELECTS_NOTHING:
            return True
    return False


# --- Effects ----------------------------------------------------------------------------------------------------------

# By a name with its schema where the session does not find it without. Counted by the server for the transaction, so
# the rows that foreign keys and triggers delete are included. Temporary tables hold no rows of others.
_TABLES = """
SELECT c.oid, c.oid::pg_catalog.regclass::pg_catalog.text,
    CASE c.relkind WHEN 'm' THEN 0 ELSE c.relfilenode END,
    pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid), pg_catalog.pg_stat_get_xact_tuples_updated(c.oid),
    pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid), coalesce(a.dropped, 0), c.reltuples::bigint
FROM pg_catalog.pg_class AS c LEFT JOIN (
    SELECT attrelid, count(*) AS dropped FROM pg_catalog.pg_attribute WHERE attisdropped GROUP BY attrelid
) AS a ON a.attrelid = c.oid
WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't'
    AND c.relnamespace <> 'pg_catalog'::regnamespace
"""


@dataclass(frozen=True)
class _Table:
    name: str
    file: int
    inserted: int
    updated: int
    deleted: int
    dropped_columns: int
    estimated_rows: int


Tables = dict[int, _Table]


@dataclass(frozen=True)
class State:
    """The state before a statement, to compare it afterwards."""

    tables: Tables
    written: Written
    """The tables with uncounted rows that the block of the user has written."""


async def state_now(driver: psycopg.AsyncConnection, *, is_in_block: bool) -> State:
    """Read the state of all tables."""
    return State(await _tables_now(driver), await written_now(driver) if is_in_block else {})


async def _tables_now(driver: psycopg.AsyncConnection) -> Tables:
    return {row[0]: _Table(*row[1:]) for row in await (await driver.execute(_TABLES)).fetchall()}


@dataclass(frozen=True)
class Effects:
    """What a statement did to tables, by the name of each table: rows, or the tables whose rows are lost."""

    updated: dict[str, int]
    deleted: dict[str, int]
    emptied: list[int]
    dropped: list[int]
    narrowed: list[int]
    """Tables that lost a column."""

    @property
    def lost(self) -> list[int]:
        """The tables of which something is lost that only a look at them before the statement can count."""
        return [*self.dropped, *self.emptied, *self.narrowed]

    @property
    def are_many(self) -> bool:
        """Whether to ask about a statement whose words do not show them."""
        return bool(self.lost) or sum([*self.updated.values(), *self.deleted.values()]) > MOST_UNASKED

    def describe(self, before: Tables, rows: dict[int, str]) -> list[str]:
        """Write a line for each effect; `rows` are those of the tables that are `lost`."""
        lines = [f"deletes {rows_in_words(count)} of {name}" for name, count in self.deleted.items()]
        lines += [f"updates {rows_in_words(count)} of {name}" for name, count in self.updated.items()]
        lines += [f"drops {before[oid].name}, which has {rows[oid]}" for oid in self.dropped]
        lines += [f"empties {before[oid].name}, which has {rows[oid]}" for oid in self.emptied]
        return lines + [f"drops a column of {before[oid].name}, which has {rows[oid]}" for oid in self.narrowed]


def _estimate(table: _Table) -> str:
    return f"about {rows_in_words(table.estimated_rows)}" if table.estimated_rows >= 0 else "rows not counted"


async def _compare(driver: psycopg.AsyncConnection, before: Tables) -> Effects:
    """Return the effects of what ran since then."""
    after = await _tables_now(driver)
    both = {oid: (before[oid], after[oid]) for oid in before.keys() & after.keys()}
    emptied: list[int] = []
    for oid, (old, new) in both.items():
        # ALTER TABLE and CLUSTER write the rows of a table to another file too.
        if old.file != new.file and (new.inserted > old.inserted or not await _has_pages(driver, oid)):
            emptied.append(oid)
    return Effects(
        updated={new.name: new.updated - old.updated for old, new in both.values() if new.updated > old.updated},
        deleted={new.name: new.deleted - old.deleted for old, new in both.values() if new.deleted > old.deleted},
        emptied=emptied,
        dropped=[oid for oid in before if oid not in after],
        narrowed=[oid for oid, (old, new) in both.items() if old.dropped_columns != new.dropped_columns],
    )


async def _has_pages(driver: psycopg.AsyncConnection, oid: int) -> bool:
    row = await (await driver.execute("SELECT pg_catalog.pg_relation_size(%s::oid) > 0", [oid])).fetchone()
    return bool(row and row[0])


async def effects_of(
    wire: Wire, statement: Statement, state: State, attempt: Attempt, command: str | None
) -> list[str]:
    """Describe the effects of a statement that has run since the mark of an attempt, as far as it asks about them.

    `command` is what the server reported at its end. Triggers and constraints that were deferred have to have run.
    If its words show that rows are lost, it is undone to count them, and run again. Another may do more than to change
    tables, so it does not run twice, and the rows that it loses are estimated.
    """
    before = state.tables
    effects = await _compare(wire.driver, before)
    if not is_dangerous(statement):
        estimates = {oid: _estimate(before[oid]) for oid in effects.lost}
        lines = effects.describe(before, estimates) if effects.are_many else []
        return lines + describe(statement, command, await written_now(wire.driver), MOST_UNASKED)
    rows: dict[int, str] = {}
    if effects.lost:
        await attempt.return_to_mark()
        rows = await _count_rows(wire.driver, before, effects.lost)
        notices, wire.notices = wire.notices, Notices()
        async with aclosing(wire.results(statement.text, Outcome())) as results:
            async for _ in results:
                pass
        wire.notices = notices
    lines = effects.describe(before, rows)
    written = await written_now(wire.driver)
    new = {name: referring for name, referring in written.items() if name not in state.written}
    # A table that the block wrote before is locked already, so it is meant if nothing else is.
    lines += describe(statement, command, new or ({} if lines else written), 0)
    if not lines and statement.words[:1] == ("DROP",):
        lines = [f"runs {' '.join(statement.words[:2])}"]
    elif not lines and _converts(statement.words):
        lines = ["changes the values of a column, in every row"]
    return lines


async def _count_rows(driver: psycopg.AsyncConnection, before: Tables, oids: list[int]) -> dict[int, str]:
    """Count the rows of tables, in the open transaction; estimate those that take long, and all that are not readable.

    The statements run inside a savepoint, which also takes back their time limit.
    """
    counted: dict[int, str] = {}
    for oid in oids:
        table = before[oid]
        await driver.execute("SAVEPOINT tatame_studio_count")
        try:
            await driver.execute(f"SET LOCAL statement_timeout = '{_COUNT_TIMEOUT}'")
            # A policy would hide rows that are lost nevertheless; PostgreSQL refuses to count them then.
            await driver.execute("SET LOCAL row_security = off")
            count = f"SELECT count(*) FROM {table.name}"  # noqa: S608, the server wrote the name, with quotes
            row = await (await driver.execute(count.encode())).fetchone()
            counted[oid] = rows_in_words(row[0]) if row else "rows"
        except (errors.QueryCanceled, errors.InsufficientPrivilege, errors.LockNotAvailable):
            counted[oid] = _estimate(table)
        await driver.execute("ROLLBACK TO SAVEPOINT tatame_studio_count")
    return counted
