"""The rights, the doctor, the studio and the test kit with the partitions of the page "Monthly partitions"."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from sqlalchemy import URL
from tests.acceptance.test_partitions import bound, file
from tests.conftest import require_older_programs
from tests.database.doctors import Ward, database_of, older_clinic
from tests.database.scratches import shared_scratch
from tests.database.test_studio_tables import delete, page, save, update

from tatame_db.database.address import readable
from tatame_db.database.bulk import truncate
from tatame_db.database.pool import Database
from tatame_db.doctor import Verdict
from tatame_db.schema import Base
from tatame_db.seed import OtherTablesRefer, SampleRowsRefused, SeedPlan, empty, seed
from tatame_db.studio.access import Access, open_access

__all__ = ["shared_scratch"]


def statements() -> list[str]:
    """Return what the page runs, without the programs that it runs it with."""
    [constraint] = re.findall(r"ALTER TABLE public.checkins ADD .* NOT VALID", file("src/tatame_db/schema/bound.py"))
    found = [constraint, "CREATE UNIQUE INDEX checkins_id_created_at_index ON checkins (id, created_at)"]
    swap: dict[str, Any] = {"op": SimpleNamespace(execute=found.append)}
    exec(file("the swap"), swap)  # noqa: S102, it is the code of the page
    swap["upgrade"]()
    return found


def run_as(address: URL, *sql: str) -> list[Any]:
    """Run statements and return the rows of the last one."""
    with psycopg.connect(readable(address), autocommit=True) as connection:
        cursor = connection.cursor()
        for statement in sql:
            cursor.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def ward(request: pytest.FixtureRequest) -> Generator[Ward]:
    """A database with the four roles, on PostgreSQL 15."""
    require_older_programs()
    with older_clinic() as clinic, database_of(clinic) as address:
        ward = Ward(clinic, address, clinic.setup, request)
        with ward.stack:
            yield ward


def test_every_role_keeps_its_rights_on_partitions_and_the_doctor_finds_nothing(ward: Ward) -> None:
    owner = ward.direct.set(username="tatame_owner")
    before = {(finding.name, finding.verdict) for finding in ward.examine().findings}
    lost = f"ALTER TABLE checkins DETACH PARTITION checkins_{bound(3):%Y_%m}"
    run_as(owner, *statements(), lost, file("months.sql"))

    app = ward.address
    [(key,)] = run_as(app, "INSERT INTO checkins (date) VALUES ('2026-01-01') RETURNING id")
    run_as(app, f"INSERT INTO checkins (created_at) VALUES ('{bound(12)}')")
    run_as(app, f"UPDATE checkins SET date = 'x' WHERE id = {key}", "DELETE FROM checkins WHERE date IS NULL")
    assert run_as(app, "SELECT date FROM checkins") == [("x",)]

    after = {(finding.name, finding.verdict) for finding in ward.examine().findings}
    # The steps are no migration here.
    assert after - before == {("drift", Verdict.BAD), ("partitions", Verdict.GOOD)}
    assert before - after == {("drift", Verdict.GOOD)}


@pytest.fixture
def database(committed_database: Database) -> Database:
    for statement in statements():
        run_as(committed_database.address, statement)
    return committed_database


def test_the_studio_shows_one_table_and_edits_it_and_the_test_kit_clears_it(
    database: Database, serve_studio: Callable[[Access], Any]
) -> None:
    run_as(
        database.address,
        "INSERT INTO users (clerk_user_id, first_name) VALUES ('a', 'Ana')",
        "INSERT INTO checkins (user_id, date) VALUES (1, '1')",
        f"INSERT INTO checkins (user_id, date, created_at) VALUES (1, '2', '{bound()}')",
    )
    studio = serve_studio(open_access(database, embedded=True, write=True))
    for place in ("/api/tables", "/api/overview"):
        assert set(re.findall(r"checkins\w*", str(studio.get(place)))) == {"checkins"}
    rows = page(studio, "checkins")
    assert len(rows["rows"]) == 2
    first, second = rows["keys"]
    assert studio.get("/api/count/checkins") == {"rows": 2}
    found = page(studio, "checkins", q="ana")
    assert (found["keys"], found["search"]["reads_all"]) == (rows["keys"], False)
    assert studio.get(f"/api/row/checkins/{quote(first, safe='')}")["row"]["date"] == "1"
    [saved] = save(studio, update("checkins", second, {"date": "3"}, {"date": "2"}))["rows"]
    assert saved["row"]["date"] == "3"
    save(studio, delete("checkins", first))
    new = {"op": "insert", "table": "checkins", "values": {"user_id": "1", "date": "4"}}
    save(studio, new)
    assert run_as(database.address, "SELECT id, date FROM checkins ORDER BY 1") == [(2, "3"), (3, "4")]

    with database.engine.begin() as connection:
        truncate(connection, list(Base.metadata.tables.values()))
    run_as(database.address, f"INSERT INTO checkins (created_at) VALUES ('{bound()}')")
    assert run_as(database.address, "SELECT id FROM checkins") == [(1,)]


def test_a_month_that_the_job_cannot_create_makes_it_fail(database: Database) -> None:
    month, later, job = f"checkins_{bound(4):%Y_%m}", f"checkins_{bound(5):%Y_%m}", file("months.sql")
    archive = "CREATE TABLE archive (LIKE checkins INCLUDING DEFAULTS) PARTITION BY RANGE (created_at)"
    bounds = f"FOR VALUES FROM ('{bound(4)}') TO ('{bound(5)}')"
    run_as(database.address, f"ALTER TABLE checkins DETACH PARTITION {month}", f"DROP TABLE {later}", archive)
    run_as(database.address, f"ALTER TABLE archive ATTACH PARTITION {month} {bounds}")
    with pytest.raises(psycopg.errors.WrongObjectType, match=f'"{month}" is already a partition'):
        run_as(database.address, job)
    assert run_as(database.address, f"SELECT to_regclass('{later}')") == [(None,)]

    run_as(database.address, f"ALTER TABLE archive DETACH PARTITION {month}", job)
    pending = f"UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = '{month}'::regclass"
    run_as(database.address, pending)
    with pytest.raises(psycopg.errors.WrongObjectType, match=f'"{month}" is already a partition'):
        run_as(database.address, job)
    run_as(database.address, f"ALTER TABLE checkins DETACH PARTITION {month} FINALIZE", job)
    assert run_as(
        database.address, f"SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = '{month}'::regclass"
    ) == [("checkins",)]

    # The months are where their table is, whatever is first on the path of the role.
    run_as(database.address, f"DROP TABLE {later}", f'CREATE SCHEMA "{database.address.username}"', job)
    found = f"SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = '{later}'"
    assert run_as(database.address, found) == [("public",)]
    run_as(database.address, f'DROP SCHEMA "{database.address.username}"')


def test_the_seed_says_which_table_or_partition_it_lacks_without_values(database: Database) -> None:
    late = SeedPlan(gyms=1, members=5, days=5, until=bound(40).date())
    with pytest.raises(SampleRowsRefused) as refused, database.engine.begin() as connection:
        seed(connection, late)
    assert 'no partition of relation "checkins" found for row' in str(refused.value)
    assert refused.value.__suppress_context__

    run_as(database.address, f"ALTER TABLE checkins DETACH PARTITION checkins_{bound(4):%Y_%m}")
    with pytest.raises(OtherTablesRefer) as other, database.engine.begin() as connection:
        empty(connection)
    assert other.value.tables == [f"checkins_{bound(4):%Y_%m}"]
