"""The role of the address: what a flaw of the app could do with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.doctor import advice
from tatame_db.doctor.finding import bad, good, warn
from tatame_db.doctor.lines import line
from tatame_db.errors import counted
from tatame_db.roles.listing import list_roles

if TYPE_CHECKING:
    from tatame_db.doctor.examination import Examination
    from tatame_db.doctor.finding import Answer
    from tatame_db.roles.listing import Roles

_GROUP = "Rights"
_GIVES_PARTS = "`tatame-db roles --apply`, as the role that created them, gives the roles their parts"
_FOUR_ROLES = "`tatame-db roles --apply` creates a role for the app, which owns nothing: put it into its `DATABASE_URL`"


@line(_GROUP, warns="the role is a superuser", bad="the role is a superuser, and `TATAME_ENV` is `production`")
def superuser(examination: Examination) -> Answer:
    """Whether the role of the address is a superuser, or can become one."""
    role = examination.known.role
    if examination.embedded:
        return good("the owner of the embedded server alone can open its socket")
    above = examination.names(
        "SELECT CASE WHEN rolname = current_user THEN 'has CREATEROLE, with which it can join roles that run programs"
        " on the server' WHEN rolsuper THEN 'is a member of ' || quote_ident(rolname) || ', a superuser'"
        " ELSE 'is a member of ' || quote_ident(rolname) || ', which can run programs on the server' END"
        " FROM pg_roles WHERE pg_has_role(current_user, oid, 'MEMBER')"
        " AND (rolsuper OR rolname IN ('pg_execute_server_program', 'pg_write_server_files')"
        # Later, it can only grant the roles that it has made.
        " OR rolname = current_user AND rolcreaterole AND current_setting('server_version_num')::integer < 160000)"
        " ORDER BY 1"
    )
    if not above:
        return good(f"{role} is no superuser")
    text = f"{role} is a superuser, so a flaw of the app can run programs on the server"
    if not examination.known.superuser:
        text = f"{role} {above[0]}"
    return bad(text, _FOUR_ROLES) if examination.setup.production else warn(text, _FOUR_ROLES)


@line(_GROUP, warns="the role owns tables, or the database")
def ownership(examination: Examination) -> Answer | None:
    """Whether the role of the app may drop and change tables, which only migrations need."""
    if examination.embedded or examination.known.superuser:
        return None
    found = _roles(examination)
    role, owned = examination.known.role, found.current.owns
    database, is_owner, superuser = examination.row(_OWNER)
    if is_owner:
        migrating = advice.migrating_role(examination)
        another = superuser if migrating in examination.known.roles else migrating
        return warn(
            f"{role} owns the database, so a flaw of the app can drop what is in it",
            advice.sql(examination, (f"ALTER DATABASE {database} OWNER TO {another}", advice.SUPERUSER)),
        )
    if not owned:
        return good(f"{role} owns none of the {counted(found.tables, 'table')}")
    return warn(
        f"{role} owns {owned} of {counted(found.tables, 'table')}, so a flaw of the app can drop them", _FOUR_ROLES
    )


# The oldest superuser exists on every server.
_OWNER = (
    "SELECT quote_ident(datname), pg_has_role(datdba, 'MEMBER'), quote_ident(pg_get_userbyid(10))"
    " FROM pg_database WHERE datname = current_database()"
)


@line(_GROUP, warns="only roles that change rows can, or the role for backups cannot read all of the database")
def backup(examination: Examination) -> Answer | None:
    """Whether a role can back the database up that can do no harm."""
    if examination.embedded:
        return None
    found = _roles(examination)
    able = [role for role in found.roles if role.can_login and role.backs_up != "no"]
    if harmless := [role.name for role in able if not (role.is_superuser or role.owns or role.writes)]:
        return good(f"{harmless[0]} can, and changes no row")
    if found.unable:
        return warn(
            f"pg_dump fails: {found.unable[0]}", "let a superuser run this statement, or back up as a superuser"
        )
    return warn("only roles that change rows can", "`tatame-db roles --apply` creates a role for backups")


@line(_GROUP, warns="one of the four roles lacks rights", bad="one of them, or PUBLIC, can do more than its part")
def roles(examination: Examination) -> Answer | None:
    """Whether the roles of `tatame-db roles --apply` can do what their parts say, and no more."""
    found = _roles(examination)
    if found.beyond:
        text = "; ".join(found.beyond)
        return bad(f"beyond its part, {text}", f"{_GIVES_PARTS}, and names what it does not take away")
    if found.lacking:
        return warn("; ".join(found.lacking), _GIVES_PARTS)
    return good("each has its part, and no more") if found.in_use else None


def _roles(examination: Examination) -> Roles:
    with examination.engine.connect() as connection:
        return list_roles(connection)
