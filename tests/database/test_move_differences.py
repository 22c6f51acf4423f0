"""Many excluded rows, many differences and long values: what `verify` asks for, holds and leaves behind."""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc

import pytest
from sqlalchemy import URL, Engine
from tests.database.moves import Copy, ask, change, copy_into

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.move.differences import BATCH_BYTES


@pytest.fixture
def copy(supabase: URL, engine: Engine) -> Copy:
    return copy_into(supabase, engine)


@pytest.mark.parametrize("batch_bytes", [0, 30, BATCH_BYTES])
def test_the_values_are_the_same_in_batches_of_any_size(
    copy: Copy, supabase: URL, engine: Engine, monkeypatch: pytest.MonkeyPatch, batch_bytes: int
) -> None:
    change(
        supabase, "INSERT INTO assets (id, title, content) SELECT n, 't' || n, 'c' FROM generate_series(10, 19) AS n"
    )
    copy()
    change(
        engine.url,
        "UPDATE assets SET title = id WHERE id BETWEEN 10 AND 14; UPDATE assets SET content = NULL WHERE id >= 14;"
        " DELETE FROM assets WHERE id = 12; INSERT INTO assets (id) VALUES (20)",
    )
    monkeypatch.setattr("tatame_db.move.differences.BATCH_BYTES", batch_bytes)
    with move.open_for_reading(supabase, engine) as connections:
        [proof] = move.verify(connections, ["assets"]).tables
    found = {
        row.id: (row.kind, [(value.column, value.source, value.target) for value in row.values])
        for row in proof.differences
    }
    expected = {
        str(key): (
            "differing",
            ([("title", f"t{key}", str(key))] if key <= 14 else []) + ([("content", "c", None)] if key >= 14 else []),
        )
        for key in range(10, 20)
    }
    assert found == expected | {"12": ("missing", []), "20": ("extra", [])}
    assert list(found) == [str(key) for key in range(10, 21)]


def test_only_some_of_the_values_are_in_memory_at_a_time(
    copy: Copy, supabase: URL, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tatame_db.move.differences.BATCH_BYTES", 300_000)
    change(
        supabase,
        "INSERT INTO assets (id, content) SELECT n, repeat('x', 100000) FROM generate_series(100, 159) AS n;"
        " UPDATE assets SET valid_until = 'infinity' WHERE id < 130",
    )
    copy(choices=move.Choices(misfits="null"))
    change(engine.url, "UPDATE assets SET content = content || '.' WHERE id >= 130")
    with move.open_for_reading(supabase, engine) as connections:
        tracemalloc.start()
        compared = move.compare(connections, ["assets"], max_differences=1_000)
        [table] = compared.proof.tables
        assert (table.differing, table.by_choice) == (62, 32)
        lengths = [len(value.target or "") for row in compared.differences(table) for value in row.values]
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert lengths.count(100_001) == 30
    # Of the 6 MB that differ, and the 12 MB of all values.
    assert peak_bytes < 3_000_000


def test_many_excluded_rows_are_each_recognized(copy: Copy, supabase: URL, engine: Engine) -> None:
    change(
        supabase,
        "INSERT INTO checkins (id, date) SELECT n, CASE WHEN n % 2 = 0 THEN 'infinity'::date END"
        " FROM generate_series(100000, 107999) AS n",
    )
    copy(choices=move.Choices(misfits="reject"))
    with move.open_for_reading(supabase, engine) as connections:
        [proof] = move.verify(connections, ["checkins"], max_differences=0).tables
    assert (proof.missing, proof.by_choice, proof.differences) == (4_000, 4_000, [])
    change(supabase, "UPDATE checkins SET created_at = now() WHERE id = 100002")
    with move.open_for_reading(supabase, engine) as connections:
        [proof] = move.verify(connections, ["checkins"], max_differences=0).tables
    assert (proof.missing, proof.by_choice) == (4_000, 3_999)


def test_the_server_ends_the_query_of_a_client_that_was_killed(supabase: URL) -> None:
    program = (
        "import sys; from sqlalchemy import make_url; from tatame_db.move.open import open_source\n"
        "with open_source(make_url(sys.argv[1])) as source: source.rows('SELECT pg_sleep(3600)')"
    )
    running = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_sleep(3600)'"
    )
    client = subprocess.Popen([sys.executable, "-c", program, readable(supabase)])
    try:
        while ask(supabase, running) == [(0,)]:
            assert client.poll() is None
            time.sleep(0.05)
    finally:
        client.kill()
        client.wait()
    while ask(supabase, running) != [(0,)]:
        time.sleep(0.05)
