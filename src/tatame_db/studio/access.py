"""The database role of the studio, which must be harmless unless the studio may write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

from tatame_db.database.dialect import quoted
from tatame_db.database.errors import ConnectionRefused, PasswordRejected
from tatame_db.database.pool import Database
from tatame_db.errors import TatameError, fact
from tatame_db.roles.needs import APP, READ_ONLY, SCHEMAS
from tatame_db.roles.script import TEMP_FILE_LIMIT, whole_schemas
from tatame_db.studio.transactions import SILENT_IN_THE_LOG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection, Engine

READER, WRITER = "tatame_studio", "tatame_studio_writer"
# PostgreSQL lets each role set its own password, but not its end: a password that has expired opens nothing.
_ROLE_OPTIONS = (
    "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD NULL VALID UNTIL '-infinity'"
)

# Each reaches beyond the tables of this database, and works in a read-only transaction too.
_HARMFUL_ROLES = {
    "pg_execute_server_program": "runs programs on the server",
    "pg_write_server_files": "writes files of the server",
    "pg_read_server_files": "reads files of the server",
    "pg_signal_backend": "ends the sessions of others",
    "pg_read_all_data": "reads the password hashes of all roles",
}


@fact
class RoleTooPowerful(TatameError):
    """A role can do harm from a read-only transaction, and the studio is meant to be read-only."""

    role: str
    reasons: list[str]
    what = 'the role "{role}" is too powerful for a read-only studio: it {all_reasons}'
    means = "A read-only transaction does not restrict these rights, so the studio was not started."
    fix = (
        "use a role that only reads: `tatame-db roles --apply` creates `tatame_read`, and `tatame-db studio"
        " --read-only-role tatame_read` logs in as it; or start the studio with `--write` to change data"
    )

    @property
    def all_reasons(self) -> str:
        """Write the reasons with the same subject."""
        return ", it ".join(self.reasons)


@fact
class ReadOnlyRoleRejected(PasswordRejected):
    """The server rejected the login of the role that an option names."""

    fix = (
        "check the role after `--read-only-role`, and its password in `PGPASSWORD` or `~/.pgpass`; `tatame-db roles`"
        " lists the roles"
    )


@dataclass(frozen=True)
class Access:
    """The address with the role, and whether the studio may write there."""

    address: URL
    role: str
    write: bool


def create_role(engine: Engine, *, write: bool) -> URL:
    """Create the role of the studio on the embedded server, or reset its options; return the address with it.

    The role is no superuser and has no password, so it can log in through the socket only. It reads, or with `write`
    writes, the tables of this package's schemas, also those of a later migration, and those of the app's schemas.
    Committed at once.
    """
    role = WRITER if write else READER
    with engine.begin() as connection:
        # Two studios that start at the same time would both create it.
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('tatame_studio'))"))
        if not connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}):
            connection.execute(text(f"CREATE ROLE {role}"))
        connection.execute(text(f"ALTER ROLE {role} {_ROLE_OPTIONS}"))
        # What an older version of this package granted: it reads the passwords of all roles.
        connection.execute(text(f"REVOKE pg_read_all_data, pg_write_all_data FROM {role}"))
        for statement in _settings(connection, role):
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        own = whole_schemas(connection, APP if write else READ_ONLY, role)
        for statement in [*own, *_other_schemas(connection, role, write=write)]:
            # Verbatim: the name of a database may look like a parameter.
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
    return engine.url.set(username=role)._replace(password=None)


def _settings(connection: Connection, role: str) -> Iterator[str]:
    """Write the settings of the role, without those that it has set for itself."""
    yield f"ALTER ROLE {role} RESET ALL"
    yield f"ALTER ROLE {role} IN DATABASE {quoted(connection.engine.url.database or '')} RESET ALL"
    for name, value in {"temp_file_limit": TEMP_FILE_LIMIT, **SILENT_IN_THE_LOG}.items():
        yield f"ALTER ROLE {role} SET {name} = '{value}'"


def _other_schemas(connection: Connection, role: str, *, write: bool) -> Iterator[str]:
    """Grant the tables that exist in the schemas of the app; a later one is granted when the studio starts again."""
    privileges = "SELECT, INSERT, UPDATE, DELETE" if write else "SELECT"
    for schema in connection.scalars(
        text(
            "SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname <> ALL(:known)"
            " AND nspname <> 'information_schema' AND nspname !~ '^pg_'"
        ),
        {"known": list(SCHEMAS)},
    ):
        yield f"GRANT USAGE ON SCHEMA {schema} TO {role}"
        yield f"GRANT {privileges} ON ALL TABLES IN SCHEMA {schema} TO {role}"
        yield f"GRANT {'USAGE, SELECT' if write else 'SELECT'} ON ALL SEQUENCES IN SCHEMA {schema} TO {role}"


def open_access(database: Database, *, embedded: bool, write: bool, read_only_role: str | None = None) -> Access:
    """Choose the role of the studio, log in as it and check its rights. Raises `RoleTooPowerful`, and login errors.

    A `read_only_role` logs in by itself: any statement could undo a `SET ROLE`.
    """
    address = database.address
    if read_only_role is not None:
        # The password of the address belongs to another role.
        address = address.set(username=read_only_role)._replace(password=None)
    elif embedded:
        address = create_role(database.engine, write=write)
    try:
        with Database(address) as studio_database, studio_database.engine.connect() as connection:
            return _checked_access(connection, write=write)
    except (PasswordRejected, ConnectionRefused) as error:
        # Any other refusal does not concern the role.
        if read_only_role is None or read_only_role not in error.reason:
            raise
        raise ReadOnlyRoleRejected(address=error.address, reason=error.reason) from error


def _checked_access(connection: Connection, *, write: bool) -> Access:
    role = str(connection.scalar(text("SELECT session_user")))
    if not write and (reasons := harmful_rights(connection)):
        raise RoleTooPowerful(role=role, reasons=reasons)
    return Access(connection.engine.url, role, write)


def harmful_rights(connection: Connection) -> list[str]:
    """Return what the role of a session may do from a read-only transaction, as parts of a sentence."""
    # Membership is enough: a single statement can switch to the role.
    found = connection.execute(
        text(
            "SELECT rolname, rolsuper, rolreplication, rolname = session_user AS is_own FROM pg_roles"
            " WHERE pg_has_role(session_user, oid, 'MEMBER')"
            " AND (rolsuper OR rolreplication OR rolname = ANY(CAST(:roles AS text[])))"
            " ORDER BY rolname <> session_user, rolname"
        ),
        {"roles": list(_HARMFUL_ROLES)},
    ).all()
    if any(row.is_own and row.rolsuper for row in found):
        return ["is a superuser"]
    rights: list[str] = []
    for row in found:
        right = "is a superuser" if row.rolsuper else _HARMFUL_ROLES.get(row.rolname, "replicates")
        rights.append(right if row.is_own else f"is a member of {row.rolname}, which {right}")
    return rights + _rights_on_citus(connection)


# The functions of Citus run statements in sessions of their own, on the nodes and on the coordinator, which are not
# read-only. Every role may call them, and this package does; so the rights of the role decide what they change.
_WRITES_ON_CITUS = """
SELECT r.rolname, r.rolname = session_user AS is_own, r.rolcreaterole, f.function, coalesce(t.tables, '{}') AS tables,
    coalesce(p.places, '{}') AS places
FROM pg_roles r
CROSS JOIN LATERAL (
    SELECT p.proname::text AS function
    FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
        JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
    WHERE e.extname = 'citus' AND p.provolatile = 'v' AND has_function_privilege(r.oid, p.oid, 'EXECUTE')
    ORDER BY p.proname <> 'run_command_on_shards', p.proname LIMIT 1
) f
CROSS JOIN LATERAL (
    SELECT array_agg(c.relname::text ORDER BY c.relname) AS tables
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    -- Every role may write the view, which sets a parameter of its session.
    WHERE c.relpersistence <> 't' AND n.nspname <> 'pg_toast' AND c.oid <> 'pg_catalog.pg_settings'::regclass
        AND c.relkind IN ('r', 'p', 'v', 'f', 'S') AND (
            pg_has_role(r.oid, c.relowner, 'USAGE')
            OR CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(r.oid, c.oid, 'USAGE, UPDATE')
                ELSE has_table_privilege(r.oid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER')
                    OR has_any_column_privilege(r.oid, c.oid, 'INSERT, UPDATE') END
        )
) t
CROSS JOIN LATERAL (
    SELECT array_agg(place ORDER BY place) AS places
    FROM (
        SELECT 'schema ' || nspname AS place FROM pg_namespace
        WHERE nspname !~ '^pg_(toast_)?temp_' AND has_schema_privilege(r.oid, oid, 'CREATE')
        UNION ALL SELECT 'database' FROM pg_database
        WHERE datname = current_database() AND has_database_privilege(r.oid, oid, 'CREATE')
    ) creates
) p
-- What the role inherits is its own.
WHERE pg_has_role(session_user, r.oid, 'MEMBER')
    AND (r.rolcreaterole OR t.tables IS NOT NULL OR p.places IS NOT NULL)
    AND (r.rolcreaterole OR r.rolname = session_user OR NOT pg_has_role(session_user, r.oid, 'USAGE'))
ORDER BY r.rolname <> session_user, r.rolname
"""
_MOST_NAMED = 3


def _rights_on_citus(connection: Connection) -> list[str]:
    """Return the rights to write that a read-only transaction does not restrict on Citus."""
    rights: list[str] = []
    for row in connection.execute(text(_WRITES_ON_CITUS)):
        changes = [f"may change {_first(row.tables)}"] * bool(row.tables)
        changes += [f"may create objects in {_first(row.places)}"] * bool(row.places)
        changes += ["may create roles"] * row.rolcreaterole
        right = f"{' and '.join(changes)} by a function of Citus, such as {row.function}"
        rights.append(right if row.is_own else f"is a member of {row.rolname}, which {right}")
    return rights


def _first(names: list[str]) -> str:
    rest = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")
