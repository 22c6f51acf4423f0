"""Every column of PostgreSQL's catalogue is compared, follows from one that is, or is left out for a reason."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from tatame_db.evolve import addresses, kinds, settings_of_tables

ADDRESS = "not: oids differ between databases"
PLACE = "derived: only the schema public is read"
OWNER = "not: owners and privileges belong to the server"
# A new column of a new PostgreSQL has no place here yet: read it in `kinds`, or give the reason.
COLUMNS = {
    "pg_attrdef": {ADDRESS: "oid", "compared: column, default": "adrelid adnum adbin"},
    "pg_attribute": {
        "compared: column": "attrelid attname atttypid atttypmod attnotnull attidentity attgenerated attcollation",
        "not: the order of the columns of a table; that of the attributes of a type is compared": "attnum",
        "compared: storage": "attstorage attcompression attstattarget attoptions",
        "derived: from the type": "attlen attbyval attalign",
        "derived: from the default": "atthasdef",
        "not: PostgreSQL does not enforce the number of dimensions": "attndims",
        "not: values of rows that are older than their column": "atthasmissing attmissingval",
        "not: whether a column stays when that of its parent goes": "attislocal attinhcount",
        "not: foreign tables are only named": "attfdwoptions",
        "derived: dropped columns are not read": "attisdropped",
        OWNER: "attacl",
    },
    "pg_class": {
        "compared: table": "relname reloftype relam reltablespace relkind relpersistence relispartition relpartbound",
        "compared: storage parameters": "reloptions reltoastrelid",
        "compared: row-level security": "relrowsecurity relforcerowsecurity",
        "compared: replica identity": "relreplident",
        "compared: materialized view": "relispopulated",
        "derived: from the columns, checks, indexes, rules, triggers and children": (
            "relnatts relchecks relhasindex relhasrules relhastriggers relhassubclass reltype"
        ),
        "not: what maintenance counts": (
            "relpages reltuples relallvisible relallfrozen relfrozenxid relminmxid relfilenode relrewrite"
        ),
        "derived: true in the schema pg_catalog only": "relisshared",
        PLACE: "relnamespace",
        ADDRESS: "oid",
        OWNER: "relowner relacl",
    },
    "pg_collation": {
        "compared: collation": (
            "collname collprovider collisdeterministic collcollate collctype colllocale collicurules"
        ),
        "derived: from the encoding of the database": "collencoding",
        "not: the version of the server's library": "collversion",
        PLACE: "collnamespace",
        ADDRESS: "oid",
        OWNER: "collowner",
    },
    "pg_constraint": {
        "compared: constraint": (
            "conname contype condeferrable condeferred conenforced convalidated conrelid confrelid confupdtype"
            " confdeltype confmatchtype conperiod conkey confkey confdelsetcols conexclop conbin"
        ),
        "compared: column": "connoinherit",
        "compared: domain": "contypid",
        "compared: index of a constraint": "conindid",
        "derived: from the types of the columns": "conpfeqop conppeqop conffeqop",
        "derived: those of a partition are copies": "conparentid",
        "not: whether a check stays when that of its parent goes": "conislocal coninhcount",
        PLACE: "connamespace",
        ADDRESS: "oid",
    },
    "pg_description": {"compared: comment": "description", ADDRESS: "objoid classoid objsubid"},
    "pg_enum": {"compared: enum": "enumtypid enumsortorder enumlabel", ADDRESS: "oid"},
    "pg_event_trigger": {
        "compared: event trigger": "evtname evtevent evtfoid evtenabled evttags",
        ADDRESS: "oid",
        OWNER: "evtowner",
    },
    "pg_extension": {
        "compared: extension": "extname",
        "not: the server decides which version it has, and where its objects are": (
            "extnamespace extrelocatable extversion extconfig extcondition"
        ),
        ADDRESS: "oid",
        OWNER: "extowner",
    },
    "pg_index": {
        "compared: index": (
            "indrelid indnatts indnkeyatts indisunique indnullsnotdistinct indisvalid indkey indcollation indclass"
            " indoption indexprs indpred"
        ),
        "compared: constraint": "indisprimary indisexclusion indimmediate",
        "compared: cluster": "indisclustered",
        "compared: replica identity": "indisreplident",
        "not: for moments, while an index is built": "indcheckxmin indisready indislive",
        ADDRESS: "indexrelid",
    },
    "pg_inherits": {"compared: table": "inhrelid inhparent inhseqno inhdetachpending"},
    "pg_partitioned_table": {
        "compared: table": "partrelid partstrat partnatts partattrs partclass partcollation partexprs",
        "derived: from the bounds of the partition": "partdefid",
    },
    "pg_policy": {
        "compared: policy": "polname polrelid polcmd polpermissive polroles polqual polwithcheck",
        ADDRESS: "oid",
    },
    "pg_proc": {
        "compared: function": (
            "proname prolang procost prorows provariadic prosupport prokind prosecdef proleakproof proisstrict"
            " proretset provolatile proparallel pronargs pronargdefaults prorettype proargtypes proallargtypes"
            " proargmodes proargnames proargdefaults protrftypes prosrc probin prosqlbody proconfig"
        ),
        PLACE: "pronamespace",
        ADDRESS: "oid",
        OWNER: "proowner proacl",
    },
    "pg_range": {
        "not: a range type is only named, as not compared": (
            "rngtypid rngsubtype rngmultitypid rngcollation rngsubopc rngcanonical rngsubdiff"
        ),
    },
    "pg_rewrite": {
        "compared: rule": "rulename ev_class ev_type ev_enabled is_instead ev_qual ev_action",
        ADDRESS: "oid",
    },
    "pg_sequence": {
        "compared: sequence": "seqrelid seqtypid seqstart seqincrement seqmax seqmin seqcache seqcycle",
    },
    "pg_statistic_ext": {
        "compared: statistics": "stxrelid stxname stxkeys stxstattarget stxkind stxexprs",
        PLACE: "stxnamespace",
        ADDRESS: "oid",
        OWNER: "stxowner",
    },
    "pg_trigger": {
        "compared: trigger": (
            "tgrelid tgname tgfoid tgtype tgconstrrelid tgdeferrable tginitdeferred tgnargs tgattr tgargs tgqual"
            " tgoldtable tgnewtable"
        ),
        "compared: internal trigger": "tgenabled tgisinternal tgparentid tgconstraint",
        "derived: from the constraint": "tgconstrindid",
        ADDRESS: "oid",
    },
    "pg_type": {
        "compared: domain": "typname typtype typnotnull typbasetype typtypmod typcollation typdefault",
        "compared: type": "typrelid",
        "derived: from the default": "typdefaultbin",
        "derived: from the base type": (
            "typlen typbyval typcategory typispreferred typdelim typsubscript typelem typinput typoutput typreceive"
            " typsend typmodin typmodout typanalyze typalign typstorage typarray"
        ),
        "not: PostgreSQL does not enforce the number of dimensions": "typndims",
        "not: a type without a definition is only named, as not compared": "typisdefined",
        PLACE: "typnamespace",
        ADDRESS: "oid",
        OWNER: "typowner typacl",
    },
}


@pytest.mark.parametrize("catalogue", COLUMNS)
def test_each_column_of_the_catalogue_has_its_place(catalogue: str, engine: Engine) -> None:
    listed = [column for columns in COLUMNS[catalogue].values() for column in columns.split()]
    query = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped"
    with engine.connect() as connection:
        found = connection.scalars(text(query), {"name": f"pg_catalog.{catalogue}"}).all()
    assert sorted(listed) == sorted(found)


def test_each_kind_that_compares_a_column_exists() -> None:
    read = " ".join((*kinds.ALL, *settings_of_tables.ALL, addresses.COMMENTS, "'comment'", "'materialized view'"))
    for reason in (reason for columns in COLUMNS.values() for reason in columns):
        verb, _, names = reason.partition(": ")
        assert verb in {"compared", "derived", "not"}, reason
        assert verb != "compared" or all(f"'{kind}'" in read for kind in names.split(", ")), reason
