"""The move out of Supabase, as the database itself remembers it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db import move
from tatame_db.errors import TatameError
from tatame_db.evolve.lock import LOCK_KEY
from tatame_db.schema import phases
from tatame_db.studio.answers import in_words
from tatame_db.studio.session import reading

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncConnection

    from tatame_db.database.pool import AsyncDatabase

_POLL_SECONDS = 1
_RUNS = 5
_EVER = text("SELECT to_regclass('tatame_move.parked') IS NOT NULL")
# Whole rows and reports, for what a run notes down grows with the versions.
_LAST_RUNS = text(f"SELECT to_jsonb(run) FROM tatame_move.runs AS run ORDER BY id DESC LIMIT {_RUNS}")  # noqa: S608, a number
_TABLES = text(
    "SELECT known.name, to_jsonb(known) - 'name', (SELECT told FROM jsonb_array_elements(run.report -> 'tables')"
    " AS told WHERE told ->> 'table' = known.name)"
    " FROM tatame_move.tables AS known JOIN tatame_move.runs AS run ON run.id = known.run"
)
_PARKED = text("SELECT table_name || '.' || name FROM tatame_move.parked ORDER BY 1")
# What is kept of a table for the source that it came from, where a report says that there is any.
_EXCLUDED = text(
    "SELECT known.name, excluded.id, excluded.action, excluded.column_name, excluded.reason"
    " FROM tatame_move.tables AS known CROSS JOIN LATERAL (SELECT * FROM tatame_move.rejects AS kept"
    " WHERE kept.table_name = known.name AND kept.source_identity = known.source_identity AND kept.action <> 'kept'"
    " ORDER BY kept.id LIMIT 20) AS excluded WHERE known.name = ANY(:tables)"
)
# A copy holds the lock on schema changes for as long as it lives, and locks the table that it writes.
_WORKER = text(
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
    " AND classid::bigint << 32 | objid::bigint = :key"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_WORKED_ON = text(
    "SELECT relname, pg_total_relation_size(pg_class.oid) FROM pg_locks JOIN pg_class ON pg_class.oid = relation"
    " WHERE pid = :pid AND mode = 'ShareRowExclusiveLock' AND relnamespace = 'public'::regnamespace"
)


async def remembered(connection: AsyncConnection) -> dict[str, Any]:
    """Say what was copied and proven, and what is being done right now."""
    if not await connection.scalar(_EVER):
        return {"ever": False, "running": False, "runs": [], "tables": [], "parked": []}
    runs = list(await connection.scalars(_LAST_RUNS))
    worker = await connection.scalar(_WORKER, {"key": LOCK_KEY}) if runs and runs[0]["ended_at"] is None else None
    worked_on = {row[0]: row[1] for row in await connection.execute(_WORKED_ON, {"pid": worker})} if worker else {}
    known = {row[0]: _table(row[1], row[2] or {}) for row in await connection.execute(_TABLES)}
    losing = [name for name, table in known.items() if table["rejected"] or table.get("nulled")]
    for name, *what in await connection.execute(_EXCLUDED, {"tables": losing}) if losing else ():
        known[name]["differences"].append(_difference(*what))
    return {
        "ever": True,
        "running": worker is not None,
        "runs": [
            run | {"outcome": _outcome(run, running=at == 0 and worker is not None)} for at, run in enumerate(runs)
        ],
        "tables": [
            known.get(name, _table({}, {}))
            | {"table": name, "phase": phase, "working": name in worked_on, "size_bytes": worked_on.get(name)}
            for name, phase in phases().items()
        ],
        "parked": list(await connection.scalars(_PARKED)),
    }


def _outcome(run: dict[str, Any], *, running: bool) -> str:
    if run["ended_at"] is not None:
        return str(run["outcome"])
    return "running" if running else "broken off"


def _table(facts: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    rows, seconds, written = facts.get("rows"), told.get("seconds"), told.get("written")
    rejected = told.get("rejected", 0)
    ours = {
        "source_rows": None if rows is None else rows + rejected,
        "target_rows": rows,
        "source_digest": None,
        "target_digest": None,
        # Over REST a table can be copied and not be proven.
        "equal": facts.get("proven_at") is not None,
        "rejected": rejected,
        "differences": list[Any](),
        "rows_per_second": round(written / seconds) if seconds and written else None,
    }
    return ours | facts | told


def _difference(key: str | None, action: str, column: str | None, reason: str) -> dict[str, Any]:
    kind = "missing" if action == "rejected" else "differing"
    return {"id": key, "kind": kind, "values": [{"column": column}] if column else [], "choice": reason}


def stale(engine: Engine) -> dict[str, Any]:
    """Read whole tables, and say which were written to since they were proven."""
    with move.open_target(engine) as target:
        found = move.status(target)
    return {"stale": {table.table: table.stale for table in found.tables}, "unproven_keys": found.unproven_keys}


async def events(database: AsyncDatabase) -> AsyncGenerator[bytes]:
    """Tell what is remembered now, and again whenever it changes."""
    told = b""
    while True:
        try:
            async with reading(database) as connection:
                now = b"data: " + msgspec.json.encode(await remembered(connection), enc_hook=str) + b"\n\n"
        except (TatameError, DBAPIError, psycopg.Error) as error:
            now = b"event: away\ndata: " + msgspec.json.encode({"what": in_words(error).what}) + b"\n\n"
        yield b": still here\n\n" if now == told else now
        told = now
        await asyncio.sleep(_POLL_SECONDS)
