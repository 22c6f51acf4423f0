"""What the server does now: its sessions, who waits for whom, and the statements that took the most time.

Texts of statements may hold personal values. They go to the page and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import text

from tatame_db.database.dialect import quoted
from tatame_db.errors import fact
from tatame_db.roles.rights import grant
from tatame_db.studio.errors import Refused
from tatame_db.studio.views import refuse_unreadable_async

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


# `pg_blocking_pids` locks the server's list of locks for a moment, so only sessions that wait are asked about.
_SESSIONS = text(
    """
    WITH waiting AS (
        SELECT DISTINCT ON (pid) pid, mode, locktype, transactionid, coalesce(relation, (SELECT relation
            FROM pg_locks AS own WHERE own.pid = pg_locks.pid AND own.locktype = 'tuple' LIMIT 1)) AS relation
        FROM pg_locks WHERE NOT granted ORDER BY pid
    ), blocked AS (SELECT *, pg_blocking_pids(pid) AS blockers FROM waiting)
    SELECT a.pid, a.usename AS role, a.application_name AS application, a.datname AS database,
        coalesce(a.backend_type, 'client backend') AS kind, a.state, a.backend_start::text AS started,
        round(extract(epoch FROM clock_timestamp()
            - CASE WHEN a.state = 'active' THEN a.query_start ELSE a.state_change END)::numeric, 1)::float8 AS seconds,
        round(extract(epoch FROM clock_timestamp() - a.xact_start)::numeric, 1)::float8 AS transaction_seconds,
        nullif(concat_ws(': ', a.wait_event_type, a.wait_event), '') AS waiting_for,
        CASE WHEN a.query <> '<insufficient privilege>' THEN left(a.query, 1000) END AS statement,
        CASE WHEN a.query <> '<insufficient privilege>' THEN length(a.query) END AS statement_length,
        a.query IS DISTINCT FROM '<insufficient privilege>' AS visible,
        a.application_name = :own AS own,
        coalesce(blocked.blockers, '{}') AS blockers,
        CASE WHEN blocked.pid IS NULL THEN NULL
            WHEN blocked.relation IS NULL THEN concat(blocked.mode, ' on ', blocked.locktype,
                ' ' || blocked.transactionid)
            ELSE concat(CASE WHEN blocked.locktype IN ('transactionid', 'tuple') THEN 'a row of '
                ELSE blocked.mode || ' on ' END, CASE WHEN a.datname = current_database()
                THEN blocked.relation::regclass::text ELSE concat('table ', blocked.relation) END)
        END AS lock
    FROM pg_stat_activity a LEFT JOIN blocked ON blocked.pid = a.pid
    WHERE a.pid <> pg_backend_pid() AND (blocked.pid IS NOT NULL OR a.backend_type = 'autovacuum worker'
        OR a.usesysid IS NOT NULL AND a.backend_type IS DISTINCT FROM 'logical replication launcher')
    ORDER BY a.backend_start, a.pid LIMIT 500
    """
)
# A role that may not see a session does not know whether a statement runs in it.
_CANCEL = text(
    """
    SELECT application_name = :own AS own, coalesce(state = 'active', true) AS runs,
        current_user::text AS role, coalesce(r.rolname::text, backend_type) AS owner,
        coalesce(r.rolsuper, true) AS is_superuser,
        CASE WHEN coalesce(r.rolsuper, true) THEN (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
            ELSE pg_has_role(r.oid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE') END AS allowed
    FROM pg_stat_activity LEFT JOIN pg_roles r ON r.oid = usesysid
    WHERE pid = :pid AND backend_start::text IS NOT DISTINCT FROM CAST(:started AS text)
    """
)
_STATEMENTS_KNOWN = text(
    "SELECT current_setting('pg_stat_statements.max', true) IS NOT NULL AS loaded,"
    " (SELECT format('%I.pg_stat_statements', nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace"
    " WHERE extname = 'pg_stat_statements') AS view, quote_ident(current_user) AS role,"
    " (SELECT has_schema_privilege(extnamespace, 'USAGE') FROM pg_extension WHERE extname = 'pg_stat_statements')"
    " AS usable, EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid JOIN pg_attribute a"
    " ON attrelid = d.objid AND attname = 'mean_exec_time' WHERE extname = 'pg_stat_statements' AND deptype = 'e')"
    " AS current"
)
# The view is in the schema that the extension was created in.
_RECORDED = """
SELECT queryid::text AS id, calls, total_exec_time AS total_ms, mean_exec_time AS mean_ms, rows,
    CASE WHEN query <> '<insufficient privilege>' THEN left(query, 1000) END AS statement
FROM {view} WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY total_exec_time DESC LIMIT 20
"""


class Cancel(msgspec.Struct, forbid_unknown_fields=True):
    """A session as the page showed it, so that a later one with the same number is left alone.

    When a session started is `None` if the role may not see it.
    """

    pid: int
    started: str | None


@fact
class OwnSession(Refused):
    """The session belongs to this studio."""

    pid: int
    status = 409
    what = "session {pid} belongs to this studio"
    fix = "cancel the statement on the SQL page"


@fact
class CancelForbidden(Refused):
    """PostgreSQL lets only some roles cancel the statements of others."""

    pid: int
    role: str
    owner: str
    is_superuser: bool
    status = 403
    what = "the role {role} may not cancel a statement of {owner}"
    means = "The statement keeps running."
    fix = "{advice}"

    @property
    def advice(self) -> str:
        """Who may do it."""
        statement = f"`SELECT pg_cancel_backend({self.pid})`"
        if self.is_superuser:
            return f"let a superuser run {statement}: only a superuser may cancel a statement of a superuser"
        return f"let {self.owner} run {statement}, or a superuser `GRANT pg_signal_backend TO {quoted(self.role)}`"


@dataclass(frozen=True)
class Statements:
    """Statements by the time that they took in total, or in `advice` why they are not recorded."""

    statements: list[dict[str, Any]]
    advice: str | None


async def sessions(connection: AsyncConnection, own: str) -> list[dict[str, Any]]:
    """Return the sessions of the server, the oldest first; `own` is the name of this studio's.

    A session that the role may not see is not `visible`, and says little more than who it is. Raises `ViewsUnreadable`.
    """
    await refuse_unreadable_async(connection, "pg_stat_activity", "pg_locks")
    return [dict(row) for row in (await connection.execute(_SESSIONS, {"own": own})).mappings()]


async def cancel(connection: AsyncConnection, session: Cancel, own: str) -> bool:
    """Cancel the statement of a session; return whether it ran. Raises `OwnSession`, `CancelForbidden`."""
    found = (await connection.execute(_CANCEL, msgspec.structs.asdict(session) | {"own": own})).one_or_none()
    if found is None or not found.runs:
        return False
    if found.own:
        raise OwnSession(pid=session.pid)
    if not found.allowed:
        raise CancelForbidden(pid=session.pid, role=found.role, owner=found.owner, is_superuser=found.is_superuser)
    return bool(await connection.scalar(text("SELECT pg_cancel_backend(:pid)"), {"pid": session.pid}))


async def statements(connection: AsyncConnection) -> Statements:
    """Return the statements of this database that took the most time, by `pg_stat_statements`."""
    known = (await connection.execute(_STATEMENTS_KNOWN)).one()
    if advice := await _why_not_recorded(connection, known):
        return Statements([], advice)
    found = await connection.exec_driver_sql(
        _RECORDED.format(view=known.view), execution_options={"no_parameters": True}
    )
    return Statements([dict(row) for row in found.mappings()], None)


async def _why_not_recorded(connection: AsyncConnection, known: Any) -> str | None:
    load = (
        "`ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'` (with the libraries that are in it"
        " already), and a restart of the server"
    )
    create = "`CREATE EXTENSION pg_stat_statements`"
    if known.view is None:
        steps = create if known.loaded else f"{load}; then {create}"
        return f"To record statements, a superuser needs to run {steps}."
    if not known.loaded:
        return f"To record statements, the server needs {load}, by a superuser."
    if not known.usable or not await connection.scalar(
        text("SELECT has_table_privilege(:view, 'SELECT')"), {"view": known.view}
    ):
        schema = known.view.removesuffix(".pg_stat_statements")
        return (
            f"The role {known.role} may not read them: let a superuser run"
            f" `{grant('USAGE', f'SCHEMA {schema}', known.role)}; {grant('SELECT', known.view, known.role)}`."
        )
    if not known.current:
        update = "`ALTER EXTENSION pg_stat_statements UPDATE`"
        return f"The extension is of an older server: its owner needs to run {update}."
    return None
