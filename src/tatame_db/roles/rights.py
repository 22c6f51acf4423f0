"""Which needs a role lacks, as PostgreSQL's catalogue says, and the statements that give it the missing rights."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tatame_db.database.dialect import SCHEMA, quoted
from tatame_db.roles.needs import ALL_ROWS, OWNER, SECRET
from tatame_db.schema import Base

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from sqlalchemy import Connection

    from tatame_db.roles.needs import Need

    Rows = Callable[[str, dict[str, Any]], Sequence[Sequence[Any]]]
    """Runs a query with parameters as psycopg writes them: a move has connections without SQLAlchemy."""

_INHERIT_OPTION = 160_000
"""The first version in which a grant of membership says whether its rights are inherited."""

# Names are looked up in the catalogue, because a look-up by `to_regclass` is itself an error without USAGE.
_OBJECTS = f"""
object AS (
    SELECT c.oid, n.nspname, c.relname, c.relkind, c.relowner,
        n.nspname <> '{SCHEMA}' AND c.relname = '{SECRET}' AS secret
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY(SELECT DISTINCT schema FROM need)
        AND (n.nspname <> '{SCHEMA}' OR c.relname = ANY(CAST(%(tables)s AS text[])) OR c.relkind = 'S' AND EXISTS (
            SELECT FROM pg_depend d JOIN pg_class t ON t.oid = d.refobjid WHERE d.objid = c.oid
                AND d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
                AND t.relname = ANY(CAST(%(tables)s AS text[]))))
)"""
_MISSING = f"""
WITH need AS (
    SELECT * FROM unnest(
        CAST(%(privileges)s AS text[]), CAST(%(kinds)s AS text[]), CAST(%(schemas)s AS text[]),
        CAST(%(secrets)s AS boolean[])
    ) AS n (privilege, kind, schema, secret)
), {_OBJECTS}, wanted AS (
    SELECT need.privilege, need.kind, need.schema, object.relname, object.oid, object.relowner AS owner
    FROM need JOIN object ON object.nspname = need.schema AND object.secret = need.secret
        AND object.relkind = ANY(CASE need.kind WHEN 'table' THEN '{{r,p}}' WHEN 'sequence' THEN '{{S}}' END::"char"[])
    UNION ALL
    -- A schema that does not exist has to be created.
    SELECT CASE WHEN n.oid IS NULL THEN 'CREATE' ELSE need.privilege END,
        CASE WHEN n.oid IS NULL THEN 'database' ELSE 'schema' END, need.schema, NULL, n.oid, n.nspowner
    FROM need LEFT JOIN pg_namespace n ON n.nspname = need.schema
    WHERE need.kind = 'schema' AND (n.oid IS NOT NULL OR need.privilege IN ('CREATE', '{OWNER}'))
    UNION ALL SELECT privilege, kind, NULL, NULL, NULL, NULL FROM need WHERE kind IN ('database', 'role')
)
SELECT DISTINCT r.rolname AS role, w.privilege, w.kind, CASE WHEN w.kind <> 'database' THEN w.schema END AS schema,
    w.relname AS name, o.rolname AS owner,
    o.rolsuper OR pg_has_role(o.oid, r.oid, 'MEMBER') AS unusable,
    w.kind = 'table' AND w.privilege IN ('SELECT', 'INSERT', 'UPDATE')
        AND has_any_column_privilege(r.oid, w.oid, CASE w.kind WHEN 'table' THEN
            CASE WHEN w.privilege IN ('SELECT', 'INSERT', 'UPDATE') THEN w.privilege ELSE 'SELECT' END ELSE 'SELECT' END
        ) AS columns
FROM wanted w CROSS JOIN pg_roles r LEFT JOIN pg_roles o ON o.oid = w.owner
WHERE r.rolname = ANY(CAST(%(roles)s AS text[])) AND NOT CASE
    WHEN w.privilege = 'REPLICATION' THEN r.rolreplication OR r.rolsuper
    WHEN w.kind = 'database' THEN has_database_privilege(r.oid, current_database(), w.privilege)
    WHEN w.privilege = '{OWNER}' THEN pg_has_role(r.oid, w.owner, 'USAGE')
    WHEN w.kind = 'schema' THEN has_schema_privilege(r.oid, w.oid, w.privilege)
    WHEN w.kind = 'sequence' THEN has_sequence_privilege(r.oid, w.oid, w.privilege)
    WHEN w.privilege = '{ALL_ROWS}' THEN r.rolsuper OR r.rolbypassrls OR NOT (
        SELECT c.relrowsecurity AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, w.owner, 'USAGE'))
        FROM pg_class c WHERE c.oid = w.oid)
    ELSE has_table_privilege(r.oid, w.oid, w.privilege)
END
ORDER BY role, kind, schema, name, privilege
"""


@dataclass(frozen=True)
class Right:
    """A right that a role lacks on one object."""

    privilege: str
    kind: str
    schema: str | None = None
    name: str | None = None
    owner: str | None = None
    """The owner of the object."""
    owner_is_unusable: bool = False
    """Whether no role should become a member of that owner: it is a superuser, or a member itself."""
    has_columns: bool = False
    """Whether the role has the privilege on some columns of the table."""

    @property
    def object(self) -> str:
        """The object as SQL names it."""
        return ".".join(quoted(part) for part in (self.schema, self.name) if part is not None)


@dataclass(frozen=True)
class Holder:
    """A role as far as grants depend on it."""

    role: str
    database: str
    inherits: bool
    server_version: int
    uninherited: tuple[str, ...]
    """The roles that it is a member of without inheriting their rights."""


def rows_of(connection: Connection) -> Rows:
    """Return the function that runs queries on a connection of SQLAlchemy."""
    return lambda query, parameters: connection.exec_driver_sql(query, parameters).all()


def missing_rights(rows: Rows, needs: Iterable[Need], roles: Sequence[str] | None = None) -> dict[str, list[Right]]:
    """Return the rights that each role lacks for these needs; by default those of the connection's own role.

    Objects that do not exist need no right. It asks the catalogue only, which every role may read.
    """
    wanted = list(dict.fromkeys(needs))
    names = [rows("SELECT current_user", {})[0][0]] if roles is None else list(roles)
    missing = rows(
        _MISSING,
        {
            "privileges": [need.privilege for need in wanted],
            "kinds": [need.kind for need in wanted],
            "schemas": [need.schema for need in wanted],
            "secrets": [need.is_secret for need in wanted],
            "tables": list(Base.metadata.tables),
            "roles": names,
        },
    )
    found: dict[str, list[Right]] = {name: [] for name in names}
    for role, *right in missing:
        found[role].append(Right(*right))
    return found


def holder_of(rows: Rows) -> Holder:
    """Return the role of a connection."""
    [(name, database, inherits, version, uninherited)] = rows(
        "SELECT r.rolname, current_database(), r.rolinherit, current_setting('server_version_num')::integer,"
        " ARRAY(SELECT g.rolname::text FROM pg_roles g WHERE pg_has_role(r.oid, g.oid, 'MEMBER')"
        " AND NOT pg_has_role(r.oid, g.oid, 'USAGE') AND NOT r.rolsuper ORDER BY 1)"
        " FROM pg_roles r WHERE r.rolname = current_user",
        {},
    )
    return Holder(name, database, inherits, version, tuple(uninherited))


def grant(privileges: str, objects: str, role: str) -> str:
    """Write the statement that gives a role privileges on objects, all of them as SQL writes them."""
    return f"GRANT {privileges} ON {objects} TO {role}"


def grants(holder: Holder, rights: Iterable[Right]) -> list[str]:
    """Return the statements, without semicolons, that give a role these rights: an owner or a superuser runs them."""
    role = quoted(holder.role)
    statements: list[str] = []
    privileges: dict[tuple[str, str], list[str]] = defaultdict(list)
    for right in rights:
        if right.privilege == ALL_ROWS:
            statements.append(f"ALTER ROLE {role} BYPASSRLS")
        elif right.kind == "role":
            statements.append(f"ALTER ROLE {role} {right.privilege}")
        elif right.privilege == OWNER:
            statements += _ownership(holder, right)
        else:
            target = quoted(holder.database) if right.kind == "database" else right.object
            privileges[right.kind, target].append(right.privilege)
    objects: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (kind, name), granted in privileges.items():
        objects[kind, ", ".join(granted)].append(name)
    statements += [
        grant(granted, f"{kind.upper()} {', '.join(names)}", role) for (kind, granted), names in objects.items()
    ]
    return list(dict.fromkeys(statements))


def _ownership(holder: Holder, right: Right) -> list[str]:
    role = quoted(holder.role)
    if right.owner_is_unusable or right.owner is None:
        return [f"ALTER {right.kind.upper()} {right.object} OWNER TO {role}"]
    if holder.server_version >= _INHERIT_OPTION:
        return [f"GRANT {quoted(right.owner)} TO {role} WITH INHERIT TRUE"]
    return [*([] if holder.inherits else [f"ALTER ROLE {role} INHERIT"]), f"GRANT {quoted(right.owner)} TO {role}"]


_MOST_NAMED = 3


def in_words(rights: Iterable[Right]) -> list[str]:
    """Describe rights, those on many objects of a schema by their number."""
    privileges: dict[tuple[str, str | None, str], list[str]] = defaultdict(list)
    for right in rights:
        privileges[right.kind, right.schema, right.object].append(right.privilege)
    objects: dict[tuple[str, str | None, str], list[str]] = defaultdict(list)
    for (kind, schema, name), found in privileges.items():
        objects[kind, schema, ", ".join(_word(privilege) for privilege in found)].append(name)
    return [_phrase(kind, schema, found, names) for (kind, schema, found), names in objects.items()]


def _word(privilege: str) -> str:
    return {OWNER: "ownership", ALL_ROWS: "a view of all rows"}.get(privilege, privilege)


def _phrase(kind: str, schema: str | None, privileges: str, names: list[str]) -> str:
    of = "of" if privileges.startswith(("ownership", "a view")) else "on"
    if kind in {"role", "member"}:
        return privileges if kind == "role" else f"{privileges} of {', '.join(names)}"
    if kind.startswith("future"):
        return f"{privileges} on {kind}{f' of {schema}' if schema else ''}"
    if kind == "database":
        return f"{privileges} {of} the database"
    if len(names) > _MOST_NAMED:
        return f"{privileges} {of} {len(names)} {kind}s of {schema}"
    return f"{privileges} {of} {'the schema ' if kind == 'schema' else ''}{', '.join(names)}"
