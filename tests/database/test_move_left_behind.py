"""What a plan says about the parts of a project that no move brings."""

from __future__ import annotations

from collections.abc import Callable, Generator

import psycopg
import pytest
from sqlalchemy import URL, Engine
from tests.conftest import on_both_versions
from tests.database.moves import ask, change

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.move import left_behind
from tatame_db.move.connection import MoveConnection
from tatame_db.move.left_behind import KINDS, Bucket, Links, NotReadable
from tatame_db.move.open import open_source
from tatame_db.move.rehearsal.project import HERE
from tatame_db.schema import phases

Read = Callable[..., move.LeftBehind]
HOST = "abcdefghijklmnopqrst.supabase.co"
EVERYTHING = (HERE / "left_behind.sql").read_text()


@pytest.fixture
def read(supabase: URL, engine: Engine) -> Read:
    def read(*addresses: str, source: URL = supabase) -> move.LeftBehind:
        with move.open_for_reading(source, engine) as connections:
            found = move.plan(connections, addresses=addresses).left_behind
        assert found is not None
        return found

    return read


def names(found: move.LeftBehind, kind: str) -> list[str]:
    return next((objects.names for objects in found.objects if objects.kind == kind), [])


@on_both_versions
def test_the_plan_lists_what_hangs_on_the_project(read: Read, supabase: URL) -> None:
    change(supabase, EVERYTHING)
    found = read()
    tables = "assets", "checkins", "class", "graduations", "gyms", "notifications", "users", "versions"
    assert {objects.kind: objects.names for objects in found.objects} == {
        "tables without a model": ["private.devices"],
        "views": ["accounts"],
        "materialized views": ["checkins_by_day"],
        "functions": ["add_user()", "is_manager(bigint)", "log_schema_change()"],
        "procedures": ["close_month(date)"],
        "aggregates": ["longest(text)"],
        "triggers": ["add_user of auth.users", "touch of gyms"],
        "rules": ["no_delete of private.devices"],
        "event triggers": ["log_schema_change"],
        "policies": [*(f"everybody of {table}" for table in tables), "managers of storage.objects"],
        "foreign keys": ["devices_account_fkey of private.devices to auth.users"],
        "sequences": ["private.invoice_numbers"],
        "types": ["private.color"],
        "publications": ["warehouse"],
        "realtime tables": ["notifications"],
        "foreign servers": ["partner"],
        "cron jobs": ["nightly", "job 2"],
        "users of Supabase Auth": [],
        "secrets of the vault": [],
    }
    assert all(objects.number == len(objects.names) for objects in found.objects if objects.names)
    assert [objects.number for objects in found.objects if not objects.names] == [12, 1]
    assert found.buckets == [
        Bucket("documents", 2, 1_048_576, 1),
        Bucket("logos", 3, 21_504, 1),
        Bucket("empty", 0, 0, 0),
    ]
    assert found.links == [
        Links("gyms.logo", 1),
        Links("users.profile_picture", 3),
        Links("private.devices.token", 1),
    ]
    assert (found.not_readable, found.over_rest) == ([], False)


@on_both_versions
def test_a_project_with_tables_only_leaves_its_policies_behind(read: Read) -> None:
    found = read()
    assert [objects.kind for objects in found.objects] == ["policies"]
    assert (found.buckets, found.links, found.not_readable) == ([], [], [])


def test_the_kinds_are_those_of_the_catalogue() -> None:
    kinds = set(KINDS)
    assert len(kinds) == len(KINDS)
    asked = left_behind._OBJECTS
    assert {kind for kind in KINDS if f"'{kind}'" not in asked} == {
        "cron jobs",
        "users of Supabase Auth",
        "secrets of the vault",
    }


@on_both_versions
def test_foreign_keys_to_tables_that_do_not_move_are_listed(read: Read, supabase: URL) -> None:
    change(
        supabase,
        "CREATE SCHEMA auth; CREATE TABLE auth.users (id bigint PRIMARY KEY); CREATE TABLE plans (id text PRIMARY KEY);"
        " ALTER TABLE users ADD CONSTRAINT account FOREIGN KEY (id) REFERENCES auth.users NOT VALID,"
        " ADD CONSTRAINT plan FOREIGN KEY (plan) REFERENCES plans NOT VALID;"
        " CREATE TABLE plan_prices (plan text REFERENCES plans)",
    )
    assert names(read(), "foreign keys") == ["account of users to auth.users", "plan of users to plans"]


@on_both_versions
def test_types_and_sequences_of_columns_that_move_are_not_listed(read: Read, supabase: URL) -> None:
    change(
        supabase,
        "CREATE DOMAIN short AS varchar(40); CREATE DOMAIN unused AS text; CREATE TYPE point3 AS (x int, y int, z int);"
        " CREATE SEQUENCE degrees; CREATE SEQUENCE lonely; CREATE TABLE scores (id serial PRIMARY KEY);"
        " ALTER TABLE users ALTER plan TYPE short; ALTER TABLE notifications ALTER viewed_by TYPE short[];"
        " ALTER TABLE graduations ALTER degree SET DEFAULT nextval('degrees')",
    )
    found = read()
    assert (names(found, "types"), names(found, "sequences")) == (["point3", "unused"], ["lonely"])


@on_both_versions
def test_an_extension_and_what_belongs_to_it(read: Read, supabase: URL) -> None:
    [(extension, kind)] = ask(
        supabase,
        "SELECT name, CASE name WHEN 'vector' THEN 'vector(3)' ELSE name END AS kind FROM pg_available_extensions"
        " WHERE name IN ('vector', 'citext') ORDER BY kind DESC LIMIT 1",
    )
    before = read()
    change(supabase, f"CREATE EXTENSION {extension}")
    found = read()
    assert names(found, "extensions") == [extension]
    # Its functions and types are its own, in whatever schema it is.
    assert [objects for objects in found.objects if objects.kind != "extensions"] == before.objects
    change(
        supabase,
        f"CREATE TABLE notes (id int PRIMARY KEY, note {kind})",
        f"CREATE FUNCTION note() RETURNS {extension} LANGUAGE sql AS 'SELECT NULL::{extension}'",
    )
    assert (names(read(), "extensions"), names(read(), "functions")) == ([extension], ["note()"])


@on_both_versions
def test_an_extension_of_every_project_counts_only_if_it_is_used(
    read: Read, supabase: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    [(extension,)] = ask(
        supabase,
        "SELECT name FROM pg_available_extensions WHERE name IN ('vector', 'citext') ORDER BY name DESC LIMIT 1",
    )
    monkeypatch.setattr(left_behind, "_PREINSTALLED", [extension])
    change(supabase, f"CREATE SCHEMA extensions; CREATE EXTENSION {extension} SCHEMA extensions")
    assert names(read(), "extensions") == []
    change(supabase, f"CREATE TABLE notes (id int PRIMARY KEY, note extensions.{extension})")
    assert names(read(), "extensions") == [extension]


@on_both_versions
def test_a_subscription_is_listed(read: Read, supabase: URL) -> None:
    change(
        supabase,
        "CREATE SUBSCRIPTION partner CONNECTION 'host=partner.example' PUBLICATION all_tables"
        " WITH (connect = false, slot_name = NONE)",
    )
    try:
        assert names(read(), "subscriptions") == ["partner"]
    finally:
        # Its database could not be dropped.
        change(supabase, "DROP SUBSCRIPTION partner")


# --- What may not be read --------------------------------------------------------------------------------------------


@pytest.fixture
def restricted(supabase: URL) -> Generator[URL]:
    """A role that may read the tables of the team, all their rows, and nothing of Supabase's."""
    role = f"reader_{supabase.database}"
    change(
        supabase,
        EVERYTHING,
        f"CREATE ROLE {role} LOGIN BYPASSRLS",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
        f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {role}",
    )
    yield supabase.set(username=role)
    change(supabase, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@on_both_versions
def test_what_the_role_may_not_read_is_named(read: Read, supabase: URL, restricted: URL) -> None:
    everything, found = read(), read(source=restricted)
    assert found.not_readable == [
        NotReadable(name, "no permission")
        for name in (
            "cron.job",
            "auth.users",
            "vault.secrets",
            "storage.buckets and storage.objects",
            "private.devices",
        )
    ]
    services = {"cron jobs", "users of Supabase Auth", "secrets of the vault"}
    assert found.objects == [objects for objects in everything.objects if objects.kind not in services]
    assert found.links == [link for link in everything.links if link.column != "private.devices.token"]
    role = restricted.username
    change(supabase, f"GRANT USAGE ON SCHEMA auth, cron TO {role}", f"GRANT SELECT ON auth.users, cron.job TO {role}")
    assert [left.name for left in read(source=restricted).not_readable] == [
        "vault.secrets",
        "storage.buckets and storage.objects",
        "private.devices",
    ]


@on_both_versions
def test_rows_that_a_policy_hides_are_not_taken_for_none(read: Read, supabase: URL, restricted: URL) -> None:
    role = restricted.username
    change(
        supabase,
        f"ALTER ROLE {role} NOBYPASSRLS",
        f"GRANT USAGE ON SCHEMA cron TO {role}; GRANT SELECT ON cron.job TO {role}",
        "ALTER TABLE cron.job ENABLE ROW LEVEL SECURITY",
        *(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY" for table in phases()),
    )
    assert NotReadable("cron.job", "no permission") in read(source=restricted).not_readable


def test_a_service_of_another_version_is_named_and_ends_no_plan(read: Read, supabase: URL) -> None:
    change(
        supabase,
        "CREATE SCHEMA storage; CREATE TABLE storage.buckets (id text); CREATE TABLE storage.objects (id bigint);"
        " CREATE SCHEMA cron; CREATE VIEW cron.job AS SELECT 1 / 0 AS jobid, 'x' AS jobname, current_database() AS"
        " database",
    )
    assert read().not_readable == [
        NotReadable("cron.job", "error 22012"),
        NotReadable("storage.buckets and storage.objects", "error 42703"),
    ]


def test_a_count_that_takes_too_long_is_named(read: Read, supabase: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    change(supabase, EVERYTHING)
    monkeypatch.setattr(left_behind, "READING_SECONDS", 0)
    found = read()
    assert {left.reason for left in found.not_readable} == {"not read within 0 seconds"}
    assert {"auth.users", "storage.buckets and storage.objects", "users", "private.devices"} <= {
        left.name for left in found.not_readable
    }
    assert names(found, "views") == ["accounts"]


def test_a_locked_table_is_named_and_not_waited_for(read: Read, supabase: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    change(supabase, EVERYTHING)
    monkeypatch.setattr(left_behind, "LOCK_TIMEOUT_MS", 10)
    with psycopg.connect(readable(supabase)) as other:
        other.execute("LOCK TABLE auth.users")
        found = read()
    assert found.not_readable == [NotReadable("auth.users", "locked by another session")]


# --- Values that point at the project --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "counted"),
    [
        (f"https://{HOST}/storage/v1/object/public/logos/1.png", True),
        (f"https://{HOST}", True),
        (f"HTTPS://{HOST.upper()}/x", True),
        (f"see https://{HOST}.", True),
        (f"https:\\/\\/{HOST}\\/x", True),
        ("https://abcdefghijklmnopqrst.functions.supabase.co/push", True),
        ("https://abcdefghijklmnopqrst.supabase.in/storage", True),
        (f"postgresql://postgres@db.{HOST}:5432/postgres", True),
        (f"https://x{HOST}/", False),
        (f"https://x-{HOST}/", False),
        (f"https://{HOST}.example/", False),
        ("https://otherproject.supabase.co/", False),
        ("https://abcdefghijklmnopqrst_supabase.co/", False),
        ("", False),
        (None, False),
    ],
)
def test_a_value_counts_if_it_contains_the_host(read: Read, supabase: URL, value: str | None, *, counted: bool) -> None:
    with psycopg.connect(readable(supabase)) as connection:
        connection.execute("UPDATE attachments SET file_url = %s", [value])
    assert read(f"https://{HOST}").links == [Links("attachments.file_url", 1)] * counted


# The bundled server has no collations that do not distinguish letters.
@pytest.mark.parametrize("supabase", ["older"], indirect=True)
def test_every_column_that_can_hold_a_text_is_searched(read: Read, supabase: URL) -> None:
    url = f"https://{HOST}/x"
    change(
        supabase,
        f"""
        CREATE DOMAIN link AS text;
        CREATE COLLATION careless (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE TABLE "we.ird t" (
            id int PRIMARY KEY, v varchar(100), c char(100), d link, a text[], j jsonb, k json, js json[],
            "count(*)" text COLLATE careless, n int, b bytea, e text
        );
        INSERT INTO "we.ird t" VALUES (1, '{url}', '{url}', '{url}', '{{x,{url}}}', '{{"a": ["{url}"]}}',
            '{{"a": "{url}"}}', ARRAY['"{url}"'::json], '{url}', 1, '', 'x');
        """,
    )
    columns = ["v", "c", "d", "a", "j", "k", "js", "count(*)"]
    assert read(f"https://{HOST}").links == [Links(f"we.ird t.{column}", 1) for column in columns]


def test_children_and_partitions_are_counted_once(read: Read, supabase: URL) -> None:
    change(
        supabase,
        f"""
        CREATE TABLE files (id int, url text) PARTITION BY RANGE (id);
        CREATE TABLE files_1 PARTITION OF files FOR VALUES FROM (0) TO (10);
        INSERT INTO files VALUES (1, 'https://{HOST}/x');
        CREATE SCHEMA archive;
        CREATE TABLE archive.pictures (url text); CREATE TABLE archive.old_pictures () INHERITS (archive.pictures);
        INSERT INTO archive.old_pictures VALUES ('https://{HOST}/y');
        """,
    )
    assert read(f"https://{HOST}").links == [Links("files.url", 1), Links("archive.old_pictures.url", 1)]


@pytest.mark.parametrize(
    ("address", "addresses", "hosts"),
    [
        (f"postgresql://postgres@db.{HOST}:5432/postgres", [], [HOST]),
        ("postgresql://postgres.abcdefghijklmnopqrst@aws-0-eu-west-1.pooler.supabase.com:6543/postgres", [], [HOST]),
        ("postgresql://postgres@aws-0-eu-west-1.pooler.supabase.com:6543/postgres", [], ["*.supabase.co"]),
        ("postgresql://postgres@/postgres?host=/tmp", [], ["*.supabase.co"]),
        ("postgresql://postgres@localhost:54322/postgres", [f"https://{HOST}", "http://[oops"], [HOST]),
        (
            "postgresql://postgres@localhost/postgres",
            ["https://Files.gym.example/"],
            ["*.supabase.co", "files.gym.example"],
        ),
        (f"postgresql://postgres@/postgres?host=db.{HOST}", [], [HOST]),
    ],
)
def test_the_hosts_of_a_project_are_found_in_its_addresses(
    address: str, addresses: list[str], hosts: list[str]
) -> None:
    from tatame_db.database.address import parse_address

    source = MoveConnection("source", parse_address(address), None)  # type: ignore[arg-type]  # never connected
    assert left_behind.project_hosts(source, addresses) == hosts


def test_no_value_is_in_the_plan(read: Read, supabase: URL, caplog: pytest.LogCaptureFixture) -> None:
    change(supabase, EVERYTHING)
    found = str(read())
    for value in ("a secret", "mail.example", "rules.pdf", "logos/1.png", "functions/v1/push"):
        assert value not in found + caplog.text


def test_the_reading_leaves_the_settings_of_the_session(supabase: URL) -> None:
    with open_source(supabase) as source:
        settings = "SELECT name, setting FROM pg_settings WHERE name <> 'transaction_timeout' ORDER BY name"
        before = source.rows(settings)
        left_behind.read_left_behind(source)
        assert source.rows(settings) == before
