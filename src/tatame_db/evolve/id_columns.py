"""The query of the catalogue for the columns that are numbered: keys, and those that a sequence fills."""

from __future__ import annotations

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
# The last number that a column of a type, with its precision, can hold.
_LARGEST = """
CASE base WHEN 'smallint'::regtype THEN 32767 WHEN 'integer'::regtype THEN 2147483647
    WHEN 'bigint'::regtype THEN 9223372036854775807
    ELSE CASE WHEN typmod < 0 THEN 9223372036854775807
        ELSE least(9223372036854775807, greatest(0, 10::numeric ^ least(19,
            ((typmod - 4) >> 16 & 65535) - (((typmod - 4 & 2047) # 1024) - 1024)) - 1))::bigint
    END
END
"""
# For each key of one column, each other column that a sequence fills, and each other sequence that ends: the last id
# that the sequence, its column and all columns that refer to it can hold. A sequence fills a column that has it as its
# identity, or a default that is `nextval` and nothing else: the owner of a sequence need not be filled by it. Rows are
# read for columns of unique indexes only, by an index that begins with the column, or if the table is small. Outside
# of `public`, those that the role may read. A table with triggers of a move gets its sequence set when it is opened.
# No function here waits for the lock of a table, as pg_get_expr does; the last value waits for that of a sequence.
COLUMNS = f"""
WITH RECURSIVE number (oid, base, typmod) AS (
    SELECT unnest, unnest, NULL::integer
    FROM unnest('{{smallint,integer,bigint,numeric}}'::regtype[]::oid[])
    UNION ALL
    SELECT t.oid, base, coalesce(typmod, nullif(t.typtypmod, -1))
    FROM number JOIN pg_type t ON t.typbasetype = number.oid AND t.typtype = 'd'
), {SCHEMAS}, used AS (
    SELECT s.seqrelid, l.relid, l.attnum, a.attname, a.attinhcount, l.computed
    FROM (
        SELECT objid AS seqrelid, refobjid AS relid, refobjsubid AS attnum, false AS computed FROM pg_depend
        WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND deptype = 'i'
        UNION ALL
        -- All casts, explicit ones too, are functions of another format.
        SELECT refobjid, adrelid, adnum, strpos(tree, ':funcid {_NEXTVAL} ') = 0
            OR strpos(substr(tree, strpos(tree, ':funcformat 0 ') + 1), ':funcformat 0 ') > 0
            OR tree ~ '[{{](?!(FUNCEXPR|CONST|RELABELTYPE|COERCETODOMAIN|COERCEVIAIO) )[A-Z]'
        FROM pg_depend JOIN pg_attrdef f ON f.oid = objid CROSS JOIN LATERAL (SELECT adbin::text AS tree OFFSET 0) t
        WHERE classid = 'pg_attrdef'::regclass AND refclassid = 'pg_class'::regclass AND deptype = 'n'
    ) l
    JOIN pg_sequence s ON s.seqrelid = l.seqrelid
    JOIN pg_attribute a ON a.attrelid = l.relid AND a.attnum = l.attnum
), link AS (
    -- A partition, or another child, has the default of its table, whose rows contain its own.
    SELECT * FROM used WHERE attinhcount = 0 OR NOT EXISTS (
        SELECT FROM pg_inherits i JOIN used parent ON parent.relid = i.inhparent
        WHERE i.inhrelid = used.relid AND (parent.attname, parent.seqrelid) = (used.attname, used.seqrelid))
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
        CASE WHEN a.atttypid <> 'bigint'::regtype
            THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE bigint', c.oid::regclass, a.attname) END AS enlarge,
        EXISTS (SELECT FROM pg_attribute t WHERE t.attrelid = c.oid AND t.attname = 'created_at'
            AND t.atttypid IN ('timestamp'::regtype, 'timestamptz'::regtype)) AS timed,
        coalesce(x.alone, false) AS alone, k.computed, coalesce(x.in_key, false) AS in_key,
        coalesce(x.leading, false) OR (c.relkind = 'r' AND c.relpages <= {_SMALL_PAGES}) AS found,
        has_table_privilege(c.oid, 'SELECT') AS readable, c.relkind = 'r' AND c.relhassubclass AS inherited,
        NOT EXISTS (
            SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
            WHERE t.tgrelid = c.oid AND p.pronamespace = to_regnamespace('tatame_move')) AS fills
    FROM candidate k
    JOIN pg_class c ON c.oid = k.relid
    JOIN space ON space.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
    JOIN (SELECT oid, base, typmod AS domain_typmod FROM number) n ON n.oid = a.atttypid
    CROSS JOIN LATERAL (SELECT coalesce(domain_typmod, a.atttypmod) AS typmod) m
    CROSS JOIN LATERAL (SELECT {_LARGEST} AS largest) l
    CROSS JOIN LATERAL (
        SELECT bool_or(complete AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum) AS alone,
            bool_or(complete AND a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1])) AS in_key,
            bool_or(i.indpred IS NULL AND i.indkey[0] = a.attnum AND ic.relam = {_BTREE}) AS leading
        FROM pg_index i
        JOIN pg_class ic ON ic.oid = i.indexrelid
        CROSS JOIN LATERAL (SELECT i.indisunique AND i.indpred IS NULL AS complete) u
        WHERE i.indrelid = c.oid AND i.indisvalid
    ) x
    WHERE (space.is_public OR has_table_privilege(c.oid, 'SELECT'))
        AND ((k.relid, k.attnum) IN (SELECT relid, attnum FROM link) OR base <> 'numeric'::regtype)
), referring AS MATERIALIZED (
    SELECT k.confrelid AS relid, k.confkey[1] AS attnum, min(largest) AS largest,
        string_agg(format('ALTER TABLE %s ALTER COLUMN %I TYPE bigint', k.conrelid::regclass, a.attname), '; '
            ORDER BY k.oid) FILTER (WHERE a.atttypid <> 'bigint'::regtype) AS enlarge
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
    key.decimal, key.computed, key.inherited, key.in_key AND key.found AS reads,
    key.in_key AND NOT key.found AS unindexed, key.in_key AND row_security_active(key.relid) AS hidden,
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
