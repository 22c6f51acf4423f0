"""Rows that a statement changes where the server does not count them, found by the locks on their tables.

They are the rows of foreign tables, of tables that Citus has placed on its nodes, and all with `track_counts = off`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg

    from tatame_db.studio.sql.split import Statement

_VERBS = {"DELETE", "UPDATE", "INSERT", "MERGE"}
NOT_A_STATEMENT = {"FOR", "KEY", "ON", "DO", "THEN"}
"""Words before a verb that begins no statement, as in `FOR UPDATE`."""

_HAS_CITUS = "SELECT pg_catalog.to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL"
_IS_PLACED = "c.oid IN (SELECT logicalrelid FROM pg_catalog.pg_dist_partition)"
# An INSERT, UPDATE, DELETE, MERGE or COPY holds this lock until the transaction ends, also inside a function. On Citus,
# the nodes delete and change the rows that refer to a row by a foreign key, and no lock shows it.
_WRITTEN = """
SELECT COALESCE(pg_catalog.pg_partition_root(c.oid), c.oid)::pg_catalog.regclass::pg_catalog.text,
    ARRAY(SELECT DISTINCT k.conrelid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_constraint AS k
        WHERE {placed} AND k.confrelid = c.oid AND k.confdeltype IN ('c', 'n', 'd')),
    ARRAY(SELECT DISTINCT k.conrelid::pg_catalog.regclass::pg_catalog.text FROM pg_catalog.pg_constraint AS k
        WHERE {placed} AND k.confrelid = c.oid AND k.confupdtype IN ('c', 'n', 'd'))
FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_class AS c ON c.oid = l.relation
WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation' AND l.mode = 'RowExclusiveLock'
    AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND c.relnamespace <> 'pg_catalog'::regnamespace
    AND (c.relkind = 'f' OR pg_catalog.current_setting('track_counts') = 'off' OR {placed})
"""


@dataclass(frozen=True)
class Referring:
    """The tables in which a foreign key changes rows with those of another table."""

    on_delete: frozenset[str]
    on_update: frozenset[str]


Written = dict[str, Referring]
"""The tables with rows that are not counted, by their names."""


async def written_now(driver: psycopg.AsyncConnection) -> Written:
    """Return the tables in which the open transaction has written rows that the server does not count."""
    has_citus = await (await driver.execute(_HAS_CITUS)).fetchone()
    query = _WRITTEN.format(placed=_IS_PLACED if has_citus and has_citus[0] else "false")
    found: Written = {}
    for name, *referring in await (await driver.execute(query.encode())).fetchall():
        on_delete, on_update = map(frozenset, referring)
        earlier = found.get(name, Referring(frozenset(), frozenset()))
        found[name] = Referring(on_delete | earlier.on_delete, on_update | earlier.on_update)
    return found


def describe(statement: Statement, command: str | None, written: Written, most: int) -> list[str]:
    """Describe what a statement does to these tables, as far as it asks about more than `most` rows.

    `command` is what the server reported at its end, with the number of rows. It asks always if that says nothing of
    the rows that it changes, as after DO, CALL and a SELECT with a function.
    """
    words = statement.words
    if not written or (words[:1] == ("EXPLAIN",) and "ANALYZE" not in words):
        return []
    if words[:1] == ("CREATE",) and {"FUNCTION", "PROCEDURE"} & set(words[1:4]):
        # The check of its body takes the locks.
        return []
    verbs = [word for at, word in enumerate(words) if word in _VERBS and not (at and words[at - 1] in NOT_A_STATEMENT)]
    tag, _, number = (command or "").partition(" ")
    others = sorted(written)
    if tag == "COPY" and not verbs:
        verbs = ["COPY"]
    if verbs != [tag]:
        return [_unknown(others)]
    changed = _changed(tag, words)
    count = int(number.rpartition(" ")[2]) if changed else 0
    others = others if len(others) > 1 else _referring(changed, written) if count else []
    if count <= most and not others:
        return []
    of = "" if len(written) > 1 else f" of {next(iter(written))}"
    lines = [f"{changed} {rows_in_words(count)}{of}"] if count else []
    return lines + ([_unknown(others)] if others else [])


def _changed(tag: str, words: tuple[str, ...]) -> str:
    if tag == "INSERT":
        return "inserts or updates" if ("DO", "UPDATE") in pairwise(words) else ""
    return {"DELETE": "deletes", "UPDATE": "updates", "MERGE": "changes"}.get(tag, "")


def _referring(changed: str, written: Written) -> list[str]:
    found: set[str] = set()
    for referring in written.values():
        found |= referring.on_delete if changed in {"deletes", "changes"} else set()
        found |= referring.on_update if changed != "deletes" else set()
    return sorted(found)


def _unknown(tables: list[str]) -> str:
    return f"changes rows of {', '.join(tables)}, which are not counted"


def rows_in_words(count: int) -> str:
    """Write a number of rows."""
    return f"{count:,} row{'' if count == 1 else 's'}"
