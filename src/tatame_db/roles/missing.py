"""PostgreSQL's refusal of a right, in words: which right on which object is missing, and the statement that gives it.

The message of the server may be in any language and names one object only. So the catalogue is asked for all that the
command needs.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy.exc import DBAPIError

from tatame_db.database.creation import maintenance
from tatame_db.database.dialect import SCHEMA, quoted
from tatame_db.database.errors import DatabaseUnavailable
from tatame_db.database.pool import Database
from tatame_db.errors import TatameError, fact
from tatame_db.roles.needs import COMMANDS, OWNER, SCHEMAS
from tatame_db.roles.refused import rights_refused, tables_of
from tatame_db.roles.rights import grants, holder_of, in_words, missing_rights, rows_of
from tatame_db.schema import Base

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from sqlalchemy import URL

    from tatame_db.roles.needs import Need
    from tatame_db.roles.rights import Holder, Right, Rows


@fact
class RightsMissing(TatameError):
    """The role lacks rights that the command needs."""

    role: str
    rights: list[str]
    """The missing rights, in words."""
    grants: list[str]
    """The statements that give them; none if they are not the part of the role."""
    hints: list[str]
    """What the role has, and is of no help."""
    able: list[str]
    """The roles that may run the command: the owners of the tables, or one that has this part."""
    what = "the role {role} has too few rights; it lacks {rights}{notes}"
    fix = "{advice}; `tatame-db roles` shows who may do what, and `tatame-db roles --apply` gives an app its four roles"

    @property
    def advice(self) -> str:
        """Who should run the command, or which rights let the role run it."""
        # Only a superuser grants attributes, and roles that it has not made.
        is_theirs = all(statement.startswith("GRANT ") and " ON " in statement for statement in self.grants)
        granted = f"let {'the owner of the object or ' if is_theirs else ''}a superuser run `{self.statements}`"
        run_as = f"run the command with the address of {' or '.join(self.able)} in `DATABASE_URL`"
        return "; or ".join([*([run_as] if self.able else []), *([granted] if self.grants else [])])

    @property
    def statements(self) -> str:
        """The grants as one line of SQL."""
        return "; ".join(self.grants)

    @property
    def notes(self) -> str:
        """What the role has, and is of no help."""
        return "".join(f"; {hint}" for hint in self.hints)


@fact
class StatementForbidden(TatameError):
    """PostgreSQL refused a statement to a role that has every right that the command needs."""

    role: str
    message: str
    """The words of the server, which name the object."""
    what = (
        "PostgreSQL refused a statement to the role {role}, which has every right that the command needs: a trigger, a"
        " policy or another program's object refused it ({message})"
    )
    fix = "read the log of the server, which names the statement; or run the command as the owner of the tables"


def refusal(rows: Rows, command: str) -> RightsMissing | None:
    """Return which rights the role of a connection lacks for a command; `None` if it has all."""
    needs = COMMANDS[command]
    [rights] = missing_rights(rows, needs).values()
    if not rights:
        return None
    holder = holder_of(rows)
    if able := _part_of_another(rows, needs, rights):
        return _in_words(holder, rights, grants=[], able=[able])
    owners = {str(right.owner) for right in rights if right.privilege == OWNER}
    return _in_words(holder, rights, grants=grants(holder, rights), able=sorted(owners))


def refuse_missing(rows: Rows, command: str) -> None:
    """Raise `RightsMissing` if the role of a connection lacks a right for a command."""
    if found := refusal(rows, command):
        raise found


def _part_of_another(rows: Rows, needs: Sequence[Need], rights: Sequence[Right]) -> str | None:
    """Return which of the four roles has the rights, if they go beyond the part of this one or of its groups.

    The default privileges of the owner say which roles these are, and what they may do with tables.
    """
    parts = rows(
        "SELECT pg_get_userbyid(defaclrole), g.rolname, array_agg(a.privilege_type),"
        " pg_has_role(current_user, g.oid, 'MEMBER')"
        " FROM pg_default_acl CROSS JOIN LATERAL aclexplode(defaclacl) a JOIN pg_roles g ON g.oid = a.grantee"
        f" WHERE defaclnamespace = (SELECT oid FROM pg_namespace WHERE nspname = '{SCHEMA}') AND defaclobjtype = 'r'"
        " AND a.grantee <> defaclrole AND NOT pg_has_role(current_user, defaclrole, 'MEMBER')"
        " AND NOT (SELECT rolsuper FROM pg_roles o WHERE o.oid = defaclrole) GROUP BY 1, 2, g.oid",
        {},
    )
    own = {privilege for _, _, privileges, is_own in parts if is_own for privilege in privileges}
    allowed = own | {"USAGE", "CONNECT"}
    if not own or all(right.privilege in allowed for right in rights):
        return None
    owner, peers = parts[0][0], [role for _, role, _, is_own in parts if not is_own]
    missing = missing_rights(rows, needs, peers)
    return str(next((role for role in peers if not missing[role]), owner))


def _in_words(holder: Holder, rights: Sequence[Right], *, grants: list[str], able: list[str]) -> RightsMissing:
    hints: list[str] = []
    if holder.uninherited:
        hints.append(f"it is a member of {', '.join(holder.uninherited)} without inheriting its rights")
    if columns := [right.object for right in rights if right.has_columns]:
        hints.append(f"it has the privilege on some columns of {', '.join(dict.fromkeys(columns))}")
    return RightsMissing(
        role=holder.role,
        rights=in_words(rights),
        grants=grants,
        hints=hints,
        able=able,
    )


def error_of_refusal(address: URL, command: str, error: BaseException) -> RightsMissing | StatementForbidden:
    """Ask the catalogue, on a connection of its own, why PostgreSQL refused a statement of a command.

    If SQLAlchemy has written the statement and it concerns tables of an app, the answer is about those only.
    """
    statement = error.statement if isinstance(error, DBAPIError) else None
    concerns_app = any(_is_of_app(schema, name) for _, schema, name in tables_of(statement or ""))
    with Database(address) as database, database.engine.connect() as connection:
        rows = rows_of(connection)
        if statement and concerns_app:
            rights = rights_refused(rows, statement)
            holder = holder_of(rows)
            found = _in_words(holder, rights, grants=grants(holder, rights), able=[]) if rights else None
        else:
            found = refusal(rows, command)
        return found or StatementForbidden(role=holder_of(rows).role, message=_message(error))


def _is_of_app(schema: str, name: str) -> bool:
    if schema == SCHEMA:
        return name not in Base.metadata.tables
    return schema not in SCHEMAS and schema != "information_schema" and not schema.startswith("pg_")


def _message(error: BaseException) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    message = cause.diag.message_primary if isinstance(cause, psycopg.Error) else None
    return message or type(error).__name__


def refused_login(address: URL) -> RightsMissing | None:
    """Return that the role may not connect to a database, if another database of the server says so.

    A server that refuses a login sends no SQLSTATE, and its words may be in any language.
    """
    query = (
        "SELECT r.rolname, quote_ident(datname) FROM pg_database CROSS JOIN pg_roles r WHERE datname = %s"
        " AND r.rolname = current_user AND NOT has_database_privilege(datname, 'CONNECT')"
    )
    try:
        with maintenance(address) as connection:
            row = connection.execute(query, [address.database]).fetchone()
    except DatabaseUnavailable:
        return None
    if row is None:
        return None
    role, database = row
    statement = f"GRANT CONNECT ON DATABASE {database} TO {quoted(role)}"
    return RightsMissing(
        role=role, rights=[f"CONNECT on the database {database}"], grants=[statement], hints=[], able=[]
    )


def is_refusal(error: BaseException) -> bool:
    """Return whether PostgreSQL refused a statement because of a missing right."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return isinstance(cause, psycopg.errors.InsufficientPrivilege)


@contextlib.contextmanager
def explained(address: URL, command: str, *, alone: bool = True) -> Generator[None]:
    """Turn a refusal of PostgreSQL into `RightsMissing` or `StatementForbidden`; other errors pass.

    If the command is not `alone` with this database, a refusal that the catalogue does not explain passes too.
    """
    try:
        yield
    except (DBAPIError, psycopg.Error) as error:
        if not is_refusal(error):
            raise
        reason = error_of_refusal(address, command, error)
        if isinstance(reason, StatementForbidden) and not alone:
            raise
        raise reason from error
