"""The settings: options, the environment and `.env`, read once."""

from __future__ import annotations

import os
import stat
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from dotenv import find_dotenv
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from tatame_db.database.address import parse_address, parse_setting
from tatame_db.database.options import (
    APPLICATION_NAME,
    CONNECT_TIMEOUT_SECONDS,
    POOL_SIZE,
    POOL_TIMEOUT_SECONDS,
    DatabaseOptions,
    option_problem,
)
from tatame_db.errors import TatameError, fact

if TYPE_CHECKING:
    from sqlalchemy import URL

SLOW_STATEMENT_MS = 1_000
DATABASE_OPTIONS = (
    "pool_size",
    "pool_timeout_seconds",
    "statement_timeout_ms",
    "connect_timeout_seconds",
    "application_name",
    "slow_statement_ms",
)
_FLAG = "use_postgres_"


@fact
class SettingsInvalid(TatameError):
    """Variables have values that cannot be used."""

    problems: dict[str, str]
    what = "{variables_with_problems}"
    fix = "correct it in the environment or in `.env`; `.env.example` lists every variable"

    @property
    def variables_with_problems(self) -> str:
        """Each variable and its problem."""
        return "; ".join(f"{name} {problem}" for name, problem in self.problems.items())


@fact
class EnvFileUnreadable(TatameError):
    """The nearest `.env` exists and cannot be read."""

    file: str
    reason: str
    what = "cannot read {file}: {reason}"
    fix = "make it a UTF-8 file that you can read, or remove it"


@fact
class ProjectFileInvalid(TatameError):
    """The table `[tool.tatame-db]` of the nearest `pyproject.toml` cannot be used."""

    file: Path
    problem: str
    what = "{file}: {problem}"
    fix = 'write `models = ["gymapi.models"]`, and if needed `migrations = "gymapi/migrations"`, in `[tool.tatame-db]`'


@dataclass(frozen=True)
class AppSettings:
    """The models and migrations of an app, as `evolve.load_app` takes them."""

    models: list[str]
    """The modules with the models."""
    migrations: Path | None
    """The folder of the migrations; by default `migrations` beside the first module."""
    root: Path
    """The folder of `pyproject.toml`, or without one the working directory: from here, modules are imported."""


def _default_data_directory() -> Path:
    share = os.environ.get("XDG_DATA_HOME")
    if os.geteuid() == 0 and (not share or unusable_data_home()):
        return Path("/var/lib/tatame-db")
    return Path(share or Path.home() / ".local" / "share") / "tatame-db"


def unusable_data_home() -> str | None:
    """Return the value of `XDG_DATA_HOME` if root's server, which runs as another user, cannot enter it."""
    share = os.environ.get("XDG_DATA_HOME")
    if os.geteuid() != 0 or not share:
        return None
    directories = (parent for parent in [Path(share), *Path(share).parents] if parent.exists())
    return None if all(directory.stat().st_mode & stat.S_IXOTH for directory in directories) else share


class Settings(BaseSettings):
    """The variables of the environment and the nearest `.env`; frozen. Only the edges of the package read them."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True, validate_default=True
    )

    database_url: SecretStr | None = None
    """The address of the database; without one, the embedded server is used."""
    database_replica_url: SecretStr | None = None
    """The address of a standby of it, or of several as hosts in one address, for reads by `db.replica`."""
    test_database_url: SecretStr | None = None
    """A server where tests may create and drop databases; without one, tests start an embedded server."""
    supabase_url: str | None = None
    supabase_rest_url: str | None = None
    """The address of a PostgREST outside the Supabase project."""
    supabase_proxy: SecretStr | None = None
    """The only proxy through which a project is read over REST."""
    supabase_anon_key: SecretStr | None = None
    supabase_service_role_key: SecretStr | None = None
    supabase_db_url: SecretStr | None = None
    use_postgres_default: bool = Field(default=False, validation_alias="use_postgres")
    use_postgres_tables: dict[str, bool] = Field(default_factory=dict, validation_alias="use_postgres_tables")
    environment: Literal["development", "test", "production"] = Field(
        default="development", validation_alias="tatame_env"
    )
    models: str | None = Field(default=None, validation_alias="tatame_models")
    migrations: Path | None = Field(default=None, validation_alias="tatame_migrations")
    data_directory: Path = Field(default_factory=_default_data_directory, validation_alias="tatame_data_dir")
    """The directory of the embedded server's files."""
    backup_directory: Path | None = Field(default=None, validation_alias="tatame_backup_dir")
    """The folder of the backups, for `backup`, `backups`, `restore` and the doctor."""
    pool_size: int = Field(default=POOL_SIZE, validation_alias="tatame_pool_size")
    pool_timeout_seconds: float = Field(default=POOL_TIMEOUT_SECONDS, validation_alias="tatame_pool_timeout_seconds")
    statement_timeout_ms: int | None = Field(default=None, validation_alias="tatame_statement_timeout_ms")
    connect_timeout_seconds: int = Field(
        default=CONNECT_TIMEOUT_SECONDS, validation_alias="tatame_connect_timeout_seconds"
    )
    application_name: str = Field(default=APPLICATION_NAME, validation_alias="tatame_application_name")
    slow_statement_ms: int = Field(default=SLOW_STATEMENT_MS, validation_alias="tatame_slow_statement_ms")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003, the name is pydantic's
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003, `.env` is searched for at each reading
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003, as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Add the flags of single tables, whose names are no fields, to the sources of pydantic."""
        environment = EnvSettingsSource(settings_cls)
        dotenv = DotEnvSettingsSource(settings_cls, env_file=find_dotenv(usecwd=True) or None)
        variables = {**dotenv.env_vars, **environment.env_vars}
        flags = {
            name.removeprefix(_FLAG): value for name, value in variables.items() if name.startswith(_FLAG) and value
        }
        tables = InitSettingsSource(settings_cls, {"use_postgres_tables": flags} if flags else {})
        return init_settings, tables, environment, dotenv

    @classmethod
    def from_env(cls, *, database_url: str | None = None) -> Self:
        """Read the environment, and the nearest `.env` in the working directory and its parents.

        `database_url` is the option of a command and comes before both.

        Raises `SettingsInvalid`, `EnvFileUnreadable`.
        """
        options: dict[str, Any] = {"database_url": database_url} if database_url else {}
        try:
            settings = cls(**options)
        except (UnicodeDecodeError, OSError) as error:
            reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or str(error)
            raise EnvFileUnreadable(file=find_dotenv(usecwd=True), reason=reason) from None
        except ValidationError as error:
            problems = {_variable(part["loc"]): _problem(part["msg"]) for part in error.errors()}
            raise SettingsInvalid(problems=problems) from None
        if settings.environment == "production" and settings.database_url is None:
            raise SettingsInvalid(problems={"DATABASE_URL": "is not set; TATAME_ENV=production requires it"})
        for table in settings.use_postgres_tables:
            settings.use_postgres(table)
        return settings

    @field_validator("data_directory", "backup_directory")
    @classmethod
    def _same_from_everywhere(cls, directory: Path | None) -> Path | None:
        if directory is None:
            return None
        directory = directory.expanduser()
        if not directory.is_absolute():
            raise ValueError(f"is the relative path {directory}; write an absolute one")
        return directory

    @field_validator(*DATABASE_OPTIONS)
    @classmethod
    def _usable(cls, value: Any, info: ValidationInfo) -> Any:
        if problem := option_problem(str(info.field_name), value):
            raise ValueError(problem)
        return value

    @property
    def database_options(self) -> DatabaseOptions:
        """The options of `Database` and `AsyncDatabase`. Statements are logged in development."""
        options = {name: getattr(self, name) for name in DATABASE_OPTIONS}
        return cast("DatabaseOptions", options | {"log_statements": self.environment == "development"})

    @property
    def address(self) -> URL | None:
        """The database in `DATABASE_URL`, or `None` for the embedded server. Raises `AddressInvalid`."""
        return parse_address(self.database_url.get_secret_value()) if self.database_url else None

    @property
    def replica_address(self) -> URL | None:
        """The standbys in `DATABASE_REPLICA_URL`, or `None`. Raises `AddressInvalid`."""
        return _address("DATABASE_REPLICA_URL", self.database_replica_url)

    @property
    def source_address(self) -> URL | None:
        """The PostgreSQL of the project in `SUPABASE_DB_URL`, or `None`. Raises `AddressInvalid`."""
        return _address("SUPABASE_DB_URL", self.supabase_db_url)

    @cached_property
    def app(self) -> AppSettings | None:
        """The app whose tables the commands treat beside those of the package; `None` without one.

        The variables `TATAME_MODELS` and `TATAME_MIGRATIONS` come before the table `[tool.tatame-db]` of the nearest
        `pyproject.toml` that has one. Raises `ProjectFileInvalid`.
        """
        file, table = _nearest_project()
        root = file.parent if file else Path.cwd()
        models = self.models.split(",") if self.models else table.get("models", [])
        migrations = Path.cwd() / self.migrations.expanduser() if self.migrations else None
        if migrations is None and "migrations" in table:
            migrations = root / Path(table["migrations"]).expanduser()
        names = [name.strip() for name in models if name.strip()]
        return AppSettings(names, migrations, root) if names else None

    def use_postgres(self, table: str) -> bool:
        """Return whether the app reads and writes a table in PostgreSQL rather than in Supabase.

        Raises `SettingsInvalid` for an unknown table.
        """
        from tatame_db.schema import Base  # noqa: PLC0415, loads SQLAlchemy's ORM, which most readers of settings do not need

        if table not in Base.metadata.tables:
            raise SettingsInvalid(problems={f"USE_POSTGRES_{table.upper()}": f"names an unknown table: {table}"})
        return self.use_postgres_tables.get(table, self.use_postgres_default)


def _address(variable: str, text: SecretStr | None) -> URL | None:
    return parse_setting(variable, text.get_secret_value()) if text else None


def _nearest_project() -> tuple[Path | None, dict[str, Any]]:
    """Return the nearest `pyproject.toml` with `[tool.tatame-db]`, and this table. Raises `ProjectFileInvalid`."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        file = folder / "pyproject.toml"
        try:
            text = file.read_text(encoding="utf-8")
            # A file of another project is not this package's to judge.
            table = _table(text) if "tatame-db" in text else None
        except tomllib.TOMLDecodeError as error:
            raise ProjectFileInvalid(file=file, problem=f"it is not valid TOML: {error}") from None
        except (OSError, UnicodeDecodeError):
            continue
        if table is not None:
            return file, _valid_table(file, table)
    return None, {}


def _table(text: str) -> object:
    tool: object = tomllib.loads(text).get("tool")
    return cast("dict[str, object]", tool).get("tatame-db") if isinstance(tool, dict) else None


def _valid_table(file: Path, table: object) -> dict[str, Any]:
    try:
        return _ProjectTable.model_validate(table).model_dump(exclude_none=True)
    except ValidationError as error:
        problems = "; ".join(f"`{'.'.join(map(str, part['loc']))}`: {part['msg']}" for part in error.errors())
        raise ProjectFileInvalid(file=file, problem=problems) from None


class _ProjectTable(BaseModel):
    """The table `[tool.tatame-db]`."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    models: list[str] = Field(min_length=1)
    migrations: str | None = None


def _variable(location: tuple[int | str, ...]) -> str:
    return "_".join(map(str, location)).upper().replace("USE_POSTGRES_TABLES", "USE_POSTGRES")


def _problem(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should be", "should be")
