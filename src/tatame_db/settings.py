"""What we are told from outside: options, the environment and `.env`, read once."""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, unquote

from dotenv import find_dotenv
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from sqlalchemy import URL

from tatame_db.errors import NOTHING_CHANGED, TatameError

_DRIVERS = {"postgres", "postgresql", "postgresql+psycopg"}
_FLAG = "use_postgres_"


class SettingsInvalid(TatameError):
    """A variable has a value that means nothing to us."""

    def __init__(self, problems: dict[str, str]) -> None:
        self.problems = problems
        super().__init__(
            "; ".join(f"{name} {problem}" for name, problem in problems.items()),
            means=NOTHING_CHANGED,
            fix="mend it in the environment or in `.env`; `.env.example` shows every variable",
        )


class AddressInvalid(TatameError):
    """A database address cannot be read. The address is never repeated, for it may hold a password."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(
            f"the database address {problem}",
            means=NOTHING_CHANGED,
            fix="write it as `postgresql://user:password@host:5432/database`",
        )


def parse_address(text: str) -> URL:
    """Read a PostgreSQL address, also one whose password holds unescaped `%@:/#[`.

    Everything between the first colon of the user part and the last `@` before the options is the password. What
    looks like `%40` in it is decoded, as the standard says; a lone `%` stays. The result prints `***` for it.

    Raises `AddressInvalid`.
    """
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        raise AddressInvalid("has no `postgresql://` in front")
    if scheme.lower() not in _DRIVERS:
        raise AddressInvalid(f"is for {scheme!r}; only PostgreSQL is understood")
    # A `?` may be part of a password; one that is followed by `name=` or by nothing more starts the options.
    start = re.search(r"\?([a-z_]+=|[^@]*$)", rest)
    place, query = (rest[: start.start()], rest[start.start() + 1 :]) if start else (rest, "")
    user_part, _, place = place.rpartition("@")
    username, _, password = user_part.partition(":")
    hosts, _, database = place.partition("/")
    options = _options(query)
    host, port = _host_and_port(hosts)
    # What has a place of its own in an address goes there, the password first of all: only there it is never shown.
    named = {name: options.pop(name, "") for name in ("user", "password", "dbname")}
    if not (database or named["dbname"]):
        raise AddressInvalid("names no database")
    return URL.create(
        "postgresql+psycopg",
        username=unquote(username) or named["user"] or None,
        password=unquote(password) or named["password"] or None,
        host=host,
        port=port,
        database=unquote(database) or named["dbname"],
        query=options,
    )


def _options(query: str) -> dict[str, str]:
    # psycopg brings the C library that knows its own options; it is imported here, where an address is read.
    from psycopg import pq  # noqa: PLC0415

    defaults = pq.Conninfo.get_defaults()
    known = {option.keyword.decode() for option in defaults}
    # libpq marks what a dialog should show as stars.
    secrets = {option.keyword.decode() for option in defaults if option.dispchar == b"*"} - {"password"}
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise AddressInvalid("has something after `?` that is not `name=value`") from None
    unknown = sorted(set(options) - known)
    if unknown:
        raise AddressInvalid(f"has an option that PostgreSQL does not know: {', '.join(unknown)}")
    if secret := sorted(options.keys() & secrets):
        raise AddressInvalid(f"has a secret among its options, where it would be shown: {', '.join(secret)}")
    return options


def _host_and_port(hosts: str) -> tuple[str | None, int | None]:
    if hosts.startswith("["):
        host, bracket, port = hosts[1:].partition("]")
        if not bracket:
            raise AddressInvalid("has a `[` without its `]`")
        port = port.removeprefix(":")
    elif "," in hosts:
        raise AddressInvalid("names several hosts; name one")
    else:
        host, _, port = hosts.partition(":")
    if port and not (port.isdigit() and 0 < int(port) < 65536):
        raise AddressInvalid("has a port that is not a number from 1 to 65535")
    return unquote(host) or None, int(port) if port else None


def is_local(address: URL) -> bool:
    """Say whether an address leads to this machine: a socket, or a loopback name or number."""
    named = (address.query.get("hostaddr"), address.query.get("host"), address.host, os.environ.get("PGHOST"))
    host = str(next(filter(None, named), ""))
    if not host or host == "localhost" or host.startswith(("/", "@")):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _default_data_directory() -> Path:
    # The server does not run as root, and the user it runs as cannot enter root's home.
    if os.geteuid() == 0:
        return Path("/var/lib/tatame-db")
    share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(share) / "tatame-db"


class EnvFileUnreadable(TatameError):
    """The nearest `.env` is there and cannot be read."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(
            f"{file} cannot be read: {reason}",
            means=NOTHING_CHANGED,
            fix="mend the file (it is to be UTF-8, and yours to read), or move it away",
        )


class Settings(BaseSettings):
    """What the environment and the nearest `.env` say; frozen, and read at the faces only."""

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True, validate_default=True
    )

    database_url: SecretStr | None = None
    """Where the database is; without it, the embedded server."""
    test_database_url: SecretStr | None = None
    """Where tests may make and drop databases; without it, an embedded server of their own."""
    supabase_url: str | None = None
    supabase_rest_url: str | None = None
    """Where PostgREST is, if it is in no Supabase project."""
    supabase_anon_key: SecretStr | None = None
    supabase_service_role_key: SecretStr | None = None
    supabase_db_url: SecretStr | None = None
    use_postgres_default: bool = Field(default=False, validation_alias="use_postgres")
    use_postgres_tables: dict[str, bool] = Field(default_factory=dict, validation_alias="use_postgres_tables")
    environment: Literal["development", "test", "production"] = Field(
        default="development", validation_alias="tatame_env"
    )
    data_directory: Path = Field(default_factory=_default_data_directory, validation_alias="tatame_data_dir")
    """Where the embedded server keeps its files."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003, pydantic calls it so
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003, `.env` is looked for at each reading
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003, as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Add the flags of single tables, whose names are not fields, to what pydantic reads."""
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
        """Read the environment, then the nearest `.env` of this directory and its parents.

        Raises `SettingsInvalid`, `AddressInvalid`.
        """
        given: dict[str, Any] = {"database_url": database_url} if database_url else {}
        try:
            settings = cls(**given)
        except (UnicodeDecodeError, OSError) as error:
            reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror or str(error)
            raise EnvFileUnreadable(find_dotenv(usecwd=True), reason) from None
        except ValidationError as error:
            raise SettingsInvalid({_variable(part["loc"]): _in_words(part["msg"]) for part in error.errors()}) from None
        if settings.environment == "production" and settings.database_url is None:
            raise SettingsInvalid({"DATABASE_URL": "is not set, and TATAME_ENV=production has no default for it"})
        for table in settings.use_postgres_tables:
            settings.use_postgres(table)
        return settings

    @field_validator("data_directory")
    @classmethod
    def _same_from_everywhere(cls, directory: Path) -> Path:
        directory = directory.expanduser()
        if not directory.is_absolute():
            raise ValueError(f"is the relative path {directory}, which each working directory would take for another")
        return directory

    @property
    def address(self) -> URL | None:
        """The database that `DATABASE_URL` names, or `None` where the embedded one is meant."""
        return parse_address(self.database_url.get_secret_value()) if self.database_url else None

    def use_postgres(self, table: str) -> bool:
        """Say whether the app reads and writes this table here rather than in Supabase.

        Raises `SettingsInvalid` for a table that is not ours.
        """
        from tatame_db.schema import Base  # noqa: PLC0415, loads SQLAlchemy's ORM, which few readers of settings need

        if table not in Base.metadata.tables:
            raise SettingsInvalid({f"USE_POSTGRES_{table.upper()}": f"names no table of ours: {table}"})
        return self.use_postgres_tables.get(table, self.use_postgres_default)


def _variable(location: tuple[int | str, ...]) -> str:
    return "_".join(map(str, location)).upper().replace("USE_POSTGRES_TABLES", "USE_POSTGRES")


def _in_words(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should be", "should be")
