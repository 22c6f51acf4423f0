"""What to type: statements, each with the role that may run it if that of the address may not."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from tatame_db.database.dialect import VERSION_SCHEMA
from tatame_db.doctor.finding import NAMED

if TYPE_CHECKING:
    from tatame_db.doctor.examination import Examination

SUPERUSER = "a superuser"


def as_role(examination: Examination, role: str) -> str:
    """Write which role may do something; nothing if that of the address may do it too.

    The role is quoted for SQL, or `SUPERUSER`.

        >>> as_role(examination, "tatame_owner")
        ', as tatame_owner'
    """
    known = examination.known
    return "" if known.superuser or role in known.roles else f", as {role}"


def sql(examination: Examination, *statements: tuple[str, str]) -> str:
    """Write statements with their roles.

    They are a few, because the next examination shows the others.

        >>> sql(examination, ("ANALYZE users", "tatame_owner"))
        '`ANALYZE users`, as tatame_owner'
    """
    parts = [
        "; ".join(f"`{statement}`" for statement, _ in group) + as_role(examination, role)
        for role, group in groupby(statements[:NAMED], key=lambda pair: pair[1])
    ]
    more = len(statements) - NAMED
    return "; ".join(parts) + (f"; likewise for {more} more" if more > 0 else "")


def of_tables(examination: Examination, statement: str, tables: list[tuple[str, str]]) -> str:
    """Write one statement for all tables of an owner, from the names of tables and owners."""
    return sql(
        examination,
        *(
            (f"{statement} {', '.join(name for name, _ in group)}", owner)
            for owner, group in groupby(sorted(tables, key=lambda pair: pair[1]), key=lambda pair: pair[1])
        ),
    )


def setting(examination: Examination, name: str, value: str, *, otherwise: str | None = None) -> str:
    """Write how a setting gets a value: where it is set now, because that precedes all other places.

    That is a role or a database. If there is none, it is the server, or `otherwise`, the beginning of a statement.
    """
    place = examination.row(_PLACE, name=name)
    if place.statement is None and place.source == "command line":
        return f"take `{name}` out of the command that starts the server, and restart it"
    if place.statement is None and otherwise is None:
        server = (f"ALTER SYSTEM SET {name} = {value}", SUPERUSER), ("SELECT pg_reload_conf()", SUPERUSER)
        return sql(examination, *server)
    owner = place.owner if place.by_user else SUPERUSER
    return sql(examination, (f"{place.statement or otherwise} SET {name} TO {value}", owner))


# The most special of four places: a role in a database, a role, a database, all roles.
_PLACE = """
SELECT context = 'user' AS by_user, source, place.statement, coalesce(place.owner, d.owner) AS owner
FROM pg_settings
CROSS JOIN (
    SELECT oid, quote_ident(pg_get_userbyid(datdba)) AS owner FROM pg_database WHERE datname = current_database()
) AS d
LEFT JOIN LATERAL (
    SELECT
        CASE WHEN setrole <> 0 THEN quote_ident(current_user) WHEN setdatabase = 0 THEN 'a superuser' END AS owner,
        format(CASE WHEN setrole <> 0 AND setdatabase <> 0 THEN 'ALTER ROLE %I IN DATABASE %I'
            WHEN setrole <> 0 THEN 'ALTER ROLE %I' WHEN setdatabase <> 0 THEN 'ALTER DATABASE %2$I'
            ELSE 'ALTER ROLE ALL' END, current_user, current_database()) AS statement
    FROM pg_db_role_setting
    WHERE setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = current_user)) AND setdatabase IN (0, d.oid)
        AND EXISTS (SELECT FROM unnest(setconfig) AS c WHERE lower(split_part(c, '=', 1)) = lower(:name))
    ORDER BY setrole <> 0 DESC, setdatabase <> 0 DESC LIMIT 1
) AS place ON true
WHERE name = :name
"""


def migrating_role(examination: Examination) -> str:
    """Return the owner of the record of migrations, before the first one of the database, quoted for SQL."""
    return str(
        examination.value(
            "SELECT quote_ident(pg_get_userbyid(coalesce("
            # A look-up by `to_regclass` is an error without USAGE.
            " (SELECT relowner FROM pg_class WHERE relnamespace = to_regnamespace(:schema)"
            " AND relname = 'alembic_version'),"
            " (SELECT nspowner FROM pg_namespace WHERE oid = to_regnamespace(:schema)),"
            " (SELECT datdba FROM pg_database WHERE datname = current_database()))))",
            schema=VERSION_SCHEMA,
        )
    )


def violations(constraint: str) -> str:
    """Return an expression of SQL for the query that finds the rows which violate an alias of `pg_constraint`."""
    return _VIOLATIONS.format(k=constraint)


_VIOLATIONS = """
CASE {k}.contype
    WHEN 'c' THEN format('SELECT * FROM %s WHERE NOT (%s)', {k}.conrelid::regclass,
        pg_get_expr({k}.conbin, {k}.conrelid, true))
    WHEN 'n' THEN (SELECT format('SELECT * FROM %s WHERE %I IS NULL', {k}.conrelid::regclass, attname)
        FROM pg_attribute WHERE attrelid = {k}.conrelid AND attnum = {k}.conkey[1])
    WHEN 'f' THEN (
        SELECT format('SELECT * FROM %s child WHERE %s AND NOT EXISTS (SELECT FROM %s parent WHERE %s)',
            {k}.conrelid::regclass, string_agg(format('child.%I IS NOT NULL', c.attname), ' AND ' ORDER BY pair.n),
            {k}.confrelid::regclass,
            string_agg(format('parent.%I = child.%I', p.attname, c.attname), ' AND ' ORDER BY pair.n))
        FROM unnest({k}.conkey, {k}.confkey) WITH ORDINALITY AS pair(child, parent, n)
        JOIN pg_attribute c ON (c.attrelid, c.attnum) = ({k}.conrelid, pair.child)
        JOIN pg_attribute p ON (p.attrelid, p.attnum) = ({k}.confrelid, pair.parent))
END
"""
