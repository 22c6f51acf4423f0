from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_origin

import pytest
import typer
from tests.forks import Zygote
from typer.core import TyperCommand, TyperGroup

from tatame_db.cli import commands, json_keys
from tatame_db.database import errors as database_errors
from tatame_db.database import options
from tatame_db.database.address import parse_address
from tatame_db.database.dialect import OLDEST_SERVER, VERSION_SCHEMA
from tatame_db.database.errors import DatabaseUnavailable
from tatame_db.database.idle import IDLE_TIMEOUT_SECONDS
from tatame_db.evolve.distribute import Distribution, PlacementStep
from tatame_db.evolve.lock import MIGRATION_LOCK_TIMEOUT_MS, STATEMENT_TIMEOUT_MS
from tatame_db.move.connection import SILENCE_SECONDS
from tatame_db.move.http import READ_TIMEOUT_SECONDS
from tatame_db.move.left_behind import READING_SECONDS
from tatame_db.move.resolve import MAX_IDS
from tatame_db.move.rest import MAX_ROW_BYTES
from tatame_db.schema import Base
from tatame_db.server.wheel import MAJOR_VERSION
from tatame_db.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLE = (ROOT / ".env.example").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
DESIGN = (ROOT / "docs" / "design.md").read_text()

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def commands_by_name() -> dict[str, TyperCommand]:
    program = typer.main.get_command(commands.app)
    assert isinstance(program, TyperGroup)
    return dict(commands_of(program))


def commands_of(group: TyperGroup, before: str = "") -> Iterator[tuple[str, TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands_of(command, f"{before}{name} ")
        elif isinstance(command, TyperCommand):
            yield f"{before}{name}", command


def variables() -> set[str]:
    found = set()
    for name, field in Settings.model_fields.items():
        variable = str(field.validation_alias or name).upper()
        per_table = get_origin(field.annotation) is dict
        found.add(f"{variable.removesuffix('TABLES')}<TABLE>" if per_table else variable)
    return found


def one_name_for_all_tables(names: list[str]) -> set[str]:
    tables = "|".join(table.upper() for table in Base.metadata.tables)
    return {re.sub(rf"^USE_POSTGRES_({tables})$", "USE_POSTGRES_<TABLE>", name) for name in names}


def section(page: str, heading: str) -> str:
    _, found, rest = page.partition(f"\n{heading}\n")
    assert found, f"{heading} is not on the page"
    return re.split(r"^#", rest, maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(markdown: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", markdown, flags=re.MULTILINE)


# --- What is made from the code -------------------------------------------------------------------------------------


def test_the_generated_pages_are_up_to_date() -> None:
    generate = SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "generate.py")))
    assert generate.stale() == {}


def test_a_stale_page_is_named_by_the_check_and_made_anew(tmp_path: Path, zygote: Zygote) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    program = "import runpy; runpy.run_path('docs/generate.py', run_name='__main__')"

    def generate(*arguments: str) -> subprocess.CompletedProcess[str]:
        return zygote.run(*arguments, cwd=tmp_path, environment={}, code=program)

    assert generate().returncode == 0
    assert generate("--check").returncode == 0
    readme = (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text(readme.replace("| `tatame-db seed` |", "| `tatame-db sow` |"))
    (tmp_path / "docs" / "schema.md").unlink()

    check = generate("--check")
    assert (check.returncode, check.stderr.splitlines()[0]) == (1, "stale: README.md, docs/schema.md")
    assert not (tmp_path / "docs" / "schema.md").exists()
    assert generate().returncode == 0
    assert (tmp_path / "docs" / "schema.md").exists()
    assert (tmp_path / "README.md").read_text() == readme


def test_every_command_says_what_it_does_here_and_in_the_reference() -> None:
    found = commands_by_name()
    assert [name for name, command in found.items() if not command.help] == []
    readme = (ROOT / "README.md").read_text()
    reference = (ROOT / "docs" / "reference.md").read_text()
    assert [name for name in found if f"\n## tatame-db {name}\n" not in reference] == []
    assert first_cells(section(readme, "## Commands")) == [f"tatame-db {name}" for name in found]


@pytest.mark.parametrize(("answer", "others"), [(Distribution, {"done"}), (PlacementStep, set[str]())])
def test_the_keys_of_a_placement_are_those_of_its_classes(answer: Any, others: set[str]) -> None:
    # The answers of the other commands are compared where these run.
    assert set(json_keys.OBJECTS[answer.__name__][1]) == {field.name for field in fields(answer)} | others


# --- What is written by hand ----------------------------------------------------------------------------------------


@pages
def test_a_page_names_only_commands_and_options_that_exist(page: Path) -> None:
    known = {
        name: {flag for option in command.params for flag in option.opts}
        for name, command in commands_by_name().items()
    }
    # Docker's project of the same name has commands of its own.
    groups = "|".join({name.split()[0] for name in known if " " in name})
    pattern = rf"(?<!--project-name )tatame-db ((?:(?:{groups}) )?[a-z]+)\b([^`\n|)]*)"
    used = re.findall(pattern, page.read_text())
    wrong = [f"{name}{rest}" for name, rest in used if name not in known]
    for name, rest in used:
        flags = re.findall(r"(?<!\S)--[a-z-]+", rest)
        wrong += [f"{name} {flag}" for flag in flags if flag not in known.get(name, set())]
    assert wrong == []


@pages
def test_a_page_names_only_make_targets_that_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), flags=re.MULTILINE)) <= targets


@pages
def test_every_block_of_a_page_begins_and_ends_on_a_line_of_its_own(page: Path) -> None:
    fences = [line.strip() for line in page.read_text().splitlines() if "```" in line]
    assert [fence == "```" for fence in fences] == [False, True] * (len(fences) // 2)
    assert all(fence.startswith("```") for fence in fences)


@pages
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), flags=re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings]
            assert anchor in slugs, target


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "mkdocs.yml"])
def test_every_page_is_linked_where_a_reader_begins(page: str) -> None:
    linked = {Path(target).name for target in re.findall(r"[\w/-]+\.md", (ROOT / page).read_text())}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - linked <= {Path(page).name}


def test_the_variables_of_the_settings_are_those_of_the_example_and_the_page() -> None:
    in_example = re.findall(r"^# ([A-Z_]+)=", EXAMPLE, flags=re.MULTILINE)
    assert one_name_for_all_tables(in_example) == variables()
    assert set(first_cells(section(CONFIGURATION, "## Variables"))) == variables()


def test_every_variable_of_the_example_has_one_line_that_says_what_it_is() -> None:
    for paragraph in EXAMPLE.strip().split("\n\n")[1:]:
        comment, variable = paragraph.splitlines()
        assert re.fullmatch(r"# [^=]+\.", comment)
        assert re.fullmatch(r"# [A-Z_]+=\S+", variable)


def test_the_example_as_env_file_changes_nothing() -> None:
    without = Settings.from_env()
    Path(".env").write_text(EXAMPLE)
    assert Settings.from_env() == without
    assert without.address is None


def test_the_values_of_the_example_are_understood() -> None:
    Path(".env").write_text(re.sub(r"^# (?=[A-Z_]+=)", "", EXAMPLE, flags=re.MULTILINE))
    settings = Settings.from_env()
    assert settings.model_fields_set == set(Settings.model_fields)
    for secret in (settings.database_url, settings.test_database_url, settings.supabase_db_url):
        assert secret
        assert parse_address(secret.get_secret_value()).database


def test_the_design_says_what_each_index_is_for() -> None:
    names = {str(index.name) for table in Base.metadata.tables.values() for index in table.indexes}
    explained = first_cells(section(DESIGN, "### Indexes"))
    assert sorted(explained) == sorted(names | {"users_clerk_user_id_unique"})


@pytest.mark.parametrize(
    "sentence",
    [
        f"at most {options.POOL_SIZE} connections",
        f"{options.CONNECT_TIMEOUT_SECONDS} seconds to connect",
        f"{IDLE_TIMEOUT_SECONDS} seconds until an idle one is closed",
        f"{OLDEST_SERVER} is the oldest supported",
        f"at most {MIGRATION_LOCK_TIMEOUT_MS} ms for a lock",
        f"at most {STATEMENT_TIMEOUT_MS // 60_000} minutes",
        f"`{VERSION_SCHEMA}.alembic_version`",
        f"{len(Base.metadata.tables)} tables, not 13",
    ],
)
def test_the_numbers_of_the_design_are_those_of_the_code(sentence: str) -> None:
    assert sentence in " ".join(DESIGN.split())


def test_the_limits_of_a_move_are_those_of_the_code() -> None:
    limits = section((ROOT / "docs" / "what-we-promise.md").read_text(), "## Limits")
    for words in (
        f"PostgreSQL {OLDEST_SERVER} to {MAJOR_VERSION}",
        f"{MAX_IDS // 1_000_000} million ids",
        f"over REST {MAX_ROW_BYTES >> 20} MB",
        f"{SILENCE_SECONDS // 60} minutes over PostgreSQL, {READ_TIMEOUT_SECONDS // 60} over REST",
        f"{READING_SECONDS // 60} minutes; columns",
    ):
        assert words in limits


def test_the_errors_that_become_503_are_those_of_the_table() -> None:
    page = (ROOT / "docs" / "run-in-production.md").read_text()
    table = set(re.findall(r"`([A-Z]\w+)`", page[page.index("## Catch errors") : page.index("A web app turns")]))
    _, _, listed = section(page, "## Catch errors").partition("subclasses in this table are ")
    classes = {name: kind for name, kind in vars(database_errors).items() if isinstance(kind, type)}
    unavailable = {name for name in table if issubclass(classes.get(name, object), DatabaseUnavailable)}
    assert set(re.findall(r"`(\w+)`", listed)) == unavailable
