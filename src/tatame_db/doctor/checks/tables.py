"""The tables and their indexes: dead rows, statistics, what is missing and what nothing uses, and slow statements."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy.exc import DBAPIError

from tatame_db.doctor import advice
from tatame_db.doctor.finding import bad, duration, good, named, size, unknown, warn
from tatame_db.doctor.lines import line

if TYPE_CHECKING:
    from tatame_db.doctor.examination import Examination
from tatame_db.doctor.finding import Answer

_GROUP = "Tables"
_STATEMENT_LENGTH = 100
_OWNER = "(SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = relid)"


@line(
    _GROUP,
    warns="{dead_warn:.0%} of the rows of a table are dead, and {dead_rows:,} or more",
    bad="{dead_bad:.0%} are dead",
)
def dead_rows(examination: Examination) -> Answer:
    """Rows that were deleted or updated, and that vacuum has not removed yet: every scan reads them."""
    limits = examination.limits
    found = examination.rows(
        f"SELECT format('%I', relname) AS name, {_OWNER} AS owner,"
        " n_dead_tup::float / (n_live_tup + n_dead_tup) AS share,"
        " extract(epoch FROM clock_timestamp() - greatest(last_vacuum, last_autovacuum)) AS seconds"
        " FROM pg_stat_user_tables WHERE schemaname = 'public' AND n_dead_tup >= greatest(:rows, 1)"
        " AND n_dead_tup::float / (n_live_tup + n_dead_tup) >= :share ORDER BY 3 DESC",
        rows=limits.dead_rows,
        share=limits.dead_warn,
    )
    if not found:
        return good("vacuum keeps up")
    first = found[0]
    last = "never" if first.seconds is None else f"{duration(first.seconds)} ago"
    others = f"; also {named([row.name for row in found[1:]])}" if found[1:] else ""
    return (bad if first.share >= limits.dead_bad else warn)(
        f"{first.share:.0%} of the rows of {first.name} are dead, and it was last vacuumed {last}{others}",
        "find what holds vacuum back (a long transaction, a slot); then "
        + advice.of_tables(examination, "VACUUM (VERBOSE)", [(row.name, row.owner) for row in found]),
    )


@line(_GROUP, warns="a table of {table_rows:,} rows or more was never analyzed")
def statistics(examination: Examination) -> Answer:
    """Whether the planner knows the tables, partitioned ones as a whole: without statistics it guesses."""
    found = examination.rows(
        f"SELECT format('%I', relname) AS name, {_OWNER} AS owner, is_divided FROM pg_stat_user_tables"
        " CROSS JOIN LATERAL (SELECT count(*) > 1 AS is_divided, sum(pg_stat_get_live_tuples(part.relid)) AS rows"
        " FROM pg_partition_tree(pg_stat_user_tables.relid) part) known"
        " WHERE schemaname = 'public' AND coalesce(rows, n_live_tup) >= :rows"
        " AND last_analyze IS NULL AND last_autoanalyze IS NULL ORDER BY coalesce(rows, n_live_tup) DESC",
        rows=examination.limits.table_rows,
    )
    if not found:
        return good("every large table was analyzed")
    return warn(
        f"never analyzed: {named([row.name for row in found])}",
        advice.of_tables(examination, "ANALYZE", [(row.name, row.owner) for row in found])
        + (
            "; autovacuum never analyzes a partitioned table itself, so let the job that creates partitions do it"
            if all(row.is_divided for row in found)
            else "; see why autovacuum has not done it"
        ),
    )


@line(_GROUP, warns="a foreign key has no index")
def keys_without_index(examination: Examination) -> Answer:
    """Foreign keys whose columns no index begins with: to delete a parent, the whole table of children is read."""
    found = examination.rows(_KEYS_WITHOUT_INDEX)
    if not found:
        return good("none")
    statements = ((f"CREATE INDEX CONCURRENTLY ON {row.name} ({row.columns})", row.owner) for row in found)
    return warn(
        named([f"{row.name} ({row.columns})" for row in found]),
        "add `index=True` to the column of the model, then `tatame-db generate`; without a model,"
        f" {advice.sql(examination, *statements)}",
    )


_KEYS_WITHOUT_INDEX = """
SELECT format('%I', c.relname) AS name, quote_ident(pg_get_userbyid(c.relowner)) AS owner, (
    SELECT string_agg(format('%I', attname), ', ' ORDER BY array_position(k.conkey, attnum))
    FROM pg_attribute WHERE attrelid = c.oid AND attnum = ANY(k.conkey)) AS columns
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
WHERE k.contype = 'f' AND k.conparentid = 0 AND c.relnamespace = to_regnamespace('public') AND NOT EXISTS (
    SELECT FROM pg_index i WHERE i.indrelid = k.conrelid AND i.indisvalid AND i.indpred IS NULL
        AND (string_to_array(i.indkey::text, ' ')::smallint[])[1:cardinality(k.conkey)] @> k.conkey)
ORDER BY c.reltuples DESC, 1, columns
"""


@line(
    _GROUP,
    warns="a table of {table_rows:,} rows or more was read as a whole {scans:,} times or more, and by index less often",
)
def whole_scans(examination: Examination) -> Answer:
    """Large tables that queries mostly read as a whole, because no index fits."""
    limits = examination.limits
    found = examination.rows(
        "SELECT format('%I', relname) AS name, seq_scan FROM pg_stat_user_tables WHERE schemaname = 'public'"
        " AND n_live_tup >= :rows AND seq_scan >= :scans AND seq_scan > coalesce(idx_scan, 0) ORDER BY 2 DESC",
        rows=limits.table_rows,
        scans=limits.scans,
    )
    if not found:
        return good("none")
    return warn(
        named([f"{row.name} was read as a whole {row.seq_scan:,} times" for row in found]),
        "find the queries with `pg_stat_statements`, and see with `EXPLAIN` which index they lack",
    )


@line(_GROUP, warns="an index of {index_mb:g} MB or more serves no query of a table that is used")
def unused_indexes(examination: Examination) -> Answer:
    """Indexes that no query has used since the statistics began: every write pays for them."""
    limits = examination.limits
    found = examination.rows(_UNUSED, size=limits.index_mb * 1024**2, scans=limits.scans)
    if not found:
        return good("none")
    return warn(
        named([f"{row.name} ({size(row.size)})" for row in found]),
        "if no standby and no rare report uses it, take it out of its model, then `tatame-db generate`; without a"
        f" model, {_drop_indexes(examination, [(row.name, row.owner) for row in found])}",
    )


# The size as the last vacuum found it: to measure it now would wait for a lock.
_UNUSED = """
SELECT format('%I', i.indexrelname) AS name, quote_ident(pg_get_userbyid(c.relowner)) AS owner,
    c.relpages::bigint * current_setting('block_size')::bigint AS size
FROM pg_stat_user_indexes i
JOIN pg_stat_user_tables t USING (relid)
JOIN pg_index x USING (indexrelid)
JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.schemaname = 'public' AND i.idx_scan = 0 AND NOT x.indisunique AND x.indisvalid
    AND t.seq_scan + coalesce(t.idx_scan, 0) >= :scans
    AND c.relpages::bigint * current_setting('block_size')::bigint >= :size
ORDER BY size DESC, 1
"""


@line(_GROUP, warns="two indexes of a table are the same")
def duplicate_indexes(examination: Examination) -> Answer:
    """Indexes with the same columns, order, condition and kind as another one."""
    found = examination.rows(_DUPLICATES)
    if not found:
        return good("none")
    return warn(
        named([" = ".join(row.names) for row in found]),
        "take the younger one out of its model, then `tatame-db generate`; without a model,"
        f" {_drop_indexes(examination, [(name, row.owner) for row in found for name in row.names[1:]])}",
    )


def _drop_indexes(examination: Examination, indexes: list[tuple[str, str]]) -> str:
    return advice.sql(examination, *((f"DROP INDEX CONCURRENTLY {name}", owner) for name, owner in indexes))


# The first is the one to keep: that of a constraint, and the older of two.
_DUPLICATES = """
SELECT array_agg(format('%I', c.relname)
    ORDER BY EXISTS (SELECT FROM pg_constraint WHERE conindid = c.oid) DESC, indisunique DESC, c.oid) AS names,
    min(quote_ident(pg_get_userbyid(c.relowner))) AS owner
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = to_regnamespace('public') AND indisvalid
GROUP BY indrelid, indkey::text, indclass::text, indcollation::text, indoption::text, indnkeyatts, c.relam,
    pg_get_expr(indexprs, indrelid), pg_get_expr(indpred, indrelid)
HAVING count(*) > 1 ORDER BY 1
"""


@line(_GROUP, warns="of {cache_reads:,} or more pages, less than {cache_warn:.0%} were in memory")
def cache(examination: Examination) -> Answer:
    """How many pages PostgreSQL found in its memory, and did not ask the system for."""
    limits = examination.limits
    hits, reads = examination.row(
        "SELECT blks_hit, blks_hit + blks_read FROM pg_stat_database WHERE datname = current_database()"
    )
    if reads < limits.cache_reads or not reads:
        return good(f"{reads:,} pages were read, too few to tell")
    text = f"{hits / reads:.1%} of the pages that were read were in memory"
    if hits / reads >= limits.cache_warn:
        return good(text)
    return warn(
        text, "give `shared_buffers` a quarter of the memory of the machine, and look at the lines `whole scans`"
    )


@line(
    _GROUP,
    warns="a statement takes {slow_ms:,} ms or more on average, and ran {slow_calls} times or more",
    right="GRANT pg_read_all_stats TO {role}",
)
def slow_statements(examination: Examination) -> Answer | None:
    """The slowest statements, where the extension `pg_stat_statements` is installed in the database."""
    extension = examination.rows(
        "SELECT format('%I', nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace"
        " WHERE extname = 'pg_stat_statements'"
    )
    if not extension:
        return None
    limits = examination.limits
    schema = extension[0][0]
    try:
        found = examination.rows(_SLOW.format(schema=schema), slow=limits.slow_ms, calls=limits.slow_calls)
    except DBAPIError as error:
        if not isinstance(error.orig, psycopg.errors.ObjectNotInPrerequisiteState):
            raise
        return unknown(
            "the server has not loaded `pg_stat_statements`",
            f"{_load(examination)}, then restart the server; if you need no statistics, `DROP EXTENSION"
            " pg_stat_statements`",
        )
    hidden = bool(found and found[0].hidden)
    slow = [row for row in found if row.queryid is not None]
    if not slow and hidden:
        role = examination.known.role
        grant = f"GRANT pg_read_all_stats TO {role}", advice.SUPERUSER
        return unknown(f"{role} may not see the statements of other roles", advice.sql(examination, grant))
    if not slow:
        return good("none")
    texts = [
        f"{shown_statement(row.query) or f'the statement {row.queryid}'} takes {row.ms / 1000:,.1f} s on average"
        for row in slow
    ]
    return warn(
        named(texts),
        "read its plan with `EXPLAIN (ANALYZE, BUFFERS)`; `SELECT query FROM"
        f" {schema}.pg_stat_statements WHERE queryid = {slow[0].queryid}` shows the whole text",
    )


def _load(examination: Examination) -> str:
    # Only some roles may see which libraries the server loads.
    loaded = examination.names("SELECT setting FROM pg_settings WHERE name = 'shared_preload_libraries'")
    if not loaded:
        return "add it to `shared_preload_libraries` of the server"
    libraries = ", ".join(filter(None, (*loaded, "pg_stat_statements")))
    return advice.sql(examination, (f"ALTER SYSTEM SET shared_preload_libraries = {libraries}", advice.SUPERUSER))


_SLOW = """
SELECT queryid, query, mean_exec_time AS ms,
    bool_or(queryid IS NULL) OVER () AS hidden
FROM {schema}.pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND mean_exec_time >= :slow AND calls >= :calls
ORDER BY queryid IS NULL, mean_exec_time DESC
"""


def shown_statement(query: str) -> str | None:
    """Return a normalised statement on one line, or `None` if it may contain a value.

    PostgreSQL replaces the constants of queries by `$1`. It leaves those of other statements, such as the password of
    `ALTER ROLE`, and comments.
    """
    text = " ".join(query.split())
    rest = re.sub(r'\$\d+|"[^"]*"|\b[A-Za-z_]\w*', "", text)
    if re.search(r"['\d$]|--|/\*", rest):
        return None
    return f"`{text}`" if len(text) <= _STATEMENT_LENGTH else f"`{text[:_STATEMENT_LENGTH]}…`"
