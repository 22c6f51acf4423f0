"""Who may do what in a database: each role with its rights on the tables of the models."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sqlalchemy import text

from tatame_db.database.dialect import SCHEMA
from tatame_db.roles.dump import undumpable
from tatame_db.roles.excess import duties_in_use, excess, in_sentences, rights_held
from tatame_db.roles.facts import facts_of
from tatame_db.roles.names import Names
from tatame_db.roles.needs import BACKUP, MIGRATE, OWNER, WRITE_ROWS, Need
from tatame_db.roles.rights import in_words, missing_rights, rows_of
from tatame_db.schema import Base

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from tatame_db.roles.needs import Duty
    from tatame_db.roles.rights import Right

_ASKED = (*WRITE_ROWS, *MIGRATE, Need("REPLICATION", "role"))


@dataclass(frozen=True)
class RoleRights:
    """A role, and what it may do with the tables of the models."""

    name: str
    is_current: bool
    """Whether the address logs in as it."""
    can_login: bool
    """False for a group."""
    attributes: list[str]
    """Of `superuser`, `replication`, `bypassrls`, `createdb` and `createrole`, those that it has."""
    owns: int
    """The number of tables that it owns, or whose owner's rights it inherits."""
    reads: int
    """The number of tables of which it may read all columns."""
    writes: int
    """The number of tables in which it may insert, update and delete rows."""
    creates: bool
    """Whether it may create tables in the schema `public`."""
    migrates: bool
    """Whether it may run every migration: it owns all tables, and may write the record of migrations."""
    backs_up: Literal["yes", "pg_dump", "no"]
    """Whether it may run pg_dump of the whole database, and with `yes` pg_basebackup too."""

    @property
    def is_superuser(self) -> bool:
        """Whether no right is ever missing."""
        return "superuser" in self.attributes


@dataclass(frozen=True)
class Roles:
    """The roles of a server, as far as they concern one database."""

    database: str
    tables: int
    """The number of existing tables of the models."""
    roles: list[RoleRights]
    in_use: bool
    """Whether the four roles have rights in this database."""
    beyond: list[str]
    """What the four roles and PUBLIC can do beyond their parts, with the statements that take it away."""
    lacking: list[str]
    """What the four roles lack of their parts."""
    unable: list[str]
    """What keeps the roles for backups from running pg_dump, with the statements that let them."""

    @property
    def current(self) -> RoleRights:
        """The role of the address."""
        return next(role for role in self.roles if role.is_current)


def list_roles(connection: Connection, names: Names | None = None) -> Roles:
    """Return the roles that can log in, groups with members, and owners of tables, with their rights; changes nothing.

    It asks the catalogue alone, so any role that may connect can call it. PostgreSQL's own roles are left out. Where
    the four roles have their rights, it says whether they have more or less than their parts.

        >>> with db.engine.connect() as connection:
        ...     list_roles(connection).current.is_superuser
        False
    """
    duties = duties_in_use(connection, names or Names())
    found = connection.execute(text(_ROLES), {"tables": list(Base.metadata.tables), "duties": list(duties)}).all()
    database, tables = connection.execute(
        text(
            "SELECT current_database(), (SELECT count(*) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace"
            f" WHERE nspname = '{SCHEMA}' AND relkind IN ('r', 'p') AND relname = ANY(:tables))"
        ),
        {"tables": list(Base.metadata.tables)},
    ).one()
    listed = [row.rolname for row in found]
    missing = missing_rights(rows_of(connection), _ASKED, listed)
    obstacles = undumpable(connection, listed)
    return Roles(
        database,
        tables,
        [
            _rights(
                missing[row.rolname],
                tables,
                dumps=not obstacles[row.rolname],
                name=row.rolname,
                is_current=row.is_current,
                can_login=row.rolcanlogin,
                attributes=row.attributes,
            )
            for row in found
        ],
        in_use=bool(duties),
        beyond=_beyond(connection, duties),
        lacking=_lacking(connection, duties),
        unable=[
            one.sentence(role) for role, duty in duties.items() if duty is BACKUP for one in obstacles.get(role, [])
        ],
    )


def _beyond(connection: Connection, duties: dict[str, Duty]) -> list[str]:
    if not duties:
        return []
    facts = facts_of(connection, duties)
    return in_sentences(excess(rights_held(connection, facts, duties), duties, facts))


def _lacking(connection: Connection, duties: dict[str, Duty]) -> list[str]:
    rows = rows_of(connection)
    # A server may allow no replication.
    missing = {
        role: missing_rights(rows, [need for need in duty.needs if need.kind != "role"], [role])[role]
        for role, duty in duties.items()
    }
    return [f"{role} lacks {'; '.join(in_words(rights))}" for role, rights in missing.items() if rights]


def _rights(
    missing: Sequence[Right],
    tables: int,
    *,
    dumps: bool,
    name: str,
    is_current: bool,
    can_login: bool,
    attributes: Sequence[str],
) -> RoleRights:
    lacks = {(right.privilege, right.kind, right.schema) for right in missing}
    on_tables = Counter(right.privilege for right in missing if right.kind == "table" and right.schema == SCHEMA)
    unwritable = {
        right.name
        for right in missing
        if right.kind == "table" and right.schema == SCHEMA and right.privilege in {"INSERT", "UPDATE", "DELETE"}
    }
    enters = ("USAGE", "schema", SCHEMA) not in lacks
    replicates = ("REPLICATION", "role", None) not in lacks
    return RoleRights(
        name,
        is_current,
        can_login,
        list(attributes),
        owns=tables - on_tables[OWNER],
        reads=tables - on_tables["SELECT"] if enters else 0,
        writes=tables - len(unwritable) if enters else 0,
        creates=("CREATE", "schema", SCHEMA) not in lacks,
        migrates=not any(_concerns(right, MIGRATE) for right in missing),
        backs_up="no" if not dumps else "yes" if replicates else "pg_dump",
    )


def _concerns(right: Right, needs: Sequence[Need]) -> bool:
    if right.kind == "database":
        # A schema that does not exist.
        return any(need.privilege == right.privilege and need.kind == "schema" for need in needs)
    return any(
        (need.privilege, need.kind, need.schema) == (right.privilege, right.kind, right.schema) for need in needs
    )


_ROLES = f"""
SELECT r.rolname, r.rolname = current_user AS is_current, r.rolcanlogin, array_remove(ARRAY[
    CASE WHEN r.rolsuper THEN 'superuser' END, CASE WHEN r.rolreplication THEN 'replication' END,
    CASE WHEN r.rolbypassrls THEN 'bypassrls' END, CASE WHEN r.rolcreatedb THEN 'createdb' END,
    CASE WHEN r.rolcreaterole THEN 'createrole' END], NULL) AS attributes
FROM pg_roles r
WHERE r.rolname !~ '^pg_' AND (r.rolcanlogin OR r.rolname = current_user OR r.rolname = ANY(:duties)
    OR EXISTS (SELECT FROM pg_auth_members m WHERE m.roleid = r.oid)
    OR EXISTS (SELECT FROM pg_class c WHERE c.relowner = r.oid AND c.relnamespace = to_regnamespace('{SCHEMA}')
        AND c.relname = ANY(:tables)))
ORDER BY r.rolname <> current_user, r.rolcanlogin DESC, r.rolname
"""
