"""Who the studio is in the database, and whether that is little enough to be let in from a browser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.database.pool import Database
from tatame_db.errors import NOTHING_CHANGED, TatameError

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

READER, WRITER = "tatame_studio", "tatame_studio_writer"

# Each reaches beyond the data of this database, and works in a read-only transaction too.
_POWERS = {
    "pg_execute_server_program": "runs programs on the server",
    "pg_write_server_files": "writes files of the server",
    "pg_read_server_files": "reads files of the server",
    "pg_signal_backend": "ends the sessions of others",
}


class TooPowerful(TatameError):
    """A role could do harm from a read-only transaction, and nobody said that the studio may write."""

    def __init__(self, role: str, reasons: list[str]) -> None:
        self.role, self.reasons = role, reasons
        super().__init__(
            f"the role {role!r} is too powerful for a studio that only reads: it {', it '.join(reasons)}",
            means=f"A read-only transaction does not hold that back, so the studio was not started. {NOTHING_CHANGED}",
            fix="name a role that only reads, made with `CREATE ROLE reader LOGIN PASSWORD '…' IN ROLE "
            "pg_read_all_data`: `tatame-db studio --read-only-role reader`; or say `--write` if you mean to write",
        )


@dataclass(frozen=True)
class Access:
    """The address that carries the role, and whether the studio may write there."""

    address: URL
    role: str
    write: bool


def as_role_of_ours(engine: Engine, *, write: bool) -> URL:
    """Make the role with which the studio works on the embedded server, and return the address with it.

    It is no superuser and has no password, so it comes in by the socket alone. Committed at once.
    """
    role = WRITER if write else READER
    with engine.begin() as connection:
        # Two studios that start at once would both make it.
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('tatame_studio'))"))
        if not connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}):
            connection.execute(text(f"CREATE ROLE {role}"))
        connection.execute(text(f"ALTER ROLE {role} {_HARMLESS}"))
        connection.execute(text(f"GRANT pg_read_all_data TO {role}"))
        if write:
            connection.execute(text(f"GRANT pg_write_all_data TO {role}"))
    return engine.url.set(username=role)._replace(password=None)


def opened(database: Database, *, embedded: bool, write: bool, read_only_role: str | None = None) -> Access:
    """Say as whom the studio works on this database. Raises `TooPowerful`, and what stands in the way of connecting.

    A role that is named logs in by itself: to take it on with `SET ROLE` would be undone by any statement.
    """
    address = database.address
    if read_only_role is not None:
        # The password is another role's.
        address = address.set(username=read_only_role)._replace(password=None)
    elif embedded:
        address = as_role_of_ours(database.engine, write=write)
    with Database(address) as itself, itself.engine.connect() as connection:
        return examined(connection, write=write)


_HARMLESS = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD NULL"


def examined(connection: Connection, *, write: bool) -> Access:
    """Say who we are on this connection. Raises `TooPowerful` for a role that must not only read."""
    role = str(connection.scalar(text("SELECT session_user")))
    if not write and (reasons := _too_powerful(connection)):
        raise TooPowerful(role, reasons)
    return Access(connection.engine.url, role, write)


def _too_powerful(connection: Connection) -> list[str]:
    # To be a member is enough: a single statement can take on the role.
    found = connection.execute(
        text(
            "SELECT rolname, rolsuper, rolreplication, rolname = session_user AS itself FROM pg_roles"
            " WHERE pg_has_role(session_user, oid, 'MEMBER')"
            " AND (rolsuper OR rolreplication OR rolname = ANY(CAST(:powers AS text[])))"
            " ORDER BY rolname <> session_user, rolname"
        ),
        {"powers": list(_POWERS)},
    ).all()
    if any(row.itself and row.rolsuper for row in found):
        return ["is a superuser"]
    reasons: list[str] = []
    for row in found:
        what = "is a superuser" if row.rolsuper else _POWERS.get(row.rolname, "replicates")
        reasons.append(what if row.itself else f"is a member of {row.rolname}, which {what}")
    return reasons
