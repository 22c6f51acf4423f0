"""The role of the address: what a flaw of the app could do with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.doctor.finding import bad, good, warn
from tatame_db.doctor.lines import line
from tatame_db.errors import counted
from tatame_db.roles.listing import list_roles

if TYPE_CHECKING:
    from tatame_db.doctor.examination import Examination
    from tatame_db.doctor.finding import Answer
    from tatame_db.roles.listing import Roles

_GROUP = "Rights"
_FOUR_ROLES = "`tatame-db roles --apply` creates a role for the app, which owns nothing: put it into its `DATABASE_URL`"


@line(_GROUP, warns="the role is a superuser", bad="the role is a superuser, and `TATAME_ENV` is `production`")
def superuser(examination: Examination) -> Answer:
    """Whether the role of the address is a superuser, or can become one."""
    role = examination.known.role
    if examination.embedded:
        return good("the owner of the embedded server alone can open its socket")
    above = examination.names(
        "SELECT rolname FROM pg_roles WHERE rolsuper AND pg_has_role(current_user, oid, 'MEMBER') ORDER BY 1"
    )
    if not above:
        return good(f"{role} is no superuser")
    text = f"{role} is a superuser, so a flaw of the app can run programs on the server"
    if not examination.known.superuser:
        text = f"{role} is a member of {above[0]}, a superuser"
    return bad(text, _FOUR_ROLES) if examination.setup.production else warn(text, _FOUR_ROLES)


@line(_GROUP, warns="the role owns tables")
def ownership(examination: Examination) -> Answer | None:
    """Whether the role of the app may drop and change tables, which only migrations need."""
    if examination.embedded or examination.known.superuser:
        return None
    found = _roles(examination)
    role, owned = examination.known.role, found.current.owns
    if not owned:
        return good(f"{role} owns none of the {counted(found.tables, 'table')}")
    return warn(
        f"{role} owns {owned} of {counted(found.tables, 'table')}, so a flaw of the app can drop them", _FOUR_ROLES
    )


@line(_GROUP, warns="only superusers can back the database up")
def backup(examination: Examination) -> Answer | None:
    """Whether a role can back the database up that can do no harm."""
    if examination.embedded:
        return None
    able = [role for role in _roles(examination).roles if role.can_login and role.backs_up != "no"]
    if harmless := [role.name for role in able if not role.is_superuser]:
        return good(f"{harmless[0]} can, and is no superuser")
    return warn("only superusers can", "`tatame-db roles --apply` creates a role for backups")


def _roles(examination: Examination) -> Roles:
    with examination.engine.connect() as connection:
        return list_roles(connection)
