"""Which objects of a database a role cannot dump: pg_dump fails at the first, whichever program it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.database.dialect import quoted
from tatame_db.errors import counted

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True)
class Undumpable:
    """What keeps a role from dumping the database."""

    kind: str
    """`object`, which it may not read, `rows`, which a policy hides, or `large object`."""
    first: str
    count: int

    def sentence(self, role: str) -> str:
        """Return what is in the way, with the statement that a superuser or the owner of the object runs."""
        name = quoted(role)
        more = f" and {self.count - 1:,} more" if self.count > 1 else ""
        if self.kind == "rows":
            return f"a policy may hide rows of {self.first}{more} from {role}: `ALTER ROLE {name} BYPASSRLS`"
        if self.kind == "object":
            return f"{role} may not read {self.first}{more}: `GRANT pg_read_all_data TO {name}`"
        statement = f"GRANT SELECT ON LARGE OBJECT {self.first} TO {name}"
        return f"{role} may not read {counted(self.count, 'large object')}: for each, `{statement}`"


# What belongs to an extension is not dumped. Large objects are many, and their owners and grants few.
_UNDUMPABLE = """
WITH role AS (SELECT oid, rolname, rolbypassrls FROM pg_roles WHERE rolname = ANY(:roles) AND NOT rolsuper),
object AS (
    SELECT c.oid, n.oid AS namespace, relkind, relowner, format('%I.%I', nspname, relname) AS name,
        relrowsecurity AS hides, relforcerowsecurity AS forced
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE relkind IN ('r', 'p', 'S') AND nspname !~ '^pg_' AND nspname <> 'information_schema' AND NOT EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
), large AS (
    SELECT lomowner, lomacl::text AS acl, min(oid)::text AS first, count(*) AS number FROM pg_largeobject_metadata
    GROUP BY 1, 2
)
SELECT rolname, CASE WHEN readable THEN 'rows' ELSE 'object' END, min(name), count(*)
FROM role CROSS JOIN object CROSS JOIN LATERAL (
    SELECT CASE WHEN NOT has_schema_privilege(role.oid, namespace, 'USAGE') THEN false
        WHEN relkind = 'S' THEN has_sequence_privilege(role.oid, object.oid, 'SELECT')
        ELSE has_table_privilege(role.oid, object.oid, 'SELECT') END AS readable
) AS r
WHERE NOT readable
    OR hides AND NOT rolbypassrls AND (forced OR NOT pg_has_role(role.oid, relowner, 'USAGE'))
GROUP BY 1, 2
UNION ALL
SELECT rolname, 'large object', min(first), sum(number) FROM role CROSS JOIN large
WHERE NOT pg_has_role(role.oid, lomowner, 'USAGE') AND NOT EXISTS (
    SELECT FROM aclexplode(acl::aclitem[]) a
    WHERE privilege_type = 'SELECT' AND (grantee = 0 OR pg_has_role(role.oid, grantee, 'USAGE')))
GROUP BY 1
ORDER BY 1, 2
"""


def undumpable(connection: Connection, roles: list[str]) -> dict[str, list[Undumpable]]:
    """Return what keeps each role from dumping this database; asks the catalogue alone."""
    found: dict[str, list[Undumpable]] = {role: [] for role in roles}
    for role, kind, first, count in connection.execute(text(_UNDUMPABLE), {"roles": roles}):
        found[role].append(Undumpable(kind, first, int(count)))
    return found
