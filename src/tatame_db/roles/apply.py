"""Create the four roles and grant their rights: all of it in one transaction, or nothing."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tatame_db.database.dialect import CHECK_DEFERRED
from tatame_db.errors import TatameError, counted, fact, listed
from tatame_db.roles.excess import Held, excess, in_sentences, rights_held
from tatame_db.roles.facts import facts_of
from tatame_db.roles.names import Names
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


@fact
class RolesRejected(TatameError):
    """PostgreSQL rejected a statement for another reason than a missing right."""

    statement: str
    reason: str
    what = "PostgreSQL rejected `{statement}`: {reason}"
    fix = "fix the problem PostgreSQL reports above, such as an event trigger that refuses grants"


@fact
class RightsRemain(TatameError):
    """The roles have their rights, and more."""

    rights: list[str]
    """What each role has beyond its part, with the statements that take it away."""
    exit_code = 3
    what = "{number} that `tatame-db roles --apply` does not take away:\n{sentences}"
    means = "The four roles have their rights; these go beyond their parts."
    fix = "let a superuser run these statements, if no other program needs them, and then the command again"

    @property
    def number(self) -> str:
        """How many groups of rights there are."""
        return f"{counted(len(self.rights), 'right')} remain{'s' if len(self.rights) == 1 else ''}"

    @property
    def sentences(self) -> str:
        """One a line."""
        return listed(self.rights)


@dataclass(frozen=True)
class RolesApplied:
    """What changed; nothing if the roles had their rights already."""

    created: list[str]
    """The new roles, which have no password yet."""
    changes: list[str]
    """Each role with what it gained or lost, in words."""
    remaining: list[str]
    """What roles still have beyond their parts, with the statements that take it away: those may concern others."""


def apply(connection: Connection, names: Names | None = None, *, replication: bool = True) -> RolesApplied:
    """Create the roles that do not exist, and give all four the rights of their declaration. Commits.

    What they have beyond it is revoked, with what PUBLIC has on the tables. What comes from ownership or from a group
    of others remains, and is returned.

    Existing roles keep their passwords and logins. Rights are read back before the commit: a role that may not grant
    one gets no error from PostgreSQL if it has that right itself. Raises `RightsNotGranted`, `RolesBusy`,
    `RolesRejected`, `RoleNameInvalid`, `RoleUnsuitable`; nothing is changed then.
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
    parts = script(connection, names, replication=replication)
    roles = list(names.duties)
    facts = facts_of(connection, roles)
    created = [role for role in roles if facts.lacks(role)]
    before = _of_interest(rights_held(connection, facts, roles), roles)
    user = str(connection.scalar(text("SELECT current_user")))
    for sql in [*(statement.sql for _, part in parts for statement in part if statement.needed), CHECK_DEFERRED]:
        try:
            connection.exec_driver_sql(sql, execution_options={"no_parameters": True})
        except DBAPIError as error:
            if isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
                reason = str(error.orig.diag.message_primary)
                raise RightsNotGranted(role=user, statement=sql, reason=reason) from error
            if isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise RolesBusy(statement=sql) from error
            if error.connection_invalidated or not isinstance(error.orig, psycopg.Error):
                raise
            reason = error.orig.diag.message_primary or str(error.orig)
            raise RolesRejected(statement=sql, reason=reason) from error
    _refuse_silent_failure(connection, names, user, replication=replication)
    facts = facts_of(connection, roles)
    held = rights_held(connection, facts, roles)
    after = _of_interest(held, roles)
    changes = [f"{role} has {what}" for role, what in _described(after - before)]
    changes += [f"{role} no longer has {what}" for role, what in _described(before - after)]
    return RolesApplied(created, changes, in_sentences(excess(held, names.duties, facts)))


def _refuse_silent_failure(connection: Connection, names: Names, user: str, *, replication: bool) -> None:
    for role, duty in names.duties.items():
        needs = [need for need in duty.needs if replication or need.kind != "role"]
        if missing := missing_rights(rows_of(connection), needs, [role])[role]:
            granted = f"GRANT {missing[0].privilege} ON {missing[0].object or 'DATABASE'} TO {role}"
            raise RightsNotGranted(
                role=user, statement=granted, reason=f"{role} has no {', '.join(in_words(missing))} afterwards"
            )


def _of_interest(held: Iterable[Held], roles: list[str]) -> set[tuple[str, Right]]:
    """Leave out the attributes and groups of roles that are not among the four."""
    return {
        (one.role, one.right)
        for one in held
        if one.role in roles or (one.right.kind != "role" and (one.right.kind != "member" or one.right.name in roles))
    }


def _described(facts: Iterable[tuple[str, Right]]) -> list[tuple[str, str]]:
    by_role: dict[str, list[Right]] = defaultdict(list)
    for role, right in sorted(facts, key=str):
        by_role[role].append(right)
    return [(role, "; ".join(in_words(rights))) for role, rights in by_role.items()]
