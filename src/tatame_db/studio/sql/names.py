"""The names that the editor completes: tables with their columns, and functions with their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

MAX_TABLES = 2_000
MAX_FUNCTIONS = 5_000

# The catalogues of the server come last, so that a limit cuts those.
_TABLES = text("""
SELECT n.nspname, c.relname, array_agg(a.attname::text ORDER BY a.attnum) AS columns,
    array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum) AS types
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition AND n.nspname NOT LIKE 'pg\\_toast%'
    AND n.nspname NOT LIKE 'pg\\_temp%' AND has_schema_privilege(n.oid, 'USAGE')
GROUP BY n.nspname, c.relname
ORDER BY n.nspname IN ('pg_catalog', 'information_schema'), n.nspname, c.relname LIMIT :limit
""")
# Without those that only the server calls: of operators, of indexes, of aggregates, and with types of its own.
_FUNCTIONS = text("""
SELECT n.nspname, p.proname, array_agg(DISTINCT pg_get_function_arguments(p.oid)) AS arguments,
    min(pg_get_function_result(p.oid)) AS result
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE NOT p.prorettype = ANY(CAST(:internal AS regtype[]))
    AND NOT p.proargtypes::oid[] && CAST(:internal AS regtype[])::oid[]
    AND n.nspname NOT LIKE 'pg\\_toast%' AND has_function_privilege(p.oid, 'EXECUTE')
    AND has_schema_privilege(n.oid, 'USAGE')
    AND NOT EXISTS (SELECT FROM pg_operator WHERE oprcode = p.oid)
    AND NOT EXISTS (SELECT FROM pg_amproc WHERE amproc = p.oid)
    AND NOT EXISTS (SELECT FROM pg_aggregate WHERE p.oid IN (aggtransfn, aggfinalfn, aggcombinefn, aggmtransfn))
GROUP BY n.nspname, p.proname
ORDER BY n.nspname IN ('pg_catalog', 'information_schema'), n.nspname, p.proname LIMIT :limit
""")
_INTERNAL = ["internal", "cstring", "trigger", "event_trigger", "language_handler", "fdw_handler", "index_am_handler"]


async def names(connection: AsyncConnection) -> dict[str, Any]:
    """Read the names that the role can use."""
    tables = await connection.execute(_TABLES, {"limit": MAX_TABLES})
    functions = await connection.execute(_FUNCTIONS, {"limit": MAX_FUNCTIONS, "internal": _INTERNAL})
    return {
        "tables": [
            {"schema": row.nspname, "name": row.relname, "columns": list(zip(row.columns, row.types, strict=True))}
            for row in tables
        ],
        "functions": [
            {"schema": row.nspname, "name": row.proname, "arguments": row.arguments, "result": row.result}
            for row in functions
        ],
    }
