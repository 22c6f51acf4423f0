"""The token with which a move passes its own triggers: only the record on the target holds it, the triggers a hash."""

from __future__ import annotations

import secrets
from hashlib import sha256
from typing import TYPE_CHECKING

from tatame_db.move.record import SCHEMA

if TYPE_CHECKING:
    from tatame_db.move.connection import MoveConnection

SETTING = "tatame_move.token"
_TABLE = f"{SCHEMA}.token"
_CREATE = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};
CREATE TABLE IF NOT EXISTS {_TABLE} (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    value text NOT NULL
);
"""
# Default privileges may let others read every new table. A role that replicates can read the whole server.
_READERS = f"""
SELECT DISTINCT coalesce(quote_ident(r.rolname), 'PUBLIC')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN LATERAL aclexplode(c.relacl) a
LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE n.nspname = {SCHEMA!r} AND c.relname = 'token' AND a.grantee <> c.relowner
    AND NOT coalesce(r.rolreplication, false)
"""
# Without the right to use the schema, looking a name up in it is an error.
_IS_OWNED = f"""
SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = {SCHEMA!r} AND c.relname = 'token' AND pg_has_role(c.relowner, 'USAGE')
"""


def token_hash(token: str) -> str:
    """Return what the triggers of both databases compare with; every role can read it there."""
    return sha256(token.encode()).hexdigest()


def token_of(target: MoveConnection) -> str | None:
    """Return the token of this target; `None` if none was made, or if the role may not read it."""
    if not target.rows(_IS_OWNED):
        return None
    return next((value for (value,) in target.rows(f"SELECT value FROM {_TABLE}")), None)


def make_token(target: MoveConnection) -> str:
    """Return the token of this target, which is made on first use; the session passes the triggers. Commits."""
    token = token_of(target)
    if token is None:
        target.execute(_CREATE)
        for (reader,) in target.rows(_READERS):
            target.execute(f"REVOKE ALL ON {_TABLE} FROM {reader}")
        target.execute(
            f"INSERT INTO {_TABLE} (value) VALUES (%(value)s) ON CONFLICT DO NOTHING",
            {"value": secrets.token_urlsafe(32)},
        )
        target.commit()
        [token] = target.row(f"SELECT value FROM {_TABLE}")
    admit(target, token, for_transaction=False)
    target.commit()
    return token


def admit(connection: MoveConnection, token: str, *, for_transaction: bool = True) -> None:
    """Let the current transaction, or the session, pass the triggers that refuse writers.

    A pooler may hand the session of a source to another client, so there it belongs to each transaction.
    """
    # As a parameter, so that no view of the server's activity shows it.
    connection.execute(
        "SELECT set_config(%(name)s, %(token)s, %(local)s)",
        {"name": SETTING, "token": token, "local": for_transaction},
    )
