"""Create the four roles and grant their rights: all of it in one transaction, or nothing."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db.errors import TatameError, fact
from tatame_db.roles.names import Names
from tatame_db.roles.needs import DUTIES, SCHEMAS
from tatame_db.roles.rights import Right, in_words, missing_rights, rows_of
from tatame_db.roles.script import script

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection


@fact
class RightsNotGranted(TatameError):
    """The role that grants the rights may not grant one of them."""

    role: str
    statement: str
    reason: str
    what = "the role {role} may not run `{statement}`: {reason}"
    means = "Nothing was changed: the roles and their rights are granted together or not at all."
    fix = "{advice}"

    @property
    def advice(self) -> str:
        """Who can, or how to do without."""
        if self.statement.endswith(" REPLICATION"):
            return (
                "let a superuser run this statement, and then the command again; without a superuser, as on a managed"
                " service, add `--no-replication`: pg_dump does not need it, and pg_basebackup does not work there"
            )
        if self.statement.endswith(" BYPASSRLS"):
            return "let a superuser run this statement, and then the command again"
        if "CREATE ROLE" in self.statement:
            return "run the command as a role with CREATEROLE that owns the database, such as the one that created it"
        return (
            "run the command as a superuser; without one, as the role that owns the database and its tables and has"
            " CREATEROLE"
        )


@fact
class RolesBusy(TatameError):
    """A lock on a table was not free in time."""

    statement: str
    what = "`{statement}` waited too long for a lock on the table"
    means = "Nothing was changed."
    fix = "run the command again when long transactions have ended (see `pg_stat_activity`)"


@dataclass(frozen=True)
class RolesApplied:
    """What changed; nothing if the roles had their rights already."""

    created: list[str]
    """The new roles, which have no password yet."""
    changes: list[str]
    """Each role with what it gained or lost, in words."""


def apply(connection: Connection, names: Names | None = None, *, replication: bool = True) -> RolesApplied:
    """Create the roles that do not exist, and give all four exactly the rights of their declaration. Commits.

    Existing roles keep their passwords and logins. Rights are read back before the commit: a role that may not grant
    one gets no error from PostgreSQL if it has that right itself. Raises `RightsNotGranted`, `RolesBusy`,
    `RoleNameInvalid`, `RoleUnsuitable`; nothing is changed then.
    """
    names = names or Names()
    try:
        applied = _apply(connection, names, replication=replication)
    except BaseException:
        connection.rollback()
        raise
    connection.commit()
    return applied


def _apply(connection: Connection, names: Names, *, replication: bool) -> RolesApplied:
    roles = list(names.by_duty.values())
    parts = script(connection, names, replication=replication)
    before, existing = _state(connection, roles), _existing(connection, roles)
    user = str(connection.scalar(text("SELECT current_user")))
    for statement in (statement for _, statements in parts for statement in statements if statement.needed):
        try:
            connection.exec_driver_sql(statement.sql, execution_options={"no_parameters": True})
        except DBAPIError as error:
            if isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
                reason = str(error.orig.diag.message_primary)
                raise RightsNotGranted(role=user, statement=statement.sql, reason=reason) from error
            if isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise RolesBusy(statement=statement.sql) from error
            raise
    _refuse_silent_failure(connection, names, user, replication=replication)
    after = _state(connection, roles)
    changes = [f"{role} has {what}" for role, what in _described(after - before)]
    changes += [f"{role} no longer has {what}" for role, what in _described(before - after)]
    return RolesApplied([role for role in roles if role not in existing], changes)


def _refuse_silent_failure(connection: Connection, names: Names, user: str, *, replication: bool) -> None:
    for duty in DUTIES:
        role = names.by_duty[duty.name]
        needs = [need for need in duty.needs if replication or need.kind != "role"]
        if missing := missing_rights(rows_of(connection), needs, [role])[role]:
            granted = f"GRANT {missing[0].privilege} ON {missing[0].object or 'DATABASE'} TO {role}"
            raise RightsNotGranted(
                role=user, statement=granted, reason=f"{role} has no {', '.join(in_words(missing))} afterwards"
            )


def _existing(connection: Connection, roles: list[str]) -> set[str]:
    return set(connection.scalars(text("SELECT rolname FROM pg_roles WHERE rolname = ANY(:roles)"), {"roles": roles}))


_STATE = """
WITH object AS (
    SELECT CASE relkind WHEN 'S' THEN 'sequence' ELSE 'table' END AS kind, n.nspname AS schema, relname::text AS name,
        relowner AS owner,
        coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)) AS acl
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY(:schemas) AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    UNION ALL SELECT 'schema', nspname, NULL, nspowner, coalesce(nspacl, acldefault('n', nspowner))
    FROM pg_namespace WHERE nspname = ANY(:schemas)
    UNION ALL SELECT 'database', NULL, NULL, datdba, coalesce(datacl, acldefault('d', datdba))
    FROM pg_database WHERE datname = current_database()
    UNION ALL SELECT CASE defaclobjtype WHEN 'S' THEN 'future sequences' ELSE 'future tables' END, n.nspname, NULL,
        defaclrole, defaclacl
    FROM pg_default_acl JOIN pg_namespace n ON n.oid = defaclnamespace
    WHERE n.nspname = ANY(:schemas) AND defaclobjtype IN ('r', 'S')
    UNION ALL SELECT 'function', n.nspname, p.oid::regprocedure::text, proowner, NULL
    FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace WHERE n.nspname = ANY(:schemas)
    UNION ALL SELECT 'type', n.nspname, typname, typowner, NULL
    FROM pg_type JOIN pg_namespace n ON n.oid = typnamespace
    WHERE n.nspname = ANY(:schemas) AND typtype IN ('d', 'e', 'r')
)
SELECT r.rolname, 'OWNER', kind, schema, name FROM object JOIN pg_roles r ON r.oid = owner
WHERE kind <> 'database' AND kind !~ '^future'
UNION ALL
SELECT coalesce(r.rolname, 'PUBLIC'), a.privilege_type, kind, schema, name
FROM object CROSS JOIN LATERAL aclexplode(acl) a LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE a.grantee <> owner
UNION ALL
SELECT rolname, attribute, 'role', NULL, NULL FROM pg_roles CROSS JOIN LATERAL unnest(array_remove(ARRAY[
    CASE WHEN rolcanlogin THEN 'LOGIN' END, CASE WHEN rolreplication THEN 'REPLICATION' END,
    CASE WHEN rolbypassrls THEN 'BYPASSRLS' END], NULL) || coalesce(rolconfig, '{}')) AS attribute
WHERE rolname = ANY(:roles)
UNION ALL
SELECT m.rolname, 'membership', 'member', NULL, g.rolname
FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member JOIN pg_roles g ON g.oid = a.roleid
WHERE m.rolname = ANY(:roles) OR g.rolname = ANY(:roles)
"""

_Fact = tuple[str, Right]


def _state(connection: Connection, roles: list[str]) -> set[_Fact]:
    """Return who has which right now."""
    rows = connection.execute(text(_STATE), {"schemas": list(SCHEMAS), "roles": roles})
    return {(role, Right(privilege, kind, schema, name)) for role, privilege, kind, schema, name in rows}


def _described(facts: Iterable[_Fact]) -> list[tuple[str, str]]:
    by_role: dict[str, list[Right]] = defaultdict(list)
    for role, right in sorted(facts, key=str):
        by_role[role].append(right)
    return [(role, "; ".join(in_words(rights))) for role, rights in by_role.items()]
