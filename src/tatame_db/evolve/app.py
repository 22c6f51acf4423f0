"""An app's own tables and migrations, which every command treats beside those of the package."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import configure_mappers

from tatame_db.errors import TatameError, fact
from tatame_db.evolve.user_code import place_of, problem_of
from tatame_db.schema import Base, is_of_package, load_modules, moved_tables, phases

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

# With 17 digits and an underscore, the 32 characters that Alembic's table has for a revision.
_PREFIX_LENGTH = 14
_REVISION = re.compile(r"(\D.*)_\d{14,17}")


@fact
class ModelsNotFound(TatameError):
    """A module with models of the app does not exist."""

    module: str
    root: str
    what = "there is no module {module!r} in {root} or among the installed packages"
    fix = (
        "name the module as in an import, such as `gymapi.models`, in `TATAME_MODELS` or in `[tool.tatame-db]` of"
        " `pyproject.toml`"
    )


@fact
class ModelsBroken(TatameError):
    """A module with models of the app raised an error when it was imported."""

    module: str
    place: str
    problem: str
    what = "the module {module} cannot be imported: {problem}, at {place}"
    fix = 'fix the module; `python -c "import {module}"` shows the whole traceback'


@fact
class ModelsWithoutTable(TatameError):
    """A module with models of the app defines no table."""

    module: str
    what = "the module {module} defines no table"
    fix = "derive its models from `tatame_db.schema.Base`, or name the module that defines them"


@fact
class TableNameTaken(TatameError):
    """The app defines a table that the package has."""

    module: str
    table: str
    what = "the module {module} defines the table {table}, which is a table of the package"
    fix = "choose another `__tablename__`; the model of the package is in `tatame_db.schema`"


@fact
class SequenceNameTaken(TatameError):
    """The app defines a table that has the name of a sequence of the package."""

    app: str
    table: str
    what = "{app} defines the table {table}, which is the name of a sequence of the package"
    fix = "choose another `__tablename__`"


@fact
class TablesOutsidePublic(TatameError):
    """A table of the app is in a schema of its own."""

    tables: list[str]
    what = "these tables name a schema: {tables}"
    fix = "remove `schema` from their `__table_args__`: the commands work in the schema `public`"


@fact
class AppMigrationsMissing(TatameError):
    """The folder of the app's migrations has none."""

    app: str
    folder: Path
    what = "{app} has no migrations: there are none in {folder}"
    fix = (
        'write the first one with `tatame-db generate "…"`, or correct `migrations` in `[tool.tatame-db]`, or'
        " `TATAME_MIGRATIONS`; an installed app needs the folder in its wheel"
    )


@dataclass(frozen=True)
class App:
    """The app whose models and migrations this process has loaded."""

    name: str
    """The first part of the name of its first module, as the revisions of its migrations begin."""
    migrations: Path
    """The folder of the migrations; they are in `versions`."""

    @property
    def versions(self) -> Path:
        """The folder of the files."""
        return self.migrations / "versions"

    def revision(self, number: str) -> str:
        """Return the revision of a new migration."""
        return f"{self.name[:_PREFIX_LENGTH]}_{number}"

    def owns(self, revision: str) -> bool:
        """Return whether a revision begins as those that `generate` gives to the app's migrations."""
        return app_of(revision) == self.name[:_PREFIX_LENGTH]


_loaded: list[App] = []


def loaded_app() -> App | None:
    """Return the app that `load_app` has loaded."""
    return _loaded[0] if _loaded else None


def app_of(revision: str) -> str | None:
    """Return the app to which a generated revision belongs; `None` for one of the package."""
    found = _REVISION.fullmatch(revision)
    return found[1] if found else None


def load_app(
    models: Sequence[str],
    migrations: Path | None = None,
    *,
    root: Path | None = None,
    may_be_new: bool = False,
) -> App:
    """Import an app's models and use its migrations in this process, beside those of the package.

    `models` are names of modules; all modules of a package are imported. `migrations` is the folder of the app's
    migrations, by default `migrations` beside the first module. `root` is put first on Python's search path. With
    `may_be_new`, the app may have no migration yet.

        >>> evolve.load_app(["gymapi.models"])
        App(name='gymapi', migrations=PosixPath('/srv/gymapi/migrations'))

    Raises `ModelsNotFound`, `ModelsBroken`, `ModelsWithoutTable`, `TableNameTaken`, `SequenceNameTaken`,
    `TablesOutsidePublic`, `AppMigrationsMissing`.
    """
    if root and str(root) not in sys.path:
        sys.path.insert(0, str(root))
        importlib.invalidate_caches()
    modules = [_load(name, root) for name in models]
    for module in modules:
        if not _defines_table(module):
            raise ModelsWithoutTable(module=module.__name__)
    if elsewhere := sorted(str(table) for table in Base.metadata.tables.values() if table.schema):
        raise TablesOutsidePublic(tables=elsewhere)
    name = models[0].partition(".")[0]
    for sequence in sorted(_sequences_of_package() & Base.metadata.tables.keys()):
        raise SequenceNameTaken(app=name, table=sequence)
    app = App(name, migrations or _folder(modules[0]) / "migrations")
    if not may_be_new and not any(app.versions.glob("*.py")):
        raise AppMigrationsMissing(app=app.name, folder=app.versions)
    _loaded[:] = [app]
    return app


def _load(name: str, root: Path | None) -> ModuleType:
    not_found = ModelsNotFound(module=name, root=str(root or Path.cwd()))
    if not all(part.isidentifier() for part in name.split(".")):
        raise not_found
    try:
        module = importlib.import_module(name)
        load_modules(module)
        configure_mappers()
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise not_found from None
        raise _broken(name, error) from error
    # A module may raise anything, and `sys.exit()` too.
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error
    return module


def _broken(module: str, error: BaseException) -> TatameError:
    # SQLAlchemy has no code for it.
    taken = re.match(r"Table '(\w+)' is already defined", str(error))
    if isinstance(error, InvalidRequestError) and taken and taken[1] in phases():
        return TableNameTaken(module=module, table=taken[1])
    return ModelsBroken(module=module, place=place_of(error) or module, problem=problem_of(error))


def _defines_table(module: ModuleType) -> bool:
    """Return whether a module or one below it defines or imports a table that is not one of the package."""
    below = f"{module.__name__}."
    found: list[object] = [
        mapper.local_table for mapper in Base.registry.mappers if f"{mapper.class_.__module__}.".startswith(below)
    ]
    found += [getattr(value, "__table__", value) for value in vars(module).values()]
    tables = [table for table in Base.metadata.tables.values() if not is_of_package(table)]
    return any(value is table for value in found for table in tables)


def _sequences_of_package() -> set[str]:
    """Return the names that PostgreSQL gives to the sequences of the package's tables, unless they are taken."""
    columns = [table.autoincrement_column for table in moved_tables()]
    return {f"{column.table.name}_{column.name}_seq" for column in columns if column is not None}


def _folder(module: ModuleType) -> Path:
    """Return the folder that a module or package is in."""
    if hasattr(module, "__path__"):
        return Path(next(iter(module.__path__))).parent
    return Path(str(module.__file__)).parent
