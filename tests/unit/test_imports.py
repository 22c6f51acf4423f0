"""The arrows of the package: imports run down and never in a circle, those of type checkers and functions included."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tatame_db

PACKAGE = Path(tatame_db.__file__).parent
ROOT = "tatame_db"
MODULES = {
    ".".join((ROOT, *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

# What each part stands on. The middle (evolve, seed, move, studio) takes engines, connections and sessions: only the
# command line and the test kit turn settings into connections.
DATABASE = {"errors", "settings", "server", "database"}
MAY_IMPORT = {
    "errors": set[str](),
    "schema": {"errors"},
    "migrations": {"schema"},
    "settings": {"errors", "schema", "database"},
    "server": {"errors", "database"},
    "database": DATABASE,
    "queries": {"errors", "schema", "database"},
    "fastapi": {"errors", "database", "queries"},
    "roles": {"errors", "schema", "database"},
    "evolve": {"errors", "schema", "database", "server", "roles"},
    "seed": {"errors", "schema", "database", "roles"},
    "testing": {*DATABASE, "schema", "evolve"},
    "move": {"errors", "schema", "database", "server", "roles", "evolve"},
    "doctor": {*DATABASE, "roles", "evolve", "move", "backup"},
    "backup": {"errors", "database", "server", "roles", "evolve", "move"},
    "studio": {"errors", "schema", "database", "roles", "evolve", "move", "doctor"},
    "cli": {*DATABASE, "schema", "roles", "evolve", "seed", "move", "doctor", "studio", "queries", "testing", "backup"},
    "__main__": {"cli"},
}
# The schema's models refer to each other, as SQLAlchemy wants it.
MAY_BE_CIRCLES = "tatame_db.schema."


@cache
def imports(module: str) -> set[str]:
    """Return the modules of the package that a module imports, wherever in its text."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write imports in full"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from a.b import c` imports the module a.b.c where there is one, otherwise a name of a.b.
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {name for name in found if name.split(".")[0] == ROOT and name != module}


def part(module: str) -> str:
    """Name the part that a module belongs to: a module at the root, or a package."""
    return module.split(".")[1]


each_module = pytest.mark.parametrize("module", [module for module in MODULES if module != ROOT])


@each_module
def test_imports_run_down(module: str) -> None:
    assert part(module) in MAY_IMPORT, f"add {part(module)} to MAY_IMPORT, with the parts that it stands on"
    stands_on = {part(name) for name in imports(module) if name != ROOT}
    # The front door is for apps; inside the package, a module names the home of what it uses.
    assert ROOT not in imports(module)
    assert stands_on <= MAY_IMPORT[part(module)] | {part(module)}


def test_no_imports_form_a_circle() -> None:
    graph = {
        module: {name for name in imports(module) if not module.startswith(MAY_BE_CIRCLES) or part(name) != "schema"}
        for module in MODULES
        if module != ROOT
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these modules import each other: {' <- '.join(error.args[1])}")


def run(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_name_of_the_front_door_opens() -> None:
    run("import tatame_db; [getattr(tatame_db, name) for name in tatame_db.__all__]; from tatame_db import *")


@pytest.mark.parametrize(
    ("name", "loads_nothing_of"),
    [
        ("TatameError", {"sqlalchemy", "psycopg", "pydantic", "msgspec"}),
        ("Settings", {"msgspec", "alembic", "tatame_db.schema"}),
        ("Database", {"msgspec", "alembic", "starlette", "tatame_db.schema"}),
        ("query", {"alembic", "starlette", "httpx"}),
    ],
)
def test_a_name_of_the_front_door_loads_its_own_part_alone(name: str, loads_nothing_of: set[str]) -> None:
    loaded = run(f"import sys; from tatame_db import {name}; print(*sys.modules)")
    assert loads_nothing_of.isdisjoint(loaded)


def test_a_package_is_reached_as_an_attribute() -> None:
    assert run("import tatame_db; print(tatame_db.evolve.migrate.__name__)") == ["migrate"]


def test_a_name_that_the_package_lacks_is_an_attribute_error() -> None:
    assert run("import tatame_db; print(hasattr(tatame_db, 'databases'))") == ["False"]


# What the pages of the studio show is data; the routes and the web server are in other modules.
STUDIO_PAGES = "tables, filters, cells, rows, row, changes, export, transactions, errors"


@pytest.mark.parametrize(
    ("modules", "loads_nothing_of"),
    [
        (STUDIO_PAGES, {"starlette", "uvicorn", "httpx", "alembic", "tatame_db.move"}),
        (f"{STUDIO_PAGES}, overview, moves", {"starlette", "uvicorn"}),
    ],
)
def test_the_pages_of_the_studio_load_no_web_server(modules: str, loads_nothing_of: set[str]) -> None:
    loaded = run(
        f"import sys, tatame_db.studio.sql.sessions; from tatame_db.studio import {modules}; print(*sys.modules)"
    )
    assert loads_nothing_of.isdisjoint(loaded)


def test_threads_that_open_the_front_door_at_once_all_enter() -> None:
    assert run(
        "import tatame_db\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(32) as pool:\n"
        "    names = [*tatame_db.__all__, *tatame_db.__all__]\n"
        "    print(len(list(pool.map(lambda name: getattr(tatame_db, name), names))) == len(names))\n"
    ) == ["True"]


def test_the_engine_alone_of_the_queries_uses_libpq() -> None:
    uses = {name for name, path in MODULES.items() if re.search(r"\bpgconn\b|psycopg\.pq\b", path.read_text())}
    engine = f"{ROOT}.queries.engine."
    assert {name for name in uses if part(name) == "queries" and not name.startswith(engine)} == set()
