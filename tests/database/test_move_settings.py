"""Settings of roles: none of them changes what a move reads, writes and proves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Engine, text
from tests.conftest import on_both_versions
from tests.database.moves import ask, change, contents

from tatame_db import evolve, move
from tatame_db.database.address import readable
from tatame_db.database.creation import maintenance
from tatame_db.database.pool import Database
from tatame_db.move.open import open_target
from tatame_db.move.stream import stream

# No session begins, or none outlives its first statement, whatever a client does.
UNUSABLE = {
    "local_preload_libraries": "names a library that the server does not find, so it refuses every connection",
    "transaction_isolation": "belongs to one transaction; ALTER ROLE accepts it, and no session begins with it",
    "transaction_read_only": "as above; `default_transaction_read_only` is what a role can set",
    "transaction_deferrable": "as above; `default_transaction_deferrable` is what a role can set",
}
# Milliseconds: shorter than a move may take, and long enough to connect to a busy server.
TIMEOUTS = {
    "statement_timeout": "3000",
    "lock_timeout": "3000",
    "transaction_timeout": "3000",
    "idle_session_timeout": "3000",
    "idle_in_transaction_session_timeout": "3000",
}
# At their extremes they start processes for each query, or pause again and again, and change nothing else.
SLOW = {
    "debug_parallel_query": "off",
    "force_parallel_mode": "off",
    "max_parallel_workers_per_gather": "1",
    "vacuum_cost_delay": "1",
}
CHOSEN = TIMEOUTS | SLOW
TEXTS = {
    "application_name": "it's me",
    "client_encoding": "LATIN1",
    "createrole_self_grant": "set, inherit",
    "DateStyle": "German, DMY",
    "default_table_access_method": "heap",
    "default_tablespace": "hostile_space",
    "default_text_search_config": "pg_catalog.portuguese",
    "io_method": "sync",
    "lc_monetary": "C.UTF-8",
    "lc_numeric": "C.UTF-8",
    "lc_time": "C.UTF-8",
    "log_connections": "all",
    "restrict_nonsystem_relation_kind": "view, foreign-table",
    "search_path": "nowhere",
    "temp_tablespaces": "hostile_space",
    "timezone_abbreviations": "India",
    "TimeZone": "Asia/Kolkata",
    "oauth_validator_libraries": "",
}


def hostile(setting: tuple[Any, ...], extreme: str) -> str:
    """Return another value of a setting than that with which the server was built."""
    name, kind, values, least, most, built = setting
    if name in CHOSEN:
        return CHOSEN[name]
    match kind:
        case "bool":
            return "off" if built == "on" else "on"
        case "enum":
            others = [value for value in values if value != built] or [built]
            return str(others[0 if extreme == "least" else -1])
        case "string":
            return TEXTS[name]
        case _:
            first, second = (least, most) if extreme == "least" else (most, least)
            return str(second if float(first) == float(built) else first)


@contextlib.contextmanager
def hostile_role(address: URL, extreme: str) -> Generator[URL]:
    """Create a superuser with a hostile value of every setting that a user may set."""
    role = f"hostile_{address.database}"
    with psycopg.connect(readable(address), autocommit=True) as connection:
        settings = connection.execute(
            "SELECT name, vartype, enumvals, min_val, max_val, boot_val FROM pg_settings WHERE context = 'user'"
            " ORDER BY name"
        ).fetchall()
        connection.execute(f"CREATE ROLE {role} LOGIN SUPERUSER".encode())
        try:
            for setting in settings:
                if setting[0] not in UNUSABLE:
                    value = hostile(setting, extreme).replace("'", "''")
                    statement = f"ALTER ROLE {role} IN DATABASE {address.database} SET {setting[0]} = "
                    items = value.split(", ") if setting[0] in ("search_path", "temp_tablespaces") else [value]
                    connection.execute((statement + ", ".join(f"'{item}'" for item in items)).encode())
            connection.execute(
                f"ALTER ROLE {role} IN DATABASE {address.database} SET session_replication_role = replica".encode()
            )
            yield address.set(username=role)
        finally:
            connection.execute(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}".encode())


@pytest.fixture
def hostile_space(supabase: URL) -> Generator[None]:
    """A place for tables and indexes in which nothing may be created by anyone but a superuser."""
    with psycopg.connect(readable(supabase), autocommit=True) as connection:
        connection.execute("SET allow_in_place_tablespaces = on")
        connection.execute("CREATE TABLESPACE hostile_space LOCATION ''")
    yield
    change(supabase, "DROP TABLESPACE hostile_space")


@on_both_versions
@pytest.mark.parametrize("extreme", ["least", "most"])
@pytest.mark.usefixtures("hostile_space")
def test_a_move_between_roles_with_hostile_settings_is_right(
    supabase: URL, engine: Engine, expected_target: URL, extreme: str
) -> None:
    indexes = "SELECT relname FROM pg_class WHERE reltablespace <> 0 AND relnamespace = 'public'::regnamespace"
    with (
        hostile_role(supabase, extreme) as source,
        hostile_role(engine.url, extreme) as target,
        Database(target) as database,
    ):
        for role in (source, target):
            [(hostile_settings,)] = ask(role, "SELECT count(*) FROM pg_settings WHERE source = 'database user'")
            assert hostile_settings > 120
        with move.open_for_reading(source, database.engine) as connections:
            assert move.plan(connections).complete
            for connection in (connections.source, connections.target):
                limits = dict(connection.rows("SELECT name, setting FROM pg_settings WHERE name LIKE '%_timeout'"))
                assert {name: limits[name] for name in TIMEOUTS if limits.get(name, "0") != "0"} == {}
        for jobs in (1, 2):
            with move.open_for_writing(source, database.engine, lambda: None) as connections:
                assert connections.target.row(
                    "SELECT current_setting('synchronous_commit') <> 'off', current_setting('session_replication_role')"
                ) == (True, "origin")
                report = move.copy(connections, jobs=jobs)
            assert len(report.insert_tested) == 10
        assert contents(engine.url) == contents(expected_target)
        assert ask(engine.url, indexes) == []
        with move.open_for_reading(source, database.engine) as connections:
            assert move.verify(connections).equal
            assert all(count.agrees for count in move.counts(connections))
        with open_target(database.engine) as opened:
            assert not any(table.stale for table in move.status(opened).tables)


def test_a_role_that_may_not_turn_its_keys_on_again_is_refused(supabase: URL, engine: Engine) -> None:
    role = f"keyless_{supabase.database}"
    change(
        engine.url,
        f"CREATE ROLE {role} LOGIN; ALTER ROLE {role} SET session_replication_role = replica",
        f"GRANT ALL ON SCHEMA public, tatame_migrations TO {role}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA public, tatame_migrations TO {role}",
    )
    try:
        with (
            Database(engine.url.set(username=role)) as database,
            pytest.raises(move.KeysNotEnforced, match=role),
            move.open_for_writing(supabase, database.engine, lambda: None),
        ):
            pass
    finally:
        change(engine.url, f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
@pytest.mark.parametrize("database", ["source", "target"])
def test_a_database_in_another_encoding_is_refused(
    supabase: URL, bare_address: URL, engine: Engine, encoding: str, database: str
) -> None:
    other = bare_address.set(database=f"{bare_address.database}_{encoding.lower()}")
    with maintenance(other) as connection:
        connection.execute(
            f"CREATE DATABASE {other.database} ENCODING '{encoding}' LOCALE 'C' LOCALE_PROVIDER libc"
            " TEMPLATE template0".encode()
        )
    try:
        with Database(other) as opened:
            evolve.migrate(opened.engine)
            source, target = (other, engine) if database == "source" else (supabase, opened.engine)
            for opening in (move.open_for_reading(source, target), move.open_for_writing(source, target, lambda: None)):
                with (
                    pytest.raises(move.EncodingUnsupported, match=f"the {database} has the encoding {encoding}"),
                    opening,
                ):
                    pass
    finally:
        with maintenance(other) as connection:
            connection.execute(f"DROP DATABASE {other.database}".encode())


# --- Limits of a server -----------------------------------------------------------------------------------------------


def limit(address: URL) -> None:
    """Let every sort and hash that does not fit into a little memory fail."""
    settings = {"temp_file_limit": "64kB", "work_mem": "64kB", "maintenance_work_mem": "1MB"}
    change(address, *(f"ALTER DATABASE {address.database} SET {name} = '{value}'" for name, value in settings.items()))


@pytest.fixture
def sorted_checkins(supabase: URL) -> URL:
    """Return a source that cannot read its check-ins without a sort."""
    change(
        supabase,
        "INSERT INTO checkins (id) SELECT n FROM generate_series(100000, 150000) AS n",
        "ALTER TABLE checkins RENAME TO unsorted",
        "CREATE VIEW checkins AS SELECT * FROM unsorted ORDER BY md5(id::text)",
    )
    return supabase


READINGS: dict[str, Callable[[move.Connections], object]] = {
    "plan": move.plan,
    "counts": move.counts,
    "verify": move.verify,
}


@pytest.mark.parametrize("command", [*READINGS, "copy"])
def test_a_limit_of_the_source_is_not_called_the_target_s(sorted_checkins: URL, engine: Engine, command: str) -> None:
    limit(sorted_checkins)

    def run() -> None:
        if command == "copy":
            with move.open_for_writing(sorted_checkins, engine, lambda: None) as connections:
                move.copy(connections)
        else:
            with move.open_for_reading(sorted_checkins, engine) as connections:
                READINGS[command](connections)

    with pytest.raises(move.ResourceExhausted) as caught:
        run()
    assert (caught.value.database, caught.value.resource) == ("source", "configuration")
    assert "temp_file_limit" in caught.value.reason


@pytest.mark.parametrize("database", ["source", "target"])
def test_a_limit_in_the_middle_of_a_stream_is_that_of_the_database_that_has_it(
    supabase: URL, engine: Engine, database: str
) -> None:
    limit(supabase if database == "source" else engine.url)
    # A trigger that sorts, on the target, and a query that does, on the source.
    change(
        engine.url,
        "CREATE FUNCTION sort() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM n FROM generate_series(1, 50000) AS n ORDER BY md5(n::text); RETURN NEW; END'",
        "CREATE TRIGGER sort BEFORE INSERT ON versions FOR EACH ROW EXECUTE FUNCTION sort()",
    )
    rows = "SELECT n::text FROM (SELECT n FROM generate_series(1, 50000) AS n ORDER BY md5(n::text) OFFSET 49990) AS n"
    with (
        move.open_for_writing(supabase, engine, lambda: None) as connections,
        pytest.raises(move.ResourceExhausted) as caught,
    ):
        stream(connections, rows, "public.versions (app_version)")
    assert caught.value.database == database


def test_a_limit_of_the_target_is_reported(supabase: URL, engine: Engine) -> None:
    change(supabase, "INSERT INTO checkins (id) SELECT n FROM generate_series(100000, 150000) AS n")
    limit(engine.url)
    with Database(engine.url) as database:
        with (
            pytest.raises(move.ResourceExhausted) as caught,
            move.open_for_writing(supabase, database.engine, lambda: None) as connections,
        ):
            move.copy(connections)
        assert caught.value.database == "target"
        # Once there is room, the next copy restores the indexes.
        change(engine.url, f"ALTER DATABASE {engine.url.database} RESET ALL")
        with move.open_for_writing(supabase, database.engine, lambda: None) as connections:
            assert move.copy(connections).foreign_keys == 12
            assert move.status(connections.target).parked == []


@pytest.mark.parametrize("supabase", ["older"], indirect=True)
def test_no_number_of_a_host_in_the_environment_leads_to_another_server(
    supabase: URL, engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "services").write_text("[elsewhere]\nhostaddr=127.0.0.9\n")
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.9")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGSERVICE", "elsewhere")
    with Database(supabase) as source, source.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM users"))
    with move.open_for_reading(supabase, engine) as connections:
        assert connections.source.readable == readable(supabase)
