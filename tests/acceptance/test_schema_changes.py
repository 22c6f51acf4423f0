"""Edit the models, then generate, migrate, push, check and lint, in a copy of the package."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL
from tests.acceptance.conftest import copy_package

from tatame_db.database.address import readable

HEAD = "20261123120000"


@dataclass(frozen=True)
class Checkout:
    """A copy of the sources to edit, and its commands."""

    root: Path
    url: str
    fork: Callable[..., subprocess.CompletedProcess[str]]

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(self.root / "src"), "DATABASE_URL": self.url}

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.root / "src" / "tatame_db" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        # Python recognizes an edit by its second and its size, and some edits have the same of both.
        Path(cache_from_source(path)).unlink(missing_ok=True)

    def start(self, *arguments: str, **options: object) -> subprocess.Popen[str]:
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]  # options are Popen's own
            [sys.executable, "-m", "tatame_db", *arguments],
            cwd=self.root,
            env=self.environment,
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        path, here = (str(self.root / "src"),), {"cwd": self.root, "environment": self.environment}
        finished = self.fork(*arguments, **here, path=path)
        assert "Traceback" not in finished.stderr, finished.stderr
        return finished

    def spawn(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def done(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        finished = self.run(*arguments)
        assert finished.returncode == 0, finished.stderr
        return finished

    def sql(self, query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []

    @property
    def versions(self) -> list[Path]:
        return sorted((self.root / "src" / "tatame_db" / "migrations" / "versions").glob("*.py"))


CheckOut = Callable[[URL], Checkout]


@pytest.fixture
def check_out(tmp_path: Path, fork: Callable[..., subprocess.CompletedProcess[str]]) -> CheckOut:
    """Copy the sources, for a database."""
    copy_package(tmp_path)
    return lambda address: Checkout(tmp_path, readable(address), fork)


@pytest.fixture
def checkout(check_out: CheckOut, bare_address: URL) -> Checkout:
    """Copy the sources, for an empty database."""
    return check_out(bare_address)


@pytest.fixture
def migrated(check_out: CheckOut, address: URL) -> Checkout:
    """Copy the sources, for a migrated, empty database."""
    return check_out(address)


PLAN = "    plan: Mapped[str | None] = mapped_column(default=None)\n"
TIER = "    tier: Mapped[str | None] = mapped_column(default=None)\n"


# generate


def test_a_new_column_becomes_a_migration_that_runs_both_ways(checkout: Checkout) -> None:
    checkout.edit("schema/users.py", PLAN, PLAN + TIER)
    done = checkout.spawn("generate", "Add a tier to users")
    assert "ALTER TABLE users ADD COLUMN tier text;" in done.stdout
    file = checkout.versions[-1]
    assert file.name.endswith("_add_a_tier_to_users.py")
    assert file.read_text().startswith('"""Add a tier to users."""\n')
    formatted = subprocess.run([sys.executable, "-m", "ruff", "format", "--check", file], check=False)
    assert formatted.returncode == 0

    checkout.spawn("migrate")
    assert checkout.run("generate", "again").stderr == "nothing to generate\n"
    assert checkout.spawn("check").stdout.count("yes") == 4
    checkout.spawn("rollback", "--yes")
    assert checkout.sql("SELECT 1 FROM information_schema.columns WHERE column_name = 'tier'") == []


def test_without_a_change_no_file_is_written(checkout: Checkout) -> None:
    done = checkout.done("generate", "nothing")
    assert (done.stdout, done.stderr) == ("", "nothing to generate\n")
    assert [file.name[:14] for file in checkout.versions] == [HEAD]


def test_pending_migrations_do_not_affect_generate(checkout: Checkout) -> None:
    checkout.edit("schema/users.py", PLAN, PLAN + TIER)
    checkout.done("generate", "first")
    checkout.edit("schema/users.py", TIER, TIER + TIER.replace("tier", "level"))
    checkout.done("generate", "second")
    assert "ADD COLUMN tier" not in checkout.versions[-1].read_text()
    assert len(json.loads(checkout.done("status", "--json").stdout)["pending"]) == 3
    assert checkout.sql("SELECT to_regclass('users')") == [(None,)]


@pytest.mark.parametrize(
    ("sentence", "ending"),
    [
        ('it\'s "quoted" \\ and / """ slashed', "_it_s_quoted_and_slashed.py"),
        ("../../etc/passwd", "_etc_passwd.py"),
        ("Adiciona a graduação à turma", "_adiciona_a_graduacao_a_turma.py"),
    ],
)
def test_a_sentence_with_quotes_and_slashes_makes_a_plain_file_that_runs(
    sentence: str, ending: str, checkout: Checkout
) -> None:
    checkout.done("generate", sentence, "--empty")
    assert re.fullmatch(rf"\d{{17}}{re.escape(ending)}", checkout.versions[-1].name)
    assert len(checkout.versions) == 2
    checkout.done("migrate")


def test_a_sentence_without_a_letter_is_rejected(checkout: Checkout) -> None:
    done = checkout.run("generate", "!!!", "--empty")
    assert done.returncode == 1
    assert "No file was written." in done.stderr
    assert len(checkout.versions) == 1


# The page


PAGE = Path(__file__).parents[2] / "docs" / "change-the-schema.md"
BLOCK = re.compile(
    r'^```(diff|python|console)(?: title="src/tatame_db/([^"]*)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE
)


def test_the_page_edits_the_models_and_prints_what_the_commands_print(migrated: Checkout) -> None:
    printed = 0
    for kind, file, text in BLOCK.findall(PAGE.read_text()):
        if kind == "console":
            for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
                done = migrated.done(*shlex.split(command)[1:])
                found = (done.stderr + done.stdout).replace(str(migrated.root), "/home/ana/tatame-db")
                assert _lines(found) == _lines(expected)
                printed += 1
        elif kind == "diff":
            before = "".join(line[1:] for line in text.splitlines(keepends=True) if line[0] != "+")
            migrated.edit(file, before, "".join(line[1:] for line in text.splitlines(keepends=True)))
        elif file:
            (migrated.root / "src" / "tatame_db" / file).write_text(text)
    assert printed == 5
    migrated.done("migrate")
    assert migrated.sql("INSERT INTO users (clerk_user_id, nickname) VALUES ('a', 'Bia') RETURNING id") == [(1,)]
    assert migrated.sql("INSERT INTO payments (user_id, cents) VALUES (1, 100) RETURNING id") == [(1,)]
    assert migrated.done("check").stdout.count("yes") == 4


def _lines(text: str) -> list[str]:
    """Leave out what differs between two runs: revisions, seconds, and spaces at the end of a line."""
    return [re.sub(r"\d+", "1", line.rstrip()) for line in text.strip().splitlines()]


# Renames


def test_a_rename_without_an_answer_writes_no_file(checkout: Checkout) -> None:
    checkout.edit("schema/users.py", PLAN, TIER)
    done = checkout.run("generate", "rename plan")
    assert done.returncode == 1
    assert "--rename users.plan:tier" in done.stderr
    assert "--drop users.plan" in done.stderr
    assert len(checkout.versions) == 1


def test_a_renamed_column_keeps_its_data_and_its_index_follows(migrated: Checkout) -> None:
    migrated.edit("schema/users.py", 'Index(None, "gym_id", "birth_day"),', 'Index(None, "gym_id", "birth_date"),')
    migrated.edit("schema/users.py", "    birth_day: Mapped", "    birth_date: Mapped")
    migrated.sql("INSERT INTO users (clerk_user_id, birth_day) VALUES ('a', '12-31')")
    done = migrated.done("generate", "rename birth day", "--rename", "users.birth_day:birth_date")
    assert "DROP" not in done.stdout
    migrated.done("migrate")
    assert migrated.sql("SELECT birth_date FROM users") == [("12-31",)]
    assert migrated.sql("SELECT to_regclass('users_gym_id_birth_date_index') IS NOT NULL") == [(True,)]
    assert migrated.done("check").stdout.count("yes") == 4
    migrated.done("rollback", "--yes", "--accept-data-loss")
    assert migrated.sql("SELECT birth_day FROM users") == [("12-31",)]
    assert migrated.sql("SELECT to_regclass('users_gym_id_birth_day_index') IS NOT NULL") == [(True,)]


def test_a_renamed_table_keeps_its_rows_and_all_names_follow(migrated: Checkout) -> None:
    migrated.edit("schema/assets.py", '__tablename__ = "assets"', '__tablename__ = "materials"')
    migrated.sql("INSERT INTO assets (title) VALUES ('armbar')")
    migrated.done("generate", "rename assets", "--rename", "assets:materials")
    migrated.done("migrate")
    assert migrated.sql("INSERT INTO materials (title) VALUES ('kimura') RETURNING id, title") == [(2, "kimura")]
    names = "SELECT conname FROM pg_constraint WHERE conrelid = 'materials'::regclass AND contype <> 'n' ORDER BY 1"
    assert migrated.sql(names) == [("materials_class_id_class_id_fk",), ("materials_pkey",)]
    assert migrated.sql("SELECT pg_get_serial_sequence('materials', 'id')") == [("public.materials_id_seq",)]
    assert migrated.done("check").stdout.count("yes") == 4


def test_a_dropped_column_comes_back_empty(checkout: Checkout) -> None:
    checkout.edit("schema/users.py", PLAN, TIER)
    checkout.done("generate", "replace plan", "--drop", "users.plan")
    text = checkout.versions[-1].read_text()
    assert 'op.execute("ALTER TABLE users DROP COLUMN plan")' in text
    checkout.done("migrate")
    checkout.done("rollback", "--yes")


@pytest.mark.parametrize(
    "answer",
    [
        ["--rename", "users.plan:level"],
        ["--rename", "users.plan"],
        ["--rename", "users.plan:tier", "--drop", "users.x"],
    ],
)
def test_an_invalid_answer_is_rejected(answer: list[str], checkout: Checkout) -> None:
    checkout.edit("schema/users.py", PLAN, TIER)
    done = checkout.run("generate", "rename", *answer)
    assert done.returncode == 1
    assert "is not valid" in done.stderr
    assert len(checkout.versions) == 1


def test_generate_asks_about_a_rename_at_a_terminal(checkout: Checkout) -> None:
    checkout.edit("schema/users.py", PLAN, TIER)
    terminal, inside = pty.openpty()
    asking = checkout.start("generate", "rename plan", stdin=inside)
    os.write(terminal, b"tier\n")
    out, err = asking.communicate(timeout=60)
    os.close(terminal)
    os.close(inside)
    assert asking.returncode == 0, err
    assert "users.plan is no longer in the models" in err
    assert "ALTER TABLE users RENAME COLUMN plan TO tier" in out


# What autogenerate does not see


CHECKED = '    __table_args__ = (\n        CheckConstraint("degree BETWEEN 0 AND {}", name="degree"),\n'


def test_check_sees_a_changed_check_default_enum_and_index_expression(checkout: Checkout) -> None:
    # First a database that has all four objects, then models that differ in each.
    checkout.edit("schema/graduations.py", "import ForeignKey,", "import CheckConstraint, Enum, ForeignKey,")
    checkout.edit(
        "schema/graduations.py",
        "    __table_args__ = (",
        CHECKED.format(4) + '        Index("graduations_belt_index", func.lower("belt")),\n        ',
    )
    checkout.edit(
        "schema/graduations.py",
        "    modality: Mapped[str | None] = mapped_column(default=None)\n",
        '    modality: Mapped[str | None] = mapped_column(Enum("BJJ", "NO_GI", name="modality"), default=None)\n'
        '    rank: Mapped[int | None] = mapped_column(server_default="1", default=None)\n',
    )
    checkout.done("push", "--yes")
    _stamp(checkout)
    checkout.edit("schema/graduations.py", "AND 4", "AND 6")
    checkout.edit("schema/graduations.py", '"NO_GI"', '"NO_GI", "MMA"')
    checkout.edit("schema/graduations.py", 'func.lower("belt")', 'func.upper("belt")')
    checkout.edit("schema/graduations.py", 'server_default="1"', 'server_default="2"')

    done = checkout.run("check", "--json")
    assert done.returncode == 3
    differences = "\n".join(json.loads(done.stdout)["migrations"])
    for difference in (
        "constraint graduations.graduations_degree_check differs",
        "enum modality differs",
        "column graduations.rank differs",
    ):
        assert difference in differences
    assert "upper" in differences


def _stamp(checkout: Checkout) -> None:
    """Add the pushed schema to the migration of the checkout."""
    path = checkout.versions[-1]
    path.write_text(
        path.read_text().replace(
            "\n\ndef downgrade",
            "\n    op.execute(\"CREATE TYPE modality AS ENUM ('BJJ', 'NO_GI')\")"
            '\n    op.execute("ALTER TABLE graduations ALTER modality TYPE modality USING modality::modality")'
            '\n    op.execute("ALTER TABLE graduations ADD rank integer DEFAULT 1")'
            '\n    op.execute("ALTER TABLE graduations ADD CONSTRAINT graduations_degree_check'
            ' CHECK (degree BETWEEN 0 AND 4)")'
            "\n    op.execute(\"CREATE INDEX graduations_belt_index ON graduations (lower('belt'))\")"
            "\n\n\ndef downgrade",
        )
    )


def test_a_check_that_changes_under_its_name_is_generated(checkout: Checkout) -> None:
    checkout.edit("schema/gyms.py", "import ForeignKey,", "import CheckConstraint, ForeignKey,")
    checkout.edit(
        "schema/gyms.py",
        '    __tablename__ = "gyms"\n    __table_args__ = (',
        '    __tablename__ = "gyms"\n    __table_args__ = (CheckConstraint("name <> \'\'", name="name"), ',
    )
    checkout.done("generate", "gyms have names")
    checkout.edit("schema/gyms.py", "name <> ''", "length(name) > 2")
    done = checkout.done("generate", "longer names")
    assert "CHECK ((length(name) > 2))" in done.stdout
    assert checkout.done("generate", "again").stderr == "nothing to generate\n"


def test_a_change_that_cannot_be_generated_is_reported_with_the_reason(checkout: Checkout) -> None:
    checkout.edit("schema/graduations.py", "    degree: Mapped[int | None]", "    degree: Mapped[datetime | None]")
    done = checkout.run("generate", "degrees are moments")
    assert done.returncode == 1
    assert "cannot cast type integer to timestamp" in done.stderr
    assert "No file was written." in done.stderr
    assert "--empty" in done.stderr
    assert len(checkout.versions) == 1


def test_a_required_column_is_written_with_the_safe_steps(migrated: Checkout) -> None:
    migrated.sql("INSERT INTO roles (id) VALUES ('STUDENT')")
    migrated.edit("schema/infrastructure.py", "    id: Mapped[str] = mapped_column(primary_key=True)\n", REQUIRED)
    done = migrated.done("generate", "ranks")
    assert "note: column roles.rank is NOT NULL without a default" in done.stderr
    assert "add it nullable, fill it, and set NOT NULL in a later migration" in done.stderr
    linted = migrated.run("lint")
    assert linted.returncode == 3
    assert "adding-required-field" in linted.stdout
    assert "would be NULL in the 1 existing row" in migrated.run("migrate").stderr


REQUIRED = """    id: Mapped[str] = mapped_column(primary_key=True)
    rank: Mapped[int] = mapped_column()
"""


# check


@pytest.mark.parametrize(
    ("drift", "difference"),
    [
        ("ALTER TABLE users DROP COLUMN plan", "column users.plan is missing"),
        ("ALTER TABLE users ALTER email TYPE varchar(80)", "column users.email differs"),
        ("ALTER TABLE users ALTER email SET DEFAULT ''", "column users.email differs"),
        ("ALTER TABLE gyms ALTER name DROP NOT NULL", "column gyms.name differs"),
        ("ALTER TABLE users DROP CONSTRAINT users_clerk_user_id_unique", "users_clerk_user_id_unique is missing"),
        ("DROP INDEX users_gym_id_birth_day_index", "index users_gym_id_birth_day_index is missing"),
        (
            "ALTER TABLE gyms ALTER CONSTRAINT gyms_manager_id_users_id_fk NOT DEFERRABLE",
            "gyms_manager_id_users_id_fk differs",
        ),
        ("ALTER TABLE users ENABLE ROW LEVEL SECURITY", "row-level security users is not expected: enabled"),
        ("ALTER TABLE users FORCE ROW LEVEL SECURITY", "row-level security users is not expected: forced"),
        ("CREATE RULE swallow AS ON INSERT TO versions DO INSTEAD NOTHING", "rule versions.swallow is not expected"),
        ("CREATE POLICY all_rows ON users USING (true)", "policy users.all_rows is not expected"),
        ("CREATE STATISTICS pairs ON role, gym_id FROM users", "statistics pairs is not expected"),
        ("ALTER TABLE users REPLICA IDENTITY FULL", "replica identity users is not expected: FULL"),
        ("COMMENT ON TABLE users IS 'ours'", "comment on table users is not expected"),
        ("CREATE PUBLICATION feed FOR TABLE users", "publication relation users in publication feed is not expected"),
        ("ALTER TABLE users ALTER email SET STORAGE PLAIN", "storage users.email is not expected"),
        ("ALTER TABLE users SET (fillfactor = 50)", "storage parameters users is not expected: fillfactor=50"),
        (
            "ALTER TABLE users ADD name text GENERATED ALWAYS AS (first_name || last_name) VIRTUAL",
            "column users.name is not expected: text GENERATED (first_name || last_name) VIRTUAL",
        ),
        (
            "CREATE TRIGGER same BEFORE UPDATE ON users FOR EACH ROW"
            " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
            "trigger users.same is not expected",
        ),
    ],
)
def test_check_reports_drift(drift: str, difference: str, migrated: Checkout) -> None:
    migrated.sql(drift)
    done = migrated.run("check")
    assert done.returncode == 3
    assert difference in done.stdout
    assert done.stdout.count("yes") == 3


def test_what_no_migration_made_is_named_and_left_alone(migrated: Checkout) -> None:
    migrated.sql("CREATE TABLE stripe_events (id integer PRIMARY KEY, kind text CHECK (kind <> ''))")
    migrated.sql("CREATE TYPE stripe_kind AS ENUM ('a')")
    migrated.sql("CREATE DOMAIN cents AS integer CHECK (VALUE > 0)")
    migrated.sql("CREATE VIEW emails AS SELECT email FROM users")
    migrated.sql("CREATE FUNCTION seven() RETURNS integer LANGUAGE sql AS 'SELECT 7'")
    migrated.sql("CREATE OPERATOR === (LEFTARG = text, RIGHTARG = text, FUNCTION = texteq)")
    migrated.sql("CREATE FUNCTION noticed() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'")
    migrated.sql("CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION noticed()")
    done = migrated.done("check")
    assert done.stdout.count("yes") == 4
    foreign = [
        "domain cents",
        "enum stripe_kind",
        "event trigger watch",
        "function noticed()",
        "function seven()",
        "operator ===(pg_catalog.text,pg_catalog.text)",
        "table stripe_events",
        "view emails",
    ]
    assert f"not made by a migration, left alone: {', '.join(foreign)}" in " ".join(done.stdout.split())
    assert json.loads(migrated.done("check", "--json").stdout)["foreign"] == foreign
    assert "table stripe_events" in migrated.done("push", "--yes").stderr
    migrated.edit("schema/users.py", PLAN, PLAN + TIER)
    migrated.done("push", "--yes")
    migrated.done("generate", "add tier")
    assert migrated.sql("SELECT count(*) FROM stripe_events, emails") == [(0,)]
    # It is dropped if it is named.
    migrated.done("push", "--yes", "--drop", "stripe_events")
    assert migrated.sql("SELECT to_regclass('stripe_events')") == [(None,)]


def test_partitions_and_children_belong_to_their_table(migrated: Checkout) -> None:
    migrated.sql("CREATE TABLE checkins_2025 () INHERITS (checkins)")
    migrated.sql("CREATE INDEX ON checkins_2025 (id)")
    assert migrated.done("check").stdout.count("yes") == 4
    assert migrated.done("push", "--yes").stderr == "nothing to push\n"
    assert migrated.sql("SELECT to_regclass('checkins_2025')") == [("checkins_2025",)]


def test_after_a_push_the_messages_name_the_push(migrated: Checkout) -> None:
    migrated.edit("schema/users.py", PLAN, PLAN + TIER)
    migrated.done("push", "--yes")
    migrated.done("generate", "add tier")
    done = migrated.run("migrate")
    assert done.returncode == 1
    assert "tatame-db push" in done.stderr
    assert "fix the migration" not in done.stderr


def test_check_of_an_older_revision_compares_with_that_revision(migrated: Checkout) -> None:
    migrated.edit("schema/users.py", PLAN, PLAN + TIER)
    migrated.done("generate", "add tier")
    assert migrated.done("check").stdout.count("yes") == 4


def test_two_heads_are_reported_and_merged(checkout: Checkout) -> None:
    checkout.done("generate", "left", "--empty")
    left = checkout.versions[-1]
    hidden = left.with_suffix(".hidden")
    left.rename(hidden)
    checkout.done("generate", "right", "--empty")
    hidden.rename(left)
    done = checkout.run("check")
    assert done.returncode == 3
    assert "_left.py" in done.stdout
    assert "_right.py" in done.stdout
    assert done.stdout.count("not compared, because there is more than one head") == 2
    assert json.loads(checkout.run("check", "--json").stdout)["database"] is None
    refused = checkout.run("generate", "more", "--empty")
    assert refused.returncode == 1
    assert "--merge" in refused.stderr
    checkout.done("generate", "merge both", "--merge")
    checkout.done("migrate")
    assert checkout.done("check").stdout.count("yes") == 4
    assert "nothing to merge" in checkout.run("generate", "again", "--merge").stderr


def test_a_merge_that_cannot_be_run_is_not_written(checkout: Checkout) -> None:
    checkout.edit("schema/users.py", PLAN, PLAN + TIER)
    checkout.done("generate", "left")
    left = checkout.versions[-1]
    hidden = left.with_suffix(".hidden")
    left.rename(hidden)
    checkout.done("generate", "right")
    hidden.rename(left)
    refused = checkout.run("generate", "merge both", "--merge")
    assert refused.returncode == 1
    assert 'column "tier" of relation "users" already exists' in refused.stderr
    assert "yours was not changed" in refused.stderr
    assert not any("merge_both" in file.name for file in checkout.versions)


def test_migrations_that_are_generated_at_once_follow_each_other(checkout: Checkout) -> None:
    started = [checkout.start("generate", f"step {number}", "--empty") for number in range(3)]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert len(checkout.done("migrate").stderr.splitlines()) == 4


def test_check_reports_an_edited_migration(migrated: Checkout) -> None:
    first = migrated.versions[0]
    first.write_text(first.read_text() + "\n# later\n")
    done = migrated.run("check")
    assert done.returncode == 3
    assert f"edited after it was applied to this database: {first.name}" in done.stdout
    assert "git checkout" in done.stderr
    assert "undo manual changes" not in done.stderr


# push


def test_push_builds_everything_in_one_transaction(checkout: Checkout) -> None:
    shown = checkout.done("push", "--dry-run")
    assert "CREATE TABLE users" in shown.stdout
    assert checkout.sql("SELECT to_regclass('users')") == [(None,)]
    refused = checkout.run("push")
    assert refused.returncode == 1
    assert "--yes" in refused.stderr
    assert checkout.sql("SELECT to_regclass('users')") == [(None,)]
    checkout.spawn("push", "--yes")
    assert checkout.run("push", "--yes").stderr == "nothing to push\n"


@pytest.mark.parametrize(("answer", "code", "built"), [(b"n\n", 1, False), (b"y\n", 0, True)])
def test_push_asks_at_a_terminal(answer: bytes, code: int, checkout: Checkout, *, built: bool) -> None:
    terminal, inside = pty.openpty()
    asking = checkout.start("push", stdin=inside)
    os.write(terminal, answer)
    shown, asked = asking.communicate(timeout=60)
    os.close(terminal)
    os.close(inside)
    assert asking.returncode == code, asked
    assert "CREATE TABLE users" in shown
    assert f"statements on {checkout.url}?" in asked
    assert checkout.sql("SELECT to_regclass('users') IS NOT NULL") == [(built,)]


def test_push_lists_the_data_that_it_would_lose_and_needs_consent(migrated: Checkout) -> None:
    migrated.sql("INSERT INTO users (clerk_user_id, plan) VALUES ('a', 'gold'), ('b', 'gold'), ('c', NULL)")
    migrated.sql("INSERT INTO versions (app_version) SELECT '1' FROM generate_series(1, 1234)")
    migrated.edit("schema/users.py", PLAN, "")
    migrated.edit("schema/infrastructure.py", '__tablename__ = "versions"', "__abstract__ = True")
    done = migrated.run("push", "--yes")
    assert done.returncode == 1
    assert "column users.plan is dropped, with values in 2 rows" in done.stderr
    assert "table versions is dropped, with 1,234 rows" in done.stderr
    assert migrated.sql("SELECT count(plan) FROM users") == [(2,)]
    migrated.done("push", "--yes", "--accept-data-loss")
    assert migrated.sql("SELECT to_regclass('versions')") == [(None,)]


def test_push_renames_with_the_data(migrated: Checkout) -> None:
    migrated.sql("INSERT INTO users (clerk_user_id, plan) VALUES ('a', 'gold')")
    migrated.edit("schema/users.py", PLAN, TIER)
    assert migrated.run("push", "--yes").returncode == 1
    migrated.done("push", "--yes", "--rename", "users.plan:tier")
    assert migrated.sql("SELECT tier FROM users") == [("gold",)]


def test_a_push_that_finds_duplicates_is_rolled_back_and_shows_the_statement(migrated: Checkout) -> None:
    migrated.sql("INSERT INTO gyms (name, address, since) VALUES ('a', 'x', 'y'), ('a', 'x', 'y')")
    migrated.edit("schema/gyms.py", "    name: Mapped[str]\n", "    name: Mapped[str] = mapped_column(unique=True)\n")
    migrated.edit("schema/users.py", PLAN, PLAN + TIER)
    done = migrated.run("push", "--yes")
    assert done.returncode == 1
    assert "gyms_name_unique" in done.stderr
    assert "Key (name)=(…) is duplicated." in done.stderr
    assert migrated.sql("SELECT 1 FROM information_schema.columns WHERE column_name = 'tier'") == []


def test_a_push_of_not_null_reports_the_number_of_nulls(migrated: Checkout) -> None:
    migrated.sql("INSERT INTO users (clerk_user_id, email) VALUES ('a', 'x@y'), ('b', NULL)")
    migrated.edit(
        "schema/users.py", "    email: Mapped[str | None] = mapped_column(default=None)", "    email: Mapped[str]"
    )
    done = migrated.run("push", "--yes")
    assert done.returncode == 1
    assert "1 row with NULL, for example id = 2" in done.stderr


def test_push_to_another_machine_needs_the_name_of_the_database(checkout: Checkout) -> None:
    far = "postgresql://ana:secret@db.example:5432/gymdata"
    done = checkout.run("push", "--yes", "--database-url", far)
    assert done.returncode == 1
    assert "--database-name gymdata" in done.stderr
    assert "secret" not in done.stderr
    # With the right name, only the network stops it.
    assert "was not found" in checkout.run("push", "--database-url", far, "--database-name", "gymdata").stderr


def test_a_push_that_gets_no_lock_changes_nothing(migrated: Checkout) -> None:
    migrated.edit("schema/users.py", PLAN, PLAN + TIER)
    with psycopg.connect(migrated.url) as other:
        other.execute("SELECT FROM users")
        done = migrated.run("push", "--yes", "--lock-timeout", "200")
    assert done.returncode == 1
    assert "lock timeout" in done.stderr
    migrated.done("push", "--yes")


def test_a_killed_push_is_undone_and_frees_the_lock(migrated: Checkout) -> None:
    migrated.edit("schema/users.py", PLAN, PLAN + TIER)
    with psycopg.connect(migrated.url) as other:
        other.execute("LOCK TABLE users IN ACCESS SHARE MODE")
        pushing = migrated.start("push", "--yes", "--lock-timeout", "60000")
        deadline = time.monotonic() + 30
        while not migrated.sql("SELECT 1 FROM pg_locks WHERE NOT granted") and time.monotonic() < deadline:
            time.sleep(0.05)
        pushing.kill()
        pushing.communicate()
    assert migrated.done("push", "--dry-run").stdout == "ALTER TABLE users ADD COLUMN tier text;\n\n"
    migrated.done("push", "--yes")


# lint


def test_lint_warns_about_a_step_that_blocks_the_app(checkout: Checkout) -> None:
    assert "no warnings" in checkout.spawn("lint").stdout
    checkout.edit("schema/users.py", PLAN, PLAN.replace("mapped_column(", "mapped_column(index=True, "))
    checkout.done("generate", "index plans")
    done = checkout.run("lint")
    assert done.returncode == 3
    assert "require-concurrent-index-creation" in done.stdout
    assert checkout.run("lint", str(checkout.versions[0])).returncode == 0
    assert checkout.run("lint", "nonsense.py").returncode == 1


def test_lint_skips_released_migrations(checkout: Checkout) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@gym.example"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"], ["tag", "v1", "-m", "one", "-a"]):
        subprocess.run([*git, *command], check=True, cwd=checkout.root)
    assert checkout.done("lint").stderr == "nothing to lint: every migration is released\n"
    checkout.done("generate", "more", "--empty")
    assert checkout.versions[-1].name in checkout.done("lint").stdout


# What is lost


def test_migrate_and_rollback_name_what_they_lose_and_need_consent(migrated: Checkout) -> None:
    migrated.edit("schema/users.py", PLAN, "")
    migrated.done("generate", "drop the plan", "--drop", "users.plan")
    migrated.sql("INSERT INTO users (clerk_user_id, plan) VALUES ('a', 'gold'), ('b', NULL)")
    refused = migrated.run("migrate")
    assert refused.returncode == 1
    assert refused.stderr.startswith(
        "error: `tatame-db migrate` would lose data:\n  column users.plan is dropped, with values in 1 row\n"
    )
    assert "tatame-db migrate --accept-data-loss" in refused.stderr
    assert migrated.sql("SELECT count(plan) FROM users") == [(1,)]
    done = migrated.done("migrate", "--accept-data-loss")
    assert "data loss: column users.plan is dropped, with values in 1 row\n" in done.stderr
    # Without a question that was answered, nothing is undone.
    assert migrated.run("rollback").returncode == 1
    migrated.done("rollback", "--yes")
    refused = migrated.run("rollback", "--yes")
    assert (refused.returncode, "table users is dropped, with 2 rows" in refused.stderr) == (1, True)
    assert migrated.sql("SELECT count(*) FROM users") == [(2,)]
    migrated.done("rollback", "--yes", "--accept-data-loss")


# Views, functions and triggers

TOUCH = """
FUNCTION = DDL(
    "CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.phone := '1'; RETURN NEW; END; $$"
)
TRIGGER = DDL("CREATE TRIGGER touch BEFORE UPDATE ON public.users FOR EACH ROW EXECUTE FUNCTION public.touch()")
event.listen(Base.metadata, "after_create", FUNCTION)
event.listen(Base.metadata, "after_create", TRIGGER)
"""


def test_views_functions_and_triggers_beside_the_models_are_generated_and_compared(migrated: Checkout) -> None:
    declared = r"^```py\n# src/tatame_db/(schema/views\.py)\n(.*?)^```$"
    [example] = re.findall(declared, PAGE.read_text(), re.DOTALL | re.MULTILINE)
    file, code = example
    (migrated.root / "src" / "tatame_db" / file).write_text(code + TOUCH)
    migrated.done("generate", "declare them")
    migrated.done("migrate")
    assert "nothing to generate" in migrated.done("generate", "again").stderr
    migrated.done("check")
    migrated.sql("INSERT INTO users (clerk_user_id, email) VALUES ('a', 'x')")
    migrated.edit(file, "SELECT id, email FROM", "SELECT id, email, phone FROM")
    migrated.edit(file, "NEW.phone := '1'", "NEW.phone := '2'")
    assert migrated.run("check").returncode == 3
    migrated.done("generate", "change them")
    migrated.done("migrate")
    migrated.done("check")
    migrated.sql("UPDATE users SET email = 'y'")
    assert migrated.sql("SELECT email, phone FROM active_users") == [("y", "2")]
    # A column that the view shows is changed with the view.
    migrated.edit("schema/users.py", "email: Mapped[str | None]", "email: Mapped[str]")
    migrated.done("generate", "every user has an email")
    migrated.done("migrate")
    migrated.done("check")
    migrated.done("rollback", "--yes", "--steps", "3")
    migrated.done("check")
    assert "nothing to push" not in migrated.done("push", "--yes").stderr
    assert migrated.sql("SELECT email FROM active_users") == [("y",)]
    assert "nothing to push" in migrated.done("push", "--yes").stderr
