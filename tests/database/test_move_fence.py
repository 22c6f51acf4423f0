"""The fence of a table: every kind of writer is refused, readers pass, and nothing is left after a failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL
from tests.database.moves import ask, change

from tatame_db.database.address import readable
from tatame_db.move.connection import MoveConnection
from tatame_db.move.open import open_source_for_writing
from tatame_db.move.switch import fence, removal, token
from tatame_db.testing.runs import Run
from tatame_db.testing.sandbox import Sandbox

TOKEN = "the token"  # no secret: of a database that lives for a second
HASH = token.token_hash(TOKEN)
REFUSED = psycopg.errors.ObjectNotInPrerequisiteState
HOSTILE = '"a ""schema"" %s; $$"'
PARTITION = f'{HOSTILE}."100% ""hostile"""'
# `roles`, `users` and the partitioned `checkins` are closed, `gyms` and `notes` are not.
TABLES = ["roles", "users", "checkins"]
SCHEMA = f"""
CREATE SCHEMA {HOSTILE};
CREATE TABLE gyms (id integer PRIMARY KEY);
CREATE TABLE roles (id integer PRIMARY KEY, name text);
CREATE TABLE users (id integer PRIMARY KEY, gym_id integer REFERENCES gyms ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE notes (id integer);
CREATE RULE note AS ON INSERT TO notes DO ALSO INSERT INTO roles VALUES (NEW.id);
CREATE TABLE checkins (id integer, day date) PARTITION BY RANGE (day);
CREATE TABLE {PARTITION} PARTITION OF checkins FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE checkins_later PARTITION OF checkins DEFAULT PARTITION BY RANGE (id);
CREATE TABLE checkins_later_all PARTITION OF checkins_later DEFAULT;
INSERT INTO gyms VALUES (1);
INSERT INTO roles VALUES (1, 'a');
INSERT INTO users VALUES (1, 1);
INSERT INTO checkins VALUES (1, '2026-01-01'), (2, '2028-01-01');
"""
WRITERS = {
    "insert": "INSERT INTO roles VALUES (9)",
    "insert no row": "INSERT INTO roles SELECT 1 WHERE false",
    "update": "UPDATE roles SET name = 'b'",
    "delete": "DELETE FROM roles",
    "truncate": "TRUNCATE roles",
    "truncate cascade": "TRUNCATE gyms CASCADE",
    "merge": "MERGE INTO roles r USING gyms g ON r.id = g.id WHEN MATCHED THEN DELETE",
    "on conflict": "INSERT INTO roles VALUES (1) ON CONFLICT DO NOTHING",
    "cascade of delete": "DELETE FROM gyms",
    "cascade of update": "UPDATE gyms SET id = 2",
    "rule": "INSERT INTO notes VALUES (9)",
    "partitioned": "INSERT INTO checkins VALUES (9, '2026-05-05')",
    "moved between partitions": "UPDATE checkins SET day = '2028-01-01' WHERE id = 1",
    "partition": f"DELETE FROM {PARTITION}",
    "truncate of partition": f"TRUNCATE {PARTITION}",
    "partition of partition": "UPDATE checkins_later_all SET id = 7",
    "common table expression": "WITH d AS (DELETE FROM roles RETURNING 1) SELECT count(*) FROM d",
    "replica": "SET LOCAL session_replication_role = replica; DELETE FROM roles",
    "path": "SET LOCAL search_path = evil, public, pg_catalog; DELETE FROM roles",
    "wrong token": "SET LOCAL tatame_move.token = 'another'; DELETE FROM roles",
    "no token": "SET LOCAL tatame_move.token = ''; DELETE FROM roles",
    "hash": f"SET LOCAL tatame_move.token = '{HASH}'; DELETE FROM roles",
    "other role": "SET LOCAL ROLE fence_writer; DELETE FROM roles",
    "triggers disabled for the session": "SET LOCAL session_replication_role = local; DELETE FROM roles",
}
READERS = [
    "SELECT * FROM roles",
    "SELECT * FROM roles FOR UPDATE",
    "SELECT * FROM checkins FOR SHARE",
    "COPY roles TO STDOUT",
    "UPDATE gyms SET id = id",
    "VACUUM roles",
    "ALTER TABLE roles ADD COLUMN IF NOT EXISTS later text DEFAULT 'x'",
]
EVIL = """
CREATE SCHEMA evil;
CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'the token' $$;
CREATE FUNCTION evil.sha256(bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT NULL::bytea $$;
CREATE FUNCTION evil.format(text, name) RETURNS text LANGUAGE sql AS $$ SELECT 'evil' $$;
"""


@pytest.fixture(scope="module", params=["bundled", "older"])
def sandbox(request: pytest.FixtureRequest, _tatame_run: Run) -> Sandbox:
    older: Sandbox = request.getfixturevalue("older_sandbox") if request.param == "older" else _tatame_run.sandbox
    return older


@contextmanager
def new_database(sandbox: Sandbox) -> Generator[URL]:
    address = sandbox.create()
    change(address, SCHEMA)
    yield address
    sandbox.drop(str(address.database))


@pytest.fixture
def database(sandbox: Sandbox) -> Generator[URL]:
    with new_database(sandbox) as address:
        yield address


@pytest.fixture(scope="module")
def closed(sandbox: Sandbox) -> Generator[URL]:
    """A database with closed tables, in which no test commits."""
    with new_database(sandbox) as address:
        change(
            address,
            EVIL,
            "DO $$ BEGIN CREATE ROLE fence_writer; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
            "GRANT ALL ON ALL TABLES IN SCHEMA public TO fence_writer",
        )
        close(address)
        yield address


def close(address: URL, tables: list[str] = TABLES, name: str = "source") -> None:
    with opened(address, name) as connection:
        fence.closing(connection, tables, HASH, pause_at_most_seconds=30)
        connection.driver.commit()


@contextmanager
def opened(address: URL, name: str = "source") -> Generator[MoveConnection]:
    with open_source_for_writing(address) as connection:
        yield MoveConnection(name, address, connection.driver)


def closed_of(address: URL, name: str = "source") -> set[str]:
    with opened(address, name) as connection:
        connection.pin_settings(for_transaction=True)
        return fence.closed_tables(connection)


def session(address: URL, **options: Any) -> psycopg.Connection[Any]:
    return psycopg.connect(readable(address), **options)


def triggers(address: URL) -> list[tuple[Any, ...]]:
    return ask(address, "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal")


@pytest.mark.parametrize("writer", WRITERS)
def test_a_writer_of_a_closed_table_is_refused(closed: URL, writer: str) -> None:
    with session(closed) as connection:
        with pytest.raises(REFUSED, match=r"the table .* has moved: its home is another database now") as refused:
            connection.execute(WRITERS[writer])
        assert refused.value.diag.message_hint
        connection.rollback()


def test_a_writer_that_copies_rows_in_is_refused(closed: URL) -> None:
    with session(closed) as connection:
        with pytest.raises(REFUSED), connection.cursor().copy("COPY roles FROM STDIN") as copy:
            copy.write("9\tx\n")
        connection.rollback()


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_of_a_closed_table_and_a_schema_change_pass(closed: URL, reader: str) -> None:
    with session(closed, autocommit=True) as connection:
        if reader.startswith("COPY"):
            with connection.cursor().copy(reader) as copy:
                assert list(copy)
        else:
            connection.execute(reader)


@pytest.mark.parametrize("writer", [name for name in WRITERS if "token" not in name and name != "hash"])
def test_a_session_with_the_token_passes(closed: URL, writer: str) -> None:
    with opened(closed) as connection:
        token.admit(connection, TOKEN)
        if "role" in writer:
            connection.execute("SET LOCAL ROLE fence_writer")
        connection.execute(WRITERS[writer])
        connection.driver.rollback()
        with pytest.raises(REFUSED):
            connection.execute("DELETE FROM public.roles")


def test_prepared_statements_and_cursors_from_before_are_refused(database: URL) -> None:
    with session(database) as connection:
        connection.execute("PREPARE renamed AS UPDATE roles SET name = 'b'")
        connection.execute("EXECUTE renamed")
        connection.rollback()
        connection.execute("DECLARE found CURSOR WITH HOLD FOR SELECT * FROM roles")
        connection.commit()
        connection.execute("DECLARE locked CURSOR FOR SELECT * FROM roles FOR UPDATE")
        connection.execute("FETCH locked")
        # The locks of rows do not keep the fence from being closed.
        close(database)
        with pytest.raises(REFUSED):
            connection.execute("DELETE FROM roles WHERE CURRENT OF locked")
        connection.rollback()
        with pytest.raises(REFUSED):
            connection.execute("EXECUTE renamed")
        connection.rollback()
        connection.execute("FETCH found")


def test_a_transaction_that_began_before_is_refused(database: URL) -> None:
    with session(database) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT * FROM roles")
        close(database)
        with pytest.raises(REFUSED):
            connection.execute("DELETE FROM roles")


def test_a_rollback_leaves_nothing(database: URL) -> None:
    with opened(database) as connection:
        fence.closing(connection, TABLES, HASH, pause_at_most_seconds=30)
        assert fence.closed_tables(connection) == set(TABLES)
    assert triggers(database) == []
    assert ask(database, "SELECT FROM pg_namespace WHERE nspname = 'tatame_move'") == []
    change(database, "DELETE FROM roles")


def test_a_killed_client_leaves_nothing(database: URL) -> None:
    with opened(database) as connection:
        fence.closing(connection, TABLES, HASH, pause_at_most_seconds=30)
        # The socket is shut down, as the kernel does it for a process that is killed.
        connection.abort()
        change(database, "DELETE FROM roles")
    assert triggers(database) == []


def test_the_token_belongs_to_one_transaction_of_a_pooler(database: URL, pooler: Callable[[URL], URL]) -> None:
    pooled = pooler(database)
    close(pooled)
    with opened(pooled) as connection, session(pooled, prepare_threshold=None) as other:
        token.admit(connection, TOKEN)
        with pytest.raises(REFUSED):
            other.execute("DELETE FROM roles")
        other.rollback()
        connection.execute("DELETE FROM public.roles")
        connection.driver.commit()
        for _ in range(4):
            with pytest.raises(REFUSED):
                connection.execute("DELETE FROM public.roles")
            connection.driver.rollback()


def test_a_transaction_that_is_left_open_ends_by_itself(database: URL) -> None:
    with opened(database) as connection:
        fence.closing(connection, TABLES, HASH, pause_at_most_seconds=0.2)
        # The writer waits for the end of the transaction, which this client does not send.
        change(database, "DELETE FROM roles")
    assert triggers(database) == []


def test_opening_lets_writers_in_and_closing_again_refuses_them(database: URL) -> None:
    close(database)
    with opened(database) as connection:
        connection.pin_settings(for_transaction=True)
        fence.open_(connection, TABLES, HASH)
        connection.driver.commit()
    assert closed_of(database) == set()
    change(database, "DELETE FROM roles", f"TRUNCATE {PARTITION}")
    close(database)
    close(database)
    assert closed_of(database) == set(TABLES)
    with pytest.raises(REFUSED):
        change(database, "INSERT INTO checkins VALUES (9, '2026-05-05')")


def test_both_databases_say_which_they_are(database: URL) -> None:
    close(database, ["roles"], "target")
    assert closed_of(database) == set()
    with pytest.raises(REFUSED, match="the table roles follows the source: its home is still there"):
        change(database, "DELETE FROM roles")


def test_a_running_writer_is_waited_for(database: URL) -> None:
    with session(database) as writer:
        writer.execute("UPDATE roles SET name = 'written before'")
        retried = threading.Event()

        def commit_after_retry() -> None:
            retried.wait()
            writer.commit()

        thread = threading.Thread(target=commit_after_retry)
        thread.start()
        held: list[str] = []

        def note(_pause: float, blockers: list[str]) -> None:
            held.extend(blockers)
            retried.set()

        with opened(database) as connection:
            fence.closing(connection, TABLES, HASH, pause_at_most_seconds=30, on_retry=note)
            connection.driver.commit()
        thread.join()
        assert f"pid {writer.info.backend_pid} " in held[0]
        with pytest.raises(REFUSED):
            writer.execute("UPDATE roles SET name = 'written after'")
    assert ask(database, "SELECT name FROM roles") == [("written before",)]


def test_a_writer_that_never_ends_is_named_and_no_queue_is_left_behind_it(
    database: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence, "RETRY_PAUSES_SECONDS", (0.0,))
    with session(database) as writer, opened(database) as connection:
        writer.execute("UPDATE roles SET name = 'b'")
        with pytest.raises(fence.WritersNotStopped) as refused:
            fence.closing(connection, TABLES, HASH, pause_at_most_seconds=30)
        assert f"pid {writer.info.backend_pid} " in refused.value.what
        assert "2 attempts" in refused.value.what
        # The lock is not waited for any more: others may write at once.
        change(database, "SET lock_timeout = '1s'", "INSERT INTO roles VALUES (2)")
    assert triggers(database) == []


def test_a_long_reader_does_not_keep_the_fence_from_closing(database: URL) -> None:
    with session(database) as reader:
        reader.execute("SELECT * FROM roles FOR UPDATE")
        close(database)
        assert reader.execute("SELECT * FROM users").fetchall()
    assert closed_of(database) == set(TABLES)


def test_a_partition_that_is_attached_later_refuses_rows_and_shows_as_damage(database: URL) -> None:
    close(database)
    change(database, "CREATE TABLE late PARTITION OF checkins_later FOR VALUES FROM (100) TO (200)")
    with pytest.raises(REFUSED):
        change(database, "INSERT INTO late VALUES (150, '2028-01-01')")
    with pytest.raises(fence.FenceDamaged, match="checkins"):
        closed_of(database)
    close(database)
    with pytest.raises(REFUSED):
        change(database, "TRUNCATE late")


@pytest.mark.parametrize(
    "damage",
    [
        "ALTER TABLE roles DISABLE TRIGGER tatame_move_moved",
        "ALTER TABLE roles ENABLE TRIGGER tatame_move_moved_row",
        "DROP TRIGGER tatame_move_moved_row ON roles",
        "ALTER TABLE checkins_later_all DISABLE TRIGGER USER",
    ],
)
def test_a_damaged_fence_is_no_answer(database: URL, damage: str) -> None:
    close(database)
    change(database, damage)
    with pytest.raises(fence.FenceDamaged):
        closed_of(database)


def test_preferences_of_the_role_do_not_matter(database: URL) -> None:
    change(
        database,
        "DO $$ BEGIN CREATE ROLE fence_strict SUPERUSER LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "ALTER ROLE fence_strict SET default_transaction_isolation = serializable",
        "ALTER ROLE fence_strict SET default_transaction_read_only = on",
        "ALTER ROLE fence_strict SET search_path = nowhere",
        "ALTER ROLE fence_strict SET bytea_output = escape",
    )
    close(database.set(username="fence_strict"))
    assert closed_of(database.set(username="fence_strict")) == set(TABLES)


def test_a_table_of_any_name_is_closed(database: URL) -> None:
    name = """a 'b' "c" $$ %s \\ ;"""
    quoted = name.replace('"', '""')
    change(database, f'CREATE TABLE "{quoted}" (id integer)')
    close(database, [name])
    with pytest.raises(REFUSED) as refused:
        change(database, f'INSERT INTO "{quoted}" VALUES (1)')
    assert refused.value.diag.table_name == name


def test_what_is_no_table_cannot_be_closed(database: URL) -> None:
    change(
        database,
        "CREATE VIEW versions AS SELECT 1 AS id",
        "CREATE MATERIALIZED VIEW graduations AS SELECT 1 AS id",
        "CREATE FOREIGN DATA WRAPPER elsewhere",
        "CREATE SERVER other FOREIGN DATA WRAPPER elsewhere",
        "CREATE FOREIGN TABLE classes (id integer) SERVER other",
        "CREATE FOREIGN TABLE part PARTITION OF checkins FOR VALUES FROM ('2030-01-01') TO ('2031-01-01') SERVER other",
    )
    names = ["roles", "versions", "graduations", "classes", "checkins", "no such table"]
    with opened(database) as connection, pytest.raises(fence.TablesNotFenceable) as refused:
        fence.closing(connection, names, HASH, pause_at_most_seconds=30)
    assert refused.value.reasons == [
        "no such table does not exist",
        "versions is a view",
        "graduations is a materialized view",
        "classes is a foreign table",
        "checkins has a partition that is a foreign table",
    ]
    assert triggers(database) == []


def test_a_role_without_rights_gets_words(database: URL) -> None:
    change(
        database,
        "DO $$ BEGIN CREATE ROLE fence_stranger LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO fence_stranger",
    )
    with opened(database.set(username="fence_stranger")) as connection, pytest.raises(fence.FenceForbidden) as refused:
        fence.closing(connection, ["roles"], HASH, pause_at_most_seconds=30)
    assert "fence_stranger" in refused.value.what
    assert triggers(database) == []


def test_an_owner_without_superuser_closes_beside_event_triggers_and_row_level_security(database: URL) -> None:
    change(
        database,
        "DO $$ BEGIN CREATE ROLE fence_owner LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO fence_owner', current_database()); END $$",
        "ALTER TABLE roles OWNER TO fence_owner",
        "ALTER TABLE roles ENABLE ROW LEVEL SECURITY",
        "CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN NOTIFY pgrst; END $$",
        "CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION watch()",
    )
    owner = database.set(username="fence_owner")
    close(owner, ["roles"])
    assert closed_of(owner) == {"roles"}
    for writer in (owner, database):
        with pytest.raises(REFUSED):
            change(writer, "DELETE FROM roles")


def test_removal_leaves_nothing_and_names_what_it_cannot_remove(database: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "RETRY_PAUSES_SECONDS", ())
    close(database)
    with session(database) as reader, opened(database) as connection:
        reader.execute("SELECT * FROM users")
        found = list(removal.remove(connection, HASH))
        assert [(step.kind, step.name) for step in found if step.reason] == [("triggers", "users")]
        reader.commit()
        assert list(removal.remove(connection, token.token_hash("of another target"))) == []
        rest = [*removal.remove(connection, HASH), *removal.drop_schema_if_empty(connection)]
        assert [(step.kind, step.name) for step in rest] == [
            ("triggers", "users"),
            ("function", "tatame_move.refuse_moved"),
            ("schema", "tatame_move"),
        ]
        assert [*removal.remove(connection, HASH), *removal.drop_schema_if_empty(connection)] == []
    assert triggers(database) == []


@pytest.mark.parametrize("change_of_publisher", ["INSERT INTO roles VALUES (2)", "TRUNCATE roles"])
def test_what_a_subscription_applies_is_refused(sandbox: Sandbox, database: URL, change_of_publisher: str) -> None:
    name = str(database.database)
    with new_database(sandbox) as publisher:
        change(publisher, "CREATE PUBLICATION fenced FOR TABLE roles")
        # A subscription within one server waits for itself if it makes its slot.
        change(publisher, f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
        close(database, ["roles"])
        host = database.query["host"]
        change(
            database,
            f"CREATE SUBSCRIPTION {name} CONNECTION 'host={host} user=postgres dbname={publisher.database}'"
            f" PUBLICATION fenced WITH (create_slot = false, copy_data = false, disable_on_error = true)",
        )
        change(publisher, change_of_publisher)
        disabled = f"SELECT FROM pg_subscription WHERE subname = '{name}' AND NOT subenabled"
        while not ask(database, disabled):
            time.sleep(0.02)
        assert ask(database, "SELECT id FROM roles") == [(1,)]
        change(database, f"ALTER SUBSCRIPTION {name} SET (slot_name = NONE)", f"DROP SUBSCRIPTION {name}")
        change(publisher, f"SELECT pg_drop_replication_slot('{name}')")
