from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Engine
from tests.conftest import on_both_versions
from tests.database.moves import ask

from tatame_db import evolve, move
from tatame_db.database.address import readable
from tatame_db.database.creation import create_missing_database
from tatame_db.database.dialect import literal
from tatame_db.database.pool import Database
from tatame_db.move import digest
from tatame_db.move.conversion import about, hashed
from tatame_db.move.differences import RowDifference, ValueDifference
from tatame_db.move.fingerprint import hash_of_values
from tatame_db.schema import phases

Verify = Callable[..., move.Proof]


def change(address: URL, statements: str) -> None:
    with psycopg.connect(readable(address), autocommit=True) as connection:
        connection.execute(statements.encode())


@pytest.fixture
def verify(supabase: URL, expected_target: URL) -> Verify:
    """Compare the rows of `supabase` with the expected rows of the target, which are written by hand."""

    def verify(*tables: str, **options: Any) -> move.Proof:
        with Database(expected_target) as target, move.open_for_reading(supabase, target.engine) as connections:
            return move.verify(connections, tables, **options)

    return verify


def only(found: move.Proof) -> move.TableProof:
    [name] = found.unequal
    return next(table for table in found.tables if table.table == name)


@on_both_versions
def test_the_rows_written_by_hand_for_both_databases_are_equal(verify: Verify) -> None:
    found = verify()
    assert found.unequal == []
    assert [table.table for table in found.tables] == list(phases())
    assert all(table.source_rows == table.target_rows for table in found.tables)
    assert all(table.source_rows for table in found.tables)


@pytest.mark.parametrize(
    ("side", "settings"),
    [
        ("supabase", "timezone = 'America/Sao_Paulo'"),
        ("expected_target", "timezone = 'Asia/Kolkata'"),
        ("expected_target", "datestyle = 'SQL, DMY'"),
        ("supabase", "extra_float_digits = -3"),
        ("supabase", "search_path = nowhere"),
    ],
)
def test_the_settings_of_a_database_have_no_effect(
    verify: Verify, request: pytest.FixtureRequest, side: str, settings: str
) -> None:
    address = request.getfixturevalue(side)
    change(address, f"ALTER DATABASE {address.database} SET {settings}")
    assert verify().unequal == []


@pytest.mark.parametrize(
    ("statement", "table", "value"),
    [
        (
            "UPDATE users SET email = 'Ana@gym.example' WHERE id = 1",
            "users",
            ValueDifference("email", "ana@gym.example", "Ana@gym.example"),
        ),
        ("UPDATE users SET email = NULL WHERE id = 2", "users", ValueDifference("email", "", None)),
        ("UPDATE users SET email = '' WHERE id = -5", "users", ValueDifference("email", None, "")),
        ("UPDATE users SET first_name = NULL WHERE id = 2", "users", ValueDifference("first_name", "NULL", None)),
        (
            "UPDATE users SET first_name = E'\\u00e9' WHERE id = -5",
            "users",
            ValueDifference("first_name", "e\u0301", "é"),
        ),
        (
            "UPDATE users SET last_name = 'Null' WHERE id = 2",
            "users",
            ValueDifference("last_name", "null", "Null"),
        ),
        ("UPDATE users SET plan = '' WHERE id = 2", "users", ValueDifference("plan", "\u200b", "")),
        (
            "UPDATE users SET migrated_at = migrated_at - interval '1 microsecond'",
            "users",
            ValueDifference("migrated_at", "2024-05-01 13:00:00.123456+00", "2024-05-01 13:00:00.123455"),
        ),
        (
            "UPDATE users SET migrated_at = '2024-05-01 10:00:00.123456' WHERE id = 1",
            "users",
            ValueDifference("migrated_at", "2024-05-01 13:00:00.123456+00", "2024-05-01 10:00:00.123456"),
        ),
        (
            "UPDATE class SET start = '18:30:00' WHERE id = 1",
            "class",
            ValueDifference("start", "18:30:00", "18:30:00"),
        ),
        ("UPDATE class SET start = 'soon' WHERE id = 1", "class", ValueDifference("start", "18:30:00", "soon")),
        ("UPDATE class SET \"end\" = '00:00' WHERE id = 1", "class", ValueDifference("end", "24:00:00", "00:00")),
        (
            "UPDATE class SET deleted_at = '2024-07-01 00:00:01' WHERE id = 1",
            "class",
            ValueDifference("deleted_at", "2024-07-01", "2024-07-01 00:00:01"),
        ),
        (
            "UPDATE checkins SET date = '2024-2-29' WHERE id = 1",
            "checkins",
            ValueDifference("date", "2024-02-29", "2024-2-29"),
        ),
        ("UPDATE checkins SET user_id = NULL WHERE id = 1", "checkins", ValueDifference("user_id", "1", None)),
        ("UPDATE gyms SET manager_id = NULL WHERE id = 1", "gyms", ValueDifference("manager_id", "1", None)),
        ("UPDATE graduations SET degree = NULL WHERE id = 1", "graduations", ValueDifference("degree", "0", None)),
        (
            "UPDATE notifications SET viewed_by = NULL WHERE id = 1",
            "notifications",
            ValueDifference("viewed_by", "{}", None),
        ),
        (
            "UPDATE notifications SET viewed_by = ARRAY['NULL'] WHERE id = 3",
            "notifications",
            ValueDifference("viewed_by", "{NULL}", '{"NULL"}'),
        ),
        (
            "UPDATE notifications SET viewed_by = '{1,2,3,4}' WHERE id = 2",
            "notifications",
            ValueDifference("viewed_by", "{{1,2},{3,4}}", "{1,2,3,4}"),
        ),
        (
            "UPDATE notifications SET recipients = '{a,b}' WHERE id = 3",
            "notifications",
            ValueDifference("recipients", "[0:1]={a,b}", "{a,b}"),
        ),
        (
            "UPDATE roles SET created_at = '-infinity' WHERE id = 'INSTRUCTOR'",
            "roles",
            ValueDifference("created_at", "0001-01-01 00:00:00+00", "-infinity"),
        ),
        (
            "UPDATE versions SET app_version = '1.0.0 ' WHERE id = 1",
            "versions",
            ValueDifference("app_version", "1.0.0", "1.0.0 "),
        ),
    ],
)
def test_a_changed_value_is_found_and_shown_with_its_counterpart(
    verify: Verify, expected_target: URL, statement: str, table: str, value: ValueDifference
) -> None:
    change(expected_target, statement)
    found = only(verify())
    assert found.table == table
    assert (found.missing, found.extra, found.differing) == (0, 0, 1)
    [difference] = found.differences
    assert difference.kind == "differing"
    assert difference.values == [value]


def test_swapped_values_of_a_row_are_found(verify: Verify, expected_target: URL) -> None:
    change(expected_target, "UPDATE assets SET type = title, title = type WHERE id = 1")
    [difference] = only(verify()).differences
    assert difference.values == [
        ValueDifference("title", "x", "video"),
        ValueDifference("type", "video", "x"),
    ]


def test_swapped_contents_of_two_rows_are_found(verify: Verify, expected_target: URL) -> None:
    change(expected_target, "UPDATE graduations SET degree = CASE id WHEN 1 THEN -2147483648 ELSE 0 END")
    found = only(verify())
    assert [(difference.id, difference.kind) for difference in found.differences] == [
        ("1", "differing"),
        ("2", "differing"),
    ]


@on_both_versions
def test_a_time_with_seconds_differs_from_one_without(verify: Verify, supabase: URL) -> None:
    change(supabase, "UPDATE class SET start = '18:30:45' WHERE id = 1")
    [difference] = only(verify()).differences
    assert difference.values == [ValueDifference("start", "18:30:45", "18:30")]


def test_a_column_that_the_source_lacks_must_be_null_in_the_target(
    verify: Verify, supabase: URL, expected_target: URL
) -> None:
    change(supabase, "ALTER TABLE users DROP migrated_at")
    [difference] = only(verify()).differences
    assert difference.values == [ValueDifference("migrated_at", None, "2024-05-01 13:00:00.123456")]
    change(expected_target, "UPDATE users SET migrated_at = NULL")
    assert verify().unequal == []


@on_both_versions
def test_missing_and_extra_rows_are_named(verify: Verify, supabase: URL) -> None:
    change(supabase, "DELETE FROM checkins WHERE id = 1; INSERT INTO checkins (id) VALUES (-9), (2147483647), (66000)")
    found = only(verify())
    assert (found.missing, found.extra, found.differing) == (3, 1, 0)
    assert [(difference.id, difference.kind) for difference in found.differences] == [
        ("-9", "missing"),
        ("1", "extra"),
        ("66000", "missing"),
        ("2147483647", "missing"),
    ]


def test_different_rows_with_equal_counts_are_found(verify: Verify, expected_target: URL) -> None:
    change(expected_target, "UPDATE attachments SET id = 2")
    found = only(verify())
    assert (found.source_rows, found.target_rows, found.missing, found.extra) == (1, 1, 1, 1)


def test_differences_of_a_table_with_text_ids_are_found(verify: Verify, expected_target: URL) -> None:
    change(expected_target, "INSERT INTO roles VALUES ('GHOST')")
    assert only(verify()).differences == [RowDifference("GHOST", "extra", [])]


def test_an_id_out_of_range_is_missing_and_not_an_error(verify: Verify, supabase: URL) -> None:
    change(supabase, "INSERT INTO checkins (id) VALUES (9223372036854775807), (-9223372036854775808)")
    assert [difference.id for difference in only(verify()).differences] == [
        "-9223372036854775808",
        "9223372036854775807",
    ]


def test_rows_with_a_duplicate_id_or_none_are_missing(verify: Verify, supabase: URL) -> None:
    change(
        supabase,
        "ALTER TABLE versions DROP CONSTRAINT versions_pkey; ALTER TABLE versions ALTER id DROP IDENTITY,"
        " ALTER id DROP NOT NULL; INSERT INTO versions SELECT * FROM versions WHERE id = 7;"
        " INSERT INTO versions (id) VALUES (NULL)",
    )
    found = only(verify())
    assert (found.missing, found.extra) == (2, 0)
    assert {difference.id for difference in found.differences} == {"7", "NULL"}


def test_differences_beyond_the_limit_are_counted_and_not_shown(verify: Verify, supabase: URL) -> None:
    change(supabase, "INSERT INTO checkins (id) SELECT n FROM generate_series(100, 140000) AS n WHERE n <> 70000")
    found = only(verify(max_differences=3))
    assert found.missing == 139_900
    assert [difference.id for difference in found.differences] == ["100", "101", "102"]
    assert only(verify(max_differences=0)).differences == []


def test_only_the_requested_tables_are_compared(verify: Verify, expected_target: URL) -> None:
    change(expected_target, "DELETE FROM checkins")
    assert [table.table for table in verify("users", "roles").tables] == ["roles", "users"]
    assert verify("users", "roles").unequal == []
    with pytest.raises(move.TableUnknown) as caught:
        verify("users", "usres")
    assert caught.value.names == ["usres"]


def test_a_table_that_the_source_lacks_cannot_be_proven(verify: Verify, supabase: URL, expected_target: URL) -> None:
    change(supabase, "DROP TABLE versions, attachments")
    change(expected_target, "DELETE FROM versions; DELETE FROM attachments")
    assert verify().unequal == ["versions"]
    with Database(expected_target) as target, move.open_for_reading(supabase, target.engine) as connections:
        assert [count.table for count in move.counts(connections) if not count.agrees] == ["versions"]


def test_attachments_that_the_source_lacks_are_extra_rows(verify: Verify, supabase: URL) -> None:
    change(supabase, "DROP TABLE attachments")
    assert only(verify()).differences == [RowDifference("1", "extra", [])]


def test_counts_are_compared_by_table(supabase: URL, expected_target: URL) -> None:
    change(expected_target, "DELETE FROM checkins WHERE id = 1")
    with Database(expected_target) as target, move.open_for_reading(supabase, target.engine) as connections:
        found = move.counts(connections)
    assert [count.table for count in found] == list(phases())
    assert [count for count in found if not count.agrees] == [move.TableCount("checkins", 2, 1)]


def test_servers_of_different_versions_agree(
    supabase: URL, postgres_programs: Callable[[int], Path], other_postgres: Callable[[Path], URL]
) -> None:
    old = other_postgres(postgres_programs(14))
    create_missing_database(old)
    with Database(old) as target:
        evolve.migrate(target.engine)
        change(old, (Path(__file__).parents[1] / "expected_rows.sql").read_text())
        with move.open_for_reading(supabase, target.engine) as connections:
            found = move.verify(connections)
    assert (found.hash, found.unequal) == ("hash_record_extended", [])


@pytest.mark.parametrize("fast", ["broken", ""])
def test_servers_that_hash_differently_are_compared_by_md5(
    verify: Verify, expected_target: URL, monkeypatch: pytest.MonkeyPatch, fast: str
) -> None:
    # A hash that differs between sessions stands for a server on a machine of another kind.
    unlike = digest.Hash("unlike", 'hashtextextended((TEXT) COLLATE "C", pg_backend_pid())', hashes_values=True)
    first, md5 = digest.HASHES
    monkeypatch.setattr(digest, "HASHES", [unlike if fast == "broken" else first, md5])
    found = verify()
    assert (found.hash, found.unequal) == ("md5" if fast else "hash_record_extended", [])
    change(expected_target, "UPDATE users SET email = 'x' WHERE id = 1")
    assert only(verify()).differing == 1


def test_servers_without_a_common_hash_cannot_be_compared(verify: Verify, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "HASHES", [digest.Hash("unlike", "hashtextextended(TEXT, pg_backend_pid())")])
    with pytest.raises(move.NoCommonHash, match="UTF8 and UTF8"):
        verify()


def test_a_text_that_moves_to_the_next_column_is_found(verify: Verify, supabase: URL, expected_target: URL) -> None:
    change(supabase, "UPDATE users SET first_name = 'a,b', last_name = NULL WHERE id = 1")
    change(expected_target, "UPDATE users SET first_name = 'a', last_name = 'b,' WHERE id = 1")
    assert only(verify()).differing == 1


@on_both_versions
def test_rows_that_exchange_a_value_are_found(verify: Verify, expected_target: URL) -> None:
    # The sum of each column stays the same.
    change(
        expected_target,
        "UPDATE users AS u SET email = o.email FROM users AS o WHERE (u.id, o.id) IN ((1, 2), (2, 1))",
    )
    assert only(verify()).differing == 2


@pytest.mark.parametrize("kind", ["bigint", "numeric", "money", "json", "varchar", "character(9)", "date", "text[]"])
def test_a_column_of_another_type_is_compared_by_its_text(verify: Verify, expected_target: URL, kind: str) -> None:
    # Some types have no hash, and values of others may be equal to ones with another text.
    change(
        expected_target,
        f"ALTER TABLE users DROP phone; ALTER TABLE users ADD phone {kind}",
    )
    assert only(verify()).differing > 0


# Values whose two halves of 32 bits have the same exclusive or, which is all that PostgreSQL's own hash of them sees.
FOLDED = {
    "bigint": ("4294967301", "4"),
    "time without time zone": ("10:00:00", "08:48:25.032719"),
    "timestamp without time zone": ("2024-03-01 10:00:00", "2024-03-01 08:48:25.032705"),
    "timestamp with time zone": ("2024-03-01 10:00:00+00", "2024-03-01 08:48:25.032705+00"),
}


@pytest.mark.parametrize("kind", FOLDED)
def test_values_that_postgresql_hashes_alike_have_different_hashes(engine: Engine, kind: str) -> None:
    expression = about(hashed(kind) or "", "value")
    hashes = [
        f"SELECT hash_record_extended(ROW(value), 0), {hash_of_values([expression])} FROM"
        f" (SELECT {literal(value)}::{kind} AS value) AS v"
        for value in FOLDED[kind]
    ]
    (own, digest), (other_own, other_digest) = [ask(engine.url, query)[0] for query in hashes]
    assert (own == other_own, digest == other_digest) == (True, False)


@on_both_versions
def test_a_moment_that_postgresql_hashes_alike_is_found(verify: Verify, supabase: URL, expected_target: URL) -> None:
    value, other = FOLDED["timestamp without time zone"]
    change(supabase, "ALTER TABLE checkins ALTER created_at TYPE timestamp USING created_at AT TIME ZONE 'UTC'")
    change(expected_target, f"UPDATE checkins SET created_at = '{value}'")
    change(supabase, f"UPDATE checkins SET created_at = '{value}'")
    assert verify().unequal == []
    change(supabase, f"UPDATE checkins SET created_at = '{other}' WHERE id = 1")
    assert only(verify()).differing == 1


def test_a_hash_has_64_bits(engine: Engine) -> None:
    # Of 32 bits, a million rows would have more than a hundred hashes twice.
    query = f"SELECT count(DISTINCT {hash_of_values(['n', 'n % 7'])}) FROM generate_series(1, 1000000) AS n"
    assert ask(engine.url, query) == [(1_000_000,)]
