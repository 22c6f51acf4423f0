from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Engine
from tests.conftest import on_both_versions
from tests.database.moves import Copy, Killed, ask, change, contents, copy_into, schema

from tatame_db import evolve, move, seed
from tatame_db.database.address import readable
from tatame_db.database.pool import Database
from tatame_db.evolve.lock import LOCK_KEY
from tatame_db.move.copy_errors import LockHolder
from tatame_db.move.digest import Digest, TableDigests
from tatame_db.move.fingerprint import Fingerprint
from tatame_db.move.record import Record
from tatame_db.move.refusals import OtherRows
from tatame_db.schema import Base, phases


@pytest.fixture
def copy(supabase: URL, engine: Engine) -> Copy:
    return copy_into(supabase, engine)


@pytest.fixture
def verify(supabase: URL, engine: Engine) -> Callable[[], list[str]]:
    def verify() -> list[str]:
        with move.open_for_reading(supabase, engine) as connections:
            return move.verify(connections).unequal

    return verify


@on_both_versions
def test_hard_rows_are_copied_as_expected(
    copy: Copy, engine: Engine, expected_target: URL, verify: Callable[[], list[str]]
) -> None:
    before = schema(engine)
    report = copy()
    assert contents(engine.url) == contents(expected_target)
    assert verify() == []
    assert schema(engine) == before
    assert {table.table: table.rows for table in report.tables} == {
        table: len(rows) for table, rows in contents(expected_target).items()
    }
    assert all((table.written, table.deleted, table.waiting) == (table.rows, 0, []) for table in report.tables)


def test_all_keys_are_valid_and_the_next_row_gets_a_new_id(copy: Copy, engine: Engine) -> None:
    copy()
    assert ask(engine.url, "SELECT conname FROM pg_constraint WHERE NOT convalidated") == []
    numbered = [table.name for table in Base.metadata.tables.values() if table.autoincrement_column is not None]
    assert len(numbered) == 10
    for table in numbered:
        sequence = f"pg_get_serial_sequence('public.\"{table}\"', 'id')"
        # One row has an id near the end, after which hardly another could follow.
        highest_id = "max(id) FILTER (WHERE id < 2000000000)"
        [(following, highest)] = ask(engine.url, f'SELECT nextval({sequence}), {highest_id} FROM public."{table}"')
        assert following == max(highest, 1) + 1
    change(engine.url, "INSERT INTO users (clerk_user_id) VALUES ('user_new')")


def test_the_first_row_of_an_empty_table_gets_the_id_1(copy: Copy, supabase: URL, engine: Engine) -> None:
    change(supabase, "DELETE FROM attachments")
    copy()
    assert ask(engine.url, "INSERT INTO attachments DEFAULT VALUES RETURNING id") == [(1,)]


@on_both_versions
def test_a_second_copy_writes_nothing_and_parks_nothing(copy: Copy, engine: Engine) -> None:
    copy()
    [before] = ask(engine.url, "SELECT array_agg(oid ORDER BY oid) FROM pg_constraint WHERE contype = 'f'")
    report = copy()
    assert {(table.written, table.deleted) for table in report.tables} == {(0, 0)}
    assert ask(engine.url, "SELECT array_agg(oid ORDER BY oid) FROM pg_constraint WHERE contype = 'f'") == [before]


@on_both_versions
def test_a_later_copy_inserts_and_deletes_only_what_changed(
    copy: Copy, supabase: URL, verify: Callable[[], list[str]]
) -> None:
    change(supabase, "INSERT INTO checkins (id) SELECT n FROM generate_series(100000, 200000) AS n")
    copy()
    change(
        supabase,
        "INSERT INTO checkins (id) VALUES (300000); UPDATE checkins SET date = '2024-01-01' WHERE id = 150000;"
        " DELETE FROM checkins WHERE id = 1;"
        " UPDATE users SET clerk_user_id = 'x' WHERE id = 1; UPDATE users SET clerk_user_id = 'user_ana' WHERE id = 2",
    )
    assert verify() == ["users", "checkins"]
    report = {table.table: table for table in copy().tables}
    assert verify() == []
    assert report["checkins"].rows == 100_003
    # Only the rows that changed.
    assert (report["checkins"].written, report["checkins"].deleted) == (2, 1)
    assert (report["users"].written, report["users"].deleted) == (2, 0)
    assert report["roles"].written == 0


def objects(engine: Engine) -> set[tuple[Any, ...]]:
    """Return indexes and foreign keys with their internal numbers, which change when one is created again."""
    return set(
        ask(
            engine.url,
            "SELECT indexrelid::regclass::text, indexrelid FROM pg_index WHERE indrelid = ANY("
            "SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)"
            " UNION ALL SELECT conname, oid FROM pg_constraint WHERE contype = 'f'",
        )
    )


def test_few_changes_drop_no_index_and_only_keys_that_reject_rows(
    copy: Copy, supabase: URL, engine: Engine, verify: Callable[[], list[str]]
) -> None:
    copy()
    before = objects(engine)
    change(supabase, "UPDATE checkins SET date = NULL WHERE id = 1; DELETE FROM graduations WHERE id = 2")
    copy()
    assert objects(engine) == before
    change(supabase, "UPDATE users SET email = 'x' WHERE id = 1")
    copy()
    assert objects(engine) == before
    change(supabase, "DELETE FROM users WHERE id = -5")
    copy()
    renewed = {name for name, _ in objects(engine) - before}
    assert renewed == {
        "gyms_manager_id_users_id_fk",
        "graduations_user_id_users_id_fk",
        "class_created_by_users_id_fk",
        "class_instructor_id_users_id_fk",
        "checkins_user_id_users_id_fk",
        "notifications_sent_by_users_id_fk",
    }
    assert ask(engine.url, "SELECT conname FROM pg_constraint WHERE NOT convalidated") == []
    assert verify() == []


@on_both_versions
def test_rows_and_their_children_are_deleted_and_inserted_in_any_order(
    copy: Copy, supabase: URL, verify: Callable[[], list[str]]
) -> None:
    copy()
    change(
        supabase,
        "BEGIN; SET CONSTRAINTS ALL DEFERRED; DELETE FROM notifications; DELETE FROM graduations; UPDATE class SET"
        ' instructor_id = NULL; UPDATE gyms SET "managerId" = 1; DELETE FROM users WHERE id = 2;'
        " INSERT INTO roles VALUES (E'\\\"100%'' {a,b}'), ('NULL');"
        " INSERT INTO gyms (id, name, address, since, \"managerId\") VALUES (5, 'x', 'x', '2024-01-01', 9);"
        " INSERT INTO users (id, clerk_user_id, gym_id, role) VALUES (9, 'user_bia 🥋', 5, 'NULL'); COMMIT",
    )
    report = {table.table: (table.deleted, table.written) for table in copy(accept_emptied=True).tables}
    assert verify() == []
    assert (report["roles"], report["gyms"], report["users"]) == ((0, 2), (0, 2), (1, 1))
    change(supabase, "DELETE FROM roles WHERE id LIKE '%100%'; UPDATE roles SET created_at = now() WHERE id = 'NULL'")
    report = {table.table: (table.deleted, table.written) for table in copy().tables}
    assert report["roles"] == (1, 1)
    assert verify() == []


@pytest.mark.parametrize("few", [10_000, 1_000, 50])
def test_many_changes_are_written_by_ranges_and_the_schema_is_restored(
    *,
    copy: Copy,
    supabase: URL,
    engine: Engine,
    verify: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    few: int,
) -> None:
    change(supabase, "INSERT INTO checkins (id) SELECT n FROM generate_series(102400, 105000) AS n")
    before = schema(engine)
    copy()
    created = objects(engine)
    monkeypatch.setattr("tatame_db.move.prepare.FEW_ROWS", few)
    monkeypatch.setattr("tatame_db.move.changes.BATCH_ROWS", 300)
    change(supabase, "UPDATE checkins SET date = '2024-01-01' WHERE id BETWEEN 102400 AND 103400")
    report = {table.table: table for table in copy().tables}
    # The four ranges of 256 ids that hold them also hold 23 equal rows.
    assert (report["checkins"].deleted, report["checkins"].written) == (0, 1_001)
    parked = {name for name, _ in created - objects(engine)}
    bulk = {
        "checkins_user_id_date_index",
        "checkins_class_id_date_index",
        "checkins_user_id_users_id_fk",
        "checkins_class_id_class_id_fk",
    }
    assert parked == (set() if few == 10_000 else bulk)
    assert schema(engine) == before
    assert verify() == []


@pytest.mark.parametrize("table", ["roles", "gyms", "users", "class", "notifications"])
def test_a_later_copy_that_is_killed_leaves_whole_tables_and_the_next_one_finishes(
    copy: Copy, supabase: URL, engine: Engine, verify: Callable[[], list[str]], table: str
) -> None:
    copy()
    before = schema(engine)
    was = contents(engine.url)
    change(
        supabase,
        "BEGIN; SET CONSTRAINTS ALL DEFERRED; DELETE FROM notifications WHERE id = 3; DELETE FROM graduations;"
        ' UPDATE class SET instructor_id = NULL; UPDATE gyms SET "managerId" = 9; DELETE FROM users WHERE id = 2;'
        " INSERT INTO users (id, clerk_user_id, gym_id) VALUES (9, 'user_new', 1);"
        " UPDATE roles SET created_at = now() WHERE id = 'STUDENT'; COMMIT",
    )

    def fail(done: move.TableCopy) -> None:
        if done.table == table:
            raise Killed

    with pytest.raises(Killed):
        copy(on_table=fail, accept_emptied=True)
    reached = list(phases()).index(table)
    now = contents(engine.url)
    assert [name for name in list(phases())[reached + 1 :] if now[name] != was[name]] == []
    assert set(schema(engine)) == set(before)
    copy(accept_emptied=True)
    assert verify() == []
    assert schema(engine) == before


def test_seeded_rows_are_only_replaced_on_request(copy: Copy, engine: Engine, verify: Callable[[], list[str]]) -> None:
    with engine.begin() as connection:
        seed.seed(connection, seed.SeedPlan(gyms=1, members=3, days=7))
    before = contents(engine.url)
    with pytest.raises(move.OtherRowsInTarget) as caught:
        copy()
    assert caught.value.rows["users"] == OtherRows(len(before["users"]), len(before["users"]))
    assert contents(engine.url) == before
    report = copy(replace_rows=True)
    assert verify() == []
    # The ids 1 and 2 are in both databases, so these rows are updated.
    assert {table.table: table.deleted for table in report.tables}["users"] == len(before["users"]) - 2


@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        ("INSERT INTO users (clerk_user_id) VALUES ('user_new')", "1 of 4 rows"),
        ("UPDATE users SET email = 'new@gym.example' WHERE id = 1", "1 of 3 rows"),
        # To a moment that PostgreSQL itself hashes alike.
        ("UPDATE users SET created_at = '2024-03-01 08:48:25.032705' WHERE id = 2", "1 of 3 rows"),
        # The sum of the column stays the same.
        ("UPDATE users AS u SET email = o.email FROM users AS o WHERE (u.id, o.id) IN ((1, 2), (2, 1))", "2 of 3 rows"),
        ("DELETE FROM users WHERE id = -5", "fewer than the source"),
    ],
)
def test_rows_written_to_the_target_since_the_copy_are_not_lost(
    copy: Copy, supabase: URL, engine: Engine, statement: str, rows: str
) -> None:
    change(supabase, "UPDATE users SET created_at = '2024-03-01 10:00:00+00' WHERE id = 2")
    copy()
    change(engine.url, statement)
    before = contents(engine.url)
    with pytest.raises(move.OtherRowsInTarget) as caught:
        copy()
    assert caught.value.tables == [f"users ({rows})"]
    assert contents(engine.url) == before


def test_rows_of_another_origin_are_counted_up_to_a_limit(
    copy: Copy, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("changes", "refusals"):
        monkeypatch.setattr(f"tatame_db.move.{module}.MOST_COUNTED", 1)
    change(engine.url, "INSERT INTO users (clerk_user_id) SELECT n::text FROM generate_series(1, 300) AS n")
    with pytest.raises(move.OtherRowsInTarget, match=r"users \(more than 1 of 300 rows\)"):
        copy()
    # Without ranges of ids, all rows would have to be held in memory.
    change(engine.url, "DELETE FROM users", "INSERT INTO roles (id) VALUES ('A'), ('B')")
    with pytest.raises(move.OtherRowsInTarget, match=r"roles \(some of 2 rows\)"):
        copy()


@pytest.fixture
def write_while_comparing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Add a user to the target once the next run has compared the users."""
    compare = TableDigests.whole_with_fingerprint

    def compare_and_write(digests: TableDigests) -> tuple[Digest, Digest, Fingerprint]:
        whole = compare(digests)
        if digests.table.name == "users":
            monkeypatch.setattr(TableDigests, "whole_with_fingerprint", compare)
            change(engine.url, "INSERT INTO users (id, clerk_user_id) VALUES (7, 'user_new')")
        return whole

    return lambda: monkeypatch.setattr(TableDigests, "whole_with_fingerprint", compare_and_write)


def test_a_row_written_while_an_idle_run_compares_is_reported_and_not_lost_later(
    copy: Copy, engine: Engine, write_while_comparing: Callable[[], None]
) -> None:
    copy()
    write_while_comparing()
    with pytest.raises(move.ChangedAfterProof) as caught:
        copy()
    assert caught.value.tables == ["users"]
    with pytest.raises(move.OtherRowsInTarget):
        copy()
    assert ask(engine.url, "SELECT clerk_user_id FROM users WHERE id = 7") == [("user_new",)]


def test_a_row_written_between_comparing_and_copying_stops_the_copy(
    copy: Copy, supabase: URL, engine: Engine, write_while_comparing: Callable[[], None]
) -> None:
    copy()
    change(supabase, "UPDATE users SET email = 'x' WHERE id = 1")
    write_while_comparing()
    with pytest.raises(move.OtherRowsInTarget):
        copy()
    assert ask(engine.url, "SELECT clerk_user_id FROM users WHERE id = 7") == [("user_new",)]


def test_rows_of_another_source_are_not_deleted(copy: Copy, supabase: URL, engine: Engine) -> None:
    copy()
    change(engine.url, "UPDATE tatame_move.tables SET source_identity = 'another'")
    change(supabase, "DELETE FROM assets")
    with pytest.raises(move.OtherRowsInTarget):
        copy()


def test_an_obstacle_stops_the_copy_before_anything_is_written(copy: Copy, supabase: URL, engine: Engine) -> None:
    change(supabase, "UPDATE class SET start = '18:30:45' WHERE id = 1")
    before = contents(engine.url)
    with pytest.raises(move.ObstaclesUnresolved, match="misfit"):
        copy()
    assert contents(engine.url) == before
    assert ask(engine.url, "SELECT to_regnamespace('tatame_move')") == [(None,)]


@on_both_versions
def test_phases_can_be_copied_one_by_one(copy: Copy, engine: Engine, verify: Callable[[], list[str]]) -> None:
    for phase in sorted(set(phases().values())):
        report = copy(*(table for table, its in phases().items() if its == phase))
        waiting = {table.table: table.waiting for table in report.tables if table.waiting}
        assert waiting == ({"gyms": ["manager_id"]} if phase == 2 else {})
        if phase == 2:
            assert ask(engine.url, "SELECT count(*), count(manager_id) FROM gyms") == [(2, 0)]
        assert ask(engine.url, "SELECT conname FROM pg_constraint WHERE NOT convalidated") == []
    assert ask(engine.url, "SELECT count(*), count(manager_id) FROM gyms") == [(2, 2)]
    assert verify() == []


@pytest.mark.parametrize(
    ("table", "parents"),
    [
        ("users", ["roles", "gyms"]),
        ("graduations", ["users"]),
        ("checkins", ["users", "class"]),
        ("notifications", ["users"]),
    ],
)
def test_missing_parents_of_a_table_are_named(copy: Copy, engine: Engine, table: str, parents: list[str]) -> None:
    with pytest.raises(move.ParentsNotCopied) as caught:
        copy(table)
    assert caught.value.parents == parents
    assert ask(engine.url, f"SELECT count(*) FROM {table}") == [(0,)]


@pytest.mark.parametrize("table", phases())
def test_after_a_failure_each_table_is_unchanged_or_complete_and_the_keys_are_restored(
    copy: Copy, engine: Engine, expected_target: URL, verify: Callable[[], list[str]], table: str
) -> None:
    before = schema(engine)
    wanted = contents(expected_target)

    def fail(done: move.TableCopy) -> None:
        if done.table == table:
            raise Killed

    with pytest.raises(Killed):
        copy(on_table=fail)
    for name, rows in contents(engine.url).items():
        assert rows in ([], wanted[name])
    assert set(schema(engine)) == set(before)
    copy()
    assert verify() == []
    assert schema(engine) == before


def test_a_trigger_that_changes_rows_is_found_and_rolled_back(copy: Copy, engine: Engine) -> None:
    change(
        engine.url,
        "CREATE FUNCTION louder() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.title := upper(NEW.title); RETURN NEW; END';"
        "CREATE TRIGGER louder BEFORE INSERT ON assets FOR EACH ROW EXECUTE FUNCTION louder()",
    )
    with pytest.raises(move.CopyDiffers) as caught:
        copy()
    assert caught.value.table == "assets"
    assert ask(engine.url, "SELECT count(*) FROM assets") == [(0,)]
    assert ask(engine.url, "SELECT count(*) FROM checkins") == [(2,)]


def test_a_source_that_is_lost_during_a_copy_leaves_whole_tables(
    copy: Copy, supabase: URL, engine: Engine, verify: Callable[[], list[str]]
) -> None:
    def cut(done: move.TableCopy) -> None:
        if done.table == "users":
            change(
                supabase.set(database="postgres"),
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                f" WHERE datname = '{supabase.database}' AND application_name = 'tatame-db move'",
            )

    with pytest.raises(move.ConnectionLost):
        copy(on_table=cut)
    assert ask(engine.url, "SELECT count(*) FROM users") == [(3,)]
    assert ask(engine.url, "SELECT count(*) FROM checkins") == [(0,)]
    copy()
    assert verify() == []


def test_processes_that_lock_tables_are_not_waited_for_forever_and_named(copy: Copy, engine: Engine) -> None:
    change(
        engine.url,
        "INSERT INTO users (clerk_user_id) SELECT repeat('x', 100) || n FROM generate_series(1, 10000) AS n",
        "DELETE FROM users",
    )
    running = "SELECT pid FROM pg_stat_progress_vacuum WHERE datname = current_database()"
    with psycopg.connect(readable(engine.url)) as holder, ThreadPoolExecutor(1) as other:
        holder.execute("LOCK TABLE class IN ACCESS EXCLUSIVE MODE")
        # One against wraparound holds the same lock, and is not ended for a session that waits either.
        slow = "SET vacuum_cost_delay = 100", "SET vacuum_cost_limit = 1", "VACUUM users"
        vacuuming = other.submit(change, engine.url, *slow)
        while not (found := ask(engine.url, running)):
            assert not vacuuming.done()
        [(vacuum,)] = found
        with pytest.raises(move.TargetBusy) as caught:
            copy()
        assert caught.value.holders == [
            LockHolder("class", holder.info.backend_pid, vacuums=False),
            LockHolder("users", vacuum, vacuums=True),
        ]
        assert caught.value.fix.startswith("wait until VACUUM is done")
        ask(engine.url, f"SELECT pg_cancel_backend({vacuum})")
        with pytest.raises(psycopg.errors.QueryCanceled):
            vacuuming.result()


def test_status_shows_what_was_copied_and_what_changed_since(copy: Copy, engine: Engine) -> None:
    with move.open_target(engine) as target:
        assert {table.copied_at for table in move.status(target).tables} == {None}
    copy()
    change(engine.url, "UPDATE users SET email = 'new@gym.example' WHERE id = 1")
    with move.open_target(engine) as target:
        status = move.status(target)
    assert [table.table for table in status.tables if table.stale] == ["users"]
    assert [(table.table, table.phase) for table in status.tables] == list(phases().items())
    assert {table.table: table.rows for table in status.tables}["users"] == 3
    assert all(table.proven_at and table.copied_at for table in status.tables)
    assert (status.parked, status.unvalidated_keys) == ([], [])


def test_status_and_the_next_run_see_what_a_killed_run_left_parked(
    copy: Copy, supabase: URL, engine: Engine, verify: Callable[[], list[str]]
) -> None:
    before = schema(engine)
    copy()
    with move.open_for_writing(supabase, engine, lambda: None) as connections:
        Record(connections.target).park()
        connections.target.driver.commit()
    with move.open_target(engine) as target:
        parked = move.status(target).parked
    assert "gyms.gyms_manager_id_users_id_fk" in parked
    assert "notifications.notifications_recipients_index" in parked
    assert len(parked) == len(set(before) - set(schema(engine)))
    copy()
    assert schema(engine) == before
    assert verify() == []


def test_a_refused_run_restores_the_keys(copy: Copy, supabase: URL, engine: Engine) -> None:
    before = schema(engine)
    copy()
    with move.open_for_writing(supabase, engine, lambda: None) as connections:
        Record(connections.target).park()
        connections.target.driver.commit()
    change(supabase, "UPDATE class SET start = '18:30:45' WHERE id = 1")
    with pytest.raises(move.ObstaclesUnresolved):
        copy()
    assert set(schema(engine)) == set(before)


def test_a_violated_key_is_reported_and_stays_unvalidated(copy: Copy, engine: Engine) -> None:
    copy()
    change(
        engine.url,
        "ALTER TABLE checkins DROP CONSTRAINT checkins_user_id_users_id_fk;"
        " INSERT INTO tatame_move.parked (kind, table_name, name, definition) VALUES ('key', 'checkins',"
        " 'checkins_user_id_users_id_fk', 'FOREIGN KEY (user_id) REFERENCES public.users(id)');"
        " UPDATE checkins SET user_id = 99",
    )
    with pytest.raises(move.ForeignKeyViolated) as caught:
        copy("roles")
    assert caught.value.violations == ["2 rows of checkins violate checkins_user_id_users_id_fk"]
    with move.open_target(engine) as target:
        assert move.status(target).unvalidated_keys == ["checkins.checkins_user_id_users_id_fk"]


def test_a_run_is_recorded_with_its_report(copy: Copy, engine: Engine) -> None:
    copy()
    copy("roles")
    runs = ask(engine.url, "SELECT options, report, ended_at IS NOT NULL FROM tatame_move.runs ORDER BY id")
    assert [(options["tables"][0], report["hash"], ended) for options, report, ended in runs] == [
        ("roles", "hash_record_extended", True),
        ("roles", "hash_record_extended", True),
    ]
    assert len(runs[0][1]["tables"]) == len(phases())


def test_a_target_without_the_schema_is_not_written_to(supabase: URL, bare_engine: Engine) -> None:
    with pytest.raises(evolve.SchemaBehind), move.open_for_writing(supabase, bare_engine, lambda: None):
        pass


def test_a_database_is_not_copied_onto_itself(engine: Engine) -> None:
    with pytest.raises(move.SameDatabase), move.open_for_writing(engine.url, engine, lambda: None):
        pass


def test_a_project_named_as_its_own_target_is_refused_before_its_pending_migrations(supabase: URL) -> None:
    with Database(supabase) as database:
        with pytest.raises(move.SameDatabase), move.open_for_writing(supabase, database.engine, lambda: None):
            pass
        with pytest.raises(move.SameDatabase), move.open_for_reading(supabase, database.engine):
            pass


def test_only_one_run_is_active_at_a_time_and_no_migration_beside_it(supabase: URL, engine: Engine) -> None:
    with move.open_for_writing(supabase, engine, lambda: None):
        assert ask(engine.url, f"SELECT pg_try_advisory_lock({LOCK_KEY})") == [(False,)]
