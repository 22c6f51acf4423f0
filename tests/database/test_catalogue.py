"""The catalogue sees every difference that pg_dump sees, and the differences that pg_dump leaves out."""

from __future__ import annotations

import subprocess

import pytest
from sqlalchemy import Engine

from tatame_db.database.address import readable
from tatame_db.evolve import catalogue
from tatame_db.server.embedded import EmbeddedServer

# One of every kind; each is compared with the database before it.
CHANGES = [
    "CREATE TABLE other (id integer PRIMARY KEY, note text DEFAULT 'it''s')",
    "ALTER TABLE other ADD doubled integer GENERATED ALWAYS AS (id * 2) STORED",
    "ALTER TABLE other ALTER doubled SET EXPRESSION AS (id * 3)",
    "ALTER TABLE other ADD virtual integer GENERATED ALWAYS AS (id * 2) VIRTUAL",
    "ALTER TABLE other ALTER note TYPE varchar(20)",
    'ALTER TABLE other ALTER note TYPE text COLLATE "C"',
    "ALTER TABLE other ALTER note SET NOT NULL",
    "ALTER TABLE other ALTER note SET STATISTICS 7",
    "ALTER TABLE other ALTER note SET STORAGE PLAIN",
    "ALTER TABLE other ALTER note SET COMPRESSION pglz",
    "ALTER TABLE other ALTER note SET (n_distinct = 5)",
    "ALTER TABLE other ADD CONSTRAINT positive CHECK (id > 0) NOT VALID",
    "ALTER TABLE other VALIDATE CONSTRAINT positive",
    "ALTER TABLE other ADD CONSTRAINT once UNIQUE (note) DEFERRABLE",
    "ALTER TABLE other ADD CONSTRAINT apart EXCLUDE USING btree (note WITH =)",
    "CREATE INDEX other_index ON other (lower(note)) WHERE id > 3",
    "ALTER INDEX other_index SET (fillfactor = 50)",
    "CLUSTER other USING other_pkey",
    "ALTER TABLE other SET (fillfactor = 50, autovacuum_enabled = off)",
    "ALTER TABLE other SET UNLOGGED",
    "ALTER TABLE other ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE other FORCE ROW LEVEL SECURITY",
    "CREATE POLICY some_rows ON other FOR UPDATE TO PUBLIC USING (id > 1) WITH CHECK (id > 2)",
    "ALTER POLICY some_rows ON other USING (id > 3)",
    "ALTER TABLE other REPLICA IDENTITY FULL",
    "CREATE RULE swallow AS ON INSERT TO other DO INSTEAD NOTHING",
    "ALTER TABLE other DISABLE RULE swallow",
    "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "ALTER FUNCTION touch() SECURITY DEFINER SET work_mem = '1MB'",
    "CREATE TRIGGER touched BEFORE UPDATE OF note ON other FOR EACH ROW EXECUTE FUNCTION touch()",
    "ALTER TABLE other DISABLE TRIGGER touched",
    "CREATE PROCEDURE work() LANGUAGE sql AS 'SELECT 1'",
    "CREATE AGGREGATE total (integer) (SFUNC = int4pl, STYPE = integer, INITCOND = '0')",
    "CREATE STATISTICS pairs (mcv) ON id, note FROM other",
    "ALTER STATISTICS pairs SET STATISTICS 9",
    "CREATE TYPE mood AS ENUM ('good', 'bad')",
    "ALTER TYPE mood ADD VALUE 'odd' BEFORE 'bad'",
    "ALTER TYPE mood RENAME VALUE 'bad' TO 'worse'",
    "CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%')",
    "ALTER DOMAIN email SET DEFAULT '@'",
    "ALTER DOMAIN email ADD CONSTRAINT short CHECK (length(VALUE) < 99)",
    "CREATE TYPE pair AS (a integer, b email)",
    "ALTER TYPE pair ADD ATTRIBUTE c text",
    "CREATE TYPE span AS RANGE (SUBTYPE = integer)",
    "CREATE SEQUENCE numbers START 5",
    "ALTER SEQUENCE numbers AS integer INCREMENT 2 CYCLE",
    "ALTER SEQUENCE numbers OWNED BY other.id",
    "CREATE VIEW ids AS SELECT id FROM other",
    "ALTER VIEW ids SET (security_invoker = on)",
    "CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS n FROM gyms",
    "CREATE UNIQUE INDEX totals_index ON totals (n)",
    "CREATE OPERATOR === (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq)",
    "CREATE COLLATION plain (LOCALE = 'C')",
    "CREATE TEXT SEARCH CONFIGURATION words (COPY = simple)",
    "CREATE TABLE parts (id integer, day date) PARTITION BY RANGE (day)",
    "CREATE TABLE parts_old PARTITION OF parts DEFAULT",
    "CREATE TABLE heir () INHERITS (gyms)",
    "COMMENT ON COLUMN other.note IS 'a note'",
    "COMMENT ON CONSTRAINT positive ON other IS 'why'",
    "COMMENT ON INDEX other_index IS 'fast'",
    "COMMENT ON FUNCTION touch() IS 'touches'",
    "COMMENT ON TRIGGER touched ON other IS 'each'",
    "COMMENT ON TYPE mood IS 'moods'",
    "COMMENT ON COLUMN ids.id IS 'of a view'",
    "COMMENT ON COLUMN pair.a IS 'of a composite type'",
    "COMMENT ON CONSTRAINT other_pkey ON other IS 'a key'",
    "COMMENT ON CONSTRAINT other_note_not_null ON other IS 'must'",
    "ALTER TABLE other ADD quiet integer CONSTRAINT quiet NOT NULL NO INHERIT",
    "ALTER VIEW ids ALTER id SET DEFAULT 5",
    "ALTER VIEW ids ALTER id SET DEFAULT 6",
    "ALTER INDEX other_pkey SET (fillfactor = 60)",
    "ALTER INDEX other_index ALTER 1 SET STATISTICS 50",
    "ALTER TABLE gyms SET (toast.autovacuum_enabled = off)",
    "ALTER SEQUENCE numbers SET UNLOGGED",
    "ALTER SEQUENCE users_id_seq SET UNLOGGED",
    "ALTER TABLE heir NO INHERIT gyms",
    "ALTER TABLE parts DETACH PARTITION parts_old",
    "ALTER TABLE parts ATTACH PARTITION parts_old FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    "ALTER TABLE parts_old ADD CHECK (id > 0)",
    "CREATE FUNCTION pick(integer) RETURNS integer LANGUAGE internal WINDOW AS 'window_row_number'",
    "ALTER MATERIALIZED VIEW totals ALTER n SET STATISTICS 8",
    "DROP COLLATION plain",
    "CREATE COLLATION plain (PROVIDER = builtin, LOCALE = 'C.UTF-8')",
    "ALTER TABLE gyms ALTER CONSTRAINT gyms_manager_id_users_id_fk NOT DEFERRABLE",
    "ALTER TABLE users DROP COLUMN plan",
]
# Objects of the database and not of a schema, and the state of PostgreSQL's own triggers, which pg_dump leaves out.
BESIDE = [
    "CREATE PUBLICATION feed FOR TABLE gyms",
    "CREATE FUNCTION noticed() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
    "CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION noticed()",
    # Foreign keys from and to it are not enforced.
    "ALTER TABLE gyms DISABLE TRIGGER ALL",
    "ALTER TABLE users DISABLE TRIGGER ALL",
]


def _dump(engine: Engine, server: EmbeddedServer) -> list[str]:
    options = ["--schema-only", "--schema=public", "--no-owner", "--no-acl", "--dbname", readable(engine.url)]
    done = subprocess.run([server.program("pg_dump"), *options], check=True, capture_output=True, text=True)
    return [line for line in done.stdout.splitlines() if not line.startswith(("--", "\\restrict", "\\unrestrict"))]


def _read(engine: Engine) -> catalogue.Catalogue:
    with engine.connect() as connection:
        return catalogue.read(connection)


def test_what_pg_dump_sees_the_catalogue_sees(engine: Engine, server: EmbeddedServer) -> None:
    dumped, read = _dump(engine, server), _read(engine)
    for statement in CHANGES:
        _run(engine, statement)
        dumped, dumped_before = _dump(engine, server), dumped
        read, read_before = _read(engine), read
        assert dumped != dumped_before, statement
        assert catalogue.differences(read_before, read), statement


@pytest.mark.parametrize("statement", BESIDE)
def test_what_belongs_to_no_schema_is_seen(engine: Engine, statement: str) -> None:
    if "EVENT TRIGGER" in statement:
        _run(engine, BESIDE[1])
    before = _read(engine)
    _run(engine, statement)
    assert catalogue.differences(before, _read(engine))


def test_two_reads_are_equal(engine: Engine, server: EmbeddedServer) -> None:
    assert _read(engine) == _read(engine)
    assert _dump(engine, server) == _dump(engine, server)


def _run(engine: Engine, statement: str) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        catalogue.run_verbatim(connection, statement)
