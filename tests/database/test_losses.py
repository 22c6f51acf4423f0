"""Each way to lose data is refused with the right name and number; what loses nothing is not."""

from __future__ import annotations

import contextlib
import importlib
import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from tatame_db import evolve
from tatame_db.database.pool import Database
from tatame_db.evolve import history
from tatame_db.evolve.catalogue import run_verbatim
from tatame_db.evolve.losses import count_all
from tatame_db.testing.runs import Run
from tatame_db.testing.sandbox import Sandbox

MADE = """
    CREATE SCHEMA extra;
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE TYPE place AS (city text, zip text);
    CREATE DOMAIN price AS numeric(10, 4);
    CREATE TABLE members (
        id integer PRIMARY KEY, name text, phone text, fee numeric(10, 4), born timestamp, seen timestamptz,
        mood mood, home place, homes place[], cost price, size integer,
        shout text GENERATED ALWAYS AS (upper(name)) STORED
    );
    CREATE TABLE visits (id integer PRIMARY KEY, member_id integer REFERENCES members);
    CREATE TABLE extra.logs (line text);
    CREATE TABLE events (day integer, note text) PARTITION BY LIST (day);
    CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
    CREATE TABLE pets (name text);
    CREATE TABLE cats () INHERITS (pets);
    CREATE TABLE signals (id integer);
    CREATE TABLE "Odd.name;" ("a%b" text);
    CREATE TABLE empty (id integer);
    CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN TRUNCATE visits; RETURN NULL; END';
    CREATE TRIGGER forget AFTER INSERT ON signals FOR EACH STATEMENT EXECUTE FUNCTION forget();
    CREATE FUNCTION clear(name text) RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE ''TRUNCATE '' || name; END'
"""
ROWS = """
    INSERT INTO members (id, name, fee, born, seen, mood, home, homes, cost, size)
    SELECT n, 'name', 1.2345, now(), now(), 'good', '(x,y)'::place, ARRAY['(x,y)'::place], 1.2345, n
    FROM generate_series(1, 4) n;
    UPDATE members SET name = NULL WHERE id = 4;
    INSERT INTO visits VALUES (1, 1), (2, 1);
    INSERT INTO extra.logs VALUES ('a'), ('b'), ('c');
    INSERT INTO events VALUES (1, 'a'), (1, NULL);
    INSERT INTO pets VALUES ('rex');
    INSERT INTO cats VALUES ('tom'), ('kit');
    INSERT INTO "Odd.name;" VALUES ('x');
    -- What no migration made.
    CREATE TABLE trials (id integer, member_id integer REFERENCES members, mood mood, felt mood[]);
    INSERT INTO trials VALUES (1, 1, 'bad', NULL), (2, 2, 'bad', '{}'), (3, 2, NULL, '{}');
    CREATE TABLE extra.audit AS SELECT 1 AS id;
    CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2);
    INSERT INTO events VALUES (2, 'c');
    CREATE TABLE dogs () INHERITS (pets);
    INSERT INTO dogs VALUES ('bo');
    CREATE SCHEMA other;
    CREATE TABLE other.bills AS SELECT generate_series(1, 5) AS id;
    CREATE DOMAIN other.code AS text;
    CREATE TABLE codes (code other.code);
    INSERT INTO codes VALUES ('x'), (NULL)
"""
HEAD = '''"""A step."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = {revision!r}, {before!r}


def upgrade() -> None:
    {upgrade}


def downgrade() -> None:
    {downgrade}
'''


def sql(*statements: str) -> str:
    return "; ".join(f"op.execute({statement!r})" for statement in statements) or "pass"


def do(body: str) -> str:
    return f"DO $$ BEGIN {body}; END $$"


MEMBERS, VISITS = "table members is dropped, with 4 rows", "table visits is dropped, with 2 rows"
NO_VISITS = "table visits is emptied, with 2 rows"
NAMES = "column members.name is dropped, with values in 3 rows"
LOGS = "table extra.logs is dropped, with 3 rows"

TRIALS = [
    "column trials.felt is dropped, with values in 2 rows",
    "column trials.mood is dropped, with values in 2 rows",
]

LOSES: list[tuple[list[str], list[str]]] = [
    # Under another name
    (["ALTER TABLE visits RENAME TO trash", "DROP TABLE trash"], [VISITS]),
    (["ALTER TABLE visits SET SCHEMA extra", "DROP TABLE extra.visits"], [VISITS]),
    (["SET LOCAL search_path = extra; DROP TABLE logs"], [LOGS]),
    (["ALTER SCHEMA extra RENAME TO old", "DROP TABLE old.logs"], [LOGS]),
    (["ALTER TABLE members RENAME name TO trash", "ALTER TABLE members DROP trash CASCADE"], [NAMES]),
    (["ALTER TABLE members RENAME TO people", "ALTER TABLE people DROP COLUMN name CASCADE"], [NAMES]),
    (["ALTER TABLE visits RENAME TO old; CREATE TABLE visits (id integer); DROP TABLE old"], [VISITS]),
    (['ALTER TABLE "Odd.name;" DROP "a%b"'], ["column Odd.name;.a%b is dropped, with values in 1 row"]),
    (['DROP TABLE "Odd.name;"'], ["table Odd.name; is dropped, with 1 row"]),
    (
        ['ALTER TABLE ONLY "visits" DROP id, DROP COLUMN IF EXISTS nothing CASCADE'],
        ["column visits.id is dropped, with values in 2 rows"],
    ),
    (["DROP TABLE signals; truncate table public.visits"], [NO_VISITS]),
    # With something else
    (["DROP SCHEMA extra CASCADE"], ["table extra.audit is dropped, with 1 row", LOGS]),
    (["DROP TYPE mood CASCADE"], [TRIALS[0], "column members.mood is dropped, with values in 4 rows", TRIALS[1]]),
    (["DROP DOMAIN price CASCADE"], ["column members.cost is dropped, with values in 4 rows"]),
    (["DROP TABLE events"], ["table events is dropped, with 3 rows"]),
    (["ALTER TABLE events DETACH PARTITION events_1; DROP TABLE events_1"], ["table events_1 is dropped, with 2 rows"]),
    (["DROP TABLE events_1"], ["table events_1 is dropped, with 2 rows"]),
    (["ALTER TABLE events DROP note"], ["column events.note is dropped, with values in 2 rows"]),
    (["DROP TABLE pets CASCADE"], ["table pets is dropped, with 4 rows"]),
    (["ALTER TABLE pets DROP COLUMN name"], ["column pets.name is dropped, with values in 4 rows"]),
    (["DROP TABLE cats"], ["table cats is dropped, with 2 rows"]),
    (
        ["TRUNCATE members CASCADE"],
        ["table members is emptied, with 4 rows", "table trials is emptied, with 3 rows", NO_VISITS],
    ),
    (
        ["ALTER TYPE place DROP ATTRIBUTE zip"],
        [
            "column members.home loses its part zip, with values in 4 rows",
            "column members.homes loses its part zip, with values in 4 rows",
        ],
    ),
    # In code
    ([do("DROP TABLE visits")], [VISITS]),
    ([do("EXECUTE 'DROP TA' || 'BLE visits'")], [VISITS]),
    ([do("IF EXISTS (SELECT FROM visits) THEN DROP TABLE visits; END IF")], [VISITS]),
    ([do("IF EXISTS (SELECT FROM visits) THEN EXECUTE 'TRUNCATE TABLE visits'; END IF")], [NO_VISITS]),
    ([do("IF EXISTS (SELECT FROM visits) THEN ALTER TABLE members DROP COLUMN name; END IF")], [NAMES]),
    ([do("TRUNCATE visits")], [NO_VISITS]),
    (["SELECT clear('visits')"], [NO_VISITS]),
    (["INSERT INTO signals VALUES (1)"], [NO_VISITS]),
    (["SET LOCAL session_replication_role = replica; TRUNCATE visits"], [NO_VISITS]),
    # By another type
    (
        ["ALTER TABLE members ALTER fee TYPE numeric(10, 1)"],
        ["column members.fee is rewritten as numeric(10,1) in 4 rows"],
    ),
    (
        ["ALTER TABLE members ALTER fee TYPE numeric(10, 1)", "ALTER TABLE members ALTER fee TYPE numeric(10, 4)"],
        ["column members.fee is rewritten as numeric(10,1) in 4 rows"],
    ),
    (["ALTER TABLE members ALTER seen TYPE date"], ["column members.seen is rewritten as date in 4 rows"]),
    (
        ["ALTER TABLE members DROP shout, ALTER name TYPE varchar(2) USING left(name, 2)"],
        ["column members.name is rewritten as character varying(2) in 3 rows"],
    ),
    (["ALTER TABLE members ALTER size TYPE smallint"], ["column members.size is rewritten as smallint in 4 rows"]),
    (["ALTER TABLE members ALTER mood TYPE text; DROP TYPE mood CASCADE"], TRIALS),
    (
        ["ALTER TABLE members ALTER cost TYPE numeric(10, 1)"],
        ["column members.cost is rewritten as numeric(10,1) in 4 rows"],
    ),
    # What no migration made
    (["DROP TABLE IF EXISTS trials"], ["table trials is dropped, with 3 rows"]),
    (
        ["DROP SCHEMA IF EXISTS other CASCADE"],
        ["table other.bills is dropped, with 5 rows", "column codes.code is dropped, with values in 1 row"],
    ),
    (["DROP DOMAIN IF EXISTS other.code CASCADE"], ["column codes.code is dropped, with values in 1 row"]),
    (
        [do("IF to_regclass('trials') IS NOT NULL THEN TRUNCATE trials; END IF")],
        ["table trials is emptied, with 3 rows"],
    ),
]

HARMLESS = [
    "CREATE TABLE brief (id integer); DROP TABLE brief",
    "ALTER TABLE members ADD extra text DEFAULT 'x'",
    "ALTER TABLE members DROP extra",
    "ALTER TABLE members DROP phone",
    "ALTER TABLE members DROP shout",
    "DROP TABLE empty",
    "ALTER TABLE visits DROP CONSTRAINT visits_member_id_fkey, ALTER member_id SET DEFAULT 1",
    "ALTER TABLE visits ALTER member_id DROP DEFAULT, ALTER member_id DROP NOT NULL",
    "ALTER TABLE members ALTER size TYPE bigint, ALTER born TYPE timestamptz USING born AT TIME ZONE 'UTC'",
    "ALTER TABLE members RENAME name TO title; ALTER TABLE members RENAME TO people",
    "ALTER TABLE people RENAME TO members; ALTER TABLE members RENAME title TO name",
    "ALTER TABLE extra.logs SET SCHEMA public; CREATE SCHEMA attic; DROP SCHEMA attic CASCADE",
    "ALTER TABLE events DETACH PARTITION events_1",
    "ALTER TYPE mood RENAME TO mood_old; CREATE TYPE mood AS ENUM ('bad', 'good', 'new');"
    " ALTER TABLE members ALTER mood TYPE mood USING mood::text::mood",
    "ALTER TYPE place ADD ATTRIBUTE street text; ALTER TYPE place RENAME ATTRIBUTE zip TO code",
    "ALTER DOMAIN price RENAME TO cost",
    "CREATE VIEW names AS SELECT name FROM members; CREATE MATERIALIZED VIEW kept AS SELECT 1 AS n; DROP VIEW names",
    "DROP MATERIALIZED VIEW kept",
    "CREATE FUNCTION later() RETURNS void LANGUAGE plpgsql AS 'BEGIN DROP TABLE members; END'",
    "COMMENT ON TABLE members IS 'DROP TABLE members'",
    do("IF false THEN ALTER TABLE members DROP CONSTRAINT nothing; END IF"),
    do("/* DROP TABLE members; */ -- TRUNCATE visits;\n PERFORM 1"),
    "CREATE TEMPORARY TABLE short AS SELECT 1; DROP TABLE short",
    "DROP INDEX IF EXISTS members_name_index; CREATE INDEX ON members (name)",
]


@dataclass(frozen=True)
class SandboxScratch:
    """Scratch databases on the server of the run, under names of their own."""

    sandbox: Sandbox

    @contextlib.contextmanager
    def database(self, *_: object) -> Generator[Engine]:
        address = self.sandbox.create()
        with Database(address) as database:
            yield database.engine
        self.sandbox.drop(str(address.database))


class Refused(Exception):
    """The losses were not accepted."""


@dataclass(frozen=True)
class Gym:
    """A history of one migration, and a database that has it, with rows and with tables of another program."""

    engine: Engine
    migrations: Path

    def add(self, *, upgrade: str = "pass", downgrade: str = "pass") -> str:
        """Write another migration."""
        versions = self.migrations / "versions"
        number = len(list(versions.glob("*.py"))) + 1
        content = HEAD.format(
            revision=str(number), before=str(number - 1) if number > 1 else None, upgrade=upgrade, downgrade=downgrade
        )
        (versions / f"{number}.py").write_text(content)
        return str(number)

    @contextlib.contextmanager
    def at(self, revision: str) -> Generator[None]:
        """Pretend that the database has another revision."""
        self._set_revision(revision)
        try:
            yield
        finally:
            self._set_revision("1")

    def _set_revision(self, revision: str) -> None:
        with self.engine.begin() as connection:
            run_verbatim(connection, f"UPDATE tatame_migrations.alembic_version SET version_num = '{revision}'")

    def losses(self, act: Callable[..., object] = evolve.migrate) -> list[str]:
        """Return the losses that are refused."""
        found: list[str] = []

        def refuse(losses: list[str]) -> None:
            found.extend(losses)
            raise Refused

        with contextlib.suppress(Refused):
            act(self.engine, agree=refuse)
        return found


@pytest.fixture(scope="module")
def made(_tatame_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Generator[Gym]:
    migrations = tmp_path_factory.mktemp("gym") / "migrations"
    ignored = shutil.ignore_patterns("__pycache__", "2*.py")
    shutil.copytree(history.MIGRATIONS, migrations, ignore=ignored)
    address = _tatame_run.sandbox.create()
    with Database(address) as database, pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "MIGRATIONS", migrations)
        gym = Gym(database.engine, migrations)
        gym.add(upgrade=sql(MADE))
        evolve.migrate(gym.engine)
        with gym.engine.begin() as connection:
            run_verbatim(connection, ROWS)
        yield gym
    _tatame_run.sandbox.drop(str(address.database))


@pytest.fixture
def gym(made: Gym, _tatame_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gym:
    """A copy of the history, to add to. The database is shared: a refusal changes nothing."""

    @contextlib.contextmanager
    def shared() -> Generator[Any]:
        yield SandboxScratch(_tatame_run.sandbox)

    for module in ("effects", "script"):
        monkeypatch.setattr(importlib.import_module(f"tatame_db.evolve.{module}"), "scratch", shared)
    shutil.copytree(made.migrations, tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(history, "MIGRATIONS", tmp_path / "migrations")
    return Gym(made.engine, tmp_path / "migrations")


@pytest.fixture
def copied(gym: Gym, _tatame_run: Run) -> Generator[Gym]:
    """The same with a database of its own."""
    gym.engine.dispose()
    address = _tatame_run.sandbox.create(str(gym.engine.url.database))
    with Database(address) as database:
        yield Gym(database.engine, gym.migrations)
    _tatame_run.sandbox.drop(str(address.database))


def announced(script: str) -> list[str]:
    return [line for line in script.splitlines() if line.startswith("-- Loses data")]


@pytest.mark.parametrize(("statements", "losses"), LOSES, ids=[loses[0][-1][:60] for loses in LOSES])
def test_a_loss_is_named_before_a_migration_runs(gym: Gym, statements: list[str], losses: list[str]) -> None:
    for statement in statements:
        gym.add(upgrade=sql(statement))
    assert gym.losses() == losses
    assert announced(evolve.migration_sql(gym.engine)) == [f"-- Loses data: {loss}." for loss in losses]


def test_no_migration_is_refused_that_loses_nothing(copied: Gym) -> None:
    for statement in HARMLESS:
        copied.add(upgrade=sql(statement))
    assert announced(evolve.migration_sql(copied.engine)) == []
    assert copied.losses() == []
    assert evolve.status(copied.engine).pending == []


@pytest.mark.parametrize(
    ("downgrade", "losses"),
    [loses for loses in LOSES if len(loses[0]) == 2 or "DO $$" in loses[0][0] or "CASCADE" in loses[0][0]][:8],
)
def test_a_loss_is_named_before_a_rollback_runs(gym: Gym, downgrade: list[str], losses: list[str]) -> None:
    applied = [gym.add(downgrade=sql(statement)) for statement in reversed(downgrade)]
    with gym.at(applied[-1]):
        assert gym.losses(lambda engine, **options: evolve.rollback(engine, len(applied), **options)) == losses


READS = "op.get_bind().execute(sa.text('SELECT 1')).scalar()"


@pytest.mark.parametrize(
    ("upgrade", "reason"),
    [
        (READS, "migration 2 reads the database, so what it drops is not known"),
        (
            "raise ZeroDivisionError",
            "migration 2 fails on an empty database (ZeroDivisionError), so what it drops is unknown",
        ),
        (
            sql("DROP TABLE other.bills"),
            'migration 2 fails on an empty database (schema "other" does not exist), so what it drops is unknown',
        ),
        (
            "op.execute(f'SELECT 1 / count(*) FROM visits')",
            "migration 2 fails on an empty database (division by zero), so what it drops is unknown",
        ),
    ],
)
def test_what_is_not_known_counts_as_a_loss(gym: Gym, upgrade: str, reason: str) -> None:
    gym.add(upgrade=upgrade)
    gym.add(upgrade=sql("ALTER TABLE visits RENAME TO trash; DROP TABLE trash"))
    losses = gym.losses()
    assert reason in losses
    # Those before a failure are known, and so are those of a migration that only reads.
    assert (VISITS in losses) == ("reads" in reason)
    assert ("table other.bills is dropped, with 5 rows" in losses) == ("bills" in upgrade)


def test_applied_migrations_that_fail_without_rows_leave_all_unknown(gym: Gym) -> None:
    applied = gym.add(upgrade=sql("SELECT 1 / count(*) FROM visits"))
    gym.add(upgrade=sql("DROP TABLE visits"))
    with gym.at(applied):
        assert gym.losses() == [
            VISITS,
            "the applied migrations fail on an empty database (division by zero), so what is dropped is unknown",
        ]


def test_without_a_temporary_server_all_is_unknown(gym: Gym, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @contextlib.contextmanager
    def broken() -> Generator[Any]:
        (tmp_path / "no directory" / "file").touch()
        yield

    monkeypatch.setattr(importlib.import_module("tatame_db.evolve.effects"), "scratch", broken)
    gym.add(upgrade=sql("DROP TABLE visits"))
    [visits, unknown] = gym.losses()
    assert visits == VISITS
    assert unknown.startswith("what is dropped is unknown without a temporary server: [Errno 2] No such file")


def test_rows_that_a_policy_hides_are_a_loss(gym: Gym) -> None:
    gym.add(upgrade=sql("ALTER TABLE visits DROP member_id", "TRUNCATE extra.logs"))
    with gym.engine.begin() as connection:
        run_verbatim(connection, "CREATE ROLE of_gym LOGIN")
    try:
        with gym.engine.begin() as connection:
            run_verbatim(
                connection,
                "GRANT ALL ON ALL TABLES IN SCHEMA public, extra, tatame_migrations TO of_gym;"
                " GRANT ALL ON SCHEMA public, extra, tatame_migrations TO of_gym; REVOKE ALL ON extra.logs FROM of_gym;"
                " ALTER TABLE visits OWNER TO of_gym;"
                " ALTER TABLE visits ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
            )
        with Database(gym.engine.url.set(username="of_gym")) as database:
            assert Gym(database.engine, gym.migrations).losses() == [
                "table extra.logs is emptied, with an unknown number of rows",
                "column visits.member_id is dropped, with values in an unknown number of rows",
            ]
            # So does a push.
            with database.engine.connect() as connection:
                assert count_all(connection, "SELECT count(member_id) FROM visits") is None
    finally:
        with gym.engine.begin() as connection:
            run_verbatim(
                connection,
                "REASSIGN OWNED BY of_gym TO CURRENT_USER; DROP OWNED BY of_gym; DROP ROLE of_gym;"
                " ALTER TABLE visits DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY",
            )


def test_a_database_without_tables_needs_no_scratch(
    gym: Gym, bare_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def refused() -> Generator[Any]:
        pytest.fail("a scratch server was started")
        yield

    monkeypatch.setattr(importlib.import_module("tatame_db.evolve.effects"), "scratch", refused)
    gym.add(upgrade=READS)
    assert Gym(bare_engine, gym.migrations).losses() == []
    assert evolve.status(bare_engine).pending == []


def test_a_count_waits_for_a_lock_as_a_migration_does(gym: Gym, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("tatame_db.evolve.migrate"), "RETRY_PAUSES_SECONDS", (0.01,))
    gym.add(upgrade=sql("DROP TABLE visits"))
    retries: list[evolve.Retry] = []
    with gym.engine.begin() as holder:
        run_verbatim(holder, "LOCK visits")

        def migrate(engine: Engine, **options: Any) -> None:
            evolve.migrate(engine, timeouts=evolve.Timeouts(on_retry=retries.append), **options)

        with pytest.raises(evolve.MigrationFailed, match="lock timeout"):
            gym.losses(migrate)
    assert len(retries) == 1
    assert gym.losses() == [VISITS]
