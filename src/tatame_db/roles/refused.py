"""The rights that a role lacks for one statement, by the tables that the statement names.

PostgreSQL's refusal names one object, in a message in any language. The catalogue says what is missing in all.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tatame_db.database.dialect import quoted
from tatame_db.roles.rights import Right

if TYPE_CHECKING:
    from tatame_db.roles.rights import Rows

_NAME = r'(?:[\w$]+|"(?:[^"]|"")+")'
# As SQLAlchemy writes them, with their schemas.
_TABLE = re.compile(rf"\b(INSERT INTO|UPDATE|DELETE FROM|FROM|JOIN)\s+(?:ONLY\s+)?({_NAME})\.({_NAME})")
_PRIVILEGES = {"INSERT INTO": ("INSERT",), "UPDATE": ("UPDATE", "SELECT"), "DELETE FROM": ("DELETE", "SELECT")}
# The columns are those on which the role lacks the privilege; in a table without any that it has, all of them.
_TABLES = """
SELECT w.privilege, n.nspname, c.relname, has_schema_privilege(n.oid, 'USAGE'),
    has_table_privilege(c.oid, w.privilege),
    w.privilege <> 'DELETE' AND has_any_column_privilege(c.oid, nullif(w.privilege, 'DELETE')),
    ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        AND NOT has_column_privilege(c.oid, a.attnum, nullif(w.privilege, 'DELETE')) ORDER BY a.attnum)
FROM unnest(CAST(%(schemas)s AS text[]), CAST(%(names)s AS text[]), CAST(%(privileges)s AS text[]))
    AS w (schema, name, privilege)
JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
"""
_SEQUENCES = """
SELECT DISTINCT sn.nspname, s.relname
FROM unnest(CAST(%(schemas)s AS text[]), CAST(%(names)s AS text[])) AS w (schema, name)
JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
JOIN pg_attrdef d ON d.adrelid = c.oid
JOIN pg_depend p ON p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_class'::regclass
JOIN pg_class s ON s.oid = p.refobjid AND s.relkind = 'S' JOIN pg_namespace sn ON sn.oid = s.relnamespace
WHERE CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE') END ORDER BY 1, 2
"""


def tables_of(statement: str) -> list[tuple[str, str, str]]:
    """Return the privileges that a statement needs on each table that it names, with the schema and the name."""
    locks = " FOR UPDATE" in statement
    found: dict[tuple[str, str, str], None] = {}
    for verb, schema, name in _TABLE.findall(statement):
        for privilege in _PRIVILEGES.get(verb, ("SELECT", "UPDATE") if locks else ("SELECT",)):
            found[privilege, _plain(schema), _plain(name)] = None
    return list(found)


def _plain(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def rights_refused(rows: Rows, statement: str) -> list[Right]:
    """Return the rights on tables, columns, sequences and schemas that a statement needs and its role lacks."""
    wanted = tables_of(statement)
    named = {"schemas": [schema for _, schema, _ in wanted], "names": [name for _, _, name in wanted]}
    found: list[Right] = []
    for privilege, schema, name, usage, whole, some, columns in rows(
        _TABLES, {**named, "privileges": [privilege for privilege, _, _ in wanted]}
    ):
        if not usage:
            found.append(Right("USAGE", "schema", schema))
        used = [quoted(column) for column in columns if _uses(statement, privilege, quoted(column))] if some else []
        if used or not (whole or some):
            found.append(Right(f"{privilege} ({', '.join(used)})" if used else privilege, "table", schema, name))
    if any(privilege == "INSERT" for privilege, _, _ in wanted):
        found += [Right("USAGE", "sequence", schema, name) for schema, name in rows(_SEQUENCES, named)]
    return list(dict.fromkeys(found))


def _uses(statement: str, privilege: str, column: str) -> bool:
    if privilege == "UPDATE":
        # Without SET the statement only locks rows, for which the right on any column is enough.
        found = re.search(r" SET (.*?)(?: WHERE |$)", statement, re.DOTALL)
        return found is not None and column in re.findall(rf"(?:^|, )({_NAME})=", found[1])
    if privilege == "INSERT":
        found = re.search(r"INSERT INTO [^(]+\(([^)]*)\)", statement)
        return found is not None and column in found[1].split(", ")
    return re.search(rf'(?<![\w"$]){re.escape(column)}(?![\w"$(])', statement) is not None
