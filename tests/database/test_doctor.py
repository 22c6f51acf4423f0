"""The doctor: on a database that is sick in each line, on a healthy one, and for a role that may see little."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Generator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import psycopg
import pytest
from sqlalchemy import URL
from tests.conftest import OLDER_PROGRAMS, postmaster_pid, until
from tests.database.doctors import (
    BUNDLED,
    OLDER,
    Clinic,
    Ward,
    bundled_clinic,
    cures,
    database_of,
    lagging_standby,
    older_clinic,
    statements,
)
from tests.database.moves import Row, ask, set_fences
from tests.database.scratches import shared_scratch

from tatame_db import doctor, evolve
from tatame_db.backup.contents import Contents
from tatame_db.backup.manifest import Manifest
from tatame_db.backup.record import note_drill
from tatame_db.database.address import readable
from tatame_db.database.pool import Database
from tatame_db.doctor import LINES, Setup, Verdict
from tatame_db.doctor.checks import connection as connection_checks
from tatame_db.doctor.checks.tables import shown_statement
from tatame_db.doctor.examination import Examination
from tatame_db.doctor.finding import Answer, good
from tatame_db.doctor.lines import Line
from tatame_db.evolve.app import ModelsNotFound
from tatame_db.move.connection import MoveConnection
from tatame_db.move.open import open_both_for_writing
from tatame_db.move.record import TABLES, Record
from tatame_db.move.switch.token import make_token
from tatame_db.server.embedded import EmbeddedServer

__all__ = ["shared_scratch"]

Sicken = Callable[[Ward], None]

BAD, GOOD, UNKNOWN, WARN = Verdict.BAD, Verdict.GOOD, Verdict.UNKNOWN, Verdict.WARN
BOTH = (BUNDLED, OLDER)
cases: dict[tuple[str, Verdict], list[tuple[str, Sicken]]] = defaultdict(list)


def sick(name: str, *verdicts: Verdict, on: tuple[str, ...] = BOTH) -> Callable[[Sicken], Sicken]:
    """Say that a function makes a line of a healthy database warn, or bad, on these servers."""

    def add(sicken: Sicken) -> Sicken:
        for verdict in verdicts:
            cases[name, verdict] += [(server, sicken) for server in on]
        return sicken

    return add


@pytest.fixture(scope="module")
def bundled() -> Generator[Clinic]:
    with bundled_clinic() as clinic:
        yield clinic


@pytest.fixture(scope="module")
def older() -> Generator[Clinic]:
    if not (OLDER_PROGRAMS / "postgres").exists():
        missing = "PostgreSQL 15 is not installed: `apt-get install postgresql-15`"
        pytest.fail(missing) if os.environ.get("OLDER_POSTGRES_IS_THERE") else pytest.skip(missing)
    with older_clinic() as clinic:
        yield clinic


@pytest.fixture
def ward(request: pytest.FixtureRequest) -> Generator[Ward]:
    """A healthy database on the server that the parameter names."""
    clinic: Clinic = request.getfixturevalue(getattr(request, "param", BUNDLED))
    with database_of(clinic) as address:
        ward = Ward(clinic, address, clinic.setup, request)
        with ward.stack:
            yield ward


on_both = pytest.mark.parametrize("ward", BOTH, indirect=True)


# --- A sickness for each verdict of each line ------------------------------------------------------------------------


@sick("reachable", WARN)
def a_slow_network(ward: Ward) -> None:
    ward.limit(round_trip_warn_ms=0)


@sick("reachable", BAD)
def a_port_without_a_server(ward: Ward) -> None:
    ward.address = ward.address.set(port=1) if ward.address.host else ward.address.set(query={"host": "/nowhere"})


@sick("version", WARN)
def a_version_that_ends_soon(ward: Ward) -> None:
    ward.limit(support_warn_days=100_000)


@sick("version", BAD)
def a_version_that_has_ended(ward: Ward) -> None:
    ward.limit(support_bad_days=100_000)


@sick("version", WARN)
def a_version_with_a_newer_minor_version(ward: Ward) -> None:
    patched_releases(ward, minor=99)


@sick("version", WARN)
def a_version_that_is_not_known_yet(ward: Ward) -> None:
    patched_releases(ward, minor=None)


def patched_releases(ward: Ward, minor: int | None) -> None:
    releases = {
        major: replace(release, minor=minor or 0)
        for major, release in connection_checks.RELEASES.items()
        if minor or major == 14
    }
    ward.request.getfixturevalue("monkeypatch").setattr(connection_checks, "RELEASES", releases)


@sick("encryption", WARN, on=(OLDER,))
def a_certificate_that_is_not_verified(ward: Ward) -> None:
    ward.address = ward.address.set(query={"sslmode": "require"})


@sick("encryption", BAD, on=(OLDER,))
def a_network_in_the_clear(ward: Ward) -> None:
    ward.address = ward.address.set(query={"sslmode": "disable"})


@sick("time zone", WARN)
def a_time_zone(ward: Ward) -> None:
    ward.run(f"ALTER DATABASE {ward.address.database} SET timezone = 'America/Sao_Paulo'")


@sick("time zone", WARN, on=(OLDER,))
def a_time_zone_of_a_role(ward: Ward) -> None:
    a_time_zone(ward)
    ward.run("ALTER ROLE tatame_app SET timezone = 'America/Manaus'")
    ward.stack.callback(ward.run, "ALTER ROLE tatame_app RESET timezone")


def with_encoding(ward: Ward, name: str) -> None:
    options = f"ENCODING '{name}' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
    ward.address = ward.stack.enter_context(database_of(ward.clinic, options))


@sick("encoding", WARN)
def latin_1(ward: Ward) -> None:
    with_encoding(ward, "LATIN1")


@sick("encoding", BAD)
def no_encoding(ward: Ward) -> None:
    with_encoding(ward, "SQL_ASCII")


@sick("collation", BAD, on=(BUNDLED,))
def a_database_of_another_collation(ward: Ward) -> None:
    ward.run(f"UPDATE pg_database SET datcollversion = '0' WHERE datname = '{ward.address.database}'")


@sick("collation", BAD, on=(OLDER,))
def a_column_of_another_collation(ward: Ward) -> None:
    ward.run(
        "CREATE COLLATION names (PROVIDER = icu, LOCALE = 'pt')",
        "ALTER TABLE users ALTER email TYPE text COLLATE names",
        "UPDATE pg_collation SET collversion = '0' WHERE collname = 'names'",
    )


def as_superuser(ward: Ward, *, production: bool) -> None:
    ward.address, ward.setup = ward.direct, Setup(production=production)


@sick("superuser", WARN)
def a_superuser(ward: Ward) -> None:
    as_superuser(ward, production=False)


@sick("superuser", WARN, on=(OLDER,))
def a_member_of_a_superuser(ward: Ward) -> None:
    ward.run("GRANT postgres TO tatame_app")
    ward.stack.callback(ward.run, "REVOKE postgres FROM tatame_app")


@sick("superuser", WARN, on=(OLDER,))
def a_member_of_a_role_that_runs_programs(ward: Ward) -> None:
    ward.run("GRANT pg_execute_server_program TO tatame_app")
    ward.stack.callback(ward.run, "REVOKE pg_execute_server_program FROM tatame_app")


@sick("superuser", WARN, on=(OLDER,))
def a_role_that_makes_roles(ward: Ward) -> None:
    ward.run("ALTER ROLE tatame_app CREATEROLE")
    ward.stack.callback(ward.run, "ALTER ROLE tatame_app NOCREATEROLE")


@sick("superuser", BAD)
def a_superuser_in_production(ward: Ward) -> None:
    as_superuser(ward, production=True)


@sick("ownership", WARN, on=(OLDER,))
def an_app_that_owns_tables(ward: Ward) -> None:
    ward.run("ALTER TABLE users OWNER TO tatame_app")


@sick("ownership", WARN, on=(OLDER,))
def an_app_that_owns_the_database(ward: Ward) -> None:
    ward.run(f"ALTER DATABASE {ward.address.database} OWNER TO tatame_app")


@sick("ownership", WARN, on=(OLDER,))
def an_app_that_owns_the_database_and_may_not_see_its_history(ward: Ward) -> None:
    an_app_that_owns_the_database(ward)
    ward.run("REVOKE USAGE ON SCHEMA tatame_migrations FROM tatame_app")


@sick("backup", WARN, on=(OLDER,))
def no_role_for_backups(ward: Ward) -> None:
    ward.run(
        "REVOKE SELECT ON users FROM tatame_app, tatame_read, tatame_backup", "ALTER TABLE users OWNER TO postgres"
    )


@sick("backup", WARN, on=(OLDER,))
def a_schema_that_no_role_for_backups_reads(ward: Ward) -> None:
    ward.run("CREATE SCHEMA other", "CREATE TABLE other.things ()")


@sick("roles", WARN, on=(OLDER,))
def a_table_that_a_superuser_made(ward: Ward) -> None:
    ward.run("REVOKE ALL ON users FROM tatame_app", "ALTER TABLE users OWNER TO postgres")


@sick("roles", BAD, on=(OLDER,))
def rights_of_everybody(ward: Ward) -> None:
    ward.run("GRANT TRUNCATE ON users TO PUBLIC")


@sick("roles", BAD, on=(OLDER,))
def a_read_only_role_that_writes(ward: Ward) -> None:
    ward.run("GRANT tatame_app TO tatame_read")
    ward.stack.callback(ward.run, "REVOKE tatame_app FROM tatame_read")


@sick("migrations", BAD)
def a_pending_migration(ward: Ward) -> None:
    ward.run("DELETE FROM tatame_migrations.alembic_version")


@sick("migrations", BAD)
def a_migration_from_the_future(ward: Ward) -> None:
    ward.run("UPDATE tatame_migrations.alembic_version SET version_num = '29990101000000'")


@sick("migrations", BAD, on=(BUNDLED,))
def models_that_cannot_be_loaded(ward: Ward) -> None:
    ward.setup = replace(ward.setup, models_problem=ModelsNotFound(module="gymapi.models", root="/srv"))


@sick("history", WARN)
def a_second_history(ward: Ward) -> None:
    ward.run("CREATE TABLE public.alembic_version (version_num text)")


@sick("history", WARN)
def a_migration_without_checksum(ward: Ward) -> None:
    ward.run("DELETE FROM tatame_migrations.applied")


@sick("history", BAD)
def an_edited_migration(ward: Ward) -> None:
    ward.run("UPDATE tatame_migrations.applied SET checksum = 'another'")


@sick("history", BAD, on=(BUNDLED,))
def a_migration_that_is_recorded_twice(ward: Ward) -> None:
    [[before]] = ward.ask("SELECT version_num FROM tatame_migrations.alembic_version")
    ward.request.getfixturevalue("add")()
    with Database(ward.direct) as database:
        evolve.migrate(database.engine)
    ward.run(f"INSERT INTO tatame_migrations.alembic_version VALUES ('{before}')")


@sick("drift", BAD, on=(BUNDLED,))
def a_manual_change(ward: Ward) -> None:
    ward.run("ALTER TABLE users ADD COLUMN nickname text")


ANA = "INSERT INTO users (clerk_user_id) VALUES ('ana')"


def fail_to_create(ward: Ward, index: str) -> None:
    ward.run(ANA, "INSERT INTO users (clerk_user_id) VALUES ('eva')")
    with pytest.raises(psycopg.Error):
        ward.run(index)


@sick("invalid indexes", WARN)
def an_index_that_failed(ward: Ward) -> None:
    fail_to_create(ward, "CREATE INDEX CONCURRENTLY failed ON users ((1 / (length(clerk_user_id) - 3)))")


@sick("invalid indexes", BAD)
def a_unique_index_that_failed(ward: Ward) -> None:
    fail_to_create(ward, "CREATE UNIQUE INDEX CONCURRENTLY failed ON users (length(clerk_user_id))")


@sick("invalid indexes", BAD)
def indexes_of_a_reindex_that_failed(ward: Ward) -> None:
    a_unique_index_that_failed(ward)
    for _ in range(3):
        with pytest.raises(psycopg.errors.UniqueViolation):
            ward.run("REINDEX INDEX CONCURRENTLY failed")
    assert ward.ask("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(4,)]


@sick("unvalidated constraints", WARN)
def a_constraint_that_is_not_valid(ward: Ward) -> None:
    ward.run("ALTER TABLE users ADD CONSTRAINT named CHECK (email <> '') NOT VALID")


@sick("disabled keys", BAD)
def disabled_triggers(ward: Ward) -> None:
    ward.run("ALTER TABLE graduations DISABLE TRIGGER ALL")


@sick("disabled keys", BAD)
def disabled_triggers_of_a_parent(ward: Ward) -> None:
    ward.run("ALTER TABLE users DISABLE TRIGGER ALL")


@sick("disabled keys", BAD, on=(BUNDLED,))
def a_key_that_is_not_enforced(ward: Ward) -> None:
    ward.run("ALTER TABLE graduations ALTER CONSTRAINT graduations_user_id_users_id_fk NOT ENFORCED")


def record_a_move(ward: Ward) -> None:
    with psycopg.connect(readable(ward.direct)) as driver:
        Record(MoveConnection("target", ward.direct, driver)).create()
    tables = ", ".join(f"tatame_move.{table}" for table in TABLES)
    ward.run("GRANT USAGE ON SCHEMA tatame_move TO PUBLIC", f"GRANT SELECT ON {tables} TO PUBLIC")


@sick("unfinished move", BAD)
def a_move_that_was_killed(ward: Ward) -> None:
    record_a_move(ward)
    ward.run(
        "INSERT INTO tatame_move.parked (kind, table_name, name, definition) VALUES ('key', 'users', 'lost', 'CHECK')"
    )


def with_fences(ward: Ward, *, source: str, target: str) -> None:
    record_a_move(ward)
    ward.setup = replace(ward.setup, source=ward.clinic.maintenance.set(database=ward.another().database))
    assert ward.setup.source
    with Database(ward.direct) as database, open_both_for_writing(ward.setup.source, database.engine) as opened:
        set_fences(opened, "roles", source=source, target=target)


@sick("homes", BAD)
def a_table_without_a_home(ward: Ward) -> None:
    with_fences(ward, source="closed", target="closed")


@sick("homes", BAD)
def a_table_with_two_homes(ward: Ward) -> None:
    with_fences(ward, source="opened", target="opened")


@sick("homes", BAD)
def a_fence_that_was_disabled(ward: Ward) -> None:
    with_fences(ward, source="absent", target="closed")
    ward.run("ALTER TABLE roles DISABLE TRIGGER tatame_move_follows")


@sick("homes", BAD)
def a_flag_that_names_the_other_database(ward: Ward) -> None:
    with_fences(ward, source="absent", target="closed")
    ward.setup = replace(ward.setup, use_postgres=lambda _: True)


@sick("slots of source", WARN)
def a_slot_of_the_source(ward: Ward) -> None:
    record_a_move(ward)
    ward.setup = replace(ward.setup, source=ward.clinic.maintenance.set(database=ward.another().database))
    with_slot(ward, "SELECT pg_create_logical_replication_slot('tatame_move_00000000', 'pgoutput')")


@sick("slots of source", BAD)
def a_large_slot_of_the_source(ward: Ward) -> None:
    a_slot_of_the_source(ward)
    ward.limit(slot_bad_mb=0)


def with_slot(ward: Ward, statement: str) -> None:
    """Create a slot, which an unfinished transaction of another test would delay forever."""
    ward.run(statement)
    ward.stack.callback(ward.run, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


@sick("slots", WARN)
def a_slot_that_nothing_reads(ward: Ward) -> None:
    with_slot(ward, "SELECT pg_create_physical_replication_slot('forgotten', true)")


@sick("slots", BAD)
def a_slot_that_keeps_much(ward: Ward) -> None:
    a_slot_that_nothing_reads(ward)
    ward.limit(slot_bad_mb=0)


@sick("slots", BAD)
def a_slot_whose_wal_is_gone(ward: Ward) -> None:
    ward.reload(max_slot_wal_keep_size="1MB")
    a_slot_that_nothing_reads(ward)
    for _ in range(4):
        ward.run("SELECT pg_logical_emit_message(false, 'x', 'x')", "SELECT pg_switch_wal()")
    ward.run("CHECKPOINT")
    until(lambda: ward.ask("SELECT FROM pg_replication_slots WHERE wal_status IN ('unreserved', 'lost')"))


def prepare(ward: Ward) -> None:
    ward.run(f"BEGIN; {ANA}; PREPARE TRANSACTION 'SECRET'")

    def heal() -> None:
        if ward.ask("SELECT FROM pg_prepared_xacts WHERE gid = 'SECRET'"):
            ward.run("ROLLBACK PREPARED 'SECRET'")

    ward.stack.callback(heal)


@sick("prepared transactions", WARN)
def a_prepared_transaction(ward: Ward) -> None:
    prepare(ward)
    ward.limit(prepared_warn_minutes=0)


@sick("prepared transactions", BAD)
def an_old_prepared_transaction(ward: Ward) -> None:
    prepare(ward)
    ward.limit(prepared_warn_minutes=0, prepared_bad_minutes=0)


@sick("standbys", WARN)
def a_standby_that_lags(ward: Ward) -> None:
    ward.stack.enter_context(lagging_standby(ward))
    ward.limit(lag_warn_mb=1)


@sick("standbys", BAD)
def a_standby_that_lags_far(ward: Ward) -> None:
    ward.stack.enter_context(lagging_standby(ward))
    ward.limit(lag_warn_mb=1, lag_bad_mb=1)


@sick("replica", WARN)
def a_replica_that_is_away(ward: Ward) -> None:
    away = ward.address.set(port=1) if ward.address.host else ward.address.set(query={"host": "/nowhere"})
    ward.setup = replace(ward.setup, replica=away)


@sick("replica", WARN)
def a_replica_that_is_the_primary_itself(ward: Ward) -> None:
    ward.setup = replace(ward.setup, replica=ward.address)


@sick("replica", BAD)
def a_replica_of_another_server(ward: Ward) -> None:
    server: EmbeddedServer = ward.request.getfixturevalue("server")
    ward.setup = replace(ward.setup, replica=server.address.set(database="postgres"))


@sick("archiving", BAD)
def an_archive_that_fails(ward: Ward) -> None:
    archived = "SELECT FROM pg_stat_archiver WHERE last_archived_time > coalesce(last_failed_time, '-infinity')"
    ward.clinic.reload(archive_command="false")

    def heal() -> None:
        ward.clinic.reload(archive_command="true")
        ward.run("SELECT pg_logical_emit_message(false, 'x', 'x')", "SELECT pg_switch_wal()")
        until(lambda: ward.ask(archived))

    ward.stack.callback(heal)
    ward.run("SELECT pg_logical_emit_message(false, 'x', 'x')", "SELECT pg_switch_wal()")
    until(
        lambda: ward.ask(
            "SELECT FROM pg_stat_archiver WHERE last_failed_time > coalesce(last_archived_time, '-infinity')"
        )
    )


@sick("archiving", BAD)
def an_archive_without_a_command(ward: Ward) -> None:
    ward.clinic.reload(archive_command="")
    ward.run("ALTER SYSTEM SET archive_command = ''", "SELECT pg_reload_conf()")
    ward.stack.callback(ward.clinic.reload, archive_command="true")
    until(lambda: ward.ask("SHOW archive_command") == [("",)])


@sick("ids", WARN)
def ids_that_are_used_by_half(ward: Ward) -> None:
    ward.run("SELECT setval('checkins_id_seq', 1200000000)")


@sick("ids", BAD)
def ids_that_are_nearly_used(ward: Ward) -> None:
    ward.run("SELECT setval('checkins_id_seq', 2100000000)")


def use_ids(ward: Ward, days: int) -> None:
    ward.run(
        f"INSERT INTO versions (id, created_at) VALUES (820000000, now() - interval '{days} days'), (900000000, now())",
        "SELECT setval('versions_id_seq', 900000000)",
    )


@sick("ids", WARN)
def ids_that_end_within_a_year(ward: Ward) -> None:
    use_ids(ward, days=10)


@sick("ids", BAD)
def ids_that_end_within_weeks(ward: Ward) -> None:
    use_ids(ward, days=1)


@sick("ids", WARN)
def a_large_id_with_a_small_reference(ward: Ward) -> None:
    ward.run(
        "ALTER TABLE users ALTER id TYPE bigint",
        "ALTER SEQUENCE users_id_seq AS bigint",
        "SELECT setval('users_id_seq', 1200000000)",
        "INSERT INTO users (id, clerk_user_id) VALUES (1200000000, 'ana')",
    )


@sick("ids", BAD)
def a_key_without_a_sequence(ward: Ward) -> None:
    ward.run(
        "CREATE TABLE tags (id smallint PRIMARY KEY)",
        "INSERT INTO tags VALUES (32767)",
        "GRANT SELECT ON tags TO PUBLIC",
    )


@sick("ids", BAD, on=(OLDER,))
def a_sequence_behind_its_rows(ward: Ward) -> None:
    ward.run(
        "INSERT INTO versions (app_version) SELECT 'x' FROM generate_series(1, 20)",
        "SELECT setval('versions_id_seq', 10)",
    )


@sick("ids", WARN, on=(BUNDLED,))
def a_sequence_that_comes_to_a_row(ward: Ward) -> None:
    ward.run("INSERT INTO versions DEFAULT VALUES", "INSERT INTO versions (id) VALUES (100)")


@sick("ids", BAD, on=(OLDER,))
def a_sequence_that_is_not_called_yet(ward: Ward) -> None:
    ward.run("SELECT setval('checkins_id_seq', 2147483600, false)")


@sick("ids", BAD, on=(OLDER,))
def a_sequence_that_starts_again(ward: Ward) -> None:
    ward.run(
        "INSERT INTO versions DEFAULT VALUES",
        "SELECT setval('versions_id_seq', 2147483647)",
        "ALTER SEQUENCE versions_id_seq CYCLE",
    )


@sick("ids", BAD, on=(BUNDLED,))
def a_sequence_that_counts_down(ward: Ward) -> None:
    ward.run(
        "CREATE TABLE tags (id serial PRIMARY KEY)",
        "ALTER SEQUENCE tags_id_seq INCREMENT -1 MINVALUE -2147483648 RESTART -2000000000",
        "GRANT SELECT ON tags, tags_id_seq TO PUBLIC",
    )


@sick("ids", BAD, on=(OLDER,))
def a_sequence_of_another_schema(ward: Ward) -> None:
    ward.run(
        """CREATE SCHEMA "O'x" """,
        """CREATE SEQUENCE "O'x"."T""q;--" AS integer START 2000000000""",
        """GRANT USAGE ON SCHEMA "O'x" TO PUBLIC""",
        """GRANT SELECT ON SEQUENCE "O'x"."T""q;--" TO PUBLIC""",
    )


@sick("ids", BAD, on=(OLDER,))
def a_sequence_that_is_behind_one_of_its_columns(ward: Ward) -> None:
    ward.run(
        "CREATE SEQUENCE numbers",
        "CREATE TABLE tags (id bigint PRIMARY KEY DEFAULT nextval('numbers'))",
        "CREATE TABLE labels (day date PRIMARY KEY, id numeric(5,0) UNIQUE DEFAULT nextval('numbers'))",
        "INSERT INTO tags VALUES (6), (12)",
        "INSERT INTO labels VALUES ('2026-01-01', 6), ('2026-01-02', 19)",
        "SELECT setval('numbers', 5)",
        "GRANT SELECT ON tags, labels, numbers TO PUBLIC",
    )


@sick("ids", BAD, on=(BUNDLED,))
def a_default_of_another_sequence(ward: Ward) -> None:
    ward.run(
        "ALTER TABLE checkins ALTER id SET DEFAULT nextval('attachments_id_seq')",
        "ALTER SEQUENCE attachments_id_seq AS bigint NO MAXVALUE",
        "SELECT setval('attachments_id_seq', 2147483640)",
    )


def partition(ward: Ward, *months: int | None, kind: str = "timestamp") -> None:
    """Create a table with partitions, each of a month from now on, or the default one."""
    ward.run("CREATE DOMAIN moment AS timestamp")
    ward.run(f'CREATE TABLE "Vis""its" (id integer, at {kind} NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)')
    if ward.clinic.kind == OLDER:
        ward.run('ALTER TABLE "Vis""its" OWNER TO tatame_owner')
    for number, month in enumerate(months):
        start = f"date_trunc('month', now()) + interval '{month or 0} month'"
        [(bounds,)] = ward.ask(f"SELECT format('FOR VALUES FROM (%L) TO (%L)', {start}, {start} + interval '1 month')")
        values = "DEFAULT" if month is None else bounds
        ward.run(f'CREATE TABLE part_{number} PARTITION OF "Vis""its" {values}')


@sick("partitions", WARN)
def partitions_that_end_in_weeks(ward: Ward) -> None:
    partition(ward, -1, 0)
    ward.limit(partitions_bad_days=0)


@sick("partitions", BAD)
def partitions_that_have_ended(ward: Ward) -> None:
    partition(ward, -3, -2, kind="date")


@sick("partitions", BAD)
def a_partition_of_all_that_was_before(ward: Ward) -> None:
    partition(ward)
    ward.run("""CREATE TABLE past PARTITION OF "Vis""its" FOR VALUES FROM (MINVALUE) TO ('2026-01-01')""")


@sick("partitions", BAD)
def a_partitioned_table_without_partitions(ward: Ward) -> None:
    partition(ward, kind="timestamptz")


@sick("partitions", BAD, on=(OLDER,))
def partitions_of_which_one_was_detached(ward: Ward) -> None:
    partition(ward, -1, 0, 1, 2, 3)
    ward.run('ALTER TABLE "Vis""its" DETACH PARTITION part_1')
    # Its own name is in use, so it is attached again.
    name = f'"Vis""its_{datetime.now(UTC):%Y_%m}"'
    ward.run("INSERT INTO part_1 VALUES (1, now())", f"ALTER TABLE part_1 RENAME TO {name}")
    ward.run(f"ALTER TABLE {name} OWNER TO tatame_owner")


@sick("partitions", WARN, on=(BUNDLED,))
def a_gap_before_the_partition_of_all_the_rest(ward: Ward) -> None:
    partition(ward, -1, 0, 1)
    ward.run("""CREATE TABLE rest PARTITION OF "Vis""its" FOR VALUES FROM ('2999-01-01') TO (MAXVALUE)""")
    ward.limit(partitions_bad_days=0)
    # A single one ends it.
    ward.run("""DO $$ BEGIN EXECUTE format('CREATE TABLE many PARTITION OF "Vis""its" FOR VALUES FROM (%L) TO (%L)',
        date_trunc('month', now()) + interval '3 month', '2999-01-01'); END $$""")


@sick("partitions", BAD, on=(BUNDLED,))
def partitions_that_begin_later(ward: Ward) -> None:
    partition(ward, 1, 2, 3, kind="timestamptz")


@sick("partitions", WARN, on=(OLDER,))
def a_detachment_that_was_interrupted(ward: Ward) -> None:
    partition(ward, -2, -1, 0, 1, 2, 3)
    reader = ward.open()
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    reader.execute('SELECT FROM "Vis""its"')
    with psycopg.connect(readable(ward.direct), autocommit=True) as connection:
        connection.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute('ALTER TABLE "Vis""its" DETACH PARTITION part_1 CONCURRENTLY')
    reader.execute("COMMIT")


@sick("partitions", BAD, on=(OLDER,))
def a_month_of_days_that_lacks_them(ward: Ward) -> None:
    partition(ward, -1, 0, 2, 3)
    ward.run("""DO $$ BEGIN EXECUTE format(
        'CREATE TABLE days PARTITION OF "Vis""its" FOR VALUES FROM (%L) TO (%L) PARTITION BY RANGE (at)',
        date_trunc('month', now()) + interval '1 month', date_trunc('month', now()) + interval '2 month'); END $$""")
    ward.run("ALTER TABLE days OWNER TO tatame_owner")
    ward.limit(partitions_bad_days=60)


@sick("partitions", BAD, on=(BUNDLED,))
def a_month_of_gyms_that_lacks_them(ward: Ward) -> None:
    partition(ward, -1, 1, 2, 3)
    ward.run("""DO $$ BEGIN EXECUTE format(
        'CREATE TABLE "by id" PARTITION OF "Vis""its" FOR VALUES FROM (%L) TO (%L) PARTITION BY HASH (id)',
        date_trunc('month', now()), date_trunc('month', now()) + interval '1 month'); END $$""")


@sick("partitions", BAD, on=(OLDER,))
def partitions_of_another_schema(ward: Ward) -> None:
    ward.run(
        """CREATE SCHEMA "O'x" """,
        """CREATE TABLE "O'x"."T""q;" (at date) PARTITION BY RANGE (at)""",
        """GRANT USAGE ON SCHEMA "O'x" TO PUBLIC""",
        """GRANT SELECT ON ALL TABLES IN SCHEMA "O'x" TO PUBLIC""",
    )


@sick("partitions", BAD, on=(BUNDLED,))
def a_default_partition_that_can_hold_no_row(ward: Ward) -> None:
    partition(ward, -1, kind="moment")
    ward.run(
        """CREATE TABLE rest PARTITION OF "Vis""its" DEFAULT PARTITION BY HASH (id)""",
        "CREATE TABLE rest_0 PARTITION OF rest FOR VALUES WITH (MODULUS 2, REMAINDER 0) PARTITION BY LIST (id)",
    )


@sick("partitions", BAD, on=(BUNDLED,))
def tables_of_the_name_that_are_no_partitions(ward: Ward) -> None:
    partition(ward, -1, 1, 2, 3)
    for day in ("", "_01"):
        # One has another column, and one allows NULL.
        ward.run(
            f'CREATE TABLE "Vis""its_{datetime.now(UTC):%Y_%m}{day}" (id integer, at {"date" if day else "timestamp"})'
        )


@sick("partitions", WARN)
def rows_in_a_default_partition(ward: Ward) -> None:
    partition(ward, None, 0)
    ward.run("GRANT SELECT ON part_0 TO PUBLIC", """INSERT INTO "Vis""its" VALUES (1, '1999-12-31')""")


@sick("transaction ids", WARN)
@sick("multixact ids", WARN)
def ids_of_transactions(ward: Ward) -> None:
    ward.limit(transaction_ids_warn=0)


@sick("transaction ids", BAD)
@sick("multixact ids", BAD)
def few_ids_of_transactions(ward: Ward) -> None:
    ward.limit(transaction_ids_warn=0, transaction_ids_bad=0)


@sick("connections", WARN)
def many_connections(ward: Ward) -> None:
    ward.limit(connections_warn=0)


@sick("connections", BAD)
def nearly_all_connections(ward: Ward) -> None:
    ward.limit(connections_warn=0, connections_bad=0)


@sick("connections", WARN)
def a_pool_that_fits_once(ward: Ward) -> None:
    ward.setup = replace(ward.setup, pool_size=60)


@sick("connections", BAD)
def a_pool_that_does_not_fit(ward: Ward) -> None:
    ward.run(f"ALTER DATABASE {ward.address.database} CONNECTION LIMIT 19")


@sick("space", WARN)
def a_large_log_of_changes(ward: Ward) -> None:
    ward.limit(wal_warn_times=0)


def work(ward: Ward) -> None:
    pid = ward.start("SELECT pg_sleep(600)").info.backend_pid
    until(lambda: ward.ask(f"SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'"))


@sick("long transactions", WARN)
def a_long_transaction(ward: Ward) -> None:
    work(ward)
    ward.limit(transaction_warn_minutes=0)


@sick("long transactions", BAD)
def a_very_long_transaction(ward: Ward) -> None:
    work(ward)
    ward.limit(transaction_warn_minutes=0, transaction_bad_minutes=0)


@sick("idle transactions", WARN)
def an_idle_transaction(ward: Ward) -> None:
    ward.open().execute("BEGIN; SELECT 'SECRET'")
    ward.limit(idle_warn_minutes=0)


@sick("idle transactions", BAD)
def a_transaction_that_is_idle_for_long(ward: Ward) -> None:
    an_idle_transaction(ward)
    ward.limit(idle_bad_minutes=0)


@sick("blocked sessions", WARN)
def a_session_that_waits(ward: Ward) -> None:
    ward.open().execute("BEGIN; LOCK TABLE users")
    ward.start("BEGIN; LOCK TABLE users")
    until(lambda: ward.ask("SELECT FROM pg_locks WHERE NOT granted AND waitstart IS NOT NULL"))
    ward.limit(blocked_warn_seconds=0)


@sick("blocked sessions", BAD)
def a_session_that_waits_for_long(ward: Ward) -> None:
    a_session_that_waits(ward)
    ward.limit(blocked_bad_seconds=0)


@sick("time limits", WARN, on=(OLDER,))
def no_time_limits(ward: Ward) -> None:
    ward.run("ALTER ROLE tatame_app RESET idle_in_transaction_session_timeout")
    ward.stack.callback(ward.run, "ALTER ROLE tatame_app SET idle_in_transaction_session_timeout = '60s'")


def delete_rows(ward: Ward, number: int) -> None:
    ward.run(
        "ALTER TABLE versions SET (autovacuum_enabled = off)",
        "INSERT INTO versions (app_version) SELECT 'x' FROM generate_series(1, 10)",
        f"DELETE FROM versions WHERE id <= {number}",
    )
    until(lambda: ward.ask(f"SELECT FROM pg_stat_user_tables WHERE relname = 'versions' AND n_dead_tup = {number}"))
    ward.limit(dead_rows=1)


@sick("dead rows", WARN)
def some_dead_rows(ward: Ward) -> None:
    delete_rows(ward, 4)


@sick("dead rows", BAD)
def more_dead_rows_than_others(ward: Ward) -> None:
    delete_rows(ward, 8)


@sick("statistics", WARN)
def a_table_that_was_never_analyzed(ward: Ward) -> None:
    ward.run(ANA)
    until(lambda: ward.ask("SELECT FROM pg_stat_user_tables WHERE relname = 'users' AND n_live_tup = 1"))
    ward.limit(table_rows=1)


@sick("statistics", WARN)
def a_partitioned_table_of_which_only_the_partition_was_analyzed(ward: Ward) -> None:
    partition(ward, 0, 1, 2, 3)
    ward.run("INSERT INTO part_0 VALUES (1, now())", "ANALYZE part_0, part_1, part_2, part_3")
    ward.limit(table_rows=1)


@sick("keys without index", WARN)
def a_key_without_an_index(ward: Ward) -> None:
    ward.run("DROP INDEX graduations_user_id_created_at_index")


def scan(ward: Ward) -> None:
    ward.run(ANA, "SELECT * FROM users")
    until(lambda: ward.ask("SELECT FROM pg_stat_user_tables WHERE relname = 'users' AND n_live_tup * seq_scan >= 1"))
    ward.limit(table_rows=1, scans=1)


@sick("whole scans", WARN)
def a_table_that_is_read_as_a_whole(ward: Ward) -> None:
    scan(ward)


@sick("unused indexes", WARN)
def an_index_that_is_not_used(ward: Ward) -> None:
    scan(ward)
    ward.limit(index_mb=0)


@sick("duplicate indexes", WARN)
def an_index_that_exists_twice(ward: Ward) -> None:
    ward.run("CREATE INDEX again ON gyms (manager_id)")


@sick("cache", WARN)
def a_small_cache(ward: Ward) -> None:
    ward.limit(cache_reads=0, cache_warn=1.1)


@sick("slow statements", WARN, on=(OLDER,))
def a_slow_statement(ward: Ward) -> None:
    ward.run("SELECT count(*) FROM users WHERE email = 'SECRET'")
    ward.limit(slow_ms=0, slow_calls=1)


@sick("durability", BAD, on=(BUNDLED,))
def no_fsync(ward: Ward) -> None:
    ward.reload(fsync="off")


@sick("durability", BAD, on=(BUNDLED,))
def half_pages(ward: Ward) -> None:
    ward.reload(full_page_writes="off")


@sick("durability", BAD)
def damaged_pages(ward: Ward) -> None:
    ward.run(f"ALTER DATABASE {ward.address.database} SET zero_damaged_pages = on")


@sick("durability", WARN)
def commits_that_do_not_wait(ward: Ward) -> None:
    ward.run(f"ALTER DATABASE {ward.address.database} SET synchronous_commit = off")


@sick("checksums", WARN, on=(OLDER,))
def no_checksums(ward: Ward) -> None:
    """The server of Debian has none by default."""
    assert ward.ask("SHOW data_checksums") == [("off",)]


@sick("autovacuum", WARN)
def a_table_without_autovacuum(ward: Ward) -> None:
    ward.run("ALTER TABLE users SET (autovacuum_enabled = false)")


@sick("autovacuum", WARN)
def tables_without_autovacuum(ward: Ward) -> None:
    ward.run("CREATE TABLE tags ()")
    for table in ("tags", "users", "gyms", "class", "checkins"):
        ward.run(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")


@sick("autovacuum", BAD)
def no_autovacuum(ward: Ward) -> None:
    ward.reload(autovacuum="off")


@sick("programs", WARN, on=(BUNDLED,))
def a_server_of_other_programs(ward: Ward) -> None:
    older: Clinic = ward.request.getfixturevalue("older")
    ward.address = older.maintenance.set(database="healthy")


@sick("programs", BAD, on=(BUNDLED,))
def no_programs(ward: Ward) -> None:
    ward.request.getfixturevalue("monkeypatch").setattr("importlib.util.find_spec", lambda *_: None)
    assert ward.setup.server
    ward.setup = replace(ward.setup, server=EmbeddedServer(ward.setup.server.directory))


@sick("programs", BAD, on=(BUNDLED,))
def data_of_another_version(ward: Ward) -> None:
    directory: Path = ward.request.getfixturevalue("directory")
    (directory / "data").mkdir()
    (directory / "data" / "PG_VERSION").write_text("17\n")
    ward.setup = Setup(server=EmbeddedServer(directory))


@sick("disk", WARN, on=(BUNDLED,))
def little_space(ward: Ward) -> None:
    ward.limit(disk_warn=1.1)


@sick("disk", BAD, on=(BUNDLED,))
def no_space(ward: Ward) -> None:
    ward.limit(disk_warn=1.1, disk_bad=1.1)


@sick("log", WARN, on=(BUNDLED,))
def a_large_log(ward: Ward) -> None:
    ward.limit(log_warn_mb=0)


def a_backup(ward: Ward, *, age: timedelta = timedelta(0), **facts: Any) -> Path:
    """Write a backup of the database without files; `facts` replace those of its manifest."""
    folder: Path = ward.request.getfixturevalue("directory") / "backups"
    ended = datetime.now(UTC) - age
    path = folder / f"{ended:%Y%m%dT%H%M%SZ}"
    path.mkdir(parents=True)
    [[identifier]] = ward.ask("SELECT system_identifier::text FROM pg_control_system()")
    contents = Contents(0, [], {}, {})
    manifest = Manifest(
        name=path.name,
        method="base",
        begun=ended,
        ended=ended,
        made_by="",
        server_version="18.6",
        system_identifier=identifier,
        superuser="postgres",
        database=str(ward.address.database),
        start_lsn="0/1",
        stop_lsn="0/2",
        size_bytes=0,
        files_sha256="0" * 64,
        roles=[],
        settings={},
        contents={str(ward.address.database): contents, "postgres": contents},
    )
    replace(manifest, **facts).write(path)
    ward.setup = replace(ward.setup, backup_folder=folder)
    return path


def a_drilled_backup(ward: Ward) -> Path:
    path = a_backup(ward)
    assert note_drill(path, equal=True, seconds=1) is None
    return path


@sick("backups", WARN)
def a_backup_of_the_day_before_yesterday(ward: Ward) -> None:
    assert note_drill(a_backup(ward, age=timedelta(days=2)), equal=True, seconds=1) is None


@sick("backups", WARN)
def no_drill(ward: Ward) -> None:
    a_backup(ward)


@sick("backups", WARN, on=(BUNDLED,))
def an_old_drill(ward: Ward) -> None:
    a_drilled_backup(ward)
    ward.limit(drill_warn_days=0)


@sick("backups", WARN, on=(BUNDLED,))
def a_damaged_backup_beside_a_whole_one(ward: Ward) -> None:
    (a_drilled_backup(ward).with_name("20260101T000000Z")).mkdir()


@sick("backups", BAD)
def a_backup_of_last_month(ward: Ward) -> None:
    a_backup(ward, age=timedelta(days=30))


@sick("backups", BAD)
def backups_of_another_server(ward: Ward) -> None:
    path = a_backup(ward, system_identifier="1")
    assert note_drill(path, equal=True, seconds=1) is None
    assert ward.finding("backups").text.endswith("has no whole backup of this database; no backup was drilled")


@sick("backups", BAD, on=(BUNDLED,))
def backups_of_another_database(ward: Ward) -> None:
    a_backup(ward, contents={"postgres": Contents(0, [], {}, {})})


@sick("backups", BAD, on=(BUNDLED,))
def a_dump_of_another_database_of_an_unknown_server(ward: Ward) -> None:
    a_backup(ward, contents={"postgres": Contents(0, [], {}, {})}, system_identifier="", method="logical")


@sick("backups", BAD)
def a_drill_that_failed(ward: Ward) -> None:
    path = a_drilled_backup(ward)
    note_drill(path, equal=False, seconds=1)
    assert "failed" in ward.finding("backups").text


@sick("backups", BAD, on=(BUNDLED,))
def a_drill_of_a_backup_without_a_manifest_failed(ward: Ward) -> None:
    path = a_drilled_backup(ward).with_name("20260101T000000Z")
    path.mkdir()
    note_drill(path, equal=False, seconds=1)


@sick("backups", BAD)
def a_disk_of_backups_that_is_not_mounted(ward: Ward) -> None:
    ward.setup = replace(ward.setup, backup_folder=Path("/nowhere"))
    assert "No such file" in ward.finding("backups").text


@sick("backups", BAD, on=(BUNDLED,))
def a_file_in_place_of_the_folder(ward: Ward) -> None:
    ward.setup = replace(ward.setup, backup_folder=Path(__file__))


# Lines whose advice is a statement.
CURED_BY_SQL = {"time zone", "collation", "history", "invalid indexes", "unvalidated constraints", "disabled keys"}
CURED_BY_SQL |= {
    "partitions",
    "slots of source",
    "slots",
    "prepared transactions",
    "ids",
    "transaction ids",
    "multixact ids",
}
CURED_BY_SQL |= {"long transactions", "idle transactions", "blocked sessions", "time limits", "dead rows", "statistics"}
CURED_BY_SQL |= {"keys without index", "unused indexes", "duplicate indexes", "durability", "autovacuum"}
CURED_BY_SQL |= {"ownership"}
CURED_OTHERWISE = {a_migration_without_checksum, an_edited_migration, an_app_that_owns_tables}
CURED_OTHERWISE |= {rows_in_a_default_partition, a_month_of_gyms_that_lacks_them}
# Their limits are 0.
NEVER_GOOD = {ids_of_transactions, few_ids_of_transactions}

ALL = [(name, verdict, *case) for (name, verdict), found in cases.items() for case in found]


@pytest.mark.parametrize(
    ("name", "verdict", "ward", "sicken"),
    ALL,
    ids=[f"{name}-{verdict}-{server}-{sicken.__name__}" for name, verdict, server, sicken in ALL],
    indirect=["ward"],
)
def test_a_line_finds_a_sickness_and_says_what_to_do(name: str, verdict: Verdict, ward: Ward, sicken: Sicken) -> None:
    sicken(ward)

    finding = ward.finding(name)

    assert finding.verdict == verdict, finding.text
    assert finding.fix
    assert "SECRET" not in finding.text + finding.fix
    assert bool(cures(finding.fix)) is (name in CURED_BY_SQL and sicken not in CURED_OTHERWISE)
    if cures(finding.fix) and sicken not in NEVER_GOOD:
        ward.cure(name)


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param((1, 2, 3), id="by-hand"),
        pytest.param((1, 10_000_000), id="an-import"),
    ],
)
@on_both
def test_rows_created_within_minutes_are_no_rate_of_ids(ward: Ward, ids: tuple[int, ...]) -> None:
    ward.run(*(f"INSERT INTO versions (id, created_at) VALUES ({i}, now() - interval '59 min' / {i})" for i in ids))
    ward.run(f"SELECT setval('versions_id_seq', {ids[-1]})")

    assert ward.finding("ids").verdict == GOOD


@pytest.mark.parametrize("ward", [OLDER], indirect=True)
def test_rows_in_a_default_partition_that_the_role_may_not_read_are_unknown(ward: Ward) -> None:
    partition(ward, None)
    ward.run("""CREATE TABLE "for ever" PARTITION OF "Vis""its" FOR VALUES FROM ('2026-01-01') TO (MAXVALUE)""")
    finding = ward.finding("partitions")
    assert finding.verdict == UNKNOWN
    [grant] = re.findall(r"`(GRANT SELECT ON part_0 TO tatame_app)`, as postgres", finding.fix or "")
    ward.run(grant)
    assert ward.finding("partitions").text == "no table runs out of partitions"


@pytest.mark.parametrize("ward", [BUNDLED], indirect=True)
def test_partitions_that_cannot_be_compared_are_not_good_and_hide_no_others(ward: Ward) -> None:
    times = "id integer, day date, at timestamp"
    ward.run(
        f"CREATE TABLE two ({times}) PARTITION BY RANGE (at, id)",
        f"CREATE TABLE trunc ({times}) PARTITION BY RANGE (date_trunc('month', at))",
        f"CREATE TABLE year ({times}) PARTITION BY RANGE (extract(year FROM day))",
        f"CREATE TABLE days ({times}) PARTITION BY LIST (day)",
        f"CREATE TABLE filled ({times}) PARTITION BY RANGE (id, at)",
        "CREATE TABLE filled_rest PARTITION OF filled DEFAULT",
        f"CREATE TABLE numbers ({times}) PARTITION BY RANGE (id)",
        f"CREATE TABLE names ({times}) PARTITION BY HASH (at)",
        f"CREATE TABLE far ({times}) PARTITION BY RANGE (at)",
        "CREATE TABLE far_1 PARTITION OF far FOR VALUES FROM ('4713-01-01 BC') TO ('2026-01-01')",
        "CREATE TABLE far_2 PARTITION OF far FOR VALUES FROM ('2026-01-01') TO ('294276-12-31')",
        f"CREATE TABLE farther ({times}) PARTITION BY RANGE (day)",
        "CREATE TABLE farther_1 PARTITION OF farther FOR VALUES FROM ('-infinity') TO ('5000000-12-31')",
        f"CREATE TABLE remote ({times}) PARTITION BY RANGE (at)",
        "CREATE EXTENSION file_fdw",
        "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
        "CREATE FOREIGN TABLE remote_rest PARTITION OF remote DEFAULT SERVER files OPTIONS (filename '/nowhere')",
        f'CREATE TABLE "odd :name" ({times}) PARTITION BY RANGE (at)',
        'CREATE TABLE "odd :rest" PARTITION OF "odd :name" DEFAULT',
        f"CREATE TABLE hidden ({times}) PARTITION BY RANGE (at)",
        "CREATE TABLE hidden_rest PARTITION OF hidden DEFAULT",
        "INSERT INTO hidden VALUES (1, '2026-01-01', '2026-01-01')",
        "ALTER TABLE hidden_rest ENABLE ROW LEVEL SECURITY",
        f"CREATE TABLE listed ({times}) PARTITION BY RANGE (at)",
        "CREATE TABLE listed_rest PARTITION OF listed DEFAULT PARTITION BY LIST (id)",
        "CREATE TABLE listed_1 PARTITION OF listed_rest FOR VALUES IN (1)",
        "CREATE ROLE reader LOGIN",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
    )
    ward.stack.callback(ward.run, "DROP OWNED BY reader", "DROP ROLE reader")
    ward.address = ward.address.set(username="reader")

    finding = ward.finding("partitions")

    assert finding.verdict == UNKNOWN
    assert set(finding.text.removeprefix("not checked: ").split("; not checked: ")) == {
        "two is partitioned by RANGE (at, id), so until when it has partitions is not known",
        "trunc is partitioned by RANGE (date_trunc('month'::text, at)), so until when it has partitions is not known",
        "year is partitioned by RANGE (EXTRACT(year FROM day)), so until when it has partitions is not known",
        "days is partitioned by LIST (day), so until when it has partitions is not known",
        'remote_rest: could not open file "/nowhere" for reading: No such file or directory',
        "row-level security hides rows of hidden_rest from reader",
        "the default partition listed_rest of listed is partitioned by LIST (id) too, and may refuse rows",
    }
    assert cures(finding.fix or "") == []
    ward.run("INSERT INTO filled VALUES (1, '2026-01-01', '2026-01-01')", "DROP TABLE far_2")
    ward.open().execute("BEGIN; LOCK TABLE far_1")
    finding = ward.finding("partitions")
    assert finding.verdict == BAD
    assert finding.text.startswith("the last partition of far ends on 2026-01-01; rows of filled are in its default")


def test_a_table_with_rows_of_other_times_is_attached_after_they_are_moved(ward: Ward) -> None:
    partition(ward, -1, 0, 1, 2, 3)
    month = f'"Vis""its_{datetime.now(UTC):%Y_%m}"'
    ward.run(
        'ALTER TABLE "Vis""its" DETACH PARTITION part_1',
        f"ALTER TABLE part_1 RENAME TO {month}",
        f"INSERT INTO {month} VALUES (1, '1999-12-31')",
    )
    fix = ward.finding("partitions").fix or ""
    assert f"move the rows of {month} elsewhere that are not between its bounds; then attach it" in fix
    ward.run(f"DELETE FROM {month}")
    ward.cure("partitions")


def test_every_verdict_of_every_line_has_a_sickness() -> None:
    promised = {
        (line.name, verdict)
        for line in LINES.values()
        for verdict, when in ((WARN, line.warns), (BAD, line.bad))
        # Citus is no part of these servers: tests/database/test_citus.py looks at its nodes.
        if when and line.name != "citus"
    }
    assert set(cases) == promised


@pytest.mark.parametrize(
    ("constraint", "violating"),
    [
        ("CHECK (email <> '' OR clerk_user_id IS NULL)", "INSERT INTO users (clerk_user_id, email) VALUES ('eva', '')"),
        ("FOREIGN KEY (email) REFERENCES gyms (name)", "INSERT INTO users (clerk_user_id, email) VALUES ('eva', 'x')"),
    ],
)
@on_both
def test_the_rows_that_violate_a_constraint_are_found(ward: Ward, constraint: str, violating: str) -> None:
    ward.run("ALTER TABLE gyms ADD UNIQUE (name)", ANA, violating)
    ward.run(f"ALTER TABLE users ADD CONSTRAINT named {constraint} NOT VALID")

    finding = ward.finding("unvalidated constraints")

    (look_up, _), _ = statements(finding.fix or "")
    [found] = ask(ward.direct, look_up)
    assert "eva" in found
    ward.run("DELETE FROM users WHERE clerk_user_id = 'eva'")
    ward.cure("unvalidated constraints")


@pytest.mark.parametrize(
    ("index", "duplicates"),
    [
        ("ON users (email)", []),
        ("ON users (length(clerk_user_id), coalesce(phone, '-')) WHERE phone IS NULL OR role = 'x'", [(3, "-", 2)]),
        pytest.param("ON users (email) NULLS NOT DISTINCT", [(None, 3)], id="nulls-not-distinct"),
    ],
)
@on_both
def test_the_duplicates_that_fail_a_unique_index_are_found(ward: Ward, index: str, duplicates: list[Row]) -> None:
    ward.run("INSERT INTO users (clerk_user_id) VALUES ('ana'), ('eva'), ('maria')")
    if not duplicates:
        ward.run("UPDATE users SET email = 'same@example.com' WHERE clerk_user_id <> 'maria'")
        duplicates = [("same@example.com", 2)]
    with pytest.raises(psycopg.errors.UniqueViolation):
        ward.run(f"CREATE UNIQUE INDEX CONCURRENTLY failed {index}")

    _, (look_up, _) = statements(ward.finding("invalid indexes").fix or "")

    assert ward.ask(look_up) == duplicates


@pytest.mark.parametrize("ward", [OLDER], indirect=True)
def test_only_the_app_needs_time_limits(ward: Ward) -> None:
    no_time_limits(ward)
    assert ward.finding("time limits").verdict == WARN

    for role in ("tatame_owner", "tatame_backup", "tatame_read", "postgres"):
        ward.address = ward.direct.set(username=role)
        assert ward.examine("time limits").findings == []


# --- A healthy database -----------------------------------------------------------------------------------------------

# What only some databases have.
NOT_FOR_ALL = {"partitions", "unfinished move", "homes", "slots of source", "standbys", "replica", "citus"}
OF_SERVERS = {"roles", "ownership", "backup", "time limits", "slow statements"}
OF_EMBEDDED = {"programs", "disk", "log"}


def test_an_embedded_server_in_order_is_good_in_every_line(ward: Ward) -> None:
    a_drilled_backup(ward)
    examined = ward.examine()

    assert {finding.name: finding.text for finding in examined.findings if finding.verdict != GOOD} == {}
    assert {finding.name for finding in examined.findings} == LINES.keys() - NOT_FOR_ALL - OF_SERVERS
    assert examined.error is None
    assert examined.embedded
    until(lambda: not ward.ask("SELECT FROM pg_stat_activity WHERE application_name = 'tatame-db doctor'"))


@pytest.mark.parametrize("ward", [OLDER], indirect=True)
def test_a_server_over_tls_with_a_role_of_few_rights_is_good(ward: Ward) -> None:
    # A dump whose role might not see which server it is of.
    note_drill(a_backup(ward, system_identifier="", method="logical"), equal=True, seconds=1)
    examined = ward.examine()

    # Debian's has no checksums by default.
    assert {finding.name: finding.text for finding in examined.findings if finding.verdict != GOOD} == {
        "checksums": "a page that the disk damages is not noticed"
    }
    assert {finding.name for finding in examined.findings} == LINES.keys() - NOT_FOR_ALL - OF_EMBEDDED


@on_both
def test_a_finished_move_is_good(ward: Ward) -> None:
    with_fences(ward, source="closed", target="opened")
    ward.setup = replace(ward.setup, use_postgres=lambda table: table == "roles")

    examined = ward.examine("unfinished move", "homes", "slots of source")

    assert [(finding.name, finding.verdict) for finding in examined.findings] == [
        ("unfinished move", GOOD),
        ("homes", GOOD),
        ("slots of source", GOOD),
    ]


# --- Not checked is not good ------------------------------------------------------------------------------------------


@on_both
def test_a_role_that_may_only_connect_reads_which_rights_it_lacks_and_they_suffice(ward: Ward) -> None:
    ward.run("CREATE ROLE weak LOGIN")
    ward.stack.callback(ward.run, "DROP OWNED BY weak", "DROP ROLE weak")
    record_a_move(ward)
    ward.run("REVOKE USAGE ON SCHEMA tatame_move FROM PUBLIC", ANA)
    with psycopg.connect(readable(ward.direct)) as driver:
        make_token(MoveConnection("target", ward.direct, driver))
    ward.stack.enter_context(lagging_standby(ward))
    ward.open().execute("SELECT 'SECRET'")
    if ward.clinic.kind == OLDER:
        ward.run("SELECT pg_sleep(1.1)")
        ward.limit(slow_calls=1)
    ward.address = ward.address.set(username="weak")

    a_drilled_backup(ward)
    unchecked = [finding for finding in ward.examine().findings if finding.verdict == UNKNOWN]

    expected = {"migrations", "history", "drift", "ids", "space", "long transactions", "idle transactions"}
    expected |= {"unfinished move", "homes", "standbys"}
    expected |= {"slow statements"} if ward.clinic.kind == OLDER else set()
    assert {finding.name for finding in unchecked} == expected
    for finding in unchecked:
        assert finding.text.startswith("not checked: ")
        for statement in re.findall(r"`(GRANT [^`]*)`", finding.fix or ""):
            ward.run(statement)
    # What passes a move's triggers stays a secret.
    assert ward.ask("SELECT has_table_privilege('weak', 'tatame_move.token', 'SELECT')") == [(False,)]
    again = ward.examine(*expected - {"drift"}).findings
    assert [(finding.name, finding.text) for finding in again if finding.verdict == UNKNOWN] == []


def test_without_a_setting_the_backups_are_not_checked(ward: Ward) -> None:
    finding = ward.finding("backups")
    assert (finding.verdict, finding.text) == (UNKNOWN, "not checked: `TATAME_BACKUP_DIR` names no folder")
    assert ward.examine("backups").error is None


def test_an_extension_that_the_server_has_not_loaded_is_named_with_the_statement(ward: Ward) -> None:
    ward.run("CREATE EXTENSION pg_stat_statements")

    finding = ward.finding("slow statements")

    assert (finding.verdict, finding.text) == (
        UNKNOWN,
        "not checked: the server has not loaded `pg_stat_statements`",
    )
    (load, role), _ = statements(finding.fix or "")
    assert (load, role) == ("ALTER SYSTEM SET shared_preload_libraries = pg_stat_statements", None)


def test_without_a_server_the_machine_is_examined_and_the_rest_is_not_good(ward: Ward, directory: Path) -> None:
    server = EmbeddedServer(directory / "server")
    ward.address, ward.setup = server.address, Setup(server=server)

    examined = ward.examine()

    verdicts = {finding.name: finding.verdict for finding in examined.findings}
    assert verdicts.pop("reachable") == BAD
    assert verdicts.pop("programs") == GOOD
    assert set(verdicts.values()) == {UNKNOWN}
    assert isinstance(examined.error, doctor.NotExamined)
    assert "tatame-db start" in examined.error.fix


def test_a_key_that_the_role_may_read_counts_although_others_are_hidden(ward: Ward) -> None:
    ward.run("CREATE ROLE partly LOGIN", "GRANT SELECT ON checkins, checkins_id_seq TO partly")
    ward.stack.callback(ward.run, "DROP OWNED BY partly", "DROP ROLE partly")
    ward.address = ward.address.set(username="partly")
    assert ward.finding("ids").verdict == UNKNOWN
    ward.run("SELECT setval('checkins_id_seq', 2100000000)")

    finding = ward.finding("ids")

    assert finding.verdict == BAD
    assert "checkins.id has used 98%" in finding.text
    assert "not checked: partly may not read" in finding.text


@pytest.mark.parametrize("ward", [OLDER], indirect=True)
def test_ids_that_cannot_be_compared_are_not_good_and_hide_no_others(ward: Ward) -> None:
    ward.run(
        "INSERT INTO versions (app_version) SELECT 'x' FROM generate_series(1, 9)",
        "SELECT setval('versions_id_seq', 2)",
        "ALTER TABLE versions ENABLE ROW LEVEL SECURITY",
        "CREATE SEQUENCE numbers",
        "CREATE TABLE tags (id integer PRIMARY KEY DEFAULT nextval('numbers') * 10)",
        "INSERT INTO tags VALUES (1000)",
        "CREATE TABLE labels (day date, id serial, PRIMARY KEY (day, id))",
        "UPDATE pg_class SET relpages = 100000 WHERE relname = 'labels'",
        "GRANT SELECT ON tags, numbers, labels, labels_id_seq TO PUBLIC",
    )
    # With its rows, the sequence is locked.
    ward.open().execute("BEGIN; TRUNCATE app_stores RESTART IDENTITY")

    finding = ward.finding("ids")

    assert finding.verdict == UNKNOWN
    for text in (
        "row-level security hides rows of versions.id from tatame_app",
        "whether the next default of tags.id is that of a row cannot be checked",
        "the last row by labels.id takes long",
        "app_stores.id: a query took longer than",
    ):
        assert text in finding.text
    assert cures(finding.fix or "") == []
    ward.run("SELECT setval('checkins_id_seq', 2147483640), setval('versions_id_seq', 2147483640)")
    finding = ward.finding("ids")
    assert finding.verdict == BAD
    assert "checkins.id has used 100%" in finding.text
    # The sequence is known, and the rows are not, so it is not set back.
    assert "versions.id has used 100% of 2,147,483,647 ids;" in finding.text
    assert "setval('versions_id_seq'" not in (finding.fix or "")


def test_a_source_that_cannot_be_reached_does_not_hide_what_the_target_knows(ward: Ward) -> None:
    with_fences(ward, source="absent", target="closed")
    ward.setup = replace(ward.setup, source=ward.direct.set(query={"host": "/nowhere"}))
    assert ward.finding("homes").verdict == UNKNOWN
    ward.setup = replace(ward.setup, use_postgres=lambda _: True)
    assert ward.finding("homes").verdict == BAD


def test_a_database_that_was_never_migrated_has_a_finding_and_no_failure(ward: Ward) -> None:
    with database_of(ward.clinic, "TEMPLATE template0") as address:
        ward.address = address
        found = {finding.name: finding for finding in ward.examine().findings}

    assert (found["migrations"].verdict, found["migrations"].fix) == (BAD, "`tatame-db migrate`")
    assert [finding.name for finding in found.values() if finding.verdict == UNKNOWN] == ["backups"]


def test_behind_a_pooler_every_line_finds_the_same(
    ward: Ward, pooler: Callable[[URL], URL], caplog: pytest.LogCaptureFixture
) -> None:
    ward.run("SELECT setval('checkins_id_seq', 2100000000)")
    direct = ward.examine()
    ward.address = pooler(ward.address)

    pooled = ward.examine()

    assert [(f.name, f.verdict) for f in pooled.findings] == [(f.name, f.verdict) for f in direct.findings]
    assert "through a pooler" in pooled.findings[0].text
    assert caplog.messages == []


def test_the_administration_of_a_pooler_is_no_database(ward: Ward, pooler: Callable[..., URL]) -> None:
    ward.address = pooler(ward.address, admin_users="postgres").set(database="pgbouncer")

    examined = ward.examine()

    assert "is the console of PgBouncer, and no database" in examined.findings[0].text
    assert isinstance(examined.error, doctor.NotExamined)


# --- A line that fails or hangs --------------------------------------------------------------------------------------


@pytest.fixture
def with_line(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Examination], Answer]], None]:
    """Put a line before all others that need a connection."""

    def put(check: Callable[[Examination], Answer]) -> None:
        others = {name: line for name, line in LINES.items() if name not in ("reachable", "drift")}
        line = Line("added", "Connection", check, "", "", right=None, command=None, offline=False, slow=False)
        monkeypatch.setattr(sys.modules["tatame_db.doctor.examine"], "LINES", {"added": line} | others)

    return put


Put = Callable[[Callable[[Examination], Answer]], None]


def test_a_slow_line_is_ended_and_the_others_go_on(ward: Ward, with_line: Put) -> None:
    with_line(lambda examination: good(str(examination.value("SELECT pg_sleep(600)"))))
    ward.limit(line_seconds=1)

    first, *others = doctor.examine(ward.address, ward.setup, limits=ward.limits).findings

    assert first.verdict == UNKNOWN
    assert "took longer than 1 s" in first.text
    # No folder of backups is set.
    assert {finding.name: finding.verdict for finding in others if finding.verdict != GOOD} == {"backups": UNKNOWN}


def test_a_locked_table_is_not_waited_for(ward: Ward) -> None:
    ward.run("INSERT INTO versions (app_version) VALUES ('1')")
    ward.open().execute("BEGIN; LOCK TABLE versions")

    found = {finding.name: finding for finding in ward.examine().findings}

    unchecked = {name for name, finding in found.items() if finding.verdict != GOOD}
    assert unchecked == {"ids", "drift", "duplicate indexes", "backups"}
    assert "waited for a lock" in found["ids"].text


def test_a_suspended_server_is_named(ward: Ward) -> None:
    assert ward.setup.server
    postmaster = psutil.Process(postmaster_pid(ward.setup.server))
    ward.limit(line_seconds=2)
    postmaster.send_signal(signal.SIGSTOP)
    try:
        finding = ward.finding("reachable")
    finally:
        postmaster.send_signal(signal.SIGCONT)

    assert finding.verdict == BAD
    assert f"process {postmaster.pid} is suspended" in finding.text


def test_a_server_that_falls_silent_does_not_hold_the_doctor(ward: Ward, with_line: Put) -> None:
    suspended = SimpleNamespace(process=None)

    def hang(examination: Examination) -> Answer:
        suspended.process = psutil.Process(examination.value("SELECT pg_backend_pid()"))
        suspended.process.send_signal(signal.SIGSTOP)
        return good(str(examination.value("SELECT 1")))

    with_line(hang)
    ward.limit(whole_seconds=2)
    try:
        findings = doctor.examine(ward.address, ward.setup, limits=ward.limits).findings
    finally:
        suspended.process.send_signal(signal.SIGCONT)

    assert {finding.verdict for finding in findings} == {UNKNOWN}
    assert {finding.text for finding in findings} == {"not checked: the time of 2 s had run out"}


# --- What is shown of a statement ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "ALTER ROLE ana PASSWORD 'SECRET'",
        "SELECT $$SECRET$$",
        "SELECT 1 /* SECRET */",
        "SELECT $1 -- SECRET",
        "SELECT E'it''s SECRET'",
        "SELECT $tag$SECRET$tag$",
        "FETCH 42 FROM c",
    ],
)
def test_a_statement_that_may_contain_a_value_is_not_shown(text: str) -> None:
    assert shown_statement(text) is None


def test_a_normalised_statement_is_shown_on_one_line() -> None:
    text = 'SELECT count(*)\n  FROM users AS u1 WHERE "user 2" = $1 AND b <> $12::text'
    assert shown_statement(text) == f"`{text.replace(chr(10) + '  ', ' ')}`"
