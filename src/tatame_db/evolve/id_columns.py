"""The query of the catalogue for the columns that are numbered: keys, and those that a sequence fills."""

from __future__ import annotations

_TEXTS = "'{varchar,bpchar}'::regtype[]::oid[]"
# A table of 8 MB is read within some milliseconds.
_SMALL_PAGES = 1_024
# The OIDs that PostgreSQL has for nextval(regclass) and for B-trees in every version.
_NEXTVAL, _BTREE = 1_574, 403

SCHEMAS = """
space AS (
    SELECT n.oid, n.nspname, n.nspname = 'public' AS is_public,
        CASE WHEN n.nspname <> 'public' THEN n.nspname || '.' ELSE '' END AS prefix
    FROM pg_namespace n
    WHERE n.nspname = 'public' OR (n.nspname !~ '^(pg_|information_schema$|tatame_)'
        AND has_schema_privilege(n.oid, 'USAGE')
        AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_namespace'::regclass AND objid = n.oid
            AND deptype = 'e'))
)
"""
"""The schemas of the app: `public`, and those that the role may enter and that no extension has."""
# The last number that a column of a type, with its precision, can hold. It is not known of all types.
_LARGEST = f"""
CASE WHEN base = 'smallint'::regtype THEN 32767 WHEN base = 'integer'::regtype THEN 2147483647
    WHEN base = ANY({_TEXTS}) AND typmod >= 4 THEN (10::numeric ^ least(typmod - 4, 18) - 1)::bigint
    WHEN base IS DISTINCT FROM 'numeric'::regtype THEN 9223372036854775807
    ELSE CASE WHEN typmod < 0 THEN 9223372036854775807
        ELSE least(9223372036854775807, greatest(0, 10::numeric ^ least(19,
            ((typmod - 4) >> 16 & 65535) - (((typmod - 4 & 2047) # 1024) - 1024)) - 1))::bigint
    END
END
"""
_WIDEST = f"CASE WHEN base = ANY({_TEXTS}) THEN 'text' ELSE 'bigint' END"
# For each key of one column, each other column that a sequence fills, and each other sequence that ends: the last id
# that the sequence, its column and all columns that refer to it can hold. A sequence fills a column that has it as
# its identity, or a default, its own or that of its domain, that is `nextval` and nothing else: the owner of a
# sequence need not be filled by it. A text such as `nextval('ids'::text)` is looked up in each call, and the
# catalogue shows no sequence for it: it is found by its name. A column of another type than a number, and a default
# whose sequence is not found, are not compared. Rows are read for columns of unique indexes only, by an index that
# begins with the column, or if the table is small. Outside of `public`, those that the role may read. A table with
# triggers of a move gets its sequence set when it is opened. No function here waits for the lock of a table, as
# pg_get_expr does for that of a table; the last value waits for that of a sequence.
COLUMNS = f"""
WITH RECURSIVE number (oid, base, typmod) AS (
    SELECT unnest, unnest, NULL::integer
    FROM unnest('{{smallint,integer,bigint,numeric,varchar,bpchar}}'::regtype[]::oid[])
    UNION ALL
    SELECT t.oid, base, coalesce(typmod, nullif(t.typtypmod, -1))
    FROM number JOIN pg_type t ON t.typbasetype = number.oid AND t.typtype = 'd'
), {SCHEMAS}, default_value AS (
    SELECT 'pg_attrdef'::regclass AS classid, f.oid AS objid, f.adrelid AS relid, f.adnum AS attnum,
        f.adbin::text AS tree, pg_get_expr(f.adbin, 0) AS sql
    FROM pg_attrdef f JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum AND a.attgenerated = ''
    UNION ALL
    SELECT 'pg_type'::regclass, t.oid, a.attrelid, a.attnum, t.typdefaultbin::text, pg_get_expr(t.typdefaultbin, 0)
    FROM pg_type t JOIN pg_attribute a ON a.atttypid = t.oid AND NOT a.atthasdef AND a.attidentity = ''
    JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
    WHERE t.typtype = 'd' AND t.typdefaultbin IS NOT NULL AND a.attnum > 0 AND NOT a.attisdropped
), filling AS (
    SELECT d.*, s.seqrelid
    FROM default_value d LEFT JOIN LATERAL (
        SELECT s.seqrelid FROM pg_depend JOIN pg_sequence s ON s.seqrelid = refobjid
        WHERE classid = d.classid AND objid = d.objid AND refclassid = 'pg_class'::regclass AND deptype = 'n'
        UNION ALL
        SELECT s.seqrelid FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE strpos(d.sql, '::text)::regclass)') > 0 AND d.sql IN (SELECT format('nextval((%L::text)::regclass)', name)
            FROM unnest(ARRAY[s.seqrelid::regclass::text, format('%I.%I', n.nspname, c.relname)]) AS name)
    ) s ON true
    WHERE s.seqrelid IS NOT NULL OR strpos(tree, ':funcid {_NEXTVAL} ') > 0
), used AS (
    SELECT l.seqrelid, l.relid, l.attnum, a.attname, a.attinhcount, l.computed
    FROM (
        SELECT objid AS seqrelid, refobjid AS relid, refobjsubid AS attnum, false AS computed
        FROM pg_depend JOIN pg_sequence ON seqrelid = objid
        WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND deptype = 'i'
        UNION ALL
        -- All casts, explicit ones too, are functions of another format.
        SELECT seqrelid, relid, attnum, seqrelid IS NULL OR strpos(tree, ':funcid {_NEXTVAL} ') = 0
            OR strpos(substr(tree, strpos(tree, ':funcformat 0 ') + 1), ':funcformat 0 ') > 0
            OR tree ~ '[{{](?!(FUNCEXPR|CONST|RELABELTYPE|COERCETODOMAIN|COERCEVIAIO) )[A-Z]'
        FROM filling
    ) l
    JOIN pg_attribute a ON a.attrelid = l.relid AND a.attnum = l.attnum
), link AS (
    -- A partition, or another child, has the default of its table, whose rows contain its own.
    SELECT * FROM used WHERE attinhcount = 0 OR NOT EXISTS (
        SELECT FROM pg_inherits i JOIN used parent ON parent.relid = i.inhparent
        WHERE i.inhrelid = used.relid AND parent.attname = used.attname
            AND parent.seqrelid IS NOT DISTINCT FROM used.seqrelid)
), sequence AS (
    SELECT s.*, c.relname, c.relowner, space.prefix,
        CASE WHEN s.seqincrement > 0 AND s.seqmax < 9223372036854775807
            THEN format('ALTER SEQUENCE %s AS bigint NO MAXVALUE', s.seqrelid::regclass)
            WHEN s.seqincrement < 0 AND s.seqmin > -9223372036854775808
            THEN format('ALTER SEQUENCE %s AS bigint NO MINVALUE', s.seqrelid::regclass) END AS enlarge,
        CASE WHEN s.seqincrement > 0 THEN s.seqmax ELSE s.seqmin END AS limit,
        CASE WHEN s.seqincrement > 0 THEN s.seqmin ELSE s.seqmax END AS start_over,
        CASE WHEN s.seqincrement > 0 THEN least(s.seqmin, 0) ELSE greatest(s.seqmax::numeric + 1, 0) END AS first,
        has_sequence_privilege(s.seqrelid, 'SELECT, USAGE') AS readable,
        has_sequence_privilege(s.seqrelid, 'SELECT') AS selectable
    FROM pg_sequence s
    JOIN pg_class c ON c.oid = s.seqrelid AND c.relpersistence <> 't'
    JOIN space ON space.oid = c.relnamespace
    WHERE space.is_public OR has_sequence_privilege(s.seqrelid, 'SELECT, USAGE')
), candidate AS (
    SELECT relid, attnum, bool_or(is_key) AS is_key, bool_or(computed) AS computed
    FROM (
        SELECT conrelid AS relid, conkey[1] AS attnum, true AS is_key, false AS computed FROM pg_constraint
        WHERE contype = 'p' AND conparentid = 0 AND cardinality(conkey) = 1
        UNION ALL SELECT relid, attnum, false, computed FROM link
    ) c GROUP BY 1, 2
), key AS (
    SELECT c.oid AS relid, c.relname, c.relnamespace, c.relowner, space.prefix, a.attnum, a.attname, largest,
        base = 'numeric'::regtype AS decimal,
        CASE WHEN a.atttypid NOT IN ('bigint'::regtype, 'text'::regtype)
            THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE %s', c.oid::regclass, a.attname, {_WIDEST})
        END AS enlarge, NOT is_number AS written,
        EXISTS (SELECT FROM pg_attribute t WHERE t.attrelid = c.oid AND t.attname = 'created_at'
            AND t.atttypid IN ('timestamp'::regtype, 'timestamptz'::regtype)) AS timed,
        coalesce(x.alone, false) AS alone, k.computed OR NOT is_number AS computed, coalesce(x.in_key, false) AS in_key,
        coalesce(x.leading, false) OR (c.relkind = 'r' AND c.relpages <= {_SMALL_PAGES}) AS found,
        has_table_privilege(c.oid, 'SELECT') AS readable, c.relkind = 'r' AND c.relhassubclass AS inherited,
        NOT EXISTS (
            SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
            WHERE t.tgrelid = c.oid AND p.pronamespace = to_regnamespace('tatame_move')) AS fills
    FROM candidate k
    JOIN pg_class c ON c.oid = k.relid
    JOIN space ON space.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
    LEFT JOIN (SELECT oid, base, typmod AS domain_typmod FROM number) n ON n.oid = a.atttypid
    CROSS JOIN LATERAL (SELECT coalesce(domain_typmod, a.atttypmod) AS typmod) m
    CROSS JOIN LATERAL (SELECT {_LARGEST} AS largest, base IS NOT NULL AND base <> ALL({_TEXTS}) AS is_number) l
    CROSS JOIN LATERAL (
        SELECT bool_or(complete AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum) AS alone,
            bool_or(complete AND a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1])) AS in_key,
            bool_or(i.indpred IS NULL AND i.indkey[0] = a.attnum AND ic.relam = {_BTREE}) AS leading
        FROM pg_index i
        JOIN pg_class ic ON ic.oid = i.indexrelid
        CROSS JOIN LATERAL (SELECT i.indpred IS NULL AND (i.indisunique OR EXISTS (
            SELECT FROM pg_constraint e WHERE e.conindid = i.indexrelid AND e.contype = 'x' AND NOT EXISTS (
                SELECT FROM unnest(e.conexclop) AS o (oid) JOIN pg_operator p USING (oid) WHERE p.oprname <> '=')
        )) AS complete) u
        WHERE i.indrelid = c.oid AND i.indisvalid
    ) x
    WHERE (space.is_public OR has_table_privilege(c.oid, 'SELECT'))
        AND ((k.relid, k.attnum) IN (SELECT relid, attnum FROM link) OR (is_number AND base <> 'numeric'::regtype))
), referring AS MATERIALIZED (
    SELECT k.confrelid AS relid, k.confkey[1] AS attnum, min(largest) AS largest,
        string_agg(format('ALTER TABLE %s ALTER COLUMN %I TYPE %s', k.conrelid::regclass, a.attname, {_WIDEST}), '; '
            ORDER BY k.oid) FILTER (WHERE a.atttypid NOT IN ('bigint'::regtype, 'text'::regtype)) AS enlarge
    FROM pg_constraint k
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
    JOIN (SELECT oid, base, typmod AS domain_typmod FROM number) n ON n.oid = a.atttypid
    CROSS JOIN LATERAL (SELECT coalesce(domain_typmod, a.atttypmod) AS typmod) m
    CROSS JOIN LATERAL (SELECT {_LARGEST} AS largest) l
    -- A partition gets its columns changed with those of its table, and refuses to change one by itself.
    WHERE k.contype = 'f' AND k.conparentid = 0 AND cardinality(k.conkey) = 1 GROUP BY 1, 2
)
SELECT format('%s%s.%s', key.prefix, key.relname, key.attname) AS name,
    format('%I.%I', (SELECT nspname FROM space WHERE oid = key.relnamespace), key.relname) AS place,
    format('%I', key.attname) AS column, key.timed, key.fills AND sequence.seqrelid IS NOT NULL AS fills, key.alone,
    key.decimal, key.computed, key.inherited, key.in_key AND key.found AND NOT key.written AS reads,
    key.in_key AND NOT key.found AND NOT key.written AS unindexed,
    key.in_key AND row_security_active(key.relid) AS hidden,
    CASE WHEN sequence.seqincrement < 0
        THEN greatest(-key.largest - 1, -referring.largest - 1, sequence.seqmin)
        ELSE least(key.largest, referring.largest, sequence.seqmax) END AS largest,
    coalesce(sequence.first, 0) AS first, coalesce(sequence.seqincrement, 1) AS step, sequence.limit,
    sequence.start_over, coalesce(sequence.seqcycle, false) AS cycles,
    CASE WHEN sequence.readable THEN pg_sequence_last_value(sequence.seqrelid) END AS last,
    coalesce(sequence.readable, link.seqrelid IS NULL) AND (NOT key.in_key OR key.readable) AS readable,
    coalesce(sequence.selectable, false) AS selectable,
    concat_ws('; ', referring.enlarge, key.enlarge, sequence.enlarge) AS enlarge,
    quote_ident(pg_get_userbyid(key.relowner)) AS owner,
    quote_ident(pg_get_userbyid(sequence.relowner)) AS sequence_owner,
    quote_literal(sequence.seqrelid::regclass) AS sequence, sequence.seqrelid::regclass::text AS sequence_place
FROM key
LEFT JOIN link ON (link.relid, link.attnum) = (key.relid, key.attnum) AND NOT link.computed
LEFT JOIN sequence ON sequence.seqrelid = link.seqrelid
LEFT JOIN referring ON (referring.relid, referring.attnum) = (key.relid, key.attnum)
UNION ALL
SELECT prefix || relname, NULL, NULL, false, false, false, false, false, false, false, false, false, sequence.limit,
    first, seqincrement, sequence.limit, start_over, seqcycle,
    CASE WHEN readable THEN pg_sequence_last_value(sequence.seqrelid) END,
    readable, selectable, enlarge, owner, owner, quote_literal(seqrelid::regclass), seqrelid::regclass::text
FROM sequence CROSS JOIN LATERAL (SELECT quote_ident(pg_get_userbyid(relowner)) AS owner) o
WHERE NOT seqcycle AND NOT EXISTS (
    SELECT FROM link JOIN key ON (key.relid, key.attnum) = (link.relid, link.attnum)
    WHERE link.seqrelid = sequence.seqrelid AND NOT link.computed)
ORDER BY 1, sequence
"""
COLUMNS_ALONE = COLUMNS.replace("pg_sequence_last_value(sequence.seqrelid)", "NULL::bigint")
"""The same without the last values, for a database in which a sequence is locked."""
