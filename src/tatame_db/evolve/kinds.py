"""The queries that read each kind of object of the schema `public`, as PostgreSQL itself would write it.

A row has ten columns: kind, name, table that the object belongs to, definition without the name, the object as `DROP`
and `COMMENT ON` name it, the SQL that creates it (NULL if the planner or PostgreSQL writes it), facts for the planner
as JSON, and the address in `pg_depend`: catalogue, oid and column number.
"""

from tatame_db.database.dialect import SCHEMA

PUBLIC = f"'{SCHEMA}'::regnamespace"
# The tables, as the objects that belong to them join them.
TABLES_OF_PUBLIC = f"(SELECT * FROM pg_class WHERE relnamespace = {PUBLIC} AND relkind IN ('r', 'p', 'f')) c"

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
    WHERE t.typnamespace = {PUBLIC} AND t.typtype = 'e'
"""

# Other versions of PostgreSQL have other columns for the name of the locale.
COLLATIONS = f"""
    SELECT 'collation', c.collname, NULL, d.definition, format('COLLATION %I', c.collname),
        format('CREATE COLLATION %I (%s)', c.collname, d.definition), NULL::json,
        'pg_collation'::regclass::oid, c.oid, 0
    FROM pg_collation c
    CROSS JOIN LATERAL (SELECT to_jsonb(c) AS row) j
    CROSS JOIN LATERAL (SELECT concat_ws(', ',
        'PROVIDER = ' || CASE c.collprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
        'LOCALE = ' || quote_literal(CASE WHEN c.collprovider <> 'c'
            THEN coalesce(j.row->>'colllocale', j.row->>'colliculocale', c.collcollate) END),
        'LC_COLLATE = ' || quote_literal(CASE WHEN c.collprovider = 'c' THEN c.collcollate END),
        'LC_CTYPE = ' || quote_literal(CASE WHEN c.collprovider = 'c' THEN c.collctype END),
        CASE WHEN NOT c.collisdeterministic THEN 'DETERMINISTIC = false' END,
        'RULES = ' || quote_literal(coalesce(j.row->>'collicurules', j.row->>'collrules'))) AS definition) d
    WHERE c.collnamespace = {PUBLIC}
"""

DOMAINS = f"""
    SELECT 'domain', t.typname, NULL, d.definition, format('TYPE %I', t.typname),
        format('CREATE DOMAIN %I AS %s', t.typname, d.definition),
        json_build_object('base', format_type(t.typbasetype, t.typtypmod)), 'pg_type'::regclass::oid, t.oid, 0
    FROM pg_type t
    JOIN pg_type base ON base.oid = t.typbasetype
    CROSS JOIN LATERAL (SELECT concat_ws(' ',
        format_type(t.typbasetype, t.typtypmod),
        CASE WHEN t.typcollation <> base.typcollation THEN 'COLLATE ' || t.typcollation::regcollation END,
        'DEFAULT ' || t.typdefault,
        CASE WHEN t.typnotnull THEN 'NOT NULL' END,
        (SELECT string_agg(format('CONSTRAINT %I %s', conname, pg_get_constraintdef(oid)), ' ' ORDER BY conname)
         FROM pg_constraint WHERE contypid = t.oid AND contype = 'c')) AS definition) d
    WHERE t.typnamespace = {PUBLIC} AND t.typtype = 'd'
"""

COMPOSITE_TYPES = f"""
    SELECT 'type', t.typname, NULL, a.attributes, format('TYPE %I', t.typname),
        format('CREATE TYPE %I AS (%s)', t.typname, a.attributes), json_build_object('attributes', a.parts),
        'pg_type'::regclass::oid, t.oid, 0
    FROM pg_type t
    JOIN pg_class c ON c.oid = t.typrelid AND c.relkind = 'c'
    CROSS JOIN LATERAL (
        SELECT string_agg(quote_ident(attname) || ' ' || type, ', ' ORDER BY attnum) AS attributes,
            coalesce(json_agg(json_build_array(attname, type) ORDER BY attnum), '[]') AS parts
        FROM pg_attribute a JOIN pg_type b ON b.oid = a.atttypid
        CROSS JOIN LATERAL (SELECT concat_ws(' ', format_type(atttypid, atttypmod),
            CASE WHEN attcollation <> typcollation THEN 'COLLATE ' || attcollation::regcollation END) AS type) f
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ) a
    WHERE t.typnamespace = {PUBLIC}
"""

# Options that have their default value are omitted, so that `serial` is recognized by what is left.
SEQUENCES = f"""
    SELECT 'sequence', c.relname, o.relname,
        concat_ws(' ', 'AS ' || format_type(s.seqtypid, NULL), options.changed,
            CASE WHEN o.identity THEN 'IDENTITY OF ' ELSE 'OWNED BY ' END
                || quote_ident(o.relname) || '.' || quote_ident(o.attname), p.persistence),
        format('SEQUENCE %I', c.relname),
        format('CREATE %sSEQUENCE %I AS %s', CASE p.persistence WHEN 'UNLOGGED' THEN 'UNLOGGED ' END, c.relname,
            concat_ws(' ', format_type(s.seqtypid, NULL), options.changed)),
        json_build_object('column', o.attname, 'identity', coalesce(o.identity, false), 'changed', options.changed,
            'start', s.seqstart, 'increment', s.seqincrement, 'persistence', p.persistence,
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
        SELECT r.relname, r.relpersistence, a.attname, d.deptype = 'i' AS identity
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
    CROSS JOIN LATERAL (SELECT CASE WHEN current_setting('server_version_num')::integer >= 150000
        AND c.relpersistence <> coalesce(o.relpersistence, 'p')
        THEN CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED' ELSE 'LOGGED' END END AS persistence) p
    WHERE c.relnamespace = {PUBLIC} AND c.relpersistence <> 't'
"""

TABLES = f"""
    SELECT 'table', c.relname, c.relname,
        concat_ws(' ',
            CASE c.relkind WHEN 'p' THEN 'PARTITION BY ' || pg_get_partkeydef(c.oid) ELSE 'plain' END,
            CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED' END,
            'OF ' || nullif(c.reloftype, 0)::regtype,
            'USING ' || nullif(am.amname, 'heap'),
            'TABLESPACE ' || quote_ident(s.spcname), h.family),
        format('TABLE %I', c.relname), NULL,
        json_build_object(
            'family', h.family, 'partition', pg_get_partkeydef(c.oid), 'unlogged', c.relpersistence = 'u',
            'plain', c.reloftype = 0 AND coalesce(am.amname, 'heap') = 'heap' AND s.oid IS NULL),
        'pg_class'::regclass::oid, c.oid, 0
    FROM {TABLES_OF_PUBLIC}
    LEFT JOIN pg_am am ON am.oid = c.relam
    LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
    CROSS JOIN LATERAL (
        SELECT CASE WHEN c.relispartition THEN 'PARTITION OF ' ELSE 'INHERITS ' END
            || string_agg(i.inhparent::regclass::text, ', ' ORDER BY i.inhseqno)
            || coalesce(' ' || pg_get_expr(c.relpartbound, c.oid), '')
            || CASE WHEN bool_or(to_jsonb(i)->>'inhdetachpending' = 'true') THEN ' DETACH PENDING' ELSE '' END AS family
        FROM pg_inherits i WHERE i.inhrelid = c.oid
    ) h
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
    FROM {TABLES_OF_PUBLIC}
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    CROSS JOIN LATERAL (SELECT
        format_type(a.atttypid, a.atttypmod) AS type,
        CASE WHEN a.attcollation <> t.typcollation THEN 'COLLATE ' || a.attcollation::regcollation END AS collation,
        (SELECT concat_ws(' ', 'NOT NULL', CASE WHEN bool_or(k.connoinherit) THEN 'NO INHERIT' END,
                CASE WHEN bool_or(NOT k.convalidated) THEN 'NOT VALID' END)
            FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'n' AND k.conkey = ARRAY[a.attnum])
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
    JOIN {TABLES_OF_PUBLIC} ON c.oid = k.conrelid
    LEFT JOIN pg_class r ON r.oid = k.confrelid
    WHERE k.contype NOT IN ('n', 't') AND k.conparentid = 0
"""

INDEXES = f"""
    SELECT 'index', n.relname, c.relname, concat_ws(' ', CASE WHEN i.indisunique THEN 'UNIQUE' END,
            format('ON %I', c.relname), u.using, 'TABLESPACE ' || quote_ident(s.spcname),
            CASE WHEN NOT i.indisvalid THEN 'INVALID' END),
        format('INDEX %I', n.relname),
        format('CREATE %sINDEX %I ON %I %s', CASE WHEN i.indisunique THEN 'UNIQUE ' END, n.relname, c.relname, u.using),
        json_build_object('computed', i.indexprs IS NOT NULL OR i.indpred IS NOT NULL),
        'pg_class'::regclass::oid, n.oid, 0
    FROM pg_index i
    JOIN pg_class n ON n.oid = i.indexrelid
    LEFT JOIN pg_tablespace s ON s.oid = n.reltablespace
    JOIN (SELECT * FROM pg_class WHERE relnamespace = {PUBLIC} AND relkind IN ('r', 'p', 'm')) c ON c.oid = i.indrelid
    CROSS JOIN LATERAL (
        SELECT substr(pg_get_indexdef(n.oid), strpos(pg_get_indexdef(n.oid), ' USING ') + 1) AS using
    ) u
    WHERE NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = i.indrelid)
"""

# Columns are named, because another order of them is another view.
VIEWS = f"""
    SELECT k.kind, c.relname, NULL, concat_ws(' ', 'USING ' || nullif(am.amname, 'heap'),
            'TABLESPACE ' || quote_ident(s.spcname), 'WITH (' || array_to_string(c.reloptions, ', ') || ')', k.query,
            CASE WHEN c.relkind = 'm' AND NOT c.relispopulated THEN 'WITH NO DATA' END),
        format('%s %I', upper(k.kind), c.relname),
        format('CREATE %s %I%s AS %s%s', upper(k.kind), c.relname,
            ' WITH (' || array_to_string(c.reloptions, ', ') || ')', k.query,
            CASE WHEN c.relkind = 'm' AND NOT c.relispopulated THEN ' WITH NO DATA' END),
        NULL::json, 'pg_class'::regclass::oid, c.oid, 0
    FROM pg_class c
    LEFT JOIN pg_am am ON am.oid = c.relam
    LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
    CROSS JOIN LATERAL (SELECT CASE c.relkind WHEN 'm' THEN 'materialized view' ELSE 'view' END AS kind,
        btrim(pg_get_viewdef(c.oid), E' \\n;') AS query) k
    WHERE c.relnamespace = {PUBLIC} AND c.relkind IN ('v', 'm')
"""

FUNCTIONS = f"""
    SELECT CASE p.prokind WHEN 'p' THEN 'procedure' ELSE 'function' END, p.oid::regprocedure::text, NULL,
        pg_get_functiondef(p.oid),
        format('%s %s', CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, p.oid::regprocedure),
        pg_get_functiondef(p.oid), NULL::json, 'pg_proc'::regclass::oid, p.oid, 0
    FROM pg_proc p
    WHERE p.pronamespace = {PUBLIC} AND p.prokind IN ('f', 'p', 'w') AND NOT EXISTS (
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
    JOIN (SELECT * FROM pg_class WHERE relnamespace = {PUBLIC}) c ON c.oid = t.tgrelid
    WHERE NOT t.tgisinternal AND t.tgparentid = 0
"""

RULES = f"""
    SELECT 'rule', c.relname || '.' || r.rulename, c.relname,
        pg_get_ruledef(r.oid, true) || CASE r.ev_enabled WHEN 'O' THEN '' ELSE ' enabled as ' || r.ev_enabled::text END,
        format('RULE %I ON %I', r.rulename, c.relname),
        CASE WHEN r.ev_enabled = 'O' THEN rtrim(pg_get_ruledef(r.oid, true), ';') END,
        NULL::json, 'pg_rewrite'::regclass::oid, r.oid, 0
    FROM pg_rewrite r
    JOIN (SELECT * FROM pg_class WHERE relnamespace = {PUBLIC}) c ON c.oid = r.ev_class
    WHERE r.rulename <> '_RETURN'
"""

POLICIES = f"""
    SELECT 'policy', c.relname || '.' || p.polname, c.relname, d.definition,
        format('POLICY %I ON %I', p.polname, c.relname),
        format('CREATE POLICY %I ON %I %s', p.polname, c.relname, d.definition),
        NULL::json, 'pg_policy'::regclass::oid, p.oid, 0
    FROM pg_policy p
    JOIN {TABLES_OF_PUBLIC} ON c.oid = p.polrelid
    CROSS JOIN LATERAL (SELECT concat_ws(' ',
        CASE WHEN p.polpermissive THEN 'AS PERMISSIVE' ELSE 'AS RESTRICTIVE' END,
        'FOR ' || CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
            WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
        'TO ' || (SELECT string_agg(CASE WHEN role = 0 THEN 'PUBLIC' ELSE role::regrole::text END, ', '
            ORDER BY role = 0 DESC, role::regrole::text) FROM unnest(p.polroles) AS role),
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
    JOIN pg_class c ON c.oid = s.stxrelid
    WHERE s.stxnamespace = {PUBLIC}
"""

EVENT_TRIGGERS = """
    SELECT 'event trigger', evtname, NULL,
        concat_ws(' ', evtevent, evtfoid::regprocedure::text, evttags::text, 'enabled as ' || evtenabled::text),
        format('EVENT TRIGGER %I', evtname), NULL, NULL::json, 'pg_event_trigger'::regclass::oid, oid, 0
    FROM pg_event_trigger
"""

ALL = (
    EXTENSIONS,
    COLLATIONS,
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
)
