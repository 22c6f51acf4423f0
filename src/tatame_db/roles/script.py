"""The SQL that gives the four roles their rights, and no others, as their declaration says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.database.dialect import MOVE_SCHEMA, SCHEMA, literal, quoted
from tatame_db.errors import TatameError, fact
from tatame_db.roles.excess import excess, revocations, rights_held
from tatame_db.roles.facts import facts_of
from tatame_db.roles.names import refuse_unsuitable
from tatame_db.roles.needs import BACKUP, OWNER, OWNING, READ_ONLY, SCHEMAS, SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Connection

    from tatame_db.roles.facts import Facts
    from tatame_db.roles.names import Names
    from tatame_db.roles.needs import Duty

TEMP_FILE_LIMIT = "2GB"
"""What a statement of the studio may write to the server's disk beside tables: a sort of all rows, but no full disk."""


@dataclass(frozen=True)
class Statement:
    """A statement without its semicolon; `needed` says whether the database lacks what it does, as far as is known."""

    sql: str
    needed: bool = True


def script(connection: Connection, names: Names, *, replication: bool = True) -> list[tuple[str, list[Statement]]]:
    """Return the statements by what they are about, in the order in which they run. They change nothing twice.

    Raises `RoleNameInvalid`, `RoleUnsuitable`.
    """
    names.refuse_invalid()
    facts = facts_of(connection, names.by_duty.values())
    refuse_unsuitable(connection, names)
    parts: list[tuple[str, list[Statement]]] = []
    for role, duty in names.duties.items():
        statements = [*_role(facts, duty, role, replication=replication)]
        statements += _ownership(facts, role) if duty is OWNING else _privileges(facts, duty, role, names.owner)
        parts.append((f"{duty.name}: {duty.purpose}", statements))
    found = excess(rights_held(connection, facts, names.duties), names.duties, facts)
    statements = [Statement(sql) for sql in revocations(one.remedy for one in found if one.remedy.is_applied)]
    return [*parts, ("what roles have beyond their parts", statements)] if statements else parts


def _role(facts: Facts, duty: Duty, role: str, *, replication: bool) -> Iterator[Statement]:
    name = quoted(role)
    create = (
        f"IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(role)}) THEN CREATE ROLE {name} LOGIN; END IF;"
    )
    yield Statement(_do(create), facts.lacks(role))
    replicates, acts = facts.existing.get(role, (False, False))
    if duty is OWNING and not facts.is_superuser and facts.user != role:
        # Only a member may hand tables over to it, and change its default privileges.
        yield Statement(f"GRANT {name} TO CURRENT_USER", not acts)
    if duty is READ_ONLY and facts.limits_temp_files:
        yield Statement(f"ALTER ROLE {name} SET temp_file_limit = '{TEMP_FILE_LIMIT}'")
    if duty is BACKUP:
        if replication:
            yield Statement(f"ALTER ROLE {name} REPLICATION", not replicates)
        if facts.hides_rows:
            yield Statement(f"ALTER ROLE {name} BYPASSRLS")
    yield from _grants(facts, duty, role)


def _grants(facts: Facts, duty: Duty, role: str) -> Iterator[Statement]:
    """Grant what a duty needs of the database and its schemas."""
    name, database = quoted(role), quoted(facts.database)
    privileges = ", ".join(need.privilege for need in duty.needs if need.kind == "database")
    yield Statement(f"GRANT {privileges} ON DATABASE {database} TO {name}")
    for schema in facts.schemas:
        wanted = [need.privilege for need in duty.needs if need.kind == "schema" and need.schema == schema]
        granted = ", ".join(privilege for privilege in wanted if privilege != OWNER)
        yield Statement(f"GRANT {granted} ON SCHEMA {schema} TO {name}")


def _ownership(facts: Facts, role: str) -> Iterator[Statement]:
    name = quoted(role)
    for schema, owner in facts.schemas.items():
        if schema != SCHEMA and owner != role:
            yield Statement(f"ALTER SCHEMA {schema} OWNER TO {name}")
    for found in facts.objects:
        if found.owner != role and not found.follows:
            yield Statement(f"ALTER {found.type} {found.name} OWNER TO {name}")


_KINDS: Mapping[str, tuple[str, ...]] = {
    "table": ("TABLE", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE"),
    "sequence": ("SEQUENCE",),
}


def _privileges(facts: Facts, duty: Duty, role: str, owner: str) -> Iterator[Statement]:
    """Grant a role its privileges on the tables and sequences that exist and that the owner will create."""
    name = quoted(role)
    for schema in facts.schemas:
        for kind, types in _KINDS.items():
            granted = _granted(duty, kind, schema)
            reads_secret = any(need.is_secret for need in duty.needs)
            found = [thing for thing in facts.objects if thing.schema == schema and thing.type in types]
            readable = ", ".join(thing.name for thing in found if reads_secret or not thing.is_secret)
            if granted and readable:
                yield Statement(f"GRANT {granted} ON {kind.upper()} {readable} TO {name}")
            if granted:
                future = f"ALTER DEFAULT PRIVILEGES FOR ROLE {quoted(owner)} IN SCHEMA {schema}"
                yield Statement(f"{future} GRANT {granted} ON {kind.upper()}S TO {name}")


def whole_schemas(connection: Connection, duty: Duty, role: str) -> list[str]:
    """Return the statements that give a role a duty on all tables of the schemas, not of the models alone.

    On those that the roles which create tables here will create too. They need a superuser.
    """
    creators = connection.scalars(
        text(
            "SELECT DISTINCT quote_ident(rolname) FROM pg_roles WHERE rolname = current_user OR oid IN ("
            " SELECT relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE nspname = ANY(:schemas) UNION SELECT nspowner FROM pg_namespace"
            f" WHERE nspname <> '{SCHEMA}' AND nspname = ANY(:schemas))"
        ),
        {"schemas": list(SCHEMAS)},
    ).all()
    existing = connection.scalars(
        text("SELECT nspname FROM pg_namespace WHERE nspname = ANY(:schemas)"), {"schemas": list(SCHEMAS)}
    ).all()
    name = quoted(role)
    database = quoted(str(connection.scalar(text("SELECT current_database()"))))
    statements = [f"GRANT CONNECT ON DATABASE {database} TO {name}"]
    for schema in existing:
        statements.append(f"GRANT USAGE ON SCHEMA {schema} TO {name}")
        for kind in _KINDS:
            if granted := _granted(duty, kind, schema):
                statements.append(f"GRANT {granted} ON ALL {kind.upper()}S IN SCHEMA {schema} TO {name}")
                statements += [
                    f"ALTER DEFAULT PRIVILEGES FOR ROLE {creator} IN SCHEMA {schema}"
                    f" GRANT {granted} ON {kind.upper()}S TO {name}"
                    for creator in creators
                ]
    secret = text("SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = :schema AND tablename = :table)")
    if connection.scalar(secret, {"schema": MOVE_SCHEMA, "table": SECRET}):
        statements.append(f"REVOKE ALL ON {MOVE_SCHEMA}.{SECRET} FROM {name}")
    return statements


def _granted(duty: Duty, kind: str, schema: str) -> str:
    needs = [need for need in duty.needs if (need.kind, need.schema) == (kind, schema) and not need.is_secret]
    # A need that is no privilege has two words.
    return ", ".join(need.privilege for need in needs if " " not in need.privilege)


def shared_like_public(schema: str) -> str:
    """Return a statement for a new, empty schema: who reads the future tables of `public` reads those of it too."""
    readers = (
        "SELECT DISTINCT quote_ident(r.rolname) FROM pg_default_acl d CROSS JOIN LATERAL aclexplode(d.defaclacl) a"
        " JOIN pg_roles r ON r.oid = a.grantee WHERE d.defaclrole = (SELECT oid FROM pg_roles WHERE rolname ="
        f" current_user) AND d.defaclnamespace = to_regnamespace('{SCHEMA}') AND d.defaclobjtype = 'r'"
        " AND a.privilege_type = 'SELECT' AND a.grantee <> d.defaclrole"
        f" AND NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace('{schema}'))"
    )
    return _do(
        f"FOR reader IN {readers} LOOP"
        f" EXECUTE 'GRANT USAGE ON SCHEMA {schema} TO ' || reader;"
        f" EXECUTE 'ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON TABLES TO ' || reader;"
        f" EXECUTE 'ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON SEQUENCES TO ' || reader;"
        " END LOOP;",
        "DECLARE reader text; ",
    )


def _do(body: str, declared: str = "") -> str:
    number = 0
    while f"$do{number}$" in body:
        number += 1
    return f"DO $do{number}$ {declared}BEGIN {body} END $do{number}$"


@fact
class ScriptUnprintable(TatameError):
    """A name contains a character that a terminal would obey."""

    name: str
    what = "the SQL cannot be printed: {name!r} contains a character that is not printable"
    fix = "run `tatame-db roles --apply`, which prints no SQL"


def as_text(parts: list[tuple[str, list[Statement]]]) -> str:
    """Write a script for psql: one transaction. Raises `ScriptUnprintable`."""
    for statement in (statement.sql for _, statements in parts for statement in statements):
        if not statement.isprintable():
            raise ScriptUnprintable(name=statement)
    lines = ["BEGIN;"]
    for title, statements in parts:
        lines += ["", f"-- {title}", *(f"{statement.sql};" for statement in statements)]
    return "\n".join([*lines, "", "COMMIT;"])
