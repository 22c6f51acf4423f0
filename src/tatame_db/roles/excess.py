"""What the four roles and PUBLIC can do beyond their parts, from whichever source: a grant, a group, an attribute.

Rights that a role has by ownership, by an attribute of its own or of a group, and by membership, inherited or by
`SET ROLE`, count as those that were granted to it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.database.dialect import SCHEMA, quoted
from tatame_db.roles.needs import APP, BACKUP, CONNECT, OWNER, OWNING, READ_ONLY, SCHEMAS, SECRET, Duty, Need
from tatame_db.roles.rights import Right, in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sqlalchemy import Connection

    from tatame_db.roles.facts import Facts
    from tatame_db.roles.names import Names

PUBLIC = "PUBLIC"
_EVERYBODY = Duty("everybody", PUBLIC, "connects", (*CONNECT, *(Need("USAGE", "schema", name) for name in SCHEMAS)))
# They read statistics and settings, and no row.
_HARMLESS_GROUPS = {
    "pg_monitor",
    "pg_read_all_settings",
    "pg_read_all_stats",
    "pg_stat_scan_tables",
    "pg_use_reserved_connections",
}
# Without it, pg_dump fails on a schema of another program. It shows hashes of passwords, as pg_basebackup does.
_GROUPS = {BACKUP: {"pg_read_all_data"}}
_ATTRIBUTES = {OWNING: {"CREATEDB", "REPLICATION", "BYPASSRLS"}, BACKUP: {"REPLICATION", "BYPASSRLS"}}
_OTHER_ROLES = 3
"""How many roles beside the owner have default privileges, of which one with other default privileges is no sign."""
_GRANT_OPTION = "GRANT OPTION FOR "
_GRANTED_BY = 160_000
"""The first version in which a membership is revoked for each role that granted it."""


@dataclass(frozen=True)
class Held:
    """A right and its holder."""

    role: str
    right: Right
    grantor: str | None
    """The role that granted it, if it is not the owner of the object."""


@dataclass(frozen=True)
class Remedy:
    """What takes a right away: the beginning of a statement, and what joins those of many rights to one statement."""

    start: str
    privilege: str = ""
    kind: str = ""
    object: str = ""
    end: str = ""
    is_applied: bool = True
    """Whether `tatame-db roles --apply` runs it; otherwise it may concern others."""


@dataclass(frozen=True)
class Excess:
    """A right beyond the part of a role."""

    role: str
    right: Right
    through: str | None
    """The group that it comes from."""
    remedy: Remedy


_HELD = """
WITH object AS (
    SELECT CASE relkind WHEN 'S' THEN 'sequence' ELSE 'table' END AS kind, n.nspname AS schema, relname::text AS name,
        relowner AS owner, '' AS columns,
        coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)) AS acl
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = ANY(CAST(:objects AS oid[])) AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    UNION ALL SELECT 'table', n.nspname, relname::text, relowner, format(' (%I)', attname), attacl
    FROM pg_attribute JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE attrelid = ANY(CAST(:objects AS oid[])) AND attacl IS NOT NULL
    UNION ALL SELECT 'schema', nspname, NULL, nspowner, '', coalesce(nspacl, acldefault('n', nspowner))
    FROM pg_namespace WHERE nspname = ANY(:schemas)
    UNION ALL SELECT 'database', NULL, NULL, datdba, '', coalesce(datacl, acldefault('d', datdba))
    FROM pg_database WHERE datname = current_database()
    UNION ALL SELECT 'routine', NULL, p.oid::regprocedure::text, proowner, '', NULL
    FROM pg_proc p WHERE p.oid = ANY(CAST(:objects AS oid[]))
    UNION ALL SELECT 'type', n.nspname, typname, typowner, '', NULL
    FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace
    WHERE t.oid = ANY(CAST(:objects AS oid[])) AND typtype IN ('d', 'e', 'r')
), future AS (
    SELECT CASE defaclobjtype WHEN 'S' THEN 'future sequences' WHEN 'n' THEN 'future schemas' ELSE 'future tables' END
        AS kind, n.nspname AS schema, defaclrole AS owner, defaclacl AS acl
    FROM pg_default_acl LEFT JOIN pg_namespace n ON n.oid = defaclnamespace
    WHERE (n.nspname = ANY(:schemas) OR defaclnamespace = 0) AND defaclobjtype IN ('r', 'S', 'n')
        AND pg_get_userbyid(defaclrole) = ANY(:roles)
)
SELECT pg_get_userbyid(owner), 'OWNER', kind, schema, name, NULL, NULL FROM object WHERE columns = ''
UNION ALL
SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END, option.prefix || a.privilege_type
    || columns, kind, schema, name, NULL, CASE WHEN a.grantor <> owner THEN pg_get_userbyid(a.grantor) END
FROM object CROSS JOIN LATERAL aclexplode(acl) a
CROSS JOIN LATERAL unnest(CASE WHEN a.is_grantable THEN ARRAY['', :option] ELSE ARRAY[''] END) AS option (prefix)
WHERE a.grantee <> owner
UNION ALL
SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee) END, option.prefix || a.privilege_type,
    kind, schema, NULL, pg_get_userbyid(owner), NULL
FROM future CROSS JOIN LATERAL aclexplode(acl) a
CROSS JOIN LATERAL unnest(CASE WHEN a.is_grantable THEN ARRAY['', :option] ELSE ARRAY[''] END) AS option (prefix)
WHERE a.grantee <> owner
UNION ALL
SELECT rolname, attribute, 'role', NULL, NULL, NULL, NULL FROM pg_roles CROSS JOIN LATERAL unnest(array_remove(ARRAY[
    CASE WHEN rolsuper THEN 'SUPERUSER' END, CASE WHEN rolcreaterole THEN 'CREATEROLE' END,
    CASE WHEN rolcreatedb THEN 'CREATEDB' END, CASE WHEN rolcanlogin THEN 'LOGIN' END,
    CASE WHEN rolreplication THEN 'REPLICATION' END, CASE WHEN rolbypassrls THEN 'BYPASSRLS' END], NULL)
    || CASE WHEN rolname = ANY(:roles) THEN coalesce(rolconfig, '{}') ELSE '{}' END) AS attribute
UNION ALL
SELECT m.rolname, 'membership', 'member', NULL, g.rolname, NULL, pg_get_userbyid(grantor)
FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member JOIN pg_roles g ON g.oid = a.roleid
-- A table before its sequence, which has the owner of the table.
ORDER BY 1, 3 DESC, 4, 5, 2
"""


def rights_held(connection: Connection, facts: Facts, roles: Iterable[str]) -> list[Held]:
    """Return every right on the objects of the models, with its holder, and the attributes and groups of roles.

    Of the default privileges, it returns those for the objects that `roles` create.
    """
    rows = connection.execute(
        text(_HELD),
        {
            "objects": [found.oid for found in facts.objects],
            "schemas": list(SCHEMAS),
            "roles": list(roles),
            "option": _GRANT_OPTION,
        },
    )
    return [
        Held(role, Right(privilege, kind, schema, name, creator), grantor)
        for role, privilege, kind, schema, name, creator, grantor in rows
    ]


def duties_in_use(connection: Connection, names: Names) -> dict[str, Duty]:
    """Return the duty of each role that has one in this database.

    Roles that have default privileges of an owner have one: which, their names say, or else those privileges.
    """
    rows = connection.execute(
        text(
            "SELECT pg_get_userbyid(defaclrole), r.rolname, bool_or(a.privilege_type = 'INSERT'),"
            " bool_or(coalesce(array_to_string(r.rolconfig, ' '), '') LIKE '%temp_file_limit%')"
            " FROM pg_default_acl CROSS JOIN LATERAL aclexplode(defaclacl) a JOIN pg_roles r ON r.oid = a.grantee"
            f" WHERE defaclnamespace = to_regnamespace('{SCHEMA}') AND defaclobjtype = 'r' AND a.grantee <> defaclrole"
            " AND EXISTS (SELECT FROM pg_roles o WHERE o.oid = defaclrole AND NOT o.rolsuper) GROUP BY 1, 2"
        )
    ).all()
    named = names.duties
    owned = Counter(owner for owner, *_ in rows)
    known = {owner for owner, role, *_ in rows if owner in named or role in named or owned[owner] >= _OTHER_ROLES}
    found = {role: APP if w else READ_ONLY if limited else BACKUP for owner, role, w, limited in rows if owner in known}
    found |= dict.fromkeys(known, OWNING)
    return {role: named.get(role, duty) for role, duty in found.items()}


def excess(held: Iterable[Held], duties: Mapping[str, Duty], facts: Facts) -> list[Excess]:
    """Return what roles and PUBLIC can do beyond their duties."""
    by_holder: dict[str, list[Held]] = defaultdict(list)
    for one in held:
        by_holder[one.role].append(one)
    found = _Search(by_holder, duties, facts)
    return [
        *found.beyond(PUBLIC, _EVERYBODY),
        *(each for role, duty in duties.items() for each in found.all(role, duty)),
    ]


@dataclass(frozen=True)
class _Search:
    """The rights by their holder, and who has which duty."""

    held: Mapping[str, list[Held]]
    duties: Mapping[str, Duty]
    facts: Facts

    def all(self, role: str, duty: Duty) -> Iterator[Excess]:
        yield from self.beyond(role, duty)
        for first in self.held[role]:
            if first.right.kind == "member":
                for group in self._groups(str(first.right.name)):
                    yield from self._of_group(role, duty, first, group)

    def beyond(self, role: str, duty: Duty) -> Iterator[Excess]:
        for held in self.held.get(role, []):
            # A role that is no longer the owner creates no tables.
            is_outdated = held.right.kind.startswith("future") and self.duties[str(held.right.owner)] is not OWNING
            if held.right.kind != "member" and (is_outdated or not _allowed(duty, held.right)):
                yield Excess(role, held.right, None, self._remedy(role, duty, held))

    def _groups(self, first: str) -> list[str]:
        """Return a group, and those that it is a member of."""
        groups = [first]
        for group in groups:
            groups += [
                str(one.right.name)
                for one in self.held.get(group, [])
                if one.right.kind == "member" and one.right.name not in groups
            ]
        return groups

    def _of_group(self, role: str, duty: Duty, first: Held, group: str) -> Iterator[Excess]:
        if group in _HARMLESS_GROUPS | _GROUPS.get(duty, set()):
            return
        entry = str(first.right.name)
        by = f" GRANTED BY {quoted(str(first.grantor))}" if self.facts.version >= _GRANTED_BY else ""
        leave = f"REVOKE {quoted(entry)} FROM {quoted(role)}{by}"
        if group.startswith("pg_") or (group in self.duties and duty is not OWNING):
            is_direct = group == entry
            right = Right("membership", "member", None, group)
            # The owner may be the administrator of a service.
            is_applied = is_direct and duty is not OWNING
            yield Excess(role, right, None if is_direct else entry, Remedy(leave, is_applied=is_applied))
        elif group not in self.duties:
            for held in self.held.get(group, []):
                if held.right.kind != "member" and not _allowed(duty, held.right):
                    yield Excess(role, held.right, group, Remedy(leave, is_applied=False))

    def _remedy(self, role: str, duty: Duty, held: Held) -> Remedy:
        right, name = held.right, role if role == PUBLIC else quoted(role)
        target = quoted(self.facts.database) if right.kind == "database" else right.object
        # It is quoted already.
        target = str(right.name) if right.kind == "routine" else target
        if right.privilege == OWNER:
            owner = next((owner for owner, duty in self.duties.items() if duty is OWNING), OWNING.role)
            return Remedy(f"ALTER {right.kind.upper()} {target} OWNER TO {quoted(owner)}", is_applied=False)
        if right.kind == "role":
            return Remedy(f"ALTER ROLE {name} NO{right.privilege}", is_applied=duty is not OWNING)
        option = _GRANT_OPTION if right.privilege.startswith(_GRANT_OPTION) else ""
        privilege, revoke = right.privilege.removeprefix(_GRANT_OPTION), f"REVOKE {option}".strip()
        # What the role has granted with it goes too.
        end = f"FROM {name}{' CASCADE' if option else ''}"
        if right.kind.startswith("future"):
            schema = f" IN SCHEMA {right.schema}" if right.schema else ""
            start = f"ALTER DEFAULT PRIVILEGES FOR ROLE {quoted(str(right.owner))}{schema} {revoke}"
            return Remedy(start, privilege, right.kind.removeprefix("future ").upper(), end=end)
        if held.grantor is None or held.grantor in self.duties:
            return Remedy(revoke, privilege, right.kind.upper(), target, end)
        # A revocation takes away what the role that runs it has granted; a superuser acts for the owner.
        start = f"SET ROLE {quoted(held.grantor)}; {revoke}"
        return Remedy(start, privilege, right.kind.upper(), target, f"{end}; RESET ROLE", is_applied=False)


def revocations(remedies: Iterable[Remedy]) -> list[str]:
    """Return the statements, without semicolons, those of many objects joined; grant options come first."""
    privileges: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for one in remedies:
        privileges[one.start, one.kind, one.object, one.end].append(one.privilege)
    objects: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for (start, kind, name, end), found in privileges.items():
        objects[start, ", ".join(dict.fromkeys(found)), kind, end].append(name)
    statements = [
        " ".join(filter(None, [start, privilege, kind and f"ON {kind}", ", ".join(filter(None, names)), end]))
        for (start, privilege, kind, end), names in objects.items()
    ]
    return sorted(statements, key=lambda statement: _GRANT_OPTION not in statement)


def _allowed(duty: Duty, right: Right) -> bool:
    if right.kind == "role":
        attributes = {"SUPERUSER", "CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS"}
        return right.privilege not in attributes - _ATTRIBUTES.get(duty, set())
    if duty is OWNING:
        return True
    kind = right.kind.removeprefix("future ").removesuffix("s")
    is_secret = (kind, right.name) == ("table", SECRET) and right.schema != SCHEMA
    privilege = right.privilege.partition(" (")[0]
    return any(
        (need.privilege, need.kind, need.schema, need.is_secret) == (privilege, kind, right.schema, is_secret)
        for need in duty.needs
    )


def in_sentences(found: Iterable[Excess]) -> list[str]:
    """Describe what roles can do beyond their parts, with the statements that take it away."""
    groups: dict[tuple[str, str | None], list[Excess]] = defaultdict(list)
    for one in found:
        groups[one.role, one.through].append(one)
    return [
        f"{role} has {'; '.join(in_words(dict.fromkeys(one.right for one in group)))}"
        f"{f' through {through}' if through else ''}: `{'; '.join(revocations(one.remedy for one in group))}`"
        for (role, through), group in groups.items()
    ]
