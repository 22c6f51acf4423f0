"""The other sessions of a database, and how they end: a pool that reconnects learns what has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.errors import TatameError, fact

if TYPE_CHECKING:
    from sqlalchemy import Connection

# The kind of a session of another role is hidden from most roles, hence the names. Citus has sessions of its own.
_OTHERS = """
SELECT pid, coalesce(usename::text, '') AS role, u.rolsuper AS of_superuser, o.rolsuper
        OR NOT u.rolsuper AND (pg_has_role(usesysid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE')) AS can_end
FROM pg_stat_activity JOIN pg_roles u ON u.oid = usesysid JOIN pg_roles o ON o.rolname = current_user
WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND coalesce(backend_type, 'client backend') = 'client backend'
    AND application_name NOT LIKE 'citus\\_%' AND application_name NOT LIKE 'Citus %'
    AND pid NOT IN (SELECT pid FROM pg_stat_replication)
ORDER BY pid
"""
_END = "SELECT pg_terminate_backend(pid) FROM unnest(CAST(:pids AS integer[])) pid"
_LEFT = "SELECT pid FROM pg_stat_activity WHERE pid = ANY(CAST(:pids AS integer[]))"
_TRIES, _PAUSE = 100, "SELECT pg_sleep(0.1), pg_stat_clear_snapshot()"


@fact
class SessionsNotEnded(TatameError):
    """Other sessions of the database have to end, and the role may not end them, or they do not end."""

    pids: list[int]
    roles: list[str]
    grant: str | None
    """The statement that allows the role to end them; `None` if no right is missing or only a superuser may."""
    stuck: bool
    """Whether the server was asked to end them, and they are still there."""
    what = "{sessions} of the database cannot be ended: {named}"
    means = "No table was placed. A session that is older than the extension would go on as without Citus."
    fix = "{advice}"

    @property
    def sessions(self) -> str:
        """How many there are."""
        return f"{len(self.pids)} other session{'s' if len(self.pids) > 1 else ''}"

    @property
    def named(self) -> str:
        """The sessions and their roles."""
        return f"{', '.join(map(str, self.pids))}, of {', '.join(self.roles)}"

    @property
    def advice(self) -> str:
        """The right to end them, or who can."""
        again = "run the command again"
        if self.stuck:
            return f"wait until they have rolled back, then {again}"
        if self.grant:
            return f"let a superuser run `{self.grant}`, or close these sessions; then {again}"
        return (
            f"close these sessions, or let a superuser end each with `SELECT pg_terminate_backend(<pid>)`; then {again}"
        )


def other_sessions(connection: Connection) -> list[int]:
    """Return the processes of the other sessions of a database.

    Raises `SessionsNotEnded` if the role may not end one.
    """
    found = connection.execute(text(_OTHERS)).all()
    for _ in range(_TRIES // 10):
        # A client that has just closed its session does not wait for the end of the process.
        if all(row.can_end for row in found):
            break
        connection.execute(text(_PAUSE))
        found = connection.execute(text(_OTHERS)).all()
    if refused := [row for row in found if not row.can_end]:
        role = connection.scalar(text("SELECT quote_ident(current_user)"))
        raise SessionsNotEnded(
            pids=[row.pid for row in refused],
            roles=sorted({row.role for row in refused}),
            grant=None if any(row.of_superuser for row in refused) else f"GRANT pg_signal_backend TO {role}",
            stuck=False,
        )
    return [row.pid for row in found]


def end_sessions(connection: Connection) -> None:
    """End the other sessions of a database, and wait until they are gone. Raises `SessionsNotEnded`."""
    pids = other_sessions(connection)
    connection.execute(text(_END), {"pids": pids})
    left = pids
    for _ in range(_TRIES):
        left = list(connection.scalars(text(_LEFT), {"pids": pids}))
        if not left:
            break
        connection.execute(text(_PAUSE))
    connection.rollback()
    if left:
        raise SessionsNotEnded(pids=left, roles=[], grant=None, stuck=True)
