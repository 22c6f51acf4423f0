"""The day of a move, for the studio: homes, followers and switches from the target alone, and the way back on request.

The functions are synchronous, as `move` is.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from tatame_db import move
from tatame_db.database.driver import driver_connection
from tatame_db.errors import fact
from tatame_db.move.back.flow import BackFlow, back_obstacles
from tatame_db.move.connection import MoveConnection, report_loss, report_loss_of_target
from tatame_db.move.open import open_source_for_writing
from tatame_db.move.progress import PROGRESS_TABLES
from tatame_db.move.record import SCHEMA, TABLES
from tatame_db.move.watch import followers, last_switches
from tatame_db.roles.rights import grant
from tatame_db.schema import phases
from tatame_db.studio.errors import Refused, StudioStopped
from tatame_db.studio.transactions import PAGE_SECONDS
from tatame_db.studio.views import refuse_unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from sqlalchemy import URL, Engine

    from tatame_db.move.switch.homes import KnownHomes
    from tatame_db.move.watch import RecordedSwitch

_READ = [*TABLES, *PROGRESS_TABLES]
_UNREADABLE = """
SELECT quote_ident(current_user), n.nspname, has_schema_privilege(n.oid, 'USAGE'), coalesce(
    array_agg(c.relname::text ORDER BY c.relname) FILTER (WHERE NOT has_table_privilege(c.oid, 'SELECT')), '{}')
FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = ANY(%(tables)s)
WHERE n.nspname = %(schema)s GROUP BY n.oid, n.nspname
"""


@fact
class RecordUnreadable(Refused):
    """The role of the studio may not read the record of the move."""

    role: str
    rights: list[str]
    status = 403
    what = "the role {role} may not read the record of the move: it lacks {rights}"
    fix = "let the owner of the database run `{grants}`"

    @property
    def grants(self) -> str:
        """The statements that give these rights."""
        parts = [right.partition(" ON ") for right in self.rights]
        return "; ".join(grant(privilege, named, self.role) for privilege, _, named in parts)


@fact
class CheckRunning(Refused):
    """The way back is checked one at a time."""

    status = 409
    what = "the way back is being checked already"
    fix = "wait for the result of the check that runs"


@contextlib.contextmanager
def _reading(engine: Engine) -> Generator[MoveConnection]:
    options = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with report_loss_of_target(), options.connect() as connection:
        opened = MoveConnection("target", engine.url, driver_connection(connection))
        with report_loss(opened):
            opened.pin_settings(for_transaction=True)
            opened.execute(f"SET LOCAL statement_timeout = '{PAGE_SECONDS}s'")
            refuse_unreadable(opened.rows, "pg_stat_activity")
            yield opened


def day(engine: Engine) -> dict[str, Any]:
    """Return the home of each table as far as the target knows it, the followers, and the last switches.

    A table is in `unfinished` if a switch may have left it without a home. Raises `RecordUnreadable`.
    """
    with _reading(engine) as target:
        if error := _unreadable(target):
            raise error
        known, switches = move.known_homes(target), last_switches(target)
        return {
            "homes": known.homes,
            "home_problem": known.problem,
            "unfinished": _unfinished(known, switches),
            "followers": followers(target),
            "switches": switches,
        }


def summary(engine: Engine) -> dict[str, Any] | None:
    """Return how many tables have moved, and the followers; `None` if no table follows or has moved."""
    with _reading(engine) as target:
        known = move.known_homes(target)
        readable = _unreadable(target) is None
        found = followers(target) if readable else []
        if not (known.fenced or known.problem or any(follower.runs for follower in found)):
            return None
        return {
            "moved": len(known.moved),
            "tables": len(phases()),
            "problem": known.problem,
            "unfinished": _unfinished(known, last_switches(target)) if readable else [],
            "followers": [{"home": one.home, "rows": one.rows, "seconds": one.seconds} for one in found if one.runs],
        }


def _unreadable(target: MoveConnection) -> RecordUnreadable | None:
    for role, schema, usable, tables in target.rows(_UNREADABLE, {"schema": SCHEMA, "tables": _READ}):
        rights = [] if usable else [f"USAGE ON SCHEMA {schema}"]
        rights += [f"SELECT ON {schema}.{table}" for table in tables]
        if rights:
            return RecordUnreadable(role=role, rights=rights)
    return None


def _unfinished(known: KnownHomes, switches: list[RecordedSwitch]) -> list[str]:
    """Return the tables that may have no home: the target refuses their writers, and so may the source."""
    if not switches or not switches[0].may_be_half_done:
        return []
    tables = switches[0].tables or list(known.homes)
    return [table for table in tables if table in known.fenced and known.homes.get(table) is move.Home.SOURCE]


# --- The way back -----------------------------------------------------------------------------------------------------


@dataclass
class WayBack:
    """Checks, one at a time, whether the source could hold what was written to the target; changes nothing in either.

    `source` returns its address, or raises an error that says which setting is missing.
    """

    engine: Engine
    source: Callable[[], URL]
    _running: Lock = field(default_factory=Lock)

    async def check(self) -> dict[str, Any]:
        """Return the homes as both databases have them, and the obstacles. Ends when it is cancelled.

        Raises `CheckRunning`, what `source` raises, and what `back_obstacles` raises.
        """
        address = self.source()
        if not self._running.acquire(blocking=False):
            raise CheckRunning
        found = _Check(self.engine, address)
        # The studio ends without this thread, which may wait for a server that does not answer.
        Thread(target=self._run, args=(found,), daemon=True).start()
        try:
            return await asyncio.wrap_future(found.result)
        except asyncio.CancelledError:
            Thread(target=found.abort, daemon=True).start()
            raise

    def _run(self, check: _Check) -> None:
        try:
            check.result.set_running_or_notify_cancel()
            found = check.obstacles()
        except BaseException as error:  # noqa: BLE001, whoever waits for the result raises it
            self._running.release()
            check.result.set_exception(error)
        else:
            self._running.release()
            check.result.set_result(found)


@dataclass
class _Check:
    engine: Engine
    address: URL
    result: Future[dict[str, Any]] = field(default_factory=Future[dict[str, Any]])
    opened: list[MoveConnection] = field(default_factory=list[MoveConnection])
    is_aborted: bool = False

    def obstacles(self) -> dict[str, Any]:
        with move.open_target(self.engine) as target, open_source_for_writing(self.address) as source:
            self.opened += [target, source]
            if self.is_aborted:
                raise StudioStopped
            flow = BackFlow(target, source)
            # Nothing is written for a trial: the source may be in use.
            obstacles, tried = back_obstacles(flow, most_tried=0)
            return {
                "homes": move.homes(flow.connections),
                "tables": flow.tables,
                "obstacles": [
                    {"table": name, **_shown(obstacle)} for name, found in obstacles.items() for obstacle in found
                ],
                "tried": tried,
            }

    def abort(self) -> None:
        # Those that are opened later are closed at once.
        self.is_aborted = True
        for connection in self.opened:
            connection.abort()


def _shown(obstacle: move.Obstacle) -> dict[str, Any]:
    return {"reason": obstacle.reason, "rows": obstacle.rows, "ids": obstacle.ids, "choices": obstacle.choices}
