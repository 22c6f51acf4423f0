"""The names of the four roles, and whether roles of these names can have their duties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.errors import TatameError, fact
from tatame_db.roles.needs import APP, BACKUP, DUTIES, OWNING, READ_ONLY

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from tatame_db.roles.needs import Duty

_LONGEST_NAME_BYTES = 63


@fact
class RoleNameInvalid(TatameError):
    """PostgreSQL has no role of such a name, or one role is to have two duties."""

    name: str
    reason: str
    what = "{name!r} cannot be the name of a role: {reason}"
    fix = "choose another name"


@fact
class RoleUnsuitable(TatameError):
    """An existing role can do more than its duty allows, whatever is granted or revoked."""

    role: str
    duty: str
    reasons: list[str]
    what = "the role {role} cannot be the {duty} role: it {reasons}"
    fix = "choose another role with `--{duty} NAME`, or let a superuser take that from it"


@dataclass(frozen=True)
class Names:
    """The names of the four roles."""

    owner: str = OWNING.role
    app: str = APP.role
    read_only: str = READ_ONLY.role
    backup: str = BACKUP.role

    @property
    def by_duty(self) -> dict[str, str]:
        """The name of each role by the name of its duty."""
        return {OWNING.name: self.owner, APP.name: self.app, READ_ONLY.name: self.read_only, BACKUP.name: self.backup}

    @property
    def duties(self) -> dict[str, Duty]:
        """The duty of each role by the name of the role, in the order in which they are granted."""
        return {self.by_duty[duty.name]: duty for duty in DUTIES}

    def refuse_invalid(self) -> None:
        """Raise `RoleNameInvalid`."""
        names = list(self.by_duty.values())
        for name in names:
            if reason := _problem_of(name, names):
                raise RoleNameInvalid(name=name, reason=reason)


def _problem_of(name: str, names: list[str]) -> str | None:
    if not name:
        return "it is empty"
    if len(name.encode()) > _LONGEST_NAME_BYTES:
        return f"it has more than {_LONGEST_NAME_BYTES} bytes"
    if name.startswith("pg_") or name in {"public", "none"}:
        return "PostgreSQL reserves it"
    if not name.isprintable():
        return "it contains a character that cannot be printed"
    return "two of the four roles have it" if names.count(name) > 1 else None


def refuse_unsuitable(connection: Connection, names: Names) -> None:
    """Raise `RoleUnsuitable` for an existing role that can do more than its duty allows."""
    rows = connection.execute(
        text(
            "SELECT r.rolname, array_remove(ARRAY["
            " CASE WHEN r.rolsuper THEN 'is a superuser' END,"
            " CASE WHEN r.rolcreaterole THEN 'may create roles' END,"
            " CASE WHEN EXISTS (SELECT FROM pg_roles g WHERE g.oid <> r.oid AND pg_has_role(r.oid, g.oid, 'MEMBER')"
            " AND g.rolsuper AND NOT r.rolsuper) THEN 'is a member of a superuser' END,"
            " (SELECT 'is a member of ' || quote_ident(o.rolname) FROM pg_roles o WHERE o.rolname = :owner"
            " AND pg_has_role(r.oid, o.oid, 'MEMBER') AND NOT r.rolsuper)], NULL)"
            " FROM pg_roles r WHERE r.rolname = ANY(:roles)"
        ),
        {"owner": names.owner, "roles": list(names.by_duty.values())},
    )
    reasons = {role: list(found) for role, found in rows}
    for duty in (APP, READ_ONLY, BACKUP):
        if found := reasons.get(names.by_duty[duty.name]):
            raise RoleUnsuitable(role=names.by_duty[duty.name], duty=duty.name, reasons=found)
