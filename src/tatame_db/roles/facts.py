"""What a database has before its roles get their rights: the roles, the schemas, and the objects in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from tatame_db.database.dialect import SCHEMA
from tatame_db.roles.needs import SCHEMAS, SECRET
from tatame_db.schema import Base

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection


_SET_OPTION = 160_000
"""The first version in which a member may act as a role only if its membership says so."""
_PARAMETER_PRIVILEGES = 150_000
"""The first version in which the right to a setting can be granted."""


@dataclass(frozen=True)
class Object:
    """An object of our schemas: its type as `ALTER` names it, and its name as SQL has it."""

    schema: str
    type: str
    name: str
    owner: str
    is_secret: bool
    follows: bool
    """Whether its owner is that of its table."""
    oid: int


@dataclass(frozen=True)
class Facts:
    """What the database has, before anything is changed."""

    version: int
    database: str
    user: str
    is_superuser: bool
    hides_rows: bool
    """Whether a table has row-level security."""
    limits_temp_files: bool
    """Whether the user may limit what others write to temporary files."""
    existing: dict[str, tuple[bool, bool]]
    """Of the roles that exist: whether one replicates, and whether the user may act as it."""
    schemas: dict[str, str]
    """The existing schemas and their owners."""
    objects: list[Object]

    def lacks(self, role: str) -> bool:
        """Return whether a role does not exist."""
        return role not in self.existing


_SERVER = f"""
SELECT current_setting('server_version_num')::integer AS version, current_database() AS database, current_user AS user,
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,
    EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('{SCHEMA}') AND relrowsecurity
        AND relname = ANY(:tables)) AS hides_rows
"""
_ROLES = """
SELECT rolname, rolreplication, pg_has_role(oid, '{acts}') FROM pg_roles WHERE rolname = ANY(:names)
"""
_SCHEMAS = """
SELECT n.nspname::text, r.rolname::text FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
WHERE n.nspname = ANY(:schemas) ORDER BY array_position(CAST(:schemas AS text[]), n.nspname::text)
"""
# Tables and partitions of the models, what the four roles own, and what belongs to the owners of the tables: a view, a
# function or a type of a migration. Another table is another program's, and so is a view that reads it.
_OBJECTS = f"""
WITH RECURSIVE model AS (
    SELECT oid, relowner FROM pg_class
    WHERE relnamespace = to_regnamespace('{SCHEMA}') AND relname = ANY(CAST(:tables AS text[]))
    UNION SELECT c.oid, c.relowner FROM model JOIN pg_inherits i ON i.inhparent = model.oid
    JOIN pg_class c ON c.oid = i.inhrelid
), of_others AS (
    SELECT oid FROM pg_class
    WHERE relkind IN ('r', 'p', 'f') AND oid NOT IN (SELECT oid FROM model)
        AND NOT pg_get_userbyid(relowner) = ANY(:names)
        AND relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname <> '{SCHEMA}' AND nspname = ANY(:schemas))
    UNION SELECT w.ev_class FROM of_others o JOIN pg_depend d ON d.refobjid = o.oid
    JOIN pg_rewrite w ON w.oid = d.objid
    WHERE d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_rewrite'::regclass
), found AS (
    SELECT 'pg_class'::regclass AS catalogue, oid, relnamespace AS namespace, relowner AS owner, relkind::text AS kind,
        relname = '{SECRET}' AND relnamespace <> to_regnamespace('{SCHEMA}') AS secret FROM pg_class
    WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c')
    UNION ALL SELECT 'pg_type'::regclass, t.oid, typnamespace, typowner, 'type', false FROM pg_type t
    WHERE typtype IN ('d', 'e', 'r') AND typcategory <> 'A'
    UNION ALL SELECT 'pg_proc'::regclass, oid, pronamespace, proowner, 'function', false FROM pg_proc
    UNION ALL SELECT 'pg_statistic_ext'::regclass, oid, stxnamespace, stxowner, 'statistics', false
    FROM pg_statistic_ext
)
SELECT n.nspname, CASE f.kind WHEN 'c' THEN 'TYPE' WHEN 'statistics' THEN 'STATISTICS' ELSE upper(i.type) END,
    i.identity, r.rolname, f.secret, EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = f.catalogue AND d.objid = f.oid
            AND d.refclassid = 'pg_class'::regclass AND (f.kind = 'S' AND d.deptype IN ('a', 'i') OR d.deptype = 'i')),
    f.oid
FROM found f JOIN pg_namespace n ON n.oid = f.namespace JOIN pg_roles r ON r.oid = f.owner
CROSS JOIN LATERAL pg_identify_object(f.catalogue, f.oid, 0) i
WHERE n.nspname = ANY(:schemas)
    AND (n.nspname <> '{SCHEMA}'
        OR f.catalogue = 'pg_class'::regclass AND f.oid IN (SELECT oid FROM model) OR r.rolname = ANY(:names)
        OR f.kind NOT IN ('r', 'p', 'f') AND f.owner IN (SELECT relowner FROM model)
        AND NOT (f.kind IN ('v', 'm') AND f.oid IN (SELECT oid FROM of_others)))
    AND NOT EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = f.catalogue AND d.objid = f.oid AND d.deptype = 'e')
    -- Its table decides.
    AND NOT (f.kind = 'S' AND n.nspname = '{SCHEMA}' AND NOT r.rolname = ANY(:names) AND EXISTS (
        SELECT FROM pg_depend d WHERE d.objid = f.oid AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid NOT IN (SELECT oid FROM model)))
ORDER BY array_position(CAST(:schemas AS text[]), n.nspname::text), 2, 3
"""


def facts_of(connection: Connection, roles: Iterable[str]) -> Facts:
    """Read from the catalogue what the four roles have, and which objects are theirs or will be."""
    parameters = {
        "tables": list(Base.metadata.tables),
        "schemas": list(SCHEMAS),
        "names": list(roles),
    }
    server: dict[str, Any] = dict(connection.execute(text(_SERVER), parameters).mappings().one())
    version = server["version"]
    acts = "SET" if version >= _SET_OPTION else "MEMBER"
    limits = "rolsuper" if version < _PARAMETER_PRIVILEGES else "has_parameter_privilege('temp_file_limit', 'SET')"
    return Facts(
        **server,
        limits_temp_files=bool(connection.scalar(text(f"SELECT {limits} FROM pg_roles WHERE rolname = current_user"))),
        existing={
            name: (replicates, may_act)
            for name, replicates, may_act in connection.execute(text(_ROLES.format(acts=acts)), parameters)
        },
        schemas={name: owner for name, owner in connection.execute(text(_SCHEMAS), parameters)},  # noqa: C416, rows
        objects=[Object(*row) for row in connection.execute(text(_OBJECTS), parameters)],
    )
