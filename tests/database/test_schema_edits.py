"""Each edit of the models leads to one schema and the same rows, by every way; or it is refused with the reason."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, MetaData, text
from tests.database.edits import EDITS, ROWS, Edit, models
from tests.database.scratches import shared_scratch
from tests.sharing import SharedScratch

from tatame_db import evolve, seed
from tatame_db.database.address import readable
from tatame_db.database.dialect import quoted
from tatame_db.database.pool import Database
from tatame_db.errors import TatameError
from tatame_db.evolve import catalogue, history
from tatame_db.evolve import models as schema_models
from tatame_db.server.embedded import EmbeddedServer
from tatame_db.testing.runs import Run

__all__ = ["shared_scratch"]


Picture = tuple[catalogue.Catalogue, dict[str, list[Any]]]


def picture(engine: Engine) -> Picture:
    """Return the schema of a database, and the values of each column in the order of the key."""
    with engine.connect() as connection:
        schema = catalogue.read(connection)
        values: dict[str, list[Any]] = {}
        for table in (found for found in schema.values() if found.kind == "table"):
            query = f"SELECT to_jsonb(t) FROM {table.handle.removeprefix('TABLE ')} t ORDER BY 1"
            for row in catalogue.run_verbatim(connection, query).scalars():
                for column, value in row.items():
                    values.setdefault(f"{table.name}.{column}", []).append(value)
        return schema, values


@dataclass(frozen=True)
class Workshop:
    """A history that ends with the tables of `edits`, and a seeded database at its head."""

    migrations: Path
    template: str
    before: Picture


@pytest.fixture(scope="module")
def workshop(
    _tatame_run: Run, shared_scratch: SharedScratch, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Workshop]:
    migrations = tmp_path_factory.mktemp("workshop") / "migrations"
    shutil.copytree(history.MIGRATIONS, migrations, ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        _use(patch, migrations, models())
        assert evolve.generate("plans and subscriptions")
        empty = _tatame_run.sandbox.create()
        with Database(empty) as database:
            evolve.migrate(database.engine)
        address = _tatame_run.sandbox.create(str(empty.database))
        with Database(address) as database:
            with database.engine.begin() as connection:
                seed.seed(connection, seed.SeedPlan(gyms=1, members=3, days=3))
                catalogue.run_verbatim(connection, ROWS)
            before = picture(database.engine)
    # The commands would run the same migrations for each edit, several times.
    shared_scratch.migrated.update(dict.fromkeys(("before", "migrations", "script"), str(empty.database)))
    yield Workshop(migrations, str(address.database), before)
    for database_address in (empty, address):
        _tatame_run.sandbox.drop(str(database_address.database))


def _use(patch: pytest.MonkeyPatch, migrations: Path, metadata: MetaData) -> None:
    patch.setattr(history, "MIGRATIONS", migrations)
    patch.setattr(schema_models, "metadata", lambda: metadata)
    # The models of a test are the same for all commands, and building them takes the longest.
    patch.setattr(schema_models, "build", cache(schema_models.build))


@dataclass(frozen=True)
class Bench:
    """The place of one test: copies of the seeded database, and the folder in which migrations are written."""

    edit: Edit
    before: Picture
    """The seeded database, as all copies are at first."""
    clone: Callable[[], Engine]
    versions: Path
    server: EmbeddedServer

    @property
    def answers(self) -> evolve.Answers:
        return evolve.Answers(self.edit.renames, self.edit.drops)

    def push(self, engine: Engine) -> list[str]:
        pushed = evolve.push(engine, self.answers, agree=lambda _: True)
        return pushed.losses if pushed else []


@pytest.fixture(params=EDITS, ids=lambda edit: edit.name)
def bench(
    request: pytest.FixtureRequest,
    workshop: Workshop,
    _tatame_run: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Generator[Bench]:
    """Edit the models; the clones are dropped at the end."""
    migrations = tmp_path / "migrations"
    shutil.copytree(workshop.migrations, migrations, ignore=shutil.ignore_patterns("__pycache__"))
    metadata = models()
    request.param.change(metadata)
    _use(monkeypatch, migrations, metadata)
    with contextlib.ExitStack() as stack:

        def clone() -> Engine:
            address = _tatame_run.sandbox.create(workshop.template)
            stack.callback(_tatame_run.sandbox.drop, str(address.database))
            return stack.enter_context(Database(address)).engine

        yield Bench(request.param, workshop.before, clone, migrations / "versions", _tatame_run.server)


def dump(engine: Engine, server: EmbeddedServer) -> list[str]:
    """Return what pg_dump says about the schema, a second opinion, without an order."""
    options = ["--schema-only", "--schema=public", "--no-owner", "--no-acl", "--dbname", _libpq(engine.url)]
    done = subprocess.run([server.program("pg_dump"), *options], check=True, capture_output=True, text=True)
    return sorted(
        line.rstrip(",")
        for line in done.stdout.splitlines()
        if not line.startswith(("--", "\\restrict", "\\unrestrict"))
    )


def run_script(engine: Engine, server: EmbeddedServer, script: str) -> None:
    """Run a script as a person would who is handed it."""
    options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname", _libpq(engine.url)]
    subprocess.run([server.program("psql"), *options], check=True, capture_output=True, text=True, input=script)


def _libpq(address: URL) -> str:
    return readable(address).replace("postgresql+psycopg://", "postgresql://")


def _assert_rows_kept(before: Picture, after: Picture, edit: Edit) -> None:
    """Compare the values of each column that has the same type, under its new name."""
    dropped = {f"{name}." for name in edit.drops} | {name.removesuffix("*") for name in edit.lost}
    for name, values in before[1].items():
        table, _, column = name.partition(".")
        new = f"{edit.renames.get(table, table)}.{edit.renames.get(name, column)}"
        found = after[0].get(f"column {new}")
        same = found and found.definition == before[0][f"column {name}"].definition
        if name in edit.kept or (same and not name.startswith(tuple(dropped))):
            assert _stays(values, after[1].get(new), edit), name


def _stays(before: Any, after: Any, edit: Edit) -> bool:
    """Compare a value with its successor, which may have other labels and more attributes."""
    if isinstance(before, list):
        return len(before) == len(after) and all(_stays(*pair, edit) for pair in zip(before, after, strict=True))
    if isinstance(before, dict) and isinstance(after, dict):
        names = {key: _new_name(key, "size", edit) for key in before}
        return all(name in after and _stays(before[key], after[name], edit) for key, name in names.items())
    if isinstance(before, str):
        return after in {_new_name(before, "plan_kind", edit), f"{before}+00:00"}
    return bool(after == before)


def _new_name(name: str, whole: str, edit: Edit) -> str:
    return edit.renames.get(f"{whole}.{name}", name)


def _assert_losses_named(before: Picture, after: Picture, losses: list[str], edit: Edit) -> None:
    """Each column whose values are not as before is named once by the push, or its table is."""
    assert len(set(losses)) == len(losses)
    for name, values in before[1].items():
        table, _, column = name.partition(".")
        table = edit.renames.get(table, table)
        new = f"{table}.{edit.renames.get(name, column)}"
        old, found = before[0][f"column {name}"], after[0].get(f"column {new}")
        derived = old.facts["generated"] and (found is None or found.facts["generated"])
        kept = found and _stays(values, after[1][new], edit)
        if not (derived or kept) and any(value is not None for value in values):
            named = (f"table {table} ", f"column {new} ", f"column {table}.{column} ")
            assert any(loss.startswith(named) for loss in losses), name


def _assert_new_rows_have_new_ids(engine: Engine, found: Picture) -> None:
    with engine.connect() as connection:
        for sequence in (each for each in found[0].values() if each.kind == "sequence" and each.table):
            number = connection.scalar(text("SELECT nextval(:name)"), {"name": quoted(sequence.name)})
            assert number not in found[1].get(f"{sequence.table}.{sequence.facts['column']}", []), sequence.name


def test_there_are_at_least_sixty_edits() -> None:
    assert len(EDITS) >= 60
    assert len({edit.name for edit in EDITS}) == len(EDITS)


def test_an_edit_leads_to_the_same_by_every_way(bench: Bench) -> None:
    engine, before = bench.clone(), bench.before
    if bench.edit.refused:
        _assert_refused(bench, engine, before)
        return
    written = evolve.generate(bench.edit.name, bench.answers)
    assert written
    assert evolve.generate("again") is None
    assert len(evolve.lint([written.path])) == 1
    if bench.edit.fails:
        _assert_undone(bench, engine, before)
        return

    evolve.migrate(engine)
    after = picture(engine)
    assert evolve.check(engine).failed == []
    _assert_rows_kept(before, after, bench.edit)
    dumped = dump(engine, bench.server)
    if bench.edit.stays:
        with pytest.raises(evolve.MigrationFailed, match=bench.edit.stays):
            evolve.rollback(engine)
        assert picture(engine) == after
    else:
        evolve.rollback(engine)
        back = picture(engine)
        assert catalogue.differences(before[0], back[0]) == []
        _assert_rows_kept(before, back, replace(bench.edit, renames={}, kept=frozenset()))
        evolve.migrate(engine)
        assert catalogue.differences(after[0], picture(engine)[0]) == []

    by_script, pushed = bench.clone(), bench.clone()
    run_script(by_script, bench.server, evolve.migration_sql(by_script))
    losses = bench.push(pushed)
    found_pushed = picture(pushed)
    _assert_losses_named(before, found_pushed, losses, bench.edit)
    for other, found in ((by_script, picture(by_script)), (pushed, found_pushed)):
        assert catalogue.differences(after[0], found[0]) == []
        assert found[1] == after[1]
        assert dump(other, bench.server) == dumped
        _assert_new_rows_have_new_ids(other, found)


def _assert_refused(bench: Bench, engine: Engine, before: Picture) -> None:
    """Nothing is written, and the way by hand is named."""
    files = list(bench.versions.glob("*.py"))
    with pytest.raises(TatameError, match=str(bench.edit.refused)) as caught:
        evolve.generate(bench.edit.name, bench.answers)
    assert "--empty" in str(caught.value) or "fix the model" in caught.value.fix
    assert list(bench.versions.glob("*.py")) == files
    with pytest.raises(TatameError, match=str(bench.edit.refused)):
        bench.push(engine)
    assert picture(engine) == before


def _assert_undone(bench: Bench, engine: Engine, before: Picture) -> None:
    """The rows do not allow the change, and nothing of it stays."""
    for run in (evolve.migrate, bench.push):
        with pytest.raises(TatameError, match=str(bench.edit.fails)) as caught:
            run(engine)
        assert "rolled back" in caught.value.means
        assert picture(engine) == before
