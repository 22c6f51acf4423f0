"""The queries that read each kind of object of the schema `public`, as PostgreSQL itself would write it.

A row has ten columns: kind, name, table that the object belongs to, definition without the name, the object as `DROP`
and `COMMENT ON` name it, the SQL that creates it (NULL if the planner or PostgreSQL writes it), facts for the planner
as JSON, and the address in `pg_depend`: catalogue, oid and column number.
"""

from tatame_db.database.dialect import MOVE_SCHEMA, SCHEMA

_PUBLIC = f"'{SCHEMA}'::regnamespace"
# The tables, as the objects that belong to them join them.
_TABLES = f"(SELECT * FROM pg_class WHERE relnamespace = {_PUBLIC} AND relkind IN ('r', 'p', 'f')) c"

EXTENSIONS = """
    SELECT 'extension', extname::text, NULL::text, 'installed', format('EXTENSION %I', extname),
        format('CREATE EXTENSION IF NOT EXISTS %I', extname), NULL::json, 'pg_extension'::regclass::oid, oid, 0
    FROM pg_extension WHERE extname <> 'plpgsql'
"""

ENUMS = f"""
    SELECT 'enum', t.typname, NULL, e.labels, format('TYPE %I', t.typname),
        format('CREATE TYPE %I AS ENUM (%s)', t.typname, e.labels), json_build_object('labels', e.names),
        'pg_type'::regclass::oid, t.oid, 0
    FROM pg_type t
    CROSS JOIN LATERAL (
        SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder) AS labels,
            coalesce(json_agg(enumlabel ORDER BY enumsortorder), '[]') AS names
        FROM pg_enum WHERE enumtypid = t.oid
    ) e
    WHERE t.typnamespace = {_PUBLIC} AND t.typtype = 'e'
"""

DOMAINS = f"""
    SELECT 'domain', t.typname, NULL, d.definition, format('TYPE %I', t.typname),
        format('CREATE DOMAIN %I AS %s', t.typname, d.definition), NULL::json, 'pg_type'::regclass::oid, t.oid, 0
    FROM pg_type t
    JOIN pg_type base ON base.oid = t.typbasetype
    CROSS JOIN LATERAL (SELECT concat_ws(' ',
        format_type(t.typbasetype, t.typtypmod),
        CASE WHEN t.typcollation <> base.typcollation THEN 'COLLATE ' || t.typcollation::regcollation END,
        'DEFAULT ' || t.typdefault,
        CASE WHEN t.typnotnull THEN 'NOT NULL' END,
        (SELECT string_agg(format('CONSTRAINT %I %s', conname, pg_get_constraintdef(oid)), ' ' ORDER BY conname)
         FROM pg_constraint WHERE contypid = t.oid AND contype = 'c')) AS definition) d
    WHERE t.typnamespace = {_PUBLIC} AND t.typtype = 'd'
"""

COMPOSITE_TYPES = f"""
    SELECT 'type', t.typname, NULL, a.attributes, format('TYPE %I', t.typname),
        format('CREATE TYPE %I AS (%s)', t.typname, a.attributes), NULL::json, 'pg_type'::regclass::oid, t.oid, 0
    FROM pg_type t
    JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c'
    CROSS JOIN LATERAL (
        SELECT string_agg(concat_ws(' ', quote_ident(attname), format_type(atttypid, atttypmod),
            CASE WHEN attcollation <> typcollation THEN 'COLLATE ' || attcollation::regcollation END), ', '
            ORDER BY attnum) AS attributes
        FROM pg_attribute a JOIN pg_type b ON b.oid = a.atttypid
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ) a
    WHERE t.typnamespace = {_PUBLIC}
"""

# Options that have their default value are omitted, so that `serial` is recognized by what is left.
SEQUENCES = f"""
    SELECT 'sequence', c.relname, o.relname,
        concat_ws(' ', 'AS ' || format_type(s.seqtypid, NULL), options.changed,
            CASE WHEN o.identity THEN 'IDENTITY OF ' ELSE 'OWNED BY ' END
                || quote_ident(o.relname) || '.' || quote_ident(o.attname)),
        format('SEQUENCE %I', c.relname),
        format('CREATE SEQUENCE %I AS %s', c.relname, concat_ws(' ', format_type(s.seqtypid, NULL), options.changed)),
        json_build_object('column', o.attname, 'identity', coalesce(o.identity, false), 'changed', options.changed,
            'full', concat_ws(' ', CASE WHEN o.identity THEN NULL ELSE 'AS ' || format_type(s.seqtypid, NULL) END,
                'INCREMENT BY ' || s.seqincrement, 'MINVALUE ' || s.seqmin, 'MAXVALUE ' || s.seqmax,
                'START WITH ' || s.seqstart, 'CACHE ' || s.seqcache,
                CASE WHEN s.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END,
                CASE WHEN o.identity THEN NULL WHEN o.attname IS NULL THEN 'OWNED BY NONE'
                    ELSE format('OWNED BY %I.%I', o.relname, o.attname) END)),
        'pg_class'::regclass::oid, c.oid, 0
    FROM pg_sequence s
    JOIN pg_class c ON c.oid = s.seqrelid
    LEFT JOIN LATERAL (
        SELECT r.relname, a.attname, d.deptype = 'i' AS identity
        FROM pg_depend d
        JOIN pg_class r ON r.oid = d.refobjid
        JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
            AND d.deptype IN ('a', 'i')
    ) o ON true
    CROSS JOIN LATERAL (SELECT nullif(concat_ws(' ',
        CASE WHEN s.seqincrement <> 1 THEN 'INCREMENT BY ' || s.seqincrement END,
        CASE WHEN s.seqmin <> 1 THEN 'MINVALUE ' || s.seqmin END,
        CASE WHEN s.seqmax <> CASE s.seqtypid WHEN 'smallint'::regtype THEN 32767 WHEN 'integer'::regtype
            THEN 2147483647 ELSE 9223372036854775807 END THEN 'MAXVALUE ' || s.seqmax END,
        CASE WHEN s.seqstart <> 1 THEN 'START WITH ' || s.seqstart END,
        CASE WHEN s.seqcache <> 1 THEN 'CACHE ' || s.seqcache END,
        CASE WHEN s.seqcycle THEN 'CYCLE' END), '') AS changed) options
    WHERE c.relnamespace = {_PUBLIC} AND c.relpersistence <> 't'
"""

TABLES = f"""
    SELECT 'table', c.relname, c.relname,
        concat_ws(' ',
            CASE c.relkind WHEN 'p' THEN 'PARTITION BY ' || pg_get_partkeydef(c.oid) ELSE 'plain' END,
            CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED' END,
            'OF ' || nullif(c.reloftype, 0)::regtype,
            'USING ' || nullif(am.amname, 'heap'),
            'TABLESPACE ' || quote_ident(s.spcname)),
        format('TABLE %I', c.relname), NULL,
        json_build_object(
            'partition', pg_get_partkeydef(c.oid), 'unlogged', c.relpersistence = 'u',
            'plain', c.reloftype = 0 AND coalesce(am.amname, 'heap') = 'heap' AND s.oid IS NULL),
        'pg_class'::regclass::oid, c.oid, 0
    FROM {_TABLES}
    LEFT JOIN pg_am am ON am.oid = c.relam
    LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
    WHERE c.relkind IN ('r', 'p')
"""

COLUMNS = f"""
    SELECT 'column', c.relname || '.' || a.attname, c.relname,
        concat_ws(' ',
            f.type, f.collation, CASE WHEN a.attnotnull THEN f.not_null END,
            CASE a.attidentity WHEN 'a' THEN 'IDENTITY ALWAYS' WHEN 'd' THEN 'IDENTITY' END,
            CASE a.attgenerated
                WHEN '' THEN 'DEFAULT ' || f.expression
                WHEN 'v' THEN 'GENERATED ' || f.expression || ' VIRTUAL'
                ELSE 'GENERATED ' || f.expression || ' STORED' END),
        format('COLUMN %I.%I', c.relname, a.attname), NULL,
        json_build_object(
            'name', a.attname, 'number', a.attnum, 'type', f.type, 'collation', f.collation, 'not_null', a.attnotnull,
            'identity', a.attidentity, 'generated', a.attgenerated, 'expression', f.expression),
        'pg_class'::regclass::oid, c.oid, a.attnum
    FROM {_TABLES}
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    CROSS JOIN LATERAL (SELECT
        format_type(a.atttypid, a.atttypmod) AS type,
        CASE WHEN a.attcollation <> t.typcollation THEN 'COLLATE ' || a.attcollation::regcollation END AS collation,
        CASE WHEN EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'n'
            AND k.conkey = ARRAY[a.attnum] AND NOT k.convalidated) THEN 'NOT NULL NOT VALID' ELSE 'NOT NULL' END
            AS not_null,
        pg_get_expr(d.adbin, d.adrelid) AS expression) f
    WHERE c.relkind IN ('r', 'p')
"""

# PostgreSQL 18 lists NOT NULL among the constraints; here it belongs to the column.
CONSTRAINTS = f"""
    SELECT 'constraint', c.relname || '.' || k.conname, c.relname, pg_get_constraintdef(k.oid),
        format('CONSTRAINT %I ON %I', k.conname, c.relname),
        format('ALTER TABLE %I ADD CONSTRAINT %I %s', c.relname, k.conname, pg_get_constraintdef(k.oid)),
        json_build_object('name', k.conname, 'type', k.contype, 'to', r.relname),
        'pg_constraint'::regclass::oid, k.oid, 0
    FROM pg_constraint k
    JOIN {_TABLES} ON c.oid = k.conrelid
    LEFT JOIN pg_class r ON r.oid = k.confrelid
    WHERE k.contype NOT IN ('n', 't') AND k.conparentid = 0
"""

INDEXES = f"""
    SELECT 'index', n.relname, c.relname, concat_ws(' ', CASE WHEN i.indisunique THEN 'UNIQUE' END,
            format('ON %I', c.relname), u.using, CASE WHEN NOT i.indisvalid THEN 'INVALID' END),
        format('INDEX %I', n.relname),
        format('CREATE %sINDEX %I ON %I %s', CASE WHEN i.indisunique THEN 'UNIQUE ' END, n.relname, c.relname, u.using),
        json_build_object('computed', i.indexprs IS NOT NULL OR i.indpred IS NOT NULL),
        'pg_class'::regclass::oid, n.oid, 0
    FROM pg_index i
    JOIN pg_class n ON n.oid = i.indexrelid
    JOIN (SELECT * FROM pg_class WHERE relnamespace = {_PUBLIC} AND relkind IN ('r', 'p', 'm')) c ON c.oid = i.indrelid
    CROSS JOIN LATERAL (
        SELECT substr(pg_get_indexdef(n.oid), strpos(pg_get_indexdef(n.oid), ' USING ') + 1) AS using
    ) u
    WHERE NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = i.indrelid)
"""

# Columns are named, because another order of them is another view.
VIEWS = f"""
    SELECT k.kind, c.relname, NULL, concat_ws(' ', 'WITH (' || array_to_string(c.reloptions, ', ') || ')', k.query,
            CASE WHEN c.relkind = 'm' AND NOT c.relispopulated THEN 'WITH NO DATA' END),
        format('%s %I', upper(k.kind), c.relname),
        format('CREATE %s %I%s AS %s%s', upper(k.kind), c.relname,
            ' WITH (' || array_to_string(c.reloptions, ', ') || ')', k.query,
            CASE WHEN c.relkind = 'm' AND NOT c.relispopulated THEN ' WITH NO DATA' END),
        NULL::json, 'pg_class'::regclass::oid, c.oid, 0
    FROM pg_class c
    CROSS JOIN LATERAL (SELECT CASE c.relkind WHEN 'm' THEN 'materialized view' ELSE 'view' END AS kind,
        btrim(pg_get_viewdef(c.oid), E' \\n;') AS query) k
    WHERE c.relnamespace = {_PUBLIC} AND c.relkind IN ('v', 'm')
"""

FUNCTIONS = f"""
    SELECT CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END, p.oid::regprocedure::text, NULL,
        pg_get_functiondef(p.oid),
        format('%s %s', CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, p.oid::regprocedure),
        pg_get_functiondef(p.oid), NULL::json, 'pg_proc'::regclass::oid, p.oid, 0
    FROM pg_proc p
    WHERE p.pronamespace = {_PUBLIC} AND p.prokind IN ('f', 'p') AND NOT EXISTS (
        SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'i')
"""

# A trigger that is not enabled as usual takes a second statement, so it is compared but not written.
TRIGGERS = f"""
    SELECT 'trigger', c.relname || '.' || t.tgname, c.relname,
        pg_get_triggerdef(t.oid, true) || CASE t.tgenabled WHEN 'O' THEN '' WHEN 'D' THEN ' DISABLED'
            WHEN 'R' THEN ' ENABLED ON REPLICA' ELSE ' ALWAYS ENABLED' END,
        format('TRIGGER %I ON %I', t.tgname, c.relname),
        CASE WHEN t.tgenabled = 'O' THEN pg_get_triggerdef(t.oid, true) END,
        NULL::json, 'pg_trigger'::regclass::oid, t.oid, 0
    FROM pg_trigger t
    JOIN (SELECT * FROM pg_class WHERE relnamespace = {_PUBLIC}) c ON c.oid = t.tgrelid
    WHERE NOT t.tgisinternal AND t.tgparentid = 0
"""

RULES = f"""
    SELECT 'rule', c.relname || '.' || r.rulename, c.relname,
        pg_get_ruledef(r.oid, true) || CASE r.ev_enabled WHEN 'O' THEN '' ELSE ' enabled as ' || r.ev_enabled::text END,
        format('RULE %I ON %I', r.rulename, c.relname),
        CASE WHEN r.ev_enabled = 'O' THEN rtrim(pg_get_ruledef(r.oid, true), ';') END,
        NULL::json, 'pg_rewrite'::regclass::oid, r.oid, 0
    FROM pg_rewrite r
    JOIN (SELECT * FROM pg_class WHERE relnamespace = {_PUBLIC}) c ON c.oid = r.ev_class
    WHERE r.rulename <> '_RETURN'
"""

POLICIES = f"""
    SELECT 'policy', c.relname || '.' || p.polname, c.relname, d.definition,
        format('POLICY %I ON %I', p.polname, c.relname),
        format('CREATE POLICY %I ON %I %s', p.polname, c.relname, d.definition),
        NULL::json, 'pg_policy'::regclass::oid, p.oid, 0
    FROM pg_policy p
    JOIN {_TABLES} ON c.oid = p.polrelid
    CROSS JOIN LATERAL (SELECT concat_ws(' ',
        CASE WHEN p.polpermissive THEN 'AS PERMISSIVE' ELSE 'AS RESTRICTIVE' END,
        'FOR ' || CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
            WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
        'TO ' || (SELECT string_agg(CASE WHEN role = 0 THEN 'PUBLIC' ELSE role::regrole::text END, ', ' ORDER BY role)
            FROM unnest(p.polroles) AS role),
        'USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
        'WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')') AS definition) d
"""

STATISTICS = f"""
    SELECT 'statistics', s.stxname, c.relname,
        regexp_replace(pg_get_statisticsobjdef(s.oid), '^CREATE STATISTICS \\S+ ', '')
            || coalesce(' TARGET ' || nullif(s.stxstattarget, -1), ''),
        format('STATISTICS %I', s.stxname), pg_get_statisticsobjdef(s.oid),
        NULL::json, 'pg_statistic_ext'::regclass::oid, s.oid, 0
    FROM pg_statistic_ext s
    JOIN {_TABLES} ON c.oid = s.stxrelid
"""

EVENT_TRIGGERS = """
    SELECT 'event trigger', evtname, NULL,
        concat_ws(' ', evtevent, evtfoid::regprocedure::text, evttags::text, 'enabled as ' || evtenabled::text),
        format('EVENT TRIGGER %I', evtname), NULL, NULL::json, 'pg_event_trigger'::regclass::oid, oid, 0
    FROM pg_event_trigger
"""


def _setting(kind: str, condition: str, definition: str, create: str, drop: str) -> str:
    """A setting of a table that has no catalogue of its own; it is an object of the table, with its own SQL."""
    return f"""
    SELECT '{kind}', c.relname, c.relname, {definition}, format('{kind} of %I', c.relname), {create},
        json_build_object('drop', {drop}), 'pg_class'::regclass::oid, c.oid, 0
    FROM {_TABLES} WHERE c.relkind IN ('r', 'p') AND ({condition})
    """


SETTINGS = (
    _setting(
        "row-level security",
        "c.relrowsecurity OR c.relforcerowsecurity",
        "concat_ws(', ', CASE WHEN c.relrowsecurity THEN 'enabled' END,"
        " CASE WHEN c.relforcerowsecurity THEN 'forced' END)",
        "format('ALTER TABLE %I %s, %s', c.relname,"
        " CASE WHEN c.relrowsecurity THEN 'ENABLE ROW LEVEL SECURITY' ELSE 'DISABLE ROW LEVEL SECURITY' END,"
        " CASE WHEN c.relforcerowsecurity THEN 'FORCE ROW LEVEL SECURITY' ELSE 'NO FORCE ROW LEVEL SECURITY' END)",
        "format('ALTER TABLE %I DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', c.relname)",
    ),
    _setting(
        "replica identity",
        "c.relreplident <> 'd'",
        "CASE c.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' ELSE 'USING INDEX ' ||"
        " (SELECT quote_ident(n.relname) FROM pg_index i JOIN pg_class n ON n.oid = i.indexrelid"
        " WHERE i.indrelid = c.oid AND i.indisreplident) END",
        "format('ALTER TABLE %I REPLICA IDENTITY %s', c.relname, CASE c.relreplident WHEN 'f' THEN 'FULL'"
        " WHEN 'n' THEN 'NOTHING' ELSE 'USING INDEX ' || (SELECT quote_ident(n.relname) FROM pg_index i"
        " JOIN pg_class n ON n.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisreplident) END)",
        "format('ALTER TABLE %I REPLICA IDENTITY DEFAULT', c.relname)",
    ),
    _setting(
        "cluster",
        "EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisclustered)",
        "(SELECT quote_ident(n.relname) FROM pg_index i JOIN pg_class n ON n.oid = i.indexrelid"
        " WHERE i.indrelid = c.oid AND i.indisclustered)",
        "format('ALTER TABLE %I CLUSTER ON %s', c.relname, (SELECT quote_ident(n.relname) FROM pg_index i"
        " JOIN pg_class n ON n.oid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisclustered))",
        "format('ALTER TABLE %I SET WITHOUT CLUSTER', c.relname)",
    ),
    _setting(
        "storage parameters",
        "c.reloptions IS NOT NULL",
        "array_to_string(c.reloptions, ', ')",
        "format('ALTER TABLE %I SET (%s)', c.relname, array_to_string(c.reloptions, ', '))",
        "format('ALTER TABLE %I RESET (%s)', c.relname, (SELECT string_agg(split_part(o, '=', 1), ', ')"
        " FROM unnest(c.reloptions) AS o))",
    ),
)

COLUMN_SETTINGS = f"""
    SELECT 'storage', c.relname || '.' || a.attname, c.relname, s.definition,
        format('storage of %I.%I', c.relname, a.attname), NULL, NULL::json,
        'pg_class'::regclass::oid, c.oid, a.attnum
    FROM {_TABLES}
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid
    CROSS JOIN LATERAL (SELECT nullif(concat_ws(', ',
        CASE WHEN a.attstorage <> t.typstorage THEN 'storage ' || a.attstorage::text END,
        'compression ' || nullif(a.attcompression, '')::text,
        CASE WHEN a.attstattarget >= 0 THEN 'statistics ' || a.attstattarget END,
        array_to_string(a.attoptions, ', ')), '') AS definition) s
    WHERE s.definition IS NOT NULL
"""

OBJECTS = " UNION ALL ".join(
    (
        EXTENSIONS,
        ENUMS,
        DOMAINS,
        COMPOSITE_TYPES,
        SEQUENCES,
        TABLES,
        COLUMNS,
        CONSTRAINTS,
        INDEXES,
        VIEWS,
        FUNCTIONS,
        TRIGGERS,
        RULES,
        POLICIES,
        STATISTICS,
        EVENT_TRIGGERS,
        *SETTINGS,
        COLUMN_SETTINGS,
    )
)

# A table with its parent, a partition of a partition with the uppermost one.
PARENTS = f"""
    WITH RECURSIVE family AS (
        SELECT inhrelid, inhparent FROM pg_inherits
        UNION SELECT f.inhrelid, i.inhparent FROM family f JOIN pg_inherits i ON i.inhrelid = f.inhparent
    )
    SELECT c.relname, p.relname
    FROM family f JOIN pg_class c ON c.oid = f.inhrelid JOIN pg_class p ON p.oid = f.inhparent
    WHERE c.relnamespace = {_PUBLIC} AND p.relkind IN ('r', 'p')
        AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = f.inhparent)
"""

# What PostgreSQL creates with another object is compared with that one: defaults, the types of rows and arrays, the
# indexes of constraints, the queries of views.
PART_OF = f"""
    SELECT * FROM (
    SELECT 'pg_attrdef'::regclass::oid, oid, 'pg_class'::regclass::oid, adrelid, adnum::int FROM pg_attrdef
    UNION ALL SELECT 'pg_rewrite'::regclass::oid, oid, 'pg_class'::regclass::oid, ev_class, 0
    FROM pg_rewrite WHERE rulename = '_RETURN'
    UNION ALL SELECT 'pg_type'::regclass::oid, t.oid, 'pg_class'::regclass::oid, t.typrelid, 0
    FROM pg_type t JOIN pg_class c ON c.oid = t.typrelid AND c.relkind <> 'c'
    UNION ALL SELECT 'pg_class'::regclass::oid, c.oid, 'pg_type'::regclass::oid, c.reltype, 0
    FROM pg_class c WHERE c.relkind = 'c'
    UNION ALL SELECT 'pg_type'::regclass::oid, typarray, 'pg_type'::regclass::oid, oid, 0
    FROM pg_type WHERE typarray <> 0 AND typnamespace = {_PUBLIC}
    UNION ALL SELECT 'pg_type'::regclass::oid, rngmultitypid, 'pg_type'::regclass::oid, rngtypid, 0 FROM pg_range
    UNION ALL SELECT 'pg_proc'::regclass::oid, objid, 'pg_type'::regclass::oid, refobjid, 0
    FROM pg_depend WHERE classid = 'pg_proc'::regclass AND refclassid = 'pg_type'::regclass AND deptype = 'i'
    UNION ALL SELECT 'pg_class'::regclass::oid, conindid, 'pg_constraint'::regclass::oid, oid, 0
    FROM pg_constraint WHERE contype IN ('p', 'u', 'x')
    UNION ALL SELECT 'pg_constraint'::regclass::oid, oid, 'pg_class'::regclass::oid, conrelid, 0
    FROM pg_constraint WHERE contype IN ('n', 't') OR conparentid <> 0
    UNION ALL SELECT 'pg_constraint'::regclass::oid, oid, 'pg_type'::regclass::oid, contypid, 0
    FROM pg_constraint WHERE contypid <> 0
    UNION ALL SELECT 'pg_trigger'::regclass::oid, oid, 'pg_class'::regclass::oid, tgrelid, 0
    FROM pg_trigger WHERE tgisinternal OR tgparentid <> 0
    UNION ALL SELECT 'pg_class'::regclass::oid, reltoastrelid, 'pg_class'::regclass::oid, oid, 0
    FROM pg_class WHERE reltoastrelid <> 0
    ) part (catalogue, oid, whole_catalogue, whole, number) WHERE oid >= 16384
"""

# The triggers with which a move refuses writers to a table, and the publications that it reads changes from.
MOVE_TRIGGERS = f"""
    SELECT t.oid FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
    WHERE p.pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = '{MOVE_SCHEMA}')
"""
MOVE_PUBLICATIONS = f"SELECT oid FROM pg_publication WHERE starts_with(pubname, '{MOVE_SCHEMA}_')"
OTHERS = f"""
    SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
    UNION ALL SELECT 'pg_trigger'::regclass, oid FROM ({MOVE_TRIGGERS}) t
    UNION ALL SELECT 'pg_publication_rel'::regclass, oid FROM pg_publication_rel
    WHERE prpubid IN ({MOVE_PUBLICATIONS})
"""

DEPENDENCIES = """
    SELECT DISTINCT classid, objid, objsubid, refclassid, refobjid, refobjsubid
    FROM pg_depend WHERE objid >= 16384 AND refobjid >= 16384 AND deptype IN ('n', 'a', 'i')
"""

COMMENTS = """
    SELECT classoid, objoid, objsubid, description, quote_literal(description)
    FROM pg_description WHERE objoid >= 16384
"""

# Everything that lies in the schema or depends on a table in it: so that an unforeseen kind is found too.
EVERYTHING = f"""
    SELECT DISTINCT d.classid, d.objid, 0 AS sub, i.type, i.identity, t.relname
    FROM pg_depend d
    LEFT JOIN pg_class t ON d.refclassid = 'pg_class'::regclass AND t.oid = d.refobjid
    CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) i
    WHERE d.deptype IN ('n', 'a', 'i') AND d.classid <> 'pg_namespace'::regclass
        AND ((d.refclassid = 'pg_namespace'::regclass AND d.refobjid = {_PUBLIC})
            OR (t.relnamespace = {_PUBLIC} AND d.deptype <> 'n'))
        AND NOT (d.classid = 'pg_class'::regclass AND EXISTS (
            SELECT FROM pg_class p WHERE p.oid = d.objid AND p.relpersistence = 't'))
    UNION SELECT 'pg_class'::regclass, c.oid, 0, i.type, i.identity, NULL
    FROM pg_class c CROSS JOIN LATERAL pg_identify_object('pg_class'::regclass, c.oid, 0) i
    WHERE c.relnamespace = {_PUBLIC}
"""
