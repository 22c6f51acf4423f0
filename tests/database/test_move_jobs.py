from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import psycopg
import pytest
from sqlalchemy import URL, Engine

from tatame_db import move
from tatame_db.database.address import readable
from tatame_db.evolve import catalogue
from tatame_db.move import jobs
from tatame_db.move.open import reopen
from tatame_db.schema import phases

Copy = Callable[..., move.Report]


def change(address: URL, statements: str) -> None:
    with psycopg.connect(readable(address), autocommit=True) as connection:
        connection.execute(statements.encode())


def contents(address: URL) -> dict[str, list[Any]]:
    with psycopg.connect(readable(address), autocommit=True) as connection:
        return {
            table: sorted(connection.execute(f'SELECT t::text FROM public."{table}" AS t'.encode()))
            for table in phases()
        }


def schema(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        return catalogue.read(connection)


@pytest.fixture
def copy(supabase: URL, engine: Engine) -> Copy:
    """Copy in three jobs."""

    def copy(**options: Any) -> move.Report:
        with move.open_for_writing(supabase, engine, lambda: None) as connections:
            return move.copy(connections, jobs=3, **options)

    return copy


def test_all_jobs_see_the_moment_of_the_first_though_somebody_writes_before_they_begin(
    copy: Copy, supabase: URL, engine: Engine, expected_target: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = schema(engine)
    done: list[str] = []

    def write_first(connections: move.Connections, snapshot: str) -> AbstractContextManager[move.Connections]:
        change(
            supabase,
            "UPDATE users SET email = 'later'; UPDATE notifications SET title = 'later'; DELETE FROM attachments;"
            " INSERT INTO checkins (id) SELECT max(id) + 1 FROM checkins; DELETE FROM graduations",
        )
        return reopen(connections, snapshot)

    monkeypatch.setattr(jobs, "reopen", write_first)
    report = copy(on_table=lambda table: done.append(table.table))
    assert contents(engine.url) == contents(expected_target)
    assert schema(engine) == before
    assert [table.table for table in report.tables] == list(phases())
    assert sorted(done) == sorted(phases())
    copy()
    assert contents(engine.url) != contents(expected_target)


SLOW = """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(100); RETURN NEW; END';
    CREATE TRIGGER slow BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION slow();
"""


def test_a_failure_in_one_job_ends_what_the_others_are_at_and_undoes_it(
    copy: Copy, engine: Engine, expected_target: URL
) -> None:
    before, wanted = schema(engine), contents(expected_target)
    change(
        engine.url,
        f"{SLOW} CREATE FUNCTION louder() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN NEW.title := upper(NEW.title); RETURN NEW; END';"
        "CREATE TRIGGER louder BEFORE INSERT ON assets FOR EACH ROW EXECUTE FUNCTION louder()",
    )
    with pytest.raises(move.CopyDiffers) as caught:
        copy()
    assert caught.value.table == "assets"
    now = contents(engine.url)
    # Else the users, for whom all had to wait, would be there.
    assert (now["users"], now["assets"]) == ([], [])
    assert all(rows in ([], wanted[table]) for table, rows in now.items())
    change(engine.url, "DROP FUNCTION slow CASCADE; DROP FUNCTION louder CASCADE")
    assert set(schema(engine)) == set(before)
    copy()
    assert contents(engine.url) == wanted
    assert schema(engine) == before


def test_a_job_that_loses_the_source_says_so(copy: Copy, supabase: URL) -> None:
    def cut(_: move.TableCopy) -> None:
        change(
            supabase.set(database="postgres"),
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            f" WHERE datname = '{supabase.database}' AND application_name = 'tatame-db move'",
        )

    with pytest.raises(move.ConnectionLost):
        copy(on_table=cut)
    copy()
