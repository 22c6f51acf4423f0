"""Sessions on a standby, which refuses the isolation that its primary may have by default."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn
    from sqlalchemy.engine.interfaces import DBAPIConnection


def is_standby(server: PGconn) -> bool:
    """Return what the server has reported, without a round trip; a pooler may report what its server was before."""
    return server.parameter_status(b"in_hot_standby") == b"on"


def lower_isolation(connection: DBAPIConnection) -> bool:
    """Let a session on a standby read if the isolation of its role or database is serializable, and return whether.

    A standby refuses each query of that isolation.
    """
    cursor = connection.cursor()
    cursor.execute("SHOW default_transaction_isolation")
    [(isolation,)] = cursor.fetchall()
    is_lower = False
    if str(isolation) == "serializable":
        # A pooler may report what its server was before it was promoted.
        cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute("SELECT pg_is_in_recovery()")
        [(is_lower,)] = cursor.fetchall()
    if is_lower:
        cursor.execute("SET default_transaction_isolation = 'repeatable read'")
    cursor.close()
    connection.commit()
    return bool(is_lower)
