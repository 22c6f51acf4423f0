"""Editing the models and what follows, in a copy of the package as a developer's checkout would be."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL

import tatame_db
from tatame_db.database.address import readable

HEAD = "20261123120000"


@dataclass(frozen=True)
class Checkout:
    """A copy of the sources to edit, and its command."""

    root: Path
    url: str

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.root / "src" / "tatame_db" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def start(self, *arguments: str, **options: object) -> subprocess.Popen[str]:
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]  # options are Popen's own
            [sys.executable, "-m", "tatame_db", *arguments],
            cwd=self.root,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(self.root / "src"), "DATABASE_URL": self.url},
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err, err
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


@pytest.fixture
def checkout(tmp_path: Path, bare_address: URL) -> Checkout:
    """Give a copy of the sources, and an empty database."""
    source = Path(tatame_db.__file__).parent
    shutil.copytree(source, tmp_path / "src" / "tatame_db", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).parents[2] / "pyproject.toml", tmp_path)
    return Checkout(tmp_path, readable(bare_address))


PLAN = "    plan: Mapped[str | None] = mapped_column(default=None)\n"
TIER = "    tier: Mapped[str | None] = mapped_column(default=None)\n"


# generate


def test_a_new_column_becomes_a_migration_that_runs_both_ways(checkout: Checkout) -> None:
    checkout.edit("schema/users.py", PLAN, PLAN + TIER)
    done = checkout.done("generate", "Add a tier to users")
    assert "ALTER TABLE users ADD COLUMN tier TEXT;" in done.stdout
    file = checkout.versions[-1]
    assert file.name.endswith("_add_a_tier_to_users.py")
    assert file.read_text().startswith('"""Add a tier to users."""\n')
    formatted = subprocess.run([sys.executable, "-m", "ruff", "format", "--check", file], check=False)
    assert formatted.returncode == 0

    checkout.done("migrate")
    assert checkout.run("generate", "again").stderr == "nothing to generate\n"
    assert checkout.done("check").stdout.count("yes") == 4
    checkout.done("rollback")
    assert checkout.sql("SELECT FROM information_schema.columns WHERE column_name = 'tier'") == []


def test_where_nothing_changed_nothing_is_written(checkout: Checkout) -> None:
    done = checkout.done("generate", "nothing")
    assert (done.stdout, done.stderr) == ("", "nothing to generate\n")
    assert [file.name[:14] for file in checkout.versions] == [HEAD]


def test_pending_migrations_on_the_database_do_not_disturb_generate(checkout: Checkout) -> None:
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
def test_a_name_with_quotes_and_slashes_makes_a_plain_file_that_runs(
    sentence: str, ending: str, checkout: Checkout
) -> None:
    checkout.done("generate", sentence, "--empty")
    assert checkout.versions[-1].name == checkout.versions[-1].name[:14] + ending
    assert len(checkout.versions) == 2
    checkout.done("migrate")


def test_a_sentence_that_makes_no_name_is_refused(checkout: Checkout) -> None:
    done = checkout.run("generate", "!!!", "--empty")
    assert done.returncode == 1
    assert "No file was written." in done.stderr
    assert len(checkout.versions) == 1


# Renames


def test_a_rename_without_an_answer_is_asked_about_and_nothing_is_written(checkout: Checkout) -> None:
    checkout.edit("schema/users.py", PLAN, TIER)
    done = checkout.run("generate", "rename plan")
    assert done.returncode == 1
    assert "--rename users.plan:tier" in done.stderr
    assert "--drop users.plan" in done.stderr
    assert len(checkout.versions) == 1


def test_a_renamed_column_keeps_its_data_and_its_index_follows(checkout: Checkout) -> None:
    checkout.edit("schema/users.py", 'Index(None, "gym_id", "birth_day"),', 'Index(None, "gym_id", "birth_date"),')
    checkout.edit("schema/users.py", "    birth_day: Mapped", "    birth_date: Mapped")
    checkout.done("migrate", HEAD)
    checkout.sql("INSERT INTO users (clerk_user_id, birth_day) VALUES ('a', '12-31')")
    done = checkout.done("generate", "rename birth day", "--rename", "users.birth_day:birth_date")
    assert "DROP" not in done.stdout
    checkout.done("migrate")
    assert checkout.sql("SELECT birth_date FROM users") == [("12-31",)]
    assert checkout.sql("SELECT to_regclass('users_gym_id_birth_date_index') IS NOT NULL") == [(True,)]
    assert checkout.done("check").stdout.count("yes") == 4
    checkout.done("rollback")
    assert checkout.sql("SELECT birth_day FROM users") == [("12-31",)]
    assert checkout.sql("SELECT to_regclass('users_gym_id_birth_day_index') IS NOT NULL") == [(True,)]


def test_a_renamed_table_keeps_its_rows_and_all_names_follow(checkout: Checkout) -> None:
    checkout.edit("schema/assets.py", '__tablename__ = "assets"', '__tablename__ = "materials"')
    checkout.done("migrate", HEAD)
    checkout.sql("INSERT INTO assets (title) VALUES ('armbar')")
    checkout.done("generate", "rename assets", "--rename", "assets:materials")
    checkout.done("migrate")
    assert checkout.sql("INSERT INTO materials (title) VALUES ('kimura') RETURNING id, title") == [(2, "kimura")]
    names = "SELECT conname FROM pg_constraint WHERE conrelid = 'materials'::regclass AND contype <> 'n' ORDER BY 1"
    assert checkout.sql(names) == [("materials_class_id_class_id_fk",), ("materials_pkey",)]
    assert checkout.sql("SELECT pg_get_serial_sequence('materials', 'id')") == [("public.materials_id_seq",)]
    assert checkout.done("check").stdout.count("yes") == 4


def test_what_is_said_to_be_dropped_is_dropped_and_comes_back_empty(checkout: Checkout) -> None:
    checkout.edit("schema/users.py", PLAN, TIER)
    checkout.done("generate", "replace plan", "--drop", "users.plan")
    text = checkout.versions[-1].read_text()
    assert 'op.drop_column("users", "plan")' in text
    checkout.done("migrate")
    checkout.done("rollback")


@pytest.mark.parametrize(
    "answer",
    [
        ["--rename", "users.plan:level"],
        ["--rename", "users.plan"],
        ["--rename", "users.plan:tier", "--drop", "users.x"],
    ],
)
def test_an_answer_that_does_not_fit_is_refused(answer: list[str], checkout: Checkout) -> None:
    checkout.edit("schema/users.py", PLAN, TIER)
    done = checkout.run("generate", "rename", *answer)
    assert done.returncode == 1
    assert "is not valid" in done.stderr
    assert len(checkout.versions) == 1


def test_somebody_at_a_terminal_is_asked(checkout: Checkout) -> None:
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
    # First a database that has all four, then models that differ from it in each.
    checkout.edit("schema/graduations.py", "import ForeignKey,", "import CheckConstraint, Enum, ForeignKey,")
    checkout.edit(
        "schema/graduations.py",
        '    __table_args__ = (Index(None, "user_id", "created_at"),)\n',
        CHECKED.format(4) + '        Index("graduations_belt_index", func.lower("belt")),\n'
        '        Index(None, "user_id", "created_at"),\n    )\n',
    )
    checkout.edit(
        "schema/graduations.py",
        "    modality: Mapped[str | None] = mapped_column(default=None)\n",
        '    modality: Mapped[str | None] = mapped_column(Enum("BJJ", "NO_GI", name="modality"), default=None)\n'
        '    rank: Mapped[int | None] = mapped_column(server_default="1", default=None)\n',
    )
    with psycopg.connect(checkout.url, autocommit=True) as connection:
        connection.execute("SELECT 1")
    checkout.done("push", "--yes")
    _stamp(checkout)
    checkout.edit("schema/graduations.py", "AND 4", "AND 6")
    checkout.edit("schema/graduations.py", '"NO_GI"', '"NO_GI", "MMA"')
    checkout.edit("schema/graduations.py", 'func.lower("belt")', 'func.upper("belt")')
    checkout.edit("schema/graduations.py", 'server_default="1"', 'server_default="2"')

    done = checkout.run("check", "--json")
    assert done.returncode == 3
    told = "\n".join(json.loads(done.stdout)["migrations"])
    for thing in (
        "constraint graduations.graduations_degree_check differs",
        "enum modality differs",
        "column graduations.rank differs",
    ):
        assert thing in told
    assert "upper" in told


def _stamp(checkout: Checkout) -> None:
    """Write the pushed schema down as a migration of the checkout."""
    checkout.edit(
        "schema/graduations.py", 'Enum("BJJ", "NO_GI", name="modality")', 'Enum("BJJ", "NO_GI", name="modality")'
    )
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


def test_what_cannot_be_generated_is_named_and_not_passed_over(checkout: Checkout) -> None:
    checkout.edit("schema/gyms.py", "import ForeignKey,", "import CheckConstraint, ForeignKey,")
    checkout.edit(
        "schema/gyms.py",
        '    __tablename__ = "gyms"\n',
        '    __tablename__ = "gyms"\n    __table_args__ = (CheckConstraint("name <> \'\'", name="name"),)\n',
    )
    checkout.done("generate", "gyms have names")
    checkout.edit("schema/gyms.py", "name <> ''", "length(name) > 2")
    done = checkout.run("generate", "longer names")
    assert done.returncode == 1
    assert "gyms_name_check" in done.stderr
    assert "--empty" in done.stderr
    assert len(checkout.versions) == 2


# check


@pytest.mark.parametrize(
    ("drift", "told"),
    [
        ("CREATE TABLE extra (id integer)", "table extra is not expected"),
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
        ("ALTER TABLE users ENABLE ROW LEVEL SECURITY", "table users differs"),
    ],
)
def test_drift_is_named(drift: str, told: str, checkout: Checkout) -> None:
    checkout.done("migrate")
    checkout.sql(drift)
    done = checkout.run("check")
    assert done.returncode == 3
    assert told in done.stdout
    assert done.stdout.count("yes") == 3


def test_check_of_an_older_revision_compares_with_that_revision(checkout: Checkout) -> None:
    checkout.done("migrate")
    checkout.edit("schema/users.py", PLAN, PLAN + TIER)
    checkout.done("generate", "add tier")
    assert checkout.done("check").stdout.count("yes") == 4


def test_two_heads_are_told_and_merged(checkout: Checkout) -> None:
    checkout.done("generate", "left", "--empty")
    left = checkout.versions[-1]
    aside = left.with_suffix(".aside")
    left.rename(aside)
    checkout.done("generate", "right", "--empty")
    aside.rename(left)
    done = checkout.run("check")
    assert done.returncode == 3
    assert "_left.py" in done.stdout
    assert "_right.py" in done.stdout
    refused = checkout.run("generate", "more", "--empty")
    assert refused.returncode == 1
    assert "--merge" in refused.stderr
    checkout.done("generate", "merge both", "--merge")
    checkout.done("migrate")
    assert checkout.done("check").stdout.count("yes") == 4
    assert "nothing to merge" in checkout.run("generate", "again", "--merge").stderr


def test_an_edited_migration_is_told_by_check(checkout: Checkout) -> None:
    checkout.done("migrate")
    first = checkout.versions[0]
    first.write_text(first.read_text() + "\n# later\n")
    done = checkout.run("check")
    assert done.returncode == 3
    assert f"edited after it was applied to this database: {first.name}" in done.stdout


# push


def test_push_builds_everything_in_one_transaction(checkout: Checkout) -> None:
    shown = checkout.done("push", "--dry-run")
    assert "CREATE TABLE users" in shown.stdout
    assert checkout.sql("SELECT to_regclass('users')") == [(None,)]
    refused = checkout.run("push")
    assert refused.returncode == 1
    assert "--yes" in refused.stderr
    assert checkout.sql("SELECT to_regclass('users')") == [(None,)]
    checkout.done("push", "--yes")
    assert checkout.run("push", "--yes").stderr == "nothing to push\n"


@pytest.mark.parametrize(("answer", "code", "built"), [(b"n\n", 1, False), (b"y\n", 0, True)])
def test_somebody_at_a_terminal_is_asked_before_a_push(
    answer: bytes, code: int, checkout: Checkout, *, built: bool
) -> None:
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


def test_push_says_what_data_would_be_lost_and_loses_it_only_when_told(checkout: Checkout) -> None:
    checkout.done("migrate")
    checkout.sql("INSERT INTO users (clerk_user_id, plan) VALUES ('a', 'gold'), ('b', 'gold'), ('c', NULL)")
    checkout.sql("CREATE TABLE old AS SELECT generate_series(1, 1234)")
    checkout.edit("schema/users.py", PLAN, "")
    done = checkout.run("push", "--yes")
    assert done.returncode == 1
    assert "column users.plan is dropped, with values in 2 rows" in done.stderr
    assert "table old is dropped, with 1,234 rows" in done.stderr
    assert checkout.sql("SELECT count(plan) FROM users") == [(2,)]
    checkout.done("push", "--yes", "--accept-data-loss")
    assert checkout.sql("SELECT to_regclass('old')") == [(None,)]


def test_push_renames_with_the_data(checkout: Checkout) -> None:
    checkout.done("migrate")
    checkout.sql("INSERT INTO users (clerk_user_id, plan) VALUES ('a', 'gold')")
    checkout.edit("schema/users.py", PLAN, TIER)
    assert checkout.run("push", "--yes").returncode == 1
    checkout.done("push", "--yes", "--rename", "users.plan:tier")
    assert checkout.sql("SELECT tier FROM users") == [("gold",)]


def test_push_over_duplicates_undoes_all_and_shows_the_statement(checkout: Checkout) -> None:
    checkout.done("migrate")
    checkout.sql("INSERT INTO gyms (name, address, since) VALUES ('a', 'x', 'y'), ('a', 'x', 'y')")
    checkout.edit("schema/gyms.py", "    name: Mapped[str]\n", "    name: Mapped[str] = mapped_column(unique=True)\n")
    checkout.edit("schema/users.py", PLAN, PLAN + TIER)
    done = checkout.run("push", "--yes")
    assert done.returncode == 1
    assert "gyms_name_unique" in done.stderr
    assert "Key (name)=(a) is duplicated." in done.stderr
    assert checkout.sql("SELECT FROM information_schema.columns WHERE column_name = 'tier'") == []


def test_push_of_not_null_over_nulls_says_how_many(checkout: Checkout) -> None:
    checkout.done("migrate")
    checkout.sql("INSERT INTO users (clerk_user_id, email) VALUES ('a', 'x@y'), ('b', NULL)")
    checkout.edit(
        "schema/users.py", "    email: Mapped[str | None] = mapped_column(default=None)", "    email: Mapped[str]"
    )
    done = checkout.run("push", "--yes")
    assert done.returncode == 1
    assert "1 row with NULL, for example id = 2" in done.stderr


def test_push_refuses_another_machine_unless_its_name_is_typed(checkout: Checkout) -> None:
    far = "postgresql://ana:secret@db.example:5432/gymdata"
    done = checkout.run("push", "--yes", "--database-url", far)
    assert done.returncode == 1
    assert "--database-name gymdata" in done.stderr
    assert "secret" not in done.stderr
    # Typed right, it goes as far as the network does.
    assert "does not answer" in checkout.run("push", "--database-url", far, "--database-name", "gymdata").stderr


def test_a_lock_held_by_another_session_ends_a_push_unharmed(checkout: Checkout) -> None:
    checkout.done("migrate")
    checkout.edit("schema/users.py", PLAN, PLAN + TIER)
    with psycopg.connect(checkout.url) as other:
        other.execute("SELECT FROM users")
        done = checkout.run("push", "--yes", "--lock-timeout", "200")
    assert done.returncode == 1
    assert "lock timeout" in done.stderr
    checkout.done("push", "--yes")


def test_a_killed_push_leaves_nothing_half_done_and_the_lock_free(checkout: Checkout) -> None:
    checkout.done("migrate")
    checkout.edit("schema/users.py", PLAN, PLAN + TIER)
    with psycopg.connect(checkout.url) as other:
        other.execute("LOCK TABLE users IN ACCESS SHARE MODE")
        pushing = checkout.start("push", "--yes", "--lock-timeout", "60000")
        deadline = time.monotonic() + 30
        while not checkout.sql("SELECT FROM pg_locks WHERE NOT granted") and time.monotonic() < deadline:
            time.sleep(0.05)
        pushing.kill()
        pushing.communicate()
    assert checkout.done("push", "--dry-run").stdout == "ALTER TABLE users ADD COLUMN tier TEXT;\n\n"
    checkout.done("push", "--yes")


# lint


def test_lint_warns_about_a_step_that_blocks_the_app(checkout: Checkout) -> None:
    assert "no warnings" in checkout.done("lint").stdout
    checkout.edit("schema/users.py", PLAN, PLAN.replace("mapped_column(", "mapped_column(index=True, "))
    checkout.done("generate", "index plans")
    done = checkout.run("lint")
    assert done.returncode == 3
    assert "require-concurrent-index-creation" in done.stdout
    assert checkout.run("lint", str(checkout.versions[0])).returncode == 0
    assert checkout.run("lint", "nonsense.py").returncode == 1


def test_lint_leaves_out_what_a_release_has(checkout: Checkout) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@gym.example"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"], ["tag", "v1", "-m", "one", "-a"]):
        subprocess.run([*git, *command], check=True, cwd=checkout.root)
    assert checkout.done("lint").stderr == "nothing to lint: every migration is released\n"
    checkout.done("generate", "more", "--empty")
    assert checkout.versions[-1].name in checkout.done("lint").stdout
