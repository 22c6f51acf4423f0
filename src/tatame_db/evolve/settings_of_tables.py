"""The queries that read what tables, indexes and views have without a catalogue of its own, in the form of `kinds`."""

from tatame_db.evolve.kinds import PUBLIC, TABLES_OF_PUBLIC


def _setting(kind: str, condition: str, definition: str, create: str, drop: str) -> str:
    """A setting of a table that has no catalogue of its own; it is an object of the table, with its own SQL."""
    return f"""
    SELECT '{kind}', c.relname, c.relname, {definition}, format('{kind} of %I', c.relname), {create},
        json_build_object('drop', {drop}), 'pg_class'::regclass::oid, c.oid, 0
    FROM {TABLES_OF_PUBLIC} WHERE c.relkind IN ('r', 'p') AND ({condition})
    """


# Those of the table where long values are stored have the prefix that `ALTER TABLE` expects.
_OPTIONS = """(SELECT unnest(c.reloptions) UNION ALL
    SELECT 'toast.' || unnest(toast.reloptions) FROM pg_class toast WHERE toast.oid = c.reltoastrelid)"""

ROW_LEVEL_SECURITY = _setting(
    "row-level security",
    "c.relrowsecurity OR c.relforcerowsecurity",
    "concat_ws(', ', CASE WHEN c.relrowsecurity THEN 'enabled' END, CASE WHEN c.relforcerowsecurity THEN 'forced' END)",
    "format('ALTER TABLE %I %s, %s', c.relname,"
    " CASE WHEN c.relrowsecurity THEN 'ENABLE ROW LEVEL SECURITY' ELSE 'DISABLE ROW LEVEL SECURITY' END,"
    " CASE WHEN c.relforcerowsecurity THEN 'FORCE ROW LEVEL SECURITY' ELSE 'NO FORCE ROW LEVEL SECURITY' END)",
    "format('ALTER TABLE %I DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', c.relname)",
)

REPLICA_IDENTITY = _setting(
    "replica identity",
    "c.relreplident <> 'd'",
    "CASE c.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' ELSE 'USING INDEX ' ||"
    " (SELECT quote_ident(n.relname) FROM pg_index i JOIN pg_class n ON n.oid = i.indexrelid"
    " WHERE i.indrelid = c.oid AND i.indisreplident) END",
    "format('ALTER TABLE %I REPLICA IDENTITY %s', c.relname, CASE c.relreplident WHEN 'f' THEN 'FULL'"
    " WHEN 'n' THEN 'NOTHING' ELSE 'USING INDEX ' || (SELECT quote_ident(n.relname) FROM pg_index i"
    " JOIN pg_class n ON n.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisreplident) END)",
    "format('ALTER TABLE %I REPLICA IDENTITY DEFAULT', c.relname)",
)

CLUSTER = _setting(
    "cluster",
    "EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisclustered)",
    "(SELECT quote_ident(n.relname) FROM pg_index i JOIN pg_class n ON n.oid = i.indexrelid"
    " WHERE i.indrelid = c.oid AND i.indisclustered)",
    "format('ALTER TABLE %I CLUSTER ON %s', c.relname, (SELECT quote_ident(n.relname) FROM pg_index i"
    " JOIN pg_class n ON n.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisclustered))",
    "format('ALTER TABLE %I SET WITHOUT CLUSTER', c.relname)",
)

STORAGE_PARAMETERS = _setting(
    "storage parameters",
    f"EXISTS {_OPTIONS}",
    f"(SELECT string_agg(o, ', ' ORDER BY o) FROM {_OPTIONS} AS options (o))",
    "format('ALTER TABLE %I SET (%s)', c.relname,"
    f" (SELECT string_agg(o, ', ' ORDER BY o) FROM {_OPTIONS} AS options (o)))",
    "format('ALTER TABLE %I RESET (%s)', c.relname,"
    f" (SELECT string_agg(split_part(o, '=', 1), ', ' ORDER BY o) FROM {_OPTIONS} AS options (o)))",
)

# PostgreSQL's releases of November 2026 count changes of a column in an option of their own, also of a new column.
_COLUMN_OPTIONS = "(SELECT o FROM unnest(a.attoptions) AS o WHERE NOT starts_with(o, 'pg_attver='))"

# The columns of an index have a target for statistics; the rest follows from its table. Those of a materialized view
# are no objects, so the setting has the address of the view.
COLUMN_SETTINGS = f"""
    SELECT 'storage', c.relname || '.' || a.attname, coalesce(r.relname, c.relname), s.definition,
        format('storage of %I.%I', c.relname, a.attname), NULL, NULL::json,
        'pg_class'::regclass::oid, c.oid, CASE c.relkind WHEN 'm' THEN 0 ELSE a.attnum END
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_index i ON i.indexrelid = c.oid
    LEFT JOIN pg_class r ON r.oid = i.indrelid
    CROSS JOIN LATERAL (SELECT nullif(concat_ws(', ',
        CASE WHEN i.indexrelid IS NULL AND a.attstorage <> t.typstorage THEN 'storage ' || a.attstorage::text END,
        CASE WHEN i.indexrelid IS NULL THEN 'compression ' || nullif(a.attcompression, '')::text END,
        CASE WHEN a.attstattarget >= 0 THEN 'statistics ' || a.attstattarget END,
        CASE WHEN i.indexrelid IS NULL THEN (SELECT string_agg(o, ', ') FROM {_COLUMN_OPTIONS} AS options (o)) END), '')
        AS definition) s
    WHERE c.relnamespace = {PUBLIC} AND c.relkind IN ('r', 'p', 'f', 'm', 'i', 'I') AND s.definition IS NOT NULL
"""

# PostgreSQL enforces foreign keys and deferrable keys with triggers of its own, which only a superuser disables; and a
# partition has copies of the triggers of its table.
TRIGGERS_OF_CONSTRAINTS = f"""
    SELECT 'internal trigger', c.relname || '.' || coalesce(k.conname, t.tgname) || ' #' || row_number() OVER (
            PARTITION BY c.oid, coalesce(k.conname, t.tgname) ORDER BY t.tgtype, t.oid), c.relname,
        CASE t.tgenabled WHEN 'D' THEN 'DISABLED' WHEN 'R' THEN 'ENABLED ON REPLICA' ELSE 'ALWAYS ENABLED' END,
        format('internal trigger of %I', c.relname), NULL, NULL::json,
        'pg_trigger'::regclass::oid, t.oid, 0
    FROM pg_trigger t
    JOIN pg_class c ON c.oid = t.tgrelid
    LEFT JOIN pg_constraint k ON k.oid = t.tgconstraint
    WHERE c.relnamespace = {PUBLIC} AND (t.tgisinternal OR t.tgparentid <> 0) AND t.tgenabled <> 'O'
"""

# `pg_get_constraintdef` omits these.
INDEXES_OF_CONSTRAINTS = f"""
    SELECT 'index of a constraint', c.relname || '.' || k.conname, c.relname, s.definition,
        format('index of a constraint of %I', c.relname), NULL, NULL::json, 'pg_constraint'::regclass::oid, k.oid, 0
    FROM pg_constraint k
    JOIN {TABLES_OF_PUBLIC} ON c.oid = k.conrelid
    JOIN pg_index i ON i.indexrelid = k.conindid AND k.contype IN ('p', 'u', 'x')
    JOIN pg_class n ON n.oid = i.indexrelid
    LEFT JOIN pg_tablespace x ON x.oid = n.reltablespace
    CROSS JOIN LATERAL (SELECT nullif(concat_ws(', ', array_to_string(n.reloptions, ', '),
        'TABLESPACE ' || quote_ident(x.spcname), CASE WHEN NOT i.indisvalid THEN 'INVALID' END), '') AS definition) s
    WHERE s.definition IS NOT NULL
"""

# What an INSERT into a view fills in.
DEFAULTS_OF_VIEWS = f"""
    SELECT 'default', c.relname || '.' || a.attname, c.relname, pg_get_expr(d.adbin, d.adrelid),
        format('default of %I.%I', c.relname, a.attname),
        format('ALTER VIEW %I ALTER COLUMN %I SET DEFAULT %s', c.relname, a.attname, pg_get_expr(d.adbin, d.adrelid)),
        json_build_object('drop', format('ALTER VIEW %I ALTER COLUMN %I DROP DEFAULT', c.relname, a.attname)),
        'pg_attrdef'::regclass::oid, d.oid, 0
    FROM pg_attrdef d
    JOIN pg_class c ON c.oid = d.adrelid AND c.relkind = 'v'
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.adnum
    WHERE c.relnamespace = {PUBLIC}
"""

ALL = (
    ROW_LEVEL_SECURITY,
    REPLICA_IDENTITY,
    CLUSTER,
    STORAGE_PARAMETERS,
    COLUMN_SETTINGS,
    TRIGGERS_OF_CONSTRAINTS,
    INDEXES_OF_CONSTRAINTS,
    DEFAULTS_OF_VIEWS,
)
