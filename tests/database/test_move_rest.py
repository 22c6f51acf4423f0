"""A move from a project that is reached over REST: a real PostgREST, and a gateway that spoils its responses."""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import socket
import threading
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import URL, Engine
from tests.conftest import on_both_versions

from tatame_db import evolve, move
from tatame_db.database.address import readable
from tatame_db.database.pool import Database
from tatame_db.move.open import open_both_for_writing
from tatame_db.move.rest import role_of
from tatame_db.move.rest_errors import (
    CertificatesUnusable,
    EmptyOrForbidden,
    KeyInvalid,
    KeyIsRestricted,
    KeyRejected,
    NoRoomForRows,
    PageKeyMissing,
    ProxyInvalid,
    RestAddressInvalid,
    RestNotReached,
    RowsChanged,
    RowTooLong,
    TableForbidden,
    UnexpectedResponse,
)
from tatame_db.move.switch import fence
from tatame_db.move.switch.homes import TablesMoved
from tatame_db.move.switch.token import make_token, token_hash
from tatame_db.schema import phases
from tatame_db.server.run_directory import in_memory, new_run_directory

Start = Callable[..., str]
Key = Callable[..., str]
mirror_module = importlib.import_module("tatame_db.move.mirror")
http_module = importlib.import_module("tatame_db.move.http")
rest_module = importlib.import_module("tatame_db.move.rest")


def change(address: URL, statements: str) -> None:
    with psycopg.connect(readable(address), autocommit=True) as connection:
        connection.execute(statements.encode())


def ask(address: URL, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(readable(address), autocommit=True, options="-c timezone=UTC -c datestyle=ISO") as connection:
        return connection.execute(query.encode()).fetchall()


def contents(address: URL) -> dict[str, list[tuple[Any, ...]]]:
    return {table: sorted(ask(address, f'SELECT t::text FROM public."{table}" AS t')) for table in phases()}


@contextlib.contextmanager
def mirror(address: str, key: str, **options: Any) -> Generator[move.Mirror]:
    with contextlib.closing(move.RestClient(address, key, **options)) as rest:
        yield move.Mirror(rest)


def copy(
    address: str, key: str, engine: Engine, *, choices: move.Choices | None = None, jobs: int = 1, **options: Any
) -> move.Report:
    keep = choices is not None and choices.unknown == "keep"
    with mirror(address, key, **options) as source:
        whole = replace(source, keep_unknown=keep)
        with move.open_for_writing(whole, engine, lambda: None) as connections:
            return move.copy(connections, choices=choices, jobs=jobs)


def plan(address: str, key: str, engine: Engine, **options: Any) -> move.Plan:
    with mirror(address, key, **options) as source, move.open_for_reading(source, engine) as connections:
        return move.plan(connections)


def status(engine: Engine) -> dict[str, move.TableStatus]:
    with move.open_target(engine) as target:
        return {table.table: table for table in move.status(target).tables}


@pytest.fixture
def service(supabase_key: Key) -> str:
    return supabase_key("service_role")


@pytest.fixture
def own_scratch() -> None:
    """Start and delete the temporary server as for a user."""


@pytest.fixture(autouse=True)
def _quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Share one temporary server, except in tests that are about it, and make no pauses."""
    monkeypatch.setattr(rest_module, "RETRY_PAUSES_SECONDS", (0.0, 0.0, 0.0, 0.0))
    if "own_scratch" not in request.fixturenames:
        request.getfixturevalue("shared_mirror")


# --- What is copied --------------------------------------------------------------------------------------------------


def test_a_table_that_has_moved_is_not_overwritten_over_rest(
    postgrest: Start, supabase: URL, service: str, engine: Engine
) -> None:
    with open_both_for_writing(supabase, engine) as connections:
        connections.target.pin_settings(for_transaction=True)
        fence.open_(connections.target, ["roles"], token_hash(make_token(connections.target)))
        connections.target.driver.commit()
    with pytest.raises(TablesMoved, match="the home of roles is the target"):
        copy(postgrest(), service, engine)


@pytest.mark.parametrize("cap", [1000, 1])
def test_rest_copies_the_same_values_as_postgresql_with_any_cap(
    postgrest: Start, service: str, engine: Engine, expected_target: URL, cap: int
) -> None:
    report = copy(postgrest(cap), service, engine)
    assert contents(engine.url) == contents(expected_target)
    assert report.rest is not None
    # The last page of each table is empty; with a cap of 1, each row has a page of its own before it.
    assert (report.rest.cap, report.rest.pages) == ((None, 22) if cap > 1 else (1, 23 + 11))
    assert (report.rest.role, report.rest.anon_sees_all) == ("service_role", False)
    assert all(table.proven_at for table in status(engine).values())


def test_a_cap_below_the_requested_page_is_detected_and_loses_no_row(
    postgrest: Start, service: str, supabase: URL, engine: Engine
) -> None:
    change(supabase, "INSERT INTO checkins (id) SELECT n * 3 FROM generate_series(100, 2600) AS n")
    address = postgrest(7)
    with mirror(address, service) as source:
        found = {count.table: count.source for count in source.counts(engine)}
        with move.open_for_reading(source, engine) as connections:
            assert connections.source.row("SELECT count(*) FROM public.checkins") == (2503,)
            assert connections.source.rest is not None
            assert connections.source.rest.cap == 7
    assert found["checkins"] == 2503


@pytest.mark.usefixtures("own_scratch")
def test_a_value_read_over_rest_equals_the_value_of_the_source(
    postgrest: Start, service: str, supabase: URL, engine: Engine
) -> None:
    change(
        supabase,
        """
        CREATE TYPE mood AS ENUM ('good, "mostly"', 'bad');
        CREATE DOMAIN short AS varchar(10);
        ALTER TABLE versions ADD big bigint, ADD n numeric, ADD f float8, ADD moment timestamptz, ADD day date,
            ADD local timestamp, ADD hour time, ADD j jsonb, ADD mood mood, ADD "we.ird, ""\\(name)" text, ADD s short,
            ADD bigs bigint[], ADD moods mood[], ADD u uuid, ADD b bytea, ADD yes bool;
        INSERT INTO versions
            (id, big, n, f, moment, local, day, hour, j, mood, "we.ird, ""\\(name)", s, bigs, moods, u, b, yes)
        VALUES (9007199254740993, 9223372036854775807, 1.50, 0.1, 'infinity', '-infinity', 'infinity', '24:00', 'null',
            'good, "mostly"', 'null', 'é', '{9007199254740993,NULL}', '{bad,NULL,"good, \\"mostly\\""}',
            'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '\\x00ff', true),
            (-9223372036854775808, -9223372036854775808, 'NaN', 'infinity', '0044-03-15 12:00:00.000001+00 BC',
            '294276-12-31 23:59:59.999999', '5874897-12-31', '18:30:45.123456', '{"a": [1e400, "\\u00e9"]}', NULL, '🥋',
            '', '[5:6]={1,2}', '{}', NULL, NULL, false),
            (3, 0, 123456789012345678901234567890.12345, 1e308, '294276-12-31 23:59:59+00', '0001-01-01 BC',
            '4713-01-01 BC', NULL, '"null"', 'bad', '', E'\\t\\n\\\\', '{{1},{2}}', NULL, NULL, '', NULL);
        """,
    )
    for setting in ("datestyle = 'SQL, DMY'", "timezone = 'Asia/Kolkata'"):
        change(supabase, f"ALTER DATABASE {supabase.database} SET {setting}")
    with mirror(postgrest(2), service) as source, move.open_for_reading(source, engine) as connections:
        side = connections.source
        for table in phases():
            query = f'SELECT to_jsonb(t)::text, t.created_at::text FROM public."{table}" AS t ORDER BY id'
            theirs = ask(supabase, query)
            assert side.rows(query) == theirs, table
            assert theirs
        bounds = "SELECT bigs::text, j::text, n::text, moods::text FROM public.versions ORDER BY id"
        assert side.rows(bounds) == ask(supabase, bounds)


# A value at the limits of each built-in type that a column can have, and of types with a limit.
LIMITS: dict[str, str | None] = {
    "smallint": "-32768",
    "integer": "2147483647",
    "bigint": "9223372036854775807",
    "numeric": "123456789012345678901234567890.1234567890",
    "numeric(10,2)": "99999999.90",
    "real": "3.4028235e+38",
    "double precision": "1.7976931348623157e+308",
    "money": "-92233720368547758.08",
    "text": " \t\n null 🥋 ",
    "character varying(4)": "ab  ",
    "character(3)": "ab",
    "bpchar": "ab  ",
    '"char"': "x",
    "name": "x" * 63,
    "bytea": "\\x00ff5c",
    "bit(5)": "10110",
    "bit varying(7)": "1011",
    "boolean": "false",
    "uuid": "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "date": "5874897-12-31",
    "time": "24:00:00",
    "time(0)": "18:30:45",
    "time with time zone": "23:59:59.999999-15:59",
    "timestamp": "294276-12-31 23:59:59.999999",
    "timestamp(0)": "2024-02-29 10:00:01",
    "timestamp with time zone": "4713-01-01 00:00:00+00 BC",
    "interval": "-178000000 years -1 day -04:05:06.789",
    "interval day": "3 days",
    "json": '{"a" :  [1e400, null, 1, 1.0], "a": "\\u00e9"}',
    "jsonb": "null",
    "jsonpath": '$."a"[*]?(@ > 1)',
    "xml": "<a>&lt;</a>",
    "point": "(1e+300,-0)",
    "line": "{1,-1,0.1}",
    "lseg": "[(0,0),(1,1e-300)]",
    "box": "(1,2),(-1,-2)",
    "path": "((0,0),(1,1),(2,0))",
    "polygon": "((0,0),(1,1),(2,0))",
    "circle": "<(1,2),0.3>",
    "inet": "::ffff:1.2.3.4/128",
    "cidr": "2001:db8::/32",
    "macaddr": "08:00:2b:01:02:03",
    "macaddr8": "08:00:2b:01:02:03:04:05",
    "tsvector": "'a':1A,2B 'b ':3",
    "tsquery": "'a' & !'b':*A",
    "oid": "4294967295",
    "xid": "4294967295",
    "xid8": "18446744073709551615",
    "cid": "4294967295",
    "tid": "(4294967295,65535)",
    "pg_lsn": "FFFFFFFF/FFFFFFFF",
    "txid_snapshot": "10:20:10,14,15",
    "pg_snapshot": "10:20:10,14,15",
    "refcursor": "a cursor",
    "aclitem": "postgres=r/postgres",
    "gtsvector": None,
    "int2vector": "1 2 3",
    "oidvector": "1 2 3",
    "regclass": "users",
    "regcollation": '"C"',
    "regconfig": "english",
    "regdictionary": "english_stem",
    "regnamespace": "public",
    "regoper": "||/",
    "regoperator": "+(integer,integer)",
    "regproc": "now",
    "regprocedure": "abs(integer)",
    "regrole": "postgres",
    "regtype": "users",
    "int4range": "[1,2147483647)",
    "int8range": "(,)",
    "numrange": "[0.10,)",
    "tsrange": '["2024-02-29 00:00:00",infinity]',
    "tstzrange": '["2024-02-29 00:00:00+00",)',
    "daterange": "empty",
    "int4multirange": "{[1,2),[5,)}",
    "int8multirange": "{}",
    "nummultirange": "{(,)}",
    "tsmultirange": "{}",
    "tstzmultirange": "{}",
    "datemultirange": "{[2024-02-29,2024-03-01)}",
    "integer[]": "[0:1]={1,NULL}",
    "character(3)[]": '{ab,"a c"}',
    "bit(5)[]": "{10110,NULL}",
    "timestamp with time zone[]": '{"2024-02-29 00:00:00+00",-infinity}',
    "numeric(10,2)[]": "{{1.10},{2.20}}",
    "money[]": "{1.00}",
    "regclass[]": "{users}",
    "jsonb[]": '{"{\\"a\\": null}","null"}',
}
# Values of these cannot be written into a table, and no app has a column of them.
NEVER_READ = {"pg_node_tree", "pg_ndistinct", "pg_dependencies", "pg_mcv_list"} | {
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
}


@on_both_versions
def test_a_value_of_any_type_is_the_same_over_rest(
    postgrest: Start, service: str, supabase: URL, engine: Engine
) -> None:
    types = [
        name
        for [name] in ask(
            supabase,
            "SELECT format_type(oid, NULL) FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace"
            " AND typtype IN ('b', 'r', 'm') AND typcategory <> 'A' OR oid = ANY('{int2vector,oidvector}'::regtype[])",
        )
    ]
    canonical = {name: ask(supabase, f"SELECT format_type('{name}'::regtype, NULL)")[0][0] for name in LIMITS}
    assert set(types) - NEVER_READ == {name for name in canonical.values() if not name.endswith("[]")}
    names = {f"c{at}": (name, value) for at, (name, value) in enumerate(LIMITS.items())}
    columns = ", ".join(f"{column} {name}" for column, (name, _) in names.items())
    change(supabase, f"CREATE TABLE everything (id integer PRIMARY KEY, {columns})")
    with psycopg.connect(readable(supabase), autocommit=True) as connection:
        connection.execute("SET lc_monetary = 'C'")
        places = ", ".join(f"%s::text::{name}" for name, _ in names.values())
        values = [value for _, value in names.values()]
        try:
            connection.execute("SELECT '<a/>'::xml")
        except psycopg.errors.FeatureNotSupported:
            # The bundled server was built without XML.
            values[list(LIMITS).index("xml")] = None
        connection.execute(f"INSERT INTO everything VALUES (1, {places})".encode(), values)
        connection.execute(f"INSERT INTO everything VALUES (2{', NULL' * len(names)})".encode())
    texts = ", ".join(f"{column}::text" for column in names)
    with mirror(postgrest(), service) as source:
        whole = replace(source, keep_unknown=True)
        with move.open_for_reading(whole, engine) as connections:
            for expressions in (texts, "to_jsonb(t.*)::text"):
                query = f"SELECT {expressions} FROM public.everything AS t ORDER BY id"
                found, expected = connections.source.rows(query), ask(supabase, query)
                assert [dict(zip(names, row, strict=False)) for row in found] == [
                    dict(zip(names, row, strict=False)) for row in expected
                ]


@pytest.mark.parametrize("setting", ["datestyle = 'SQL, DMY'", "intervalstyle = 'sql_standard'"])
def test_a_value_that_a_setting_of_the_source_writes_in_another_form_is_an_error(
    postgrest: Start, service: str, supabase: URL, engine: Engine, setting: str
) -> None:
    change(supabase, "ALTER TABLE versions ADD days date[], ADD length interval")
    change(supabase, "UPDATE versions SET days = '{2024-02-01}', length = '-1 day -02:03:04' WHERE id = 1")
    change(supabase, f"ALTER DATABASE {supabase.database} SET {setting}")
    with pytest.raises(UnexpectedResponse, match="days" if "date" in setting else "length"):
        plan(postgrest(), service, engine)


def test_pages_are_ordered_by_text_keys_with_reserved_characters(
    postgrest: Start, service: str, supabase: URL, engine: Engine
) -> None:
    keys = [
        "",
        " ",
        "a,b(c).d",
        '"',
        "'",
        "\\",
        "&a=b",
        "+",
        "%2C",
        "#x",
        "null",
        "a/b?c",
        "é\n\t",
        "🥋",
        "*",
        ":",
        "gt.1",
    ]
    with psycopg.connect(readable(supabase)) as connection:
        connection.cursor().executemany("INSERT INTO roles VALUES (%s)", [[key] for key in keys])
    copy(postgrest(1), service, engine)
    found = {row[0] for row in ask(engine.url, "SELECT id FROM roles")}
    assert found == {*keys, "STUDENT", "INSTRUCTOR", "MANAGER"}


def test_rows_too_long_for_a_page_are_read_in_shorter_pages(
    postgrest: Start, service: str, engine: Engine, expected_target: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest_module, "MAX_PAGE_BYTES", 700)
    with mirror(postgrest(), service) as source:
        source.rest._get = _with_longer_descriptions(source.rest._get)  # type: ignore[method-assign]  # see there
        with move.open_for_writing(source, engine, lambda: None) as connections:
            report = move.copy(connections)
    assert contents(engine.url) == contents(expected_target)
    assert report.rest is not None
    assert report.rest.pages > 22


def _with_longer_descriptions(get: Any) -> Any:
    """Leave the description of the tables out of the limit on pages."""
    return lambda path, parameters, headers, max_bytes=700: get(
        path, parameters, headers, 1 << 24 if path == "/" else max_bytes
    )


def test_a_later_copy_writes_only_the_rows_that_changed(
    postgrest: Start, service: str, supabase: URL, engine: Engine
) -> None:
    address = postgrest()
    copy(address, service, engine)
    change(supabase, "UPDATE users SET email = 'new@gym.example' WHERE id = 1; DELETE FROM checkins WHERE id = 1")
    report = {table.table: table for table in copy(f"{address}/", service, engine).tables}
    assert (report["users"].written, report["checkins"].rows, report["roles"].written) == (1, 1, 0)
    with mirror(address, service) as source, move.open_for_reading(source, engine) as connections:
        proof = move.verify(connections)
    assert (proof.unequal, proof.rest is not None) == ([], True)


# --- Obstacles -------------------------------------------------------------------------------------------------------


@on_both_versions
def test_a_plan_over_rest_has_the_same_obstacles_as_over_postgresql(
    postgrest: Start, service: str, supabase: URL, engine: Engine
) -> None:
    change(
        supabase,
        "INSERT INTO checkins (id, created_at) VALUES (9007199254740993, now()), (5, 'infinity'), (6, '0044-1-1 BC');"
        " UPDATE class SET start = '18:30:45' WHERE id = 1; ALTER TABLE users ADD belt text; UPDATE users SET belt = ''"
        " WHERE id = 1; CREATE TABLE invoices (id int PRIMARY KEY); INSERT INTO invoices VALUES (1), (2);"
        ' CREATE TABLE "em pty/?" (id int); DROP TABLE attachments',
    )
    with move.open_for_reading(supabase, engine) as connections:
        over_postgresql = move.plan(connections)
    planned = plan(postgrest(), service, engine)
    assert planned.obstacles == over_postgresql.obstacles
    kinds = sorted((obstacle.kind, obstacle.rows) for obstacle in planned.obstacles)
    assert kinds == [("misfit", 1), ("misfit", 1), ("misfit", 2), ("unknown-column", 1), ("unknown-table", 2)]


def test_ids_of_rejected_rows_stay_taken_and_an_emptied_table_is_refused(
    supabase: URL, postgrest: Start, service: str, engine: Engine
) -> None:
    change(
        supabase,
        "ALTER TABLE users DROP CONSTRAINT users_role_fkey;"
        "INSERT INTO users (id, clerk_user_id, role) VALUES (20, 'user_twenty', 'NOBODY')",
    )
    address, choices = postgrest(), move.Choices(orphans="reject")
    copy(address, service, engine, choices=choices)
    assert ask(engine.url, "SELECT max(id), nextval('users_id_seq') FROM users") == [(2, 21)]
    change(supabase, "TRUNCATE checkins")
    with pytest.raises(move.TablesEmptied, match="checkins with 2 rows"):
        copy(address, service, engine, choices=choices)
    assert ask(engine.url, "SELECT count(*) FROM checkins") == [(2,)]


@pytest.fixture
def invoices(supabase: URL) -> None:
    """Add a table and a column that the models lack."""
    change(supabase, UNKNOWN)


UNKNOWN = """
    CREATE TABLE invoices (id int PRIMARY KEY, b text); INSERT INTO invoices VALUES (1, 'x'), (2, NULL);
    ALTER TABLE users ADD belt text; UPDATE users SET belt = 'white' WHERE id = 1;
"""


@pytest.mark.usefixtures("invoices")
def test_unknown_tables_are_kept_completely_on_request(
    postgrest: Start, service: str, supabase: URL, engine: Engine
) -> None:
    address, choices = postgrest(1), move.Choices(unknown="keep")
    copy(address, service, engine, choices=choices)
    kept = "SELECT row FROM tatame_move.rejects WHERE table_name = 'invoices' ORDER BY id"
    assert ask(engine.url, kept) == [({"b": "x", "id": 1},), ({"b": None, "id": 2},)]
    with mirror(address, service) as source, move.open_for_reading(source, engine) as connections:
        assert move.verify(connections).changed == []
    change(supabase, "UPDATE invoices SET b = 'y' WHERE id = 1")
    with mirror(address, service) as source, move.open_for_reading(source, engine) as connections:
        assert [what.table for what in move.verify(connections).changed] == ["invoices"]


@pytest.mark.usefixtures("invoices")
def test_a_table_that_was_only_counted_is_not_kept(postgrest: Start, service: str, engine: Engine) -> None:
    with mirror(postgrest(), service) as source, move.open_for_reading(source, engine) as connections:
        assert [left.kind for left in move.plan(connections, move.Choices(unknown="keep")).unresolved] == [
            "unknown-table"
        ]
        assert move.plan(connections, move.Choices(unknown="leave")).complete


@pytest.mark.usefixtures("invoices")
def test_the_second_reading_finds_a_change_in_a_kept_table(
    gateway: Gateway, service: str, supabase: URL, engine: Engine
) -> None:
    described = [0]

    def late(path: str, _: Answer) -> None:
        described[0] += path == "/"
        # The first request checks whether the source is the target; each reading sends one more.
        if described[0] == 3:
            change(supabase, "UPDATE invoices SET b = 'late' WHERE id = 1")

    gateway.spoil = late
    with pytest.raises(move.NotProven) as caught:
        copy(gateway.address, service, engine, choices=move.Choices(unknown="keep"))
    assert caught.value.tables == ["invoices"]


def test_a_missing_table_is_an_obstacle(postgrest: Start, service: str, supabase: URL, engine: Engine) -> None:
    change(supabase, "DROP TABLE notifications")
    assert [obstacle.kind for obstacle in plan(postgrest(), service, engine).obstacles] == ["missing-table"]


def test_a_table_without_a_primary_key_is_refused(
    postgrest: Start, service: str, supabase: URL, engine: Engine
) -> None:
    change(supabase, "ALTER TABLE versions DROP CONSTRAINT versions_pkey")
    with pytest.raises(PageKeyMissing, match="versions has no primary key"):
        plan(postgrest(), service, engine)


def test_the_target_itself_is_rejected_as_source(postgrest: Start, service: str, engine: Engine) -> None:
    change(engine.url, "INSERT INTO roles VALUES ('STUDENT')")
    address = postgrest(database=engine.url)
    with pytest.raises(move.SameDatabase, match=address):
        plan(address, service, engine)
    with mirror(address, service) as source, pytest.raises(move.SameDatabase):
        source.counts(engine)


def test_the_project_itself_is_rejected_as_target_before_it_is_migrated(
    postgrest: Start, service: str, supabase: URL, bare_engine: Engine
) -> None:
    address = postgrest()
    with mirror(address, service) as source, Database(supabase) as database:
        with pytest.raises(move.SameDatabase), move.open_for_reading(source, database.engine):
            pass
        with pytest.raises(move.SameDatabase), move.open_for_writing(source, database.engine, lambda: None):
            pass
        with pytest.raises(move.SameDatabase):
            source.counts(database.engine)
    for tables in ("", "CREATE TABLE gyms (); CREATE TABLE attachments (); CREATE TABLE checkins (name text)"):
        change(bare_engine.url, tables)
        with pytest.raises(evolve.SchemaBehind):
            plan(address, service, bare_engine)


def test_a_full_disk_is_reported(
    postgrest: Start, service: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "SPARE_BYTES", 1 << 60)
    with pytest.raises(NoRoomForRows):
        plan(postgrest(), service, engine)


def test_the_temporary_server_stores_rows_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    assert not in_memory(new_run_directory(on_disk=True))


@pytest.mark.usefixtures("invoices")
def test_views_are_named_and_not_read(postgrest: Start, service: str, supabase: URL, engine: Engine) -> None:
    change(
        supabase,
        """
        CREATE MATERIALIZED VIEW days AS SELECT date, count(*) FROM checkins GROUP BY date;
        CREATE VIEW first_names AS SELECT id, first_name FROM users;
        CREATE VIEW pairs AS SELECT u.id, g.name FROM users u JOIN gyms g ON g.id = u.gym_id;
        CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
        INSERT INTO parts VALUES (1);
        """,
    )
    choices = move.Choices(unknown="keep")
    address = postgrest()
    copy(address, service, engine, choices=choices)
    kept = "SELECT DISTINCT table_name FROM tatame_move.rejects WHERE column_name IS NULL ORDER BY 1"
    assert ask(engine.url, kept) == [("invoices",), ("parts",)]
    over_rest = plan(address, service, engine)
    with move.open_for_reading(supabase, engine) as connections:
        over_postgresql = move.plan(connections)
    assert over_rest.obstacles == over_postgresql.obstacles
    assert over_rest.left_behind is not None
    assert [(found.kind, found.names) for found in over_rest.left_behind.objects] == [
        ("views", ["days", "first_names", "pairs"])
    ]


def test_a_view_in_place_of_a_table_is_named(postgrest: Start, service: str, supabase: URL, engine: Engine) -> None:
    change(
        supabase,
        "CREATE SCHEMA private; ALTER TABLE notifications SET SCHEMA private;"
        " CREATE VIEW notifications AS SELECT * FROM private.notifications WHERE id > 1",
    )
    address = postgrest()
    over_rest = plan(address, service, engine)
    with move.open_for_reading(supabase, engine) as connections:
        over_postgresql = move.plan(connections)
    assert over_rest.views == over_postgresql.views == ["notifications"]
    report = copy(address, service, engine)
    assert (report.views, report.rest and report.rest.views) == (["notifications"], [])


@pytest.mark.usefixtures("invoices")
def test_a_table_whose_pages_have_no_order_is_not_kept_and_stops_no_other(
    postgrest: Start, service: str, supabase: URL, engine: Engine
) -> None:
    change(supabase, "CREATE TABLE visits (a int, b int, PRIMARY KEY (a, b)); INSERT INTO visits VALUES (1, 2)")
    address, choices = postgrest(), move.Choices(unknown="keep")
    with pytest.raises(move.ObstaclesUnresolved, match="unknown-table"):
        copy(address, service, engine, choices=choices)
    with mirror(address, service) as source, move.open_for_reading(source, engine) as connections:
        [visits] = [left for left in move.plan(connections, choices).unresolved if "visits" in left.reason]
    assert visits.choices[0] == "give it a primary key of one column, by which REST can read it page by page"
    change(supabase, "DELETE FROM visits")
    copy(address, service, engine, choices=choices)
    assert ask(engine.url, "SELECT count(*) FROM tatame_move.rejects WHERE table_name = 'invoices'") == [(2,)]


# Debian's server reads XML, and the bundled one does not.
@pytest.mark.parametrize("supabase", ["older"], indirect=True)
def test_a_type_whose_text_depends_on_the_server_is_stored_as_text(
    postgrest: Start, service: str, supabase: URL, engine: Engine
) -> None:
    change(
        supabase,
        """
        ALTER TABLE versions ADD x xml, ADD xs xml[], ADD m money, ADD r regclass, ADD t regtype, ADD l pg_lsn,
            ADD a aclitem[], ADD o oid;
        UPDATE versions SET x = '<a>1</a>', xs = '{<a/>,NULL}', m = 1234.5, r = 'users', t = 'int', l = '1/2A', o = 7,
            a = (SELECT relacl FROM pg_class WHERE oid = 'versions'::regclass)
        """,
    )
    address = postgrest()
    change(supabase, "UPDATE versions SET a = (SELECT relacl FROM pg_class WHERE oid = 'versions'::regclass)")
    columns = "x, xs, m, r, t, l, a, o"
    query = f"SELECT row({', '.join(f'{name}::text' for name in columns.split(', '))})::text FROM public.versions"
    with mirror(address, service) as source, move.open_for_reading(source, engine) as connections:
        assert connections.source.rows(query) == ask(supabase, query)


def test_a_row_that_is_too_long_is_refused(postgrest: Start, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_module, "MAX_ROW_BYTES", 10_000)
    with mirror(postgrest(), service) as source:
        assets = source.rest.tables()["assets"]
        assert source.rest.page(assets, None, 10) is not None
        with pytest.raises(RowTooLong, match="a row of assets takes more than 10,000 bytes"):
            source.rest.page(assets, None, 1)
        assert source.rest.page(assets, "1", 1) is not None


# --- The way to the server -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "socks5://127.0.0.1:1", "http://[oops", "nonsense"])
def test_a_proxy_of_the_environment_is_not_used(
    postgrest: Start, service: str, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    address = postgrest()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)
        monkeypatch.setenv(name.lower(), proxy)
    with mirror(address, service) as source:
        assert source.rest.count("users") == 3


def test_a_proxy_that_is_configured_is_used(postgrest: Start, service: str) -> None:
    asked: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            with httpx.Client(trust_env=False) as client:
                real = client.get(self.path, headers=dict(self.headers.items()))
            self.send_response(real.status_code)
            for name in ("content-type", "content-range"):
                self.send_header(name, real.headers[name])
            self.end_headers()
            self.wfile.write(real.content)

        def log_message(self, *_: object) -> None:
            pass

    address = postgrest()
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            with mirror(address, service, proxy=f"http://127.0.0.1:{server.server_port}") as source:
                assert source.rest.count("users") == 3
        finally:
            server.shutdown()
            serving.join()
    assert asked == [f"{address}/users?limit=0"]


@pytest.mark.parametrize("proxy", ["socks5://ana:hunter2@x:1", "x:8080", "http://", "http://ana:hunter2@x:port", "://"])
def test_a_proxy_that_cannot_be_used_is_rejected(service: str, proxy: str) -> None:
    with pytest.raises(ProxyInvalid, match="SUPABASE_PROXY") as caught:
        move.RestClient("http://localhost:1", service, proxy=proxy)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_certificate_file_that_cannot_be_read_is_named(
    service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "certificates.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    for content in (None, "", "not a certificate"):
        if content is not None:
            file.write_text(content)
        with pytest.raises(CertificatesUnusable, match="certificates") as caught:
            move.RestClient("http://localhost:1", service)
        assert "Error" not in str(caught.value)


ENDLESS = {
    "a header": (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "responses before the response": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a body": (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n[", b" "),
    "the size of a piece": (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0",
    ),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_response_that_never_ends_is_given_up(service: str, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    start, drop = ENDLESS[kind]
    monkeypatch.setattr(http_module, "HEAD_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(http_module, "RESPONSE_TIMEOUT_SECONDS", 0.2)
    given_up = threading.Event()

    def drip(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            connection.recv(65_536)
            with contextlib.suppress(OSError):
                connection.sendall(start)
                while True:
                    connection.sendall(drop)
                    time.sleep(0.01)
        given_up.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=(listener,), daemon=True).start()
        with mirror(f"http://127.0.0.1:{listener.getsockname()[1]}", service) as source:
            with pytest.raises(RestNotReached, match="the response took more than"):
                source.rest.count("users")
            assert given_up.wait(60)


# --- The key ---------------------------------------------------------------------------------------------------------


def test_a_key_that_names_two_roles_names_none(supabase_key: Key) -> None:
    head, _, signature = supabase_key("anon").split(".")
    claims = base64.urlsafe_b64encode(b'{"role": "anon", "role": "service_role"}').rstrip(b"=").decode()
    assert role_of(f"{head}.{claims}.{signature}") == "unknown"


def test_the_key_names_its_role(supabase_key: Key) -> None:
    assert role_of(supabase_key("service_role")) == "service_role"
    assert role_of(supabase_key("anon")) == "anon"
    assert role_of("sb_secret_abc") == "service_role"
    assert role_of("sb_publishable_abc") == "anon"
    assert {role_of(key) for key in ("x", "a.b.c", "e30.e30.x", "sb_other_x", "..", supabase_key("a b"))} == {"unknown"}


@pytest.mark.parametrize("key", ["unknown", "sb_publishable_x"])
def test_a_restricted_key_requires_the_option(key: str) -> None:
    with pytest.raises(KeyIsRestricted, match="--anon-sees-all"):
        move.RestClient("http://localhost:1", key)


def test_a_table_that_looks_empty_to_anon_is_an_error(postgrest: Start, supabase_key: Key, engine: Engine) -> None:
    address, anon = postgrest(), supabase_key("anon")
    with pytest.raises(EmptyOrForbidden) as caught:
        copy(address, anon, engine, anon_sees_all=True)
    assert caught.value.tables == ["roles", "app_stores", "attachments"]
    with mirror(address, anon, anon_sees_all=True) as source:
        unknown = [count.table for count in source.counts(engine) if count.source is None]
    assert unknown == ["roles", "app_stores", "attachments"]


def test_the_report_contains_the_option(
    postgrest: Start, supabase_key: Key, supabase: URL, engine: Engine, expected_target: URL
) -> None:
    for table in ("roles", "app_stores", "attachments"):
        change(supabase, f"CREATE POLICY everybody ON {table} FOR SELECT USING (true)")
    report = copy(postgrest(), supabase_key("anon"), engine, anon_sees_all=True)
    assert contents(engine.url) == contents(expected_target)
    assert report.rest is not None
    assert (report.rest.role, report.rest.anon_sees_all) == ("anon", True)
    [(anon_sees_all,)] = ask(engine.url, "SELECT report->'rest'->>'anon_sees_all' FROM tatame_move.runs")
    assert anon_sees_all == "true"


@pytest.mark.parametrize("claims", [{"exp": 1}, {"secret": "wrong"}])
def test_an_expired_or_wrong_key_is_rejected(
    postgrest: Start, service: str, supabase_key: Key, engine: Engine, claims: dict[str, Any]
) -> None:
    key = supabase_key("service_role", exp=1) if "exp" in claims else f"{service[:-4]}AAAA"
    with pytest.raises(KeyRejected, match="401"):
        plan(postgrest(), key, engine)


def test_a_table_or_column_without_permission_is_an_error_and_not_missing(
    postgrest: Start, service: str, supabase: URL, engine: Engine
) -> None:
    address = postgrest()
    change(supabase, "REVOKE ALL ON attachments FROM service_role")
    with pytest.raises(TableForbidden, match="service_role has no permission to read attachments"):
        plan(address, service, engine)
    change(supabase, "GRANT SELECT (id) ON attachments TO service_role")
    with pytest.raises(TableForbidden, match="attachments"):
        plan(address, service, engine)


def test_a_key_that_no_header_can_hold_is_rejected_without_being_shown() -> None:
    with pytest.raises(KeyInvalid) as caught:
        move.RestClient("http://localhost:1", "sb_secret_a\nb")
    assert "secret_a" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["localhost:3000", "ftp://x", "https://", "https://ana:secret@x", "https://x/?a=b", ""]
)
def test_an_invalid_address_is_rejected(address: str, service: str) -> None:
    with pytest.raises(RestAddressInvalid, match="https://host") as caught:
        move.RestClient(address, service)
    assert "secret" not in str(caught.value)


# --- Unexpected responses --------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """A response of PostgREST, to be spoiled; `lacking` bytes are announced and not sent."""

    status: int
    headers: dict[str, str]
    body: bytes
    lacking: int = 0
    delay: float = 0


Spoil = Callable[[str, Answer], None]


@dataclass
class Gateway:
    address: str
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    spoil: Spoil = lambda _path, _answer: None
    key: str | None = None


def _gateway_handler(gateway: Gateway, client: httpx.Client, upstream: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # a response in pieces waits until the client acknowledges the first

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            gateway.asked.append((self.path, headers))
            passed: dict[str, str] = {
                name: headers[name]
                for name in ("accept", "prefer", "accept-profile", "authorization")
                if name in headers
            }
            if gateway.key:
                passed["authorization"] = f"Bearer {gateway.key}"
            real = client.get(upstream + self.path, headers=passed)
            kept = {name: real.headers[name] for name in ("content-type", "content-range") if name in real.headers}
            answer = Answer(real.status_code, kept, real.content)
            gateway.spoil(self.path, answer)
            time.sleep(answer.delay)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body) + answer.lacking))
            self.end_headers()
            self.wfile.write(answer.body)
            self.close_connection = answer.lacking > 0

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def gateway(postgrest: Start) -> Generator[Gateway]:
    upstream = postgrest(2)
    found = Gateway("")
    with httpx.Client() as client, ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.daemon_threads = True
        server.RequestHandlerClass = _gateway_handler(found, client, upstream)
        found.address = f"http://127.0.0.1:{server.server_port}"
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield found
        server.shutdown()
        serving.join()


def only(path: str, what: Spoil) -> Spoil:
    """Spoil the responses to one request."""
    return lambda asked, answer: what(asked, answer) if asked == path else None


def on_page(table: str, what: Spoil) -> Spoil:
    """Spoil the second page of a table."""

    def spoil(path: str, answer: Answer) -> None:
        if path.startswith(f"/{table}?") and "=gt." in path:
            what(path, answer)

    return spoil


def _status(status: int, **headers: str) -> Spoil:
    def spoil(_: str, answer: Answer) -> None:
        answer.status, answer.body = status, b'{"code": "X", "message": "denied by the gateway"}'
        answer.headers |= {name.replace("_", "-"): value for name, value in headers.items()}

    return spoil


def _html(_: str, answer: Answer) -> None:
    answer.headers["content-type"], answer.body = "text/html; charset=utf-8", b"<html>sign in</html>"


def _html_named_json(_: str, answer: Answer) -> None:
    answer.body = b"<html>sign in</html>"


def _cut(_: str, answer: Answer) -> None:
    answer.body = answer.body[:-20]


def _connection_cut(_: str, answer: Answer) -> None:
    answer.body, answer.lacking = answer.body[:-20], 20


def _no_range(_: str, answer: Answer) -> None:
    answer.headers.pop("content-range", None)


def _long_range(_: str, answer: Answer) -> None:
    answer.headers["content-range"] = f"0-{'9' * 5_000}/*"


def _nested(_: str, answer: Answer) -> None:
    answer.body = b"[" * 100_000 + b"]" * 100_000


def _nested_error(_: str, answer: Answer) -> None:
    answer.status, answer.body = 500, b'{"message":' * 100_000


def _no_key(_: str, answer: Answer) -> None:
    answer.body = json.dumps([dict.fromkeys(row, None) for row in json.loads(answer.body)]).encode()


def _wrong_type(_: str, answer: Answer) -> None:
    answer.body = json.dumps([row | {"gym_id": "a secret value"} for row in json.loads(answer.body)]).encode()


def _wrong_range(_: str, answer: Answer) -> None:
    answer.headers["content-range"] = "0-9/*"


def _empty(_: str, answer: Answer) -> None:
    answer.body, answer.headers["content-range"] = b"[]", "*/*"


def _an_object(_: str, answer: Answer) -> None:
    answer.body = b'{"message": "all is well"}'


def _absent(_: str, answer: Answer) -> None:
    answer.status, answer.body = 404, b'{"code": "PGRST205", "message": "no such table"}'


def _no_definitions(_: str, answer: Answer) -> None:
    answer.body = b'{"info": {"version": "12"}, "definitions": {}}'


def _no_utf8(_: str, answer: Answer) -> None:
    answer.body = answer.body.replace(b"user", b"us\xff")


def _same_row(_: str, answer: Answer) -> None:
    row = json.dumps(json.loads(answer.body)[0])
    answer.body, answer.headers["content-range"] = f"[{row},{row}]".encode(), "0-1/*"


def _twice(column: str) -> Spoil:
    """Begin each row with a column that it has already, spelled in one of the ways of JSON."""

    def spoil(_: str, answer: Answer) -> None:
        rows = (f'{{"{column}": "a secret value", {json.dumps(row)[1:]}' for row in json.loads(answer.body))
        answer.body = f"[{','.join(rows)}]".encode()

    return spoil


def _changed_rows(alter: Callable[[dict[str, Any]], dict[str, Any]]) -> Spoil:
    def spoil(_: str, answer: Answer) -> None:
        answer.body = json.dumps([alter(row) for row in json.loads(answer.body)]).encode()

    return spoil


UNEXPECTED_RESPONSES: list[tuple[Spoil, type[move.RestError], str]] = [
    (_status(416), UnexpectedResponse, "status 416"),
    (_status(500), UnexpectedResponse, "status 500 X"),
    (_status(404), UnexpectedResponse, "status 404"),
    (_status(401), KeyRejected, "rejected the key"),
    (_status(429), UnexpectedResponse, "status 429 after 5 attempts"),
    (_status(429, retry_after="3600"), UnexpectedResponse, "status 429, with a request to wait 3600 seconds"),
    (_status(503), UnexpectedResponse, "status 503"),
    (_html, UnexpectedResponse, "expected JSON, got text/html"),
    (_html_named_json, UnexpectedResponse, "expected rows, got something else"),
    (_cut, UnexpectedResponse, "expected rows, got something else"),
    (_connection_cut, RestNotReached, "peer closed connection"),
    (_no_range, UnexpectedResponse, "the Content-Range header is missing or malformed"),
    (_long_range, UnexpectedResponse, "the Content-Range header is missing or malformed"),
    (_nested, UnexpectedResponse, "expected rows, got something else (ValidationError)"),
    (_nested_error, UnexpectedResponse, "unexpected response from {gateway}/users: status 500"),
    (_no_key, UnexpectedResponse, "expected rows, got something else (NotNullViolation)"),
    (_wrong_type, UnexpectedResponse, "expected rows, got something else (InvalidTextRepresentation)"),
    (
        _changed_rows(lambda row: {name: value for name, value in row.items() if value is not None}),
        UnexpectedResponse,
        "a row lacks columns that were requested, or has others",
    ),
    (
        _changed_rows(lambda row: {name: value for name, value in row.items() if name != "email"}),
        UnexpectedResponse,
        "a row lacks columns that were requested",
    ),
    (_changed_rows(lambda row: row | {"e-mail": "a secret value"}), UnexpectedResponse, "a row lacks columns"),
    (
        _changed_rows(lambda row: row | {"email": ["a secret value"]}),
        UnexpectedResponse,
        "a value of the column email is an array or an object",
    ),
    (
        _changed_rows(lambda row: row | {"email": {"a": "a secret value"}}),
        UnexpectedResponse,
        "a value of the column email is an array or an object",
    ),
    (_twice("email"), UnexpectedResponse, "a row has a column twice"),
    (_twice("em\\u0061il"), UnexpectedResponse, "a row has a column twice"),
    (_wrong_range, UnexpectedResponse, "the Content-Range header announces 10 rows, the body has 1"),
    (_empty, RowsChanged, "3 rows before, 2 read, 3 after"),
    (_an_object, UnexpectedResponse, "expected rows, got something else"),
    (_no_utf8, UnexpectedResponse, "expected rows, got something else"),
    (_same_row, UnexpectedResponse, "a row was sent twice, or the rows are out of order"),
]


def test_an_unexpected_response_is_one_message_and_changes_nothing(
    gateway: Gateway, service: str, engine: Engine, subtests: pytest.Subtests
) -> None:
    before = contents(engine.url)
    for spoil, error, words in UNEXPECTED_RESPONSES:
        with subtests.test(words):
            gateway.spoil = on_page("users", spoil)
            with pytest.raises(error) as caught:
                copy(gateway.address, service, engine)
            assert words.format(gateway=gateway.address) in str(caught.value)
            assert caught.value.exit_code == 1
            assert "a secret value" not in str(caught.value)
            assert service not in "".join(traceback.format_exception(caught.value))
            assert contents(engine.url) == before


def test_no_response_to_any_request_is_a_traceback(gateway: Gateway, service: str, subtests: pytest.Subtests) -> None:
    with mirror(gateway.address, service) as source:
        rest = source.rest
        table = rest.tables()["users"]
        requests: list[Callable[[], object]] = [
            rest.tables,
            lambda: rest.count("users"),
            lambda: rest.page(table, None, 2),
            lambda: rest.first_row_place(table),
            lambda: rest.is_view(table),
        ]
        for spoil in (
            _long_range,
            _nested,
            _nested_error,
            _an_object,
            _html,
            _no_utf8,
            _cut,
            _status(302),
            _status(400),
        ):
            gateway.spoil = spoil
            for number, request in enumerate(requests):
                # Some responses are only looked at for what they may tell, and the move goes on without them.
                with subtests.test(f"{number} {spoil.__name__}"), contextlib.suppress(move.RestError):
                    request()


def test_a_missing_row_count_is_an_error(
    gateway: Gateway, service: str, engine: Engine, subtests: pytest.Subtests
) -> None:
    for spoil in (_no_range, _wrong_range, _html, _status(404), _absent):
        with subtests.test(spoil.__name__):
            gateway.spoil = only("/users?limit=0", spoil)
            with pytest.raises(UnexpectedResponse):
                plan(gateway.address, service, engine)


def test_a_server_without_a_description_of_its_tables_is_not_an_empty_project(
    gateway: Gateway, service: str, engine: Engine, subtests: pytest.Subtests
) -> None:
    for spoil in (_html, _status(404), _status(401), _an_object, _cut, _no_definitions):
        with subtests.test(spoil.__name__):
            gateway.spoil = only("/", spoil)
            with pytest.raises(move.RestError):
                plan(gateway.address, service, engine)


def test_a_description_with_a_table_twice_is_refused(gateway: Gateway, service: str, engine: Engine) -> None:
    def twice(_: str, answer: Answer) -> None:
        answer.body = answer.body.replace(b'"definitions":{', b'"definitions":{"users":{},', 1)

    gateway.spoil = only("/", twice)
    with pytest.raises(UnexpectedResponse, match="expected a description of the tables"):
        plan(gateway.address, service, engine)


def test_a_json_value_with_a_key_twice_arrives_as_it_is(
    postgrest: Start, service: str, supabase: URL, engine: Engine
) -> None:
    change(supabase, """CREATE TABLE odd (id int PRIMARY KEY, "of json" json)""")
    change(supabase, """INSERT INTO odd VALUES (1, '{"a": 1, "a": {"b": 2, "b": 3}}')""")
    copy(postgrest(), service, engine, choices=move.Choices(unknown="keep"))
    [(kept,)] = ask(engine.url, "SELECT row_text FROM tatame_move.rejects WHERE table_name = 'odd'")
    assert kept == """(1,"{""a"": 1, ""a"": {""b"": 2, ""b"": 3}}")"""


def test_a_redirect_does_not_receive_the_key(gateway: Gateway, service: str, engine: Engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.2)
        gateway.spoil = _status(302, location=f"http://127.0.0.1:{elsewhere.getsockname()[1]}/")
        with pytest.raises(UnexpectedResponse, match="a redirect, which is not followed"):
            plan(gateway.address, service, engine)
        with pytest.raises(TimeoutError):
            elsewhere.accept()


@pytest.mark.parametrize("spoil", [_status(429, retry_after="0"), _status(503), _connection_cut])
def test_a_temporary_failure_is_retried(
    gateway: Gateway, service: str, engine: Engine, expected_target: URL, spoil: Spoil
) -> None:
    seen: dict[str, int] = {}

    def first_times(path: str, answer: Answer) -> None:
        seen[path] = seen.get(path, 0) + 1
        if path != "/" and seen[path] % 3:
            spoil(path, answer)

    gateway.spoil = first_times
    copy(gateway.address, service, engine)
    assert contents(engine.url) == contents(expected_target)


def test_a_retry_waits_as_long_as_the_server_asks(
    gateway: Gateway, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(rest_module.time, "sleep", pauses.append)
    gateway.spoil = _status(429, retry_after="7")
    with mirror(gateway.address, service) as source, pytest.raises(UnexpectedResponse, match="5 attempts"):
        source.rest.count("users")
    # The gateway sleeps with the same clock.
    assert [pause for pause in pauses if pause] == [7.0] * 4


def test_a_key_of_the_new_kind_is_not_sent_as_a_token(
    gateway: Gateway, service: str, engine: Engine, expected_target: URL
) -> None:
    gateway.key = service
    copy(gateway.address, "sb_secret_abc", engine)
    assert contents(engine.url) == contents(expected_target)
    assert {headers["apikey"] for _, headers in gateway.asked} == {"sb_secret_abc"}
    assert not any("authorization" in headers for _, headers in gateway.asked)
    gateway.asked.clear()
    with mirror(gateway.address, service) as source:
        source.rest.count("users")
    [(_, headers)] = gateway.asked
    assert (headers["apikey"], headers["authorization"]) == (service, f"Bearer {service}")


def test_rows_that_are_added_during_the_reading_are_detected(
    gateway: Gateway, service: str, supabase: URL, engine: Engine
) -> None:
    insert = "INSERT INTO users (id, clerk_user_id) VALUES (-9, 'behind the cursor') ON CONFLICT DO NOTHING"
    gateway.spoil = on_page("users", lambda *_: change(supabase, insert))
    with pytest.raises(RowsChanged) as caught:
        copy(gateway.address, service, engine)
    assert (caught.value.before, caught.value.read, caught.value.after) == (3, 3, 4)


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_second_reading_finds_a_row_that_changed_after_the_first(
    gateway: Gateway, service: str, supabase: URL, engine: Engine, jobs: int
) -> None:
    update = "UPDATE users SET email = 'late@gym.example' WHERE id = -5"
    gateway.spoil = on_page("users", lambda *_: change(supabase, update))
    with pytest.raises(move.NotProven) as caught:
        copy(gateway.address, service, engine, jobs=jobs)
    assert (caught.value.tables, caught.value.exit_code) == (["users"], 3)
    tables = status(engine)
    assert (tables["users"].rows, tables["users"].proven_at) == (3, None)
    assert tables["gyms"].proven_at is not None
    gateway.spoil = lambda *_: None
    report = {table.table: table for table in copy(gateway.address, service, engine).tables}
    assert report["users"].written == 1
    assert status(engine)["users"].proven_at is not None


def test_a_table_that_a_trigger_changes_after_its_copy_is_not_proven_over_rest(
    postgrest: Start, service: str, engine: Engine
) -> None:
    change(
        engine.url,
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN UPDATE public.users SET phone = ''touched'' WHERE id = 2; RETURN NEW; END';"
        " CREATE TRIGGER touch AFTER INSERT ON checkins FOR EACH ROW EXECUTE FUNCTION touch()",
    )
    with pytest.raises(move.ChangedAfterProof) as caught:
        copy(postgrest(), service, engine)
    assert (caught.value.tables, caught.value.not_proven) == (["users"], [])
    assert [table.table for table in status(engine).values() if table.proven_at is None] == ["users"]


def test_a_second_reading_that_fails_proves_no_table(gateway: Gateway, service: str, engine: Engine) -> None:
    readings = [0]

    def second(path: str, answer: Answer) -> None:
        readings[0] += path == "/"
        if readings[0] > 2 and path.startswith("/users?"):
            _html(path, answer)

    gateway.spoil = second
    with pytest.raises(move.NotProven, match="expected JSON") as caught:
        copy(gateway.address, service, engine)
    assert len(caught.value.tables) == 11
    assert {table.proven_at for table in status(engine).values()} == {None}


def test_a_server_that_cannot_be_reached_is_reported(service: str, gateway: Gateway, engine: Engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(RestNotReached, match="timed out"):
            plan(f"http://127.0.0.1:{port}", service, engine, read_timeout_seconds=0.2)
    for address in (
        f"http://127.0.0.1:{port}",
        gateway.address.replace("http", "https"),
        "https://no-such-host.invalid",
    ):
        with pytest.raises(RestNotReached) as caught:
            plan(address, service, engine)
        assert address in str(caught.value)
        assert service not in "".join(traceback.format_exception(caught.value))


def test_a_table_that_is_dropped_during_the_reading_is_reported(postgrest: Start, service: str, supabase: URL) -> None:
    with mirror(postgrest(), service) as source:
        described = source.rest.tables()
        change(supabase, "DROP TABLE notifications")
        assert source.rest.count("notifications") is None
        with pytest.raises(UnexpectedResponse, match="404 42P01"):
            source.rest.page(described["notifications"], None, 10)
