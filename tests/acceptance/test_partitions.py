"""The page "Monthly partitions", step by step, on 200,000 rows, while writers insert, change, delete and read."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import URL
from tests.acceptance.test_int_to_bigint import assert_good, edit_model, writing
from tests.acceptance.test_schema_changes import Checkout, check_out, migrated

from tatame_db.database.address import readable

__all__ = ["check_out", "migrated"]

PAGE = Path(__file__).parents[2] / "docs" / "partitions.md"
ROWS = 200_000


def bound(months: int = 2) -> datetime:
    """Return the first day of a month from now on."""
    today = datetime.now(UTC)
    years, month = divmod(today.month - 1 + months, 12)
    return datetime(today.year + years, month + 1, 1, tzinfo=UTC)


MONTH = f"checkins_{bound():%Y_%m}"


def file(title: str) -> str:
    """Return the content of a file that the page shows, with the bound of today."""
    [content] = re.findall(rf'^```\w+ title="{re.escape(title)}"\n(.*?)^```\n', PAGE.read_text(), re.DOTALL | re.M)
    replaced = {
        "2027-02-01": f"{bound():%Y-%m-%d}",
        "2027-03-01": f"{bound(3):%Y-%m-%d}",
        "checkins_2027_02": MONTH,
        "2028": f"{bound().year + 1}",
    }
    for written, meant in replaced.items():
        content = content.replace(written, meant)
    return str(content)


def finish(checkout: Checkout, title: str) -> None:
    """Replace the steps of the newest migration, as a person does."""
    newest = checkout.versions[-1]
    head = newest.read_text().partition("def upgrade")[0]
    newest.write_text(head + file(title))


def change(checkout: Checkout) -> None:
    """Follow the page."""
    source = checkout.root / "src" / "tatame_db" / "schema" / "bound.py"
    source.write_text(file("src/tatame_db/schema/bound.py"))
    checkout.done("generate", "check-ins are older than February 2027")
    checkout.done("migrate")
    assert_good(checkout)

    source.write_text(f"{source.read_text()}\n{file('the end of bound.py')}")
    checkout.done("generate", "index the new key of check-ins")
    finish(checkout, "an index")
    checkout.done("migrate")
    assert_good(checkout)
    source.unlink()
    edit_model(checkout, file("src/tatame_db/schema/checkins.py"))
    checkout.edit("schema/checkins.py", "import TYPE_CHECKING", "import TYPE_CHECKING, Any, ClassVar")
    checkout.done("generate", "--empty", "check-ins have monthly partitions")
    finish(checkout, "the swap")
    assert "warning:" not in checkout.run("lint").stdout
    checkout.done("migrate")
    assert "never analyzed: checkins" in checkout.run("doctor").stdout
    for statement in re.findall(r'^\$ tatame-db psql -c "(.*)"$', PAGE.read_text(), re.M):
        checkout.sql(statement)
    assert "never analyzed" not in checkout.run("doctor").stdout
    assert_good(checkout)


FILES = """
SELECT relfilenode FROM pg_class WHERE oid = '{0}'::regclass
UNION SELECT relfilenode FROM pg_class JOIN pg_index ON indexrelid = oid WHERE indrelid = '{0}'::regclass
"""


@pytest.mark.long
def test_a_table_becomes_monthly_partitions_while_writers_go_on(migrated: Checkout, supabase: URL) -> None:
    migrated.sql(f"INSERT INTO checkins (date) SELECT '2025-01-01' FROM generate_series(1, {ROWS})")
    files = set(migrated.sql(FILES.format("checkins")))
    with writing(migrated) as expected:
        change(migrated)
    assert set(migrated.sql(f"SELECT id, date FROM checkins WHERE id > {ROWS}")) == set(expected.items())
    # The table and two of its indexes are the files of before, beside the index of the new key.
    after = set(migrated.sql(FILES.format("checkins_past")))
    assert (len(after), len(after & files)) == (4, 3)
    assert migrated.done("generate", "more").stderr == "nothing to generate\n"
    assert re.search(r"^  checkins +2\d\d,\d\d\d +0.0%", migrated.done("status").stdout, re.M)

    migrated.sql(f"INSERT INTO checkins (id, created_at) VALUES (-1, '{bound(4)}')")
    migrated.done("rollback", "--yes", "--accept-data-loss")
    assert migrated.sql("SELECT count(*) FROM checkins") == [(ROWS + len(expected) + 1,)]
    assert migrated.sql("SELECT indexdef FROM pg_indexes WHERE indexname = 'checkins_pkey'") == [
        ("CREATE UNIQUE INDEX checkins_pkey ON public.checkins USING btree (id)",)
    ]
    assert "is violated by some row" in migrated.run("migrate").stderr
    migrated.sql("DELETE FROM checkins WHERE id = -1")
    migrated.done("migrate")

    months_come_and_go(migrated)
    migrated.done("seed", "--replace", "--yes", "--gyms", "1", "--members", "5", "--days", "9")
    use(migrated)
    move(migrated, supabase)


def months_come_and_go(checkout: Checkout) -> None:
    """Create months by the job and by a migration, and drop one."""
    checkout.sql(file("months.sql").replace("2..12", "0..15"))
    for statement in file("an old month").replace(MONTH, f"checkins_{bound(15):%Y_%m}").splitlines():
        checkout.sql(statement)
    assert_good(checkout)
    for statement in file("an old month").splitlines():
        checkout.sql(statement)
    assert f"table {MONTH} is missing" in checkout.run("check").stdout
    checkout.done("generate", "--empty", "check-ins begin in March 2027")
    finish(checkout, "an old month of a migration")
    assert "warning:" not in checkout.done("lint").stdout
    checkout.done("migrate")
    assert_good(checkout)
    checkout.done("rollback", "--yes")
    assert checkout.sql(f"SELECT to_regclass('{MONTH}') IS NOT NULL") == [(True,)]
    checkout.sql(f"INSERT INTO checkins (id, created_at) VALUES (-1, '{bound()}')")
    assert "--accept-data-loss" in checkout.run("migrate").stderr
    checkout.done("migrate", "--accept-data-loss")
    assert_good(checkout)
    assert checkout.done("push", "--yes").stderr == "nothing to push\n"
    checkout.done("generate", "--empty", "more months of check-ins")
    finish(checkout, "more months")
    assert "warning:" not in checkout.done("lint").stdout
    checkout.done("migrate")
    assert_good(checkout)


PROGRAM = """
from sqlalchemy import select
from tatame_db import Database, TatameError, insert_many, read, update_many, upsert
from tatame_db.queries.errors import NotAKey
from tatame_db.schema import Checkin, User

with Database.from_env() as database:
    with database.session.begin() as session:
        checkin = Checkin(date="2026-01-01")
        session.add(checkin)
        session.flush()
        key = checkin.id
    with database.session.begin() as session:
        session.get(Checkin, key).date = "2026-01-02"
    with database.session.begin() as session:
        assert session.get(Checkin, key).date == "2026-01-02"
    assert insert_many(Checkin, [{"date": "a"}, {"date": "b"}]).run(database) == 2
    assert update_many(Checkin, [{"id": key, "date": "c"}], by=[Checkin.id]).run(database) == 1
    try:
        upsert(Checkin, [{"id": key, "date": "d"}], by=[Checkin.id])
    except NotAKey as error:
        print(error)
    [row] = read(Checkin).where(Checkin.id == key).all(database)
    same = {"id": key, "created_at": row.created_at, "date": "e"}
    by_key = upsert(Checkin, [same], by=[Checkin.id, Checkin.created_at], returning=Checkin)
    assert [found.date for found in by_key.run(database)] == ["e"]
    try:
        upsert(Checkin, [same], by=[Checkin.id, Checkin.created_at]).run(database)
    except TatameError as error:
        print(error)
    member = read(User).where(User.checkins.any()).load(User.checkins).all(database)[0]
    assert member.checkins[0].user_id == member.id
    assert len(read(Checkin).order_by(Checkin.id.desc()).limit(3).load(Checkin.user).all(database)) == 3
    with database.session.begin() as session:
        for checkin in session.scalars(select(Checkin).where(Checkin.user_id == member.id)).all():
            session.delete(checkin)
    assert read(Checkin).where(Checkin.user_id == member.id).all(database) == []
"""


def use(checkout: Checkout) -> None:
    """Read and write by the new model."""
    program = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(program, env=checkout.environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no primary key or unique constraint consists of id, because a partitioned table has no" in done.stdout
    assert "the new rows of Checkin cannot be counted, because its table has partitions" in done.stdout


def move(checkout: Checkout, source: URL) -> None:
    """Move a project into the partitions, by the new model, and back."""
    (checkout.root / ".env").write_text(f"SUPABASE_DB_URL={readable(source)}\n")
    checkout.done("move", "copy", "--replace")
    checkout.done("move", "switch", "--write-to-source")
    checkout.sql("UPDATE checkins SET date = '2024-12-31' WHERE id = 1")
    checkout.sql("INSERT INTO checkins (date) VALUES ('2024-12-30')")
    checkout.done("move", "follow", "--back", "--until-equal", "--write-to-source")
    checkout.done("move", "back", "--write-to-source")
    checkout.done("move", "verify")
