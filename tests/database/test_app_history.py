"""The migrations of the package and of an app in one history, and databases with migrations that the code lacks."""

from __future__ import annotations

import importlib
import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from tests.database.scratches import shared_scratch

from tatame_db import evolve
from tatame_db.evolve import history
from tatame_db.evolve.app import App
from tatame_db.evolve.generate import PackageInstalled
from tatame_db.evolve.history import AppNotLoaded, DatabaseAhead, DatabaseDiverged, TwoHeads

__all__ = ["shared_scratch"]

app_module = importlib.import_module("tatame_db.evolve.app")

HEAD = "20261123120000"
FIRST, SECOND, OTHER = (f"gymapi_2999010100000{number}" for number in (1, 2, 3))
NEXT = "29990101000000"

Write = Callable[..., Path]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Copy the migrations of the package, and load an app that has none yet."""
    package, app = tmp_path / "package", tmp_path / "100% app:1"
    shutil.copytree(history.MIGRATIONS, package)
    (app / "versions").mkdir(parents=True)
    monkeypatch.setattr(history, "MIGRATIONS", package)
    monkeypatch.setattr(app_module, "_loaded", [App("gymapi", app)])
    return package / "versions", app / "versions"


@pytest.fixture
def write(folders: tuple[Path, Path]) -> Write:
    """Write a migration that does nothing, of the app if its revision has a name."""

    def write(revision: str, after: str | None = None, needs: str | None = None) -> Path:
        file = folders["_" in revision] / f"{revision}.py"
        file.write_text(
            f'"""Step."""\n\nrevision = {revision!r}\ndown_revision = {after!r}\ndepends_on = {needs!r}\n\n\n'
            "def upgrade() -> None:\n    pass\n\n\ndef downgrade() -> None:\n    pass\n"
        )
        return file

    return write


def revisions(steps: list[evolve.MigrationStep]) -> list[str]:
    return [step.revision for step in steps]


def test_both_are_applied_in_one_run_in_the_order_that_they_need(bare_engine: Engine, write: Write) -> None:
    write(FIRST, needs=HEAD)
    assert revisions(evolve.migrate(bare_engine)) == [HEAD, FIRST]
    write(NEXT, HEAD)
    write(SECOND, FIRST, needs=NEXT)
    assert evolve.status(bare_engine).pending == [NEXT, SECOND]
    assert revisions(evolve.migrate(bare_engine)) == [NEXT, SECOND]
    assert evolve.status(bare_engine).revision == evolve.status(bare_engine).head == f"{NEXT}, {SECOND}"
    assert revisions(evolve.rollback(bare_engine, 3)) == [SECOND, NEXT, FIRST]
    assert evolve.status(bare_engine).revision == HEAD
    assert revisions(evolve.migrate(bare_engine, SECOND)) == [NEXT, FIRST, SECOND]


def test_a_migration_of_the_package_does_not_wait_for_the_app(bare_engine: Engine, write: Write) -> None:
    write(FIRST, needs=HEAD)
    evolve.migrate(bare_engine)
    write(NEXT, HEAD)
    assert revisions(evolve.migrate(bare_engine)) == [NEXT]
    assert revisions(evolve.rollback(bare_engine)) == [NEXT]
    assert evolve.status(bare_engine).revision == f"{HEAD}, {FIRST}"
    assert "UPDATE" not in evolve.migration_sql(bare_engine).split("COMMIT")[1]


def test_migrations_of_the_app_may_follow_those_of_the_package(bare_engine: Engine, write: Write) -> None:
    write(FIRST, after=HEAD)
    assert revisions(evolve.migrate(bare_engine)) == [HEAD, FIRST]
    assert evolve.status(bare_engine).revision == f"{HEAD}, {FIRST}"
    assert evolve.check(bare_engine).failed == []


def test_two_heads_of_the_app_are_joined_in_its_folder(
    bare_engine: Engine, write: Write, folders: tuple[Path, Path]
) -> None:
    write(FIRST, needs=HEAD)
    write(SECOND, FIRST)
    write(OTHER, FIRST)
    with pytest.raises(TwoHeads, match=f"{SECOND}.py, {OTHER}.py"):
        evolve.migrate(bare_engine)
    assert evolve.check(bare_engine).heads == [f"{SECOND}.py", f"{OTHER}.py"]
    joined = evolve.generate_merge("join")
    assert joined.path.parent == folders[1]
    assert revisions(evolve.migrate(bare_engine))[-1] == joined.revision
    assert revisions(evolve.rollback(bare_engine)) == [joined.revision]


def test_without_the_app_its_migrations_are_refused(
    bare_engine: Engine, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(FIRST, needs=HEAD)
    evolve.migrate(bare_engine)
    monkeypatch.setattr(app_module, "_loaded", [])
    with pytest.raises(AppNotLoaded, match=f"has migrations of gymapi, such as {FIRST}"):
        evolve.migrate(bare_engine)
    monkeypatch.setattr(app_module, "_loaded", [App("shop", Path("/nowhere"))])
    with pytest.raises(AppNotLoaded):
        evolve.status(bare_engine)


@pytest.mark.parametrize(("theirs", "here", "after"), [(NEXT, "29990101000009", HEAD), (SECOND, OTHER, FIRST)])
def test_a_database_of_another_branch_of_the_code_is_called_that(
    bare_engine: Engine, write: Write, theirs: str, here: str, after: str
) -> None:
    write(FIRST, needs=HEAD)
    file = write(theirs, after)
    evolve.migrate(bare_engine)
    file.unlink()
    write(here, after)
    with pytest.raises(
        DatabaseDiverged, match=f"it has {theirs}, which does not exist here, and lacks {here}"
    ) as found:
        evolve.migrate(bare_engine)
    assert "install" not in found.value.fix
    with bare_engine.connect() as connection:
        applied = connection.scalars(text("SELECT revision FROM tatame_migrations.applied")).all()
    assert set(applied) == {HEAD, FIRST, theirs}


@pytest.mark.parametrize("newest", [NEXT, SECOND])
def test_a_database_with_all_migrations_and_one_more_is_ahead(bare_engine: Engine, write: Write, newest: str) -> None:
    write(FIRST, needs=HEAD)
    file = write(newest, FIRST if newest == SECOND else HEAD)
    evolve.migrate(bare_engine)
    file.unlink()
    # A pending migration of the other branch of the history does not change that.
    write(*((NEXT, HEAD) if newest == SECOND else (SECOND, FIRST)))
    with pytest.raises(DatabaseAhead, match="does not exist in this checkout") as found:
        evolve.status(bare_engine)
    assert type(found.value) is DatabaseAhead
    assert f"git log --all -- '*{newest}*'" in found.value.fix


def test_no_migration_is_written_into_an_installed_app(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(sysconfig.get_path("purelib")) / "gymapi" / "migrations"
    monkeypatch.setattr(app_module, "_loaded", [App("gymapi", folder)])
    with pytest.raises(PackageInstalled, match=f"the migrations in {folder}/versions belong to an installed package"):
        evolve.generate_empty("add payments")
    assert not folder.exists()
