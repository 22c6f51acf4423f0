"""The move out of Supabase, as the database itself records it in the schema `tatame_move`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import text

from tatame_db import move
from tatame_db.evolve.lock import LOCK_KEY
from tatame_db.schema import phases
from tatame_db.studio.day import day
from tatame_db.studio.errors import EXPECTED, translated
from tatame_db.studio.transactions import read_transaction

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncConnection

    from tatame_db.database.pool import AsyncDatabase

_POLL_SECONDS = 1
_RUNS = 5
_EXISTS = text("SELECT to_regclass('tatame_move.parked') IS NOT NULL")
# Whole rows and reports: what a run records grows with the versions of this package.
_LAST_RUNS = text(f"SELECT to_jsonb(run.*) FROM tatame_move.runs AS run ORDER BY id DESC LIMIT {_RUNS}")  # noqa: S608, a number
_TABLES = text(
    "SELECT copied.name, to_jsonb(copied.*) - 'name',"
    " (SELECT reported FROM jsonb_array_elements(run.report -> 'tables') AS reported"
    " WHERE reported ->> 'table' = copied.name)"
    " FROM tatame_move.tables AS copied JOIN tatame_move.runs AS run ON run.id = copied.run"
)
_PARKED = text("SELECT table_name || '.' || name FROM tatame_move.parked ORDER BY 1")
# The first exclusions of each table, from the source of its last copy.
_EXCLUSIONS = text(
    "SELECT copied.name, excluded.id, excluded.action, excluded.column_name, excluded.reason"
    " FROM tatame_move.tables AS copied CROSS JOIN LATERAL (SELECT * FROM tatame_move.rejects"
    " WHERE rejects.table_name = copied.name AND rejects.source_identity = copied.source_identity"
    " AND rejects.action <> 'kept' ORDER BY rejects.id LIMIT 20) AS excluded WHERE copied.name = ANY(:tables)"
)
# A running copy holds the lock on schema changes, and locks the tables that it writes.
_WORKER = text(
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
    " AND classid::bigint << 32 | objid::bigint = :key"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_LOCKED_TABLES = text(
    "SELECT relname, pg_total_relation_size(pg_class.oid) FROM pg_locks JOIN pg_class ON pg_class.oid = relation"
    " WHERE pid = :pid AND mode = 'ShareRowExclusiveLock' AND relnamespace = 'public'::regnamespace"
)


_EXCLUDED = text(
    "SELECT copied.name, count(*) FILTER (WHERE rejects.action = 'rejected'),"
    " count(*) FILTER (WHERE rejects.action = 'nulled')"
    " FROM tatame_move.tables AS copied JOIN tatame_move.rejects ON rejects.table_name = copied.name"
    " AND rejects.source_identity = copied.source_identity WHERE copied.name = ANY(:tables) GROUP BY copied.name"
)


async def move_status(database: AsyncDatabase, engine: Engine) -> dict[str, Any]:
    """Return the state of the copy and that of the day. Raises `RecordUnreadable`."""
    today = await asyncio.to_thread(day, engine)
    async with read_transaction(database) as connection:
        copied = await _copy_status(connection)
    homes = today.pop("homes")
    return copied | today | {"tables": [table | {"home": homes.get(table["table"])} for table in copied["tables"]]}


async def _copy_status(connection: AsyncConnection) -> dict[str, Any]:
    """Return the last runs, what was copied and proven of each table, and which tables a running copy writes."""
    if not await connection.scalar(_EXISTS):
        return {"ever": False, "running": False, "runs": [], "tables": [], "parked": []}
    runs = list(await connection.scalars(_LAST_RUNS))
    worker = await connection.scalar(_WORKER, {"key": LOCK_KEY}) if runs and runs[0]["ended_at"] is None else None
    sizes = {row[0]: row[1] for row in await connection.execute(_LOCKED_TABLES, {"pid": worker})} if worker else {}
    copied = await _copied_tables(connection)
    return {
        "ever": True,
        "running": worker is not None,
        "runs": [
            run | {"outcome": _outcome(run, is_running=at == 0 and worker is not None)} for at, run in enumerate(runs)
        ],
        "tables": [
            copied.get(name, _table({}, {}))
            | {"table": name, "phase": phase, "working": name in sizes, "size_bytes": sizes.get(name)}
            for name, phase in phases().items()
        ],
        "parked": list(await connection.scalars(_PARKED)),
    }


def _outcome(run: dict[str, Any], *, is_running: bool) -> str:
    if run["ended_at"] is not None:
        return str(run["outcome"])
    return "running" if is_running else "broken off"


async def _copied_tables(connection: AsyncConnection) -> dict[str, dict[str, Any]]:
    reports: dict[str, dict[str, Any]] = {}
    recorded: dict[str, dict[str, Any]] = {}
    for name, row, report in await connection.execute(_TABLES):
        recorded[name], reports[name] = row, report or {}
    # The report of a switch says nothing about rows that the copy before it excluded.
    if silent := [name for name, report in reports.items() if "rejected" not in report]:
        for name, rejected, nulled in await connection.execute(_EXCLUDED, {"tables": silent}):
            reports[name] |= {"rejected": rejected, "nulled": nulled}
    copied = {name: _table(row, reports[name]) for name, row in recorded.items()}
    incomplete = [name for name, table in copied.items() if table["rejected"] or table.get("nulled")]
    if incomplete:
        for name, *exclusion in await connection.execute(_EXCLUSIONS, {"tables": incomplete}):
            copied[name]["differences"].append(_difference(*exclusion))
    return copied


def _table(recorded: dict[str, Any], reported: dict[str, Any]) -> dict[str, Any]:
    rows, seconds, written = recorded.get("rows"), reported.get("seconds"), reported.get("written")
    rejected = reported.get("rejected", 0)
    derived = {
        "source_rows": None if rows is None else rows + rejected,
        "target_rows": rows,
        "source_digest": None,
        "target_digest": None,
        # Over REST, a table can be copied and not be proven.
        "equal": recorded.get("proven_at") is not None,
        "rejected": rejected,
        "differences": list[Any](),
        "rows_per_second": round(written / seconds) if seconds and written else None,
    }
    return derived | recorded | reported


def _difference(key: str | None, action: str, column: str | None, reason: str) -> dict[str, Any]:
    kind = "missing" if action == "rejected" else "differing"
    return {"id": key, "kind": kind, "values": [{"column": column}] if column else [], "choice": reason}


def stale_tables(engine: Engine) -> dict[str, Any]:
    """Return for each table whether it was written to since it was proven; this reads whole tables."""
    with move.open_target(engine) as target:
        found = move.status(target)
    return {"stale": {table.table: table.stale for table in found.tables}}


async def events(database: AsyncDatabase, engine: Engine) -> AsyncGenerator[bytes]:
    """Send the status as a server-sent event, and again whenever it changes."""
    sent = b""
    while True:
        try:
            event = b"data: " + msgspec.json.encode(await move_status(database, engine), enc_hook=str) + b"\n\n"
        except EXPECTED as error:
            event = b"event: away\ndata: " + msgspec.json.encode({"what": translated(error).what}) + b"\n\n"
        yield b": no change\n\n" if event == sent else event
        sent = event
        await asyncio.sleep(_POLL_SECONDS)
