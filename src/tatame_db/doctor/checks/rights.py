"""The role of the address: what a flaw of the app could do with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tatame_db.doctor.finding import bad, good, warn
from tatame_db.doctor.lines import line

if TYPE_CHECKING:
    from tatame_db.doctor.examination import Examination
    from tatame_db.doctor.finding import Answer

_GROUP = "Rights"
_LESS = "create a role that only reads and writes rows, and put it into the `DATABASE_URL` of the app"


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
    text = f"{role} is a superuser, who can run programs on the server and read its files"
    if not examination.known.superuser:
        text = f"{role} is a member of {above[0]}, a superuser"
    return bad(text, _LESS) if examination.setup.production else warn(text, _LESS)


@line(_GROUP, warns="the role owns tables")
def ownership(examination: Examination) -> Answer | None:
    """Whether the role of the app may drop and change tables, which only migrations need."""
    if examination.embedded or examination.known.superuser:
        return None
    owned, tables = examination.row(
        "SELECT count(*) FILTER (WHERE pg_has_role(relowner, 'USAGE')), count(*) FROM pg_class"
        " WHERE relnamespace = to_regnamespace('public') AND relkind IN ('r', 'p')"
    )
    if not owned:
        return good(f"{examination.known.role} owns none of the {tables} tables")
    return warn(
        f"{examination.known.role} owns {owned} of {tables} tables, so a flaw of the app can drop them",
        "let another role own the tables and migrate, and grant this one SELECT, INSERT, UPDATE and DELETE",
    )


@line(_GROUP, warns="only superusers can back the database up")
def backup(examination: Examination) -> Answer | None:
    """Whether a role can back the database up that can do no harm."""
    if examination.embedded:
        return None
    found = examination.value(
        "SELECT count(*) FROM pg_roles r WHERE rolcanlogin AND NOT rolsuper"
        " AND (rolreplication OR pg_has_role(oid, 'pg_read_all_data', 'USAGE'))"
    )
    if found:
        return good("a role that is no superuser can read or replicate all data")
    return warn(
        "only superusers can read or replicate all data",
        "`CREATE ROLE backup LOGIN REPLICATION IN ROLE pg_read_all_data`, and back up with it",
    )
