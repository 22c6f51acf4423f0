from __future__ import annotations

import hashlib

import psycopg
import pytest
from sqlalchemy import URL, Engine
from tests.database.moves import Copy, change, copy_into

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.move.fingerprint import Fingerprint
from tatame_db.schema import phases


@pytest.fixture
def copy(supabase: URL, engine: Engine) -> Copy:
    return copy_into(supabase, engine, sha256=True)


def hash_of(address: URL, table: str) -> str:
    """Return the SHA-256 of the rows of a table in binary, in the order of their ids."""
    everything = f'COPY (SELECT * FROM public."{table}" ORDER BY id) TO STDOUT (FORMAT binary)'.encode()
    with psycopg.connect(readable(address)) as connection, connection.cursor().copy(everything) as read:
        return hashlib.sha256(b"".join(map(bytes, read))).hexdigest()


def test_rows_copied_into_empty_tables_are_read_back_and_hashed(copy: Copy, engine: Engine) -> None:
    report = copy()
    assert {table.table: table.sha256 for table in report.tables} == {
        table: hash_of(engine.url, table) for table in phases()
    }
    assert {table.sha256 for table in copy().tables} == {None}


def test_several_jobs_give_the_same_hashes(copy: Copy, engine: Engine) -> None:
    assert {table.table: table.sha256 for table in copy(jobs=3).tables} == {
        table: hash_of(engine.url, table) for table in phases()
    }


def test_an_array_that_lost_its_last_null_has_the_same_bytes(copy: Copy, supabase: URL) -> None:
    change(supabase, "UPDATE notifications SET recipients[2] = 'x' WHERE id = 1")
    assert all(table.sha256 for table in copy().tables)


def test_rows_stored_in_another_order_have_the_same_hash(copy: Copy, supabase: URL, engine: Engine) -> None:
    change(
        engine.url,
        "INSERT INTO checkins (id) SELECT n FROM generate_series(1, 5000) AS n",
        "DELETE FROM checkins WHERE id % 400 > 200",
        "VACUUM checkins",
        "DELETE FROM checkins",
    )
    change(supabase, "INSERT INTO checkins (id) SELECT n FROM generate_series(110000, 100000, -1) AS n")
    report = {table.table: table for table in copy().tables}
    assert (report["checkins"].rows, report["checkins"].sha256) == (10_003, hash_of(engine.url, "checkins"))


def test_a_value_that_a_trigger_changed_is_found_by_its_bytes(
    copy: Copy, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tatame_db.move.copy_table._prove", lambda *_: (((0, ""), (0, "")), Fingerprint(0, 0)))
    change(
        engine.url,
        "CREATE FUNCTION louder() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.title := upper(NEW.title); RETURN NEW; END'",
        "CREATE TRIGGER louder BEFORE INSERT ON assets FOR EACH ROW EXECUTE FUNCTION louder()",
    )
    with pytest.raises(move.CopyDiffers) as caught:
        copy()
    assert caught.value.table == "assets"
