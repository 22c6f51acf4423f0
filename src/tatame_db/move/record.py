"""What the target itself remembers of moves, in the schema `tatame_move`: runs, tables, and what is parked."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from tatame_db.errors import NOTHING_CHANGED, TatameError, fact
from tatame_db.move.choices import REJECTED, UNKNOWN_TABLE, Choices, Exclusion
from tatame_db.move.mapping import quoted
from tatame_db.schema import phases

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from tatame_db.move.connection import MoveConnection
    from tatame_db.move.rest import RestReading

SCHEMA = "tatame_move"


@fact
class MoveUnfinished(TatameError):
    """A run left foreign keys or indexes dropped or unvalidated: an answer of `check` and `status --check`."""

    exit_code = 3
    names: list[str]
    command: str
    what = "a move out of Supabase is unfinished; not restored or not validated: {names}"
    means = f"{NOTHING_CHANGED} Until the move is finished, rows that violate the schema are accepted."
    fix = "run `{command}`, which restores them and proves the rows; then check again"


_TABLES = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};
CREATE TABLE IF NOT EXISTS {SCHEMA}.runs (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    source text NOT NULL,
    source_identity text NOT NULL,
    source_version text NOT NULL,
    target_version text NOT NULL,
    options jsonb NOT NULL,
    -- None of the three where a run goes on, or was killed.
    outcome text CHECK (outcome IN ('proven', 'not equal', 'failed')),
    error text,
    report jsonb
);
CREATE TABLE IF NOT EXISTS {SCHEMA}.tables (
    name text PRIMARY KEY,
    source_identity text NOT NULL,
    run integer NOT NULL REFERENCES {SCHEMA}.runs,
    rows bigint NOT NULL,
    -- What the table held when the copy was proven; another digest later means that somebody wrote to it.
    fingerprint text NOT NULL,
    copied_at timestamptz NOT NULL,
    -- NULL until the source was read a second time, where it has no moment of its own.
    proven_at timestamptz
);
CREATE TABLE IF NOT EXISTS {SCHEMA}.parked (
    position integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('index', 'key')),
    table_name text NOT NULL,
    name text NOT NULL,
    definition text NOT NULL,
    UNIQUE (kind, table_name, name)
);
-- Rows and values that were set aside by choice, as the source has them. Those of a table are replaced by each copy.
CREATE TABLE IF NOT EXISTS {SCHEMA}.rejects (
    run integer NOT NULL REFERENCES {SCHEMA}.runs,
    source_identity text NOT NULL,
    table_name text NOT NULL,
    id text,
    column_name text,
    kind text NOT NULL,
    reason text NOT NULL,
    action text NOT NULL CHECK (action IN ('rejected', 'nulled', 'kept')),
    "row" jsonb NOT NULL
);
-- Not the id too: one that is too long for an index is among the reasons to be here.
CREATE INDEX IF NOT EXISTS rejects_table_name_index ON {SCHEMA}.rejects (table_name);
"""
_OURS = ", ".join(f"'{name}'" for name in phases())
_IS_OURS = f"c.relnamespace = 'public'::regnamespace AND c.relname IN ({_OURS})"
_KEYS = f"""
SELECT 'key', c.relname, k.conname, pg_get_constraintdef(k.oid), p.relname
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class p ON p.oid = k.confrelid
WHERE k.contype = 'f' AND {_IS_OURS}
"""
_INDEXES = f"""
SELECT 'index', c.relname, x.relname, pg_get_indexdef(i.indexrelid), NULL
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
WHERE {_IS_OURS} AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = c.oid)
"""


@dataclass(frozen=True)
class Remembered:
    """What the last copy of a table left."""

    source_identity: str
    rows: int
    fingerprint: str
    copied_at: datetime
    proven_at: datetime | None


def identity_of(source: MoveConnection | RestReading) -> str:
    """Name a source as it is remembered."""
    return ":".join(map(str, source.identity))


def prepare(target: MoveConnection) -> None:
    """Make the schema where it is missing; committed by the caller."""
    target.execute(_TABLES)


def exists(target: MoveConnection) -> bool:
    """Say whether there ever was a move into this database."""
    return target.row("SELECT to_regclass('tatame_move.parked') IS NOT NULL")[0] is True


def keeps(target: MoveConnection) -> bool:
    """Say whether there is a place for what is set aside."""
    return target.row(f"SELECT to_regclass('{SCHEMA}.rejects') IS NOT NULL")[0] is True


def recorded_exclusions(target: MoveConnection, identity: str | None = None) -> list[Exclusion]:
    """Sum up what is kept of this source, or of the one that each table came from."""
    if not keeps(target):
        return []
    of_source = "%(identity)s" if identity else f"(SELECT source_identity FROM {SCHEMA}.tables WHERE name = table_name)"
    rows = target.rows(
        "SELECT table_name, column_name, kind, reason, action, count(*)"
        f" FROM {SCHEMA}.rejects WHERE source_identity = coalesce({of_source}, source_identity)"
        " GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4",
        {"identity": identity},
    )
    return [Exclusion(*row) for row in rows]


def delete_rejects(target: MoveConnection, identity: str, table: str) -> None:
    """Let go what is kept of a table of this source; committed by the caller."""
    target.execute(
        f"DELETE FROM {SCHEMA}.rejects WHERE source_identity = %(identity)s AND table_name = %(table)s",
        {"identity": identity, "table": table},
    )


def delete_rejects_of_unknown_tables(target: MoveConnection, identity: str) -> None:
    """Let go what is kept of tables that have no place with us; committed by the caller."""
    target.execute(
        f"DELETE FROM {SCHEMA}.rejects WHERE source_identity = %(identity)s AND kind = %(kind)s",
        {"identity": identity, "kind": UNKNOWN_TABLE},
    )


def remembered(target: MoveConnection) -> dict[str, Remembered]:
    """Return what is known of each table that was copied."""
    rows = target.rows(f"SELECT name, source_identity, rows, fingerprint, copied_at, proven_at FROM {SCHEMA}.tables")
    return {name: Remembered(*facts) for name, *facts in rows}


def remember(
    target: MoveConnection, table: str, *, run: int, identity: str, rows: int, fingerprint: str, copied: bool
) -> None:
    """Note what a table is made equal to, and whether it was written to; committed with what was written."""
    target.execute(
        f"INSERT INTO {SCHEMA}.tables VALUES (%(table)s, %(identity)s, %(run)s, %(rows)s, %(fingerprint)s,"
        " clock_timestamp(), NULL) ON CONFLICT (name) DO UPDATE SET source_identity ="
        " excluded.source_identity, run = excluded.run, rows = excluded.rows, fingerprint = excluded.fingerprint,"
        " proven_at = excluded.proven_at, copied_at = CASE WHEN %(copied)s THEN excluded.copied_at"
        " ELSE tables.copied_at END",
        {
            "table": table,
            "identity": identity,
            "run": run,
            "rows": rows,
            "fingerprint": fingerprint,
            "copied": copied,
        },
    )


def prove(target: MoveConnection, table: str) -> None:
    """Note that what is remembered of a table is proven."""
    target.execute(f"UPDATE {SCHEMA}.tables SET proven_at = clock_timestamp() WHERE name = %(table)s", {"table": table})


def fingerprint(target: MoveConnection, table: str) -> str:
    """Digest a table as it is, whatever the source looks like."""
    count, digest = target.row(
        f'SELECT count(*), coalesce(sum(hashtextextended(t::text COLLATE "C", 0)), 0) FROM public.{quoted(table)} AS t'
    )
    return f"{count}:{digest}"


def park(target: MoveConnection, pays: Callable[[str, str | None], bool] = lambda _table, _parent: True) -> None:
    """Write down foreign keys and secondary indexes of our tables and drop them; one transaction.

    `pays` is asked for each: a key with its table and the one it refers to, an index with its table and `None`.
    """
    for kind, table, name, definition, parent in _found(target):
        if not pays(table, parent):
            continue
        target.execute(
            f"INSERT INTO {SCHEMA}.parked (kind, table_name, name, definition) VALUES (%(kind)s, %(table)s, %(name)s,"
            " %(definition)s) ON CONFLICT (kind, table_name, name) DO NOTHING",
            {"kind": kind, "table": table, "name": name, "definition": definition},
        )
        if kind == "key":
            target.execute(f"ALTER TABLE public.{quoted(table)} DROP CONSTRAINT {quoted(name)}")
        else:
            target.execute(f"DROP INDEX public.{quoted(name)}")


def _found(target: MoveConnection) -> list[tuple[Any, ...]]:
    return target.rows(f"{_KEYS} UNION ALL {_INDEXES}")


def parked(target: MoveConnection) -> list[str]:
    """Name what is parked, as `users.users_gym_id_gyms_id_fk`."""
    return [
        f"{table}.{name}" for table, name in target.rows(f"SELECT table_name, name FROM {SCHEMA}.parked ORDER BY 1, 2")
    ]


def restore(target: MoveConnection) -> None:
    """Put back what is parked, keys without looking at the rows that are there; one transaction."""
    waiting = target.rows(f"SELECT kind, table_name, name, definition FROM {SCHEMA}.parked ORDER BY position")
    there = {(kind, table, name) for kind, table, name, *_ in _found(target)}
    for kind, table, name, definition in waiting:
        # Somebody may have put it back by hand, or with `push`.
        if (kind, table, name) in there:
            continue
        if kind == "index":
            target.execute(definition)
        else:
            valid = definition.removesuffix(" NOT VALID")
            target.execute(f"ALTER TABLE public.{quoted(table)} ADD CONSTRAINT {quoted(name)} {valid} NOT VALID")
    target.execute(f"DELETE FROM {SCHEMA}.parked")


def keys(target: MoveConnection) -> int:
    """Count the foreign keys of our tables."""
    [count] = target.row(f"SELECT count(*) FROM ({_KEYS}) AS found")
    return int(count)


def unproven_keys(target: MoveConnection) -> list[tuple[str, str]]:
    """Return table and name of the foreign keys that were never checked against the rows that are there."""
    rows = target.rows(
        "SELECT c.relname, k.conname FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid"
        f" WHERE k.contype = 'f' AND NOT k.convalidated AND {_IS_OURS} ORDER BY 1, 2"
    )
    return [(table, name) for table, name in rows]


@dataclass(frozen=True)
class Unfinished:
    """The foreign keys and indexes that a move left dropped or unvalidated, and the command that restores them."""

    names: list[str]
    command: str


def unfinished(target: MoveConnection) -> Unfinished:
    """Return what a run that was killed left behind; reads a target of any schema."""
    if not exists(target):
        return Unfinished([], finish_command(target))
    names = [*parked(target), *(f"{table}.{key}" for table, key in unproven_keys(target))]
    return Unfinished(names, finish_command(target))


def finish_command(target: MoveConnection) -> str:
    """Return the command that restores what a run left dropped: a copy with the tables and choices of the last run."""
    words = ["tatame-db move copy"]
    options = target.rows(f"SELECT options FROM {SCHEMA}.runs ORDER BY id DESC LIMIT 1") if exists(target) else []
    for [given] in options:
        if len(given["tables"]) < len(phases()):
            words += given["tables"]
        words += [f"--{choice.name} {given[choice.name]}" for choice in fields(Choices) if given.get(choice.name)]
    return " ".join(words)


def rates(target: MoveConnection) -> dict[str, float]:
    """Return the rows per second of the last copy of each table that took long enough to tell."""
    if not exists(target):
        return {}
    rows = target.rows(
        "SELECT DISTINCT ON (t ->> 'table') t ->> 'table', (t ->> 'written')::float / (t ->> 'seconds')::float"
        f" FROM {SCHEMA}.runs, jsonb_array_elements(report -> 'tables') AS t"
        " WHERE outcome = 'proven' AND (t ->> 'written')::bigint > 0 AND (t ->> 'seconds')::float >= 1"
        " ORDER BY 1, id DESC"
    )
    return dict(rows)


@dataclass(frozen=True)
class RunStatus:
    """How a run went. `outcome` is `proven`, `not equal` or `failed`, and `None` where it goes on or was killed."""

    id: int
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    error: str | None


def _last_run(target: MoveConnection) -> RunStatus | None:
    rows = target.rows(f"SELECT id, started_at, ended_at, outcome, error FROM {SCHEMA}.runs ORDER BY id DESC LIMIT 1")
    return RunStatus(*rows[0]) if rows else None


def ended(
    target: MoveConnection, run: int, outcome: str, *, report: str | None = None, error: str | None = None
) -> None:
    """Note how a run went; committed by the caller."""
    target.execute(
        f"UPDATE {SCHEMA}.runs SET ended_at = clock_timestamp(), outcome = %(outcome)s, error = %(error)s,"
        " report = %(report)s WHERE id = %(run)s",
        {"run": run, "outcome": outcome, "error": error, "report": report},
    )


@dataclass(frozen=True)
class TableStatus:
    """Where a table stands. `rows` are those of the last proof; `stale` where the table was written to since.

    `rejected` counts the rows that stayed behind by choice, and are kept in `tatame_move.rejects`.
    """

    table: str
    phase: int
    rows: int | None
    copied_at: datetime | None
    proven_at: datetime | None
    stale: bool
    rejected: int


@dataclass(frozen=True)
class MoveStatus:
    """Where a move stands, as the target alone can tell."""

    tables: list[TableStatus]
    parked: list[str]
    """Foreign keys and indexes that are away, because a run was killed."""
    unproven_keys: list[str]
    """Foreign keys that were not checked against the rows that are there."""
    exclusions: list[Exclusion]
    """What was set aside by choice, and is kept in `tatame_move.rejects`."""
    last_run: RunStatus | None
    finish_command: str
    """The command that restores what a killed run left dropped."""


def status(target: MoveConnection) -> MoveStatus:
    """Say what was copied and proven, whether that still holds, and what is missing; reads the target alone."""
    known = remembered(target) if exists(target) else {}
    exclusions = recorded_exclusions(target)
    return MoveStatus(
        [_status(target, table, phase, known.get(table), exclusions) for table, phase in phases().items()],
        parked(target) if exists(target) else [],
        [f"{table}.{key}" for table, key in unproven_keys(target)],
        exclusions,
        _last_run(target) if exists(target) else None,
        finish_command(target),
    )


def _status(
    target: MoveConnection, table: str, phase: int, last: Remembered | None, exclusions: list[Exclusion]
) -> TableStatus:
    if last is None:
        return TableStatus(table, phase, None, None, None, stale=False, rejected=0)
    stale = fingerprint(target, table) != last.fingerprint
    rejected = sum(told.rows for told in exclusions if (told.table, told.action) == (table, REJECTED))
    return TableStatus(table, phase, last.rows, last.copied_at, last.proven_at, stale=stale, rejected=rejected)
