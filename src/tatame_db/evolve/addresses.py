"""The queries that say to which object a part, a comment or a dependency belongs, by the addresses in `pg_depend`."""

from tatame_db.database.dialect import MOVE_SCHEMA
from tatame_db.evolve.kinds import PUBLIC

# A table with its parent, a partition of a partition with the uppermost one.
PARENTS = f"""
    WITH RECURSIVE family AS (
        SELECT inhrelid, inhparent FROM pg_inherits
        UNION SELECT f.inhrelid, i.inhparent FROM family f JOIN pg_inherits i ON i.inhrelid = f.inhparent
    )
    SELECT c.relname, p.relname
    FROM family f JOIN pg_class c ON c.oid = f.inhrelid JOIN pg_class p ON p.oid = f.inhparent
    WHERE c.relnamespace = {PUBLIC} AND p.relkind IN ('r', 'p')
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
    FROM pg_type WHERE typarray <> 0 AND typnamespace = {PUBLIC}
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

# The tables in which a node of Citus stores its part of another table, or its copy of it.
SHARDS = """
    SELECT 'pg_class'::regclass::oid, to_regclass(shard_name(logicalrelid, shardid))::oid FROM pg_dist_shard
"""

DEPENDENCIES = """
    SELECT DISTINCT classid, objid, objsubid, refclassid, refobjid, refobjsubid
    FROM pg_depend WHERE objid >= 16384 AND refobjid >= 16384 AND deptype IN ('n', 'a', 'i')
"""

# The last two name what has no object of its own: a column of a view, an attribute, a constraint of a domain.
COMMENTS = """
    SELECT d.classoid, d.objoid, d.objsubid, d.description, quote_literal(d.description), i.type, i.identity
    FROM pg_description d CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) i
    WHERE d.objoid >= 16384
"""

# Everything that lies in the schema or depends on a table in it: so that an unforeseen kind is found too.
EVERYTHING = f"""
    SELECT DISTINCT d.classid, d.objid, 0 AS sub, i.type, i.identity, t.relname
    FROM pg_depend d
    LEFT JOIN pg_class t ON d.refclassid = 'pg_class'::regclass AND t.oid = d.refobjid
    CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) i
    -- Default privileges belong to the server, as all privileges do.
    WHERE d.deptype IN ('n', 'a', 'i') AND d.classid NOT IN ('pg_namespace'::regclass, 'pg_default_acl'::regclass)
        AND ((d.refclassid = 'pg_namespace'::regclass AND d.refobjid = {PUBLIC})
            OR (t.relnamespace = {PUBLIC} AND d.deptype <> 'n'))
        AND NOT (d.classid = 'pg_class'::regclass AND EXISTS (
            SELECT FROM pg_class p WHERE p.oid = d.objid AND p.relpersistence = 't'))
    UNION SELECT 'pg_class'::regclass, c.oid, 0, i.type, i.identity, NULL
    FROM pg_class c CROSS JOIN LATERAL pg_identify_object('pg_class'::regclass, c.oid, 0) i
    WHERE c.relnamespace = {PUBLIC}
"""
